//! The conversation with a VMM, as a state machine:
//! `(state, request, descriptors) → (state, reply, memory change)`.
//!
//! Takes requests in any order that real VMMs use (QEMU enables rings before it sets features, UML
//! sets call descriptors first) and refuses what no VMM may ask. Does no I/O: whoever drives it
//! maps memory, stops the port before a request that needs that, and builds the next
//! port from [`Session::plan`].

pub mod message;
mod saved;

pub use saved::{NotRestored, SavedSession};

use super::{
    LastAvail, Plan, RingPlan,
    memory::{MAX_REGIONS, Region, RegionRequest, dirty_log::LogArea},
    queue::{
        call::CallFd,
        ring::{MAX_SIZE, RingAddresses, RingConfig, Start},
    },
};
use crate::{
    addr::MacAddr,
    dataplane::{
        foreign::Foreign,
        frame::offload::{Offloads, Segmentation},
    },
    wire::vnet,
};
use message::Request;
use std::{os::fd::OwnedFd, sync::Arc};
use vhost::vhost_user::message::VhostUserProtocolFeatures as Protocol;
use virtio_bindings::{virtio_config, virtio_net, virtio_ring};

// Bits 30 and 26 are vhost-user's own: no guest ever sees them.
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// Nothing of the guest: the VMM sets it while the guest migrates.
const LOG_ALL: u64 = 1 << 26;
const VERSION_1: u64 = 1 << virtio_config::VIRTIO_F_VERSION_1;
/// Every ring is completed in order, always; who negotiates it may rely on that.
const IN_ORDER: u64 = 1 << virtio_config::VIRTIO_F_IN_ORDER;
const EVENT_IDX: u64 = 1 << virtio_ring::VIRTIO_RING_F_EVENT_IDX;
const INDIRECT: u64 = 1 << virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
const MRG_RXBUF: u64 = 1 << virtio_net::VIRTIO_NET_F_MRG_RXBUF;
const GUEST_CSUM: u64 = 1 << virtio_net::VIRTIO_NET_F_GUEST_CSUM;
/// TSO and USO both ways: what one guest sends uncut, and another does not take so, is cut here.
const SEGMENTATION: u64 = 1 << virtio_net::VIRTIO_NET_F_HOST_TSO4
    | 1 << virtio_net::VIRTIO_NET_F_HOST_TSO6
    | 1 << virtio_net::VIRTIO_NET_F_HOST_ECN
    | 1 << virtio_net::VIRTIO_NET_F_HOST_USO
    | 1 << virtio_net::VIRTIO_NET_F_GUEST_TSO4
    | 1 << virtio_net::VIRTIO_NET_F_GUEST_TSO6
    | 1 << virtio_net::VIRTIO_NET_F_GUEST_ECN
    | 1 << virtio_net::VIRTIO_NET_F_GUEST_USO4
    | 1 << virtio_net::VIRTIO_NET_F_GUEST_USO6;
// MQ requires CTRL_VQ, by which a guest says how many pairs it uses (virtio 1.2 §5.1.3.1).
const MULTI_QUEUE: u64 = 1 << virtio_net::VIRTIO_NET_F_MQ | 1 << virtio_net::VIRTIO_NET_F_CTRL_VQ;

/// Octets of the configuration space that can be read (virtio 1.2 §5.1.4; the rest is zero).
// As much as QEMU may ask for (its VHOST_USER_MAX_CONFIG_SIZE).
const CONFIG_LEN: usize = 256;

/// What a new vNIC offers. It is recorded with the vNIC and never shrinks: VMMs refuse to reconnect
/// otherwise.
pub fn features(queue_pairs: u16) -> u64 {
    let single = PROTOCOL_FEATURES
        | VERSION_1
        | IN_ORDER
        | EVENT_IDX
        | INDIRECT
        | MRG_RXBUF
        | GUEST_CSUM
        | SEGMENTATION
        | 1 << virtio_net::VIRTIO_NET_F_CSUM
        | 1 << virtio_net::VIRTIO_NET_F_MAC
        | 1 << virtio_net::VIRTIO_NET_F_MTU
        | 1 << virtio_net::VIRTIO_NET_F_STATUS;
    // The control queue ends in the VMM; VMMs that pass it to the backend (UML) take vNICs of one
    // pair.
    if queue_pairs > 1 { single | MULTI_QUEUE } else { single }
}

// Each is there for a VMM. QEMU takes one pair without MQ, and does not migrate without LOG_SHMFD.
// Cloud Hypervisor and UML read the MAC by CONFIG. Linux 6.1 as UML finds no device without
// BACKEND_REQ. INFLIGHT_SHMFD is left out, since rings are in order (docs/decisions/0001).
fn protocol_features() -> Protocol {
    Protocol::MQ
        | Protocol::REPLY_ACK
        | Protocol::MTU
        | Protocol::BACKEND_REQ
        | Protocol::CONFIG
        | Protocol::CONFIGURE_MEM_SLOTS
        | Protocol::RESET_DEVICE
        | Protocol::LOG_SHMFD
        | Protocol::RARP
}

/// What the guest's device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Virtio features, as [`features`] gave them when the vNIC was made.
    pub features: u64,
    /// Queue pairs.
    pub queue_pairs: u16,
    /// The guest's MAC.
    pub mac: MacAddr,
    /// The guest's MTU.
    pub mtu: u16,
}

/// Why a request is refused; the connection ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such ring: most likely the VMM was given more queues than the vNIC has.
    #[error(
        "ring {ring}: the VMM uses more queue pairs than the vNIC's {pairs} (queues={pairs} in \
         QEMU, num_queues={rings} in Cloud Hypervisor; or mvirt nic create --queues {})",
        ring / 2 + 1, pairs = rings / 2
    )]
    Ring {
        /// Asked for.
        ring: u32,
        /// There are.
        rings: usize,
    },
    /// Not a possible ring size.
    #[error("ring size {0} is not a power of two from 2 to {MAX_SIZE}")]
    RingSize(u32),
    /// Not a ring index.
    #[error("ring position {0} is above 65535")]
    Base(u32),
    /// Features that were not offered.
    #[error("features {0:#x} were not offered")]
    Features(u64),
    /// A guest older than virtio 1.0, whose rings are of its own byte order.
    #[error("features {0:#x} lack VIRTIO_F_VERSION_1, which a big-endian host requires")]
    Legacy(u64),
    /// Fewer descriptors than the request needs.
    #[error("{got} descriptors where {needed} are needed")]
    Descriptors {
        /// Came.
        got: usize,
        /// Needed.
        needed: usize,
    },
    /// An MTU that does not fit the vNIC's.
    #[error("MTU {asked}, more than the vNIC's {limit}")]
    Mtu {
        /// Asked for.
        asked: u64,
        /// The vNIC's.
        limit: u16,
    },
    /// The configuration space is read-only.
    #[error("the configuration space is read-only")]
    ReadOnly,
}

/// How a request changes the guest's memory.
#[derive(Debug)]
pub enum MemoryChange {
    /// All of it.
    Replace(Vec<RegionRequest>),
    /// One region more.
    Add(RegionRequest),
    /// One region less.
    Remove(Region),
    /// Where written pages are marked, another place from now on.
    Log(LogArea, Foreign<OwnedFd>),
}

/// What a request leads to.
#[derive(Debug, Default)]
pub struct Effect {
    /// How the request is answered.
    pub reply: Reply,
    /// To be carried out before the reply.
    pub memory: Option<MemoryChange>,
}

/// How a request is answered.
#[derive(Debug, Default)]
pub enum Reply {
    /// It is acknowledged, if the VMM wants that.
    #[default]
    Done,
    /// With this.
    Payload(Vec<u8>),
    /// It is not known: acknowledged as failed, if the VMM wants that.
    Unknown,
}

impl From<Reply> for Effect {
    fn from(reply: Reply) -> Self {
        Self { reply, memory: None }
    }
}

/// Whether a ring is started, and how its driver announces what it adds.
#[derive(Debug, Clone, Default)]
enum Kick {
    /// It stands still.
    #[default]
    Stopped,
    /// It is to be looked at now and then.
    Polled,
    /// This becomes readable.
    Eventfd(Arc<OwnedFd>),
}

#[derive(Debug, Default)]
struct Ring {
    size: u32,
    addresses: Option<RingAddresses>,
    base: u16,
    /// Where a port left it since `base` was set.
    position: LastAvail,
    kick: Kick,
    call: Option<CallFd>,
    /// Signalled when the vNIC fails.
    error: Option<CallFd>,
    /// `None`: the VMM has not said. Without protocol features the ring is then enabled. With them
    /// it waits: a VMM that comes back takes up its rings one by one, and what the guest sent
    /// before is not to be discarded meanwhile.
    enabled: Option<bool>,
}

/// The state of one connection.
#[derive(Debug)]
pub struct Session {
    device: Device,
    features: Option<u64>,
    protocol: Protocol,
    rings: Vec<Ring>,
    /// Held open, because VMMs want it taken; nothing is ever sent.
    backend_channel: Option<Foreign<OwnedFd>>,
}

impl Session {
    /// A new connection.
    pub fn new(device: Device) -> Self {
        let rings = usize::from(device.queue_pairs) * 2;
        Self {
            device,
            features: None,
            protocol: Protocol::empty(),
            rings: (0..rings).map(|_| Ring::default()).collect(),
            backend_channel: None,
        }
    }

    /// Returns the features that the driver has accepted.
    pub fn features(&self) -> u64 {
        self.features.unwrap_or(0)
    }

    /// Whether the VMM waits for the outcome of requests that ask for it.
    pub fn acknowledges(&self) -> bool {
        self.protocol.contains(Protocol::REPLY_ACK)
    }

    /// Returns whether it holds sockets: these may keep the connection open after the VMM has
    /// ended.
    pub fn holds_sockets(&self) -> bool {
        let calls = self.rings.iter().flat_map(|ring| [&ring.call, &ring.error]).flatten();
        let mut sockets = calls.filter(|call| call.is_socket());
        self.backend_channel.is_some() || sockets.next().is_some()
    }

    /// Signals the error descriptors of all rings: they stand still, since the guest or the VMM
    /// broke the protocol.
    pub fn tell_error(&self) {
        self.rings.iter().filter_map(|ring| ring.error.as_ref()).for_each(CallFd::signal);
    }

    /// Whether the port must be stopped before `request` is handled.
    pub fn needs_quiesce(request: &Request) -> bool {
        // Harmless requests are listed, not the others: one that is forgotten costs a pause, and
        // not a port whose rings or memory change under it.
        !matches!(
            request,
            Request::GetFeatures
                | Request::GetProtocolFeatures
                | Request::GetQueueNum
                | Request::GetConfig { .. }
                | Request::GetMaxMemSlots
                | Request::SetOwner
                | Request::SetVringErr { .. }
                | Request::SendRarp
                | Request::SetLogFd
                | Request::SetBackendReqFd
                | Request::NetSetMtu(_)
                | Request::SetConfig
                | Request::Unknown(_)
        )
    }

    /// Handles one request. The port, if there was one, has stopped if the request needs that;
    /// kick descriptors are eventfds, and those to be signalled eventfds or UNIX sockets.
    pub fn handle(
        &mut self,
        request: Request,
        fds: Vec<Foreign<OwnedFd>>,
    ) -> Result<Effect, Refusal> {
        let number = |value: u64| Reply::Payload(value.to_ne_bytes().into()).into();
        match request {
            // LOG_ALL is not recorded with a vNIC: it belongs to the VMM's connection.
            Request::GetFeatures => return Ok(number(self.device.features | LOG_ALL)),
            Request::GetProtocolFeatures => return Ok(number(protocol_features().bits())),
            // Cloud Hypervisor compares this with its rings, QEMU with its pairs. Told of pairs,
            // Cloud Hypervisor refuses to start. Told of rings, QEMU may ask for some that do not
            // exist: `Refusal::Ring` then says what to do.
            Request::GetQueueNum => return Ok(number(self.rings.len() as u64)),
            Request::GetMaxMemSlots => return Ok(number(MAX_REGIONS as u64)),
            Request::GetConfig { offset, size } => return Ok(self.config(offset, size)),
            Request::GetVringBase { ring } => return self.stop_ring(ring),
            Request::SetMemTable(_) | Request::AddMemReg(_) | Request::RemMemReg(_) => {
                return memory_change(request, fds);
            }
            Request::SetLogBase(area) => {
                // Answered always: QEMU waits for any reply, the vhost crate (Cloud Hypervisor) for
                // the same words.
                let reply = [area.len, area.offset].map(u64::to_ne_bytes);
                return Ok(Effect {
                    reply: Reply::Payload(reply.concat()),
                    memory: Some(MemoryChange::Log(area, one(fds)?)),
                });
            }
            Request::Unknown(_) => return Ok(Reply::Unknown.into()),
            Request::SetFeatures(features) => self.set_features(features)?,
            Request::SetProtocolFeatures(features) => {
                self.protocol = Protocol::from_bits_truncate(features) & protocol_features();
            }
            Request::ResetOwner | Request::ResetDevice => {
                // Rings alone: of RESET_OWNER the specification says that to discard more leads to
                // bugs.
                self.rings.iter_mut().for_each(|ring| *ring = Ring::default());
            }
            Request::SetBackendReqFd => self.backend_channel = Some(one(fds)?),
            Request::NetSetMtu(asked) => self.check_mtu(asked)?,
            Request::SetConfig => return Err(Refusal::ReadOnly),
            Request::SetOwner | Request::SendRarp => {}
            Request::SetVringNum { ring, size } => {
                if !size.is_power_of_two() || !(2..=MAX_SIZE).contains(&size) {
                    return Err(Refusal::RingSize(size));
                }
                self.ring(ring)?.size = size;
            }
            Request::SetVringAddr { ring, addresses } => {
                self.ring(ring)?.addresses = Some(addresses);
            }
            Request::SetVringBase { ring, base } => {
                let base = u16::try_from(base).map_err(|_| Refusal::Base(base))?;
                let ring = self.ring(ring)?;
                // What the VMM says now outranks where an earlier port stopped.
                (ring.base, ring.position) = (base, LastAvail::default());
            }
            Request::SetVringKick { ring, polled } => {
                // It is an eventfd, which closes without waiting for anybody: it needs no thread
                // apart.
                self.ring(ring)?.kick = if polled {
                    Kick::Polled
                } else {
                    Kick::Eventfd(Arc::new(one(fds)?.into_inner()))
                };
            }
            Request::SetVringCall { ring, polled } => {
                self.ring(ring)?.call = call_fd(polled, fds)?;
            }
            Request::SetVringErr { ring, polled } => {
                self.ring(ring)?.error = call_fd(polled, fds)?;
            }
            // Marks are looked for; nobody is told of each.
            Request::SetLogFd => {}
            Request::SetVringEnable { ring, enabled } => self.ring(ring)?.enabled = Some(enabled),
        }
        Ok(Effect::default())
    }

    fn ring(&mut self, ring: u32) -> Result<&mut Ring, Refusal> {
        let rings = self.rings.len();
        self.rings.get_mut(ring as usize).ok_or(Refusal::Ring { ring, rings })
    }

    fn set_features(&mut self, features: u64) -> Result<(), Refusal> {
        // Bits 26 and 30 come back from VMMs as they were offered, whatever the vNIC has.
        let foreign = features & !(self.device.features | PROTOCOL_FEATURES | LOG_ALL);
        if foreign != 0 {
            return Err(Refusal::Features(foreign));
        }
        // Legacy rings and headers are of the guest's byte order (virtio 1.2 §2.7.3), taken here
        // for little-endian: that of every guest of a little-endian host, unless a CPU of another
        // kind is emulated.
        if features & VERSION_1 == 0 && cfg!(target_endian = "big") {
            return Err(Refusal::Legacy(features));
        }
        self.features = Some(features);
        Ok(())
    }

    fn check_mtu(&self, asked: u64) -> Result<(), Refusal> {
        let limit = self.device.mtu;
        if asked > u64::from(limit) { Err(Refusal::Mtu { asked, limit }) } else { Ok(()) }
    }

    /// Answers GET_VRING_BASE: the ring stands still until it is kicked off again.
    fn stop_ring(&mut self, number: u32) -> Result<Effect, Refusal> {
        let ring = self.ring(number)?;
        ring.base = ring.position.get().unwrap_or(ring.base);
        // Both descriptors go: VMMs send them again when they start the ring.
        (ring.position, ring.kick, ring.call) = (LastAvail::default(), Kick::Stopped, None);
        let state = [number, u32::from(ring.base)];
        let reply = state.iter().flat_map(|word| word.to_ne_bytes()).collect();
        Ok(Reply::Payload(reply).into())
    }

    /// A part of the configuration space; an empty one where it is out of range.
    fn config(&self, offset: u32, size: u32) -> Effect {
        let mut space = [0; CONFIG_LEN];
        // `struct virtio_net_config` (virtio 1.2 §5.1.4), little-endian whatever the host.
        space[..6].copy_from_slice(&self.device.mac.0);
        space[6..8].copy_from_slice(&(virtio_net::VIRTIO_NET_S_LINK_UP as u16).to_le_bytes());
        space[8..10].copy_from_slice(&self.device.queue_pairs.to_le_bytes());
        space[10..12].copy_from_slice(&self.device.mtu.to_le_bytes());
        let end = offset.saturating_add(size) as usize;
        // Nothing is how vhost-user tells of an error here.
        let part = space.get(offset as usize..end).unwrap_or(&[]);
        let head = [offset, part.len() as u32, 0];
        let mut reply: Vec<u8> = head.iter().flat_map(|word| word.to_ne_bytes()).collect();
        reply.extend_from_slice(part);
        Reply::Payload(reply).into()
    }

    /// Returns what runs now: the rings that have addresses, are started, and are enabled or
    /// disabled. `None`: nothing runs.
    pub fn plan(&self) -> Option<Plan> {
        let features = self.features?;
        // Without protocol features a ring begins enabled (vhost-user: "Ring states").
        let by_default = features & PROTOCOL_FEATURES == 0;
        let ring = |ring: &Ring| {
            let enabled = ring.enabled.or(by_default.then_some(true))?;
            let kick = match &ring.kick {
                Kick::Stopped => return None,
                Kick::Polled => None,
                Kick::Eventfd(fd) => Some(Arc::clone(fd)),
            };
            Some(RingPlan {
                // Each `?`: not told yet. VMMs differ in what they tell first, and a ring waits for
                // the last.
                config: RingConfig {
                    size: (ring.size > 0).then_some(ring.size)?,
                    addresses: ring.addresses?,
                    event_idx: features & EVENT_IDX != 0,
                    indirect: features & INDIRECT != 0,
                    start: ring.position.get().map_or(Start::FromVmm(ring.base), Start::Exactly),
                },
                kick,
                call: ring.call.clone(),
                enabled,
                position: ring.position.clone(),
            })
        };
        // Even rings receive, odd ones transmit (virtio 1.2 §5.1.2).
        let pairs = self.rings.chunks(2).map(|pair| (ring(&pair[0]), ring(&pair[1])));
        let pairs: Vec<_> = pairs.collect();
        let runs = pairs.iter().any(|(rx, tx)| rx.is_some() || tx.is_some());
        runs.then_some(Plan {
            pairs,
            logs: features & LOG_ALL != 0,
            mergeable: features & MRG_RXBUF != 0,
            // Only legacy drivers without merged buffers have the short one (virtio 1.2 §5.1.6.1).
            header_len: if features & (VERSION_1 | MRG_RXBUF) == 0 {
                vnet::SHORT_HEADER_LEN
            } else {
                vnet::HEADER_LEN
            },
            sends: segmentation(
                features,
                virtio_net::VIRTIO_NET_F_HOST_TSO4,
                &[virtio_net::VIRTIO_NET_F_HOST_USO],
            ),
            accepts: Offloads {
                checksum: features & GUEST_CSUM != 0,
                segmentation: segmentation(
                    features,
                    virtio_net::VIRTIO_NET_F_GUEST_TSO4,
                    &[virtio_net::VIRTIO_NET_F_GUEST_USO4, virtio_net::VIRTIO_NET_F_GUEST_USO6],
                ),
            },
        })
    }
}

/// The segmentation that `features` has: the bits of TCP over IPv4, over IPv6 and of ECN follow
/// each other from `tcp4` on; datagrams need all bits of `udp`, since a frame of them does not tell
/// its family.
fn segmentation(features: u64, tcp4: u32, udp: &[u32]) -> Segmentation {
    let has = |bit: u32| features >> bit & 1 != 0;
    Segmentation {
        tcp4: has(tcp4),
        tcp6: has(tcp4 + 1),
        ecn: has(tcp4 + 2),
        udp: udp.iter().all(|bit| has(*bit)),
    }
}

/// The call descriptor of a message; none where the VMM polls.
fn call_fd(polled: bool, fds: Vec<Foreign<OwnedFd>>) -> Result<Option<CallFd>, Refusal> {
    if polled { Ok(None) } else { one(fds).map(|fd| Some(CallFd::new(fd))) }
}

fn one(fds: Vec<Foreign<OwnedFd>>) -> Result<Foreign<OwnedFd>, Refusal> {
    let got = fds.len();
    fds.into_iter().next().ok_or(Refusal::Descriptors { got, needed: 1 })
}

fn memory_change(request: Request, fds: Vec<Foreign<OwnedFd>>) -> Result<Effect, Refusal> {
    let got = fds.len();
    let change = match request {
        // More descriptors are no error: those that are left over are just closed.
        Request::SetMemTable(regions) if regions.len() > got => {
            return Err(Refusal::Descriptors { got, needed: regions.len() });
        }
        Request::SetMemTable(regions) => {
            MemoryChange::Replace(regions.into_iter().zip(fds).map(RegionRequest::from).collect())
        }
        Request::AddMemReg(region) => MemoryChange::Add((region, one(fds)?).into()),
        Request::RemMemReg(region) => MemoryChange::Remove(region),
        _ => return Ok(Effect::default()),
    };
    Ok(Effect { memory: Some(change), ..Effect::default() })
}
