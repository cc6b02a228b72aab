//! How a socket with a path comes to be: bound to a temporary name, made ready, and renamed into
//! place, so that who connects finds either nothing or a socket that listens.

use rustix::{
    fs::{Gid, Mode, Uid},
    io::{Errno, fcntl_dupfd_cloexec},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen as start,
        socket_with,
    },
    process::{Resource, getrlimit},
};
use std::{
    io,
    os::{fd::OwnedFd, unix::fs::FileTypeExt as _},
    path::{Path, PathBuf},
};
use tokio::net::UnixListener;

/// Owner and group: the VMM runs as either.
const MODE: u16 = 0o660;
// One VMM is served and others are turned away at once: few ever wait.
const BACKLOG: i32 = 8;
/// Listeners get descriptors from here up, where the limit of open files allows it, above every
/// connection's: a process that is killed closes its highest descriptors first, and a VMM that sees
/// its connection end must not find a listener that still accepts.
const LISTENER_FDS: i32 = 1 << 16;

/// Who may open a socket: what is absent is the daemon's own user and group, and 0660.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Access {
    /// The number of the user who owns it.
    pub owner: Option<u32>,
    /// The number of the group that owns it.
    pub group: Option<u32>,
    /// Its permissions.
    pub mode: Option<u16>,
}

/// Where nobody says anything.
pub(super) const DEFAULT: Access = Access { owner: None, group: None, mode: Some(MODE) };

impl Access {
    /// This, and `other` where this does not say.
    pub(in crate::dataplane) fn or(self, other: Self) -> Self {
        Self {
            owner: self.owner.or(other.owner),
            group: self.group.or(other.group),
            mode: self.mode.or(other.mode),
        }
    }

    /// Sets who may open the socket at `path`. What fails leaves it as it was.
    pub(in crate::dataplane) fn apply(self, path: &Path) -> io::Result<()> {
        // First, since a new socket is not open to groups and others before the next call.
        if self.owner.is_some() || self.group.is_some() {
            let (owner, group) = (self.owner.map(Uid::from_raw), self.group.map(Gid::from_raw));
            rustix::fs::chown(path, owner, group)?;
        }
        let mode = Mode::from_raw_mode(self.mode.unwrap_or(MODE).into());
        Ok(rustix::fs::chmod(path, mode)?)
    }
}

/// Octets of the longest path a socket can have here (`sun_path`, less the terminator and the
/// temporary name's).
pub const fn longest_socket_path() -> usize {
    // Of 108 octets of `sun_path` (unix(7)) the last is 0.
    107 - TEMPORARY.len()
}

const TEMPORARY: &str = ".tmp";

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY);
    name.into()
}

/// A socket that listens at `path`, replacing whatever was there.
pub(in crate::dataplane) fn listen(path: &Path, access: Access) -> io::Result<UnixListener> {
    UnixListener::from_std(listen_aside(path, access, SocketType::STREAM, BACKLOG)?.into())
}

/// A socket of a kind that listens at `path`, replacing whatever was there. It does not block.
pub(super) fn listen_aside(
    path: &Path,
    access: Access,
    kind: SocketType,
    backlog: i32,
) -> io::Result<OwnedFd> {
    let listens = |socket: OwnedFd| {
        start(&socket, backlog)?;
        Ok(raise(socket))
    };
    aside(path, access, kind, listens)
}

/// A socket of datagrams at `path`, as [`listen_aside`].
pub(super) fn bind_aside(path: &Path, access: Access, kind: SocketType) -> io::Result<OwnedFd> {
    aside(path, access, kind, Ok)
}

fn aside(
    path: &Path,
    access: Access,
    kind: SocketType,
    ready: impl FnOnce(OwnedFd) -> io::Result<OwnedFd>,
) -> io::Result<OwnedFd> {
    let temporary = temporary(path);
    // Left by a daemon that was killed in between: bind(2) replaces nothing.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(&temporary)?)?;
    // Before it has its name: nobody finds a socket with rights that it is not to have.
    access.apply(&temporary)?;
    let socket = ready(socket)?;
    // Replaces the old one in one step: at no time is there none (rename(2)).
    std::fs::rename(&temporary, path)?;
    Ok(socket)
}

/// Refuses a path at which there is something else than a socket that nobody serves any more.
pub(super) fn refuse_live(path: &Path, kind: SocketType) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
    let in_use = |why: &str| {
        let text = format!("{} is in use: {why}", path.display());
        Err(io::Error::new(io::ErrorKind::AddrInUse, text))
    };
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::AGAIN) => in_use("somebody serves that socket"),
        // One of another type is served, too: this one cannot be told from a dead one otherwise.
        Err(Errno::PROTOTYPE) => in_use("it is a socket of another type"),
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::CONNREFUSED) if is_socket(path)? => Ok(()),
        Err(Errno::CONNREFUSED) => in_use("it is no socket"),
        Err(errno) => Err(errno.into()),
    }
}

fn is_socket(path: &Path) -> io::Result<bool> {
    Ok(std::fs::symlink_metadata(path)?.file_type().is_socket())
}

/// The same socket on a high descriptor; where there is no room for that, as it was.
pub(in crate::dataplane) fn raise(socket: OwnedFd) -> OwnedFd {
    match fcntl_dupfd_cloexec(&socket, first_listener(open_files())) {
        Ok(raised) => raised,
        Err(error) => {
            // Once a vNIC at most.
            tracing::warn!(
                %error,
                "too few open files: VMMs may not come back after a crash (LimitNOFILE=, ulimit -n)"
            );
            socket
        }
    }
}

/// How many listeners there is room for above all connections.
pub fn room_for_listeners() -> u64 {
    let files = open_files();
    files - u64::from(first_listener(files).cast_unsigned()).min(files)
}

/// The lowest descriptor of a listener. Connections have several descriptors each, listeners one:
/// three quarters of a low limit are theirs.
fn first_listener(files: u64) -> i32 {
    // Divided first, since the limit may be as large as a number can be.
    i32::try_from(files / 4 * 3).unwrap_or(LISTENER_FDS).min(LISTENER_FDS)
}

/// The limit of open files.
fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_as_high_as_the_limit_allows() {
        for (files, first) in [
            (1024, 768),
            (4096, 3072),
            (65535, 49149),
            (65536, 49152),
            (1 << 20, 1 << 16),
            (u64::MAX, 1 << 16),
        ] {
            assert_eq!(first_listener(files), first, "of {files}");
        }
    }
}
