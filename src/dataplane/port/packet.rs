//! An interface of the host's, as a network card is one: frames leave by it, and what it receives
//! comes in (packet(7)). The host goes on receiving, too.
//!
//! Each frame stands behind a virtio-net header of ten octets, so that neither side finishes
//! checksums nor cuts frames that the other takes as they are. Linux takes VLAN tags out of frames
//! that it receives: they are put back.

#![expect(unsafe_code, reason = "options and control messages of packet sockets are in no crate")]

use super::{
    PortFailure, Undelivered, calls,
    descriptor::{Inbox, Received, Transport},
    interface::Interface,
};
use crate::{
    addr::MacAddr,
    dataplane::frame::{
        MAX_FRAME_LEN,
        offload::{Offloads, Segmentation},
        verdict::DropReason,
    },
    wire::vnet::{self, Offload},
};
use rustix::{
    io::{Errno, write, writev},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
};
use std::{
    io::{self, IoSlice},
    mem,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    ptr,
};
use zerocopy::IntoBytes as _;

/// Octets of a virtio-net header here: without the number of buffers.
const HEADER_LEN: usize = vnet::HEADER_LEN - 2;
/// Octets of a VLAN tag, and where it stands.
const TAG_LEN: usize = 4;
const TAG_AT: usize = 2 * size_of::<MacAddr>();
/// Room for one control message with `struct tpacket_auxdata`.
const CONTROL: usize = 64;

/// A packet socket that is bound to an interface.
#[derive(Debug)]
pub struct Packet(OwnedFd);

impl Packet {
    /// Opens an interface of the caller's network namespace: that needs CAP_NET_RAW.
    pub fn open(interface: &str) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Without a protocol it hears nothing before it is bound. Before the interface is looked
        // for: that it may not be opened is told also where it is not there yet.
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        let index = Interface::named(interface)?.index()? as libc::c_int;
        for option in [
            libc::PACKET_VNET_HDR,
            libc::PACKET_AUXDATA,
            // What is sent here would come back, and the hosts's own frames are not of the network.
            libc::PACKET_IGNORE_OUTGOING,
        ] {
            set(&socket, option, &(1 as libc::c_int))?;
        }
        // Whatever its MAC is: others are behind this port.
        let everything = libc::packet_mreq {
            mr_ifindex: index,
            mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        set(&socket, libc::PACKET_ADD_MEMBERSHIP, &everything)?;
        bind(&socket, index, libc::ETH_P_ALL as u16)?;
        Ok(Self(socket))
    }
}

/// Sends frames by an interface of the caller's network namespace, and hears none: that needs
/// CAP_NET_RAW.
pub fn send_frames(interface: u32, frames: &[Vec<u8>]) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
    // Of no protocol: nothing is heard.
    bind(&socket, interface as libc::c_int, 0)?;
    frames.iter().try_for_each(|frame| Ok(write(&socket, frame).map(drop)?))
}

impl From<OwnedFd> for Packet {
    /// Goes on with a socket that [`Packet::open`] made ready.
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

fn set<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads as many octets as `T` has, and keeps no reference.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn bind(socket: &OwnedFd, index: libc::c_int, protocol: u16) -> io::Result<()> {
    // SAFETY: all zeros is an address of no interface.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel reads an address of that length, and keeps no reference.
    let outcome = unsafe { libc::bind(socket.as_raw_fd(), ptr::from_ref(&address).cast(), len) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A frame as the kernel returns it.
struct Came {
    /// Octets of header and frame, also those that found no room.
    len: usize,
    header: [u8; vnet::HEADER_LEN],
    /// The tag that was taken out: its protocol, priority and number.
    tag: Option<[u8; TAG_LEN]>,
}

/// Receives a frame into `buffer`, behind room for a tag.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Came, Errno> {
    let mut header = vnet::Header::PLAIN;
    let room = &mut buffer[TAG_LEN..];
    let mut pieces = [
        libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: HEADER_LEN },
        libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() },
    ];
    #[repr(align(8))]
    struct Control([u8; CONTROL]);
    let mut control = Control([0; CONTROL]);
    // SAFETY: all zeros is a valid message, of no buffers.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = pieces.len();
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL;
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: the message points to two pieces and to room for control messages, which live longer
    // than the call; each piece to octets that are borrowed or local.
    let came = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let len = usize::try_from(came)
        .map_err(|_| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))?;
    Ok(Came { len, header, tag: tag(&message) })
}

/// Returns the VLAN tag that a message says was taken out of its frame.
fn tag(message: &libc::msghdr) -> Option<[u8; TAG_LEN]> {
    // SAFETY: the kernel has written whole control messages, as far as `msg_controllen` says now.
    let first = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    let len = size_of::<libc::tpacket_auxdata>();
    let is_aux = (first.cmsg_level, first.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA);
    // SAFETY: the length of a header alone is computed.
    if !is_aux || first.cmsg_len < unsafe { libc::CMSG_LEN(len as u32) } as usize {
        return None;
    }
    // SAFETY: the message is long enough to hold one, at any alignment, and any octets are one.
    let aux: libc::tpacket_auxdata = unsafe { ptr::read_unaligned(libc::CMSG_DATA(first).cast()) };
    if aux.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let known = aux.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    let protocol = if known { aux.tp_vlan_tpid } else { libc::ETH_P_8021Q as u16 };
    let ([a, b], [c, d]) = (protocol.to_be_bytes(), aux.tp_vlan_tci.to_be_bytes());
    Some([a, b, c, d])
}

fn failed(errno: Errno) -> PortFailure {
    PortFailure::Broken(match errno {
        Errno::NETDOWN => "the interface is down".into(),
        Errno::NXIO | Errno::NODEV => "the interface is gone".into(),
        errno => format!("the interface cannot be used: {errno}"),
    })
}

impl Transport for Packet {
    // Not UDP: Linux takes such frames here only since 6.2.
    const ACCEPTS: Offloads = Offloads {
        checksum: true,
        segmentation: Segmentation { tcp4: true, tcp6: true, ecn: true, udp: false },
    };

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn receive(&mut self, inbox: &mut Inbox) -> Result<(), PortFailure> {
        while !inbox.is_full() {
            let buffer = inbox.buffer();
            let came = match calls::made(receive(&self.0, buffer)) {
                Ok(came) => came,
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(errno) => return Err(failed(errno)),
            };
            let end = TAG_LEN + came.len.saturating_sub(HEADER_LEN);
            let received = if end > TAG_LEN + MAX_FRAME_LEN {
                Received::invalid(DropReason::FrameTooLong)
            } else {
                let offload = vnet::Header::from(came.header).offload();
                let offload = offload.map_err(|_| DropReason::UnexpectedSegmentation);
                match came.tag {
                    Some(tag) => {
                        // The MACs move in front of it.
                        buffer.copy_within(TAG_LEN..TAG_LEN + TAG_AT, 0);
                        buffer[TAG_AT..TAG_AT + TAG_LEN].copy_from_slice(&tag);
                        let offload = offload.and_then(|offload| {
                            offload.moved(TAG_LEN as i16).ok_or(DropReason::BadVnetHeader)
                        });
                        Received { octets: 0..end, offload }
                    }
                    None => Received { octets: TAG_LEN..end, offload },
                }
            };
            inbox.push(received);
        }
        Ok(())
    }

    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), Undelivered> {
        let header = vnet::Header::to_guest(offload, 0, 1);
        let header = &header.as_bytes()[..HEADER_LEN];
        match calls::made(writev(&self.0, &[IoSlice::new(header), IoSlice::new(frame)])) {
            Ok(_) => Ok(()),
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => {
                Err(Undelivered::Full)
            }
            Err(errno @ (Errno::NETDOWN | Errno::NXIO | Errno::NODEV)) => {
                Err(Undelivered::Failed(failed(errno)))
            }
            // It is longer than the interface's MTU, or it takes no such frame.
            Err(_) => Err(Undelivered::TooLarge),
        }
    }
}
