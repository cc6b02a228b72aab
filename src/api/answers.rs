//! How many answers may wait for clients that do not read them: each holds its memory until it is taken.
//!
//! Requests are handled in the order they come, so many at a time; a client that leaves its answers unread is refused
//! more, and after a while disconnected (`connection`). What watchers are told is bounded by `control`.

use super::shares::Peer;
use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Instant,
};
use tokio::sync::Semaphore;
use tonic::{
    Status,
    body::Body,
    codegen::{
        BoxFuture, Bytes,
        http::{Request, Response},
    },
};
use tower::{Service, ServiceExt as _};

/// Requests handled at a time.
const HANDLED: usize = 64;
/// Answers that may wait in all, and of one peer, before more requests are refused.
const ALL: usize = 256;
const EACH: usize = 64;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Limits {
    handled: Semaphore,
    unread: Mutex<HashMap<Peer, usize>>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { handled: Semaphore::new(HANDLED), unread: Mutex::default() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is complete.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Limits {
    fn check(&self, peer: Peer) -> Result<(), Status> {
        let unread = lock(&self.unread);
        let (all, own) = (unread.values().sum::<usize>(), unread.get(&peer).copied());
        let own = own.unwrap_or(0);
        if own < EACH && all < ALL {
            return Ok(());
        }
        Err(Status::resource_exhausted(format!(
            "{own} answers wait for this client to read them, and {all} in all"
        )))
    }
}

/// The answers of one connection.
#[derive(Debug)]
pub(super) struct Account {
    limits: Arc<Limits>,
    peer: Peer,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    since: BTreeMap<u64, Instant>,
}

impl Account {
    pub(super) fn new(limits: Arc<Limits>, peer: Peer) -> Arc<Self> {
        Arc::new(Self { limits, peer, waiting: Mutex::default() })
    }

    /// Since when the answer has waited that waits longest.
    pub(super) fn oldest(&self) -> Option<Instant> {
        lock(&self.waiting).since.values().next().copied()
    }

    /// An answer begins to wait, until dropped.
    fn begin(self: &Arc<Self>, now: Instant) -> Answer {
        *lock(&self.limits.unread).entry(self.peer).or_default() += 1;
        let mut waiting = lock(&self.waiting);
        waiting.next += 1;
        let number = waiting.next;
        waiting.since.insert(number, now);
        Answer { account: Arc::clone(self), number }
    }
}

/// An answer that its client has not read.
#[derive(Debug)]
struct Answer {
    account: Arc<Account>,
    number: u64,
}

impl Drop for Answer {
    fn drop(&mut self) {
        lock(&self.account.waiting).since.remove(&self.number);
        let mut unread = lock(&self.account.limits.unread);
        if let Some(count) = unread.get_mut(&self.account.peer) {
            *count -= 1;
            if *count == 0 {
                unread.remove(&self.account.peer);
            }
        }
    }
}

/// A service whose answers are counted.
#[derive(Debug, Clone)]
pub(super) struct Bounded<S>(S);

impl<S> Bounded<S> {
    pub(super) fn new(service: S) -> Self {
        Self(service)
    }
}

impl<S> Service<Request<Body>> for Bounded<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            // Those that last are told apart by their names: Watch…, and reflection's.
            let method = request.uri().path().rsplit('/').next().unwrap_or_default();
            let lasts = method.starts_with("Watch") || method == "ServerReflectionInfo";
            let account = request.extensions().get::<Arc<Account>>().cloned();
            let Some(account) = account.filter(|_| !lasts) else {
                return service.oneshot(request).await;
            };
            let limits = Arc::clone(&account.limits);
            // It is never closed.
            let _turn = limits.handled.acquire().await;
            if let Err(refused) = limits.check(account.peer) {
                return Ok(refused.into_http());
            }
            let response = service.oneshot(request).await?;
            let answer = account.begin(Instant::now());
            Ok(response.map(|body| Body::new(Counted { body, _answer: answer })))
        })
    }
}

/// The octets of an answer.
struct Counted {
    body: Body,
    /// Dropped with them: when the client has taken them all, or is gone.
    _answer: Answer,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_reads_nothing_is_refused_and_others_are_not() {
        let limits = Arc::<Limits>::default();
        let (now, peer) = (Instant::now(), Peer::User(1));
        let account = Account::new(Arc::clone(&limits), peer);
        assert_eq!(account.oldest(), None);
        let answers: Vec<_> = (0..EACH).map(|_| account.begin(now)).collect();
        assert_eq!(account.oldest(), Some(now));
        let refused = limits.check(peer).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(limits.check(Peer::User(2)).is_ok());
        drop(answers);
        assert!(limits.check(peer).is_ok());
        assert!(lock(&limits.unread).is_empty());
    }
}
