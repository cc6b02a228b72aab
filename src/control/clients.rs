//! Who is connected to ports that listen: each is a member of the port's network for itself.

use super::{Control, Owner, Whose, happened::PeerChange};
use crate::{
    dataplane::{Arrival, Attached, Blocking, Exported, NewPort, Placement, PortSpec, PortState},
    log_limit::Said,
};
use jiff::Timestamp;
use std::time::Instant;
use uuid::Uuid;

/// A connection of a port that listens.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) place: Placement,
    pub(super) remote: String,
    pub(super) since: Timestamp,
    /// What it is called where its descriptors are kept.
    kept_as: Uuid,
    pub(super) attached: Attached,
    /// Why nothing of it is carried, where it is so.
    pub(super) blocked: Option<Blocking>,
}

impl Client {
    pub(super) fn whose(&self, port: Uuid) -> Whose {
        let Self { since, kept_as, .. } = *self;
        Whose::Client { port, remote: self.remote.clone(), since, kept_as }
    }
}

impl Control {
    /// Makes somebody who has connected to a port a member of its network.
    pub(super) fn admit(&mut self, id: Uuid, arrival: Arrival) {
        self.admit_as(id, arrival, Uuid::new_v4(), None);
    }

    /// As [`Control::admit`], where another process has `exported` it with so many descriptors,
    /// which are kept.
    fn admit_as(
        &mut self,
        id: Uuid,
        arrival: Arrival,
        kept_as: Uuid,
        exported: Option<(Exported, usize)>,
    ) {
        let remote = arrival.remote().to_owned();
        let since = Timestamp::try_from(arrival.since()).unwrap_or_else(|_| Timestamp::now());
        let whose = Whose::Client { port: id, remote: remote.clone(), since, kept_as };
        let mut slot = self.slot(kept_as, &whose);
        let is_new = exported.is_none();
        let exported = exported.map(|(exported, descriptors)| {
            slot.has(descriptors);
            exported
        });
        let Some(entry) = self.ports.get_mut(&id) else { return };
        let Some(network) = self.networks.get(&entry.model.network_id).map(|it| it.key) else {
            return;
        };
        let place = self.dataplane.place(network);
        let new = NewPort {
            place,
            network,
            name: entry.model.name.to_string(),
            spec: PortSpec::Member(arrival),
            slot,
        };
        let attached = match self.dataplane.attach(new, exported) {
            Ok(attached) => attached,
            Err(error) => {
                if let Some(Said { unsaid }) = entry.log.line(Instant::now()) {
                    let port = entry.model.name.as_str();
                    tracing::warn!(port, %remote, %error, unsaid, "a connection is refused");
                }
                return self.dataplane.release(network, place);
            }
        };
        self.by_port.insert(place.port, Owner::Client { port: id, slot: place.port.slot });
        if let Some(listener) = &entry.attached {
            // Of those that it carries nothing of.
            listener.counters().connections.add(1);
        }
        let client =
            Client { place, remote: remote.clone(), since, kept_as, attached, blocked: None };
        entry.clients.insert(place.port.slot, client);
        entry.view = None;
        let port = entry.model.clone();
        self.join(&port, place);
        if is_new {
            self.note_peer(id, &remote, PeerChange::Up);
        }
        self.tell_port(id);
    }

    /// Goes on with somebody who was connected to a port with another process of the daemon. Who
    /// cannot stay is disconnected.
    pub(super) fn take_client_over(&mut self, whose: Whose, mut exported: Exported) {
        let Whose::Client { port: id, remote, since, kept_as } = whose else { return };
        let descriptors = exported.fds.len();
        let Some(entry) = self.ports.get(&id) else { return };
        let Some(listener) = &entry.attached else { return };
        match listener.returned(remote.clone(), since.into(), &mut exported) {
            Ok(arrival) => self.admit_as(id, arrival, kept_as, Some((exported, descriptors))),
            Err(error) => {
                let port = entry.model.name.as_str();
                tracing::warn!(port, %remote, %error, "a connection could not be taken over");
            }
        }
    }

    /// Takes over what is said of somebody who is connected.
    pub(super) fn client_reported(&mut self, id: Uuid, slot: u32, state: PortState) {
        let Some(entry) = self.ports.get_mut(&id) else { return };
        let Some(client) = entry.clients.get_mut(&slot) else { return };
        if client.blocked == state.blocked() {
            return;
        }
        client.blocked = state.blocked();
        let remote = client.remote.clone();
        entry.view = None;
        if let Some(why) = state.blocked() {
            self.note_peer(id, &remote, PeerChange::Blocked(why));
        }
        self.tell_port(id);
    }

    /// Lets go of somebody whose connection has ended.
    pub(super) fn client_left(&mut self, id: Uuid, slot: u32) {
        let Some(entry) = self.ports.get_mut(&id) else { return };
        let Some(client) = entry.clients.remove(&slot) else { return };
        // A listener carries nothing itself: it keeps what those have carried who are gone.
        if let Some(listener) = &entry.attached {
            listener.counters().add_all(client.attached.counters());
        }
        for id in entry.model.networks() {
            let Some(network) = self.networks.get_mut(&id) else { continue };
            network.bridges.remove(&slot);
            self.unpublished.insert(id);
        }
        let home = self.networks[&entry.model.network_id].key;
        self.dataplane.release(home, client.place);
        self.by_port.remove(&client.place.port);
        // Its task has ended, or soon does; nobody waits for it.
        drop(client.attached.stop());
        self.note_peer(id, &client.remote, PeerChange::Down);
        self.tell_port(id);
    }
}
