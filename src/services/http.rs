//! The metadata service by HTTP/1.1 (RFC 9112): one vNIC's, whichever asks.
//!
//! Takes short requests without bodies, in turn, and not many a second. A request says what it
//! wants by its path; who asks is known before it is read.

use super::{asker::Asker, metadata, tokens};
use crate::mutex::lock;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderMap, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};
use tokio::io::DuplexStream;

/// How long the head of a request may take, and a client think before it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Octets of the head of a request, and of the path in it.
const MAX_HEAD: usize = 12 * 1024;
const MAX_PATH: usize = 4 * 1024;
/// Of the second version of EC2's service: a token, how long it is to last in seconds, and the path
/// where there are some.
const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const TOKEN_LASTS: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
const TOKEN_PATH: &str = "/latest/api/token";
/// What proxies add.
const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Answers the requests of one connection.
pub(super) async fn serve(stream: DuplexStream, asker: Asker) {
    let answer = async |request| {
        Ok::<_, Infallible>(asker.answer(&request, now()).unwrap_or_else(Answer::from))
    };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a request for metadata failed");
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

type Answer = Response<Full<Bytes>>;

/// Why a request is refused, in words that name what was expected.
#[derive(Debug, Clone, Copy)]
struct Refused(StatusCode, &'static str);

impl From<Refused> for Answer {
    fn from(Refused(status, why): Refused) -> Self {
        let mut answer = plain(why.into());
        *answer.status_mut() = status;
        let header = match status {
            StatusCode::METHOD_NOT_ALLOWED => (header::ALLOW, "GET, HEAD"),
            // In seconds.
            StatusCode::SERVICE_UNAVAILABLE => (header::RETRY_AFTER, "1"),
            // What follows could be taken for a request.
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::URI_TOO_LONG => {
                (header::CONNECTION, "close")
            }
            _ => return answer,
        };
        answer.headers_mut().insert(header.0, HeaderValue::from_static(header.1));
        answer
    }
}

impl Asker {
    fn answer(&self, request: &Request<Incoming>, now: Instant) -> Result<Answer, Refused> {
        let headers = request.headers();
        // Nothing that is read here has one.
        if headers.contains_key(header::TRANSFER_ENCODING) {
            return Err(Refused(StatusCode::BAD_REQUEST, "expected no Transfer-Encoding"));
        }
        if headers.get(header::CONTENT_LENGTH).is_some_and(|len| len != "0") {
            return Err(Refused(StatusCode::PAYLOAD_TOO_LARGE, "expected no body"));
        }
        if request.uri().path().len() > MAX_PATH {
            return Err(Refused(
                StatusCode::URI_TOO_LONG,
                "expected a path of at most 4096 octets",
            ));
        }
        if !lock(&self.requests).take(now) {
            let why = "expected at most 100 requests a second";
            return Err(Refused(StatusCode::SERVICE_UNAVAILABLE, why));
        }
        self.find(request.method(), request.uri().path(), headers, now)
    }

    /// Returns what a path leads to, or why not.
    fn find(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        now: Instant,
    ) -> Result<Answer, Refused> {
        let gone = || Refused(StatusCode::NOT_FOUND, "there is no metadata");
        let card = self.common.guests.card(self.whose).ok_or_else(gone)?;
        let data = card.nic.metadata.clone().unwrap_or_default();
        if data.token_required && self.is_routed {
            return Err(Refused(StatusCode::FORBIDDEN, "expected a request of the guest's own"));
        }
        let nic = card.nic.id;
        if method == Method::PUT && path == TOKEN_PATH {
            if headers.contains_key(FORWARDED) {
                return Err(Refused(StatusCode::FORBIDDEN, "expected no X-Forwarded-For"));
            }
            let lasts = lasts(headers).ok_or_else(|| {
                let why = "expected X-aws-ec2-metadata-token-ttl-seconds: 1-21600";
                Refused(StatusCode::BAD_REQUEST, why)
            })?;
            let token = self.common.tokens.give(nic, lasts, now);
            // It goes no further than the guest, from here on.
            self.hop_limit.store(data.token_hop_limit.unwrap_or(1), Relaxed);
            let mut answer = plain(token.into());
            let lasts = HeaderValue::from(lasts.as_secs());
            answer.headers_mut().insert(TOKEN_LASTS, lasts);
            return Ok(answer);
        }
        if ![Method::GET, Method::HEAD].contains(method) {
            return Err(Refused(StatusCode::METHOD_NOT_ALLOWED, "expected GET or HEAD"));
        }
        let unauthorized = |why| Refused(StatusCode::UNAUTHORIZED, why);
        match headers.get(TOKEN) {
            Some(token) => {
                let is_known = |token: &str| self.common.tokens.has(nic, token, now);
                if !token.to_str().is_ok_and(is_known) {
                    return Err(unauthorized("expected a token of this vNIC that has not ended"));
                }
            }
            None if data.token_required => {
                return Err(unauthorized("expected a token: PUT /latest/api/token"));
            }
            None => {}
        }
        let found = metadata::find(&card, path);
        let metadata::Body { kind, octets } =
            found.ok_or(Refused(StatusCode::NOT_FOUND, "there is no such thing"))?;
        let mut answer = plain(octets.into());
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        Ok(answer)
    }
}

fn plain(octets: Bytes) -> Answer {
    let mut answer = Response::new(Full::from(octets));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}

/// Returns how long a token is to last.
fn lasts(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(TOKEN_LASTS)?.to_str().ok()?.parse().ok()?;
    tokens::LASTS.contains(&seconds).then(|| Duration::from_secs(seconds))
}
