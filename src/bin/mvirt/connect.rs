//! The way to the daemon: a UNIX socket, or TCP with TLS or without; and what to do where it is
//! barred.

use super::{Failure, output, units};
use clap::{Args, ValueHint};
use mvirt_net::{
    config::{DEFAULT_LISTEN, default_server},
    proto::net_service_client::NetServiceClient,
};
use std::{
    env,
    error::Error,
    ffi::OsString,
    os::unix::{fs::MetadataExt as _, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

pub(crate) type Client = NetServiceClient<Channel>;

const HEADING: &str = "Connection";
/// How long an answer may take, where nobody says.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Octets of an answer at most: what 16,384 vNICs with 512 prefixes each can come to.
const MAX_ANSWER: usize = 512 << 20;

/// Where the daemon is, and how both sides know each other.
///
/// Variables of the environment are read here and not by clap, which would name their flags in each
/// line of usage.
#[derive(Debug, Clone, Args)]
pub(crate) struct Connection {
    /// mvirt-net's address: unix:/path, http://HOST:PORT or https://HOST:PORT [env:
    /// MVIRT_NET_SERVER]
    #[arg(long, global = true, value_name = "ADDR", help_heading = HEADING, display_order = 900)]
    net_server: Option<String>,
    /// How long to wait for an answer: seconds, or like 500ms [default: 10]
    #[arg(
        long,
        global = true,
        value_name = "TIME",
        value_parser = units::seconds,
        help_heading = HEADING,
        display_order = 901
    )]
    pub(crate) timeout: Option<Duration>,
    /// With https: certificates of who vouches for the server [env: MVIRT_NET_SERVER_CA]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        help_heading = HEADING,
        display_order = 902
    )]
    tls_ca: Option<PathBuf>,
    /// With https: certificate to show to the server [env: MVIRT_NET_CLIENT_CERT]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        help_heading = HEADING,
        display_order = 903
    )]
    tls_cert: Option<PathBuf>,
    /// With https: private key of that certificate [env: MVIRT_NET_CLIENT_KEY]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        help_heading = HEADING,
        display_order = 904
    )]
    tls_key: Option<PathBuf>,
}

/// A variable of the environment; an empty one is none.
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

impl Connection {
    /// One for completion, which sees the words of a command line and not its flags.
    pub(crate) fn of_words(words: &[String], timeout: Duration) -> Result<Self, Failure> {
        // The line may be wrong or half typed, so clap cannot parse it.
        let mut flag = None;
        for (at, word) in words.iter().enumerate() {
            match word.strip_prefix("--net-server") {
                Some("") => flag = words.get(at + 1).cloned(),
                Some(rest) => flag = rest.strip_prefix('=').map(str::to_owned).or(flag),
                None => {}
            }
        }
        Self {
            net_server: flag,
            timeout: Some(timeout),
            // Certificates come from the environment only.
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
        }
        .with_environment()
    }

    /// What is not given by flags, from the environment.
    pub(crate) fn with_environment(mut self) -> Result<Self, Failure> {
        let file = |flag: Option<PathBuf>, name| flag.or_else(|| variable(name).map(Into::into));
        self.tls_ca = file(self.tls_ca, "MVIRT_NET_SERVER_CA");
        self.tls_cert = file(self.tls_cert, "MVIRT_NET_CLIENT_CERT");
        self.tls_key = file(self.tls_key, "MVIRT_NET_CLIENT_KEY");
        let address = match self.net_server.filter(|address| !address.is_empty()) {
            Some(given) => given,
            None => match variable("MVIRT_NET_SERVER").map(OsString::into_string) {
                Some(Ok(given)) => given,
                Some(Err(given)) => {
                    let said =
                        format!("environment variable MVIRT_NET_SERVER: {given:?}: not UTF-8");
                    return Err(Failure::Usage(said));
                }
                None => default_server(),
            },
        };
        // A path stays as it is, and is refused as that.
        let has_scheme = address.contains("://") || address.starts_with("unix:");
        let is_whole = has_scheme || address.starts_with(['/', '.']);
        self.net_server = Some(if is_whole { address } else { format!("http://{address}") });
        Ok(self)
    }

    fn address(&self) -> &str {
        self.net_server.as_deref().unwrap_or(DEFAULT_LISTEN)
    }

    fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT)
    }

    /// Refuses an address of no kind that there is.
    fn endpoint(&self) -> Result<Endpoint, Failure> {
        let address = self.address();
        // tonic takes any URI: only those that it can dial are let through.
        let kinds = ["unix:", "http://", "https://"];
        let rest = kinds.iter().find_map(|kind| address.strip_prefix(kind));
        let endpoint = Endpoint::from_shared(address.to_owned()).ok();
        if let Some(endpoint) = endpoint.filter(|_| rest.is_some_and(|rest| !rest.is_empty())) {
            return Ok(endpoint);
        }
        let is_path = address.starts_with(['/', '.']);
        let hint = if is_path { format!("; did you mean unix:{address}?") } else { String::new() };
        Err(Failure::Usage(format!(
            "mvirt-net's address {address:?}: expected unix:/path, http://HOST:PORT or \
             https://HOST:PORT{hint}"
        )))
    }

    /// Whether a daemon that does not know this user has hung up. Root and its own user it lets in
    /// whatever its flags say.
    fn is_turned_away(&self, uid: u32) -> bool {
        // Over TCP nobody is asked for a user.
        let Some(path) = self.address().strip_prefix("unix:") else { return false };
        let owner = std::fs::metadata(path).map(|socket| socket.uid());
        // One that has ended hangs up, too, and lets nobody connect then.
        owner.is_ok_and(|owner| ![0, owner].contains(&uid)) && UnixStream::connect(path).is_ok()
    }

    fn is_secure(&self) -> bool {
        self.address().starts_with("https://")
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// Nobody is there, or not who is expected; flags that do not go together.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        // Of each call; the connection has its own below.
        let mut endpoint = self.endpoint()?.timeout(self.timeout());
        if let (Some(_), None) | (None, Some(_)) = (&self.tls_cert, &self.tls_key) {
            return Err(Failure::Usage("--tls-cert and --tls-key go together: give both".into()));
        }
        if self.is_secure() {
            let config = self.tls()?;
            endpoint = endpoint.tls_config(config).map_err(|error| self.unreachable(&error))?;
        } else {
            self.tell_of_unused_files();
        }
        // The kernel of a daemon that is stopped accepts the connection, and then nothing comes.
        let connected = tokio::time::timeout(self.timeout(), endpoint.connect()).await;
        let channel = connected.map_err(|_| self.late())?;
        let client = NetServiceClient::new(channel.map_err(|error| self.unreachable(&error))?);
        Ok(client.max_decoding_message_size(MAX_ANSWER))
    }

    fn tls(&self) -> Result<ClientTlsConfig, Failure> {
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

    fn tell_of_unused_files(&self) {
        let files = [
            ("--tls-ca", &self.tls_ca),
            ("--tls-cert", &self.tls_cert),
            ("--tls-key", &self.tls_key),
        ];
        let given = files.iter().filter(|(_, file)| file.is_some()).map(|(flag, _)| *flag);
        let given = given.collect::<Vec<_>>().join(", ");
        if !given.is_empty() {
            output::say(&format!(
                "mvirt: {} is without TLS, so that {given} does nothing: https:// has it",
                self.address()
            ));
        }
    }

    fn late(&self) -> Failure {
        Failure::Late { address: self.address().into(), timeout: self.timeout() }
    }

    fn unreachable(&self, error: &(dyn Error + 'static)) -> Failure {
        // The last cause says what happened; those before it say that something did.
        let reason = causes(error).pop().unwrap_or_default();
        let remedy = self.remedy(error);
        Failure::Unreachable { address: self.address().into(), reason, remedy }
    }

    /// A failure with the connection's part in it, where it was the connection and not the server.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Refused(status) => match status.source() {
                // A status that came over the wire has no cause here.
                None => Failure::Refused(status),
                // The timeout of this side comes as a status as well.
                Some(cause) if causes(cause).iter().any(|cause| cause == "Timeout expired") => {
                    self.late()
                }
                Some(cause) => self.unreachable(cause),
            },
            other => other,
        }
    }

    /// What to do about an error of the connection. Its causes are told apart by their words: the
    /// layers between rustls and tonic keep no types.
    fn remedy(&self, error: &(dyn Error + 'static)) -> String {
        let said = causes(error).join("\n").to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
        let file = |file: &Option<PathBuf>| {
            file.as_ref().map_or_else(String::new, |file| format!(" {}", file.display()))
        };
        // With TLS 1.3 a client is refused after its handshake is over: what the server said of it
        // is lost where the connection ends before the first call begins.
        let closed = self.is_secure() && has(&["connection closed"]);
        let refused = closed || has(&["received fatal alert", "alertreceived"]);
        let hung_up =
            has(&["broken pipe", "connection reset", "connection closed", "unexpected eof"]);
        let uid = rustix::process::geteuid().as_raw();
        // First: a daemon that does not know a user just hangs up, as others do for other reasons.
        let remedy = if hung_up && self.is_turned_away(uid) {
            return format!(
                "You (uid {uid}) may not use its API: see --allow-uid and --allow-gid of \
                 mvirt-net; the service lets in group mvirt-net (log in anew after usermod)."
            );
        } else if has(&["certificaterequired", "certificate required"]) {
            "It wants a certificate of this program: give --tls-cert and --tls-key."
        } else if closed && self.tls_cert.is_none() {
            "It hung up, and may want a certificate of this program: give --tls-cert and --tls-key."
        } else if refused && self.tls_cert.is_some() {
            return format!(
                "It does not accept the certificate of --tls-cert{}: is its issuer in the server's \
                 --tls-client-ca?",
                file(&self.tls_cert)
            );
        } else if has(&["keymismatch", "keys may not be consistent", "key mismatch"]) {
            return format!(
                "The key of --tls-key{} does not belong to the certificate of --tls-cert{}.",
                file(&self.tls_key),
                file(&self.tls_cert)
            );
        } else if has(&["unknownissuer", "unknown issuer"]) {
            "Nobody known here vouches for its certificate: give who does with --tls-ca."
        } else if has(&["notvalidforname", "not valid for name"]) {
            "Its certificate is for another name: use that name in the address."
        } else if has(&["invalidcontenttype", "corrupt message"])
            || self.is_secure()
                && has(&["connection reset", "unexpectedeof", "unexpected eof", "handshake eof"])
        {
            // A daemon that sees the first octet of TLS where it serves none hangs up.
            "No TLS is spoken there: use http:// instead of https://."
        } else if has(&["http2 error", "frame_size", "frame with invalid size", "protocol error"])
            && self.address().starts_with("http://")
        {
            "TLS may be what is spoken there: use https://, with --tls-ca, --tls-cert \
             and --tls-key."
        } else if has(&["permission denied"]) {
            "You may not open its socket: see --allow-uid and --allow-gid of mvirt-net."
        } else if has(&["cannot assign requested address", "network is unreachable"])
            && self.address().contains("[::1]")
        {
            "This host has no IPv6: run mvirt-net with --listen 127.0.0.1:50054 or unix:/path, and \
             name that with --net-server."
        } else {
            "Is it running? Start it with `mvirt-net`, or name another with --net-server or \
             MVIRT_NET_SERVER."
        };
        remedy.into()
    }
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|source| Failure::Tls { flag, path: path.into(), source })
}

/// What an error and its causes say, the last cause last: it says what happened, those before it
/// that something did.
fn causes(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut causes = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        causes.push(error.to_string());
        next = error.source();
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn completion_finds_the_server_that_the_words_name() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for line in ["mvirt --net-server unix:/a nic get", "mvirt nic get --net-server=unix:/a"] {
            let connection = Connection::of_words(&words(line), SECOND).unwrap();
            assert_eq!(connection.address(), "unix:/a", "{line}");
        }
        let plain = Connection::of_words(&words("mvirt --net-server h:1"), SECOND).unwrap();
        assert_eq!(plain.address(), "http://h:1");
    }

    #[test]
    fn a_host_without_ipv6_is_told_of_the_ways_around() {
        let words = |server: &str| ["--net-server".into(), server.into()];
        let to = |server: &str| Connection::of_words(&words(server), SECOND).unwrap();
        let error = std::io::Error::from_raw_os_error(libc::EADDRNOTAVAIL);
        let remedy = to("[::1]:50054").remedy(&error);
        assert!(remedy.contains("127.0.0.1:50054 or unix:/path"), "{remedy}");
        assert!(to("192.0.2.1:50054").remedy(&error).contains("Is it running?"));
        let error = std::io::Error::from_raw_os_error(libc::EACCES);
        assert!(to("unix:/a").remedy(&error).contains("You may not open its socket"));
    }
}
