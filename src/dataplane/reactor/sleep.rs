//! How a reactor goes to sleep without missing what comes meanwhile.
//!
//! ```text
//! who brings work: make it visible, fence, does the reactor sleep? ring
//! the reactor:     say that it sleeps, fence, is there work? stay awake
//! ```
//! Of two fences one comes first, so one of both sees what the other did before its own.
//! `sleep_model.rs` compiles this file again on loom's atomics and goes through every interleaving.

use super::atomic::{AtomicBool, Ordering, fence};

/// Whether a reactor sleeps, and whether commands wait for it.
#[derive(Debug)]
pub(super) struct Sleep {
    sleeping: AtomicBool,
    called: AtomicBool,
}

impl Sleep {
    /// Of a reactor that is awake.
    pub(super) fn new() -> Self {
        Self { sleeping: AtomicBool::new(false), called: AtomicBool::new(false) }
    }

    /// Says that commands wait, which were made visible before; true if the reactor must be woken.
    pub(super) fn call(&self) -> bool {
        // A swap, not a store: who sees the last caller's sees what the others made visible too
        // (release sequence).
        self.called.swap(true, Ordering::Release);
        fence(Ordering::SeqCst);
        self.must_wake()
    }

    /// Whether commands wait; says so once.
    pub(super) fn was_called(&self) -> bool {
        // Looked at each turn: a load leaves the cache line shared, a swap would take it from the
        // callers. Acquire pairs with the callers' Release: who sees the call sees the command.
        self.called.load(Ordering::Relaxed) && self.called.swap(false, Ordering::Acquire)
    }

    /// Returns true to the first caller while the reactor sleeps: that one must wake it.
    /// To be called after work was made visible, and a full fence.
    pub(super) fn must_wake(&self) -> bool {
        // Relaxed: the caller's fence orders this load behind its work. Of several who see the
        // reactor asleep, the swap lets one wake it; the eventfd need not count.
        self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed)
    }

    /// Says that the reactor is about to sleep; false if it must not, because there is work.
    pub(super) fn prepare(&self, has_work: impl FnOnce() -> bool) -> bool {
        // The other half of the pair: this store, a fence, then the looks for work.
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let work = self.called.load(Ordering::Relaxed) || has_work();
        // Those who bring work from now on need not ring.
        if work {
            self.awake();
        }
        !work
    }

    /// Says that the reactor is awake.
    pub(super) fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }
}
