//! The way to the daemon: TCP or a UNIX socket.

use super::Failure;
use hyper_util::rt::TokioIo;
use mvirt_net::proto::net_service_client::NetServiceClient;
use std::{error::Error as _, path::PathBuf};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

pub(crate) type Client = NetServiceClient<Channel>;

/// Connects to `http://HOST:PORT` or `unix:/path`.
pub(crate) async fn connect(address: &str) -> Result<Client, Failure> {
    let unreachable = |error: tonic::transport::Error| {
        // The cause at the end of the chain says what happened; those before it that something did.
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            reason = cause.to_string();
            source = cause.source();
        }
        Failure::Unreachable { address: address.into(), reason }
    };
    let channel = match address.strip_prefix("unix:") {
        Some(path) => {
            let path = PathBuf::from(path);
            let connector = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            Endpoint::from_static("http://localhost").connect_with_connector(connector).await
        }
        None => {
            let with_scheme = if address.contains("://") {
                address.to_owned()
            } else {
                format!("http://{address}")
            };
            Endpoint::from_shared(with_scheme).map_err(unreachable)?.connect().await
        }
    };
    channel.map(NetServiceClient::new).map_err(unreachable)
}
