//! The octets of vhost-user messages (QEMU docs/interop/vhost-user.rst) ⇄ typed requests and
//! replies.
//!
//! Every request has a least size and may be longer: some VMMs send fixed-size payloads. Integers
//! are of the host's order.

use crate::dataplane::port::vhost_user::{
    memory::{MAX_REGIONS, Region, dirty_log::LogArea},
    queue::ring::RingAddresses,
};
use vhost::vhost_user::message::FrontendReq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Octets of a message's header.
pub const HEADER_LEN: usize = 12;
/// Octets of the longest payload taken.
// As of the vhost crate. What is needed is less: a table of 64 regions has 2056 octets.
pub const MAX_PAYLOAD: usize = 4096;
/// Descriptors of one message that are taken; more are a violation.
// A memory table has the most. The vhost crate (Cloud Hypervisor) sends up to 32, QEMU 8.
pub const MAX_FDS: usize = 32;

// Bits of the flags: two of the version, then one for a reply and one that asks for it.
const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;
/// In the payload of SET_VRING_KICK, CALL and ERR: no descriptor follows.
const NO_FD: u64 = 1 << 8;

/// What precedes every payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// What is asked.
    pub request: u32,
    flags: u32,
    /// Octets of the payload.
    pub size: u32,
}
const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// The message cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not version 1.
    #[error("protocol version {0}, not 1")]
    Version(u32),
    /// Too long.
    #[error("a payload of {0} octets, more than {MAX_PAYLOAD}")]
    TooLong(u32),
    /// Too short for what it asks.
    #[error("a payload of {0} octets, too short for the request")]
    TooShort(usize),
    /// Too many regions.
    #[error("{0} memory regions, more than {MAX_REGIONS}")]
    Regions(u32),
}

impl Header {
    /// Checks what every message must satisfy.
    pub fn parse(octets: [u8; HEADER_LEN]) -> Result<Self, Malformed> {
        let header: Self = zerocopy::transmute!(octets);
        if header.flags & VERSION_MASK != VERSION {
            return Err(Malformed::Version(header.flags & VERSION_MASK));
        }
        if header.size as usize > MAX_PAYLOAD {
            return Err(Malformed::TooLong(header.size));
        }
        Ok(header)
    }

    /// Whether the sender waits for an answer, if that was negotiated.
    pub fn needs_reply(&self) -> bool {
        self.flags & NEED_REPLY != 0
    }

    /// The header of a request, for tests that play the VMM.
    pub fn request(request: u32, size: usize, needs_reply: bool) -> Self {
        let flags = VERSION | if needs_reply { NEED_REPLY } else { 0 };
        Self { request, flags, size: size as u32 }
    }
}

/// A reply with `payload` to `request`.
pub fn reply(request: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header { request, flags: VERSION | REPLY, size: payload.len() as u32 };
    [header.as_bytes(), payload].concat()
}

/// What a VMM asks. `ring` is unchecked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Which virtio features are there?
    GetFeatures,
    /// The guest uses these virtio features.
    SetFeatures(u64),
    /// The sender owns the session.
    SetOwner,
    /// Obsolete way to stop all rings.
    ResetOwner,
    /// The guest's memory, a descriptor each.
    SetMemTable(Vec<Region>),
    /// Entries of a ring.
    SetVringNum {
        /// Which.
        ring: u32,
        /// Entries.
        size: u32,
    },
    /// Where a ring is.
    SetVringAddr {
        /// Which.
        ring: u32,
        /// In the VMM's address space.
        addresses: RingAddresses,
    },
    /// Where processing of a ring starts.
    SetVringBase {
        /// Which.
        ring: u32,
        /// Index of the next available entry.
        base: u32,
    },
    /// Stop a ring; where did processing end?
    GetVringBase {
        /// Which.
        ring: u32,
    },
    /// The guest's wakeup; the descriptor follows unless `polled`.
    SetVringKick {
        /// Which.
        ring: u32,
        /// No descriptor: poll.
        polled: bool,
    },
    /// Our wakeup; the descriptor follows unless `polled`.
    SetVringCall {
        /// Which.
        ring: u32,
        /// No descriptor: the guest polls.
        polled: bool,
    },
    /// Where written pages of guest memory are marked while the guest migrates; the descriptor
    /// follows.
    SetLogBase(LogArea),
    /// Where each mark is to be signalled: an eventfd follows. It is ignored.
    SetLogFd,
    /// Where errors of a ring are told; the descriptor follows unless `polled`.
    SetVringErr {
        /// Which.
        ring: u32,
        /// No descriptor: nobody wants to know.
        polled: bool,
    },
    /// Which protocol features are there?
    GetProtocolFeatures,
    /// The VMM uses these protocol features.
    SetProtocolFeatures(u64),
    /// How many queues are there?
    GetQueueNum,
    /// Enable or disable a ring.
    SetVringEnable {
        /// Which.
        ring: u32,
        /// Whether data flows.
        enabled: bool,
    },
    /// The guest was migrated here.
    SendRarp,
    /// The guest's MTU, in octets.
    NetSetMtu(u64),
    /// A channel for requests to the VMM, a descriptor.
    SetBackendReqFd,
    /// A part of the configuration space.
    GetConfig {
        /// First octet.
        offset: u32,
        /// Octets.
        size: u32,
    },
    /// Change the configuration space.
    SetConfig,
    /// Back to the beginning, but for the features.
    ResetDevice,
    /// How many memory regions may there be?
    GetMaxMemSlots,
    /// One region more, a descriptor.
    AddMemReg(Region),
    /// One region less.
    RemMemReg(Region),
    /// Something that is not offered.
    Unknown(u32),
}

fn read<T: FromBytes>(payload: &[u8]) -> Result<T, Malformed> {
    // A prefix: User-mode Linux sends its memory table with two places, whatever is in them.
    T::read_from_prefix(payload)
        .map(|(value, _)| value)
        .map_err(|_| Malformed::TooShort(payload.len()))
}

impl Request {
    /// Understands a payload.
    pub fn parse(code: u32, payload: &[u8]) -> Result<Self, Malformed> {
        let number = || read::<u64>(payload);
        let state = || read::<[u32; 2]>(payload);
        // The index has 8 bits, and the flag is the ninth. The rest means nothing yet.
        let descriptor = || number().map(|word| ((word & 0xff) as u32, word & NO_FD != 0));
        // No error: a VMM may know more than we do, and goes on when it is told so.
        let Ok(code) = FrontendReq::try_from(code) else { return Ok(Self::Unknown(code)) };
        Ok(match code {
            FrontendReq::GET_FEATURES => Self::GetFeatures,
            FrontendReq::SET_FEATURES => Self::SetFeatures(number()?),
            FrontendReq::SET_OWNER => Self::SetOwner,
            FrontendReq::RESET_OWNER => Self::ResetOwner,
            FrontendReq::SET_MEM_TABLE => Self::SetMemTable(regions(payload)?),
            FrontendReq::SET_VRING_NUM => {
                let [ring, size] = state()?;
                Self::SetVringNum { ring, size }
            }
            FrontendReq::SET_VRING_ADDR => vring_addr(payload)?,
            FrontendReq::SET_VRING_BASE => {
                let [ring, base] = state()?;
                Self::SetVringBase { ring, base }
            }
            FrontendReq::GET_VRING_BASE => Self::GetVringBase { ring: state()?[0] },
            FrontendReq::SET_VRING_KICK => {
                let (ring, polled) = descriptor()?;
                Self::SetVringKick { ring, polled }
            }
            FrontendReq::SET_VRING_CALL => {
                let (ring, polled) = descriptor()?;
                Self::SetVringCall { ring, polled }
            }
            FrontendReq::SET_LOG_BASE => {
                let [len, offset] = read::<[u64; 2]>(payload)?;
                Self::SetLogBase(LogArea { len, offset })
            }
            FrontendReq::SET_LOG_FD => Self::SetLogFd,
            FrontendReq::SET_VRING_ERR => {
                let (ring, polled) = descriptor()?;
                Self::SetVringErr { ring, polled }
            }
            FrontendReq::GET_PROTOCOL_FEATURES => Self::GetProtocolFeatures,
            FrontendReq::SET_PROTOCOL_FEATURES => Self::SetProtocolFeatures(number()?),
            FrontendReq::GET_QUEUE_NUM => Self::GetQueueNum,
            FrontendReq::SET_VRING_ENABLE => {
                let [ring, enabled] = state()?;
                Self::SetVringEnable { ring, enabled: enabled != 0 }
            }
            FrontendReq::SEND_RARP => Self::SendRarp,
            FrontendReq::NET_SET_MTU => Self::NetSetMtu(number()?),
            FrontendReq::SET_BACKEND_REQ_FD => Self::SetBackendReqFd,
            FrontendReq::GET_CONFIG => {
                let [offset, size, _flags] = read::<[u32; 3]>(payload)?;
                Self::GetConfig { offset, size }
            }
            FrontendReq::SET_CONFIG => Self::SetConfig,
            FrontendReq::RESET_DEVICE => Self::ResetDevice,
            FrontendReq::GET_MAX_MEM_SLOTS => Self::GetMaxMemSlots,
            // Eight octets of padding precede the region.
            FrontendReq::ADD_MEM_REG => Self::AddMemReg(read(payload.get(8..).unwrap_or(&[]))?),
            FrontendReq::REM_MEM_REG => Self::RemMemReg(read(payload.get(8..).unwrap_or(&[]))?),
            other => Self::Unknown(other as u32),
        })
    }
}

fn regions(payload: &[u8]) -> Result<Vec<Region>, Malformed> {
    let [count, _padding] = read::<[u32; 2]>(payload)?;
    // Before room is made for them: the count is only the VMM's word.
    if count as usize > MAX_REGIONS {
        return Err(Malformed::Regions(count));
    }
    let mut rest = payload.get(8..).unwrap_or(&[]);
    let mut regions = Vec::with_capacity(count as usize);
    for _ in 0..count {
        regions.push(read(rest)?);
        rest = rest.get(size_of::<Region>()..).unwrap_or(&[]);
    }
    Ok(regions)
}

fn vring_addr(payload: &[u8]) -> Result<Request, Malformed> {
    // The flag and address of a log for the used ring are of no use: that ring is in guest memory,
    // and what is written to it is marked as all else is.
    let [ring, _flags] = read::<[u32; 2]>(payload)?;
    // In this order on the wire: used before available.
    let [descriptors, used, available, _log] = read::<[u64; 4]>(payload.get(8..).unwrap_or(&[]))?;
    Ok(Request::SetVringAddr { ring, addresses: RingAddresses { descriptors, available, used } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uml_s_padded_memory_table_is_one_region() {
        let mut payload = vec![1, 0, 0, 0, 0, 0, 0, 0];
        payload
            .extend([0x1000_u64, 0x2000, 0x60000000, 0x1000].iter().flat_map(|w| w.to_ne_bytes()));
        payload.extend([0; 32]);
        let region =
            Region { guest_address: 0x1000, len: 0x2000, user_address: 0x60000000, offset: 0x1000 };
        assert_eq!(Request::parse(5, &payload), Ok(Request::SetMemTable(vec![region])));
        assert_eq!(Request::parse(5, &payload[..39]), Err(Malformed::TooShort(31)));
    }

    #[test]
    fn descriptor_words_are_an_index_and_a_flag() {
        let parse = |word: u64| Request::parse(12, &word.to_ne_bytes()).unwrap();
        assert_eq!(parse(1), Request::SetVringKick { ring: 1, polled: false });
        assert_eq!(parse(0x1ff), Request::SetVringKick { ring: 0xff, polled: true });
    }

    #[test]
    fn headers_are_checked() {
        let header = |words: [u32; 3]| Header::parse(zerocopy::transmute!(words));
        assert!(header([1, 9, 0]).unwrap().needs_reply());
        assert_eq!(header([1, 2, 0]), Err(Malformed::Version(2)));
        assert_eq!(header([1, 1, 4097]), Err(Malformed::TooLong(4097)));
        assert_eq!(Request::parse(999, &[]), Ok(Request::Unknown(999)));
    }
}
