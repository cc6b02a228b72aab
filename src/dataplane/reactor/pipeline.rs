//! The life of a burst: polled from a port, decided frame by frame, delivered next hop by next hop,
//! completed.
//!
//! ```text
//! ingress port → plain → route ──────────────────────→ egress → port of this reactor │ link to another
//!                  └── no: classify → guard → gateway │ route ──┘
//! ```

use super::{
    ports::{HOLD, Held, Ports, Slot},
    ways::Ways,
};
use crate::{
    dataplane::{
        forward::{
            fast::{self, Plain},
            limit::Limiter,
            rewrite, routed,
            tables::{NetworkTable, NextHop, PortId, Vnic},
            withheld::Withheld,
        },
        frame::{
            BURST, Burst, FrameSet, MAX_FRAME_LEN, Outgoing,
            classify::classify,
            fragment,
            verdict::{DropReason, NextHopId, Rejection, Verdict},
        },
        gateway::{self, Question},
        port::{Delivered, PortFailure, Undelivered},
    },
    wire::{Writer, vnet::Offload},
};
use arrayvec::ArrayVec;
use std::{net::Ipv4Addr, time::Instant};

/// What a reactor needs to carry frames, made once.
#[derive(Debug)]
pub struct Pipeline {
    burst: Burst,
    /// Where each frame of the burst is addressed to, if it is plain.
    destinations: [Option<Ipv4Addr>; BURST],
    /// Where each frame of the burst goes on to, if anywhere; else its verdict says what becomes of
    /// it.
    next_hops: [NextHopId; BURST],
    verdicts: [Verdict; BURST],
    withheld: Withheld,
    /// Holds a whole frame where one is needed in one piece.
    whole: Box<[u8]>,
    /// Where answers and fragments are written.
    answer: Box<[u8]>,
    /// Frames dealt with since this was last asked.
    carried: u64,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self {
            burst: Burst::default(),
            destinations: [None; BURST],
            next_hops: [NextHopId::NONE; BURST],
            verdicts: [Verdict::Gateway; BURST],
            withheld: Withheld::default(),
            whole: vec![0; MAX_FRAME_LEN].into(),
            // Fragments are what is longest: all of one frame are made before the first is sent.
            answer: vec![0; fragment::BUFFER_LEN].into(),
            carried: 0,
        }
    }
}

/// Everything around one burst.
struct Context<'a, L> {
    ports: &'a mut Ports,
    links: &'a mut L,
    ingress: PortId,
    now: Instant,
}

/// What became of a frame that was not dropped.
enum Done {
    /// The gateway has answered it.
    Answered,
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
    /// Takes one burst from a queue through the switch. Returns how many frames were waiting.
    pub fn run<L: Ways>(
        &mut self,
        ports: &mut Ports,
        links: &mut L,
        (ingress, queue): (PortId, usize),
        now: Instant,
    ) -> Result<usize, PortFailure> {
        ports.in_hand = Some(ingress);
        let Some(slot) = ports.healthy_mut(ingress) else { return Ok(0) };
        if let Some(held) = slot.held
            && now.duration_since(held.since) < HOLD
            // A cheap look instead of a poll, which would read and decide the same frames again.
            && ports.healthy_mut(held.receiver).is_some_and(|slot| !slot.port.has_room(queue))
        {
            // Not 0: the frame waits still, so its queue is neither armed nor asleep.
            return Ok(1);
        }
        let Some(slot) = ports.healthy_mut(ingress) else { return Ok(0) };
        self.burst.clear(queue);
        links.start();
        slot.port.poll(queue, &mut self.burst)?;
        slot.strike(links.held_up(), now)?;
        let polled = self.burst.len();
        if polled == 0 {
            return Ok(0);
        }
        self.decide(slot);
        if let Some(limiter) = &mut slot.allowance.from_guest {
            limiter.refill(now);
            // A copy is charged: a frame that is held is polled and limited again, and must be paid
            // for once, when it is dealt with (`complete`).
            self.limit(*limiter);
        }
        let mut context = Context { ports, links, ingress, now };
        let dealt = self.deliver(&mut context);
        self.complete(context.ports, ingress, dealt);
        Ok(polled)
    }

    /// How many frames were dealt with since this was last asked.
    pub fn take_carried(&mut self) -> u64 {
        std::mem::take(&mut self.carried)
    }

    /// Decides about every frame of the burst. Those to be forwarded are made what they leave as.
    // Apart: its loops have more registers alone than within `run` (8 instructions a frame).
    #[inline(never)]
    fn decide(&mut self, slot: &Slot) {
        let Some((table, vnic)) = slot.vnic() else {
            // Attached before its network was published: there is nowhere to go yet.
            self.next_hops = [NextHopId::NONE; BURST];
            self.verdicts = [Verdict::Drop(DropReason::NoRoute); BURST];
            return;
        };
        let (frames, _) = self.burst.frames_mut();
        let plain = Plain::new(table, vnic);
        // One step after the other, so that many lookups wait for memory at the same time.
        let destinations = &mut self.destinations[..frames.len()];
        for (frame, destination) in frames.iter_mut().zip(&mut *destinations) {
            *destination = plain.check(frame);
        }
        for (destination, hop) in destinations.iter().zip(&mut self.next_hops) {
            let found = destination.and_then(|destination| table.fib.lookup_ipv4(destination));
            // A frame without a route is not dropped here: the general path finds out why, and may
            // tell.
            *hop = found.unwrap_or(NextHopId::NONE);
        }
        // Apart, so that what nearly all frames are is all that this loop has in it.
        let mut others = FrameSet::EMPTY;
        for (at, (frame, hop)) in frames.iter_mut().zip(&self.next_hops).enumerate() {
            if *hop != NextHopId::NONE && fast::fits(frame, table.fib.next_hop(*hop)) {
                rewrite::rewrite_ipv4(frame.head_mut(), table.fib.next_hop(*hop));
            } else {
                others.insert(at);
            }
        }
        for at in others.iter() {
            self.decide_other(table, vnic, at);
        }
    }

    /// Decides about a frame that is not plain.
    fn decide_other(&mut self, table: &NetworkTable, vnic: &Vnic, at: usize) {
        let frame = &mut self.burst.frames_mut().0[at];
        match routed::by_head(table, vnic, frame, &mut self.withheld) {
            Ok(next_hop) => {
                rewrite::rewrite(frame.head_mut(), table.fib.next_hop(next_hop));
                self.next_hops[at] = next_hop;
            }
            Err(other) => {
                // Headers beyond the copied head are rare, and cost a copy of the whole frame.
                let is_deep = routed::is_deep(frame, other);
                (self.next_hops[at], self.verdicts[at]) = (NextHopId::NONE, other);
                if is_deep {
                    self.decide_deep(table, vnic, at);
                }
            }
        }
    }

    /// Decides about a frame whose headers may go on beyond its head, with all of it at hand.
    #[cold]
    fn decide_deep(&mut self, table: &NetworkTable, vnic: &Vnic, at: usize) {
        let whole = self.burst.linearise(at, &mut self.whole);
        let frame = &mut self.burst.frames_mut().0[at];
        match routed::by_whole(table, vnic, (frame, whole), &mut self.withheld) {
            Ok(next_hop) => {
                rewrite::rewrite(frame.head_mut(), table.fib.next_hop(next_hop));
                self.next_hops[at] = next_hop;
            }
            Err(verdict) => self.verdicts[at] = verdict,
        }
    }

    /// Drops what is beyond the sender's limit.
    fn limit(&mut self, mut left: Limiter) {
        for at in self.waiting().iter() {
            let frame = self.burst.frame(at);
            if left.admits() {
                left.charge(frame.len, frame.offload);
            } else {
                self.next_hops[at] = NextHopId::NONE;
                self.verdicts[at] = Verdict::Drop(DropReason::RateLimited);
            }
        }
    }

    /// The frames of the burst that are not dealt with.
    fn waiting(&self) -> FrameSet {
        FrameSet::oldest(self.burst.len()) - self.burst.done
    }

    /// Carries out the decisions, those towards one next hop together, and counts. Returns the
    /// frames that are dealt with; the others wait for their receiver.
    fn deliver<L: Ways>(&mut self, context: &mut Context<'_, L>) -> FrameSet {
        // By next hop, in the order of each group's oldest frame: frames of one flow stay in order,
        // and a receiver is looked up, and its ring read, once for all of them.
        let mut left = self.waiting();
        let mut dealt = FrameSet::EMPTY;
        while let Some(at) = left.first() {
            let next_hop = self.next_hops[at];
            if next_hop == NextHopId::NONE {
                context.links.start();
                let outcome = self.end(at, context);
                context.blame(context.ingress);
                context.count(outcome);
                dealt.insert(at);
                left.remove(at);
            } else {
                let group = left & self.grouped_by(next_hop);
                dealt |= self.forward(group, next_hop, context);
                left -= group;
            }
        }
        dealt
    }

    /// The frames to be forwarded to `next_hop`.
    fn grouped_by(&self, next_hop: NextHopId) -> FrameSet {
        FrameSet::of(self.next_hops[..self.burst.len()].iter().map(|hop| *hop == next_hop))
    }

    /// Carries out the verdict about a frame that does not go on as it is.
    fn end<L: Ways>(
        &mut self,
        at: usize,
        context: &mut Context<'_, L>,
    ) -> Result<Done, DropReason> {
        match self.verdicts[at] {
            Verdict::Gateway => {
                let answered = self.answer(at, context);
                // RFC 1122 §4.1.3.1: a port nobody listens on is told of. The asker need not wait
                // for a timeout.
                if answered == Err(DropReason::NotServed) {
                    self.reject(at, Rejection::NotServed, context);
                }
                answered.map(|()| Done::Answered)
            }
            Verdict::Reject(reason, rejection) => {
                self.reject(at, rejection, context);
                Err(reason)
            }
            Verdict::Fragment(next_hop) => {
                self.fragment(at, next_hop, context).map(|()| Done::Forwarded)
            }
            Verdict::Drop(reason) => Err(reason),
        }
    }

    /// Sends a frame on in fragments: all of them, or it counts as dropped.
    #[cold]
    fn fragment<L: Ways>(
        &mut self,
        at: usize,
        next_hop: NextHopId,
        context: &mut Context<'_, L>,
    ) -> Result<(), DropReason> {
        let vnic = context.ports.get_mut(context.ingress).and_then(|slot| slot.vnic());
        let (table, _) = vnic.ok_or(DropReason::NoRoute)?;
        let next_hop = *table.fib.next_hop(next_hop);
        let whole = self.burst.linearise(at, &mut self.whole);
        context.blame(context.ingress);
        // Before the cut: all fragments have one header, whose hop limit is taken down once.
        rewrite::rewrite(whole, &next_hop);
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
        let vnic = context.ports.get_mut(context.ingress).and_then(|slot| slot.vnic());
        let Some(next_hop) = vnic.map(|(table, _)| *table.fib.next_hop(next_hop)) else {
            return FrameSet::EMPTY;
        };
        let next_hop = &next_hop;
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
            (sent..until).for_each(|_| context.count(Err(reason)));
            sent = until;
        }
        group
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
                        context.count(Err(reason))
                    }
                }
            }
            dealt.insert(at);
        }
        dealt
    }

    /// Lets the gateway answer a frame, to where it came from.
    fn answer<L: Ways>(
        &mut self,
        at: usize,
        context: &mut Context<'_, L>,
    ) -> Result<(), DropReason> {
        // Copied before it is looked at: the guest may write to its memory meanwhile.
        let whole = self.burst.linearise(at, &mut self.whole);
        let offload = self.burst.frame(at).offload;
        // Again, on the whole: what the first look saw was the head alone.
        let headers = classify(whole, whole.len(), offload)?;
        let slot = context.ports.healthy_mut(context.ingress).ok_or(DropReason::NoGuest)?;
        if !slot.allowance.may_reply(context.now) {
            return Err(DropReason::ReplyLimit);
        }
        let mut writer = Writer::new(&mut self.answer);
        let (table, vnic) = slot.vnic().ok_or(DropReason::NoRoute)?;
        let question = Question { table, vnic, headers: &headers, frame: whole, offload };
        let told = gateway::respond(&question, &mut writer)?;
        let answer = Outgoing::private(writer.since(0), Offload::None);
        match slot.put(&[answer], self.burst.queue, context.now).refused {
            None => {
                slot.tell(told, context.now);
                Ok(())
            }
            // Not held, where the ring is full: it is the asker's own.
            Some(why) => Err(context.ports.drop_for(context.ingress, why)),
        }
    }

    /// Tells the sender of a packet why it goes nowhere, if that may be told.
    fn reject<L: Ways>(&mut self, at: usize, rejection: Rejection, context: &mut Context<'_, L>) {
        let whole = self.burst.linearise(at, &mut self.whole);
        let Some(slot) = context.ports.healthy_mut(context.ingress) else { return };
        // An error quotes the beginning of its packet (RFC 792): how it is to be cut does not
        // matter.
        let Ok(headers) = classify(whole, whole.len(), Offload::None) else { return };
        if !slot.allowance.may_reply(context.now) {
            return;
        }
        let Some(who) = slot.vnic() else { return };
        let mut writer = Writer::new(&mut self.answer);
        if gateway::reject(who, &headers, whole, rejection, &mut writer).is_err() {
            return;
        }
        // The packet's own drop is counted; an error that finds no buffer is not another one.
        let error = Outgoing::private(writer.since(0), Offload::None);
        let told = slot.put(&[error], self.burst.queue, context.now);
        if let Some(why) = told.refused {
            context.ports.drop_for(context.ingress, why);
        }
    }

    /// Counts what was dealt with and returns it to its sender.
    fn complete(&mut self, ports: &mut Ports, ingress: PortId, dealt: FrameSet) {
        self.carried += dealt.len() as u64;
        // Not `healthy_mut`: what a port has sent is counted, though it failed meanwhile.
        let Some(slot) = ports.get_mut(ingress) else { return };
        slot.counters.ingress_frames.add(dealt.len() as u64);
        let octets = dealt.iter().map(|at| self.burst.frame(at).len as u64).sum();
        slot.counters.ingress_octets.add(octets);
        if let Some(limiter) = &mut slot.allowance.from_guest {
            // A frame beyond the limit takes no tokens: a flood would else never see its limit end.
            for at in dealt.iter().filter(|at| !self.is_limited(*at)) {
                let frame = self.burst.frame(at);
                limiter.charge(frame.len, frame.offload);
            }
        }
        let done = self.burst.done | dealt;
        // The oldest frame is the one whose wait is timed: it has gone.
        if done.contains(0) {
            slot.held = None;
        }
        if slot.is_healthy() {
            slot.port.complete(self.burst.queue, done);
        }
        ports.touch(ingress);
    }

    /// Whether a frame was beyond its sender's limit.
    fn is_limited(&self, at: usize) -> bool {
        let limited = Verdict::Drop(DropReason::RateLimited);
        self.next_hops[at] == NextHopId::NONE && self.verdicts[at] == limited
    }

    /// Delivers frames of one port and queue that came over a link.
    pub fn deliver_from_link(
        &mut self,
        ports: &mut Ports,
        (port, queue): (PortId, usize),
        mut frames: &[Outgoing<'_>],
        now: Instant,
    ) {
        self.carried += frames.len() as u64;
        ports.in_hand = Some(port);
        let Some(slot) = ports.healthy_mut(port) else { return };
        // Nothing is held here: the frames are copies in a link, which others are waiting to fill.
        while !frames.is_empty() {
            let Delivered { taken, refused } = slot.put(frames, queue, now);
            frames = &frames[taken..];
            let Some(why) = refused else { break };
            if let Undelivered::Failed(failure) = why {
                ports.fail(port, failure);
                return;
            }
            // The next one may fit.
            let dropped = if why == Undelivered::TooLarge { 1 } else { frames.len() };
            (0..dropped).for_each(|_| slot.counters.drop_frame(why.reason()));
            frames = &frames[dropped..];
        }
        ports.touch(port);
    }

    /// Advertises the router to a guest unasked. Returns when to do so again, if ever.
    pub fn advertise(
        &mut self,
        ports: &mut Ports,
        port: PortId,
        now: Instant,
        random: u64,
    ) -> Option<Instant> {
        ports.in_hand = Some(port);
        let slot = ports.healthy_mut(port)?;
        let mut writer = Writer::new(&mut self.answer);
        let mut heard = Delivered::all(0);
        if let Some((table, vnic)) = slot.vnic()
            && gateway::router_advertisement(table, vnic, &mut writer).is_ok()
        {
            let advertisement = Outgoing::private(writer.since(0), Offload::None);
            // The first queue pair is always in use, others only once the driver asks
            // (VIRTIO_NET_F_MQ).
            heard = slot.put(&[advertisement], 0, now);
        }
        if let Some(Undelivered::Failed(failure)) = heard.refused {
            ports.fail(port, failure);
            return None;
        }
        let heard = heard.refused.is_none();
        if heard {
            slot.allowance.note_advertisement(now);
        }
        slot.advertisements = slot.advertisements.saturating_add(1);
        let tried = slot.advertisements;
        ports.touch(port);
        Some(gateway::next_advertisement(now, tried, heard, random))
    }
}

impl<L: Ways> Context<'_, L> {
    /// Holds it against a port of this reactor if too much time has passed since timing began:
    /// something was done for the port meanwhile.
    fn blame(&mut self, port: PortId) {
        let held_up = self.links.held_up();
        self.ports.blame(port, held_up, self.now);
    }

    /// Counts a frame by what became of it.
    fn count(&mut self, outcome: Result<Done, DropReason>) {
        if let Some(slot) = self.ports.get_mut(self.ingress) {
            match outcome {
                Ok(Done::Answered) => slot.counters.ingress_answered.add(1),
                Ok(Done::Forwarded) => slot.counters.ingress_forwarded.add(1),
                Err(reason) => slot.counters.drop_frame(reason),
            }
        }
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
            let sent = slot.put(frames, queue, self.now);
            // A panic in between is the receiver's; from here on it is the sender's again.
            self.ports.in_hand = Some(self.ingress);
            // Whatever came of it: some of the frames may have been placed.
            self.ports.touch(next_hop.port);
            sent
        } else {
            let to = (next_hop.reactor, next_hop.port);
            let taken = self.links.send(self.ingress, to, queue, frames);
            Delivered { taken, refused: (taken < frames.len()).then_some(Undelivered::LinkFull) }
        }
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
            // The next one may fit.
            Undelivered::TooLarge => Backpressure::Drop(why.reason()),
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
        if receiver.is_some_and(|receiver| receiver.stalled) {
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
        if self.now.duration_since(sender.held.get_or_insert(fresh).since) < HOLD {
            return Backpressure::Hold;
        }
        if let Some(receiver) = self.ports.get_mut(next_hop.port).filter(|_| is_here) {
            receiver.stalled = true;
        }
        Backpressure::DropRest(why.reason())
    }
}
