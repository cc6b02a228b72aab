//! Under which names this host may be asked: a page of somebody's, whose name suddenly leads here
//! (DNS rebinding), asks by that name, and is refused.

use super::answer::Refused;
use crate::{access::is_loopback, printable::printable};
use hyper::{Request, StatusCode, header, http::uri::Authority};
use std::net::{IpAddr, SocketAddr};

/// Of one listener.
#[derive(Debug)]
pub(super) struct Hosts {
    listens: SocketAddr,
    /// This host's own, where others may ask.
    own: Option<String>,
}

impl Hosts {
    pub(super) fn new(listens: SocketAddr) -> Self {
        let own = || rustix::system::uname().nodename().to_string_lossy().to_lowercase();
        Self { listens, own: (!is_loopback(&listens)).then(own) }
    }

    /// Refuses a request that is for another host.
    pub(super) fn check<B>(&self, request: &Request<B>) -> Result<(), Refused> {
        let mut named = request.headers().get_all(header::HOST).iter();
        let host = match (named.next(), named.next()) {
            (Some(host), None) => host.to_str().unwrap_or_default(),
            // RFC 9112 §3.2.
            _ => return Err(Refused(StatusCode::BAD_REQUEST, "expected one Host".into())),
        };
        if self.is_here(host) {
            return Ok(());
        }
        let shown: String = printable(host).chars().take(100).collect();
        let why = format!("Host: \"{shown}\": expected {}", self.listens);
        Err(Refused(StatusCode::MISDIRECTED_REQUEST, why))
    }

    /// Whether a Host names this one. Ports are another's where it is reached through a tunnel.
    fn is_here(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let name = authority.host().to_lowercase();
        let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let address = literal.unwrap_or(&name).parse::<IpAddr>().ok().map(|it| it.to_canonical());
        match (address, &self.own) {
            // No name leads to an address: where that is this host's, it is.
            (Some(_), Some(_)) => true,
            (Some(address), None) => address.is_loopback(),
            (None, None) => name == "localhost",
            (None, Some(own)) => {
                let is_domain = name.strip_prefix(own.as_str());
                name == "localhost"
                    || is_domain.is_some_and(|it| it.is_empty() || it.starts_with('.'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(listens: &str, own: Option<&str>) -> Hosts {
        Hosts { listens: listens.parse().unwrap(), own: own.map(Into::into) }
    }

    #[test]
    fn who_asks_by_another_name_is_refused() {
        let local = hosts("127.0.0.1:9177", None);
        for here in ["127.0.0.1:9177", "localhost", "LOCALHOST:1", "[::1]:9177", "127.0.0.2"] {
            assert!(local.is_here(here), "{here}");
        }
        for other in ["evil.example:9177", "", "10.0.0.1", "localhost.evil.example", "a b", "[::1"]
        {
            assert!(!local.is_here(other), "{other}");
        }
        let open = hosts("0.0.0.0:9177", Some("node1"));
        for here in ["10.0.0.1:9177", "node1:9177", "node1.example.org", "localhost"] {
            assert!(open.is_here(here), "{here}");
        }
        for other in ["node10", "evil.example", "node1evil.example"] {
            assert!(!open.is_here(other), "{other}");
        }
    }

    #[test]
    fn a_refusal_shows_what_was_asked_and_moves_no_cursor() {
        let request = |hosts: &[&str]| {
            let builder = hosts.iter().fold(Request::builder(), |b, h| b.header("host", *h));
            builder.body(()).unwrap()
        };
        let local = hosts("127.0.0.1:9177", None);
        assert!(local.check(&request(&["127.0.0.1:9177"])).is_ok());
        for none in [&[][..], &["localhost", "localhost"]] {
            assert_eq!(local.check(&request(none)).unwrap_err().0, StatusCode::BAD_REQUEST);
        }
        let Refused(status, why) = local.check(&request(&["evil.example"])).unwrap_err();
        assert_eq!(status, StatusCode::MISDIRECTED_REQUEST);
        assert_eq!(why, "Host: \"evil.example\": expected 127.0.0.1:9177");
    }
}
