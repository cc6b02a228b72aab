//! Carrying out what was decided about a burst: frames to their next hops, those towards one of
//! them together.
//!
//! A frame that its receiver does not take waits with its sender, for as long as [`HOLD`] at most;
//! one that came over a link waits for nobody.

use super::{Context, Due, Pipeline};
use crate::{
    addr::MacAddr,
    dataplane::{
        forward::{
            Decider, Network, outside, rewrite,
            tables::{Member, NetworkKey, NextHop, PortId},
        },
        frame::{
            BURST, FrameSet, Outgoing, fragment,
            verdict::{DropReason, Flood, NextHopId, Rejection, Verdict},
        },
        port::{Delivered, HeldUp, Undelivered},
        reactor::{
            ports::{HOLD, Held, Ports},
            tap::Outcome,
            ways::{Envelope, To, Ways},
        },
    },
    wire::{ethernet, vnet::Offload},
};
use arrayvec::ArrayVec;
use std::{sync::Arc, time::Instant};

/// What became of a frame that was not dropped.
pub(super) enum Done {
    /// The gateway has answered it.
    Answered,
    /// Control sees to it, and it is counted when that has answered.
    Asked,
    /// It went on, in fragments.
    Forwarded,
}

/// What is to be done about a frame that its next hop did not take.
enum Backpressure {
    /// It stays with its sender for now, and those behind it that go the same way.
    Hold,
    /// It is dropped.
    Drop(DropReason),
    /// It is dropped, and those behind it that go the same way.
    DropRest(DropReason),
}

impl Pipeline {
    /// Carries out the decisions about the frames in `left`, those towards one next hop together,
    /// and counts. Returns the frames that are dealt with; the others wait for their receiver.
    pub(super) fn deliver<L: Ways>(
        &mut self,
        mut left: FrameSet,
        context: &mut Context<'_, L>,
    ) -> FrameSet {
        // By next hop, in the order of each group's oldest frame: frames of one flow stay in order,
        // and a receiver is looked up, and its ring read, once for all of them.
        let mut dealt = FrameSet::EMPTY;
        while let Some(at) = left.first() {
            match self.decisions.of(at) {
                Ok(next_hop) => {
                    let group = left & self.grouped_by(next_hop);
                    dealt |= self.forward(group, next_hop, context);
                    left -= group;
                }
                Err(Verdict::Flood(kind)) => {
                    let group = left & self.flooded_as(kind);
                    self.flood(group, kind, context);
                    dealt |= group;
                    left -= group;
                }
                Err(verdict) => {
                    context.links.start();
                    let outcome = self.end(at, verdict, context);
                    if self.tapped.is_on {
                        self.tapped.ended(at, &outcome);
                    }
                    context.blame(context.ingress);
                    match outcome {
                        Ok(done) => context.count(done),
                        Err(reason) => {
                            let frame = self.burst.frame(at);
                            context.drop_frames([(frame.head(), frame.len)], reason);
                        }
                    }
                    dealt.insert(at);
                    left.remove(at);
                }
            }
        }
        dealt
    }

    /// The frames to be forwarded to `next_hop`.
    fn grouped_by(&self, next_hop: NextHopId) -> FrameSet {
        FrameSet::of(
            self.decisions.next_hops()[..self.burst.len()].iter().map(|hop| *hop == next_hop),
        )
    }

    /// The frames to be flooded for this reason.
    #[cold]
    fn flooded_as(&self, kind: Flood) -> FrameSet {
        let is = |at| self.decisions.of(at) == Err(Verdict::Flood(kind));
        FrameSet::of((0..self.burst.len()).map(is))
    }

    /// Carries out the verdict about a frame that does not go on as it is.
    fn end<L: Ways>(
        &mut self,
        at: usize,
        verdict: Verdict,
        context: &mut Context<'_, L>,
    ) -> Result<Done, DropReason> {
        match verdict {
            Verdict::Gateway => {
                let answered = self.answer(at, context);
                // RFC 1122 §4.1.3.1: a port nobody listens on is told of. The asker need not wait
                // for a timeout.
                if answered.as_ref().is_err_and(|reason| *reason == DropReason::NotServed) {
                    self.reject(at, Rejection::NotServed, context);
                }
                answered
            }
            Verdict::Neighbour(mac) => self.speak_for(at, mac, context).map(|()| Done::Answered),
            Verdict::Reject(reason, rejection) => {
                self.reject(at, rejection, context);
                Err(reason)
            }
            Verdict::Fragment(next_hop) => {
                self.fragment(at, next_hop, context).map(|()| Done::Forwarded)
            }
            Verdict::Block(why) => {
                let (port, now) = (context.ingress, context.now);
                if let Some(slot) = context.ports.get_mut(port) {
                    self.timers.set(Due::Unblock(port), slot.block(why, now));
                }
                Err(DropReason::PortBlocked)
            }
            // Together with the others of its kind, before.
            Verdict::Flood(_) => Err(DropReason::NoRoute),
            Verdict::Drop(reason) => Err(reason),
        }
    }

    /// Sends the frames of `group` on to all other ports of their network, as far as their sender
    /// may have so many copied, and counts them.
    #[cold]
    fn flood<L: Ways>(&mut self, group: FrameSet, kind: Flood, context: &mut Context<'_, L>) {
        let mut admitted = FrameSet::EMPTY;
        for at in group.iter() {
            if context.may_flood(kind, &self.decider) {
                admitted.insert(at);
                self.tapped.note(at, Outcome::Flooded);
            } else {
                self.tapped.note(at, Outcome::Dropped(DropReason::StormLimited));
                let frame = self.burst.frame(at);
                context.drop_frames([(frame.head(), frame.len)], DropReason::StormLimited);
            }
        }
        let queue = self.burst.queue;
        // As in `forward`: who made the reactor wait could not be told.
        if !context.links.watches() {
            let frames: ArrayVec<_, BURST> =
                admitted.iter().map(|at| self.burst.outgoing(at)).collect();
            return context.flood(&frames, queue, (kind, &self.decider));
        }
        for at in admitted.iter() {
            context.links.start();
            let whole = self.burst.linearise(at, &mut self.whole);
            context.blame(context.ingress);
            let frame = Outgoing::private(whole, self.burst.frame(at).offload);
            context.flood(&[frame], queue, (kind, &self.decider));
        }
        context.links.start();
    }

    /// Sends a frame on in fragments: all of them, or it counts as dropped.
    #[cold]
    fn fragment<L: Ways>(
        &mut self,
        at: usize,
        next_hop: NextHopId,
        context: &mut Context<'_, L>,
    ) -> Result<(), DropReason> {
        let (network, _) = context.member().ok_or(DropReason::NoRoute)?;
        let next_hop = *network.domain.next_hop(next_hop);
        self.tapped.note(at, Outcome::Forwarded(next_hop.port));
        let whole = self.burst.linearise(at, &mut self.whole);
        context.blame(context.ingress);
        // Before the cut: all fragments have one header, whose hop limit is taken down once.
        rewrite::rewrite(whole, &next_hop);
        if next_hop.is_outside() {
            outside::sign(whole, context.ingress);
        }
        let offload = self.burst.frame(at).offload;
        let Some(fragments) = fragment::cut(whole, offload, next_hop.mtu, &mut self.answer) else {
            // More pieces than one frame may become: told as if DF were set (decision 0006).
            // `reject` copies the frame anew, so that its sender is shown what it sent.
            self.reject(at, Rejection::TooBig(next_hop.mtu), context);
            return Err(DropReason::ExceedsMtu);
        };
        let frames: ArrayVec<_, { fragment::MAX_FRAGMENTS }> =
            fragments.iter().map(|frame| Outgoing::private(frame, Offload::None)).collect();
        // From here on it is the receiver that may make the reactor wait.
        context.links.start();
        let sent = context.send_as_one(&next_hop, self.burst.queue, &frames);
        context.blame(next_hop.port);
        context.links.start();
        sent
    }

    /// Sends the frames of `group` on to their next hop. Returns those that are dealt with.
    fn forward<L: Ways>(
        &mut self,
        group: FrameSet,
        next_hop: NextHopId,
        context: &mut Context<'_, L>,
    ) -> FrameSet {
        let Some(next_hop) =
            context.member().map(|(network, _)| *network.domain.next_hop(next_hop))
        else {
            return FrameSet::EMPTY;
        };
        let next_hop = &next_hop;
        if next_hop.is_outside() {
            self.sign(group, context.ingress);
        }
        if self.tapped.is_on {
            group.iter().for_each(|at| self.tapped.note(at, Outcome::Forwarded(next_hop.port)));
        }
        // Straight copies read the sender's memory and write the receiver's at once: who of both
        // made the reactor wait could not be told.
        if context.links.watches() {
            return self.forward_watched(group, next_hop, context);
        }
        let mut frames = ArrayVec::<Outgoing<'_>, BURST>::new();
        group.iter().for_each(|at| frames.push(self.burst.outgoing(at)));
        let mut sent = 0;
        while sent < frames.len() {
            let rest = context.send(next_hop, self.burst.queue, &frames[sent..]);
            sent += rest.taken;
            let Some(why) = rest.refused else { break };
            let (reason, until) = match context.backpressure(next_hop, why, group) {
                // The first `sent` of the group have gone, or were dropped one by one. The others
                // wait.
                Backpressure::Hold => return group.iter().take(sent).collect(),
                // Only the frame that was refused: the next one may fit.
                Backpressure::Drop(reason) => (reason, sent + 1),
                Backpressure::DropRest(reason) => (reason, frames.len()),
            };
            context.drop_frames(frames[sent..until].iter().map(Outgoing::beginning), reason);
            if self.tapped.is_on {
                let refused = group.iter().skip(sent).take(until - sent);
                refused.for_each(|at| self.tapped.note(at, Outcome::Dropped(reason)));
            }
            sent = until;
        }
        group
    }

    /// Says in frames that leave all networks whose they are.
    #[cold]
    fn sign(&mut self, group: FrameSet, from: PortId) {
        let (frames, _) = self.burst.frames_mut();
        group.iter().for_each(|at| outside::sign(frames[at].head_mut(), from));
    }

    /// As [`Pipeline::forward`], frame by frame and by way of private memory: who makes the reactor
    /// wait is found.
    #[cold]
    fn forward_watched<L: Ways>(
        &mut self,
        group: FrameSet,
        next_hop: &NextHop,
        context: &mut Context<'_, L>,
    ) -> FrameSet {
        let mut dealt = FrameSet::EMPTY;
        for at in group.iter() {
            context.links.start();
            let whole = self.burst.linearise(at, &mut self.whole);
            context.blame(context.ingress);
            let frame = Outgoing::private(whole, self.burst.frame(at).offload);
            context.links.start();
            let sent = context.send(next_hop, self.burst.queue, &[frame]);
            context.blame(next_hop.port);
            if let Some(why) = sent.refused {
                match context.backpressure(next_hop, why, group) {
                    Backpressure::Hold => return dealt,
                    Backpressure::Drop(reason) | Backpressure::DropRest(reason) => {
                        self.tapped.note(at, Outcome::Dropped(reason));
                        context.drop_frames([frame.beginning()], reason);
                    }
                }
            }
            dealt.insert(at);
        }
        dealt
    }

    /// Delivers frames that came over a link to reactor `here`. `timed` is as that of
    /// [`Ports::deliver`].
    pub fn deliver_from_link(
        &mut self,
        (ports, here): (&mut Ports, u16),
        envelope: &Envelope,
        frames: &[Outgoing<'_>],
        now: Instant,
        timed: &mut impl FnMut() -> Option<HeldUp>,
    ) {
        self.carried += frames.len() as u64;
        // Nothing is held here: the frames are copies in a link, which others are waiting to fill.
        match envelope.to {
            To::Port(port) => {
                if let Some((network, _)) = ports.get_mut(port).and_then(|slot| slot.member(None)) {
                    self.hear(network, envelope.from, frames, now);
                }
                ports.deliver((port, None), envelope.queue, frames, now, timed);
            }
            To::Trunk(port, key) => {
                let Some(network) = ports.network(key).map(Arc::clone) else { return };
                self.hear(&network, envelope.from, frames, now);
                // By what it is there now: another network may have its VLAN meanwhile.
                if let Some(at) = network.find(port) {
                    let vlan = network.members[at].vlan();
                    ports.deliver((port, vlan), envelope.queue, frames, now, timed);
                }
            }
            To::Network(key) => {
                let Some(network) = ports.network(key).map(Arc::clone) else { return };
                self.hear(&network, envelope.from, frames, now);
                // Those that go on to the same ports go on together.
                let mut rest = frames;
                while let Some(first) = rest.first() {
                    let audience = self.decider.audience(&network, envelope.from, first, now);
                    let decider = &mut self.decider;
                    let mut is_alike = |frame: &Outgoing<'_>| {
                        decider.audience(&network, envelope.from, frame, now) == audience
                    };
                    let alike = 1 + rest[1..].iter().take_while(|frame| is_alike(frame)).count();
                    let wants = |port| self.decider.wants(&network, audience, port, now);
                    let from = (envelope.from, envelope.queue);
                    ports.flood((&network, here), from, &rest[..alike], wants, now, timed);
                    rest = &rest[alike..];
                }
            }
        }
    }

    fn hear(&mut self, network: &Network, from: PortId, frames: &[Outgoing<'_>], now: Instant) {
        let effects = self.decider.hear(network, from, frames, now);
        self.note(network.key, effects);
    }
}

impl<L: Ways> Context<'_, L> {
    /// Returns the network of the frames in hand, and what their port is there.
    fn member(&mut self) -> Option<(&Network, &Member)> {
        self.ports.get_mut(self.ingress)?.member(self.vlan)
    }

    /// Holds it against a port of this reactor if too much time has passed since timing began:
    /// something was done for the port meanwhile.
    fn blame(&mut self, port: PortId) {
        let held_up = self.links.held_up();
        self.ports.blame(port, held_up, self.now);
    }

    /// Counts a frame that was not dropped by what became of it.
    fn count(&mut self, done: Done) {
        if let Some(slot) = self.ports.get_mut(self.ingress) {
            match done {
                Done::Asked => {}
                Done::Answered => slot.counters.ingress_answered.add(1),
                Done::Forwarded => slot.counters.ingress_forwarded.add(1),
            }
        }
    }

    /// Drops frames, each with its first octets and its length.
    #[cold]
    fn drop_frames<'f>(
        &mut self,
        frames: impl IntoIterator<Item = (&'f [u8], usize)>,
        reason: DropReason,
    ) {
        let from = (self.ingress, self.vlan);
        self.ports.drop_ingress(from, frames.into_iter(), reason, self.now);
    }

    /// Sends frames to their next hop, and counts those that it took.
    fn send(&mut self, next_hop: &NextHop, queue: usize, frames: &[Outgoing<'_>]) -> Delivered {
        let sent = self.hand_over(next_hop, queue, frames);
        if let Some(slot) = self.ports.get_mut(self.ingress) {
            slot.counters.ingress_forwarded.add(sent.taken as u64);
        }
        sent
    }

    /// Sends the fragments of one frame, which the caller counts as one. What is not taken at once
    /// is dropped: nothing of a fragment is left with the sender, so it cannot wait there.
    fn send_as_one(
        &mut self,
        next_hop: &NextHop,
        queue: usize,
        frames: &[Outgoing<'_>],
    ) -> Result<(), DropReason> {
        match self.hand_over(next_hop, queue, frames).refused {
            None => Ok(()),
            Some(why) => Err(self.ports.drop_for(next_hop.port, why)),
        }
    }

    /// Whether the sender may have one more frame flooded, which is charged to it.
    fn may_flood(&mut self, kind: Flood, decider: &Decider) -> bool {
        let (vlan, now) = (self.vlan, self.now);
        let Some(slot) = self.ports.get_mut(self.ingress) else { return false };
        let copies = slot.member(vlan).map_or(0, |(network, _)| decider.copies(network, kind));
        let may = slot.may_flood(vlan, (kind, copies), now);
        if may {
            slot.counters.flooded_copies.add(copies as u64);
        }
        may
    }

    /// Sends frames to the other ports of their network that want them, and waits for none: what
    /// one does not take at once is dropped, and counted there. A frame that another reactor's
    /// ports do not get is counted as dropped.
    fn flood(&mut self, frames: &[Outgoing<'_>], queue: usize, (kind, decider): (Flood, &Decider)) {
        let vlan = self.vlan;
        let place = self.ports.get_mut(self.ingress).and_then(|slot| slot.place(vlan));
        let Some(network) = place.map(|(network, _)| Arc::clone(network)) else { return };
        let envelope = Envelope { from: self.ingress, to: To::Network(network.key), queue };
        let here = self.links.here();
        let mut sent = frames.len();
        // One copy for all ports of another reactor, which it makes their copies of.
        for reactor in network.domain.reactors().iter().filter(|reactor| **reactor != here) {
            sent = sent.min(self.links.send(*reactor, &envelope, frames));
        }
        let (links, now) = (&mut *self.links, self.now);
        let wants = |port| decider.wants(&network, kind.audience(), port, now);
        self.ports.flood((&network, here), (self.ingress, queue), frames, wants, now, &mut || {
            let held_up = links.held_up();
            links.start();
            held_up
        });
        // A panic from here on is the sender's again.
        self.ports.in_hand = Some(self.ingress);
        if let Some(slot) = self.ports.get_mut(self.ingress) {
            slot.counters.ingress_forwarded.add(sent as u64);
            slot.counters.ingress_flooded.add(sent as u64);
            for frame in &frames[..sent] {
                match ethernet::Header::parse(frame.head).map(|(header, _)| header.destination) {
                    Some(MacAddr::BROADCAST) => slot.counters.ingress_broadcast.add(1),
                    Some(mac) if mac.is_multicast() => slot.counters.ingress_multicast.add(1),
                    _ => {}
                }
            }
        }
        if sent < frames.len() {
            self.drop_frames(frames[sent..].iter().map(Outgoing::beginning), DropReason::LinkFull);
        }
    }

    fn hand_over(
        &mut self,
        next_hop: &NextHop,
        queue: usize,
        frames: &[Outgoing<'_>],
    ) -> Delivered {
        if next_hop.reactor == self.links.here() {
            self.ports.in_hand = Some(next_hop.port);
            let Some(slot) = self.ports.healthy_mut(next_hop.port) else {
                return Delivered::none(Undelivered::NoGuest);
            };
            let sent = slot.put(frames, (queue, next_hop.vlan), self.now);
            // A panic in between is the receiver's; from here on it is the sender's again.
            self.ports.in_hand = Some(self.ingress);
            // Whatever came of it: some of the frames may have been placed.
            self.ports.touch(next_hop.port);
            sent
        } else {
            let to = match next_hop.vlan {
                None => To::Port(next_hop.port),
                Some(_) => self.trunk(next_hop.port),
            };
            let envelope = Envelope { from: self.ingress, to, queue };
            let taken = self.links.send(next_hop.reactor, &envelope, frames);
            Delivered { taken, refused: (taken < frames.len()).then_some(Undelivered::LinkFull) }
        }
    }

    /// Returns a trunk of another reactor, as the member that it is of the network in hand.
    #[cold]
    fn trunk(&mut self, port: PortId) -> To {
        // A network that is gone meanwhile: without a tag, the frame is of the trunk's native one.
        // One that no reactor has is found by none.
        let key = self.member().map_or(NetworkKey(u64::MAX), |(network, _)| network.key);
        To::Trunk(port, key)
    }

    /// Returns what is to be done about a frame of `group` that its next hop refused.
    fn backpressure(
        &mut self,
        next_hop: &NextHop,
        why: Undelivered,
        group: FrameSet,
    ) -> Backpressure {
        match why {
            Undelivered::Full | Undelivered::LinkFull => self.hold(next_hop, &why, group),
            // The next one may be taken.
            _ if why.is_of_the_frame() => Backpressure::Drop(why.reason()),
            _ => Backpressure::DropRest(self.ports.drop_for(next_hop.port, why)),
        }
    }

    /// Holds frames for a receiver without buffers, but not the oldest of their sender for longer
    /// than [`HOLD`].
    fn hold(&mut self, next_hop: &NextHop, why: &Undelivered, group: FrameSet) -> Backpressure {
        // The state of another reactor's port is not seen from here, only that the link takes no
        // more.
        let is_here = *why == Undelivered::Full;
        let receiver = self.ports.get_mut(next_hop.port).filter(|_| is_here);
        // It had its time and took nothing since: not every sender waits for it in turn.
        if receiver.is_some_and(|receiver| receiver.is_stalled()) {
            return Backpressure::DropRest(why.reason());
        }
        let Some(sender) = self.ports.get_mut(self.ingress) else { return Backpressure::Hold };
        // Only the sender's oldest frame starts the clock. A later one becomes the oldest once
        // those before it have gone.
        if !group.contains(0) {
            return Backpressure::Hold;
        }
        let fresh = Held { since: self.now, receiver: next_hop.port };
        // Kept across polls: a frame that is refused again goes on waiting from its first time.
        let since = sender.held.get_or_insert(fresh).since;
        if self.now.duration_since(since) < HOLD {
            return Backpressure::Hold;
        }
        if let Some(receiver) = self.ports.get_mut(next_hop.port).filter(|_| is_here) {
            receiver.stall(since);
        }
        Backpressure::DropRest(why.reason())
    }
}
