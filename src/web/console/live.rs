//! What changes, for as long as a page looks: server-sent events (HTML standard §9.2).
//!
//! | event | data |
//! |---|---|
//! | `network`, `nic`, `port` | NetworkEvent, …: what there is, `synced`, then each change |
//! | `stats` | StatsUpdate, each second: what has come within it |
//! | `host` | the daemon's version and what ails it, and its reactors, each second |
//!
//! All of them without what is empty. What is told each second is counted and written once, for all
//! who look: one task begins with the first of them and ends with the last. Who reads slowly finds
//! the last second; who falls behind with changes is disconnected, and asks anew.

use super::{
    super::answer::{Answer, Refused, parts},
    lean,
};
use crate::{
    control::service::Service,
    mutex::lock,
    proto::{
        GetVersionRequest, ListReactorsRequest, Reactor, VersionInfo, WatchNetworksRequest,
        WatchNicsRequest, WatchPortsRequest, WatchStatsRequest, net_service_server::NetService,
    },
};
use hyper::{StatusCode, body::Bytes};
use serde::Serialize;
use std::{
    mem,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};
use tokio::sync::{Semaphore, watch};
use tokio_stream::{Stream, StreamExt as _, wrappers::WatchStream};
use tonic::{Request, Status};

/// Pages that may look at the same time.
// Each is told of every change by itself.
const PAGES: usize = 16;
/// How often it is counted.
const INTERVAL: Duration = Duration::from_secs(1);

/// Who looks.
#[derive(Debug, Clone)]
pub(super) struct Live {
    places: Arc<Semaphore>,
    /// Held by each that looks; without any, nobody counts.
    seconds: Arc<Mutex<Weak<watch::Receiver<Bytes>>>>,
}

impl Default for Live {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(PAGES)), seconds: Arc::default() }
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
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
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
        let seconds = self.seconds(service);
        let counted = WatchStream::new(watch::Receiver::clone(&seconds))
            .filter(|second| !second.is_empty())
            .map(Ok)
            // Not before the daemon ends. A page that is told no more is to notice.
            .chain(tokio_stream::once(Err(Status::unavailable("nothing is counted any more"))));
        let counted: Events = Box::pin(counted);
        let events = counted
            .merge(events("network", networks))
            .merge(events("nic", nics))
            .merge(events("port", ports));
        Ok(parts("text/event-stream", INTERVAL, held(Box::pin(events), (place, seconds))))
    }

    /// Returns what all pages are told each second.
    fn seconds(&self, service: &Service) -> Arc<watch::Receiver<Bytes>> {
        let mut kept = lock(&self.seconds);
        kept.upgrade().unwrap_or_else(|| {
            let (sender, receiver) = watch::channel(Bytes::new());
            let service = service.clone();
            tokio::spawn(async move {
                tokio::select! {
                    ended = count(&service, &sender) => {
                        tracing::debug!(?ended, "nothing is counted any more");
                    }
                    () = sender.closed() => {}
                }
            });
            let receiver = Arc::new(receiver);
            *kept = Arc::downgrade(&receiver);
            receiver
        })
    }
}

/// Tells what has come within each second, and how the daemon is.
async fn count(service: &Service, told: &watch::Sender<Bytes>) -> Result<(), Status> {
    let interval_ms = u32::try_from(INTERVAL.as_millis()).unwrap_or(u32::MAX);
    let request = WatchStatsRequest { interval_ms, targets: Vec::new() };
    let mut updates = service.watch_stats(Request::new(request)).await?.into_inner();
    let mut second = String::new();
    while let Some(update) = updates.next().await {
        let update = update?;
        // The first has what came before anybody looked, which those who come later are not told.
        if update.elapsed_ns > 0 {
            second += &event("stats", &update);
        }
        if !update.continues {
            second += &event("host", &host(service).await?);
            told.send_replace(mem::take(&mut second).into());
        }
    }
    Ok(())
}

async fn host(service: &Service) -> Result<Host, Status> {
    let version = service.get_version(Request::new(GetVersionRequest {})).await?.into_inner();
    let reactors = service.list_reactors(Request::new(ListReactorsRequest {})).await?.into_inner();
    Ok(Host { version, reactors: reactors.reactors })
}

/// Of any kind.
// Boxed: streams within streams are types that the compiler takes minutes for.
type Events = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// Returns messages as events of that name.
fn events<T: Serialize + 'static>(
    name: &'static str,
    messages: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> Events {
    Box::pin(messages.map(move |message| message.map(|it| event(name, &it).into())))
}

fn event(name: &str, message: &impl Serialize) -> String {
    // JSON has no line breaks of its own, which would end the data.
    format!("event: {name}\ndata: {}\n\n", lean::text(message))
}

/// Holds what a page has for as long as its stream is.
fn held(stream: Events, held: impl Send + 'static) -> Events {
    Box::pin(stream.map(move |item| {
        let _held = &held;
        item
    }))
}
