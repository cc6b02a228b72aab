//! What is answered: at once, or as it comes; and when there has been enough waiting for a peer.

use crate::mutex::lock;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Response, StatusCode,
    body::{Bytes, Frame},
    header::{self, HeaderValue},
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Status};

/// How long a connection may take, or after its peer has taken a part of its answer the next one.
// The longest answer, of 16,384 vNICs, is some 40 MB: a line of 20 Mbit/s takes it in time.
const DEADLINE: Duration = Duration::from_secs(30);

/// What is answered.
pub(super) type Answer = Response<Body>;
/// Where it ends before it is whole, the connection ends, too.
pub(super) type Body = UnsyncBoxBody<Bytes, Status>;

/// Of people's text.
const TEXT: &str = "text/plain; charset=utf-8";

/// Returns an answer of that type (RFC 9110 §8.3) that is there.
pub(super) fn whole(kind: &'static str, content: impl Into<Bytes>) -> Answer {
    let body = Full::new(content.into()).map_err(|never| match never {});
    of(kind, body.boxed_unsync())
}

/// Returns one that comes in parts, which may be silent for so long.
pub(super) fn parts(
    kind: &'static str,
    silence: Duration,
    parts: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
) -> Answer {
    let frames = parts.map(|part| part.map(Frame::data));
    let mut answer = of(kind, StreamBody::new(frames).boxed_unsync());
    answer.extensions_mut().insert(Silence(silence));
    answer
}

/// Returns the answer to a method that is none of these (RFC 9110 §15.5.6).
pub(super) fn only(methods: &'static str) -> Answer {
    let mut answer = whole(TEXT, format!("expected {methods}\n"));
    *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    answer
}

fn of(kind: &'static str, body: Body) -> Answer {
    let mut answer = Response::new(body);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// How long an answer may be without a part.
#[derive(Debug, Clone, Copy)]
struct Silence(Duration);

/// When a connection is over.
#[derive(Debug, Clone)]
pub(super) struct Deadline(Arc<Mutex<Instant>>);

impl Deadline {
    /// One that has just begun.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now() + DEADLINE)))
    }

    fn put_off(&self, silence: Duration) {
        *lock(&self.0) = Instant::now() + silence + DEADLINE;
    }

    /// Returns an answer that puts the end off with each part that its peer has room for.
    pub(super) fn follow(&self, answer: Answer) -> Answer {
        let Some(Silence(silence)) = answer.extensions().get().copied() else { return answer };
        self.put_off(silence);
        let deadline = self.clone();
        answer.map(|body| {
            let taken = move |part| {
                deadline.put_off(silence);
                part
            };
            body.map_frame(taken).boxed_unsync()
        })
    }

    /// Completes when it is over.
    pub(super) async fn passed(&self) {
        loop {
            let at = *lock(&self.0);
            if at <= Instant::now() {
                return;
            }
            sleep_until(at).await;
        }
    }
}

/// Why a request is refused, in words that name what was expected.
#[derive(Debug)]
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

impl Refused {
    /// For something that is not as it should be.
    pub(super) fn bad(why: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, why.into())
    }

    /// For a path that leads nowhere.
    pub(super) fn unknown(expected: &str) -> Self {
        Self(StatusCode::NOT_FOUND, format!("expected {expected}"))
    }
}

impl From<Status> for Refused {
    /// As gRPC's codes are said in HTTP (google/rpc/code.proto).
    fn from(status: Status) -> Self {
        let code = match status.code() {
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::FailedPrecondition | Code::Aborted => StatusCode::CONFLICT,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(code, status.message().into())
    }
}

impl From<Refused> for Answer {
    fn from(Refused(status, why): Refused) -> Self {
        let mut answer = whole(TEXT, why + "\n");
        *answer.status_mut() = status;
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"mvirt-net\"");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_takes_parts_may_go_on_longer_than_who_takes_an_answer() {
        let ends = |deadline: &Deadline| *lock(&deadline.0);
        let deadline = Deadline::new();
        let at_first = ends(&deadline);
        drop(deadline.follow(whole(TEXT, "all of it")));
        assert_eq!(ends(&deadline), at_first);
        let silence = Duration::from_secs(5);
        let two = tokio_stream::iter(["a", "b"]).map(|part| Ok(Bytes::from(part)));
        let mut answer = deadline.follow(parts("text/event-stream", silence, two));
        let mut before = ends(&deadline);
        assert!(before >= at_first + silence);
        for _ in 0..2 {
            assert!(answer.body_mut().frame().await.is_some());
            assert!(ends(&deadline) > before, "a part was taken");
            before = ends(&deadline);
        }
    }

    #[test]
    fn a_refusal_of_the_api_is_one_of_http() {
        let Refused(status, why) = Status::not_found("vNIC \"x\" does not exist").into();
        assert_eq!((status, &*why), (StatusCode::NOT_FOUND, "vNIC \"x\" does not exist"));
        let answer = Answer::from(Refused(StatusCode::UNAUTHORIZED, "no token".into()));
        assert!(answer.headers().contains_key(header::WWW_AUTHENTICATE));
    }
}
