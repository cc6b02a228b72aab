//! What networks are made of, as control compiles it: ports, vNICs, next hops, what is routed.
//!
//! Nothing in it changes with traffic.

use super::{Fib, Leases, Names};
use crate::{
    addr::MacAddr,
    dataplane::frame::verdict::NextHopId,
    model::{Boot, GuestSettings, Impairments, PortRole, PortSecurity, RateLimit},
    wire::{dns, vlan::VlanId},
};
use ipnet::{Ipv4Net, Ipv6Net};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// The gateway's MAC on every vNIC.
// Locally administered (bit 1 of the first octet): no vendor's card has it. The same everywhere, so
// that a vNIC may move between reactors and hosts and its guest's neighbour cache stays right.
pub const GATEWAY_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);
/// Stands for whoever is outside all networks, where there is no Ethernet.
// The next one: locally administered, and no guest's (`control/assign`): nobody sends from it.
pub const OUTSIDE_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x02]);
/// Names a vNIC outside of all networks, where several may have the same addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u16);

impl Tag {
    /// Returns that of the vNIC at a port; none where there are too many.
    pub fn of(port: PortId) -> Option<Self> {
        u16::try_from(port.slot).ok().map(Self)
    }

    /// Returns it as the source of a frame that leaves all networks, or comes from outside.
    // Locally administered, and beside those above.
    pub fn mac(self) -> MacAddr {
        let [high, low] = self.0.to_be_bytes();
        MacAddr([0x02, 0, 0, 0x01, high, low])
    }

    /// Returns which one is the source of a frame.
    pub fn from_mac(mac: MacAddr) -> Option<Self> {
        match mac.0 {
            [0x02, 0, 0, 0x01, high, low] => Some(Self(u16::from_be_bytes([high, low]))),
            _ => None,
        }
    }
}

/// The gateway's IPv4 address on every vNIC.
// Link-local, and one of the first 256, which are reserved: no host chooses it for itself (RFC 3927
// §2.1).
pub const GATEWAY_IPV4: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
/// The gateway's IPv6 address on every vNIC.
pub const GATEWAY_IPV6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The addresses of the metadata service: those that clouds have, and OpenStack's on the link.
pub const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
];

/// A port of the switch. Slots are reused; the generation tells their users apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId {
    /// Index into a reactor's slots.
    pub slot: u32,
    /// How often the slot was given out.
    pub generation: u32,
}

/// Names a network within the data plane, for the life of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkKey(pub u64);

/// Where a packet leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// The port.
    pub port: PortId,
    /// The reactor that owns it.
    pub reactor: u16,
    /// The MTU of its guest, in octets of an IP packet.
    pub mtu: u16,
    /// The MAC of its guest; zero where that is not a vNIC's: nothing is addressed to it.
    pub mac: MacAddr,
    /// The VLAN that it is tagged with there, by a trunk.
    pub vlan: Option<VlanId>,
}

impl NextHop {
    /// Of addresses of a network that nobody has: none of its packets fit.
    // A next hop, so that the longest prefix decides, and plain frames need no look for it.
    pub const NOBODY: Self = Self::none(0);
    /// Of addresses that no packet is routed to, whatever prefix they are in.
    pub const NOWHERE: Self = Self::none(1);
    /// Of addresses that are the gateway's, whatever prefix they are in.
    pub const GATEWAY: Self = Self::none(2);

    const fn none(generation: u32) -> Self {
        let port = PortId { slot: u32::MAX, generation };
        Self { port, reactor: 0, mtu: 0, mac: MacAddr([0; 6]), vlan: None }
    }

    /// Whether it is a port of a network's, and not the way out, nobody, nowhere or the gateway.
    pub fn is_vnics(&self) -> bool {
        !self.is_outside() && self.mtu > 0
    }

    /// Whether it leads out of all networks.
    pub fn is_outside(&self) -> bool {
        self.mac == OUTSIDE_MAC
    }
}

/// Which frames of a port are of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Membership {
    /// All: it is in no other.
    #[default]
    Access,
    /// Of a trunk, those without a tag, or whose tag names a priority alone.
    Native,
    /// Of a trunk, those that are tagged with this VLAN. The network sees them without the tag.
    Tagged(VlanId),
}

/// A member of a network: a port, and who is behind it.
#[derive(Debug, Clone)]
pub struct Member {
    /// The reactor that owns the port.
    pub reactor: u16,
    /// Who is behind it.
    pub role: Role,
}

/// Who is behind a port. Shared by the tables of a network: a new one costs little for those
/// members that did not change.
#[derive(Debug, Clone)]
pub enum Role {
    /// A guest with a MAC and addresses of its own.
    Guest(Arc<Vnic>),
    /// Whoever there is, of whom only MACs are learned: in switched networks alone.
    Bridge(Arc<BridgePort>),
    /// All the world, behind a port without Ethernet: the one member of a network of its own, which
    /// routes to vNICs of others.
    Outside(Arc<OutsidePort>),
}

/// What the data plane knows of the port to the world.
#[derive(Debug, Clone)]
pub struct OutsidePort {
    /// The port.
    pub port: PortId,
    /// Octets of an IP packet.
    pub mtu: u16,
    /// Whom what comes from there is for.
    pub receivers: Receivers,
}

/// Whom what comes from outside is for.
#[derive(Debug, Clone)]
pub enum Receivers {
    /// Who has its destination: no two networks have the same.
    ByAddress,
    /// Whose tag is its source, with its next hop among the table's: each frame says it.
    ByTag(HashMap<Tag, (NextHopId, Arc<Vnic>)>),
}

/// Whether a port has one host behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hosts {
    /// Who leaves is the only one.
    One,
    /// Others may still listen.
    Several,
}

impl Member {
    /// Returns the port.
    pub fn port(&self) -> PortId {
        match &self.role {
            Role::Guest(vnic) => vnic.port,
            Role::Bridge(bridge) => bridge.port,
            Role::Outside(outside) => outside.port,
        }
    }

    /// Returns the vNIC, where it is one.
    pub fn vnic(&self) -> Option<&Vnic> {
        match &self.role {
            Role::Guest(vnic) => Some(vnic),
            Role::Bridge(_) | Role::Outside(_) => None,
        }
    }

    /// Returns the MAC that is known to be behind the port, without being learned.
    pub fn fixed_mac(&self) -> Option<MacAddr> {
        let vnic = self.vnic()?;
        (vnic.settings.port_security != PortSecurity::Off).then_some(vnic.mac)
    }

    /// Whether frames from more MACs than are learned may come from the port.
    // A guest is held to its number. Who has a network behind it has one that grows.
    pub fn may_exceed_mac_limit(&self) -> bool {
        match &self.role {
            Role::Guest(_) | Role::Outside(_) => false,
            Role::Bridge(bridge) => bridge.role != PortRole::Access,
        }
    }

    /// Returns which frames of the port are of the network.
    pub fn membership(&self) -> Membership {
        match &self.role {
            Role::Guest(_) | Role::Outside(_) => Membership::Access,
            Role::Bridge(bridge) => bridge.membership,
        }
    }

    /// Returns the VLAN that its frames are tagged with, where that is what makes it a member.
    pub fn vlan(&self) -> Option<VlanId> {
        match self.membership() {
            Membership::Access | Membership::Native => None,
            Membership::Tagged(vlan) => Some(vlan),
        }
    }

    /// Returns how many hosts are to be expected behind the port.
    pub(super) fn hosts(&self) -> Hosts {
        match self.fixed_mac() {
            Some(_) => Hosts::One,
            None => Hosts::Several,
        }
    }

    /// Returns how many MACs are learned behind the port.
    pub fn mac_limit(&self) -> u32 {
        match &self.role {
            Role::Guest(vnic) => vnic.settings.macs(),
            Role::Bridge(bridge) => bridge.mac_limit,
            Role::Outside(_) => 0,
        }
    }

    /// Returns how much may come from the port and go to it.
    pub fn limits(&self) -> (RateLimit, RateLimit) {
        match &self.role {
            Role::Guest(vnic) => (vnic.settings.from_guest, vnic.settings.to_guest),
            Role::Bridge(bridge) => (bridge.from_port, bridge.to_port),
            Role::Outside(_) => Default::default(),
        }
    }

    /// Returns by what lines frames come from the port and go to it.
    pub fn impairments(&self) -> Impairments {
        match &self.role {
            Role::Guest(vnic) => vnic.settings.impairments,
            Role::Bridge(bridge) => bridge.impairments,
            Role::Outside(_) => Impairments::default(),
        }
    }

    /// Returns the port as frames leave by it.
    pub fn next_hop(&self) -> NextHop {
        let (port, reactor) = (self.port(), self.reactor);
        match &self.role {
            Role::Guest(vnic) => {
                NextHop { port, reactor, mtu: vnic.mtu, mac: vnic.mac, vlan: None }
            }
            Role::Bridge(bridge) => {
                let (mtu, vlan) = (bridge.mtu, self.vlan());
                NextHop { port, reactor, mtu, mac: MacAddr([0; 6]), vlan }
            }
            Role::Outside(outside) => {
                NextHop { port, reactor, mtu: outside.mtu, mac: OUTSIDE_MAC, vlan: None }
            }
        }
    }
}

/// What the data plane knows of a port that is no vNIC.
#[derive(Debug, Clone)]
pub struct BridgePort {
    /// The port.
    pub port: PortId,
    /// Octets of an IP packet.
    pub mtu: u16,
    /// Which of its frames are of the network.
    pub membership: Membership,
    /// What it leads to.
    pub role: PortRole,
    /// How many MACs are learned behind it.
    pub mac_limit: u32,
    /// Nothing goes from it to another that is protected, too.
    pub protected: bool,
    /// Frames from it and frames to it go to all others.
    pub hub: bool,
    /// How much may come from it, bursts filled in.
    pub from_port: RateLimit,
    /// How much may go to it, likewise.
    pub to_port: RateLimit,
    /// By what lines frames come from it and go to it.
    pub impairments: Impairments,
}

impl BridgePort {
    /// Returns a port without limits, with nothing but defaults.
    pub fn new(port: PortId, role: PortRole, mtu: u16) -> Self {
        Self {
            port,
            mtu,
            membership: Membership::default(),
            role,
            mac_limit: role.mac_limit(),
            protected: false,
            hub: false,
            from_port: RateLimit::default(),
            to_port: RateLimit::default(),
            impairments: Impairments::default(),
        }
    }
}

/// What the data plane knows of one vNIC.
#[derive(Debug, Clone)]
pub struct Vnic {
    /// Its port.
    pub port: PortId,
    /// Its guest's MAC.
    pub mac: MacAddr,
    /// Its guest's IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its guest's IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Prefixes behind its guest.
    pub routed_ipv4: Vec<Ipv4Net>,
    /// Prefixes behind its guest.
    pub routed_ipv6: Vec<Ipv6Net>,
    /// A /64 of which its guest chooses addresses itself.
    pub slaac: Option<Ipv6Net>,
    /// Octets of an IP packet.
    pub mtu: u16,
    /// How its guest is to be treated.
    pub settings: GuestSettings,
    /// Its guest's name, where the vNIC's name is a valid DNS label.
    pub hostname: Option<String>,
    /// What its guest boots, where that is to come from the network.
    pub boot: Boot,
}

impl Vnic {
    /// Returns a vNIC without addresses, with nothing but defaults.
    pub fn new(port: PortId, mac: MacAddr, mtu: u16) -> Self {
        Self {
            port,
            mac,
            ipv4: None,
            ipv6: None,
            routed_ipv4: Vec::new(),
            routed_ipv6: Vec::new(),
            slaac: None,
            mtu,
            settings: GuestSettings::default(),
            hostname: None,
            boot: Boot::default(),
        }
    }

    /// Whether the guest may send from `address`, which is its own or in a routed prefix.
    #[inline]
    pub fn owns_ipv4(&self, address: Ipv4Addr) -> bool {
        self.ipv4 == Some(address) || self.routed_ipv4.iter().any(|p| p.contains(&address))
    }

    /// Whether the guest may send from `address`, which is its own or in a routed prefix.
    #[inline]
    pub fn owns_ipv6(&self, address: Ipv6Addr) -> bool {
        // Any address in its /64: temporary addresses change, and nothing tells us (RFC 8981).
        let routed = self.routed_ipv6.iter().chain(&self.slaac);
        self.ipv6 == Some(address) || routed.into_iter().any(|p| p.contains(&address))
    }
}

/// What guests see of a gateway that is in a switched network, beside them.
#[derive(Debug, Clone, Default)]
pub struct Segment {
    /// Its address in the network's subnet.
    pub gateway_ipv4: Option<Ipv4Addr>,
    /// What hosts behind ports have leased; none where they lease nothing.
    pub leases: Option<Arc<Leases>>,
    /// What they boot, where that is to come from the network.
    pub boot: Boot,
}

/// What a routed network is made of, beside its members; or the gateway of a switched one.
#[derive(Debug)]
pub struct Routed {
    /// Its IPv4 subnet.
    pub ipv4_subnet: Option<Ipv4Net>,
    /// The broadcast address of that.
    pub ipv4_broadcast: Option<Ipv4Addr>,
    /// Its IPv6 prefix.
    pub ipv6_prefix: Option<Ipv6Net>,
    /// Told to guests.
    pub dns_ipv4: Vec<Ipv4Addr>,
    /// Told to guests.
    pub dns_ipv6: Vec<Ipv6Addr>,
    /// Told to guests.
    pub ntp_ipv4: Vec<Ipv4Addr>,
    /// Told to guests.
    pub ntp_ipv6: Vec<Ipv6Addr>,
    /// Told to guests.
    pub domain: Option<dns::Name>,
    /// Where the network is a segment: its members reach each other without the gateway.
    pub segment: Option<Segment>,
    /// What the gateway serves beside addresses.
    pub services: Services,
    /// Where addresses are.
    pub fib: Fib,
}

impl Routed {
    /// Returns what has these routes, and nothing else.
    pub fn new(fib: Fib) -> Self {
        Self {
            ipv4_subnet: None,
            ipv4_broadcast: None,
            ipv6_prefix: None,
            dns_ipv4: Vec::new(),
            dns_ipv6: Vec::new(),
            ntp_ipv4: Vec::new(),
            ntp_ipv6: Vec::new(),
            domain: None,
            segment: None,
            services: Services::default(),
            fib,
        }
    }
}

/// What becomes of a question for names of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Foreign {
    /// It is refused.
    #[default]
    Refused,
    /// Others are asked, for a vNIC's own guest.
    Forwarded,
}

/// What a gateway serves where its network is to have it.
#[derive(Debug, Default)]
pub struct Services {
    /// By DNS; none: whoever asks is told that nobody does.
    pub names: Option<Arc<Names>>,
    /// What becomes of names in no zone of the network.
    pub foreign: Foreign,
    /// What a guest is to know of its vNIC, by HTTP.
    pub metadata: bool,
}
