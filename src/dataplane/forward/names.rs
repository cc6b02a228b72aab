//! The names of a network's vNICs, and which of them has an address: what its gateway answers by
//! DNS.
//!
//! ```text
//! NIC.NETWORK.ZONE, NIC.ZONE ─── a vNIC      4.3.2.1.in-addr.arpa, ….ip6.arpa ─── its name
//! ```
//! Takes a name as it is asked for; says what it is, or that it is in no zone of the network.
//! Nothing here is of another network: its names are unknown, whoever asks.

use super::tables::{GATEWAY_IPV4, GATEWAY_IPV6, Vnic};
use crate::wire::{
    dns::{self, is_label},
    dns_message::{Asked, MAX_NAME},
};
use arrayvec::ArrayVec;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// The labels at the end of names of addresses (RFC 1035 §3.5, RFC 3596 §2.5).
const REVERSE_IPV4: [&[u8]; 2] = [b"in-addr", b"arpa"];
const REVERSE_IPV6: [&[u8]; 2] = [b"ip6", b"arpa"];

/// What a network is called, and where it is.
#[derive(Debug, Clone)]
pub struct Zone {
    /// The domain of its names.
    pub domain: dns::Name,
    /// Its own name, which is a label of its vNICs' names where it is one at all.
    pub network: String,
    /// Its subnet.
    pub ipv4: Option<Ipv4Net>,
    /// Its prefix.
    pub ipv6: Option<Ipv6Net>,
    /// The gateway's address in the subnet, or the one on every link.
    pub gateway: Ipv4Addr,
}

/// The names of a network.
#[derive(Debug)]
pub struct Names {
    zone: Zone,
    /// By what they are called, in small letters. None: two are, but for their case.
    by_label: HashMap<Box<[u8]>, Option<Arc<Vnic>>>,
    by_address: HashMap<IpAddr, Arc<Vnic>>,
}

/// What a name is that was asked for.
#[derive(Debug, Clone, Copy)]
pub enum Named<'a> {
    /// A name of a zone of the network.
    Known {
        /// How many of its labels come before those of the zone.
        before: usize,
        /// What it stands for.
        thing: Thing<'a>,
    },
    /// In no zone of the network.
    Foreign,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
pub enum Thing<'a> {
    /// The zone of vNICs, and the gateway in it.
    Zone,
    /// A zone of addresses.
    ReverseZone,
    /// A vNIC.
    Vnic(&'a Vnic),
    /// The address of a vNIC.
    AddressOf(&'a Vnic),
    /// The address of the gateway, which is called as the zone of vNICs.
    Gateway,
    /// Nothing, but there may be names below it.
    Branch,
    /// Nothing, and there are none below it.
    Nothing,
}

impl Names {
    /// Returns those of vNICs whose names are labels; of two that differ in their case alone,
    /// neither has one.
    pub fn new<'a>(mut zone: Zone, vnics: impl Iterator<Item = &'a Arc<Vnic>>) -> Self {
        if !is_label(&zone.network) {
            zone.network.clear();
        }
        let mut by_label = HashMap::new();
        for vnic in vnics {
            // One that is too long with its zone cannot be asked for.
            let fits = |name: &&String| name.len() < MAX_NAME - zone.domain.octets().len();
            let Some(name) = vnic.hostname.as_ref().filter(fits) else { continue };
            match by_label.entry(name.to_ascii_lowercase().into_bytes().into()) {
                Entry::Vacant(place) => drop(place.insert(Some(Arc::clone(vnic)))),
                Entry::Occupied(mut place) => *place.get_mut() = None,
            }
        }
        let named = by_label.values().flatten();
        let by_address = named.flat_map(|vnic| {
            let addresses = [vnic.ipv4.map(IpAddr::from), vnic.ipv6.map(IpAddr::from)];
            addresses.into_iter().flatten().map(|address| (address, Arc::clone(vnic)))
        });
        Self { by_address: by_address.collect(), zone, by_label }
    }

    /// Returns what the zone is.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Returns what a name is.
    pub fn find(&self, name: &Asked<'_>) -> Named<'_> {
        if let Some(before) = name.before(&self.zone.domain) {
            return Named::Known { before, thing: self.forward(name.labels().take(before)) };
        }
        let ends_with = |suffix: [&[u8]; 2]| {
            let mut labels = name.labels().rev();
            let ends = suffix
                .iter()
                .rev()
                .all(|label| labels.next().is_some_and(|asked| asked.eq_ignore_ascii_case(label)));
            ends.then_some(labels)
        };
        if let Some(labels) = ends_with(REVERSE_IPV4) {
            let mut octets = [0; 4];
            let known = read(labels, decimal, &mut octets);
            let subnet = self.zone.ipv4.map(IpNet::from);
            return self.reverse((octets.into(), known), 8, subnet, name.len());
        }
        if let Some(labels) = ends_with(REVERSE_IPV6) {
            let mut nibbles = [0; 32];
            let known = read(labels, nibble, &mut nibbles);
            let bits = nibbles.iter().fold(0, |bits, nibble| bits << 4 | u128::from(*nibble));
            let prefix = self.zone.ipv6.map(IpNet::from);
            return self.reverse((Ipv6Addr::from(bits).into(), known), 4, prefix, name.len());
        }
        Named::Foreign
    }

    /// Returns what is called as an address, of which so many labels are `known`, each of `step`
    /// bits; of a name of `labels` in all.
    fn reverse(
        &self,
        (address, known): (IpAddr, usize),
        step: usize,
        subnet: Option<IpNet>,
        labels: usize,
    ) -> Named<'_> {
        let suffix = REVERSE_IPV4.len();
        let is_address = labels == suffix + known && known * step == bits(address);
        let gateway = [self.zone.gateway.into(), GATEWAY_IPV4.into(), GATEWAY_IPV6.into()];
        if is_address && gateway.contains(&address) {
            // It may be in no subnet of the network: then it is a zone by itself.
            return Named::Known { before: 0, thing: Thing::Gateway };
        }
        let is_known = |subnet: &IpNet| known * step >= usize::from(subnet.prefix_len());
        let Some(subnet) = subnet.filter(|it| is_known(it) && it.contains(&address)) else {
            return Named::Foreign;
        };
        let prefix_len = usize::from(subnet.prefix_len());
        // A subnet that ends within a label is in the zone of that label: names above it are
        // nobody's here.
        let zone = prefix_len / step;
        let thing = match self.by_address.get(&address) {
            Some(vnic) if is_address => Thing::AddressOf(vnic),
            _ if is_address || labels > suffix + known => Thing::Nothing,
            _ if known * step == prefix_len => Thing::ReverseZone,
            _ => Thing::Branch,
        };
        Named::Known { before: labels - suffix - zone, thing }
    }

    fn forward<'b>(&self, mut labels: impl Iterator<Item = &'b [u8]>) -> Thing<'_> {
        let (first, second, third) = (labels.next(), labels.next(), labels.next());
        let Some(label) = first else { return Thing::Zone };
        let network = self.zone.network.as_bytes();
        let is_below = second.is_none_or(|second| second.eq_ignore_ascii_case(network));
        let lower: ArrayVec<u8, 63> = label.iter().map(u8::to_ascii_lowercase).collect();
        match self.by_label.get(&*lower) {
            Some(Some(vnic)) if is_below && third.is_none() => Thing::Vnic(vnic),
            _ if second.is_none() && label.eq_ignore_ascii_case(network) => Thing::Branch,
            _ => Thing::Nothing,
        }
    }
}

/// Reads the labels of an address, its first one last. Returns how many are such labels.
fn read<'a>(
    labels: impl Iterator<Item = &'a [u8]>,
    value: impl Fn(&[u8]) -> Option<u8>,
    values: &mut [u8],
) -> usize {
    let found = labels.map_while(value);
    values.iter_mut().zip(found).map(|(place, value)| *place = value).count()
}

/// Reads an octet as it is written in names: without leading zeros.
fn decimal(label: &[u8]) -> Option<u8> {
    match label {
        [b'0', _, ..] => None,
        [b'0'..=b'9', ..] => str::from_utf8(label).ok()?.parse().ok(),
        // `parse` takes a sign.
        _ => None,
    }
}

fn nibble(label: &[u8]) -> Option<u8> {
    let [digit] = label else { return None };
    u8::try_from(char::from(*digit).to_digit(16)?).ok()
}

fn bits(address: IpAddr) -> usize {
    if address.is_ipv6() { 128 } else { 32 }
}
