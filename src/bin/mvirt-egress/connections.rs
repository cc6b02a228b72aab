//! TCP: the sockets of connections, and those that listen for vNICs.

use super::{
    timers::Key,
    world::{Flow, Refused, World},
};
use mvirt_net::{
    egress::{
        compose::{self, Ends, HEAD_LEN},
        connection::{Connection, Expired, Taken, refusal},
        packet::Packet,
        policy::Way,
        protocol::{Dropped, Forward},
    },
    wire::{ipv4, ipv6, tcp, vnet},
};
use rustix::{
    event::epoll::EventFlags,
    io::Errno,
    net::{Shutdown, SocketFlags, SocketType, accept_with, connect, shutdown, sockopt},
};
use slab::Slab;
use std::{
    collections::{HashMap, VecDeque},
    io::{self, IoSlice, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// Octets read of one connection before others have their turn.
const TURN: usize = 256 << 10;
/// Connections taken of one listener before others have their turn.
const ACCEPTED: usize = 64;
/// When one that had no memory, or no descriptor, tries again.
const STARVED: Duration = Duration::from_millis(50);

/// A connection and its socket.
#[derive(Debug)]
struct Link {
    ends: Ends,
    socket: TcpStream,
    tcp: Connection,
    /// The first sequence number of the vNIC, for an error about it.
    syn: u32,
    /// It came by this, and ends with it.
    forward: Option<Forward>,
    is_readable: bool,
    is_writable: bool,
    is_queued: bool,
    /// It would read, and there is no memory.
    is_starved: bool,
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Connections {
    links: Slab<Link>,
    by_ends: HashMap<(u16, SocketAddr, SocketAddr), usize>,
    listeners: Slab<Listener>,
    /// Those with something to do.
    ready: VecDeque<usize>,
    start: Instant,
}

#[derive(Debug)]
struct Listener {
    forward: Forward,
    socket: TcpListener,
}

impl Connections {
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            links: Slab::new(),
            by_ends: HashMap::new(),
            listeners: Slab::new(),
            ready: VecDeque::new(),
            start,
        }
    }

    /// Takes a segment of a vNIC.
    pub(crate) fn take(
        &mut self,
        world: &mut World,
        packet: &Packet<'_>,
        segment: &tcp::Segment,
        payload: &[u8],
    ) {
        let guest = SocketAddr::new(packet.source, segment.source);
        let remote = SocketAddr::new(packet.destination, segment.destination);
        let ends = Ends { tag: packet.tag, from: remote, to: guest };
        let Some(&index) = self.by_ends.get(&(packet.tag, guest, remote)) else {
            if segment.flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN {
                self.dial(world, ends, packet, segment);
            } else {
                world.drop(packet.tag, Dropped::StrayTcp, 1);
                refuse(world, &ends, segment, payload.len());
            }
            return;
        };
        let Some(link) = self.links.get_mut(index) else { return };
        let (now, whose) = (world.now, link.whose());
        let Link { tcp, socket, is_writable, .. } = link;
        let taken = world.purse(whose, |purse| {
            tcp.take(segment, payload, now, purse, |octets| {
                if !*is_writable {
                    return 0;
                }
                // An error is told by reading as well.
                let written = (&*socket).write(octets).unwrap_or(0);
                *is_writable = written == octets.len();
                written
            })
        });
        match taken {
            Taken::Yes => self.queue(index),
            Taken::Stray => {
                world.drop(packet.tag, Dropped::StrayTcp, 1);
                self.queue(index);
            }
            Taken::Reset => self.end(world, index, End::Host),
        }
    }

    fn dial(&mut self, world: &mut World, ends: Ends, packet: &Packet<'_>, syn: &tcp::Segment) {
        let socket = match self.open(world, &ends) {
            Ok(socket) => socket,
            Err(Refused::Denied) => return world.drop(ends.tag, Dropped::EgressDenied, 1),
            Err(Refused::Limit) => {
                world.drop(ends.tag, Dropped::EgressLimit, 1);
                return refuse(world, &ends, syn, 0);
            }
            Err(Refused::Error(error)) => {
                world.drop(ends.tag, Dropped::Unreachable, 1);
                match error {
                    Errno::CONNREFUSED => refuse(world, &ends, syn, 0),
                    error => world.unreachable(&ends, error, packet.octets),
                }
                return;
            }
        };
        let first = world.first_sequence(&ends, self.start);
        let tcp = Connection::from_guest(syn, own_size(world, &ends), first, world.now);
        self.add(world, Link::new(ends, socket, tcp, syn.sequence));
    }

    fn open(&self, world: &mut World, ends: &Ends) -> Result<OwnedFd, Refused> {
        let to = world.way(ends.from)?;
        let most = world.limits.connections;
        if !world.nics.get(&ends.tag).is_some_and(|nic| nic.may_connect(Flow::Own, most)) {
            return Err(Refused::Limit);
        }
        let socket = world.socket(to.ip(), SocketType::STREAM, None)?;
        match connect(&socket, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(error) => {
                world.closed(Flow::Own);
                Err(match error {
                    Errno::ADDRNOTAVAIL | Errno::AGAIN => Refused::Limit,
                    error => Refused::Error(error),
                })
            }
        }
    }

    fn add(&mut self, world: &mut World, mut link: Link) {
        let ((tag, flow), ends) = (link.whose(), link.ends);
        if world.front.is_some() {
            link.tcp.send_single_segments();
        }
        // What is small goes at once: the vNIC's stack has joined what it wanted to.
        let ready = sockopt::set_tcp_nodelay(&link.socket, true);
        let entry = self.links.vacant_entry();
        let index = entry.key();
        let events = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let watched = world.watch(&link.socket, Key::Tcp(index as u32), events);
        if ready.is_err() || watched.is_err() {
            world.closed(flow);
            return world.drop(tag, Dropped::EgressLimit, 1);
        }
        entry.insert(link);
        self.by_ends.insert((tag, ends.to, ends.from), index);
        world.count_connection(tag, flow, 1);
        self.queue(index);
    }

    fn queue(&mut self, index: usize) {
        if let Some(link) = self.links.get_mut(index).filter(|link| !link.is_queued) {
            link.is_queued = true;
            self.ready.push_back(index);
        }
    }

    /// Takes what epoll says of a socket.
    pub(crate) fn event(&mut self, world: &mut World, index: usize, events: EventFlags) {
        let Some(link) = self.links.get_mut(index) else { return };
        let ended = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        link.is_readable |= events.intersects(EventFlags::IN | ended);
        link.is_writable |= events.contains(EventFlags::OUT);
        if !link.tcp.is_dialing() {
            return self.queue(index);
        }
        match sockopt::socket_error(&link.socket) {
            Ok(Ok(())) if link.socket.peer_addr().is_ok() => {
                link.tcp.connected(world.now);
                self.queue(index);
            }
            // Not yet: this was about another socket that was here before.
            Ok(Ok(())) => {}
            Ok(Err(error)) | Err(error) => self.failed(world, index, error),
        }
    }

    /// The host has not let itself be connected to.
    fn failed(&mut self, world: &mut World, index: usize, error: Errno) {
        let Some(link) = self.links.get(index) else { return };
        let (ends, syn) = (link.ends, link.syn);
        world.drop(ends.tag, Dropped::Unreachable, 1);
        match error {
            Errno::CONNREFUSED | Errno::CONNRESET => self.end(world, index, End::Both),
            Errno::TIMEDOUT => self.end(world, index, End::Host),
            error => {
                self.end(world, index, End::Host);
                // As it was, but for what no error's reader looks at.
                let asked = Ends { tag: ends.tag, from: ends.to, to: ends.from };
                let segment = tcp::Segment {
                    source: ends.to.port(),
                    destination: ends.from.port(),
                    sequence: syn,
                    flags: tcp::SYN,
                    ..tcp::Segment::default()
                };
                let mut head = [0; HEAD_LEN];
                if let Ok(len) = compose::tcp_head(&mut head, &asked, &segment, (0, 1)) {
                    world.unreachable(&ends, error, &head[vnet::HEADER_LEN..len]);
                }
            }
        }
    }

    /// Lets those have a turn that have something to do; returns whether some still have.
    pub(crate) fn run(&mut self, world: &mut World) -> bool {
        for _ in 0..self.ready.len() {
            // Whoever has something to send waits where it is.
            if world.blocked {
                return false;
            }
            let Some(index) = self.ready.pop_front() else { break };
            if let Some(link) = self.links.get_mut(index) {
                link.is_queued = false;
                self.service(world, index);
            }
        }
        !self.ready.is_empty()
    }

    fn service(&mut self, world: &mut World, index: usize) {
        let Some(link) = self.links.get_mut(index) else { return };
        match link.service(world) {
            Ok(Turn::Waits) => {}
            Ok(Turn::GoesOn) => self.queue(index),
            Ok(Turn::Over) => return self.end(world, index, End::Nobody),
            // The host has ended it at once.
            Err(_) => return self.end(world, index, End::Guest),
        }
        self.set_timer(world, index);
    }

    fn set_timer(&mut self, world: &mut World, index: usize) {
        let Some(link) = self.links.get_mut(index) else { return };
        let mut deadline = link.tcp.deadline();
        if link.is_starved {
            deadline = deadline.min(world.now + STARVED);
        }
        world.timers.at(deadline, Key::Tcp(index as u32));
    }

    /// The timer of a connection has come.
    pub(crate) fn timer(&mut self, world: &mut World, index: usize) {
        let Some(link) = self.links.get_mut(index) else { return };
        let (tag, now) = (link.ends.tag, world.now);
        match world.purse(link.whose(), |purse| link.tcp.expire(now, purse)) {
            Expired::GoesOn => {
                self.queue(index);
                self.set_timer(world, index);
            }
            Expired::Silently => {
                world.drop(tag, Dropped::Unreachable, 1);
                self.end(world, index, End::Host);
            }
            Expired::Reset => self.end(world, index, End::Both),
        }
    }

    fn end(&mut self, world: &mut World, index: usize, end: End) {
        let Some(mut link) = self.links.try_remove(index) else { return };
        self.by_ends.remove(&(link.ends.tag, link.ends.to, link.ends.from));
        if matches!(end, End::Guest | End::Both) {
            reply(world, &link.ends, &link.tcp.reset());
        }
        if matches!(end, End::Host | End::Both) {
            // Closed so, it is reset; where that fails, it is closed all the same.
            sockopt::set_socket_linger(&link.socket, Some(Duration::ZERO)).ok();
        }
        let (tag, flow) = link.whose();
        world.purse((tag, flow), |purse| link.tcp.release(purse));
        world.timers.cancel(Key::Tcp(index as u32));
        world.closed(flow);
        world.count_connection(tag, flow, -1);
    }

    /// Ends the connections of a vNIC that are from none of its addresses.
    pub(crate) fn retain(&mut self, world: &mut World, tag: u16) {
        self.end_if(world, |world, link| {
            link.ends.tag == tag && !world.owns(tag, link.ends.to.ip())
        });
    }

    /// Ends the connections to where vNICs may not go any longer.
    pub(crate) fn end_denied(&mut self, world: &mut World) {
        self.end_if(world, |world, link| {
            link.forward.is_none() && world.policy.way(link.ends.from) == Way::Denied
        });
    }

    fn end_if(&mut self, world: &mut World, is_over: impl Fn(&World, &Link) -> bool) {
        let over = self.links.iter().filter(|(_, link)| is_over(world, link));
        for index in over.map(|(index, _)| index).collect::<Vec<_>>() {
            self.end(world, index, End::Both);
        }
    }

    /// Listens for a vNIC.
    pub(crate) fn listen(&mut self, world: &mut World, forward: Forward) -> io::Result<()> {
        world.reserve(Flow::Listening).map_err(|_| io::Error::from(Errno::MFILE))?;
        let listens = self.try_listen(world, forward);
        if listens.is_err() {
            world.closed(Flow::Listening);
        }
        listens
    }

    fn try_listen(&mut self, world: &World, forward: Forward) -> io::Result<()> {
        let socket = super::forwards::bind(forward.listen, SocketType::STREAM)?;
        rustix::net::listen(&socket, 1024)?;
        let entry = self.listeners.vacant_entry();
        world.watch(&socket, Key::Listener(entry.key() as u32), EventFlags::IN)?;
        entry.insert(Listener { forward, socket: socket.into() });
        Ok(())
    }

    /// Whether it listens for exactly this.
    pub(crate) fn listens(&self, forward: &Forward) -> bool {
        self.listeners.iter().any(|(_, listener)| listener.forward == *forward)
    }

    /// Listens no longer where `gone` says so. What came by that ends.
    pub(crate) fn unlisten(&mut self, world: &mut World, gone: impl Fn(&Forward) -> bool) {
        self.listeners.retain(|index, listener| {
            let stays = !gone(&listener.forward);
            if !stays {
                world.timers.cancel(Key::Listener(index as u32));
                world.closed(Flow::Listening);
            }
            stays
        });
        self.end_if(world, |_, link| link.forward.as_ref().is_some_and(&gone));
    }

    /// Takes who has called.
    pub(crate) fn accept(&mut self, world: &mut World, index: usize) {
        let Some(listener) = self.listeners.get(index) else { return };
        let forward = listener.forward;
        for _ in 0..ACCEPTED {
            let Some(listener) = self.listeners.get(index) else { return };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match accept_with(&listener.socket, flags) {
                Ok(socket) => self.call(world, &forward, socket.into()),
                Err(Errno::AGAIN) => return,
                // Who has called has gone again; somebody else may be behind.
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(_) => return self.listen_later(world, index),
            }
        }
    }

    /// Leaves who calls waiting for a while: there is no descriptor for them, or no memory, and
    /// epoll would say at once that they are there still.
    fn listen_later(&mut self, world: &mut World, index: usize) {
        let (Some(listener), key) = (self.listeners.get(index), Key::Listener(index as u32)) else {
            return;
        };
        if world.rewatch(&listener.socket, key, EventFlags::empty()).is_ok() {
            world.timers.at(world.now + STARVED, key);
        }
    }

    /// The timer of a listener has come.
    pub(crate) fn listen_again(&mut self, world: &mut World, index: usize) {
        let (Some(listener), key) = (self.listeners.get(index), Key::Listener(index as u32)) else {
            return;
        };
        if world.rewatch(&listener.socket, key, EventFlags::IN).is_err() {
            world.timers.at(world.now + STARVED, key);
        }
    }

    fn call(&mut self, world: &mut World, forward: &Forward, socket: TcpStream) {
        // Who has gone again needs no answer.
        let Ok(peer) = socket.peer_addr() else { return };
        let most = world.limits.connections;
        let nic = world.nics.get(&forward.tag);
        let nic = nic.filter(|nic| nic.may_connect(Flow::Called, most));
        let Some(to) = nic.and_then(|nic| nic.target(forward)) else {
            return world.drop(forward.tag, Dropped::EgressLimit, 1);
        };
        let from = world.policy.caller(peer, to);
        let ends = Ends { tag: forward.tag, from, to: SocketAddr::new(to, forward.port) };
        let is_taken = self.by_ends.contains_key(&(ends.tag, ends.to, ends.from));
        if is_taken || world.reserve(Flow::Called).is_err() {
            return world.drop(forward.tag, Dropped::EgressLimit, 1);
        }
        let first = world.first_sequence(&ends, self.start);
        let tcp = Connection::to_guest(own_size(world, &ends), first, world.now);
        let link = Link::new(ends, socket.into(), tcp, 0);
        self.add(world, Link { forward: Some(*forward), ..link });
    }
}

/// Who is to hear that a connection has ended at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Nobody,
    Guest,
    Host,
    Both,
}

enum Turn {
    Waits,
    GoesOn,
    Over,
}

impl Link {
    fn new(ends: Ends, socket: OwnedFd, tcp: Connection, syn: u32) -> Self {
        let (is_readable, is_writable, is_queued) = (false, false, false);
        let socket = socket.into();
        let (is_starved, forward) = (false, None);
        Self { ends, socket, tcp, syn, forward, is_readable, is_writable, is_queued, is_starved }
    }

    /// Returns which vNIC has it, and on whose wish.
    fn whose(&self) -> (u16, Flow) {
        let flow = if self.forward.is_some() { Flow::Called } else { Flow::Own };
        (self.ends.tag, flow)
    }

    /// Does what can be done for it.
    fn service(&mut self, world: &mut World) -> io::Result<Turn> {
        if self.tcp.has_to_flush() && self.is_writable {
            self.flush(world.now)?;
        }
        if self.tcp.ends_host() {
            // Who has reset it meanwhile is found out by reading.
            shutdown(&self.socket, Shutdown::Write).ok();
        }
        let mut read = 0;
        loop {
            let more = self.read(world)?;
            self.send(world);
            read += more;
            if self.tcp.is_over() {
                return Ok(Turn::Over);
            }
            if world.blocked || read >= TURN {
                return Ok(Turn::GoesOn);
            }
            if more == 0 {
                return Ok(Turn::Waits);
            }
        }
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        let (mut outcome, socket) = (Ok(()), &self.socket);
        let is_writable = &mut self.is_writable;
        self.tcp.flush(now, |first, second| {
            let wanted = first.len() + second.len();
            let written = (&*socket).write_vectored(&[IoSlice::new(first), IoSlice::new(second)]);
            let written = written.unwrap_or_else(|error| {
                if error.kind() != io::ErrorKind::WouldBlock {
                    outcome = Err(error);
                }
                0
            });
            *is_writable = written == wanted;
            written
        });
        outcome
    }

    /// Reads what there is room for; returns how much.
    fn read(&mut self, world: &mut World) -> io::Result<usize> {
        self.is_starved = false;
        if !self.is_readable {
            return Ok(0);
        }
        let whose = self.whose();
        let (tcp, socket, now) = (&mut self.tcp, &self.socket, world.now);
        let outcome = world.purse(whose, |purse| {
            let room = tcp.room(purse)?;
            let outcome = (&*socket).read_vectored(&mut room.free());
            if let Ok(len) = outcome {
                room.filled(len);
            }
            Some(outcome)
        });
        match outcome {
            // What is on its way makes room once it has arrived; else nothing does.
            None => self.is_starved = self.tcp.waits_for_memory(),
            Some(Ok(0)) => {
                self.is_readable = false;
                self.tcp.host_ended(now);
            }
            Some(Ok(len)) => {
                self.tcp.heard(now);
                return Ok(len);
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_readable = false;
            }
            Some(Err(error)) => return Err(error),
        }
        Ok(0)
    }

    fn send(&mut self, world: &mut World) {
        let now = world.now;
        while let Some(outgoing) = self.tcp.next_segment(now) {
            let segment = tcp::Segment {
                source: self.ends.from.port(),
                destination: self.ends.to.port(),
                ..outgoing.segment
            };
            let mut head = [0; HEAD_LEN];
            let size = (outgoing.len, self.tcp.segment_size());
            let Ok(len) = compose::tcp_head(&mut head, &self.ends, &segment, size) else { return };
            let (first, second) = self.tcp.payload(&outgoing);
            if !world.send(self.ends.tag, &[&head[..len], first, second]) {
                return;
            }
            self.tcp.sent(&outgoing, now);
        }
    }
}

/// Returns the payload of a segment that a vNIC may send.
fn own_size(world: &World, ends: &Ends) -> u16 {
    let mtu = world.nics.get(&ends.tag).map_or(1500, |nic| nic.nic.mtu);
    let header = match ends.from {
        SocketAddr::V4(_) => ipv4::HEADER_LEN,
        SocketAddr::V6(_) => ipv6::HEADER_LEN,
    };
    mtu.saturating_sub((header + tcp::HEADER_LEN) as u16).max(88)
}

/// Refuses a segment.
fn refuse(world: &mut World, ends: &Ends, segment: &tcp::Segment, payload_len: usize) {
    if let Some(reset) = refusal(segment, payload_len) {
        reply(world, ends, &reset);
    }
}

fn reply(world: &mut World, ends: &Ends, segment: &tcp::Segment) {
    let (source, destination) = (ends.from.port(), ends.to.port());
    let segment = tcp::Segment { source, destination, ..*segment };
    let mut head = [0; HEAD_LEN];
    if let Ok(len) = compose::tcp_head(&mut head, ends, &segment, (0, 1)) {
        world.send(ends.tag, &[&head[..len]]);
    }
}
