//! Trunks: which networks a port is in by VLANs, as it is asked for and as it is shown; and the
//! places that ports have in the networks they are in.

use super::{Control, compile, locators, refusal::Refusal, view};
use crate::{
    dataplane::Placement,
    locator::Locator,
    model::{NetworkKind, Port, TaggedNetwork},
    proto,
    wire::vlan::VlanId,
};
use std::collections::BTreeSet;
use uuid::Uuid;

impl Control {
    /// Returns the VLANs that a port of `locator` is to have, in order.
    pub(super) fn parse_vlans(
        &self,
        asked: &[proto::TaggedNetwork],
        locator: &Locator,
    ) -> Result<Vec<TaggedNetwork>, Refusal> {
        // What comes from a hub's client goes to all others, whatever its tag is.
        if !asked.is_empty() && matches!(locator, Locator::Hub(_)) {
            return Err(Refusal::invalid("vlans", asked[0].vid, "a hub has no VLANs"));
        }
        let parse = |tagged: &proto::TaggedNetwork| {
            let vid = u16::try_from(tagged.vid).ok().and_then(VlanId::new);
            let expected = "a VLAN's number is from 1 to 4094";
            let vid = vid.ok_or_else(|| Refusal::invalid("vlans", tagged.vid, expected))?;
            if tagged.network_id.is_empty() {
                let expected = "each VLAN needs a network's id or name";
                return Err(Refusal::invalid("vlans", vid, expected));
            }
            let network_id = self.find_network(&tagged.network_id)?;
            if self.networks[&network_id].model.kind == NetworkKind::Routed {
                let expected = "ports belong to switched networks";
                return Err(Refusal::invalid("vlans", &tagged.network_id, expected));
            }
            Ok(TaggedNetwork { vid, network_id })
        };
        let mut vlans = asked.iter().map(parse).collect::<Result<Vec<_>, Refusal>>()?;
        vlans.sort_by_key(|tagged| tagged.vid);
        if let Some(twice) = vlans.windows(2).find(|pair| pair[0].vid == pair[1].vid) {
            let expected = "one VLAN is of one network";
            return Err(Refusal::invalid("vlans", twice[0].vid, expected));
        }
        let mut networks = BTreeSet::new();
        if let Some(twice) = vlans.iter().find(|tagged| !networks.insert(tagged.network_id)) {
            let name = &self.networks[&twice.network_id].model.name;
            return Err(Refusal::invalid("vlans", name, "one network is of one VLAN"));
        }
        Ok(vlans)
    }

    /// Returns a port as one that is just made.
    pub(super) fn new_port_view(&self, port: &Port) -> proto::Port {
        let name = |id: &Uuid| {
            self.networks.get(id).map(|network| network.model.name.to_string()).unwrap_or_default()
        };
        let vlans = port.vlans.iter().map(|tagged| proto::TaggedNetwork {
            network_name: name(&tagged.network_id),
            ..view::tagged(tagged)
        });
        let view = view::port(&self.networks[&port.network_id].model, port);
        proto::Port { vlans: vlans.collect(), ..view }
    }

    /// Makes a place of a port a member of all networks that the port is in, as it is now; of one
    /// that listens, each connection has one.
    pub(super) fn join(&mut self, port: &Port, place: Placement) {
        for id in port.networks() {
            // The file of a VLAN's may be damaged: the others are served.
            let Some(network) = self.networks.get_mut(&id) else { continue };
            let member = compile::bridge(&network.model, port, place);
            network.bridges.insert(place.port.slot, member);
            self.unpublished.insert(id);
        }
    }

    /// Lists a port in all networks that it is in, with its own place unless it listens.
    pub(super) fn enlist(&mut self, port: &Port, place: Placement) {
        for id in port.networks() {
            match self.networks.get_mut(&id) {
                Some(network) => {
                    network.ports.insert(port.id);
                }
                None => tracing::error!(
                    port = %port.name, network = %id,
                    "a VLAN of a trunk is not served: its network is not there"
                ),
            }
        }
        if !locators::listens(&port.locator) {
            self.join(port, place);
        }
    }

    /// Takes a port, with all its places, out of a network.
    pub(super) fn strike(&mut self, port: Uuid, network: Uuid, places: &[Placement]) {
        let Some(state) = self.networks.get_mut(&network) else { return };
        state.ports.remove(&port);
        for place in places {
            state.bridges.remove(&place.port.slot);
        }
        self.unpublished.insert(network);
    }

    /// Refuses to delete a network that trunks have as a VLAN.
    // Not by force either: with it, their other networks would lose them.
    pub(super) fn check_not_tagged(&self, network: Uuid) -> Result<(), Refusal> {
        let ports = self.networks[&network].ports.iter().filter_map(|id| self.ports.get(id));
        let trunk = ports.map(|entry| &entry.model).find(|port| port.network_id != network);
        let Some(trunk) = trunk else { return Ok(()) };
        let vid = trunk.vlan_in(network).map(|vid| vid.to_string()).unwrap_or_default();
        Err(Refusal::InUse(format!(
            "network {} is VLAN {vid} of port {}: take it from that port's vlans first",
            self.networks[&network].model.name, trunk.name
        )))
    }
}
