//! The life of a burst: polled from a port, decided frame by frame, delivered, completed.
//!
//! ```text
//! ingress port → classify → guard → gateway │ route → egress → port of this reactor │ link to another
//! ```

use super::{
    classify::{Packet, classify},
    egress, forward,
    frame::{Burst, Frame, MAX_FRAME_LEN, Outgoing},
    guard,
    port::{PortFailure, Undelivered},
    ports::{HOLD, Ports, Slot},
    responders::{self, Question},
    snapshot::{GATEWAY_IPV4, GATEWAY_IPV6, NetworkTable, NextHop, PortId, Vnic},
    verdict::{DropReason, Rejection, Verdict},
};
use crate::{
    addr::MacAddr,
    wire::{Writer, checksum, vnet::Checksum},
};
use std::time::Instant;

/// The way to ports of other reactors.
pub trait Links {
    /// Which reactor this is.
    fn here(&self) -> u16;
    /// Copies a frame into the link to `reactor`; false if it is full.
    fn send(&mut self, reactor: u16, port: PortId, frame: &Outgoing<'_>) -> bool;
}

/// What a reactor needs to carry frames, made once.
#[derive(Debug)]
pub struct Pipeline {
    burst: Burst,
    verdicts: Vec<Verdict>,
    /// Holds a whole frame where one is needed in one piece.
    whole: Box<[u8]>,
    /// Where answers are written.
    answer: Box<[u8]>,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self {
            burst: Burst::default(),
            verdicts: Vec::with_capacity(super::frame::BURST),
            whole: vec![0; MAX_FRAME_LEN].into(),
            answer: vec![0; MAX_FRAME_LEN].into(),
        }
    }
}

/// What became of one frame.
enum Outcome {
    Forwarded,
    Answered,
    Dropped(DropReason),
    /// It stays with its sender for now, and those behind it.
    Held,
}

/// Everything around one frame.
struct Passage<'a, L> {
    ports: &'a mut Ports,
    links: &'a mut L,
    ingress: PortId,
    now: Instant,
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
        let Some(slot) = ports.sound_mut(ingress) else { return Ok(0) };
        self.burst.clear(queue);
        slot.port.poll(queue, &mut self.burst)?;
        let polled = self.burst.len();
        if polled == 0 {
            return Ok(0);
        }
        self.decide(slot);
        let mut passage = Passage { ports, links, ingress, now };
        let done = (0..polled).take_while(|at| self.deliver(*at, &mut passage)).count();
        if let Some(slot) = ports.sound_mut(ingress) {
            slot.port.complete(queue, done);
        }
        ports.touch(ingress);
        Ok(polled)
    }

    /// A verdict for every frame of the burst.
    fn decide(&mut self, slot: &Slot) {
        self.verdicts.clear();
        for at in 0..self.burst.len() {
            let (frame, _) = self.burst.frame_mut(at);
            let verdict = match slot.vnic() {
                Some((table, vnic)) => decide(table, vnic, frame),
                None => Err(DropReason::NoRoute),
            };
            self.verdicts.push(verdict.unwrap_or_else(Verdict::Drop));
        }
    }

    /// Carries out the verdict about frame `at`, and counts; false if the frame is held.
    fn deliver<L: Links>(&mut self, at: usize, passage: &mut Passage<'_, L>) -> bool {
        let outcome = match &self.verdicts[at] {
            Verdict::Forward(next_hop) => self.forward(at, *next_hop, passage),
            Verdict::Gateway(_) => self.answer(at, passage),
            Verdict::Reject(reason, rejection) => {
                let (reason, rejection) = (*reason, *rejection);
                self.reject(at, rejection, passage);
                Outcome::Dropped(reason)
            }
            Verdict::Drop(reason) => Outcome::Dropped(*reason),
        };
        let Some(slot) = passage.ports.get_mut(passage.ingress) else { return true };
        match outcome {
            Outcome::Held => {
                slot.held_since.get_or_insert(passage.now);
                return false;
            }
            Outcome::Forwarded => slot.counters.ingress_forwarded.add(1),
            Outcome::Answered => slot.counters.ingress_answered.add(1),
            Outcome::Dropped(reason) => slot.counters.drop_frame(reason),
        }
        slot.held_since = None;
        slot.counters.ingress_frames.add(1);
        slot.counters.ingress_octets.add(self.burst.frame_mut(at).0.len as u64);
        true
    }

    /// Sends a frame on to its next hop.
    fn forward<L: Links>(
        &mut self,
        at: usize,
        next_hop: NextHop,
        passage: &mut Passage<'_, L>,
    ) -> Outcome {
        let queue = self.burst.queue;
        let (frame, spans) = self.burst.frame_mut(at);
        egress::rewrite(&mut frame.head[..frame.head_len], &next_hop);
        let outgoing = Outgoing {
            checksum: frame.checksum,
            head: &frame.head[..frame.head_len],
            tail: &spans[frame.tail.clone()],
            len: frame.len,
            queue,
        };
        if next_hop.reactor != passage.links.here() {
            let sent = passage.links.send(next_hop.reactor, next_hop.port, &outgoing);
            return if sent { Outcome::Forwarded } else { passage.hold(DropReason::LinkFull) };
        }
        let Some(slot) = passage.ports.sound_mut(next_hop.port) else {
            return Outcome::Dropped(DropReason::NoGuest);
        };
        let needs_checksum =
            frame.checksum != Checksum::Complete && !slot.port.takes_partial_checksums();
        let delivered = if needs_checksum {
            let checksum = frame.checksum;
            let whole = self.burst.linearise(at, &mut self.whole);
            complete_checksum(whole, checksum);
            put(slot, &Outgoing::private(whole, Checksum::Complete, queue))
        } else {
            put(slot, &outgoing)
        };
        passage.outcome(next_hop.port, delivered)
    }

    /// Lets the gateway answer a frame, to where it came from.
    fn answer<L: Links>(&mut self, at: usize, passage: &mut Passage<'_, L>) -> Outcome {
        let whole = self.burst.linearise(at, &mut self.whole);
        let queue = self.burst.queue;
        let checksum = self.burst.frame_mut(at).0.checksum;
        let Verdict::Gateway(headers) = &self.verdicts[at] else {
            return Outcome::Dropped(DropReason::Absorbed);
        };
        let Some(slot) = passage.ports.sound_mut(passage.ingress) else {
            return Outcome::Dropped(DropReason::NoGuest);
        };
        if !slot.may_reply(passage.now) {
            return Outcome::Dropped(DropReason::ReplyLimit);
        }
        let mut writer = Writer::new(&mut self.answer);
        let answered = match slot.vnic() {
            Some((table, vnic)) => {
                let question = Question { table, vnic, headers, frame: whole, checksum };
                responders::respond(&question, &mut writer)
            }
            None => Err(DropReason::NoRoute),
        };
        if let Err(reason) = answered {
            return Outcome::Dropped(reason);
        }
        match put(slot, &Outgoing::private(writer.since(0), Checksum::Complete, queue)) {
            Ok(()) => Outcome::Answered,
            // It is the asker's own ring: no need to wait for it.
            Err(Undelivered::Full) => Outcome::Dropped(DropReason::RxRingFull),
            Err(other) => match passage.outcome(passage.ingress, Err(other)) {
                Outcome::Held => Outcome::Dropped(DropReason::RxRingFull),
                outcome => outcome,
            },
        }
    }

    /// Tells the sender of a packet why it goes nowhere, if that may be told.
    fn reject<L: Links>(&mut self, at: usize, rejection: Rejection, passage: &mut Passage<'_, L>) {
        let queue = self.burst.queue;
        let whole = self.burst.linearise(at, &mut self.whole);
        let Some(slot) = passage.ports.sound_mut(passage.ingress) else { return };
        let Ok(headers) = classify(whole, whole.len(), Checksum::Complete) else { return };
        if !slot.may_reply(passage.now) {
            return;
        }
        let Some((_, vnic)) = slot.vnic() else { return };
        let mut writer = Writer::new(&mut self.answer);
        if responders::reject(vnic, &headers, whole, rejection, &mut writer).is_err() {
            return;
        }
        // The packet's own drop is counted; an error that finds no buffer is not another one.
        let told = put(slot, &Outgoing::private(writer.since(0), Checksum::Complete, queue));
        if let Err(Undelivered::Failed(failure)) = told {
            passage.ports.fail(passage.ingress, failure);
        }
    }

    /// Delivers a frame that came over a link.
    pub fn deliver_from_link(&mut self, ports: &mut Ports, port: PortId, frame: &Outgoing<'_>) {
        let Some(slot) = ports.sound_mut(port) else { return };
        let needs_checksum =
            frame.checksum != Checksum::Complete && !slot.port.takes_partial_checksums();
        let delivered = if needs_checksum {
            let whole = &mut self.whole[..frame.head.len()];
            whole.copy_from_slice(frame.head);
            complete_checksum(whole, frame.checksum);
            put(slot, &Outgoing::private(whole, Checksum::Complete, frame.queue))
        } else {
            put(slot, frame)
        };
        match delivered {
            Ok(()) => ports.touch(port),
            Err(Undelivered::Full) => slot.counters.drop_frame(DropReason::RxRingFull),
            Err(Undelivered::TooLarge) => slot.counters.drop_frame(DropReason::RxBufferTooSmall),
            Err(Undelivered::Failed(failure)) => ports.fail(port, failure),
        }
    }

    /// Advertises the router to a guest unasked. Gives when to do so again, if ever.
    pub fn advertise(
        &mut self,
        ports: &mut Ports,
        port: PortId,
        now: Instant,
        random: u64,
    ) -> Option<Instant> {
        let slot = ports.sound_mut(port)?;
        let mut writer = Writer::new(&mut self.answer);
        let mut heard = Ok(());
        if let Some((table, vnic)) = slot.vnic()
            && responders::router_advertisement(table, vnic, &mut writer).is_ok()
        {
            heard = put(slot, &Outgoing::private(writer.since(0), Checksum::Complete, 0));
        }
        if let Err(Undelivered::Failed(failure)) = heard {
            ports.fail(port, failure);
            return None;
        }
        slot.advertisements = slot.advertisements.saturating_add(1);
        let tried = slot.advertisements;
        ports.touch(port);
        Some(responders::next_advertisement(now, tried, heard.is_ok(), random))
    }
}

/// What is to become of a frame of `vnic`; leaves out the frame's padding.
fn decide(table: &NetworkTable, vnic: &Vnic, frame: &mut Frame) -> Result<Verdict, DropReason> {
    if let Some(reason) = frame.unfit {
        return Err(reason);
    }
    let headers = classify(frame.head(), frame.len, frame.checksum)?;
    frame.truncate(headers.frame_len());
    guard::check(vnic, &headers)?;
    let to_group = headers.destination.is_multicast();
    match &headers.packet {
        Packet::Arp(_) => Ok(Verdict::Gateway(headers)),
        Packet::Ipv4(packet) => {
            let destination = packet.destination;
            if destination == GATEWAY_IPV4 || destination.is_broadcast() {
                return Ok(Verdict::Gateway(headers));
            }
            refuse_group(to_group && !destination.is_multicast(), headers.destination)?;
            Ok(forward::route_ipv4(table, packet))
        }
        Packet::Ipv6(packet) => {
            let destination = packet.destination;
            if destination == GATEWAY_IPV6 || destination.is_multicast() {
                return Ok(Verdict::Gateway(headers));
            }
            refuse_group(to_group, headers.destination)?;
            Ok(forward::route_ipv6(table, packet))
        }
    }
}

/// A unicast packet in a frame to a group is not forwarded (RFC 1812 §5.3.4).
fn refuse_group(applies: bool, destination: MacAddr) -> Result<(), DropReason> {
    match (applies, destination == MacAddr::BROADCAST) {
        (false, _) => Ok(()),
        (true, true) => Err(DropReason::Broadcast),
        (true, false) => Err(DropReason::Multicast),
    }
}

/// Puts a frame into a port, and counts it there.
fn put(slot: &mut Slot, frame: &Outgoing<'_>) -> Result<(), Undelivered> {
    slot.port.deliver(frame)?;
    slot.stalled = false;
    slot.counters.egress_frames.add(1);
    slot.counters.egress_octets.add(frame.len as u64);
    Ok(())
}

/// Finishes a checksum that the sender left to us: `classify` has checked that the field is inside the frame.
fn complete_checksum(frame: &mut [u8], checksum: Checksum) {
    let Checksum::Partial { start, offset } = checksum else { return };
    let Some(segment) = frame.get_mut(usize::from(start)..) else { return };
    let sum = match checksum::checksum(segment) {
        0 => 0xffff,
        sum => sum,
    };
    let field = usize::from(offset);
    if let Some(field) = segment.get_mut(field..field + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

impl<L: Links> Passage<'_, L> {
    /// What a delivery to `port` comes to.
    fn outcome(&mut self, port: PortId, delivered: Result<(), Undelivered>) -> Outcome {
        match delivered {
            Ok(()) => {
                self.ports.touch(port);
                Outcome::Forwarded
            }
            Err(Undelivered::TooLarge) => Outcome::Dropped(DropReason::RxBufferTooSmall),
            Err(Undelivered::Failed(failure)) => {
                self.ports.fail(port, failure);
                Outcome::Dropped(DropReason::NoGuest)
            }
            Err(Undelivered::Full) => {
                if self.ports.get_mut(port).is_some_and(|receiver| receiver.stalled) {
                    return Outcome::Dropped(DropReason::RxRingFull);
                }
                let outcome = self.hold(DropReason::RxRingFull);
                if let (Outcome::Dropped(_), Some(receiver)) = (&outcome, self.ports.get_mut(port))
                {
                    receiver.stalled = true;
                }
                outcome
            }
        }
    }

    /// Holds the oldest frame of the ingress port, but not for longer than [`HOLD`].
    fn hold(&mut self, reason: DropReason) -> Outcome {
        let slot = self.ports.get_mut(self.ingress);
        match slot.and_then(|slot| slot.held_since) {
            Some(since) if self.now.duration_since(since) >= HOLD => Outcome::Dropped(reason),
            _ => Outcome::Held,
        }
    }
}
