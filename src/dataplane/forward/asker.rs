//! Who is served by a gateway: a vNIC's guest, of whom all is known, or a host behind a port, of
//! which only what its frames say. Of whoever is outside, not even that.

use super::tables::{Member, OUTSIDE_MAC, OutsidePort, Role, Vnic};
use crate::addr::MacAddr;

/// Who asks a gateway, or is told something by it.
#[derive(Debug, Clone, Copy)]
pub enum Asker<'a> {
    /// A vNIC's guest.
    Guest(&'a Vnic),
    /// A host behind a port.
    Host(Host),
    /// Somebody outside all networks, behind a port without Ethernet.
    Outside(&'a OutsidePort),
}

/// A host behind a port of a switched network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Its MAC.
    pub mac: MacAddr,
    /// Octets of an IP packet on its link.
    pub mtu: u16,
}

impl<'a> Asker<'a> {
    /// Returns its MAC.
    pub fn mac(&self) -> MacAddr {
        match self {
            Self::Guest(vnic) => vnic.mac,
            Self::Host(host) => host.mac,
            Self::Outside(_) => OUTSIDE_MAC,
        }
    }

    /// Returns how many octets an IP packet may have on its link.
    pub fn mtu(&self) -> u16 {
        match self {
            Self::Guest(vnic) => vnic.mtu,
            Self::Host(host) => host.mtu,
            Self::Outside(outside) => outside.mtu,
        }
    }

    /// Returns the vNIC that it is the guest of.
    pub fn vnic(&self) -> Option<&'a Vnic> {
        match self {
            Self::Guest(vnic) => Some(vnic),
            Self::Host(_) | Self::Outside(_) => None,
        }
    }
}

impl Member {
    /// Returns who sends frames from `mac` by this port.
    pub fn asker(&self, mac: MacAddr) -> Asker<'_> {
        match &self.role {
            Role::Guest(vnic) if vnic.mac == mac => Asker::Guest(vnic),
            // The guest is a bridge.
            Role::Guest(vnic) => Asker::Host(Host { mac, mtu: vnic.mtu }),
            Role::Bridge(bridge) => Asker::Host(Host { mac, mtu: bridge.mtu }),
            Role::Outside(outside) => Asker::Outside(outside),
        }
    }
}
