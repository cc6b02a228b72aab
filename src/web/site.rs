//! What happens at one address: who is let in, what every request has to be, and what every answer
//! tells browsers.

use super::{
    Purpose,
    answer::{Answer, Deadline, Refused, only, whole},
    console::Console,
    hosts::Hosts,
    metrics::{self, Metrics},
};
use crate::{
    log_limit::{LogLimit, Said},
    mutex::lock,
};
use hyper::{
    Method, Request, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};

/// How long the head of a request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Octets of the head of a request.
const MAX_HEAD: usize = 16 << 10;
/// Connections at a time.
// Of a few programs that ask every few seconds, and pages of a few people, whose browsers open six
// at a time. Each beyond is closed at once.
const CONNECTIONS: usize = 64;
/// How long nobody is let in after there was no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// What every answer tells a browser: that nothing from elsewhere belongs to a page of ours, and
/// nothing of ours to a page of others; that no text becomes code; and that nothing is kept.
// Trusted types: there is no sink in our scripts that would take text for a page.
const HEADERS: &[(&str, &str)] = &[
    (
        "content-security-policy",
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// What is served.
#[derive(Debug)]
pub(super) enum Pages {
    /// One page of counters.
    Metrics(Metrics),
    /// A page for people.
    Console(Console),
}

/// An address of it.
#[derive(Debug)]
pub(super) struct Site {
    purpose: Purpose,
    hosts: Hosts,
    pages: Pages,
    log: Mutex<LogLimit>,
    room: Arc<Semaphore>,
}

impl Site {
    /// One that listens there.
    pub(super) fn new(purpose: Purpose, listens: SocketAddr, pages: Pages) -> Arc<Self> {
        Arc::new(Self {
            purpose,
            hosts: Hosts::new(listens),
            pages,
            log: Mutex::default(),
            room: Arc::new(Semaphore::new(CONNECTIONS)),
        })
    }

    /// Serves who comes.
    pub(super) async fn accept(self: Arc<Self>, socket: TcpListener) {
        let flag = self.purpose;
        loop {
            match socket.accept().await {
                Ok((stream, peer)) => {
                    let Ok(place) = Arc::clone(&self.room).try_acquire_owned() else {
                        if let Some(Said { unsaid }) = lock(&self.log).line(Instant::now()) {
                            tracing::warn!(
                                %peer, unsaid,
                                "turned away: there are {CONNECTIONS} connections to --{flag}"
                            );
                        }
                        continue;
                    };
                    let site = Arc::clone(&self);
                    tokio::spawn(async move {
                        let _place = place;
                        site.serve(stream, peer).await;
                    });
                }
                // Out of descriptors, most likely; or the peer has given up already. Either way
                // others are let go on.
                Err(error) => {
                    tracing::debug!(%error, "a connection to --{flag} ended before it began");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn serve(&self, stream: TcpStream, peer: SocketAddr) {
        let deadline = Deadline::new();
        let answer = async |request| {
            let answer = self.answer(&request, peer).await.unwrap_or_else(Answer::from);
            let mut answer = deadline.follow(answer);
            for (name, value) in HEADERS {
                answer.headers_mut().insert(*name, HeaderValue::from_static(value));
            }
            Ok::<_, Infallible>(answer)
        };
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(MAX_HEAD)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        let flag = self.purpose;
        let served = tokio::select! {
            served = served => served,
            () = deadline.passed() => {
                return tracing::debug!("a request to --{flag} took too long");
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a request to --{flag} failed");
        }
    }

    async fn answer(
        &self,
        request: &Request<Incoming>,
        peer: SocketAddr,
    ) -> Result<Answer, Refused> {
        self.hosts.check(request)?;
        let headers = request.headers();
        // Nothing that is read here has a body, and what follows could be taken for a request.
        if headers.contains_key(header::TRANSFER_ENCODING)
            || headers.get(header::CONTENT_LENGTH).is_some_and(|len| len != "0")
        {
            return Err(Refused(StatusCode::PAYLOAD_TOO_LARGE, "expected no body".into()));
        }
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return Ok(only("GET, HEAD"));
        }
        // As it was written: no path leads anywhere but to what has this very name.
        match (&self.pages, request.uri().path()) {
            (Pages::Console(console), _) => console.answer(request, peer).await,
            (Pages::Metrics(metrics), "/metrics") => match metrics.scrape().await {
                Ok(text) => Ok(whole(metrics::CONTENT_TYPE, text)),
                Err(gone) => Err(Refused(StatusCode::SERVICE_UNAVAILABLE, gone.to_string())),
            },
            (Pages::Metrics(_), _) => Err(Refused::unknown("/metrics")),
        }
    }
}
