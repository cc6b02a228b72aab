//! How many questions a vNIC may have open that others are asked, over UDP and TCP together.
//!
//! Some are in flight, others wait for those; who asks more is told that it failed.

use crate::{dataplane::forward::tables::PortId, mutex::lock};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
};
use tokio::sync::Semaphore;

/// Questions of a vNIC in flight, and with those that wait.
// A page of the web has dozens of names, which are asked for at once.
const MOST_IN_FLIGHT: usize = 32;
const MOST: usize = 256;
/// Entries below which nobody looks whose vNICs have gone quiet.
const MANY: usize = 64;

/// What a vNIC may ask.
#[derive(Debug)]
pub(super) struct Quota {
    open: Semaphore,
    in_flight: Semaphore,
}

/// Those of vNICs that ask.
#[derive(Debug, Default)]
pub(super) struct Quotas(Mutex<HashMap<PortId, Weak<Quota>>>);

impl Quotas {
    /// Returns that of a vNIC, which lives as long as anybody has it.
    pub(super) fn of(&self, port: PortId) -> Arc<Quota> {
        let mut all = lock(&self.0);
        if let Some(quota) = all.get(&port).and_then(Weak::upgrade) {
            return quota;
        }
        if all.len() >= MANY {
            all.retain(|_, quota| quota.strong_count() > 0);
        }
        let (open, in_flight) = (Semaphore::new(MOST), Semaphore::new(MOST_IN_FLIGHT));
        let quota = Arc::new(Quota { open, in_flight });
        all.insert(port, Arc::downgrade(&quota));
        quota
    }
}

impl Quota {
    /// Does `work` in its turn; `None` where too many wait already.
    pub(super) async fn take<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let _open = self.open.try_acquire().ok()?;
        let _turn = self.in_flight.acquire().await.ok()?;
        Some(work.await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn so_many_are_in_flight_and_so_many_wait() {
        let quotas = Quotas::default();
        let port = PortId { slot: 1, generation: 1 };
        let quota = quotas.of(port);
        assert!(Arc::ptr_eq(&quota, &quotas.of(port)), "it is one");
        let other = quotas.of(PortId { slot: 2, generation: 1 });
        let mut ends = Vec::new();
        let asks: Vec<_> = (0..MOST)
            .map(|_| {
                let (end, ended) = oneshot::channel::<()>();
                ends.push(end);
                let quota = Arc::clone(&quota);
                tokio::spawn(async move { quota.take(ended).await })
            })
            .collect();
        while quota.open.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(quota.in_flight.available_permits(), 0);
        assert_eq!(quota.take(async {}).await, None, "that is too much");
        assert_eq!(other.take(async { 1 }).await, Some(1), "another's is its own");
        for end in ends {
            end.send(()).unwrap();
        }
        for ask in asks {
            assert!(ask.await.unwrap().is_some());
        }
        assert_eq!(quota.take(async { 2 }).await, Some(2));
    }
}
