//! What was sent from here, as a multicast group brings it back.

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use std::net::{IpAddr, SocketAddr};

/// A socket that sends to a group, by its port. Its address is not known: it is that of the
/// interface that a datagram leaves by, which may change.
#[derive(Debug, Clone)]
pub struct OwnPort {
    port: u16,
    /// Where its datagrams have come from, when they were heard last.
    heard_from: Option<IpAddr>,
}

impl OwnPort {
    /// Returns the socket with this port.
    pub fn new(port: u16) -> Self {
        Self { port, heard_from: None }
    }

    /// Whether a datagram from there is one of its own.
    pub fn has_sent(&mut self, from: SocketAddr) -> bool {
        if from.port() != self.port {
            return false;
        }
        if self.heard_from != Some(from.ip()) {
            // Another host may have chosen the same port. An address that can be bound is ours.
            let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
            // With its scope, without which no link-local address can be bound.
            let mut address = from;
            address.set_port(0);
            if socket.and_then(|socket| bind(&socket, &address)).is_err() {
                return false;
            }
            self.heard_from = Some(from.ip());
        }
        true
    }
}
