//! Who may use the API: the peers of a UNIX socket by user and group (`SO_PEERCRED`), those of TCP beyond loopback by
//! certificate (mutual TLS). What comes over loopback is let in: keep that to hosts whose users are all trusted.

use crate::config::{Config, Listen};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};
use tokio::net::unix::UCred;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

/// Why nobody could be let in as the flags say.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// An address that anybody can reach, without certificates.
    #[error(
        "--listen {0}: beyond loopback the API is served with mutual TLS only: give --tls-cert, --tls-key and --tls-client-ca, or listen on [::1] or unix:/path"
    )]
    Beyond(Listen),
    /// A file of TLS cannot be read.
    #[error("--{flag} {}: {source}", path.display())]
    File {
        /// Its flag.
        flag: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The files are not what they should be.
    #[error("--tls-cert, --tls-key, --tls-client-ca: {0}; expected PEM files that belong together")]
    Tls(String),
}

/// Who is let in.
#[derive(Debug, Clone, Default)]
pub struct Access {
    uids: Vec<u32>,
    gids: Vec<u32>,
    tls: Option<ServerTlsConfig>,
}

fn is_loopback(address: &SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|a| a.is_loopback())
        }
    }
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, AccessError> {
    std::fs::read(path).map_err(|source| AccessError::File { flag, path: path.into(), source })
}

impl Access {
    /// As the flags say; refuses an address that would let anybody in.
    pub fn new(config: &Config) -> Result<Self, AccessError> {
        let tls = match (&config.tls_cert, &config.tls_key, &config.tls_client_ca) {
            (Some(cert), Some(key), Some(ca)) => {
                let identity = Identity::from_pem(read("tls-cert", cert)?, read("tls-key", key)?);
                let ca = Certificate::from_pem(read("tls-client-ca", ca)?);
                let tls = ServerTlsConfig::new().identity(identity).client_ca_root(ca);
                // What is wrong with the files is told now, not at the first connection.
                let tried = Server::builder().tls_config(tls.clone());
                tried.map_err(|error| AccessError::Tls(causes(&error)))?;
                Some(tls)
            }
            _ => None,
        };
        let access = Self { uids: config.allow_uid.clone(), gids: config.allow_gid.clone(), tls };
        match config.listen.iter().find(|address| access.needs_tls(address)) {
            Some(address) if access.tls.is_none() => Err(AccessError::Beyond(address.clone())),
            _ => Ok(access),
        }
    }

    fn needs_tls(&self, address: &Listen) -> bool {
        matches!(address, Listen::Tcp(address) if !is_loopback(address))
    }

    /// How connections to `address` are secured, if they are.
    pub fn tls(&self, address: &Listen) -> Option<&ServerTlsConfig> {
        self.tls.as_ref().filter(|_| self.needs_tls(address))
    }

    /// The mode of a UNIX socket: others can connect only where some are let in.
    pub fn socket_mode(&self) -> u32 {
        if self.uids.is_empty() && self.gids.is_empty() { 0o600 } else { 0o666 }
    }

    /// Whether a peer of a UNIX socket is let in: root, the daemon's own user, and those that flags name.
    pub fn admits(&self, peer: &UCred) -> bool {
        let own = rustix::process::geteuid().as_raw();
        [0, own].contains(&peer.uid())
            || self.uids.contains(&peer.uid())
            || self.gids.contains(&peer.gid())
    }
}

/// An error and what caused it, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
