//! What a peer may take of this process, and all peers together: places, in which requests are
//! handled; and octets, of requests that have come and of answers that are not read yet.
//!
//! A connection cannot take all of its peer's share, nor a peer all that there is: there is always
//! something for others.

use super::shares::Peer;
use crate::{control::LongLists, mutex::lock};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tonic::Status;

/// Places in which requests are handled at a time: in all, of a peer, and of a connection. A peer's
/// other connections find room, and so do other peers.
// A peer has a quarter of all, and a connection half of that: to take everything needs four peers.
const PLACES: [usize; 3] = [256, 64, 32];
/// A request takes a place for each so many octets: what it names may need twenty times as much,
/// once it is parsed.
const PLACE: usize = 64 << 10;
/// A list takes all of its connection's, for its answer is what is large.
const LIST: usize = PLACES[2];
/// Octets of requests in all, and of a peer: one connection may send all its 64 at their longest.
const REQUESTS: [usize; 2] = [256 << 20, 64 << 20];
/// Answers that may wait in all, and of one peer, before more requests are refused.
const ANSWERS: [usize; 2] = [256, 64];
/// Their octets.
const UNREAD: [usize; 2] = [256 << 20, 64 << 20];
/// Lists that are longer than a page, and made or not read yet.
// Each may take tens of megabytes from its first page until it is read.
const LONG_LISTS: [usize; 2] = [4, 1];

/// What is taken by one peer, or by all.
#[derive(Debug)]
struct Share {
    places: Semaphore,
    requests: Arc<Semaphore>,
    long_lists: Arc<Semaphore>,
    unread: Mutex<Unread>,
}

/// Answers that wait for their clients.
#[derive(Debug, Default, Clone, Copy)]
struct Unread {
    answers: usize,
    octets: usize,
}

impl Share {
    /// All peers' at 0, or one's at 1.
    fn new(whose: usize) -> Arc<Self> {
        Arc::new(Self {
            places: Semaphore::new(PLACES[whose]),
            requests: Arc::new(Semaphore::new(REQUESTS[whose])),
            long_lists: Arc::new(Semaphore::new(LONG_LISTS[whose])),
            unread: Mutex::default(),
        })
    }
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Limits {
    all: Arc<Share>,
    /// Of those that have connections, or answers on their way.
    peers: Mutex<HashMap<Peer, Weak<Share>>>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { all: Share::new(0), peers: Mutex::default() }
    }
}

impl Limits {
    /// For a new connection.
    pub(super) fn budget(&self, peer: Peer) -> Budget {
        let mut peers = lock(&self.peers);
        // Weak, and swept here: peers come and go, and their entries must not add up.
        peers.retain(|_, share| share.strong_count() > 0);
        let own = peers.get(&peer).and_then(Weak::upgrade).unwrap_or_else(|| Share::new(1));
        peers.insert(peer, Arc::downgrade(&own));
        Budget {
            all: Arc::clone(&self.all),
            own,
            // tokio's semaphores are fair: a request of many places is not overtaken for ever by
            // small ones.
            places: Semaphore::new(PLACES[2]),
            list: Arc::new(Semaphore::new(1)),
        }
    }
}

/// What one connection may take.
#[derive(Debug)]
pub(super) struct Budget {
    all: Arc<Share>,
    own: Arc<Share>,
    places: Semaphore,
    list: Arc<Semaphore>,
}

/// Octets of a request.
#[derive(Debug, Default)]
pub(super) struct Octets([Option<OwnedSemaphorePermit>; 2]);

/// Where a request is handled.
#[derive(Debug)]
pub(super) struct Place<'a> {
    _permits: [SemaphorePermit<'a>; 3],
}

impl Budget {
    /// Takes octets of a request beside those that it has. Nobody waits for them: those who have
    /// them may wait for each other.
    pub(super) fn take(&self, count: usize, taken: &mut Octets) -> Result<(), Status> {
        // The peer's own first: who is beyond that takes nothing from all.
        for (share, taken) in [&self.own, &self.all].into_iter().zip(&mut taken.0) {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            let more = Arc::clone(&share.requests).try_acquire_many_owned(count).map_err(|_| {
                Status::resource_exhausted(
                    "too many octets of requests are being handled: send fewer at a time",
                )
            })?;
            match taken {
                Some(taken) => taken.merge(more),
                None => *taken = Some(more),
            }
        }
        Ok(())
    }

    /// The turn of a list: one at a time, until it is read if it is long.
    pub(super) async fn list(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.list).acquire_owned().await
    }

    /// A place for a request of so many octets, in the order in which they come.
    pub(super) async fn place(
        &self,
        octets: usize,
        is_list: bool,
    ) -> Result<Place<'_>, AcquireError> {
        // At most 17, for the longest request: with more than a connection has, it would wait for
        // ever.
        let count = if is_list { LIST } else { 1 + octets / PLACE };
        let count = count as u32;
        // The narrowest first: what of one connection waits does not stand in the way of others.
        let connection = self.places.acquire_many(count).await?;
        let own = self.own.places.acquire_many(count).await?;
        let all = self.all.places.acquire_many(count).await?;
        Ok(Place { _permits: [connection, own, all] })
    }

    /// Refuses a client that leaves too much unread.
    pub(super) fn check(&self) -> Result<(), Status> {
        let [all, own] = [&self.all, &self.own].map(|share| *lock(&share.unread));
        let is_within = |unread: Unread, whose: usize| {
            unread.answers < ANSWERS[whose] && unread.octets < UNREAD[whose]
        };
        if is_within(all, 0) && is_within(own, 1) {
            return Ok(());
        }
        Err(Status::resource_exhausted(format!(
            "{} answers wait for this client to read them, and {} in all ({} and {} octets)",
            own.answers, all.answers, own.octets, all.octets
        )))
    }

    /// How many long lists there may be.
    pub(super) fn long_lists(&self) -> LongLists {
        LongLists::within([&self.own, &self.all].map(|share| Arc::clone(&share.long_lists)))
    }

    /// An answer of so many octets waits to be read.
    pub(super) fn begin(&self, octets: usize) {
        for share in [&self.own, &self.all] {
            let mut unread = lock(&share.unread);
            unread.answers += 1;
            unread.octets += octets;
        }
    }

    /// It waits no more.
    pub(super) fn end(&self, octets: usize) {
        for share in [&self.own, &self.all] {
            let mut unread = lock(&share.unread);
            unread.answers -= 1;
            unread.octets -= octets;
        }
    }
}
