//! Addresses that hosts behind ports lease: which there are, and what is stored of them.

use super::{Network, NetworkKind, l2::HasGateway};
use crate::addr::MacAddr;
use ipnet::Ipv6Net;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    str::FromStr,
};
use uuid::Uuid;

/// Which addresses of a network hosts behind its ports lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DhcpPool {
    /// The upper half of its subnet.
    Auto,
    /// From one to another.
    Range(Ipv4Addr, Ipv4Addr),
}

impl fmt::Display for DhcpPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// A text that names no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected auto, or the first and the last address, like 10.0.0.100-10.0.0.199")]
pub struct NoPool;

impl FromStr for DhcpPool {
    type Err = NoPool;

    fn from_str(text: &str) -> Result<Self, NoPool> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let (first, last) = text.split_once('-').ok_or(NoPool)?;
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self::Range(first, last)),
            _ => Err(NoPool),
        }
    }
}

impl TryFrom<String> for DhcpPool {
    type Error = NoPool;

    fn try_from(text: String) -> Result<Self, NoPool> {
        text.parse()
    }
}

impl From<DhcpPool> for String {
    fn from(pool: DhcpPool) -> Self {
        pool.to_string()
    }
}

/// Bits of a prefix beyond which hosts' addresses differ (RFC 4291 §2.5.1).
const INTERFACE_ID_AT: u8 = 64;

impl Network {
    /// Returns what hosts behind its ports lease, where they lease anything.
    pub fn dhcp_pool(&self) -> Option<DhcpPool> {
        let has = self.kind == NetworkKind::Switched && self.has_gateway() == HasGateway::Yes;
        self.l2.dhcp_pool.filter(|_| has)
    }

    /// Returns the IPv4 addresses that they lease.
    pub fn leased_ipv4(&self) -> Option<RangeInclusive<IpAddr>> {
        let (pool, subnet) = (self.dhcp_pool()?, self.ipv4_subnet?);
        let (first, last) = match pool {
            DhcpPool::Range(first, last) => (first, last),
            DhcpPool::Auto => {
                let (network, broadcast) =
                    (subnet.network().to_bits(), subnet.broadcast().to_bits());
                // Of 10.0.0.0/24: 10.0.0.128 to 10.0.0.254.
                let half = network + (broadcast - network) / 2 + 1;
                (Ipv4Addr::from_bits(half), Ipv4Addr::from_bits(broadcast - 1))
            }
        };
        Some(first.into()..=last.into())
    }

    /// Returns the IPv6 addresses that they lease: the upper half of its prefix, of the last /64
    /// alone where that has several.
    // Others are for vNICs whose guests choose their addresses, each of which needs one.
    pub fn leased_ipv6(&self) -> Option<RangeInclusive<IpAddr>> {
        let (_, prefix) = (self.dhcp_pool()?, self.ipv6_prefix?);
        let len = prefix.prefix_len().max(INTERFACE_ID_AT);
        let block = Ipv6Net::new(prefix.broadcast(), len).ok()?.trunc();
        let (first, last) = (block.network().to_bits(), block.broadcast().to_bits());
        let half = Ipv6Addr::from_bits(first + (last - first) / 2 + 1);
        Some(half.into()..=block.broadcast().into())
    }
}

/// The leases of a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Leases {
    /// Which.
    pub network_id: Uuid,
    /// What each MAC has, or had last.
    pub leases: Vec<StoredLease>,
}

/// What a MAC has leased.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredLease {
    /// Whose.
    pub mac: MacAddr,
    /// What it has.
    pub address: IpAddr,
    /// Until when, as far as was known then.
    pub until: Timestamp,
    /// What its host calls itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// What its software calls itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub vendor_class: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(pool: &str, ipv4: Option<&str>, ipv6: Option<&str>) -> Network {
        serde_json::from_value(serde_json::json!({
            "id": "11111111-1111-4111-8111-111111111111",
            "name": "lan",
            "kind": "switched",
            "l2": { "dhcp_pool": pool },
            "ipv4_subnet": ipv4,
            "ipv6_prefix": ipv6,
            "dns_servers": [],
            "ntp_servers": [],
            "mtu": 1500,
            "domain": null,
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
        }))
        .unwrap()
    }

    #[test]
    fn a_pool_is_a_range_or_the_upper_half() {
        let text = |range: Option<RangeInclusive<IpAddr>>| {
            range.map(|range| format!("{} {}", range.start(), range.end()))
        };
        let auto = network("auto", Some("10.0.0.0/24"), Some("fd00::/64"));
        assert_eq!(text(auto.leased_ipv4()).as_deref(), Some("10.0.0.128 10.0.0.254"));
        let ipv6 = "fd00::8000:0:0:0 fd00::ffff:ffff:ffff:ffff";
        assert_eq!(text(auto.leased_ipv6()).as_deref(), Some(ipv6));
        let small = network("auto", Some("10.0.0.0/30"), Some("fd00::/126"));
        assert_eq!(text(small.leased_ipv4()).as_deref(), Some("10.0.0.2 10.0.0.2"));
        assert_eq!(text(small.leased_ipv6()).as_deref(), Some("fd00::2 fd00::3"));
        let large = network("10.0.0.9-10.0.0.9", Some("10.0.0.0/8"), Some("fd00::/56"));
        assert_eq!(text(large.leased_ipv4()).as_deref(), Some("10.0.0.9 10.0.0.9"));
        let ipv6 = "fd00:0:0:ff:8000:: fd00::ff:ffff:ffff:ffff:ffff";
        assert_eq!(text(large.leased_ipv6()).as_deref(), Some(ipv6));
        assert_eq!(text(network("auto", None, Some("fd00::/64")).leased_ipv4()), None);
        let without = Network { gateway: Some(false), ..auto };
        assert_eq!(without.dhcp_pool(), None);
    }

    #[test]
    fn a_pool_is_written_as_it_is_read() {
        for text in ["auto", "10.0.0.1-10.0.0.9"] {
            assert_eq!(text.parse::<DhcpPool>().unwrap().to_string(), text);
        }
        for text in ["", "all", "10.0.0.1", "10.0.0.9-10.0.0.1", "10.0.0.1-", "fd00::1-fd00::2"] {
            assert_eq!(text.parse::<DhcpPool>(), Err(NoPool), "{text}");
        }
    }
}
