//! The API's doors: listens, lets in who may, and serves requests.
//!
//! ```text
//! listener ── accept ── shares ── access, TLS, preface (10 s in all)
//!                                   └──▶ tonic ── answers ── control::service
//! ```
//! Strangers cost little: what they may open, begin, send and leave unread is bounded, for each
//! peer and in all, and so is how much is done for them at a time.

mod accept;
mod account;
mod answers;
mod bodies;
mod budget;
mod connection;
mod listener;
mod shares;

pub use listener::{ListenError, Listener, listen_all, paths, remove};

use crate::{
    access::Access,
    control::{self, Handle, service},
    proto::{DESCRIPTORS, net_service_server::NetServiceServer},
    telemetry::Telemetry,
};
use accept::Gate;
use answers::Bounded;
use bodies::MAX_REQUEST;
use budget::Limits;
use shares::Shares;
use std::{io, sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::transport::Server;

/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// What all listeners of the API share.
#[derive(Clone)]
pub struct Api {
    access: Access,
    control: Handle,
    connections: Arc<Shares>,
    limits: Arc<Limits>,
    telemetry: Telemetry,
}

impl Api {
    /// For those that `access` lets in; requests go to `control`.
    pub fn new(access: Access, control: Handle, telemetry: Telemetry) -> Self {
        let (connections, limits) = (Arc::default(), Arc::default());
        Self { access, control, connections, limits, telemetry }
    }

    /// Serves who comes to `listener`, until `stopped` and the last request is answered.
    pub async fn serve(
        self,
        listener: Listener,
        mut stopped: watch::Receiver<()>,
    ) -> Result<(), tonic::transport::Error> {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<NetServiceServer<service::Service>>().await;
        tokio::spawn(control::health::report(self.control.degraded(), health));
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let service = NetServiceServer::new(service::Service::new(self.control))
            .max_decoding_message_size(MAX_REQUEST);
        let telemetry = self.telemetry;
        let router = Server::builder()
            .timeout(DEADLINE)
            // What a peer may have handled at a time (`budget`): more would only wait here, with
            // their memory.
            .max_concurrent_streams(64)
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .layer(tower::layer::layer_fn(move |service| Bounded::new(service, telemetry.clone())))
            .add_service(service)
            .add_service(health_service)
            .add_service(reflection().build_v1().expect("our own descriptors are sound"))
            // Clients that are older than version 1 of the protocol know this one alone.
            .add_service(reflection().build_v1alpha().expect("our own descriptors are sound"));
        // Connections come to tonic as they are ready: a slow handshake keeps nobody else waiting.
        let (ready, connections) = mpsc::channel(1);
        let connections = ReceiverStream::new(connections).map(Ok::<_, io::Error>);
        let gate = Gate::new(self.access, self.connections, self.limits, ready);
        let mut ends = stopped.clone();
        let accepting = async move {
            tokio::select! {
                () = gate.accept(listener) => {}
                // The sender is dropped, nothing is ever sent.
                _ = ends.changed() => {}
            }
        };
        let stopped = async move { drop(stopped.changed().await) };
        let serving = router.serve_with_incoming_shutdown(connections, stopped);
        tokio::join!(accepting, serving).1
    }
}
