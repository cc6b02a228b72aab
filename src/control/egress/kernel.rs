//! The host's kernel as the way out: what it is told, what of that it does not take, and what
//! others have it forget.
//!
//! ```text
//! wanted ─▶ let_know: claim, device, apply ─▶ left out? ─ tables, watchers, degraded; tried again
//! a change of others ─ soon after ─▶ is all as it was made? ─ no ─▶ let_know anew
//! ```

use super::{Control, Egress, WayOut};
use crate::{
    host_network::{HostNetwork, HostNetworkError, LeftOut, Wanted, Watch},
    log_limit::Said,
    store::Change,
};
use std::{
    io,
    net::IpAddr,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Notify,
    task::JoinSet,
    time::MissedTickBehavior,
};
use uuid::Uuid;

/// How soon what the host does not take is tried again, and what an earlier daemon has left.
// A try is two runs of nft at most: 20 ms.
const RETRY: Duration = Duration::from_secs(5);
/// How often it is looked whether nftables have changed.
// Two system calls.
const LOOK: Duration = Duration::from_secs(2);
/// How long after a change others are waited for: who sets up an interface changes much at once.
const GATHER: Duration = Duration::from_millis(200);

/// What ails the kernel's way.
#[derive(Debug, Default)]
pub(super) struct Ailing {
    /// Why nothing could be told to it, or not all.
    failure: Option<String>,
    /// Which networks and addresses it does not take.
    left_out: LeftOut,
    /// The device whose remains of an earlier daemon may be there.
    remains: Option<String>,
    /// Listens while there is something to forget.
    listening: JoinSet<()>,
}

impl Ailing {
    /// With what an earlier daemon may have left.
    pub(super) fn after_another(device: &str) -> Self {
        Self { remains: Some(device.into()), ..Self::default() }
    }
}

impl Control {
    /// Makes the port where it is not there, and lets the kernel know what is wanted.
    pub(super) fn let_know(&mut self, wanted: &Wanted) -> io::Result<()> {
        let outcome = self.try_let_know(wanted);
        self.egress.ailing.failure = outcome.as_ref().err().map(ToString::to_string);
        self.note_left_out();
        outcome
    }

    fn try_let_know(&mut self, wanted: &Wanted) -> io::Result<()> {
        // First: what another daemon has made is not touched.
        if let WayOut::Tun(host) = &mut self.egress.way {
            host.claim().map_err(io::Error::other)?;
        }
        if self.egress.attached.is_none() {
            self.attach_outside(None)?;
        }
        let Egress { way, known, retry, .. } = &mut self.egress;
        if let WayOut::Tun(host) = way {
            host.apply(wanted, known).map_err(io::Error::other)?;
            if host.left() > 0 {
                // Others are to have their turn between two long changes.
                *retry = Some(Instant::now());
            }
        }
        let is_other_mtu = known.mtu != wanted.mtu;
        *known = wanted.clone();
        if is_other_mtu {
            self.publish_public();
        }
        self.listen_to_host();
        Ok(())
    }

    /// As [`Control::let_know`] for a change, which is refused where the host does not take it.
    pub(super) fn let_know_of(&mut self, change: &Change, wanted: &Wanted) -> io::Result<()> {
        let (known, before) = (self.egress.known.clone(), self.left_out());
        let failure = self.egress.ailing.failure.clone();
        if let Err(error) = self.let_know(wanted) {
            // The kernel knows what it knew.
            self.egress.ailing.failure = failure;
            self.tell_ailing();
            return Err(error);
        }
        let Some(why) = refused(change, &before, &self.left_out()) else { return Ok(()) };
        if !known.prefixes.is_empty()
            && let Err(error) = self.let_know(&known)
        {
            self.say_failure(&error);
        }
        Err(io::Error::other(why))
    }

    fn left_out(&self) -> LeftOut {
        match &self.egress.way {
            WayOut::Tun(host) => host.left_out().clone(),
            WayOut::Off(_) | WayOut::User(_) => LeftOut::default(),
        }
    }

    /// Says why a network is not led out though it is to be, where the host does not take it.
    pub(in crate::control) fn why_left_out(&self, network: Uuid) -> Option<&String> {
        self.egress.ailing.left_out.networks.get(&network)
    }

    /// Likewise of an address of the world.
    pub(in crate::control) fn why_not_announced(&self, address: IpAddr) -> Option<&String> {
        self.egress.ailing.left_out.addresses.get(&address)
    }

    /// Says that the kernel does not know what it is to know, and tries again soon.
    pub(super) fn say_failure(&mut self, error: &io::Error) {
        let now = Instant::now();
        self.egress.look_again();
        if let Some(Said { unsaid }) = self.egress.log.failure(&error.to_string(), now) {
            tracing::warn!(
                %error, unsaid,
                "the host does not know what it is to know of public networks"
            );
            let text = "public networks have no way out as they should";
            self.note_egress(text, &error.to_string());
        }
    }

    /// Takes notice of what the host does not take of what it was told last.
    fn note_left_out(&mut self) {
        let now = self.left_out();
        if !now.is_empty() {
            let retry = self.egress.retry.get_or_insert_with(|| Instant::now() + RETRY);
            *retry = (*retry).min(Instant::now() + RETRY);
        }
        let before = std::mem::replace(&mut self.egress.ailing.left_out, now.clone());
        if now != before {
            for (address, why) in &now.addresses {
                if before.addresses.get(address) != Some(why) {
                    tracing::warn!(%address, why, "does not lead to its guest");
                }
            }
            let either = now.networks.keys().chain(before.networks.keys());
            let changed: Vec<_> = either
                .filter(|id| now.networks.get(id) != before.networks.get(id))
                .copied()
                .collect();
            for id in changed {
                self.network_left_out(id, now.networks.get(&id));
            }
            self.publish_public();
        }
        self.tell_ailing();
    }

    /// Says that a network is left out, or no longer so. Of one that is refused, its caller is
    /// told.
    fn network_left_out(&mut self, id: Uuid, why: Option<&String>) {
        let Some(network) = self.networks.get(&id).filter(|network| network.model.is_public) else {
            return;
        };
        let network = network.model.name.as_str();
        match why {
            Some(why) => tracing::warn!(network, why, "has no way out"),
            None => tracing::info!(network, "has its way out again"),
        }
        self.tell_network(id);
    }

    /// Returns what of the way out does not work, in words.
    pub(super) fn ailments(&self) -> Vec<String> {
        let Ailing { failure, left_out, .. } = &self.egress.ailing;
        let failure = failure.as_ref().filter(|_| self.public_networks().next().is_some());
        let failure = failure.map(|why| format!("public networks: {why}"));
        let networks = left_out.networks.iter().filter_map(|(id, why)| {
            let network = &self.networks.get(id)?.model;
            network.is_public.then(|| format!("network {} has no way out: {why}", network.name))
        });
        let addresses = left_out.addresses.iter();
        let addresses =
            addresses.map(|(at, why)| format!("{at} does not lead to its guest: {why}"));
        failure.into_iter().chain(networks).chain(addresses).collect()
    }

    pub(super) fn tell_ailing(&mut self) {
        let ailments = self.ailments();
        self.health.set_outside(ailments);
    }

    /// Has somebody listen to what others change.
    fn listen_to_host(&mut self) {
        let WayOut::Tun(host) = &self.egress.way else { return };
        // One that has ended is followed by another.
        while self.egress.ailing.listening.try_join_next().is_some() {}
        if !self.egress.ailing.listening.is_empty() {
            return;
        }
        match host.watch() {
            Ok(watch) => {
                let changed = Arc::clone(&self.egress.host_changed);
                self.egress.ailing.listening.spawn(listen(watch, changed));
            }
            Err(error) => {
                if let Some(Said { unsaid }) =
                    self.egress.log.failure(&error.to_string(), Instant::now())
                {
                    tracing::warn!(%error, unsaid, "what others change is not noticed");
                }
            }
        }
    }

    /// Looks whether the kernel still knows what it was told, and tells it anew if not.
    pub(in crate::control) fn host_has_changed(&mut self) {
        let WayOut::Tun(host) = &mut self.egress.way else { return };
        if self.egress.attached.is_none() || self.egress.known.prefixes.is_empty() {
            return;
        }
        let lost = match host.what_has_changed() {
            Ok(None) => return,
            Ok(Some(what)) => what,
            // It is told anew, and that says what is wrong.
            Err(_) => "all",
        };
        host.forget();
        if let Some(Said { unsaid }) = self.egress.log.line(Instant::now()) {
            tracing::info!(lost, unsaid, "the host's network has changed: it is told anew");
        }
        let wanted = self.wanted(None);
        if let Err(error) = self.let_know(&wanted) {
            self.say_failure(&error);
        }
        self.settle();
    }

    /// Removes what an earlier daemon has left, where this one does not need it.
    pub(super) fn clear_remains(&mut self) {
        if matches!(self.egress.way, WayOut::Tun(_)) && self.egress.place.is_some() {
            // It goes on with it.
            self.egress.ailing.remains = None;
            return;
        }
        let Some(device) = &self.egress.ailing.remains else { return };
        let error = match HostNetwork::clear(device) {
            Ok(()) => {
                self.egress.ailing.remains = None;
                return;
            }
            Err(error) => error,
        };
        match &error {
            // Once that has ended, it is looked again.
            HostNetworkError::Claimed => {}
            // Who may not do this now never may.
            HostNetworkError::Left { .. } => {
                self.egress.ailing.remains = None;
                tracing::warn!(%error, "an earlier daemon has left what it told the kernel");
                return;
            }
            error => {
                let now = Instant::now();
                if let Some(Said { unsaid }) = self.egress.log.failure(&error.to_string(), now) {
                    tracing::warn!(
                        %error, unsaid,
                        "what the kernel was told of public networks is left: mvirt-net --cleanup"
                    );
                }
            }
        }
        self.egress.retry = Some(Instant::now() + RETRY);
    }

    /// The kernel is to forget what it knows of public networks.
    pub(super) fn end_kernel(&mut self, known: &Wanted) {
        let WayOut::Tun(host) = &mut self.egress.way else { return };
        let removed = host.remove(&known.prefixes);
        self.egress.ailing = Ailing::default();
        if let Err(error) = removed {
            tracing::warn!(
                %error,
                "what the kernel was told of public networks is left: it is tried again"
            );
            self.expect_remains();
        }
    }

    /// Something may be there that nobody needs: it is looked for soon.
    pub(super) fn expect_remains(&mut self) {
        if let WayOut::Tun(host) = &self.egress.way {
            self.egress.ailing.remains = Some(host.device().into());
            self.egress.retry = Some(Instant::now() + RETRY);
        }
    }

    /// Returns the right to lead packets through the host, for a process that takes over.
    pub(in crate::control) fn share_claim(&self) -> Option<OwnedFd> {
        let WayOut::Tun(host) = &self.egress.way else { return None };
        host.share_claim().unwrap_or_else(|error| {
            tracing::warn!(%error, "others may lead packets through the host meanwhile");
            None
        })
    }

    /// Goes on with the right of another process to lead packets through the host.
    pub fn take_claim(&mut self, claim: OwnedFd) {
        if let WayOut::Tun(host) = &mut self.egress.way {
            host.take_claim(claim);
        }
    }
}

/// Says why a change is refused: the host takes not what is new in it.
fn refused(change: &Change, before: &LeftOut, now: &LeftOut) -> Option<String> {
    let network = |id: Uuid| now.networks.get(&id).filter(|_| !before.networks.contains_key(&id));
    let address =
        |at: IpAddr| now.addresses.get(&at).filter(|_| !before.addresses.contains_key(&at));
    let why = match change {
        Change::PutNetwork(put) => network(put.new.id),
        Change::PutNic(put) => network(put.new.network_id),
        Change::PutForward(put) => address(put.new.listen),
        Change::PutFloatingIp(put) => address(put.new.address),
        Change::PutLoadBalancer(put) => address(put.new.address),
        _ => None,
    };
    why.cloned()
}

/// Tells of changes by others, with those that come soon after.
async fn listen(watch: Watch, changed: Arc<Notify>) {
    #[expect(
        deprecated,
        reason = "the descriptor is the watch's until both are dropped; the other is unsafe to call"
    )]
    let watch = match AsyncFd::with_interest(watch, Interest::READABLE) {
        Ok(watch) => watch,
        Err(error) => {
            tracing::warn!(%error, "what others change of the host's network is not noticed");
            return;
        }
    };
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_of_concern = tokio::select! {
            ready = watch.readable() => match ready {
                Ok(mut ready) => {
                    ready.clear_ready();
                    watch.get_ref().hear()
                }
                // The runtime ends.
                Err(_) => return,
            },
            _ = looks.tick() => watch.get_ref().have_rules_changed(),
        };
        if is_of_concern {
            tokio::time::sleep(GATHER).await;
            watch.get_ref().hear();
            changed.notify_one();
        }
    }
}
