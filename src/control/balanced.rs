//! Load balancers in force: what the kernel is to know of them, and how their backends are checked.
//!
//! ```text
//! wanted: backends that are there, healthy and not drained ─▶ places ─▶ the kernel
//! settled: plans ─▶ checks ─ report ─▶ what is thought of a backend ─ soon after ─▶ settled
//! ```

use super::{Control, WayOut, balancer_fields::MAX_TIMEOUT, nat::address_of};
use crate::{
    balancing::{Asks, Checks, Patience, Plan, Report, maglev::Share},
    host_network::{Balanced, BalancerSpec, Place, WhenEmpty},
    model::{Backend, BackendTarget, Forward, HealthKind, LoadBalancer, Name},
    store::Change,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    num::NonZeroU16,
    sync::Arc,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long after a backend has changed the kernel is told, with others that change meanwhile.
// Those of a host that fails do so at nearly the same time.
const GATHER: Duration = Duration::from_millis(100);

/// All balancers, in force or not.
#[derive(Debug, Default)]
pub(super) struct Balancers {
    all: HashMap<Uuid, LoadBalancer>,
    names: BTreeMap<Name, Uuid>,
    pub(super) checks: Checks,
    /// When the kernel is to be told of backends.
    pub(super) due: Option<Instant>,
}

impl Balancers {
    pub(super) fn get(&self, id: Uuid) -> Option<&LoadBalancer> {
        self.all.get(&id)
    }

    pub(super) fn all(&self) -> impl ExactSizeIterator<Item = &LoadBalancer> {
        self.all.values()
    }

    pub(super) fn names(&self) -> &BTreeMap<Name, Uuid> {
        &self.names
    }

    pub(super) fn put(&mut self, old: Option<&LoadBalancer>, new: LoadBalancer) {
        if let Some(old) = old {
            self.names.remove(&old.name);
        }
        self.names.insert(new.name.clone(), new.id);
        self.all.insert(new.id, new);
    }

    pub(super) fn remove(&mut self, id: Uuid) -> Option<LoadBalancer> {
        let balancer = self.all.remove(&id)?;
        self.names.remove(&balancer.name);
        self.checks.set(id, Vec::new());
        Some(balancer)
    }

    /// Returns who has an address of a prefix, in words.
    pub(super) fn owner_within(&self, prefix: IpNet) -> Option<String> {
        let balancer = self.all().find(|balancer| prefix.contains(&balancer.address))?;
        Some(format!("load balancer {}, whose address is {}", balancer.name, balancer.address))
    }

    /// Returns a balancer that serves what a forward would take.
    pub(super) fn at(&self, forward: &Forward) -> Option<&LoadBalancer> {
        self.all().find(|balancer| forward.overlap_of(balancer).is_some())
    }

    /// Returns those of a network.
    pub(super) fn of_network(&self, network: Uuid) -> Vec<Uuid> {
        let its = self.all().filter(|balancer| balancer.network_id == network);
        its.map(|balancer| balancer.id).collect()
    }
}

impl Control {
    /// Says why a balancer is not in force, if it is not.
    pub(super) fn why_unbalanced(&self, balancer: &LoadBalancer) -> Option<String> {
        self.why_unbalanced_beside(balancer, self.routed_prefixes())
    }

    /// Says why what comes to a balancer does not reach its backends; nothing where it does.
    pub(super) fn balancer_error(&self, balancer: &LoadBalancer) -> String {
        let network = self.networks.get(&balancer.network_id).map(|network| &network.model);
        let why = self.why_unbalanced(balancer);
        let why = why.or_else(|| self.why_not_led_out(network?));
        why.or_else(|| self.why_not_announced(balancer.address).cloned()).unwrap_or_default()
    }

    /// As [`Control::why_unbalanced`], beside networks that have these prefixes.
    fn why_unbalanced_beside(
        &self,
        balancer: &LoadBalancer,
        prefixes: &BTreeSet<IpNet>,
    ) -> Option<String> {
        let Some(network) = self.networks.get(&balancer.network_id) else {
            return Some("its network is not there".into());
        };
        let network = &network.model;
        if !network.is_public {
            let name = &network.name;
            return Some(format!(
                "network {name} is not public, and flows within a private one are not balanced: \
                 mvirt network update {name} --public"
            ));
        }
        match self.egress_way() {
            WayOut::Off(why) => Some(format!("egress is off: start with --egress tun ({why})")),
            WayOut::User(_) => {
                Some("only the host's kernel balances: start with --egress tun".into())
            }
            WayOut::Tun(_) => {
                let why = self.why_not_to_be_led_out(network);
                why.or_else(|| self.why_not_of_the_world(balancer.address, prefixes))
            }
        }
    }

    /// Returns where a backend is, where it is anywhere.
    fn backend_at(&self, balancer: &LoadBalancer, backend: &Backend) -> Option<IpAddr> {
        match backend.target {
            BackendTarget::Address(address) => Some(address),
            BackendTarget::NicId(id) => {
                // Made anew with its id, it may be in another network.
                let nic = self.nics.get(&id).map(|nic| &nic.model);
                let nic = nic.filter(|nic| nic.network_id == balancer.network_id)?;
                address_of(nic, balancer.address)
            }
        }
    }

    /// Returns whether a backend is thought to be healthy, and why it is not.
    pub(super) fn backend_health(
        &self,
        balancer: &LoadBalancer,
        backend: &Backend,
    ) -> (bool, String) {
        if self.backend_at(balancer, backend).is_none() {
            return (false, "its vNIC is not there, or not served".into());
        }
        let whose = (balancer.id, backend.target.key(balancer.id));
        match self.balancers.checks.complaint(whose) {
            None => (true, String::new()),
            Some(why) => (false, why.into()),
        }
    }

    /// Whether what is thought of a backend is what its checks have come to.
    pub(super) fn is_backend_checked(&self, balancer: &LoadBalancer, backend: &Backend) -> bool {
        self.balancers.checks.is_checked((balancer.id, backend.target.key(balancer.id)))
    }

    /// Returns what the kernel is to know of balancers, with `change` as if it were in force,
    /// beside networks that have these prefixes; what is as it was `before` is not computed anew.
    pub(super) fn wanted_balancers(
        &self,
        change: Option<&Change>,
        before: &BTreeMap<Uuid, Arc<Balanced>>,
        prefixes: &BTreeSet<IpNet>,
    ) -> BTreeMap<Uuid, Arc<Balanced>> {
        let new = match change {
            Some(Change::PutLoadBalancer(put)) => Some(&put.new),
            _ => None,
        };
        let others = self.balancers.all().filter(|it| new.is_none_or(|new| new.id != it.id));
        let all = others.chain(new);
        let in_force = all.filter(|it| self.why_unbalanced_beside(it, prefixes).is_none());
        in_force.map(|it| (it.id, self.balanced(it, before.get(&it.id)))).collect()
    }

    /// Returns what the kernel is to know of one that is in force.
    fn balanced(&self, balancer: &LoadBalancer, before: Option<&Arc<Balanced>>) -> Arc<Balanced> {
        let place = |backend: &Backend| {
            let address = self.backend_at(balancer, backend)?;
            let is_healthy = self.backend_health(balancer, backend).0;
            let share = Share {
                key: backend.target.key(balancer.id),
                weight: backend.weight.get(),
                is_available: is_healthy && !backend.drained,
            };
            Some(Place { address, share })
        };
        let spec = BalancerSpec {
            id: balancer.id,
            address: balancer.address,
            services: balancer.ports.clone(),
            backends: balancer.backends.iter().filter_map(place).collect(),
            when_empty: match balancer.reject_when_empty {
                true => WhenEmpty::Refuse,
                false => WhenEmpty::Ignore,
            },
        };
        match before.filter(|before| *before.spec() == spec) {
            Some(before) => Arc::clone(before),
            None => Arc::new(Balanced::new(spec)),
        }
    }

    /// Has the backends of all balancers checked that are in force, and no others.
    pub(super) fn settle_checks(&mut self) {
        let all = self.balancers.all();
        let plans: Vec<_> = all.map(|balancer| (balancer.id, self.plans(balancer))).collect();
        for (id, plans) in plans {
            self.balancers.checks.set(id, plans);
        }
    }

    fn plans(&self, balancer: &LoadBalancer) -> Vec<(Uuid, Plan)> {
        let Some(health) = &balancer.health else { return Vec::new() };
        if self.why_unbalanced(balancer).is_some() {
            return Vec::new();
        }
        let port = balancer.checked_port().map_or(0, NonZeroU16::get);
        let plan = |backend: &Backend| {
            let address = self.backend_at(balancer, backend)?;
            let asks = match &health.kind {
                HealthKind::Tcp => Asks::Connection((address, port).into()),
                HealthKind::Http { path } => Asks::Page((address, port).into(), path.clone()),
                HealthKind::Icmp => Asks::Echo(address),
            };
            let plan = Plan {
                asks,
                interval: Duration::from_secs(health.interval_s.get().into()),
                // One that is stored may be of a version that took longer ones.
                timeout: Duration::from_secs(health.timeout_s.get().min(MAX_TIMEOUT).into()),
                patience: Patience { rise: health.rise, fall: health.fall },
            };
            Some((backend.target.key(balancer.id), plan))
        };
        balancer.backends.iter().filter_map(plan).collect()
    }

    /// Takes notice of backends that are thought of otherwise. The kernel is told soon.
    pub(super) fn backends_changed(&mut self, first: Report) {
        let mut next = Some(first);
        while let Some(report) = next {
            self.say_of_backend(&report);
            next = self.balancers.checks.try_next();
        }
        self.balancers.due.get_or_insert_with(|| Instant::now() + GATHER);
    }

    fn say_of_backend(&self, Report { whose: (id, key), is_healthy, why, .. }: &Report) {
        let Some(balancer) = self.balancers.get(*id) else { return };
        let is_it = |backend: &&Backend| backend.target.key(*id) == *key;
        let Some(backend) = balancer.backends.iter().find(is_it) else { return };
        let backend = match backend.target {
            BackendTarget::Address(address) => address.to_string(),
            BackendTarget::NicId(nic) => {
                self.nics.get(&nic).map_or(nic.to_string(), |nic| nic.model.name.to_string())
            }
        };
        let balancer = balancer.name.as_str();
        if *is_healthy {
            tracing::info!(balancer, backend, "backend healthy");
        } else {
            tracing::info!(balancer, backend, why, "backend not healthy");
        }
    }

    /// Tells the kernel of backends that have changed.
    pub(super) fn tell_of_backends(&mut self) {
        self.balancers.due = None;
        self.egress_changed();
        self.settle();
    }
}
