//! The way out of a network, and in: where a packet goes that comes from outside all networks, to
//! the vNIC that has its destination, in whichever network that is.
//!
//! ```text
//! guest ── its network's FIB: a vNIC │ nobody │ nowhere │ 0.0.0.0/0, ::/0 ──▶ signed ──▶ outside
//! outside ── from inside? spoofed ── FIB of all public networks: a vNIC │ nobody
//!         └─ signed: the vNIC of that tag, if its destination is the vNIC's
//! ```
//! Takes a table with what vNICs of public networks have, and their networks' addresses that nobody
//! has; returns a next hop, or another verdict. From outside nobody sends from what is inside.

use super::{
    Decisions, Fib, FibBuilder, guard, rewrite, routed,
    tables::{Member, NextHop, OutsidePort, PortId, Receivers, Role, Routed, Tag, Vnic},
    withheld::Withheld,
};
use crate::{
    dataplane::frame::{
        Burst, Frame, MAX_FRAME_LEN,
        classify::{Headers, Ipv4, Ipv6, Packet, classify},
        verdict::{DropReason, NextHopId, Verdict},
    },
    wire::ethernet,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};
use zerocopy::FromBytes as _;

/// Prefixes of which no packet leaves its link or its host, or is to anybody (RFC 6890, RFC 1112
/// §4).
// Multicast is refused before any look-up (`routed::route_ipv4`).
const NEVER_IPV4: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::LOCALHOST, 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];
/// As [`NEVER_IPV4`]: what IPv4 in the place of IPv6 means, a host knows for itself (RFC 4291
/// §2.5.5), and the first of these covers loopback and the address of nobody.
const NEVER_IPV6: [(Ipv6Addr, u8); 3] = [
    (Ipv6Addr::UNSPECIFIED, 96),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
];

/// Where packets leave a network.
#[derive(Debug, Clone, Copy)]
pub struct WayOut<'a> {
    /// The port that they leave by.
    pub next_hop: NextHop,
    /// Prefixes that they may leave for although no packet is routed to such addresses.
    pub allowed: &'a [IpNet],
}

/// Adds to the routes of a network the way out, for all but its own addresses and those that no
/// packet is routed to. First: a vNIC's prefix that is the same comes after it, and wins.
pub fn lead_out(fib: &mut FibBuilder, own: (Option<Ipv4Net>, Option<Ipv6Net>), way: WayOut<'_>) {
    let out = fib.next_hop(way.next_hop);
    fib.prefix_ipv4(Ipv4Net::default(), out);
    fib.prefix_ipv6(Ipv6Net::default(), out);
    lead_nowhere(fib, way.allowed);
    own_addresses(fib, own);
}

/// Adds what no packet is routed to, nor comes from, but for what is allowed.
fn lead_nowhere(fib: &mut FibBuilder, allowed: &[IpNet]) {
    let nowhere = fib.next_hop(NextHop::NOWHERE);
    let ipv4 = NEVER_IPV4.map(|(address, len)| Ipv4Net::new_assert(address, len).into());
    let ipv6 = NEVER_IPV6.map(|(address, len)| Ipv6Net::new_assert(address, len).into());
    for never in ipv4.into_iter().chain(ipv6) {
        without(never, allowed, &mut |prefix| match prefix {
            IpNet::V4(prefix) => fib.prefix_ipv4(prefix, nowhere),
            IpNet::V6(prefix) => fib.prefix_ipv6(prefix, nowhere),
        });
    }
}

/// Calls `each` with the prefixes that are left of one without these.
// A route for what is left out would make it one from inside: of that, packets do not come.
fn without(prefix: IpNet, out: &[IpNet], each: &mut impl FnMut(IpNet)) {
    if out.iter().any(|out| out.contains(&prefix)) {
        return;
    }
    let halves = match prefix {
        _ if !out.iter().any(|out| prefix.contains(out)) => return each(prefix.trunc()),
        IpNet::V4(net) => net.subnets(net.prefix_len() + 1).map(|it| it.map(IpNet::V4).collect()),
        IpNet::V6(net) => net.subnets(net.prefix_len() + 1).map(|it| it.map(IpNet::V6).collect()),
    };
    // One that has no halves is an address, and was left out or not.
    let halves: Vec<_> = halves.unwrap_or_default();
    halves.into_iter().for_each(|half| without(half, out, each));
}

/// Adds the addresses of a network, for those that nobody has.
fn own_addresses(fib: &mut FibBuilder, (ipv4, ipv6): (Option<Ipv4Net>, Option<Ipv6Net>)) {
    let nobody = fib.next_hop(NextHop::NOBODY);
    ipv4.into_iter().for_each(|subnet| fib.prefix_ipv4(subnet, nobody));
    ipv6.into_iter().for_each(|prefix| fib.prefix_ipv6(prefix, nobody));
}

/// Whether packets are routed to all of a prefix.
pub fn is_routable(prefix: IpNet) -> bool {
    let overlaps = |never: IpNet| never.contains(&prefix) || prefix.contains(&never);
    match prefix {
        IpNet::V4(_) => {
            // With groups, which come before 240.0.0.0.
            let groups = (Ipv4Addr::new(224, 0, 0, 0), 4);
            let mut never = NEVER_IPV4.iter().chain([&groups]);
            !never.any(|(address, len)| overlaps(Ipv4Net::new_assert(*address, *len).into()))
        }
        IpNet::V6(_) => {
            let groups = (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);
            let mut never = NEVER_IPV6.iter().chain([&groups]);
            !never.any(|(address, len)| overlaps(Ipv6Net::new_assert(*address, *len).into()))
        }
    }
}

/// Whether a prefix behind a vNIC is so from outside, too. A shorter one is a way to much of the
/// world, as a default route is: for the guests of its network alone.
pub fn is_reached_from_outside(prefix: IpNet) -> bool {
    // As long as that of a network at least.
    match prefix {
        IpNet::V4(prefix) => prefix.prefix_len() >= 8,
        IpNet::V6(prefix) => prefix.prefix_len() >= 16,
    }
}

/// Returns the routes from outside to the vNICs of these networks, each with its own addresses and
/// its members. `seed` must be secret and random.
pub fn way_in<'a, M: IntoIterator<Item = &'a Member>>(
    networks: impl IntoIterator<Item = ((Option<Ipv4Net>, Option<Ipv6Net>), M)>,
    seed: u64,
) -> Fib {
    let mut fib = FibBuilder::default();
    lead_nowhere(&mut fib, &[]);
    for (own, members) in networks {
        own_addresses(&mut fib, own);
        for member in members {
            let Some(vnic) = member.vnic() else { continue };
            let next_hop = fib.next_hop(member.next_hop());
            vnic.ipv4.into_iter().for_each(|address| fib.host_ipv4(address, next_hop));
            vnic.ipv6.into_iter().for_each(|address| fib.host_ipv6(address, next_hop));
            let routed = vnic.routed_ipv4.iter();
            routed
                .filter(|prefix| is_reached_from_outside(IpNet::V4(**prefix)))
                .for_each(|prefix| fib.prefix_ipv4(*prefix, next_hop));
            let routed = vnic.routed_ipv6.iter().chain(&vnic.slaac);
            routed
                .filter(|prefix| is_reached_from_outside(IpNet::V6(**prefix)))
                .for_each(|prefix| fib.prefix_ipv6(*prefix, next_hop));
        }
    }
    fib.build(seed)
}

/// As [`way_in`], to the vNICs among these members, whatever their addresses; also from what is
/// `allowed`.
pub fn way_in_by_tag<'a>(
    members: impl IntoIterator<Item = &'a Member>,
    allowed: &[IpNet],
    seed: u64,
) -> (Fib, Receivers) {
    let mut fib = FibBuilder::default();
    lead_nowhere(&mut fib, allowed);
    let tagged = members.into_iter().filter_map(|member| {
        let Role::Guest(vnic) = &member.role else { return None };
        let next_hop = fib.next_hop(member.next_hop());
        Some((Tag::of(vnic.port)?, (next_hop, Arc::clone(vnic))))
    });
    let receivers = Receivers::ByTag(HashMap::from_iter(tagged));
    (fib.build(seed), receivers)
}

/// Says in a frame that leaves all networks whose it is.
pub fn sign(head: &mut [u8], from: PortId) {
    if let (Ok((header, _)), Some(tag)) = (ethernet::Header::mut_from_prefix(head), Tag::of(from)) {
        header.source = tag.mac();
    }
}

/// What deciding needs beside tables, made once.
#[derive(Debug)]
pub(super) struct Decider {
    withheld: Withheld,
    /// Holds a whole frame where its head does not show all headers.
    whole: Box<[u8]>,
}

impl Default for Decider {
    fn default() -> Self {
        Self { withheld: Withheld::default(), whole: vec![0; MAX_FRAME_LEN].into() }
    }
}

impl Decider {
    /// Decides about every frame of a burst that came from outside.
    // No fast path: each of them is a system call.
    pub(super) fn decide(
        &mut self,
        from: (&Routed, &OutsidePort),
        burst: &mut Burst,
        decisions: &mut Decisions,
    ) {
        for at in 0..burst.len() {
            let frame = &mut burst.frames_mut().0[at];
            let mut decided = by_head(from, frame, &mut self.withheld);
            if decided.is_err_and(|verdict| routed::is_deep(frame, verdict)) {
                let whole = burst.linearise(at, &mut self.whole);
                let frame = &mut burst.frames_mut().0[at];
                decided = by_whole(from, (frame, whole), &mut self.withheld);
            }
            match decided {
                Ok(next_hop) => {
                    let head = burst.frames_mut().0[at].head_mut();
                    rewrite::rewrite(head, from.0.fib.next_hop(next_hop));
                    decisions.forward(at, next_hop);
                }
                Err(verdict) => decisions.end(at, verdict),
            }
        }
    }
}

/// Where a frame from outside goes on to, or what else is to become of it; leaves out what is
/// behind its packet.
fn by_head(
    from: (&Routed, &OutsidePort),
    frame: &mut Frame,
    withheld: &mut Withheld,
) -> Result<NextHopId, Verdict> {
    if let Some(reason) = frame.invalid {
        return Err(reason.into());
    }
    let headers = classify(frame.head(), frame.len, frame.offload)?;
    route(from, frame, &headers, withheld)
}

/// As [`by_head`], of a frame whose headers go on beyond its head, and of which these are all
/// octets.
fn by_whole(
    from: (&Routed, &OutsidePort),
    (frame, whole): (&mut Frame, &[u8]),
    withheld: &mut Withheld,
) -> Result<NextHopId, Verdict> {
    let headers = routed::classify_whole(frame, whole)?;
    route(from, frame, &headers, withheld)
}

fn route(
    (table, outside): (&Routed, &OutsidePort),
    frame: &mut Frame,
    headers: &Headers,
    withheld: &mut Withheld,
) -> Result<NextHopId, Verdict> {
    let checked = check(table, headers);
    withheld.check(outside.port, headers, checked)?;
    frame.truncate(headers.frame_len());
    if let Receivers::ByTag(receivers) = &outside.receivers {
        let found = Tag::from_mac(headers.source).and_then(|tag| receivers.get(&tag));
        let owner = found.filter(|(_, vnic)| owns(vnic, headers));
        let (next_hop, _) = owner.ok_or(DropReason::NoRoute)?;
        // Who makes such packets is told nothing of them: it is no router.
        return routed::pass(&table.fib, *next_hop, headers).map_err(|verdict| match verdict {
            Verdict::Reject(reason, _) => reason.into(),
            verdict => verdict,
        });
    }
    match &headers.packet {
        // The port makes no such frame.
        Packet::Arp(_) => Err(DropReason::UnknownEtherType.into()),
        Packet::Ipv4(packet) => routed::route_ipv4(table, packet),
        Packet::Ipv6(packet) => routed::route_ipv6(table, packet),
    }
}

/// Whether a packet is for an address of a vNIC, whose prefixes may cover groups.
fn owns(vnic: &Vnic, headers: &Headers) -> bool {
    match &headers.packet {
        Packet::Arp(_) => false,
        Packet::Ipv4(packet) => {
            let to = packet.destination;
            vnic.owns_ipv4(to) && !to.is_multicast()
        }
        Packet::Ipv6(packet) => {
            let to = packet.destination;
            vnic.owns_ipv6(to) && !to.is_multicast()
        }
    }
}

/// Refuses a packet that nobody outside may send.
fn check(table: &Routed, headers: &Headers) -> Result<(), DropReason> {
    match &headers.packet {
        Packet::Arp(_) => Ok(()),
        Packet::Ipv4(packet) if is_inside_ipv4(table, packet) => Err(DropReason::SpoofedIpv4),
        Packet::Ipv4(packet) => guard::refuse_servers_ipv4(packet),
        Packet::Ipv6(packet) if is_inside_ipv6(table, packet) => Err(DropReason::SpoofedIpv6),
        Packet::Ipv6(packet) => guard::refuse_servers_ipv6(packet),
    }
}

/// Whether its source is nobody's outside: it is in a network here, or no single host's beyond a
/// link (RFC 1812 §5.3.7). A link-local one would be the gateway's, to a guest.
fn is_inside_ipv4(table: &Routed, packet: &Ipv4) -> bool {
    let source = packet.source;
    table.fib.lookup_ipv4(source).is_some() || source.is_multicast() || source.is_unspecified()
}

/// As [`is_inside_ipv4`] (RFC 4291 §2.5.2, §2.5.3, §2.7).
fn is_inside_ipv6(table: &Routed, packet: &Ipv6) -> bool {
    let source = packet.source;
    table.fib.lookup_ipv6(source).is_some()
        || source.is_multicast()
        || source.is_unspecified()
        || source.is_unicast_link_local()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        addr::MacAddr,
        dataplane::{
            forward::tables::{OUTSIDE_MAC, PortId, Role, Vnic},
            frame::{HEAD_LEN, verdict::Rejection},
        },
        wire::{checksum, vnet::Offload},
    };
    use proptest::prelude::*;
    use std::{net::IpAddr, sync::Arc};

    fn net<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().unwrap()
    }

    /// A vNIC of 10.1.0.1 and fd00:1::1, behind which 10.9.0.0/24 is, and much of the world.
    fn member() -> Member {
        let port = PortId { slot: 1, generation: 1 };
        let vnic = Vnic {
            ipv4: Some(net("10.1.0.1")),
            ipv6: Some(net("fd00:1::1")),
            routed_ipv4: vec![net("10.9.0.0/24"), net("128.0.0.0/1")],
            ..Vnic::new(port, MacAddr([2, 0, 0, 0, 1, 1]), 1500)
        };
        Member { reactor: 0, role: Role::Guest(Arc::new(vnic)) }
    }

    const OUTSIDE: OutsidePort = OutsidePort {
        port: PortId { slot: 9, generation: 1 },
        mtu: 9000,
        receivers: Receivers::ByAddress,
    };

    const OUT: NextHop =
        NextHop { port: OUTSIDE.port, reactor: 0, mtu: 9000, mac: OUTSIDE_MAC, vlan: None };

    /// A UDP packet in a frame as a port without Ethernet makes it.
    fn frame(from: &str, to: &str, hop_limit: u8) -> Frame {
        let mut octets = [&[2, 0, 0, 0, 0, 1][..], &OUTSIDE_MAC.0].concat();
        match (net(from), net(to)) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                octets.extend([8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, hop_limit, 17, 0, 0]);
                octets.extend([from.octets(), to.octets()].concat());
                let sum = checksum::checksum(&octets[14..34]);
                octets[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                octets.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, hop_limit]);
                octets.extend([from.octets(), to.octets()].concat());
            }
            _ => panic!("of one family"),
        }
        octets.extend([0, 9, 0, 9, 0, 8, 0, 0]);
        let mut frame = Frame { len: octets.len(), head_len: octets.len(), ..Frame::default() };
        assert!(octets.len() <= HEAD_LEN);
        frame.head[..octets.len()].copy_from_slice(&octets);
        frame
    }

    /// What becomes of a packet from outside: who gets it, or why nobody.
    fn way(from: &str, to: &str, hop_limit: u8) -> Result<PortId, Verdict> {
        let member = member();
        let own = (Some(net("10.1.0.0/24")), Some(net("fd00:1::/64")));
        let table = Routed::new(way_in([(own, [&member])], 7));
        let mut frame = frame(from, to, hop_limit);
        let decided = by_head((&table, &OUTSIDE), &mut frame, &mut Withheld::default());
        decided.map(|id| table.fib.next_hop(id).port)
    }

    #[test]
    fn what_a_vnic_has_is_reached_from_outside() {
        for (from, to) in [
            ("192.0.2.1", "10.1.0.1"),
            ("192.0.2.1", "10.9.0.7"),
            // What is behind it of the world is not the world's way to it, nor inside.
            ("200.0.2.1", "10.1.0.1"),
            ("2001:db8::1", "fd00:1::1"),
        ] {
            assert_eq!(way(from, to, 64), Ok(PortId { slot: 1, generation: 1 }), "{from} {to}");
        }
    }

    #[test]
    fn what_nobody_has_is_told_to_who_asks() {
        let told = |why| Err(Verdict::Reject(DropReason::NoRoute, why));
        assert_eq!(way("192.0.2.1", "10.1.0.2", 64), told(Rejection::NoHost));
        assert_eq!(way("2001:db8::1", "fd00:1::2", 64), told(Rejection::NoHost));
        assert_eq!(way("192.0.2.1", "10.2.0.1", 64), told(Rejection::NoRoute));
        assert_eq!(way("192.0.2.1", "200.0.0.1", 64), told(Rejection::NoRoute));
        assert_eq!(
            way("192.0.2.1", "10.1.0.1", 1),
            Err(Verdict::Reject(DropReason::HopLimit, Rejection::TimeExceeded))
        );
    }

    #[test]
    fn nobody_outside_is_inside() {
        let nowhere = ["127.0.0.1", "169.254.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"];
        for from in ["10.1.0.1", "10.1.0.200", "10.9.0.1"].into_iter().chain(nowhere) {
            let spoofed = Err(DropReason::SpoofedIpv4.into());
            assert_eq!(way(from, "10.1.0.1", 64), spoofed, "{from}");
        }
        for from in ["fd00:1::1", "fd00:1::77", "fe80::1", "::1", "::", "ff02::1"] {
            let spoofed = Err(DropReason::SpoofedIpv6.into());
            assert_eq!(way(from, "fd00:1::1", 64), spoofed, "{from}");
        }
        assert_eq!(way("192.0.2.1", "224.0.0.1", 64), Err(DropReason::Multicast.into()));
    }

    /// As [`way`], of a packet with that vNIC's tag.
    fn way_by_tag(slot: u16, to: &str, hop_limit: u8) -> Result<PortId, Verdict> {
        let (fib, receivers) = way_in_by_tag([&member()], &[], 7);
        let table = Routed::new(fib);
        let mut frame = frame("192.0.2.1", to, hop_limit);
        frame.head_mut()[6..12].copy_from_slice(&Tag(slot).mac().0);
        let outside = OutsidePort { receivers, ..OUTSIDE };
        let decided = by_head((&table, &outside), &mut frame, &mut Withheld::default());
        decided.map(|id| table.fib.next_hop(id).port)
    }

    #[test]
    fn who_is_named_gets_what_is_for_it_and_nothing_else() {
        let vnic = PortId { slot: 1, generation: 1 };
        assert_eq!(way_by_tag(1, "10.1.0.1", 64), Ok(vnic));
        assert_eq!(way_by_tag(1, "128.0.0.9", 64), Ok(vnic), "behind it");
        // Told to nobody: who makes these packets is no router.
        let nobody = Err(DropReason::NoRoute.into());
        assert_eq!(way_by_tag(1, "10.1.0.2", 64), nobody, "of whoever had the tag before");
        assert_eq!(way_by_tag(2, "10.1.0.1", 64), nobody);
        assert_eq!(way_by_tag(1, "10.1.0.1", 1), Err(DropReason::HopLimit.into()));
        assert_eq!(way_by_tag(1, "224.0.0.1", 64), nobody);
    }

    #[test]
    fn a_frame_that_leaves_says_whose_it_is() {
        let mut frame = frame("10.1.0.1", "192.0.2.1", 64);
        sign(frame.head_mut(), PortId { slot: 0x1234, generation: 7 });
        let source = MacAddr([2, 0, 0, 1, 0x12, 0x34]);
        assert_eq!(frame.head()[6..12], source.0);
        assert_eq!(Tag::from_mac(source), Some(Tag(0x1234)));
        let others = [OUTSIDE_MAC, crate::dataplane::forward::tables::GATEWAY_MAC];
        assert_eq!(others.map(Tag::from_mac), [None, None]);
    }

    #[test]
    fn a_network_leads_out_what_is_not_its_own_and_goes_anywhere() {
        let mut fib = FibBuilder::default();
        let own = (Some(net("10.1.0.0/24")), Some(net("fd00:1::/64")));
        lead_out(&mut fib, own, WayOut { next_hop: OUT, allowed: &[] });
        let vnic = fib.next_hop(member().next_hop());
        fib.host_ipv4(net("10.1.0.1"), vnic);
        let fib = fib.build(7);
        let to = |address: &str| {
            let id = match net(address) {
                IpAddr::V4(address) => fib.lookup_ipv4(address),
                IpAddr::V6(address) => fib.lookup_ipv6(address),
            };
            *fib.next_hop(id.unwrap())
        };
        assert!(["192.0.2.1", "10.2.0.1", "2001:db8::1"].iter().all(|at| to(at).is_outside()));
        assert!(["10.1.0.2", "fd00:1::2"].iter().all(|at| to(at) == NextHop::NOBODY));
        let nowhere = ["127.0.0.1", "169.254.169.254", "0.1.2.3", "240.0.0.1", "::1", "fe80::1"];
        assert!(nowhere.iter().all(|at| to(at) == NextHop::NOWHERE));
        assert!(to("10.1.0.1").is_vnics());
    }

    #[test]
    fn what_is_allowed_leads_out_and_comes_in_and_its_neighbours_do_neither() {
        let allowed = ["169.254.77.0/24", "127.0.0.1/32", "240.0.0.0/3", "::1/128", "10.0.0.0/8"];
        let allowed = allowed.map(net::<IpNet>);
        let mut out = FibBuilder::default();
        lead_out(&mut out, (None, None), WayOut { next_hop: OUT, allowed: &allowed });
        let out = out.build(7);
        let (way_in, _) = way_in_by_tag([], &allowed, 7);
        for (address, is) in [
            ("169.254.77.2", true),
            ("169.254.76.255", false),
            ("169.254.78.0", false),
            ("169.254.169.254", false),
            ("127.0.0.1", true),
            ("127.0.0.0", false),
            ("127.0.0.2", false),
            ("255.255.255.255", true),
            ("0.0.0.1", false),
            ("::1", true),
            ("::", false),
            ("::2", false),
            ("fe80::1", false),
        ] {
            let (id, from) = match net(address) {
                IpAddr::V4(address) => (out.lookup_ipv4(address), way_in.lookup_ipv4(address)),
                IpAddr::V6(address) => (out.lookup_ipv6(address), way_in.lookup_ipv6(address)),
            };
            assert_eq!(out.next_hop(id.unwrap()).is_outside(), is, "{address}");
            assert_eq!(from.is_none(), is, "from {address}");
        }
    }

    #[test]
    fn prefixes_that_no_packet_is_routed_to_are_known() {
        for (prefix, is) in [
            ("10.0.0.0/8", true),
            ("127.1.0.0/24", false),
            ("169.254.0.0/17", false),
            ("224.0.0.0/4", false),
            ("128.0.0.0/1", false),
            ("fd00::/64", true),
            ("fe80::/64", false),
            ("ff00::/16", false),
            ("::/64", false),
        ] {
            assert_eq!(is_routable(net(prefix)), is, "{prefix}");
        }
        assert!(!is_reached_from_outside(net("0.0.0.0/1")));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn whatever_comes_goes_to_who_has_its_destination_or_nowhere(
            ipv6: bool,
            changes in proptest::collection::vec((14..62_usize, any::<u8>()), 0..6),
            padding in 0..40_usize,
            start in prop_oneof![Just(34_u16), any::<u16>()],
            checksum: bool,
        ) {
            let member = member();
            let own = (Some(net("10.1.0.0/24")), Some(net("fd00:1::/64")));
            let table = Routed::new(way_in([(own, [&member])], 7));
            let (from, to) =
                if ipv6 { ("2001:db8::1", "fd00:1::1") } else { ("192.0.2.1", "10.9.0.1") };
            let mut frame = frame(from, to, 64);
            changes.iter().for_each(|(at, to)| frame.head[*at] = *to);
            frame.len += padding;
            frame.head_len += padding;
            if checksum {
                frame.offload = Offload::Checksum { start, offset: 6 };
            }
            let decided = by_head((&table, &OUTSIDE), &mut frame, &mut Withheld::default());
            if let Ok(id) = decided {
                let vnic = member.vnic().unwrap();
                let head = frame.head();
                let is_its_own = if head[14] >> 4 == 4 {
                    vnic.owns_ipv4(<[u8; 4]>::try_from(&head[30..34]).unwrap().into())
                } else {
                    vnic.owns_ipv6(<[u8; 16]>::try_from(&head[38..54]).unwrap().into())
                };
                prop_assert!(is_its_own && table.fib.next_hop(id).port == vnic.port);
            }
        }
    }
}
