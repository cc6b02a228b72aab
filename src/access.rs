//! Who may use the API: the peers of a UNIX socket by user and group (`SO_PEERCRED`), those of TCP
//! beyond loopback by certificate (mutual TLS). What comes over loopback is let in: keep that to
//! hosts whose users are all trusted. Where certificates are given and all addresses are loopback,
//! they are asked for there.

use crate::{
    account,
    config::{Config, Listen},
};
use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::net::unix::UCred;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
};

/// Why nobody could be let in as the flags say.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// An address that anybody can reach, without certificates.
    #[error(
        "--listen {0}: beyond loopback the API is served with mutual TLS only: give --tls-cert, \
         --tls-key and --tls-client-ca, or listen on [::1] or unix:/path"
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
#[derive(Clone, Default)]
pub struct Access {
    uids: Vec<u32>,
    gids: Vec<u32>,
    tls: Option<TlsAcceptor>,
    /// Loopback, too, is served with TLS.
    tls_on_loopback: bool,
}

/// Whether an address is reached from this host alone.
pub(crate) fn is_loopback(address: &SocketAddr) -> bool {
    // ::ffff:127.0.0.1 is bound to IPv4's loopback (RFC 4291 §2.5.5.2).
    address.ip().to_canonical().is_loopback()
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, AccessError> {
    std::fs::read(path).map_err(|source| AccessError::File { flag, path: path.into(), source })
}

impl Access {
    /// As the flags say; refuses an address that would let anybody in.
    pub fn new(config: &Config) -> Result<Self, AccessError> {
        let tls = match (&config.tls_cert, &config.tls_key, &config.tls_client_ca) {
            (Some(cert), Some(key), Some(ca)) => {
                let cert = read("tls-cert", cert)?;
                let (key, ca) = (read("tls-key", key)?, read("tls-client-ca", ca)?);
                // What is wrong with the files is told now, not at the first connection.
                let tls = mutual_tls(&cert, &key, &ca);
                Some(tls.map_err(|error| AccessError::Tls(causes(&*error)))?)
            }
            _ => None,
        };
        let mut access = Self {
            uids: config.allow_uid.iter().map(|user| user.0).collect(),
            gids: config.allow_gid.iter().map(|group| group.0).collect(),
            tls,
            tls_on_loopback: false,
        };
        let beyond = config.listen.iter().find(|address| access.needs_tls(address));
        match beyond {
            Some(address) if access.tls.is_none() => Err(AccessError::Beyond(address.clone())),
            Some(_) => Ok(access),
            // Files that no other address uses are meant for these.
            None => {
                access.tls_on_loopback = true;
                Ok(access)
            }
        }
    }

    fn needs_tls(&self, address: &Listen) -> bool {
        let is_beyond = |address| self.tls_on_loopback || !is_loopback(address);
        matches!(address, Listen::Tcp(address) if is_beyond(address))
    }

    /// How connections to `address` are secured, if they are.
    pub fn tls(&self, address: &Listen) -> Option<&TlsAcceptor> {
        self.tls.as_ref().filter(|_| self.needs_tls(address))
    }

    /// Whether there are certificates, and `address` is served without.
    pub fn is_plain_beside_tls(&self, address: &Listen) -> bool {
        matches!(address, Listen::Tcp(_)) && self.tls.is_some() && !self.needs_tls(address)
    }

    /// The mode of a UNIX socket: others can connect only where some are let in.
    pub fn socket_mode(&self) -> u32 {
        // connect(2) needs write permission. Who is let in by number may be in any group, so it is
        // the daemon that asks, by SO_PEERCRED.
        if self.uids.is_empty() && self.gids.is_empty() { 0o600 } else { 0o666 }
    }

    /// Whether a peer of a UNIX socket is let in: root, the daemon's own user, and those that flags
    /// name. The kernel reports only the first of its groups. The others are looked up in the
    /// databases, which may take a while.
    pub async fn admits(&self, peer: &UCred) -> bool {
        let own = rustix::process::geteuid().as_raw();
        let uid = peer.uid();
        // Root and the own user could change the daemon anyway.
        if [0, own].contains(&uid) || self.uids.contains(&uid) || self.gids.contains(&peer.gid()) {
            return true;
        }
        if self.gids.is_empty() {
            return false;
        }
        // On a thread that may wait: others come in meanwhile.
        let groups = tokio::task::spawn_blocking(move || account::groups_of(uid)).await;
        groups.is_ok_and(|groups| groups.iter().any(|group| self.gids.contains(group)))
    }
}

/// TLS for clients that have a certificate, as all three PEM files say.
fn mutual_tls(
    cert: &[u8],
    key: &[u8],
    ca: &[u8],
) -> Result<TlsAcceptor, Box<dyn std::error::Error + Send + Sync>> {
    let chain = |pem| CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let mut roots = RootCertStore::empty();
    for root in chain(ca)? {
        roots.add(root)?;
    }
    let verifier = WebPkiClientVerifier::builder(roots.into()).build()?;
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(cert)?, PrivateKeyDer::from_pem_slice(key)?)?;
    // HTTP/2 over TLS is chosen by ALPN (RFC 9113 §3.2), and gRPC clients insist on it.
    config.alpn_protocols.push(b"h2".to_vec());
    Ok(TlsAcceptor::from(Arc::new(config)))
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
