//! Which frames belong together: who speaks to whom, and by what.
//!
//! Only numbers and addresses are said: nothing of a frame's own text is in it.

use crate::wire::{Part, arp, ethernet, ipv4, ipv6, protocol};
use std::net::{IpAddr, SocketAddr};

/// Returns the flow of a frame that begins so: `tcp 10.0.0.1:49152 > 10.0.0.2:443`. What has no
/// addresses of IP has its MACs.
pub fn flow(frame: &[u8]) -> String {
    let Some((header, _)) = ethernet::Header::parse(frame) else { return "cut".into() };
    let at = ethernet::packet_at(frame);
    // In front of the packet, behind any tags.
    let ether_type = at.checked_sub(2).and_then(|at| frame.get(at..)?.first_chunk());
    let ether_type = ether_type.map_or(0, |octets| u16::from_be_bytes(*octets));
    let packet = frame.get(at..).unwrap_or_default();
    let found = match ether_type {
        ethernet::ARP => arp::Packet::parse(packet)
            .map(|packet| format!("arp {} > {}", packet.sender_ip(), packet.target_ip())),
        ethernet::IPV4 => of_ipv4(packet),
        ethernet::IPV6 => of_ipv6(packet),
        _ => None,
    };
    let (source, destination) = (header.source, header.destination);
    found.unwrap_or_else(|| format!("ethertype 0x{ether_type:04x} {source} > {destination}"))
}

fn of_ipv4(packet: &[u8]) -> Option<String> {
    let header = ipv4::Header::parse(packet, packet.len().max(MOST))?;
    let ends = [header.source().into(), header.destination().into()];
    // Of a later fragment, what follows are no ports.
    let upper = packet.get(header.header_len()..).filter(|_| !header.is_fragment());
    Some(between(header.protocol, ends, upper.unwrap_or_default()))
}

fn of_ipv6(packet: &[u8]) -> Option<String> {
    let header = ipv6::Header::parse(packet, packet.len().max(MOST))?;
    let ends = [header.source().into(), header.destination().into()];
    Some(match header.upper(packet) {
        Ok(upper) => {
            let segment = packet.get(upper.offset..);
            let segment = segment.filter(|_| !matches!(upper.part, Part::Later(_)));
            between(upper.protocol, ends, segment.unwrap_or_default())
        }
        Err(_) => format!("ipv6 {} > {}", ends[0], ends[1]),
    })
}

/// Octets of the longest packet: a head says how long its packet is, of which it is the beginning.
const MOST: usize = 65_575;

fn between(number: u8, [source, destination]: [IpAddr; 2], segment: &[u8]) -> String {
    let name = match number {
        protocol::TCP => "tcp",
        protocol::UDP => "udp",
        protocol::ICMP => return format!("icmp {source} > {destination}"),
        protocol::ICMPV6 => return format!("icmpv6 {source} > {destination}"),
        other => return format!("protocol {other} {source} > {destination}"),
    };
    let Some([a, b, c, d]) = segment.first_chunk() else {
        return format!("{name} {source} > {destination}");
    };
    let from = SocketAddr::from((source, u16::from_be_bytes([*a, *b])));
    let to = SocketAddr::from((destination, u16::from_be_bytes([*c, *d])));
    format!("{name} {from} > {to}")
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
            assert_eq!(flow(&frame(&hex)), name);
        }
        assert_eq!(flow(&[0; 13]), "cut");
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
            let name = flow(&octets);
            prop_assert!(name.len() < 120 && name.bytes().all(|octet| (32..127).contains(&octet)));
        }
    }
}
