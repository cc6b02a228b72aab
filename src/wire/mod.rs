//! Octets ⇄ types, one file a protocol, its RFC in its head.
//!
//! Takes private octets (never guest memory) and returns typed views of them, or `None` where they
//! are too short or inconsistent. Writers put octets into a caller's buffer through [`Writer`].
//! Nothing here does I/O, reads a clock, logs, locks, allocates or decides.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod arp;
pub mod checksum;
pub mod dhcpv4;
pub mod dns;
pub mod dns_answer;
pub mod dns_message;
pub mod ethernet;
pub mod flow;
pub mod group_records;
pub mod icmpv4;
pub mod icmpv6;
pub mod igmp;
pub mod ipv4;
pub mod ipv6;
pub mod mld;
pub mod ndp;
pub mod options;
pub mod tcp;
pub mod udp;
pub mod vde;
pub mod vlan;
pub mod vnet;
pub mod vxlan;
mod writer;

pub use writer::{Full, Writer};

/// Which part of a packet an IP packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// All of it, behind a fragment header (RFC 6946).
    Atomic,
    /// Its beginning, with the identification that all its fragments share.
    First(u32),
    /// What comes later: no header of an upper layer.
    Later(u32),
}

/// IANA protocol numbers used here.
pub mod protocol {
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// ICMP for IPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// Nothing follows (RFC 8200 §4.7).
    pub const NONE: u8 = 59;
}
