//! Frames as guests send and judge them, written and read by smoltcp: none of the switch's code
//! judges the switch.

pub(crate) mod field;

use field::{icmp, ipv4, ipv6, udp};
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Message, Icmpv4Packet, Icmpv4Repr,
        Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr,
        Ipv6Address, Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr,
    },
};
use std::net::IpAddr;

/// An Ethernet and IPv4 header with a right checksum, around `payload` of UDP port 9 → 9 unless
/// said otherwise.
pub(crate) struct Udp4<'a> {
    pub(crate) from_mac: [u8; 6],
    pub(crate) to_mac: [u8; 6],
    pub(crate) from: &'a str,
    pub(crate) to: &'a str,
    pub(crate) ports: (u16, u16),
    pub(crate) ttl: u8,
    pub(crate) payload: &'a [u8],
}

pub(crate) const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Of ff02::1 (RFC 2464 §7).
pub(crate) const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

impl<'a> Udp4<'a> {
    pub(crate) fn new(from_mac: [u8; 6], from: &'a str, to: &'a str, payload: &'a [u8]) -> Self {
        Self { from_mac, to_mac: GATEWAY_MAC, from, to, ports: (9, 9), ttl: 64, payload }
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let checksums = smoltcp::phy::ChecksumCapabilities::default();
        let (from, to): (Ipv4Address, Ipv4Address) =
            (self.from.parse().unwrap(), self.to.parse().unwrap());
        let udp = UdpRepr { src_port: self.ports.0, dst_port: self.ports.1 };
        let ip = Ipv4Repr {
            src_addr: from,
            dst_addr: to,
            next_header: IpProtocol::Udp,
            payload_len: 8 + self.payload.len(),
            hop_limit: self.ttl,
        };
        let mut octets = vec![0; udp::PAYLOAD4.start + self.payload.len()];
        let mut ethernet = EthernetFrame::new_unchecked(&mut octets[..]);
        ethernet.set_src_addr(EthernetAddress(self.from_mac));
        ethernet.set_dst_addr(EthernetAddress(self.to_mac));
        ethernet.set_ethertype(EthernetProtocol::Ipv4);
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut octets[field::PACKET]), &checksums);
        let fill = |buffer: &mut [u8]| buffer.copy_from_slice(self.payload);
        udp.emit(
            &mut UdpPacket::new_unchecked(&mut octets[ipv4::PAYLOAD]),
            &from.into(),
            &to.into(),
            self.payload.len(),
            fill,
            &checksums,
        );
        octets
    }
}

/// As [`Udp4`], of IPv6.
pub(crate) struct Udp6<'a> {
    pub(crate) from_mac: [u8; 6],
    pub(crate) to_mac: [u8; 6],
    pub(crate) from: &'a str,
    pub(crate) to: &'a str,
    pub(crate) ports: (u16, u16),
    pub(crate) hop_limit: u8,
    pub(crate) payload: &'a [u8],
}

impl<'a> Udp6<'a> {
    pub(crate) fn new(from_mac: [u8; 6], from: &'a str, to: &'a str, payload: &'a [u8]) -> Self {
        Self { from_mac, to_mac: GATEWAY_MAC, from, to, ports: (9, 9), hop_limit: 64, payload }
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let (from, to): (Ipv6Address, Ipv6Address) =
            (self.from.parse().unwrap(), self.to.parse().unwrap());
        let mut frame = vec![0; udp::PAYLOAD6.start + self.payload.len()];
        let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
        ethernet.set_dst_addr(EthernetAddress(self.to_mac));
        ethernet.set_src_addr(EthernetAddress(self.from_mac));
        ethernet.set_ethertype(EthernetProtocol::Ipv6);
        let ip = Ipv6Repr {
            src_addr: from,
            dst_addr: to,
            next_header: IpProtocol::Udp,
            payload_len: 8 + self.payload.len(),
            hop_limit: self.hop_limit,
        };
        ip.emit(&mut Ipv6Packet::new_unchecked(&mut frame[field::PACKET]));
        let udp = UdpRepr { src_port: self.ports.0, dst_port: self.ports.1 };
        udp.emit(
            &mut UdpPacket::new_unchecked(&mut frame[ipv6::PAYLOAD]),
            &from.into(),
            &to.into(),
            self.payload.len(),
            |buffer| buffer.copy_from_slice(self.payload),
            &ChecksumCapabilities::default(),
        );
        frame
    }
}

/// An ICMP error as it arrived.
#[derive(Debug, PartialEq)]
pub(crate) struct IcmpError {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) kind: u8,
    pub(crate) code: u8,
    /// The next-hop MTU, in octets, where it tells one.
    pub(crate) mtu: u32,
    pub(crate) quote: Vec<u8>,
}

impl IcmpError {
    /// The error in a frame, if it is one and every checksum is right.
    pub(crate) fn parse(frame: &[u8]) -> Option<Self> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        let (from, to, message): (IpAddr, IpAddr, _) = match ethernet.ethertype() {
            EthernetProtocol::Ipv4 => {
                let packet = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
                let message = Icmpv4Packet::new_checked(packet.payload()).ok()?;
                let sound = packet.next_header() == IpProtocol::Icmp
                    && packet.verify_checksum()
                    && message.verify_checksum()
                    && matches!(
                        message.msg_type(),
                        Icmpv4Message::DstUnreachable | Icmpv4Message::TimeExceeded
                    );
                (
                    packet.src_addr().into(),
                    packet.dst_addr().into(),
                    sound.then(|| message.into_inner())?.to_vec(),
                )
            }
            EthernetProtocol::Ipv6 => {
                let packet = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
                let message = Icmpv6Packet::new_checked(packet.payload()).ok()?;
                let sound = packet.next_header() == IpProtocol::Icmpv6
                    && message.verify_checksum(&packet.src_addr(), &packet.dst_addr())
                    && message.msg_type().is_error();
                (
                    packet.src_addr().into(),
                    packet.dst_addr().into(),
                    sound.then(|| message.into_inner())?.to_vec(),
                )
            }
            _ => return None,
        };
        let mtu = u32::from_be_bytes(message[icmp::MTU].try_into().unwrap());
        let (kind, code) = (message[icmp::TYPE], message[icmp::CODE]);
        Some(Self { from, to, kind, code, mtu, quote: message[icmp::QUOTE].to_vec() })
    }
}

/// The Internet checksum (RFC 1071) of octets in which its own field is zero.
pub(crate) fn checksum(octets: &[u8]) -> [u8; 2] {
    let sum: u32 = octets.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!(((folded & 0xffff) + (folded >> 16)) as u16)).to_be_bytes()
}

/// A frame of IPv4 without options, its header's checksum made right.
pub(crate) fn resummed(mut frame: Vec<u8>) -> Vec<u8> {
    Ipv4Packet::new_unchecked(&mut frame[field::PACKET]).fill_checksum();
    frame
}

/// What the checksum field of an IPv4 frame holds that leaves it to others: the pseudo-header's
/// sum.
pub(crate) fn open_checksum4(frame: &[u8], protocol: u8, len: usize) -> [u8; 2] {
    let words =
        frame[ipv4::ADDRESSES].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let sum = words.sum::<u32>() + u32::from(protocol) + len as u32;
    (((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
}

/// Whether a frame is IPv4 of a protocol.
pub(crate) fn is_ipv4(frame: &[u8], protocol: IpProtocol) -> bool {
    frame[field::ETHERTYPE] == ipv4::ETHERTYPE && frame[ipv4::PROTOCOL] == u8::from(protocol)
}

/// Whether a frame is IPv6 whose header is followed by one of a protocol.
pub(crate) fn is_ipv6(frame: &[u8], protocol: IpProtocol) -> bool {
    frame[field::ETHERTYPE] == ipv6::ETHERTYPE && frame[ipv6::NEXT_HEADER] == u8::from(protocol)
}

/// Whether a frame is an ICMPv6 message of a kind.
pub(crate) fn is_icmpv6(frame: &[u8], kind: Icmpv6Message) -> bool {
    is_ipv6(frame, IpProtocol::Icmpv6) && frame[ipv6::PAYLOAD][icmp::TYPE] == u8::from(kind)
}

/// Whether a frame is IPv4 UDP with exactly this payload, and its checksums right.
pub(crate) fn is_udp4(frame: &[u8], payload: &[u8]) -> bool {
    let Ok(ethernet) = EthernetFrame::new_checked(frame) else { return false };
    let Ok(ip) = Ipv4Packet::new_checked(ethernet.payload()) else { return false };
    let Ok(udp) = UdpPacket::new_checked(ip.payload()) else { return false };
    ip.verify_checksum()
        && udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into())
        && udp.payload() == payload
}

/// Octets of the header of an echo (RFC 792, RFC 4443 §4.1).
const ECHO: usize = 8;

/// An ICMP echo, as smoltcp writes and judges it.
#[derive(Debug, PartialEq)]
pub(crate) struct Echo {
    pub(crate) is_request: bool,
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    ident: u16,
    seq_no: u16,
    data: Vec<u8>,
}

impl Echo {
    pub(crate) fn request(from: IpAddr, to: IpAddr) -> Self {
        Self {
            is_request: true,
            from,
            to,
            ident: 0x22b,
            seq_no: 1,
            data: b"sixteen octets..".into(),
        }
    }

    pub(crate) fn reply(&self) -> Self {
        Self { is_request: false, from: self.to, to: self.from, data: self.data.clone(), ..*self }
    }

    pub(crate) fn frame(&self, mac: [u8; 6]) -> Vec<u8> {
        let checksums = ChecksumCapabilities::default();
        let (ident, seq_no, data) = (self.ident, self.seq_no, &*self.data);
        let mut frame = vec![0; ipv6::PAYLOAD.start + ECHO + data.len()];
        let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
        ethernet.set_src_addr(EthernetAddress(mac));
        ethernet.set_dst_addr(EthernetAddress(GATEWAY_MAC));
        match (self.from, self.to) {
            (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
                let echo = if self.is_request {
                    Icmpv4Repr::EchoRequest { ident, seq_no, data }
                } else {
                    Icmpv4Repr::EchoReply { ident, seq_no, data }
                };
                ethernet.set_ethertype(EthernetProtocol::Ipv4);
                let ip = Ipv4Repr {
                    src_addr,
                    dst_addr,
                    next_header: IpProtocol::Icmp,
                    payload_len: echo.buffer_len(),
                    hop_limit: 64,
                };
                ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[field::PACKET]), &checksums);
                frame.truncate(ipv4::PAYLOAD.start + ECHO + data.len());
                let message = &mut frame[ipv4::PAYLOAD];
                echo.emit(&mut Icmpv4Packet::new_unchecked(message), &checksums);
            }
            (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
                let echo = if self.is_request {
                    Icmpv6Repr::EchoRequest { ident, seq_no, data }
                } else {
                    Icmpv6Repr::EchoReply { ident, seq_no, data }
                };
                ethernet.set_ethertype(EthernetProtocol::Ipv6);
                let ip = Ipv6Repr {
                    src_addr,
                    dst_addr,
                    next_header: IpProtocol::Icmpv6,
                    payload_len: echo.buffer_len(),
                    hop_limit: 64,
                };
                ip.emit(&mut Ipv6Packet::new_unchecked(&mut frame[field::PACKET]));
                echo.emit(
                    &src_addr,
                    &dst_addr,
                    &mut Icmpv6Packet::new_unchecked(&mut frame[ipv6::PAYLOAD]),
                    &checksums,
                );
            }
            families => panic!("{families:?}"),
        }
        frame
    }

    /// The echo in a frame, if it is one of ours and every checksum is right.
    pub(crate) fn parse(frame: &[u8]) -> Option<Self> {
        let checksums = ChecksumCapabilities::default();
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        match ethernet.ethertype() {
            EthernetProtocol::Ipv4 => {
                let packet = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
                let ip = Ipv4Repr::parse(&packet, &checksums).ok()?;
                let message = Icmpv4Packet::new_checked(packet.payload()).ok()?;
                let (is_request, ident, seq_no, data) =
                    match Icmpv4Repr::parse(&message, &checksums).ok()? {
                        Icmpv4Repr::EchoRequest { ident, seq_no, data } => {
                            (true, ident, seq_no, data)
                        }
                        Icmpv4Repr::EchoReply { ident, seq_no, data } => {
                            (false, ident, seq_no, data)
                        }
                        _ => return None,
                    };
                let (from, to) = (ip.src_addr.into(), ip.dst_addr.into());
                Some(Self { is_request, from, to, ident, seq_no, data: data.into() })
            }
            EthernetProtocol::Ipv6 => {
                let packet = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
                let (from, to) = (packet.src_addr(), packet.dst_addr());
                let message = Icmpv6Packet::new_checked(packet.payload()).ok()?;
                let (is_request, ident, seq_no, data) =
                    match Icmpv6Repr::parse(&from, &to, &message, &checksums).ok()? {
                        Icmpv6Repr::EchoRequest { ident, seq_no, data } => {
                            (true, ident, seq_no, data)
                        }
                        Icmpv6Repr::EchoReply { ident, seq_no, data } => {
                            (false, ident, seq_no, data)
                        }
                        _ => return None,
                    };
                let (from, to) = (from.into(), to.into());
                Some(Self { is_request, from, to, ident, seq_no, data: data.into() })
            }
            _ => None,
        }
    }
}
