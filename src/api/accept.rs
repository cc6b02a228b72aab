//! Who comes to a listener: counted, asked who it is, and handed on once it speaks HTTP/2.

use super::{
    account::Account,
    budget::Limits,
    connection::{Connection, Io, PREFACE},
    listener::{Listener, Stream},
    shares::{Peer, Share, Shares},
};
use crate::{
    access::Access,
    log_limit::{LogLimit, Said},
    mutex::lock,
};
use rustix::{io::Errno, net::sockopt};
use std::{
    fs::File,
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// How long a peer may take until it is known and speaks HTTP/2.
// Ample for TLS over a slow line, and for a database of groups that asks a server. A longer time
// would only help strangers who keep their share of connections for nothing.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long, and for how many octets, a peer that is turned away may still talk.
const FAREWELL: Duration = Duration::from_secs(1);
// More than the flight of messages in which a TLS client sends its certificate.
const UNREAD: u64 = 64 << 10;
/// How long nobody is let in after there was no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);
/// When a silent client is asked whether it is there, how often again, and how often at most
/// (tcp(7)): its host may be gone without a word.
// A host that is gone is noticed after two minutes (60 s, then 3 times 20 s): its share is free.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(20), 3);

/// Why a peer is not served.
#[derive(Debug, thiserror::Error)]
enum TurnedAway {
    #[error("{0}")]
    NoRoom(String),
    #[error("neither its user nor its groups are let in")]
    User,
    #[error("no TLS with a certificate of --tls-client-ca: {0}")]
    Tls(io::Error),
    #[error("it speaks TLS to an address that is served without")]
    SpeaksTls,
    /// Who only looked whether somebody listens.
    #[error("it said nothing")]
    Nothing,
    #[error("it does not speak HTTP/2")]
    Protocol,
    #[error("it did not begin within {PATIENCE:?}")]
    Slow,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The way in.
pub(super) struct Gate {
    access: Access,
    shares: Arc<Shares>,
    limits: Arc<Limits>,
    ready: mpsc::Sender<Connection>,
    log: Mutex<LogLimit>,
}

impl Gate {
    pub(super) fn new(
        access: Access,
        shares: Arc<Shares>,
        limits: Arc<Limits>,
        ready: mpsc::Sender<Connection>,
    ) -> Arc<Self> {
        Arc::new(Self { access, shares, limits, ready, log: Mutex::default() })
    }

    /// Lets peers in. Never ends by itself.
    pub(super) async fn accept(self: Arc<Self>, listener: Listener) {
        let tls = self.access.tls(listener.address()).cloned();
        let socket = listener.socket().await;
        // Given up for a moment when there is no other: who waits then sees its connection end, and
        // does not wait in vain.
        let mut reserve = File::open("/dev/null").ok();
        loop {
            match socket.accept().await {
                Ok(stream) => {
                    let (gate, tls) = (Arc::clone(&self), tls.clone());
                    tokio::spawn(async move { gate.admit(stream, tls).await });
                }
                Err(error) if is_exhausted(&error) => {
                    if let Some(Said { unsaid }) = self.line() {
                        tracing::warn!(%error, unsaid, "nobody is let in to the API for a moment");
                    }
                    if reserve.take().is_some() {
                        // Accepted with the descriptor that was kept for it, and closed. Else the
                        // same connection would fail at each try.
                        drop(timeout(Duration::ZERO, socket.accept()).await);
                        reserve = File::open("/dev/null").ok();
                    }
                    sleep(PAUSE).await;
                }
                // accept(2) of Linux returns errors that are pending on the new connection.
                // The peer's own, most likely: it has given up already.
                Err(error) => {
                    tracing::debug!(%error, "a connection to the API ended before it began");
                    // Errors come without a wait: a peer that makes many must not keep this thread.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    fn line(&self) -> Option<Said> {
        lock(&self.log).line(Instant::now())
    }

    async fn admit(&self, stream: Stream, tls: Option<TlsAcceptor>) {
        let (peer, shown) = match stream.peer() {
            Ok(peer) => peer,
            // It has gone already.
            Err(error) => return tracing::debug!(%error, "who connects to the API cannot be told"),
        };
        match self.try_admit(stream, peer, tls).await {
            // An error says that the listener is closed.
            Ok(connection) => drop(self.ready.send(connection).await),
            Err(TurnedAway::Nothing) => tracing::debug!(peer = %shown, "came to the API, and went"),
            Err(reason) => {
                if let Some(Said { unsaid }) = self.line() {
                    tracing::warn!(peer = %shown, %reason, unsaid, "turned away from the API");
                }
            }
        }
    }

    async fn try_admit(
        &self,
        stream: Stream,
        peer: Peer,
        tls: Option<TlsAcceptor>,
    ) -> Result<Connection, TurnedAway> {
        // First of all: what comes next costs memory and time, and is for those who have a share.
        let share = self.shares.take(peer).map_err(TurnedAway::NoRoom)?;
        let begun = async {
            let io: Box<dyn Io> = match (stream, tls) {
                (Stream::Unix(stream), _) => {
                    // By SO_PEERCRED: the socket's mode alone does not say who connects.
                    if !self.access.admits(&stream.peer_cred()?).await {
                        return Err(TurnedAway::User);
                    }
                    Box::new(stream)
                }
                (Stream::Tcp(stream), tls) => {
                    tune(&stream)?;
                    match tls {
                        None => Box::new(stream),
                        Some(tls) => match tls.accept(stream).into_fallible().await {
                            Ok(stream) => Box::new(stream),
                            Err((reason, stream)) => {
                                take_leave(stream).await;
                                return Err(TurnedAway::Tls(reason));
                            }
                        },
                    }
                }
            };
            self.greet(io, share).await
        };
        // One limit for all steps: a limit for each could be stretched by an octet now and then.
        timeout(PATIENCE, begun).await.map_err(|_| TurnedAway::Slow)?
    }

    /// Waits for the first octets of HTTP/2.
    async fn greet(&self, mut io: Box<dyn Io>, share: Share) -> Result<Connection, TurnedAway> {
        let mut preface = [0; PREFACE.len()];
        // One octet first: it tells who only looks, and who speaks TLS, before more is waited for.
        let first = io.read_exact(&mut preface[..1]).await;
        match (first, preface[0]) {
            (Err(error), _) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(TurnedAway::Nothing);
            }
            (Err(error), _) => return Err(error.into()),
            // A handshake record of TLS (ContentType in RFC 8446 §5.1).
            (Ok(_), 22) => return Err(TurnedAway::SpeaksTls),
            (Ok(_), _) => {}
        }
        io.read_exact(&mut preface[1..]).await?;
        if preface != *PREFACE {
            return Err(TurnedAway::Protocol);
        }
        let account = Account::new(&self.limits, share.peer());
        Ok(Connection::new(io, share, account))
    }
}

/// Ends a connection so that the alert that says why arrives: to close one with octets unread
/// resets it, which takes from the client what it has not read yet.
async fn take_leave(mut stream: TcpStream) {
    let unread = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(UNREAD), &mut tokio::io::sink()).await
    };
    // It is over one way or the other.
    drop(timeout(FAREWELL, unread).await);
}

/// Small answers go out at once: the second half of one would wait for the client's acknowledgement
/// of the first.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (idle, interval, count) = KEEPALIVE;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, interval)?;
    Ok(sockopt::set_tcp_keepcnt(stream, count)?)
}

/// No descriptor or memory is left for another connection: trying again at once would only keep a
/// CPU busy.
fn is_exhausted(error: &io::Error) -> bool {
    let codes = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|code| codes.contains(&code))
}
