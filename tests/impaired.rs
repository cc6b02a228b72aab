//! A port behind bad lines: what is lost is what the line's seed says, what is late is in order,
//! and nothing is left behind where lines change or end.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use mvirt_net::{
    addr::MacAddr,
    dataplane::{
        counters::PortCounters,
        forward::{
            Domain, Network,
            switched::Switched,
            tables::{Member, NetworkKey, PortId, Role, Vnic},
        },
        frame::{Burst, FrameSet, Outgoing, verdict::DropReason},
        port::{Delivered, Port, PortFailure, Undelivered, Wakeup},
        reactor::{self, Hugepages, allowance::Allowance, ports::Attachment},
    },
    impair::{Fate, Impairment},
    model::{
        Impairments, L2Policy,
        l2::{HasGateway, Members},
    },
};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, Receiver, Sender},
    },
    time::{Duration, Instant},
};

const TIMEOUT: Duration = Duration::from_secs(20);
const NETWORK: NetworkKey = NetworkKey(1);

/// A port whose frames come from a channel and go into another. It is looked at every millisecond.
struct Wire {
    sent: Receiver<Vec<u8>>,
    waiting: VecDeque<Vec<u8>>,
    received: Sender<Vec<u8>>,
    /// It takes nothing.
    is_full: Arc<AtomicBool>,
}

impl Port for Wire {
    fn queues(&self) -> usize {
        1
    }
    fn runs(&self, _queue: usize) -> bool {
        true
    }
    fn wakeup(&self, _queue: usize) -> Option<Wakeup<'_>> {
        None
    }
    fn poll(&mut self, queue: usize, burst: &mut Burst) -> Result<(), PortFailure> {
        assert_eq!(queue, 0, "the queue of its lines is none of its own");
        // No more than is a moment's work: the reactor counts how long it takes.
        self.waiting.extend(self.sent.try_iter().take(256));
        for octets in self.waiting.iter().take(64) {
            let (frame, _) = burst.push();
            frame.head[..octets.len()].copy_from_slice(octets);
            (frame.head_len, frame.len) = (octets.len(), octets.len());
            (frame.tail, frame.pieces) = Default::default();
        }
        Ok(())
    }
    fn complete(&mut self, _queue: usize, done: FrameSet) {
        self.waiting.drain(..done.leading());
    }
    fn arm(&mut self, _queue: usize) -> Result<bool, PortFailure> {
        Ok(!self.waiting.is_empty())
    }
    fn has_room(&mut self, _queue: usize) -> bool {
        !self.is_full.load(Relaxed)
    }
    fn deliver(&mut self, frames: &[Outgoing<'_>], _queue: usize) -> Delivered {
        if self.is_full.load(Relaxed) {
            return Delivered::none(Undelivered::Full);
        }
        for frame in frames {
            assert_eq!(frame.head.len(), frame.len, "the frames of this test are short");
            self.received.send(frame.head.to_vec()).unwrap();
        }
        Delivered::all(frames.len())
    }
}

struct Guest {
    at: usize,
    send: Sender<Vec<u8>>,
    received: Receiver<Vec<u8>>,
    counters: Arc<PortCounters>,
    is_full: Arc<AtomicBool>,
}

fn port(at: usize) -> PortId {
    PortId { slot: at as u32, generation: 1 }
}

/// A frame of one guest to the other, with a number.
fn frame(from: usize, number: u32) -> Vec<u8> {
    let mac = |at| [0x52, 0x54, 0, 0, 0, at as u8 + 1];
    // An EtherType for experiments (IEEE 802, clause 9.2.3).
    [&mac(1 - from)[..], &mac(from), &[0x88, 0xb5], &number.to_be_bytes()].concat()
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[14..18].try_into().unwrap())
}

impl Guest {
    fn sends(&self, numbers: std::ops::Range<u32>) {
        numbers.for_each(|number| self.send.send(frame(self.at, number)).unwrap());
    }

    /// Returns the numbers of what comes next, and when the last of it came.
    fn hears(&self, count: usize) -> (Vec<u32>, Instant) {
        let heard = (0..count).map(|_| number(&self.received.recv_timeout(TIMEOUT).unwrap()));
        (heard.collect(), Instant::now())
    }

    #[track_caller]
    fn hears_nothing(&self) {
        assert!(self.received.recv_timeout(Duration::from_millis(50)).is_err());
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.drops().find(|(why, _)| *why == reason).map_or(0, |(_, count)| count)
    }
}

/// A reactor with a switched network of two guests, of which the first is behind lines.
struct Lab {
    reactor: reactor::Handle,
    impaired: Guest,
    other: Guest,
}

impl Lab {
    fn new(from: &str, to: &str) -> Self {
        let settings = reactor::Settings { busy_poll: Duration::ZERO, hugepages: Hugepages::Off };
        let reactor = reactor::start(1, &[], settings).unwrap().remove(0);
        let [impaired, other] = [0, 1].map(|at| {
            let (send, sent) = mpsc::channel();
            let (receive, received) = mpsc::channel();
            let (counters, is_full) = <(Arc<PortCounters>, Arc<AtomicBool>)>::default();
            let wire = Wire {
                sent,
                waiting: VecDeque::new(),
                received: receive,
                is_full: Arc::clone(&is_full),
            };
            reactor.attach(Attachment {
                id: port(at),
                network: NETWORK,
                port: Box::new(wire),
                counters: Arc::clone(&counters),
                allowance: Allowance::default(),
                on_failure: Box::new(|failure| panic!("{failure}")),
                on_gateway_event: Box::new(drop),
                on_blocking: Box::new(drop),
            });
            Guest { at, send, received, counters, is_full }
        });
        let lab = Self { reactor, impaired, other };
        lab.changes(from, to);
        lab
    }

    /// Publishes other lines, and waits until they are in force.
    fn changes(&self, from: &str, to: &str) {
        let line = |spec: &str| (!spec.is_empty()).then(|| spec.parse().unwrap());
        let now = jiff::Timestamp::now();
        let lines = Impairments::default().replaced_by(line(from), line(to), now);
        let member = |at: usize| {
            let mut vnic = Vnic::new(port(at), MacAddr([0x52, 0x54, 0, 0, 0, at as u8 + 1]), 1500);
            if at == 0 {
                vnic.settings.impairments = lines;
            }
            Member { reactor: 0, role: Role::Guest(Arc::new(vnic)) }
        };
        let members: Vec<_> = (0..2).map(member).collect();
        let rules = L2Policy::default().in_force(HasGateway::No, Members::Any);
        let domain = Domain::Switched(Switched::new(&members, rules));
        self.reactor.publish(Arc::new(Network { key: NETWORK, members, domain }));
        let (answer, answered) = mpsc::channel();
        self.reactor.ask(move || answer.send(()).unwrap());
        answered.recv_timeout(TIMEOUT).unwrap();
    }
}

/// Returns which of so many frames a line does not lose.
fn survivors(spec: &str, from: usize, count: u32) -> Vec<u32> {
    let mut line = Impairment::new(spec.parse().unwrap(), 0, Duration::ZERO);
    let mut is_held =
        |number: &u32| line.offer(frame(from, *number), &mut (), Duration::ZERO) == Fate::Held;
    (0..count).filter(|number| is_held(number)).collect()
}

#[test]
fn what_is_lost_is_what_the_seed_says_and_what_is_late_is_in_order() {
    let (from, to) = ("loss=10%,burst=3,seed=7", "loss=2%,delay=30ms,jitter=5ms,seed=8");
    let lab = Lab::new(from, to);
    let begin = Instant::now();
    lab.impaired.sends(0..5000);
    lab.other.sends(0..5000);
    for (hears, spec, line) in [(&lab.other, from, 0), (&lab.impaired, to, 1)] {
        let expected = survivors(spec, line, 5000);
        let (heard, last) = hears.hears(expected.len());
        assert_eq!(heard, expected);
        if line == 1 {
            assert!(last - begin >= Duration::from_millis(25), "{:?}", last - begin);
        }
        hears.hears_nothing();
    }
    // Both are counted where the lines are, and every frame that came is counted once.
    let lost = |spec, line| 5000 - survivors(spec, line, 5000).len() as u64;
    assert_eq!(lab.impaired.dropped(DropReason::ImpairedLoss), lost(from, 0) + lost(to, 1));
    assert_eq!(lab.impaired.counters.ingress_frames.get(), 5000);
    assert_eq!(lab.impaired.counters.ingress_forwarded.get(), 5000 - lost(from, 0));
    assert_eq!(lab.other.counters.ingress_forwarded.get(), 5000);
    assert_eq!(lab.other.counters.drops().count(), 0);
}

#[test]
fn what_lines_hold_goes_on_when_they_change_end_or_lose_their_port() {
    let lab = Lab::new("delay=1h", "delay=1h");
    let all = (0..500).collect::<Vec<_>>();
    let sends_and_hears_nothing = || {
        lab.impaired.sends(0..500);
        lab.other.sends(0..500);
        lab.impaired.hears_nothing();
        lab.other.hears_nothing();
    };
    let both_hear_all = || {
        assert_eq!(lab.impaired.hears(500).0, all);
        assert_eq!(lab.other.hears(500).0, all);
    };
    sends_and_hears_nothing();
    lab.changes("delay=2h", "delay=2h");
    both_hear_all();
    sends_and_hears_nothing();
    lab.changes("", "");
    both_hear_all();
    // Without lines nothing holds them.
    lab.impaired.sends(0..500);
    lab.other.sends(0..500);
    both_hear_all();
    // Lines whose time is over are none.
    lab.changes("delay=1h,until=300ms", "delay=1h,until=300ms");
    sends_and_hears_nothing();
    both_hear_all();
    lab.impaired.sends(0..500);
    assert_eq!(lab.other.hears(500).0, all);
    lab.changes("delay=1h", "delay=1h");
    sends_and_hears_nothing();
    let (done, detached) = mpsc::channel();
    lab.reactor.detach(port(0), move |port| done.send(port.is_some()).unwrap());
    assert!(detached.recv_timeout(TIMEOUT).unwrap());
    both_hear_all();
    assert_eq!(lab.impaired.counters.drops().count(), 0);
}

#[test]
fn memory_is_bounded_and_a_port_that_is_full_is_not_waited_for() {
    let lab = Lab::new("delay=1h", "delay=1ms");
    lab.impaired.sends(0..60_000);
    // What a frame of 18 octets takes of 4 MiB.
    let held = (4 << 20) / (18 + 64);
    let deadline = Instant::now() + TIMEOUT;
    while lab.impaired.dropped(DropReason::ImpairedQueue) < 60_000 - held {
        assert!(
            Instant::now() < deadline,
            "{:?}",
            lab.impaired.counters.drops().collect::<Vec<_>>()
        );
        lab.other.hears_nothing();
    }
    assert_eq!(lab.impaired.dropped(DropReason::ImpairedQueue), 60_000 - held);
    lab.impaired.is_full.store(true, Relaxed);
    lab.other.sends(0..100);
    while lab.impaired.dropped(DropReason::RxRingFull) < 100 {
        assert!(
            Instant::now() < deadline,
            "{:?}",
            lab.impaired.counters.drops().collect::<Vec<_>>()
        );
        lab.impaired.hears_nothing();
    }
    lab.impaired.is_full.store(false, Relaxed);
    lab.other.sends(100..200);
    assert_eq!(lab.impaired.hears(100).0, (100..200).collect::<Vec<_>>());
}
