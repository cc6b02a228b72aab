//! Addresses that hosts behind ports have leased (RFC 2131 §4.3): which, and until when.
//!
//! Control gives them out, and publishes the table; a reactor that tells a host of its address says
//! here for how long, without asking anybody. So a lease's end is the one thing in a network that
//! both write: whoever comes first is right, and the other one sees it.

use crate::addr::MacAddr;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How long a host has an address that it has asked for, after each time.
pub const LEASE: Duration = Duration::from_secs(3600);
/// How long an address is kept for a host that it was offered to.
// A client that gets an offer takes one within seconds.
pub const OFFER: Duration = Duration::from_secs(60);

/// The address of a MAC.
#[derive(Debug)]
pub struct Lease {
    /// Whose.
    pub mac: MacAddr,
    /// What it has.
    pub address: IpAddr,
    since: Instant,
    /// Milliseconds after `since`; 0: it was taken away.
    until: AtomicU64,
    /// Its host has found that another one has the address.
    is_declined: AtomicBool,
}

impl Lease {
    /// Returns one that runs for a while.
    pub fn new(mac: MacAddr, address: IpAddr, now: Instant, lasts: Duration) -> Self {
        // One that is over when it begins was not taken away.
        let until = AtomicU64::new((lasts.as_millis() as u64).max(1));
        Self { mac, address, since: now, until, is_declined: AtomicBool::new(false) }
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.since).as_millis() as u64
    }

    /// Returns how long it still runs.
    pub fn left(&self, now: Instant) -> Duration {
        let until = self.until.load(Ordering::Relaxed);
        Duration::from_millis(until.saturating_sub(self.millis(now)))
    }

    /// Returns how long ago it has ended.
    pub fn idle(&self, now: Instant) -> Duration {
        let until = self.until.load(Ordering::Relaxed);
        Duration::from_millis(self.millis(now).saturating_sub(until))
    }

    /// Whether the address is the host's still.
    pub fn runs(&self, now: Instant) -> bool {
        !self.left(now).is_zero()
    }

    /// Lets it run for `lasts` from now on, but not where it has ended. Returns whether it runs.
    pub fn extend(&self, now: Instant, lasts: Duration) -> bool {
        let now = self.millis(now);
        let later = now + lasts.as_millis() as u64;
        // In one step: control may take it away just now.
        let extended = self.until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
            (until > now).then_some(until.max(later))
        });
        extended.is_ok()
    }

    /// Ends it: the host has no need of it any more.
    pub fn end(&self, now: Instant) {
        let now = self.millis(now).max(1);
        self.until.fetch_min(now, Ordering::Relaxed);
    }

    /// Ends it: the host has found that another one has the address (RFC 2131 §4.3.3).
    pub fn decline(&self, now: Instant) {
        // Before the end: who sees that sees this.
        self.is_declined.store(true, Ordering::Release);
        self.end(now);
    }

    /// Whether another host has the address.
    pub fn is_declined(&self) -> bool {
        self.is_declined.load(Ordering::Acquire)
    }

    /// Takes it away for good, but not while it runs. Returns whether that is so.
    pub fn revoke(&self, now: Instant) -> bool {
        let now = self.millis(now);
        let taken = self.until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
            (until <= now).then_some(0)
        });
        taken.is_ok()
    }

    /// Gives the address to the same host again, which it was not taken from. For control alone.
    pub fn begin(&self, now: Instant, lasts: Duration) {
        let later = self.millis(now) + lasts.as_millis() as u64;
        self.until.fetch_max(later, Ordering::Relaxed);
    }
}

/// The leases of a network.
#[derive(Debug, Default)]
pub struct Leases {
    /// Of IPv4, and of IPv6.
    by_mac: [HashMap<MacAddr, Arc<Lease>>; 2],
    by_address: HashMap<IpAddr, Arc<Lease>>,
}

impl FromIterator<Arc<Lease>> for Leases {
    fn from_iter<T: IntoIterator<Item = Arc<Lease>>>(leases: T) -> Self {
        let mut all = Self::default();
        for lease in leases {
            let family = usize::from(lease.address.is_ipv6());
            all.by_mac[family].insert(lease.mac, Arc::clone(&lease));
            all.by_address.insert(lease.address, lease);
        }
        all
    }
}

impl Leases {
    /// Returns what a MAC has leased, and the address, where that is of IPv4.
    pub fn ipv4(&self, mac: MacAddr) -> Option<(&Lease, Ipv4Addr)> {
        let lease = self.by_mac[0].get(&mac)?;
        match lease.address {
            IpAddr::V4(address) => Some((lease, address)),
            IpAddr::V6(_) => None,
        }
    }

    /// Returns what a MAC has leased, and the address, where that is of IPv6.
    pub fn ipv6(&self, mac: MacAddr) -> Option<(&Lease, Ipv6Addr)> {
        let lease = self.by_mac[1].get(&mac)?;
        match lease.address {
            IpAddr::V6(address) => Some((lease, address)),
            IpAddr::V4(_) => None,
        }
    }

    /// Returns the MAC that has an address now.
    pub fn holder(&self, address: IpAddr, now: Instant) -> Option<MacAddr> {
        let lease = self.by_address.get(&address).filter(|lease| lease.runs(now))?;
        Some(lease.mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    #[test]
    fn a_lease_runs_until_it_is_over_and_is_taken_away_only_then() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let lease = Lease::new(MAC, [10, 0, 0, 9].into(), start, OFFER);
        assert!(lease.runs(after(59)) && !lease.runs(after(60)));
        assert!(!lease.revoke(after(59)));
        assert!(lease.extend(after(59), LEASE));
        assert_eq!(lease.left(after(59)), LEASE);
        assert!(lease.extend(after(59), OFFER), "an offer makes no lease shorter");
        assert_eq!(lease.left(after(59)), LEASE);
        assert!(!lease.extend(after(59 + 3600), LEASE), "it has ended");
        assert!(lease.revoke(after(59 + 3600)));
        // A reactor's clock may be a little late.
        assert!(!lease.extend(after(50), LEASE), "it is another's by now");
    }

    #[test]
    fn who_has_an_address_is_known_while_the_lease_runs() {
        let start = Instant::now();
        let lease = |address: IpAddr| Arc::new(Lease::new(MAC, address, start, LEASE));
        let [ipv4, ipv6]: [IpAddr; 2] = [[10, 0, 0, 9].into(), "fd00::9".parse().unwrap()];
        let leases: Leases = [ipv4, ipv6].map(lease).into_iter().collect();
        assert_eq!(leases.ipv4(MAC).map(|(_, address)| address.into()), Some(ipv4));
        assert_eq!(leases.ipv6(MAC).map(|(_, address)| address.into()), Some(ipv6));
        assert!(leases.ipv4(MacAddr([2, 0, 0, 0, 0, 8])).is_none());
        assert_eq!(leases.holder(ipv4, start), Some(MAC));
        assert_eq!(leases.holder([10, 0, 0, 8].into(), start), None);
        let (lease, _) = leases.ipv4(MAC).unwrap();
        lease.decline(start);
        assert!(lease.is_declined());
        assert_eq!(leases.holder(ipv4, start + Duration::from_millis(1)), None);
        assert_eq!(leases.holder(ipv6, start), Some(MAC), "each by itself");
    }
}
