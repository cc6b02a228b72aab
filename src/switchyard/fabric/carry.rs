//! The way of a frame through a fabric:
//!
//! ```text
//! PACKET_OUT ─ may it? ─ filter ─ the sender's line ─ learn, look up ─ the hearer's line ─┐
//!                                                                              PACKET_IN ◀┘
//! ```
//! Promiscuous subscribers hear it between the two lines: what a cable would show.

use super::{Endpoint, Fabric, Outgoing, Senders, UPLINK_ID, lines::Way};
use crate::{
    switchyard::{
        capture::Verdict,
        fabric::ClientId,
        protocol::{Kind, MAX_PAYLOAD, Message},
    },
    wire::ethernet,
};
use std::{sync::Arc, time::Duration};

/// Who a frame goes to, promiscuous subscribers aside.
#[derive(Debug, Clone, Copy)]
enum Receivers {
    One(u32),
    AllBut(u32),
}

impl Receivers {
    fn include(self, endpoint: u32) -> bool {
        match self {
            Self::One(receiver) => endpoint == receiver,
            Self::AllBut(sender) => endpoint != sender,
        }
    }
}

/// Which subscribers of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    All,
    Promiscuous,
    Others,
}

impl Fabric {
    /// Takes a frame that a client sends as an endpoint.
    pub(super) fn carry(
        &mut self,
        client: ClientId,
        message: &Message,
        now: Duration,
        out: &mut Outgoing,
    ) -> Result<(), String> {
        let (id, frame) = (message.endpoint, &message.payload);
        let endpoint = self.endpoints.get_mut(&id);
        let endpoint =
            endpoint.ok_or_else(|| format!("PACKET_OUT: unknown src endpoint_id {id}"))?;
        if endpoint.owner != client && self.settings.senders == Senders::Owner {
            return Err(format!("PACKET_OUT: endpoint {id} belongs to another client"));
        }
        let len = frame.len();
        if !(ethernet::HEADER_LEN..=MAX_PAYLOAD).contains(&len) {
            return Err(format!(
                "PACKET_OUT: bad ethernet frame: {len} octets; expected {}-{MAX_PAYLOAD}",
                ethernet::HEADER_LEN
            ));
        }
        endpoint.counters.sent += 1;
        endpoint.counters.sent_octets += len as u64;
        let name = endpoint.name.clone();
        let decision = self.filter.decide(&name, frame);
        let dropped_by = decision.dropped_by;
        let copies = decision.mirrors.iter().filter_map(|name| self.by_name.get(*name));
        let copies = copies.copied().collect::<Vec<_>>();
        for copy in copies {
            self.hear(copy, Who::All, frame, out);
        }
        let verdict = match dropped_by {
            Some(rule) => {
                self.filtered += 1;
                Verdict::Filtered(rule)
            }
            None => self
                .lines
                .offer((id, Way::From), frame, now)
                .map_or(Verdict::Forwarded, Verdict::Impaired),
        };
        if let Some(ring) = &mut self.ring {
            ring.put(self.settings.epoch + now, (id, &name), verdict, frame);
        }
        if verdict == Verdict::Forwarded {
            self.switch(id, frame, now, out);
        }
        // What is on a line may be due at once.
        self.run(now, out);
        Ok(())
    }

    /// Sends on what is due by now.
    pub fn run(&mut self, now: Duration, out: &mut Outgoing) {
        while let Some(((id, way), frame)) = self.lines.take(now) {
            match way {
                Way::From => self.switch(id, &frame, now, out),
                Way::To => self.hear_others(id, &frame, out),
            }
        }
    }

    /// When [`Fabric::run`] has something to do.
    pub fn next_due(&self) -> Option<Duration> {
        self.lines.next_due()
    }

    /// Sends a frame of an endpoint to whom it is for.
    pub(super) fn switch(
        &mut self,
        from: u32,
        frame: &Arc<[u8]>,
        now: Duration,
        out: &mut Outgoing,
    ) {
        let Some((header, _)) = ethernet::Header::parse(frame) else { return };
        let (source, destination) = (header.source, header.destination);
        if !self.macs.learn(source, from) && !source.is_multicast() {
            self.mac_not_learned += 1;
        }
        match self.macs.get(destination) {
            Some(receiver) => {
                // By id, the receiver in its place among those that hear everything.
                let mut ids = self.promiscuous.clone();
                // What the other network floods may be for somebody who is in that network: it
                // would hear it twice, and learn that the sender is here.
                if (receiver, from) != (UPLINK_ID, UPLINK_ID) {
                    ids.insert(receiver);
                }
                for id in ids {
                    self.deliver(id, Receivers::One(receiver), frame, now, out);
                }
            }
            // Groups are never learned: they, too, are heard by all.
            None => {
                let ids = self.endpoints.keys().copied().collect::<Vec<_>>();
                for id in ids {
                    self.deliver(id, Receivers::AllBut(from), frame, now, out);
                }
            }
        }
    }

    fn deliver(
        &mut self,
        id: u32,
        receivers: Receivers,
        frame: &Arc<[u8]>,
        now: Duration,
        out: &mut Outgoing,
    ) {
        let is_meant = receivers.include(id);
        // Who is promiscuous hears what the fabric carries, and no line.
        let is_all = is_meant && self.lines.offer((id, Way::To), frame, now).is_none();
        self.hear(id, if is_all { Who::All } else { Who::Promiscuous }, frame, out);
    }

    /// Sends a frame that was on an endpoint's line to whom it was for.
    pub(super) fn hear_others(&mut self, id: u32, frame: &Arc<[u8]>, out: &mut Outgoing) {
        self.hear(id, Who::Others, frame, out);
    }

    fn hear(&mut self, id: u32, who: Who, frame: &Arc<[u8]>, out: &mut Outgoing) {
        let Some(Endpoint { subscriptions, counters, .. }) = self.endpoints.get_mut(&id) else {
            return;
        };
        let is_one = |is_promiscuous| match who {
            Who::All => true,
            Who::Promiscuous => is_promiscuous,
            Who::Others => !is_promiscuous,
        };
        let subscriptions = subscriptions.iter().filter(|s| is_one(s.is_promiscuous()));
        for subscription in subscriptions {
            let heard = Message::about(Kind::PACKET_IN, id, subscription.flags, frame.clone());
            counters.heard += 1;
            counters.heard_octets += frame.len() as u64;
            out.push((subscription.client, heard));
        }
    }
}
