//! The loop: packets of vNICs, sockets, timers, and what the daemon says.
//!
//! ```text
//! packets ─▶ take ─▶ connections, datagrams ─▶ sockets
//!                        │ turns
//! packets ◀──────────────┘◀────────────────── sockets
//! ```

use super::{
    connections::Connections,
    control::{Control, Said},
    datagrams::{Datagrams, Kind, echo_request},
    timers::Key,
    world::World,
};
use mvirt_net::egress::{
    fragments::{Fragments, Outcome},
    packet::{self, Body, Packet, Transport},
    protocol::{
        Addition, Dropped, Failure, Forward, Order, Protocol, Removal, Report, SEGMENT_TAG, Stats,
    },
    segment::Taken,
};
use mvirt_net::wire::vnet::Offload;
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, EventFlags},
    },
    io::{Errno, read},
};
use std::{io, net::SocketAddr, time::Instant};

/// Octets of the longest message, and one more by which a longer one is found out.
const BUFFER: usize = 14 + 65_535 + 1;
/// Packets taken before sockets have their turn.
const TURN: usize = 128;
/// vNICs in one report: 64 KiB, were all of their counters in use.
const REPORTED: usize = 96;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Engine<'a> {
    world: World,
    control: &'a mut Control,
    connections: Connections,
    udp: Datagrams,
    echo: Datagrams,
    fragments: Fragments,
    buffer: Vec<u8>,
    /// There may be more packets than were taken.
    has_packets: bool,
}

impl<'a> Engine<'a> {
    pub(crate) fn new(
        mut world: World,
        control: &'a mut Control,
        first: Addition,
    ) -> io::Result<Self> {
        world.now = Instant::now();
        world.watch(control.socket(), Key::Control, EventFlags::IN)?;
        let mut engine = Self {
            connections: Connections::new(world.now),
            world,
            control,
            udp: Datagrams::new(Kind::Udp),
            echo: Datagrams::new(Kind::Echo),
            fragments: Fragments::default(),
            buffer: vec![0; BUFFER],
            has_packets: true,
        };
        engine.add(first);
        Ok(engine)
    }

    /// Says something to the daemon.
    pub(crate) fn report(&mut self, report: &Report) {
        self.control.send(report);
    }

    /// Carries until the daemon says no more.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(256);
        let mut is_busy = true;
        loop {
            self.wait(&mut events, is_busy)?;
            self.world.now = Instant::now();
            for event in events.drain(..) {
                let flags = event.flags;
                match Key::decode(event.data.u64()) {
                    Key::Packets => {
                        self.has_packets |= flags.contains(EventFlags::IN);
                        self.world.blocked &= !flags.contains(EventFlags::OUT);
                    }
                    Key::Control => {
                        if !self.hear()? {
                            return Ok(());
                        }
                    }
                    Key::Tcp(index) => {
                        self.connections.event(&mut self.world, index as usize, flags);
                    }
                    Key::Udp(index) => self.udp.event(&mut self.world, index as usize),
                    Key::Echo(index) => self.echo.event(&mut self.world, index as usize),
                    Key::Listener(index) => {
                        self.connections.accept(&mut self.world, index as usize);
                    }
                    Key::Fragments | Key::Stats | Key::Segment => {}
                }
            }
            self.take_packets();
            self.expire();
            let has_turns = self.connections.run(&mut self.world);
            is_busy = has_turns || self.has_packets;
        }
    }

    fn wait(&self, events: &mut Vec<epoll::Event>, is_busy: bool) -> io::Result<()> {
        let timeout = match self.world.timers.next() {
            _ if is_busy => Some(Timespec::default()),
            None => None,
            Some(time) => {
                let left = time.saturating_duration_since(Instant::now());
                Some(left.try_into().map_err(io::Error::other)?)
            }
        };
        match epoll::wait(&self.world.epoll, spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn take_packets(&mut self) {
        for _ in 0..TURN {
            if !self.has_packets {
                return;
            }
            // An end comes as a message of nothing. What will be, epoll tells.
            let received = read(&self.world.packets, &mut self.buffer[..]).unwrap_or(0);
            if received == 0 {
                self.has_packets = false;
                return;
            }
            let buffer = std::mem::take(&mut self.buffer);
            match self.world.front {
                None => self.take(&buffer[..received]),
                Some(_) => self.take_frame(&buffer[..received]),
            }
            self.buffer = buffer;
        }
    }

    /// Takes a message of the socket of packets.
    fn take(&mut self, message: &[u8]) {
        let (tag, offload, octets) = match packet::split(message) {
            Ok(split) => split,
            Err(reason) => return self.world.drop_of_nobody(reason, 1),
        };
        if !self.world.nics.contains_key(&tag) {
            return self.world.drop(tag, Dropped::UnknownTag, 1);
        }
        self.take_packet(tag, offload, octets);
    }

    /// Takes a frame of a segment.
    fn take_frame(&mut self, frame: &[u8]) {
        let Some(front) = &mut self.world.front else { return };
        let taken = front.take(frame, self.world.now);
        self.world.send_frames();
        match taken {
            Ok(Taken::Packet(packet)) => self.take_packet(SEGMENT_TAG, Offload::None, packet),
            Ok(Taken::Done) => {}
            Err(reason) => self.world.drop(SEGMENT_TAG, reason, 1),
        }
    }

    fn take_packet(&mut self, tag: u16, offload: Offload, octets: &[u8]) {
        if let Some(stats) = self.world.stats(tag) {
            stats.packets_out += 1;
            stats.octets_out += octets.len() as u64;
        }
        let parsed = Packet::parse(tag, offload, octets);
        let outcome = parsed.and_then(|packet| match packet.body {
            _ if !self.world.owns(tag, packet.source) => Err(Dropped::SpoofedSource),
            Body::Whole(body) => self.carry(&packet, body),
            Body::Fragment { .. } => {
                self.join(&packet);
                Ok(())
            }
        });
        if let Err(reason) = outcome {
            self.world.drop(tag, reason, 1);
        }
    }

    fn join(&mut self, packet: &Packet<'_>) {
        match self.fragments.take(packet, self.world.now) {
            Outcome::Waits(gone) => {
                self.world.drop(packet.tag, Dropped::Fragment, gone);
                if let Some(deadline) = self.fragments.deadline() {
                    self.world.timers.at(deadline, Key::Fragments);
                }
            }
            Outcome::Dropped(gone) => self.world.drop(packet.tag, Dropped::Fragment, gone),
            Outcome::Whole(body) => {
                if let Err(reason) = self.carry(packet, &body) {
                    self.world.drop(packet.tag, reason, 1);
                }
            }
        }
    }

    fn carry(&mut self, packet: &Packet<'_>, body: &[u8]) -> Result<(), Dropped> {
        let world = &mut self.world;
        match packet.transport(body)? {
            Transport::Tcp(segment, payload) => {
                self.connections.take(world, packet, &segment, payload);
            }
            Transport::Udp { source, destination, payload, size } => {
                self.udp.take(world, packet, (source, destination), (payload, size));
            }
            Transport::Echo { identifier, sequence, payload } => {
                // One that came in fragments, for the gateway of the segment.
                if let Some(front) = &mut world.front
                    && front.is_own(packet.destination)
                {
                    front.pong(packet, (identifier, sequence, payload), world.now);
                    world.send_frames();
                    return Ok(());
                }
                let request = echo_request(packet.source, sequence, payload);
                let size = request.len();
                self.echo.take(world, packet, (identifier, 0), (&request, size));
            }
        }
        Ok(())
    }

    fn expire(&mut self) {
        while let Some(key) = self.world.timers.due(self.world.now) {
            match key {
                Key::Tcp(index) => self.connections.timer(&mut self.world, index as usize),
                Key::Udp(index) => self.udp.timer(&mut self.world, index as usize),
                Key::Echo(index) => self.echo.timer(&mut self.world, index as usize),
                Key::Stats => self.tell(),
                Key::Segment => self.world.announce(),
                Key::Fragments => {
                    for (tag, gone) in self.fragments.expire(self.world.now) {
                        self.world.drop(tag, Dropped::Fragment, gone);
                    }
                    if let Some(deadline) = self.fragments.deadline() {
                        self.world.timers.at(deadline, Key::Fragments);
                    }
                }
                Key::Listener(index) => {
                    self.connections.listen_again(&mut self.world, index as usize);
                }
                Key::Packets | Key::Control => {}
            }
        }
    }

    /// Tells the daemon what was carried.
    fn tell(&mut self) {
        let news = self.world.news();
        let mut rest = &news[..];
        // One report at least: of packets that no vNIC has sent there may be news, too.
        loop {
            let (nics, more) = rest.split_at(rest.len().min(REPORTED));
            let stats = Stats { nics: nics.to_vec(), dropped: self.world.dropped.clone() };
            if !self.control.send(&Report::Stats { stats }) {
                // What it has not been told is news still.
                return self.world.tell_soon();
            }
            self.world.told(nics);
            rest = more;
            if rest.is_empty() {
                return;
            }
        }
    }

    /// Takes what the daemon says. Returns whether it will say more.
    fn hear(&mut self) -> io::Result<bool> {
        match self.control.receive()? {
            Said::Nothing => {}
            Said::Goodbye => return Ok(false),
            Said::Order(Order::Add(addition)) => self.add(addition),
            Said::Order(Order::Remove(removal)) => self.remove(&removal),
            Said::Order(Order::Resolver(resolver)) => self.world.policy.set_resolver(resolver),
            Said::Order(Order::Tell {}) => self.tell(),
        }
        Ok(true)
    }

    fn add(&mut self, addition: Addition) {
        if !addition.deny.is_empty() {
            self.world.policy.deny(addition.deny);
            self.connections.end_denied(&mut self.world);
        }
        for nic in addition.nics {
            let tag = nic.tag;
            self.world.add_nic(nic);
            self.retain(tag);
        }
        for forward in addition.forwards {
            // Who is connected by one that is told again does not notice.
            if self.listens(&forward) {
                continue;
            }
            let same = |other: &Forward| {
                (other.listen, other.protocol) == (forward.listen, forward.protocol)
            };
            self.unlisten(same);
            if let Err(error) = self.listen(forward) {
                let (listen, protocol) = (forward.listen, forward.protocol);
                let (errno, error) = (error.raw_os_error(), error.to_string());
                let failure = Failure::Forward { listen, protocol, error, errno };
                self.control.send(&Report::Failed(failure));
            }
        }
    }

    /// Whether it listens for this forward already, and for the address that its vNIC has now.
    fn listens(&self, forward: &Forward) -> bool {
        self.target(forward).is_some_and(|guest| match forward.protocol {
            Protocol::Tcp => self.connections.listens(forward),
            Protocol::Udp => self.udp.listens(guest, forward),
        })
    }

    fn listen(&mut self, forward: Forward) -> io::Result<()> {
        let guest = self.target(&forward).ok_or_else(|| {
            io::Error::other("the vNIC has no address of that family, or is not there")
        })?;
        match forward.protocol {
            Protocol::Tcp => self.connections.listen(&mut self.world, forward),
            Protocol::Udp => self.udp.listen(&mut self.world, guest, forward),
        }
    }

    /// Returns where a forward leads.
    fn target(&self, forward: &Forward) -> Option<SocketAddr> {
        let address = self.world.nics.get(&forward.tag)?.target(forward)?;
        Some(SocketAddr::new(address, forward.port))
    }

    fn unlisten(&mut self, gone: impl Fn(&Forward) -> bool) {
        self.connections.unlisten(&mut self.world, &gone);
        self.udp.unlisten(&mut self.world, &gone);
    }

    fn remove(&mut self, removal: &Removal) {
        self.world.policy.deny_no_longer(&removal.deny);
        for listening in &removal.forwards {
            self.unlisten(|forward| {
                (forward.listen, forward.protocol) == (listening.listen, listening.protocol)
            });
        }
        for tag in &removal.nics {
            self.unlisten(|forward| forward.tag == *tag);
            self.world.forget_addresses(*tag);
            self.retain(*tag);
            self.world.nics.remove(tag);
        }
    }

    /// Ends what a vNIC has from addresses that it has no longer.
    fn retain(&mut self, tag: u16) {
        self.connections.retain(&mut self.world, tag);
        self.udp.retain(&mut self.world, tag);
        self.echo.retain(&mut self.world, tag);
    }
}
