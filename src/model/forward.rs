//! Forwards: ports of the host's side that are a vNIC's.

use super::{BalancedPort, Labels, LoadBalancer, Name};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr};
use uuid::Uuid;

/// What has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// Returns its name, as nft(8) and people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Ports in the order they were given, none of them zero: `80,90-100`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ports(Vec<RangeInclusive<u16>>);

/// The text is not a list of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected ports from 1 to 65535 and ranges of them, like 80,90-100")]
pub struct MalformedPorts;

impl FromStr for Ports {
    type Err = MalformedPorts;

    fn from_str(text: &str) -> Result<Self, MalformedPorts> {
        let port = |text: &str| {
            // `parse` takes a sign, too.
            let digits = text.bytes().all(|octet| octet.is_ascii_digit());
            let port = text.parse().ok().filter(|port: &u16| digits && *port > 0);
            port.ok_or(MalformedPorts)
        };
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last) = (port(first)?, port(last)?);
            if first <= last { Ok(first..=last) } else { Err(MalformedPorts) }
        };
        text.split(',').map(range).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for Ports {
    type Error = MalformedPorts;

    fn try_from(text: String) -> Result<Self, MalformedPorts> {
        // As absent fields of requests are.
        if text.is_empty() { Ok(Self::default()) } else { text.parse() }
    }
}

impl From<Ports> for String {
    fn from(ports: Ports) -> Self {
        ports.to_string()
    }
}

impl Ports {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns how many there are; one that is given twice counts twice.
    pub fn count(&self) -> usize {
        self.0.iter().map(|range| range.len()).sum()
    }

    /// Returns them as ranges, as they were given.
    pub fn ranges(&self) -> &[RangeInclusive<u16>] {
        &self.0
    }

    /// Returns a port that is among both.
    pub fn common(&self, other: &Self) -> Option<u16> {
        let pairs = self.0.iter().flat_map(|one| other.0.iter().map(move |other| (one, other)));
        pairs.filter_map(|(one, other)| common(one, other)).next()
    }

    /// Returns a port that is given twice.
    pub fn repeated(&self) -> Option<u16> {
        let mut ranges: Vec<_> = self.0.iter().collect();
        // In order, where any two overlap, two neighbours do.
        ranges.sort_by_key(|range| *range.start());
        ranges.windows(2).find_map(|pair| common(pair[0], pair[1]))
    }

    fn each(&self) -> impl Iterator<Item = u16> {
        self.0.iter().cloned().flatten()
    }
}

fn common(one: &RangeInclusive<u16>, other: &RangeInclusive<u16>) -> Option<u16> {
    let first = *one.start().max(other.start());
    (first <= *one.end().min(other.end())).then_some(first)
}

/// Where what comes to a span of ports goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// To the port of the same number.
    Same,
    /// To this one.
    Port(u16),
}

/// Neighbouring ports that are treated alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Where it is listened.
    pub listen: RangeInclusive<u16>,
    /// Where it goes.
    pub target: Target,
}

/// Ports of the host's side that are a vNIC's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forward {
    /// Unique for ever.
    pub id: Uuid,
    /// Unique among forwards.
    pub name: Name,
    /// The network of its vNIC.
    pub network_id: Uuid,
    /// Where it listens; the unspecified one: at all addresses of the host of its family.
    pub listen: IpAddr,
    /// What comes there.
    pub protocol: Protocol,
    /// To which ports.
    pub listen_ports: Ports,
    /// Whose they are.
    pub nic_id: Uuid,
    /// Its ports: one for all, or as many as there are to listen at. None: the same.
    #[serde(default, skip_serializing_if = "Ports::is_empty")]
    pub target_ports: Ports,
    /// The client's own.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The client's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Tells the request that made it from others.
    pub asked: Uuid,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

impl Forward {
    /// Returns the port that both listen at, if there is one.
    pub fn overlap(&self, other: &Self) -> Option<u16> {
        let meets = self.meets(other.listen) && self.protocol == other.protocol;
        if meets { self.listen_ports.common(&other.listen_ports) } else { None }
    }

    /// Returns a service of a balancer that it would take, or that would be taken from it.
    pub fn overlap_of(&self, balancer: &LoadBalancer) -> Option<BalancedPort> {
        let is_its = |service: &&BalancedPort| {
            let mut ranges = self.listen_ports.ranges().iter();
            self.protocol == service.protocol
                && ranges.any(|range| range.contains(&service.port.get()))
        };
        let meets = self.meets(balancer.address);
        if meets { balancer.ports.iter().find(is_its).copied() } else { None }
    }

    /// Whether what listens at an address listens where this does.
    fn meets(&self, address: IpAddr) -> bool {
        let all = self.listen.is_unspecified() || address.is_unspecified();
        self.listen == address || all && self.listen.is_ipv4() == address.is_ipv4()
    }

    /// Returns where each of its ports goes, in as few spans as that takes.
    pub fn spans(&self) -> Vec<Span> {
        let ranges = || self.listen_ports.ranges().iter().cloned();
        let all = |target| ranges().map(move |listen| Span { listen, target }).collect();
        if self.target_ports.is_empty() || self.target_ports == self.listen_ports {
            return all(Target::Same);
        }
        match self.target_ports.ranges() {
            [range] if range.start() == range.end() => all(Target::Port(*range.start())),
            _ => {
                let pairs = self.listen_ports.each().zip(self.target_ports.each());
                let span = |(listen, target)| Span {
                    listen: listen..=listen,
                    target: if listen == target { Target::Same } else { Target::Port(target) },
                };
                pairs.map(span).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ports(text: &str) -> Ports {
        text.parse().unwrap()
    }

    fn forward(listen: &str, protocol: Protocol, from: &str, to: &str) -> Forward {
        Forward {
            id: Uuid::nil(),
            name: "web".parse().unwrap(),
            network_id: Uuid::nil(),
            listen: listen.parse().unwrap(),
            protocol,
            listen_ports: ports(from),
            nic_id: Uuid::nil(),
            target_ports: to.to_owned().try_into().unwrap(),
            labels: Labels::new(),
            description: String::new(),
            asked: Uuid::nil(),
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn ports_are_numbers_and_ranges() {
        for good in ["1", "80,90-100", "65535", "100,1-99"] {
            assert_eq!(ports(good).to_string(), good);
        }
        assert_eq!(ports("080,5-5").to_string(), "80,5");
        for bad in ["", "0", "65536", "80,", "90-80", "1-", "-1", "+1", "a", "1 ,2", "0-5"] {
            assert_eq!(bad.parse::<Ports>(), Err(MalformedPorts), "{bad}");
        }
        assert_eq!(ports("80,90-100").count(), 12);
        assert_eq!(ports("80,90-100").common(&ports("95-200")), Some(95));
        assert_eq!(ports("80,90-100").common(&ports("81-89,101")), None);
        for (text, repeated) in [
            ("5,1-9", Some(5)),
            ("1-9,20,5", Some(5)),
            ("1-100,20-30,90", Some(20)),
            ("3,1,2", None),
            ("10-19,1-9", None),
        ] {
            assert_eq!(ports(text).repeated(), repeated, "{text}");
        }
    }

    #[test]
    fn a_span_says_where_its_ports_go() {
        let spans = |from, to| forward("0.0.0.0", Protocol::Tcp, from, to).spans();
        let span = |listen, target| Span { listen, target };
        assert_eq!(
            spans("80,90-100", ""),
            [span(80..=80, Target::Same), span(90..=100, Target::Same)]
        );
        assert_eq!(spans("90-100", "90-100"), [span(90..=100, Target::Same)]);
        assert_eq!(spans("8000-8999", "80"), [span(8000..=8999, Target::Port(80))]);
        assert_eq!(
            spans("80,90", "8080,90"),
            [span(80..=80, Target::Port(8080)), span(90..=90, Target::Same)]
        );
    }

    #[test]
    fn all_addresses_of_a_family_overlap_each_of_it() {
        let of = |listen, protocol| forward(listen, protocol, "80-90", "");
        let tcp = |listen| of(listen, Protocol::Tcp);
        assert_eq!(tcp("0.0.0.0").overlap(&tcp("192.0.2.1")), Some(80));
        assert_eq!(tcp("192.0.2.1").overlap(&tcp("192.0.2.1")), Some(80));
        assert_eq!(tcp("::").overlap(&tcp("2001:db8::1")), Some(80));
        for (one, other) in [
            (tcp("0.0.0.0"), tcp("::")),
            (tcp("192.0.2.1"), tcp("192.0.2.2")),
            (tcp("0.0.0.0"), of("0.0.0.0", Protocol::Udp)),
        ] {
            assert_eq!((one.overlap(&other), other.overlap(&one)), (None, None));
        }
        let balancer: LoadBalancer = serde_json::from_value(serde_json::json!({
            "id": Uuid::nil(), "name": "x", "network_id": Uuid::nil(), "address": "192.0.2.1",
            "ports": [
                { "protocol": "tcp", "port": 91, "target_port": 80 },
                { "protocol": "tcp", "port": 85, "target_port": 80 },
            ],
            "asked": Uuid::nil(), "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        for (listen, protocol, taken) in [
            ("0.0.0.0", Protocol::Tcp, Some(85)),
            ("192.0.2.1", Protocol::Tcp, Some(85)),
            ("192.0.2.2", Protocol::Tcp, None),
            ("::", Protocol::Tcp, None),
            ("0.0.0.0", Protocol::Udp, None),
        ] {
            let overlap = of(listen, protocol).overlap_of(&balancer);
            assert_eq!(overlap.map(|service| service.port.get()), taken, "{listen}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(ranges in proptest::collection::vec((1u16.., 0u16..300), 1..9)) {
            let range = |(first, more): (u16, u16)| first..=first.saturating_add(more);
            let written = Ports(ranges.into_iter().map(range).collect());
            prop_assert_eq!(&ports(&written.to_string()), &written);
            prop_assert_eq!(written.each().count(), written.count());
        }
    }
}
