//! Whether somebody waits for a store: its disk may be slow, or not answer at all.

use super::{Contents, Store, StoreError};
use crate::model::{Network, Nic};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};
use uuid::Uuid;

/// Says whether a [`Watched`] store is being waited for.
#[derive(Debug, Clone, Default)]
pub struct Busy(Arc<AtomicBool>);

impl Busy {
    /// Whether it is, just now.
    pub fn is_busy(&self) -> bool {
        // Relaxed: the flag guards no data. The heartbeat looks at it now and then.
        self.0.load(Relaxed)
    }

    fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.store(true, Relaxed);
        let result = work();
        self.0.store(false, Relaxed);
        result
    }
}

/// A store that says when it is being waited for.
#[derive(Debug)]
pub struct Watched<S> {
    store: S,
    busy: Busy,
}

impl<S: Store> Watched<S> {
    /// Watches `store`.
    pub fn new(store: S) -> (Self, Busy) {
        let busy = Busy::default();
        (Self { store, busy: busy.clone() }, busy)
    }
}

impl<S: Store> Store for Watched<S> {
    fn load(&mut self) -> Result<Contents, StoreError> {
        self.busy.during(|| self.store.load())
    }

    fn put_network(&mut self, network: &Network) -> Result<(), StoreError> {
        self.busy.during(|| self.store.put_network(network))
    }

    fn put_nic(&mut self, nic: &Nic) -> Result<(), StoreError> {
        self.busy.during(|| self.store.put_nic(nic))
    }

    fn delete_network(&mut self, id: Uuid, nics: &[Uuid]) -> Result<(), StoreError> {
        self.busy.during(|| self.store.delete_network(id, nics))
    }

    fn delete_nic(&mut self, id: Uuid) -> Result<(), StoreError> {
        self.busy.during(|| self.store.delete_nic(id))
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        self.busy.during(|| self.store.probe())
    }
}
