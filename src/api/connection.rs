//! One connection to the API that has begun: its octets, its share, and its end where its client
//! does not read.

use super::{account::Account, shares::Share};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Interval, MissedTickBehavior, Sleep, interval, sleep},
};
use tonic::transport::server::Connected;

/// What a client says first (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a client may take nothing at all while there is something for it, and how long an
/// answer may wait for it.
// A slow line takes something in 30 s. One that takes nothing keeps memory for nobody.
const UNREAD: Duration = Duration::from_secs(30);
/// How often it is looked for answers that wait.
// Answers are looked at seldom, since what waits is bounded: the end may come 5 s late.
const LOOK: Duration = Duration::from_secs(5);

/// What a connection is made of.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection whose preface was read, and is read again by who serves it.
pub(super) struct Connection {
    io: Box<dyn Io>,
    preface: &'static [u8],
    /// Set while a write waits.
    stuck: Option<Pin<Box<Sleep>>>,
    looks: Interval,
    account: Arc<Account>,
    /// Given back with the connection.
    _share: Share,
}

impl Connection {
    pub(super) fn new(io: Box<dyn Io>, share: Share, account: Arc<Account>) -> Self {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { io, preface: PREFACE, stuck: None, looks, account, _share: share }
    }

    /// Ends a write that waits for too long.
    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stuck = None;
            return poll;
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(UNREAD)));
        ready!(stuck.as_mut().poll(context));
        Poll::Ready(Err(unread()))
    }
}

fn unread() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the client has read nothing for {UNREAD:?}"))
}

impl Connected for Connection {
    type ConnectInfo = Arc<Account>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.account)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.preface.is_empty() {
            // tonic expects the connection from its first octet.
            let (now, later) = self.preface.split_at(buffer.remaining().min(self.preface.len()));
            buffer.put_slice(now);
            self.preface = later;
            return Poll::Ready(Ok(()));
        }
        // Here, since HTTP/2 always reads: this is polled although nobody writes. Until it is
        // pending, the timer would not wake this task.
        while self.looks.poll_tick(context).is_ready() {
            // A client that answers pings, but opens no window, is not seen to be stuck by its
            // writes.
            if self.account.oldest().is_some_and(|at| Instant::now() > at + UNREAD) {
                return Poll::Ready(Err(unread()));
            }
        }
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write(context, octets);
        self.watch(context, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write_vectored(context, octets);
        self.watch(context, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_flush(context);
        self.watch(context, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_shutdown(context);
        self.watch(context, poll)
    }
}
