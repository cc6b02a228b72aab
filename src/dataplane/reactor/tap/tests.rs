//! Captures of a reactor without a reactor: what they take, what they lose, what they leave out.

use super::*;
use crate::{dataplane::frame::verdict::DropReason, wire::vnet::Offload};
use std::sync::{atomic::AtomicU64, mpsc};

const PORT: PortId = PortId { slot: 1, generation: 1 };
const OTHER: PortId = PortId { slot: 2, generation: 1 };

struct Rig {
    taps: Rc<RefCell<Taps>>,
    full: mpsc::Receiver<Chunk>,
    empty: mpsc::Sender<Chunk>,
    lost: Arc<AtomicU64>,
}

impl Rig {
    fn new(tap: Tap) -> Self {
        let (empty, emptied) = mpsc::channel();
        let (filled, full) = mpsc::channel();
        (0..CHUNKS).for_each(|_| empty.send(Chunk::default()).unwrap());
        let lost = Arc::<AtomicU64>::default();
        let hand_on = Box::new(move |chunk| filled.send(chunk).is_ok());
        let taps = Rc::<RefCell<Taps>>::default();
        let recorder = Recorder::new(emptied, Arc::clone(&lost), hand_on);
        taps.borrow_mut().begin(Arc::new(tap), recorder);
        Self { taps, full, empty, lost }
    }

    fn see(&self, octets: &[u8], seen: Seen) {
        // Time is not what is tried here.
        self.taps.borrow_mut().left = SAVED;
        let tapped = Taps::of(&self.taps, seen.port, |_| false);
        if let Some(tapped) = tapped {
            tapped.see(&[Outgoing::private(octets, Offload::None)], seen);
        }
    }

    /// What was captured, octets and fates.
    fn captured(&self) -> Vec<(Vec<u8>, Outcome, u64)> {
        self.taps.borrow_mut().end_turn(Instant::now(), true);
        let mut all = Vec::new();
        for mut chunk in self.full.try_iter() {
            all.extend(chunk.iter().map(|(it, octets)| (octets.to_vec(), it.outcome, it.lost)));
            chunk.clear();
            self.empty.send(chunk).unwrap();
        }
        all
    }
}

fn tap() -> Tap {
    let points = Points { from_guest: true, to_guest: true, dropped: true };
    Tap { id: 1, targets: Targets::Ports(vec![PORT]), points, filter: None, snaplen: 1000 }
}

fn seen(point: Point, outcome: Outcome) -> Seen {
    Seen { port: PORT, vlan: None, point, outcome }
}

const DROPPED: Outcome = Outcome::Dropped(DropReason::NoRoute);

#[test]
fn frames_are_seen_where_they_are_wanted() {
    let all = [
        seen(Point::FromGuest, Outcome::Forwarded(OTHER)),
        seen(Point::FromGuest, DROPPED),
        seen(Point::ToGuest, Outcome::Delivered),
        seen(Point::ToGuest, DROPPED),
    ];
    for (wanted, expected) in [
        ([true, true, true], "1111"),
        ([true, false, false], "11.."),
        ([false, true, false], "..1."),
        ([false, false, true], ".1.1"),
    ] {
        let [from_guest, to_guest, dropped] = wanted;
        let rig = Rig::new(Tap { points: Points { from_guest, to_guest, dropped }, ..tap() });
        let found = all.iter().map(|it| {
            rig.see(&[7; 60], *it);
            rig.see(&[7; 60], Seen { port: OTHER, ..*it });
            if rig.captured() == [(vec![7; 60], it.outcome, 0)] { '1' } else { '.' }
        });
        assert_eq!(found.collect::<String>(), expected, "{wanted:?}");
    }
}

#[test]
fn what_is_long_is_cut_and_what_does_not_match_is_left_out() {
    let filter = "len > 100 and ether[0] = 1".parse().ok();
    let rig = Rig::new(Tap { filter, snaplen: 64, ..tap() });
    for octets in [[1; 100].as_slice(), &[2; 101], &[1; 101]] {
        rig.see(octets, seen(Point::FromGuest, Outcome::Flooded));
    }
    assert_eq!(rig.captured(), [(vec![1; 64], Outcome::Flooded, 0)]);
}

#[test]
fn frames_of_a_vlan_have_its_tag() {
    let filter = "vlan 7".parse().ok();
    let rig = Rig::new(Tap { filter, ..tap() });
    let frame = (0..200).collect::<Vec<u8>>();
    let vlan = VlanId::new(7);
    rig.see(&frame, Seen { vlan, ..seen(Point::ToGuest, Outcome::Delivered) });
    rig.see(&frame, seen(Point::ToGuest, Outcome::Delivered));
    let tagged = [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat();
    assert_eq!(rig.captured(), [(tagged, Outcome::Delivered, 0)]);
}

#[test]
fn what_finds_no_room_is_lost_and_counted() {
    let rig = Rig::new(Tap { snaplen: 65_549, ..tap() });
    let long = vec![1; 65_549];
    // One a chunk: two of them do not fit.
    (0..CHUNKS + 3).for_each(|_| rig.see(&long, seen(Point::FromGuest, Outcome::Answered)));
    assert_eq!(rig.lost.load(std::sync::atomic::Ordering::Relaxed), 3);
    assert_eq!(rig.captured().len(), CHUNKS);
    rig.see(&[1; 60], seen(Point::FromGuest, Outcome::Answered));
    assert_eq!(rig.captured(), [(vec![1; 60], Outcome::Answered, 3)]);
    // With a reader that keeps up, nothing is lost.
    for _ in 0..2000 {
        rig.see(&[2; 60], seen(Point::FromGuest, Outcome::Answered));
        rig.see(&[3; 60], seen(Point::FromGuest, Outcome::Answered));
        assert_eq!(rig.captured().len(), 2);
    }
}

#[test]
fn captures_take_no_more_than_their_time() {
    let rig = Rig::new(tap());
    let tapped = Taps::of(&rig.taps, PORT, |_| false).unwrap();
    let frames = [Outgoing::private(&[1; 60], Offload::None)];
    rig.taps.borrow_mut().left = Duration::ZERO;
    tapped.see(&frames, seen(Point::FromGuest, Outcome::Answered));
    assert_eq!(rig.lost.load(std::sync::atomic::Ordering::Relaxed), 1);
    let now = Instant::now();
    rig.taps.borrow_mut().end_turn(now, false);
    rig.taps.borrow_mut().end_turn(now + Duration::from_millis(5), false);
    assert_eq!(rig.taps.borrow().left, Duration::from_micros(500));
    tapped.see(&frames, seen(Point::FromGuest, Outcome::Answered));
    assert_eq!(rig.captured().len(), 1);
    assert!(rig.taps.borrow().left < Duration::from_micros(500));
}

#[test]
fn the_flight_ring_keeps_the_last_heads_of_all_ports() {
    let taps = Rc::<RefCell<Taps>>::default();
    assert!(taps.borrow_mut().kept().is_empty());
    taps.borrow_mut().keep(Flight::new(1));
    let see = |n: u32| {
        taps.borrow_mut().left = SAVED;
        let octets = [&n.to_be_bytes()[..], &[7; 196]].concat();
        let tapped = Taps::of(&taps, OTHER, |_| false).unwrap();
        let seen = Seen { port: OTHER, ..seen(Point::ToGuest, Outcome::Delivered) };
        tapped.see(&[Outgoing::private(&octets, Offload::None)], seen);
    };
    let kept = || {
        let numbers = |chunk: &Arc<Chunk>| {
            let number = |(_, octets): (&Record, &[u8])| {
                assert_eq!(octets.len(), 128);
                u32::from_be_bytes(*octets.first_chunk().unwrap())
            };
            chunk.iter().map(number).collect::<Vec<_>>()
        };
        taps.borrow_mut().kept().iter().flat_map(numbers).collect::<Vec<_>>()
    };
    (0..10).for_each(see);
    assert_eq!(kept(), (0..10).collect::<Vec<_>>());
    // Who reads it keeps what it reads, and the ring goes on.
    let read = taps.borrow_mut().kept();
    (10..10_000).for_each(see);
    assert_eq!(read[0].iter().count(), 10);
    let last = kept();
    assert_eq!(last.last(), Some(&9999));
    // Of four chunks of 512, one was just begun, and one when it was read before.
    assert!(last.len() >= 2 * 512, "{}", last.len());
    assert!(last.windows(2).all(|pair| pair[0] + 1 == pair[1]));
}

#[test]
fn who_is_no_target_is_not_tapped() {
    let network = NetworkKey(7);
    let rig = Rig::new(Tap { targets: Targets::Network(network), ..tap() });
    assert!(Taps::of(&rig.taps, OTHER, |key| key == network).is_some());
    assert!(Taps::of(&rig.taps, OTHER, |key| key != network).is_none());
    rig.taps.borrow_mut().end(2);
    assert!(!rig.taps.borrow().is_empty());
    rig.taps.borrow_mut().end(1);
    assert!(rig.taps.borrow().is_empty());
    assert!(Taps::of(&rig.taps, OTHER, |_| true).is_none());
}
