//! A client of the API that says what it likes, as slowly as it likes, and reads what it likes.

use super::daemon::Daemon;
use http_body::{Body as _, Frame};
use mvirt_net::proto::{ListNicsRequest, UpdateNicRequest};
use prost::Message;
use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{runtime::Runtime, task::JoinHandle};
use tonic::{
    Code, Status,
    body::Body,
    codegen::{
        Bytes,
        http::{Request, Response},
    },
    transport::{Channel, Endpoint, Error},
};
use tower::ServiceExt as _;

/// Requests that a connection may have at once.
pub(crate) const AT_ONCE: usize = 64;

/// A message as gRPC frames it.
fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len() as u32;
    [&[0][..], &length.to_be_bytes(), &message.encode_to_vec()].concat().into()
}

/// A request for all vNICs.
pub(crate) fn list() -> Bytes {
    framed(&ListNicsRequest::default())
}

/// A request as long as it may be, whose mask names one field again and again.
pub(crate) fn masked(nic: &str) -> Bytes {
    let mask = prost_types::FieldMask { paths: vec!["mtu".into(); 200_000] };
    framed(&UpdateNicRequest { id: nic.into(), update_mask: Some(mask), ..Default::default() })
}

/// What is sent of a request: octets, and then its end or nothing more.
struct Sent {
    octets: Option<Bytes>,
    ends: bool,
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.octets.take() {
            Some(octets) => Poll::Ready(Some(Ok(Frame::data(octets)))),
            None if self.ends => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// One connection.
pub(crate) struct Rude {
    runtime: Runtime,
    channel: Channel,
}

/// The beginning of an answer.
pub(crate) type Begun = JoinHandle<Result<Response<Body>, Error>>;

impl Rude {
    pub(crate) fn connect(daemon: &Daemon) -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let endpoint = Endpoint::from_shared(daemon.address()).unwrap();
        let channel = runtime.block_on(endpoint.connect()).unwrap();
        Self { runtime, channel }
    }

    /// A whole request.
    pub(crate) fn send(&self, method: &str, octets: Bytes) -> Begun {
        self.begin(method, Sent { octets: Some(octets), ends: true })
    }

    /// A request that has no end.
    pub(crate) fn send_half(&self, method: &str, octets: Option<Bytes>) -> Begun {
        self.begin(method, Sent { octets, ends: false })
    }

    fn begin(&self, method: &str, sent: Sent) -> Begun {
        let request = Request::post(format!("http://localhost/mvirt.net.NetService/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let request = request.body(Body::new(sent)).unwrap();
        self.runtime.spawn(self.channel.clone().oneshot(request))
    }

    /// The beginning of an answer.
    pub(crate) fn begun(&self, begun: Begun) -> Response<Body> {
        self.runtime.block_on(begun).unwrap().unwrap()
    }

    /// Waits for answers and reads them, or for the end of the connection.
    pub(crate) fn read(&self, all: Vec<Begun>) {
        self.runtime.block_on(async {
            for begun in all {
                let Ok(response) = begun.await.unwrap() else { continue };
                let mut body = response.into_body();
                while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {}
            }
        });
    }
}

/// What an answer says that has nothing but a status.
pub(crate) fn code(response: &Response<Body>) -> Option<Code> {
    let status = response.headers().get("grpc-status")?;
    Some(Code::from_bytes(status.as_bytes()))
}
