//! Hosts speak to the gateway of their segment, in literal octets.

use super::*;
use crate::egress::protocol::SegmentIpv4;
use proptest::prelude::*;
use std::time::Duration;

const HOST: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 9]);
const OWN: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];

fn segment() -> Segment {
    Segment {
        ipv4: Some(SegmentIpv4 {
            gateway: "10.0.2.2/24".parse().unwrap(),
            dhcp: [10, 0, 2, 15].into(),
            dns: Some([10, 0, 2, 3].into()),
        }),
        ipv6: Some(SegmentIpv6 {
            gateway: "fd00::2/64".parse().unwrap(),
            dns: Some("fd00::3".parse().unwrap()),
        }),
        hostname: None,
        domain: None,
        mtu: 1500,
        restricted: false,
        resolver: None,
    }
}

/// One that has said what it says at first.
fn front(now: Instant) -> Front {
    let mut front = Front::new(segment(), now);
    front.expire(now);
    assert!(front.next_frame().is_some() && front.next_frame().is_none());
    front
}

fn frame(to: [u8; 6], ether_type: u16, packet: &[u8]) -> Vec<u8> {
    [&to[..], &HOST.0, &ether_type.to_be_bytes(), packet].concat()
}

fn frames(front: &mut Front) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| front.next_frame()).collect()
}

const ARP: [u8; 28] = [
    0, 1, 8, 0, 6, 4, 0, 1, // who has …
    0x52, 0x54, 0, 0, 0, 9, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 3,
];

/// A datagram of "ab" from 10.0.2.15:53 to 192.0.2.1:5353, without a sum.
const UDP: [u8; 30] = [
    0x45, 0, 0, 30, 0, 9, 0, 0, 64, 17, 0xac, 0xb6, 10, 0, 2, 15, 192, 0, 2, 1, // IPv4
    0, 53, 0x14, 0xe9, 0, 10, 0, 0, b'a', b'b',
];

#[test]
fn it_answers_for_its_own_addresses() {
    let now = Instant::now();
    let mut front = front(now);
    assert_eq!(front.take(&frame([0xff; 6], 0x0806, &ARP), now), Ok(Taken::Done));
    #[rustfmt::skip]
    let reply = [
        0x52, 0x54, 0, 0, 0, 9, 0x52, 0x55, 10, 0, 2, 2, 8, 6,
        0, 1, 8, 0, 6, 4, 0, 2, 0x52, 0x55, 10, 0, 2, 2, 10, 0, 2, 3,
        0x52, 0x54, 0, 0, 0, 9, 10, 0, 2, 15,
    ];
    assert_eq!(frames(&mut front), [reply]);
    let mut other = ARP;
    other[27] = 16;
    assert_eq!(front.take(&frame([0xff; 6], 0x0806, &other), now), Ok(Taken::Done));
    assert!(frames(&mut front).is_empty(), "those speak for themselves");
    // A ping of "a" to the gateway.
    let mut ping = vec![0x45, 0, 0, 29, 0, 0, 0, 0, 64, 1, 0x62, 0xd0, 10, 0, 2, 15, 10, 0, 2, 2];
    ping.extend([8, 0, 0x96, 0xf3, 0, 5, 0, 7, b'a']);
    assert_eq!(front.take(&frame(OWN, 0x0800, &ping), now), Ok(Taken::Done));
    let [pong] = &frames(&mut front)[..] else { panic!() };
    assert_eq!(pong[..14], [0x52, 0x54, 0, 0, 0, 9, 0x52, 0x55, 10, 0, 2, 2, 8, 0]);
    assert_eq!(pong[26..], [10, 0, 2, 2, 10, 0, 2, 15, 0, 0, 0x9e, 0xf3, 0, 5, 0, 7, b'a']);
}

#[test]
fn packets_for_others_go_on_and_answers_find_their_host() {
    let now = Instant::now();
    let mut front = front(now);
    assert_eq!(front.take(&frame(OWN, 0x0800, &UDP), now), Ok(Taken::Packet(&UDP[..])));
    // TCP to 10.0.2.15, whose sum is left to be done.
    #[rustfmt::skip]
    let head = [
        1, 0, 0, 0, 0, 0, 20, 0, 16, 0, 0, 0,
        0x45, 0, 0, 43, 0, 0, 0x40, 0, 64, 6, 0x6c, 0xbd, 192, 0, 2, 1, 10, 0, 2, 15,
        0, 80, 0x0f, 0xa0, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0, 3, 0xce, 0x2d, 0, 0,
    ];
    let sent = front.frame(&[&head, b"a", b"bc"], now).unwrap();
    assert_eq!(sent[..14], [0x52, 0x54, 0, 0, 0, 9, 0x52, 0x55, 10, 0, 2, 2, 8, 0]);
    assert_eq!((sent.len(), &sent[54..]), (57, &b"abc"[..]));
    let mut sum = Checksum::pseudo_ipv4([192, 0, 2, 1].into(), [10, 0, 2, 15].into(), 6, 23);
    sum.add(&sent[34..]);
    assert_eq!(sum.folded(), 0xffff);
    // What is to be cut was not made for a segment.
    let mut long = head;
    (long[1], long[4]) = (1, 1);
    assert_eq!(front.frame(&[&long, b"abc"], now), None);
}

#[test]
fn who_is_unknown_is_asked_for_and_then_gets_what_has_waited() {
    let now = Instant::now();
    let mut front = front(now);
    let message = [&[0; 12][..], &UDP[..12], &[192, 0, 2, 1, 10, 0, 2, 77], &UDP[20..]].concat();
    assert_eq!(front.frame(&[&message], now), None);
    let [question] = &frames(&mut front)[..] else { panic!() };
    assert_eq!(question[..14], [255, 255, 255, 255, 255, 255, 0x52, 0x55, 10, 0, 2, 2, 8, 6]);
    assert_eq!(
        question[20..],
        [0, 1, 0x52, 0x55, 10, 0, 2, 2, 10, 0, 2, 2, 0, 0, 0, 0, 0, 0, 10, 0, 2, 77]
    );
    let mut reply = ARP;
    reply[7] = 2;
    reply[17] = 77;
    assert_eq!(front.take(&frame(OWN, 0x0806, &reply), now), Ok(Taken::Done));
    let [sent] = &frames(&mut front)[..] else { panic!() };
    assert_eq!((&sent[..6], &sent[14..]), (&HOST.0[..], &message[12..]));
}

#[test]
fn what_comes_from_elsewhere_or_in_the_gateways_name_is_refused() {
    let now = Instant::now();
    let mut front = front(now);
    for source in [[10, 0, 3, 1], [10, 0, 2, 2], [10, 0, 2, 3], [10, 0, 2, 255], [127, 0, 0, 1]] {
        let mut packet = UDP;
        packet[12..16].copy_from_slice(&source);
        let octets = frame(OWN, 0x0800, &packet);
        assert_eq!(front.take(&octets, now), Err(Dropped::SpoofedSource), "{source:?}");
    }
    let mut arp = ARP;
    arp[17] = 2;
    let spoofed = Err(Dropped::SpoofedSource);
    assert_eq!(front.take(&frame([0xff; 6], 0x0806, &arp), now), spoofed);
    let mut frame = frame(OWN, 0x0800, &UDP);
    frame[6..12].copy_from_slice(&OWN);
    assert_eq!(front.take(&frame, now), spoofed);
    assert_eq!(front.take(&frame[..13], now), Err(Dropped::Malformed));
    assert_eq!(frames(&mut front).len(), 0);
    assert_eq!(front.neighbours.count(), (0, 0));
}

#[test]
fn what_is_flooded_for_others_is_of_no_interest() {
    let now = Instant::now();
    let mut front = front(now);
    let mut group = UDP;
    group[16..20].copy_from_slice(&[224, 0, 0, 251]);
    for (to, packet) in [([2, 0, 0, 0, 0, 1], UDP), ([1, 0, 0x5e, 0, 0, 0xfb], group)] {
        assert_eq!(front.take(&frame(to, 0x0800, &packet), now), Ok(Taken::Done));
    }
    assert_eq!(front.take(&frame([0xff; 6], 0x88cc, b"lldp"), now), Ok(Taken::Done));
    assert!(frames(&mut front).is_empty());
}

/// A message of a host to the DHCP server, from the address that it has.
fn dhcp(host: MacAddr, kind: u8, client: [u8; 4]) -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0, 9, 9, 9, 9, 0, 0, 0, 0];
    message.extend(client);
    message.extend([0; 12]);
    message.extend(host.0);
    message.extend([0; 10 + 192]);
    message.extend([99, 130, 83, 99, 53, 1, kind, 255]);
    let mut buffer = [0; 600];
    let mut writer = Writer::new(&mut buffer);
    let (from, to) = ((Ipv4Addr::from(client), 68), (Ipv4Addr::BROADCAST, 67));
    udp::write_ipv4(&mut writer, from, to, &message).unwrap();
    let len = writer.len();
    let mut frame = frame([0xff; 6], 0x0800, &buffer[..len]);
    frame[6..12].copy_from_slice(&host.0);
    frame
}

#[test]
fn an_address_is_free_once_who_had_it_was_silent_for_long_or_gives_it_back() {
    let start = Instant::now();
    let offered = |front: &mut Front, host: u8, seconds: u64| {
        let discover = dhcp(MacAddr([2, 0, 0, 0, 0, host]), 1, [0; 4]);
        let now = start + Duration::from_secs(seconds);
        assert_eq!(front.take(&discover, now), Ok(Taken::Done));
        let [offer] = &frames(front)[..] else { panic!() };
        offer[42 + 16..42 + 20].to_vec()
    };
    // It speaks from 10.0.2.15, which it has not leased.
    let speaks = frame(OWN, 0x0800, &UDP);
    let mut front = front(start);
    assert_eq!(front.take(&speaks, start), Ok(Taken::Packet(&UDP[..])));
    assert_eq!(offered(&mut front, 1, 0), [10, 0, 2, 16]);
    assert_eq!(offered(&mut front, 2, 299), [10, 0, 2, 17]);
    assert_eq!(offered(&mut front, 3, 300), [10, 0, 2, 15]);
    let mut front = self::front(start);
    assert_eq!(front.take(&speaks, start), Ok(Taken::Packet(&UDP[..])));
    assert_eq!(offered(&mut front, 1, 0), [10, 0, 2, 16]);
    assert_eq!(front.take(&dhcp(HOST, 7, [10, 0, 2, 15]), start), Ok(Taken::Done));
    assert_eq!(offered(&mut front, 2, 0), [10, 0, 2, 15]);
}

#[test]
fn a_host_that_knows_nothing_leases_an_address() {
    let now = Instant::now();
    let mut front = front(now);
    assert_eq!(front.take(&dhcp(HOST, 1, [0; 4]), now), Ok(Taken::Done));
    let [offer] = &frames(&mut front)[..] else { panic!() };
    assert_eq!(offer[..14], [0x52, 0x54, 0, 0, 0, 9, 0x52, 0x55, 10, 0, 2, 2, 8, 0]);
    assert_eq!(offer[26..38], [10, 0, 2, 2, 255, 255, 255, 255, 0, 67, 0, 68]);
    assert_eq!(offer[42 + 16..42 + 20], [10, 0, 2, 15]);
}

fn icmpv6(from: &str, to: &str, words: (u8, u8, u32), body: &[u8]) -> Vec<u8> {
    let mut buffer = [0; 600];
    let mut writer = Writer::new(&mut buffer);
    let ends = (from.parse().unwrap(), to.parse().unwrap(), 255);
    icmpv6::write(&mut writer, ends, words, body).unwrap();
    let len = writer.len();
    buffer[..len].to_vec()
}

#[test]
fn neighbours_and_a_router_are_found_over_ipv6() {
    let now = Instant::now();
    let mut front = front(now);
    let all = [0x33, 0x33, 0, 0, 0, 2];
    let mac_option = [&[1, 1][..], &HOST.0].concat();
    let question = icmpv6("fe80::9", "ff02::2", (133, 0, 0), &mac_option);
    assert_eq!(front.take(&frame(all, 0x86dd, &question), now), Ok(Taken::Done));
    let [advertisement] = &frames(&mut front)[..] else { panic!() };
    assert_eq!(advertisement[..6], HOST.0);
    #[rustfmt::skip]
    let body = [
        64, 0, 0x23, 0x28, 0, 0, 0, 0, 0, 0, 0, 0,
        1, 1, 0x52, 0x55, 10, 0, 2, 2, 5, 1, 0, 0, 0, 0, 0x05, 0xdc,
        3, 4, 64, 0xc0, 0, 0x27, 0x8d, 0, 0, 0x09, 0x3a, 0x80, 0, 0, 0, 0,
        0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        25, 3, 0, 0, 0, 0, 0x23, 0x28, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3,
    ];
    assert_eq!((advertisement[54], &advertisement[58..]), (134, &body[..]));
    let target = "fd00::3".parse::<Ipv6Addr>().unwrap();
    let body = [&target.octets()[..], &mac_option].concat();
    let question = icmpv6("fd00::9", "ff02::1:ff00:3", (135, 0, 0), &body);
    let to = [0x33, 0x33, 0xff, 0, 0, 3];
    assert_eq!(front.take(&frame(to, 0x86dd, &question), now), Ok(Taken::Done));
    let [answer] = &frames(&mut front)[..] else { panic!() };
    assert_eq!(answer[54..62], [136, 0, answer[56], answer[57], 0x60, 0, 0, 0]);
    assert_eq!(answer[78..], [2, 1, 0x52, 0x55, 10, 0, 2, 2]);
    // A ping from the link alone, and one that has crossed a router.
    let ping = icmpv6("fe80::9", "fe80::2", (128, 0, 5), b"a");
    assert_eq!(front.take(&frame(OWN, 0x86dd, &ping), now), Ok(Taken::Done));
    assert_eq!(frames(&mut front)[0][54], 129);
    let out = icmpv6("fe80::9", "2001:db8::1", (128, 0, 5), b"a");
    assert_eq!(front.take(&frame(OWN, 0x86dd, &out), now), Err(Dropped::SpoofedSource));
    let mut far = question;
    far[7] = 254;
    assert_eq!(front.take(&frame(to, 0x86dd, &far), now), Err(Dropped::Malformed));
}

#[test]
fn a_router_says_now_and_then_that_it_is_there() {
    let start = Instant::now();
    let mut front = front(start);
    let mut times = Vec::new();
    for _ in 0..4 {
        let due = front.deadline().unwrap();
        front.expire(due - Duration::from_millis(1));
        assert!(frames(&mut front).is_empty());
        front.expire(due);
        let [advertisement] = &frames(&mut front)[..] else { panic!() };
        assert_eq!(advertisement[..6], [0x33, 0x33, 0, 0, 0, 1]);
        times.push((due - start).as_secs());
    }
    assert_eq!(times, [16, 32, 432, 832]);
    let ipv4 = Front::new(Segment { ipv6: None, ..segment() }, start);
    assert_eq!(ipv4.deadline(), None);
}

#[test]
fn in_a_restricted_segment_there_is_no_router() {
    let now = Instant::now();
    let mut front = Front::new(Segment { restricted: true, ..segment() }, now);
    front.expire(now);
    let advertisement = front.next_frame().unwrap();
    assert_eq!(advertisement[58..62], [64, 0, 0, 0], "lifetime of the router");
    assert_eq!(advertisement.len(), 58 + 12 + 16 + 32);
}

proptest! {
    #[test]
    fn whatever_hosts_send_it_stays_within_bounds(
        sent in prop::collection::vec((0..5u8, prop::collection::vec(any::<u8>(), 0..120)), 0..80)
    ) {
        let start = Instant::now();
        let mut front = front(start);
        for (kind, octets) in sent {
            // Nearly right, or nothing would come far.
            let mut octets = match kind {
                0 => frame([0xff; 6], 0x0806, &[&ARP[..8], &octets].concat()),
                1 => frame(OWN, 0x0800, &[&UDP[..10], &octets].concat()),
                2 => frame([0xff; 6], 0x0800, &[&UDP[..12], &octets].concat()),
                3 => frame(OWN, 0x86dd, &[&[0x60, 0, 0, 0, 0, 32, 58, 255][..], &octets].concat()),
                _ => octets,
            };
            if kind == 1 && octets.len() >= 34 {
                let sum = crate::wire::checksum::checksum(&octets[14..34]);
                octets[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            if let Ok(Taken::Packet(packet)) = front.take(&octets, start) {
                let source = Packet::parse(0, Offload::None, packet).map(|packet| packet.source);
                if let Ok(source) = source {
                    let of_segment = segment().nic().prefixes;
                    prop_assert!(of_segment.iter().any(|it| it.contains(&source)), "{source}");
                    prop_assert!(!front.is_own(source));
                }
            }
            prop_assert!(front.waiting.len() <= MOST_WAITING);
            for answer in frames(&mut front) {
                prop_assert_eq!(&answer[6..12], &OWN[..]);
                prop_assert!(answer.len() <= 1514);
            }
        }
        prop_assert!(front.neighbours.count().0 <= neighbours::MOST);
    }
}
