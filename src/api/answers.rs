//! How requests are handled, and how many answers may wait for clients that do not read them: each
//! holds its memory until it is taken.
//!
//! ```text
//! whole request ── turn of a list ── place ── too much unread? ── service ── whole answer ── read
//! ```
//! A request waits for its client before it has a place, and an answer after it has given it back:
//! a client that is slow, or stands still, keeps nobody from being answered. One that leaves its
//! answers unread is refused more, and after a while disconnected (`connection`). What watchers are
//! told is bounded by `control`.

use super::{
    account::Account,
    bodies::{Metered, Whole},
};
use crate::{
    control::{Caller, LongList},
    telemetry::Telemetry,
};
use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};
use tonic::{
    Code, Status,
    body::Body,
    codegen::{
        BoxFuture,
        http::{Request, Response},
    },
};
use tower::{Service, ServiceExt as _};

/// A list of more octets than this is read before the connection's next one is made.
// An answer of one piece (`bodies`) is soon gone, and so many of them are little memory.
const SMALL: usize = 64 << 10;

/// A service whose requests and answers are counted.
#[derive(Debug, Clone)]
pub(super) struct Bounded<S> {
    service: S,
    telemetry: Telemetry,
}

impl<S> Bounded<S> {
    pub(super) fn new(service: S, telemetry: Telemetry) -> Self {
        Self { service, telemetry }
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
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { service, telemetry } = self.clone();
        Box::pin(async move {
            let Some(account) = request.extensions().get::<Arc<Account>>().cloned() else {
                return service.oneshot(request).await;
            };
            let (method, began) = (method(&request).to_owned(), Instant::now());
            let response = match account.answer(service, request).await {
                Ok(response) => response,
                Err(Failed::Refused(status)) => status.into_http(),
                Err(Failed::Service(error)) => return Err(error),
            };
            telemetry.answered(&method, code(&response), began.elapsed());
            Ok(response)
        })
    }
}

/// Returns the name of what is asked for.
fn method(request: &Request<Body>) -> &str {
    request.uri().path().rsplit('/').next().unwrap_or_default()
}

/// Returns what a request came to. One that lasts has begun.
fn code(response: &Response<Body>) -> Code {
    // What is refused has its status there; only what is answered has trailers.
    Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code())
}

/// Why there is no answer of the service's.
enum Failed<E> {
    Refused(Status),
    Service(E),
}

impl<E> From<Status> for Failed<E> {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

impl Account {
    async fn answer<S>(
        self: Arc<Self>,
        service: S,
        request: Request<Body>,
    ) -> Result<Response<Body>, Failed<S::Error>>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
    {
        // Methods are told apart by their names: Watch… and Capture last, and so does reflection's,
        // which also asks as it goes.
        let method = method(&request);
        let lasts = method.starts_with("Watch") || method == "Capture";
        let is_list = method.starts_with("List");
        let is_dialogue = method == "ServerReflectionInfo";
        let (parts, body) = request.into_parts();
        let mut body = Metered::new(body, Arc::clone(&self));
        // It has no end of its own: as a whole it would be waited for in vain.
        if is_dialogue {
            let request = Request::from_parts(parts, Body::new(body));
            return service.oneshot(request).await.map_err(Failed::Service);
        }
        let whole = Whole::of(&mut body).await?;
        let octets = whole.len();
        let mut request = Request::from_parts(parts, Body::new(whole));
        request.extensions_mut().insert(Caller(self.peer().to_string()));
        // No place: it would be kept for as long as somebody watches.
        if lasts {
            return service.oneshot(request).await.map_err(Failed::Service);
        }
        let closed = |_| Status::unavailable("the API has ended");
        // The turn before the place: a list that waits for its client to read keeps no place
        // meanwhile.
        let turn = if is_list { Some(self.budget().list().await.map_err(closed)?) } else { None };
        let place = self.budget().place(octets, is_list).await.map_err(closed)?;
        // After the waits: what became unread meanwhile counts.
        self.budget().check()?;
        request.extensions_mut().insert(self.budget().long_lists());
        let response = service.oneshot(request).await.map_err(Failed::Service)?;
        let (mut parts, mut made) = response.into_parts();
        let whole = Whole::of(&mut made).await?;
        // The answer is made: from here on it is its client that is waited for.
        drop((place, body));
        let mut answer = self.begin(whole.len(), Instant::now());
        // A short list gives its turn back now: clients that page through one are not slowed down.
        answer.turn = turn.filter(|_| whole.len() > SMALL);
        answer.long = parts.extensions.remove::<Arc<LongList>>();
        Ok(Response::from_parts(parts, Body::new(whole.unread(answer))))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{budget::Limits, shares::Peer},
        *,
    };

    #[test]
    fn a_peer_that_reads_nothing_is_refused_and_others_are_not() {
        let (limits, now) = (Limits::default(), Instant::now());
        let [account, again, other] = [1, 1, 2].map(|user| Account::new(&limits, Peer::User(user)));
        assert_eq!(account.oldest(), None);
        let answers: Vec<_> = (0..64).map(|_| account.begin(100, now)).collect();
        assert_eq!(account.oldest(), Some(now));
        for account in [&account, &again] {
            let refused = account.budget().check().unwrap_err();
            assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        }
        assert!(other.budget().check().is_ok());
        drop(answers);
        assert!(account.budget().check().is_ok());
        let long = account.begin(64 << 20, now);
        assert!(again.budget().check().is_err() && other.budget().check().is_ok());
        drop(long);
        assert!(again.budget().check().is_ok());
    }
}
