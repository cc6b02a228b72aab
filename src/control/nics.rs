//! vNICs: created, found, changed and deleted.

use super::{
    Control, Limits, NetworkState, NicState, compile, convert,
    convert::{Ipv6Mode, NewNic},
    ipam::{Pool, number, range},
    refusal::Refusal,
};
use crate::{
    addr::MacAddr,
    dataplane::{self, Device, Given, Listening, Socket},
    log_limit::LogLimit,
    model::Nic,
    proto,
};
use ipnet::{IpNet, Ipv6Net};
use jiff::Timestamp;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};
use uuid::Uuid;

/// Bits of a prefix of which hosts choose addresses themselves (RFC 4291 §2.5.1).
const SLAAC_PREFIX_LEN: u8 = 64;

impl Control {
    /// Creates a vNIC and its socket, or finds that this very request was carried out before.
    pub fn create_nic(&mut self, request: proto::CreateNicRequest) -> Result<proto::Nic, Refusal> {
        let new = NewNic::try_from(request)?;
        let network_id = self.find_network(&new.network)?;
        if let Some(existing) = new.id.and_then(|id| self.nics.get(&id)) {
            return if is_same(&existing.model, network_id, &new) {
                Ok(self.nic_view(existing))
            } else {
                Err(Refusal::taken(
                    "id",
                    existing.model.id,
                    format!("vNIC {} with other content", existing.model.name),
                ))
            };
        }
        if let Some(owner) = self.nic_names.get(&new.name) {
            return Err(Refusal::taken("name", &new.name, format!("vNIC {owner}")));
        }
        Limits::check("vNICs", self.nics.len(), self.limits.nics, "max-nics")?;
        let nic = self.choose(network_id, new)?;
        self.check_route_count(&nic)?;
        let path = self.socket_path(nic.id);
        let longest = dataplane::longest_socket_path();
        if path.as_os_str().len() > longest {
            return Err(Refusal::Socket(std::io::Error::other(format!(
                "{} is longer than {longest} octets: choose a shorter --socket-dir",
                path.display()
            ))));
        }
        let id = nic.id;
        if let Err(error) = self.store.put_nic(&nic) {
            self.undo("vNIC", |store| store.delete_nic(id));
            return Err(error.into());
        }
        self.adopt_nic(nic);
        if let Err(error) = self.listen(id, None) {
            self.forget_nic(id);
            self.store.delete_nic(id)?;
            return Err(Refusal::Socket(error));
        }
        self.unpublished.insert(network_id);
        let nic = &self.nics[&id];
        tracing::info!(nic = %nic.model.name, %id, "vNIC created");
        self.tell_nic(id);
        self.tell_network(network_id);
        Ok(self.nic_view(&self.nics[&id]))
    }

    fn check_route_count(&self, nic: &Nic) -> Result<(), Refusal> {
        let (routes, limit) = (nic.routed_ipv4.len() + nic.routed_ipv6.len(), self.limits.routes);
        if routes > limit {
            return Err(Refusal::Exhausted(format!(
                "{routes} routed prefixes, and --max-routes allows {limit} a vNIC"
            )));
        }
        Ok(())
    }

    /// A vNIC with everything chosen that was not given, and nothing that is taken.
    fn choose(&self, network_id: Uuid, new: NewNic) -> Result<Nic, Refusal> {
        let network = &self.networks[&network_id];
        let id = new.id.unwrap_or_else(Uuid::new_v4);
        let ipv4 = self.choose_address(
            network,
            "ipv4_address",
            network.ipv4.as_ref(),
            new.ipv4.map(Into::into),
        )?;
        let (slaac, ipv6) = match new.ipv6_mode {
            Ipv6Mode::Slaac => {
                let (prefix, address) = choose_prefix(network, new.ipv6)?;
                (Some(prefix), Some(number(address.into())))
            }
            Ipv6Mode::Dhcpv6 => {
                let wanted = new.ipv6.map(Into::into);
                let pool = network.ipv6.as_ref();
                (None, self.choose_address(network, "ipv6_address", pool, wanted)?)
            }
        };
        let now = Timestamp::now();
        let nic = Nic {
            id,
            name: new.name,
            network_id,
            mac: choose_mac(network, new.mac)?,
            ipv4: ipv4.map(|number| Ipv4Addr::from_bits(number as u32)),
            ipv6: ipv6.map(Ipv6Addr::from_bits),
            routed_ipv4: new.routed_ipv4,
            routed_ipv6: new.routed_ipv6,
            addressing: new.addressing,
            mtu: new.mtu,
            slaac,
            from_guest: new.from_guest,
            to_guest: new.to_guest,
            queue_pairs: new.queue_pairs,
            features: dataplane::features(new.queue_pairs),
            created_at: now,
            updated_at: now,
        };
        check_routes(network, &nic)?;
        Ok(nic)
    }

    fn choose_address(
        &self,
        network: &NetworkState,
        field: &'static str,
        pool: Option<&Pool>,
        wanted: Option<IpAddr>,
    ) -> Result<Option<u128>, Refusal> {
        let name = &network.model.name;
        match (pool, wanted) {
            (None, None) => Ok(None),
            (None, Some(address)) => Err(lacks_family(field, address, network)),
            (Some(pool), None) => match pool.lowest_free() {
                Some(address) => Ok(Some(address)),
                None => Err(Refusal::Exhausted(format!(
                    "{field}: network {name} has no free address left"
                ))),
            },
            (Some(pool), Some(address)) => {
                let subnet = match address {
                    IpAddr::V4(_) => network.model.ipv4_subnet.map(IpNet::from),
                    IpAddr::V6(_) => network.model.ipv6_prefix.map(IpNet::from),
                };
                let number = number(address);
                convert::check_usable(
                    field,
                    address,
                    pool.is_usable(number),
                    subnet.unwrap_or_default(),
                )?;
                if pool.is_taken(number) {
                    return Err(Refusal::taken(
                        field,
                        address,
                        format!("another vNIC of network {name}"),
                    ));
                }
                if let Some((_, owner)) = pool.routed_over(number) {
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

    /// Takes a stored vNIC into the state.
    pub(super) fn adopt_nic(&mut self, model: Nic) {
        let network = self
            .networks
            .get_mut(&model.network_id)
            .expect("the store and the API check the network");
        network.macs.insert(model.mac);
        network.set_addresses(&model, Pool::take);
        network.set_routes(&model, Pool::route);
        let place = self.dataplane.place(network.key);
        network.members.insert(place.port.slot, compile::member(&network.model, &model, place));
        self.nic_names.insert(model.name.clone(), model.id);
        self.by_port.insert(place.port, model.id);
        let state = NicState {
            model,
            place,
            state: proto::NicState::Created,
            guest: proto::GuestSeen::default(),
            log: LogLimit::default(),
            listening: None,
        };
        self.nics.insert(state.model.id, state);
    }

    /// Makes the socket of a vNIC, or goes on with what another process of the daemon `gave`.
    pub(super) fn listen(&mut self, id: Uuid, gave: Option<Given>) -> std::io::Result<()> {
        let path = self.socket_path(id);
        let nic = self.nics.get_mut(&id).expect("only vNICs of the state listen");
        let network = &self.networks[&nic.model.network_id];
        let socket = Socket {
            place: nic.place,
            network: network.key,
            name: nic.model.name.to_string(),
            path,
            access: Default::default(),
            device: Device {
                features: nic.model.features,
                queue_pairs: nic.model.queue_pairs,
                mac: nic.model.mac,
                mtu: nic.model.mtu_in(&network.model),
            },
        };
        let listening = self.dataplane.attach(socket, gave)?;
        nic.listening = Some(listening);
        Ok(())
    }

    /// Takes a vNIC out of the state; its socket is still to be closed, its network to be published.
    pub(super) fn forget_nic(&mut self, id: Uuid) -> Option<Listening> {
        let nic = self.nics.remove(&id)?;
        self.nic_names.remove(&nic.model.name);
        self.by_port.remove(&nic.place.port);
        if let Some(network) = self.networks.get_mut(&nic.model.network_id) {
            network.members.remove(&nic.place.port.slot);
            network.macs.remove(&nic.model.mac);
            network.set_addresses(&nic.model, Pool::give_back);
            network.set_routes(&nic.model, |pool, prefix, _| pool.unroute(prefix));
            self.dataplane.release(network.key, nic.place);
        }
        nic.listening
    }

    /// The id of a vNIC named by id or name.
    fn find_nic(&self, key: &str) -> Result<Uuid, Refusal> {
        let id = Uuid::try_parse(key).ok().or_else(|| self.nic_names.get(key).copied());
        id.filter(|id| self.nics.contains_key(id))
            .ok_or_else(|| Refusal::NotFound { what: "vNIC", key: key.into() })
    }

    /// One vNIC.
    pub fn get_nic(&self, key: &str) -> Result<proto::Nic, Refusal> {
        self.find_nic(key).map(|id| self.nic_view(&self.nics[&id]))
    }

    /// All vNICs, or those of one network, by name.
    pub fn list_nics(&self, network: &str) -> Result<Vec<proto::Nic>, Refusal> {
        let only = if network.is_empty() { None } else { Some(self.find_network(network)?) };
        let wanted = |nic: &&NicState| only.is_none_or(|id| nic.model.network_id == id);
        let mut nics: Vec<_> =
            self.nics.values().filter(wanted).map(|nic| self.nic_view(nic)).collect();
        nics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(nics)
    }

    /// Replaces a vNIC's routed prefixes.
    pub fn update_nic(&mut self, request: &proto::UpdateNicRequest) -> Result<proto::Nic, Refusal> {
        let id = self.find_nic(&request.id)?;
        let old = self.nics[&id].model.clone();
        let new = Nic {
            routed_ipv4: convert::routed_ipv4(&request.routed_ipv4_prefixes)?,
            routed_ipv6: convert::routed_ipv6(&request.routed_ipv6_prefixes)?,
            updated_at: Timestamp::now(),
            ..old.clone()
        };
        self.check_route_count(&new)?;
        check_routes(&self.networks[&old.network_id], &new)?;
        self.replace_nic(old, new)
    }

    /// Replaces how much a vNIC may carry.
    pub fn set_nic_limits(
        &mut self,
        request: &proto::SetNicLimitsRequest,
    ) -> Result<proto::Nic, Refusal> {
        let id = self.find_nic(&request.id)?;
        let old = self.nics[&id].model.clone();
        let new = Nic {
            from_guest: convert::rate_limit("from_guest", request.from_guest)?,
            to_guest: convert::rate_limit("to_guest", request.to_guest)?,
            updated_at: Timestamp::now(),
            ..old.clone()
        };
        self.replace_nic(old, new)
    }

    /// Stores a changed vNIC and puts it in the place of what it was.
    fn replace_nic(&mut self, old: Nic, new: Nic) -> Result<proto::Nic, Refusal> {
        let (id, network_id) = (old.id, old.network_id);
        if let Err(error) = self.store.put_nic(&new) {
            self.undo("vNIC", |store| store.put_nic(&old));
            return Err(error.into());
        }
        if let Some(network) = self.networks.get_mut(&network_id) {
            network.set_routes(&old, |pool, prefix, _| pool.unroute(prefix));
            network.set_routes(&new, Pool::route);
            let place = self.nics[&id].place;
            network.members.insert(place.port.slot, compile::member(&network.model, &new, place));
        }
        if let Some(nic) = self.nics.get_mut(&id) {
            nic.model = new;
        }
        self.unpublished.insert(network_id);
        self.tell_nic(id);
        Ok(self.nic_view(&self.nics[&id]))
    }

    /// Deletes a vNIC. Its socket is to be closed before the answer.
    pub fn delete_nic(&mut self, key: &str) -> Result<Option<Listening>, Refusal> {
        let id = self.find_nic(key)?;
        let nic = self.nics[&id].model.clone();
        let network_id = nic.network_id;
        if let Err(error) = self.store.delete_nic(id) {
            self.undo("vNIC", |store| store.put_nic(&nic));
            return Err(error.into());
        }
        let listening = self.forget_nic(id);
        self.unpublished.insert(network_id);
        tracing::info!(%id, "vNIC deleted");
        self.tell_nic(id);
        self.tell_network(network_id);
        Ok(listening)
    }

    /// What a vNIC has carried.
    pub fn nic_stats(&self, key: &str) -> Result<proto::NicStats, Refusal> {
        let id = self.find_nic(key)?;
        let mut stats = proto::NicStats { nic_id: id.to_string(), ..Default::default() };
        if let Some(counters) = self.nics[&id].listening.as_ref().map(Listening::counters) {
            stats.ingress_frames = counters.ingress_frames.get();
            stats.ingress_octets = counters.ingress_octets.get();
            stats.ingress_forwarded = counters.ingress_forwarded.get();
            stats.ingress_answered = counters.ingress_answered.get();
            stats.egress_frames = counters.egress_frames.get();
            stats.egress_octets = counters.egress_octets.get();
            let drops = counters.drops();
            stats.drops = drops
                .map(|(reason, frames)| proto::DropCount { reason: reason.name().into(), frames })
                .collect();
        }
        Ok(stats)
    }
}

impl NetworkState {
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
        ipv6.or_else(|| nic.ipv6.map(|address| single(address.into()))),
    ]
}

/// A prefix may be routed to one vNIC only, and hold no address of another: its owner may send from it.
fn check_routes(network: &NetworkState, nic: &Nic) -> Result<(), Refusal> {
    let ipv4 = nic.routed_ipv4.iter().map(|prefix| IpNet::from(*prefix));
    let prefixes = ipv4.chain(nic.routed_ipv6.iter().map(|prefix| IpNet::from(*prefix)));
    let [own_ipv4, own_ipv6] = own(nic);
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
        if let Some(owner) = pool.route_owner(prefix).filter(|owner| *owner != nic.id) {
            return Err(Refusal::taken(field, prefix, format!("vNIC {owner}")));
        }
        if subnet.is_some_and(|subnet| prefix.contains(&subnet)) {
            return Err(Refusal::invalid(field, prefix, "it contains the network's whole subnet"));
        }
        if pool.is_taken_by_others(range(prefix), own.as_ref()) {
            return Err(Refusal::taken(
                field,
                prefix,
                "the address of another vNIC, which is inside",
            ));
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

/// The /64 of which a guest is to choose its addresses, around `wanted` if that is given, and the address that DHCPv6
/// tells it: `wanted`, or the first.
fn choose_prefix(
    network: &NetworkState,
    wanted: Option<Ipv6Addr>,
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
                "each vNIC needs a /64 of the network's prefix, and {prefix} of network {name} is none or one; give the network a shorter prefix, like a /56"
            ),
        ));
    }
    let (first, address) = match wanted {
        None => {
            let first = pool.lowest_free_block(SLAAC_PREFIX_LEN).ok_or_else(|| {
                Refusal::Exhausted(format!("ipv6_mode: network {name} has no free /64 left"))
            })?;
            (first, Ipv6Addr::from_bits(first + 1))
        }
        Some(wanted) => {
            let usable = pool.is_usable(number(wanted.into()));
            convert::check_usable("ipv6_address", wanted.into(), usable, prefix)?;
            (number(wanted.into()) >> 64 << 64, wanted)
        }
    };
    let block = Ipv6Net::new_assert(Ipv6Addr::from_bits(first), SLAAC_PREFIX_LEN);
    if !pool.is_usable(first) || pool.is_taken_by_others(range(block.into()), None) {
        return Err(Refusal::taken(
            "ipv6_address",
            address,
            format!("others of network {name}, with addresses in {block}"),
        ));
    }
    if let Some((_, owner)) = pool.routed_last(&range(block.into())) {
        return Err(Refusal::taken(
            "ipv6_address",
            address,
            format!("a prefix routed to vNIC {owner}, which meets {block}"),
        ));
    }
    Ok((block, address))
}

fn choose_mac(network: &NetworkState, wanted: Option<MacAddr>) -> Result<MacAddr, Refusal> {
    match wanted {
        Some(mac) if network.macs.contains(&mac) => Err(Refusal::taken(
            "mac_address",
            mac,
            format!("another vNIC of network {}", network.model.name),
        )),
        Some(mac) => Ok(mac),
        None => {
            // 2^24 of them: a /8 has no more addresses, so one is always free.
            let random = || {
                let id = Uuid::new_v4();
                let [a, b, c, ..] = *id.as_bytes();
                MacAddr([0x52, 0x54, 0x00, a, b, c])
            };
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

fn is_same(existing: &Nic, network_id: Uuid, new: &NewNic) -> bool {
    existing.network_id == network_id
        && existing.name == new.name
        && new.mac.is_none_or(|mac| mac == existing.mac)
        && (new.ipv4.is_none() || new.ipv4 == existing.ipv4)
        && (new.ipv6.is_none() || new.ipv6 == existing.ipv6)
        && existing.routed_ipv4 == new.routed_ipv4
        && existing.routed_ipv6 == new.routed_ipv6
        && existing.addressing == new.addressing
        && existing.mtu == new.mtu
        && (existing.from_guest, existing.to_guest) == (new.from_guest, new.to_guest)
        && existing.slaac.is_some() == (new.ipv6_mode == Ipv6Mode::Slaac)
        && existing.queue_pairs == new.queue_pairs
}
