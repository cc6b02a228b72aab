//! What DiVES switches announce by multicast: the unicast address that they can be sent frames at.
//! Octets in, an address out, and back.
//!
//! | form | octets |
//! |---|---|
//! | text | `HOST:PORT` in ASCII, without a terminator; an IPv6 address in brackets |
//! | binary | the sender's `struct sockaddr_in` or `sockaddr_in6`, as its kernel has it in memory |
//!
//! The protocol's text says text, and the program of that text sends and takes the binary form only
//! (a text stops it). So both are taken, and which is sent is a question of whom is heard.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    time::{Duration, Instant},
};

/// Octets of an advert at most.
// The longest name of DNS (RFC 1035 §2.3.4), a colon, a port and some line end.
pub const LONGEST: usize = 261;
/// How long a switch listens before it says anything.
// More than the second between two adverts of another one: it is heard before.
pub const LISTEN: Duration = Duration::from_millis(1300);
/// How long nothing but the binary form is sent after one was heard.
const BINARY_HOLDS: Duration = Duration::from_secs(10);
/// `AF_INET` and `AF_INET6` of Linux.
const INET: u16 = 2;
const INET6: u16 = 10;

/// How an address is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As text.
    Text,
    /// As a kernel's structure.
    Binary,
}

/// Returns the address that an advert names, and how it is written; `None` for what is no advert,
/// or names a host by a name.
pub fn parse(octets: &[u8]) -> Option<(SocketAddr, Form)> {
    match octets {
        // Senders of another byte order are not known: their family would read as 512.
        [a, b, rest @ ..] if octets.len() == 16 && u16::from_ne_bytes([*a, *b]) == INET => {
            let (port, rest) = rest.split_first_chunk()?;
            let (address, _) = rest.split_first_chunk::<4>()?;
            let address =
                SocketAddr::new(Ipv4Addr::from(*address).into(), u16::from_be_bytes(*port));
            Some((address, Form::Binary))
        }
        [a, b, rest @ ..] if octets.len() == 28 && u16::from_ne_bytes([*a, *b]) == INET6 => {
            let (port, rest) = rest.split_first_chunk()?;
            let (_flow, rest) = rest.split_first_chunk::<4>()?;
            let (address, _) = rest.split_first_chunk::<16>()?;
            let address =
                SocketAddr::new(Ipv6Addr::from(*address).into(), u16::from_be_bytes(*port));
            Some((address, Form::Binary))
        }
        _ if octets.len() > LONGEST => None,
        _ => {
            let end = |octet: &u8| octet.is_ascii_whitespace() || *octet == 0;
            let len = octets.iter().rposition(|octet| !end(octet))? + 1;
            let text = std::str::from_utf8(octets.get(..len)?).ok()?;
            // A name is nobody's until it is looked up, and everybody could have that done.
            text.parse().ok().map(|address| (address, Form::Text))
        }
    }
}

/// Returns an advert of `address`.
pub fn write(address: SocketAddr, form: Form) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match (form, address.ip()) {
        (Form::Text, IpAddr::V4(_)) => address.to_string().into_bytes(),
        // Without its scope, which is a number of this host.
        (Form::Text, IpAddr::V6(ip)) => {
            SocketAddrV6::new(ip, address.port(), 0, 0).to_string().into_bytes()
        }
        (Form::Binary, IpAddr::V4(ip)) => {
            [&INET.to_ne_bytes()[..], &port, &ip.octets(), &[0; 8]].concat()
        }
        (Form::Binary, IpAddr::V6(ip)) => {
            [&INET6.to_ne_bytes()[..], &port, &[0; 4], &ip.octets(), &[0; 4]].concat()
        }
    }
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Text, but binary for as long as somebody is heard who sends that.
    Auto,
    /// Text.
    Text,
    /// The binary form.
    Binary,
    /// Both, text first.
    Both,
}

/// Decides what is sent.
#[derive(Debug, Clone)]
pub struct Announcer {
    policy: Policy,
    began: Instant,
    binary_heard: Option<Instant>,
}

impl Announcer {
    /// Begins at `now`.
    pub fn new(policy: Policy, now: Instant) -> Self {
        Self { policy, began: now, binary_heard: None }
    }

    /// An advert of somebody else was heard.
    pub fn heard(&mut self, form: Form, now: Instant) {
        if form == Form::Binary {
            self.binary_heard = Some(now);
        }
    }

    /// Returns the forms to be sent at `now`.
    pub fn forms(&self, now: Instant) -> &'static [Form] {
        let within = |since: Instant, limit| now.saturating_duration_since(since) < limit;
        match self.policy {
            Policy::Text => &[Form::Text],
            Policy::Binary => &[Form::Binary],
            Policy::Both => &[Form::Text, Form::Binary],
            Policy::Auto if self.binary_heard.is_some_and(|heard| within(heard, BINARY_HOLDS)) => {
                &[Form::Binary]
            }
            Policy::Auto if within(self.began, LISTEN) => &[],
            Policy::Auto => &[Form::Text],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BINARY4: [u8; 16] = [2, 0, 0x0d, 0x05, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    // seed H.3.22, H.3.23
    #[test]
    fn both_forms_are_as_the_protocol_has_them() {
        let four = address("10.0.0.1:3333");
        assert_eq!(write(four, Form::Text), b"10.0.0.1:3333");
        assert_eq!(write(four, Form::Binary), BINARY4);
        let six = address("[fe80::1%7]:3333");
        assert_eq!(write(six, Form::Text), b"[fe80::1]:3333");
        let mut binary = [0; 28];
        (binary[0], binary[2], binary[3]) = (10, 0x0d, 0x05);
        (binary[8], binary[9], binary[23]) = (0xfe, 0x80, 1);
        assert_eq!(write(six, Form::Binary), binary);
        assert_eq!(parse(&binary), Some((address("[fe80::1]:3333"), Form::Binary)));
    }

    #[test]
    fn what_is_received_may_end_in_a_line_or_in_zeros() {
        let found = Some((address("10.0.0.1:3333"), Form::Text));
        for text in ["10.0.0.1:3333", "10.0.0.1:3333\r\n", "10.0.0.1:3333 ", "10.0.0.1:3333\0\0"] {
            assert_eq!(parse(text.as_bytes()), found);
        }
        assert_eq!(parse(b"[fd00::1]:1\n"), Some((address("[fd00::1]:1"), Form::Text)));
        // As long as a sockaddr_in, and text all the same.
        assert_eq!(parse(b"10.100.0.12:3333"), Some((address("10.100.0.12:3333"), Form::Text)));
        assert_eq!(parse(&BINARY4), Some((address("10.0.0.1:3333"), Form::Binary)));
    }

    #[test]
    fn what_is_no_advert_is_none() {
        let long = [b'1'; LONGEST + 1];
        for octets in [&b""[..], b"\0", b"host:3333", b"10.0.0.1", b"10.0.0.1:70000", b":1", &long]
        {
            assert_eq!(parse(octets), None);
        }
        // A family that is not known, and a structure that is cut.
        assert_eq!(parse(&[3, 0, 0x0d, 0x05, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(parse(&BINARY4[..15]), None);
    }

    // seed H.3.23
    #[test]
    fn text_is_sent_only_where_nobody_is_heard_whom_it_would_stop() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut announcer = Announcer::new(Policy::Auto, start);
        assert_eq!(announcer.forms(at(0)), []);
        assert_eq!(announcer.forms(at(1299)), []);
        assert_eq!(announcer.forms(at(1300)), [Form::Text]);
        announcer.heard(Form::Text, at(1400));
        assert_eq!(announcer.forms(at(1400)), [Form::Text]);
        announcer.heard(Form::Binary, at(2000));
        assert_eq!(announcer.forms(at(2000)), [Form::Binary]);
        assert_eq!(announcer.forms(at(11_999)), [Form::Binary]);
        assert_eq!(announcer.forms(at(12_000)), [Form::Text]);
        // Heard at once: answered at once.
        let mut announcer = Announcer::new(Policy::Auto, start);
        announcer.heard(Form::Binary, at(100));
        assert_eq!(announcer.forms(at(100)), [Form::Binary]);
        let both = Announcer::new(Policy::Both, start);
        assert_eq!(both.forms(start), [Form::Text, Form::Binary]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(ip: IpAddr, port: u16) {
            for form in [Form::Text, Form::Binary] {
                let found = parse(&write(SocketAddr::new(ip, port), form));
                prop_assert_eq!(found, Some((SocketAddr::new(ip, port), form)));
            }
        }
    }
}
