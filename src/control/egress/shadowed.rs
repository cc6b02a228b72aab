//! Public networks that have no way out, since another one has addresses of theirs: by the kernel's
//! routing, a packet from outside is known by its address alone.
//!
//! ```text
//! start: all by age ─▶ what has addresses of an older one is shadowed by that
//! settled: has that one gone, or given them up? ─▶ led out, tables published, watchers told
//! ```
//! While the daemon runs none becomes shadowed: such a change is refused.

use super::{Control, NetworkState, WayOut, has_some_of, own_prefixes, routed_prefixes};
use crate::{control::compile::Receiving, model::Network};
use std::collections::HashMap;
use uuid::Uuid;

/// Networks without a way out, each with the network that has addresses of it.
pub(super) type Shadowed = HashMap<Uuid, Uuid>;

impl Control {
    /// Whether a network is public, and as such the only one that has its addresses.
    pub(in crate::control) fn is_led_out(&self, network: &Network) -> bool {
        // One that is made public now has been looked at: nobody has its addresses.
        let there = self.networks.get(&network.id);
        let was_public = there.is_some_and(|network| network.model.is_public);
        let is_shadowed = was_public && self.egress.shadowed.contains_key(&network.id);
        network.is_public && !is_shadowed
    }

    /// Says why guests of a public network do not reach what is outside, if they do not.
    pub(in crate::control) fn why_not_led_out(&self, network: &Network) -> Option<String> {
        self.why_not_to_be_led_out(network).or_else(|| {
            let why = self.why_left_out(network.id).filter(|_| network.is_public)?;
            Some(format!("network {} has no way out: {why}", network.name))
        })
    }

    /// Likewise, before the host has been asked.
    pub(in crate::control) fn why_not_to_be_led_out(&self, network: &Network) -> Option<String> {
        if !network.is_public {
            return None;
        }
        if let WayOut::Off(why) = &self.egress.way {
            return Some(format!("egress is off: start with --egress tun or user ({why})"));
        }
        let other = self.networks.get(self.egress.shadowed.get(&network.id)?)?;
        let (name, other) = (&network.name, &other.model.name);
        Some(format!(
            "network {name} has addresses of network {other}, which is public, too: by tun, only \
             one of them has a way out"
        ))
    }

    /// Returns the public networks that have addresses of older ones, and says so.
    pub(super) fn all_shadowed(&self) -> Shadowed {
        if self.egress.way.receiving() == Receiving::ByTag {
            return Shadowed::new();
        }
        let public = self.networks.values().filter(|network| network.model.is_public);
        self.shadows(Vec::new(), public.collect())
    }

    /// Leads out those whose addresses nobody else has any more.
    pub(super) fn leave_shadows(&mut self) {
        if self.egress.shadowed.is_empty() {
            return;
        }
        // Those that are led out stay so, also beside an older one.
        let public = self.networks.values().filter(|network| network.model.is_public);
        let (shadowed, led_out) =
            public.partition(|network| self.egress.shadowed.contains_key(&network.model.id));
        let now = self.shadows(led_out, shadowed);
        let before = std::mem::replace(&mut self.egress.shadowed, now);
        for (id, other) in before {
            let now = self.egress.shadowed.get(&id);
            let network = self.networks.get(&id).filter(|network| network.model.is_public);
            let Some(network) = network.filter(|_| now != Some(&other)) else { continue };
            if now.is_none() {
                let network = network.model.name.as_str();
                tracing::info!(network, "has a way out: nobody else has its addresses any more");
                self.unpublished.insert(id);
            }
            self.tell_network(id);
        }
    }

    /// Returns which of `candidates` have addresses of those that are led out, or of older ones.
    fn shadows<'a>(
        &'a self,
        mut led_out: Vec<&'a NetworkState>,
        mut candidates: Vec<&'a NetworkState>,
    ) -> Shadowed {
        candidates.sort_by_key(|network| (network.model.created_at, network.model.id));
        let mut shadowed = Shadowed::new();
        for network in candidates {
            let own = own_prefixes(&network.model).map(|(_, prefix)| prefix);
            let mut all = own.chain(routed_prefixes(network));
            let other = all.find_map(|prefix| led_out.iter().find(|it| has_some_of(it, prefix)));
            let Some(other) = other else {
                led_out.push(network);
                continue;
            };
            let (id, other) = (network.model.id, &other.model);
            if self.egress.shadowed.get(&id) != Some(&other.id) {
                let (network, other) = (network.model.name.as_str(), other.name.as_str());
                tracing::warn!(network, other, "has no way out: the other has addresses of it");
            }
            shadowed.insert(id, other.id);
        }
        shadowed
    }
}
