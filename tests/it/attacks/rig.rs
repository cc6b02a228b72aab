//! A VMM without manners: its messages are written by hand, its memory table, rings and chains are
//! whatever an attack needs.

use crate::{
    driver::{Memory, NEXT, Ring, WRITE},
    frames::Echo,
    guest::{PLAIN, parse_mac},
};
use mvirt_net::proto::Nic;
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{MemfdFlags, memfd_create},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use std::{
    fs::File,
    io::{self, IoSlice, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::atomic::{Ordering, fence},
    time::Duration,
};
use vhost::vhost_user::message::{FrontendReq as Ask, VhostUserProtocolFeatures as Protocol};

pub(super) const INDIRECT_DESC: u64 = 1 << 28;
/// Ring number `n` is at `n * RING`: room for 2,048 entries.
const RING: u64 = 0x2_0000;
/// Where buffers may be: behind the rings of eight pairs.
pub(super) const BUFFERS: u64 = 16 * RING;
/// Regions of one message: as many as descriptors are taken with it.
const IN_TABLE: usize = 32;
/// Where a VMM says that it sees the guest's memory.
const USER: u64 = 1 << 40;

/// What a rig is to be.
#[derive(Clone)]
pub(super) struct Shape {
    pub(super) pairs: usize,
    /// Entries of each ring.
    pub(super) ring: u16,
    /// Octets of memory, in one region from 0 on.
    pub(super) memory: u64,
    pub(super) features: u64,
    /// More regions, address and octets, all of the beginning of the same file.
    pub(super) regions: Vec<(u64, u64)>,
    /// Of pages of 2 MiB, which were reserved.
    pub(super) large_pages: bool,
}

impl Shape {
    pub(super) fn new(features: u64) -> Self {
        Self {
            pairs: 1,
            ring: 256,
            memory: 32 << 20,
            features,
            regions: Vec::new(),
            large_pages: false,
        }
    }
}

/// A connection on which anything may be said.
pub(super) struct Voice(pub(super) UnixStream);

impl Voice {
    pub(super) fn dial(nic: &Nic) -> io::Result<Self> {
        let stream = UnixStream::connect(&nic.socket_path)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.set_write_timeout(Some(Duration::from_secs(2)))?;
        Ok(Self(stream))
    }

    /// Says something, with descriptors, and does not wait for an answer.
    pub(super) fn say(&self, ask: Ask, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send(ask, 1, payload, fds)
    }

    fn send(&self, ask: Ask, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let head = [ask as u32, flags, payload.len() as u32];
        let head: Vec<u8> = head.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut with = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(with.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let parts = [IoSlice::new(&head), IoSlice::new(payload)];
        sendmsg(&self.0, &parts, &mut with, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Says something with a descriptor of which the daemon has the last copy when it knows what it
    /// is for.
    pub(super) fn leave(&self, ask: Ask, payload: &[u8], fd: OwnedFd) -> io::Result<()> {
        let head = [ask as u32, 1, payload.len() as u32];
        let head: Vec<u8> = head.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut with = SendAncillaryBuffer::new(&mut space);
        let fds = [fd.as_fd()];
        assert!(with.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&self.0, &[IoSlice::new(&head[..1])], &mut with, SendFlags::NOSIGNAL)?;
        drop(fd);
        (&self.0).write_all(&[&head[1..], payload].concat())
    }

    /// The payload of the next answer.
    pub(super) fn hear(&self) -> io::Result<Vec<u8>> {
        let mut head = [0; 12];
        (&self.0).read_exact(&mut head)?;
        let mut payload = vec![0; usize::from(head[8]) + 256 * usize::from(head[9])];
        (&self.0).read_exact(&mut payload)?;
        Ok(payload)
    }

    pub(super) fn ask(&self, ask: Ask, payload: &[u8]) -> io::Result<Vec<u8>> {
        self.say(ask, payload, &[])?;
        self.hear()
    }

    /// Says something, and waits until it is done.
    pub(super) fn tell(&self, ask: Ask, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        // NEED_REPLY
        self.send(ask, 1 | 8, payload, fds)?;
        match self.hear()?[..] {
            [0, ..] => Ok(()),
            _ => Err(io::Error::other("refused")),
        }
    }

    /// Features, and that requests are acknowledged.
    pub(super) fn greet(&self, features: u64) -> io::Result<()> {
        self.say(Ask::SET_OWNER, &[], &[])?;
        self.ask(Ask::GET_FEATURES, &[])?;
        self.ask(Ask::GET_PROTOCOL_FEATURES, &[])?;
        let protocol = Protocol::REPLY_ACK
            | Protocol::MQ
            | Protocol::BACKEND_REQ
            | Protocol::CONFIGURE_MEM_SLOTS
            | Protocol::LOG_SHMFD;
        self.say(Ask::SET_PROTOCOL_FEATURES, &protocol.bits().to_ne_bytes(), &[])?;
        self.tell(Ask::SET_FEATURES, &features.to_ne_bytes(), &[])
    }

    /// Shares regions, addresses and octets, all of the beginning of a file.
    pub(super) fn share(&self, file: &File, regions: &[(u64, u64)]) -> io::Result<()> {
        let region =
            |(at, len): &(u64, u64)| [*at, *len, USER + at, 0].map(u64::to_ne_bytes).concat();
        let (table, more) = regions.split_at(regions.len().min(IN_TABLE));
        let count = words([table.len() as u32, 0]);
        let payload = count.into_iter().chain(table.iter().flat_map(region)).collect::<Vec<_>>();
        self.tell(Ask::SET_MEM_TABLE, &payload, &vec![file.as_fd(); table.len()])?;
        more.iter().try_for_each(|more| {
            let payload = [vec![0; 8], region(more)].concat();
            self.tell(Ask::ADD_MEM_REG, &payload, &[file.as_fd()])
        })
    }
}

pub(super) fn words<const N: usize>(words: [u32; N]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A guest with any number of rings, each of which has one chain that is offered again and again.
pub(super) struct Rig {
    pub(super) voice: Voice,
    pub(super) memory: Memory,
    shape: Shape,
    /// By ring: receive, transmit, receive, …
    pub(super) kicks: Vec<OwnedFd>,
    pub(super) calls: Vec<OwnedFd>,
    posted: Vec<u16>,
}

impl Rig {
    /// Connects and starts all rings; an error says that the daemon hung up.
    pub(super) fn up(nic: &Nic, shape: &Shape) -> io::Result<Self> {
        let rig = Self::greeted(nic, shape)?;
        rig.share()?;
        rig.start()?;
        Ok(rig)
    }

    /// With buffers, and requests for the gateway to be sent, of which [`Self::keep`] sends some.
    pub(super) fn asking(nic: &Nic) -> io::Result<Self> {
        let mut rig = Self::up(nic, &Shape::new(PLAIN))?;
        rig.swallow();
        let from = nic.ipv4_address.parse().unwrap();
        let request = Echo::request(from, "169.254.0.1".parse().unwrap());
        let request = rig.put(BUFFERS, [0; 12], &request.frame(parse_mac(&nic.mac_address)));
        rig.chain(1, &[request]);
        Ok(rig)
    }

    /// Up to, and without, the memory table.
    pub(super) fn greeted(nic: &Nic, shape: &Shape) -> io::Result<Self> {
        let large = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        let pages = if shape.large_pages { large } else { MemfdFlags::empty() };
        let file = memfd_create("evil", MemfdFlags::CLOEXEC | pages)?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let bells = || (0..2 * shape.pairs).map(|_| Ok(eventfd(0, flags)?));
        let rig = Self {
            voice: Voice::dial(nic)?,
            memory: Memory::of(file.into(), shape.memory),
            shape: shape.clone(),
            kicks: bells().collect::<io::Result<_>>()?,
            calls: bells().collect::<io::Result<_>>()?,
            posted: vec![0; 2 * shape.pairs],
        };
        rig.voice.greet(shape.features)?;
        Ok(rig)
    }

    pub(super) fn share(&self) -> io::Result<()> {
        let regions = [&[(0, self.shape.memory)][..], &self.shape.regions].concat();
        self.voice.share(&self.memory.file, &regions)
    }

    pub(super) fn start(&self) -> io::Result<()> {
        (0..2 * self.shape.pairs).try_for_each(|ring| self.start_ring(ring))?;
        (0..2 * self.shape.pairs as u32)
            .try_for_each(|ring| self.voice.tell(Ask::SET_VRING_ENABLE, &words([ring, 1]), &[]))
    }

    fn start_ring(&self, ring: usize) -> io::Result<()> {
        let (voice, number) = (&self.voice, ring as u32);
        voice.tell(Ask::SET_VRING_NUM, &words([number, self.shape.ring.into()]), &[])?;
        let Ring { descriptors, available, used, .. } = self.ring(ring);
        let places = [USER + descriptors, USER + used, USER + available, 0];
        let places = places.map(u64::to_ne_bytes).concat();
        let payload = [words([number, 0]), places].concat();
        voice.tell(Ask::SET_VRING_ADDR, &payload, &[])?;
        voice.tell(Ask::SET_VRING_BASE, &words([number, self.posted[ring].into()]), &[])?;
        let index = (ring as u64).to_ne_bytes();
        voice.tell(Ask::SET_VRING_CALL, &index, &[self.calls[ring].as_fd()])?;
        voice.tell(Ask::SET_VRING_KICK, &index, &[self.kicks[ring].as_fd()])
    }

    /// Makes `chain`, of addresses and octets, the one of a ring, for all of its entries.
    pub(super) fn chain(&self, ring: usize, chain: &[(u64, u32)]) {
        let write = if ring.is_multiple_of(2) { WRITE } else { 0 };
        for (at, (address, len)) in chain.iter().enumerate() {
            let next = if at + 1 < chain.len() { NEXT } else { 0 };
            self.describe(ring, at as u16, (*address, *len), write | next, at as u16 + 1);
        }
        (0..self.shape.ring).for_each(|entry| self.offer(ring, entry, 0));
    }

    /// Writes a descriptor.
    pub(super) fn describe(
        &self,
        ring: usize,
        slot: u16,
        buffer: (u64, u32),
        flags: u16,
        next: u16,
    ) {
        self.memory.describe(self.ring(ring), slot, buffer, flags, next);
    }

    /// Makes a buffer to receive into one of the chains of the first ring.
    pub(super) fn receive_into(&self, slot: u16, buffer: (u64, u32)) {
        self.describe(0, slot, buffer, WRITE, 0);
        self.offer(0, slot, slot);
    }

    /// Writes an entry of the available ring, without showing it.
    pub(super) fn offer(&self, ring: usize, entry: u16, head: u16) {
        self.memory.list(self.ring(ring), entry, head);
    }

    /// Offers the chain of a ring so often that `depth` wait, and kicks. Says how many more that
    /// were.
    pub(super) fn keep(&mut self, ring: usize, depth: u16) -> u16 {
        let more = depth.saturating_sub(self.waiting(ring));
        self.post(ring, more);
        more
    }

    /// Shows the daemon so many more entries.
    pub(super) fn show(&mut self, ring: usize, more: u16) {
        self.posted[ring] = self.posted[ring].wrapping_add(more);
        self.memory.show(self.ring(ring), self.posted[ring]);
        fence(Ordering::SeqCst);
    }

    /// As [`Self::show`], and kicks.
    pub(super) fn post(&mut self, ring: usize, more: u16) {
        self.show(ring, more);
        if more > 0 {
            // The daemon has gone, perhaps.
            rustix::io::write(&self.kicks[ring], &1_u64.to_ne_bytes()).ok();
        }
    }

    /// Entries that the daemon has not used yet.
    pub(super) fn waiting(&self, ring: usize) -> u16 {
        self.posted[ring].wrapping_sub(self.used(ring))
    }

    pub(super) fn used(&self, ring: usize) -> u16 {
        self.memory.used(self.ring(ring))
    }

    fn ring(&self, number: usize) -> Ring {
        Ring::at(number as u64 * RING, self.shape.ring, BUFFERS)
    }

    /// Puts a frame, with its header, at an address.
    pub(super) fn put(&self, address: u64, header: [u8; 12], frame: &[u8]) -> (u64, u32) {
        let octets = [&header[..], frame].concat();
        self.memory.write(address, &octets);
        (address, octets.len() as u32)
    }

    /// Receive buffers of 64 KiB, all the same, for every queue; as many as there are entries.
    pub(super) fn swallow(&mut self) {
        for pair in 0..self.shape.pairs {
            self.chain(2 * pair, &[(BUFFERS + (1 << 20), 65_562)]);
            self.keep(2 * pair, self.shape.ring);
        }
    }
}
