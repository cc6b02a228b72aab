//! The sockets on which the API is listened for.

use super::shares::Peer;
use crate::{
    access::Access,
    config::{Config, Listen},
    lock,
};
use rustix::net::sockopt;
use std::{
    collections::HashMap,
    fs, io,
    net::SocketAddr,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{
            fs::{FileTypeExt as _, PermissionsExt as _},
            net::UnixStream as StdStream,
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time::sleep,
};

/// How often a port is tried that a corpse holds.
const RETRY: Duration = Duration::from_secs(1);

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("--listen {address}: {source}{hint}")]
pub struct ListenError {
    address: Listen,
    source: io::Error,
    /// What else could be tried, if anything.
    hint: String,
}

/// A place where clients come.
#[derive(Debug)]
pub struct Listener {
    /// As the flags name it.
    named: Listen,
    /// Absent where its port is not free yet.
    socket: Option<Socket>,
}

#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Who has come.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Whose share this is, and who it is for the log.
    pub(super) fn peer(&self) -> io::Result<(Peer, String)> {
        Ok(match self {
            Self::Tcp(stream) => {
                let address = stream.peer_addr()?;
                (address.ip().into(), address.to_string())
            }
            Self::Unix(stream) => {
                let peer = stream.peer_cred()?;
                (Peer::User(peer.uid()), format!("uid={} gid={}", peer.uid(), peer.gid()))
            }
        })
    }
}

impl Socket {
    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

impl Listener {
    pub(super) fn address(&self) -> &Listen {
        &self.named
    }

    /// Returns the socket that clients connect to, as soon as it can be had.
    pub(super) async fn socket(self) -> Socket {
        match (self.socket, self.named) {
            (Some(socket), _) => socket,
            // A TCP port cannot be taken from who holds it, as a path can.
            (None, Listen::Tcp(address)) => loop {
                sleep(RETRY).await;
                if let Ok(listener) = TcpListener::bind(address).await {
                    tracing::info!(%address, "the API is served here, too");
                    return Socket::Tcp(listener);
                }
            },
            // Paths can always be replaced.
            (None, Listen::Unix(_)) => std::future::pending().await,
        }
    }

    /// Its name, and a copy, for a process that takes over. None where there is nothing to give.
    pub fn copy(&self) -> Option<io::Result<(String, OwnedFd)>> {
        let fd = match self.socket.as_ref()? {
            Socket::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Socket::Unix(listener) => listener.as_fd().try_clone_to_owned(),
        };
        Some(fd.map(|fd| (self.named.to_string(), fd)))
    }

    /// Where it listens: with the port that the system has chosen.
    pub fn shown(&self) -> String {
        match &self.socket {
            Some(Socket::Tcp(listener)) => match listener.local_addr() {
                Ok(address) => address.to_string(),
                Err(error) => error.to_string(),
            },
            _ => self.named.to_string(),
        }
    }
}

/// Listens on all addresses, by descriptors of another process where it gave one for an address. A
/// port that is taken is waited for where `holder_is_dead`: guests are served meanwhile.
pub async fn listen_all(
    config: &Config,
    access: &Access,
    inherited: &mut HashMap<String, OwnedFd>,
    holder_is_dead: bool,
) -> Result<Vec<Listener>, ListenError> {
    let mut listeners = Vec::new();
    for named in &config.listen {
        let inherited = inherited.remove(&named.to_string());
        let socket = match named {
            Listen::Tcp(address) => match inherited {
                // Non-blocking already: that is the open file's, which both processes share
                // (fcntl(2)).
                Some(fd) => TcpListener::from_std(fd.into()),
                None => TcpListener::bind(address).await,
            }
            .map(Socket::Tcp),
            Listen::Unix(path) => match inherited {
                Some(fd) => UnixListener::from_std(fd.into()),
                None => listen_unix(path, access),
            }
            .map(Socket::Unix),
        };
        // Who gave certificates may take all addresses for safe.
        if access.is_plain_beside_tls(named) {
            tracing::warn!(
                address = %named,
                "served without TLS: every process of this host may use it"
            );
        }
        let socket = match socket {
            // Only then: a port that a living process has is a mistake to be told at once.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && holder_is_dead => {
                tracing::error!(
                    address = %named,
                    "a daemon that cannot end has this address still"
                );
                None
            }
            Err(source) => return Err(refused(named, source)),
            Ok(socket) => Some(socket),
        };
        listeners.push(Listener { named: named.clone(), socket });
    }
    Ok(listeners)
}

fn refused(address: &Listen, source: io::Error) -> ListenError {
    let is_missing = source.kind() == io::ErrorKind::AddrNotAvailable;
    let hint = match address {
        Listen::Tcp(SocketAddr::V6(v6)) if is_missing && v6.ip().is_loopback() => format!(
            ": this host has no IPv6; try --listen 127.0.0.1:{}, or --listen unix:/path",
            v6.port()
        ),
        _ => String::new(),
    };
    ListenError { address: address.clone(), source, hint }
}

/// Replaces a socket that a daemon left behind, but not one that somebody listens on.
fn listen_unix(path: &Path, access: &Access) -> io::Result<UnixListener> {
    // bind(2) fails where there is a file, whether somebody listens on it or not: connect(2) tells.
    if let Ok(listening) = StdStream::connect(path) {
        // Who called listen(2). One that was killed may be kept from closing what it listens on.
        let listener = sockopt::socket_peercred(&listening)?;
        if !lock::is_dying(listener.pid) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
    }
    // Not through symbolic links, and nothing but a socket: a path by mistake costs no file.
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // Who connects between both calls is asked who it is, like everybody (`Access::admits`).
    fs::set_permissions(path, fs::Permissions::from_mode(access.socket_mode()))?;
    Ok(listener)
}

/// The paths of UNIX sockets among `addresses`.
pub fn paths(addresses: &[Listen]) -> Vec<PathBuf> {
    let path = |address: &Listen| match address {
        Listen::Unix(path) => Some(path.clone()),
        Listen::Tcp(_) => None,
    };
    addresses.iter().filter_map(path).collect()
}

/// Removes the API's sockets.
pub fn remove(paths: &[PathBuf]) {
    for path in paths {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove the API's socket");
        }
    }
}
