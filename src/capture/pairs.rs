//! Which frames of a capture are the same one, on its way in and on its way out: they have the same
//! number (epb_packetid).
//!
//! A frame is known again by what no switch changes: all behind its Ethernet header but hop limit
//! and header checksum. So it is found also where it went to another reactor, and in each of its
//! copies; fragments are frames of their own.

use crate::{
    dataplane::{Outcome, Point, Record},
    wire::ethernet,
};
use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
};

/// Frames that are remembered. One that is on its way for longer has a number of its own there.
const REMEMBERED: usize = 4096;
/// Octets of a packet that it is known by.
// Those with identifications, sequence numbers and checksums, and some of what they sum.
const KNOWN_BY: usize = 256;

/// Numbers of frames.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    last: u64,
    /// By what they are known by.
    // Keyed by chance: a guest must not be able to make frames that are taken for another's.
    numbers: HashMap<u64, u64>,
    /// The oldest first.
    order: VecDeque<(u64, u64)>,
    keys: RandomState,
}

impl Pairs {
    /// Returns the number of a frame that begins with `octets`.
    pub(super) fn number(&mut self, record: &Record, octets: &[u8]) -> u64 {
        let known_by = self.known_by(record, octets);
        if record.point == Point::ToGuest
            && let Some(number) = self.numbers.get(&known_by)
        {
            return *number;
        }
        self.last += 1;
        let goes_on = matches!(record.outcome, Outcome::Forwarded(_) | Outcome::Flooded);
        if record.point == Point::FromGuest && goes_on {
            self.remember(known_by, self.last);
        }
        self.last
    }

    fn remember(&mut self, known_by: u64, number: u64) {
        self.numbers.insert(known_by, number);
        self.order.push_back((known_by, number));
        if self.order.len() > REMEMBERED
            && let Some((oldest, number)) = self.order.pop_front()
            // The same again may have come since.
            && self.numbers.get(&oldest) == Some(&number)
        {
            self.numbers.remove(&oldest);
        }
    }

    fn known_by(&self, record: &Record, octets: &[u8]) -> u64 {
        let at = ethernet::packet_at(octets);
        let packet = octets.get(at..).unwrap_or_default();
        let ether_type = at.checked_sub(2).and_then(|at| octets.get(at..)?.first_chunk());
        let ether_type = ether_type.map(|octets| u16::from_be_bytes(*octets));
        let packet = &packet[..packet.len().min(KNOWN_BY)];
        // Time to live, and the header's checksum (RFC 791 §3.1); the hop limit (RFC 8200 §3).
        let is_changed = |place: usize| match ether_type {
            Some(ethernet::IPV4) => matches!(place, 8 | 10 | 11),
            Some(ethernet::IPV6) => place == 7,
            _ => false,
        };
        let kept = packet.iter().enumerate().filter(|(place, _)| !is_changed(*place));
        let kept = kept.map(|(_, octet)| *octet).collect::<Vec<_>>();
        // In a trunk, a frame is longer by its tag.
        self.keys.hash_one((record.len.saturating_sub(at), ether_type, kept))
    }
}
