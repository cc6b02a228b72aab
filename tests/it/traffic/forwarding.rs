//! Frames from guest to guest: delivered, changed as a router changes them, and only within a
//! network.

use crate::{
    daemon::{Daemon, PATIENCE, wait_until},
    field::{self, icmp, ipv4, udp},
    frames::{GATEWAY_MAC, IcmpError, Udp4, Udp6, is_ipv4, is_udp4, open_checksum4, resummed},
    guest::{CSUM, EVENT_IDX, GUEST_CSUM, Guest, MRG_RXBUF, PLAIN},
};
use smoltcp::wire::{Icmpv4Message, IpProtocol};
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

fn pair(daemon: &mut Daemon) -> (Guest, Guest) {
    daemon.network("prod");
    let a = Guest::connect(&daemon.nic("prod", "a"));
    let b = Guest::connect(&daemon.nic("prod", "b"));
    (a, b)
}

#[test]
fn guests_of_a_network_ping_each_other() {
    let mut daemon = Daemon::start();
    let (mut a, mut b) = pair(&mut daemon);
    assert!(b.answers(&mut a, "10.0.0.2"));
    assert!(a.answers(&mut b, "fd00::1"));
}

#[test]
fn a_frame_arrives_as_a_router_sends_it() {
    let mut daemon = Daemon::start();
    let (mut a, mut b) = pair(&mut daemon);
    let sent = Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", b"hello").frame();
    a.send(&sent);
    let frame = b.expect("the frame arrives", |frame| is_udp4(frame, b"hello"));
    assert_eq!(frame.len(), sent.len());
    assert_eq!(frame[..6], b.mac);
    assert_eq!(frame[field::FROM_MAC], GATEWAY_MAC);
    assert_eq!(frame[ipv4::TTL], 63, "the TTL is one less");
    assert_eq!(
        frame[ipv4::ADDRESSES.start..],
        sent[ipv4::ADDRESSES.start..],
        "from the addresses on nothing has changed"
    );
}

#[test]
fn long_frames_and_padding_are_carried_exactly() {
    let mut daemon = Daemon::start();
    let (mut a, mut b) = pair(&mut daemon);
    for len in [0, 1, 17, 85, 86, 87, 115, 128, 600, 1472] {
        let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
        let mut sent = Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", &payload).frame();
        sent.resize(sent.len().max(60), 0xee);
        a.send(&sent);
        let frame = b.expect("the frame arrives", |frame| is_udp4(frame, &payload));
        assert_eq!(frame.len(), 42 + payload.len(), "without its padding");
    }
}

#[test]
fn merged_buffers_carry_what_one_does_not_hold() {
    let mut daemon = Daemon::start();
    daemon.network_with("prod", |r| r.mtu = 1800);
    let mut a = Guest::connect(&daemon.nic("prod", "a"));
    let mut b = Guest::connect_with(&daemon.nic("prod", "b"), PLAIN | MRG_RXBUF | EVENT_IDX, 256);
    let mut c = Guest::connect_with(&daemon.nic("prod", "c"), PLAIN, 256);
    let payload = [0x5a; 1700];
    a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", &payload).frame());
    b.expect("the frame arrives in seven buffers", |frame| is_udp4(frame, &payload));
    a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.3", &payload).frame());
    a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.3", b"short").frame());
    c.expect("a shorter one arrives", |frame| is_udp4(frame, b"short"));
    assert_eq!(daemon.drops("a", "rx_buffer_too_small"), 1);
}

#[test]
fn networks_with_equal_addresses_never_meet() {
    let mut daemon = Daemon::start();
    let (mut a, mut b) = pair(&mut daemon);
    daemon.network("test");
    let mut stranger =
        Guest::connect(&daemon.nic_with("test", "x", |r| r.ipv4_address = "10.0.0.9".into()));
    assert!(b.answers(&mut a, "10.0.0.2"));
    assert!(!stranger.ping_within("10.0.0.2", Duration::from_millis(300)));
    assert!(!a.ping_within("10.0.0.9", Duration::from_millis(300)));
    assert!(daemon.drops("x", "no_route") > 0);
}

#[test]
fn a_sender_is_told_why_a_packet_goes_nowhere() {
    let mut daemon = Daemon::start();
    let (mut a, _b) = pair(&mut daemon);
    let udp = |mac, to| Udp4::new(mac, "10.0.0.1", to, b"lost").frame();
    let told = |error: &IcmpError| (error.kind, error.code, error.mtu);
    let lost = udp(a.mac, "10.0.0.77");
    let error = a.provoke(&lost);
    assert_eq!(told(&error), (3, 1, 0), "host unreachable: it would be in the subnet");
    assert_eq!(
        (error.from, error.to),
        ("169.254.0.1".parse().unwrap(), "10.0.0.1".parse().unwrap())
    );
    assert_eq!(error.quote, lost[field::PACKET]);
    assert_eq!(told(&a.provoke(&udp(a.mac, "192.0.2.1"))), (3, 0, 0), "network unreachable");
    assert_eq!(told(&a.provoke(&udp(a.mac, "169.254.0.1"))), (3, 3, 0), "port unreachable");
    let mut tcp = udp(a.mac, "169.254.0.1");
    tcp[ipv4::PROTOCOL] = IpProtocol::Tcp.into();
    let tcp = resummed(tcp);
    assert_eq!(told(&a.provoke(&tcp)), (3, 13, 0), "administratively prohibited");
    let mut dying = Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", b"");
    dying.ttl = 1;
    assert_eq!(told(&a.provoke(&dying.frame())), (11, 0, 0), "TTL exceeded");
    let long = Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", &[0; 1473]).frame();
    let error = a.provoke(&long);
    assert_eq!(told(&error), (3, 4, 1500), "fragmentation needed");
    assert_eq!(error.quote, long[14..14 + 548], "as much as 576 octets allow");
    for (reason, count) in
        [("no_route", 2), ("hop_limit_exceeded", 1), ("exceeds_mtu", 1), ("not_served", 2)]
    {
        assert_eq!(daemon.drops("a", reason), count, "{reason}");
    }
}

#[test]
fn a_sender_is_told_so_over_ipv6_too() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic_with("prod", "a", |r| r.routed_ipv6_prefixes = vec!["fd00:7::/64".into()]);
    let mut a = Guest::connect(&nic);
    let _b = Guest::connect(&daemon.nic("prod", "b"));
    let udp = |mac, from, to| Udp6::new(mac, from, to, b"lost").frame();
    let told = |error: &IcmpError| (error.kind, error.code, error.mtu);
    let lost = udp(a.mac, "fd00::1", "fd00::77");
    let error = a.provoke(&lost);
    assert_eq!(told(&error), (1, 3, 0), "address unreachable: it would be in the prefix");
    assert_eq!((error.from, error.to), ("fe80::1".parse().unwrap(), "fd00::1".parse().unwrap()));
    assert_eq!(error.quote, lost[field::PACKET]);
    let mac = a.mac;
    assert_eq!(told(&a.provoke(&udp(mac, "fd00::1", "fd99::1"))), (1, 0, 0), "no route");
    assert_eq!(told(&a.provoke(&udp(mac, "fe80::99", "fd00::2"))), (1, 2, 0), "beyond scope");
    assert_eq!(told(&a.provoke(&udp(mac, "fd00::1", "fe80::1"))), (1, 4, 0), "port unreachable");
    let mut dying = Udp6::new(mac, "fd00::1", "fd00::2", b"");
    dying.hop_limit = 1;
    assert_eq!(told(&a.provoke(&dying.frame())), (3, 0, 0), "hop limit exceeded");
    let long = Udp6::new(mac, "fd00:7::5", "fd00::2", &[0; 1453]).frame();
    let error = a.provoke(&long);
    assert_eq!(told(&error), (2, 0, 1500), "packet too big");
    assert_eq!(error.quote, long[14..14 + 1232], "as much as 1280 octets allow");
    assert_eq!(
        error.from,
        "fd00::".parse::<IpAddr>().unwrap(),
        "a host behind the guest is told by an address it can be routed from"
    );
}

#[test]
fn no_error_answers_an_error_a_group_or_the_rest_of_a_packet() {
    let mut daemon = Daemon::start();
    let (mut a, _b) = pair(&mut daemon);
    let lost = |mac| Udp4::new(mac, "10.0.0.1", "10.0.0.77", b"lost").frame();
    let mut error = lost(a.mac);
    error[ipv4::PROTOCOL] = IpProtocol::Icmp.into();
    error[ipv4::PAYLOAD][icmp::TYPE] = Icmpv4Message::DstUnreachable.into();
    a.send(&resummed(error));
    let mut fragment = lost(a.mac);
    fragment[ipv4::FRAGMENT].copy_from_slice(&[0x40, 9]);
    a.send(&resummed(fragment));
    let mut group = lost(a.mac);
    group[field::TO_MAC].fill(0xff);
    a.send(&group);
    let last = Udp4::new(a.mac, "10.0.0.1", "192.0.2.1", b"answered").frame();
    assert_eq!(a.provoke(&last).quote, last[field::PACKET], "the first error since");
}

#[test]
fn a_guest_of_larger_mtu_is_told_what_its_peer_takes() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let large = |r: &mut mvirt_net::proto::CreateNicRequest| r.mtu = 1900;
    let nics = [
        daemon.nic_with("prod", "a", large),
        daemon.nic("prod", "b"),
        daemon.nic_with("prod", "c", large),
    ];
    assert_eq!(nics.each_ref().map(|nic| nic.mtu), [1900, 1500, 1900]);
    let [mut a, _b, mut c] = nics.map(|nic| Guest::connect(&nic));
    let payload = [7; 1872];
    a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.3", &payload).frame());
    c.expect("it fits its equal", |frame| is_udp4(frame, &payload));
    let error = a.provoke(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", &payload).frame());
    assert_eq!((error.kind, error.code, error.mtu), (3, 4, 1500));
    let error = a.provoke(&Udp6::new(a.mac, "fd00::1", "fd00::2", &payload[..1852]).frame());
    assert_eq!((error.kind, error.code, error.mtu), (2, 0, 1500));
    let error = a.provoke(&Udp6::new(a.mac, "fd00::1", "fd00::3", &payload[..1853]).frame());
    assert_eq!((error.kind, error.code, error.mtu), (2, 0, 1900));
}

#[test]
fn routed_prefixes_lead_to_their_vnic_and_move() {
    let mut daemon = Daemon::start();
    let (mut a, mut b) = pair(&mut daemon);
    let to = "10.1.2.3";
    let set = |daemon: &mut Daemon, nic: &str, prefixes: &[&str]| {
        let prefixes = prefixes.iter().map(ToString::to_string).collect();
        let request = mvirt_net::proto::UpdateNicRequest {
            id: nic.into(),
            routed_ipv4_prefixes: prefixes,
            routed_ipv6_prefixes: vec![],
            ..Default::default()
        };
        daemon.call(async |client| client.update_nic(request).await)
    };
    set(&mut daemon, "b", &["10.1.0.0/16"]).unwrap();
    a.send(&Udp4::new(a.mac, "10.0.0.1", to, b"one").frame());
    b.expect("the prefix leads to b", |frame| is_udp4(frame, b"one"));
    b.send(&Udp4::new(b.mac, to, "10.0.0.1", b"back").frame());
    a.expect("b may send from it", |frame| is_udp4(frame, b"back"));
    let mut c = Guest::connect(&daemon.nic("prod", "c"));
    set(&mut daemon, "c", &["10.1.2.0/24"]).unwrap();
    a.send(&Udp4::new(a.mac, "10.0.0.1", to, b"two").frame());
    c.expect("the longer prefix wins", |frame| is_udp4(frame, b"two"));
    let refused = set(&mut daemon, "a", &["10.0.0.0/30"]).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::AlreadyExists, "{refused}");
}

/// A frame whose UDP checksum is left to the device: the field holds the pseudo-header's sum.
fn partial(a: &Guest, payload: &[u8]) -> ([u8; 12], Vec<u8>) {
    let mut frame = Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", payload).frame();
    let open = open_checksum4(&frame, 17, 8 + payload.len());
    frame[udp::CHECKSUM4].copy_from_slice(&open);
    ([1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0], frame)
}

#[test]
fn partial_checksums_are_passed_on_or_completed() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut a = Guest::connect_with(&daemon.nic("prod", "a"), PLAIN | CSUM, 2048);
    let b = daemon.nic("prod", "b");
    let (header, frame) = partial(&a, b"payload");
    let mut plain = Guest::connect(&b);
    a.driver.send_with(header, &frame);
    plain.expect("the checksum is completed", |frame| is_udp4(frame, b"payload"));
    drop(plain);
    let mut able = Guest::connect_with(&b, PLAIN | GUEST_CSUM, 2048);
    a.driver.send_with(header, &frame);
    let mut got = None;
    crate::daemon::wait_until("the frame arrives", || {
        got = able.driver.receive_with_header().filter(|octets| octets.ends_with(b"payload"));
        got.is_some()
    });
    let got = got.unwrap();
    assert_eq!(
        got[..12],
        [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 1, 0],
        "the header asks the guest for it"
    );
    a.driver.send_with([1, 0, 0, 0, 0, 0, 0xff, 0xff, 6, 0, 0, 0], &frame);
    a.driver.send_with([0, 1, 0, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0], &frame);
    crate::daemon::wait_until("both are dropped", || {
        daemon.drops("a", "bad_vnet_header") == 1
            && daemon.drops("a", "unexpected_segmentation") == 1
    });
}

#[test]
fn a_receiver_without_buffers_costs_others_nothing() {
    let mut daemon = Daemon::start();
    let (mut a, _deaf) = pair(&mut daemon);
    let mut c = Guest::connect(&daemon.nic("prod", "c"));
    for n in 0..400_u32 {
        a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", &n.to_be_bytes()).frame());
    }
    a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.3", b"through").frame());
    c.expect("another receiver is reached", |frame| is_udp4(frame, b"through"));
    assert!(daemon.drops("a", "rx_ring_full") > 200);
    let stats = daemon.stats("a");
    let dropped: u64 = stats.drops.iter().map(|drop| drop.frames).sum();
    assert_eq!(stats.ingress_frames, stats.ingress_forwarded + stats.ingress_answered + dropped);
}

#[test]
fn frames_behind_one_that_waits_arrive_once_and_in_order() {
    let mut daemon = Daemon::start();
    let (mut a, _deaf) = pair(&mut daemon);
    let mut c = Guest::connect(&daemon.nic("prod", "c"));
    let to_c: Vec<u32> = (0..400).filter(|n| n % 4 == 3).collect();
    for n in 0..400_u32 {
        let to = if n % 4 == 3 { "10.0.0.3" } else { "10.0.0.2" };
        a.send(&Udp4::new(a.mac, "10.0.0.1", to, &n.to_be_bytes()).frame());
    }
    a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.3", b"last").frame());
    let mut got = Vec::new();
    while got.last() != Some(&u32::from_be_bytes(*b"last")) {
        let frame = c.expect("all arrive", |frame| is_ipv4(frame, IpProtocol::Udp));
        got.push(u32::from_be_bytes(frame[udp::PAYLOAD4][..4].try_into().unwrap()));
    }
    got.pop();
    assert_eq!(got, to_c);
}

#[test]
fn frames_cross_from_one_reactor_to_another() {
    let (_daemon, a, b) = Daemon::with_nics_apart();
    let (mut a, mut b) = (Guest::connect_with(&a, PLAIN | CSUM, 2048), Guest::connect(&b));
    let b_address = format!("10.0.0.{}", mvirt_net::dataplane::VNICS_TOGETHER + 1);
    assert!(b.answers(&mut a, &b_address));
    for n in 0..1000_u32 {
        let payload = n.to_be_bytes().repeat(1 + n as usize % 300);
        a.send(&Udp4::new(a.mac, "10.0.0.1", &b_address, &payload).frame());
        b.expect("every frame arrives, in order", |frame| is_udp4(frame, &payload));
    }
}

#[test]
fn fragments_cross_from_one_reactor_to_another() {
    let (mut daemon, a, _) = Daemon::with_nics_apart();
    let c = daemon.nic_with("prod", "c", |r| r.mtu = 1280);
    let (mut a, mut c) = (Guest::connect(&a), Guest::connect(&c));
    let to_c = c.address().to_owned();
    assert!(c.answers(&mut a, &to_c));
    let payload: Vec<u8> = (0..1400_u32).map(|n| (n * 7) as u8).collect();
    let mut frame = Udp4::new(a.mac, "10.0.0.1", &to_c, &payload).frame();
    frame[ipv4::FRAGMENT].fill(0);
    a.send(&resummed(frame));
    let fragment = |frame: &[u8]| is_ipv4(frame, IpProtocol::Udp);
    let first = c.expect("the first fragment arrives", fragment);
    let last = c.expect("the last fragment arrives", fragment);
    assert_eq!((first.len(), &first[ipv4::FRAGMENT]), (ipv4::PAYLOAD.start + 1256, &[0x20, 0][..]));
    assert_eq!((last.len(), &last[ipv4::FRAGMENT]), (ipv4::PAYLOAD.start + 152, &[0, 157][..]));
    assert_eq!([&first[udp::PAYLOAD4], &last[ipv4::PAYLOAD]].concat(), payload);
    let stats = daemon.stats("a");
    let dropped: u64 = stats.drops.iter().map(|drop| drop.frames).sum();
    assert_eq!(stats.ingress_frames, stats.ingress_forwarded + stats.ingress_answered + dropped);
}

/// Frames in pairs, the second up to `apart` after the first, which has woken the reactor: now and
/// then it comes as the reactor goes to sleep again. Gives how many of them had to ring.
fn trickle(a: &mut Guest, b: &mut Guest, to: &str, apart: Duration) -> u32 {
    let frame = Udp4::new(a.mac, "10.0.0.1", to, b"pair").frame();
    let (mut random, mut rung) = (1_u32, 0);
    for n in 0..20_000_u32 {
        // Xorshift (Marsaglia 2003).
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        let sent = Instant::now();
        rung += u32::from(a.driver.send_quietly(&frame));
        while sent.elapsed() < apart * (random % 1024) / 1024 {
            std::hint::spin_loop();
        }
        rung += u32::from(a.driver.send_quietly(&frame));
        let mut left = 2;
        while left > 0 {
            left -= u32::from(b.driver.receive().is_some_and(|frame| is_udp4(&frame, b"pair")));
            assert!(sent.elapsed() < PATIENCE, "a frame of pair {n} is slept on");
        }
    }
    rung
}

#[test]
fn no_frame_is_slept_on() {
    for (features, busy_poll) in [(PLAIN, "0"), (PLAIN | EVENT_IDX, "0"), (PLAIN, "10")] {
        let mut daemon = Daemon::start_with(&["--reactors", "1", "--busy-poll", busy_poll]);
        daemon.network("prod");
        let mut a = Guest::connect_with(&daemon.nic("prod", "a"), features, 2048);
        let mut b = Guest::connect(&daemon.nic("prod", "b"));
        let rung = trickle(&mut a, &mut b, "10.0.0.2", Duration::from_micros(100));
        assert!(rung > 100, "it did sleep: {rung}");
    }
}

#[test]
fn no_frame_to_another_reactor_is_slept_on() {
    let (_daemon, a, b) = Daemon::with_nics_apart();
    let (mut a, mut b) = (Guest::connect(&a), Guest::connect(&b));
    let b_address = format!("10.0.0.{}", mvirt_net::dataplane::VNICS_TOGETHER + 1);
    let rung = trickle(&mut a, &mut b, &b_address, Duration::from_micros(500));
    assert!(rung > 100, "it did sleep: {rung}");
}

#[test]
fn a_busy_reactor_gives_vnics_to_one_that_has_time() {
    let flags = ["--reactors", "2", "--rebalance", "1", "--hugepages", "off"];
    let mut daemon = Daemon::start_with(&flags);
    daemon.network("prod");
    let nics = ["a", "b", "c", "d"].map(|name| daemon.nic("prod", name));
    let mut guests = nics.each_ref().map(Guest::connect);
    assert_eq!(daemon.reactors().iter().map(|reactor| reactor.nics).collect::<Vec<_>>(), [4, 0]);
    let frames = [(0, 1), (1, 0), (2, 3), (3, 2)].map(|(from, to)| {
        let (mac, to) = (guests[from].mac, &nics[to].ipv4_address);
        Udp4::new(mac, &nics[from].ipv4_address, to, &[7; 1000]).frame()
    });
    wait_until("a vNIC has moved under traffic", || {
        for _ in 0..1000 {
            for (guest, frame) in guests.iter_mut().zip(&frames) {
                guest.send(frame);
                while guest.driver.receive().is_some() {}
            }
        }
        daemon.reactors()[1].nics > 0
    });
    for (at, nic) in nics.iter().enumerate() {
        let [a, b] = guests.get_disjoint_mut([at, (at + 1) % 4]).unwrap();
        assert!(a.answers(b, &nic.ipv4_address), "{}", nic.name);
    }
    assert!(daemon.reactors()[1].frames > 0);
    daemon.says("moved to a reactor with less to do");
}

#[test]
fn an_idle_daemon_uses_no_cpu() {
    let mut daemon = Daemon::start();
    let (mut a, mut b) = pair(&mut daemon);
    assert!(b.answers(&mut a, "10.0.0.2"));
    std::thread::park_timeout(Duration::from_millis(200));
    let (before, cpu_before) = (daemon.reactors().remove(0), daemon.cpu_time());
    std::thread::park_timeout(Duration::from_secs(2));
    // Before the question, whose answer is no idleness.
    let (used, after) = (daemon.cpu_time() - cpu_before, daemon.reactors().remove(0));
    assert!(used <= Duration::from_millis(10), "{used:?} in 2 s with two quiet guests");
    assert!(before.nics == 2 && before.frames >= 2 && before.sleeps > 0, "{before:?}");
    assert!(before.busy_turns >= 2 && before.busy_ns > 0 && before.polling_ns > 0, "{before:?}");
    assert!(after.polling_ns - before.polling_ns < 100_000_000, "{before:?}, {after:?}");
    assert!(b.answers(&mut a, "10.0.0.2"), "and wakes up again");
}
