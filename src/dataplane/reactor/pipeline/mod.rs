//! The life of a burst: polled from a port, decided by its network's domain, delivered next hop by
//! next hop, completed.
//!
//! ```text
//! ingress port → decide (forward/) → limit → deliver: egress port here │ link to another reactor
//!                                            answer: what the gateway says
//! ```

mod answer;
mod deliver;
mod explain;
mod tapped;
mod trunk;

pub use crate::dataplane::gateway::Asked;
pub use explain::{Fate, Receiver, Supposed};

use super::{
    ports::{Attachment, HOLD, Ports},
    timers::Timers,
    ways::Ways,
};
use crate::dataplane::{
    forward::{
        Decider, Decisions, Effects, Joined, MacTable, Network, Prober,
        limit::Limiter,
        tables::{NetworkKey, PortId},
    },
    frame::{
        Burst, FrameSet, MAX_FRAME_LEN, fragment,
        verdict::{DropReason, Verdict},
    },
    gateway,
    port::PortFailure,
};
use crate::wire::vlan::VlanId;
use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

/// What is done when its time comes, whatever frames come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Due {
    /// A guest is told of its router.
    Advertise(PortId),
    /// A network forgets what was heard long ago.
    Forget(NetworkKey),
    /// A port sends a probe for loops.
    Probe(PortId),
    /// A port that was blocked goes on.
    Unblock(PortId),
    /// The members of a network are asked who listens to groups: for the first time, or again.
    Query(NetworkKey, Again),
    /// Those are asked that listen to groups which others behind their port have left.
    AskLeft(NetworkKey),
}

/// How often a port that may be in a loop is sent a probe, and how soon after it has come.
// By then its network is published. A loop fills its links within milliseconds, and one that has
// just been plugged together is found while it is remembered who did so.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const FIRST_PROBE: Duration = Duration::from_secs(1);

/// Whether something is done for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Again {
    No,
    Yes,
}

/// What a reactor needs to carry frames, made once.
#[derive(Debug)]
pub struct Pipeline {
    burst: Burst,
    decider: Decider,
    decisions: Decisions,
    /// Holds a whole frame where one is needed in one piece.
    whole: Box<[u8]>,
    /// Where answers and fragments are written.
    answer: Box<[u8]>,
    /// Frames dealt with since this was last asked.
    carried: u64,
    timers: Timers<Due>,
    prober: Prober,
    /// Held by each question that waits for control.
    asked: Arc<()>,
    /// Those that control has seen to.
    seen_to: Vec<(PortId, Asked)>,
    /// What services say.
    said: Vec<(PortId, Box<[u8]>)>,
    /// What is known of the burst for those who capture it.
    tapped: tapped::Burst,
    random: u64,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self::new(Prober::default())
    }
}

impl Pipeline {
    /// One whose probes for loops are known to others who have the same prober.
    pub fn new(prober: Prober) -> Self {
        Self {
            burst: Burst::default(),
            decider: Decider::new(prober.clone()),
            decisions: Decisions::default(),
            whole: vec![0; MAX_FRAME_LEN].into(),
            // Fragments are what is longest: all of one frame are made before the first is sent.
            answer: vec![0; fragment::BUFFER_LEN].into(),
            carried: 0,
            timers: Timers::default(),
            prober,
            asked: Arc::default(),
            seen_to: Vec::new(),
            said: Vec::new(),
            tapped: tapped::Burst::default(),
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
    /// The VLAN of a trunk's frames in hand; none: they are of its native network, or of its only
    /// one.
    vlan: Option<VlanId>,
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
        if slot.is_quiet {
            return Ok(0);
        }
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
            slot.is_quiet = slot.port.wakes_unasked(queue);
            if std::mem::take(&mut self.burst.touched) {
                ports.touch(ingress);
            }
            return Ok(0);
        }
        self.tapped.is_on = slot.tapped.is_some();
        if self.tapped.is_on {
            self.tapped.begin(&self.burst);
        }
        if slot.is_trunk() {
            let dealt = self.run_trunk(ports, links, ingress, now);
            if self.tapped.is_on {
                self.see_ingress(ports, links, (ingress, dealt), now);
            }
            self.complete(ports, ingress, dealt);
            return Ok(polled);
        }
        match slot.member(None) {
            _ if slot.is_blocked() => self.decisions.end_all(DropReason::PortBlocked),
            Some((network, member)) => {
                let (burst, decisions) = (&mut self.burst, &mut self.decisions);
                let effects = self.decider.decide((network, member), burst, decisions, now);
                slot.count_lessons(&effects.lessons);
                self.note(network.key, effects);
            }
            // Attached before its network was published: there is nowhere to go yet.
            None => self.decisions = Decisions::default(),
        }
        if let Some(limiter) = &mut slot.allowance.from_guest {
            limiter.refill(now);
            // A copy is charged: a frame that is held is polled and limited again, and must be paid
            // for once, when it is dealt with (`complete`).
            self.limit(*limiter);
        }
        let mut context = Context { ports, links, ingress, vlan: None, now };
        let dealt = self.deliver(self.waiting(), &mut context);
        if self.tapped.is_on {
            self.see_ingress(context.ports, context.links, (ingress, dealt), now);
        }
        self.complete(context.ports, ingress, dealt);
        Ok(polled)
    }

    /// How many frames were dealt with since this was last asked.
    pub fn take_carried(&mut self) -> u64 {
        std::mem::take(&mut self.carried)
    }

    /// A port is about to be attached.
    pub fn attached(&mut self, attachment: &Attachment, now: Instant) {
        let when = attachment.allowance.next_advertisement(now);
        self.timers.set(Due::Advertise(attachment.id), when);
        self.timers.set(Due::Probe(attachment.id), now + FIRST_PROBE);
        self.decider.rejoin(attachment.id, &attachment.allowance.joined, now);
    }

    /// Returns what groups a port hears that is about to be detached.
    pub fn joined(&self, port: PortId, now: Instant) -> Vec<(NetworkKey, Joined)> {
        self.decider.joined(port, now)
    }

    /// Returns a copy of the MACs that were learned in a network.
    pub fn macs(&self, network: NetworkKey, now: Instant) -> MacTable {
        self.decider.macs(network, now)
    }

    /// Returns how many MACs were learned, of each network where any may be.
    pub fn count_macs(&self) -> Vec<(NetworkKey, usize)> {
        self.decider.count_macs().collect()
    }

    /// A network is about to be published.
    pub fn published(&mut self, network: &Network, now: Instant) {
        self.decider.published(network);
        let [first, later] = [Again::No, Again::Yes].map(|again| Due::Query(network.key, again));
        if network.members.is_empty() || network.domain.asks_who_listens().is_none() {
            self.timers.clear(first);
            self.timers.clear(later);
            self.timers.clear(Due::AskLeft(network.key));
        } else if !self.timers.is_set(first) && !self.timers.is_set(later) {
            self.timers.set(first, now);
        }
    }

    /// A port was detached.
    pub fn detached(&mut self, port: PortId) {
        self.timers.clear(Due::Advertise(port));
        self.timers.clear(Due::Probe(port));
        self.timers.clear(Due::Unblock(port));
    }

    /// Sees to what deciding has brought about in a network.
    fn note(&mut self, network: NetworkKey, effects: Effects) {
        if let Some(when) = effects.due {
            self.timers.set(Due::Forget(network), when);
        }
        if let Some(when) = effects.ask_left
            && !self.timers.is_set(Due::AskLeft(network))
        {
            self.timers.set(Due::AskLeft(network), when);
        }
    }

    /// Control has seen to a question that came by a port.
    pub fn return_question(&mut self, port: PortId, asked: Asked) {
        self.seen_to.push((port, asked));
    }

    /// A service says something to a guest.
    pub fn service_says(&mut self, port: PortId, frame: Box<[u8]>) {
        self.said.push((port, frame));
    }

    /// Answers what control has seen to, and what services have.
    pub fn answer_questions(&mut self, ports: &mut Ports, now: Instant) {
        // In order: what comes out of it makes TCP send again. The list keeps its room.
        let mut said = std::mem::take(&mut self.said);
        for (port, frame) in said.drain(..) {
            self.say(ports, (port, &frame), now);
        }
        self.said = said;
        while let Some((port, asked)) = self.seen_to.pop() {
            self.answer_asked(ports, (port, &asked), now);
        }
    }

    /// When something is due that no frame brings about.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Does what is due by now.
    pub fn handle_timeouts(&mut self, ports: &mut Ports, now: Instant) {
        while let Some(due) = self.timers.pop(now) {
            let again = match due {
                Due::Advertise(port) => self.advertise(ports, port, now).map(|when| (due, when)),
                Due::Probe(port) => self.probe(ports, port, now).map(|when| (due, when)),
                Due::Unblock(port) => {
                    if let Some(slot) = ports.get_mut(port) {
                        slot.unblock();
                    }
                    None
                }
                Due::Forget(network) => self.decider.forget(network, now).map(|when| (due, when)),
                Due::AskLeft(network) => self.ask_left(ports, network, now).map(|when| (due, when)),
                Due::Query(network, again) => {
                    self.ask_who_listens(ports, network, now);
                    let [first, later] = gateway::QUERY_INTERVALS;
                    let wait = if again == Again::No { first } else { later };
                    Some((Due::Query(network, Again::Yes), now + wait))
                }
            };
            if let Some((due, when)) = again {
                self.timers.set(due, when);
            }
        }
    }

    /// Drops what is beyond the sender's limit.
    fn limit(&mut self, mut left: Limiter) {
        for at in self.waiting().iter() {
            let frame = self.burst.frame(at);
            if left.admits() {
                left.charge(frame.len, frame.offload);
            } else {
                self.decisions.end(at, Verdict::Drop(DropReason::RateLimited));
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
        self.decisions.of(at) == Err(Verdict::Drop(DropReason::RateLimited))
    }
}
