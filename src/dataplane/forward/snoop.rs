//! Who listens to which group, as far as reports of membership have shown it (RFC 4541).
//!
//! Takes reports, queries and the time; returns whom a packet to a group is for. Nothing is lost by
//! not knowing: a group that nobody has reported is flooded, and so are all while no router has
//! asked for reports, since then there may be none. Sources are of no matter: who wants to hear a
//! group from some sources hears it from all.

use super::tables::{Hosts, PortId};
use crate::{
    dataplane::frame::{
        classify::{Ipv4, Ipv6, Packet, Upper},
        verdict::{Audience, GroupId},
    },
    wire::{
        ethernet,
        group_records::{Change, Cut},
        icmpv6, igmp, mld,
    },
};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// How long a membership lasts after its last report, in seconds: two intervals between queries,
/// and the time for an answer (RFC 3376 §8.4).
const MEMBERSHIP: u32 = 260;
/// How long a router is known after its last query, and reports are relied on, in seconds.
// More than two intervals: one query may be lost.
const ROUTER: u32 = 300;
/// How long another router is known to ask after its last query: two intervals, and half the time
/// for an answer (RFC 3376 §8.5).
const QUERIER: u32 = 255;
/// How long a port is in a group still after one of its hosts has left, in seconds: two questions,
/// a second apart, and the time for an answer (RFC 3376 §8.8).
const LAST_MEMBER: u32 = 3;
/// How often is asked, and of how many groups at a time.
const LAST_QUESTIONS: u8 = 2;
const LEAVING: usize = 256;
/// Groups that one port may be in, and that there may be in all.
const GROUPS_OF_PORT: usize = 256;
const GROUPS: usize = 2048;

/// What a packet has taught, and whom it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heard {
    pub audience: Audience,
    /// There was no room for a group that somebody has joined.
    pub is_full: bool,
}

impl Heard {
    fn audience(audience: Audience) -> Self {
        Self { audience, is_full: false }
    }
}

#[derive(Debug, Clone)]
struct Group {
    address: IpAddr,
    /// Who listens, and until when.
    ports: Vec<(PortId, u32)>,
}

/// Memberships of one network. Times are seconds since any moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Snoop {
    /// By their ids; absent: free.
    groups: Vec<Option<Group>>,
    free: Vec<GroupId>,
    ids: HashMap<IpAddr, GroupId>,
    /// In how many groups each port is.
    counts: HashMap<PortId, usize>,
    /// Who gets all groups, and until when: routers, and hosts in more groups than are known.
    hear_all: HashMap<PortId, u32>,
    /// When somebody last asked for reports, of IPv4 and IPv6.
    queried: [Option<u32>; 2],
    /// Who else asks, with the lowest address, and until when that is known.
    queriers: [Option<(IpAddr, u32)>; 2],
    /// Whether the gateway asks.
    asks: [bool; 2],
    leaving: Vec<Leaving>,
}

/// A port of which a host has left a group, and others may not have.
#[derive(Debug, Clone)]
struct Leaving {
    group: IpAddr,
    port: PortId,
    /// How often was asked.
    asked: u8,
}

/// What a port hears of groups, and for how many seconds still.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Joined {
    groups: Vec<(IpAddr, u32)>,
    hears_all: u32,
}

impl Snoop {
    /// Returns whom a packet to a group is for, which came from `port`; learns from it, if it is of
    /// those that speak of memberships. `head` begins its frame.
    pub(super) fn hear(
        &mut self,
        (port, hosts): (PortId, Hosts),
        packet: &Packet,
        head: &[u8],
        now: u32,
    ) -> Heard {
        match packet {
            Packet::Ipv4(packet) if packet.protocol == igmp::PROTOCOL && packet.ttl == 1 => {
                self.hear_igmp((port, hosts), packet, head, now)
            }
            Packet::Ipv6(packet) if is_mld(packet) && packet.hop_limit == 1 => {
                self.hear_mld((port, hosts), packet, head, now)
            }
            Packet::Ipv4(packet) => Heard::audience(self.audience(packet.destination.into(), now)),
            Packet::Ipv6(packet) => Heard::audience(self.audience(packet.destination.into(), now)),
            Packet::Arp(_) => Heard::audience(Audience::All),
        }
    }

    /// Whether a port is to get what is for an audience.
    pub(super) fn wants(&self, audience: Audience, port: PortId, now: u32) -> bool {
        let hears_all = || self.hear_all.get(&port).is_some_and(|until| *until > now);
        match audience {
            Audience::All => true,
            Audience::Routers => hears_all(),
            Audience::Group(GroupId(id)) => {
                let group = self.groups.get(id as usize).and_then(Option::as_ref);
                let listens = |(member, until): &(PortId, u32)| *member == port && *until > now;
                // Its last listener may have left since.
                group.is_none_or(|group| group.ports.iter().any(listens)) || hears_all()
            }
        }
    }

    /// Returns how many ports want what is for an audience, where that is not all.
    pub(super) fn listeners(&self, audience: Audience) -> usize {
        let listeners = match audience {
            Audience::All | Audience::Routers => 0,
            Audience::Group(GroupId(id)) => {
                let group = self.groups.get(id as usize).and_then(Option::as_ref);
                group.map_or(0, |group| group.ports.len())
            }
        };
        listeners + self.hear_all.len()
    }

    /// Notes of which families the gateway asks for reports from here on.
    pub(super) fn note_query(&mut self, asks: [bool; 2], now: u32) {
        self.asks = asks;
        for (queried, asks) in self.queried.iter_mut().zip(asks) {
            *queried = if asks { Some(now) } else { *queried };
        }
    }

    /// Whether somebody asks whose address is lower than `own`: who has the lowest asks alone (RFC
    /// 3376 §6.6.2, RFC 3810 §7.6.2).
    pub(super) fn other_asks(&self, own: IpAddr, now: u32) -> bool {
        let other = self.queriers[usize::from(own.is_ipv6())];
        other.is_some_and(|(other, until)| until > now && other < own)
    }

    /// Whether there are groups to be asked about that were not yet.
    pub(super) fn has_left(&self) -> bool {
        self.leaving.iter().any(|leaving| leaving.asked == 0)
    }

    /// Returns which groups are to be asked about by which port now, and whether they are again.
    pub(super) fn take_left(&mut self) -> (Vec<(IpAddr, PortId)>, bool) {
        let ask = |leaving: &mut Leaving| {
            leaving.asked += 1;
            (leaving.group, leaving.port)
        };
        let left = self.leaving.iter_mut().map(ask).collect();
        self.leaving.retain(|leaving| leaving.asked < LAST_QUESTIONS);
        (left, !self.leaving.is_empty())
    }

    /// Asks about nothing that a port has left: another reactor does.
    pub(super) fn leave_asking(&mut self, port: PortId) {
        self.leaving.retain(|leaving| leaving.port != port);
    }

    /// Returns what a port hears, if it hears anything, for another reactor.
    pub(super) fn joined(&self, port: PortId, now: u32) -> Option<Joined> {
        let hears_all = self.hear_all.get(&port).map_or(0, |until| until.saturating_sub(now));
        if hears_all == 0 && !self.counts.contains_key(&port) {
            return None;
        }
        let of = |group: &Group| {
            let (_, until) = group.ports.iter().find(|(member, _)| *member == port)?;
            Some((group.address, until.checked_sub(now).filter(|left| *left > 0)?))
        };
        let groups = self.groups.iter().flatten().filter_map(of).collect();
        Some(Joined { groups, hears_all })
    }

    /// Lets a port hear what it heard at another reactor.
    pub(super) fn rejoin(&mut self, port: PortId, joined: &Joined, now: u32) {
        if joined.hears_all > 0 {
            let until = self.hear_all.entry(port).or_default();
            *until = (*until).max(now + joined.hears_all);
        }
        for (group, left) in &joined.groups {
            let known = self.ids.get(group).copied();
            // Here it may be known, and longer.
            if known.and_then(|id| self.member(id, port)).is_none() {
                self.join(port, *group, now);
                let id = self.ids.get(group).copied();
                if let Some(until) = id.and_then(|id| self.member(id, port)) {
                    *until = now + left;
                }
            }
        }
    }

    /// Takes out what has ended, and what ports said that are no members any more.
    pub(super) fn keep(&mut self, now: u32, is_member: impl Fn(PortId) -> bool) {
        self.hear_all.retain(|port, until| *until > now && is_member(*port));
        for id in 0..self.groups.len() {
            self.keep_of(GroupId(id as u32), |port, until| until > now && is_member(port));
        }
    }

    /// Takes out of a group all but who stays; the group, too, if nobody is left.
    fn keep_of(&mut self, id: GroupId, stays: impl Fn(PortId, u32) -> bool) {
        let slot = &mut self.groups[id.0 as usize];
        let Some(group) = slot else { return };
        let counts = &mut self.counts;
        group.ports.retain(|(port, until)| {
            let stays = stays(*port, *until);
            // Ports without groups leave the list: they come and go without end.
            if !stays && let Some(count) = counts.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(port);
                }
            }
            stays
        });
        if group.ports.is_empty() {
            self.ids.remove(&group.address);
            *slot = None;
            self.free.push(id);
        }
    }

    /// Whether nothing is known.
    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.hear_all.is_empty()
    }

    fn audience(&self, group: IpAddr, now: u32) -> Audience {
        let family = usize::from(group.is_ipv6());
        let relied_on = self.queried[family].is_some_and(|last| now.saturating_sub(last) < ROUTER);
        match self.ids.get(&group) {
            Some(id) if relied_on && !is_of_the_link(group) => Audience::Group(*id),
            _ => Audience::All,
        }
    }

    fn hear_igmp(&mut self, from: (PortId, Hosts), packet: &Ipv4, head: &[u8], now: u32) -> Heard {
        let at = ethernet::HEADER_LEN + packet.header_len;
        let len = packet.len - packet.header_len;
        let Some(message) = igmp::Message::parse(head.get(at..).unwrap_or(&[]), len) else {
            return Heard::audience(Audience::All);
        };
        let full = match message {
            igmp::Message::Query(group) => {
                return self.hear_query(from.0, (packet.source.into(), group.into()), now);
            }
            igmp::Message::Joined(group) => self.join(from.0, group.into(), now),
            igmp::Message::Left(group) => self.leave(from, group.into(), now),
            igmp::Message::Report(records) => {
                let of = |group: [u8; 4]| IpAddr::from(Ipv4Addr::from(group));
                self.hear_records(from, records.map(|item| item.map(|(g, c)| (of(g), c))), now)
            }
        };
        Heard { audience: Audience::Routers, is_full: full == Full::Yes }
    }

    fn hear_mld(&mut self, from: (PortId, Hosts), packet: &Ipv6, head: &[u8], now: u32) -> Heard {
        let at = ethernet::HEADER_LEN + packet.header_len;
        let Some(message) = mld::Message::parse(head.get(at..).unwrap_or(&[])) else {
            return Heard::audience(Audience::All);
        };
        let full = match message {
            mld::Message::Query(group) => {
                return self.hear_query(from.0, (packet.source.into(), group.into()), now);
            }
            mld::Message::Joined(group) => self.join(from.0, group.into(), now),
            mld::Message::Left(group) => self.leave(from, group.into(), now),
            mld::Message::Report(records) => {
                let of = |group: [u8; 16]| IpAddr::from(Ipv6Addr::from(group));
                self.hear_records(from, records.map(|item| item.map(|(g, c)| (of(g), c))), now)
            }
        };
        Heard { audience: Audience::Routers, is_full: full == Full::Yes }
    }

    /// A query asks all for reports. It came from a router, if that has an address (RFC 4541
    /// §2.1.1): another switch may ask without one.
    fn hear_query(&mut self, port: PortId, of: (IpAddr, IpAddr), now: u32) -> Heard {
        let (source, group) = of;
        let family = usize::from(source.is_ipv6());
        // Of one group only its own are asked.
        if group.is_unspecified() {
            self.queried[family] = Some(now);
        }
        if !source.is_unspecified() {
            self.hear_all.insert(port, now + ROUTER);
            let lower = self.queriers[family]
                .is_none_or(|(lowest, until)| until <= now || source <= lowest);
            if lower {
                self.queriers[family] = Some((source, now + QUERIER));
            }
        }
        Heard::audience(Audience::All)
    }

    fn hear_records(
        &mut self,
        from: (PortId, Hosts),
        records: impl Iterator<Item = Result<(IpAddr, Change), Cut>>,
        now: u32,
    ) -> Full {
        let mut full = Full::No;
        for record in records {
            match record {
                Ok((group, Change::Joined)) => full = full.or(self.join(from.0, group, now)),
                Ok((group, Change::Left)) => full = full.or(self.leave(from, group, now)),
                Ok((_, Change::None)) => {}
                // What it says beyond is not known: it gets all rather than too little.
                Err(Cut) => {
                    self.hear_all.insert(from.0, now + MEMBERSHIP);
                }
            }
        }
        full
    }

    fn join(&mut self, port: PortId, address: IpAddr, now: u32) -> Full {
        // Those are flooded in any case.
        if !address.is_multicast() || is_of_the_link(address) {
            return Full::No;
        }
        let until = now + MEMBERSHIP;
        let known = self.ids.get(&address).copied();
        if let Some(member) = known.and_then(|id| self.member(id, port)) {
            *member = until;
            // Somebody is there still.
            self.leaving.retain(|leaving| (leaving.group, leaving.port) != (address, port));
            return Full::No;
        }
        let count = self.counts.get(&port).copied().unwrap_or(0);
        if count >= GROUPS_OF_PORT || known.is_none() && self.ids.len() >= GROUPS {
            // It would hear nothing of it where others are known to listen.
            self.hear_all.insert(port, until);
            return Full::Yes;
        }
        self.counts.insert(port, count + 1);
        let id = known.unwrap_or_else(|| self.add(address));
        if let Some(group) = &mut self.groups[id.0 as usize] {
            group.ports.push((port, until));
        }
        Full::No
    }

    /// Returns until when a port is in a group.
    fn member(&mut self, GroupId(id): GroupId, port: PortId) -> Option<&mut u32> {
        let group = self.groups.get_mut(id as usize)?.as_mut()?;
        let member = group.ports.iter_mut().find(|(member, _)| *member == port);
        member.map(|(_, until)| until)
    }

    fn add(&mut self, address: IpAddr) -> GroupId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.groups.push(None);
            GroupId(self.groups.len() as u32 - 1)
        });
        self.ids.insert(address, id);
        self.groups[id.0 as usize] = Some(Group { address, ports: Vec::new() });
        id
    }

    /// Takes a port out of a group, if it has one host. Of several another may still listen, which
    /// has not spoken because the one that leaves did (RFC 2236 §3): they are asked, if the gateway
    /// asks; else it ends by itself.
    fn leave(&mut self, (port, hosts): (PortId, Hosts), address: IpAddr, now: u32) -> Full {
        let Some(id) = self.ids.get(&address).copied() else { return Full::No };
        if hosts == Hosts::One {
            self.keep_of(id, |member, _| member != port);
        } else if self.asks[usize::from(address.is_ipv6())] && self.leaving.len() < LEAVING {
            let group = address;
            let is_asked = |it: &Leaving| (it.group, it.port) == (group, port);
            let is_known = self.leaving.iter().any(is_asked);
            if let Some(until) = self.member(id, port) {
                *until = (*until).min(now + LAST_MEMBER);
                if !is_known {
                    self.leaving.push(Leaving { group, port, asked: 0 });
                }
            }
        }
        Full::No
    }
}

/// Whether there was no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    Yes,
    No,
}

impl Full {
    fn or(self, other: Self) -> Self {
        if self == Self::Yes { self } else { other }
    }
}

/// Whether a packet is of MLD.
fn is_mld(packet: &Ipv6) -> bool {
    let kinds = [icmpv6::MLD_QUERY, mld::REPORT, mld::DONE, icmpv6::MLD_REPORT_V2];
    matches!(packet.upper, Upper::Icmp(kind) if kinds.contains(&kind))
}

/// Whether all on the link are to hear a group, though they have not joined it: protocols of
/// neighbours, of which some report nothing (RFC 4541 §2.1.2).
fn is_of_the_link(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group.octets().starts_with(&[224, 0, 0]),
        IpAddr::V6(group) => group.octets().starts_with(&[0xff, 0x02]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataplane::frame::classify::classify,
        wire::{Writer, checksum, ipv4, vnet::Offload},
    };
    use zerocopy::IntoBytes as _;

    const GROUP: [u8; 4] = [239, 1, 1, 1];

    fn port(slot: u32) -> PortId {
        PortId { slot, generation: 1 }
    }

    /// An IPv4 packet to a group, in its frame.
    fn packet4(ttl: u8, protocol: u8, to: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut buffer = [0; 1500];
        let mut writer = Writer::new(&mut buffer);
        let source = [10, 0, 0, 9].into();
        ipv4::Header::write(&mut writer, source, to.into(), protocol, payload.len()).unwrap();
        writer.push_slice(payload).unwrap();
        let mut frame = [&[0; 12][..], &[0x08, 0x00], writer.since(0)].concat();
        frame[22] = ttl;
        frame[24..26].fill(0);
        let sum = checksum::checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    fn igmp(ttl: u8, message: &[u8]) -> Vec<u8> {
        let mut message = message.to_vec();
        let sum = checksum::checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        packet4(ttl, igmp::PROTOCOL, GROUP, &message)
    }

    fn v2(kind: u8) -> Vec<u8> {
        igmp(1, &[&[kind, 0, 0, 0][..], &GROUP].concat())
    }

    impl Snoop {
        fn hears(&mut self, from: u32, frame: &[u8], now: u32) -> Heard {
            let head = &frame[..frame.len().min(192)];
            let headers = classify(head, frame.len(), Offload::None).unwrap();
            let hosts = if from == 9 { Hosts::Several } else { Hosts::One };
            self.hear((port(from), hosts), &headers.packet, head, now)
        }

        /// Who of ports 1 to 3 and 9 hears a stream of port 1.
        fn listeners_of(&mut self, to: [u8; 4], now: u32) -> Vec<u32> {
            let heard = self.hears(1, &packet4(9, 17, to, &[0; 16]), now);
            let wants = |slot: &u32| self.wants(heard.audience, port(*slot), now);
            [1, 2, 3, 9].into_iter().filter(wants).collect()
        }
    }

    const ALL: [u32; 4] = [1, 2, 3, 9];

    #[test]
    fn a_group_is_for_who_has_joined_once_somebody_asks_for_reports() {
        let mut snoop = Snoop::default();
        let joins = v2(0x16);
        assert_eq!(snoop.hears(2, &joins, 0).audience, Audience::Routers);
        assert_eq!(snoop.listeners_of(GROUP, 0), ALL, "others may not have been asked");
        snoop.note_query([true; 2], 0);
        assert_eq!(snoop.listeners_of(GROUP, 0), [2]);
        assert_eq!(snoop.listeners_of([239, 1, 1, 2], 0), ALL, "nobody has joined");
        assert_eq!(snoop.listeners_of([224, 0, 0, 251], 0), ALL, "of the link");
        snoop.hears(9, &joins, 100);
        assert_eq!(snoop.listeners_of(GROUP, 259), [2, 9]);
        assert_eq!(snoop.listeners_of(GROUP, 260), [9], "it was not said again");
        assert_eq!(snoop.listeners_of(GROUP, 300), ALL, "nobody has asked for long");
    }

    #[test]
    fn who_leaves_hears_no_more_unless_others_are_behind_its_port() {
        let mut snoop = Snoop::default();
        snoop.note_query([true; 2], 0);
        for from in [2, 3, 9] {
            snoop.hears(from, &v2(0x16), 0);
        }
        snoop.hears(2, &v2(0x17), 1);
        snoop.hears(9, &v2(0x17), 1);
        assert_eq!(snoop.listeners_of(GROUP, 1), [3, 9]);
        let to_include_nothing = [0x22, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 0, 239, 1, 1, 1];
        snoop.hears(3, &igmp(1, &to_include_nothing), 1);
        assert_eq!(snoop.listeners_of(GROUP, 1), [9]);
        snoop.keep(1, |member| member != port(9));
        assert!(snoop.is_empty() && snoop.counts.is_empty());
        assert_eq!(snoop.listeners_of(GROUP, 1), ALL);
    }

    #[test]
    fn routers_hear_all_groups_and_reports() {
        let mut snoop = Snoop::default();
        let query = igmp(1, &[0x11, 100, 0, 0, 0, 0, 0, 0]);
        assert_eq!(snoop.hears(3, &query, 0).audience, Audience::All);
        let heard = snoop.hears(2, &v2(0x16), 0);
        let wants = |slot| snoop.wants(heard.audience, port(slot), 0);
        assert_eq!([1, 2, 3].map(wants), [false, false, true]);
        assert_eq!(snoop.listeners_of(GROUP, 0), [2, 3]);
        assert_eq!(snoop.listeners(Audience::Group(GroupId(0))), 2);
        // From beyond the link nothing is believed.
        let mut snoop = Snoop::default();
        snoop.note_query([true; 2], 0);
        let joins = igmp(2, &[&[0x16, 0, 0, 0][..], &GROUP].concat());
        assert_eq!(snoop.hears(2, &joins, 0).audience, Audience::All);
        assert!(snoop.is_empty());
    }

    /// A packet with its source changed.
    fn from(source: [u8; 4], packet: &[u8]) -> Vec<u8> {
        let mut packet = packet.to_vec();
        packet[26..30].copy_from_slice(&source);
        packet[24..26].fill(0);
        let sum = checksum::checksum(&packet[14..34]);
        packet[24..26].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    #[test]
    fn where_one_host_of_several_leaves_the_others_are_asked_twice() {
        let mut snoop = Snoop::default();
        let (joins, leaves) = (v2(0x16), v2(0x17));
        snoop.hears(9, &joins, 0);
        snoop.hears(9, &leaves, 1);
        assert!(!snoop.has_left(), "it is another's to ask");
        snoop.note_query([true, false], 1);
        snoop.hears(9, &leaves, 10);
        snoop.hears(9, &leaves, 10);
        assert!(snoop.has_left());
        let question = vec![(IpAddr::from(GROUP), port(9))];
        assert_eq!(snoop.take_left(), (question.clone(), true));
        assert!(!snoop.has_left(), "the second question has its time");
        assert_eq!(snoop.take_left(), (question.clone(), false));
        assert_eq!(snoop.take_left(), (Vec::new(), false));
        assert_eq!(snoop.listeners_of(GROUP, 12), [9]);
        assert_eq!(snoop.listeners_of(GROUP, 13), [0; 0], "nobody has answered");
        snoop.hears(9, &joins, 20);
        snoop.hears(9, &leaves, 21);
        assert_eq!(snoop.take_left(), (question, true));
        snoop.hears(9, &joins, 22);
        assert_eq!(snoop.take_left(), (Vec::new(), false));
        assert_eq!(snoop.listeners_of(GROUP, 200), [9], "one has");
        snoop.hears(9, &leaves, 200);
        snoop.leave_asking(port(9));
        assert!(!snoop.has_left());
        // What is never in a group cannot leave it; and of many not all are asked.
        for at in 0..300_u16 {
            let [high, low] = at.to_be_bytes();
            snoop.hears(3, &igmp(1, &[0x17, 0, 0, 0, 239, 5, high, low]), 200);
            snoop.hears(9, &igmp(1, &[0x17, 0, 0, 0, 239, 5, high, low]), 200);
            snoop.hears(9, &igmp(1, &[0x16, 0, 0, 0, 239, 5, high, low]), 200);
            snoop.hears(9, &igmp(1, &[0x17, 0, 0, 0, 239, 5, high, low]), 200);
        }
        assert_eq!(snoop.take_left().0.len(), 255, "as many as one port may be in, but for one");
    }

    #[test]
    fn who_has_the_lowest_address_asks_alone() {
        let mut snoop = Snoop::default();
        let query = igmp(1, &[0x11, 100, 0, 0, 0, 0, 0, 0]);
        let own = |last: u8| IpAddr::from([10, 0, 0, last]);
        snoop.hears(3, &from([0; 4], &query), 0);
        assert!(!snoop.other_asks(own(20), 0), "a switch without an address");
        snoop.hears(3, &query, 0);
        assert!(snoop.other_asks(own(20), 254) && !snoop.other_asks(own(1), 0));
        assert!(!snoop.other_asks(own(20), 255), "it has not asked for long");
        assert!(!snoop.other_asks("fe80::1".parse().unwrap(), 0), "each family by itself");
        snoop.hears(3, &query, 100);
        snoop.hears(2, &from([10, 0, 0, 30], &query), 300);
        assert!(snoop.other_asks(own(20), 354) && !snoop.other_asks(own(20), 355));
        snoop.hears(2, &from([10, 0, 0, 15], &query), 400);
        assert!(snoop.other_asks(own(20), 400), "another one is the lowest now");
    }

    #[test]
    fn what_a_port_hears_goes_with_it_to_another_reactor() {
        let (mut one, mut other) = (Snoop::default(), Snoop::default());
        one.hears(2, &v2(0x16), 0);
        one.hears(3, &igmp(1, &[0x11, 100, 0, 0, 0, 0, 0, 0]), 0);
        assert_eq!(one.joined(port(1), 100), None);
        let [member, router] = [2, 3].map(|at| one.joined(port(at), 100).unwrap());
        other.rejoin(port(2), &member, 7);
        other.rejoin(port(3), &router, 7);
        other.note_query([true; 2], 7);
        assert_eq!(other.listeners_of(GROUP, 7 + 159), [2, 3]);
        assert_eq!(other.listeners_of(GROUP, 7 + 160), [3], "as long as at the first");
        assert!(!other.wants(Audience::Routers, port(3), 7 + 200));
        assert_eq!(one.joined(port(2), 260), Some(Joined::default()), "that is over");
    }

    #[test]
    fn mld_is_as_igmp() {
        let group: Ipv6Addr = "ff15::1".parse().unwrap();
        let to = group.octets();
        let packet = |next: u8, rest: &[u8]| {
            let mut frame = [&[0; 12][..], &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, next, 1]].concat();
            frame[19] = rest.len() as u8;
            frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
            [&frame, &to[..], rest].concat()
        };
        let report = [&[58, 0, 5, 2, 0, 0, 1, 0, 131, 0, 0, 0, 0, 0, 0, 0][..], &to].concat();
        let mut snoop = Snoop::default();
        snoop.note_query([true; 2], 0);
        assert_eq!(snoop.hears(2, &packet(0, &report), 0).audience, Audience::Routers);
        let heard = snoop.hears(1, &packet(17, &[0; 8]), 0);
        assert_eq!(heard.audience, Audience::Group(GroupId(0)));
        assert!(snoop.wants(heard.audience, port(2), 0));
        assert!(!snoop.wants(heard.audience, port(3), 0));
    }

    #[test]
    fn no_host_takes_more_room_than_its_share_or_misses_what_is_not_known_of_it() {
        let mut snoop = Snoop::default();
        snoop.note_query([true; 2], 0);
        // A report that says of more groups than are at hand, as it claims.
        let mut report = vec![0x22, 0, 0, 0, 0, 0, 0xff, 0xff];
        (0..40_u8).for_each(|at| report.extend([4, 0, 0, 0, 239, 2, 2, at]));
        snoop.hears(2, &igmp(1, &report), 0);
        assert_eq!(snoop.listeners_of([239, 2, 2, 1], 0), [2]);
        assert!(snoop.wants(Audience::Routers, port(2), 0), "it gets all of them");
        let mut snoop = Snoop::default();
        snoop.note_query([true; 2], 0);
        for at in 0..300_u16 {
            let [high, low] = at.to_be_bytes();
            let joins = igmp(1, &[0x16, 0, 0, 0, 239, 3, high, low]);
            assert_eq!(snoop.hears(3, &joins, 0).is_full, at >= 256);
        }
        assert_eq!(snoop.ids.len(), 256);
        snoop.keep(260, |_| true);
        assert!(snoop.is_empty() && snoop.free.len() == 256);
        let joins = igmp(1, [0x16, 0, 0, 0, 239, 9, 9, 9].as_bytes());
        assert!(!snoop.hears(3, &joins, 260).is_full);
        assert_eq!(snoop.groups.len(), 256, "room is used again");
    }
}
