//! The nouns of the product, already valid: what is stored, served and compiled.
//!
//! Values are made by `control`, which refuses what the API forbids, or read back from
//! the store. Fields that came later have a default, so that older files load.

mod balancer;
mod floating_ip;
mod forward;
mod guest_data;
mod impairments;
pub mod l2;
mod leases;
mod port;
mod transport;

pub use balancer::{Backend, BackendTarget, BalancedPort, HealthCheck, HealthKind, LoadBalancer};
pub use floating_ip::FloatingIp;
pub use forward::{Forward, MalformedPorts, Ports, Protocol, Span, Target};
pub use guest_data::{GuestData, Octets};
pub use impairments::Impairments;
pub use l2::{HasGateway, L2Policy, L2Rules, NetworkKind, PortRole, PortSecurity};
pub use leases::{DhcpPool, Leases, StoredLease};
pub use port::{Port, PortSettings, TaggedNetwork};
pub use transport::Transport;

use crate::{addr::MacAddr, wire::dns};
use ipnet::{Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};
use uuid::Uuid;

/// The name of a network, vNIC, port, forward or load balancer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// The text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 1-63 of A-Z a-z 0-9 . _ -, starting with a letter or digit, and not a UUID")]
pub struct MalformedName;

impl FromStr for Name {
    type Err = MalformedName;

    fn from_str(text: &str) -> Result<Self, MalformedName> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        // 63 is the longest label of DNS (RFC 1035 §2.3.4): a name may become its guest's host
        // name.
        let valid = (1..=63).contains(&text.len())
            && text.chars().all(allowed)
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            // Requests name an object by name or id in one field.
            && Uuid::parse_str(text).is_err();
        if valid { Ok(Self(text.into())) } else { Err(MalformedName) }
    }
}

impl TryFrom<String> for Name {
    type Error = MalformedName;

    fn try_from(text: String) -> Result<Self, MalformedName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl Name {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a client notes with an object, of no meaning here.
pub type Labels = BTreeMap<String, String>;

/// Where a guest that boots from the network finds what it boots. Whoever sets it keeps to the
/// lengths: a DHCPv4 option is at most 255 octets long, a DHCPv6 one must leave room for the lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The TFTP server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Ipv4Addr>,
    /// The path of a file on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Where a client of HTTP or DHCPv6 finds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// An isolated network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Unique for ever.
    pub id: Uuid,
    /// Unique among networks.
    pub name: Name,
    /// How its guests reach each other.
    #[serde(default, skip_serializing_if = "NetworkKind::is_routed")]
    pub kind: NetworkKind,
    /// How frames are treated where it is switched, as it was asked for.
    #[serde(default, skip_serializing_if = "L2Policy::is_default")]
    pub l2: L2Policy,
    /// Whether there is a gateway where it is switched, as it was asked for; a routed one always
    /// has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<bool>,
    /// The gateway's address in the subnet where it is switched, as it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_ipv4: Option<Ipv4Addr>,
    /// At least one of both families is there in a routed network.
    pub ipv4_subnet: Option<Ipv4Net>,
    /// At least one of both families is there in a routed network.
    pub ipv6_prefix: Option<Ipv6Net>,
    /// Told to guests.
    pub dns_servers: Vec<IpAddr>,
    /// Told to guests.
    pub ntp_servers: Vec<IpAddr>,
    /// Octets of an IP packet.
    pub mtu: u16,
    /// Told to guests.
    pub domain: Option<dns::Name>,
    /// What guests are told of DNS.
    #[serde(default, skip_serializing_if = "DnsMode::is_tell")]
    pub dns_mode: DnsMode,
    /// Whether guests are told of their vNICs by HTTP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub metadata: bool,
    /// The client's own.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The client's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What its guests boot, where their vNICs do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// Whether its guests reach what is outside.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_public: bool,
    /// Tells the request that made it from others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Uuid>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

impl Network {
    /// Whether there is a gateway.
    pub fn has_gateway(&self) -> HasGateway {
        let has_addresses = self.ipv4_subnet.is_some() || self.ipv6_prefix.is_some();
        match self.kind {
            NetworkKind::Switched if !self.gateway.unwrap_or(has_addresses) => HasGateway::No,
            NetworkKind::Switched | NetworkKind::Routed => HasGateway::Yes,
        }
    }

    /// Returns the gateway's address in the subnet, of a switched network that has both.
    pub fn gateway_in_subnet(&self) -> Option<Ipv4Addr> {
        let subnet = self.ipv4_subnet?;
        let has = self.kind == NetworkKind::Switched && self.has_gateway() == HasGateway::Yes;
        // As most routers have it.
        has.then(|| self.gateway_ipv4.or_else(|| subnet.hosts().next())).flatten()
    }
}

/// What guests are told of DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DnsMode {
    /// The network's servers.
    #[default]
    Tell,
    /// The gateway, which knows the names of vNICs.
    Names,
}

impl DnsMode {
    /// Whether the gateway knows nothing.
    pub fn is_tell(&self) -> bool {
        *self == Self::Tell
    }
}

/// How a guest sees its network's subnets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Addressing {
    /// As single addresses: a /32 and a /128.
    #[default]
    Host,
    /// On its link, with the subnet's own mask.
    Subnet,
}

/// The smallest burst of packets that is chosen where none was asked for.
// As many as are taken from a guest at a time: fewer would cut into each burst, whatever the rate.
const MIN_BURST_PACKETS: u64 = 64;
/// Likewise of bits: two of the largest frames.
// A frame that is to be segmented has up to 64 KiB: with less, each would leave a debt.
const MIN_BURST_BITS: u64 = 2 * 65_536 * 8;

/// How much a vNIC may carry one way; a rate of zero is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RateLimit {
    /// Packets a second.
    pub packets: u64,
    /// Bits a second, of Ethernet frames without preamble and checksum.
    pub bits: u64,
    /// Packets at once after a pause, as it was asked for; zero: nothing was.
    pub burst_packets: u64,
    /// Bits at once after a pause, likewise.
    pub burst_bits: u64,
}

impl RateLimit {
    /// The bursts in force: what was not asked for lasts a tenth of a second.
    pub fn in_force(self) -> Self {
        let burst = |rate: u64, burst: u64, least: u64| match (rate, burst) {
            (0, _) => 0,
            (rate, 0) => (rate / 10).max(least),
            (_, burst) => burst,
        };
        Self {
            burst_packets: burst(self.packets, self.burst_packets, MIN_BURST_PACKETS),
            burst_bits: burst(self.bits, self.burst_bits, MIN_BURST_BITS),
            ..self
        }
    }
}

/// How the data plane is to treat a vNIC's guest: carried as it is from a request to the file and
/// to the reactors.
// A new setting is a field here, and no more of those who only pass it on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GuestSettings {
    /// How the guest sees the network's subnets.
    pub addressing: Addressing,
    /// How much the guest may send, as it was asked for.
    #[serde(default)]
    pub from_guest: RateLimit,
    /// How much the guest may get, likewise.
    #[serde(default)]
    pub to_guest: RateLimit,
    /// What the guest may send from, in a switched network. In others it is always strict.
    #[serde(default, skip_serializing_if = "PortSecurity::is_strict")]
    pub port_security: PortSecurity,
    /// How many MACs are learned behind it, where not as [`GuestSettings::macs`] says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_limit: Option<u32>,
    /// By what lines the guest sends and gets.
    #[serde(default, skip_serializing_if = "Impairments::is_none")]
    pub impairments: Impairments,
}

impl GuestSettings {
    /// Returns how many MACs the guest may send from.
    pub fn macs(&self) -> u32 {
        self.mac_limit.unwrap_or(match self.port_security {
            PortSecurity::Strict | PortSecurity::MacOnly => 1,
            // A router with some guests of its own.
            PortSecurity::Off => 8,
        })
    }

    /// Returns what follows from what was asked for.
    pub fn in_force(&self) -> Self {
        let (from_guest, to_guest) = (self.from_guest.in_force(), self.to_guest.in_force());
        Self { from_guest, to_guest, ..self.clone() }
    }
}

/// A user or a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its name or number, as it was asked for.
    pub asked: String,
    /// Its number then: what a socket gets, also when the name is no more.
    pub number: u32,
}

/// Who may open a vNIC's socket; what is absent is as the daemon's flags say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketAccess {
    /// Its owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Account>,
    /// Its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Account>,
    /// Its permissions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u16>,
}

/// A virtual network interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Nic {
    /// Unique for ever.
    pub id: Uuid,
    /// Unique among vNICs.
    pub name: Name,
    /// The network it is in.
    pub network_id: Uuid,
    /// Unique in its network.
    pub mac: MacAddr,
    /// There if the network has IPv4.
    pub ipv4: Option<Ipv4Addr>,
    /// There if the network has IPv6.
    pub ipv6: Option<Ipv6Addr>,
    /// Prefixes behind its guest.
    pub routed_ipv4: Vec<Ipv4Net>,
    /// Prefixes behind its guest.
    pub routed_ipv6: Vec<Ipv6Net>,
    /// How the data plane is to treat its guest.
    #[serde(flatten)]
    pub settings: GuestSettings,
    /// Octets of an IP packet; the network's where absent.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// A /64 of which its guest chooses addresses itself (RFC 4862); the first is `ipv6`.
    #[serde(default)]
    pub slaac: Option<Ipv6Net>,
    /// How its guest is reached.
    #[serde(default, skip_serializing_if = "Transport::is_vhost_user")]
    pub transport: Transport,
    /// Queue pairs offered to the VMM.
    pub queue_pairs: u16,
    /// The client's own.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The client's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What its guest boots; the network's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// What its guest is told by HTTP, where its network does that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Box<GuestData>>,
    /// Who may open its socket.
    #[serde(default)]
    pub socket: SocketAccess,
    /// Tells the request that made it from others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Uuid>,
    /// The virtio features it offers: they never shrink, or VMMs refuse to reconnect.
    pub features: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

impl Nic {
    /// Octets of an IP packet, in `network`, which it is in.
    pub fn mtu_in(&self, network: &Network) -> u16 {
        self.mtu.unwrap_or(network.mtu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_stored_beside_the_others() {
        let stored = serde_json::json!({
            "id": "22222222-2222-4222-8222-222222222222",
            "name": "vm1",
            "network_id": "11111111-1111-4111-8111-111111111111",
            "mac": "52:54:00:00:00:01",
            "ipv4": "10.0.0.1",
            "ipv6": null,
            "routed_ipv4": [],
            "routed_ipv6": [],
            "addressing": "subnet",
            "mtu": null,
            "slaac": null,
            "from_guest": { "packets": 0, "bits": 8_000, "burst_packets": 0, "burst_bits": 0 },
            "to_guest": { "packets": 5, "bits": 0, "burst_packets": 0, "burst_bits": 0 },
            "queue_pairs": 1,
            "socket": { "mode": 432 },
            "features": 7,
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
        });
        let nic: Nic = serde_json::from_value(stored.clone()).unwrap();
        assert_eq!(nic.settings.addressing, Addressing::Subnet);
        assert_eq!((nic.settings.from_guest.bits, nic.settings.to_guest.packets), (8_000, 5));
        assert_eq!(serde_json::to_value(nic).unwrap(), stored);
        // The first version had no limits.
        let mut old = stored;
        for name in ["from_guest", "to_guest"] {
            old.as_object_mut().unwrap().remove(name);
        }
        let nic: Nic = serde_json::from_value(old).unwrap();
        assert_eq!(nic.settings.from_guest, RateLimit::default());
    }

    #[test]
    fn names_are_checked() {
        for good in ["a", "vm1-eth0", "0.a_b-C", &"x".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            ".a",
            "a b",
            "ä",
            "a/b",
            &"x".repeat(64),
            "67e55044-10b1-426f-9247-bb680e5fe0c8",
            "67e5504410b1426f9247bb680e5fe0c8",
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
