//! What watchers are told of forwards, floating IPs and load balancers, whose state follows from
//! much else: vNICs, networks, the way out, health checks.
//!
//! ```text
//! anything changed ──▶ due (100 ms) ──▶ all are looked at ──▶ those that differ from what was told
//! ```
//! Nothing is done while nobody watches; what is kept of them goes with the first look that finds
//! no watcher.

use super::{
    Control,
    refusal::Refusal,
    watch::{Change, SETTLING, Watch},
};
use crate::proto;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::broadcast;
use uuid::Uuid;

/// Events a watcher may be behind.
// All forwards may fail at once, with the way out. A power of two, to which tokio rounds it.
const BACKLOG: usize = 8192;
/// From one look to the next it takes so many times as long as a look takes: most of the time is
/// Control's.
const PAUSE: u32 = 10;

/// An object, and the id of the network that it is in.
type Placed<T> = (Uuid, Uuid, T);

/// Objects of a kind, as watchers know them.
#[derive(Debug)]
struct Followed<T> {
    told: HashMap<Uuid, (Uuid, Arc<T>)>,
    /// Absent: nobody has watched since the last look.
    events: Option<broadcast::Sender<Change<T>>>,
}

/// All that is followed.
#[derive(Debug, Default)]
pub(super) struct Followers {
    forwards: Followed<proto::Forward>,
    floating_ips: Followed<proto::FloatingIp>,
    load_balancers: Followed<proto::LoadBalancer>,
    /// When to look next, if at all.
    pub(super) due: Option<Instant>,
    /// How long the last look took.
    took: Duration,
}

impl<T> Default for Followed<T> {
    fn default() -> Self {
        Self { told: HashMap::new(), events: None }
    }
}

impl<T: PartialEq> Followed<T> {
    fn is_watched(&self) -> bool {
        self.events.as_ref().is_some_and(|events| events.receiver_count() > 0)
    }

    /// Tells what is otherwise `now`.
    fn tell(&mut self, now: Vec<Placed<T>>) {
        let mut gone = std::mem::take(&mut self.told);
        for (id, network, object) in now {
            let old = gone.remove(&id);
            let is_as_told =
                old.as_ref().is_some_and(|(at, told)| *at == network && **told == object);
            let object = match old {
                Some((_, told)) if is_as_told => told,
                old => {
                    // Who watches the network that it was in is told that it is gone from there.
                    if let Some((before, _)) = old.filter(|(before, _)| *before != network) {
                        self.send(Change::left(id, vec![before]));
                    }
                    let object = Arc::new(object);
                    self.send(Change::new(id, vec![network], Some(Arc::clone(&object))));
                    object
                }
            };
            self.told.insert(id, (network, object));
        }
        for (id, (network, _)) in gone {
            self.send(Change::new(id, vec![network], None));
        }
    }

    fn send(&self, change: Change<T>) {
        // Without watchers there is nobody to tell.
        if let Some(events) = &self.events {
            events.send(change).ok();
        }
    }

    /// Returns what there is `now`, of one network if it is given, and every change from now on.
    fn watch(&mut self, now: Vec<Placed<T>>, network: Option<Uuid>) -> Watch<T> {
        // First those who watch already: for the new one it is the present.
        self.tell(now);
        let present = self.told.iter().filter(|(_, (at, _))| network.is_none_or(|it| it == *at));
        let present = present
            .map(|(id, (at, object))| Change::new(*id, vec![*at], Some(Arc::clone(object))))
            .collect();
        let events = self.events.get_or_insert_with(|| broadcast::Sender::new(BACKLOG));
        Watch { present, changes: events.subscribe(), network }
    }

    /// Tells what is otherwise `now`; forgets it all where nobody watches any more.
    fn look(&mut self, now: impl FnOnce() -> Vec<Placed<T>>) {
        if self.is_watched() {
            self.tell(now());
        } else {
            *self = Self::default();
        }
    }
}

impl Control {
    /// Has those looked at soon whose state may be another one.
    pub(super) fn follow(&mut self) {
        let all = &self.followers;
        // Not whether somebody watches: of whom the last watcher has left is to be forgotten.
        let is_kept = all.forwards.events.is_some()
            || all.floating_ips.events.is_some()
            || all.load_balancers.events.is_some();
        if is_kept && all.due.is_none() {
            let wait = SETTLING.max(all.took * PAUSE);
            self.followers.due = Some(Instant::now() + wait);
        }
    }

    /// Tells watchers what has changed.
    pub(super) fn tell_followers(&mut self) {
        let began = Instant::now();
        let mut all = std::mem::take(&mut self.followers);
        all.forwards.look(|| self.placed_forwards());
        all.floating_ips.look(|| self.placed_floating_ips());
        all.load_balancers.look(|| self.placed_balancers());
        self.followers = Followers { due: None, took: began.elapsed(), ..all };
    }

    fn placed_forwards(&self) -> Vec<Placed<proto::Forward>> {
        let all = self.nat.forwards();
        all.map(|it| (it.id, it.network_id, self.forward_view(it))).collect()
    }

    fn placed_floating_ips(&self) -> Vec<Placed<proto::FloatingIp>> {
        let all = self.nat.floating_ips();
        all.map(|it| (it.id, it.network_id, self.floating_ip_view(it))).collect()
    }

    fn placed_balancers(&self) -> Vec<Placed<proto::LoadBalancer>> {
        let all = self.balancers.all();
        all.map(|it| (it.id, it.network_id, self.balancer_view(it))).collect()
    }

    /// The forwards now, and every change from now on.
    pub(super) fn watch_forwards(
        &mut self,
        request: &proto::WatchForwardsRequest,
    ) -> Result<Watch<proto::Forward>, Refusal> {
        let (only, now) = (self.find_only(&request.network_id)?, self.placed_forwards());
        Ok(self.followers.forwards.watch(now, only))
    }

    /// The floating IPs now, and every change from now on.
    pub(super) fn watch_floating_ips(
        &mut self,
        request: &proto::WatchFloatingIpsRequest,
    ) -> Result<Watch<proto::FloatingIp>, Refusal> {
        let (only, now) = (self.find_only(&request.network_id)?, self.placed_floating_ips());
        Ok(self.followers.floating_ips.watch(now, only))
    }

    /// The load balancers now, and every change from now on.
    pub(super) fn watch_load_balancers(
        &mut self,
        request: &proto::WatchLoadBalancersRequest,
    ) -> Result<Watch<proto::LoadBalancer>, Refusal> {
        let (only, now) = (self.find_only(&request.network_id)?, self.placed_balancers());
        Ok(self.followers.load_balancers.watch(now, only))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::rig::Rig;

    /// Returns the ids that a watcher of a network is told of, and what of each.
    fn told(watch: &mut Watch<&'static str>) -> Vec<(u128, Option<&'static str>)> {
        let network = watch.network;
        let changes = std::iter::from_fn(|| watch.changes.try_recv().ok());
        let changes = changes.filter(|change| change.is_for(network));
        changes.map(|it| (it.id.as_u128(), it.object.map(|object| *object))).collect()
    }

    #[test]
    fn only_what_differs_is_told() {
        let [one, two] = [1, 2].map(Uuid::from_u128);
        let placed = |id, network, text| (Uuid::from_u128(id), network, text);
        let mut followed = Followed::<&str>::default();
        assert!(!followed.is_watched());
        let first = vec![placed(7, one, "a"), placed(8, two, "b")];
        let mut all = followed.watch(first.clone(), None);
        let mut of_one = followed.watch(first.clone(), Some(one));
        assert_eq!((all.present.len(), of_one.present.len()), (2, 1));
        followed.tell(first);
        assert_eq!((told(&mut all), told(&mut of_one)), (vec![], vec![]));
        followed.tell(vec![placed(7, one, "c"), placed(8, two, "b")]);
        assert_eq!(told(&mut all), [(7, Some("c"))]);
        assert_eq!(told(&mut of_one), [(7, Some("c"))]);
        // It goes to another network.
        followed.tell(vec![placed(7, two, "c"), placed(8, two, "b")]);
        assert_eq!(told(&mut all), [(7, Some("c"))]);
        assert_eq!(told(&mut of_one), [(7, None)]);
        followed.tell(vec![placed(7, two, "c")]);
        assert_eq!((told(&mut all), told(&mut of_one)), (vec![(8, None)], vec![]));
        drop((all, of_one));
        assert!(!followed.is_watched());
        followed.look(|| panic!("nobody wants to know"));
        assert!(followed.told.is_empty() && followed.events.is_none());
    }

    #[test]
    fn it_is_looked_again_after_changes_and_not_after_requests_that_read() {
        let rig = Rig::new();
        rig.say(|_| true);
        let request = proto::WatchForwardsRequest::default();
        let watch = rig.call(move |control| control.watch_forwards(&request)).unwrap();
        let rest = || {
            rig.call(|control| {
                control.tell_followers();
                // The next look is not within this test.
                control.followers.took = Duration::from_secs(60);
            });
        };
        let create = |name| {
            rig.say(|_| true);
            rig.answer(rig.create(name, "")).unwrap();
        };
        let is_due = || rig.call(|control| control.followers.due.is_some());
        rest();
        rig.listed();
        assert!(!is_due(), "nothing has changed");
        create("second");
        assert!(is_due());
        rest();
        // What is kept goes with the last watcher.
        drop(watch);
        create("third");
        assert!(is_due());
        rest();
        assert!(rig.call(|control| control.followers.forwards.events.is_none()));
        rig.end();
    }
}
