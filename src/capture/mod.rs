//! Captured frames as pcapng: each with what became of it, in words, and with the checksum that its
//! sender left to be done.
//!
//! ```text
//! dataplane ── chunks of frames ──▶ Writer ── blocks ──▶ whoever captures
//!                                     ▲ who is behind a port: learned as ports are met
//! ```
//! Takes chunks and names, returns octets; no I/O.

mod comment;
mod pairs;

use crate::{
    addr::MacAddr,
    dataplane::{Outcome, Point, Record, forward::tables::PortId},
    pcapng::{self, Blocks, Direction, Packet, Statistics},
    printable::printable,
    wire::{checksum::Checksum, vnet::Offload},
};
use pairs::Pairs;
use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Instant, SystemTime},
};

/// A frame, and its first octets.
pub type Captured<'a> = (&'a Record, &'a [u8]);

/// Who is behind a port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// The name of a vNIC or a port.
    pub name: String,
    /// The network it is in.
    pub network: String,
    /// Of a vNIC.
    pub mac: Option<MacAddr>,
    /// Of a vNIC.
    pub addresses: Vec<IpAddr>,
}

/// Writes a capture.
#[derive(Debug)]
pub struct Writer {
    blocks: Blocks,
    filter: String,
    snaplen: u32,
    /// Both now, when it began.
    clocks: (Instant, SystemTime),
    names: HashMap<PortId, Who>,
    /// By number.
    interfaces: Vec<Statistics>,
    numbers: HashMap<PortId, u32>,
    /// Frames so far, and at most.
    packets: (u64, u64),
    pairs: Pairs,
    octets: Vec<u8>,
}

impl Writer {
    /// Begins one of so many frames at most.
    pub fn new(
        filter: &str,
        snaplen: u32,
        max_packets: u64,
        clocks: (Instant, SystemTime),
    ) -> Self {
        let mut blocks = Blocks::default();
        blocks.section(concat!("mvirt-net ", env!("CARGO_PKG_VERSION")));
        Self {
            blocks,
            filter: filter.into(),
            snaplen,
            clocks,
            names: HashMap::new(),
            interfaces: Vec::new(),
            numbers: HashMap::new(),
            packets: (0, max_packets),
            pairs: Pairs::default(),
            octets: Vec::new(),
        }
    }

    /// Returns what there is to hand on.
    pub fn take(&mut self) -> Vec<u8> {
        self.blocks.take()
    }

    /// Whether there are as many frames as there may be.
    pub fn is_full(&self) -> bool {
        self.packets.0 >= self.packets.1
    }

    /// Returns the ports that frames name, and of which it is not known who is behind them.
    pub fn unknown<'a>(&self, frames: impl Iterator<Item = Captured<'a>>) -> Vec<PortId> {
        let named = frames.flat_map(|(record, _)| {
            let to = if let Outcome::Forwarded(to) = record.outcome { to } else { record.port };
            [record.port, to]
        });
        let mut unknown = named.filter(|port| !self.names.contains_key(port)).collect::<Vec<_>>();
        unknown.sort_unstable();
        unknown.dedup();
        unknown
    }

    /// Learns who is behind a port.
    pub fn learn(&mut self, port: PortId, who: Who) {
        let name = printable(&who.name);
        self.blocks.names(who.addresses.iter().map(|address| (*address, &*name)));
        self.names.insert(port, who);
    }

    /// Makes a port an interface of the capture, if it is none yet. Returns its number.
    pub fn interface(&mut self, port: PortId) -> u32 {
        if let Some(number) = self.numbers.get(&port) {
            return *number;
        }
        let unknown = Who::default();
        let who = self.names.get(&port).unwrap_or(&unknown);
        let network = printable(&who.network);
        let description =
            format!("{network} (checksums that its guest left to be done are completed)");
        self.blocks.interface(&pcapng::Interface {
            name: &name(&self.names, port),
            description: description.trim_start(),
            mac: who.mac,
            filter: &self.filter,
            snaplen: self.snaplen,
        });
        let number = self.interfaces.len() as u32;
        self.interfaces.push(Statistics { interface: number, ..Statistics::default() });
        self.numbers.insert(port, number);
        number
    }

    /// Writes frames, as many as there may be.
    pub fn write<'a>(&mut self, frames: impl Iterator<Item = Captured<'a>>) {
        // A frame is put into a port before it is known of all of its burst what becomes of them.
        let mut frames = frames.collect::<Vec<_>>();
        frames.sort_by_key(|(record, _)| record.time);
        for (record, octets) in frames {
            if self.is_full() {
                return;
            }
            self.packets.0 += 1;
            self.frame(record, octets);
        }
    }

    fn frame(&mut self, record: &Record, octets: &[u8]) {
        let interface = self.interface(record.port);
        self.octets.clear();
        self.octets.extend_from_slice(octets);
        let is_open = complete(&mut self.octets, record);
        let to = if let Outcome::Forwarded(to) = record.outcome {
            name(&self.names, to)
        } else {
            "".into()
        };
        let comment = comment::comment(record, octets, &to, is_open);
        let statistics = &mut self.interfaces[interface as usize];
        statistics.received += 1 + record.lost;
        statistics.dropped += record.lost;
        let direction = match record.point {
            Point::FromGuest => Direction::Outbound,
            Point::ToGuest => Direction::Inbound,
        };
        self.blocks.packet(&Packet {
            interface,
            time: nanoseconds(self.clocks, record.time),
            len: u32::try_from(record.len).unwrap_or(u32::MAX),
            octets: &self.octets,
            direction,
            lost: record.lost,
            id: self.pairs.number(record, octets),
            comment: &comment,
        });
    }

    /// Ends it: says how much there was of each interface.
    pub fn finish(&mut self, now: Instant) {
        let time = nanoseconds(self.clocks, now);
        for statistics in &self.interfaces {
            self.blocks.statistics(&Statistics { time, ..*statistics });
        }
    }
}

/// Returns the name of a port, as it may be shown.
fn name(names: &HashMap<PortId, Who>, port: PortId) -> String {
    match names.get(&port) {
        Some(who) if !who.name.is_empty() => printable(&who.name),
        // Gone before it was asked for.
        _ => format!("port-{}", port.slot),
    }
}

/// Returns a time in nanoseconds since 1970.
fn nanoseconds((instant, system): (Instant, SystemTime), time: Instant) -> u64 {
    let then = match time.checked_duration_since(instant) {
        Some(later) => system + later,
        None => system - instant.duration_since(time),
    };
    let since = then.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Writes the checksum that its sender left to be done. Returns whether it is still open: of a
/// frame that is not all there it cannot be known.
fn complete(octets: &mut [u8], record: &Record) -> bool {
    let (Offload::Checksum { start, offset } | Offload::Segmentation { start, offset, .. }) =
        record.offload
    else {
        return false;
    };
    if octets.len() < record.len {
        return true;
    }
    let Some(summed) = octets.get_mut(usize::from(start)..) else { return true };
    let mut sum = Checksum::new();
    sum.add(summed);
    sum.write(summed, usize::from(offset)).is_none()
}

#[cfg(test)]
mod tests;
