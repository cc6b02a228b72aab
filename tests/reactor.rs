//! What no guest can be brought to do at will, shown with ports that exist for this only: a panic
//! in a burst costs the port it was taken from, and nobody else (R45); a reactor that is asked
//! answers between two turns.

use mvirt_net::dataplane::{
    counters::PortCounters,
    forward::tables::{NetworkKey, PortId},
    frame::{Burst, FrameSet, Outgoing},
    port::{Delivered, Port, PortFailure, Undelivered, Wakeup},
    reactor::{self, Hugepages, allowance::Allowance, ports::Attachment},
};
use rustix::{
    event::{EventfdFlags, eventfd},
    io::write,
};
use std::{
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A port that calls these. Without a wakeup it is looked at every millisecond; with one, it wakes
/// unasked.
struct Strange {
    event: Option<OwnedFd>,
    polled: Box<dyn FnMut() + Send>,
    published: Box<dyn FnMut() + Send>,
}

impl Port for Strange {
    fn queues(&self) -> usize {
        1
    }
    fn runs(&self, _queue: usize) -> bool {
        true
    }
    fn wakeup(&self, _queue: usize) -> Option<Wakeup<'_>> {
        self.event.as_ref().map(|event| Wakeup::Read(event.as_fd()))
    }
    fn wakes_unasked(&self, _queue: usize) -> bool {
        self.event.is_some()
    }
    fn poll(&mut self, _queue: usize, _burst: &mut Burst) -> Result<(), PortFailure> {
        (self.polled)();
        Ok(())
    }
    fn complete(&mut self, _queue: usize, _done: FrameSet) {}
    fn arm(&mut self, _queue: usize) -> Result<bool, PortFailure> {
        Ok(false)
    }
    fn has_room(&mut self, _queue: usize) -> bool {
        false
    }
    fn deliver(&mut self, _: &[Outgoing<'_>], _: usize) -> Delivered {
        Delivered::none(Undelivered::Full)
    }
    fn publish(&mut self) {
        (self.published)();
    }
}

fn strange(
    event: Option<OwnedFd>,
    polled: impl FnMut() + Send + 'static,
    published: impl FnMut() + Send + 'static,
) -> Box<Strange> {
    Box::new(Strange { event, polled: Box::new(polled), published: Box::new(published) })
}

fn attachment(
    slot: u32,
    polled: impl FnMut() + Send + 'static,
    on_failure: impl FnOnce(PortFailure) + Send + 'static,
) -> Attachment {
    Attachment {
        id: PortId { slot, generation: 1 },
        network: NetworkKey(1),
        port: strange(None, polled, || ()),
        counters: Arc::new(PortCounters::default()),
        allowance: Allowance::default(),
        on_failure: Box::new(on_failure),
        on_gateway_event: Box::new(drop),
        on_blocking: Box::new(drop),
    }
}

#[test]
fn a_reactor_that_is_asked_answers_between_two_turns() {
    let settings = reactor::Settings { busy_poll: Duration::ZERO, hugepages: Hugepages::Off };
    let reactor = reactor::start(1, &[], settings).unwrap().remove(0);
    let (polled, is_polled) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let slow = move || {
        polled.send(()).ok();
        may_go_on.recv().ok();
    };
    reactor.attach(attachment(0, slow, |failure| panic!("{failure}")));
    is_polled.recv_timeout(PATIENCE).unwrap();
    let (answer, answered) = mpsc::channel();
    reactor.ask(move || answer.send(()).unwrap());
    let early = answered.recv_timeout(Duration::from_millis(50));
    assert_eq!(early, Err(RecvTimeoutError::Timeout), "the turn is not over");
    drop(go_on);
    answered.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn a_port_that_wakes_unasked_is_polled_when_it_has_woken() {
    // Its queue stays active to the end.
    let busy_poll = Duration::from_secs(3600);
    let settings = reactor::Settings { busy_poll, hugepages: Hugepages::Off };
    let reactor = reactor::start(1, &[], settings).unwrap().remove(0);
    let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let ours = event.try_clone().unwrap();
    let (polled, is_polled) = mpsc::channel();
    let polled = move || {
        polled.send(()).ok();
    };
    let port = strange(Some(event), polled, || ());
    reactor.attach(Attachment { port, ..attachment(0, || (), |failure| panic!("{failure}")) });
    for _ in 0..3 {
        is_polled.recv_timeout(PATIENCE).unwrap();
        // Some turns.
        for _ in 0..3 {
            let (answer, answered) = mpsc::channel();
            reactor.ask(move || answer.send(()).unwrap());
            answered.recv_timeout(PATIENCE).unwrap();
        }
        assert!(is_polled.try_recv().is_err(), "it was found empty, and has not woken since");
        write(&ours, &1_u64.to_ne_bytes()).unwrap();
    }
}

#[test]
fn a_panic_while_a_turn_is_published_costs_its_own_port() {
    let settings = reactor::Settings { busy_poll: Duration::ZERO, hugepages: Hugepages::Off };
    let reactor = reactor::start(1, &[], settings).unwrap().remove(0);
    let (failures, failed) = mpsc::channel();
    let published = Arc::new(AtomicU64::new(0));
    // All three are touched in one turn, by being attached: the one that panics is neither first
    // nor last.
    for (slot, panics) in [(0, false), (1, true), (2, false)] {
        let (failures, count) = (failures.clone(), Arc::clone(&published));
        let publish = move || {
            assert!(!panics, "injected");
            count.fetch_add(1, Ordering::Relaxed);
        };
        let on_failure = move |failure| failures.send((slot, failure)).unwrap();
        reactor.attach(Attachment {
            port: strange(None, || (), publish),
            ..attachment(slot, || (), on_failure)
        });
    }
    let (slot, failure) = failed.recv_timeout(PATIENCE).unwrap();
    assert!(slot == 1 && failure.to_string().contains("panicked"), "{slot}: {failure}");
    let (answer, answered) = mpsc::channel();
    reactor.ask(move || answer.send(()).unwrap());
    answered.recv_timeout(PATIENCE).unwrap();
    assert!(published.load(Ordering::Relaxed) >= 2, "the others were published");
    assert!(failed.try_recv().is_err());
}

#[test]
fn a_port_that_makes_its_reactor_sleep_fails_and_nobody_else() {
    let settings = reactor::Settings { busy_poll: Duration::ZERO, hugepages: Hugepages::Off };
    let reactor = reactor::start(1, &[], settings).unwrap().remove(0);
    let (failures, failed) = mpsc::channel();
    // As one whose memory has to be waited for.
    let sleeps = || std::thread::park_timeout(Duration::from_millis(20));
    let fails = |slot: u32| {
        let failures = failures.clone();
        move |failure| failures.send((slot, failure)).unwrap()
    };
    reactor.attach(attachment(0, || (), fails(0)));
    reactor.attach(attachment(1, sleeps, fails(1)));
    let (slot, failure) = failed.recv_timeout(PATIENCE).unwrap();
    assert!(slot == 1 && failure.to_string().contains("had to wait"), "{slot}: {failure}");
    assert!(failed.try_recv().is_err());

    // It is held against its vNIC: a port that is taken back and given again does not begin anew.
    let (done, detached) = mpsc::channel();
    let id = PortId { slot: 1, generation: 1 };
    reactor.detach(id, move |taken| done.send(taken.map(|taken| taken.allowance)).unwrap());
    let allowance = detached.recv_timeout(PATIENCE).unwrap().unwrap();
    let polled = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&polled);
    let sleeps_again = move || {
        count.fetch_add(1, Ordering::Relaxed);
        sleeps();
    };
    reactor.attach(Attachment { allowance, ..attachment(1, sleeps_again, fails(1)) });
    let (slot, _) = failed.recv_timeout(PATIENCE).unwrap();
    assert_eq!((slot, polled.load(Ordering::Relaxed)), (1, 1));
}

#[test]
fn a_panic_costs_its_own_port() {
    let settings = reactor::Settings { busy_poll: Duration::ZERO, hugepages: Hugepages::Off };
    let reactor = reactor::start(1, &[], settings).unwrap().remove(0);
    let (failures, failed) = mpsc::channel();
    let attach = |slot: u32, panics_at| {
        let (polled, failures) = (Arc::new(AtomicU64::new(0)), failures.clone());
        let count = Arc::clone(&polled);
        let look = move || {
            assert_ne!(count.fetch_add(1, Ordering::Relaxed) + 1, panics_at, "injected");
        };
        let on_failure = move |failure| failures.send((slot, failure)).unwrap();
        reactor.attach(attachment(slot, look, on_failure));
        polled
    };
    let sound = attach(0, u64::MAX);
    let strange = attach(1, 3);
    let (slot, failure) = failed.recv_timeout(PATIENCE).unwrap();
    assert_eq!(slot, 1);
    assert!(failure.to_string().contains("panicked"), "{failure}");
    let before = sound.load(Ordering::Relaxed);
    let deadline = std::time::Instant::now() + PATIENCE;
    while sound.load(Ordering::Relaxed) < before + 5 {
        assert!(std::time::Instant::now() < deadline, "the other port is looked at no more");
        std::thread::yield_now();
    }
    assert_eq!(strange.load(Ordering::Relaxed), 3, "and this one is not");
    // It can still be taken back.
    let (done, detached) = mpsc::channel();
    reactor.detach(PortId { slot: 1, generation: 1 }, move |_| done.send(()).unwrap());
    detached.recv_timeout(PATIENCE).unwrap();
    assert!(failed.try_recv().is_err());
}
