//! Packets whose first fragment was refused: later fragments do not show what they are part of, and
//! are refused by what they share with it (RFC 791 §3.2, RFC 8200 §4.5).
//!
//! A few are remembered, without a clock: one is forgotten when the sender begins another packet of
//! the same identification, or when newer ones take its place. Only a guest that sends what it must
//! not has any here.

use super::tables::PortId;
use crate::{
    dataplane::frame::{
        classify::{Headers, Packet},
        verdict::DropReason,
    },
    wire::Part,
};
use std::net::IpAddr;

/// How many packets are remembered for all ports of a reactor.
// Few enough to look at each: only what the guard refuses is here, and only fragments look.
const REMEMBERED: usize = 16;

/// What the fragments of one packet share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    // With its generation: the next vNIC in that slot is not blamed.
    sender: PortId,
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
}

/// Packets whose first fragment was refused.
#[derive(Debug, Default)]
pub(in crate::dataplane) struct Withheld {
    keys: [Option<Key>; REMEMBERED],
    /// Where the next is put.
    next: usize,
}

impl Withheld {
    /// Returns what the guard has `judged` of a packet from `sender`. Remembers a first fragment
    /// that was refused, and refuses the later fragments of its packet. Passes by what is no
    /// fragment.
    pub(in crate::dataplane) fn check(
        &mut self,
        sender: PortId,
        headers: &Headers,
        judged: Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        let (part, source, destination) = match &headers.packet {
            Packet::Ipv4(packet) => (packet.part, packet.source.into(), packet.destination.into()),
            Packet::Ipv6(packet) => (packet.part, packet.source.into(), packet.destination.into()),
            Packet::Arp(_) => return judged,
        };
        match part {
            Part::Whole | Part::Atomic => judged,
            Part::First(identification) => {
                let key = Key { sender, source, destination, identification };
                // Identifications come round again: this is another packet, perhaps an honest one.
                self.forget(key);
                if judged.is_err() {
                    self.keys[self.next] = Some(key);
                    self.next = (self.next + 1) % REMEMBERED;
                }
                judged
            }
            Part::Later(identification) => {
                let key = Key { sender, source, destination, identification };
                let is_refused = self.keys.contains(&Some(key));
                if is_refused { Err(DropReason::RefusedFragment) } else { judged }
            }
        }
    }

    fn forget(&mut self, key: Key) {
        self.keys.iter_mut().filter(|kept| **kept == Some(key)).for_each(|kept| *kept = None);
    }
}
