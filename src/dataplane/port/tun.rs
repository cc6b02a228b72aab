//! A TUN device: the other end is the host's routing. It carries IP packets, and no Ethernet. Or a
//! socket whose other end is `mvirt-egress`, which has the same messages, each with a vNIC's tag.
//!
//! ```text
//! kernel ── virtio-net header, packet ──▶ a made Ethernet header takes the place of that header
//!        ◀─ virtio-net header, packet ─── its Ethernet header is cut off
//! ```
//! So that what is behind it is classified, routed and rewritten as any frame.

use super::{
    PortFailure, Undelivered, calls,
    descriptor::{Inbox, Received, Transport, read_frame},
    interface::Request,
    tap::{self, Lasts},
};
use crate::{
    addr::MacAddr,
    dataplane::{
        forward::tables::{GATEWAY_MAC, OUTSIDE_MAC, Tag},
        frame::{offload::Offloads, verdict::DropReason},
    },
    wire::{
        ethernet,
        vnet::{self, Offload},
    },
};
use rustix::io::{Errno, writev};
use std::{
    io::{self, IoSlice},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};
use zerocopy::{FromBytes as _, IntoBytes as _, big_endian::U16};

/// Octets that a made Ethernet header has more than the virtio-net header whose place it takes.
const AHEAD: usize = ethernet::HEADER_LEN - vnet::HEADER_LEN;

/// A TUN device, or what has the same messages.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    /// Whether messages say whose they are (`egress/protocol.rs`).
    is_tagged: bool,
}

impl Tun {
    /// Opens the device `name` of the caller's network namespace, and makes it where it is not
    /// there: that needs CAP_NET_ADMIN.
    pub fn open(name: &str) -> io::Result<Self> {
        let kind = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        tap::open_device("/dev/net/tun", Request::new(name)?.with_flags(kind)).map(Self::from)
    }

    /// Returns a socket to `mvirt-egress`, which must not block.
    pub fn tagged(fd: OwnedFd) -> Self {
        Self { fd, is_tagged: true }
    }

    /// Lets it outlive this process, or not any more.
    pub fn set_lasting(&self, lasts: Lasts) -> io::Result<()> {
        tap::set_lasting(&self.fd, lasts)
    }
}

impl From<OwnedFd> for Tun {
    /// Goes on with a device that [`Tun::open`] made ready.
    fn from(fd: OwnedFd) -> Self {
        Self { fd, is_tagged: false }
    }
}

/// Makes a frame from `source` of what was read to [`AHEAD`] octets into a buffer.
fn framed(received: Received, source: MacAddr, buffer: &mut [u8]) -> Received {
    let packet = received.octets.start + AHEAD..received.octets.end + AHEAD;
    let ether_type = match buffer[packet.clone()].first().map(|first| first >> 4) {
        Some(4) => ethernet::IPV4,
        Some(6) => ethernet::IPV6,
        Some(_) => return Received::invalid(DropReason::UnknownEtherType),
        None => return Received::invalid(DropReason::FrameTooShort),
    };
    let header =
        ethernet::Header { destination: GATEWAY_MAC, source, ether_type: U16::new(ether_type) };
    buffer[..ethernet::HEADER_LEN].copy_from_slice(header.as_bytes());
    let moved = |offload: Offload| offload.moved(ethernet::HEADER_LEN as i16);
    let offload = received.offload.and_then(|left| moved(left).ok_or(DropReason::BadVnetHeader));
    Received { octets: 0..packet.end, offload }
}

impl Tun {
    fn gone(&self, errno: Errno) -> PortFailure {
        let what = if self.is_tagged { "mvirt-egress" } else { "the TUN device" };
        PortFailure::Broken(format!("{what} is gone: {errno}"))
    }

    /// Returns the source of the frame whose virtio-net header was read into a buffer.
    fn source(&self, buffer: &[u8]) -> MacAddr {
        match buffer.first_chunk() {
            Some(header) if self.is_tagged => Tag(vnet::Header::from(*header).buffers()).mac(),
            _ => OUTSIDE_MAC,
        }
    }

    /// Returns what a header says of a frame instead of a number of buffers; none where it is to
    /// say whose the frame is, and nobody's is.
    fn label(&self, frame: &[u8]) -> Option<u16> {
        if !self.is_tagged {
            return Some(1);
        }
        let (header, _) = ethernet::Header::ref_from_prefix(frame).ok()?;
        Tag::from_mac(header.source).map(|Tag(tag)| tag)
    }
}

impl Transport for Tun {
    const ACCEPTS: Offloads = tap::ACCEPTS;

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn receive(&mut self, inbox: &mut Inbox) -> Result<(), PortFailure> {
        while !inbox.is_full() {
            let buffer = inbox.buffer();
            let read = read_frame(&self.fd, &mut buffer[AHEAD..]);
            let Some(received) = read.map_err(|errno| self.gone(errno))? else { break };
            let source = self.source(&buffer[AHEAD..]);
            let received = framed(received, source, buffer);
            inbox.push(received);
        }
        Ok(())
    }

    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), Undelivered> {
        let packet = frame.get(ethernet::HEADER_LEN..).ok_or(Undelivered::TooLarge)?;
        let offload = offload.moved(-(ethernet::HEADER_LEN as i16)).ok_or(Undelivered::TooLarge)?;
        let label = self.label(frame).ok_or(Undelivered::NoGuest)?;
        let header = vnet::Header::to_guest(offload, 0, label);
        let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(packet)];
        match calls::made(writev(&self.fd, &parts)) {
            Ok(_) => Ok(()),
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => {
                Err(Undelivered::Full)
            }
            // The interface is down.
            Err(Errno::IO) => Err(Undelivered::NoGuest),
            Err(errno @ (Errno::BADFD | Errno::PIPE | Errno::CONNRESET)) => {
                Err(Undelivered::Failed(self.gone(errno)))
            }
            // It takes no such packet.
            Err(_) => Err(Undelivered::TooLarge),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::{
        frame::Burst,
        port::{Port as _, descriptor::DescriptorPort},
    };
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
    };

    /// One end of a socket that keeps messages apart, as a TUN device keeps packets; and the other.
    fn tun() -> (Tun, OwnedFd) {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::NONBLOCK);
        let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
        (Tun::from(ours), theirs)
    }

    /// What becomes of a message of the kernel's.
    fn read(message: &[u8]) -> (Vec<u8>, Offload, Option<DropReason>) {
        read_from(tun(), message)
    }

    fn read_from(
        (tun, kernel): (Tun, OwnedFd),
        message: &[u8],
    ) -> (Vec<u8>, Offload, Option<DropReason>) {
        let mut port = DescriptorPort::new(tun).unwrap();
        send(&kernel, message, SendFlags::empty()).unwrap();
        let mut burst = Burst::default();
        burst.clear(0);
        port.poll(0, &mut burst).unwrap();
        assert_eq!(burst.len(), 1);
        let frame = burst.frame(0);
        (frame.head().to_vec(), frame.offload, frame.invalid)
    }

    const MADE: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

    #[test]
    fn packets_get_an_ethernet_header_of_their_family() {
        let plain = [0; 12];
        let (frame, offload, invalid) = read(&[&plain[..], &[0x45, 1, 2, 3]].concat());
        assert_eq!(frame, [&MADE[..], &[8, 0, 0x45, 1, 2, 3]].concat());
        assert_eq!((offload, invalid), (Offload::None, None));
        let (frame, ..) = read(&[&plain[..], &[0x60, 1]].concat());
        assert_eq!(frame, [&MADE[..], &[0x86, 0xdd, 0x60, 1]].concat());
    }

    #[test]
    fn what_is_left_to_be_done_begins_behind_that_header() {
        // Its sum starts behind 20 octets of the packet, with its field 16 octets on.
        let partial = [1, 0, 0, 0, 0, 0, 20, 0, 16, 0, 0, 0];
        let (_, offload, _) = read(&[&partial[..], &[0x45; 40]].concat());
        assert_eq!(offload, Offload::Checksum { start: 34, offset: 16 });
        let outside = [1, 0, 0, 0, 0, 0, 0xff, 0xff, 16, 0, 0, 0];
        let (.., invalid) = read(&[&outside[..], &[0x45; 40]].concat());
        assert_eq!(invalid, Some(DropReason::BadVnetHeader));
    }

    #[test]
    fn what_is_no_packet_is_counted_for_what_it_is() {
        for (message, reason) in [
            (vec![0; 5], DropReason::FrameTooShort),
            (vec![0; 12], DropReason::FrameTooShort),
            (vec![0; 13], DropReason::UnknownEtherType),
            ([vec![0; 12], vec![0x55]].concat(), DropReason::UnknownEtherType),
            ([vec![0; 12], vec![0x45; 65_536]].concat(), DropReason::FrameTooLong),
            // GSO of an unknown kind.
            (
                [vec![1, 9], vec![0; 10], vec![0x45; 20]].concat(),
                DropReason::UnexpectedSegmentation,
            ),
        ] {
            assert_eq!(read(&message).2, Some(reason), "{} octets", message.len());
        }
    }

    #[test]
    fn frames_leave_without_their_ethernet_header() {
        let (mut tun, kernel) = tun();
        let frame = [&[0xee; 14][..], &[0x45; 40]].concat();
        let mut sent = |offload| {
            tun.send(&frame, offload).unwrap();
            let mut buffer = [0; 100];
            let (len, _) = recv(&kernel, &mut buffer[..], RecvFlags::empty()).unwrap();
            buffer[..len].to_vec()
        };
        let plain = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        assert_eq!(sent(Offload::None), [&plain[..], &[0x45; 40]].concat());
        let partial = [1, 0, 0, 0, 0, 0, 20, 0, 16, 0, 1, 0];
        let open = Offload::Checksum { start: 34, offset: 16 };
        assert_eq!(sent(open), [&partial[..], &[0x45; 40]].concat());
    }

    #[test]
    fn a_vnics_tag_is_in_the_header_and_in_the_source() {
        let tagged = || {
            let (tun, other) = tun();
            (Tun { is_tagged: true, ..tun }, other)
        };
        let header = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x34, 0x12];
        let (frame, _, invalid) = read_from(tagged(), &[&header[..], &[0x45; 20]].concat());
        let made = [2, 0, 0, 0, 0, 1, 2, 0, 0, 1, 0x12, 0x34, 8, 0];
        assert_eq!((frame, invalid), ([&made[..], &[0x45; 20]].concat(), None));
        let (mut tun, other) = tagged();
        tun.send(&[&made[..], &[0x45; 20]].concat(), Offload::None).unwrap();
        let mut buffer = [0; 100];
        let (len, _) = recv(&other, &mut buffer[..], RecvFlags::empty()).unwrap();
        assert_eq!(buffer[..len], [&header[..], &[0x45; 20]].concat());
        // Of no vNIC.
        let unsigned = [&MADE[..], &[8, 0], &[0x45; 20]].concat();
        assert_eq!(tun.send(&unsigned, Offload::None), Err(Undelivered::NoGuest));
        drop(other);
        let sent = tun.send(&[&made[..], &[0x45; 20]].concat(), Offload::None);
        assert!(matches!(sent, Err(Undelivered::Failed(_))), "{sent:?}");
    }
}
