//! Whether somebody waits for a store: its disk may be slow, or not answer at all.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

/// Says whether a store is being waited for.
#[derive(Debug, Clone, Default)]
pub struct Busy(Arc<AtomicBool>);

impl Busy {
    /// Whether it is, just now.
    pub fn is_busy(&self) -> bool {
        // Relaxed: the flag guards no data. The heartbeat looks at it now and then.
        self.0.load(Relaxed)
    }

    /// Runs `work`, which waits for the store.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.store(true, Relaxed);
        let result = work();
        self.0.store(false, Relaxed);
        result
    }
}
