//! The Internet checksum (RFC 1071), its incremental update (RFC 1624 eqn. 3) and the
//! pseudo-headers of IPv4 (RFC 9293 §3.1) and IPv6 (RFC 8200 §8.1).

use std::net::{Ipv4Addr, Ipv6Addr};

/// So many octets are worth a loop of their own.
const LONG: usize = 64;

/// A running ones' complement sum, in network octet order.
#[derive(Debug, Clone, Copy, Default)]
pub struct Checksum {
    // Wide enough that carries are folded once, at the end: 2^48 words do not fill it.
    sum: u64,
    /// Whether an odd number of octets went in so far.
    odd: bool,
}

impl Checksum {
    /// An empty sum.
    pub const fn new() -> Self {
        Self { sum: 0, odd: false }
    }

    /// The pseudo-header of a TCP, UDP or ICMP segment over IPv4; `len` is that of the segment.
    pub fn pseudo_ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: u32) -> Self {
        let mut sum = Self::new();
        sum.add(&source.octets());
        sum.add(&destination.octets());
        sum.sum += u64::from(protocol) + u64::from(len >> 16) + u64::from(len & 0xffff);
        sum
    }

    /// The pseudo-header of an upper-layer packet over IPv6; `len` is that of the upper-layer
    /// packet.
    pub fn pseudo_ipv6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, len: u32) -> Self {
        let mut sum = Self::new();
        sum.add(&source.octets());
        sum.add(&destination.octets());
        // The length field has 32 bits here (RFC 8200 §8.1): two words.
        sum.sum += u64::from(protocol) + u64::from(len >> 16) + u64::from(len & 0xffff);
        sum
    }

    /// Adds octets, which continue those added before.
    pub fn add(&mut self, mut octets: &[u8]) {
        if self.odd
            && let Some((first, rest)) = octets.split_first()
        {
            // The lower half of a word that the octets before have begun.
            self.sum += u64::from(*first);
            self.odd = false;
            octets = rest;
        }
        if octets.len() >= LONG {
            // In words of 32 bits, in the machine's order, which the compiler adds many at a time:
            // which octet of a word comes first makes no difference (RFC 1071 §2 B).
            let (words, rest) = octets.as_chunks::<4>();
            let sum = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
            self.sum += u64::from(u16::from_be(fold(sum)));
            octets = rest;
        }
        let (pairs, rest) = octets.as_chunks::<2>();
        for pair in pairs {
            self.sum += u64::from(u16::from_be_bytes(*pair));
        }
        if let [last] = rest {
            self.sum += u64::from(*last) << 8;
            self.odd = true;
        }
    }

    /// Returns the sum, folded into 16 bits. That of a correct packet, with its checksum field, is
    /// 0xffff.
    pub const fn folded(self) -> u16 {
        fold(self.sum)
    }

    /// The checksum to store: the complement of the folded sum.
    pub const fn finish(self) -> u16 {
        !self.folded()
    }

    /// As [`Checksum::finish`], with 0 sent as 0xffff (UDP, RFC 768: 0 means "none").
    pub const fn finish_udp(self) -> u16 {
        match self.finish() {
            0 => 0xffff,
            sum => sum,
        }
    }

    /// Writes the checksum of a TCP or UDP header to its field, at octet `at`. Returns none where
    /// `octets` end before that.
    // As for UDP, also for TCP: to that 0xffff is the same sum as 0.
    pub fn write(self, octets: &mut [u8], at: usize) -> Option<()> {
        octets.get_mut(at..at + 2)?.copy_from_slice(&self.finish_udp().to_be_bytes());
        Some(())
    }
}

/// Adds the words of a sum up, with what they carry.
const fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum of `octets` alone.
pub fn checksum(octets: &[u8]) -> u16 {
    let mut sum = Checksum::new();
    sum.add(octets);
    sum.finish()
}

/// The checksum after one 16-bit word of what it covers changed from `old` to `new` (RFC 1624 eqn.
/// 3).
#[inline]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = (!checksum) as u32 + (!old) as u32 + new as u32;
    // Twice: adding the carries of three words may carry once more.
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    #[test]
    fn matches_the_example_of_rfc_1071() {
        let mut sum = Checksum::new();
        sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
    }

    #[test]
    fn rfc_1624_example_updates_to_zero() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn long_ones_are_summed_as_short_ones_are(octets in vec(any::<u8>(), 0..300)) {
            let mut sum = Checksum::new();
            octets.iter().for_each(|octet| sum.add(&[*octet]));
            prop_assert_eq!(sum.finish(), checksum(&octets));
        }

        #[test]
        fn split_points_do_not_matter(octets in vec(any::<u8>(), 0..300), at: usize) {
            let at = if octets.is_empty() { 0 } else { at % octets.len() };
            let (a, b) = octets.split_at(at);
            let mut sum = Checksum::new();
            sum.add(a);
            sum.add(b);
            prop_assert_eq!(sum.finish(), checksum(&octets));
        }

        #[test]
        fn update_agrees_with_recomputing(
            mut words in vec(any::<u16>(), 2..40),
            at: usize,
            new: u16,
        ) {
            let octets = |words: &[u16]| -> Vec<u8> {
                words.iter().flat_map(|word| word.to_be_bytes()).collect()
            };
            words[0] |= 1; // never all zero: +0 and -0 differ only there
            let at = 1 + at % (words.len() - 1);
            let before = checksum(&octets(&words));
            let old = std::mem::replace(&mut words[at], new);
            prop_assert_eq!(update(before, old, new), checksum(&octets(&words)));
        }
    }
}
