//! The ports a reactor owns, each with what is known of it between two bursts.

mod dropped;
mod tapped;

use super::{
    allowance::Allowance,
    dropped::{LastDrops, PortShare},
    poll_window::PollWindow,
    tap::{Tapped, Taps},
    trunk::Trunk,
};
use crate::{
    addr::MacAddr,
    dataplane::{
        counters::PortCounters,
        forward::{
            Asker, Domain, Network,
            tables::{Member, Membership, NetworkKey, PortId, Role, Routed},
        },
        frame::{
            Outgoing,
            verdict::{Blocking, DropReason, Flood},
        },
        gateway::{Asked, GatewayEvent, Punted},
        port::{Delivered, HeldUp, Port, PortFailure, Undelivered, Watch},
    },
    model::Impairments,
    wire::{vlan::VlanId, vnet::Offload},
};
use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    fmt,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a frame waits for a receiver without buffers before it is dropped and the receiver
/// marked stalled.
// A frame that waits keeps its buffers, and those behind it, from its sender: one receiver that
// stands still must hold up nobody for longer (R40 in docs/reliability.md).
pub const HOLD: Duration = Duration::from_micros(100);

/// How long a port is blocked at first that is in a loop, and one whose MACs flap; and at most.
// Twice as long each time that the loop is still there: who repairs it need not wait long, and who
// does not, disturbs few.
const LOOP_BLOCK: Duration = Duration::from_secs(30);
const FLAP_BLOCK: Duration = Duration::from_secs(10);
const LONGEST_BLOCK: Duration = Duration::from_secs(600);

/// A port as it is given to a reactor.
pub struct Attachment {
    /// Its name.
    pub id: PortId,
    /// The network it is in.
    pub network: NetworkKey,
    /// The running port.
    pub port: Box<dyn Port>,
    /// Written by the reactor.
    pub counters: Arc<PortCounters>,
    /// What its vNIC may; given back with the port.
    pub allowance: Allowance,
    /// Called once, if the port fails.
    pub on_failure: Box<dyn FnOnce(PortFailure) + Send>,
    /// Called when the gateway has told the guest something, at most once a second for each kind of
    /// it.
    pub on_gateway_event: Box<dyn FnMut(GatewayEvent) + Send>,
    /// Called when the port is blocked, with the reason, and when it is so no longer.
    pub on_blocking: Box<dyn FnMut(Option<Blocking>) + Send>,
}

/// A port that was taken back from a reactor, which calls it no more.
pub struct Detached {
    /// The port, stopped.
    pub port: Box<dyn Port>,
    /// What is left of what it may.
    pub allowance: Allowance,
}

impl fmt::Debug for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detached").finish_non_exhaustive()
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A frame that waits for a receiver without buffers.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// Since when.
    pub since: Instant,
    /// The receiver.
    pub receiver: PortId,
}

/// A port and its state.
pub struct Slot {
    /// Its name.
    pub id: PortId,
    /// The port.
    pub port: Box<dyn Port>,
    /// The network it is in; of a trunk, the one it is placed by.
    pub network: NetworkKey,
    /// Its network as it was published, and which of its members this is; of a trunk, its native
    /// one.
    member: Option<(Arc<Network>, usize)>,
    /// Absent where it is in one network alone.
    trunk: Option<Box<Trunk>>,
    /// What it has carried.
    pub counters: Arc<PortCounters>,
    /// Since when it has had no receive buffers, where that is [`HOLD`] or longer: nobody waits for
    /// it until it takes a frame.
    pub(super) stalled: Option<Instant>,
    /// How long each of its queues is polled.
    pub poll_windows: Box<[PollWindow]>,
    /// Whether its oldest frame waits for a receiver.
    pub held: Option<Held>,
    /// It was found empty, and wakes before it is not: it need not be polled until then.
    pub is_quiet: bool,
    /// How many advertisements it was sent unasked, heard or not.
    pub advertisements: u8,
    /// What its vNIC may.
    pub allowance: Allowance,
    /// The lines that it is behind, or was until their time was over.
    pub lines: Impairments,
    /// Those that it is to be behind.
    pub wanted_lines: Impairments,
    on_gateway_event: Box<dyn FnMut(GatewayEvent) + Send>,
    on_blocking: Box<dyn FnMut(Option<Blocking>) + Send>,
    /// Whether nothing comes from it or goes to it, since it is in a loop.
    is_blocked: bool,
    /// How often that was found in a row, and when it last ended.
    blocked: (u32, Option<Instant>),
    /// How many probes for loops it was sent.
    pub probes: u32,
    /// Held by each frame of its guest's that waits for a service.
    pub punted: Arc<()>,
    /// Who captures its frames, if anybody does.
    pub tapped: Option<Tapped>,
    /// How many of its dropped frames may be kept.
    kept_drops: PortShare,
    /// Absent once it was called: the port has failed.
    on_failure: Option<Box<dyn FnOnce(PortFailure) + Send>>,
    touched: bool,
}

impl Slot {
    /// Returns the network of its frames of a VLAN, or without one, as that was published; and
    /// which of its members it is there.
    #[inline]
    pub fn place(&self, vlan: Option<VlanId>) -> Option<&(Arc<Network>, usize)> {
        match vlan {
            None => self.member.as_ref(),
            Some(vlan) => Some(&self.trunk.as_ref()?.lane(vlan)?.place),
        }
    }

    /// Returns that network, and what it is there.
    #[inline]
    pub fn member(&self, vlan: Option<VlanId>) -> Option<(&Network, &Member)> {
        let (network, at) = self.place(vlan)?;
        Some((network, network.members.get(*at)?))
    }

    /// Whether its frames belong to networks by their tags.
    pub fn is_trunk(&self) -> bool {
        self.trunk.is_some()
    }

    /// Returns all networks it is in, as far as they were published.
    pub fn networks(&self) -> impl Iterator<Item = &Arc<Network>> {
        let lanes = self.trunk.iter().flat_map(|trunk| trunk.lanes()).map(|lane| &lane.place);
        self.member.iter().chain(lanes).map(|(network, _)| network)
    }

    /// Who sends by it from `mac`, where the network of their frames has a gateway.
    pub fn asker(&self, vlan: Option<VlanId>, mac: MacAddr) -> Option<(&Routed, Asker<'_>)> {
        let (network, member) = self.member(vlan)?;
        Some((network.domain.routed()?, member.asker(mac)))
    }

    /// Whether it may be called.
    pub fn is_healthy(&self) -> bool {
        self.on_failure.is_some()
    }

    /// Notes what the guest was told, if that says something of its network.
    pub fn tell(&mut self, told: GatewayEvent, now: Instant) {
        if self.allowance.may_note(&told, now) {
            (self.on_gateway_event)(told);
        }
    }

    /// Passes a question on that control must see to.
    pub fn ask(&mut self, asked: Asked) {
        (self.on_gateway_event)(GatewayEvent::Asked(asked));
    }

    /// Passes a frame of its guest's on that is for a service.
    pub fn punt(&mut self, vlan: Option<VlanId>, frame: &[u8], offload: Offload) {
        let Some((network, Role::Guest(vnic))) =
            self.member(vlan).map(|(network, member)| (network.key, &member.role))
        else {
            return;
        };
        let (mac, mtu) = (vnic.mac, vnic.mtu);
        let (frame, place) = (frame.into(), Arc::clone(&self.punted));
        let punted = Punted { network, mac, mtu, frame, offload, place };
        (self.on_gateway_event)(GatewayEvent::Punted(punted));
    }

    /// Whether nothing comes from it or goes to it.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Blocks it. Returns until when.
    pub fn block(&mut self, why: Blocking, now: Instant) -> Instant {
        let (times, ended) = self.blocked;
        // After a long time of peace it begins anew.
        let again = ended.is_some_and(|ended| now.duration_since(ended) < LONGEST_BLOCK);
        let times = if again { times + 1 } else { 0 };
        if !std::mem::replace(&mut self.is_blocked, true) {
            (self.on_blocking)(Some(why));
        }
        let wait = match why {
            Blocking::Loop => LOOP_BLOCK * 2_u32.pow(times.min(8)),
            Blocking::Flap => FLAP_BLOCK,
        };
        let until = now + wait.min(LONGEST_BLOCK);
        self.blocked = (times, Some(until));
        until
    }

    /// Lets it go on.
    pub fn unblock(&mut self) {
        if std::mem::take(&mut self.is_blocked) {
            (self.on_blocking)(None);
        }
    }

    /// Whether it may have one more frame of a network flooded, which is charged to it.
    pub fn may_flood(
        &mut self,
        vlan: Option<VlanId>,
        (kind, copies): (Flood, usize),
        now: Instant,
    ) -> bool {
        let floods = match vlan {
            None => Some(&mut self.allowance.floods),
            Some(vlan) => {
                let lane = self.trunk.as_mut().and_then(|trunk| trunk.lane_mut(vlan));
                lane.map(|lane| &mut lane.floods)
            }
        };
        floods.is_some_and(|floods| floods.admits(kind, copies, now))
    }

    /// Puts frames from a queue of their sender into the port, and counts them there. Those of a
    /// trunk's VLAN are tagged; limits and counters are of frames as their network sees them.
    pub fn put(
        &mut self,
        all: &[Outgoing<'_>],
        (queue, vlan): (usize, Option<VlanId>),
        now: Instant,
    ) -> Delivered {
        if self.is_blocked {
            return Delivered::none(Undelivered::Blocked);
        }
        let mut frames = all;
        if let Some(limiter) = &mut self.allowance.to_guest {
            limiter.refill(now);
            // Cut before the port sees them, since what it takes cannot be taken back.
            frames = &all[..limiter.admitted(all.iter().map(|frame| (frame.len, frame.offload)))];
        }
        let Delivered { taken, mut refused } = match &mut self.trunk {
            None => self.port.deliver(frames, queue),
            Some(trunk) => trunk.deliver(&mut *self.port, frames, (queue, vlan)),
        };
        if let Some(limiter) = &mut self.allowance.to_guest {
            frames[..taken].iter().for_each(|frame| limiter.charge(frame.len, frame.offload));
        }
        if self.tapped.is_some() {
            self.see_delivered(&frames[..taken], vlan);
        }
        if taken > 0 {
            // Not by time: a guest that is back shows it by taking a frame.
            if let Some(since) = self.stalled.take() {
                self.lasts(since, now);
            }
            self.counters.egress_frames.add(taken as u64);
            self.counters.egress_octets.add(frames[..taken].iter().map(|f| f.len as u64).sum());
        }
        match refused {
            // The limit is the reason only where the port took all that it was given.
            None if frames.len() < all.len() => refused = Some(Undelivered::Limited),
            Some(Undelivered::Full) => self.found_full(now),
            _ => {}
        }
        Delivered { taken, refused }
    }

    /// Notes that it held up the reactor, if it did. An error: too often.
    pub fn strike(&mut self, held_up: Option<HeldUp>, now: Instant) -> Result<(), PortFailure> {
        match held_up {
            // No sleep means pages that were touched first. Small ones are no offence: every guest
            // that boots has those.
            Some(HeldUp { took, slept }) if slept || self.port.has_large_pages() => {
                self.allowance.strike(took, now)
            }
            _ => Ok(()),
        }
    }

    fn fail(&mut self, failure: PortFailure) {
        if let Some(on_failure) = self.on_failure.take() {
            on_failure(failure);
        }
    }

    /// Whether it is in a network, or was when that was published last.
    fn is_in(&self, network: NetworkKey) -> bool {
        self.network == network || self.trunk.as_ref().is_some_and(|trunk| trunk.is_in(network))
    }

    /// Takes over what it is in a network now.
    fn adopt(&mut self, network: &Arc<Network>) {
        let at = network.find(self.id);
        let is_own = |place: &(Arc<Network>, usize)| place.0.key == network.key;
        self.member.take_if(|place| is_own(place));
        if let Some(trunk) = &mut self.trunk
            && at.is_none_or(|at| network.members[at].vlan().is_none())
        {
            trunk.leave(network.key);
        }
        let Some(at) = at else { return };
        self.wanted_lines = network.members[at].impairments();
        self.allowance.keep_to(&network.members[at]);
        match network.members[at].membership() {
            Membership::Tagged(vlan) => {
                self.trunk.get_or_insert_default().join(vlan, network, at);
            }
            untagged => {
                match untagged {
                    Membership::Native => drop(self.trunk.get_or_insert_default()),
                    _ => self.trunk = None,
                }
                self.member = Some((Arc::clone(network), at));
                self.allowance.floods.keep_to(network.domain.storm_pps());
            }
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("id", &self.id).finish_non_exhaustive()
    }
}

/// All ports of a reactor, and their networks.
#[derive(Debug, Default)]
pub struct Ports {
    slots: Vec<Option<Slot>>,
    networks: HashMap<NetworkKey, Arc<Network>>,
    /// Those with members by VLANs.
    trunked: BTreeSet<NetworkKey>,
    /// Slots with something to publish.
    touched: Vec<u32>,
    /// Ports that are to be woken by something else than before.
    rewatched: Vec<PortId>,
    /// The port that something is being done for: if that panics, it is to blame.
    pub in_hand: Option<PortId>,
    /// The captures of their frames.
    taps: Rc<RefCell<Taps>>,
    /// Whether there are any.
    is_tapped: bool,
    /// The last frames that were dropped.
    last_drops: LastDrops,
}

/// A port among all.
fn slot_mut(slots: &mut [Option<Slot>], id: PortId) -> Option<&mut Slot> {
    slots.get_mut(id.slot as usize)?.as_mut().filter(|slot| slot.id == id)
}

impl Ports {
    /// Takes a port over, whose queues are polled for `busy_poll` after a frame.
    pub fn attach(&mut self, attachment: Attachment, busy_poll: Duration) {
        let at = attachment.id.slot as usize;
        // Slots are numbered across all reactors: most entries of a reactor's own list are empty.
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, || None);
        }
        let mut port = attachment.port;
        port.count_in(&attachment.counters);
        let mut slot = Slot {
            id: attachment.id,
            poll_windows: vec![PollWindow::new(busy_poll); port.queues()].into(),
            port,
            network: attachment.network,
            member: None,
            trunk: None,
            counters: attachment.counters,
            stalled: None,
            held: None,
            is_quiet: false,
            advertisements: 0,
            allowance: attachment.allowance,
            lines: Impairments::default(),
            wanted_lines: Impairments::default(),
            on_gateway_event: attachment.on_gateway_event,
            on_blocking: attachment.on_blocking,
            is_blocked: false,
            blocked: (0, None),
            probes: 0,
            punted: Arc::default(),
            tapped: None,
            kept_drops: PortShare::default(),
            on_failure: Some(attachment.on_failure),
            touched: false,
        };
        let own = slot.network;
        let others = self.trunked.iter().filter(|key| **key != own);
        for key in others.chain([&own]) {
            if let Some(network) = self.networks.get(key) {
                slot.adopt(network);
            }
        }
        slot.look_for_taps(&self.taps);
        self.slots[at] = Some(slot);
        // Its guest is called, whatever was published before.
        self.touch(attachment.id);
    }

    /// Returns a port, stopped.
    pub fn detach(&mut self, id: PortId) -> Option<Slot> {
        self.get_mut(id)?;
        let mut slot = self.slots.get_mut(id.slot as usize)?.take()?;
        // The slot may be another port's before the turn ends.
        self.touched.retain(|at| *at != id.slot);
        slot.port.stop();
        Some(slot)
    }

    /// Takes a network's new truth over.
    pub fn publish(&mut self, network: &Arc<Network>) {
        let taps = self.is_tapped.then(|| Rc::clone(&self.taps));
        let adopt = |slot: &mut Slot| {
            slot.adopt(network);
            // Who captures a network's frames may see its since now, or no more.
            if let Some(taps) = &taps {
                slot.look_for_taps(taps);
            }
        };
        for slot in self.slots.iter_mut().flatten().filter(|slot| slot.is_in(network.key)) {
            adopt(slot);
        }
        // Those that are in it since now, and in others.
        let tagged = network.members.iter().filter(|member| member.vlan().is_some());
        let mut has_trunks = false;
        for member in tagged {
            has_trunks = true;
            if let Some(slot) = self.get_mut(member.port()) {
                adopt(slot);
            }
        }
        if has_trunks {
            self.trunked.insert(network.key);
        } else {
            self.trunked.remove(&network.key);
        }
        // A network without members has no ports, and may be gone for good.
        if network.members.is_empty() {
            self.networks.remove(&network.key);
        } else {
            self.networks.insert(network.key, Arc::clone(network));
        }
    }

    /// The port in a slot.
    pub fn at(&self, slot: u32) -> Option<&Slot> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// A port.
    pub fn get_mut(&mut self, id: PortId) -> Option<&mut Slot> {
        slot_mut(&mut self.slots, id)
    }

    /// A port that has not failed.
    pub fn healthy_mut(&mut self, id: PortId) -> Option<&mut Slot> {
        self.get_mut(id).filter(|slot| slot.is_healthy())
    }

    /// Notes that a port has something to publish.
    pub fn touch(&mut self, id: PortId) {
        if let Some(slot) = self.get_mut(id)
            && !std::mem::replace(&mut slot.touched, true)
        {
            self.touched.push(id.slot);
        }
    }

    /// Whether a port is, first of all, in a switched network, or in one that may be: nothing was
    /// published of it yet.
    pub fn may_be_switched(&self, id: PortId) -> bool {
        let slot = self.slots.get(id.slot as usize).and_then(Option::as_ref);
        slot.is_some_and(|slot| {
            let network = self.network(slot.network);
            network.is_none_or(|network| matches!(network.domain, Domain::Switched(_)))
        })
    }

    /// Returns all ports of which that is so.
    pub fn switched(&self) -> Vec<PortId> {
        let all = self.slots.iter().flatten().map(|slot| slot.id);
        all.filter(|id| self.may_be_switched(*id)).collect()
    }

    /// A network, as it was published.
    pub fn network(&self, key: NetworkKey) -> Option<&Arc<Network>> {
        self.networks.get(&key)
    }

    /// Delivers frames that nobody waits with, by a trunk as those of `vlan`: what their port does
    /// not take at once is dropped, and counted there. `timed` is called around that, as in
    /// [`Ports::publish_touched`].
    pub fn deliver(
        &mut self,
        (port, vlan): (PortId, Option<VlanId>),
        queue: usize,
        mut frames: &[Outgoing<'_>],
        now: Instant,
        timed: &mut impl FnMut() -> Option<HeldUp>,
    ) {
        self.in_hand = Some(port);
        let Self { slots, last_drops, .. } = self;
        let Some(slot) = slot_mut(slots, port).filter(|slot| slot.is_healthy()) else { return };
        timed();
        while !frames.is_empty() {
            let Delivered { taken, refused } = slot.put(frames, (queue, vlan), now);
            frames = &frames[taken..];
            let Some(why) = refused else { break };
            if let Undelivered::Failed(failure) = why {
                slot.fail(failure);
                return;
            }
            // The next one may fit.
            let dropped = if why.is_of_the_frame() { 1 } else { frames.len() };
            slot.drop_egress(&frames[..dropped], vlan, why.reason(), (last_drops, now));
            frames = &frames[dropped..];
        }
        self.touch(port);
        self.blame(port, timed(), now);
    }

    /// Delivers frames from a queue of `from` to the other ports of its network that want them and
    /// are of reactor `here`, which this is, as [`Ports::deliver`].
    // All frames to one port after the other: each ring is looked up and read once.
    pub fn flood(
        &mut self,
        (network, here): (&Network, u16),
        (from, queue): (PortId, usize),
        frames: &[Outgoing<'_>],
        wants: impl Fn(PortId) -> bool,
        now: Instant,
        timed: &mut impl FnMut() -> Option<HeldUp>,
    ) {
        for next_hop in network.domain.receivers(from, here).filter(|to| wants(to.port)) {
            self.deliver((next_hop.port, next_hop.vlan), queue, frames, now, timed);
        }
    }

    /// Holds it against a port that it held up the reactor, if it did.
    pub fn blame(&mut self, id: PortId, held_up: Option<HeldUp>, now: Instant) {
        if held_up.is_some()
            && let Some(slot) = self.healthy_mut(id)
            && let Err(failure) = slot.strike(held_up, now)
        {
            slot.fail(failure);
        }
    }

    /// A port failed: it is not called again, and its owner is told.
    pub fn fail(&mut self, id: PortId, failure: PortFailure) {
        if let Some(slot) = self.get_mut(id) {
            slot.fail(failure);
        }
    }

    /// Returns what a frame is counted as that port `id` did not take. It fails if that is why.
    pub fn drop_for(&mut self, id: PortId, why: Undelivered) -> DropReason {
        let reason = why.reason();
        if let Undelivered::Failed(failure) = why {
            self.fail(id, failure);
        }
        reason
    }

    /// Publishes what was touched; then, after one full fence, wakes those guests that want it.
    /// `timed` is called around what is done for each port, and says for how long that held up the
    /// reactor.
    pub fn publish_touched(&mut self, now: Instant, timed: &mut impl FnMut() -> Option<HeldUp>) {
        // Taken off when all is done, since a panic of one port leaves the others to be published.
        for touched in 0..self.touched.len() {
            let at = self.touched[touched];
            self.with_touched(at, now, timed, |slot| {
                slot.port.publish();
                Ok(())
            });
        }
        // Used indices are stored above, what guests want is read below. Without a fence a CPU, x86
        // too, may let the load pass the store, and a guest that asks just now would never be
        // woken. One fence serves all ports, and all links (`Links::flush`).
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        while let Some(at) = self.touched.last().copied() {
            if let Some(slot) = &mut self.slots[at as usize] {
                slot.touched = false;
            }
            let mut watch = Watch::Same;
            self.with_touched(at, now, timed, |slot| {
                watch = slot.port.notify()?;
                Ok(())
            });
            if watch == Watch::Other
                && let Some(slot) = self.at(at)
            {
                self.rewatched.push(slot.id);
            }
            self.touched.pop();
        }
    }

    /// Returns a port whose wake-ups are to be others than before, until there is none.
    pub fn take_rewatched(&mut self) -> Option<PortId> {
        self.rewatched.pop()
    }

    /// Returns a port that is to be behind other lines than it is.
    pub fn with_other_lines(&self) -> Option<PortId> {
        let mut slots = self.slots.iter().flatten().filter(|slot| slot.is_healthy());
        slots.find(|slot| slot.lines != slot.wanted_lines).map(|slot| slot.id)
    }

    fn with_touched(
        &mut self,
        at: u32,
        now: Instant,
        timed: &mut impl FnMut() -> Option<HeldUp>,
        call: impl FnOnce(&mut Slot) -> Result<(), PortFailure>,
    ) {
        let Some(slot) = self.slots[at as usize].as_mut().filter(|slot| slot.is_healthy()) else {
            return;
        };
        self.in_hand = Some(slot.id);
        timed();
        let outcome = call(slot);
        let struck = slot.strike(timed(), now);
        if let Err(failure) = outcome.and(struck) {
            slot.fail(failure);
        }
    }

    /// Something panicked: the port that it was done for fails. False: it was done for none.
    pub fn fail_in_hand(&mut self) -> bool {
        let Some(id) = self.in_hand.take() else { return false };
        let why = "internal error: what was done for it panicked (see the log)";
        self.fail(id, PortFailure::Broken(why.into()));
        true
    }
}
