//! Two ends, of which each receives what is sent on the other: a virtual cable, without a guest and
//! without a device of the host's.

use super::{
    PortFailure, Undelivered,
    descriptor::{Inbox, Received, Transport, read_frame, read_frames, write_frame},
};
use crate::{dataplane::frame::offload::Offloads, wire::vnet::Offload};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};
use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

/// One end.
#[derive(Debug)]
pub struct End(OwnedFd);

impl End {
    /// Receives a frame into `buffer`, if one is there: for who is behind the port.
    pub fn read(&self, buffer: &mut [u8]) -> Result<Option<Received>, PortFailure> {
        read_frame(&self.0, buffer).map_err(gone)
    }
}

/// Returns both ends.
pub fn pair() -> io::Result<(End, End)> {
    // A packet socket keeps frames apart. Its other end takes whatever a sender leaves to be done,
    // which the virtio-net header in front of each frame says.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok((End(one), End(other)))
}

fn gone(errno: Errno) -> PortFailure {
    PortFailure::Broken(format!("the other end is gone: {errno}"))
}

impl Transport for End {
    const ACCEPTS: Offloads = Offloads::ALL;

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn receive(&mut self, inbox: &mut Inbox) -> Result<(), PortFailure> {
        read_frames(&self.0, inbox).map_err(gone)
    }

    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), Undelivered> {
        match write_frame(&self.0, frame, offload) {
            Ok(()) => Ok(()),
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => Err(Undelivered::Full),
            Err(errno) => Err(Undelivered::Failed(gone(errno))),
        }
    }
}
