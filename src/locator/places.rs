//! Hosts, ports and addresses in locators.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

/// A host, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// By its address.
    Address(IpAddr),
    /// By its name, which is to be looked up.
    Name(String),
}

/// A port of a host's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The host.
    pub host: Host,
    /// Its port; not 0.
    pub port: u16,
}

/// The text is no host and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a host and a port, like 10.0.0.1:9999, [::1]:9999 or host.example:9999")]
pub struct MalformedHostPort;

impl FromStr for HostPort {
    type Err = MalformedHostPort;

    fn from_str(text: &str) -> Result<Self, MalformedHostPort> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            let host = Host::Address(address.ip());
            // A scope would be lost.
            return match text.contains('%') || address.port() == 0 {
                true => Err(MalformedHostPort),
                false => Ok(Self { host, port: address.port() }),
            };
        }
        let (name, port) = text.rsplit_once(':').ok_or(MalformedHostPort)?;
        // 253 is the longest name of DNS (RFC 1035 §2.3.4, less the octets of its form on wire).
        let valid = (1..=253).contains(&name.len())
            && !name.starts_with('-')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
            // An address with a mistake in it is no name.
            && name.chars().any(|c| c.is_ascii_alphabetic());
        let port = number(port).filter(|port| valid && *port != 0).ok_or(MalformedHostPort)?;
        Ok(Self { host: Host::Name(name.into()), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Where one listens: an address and a port. Without an address, or with `*`, on all of IPv4's.
pub(super) fn listen_address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = number(port)?;
    match host {
        "" | "*" => Some((Ipv4Addr::UNSPECIFIED, port).into()),
        "localhost" => Some((Ipv4Addr::LOCALHOST, port).into()),
        _ if text.contains('%') => None,
        _ => text.parse().ok(),
    }
}

/// Returns a number that is written in digits alone: `from_str` takes a sign, too.
fn number(text: &str) -> Option<u16> {
    text.bytes().all(|octet| octet.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Returns the name of an interface, if `text` may be one (`dev_valid_name` of Linux).
pub(super) fn interface(text: &str) -> Option<String> {
    // IFNAMSIZ is 16, with the octet that ends it.
    let valid = (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        // The kernel makes a number of `%d`: the name would be another.
        && !text.contains(|c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace());
    valid.then(|| text.into())
}

/// A port of the host's that is a guest's: `[HADDR:]HPORT:GADDR:GPORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Where the host listens; loopback where nothing is said.
    pub host: SocketAddr,
    /// Where the guest does.
    pub guest: (Ipv4Addr, u16),
}

/// The text is no such thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedForward;

impl FromStr for Forward {
    type Err = MalformedForward;

    fn from_str(text: &str) -> Result<Self, MalformedForward> {
        let parts = text.split(':').collect::<Vec<_>>();
        let (host, rest) = match parts[..] {
            [host, ref rest @ ..] if rest.len() == 3 => {
                (host.parse().map_err(|_| MalformedForward)?, rest)
            }
            ref rest => (Ipv4Addr::LOCALHOST, rest),
        };
        let [port, guest, guest_port] = rest else { return Err(MalformedForward) };
        let port = number(port).ok_or(MalformedForward)?;
        let guest = guest.parse().map_err(|_| MalformedForward)?;
        let guest_port = number(guest_port).ok_or(MalformedForward)?;
        Ok(Self { host: (host, port).into(), guest: (guest, guest_port) })
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.host, self.guest.0, self.guest.1)
    }
}
