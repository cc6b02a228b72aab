//! Ports: ways into a switched network that are no vNICs.

use super::{Impairments, Labels, Name, PortRole, RateLimit};
use crate::{locator::Locator, wire::vlan::VlanId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A network whose frames a trunk tags with a VLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaggedNetwork {
    /// The VLAN.
    #[serde(with = "vid")]
    pub vid: VlanId,
    /// The network.
    pub network_id: Uuid,
}

/// A way into a switched network, with whoever is behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// Unique for ever.
    pub id: Uuid,
    /// Unique among vNICs and ports.
    pub name: Name,
    /// The network it is in. Where that is among its VLANs, it is in none without a tag.
    pub network_id: Uuid,
    /// The networks it is in by VLANs, in order of these; none: all its frames are of the network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<TaggedNetwork>,
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
    /// By what lines frames come from it and go to it.
    #[serde(skip_serializing_if = "Impairments::is_none")]
    pub impairments: Impairments,
}

impl Port {
    /// Returns all networks it is in, the one that it is named with first.
    pub fn networks(&self) -> impl Iterator<Item = Uuid> {
        let others = self.vlans.iter().map(|tagged| tagged.network_id);
        std::iter::once(self.network_id).chain(others.filter(|id| *id != self.network_id))
    }

    /// Whether it is in a network.
    pub fn is_in(&self, network: Uuid) -> bool {
        self.networks().any(|id| id == network)
    }

    /// Returns the VLAN that its frames of a network are tagged with.
    pub fn vlan_in(&self, network: Uuid) -> Option<VlanId> {
        self.vlans.iter().find(|tagged| tagged.network_id == network).map(|tagged| tagged.vid)
    }

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

/// VLANs are stored as their numbers.
mod vid {
    use crate::wire::vlan::VlanId;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(vid: &VlanId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u16(vid.get())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<VlanId, D::Error> {
        VlanId::new(u16::deserialize(from)?).ok_or_else(|| D::Error::custom("no VLAN's number"))
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
        assert_eq!((port.networks().count(), port.vlan_in(port.network_id)), (1, None));
        let broken = serde_json::json!({ "locator": "nonsense://x" });
        let error = serde_json::from_value::<Port>({
            let mut whole = stored;
            whole["locator"] = broken["locator"].clone();
            whole
        });
        assert!(error.unwrap_err().to_string().contains("no such port kind: nonsense"));
    }

    #[test]
    fn a_trunk_is_stored_with_its_vlans() {
        let [red, blue, asked] = [1, 2, 3].map(Uuid::from_u128);
        let mut stored = serde_json::json!({
            "id": "22222222-2222-4222-8222-222222222222",
            "name": "up",
            "network_id": red,
            "vlans": [{ "vid": 10, "network_id": red }, { "vid": 4094, "network_id": blue }],
            "locator": "tap://tap0",
            "asked": asked,
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
        });
        let port: Port = serde_json::from_value(stored.clone()).unwrap();
        assert_eq!(port.networks().collect::<Vec<_>>(), [red, blue]);
        let vid = |network| port.vlan_in(network).map(VlanId::get);
        assert_eq!((vid(red), vid(blue), vid(asked)), (Some(10), Some(4094), None));
        assert!(port.is_in(blue) && !port.is_in(asked));
        assert_eq!(serde_json::to_value(&port).unwrap()["vlans"], stored["vlans"]);
        stored["vlans"][0]["vid"] = 4095.into();
        let error = serde_json::from_value::<Port>(stored).unwrap_err().to_string();
        assert!(error.contains("no VLAN's number"), "{error}");
    }
}
