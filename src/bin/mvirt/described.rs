//! Frames in a line each, for people who watch them pass.
//!
//! Only numbers and addresses are said: nothing of a frame's own text reaches a terminal.

use mvirt_net::wire::{
    arp, ethernet,
    flow::{Flow, Packet, ports},
    icmpv4, protocol, udp,
};
use std::net::IpAddr;
use zerocopy::FromBytes as _;

/// A frame of `len` octets, or its beginning, as a line: who to whom, what, and how long.
pub(crate) fn described(frame: &[u8], len: usize) -> String {
    let Some(Flow { header, ether_type, packet }) = Flow::of(frame) else {
        return format!("cut, length {len}");
    };
    let what = match packet {
        Packet::Arp(packet) => arp_line(&packet),
        Packet::Ip { ends, protocol, segment } => ip_line(ends, protocol, segment),
        Packet::Other => format!("ethertype 0x{ether_type:04x}"),
    };
    let is_tagged = ethernet::packet_at(frame) > ethernet::HEADER_LEN;
    let tag = is_tagged.then(|| frame.get(ethernet::HEADER_LEN..)?.first_chunk()).flatten();
    let vlan = tag.map(|tag| u16::from_be_bytes(*tag) & 0x0fff);
    let vlan = vlan.map_or(String::new(), |id| format!(" vlan {id},"));
    format!("{} > {},{vlan} {what}, length {len}", header.source, header.destination)
}

fn arp_line(packet: &arp::Packet) -> String {
    let (sender, target) = (packet.sender_ip(), packet.target_ip());
    match packet.operation() {
        arp::REQUEST => format!("ARP who-has {target} tell {sender}"),
        arp::REPLY => format!("ARP {sender} is-at {}", packet.sender_mac()),
        other => format!("ARP operation {other}"),
    }
}

/// A packet by what it carries, with ports where there are any.
fn ip_line(ends: [IpAddr; 2], protocol: Option<u8>, segment: Option<&[u8]>) -> String {
    let version = if ends[0].is_ipv4() { "IPv4" } else { "IPv6" };
    let [source, destination] = ends.map(|end| match end {
        IpAddr::V4(address) => address.to_string(),
        // A port may follow.
        IpAddr::V6(address) => format!("[{address}]"),
    });
    let between = format!("{source} > {destination}");
    let (protocol, segment) = match (protocol, segment) {
        (Some(protocol), Some(segment)) => (protocol, segment),
        (Some(protocol), None) => {
            return format!("{version} {between} fragment of protocol {protocol}");
        }
        (None, _) => return format!("{version} {between}"),
    };
    let what = match (protocol, ports(segment)) {
        (protocol::UDP, Some([from, to])) => {
            let len = udp::Header::parse(segment).map(|(_, payload)| payload.len());
            let len = len.map_or("cut".into(), |len| format!("{len} octets"));
            format!("UDP {source}:{from} > {destination}:{to} {len}")
        }
        (protocol::TCP, Some([from, to])) => {
            format!("TCP {source}:{from} > {destination}:{to}{}", tcp_flags(segment))
        }
        (protocol::ICMP, _) => match icmpv4::Header::ref_from_prefix(segment) {
            Ok((icmp, _)) => format!("ICMP {between} type {} code {}", icmp.kind, icmp.code),
            Err(_) => format!("ICMP {between} cut"),
        },
        (protocol::ICMPV6, _) => match segment {
            [kind, code, ..] => format!("ICMPv6 {between} type {kind} code {code}"),
            _ => format!("ICMPv6 {between} cut"),
        },
        (other, _) => format!("{between} protocol {other}"),
    };
    format!("{version} {what}")
}

fn tcp_flags(segment: &[u8]) -> String {
    // RFC 9293 §3.1, from the lowest bit.
    const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let flags = segment.get(mvirt_net::wire::tcp::FLAGS_OFFSET).copied().unwrap_or_default();
    let set = NAMES.iter().enumerate().filter(|(bit, _)| flags >> bit & 1 == 1);
    set.map(|(_, name)| format!(" {name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_in_a_line() {
        let ethernet = |ether_type: &str, packet: &str| {
            let hex = format!("ffffffffffff025359000001{ether_type}{packet}").replace(' ', "");
            let octet = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            (0..hex.len()).step_by(2).map(octet).collect::<Vec<_>>()
        };
        let ipv4 = "4500 0020 0000 4000 40 11 0000 0a000001 0a000002";
        let ipv6 = "60000000 0008 3a ff fe800000000000000000000000000001 \
                    ff020000000000000000000000000001";
        for (ether_type, packet, line) in [
            (
                "0806",
                "0001 0800 06 04 0001 025359000001 0a000001 000000000000 0a000002".to_owned(),
                "ARP who-has 10.0.0.2 tell 10.0.0.1, length 42",
            ),
            (
                "0806",
                "0001 0800 06 04 0002 025359000001 0a000001 000000000000 0a000002".to_owned(),
                "ARP 10.0.0.1 is-at 02:53:59:00:00:01, length 42",
            ),
            (
                "0800",
                format!("{ipv4} 3039 1b5f 000c 0000 00000000"),
                "IPv4 UDP 10.0.0.1:12345 > 10.0.0.2:7007 4 octets, length 46",
            ),
            (
                "8100 0007 0800",
                format!("{} 0050 0051 00000000 00000000 5012", ipv4.replace("40 11", "40 06"))
                    .replace("0020 0000", "0022 0000"),
                "vlan 7, IPv4 TCP 10.0.0.1:80 > 10.0.0.2:81 SYN ACK, length 52",
            ),
            (
                "86dd",
                format!("{ipv6} 8600 0000 00000000"),
                "IPv6 ICMPv6 [fe80::1] > [ff02::1] type 134 code 0, length 62",
            ),
            // Of a later fragment, what follows are no ports.
            (
                "86dd",
                format!("{} 11 00 0008 00000001 3039 1b5f", ipv6.replace("0008 3a", "000c 2c")),
                "IPv6 [fe80::1] > [ff02::1] fragment of protocol 17, length 66",
            ),
            ("beef", "00".into(), "ethertype 0xbeef, length 15"),
            ("0800", "45".into(), "ethertype 0x0800, length 15"),
        ] {
            let frame = ethernet(ether_type, &packet);
            let told = described(&frame, frame.len());
            let expected = format!("02:53:59:00:00:01 > ff:ff:ff:ff:ff:ff, {line}");
            assert_eq!(told, expected);
        }
        assert_eq!(described(&[0; 13], 13), "cut, length 13");
        // The beginning of a long one.
        let long = ipv4.replace("0020", "05dc").replace("40 11", "40 06");
        let head = ethernet("0800", &format!("{long} 3039 01bb 00000000 00000000 5002"));
        let told = described(&head, 1514);
        assert!(told.ends_with("TCP 10.0.0.1:12345 > 10.0.0.2:443 SYN, length 1514"), "{told}");
    }
}
