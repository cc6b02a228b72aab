//! The life of a burst: polled from a port, decided frame by frame, delivered next hop by next hop,
//! completed.
//!
//! ```text
//! ingress port → plain → route ──────────────────────→ egress → port of this reactor │ link to another
//!                  └── no: classify → guard → gateway │ route ──┘
//! ```

mod answer;
mod deliver;

use super::{
    ports::{HOLD, Ports, Slot},
    timers::Timers,
    ways::Ways,
};
use crate::dataplane::{
    forward::{
        fast::{self, Plain},
        limit::Limiter,
        rewrite, routed,
        tables::{NetworkTable, PortId, Vnic},
        withheld::Withheld,
    },
    frame::{
        BURST, Burst, FrameSet, MAX_FRAME_LEN, fragment,
        verdict::{DropReason, NextHopId, Verdict},
    },
    port::PortFailure,
};
use std::{
    hash::{BuildHasher as _, RandomState},
    net::Ipv4Addr,
    time::Instant,
};

/// What is done when its time comes, whatever frames come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Due {
    /// A guest is told of its router.
    Advertise(PortId),
}

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
    timers: Timers<Due>,
    random: u64,
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
            timers: Timers::default(),
            // Only spreads what is due out in time: nothing secret depends on it. Xorshift never
            // leaves zero.
            random: RandomState::new().hash_one(0) | 1,
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
}
