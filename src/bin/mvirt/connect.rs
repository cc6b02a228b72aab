//! The way to the daemon: TCP, with TLS or without, or a UNIX socket.

use super::Failure;
use hyper_util::rt::TokioIo;
use mvirt_net::proto::net_service_client::NetServiceClient;
use std::{
    error::Error as _,
    path::{Path, PathBuf},
};
use tokio::net::UnixStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};

pub(crate) type Client = NetServiceClient<Channel>;

/// How the server of an https address is known, and this program to it.
#[derive(Debug, clap::Args)]
pub(crate) struct Tls {
    /// PEM certificates of the authority that vouches for the server
    #[arg(long, global = true, value_name = "FILE", env = "MVIRT_NET_SERVER_CA")]
    tls_ca: Option<PathBuf>,
    /// PEM certificate to show to the server
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "MVIRT_NET_CLIENT_CERT",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,
    /// PEM private key of that certificate
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "MVIRT_NET_CLIENT_KEY",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,
}

impl Tls {
    fn config(&self) -> Result<ClientTlsConfig, Failure> {
        let mut config = ClientTlsConfig::new();
        if let Some(ca) = &self.tls_ca {
            config = config.ca_certificate(Certificate::from_pem(read("--tls-ca", ca)?));
        }
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            let (cert, key) = (read("--tls-cert", cert)?, read("--tls-key", key)?);
            config = config.identity(Identity::from_pem(cert, key));
        }
        Ok(config)
    }
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|source| Failure::Tls { flag, path: path.into(), source })
}

/// Connects to `http://HOST:PORT`, `https://HOST:PORT` or `unix:/path`.
pub(crate) async fn connect(address: &str, tls: &Tls) -> Result<Client, Failure> {
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
            let secure = with_scheme.starts_with("https://");
            let mut endpoint = Endpoint::from_shared(with_scheme).map_err(unreachable)?;
            if secure {
                endpoint = endpoint.tls_config(tls.config()?).map_err(unreachable)?;
            }
            endpoint.connect().await
        }
    };
    channel.map(NetServiceClient::new).map_err(unreachable)
}
