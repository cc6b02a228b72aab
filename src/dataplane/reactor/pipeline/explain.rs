//! What would become of a frame: decided by what decides about all frames, with copies of what was
//! learned and of what is left of limits, so that nothing changes by it.
//!
//! ```text
//! the sender's reactor: decide ─ limit ─ who gets it │ what the gateway says
//! the receiver's:       whether its port would take it
//! ```

use super::{
    Pipeline,
    answer::{Opinion, consult},
};
use crate::{
    dataplane::{
        forward::{
            Decisions, Network, rewrite,
            tables::{Member, NetworkKey, NextHop, PortId},
        },
        frame::{
            Burst,
            classify::classify,
            fragment,
            verdict::{DropReason, Flood, NextHopId, Verdict},
        },
        gateway::Question,
        port::{Port, PortFailure, Undelivered},
        reactor::ports::Ports,
    },
    wire::Writer,
};
use std::{sync::Arc, time::Instant};

/// A frame that nobody has sent.
pub struct Supposed {
    /// The network that it would be in.
    pub network: NetworkKey,
    /// The port that it would come by.
    pub from: PortId,
    /// Has the frame, as that port would have it.
    pub sender: Box<dyn Port>,
}

/// Where a frame would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receiver {
    /// The port.
    pub port: PortId,
    /// Its reactor.
    pub reactor: u16,
}

/// What would become of a frame, up to the ports that it would go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It would go to these; more than one: it is flooded.
    Forwarded {
        /// Which.
        to: Vec<Receiver>,
        /// Into how many frames it would be cut; 1: it is not.
        fragments: usize,
    },
    /// The gateway would answer.
    Answered,
    /// Control would find an address first.
    Leased,
    /// A service would answer.
    Served,
    /// Nowhere.
    Dropped {
        /// Why.
        reason: DropReason,
        /// Whether its sender would be told by an ICMP error.
        is_told: bool,
    },
}

impl From<DropReason> for Fate {
    fn from(reason: DropReason) -> Self {
        Self::Dropped { reason, is_told: false }
    }
}

impl From<&NextHop> for Receiver {
    fn from(next_hop: &NextHop) -> Self {
        let &NextHop { port, reactor, .. } = next_hop;
        Self { port, reactor }
    }
}

impl Pipeline {
    /// Returns what would become of a frame. An error: it is no frame.
    pub fn explain(
        &mut self,
        ports: &mut Ports,
        supposed: Supposed,
        now: Instant,
    ) -> Result<Fate, PortFailure> {
        let Supposed { network, from, mut sender } = supposed;
        let mut burst = Burst::default();
        sender.poll(0, &mut burst)?;
        let found = ports.network(network).map(Arc::clone);
        // Not published yet, or no more.
        let Some((network, at)) = found.and_then(|it| it.find(from).map(|at| (it, at))) else {
            return Ok(DropReason::NoRoute.into());
        };
        let decided = self.decided((&network, &network.members[at]), ports, &mut burst, now);
        Ok(decided.unwrap_or_else(Fate::from))
    }

    fn decided(
        &mut self,
        (network, member): (&Network, &Member),
        ports: &mut Ports,
        burst: &mut Burst,
        now: Instant,
    ) -> Result<Fate, DropReason> {
        let from = member.port();
        // Without a guest there is no slot, and nothing that could be in the way.
        let slot = ports.healthy_mut(from);
        if slot.as_ref().is_some_and(|slot| slot.is_blocked()) {
            return Err(DropReason::PortBlocked);
        }
        let mut decisions = Decisions::default();
        let mut decider = self.decider.copy(network.key);
        decider.decide((network, member), burst, &mut decisions, now);
        if let Some(mut limiter) = slot.as_ref().and_then(|slot| slot.allowance.from_guest) {
            limiter.refill(now);
            if !limiter.admits() {
                return Err(DropReason::RateLimited);
            }
        }
        let might_reply = slot.is_none_or(|slot| slot.allowance.might_reply(now));
        match decisions.of(0) {
            Ok(id) => Ok(forwarded(network, id, 1)),
            Err(Verdict::Fragment(id)) => {
                let next_hop = network.domain.next_hop(id);
                let whole = burst.linearise(0, &mut self.whole);
                rewrite::rewrite(whole, next_hop);
                let offload = burst.frame(0).offload;
                match fragment::cut(whole, offload, next_hop.mtu, &mut self.answer) {
                    Some(fragments) => Ok(forwarded(network, id, fragments.iter().count())),
                    None => Ok(Fate::Dropped { reason: DropReason::ExceedsMtu, is_told: true }),
                }
            }
            Err(Verdict::Flood(kind)) => self.flooded((network, from), ports, kind, now),
            Err(Verdict::Gateway) => {
                if !might_reply {
                    return Err(DropReason::ReplyLimit);
                }
                let whole = burst.linearise(0, &mut self.whole);
                let offload = burst.frame(0).offload;
                let headers = classify(whole, whole.len(), offload)?;
                let table = network.domain.routed().ok_or(DropReason::NoRoute)?;
                let asker = member.asker(headers.source);
                let frame = &*whole;
                let question = Question { table, asker, headers: &headers, frame, offload, now };
                match consult(&question, &mut Writer::new(&mut self.answer)) {
                    Ok(Opinion::Say(_)) => Ok(Fate::Answered),
                    Ok(Opinion::NeedsLease) => Ok(Fate::Leased),
                    Ok(Opinion::IsServices) => Ok(Fate::Served),
                    Err(reason) => {
                        Ok(Fate::Dropped { reason, is_told: reason == DropReason::NotServed })
                    }
                }
            }
            Err(Verdict::Neighbour(_)) if might_reply => Ok(Fate::Answered),
            Err(Verdict::Neighbour(_)) => Err(DropReason::ReplyLimit),
            Err(Verdict::Reject(reason, _)) => Ok(Fate::Dropped { reason, is_told: might_reply }),
            Err(Verdict::Block(_)) => Err(DropReason::PortBlocked),
            Err(Verdict::Drop(reason)) => Err(reason),
        }
    }

    fn flooded(
        &self,
        (network, from): (&Network, PortId),
        ports: &mut Ports,
        kind: Flood,
        now: Instant,
    ) -> Result<Fate, DropReason> {
        let copies = self.decider.copies(network, kind);
        let slot = ports.healthy_mut(from);
        if slot.is_some_and(|slot| !slot.allowance.floods.clone().admits(kind, copies, now)) {
            return Err(DropReason::StormLimited);
        }
        let audience = kind.audience();
        let reactors = network.domain.reactors().iter();
        let all = reactors.flat_map(|reactor| network.domain.receivers(from, *reactor));
        let wants = |it: &&NextHop| self.decider.wants(network, audience, it.port, now);
        Ok(Fate::Forwarded { to: all.filter(wants).map(Receiver::from).collect(), fragments: 1 })
    }
}

fn forwarded(network: &Network, id: NextHopId, fragments: usize) -> Fate {
    Fate::Forwarded { to: vec![network.domain.next_hop(id).into()], fragments }
}

impl Ports {
    /// Returns why a port would not take a frame now, which nobody has sent.
    pub fn would_refuse(&mut self, port: PortId, now: Instant) -> Option<Undelivered> {
        let Some(slot) = self.healthy_mut(port) else { return Some(Undelivered::NoGuest) };
        if slot.is_blocked() {
            return Some(Undelivered::Blocked);
        }
        if let Some(mut limiter) = slot.allowance.to_guest {
            limiter.refill(now);
            if !limiter.admits() {
                return Some(Undelivered::Limited);
            }
        }
        (slot.is_stalled() || !slot.port.has_room(0)).then_some(Undelivered::Full)
    }
}
