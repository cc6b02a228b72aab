//! Load balancers: created, found, changed and deleted.

use super::{
    Control,
    balancer_fields::{
        backends, check_health, health, ports, shown_backends, shown_health, shown_ports,
    },
    change::Decided,
    fields::{self, address, optional, parse, uuid},
    mask::Mask,
    nat::{check_family, family_name},
    pages::Page,
    refusal::Refusal,
    requests::fingerprint,
    view,
};
use crate::{
    model::{Backend, BackendTarget, LoadBalancer, Name},
    proto,
    store::{Change, Put},
};
use jiff::Timestamp;
use std::net::IpAddr;
use uuid::Uuid;

/// Balancers that there may be.
const MAX_BALANCERS: usize = 256;

impl Control {
    /// Creates a balancer, or finds that this very request was carried out before.
    pub fn create_load_balancer(
        &self,
        request: &proto::CreateLoadBalancerRequest,
    ) -> Result<Decided<proto::LoadBalancer>, Refusal> {
        let new = self.new_balancer(request)?;
        if let Some(existing) = self.balancers.get(new.id) {
            return if existing.asked == new.asked {
                Ok(Decided::unchanged(self.balancer_view(existing)))
            } else {
                let owner = format!("load balancer {}, made by another request", existing.name);
                Err(Refusal::taken("id", existing.id, owner))
            };
        }
        self.check_balancer_name(&new.name)?;
        let there = self.balancers.all().len();
        if there >= MAX_BALANCERS {
            let text = format!("there are {there} load balancers, which is the most");
            return Err(Refusal::Exhausted(text));
        }
        self.check_of_the_world("address", new.address)?;
        self.check_holder("address", new.address)?;
        self.check_balancer(&new)?;
        if request.validate_only {
            return Ok(Decided::unchanged(self.balancer_view(&new)));
        }
        Ok(Self::decide_balancer(None, new))
    }

    fn decide_balancer(
        old: Option<LoadBalancer>,
        new: LoadBalancer,
    ) -> Decided<proto::LoadBalancer> {
        let answer = new.clone();
        let change = Change::PutLoadBalancer(Put { old, new }.into());
        Decided::new(change, move |control| control.balancer_view(&answer))
    }

    /// Returns what a request asks for.
    fn new_balancer(
        &self,
        request: &proto::CreateLoadBalancerRequest,
    ) -> Result<LoadBalancer, Refusal> {
        if request.network_id.is_empty() {
            return Err(Refusal::invalid("network_id", "", "required: a network's id or name"));
        }
        let network_id = self.find_network(&request.network_id)?;
        if request.address.is_empty() {
            return Err(Refusal::invalid("address", "", "required, like 203.0.113.80"));
        }
        let address = address("address", &request.address)?;
        let name = optional("name", &request.name, parse)?;
        let now = Timestamp::now();
        let new = LoadBalancer {
            id: optional("id", &request.id, uuid)?.unwrap_or_else(Uuid::new_v4),
            name: name.unwrap_or_else(|| self.choose_balancer_name()),
            network_id,
            address,
            ports: ports(&request.ports)?,
            backends: self.parse_backends(&request.backends, network_id, address)?,
            health: health(request.health.as_ref())?,
            reject_when_empty: request.reject_when_empty,
            labels: fields::labels(&request.labels)?,
            description: fields::description(&request.description)?,
            asked: Uuid::nil(),
            created_at: now,
            updated_at: now,
        };
        // As of vNICs: from parsed values, without the id, by which it is found.
        let asked = fingerprint(&proto::CreateLoadBalancerRequest {
            id: String::new(),
            network_id: network_id.to_string(),
            address: address.to_string(),
            ports: shown_ports(&new.ports),
            backends: shown_backends(&new.backends),
            health: shown_health(new.health.as_ref()),
            validate_only: false,
            ..request.clone()
        });
        Ok(LoadBalancer { asked, ..new })
    }

    /// Returns the backends that a request names, which are in a network.
    fn parse_backends(
        &self,
        asked: &[proto::Backend],
        network: Uuid,
        of: IpAddr,
    ) -> Result<Vec<Backend>, Refusal> {
        backends(asked, |backend| match &*backend.nic_id {
            "" => self.parse_backend_address(&backend.address, network, of),
            key => self.find_backend(key, network, of),
        })
    }

    fn find_backend(&self, key: &str, network: Uuid, of: IpAddr) -> Result<BackendTarget, Refusal> {
        let id = self.find_nic(key)?;
        let nic = &self.nics[&id].model;
        if nic.network_id != network {
            let network = &self.stored_network(network)?.name;
            let expected = format!("expected a vNIC of network {network}");
            return Err(Refusal::invalid("backends.nic_id", key, expected));
        }
        check_family(("backends.nic_id", key), nic, of)?;
        Ok(BackendTarget::NicId(id))
    }

    fn parse_backend_address(
        &self,
        text: &str,
        network: Uuid,
        of: IpAddr,
    ) -> Result<BackendTarget, Refusal> {
        let address = address("backends.address", text)?;
        let network = self.stored_network(network)?;
        let is_usable = match address {
            IpAddr::V4(it) => network.ipv4_subnet.is_some_and(|subnet| {
                subnet.contains(&it) && it != subnet.network() && it != subnet.broadcast()
            }),
            IpAddr::V6(it) => network.ipv6_prefix.is_some_and(|prefix| prefix.contains(&it)),
        };
        if !is_usable || address.is_ipv4() != of.is_ipv4() {
            let (family, name) = (family_name(of), &network.name);
            let expected = format!("expected an {family} address of network {name}");
            return Err(Refusal::invalid("backends.address", text, expected));
        }
        Ok(BackendTarget::Address(address))
    }

    /// Refuses what cannot be in force beside all else.
    fn check_balancer(&self, new: &LoadBalancer) -> Result<(), Refusal> {
        if let Some(why) = self.why_unbalanced(new) {
            return Err(Refusal::Unready(why));
        }
        if let Some(id) = self.nat.addresses().get(&new.address.to_string()) {
            let owner = format!("floating IP {id}, which has all ports");
            return Err(Refusal::taken("address", new.address, owner));
        }
        let mut others = self.balancers.all().filter(|other| other.id != new.id);
        let overlap = others.find_map(|other| Some((other, new.overlap(other)?)));
        if let Some((other, port)) = overlap {
            let owner = format!("load balancer {}, which has that address", other.name);
            return Err(Refusal::taken("ports", port, owner));
        }
        if let Some((forward, port)) = self.nat.forward_at(new) {
            let owner = format!("forward {}, which listens there", forward.name);
            return Err(Refusal::taken("ports", port, owner));
        }
        check_health(new)
    }

    fn check_balancer_name(&self, name: &Name) -> Result<(), Refusal> {
        match self.balancers.names().get(name) {
            Some(owner) => Err(Refusal::taken("name", name, format!("load balancer {owner}"))),
            None => Ok(()),
        }
    }

    /// Returns a free name for a balancer that was given none.
    fn choose_balancer_name(&self) -> Name {
        loop {
            let [a, b, c, d, ..] = *Uuid::new_v4().as_bytes();
            let name = format!("lb-{:08x}", u32::from_be_bytes([a, b, c, d]));
            let name = name.parse().expect("letters, digits and a hyphen");
            if self.check_balancer_name(&name).is_ok() {
                return name;
            }
        }
    }

    /// Puts a balancer that is created or changed in force.
    pub(super) fn apply_balancer(&mut self, Put { old, new }: Put<LoadBalancer>) {
        let (id, name) = (new.id, new.name.clone());
        let what = if old.is_none() { "load balancer created" } else { "load balancer updated" };
        self.balancers.put(old.as_ref(), new);
        self.egress_changed();
        tracing::info!(balancer = name.as_str(), %id, "{what}");
    }

    /// Takes a balancer out of the state.
    pub(super) fn forget_balancer(&mut self, id: Uuid) {
        if let Some(balancer) = self.balancers.remove(id) {
            self.egress_changed();
            tracing::info!(balancer = balancer.name.as_str(), %id, "load balancer deleted");
        }
    }

    /// Returns a balancer named by id or name.
    fn find_balancer(&self, key: &str) -> Result<&LoadBalancer, Refusal> {
        let id = Uuid::try_parse(key).ok();
        let id = id.or_else(|| self.balancers.names().get(key).copied());
        let found = id.and_then(|id| self.balancers.get(id));
        found.ok_or_else(|| Refusal::not_found("load balancer", key))
    }

    /// Returns one balancer.
    pub fn get_load_balancer(&self, key: &str) -> Result<proto::LoadBalancer, Refusal> {
        self.find_balancer(key).map(|balancer| self.balancer_view(balancer))
    }

    /// Returns balancers, or those of one network, by name.
    pub fn list_load_balancers(
        &self,
        request: &proto::ListLoadBalancersRequest,
    ) -> Result<proto::ListLoadBalancersResponse, Refusal> {
        let only = self.find_only(&request.network_id)?;
        let page = Page::new(
            (request.page_size, &request.page_token),
            &request.name_prefix,
            &request.labels,
        )?;
        let view = |id| {
            let balancer = self.balancers.get(id)?;
            let is_wanted = only.is_none_or(|only| balancer.network_id == only);
            (is_wanted && page.wants(&balancer.labels)).then(|| self.balancer_view(balancer))
        };
        let (load_balancers, next_page_token) = page.of(self.balancers.names(), view);
        Ok(proto::ListLoadBalancersResponse { load_balancers, next_page_token })
    }

    /// Changes what the request names.
    pub fn update_load_balancer(
        &self,
        request: &proto::UpdateLoadBalancerRequest,
    ) -> Result<Decided<proto::LoadBalancer>, Refusal> {
        let old = self.find_balancer(&request.id)?;
        let etag = view::etag(old.updated_at);
        Refusal::unless_etag("load balancer", &old.name, &request.etag, etag)?;
        let mut new = self.changed_balancer(old, request)?;
        if new == *old {
            return Ok(Decided::unchanged(self.balancer_view(old)));
        }
        if new.name != old.name {
            self.check_balancer_name(&new.name)?;
        }
        if (&new.ports, &new.backends, &new.health) != (&old.ports, &old.backends, &old.health) {
            self.check_balancer(&new)?;
        }
        new.updated_at = view::later(old.updated_at);
        if request.validate_only {
            return Ok(Decided::unchanged(self.balancer_view(&new)));
        }
        Ok(Self::decide_balancer(Some(old.clone()), new))
    }

    /// Returns `old` as the request would leave it; its time of change apart.
    fn changed_balancer(
        &self,
        old: &LoadBalancer,
        request: &proto::UpdateLoadBalancerRequest,
    ) -> Result<LoadBalancer, Refusal> {
        let mask = Mask::new(
            request.update_mask.as_ref(),
            &[],
            &[
                ("name", !request.name.is_empty()),
                ("ports", !request.ports.is_empty()),
                ("backends", !request.backends.is_empty()),
                ("health", request.health.is_some()),
                ("reject_when_empty", request.reject_when_empty),
                ("labels", !request.labels.is_empty()),
                ("description", !request.description.is_empty()),
            ],
        )?;
        let mut new = old.clone();
        if mask.names("name") {
            new.name = parse("name", &request.name)?;
        }
        if mask.names("ports") {
            new.ports = ports(&request.ports)?;
        }
        if mask.names("backends") {
            new.backends = self.changed_backends(old, &request.backends)?;
        }
        if mask.names("health") {
            new.health = health(request.health.as_ref())?;
        }
        if mask.names("reject_when_empty") {
            new.reject_when_empty = request.reject_when_empty;
        }
        if mask.names("labels") {
            new.labels = fields::labels(&request.labels)?;
        }
        if mask.names("description") {
            new.description = fields::description(&request.description)?;
        }
        Ok(new)
    }

    /// Returns the backends that take the place of a balancer's. Those that it has may stay, though
    /// their vNIC may be gone by now.
    fn changed_backends(
        &self,
        old: &LoadBalancer,
        asked: &[proto::Backend],
    ) -> Result<Vec<Backend>, Refusal> {
        let kept = |asked: &proto::Backend| {
            let id = Uuid::try_parse(&asked.nic_id).ok()?;
            let target = BackendTarget::NicId(id);
            old.backends.iter().any(|backend| backend.target == target).then_some(target)
        };
        backends(asked, |backend| match (kept(backend), &*backend.nic_id) {
            (Some(target), _) => Ok(target),
            (None, "") => self.parse_backend_address(&backend.address, old.network_id, old.address),
            (None, key) => self.find_backend(key, old.network_id, old.address),
        })
    }

    /// Deletes a balancer.
    pub fn delete_load_balancer(
        &self,
        request: &proto::DeleteLoadBalancerRequest,
    ) -> Result<Decided<proto::DeleteLoadBalancerResponse>, Refusal> {
        let balancer = self.find_balancer(&request.id)?;
        let etag = view::etag(balancer.updated_at);
        Refusal::unless_etag("load balancer", &balancer.name, &request.etag, etag)?;
        let response = proto::DeleteLoadBalancerResponse { deleted: true };
        if request.validate_only {
            return Ok(Decided::unchanged(response));
        }
        Ok(Decided::new(Change::DeleteLoadBalancer(balancer.id), move |_| response))
    }

    pub(super) fn balancer_view(&self, balancer: &LoadBalancer) -> proto::LoadBalancer {
        let network = self.networks.get(&balancer.network_id).map(|network| &network.model.name);
        let mut backends = shown_backends(&balancer.backends);
        for (shown, backend) in backends.iter_mut().zip(&balancer.backends) {
            (shown.healthy, shown.error) = self.backend_health(balancer, backend);
            shown.checked = self.is_backend_checked(balancer, backend);
            if let BackendTarget::NicId(id) = backend.target {
                shown.nic_name = view::string(self.stored_nic(id).map(|nic| &nic.name));
            }
        }
        proto::LoadBalancer {
            id: balancer.id.to_string(),
            network_id: balancer.network_id.to_string(),
            address: balancer.address.to_string(),
            ports: shown_ports(&balancer.ports),
            backends,
            health: shown_health(balancer.health.as_ref()),
            reject_when_empty: balancer.reject_when_empty,
            created_at: balancer.created_at.to_string(),
            updated_at: balancer.updated_at.to_string(),
            error: self.balancer_error(balancer),
            description: balancer.description.clone(),
            name: balancer.name.to_string(),
            labels: balancer.labels.clone(),
            etag: view::etag(balancer.updated_at),
            network_name: view::string(network),
        }
    }
}
