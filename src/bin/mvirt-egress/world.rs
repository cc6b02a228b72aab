//! What all kinds of sockets need: the way to vNICs, what these may have and have had, timers, and
//! epoll.

use super::timers::{Key, Timers};
use mvirt_net::{
    egress::{
        buffer::{Memory, Purse},
        compose::{self, Ends, Unreachable},
        policy::{Policy, Way},
        protocol::{Configuration, Dropped, Forward, Limits, Nic, NicStats, SEGMENT_TAG, Segment},
        segment::Front,
    },
    wire::vnet,
};
use rustix::{
    event::epoll::{self, EventData, EventFlags},
    fs::{OFlags, fcntl_setfl},
    io::{Errno, write, writev},
    net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with},
    process::{Resource, getrlimit},
};
use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher as _, RandomState},
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

/// Descriptors that no flow gets: for what this process has besides, who is turned away among it.
const RESERVE: u64 = 64;
/// As many of them are for forwards that are asked for while flows have taken the rest.
const RESERVE_FORWARDS: u64 = 32;

/// What a descriptor is for, and on whose wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// What a vNIC has asked for.
    Own,
    /// Who has called it by a forward. What strangers do must not cost it what it may have.
    Called,
    /// A forward itself.
    Listening,
}

/// A vNIC, and what was carried for it.
#[derive(Debug)]
pub(crate) struct NicState {
    pub(crate) nic: Nic,
    pub(crate) stats: NicStats,
    /// Whether they have changed since they were told.
    pub(crate) is_news: bool,
    /// Of its connections, those that came by forwards.
    called: u32,
    /// What its own connections take, and those that came by forwards.
    memory: u64,
    memory_called: u64,
}

impl NicState {
    /// Whether it may send from an address.
    fn owns(&self, address: IpAddr) -> bool {
        let Nic { ipv4, ipv6, prefixes, .. } = &self.nic;
        ipv4.is_some_and(|own| address == IpAddr::V4(own))
            || ipv6.is_some_and(|own| address == IpAddr::V6(own))
            || prefixes.iter().any(|prefix| prefix.contains(&address))
    }

    /// Whether it may have one more connection of that kind, of so many each.
    pub(crate) fn may_connect(&self, flow: Flow, most: u32) -> bool {
        let open = match flow {
            Flow::Called => self.called,
            Flow::Own | Flow::Listening => self.stats.connections.saturating_sub(self.called),
        };
        open < most
    }

    /// Returns where a forward leads.
    pub(crate) fn target(&self, forward: &Forward) -> Option<IpAddr> {
        let own = match forward.listen {
            SocketAddr::V4(_) => self.nic.ipv4.map(IpAddr::V4),
            SocketAddr::V6(_) => self.nic.ipv6.map(IpAddr::V6),
        };
        forward.host.filter(|host| self.owns(*host)).or(own)
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) epoll: OwnedFd,
    pub(crate) packets: OwnedFd,
    /// Where that carries frames of a segment.
    pub(crate) front: Option<Front>,
    /// The socket of packets took no more; epoll will say when it does.
    pub(crate) blocked: bool,
    pub(crate) nics: HashMap<u16, NicState>,
    /// Packets of no vNIC, by reason.
    pub(crate) dropped: BTreeMap<Dropped, u64>,
    pub(crate) policy: Policy,
    pub(crate) limits: Limits,
    memory: Memory,
    pub(crate) timers: Timers,
    pub(crate) now: Instant,
    secret: RandomState,
    identification: u32,
    /// Descriptors of flows, those of callers among them, and how many there may be.
    flows: u64,
    called: u64,
    most_flows: u64,
    stats_due: bool,
}

/// Why no socket was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Nobody may go there.
    Denied,
    /// There are too many, or no memory for one more.
    Limit,
    /// The system says no.
    Error(Errno),
}

impl World {
    pub(crate) fn new(configuration: &Configuration, packets: OwnedFd) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        fcntl_setfl(&packets, OFlags::NONBLOCK)?;
        let now = Instant::now();
        let segment = configuration.segment.clone();
        let limits = segment.as_ref().map_or(configuration.limits, |_| Segment::limits());
        let mut world = Self {
            epoll,
            packets,
            front: segment.map(|segment| Front::new(*segment, now)),
            blocked: false,
            nics: HashMap::new(),
            dropped: BTreeMap::new(),
            policy: Policy::new(configuration),
            limits,
            memory: Memory::new(limits.memory),
            timers: Timers::default(),
            now,
            secret: RandomState::new(),
            identification: 0,
            flows: 0,
            called: 0,
            most_flows: getrlimit(Resource::Nofile).current.unwrap_or(1024).saturating_sub(RESERVE),
            stats_due: false,
        };
        let events = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        world.watch(&world.packets, Key::Packets, events)?;
        world.announce();
        Ok(world)
    }

    /// Has epoll tell of a descriptor, until that is closed.
    pub(crate) fn watch(&self, fd: impl AsFd, key: Key, events: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(key.encode()), events)?)
    }

    /// Has epoll tell of other events of a descriptor that it tells of.
    pub(crate) fn rewatch(&self, fd: impl AsFd, key: Key, events: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(key.encode()), events)?)
    }

    /// Returns how many descriptors flows may have.
    pub(crate) fn most_flows(&self) -> u64 {
        self.most_flows
    }

    /// Adds a vNIC, or changes it. Its counters go on.
    pub(crate) fn add_nic(&mut self, nic: Nic) {
        let stats = NicStats { tag: nic.tag, ..NicStats::default() };
        match self.nics.get_mut(&nic.tag) {
            Some(state) => state.nic = nic,
            None => {
                let (is_news, called, memory, memory_called) = (false, 0, 0, 0);
                let state = NicState { nic, stats, is_news, called, memory, memory_called };
                self.nics.insert(state.nic.tag, state);
            }
        }
    }

    /// Takes a vNIC's addresses away.
    pub(crate) fn forget_addresses(&mut self, tag: u16) {
        if let Some(state) = self.nics.get_mut(&tag) {
            (state.nic.ipv4, state.nic.ipv6) = (None, None);
            state.nic.prefixes.clear();
        }
    }

    /// Whether a vNIC has an address.
    pub(crate) fn owns(&self, tag: u16, address: IpAddr) -> bool {
        self.nics.get(&tag).is_some_and(|nic| nic.owns(address))
    }

    /// Returns what a vNIC has had, to be changed.
    pub(crate) fn stats(&mut self, tag: u16) -> Option<&mut NicStats> {
        if !self.nics.contains_key(&tag) {
            return None;
        }
        self.tell_soon();
        let state = self.nics.get_mut(&tag)?;
        state.is_news = true;
        Some(&mut state.stats)
    }

    /// Has the timer of the counters come.
    pub(crate) fn tell_soon(&mut self) {
        if !self.stats_due {
            self.stats_due = true;
            let soon = self.now + std::time::Duration::from_secs(1);
            self.timers.at(soon, Key::Stats);
        }
    }

    /// The timer of the counters has come. Returns those that have changed since they were told.
    pub(crate) fn news(&mut self) -> Vec<NicStats> {
        self.stats_due = false;
        let news = self.nics.values().filter(|nic| nic.is_news);
        news.map(|nic| nic.stats.clone()).collect()
    }

    /// The daemon was told these counters.
    pub(crate) fn told(&mut self, stats: &[NicStats]) {
        for told in stats {
            if let Some(nic) = self.nics.get_mut(&told.tag) {
                nic.is_news = false;
            }
        }
    }

    /// Counts packets that went nowhere.
    pub(crate) fn drop(&mut self, tag: u16, reason: Dropped, count: u64) {
        if count == 0 {
            return;
        }
        match self.stats(tag) {
            Some(stats) => *stats.dropped.entry(reason).or_default() += count,
            None => self.drop_of_nobody(reason, count),
        }
    }

    /// Counts packets of no vNIC that went nowhere.
    pub(crate) fn drop_of_nobody(&mut self, reason: Dropped, count: u64) {
        *self.dropped.entry(reason).or_default() += count;
        self.tell_soon();
    }

    /// Counts connections of a vNIC: one more, or one less.
    pub(crate) fn count_connection(&mut self, tag: u16, flow: Flow, by: i32) {
        let Some(stats) = self.stats(tag) else { return };
        stats.connections = stats.connections.saturating_add_signed(by);
        if flow == Flow::Called
            && let Some(nic) = self.nics.get_mut(&tag)
        {
            nic.called = nic.called.saturating_add_signed(by);
        }
    }

    /// Calls `what` with the memory that connections of a vNIC take from.
    pub(crate) fn purse<R>(
        &mut self,
        (tag, flow): (u16, Flow),
        what: impl FnOnce(&mut Purse<'_>) -> R,
    ) -> R {
        // One that has gone gives back what it had; it takes nothing any more.
        let mut none = 0;
        let of_nic = self.nics.get_mut(&tag).map_or(&mut none, |nic| match flow {
            Flow::Called => &mut nic.memory_called,
            Flow::Own | Flow::Listening => &mut nic.memory,
        });
        what(&mut Purse { memory: &mut self.memory, of_nic })
    }

    /// Returns a sequence number that nobody can guess, and that is ahead of the last one between
    /// the same ends (RFC 6528).
    pub(crate) fn first_sequence(&self, ends: &Ends, start: Instant) -> u32 {
        let hash = self.secret.hash_one((ends.tag, ends.from, ends.to)) as u32;
        let ticks = self.now.duration_since(start).as_micros() / 4;
        hash.wrapping_add(ticks as u32)
    }

    /// Returns what joins the fragments of the next packet.
    pub(crate) fn identification(&mut self) -> u32 {
        self.identification = self.identification.wrapping_add(1);
        self.identification
    }

    /// Sends a message to a vNIC. Returns whether the socket took it.
    pub(crate) fn send(&mut self, tag: u16, parts: &[&[u8]]) -> bool {
        let written = match &mut self.front {
            None => {
                let mut slices = [IoSlice::new(&[]); 3];
                slices.iter_mut().zip(parts).for_each(|(to, part)| *to = IoSlice::new(part));
                writev(&self.packets, &slices)
            }
            Some(front) => match front.frame(parts, self.now) {
                Some(frame) => write(&self.packets, frame),
                // It waits until its host has said where it is.
                None => {
                    self.send_frames();
                    return true;
                }
            },
        };
        match written {
            Ok(_) => {
                let len = parts.iter().map(|part| part.len()).sum::<usize>();
                if let Some(stats) = self.stats(tag) {
                    stats.packets_in += 1;
                    stats.octets_in += (len - vnet::HEADER_LEN) as u64;
                }
                true
            }
            Err(error) => {
                // For others there is no event; what is lost by them is sent again, or was to be
                // lost.
                self.blocked |= error == Errno::AGAIN;
                false
            }
        }
    }

    /// Sends what the gateway of a segment has to say.
    pub(crate) fn send_frames(&mut self) {
        let Some(front) = &mut self.front else { return };
        let mut lost = 0;
        while let Some(frame) = front.next_frame() {
            lost += u64::from(write(&self.packets, &frame).is_err());
        }
        self.drop(SEGMENT_TAG, Dropped::GuestFull, lost);
    }

    /// Has the gateway of a segment say what it says by itself, now and whenever it is due again.
    pub(crate) fn announce(&mut self) {
        let Some(front) = &mut self.front else { return };
        front.expire(self.now);
        if let Some(deadline) = front.deadline() {
            self.timers.at(deadline, Key::Segment);
        }
        self.send_frames();
    }

    /// Sends messages that stand one behind the other, with their lengths.
    pub(crate) fn send_all(&mut self, tag: u16, octets: &[u8], lens: &[usize]) {
        let mut rest = octets;
        for len in lens {
            let (message, next) = rest.split_at(*len);
            rest = next;
            if !self.send(tag, &[message]) {
                self.drop(tag, Dropped::GuestFull, 1);
            }
        }
    }

    /// Tells a vNIC why its packet went nowhere, where it is to know; and counts it.
    pub(crate) fn unreachable(&mut self, ends: &Ends, error: Errno, packet: &[u8]) {
        let what = match error {
            Errno::NETUNREACH => Unreachable::Network,
            Errno::CONNREFUSED => Unreachable::Port,
            _ => Unreachable::Host,
        };
        let mut message = [0; 1500];
        if let Ok(len) = compose::unreachable(&mut message, ends, what, packet) {
            self.send(ends.tag, &[&message[..len]]);
        }
    }

    /// Returns the address of a socket for a destination, unless vNICs may not go there.
    pub(crate) fn way(&self, destination: SocketAddr) -> Result<SocketAddr, Refused> {
        match self.policy.way(destination) {
            Way::To(to) | Way::Resolver(to) => Ok(to),
            Way::Denied => Err(Refused::Denied),
            Way::UnlessHost(to) => match is_host(to) {
                Ok(false) => Ok(to),
                Ok(true) => Err(Refused::Denied),
                Err(error) => Err(Refused::Error(error)),
            },
        }
    }

    /// Makes the socket of a flow.
    pub(crate) fn socket(
        &mut self,
        like: IpAddr,
        kind: SocketType,
        protocol: Option<rustix::net::Protocol>,
    ) -> Result<OwnedFd, Refused> {
        self.reserve(Flow::Own)?;
        let made = socket(like, kind, protocol);
        if made.is_err() {
            self.closed(Flow::Own);
        }
        made.map_err(|error| match error {
            Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => Refused::Limit,
            error => Refused::Error(error),
        })
    }

    /// Counts a descriptor more, unless there are as many as there may be. Of all that flows may
    /// have, callers get half.
    pub(crate) fn reserve(&mut self, flow: Flow) -> Result<(), Refused> {
        let most = self.most_flows;
        let may = match flow {
            Flow::Own => self.flows < most,
            Flow::Called => self.flows < most && self.called < most.div_ceil(2),
            Flow::Listening => self.flows < most + RESERVE_FORWARDS,
        };
        if !may {
            return Err(Refused::Limit);
        }
        self.flows += 1;
        self.called += u64::from(flow == Flow::Called);
        Ok(())
    }

    /// A descriptor has been closed.
    pub(crate) fn closed(&mut self, flow: Flow) {
        self.flows -= 1;
        self.called -= u64::from(flow == Flow::Called);
    }
}

/// Makes a socket that never waits.
pub(crate) fn socket(
    like: IpAddr,
    kind: SocketType,
    protocol: Option<rustix::net::Protocol>,
) -> Result<OwnedFd, Errno> {
    let family = if like.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, protocol)
}

/// Whether an address is one of this host: a socket can be bound to it, or from there to there the
/// kernel would choose the same address.
// Neither is enough alone: to a second address of a subnet one goes from the first; and what a
// route alone makes the host's, nobody may bind to.
fn is_host(to: SocketAddr) -> Result<bool, Errno> {
    let probe = socket(to.ip(), SocketType::DGRAM, None)?;
    match bind(&probe, &SocketAddr::new(to.ip(), 0)) {
        Ok(()) => return Ok(true),
        Err(Errno::ADDRNOTAVAIL) => {}
        Err(error) => return Err(error),
    }
    // Of datagrams, nothing is sent by that.
    connect(&probe, &to)?;
    let own = UdpSocket::from(probe).local_addr();
    Ok(own.is_ok_and(|own| own.ip() == to.ip()))
}
