//! How a socket with a path comes to be: bound to a temporary name, made ready, and renamed into
//! place, so that who connects finds either nothing or a socket that listens.

use super::folder::Place;
use rustix::{
    io::fcntl_dupfd_cloexec,
    net::{SocketType, listen as start},
    process::{Resource, getrlimit},
};
use std::{io, os::fd::OwnedFd};
use tokio::net::UnixListener;

pub use super::folder::Access;
pub(super) use super::folder::DEFAULT;

// One VMM is served and others are turned away at once: few ever wait.
const BACKLOG: i32 = 8;
/// Listeners get descriptors from here up, where the limit of open files allows it, above every
/// connection's: a process that is killed closes its highest descriptors first, and a VMM that sees
/// its connection end must not find a listener that still accepts.
const LISTENER_FDS: i32 = 1 << 16;

/// Octets of the longest path a socket can have here.
pub const fn longest_socket_path() -> usize {
    // Of 108 octets of `sun_path` (unix(7)) the last is 0. Four are left for a longer name beside
    // it: `.guest` is longer than `.sock`.
    107 - 4
}

/// A socket that listens at `place`, replacing one that nobody serves any more.
pub(in crate::dataplane::endpoint) fn listen(
    place: &Place,
    access: Access,
) -> io::Result<UnixListener> {
    place.refuse_live(SocketType::STREAM)?;
    UnixListener::from_std(listen_aside(place, access, SocketType::STREAM, BACKLOG)?.into())
}

/// A socket of a kind that listens at `place`, replacing whatever was there. It does not block.
pub(super) fn listen_aside(
    place: &Place,
    access: Access,
    kind: SocketType,
    backlog: i32,
) -> io::Result<OwnedFd> {
    place.make(access, kind, |socket| {
        start(&socket, backlog)?;
        Ok(raise(socket))
    })
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
    listeners_of(open_files())
}

/// Likewise, where so many files may be open.
pub fn listeners_of(files: u64) -> u64 {
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
