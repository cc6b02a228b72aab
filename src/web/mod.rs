//! Listeners beside the API, by HTTP/1.1 (RFC 9112): read-only, and for few.
//!
//! ```text
//! listener ── accept ── room? ── head (10 s) ── host, method, path ─┬─ metrics ── answer ── end
//!                                                                   └─ console ── answer ── end
//! ```
//! A connection is for one request. It is over half a minute after its answer began, or, of one
//! that lasts, after its peer has last taken a part: whoever is slow keeps a place, and no more.
//! Beyond loopback metrics are served only where that is asked for, and the console with a token.

mod answer;
pub mod console;
mod hosts;
pub mod metrics;
pub mod per_nic;
mod process;
mod site;
mod sums;

use crate::{access::is_loopback, config::Config};
use console::{
    Console,
    token::{Token, TokenError},
};
use metrics::Metrics;
use site::{Pages, Site};
use std::{
    collections::HashMap,
    fmt, io,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch, time::sleep};

/// How often a port is tried that a corpse holds.
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
    /// An address that others can reach, and nothing that they have to know.
    #[error(
        "--http {0}: beyond loopback, whoever reaches it reads all there is, frames of guests \
         among it: give --http-token, or expected an address like 127.0.0.1:9178 or [::1]:9178"
    )]
    Open(SocketAddr),
    /// What others have to know is not to be had.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The address cannot be had.
    #[error("--{purpose} {address}: {source}")]
    Listen {
        /// For what.
        purpose: Purpose,
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// What is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Counters.
    Metrics,
    /// The console.
    Console,
}

impl fmt::Display for Purpose {
    /// The name of its flag.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Metrics => "metrics",
            Self::Console => "http",
        })
    }
}

/// Where it is listened.
#[derive(Debug)]
pub struct Listener {
    purpose: Purpose,
    /// As the flag names it.
    named: SocketAddr,
    /// Absent where its port is not free yet.
    socket: Option<TcpListener>,
}

/// Refuses addresses that would let anybody read what is served, unless that is asked for. Returns
/// what the console's readers have to know, where they have to.
pub fn check(config: &Config) -> Result<Option<Token>, WebError> {
    let token = config.http_token.as_deref().map(Token::read).transpose()?;
    match (config.metrics, config.http) {
        (Some(address), _) if !is_loopback(&address) && !config.metrics_insecure => {
            Err(WebError::Beyond(address))
        }
        (_, Some(address)) if !is_loopback(&address) && token.is_none() => {
            Err(WebError::Open(address))
        }
        _ => Ok(token),
    }
}

/// Listens where the flags say, if anywhere; by descriptors of another process where that gave
/// some. A port that is taken is waited for where `holder_is_dead`.
pub async fn listen(
    config: &Config,
    inherited: &mut HashMap<String, OwnedFd>,
    holder_is_dead: bool,
) -> Result<Vec<Listener>, WebError> {
    let mut listeners = Vec::new();
    let wanted = [(Purpose::Metrics, config.metrics), (Purpose::Console, config.http)];
    for (purpose, named) in wanted {
        if let Some(named) = named {
            let given = inherited.remove(&name(purpose, named));
            listeners.push(Listener::new(purpose, named, given, holder_is_dead).await?);
        }
    }
    Ok(listeners)
}

/// The name among the listeners that are handed over.
fn name(purpose: Purpose, named: SocketAddr) -> String {
    format!("{purpose} {named}")
}

impl Listener {
    async fn new(
        purpose: Purpose,
        named: SocketAddr,
        given: Option<OwnedFd>,
        holder_is_dead: bool,
    ) -> Result<Self, WebError> {
        let socket = match given {
            // Non-blocking already: that is the open file's (fcntl(2)).
            Some(fd) => TcpListener::from_std(fd.into()),
            None => TcpListener::bind(named).await,
        };
        match socket {
            Ok(socket) => Ok(Self { purpose, named, socket: Some(socket) }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && holder_is_dead => {
                tracing::error!(
                    address = %named,
                    "a daemon that cannot end has the address of --{purpose} still"
                );
                Ok(Self { purpose, named, socket: None })
            }
            Err(source) => Err(WebError::Listen { purpose, address: named, source }),
        }
    }

    /// Its name, and a copy, for a process that takes over. None where there is nothing to give.
    pub fn copy(&self) -> Option<io::Result<(String, OwnedFd)>> {
        let copy = self.socket.as_ref()?.as_fd().try_clone_to_owned();
        Some(copy.map(|fd| (name(self.purpose, self.named), fd)))
    }

    /// Where it listens: with the port that the system has chosen.
    fn shown(&self) -> SocketAddr {
        let bound = self.socket.as_ref().and_then(|socket| socket.local_addr().ok());
        bound.unwrap_or(self.named)
    }

    /// Serves who comes, until `stopped`. Never fails; it ends as listeners of the API do.
    pub async fn serve(
        self,
        (metrics, console): (Metrics, Console),
        mut stopped: watch::Receiver<()>,
    ) -> Result<(), tonic::transport::Error> {
        let (address, purpose, named) = (self.shown(), self.purpose, self.named);
        let pages = match purpose {
            Purpose::Metrics => {
                tracing::info!(%address, "metrics are served");
                Pages::Metrics(metrics)
            }
            Purpose::Console => {
                tracing::info!(%address, "the console is served");
                Pages::Console(console)
            }
        };
        let site = Site::new(purpose, named, pages);
        tokio::select! {
            () = async { site.accept(self.socket().await).await } => {}
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
