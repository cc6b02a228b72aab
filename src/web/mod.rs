//! A second listener, by HTTP/1.1 (RFC 9112): read-only, and for few.
//!
//! ```text
//! listener ── accept ── room? ── head (10 s) ── host, method, path ── metrics ── answer ── end
//! ```
//! A connection is for one request, and over after half a minute: whoever is slow keeps a place,
//! and no more. Beyond loopback it is served only where that is asked for.

mod hosts;
pub mod metrics;
pub mod per_nic;
mod process;
mod sums;

use crate::{
    access::is_loopback,
    config::Config,
    log_limit::{LogLimit, Said},
    mutex::lock,
};
use hosts::Hosts;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::Metrics;
use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

/// How long the head of a request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long all of a connection may take.
// The longest answer, of 16,384 vNICs, is some 40 MB: a line of 20 Mbit/s takes it in time.
const DEADLINE: Duration = Duration::from_secs(30);
/// Octets of the head of a request.
const MAX_HEAD: usize = 16 << 10;
/// Connections at a time.
// Of a few programs that ask every few seconds. Each beyond is closed at once.
const CONNECTIONS: usize = 64;
/// How long nobody is let in after there was no descriptor left, and how often a port is tried that
/// a corpse holds.
const PAUSE: Duration = Duration::from_millis(100);
const RETRY: Duration = Duration::from_secs(1);

/// Why it cannot be listened.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// An address that others can reach.
    #[error(
        "--metrics {0}: beyond loopback, whoever reaches it reads the names of all networks and \
         vNICs: give --metrics-insecure, or expected an address like 127.0.0.1:9177 or [::1]:9177"
    )]
    Beyond(SocketAddr),
    /// The address cannot be had.
    #[error("--metrics {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// Where it is listened.
#[derive(Debug)]
pub struct Listener {
    /// As the flag names it.
    named: SocketAddr,
    /// Absent where its port is not free yet.
    socket: Option<TcpListener>,
}

/// Refuses an address that would let anybody read what is served, unless that is asked for.
pub fn check(config: &Config) -> Result<(), WebError> {
    match config.metrics {
        Some(address) if !is_loopback(&address) && !config.metrics_insecure => {
            Err(WebError::Beyond(address))
        }
        _ => Ok(()),
    }
}

/// Listens where the flags say, if anywhere; by a descriptor of another process where that gave
/// one. A port that is taken is waited for where `holder_is_dead`.
pub async fn listen(
    config: &Config,
    inherited: &mut HashMap<String, OwnedFd>,
    holder_is_dead: bool,
) -> Result<Option<Listener>, WebError> {
    let Some(named) = config.metrics else { return Ok(None) };
    Listener::new(named, inherited, holder_is_dead).await.map(Some)
}

impl Listener {
    async fn new(
        named: SocketAddr,
        inherited: &mut HashMap<String, OwnedFd>,
        holder_is_dead: bool,
    ) -> Result<Self, WebError> {
        let socket = match inherited.remove(&Self::name(named)) {
            // Non-blocking already: that is the open file's (fcntl(2)).
            Some(fd) => TcpListener::from_std(fd.into()),
            None => TcpListener::bind(named).await,
        };
        match socket {
            Ok(socket) => Ok(Self { named, socket: Some(socket) }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && holder_is_dead => {
                tracing::error!(
                    address = %named,
                    "a daemon that cannot end has the address of metrics still"
                );
                Ok(Self { named, socket: None })
            }
            Err(source) => Err(WebError::Listen { address: named, source }),
        }
    }

    /// The name among the listeners that are handed over.
    fn name(named: SocketAddr) -> String {
        format!("metrics {named}")
    }

    /// Its name, and a copy, for a process that takes over. None where there is nothing to give.
    pub fn copy(&self) -> Option<io::Result<(String, OwnedFd)>> {
        let copy = self.socket.as_ref()?.as_fd().try_clone_to_owned();
        Some(copy.map(|fd| (Self::name(self.named), fd)))
    }

    /// Where it listens: with the port that the system has chosen.
    fn shown(&self) -> SocketAddr {
        let bound = self.socket.as_ref().and_then(|socket| socket.local_addr().ok());
        bound.unwrap_or(self.named)
    }

    /// Serves who comes, until `stopped`. Never fails; it ends as listeners of the API do.
    pub async fn serve(
        self,
        metrics: Metrics,
        mut stopped: watch::Receiver<()>,
    ) -> Result<(), tonic::transport::Error> {
        tracing::info!(address = %self.shown(), "metrics are served");
        let site = Arc::new(Site {
            hosts: Hosts::new(self.named),
            metrics,
            log: Mutex::default(),
            room: Arc::new(Semaphore::new(CONNECTIONS)),
        });
        tokio::select! {
            () = site.accept(self) => {}
            // The sender is dropped, nothing is ever sent.
            _ = stopped.changed() => {}
        }
        Ok(())
    }

    /// Returns the socket, as soon as it can be had.
    async fn socket(self) -> TcpListener {
        if let Some(socket) = self.socket {
            return socket;
        }
        loop {
            sleep(RETRY).await;
            if let Ok(socket) = TcpListener::bind(self.named).await {
                return socket;
            }
        }
    }
}

/// What is served.
#[derive(Debug)]
struct Site {
    hosts: Hosts,
    metrics: Metrics,
    log: Mutex<LogLimit>,
    room: Arc<Semaphore>,
}

impl Site {
    async fn accept(self: Arc<Self>, listener: Listener) {
        let socket = listener.socket().await;
        loop {
            match socket.accept().await {
                Ok((stream, peer)) => {
                    let Ok(place) = Arc::clone(&self.room).try_acquire_owned() else {
                        if let Some(Said { unsaid }) = lock(&self.log).line(Instant::now()) {
                            tracing::warn!(
                                %peer, unsaid,
                                "turned away: there are {CONNECTIONS} connections to --metrics"
                            );
                        }
                        continue;
                    };
                    let site = Arc::clone(&self);
                    tokio::spawn(async move {
                        let _place = place;
                        site.serve(stream).await;
                    });
                }
                // Out of descriptors, most likely; or the peer has given up already. Either way
                // others are let go on.
                Err(error) => {
                    tracing::debug!(%error, "a connection to --metrics ended before it began");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn serve(&self, stream: TcpStream) {
        let answer = async |request| {
            Ok::<_, Infallible>(self.answer(&request).await.unwrap_or_else(Answer::from))
        };
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(MAX_HEAD)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        match timeout(DEADLINE, served).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a request to --metrics failed"),
            Err(_) => tracing::debug!("a request to --metrics took longer than {DEADLINE:?}"),
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Result<Answer, Refused> {
        self.hosts.check(request)?;
        let headers = request.headers();
        // Nothing that is read here has a body, and what follows could be taken for a request.
        if headers.contains_key(header::TRANSFER_ENCODING)
            || headers.get(header::CONTENT_LENGTH).is_some_and(|len| len != "0")
        {
            return Err(Refused(StatusCode::PAYLOAD_TOO_LARGE, "expected no body".into()));
        }
        // As it was written: no path leads anywhere but to what has this very name.
        if request.uri().path() != "/metrics" {
            return Err(Refused(StatusCode::NOT_FOUND, "expected /metrics".into()));
        }
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return Err(Refused(StatusCode::METHOD_NOT_ALLOWED, "expected GET or HEAD".into()));
        }
        let text = self
            .metrics
            .scrape()
            .await
            .map_err(|gone| Refused(StatusCode::SERVICE_UNAVAILABLE, gone.to_string()))?;
        let mut answer = Response::new(Full::from(text));
        let kind = HeaderValue::from_static(metrics::CONTENT_TYPE);
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
        Ok(answer)
    }
}

type Answer = Response<Full<Bytes>>;

/// Why a request is refused, in words that name what was expected.
#[derive(Debug)]
struct Refused(StatusCode, String);

impl From<Refused> for Answer {
    fn from(Refused(status, why): Refused) -> Self {
        let mut answer = Response::new(Full::from(why + "\n"));
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        answer
    }
}
