//! What a guest may not claim: each frame is dropped under its own name, and nobody hears it.

use super::{
    daemon::{Daemon, wait_until},
    frames::{Udp4, is_udp4},
    guest::Guest,
};

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
    vlan.splice(12..12, [0x81, 0, 0, 5]);
    case("vlan_tagged", vlan);
    let mut other = good(&a);
    other[12..14].copy_from_slice(&[0x88, 0xcc]);
    case("unknown_ethertype", other);
    let mut cut = good(&a);
    cut[17] = 0xff;
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

#[test]
fn rogue_ipv6_is_dropped_by_name() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut a = Guest::connect(&daemon.nic("prod", "a"));
    // An ICMPv6 message from `source` to all nodes, hop limit 255; its checksum does not matter to the guard.
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
