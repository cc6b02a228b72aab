//! A panic in a burst costs the port it was taken from, and nobody else (R45): shown with ports that exist for this only.

use mvirt_net::dataplane::{
    counters::PortCounters,
    frame::{Burst, Outgoing},
    port::{Port, PortFailure, Undelivered},
    ports::Attachment,
    reactor::{self, Hugepages},
    snapshot::{NetworkKey, PortId},
};
use std::{
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A port without a doorbell, which is looked at every millisecond, and panics at its `panics_at`th time.
struct Strange {
    polled: Arc<AtomicU64>,
    panics_at: u64,
}

impl Port for Strange {
    fn queues(&self) -> usize {
        1
    }
    fn runs(&self, _queue: usize) -> bool {
        true
    }
    fn doorbell(&self, _queue: usize) -> Option<BorrowedFd<'_>> {
        None
    }
    fn poll(&mut self, _queue: usize, _burst: &mut Burst) -> Result<(), PortFailure> {
        let times = self.polled.fetch_add(1, Ordering::Relaxed) + 1;
        assert_ne!(times, self.panics_at, "injected");
        Ok(())
    }
    fn complete(&mut self, _queue: usize, _done: u64) {}
    fn arm(&mut self, _queue: usize) -> Result<bool, PortFailure> {
        Ok(false)
    }
    fn disarm(&mut self, _queue: usize) {}
    fn has_room(&mut self, _queue: usize) -> bool {
        false
    }
    fn deliver(&mut self, _: &[Outgoing<'_>], _: usize) -> Result<(), (usize, Undelivered)> {
        Err((0, Undelivered::Full))
    }
    fn publish(&mut self) {}
    fn notify(&mut self) -> Result<(), PortFailure> {
        Ok(())
    }
    fn stop(&mut self) {}
}

#[test]
fn a_panic_costs_its_own_port() {
    let settings = reactor::Settings { busy_poll: Duration::ZERO, hugepages: Hugepages::Off };
    let reactor = reactor::start(1, &[], settings).unwrap().remove(0);
    let (failures, failed) = mpsc::channel();
    let attach = |slot: u32, panics_at| {
        let (polled, failures) = (Arc::new(AtomicU64::new(0)), failures.clone());
        reactor.attach(Attachment {
            id: PortId { slot, generation: 1 },
            network: NetworkKey(1),
            port: Box::new(Strange { polled: Arc::clone(&polled), panics_at }),
            counters: Arc::new(PortCounters::default()),
            on_failure: Box::new(move |failure| failures.send((slot, failure)).unwrap()),
            on_told: Box::new(|_| {}),
        });
        polled
    };
    let sound = attach(0, u64::MAX);
    let strange = attach(1, 3);
    let (slot, failure) = failed.recv_timeout(PATIENCE).unwrap();
    assert_eq!(slot, 1);
    assert!(failure.0.contains("panicked"), "{failure}");
    let before = sound.load(Ordering::Relaxed);
    let deadline = std::time::Instant::now() + PATIENCE;
    while sound.load(Ordering::Relaxed) < before + 5 {
        assert!(std::time::Instant::now() < deadline, "the other port is looked at no more");
        std::thread::yield_now();
    }
    assert_eq!(strange.load(Ordering::Relaxed), 3, "and this one is not");
    // It can still be taken back.
    let (done, detached) = mpsc::channel();
    reactor.detach(PortId { slot: 1, generation: 1 }, move || done.send(()).unwrap());
    detached.recv_timeout(PATIENCE).unwrap();
    assert!(failed.try_recv().is_err());
}
