//! How frames of switched networks are treated: what is asked for, and what follows from that.

use super::DhcpPool;
use serde::{Deserialize, Serialize};

/// How the guests of a network reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    /// By their addresses, through a gateway.
    #[default]
    Routed,
    /// By their MACs: one Ethernet segment.
    Switched,
}

impl NetworkKind {
    /// Whether it is [`NetworkKind::Routed`].
    pub fn is_routed(&self) -> bool {
        *self == Self::Routed
    }
}

/// What a port that is no vNIC leads to, and so what may come from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortRole {
    /// One guest, or few behind a small bridge.
    Access,
    /// Another network: a bridge, a physical card, somebody else's switch.
    Uplink,
    /// Another node of a full mesh: what comes from one never goes to another.
    Peer,
}

impl PortRole {
    /// Returns how many MACs are learned behind such a port, where it does not say.
    pub fn mac_limit(self) -> u32 {
        match self {
            // A guest with containers, or a small bridge.
            Self::Access => 32,
            // A rack's worth of guests: half of a network's table.
            Self::Uplink | Self::Peer => 4096,
        }
    }
}

/// What a vNIC's guest may send, of MACs and addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortSecurity {
    /// From its own MAC, and from its own addresses.
    #[default]
    Strict,
    /// From its own MAC, and any address.
    MacOnly,
    /// Whatever it likes: it is a bridge or a router.
    Off,
}

impl PortSecurity {
    /// Whether nothing is allowed that must not be.
    pub fn is_strict(&self) -> bool {
        *self == Self::Strict
    }
}

/// What becomes of a frame whose destination nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownUnicast {
    /// All others get it.
    Flood,
    /// It is dropped.
    Drop,
}

/// What becomes of frames that guests have tagged themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestVlans {
    /// They are dropped.
    Drop,
    /// They cross as they are, and a MAC is learned for each VLAN of its own.
    Pass,
}

/// What becomes of frames to groups that are meant for the next bridge only, as those of spanning
/// tree protocols (IEEE 802.1Q-2018 Table 8-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReservedGroups {
    /// They are dropped.
    Drop,
    /// They are flooded, but for those of flow control.
    Forward,
}

/// Whether DHCP servers and routers may be heard from ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DhcpGuard {
    /// Not where the network has a gateway, which answers itself.
    Auto,
    /// Never.
    On,
    /// Always.
    Off,
}

/// How a switched network treats frames, as it was asked for; what is absent is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct L2Policy {
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_aging_seconds: Option<u32>,
    /// Learned MACs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_table_size: Option<u32>,
    /// What becomes of frames to nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_unicast: Option<UnknownUnicast>,
    /// Frames a second of a port; all ones: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storm_pps: Option<u32>,
    /// Whether groups go only to who has joined them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_snooping: Option<bool>,
    /// What becomes of frames that guests have tagged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_vlans: Option<GuestVlans>,
    /// Whether the daemon answers ARP and NS for vNICs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub neighbour_proxy: Option<bool>,
    /// Who may be a DHCP server or a router.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dhcp_guard: Option<DhcpGuard>,
    /// What becomes of frames for the next bridge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved_groups: Option<ReservedGroups>,
    /// Whether loops through ports are looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loop_guard: Option<bool>,
    /// What hosts behind ports lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dhcp_pool: Option<DhcpPool>,
}

/// Whether a network has a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HasGateway {
    /// It has.
    Yes,
    /// It has not.
    No,
}

/// Who is in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Members {
    /// vNICs alone, each with [`PortSecurity::Strict`]: all MACs are known.
    AllStrict,
    /// Others, too.
    Any,
}

impl L2Policy {
    /// A switch that adds nothing and hides nothing, as small ones are.
    pub fn plain() -> Self {
        Self {
            storm_pps: Some(u32::MAX),
            multicast_snooping: Some(false),
            guest_vlans: Some(GuestVlans::Pass),
            neighbour_proxy: Some(false),
            dhcp_guard: Some(DhcpGuard::Off),
            reserved_groups: Some(ReservedGroups::Forward),
            loop_guard: Some(false),
            ..Self::default()
        }
    }

    /// Whether nothing was asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Returns what is in force in a network of these members.
    pub fn in_force(&self, gateway: HasGateway, members: Members) -> L2Rules {
        let unknown = match members {
            // Nobody can be behind any of them.
            Members::AllStrict => UnknownUnicast::Drop,
            Members::Any => UnknownUnicast::Flood,
        };
        L2Rules {
            // What IEEE 802.1Q-2018 Table 8-6 recommends.
            mac_aging_seconds: self.mac_aging_seconds.unwrap_or(300),
            mac_table_size: self.mac_table_size.unwrap_or(8192),
            unknown_unicast: self.unknown_unicast.unwrap_or(unknown),
            storm_pps: Some(self.storm_pps.unwrap_or(2000)).filter(|pps| *pps != u32::MAX),
            multicast_snooping: self.multicast_snooping.unwrap_or(true),
            guest_vlans: self.guest_vlans.unwrap_or(GuestVlans::Drop),
            neighbour_proxy: self.neighbour_proxy.unwrap_or(true),
            dhcp_guard: match self.dhcp_guard.unwrap_or(DhcpGuard::Auto) {
                DhcpGuard::Auto => gateway == HasGateway::Yes,
                DhcpGuard::On => true,
                DhcpGuard::Off => false,
            },
            reserved_groups: self.reserved_groups.unwrap_or(ReservedGroups::Drop),
            loop_guard: self.loop_guard.unwrap_or(true),
        }
    }
}

/// How a switched network treats frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct L2Rules {
    /// How long a MAC is known after its last frame.
    pub mac_aging_seconds: u32,
    /// How many MACs are learned.
    pub mac_table_size: u32,
    /// What becomes of frames to nobody.
    pub unknown_unicast: UnknownUnicast,
    /// How many frames to several receivers a port may send a second; none: any number.
    pub storm_pps: Option<u32>,
    /// Whether groups go only to who has joined them.
    pub multicast_snooping: bool,
    /// What becomes of frames that guests have tagged.
    pub guest_vlans: GuestVlans,
    /// Whether the daemon answers ARP and NS for vNICs.
    pub neighbour_proxy: bool,
    /// Whether DHCP servers and routers behind ports are silenced.
    pub dhcp_guard: bool,
    /// What becomes of frames for the next bridge.
    pub reserved_groups: ReservedGroups,
    /// Whether loops through ports are looked for.
    pub loop_guard: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_asked_for_follows_from_the_network() {
        let policy = L2Policy::default();
        let alone = policy.in_force(HasGateway::Yes, Members::AllStrict);
        assert_eq!((alone.mac_aging_seconds, alone.mac_table_size), (300, 8192));
        assert_eq!((alone.storm_pps, alone.unknown_unicast), (Some(2000), UnknownUnicast::Drop));
        assert!(alone.dhcp_guard && alone.loop_guard && alone.multicast_snooping);
        let mixed = policy.in_force(HasGateway::No, Members::Any);
        assert_eq!(mixed.unknown_unicast, UnknownUnicast::Flood);
        assert!(!mixed.dhcp_guard);
        let plain = L2Policy::plain().in_force(HasGateway::No, Members::Any);
        assert_eq!(plain.storm_pps, None);
        assert!(!plain.loop_guard && !plain.neighbour_proxy && !plain.multicast_snooping);
    }

    #[test]
    fn only_what_was_asked_for_is_stored() {
        let policy = L2Policy { storm_pps: Some(5), ..L2Policy::default() };
        let stored = serde_json::to_value(&policy).unwrap();
        assert_eq!(stored, serde_json::json!({ "storm_pps": 5 }));
        assert_eq!(serde_json::from_value::<L2Policy>(stored).unwrap(), policy);
    }
}
