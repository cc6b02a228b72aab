//! What changes, for as long as a page looks: server-sent events (HTML standard §9.2).
//!
//! | event | data |
//! |---|---|
//! | `network`, `nic`, `port` | NetworkEvent, …: what there is, `synced`, then each change |
//! | `stats` | StatsUpdate, each second |
//! | `host` | the daemon's version and what ails it, and its reactors, each second |
//!
//! All of them without what is empty. A reader that falls behind is disconnected, and asks anew.

use super::{
    super::answer::{Answer, Refused, parts},
    lean,
};
use crate::{
    control::service::Service,
    proto::{
        GetVersionRequest, ListReactorsRequest, Reactor, VersionInfo, WatchNetworksRequest,
        WatchNicsRequest, WatchPortsRequest, WatchStatsRequest, net_service_server::NetService,
    },
};
use hyper::{StatusCode, body::Bytes};
use serde::Serialize;
use std::{pin::Pin, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{MissedTickBehavior, interval},
};
use tokio_stream::{Stream, StreamExt as _, wrappers::IntervalStream};
use tonic::{Request, Status};

/// Pages that may look at the same time.
// Each costs a count of all vNICs and ports a second.
const PAGES: usize = 16;
/// How often it is counted.
const INTERVAL: Duration = Duration::from_secs(1);

/// Who looks.
#[derive(Debug, Clone)]
pub(super) struct Live(Arc<Semaphore>);

impl Default for Live {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PAGES)))
    }
}

/// How the daemon is.
#[derive(Debug, Serialize)]
struct Host {
    version: VersionInfo,
    reactors: Vec<Reactor>,
}

impl Live {
    /// Tells a page what there is and what becomes of it, until it is closed.
    pub(super) async fn follow(&self, service: &Service) -> Result<Answer, Refused> {
        let place = Arc::clone(&self.0).try_acquire_owned().map_err(|_| {
            let why = format!("{PAGES} pages are open, which is the most: close some");
            Refused(StatusCode::TOO_MANY_REQUESTS, why)
        })?;
        let mark_synced = true;
        let networks = WatchNetworksRequest { mark_synced };
        let networks = service.watch_networks(Request::new(networks)).await?.into_inner();
        let nics = WatchNicsRequest { mark_synced, ..Default::default() };
        let nics = service.watch_nics(Request::new(nics)).await?.into_inner();
        let ports = WatchPortsRequest { mark_synced, ..Default::default() };
        let ports = service.watch_ports(Request::new(ports)).await?.into_inner();
        let stats = WatchStatsRequest {
            interval_ms: u32::try_from(INTERVAL.as_millis()).unwrap_or(u32::MAX),
            targets: Vec::new(),
        };
        let stats = service.watch_stats(Request::new(stats)).await?.into_inner();
        let events = events("host", hosts(service.clone()))
            .merge(events("network", networks))
            .merge(events("nic", nics))
            .merge(events("port", ports))
            .merge(events("stats", stats));
        Ok(parts("text/event-stream", INTERVAL, held(Box::pin(events), place)))
    }
}

/// Returns how the daemon is, now and then.
fn hosts(service: Service) -> impl Stream<Item = Result<Host, Status>> + Send {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    IntervalStream::new(ticks).then(move |_| {
        let service = service.clone();
        async move {
            let version = service.get_version(Request::new(GetVersionRequest {})).await?;
            let reactors = service.list_reactors(Request::new(ListReactorsRequest {})).await?;
            let (version, reactors) = (version.into_inner(), reactors.into_inner().reactors);
            Ok(Host { version, reactors })
        }
    })
}

/// Of any kind.
// Boxed: streams within streams are types that the compiler takes minutes for.
type Events = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// Returns messages as events of that name.
fn events<T: Serialize + 'static>(
    name: &'static str,
    messages: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> Events {
    Box::pin(messages.map(move |message| {
        // JSON has no line breaks of its own, which would end the data.
        message.map(|it| format!("event: {name}\ndata: {}\n\n", lean::text(&it)).into())
    }))
}

/// Holds a place for as long as a stream is.
fn held(stream: Events, place: OwnedSemaphorePermit) -> Events {
    Box::pin(stream.map(move |item| {
        let _held = &place;
        item
    }))
}
