//! What guests are told by the gateway: answers to their frames, why a frame of theirs goes
//! nowhere, and, when that is due, that it is there.

use super::{Context, Pipeline, deliver::Done};
use crate::{
    addr::MacAddr,
    dataplane::{
        counters::AnswerKind,
        forward::{
            Asker,
            tables::{GATEWAY_IPV6, Member, NetworkKey, PortId, Role},
        },
        frame::{
            Outgoing,
            classify::{Packet, classify},
            verdict::{DropReason, Rejection},
        },
        gateway::{self, Asked, Client, GatewayEvent, Question},
        port::Undelivered,
        reactor::{
            ports::{Ports, Slot},
            ways::Ways,
        },
    },
    model::PortRole,
    wire::{Writer, vlan::VlanId, vnet::Offload},
};
use std::{sync::Arc, time::Instant};

/// Questions of a reactor's that wait for control, and octets that each has at most.
// As many as control sees to in well under a second; who asks in vain asks again.
const MOST_ASKED: usize = 64;
const LONGEST_ASKED: usize = 1500;
/// Frames of a vNIC's for services that wait for these, and octets that each has at most.
// A guest may leave a request to be cut, which is longer than its packets then. It is short all the
// same.
const MOST_PUNTED: usize = 256;
const LONGEST_PUNTED: usize = 16_384;

impl Pipeline {
    /// Lets the gateway answer a frame, to where it came from.
    pub(super) fn answer<L: Ways>(
        &mut self,
        at: usize,
        context: &mut Context<'_, L>,
    ) -> Result<Done, DropReason> {
        // Copied before it is looked at: the guest may write to its memory meanwhile.
        let whole = self.burst.linearise(at, &mut self.whole);
        let offload = self.burst.frame(at).offload;
        let (ingress, now) = (context.ingress, context.now);
        let slot = context.ports.healthy_mut(ingress).ok_or(DropReason::NoGuest)?;
        let question = (&*whole, offload, (self.burst.queue, context.vlan));
        match respond(slot, question, &mut self.answer, now)? {
            Answer::Given => Ok(Done::Answered),
            // Not held, where the ring is full: it is the asker's own.
            Answer::Refused(why) => Err(context.ports.drop_for(ingress, why)),
            Answer::NeedsLease(mac, client) => {
                let has_room = Arc::strong_count(&self.asked) <= MOST_ASKED;
                if !has_room || whole.len() > LONGEST_ASKED || !slot.allowance.may_ask(now) {
                    return Err(DropReason::ReplyLimit);
                }
                let (network, _) = slot.member(context.vlan).ok_or(DropReason::NoRoute)?;
                let (network, place) = (network.key, Arc::clone(&self.asked));
                slot.ask(Asked { network, mac, client, frame: (&*whole).into(), offload, place });
                Ok(Done::Asked)
            }
            Answer::IsServices => {
                let has_room = Arc::strong_count(&slot.punted) <= MOST_PUNTED;
                if !has_room || whole.len() > LONGEST_PUNTED {
                    return Err(DropReason::ReplyLimit);
                }
                slot.punt(context.vlan, whole, offload);
                Ok(Done::Answered)
            }
        }
    }

    /// Answers a question that control has seen to, and counts it.
    pub(super) fn answer_asked(
        &mut self,
        ports: &mut Ports,
        (port, asked): (PortId, &Asked),
        now: Instant,
    ) {
        ports.in_hand = Some(port);
        // It may have left the network meanwhile.
        let vlan = ports.network(asked.network).and_then(|network| {
            let at = network.find(port)?;
            Some(network.members[at].vlan())
        });
        let (Some(vlan), Some(slot)) = (vlan, ports.healthy_mut(port)) else { return };
        // The first queue pair is always in use.
        let question = (&*asked.frame, asked.offload, (0, vlan));
        let outcome = match respond(slot, question, &mut self.answer, now) {
            // A service is never asked by way of control.
            Ok(Answer::Given | Answer::IsServices) => Ok(()),
            Ok(Answer::Refused(why)) => Err(ports.drop_for(port, why)),
            Ok(Answer::NeedsLease(..)) => Err(DropReason::NoLease),
            Err(reason) => Err(reason),
        };
        match outcome {
            Ok(()) => {
                if let Some(slot) = ports.get_mut(port) {
                    slot.counters.ingress_answered.add(1);
                }
            }
            Err(reason) => {
                let frame = (&*asked.frame, asked.frame.len());
                ports.drop_ingress((port, vlan), std::iter::once(frame), reason, now);
            }
        }
        ports.touch(port);
    }

    /// Puts what a service says into a port, as the frame that it is.
    pub(super) fn say(&mut self, ports: &mut Ports, (port, frame): (PortId, &[u8]), now: Instant) {
        ports.in_hand = Some(port);
        let Some(slot) = ports.healthy_mut(port) else { return };
        // What is lost here is sent again: it is TCP, or an answer that is asked for again. The
        // first queue pair is always in use.
        let said = Outgoing::private(frame, Offload::None);
        if let Some(why) = slot.put(&[said], (0, None), now).refused {
            ports.drop_for(port, why);
        }
        ports.touch(port);
    }

    /// Answers a frame that asks for a neighbour at `mac`, to where it came from.
    pub(super) fn speak_for<L: Ways>(
        &mut self,
        at: usize,
        mac: MacAddr,
        context: &mut Context<'_, L>,
    ) -> Result<(), DropReason> {
        let whole = self.burst.linearise(at, &mut self.whole);
        let headers = classify(whole, whole.len(), Offload::None)?;
        let slot = context.ports.healthy_mut(context.ingress).ok_or(DropReason::NoGuest)?;
        if !slot.allowance.may_reply(context.now) {
            return Err(DropReason::ReplyLimit);
        }
        let mut writer = Writer::new(&mut self.answer);
        gateway::speak_for(mac, &headers, whole, &mut writer)?;
        let answer = Outgoing::private(writer.since(0), Offload::None);
        match slot.put(&[answer], (self.burst.queue, context.vlan), context.now).refused {
            None => {
                slot.counters.answer(match headers.packet {
                    Packet::Arp(_) => AnswerKind::Arp,
                    Packet::Ipv4(_) | Packet::Ipv6(_) => AnswerKind::Neighbour,
                });
                context.ports.touch(context.ingress);
                Ok(())
            }
            Some(why) => Err(context.ports.drop_for(context.ingress, why)),
        }
    }

    /// Tells the sender of a packet why it goes nowhere, if that may be told.
    pub(super) fn reject<L: Ways>(
        &mut self,
        at: usize,
        rejection: Rejection,
        context: &mut Context<'_, L>,
    ) {
        let whole = self.burst.linearise(at, &mut self.whole);
        let Some(slot) = context.ports.healthy_mut(context.ingress) else { return };
        // An error quotes the beginning of its packet (RFC 792): how it is to be cut does not
        // matter.
        let Ok(headers) = classify(whole, whole.len(), Offload::None) else { return };
        if !slot.allowance.may_reply(context.now) {
            return;
        }
        let Some(who) = slot.asker(context.vlan, headers.source) else { return };
        let mut writer = Writer::new(&mut self.answer);
        if gateway::reject(who, &headers, whole, rejection, &mut writer).is_err() {
            return;
        }
        // The packet's own drop is counted; an error that finds no buffer is not another one.
        let error = Outgoing::private(writer.since(0), Offload::None);
        match slot.put(&[error], (self.burst.queue, context.vlan), context.now).refused {
            None => slot.counters.answer(AnswerKind::Icmp),
            Some(why) => {
                context.ports.drop_for(context.ingress, why);
            }
        }
    }

    /// Advertises the router to a guest unasked, in each network that its port is in. Returns when
    /// to do so again, if ever.
    pub(super) fn advertise(
        &mut self,
        ports: &mut Ports,
        port: PortId,
        now: Instant,
    ) -> Option<Instant> {
        ports.in_hand = Some(port);
        let slot = ports.healthy_mut(port)?;
        let mut heard = true;
        for at in 0.. {
            let Some(network) = slot.networks().nth(at).map(Arc::clone) else { break };
            let Some(member) = network.find(port).map(|at| &network.members[at]) else { continue };
            let mut writer = Writer::new(&mut self.answer);
            if let Some(table) = network.domain.routed()
                && let Some(asker) = listener(member)
                && gateway::router_advertisement(table, asker, &mut writer).is_ok()
            {
                let advertisement = Outgoing::private(writer.since(0), Offload::None);
                // The first queue pair is always in use, others only once the driver asks
                // (VIRTIO_NET_F_MQ).
                match slot.put(&[advertisement], (0, member.vlan()), now).refused {
                    None => slot.counters.answer(AnswerKind::Router),
                    Some(Undelivered::Failed(failure)) => {
                        ports.fail(port, failure);
                        return None;
                    }
                    Some(_) => heard = false,
                }
            }
        }
        if heard {
            slot.allowance.note_advertisement(now);
        }
        slot.advertisements = slot.advertisements.saturating_add(1);
        let tried = slot.advertisements;
        ports.touch(port);
        Some(gateway::next_advertisement(now, tried, heard, self.random()))
    }

    /// Sends a probe for loops by a port, into each network that it is in. Returns when to do so
    /// again, if ever.
    pub(super) fn probe(
        &mut self,
        ports: &mut Ports,
        port: PortId,
        now: Instant,
    ) -> Option<Instant> {
        let slot = ports.healthy_mut(port)?;
        let again = Some(now + super::PROBE_INTERVAL);
        if slot.is_blocked() {
            return again;
        }
        // A guest is in no loop: nobody else's frames come from it.
        if slot.member(None).is_some_and(|(_, member)| member.fixed_mac().is_some()) {
            return None;
        }
        // Its network may be published later, and may look for loops then.
        for at in 0.. {
            let slot = ports.healthy_mut(port)?;
            let Some(network) = slot.networks().nth(at).map(Arc::clone) else { break };
            let Some(at) = network.find(port) else { continue };
            if !network.domain.guards_loops() {
                continue;
            }
            slot.probes = slot.probes.wrapping_add(1);
            let mut writer = Writer::new(&mut self.answer);
            if self.prober.write(network.key, port, slot.probes, &mut writer).is_ok() {
                let probe = Outgoing::private(writer.since(0), Offload::None);
                let to = (port, network.members[at].vlan());
                ports.deliver(to, 0, &[probe], now, &mut || None);
            }
        }
        again
    }

    /// Asks the members of a network who listens to groups.
    // Each reactor asks its own, and relies on their reports from then on.
    pub(super) fn ask_who_listens(&mut self, ports: &mut Ports, key: NetworkKey, now: Instant) {
        let Some(network) = ports.network(key).map(Arc::clone) else { return };
        let Some(gateway) = network.domain.asks_who_listens() else { return };
        let own = [gateway.gateway_ipv4().into(), GATEWAY_IPV6.into()];
        let asks = self.decider.begin_query(key, own, now);
        let mut writer = Writer::new(&mut self.answer);
        let ipv4 = gateway::query_ipv4(gateway, &mut writer);
        let end = writer.len();
        // A buffer that fragments fit in holds both.
        if ipv4.and_then(|()| gateway::query_ipv6(&mut writer)).is_err() {
            return;
        }
        let (ipv4, ipv6) = writer.since(0).split_at(end);
        let both = [ipv4, ipv6].map(|frame| Outgoing::private(frame, Offload::None));
        let frames = match asks {
            [true, true] => &both[..],
            [true, false] => &both[..1],
            [false, true] => &both[1..],
            [false, false] => return,
        };
        for member in &network.members {
            // Those of other reactors are not found here.
            let member = (member.port(), member.vlan());
            ports.deliver(member, 0, frames, now, &mut || None);
        }
    }

    /// Asks who still listens to groups that others have left. Returns when to do so again.
    pub(super) fn ask_left(
        &mut self,
        ports: &mut Ports,
        key: NetworkKey,
        now: Instant,
    ) -> Option<Instant> {
        let network = ports.network(key).map(Arc::clone)?;
        let gateway = network.domain.asks_who_listens()?;
        let (left, again) = self.decider.take_left(key);
        for (group, port) in left {
            let Some(at) = network.find(port) else { continue };
            let mut writer = Writer::new(&mut self.answer);
            if gateway::query_group(gateway, group, &mut writer).is_ok() {
                let question = Outgoing::private(writer.since(0), Offload::None);
                let to = (port, network.members[at].vlan());
                ports.deliver(to, 0, &[question], now, &mut || None);
            }
        }
        again.then(|| now + gateway::LAST_MEMBER_INTERVAL)
    }

    fn random(&mut self) -> u64 {
        // Xorshift, with one of Marsaglia's triples for 64 bits.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// What has become of a question.
enum Answer {
    /// It was answered.
    Given,
    /// The asker does not take the answer.
    Refused(Undelivered),
    /// A host must have an address first, whose client says this of itself.
    NeedsLease(MacAddr, Client),
    /// A service is to answer.
    IsServices,
}

/// What the gateway makes of a question.
pub(super) enum Opinion {
    /// What was written is the answer.
    Say(GatewayEvent),
    /// A host must have an address first.
    NeedsLease,
    /// A service is to answer.
    IsServices,
}

/// Has the gateway answer a question, by `writer`.
pub(super) fn consult(
    question: &Question<'_>,
    writer: &mut Writer<'_>,
) -> Result<Opinion, DropReason> {
    if gateway::is_for_service(question) {
        return Ok(Opinion::IsServices);
    }
    match gateway::respond(question, writer) {
        Err(DropReason::NoLease) => Ok(Opinion::NeedsLease),
        Ok(GatewayEvent::Foreign) => Ok(Opinion::IsServices),
        told => told.map(Opinion::Say),
    }
}

/// Has the gateway answer a frame that came by a queue of a port, and in a VLAN of it, in `buffer`.
fn respond(
    slot: &mut Slot,
    (frame, offload, (queue, vlan)): (&[u8], Offload, (usize, Option<VlanId>)),
    buffer: &mut [u8],
    now: Instant,
) -> Result<Answer, DropReason> {
    // Again, on the whole: what the first look saw was the head alone.
    let headers = classify(frame, frame.len(), offload)?;
    if !slot.allowance.may_reply(now) {
        return Err(DropReason::ReplyLimit);
    }
    let mut writer = Writer::new(buffer);
    let (table, asker) = slot.asker(vlan, headers.source).ok_or(DropReason::NoRoute)?;
    let question = Question { table, asker, headers: &headers, frame, offload, now };
    // What others behind its port are told is not the guest's.
    let is_guest = asker.vnic().is_some();
    let told = match consult(&question, &mut writer)? {
        Opinion::Say(told) => told,
        Opinion::NeedsLease => {
            return Ok(Answer::NeedsLease(asker.mac(), gateway::client(&question)));
        }
        Opinion::IsServices => {
            slot.counters.answer(gateway::answer_kind(&question, &GatewayEvent::Foreign));
            return Ok(Answer::IsServices);
        }
    };
    let kind = gateway::answer_kind(&question, &told);
    let answer = Outgoing::private(writer.since(0), Offload::None);
    match slot.put(&[answer], (queue, vlan), now).refused {
        Some(why) => Ok(Answer::Refused(why)),
        None => {
            slot.counters.answer(kind);
            if is_guest {
                slot.tell(told, now);
            }
            Ok(Answer::Given)
        }
    }
}

/// Returns who hears by a port of a router unasked.
fn listener(member: &Member) -> Option<Asker<'_>> {
    match &member.role {
        Role::Guest(vnic) => Some(Asker::Guest(vnic)),
        Role::Outside(_) => None,
        // Behind other ports is another network, with routers of its own: who asks is told.
        Role::Bridge(bridge) if bridge.role != PortRole::Access => None,
        // Whoever they are: it goes to all nodes.
        Role::Bridge(_) => Some(member.asker(MacAddr::BROADCAST)),
    }
}
