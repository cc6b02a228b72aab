//! Switchyard's fabric protocol, version 1: messages ⇄ octets of a TCP stream.
//!
//! ```text
//! u32 msg_len │ u16 version │ u16 type │ u32 endpoint_id │ u32 flags │ payload
//!             └──────────────────── msg_len octets ──────────────────────────┘
//! ```
//! Every number is in network order. A payload is JSON (see [`super::body`]) or an Ethernet frame.
//! Takes the octets of a stream in pieces of any size; refuses lengths that no message has, and
//! other versions, after which the place in the stream is unknown and nothing more can be read.

use std::{fmt, sync::Arc};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    big_endian::{U16, U32},
};

/// The version spoken here.
pub const VERSION: u16 = 1;
/// Where a fabric listens, and clients look for it.
// The programs of the seed have it; loopback, as the protocol knows no authentication.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:9999";
/// Octets of a frame at most: 64 KiB − 1 of IP behind an Ethernet header.
pub const MAX_PAYLOAD: usize = 65_535 + crate::wire::ethernet::HEADER_LEN;
/// The flag of a subscription that hears every frame of the fabric.
pub const PROMISC: u32 = 1;

/// Octets of the fields that `msg_len` counts.
const COUNTED_LEN: usize = 12;
/// Octets in front of a payload.
pub const HEADER_LEN: usize = 4 + COUNTED_LEN;
const _: () = assert!(size_of::<Header>() == HEADER_LEN);

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    msg_len: U32,
    version: U16,
    kind: U16,
    endpoint_id: U32,
    flags: U32,
}

/// What a message is. A stranger may send any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(pub u16);

impl Kind {
    /// Client to fabric, first of all: who it is.
    pub const HELLO: Self = Self(1);
    /// Fabric to client: the answer.
    pub const WELCOME: Self = Self(2);
    /// Client to fabric: a new endpoint.
    pub const ENDPOINT_CREATE: Self = Self(10);
    /// Fabric to client: its id and MAC.
    pub const ENDPOINT_CREATED: Self = Self(11);
    /// Client to fabric: an endpoint by its name.
    pub const ENDPOINT_LOOKUP: Self = Self(12);
    /// Fabric to client: its id and MAC.
    pub const ENDPOINT_INFO: Self = Self(13);
    /// Client to fabric: to hear what an endpoint hears.
    pub const SUBSCRIBE: Self = Self(20);
    /// Fabric to client: it does.
    pub const SUBSCRIBED: Self = Self(21);
    /// Client to fabric: a frame that an endpoint sends.
    pub const PACKET_OUT: Self = Self(30);
    /// Fabric to client: a frame that an endpoint hears.
    pub const PACKET_IN: Self = Self(31);
    /// Fabric to client: why not.
    pub const ERROR: Self = Self(100);
    /// Client to fabric, with the extension `stats`: what has been counted.
    pub const STATS: Self = Self(1000);
    /// Fabric to client: the answer.
    pub const STATS_REPLY: Self = Self(1001);
    /// Client to fabric, with the extension `capture`: keep frames, and show them. The answer has
    /// the same type, as have those of the next three.
    pub const CAPTURE_START: Self = Self(1010);
    /// Client to fabric: keep none any more.
    pub const CAPTURE_STOP: Self = Self(1011);
    /// Client to fabric, with the extension `impair`: make an endpoint's line a bad one.
    pub const IMPAIR_SET: Self = Self(1020);
    /// Client to fabric, with the extension `filter`: other rules.
    pub const FILTER_SET: Self = Self(1030);
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A message, in either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// The endpoint it is about: that which sends or hears a frame. Else 0.
    pub endpoint: u32,
    /// Those of a subscription. Else 0.
    pub flags: u32,
    /// JSON, or a frame. Shared, as a flooded frame goes to many.
    pub payload: Arc<[u8]>,
}

impl Message {
    /// A message about no endpoint.
    pub fn new(kind: Kind, payload: impl Into<Arc<[u8]>>) -> Self {
        Self { kind, endpoint: 0, flags: 0, payload: payload.into() }
    }

    /// A message about an endpoint, with flags.
    pub fn about(kind: Kind, endpoint: u32, flags: u32, payload: impl Into<Arc<[u8]>>) -> Self {
        Self { kind, endpoint, flags, payload: payload.into() }
    }

    /// Octets that it takes in a stream.
    pub fn wire_len(&self) -> usize {
        HEADER_LEN + self.payload.len()
    }

    /// Appends its octets to those that are to be sent.
    pub fn append_to(&self, stream: &mut Vec<u8>) {
        let msg_len = u32::try_from(COUNTED_LEN + self.payload.len())
            .expect("payloads are bounded where they are made");
        let header = Header {
            msg_len: U32::new(msg_len),
            version: U16::new(VERSION),
            kind: U16::new(self.kind.0),
            endpoint_id: U32::new(self.endpoint),
            flags: U32::new(self.flags),
        };
        stream.extend_from_slice(header.as_bytes());
        stream.extend_from_slice(&self.payload);
    }
}

/// What ends a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The peer speaks another version.
    #[error("protocol version mismatch: {0} != {VERSION}")]
    Version(u16),
    /// No message is as short, or may be as long.
    #[error("msg_len {0}: expected {COUNTED_LEN}-{max}", max = COUNTED_LEN + MAX_PAYLOAD)]
    Length(u32),
}

/// Cuts a stream into messages.
#[derive(Debug, Default)]
pub struct Decoder {
    octets: Vec<u8>,
    /// How many of them have been returned as messages.
    done: usize,
}

impl Decoder {
    /// Takes what came next, of any length.
    pub fn push(&mut self, octets: &[u8]) {
        // What is done is cut off only here: once a read, not once a message.
        self.octets.drain(..self.done);
        self.done = 0;
        self.octets.extend_from_slice(octets);
    }

    /// Returns the next message, if all of it is there.
    ///
    /// # Errors
    ///
    /// The stream cannot be read on.
    pub fn next_message(&mut self) -> Result<Option<Message>, Malformed> {
        let rest = self.octets.get(self.done..).unwrap_or_default();
        // Judged by its first octets: a length of 4 GiB is not waited for, nor another version's
        // idea of a message.
        if let Some((len, _)) = rest.split_first_chunk::<4>() {
            let len = u32::from_be_bytes(*len);
            let max = COUNTED_LEN + MAX_PAYLOAD;
            if !usize::try_from(len).is_ok_and(|len| (COUNTED_LEN..=max).contains(&len)) {
                return Err(Malformed::Length(len));
            }
        }
        if let Some(version) = rest.get(4..6) {
            let version = u16::from_be_bytes([version[0], version[1]]);
            if version != VERSION {
                return Err(Malformed::Version(version));
            }
        }
        let Ok((header, rest)) = Header::ref_from_prefix(rest) else { return Ok(None) };
        let len = header.msg_len.get() as usize - COUNTED_LEN;
        let Some(payload) = rest.get(..len) else { return Ok(None) };
        let message = Message {
            kind: Kind(header.kind.get()),
            endpoint: header.endpoint_id.get(),
            flags: header.flags.get(),
            payload: payload.into(),
        };
        self.done += HEADER_LEN + len;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(pieces: &[&[u8]]) -> Vec<Message> {
        let mut decoder = Decoder::default();
        let mut messages = Vec::new();
        for piece in pieces {
            decoder.push(piece);
            while let Some(message) = decoder.next_message().unwrap() {
                messages.push(message);
            }
        }
        messages
    }

    // seed H.4.10, H.4.18
    #[test]
    fn a_stream_may_be_cut_anywhere() {
        let frame = b"\xff\xff\xff\xff\xff\xff\x02\x53\x59\x00\x00\x01\xbe\xef!";
        let messages = vec![
            Message::new(Kind::HELLO, *b"{}"),
            Message::about(Kind::PACKET_OUT, 0x0102_0304, PROMISC, *frame),
            Message::new(Kind(999), []),
        ];
        let mut stream = Vec::new();
        messages.iter().for_each(|message| message.append_to(&mut stream));
        let golden = [
            &b"\0\0\0\x0e\0\x01\0\x01\0\0\0\0\0\0\0\0{}"[..],
            b"\0\0\0\x1b\0\x01\0\x1e\x01\x02\x03\x04\0\0\0\x01",
            frame,
            b"\0\0\0\x0c\0\x01\x03\xe7\0\0\0\0\0\0\0\0",
        ];
        assert_eq!(stream, golden.concat());
        assert_eq!(decoded(&[&stream]), messages, "many in one piece");
        let octets: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(decoded(&octets), messages, "one octet at a time");
        for at in 0..stream.len() {
            let (first, second) = stream.split_at(at);
            assert_eq!(decoded(&[first, second]), messages, "cut at {at}");
        }
    }

    #[test]
    fn lengths_and_versions_of_no_message_are_refused_at_once() {
        let refused = |octets: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.push(octets);
            decoder.next_message()
        };
        assert_eq!(refused(b"\xff\xff\xff\xff"), Err(Malformed::Length(u32::MAX)));
        assert_eq!(refused(b"\0\0\0\x0b"), Err(Malformed::Length(11)));
        assert_eq!(refused(b"\0\x01\0\x1a"), Err(Malformed::Length(65_562)));
        assert_eq!(refused(b"\0\x01\0\x19"), Ok(None), "the longest frame");
        assert_eq!(refused(b"\0\0\0\x0c\0\x02"), Err(Malformed::Version(2)));
        assert_eq!(Malformed::Version(2).to_string(), "protocol version mismatch: 2 != 1");
        assert_eq!(Malformed::Length(11).to_string(), "msg_len 11: expected 12-65561");
    }
}
