//! `/stats` and `/metrics` by HTTP/1.1, for programs of this host.

use super::switch::Vlans;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{collections::VecDeque, convert::Infallible, io, net::Ipv4Addr, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

/// Connections at a time; one more takes the place of the oldest, which has said the least.
const CONNECTIONS: usize = 16;
/// How long a request may take to come.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long until it is tried again to accept, where no more files can be opened.
const RETRY: Duration = Duration::from_millis(100);

/// Listens on a port of loopback.
pub(crate) async fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
}

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, vlans: Vlans) {
    let mut answers = VecDeque::<AbortHandle>::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                answers.retain(|answer| !answer.is_finished());
                if answers.len() == CONNECTIONS
                    && let Some(oldest) = answers.pop_front()
                {
                    oldest.abort();
                }
                answers.push_back(tokio::spawn(answer_one(stream, vlans.clone())).abort_handle());
            }
            Err(error) => {
                tracing::debug!(%error, "a connection for statistics was not accepted");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn answer_one(stream: TcpStream, vlans: Vlans) {
    let service = service_fn(|request| answer(request, &vlans));
    // One request each: a client that holds a connection open holds a place.
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(2 * TIMEOUT, served).await {
        Ok(Err(error)) => tracing::debug!(%error, "a request for statistics failed"),
        Err(_) => tracing::debug!("a request for statistics took too long"),
        Ok(Ok(())) => {}
    }
}

async fn answer(request: Request<Incoming>, vlans: &Vlans) -> Result<Response<String>, Infallible> {
    let plain = |status, text: &str| {
        let mut response = Response::new(format!("{text}\n"));
        *response.status_mut() = status;
        response
    };
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET");
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return Ok(refused);
    }
    let path = request.uri().path();
    if !["/stats", "/metrics"].contains(&path) {
        return Ok(plain(StatusCode::NOT_FOUND, "there are /stats and /metrics"));
    }
    let Ok(stats) = vlans.stats().await else {
        return Ok(plain(StatusCode::SERVICE_UNAVAILABLE, "shutting down"));
    };
    let (kind, body) = match path {
        "/metrics" => ("text/plain; version=0.0.4", stats.metrics()),
        _ => ("application/json", serde_json::json!(stats).to_string()),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    Ok(response)
}
