//! A virtio-net device as its guest drives it: memory of its own, two split rings (virtio 1.2
//! §2.7), and the `vhost` crate's frontend to connect them to a vNIC.
//!
//! It negotiates no offload and no merged buffers: a frame is a buffer, whole and with its
//! checksums.

use crate::{Failure, nic as vnic};
use mvirt_net::proto::Nic;
use rustix::{
    fs::{MemfdFlags, memfd_create},
    net::{RecvFlags, recv},
};
use std::{
    fs::File,
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    sync::atomic::{Ordering, fence},
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::timeout,
};
use vhost::{
    VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData,
    vhost_user::{
        Frontend, VhostUserFrontend as _,
        message::{VhostUserHeaderFlag, VhostUserProtocolFeatures},
    },
};
use vm_memory::{
    Bytes as _, FileOffset, GuestAddress, GuestMemoryBackend as _, GuestMemoryError,
    GuestMemoryMmap,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

// VHOST_USER_F_PROTOCOL_FEATURES: of the protocol, not of the device.
const PROTOCOL_FEATURES: u64 = 1 << 30;
// VIRTIO_F_VERSION_1 (virtio 1.2 §6): without it the header is two octets shorter (§5.1.6.1).
const VERSION_1: u64 = 1 << 32;
/// Descriptors of a ring, and buffers.
// It divides 2^16, so indices that wrap still name the right entry (virtio 1.2 §2.7).
const RING: u16 = 256;
/// Octets of the virtio-net header (virtio 1.2 §5.1.6).
const HEADER: usize = mvirt_net::wire::vnet::HEADER_LEN;
const ETHERNET: usize = mvirt_net::wire::ethernet::HEADER_LEN;

// VIRTQ_DESC_F_WRITE (virtio 1.2 §2.7.5): the device writes to it.
const WRITABLE: u16 = 2;
// VIRTQ_USED_F_NO_NOTIFY (virtio 1.2 §2.7.8): no kick is wanted.
const NO_NOTIFY: u16 = 1;

/// Where the parts of a ring are in the guest's memory.
#[derive(Debug, Clone, Copy)]
struct Ring {
    base: u64,
    buffers: u64,
}

impl Ring {
    const DESCRIPTORS: u64 = 0;
    // Behind the descriptors, of 16 octets each.
    const AVAILABLE: u64 = 16 * RING as u64;
    // Flags, index, entries of 2 octets and an event are 518 octets; used rings are aligned to 4
    // (virtio 1.2 §2.7).
    const USED: u64 = Self::AVAILABLE + 1024;
    /// Octets of it all.
    // Whole pages: all of it takes 7174 octets.
    const LEN: u64 = 0x3000;

    fn descriptor(self, slot: u16) -> u64 {
        self.base + Self::DESCRIPTORS + 16 * u64::from(slot)
    }

    fn available(self, posted: u16) -> u64 {
        // Behind flags and index, of 2 octets each.
        self.base + Self::AVAILABLE + 4 + 2 * u64::from(posted % RING)
    }

    fn used(self, seen: u16) -> u64 {
        self.base + Self::USED + 4 + 8 * u64::from(seen % RING)
    }
}

/// A running device.
pub(crate) struct Device {
    memory: GuestMemoryMmap,
    file: File,
    frontend: Frontend,
    /// The frontend's connection, to see its end.
    connection: AsyncFd<UnixStream>,
    /// The vNIC's.
    pub(crate) name: String,
    kick: EventFd,
    call: AsyncFd<EventFd>,
    rx: Ring,
    tx: Ring,
    /// Octets of a buffer.
    buffer: u64,
    received: u16,
    sent: u16,
}

/// Connecting or driving the device failed.
fn failed(nic: &Nic, reason: impl std::fmt::Display) -> Failure {
    Failure::Probe(format!("vNIC {}: {reason}", nic.name))
}

impl Device {
    /// Connects to a vNIC that no VMM holds, on the host of its socket.
    pub(crate) fn connect(nic: &Nic) -> Result<Self, Failure> {
        let stream = vnic::dial(nic, "probes")?;
        // A multiple of a cache line: no two buffers share one.
        let buffer = (HEADER + ETHERNET + nic.mtu as usize).next_multiple_of(64) as u64;
        let size = 2 * Ring::LEN + 2 * u64::from(RING) * buffer;
        // mvirt-net maps memory of memfd, tmpfs or hugetlbfs only.
        let file = memfd_create("mvirt-probe", MemfdFlags::CLOEXEC).map_err(|e| failed(nic, e))?;
        let file = File::from(file);
        file.set_len(size).map_err(|e| failed(nic, e))?;
        let backing = FileOffset::new(file.try_clone().map_err(|e| failed(nic, e))?, 0);
        let ranges = [(GuestAddress(0), size as usize, Some(backing))];
        let memory = GuestMemoryMmap::from_ranges_with_files(ranges).map_err(|e| failed(nic, e))?;
        let eventfd = || EventFd::new(EFD_NONBLOCK).map_err(|e| failed(nic, e));
        #[expect(
            deprecated,
            reason = "EventFd owns its descriptor, but its crate does not say AsFd"
        )]
        let call = AsyncFd::new(eventfd()?).map_err(|e| failed(nic, e))?;
        let connection = stream.try_clone().map_err(|e| failed(nic, e))?;
        #[expect(
            deprecated,
            reason = "what replaces it is unsafe, and a stream owns its descriptor"
        )]
        let connection = AsyncFd::with_interest(connection, Interest::READABLE);
        let buffers = 2 * Ring::LEN;
        let mut device = Self {
            memory,
            // One pair of queues.
            frontend: Frontend::from_stream(stream, 2),
            connection: connection.map_err(|e| failed(nic, e))?,
            name: nic.name.clone(),
            kick: eventfd()?,
            call,
            rx: Ring { base: 0, buffers },
            tx: Ring { base: Ring::LEN, buffers: buffers + u64::from(RING) * buffer },
            buffer,
            received: 0,
            sent: 0,
            file,
        };
        device.negotiate(size).map_err(|error| {
            failed(nic, format!("the handshake failed: {error}\n  Is a VMM connected to it?"))
        })?;
        (0..RING).try_for_each(|slot| device.post(slot)).map_err(|e| failed(nic, e))?;
        Ok(device)
    }

    fn user_address(&self, address: u64) -> Result<u64, vhost::Error> {
        let host = self.memory.get_host_address(GuestAddress(address));
        host.map(|host| host as u64).map_err(|_| vhost::Error::InvalidGuestMemory)
    }

    fn negotiate(&mut self, size: u64) -> Result<(), vhost::Error> {
        self.frontend.set_owner()?;
        // The frontend remembers what is offered, and refuses to negotiate before it has asked.
        self.frontend.get_features()?;
        self.frontend.get_protocol_features()?;
        self.frontend.set_protocol_features(VhostUserProtocolFeatures::REPLY_ACK)?;
        // With REPLY_ACK a refusal comes at the message that it is about.
        self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        self.frontend.set_features(VERSION_1 | PROTOCOL_FEATURES)?;
        self.frontend.set_mem_table(&[VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: size,
            userspace_addr: self.user_address(0)?,
            mmap_offset: 0,
            mmap_handle: self.file.as_raw_fd(),
        }])?;
        for (index, ring) in [self.rx, self.tx].into_iter().enumerate() {
            self.frontend.set_vring_num(index, RING)?;
            let addresses = VringConfigData {
                queue_max_size: RING,
                queue_size: RING,
                flags: 0,
                desc_table_addr: self.user_address(ring.base + Ring::DESCRIPTORS)?,
                used_ring_addr: self.user_address(ring.base + Ring::USED)?,
                avail_ring_addr: self.user_address(ring.base + Ring::AVAILABLE)?,
                log_addr: None,
            };
            self.frontend.set_vring_addr(index, &addresses)?;
            self.frontend.set_vring_base(index, 0)?;
            self.frontend.set_vring_call(index, self.call.get_ref())?;
            self.frontend.set_vring_kick(index, &self.kick)?;
        }
        // With protocol features, rings begin disabled (vhost-user, "Ring states").
        self.frontend.set_vring_enable(0, true)?;
        self.frontend.set_vring_enable(1, true)
    }

    fn load(&self, address: u64) -> u16 {
        // Acquire: entries and octets are read after the index that counts them. The address is in
        // the memory by construction.
        self.memory.load(GuestAddress(address), Ordering::Acquire).unwrap_or(0)
    }

    fn offer(
        &self,
        ring: Ring,
        (posted, slot): (u16, u16),
        (len, flags): (usize, u16),
    ) -> Result<(), GuestMemoryError> {
        let mut octets = [0; 16];
        let buffer = ring.buffers + u64::from(slot) * self.buffer;
        octets[..8].copy_from_slice(&buffer.to_le_bytes());
        octets[8..12].copy_from_slice(&(len as u32).to_le_bytes());
        octets[12..14].copy_from_slice(&flags.to_le_bytes());
        self.memory.write_slice(&octets, GuestAddress(ring.descriptor(slot)))?;
        self.memory.store(slot, GuestAddress(ring.available(posted)), Ordering::Relaxed)?;
        let index = GuestAddress(ring.base + Ring::AVAILABLE + 2);
        // Release: descriptor and entry are visible before the index that counts them (virtio 1.2
        // §2.7.13).
        self.memory.store(posted.wrapping_add(1), index, Ordering::Release)
    }

    /// Posts a receive buffer; there are as many as the ring holds, so entry and buffer have one
    /// number.
    fn post(&self, entry: u16) -> Result<(), GuestMemoryError> {
        self.offer(self.rx, (entry, entry % RING), (self.buffer as usize, WRITABLE))
    }

    /// Frames sent that the switch has not taken yet.
    pub(crate) fn in_flight(&self) -> u16 {
        self.sent.wrapping_sub(self.load(self.tx.base + Ring::USED + 2))
    }

    /// Whether a frame can be sent now.
    pub(crate) fn has_room(&self) -> bool {
        self.in_flight() < RING
    }

    /// Sends a frame; says whether there was room for it.
    pub(crate) fn send(&mut self, frame: &[u8]) -> bool {
        if !self.has_room() || HEADER + frame.len() > self.buffer as usize {
            return false;
        }
        let slot = self.sent % RING;
        let buffer = GuestAddress(self.tx.buffers + u64::from(slot) * self.buffer);
        // A header of zeros: no offload (virtio 1.2 §5.1.6.2).
        let octets = [&[0; HEADER][..], frame].concat();
        let offered = self
            .memory
            .write_slice(&octets, buffer)
            .and_then(|()| self.offer(self.tx, (self.sent, slot), (octets.len(), 0)));
        if offered.is_err() {
            return false;
        }
        self.sent = self.sent.wrapping_add(1);
        // The entry is visible before the flag is read (virtio 1.2 §2.7.13).
        fence(Ordering::SeqCst);
        if self.load(self.tx.base + Ring::USED) & NO_NOTIFY == 0 {
            // A full counter wakes the device as well.
            self.kick.write(1).ok();
        }
        true
    }

    /// The next frame, if there is one.
    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        if self.load(self.rx.base + Ring::USED + 2) == self.received {
            return None;
        }
        let entry = GuestAddress(self.rx.used(self.received));
        let [head, len]: [u32; 2] = self.memory.read_obj(entry).ok()?;
        // In the ring, whatever the other side says.
        let slot = u64::from(head) % u64::from(RING);
        let mut octets = vec![0; (len as usize).min(self.buffer as usize)];
        let buffer = GuestAddress(self.rx.buffers + slot * self.buffer);
        self.memory.read_slice(&mut octets, buffer).ok()?;
        // The daemon uses buffers in order (decision 0001): what is free now is the slot just read.
        self.post(self.received.wrapping_add(RING)).ok()?;
        self.received = self.received.wrapping_add(1);
        // Nothing was negotiated that the header could tell.
        octets.drain(..HEADER.min(octets.len()));
        Some(octets)
    }

    /// Sleeps until the device signals something new, or is gone, at most for `patience`.
    pub(crate) async fn wait(&self, patience: Duration) {
        tokio::select! {
            rung = timeout(patience, self.call.readable()) => {
                if let Ok(Ok(mut guard)) = rung {
                    guard.clear_ready();
                    // Empty only if another wait has read it.
                    self.call.get_ref().read().ok();
                }
            }
            told = self.connection.readable() => {
                if let Ok(mut guard) = told {
                    guard.clear_ready();
                }
            }
        }
    }

    /// Whether the daemon has ended the connection. Nothing else comes over it unasked.
    pub(crate) fn is_gone(&self) -> bool {
        let peeked =
            recv(self.connection.get_ref(), &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        match peeked {
            Ok((_, octets)) => octets == 0,
            Err(error) => error != rustix::io::Errno::AGAIN,
        }
    }

    /// Refuses to go on with a device that is gone.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if !self.is_gone() {
            return Ok(());
        }
        Err(Failure::Probe(format!(
            "vNIC {}: mvirt-net ended the connection\n  \
             Was the vNIC deleted, or mvirt-net stopped?",
            self.name
        )))
    }
}
