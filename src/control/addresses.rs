//! Which MAC, addresses and prefixes a vNIC may have in its network, beside all others.

use super::{
    NetworkState,
    choices::Ipv6Mode,
    fields,
    ipam::{Pool, number, range},
    refusal::Refusal,
};
use crate::{addr::MacAddr, model::Nic};
use ipnet::{IpNet, Ipv6Net};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};
use uuid::Uuid;

/// Bits of a prefix of which hosts choose addresses themselves (RFC 4291 §2.5.1).
// Identifiers on Ethernet have 64 bits (RFC 2464 §4), and hosts ignore prefixes that do not go
// with them (RFC 4862 §5.5.3).
const SLAAC_PREFIX_LEN: u8 = 64;

/// Who has addresses that are no vNIC's to have.
const HOSTS: &str = "hosts behind ports, which lease it (dhcp_pool)";

/// What a vNIC is to have; what is absent is to be chosen.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) mac: Option<MacAddr>,
    pub(super) ipv4: Option<Ipv4Addr>,
    pub(super) ipv6: Option<Ipv6Addr>,
    pub(super) ipv6_mode: Ipv6Mode,
}

/// What it may have.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) mac: MacAddr,
    pub(super) ipv4: Option<Ipv4Addr>,
    pub(super) ipv6: Option<Ipv6Addr>,
    pub(super) slaac: Option<Ipv6Net>,
}

/// Addresses for a vNIC. What it has in `network` by now, as `old`, is free for it.
pub(super) fn choose(
    network: &NetworkState,
    wanted: Wanted,
    old: Option<&Nic>,
) -> Result<Chosen, Refusal> {
    let ipv4 = wanted.ipv4.map(Into::into);
    let ipv4 = choose_address(network, "ipv4_address", network.ipv4.as_ref(), ipv4, old)?;
    let (slaac, ipv6) = match wanted.ipv6_mode {
        Ipv6Mode::Slaac => {
            let (prefix, address) = choose_prefix(network, wanted.ipv6, old)?;
            (Some(prefix), Some(number(address.into())))
        }
        Ipv6Mode::Dhcpv6 => {
            let (pool, ipv6) = (network.ipv6.as_ref(), wanted.ipv6.map(Into::into));
            (None, choose_address(network, "ipv6_address", pool, ipv6, old)?)
        }
    };
    Ok(Chosen {
        mac: choose_mac(network, wanted.mac, old)?,
        ipv4: ipv4.map(|number| Ipv4Addr::from_bits(number as u32)),
        ipv6: ipv6.map(Ipv6Addr::from_bits),
        slaac,
    })
}

/// Checks that a vNIC, which is in `network` as `old` if at all, may be as `nic` says. Sets its
/// prefix, which follows from its address.
pub(super) fn choose_again(
    network: &NetworkState,
    nic: &mut Nic,
    old: Option<&Nic>,
) -> Result<(), Refusal> {
    // The mode is not stored: a vNIC with a prefix of its own is one of SLAAC.
    let ipv6_mode = if nic.slaac.is_some() { Ipv6Mode::Slaac } else { Ipv6Mode::Dhcpv6 };
    let wanted = Wanted { mac: Some(nic.mac), ipv4: nic.ipv4, ipv6: nic.ipv6, ipv6_mode };
    nic.slaac = choose(network, wanted, old)?.slaac;
    check_routes(network, nic, old)
}

impl NetworkState {
    /// Takes what a vNIC has.
    pub(super) fn put(&mut self, nic: &Nic) {
        self.macs.insert(nic.mac);
        self.set_addresses(nic, Pool::take);
        self.set_routes(nic, Pool::route);
    }

    /// Releases what a vNIC has.
    pub(super) fn lift(&mut self, nic: &Nic) {
        self.macs.remove(&nic.mac);
        self.set_addresses(nic, Pool::give_back);
        self.set_routes(nic, |pool, prefix, _| pool.unroute(prefix));
    }

    /// Applies a change to the addresses of a vNIC.
    fn set_addresses(&mut self, nic: &Nic, change: impl Fn(&mut Pool, RangeInclusive<u128>)) {
        let [ipv4, ipv6] = own(nic);
        if let (Some(pool), Some(addresses)) = (&mut self.ipv4, ipv4) {
            change(pool, addresses);
        }
        if let (Some(pool), Some(addresses)) = (&mut self.ipv6, ipv6) {
            change(pool, addresses);
        }
    }

    /// Applies a change to each routed prefix of a vNIC.
    fn set_routes(&mut self, nic: &Nic, change: impl Fn(&mut Pool, IpNet, Uuid)) {
        if let Some(pool) = &mut self.ipv4 {
            nic.routed_ipv4.iter().for_each(|prefix| change(pool, (*prefix).into(), nic.id));
        }
        if let Some(pool) = &mut self.ipv6 {
            nic.routed_ipv6.iter().for_each(|prefix| change(pool, (*prefix).into(), nic.id));
        }
    }
}

/// The addresses that are a vNIC's alone, of each family.
fn own(nic: &Nic) -> [Option<RangeInclusive<u128>>; 2] {
    let single = |address: IpAddr| number(address)..=number(address);
    let ipv6 = nic.slaac.map(|prefix| range(prefix.into()));
    [
        nic.ipv4.map(|address| single(address.into())),
        // The /64 holds the address that DHCPv6 tells: that is not taken a second time.
        ipv6.or_else(|| nic.ipv6.map(|address| single(address.into()))),
    ]
}

/// A prefix may be routed to one vNIC only, and hold no address of another: its owner may send from
/// it.
pub(super) fn check_routes(
    network: &NetworkState,
    nic: &Nic,
    old: Option<&Nic>,
) -> Result<(), Refusal> {
    let ipv4 = nic.routed_ipv4.iter().map(|prefix| IpNet::from(*prefix));
    let prefixes = ipv4.chain(nic.routed_ipv6.iter().map(|prefix| IpNet::from(*prefix)));
    let [own_ipv4, own_ipv6] = old.map(own).unwrap_or_default();
    for prefix in prefixes {
        let (field, pool, own, subnet) = match prefix {
            IpNet::V4(_) => {
                let subnet = network.model.ipv4_subnet.map(IpNet::from);
                ("routed_ipv4_prefixes", &network.ipv4, &own_ipv4, subnet)
            }
            IpNet::V6(_) => {
                let subnet = network.model.ipv6_prefix.map(IpNet::from);
                ("routed_ipv6_prefixes", &network.ipv6, &own_ipv6, subnet)
            }
        };
        let Some(pool) = pool else {
            return Err(lacks_family(field, prefix, network));
        };
        // Only the very same prefix: of nested ones the longest wins (decision 0004).
        if let Some(owner) = pool.route_owner(prefix).filter(|owner| *owner != nic.id) {
            return Err(Refusal::taken(field, prefix, format!("vNIC {owner}")));
        }
        // Like a default route: its owner could send from any address (decision 0004).
        if subnet.is_some_and(|subnet| prefix.contains(&subnet)) {
            return Err(Refusal::invalid(field, prefix, "it contains the network's whole subnet"));
        }
        // Whoever has the prefix may send from all of it, so from that address (decision 0004).
        if pool.is_taken_by_others(range(prefix), own.as_ref()) {
            return Err(Refusal::taken(
                field,
                prefix,
                "the address of another vNIC, which is inside",
            ));
        }
        // One that it had before hosts leased anything stays: they lease nothing of it.
        let had = old.is_some_and(|old| match prefix {
            IpNet::V4(prefix) => old.routed_ipv4.contains(&prefix),
            IpNet::V6(prefix) => old.routed_ipv6.contains(&prefix),
        });
        if !had && pool.leased_within(&range(prefix)).is_some() {
            return Err(Refusal::taken(field, prefix, HOSTS));
        }
    }
    Ok(())
}

fn lacks_family(
    field: &'static str,
    value: impl std::fmt::Display,
    network: &NetworkState,
) -> Refusal {
    let name = &network.model.name;
    Refusal::invalid(field, value, format!("network {name} does not have this family"))
}

/// The /64 of which a guest is to choose its addresses, around `wanted` if that is given, and the
/// address that DHCPv6 tells it: `wanted`, or the first.
fn choose_prefix(
    network: &NetworkState,
    wanted: Option<Ipv6Addr>,
    old: Option<&Nic>,
) -> Result<(Ipv6Net, Ipv6Addr), Refusal> {
    let name = &network.model.name;
    let (Some(prefix), Some(pool)) = (network.model.ipv6_prefix, &network.ipv6) else {
        return Err(lacks_family("ipv6_mode", "slaac", network));
    };
    if prefix.prefix_len() >= SLAAC_PREFIX_LEN {
        return Err(Refusal::invalid(
            "ipv6_mode",
            "slaac",
            format!(
                "each vNIC needs a /64 of the network's prefix, and {prefix} of network {name} is \
                 none or one; give the network a shorter prefix, like a /56"
            ),
        ));
    }
    let (first, address) = match wanted {
        None => {
            let first = pool.lowest_free_block(SLAAC_PREFIX_LEN).ok_or_else(|| {
                Refusal::Exhausted(format!("ipv6_mode: network {name} has no free /64 left"))
            })?;
            // The first is the subnet-router anycast address (RFC 4291 §2.6.1).
            (first, Ipv6Addr::from_bits(first + 1))
        }
        Some(wanted) => {
            let usable = pool.is_usable(number(wanted.into()));
            fields::check_usable("ipv6_address", wanted.into(), usable, prefix)?;
            (number(wanted.into()) >> 64 << 64, wanted)
        }
    };
    let block = Ipv6Net::new_assert(Ipv6Addr::from_bits(first), SLAAC_PREFIX_LEN);
    // The block that begins with the network's own anycast address is nobody's.
    let [_, own] = old.map(own).unwrap_or_default();
    if !pool.is_usable(first) || pool.is_taken_by_others(range(block.into()), own.as_ref()) {
        return Err(Refusal::taken(
            "ipv6_address",
            address,
            format!("others of network {name}, with addresses in {block}"),
        ));
    }
    if own.as_ref() != Some(&range(block.into()))
        && pool.leased_within(&range(block.into())).is_some()
    {
        return Err(Refusal::taken("ipv6_address", address, HOSTS));
    }
    if let Some((_, owner)) = pool.routed_last(&range(block.into()), old.map(|old| old.id)) {
        return Err(Refusal::taken(
            "ipv6_address",
            address,
            format!("a prefix routed to vNIC {owner}, which meets {block}"),
        ));
    }
    Ok((block, address))
}

fn choose_mac(
    network: &NetworkState,
    wanted: Option<MacAddr>,
    old: Option<&Nic>,
) -> Result<MacAddr, Refusal> {
    match wanted {
        Some(mac) if old.is_some_and(|old| old.mac == mac) => Ok(mac),
        Some(mac) if network.macs.contains(&mac) => Err(Refusal::taken(
            "mac_address",
            mac,
            format!("another vNIC of network {}", network.model.name),
        )),
        Some(mac) => Ok(mac),
        None => {
            // 2^24 of them: a /8 has no more addresses, so one is always free.
            // 52:54:00 is locally administered, and what QEMU and libvirt have for guests.
            let random = || {
                let id = Uuid::new_v4();
                let [a, b, c, ..] = *id.as_bytes();
                MacAddr([0x52, 0x54, 0x00, a, b, c])
            };
            // The tries end: nothing may hold up the thread that everybody waits for.
            let mut macs = std::iter::repeat_with(random).take(1 << 16);
            macs.find(|mac| !network.macs.contains(mac)).ok_or_else(|| {
                Refusal::Exhausted(format!(
                    "mac_address: network {} has no free MAC left",
                    network.model.name
                ))
            })
        }
    }
}

fn choose_address(
    network: &NetworkState,
    field: &'static str,
    pool: Option<&Pool>,
    wanted: Option<IpAddr>,
    old: Option<&Nic>,
) -> Result<Option<u128>, Refusal> {
    let name = &network.model.name;
    match (pool, wanted) {
        (None, None) => Ok(None),
        (None, Some(address)) => Err(lacks_family(field, address, network)),
        (Some(pool), None) => match pool.lowest_free() {
            Some(address) => Ok(Some(address)),
            None => {
                Err(Refusal::Exhausted(format!("{field}: network {name} has no free address left")))
            }
        },
        (Some(pool), Some(address)) => {
            let subnet = match address {
                IpAddr::V4(_) => network.model.ipv4_subnet.map(IpNet::from),
                IpAddr::V6(_) => network.model.ipv6_prefix.map(IpNet::from),
            };
            let number = number(address);
            fields::check_usable(
                field,
                address,
                pool.is_usable(number),
                subnet.unwrap_or_default(),
            )?;
            let [own_ipv4, own_ipv6] = old.map(own).unwrap_or_default();
            let own = if address.is_ipv4() { own_ipv4 } else { own_ipv6 };
            if pool.is_taken_by_others(number..=number, own.as_ref()) {
                let owner = match network.model.gateway_in_subnet() {
                    Some(gateway) if address == gateway => "the gateway",
                    _ => "another vNIC",
                };
                return Err(Refusal::taken(field, address, format!("{owner} of network {name}")));
            }
            let is_own = own.is_some_and(|own| own.contains(&number));
            if !is_own && pool.leased_within(&(number..=number)).is_some() {
                return Err(Refusal::taken(field, address, HOSTS));
            }
            if let Some((_, owner)) = pool.routed_over(number, old.map(|old| old.id)) {
                return Err(Refusal::taken(
                    field,
                    address,
                    format!("a prefix routed to vNIC {owner}"),
                ));
            }
            Ok(Some(number))
        }
    }
}
