//! VLAN tags (IEEE 802.1Q-2018 §9.6): four octets each, between a frame's source and its EtherType.

use super::ethernet::{HEADER_LEN, SERVICE_VLAN, TAG_LEN, VLAN};
use std::{fmt, num::NonZeroU16};
use zerocopy::{FromBytes as _, big_endian::U16};

/// The VLAN of a tag, among its 16 bits; the others are its priority.
const VID: u16 = 0x0fff;

/// The number of a VLAN: 1 to 4094.
// 0 names none, and 4095 is reserved (IEEE 802.1Q-2018 Table 9-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VlanId(NonZeroU16);

impl VlanId {
    /// Returns the VLAN of this number, if there can be one.
    pub const fn new(number: u16) -> Option<Self> {
        match NonZeroU16::new(number) {
            Some(number) if number.get() < VID => Some(Self(number)),
            _ => None,
        }
    }

    /// Returns its number.
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    /// Returns the tag of a frame that belongs to it, with the lowest priority.
    pub const fn tag(self) -> [u8; TAG_LEN] {
        let ([a, b], [c, d]) = (VLAN.to_be_bytes(), self.get().to_be_bytes());
        [a, b, c, d]
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The outermost tag of a frame, as a bridge of customers' VLANs sees it: a service tag is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outermost {
    /// It has none.
    None,
    /// It ends within the tag.
    Cut,
    /// It names a priority, and no VLAN.
    Priority,
    /// It names this number, which no VLAN may have.
    Reserved,
    /// It names this VLAN.
    Vlan(VlanId),
}

impl Outermost {
    /// Returns that of a frame.
    pub fn of(frame: &[u8]) -> Self {
        let word = |at: usize| Some(U16::read_from_prefix(frame.get(at..)?).ok()?.0.get());
        if word(HEADER_LEN - 2) != Some(VLAN) {
            return Self::None;
        }
        // A tag without an EtherType behind it is cut, too.
        let (Some(tag), Some(_)) = (word(HEADER_LEN), word(HEADER_LEN + 2)) else {
            return Self::Cut;
        };
        match (tag & VID, VlanId::new(tag & VID)) {
            (0, _) => Self::Priority,
            (_, None) => Self::Reserved,
            (_, Some(vlan)) => Self::Vlan(vlan),
        }
    }
}

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
    fn vlans_are_numbered_from_1_to_4094() {
        assert_eq!([0, 4095, 4096, u16::MAX].map(VlanId::new), [None; 4]);
        assert_eq!([1, 4094].map(|number| VlanId::new(number).unwrap().get()), [1, 4094]);
        assert_eq!(VlanId::new(0x123).unwrap().tag(), [0x81, 0x00, 0x01, 0x23]);
        assert_eq!(VlanId::new(10).unwrap().to_string(), "10");
    }

    #[test]
    fn the_outermost_tag_is_that_of_a_customers_vlan() {
        let outermost = |tail: &[u8]| Outermost::of(&[&[0; 12], tail].concat());
        let vlan = |number| Outermost::Vlan(VlanId::new(number).unwrap());
        assert_eq!(outermost(&[0x81, 0, 0x00, 0x0a, 8, 0]), vlan(10));
        assert_eq!(outermost(&[0x81, 0, 0xef, 0xfe, 8, 0]), vlan(4094), "priority 7, DEI clear");
        assert_eq!(outermost(&[0x81, 0, 0x00, 0x0a, 0x81, 0, 0, 20, 8, 0]), vlan(10));
        assert_eq!(outermost(&[0x81, 0, 0xe0, 0x00, 8, 0]), Outermost::Priority);
        assert_eq!(outermost(&[0x81, 0, 0x0f, 0xff, 8, 0]), Outermost::Reserved);
        assert_eq!(outermost(&[0x88, 0xa8, 0, 10, 0x81, 0, 0, 10, 8, 0]), Outermost::None);
        assert_eq!(outermost(&[0x08, 0x00, 0x45]), Outermost::None);
        for cut in [&[0x81, 0][..], &[0x81, 0, 0], &[0x81, 0, 0, 10], &[0x81, 0, 0, 10, 8]] {
            assert_eq!(outermost(cut), Outermost::Cut, "{cut:?}");
        }
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
