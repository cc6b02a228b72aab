//! Ports: ways into a switched network that are no vNICs.

use super::{Labels, Name, PortRole, RateLimit};
use crate::locator::Locator;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A way into a switched network, with whoever is behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// Unique for ever.
    pub id: Uuid,
    /// Unique among vNICs and ports.
    pub name: Name,
    /// The network it is in.
    pub network_id: Uuid,
    /// What it is made of.
    #[serde(with = "text")]
    pub locator: Locator,
    /// How it is to be treated.
    #[serde(flatten)]
    pub settings: PortSettings,
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

/// How a port is treated, as it was asked for; what is absent follows from its locator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortSettings {
    /// What it leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<PortRole>,
    /// How many MACs are learned behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_limit: Option<u32>,
    /// Nothing goes from it to another that is protected, too.
    pub protected: bool,
    /// How much may come from it.
    pub limit_from: RateLimit,
    /// How much it may get.
    pub limit_to: RateLimit,
}

impl Port {
    /// Returns what it leads to.
    pub fn role(&self) -> PortRole {
        self.settings.role.unwrap_or_else(|| self.locator.role())
    }

    /// Returns how many MACs are learned behind it, or behind each that is connected to it.
    pub fn mac_limit(&self) -> u32 {
        self.settings.mac_limit.unwrap_or_else(|| self.role().mac_limit())
    }
}

/// Locators are stored as they are written.
mod text {
    use crate::locator::Locator;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(locator: &Locator, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(locator)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Locator, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_stored_as_it_was_asked_for() {
        let stored = serde_json::json!({
            "id": "22222222-2222-4222-8222-222222222222",
            "name": "qemu",
            "network_id": "11111111-1111-4111-8111-111111111111",
            "locator": "stream-listen://127.0.0.1:9999",
            "mac_limit": 5,
            "protected": false,
            "limit_from": { "packets": 0, "bits": 8_000, "burst_packets": 0, "burst_bits": 0 },
            "limit_to": { "packets": 0, "bits": 0, "burst_packets": 0, "burst_bits": 0 },
            "asked": "33333333-3333-4333-8333-333333333333",
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
        });
        let port: Port = serde_json::from_value(stored.clone()).unwrap();
        assert_eq!((port.role(), port.mac_limit()), (PortRole::Access, 5));
        assert_eq!(port.settings.limit_from.bits, 8_000);
        assert_eq!(serde_json::to_value(&port).unwrap(), stored);
        let broken = serde_json::json!({ "locator": "nonsense://x" });
        let error = serde_json::from_value::<Port>({
            let mut whole = stored;
            whole["locator"] = broken["locator"].clone();
            whole
        });
        assert!(error.unwrap_err().to_string().contains("no such port kind: nonsense"));
    }
}
