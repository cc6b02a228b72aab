//! Forwards: created, found, changed and deleted.

use super::{
    Control,
    change::Decided,
    choices::PROTOCOLS,
    egress::WayOut,
    fields::{self, address, optional, parse, uuid},
    mask::Mask,
    nat::{MAX_ALL_SPANS, MAX_SPANS, address_of},
    pages::Page,
    refusal::Refusal,
    requests::fingerprint,
    view,
};
use crate::{
    host_network::served,
    model::{Forward, Name, Ports, Protocol},
    proto,
    store::{Change, Put},
};
use jiff::Timestamp;
use rustix::thread::{CapabilitySet, capabilities};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use uuid::Uuid;

/// Forwards that there may be.
// As many as ports.
const MAX_FORWARDS: usize = 4096;

impl Control {
    /// Creates a forward, or finds that this very request was carried out before.
    pub fn create_forward(
        &self,
        request: &proto::CreateForwardRequest,
    ) -> Result<Decided<proto::Forward>, Refusal> {
        let new = self.new_forward(request)?;
        if let Some(existing) = self.nat.forward(new.id) {
            return if existing.asked == new.asked {
                Ok(Decided::unchanged(self.forward_view(existing)))
            } else {
                let owner = format!("forward {}, made by another request", existing.name);
                Err(Refusal::taken("id", existing.id, owner))
            };
        }
        self.check_reached(new.nic_id)?;
        self.check_forward_name(&new.name)?;
        let there = self.nat.forwards().len();
        if there >= MAX_FORWARDS {
            return Err(Refusal::Exhausted(format!(
                "there are {there} forwards, which is the most"
            )));
        }
        self.check_listen(&new)?;
        self.check_spans(&new)?;
        if request.validate_only {
            return Ok(Decided::unchanged(self.forward_view(&new)));
        }
        Ok(Self::decide_forward(None, new))
    }

    fn decide_forward(old: Option<Forward>, new: Forward) -> Decided<proto::Forward> {
        let answer = new.clone();
        let change = Change::PutForward(Put { old, new }.into());
        Decided::new(change, move |control| control.forward_view(&answer))
    }

    /// Returns what a request asks for.
    fn new_forward(&self, request: &proto::CreateForwardRequest) -> Result<Forward, Refusal> {
        let protocol = protocol(request.protocol)?;
        let listen_ports = listen_ports(&request.listen_ports)?;
        let target_ports = target_ports(&request.target_ports, &listen_ports)?;
        let listen = match optional("listen_address", &request.listen_address, address)? {
            Some(listen) => listen,
            None => self.all_addresses(&request.nic_id)?,
        };
        let nic = self.find_target(&request.nic_id, listen)?;
        if !request.network_id.is_empty() {
            self.check_in_network(nic.id, self.find_network(&request.network_id)?)?;
        }
        // As of vNICs: from parsed values, without the id, by which it is found.
        let asked = fingerprint(&proto::CreateForwardRequest {
            id: String::new(),
            network_id: nic.network_id.to_string(),
            listen_address: listen.to_string(),
            listen_ports: listen_ports.to_string(),
            target_ports: target_ports.to_string(),
            nic_id: nic.id.to_string(),
            validate_only: false,
            ..request.clone()
        });
        let name = optional("name", &request.name, parse)?;
        let now = Timestamp::now();
        Ok(Forward {
            id: optional("id", &request.id, uuid)?.unwrap_or_else(Uuid::new_v4),
            name: name.unwrap_or_else(|| self.choose_forward_name()),
            network_id: nic.network_id,
            listen,
            protocol,
            listen_ports,
            nic_id: nic.id,
            target_ports,
            labels: fields::labels(&request.labels)?,
            description: fields::description(&request.description)?,
            asked,
            created_at: now,
            updated_at: now,
        })
    }

    /// Returns all addresses of the host, of the family that a vNIC has.
    fn all_addresses(&self, nic: &str) -> Result<IpAddr, Refusal> {
        let (ipv4, ipv6) = (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into());
        let found = self.find_nic(nic).ok().map(|id| &self.nics[&id].model);
        let has_ipv4 = found.is_none_or(|nic| address_of(nic, ipv4).is_some());
        Ok(if has_ipv4 { ipv4 } else { ipv6 })
    }

    /// Refuses a vNIC of another network.
    fn check_in_network(&self, nic: Uuid, network: Uuid) -> Result<(), Refusal> {
        let nic = &self.nics[&nic].model;
        if nic.network_id == network {
            return Ok(());
        }
        let expected = format!("expected a vNIC of network {}", self.stored_network(network)?.name);
        Err(Refusal::invalid("nic_id", &nic.name, expected))
    }

    fn check_forward_name(&self, name: &Name) -> Result<(), Refusal> {
        match self.nat.forward_names().get(name) {
            Some(owner) => Err(Refusal::taken("name", name, format!("forward {owner}"))),
            None => Ok(()),
        }
    }

    /// Returns a free name for a forward that was given none.
    fn choose_forward_name(&self) -> Name {
        loop {
            let [a, b, c, d, ..] = *Uuid::new_v4().as_bytes();
            let name = format!("forward-{:08x}", u32::from_be_bytes([a, b, c, d]));
            let name = name.parse().expect("letters, digits and a hyphen");
            if self.check_forward_name(&name).is_ok() {
                return name;
            }
        }
    }

    /// Refuses where a forward cannot listen, or somebody else does.
    fn check_listen(&self, new: &Forward) -> Result<(), Refusal> {
        match self.egress_way() {
            WayOut::User(_) => check_sockets(new)?,
            _ if new.listen.is_unspecified() => {}
            _ => {
                self.check_of_the_world("listen_address", new.listen)?;
                self.check_holder("listen_address", new.listen)?;
            }
        }
        if let Some(id) = self.nat.addresses().get(&new.listen.to_string()) {
            let owner = format!("floating IP {id}, which has all ports");
            return Err(Refusal::taken("listen_address", new.listen, owner));
        }
        self.check_free(new)
    }

    /// Refuses ports that another forward listens to.
    fn check_free(&self, new: &Forward) -> Result<(), Refusal> {
        if let Some(balancer) = self.balancers.at(new) {
            let owner = format!("load balancer {}, which serves one of them", balancer.name);
            return Err(Refusal::taken("listen_ports", &new.listen_ports, owner));
        }
        let mut others = self.nat.forwards().filter(|other| other.id != new.id);
        match others.find_map(|other| Some((other, new.overlap(other)?))) {
            None => Ok(()),
            Some((other, port)) => {
                let (name, listen, protocol) = (&other.name, other.listen, other.protocol.name());
                let owner = format!("forward {name}, which has {protocol} port {port} of {listen}");
                Err(Refusal::taken("listen_ports", &new.listen_ports, owner))
            }
        }
    }

    /// Refuses more than the kernel is to know.
    fn check_spans(&self, new: &Forward) -> Result<(), Refusal> {
        // Counted before they are made: a range may have each port there is.
        let one_by_one = new.target_ports.count() > 1 && new.target_ports != new.listen_ports;
        let ranges = new.listen_ports.ranges().len();
        let count = if one_by_one { new.listen_ports.count() } else { ranges };
        if count > MAX_SPANS {
            let expected = format!(
                "expected at most {MAX_SPANS} ranges, or {MAX_SPANS} ports where each has a target \
                 of its own"
            );
            return Err(Refusal::invalid("listen_ports", &new.listen_ports, expected));
        }
        let others = self.nat.forwards().filter(|other| other.id != new.id);
        if others.map(|other| other.spans().len()).sum::<usize>() + count > MAX_ALL_SPANS {
            let text = format!("all forwards have {MAX_ALL_SPANS} ranges, which is the most");
            return Err(Refusal::Exhausted(text));
        }
        Ok(())
    }

    /// Puts a forward that is created or changed in force.
    pub(super) fn apply_forward(&mut self, Put { old, new }: Put<Forward>) {
        let (id, name) = (new.id, new.name.clone());
        let is_elsewhere = old.as_ref().is_none_or(|old| listens(old) != listens(&new));
        if is_elsewhere && matches!(self.egress_way(), WayOut::Tun(_)) {
            let new = new.clone();
            // The kernel makes a list of all sockets for it, which nothing here is to wait for.
            tokio::task::spawn_blocking(move || warn_of_served(&new));
        }
        self.nat.put_forward(old.as_ref(), new);
        let what = if old.is_none() { "forward created" } else { "forward updated" };
        tracing::info!(forward = name.as_str(), %id, "{what}");
    }

    /// Takes a forward out of the state.
    pub(super) fn forget_forward(&mut self, id: Uuid) {
        if let Some(forward) = self.nat.remove_forward(id) {
            self.egress_changed();
            tracing::info!(forward = forward.name.as_str(), %id, "forward deleted");
        }
    }

    /// Returns a forward named by id or name.
    fn find_forward(&self, key: &str) -> Result<&Forward, Refusal> {
        let id = Uuid::try_parse(key).ok();
        let id = id.or_else(|| self.nat.forward_names().get(key).copied());
        id.and_then(|id| self.nat.forward(id)).ok_or_else(|| Refusal::not_found("forward", key))
    }

    /// Returns one forward.
    pub fn get_forward(&self, key: &str) -> Result<proto::Forward, Refusal> {
        self.find_forward(key).map(|forward| self.forward_view(forward))
    }

    /// Returns forwards, or those of one network, by name.
    pub fn list_forwards(
        &self,
        request: &proto::ListForwardsRequest,
    ) -> Result<proto::ListForwardsResponse, Refusal> {
        let only = self.find_only(&request.network_id)?;
        let page = Page::new(
            (request.page_size, &request.page_token),
            &request.name_prefix,
            &request.labels,
        )?;
        let view = |id| {
            let forward = self.nat.forward(id)?;
            let is_wanted = only.is_none_or(|only| forward.network_id == only);
            (is_wanted && page.wants(&forward.labels)).then(|| self.forward_view(forward))
        };
        let (forwards, next_page_token) = page.of(self.nat.forward_names(), view);
        Ok(proto::ListForwardsResponse { forwards, next_page_token })
    }

    /// Changes what the request names.
    pub fn update_forward(
        &self,
        request: &proto::UpdateForwardRequest,
    ) -> Result<Decided<proto::Forward>, Refusal> {
        let old = self.find_forward(&request.id)?;
        Refusal::unless_etag("forward", &old.name, &request.etag, view::etag(old.updated_at))?;
        let mut new = self.changed_forward(old, request)?;
        if new == *old {
            return Ok(Decided::unchanged(self.forward_view(old)));
        }
        if new.name != old.name {
            self.check_forward_name(&new.name)?;
        }
        if listens(&new) != listens(old) {
            self.check_listen(&new)?;
        }
        self.check_spans(&new)?;
        new.updated_at = view::later(old.updated_at);
        if request.validate_only {
            return Ok(Decided::unchanged(self.forward_view(&new)));
        }
        Ok(Self::decide_forward(Some(old.clone()), new))
    }

    /// Returns `old` as the request would leave it; its time of change apart.
    fn changed_forward(
        &self,
        old: &Forward,
        request: &proto::UpdateForwardRequest,
    ) -> Result<Forward, Refusal> {
        let mask = Mask::new(
            request.update_mask.as_ref(),
            &[],
            &[
                ("name", !request.name.is_empty()),
                ("listen_address", !request.listen_address.is_empty()),
                ("protocol", request.protocol != 0),
                ("listen_ports", !request.listen_ports.is_empty()),
                ("nic_id", !request.nic_id.is_empty()),
                ("target_ports", !request.target_ports.is_empty()),
                ("labels", !request.labels.is_empty()),
                ("description", !request.description.is_empty()),
            ],
        )?;
        let mut new = old.clone();
        if mask.names("name") {
            new.name = parse("name", &request.name)?;
        }
        let key = match mask.names("nic_id") {
            true => request.nic_id.clone(),
            false => old.nic_id.to_string(),
        };
        if mask.names("listen_address") {
            let listen = optional("listen_address", &request.listen_address, address)?;
            new.listen = listen.map_or_else(|| self.all_addresses(&key), Ok)?;
        }
        if mask.names("protocol") {
            new.protocol = protocol(request.protocol)?;
        }
        if mask.names("listen_ports") {
            new.listen_ports = listen_ports(&request.listen_ports)?;
        }
        // Of the family that it listens to by now.
        if mask.names("nic_id") || new.listen != old.listen {
            new.nic_id = self.find_target(&key, new.listen)?.id;
            if new.nic_id != old.nic_id {
                self.check_reached(new.nic_id)?;
            }
            self.check_in_network(new.nic_id, old.network_id)?;
        }
        if mask.names("target_ports") {
            new.target_ports = target_ports(&request.target_ports, &new.listen_ports)?;
        } else if mask.names("listen_ports") {
            // As many as those, where they are not one for all.
            new.target_ports = target_ports(&old.target_ports.to_string(), &new.listen_ports)?;
        }
        if mask.names("labels") {
            new.labels = fields::labels(&request.labels)?;
        }
        if mask.names("description") {
            new.description = fields::description(&request.description)?;
        }
        Ok(new)
    }

    /// Deletes a forward.
    pub fn delete_forward(
        &self,
        request: &proto::DeleteForwardRequest,
    ) -> Result<Decided<proto::DeleteForwardResponse>, Refusal> {
        let forward = self.find_forward(&request.id)?;
        let etag = view::etag(forward.updated_at);
        Refusal::unless_etag("forward", &forward.name, &request.etag, etag)?;
        let response = proto::DeleteForwardResponse { deleted: true };
        if request.validate_only {
            return Ok(Decided::unchanged(response));
        }
        Ok(Decided::new(Change::DeleteForward(forward.id), move |_| response))
    }

    pub(super) fn forward_view(&self, forward: &Forward) -> proto::Forward {
        let network = self.networks.get(&forward.network_id).map(|network| &network.model.name);
        let nic = self.stored_nic(forward.nic_id).map(|nic| &nic.name);
        proto::Forward {
            id: forward.id.to_string(),
            network_id: forward.network_id.to_string(),
            listen_address: forward.listen.to_string(),
            protocol: PROTOCOLS.number(Some(forward.protocol)),
            listen_ports: forward.listen_ports.to_string(),
            nic_id: forward.nic_id.to_string(),
            target_ports: forward.target_ports.to_string(),
            description: forward.description.clone(),
            created_at: forward.created_at.to_string(),
            updated_at: forward.updated_at.to_string(),
            error: self.forward_error(forward),
            name: forward.name.to_string(),
            labels: forward.labels.clone(),
            etag: view::etag(forward.updated_at),
            network_name: view::string(network),
            nic_name: view::string(nic),
        }
    }
}

/// Says that a forward takes callers from a process of the host.
fn warn_of_served(new: &Forward) {
    let forward = new.name.as_str();
    match served(new) {
        Ok(None) => {}
        Ok(Some(at)) => tracing::warn!(
            forward, %at,
            "a process of the host listens there: who calls it from elsewhere reaches the guest now"
        ),
        Err(error) => tracing::info!(forward, %error, "what the host's processes serve is unknown"),
    }
}

/// Refuses a forward whose sockets an ordinary user cannot have.
fn check_sockets(new: &Forward) -> Result<(), Refusal> {
    if new.listen_ports.count() > MAX_SPANS {
        let expected = format!("expected at most {MAX_SPANS} ports, each of which is a socket");
        return Err(Refusal::invalid("listen_ports", &new.listen_ports, expected));
    }
    // ip(7); the kernel's default where it cannot be read.
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first: u16 = first.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024);
    let lowest = new.listen_ports.ranges().iter().map(|range| *range.start()).min();
    let may =
        capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::NET_BIND_SERVICE));
    match lowest.filter(|lowest| *lowest < first && !may) {
        None => Ok(()),
        Some(port) => Err(Refusal::Unready(format!(
            "listen_ports: \"{port}\": below {first} it needs privilege: listen to another, or \
             sysctl -w net.ipv4.ip_unprivileged_port_start={port}"
        ))),
    }
}

/// Returns where a forward listens.
fn listens(forward: &Forward) -> (IpAddr, Protocol, &Ports) {
    (forward.listen, forward.protocol, &forward.listen_ports)
}

fn protocol(number: i32) -> Result<Protocol, Refusal> {
    let required = || Refusal::invalid("protocol", "", "required: PROTOCOL_TCP or PROTOCOL_UDP");
    PROTOCOLS.chosen("protocol", number)?.ok_or_else(required)
}

fn listen_ports(text: &str) -> Result<Ports, Refusal> {
    if text.is_empty() {
        return Err(Refusal::invalid("listen_ports", "", "required, like 80,90-100"));
    }
    let ports: Ports = parse("listen_ports", text)?;
    // First: what follows compares them with each other, and with all that there are.
    Refusal::unless_at_most(MAX_SPANS, "listen_ports", ports.ranges().len(), "ranges")?;
    match ports.repeated() {
        Some(port) => Err(Refusal::invalid("listen_ports", port, "it is given twice")),
        None => Ok(ports),
    }
}

/// Returns what ports go to, which are as many as there are, one for all, or none: the same.
fn target_ports(text: &str, listen: &Ports) -> Result<Ports, Refusal> {
    let Some(target) = optional("target_ports", text, parse::<Ports>)? else {
        return Ok(Ports::default());
    };
    if target.count() == 1 || target.count() == listen.count() {
        return Ok(target);
    }
    let (count, expected) = (target.count(), listen.count());
    let expected = format!("expected one port for all, or {expected} as in listen_ports: {count}");
    Err(Refusal::invalid("target_ports", text, expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_target_for_all_or_one_for_each() {
        let listen: Ports = "80,90-100".parse().unwrap();
        let of = |text| target_ports(text, &listen).map_err(|refusal| refusal.to_string());
        for good in ["", "80", "8080,9000-9010", "1-12"] {
            assert!(of(good).is_ok(), "{good}");
        }
        let refused = of("1-11").unwrap_err();
        let expected = "expected one port for all, or 12 as in listen_ports: 11";
        assert_eq!(refused, format!("target_ports: \"1-11\": {expected}"));
        assert!(of("x").unwrap_err().contains("like 80,90-100"));
    }
}
