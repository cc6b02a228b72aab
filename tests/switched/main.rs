//! Frames between three ports of a switched network, on one reactor and on two: everybody hears
//! what is for everybody once, and nobody what is known to be another's. And between several
//! networks' and a trunk's.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod hostile;
mod rig;
mod trunk;

use mvirt_net::{
    addr::MacAddr,
    dataplane::{
        forward::{Domain, MacTable, Network},
        frame::verdict::{Blocking, DropReason},
        reactor::{
            pipeline::Pipeline,
            ports::Ports,
            ways::{Envelope, To},
        },
    },
    model::PortSecurity::{Off, Strict},
};
use rig::{
    EVERYBODY, Guest, Links, Looped, NETWORK, PLACES, STRANGER, STRICT, TIMEOUT, gateway, guest,
    guests_alone, network, port, query, run, settle, switched, to_group,
};
use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

#[test]
fn everybody_hears_a_broadcast_once_and_only_its_guest_what_is_for_a_vnic() {
    for on in PLACES {
        let (_reactors, [a, b, c]) = network(on, None, STRICT);
        let hello = a.sends(EVERYBODY, "hello");
        b.hears(&hello);
        c.hears(&hello);
        // b has sent nothing yet: where it is, is known all the same.
        let to_b = a.sends(b.mac, "to b");
        b.hears(&to_b);
        let group = b.sends([0x33, 0x33, 0, 0, 0, 1], "to a group");
        a.hears(&group);
        // Neither "to b" nor anything twice.
        c.hears(&group);
        assert_eq!(a.counters.ingress_forwarded.get(), 2, "{on:?}");
        for guest in [a, b, c] {
            assert!(guest.received.try_recv().is_err(), "{on:?}");
        }
    }
}

#[test]
fn what_was_learned_is_flooded_no_longer() {
    for on in PLACES {
        let (reactors, [a, b, c]) = network(on, None, [Strict, Off, Off]);
        let unknown = a.sends(STRANGER, "who is it?");
        b.hears(&unknown);
        c.hears(&unknown);
        let here = b.sends_as(STRANGER, a.mac, "it is behind b");
        a.hears(&here);
        let known = a.sends(STRANGER, "to it alone");
        b.hears(&known);
        // c's own reactor learns with a broadcast, if it did not by then.
        let all = b.sends_as(STRANGER, EVERYBODY, "hear me");
        a.hears(&all);
        c.hears(&all);
        let known = c.sends(STRANGER, "to it alone, too");
        b.hears(&known);
        let moved = c.sends_as(STRANGER, EVERYBODY, "I am behind c now");
        a.hears(&moved);
        b.hears(&moved);
        let known = a.sends(STRANGER, "there you are");
        c.hears(&known);
        assert_eq!(a.counters.ingress_flooded.get(), 1, "{on:?}");
        for reactor in &reactors {
            let (answer, answered) = mpsc::channel();
            reactor.macs(NETWORK, move |table| answer.send(table).unwrap());
            let macs = answered.recv_timeout(TIMEOUT).unwrap();
            let of = |table: &MacTable| table.iter().map(|known| (known.mac, known.port)).collect();
            let known: Vec<_> = of(&macs);
            assert!(known.contains(&(MacAddr(STRANGER), port(2))), "{on:?}: {known:?}");
        }
        for guest in [a, b, c] {
            assert!(guest.received.try_recv().is_err(), "{on:?}");
        }
    }
}

#[test]
fn nobody_sends_from_the_mac_of_another() {
    for on in PLACES {
        let (_reactors, [a, b, c]) = network(on, None, STRICT);
        b.sends_as(a.mac, EVERYBODY, "I am a");
        b.sends_as([0x01, 0, 0x5e, 0, 0, 1], EVERYBODY, "I am many");
        b.sends(b.mac, "to myself");
        let honest = b.sends(c.mac, "I am b");
        c.hears(&honest);
        assert!(a.received.try_recv().is_err() && b.received.try_recv().is_err());
        let dropped = [(DropReason::SpoofedMac, 2), (DropReason::Hairpin, 1)];
        assert_eq!(b.counters.drops().collect::<Vec<_>>(), dropped, "{on:?}");
    }
}

#[test]
fn a_full_receiver_misses_a_flooded_frame_and_holds_up_nobody() {
    for on in PLACES {
        let (reactors, [a, b, c]) = network(on, Some(1), STRICT);
        for number in 0..200 {
            let frame = a.sends(EVERYBODY, &number.to_string());
            c.hears(&frame);
        }
        // b's reactor has taken all links before c's last frame came, or does so in one turn more.
        settle(&reactors);
        settle(&reactors);
        assert_eq!(b.counters.drops().collect::<Vec<_>>(), [(DropReason::RxRingFull, 200)]);
        assert_eq!(a.counters.drops().count(), 0);
        assert_eq!(a.counters.ingress_forwarded.get(), 200, "{on:?}");
    }
}

#[test]
fn a_flood_is_one_frame_to_each_other_reactor() {
    for room in [1, 0] {
        let (mut pipeline, mut ports, now) =
            (Pipeline::default(), Ports::default(), Instant::now());
        let (a, attachment) = guest(0, false);
        ports.attach(attachment, Duration::ZERO);
        ports.publish(&switched([0, 1, 1], STRICT));
        let mut links = Links { room, sent: Vec::new() };
        a.sends(EVERYBODY, "hello");
        assert_eq!(pipeline.run(&mut ports, &mut links, (port(0), 0), now), Ok(1));
        let envelope = Envelope { from: port(0), to: To::Network(NETWORK), queue: 0 };
        assert_eq!(links.sent, [(1, envelope)][..room]);
        let dropped = a.counters.drops().collect::<Vec<_>>();
        assert_eq!(dropped, [(DropReason::LinkFull, 1)][..1 - room]);
        assert_eq!(a.counters.ingress_forwarded.get(), room as u64);
    }
}

// A.10: the pair keeps its rate while a third floods as fast as it can.
#[test]
fn a_storm_costs_its_sender_and_nobody_else() {
    let (mut pipeline, mut ports, [a, b, c]) = guests_alone();
    let start = Instant::now();
    ports.publish(&switched([0; 3], STRICT));
    // A second of turns, each with a full burst of the attacker's.
    for turn in 0..1000 {
        let now = start + Duration::from_millis(turn);
        (0..64).for_each(|_| drop(a.sends(EVERYBODY, "storm")));
        let frames: Vec<_> = (0..10).map(|at| b.sends(c.mac, &format!("{turn} {at}"))).collect();
        for (at, polled) in [(0, 64), (1, 10)] {
            assert_eq!(run(&mut pipeline, &mut ports, at, now), polled);
        }
        let heard: Vec<_> = c.received.try_iter().collect();
        assert!(heard.ends_with(&frames), "turn {turn}");
    }
    // What the rules admit at once, and what they admit in the second.
    let admitted = 2000 + 1998;
    assert_eq!(b.received.try_iter().count(), admitted);
    let dropped = [(DropReason::StormLimited, 64_000 - admitted as u64)];
    assert_eq!(a.counters.drops().collect::<Vec<_>>(), dropped);
    assert_eq!(a.counters.ingress_flooded.get(), admitted as u64);
    assert_eq!(b.counters.drops().chain(c.counters.drops()).count(), 0);
}

#[test]
fn a_stream_goes_to_who_has_joined_its_group() {
    for on in PLACES {
        let (reactors, [a, b, c]) = network(on, None, STRICT);
        let join = to_group(b.mac, 2, 0x16);
        let stream = to_group(a.mac, 17, 0);
        let query = query(c.mac);
        let sends = |guest: &Guest, frame: &[u8]| guest.send.send(frame.to_vec()).unwrap();
        sends(&a, &stream);
        b.hears(&stream);
        c.hears(&stream);
        // c is a router: it asks, and hears reports and streams.
        sends(&c, &query);
        a.hears(&query);
        b.hears(&query);
        sends(&b, &join);
        c.hears(&join);
        sends(&a, &stream);
        b.hears(&stream);
        c.hears(&stream);
        settle(&reactors);
        let own = to_group(c.mac, 17, 0);
        sends(&c, &own);
        b.hears(&own);
        let all = c.sends(EVERYBODY, "all");
        b.hears(&all);
        a.hears(&all);
        assert!(a.received.try_recv().is_err(), "{on:?}: neither the report nor the stream");
    }
}

#[test]
fn a_gateway_asks_who_listens_and_then_relies_on_it() {
    let (mut pipeline, mut ports, [a, b, c]) = guests_alone();
    let start = Instant::now();
    let without = Arc::into_inner(switched([0; 3], STRICT)).unwrap();
    let Domain::Switched(table) = without.domain else { panic!("it is switched") };
    let domain = Domain::Switched(table.with_gateway(gateway()));
    let network = Arc::new(Network { domain, ..without });
    for _ in 0..2 {
        // Published again, it is not asked again.
        pipeline.published(&network, start);
        ports.publish(&network);
    }
    let run = |pipeline: &mut Pipeline, ports: &mut Ports, at: usize| {
        assert_eq!(run(pipeline, ports, at, start), 1);
    };
    pipeline.handle_timeouts(&mut ports, start);
    assert_eq!(pipeline.next_timeout(), Some(start + Duration::from_secs(31)));
    for guest in [&a, &b, &c] {
        let asked: Vec<_> = guest.received.try_iter().collect();
        // From 10.0.0.1 to 224.0.0.1; from fe80::1 to ff02::1.
        assert_eq!(asked[0][..14], [1, 0, 0x5e, 0, 0, 1, 2, 0, 0, 0, 0, 1, 8, 0]);
        assert_eq!(asked[0][26..34], [10, 0, 0, 1, 224, 0, 0, 1]);
        assert_eq!(asked[1][..14], [0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0x86, 0xdd]);
        assert_eq!((asked.len(), asked[1][62]), (2, 130));
    }
    b.send.send(to_group(b.mac, 2, 0x16)).unwrap();
    run(&mut pipeline, &mut ports, 1);
    let stream = to_group(a.mac, 17, 0);
    a.send.send(stream.clone()).unwrap();
    run(&mut pipeline, &mut ports, 0);
    b.hears(&stream);
    assert!(c.received.try_recv().is_err(), "it has not joined");
    assert_eq!(b.counters.ingress_flooded.get(), 1);
    pipeline.handle_timeouts(&mut ports, start + Duration::from_secs(31));
    let later = start + Duration::from_secs(31 + 125);
    assert!(pipeline.next_timeout().is_some_and(|due| due <= later));
    assert_eq!(c.received.try_iter().count(), 2);
}

#[test]
fn where_one_of_several_has_left_a_group_the_others_are_asked_twice() {
    let (mut pipeline, mut ports, [a, b, c]) = guests_alone();
    let start = Instant::now();
    let without = Arc::into_inner(switched([0; 3], [Strict, Off, Strict])).unwrap();
    let Domain::Switched(table) = without.domain else { panic!("it is switched") };
    let domain = Domain::Switched(table.with_gateway(gateway()));
    let network = Arc::new(Network { domain, ..without });
    pipeline.published(&network, start);
    ports.publish(&network);
    pipeline.handle_timeouts(&mut ports, start);
    for kind in [0x16, 0x17] {
        b.send.send(to_group(b.mac, 2, kind)).unwrap();
        run(&mut pipeline, &mut ports, 1, start);
    }
    let everybody = [&a, &b, &c];
    everybody.iter().for_each(|guest| guest.received.try_iter().for_each(drop));
    for (seconds, asked) in [(0, 1), (1, 1), (2, 0)] {
        pipeline.handle_timeouts(&mut ports, start + Duration::from_secs(seconds));
        let heard = everybody.map(|guest| guest.received.try_iter().collect::<Vec<_>>());
        assert_eq!(heard.each_ref().map(Vec::len), [0, asked, 0], "after {seconds} s");
        for question in &heard[1] {
            assert_eq!(question[..6], [1, 0, 0x5e, 1, 1, 1]);
            assert_eq!((question[38], &question[42..46]), (0x11, &[239, 1, 1, 1][..]));
        }
    }
    a.send.send(to_group(a.mac, 17, 0)).unwrap();
    run(&mut pipeline, &mut ports, 0, start + Duration::from_secs(3));
    assert_eq!(everybody.map(|guest| guest.received.try_iter().count()), [0; 3]);
}

#[test]
fn a_port_whose_probes_come_back_by_another_is_blocked_until_the_loop_is_gone() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut looped = Looped::new(start);
    looped.pipeline.handle_timeouts(&mut looped.ports, at(1));
    let probes: Vec<_> = looped.guests[0].received.try_iter().collect();
    looped.pipeline.handle_timeouts(&mut looped.ports, at(10));
    assert_eq!(looped.guests[0].received.try_iter().count(), 0);
    looped.pipeline.handle_timeouts(&mut looped.ports, at(11));
    assert_eq!(looped.guests[0].received.try_iter().count(), 1, "ten seconds later");
    assert_eq!((probes.len(), &probes[0][..6]), (1, &[0x01, 0x53, 0x59, 0, 0, 1][..]));
    assert_eq!(looped.broadcasts(2, at(10)), [0, 1]);
    assert_eq!(looped.said.try_recv().ok(), None);
    // Forged, it blocks nobody; nor does it where it was sent.
    let mut forged = probes[0].clone();
    *forged.last_mut().unwrap() ^= 1;
    looped.sends(1, &forged, at(10));
    looped.sends(0, &probes[0], at(10));
    assert_eq!(looped.broadcasts(2, at(10)), [0, 1]);
    for (found, until) in [(20, 50), (60, 120)] {
        looped.sends(1, &probes[0], at(found));
        assert_eq!(looped.said.try_recv(), Ok((1, Some(Blocking::Loop))));
        assert_eq!(looped.broadcasts(1, at(found)), [0; 0]);
        assert_eq!(looped.broadcasts(2, at(found)), [0]);
        looped.pipeline.handle_timeouts(&mut looped.ports, at(until - 1));
        assert_eq!(looped.broadcasts(2, at(until - 1)), [0]);
        looped.pipeline.handle_timeouts(&mut looped.ports, at(until));
        assert_eq!(looped.said.try_recv(), Ok((1, None)), "twice as long the second time");
        assert_eq!(looped.broadcasts(2, at(until)), [0, 1]);
    }
    let drops: Vec<_> = looped.guests[1].counters.drops().collect();
    assert!(drops.contains(&(DropReason::BadProbe, 1)), "{drops:?}");
    let guest = &looped.guests[2];
    assert!(!guest.received.try_iter().any(|frame| frame.starts_with(&probes[0][..6])));
}

#[test]
fn a_port_is_blocked_where_a_mac_flaps() {
    let mut now = Instant::now();
    let mut looped = Looped::new(now);
    let frame = [&EVERYBODY[..], &STRANGER, &[0x88, 0xb5]].concat();
    for turn in 0..7 {
        assert_eq!(looped.said.try_recv().ok(), None);
        looped.sends(turn % 2, &frame, now);
    }
    assert_eq!(looped.said.try_recv(), Ok((0, Some(Blocking::Flap))));
    assert_eq!(looped.broadcasts(2, now), [1], "the other port goes on");
    now += Duration::from_secs(10);
    looped.pipeline.handle_timeouts(&mut looped.ports, now);
    assert_eq!(looped.said.try_recv(), Ok((0, None)));
    assert_eq!(looped.broadcasts(2, now), [0, 1]);
}

#[test]
fn what_was_learned_is_forgotten_after_five_minutes() {
    let (mut pipeline, mut ports, [a, b, c]) = guests_alone();
    let start = Instant::now();
    ports.publish(&switched([0; 3], [Strict, Off, Strict]));
    let mut run = |pipeline: &mut Pipeline, at: usize, now| {
        assert_eq!(run(pipeline, &mut ports, at, now), 1);
    };
    let here = b.sends_as(STRANGER, a.mac, "I am behind b");
    run(&mut pipeline, 1, start);
    a.hears(&here);
    let known = a.sends(STRANGER, "to it alone");
    run(&mut pipeline, 0, start);
    b.hears(&known);
    let due = start + Duration::from_secs(300);
    assert_eq!(pipeline.next_timeout(), Some(due));
    pipeline.handle_timeouts(&mut Ports::default(), due);
    assert_eq!(pipeline.next_timeout(), None, "nothing is left");
    let unknown = a.sends(STRANGER, "are you there?");
    run(&mut pipeline, 0, due);
    b.hears(&unknown);
    c.hears(&unknown);
    assert!(c.received.try_recv().is_err());
}
