//! Many datagrams with one system call: recvmmsg(2), sendmmsg(2).

#![expect(unsafe_code, reason = "the calls take structures that point to buffers")]

use super::calls;
use crate::dataplane::frame::BURST;
use arrayvec::ArrayVec;
use rustix::{
    io::Errno,
    net::{SocketAddrAny, addr::SocketAddrStorage},
};
use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd as _},
    ptr,
};

/// A datagram that was received into a buffer.
#[derive(Debug)]
pub(super) struct Datagram {
    /// Its octets, also those that found no room in the buffer.
    pub(super) len: usize,
    /// Who sent it, where the socket's family has that.
    pub(super) from: Option<SocketAddrAny>,
    /// How many octets those have that the kernel has joined to it, all but the last.
    pub(super) joined: Option<u16>,
}

fn failed() -> Errno {
    // The call has just returned -1, so that there is one.
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Has the kernel give datagrams of one sender together, where it has them so (udp(7)).
pub(super) fn join_received(socket: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option takes an integer.
    let set = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_GRO,
            ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(failed().into()) }
}

/// Receives datagrams into `buffers`, one each and at most a burst, without waiting. Where `named`,
/// with who has sent them, and what they were joined from.
pub(super) fn receive<'b>(
    socket: impl AsFd,
    buffers: impl Iterator<Item = &'b mut [u8]>,
    named: Named,
) -> Result<ArrayVec<Datagram, BURST>, Errno> {
    let mut pieces: ArrayVec<libc::iovec, BURST> = buffers
        .take(BURST)
        .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() })
        .collect();
    let mut names: ArrayVec<SocketAddrStorage, BURST> = ArrayVec::new();
    let mut controls: ArrayVec<JoinedControl, BURST> = ArrayVec::new();
    if named == Named::Yes {
        // SAFETY: all zeros is an address of no family.
        names.extend(pieces.iter().map(|_| unsafe { mem::zeroed() }));
        // SAFETY: all zeros is a message that says nothing.
        controls.extend(pieces.iter().map(|_| unsafe { mem::zeroed() }));
    }
    let mut headers: ArrayVec<libc::mmsghdr, BURST> = ArrayVec::new();
    for at in 0..pieces.len() {
        // SAFETY: all zeros is a valid header, of no buffers.
        let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
        header.msg_hdr.msg_iov = ptr::from_mut(&mut pieces[at]);
        header.msg_hdr.msg_iovlen = 1;
        if let Some(name) = names.get_mut(at) {
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = size_of::<SocketAddrStorage>() as libc::socklen_t;
        }
        if let Some(control) = controls.get_mut(at) {
            header.msg_hdr.msg_control = ptr::from_mut(control).cast();
            header.msg_hdr.msg_controllen = size_of::<JoinedControl>();
        }
        headers.push(header);
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: each header points to one piece and perhaps one name and one control, which are not
    // moved meanwhile, and each piece to a buffer that is borrowed from the caller for longer than
    // this call.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_fd().as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            flags,
            ptr::null_mut(),
        )
    };
    let received = calls::made(usize::try_from(received).map_err(|_| failed()))?;
    let datagram = |(at, header): (usize, &libc::mmsghdr)| {
        let len = header.msg_hdr.msg_namelen;
        let from = names.get(at).filter(|_| len > 0);
        // SAFETY: the kernel has written an address of `len` octets there.
        let from = from.map(|name| unsafe { SocketAddrAny::read(name, len) });
        // Of no length, the kernel has written none.
        let control = controls.get(at).filter(|_| header.msg_hdr.msg_controllen > 0);
        let joined = control.and_then(JoinedControl::octets);
        Datagram { len: header.msg_len as usize, from, joined }
    };
    Ok(headers[..received].iter().enumerate().map(datagram).collect())
}

/// Whether the sender of a datagram is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Yes,
    No,
}

/// What the kernel tells of datagrams that it has joined (udp(7)).
#[repr(C)]
struct JoinedControl {
    header: libc::cmsghdr,
    octets: libc::c_int,
    // CMSG_SPACE counts whole words.
    padding: libc::c_int,
}

impl JoinedControl {
    /// Returns how many octets each has.
    fn octets(&self) -> Option<u16> {
        let kind = (self.header.cmsg_level, self.header.cmsg_type);
        let octets = u16::try_from(self.octets).ok().filter(|octets| *octets > 0);
        octets.filter(|_| kind == (libc::SOL_UDP, libc::UDP_GRO))
    }
}

/// Tells that the kernel is to cut what is sent into datagrams of so many octets (udp(7)).
#[repr(C)]
struct CutControl {
    header: libc::cmsghdr,
    octets: u16,
    // CMSG_SPACE counts whole words.
    padding: [u16; 3],
}

impl CutControl {
    fn new(octets: u16) -> Self {
        // SAFETY: all zeros is a valid header.
        let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
        // CMSG_LEN of an u16: padding does not count.
        header.cmsg_len = size_of::<libc::cmsghdr>() + size_of::<u16>();
        (header.cmsg_level, header.cmsg_type) = (libc::SOL_UDP, libc::UDP_SEGMENT);
        Self { header, octets, padding: [0; 3] }
    }
}

/// Sends datagrams, at most a burst, to `to` where the socket is not connected, and without
/// waiting. Returns how many of them were sent, the first ones; an error is that of the first.
pub(super) fn send<'b>(
    socket: impl AsFd,
    datagrams: impl Iterator<Item = &'b [u8]>,
    to: Option<&SocketAddrAny>,
) -> Result<usize, Errno> {
    send_cut(socket, datagrams.map(|octets| (octets, None)), to)
}

/// As [`send`]; the kernel cuts each into datagrams of so many octets, where that is said. Of UDP
/// only.
pub(super) fn send_cut<'b>(
    socket: impl AsFd,
    datagrams: impl Iterator<Item = (&'b [u8], Option<u16>)>,
    to: Option<&SocketAddrAny>,
) -> Result<usize, Errno> {
    let mut pieces: ArrayVec<libc::iovec, BURST> = ArrayVec::new();
    let mut cuts: ArrayVec<Option<CutControl>, BURST> = ArrayVec::new();
    for (octets, cut) in datagrams.take(BURST) {
        let iov_base = octets.as_ptr().cast_mut().cast();
        pieces.push(libc::iovec { iov_base, iov_len: octets.len() });
        cuts.push(cut.map(CutControl::new));
    }
    let (name, name_len) = match to {
        Some(to) => (to.as_ptr().cast_mut().cast(), to.addr_len()),
        None => (ptr::null_mut(), 0),
    };
    let mut headers: ArrayVec<libc::mmsghdr, BURST> = ArrayVec::new();
    for (piece, cut) in pieces.iter_mut().zip(&mut cuts) {
        // SAFETY: all zeros is a valid header, of no buffers.
        let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
        header.msg_hdr.msg_iov = ptr::from_mut(piece);
        header.msg_hdr.msg_iovlen = 1;
        (header.msg_hdr.msg_name, header.msg_hdr.msg_namelen) = (name, name_len);
        if let Some(cut) = cut {
            header.msg_hdr.msg_control = ptr::from_mut(cut).cast();
            header.msg_hdr.msg_controllen = size_of::<CutControl>();
        }
        headers.push(header);
    }
    let asked = headers.len();
    // SAFETY: each header points to one piece and perhaps one cut, which are not moved meanwhile,
    // and each piece to octets that are borrowed from the caller for longer than this call, which
    // only reads them; as it does the name.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_fd().as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    calls::wrote(usize::try_from(sent).map_err(|_| failed()), asked)
}
