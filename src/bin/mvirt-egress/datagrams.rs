//! UDP: one socket for each port that a vNIC sends from, wherever to (endpoint-independent mapping,
//! RFC 4787 §4.1), and one for each forward; echo requests: one socket for each identifier.
//!
//! Several forwards may lead to one port: each caller is answered by the one that it has called.
//! What else the port sends goes by one of them.

use super::{
    timers::Key,
    world::{Flow, Refused, World},
};
use mvirt_net::{
    egress::{
        compose::{self, Ends},
        packet::Packet,
        policy::Way,
        protocol::{Dropped, Forward},
    },
    wire::{icmpv4, icmpv6},
};
use rustix::{
    event::epoll::EventFlags,
    io::Errno,
    net::{RecvFlags, SendFlags, SocketType, connect, ipproto, recvfrom, sendto},
};
use slab::Slab;
use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// How long a port, one that asks the DNS server of a segment, and an identifier, may be silent.
const IDLE_UDP: Duration = Duration::from_secs(180);
// Each question comes from another port (libslirp: SO_EXPIREFAST).
const IDLE_DNS: Duration = Duration::from_secs(10);
const IDLE_ECHO: Duration = Duration::from_secs(60);
/// Datagrams taken of one socket before others have their turn.
const TURN: usize = 64;
/// Callers of a forward that are known at once; the one that was silent for longest makes room.
const CALLERS: usize = 128;

/// What sockets of one kind carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Datagrams of ports.
    Udp,
    /// Echo requests of identifiers.
    Echo,
}

/// All sockets of one kind.
#[derive(Debug)]
pub(crate) struct Datagrams {
    kind: Kind,
    mappings: Slab<Mapping>,
    /// By vNIC, its address and port, or identifier, and the DNS server's name that it asks.
    by_guest: HashMap<(u16, SocketAddr, Option<SocketAddr>), usize>,
    /// Who has called by forwards: by vNIC, its address and port, and what the caller is called
    /// there.
    callers: HashMap<(u16, SocketAddr, SocketAddr), Caller>,
    buffer: Vec<u8>,
    messages: Vec<u8>,
    lens: Vec<usize>,
}

/// A socket, and whose it is.
#[derive(Debug)]
struct Mapping {
    tag: u16,
    guest: SocketAddr,
    socket: OwnedFd,
    active: Instant,
    /// It lasts as long as this does.
    forward: Option<Forward>,
    /// What the only one that it hears is called: the DNS server of a segment.
    resolver: Option<SocketAddr>,
    /// Of a forward: what those of `Datagrams::callers` are called that are its own, the latest
    /// last.
    callers: VecDeque<SocketAddr>,
}

/// Who has called by a forward.
#[derive(Debug)]
struct Caller {
    /// The socket of the one that it has called last.
    index: usize,
    /// Who that is. The vNIC may have no other way there.
    from: SocketAddr,
    active: Instant,
}

impl Mapping {
    fn idle(&self, kind: Kind) -> Duration {
        match kind {
            Kind::Udp if self.resolver.is_some() => IDLE_DNS,
            Kind::Udp => IDLE_UDP,
            Kind::Echo => IDLE_ECHO,
        }
    }
}

impl Datagrams {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            mappings: Slab::new(),
            by_guest: HashMap::new(),
            callers: HashMap::new(),
            buffer: vec![0; 65_536],
            messages: Vec::new(),
            lens: Vec::new(),
        }
    }

    fn key(&self, index: usize) -> Key {
        match self.kind {
            Kind::Udp => Key::Udp(index as u32),
            Kind::Echo => Key::Echo(index as u32),
        }
    }

    /// Takes datagrams of a vNIC: `payload`, in parts of `size` octets.
    pub(crate) fn take(
        &mut self,
        world: &mut World,
        packet: &Packet<'_>,
        (source, destination): (u16, u16),
        (payload, size): (&[u8], usize),
    ) {
        let guest = SocketAddr::new(packet.source, source);
        let remote = SocketAddr::new(packet.destination, destination);
        let ends = Ends { tag: packet.tag, from: remote, to: guest };
        let way = match self.caller(&ends, world.now) {
            Some(found) => Ok(found),
            None => world.way(remote).and_then(|to| Ok((self.mapping(world, &ends, to)?, to))),
        };
        let (index, to) = match way {
            Ok(found) => found,
            Err(refused) => return self.refused(world, &ends, refused, packet),
        };
        let Some(mapping) = self.mappings.get_mut(index) else { return };
        mapping.active = world.now;
        // One without octets is a datagram as well.
        let mut parts = payload.chunks(size.max(1)).collect::<Vec<_>>();
        if parts.is_empty() {
            parts.push(&[]);
        }
        for part in parts {
            let sent = sendto(&mapping.socket, part, SendFlags::NOSIGNAL, &to);
            match sent {
                Ok(_) => {}
                Err(Errno::AGAIN | Errno::NOBUFS) => world.drop(ends.tag, Dropped::HostFull, 1),
                Err(error) => {
                    world.drop(ends.tag, Dropped::Unreachable, 1);
                    return world.unreachable(&ends, error, packet.octets);
                }
            }
        }
    }

    fn refused(&self, world: &mut World, ends: &Ends, refused: Refused, packet: &Packet<'_>) {
        match refused {
            Refused::Denied => world.drop(ends.tag, Dropped::EgressDenied, 1),
            Refused::Limit => world.drop(ends.tag, Dropped::EgressLimit, 1),
            Refused::Error(Errno::ACCESS | Errno::PERM) if self.kind == Kind::Echo => {
                world.drop(ends.tag, Dropped::EchoNotAllowed, 1);
            }
            Refused::Error(error) => {
                world.drop(ends.tag, Dropped::Unreachable, 1);
                world.unreachable(ends, error, packet.octets);
            }
        }
    }

    /// Returns the forward by which who the vNIC sends to has called it, and who that is.
    fn caller(&mut self, ends: &Ends, now: Instant) -> Option<(usize, SocketAddr)> {
        let caller = self.callers.get_mut(&(ends.tag, ends.to, ends.from))?;
        if now.duration_since(caller.active) >= IDLE_UDP {
            return None;
        }
        caller.active = now;
        Some((caller.index, caller.from))
    }

    /// Remembers who has called by a forward.
    fn called(&mut self, index: usize, name: SocketAddr, from: SocketAddr, now: Instant) {
        let Some(mapping) = self.mappings.get(index) else { return };
        let (tag, guest) = (mapping.tag, mapping.guest);
        let caller = Caller { index, from, active: now };
        if let Some(before) = self.callers.insert((tag, guest, name), caller)
            && let Some(mapping) = self.mappings.get_mut(before.index)
            && let Some(at) = mapping.callers.iter().rposition(|known| *known == name)
        {
            mapping.callers.remove(at);
        }
        let Some(mapping) = self.mappings.get_mut(index) else { return };
        mapping.callers.push_back(name);
        if mapping.callers.len() > CALLERS
            && let Some(oldest) = mapping.callers.pop_front()
        {
            self.callers.remove(&(tag, guest, oldest));
        }
    }

    /// Returns the socket of who sends, which is made where there is none.
    fn mapping(
        &mut self,
        world: &mut World,
        ends: &Ends,
        to: SocketAddr,
    ) -> Result<usize, Refused> {
        let resolver = matches!(world.policy.way(ends.from), Way::Resolver(_)).then_some(ends.from);
        if let Some(index) = self.by_guest.get(&(ends.tag, ends.to, resolver)) {
            return Ok(*index);
        }
        let nic = world.nics.get(&ends.tag).ok_or(Refused::Limit)?;
        let is_full = match self.kind {
            Kind::Udp => nic.stats.udp >= world.limits.udp,
            Kind::Echo => nic.stats.echo >= world.limits.echo,
        };
        if is_full {
            return Err(Refused::Limit);
        }
        let protocol = match (self.kind, ends.to) {
            (Kind::Udp, _) => None,
            (Kind::Echo, SocketAddr::V4(_)) => Some(ipproto::ICMP),
            (Kind::Echo, SocketAddr::V6(_)) => Some(ipproto::ICMPV6),
        };
        // The DNS server may be of another family than its name.
        let socket = world.socket(to.ip(), SocketType::DGRAM, protocol)?;
        if resolver.is_some()
            && let Err(error) = connect(&socket, &to)
        {
            world.closed(Flow::Own);
            return Err(Refused::Error(error));
        }
        let added = self.add(world, (ends.tag, ends.to), socket, (None, resolver));
        added.map_err(|_| Refused::Limit)
    }

    fn add(
        &mut self,
        world: &mut World,
        (tag, guest): (u16, SocketAddr),
        socket: OwnedFd,
        (forward, resolver): (Option<Forward>, Option<SocketAddr>),
    ) -> io::Result<usize> {
        let index = self.mappings.vacant_key();
        // Not edge-triggered: it is told again of what did not have its turn.
        let watched = world.watch(&socket, self.key(index), EventFlags::IN);
        if let Err(error) = watched {
            world.closed(flow(forward.as_ref()));
            return Err(error);
        }
        let (active, callers) = (world.now, VecDeque::new());
        let mapping = Mapping { tag, guest, socket, active, forward, resolver, callers };
        // Forwards were asked for, not by the vNIC: they are none of those that it may have.
        if forward.is_none() {
            world.timers.at(active + mapping.idle(self.kind), self.key(index));
            self.count(world, tag, 1);
        }
        self.mappings.insert(mapping);
        self.by_guest.entry((tag, guest, resolver)).or_insert(index);
        Ok(index)
    }

    fn count(&self, world: &mut World, tag: u16, by: i32) {
        let Some(stats) = world.stats(tag) else { return };
        let count = match self.kind {
            Kind::Udp => &mut stats.udp,
            Kind::Echo => &mut stats.echo,
        };
        *count = count.saturating_add_signed(by);
    }

    /// Whether it listens for exactly this.
    pub(crate) fn listens(&self, guest: SocketAddr, forward: &Forward) -> bool {
        let is_it = |it: &Mapping| it.guest == guest && it.forward.as_ref() == Some(forward);
        self.mappings.iter().any(|(_, mapping)| is_it(mapping))
    }

    /// Listens for a vNIC: what it sends from that port goes by the same socket, or by that of
    /// another forward to there.
    pub(crate) fn listen(
        &mut self,
        world: &mut World,
        guest: SocketAddr,
        forward: Forward,
    ) -> io::Result<()> {
        world.reserve(Flow::Listening).map_err(|_| io::Error::from(Errno::MFILE))?;
        let socket = match super::forwards::bind(forward.listen, SocketType::DGRAM) {
            Ok(socket) => socket,
            Err(error) => {
                world.closed(Flow::Listening);
                return Err(error);
            }
        };
        if let Some(&index) = self.by_guest.get(&(forward.tag, guest, None))
            && self.mappings.get(index).is_some_and(|mapping| mapping.forward.is_none())
        {
            self.remove(world, index);
        }
        self.add(world, (forward.tag, guest), socket, (Some(forward), None))?;
        Ok(())
    }

    /// Listens no longer where `gone` says so.
    pub(crate) fn unlisten(&mut self, world: &mut World, gone: impl Fn(&Forward) -> bool) {
        self.remove_if(world, |mapping| mapping.forward.as_ref().is_some_and(&gone));
    }

    /// Closes those of a vNIC that are of none of its addresses.
    pub(crate) fn retain(&mut self, world: &mut World, tag: u16) {
        let owned = self.mappings.iter().map(|(_, mapping)| mapping.guest.ip());
        let owned = owned.filter(|address| world.owns(tag, *address)).collect::<Vec<_>>();
        self.remove_if(world, |mapping| mapping.tag == tag && !owned.contains(&mapping.guest.ip()));
    }

    fn remove_if(&mut self, world: &mut World, gone: impl Fn(&Mapping) -> bool) {
        let gone = self.mappings.iter().filter(|(_, mapping)| gone(mapping));
        for index in gone.map(|(index, _)| index).collect::<Vec<_>>() {
            self.remove(world, index);
        }
    }

    fn remove(&mut self, world: &mut World, index: usize) {
        let Some(mapping) = self.mappings.try_remove(index) else { return };
        let (tag, guest) = (mapping.tag, mapping.guest);
        for name in &mapping.callers {
            self.callers.remove(&(tag, guest, *name));
        }
        world.timers.cancel(self.key(index));
        world.closed(flow(mapping.forward.as_ref()));
        let key = (tag, guest, mapping.resolver);
        if self.by_guest.get(&key) == Some(&index) {
            self.by_guest.remove(&key);
        }
        if mapping.forward.is_none() {
            self.count(world, tag, -1);
        } else if !self.by_guest.contains_key(&key) {
            let is_next = |it: &Mapping| it.forward.is_some() && (it.tag, it.guest) == (tag, guest);
            let next = self.mappings.iter().find(|(_, mapping)| is_next(mapping));
            if let Some((next, _)) = next {
                self.by_guest.insert(key, next);
            }
        }
    }

    /// The timer of a socket has come.
    pub(crate) fn timer(&mut self, world: &mut World, index: usize) {
        let Some(mapping) = self.mappings.get(index).filter(|it| it.forward.is_none()) else {
            return;
        };
        let deadline = mapping.active + mapping.idle(self.kind);
        if deadline <= world.now {
            self.remove(world, index);
        } else {
            world.timers.at(deadline, self.key(index));
        }
    }

    /// Takes what has come to a socket.
    pub(crate) fn event(&mut self, world: &mut World, index: usize) {
        for _ in 0..TURN {
            let Some(mapping) = self.mappings.get_mut(index) else { return };
            let received = recvfrom(&mapping.socket, &mut self.buffer[..], RecvFlags::empty());
            let (len, from) = match received {
                Ok((len, _, Some(from))) => (len, from),
                // An error that was on its way is taken by asking; another one comes again.
                Ok(_) | Err(Errno::AGAIN) => return,
                Err(_) => continue,
            };
            mapping.active = world.now;
            let (tag, guest, resolver) = (mapping.tag, mapping.guest, mapping.resolver);
            let is_forward = mapping.forward.is_some();
            let from = SocketAddr::try_from(from).ok();
            let origin = match (resolver, from) {
                (None, Some(from)) if is_forward => {
                    let name = world.policy.caller(from, guest.ip());
                    self.called(index, name, from, world.now);
                    Some(name)
                }
                (None, Some(from)) => world.policy.origin(from),
                (name, _) => name,
            };
            let Some(from) = origin.filter(|from| from.is_ipv4() == guest.is_ipv4()) else {
                world.drop(tag, Dropped::EgressDenied, 1);
                continue;
            };
            self.reply(world, &Ends { tag, from, to: guest }, len);
        }
    }

    fn reply(&mut self, world: &mut World, ends: &Ends, len: usize) {
        let mtu = world.nics.get(&ends.tag).map_or(1500, |nic| nic.nic.mtu);
        let size = (mtu, world.identification());
        let Self { messages, lens, .. } = self;
        messages.clear();
        lens.clear();
        let payload = &self.buffer[..len.min(self.buffer.len())];
        let composed = match self.kind {
            Kind::Udp => compose::datagram(messages, lens, ends, payload, size),
            Kind::Echo => {
                // The kernel passes on nothing but answers to what this socket has asked.
                let Some((head, payload)) = payload.split_first_chunk::<8>() else { return };
                let reply = match ends.from {
                    SocketAddr::V4(_) => icmpv4::ECHO_REPLY,
                    SocketAddr::V6(_) => icmpv6::ECHO_REPLY,
                };
                if head[0] != reply {
                    return;
                }
                let sequence = u16::from_be_bytes([head[6], head[7]]);
                let answer = (ends.to.port(), sequence, payload);
                compose::echo_reply(messages, lens, ends, answer, size)
            }
        };
        match composed {
            Ok(()) => world.send_all(ends.tag, messages, lens),
            // It is longer than a packet of the vNIC's can be, or its MTU allows nothing.
            Err(_) => world.drop(ends.tag, Dropped::GuestFull, 1),
        }
    }
}

/// Returns what a socket is for that may be a forward's.
fn flow(forward: Option<&Forward>) -> Flow {
    if forward.is_some() { Flow::Listening } else { Flow::Own }
}

/// Returns the octets of an echo request, whose identifier and sum the kernel fills in.
pub(crate) fn echo_request(like: IpAddr, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let kind = match like {
        IpAddr::V4(_) => icmpv4::ECHO_REQUEST,
        IpAddr::V6(_) => icmpv6::ECHO_REQUEST,
    };
    let [a, b] = sequence.to_be_bytes();
    [&[kind, 0, 0, 0, 0, 0, a, b], payload].concat()
}
