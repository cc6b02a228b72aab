//! What the daemon says would become of a frame, beside what then becomes of it.

use crate::{
    daemon::{Daemon, wait_until},
    frames::{Udp4, Udp6},
    guest::Guest,
    lab::segment,
    random::{Random, rounds},
};
use mvirt_net::proto::{
    CreateNicRequest, ExplainReply, ExplainRequest, ExplainVerdict, ListMacsRequest, NicStats,
    PacketSpec, RateLimit, explain_request::What,
};
use tonic::Code;

/// Asks as often as it takes: there is a limit a second.
fn explain(daemon: &mut Daemon, what: What) -> ExplainReply {
    let request = ExplainRequest { from: "a".into(), what: Some(what) };
    let mut told = None;
    wait_until("it is explained", || {
        let reply = daemon.call(async |client| client.explain(request.clone()).await);
        if !matches!(&reply, Err(status) if status.code() == Code::ResourceExhausted) {
            told = Some(reply.unwrap());
        }
        told.is_some()
    });
    told.unwrap()
}

fn packet(destination: &str) -> PacketSpec {
    PacketSpec { destination: destination.into(), destination_port: 443, ..Default::default() }
}

/// What was counted between: in the words of an explanation.
fn counted(before: &NicStats, after: &NicStats) -> String {
    let before = |reason: &str| {
        before.drops.iter().find(|drop| drop.reason == reason).map_or(0, |drop| drop.frames)
    };
    let mut dropped = after.drops.iter().filter(|drop| drop.frames > before(&drop.reason));
    dropped.next().map_or_else(String::new, |drop| drop.reason.clone())
}

/// Frames of "a" as chance will have them, to others and to nobody, some of them damaged.
fn chance(random: &mut Random, mac: [u8; 6], to_mac: [u8; 6]) -> Vec<u8> {
    fn one<'a>(random: &mut Random, of: &[&'a str]) -> &'a str {
        of[random.below(of.len() as u64) as usize]
    }
    let payload = vec![0x5a; random.below(1500) as usize];
    let ttl = [0, 1, 2, 64][random.below(4) as usize];
    let port = [9, 53, 67, 547][random.below(4) as usize];
    let to_mac = if random.below(8) == 0 { [2, 0, 0, 0, 0, 1] } else { to_mac };
    let mut frame = if random.below(3) == 0 {
        let from = one(random, &["fd00::1", "fd00::1", "fd00::2", "fe80::5"]);
        let to =
            one(random, &["fd00::2", "fd00::3", "fd00::77", "fe80::1", "ff02::1", "2001:db8::1"]);
        let mut packet = Udp6::new(mac, from, to, &payload);
        (packet.to_mac, packet.ports) = (to_mac, (9, port));
        packet.frame()
    } else {
        let from = one(random, &["10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2", "192.0.2.1"]);
        let to = ["10.0.0.2", "10.0.0.2", "10.0.0.3", "10.0.0.77", "10.5.0.9", "169.254.0.1"];
        let more = ["10.0.0.255", "255.255.255.255", "224.0.0.5", "192.0.2.7"];
        let to = one(random, &[&to[..], &more[..]].concat());
        let mut packet = Udp4::new(mac, from, to, &payload);
        (packet.to_mac, packet.ports, packet.ttl) = (to_mac, (9, port), ttl);
        packet.frame()
    };
    if random.below(4) == 0 {
        let at = random.below(60.min(frame.len() as u64)) as usize;
        frame[at] = random.below(256) as u8;
    }
    frame
}

fn holds_for_what_comes(daemon: &mut Daemon, [mut a, mut b]: [Guest; 2], to_mac: [u8; 6]) {
    let mut random = Random::new();
    for round in 0..rounds() * 10 {
        let frame = chance(&mut random, a.mac, to_mac);
        let told = explain(daemon, What::Frame(frame.clone()));
        let before = daemon.stats("a");
        a.send(&frame);
        let mut after = NicStats::default();
        wait_until("the frame is counted", || {
            after = daemon.stats("a");
            after.ingress_frames > before.ingress_frames
        });
        let what = format!("round {round}: {told:?}\n{frame:02x?}");
        match told.verdict() {
            ExplainVerdict::Delivered => {
                assert_eq!(after.ingress_forwarded, before.ingress_forwarded + 1, "{what}");
            }
            ExplainVerdict::Answered => {
                assert_eq!(after.ingress_answered, before.ingress_answered + 1, "{what}");
            }
            _ => assert_eq!(counted(&before, &after), told.drop_reason, "{what}"),
        }
        a.drain();
        b.drain();
    }
}

#[test]
fn what_is_told_is_what_becomes_of_frames_of_a_routed_network() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let a = Guest::connect(&daemon.nic("prod", "a"));
    let routes =
        |request: &mut CreateNicRequest| request.routed_ipv4_prefixes = vec!["10.5.0.0/16".into()];
    let b = Guest::connect(&daemon.nic_with("prod", "b", routes));
    daemon.nic("prod", "off");
    holds_for_what_comes(&mut daemon, [a, b], [2, 0, 0, 0, 0, 1]);
}

#[test]
fn what_is_told_is_what_becomes_of_frames_of_a_switched_network() {
    let mut daemon = Daemon::start();
    daemon.network_with("lab", |request| {
        let subnets = (request.ipv4_subnet.clone(), request.ipv6_prefix.clone());
        segment(request);
        (request.ipv4_subnet, request.ipv6_prefix) = subnets;
    });
    let a = Guest::connect(&daemon.nic("lab", "a"));
    let b = Guest::connect(&daemon.nic("lab", "b"));
    daemon.nic("lab", "off");
    let to = b.mac;
    holds_for_what_comes(&mut daemon, [a, b], to);
}

/// The stages of an explanation, and what came out at the last one.
fn way(reply: &ExplainReply) -> (Vec<&str>, &str) {
    let stages = reply.steps.iter().map(|step| step.stage.as_str()).collect();
    (stages, &reply.steps.last().unwrap().result)
}

#[test]
fn each_step_is_told_up_to_where_it_ends() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let _a = Guest::connect(&daemon.nic("prod", "a"));
    let _b = Guest::connect(&daemon.nic_with("prod", "b", |request| request.mtu = 1300));
    daemon.nic("prod", "off");
    let before = daemon.stats("a");
    let reply = explain(&mut daemon, What::Packet(packet("10.0.0.2")));
    let all = ["sender", "frame", "guard", "route", "hop limit", "mtu", "limit", "receiver"];
    assert_eq!(way(&reply), (all.to_vec(), "passed"));
    assert_eq!(
        (reply.verdict(), &reply.delivered_to[..]),
        (ExplainVerdict::Delivered, &["b".into()][..])
    );
    let text = reply.steps.iter().map(|step| step.text.as_str()).collect::<Vec<_>>().join("\n");
    assert!(text.contains("TCP from 10.0.0.1:49152 to 10.0.0.2:443, 40 octets"), "{text}");
    assert!(text.contains("routed network prod; its VM is connected"), "{text}");
    for (spec, ends_at, reason, is_told) in [
        (
            PacketSpec { source: "10.0.0.9".into(), ..packet("10.0.0.2") },
            3,
            "spoofed_source_ipv4",
            false,
        ),
        (packet("10.0.0.77"), 4, "no_route", true),
        (PacketSpec { length: 1400, ..packet("10.0.0.2") }, 6, "exceeds_mtu", true),
        (packet("10.0.0.3"), 8, "no_guest", false),
    ] {
        let reply = explain(&mut daemon, What::Packet(spec));
        assert_eq!(way(&reply), (all[..ends_at].to_vec(), reason), "{reply:?}");
        assert_eq!(
            (reply.verdict(), reply.drop_reason.as_str()),
            (ExplainVerdict::Dropped, reason)
        );
        assert_eq!((reply.sender_is_told, reply.drop_text.is_empty()), (is_told, false));
    }
    let ping = PacketSpec { protocol: "icmp".into(), ..packet("169.254.0.1") };
    let reply = explain(&mut daemon, What::Packet(ping));
    assert_eq!(way(&reply), (vec!["sender", "frame", "guard", "gateway"], "passed"));
    assert_eq!(reply.verdict(), ExplainVerdict::Answered);
    assert_eq!(daemon.stats("a"), before, "nothing was sent or counted");
}

#[test]
fn what_is_left_of_limits_counts_and_is_left_as_it_was() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    // A frame costs more than a second's worth: it is owed for a while.
    let limit = RateLimit { bits_per_second: 64, burst_bits: 8, ..Default::default() };
    let few = |request: &mut CreateNicRequest| request.limit_from_guest = Some(limit);
    let mut a = Guest::connect(&daemon.nic_with("prod", "a", few));
    let _b = Guest::connect(&daemon.nic("prod", "b"));
    let frame = Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", b"x").frame();
    for _ in 0..3 {
        let reply = explain(&mut daemon, What::Frame(frame.clone()));
        assert_eq!(reply.verdict(), ExplainVerdict::Delivered, "{reply:?}");
    }
    a.send(&frame);
    wait_until("it went on", || daemon.stats("a").ingress_forwarded == 1);
    let reply = explain(&mut daemon, What::Frame(frame));
    assert_eq!(reply.drop_reason, "rate_limited", "{reply:?}");
}

#[test]
fn a_switched_network_learns_nothing_by_it() {
    let mut daemon = Daemon::start();
    daemon.network_with("lab", segment);
    let off = |request: &mut CreateNicRequest| {
        request.port_security = mvirt_net::proto::PortSecurity::Off.into();
    };
    let _a = Guest::connect(&daemon.nic_with("lab", "a", off));
    let _b = Guest::connect(&daemon.nic("lab", "b"));
    let spec = PacketSpec {
        source: "192.0.2.1".into(),
        source_mac: "02:00:00:00:aa:aa".into(),
        destination_mac: "02:00:00:00:bb:bb".into(),
        ..packet("192.0.2.2")
    };
    let reply = explain(&mut daemon, What::Packet(spec));
    assert_eq!(
        (reply.verdict(), &reply.delivered_to[..]),
        (ExplainVerdict::Delivered, &["b".into()][..])
    );
    let request = ListMacsRequest { network_id: "lab".into() };
    let macs = daemon.call(async |client| client.list_macs(request).await).unwrap().macs;
    assert!(macs.iter().all(|mac| mac.mac != "02:00:00:00:aa:aa"), "{macs:?}");
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let mut daemon = Daemon::start();
    daemon.network_with("lab", segment);
    daemon.nic("lab", "a");
    let mut refused = |from: &str, what: Option<What>| {
        let request = ExplainRequest { from: from.into(), what };
        let status = daemon.call(async |client| client.explain(request).await).unwrap_err();
        (status.code(), status.message().to_owned())
    };
    for (from, what, code, says) in [
        ("", None, Code::InvalidArgument, "from"),
        ("vm9", Some(What::Frame(vec![0; 60])), Code::NotFound, "vm9"),
        ("a", None, Code::InvalidArgument, "packet"),
        ("a", Some(What::Frame(vec![0; 13])), Code::InvalidArgument, "14-65549 octets"),
        ("a", Some(What::Frame(vec![0; 65_550])), Code::InvalidArgument, "14-65549 octets"),
        ("a", Some(What::Packet(packet("192.0.2.2"))), Code::InvalidArgument, "packet.source"),
    ] {
        let (found, message) = refused(from, what);
        assert_eq!(found, code, "{message}");
        assert!(message.contains(says), "{message}");
    }
    let spec = PacketSpec { source: "192.0.2.1".into(), ..packet("192.0.2.2") };
    let (_, message) = refused("a", Some(What::Packet(spec)));
    assert!(message.contains("destination_mac") && message.contains("192.0.2.2"), "{message}");
    // Each takes a reactor from frames for a moment.
    let request = ExplainRequest { from: "a".into(), what: Some(What::Frame(vec![0; 60])) };
    let is_refused = daemon.block_on(async |client| {
        let mut codes = Vec::new();
        for _ in 0..1000 {
            codes.push(client.explain(request.clone()).await.err().map(|status| status.code()));
        }
        codes.contains(&Some(Code::ResourceExhausted))
    });
    assert!(is_refused);
}
