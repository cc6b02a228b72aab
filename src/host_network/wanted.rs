//! What the kernel is to know, and what of that it does not take.

use super::{
    Balanced, Nat,
    netlink::{Ethernet, Own, Proxy},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};
use uuid::Uuid;

/// What the kernel is to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Octets of the longest packet to and from guests.
    pub mtu: u16,
    /// What is behind the device.
    pub prefixes: BTreeSet<IpNet>,
    /// Of which network each of them is.
    pub owners: BTreeMap<IpNet, Uuid>,
    /// What of the world is a guest's.
    pub nat: Nat,
    /// Load balancers whose backends are behind it.
    pub balancers: BTreeMap<Uuid, Arc<Balanced>>,
}

/// What of that is left out, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Networks: as a whole, whichever of their prefixes cannot be led.
    pub networks: BTreeMap<Uuid, String>,
    /// Addresses of the world that do not lead to guests.
    pub addresses: BTreeMap<IpAddr, String>,
}

impl LeftOut {
    /// Leaves out what has a prefix, or is the address that it is.
    pub(super) fn add(&mut self, wanted: &Wanted, prefix: IpNet, why: String) {
        match wanted.owners.get(&prefix) {
            Some(network) => drop(self.networks.entry(*network).or_insert(why)),
            None => drop(self.addresses.insert(prefix.addr(), why)),
        }
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.addresses.is_empty()
    }
}

impl Wanted {
    /// Returns it without networks that are left out, and without what leads to their guests.
    pub(super) fn without(&self, left_out: &LeftOut) -> Self {
        let mut rest = self.clone();
        if left_out.networks.is_empty() {
            return rest;
        }
        let owner = |prefix: &IpNet| self.owners.get(prefix);
        let is_out =
            |prefix: &IpNet| owner(prefix).is_some_and(|id| left_out.networks.contains_key(id));
        let out: Vec<_> = self.prefixes.iter().filter(|prefix| is_out(prefix)).collect();
        let is_led = |guest: &IpAddr| !out.iter().any(|prefix| prefix.contains(guest));
        rest.prefixes.retain(|prefix| !is_out(prefix));
        rest.nat.floating.retain(|_, guest| is_led(guest));
        rest.nat.sources.retain(|guest, _| is_led(guest));
        rest.nat.forwards.retain(|forwarded| is_led(&forwarded.to));
        rest.balancers.retain(|_, balanced| {
            balanced.spec().backends.iter().all(|backend| is_led(&backend.address))
        });
        let balanced = rest.balancers.values().map(|balanced| balanced.spec().address);
        rest.nat.balanced = balanced.collect();
        rest
    }

    /// Whether they are the same but for balancers.
    pub(super) fn is_same_but_balancers(&self, other: &Self) -> bool {
        let Self { mtu, prefixes, owners, nat, balancers: _ } = self;
        (mtu, prefixes, owners, nat) == (&other.mtu, &other.prefixes, &other.owners, &other.nat)
    }

    /// Returns what is routed to the device, where the host has these addresses itself.
    pub(super) fn routes(&self, own: &[Own]) -> BTreeSet<IpNet> {
        let announced = self.announced(own).into_iter().map(IpNet::from);
        self.prefixes.iter().copied().chain(announced).collect()
    }

    /// Returns addresses of the world that lead to guests. Those of the host do so anyway.
    pub(super) fn announced(&self, own: &[Own]) -> BTreeSet<IpAddr> {
        let mut announced = self.nat.announced();
        announced.retain(|address| !own.iter().any(|own| own.address == *address));
        announced
    }

    /// Returns prefixes that would take an address of the host's own from it.
    pub(super) fn own_addresses(&self, own: &[Own]) -> Vec<(IpNet, IpAddr)> {
        let found = |prefix: &IpNet| {
            let own = own.iter().find(|own| prefix.contains(&own.address))?;
            Some((*prefix, own.address))
        };
        self.prefixes.iter().filter_map(found).collect()
    }

    /// Returns which interfaces are to answer for which addresses: those whose neighbours look for
    /// them on their link.
    pub(super) fn answering(
        &self,
        own: &[Own],
        ethernets: &[Ethernet],
    ) -> BTreeMap<Proxy, Ethernet> {
        let mut found = BTreeMap::new();
        for address in self.announced(own) {
            for own in own.iter().filter(|own| own.subnet.contains(&address)) {
                let ethernet = ethernets.iter().find(|ethernet| ethernet.link == own.link);
                let proxy = Proxy { link: own.link, address };
                found.extend(ethernet.map(|ethernet| (proxy, ethernet.clone())));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_left_out_as_a_whole() {
        let [a, b] = [1, 2].map(Uuid::from_u128);
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let owners: BTreeMap<_, _> =
            [(net("10.1.0.0/24"), a), (net("10.2.0.0/24"), b), (net("fd00:2::/64"), b)].into();
        let pairs = [("192.0.2.7", "10.1.0.1"), ("192.0.2.8", "10.2.0.1")];
        let pairs = pairs.map(|(at, to)| (address(at), address(to)));
        let nat = Nat { floating: pairs.into(), ..Nat::default() };
        let wanted =
            Wanted { prefixes: owners.keys().copied().collect(), owners, nat, ..Wanted::default() };
        let mut left_out = LeftOut::default();
        assert_eq!(wanted.without(&left_out), wanted);
        left_out.add(&wanted, net("fd00:2::/64"), "no IPv6".into());
        left_out.add(&wanted, net("192.0.2.7/32"), "elsewhere".into());
        let rest = wanted.without(&left_out);
        assert_eq!(rest.prefixes, [net("10.1.0.0/24")].into());
        assert_eq!(rest.nat.announced(), [address("192.0.2.7")].into());
        assert_eq!(left_out.networks, [(b, "no IPv6".to_owned())].into());
    }
}
