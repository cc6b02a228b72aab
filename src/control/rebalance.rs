//! Moving a vNIC, a port, or who is connected to one, away from a reactor that has too much to do.

use super::{Control, Owner, compile};
use crate::dataplane::{Attached, Placement};
use std::time::Instant;
use uuid::Uuid;

impl Control {
    /// Moves one of them to a reactor with less to do, if that helps.
    pub(super) fn rebalance(&mut self) {
        let busy = self.dataplane.reactors().map(|(_, counters)| counters.busy_ns.get()).collect();
        let Some(uneven) = self.balance.look(Instant::now(), busy) else { return };
        let there = self.attached().filter(|(_, place, _)| place.reactor == uneven.from);
        let carried = there.map(|(owner, _, attached)| {
            let counters = attached.counters();
            (owner, counters.ingress_frames.get() + counters.egress_frames.get())
        });
        let carried = carried.collect();
        let Some(owner) = self.balance.choose(uneven, carried) else { return };
        let Some(name) = self.relocate(owner, uneven.to) else { return };
        tracing::info!(
            name,
            from = uneven.from,
            to = uneven.to,
            "moved to a reactor with less to do"
        );
        self.settle();
    }

    /// Returns all that carry frames, and where each is.
    fn attached(&self) -> impl Iterator<Item = (Owner, Placement, &Attached)> {
        let nics = self
            .nics
            .iter()
            .filter_map(|(id, nic)| Some((Owner::Nic(*id), nic.place, nic.attached.as_ref()?)));
        let ports = self.ports.iter().flat_map(|(id, port)| {
            let own = port.attached.iter().map(|own| (Owner::Port(*id), port.place, own));
            let clients = port.clients.iter().map(|(slot, client)| {
                let owner = Owner::Client { port: *id, slot: *slot };
                (owner, client.place, &client.attached)
            });
            own.chain(clients)
        });
        nics.chain(ports).chain(self.outside())
    }

    /// Moves one to another reactor. Returns its name.
    fn relocate(&mut self, owner: Owner, reactor: u16) -> Option<String> {
        let (name, network) = match owner {
            Owner::Nic(id) => {
                let nic = self.nics.get_mut(&id)?;
                let network = self.networks.get_mut(&nic.model.network_id)?;
                let attached = nic.attached.as_ref()?;
                self.dataplane.relocate(network.key, &mut nic.place, attached, reactor);
                let member = compile::member(&network.model, &nic.model, nic.place);
                network.members.insert(nic.place.port.slot, member);
                (nic.model.name.to_string(), nic.model.network_id)
            }
            Owner::Port(id) => return self.relocate_port(id, None, reactor),
            Owner::Client { port, slot } => return self.relocate_port(port, Some(slot), reactor),
            Owner::Outside => return self.relocate_outside(reactor),
        };
        // Until this is published, frames for it go to the reactor that it has left.
        self.unpublished.insert(network);
        Some(name)
    }

    fn relocate_port(&mut self, id: Uuid, client: Option<u32>, reactor: u16) -> Option<String> {
        let entry = self.ports.get_mut(&id)?;
        let network = self.networks.get(&entry.model.network_id)?;
        let (place, attached) = match client {
            None => (&mut entry.place, entry.attached.as_ref()?),
            Some(slot) => {
                let client = entry.clients.get_mut(&slot)?;
                (&mut client.place, &client.attached)
            }
        };
        self.dataplane.relocate(network.key, place, attached, reactor);
        self.follow_port(id);
        Some(self.ports.get(&id)?.model.name.to_string())
    }
}
