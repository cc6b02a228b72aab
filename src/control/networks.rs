//! Networks: created, found, changed and deleted.

use super::{
    Control, Limits, NetworkState, convert, convert::NewNetwork, ipam::Pool, network_view,
    refusal::Refusal,
};
use crate::{
    dataplane::{Listening, snapshot::NetworkKey},
    model::Network,
    proto,
};
use jiff::Timestamp;
use std::collections::{BTreeMap, HashSet};
use uuid::Uuid;

impl Control {
    /// Creates a network, or finds that this very request was carried out before.
    pub fn create_network(
        &mut self,
        request: proto::CreateNetworkRequest,
    ) -> Result<proto::Network, Refusal> {
        let new = NewNetwork::try_from(request)?;
        if let Some(existing) = new.id.and_then(|id| self.networks.get(&id)) {
            return if is_same(&existing.model, &new) {
                Ok(network_view(existing))
            } else {
                Err(Refusal::taken(
                    "id",
                    existing.model.id,
                    format!("network {} with other content", existing.model.name),
                ))
            };
        }
        if let Some(owner) = self.network_names.get(&new.name) {
            return Err(Refusal::taken("name", &new.name, format!("network {owner}")));
        }
        Limits::check("networks", self.networks.len(), self.limits.networks, "max-networks")?;
        let now = Timestamp::now();
        let network = Network {
            id: new.id.unwrap_or_else(Uuid::new_v4),
            name: new.name,
            ipv4_subnet: new.ipv4_subnet,
            ipv6_prefix: new.ipv6_prefix,
            dns_servers: new.dns_servers,
            ntp_servers: new.ntp_servers,
            mtu: new.mtu,
            domain: new.domain,
            created_at: now,
            updated_at: now,
        };
        if let Err(error) = self.store.put_network(&network) {
            self.undo("network", |store| store.delete_network(network.id, &[]));
            return Err(error.into());
        }
        let id = network.id;
        tracing::info!(network = %network.name, %id, "network created");
        self.adopt_network(network);
        self.tell_network(id);
        Ok(network_view(&self.networks[&id]))
    }

    /// Puts the store back to where it was before a change that failed. If that fails too, the change is there after a
    /// restart, as a whole or not at all.
    pub(super) fn undo(
        &mut self,
        what: &'static str,
        change: impl FnOnce(&mut dyn crate::store::Store) -> Result<(), crate::store::StoreError>,
    ) {
        if let Err(error) = change(&mut *self.store) {
            tracing::warn!(%error, "a change of a {what} failed and could not be taken back: it may be in force after a restart");
        }
    }

    /// Takes a stored network into the state.
    pub(super) fn adopt_network(&mut self, model: Network) {
        self.next_key += 1;
        self.network_names.insert(model.name.clone(), model.id);
        let state = NetworkState {
            key: NetworkKey(self.next_key),
            ipv4: model.ipv4_subnet.map(Pool::ipv4),
            ipv6: model.ipv6_prefix.map(Pool::ipv6),
            macs: HashSet::new(),
            members: BTreeMap::new(),
            model,
        };
        self.networks.insert(state.model.id, state);
    }

    /// The id of a network named by id or name.
    pub(super) fn find_network(&self, key: &str) -> Result<Uuid, Refusal> {
        let id = Uuid::try_parse(key).ok().or_else(|| self.network_names.get(key).copied());
        id.filter(|id| self.networks.contains_key(id))
            .ok_or_else(|| Refusal::NotFound { what: "network", key: key.into() })
    }

    /// One network.
    pub fn get_network(&self, key: &str) -> Result<proto::Network, Refusal> {
        self.find_network(key).map(|id| network_view(&self.networks[&id]))
    }

    /// All networks, by name.
    pub fn list_networks(&self) -> Vec<proto::Network> {
        let mut networks: Vec<_> = self.networks.values().map(network_view).collect();
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        networks
    }

    /// Replaces a network's servers.
    pub fn update_network(
        &mut self,
        request: &proto::UpdateNetworkRequest,
    ) -> Result<proto::Network, Refusal> {
        let id = self.find_network(&request.id)?;
        let old = self.networks[&id].model.clone();
        let new = Network {
            dns_servers: convert::servers("dns_servers", &request.dns_servers)?,
            ntp_servers: convert::servers("ntp_servers", &request.ntp_servers)?,
            updated_at: Timestamp::now(),
            ..old.clone()
        };
        if let Err(error) = self.store.put_network(&new) {
            self.undo("network", |store| store.put_network(&old));
            return Err(error.into());
        }
        if let Some(network) = self.networks.get_mut(&id) {
            network.model = new;
        }
        self.unpublished.insert(id);
        self.tell_network(id);
        Ok(network_view(&self.networks[&id]))
    }

    /// Deletes a network, with its vNICs if `force`. The sockets are to be closed before the answer.
    pub fn delete_network(
        &mut self,
        request: &proto::DeleteNetworkRequest,
    ) -> Result<(proto::DeleteNetworkResponse, Vec<Listening>), Refusal> {
        let id = self.find_network(&request.id)?;
        let network = &self.networks[&id];
        let nics: Vec<Uuid> = network.members.values().map(|member| member.id).collect();
        if !nics.is_empty() && !request.force {
            return Err(Refusal::NotEmpty {
                name: network.model.name.to_string(),
                nics: nics.len(),
            });
        }
        if let Err(error) = self.store.delete_network(id, &nics) {
            let network = network.model.clone();
            let nics: Vec<_> = nics.iter().map(|nic| self.nics[nic].model.clone()).collect();
            self.undo("network", |store| {
                nics.iter().try_for_each(|nic| store.put_nic(nic))?;
                store.put_network(&network)
            });
            return Err(error.into());
        }
        let closing = nics.iter().filter_map(|nic| self.forget_nic(*nic)).collect();
        self.unpublished.insert(id);
        self.settle();
        if let Some(network) = self.networks.remove(&id) {
            self.network_names.remove(&network.model.name);
            tracing::info!(network = %network.model.name, %id, nics = nics.len(), "network deleted");
        }
        nics.iter().for_each(|nic| self.tell_nic(*nic));
        self.tell_network(id);
        let nics_deleted = u32::try_from(nics.len()).unwrap_or(u32::MAX);
        Ok((proto::DeleteNetworkResponse { deleted: true, nics_deleted }, closing))
    }
}

fn is_same(existing: &Network, new: &NewNetwork) -> bool {
    existing.name == new.name
        && existing.ipv4_subnet == new.ipv4_subnet
        && existing.ipv6_prefix == new.ipv6_prefix
        && existing.dns_servers == new.dns_servers
        && existing.ntp_servers == new.ntp_servers
        && existing.mtu == new.mtu
        && existing.domain == new.domain
}
