//! What is written of frames, as octets and words.

use super::*;
use crate::{
    dataplane::frame::verdict::DropReason,
    wire::vnet::{SegmentKind, Segments},
};

const PORT: PortId = PortId { slot: 1, generation: 1 };
const OTHER: PortId = PortId { slot: 2, generation: 1 };

fn octets(hex: &str) -> Vec<u8> {
    let hex = hex.replace(' ', "");
    let octet = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(octet).collect()
}

/// From 10.0.0.1 to 10.0.0.2; the checksum is that of the pseudo-header alone.
fn udp(to: &str) -> Vec<u8> {
    octets(&format!(
        "025359000002 025359000001 0800 4500 0020 0000 4000 4011 26cb 0a000001 0a000002 \
         3039 {to} 000c 1420 01020304"
    ))
}

fn record(outcome: Outcome, len: usize) -> Record {
    Record {
        port: PORT,
        time: Instant::now(),
        point: Point::FromGuest,
        outcome,
        offload: Offload::None,
        len,
        kept: len,
        lost: 0,
    }
}

#[test]
fn comments_say_what_became_of_a_frame() {
    let segments = Segments { kind: SegmentKind::Tcp4, size: 1448, ecn: false };
    let cut = Offload::Segmentation { start: 34, offset: 16, segments };
    let datagrams = Segments { kind: SegmentKind::Udp, size: 1200, ecn: false };
    let datagrams = Offload::Segmentation { start: 34, offset: 6, segments: datagrams };
    let arp = octets("ffffffffffff 025359000001 0806 0001");
    for (outcome, offload, frame, is_open, expected) in [
        (Outcome::Delivered, Offload::None, udp("0050"), false, "verdict=delivered"),
        (Outcome::Forwarded(OTHER), Offload::None, udp("0050"), false, "verdict=forwarded to=vm2"),
        (Outcome::Flooded, Offload::None, udp("0050"), false, "verdict=flooded"),
        (Outcome::Answered, Offload::None, arp, false, "verdict=answered by=arp"),
        (Outcome::Answered, Offload::None, udp("0043"), false, "verdict=answered by=dhcpv4"),
        (Outcome::Answered, Offload::None, udp("0035"), false, "verdict=answered by=dns"),
        (Outcome::Asked, Offload::None, udp("0043"), false, "verdict=asked by=dhcpv4"),
        (Outcome::Answered, Offload::None, vec![0; 5], false, "verdict=answered by=gateway"),
        (
            Outcome::Dropped(DropReason::SpoofedIpv4),
            Offload::None,
            udp("0050"),
            false,
            "verdict=dropped reason=spoofed_source_ipv4",
        ),
        (
            Outcome::Forwarded(OTHER),
            cut,
            udp("0050"),
            true,
            "verdict=forwarded to=vm2 offload=tso4 mss=1448 checksum=open",
        ),
        (Outcome::Delivered, datagrams, vec![], false, "verdict=delivered offload=uso size=1200"),
    ] {
        let record = Record { offload, ..record(outcome, frame.len()) };
        assert_eq!(comment::comment(&record, &frame, "vm2", is_open), expected);
    }
}

#[test]
fn checksums_that_were_left_are_completed_where_all_is_there() {
    let mut frame = udp("1b5f");
    let whole = Record {
        offload: Offload::Checksum { start: 34, offset: 6 },
        ..record(Outcome::Flooded, frame.len())
    };
    assert!(!complete(&mut frame, &whole));
    let mut sum = Checksum::pseudo_ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17, 12);
    sum.add(&frame[34..]);
    let mut check = [0; 2];
    sum.write(&mut check, 0).unwrap();
    // The sum of what has the right checksum is all ones: what is written of it, none.
    assert!(check == [0xff, 0xff], "{check:x?}");
    let mut cut = udp("1b5f");
    cut.pop();
    let before = cut.clone();
    assert!(complete(&mut cut, &whole));
    assert_eq!(cut, before);
    for (start, offset) in [(100, 6), (34, 100), (45, 0), (u16::MAX, u16::MAX)] {
        let offload = Offload::Checksum { start, offset };
        let mut frame = udp("1b5f");
        assert!(complete(&mut frame, &Record { offload, ..whole }), "{start} {offset}");
    }
    assert!(!complete(&mut [], &record(Outcome::Flooded, 60)));
}

#[test]
fn names_of_others_are_escaped() {
    let clocks = (Instant::now(), SystemTime::now());
    let mut writer = Writer::new("", 100, 2, clocks);
    let evil = Who { name: "a\u{1b}[31m/b".into(), network: "n\n".into(), ..Who::default() };
    writer.learn(PORT, evil);
    assert_eq!(
        (writer.interface(PORT), writer.interface(OTHER), writer.interface(PORT)),
        (0, 1, 0)
    );
    let text = String::from_utf8_lossy(&writer.take()).into_owned();
    assert!(text.contains("a\\u{1b}[31m/b") && text.contains("port-2"), "{text}");
    assert!(!text.contains("\u{1b}[31m"));
    assert!(!writer.is_full());
}

#[test]
fn times_go_on_from_when_it_began() {
    let (instant, system) = (Instant::now(), SystemTime::UNIX_EPOCH);
    let second = std::time::Duration::from_secs(1);
    assert_eq!(nanoseconds((instant, system), instant + second), 1_000_000_000);
    assert_eq!(nanoseconds((instant + second, system + 3 * second), instant), 2_000_000_000);
}

#[test]
fn a_frame_has_one_number_on_its_whole_way() {
    let mut pairs = Pairs::default();
    let sent = udp("0050");
    let from = record(Outcome::Forwarded(OTHER), sent.len());
    let first = pairs.number(&from, &sent);
    // With other MACs, a hop less, and the tag of a VLAN.
    let mut put = sent.clone();
    put[..12].fill(9);
    put[22] -= 1;
    put[24] += 1;
    put.splice(12..12, [0x81, 0, 0, 7]);
    let to = Record { point: Point::ToGuest, ..record(Outcome::Delivered, put.len()) };
    assert_eq!(pairs.number(&to, &put), first);
    // Each copy is the same; what is sent again is another, and what comes out next is that.
    assert_eq!(pairs.number(&to, &put), first);
    let again = pairs.number(&from, &sent);
    assert_ne!(again, first);
    assert_eq!(pairs.number(&to, &put), again);
    // Others, answers of the gateway, and what was dropped, are not.
    let mut other = put.clone();
    *other.last_mut().unwrap() += 1;
    assert_ne!(pairs.number(&to, &other), again);
    let dropped = record(Outcome::Dropped(DropReason::NoRoute), other.len());
    let number = pairs.number(&dropped, &other);
    assert_ne!(pairs.number(&to, &other), number);
    // What is long gone is forgotten.
    for n in 0..5000_u32 {
        let octets = [&sent[..30], &n.to_be_bytes(), &sent[34..]].concat();
        pairs.number(&from, &octets);
    }
    assert_ne!(pairs.number(&to, &put), again);
    assert_ne!(pairs.number(&to, &[]), pairs.number(&to, &[]));
}
