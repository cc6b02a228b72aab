//! What nearly all frames of vNICs are, told in a few comparisons: a whole TCP or UDP packet in
//! IPv4, without a tag, from the vNIC's own MAC and address, to a single MAC.
//!
//! Of such a frame nothing is learned, and nothing is refused but for its receiver. It is the
//! general way (`mod.rs`) without its questions (a property test there).

use crate::{
    addr::MacAddr,
    dataplane::{
        forward::{
            fast::Front,
            tables::{GATEWAY_MAC, Member},
        },
        frame::Frame,
    },
    wire::{ethernet, vnet::Offload},
};
use std::net::Ipv4Addr;
use zerocopy::big_endian::U16;

/// What plain frames of one vNIC have in common.
#[derive(Debug)]
pub(in crate::dataplane::forward) struct FastPath {
    /// What follows their destination.
    ethernet: [u8; 8],
    source: Ipv4Addr,
}

impl FastPath {
    /// Returns that of a vNIC that is held to its MAC and has an address; none of other members.
    pub(in crate::dataplane::forward) fn new(member: &Member) -> Option<Self> {
        let (MacAddr([a, b, c, d, e, f]), source) = (member.fixed_mac()?, member.vnic()?.ipv4?);
        let [high, low] = U16::new(ethernet::IPV4).to_bytes();
        Some(Self { ethernet: [a, b, c, d, e, f, high, low], source })
    }

    /// Returns the destination of a frame that is plain.
    #[inline(always)]
    pub(in crate::dataplane::forward) fn check(&self, frame: &Frame) -> Option<MacAddr> {
        let (front, len) = Front::of(frame)?;
        let (destination, rest) = front.ethernet.split_first_chunk()?;
        let destination = MacAddr(*destination);
        let is_plain = rest == self.ethernet
            && front.ipv4.source() == self.source
            && !destination.is_multicast()
            && destination != GATEWAY_MAC
            && front.takes(frame, len)
            // In a header that is wrong nobody would do what was left to be done.
            && (frame.offload == Offload::None || front.ipv4.sum_is_right());
        is_plain.then_some(destination)
    }
}
