//! IPv4 headers (RFC 791 §3.1).

use super::{Full, Part, Writer, checksum};
use std::net::Ipv4Addr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, big_endian::U16};

/// Octets of a header without options.
pub const HEADER_LEN: usize = 20;
const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// Octets of a header with all options that it can have.
pub const MAX_HEADER_LEN: usize = 60;

const DONT_FRAGMENT: u16 = 0x4000;
/// The flag of a packet's fragments but the last.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// The bits that say where in its packet a fragment begins, in units of eight octets.
pub const OFFSET: u16 = 0x1fff;

/// The fixed part of an IPv4 header.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Header {
    version_ihl: u8,
    tos: u8,
    total_len: U16,
    identification: U16,
    fragment: U16,
    /// Hops left.
    pub ttl: u8,
    /// What follows, an IANA protocol number.
    pub protocol: u8,
    /// Over the header alone.
    pub checksum: U16,
    source: [u8; 4],
    destination: [u8; 4],
}

impl Header {
    /// The header at the start of `packet`, of which `packet_len` octets exist in all (`packet` may
    /// hold fewer). `None` unless version, header length and total length are consistent.
    #[inline]
    pub fn parse(packet: &[u8], packet_len: usize) -> Option<&Self> {
        let (header, _) = Self::ref_from_prefix(packet).ok()?;
        let (header_len, total_len) = (header.header_len(), header.total_len());
        let consistent = header.version_ihl >> 4 == 4
            && header_len >= HEADER_LEN
            && header_len <= total_len
            && header_len <= packet.len()
            && total_len <= packet_len;
        consistent.then_some(header)
    }

    /// Appends a header without options for a payload of `payload_len` octets.
    pub fn write(
        writer: &mut Writer<'_>,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: u8,
        payload_len: usize,
    ) -> Result<(), Full> {
        let total_len = u16::try_from(HEADER_LEN + payload_len).map_err(|_| Full)?;
        let mut header = Self {
            version_ihl: 0x45,
            tos: 0,
            total_len: U16::new(total_len),
            // With DF set, it identifies nothing: any value will do (RFC 6864 §4.1).
            identification: U16::ZERO,
            fragment: U16::new(DONT_FRAGMENT),
            ttl: 64,
            protocol,
            checksum: U16::ZERO,
            source: source.octets(),
            destination: destination.octets(),
        };
        header.checksum = U16::new(checksum::checksum(header.as_bytes()));
        writer.push(&header)
    }

    /// Whether this is the whole header, of the right version.
    #[inline]
    pub fn has_no_options(&self) -> bool {
        self.version_ihl == 0x45
    }

    /// Octets of the header, options included.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.version_ihl & 15) * 4
    }

    /// Octets of the packet, header included.
    #[inline]
    pub fn total_len(&self) -> usize {
        usize::from(self.total_len.get())
    }

    /// Where from.
    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        self.source.into()
    }

    /// Where to.
    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        self.destination.into()
    }

    /// What tells fragments of one packet from those of others.
    #[inline]
    pub fn identification(&self) -> u16 {
        self.identification.get()
    }

    /// Whether this is one of several fragments.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.fragment.get() & (MORE_FRAGMENTS | OFFSET) != 0
    }

    /// Which part of its packet this is.
    #[inline]
    pub fn part(&self) -> Part {
        let identification = self.identification.get().into();
        // An offset decides before MF: the last fragment has MF clear, like a whole packet.
        match (self.fragment.get() & OFFSET, self.fragment.get() & MORE_FRAGMENTS) {
            (0, 0) => Part::Whole,
            (0, _) => Part::First(identification),
            _ => Part::Later(identification),
        }
    }

    /// Whether a router may cut it into fragments (RFC 791 §3.2: DF is clear).
    #[inline]
    pub fn may_be_cut(&self) -> bool {
        self.fragment.get() & DONT_FRAGMENT == 0
    }

    /// Whether the checksum of a header without options is right.
    #[inline(always)]
    pub fn sum_is_right(&self) -> bool {
        /// A header, as words that can be added.
        #[derive(FromBytes)]
        #[repr(C)]
        struct Words([u8; 8], [u8; 8], [u8; 4]);
        let Words(first, second, third): Words = zerocopy::transmute!(*self);
        // Eight octets are added at a time, in the machine's order: which octet of a word comes
        // first makes no difference (RFC 1071 §2 B). A ones' complement sum is the remainder by
        // 0xffff; 2^16 and 2^64 both leave 1, so wider words and their carries add up to the same.
        // A remainder of 0 means 0xffff and not 0: a header is never all zeros.
        let (sum, carry) = u64::from_ne_bytes(first).overflowing_add(u64::from_ne_bytes(second));
        let third = u64::from(u32::from_ne_bytes(third)) + u64::from(carry);
        let (sum, carry) = sum.overflowing_add(third);
        // A sum that has carried is small: it does not carry again.
        sum.wrapping_add(u64::from(carry)) % 0xffff == 0
    }
}

/// Decrements the TTL of the IPv4 header that starts `packet`, and updates its checksum.
/// The caller has parsed the header and found a TTL above 1.
#[inline]
pub fn decrement_ttl(packet: &mut [u8]) {
    if let Ok((header, _)) = Header::mut_from_prefix(packet) {
        header.ttl = header.ttl.wrapping_sub(1);
        // The word that the TTL is in loses 0x0100, so the complement gains that, end-around carry
        // included; a sum of 0xffff becomes its other form, 0 (RFC 1624 eqn. 3, for this
        // difference).
        let sum = u32::from(header.checksum.get()) + 0x0100;
        header.checksum.set((sum + u32::from(sum >= 0xffff)) as u16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of a UDP packet of 115 octets, from 192.168.0.1 to 192.168.0.199.
    const UDP: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 192, 168, 0, 1,
        192, 168, 0, 199,
    ];

    #[test]
    fn a_header_is_understood() {
        let header = Header::parse(&UDP, 115).unwrap();
        assert_eq!(header.source(), Ipv4Addr::new(192, 168, 0, 1));
        assert_eq!(header.destination(), Ipv4Addr::new(192, 168, 0, 199));
        assert_eq!((header.total_len(), header.ttl, header.protocol), (115, 64, 17));
        assert_eq!((header.part(), header.may_be_cut()), (Part::Whole, false));
        assert!(header.sum_is_right());
        assert_eq!(checksum::checksum(&UDP), 0);
    }

    #[test]
    fn fragments_are_told_apart() {
        let part = |fragment: [u8; 2]| {
            let mut packet = UDP;
            packet[4..8].copy_from_slice(&[0, 7, fragment[0], fragment[1]]);
            let header = Header::parse(&packet, 115).unwrap();
            (header.part(), header.is_fragment(), header.may_be_cut())
        };
        assert_eq!(part([0x00, 0]), (Part::Whole, false, true));
        assert_eq!(part([0x20, 0]), (Part::First(7), true, true));
        assert_eq!(part([0x20, 1]), (Part::Later(7), true, true));
        assert_eq!(part([0x40, 1]), (Part::Later(7), true, false));
    }

    proptest::proptest! {
        #[test]
        fn a_header_is_right_if_its_checksum_is(mut packet: [u8; 20], make_right: bool) {
            packet[0] = 0x45;
            if make_right {
                packet[10..12].fill(0);
                let sum = checksum::checksum(&packet);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            let header = Header::ref_from_bytes(&packet).unwrap();
            proptest::prop_assert_eq!(header.sum_is_right(), checksum::checksum(&packet) == 0);
        }
    }

    #[test]
    fn ttl_is_decremented_with_its_checksum() {
        let mut packet = UDP;
        decrement_ttl(&mut packet);
        assert_eq!(packet[8], 63);
        assert_eq!(checksum::checksum(&packet), 0);
    }

    #[test]
    fn any_header_stays_correct_when_its_ttl_is_decremented() {
        let mut packet = UDP;
        for ttl in 2..=255 {
            let last = if [2, 64, 255].contains(&ttl) { u16::MAX } else { 0 };
            for identification in 0..=last {
                packet[4..6].copy_from_slice(&identification.to_be_bytes());
                packet[8] = ttl;
                packet[10..12].fill(0);
                let sum = checksum::checksum(&packet);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
                let word = |packet: &[u8]| u16::from_be_bytes([packet[8], packet[9]]);
                let before = word(&packet);
                decrement_ttl(&mut packet);
                let updated = checksum::update(sum, before, word(&packet));
                assert_eq!(packet[10..12], updated.to_be_bytes());
            }
        }
    }

    #[test]
    fn inconsistent_lengths_are_refused() {
        assert!(Header::parse(&UDP, 114).is_none(), "total length beyond the packet");
        let with = |at: usize, value: u8| {
            let mut packet = UDP;
            packet[at] = value;
            Header::parse(&packet, 115).is_none()
        };
        assert!(with(0, 0x65), "version 6");
        assert!(with(0, 0x44), "header of 16 octets");
        assert!(with(0, 0x46), "options that are not there");
        assert!(with(3, 19), "total length below the header");
        assert!(Header::parse(&UDP[..19], 115).is_none());
    }
}
