//! Octets of a UNIX socket and the descriptors that come with them (SCM_RIGHTS, unix(7)).

use rustix::{
    io::IoSliceMut,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg},
};
use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
};

/// Receives once, without waiting; appends descriptors, for as many as `space` has room, to `fds`.
/// Returns the octets' count and whether something was cut.
pub(crate) fn receive(
    socket: impl AsFd,
    octets: &mut [u8],
    space: &mut [MaybeUninit<u8>],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<(usize, ReturnFlags)> {
    let mut control = RecvAncillaryBuffer::new(space);
    // Close on exec: a hand-over starts a program, which must not keep what a VMM gave. Without a
    // wait: who calls knows that there is something, and serves others besides.
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(socket, &mut [IoSliceMut::new(octets)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((received.bytes, received.flags))
}
