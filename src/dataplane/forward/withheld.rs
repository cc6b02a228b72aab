//! Packets whose first fragment the guard refused: later fragments do not show what they are part
//! of, and are refused by what they share with it (RFC 791 §3.2, RFC 8200 §4.5).
//!
//! A few are remembered, without a clock: one is forgotten when the sender begins another packet of
//! the same identification, or when newer ones take its place. Only a guest that sends what it must
//! not has any here. A first fragment that cannot be read is dropped and not remembered: what it
//! was to begin is known to nobody, and its later fragments make no packet without it.

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
    /// What the packet carries, in IPv4 alone: there each protocol counts its own identifications
    /// (RFC 791 §3.2). In IPv6 only the first fragment says it (RFC 8200 §4.5).
    protocol: Option<u8>,
    identification: u32,
}

/// Packets whose first fragment was refused.
#[derive(Debug, Clone, Default)]
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
        let (part, source, destination, protocol) = match &headers.packet {
            Packet::Ipv4(packet) => {
                let protocol = Some(packet.protocol);
                (packet.part, packet.source.into(), packet.destination.into(), protocol)
            }
            Packet::Ipv6(packet) => {
                (packet.part, packet.source.into(), packet.destination.into(), None)
            }
            Packet::Arp(_) => return judged,
        };
        let key = |identification| Key { sender, source, destination, protocol, identification };
        match part {
            Part::Whole | Part::Atomic => judged,
            Part::First(identification) => {
                let key = key(identification);
                // Identifications come round again: this is another packet, perhaps an honest one.
                self.forget(key);
                if judged.is_err() {
                    self.keys[self.next] = Some(key);
                    self.next = (self.next + 1) % REMEMBERED;
                }
                judged
            }
            Part::Later(identification) => {
                let is_refused = self.keys.contains(&Some(key(identification)));
                if is_refused { Err(DropReason::RefusedFragment) } else { judged }
            }
        }
    }

    fn forget(&mut self, key: Key) {
        self.keys.iter_mut().filter(|kept| **kept == Some(key)).for_each(|kept| *kept = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataplane::frame::classify::classify,
        wire::{checksum, protocol, vnet::Offload},
    };

    /// A fragment from 10.0.0.1 to 10.0.0.2 with identification 7.
    fn fragment(protocol: u8, field: [u8; 2]) -> Headers {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 9, 8, 0];
        frame.extend([0x45, 0, 0, 36, 0, 7, field[0], field[1], 64, protocol, 0, 0]);
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0; 16]);
        let sum = checksum::checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        classify(&frame, frame.len(), Offload::None).unwrap()
    }

    #[test]
    fn later_fragments_of_a_refused_packet_are_refused_and_no_others() {
        let [guest, other] = [1, 2].map(|slot| PortId { slot, generation: 1 });
        let (first, later) = ([0x20, 0], [0, 2]);
        let refused = Err(DropReason::RogueDhcpServer);
        let mut withheld = Withheld::default();
        let mut check = |sender, headers, judged| withheld.check(sender, &headers, judged);
        assert_eq!(check(guest, fragment(protocol::UDP, first), refused), refused);
        let part_of_it = Err(DropReason::RefusedFragment);
        assert_eq!(check(guest, fragment(protocol::UDP, later), Ok(())), part_of_it);
        assert_eq!(check(other, fragment(protocol::UDP, later), Ok(())), Ok(()));
        // The same identification, of another protocol: another packet.
        assert_eq!(check(guest, fragment(protocol::TCP, later), Ok(())), Ok(()));
        assert_eq!(check(guest, fragment(protocol::TCP, first), Ok(())), Ok(()));
        assert_eq!(check(guest, fragment(protocol::UDP, later), Ok(())), part_of_it);
        // Identifications come round again.
        assert_eq!(check(guest, fragment(protocol::UDP, first), Ok(())), Ok(()));
        assert_eq!(check(guest, fragment(protocol::UDP, later), Ok(())), Ok(()));
    }
}
