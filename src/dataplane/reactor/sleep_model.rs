//! Every interleaving of those who bring work and a reactor that goes to sleep, as far as the
//! memory model allows any.

use loom::sync::atomic;
use loom::{
    model,
    model::Builder,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::*, fence},
    },
    thread::spawn,
};

#[path = "sleep.rs"]
#[expect(clippy::duplicate_mod, reason = "the same code, on atomics that try every interleaving")]
mod sleep;

use sleep::Sleep;

#[test]
fn a_reactor_never_sleeps_on_a_command() {
    // With no bound it takes minutes, and finds no more.
    let mut bounded = Builder::new();
    bounded.preemption_bound = Some(2);
    bounded.check(|| {
        let (sleep, command) = (Arc::new(Sleep::new()), Arc::new(AtomicU16::new(0)));
        let callers = [1, 2].map(|number| {
            let (sleep, command) = (Arc::clone(&sleep), Arc::clone(&command));
            spawn(move || {
                // Relaxed: only the call may make it visible.
                command.fetch_add(number, Relaxed);
                sleep.call()
            })
        });
        let mut done = 0;
        if sleep.was_called() {
            done = command.load(Relaxed);
        }
        let sleeps = sleep.prepare(|| false);
        let woken = callers.map(|caller| caller.join().unwrap());
        assert!(!sleeps || woken.contains(&true) || done == 3, "{done} {woken:?}");
        assert_ne!(woken, [true, true], "once a sleep");
    });
}

#[test]
fn a_reactor_never_sleeps_on_a_frame_in_a_link() {
    model(|| {
        let (sleep, tail) = (Arc::new(Sleep::new()), Arc::new(AtomicU16::new(0)));
        let (waker, link) = (Arc::clone(&sleep), Arc::clone(&tail));
        let producer = spawn(move || {
            link.store(1, Release);
            fence(SeqCst);
            waker.must_wake()
        });
        let sleeps = sleep.prepare(|| tail.load(Acquire) != 0);
        assert!(!sleeps || producer.join().unwrap());
    });
}

/// A driver that sends, and a ring that is armed as `SplitRing::arm` does it (virtio 1.2
/// §2.7.13.4.1 and §2.7.7.1). Returns whether the device went to sleep, and whether it was kicked.
fn send_and_arm(fenced: bool) -> (bool, bool) {
    let (available, event) = (Arc::new(AtomicU16::new(0)), Arc::new(AtomicU16::new(u16::MAX)));
    let (driver_index, driver_event) = (Arc::clone(&available), Arc::clone(&event));
    let driver = spawn(move || {
        driver_index.store(1, Release);
        fence(SeqCst);
        driver_event.load(Relaxed) == 0
    });
    // A driver kicks for the entry that the event index names, here the first.
    event.store(0, Relaxed);
    if fenced {
        fence(SeqCst);
    }
    let sleeps = available.load(Acquire) == 0;
    (sleeps, driver.join().unwrap())
}

#[test]
fn a_ring_is_never_armed_over_a_frame() {
    model(|| assert_ne!(send_and_arm(true), (true, false)));
}

#[test]
#[should_panic(expected = "assertion `left != right` failed")]
fn without_its_fence_it_would_be() {
    model(|| assert_ne!(send_and_arm(false), (true, false)));
}
