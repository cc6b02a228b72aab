//! VDE's switches and plugs (`wire/vde.rs`): a stream socket by which a client comes and goes, and
//! a datagram socket each for frames.
//!
//! `switch` serves a directory to clients, each of whom is a port; `single` serves one to the guest
//! of a vNIC; `plug` is a client of somebody's directory.
//!
//! Either side names its datagram socket, and the other connects to it, maybe with more rights than
//! the one who named it has. So a named socket is opened once, looked at, and has to belong to who
//! named it; what is connected to is what was looked at, whatever the name has become meanwhile.

pub mod plug;
pub(super) mod single;
pub mod switch;

use super::listener::Access;
use crate::wire::vde::{MAX_REQUEST, Named, SocketName};
use rustix::{
    fs::{FileType, Mode, OFlags, fstat, open},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, socket_with,
        sockopt::socket_peercred,
    },
    process::geteuid,
};
use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::UnixStream;

/// How long the other side may take for its part of the exchange.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Octets that may come on a control connection after request and reply. There is nothing to say,
/// but a library may send a description by itself.
const AFTERWARDS: usize = MAX_REQUEST;

/// A file that is a socket of ours, until dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Whose directory it is may have taken it away.
        std::fs::remove_file(&self.0).ok();
    }
}

impl SocketFile {
    /// Binds `socket` to `path`, which nothing is at.
    fn bind(socket: &OwnedFd, path: PathBuf) -> io::Result<Self> {
        bind(socket, &SocketAddrUnix::new(&path)?)?;
        Ok(Self(path))
    }
}

fn datagram_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?)
}

/// Connects `socket` to the one that who is at the other end of `control` has named.
fn connect_named(socket: &OwnedFd, name: &SocketName, control: impl AsFd) -> io::Result<()> {
    let refuse = |why| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    match name.named() {
        Some(Named::Path(path)) if path.starts_with(b"/") => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = open(Path::new(OsStr::from_bytes(path)), flags, Mode::empty())?;
            let found = fstat(&file)?;
            if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
                return refuse("what it named is no socket");
            }
            let by = socket_peercred(control)?.uid;
            if found.st_uid != by.as_raw() && !by.is_root() {
                return refuse("the socket that it named is another user's");
            }
            let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
            Ok(connect(socket, &SocketAddrUnix::new(opened)?)?)
        }
        // No file: nobody has rights to it that others have not.
        Some(Named::Abstract(name)) => {
            Ok(connect(socket, &SocketAddrUnix::new_abstract_name(name)?)?)
        }
        // Where it begins is another's working directory.
        Some(Named::Path(_)) | None => refuse("the path that it named does not begin with `/`"),
    }
}

/// Lets the user of number `by` use a socket's file, which gives way to others by `access`.
fn share(file: &OwnedFd, by: u32, access: Access) -> io::Result<()> {
    // Only root can give files away; all others have to say who may use them by groups and modes.
    let owner = geteuid().is_root().then_some(by);
    Access { owner, ..access }.apply_to(file)
}

/// What comes in one read.
async fn read(control: &UnixStream, octets: &mut [u8]) -> io::Result<usize> {
    loop {
        control.readable().await?;
        match control.try_read(octets) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            outcome => return outcome,
        }
    }
}

/// Returns once the other side of a control connection is gone, or says what it should not.
async fn unplugged(control: &UnixStream) {
    let mut said = 0;
    let mut octets = [0; 64];
    while let Ok(len @ 1..) = read(control, &mut octets).await {
        said += len;
        if said > AFTERWARDS {
            return;
        }
    }
}
