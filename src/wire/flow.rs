//! Who speaks to whom, and by what: which frames belong together.
//!
//! Takes a frame, or its beginning. Only numbers and addresses are said: nothing of a frame's own
//! text is in it.

use super::{Part, arp, ethernet, ipv4, ipv6, protocol};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// Octets of the longest packet: a head says how long its packet is, of which it is the beginning.
const MOST: usize = 65_575;

/// Whose a frame is. It is shown like `tcp 10.0.0.1:49152 > 10.0.0.2:443`.
#[derive(Debug, Clone, Copy)]
pub struct Flow<'a> {
    /// From which MAC to which.
    pub header: &'a ethernet::Header,
    /// In front of the packet, behind any tags.
    pub ether_type: u16,
    /// What is carried.
    pub packet: Packet<'a>,
}

/// What a frame carries.
#[derive(Debug, Clone, Copy)]
pub enum Packet<'a> {
    /// ARP for IPv4.
    Arp(arp::Packet),
    /// IPv4 or IPv6.
    Ip {
        /// From where to where.
        ends: [IpAddr; 2],
        /// By what; none where that is beyond what is at hand.
        protocol: Option<u8>,
        /// What is at hand of its segment; none of a fragment, in which what follows may be no
        /// header.
        segment: Option<&'a [u8]>,
    },
    /// Anything else, or what is malformed.
    Other,
}

impl<'a> Flow<'a> {
    /// Returns whose a frame is that begins so; `None` where its header is cut.
    pub fn of(frame: &'a [u8]) -> Option<Self> {
        let (header, _) = ethernet::Header::parse(frame)?;
        let at = ethernet::packet_at(frame);
        let ether_type = at.checked_sub(2).and_then(|at| frame.get(at..)?.first_chunk());
        let ether_type = ether_type.map_or(0, |octets| u16::from_be_bytes(*octets));
        let packet = frame.get(at..).unwrap_or_default();
        let packet = match ether_type {
            ethernet::ARP => arp::Packet::parse(packet).map(Packet::Arp),
            ethernet::IPV4 => of_ipv4(packet),
            ethernet::IPV6 => of_ipv6(packet),
            _ => None,
        };
        Some(Self { header, ether_type, packet: packet.unwrap_or(Packet::Other) })
    }
}

fn of_ipv4(packet: &[u8]) -> Option<Packet<'_>> {
    let header = ipv4::Header::parse(packet, packet.len().max(MOST))?;
    let ends = [header.source().into(), header.destination().into()];
    // What is behind the packet is padding.
    let end = header.total_len().min(packet.len());
    let segment = packet.get(header.header_len()..end).unwrap_or_default();
    let segment = (!header.is_fragment()).then_some(segment);
    Some(Packet::Ip { ends, protocol: Some(header.protocol), segment })
}

fn of_ipv6(packet: &[u8]) -> Option<Packet<'_>> {
    let header = ipv6::Header::parse(packet, packet.len().max(MOST))?;
    let ends = [header.source().into(), header.destination().into()];
    let Ok(upper) = header.upper(packet) else {
        return Some(Packet::Ip { ends, protocol: None, segment: None });
    };
    let end = header.total_len().min(packet.len());
    let segment = packet.get(upper.offset..end).unwrap_or_default();
    let segment = (!matches!(upper.part, Part::Later(_))).then_some(segment);
    Some(Packet::Ip { ends, protocol: Some(upper.protocol), segment })
}

/// Returns the ports that a segment of TCP or UDP begins with.
pub fn ports(segment: &[u8]) -> Option<[u16; 2]> {
    let [a, b, c, d] = *segment.first_chunk()?;
    Some([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])])
}

impl fmt::Display for Flow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([source, destination], number, segment) = match self.packet {
            Packet::Arp(packet) => {
                return write!(f, "arp {} > {}", packet.sender_ip(), packet.target_ip());
            }
            Packet::Ip { ends, protocol, segment } => (ends, protocol, segment),
            Packet::Other => {
                let ethernet::Header { source, destination, .. } = self.header;
                return write!(f, "ethertype 0x{:04x} {source} > {destination}", self.ether_type);
            }
        };
        let name = match number {
            Some(protocol::TCP) => "tcp",
            Some(protocol::UDP) => "udp",
            Some(protocol::ICMP) => "icmp",
            Some(protocol::ICMPV6) => "icmpv6",
            Some(other) => return write!(f, "protocol {other} {source} > {destination}"),
            None => "ipv6",
        };
        let has_ports = matches!(number, Some(protocol::TCP | protocol::UDP));
        match segment.filter(|_| has_ports).and_then(ports) {
            Some([from, to]) => {
                let (from, to) = (SocketAddr::new(source, from), SocketAddr::new(destination, to));
                write!(f, "{name} {from} > {to}")
            }
            None => write!(f, "{name} {source} > {destination}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(hex: &str) -> Vec<u8> {
        let hex = format!("ffffffffffff025359000001{hex}").replace(' ', "");
        let octet = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(octet).collect()
    }

    #[test]
    fn frames_of_a_flow_have_one_name() {
        // A packet of 1500 octets, of which only the head is there.
        let ipv4 = "0800 4500 05dc 0000 4000 40 06 0000 0a000001 0a000002";
        let ipv6 = "86dd 60000000 0008 11 ff fe800000000000000000000000000001 \
                    ff020000000000000000000000000001";
        for (hex, name) in [
            (format!("{ipv4} 3039 01bb 0000"), "tcp 10.0.0.1:12345 > 10.0.0.2:443"),
            (ipv4.to_owned(), "tcp 10.0.0.1 > 10.0.0.2"),
            // A later fragment.
            (
                format!("{} 3039 01bb", ipv4.replace("4000 40", "00b9 40")),
                "tcp 10.0.0.1 > 10.0.0.2",
            ),
            (ipv4.replace("40 06", "40 01"), "icmp 10.0.0.1 > 10.0.0.2"),
            (ipv4.replace("40 06", "40 2f"), "protocol 47 10.0.0.1 > 10.0.0.2"),
            (format!("8100 0007 {ipv4} 0050 0051"), "tcp 10.0.0.1:80 > 10.0.0.2:81"),
            (format!("{ipv6} 0222 0223 0008 0000"), "udp [fe80::1]:546 > [ff02::1]:547"),
            (ipv6.replace("0008 11", "0008 3a"), "icmpv6 fe80::1 > ff02::1"),
            (
                "0806 0001 0800 06 04 0001 025359000001 0a000001 000000000000 0a000002".into(),
                "arp 10.0.0.1 > 10.0.0.2",
            ),
            ("88cc 00".into(), "ethertype 0x88cc 02:53:59:00:00:01 > ff:ff:ff:ff:ff:ff"),
            ("0800 45".into(), "ethertype 0x0800 02:53:59:00:00:01 > ff:ff:ff:ff:ff:ff"),
        ] {
            assert_eq!(Flow::of(&frame(&hex)).unwrap().to_string(), name);
        }
        assert!(Flow::of(&[0; 13]).is_none());
    }

    proptest! {
        #[test]
        fn whatever_comes_has_a_short_and_printable_name(
            octets in prop::collection::vec(any::<u8>(), 0..192),
            ether_type in prop::sample::select(vec![0x0800_u16, 0x0806, 0x86dd, 0x8100, 0x88cc]),
        ) {
            let mut octets = octets;
            if let Some(place) = octets.get_mut(12..14) {
                place.copy_from_slice(&ether_type.to_be_bytes());
            }
            let name = Flow::of(&octets).map_or(String::new(), |flow| flow.to_string());
            prop_assert!(name.len() < 120 && name.bytes().all(|octet| (32..127).contains(&octet)));
        }
    }
}
