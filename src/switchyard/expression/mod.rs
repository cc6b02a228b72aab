//! Which frames are meant, in the words of pcap-filter(7): `udp dst port 7007 and not host
//! 10.0.0.9`.
//!
//! Takes text and returns an [`Expression`], or says where it went wrong; an expression takes a
//! frame and says whether it is meant. Of the language it knows what people type:
//!
//! ```text
//! expression  = term { ("and" | "or") term }          from left to right, neither binds closer
//! term        = ["not"] ( "(" expression ")" | primitive )
//! primitive   = ip | ip6 | arp | udp | tcp | icmp | icmp6 | broadcast | multicast | vlan [ID]
//!             | [ip|ip6|arp] [src|dst] host ADDR      | [src|dst] net CIDR
//!             | [udp|tcp] [src|dst] port N            | greater N | less N
//!             | ether [src|dst|host] MAC              | ether proto N
//! ```

mod facts;
mod parse;

use crate::addr::MacAddr;
use facts::{Facts, Transport};
use ipnet::IpNet;
use std::{net::IpAddr, str::FromStr};

/// Why a text is no expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: expected {expected}")]
pub struct BadExpression {
    column: usize,
    expected: &'static str,
}

/// Which end of a frame's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
    Either,
}

impl End {
    /// Whether one of a pair, or the one that is meant, is right.
    fn any<T>(self, (source, destination): (T, T), mut is_right: impl FnMut(T) -> bool) -> bool {
        match self {
            Self::Source => is_right(source),
            Self::Destination => is_right(destination),
            Self::Either => is_right(source) || is_right(destination),
        }
    }
}

/// What an EtherType, or an IP packet's protocol, is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    EtherType(u16),
    Protocol(Transport),
    Vlan(Option<u16>),
    Broadcast,
    Multicast,
    Longer(usize),
    Shorter(usize),
    Mac(End, MacAddr),
    Host(End, IpAddr),
    Net(End, IpNet),
    Port(End, u16),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Test(Test),
    Not(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
}

/// Frames that are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression(Node);

impl FromStr for Expression {
    type Err = BadExpression;

    fn from_str(text: &str) -> Result<Self, BadExpression> {
        parse::parse(text).map(Self)
    }
}

impl Expression {
    /// Whether a frame is meant.
    pub fn matches(&self, frame: &[u8]) -> bool {
        // Whatever is too short for Ethernet is no frame.
        Facts::of(frame).is_some_and(|facts| self.0.holds(&facts))
    }
}

impl Node {
    fn holds(&self, facts: &Facts) -> bool {
        match self {
            Self::Test(test) => test.holds(facts),
            Self::Not(inner) => !inner.holds(facts),
            Self::And(left, right) => left.holds(facts) && right.holds(facts),
            Self::Or(left, right) => left.holds(facts) || right.holds(facts),
        }
    }
}

impl Test {
    fn holds(&self, facts: &Facts) -> bool {
        match self {
            Self::EtherType(wanted) => facts.ether_type == *wanted,
            Self::Protocol(wanted) => facts.transport == Some(*wanted),
            Self::Vlan(None) => facts.vlan.is_some(),
            Self::Vlan(wanted) => facts.vlan == *wanted,
            Self::Broadcast => facts.macs.1 == MacAddr::BROADCAST,
            Self::Multicast => facts.macs.1.is_multicast(),
            Self::Longer(len) => facts.len >= *len,
            Self::Shorter(len) => facts.len <= *len,
            Self::Mac(end, mac) => end.any(facts.macs, |found| found == *mac),
            Self::Host(end, host) => {
                facts.hosts.is_some_and(|hosts| end.any(hosts, |found| found == *host))
            }
            Self::Net(end, net) => {
                facts.hosts.is_some_and(|hosts| end.any(hosts, |found| net.contains(&found)))
            }
            Self::Port(end, port) => {
                facts.ports.is_some_and(|ports| end.any(ports, |found| found == *port))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(hex: &str) -> Vec<u8> {
        let hex = hex.replace(' ', "");
        let octet = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(octet).collect()
    }

    const IPV4: &str = "4500 0020 0000 4000 40 11 0000 0a000001 0a000002";
    const UDP: &str = "3039 1b5f 000c 0000 00000000";

    fn frame(rest: &str) -> Vec<u8> {
        octets(&format!("025359000002 025359000001 {rest}"))
    }

    #[test]
    fn what_is_meant_is_found_and_nothing_else() {
        let udp = frame(&format!("0800 {IPV4} {UDP}"));
        let tagged = frame(&format!("8100 0007 0800 {IPV4} {UDP}"));
        let tcp = frame(&format!("0800 {} {UDP}", IPV4.replace("40 11", "40 06")));
        let later = frame(&format!("0800 {} {UDP}", IPV4.replace("4000 40", "0001 40")));
        let udp6 = format!("86dd 60000000 000c 11 40 fd00{0}1 fd00{0}2 {UDP}", "0".repeat(27));
        let udp6 = frame(&udp6);
        let arp = octets(
            "ffffffffffff 025359000001 0806 0001 0800 06 04 0001 025359000001 0a000001 \
             000000000000 0a000002",
        );
        let other = frame("beef");
        let all = [&udp, &tagged, &tcp, &later, &udp6, &arp, &other];
        for (text, meant) in [
            ("ip", "1111..."),
            ("ip6", "....1.."),
            ("arp", ".....1."),
            ("ether proto 0xbeef", "......1"),
            ("ether proto 2054", ".....1."),
            ("udp", "11.11.."),
            ("tcp", "..1...."),
            ("icmp or icmp6", "......."),
            ("port 7007", "111.1.."),
            ("udp port 7007", "11..1.."),
            ("tcp dst port 7007", "..1...."),
            ("src port 7007", "......."),
            ("udp src port 12345", "11..1.."),
            ("host 10.0.0.2", "1111.1."),
            ("src host 10.0.0.2", "......."),
            ("dst host 10.0.0.2 and not udp", "..1..1."),
            ("arp host 10.0.0.1", ".....1."),
            ("ip src host 10.0.0.1", "1111..."),
            ("host fd00::1", "....1.."),
            ("net 10.0.0.0/30", "1111.1."),
            ("dst net fd00::/64", "....1.."),
            ("src net 10.1.0.0/16", "......."),
            ("ether src 02:53:59:00:00:01", "1111111"),
            ("ether dst 02:53:59:00:00:02", "11111.1"),
            ("ether host 02:53:59:00:00:02", "11111.1"),
            ("broadcast", ".....1."),
            ("multicast", ".....1."),
            ("vlan", ".1....."),
            ("vlan 7", ".1....."),
            ("vlan 8", "......."),
            ("greater 58", "....1.."),
            ("less 14", "......1"),
            ("not (tcp or arp) and ip", "11.1..."),
            // From left to right: (arp or udp) and ip.
            ("arp or udp and ip", "11.1..."),
            ("! ip && !arp || tcp", "..1.1.1"),
        ] {
            let expression: Expression = text.parse().unwrap();
            let found = all.iter().map(|frame| if expression.matches(frame) { '1' } else { '.' });
            assert_eq!(found.collect::<String>(), meant, "{text}");
        }
        let all: Expression = "not vlan 7 or vlan 7".parse().unwrap();
        for frame in [&udp, &tagged, &udp6, &arp] {
            // However a frame is cut, it is looked at or refused, never misread.
            (0..frame.len()).for_each(|len| assert_eq!(all.matches(&frame[..len]), len >= 14));
        }
    }

    #[test]
    fn what_is_no_expression_is_refused_with_its_place() {
        for (text, said) in [
            ("", "column 1: expected a primitive like"),
            ("udp and", "column 8: expected a primitive like"),
            ("udp port", "column 9: expected a port"),
            ("udp port 70000", "column 10: expected a port"),
            ("udp tcp", "column 5: expected and, or"),
            ("(udp", "column 5: expected )"),
            ("udp)", "column 4: expected and, or"),
            ("host 10.0.0", "column 6: expected an address"),
            ("net 10.0.0.0", "column 5: expected a network"),
            ("ether 02:00", "column 7: expected a MAC"),
            ("ether proto ip", "column 13: expected an EtherType"),
            ("src 10.0.0.1", "column 5: expected host, net or port"),
            ("vlan 4096", "column 6: expected and, or"),
            ("less x", "column 6: expected a number of octets"),
            ("arp port 7", "column 5: expected and, or"),
        ] {
            let refused = text.parse::<Expression>().unwrap_err().to_string();
            assert!(refused.starts_with(said), "{text}: {refused}");
        }
        let deep = "(".repeat(4096);
        let refused = deep.parse::<Expression>().unwrap_err().to_string();
        assert!(refused.contains("fewer parentheses"), "{refused}");
        let deep = "not ".repeat(1024);
        assert!(deep.parse::<Expression>().is_err());
        let long = "ip or ".repeat(400) + "ip";
        assert!(long.parse::<Expression>().unwrap_err().to_string().contains("shorter"));
        assert!(" ".repeat(4097).parse::<Expression>().is_err());
    }
}
