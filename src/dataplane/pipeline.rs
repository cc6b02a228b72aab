//! The life of a burst: polled from a port, decided frame by frame, delivered next hop by next hop, completed.
//!
//! ```text
//! ingress port → plain → route ──────────────────────→ egress → port of this reactor │ link to another
//!                  └── no: classify → guard → gateway │ route ──┘
//! ```

use super::{
    classify::{Packet, classify},
    egress,
    forward::{self, NextHopId},
    frame::{BURST, Burst, Frame, MAX_FRAME_LEN, Outgoing},
    guard,
    limit::Limiter,
    plain::{self, Plain},
    port::{PortFailure, Undelivered},
    ports::{HOLD, Held, Ports, Slot},
    responders::{self, Question},
    snapshot::{GATEWAY_IPV4, GATEWAY_IPV6, NetworkTable, NextHop, PortId, Vnic},
    verdict::{DropReason, Rejection, Verdict},
    ways::Links,
};
use crate::{
    addr::MacAddr,
    wire::{Writer, vnet::Offload},
};
use arrayvec::ArrayVec;
use std::{net::Ipv4Addr, time::Instant};

const _: () = assert!(BURST == u64::BITS as usize, "sets of frames are masks of 64 bits");

/// What a reactor needs to carry frames, made once.
#[derive(Debug)]
pub struct Pipeline {
    burst: Burst,
    /// Where each frame of the burst is addressed to, if it is plain.
    destinations: [Option<Ipv4Addr>; BURST],
    /// Where each frame of the burst goes on to, if anywhere; else its verdict says what becomes of it.
    next_hops: [NextHopId; BURST],
    verdicts: [Verdict; BURST],
    /// Holds a whole frame where one is needed in one piece.
    whole: Box<[u8]>,
    /// Where answers are written.
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
            whole: vec![0; MAX_FRAME_LEN].into(),
            answer: vec![0; MAX_FRAME_LEN].into(),
            carried: 0,
        }
    }
}

/// Everything around one burst.
struct Passage<'a, L> {
    ports: &'a mut Ports,
    links: &'a mut L,
    ingress: PortId,
    now: Instant,
}

/// What is to be done about a frame that its next hop did not take.
enum Refused {
    /// It stays with its sender for now, and those behind it that go the same way.
    Hold,
    /// It is dropped.
    Drop(DropReason),
    /// It is dropped, and those behind it that go the same way.
    DropRest(DropReason),
}

impl Pipeline {
    /// Takes one burst from a queue through the switch. Gives how many frames were waiting.
    pub fn run<L: Links>(
        &mut self,
        ports: &mut Ports,
        links: &mut L,
        (ingress, queue): (PortId, usize),
        now: Instant,
    ) -> Result<usize, PortFailure> {
        ports.in_hand = Some(ingress);
        let Some(slot) = ports.sound_mut(ingress) else { return Ok(0) };
        if let Some(held) = slot.held
            && now.duration_since(held.since) < HOLD
            && ports.sound_mut(held.receiver).is_some_and(|slot| !slot.port.has_room(queue))
        {
            return Ok(1);
        }
        let Some(slot) = ports.sound_mut(ingress) else { return Ok(0) };
        self.burst.clear(queue);
        if links.watches() {
            links.start();
        }
        slot.port.poll(queue, &mut self.burst)?;
        if links.watches()
            && let Some(took) = links.held_up()
        {
            slot.strike(took, now)?;
        }
        let polled = self.burst.len();
        if polled == 0 {
            return Ok(0);
        }
        self.decide(slot);
        if let Some(limiter) = &mut slot.allowance.from_guest {
            limiter.refill(now);
            self.limit(*limiter);
        }
        let mut passage = Passage { ports, links, ingress, now };
        let dealt = self.deliver(&mut passage);
        self.complete(passage.ports, ingress, dealt);
        Ok(polled)
    }

    /// How many frames were dealt with since this was last asked.
    pub fn take_carried(&mut self) -> u64 {
        std::mem::take(&mut self.carried)
    }

    /// Decides about every frame of the burst. Those to be forwarded are made what they leave as.
    fn decide(&mut self, slot: &Slot) {
        let Some((table, vnic)) = slot.vnic() else {
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
        for (destination, way) in destinations.iter().zip(&mut self.next_hops) {
            let found = destination.and_then(|destination| table.fib.lookup_ipv4(destination));
            *way = found.unwrap_or(NextHopId::NONE);
        }
        let decisions = self.next_hops.iter_mut().zip(&mut self.verdicts);
        for (frame, (way, verdict)) in frames.iter_mut().zip(decisions) {
            if *way != NextHopId::NONE && plain::fits(frame, table.fib.next_hop(*way)) {
                egress::rewrite_ipv4(frame.head_mut(), table.fib.next_hop(*way));
                continue;
            }
            match decide(table, vnic, frame) {
                Ok(next_hop) => {
                    egress::rewrite(frame.head_mut(), table.fib.next_hop(next_hop));
                    *way = next_hop;
                }
                Err(other) => (*way, *verdict) = (NextHopId::NONE, other),
            }
        }
    }

    /// Drops what is beyond the sender's limit.
    fn limit(&mut self, mut left: Limiter) {
        for at in bits(self.waiting()) {
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
    fn waiting(&self) -> u64 {
        u64::MAX >> (BURST - self.burst.len()) & !self.burst.done
    }

    /// Carries out the decisions, those towards one next hop together, and counts. Gives the frames that are dealt
    /// with; the others wait for their receiver.
    fn deliver<L: Links>(&mut self, passage: &mut Passage<'_, L>) -> u64 {
        let mut left = self.waiting();
        let mut dealt = 0;
        while left != 0 {
            let at = left.trailing_zeros() as usize;
            let next_hop = self.next_hops[at];
            if next_hop == NextHopId::NONE {
                passage.links.start();
                let outcome = self.end(at, passage);
                passage.blame(passage.ingress);
                passage.count(outcome);
                dealt |= 1 << at;
                left &= !(1 << at);
            } else {
                let group = left & self.towards(next_hop);
                dealt |= self.forward(group, next_hop, passage);
                left &= !group;
            }
        }
        dealt
    }

    /// The frames to be forwarded to `next_hop`.
    fn towards(&self, next_hop: NextHopId) -> u64 {
        let ways = self.next_hops[..self.burst.len()].iter().rev();
        ways.fold(0, |set, way| set << 1 | u64::from(*way == next_hop))
    }

    /// Carries out the verdict about a frame that goes no further than here.
    fn end<L: Links>(&mut self, at: usize, passage: &mut Passage<'_, L>) -> Result<(), DropReason> {
        match self.verdicts[at] {
            Verdict::Gateway => {
                let answered = self.answer(at, passage);
                if answered == Err(DropReason::NotServed) {
                    self.reject(at, Rejection::NotServed, passage);
                }
                answered
            }
            Verdict::Reject(reason, rejection) => {
                self.reject(at, rejection, passage);
                Err(reason)
            }
            Verdict::Drop(reason) => Err(reason),
        }
    }

    /// Sends the frames of `group` on to their next hop. Gives those that are dealt with.
    fn forward<L: Links>(
        &mut self,
        group: u64,
        next_hop: NextHopId,
        passage: &mut Passage<'_, L>,
    ) -> u64 {
        let vnic = passage.ports.get_mut(passage.ingress).and_then(|slot| slot.vnic());
        let Some(next_hop) = vnic.map(|(table, _)| *table.fib.next_hop(next_hop)) else { return 0 };
        let next_hop = &next_hop;
        if passage.links.watches() {
            return self.forward_watched(group, next_hop, passage);
        }
        let mut frames = ArrayVec::<Outgoing<'_>, BURST>::new();
        bits(group).for_each(|at| frames.push(self.burst.outgoing(at)));
        let mut sent = 0;
        while sent < frames.len() {
            let (taken, why) = match passage.send(next_hop, self.burst.queue, &frames[sent..]) {
                Ok(()) => break,
                Err(stopped) => stopped,
            };
            sent += taken;
            let (reason, until) = match passage.refused(next_hop, why, group) {
                Refused::Hold => return bits(group).take(sent).fold(0, |set, at| set | 1 << at),
                Refused::Drop(reason) => (reason, sent + 1),
                Refused::DropRest(reason) => (reason, frames.len()),
            };
            (sent..until).for_each(|_| passage.count(Err(reason)));
            sent = until;
        }
        group
    }

    /// As [`Pipeline::forward`], frame by frame and by way of private memory: who makes the reactor wait is found.
    #[cold]
    fn forward_watched<L: Links>(
        &mut self,
        group: u64,
        next_hop: &NextHop,
        passage: &mut Passage<'_, L>,
    ) -> u64 {
        let mut dealt = 0;
        for at in bits(group) {
            passage.links.start();
            let whole = self.burst.linearise(at, &mut self.whole);
            passage.blame(passage.ingress);
            let frame = Outgoing::private(whole, self.burst.frame(at).offload);
            passage.links.start();
            let sent = passage.send(next_hop, self.burst.queue, &[frame]);
            passage.blame(next_hop.port);
            if let Err((_, why)) = sent {
                match passage.refused(next_hop, why, group) {
                    Refused::Hold => return dealt,
                    Refused::Drop(reason) | Refused::DropRest(reason) => passage.count(Err(reason)),
                }
            }
            dealt |= 1 << at;
        }
        dealt
    }

    /// Lets the gateway answer a frame, to where it came from.
    fn answer<L: Links>(
        &mut self,
        at: usize,
        passage: &mut Passage<'_, L>,
    ) -> Result<(), DropReason> {
        let whole = self.burst.linearise(at, &mut self.whole);
        let frame = self.burst.frame(at);
        let offload = frame.offload;
        let headers = classify(frame.head(), frame.len, offload)?;
        let slot = passage.ports.sound_mut(passage.ingress).ok_or(DropReason::NoGuest)?;
        if !slot.allowance.may_reply(passage.now) {
            return Err(DropReason::ReplyLimit);
        }
        let mut writer = Writer::new(&mut self.answer);
        let (table, vnic) = slot.vnic().ok_or(DropReason::NoRoute)?;
        let question = Question { table, vnic, headers: &headers, frame: whole, offload };
        let told = responders::respond(&question, &mut writer)?;
        let answer = Outgoing::private(writer.since(0), Offload::None);
        match slot.put(&[answer], self.burst.queue, passage.now) {
            Ok(()) => {
                slot.tell(told, passage.now);
                Ok(())
            }
            // It is the asker's own ring: no need to wait for it.
            Err((_, Undelivered::Full)) => Err(DropReason::RxRingFull),
            Err((_, Undelivered::Limited)) => Err(DropReason::RateLimited),
            Err((_, Undelivered::TooLarge)) => Err(DropReason::RxBufferTooSmall),
            Err((_, Undelivered::Failed(failure))) => {
                passage.ports.fail(passage.ingress, failure);
                Err(DropReason::NoGuest)
            }
        }
    }

    /// Tells the sender of a packet why it goes nowhere, if that may be told.
    fn reject<L: Links>(&mut self, at: usize, rejection: Rejection, passage: &mut Passage<'_, L>) {
        let whole = self.burst.linearise(at, &mut self.whole);
        let Some(slot) = passage.ports.sound_mut(passage.ingress) else { return };
        let Ok(headers) = classify(whole, whole.len(), Offload::None) else { return };
        if !slot.allowance.may_reply(passage.now) {
            return;
        }
        let Some(who) = slot.vnic() else { return };
        let mut writer = Writer::new(&mut self.answer);
        if responders::reject(who, &headers, whole, rejection, &mut writer).is_err() {
            return;
        }
        // The packet's own drop is counted; an error that finds no buffer is not another one.
        let error = Outgoing::private(writer.since(0), Offload::None);
        let told = slot.put(&[error], self.burst.queue, passage.now);
        if let Err((_, Undelivered::Failed(failure))) = told {
            passage.ports.fail(passage.ingress, failure);
        }
    }

    /// Counts what was dealt with and returns it to its sender.
    fn complete(&mut self, ports: &mut Ports, ingress: PortId, dealt: u64) {
        self.carried += u64::from(dealt.count_ones());
        let Some(slot) = ports.get_mut(ingress) else { return };
        slot.counters.ingress_frames.add(dealt.count_ones().into());
        let octets = bits(dealt).map(|at| self.burst.frame(at).len as u64).sum();
        slot.counters.ingress_octets.add(octets);
        if let Some(limiter) = &mut slot.allowance.from_guest {
            for at in bits(dealt).filter(|at| !self.is_limited(*at)) {
                let frame = self.burst.frame(at);
                limiter.charge(frame.len, frame.offload);
            }
        }
        let done = self.burst.done | dealt;
        if done & 1 != 0 {
            slot.held = None;
        }
        if slot.is_sound() {
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
        let Some(slot) = ports.sound_mut(port) else { return };
        while !frames.is_empty() {
            let Err((taken, why)) = slot.put(frames, queue, now) else { break };
            frames = &frames[taken..];
            let (reason, dropped) = match why {
                Undelivered::Full => (DropReason::RxRingFull, frames.len()),
                Undelivered::Limited => (DropReason::RateLimited, frames.len()),
                Undelivered::TooLarge => (DropReason::RxBufferTooSmall, 1),
                Undelivered::Failed(failure) => {
                    ports.fail(port, failure);
                    return;
                }
            };
            (0..dropped).for_each(|_| slot.counters.drop_frame(reason));
            frames = &frames[dropped..];
        }
        ports.touch(port);
    }

    /// Advertises the router to a guest unasked. Gives when to do so again, if ever.
    pub fn advertise(
        &mut self,
        ports: &mut Ports,
        port: PortId,
        now: Instant,
        random: u64,
    ) -> Option<Instant> {
        ports.in_hand = Some(port);
        let slot = ports.sound_mut(port)?;
        let mut writer = Writer::new(&mut self.answer);
        let mut heard = Ok(());
        if let Some((table, vnic)) = slot.vnic()
            && responders::router_advertisement(table, vnic, &mut writer).is_ok()
        {
            let advertisement = Outgoing::private(writer.since(0), Offload::None);
            heard = slot.put(&[advertisement], 0, now);
        }
        if let Err((_, Undelivered::Failed(failure))) = heard {
            ports.fail(port, failure);
            return None;
        }
        let tried = slot.allowance.count_advertisement(heard.is_ok(), now);
        ports.touch(port);
        Some(responders::next_advertisement(now, tried, heard.is_ok(), random))
    }
}

/// Where a frame of `vnic` goes on to, or what else is to become of it; leaves out its padding.
#[inline(never)]
fn decide(table: &NetworkTable, vnic: &Vnic, frame: &mut Frame) -> Result<NextHopId, Verdict> {
    if let Some(reason) = frame.unfit {
        return Err(reason.into());
    }
    let headers = classify(frame.head(), frame.len, frame.offload)?;
    guard::check(vnic, &headers)?;
    frame.truncate(headers.frame_len());
    match &headers.packet {
        Packet::Arp(_) => Err(Verdict::Gateway),
        Packet::Ipv4(packet) => {
            let destination = packet.destination;
            if destination == GATEWAY_IPV4 || destination.is_broadcast() {
                return Err(Verdict::Gateway);
            }
            if !destination.is_multicast() {
                refuse_group(headers.destination)?;
            }
            forward::route_ipv4(table, packet)
        }
        Packet::Ipv6(packet) => {
            let destination = packet.destination;
            if destination == GATEWAY_IPV6 || destination.is_multicast() {
                return Err(Verdict::Gateway);
            }
            refuse_group(headers.destination)?;
            forward::route_ipv6(table, packet)
        }
    }
}

/// A unicast packet in a frame to a group is not forwarded (RFC 1812 §5.3.4).
fn refuse_group(destination: MacAddr) -> Result<(), DropReason> {
    match (destination.is_multicast(), destination == MacAddr::BROADCAST) {
        (false, _) => Ok(()),
        (true, true) => Err(DropReason::Broadcast),
        (true, false) => Err(DropReason::Multicast),
    }
}

/// The positions of the bits that are set, from the lowest.
fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = set.trailing_zeros();
        set &= set.wrapping_sub(1);
        (at < u64::BITS).then_some(at as usize)
    })
}

impl<L: Links> Passage<'_, L> {
    /// Holds it against a port of this reactor if what was done for it since it was begun to be timed took too long.
    fn blame(&mut self, port: PortId) {
        if self.links.watches()
            && let Some(took) = self.links.held_up()
            && let Some(slot) = self.ports.sound_mut(port)
            && let Err(failure) = slot.strike(took, self.now)
        {
            self.ports.fail(port, failure);
        }
    }

    /// Counts a frame as answered or dropped.
    fn count(&mut self, answered: Result<(), DropReason>) {
        if let Some(slot) = self.ports.get_mut(self.ingress) {
            match answered {
                Ok(()) => slot.counters.ingress_answered.add(1),
                Err(reason) => slot.counters.drop_frame(reason),
            }
        }
    }

    /// Sends frames to their next hop, and counts those that it took.
    fn send(
        &mut self,
        next_hop: &NextHop,
        queue: usize,
        frames: &[Outgoing<'_>],
    ) -> Result<(), (usize, Option<Undelivered>)> {
        let sent = if next_hop.reactor == self.links.here() {
            self.ports.in_hand = Some(next_hop.port);
            let slot = self.ports.sound_mut(next_hop.port).ok_or((0, None))?;
            let sent = slot.put(frames, queue, self.now).map_err(|(taken, why)| (taken, Some(why)));
            self.ports.in_hand = Some(self.ingress);
            self.ports.touch(next_hop.port);
            sent
        } else {
            let to = (next_hop.reactor, next_hop.port);
            match self.links.send(self.ingress, to, queue, frames) {
                taken if taken < frames.len() => Err((taken, Some(Undelivered::Full))),
                _ => Ok(()),
            }
        };
        let taken = sent.as_ref().map_or_else(|(taken, _)| *taken, |()| frames.len());
        if let Some(slot) = self.ports.get_mut(self.ingress) {
            slot.counters.ingress_forwarded.add(taken as u64);
        }
        sent
    }

    /// What is to be done about a frame of `group` that its next hop refused; `None`: nobody is there.
    fn refused(&mut self, next_hop: &NextHop, why: Option<Undelivered>, group: u64) -> Refused {
        match why {
            None => Refused::DropRest(DropReason::NoGuest),
            Some(Undelivered::Limited) => Refused::DropRest(DropReason::RateLimited),
            Some(Undelivered::TooLarge) => Refused::Drop(DropReason::RxBufferTooSmall),
            Some(Undelivered::Failed(failure)) => {
                self.ports.fail(next_hop.port, failure);
                Refused::DropRest(DropReason::NoGuest)
            }
            Some(Undelivered::Full) => self.hold(next_hop, group),
        }
    }

    /// Holds frames for a receiver without buffers, but not the oldest of their sender for longer than [`HOLD`].
    fn hold(&mut self, next_hop: &NextHop, group: u64) -> Refused {
        let elsewhere = next_hop.reactor != self.links.here();
        let reason = if elsewhere { DropReason::LinkFull } else { DropReason::RxRingFull };
        let receiver = self.ports.get_mut(next_hop.port).filter(|_| !elsewhere);
        if receiver.is_some_and(|receiver| receiver.stalled) {
            return Refused::DropRest(reason);
        }
        let Some(sender) = self.ports.get_mut(self.ingress) else { return Refused::Hold };
        if group & 1 == 0 {
            return Refused::Hold;
        }
        let fresh = Held { since: self.now, receiver: next_hop.port };
        if self.now.duration_since(sender.held.get_or_insert(fresh).since) < HOLD {
            return Refused::Hold;
        }
        if let Some(receiver) = self.ports.get_mut(next_hop.port).filter(|_| !elsewhere) {
            receiver.stalled = true;
        }
        Refused::DropRest(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::{
        forward::FibBuilder,
        frame::HEAD_LEN,
        limit::Limit,
        snapshot::{Addressing, Boot, GATEWAY_MAC, NetworkKey},
    };
    use proptest::prelude::*;
    use std::sync::Arc;

    /// A network of 10.0.0.1, behind which 10.1.0.0/16 is, and 10.0.0.2, behind which much is that is never routed.
    fn table() -> NetworkTable {
        let mut fib = FibBuilder::default();
        let vnics = [1_u8, 2].map(|n| {
            let port = PortId { slot: n.into(), generation: 1 };
            let mac = MacAddr([0x52, 0x54, 0, 0, 0, n]);
            let ipv4 = Ipv4Addr::new(10, 0, 0, n);
            let next_hop = fib.next_hop(NextHop { port, reactor: 0, mtu: 80, mac });
            fib.host_ipv4(ipv4, next_hop);
            let routed = [["10.1.0.0/16"; 3], ["169.254.0.0/16", "224.0.0.0/3", "10.0.0.128/25"]];
            let routed_ipv4 = routed[usize::from(n - 1)].map(|prefix| prefix.parse().unwrap());
            routed_ipv4.iter().for_each(|prefix| fib.prefix_ipv4(*prefix, next_hop));
            Arc::new(Vnic {
                port,
                mac,
                ipv4: Some(ipv4),
                ipv6: None,
                routed_ipv4: routed_ipv4.into(),
                routed_ipv6: Vec::new(),
                slaac: None,
                from_guest: Limit::default(),
                to_guest: Limit::default(),
                mtu: 80,
                addressing: Addressing::Host,
                hostname: None,
                boot: Boot::default(),
            })
        });
        NetworkTable {
            key: NetworkKey(1),
            ipv4_subnet: Some("10.0.0.0/24".parse().unwrap()),
            ipv4_broadcast: Some(Ipv4Addr::new(10, 0, 0, 255)),
            ipv6_prefix: None,
            dns_ipv4: Vec::new(),
            dns_ipv6: Vec::new(),
            ntp_ipv4: Vec::new(),
            ntp_ipv6: Vec::new(),
            domain: None,
            vnics: vnics.into(),
            fib: fib.build(7),
        }
    }

    /// From 10.0.0.1 to 10.0.0.2, `len` octets in all.
    fn frame(protocol: u8, len: usize, offload: Offload) -> Frame {
        let mut frame = Frame { len, head_len: len.min(HEAD_LEN), offload, ..Frame::default() };
        frame.head[..6].copy_from_slice(&GATEWAY_MAC.0);
        frame.head[6..14].copy_from_slice(&[0x52, 0x54, 0, 0, 0, 1, 8, 0]);
        frame.head[14..24].copy_from_slice(&[0x45, 0, 0, len as u8 - 14, 0, 0, 0, 0, 64, protocol]);
        frame.head[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        frame.head[34..38].copy_from_slice(&[4, 210, 0, 53]);
        frame.head[46] = 0x50;
        frame
    }

    /// What the plain path says of a frame.
    fn decide_plain(table: &NetworkTable, frame: &mut Frame) -> Option<NextHopId> {
        let destination = Plain::new(table, &table.vnics[0]).check(frame)?;
        let next_hop = table.fib.lookup_ipv4(destination)?;
        plain::fits(frame, table.fib.next_hop(next_hop)).then_some(next_hop)
    }

    #[test]
    fn ordinary_packets_are_plain() {
        let table = table();
        for (protocol, offset) in [(6, 16), (17, 6)] {
            for offload in [Offload::None, Offload::Checksum { start: 34, offset }] {
                let mut frame = frame(protocol, 94, offload);
                assert!(decide_plain(&table, &mut frame).is_some(), "{protocol} {offload:?}");
            }
        }
        assert_eq!(decide_plain(&table, &mut frame(1, 94, Offload::None)), None);
        assert_eq!(decide_plain(&table, &mut frame(6, 95, Offload::None)), None, "beyond the MTU");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn the_plain_path_says_nothing_that_the_general_one_does_not(
            protocol in prop_oneof![Just(6_u8), Just(17), any::<u8>()],
            len in 34..200_usize,
            padding in 0..20_usize,
            changes in proptest::collection::vec(
                (0..60_usize, prop_oneof![any::<u8>(), (0..8_u32).prop_map(|bit| 1 << bit),
                    prop::sample::select(vec![0, 1, 10, 67, 68, 127, 169, 224, 254, 255])]), 0..4),
            start in prop_oneof![Just(34_u16), any::<u16>()],
            offset in prop_oneof![Just(6_u16), Just(16), any::<u16>()],
            checksum: bool,
            destination in prop::sample::select(vec![
                [10, 0, 0, 2], [10, 0, 0, 1], [10, 1, 2, 3], [10, 0, 0, 200], [10, 0, 0, 255], [169, 254, 0, 1],
                [169, 254, 0, 2], [224, 0, 0, 1], [255; 4]]),
        ) {
            let table = table();
            let offload = if checksum { Offload::Checksum { start, offset } } else { Offload::None };
            let mut frame = frame(protocol, len, offload);
            frame.head[30..34].copy_from_slice(&destination);
            (frame.len, frame.head_len) = (len + padding, (len + padding).min(HEAD_LEN));
            changes.iter().for_each(|(at, to)| frame.head[*at] = *to);
            let mut general = frame.clone();
            if let Some(next_hop) = decide_plain(&table, &mut frame) {
                prop_assert_eq!(decide(&table, &table.vnics[0], &mut general), Ok(next_hop));
                egress::rewrite_ipv4(frame.head_mut(), table.fib.next_hop(next_hop));
                egress::rewrite(general.head_mut(), table.fib.next_hop(next_hop));
                prop_assert_eq!((frame.head(), frame.len), (general.head(), general.len));
            }
        }
    }
}
