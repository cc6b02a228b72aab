//! Networks: created, found, changed and deleted.

use super::{
    Control, Limits, NetworkState,
    change::Decided,
    compile, fields,
    hosts::Hosts,
    ipam::{self, Pool},
    l2,
    pages::Page,
    refusal::Refusal,
    requests::{self, NewNetwork},
    view,
};
use crate::{
    dataplane::forward::tables::NetworkKey,
    model::{Network, l2::Members},
    proto,
    store::{Change, Dependants, Put},
};
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};
use uuid::Uuid;

impl Control {
    /// Creates a network, or finds that this very request was carried out before.
    pub fn create_network(
        &self,
        request: &proto::CreateNetworkRequest,
    ) -> Result<Decided<proto::Network>, Refusal> {
        let new = NewNetwork::try_from(request.clone())?;
        // First: a request that is repeated would find its own name taken.
        if let Some(existing) = new.id.and_then(|id| self.networks.get(&id)) {
            return if is_same(&existing.model, &new) {
                Ok(Decided::unchanged(self.network_view(existing)))
            } else {
                Err(Refusal::taken(
                    "id",
                    existing.model.id,
                    format!("network {}, made by another request", existing.model.name),
                ))
            };
        }
        self.check_network_name(&new.name)?;
        Limits::check("network", self.networks.len(), self.limits.networks, "max-networks")?;
        let now = Timestamp::now();
        let network = Network {
            id: new.id.unwrap_or_else(Uuid::new_v4),
            name: new.name,
            kind: new.kind,
            l2: new.l2,
            gateway: new.gateway,
            gateway_ipv4: new.gateway_ipv4,
            ipv4_subnet: new.ipv4_subnet,
            ipv6_prefix: new.ipv6_prefix,
            dns_servers: new.dns_servers,
            ntp_servers: new.ntp_servers,
            mtu: new.mtu,
            domain: new.domain,
            dns_mode: new.dns_mode,
            metadata: new.metadata,
            labels: new.labels,
            description: new.description,
            boot: new.boot,
            is_public: new.is_public,
            asked: Some(new.asked),
            created_at: now,
            updated_at: now,
        };
        l2::check_pool(&network)?;
        fields::check_services(&network)?;
        self.check_public(&network)?;
        if request.validate_only {
            return Ok(Decided::unchanged(view::network(&network, (0, 0), Members::AllStrict)));
        }
        Ok(Self::put_network(None, network))
    }

    fn put_network(old: Option<Network>, new: Network) -> Decided<proto::Network> {
        let id = new.id;
        let change = Change::PutNetwork(Put { old, new }.into());
        Decided::new(change, move |control| control.network_view(&control.networks[&id]))
    }

    fn check_network_name(&self, name: &crate::model::Name) -> Result<(), Refusal> {
        match self.network_names.get(name) {
            Some(owner) => Err(Refusal::taken("name", name, format!("network {owner}"))),
            None => Ok(()),
        }
    }

    /// Takes a stored network into the state.
    pub(super) fn adopt_network(&mut self, model: Network) {
        // A new key each time: a network that is made again with the id of a deleted one must not
        // meet the tables of that.
        self.next_key += 1;
        self.network_names.insert(model.name.clone(), model.id);
        let mut ipv4 = model.ipv4_subnet.map(Pool::ipv4);
        if let (Some(pool), Some(gateway)) = (&mut ipv4, model.gateway_in_subnet()) {
            let gateway = ipam::number(gateway.into());
            pool.take(gateway..=gateway);
        }
        let mut state = NetworkState {
            key: NetworkKey(self.next_key),
            ipv4,
            ipv6: model.ipv6_prefix.map(Pool::ipv6),
            macs: HashSet::new(),
            members: BTreeMap::new(),
            bridges: BTreeMap::new(),
            ports: BTreeSet::new(),
            hosts: Hosts::default(),
            gone: Arc::default(),
            view: None,
            model,
        };
        state.follow_pool();
        self.networks.insert(state.model.id, state);
    }

    /// The id of a network named by id or name.
    pub(super) fn find_network(&self, key: &str) -> Result<Uuid, Refusal> {
        let id = Uuid::try_parse(key).ok().or_else(|| self.network_names.get(key).copied());
        id.filter(|id| self.networks.contains_key(id))
            .ok_or_else(|| Refusal::not_found("network", key))
    }

    /// One network.
    pub fn get_network(&self, key: &str) -> Result<proto::Network, Refusal> {
        self.find_network(key).map(|id| self.network_view(&self.networks[&id]))
    }

    /// Networks by name.
    pub fn list_networks(
        &self,
        request: &proto::ListNetworksRequest,
    ) -> Result<proto::ListNetworksResponse, Refusal> {
        let page = Page::new(
            (request.page_size, &request.page_token),
            &request.name_prefix,
            &request.labels,
        )?;
        let view = |id| {
            let network = self.networks.get(&id)?;
            page.wants(&network.model.labels).then(|| self.network_view(network))
        };
        let (networks, next_page_token) = page.of(&self.network_names, view);
        Ok(proto::ListNetworksResponse { networks, next_page_token })
    }

    /// Changes what the request names.
    pub fn update_network(
        &self,
        request: &proto::UpdateNetworkRequest,
    ) -> Result<Decided<proto::Network>, Refusal> {
        let network = &self.networks[&self.find_network(&request.id)?];
        let old = network.model.clone();
        Refusal::unless_etag("network", &old.name, &request.etag, view::etag(old.updated_at))?;
        let mut new = requests::changed_network(&old, request)?;
        // The etag stays: the preconditions of other clients still hold.
        if new == old {
            return Ok(Decided::unchanged(self.network_view(network)));
        }
        if new.name != old.name {
            self.check_network_name(&new.name)?;
        }
        if !old.is_public {
            self.check_public(&new)?;
        }
        new.updated_at = view::later(old.updated_at);
        if request.validate_only {
            return Ok(Decided::unchanged(self.changed_network_view(network, &new)));
        }
        Ok(Self::put_network(Some(old), new))
    }

    /// Puts what is stored in force: a network that is created or changed.
    pub(super) fn apply_network(&mut self, Put { old, new }: Put<Network>) {
        let (id, name) = (new.id, new.name.clone());
        match old {
            None => {
                tracing::info!(network = name.as_str(), %id, "network created");
                self.adopt_network(new);
                // Its file may have been damaged: its vNICs still have this id.
                self.adopt_orphans(id);
            }
            Some(old) => {
                self.network_names.remove(&old.name);
                self.network_names.insert(name.clone(), id);
                if let Some(network) = self.networks.get_mut(&id) {
                    network.model = new;
                    network.follow_pool();
                }
                self.follow_network(id);
                self.unpublished.insert(id);
                tracing::info!(network = name.as_str(), %id, "network updated");
            }
        }
        self.tell_network(id);
    }

    /// Passes a change of a network on to its vNICs and ports, for what they take from it.
    fn follow_network(&mut self, id: Uuid) {
        let ports = self.networks.get(&id).map(|network| network.ports.clone());
        ports.into_iter().flatten().for_each(|port| self.follow_port(port));
        let Some(network) = self.networks.get_mut(&id) else { return };
        for member in network.members.values_mut() {
            let Some(nic) = self.nics.get_mut(&member.id) else { continue };
            nic.view = None;
            *member = compile::member(&network.model, &nic.model, nic.place);
            if let Some(attached) = &nic.attached {
                attached.set_device(super::nics::device(&network.model, &nic.model));
            }
        }
    }

    /// Deletes a network, with all that is in it if `force`.
    pub fn delete_network(
        &self,
        request: &proto::DeleteNetworkRequest,
    ) -> Result<Decided<proto::DeleteNetworkResponse>, Refusal> {
        let id = self.find_network(&request.id)?;
        let network = &self.networks[&id];
        let etag = view::etag(network.model.updated_at);
        Refusal::unless_etag("network", &network.model.name, &request.etag, etag)?;
        // First: to set force would not help.
        self.check_not_tagged(id)?;
        let nics: Vec<Uuid> = network.members.values().map(|member| member.id).collect();
        let ports: Vec<Uuid> = network.ports.iter().copied().collect();
        if !request.force {
            let balancers = self.balancers.of_network(id).len();
            let counts =
                [(nics.len(), "vNIC"), (ports.len(), "port"), (balancers, "load balancer")];
            Refusal::unless_empty("network", &network.model.name, &counts)?;
        }
        let nics_deleted = u32::try_from(nics.len()).unwrap_or(u32::MAX);
        let ports_deleted = u32::try_from(ports.len()).unwrap_or(u32::MAX);
        let response = proto::DeleteNetworkResponse { deleted: true, nics_deleted, ports_deleted };
        if request.validate_only {
            return Ok(Decided::unchanged(response));
        }
        let load_balancers = self.balancers.of_network(id);
        let with = Dependants { load_balancers, ..self.nat.of_network(id) };
        Ok(Decided::new(Change::DeleteNetwork { id, nics, ports, with }, move |_| response))
    }

    /// Puts the deletion of a network and what is in it in force.
    pub(super) fn apply_network_deletion(
        &mut self,
        id: Uuid,
        (nics, ports): (&[Uuid], &[Uuid]),
        with: &Dependants,
    ) {
        self.forget_dependants(with);
        nics.iter().for_each(|nic| self.forget_nic(*nic));
        // Trunks among them were in other networks, too.
        let of = |port: &Uuid| Some((*port, self.ports.get(port)?.model.networks().collect()));
        let gone: Vec<(Uuid, Vec<Uuid>)> = ports.iter().filter_map(of).collect();
        let mut changed: BTreeSet<_> = gone.iter().flat_map(|(_, of)| of.clone()).collect();
        changed.insert(id);
        ports.iter().for_each(|port| self.forget_port(*port));
        self.unpublished.remove(&id);
        if let Some(network) = self.networks.remove(&id) {
            self.network_names.remove(&network.model.name);
            tracing::info!(
                network = network.model.name.as_str(), %id, nics = nics.len(), ports = ports.len(),
                "network deleted"
            );
            self.unstored.remove(&id);
            self.deleted.push(network);
        }
        nics.iter().for_each(|nic| self.tell_nic_gone(*nic, id));
        gone.into_iter().for_each(|(port, networks)| self.tell_port_gone(port, networks));
        changed.into_iter().for_each(|network| self.tell_network(network));
    }
}

/// Whether the request is the one that made `existing`, whatever was changed since. A network of an
/// earlier version has no number of its request: then its values are compared.
fn is_same(existing: &Network, new: &NewNetwork) -> bool {
    if let Some(asked) = existing.asked {
        return asked == new.asked;
    }
    existing.name == new.name
        && existing.ipv4_subnet == new.ipv4_subnet
        && existing.ipv6_prefix == new.ipv6_prefix
        && existing.dns_servers == new.dns_servers
        && existing.ntp_servers == new.ntp_servers
        && existing.mtu == new.mtu
        && existing.domain == new.domain
        && (&existing.labels, &existing.description) == (&new.labels, &new.description)
        && existing.boot == new.boot
        && (existing.kind, &existing.l2) == (new.kind, &new.l2)
        && existing.is_public == new.is_public
}
