//! Where the fields of a frame are that has no VLAN tag, options or extension headers; those of
//! ICMP are counted from its own beginning.

use std::ops::{Range, RangeFrom};

pub(crate) const TO_MAC: Range<usize> = 0..6;
pub(crate) const FROM_MAC: Range<usize> = 6..12;
pub(crate) const ETHERTYPE: Range<usize> = 12..14;
pub(crate) const PACKET: RangeFrom<usize> = 14..;

/// RFC 791 §3.1.
pub(crate) mod ipv4 {
    use super::{Range, RangeFrom};

    pub(crate) const ETHERTYPE: [u8; 2] = [8, 0];
    pub(crate) const VERSION_IHL: usize = 14;
    pub(crate) const TOTAL_LEN: Range<usize> = 16..18;
    pub(crate) const IDENT: Range<usize> = 18..20;
    /// Flags, and where in its packet a fragment is, in units of eight octets.
    pub(crate) const FRAGMENT: Range<usize> = 20..22;
    pub(crate) const TTL: usize = 22;
    pub(crate) const PROTOCOL: usize = 23;
    pub(crate) const CHECKSUM: Range<usize> = 24..26;
    pub(crate) const ADDRESSES: Range<usize> = 26..34;
    pub(crate) const PAYLOAD: RangeFrom<usize> = 34..;
}

/// RFC 8200 §3.
pub(crate) mod ipv6 {
    use super::{Range, RangeFrom};

    pub(crate) const ETHERTYPE: [u8; 2] = [0x86, 0xdd];
    pub(crate) const NEXT_HEADER: usize = 20;
    pub(crate) const HOP_LIMIT: usize = 21;
    pub(crate) const FROM: Range<usize> = 22..38;
    pub(crate) const PAYLOAD: RangeFrom<usize> = 54..;
}

/// RFC 768, in IPv4 and in IPv6.
pub(crate) mod udp {
    use super::{Range, RangeFrom};

    pub(crate) const CHECKSUM4: Range<usize> = 40..42;
    pub(crate) const PAYLOAD4: RangeFrom<usize> = 42..;
    pub(crate) const PAYLOAD6: RangeFrom<usize> = 62..;
}

/// RFC 792, RFC 4443 §2.1.
pub(crate) mod icmp {
    use super::{Range, RangeFrom};

    pub(crate) const TYPE: usize = 0;
    pub(crate) const CODE: usize = 1;
    pub(crate) const CHECKSUM: Range<usize> = 2..4;
    pub(crate) const MTU: Range<usize> = 4..8;
    /// Behind type, code and checksum.
    pub(crate) const REST: RangeFrom<usize> = 4..;
    pub(crate) const QUOTE: RangeFrom<usize> = 8..;
}

/// RFC 826.
pub(crate) mod arp {
    use super::Range;

    pub(crate) const ETHERTYPE: [u8; 2] = [8, 6];
    pub(crate) const OPERATION: Range<usize> = 20..22;
    pub(crate) const SENDER: Range<usize> = 28..32;
}

/// Neighbour and router advertisements (RFC 4861 §4.2, §4.4).
pub(crate) mod advertisement {
    use super::{Range, RangeFrom};

    pub(crate) const TYPE_CODE: Range<usize> = 54..56;
    pub(crate) const FLAGS: usize = 58;
    pub(crate) const TARGET: Range<usize> = 62..78;
    /// Of its first option, which is the only one of the gateway's.
    pub(crate) const TARGET_MAC: Range<usize> = 80..86;
    /// Of a router's, behind its MAC and the MTU.
    pub(crate) const PREFIX: RangeFrom<usize> = 86..;
}
