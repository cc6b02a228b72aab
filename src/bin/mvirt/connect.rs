//! The way to the daemon by flags and variables, and what to do where it is barred: what to give in
//! which flag. The way itself is the library's (`mvirt_net::client`).

use super::{Failure, output, units};
use clap::{Args, ValueHint};
pub(crate) use mvirt_net::client::Client;
use mvirt_net::client::{self, Cause, Error, TlsFile};
use std::{path::PathBuf, time::Duration};

const HEADING: &str = "Connection";

/// Where the daemon is, and how both sides know each other.
///
/// Variables of the environment are read here and not by clap, which would name their flags in each
/// line of usage.
#[derive(Debug, Clone, Args)]
pub(crate) struct Flags {
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
    timeout: Option<Duration>,
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

/// The way to the daemon.
#[derive(Debug, Clone)]
pub(crate) struct Connection(client::Connection);

impl Flags {
    /// The way that they and the environment lead.
    pub(crate) fn connection(self) -> Result<Connection, Failure> {
        let Self { net_server, timeout, tls_ca, tls_cert, tls_key } = self;
        let given = client::Connection {
            address: net_server,
            timeout,
            ca: tls_ca,
            certificate: tls_cert,
            key: tls_key,
        };
        let whole = given.or_environment();
        whole.map(Connection).map_err(|error| Failure::Usage(error.to_string()))
    }
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
        let flags = Flags {
            net_server: flag,
            timeout: Some(timeout),
            // Certificates come from the environment only.
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
        };
        flags.connection()
    }

    /// How long an answer may take, where somebody has said it.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.0.timeout
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// Nobody is there, or not who is expected; flags that do not go together.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        if !self.0.is_secure() && self.0.certificate.is_some() == self.0.key.is_some() {
            self.tell_of_unused_files();
        }
        self.0.connect().await.map_err(|error| self.failure(error))
    }

    fn tell_of_unused_files(&self) {
        let files = [
            ("--tls-ca", &self.0.ca),
            ("--tls-cert", &self.0.certificate),
            ("--tls-key", &self.0.key),
        ];
        let given = files.iter().filter(|(_, file)| file.is_some()).map(|(flag, _)| *flag);
        let given = given.collect::<Vec<_>>().join(", ");
        if !given.is_empty() {
            output::say(&format!(
                "mvirt: {} is without TLS, so that {given} does nothing: https:// has it",
                self.0.address()
            ));
        }
    }

    /// A failure with the connection's part in it, where it was the connection and not the server.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Refused(status) => match self.0.lost(&status) {
                Some(error) => self.failure(error),
                None => Failure::Refused(status),
            },
            other => other,
        }
    }

    fn failure(&self, error: Error) -> Failure {
        match error {
            Error::Late { address, timeout } => Failure::Late { address, timeout },
            Error::Unreachable { address, reason, cause } => {
                Failure::Unreachable { address, reason, remedy: self.remedy(cause) }
            }
            Error::File { file, path, source } => {
                let flag = match file {
                    TlsFile::Ca => "--tls-ca",
                    TlsFile::Certificate => "--tls-cert",
                    TlsFile::Key => "--tls-key",
                };
                Failure::Tls { flag, path, source }
            }
            Error::HalfIdentity => {
                Failure::Usage("--tls-cert and --tls-key go together: give both".into())
            }
            other => Failure::Usage(other.to_string()),
        }
    }

    /// What to do about it.
    fn remedy(&self, cause: Cause) -> String {
        let file = |file: &Option<PathBuf>| {
            file.as_ref().map_or_else(String::new, |file| format!(" {}", file.display()))
        };
        let remedy = match cause {
            Cause::TurnedAway(uid) => {
                return format!(
                    "You (uid {uid}) may not use its API: see --allow-uid and --allow-gid of \
                     mvirt-net; the service lets in group mvirt-net (log in anew after usermod)."
                );
            }
            Cause::CertificateRefused => {
                return format!(
                    "It does not accept the certificate of --tls-cert{}: is its issuer in the \
                     server's --tls-client-ca?",
                    file(&self.0.certificate)
                );
            }
            Cause::KeyMismatch => {
                return format!(
                    "The key of --tls-key{} does not belong to the certificate of --tls-cert{}.",
                    file(&self.0.key),
                    file(&self.0.certificate)
                );
            }
            Cause::CertificateWanted => {
                "It wants a certificate of this program: give --tls-cert and --tls-key."
            }
            Cause::HungUp => {
                "It hung up, and may want a certificate of this program: give --tls-cert and \
                 --tls-key."
            }
            Cause::UnknownIssuer => {
                "Nobody known here vouches for its certificate: give who does with --tls-ca."
            }
            Cause::OtherName => {
                "Its certificate is for another name: use that name in the address."
            }
            Cause::NoTls => "No TLS is spoken there: use http:// instead of https://.",
            Cause::TlsExpected => {
                "TLS may be what is spoken there: use https://, with --tls-ca, --tls-cert \
                 and --tls-key."
            }
            Cause::SocketForbidden => {
                "You may not open its socket: see --allow-uid and --allow-gid of mvirt-net."
            }
            Cause::NoIpv6 => {
                "This host has no IPv6: run mvirt-net with --listen 127.0.0.1:50054 or unix:/path, \
                 and name that with --net-server."
            }
            _ => {
                "Is it running? Start it with `mvirt-net`, or name another with --net-server or \
                 MVIRT_NET_SERVER."
            }
        };
        remedy.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completion_finds_the_server_that_the_words_name() {
        let address = |line: &str| {
            let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            Connection::of_words(&words, Duration::from_secs(1)).unwrap().0.address()
        };
        for line in ["mvirt --net-server unix:/a nic get", "mvirt nic get --net-server=unix:/a"] {
            assert_eq!(address(line), "unix:/a", "{line}");
        }
        assert_eq!(address("mvirt --net-server h:1"), "http://h:1");
    }

    #[test]
    fn a_host_without_ipv6_is_told_of_the_ways_around() {
        let remedy = Connection(client::Connection::default()).remedy(Cause::NoIpv6);
        assert!(remedy.contains("127.0.0.1:50054 or unix:/path"), "{remedy}");
    }
}
