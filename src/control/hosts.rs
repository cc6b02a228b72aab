//! Hosts behind ports that lease addresses.
//!
//! ```text
//! reactor: a host unknown ──▶ host_asked: an address ──▶ settle: stored, published, handed back
//!                             keep_leases: stored again, where reactors have extended many
//! ```
//! A reactor answers by the published table, and extends what is in it without a word. So what is
//! stored of a lease lags behind it, but never by more than [`LEASE`]: so much longer another
//! process takes it to run.

use super::{
    Control, NetworkState,
    ipam::number,
    leases::{Asker, Entry, LeasePool, Leased},
};
use crate::{
    addr::MacAddr,
    dataplane::{
        Asked, Client, Placement,
        forward::{LEASE, Lease, Leases, tables::PortId},
    },
    log_limit::{LogLimit, Said},
    model::{self, StoredLease},
    store::{Change, Put},
};
use jiff::Timestamp;
use std::{
    collections::BTreeMap,
    net::IpAddr,
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How often is looked whether what is stored lags behind.
// By then it may lag by this much more than the half of [`LEASE`] that it may.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(60);
const MAY_LAG: Duration = Duration::from_secs(LEASE.as_secs() / 2);

/// What a network has leased to hosts behind its ports.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    /// Of IPv4, and of IPv6; absent where none is leased.
    pools: [Option<LeasePool>; 2],
    published: Option<Arc<Leases>>,
    stored: Option<model::Leases>,
    log: LogLimit,
    /// When no address was free last.
    pub(super) empty_at: Option<Timestamp>,
}

/// A question of a host that waits for what follows from it to be in force.
#[derive(Debug)]
pub(super) struct Question {
    network: Uuid,
    place: Placement,
    leased: Leased,
    asked: Asked,
}

/// What the API shows of a host.
#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) addresses: [Option<IpAddr>; 2],
    pub(super) left: Duration,
    pub(super) client: Client,
    pub(super) port: Option<PortId>,
}

impl Hosts {
    /// Returns what is published.
    pub(super) fn leases(&self) -> Option<Arc<Leases>> {
        self.published.clone()
    }

    /// Leases another range of a family; what is beyond it is forgotten.
    fn set_range(&mut self, family: usize, range: Option<RangeInclusive<IpAddr>>) {
        let old = self.pools[family].take();
        self.pools[family] = range.map(|range| {
            let mut pool = LeasePool::new(&range);
            old.into_iter().flat_map(LeasePool::into_entries).for_each(|it| pool.adopt(it));
            pool
        });
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.pools.iter().flatten().flat_map(LeasePool::entries)
    }

    /// Makes anew what is published.
    fn compile(&mut self) {
        let leases = || self.entries().map(|entry| Arc::clone(&entry.lease)).collect();
        let serves = self.pools.iter().any(Option::is_some);
        self.published = serves.then(|| Arc::new(leases()));
    }

    /// Takes over what another process has stored.
    fn restore(&mut self, stored: model::Leases, now: Instant, at: Timestamp) {
        for lease in &stored.leases {
            // It may have been extended since, but not for longer than a lease from now on.
            let ends = lease.until.checked_add(LEASE).ok();
            let lasts = ends.and_then(|ends| Duration::try_from(ends.duration_since(at)).ok());
            let lasts = lasts.unwrap_or_default().min(LEASE);
            let Some(pool) = &mut self.pools[usize::from(lease.address.is_ipv6())] else {
                continue;
            };
            let (hostname, vendor_class) = (lease.hostname.clone(), lease.vendor_class.clone());
            pool.adopt(Entry {
                lease: Arc::new(Lease::new(lease.mac, lease.address, now, lasts)),
                client: Client { hostname, vendor_class },
                port: None,
                stored_until: now + lasts,
            });
        }
        self.stored = Some(stored);
        self.compile();
    }

    /// Whether what is stored lags behind what is.
    fn lags(&self, now: Instant) -> bool {
        self.entries().any(|entry| now + entry.lease.left(now) > entry.stored_until + MAY_LAG)
    }

    fn to_store(&self, network_id: Uuid, now: Instant, at: Timestamp) -> model::Leases {
        let leases = self.entries().map(|entry| StoredLease {
            mac: entry.lease.mac,
            address: entry.lease.address,
            until: at + entry.lease.left(now),
            hostname: entry.client.hostname.clone(),
            vendor_class: entry.client.vendor_class.clone(),
        });
        model::Leases { network_id, leases: leases.collect() }
    }

    /// Returns the MACs that lease anything now.
    pub(super) fn leasing(&self, now: Instant) -> BTreeMap<MacAddr, Host> {
        let mut hosts = BTreeMap::<_, Host>::new();
        for entry in self.entries().filter(|entry| entry.lease.runs(now)) {
            let host = hosts.entry(entry.lease.mac).or_default();
            host.addresses[usize::from(entry.lease.address.is_ipv6())] = Some(entry.lease.address);
            host.left = host.left.max(entry.lease.left(now));
            host.port = host.port.or(entry.port);
            // What one family's client does not say, the other's may.
            if host.client.hostname.is_empty() {
                host.client.hostname.clone_from(&entry.client.hostname);
            }
            if host.client.vendor_class.is_empty() {
                host.client.vendor_class.clone_from(&entry.client.vendor_class);
            }
        }
        hosts
    }
}

impl NetworkState {
    /// Leases what its model says.
    pub(super) fn follow_pool(&mut self) {
        let ranges = [self.model.leased_ipv4(), self.model.leased_ipv6()];
        for (family, range) in ranges.into_iter().enumerate() {
            let pool = if family == 0 { &mut self.ipv4 } else { &mut self.ipv6 };
            if let Some(pool) = pool {
                let numbers = range.as_ref().map(|it| number(*it.start())..=number(*it.end()));
                pool.set_leased(numbers);
            }
            self.hosts.set_range(family, range);
        }
        self.hosts.compile();
    }
}

impl Control {
    /// Takes over what hosts have leased from another process.
    pub(super) fn adopt_leases(&mut self, stored: model::Leases) {
        if let Some(network) = self.networks.get_mut(&stored.network_id) {
            network.hosts.restore(stored, Instant::now(), Timestamp::now());
        }
    }

    /// A host behind a port has asked for an address.
    pub(super) fn host_asked(&mut self, port: PortId, asked: Asked) {
        let mut networks = self.networks.iter_mut();
        let found = networks.find(|(_, network)| network.key == asked.network);
        let Some((id, network)) = found.map(|(id, network)| (*id, network)) else { return };
        let member = network.members.get(&port.slot).or_else(|| network.bridges.get(&port.slot));
        let Some(member) = member.filter(|member| member.entry.port() == port) else { return };
        let (now, family) = (Instant::now(), usize::from(asked.is_ipv6()));
        let pool = &mut network.hosts.pools[family];
        let addresses = if family == 0 { &network.ipv4 } else { &network.ipv6 };
        let leased = match (pool, addresses) {
            // A vNIC's guest has its own.
            (Some(pool), Some(addresses)) if !network.macs.contains(&asked.mac) => {
                let port = (port, member.entry.mac_limit());
                let asker = Asker { mac: asked.mac, port, client: asked.client.clone() };
                pool.lease(asker, |from| addresses.next_free(from), now)
            }
            // What it is leased was changed meanwhile.
            _ => Leased::PortFull,
        };
        let place = Placement { port, reactor: member.entry.reactor };
        let is_new = leased == Leased::Anew;
        if is_new || network.hosts.lags(now) {
            self.unstored.insert(id);
        }
        if is_new {
            self.unpublished.insert(id);
        }
        if leased == Leased::Empty {
            self.note_empty(id, now);
        }
        self.questions.push(Question { network: id, place, leased, asked });
    }

    /// Says that a network has no address left for hosts.
    fn note_empty(&mut self, id: Uuid, now: Instant) {
        let Some(network) = self.networks.get_mut(&id) else { return };
        network.hosts.empty_at = Some(Timestamp::now());
        // Hosts ask again and again.
        if let Some(Said { unsaid }) = network.hosts.log.failure("none is free", now) {
            tracing::warn!(
                network = network.model.name.as_str(),
                unsaid,
                "dhcp_pool_empty: a host asked for an address, and none is free"
            );
            let text = format!("network {}: no address is free in dhcp_pool", network.model.name);
            self.events.limit_reached(text, [id]);
            self.tell_network(id);
        }
    }

    /// Stores what hosts have leased, where that is due. What cannot be stored is not given.
    pub(super) fn store_leases(&mut self) {
        if self.unstored.is_empty() {
            return;
        }
        let (now, at) = (Instant::now(), Timestamp::now());
        let ids: Vec<_> = self.unstored.drain().collect();
        let changes = ids.iter().filter_map(|id| {
            let hosts = &self.networks.get(id)?.hosts;
            let new = hosts.to_store(*id, now, at);
            Some(Change::PutLeases(Put { old: hosts.stored.clone(), new }.into()))
        });
        let changes: Vec<_> = changes.collect();
        let stored = self.commit(&changes.iter().collect::<Vec<_>>());
        if let Err(error) = &stored {
            tracing::warn!(%error, "no address is leased to a host, since that cannot be stored");
            for question in self.questions.iter().filter(|it| it.leased == Leased::Anew) {
                let network = self.networks.get_mut(&question.network);
                let family = usize::from(question.asked.is_ipv6());
                if let Some(pool) = network.and_then(|it| it.hosts.pools[family].as_mut()) {
                    pool.take_back(question.asked.mac);
                }
            }
        }
        for change in changes {
            let Change::PutLeases(leases) = change else { continue };
            let Some(network) = self.networks.get_mut(&leases.new.network_id) else { continue };
            if stored.is_ok() {
                let pools = network.hosts.pools.iter_mut().flatten();
                pools.for_each(|pool| pool.note_stored(now));
                network.hosts.stored = Some(leases.new);
            }
            network.hosts.compile();
        }
    }

    /// Hands questions back whose answers follow from what is published.
    pub(super) fn return_questions(&mut self) {
        for Question { place, asked, .. } in self.questions.drain(..) {
            self.dataplane.answer(place, asked);
        }
    }

    /// Stores leases anew where reactors have extended them.
    pub(super) fn keep_leases(&mut self) {
        let now = Instant::now();
        let lagging = self.networks.iter().filter(|(_, network)| network.hosts.lags(now));
        self.unstored.extend(lagging.map(|(id, _)| *id));
        self.store_leases();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_lags_behind_but_no_lease_is_forgotten_before_its_end() {
        let (start, at) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let after = |seconds| start + Duration::from_secs(seconds);
        let range = IpAddr::from([10, 0, 0, 8])..=[10, 0, 0, 9].into();
        let mut hosts = Hosts::default();
        hosts.set_range(0, Some(range.clone()));
        let mac = MacAddr([2, 0, 0, 0, 0, 9]);
        let port = (PortId { slot: 1, generation: 1 }, 9);
        let client = Client { hostname: "nine".into(), ..Client::default() };
        let pool = hosts.pools[0].as_mut().unwrap();
        assert_eq!(pool.lease(Asker { mac, port, client }, Some, start), Leased::Anew);
        let stored = hosts.to_store(Uuid::nil(), start, at);
        hosts.pools[0].as_mut().unwrap().note_stored(start);
        let lease = Arc::clone(&hosts.entries().next().unwrap().lease);
        assert!(lease.extend(after(10), LEASE));
        assert!(hosts.lags(after(10)), "what was offered is leased by now");
        hosts.pools[0].as_mut().unwrap().note_stored(after(10));
        assert!(lease.extend(after(1800), LEASE) && !hosts.lags(after(1800)));
        assert!(lease.extend(after(1811), LEASE) && hosts.lags(after(1811)));
        // Another process, which knows what was stored first, at the time of the last extension.
        let restored = |seconds: i64| {
            let mut hosts = Hosts::default();
            hosts.set_range(0, Some(range.clone()));
            let at = at + jiff::SignedDuration::from_secs(seconds);
            hosts.restore(stored.clone(), start, at);
            let later = start + Duration::from_millis(1);
            let left = hosts.leasing(later).remove(&mac).map(|host| host.left.as_millis());
            (left, hosts.entries().next().unwrap().client.hostname.clone())
        };
        assert_eq!(restored(10), (Some(3_599_999), "nine".into()));
        assert_eq!(restored(3000), (Some(659_999), "nine".into()));
        assert_eq!(restored(9000), (None, "nine".into()), "it is remembered all the same");
    }

    #[test]
    fn a_range_that_changes_keeps_what_is_in_it() {
        let (now, mut hosts) = (Instant::now(), Hosts::default());
        let ipv4 = |last: u8| IpAddr::from([10, 0, 0, last]);
        hosts.set_range(0, Some(ipv4(8)..=ipv4(20)));
        for number in 0..4 {
            let port = (PortId { slot: 1, generation: 1 }, 9);
            let mac = MacAddr([2, 0, 0, 0, 0, number]);
            let asker = Asker { mac, port, client: Client::default() };
            hosts.pools[0].as_mut().unwrap().lease(asker, Some, now);
        }
        hosts.set_range(0, Some(ipv4(10)..=ipv4(30)));
        let kept: Vec<_> = hosts.entries().map(|entry| entry.lease.address).collect();
        assert_eq!(kept, [ipv4(10), ipv4(11)]);
        hosts.set_range(0, None);
        hosts.compile();
        assert!(hosts.leases().is_none());
    }
}
