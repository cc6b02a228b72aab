//! Who connects to a listening port, on the way to being a member of its network.
//!
//! ```text
//! listener ───── Arrived(Arrival) ────▶ control ── place, attach(Member), publish ──▶ reactors
//! connection ─── State(Left) ─────────▶ control ── publish without it, close, release
//! ```
//! A listening port is one object of the API and, of the data plane, one port more for each
//! connection: each has a place, counters and limits of its own. The listener has a place, too, by
//! which its events name it; it carries no frames and is in no table.

use super::{export::Exported, port_handle::PortHandle};
use crate::{
    log_limit::{LogLimit, Said},
    mutex::lock,
};
use rustix::process::{Resource, getrlimit};
use std::{
    fmt, io, mem,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// How many connections a listener has at a time, where it does not say.
pub const MAX_CLIENTS: u32 = 256;

/// Places for the connections of all listeners of this process: what limits descriptors is the
/// process's, too.
// Asked for by the first listener, after the daemon has raised the limit.
static PLACES: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    Arc::new(Semaphore::new(places(files)))
});

/// Returns how many connections all listeners have at a time, where so many files may be open.
fn places(files: u64) -> usize {
    // A quarter of the descriptors, of which a connection has two (VDE's control and data): the
    // others are for the API, for vNICs and for their listeners.
    usize::try_from(files / 4 / 2).unwrap_or(usize::MAX).clamp(4, Semaphore::MAX_PERMITS)
}

/// Returns the places of all listeners of this process, of which each connection takes one.
pub(super) fn all_places() -> Arc<Semaphore> {
    Arc::clone(&PLACES)
}

/// Serves a connection until it ends, or is to end. Returns why.
type Serve = Box<
    dyn FnOnce(PortHandle, oneshot::Receiver<()>) -> Pin<Box<dyn Future<Output = String> + Send>>
        + Send,
>;

/// Returns what serves a connection that another process of the daemon has exported.
type Restore = Box<dyn Fn(Vec<OwnedFd>) -> io::Result<Serve> + Send + Sync>;

/// Returns what serves a connection by `serve`.
fn boxed<F>(serve: impl FnOnce(PortHandle, oneshot::Receiver<()>) -> F + Send + 'static) -> Serve
where
    F: Future<Output = String> + Send + 'static,
{
    Box::new(move |port, stop| Box::pin(serve(port, stop)))
}

/// A connection to a listening port. It becomes a port where it is attached; dropped, it is refused
/// and closed.
pub struct Arrival {
    remote: String,
    since: SystemTime,
    clients: Arc<Clients>,
    /// Absent once it is served.
    serve: Option<Serve>,
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("remote", &self.remote).finish_non_exhaustive()
    }
}

impl Arrival {
    /// Returns the connection of `remote`, one of a listener's `clients`, which `serve` serves
    /// until it ends, or is to end.
    pub(super) fn new<F>(
        remote: String,
        client: Client,
        serve: impl FnOnce(PortHandle, oneshot::Receiver<()>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = String> + Send + 'static,
    {
        Self::since_then(remote, SystemTime::now(), client, boxed(serve))
    }

    fn since_then(remote: String, since: SystemTime, client: Client, serve: Serve) -> Self {
        let Client { clients, permit, place } = client;
        let (from, of) = (remote.clone(), Arc::clone(&clients));
        let serve = boxed(move |port: PortHandle, stop| {
            let name = port.name().to_owned();
            let serve = serve(port, stop);
            async move {
                let ended = serve.await;
                // One that comes back and sends rubbish again must not fill the disk.
                if let Some(Said { unsaid }) = lock(&of.log).line(Instant::now()) {
                    tracing::info!(port = name, client = from, ended, unsaid, "a client is gone");
                }
                // Another may take its place.
                drop((permit, place));
                ended
            }
        });
        Self { remote, since, clients, serve: Some(serve) }
    }

    /// Returns who has connected, as far as the socket says.
    pub fn remote(&self) -> &str {
        &self.remote
    }

    /// Returns when.
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// Serves it as a port, until it ends or `stop`.
    pub(super) async fn serve(mut self, port: PortHandle, stop: oneshot::Receiver<()>) {
        if let Some(serve) = self.serve.take() {
            serve(port, stop).await;
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if self.serve.is_some() {
            self.clients.refused.fetch_add(1, Relaxed);
        }
    }
}

/// The connections of one listener.
pub(in crate::dataplane) struct Clients {
    free: Arc<Semaphore>,
    places: Arc<Semaphore>,
    refused: AtomicU64,
    /// Of those who leave.
    log: Mutex<LogLimit>,
    restore: Restore,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("refused", &self.refused).finish_non_exhaustive()
    }
}

/// A place among the connections of a listener.
#[derive(Debug)]
pub(super) struct Client {
    clients: Arc<Clients>,
    permit: OwnedSemaphorePermit,
    /// Among the connections of all listeners.
    place: OwnedSemaphorePermit,
}

impl Clients {
    /// Returns those of a listener that takes `most` at a time, and that go on in another process:
    /// `restore` is given the descriptors that one has exported, and returns what serves it.
    pub(super) fn restored_by<F, S>(
        most: u32,
        restore: impl Fn(Vec<OwnedFd>) -> io::Result<S> + Send + Sync + 'static,
    ) -> Arc<Self>
    where
        F: Future<Output = String> + Send + 'static,
        S: FnOnce(PortHandle, oneshot::Receiver<()>) -> F + Send + 'static,
    {
        let restore = Box::new(move |fds| restore(fds).map(boxed));
        Arc::new(Self {
            free: Arc::new(Semaphore::new(most as usize)),
            places: all_places(),
            refused: AtomicU64::new(0),
            log: Mutex::default(),
            restore,
        })
    }

    /// Returns a connection of another process of the daemon, of which descriptors are taken out of
    /// `exported`.
    pub(in crate::dataplane) fn returned(
        self: &Arc<Self>,
        remote: String,
        since: SystemTime,
        exported: &mut Exported,
    ) -> io::Result<Arrival> {
        let serve = (self.restore)(mem::take(&mut exported.fds))?;
        let client = self.admit().ok_or(io::ErrorKind::QuotaExceeded)?;
        Ok(Arrival::since_then(remote, since, client, serve))
    }

    /// Returns a place for another one; none where all are taken, which is counted.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Client> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok();
        match permit.zip(Arc::clone(&self.places).try_acquire_owned().ok()) {
            Some((permit, place)) => Some(Client { clients: Arc::clone(self), permit, place }),
            None => {
                self.refused.fetch_add(1, Relaxed);
                None
            }
        }
    }

    /// Returns how many were refused.
    pub(in crate::dataplane) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_listeners_have_a_quarter_of_the_descriptors() {
        for (files, most) in [(0, 4), (1024, 128), (1 << 20, 1 << 17)] {
            assert_eq!(places(files), most, "of {files}");
        }
        assert_eq!(places(u64::MAX), Semaphore::MAX_PERMITS);
    }

    #[test]
    fn clients_of_one_listener_take_places_from_another_and_who_finds_none_is_counted() {
        let places = Arc::new(Semaphore::new(3));
        let listener = || {
            let (free, places) = (Arc::new(Semaphore::new(2)), Arc::clone(&places));
            let restore: Restore = Box::new(|_| Err(io::ErrorKind::Unsupported.into()));
            let (refused, log) = (AtomicU64::new(0), Mutex::default());
            Arc::new(Clients { free, places, refused, log, restore })
        };
        let (a, b) = (listener(), listener());
        let clients = [&a, &a, &b].map(|listener| listener.admit().unwrap());
        assert!(a.admit().is_none(), "it has as many as it may");
        assert!(b.admit().is_none(), "it may have more, and all may not");
        assert_eq!((a.refused(), b.refused()), (1, 1));
        drop(clients);
        assert!(b.admit().is_some());
    }
}
