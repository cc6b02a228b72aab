//! Where frames go: functions of a network's tables, of what traffic has taught, and of the frames.
//!
//! ```text
//! burst of a vNIC ── its network's Domain
//!   ├─ Routed: fast path │ guard, gateway │ route ─┬▶ Decisions
//!   └─ Switched: learn, look up, flood ────────────┘
//! ```
//! A network is published whole. A reactor holds an `Arc` of it and swaps that between two bursts;
//! nothing in it changes with traffic. What does is the reactor's own, in its [`Decider`].

mod asker;
pub mod fast;
mod fdb;
mod fib;
pub mod guard;
mod keyed;
mod learned;
mod leases;
pub mod limit;
mod local;
mod names;
pub mod outside;
mod port_security;
mod probe;
pub mod rewrite;
pub mod routed;
mod segment;
mod snoop;
pub mod switched;
pub mod tables;
pub mod withheld;

pub use asker::{Asker, Host};
pub use fib::{Fib, FibBuilder};
pub use learned::{LearnedMac, MacTable};
pub use leases::{LEASE, Lease, Leases, OFFER};
pub use names::{Named, Names, Thing, Zone};
pub use probe::Prober;
pub use snoop::Joined;

use super::frame::{
    BURST, Burst, FrameSet, Outgoing,
    verdict::{Audience, DropReason, Flood, NextHopId, Verdict},
};
use learned::Learned;
use std::{net::IpAddr, time::Instant};
use switched::Switched;
use tables::{Member, NetworkKey, NextHop, PortId, Role, Routed};

/// The whole truth of one network.
#[derive(Debug)]
pub struct Network {
    /// Which.
    pub key: NetworkKey,
    /// Its members, in the order of their ports' slots: a port finds its own by binary search.
    pub members: Vec<Member>,
    /// How frames go from one to another.
    pub domain: Domain,
}

impl Network {
    /// Returns which of the members has a port.
    pub fn find(&self, port: PortId) -> Option<usize> {
        let found = self.members.binary_search_by_key(&port.slot, |member| member.port().slot);
        // By slot, then by identity: a slot is used again, and a network may have been published
        // before this port was.
        found.ok().filter(|at| self.members[*at].port() == port)
    }
}

/// How frames go from one member of a network to another.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one a network: there is nothing to be saved")]
pub enum Domain {
    /// By their IP address, through a gateway.
    Routed(Routed),
    /// By their MAC, as they are.
    Switched(Switched),
}

impl Domain {
    /// Returns the next hop that a decision has named.
    pub fn next_hop(&self, id: NextHopId) -> &NextHop {
        match self {
            Self::Routed(table) => table.fib.next_hop(id),
            Self::Switched(table) => table.next_hop(id),
        }
    }

    /// Returns the reactors that own ports which a frame may be flooded to.
    pub fn reactors(&self) -> &[u16] {
        match self {
            Self::Routed(_) => &[],
            Self::Switched(table) => table.reactors(),
        }
    }

    /// Returns how many frames to several receivers a port may send a second; none: any number.
    pub fn storm_pps(&self) -> Option<u32> {
        match self {
            Self::Routed(_) => None,
            Self::Switched(table) => table.rules().storm_pps,
        }
    }

    /// Whether loops through its ports are looked for.
    pub fn guards_loops(&self) -> bool {
        match self {
            Self::Routed(_) => false,
            Self::Switched(table) => table.rules().loop_guard,
        }
    }

    /// Returns the gateway that is to ask who listens to groups.
    pub fn asks_who_listens(&self) -> Option<&Routed> {
        match self {
            Self::Routed(_) => None,
            Self::Switched(table) => table.gateway().filter(|_| table.rules().multicast_snooping),
        }
    }

    /// Returns the ports of a reactor that a frame from `from` is flooded to.
    pub fn receivers(&self, from: PortId, reactor: u16) -> impl Iterator<Item = &NextHop> {
        let table = match self {
            Self::Routed(_) => None,
            Self::Switched(table) => Some(table),
        };
        table.into_iter().flat_map(move |table| table.receivers(from, reactor))
    }

    /// Returns what the gateway speaks of, where there is one.
    pub fn routed(&self) -> Option<&Routed> {
        match self {
            Self::Routed(table) => Some(table),
            Self::Switched(table) => table.gateway(),
        }
    }
}

/// What is to become of the frames of a burst: written by a domain, carried out by the pipeline.
#[derive(Debug)]
pub struct Decisions {
    next_hops: [NextHopId; BURST],
    // Apart, since nearly no frame has one.
    verdicts: [Verdict; BURST],
}

impl Default for Decisions {
    fn default() -> Self {
        let nowhere = Verdict::Drop(DropReason::NoRoute);
        Self { next_hops: [NextHopId::NONE; BURST], verdicts: [nowhere; BURST] }
    }
}

impl Decisions {
    /// Sends frame number `at` on to a next hop.
    pub fn forward(&mut self, at: usize, next_hop: NextHopId) {
        self.next_hops[at] = next_hop;
    }

    /// Ends frame number `at` here.
    pub fn end(&mut self, at: usize, verdict: Verdict) {
        self.next_hops[at] = NextHopId::NONE;
        self.verdicts[at] = verdict;
    }

    /// Ends all frames here.
    pub fn end_all(&mut self, reason: DropReason) {
        self.next_hops.fill(NextHopId::NONE);
        self.verdicts.fill(Verdict::Drop(reason));
    }

    /// Returns where each frame goes on to; [`NextHopId::NONE`] where its verdict says what becomes
    /// of it.
    pub fn next_hops(&self) -> &[NextHopId; BURST] {
        &self.next_hops
    }

    /// Returns where frame number `at` goes on to, or what else becomes of it.
    pub fn of(&self, at: usize) -> Result<NextHopId, Verdict> {
        let next_hop = self.next_hops[at];
        if next_hop == NextHopId::NONE { Err(self.verdicts[at]) } else { Ok(next_hop) }
    }
}

/// What deciding about frames has brought about, beside decisions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Effects {
    /// When [`Decider::forget`] is due, if that has changed.
    pub due: Option<Instant>,
    /// When members are to be asked who still listens to groups that others have left, if any are.
    pub ask_left: Option<Instant>,
    /// What they have taught.
    pub lessons: Lessons,
}

/// What frames have taught, and what not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lessons {
    /// How many MACs were learned.
    pub macs_learned: u64,
    /// How many of them were known behind another port.
    pub macs_moved: u64,
    /// How many frames had a source that could not be learned.
    pub macs_not_learned: u64,
    /// How many were of a group that there was no room to learn.
    pub snoop_full: u64,
}

/// What one reactor decides with, beside tables: made once.
#[derive(Debug, Default)]
pub struct Decider {
    routed: routed::Decider,
    outside: outside::Decider,
    learned: Learned,
}

impl Decider {
    /// One that knows the probes of others who have the same prober.
    pub fn new(prober: Prober) -> Self {
        Self { learned: Learned::new(prober), ..Self::default() }
    }

    /// Returns another that knows the same of one network: whatever it is shown, this one learns
    /// nothing.
    pub fn copy(&self, network: NetworkKey) -> Self {
        let (routed, learned) = (self.routed.copy(), self.learned.copy(network));
        Self { routed, outside: outside::Decider::default(), learned }
    }

    /// Decides about every frame of a burst of `member`. Those to be forwarded are made what they
    /// leave as.
    pub fn decide(
        &mut self,
        (network, member): (&Network, &Member),
        burst: &mut Burst,
        decisions: &mut Decisions,
        now: Instant,
    ) -> Effects {
        match (&network.domain, &member.role) {
            (Domain::Routed(table), Role::Guest(vnic)) => {
                self.routed.decide((table, vnic), burst, decisions);
                Effects::default()
            }
            (Domain::Routed(table), Role::Outside(outside)) => {
                self.outside.decide((table, outside), burst, decisions);
                Effects::default()
            }
            // Control puts none there: it has no address to route to, nor any to send from.
            (Domain::Routed(_), Role::Bridge(_)) => {
                *decisions = Decisions::default();
                Effects::default()
            }
            (Domain::Switched(table), _) => {
                let all = burst.frames_mut().0.iter_mut().enumerate();
                self.learned.decide((network.key, table, member), all, decisions, now)
            }
        }
    }

    /// As [`Decider::decide`], about those frames of a trunk's burst alone that are of the network.
    pub fn decide_some(
        &mut self,
        (network, member): (&Network, &Member),
        (burst, which): (&mut Burst, FrameSet),
        decisions: &mut Decisions,
        now: Instant,
    ) -> Effects {
        match &network.domain {
            // Control puts no trunk there, which is a bridge's.
            Domain::Routed(_) => {
                which.iter().for_each(|at| decisions.end(at, DropReason::NoRoute.into()));
                Effects::default()
            }
            Domain::Switched(table) => {
                let all = burst.frames_mut().0.iter_mut().enumerate();
                let some = all.filter(|(at, _)| which.contains(*at));
                self.learned.decide((network.key, table, member), some, decisions, now)
            }
        }
    }

    /// Takes notice of frames that a port of another reactor has sent.
    pub fn hear(
        &mut self,
        network: &Network,
        from: PortId,
        frames: &[Outgoing<'_>],
        now: Instant,
    ) -> Effects {
        match (&network.domain, network.find(from)) {
            // From a port that has left meanwhile nothing is learned.
            (Domain::Routed(_), _) | (_, None) => Effects::default(),
            (Domain::Switched(table), Some(at)) => {
                self.learned.hear((network.key, table, &network.members[at]), frames, now)
            }
        }
    }

    /// Takes notice of a network's new truth.
    pub fn published(&mut self, network: &Network) {
        self.learned.published(network);
    }

    /// Returns whether it is for the gateway of a network to ask who listens to groups, of IPv4 and
    /// of IPv6, and takes notice that it does: else somebody asks whose address is lower than its
    /// own.
    pub fn begin_query(
        &mut self,
        network: NetworkKey,
        own: [IpAddr; 2],
        now: Instant,
    ) -> [bool; 2] {
        self.learned.begin_query(network, own, now)
    }

    /// Returns which groups of a network are to be asked about by which port now, which others have
    /// left, and whether they are again.
    pub fn take_left(&mut self, network: NetworkKey) -> (Vec<(IpAddr, PortId)>, bool) {
        self.learned.take_left(network)
    }

    /// Returns what groups a port hears, in each of its networks, for another reactor.
    pub fn joined(&self, port: PortId, now: Instant) -> Vec<(NetworkKey, Joined)> {
        self.learned.joined(port, now)
    }

    /// Lets a port hear the groups that it heard at another reactor.
    pub fn rejoin(&mut self, port: PortId, joined: &[(NetworkKey, Joined)], now: Instant) {
        self.learned.rejoin(port, joined, now);
    }

    /// Returns how many copies a frame becomes at most that is flooded.
    pub fn copies(&self, network: &Network, flood: Flood) -> usize {
        match (&network.domain, flood.audience()) {
            (Domain::Routed(_), _) => 0,
            (Domain::Switched(table), Audience::All) => table.copies(),
            (Domain::Switched(_), audience) => self.learned.listeners(network.key, audience),
        }
    }

    /// Whether a port of a network is to get what is for an audience.
    pub fn wants(&self, network: &Network, audience: Audience, port: PortId, now: Instant) -> bool {
        match &network.domain {
            Domain::Switched(table) if audience != Audience::All => {
                table.is_uplink(port) || self.learned.wants(network.key, audience, port, now)
            }
            _ => true,
        }
    }

    /// Returns whom a frame is for that was flooded by a port of another reactor, which must have
    /// been heard before.
    pub fn audience(
        &mut self,
        network: &Network,
        from: PortId,
        frame: &Outgoing<'_>,
        now: Instant,
    ) -> Audience {
        match (&network.domain, network.find(from)) {
            (Domain::Switched(table), Some(at)) if table.rules().multicast_snooping => {
                let from = (network.key, &network.members[at]);
                self.learned.audience(from, frame, now)
            }
            _ => Audience::All,
        }
    }

    /// Returns a copy of the MACs that were learned in a network.
    pub fn macs(&self, network: NetworkKey, now: Instant) -> MacTable {
        self.learned.macs(network, now)
    }

    /// Returns how many MACs were learned, of each network where any may be.
    pub fn count_macs(&self) -> impl Iterator<Item = (NetworkKey, usize)> {
        self.learned.count_macs()
    }

    /// Forgets what a network has heard too long ago. Returns when to do so again, if anything is
    /// left.
    pub fn forget(&mut self, network: NetworkKey, now: Instant) -> Option<Instant> {
        self.learned.age(network, now)
    }
}
