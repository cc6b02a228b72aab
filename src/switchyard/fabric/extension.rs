//! What a fabric does beyond version 1 of the protocol, for clients that have asked for it in
//! HELLO.

use super::{
    ClientId, Fabric, Outgoing,
    lines::{Key, Way},
};
use crate::{
    impair::{Impairment, Spec, mixed},
    switchyard::{
        body::{self, CaptureStart, EndpointStats, ImpairSet, Nothing, Stats, StatsAsked},
        capture::Ring,
        filter::{Filter, RuleList},
        protocol::{Kind, Message},
    },
};
use std::{ops::Bound, time::Duration};

/// The extensions there are.
pub(super) const EXTENSIONS: [&str; 4] = ["capture", "impair", "stats", "filter"];
/// Endpoints of one STATS_REPLY at most, so that it fits a message.
const MAX_STATS: usize = 64;
/// Octets of rules at most.
const MAX_RULES_LEN: usize = 32 << 10;
/// Megabytes that a client may make the fabric keep.
const MAX_RING: usize = 64;

impl Fabric {
    /// Answers a message of an extension that the client has been granted.
    pub(super) fn extend(
        &mut self,
        client: ClientId,
        message: &Message,
        now: Duration,
        out: &mut Outgoing,
    ) -> Result<Message, String> {
        let kind = message.kind;
        let extension = match kind {
            Kind::STATS => "stats",
            Kind::CAPTURE_START | Kind::CAPTURE_STOP => "capture",
            Kind::IMPAIR_SET => "impair",
            Kind::FILTER_SET => "filter",
            _ => "",
        };
        let granted = self.clients.get(&client).map(|client| &client.extensions);
        // Who has not asked sees a fabric of version 1.
        if !granted.is_some_and(|granted| granted.contains(extension)) {
            return Err(format!("unknown message type: {kind}"));
        }
        match kind {
            Kind::STATS => self.stats(&message.payload, now),
            Kind::CAPTURE_START => self.capture(&message.payload),
            Kind::CAPTURE_STOP => {
                self.ring = None;
                Ok(Message::new(kind, body::write(&Nothing {})))
            }
            Kind::IMPAIR_SET => self.impair(&message.payload, now, out),
            _ => self.set_filter(&message.payload),
        }
    }

    fn stats(&self, payload: &[u8], now: Duration) -> Result<Message, String> {
        let StatsAsked { after } =
            body::parse(payload).map_err(|error| format!("bad STATS: {error}"))?;
        let later = self.endpoints.range((Bound::Excluded(after), Bound::Unbounded));
        let endpoints = later.take(MAX_STATS).map(|(id, endpoint)| EndpointStats {
            endpoint_id: *id,
            name: endpoint.name.to_string(),
            mac: endpoint.mac,
            subscribers: endpoint.subscriptions.len(),
            counters: endpoint.counters,
            from: self.lines.stats((*id, Way::From), now),
            to: self.lines.stats((*id, Way::To), now),
        });
        let endpoints = endpoints.collect::<Vec<_>>();
        // Only with the first page: they are the same on each.
        let rules = self.filter.rules().filter(|_| after == 0);
        let rules = rules.map(|(rule, frames)| body::RuleStats { rule: rule.clone(), frames });
        let stats = Stats {
            clients: self.clients.len(),
            filtered: self.filtered,
            mac_not_learned: self.mac_not_learned,
            refused_clients: self.refused_clients,
            more: endpoints.len() == MAX_STATS,
            endpoints,
            rules: rules.collect(),
        };
        Ok(Message::new(Kind::STATS_REPLY, body::write(&stats)))
    }

    fn capture(&mut self, payload: &[u8]) -> Result<Message, String> {
        let bad = |error: &dyn std::fmt::Display| format!("bad CAPTURE_START: {error}");
        let CaptureStart { from, megabytes } = body::parse(payload).map_err(|error| bad(&error))?;
        match (&self.ring, megabytes) {
            (None, None) => {
                let remedy = "give megabytes, or start the fabric with --capture-ring";
                return Err(bad(&format_args!("nothing is captured: {remedy}")));
            }
            (_, Some(megabytes)) if !(1..=MAX_RING).contains(&megabytes) => {
                return Err(bad(&format_args!("megabytes: expected 1-{MAX_RING}")));
            }
            (None, Some(megabytes)) => self.ring = Some(Ring::new(megabytes << 20)),
            // Whose ring it is decides how large it is.
            (Some(_), _) => {}
        }
        let page = self.ring.as_ref().map(|ring| ring.page(from)).unwrap_or_default();
        Ok(Message::new(Kind::CAPTURE_START, body::write(&page)))
    }

    fn impair(
        &mut self,
        payload: &[u8],
        now: Duration,
        out: &mut Outgoing,
    ) -> Result<Message, String> {
        let bad = |error: &dyn std::fmt::Display| format!("bad IMPAIR_SET: {error}");
        let ImpairSet { name, from, to } = body::parse(payload).map_err(|error| bad(&error))?;
        let id = *self.by_name.get(&*name).ok_or_else(|| format!("no such endpoint: {name}"))?;
        // Both are read before one is set: a refusal changes nothing.
        let mut specs = Vec::new();
        for (way, text) in [(Way::From, from), (Way::To, to)] {
            if let Some(text) = text {
                specs.push((way, text.parse::<Spec>().map_err(|error| bad(&error))?));
            }
        }
        for (way, spec) in specs {
            // What a line held is not lost with it.
            for frame in self.set_line((id, way), Some(spec), now) {
                match way {
                    Way::From => self.switch(id, &frame, now, out),
                    Way::To => self.hear_others(id, &frame, out),
                }
            }
        }
        self.run(now, out);
        Ok(Message::new(Kind::IMPAIR_SET, body::write(&Nothing {})))
    }

    /// Puts a line in place, or none where nothing is asked of it; returns what was on the old one.
    pub(super) fn set_line(
        &mut self,
        key: Key,
        spec: Option<Spec>,
        now: Duration,
    ) -> Vec<std::sync::Arc<[u8]>> {
        let (id, way) = key;
        let purpose = u64::from(id) << 1 | u64::from(way == Way::To);
        let seed = mixed(self.settings.seed, purpose);
        let spec = spec.filter(|spec| *spec != Spec::default());
        self.lines.set(key, spec.map(|spec| Impairment::new(spec, seed, now)))
    }

    fn set_filter(&mut self, payload: &[u8]) -> Result<Message, String> {
        let bad = |error: &dyn std::fmt::Display| format!("bad FILTER_SET: {error}");
        let list: RuleList =
            body::parse_within(payload, MAX_RULES_LEN).map_err(|error| bad(&error))?;
        self.filter = Filter::new(list).map_err(|error| bad(&error))?;
        Ok(Message::new(Kind::FILTER_SET, body::write(&Nothing {})))
    }
}
