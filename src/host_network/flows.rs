//! Flows that the kernel translates as it no longer should (ctnetlink, `nfnetlink_conntrack.h`):
//! their entries are removed, so that what comes next is translated anew.
//!
//! ```text
//! Nat as it was, as it is ─▶ what has changed ─▶ dump of all entries ─▶ those that are stale go
//! ```

use super::nat::{Forwarded, Nat};
use crate::model::{Protocol, Target};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Types of messages: of the subsystem 1, to get, to delete, and what is there.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const ENTRY: u16 = 1 << 8;
/// What ends an answer (netlink(7)).
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// Octets of the headers of netlink, and of netfilter behind it.
const HEADER_LEN: usize = 16;
const HEADERS_LEN: usize = HEADER_LEN + 4;

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
/// Bits of an attribute's type that say how it is written.
const TYPE_MASK: u16 = 0x3fff;

/// What has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stale {
    /// Floating addresses: whose each was and is.
    floating: BTreeMap<IpAddr, [Option<IpAddr>; 2]>,
    /// Forwards that are no more.
    forwards: BTreeSet<Forwarded>,
}

impl Stale {
    pub(super) fn new(before: &Nat, now: &Nat) -> Self {
        let all = before.floating.keys().chain(now.floating.keys());
        let whose = all.map(|at| (*at, [before, now].map(|nat| nat.floating.get(at).copied())));
        let floating = whose.filter(|(_, [before, now])| before != now).collect();
        let forwards = before.forwards.difference(&now.forwards).cloned().collect();
        Self { floating, forwards }
    }

    fn is_of(&self, family: fn(&IpAddr) -> bool) -> bool {
        self.floating.keys().any(family) || self.forwards.iter().any(|it| family(&it.listen))
    }

    /// Whether a flow is translated as it was and not as it is.
    fn has(&self, flow: &Flow) -> bool {
        let [original, reply] = &flow.ways;
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
            let protocol = match it.protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
            };
            let (first, last) = it.ports;
            let target = match it.target {
                Target::Same => original.ports[1],
                Target::Port(port) => port,
            };
            flow.protocol == protocol
                && (it.listen.is_unspecified() || it.listen == original.to)
                && (first..=last).contains(&original.ports[1])
                && (reply.from, reply.ports[0]) == (it.to, target)
        })
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

/// Attributes: the type, and what is in it, with how it was written.
fn attributes(octets: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    let mut rest = octets;
    std::iter::from_fn(move || {
        let [a, b, c, d] = *rest.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let whole = rest.get(..len)?;
        let value = whole.get(4..)?;
        // Each begins at a multiple of four octets.
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((u16::from_ne_bytes([c, d]) & TYPE_MASK, value, whole))
    })
}

fn find(octets: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(octets).find(|(kind, ..)| *kind == wanted).map(|(_, value, _)| value)
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

    fn family(&self) -> u8 {
        family(self.ways[0].from.is_ipv4())
    }
}

fn family(is_ipv4: bool) -> u8 {
    // Both fit: AF_INET is 2, AF_INET6 is 10.
    (if is_ipv4 { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

/// Returns a message: headers, and attributes behind them.
fn message(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let len = (HEADERS_LEN + attributes.len()) as u32;
    // Neither a number nor a port of ours: one request waits for its answer at a time.
    let header = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]];
    // Version 0, and no resource.
    [&header.concat()[..], &[family, 0, 0, 0], attributes].concat()
}

/// Asks the kernel, and passes each entry of the answer on.
fn ask(socket: &Socket, request: &[u8], mut entry: impl FnMut(&[u8])) -> io::Result<()> {
    socket.send(request, 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while let Some([a, b, c, d, e, f, ..]) = rest.first_chunk::<HEADER_LEN>().copied() {
            let len = u32::from_ne_bytes([a, b, c, d]) as usize;
            let Some(message) = rest.get(..len).filter(|_| len >= HEADER_LEN) else { break };
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
            match u16::from_ne_bytes([e, f]) {
                ENTRY => entry(message.get(HEADERS_LEN..).unwrap_or(&[])),
                DONE => return Ok(()),
                ERROR => {
                    let code = message.get(HEADER_LEN..).and_then(|rest| rest.first_chunk());
                    return match code.map(|code| i32::from_ne_bytes(*code)) {
                        Some(0) | None => Ok(()),
                        Some(code) => Err(io::Error::from_raw_os_error(-code)),
                    };
                }
                _ => {}
            }
        }
    }
}

/// Ends flows that are stale. Returns how many.
pub(super) fn end(stale: &Stale) -> io::Result<usize> {
    let is_of = [IpAddr::is_ipv4 as fn(&IpAddr) -> bool, IpAddr::is_ipv6];
    let families = is_of.into_iter().zip([true, false]).filter(|(is_of, _)| stale.is_of(*is_of));
    let mut ended = 0;
    let mut socket = None;
    for (_, is_ipv4) in families {
        let socket = match &mut socket {
            Some(socket) => socket,
            none => none.insert(open()?),
        };
        let mut found = Vec::new();
        ask(socket, &message(GET, REQUEST | DUMP, family(is_ipv4), &[]), |octets| {
            found.extend(Flow::parse(octets).filter(|flow| stale.has(flow)));
        })?;
        for flow in found {
            let request = message(DELETE, REQUEST | ACK, flow.family(), &flow.name);
            match ask(socket, &request, |_| {}) {
                Ok(()) => ended += 1,
                // It has ended meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(ended)
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = (4 + value.len()) as u16;
        let mut octets = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        octets.resize(octets.len().next_multiple_of(4), 0);
        octets
    }

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
        let moved = |before, now| Stale::new(&nat(before, &[]), &nat(now, &[]));
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
        let gone = |it| Stale::new(&nat(None, std::slice::from_ref(it)), &nat(None, &[]));
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
}
