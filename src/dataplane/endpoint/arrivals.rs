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
use std::{
    fmt, io, mem,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// How many connections a listener has at a time, where it does not say.
pub const MAX_CLIENTS: u32 = 256;

/// Serves a connection until it ends, or is to end.
type Serve = Box<
    dyn FnOnce(PortHandle, oneshot::Receiver<()>) -> Pin<Box<dyn Future<Output = ()> + Send>>
        + Send,
>;

/// Returns what serves a connection that another process of the daemon has exported.
type Restore = Box<dyn Fn(Vec<OwnedFd>) -> io::Result<Serve> + Send + Sync>;

/// Returns what serves a connection by `serve`.
fn boxed<F>(serve: impl FnOnce(PortHandle, oneshot::Receiver<()>) -> F + Send + 'static) -> Serve
where
    F: Future<Output = ()> + Send + 'static,
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
        F: Future<Output = ()> + Send + 'static,
    {
        Self::since_then(remote, SystemTime::now(), client, boxed(serve))
    }

    fn since_then(remote: String, since: SystemTime, client: Client, serve: Serve) -> Self {
        let Client { clients, permit } = client;
        let serve = boxed(move |port, stop| {
            let serve = serve(port, stop);
            async move {
                serve.await;
                // Another may take its place.
                drop(permit);
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
    refused: AtomicU64,
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
}

impl Clients {
    /// Returns those of a listener that takes `most` at a time, and that go on in another process:
    /// `restore` is given the descriptors that one has exported, and returns what serves it.
    pub(super) fn restored_by<F, S>(
        most: u32,
        restore: impl Fn(Vec<OwnedFd>) -> io::Result<S> + Send + Sync + 'static,
    ) -> Arc<Self>
    where
        F: Future<Output = ()> + Send + 'static,
        S: FnOnce(PortHandle, oneshot::Receiver<()>) -> F + Send + 'static,
    {
        let restore = Box::new(move |fds| restore(fds).map(boxed));
        let free = Arc::new(Semaphore::new(most as usize));
        Arc::new(Self { free, refused: AtomicU64::new(0), restore })
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
        match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => Some(Client { clients: Arc::clone(self), permit }),
            Err(_) => {
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
