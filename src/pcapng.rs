//! Captures as pcapng (draft-ietf-opsawg-pcapng), block by block: what a file of one has, and a
//! stream.
//!
//! Takes what is to be said, and returns octets; whole blocks alone, so that a stream may be cut
//! wherever it is taken. Times are in nanoseconds since 1970. Octets are in little-endian order,
//! which the first block says.

use crate::addr::MacAddr;
use std::net::IpAddr;

/// Frames begin with an Ethernet header (LINKTYPE_ETHERNET).
const ETHERNET: u16 = 1;
/// if_tsresol: 10^-9 seconds.
const NANOSECONDS: u8 = 9;
/// Octets of an option's value, so that what it is in stays short.
const LONGEST_TEXT: usize = 1024;

mod block {
    pub(super) const SECTION: u32 = 0x0a0d_0d0a;
    pub(super) const INTERFACE: u32 = 1;
    pub(super) const NAMES: u32 = 4;
    pub(super) const STATISTICS: u32 = 5;
    pub(super) const PACKET: u32 = 6;
}

/// What a vNIC or a port is in a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface<'a> {
    /// Its name.
    pub name: &'a str,
    /// More about it.
    pub description: &'a str,
    /// Of a vNIC.
    pub mac: Option<MacAddr>,
    /// The filter that its frames have passed; empty: all.
    pub filter: &'a str,
    /// Octets of a frame that are kept at most.
    pub snaplen: u32,
}

/// Which way a frame goes, as its guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The guest is sent it.
    Inbound = 1,
    /// The guest has sent it.
    Outbound = 2,
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The number of its interface, in the order in which those were written.
    pub interface: u32,
    /// When: nanoseconds since 1970.
    pub time: u64,
    /// Octets that it had.
    pub len: u32,
    /// The first of them.
    pub octets: &'a [u8],
    /// Which way it went.
    pub direction: Direction,
    /// Frames that were lost to the capture since the one before.
    pub lost: u64,
    /// Frames that are the same one have the same.
    pub id: u64,
    /// What became of it; may be empty.
    pub comment: &'a str,
}

/// How much there was of an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Its number.
    pub interface: u32,
    /// When it was counted: nanoseconds since 1970.
    pub time: u64,
    /// Frames that are in the capture, or were to be.
    pub received: u64,
    /// Those of them that were lost to it.
    pub dropped: u64,
}

/// Blocks, one after the other.
#[derive(Debug, Default)]
pub struct Blocks(Vec<u8>);

impl Blocks {
    /// Returns the octets of all blocks since this was last asked.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }

    /// Octets of all blocks that were not taken.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether all blocks were taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Begins a capture.
    pub fn section(&mut self, application: &str) {
        self.block(block::SECTION, |body| {
            // The magic number of the octets' order, version 1.0, and a length that is not known.
            body.u32(0x1a2b_3c4d).u16(1).u16(0).u64(u64::MAX);
            body.text(3, "Linux").text(4, application).end();
        });
    }

    /// Adds an interface. They are numbered from 0.
    pub fn interface(&mut self, interface: &Interface<'_>) {
        self.block(block::INTERFACE, |body| {
            body.u16(ETHERNET).u16(0).u32(interface.snaplen);
            body.text(2, interface.name).text(3, interface.description);
            if let Some(mac) = interface.mac {
                body.option(6, &mac.0);
            }
            body.option(9, &[NANOSECONDS]);
            if !interface.filter.is_empty() {
                // 0: as text that libpcap understands.
                body.option(11, &[&[0], cut(interface.filter).as_bytes()].concat());
            }
            body.end();
        });
    }

    /// Says what addresses are called.
    pub fn names<'a>(&mut self, names: impl IntoIterator<Item = (IpAddr, &'a str)>) {
        let mut names = names.into_iter().peekable();
        if names.peek().is_none() {
            return;
        }
        self.block(block::NAMES, |body| {
            for (address, name) in names {
                let (kind, mut record) = match address {
                    IpAddr::V4(address) => (1, address.octets().to_vec()),
                    IpAddr::V6(address) => (2, address.octets().to_vec()),
                };
                record.extend_from_slice(cut(name).as_bytes());
                record.push(0);
                body.option(kind, &record);
            }
            body.end();
        });
    }

    /// Adds a frame.
    pub fn packet(&mut self, packet: &Packet<'_>) {
        self.block(block::PACKET, |body| {
            body.u32(packet.interface).time(packet.time);
            body.u32(packet.octets.len() as u32).u32(packet.len).padded(packet.octets);
            if !packet.comment.is_empty() {
                body.text(1, packet.comment);
            }
            body.option(2, &(packet.direction as u32).to_le_bytes());
            if packet.lost > 0 {
                body.option(4, &packet.lost.to_le_bytes());
            }
            body.option(5, &packet.id.to_le_bytes()).end();
        });
    }

    /// Says how much there was of an interface.
    pub fn statistics(&mut self, statistics: &Statistics) {
        self.block(block::STATISTICS, |body| {
            let Statistics { interface, time, received, dropped } = *statistics;
            body.u32(interface).time(time);
            body.option(4, &received.to_le_bytes()).option(5, &dropped.to_le_bytes());
            body.option(8, &(received - dropped.min(received)).to_le_bytes()).end();
        });
    }

    fn block(&mut self, kind: u32, write: impl FnOnce(&mut Body<'_>)) {
        let start = self.0.len();
        let mut body = Body(&mut self.0);
        body.u32(kind).u32(0);
        write(&mut body);
        let len = self.0.len() + 4 - start;
        let len = u32::try_from(len).expect("a block is some 65 KiB at most").to_le_bytes();
        self.0.extend_from_slice(&len);
        // At both ends, so that files can be read backwards, too.
        self.0[start + 4..start + 8].copy_from_slice(&len);
    }
}

/// Returns a text, or the beginning of one that is too long.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_TEXT)]
}

/// What is in a block.
struct Body<'a>(&'a mut Vec<u8>);

impl Body<'_> {
    fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// The higher half is first, whatever the order of octets is.
    fn time(&mut self, time: u64) -> &mut Self {
        self.u32((time >> 32) as u32).u32(time as u32)
    }

    fn padded(&mut self, octets: &[u8]) -> &mut Self {
        self.0.extend_from_slice(octets);
        let padding = octets.len().next_multiple_of(4) - octets.len();
        self.0.resize(self.0.len() + padding, 0);
        self
    }

    fn option(&mut self, code: u16, value: &[u8]) -> &mut Self {
        self.u16(code).u16(value.len() as u16).padded(value)
    }

    fn text(&mut self, code: u16, text: &str) -> &mut Self {
        self.option(code, cut(text).as_bytes())
    }

    /// Ends the options, or the records.
    fn end(&mut self) {
        self.u32(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(hex: &str) -> Vec<u8> {
        let hex = hex.replace([' ', '\n'], "");
        let octet = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(octet).collect()
    }

    #[test]
    fn blocks_are_these_octets() {
        let mut blocks = Blocks::default();
        assert!(blocks.is_empty());
        blocks.section("mvirt");
        let section = "0a0d0d0a 38000000 4d3c2b1a 0100 0000 ffffffffffffffff \
            0300 0500 4c696e7578000000 0400 0500 6d76697274000000 00000000 38000000";
        assert_eq!(blocks.len(), 0x38);
        assert_eq!(blocks.take(), octets(section));
        blocks.interface(&Interface {
            name: "vm1",
            description: "prod",
            mac: Some(MacAddr([2, 0x53, 0x59, 0, 0, 1])),
            filter: "udp",
            snaplen: 128,
        });
        let interface = "01000000 44000000 0100 0000 80000000 0200 0300 766d3100 \
            0300 0400 70726f64 0600 0600 0253590000010000 0900 0100 09000000 \
            0b00 0400 00756470 00000000 44000000";
        assert_eq!(blocks.take(), octets(interface));
        blocks.names([("10.0.0.1".parse().unwrap(), "vm1"), ("fd00::1".parse().unwrap(), "vm1")]);
        let names = "04000000 34000000 0100 0800 0a000001 766d3100 \
            0200 1400 fd00000000000000 0000000000000001 766d3100 00000000 34000000";
        assert_eq!(blocks.take(), octets(names));
        let packet = Packet {
            interface: 1,
            time: 0x0102_0304_0506_0708,
            len: 9000,
            octets: &[1, 2, 3, 4, 5],
            direction: Direction::Outbound,
            lost: 3,
            id: 9,
            comment: "verdict=x",
        };
        blocks.packet(&packet);
        let packet_octets = "06000000 5c000000 01000000 04030201 08070605 05000000 28230000 \
            0102030405000000 0100 0900 766572646963743d78000000 0200 0400 02000000 \
            0400 0800 0300000000000000 0500 0800 0900000000000000 00000000 5c000000";
        assert_eq!(blocks.take(), octets(packet_octets));
        blocks.packet(&Packet { lost: 0, comment: "", direction: Direction::Inbound, ..packet });
        let short = "06000000 40000000 01000000 04030201 08070605 05000000 28230000 \
            0102030405000000 0200 0400 01000000 0500 0800 0900000000000000 00000000 40000000";
        assert_eq!(blocks.take(), octets(short));
        blocks.statistics(&Statistics { interface: 1, time: 1 << 32, received: 9, dropped: 2 });
        let statistics = "05000000 40000000 01000000 01000000 00000000 \
            0400 0800 0900000000000000 0500 0800 0200000000000000 \
            0800 0800 0700000000000000 00000000 40000000";
        assert_eq!(blocks.take(), octets(statistics));
        blocks.names([]);
        assert!(blocks.is_empty());
    }

    #[test]
    fn texts_that_are_too_long_are_cut_between_characters() {
        let long = "é".repeat(600);
        let mut blocks = Blocks::default();
        blocks.section(&long);
        let text = String::from_utf8(blocks.take()[40..40 + 1024].to_vec()).unwrap();
        assert_eq!(text, "é".repeat(512));
        let odd = format!("x{long}");
        assert_eq!(cut(&odd).len(), 1023);
    }
}
