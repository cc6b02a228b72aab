//! What one reactor has learned of switched networks from the frames that it has carried: of each
//! network apart, and for as long as that is published.

use super::{
    Decisions, Effects, Network,
    fdb::{Fdb, Key},
    probe::{Finding, Prober},
    segment::Segment,
    snoop::Joined,
    switched::{FastPath, Switched},
    tables::{Member, NetworkKey, PortId},
};
use crate::{
    addr::MacAddr,
    dataplane::frame::{
        Frame, Outgoing,
        classify::classify,
        verdict::{Audience, Blocking, DropReason, Verdict},
    },
    wire::{ethernet, vlan::tagging, vnet::Offload},
};
use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// A MAC that was learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnedMac {
    /// Which.
    pub mac: MacAddr,
    /// The VLAN of its guests' own that it is in; 0: none.
    pub vid: u16,
    /// The port that it is behind.
    pub port: PortId,
    /// How long ago it last sent, in whole seconds.
    pub age: Duration,
}

/// A copy of what one reactor has learned of a network.
// Copied as it is, which takes a reactor a thousandth of a second for some 10,000 MACs at most;
// who asked for it reads it.
#[derive(Debug, Clone, Default)]
pub struct MacTable {
    fdb: Fdb,
    now: u32,
}

impl MacTable {
    /// Returns the MACs, in no order.
    pub fn iter(&self) -> impl Iterator<Item = LearnedMac> {
        self.fdb.iter(self.now).map(|(key, port, age)| LearnedMac {
            mac: key.mac(),
            vid: key.vid(),
            port,
            age: Duration::from_secs(age.into()),
        })
    }
}

/// What was learned of all networks.
#[derive(Debug, Default)]
pub(super) struct Learned {
    segments: HashMap<NetworkKey, Segment>,
    prober: Prober,
}

impl Learned {
    pub(super) fn new(prober: Prober) -> Self {
        Self { prober, ..Self::default() }
    }

    /// Returns another that knows the same of one network, and of no other.
    pub(super) fn copy(&self, network: NetworkKey) -> Self {
        let known = self.segments.get(&network).cloned();
        let segments = known.into_iter().map(|segment| (network, segment)).collect();
        Self { segments, prober: self.prober.clone() }
    }

    /// Decides about frames of `member`, each with its number in their burst.
    pub(super) fn decide<'f>(
        &mut self,
        (key, table, member): (NetworkKey, &Switched, &Member),
        frames: impl Iterator<Item = (usize, &'f mut Frame)>,
        decisions: &mut Decisions,
        now: Instant,
    ) -> Effects {
        let (prober, port) = (self.prober.clone(), member.port());
        let guards = table.rules().loop_guard;
        let fast_path = FastPath::new(member);
        self.with((key, table), now, |segment, now| {
            for (at, frame) in frames {
                if let Some(to) = fast_path.as_ref().and_then(|path| path.check(frame)) {
                    match table.unicast(member, to, 0, segment, now) {
                        Ok(next_hop) => decisions.forward(at, next_hop),
                        Err(verdict) => decisions.end(at, verdict),
                    }
                    continue;
                }
                let probe = if guards { prober.judge(key, port, frame.head()) } else { None };
                if let Some(finding) = probe {
                    decisions.end(at, verdict(finding));
                    continue;
                }
                match table.decide(member, frame, segment, now) {
                    Ok(next_hop) => decisions.forward(at, next_hop),
                    Err(verdict) => decisions.end(at, verdict),
                }
            }
        })
    }

    /// Learns from frames that `member`, a port of another reactor, has sent.
    pub(super) fn hear(
        &mut self,
        (key, table, member): (NetworkKey, &Switched, &Member),
        frames: &[Outgoing<'_>],
        now: Instant,
    ) -> Effects {
        self.with((key, table), now, |segment, now| {
            for frame in frames {
                let header = ethernet::Header::parse(frame.head);
                // The other reactor has dropped what must not be sent.
                if let Some((header, _)) = header
                    && let Some(tagging) = tagging(frame.head)
                    && !table.is_fixed(header.source)
                {
                    let mac = Key::new(header.source, tagging.vid());
                    // Where nothing is learned, its own reactor has counted that.
                    segment.fdb.learn(mac, member.port(), table.limits(member), now);
                }
            }
        })
    }

    /// As [`super::Decider::audience`].
    pub(super) fn audience(
        &mut self,
        (key, member): (NetworkKey, &Member),
        frame: &Outgoing<'_>,
        now: Instant,
    ) -> Audience {
        let Some(segment) = self.segments.get_mut(&key) else { return Audience::All };
        let Ok(headers) = classify(frame.head, frame.len, Offload::None) else {
            return Audience::All;
        };
        let (seconds, from) = (segment.seconds(now), (member.port(), member.hosts()));
        let audience = segment.snoop.hear(from, &headers.packet, frame.head, seconds).audience;
        // Its own reactor asks behind a port that leaves.
        segment.snoop.leave_asking(member.port());
        audience
    }

    /// As [`super::Decider::begin_query`].
    pub(super) fn begin_query(
        &mut self,
        key: NetworkKey,
        own: [IpAddr; 2],
        now: Instant,
    ) -> [bool; 2] {
        let segment = self.segments.entry(key).or_insert_with(|| Segment::new(now));
        let seconds = segment.seconds(now);
        let asks = own.map(|own| !segment.snoop.other_asks(own, seconds));
        segment.snoop.note_query(asks, seconds);
        asks
    }

    /// As [`super::Decider::take_left`].
    pub(super) fn take_left(&mut self, key: NetworkKey) -> (Vec<(IpAddr, PortId)>, bool) {
        self.segments.get_mut(&key).map(|segment| segment.snoop.take_left()).unwrap_or_default()
    }

    /// As [`super::Decider::joined`].
    pub(super) fn joined(&self, port: PortId, now: Instant) -> Vec<(NetworkKey, Joined)> {
        let of = |(key, segment): (&NetworkKey, &Segment)| {
            Some((*key, segment.snoop.joined(port, segment.seconds(now))?))
        };
        self.segments.iter().filter_map(of).collect()
    }

    /// As [`super::Decider::rejoin`].
    pub(super) fn rejoin(&mut self, port: PortId, joined: &[(NetworkKey, Joined)], now: Instant) {
        for (key, joined) in joined {
            let segment = self.segments.entry(*key).or_insert_with(|| Segment::new(now));
            let seconds = segment.seconds(now);
            segment.snoop.rejoin(port, joined, seconds);
        }
    }

    /// Returns how many ports want what is for an audience.
    pub(super) fn listeners(&self, key: NetworkKey, audience: Audience) -> usize {
        self.segments.get(&key).map_or(0, |segment| segment.snoop.listeners(audience))
    }

    /// Whether a port is to get what is for an audience.
    pub(super) fn wants(
        &self,
        key: NetworkKey,
        audience: Audience,
        port: PortId,
        now: Instant,
    ) -> bool {
        // What was forgotten meanwhile is flooded.
        let segment = self.segments.get(&key);
        segment.is_none_or(|segment| segment.snoop.wants(audience, port, segment.seconds(now)))
    }

    /// Returns a copy of what is known of a network.
    pub(super) fn macs(&self, key: NetworkKey, now: Instant) -> MacTable {
        self.segments.get(&key).map_or_else(MacTable::default, |segment| MacTable {
            fdb: segment.fdb.clone(),
            now: segment.seconds(now),
        })
    }

    /// As [`super::Decider::count_macs`].
    pub(super) fn count_macs(&self) -> impl Iterator<Item = (NetworkKey, usize)> {
        self.segments.iter().map(|(key, segment)| (*key, segment.fdb.len()))
    }

    /// Forgets MACs of a network that were not heard for long. Returns when to do so again, if any
    /// is left.
    pub(super) fn age(&mut self, key: NetworkKey, now: Instant) -> Option<Instant> {
        let segment = self.segments.get_mut(&key)?;
        let seconds = segment.seconds(now);
        segment.fdb.age(seconds);
        segment.snoop.keep(seconds, |_| true);
        let sweep = Duration::from_secs(segment.fdb.sweep().into());
        (!segment.is_empty()).then(|| now + sweep)
    }

    /// Takes notice of a network's new truth: what was behind ports that have left is forgotten.
    pub(super) fn published(&mut self, network: &Network) {
        // Networks come and go without end, and the map must not grow with them.
        if network.members.is_empty() {
            self.segments.remove(&network.key);
        } else if let Some(segment) = self.segments.get_mut(&network.key) {
            segment.fdb.keep(|port| network.find(port).is_some());
            segment.snoop.keep(0, |port| network.find(port).is_some());
        }
    }

    fn with(
        &mut self,
        (key, table): (NetworkKey, &Switched),
        now: Instant,
        learn: impl FnOnce(&mut Segment, u32),
    ) -> Effects {
        let segment = self.segments.entry(key).or_insert_with(|| Segment::new(now));
        segment.fdb.age_after(table.rules().mac_aging_seconds);
        segment.now = now;
        let was_empty = segment.is_empty();
        let seconds = segment.seconds(now);
        learn(segment, seconds);
        let first = was_empty && !segment.is_empty();
        // Nothing is older than that before.
        let ageing = Duration::from_secs(table.rules().mac_aging_seconds.into());
        Effects {
            due: first.then(|| now + ageing),
            ask_left: segment.snoop.has_left().then_some(now),
            lessons: std::mem::take(&mut segment.lessons),
        }
    }
}

/// Returns what becomes of a probe.
fn verdict(finding: Finding) -> Verdict {
    match finding {
        Finding::Forged => DropReason::BadProbe.into(),
        Finding::Loop => Verdict::Block(Blocking::Loop),
        Finding::Own => DropReason::Hairpin.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataplane::forward::{
            Domain,
            switched::tests::{Rig, UNKNOWN, mac, vnic},
        },
        model::PortSecurity,
        wire::vnet::Offload,
    };

    #[test]
    fn learning_is_in_time_forgotten_and_with_the_network() {
        let (rig, mut learned, now) = (Rig::of_vnics(), Learned::default(), Instant::now());
        let key = NetworkKey(1);
        let bridge = vnic(2, PortSecurity::Off);
        let hear = |learned: &mut Learned, from: [u8; 6], at| {
            let octets = [&mac(1)[..], &from, &[0x88, 0xb5]].concat();
            let frames = [Outgoing::private(&octets, Offload::None)];
            learned.hear((key, &rig.network, &bridge), &frames, at).due
        };
        let macs = |learned: &Learned, at| learned.macs(key, at).iter().collect::<Vec<_>>();
        assert_eq!(hear(&mut learned, mac(3), now), None, "it is known for certain");
        assert_eq!(macs(&learned, now), []);
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(hear(&mut learned, UNKNOWN, now), Some(after(300)));
        assert_eq!(hear(&mut learned, UNKNOWN, after(10)), None, "the timer is set");
        let age = Duration::from_secs(7);
        let known = LearnedMac { mac: MacAddr(UNKNOWN), vid: 0, port: bridge.port(), age };
        assert_eq!(macs(&learned, after(17)), [known]);
        assert_eq!(learned.age(key, after(300)), Some(after(330)));
        assert_eq!(learned.age(key, after(310)), None);
        assert_eq!(macs(&learned, after(310)), []);
        let gone = Network { key, members: Vec::new(), domain: Domain::Switched(rig.network) };
        learned.published(&gone);
        assert!(learned.segments.is_empty());
    }
}
