//! Sockets of which each message is a frame, with nothing before it: connected packet sockets
//! (SOCK_SEQPACKET, unix(7)).
//!
//! No header says what is left to be done about a frame: all that leave are finished, and those
//! that come in are taken as they are.

use super::{
    PortFailure, Undelivered,
    descriptor::{Received, Transport},
};
use crate::{dataplane::frame::offload::Offloads, wire::vnet::Offload};
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// A connected packet socket.
#[derive(Debug)]
pub struct Packets(OwnedFd);

impl From<OwnedFd> for Packets {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

fn gone(errno: Errno) -> PortFailure {
    PortFailure::Broken(format!("the connection ended: {errno}"))
}

impl Transport for Packets {
    const ACCEPTS: Offloads = Offloads::NONE;

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<Received>, PortFailure> {
        // Of what is too long for the buffer the rest is lost: it shows by its length.
        match recv(&self.0, &mut *buffer, RecvFlags::DONTWAIT) {
            // No frame is empty: the other end was closed.
            Ok((0, _)) => Err(PortFailure::Broken("the connection was closed".into())),
            Ok((len, _)) => Ok(Some(Received { octets: 0..len, offload: Ok(Offload::None) })),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(gone(errno)),
        }
    }

    fn send(&mut self, frame: &[u8], _offload: Offload) -> Result<(), Undelivered> {
        match send(&self.0, frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => Err(Undelivered::Full),
            // Longer than its buffers.
            Err(Errno::MSGSIZE) => Err(Undelivered::TooLarge),
            Err(errno) => Err(Undelivered::Failed(gone(errno))),
        }
    }
}
