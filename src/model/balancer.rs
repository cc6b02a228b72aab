//! Load balancers: an address whose flows several backends take.

use super::{Labels, Name, Protocol};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::IpAddr,
    num::{NonZeroU16, NonZeroU32},
};
use uuid::Uuid;

/// An address of the world whose flows are spread over backends of a public network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadBalancer {
    /// Unique for ever.
    pub id: Uuid,
    /// Unique among balancers.
    pub name: Name,
    /// The network of its backends.
    pub network_id: Uuid,
    /// Where flows come to.
    pub address: IpAddr,
    /// Its services; no two of a protocol have the same port.
    pub ports: Vec<BalancedPort>,
    /// Who may take flows; none of them twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
    /// How backends are checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// What who comes while nobody takes flows is answered: a refusal, or nothing.
    #[serde(default)]
    pub reject_when_empty: bool,
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

/// A service of a balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BalancedPort {
    /// Of flows.
    pub protocol: Protocol,
    /// Of the balancer's address.
    pub port: NonZeroU16,
    /// Of backends.
    pub target_port: NonZeroU16,
}

/// Who may take flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Whose address it is.
    #[serde(flatten)]
    pub target: BackendTarget,
    /// How many flows it takes beside others.
    pub weight: NonZeroU16,
    /// It takes no new flows; those that it has go on.
    #[serde(default)]
    pub drained: bool,
}

/// Whose address a backend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendTarget {
    /// A vNIC's of the network, by its address of the balancer's family.
    NicId(Uuid),
    /// Anybody's in the network.
    Address(IpAddr),
}

impl BackendTarget {
    /// Returns what tells it from others of the balancer of this id, on every host.
    pub fn key(&self, balancer: Uuid) -> Uuid {
        match self {
            Self::NicId(id) => *id,
            Self::Address(address) => Uuid::new_v5(&balancer, address.to_string().as_bytes()),
        }
    }
}

/// How backends are checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is asked of a backend.
    pub kind: HealthKind,
    /// Of the backend; absent: the target of the balancer's first port for connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
    /// Seconds from check to check.
    pub interval_s: NonZeroU32,
    /// Seconds that one may take.
    pub timeout_s: NonZeroU32,
    /// How many succeed in a row until a backend is healthy again.
    pub rise: NonZeroU32,
    /// How many fail in a row until it is not.
    pub fall: NonZeroU32,
}

/// What is asked of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthKind {
    /// That it takes a connection.
    Tcp,
    /// That it answers a request for a path well.
    Http {
        /// What is asked for.
        path: String,
    },
    /// That it answers an echo request.
    Icmp,
}

impl LoadBalancer {
    /// Returns the port of a backend that is checked; none where there is none that takes
    /// connections.
    pub fn checked_port(&self) -> Option<NonZeroU16> {
        let health = self.health.as_ref()?;
        let first = self.ports.iter().find(|port| port.protocol == Protocol::Tcp);
        health.port.or(first.map(|port| port.target_port))
    }

    /// Returns the service of another that one of its own would be taken for.
    pub fn overlap(&self, other: &Self) -> Option<BalancedPort> {
        let is_same = |one: &BalancedPort| {
            other.ports.iter().any(|other| (one.protocol, one.port) == (other.protocol, other.port))
        };
        if self.address != other.address {
            return None;
        }
        self.ports.iter().copied().find(is_same)
    }
}

impl fmt::Display for BalancedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.protocol.name(), self.port, self.target_port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balancer_is_stored_as_it_was_asked_for() {
        let [id, network, nic, asked] = [1, 2, 3, 4].map(Uuid::from_u128);
        let stored = serde_json::json!({
            "id": id,
            "name": "front",
            "network_id": network,
            "address": "203.0.113.80",
            "ports": [
                { "protocol": "udp", "port": 53, "target_port": 53 },
                { "protocol": "tcp", "port": 80, "target_port": 8080 },
            ],
            "backends": [
                { "nic_id": nic, "weight": 2, "drained": true },
                { "address": "10.1.0.9", "weight": 1, "drained": false },
            ],
            "health": {
                "kind": { "http": { "path": "/healthz" } },
                "interval_s": 5, "timeout_s": 2, "rise": 2, "fall": 3,
            },
            "reject_when_empty": true,
            "asked": asked,
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
        });
        let balancer: LoadBalancer = serde_json::from_value(stored.clone()).unwrap();
        assert_eq!(serde_json::to_value(&balancer).unwrap(), stored);
        // The first that takes connections.
        assert_eq!(balancer.checked_port().map(NonZeroU16::get), Some(8080));
        assert_eq!(balancer.backends[0].target, BackendTarget::NicId(nic));
        let [one, other] = [id, network].map(|of| balancer.backends[1].target.key(of));
        assert_ne!(one, other, "keys of addresses are a balancer's own");
        assert_eq!(balancer.backends[0].target.key(id), nic);
    }

    #[test]
    fn balancers_share_an_address_and_no_port() {
        let with = |address: &str, port: &str| {
            let port: serde_json::Value = serde_json::from_str(port).unwrap();
            let stored = serde_json::json!({
                "id": Uuid::nil(), "name": "x", "network_id": Uuid::nil(), "address": address,
                "ports": [port], "asked": Uuid::nil(), "created_at": "2026-01-01T00:00:00Z",
                "updated_at": "2026-01-01T00:00:00Z",
            });
            serde_json::from_value::<LoadBalancer>(stored).unwrap()
        };
        let port = |protocol, port| {
            format!(r#"{{ "protocol": "{protocol}", "port": {port}, "target_port": 1 }}"#)
        };
        let one = with("203.0.113.80", &port("tcp", 80));
        assert_eq!(one.overlap(&one).unwrap().to_string(), "tcp:80:1");
        for other in [
            with("203.0.113.80", &port("udp", 80)),
            with("203.0.113.80", &port("tcp", 81)),
            with("203.0.113.81", &port("tcp", 80)),
        ] {
            assert_eq!(one.overlap(&other), None);
        }
    }
}
