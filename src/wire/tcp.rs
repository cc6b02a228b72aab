//! What the packet path needs of TCP (RFC 9293 §3.1): where its checksum stands.

/// Octets of a header without options.
pub const HEADER_LEN: usize = 20;
/// Where in the header its checksum stands.
pub const CHECKSUM_OFFSET: u16 = 16;
