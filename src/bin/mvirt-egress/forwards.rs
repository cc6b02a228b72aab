//! Sockets that listen for vNICs.

use super::world::socket;
use rustix::net::{SocketType, bind as bind_to, sockopt};
use std::{io, net::SocketAddr, os::fd::OwnedFd};

/// Makes a socket of a kind, at an address of this host.
pub(crate) fn bind(listen: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let made = socket(listen.ip(), kind, None)?;
    if listen.is_ipv6() {
        // That of IPv4 is a forward of its own.
        sockopt::set_ipv6_v6only(&made, true)?;
    }
    if kind == SocketType::STREAM {
        // What is left of connections before must not keep a new process from listening.
        sockopt::set_socket_reuseaddr(&made, true)?;
    }
    bind_to(&made, &listen)?;
    Ok(made)
}
