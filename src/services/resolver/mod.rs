//! Names of others: what a gateway does not know itself, it asks servers that do, and keeps.
//!
//! ```text
//! query ─▶ reply: ours? ──────────────────────────────────────────────▶ answered at once
//!                └ a Lookup ─▶ cache ─▶ in flight? ─▶ upstream: UDP, TCP ─▶ servers
//! ```
//! Each question is asked once at a time, however many wait for its answer. What servers of one
//! network have said is told to those alone that have the same servers.

mod cache;
mod quota;
mod servers;
mod stored;
mod upstream;

pub use servers::Upstream;

use crate::{dataplane::forward::tables::PortId, mutex::lock, wire::dns_message::Query};
use cache::Cache;
use quota::Quotas;
use servers::{Habits, HostServers};
use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use stored::Stored;
use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, timeout},
};

/// How long all of a question may take.
// As long as most clients wait before they ask again (resolv.conf(5)).
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions of the daemon's that servers are asked at a time. Each has a descriptor.
const MOST_IN_FLIGHT: usize = 1024;

/// A question, and whom it is for. Answers are kept by it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    servers: Arc<[SocketAddr]>,
    /// In wire form, in small letters.
    name: Box<[u8]>,
    kind: u16,
    signatures: bool,
    unchecked: bool,
}

/// What finds names of others.
#[derive(Debug)]
pub(super) struct Resolver {
    state: Mutex<State>,
    in_flight: Semaphore,
    host: HostServers,
    habits: Mutex<Habits>,
    quotas: Quotas,
}

/// Locked for a look-up or a change of an entry.
#[derive(Debug, Default)]
struct State {
    cache: Cache,
    /// Who waits for the answers that servers are asked for.
    waiting: HashMap<Key, Vec<oneshot::Sender<Arc<Stored>>>>,
}

impl Resolver {
    /// One that asks the servers of the host, as a file has them, where a network has none.
    pub(super) fn new(resolv_conf: PathBuf) -> Self {
        Self {
            state: Mutex::default(),
            in_flight: Semaphore::new(MOST_IN_FLIGHT),
            host: HostServers::new(resolv_conf),
            habits: Mutex::default(),
            quotas: Quotas::default(),
        }
    }

    /// Returns the question of a query, for the servers of its network; `None` where it is none.
    pub(super) fn key(&self, upstream: &Upstream, query: &Query<'_>) -> Option<Key> {
        let question = query.question.as_ref().ok()?;
        Some(Key {
            servers: match upstream {
                Upstream::Host => self.host.now(),
                Upstream::These(servers) => Arc::clone(servers),
            },
            name: question.name.octets().to_ascii_lowercase().into(),
            kind: question.kind,
            signatures: query.wants_signatures(),
            unchecked: query.disables_checks(),
        })
    }

    /// Returns the answer to a question where it is known.
    pub(super) fn known(&self, key: &Key, now: Instant) -> Option<Arc<Stored>> {
        lock(&self.state).cache.get(key, now.into_std())
    }

    /// Returns the answer to a vNIC's question, which is asked unless it is known or somebody asks
    /// it; that there is none, where the vNIC asks too much.
    pub(super) async fn find(self: &Arc<Self>, port: PortId, key: Key) -> Arc<Stored> {
        let quota = self.quotas.of(port);
        let failed = || Arc::new(Stored::failure(Instant::now().into_std()));
        quota.take(self.wait(key)).await.flatten().unwrap_or_else(failed)
    }

    /// Returns the answer to a question once there is one; `None` where none comes.
    async fn wait(self: &Arc<Self>, key: Key) -> Option<Arc<Stored>> {
        let (sender, receiver) = oneshot::channel();
        let is_first = {
            let mut state = lock(&self.state);
            // Somebody may have been told meanwhile.
            if let Some(stored) = state.cache.get(&key, Instant::now().into_std()) {
                return Some(stored);
            }
            let waiting = state.waiting.entry(key.clone()).or_default();
            waiting.push(sender);
            waiting.len() == 1
        };
        if is_first {
            // Of its own: whoever asked first may be gone before others have their answer.
            tokio::spawn(Arc::clone(self).fly(key));
        }
        receiver.await.ok()
    }

    /// Asks servers a question, keeps their answer, and tells all who wait for it.
    async fn fly(self: Arc<Self>, key: Key) {
        // However it ends, nobody waits for ever.
        let mut landing = Landing { resolver: &self, key: Some(&key) };
        let asked = async {
            let _permit = self.in_flight.acquire().await.ok()?;
            upstream::ask(&key, &self.habits).await
        };
        let message = timeout(PATIENCE, asked).await.ok().flatten();
        let now = Instant::now().into_std();
        let stored = message.and_then(|message| Stored::read(&message, now));
        let stored = Arc::new(stored.unwrap_or_else(|| Stored::failure(now)));
        let waiting = {
            let mut state = lock(&self.state);
            state.cache.put(key.clone(), Arc::clone(&stored), now);
            landing.key = None;
            state.waiting.remove(&key)
        };
        // Some have stopped waiting.
        waiting.into_iter().flatten().for_each(|waits| drop(waits.send(Arc::clone(&stored))));
    }
}

/// A question that is in flight, until all who wait were told.
struct Landing<'a> {
    resolver: &'a Resolver,
    key: Option<&'a Key>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        // By a panic: whoever waits hears that there is no answer, and the next one asks again.
        let Some(key) = self.key else { return };
        let waiting = lock(&self.resolver.state).waiting.remove(key);
        drop(waiting);
    }
}
