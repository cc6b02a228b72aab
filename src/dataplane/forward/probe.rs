//! Probes that find loops: frames that a port sends, and that must come back by no other.
//!
//! Takes a port's name and writes its probe; takes a frame that came by a port and returns what
//! that says. A probe of another daemon is a frame as any: two of them that are cabled twice each
//! find their own. Only who has the key can make one, and who repeats one that it has heard says
//! but that its own port is in a loop.

use super::tables::{NetworkKey, PortId};
use crate::{
    addr::MacAddr,
    wire::{Full, Writer, ethernet},
};
use std::hash::{BuildHasher as _, RandomState};
use zerocopy::big_endian::U16;

/// Where probes go: a locally administered group.
const GROUP: MacAddr = MacAddr([0x01, 0x53, 0x59, 0, 0, 1]);
/// An EtherType for experiments (IEEE 802, clause 9.2.3).
const ETHER_TYPE: u16 = 0x88b5;
/// What the payload begins with: a name, version 1, no flags.
const MAGIC: [u8; 8] = *b"MVLG\x01\0\0\0";
const SIGNED_LEN: usize = 52;

/// What a frame says that came by a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// It is a probe that none of the daemon's reactors has sent.
    Forged,
    /// The port it came by and the one that has sent it are in a loop, and this one is the later.
    Loop,
    /// Likewise, but the other one is the later, and will find that. Or it came back where it was
    /// sent.
    Own,
}

/// Makes probes, and knows its own. All reactors of a daemon have the same.
#[derive(Debug, Clone)]
pub struct Prober {
    daemon: [u8; 16],
    key: RandomState,
}

impl Default for Prober {
    fn default() -> Self {
        // The standard library has its seeds from the system.
        let random = || RandomState::new().hash_one(0).to_be_bytes();
        let mut daemon = [0; 16];
        let (high, low) = daemon.split_at_mut(8);
        high.copy_from_slice(&random());
        low.copy_from_slice(&random());
        Self { daemon, key: RandomState::new() }
    }
}

impl Prober {
    /// Writes the probe of a port, the number `counter` that it sends.
    pub fn write(
        &self,
        network: NetworkKey,
        port: PortId,
        counter: u32,
        writer: &mut Writer<'_>,
    ) -> Result<(), Full> {
        let [a, b, c, ..] = self.daemon;
        writer.push(&ethernet::Header {
            destination: GROUP,
            source: MacAddr([0x02, 0x53, 0x59, a, b, c]),
            ether_type: U16::new(ETHER_TYPE),
        })?;
        let start = writer.len();
        writer.push_slice(&MAGIC)?;
        writer.push_slice(&self.daemon)?;
        writer.push_zeros(8)?;
        writer.push_slice(&network.0.to_be_bytes())?;
        writer.push_slice(&port.slot.to_be_bytes())?;
        writer.push_slice(&port.generation.to_be_bytes())?;
        writer.push_slice(&counter.to_be_bytes())?;
        let hash = self.key.hash_one(writer.since(start));
        writer.push_slice(&hash.to_be_bytes())
    }

    /// Returns what a frame says that came by `port`; none where it is no probe of this daemon.
    #[inline]
    pub(super) fn judge(&self, network: NetworkKey, port: PortId, frame: &[u8]) -> Option<Finding> {
        // Nearly all frames end here.
        if !frame.starts_with(&GROUP.0) {
            return None;
        }
        self.judge_probe(network, port, frame)
    }

    #[cold]
    fn judge_probe(&self, network: NetworkKey, port: PortId, frame: &[u8]) -> Option<Finding> {
        let (header, payload) = ethernet::Header::parse(frame)?;
        let (signed, rest) = payload.split_at_checked(SIGNED_LEN)?;
        let ours = signed.strip_prefix(&MAGIC)?.strip_prefix(&self.daemon)?;
        if header.ether_type.get() != ETHER_TYPE {
            return None;
        }
        let word = |at: usize| Some(u32::from_be_bytes(*ours.get(at..)?.first_chunk()?));
        let sent_by = PortId { slot: word(16)?, generation: word(20)? };
        let hash = self.key.hash_one(signed).to_be_bytes();
        Some(if !rest.starts_with(&hash) {
            Finding::Forged
        } else if ours.get(8..16) != Some(&network.0.to_be_bytes()) {
            // From one network into another: nothing comes back.
            Finding::Own
        } else if port > sent_by {
            Finding::Loop
        } else {
            Finding::Own
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(slot: u32) -> PortId {
        PortId { slot, generation: 1 }
    }

    #[test]
    fn a_probe_is_known_by_who_has_its_key_and_by_nobody_else() {
        let (prober, other) = (Prober::default(), Prober::default());
        let mut buffer = [0; 100];
        let mut writer = Writer::new(&mut buffer);
        prober.write(NetworkKey(7), port(2), 1, &mut writer).unwrap();
        let frame = writer.since(0).to_vec();
        assert_eq!((frame.len(), &frame[12..18]), (14 + 60, &b"\x88\xb5MVLG"[..]));
        let came_by = |prober: &Prober, slot| prober.judge(NetworkKey(7), port(slot), &frame);
        assert_eq!(came_by(&prober, 1), Some(Finding::Own), "the other port finds it");
        assert_eq!(came_by(&prober, 2), Some(Finding::Own));
        assert_eq!(came_by(&prober.clone(), 3), Some(Finding::Loop));
        assert_eq!(came_by(&other, 3), None, "another daemon's");
        assert_eq!(prober.judge(NetworkKey(8), port(3), &frame), Some(Finding::Own));
        for at in 38..frame.len() {
            let mut forged = frame.clone();
            forged[at] ^= 1;
            let found = prober.judge(NetworkKey(7), port(3), &forged);
            assert_eq!(found, Some(Finding::Forged), "{at}");
        }
        for len in 0..frame.len() {
            let found = prober.judge(NetworkKey(7), port(3), &frame[..len]);
            assert!(matches!(found, None | Some(Finding::Forged)), "{len}");
        }
    }
}
