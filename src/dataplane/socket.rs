//! How a vNIC's socket comes to be: bound to a temporary name, made ready, and renamed into place, so that a VMM
//! that connects finds either nothing or a socket that listens.

use rustix::{
    fs::Mode,
    io::fcntl_dupfd_cloexec,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen as start, socket_with,
    },
};
use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};
use tokio::net::UnixListener;

/// Owner and group: the VMM runs as either.
const MODE: Mode = Mode::from_raw_mode(0o660);
const BACKLOG: i32 = 8;
/// Listeners get descriptors from here up, above every connection's: a process that is killed closes its descriptors
/// in order, and a VMM that sees its connection end must not find a listener that still accepts.
const LISTENER_FDS: i32 = 1 << 16;

/// Octets of the longest path a socket can have here (`sun_path`, less the terminator and the temporary name's).
pub const fn longest_socket_path() -> usize {
    107 - TEMPORARY.len()
}

const TEMPORARY: &str = ".tmp";

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY);
    name.into()
}

/// A socket that listens at `path`, replacing whatever was there.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    let temporary = temporary(path);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(&temporary)?)?;
    rustix::fs::chmod(&temporary, MODE)?;
    start(&socket, BACKLOG)?;
    let listener = raise(socket);
    std::fs::rename(&temporary, path)?;
    UnixListener::from_std(listener.into())
}

/// The same socket on a high descriptor; where the limit of open files is too low for that, as it was.
pub(super) fn raise(socket: OwnedFd) -> OwnedFd {
    match fcntl_dupfd_cloexec(&socket, LISTENER_FDS) {
        Ok(raised) => raised,
        Err(error) => {
            tracing::debug!(%error, "a listener keeps a low descriptor: the limit of open files is below {LISTENER_FDS}");
            socket
        }
    }
}
