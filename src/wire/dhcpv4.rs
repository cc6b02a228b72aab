//! The fixed part of DHCPv4 messages (RFC 2131 §2), and the options and message types that the
//! egress of a segment reads and writes (RFC 2132).

use super::{Full, Writer};
use crate::addr::MacAddr;
use std::net::Ipv4Addr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, big_endian::U16};

/// Octets of the fixed part, with the cookie behind it.
pub const HEADER_LEN: usize = 240;
const _: () = assert!(size_of::<Header>() == HEADER_LEN);
/// A client need not take a message shorter than this (RFC 1542 §2.1).
pub const MIN_LEN: usize = 300;

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
/// What shows that options follow (RFC 2131 §3).
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// The client takes nothing but broadcasts yet (RFC 2131 §4.1).
const BROADCAST: u16 = 0x8000;

/// Types of options.
pub mod option {
    /// The mask of the subnet (§3.3).
    pub const SUBNET_MASK: u8 = 1;
    /// Routers (§3.5).
    pub const ROUTER: u8 = 3;
    /// DNS servers (§3.8).
    pub const DNS: u8 = 6;
    /// What the client's host is called (§3.14).
    pub const HOST_NAME: u8 = 12;
    /// The domain of that (§3.17).
    pub const DOMAIN_NAME: u8 = 15;
    /// Octets of a packet on the link (§5.1).
    pub const MTU: u8 = 26;
    /// The address that the client would like (§9.1).
    pub const REQUESTED_ADDRESS: u8 = 50;
    /// Seconds for which an address is leased (§9.2).
    pub const LEASE_TIME: u8 = 51;
    /// What kind of message this is (§9.6).
    pub const MESSAGE_TYPE: u8 = 53;
    /// Which server is meant, or speaks (§9.7).
    pub const SERVER: u8 = 54;
    /// Why not (§9.9).
    pub const MESSAGE: u8 = 56;
    /// Nothing follows (§3.2).
    pub const END: u8 = 255;
}

/// Types of messages (RFC 2132 §9.6).
pub mod kind {
    /// "Who leases an address?"
    pub const DISCOVER: u8 = 1;
    /// "I lease this one."
    pub const OFFER: u8 = 2;
    /// "I take that one."
    pub const REQUEST: u8 = 3;
    /// "Somebody has that one already."
    pub const DECLINE: u8 = 4;
    /// "It is yours."
    pub const ACK: u8 = 5;
    /// "It is not."
    pub const NAK: u8 = 6;
    /// "I need it no longer."
    pub const RELEASE: u8 = 7;
    /// "I have an address; what else is there?"
    pub const INFORM: u8 = 8;
}

/// The fixed part of a message.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    operation: u8,
    hardware_type: u8,
    hardware_len: u8,
    hops: u8,
    transaction: [u8; 4],
    seconds: [u8; 2],
    flags: U16,
    client: [u8; 4],
    yours: [u8; 4],
    server: [u8; 4],
    relay: [u8; 4],
    mac: MacAddr,
    mac_padding: [u8; 10],
    names: [[u8; 64]; 3],
    cookie: [u8; 4],
}

impl Header {
    /// Splits the message of a client on this Ethernet into its fixed part and its options. `None`
    /// where it is another's, cut or of BOOTP alone.
    pub fn parse(message: &[u8]) -> Option<(&Self, &[u8])> {
        let (header, options) = Self::ref_from_prefix(message).ok()?;
        let kind = (header.operation, header.hardware_type, header.hardware_len);
        // Hardware type 1 is Ethernet. What a relay has passed on is of another link.
        let is_ours = kind == (REQUEST, 1, 6) && header.relay == [0; 4];
        (is_ours && header.cookie == COOKIE).then_some((header, options))
    }

    /// The address that the client has already; 0.0.0.0: none.
    pub fn client(&self) -> Ipv4Addr {
        self.client.into()
    }

    /// The client's MAC.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Whether the client takes nothing but broadcasts yet.
    pub fn wants_broadcast(&self) -> bool {
        self.flags.get() & BROADCAST != 0
    }

    /// Appends the fixed part of an answer: `yours` is the client's address from now on, `server`
    /// who speaks.
    pub fn write_reply(
        &self,
        writer: &mut Writer<'_>,
        yours: Ipv4Addr,
        server: Ipv4Addr,
    ) -> Result<(), Full> {
        writer.push(&Self {
            operation: REPLY,
            hops: 0,
            seconds: [0; 2],
            client: [0; 4],
            yours: yours.octets(),
            server: server.octets(),
            names: [[0; 64]; 3],
            ..*self
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discover() -> Vec<u8> {
        let mut message = vec![1, 1, 6, 0, 0xaa, 0xbb, 0xcc, 0xdd, 0, 3, 0x80, 0];
        message.extend([0; 16]);
        message.extend([0x52, 0x54, 0, 0, 0, 9]);
        message.extend([0; 10 + 192]);
        message.extend([99, 130, 83, 99, 53, 1, 1, 255]);
        message
    }

    #[test]
    fn a_request_is_understood_and_its_answer_names_it() {
        let message = discover();
        let (header, options) = Header::parse(&message).unwrap();
        assert_eq!(header.mac(), MacAddr([0x52, 0x54, 0, 0, 0, 9]));
        assert!(header.wants_broadcast() && header.client().is_unspecified());
        assert_eq!(options, [53, 1, 1, 255]);
        let mut buffer = [0; 240];
        let mut writer = Writer::new(&mut buffer);
        let (yours, server) = ([10, 0, 2, 15].into(), [10, 0, 2, 2].into());
        header.write_reply(&mut writer, yours, server).unwrap();
        let expected = [
            2, 1, 6, 0, 0xaa, 0xbb, 0xcc, 0xdd, 0, 0, 0x80, 0, // the same transaction
            0, 0, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2, 0, 0, 0, 0, 0x52, 0x54, 0, 0, 0, 9,
        ];
        assert_eq!(buffer[..34], expected);
        assert!(buffer[34..236].iter().all(|octet| *octet == 0));
        assert_eq!(buffer[236..], [99, 130, 83, 99]);
    }

    #[test]
    fn what_is_no_request_of_this_link_is_refused() {
        // A reply, Token Ring, a long MAC, a relay's, no cookie.
        for (at, value) in [(0, 2), (1, 6), (2, 16), (24, 10), (236, 0)] {
            let mut message = discover();
            message[at] = value;
            assert!(Header::parse(&message).is_none(), "{at}");
        }
        assert!(Header::parse(&discover()[..239]).is_none());
    }
}
