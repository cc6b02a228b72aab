//! Who is behind which port: control publishes it with each network.

use super::Upstream;
use crate::{
    dataplane::forward::{
        Names,
        tables::{NetworkKey, PortId},
    },
    model::{Network, Nic},
    mutex::lock,
};
use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

/// What a guest may know of its vNIC.
#[derive(Debug, Clone, PartialEq)]
pub struct Card {
    /// The network that it is in.
    pub network: Network,
    /// The vNIC.
    pub nic: Nic,
    /// The floating IP that it sends from.
    pub public_ipv4: Option<Ipv4Addr>,
}

/// The guests of all networks that serve them anything.
// Locked for a look-up or a change of an entry: nobody waits for more.
#[derive(Debug, Clone, Default)]
pub struct Guests(Arc<Mutex<HashMap<NetworkKey, Served>>>);

/// What a network serves.
#[derive(Debug, Default)]
struct Served {
    names: Option<(Arc<Names>, Option<Upstream>)>,
    /// Empty where it has no metadata.
    cards: HashMap<PortId, Arc<Card>>,
}

impl Guests {
    /// Publishes what a network serves, and to whom: names, and who is asked for those of others.
    pub fn publish(
        &self,
        network: NetworkKey,
        names: Option<(Arc<Names>, Option<Upstream>)>,
        cards: impl Iterator<Item = (PortId, Arc<Card>)>,
    ) {
        let served = Served { names, cards: cards.collect() };
        let is_nothing = served.names.is_none() && served.cards.is_empty();
        let mut all = lock(&self.0);
        let old = if is_nothing { all.remove(&network) } else { all.insert(network, served) };
        // What is large is freed where nobody waits for it.
        drop(all);
        drop(old);
    }

    /// Returns what the guest behind a port may know, where its network has metadata.
    pub(super) fn card(&self, (port, network): (PortId, NetworkKey)) -> Option<Arc<Card>> {
        lock(&self.0).get(&network)?.cards.get(&port).map(Arc::clone)
    }

    /// Returns the names of a network, where it serves them, and who is asked for those of others.
    pub(super) fn names(&self, network: NetworkKey) -> Option<(Arc<Names>, Option<Upstream>)> {
        lock(&self.0).get(&network)?.names.clone()
    }
}
