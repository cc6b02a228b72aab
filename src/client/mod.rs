//! A client of the daemon's API: the way to a daemon by the addresses and variables that `mvirt`
//! takes, the calls that [`proto`](crate::proto) has, and errors by their reasons. `mvirt` is made
//! of it.
//!
//! ```no_run
#![doc = include_str!("../../examples/client.rs")]
//! ```

mod cause;
mod refusal;

pub use crate::reason::Reason;
pub use cause::Cause;
pub use refusal::{Object, Refusal};

use crate::{config::default_server, proto::net_service_client::NetServiceClient};
use std::{
    env,
    error::Error as StdError,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// The calls of the API. Clones share a connection, which is made anew where it has ended.
pub type Client = NetServiceClient<Channel>;

/// How long an answer may take, where nobody says.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Octets of an answer at most: what 16,384 vNICs with 512 prefixes each can come to.
const MAX_ANSWER: usize = 512 << 20;

/// Where the daemon is, and how both sides know each other. What is not given is as `mvirt` has it
/// without flags.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// `unix:/path`, `http://HOST:PORT`, `https://HOST:PORT`, or `HOST:PORT`, in clear. Else the
    /// socket of the service where there is one, and else `[::1]:50054`.
    pub address: Option<String>,
    /// How long it may take to connect, and each call but those that watch; else ten seconds.
    pub timeout: Option<Duration>,
    /// With `https://`: certificates of who vouches for the daemon, in PEM.
    pub ca: Option<PathBuf>,
    /// With `https://`: the certificate to show to it, in PEM.
    pub certificate: Option<PathBuf>,
    /// With `https://`: the private key of that certificate, in PEM.
    pub key: Option<PathBuf>,
}

/// A file that a connection is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFile {
    /// [`Connection::ca`]
    Ca,
    /// [`Connection::certificate`]
    Certificate,
    /// [`Connection::key`]
    Key,
}

/// Why there is no connection, or no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address is of no kind that there is.
    #[error(
        "mvirt-net's address {address:?}: expected unix:/path, http://HOST:PORT or \
         https://HOST:PORT{hint}"
    )]
    Address {
        /// What was given.
        address: String,
        /// What may have been meant.
        hint: String,
    },
    /// A variable of the environment is no text.
    #[error("environment variable {name}: {value:?}: not UTF-8")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What it is.
        value: OsString,
    },
    /// A certificate without its key, or a key alone.
    #[error("a certificate and its key go together: give both")]
    HalfIdentity,
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// Which it is.
        file: TlsFile,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The daemon is there, and did not answer in time.
    #[error("mvirt-net at {address} has not answered within {timeout:?}")]
    Late {
        /// Where it is.
        address: String,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// There is no connection, or it has ended.
    #[error("cannot reach mvirt-net at {address}: {reason}")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// What the system says, or TLS.
        reason: String,
        /// What that comes from.
        cause: Cause,
    },
    /// The daemon says no.
    #[error(transparent)]
    Refused(Box<Refusal>),
}

/// A variable of the environment; an empty one is none.
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

impl Connection {
    /// One to this address.
    pub fn to(address: impl Into<String>) -> Self {
        Self { address: Some(address.into()), ..Self::default() }
    }

    /// What is not given, from the variables that `mvirt` reads: `MVIRT_NET_SERVER`,
    /// `MVIRT_NET_SERVER_CA`, `MVIRT_NET_CLIENT_CERT` and `MVIRT_NET_CLIENT_KEY`.
    ///
    /// # Errors
    ///
    /// [`Error::Variable`].
    pub fn or_environment(mut self) -> Result<Self, Error> {
        let file = |given: Option<PathBuf>, name| given.or_else(|| variable(name).map(Into::into));
        self.ca = file(self.ca, "MVIRT_NET_SERVER_CA");
        self.certificate = file(self.certificate, "MVIRT_NET_CLIENT_CERT");
        self.key = file(self.key, "MVIRT_NET_CLIENT_KEY");
        let name = "MVIRT_NET_SERVER";
        if self.address.as_ref().is_none_or(String::is_empty) {
            let given = variable(name).map(OsString::into_string).transpose();
            self.address = given.map_err(|value| Error::Variable { name, value })?;
        }
        Ok(self)
    }

    /// Where the daemon is looked for, with what kind of address that is.
    pub fn address(&self) -> String {
        let given = self.address.clone().filter(|address| !address.is_empty());
        let address = given.unwrap_or_else(default_server);
        // A path stays as it is, and is refused as that.
        let has_kind = address.contains("://") || address.starts_with("unix:");
        let is_whole = has_kind || address.starts_with(['/', '.']);
        if is_whole { address } else { format!("http://{address}") }
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// Nobody is there, or not who is expected; what is given does not go together.
    pub async fn connect(&self) -> Result<Client, Error> {
        // Of each call; the connection has its own below.
        let mut endpoint = self.endpoint()?.timeout(self.patience());
        if self.certificate.is_some() != self.key.is_some() {
            return Err(Error::HalfIdentity);
        }
        if self.is_secure() {
            let config = self.tls()?;
            endpoint = endpoint.tls_config(config).map_err(|error| self.unreachable(&error))?;
        }
        // The kernel of a daemon that is stopped accepts the connection, and then nothing comes.
        let connected = tokio::time::timeout(self.patience(), endpoint.connect()).await;
        let channel = connected.map_err(|_| self.late())?;
        let client = NetServiceClient::new(channel.map_err(|error| self.unreachable(&error))?);
        Ok(client.max_decoding_message_size(MAX_ANSWER))
    }

    /// Why a call has failed: the daemon has refused it, or there is no answer.
    pub fn explain(&self, status: Status) -> Error {
        match (self.lost(&status), status.code()) {
            (Some(lost), _) => lost,
            // A daemon that is about to end says so, or who is between: it may have been done.
            (None, Code::Unavailable) => Error::Unreachable {
                address: self.address(),
                reason: status.message().into(),
                cause: Cause::Nobody,
            },
            (None, Code::DeadlineExceeded) => self.late(),
            (None, _) => Error::Refused(Box::new(status.into())),
        }
    }

    /// What became of the connection, where a call failed by that and not by the daemon.
    pub fn lost(&self, status: &Status) -> Option<Error> {
        // A status that came over the wire has no cause here.
        let source = status.source()?;
        // The timeout of this side comes as a status as well.
        let is_late = cause::said(source).iter().any(|said| said == "Timeout expired");
        Some(if is_late { self.late() } else { self.unreachable(source) })
    }

    fn patience(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT)
    }

    /// Whether its address has TLS.
    pub fn is_secure(&self) -> bool {
        self.address().starts_with("https://")
    }

    /// Refuses an address of no kind that there is.
    fn endpoint(&self) -> Result<Endpoint, Error> {
        let address = self.address();
        // tonic takes any URI: only those that it can dial are let through.
        let kinds = ["unix:", "http://", "https://"];
        let rest = kinds.iter().find_map(|kind| address.strip_prefix(kind));
        let endpoint = Endpoint::from_shared(address.clone()).ok();
        if let Some(endpoint) = endpoint.filter(|_| rest.is_some_and(|rest| !rest.is_empty())) {
            return Ok(endpoint);
        }
        let is_path = address.starts_with(['/', '.']);
        let hint = if is_path { format!("; did you mean unix:{address}?") } else { String::new() };
        Err(Error::Address { address, hint })
    }

    fn tls(&self) -> Result<ClientTlsConfig, Error> {
        let mut config = ClientTlsConfig::new();
        if let Some(ca) = &self.ca {
            config = config.ca_certificate(Certificate::from_pem(read(TlsFile::Ca, ca)?));
        }
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            let certificate = read(TlsFile::Certificate, certificate)?;
            config = config.identity(Identity::from_pem(certificate, read(TlsFile::Key, key)?));
        }
        Ok(config)
    }

    fn late(&self) -> Error {
        Error::Late { address: self.address(), timeout: self.patience() }
    }

    fn unreachable(&self, error: &(dyn StdError + 'static)) -> Error {
        let (address, said) = (self.address(), cause::said(error));
        let cause = Cause::of(&said, &address, self.certificate.is_some());
        // The last says what happened; those before it say that something did.
        Error::Unreachable { address, reason: said.last().cloned().unwrap_or_default(), cause }
    }
}

fn read(file: TlsFile, path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File { file, path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_kind_is_in_clear() {
        assert_eq!(Connection::to("h:1").address(), "http://h:1");
        for address in ["unix:/a", "https://h:1", "/a", "foo://x"] {
            assert_eq!(Connection::to(address).address(), address);
        }
        assert_eq!(Connection::to("").address(), Connection::default().address());
    }

    #[tokio::test]
    async fn what_cannot_be_right_is_refused_before_anybody_is_asked() {
        for address in ["/nope", "foo://x", "unix:", "http://", "a b"] {
            let refused = Connection::to(address).connect().await.unwrap_err();
            assert!(matches!(refused, Error::Address { .. }), "{address}: {refused}");
        }
        let (address, key) = (Some("https://h:1".into()), Some("k.pem".into()));
        let half = Connection { address: address.clone(), key, ..Connection::default() };
        assert!(matches!(half.connect().await.unwrap_err(), Error::HalfIdentity));
        let missing = Connection { address, ca: Some("/nope".into()), ..Connection::default() };
        let Error::File { file, .. } = missing.connect().await.unwrap_err() else { panic!() };
        assert_eq!(file, TlsFile::Ca);
    }

    #[test]
    fn what_is_no_answer_is_no_refusal() {
        let explained = |code| Connection::to("unix:/a").explain(Status::new(code, "why"));
        let ending = explained(Code::Unavailable);
        assert_eq!(ending.to_string(), "cannot reach mvirt-net at unix:/a: why");
        assert!(matches!(explained(Code::DeadlineExceeded), Error::Late { .. }));
        assert!(matches!(explained(Code::NotFound), Error::Refused(_)));
    }

    #[tokio::test]
    async fn nobody_is_there() {
        let Error::Unreachable { address, cause, .. } =
            Connection::to("unix:/nonexistent").connect().await.unwrap_err()
        else {
            panic!()
        };
        assert_eq!((&*address, cause), ("unix:/nonexistent", Cause::Nobody));
    }
}
