//! Flows that the kernel translates as it no longer should (ctnetlink, `nfnetlink_conntrack.h`):
//! their entries are removed, so that what comes next is translated anew.
//!
//! ```text
//! Nat as it was, as it is ─▶ what has changed ─▶ dump of all entries ─▶ those that are stale go
//! ```

use super::{
    balancers::Balanced,
    nat::{Forwarded, Nat},
    netlink::{Link, Netlink},
    nfnetlink::{ACK, DUMP, Nfnetlink, REQUEST, attributes, find, message},
};
use crate::{
    model::{Protocol, Target},
    wire::protocol,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// Types of messages: of the subsystem 1, to get and to delete.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;

// Attributes of an entry, of a tuple, of its addresses and its protocol.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IPV4: [u16; 2] = [1, 2];
const IPV6: [u16; 2] = [3, 4];
const PROTO_NUMBER: u16 = 1;
const PORTS: [u16; 2] = [2, 3];

/// What has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stale {
    /// Floating addresses: whose each was and is.
    floating: BTreeMap<IpAddr, [Option<IpAddr>; 2]>,
    /// Forwards that are no more.
    forwards: BTreeSet<Forwarded>,
    /// Forwards of datagrams that are new, and balancers' services.
    // Who sends all the time keeps the flow that was there before. A connection that there was is
    // another's, of the host itself maybe: it ends by itself.
    new: BTreeSet<Forwarded>,
    /// What led to guests, or from them, and no longer does: it may be others' next.
    prefixes: BTreeSet<IpNet>,
}

impl Stale {
    pub(super) fn new(before: &Nat, now: &Nat, prefixes: BTreeSet<IpNet>) -> Self {
        let all = before.floating.keys().chain(now.floating.keys());
        let whose = all.map(|at| (*at, [before, now].map(|nat| nat.floating.get(at).copied())));
        let floating = whose.filter(|(_, [before, now])| before != now).collect();
        let forwards = before.forwards.difference(&now.forwards).cloned().collect();
        let new = now.forwards.difference(&before.forwards);
        let new = new.filter(|it| it.protocol == Protocol::Udp).cloned().collect();
        Self { floating, forwards, new, prefixes }
    }

    /// Returns all that has to do with guests of these prefixes.
    pub(super) fn of_prefixes(prefixes: BTreeSet<IpNet>) -> Self {
        Self { prefixes, ..Self::default() }
    }

    /// Returns what goes on past balancers that are new.
    pub(super) fn past(balancers: &[Arc<Balanced>]) -> Self {
        let services = balancers.iter().flat_map(|balancer| {
            let spec = balancer.spec();
            let of_udp = spec.services.iter().filter(|it| it.protocol == Protocol::Udp);
            of_udp.map(|service| Forwarded {
                listen: spec.address,
                protocol: Protocol::Udp,
                ports: (service.port.get(), service.port.get()),
                // Whose they are is not asked: nobody had them.
                to: spec.address,
                target: Target::Same,
            })
        });
        Self { new: services.collect(), ..Self::default() }
    }

    fn is_of(&self, family: fn(&IpAddr) -> bool) -> bool {
        self.floating.keys().any(family)
            || self.forwards.iter().chain(&self.new).any(|it| family(&it.listen))
            || self.prefixes.iter().any(|prefix| family(&prefix.addr()))
    }

    /// Whether a flow is translated as it was and not as it is.
    fn has(&self, flow: &Flow) -> bool {
        let [original, reply] = &flow.ways;
        // Whoever of both is a guest is known by its own address to the kernel as a sender.
        let of_guests = |it: &IpNet| it.contains(&original.from) || it.contains(&reply.from);
        if self.prefixes.iter().any(of_guests) {
            return true;
        }
        if let Some([_, now]) = self.floating.get(&original.to)
            && Some(reply.from) != *now
        {
            return true;
        }
        if let Some([before, _]) = self.floating.get(&reply.to)
            && Some(original.from) == *before
        {
            return true;
        }
        self.forwards.iter().any(|it| {
            let target = match it.target {
                Target::Same => original.ports[1],
                Target::Port(port) => port,
            };
            flow.comes_to(it)
                && (it.listen.is_unspecified() || it.listen == original.to)
                && (reply.from, reply.ports[0]) == (it.to, target)
        })
    }

    /// Whether a flow is not translated, and is to be by what is new: on a host that has these
    /// addresses.
    fn takes(&self, flow: &Flow, own: &[IpAddr]) -> bool {
        let [original, reply] = &flow.ways;
        let is_untranslated = (reply.from, reply.ports[0]) == (original.to, original.ports[1]);
        is_untranslated
            && self.new.iter().any(|it| {
                // What only passes the host is nothing that is listened to at its addresses.
                let there = if it.listen.is_unspecified() { own } else { &[it.listen] };
                flow.comes_to(it) && there.contains(&original.to)
            })
    }

    /// Returns the addresses that [`Stale::takes`] is to know.
    fn own(&self) -> io::Result<Vec<IpAddr>> {
        if !self.new.iter().any(|it| it.listen.is_unspecified()) {
            return Ok(Vec::new());
        }
        let own = Netlink::open()?.addresses_but_of(Link(0))?;
        Ok(own.into_iter().map(|own| own.address).collect())
    }
}

/// One way of a flow, as its sender has it.
#[derive(Debug, PartialEq, Eq)]
struct Way {
    from: IpAddr,
    to: IpAddr,
    ports: [u16; 2],
}

/// A flow.
#[derive(Debug, PartialEq, Eq)]
struct Flow {
    protocol: u8,
    /// Before it is translated, and as the answer is before that is.
    ways: [Way; 2],
    /// The attributes that name it.
    name: Vec<u8>,
}

fn way(tuple: &[u8]) -> Option<(u8, Way)> {
    let (addresses, proto) = (find(tuple, TUPLE_IP)?, find(tuple, TUPLE_PROTO)?);
    let ipv4 = |kind| {
        let octets: [u8; 4] = find(addresses, kind)?.try_into().ok()?;
        Some(IpAddr::from(Ipv4Addr::from(octets)))
    };
    let ipv6 = |kind| {
        let octets: [u8; 16] = find(addresses, kind)?.try_into().ok()?;
        Some(IpAddr::from(Ipv6Addr::from(octets)))
    };
    let from = ipv4(IPV4[0]).or_else(|| ipv6(IPV6[0]))?;
    let to = ipv4(IPV4[1]).or_else(|| ipv6(IPV6[1]))?;
    // Of what has no ports, there are none.
    let port = |kind| Some(u16::from_be_bytes(find(proto, kind)?.try_into().ok()?));
    let ports = PORTS.map(|kind| port(kind).unwrap_or(0));
    Some((*find(proto, PROTO_NUMBER)?.first()?, Way { from, to, ports }))
}

impl Flow {
    /// Returns what an entry says, behind the headers.
    fn parse(octets: &[u8]) -> Option<Self> {
        let (protocol, original) = way(find(octets, TUPLE_ORIGINAL)?)?;
        let (_, reply) = way(find(octets, TUPLE_REPLY)?)?;
        let mut name = Vec::new();
        for (kind, _, whole) in attributes(octets) {
            if [TUPLE_ORIGINAL, ID, ZONE].contains(&kind) {
                name.extend_from_slice(whole);
                name.resize(name.len().next_multiple_of(4), 0);
            }
        }
        Some(Self { protocol, ways: [original, reply], name })
    }

    /// Whether it is of a forward's protocol, to one of its ports.
    fn comes_to(&self, forward: &Forwarded) -> bool {
        let number = match forward.protocol {
            Protocol::Tcp => protocol::TCP,
            Protocol::Udp => protocol::UDP,
        };
        let (first, last) = forward.ports;
        self.protocol == number && (first..=last).contains(&self.ways[0].ports[1])
    }

    fn family(&self) -> u8 {
        family(self.ways[0].from.is_ipv4())
    }
}

fn family(is_ipv4: bool) -> u8 {
    // Both fit: AF_INET is 2, AF_INET6 is 10.
    (if is_ipv4 { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

/// Ends flows that are stale. Returns how many.
pub(super) fn end(stale: &Stale) -> io::Result<usize> {
    let is_of = [IpAddr::is_ipv4 as fn(&IpAddr) -> bool, IpAddr::is_ipv6];
    let families = is_of.into_iter().zip([true, false]).filter(|(is_of, _)| stale.is_of(*is_of));
    let own = stale.own()?;
    let is_stale = |flow: &Flow| stale.has(flow) || stale.takes(flow, &own);
    let mut ended = 0;
    let mut socket = None;
    for (_, is_ipv4) in families {
        let socket = match &mut socket {
            Some(socket) => socket,
            none => none.insert(Nfnetlink::open()?),
        };
        let mut found = Vec::new();
        socket.ask(&message(GET, REQUEST | DUMP, family(is_ipv4), &[]), |octets| {
            found.extend(Flow::parse(octets).filter(is_stale));
        })?;
        for flow in found {
            let request = message(DELETE, REQUEST | ACK, flow.family(), &flow.name);
            match socket.ask(&request, |_| {}) {
                Ok(()) => ended += 1,
                // It has ended meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::{super::nfnetlink::attribute, *};

    fn tuple(kind: u16, [from, to]: [[u8; 4]; 2], protocol: u8, ports: [u16; 2]) -> Vec<u8> {
        let nested = |kind, parts: &[Vec<u8>]| attribute(kind | 0x8000, &parts.concat());
        let addresses = nested(1, &[attribute(1, &from), attribute(2, &to)]);
        let [source, destination] = ports.map(u16::to_be_bytes);
        let proto = [attribute(1, &[protocol]), attribute(2, &source), attribute(3, &destination)];
        nested(kind, &[addresses, nested(2, &proto)])
    }

    const WORLD: [u8; 4] = [192, 0, 2, 2];
    const FLOATING: [u8; 4] = [203, 0, 113, 7];
    const GUEST: [u8; 4] = [10, 1, 0, 1];

    /// From the world to an address, which is the guest's.
    fn flow(protocol: u8, at: [u8; 4], port: u16, target: u16) -> Flow {
        let original = tuple(1, [WORLD, at], protocol, [5000, port]);
        let reply = tuple(2, [GUEST, WORLD], protocol, [target, 5000]);
        let status = attribute(3, &[0, 0, 1, 0x8e]);
        let id = attribute(12, &[1, 2, 3, 4]);
        let octets = [&original[..], &reply, &status, &id].concat();
        let flow = Flow::parse(&octets).unwrap();
        assert_eq!(flow.name, [&original[..], &id].concat());
        assert!(
            (0..octets.len())
                .all(|len| Flow::parse(&octets[..len]) != Some(Flow::parse(&octets).unwrap()))
        );
        flow
    }

    fn nat(floating: Option<[u8; 4]>, forwards: &[Forwarded]) -> Nat {
        let floating = floating.map(|guest| (FLOATING.into(), guest.into()));
        Nat {
            floating: floating.into_iter().collect(),
            forwards: forwards.iter().cloned().collect(),
            ..Nat::default()
        }
    }

    #[test]
    fn who_has_the_address_no_longer_loses_its_flows() {
        let into = flow(6, FLOATING, 80, 80);
        assert_eq!(into.ways[0].ports, [5000, 80]);
        let other = [10, 1, 0, 2];
        let moved = |before, now| Stale::new(&nat(before, &[]), &nat(now, &[]), [].into());
        for (before, now, is_stale) in [
            (Some(GUEST), None, true),
            (Some(GUEST), Some(other), true),
            (Some(GUEST), Some(GUEST), false),
            (None, Some(GUEST), false),
            // What came before it was anybody's.
            (None, Some(other), true),
        ] {
            assert_eq!(moved(before, now).has(&into), is_stale, "{before:?} {now:?}");
        }
        // From the guest, by its floating address.
        let original = tuple(1, [GUEST, WORLD], 17, [5000, 53]);
        let reply = tuple(2, [WORLD, FLOATING], 17, [53, 5000]);
        let out = Flow::parse(&[original, reply].concat()).unwrap();
        assert!(moved(Some(GUEST), None).has(&out));
        assert!(!moved(Some(other), None).has(&out));
        assert_eq!(moved(Some(GUEST), Some(GUEST)), Stale::default());
    }

    #[test]
    fn flows_of_a_forward_end_with_it_and_no_others() {
        let forwarded = |listen: [u8; 4], ports, target| Forwarded {
            listen: listen.into(),
            protocol: Protocol::Tcp,
            ports,
            to: GUEST.into(),
            target,
        };
        let gone =
            |it| Stale::new(&nat(None, std::slice::from_ref(it)), &nat(None, &[]), [].into());
        let any = forwarded([0; 4], (8000, 8099), Target::Port(80));
        let host = [192, 0, 2, 1];
        assert!(gone(&any).has(&flow(6, host, 8080, 80)));
        for other in [flow(17, host, 8080, 80), flow(6, host, 8080, 81), flow(6, host, 8100, 80)] {
            assert!(!gone(&any).has(&other), "{other:?}");
        }
        let same = forwarded(host, (8000, 8099), Target::Same);
        assert!(gone(&same).has(&flow(6, host, 8080, 8080)));
        assert!(!gone(&same).has(&flow(6, FLOATING, 8080, 8080)));
    }

    #[test]
    fn datagrams_that_have_come_before_their_forward_are_translated_anew() {
        let host = [192, 0, 2, 1];
        let forwarded = |listen: [u8; 4], protocol| Forwarded {
            listen: listen.into(),
            protocol,
            ports: (5300, 5399),
            to: GUEST.into(),
            target: Target::Port(53),
        };
        let untranslated = |protocol, to: [u8; 4], port| {
            let original = tuple(1, [WORLD, to], protocol, [5000, port]);
            let reply = tuple(2, [to, WORLD], protocol, [port, 5000]);
            Flow::parse(&[original, reply].concat()).unwrap()
        };
        let takes = |it: &Forwarded, flow: &Flow| {
            let now = nat(None, std::slice::from_ref(it));
            let new = Stale::new(&nat(None, &[]), &now, [].into());
            assert!(Stale::new(&now, &now, [].into()).new.is_empty());
            new.takes(flow, &[host.into()]) && !new.has(flow)
        };
        let any = forwarded([0; 4], Protocol::Udp);
        assert!(takes(&any, &untranslated(17, host, 5300)));
        assert!(takes(&forwarded(host, Protocol::Udp), &untranslated(17, host, 5399)));
        for (it, flow) in [
            (any.clone(), untranslated(17, host, 5400)),
            // It only passes the host, or is the guest's already.
            (any.clone(), untranslated(17, FLOATING, 5300)),
            (any, flow(17, host, 5300, 53)),
            (forwarded(FLOATING, Protocol::Udp), untranslated(17, host, 5300)),
            // A connection of the host's own goes on.
            (forwarded(host, Protocol::Tcp), untranslated(6, host, 5300)),
        ] {
            assert!(!takes(&it, &flow), "{it:?} {flow:?}");
        }
    }

    #[test]
    fn all_flows_end_of_what_is_no_longer_guests() {
        let gone = |prefix: &str| Stale::of_prefixes([prefix.parse().unwrap()].into());
        let by_a_forward = flow(17, [192, 0, 2, 1], 5300, 53);
        let original = tuple(1, [GUEST, WORLD], 17, [5000, 53]);
        let reply = tuple(2, [WORLD, [192, 0, 2, 1]], 17, [53, 5000]);
        let masqueraded = Flow::parse(&[original, reply].concat()).unwrap();
        for flow in [by_a_forward, masqueraded] {
            assert!(gone("10.1.0.0/24").has(&flow), "{flow:?}");
            assert!(!gone("10.2.0.0/24").has(&flow));
        }
    }
}
