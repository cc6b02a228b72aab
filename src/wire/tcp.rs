//! What the packet path needs of TCP (RFC 9293 §3.1): where its parts stand.

/// Octets of a header without options.
pub const HEADER_LEN: usize = 20;
/// Where in the header its sequence number stands.
pub const SEQUENCE_OFFSET: usize = 4;
/// Where in the header its acknowledgement number stands.
pub const ACKNOWLEDGEMENT_OFFSET: usize = 8;
/// Where in the header its flags stand.
pub const FLAGS_OFFSET: usize = 13;
/// Where in the header its checksum stands.
pub const CHECKSUM_OFFSET: u16 = 16;

/// No more data will come.
pub const FIN: u8 = 0x01;
/// Data is to be handed on at once.
pub const PSH: u8 = 0x08;
/// The acknowledgement number counts.
pub const ACK: u8 = 0x10;
/// The ecn window was reduced (RFC 3168 §6.1).
pub const CWR: u8 = 0x80;

/// Octets of the header that `segment` starts with, options included; `None` where it is cut or
/// says nonsense.
pub fn header_len(segment: &[u8]) -> Option<usize> {
    // The data offset: the upper four bits, in words of 32 bits (RFC 9293 §3.1).
    let len = usize::from(segment.get(12)? >> 4) * 4;
    (HEADER_LEN..=segment.len()).contains(&len).then_some(len)
}
