//! A message of the socket of packets, taken apart: which vNIC it is from, and what it wants of the
//! world. Refuses what is cut, inconsistent, or of a wrong checksum.

use super::protocol::Dropped;
use crate::wire::{
    Part,
    checksum::{Checksum, checksum},
    icmpv4, icmpv6, ipv4, ipv6, protocol,
    tcp::Segment,
    udp,
    vnet::{self, Offload, SegmentKind},
};
use std::net::IpAddr;

const FRAGMENT_HEADER_LEN: usize = 8;

/// A packet, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Of the vNIC.
    pub tag: u16,
    /// Where from.
    pub source: IpAddr,
    /// Where to.
    pub destination: IpAddr,
    /// An IANA protocol number.
    pub protocol: u8,
    /// All of it, for errors about it to quote.
    pub octets: &'a [u8],
    /// What is behind the IP header.
    pub body: Body<'a>,
    offload: Offload,
}

/// What is behind an IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// All of a packet.
    Whole(&'a [u8]),
    /// Some of it.
    Fragment {
        /// Shared by all of its fragments.
        identification: u32,
        /// Where in the whole it belongs.
        offset: usize,
        /// Whether there is more behind it.
        more: bool,
        /// What belongs there.
        octets: &'a [u8],
    },
}

/// What a vNIC wants of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport<'a> {
    /// Of a connection.
    Tcp(Segment, &'a [u8]),
    /// Datagrams.
    Udp {
        /// Port of the sender.
        source: u16,
        /// Port of the receiver.
        destination: u16,
        /// Of all of them.
        payload: &'a [u8],
        /// Octets of each but the last.
        size: usize,
    },
    /// An echo request.
    Echo {
        /// Of who asks.
        identifier: u16,
        /// Of the question.
        sequence: u16,
        /// To be sent back.
        payload: &'a [u8],
    },
}

/// Splits a message into the tag of its vNIC, what is left to be done about the packet, and that.
pub fn split(message: &[u8]) -> Result<(u16, Offload, &[u8]), Dropped> {
    let (header, packet) = message.split_first_chunk().ok_or(Dropped::Malformed)?;
    let header = vnet::Header::from(*header);
    let offload = header.offload().map_err(|_| Dropped::Malformed)?;
    Ok((header.buffers(), offload, packet))
}

impl<'a> Packet<'a> {
    /// Takes a packet of the vNIC `tag` apart.
    pub fn parse(tag: u16, offload: Offload, octets: &'a [u8]) -> Result<Self, Dropped> {
        let parsed = match octets.first().map(|first| first >> 4) {
            Some(4) => Self::parse_ipv4(tag, offload, octets),
            Some(6) => Self::parse_ipv6(tag, offload, octets),
            _ => None,
        };
        parsed.ok_or(Dropped::Malformed)
    }

    fn parse_ipv4(tag: u16, offload: Offload, octets: &'a [u8]) -> Option<Self> {
        let header = ipv4::Header::parse(octets, octets.len())?;
        let (head, rest) = octets.get(..header.total_len())?.split_at(header.header_len());
        let body = match header.part() {
            _ if checksum(head) != 0 => return None,
            Part::Whole | Part::Atomic => Body::Whole(rest),
            Part::First(identification) | Part::Later(identification) => {
                let word = u16::from_be_bytes([octets[6], octets[7]]);
                Body::Fragment {
                    identification,
                    offset: usize::from(word & ipv4::OFFSET) * 8,
                    more: word & ipv4::MORE_FRAGMENTS != 0,
                    octets: rest,
                }
            }
        };
        Some(Self {
            tag,
            source: header.source().into(),
            destination: header.destination().into(),
            protocol: header.protocol,
            octets: &octets[..header.total_len()],
            body,
            offload,
        })
    }

    fn parse_ipv6(tag: u16, offload: Offload, octets: &'a [u8]) -> Option<Self> {
        let header = ipv6::Header::parse(octets, octets.len())?;
        let octets = octets.get(..header.total_len())?;
        let rest = &octets[ipv6::HEADER_LEN..];
        let (protocol, body) = match octets[6] {
            // Only where nothing stands before it, as every stack sends them.
            ipv6::FRAGMENT => {
                let (head, rest) = rest.split_first_chunk::<FRAGMENT_HEADER_LEN>()?;
                let [next, _, a, b, identification @ ..] = *head;
                let word = u16::from_be_bytes([a, b]);
                let body = match (word & !7, word & 1 != 0) {
                    (0, false) => Body::Whole(rest),
                    (offset, more) => Body::Fragment {
                        identification: u32::from_be_bytes(identification),
                        // In units of eight octets, above three other bits.
                        offset: usize::from(offset),
                        more,
                        octets: rest,
                    },
                };
                (next, body)
            }
            _ => {
                let upper = header.upper(octets).ok()?;
                let whole = matches!(upper.part, Part::Whole);
                (upper.protocol, Body::Whole(octets.get(upper.offset..).filter(|_| whole)?))
            }
        };
        let (source, destination) = (header.source().into(), header.destination().into());
        Some(Self { tag, source, destination, protocol, octets, body, offload })
    }

    /// Takes apart what is behind the IP headers: of this packet, or of that whose last fragment it
    /// is.
    pub fn transport<'b>(&self, body: &'b [u8]) -> Result<Transport<'b>, Dropped> {
        let is_whole = matches!(self.body, Body::Whole(_));
        match (self.protocol, self.source) {
            (protocol::TCP, _) => {
                self.check(body)?;
                let (segment, payload) = Segment::parse(body).ok_or(Dropped::Malformed)?;
                Ok(Transport::Tcp(segment, payload))
            }
            (protocol::UDP, _) => {
                let (header, payload) = udp::Header::parse(body).ok_or(Dropped::Malformed)?;
                let is_unsummed = header.checksum.get() == 0 && self.source.is_ipv4();
                if !is_unsummed {
                    let len = usize::from(header.len.get());
                    self.check(body.get(..len).unwrap_or(body))?;
                }
                let size = match self.offload {
                    Offload::Segmentation { segments, .. }
                        if is_whole && segments.kind == SegmentKind::Udp && segments.size > 0 =>
                    {
                        segments.size.into()
                    }
                    _ => payload.len().max(1),
                };
                let (source, destination) = (header.source.get(), header.destination.get());
                Ok(Transport::Udp { source, destination, payload, size })
            }
            (protocol::ICMP, IpAddr::V4(_)) if checksum(body) == 0 => {
                echo(body, icmpv4::ECHO_REQUEST)
            }
            (protocol::ICMPV6, IpAddr::V6(_)) => {
                self.check(body)?;
                echo(body, icmpv6::ECHO_REQUEST)
            }
            (protocol::ICMP, IpAddr::V4(_)) => Err(Dropped::Malformed),
            _ => Err(Dropped::UnknownProtocol),
        }
    }

    /// Checks the sum of what is behind the IP header, unless that was left to be done: then it has
    /// not been on a line yet. Of what is cut by IP, no sum is left.
    fn check(&self, body: &[u8]) -> Result<(), Dropped> {
        if self.offload != Offload::None && matches!(self.body, Body::Whole(_)) {
            return Ok(());
        }
        let len = u32::try_from(body.len()).map_err(|_| Dropped::Malformed)?;
        let mut sum = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Checksum::pseudo_ipv4(source, destination, self.protocol, len)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                Checksum::pseudo_ipv6(source, destination, self.protocol, len)
            }
            _ => return Err(Dropped::Malformed),
        };
        sum.add(body);
        if sum.folded() == 0xffff { Ok(()) } else { Err(Dropped::Malformed) }
    }
}

fn echo(body: &[u8], request: u8) -> Result<Transport<'_>, Dropped> {
    let (head, payload) = body.split_first_chunk::<8>().ok_or(Dropped::Malformed)?;
    let [kind, code, _, _, a, b, c, d] = *head;
    if (kind, code) != (request, 0) {
        return Err(Dropped::UnknownProtocol);
    }
    let (identifier, sequence) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Ok(Transport::Echo { identifier, sequence, payload })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tcp;

    /// A datagram of "ab" from 10.0.0.2:53 to 192.0.2.1:5353.
    const UDP: [u8; 42] = [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, // its vNIC is 7
        0x45, 0, 0, 30, 0, 9, 0, 0, 64, 17, 0xae, 0xc3, 10, 0, 0, 2, 192, 0, 2, 1, // IPv4
        0, 53, 0x14, 0xe9, 0, 10, 0xbd, 0x56, b'a', b'b',
    ];

    fn parse(message: &[u8]) -> Result<Packet<'_>, Dropped> {
        let (tag, offload, packet) = split(message)?;
        Packet::parse(tag, offload, packet)
    }

    fn whole<'a>(packet: &Packet<'a>) -> Result<Transport<'a>, Dropped> {
        match packet.body {
            Body::Whole(body) => packet.transport(body),
            Body::Fragment { .. } => panic!("{packet:?}"),
        }
    }

    fn change(message: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
        let mut octets = message.to_vec();
        changes.iter().for_each(|(at, value)| octets[*at] = *value);
        octets
    }

    #[test]
    fn a_datagram_is_taken_apart() {
        let packet = parse(&UDP).unwrap();
        assert_eq!((packet.tag, packet.protocol), (7, 17));
        assert_eq!(packet.source, IpAddr::from([10, 0, 0, 2]));
        assert_eq!(packet.destination, IpAddr::from([192, 0, 2, 1]));
        let expected = Transport::Udp { source: 53, destination: 5353, payload: b"ab", size: 2 };
        assert_eq!(whole(&packet), Ok(expected));
    }

    #[test]
    fn what_is_cut_or_changed_on_its_way_is_malformed() {
        for len in 0..UDP.len() {
            let result = parse(&UDP[..len]).and_then(|packet| whole(&packet).map(drop));
            assert_eq!(result, Err(Dropped::Malformed), "{len}");
        }
        let judge = |at, value| {
            let octets = change(&UDP, &[(at, value)]);
            parse(&octets).and_then(|packet| whole(&packet).map(drop))
        };
        assert_eq!(judge(20, 63), Err(Dropped::Malformed), "sum of the header");
        assert_eq!(judge(41, b'c'), Err(Dropped::Malformed), "sum of the datagram");
        assert_eq!(judge(12, 0x55), Err(Dropped::Malformed), "version");
        assert_eq!(judge(1, 3), Err(Dropped::Malformed), "segmentation without a checksum");
        assert_eq!(judge(0, 1), Ok(()), "left to be done");
    }

    #[test]
    fn datagrams_may_come_joined() {
        // VIRTIO_NET_HDR_GSO_UDP_L4, one octet each.
        let octets = change(&UDP, &[(0, 1), (1, 5), (4, 1), (6, 20), (8, 6)]);
        let Ok(Transport::Udp { size, payload, .. }) = whole(&parse(&octets).unwrap()) else {
            panic!()
        };
        assert_eq!((size, payload), (1, &b"ab"[..]));
    }

    #[test]
    fn a_segment_over_ipv6_is_taken_apart() {
        let mut message = vec![1, 0, 0, 0, 0, 0, 40, 0, 16, 0, 1, 2];
        message.extend([0x60, 0, 0, 0, 0, 21, 6, 64]);
        message.extend([0xfd; 16]);
        message.extend([0x20; 16]);
        message.extend([0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 9, 9, 0, 0, b'x']);
        let packet = parse(&message).unwrap();
        let Ok(Transport::Tcp(segment, payload)) = whole(&packet) else { panic!("{packet:?}") };
        assert_eq!((packet.tag, segment.flags, payload), (513, tcp::PSH | tcp::ACK, &b"x"[..]));
        let summed = change(&message, &[(0, 0)]);
        assert_eq!(whole(&parse(&summed).unwrap()), Err(Dropped::Malformed));
    }

    #[test]
    fn only_echo_requests_of_icmp_are_taken() {
        let mut message = [0; 12].to_vec();
        message.extend([0x45, 0, 0, 29, 0, 0, 0, 0, 64, 1, 0xae, 0xdd, 10, 0, 0, 2, 192, 0, 2, 1]);
        message.extend([8, 0, 0x96, 0xf3, 0, 5, 0, 7, b'a']);
        let packet = parse(&message).unwrap();
        let echo = Transport::Echo { identifier: 5, sequence: 7, payload: b"a" };
        assert_eq!(whole(&packet), Ok(echo));
        let reply = change(&message, &[(32, 0), (34, 0x9e)]);
        assert_eq!(whole(&parse(&reply).unwrap()), Err(Dropped::UnknownProtocol));
        let sctp = change(&message, &[(21, 132), (23, 0x5a)]);
        assert_eq!(whole(&parse(&sctp).unwrap()), Err(Dropped::UnknownProtocol));
    }

    #[test]
    fn fragments_say_where_they_belong() {
        let octets = change(&UDP, &[(18, 0x20), (19, 1), (22, 0x8e), (23, 0xc2)]);
        let Body::Fragment { identification, offset, more, .. } = parse(&octets).unwrap().body
        else {
            panic!()
        };
        assert_eq!((identification, offset, more), (9, 8, true));
        let mut ipv6 = [0; 12].to_vec();
        ipv6.extend([0x60, 0, 0, 0, 0, 10, 44, 64]);
        ipv6.extend([0xfd; 32]);
        ipv6.extend([17, 0, 0, 17, 0, 0, 0, 3, 9, 9]);
        let packet = parse(&ipv6).unwrap();
        let body = Body::Fragment { identification: 3, offset: 16, more: true, octets: &[9, 9] };
        assert_eq!((packet.protocol, packet.body), (17, body));
    }
}
