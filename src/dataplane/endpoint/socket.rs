//! Sockets that carry frames: how they are opened, and what each connection is as a port.

use super::{
    connection,
    folder::{Roots, opened},
    listener::{self, Access},
};
use crate::{
    dataplane::port::{
        Port,
        datagram::{Datagrams, Peer},
        descriptor::DescriptorPort,
        rest::Rest,
        stream::Stream,
    },
    locator::{Host, HostPort},
};
use rustix::{
    fs::OFlags,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, getpeername, listen,
        socket_with,
        sockopt::{
            set_ipv6_v6only, set_socket_keepalive, set_socket_reuseaddr,
            set_socket_send_buffer_size, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl,
            set_tcp_nodelay, socket_domain, socket_peercred,
        },
    },
};
use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

pub use crate::dataplane::port::stream::Prefix;

/// Connections that wait to be accepted.
pub(super) const BACKLOG: i32 = 128;
/// How long the other end may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Octets that may be on their way.
// Some milliseconds of 1 Gbit/s: a reader that pauses for less holds up nobody.
const SEND_BUFFER: usize = 1 << 20;
/// A peer that says nothing is asked after so long, each interval, and given up after so many.
// One whose host is gone is no member for longer than a minute.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// Where a socket listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// At a path.
    Unix(PathBuf),
    /// By TCP.
    Tcp(SocketAddr),
}

/// How a connection carries frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Each message of a packet socket is a frame.
    Packets,
    /// In a stream, each frame has its length before it.
    Stream(Prefix),
}

impl Framing {
    fn socket_type(self) -> SocketType {
        match self {
            Self::Packets => SocketType::SEQPACKET,
            Self::Stream(_) => SocketType::STREAM,
        }
    }

    /// Returns a port of a connected socket.
    pub(super) fn port(self, socket: OwnedFd) -> io::Result<Box<dyn Port>> {
        if let Self::Stream(_) = self {
            tune(&socket)?;
        }
        self.restore(socket, &Rest::default())
    }

    /// Returns a port that goes on with one of another process of the daemon.
    fn restore(self, socket: OwnedFd, rest: &Rest) -> io::Result<Box<dyn Port>> {
        Ok(match self {
            Self::Packets => {
                let transport = Datagrams::new(socket, Peer::Session);
                Box::new(DescriptorPort::with_frames(transport, &rest.frames)?)
            }
            Self::Stream(prefix) => {
                let transport = Stream::with(socket, prefix, rest);
                Box::new(DescriptorPort::with_frames(transport, &rest.frames)?)
            }
        })
    }

    /// Returns a port that goes on with what another process exported, if that was connected.
    pub(super) fn import(self, fds: Vec<OwnedFd>) -> io::Result<Option<Box<dyn Port>>> {
        match connection::saved(fds, 1)? {
            Some((mut fds, rest)) => self.restore(fds.remove(0), &rest).map(Some),
            None => Ok(None),
        }
    }
}

/// Returns a socket that listens, which replaces one at its path that nobody serves any more.
pub(super) fn listen_at(
    address: &Address,
    framing: Framing,
    access: Access,
    roots: &Roots,
) -> io::Result<OwnedFd> {
    match address {
        Address::Unix(path) => {
            let (place, kind) = (roots.place(path)?, framing.socket_type());
            place.refuse_live(kind)?;
            listener::listen_aside(&place, access, kind, BACKLOG)
        }
        Address::Tcp(address) => listen_tcp(address),
    }
}

/// Returns a socket that listens by TCP.
pub(super) fn listen_tcp(address: &SocketAddr) -> io::Result<OwnedFd> {
    let socket = inet(address, SocketType::STREAM)?;
    // Connections of a daemon that has ended keep nobody from listening (TIME_WAIT).
    set_socket_reuseaddr(&socket, true)?;
    bind(&socket, address).map_err(|errno| at(errno, address))?;
    listen(&socket, BACKLOG).map_err(|errno| at(errno, address))?;
    Ok(socket)
}

/// Returns a socket of the family of `address`.
pub(super) fn inet(address: &SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    match address {
        SocketAddr::V4(_) => Ok(socket_with(AddressFamily::INET, kind, flags, None)?),
        SocketAddr::V6(_) => {
            let socket = socket_with(AddressFamily::INET6, kind, flags, None)?;
            // The same whatever net.ipv6.bindv6only says: IPv4 is another address.
            set_ipv6_v6only(&socket, true)?;
            Ok(socket)
        }
    }
}

/// Says with an error which address it is of.
pub(super) fn at(error: impl Into<io::Error>, address: impl std::fmt::Display) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{address}: {error}"))
}

/// Connects by TCP.
pub(super) async fn connect_tcp(to: &HostPort) -> io::Result<OwnedFd> {
    let stream = match &to.host {
        Host::Address(address) => {
            timeout(CONNECT_TIMEOUT, TcpStream::connect((*address, to.port))).await
        }
        Host::Name(name) => timeout(CONNECT_TIMEOUT, TcpStream::connect((&**name, to.port))).await,
    };
    let stream = stream.map_err(|_| io::ErrorKind::TimedOut)?.map_err(|error| at(error, to))?;
    Ok(stream.into_std()?.into())
}

/// Connects to the socket at a path.
pub(super) async fn connect_unix(
    path: &Path,
    framing: Framing,
    roots: &Roots,
) -> io::Result<OwnedFd> {
    let of_path = |error: io::Error| at(error, path.display());
    // What was looked at, whatever has its name meanwhile.
    let file = roots.open(path, OFlags::empty()).map_err(of_path)?;
    let path = opened(&file);
    match framing {
        Framing::Stream(_) => {
            let stream = timeout(CONNECT_TIMEOUT, UnixStream::connect(path)).await;
            let stream = stream.map_err(|_| io::ErrorKind::TimedOut)?.map_err(of_path)?;
            Ok(stream.into_std()?.into())
        }
        Framing::Packets => {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            // At once, or never: where too many wait already, it fails.
            connect(&socket, &SocketAddrUnix::new(path)?).map_err(|errno| of_path(errno.into()))?;
            Ok(socket)
        }
    }
}

/// Prepares a stream socket for frames.
fn tune(socket: &OwnedFd) -> io::Result<()> {
    set_socket_send_buffer_size(socket, SEND_BUFFER)?;
    if socket_domain(socket)? != AddressFamily::UNIX {
        // Each write is a burst: nothing that could be joined to it comes soon.
        set_tcp_nodelay(socket, true)?;
        let (idle, interval, count) = KEEPALIVE;
        set_socket_keepalive(socket, true)?;
        set_tcp_keepidle(socket, idle)?;
        set_tcp_keepintvl(socket, interval)?;
        set_tcp_keepcnt(socket, count)?;
    }
    Ok(())
}

/// Returns who is at the other end of a connected socket.
pub(super) fn remote(socket: &OwnedFd) -> String {
    let peer = getpeername(socket).ok().flatten();
    match peer.map(SocketAddr::try_from) {
        Some(Ok(address)) => address.to_string(),
        // UNIX clients seldom have a name.
        _ => match socket_peercred(socket) {
            Ok(peer) => format!("pid {} of user {}", peer.pid.as_raw_nonzero(), peer.uid.as_raw()),
            Err(_) => "unknown".into(),
        },
    }
}
