//! VXLAN headers (RFC 7348 §5), which VDE's clouds have, too.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Octets of the header.
pub const HEADER_LEN: usize = 8;
const _: () = assert!(size_of::<Header>() == HEADER_LEN);
/// The number of the network is valid. The other flags are reserved.
const VNI: u8 = 0x08;

/// A VXLAN header.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Header {
    flags: u8,
    reserved: [u8; 3],
    vni: [u8; 3],
    last: u8,
}

impl Header {
    /// Returns the header of frames of network `vni`, of which the lowest 24 bits count.
    pub fn new(vni: u32) -> Self {
        let [_, vni @ ..] = vni.to_be_bytes();
        Self { flags: VNI, reserved: [0; 3], vni, last: 0 }
    }

    /// Splits a datagram into its header and the frame.
    pub fn parse(datagram: &[u8]) -> Option<(Self, &[u8])> {
        Self::read_from_prefix(datagram).ok()
    }

    /// Returns the number of the network, if there is one.
    pub fn vni(&self) -> Option<u32> {
        let [first, second, third] = self.vni;
        // What is reserved is not looked at (RFC 7348 §5).
        (self.flags & VNI != 0).then(|| u32::from_be_bytes([0, first, second, third]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_octets_of_the_rfc() {
        let header = Header::new(0x12_3456);
        assert_eq!(header.as_bytes(), [0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
        assert_eq!(Header::new(0xff00_0001), Header::new(1));
        let octets = [0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0, 1, 2];
        assert_eq!(Header::parse(&octets), Some((header, &[1, 2][..])));
        assert_eq!(header.vni(), Some(0x12_3456));
        assert_eq!(Header::parse(&octets[..7]), None);
        // Reserved bits do not matter; without the flag there is no number.
        let (strange, _) = Header::parse(&[0xff, 9, 9, 9, 0, 0, 1, 9]).unwrap();
        assert_eq!(strange.vni(), Some(1));
        assert_ne!(strange, Header::new(1));
        assert_eq!(Header::parse(&[0xf7, 0, 0, 0, 0, 0, 1, 0]).unwrap().0.vni(), None);
    }
}
