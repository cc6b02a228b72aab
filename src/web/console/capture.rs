//! A capture as a download: a file of pcapng that has an end.

use super::{
    super::answer::{Answer, Refused, parts},
    query::Query,
};
use crate::{
    control::{Caller, service::Service},
    proto::{CaptureRequest, net_service_server::NetService},
};
use hyper::{
    body::Bytes,
    header::{self, HeaderValue},
};
use std::{net::SocketAddr, time::Duration};
use tokio_stream::StreamExt as _;
use tonic::Request;

/// Seconds that it takes, where nobody says, and at most.
const SECONDS: (u32, u32) = (10, 300);
/// Frames, likewise.
const PACKETS: (u64, u64) = (100_000, 10_000_000);
/// Octets of the file, likewise.
// A browser keeps it in memory until it is whole.
const OCTETS: (u64, u64) = (32 << 20, 256 << 20);

/// Begins one, as a query says.
pub(super) async fn begin(
    service: &Service,
    mut query: Query,
    peer: SocketAddr,
) -> Result<Answer, Refused> {
    let request = CaptureRequest {
        targets: query.all("target"),
        network_id: query.text("network")?,
        filter: query.text("filter")?,
        snaplen: query.number("snaplen", 0, 0..=u32::MAX)?,
        max_seconds: query.number("seconds", SECONDS.0, 1..=SECONDS.1)?,
        max_packets: query.number("packets", PACKETS.0, 1..=PACKETS.1)?,
        max_octets: query.number("octets", OCTETS.0, 1..=OCTETS.1)?,
        points: Vec::new(),
        ring: query.number("ring", 0, 0..=1)? == 1,
    };
    query.end()?;
    // Nobody may send anything for as long as it takes.
    let silence = Duration::from_secs(request.max_seconds.into());
    let mut request = Request::new(request);
    request.extensions_mut().insert(Caller(format!("console, {peer}")));
    let chunks = service.capture(request).await?.into_inner();
    let octets = chunks.map(|chunk| chunk.map(|chunk| Bytes::from(chunk.pcapng)));
    let mut answer = parts("application/x-pcapng", silence, octets);
    let name = HeaderValue::from_static("attachment; filename=\"capture.pcapng\"");
    answer.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    Ok(answer)
}
