//! What is sent to a vNIC: heads of packets, and whole packets where nothing is left to be done.
//! Takes what they are to say, returns octets.

use crate::wire::{
    Full, Writer,
    checksum::Checksum,
    icmpv4, icmpv6, ipv4, ipv6, protocol,
    tcp::{self, Segment},
    udp,
    vnet::{self, Offload, SegmentKind, Segments},
};
use std::net::{IpAddr, SocketAddr};
use zerocopy::IntoBytes as _;

/// Octets of the longest head: of the socket, of IPv6, and of TCP with the options used here.
pub const HEAD_LEN: usize = vnet::HEADER_LEN + ipv6::HEADER_LEN + tcp::HEADER_LEN + 8;
/// Octets of a packet at most.
pub const MAX_PACKET_LEN: usize = 65_535;

/// Who speaks to which vNIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Of the vNIC.
    pub tag: u16,
    /// Who speaks.
    pub from: SocketAddr,
    /// The vNIC.
    pub to: SocketAddr,
}

impl Ends {
    /// Octets of the IP header between them.
    pub const fn ip_header_len(&self) -> usize {
        match self.from {
            SocketAddr::V4(_) => ipv4::HEADER_LEN,
            SocketAddr::V6(_) => ipv6::HEADER_LEN,
        }
    }

    fn write_ip(&self, writer: &mut Writer<'_>, number: u8, len: usize) -> Result<(), Full> {
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                ipv4::Header::write(writer, from, to, number, len)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                ipv6::Header::write(writer, from, to, number, 64, len)
            }
            _ => Err(Full),
        }
    }

    fn pseudo_sum(&self, number: u8, len: usize) -> Result<Checksum, Full> {
        let len = u32::try_from(len).map_err(|_| Full)?;
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Ok(Checksum::pseudo_ipv4(from, to, number, len)),
            (IpAddr::V6(from), IpAddr::V6(to)) => Ok(Checksum::pseudo_ipv6(from, to, number, len)),
            _ => Err(Full),
        }
    }
}

/// Writes what stands before `payload_len` octets of TCP: the sum is left to be done, and so is
/// cutting it into segments of `size` octets where it is longer. Returns octets written.
pub fn tcp_head(
    into: &mut [u8],
    ends: &Ends,
    segment: &Segment,
    (payload_len, size): (usize, u16),
) -> Result<usize, Full> {
    let start = u16::try_from(ends.ip_header_len()).map_err(|_| Full)?;
    let offset = tcp::CHECKSUM_OFFSET;
    let (len, headers_len) =
        (segment.header_len() + payload_len, ends.ip_header_len() + segment.header_len());
    let offload = if payload_len > usize::from(size) {
        let is_ipv4 = ends.from.is_ipv4();
        let kind = if is_ipv4 { SegmentKind::Tcp4 } else { SegmentKind::Tcp6 };
        Offload::Segmentation { start, offset, segments: Segments { kind, size, ecn: false } }
    } else {
        Offload::Checksum { start, offset }
    };
    let headers_len = u16::try_from(headers_len).map_err(|_| Full)?;
    let mut writer = Writer::new(into);
    writer.push(&vnet::Header::to_guest(offload, headers_len, ends.tag))?;
    ends.write_ip(&mut writer, protocol::TCP, len)?;
    segment.write(&mut writer, ends.pseudo_sum(protocol::TCP, len)?.folded())?;
    Ok(writer.len())
}

/// Appends to `into` the messages that carry a datagram, each with its length in `lens`: one, or
/// fragments of at most `mtu` octets, which `identification` joins.
pub fn datagram(
    into: &mut Vec<u8>,
    lens: &mut Vec<usize>,
    ends: &Ends,
    payload: &[u8],
    (mtu, identification): (u16, u32),
) -> Result<(), Full> {
    let len = udp::HEADER_LEN + payload.len();
    let mut header = udp::Header {
        source: ends.from.port().into(),
        destination: ends.to.port().into(),
        len: u16::try_from(len).map_err(|_| Full)?.into(),
        checksum: 0.into(),
    };
    let mut sum = ends.pseudo_sum(protocol::UDP, len)?;
    sum.add(header.as_bytes());
    sum.add(payload);
    header.checksum = sum.finish_udp().into();
    let body = [header.as_bytes(), payload].concat();
    messages(into, lens, ends, (protocol::UDP, &body), (mtu, identification))
}

/// As [`datagram`]: an echo reply.
pub fn echo_reply(
    into: &mut Vec<u8>,
    lens: &mut Vec<usize>,
    ends: &Ends,
    (identifier, sequence, payload): (u16, u16, &[u8]),
    (mtu, identification): (u16, u32),
) -> Result<(), Full> {
    let ([a, b], [c, d]) = (identifier.to_be_bytes(), sequence.to_be_bytes());
    let (kind, number) = match ends.from {
        SocketAddr::V4(_) => (icmpv4::ECHO_REPLY, protocol::ICMP),
        SocketAddr::V6(_) => (icmpv6::ECHO_REPLY, protocol::ICMPV6),
    };
    let mut body = [&[kind, 0, 0, 0, a, b, c, d], payload].concat();
    // Of IPv4's, no pseudo-header is part (RFC 792).
    let mut sum = match ends.from {
        SocketAddr::V4(_) => Checksum::new(),
        SocketAddr::V6(_) => ends.pseudo_sum(number, body.len())?,
    };
    sum.add(&body);
    body[2..4].copy_from_slice(&sum.finish().to_be_bytes());
    messages(into, lens, ends, (number, &body), (mtu, identification))
}

fn messages(
    into: &mut Vec<u8>,
    lens: &mut Vec<usize>,
    ends: &Ends,
    (number, body): (u8, &[u8]),
    (mtu, identification): (u16, u32),
) -> Result<(), Full> {
    let room = usize::from(mtu).saturating_sub(ends.ip_header_len());
    if body.len() <= room {
        return message(into, lens, ends, (number, body), |_| {});
    }
    // All but the last are of whole units of eight octets; of IPv6, a header more is in each.
    let is_ipv4 = ends.from.is_ipv4();
    let extra = if is_ipv4 { 0 } else { 8 };
    let room = room.saturating_sub(extra) / 8 * 8;
    if room == 0 {
        return Err(Full);
    }
    for (at, part) in body.chunks(room).enumerate() {
        let (offset, is_last) = (at * room, at * room + part.len() == body.len());
        let offset = u16::try_from(offset).map_err(|_| Full)?;
        if is_ipv4 {
            message(into, lens, ends, (number, part), |header| {
                let [_, _, a, b] = identification.to_be_bytes();
                let more = if is_last { 0 } else { ipv4::MORE_FRAGMENTS };
                header[4..6].copy_from_slice(&[a, b]);
                header[6..8].copy_from_slice(&((offset / 8) | more).to_be_bytes());
                header[10..12].fill(0);
                let sum = crate::wire::checksum::checksum(header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
            })?;
        } else {
            let mut whole = vec![number, 0];
            whole.extend((offset | u16::from(!is_last)).to_be_bytes());
            whole.extend(identification.to_be_bytes());
            whole.extend(part);
            message(into, lens, ends, (ipv6::FRAGMENT, &whole), |_| {})?;
        }
    }
    Ok(())
}

/// Appends a message, whose IP header `change` may change.
fn message(
    into: &mut Vec<u8>,
    lens: &mut Vec<usize>,
    ends: &Ends,
    (number, body): (u8, &[u8]),
    change: impl FnOnce(&mut [u8]),
) -> Result<(), Full> {
    let mut head = [0; HEAD_LEN];
    let mut writer = Writer::new(&mut head);
    writer.push(&vnet::Header::to_guest(Offload::None, 0, ends.tag))?;
    ends.write_ip(&mut writer, number, body.len())?;
    let len = writer.len();
    change(&mut head[vnet::HEADER_LEN..len]);
    into.extend_from_slice(&head[..len]);
    into.extend_from_slice(body);
    lens.push(len + body.len());
    Ok(())
}

/// Why a packet of a vNIC went nowhere, for it to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// There is no way to its network.
    Network,
    /// It is not there.
    Host,
    /// Nothing is at its port.
    Port,
}

/// Writes an ICMP error about `packet`, from where that was to go. Returns octets written.
pub fn unreachable(
    into: &mut [u8],
    ends: &Ends,
    what: Unreachable,
    packet: &[u8],
) -> Result<usize, Full> {
    let mut writer = Writer::new(into);
    writer.push(&vnet::Header::to_guest(Offload::None, 0, ends.tag))?;
    match (ends.from.ip(), ends.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let error = match what {
                Unreachable::Network => icmpv4::Error::NetworkUnreachable,
                Unreachable::Host => icmpv4::Error::HostUnreachable,
                Unreachable::Port => icmpv4::Error::PortUnreachable,
            };
            icmpv4::write_error(&mut writer, from, to, error, packet)?;
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let error = match what {
                Unreachable::Network => icmpv6::Error::NoRoute,
                Unreachable::Host => icmpv6::Error::AddressUnreachable,
                Unreachable::Port => icmpv6::Error::PortUnreachable,
            };
            icmpv6::write_error(&mut writer, from, to, error, packet)?;
        }
        _ => return Err(Full),
    }
    Ok(writer.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::{
        fragments::{Fragments, Outcome},
        packet::{Body, Packet, Transport, split},
    };
    use std::time::Instant;

    fn ends(from: &str, to: &str) -> Ends {
        Ends { tag: 7, from: from.parse().unwrap(), to: to.parse().unwrap() }
    }

    #[test]
    fn long_segments_are_left_to_be_cut_and_summed() {
        let ends = ends("192.0.2.1:80", "10.0.0.2:4000");
        let segment = Segment {
            source: 80,
            destination: 4000,
            sequence: 1,
            acknowledgment: 2,
            flags: tcp::ACK,
            window: 3,
            ..Segment::default()
        };
        let mut head = [0; HEAD_LEN];
        let len = tcp_head(&mut head, &ends, &segment, (2920, 1460)).unwrap();
        let expected = [
            1, 1, 40, 0, 0xb4, 5, 20, 0, 16, 0, 7, 0, // to be cut into 1460, for vNIC 7
            0x45, 0, 0x0b, 0x90, 0, 0, 0x40, 0, 64, 6, 0x63, 0x65, 192, 0, 2, 1, 10, 0, 0,
            2, //
            0, 80, 0x0f, 0xa0, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0, 3, 0xd7, 0x85, 0, 0,
        ];
        assert_eq!(head[..len], expected);
        let len = tcp_head(&mut head, &ends, &segment, (1460, 1460)).unwrap();
        assert_eq!(head[..12], [1, 0, 0, 0, 0, 0, 20, 0, 16, 0, 7, 0], "one needs no cutting");
        assert_eq!(len, 52);
    }

    /// Returns what the parts of a datagram make at the other end.
    fn joined(octets: &[u8], lens: &[usize], mtu: usize) -> (u16, Vec<u8>) {
        let (mut fragments, mut rest) = (Fragments::default(), octets);
        for len in lens {
            let (message, next) = rest.split_at(*len);
            rest = next;
            assert!(*len <= mtu + 12);
            let (tag, offload, packet) = split(message).unwrap();
            let packet = Packet::parse(tag, offload, packet).unwrap();
            let whole = match packet.body {
                Body::Whole(body) => body.to_vec(),
                Body::Fragment { .. } => match fragments.take(&packet, Instant::now()) {
                    Outcome::Whole(body) => body,
                    outcome => {
                        assert_eq!(outcome, Outcome::Waits(0));
                        continue;
                    }
                },
            };
            let Ok(Transport::Udp { source, payload, .. }) = packet.transport(&whole) else {
                panic!("{packet:?}")
            };
            return (source, payload.to_vec());
        }
        panic!("it never becomes whole: {lens:?}");
    }

    #[test]
    fn datagrams_longer_than_the_mtu_come_in_fragments() {
        for ends in [ends("192.0.2.1:53", "10.0.0.2:9"), ends("[2001:db8::1]:53", "[fd00::2]:9")] {
            for (len, mtu) in [(0, 1500), (100, 1500), (1453, 1500), (65_000, 9000), (9000, 1280)] {
                let payload = (0..len).map(|at| at as u8).collect::<Vec<_>>();
                let (mut octets, mut lens) = (Vec::new(), Vec::new());
                datagram(&mut octets, &mut lens, &ends, &payload, (mtu, 3)).unwrap();
                assert_eq!(joined(&octets, &lens, mtu.into()), (53, payload));
            }
        }
        let (mut octets, mut lens) = (Vec::new(), Vec::new());
        let ends = ends("192.0.2.1:53", "10.0.0.2:9");
        assert_eq!(datagram(&mut octets, &mut lens, &ends, &[0; 65_528], (1500, 3)), Err(Full));
    }

    #[test]
    fn echo_replies_are_these_octets() {
        let (mut octets, mut lens) = (Vec::new(), Vec::new());
        let ends = ends("192.0.2.1:0", "10.0.0.2:5");
        echo_reply(&mut octets, &mut lens, &ends, (5, 7, b"a"), (1500, 1)).unwrap();
        assert_eq!(
            octets[12..32],
            [0x45, 0, 0, 29, 0, 0, 0x40, 0, 64, 1, 0x6e, 0xdd, 192, 0, 2, 1, 10, 0, 0, 2]
        );
        assert_eq!(octets[32..], [0, 0, 0x9e, 0xf3, 0, 5, 0, 7, b'a']);
    }
}
