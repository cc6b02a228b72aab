//! What watchers are told: the present, then every change, or that they are too slow.
//!
//! ```text
//! port: state ──▶ Untold (100 ms) ──▶ broadcast ──▶ a stream each: present, synced, changes
//! ```
//! A state that comes and goes meanwhile is not told: a VMM may change it as often as it likes, and
//! must not push other watchers' events out of the backlog. All streams share the objects that they
//! have still to tell.

use super::{Control, Owner, refusal::Refusal};
use crate::{log_limit::Said, proto};
use jiff::Timestamp;
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_stream::{Stream, StreamExt as _, wrappers::BroadcastStream};
use tonic::{Response, Status};
use uuid::Uuid;

/// Events a watcher may be behind before it is disconnected.
// A power of two, to which tokio rounds it. All watchers share what it holds.
pub(super) const BACKLOG: usize = 1024;
/// Streams at once: what one holds is small, but h2 buffers for each what its reader does not take.
const MAX_STREAMS: usize = 256;
/// How long a state must last to be told.
pub(super) const SETTLING: Duration = Duration::from_millis(100);

/// An object is there, has changed, or is gone.
#[derive(Debug, Clone)]
pub(super) struct Change<T> {
    pub(super) id: Uuid,
    /// The networks that it is, or was, in: several of a trunk alone.
    networks: Arc<[Uuid]>,
    at: i64,
    /// Absent: it is gone.
    pub(super) object: Option<Arc<T>>,
    /// It is gone from these networks alone.
    is_elsewhere: bool,
}

impl<T> Change<T> {
    pub(super) fn new(id: Uuid, networks: Vec<Uuid>, object: Option<Arc<T>>) -> Self {
        Self { id, networks: networks.into(), at: now(), object, is_elsewhere: false }
    }

    /// That it is in these networks no longer, but in others.
    pub(super) fn left(id: Uuid, networks: Vec<Uuid>) -> Self {
        Self { is_elsewhere: true, ..Self::new(id, networks, None) }
    }

    /// Whether it is told to who watches this network, or all.
    pub(super) fn is_for(&self, network: Option<Uuid>) -> bool {
        match network {
            Some(network) => self.networks.contains(&network),
            None => !self.is_elsewhere,
        }
    }
}

/// What one watcher is to be told.
#[derive(Debug)]
pub(super) struct Watch<T> {
    /// What there is.
    pub(super) present: Vec<Change<T>>,
    /// What becomes of it.
    pub(super) changes: broadcast::Receiver<Change<T>>,
    /// Those of this network only.
    pub(super) network: Option<Uuid>,
}

/// How a change is said in the API.
pub(super) trait Event: Send + 'static {
    type Object: Clone + Send + Sync + 'static;
    fn change(id: String, timestamp: i64, object: Option<Self::Object>) -> Self;
    fn synced(timestamp: i64) -> Self;
}

macro_rules! events {
    ($($event:ident { $id:ident, $object:ident: $of:ident })*) => {$(
        impl Event for proto::$event {
            type Object = proto::$of;

            fn change($id: String, timestamp: i64, $object: Option<proto::$of>) -> Self {
                Self { $id, timestamp, $object, synced: false }
            }

            fn synced(timestamp: i64) -> Self {
                Self { timestamp, synced: true, ..Self::default() }
            }
        }
    )*};
}

events! {
    NicEvent { nic_id, nic: Nic }
    NetworkEvent { network_id, network: Network }
    PortEvent { port_id, port: Port }
    ForwardEvent { forward_id, forward: Forward }
    FloatingIpEvent { floating_ip_id, floating_ip: FloatingIp }
    LoadBalancerEvent { load_balancer_id, load_balancer: LoadBalancer }
}

/// Returns the time in milliseconds of UNIX.
fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

/// Watchers that there may be at once.
#[derive(Debug, Clone)]
pub(super) struct Streams(Arc<Semaphore>);

impl Default for Streams {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_STREAMS)))
    }
}

impl Streams {
    /// The right to one.
    pub(super) fn take(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.0).try_acquire_owned().map_err(|_| {
            Refusal::Exhausted(format!(
                "{MAX_STREAMS} watches are open, which is the most: end some"
            ))
        })
    }
}

impl Control {
    /// Tells of the states that have lasted; those that have come and gone are not told.
    pub(super) fn tell_states(&mut self, now: Instant) {
        while let Some(owner) = self.untold.pop(now) {
            let id = match owner {
                Owner::Nic(id) => id,
                Owner::Port(id) | Owner::Client { port: id, .. } => {
                    self.tell_port_state(id, now);
                    continue;
                }
                // It has no watchers.
                Owner::Outside => continue,
            };
            let Some(nic) = self.nics.get_mut(&id) else { continue };
            nic.is_untold = false;
            if std::mem::replace(&mut nic.told, nic.state) == nic.state {
                continue;
            }
            // A VMM that comes and goes must not fill the log.
            if let Some(Said { unsaid }) = nic.log.line(now) {
                tracing::info!(
                    nic = nic.model.name.as_str(),
                    state = nic.state.word(),
                    unsaid,
                    "vNIC changed"
                );
                self.note_nic_state(id, Said { unsaid });
            }
            self.tell_nic(id);
        }
    }

    pub(super) fn tell_nic(&mut self, id: Uuid) {
        let Some(nic) = self.nics.get_mut(&id) else { return };
        nic.view = None;
        let network = nic.model.network_id;
        let object = self.shared_nic_view(id);
        // Without watchers there is nobody to tell.
        self.nic_events.send(Change::new(id, vec![network], object)).ok();
    }

    pub(super) fn tell_nic_gone(&self, id: Uuid, network: Uuid) {
        self.nic_events.send(Change::new(id, vec![network], None)).ok();
    }

    pub(super) fn tell_network(&mut self, id: Uuid) {
        if let Some(network) = self.networks.get_mut(&id) {
            network.view = None;
        }
        let object = self.shared_network_view(id);
        self.network_events.send(Change::new(id, vec![id], object)).ok();
    }

    /// The vNICs now, of one network if it is given, and every change from now on.
    pub(super) fn watch_nics(
        &mut self,
        request: &proto::WatchNicsRequest,
    ) -> Result<Watch<proto::Nic>, Refusal> {
        let only = self.find_only(&request.network_id)?;
        let ids: Vec<_> = self.nic_names.values().copied().collect();
        let present = ids.into_iter().filter_map(|id| {
            let network = self.stored_nic(id)?.network_id;
            if only.is_some_and(|only| only != network) {
                return None;
            }
            let object = Some(self.shared_nic_view(id)?);
            Some(Change::new(id, vec![network], object))
        });
        // Subscribed within the same turn on Control's thread: no change falls in between.
        let present = present.collect();
        Ok(Watch { present, changes: self.nic_events.subscribe(), network: only })
    }

    /// The networks now, and every change from now on.
    pub(super) fn watch_networks(&mut self) -> Watch<proto::Network> {
        let ids: Vec<_> = self.network_names.values().copied().collect();
        let present = ids.into_iter().filter_map(|id| {
            let object = Some(self.shared_network_view(id)?);
            Some(Change::new(id, vec![id], object))
        });
        let present = present.collect();
        Watch { present, changes: self.network_events.subscribe(), network: None }
    }
}

/// What a method returns.
pub(super) type EventStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn event<E: Event>(change: Change<E::Object>) -> E {
    let object = change.object.map(Arc::unwrap_or_clone);
    E::change(change.id.to_string(), change.at, object)
}

/// The present first, then the mark if it is wanted, then every change.
pub(super) fn stream<E: Event>(
    watch: Watch<E::Object>,
    mark_synced: bool,
    stream: OwnedSemaphorePermit,
) -> Response<EventStream<E>> {
    let Watch { present, changes, network } = watch;
    let told = move |change: Change<_>| change.is_for(network).then(|| event::<E>(change));
    let changes = until_lost(changes, stream, told);
    let present = tokio_stream::iter(present).map(|change| Ok(event(change)));
    let mark = mark_synced.then(|| Ok(E::synced(now())));
    Response::new(Box::pin(present.chain(tokio_stream::iter(mark)).chain(changes)))
}

/// Returns what is `told` of each that comes, until the watcher has fallen behind: it is told so
/// and disconnected.
pub(super) fn until_lost<C: Clone + Send + 'static, E>(
    coming: broadcast::Receiver<C>,
    stream: OwnedSemaphorePermit,
    told: impl Fn(C) -> Option<E>,
) -> impl Stream<Item = Result<E, Status>> {
    let coming = BroadcastStream::new(coming).filter_map(move |next| match next {
        Ok(next) => told(next).map(Ok),
        Err(lost) => Some(Err(Status::resource_exhausted(format!(
            "the watcher is too slow ({lost}): watch again"
        )))),
    });
    let mut failed = false;
    coming.take_while(move |next| {
        // Held for as long as the stream is.
        let _held = &stream;
        // Looks one item back: the error itself is still passed on, then the stream ends.
        !std::mem::replace(&mut failed, next.is_err())
    })
}

/// vNICs and ports whose state has changed and is not told yet, the first one first.
#[derive(Debug, Default)]
// A queue is in order of time, since all wait equally long.
pub(super) struct Untold(VecDeque<(Instant, Owner)>);

impl Untold {
    /// Tells of one after a while. It must not be among them.
    pub(super) fn push(&mut self, now: Instant, owner: Owner) {
        self.0.push_back((now + SETTLING, owner));
    }

    /// When the next is to be told.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.front().map(|(at, _)| *at)
    }

    /// One that is to be told by now.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Owner> {
        let due = self.0.front().is_some_and(|(at, _)| *at <= now);
        if due { self.0.pop_front().map(|(_, owner)| owner) } else { None }
    }
}
