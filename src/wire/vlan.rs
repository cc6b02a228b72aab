//! VLAN tags (IEEE 802.1Q-2018 §9.6): four octets each, between a frame's source and its EtherType.

use super::ethernet::{HEADER_LEN, SERVICE_VLAN, TAG_LEN, VLAN};
use zerocopy::{FromBytes as _, big_endian::U16};

/// The VLAN of a tag, among its 16 bits; the others are its priority.
const VID: u16 = 0x0fff;

/// Where a frame belongs by the tags in front of its packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tagging {
    /// To no VLAN: its packet begins here, its EtherType in the two octets before.
    Untagged(usize),
    /// As [`Tagging::Untagged`], but it has tags, which name a priority alone (§6.9).
    Priority(usize),
    /// To this one.
    Vlan(u16),
}

impl Tagging {
    /// Returns the VLAN; 0 where there is none.
    pub fn vid(self) -> u16 {
        match self {
            Self::Untagged(_) | Self::Priority(_) => 0,
            Self::Vlan(vid) => vid,
        }
    }
}

/// Returns where a frame belongs; none where it ends within a tag, or before it.
// Behind a tag without a VLAN stands what hosts take for an untagged frame, perhaps after more such
// tags: so many are looked behind as there are.
#[inline]
pub fn tagging(frame: &[u8]) -> Option<Tagging> {
    let word = |at: usize| Some(U16::read_from_prefix(frame.get(at..)?).ok()?.0.get());
    let mut at = HEADER_LEN;
    loop {
        let is_tag = matches!(word(at - 2)?, VLAN | SERVICE_VLAN);
        match is_tag {
            false if at == HEADER_LEN => return Some(Tagging::Untagged(at)),
            false => return Some(Tagging::Priority(at)),
            true => {}
        }
        let vid = word(at)? & VID;
        // A tag without an EtherType behind it is cut.
        word(at + 2)?;
        if vid != 0 {
            return Some(Tagging::Vlan(vid));
        }
        at += TAG_LEN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tagged(tail: &[u8]) -> Option<Tagging> {
        tagging(&[&[0; 12], tail].concat())
    }

    #[test]
    fn a_frame_belongs_to_the_first_vlan_that_its_tags_name() {
        assert_eq!(tagged(&[0x08, 0x00]), Some(Tagging::Untagged(14)));
        assert_eq!(tagged(&[0x00, 0x26]), Some(Tagging::Untagged(14)), "LLC: a length");
        assert_eq!(tagged(&[0x81, 0x00, 0xe0, 0x00, 0x08, 0x06]), Some(Tagging::Priority(18)));
        assert_eq!(tagged(&[0x81, 0x00, 0x6f, 0xff, 0x08, 0x06]), Some(Tagging::Vlan(4095)));
        let service = [0x88, 0xa8, 0, 0, 0x81, 0, 0, 0, 0x88, 0xa8, 0x20, 9, 8, 0];
        assert_eq!(tagged(&service), Some(Tagging::Vlan(9)));
        assert_eq!(tagged(&service[..8]), None);
        let ten = [[0x81, 0, 0, 0]; 10].concat();
        assert_eq!(tagged(&ten), None, "nothing but tags");
        assert_eq!(tagged(&[&ten[..], &[0x86, 0xdd]].concat()), Some(Tagging::Priority(54)));
    }

    #[test]
    fn no_frame_is_too_short_to_be_asked() {
        let frame = [&[0; 12][..], &[0x81, 0, 0, 7, 8, 0]].concat();
        for len in 0..18 {
            assert_eq!(tagging(&frame[..len]), None, "{len}");
        }
        assert_eq!(tagging(&frame), Some(Tagging::Vlan(7)));
    }
}
