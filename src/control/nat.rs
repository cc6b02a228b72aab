//! What of the world is a vNIC's, whether or not it is in force: forwards and floating IPs.

use super::{Control, egress::WayOut, refusal::Refusal};
use crate::{
    dataplane::forward::{outside::is_routable, tables::Tag},
    egress::protocol,
    host_network::{self, Forwarded, Holder},
    model::{
        BalancedPort, FloatingIp, Forward, LoadBalancer, Name, Network, Nic, Protocol, Target,
    },
    store::{Change, Dependants},
};
use ipnet::IpNet;
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};
use uuid::Uuid;

/// Spans of a forward, each an element of a map of the kernel's; or ports, each a socket.
pub(super) const MAX_SPANS: usize = 256;
/// Spans of all forwards, or ports.
// The kernel takes so many at once in a tenth of a second.
pub(super) const MAX_ALL_SPANS: usize = 8192;

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Nat {
    forwards: HashMap<Uuid, Forward>,
    forward_names: BTreeMap<Name, Uuid>,
    floating_ips: HashMap<Uuid, FloatingIp>,
    /// By their texts, as they are listed.
    addresses: BTreeMap<String, Uuid>,
}

impl Nat {
    pub(super) fn forward(&self, id: Uuid) -> Option<&Forward> {
        self.forwards.get(&id)
    }

    pub(super) fn forwards(&self) -> impl ExactSizeIterator<Item = &Forward> {
        self.forwards.values()
    }

    pub(super) fn forward_names(&self) -> &BTreeMap<Name, Uuid> {
        &self.forward_names
    }

    pub(super) fn put_forward(&mut self, old: Option<&Forward>, new: Forward) {
        if let Some(old) = old {
            self.forward_names.remove(&old.name);
        }
        self.forward_names.insert(new.name.clone(), new.id);
        self.forwards.insert(new.id, new);
    }

    pub(super) fn remove_forward(&mut self, id: Uuid) -> Option<Forward> {
        let forward = self.forwards.remove(&id)?;
        self.forward_names.remove(&forward.name);
        Some(forward)
    }

    pub(super) fn floating_ip(&self, id: Uuid) -> Option<&FloatingIp> {
        self.floating_ips.get(&id)
    }

    pub(super) fn floating_ips(&self) -> impl ExactSizeIterator<Item = &FloatingIp> {
        self.floating_ips.values()
    }

    pub(super) fn addresses(&self) -> &BTreeMap<String, Uuid> {
        &self.addresses
    }

    /// Its address stays what it is.
    pub(super) fn put_floating_ip(&mut self, new: FloatingIp) {
        self.addresses.insert(new.address.to_string(), new.id);
        self.floating_ips.insert(new.id, new);
    }

    pub(super) fn remove_floating_ip(&mut self, id: Uuid) -> Option<FloatingIp> {
        let floating_ip = self.floating_ips.remove(&id)?;
        self.addresses.remove(&floating_ip.address.to_string());
        Some(floating_ip)
    }

    /// Returns the vNICs that have floating IPs of IPv4, and which each sends from.
    pub(super) fn public_ipv4(&self) -> HashMap<Uuid, Ipv4Addr> {
        let mut public = HashMap::new();
        for FloatingIp { address, nic_id, .. } in self.by_age(None) {
            if let IpAddr::V4(address) = address {
                public.entry(*nic_id).or_insert(*address);
            }
        }
        public
    }

    /// Returns floating IPs, the eldest first, one of which is `new`.
    fn by_age<'a>(&'a self, new: Option<&'a FloatingIp>) -> Vec<&'a FloatingIp> {
        let others = self.floating_ips().filter(|it| new.is_none_or(|new| new.id != it.id));
        let mut all: Vec<_> = others.chain(new).collect();
        all.sort_by_key(|it| (it.created_at, it.id));
        all
    }

    /// Returns what goes with a vNIC.
    pub(super) fn of_nic(&self, nic: Uuid) -> Dependants {
        self.dependants(|forward| forward.nic_id == nic, |floating| floating.nic_id == nic)
    }

    /// Returns what goes with a network.
    pub(super) fn of_network(&self, network: Uuid) -> Dependants {
        self.dependants(
            |forward| forward.network_id == network,
            |floating| floating.network_id == network,
        )
    }

    fn dependants(
        &self,
        is_forward: impl Fn(&Forward) -> bool,
        is_floating: impl Fn(&FloatingIp) -> bool,
    ) -> Dependants {
        let forwards = self.forwards().filter(|forward| is_forward(forward));
        let floating_ips = self.floating_ips().filter(|floating| is_floating(floating));
        Dependants {
            forwards: forwards.map(|forward| forward.id).collect(),
            floating_ips: floating_ips.map(|floating| floating.id).collect(),
            load_balancers: Vec::new(),
        }
    }

    /// Returns who has an address of a prefix, in words: nobody's are those of the host.
    pub(super) fn owner_within(&self, prefix: IpNet) -> Option<String> {
        let floating = self.floating_ips().find(|floating| prefix.contains(&floating.address));
        let floating = floating.map(|floating| format!("floating IP {}", floating.address));
        floating.or_else(|| {
            let forward = self.forwards().find(|forward| prefix.contains(&forward.listen))?;
            Some(format!("forward {}, which listens at {}", forward.name, forward.listen))
        })
    }

    /// Returns a forward that listens where a balancer does, and the service it would take.
    pub(super) fn forward_at(&self, balancer: &LoadBalancer) -> Option<(&Forward, BalancedPort)> {
        self.forwards().find_map(|forward| Some((forward, forward.overlap_of(balancer)?)))
    }

    /// Returns the forwards whose ports may be sockets: the eldest, as many as there may be.
    fn with_sockets(&self) -> Vec<&Forward> {
        let mut all: Vec<_> = self.forwards().filter(|it| sockets_needed(it).is_some()).collect();
        all.sort_by_key(|it| age(it));
        let mut there = 0;
        all.retain(|it| {
            there += sockets_needed(it).unwrap_or(0);
            there <= MAX_ALL_SPANS
        });
        all
    }

    /// Says why the ports of a forward may not be sockets, if they may not.
    fn why_no_sockets(&self, forward: &Forward) -> Option<String> {
        let Some(needed) = sockets_needed(forward) else {
            let count = forward.listen_ports.count();
            return Some(format!(
                "each of its {count} ports would be a socket, of which a forward has at most \
                 {MAX_SPANS}: start with --egress tun"
            ));
        };
        let elder = self.forwards().filter(|it| age(it) < age(forward));
        let there: usize = elder.filter_map(sockets_needed).sum();
        (there + needed > MAX_ALL_SPANS).then(|| {
            format!(
                "each port of a forward is a socket, of which there are at most {MAX_ALL_SPANS}: \
                 with those of older forwards it would be {}",
                there + needed
            )
        })
    }
}

/// Returns what tells which forward is older.
fn age(forward: &Forward) -> (Timestamp, Uuid) {
    (forward.created_at, forward.id)
}

/// Returns how many sockets the ports of a forward would be; none where they are too many. One that
/// was made while the kernel led its ports may have all that there are.
fn sockets_needed(forward: &Forward) -> Option<usize> {
    Some(forward.listen_ports.count()).filter(|count| *count <= MAX_SPANS)
}

/// Refuses a vNIC that has no address of the family of another.
pub(super) fn check_family(
    (field, key): (&'static str, &str),
    nic: &Nic,
    of: IpAddr,
) -> Result<(), Refusal> {
    if address_of(nic, of).is_some() {
        return Ok(());
    }
    let expected = format!("it has no {} address, which {of} is", family_name(of));
    Err(Refusal::invalid(field, key, expected))
}

/// Returns the family of an address, in words.
pub(super) fn family_name(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Returns which of these prefixes has an address.
fn prefix_of(prefixes: &BTreeSet<IpNet>, address: IpAddr) -> Option<IpNet> {
    let mut lens = 0..=IpNet::from(address).prefix_len();
    lens.find_map(|len| prefixes.get(&IpNet::new(address, len).ok()?.trunc()).copied())
}

/// Returns a vNIC's address of the family of another.
pub(super) fn address_of(nic: &Nic, family: IpAddr) -> Option<IpAddr> {
    match family {
        IpAddr::V4(_) => nic.ipv4.map(IpAddr::V4),
        IpAddr::V6(_) => nic.ipv6.map(IpAddr::V6),
    }
}

impl Control {
    /// Takes what has gone with a vNIC or network out of the state.
    pub(super) fn forget_dependants(&mut self, with: &Dependants) {
        with.forwards.iter().for_each(|id| self.forget_forward(*id));
        with.floating_ips.iter().for_each(|id| self.forget_floating_ip(*id));
        with.load_balancers.iter().for_each(|id| self.forget_balancer(*id));
    }

    /// Returns the vNIC of that id or name that is to have `address`, or what comes there. Refuses
    /// one that has no address of its family.
    pub(super) fn find_target(&self, key: &str, address: IpAddr) -> Result<&Nic, Refusal> {
        if key.is_empty() {
            return Err(Refusal::invalid("nic_id", key, "required: a vNIC's id or name"));
        }
        let nic = &self.nics[&self.find_nic(key)?].model;
        check_family(("nic_id", key), nic, address)?;
        Ok(nic)
    }

    /// Returns the network of what is stored, though its file may have been damaged since.
    pub(super) fn stored_network(&self, id: Uuid) -> Result<&Network, Refusal> {
        let network = self.networks.get(&id).map(|network| &network.model);
        network.ok_or_else(|| Refusal::Unready("its network is not there".into()))
    }

    /// Refuses a vNIC that the world does not reach.
    // Not of a request that is repeated: that it was carried out, it was told already.
    pub(super) fn check_reached(&self, nic: Uuid) -> Result<(), Refusal> {
        match self.why_unreached(&self.nics[&nic].model) {
            None => Ok(()),
            Some(why) => Err(Refusal::Unready(why)),
        }
    }

    /// Says why the world does not reach a vNIC, if it does not.
    fn why_unreached(&self, nic: &Nic) -> Option<String> {
        let network = &self.networks[&nic.network_id].model;
        if !network.is_public {
            let name = &network.name;
            return Some(format!(
                "network {name} is not public: mvirt network update {name} --public"
            ));
        }
        self.why_not_led_out(network)
    }

    /// Returns the address of a vNIC that the world reaches, of the family of another.
    fn reached(&self, nic: Uuid, family: IpAddr) -> Option<IpAddr> {
        let nic = &self.nics.get(&nic)?.model;
        let is_led_out = self.is_led_out(&self.networks[&nic.network_id].model);
        is_led_out.then(|| address_of(nic, family)).flatten()
    }

    /// Returns what of the world is a vNIC's, with `change` as if it were in force, beside networks
    /// that have these prefixes.
    pub(super) fn wanted_nat(
        &self,
        change: Option<&Change>,
        prefixes: &BTreeSet<IpNet>,
    ) -> host_network::Nat {
        let mut nat = host_network::Nat::default();
        let (forward, floating_ip) = match change {
            Some(Change::PutForward(put)) => (Some(&put.new), None),
            Some(Change::PutFloatingIp(put)) => (None, Some(&put.new)),
            _ => (None, None),
        };
        // Of several of a vNIC, it sends from the eldest.
        for FloatingIp { address, nic_id, .. } in self.nat.by_age(floating_ip) {
            if self.why_not_of_the_world(*address, prefixes).is_some() {
                continue;
            }
            if let Some(guest) = self.reached(*nic_id, *address) {
                nat.floating.insert(*address, guest);
                nat.sources.entry(guest).or_insert(*address);
            }
        }
        let others = self.nat.forwards();
        let others = others.filter(|it| forward.is_none_or(|new| new.id != it.id));
        for forward in others.chain(forward) {
            if self.why_not_of_the_world(forward.listen, prefixes).is_some() {
                continue;
            }
            let Some(to) = self.reached(forward.nic_id, forward.listen) else { continue };
            let (listen, protocol) = (forward.listen, forward.protocol);
            nat.forwards.extend(forward.spans().into_iter().map(|span| {
                let ports = span.listen.into_inner();
                Forwarded { listen, protocol, ports, to, target: span.target }
            }));
        }
        nat
    }

    /// Returns the sockets of forwards, for a way out that listens for vNICs.
    pub(super) fn sockets(&self) -> Vec<protocol::Forward> {
        match self.egress_way() {
            WayOut::User(_) => {
                let forwards = self.nat.with_sockets().into_iter();
                forwards.flat_map(|it| self.sockets_of(it)).collect()
            }
            WayOut::Off(_) | WayOut::Tun(_) => Vec::new(),
        }
    }

    /// Returns the sockets of a forward that may have them, if it is to be in force.
    fn sockets_of(&self, forward: &Forward) -> Vec<protocol::Forward> {
        let nic = self.nics.get(&forward.nic_id);
        let is_reached = self.reached(forward.nic_id, forward.listen).is_some();
        let tag = nic.filter(|_| is_reached).and_then(|nic| Tag::of(nic.place.port));
        let Some(Tag(tag)) = tag else { return Vec::new() };
        let protocol = match forward.protocol {
            Protocol::Tcp => protocol::Protocol::Tcp,
            Protocol::Udp => protocol::Protocol::Udp,
        };
        let socket = |(listen, target)| {
            let port = match target {
                Target::Same => listen,
                Target::Port(port) => port,
            };
            let listen = SocketAddr::new(forward.listen, listen);
            protocol::Forward { listen, protocol, tag, port, host: None }
        };
        let spans = forward.spans().into_iter();
        let each = spans.flat_map(|span| span.listen.map(move |listen| (listen, span.target)));
        each.map(socket).collect()
    }

    /// Says why a forward is not in force; nothing where it is.
    pub(super) fn forward_error(&self, forward: &Forward) -> String {
        match self.egress_way() {
            WayOut::User(_) => {
                let why = self.nat_error(forward.nic_id);
                if !why.is_empty() {
                    return why;
                }
                let none = self.nat.why_no_sockets(forward);
                none.or_else(|| self.why_silent(&self.sockets_of(forward))).unwrap_or_default()
            }
            WayOut::Off(_) | WayOut::Tun(_) => self.routed_error(forward.nic_id, forward.listen),
        }
    }

    /// Says why what leads to a vNIC is not in force; nothing where it is.
    fn nat_error(&self, nic: Uuid) -> String {
        match self.nics.get(&nic) {
            None => "its vNIC is not served, or not there".into(),
            Some(nic) => self.why_unreached(&nic.model).unwrap_or_default(),
        }
    }

    /// As [`Control::nat_error`], where it is the host's routing that leads there by an address.
    pub(super) fn routed_error(&self, nic: Uuid, address: IpAddr) -> String {
        let error = self.nat_error(nic);
        if !error.is_empty() {
            return error;
        }
        let why = self.why_not_of_the_world(address, self.routed_prefixes());
        why.or_else(|| self.why_not_announced(address).cloned()).unwrap_or_default()
    }

    /// Says why the host's routing leads what comes to an address nowhere, beside networks that
    /// have these prefixes. A request would be refused; this was made by another way out.
    pub(super) fn why_not_of_the_world(
        &self,
        address: IpAddr,
        prefixes: &BTreeSet<IpNet>,
    ) -> Option<String> {
        if !matches!(self.egress_way(), WayOut::Tun(_)) || address.is_unspecified() {
            return None;
        }
        let host = IpNet::from(address);
        if !is_routable(host) {
            return Some(format!("no packet is routed to {address}: make it anew at another"));
        }
        let prefix = prefix_of(prefixes, address)?;
        let of = match self.public_owner(host) {
            Some(network) => format!("network {network}"),
            None => prefix.to_string(),
        };
        Some(format!("{address} is in {of}, whose guests have such addresses"))
    }

    /// Refuses an address that somebody has but the host: it is to be taken from nobody.
    pub(super) fn check_holder(&self, field: &'static str, address: IpAddr) -> Result<(), Refusal> {
        match self.holder(address)? {
            None | Some(Holder::Host) => Ok(()),
            Some(holder) => Err(Refusal::taken(field, address, holder)),
        }
    }

    /// Refuses an address of the world that packets are not routed to, or that guests have.
    pub(super) fn check_of_the_world(
        &self,
        field: &'static str,
        address: IpAddr,
    ) -> Result<(), Refusal> {
        let host = IpNet::from(address);
        if !is_routable(host) {
            let expected = "no packet is routed to that address";
            return Err(Refusal::invalid(field, address, expected));
        }
        match self.public_owner(host) {
            Some(network) => {
                let owner = format!("network {network}, whose guests have such addresses");
                Err(Refusal::taken(field, address, owner))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(number: u128, ports: &str) -> Forward {
        let made = Timestamp::from_second(i64::try_from(number).unwrap()).unwrap().to_string();
        serde_json::from_value(serde_json::json!({
            "id": Uuid::from_u128(1000 - number), "name": format!("f{number}"),
            "network_id": Uuid::nil(), "listen": "0.0.0.0", "protocol": "tcp",
            "listen_ports": ports, "nic_id": Uuid::nil(), "asked": Uuid::nil(),
            "created_at": made, "updated_at": made,
        }))
        .unwrap()
    }

    #[test]
    fn of_many_forwards_the_eldest_have_sockets() {
        let mut nat = Nat::default();
        // Those of one are too many, and they count for nothing.
        let large = forward(0, "1-65535");
        nat.put_forward(None, large.clone());
        let full = (1..=32).map(|number| forward(number, "1001-1256"));
        full.for_each(|forward| nat.put_forward(None, forward));
        let named = |nat: &Nat| nat.with_sockets().iter().map(|it| it.name.to_string()).collect();
        let names: Vec<String> = named(&nat);
        assert_eq!((names.len(), &*names[0], &*names[31]), (32, "f1", "f32"));
        let beyond = forward(33, "80");
        nat.put_forward(None, beyond.clone());
        assert_eq!(named(&nat), names);
        let why = |nat: &Nat, it: &Forward| nat.why_no_sockets(it).unwrap_or_default();
        assert!(why(&nat, &large).contains("65535 ports"), "{}", why(&nat, &large));
        assert!(why(&nat, &beyond).contains("it would be 8193"), "{}", why(&nat, &beyond));
        assert_eq!(why(&nat, &forward(32, "1001-1256")), "");
        // Once an older one is gone, there is room.
        nat.remove_forward(forward(1, "80").id);
        assert_eq!(why(&nat, &beyond), "");
        assert_eq!(nat.with_sockets().last().map(|it| it.name.as_str()), Some("f33"));
    }
}
