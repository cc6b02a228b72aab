//! What one connection has asked and not yet read.

use super::{
    budget::{Budget, Limits},
    shares::Peer,
};
use crate::{control::LongList, mutex::lock};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Instant,
};
use tokio::sync::OwnedSemaphorePermit;

/// The requests and answers of one connection.
#[derive(Debug)]
pub(super) struct Account {
    budget: Budget,
    peer: Peer,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    // By number: answers are read in any order, since each stream has a window of its own.
    since: HashMap<u64, Instant>,
}

impl Account {
    pub(super) fn new(limits: &Limits, peer: Peer) -> Arc<Self> {
        Arc::new(Self { budget: limits.budget(peer), peer, waiting: Mutex::default() })
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(super) fn peer(&self) -> Peer {
        self.peer
    }

    /// Of the answers that wait, the one that stands still for longest: returns since when.
    pub(super) fn oldest(&self) -> Option<Instant> {
        lock(&self.waiting).since.values().min().copied()
    }

    /// An answer begins to wait, until dropped.
    pub(super) fn begin(self: &Arc<Self>, octets: usize, now: Instant) -> Answer {
        self.budget.begin(octets);
        let mut waiting = lock(&self.waiting);
        waiting.next += 1;
        let number = waiting.next;
        waiting.since.insert(number, now);
        Answer { account: Arc::clone(self), number, octets, turn: None, long: None }
    }
}

/// An answer that its client has not read.
#[derive(Debug)]
pub(super) struct Answer {
    account: Arc<Account>,
    number: u64,
    octets: usize,
    /// Given back with it.
    pub(super) turn: Option<OwnedSemaphorePermit>,
    pub(super) long: Option<Arc<LongList>>,
}

impl Answer {
    /// A piece of it was taken.
    pub(super) fn goes_on(&self, now: Instant) {
        // Counted from the last piece: an answer may take long in all, but not stand still.
        lock(&self.account.waiting).since.insert(self.number, now);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        lock(&self.account.waiting).since.remove(&self.number);
        self.account.budget.end(self.octets);
    }
}
