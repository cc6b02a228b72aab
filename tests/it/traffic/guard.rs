//! What a guest may not claim: each frame is dropped under its own name, and nobody hears it.

use crate::{
    daemon::{Daemon, wait_until},
    field::{ETHERTYPE, FROM_MAC, icmp, ipv4},
    frames::{GATEWAY_MAC, Udp4, Udp6, checksum, is_udp4, resummed},
    guest::Guest,
};
use smoltcp::wire::{Icmpv4Message, IpProtocol};
use std::{net::Ipv6Addr, time::Instant};

#[test]
fn spoofed_frames_are_dropped_by_name() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut a = Guest::connect(&daemon.nic("prod", "a"));
    let mut b = Guest::connect(&daemon.nic("prod", "b"));
    let good = |a: &Guest| Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", b"evil").frame();
    let mut cases = vec![];
    let mut case = |reason: &'static str, frame: Vec<u8>| cases.push((reason, frame));
    case("spoofed_source_mac", Udp4::new(b.mac, "10.0.0.1", "10.0.0.2", b"evil").frame());
    case("spoofed_source_ipv4", Udp4::new(a.mac, "10.0.0.2", "10.0.0.2", b"evil").frame());
    let mut direct = Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", b"evil");
    direct.to_mac = b.mac;
    case("foreign_destination_mac", direct.frame());
    let mut broadcast = Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", b"evil");
    broadcast.to_mac = [0xff; 6];
    case("broadcast", broadcast.frame());
    let mut group = Udp4::new(a.mac, "10.0.0.1", "224.0.0.251", b"evil");
    group.to_mac = [1, 0, 0x5e, 0, 0, 0xfb];
    case("multicast", group.frame());
    let mut server = Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", b"evil");
    server.ports = (67, 68);
    case("rogue_dhcp_server", server.frame());
    case("not_served", Udp4::new(a.mac, "10.0.0.1", "169.254.0.1", b"evil").frame());
    let mut vlan = good(&a);
    vlan.splice(FROM_MAC.end..FROM_MAC.end, [0x81, 0, 0, 5]);
    case("vlan_tagged", vlan);
    let mut other = good(&a);
    other[ETHERTYPE].copy_from_slice(&[0x88, 0xcc]);
    case("unknown_ethertype", other);
    let mut cut = good(&a);
    cut[ipv4::TOTAL_LEN].copy_from_slice(&[0, 0xff]);
    case("malformed_ipv4", cut);
    case("frame_too_short", vec![0; 13]);
    for (_, frame) in &cases {
        a.send(frame);
    }
    a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", b"honest").frame());
    b.expect("the honest frame arrives, and it alone", |frame| {
        assert!(!is_udp4(frame, b"evil"));
        is_udp4(frame, b"honest")
    });
    for (reason, _) in cases {
        assert_eq!(daemon.drops("a", reason), 1, "{reason}");
    }
}

/// An IPv6 packet of `protocol` with hop limit 255; checksums do not matter to the guard.
fn ipv6(from_mac: [u8; 6], from: &str, to: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let to: Ipv6Addr = to.parse().unwrap();
    let to_mac = match to.octets() {
        [0xff, .., a, b, c, d] => [0x33, 0x33, a, b, c, d],
        _ => GATEWAY_MAC,
    };
    let len = (payload.len() as u16).to_be_bytes();
    let header = [0x60, 0, 0, 0, len[0], len[1], protocol, 255];
    let from: Ipv6Addr = from.parse().unwrap();
    [&to_mac[..], &from_mac, &[0x86, 0xdd], &header, &from.octets(), &to.octets(), payload].concat()
}

fn icmpv6(kind: u8) -> Vec<u8> {
    [&[kind, 0][..], &[0; 22]].concat()
}

/// A UDP header from one port to another, and four octets.
fn udp(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 12, 0, 0, 1, 2, 3, 4]].concat()
}

/// A neighbour advertisement for `target`, its checksum right.
fn advertisement(mac: [u8; 6], from: &str, target: &str) -> Vec<u8> {
    let target: Ipv6Addr = target.parse().unwrap();
    let mut body = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &target.octets(), &[2, 1], &mac].concat();
    let from_address: Ipv6Addr = from.parse().unwrap();
    let to: Ipv6Addr = "ff02::1".parse().unwrap();
    let pseudo =
        [&from_address.octets()[..], &to.octets(), &[0, 0, 0, 32, 0, 0, 0, 58], &body].concat();
    body[icmp::CHECKSUM].copy_from_slice(&checksum(&pseudo));
    ipv6(mac, from, "ff02::1", 58, &body)
}

/// An ARP packet.
fn arp(from_mac: [u8; 6], operation: u8, sender: ([u8; 6], [u8; 4])) -> Vec<u8> {
    let head = [&[0xff; 6][..], &from_mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
    [&head[..], &sender.0, &sender.1, &[0; 6], &[169, 254, 0, 1]].concat()
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;

/// Behind an extension header of eight octets.
fn behind(extension: u8, next: u8, payload: &[u8]) -> (u8, Vec<u8>) {
    // Padding is an option that nobody minds; a routing header has no segments left.
    let body = if extension == ROUTING { [0, 0, 0, 0, 0, 0] } else { [1, 4, 0, 0, 0, 0] };
    (extension, [&[next, 0][..], &body, payload].concat())
}

/// What is claimed, the reason it is dropped for, and the frame.
type Cell = (&'static str, &'static str, Vec<u8>);

fn claims_of_ipv4(mac: [u8; 6], other: [u8; 6]) -> Vec<Cell> {
    let from4 = |from: &str| Udp4::new(mac, from, "10.0.0.2", b"evil").frame();
    let mut piece = from4("10.0.0.2");
    piece[ipv4::FRAGMENT].copy_from_slice(&[0x20, 0]);
    let piece = resummed(piece);
    vec![
        (
            "MAC of another",
            "spoofed_source_mac",
            Udp4::new(other, "10.0.0.1", "10.0.0.2", b"evil").frame(),
        ),
        (
            "MAC of the gateway",
            "spoofed_source_mac",
            Udp4::new(GATEWAY_MAC, "10.0.0.1", "10.0.0.2", b"evil").frame(),
        ),
        (
            "MAC of a group",
            "spoofed_source_mac",
            Udp4::new([1, 0, 0x5e, 0, 0, 1], "10.0.0.1", "10.0.0.2", b"evil").frame(),
        ),
        ("IPv4 of another", "spoofed_source_ipv4", from4("10.0.0.2")),
        ("IPv4 of the gateway", "spoofed_source_ipv4", from4("169.254.0.1")),
        ("IPv4 link-local", "spoofed_source_ipv4", from4("169.254.0.7")),
        ("IPv4 outside", "spoofed_source_ipv4", from4("192.0.2.1")),
        ("IPv4 beside a routed prefix", "spoofed_source_ipv4", from4("10.9.0.1")),
        ("IPv4 loopback", "spoofed_source_ipv4", from4("127.0.0.1")),
        ("IPv4 broadcast", "spoofed_source_ipv4", from4("255.255.255.255")),
        ("IPv4 multicast", "spoofed_source_ipv4", from4("224.0.0.1")),
        ("no IPv4, to another", "spoofed_source_ipv4", from4("0.0.0.0")),
        ("IPv4 of another, in pieces", "spoofed_source_ipv4", piece),
    ]
}

fn claims_of_ipv6(mac: [u8; 6]) -> Vec<Cell> {
    let from6 = |from: &str| Udp6::new(mac, from, "fd00::2", b"evil").frame();
    vec![
        ("IPv6 of another", "spoofed_source_ipv6", from6("fd00::2")),
        ("IPv6 of the gateway", "spoofed_source_ipv6", from6("fe80::1")),
        ("IPv6 outside", "spoofed_source_ipv6", from6("2001:db8::1")),
        ("IPv6 beside a routed prefix", "spoofed_source_ipv6", from6("fd08:0:0:1::1")),
        ("IPv6 loopback", "spoofed_source_ipv6", from6("::1")),
        ("IPv6 multicast", "spoofed_source_ipv6", from6("ff02::1")),
        ("IPv6 of an IPv4 address", "spoofed_source_ipv6", from6("::ffff:10.0.0.1")),
        ("no IPv6, to another", "spoofed_source_ipv6", from6("::")),
        ("IPv6 of another, behind a header", "spoofed_source_ipv6", {
            let (protocol, payload) = behind(ROUTING, 17, &udp(9, 9));
            ipv6(mac, "fd00::2", "fd00::2", protocol, &payload)
        }),
    ]
}

fn claims_of_roles(mac: [u8; 6], other: [u8; 6]) -> Vec<Cell> {
    let from4 = |from: &str| Udp4::new(mac, from, "10.0.0.2", b"evil").frame();
    let extended =
        |(protocol, payload): (u8, Vec<u8>)| ipv6(mac, "fe80::99", "ff02::1", protocol, &payload);
    let many =
        (0..9).fold((58, icmpv6(134)), |(next, payload), _| behind(HOP_BY_HOP, next, &payload));
    let mut double_tag = from4("10.0.0.1");
    double_tag.splice(12..12, [0x88, 0xa8, 0, 5, 0x81, 0, 0, 6]);
    let mut priority_tag = Udp6::new(mac, "fd00::1", "fd00::2", b"evil").frame();
    priority_tag.splice(12..12, [0x81, 0, 0, 0]);
    vec![
        ("ARP sender's MAC of another", "spoofed_arp_sender", arp(mac, 1, (other, [10, 0, 0, 1]))),
        ("ARP sender's IPv4 of another", "spoofed_arp_sender", arp(mac, 1, (mac, [10, 0, 0, 2]))),
        ("ARP answer for another", "spoofed_arp_sender", arp(mac, 2, (mac, [10, 0, 0, 2]))),
        ("ARP answer for the gateway", "spoofed_arp_sender", arp(mac, 2, (mac, [169, 254, 0, 1]))),
        ("neighbour of another", "spoofed_neighbour", advertisement(mac, "fe80::99", "fd00::2")),
        (
            "neighbour of the gateway",
            "spoofed_neighbour",
            advertisement(mac, "fe80::99", "fe80::1"),
        ),
        ("router", "rogue_router", ipv6(mac, "fe80::99", "ff02::1", 58, &icmpv6(134))),
        ("router, to one", "rogue_router", ipv6(mac, "fd00::1", "fd00::2", 58, &icmpv6(134))),
        ("router, behind a header", "rogue_router", extended(behind(HOP_BY_HOP, 58, &icmpv6(134)))),
        ("router, behind two", "rogue_router", {
            let (next, payload) = behind(ROUTING, 58, &icmpv6(134));
            extended(behind(HOP_BY_HOP, next, &payload))
        }),
        ("router, behind many", "rogue_router", extended(many)),
        ("router, in pieces", "rogue_router", {
            let piece = [&[58, 0, 0, 1, 0, 0, 0, 7][..], &icmpv6(134)].concat();
            ipv6(mac, "fe80::99", "ff02::1", FRAGMENT, &piece)
        }),
        ("redirect by IPv6", "rogue_router", ipv6(mac, "fe80::99", "ff02::1", 58, &icmpv6(137))),
        ("redirect by IPv4", "rogue_router", {
            let mut redirect = from4("10.0.0.1");
            redirect[ipv4::PROTOCOL] = IpProtocol::Icmp.into();
            redirect[ipv4::PAYLOAD][icmp::TYPE] = Icmpv4Message::Redirect.into();
            resummed(redirect)
        }),
        ("DHCPv4 server", "rogue_dhcp_server", {
            let mut server = Udp4::new(mac, "10.0.0.1", "10.0.0.2", b"evil");
            server.ports = (67, 68);
            server.frame()
        }),
        ("DHCPv6 server", "rogue_dhcp_server", ipv6(mac, "fd00::1", "fd00::2", 17, &udp(547, 546))),
        ("DHCPv6 server, behind a header", "rogue_dhcp_server", {
            let (protocol, payload) = behind(HOP_BY_HOP, 17, &udp(547, 546));
            ipv6(mac, "fd00::1", "fd00::2", protocol, &payload)
        }),
        ("tag of a VLAN", "vlan_tagged", priority_tag),
        ("two tags", "vlan_tagged", double_tag),
    ]
}

#[test]
fn every_claim_that_is_not_a_guests_own_has_its_drop_reason() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let own = daemon.nic_with("prod", "a", |r| {
        r.routed_ipv4_prefixes = vec!["10.8.0.0/16".into()];
        r.routed_ipv6_prefixes = vec!["fd08::/64".into()];
    });
    let mut a = Guest::connect(&own);
    let mut b = Guest::connect(&daemon.nic("prod", "b"));
    let mac = a.mac;
    let cells =
        [claims_of_ipv4(mac, b.mac), claims_of_ipv6(mac), claims_of_roles(mac, b.mac)].concat();
    for (cell, reason, frame) in &cells {
        let before = daemon.drops("a", reason);
        a.send(frame);
        wait_until(&format!("{cell}: {reason}"), || daemon.drops("a", reason) == before + 1);
    }
    for honest in [
        Udp4::new(mac, "10.0.0.1", "10.0.0.2", b"honest").frame(),
        Udp4::new(mac, "10.8.1.2", "10.0.0.2", b"honest").frame(),
        Udp6::new(mac, "fd00::1", "fd00::2", b"honest").frame(),
        Udp6::new(mac, "fd08::7", "fd00::2", b"honest").frame(),
    ] {
        a.send(&honest);
        b.expect("honest frames arrive, and they alone", |frame| {
            assert!(!frame.ends_with(b"evil"));
            frame.ends_with(b"honest")
        });
    }
    let stats = daemon.stats("a");
    let dropped: u64 = stats.drops.iter().map(|drop| drop.frames).sum();
    assert_eq!((dropped, stats.ingress_forwarded), (cells.len() as u64, 4), "{stats:?}");
}

#[test]
fn a_storm_of_questions_is_answered_so_far_and_no_further() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut a = Guest::connect(&daemon.nic("prod", "a"));
    let lost = Udp4::new(a.mac, "10.0.0.1", "10.0.0.77", b"lost").frame();
    let (started, mut errors) = (Instant::now(), 0);
    for _ in 0..4000 {
        a.send(&lost);
        errors += a.drain().len();
    }
    wait_until("all are dropped", || daemon.drops("a", "no_route") == 4000);
    errors += a.drain().len();
    let most = 1000.0 + 1000.0 * started.elapsed().as_secs_f64() + 1.0;
    assert!((1000..=most as usize).contains(&errors), "{errors} of at most {most}");
}

#[test]
fn rogue_ipv6_is_dropped_by_name() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut a = Guest::connect(&daemon.nic("prod", "a"));
    // An ICMPv6 message from `source` to all nodes, hop limit 255; its checksum does not matter to
    // the guard.
    let icmp = |source: &str, kind: u8, to_mac: [u8; 6]| {
        let mut frame =
            [&to_mac[..], &a.mac, &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 16, 58, 255]].concat();
        frame.extend(source.parse::<std::net::Ipv6Addr>().unwrap().octets());
        frame.extend("ff02::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        frame.extend([kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        frame
    };
    let all = [0x33, 0x33, 0, 0, 0, 1];
    let cases = [
        ("rogue_router", icmp("fe80::99", 134, all)),
        ("spoofed_source_ipv6", icmp("fe80::1", 128, all)),
        ("bad_checksum", icmp("fd00::1", 128, all)),
        ("multicast", icmp("fd00::1", 200, all)),
    ];
    for (_, frame) in &cases {
        a.send(frame);
    }
    for (reason, _) in cases {
        wait_until(reason, || daemon.drops("a", reason) == 1);
    }
}
