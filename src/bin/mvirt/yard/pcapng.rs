//! Frames in files: pcapng to write, pcapng and pcap to read.

use super::Failure;
use pcap_file::{
    DataLink, PcapError,
    pcap::PcapReader,
    pcapng::{
        Block, PcapNgReader, PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
        },
    },
};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// if_tsresol for nanoseconds, which the library writes.
const NANOSECONDS: u8 = 9;
/// That of files that do not say: microseconds.
const DEFAULT_RESOLUTION: u8 = 6;
/// What pcapng begins with, in either order of octets.
const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

fn failed(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::Stopped(format!("{}: {error}", path.display()))
}

/// A capture in the making.
pub(super) struct Writer {
    path: PathBuf,
    file: PcapNgWriter<BufWriter<File>>,
    /// By name, in the order in which they were first heard of.
    interfaces: BTreeMap<String, u32>,
}

impl Writer {
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let file = File::create(path).map_err(|error| failed(path, &error))?;
        let file = PcapNgWriter::new(BufWriter::new(file)).map_err(|error| failed(path, &error))?;
        Ok(Self { path: path.into(), file, interfaces: BTreeMap::new() })
    }

    /// Appends a frame of an interface, which may be new. `octets` may be fewer than it had.
    pub(super) fn frame(
        &mut self,
        interface: &str,
        time: Duration,
        len: usize,
        octets: &[u8],
        comment: Option<&str>,
    ) -> Result<(), Failure> {
        let path = self.path.clone();
        let failed = |error: PcapError| failed(&path, &error);
        let interface_id = match self.interfaces.get(interface) {
            Some(id) => *id,
            None => {
                let id = self.interfaces.len() as u32;
                let options = vec![
                    InterfaceDescriptionOption::IfName(interface.into()),
                    InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
                ];
                let linktype = DataLink::ETHERNET;
                let block = InterfaceDescriptionBlock { linktype, snaplen: 0, options };
                self.file.write_pcapng_block(block).map_err(failed)?;
                self.interfaces.insert(interface.into(), id);
                id
            }
        };
        let comment = comment.map(|text| EnhancedPacketOption::Comment(text.into()));
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: time,
            original_len: u32::try_from(len).unwrap_or(u32::MAX),
            data: octets.into(),
            options: comment.into_iter().collect(),
        };
        self.file.write_pcapng_block(block).map_err(failed).map(|_| ())
    }

    /// Puts what has been appended into the file, for whoever reads it now.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        let flushed = self.file.get_mut().flush();
        flushed.map_err(|error| failed(&self.path, &error))
    }
}

/// The frames of a file, and when each was captured.
pub(super) fn read(path: &Path) -> Result<Vec<(Duration, Vec<u8>)>, Failure> {
    let wrong = |error: &dyn std::fmt::Display| failed(path, error);
    let octets = std::fs::read(path).map_err(|error| wrong(&error))?;
    let frames = if octets.starts_with(&SECTION) { pcapng(&octets) } else { pcap(&octets) };
    let frames = frames.map_err(|error| wrong(&error))?;
    frames.ok_or_else(|| wrong(&"frames of another kind than Ethernet"))
}

type Frames = Result<Option<Vec<(Duration, Vec<u8>)>>, PcapError>;

fn pcapng(octets: &[u8]) -> Frames {
    let mut reader = PcapNgReader::new(BufReader::new(octets))?;
    let mut frames = Vec::new();
    while let Some(block) = reader.next_block() {
        let Block::EnhancedPacket(packet) = block? else { continue };
        let (ticks, octets) = (packet.timestamp.as_nanos(), packet.data.to_vec());
        let id = packet.interface_id as usize;
        let interface = reader.interfaces().get(id);
        let Some(interface) = interface.filter(|it| it.linktype == DataLink::ETHERNET) else {
            return Ok(None);
        };
        let resolution = interface.options.iter().find_map(|option| match option {
            InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
            _ => None,
        });
        frames.push((time(ticks, resolution.unwrap_or(DEFAULT_RESOLUTION)), octets));
    }
    Ok(Some(frames))
}

/// A time in units of 10^-resolution seconds, or 2^-resolution with the highest bit set.
fn time(ticks: u128, resolution: u8) -> Duration {
    let exponent = i32::from(resolution & 0x7f);
    let unit = if resolution & 0x80 == 0 { 10_f64.powi(-exponent) } else { 2_f64.powi(-exponent) };
    match resolution {
        // The usual ones exactly.
        6 => Duration::from_micros(u64::try_from(ticks).unwrap_or(u64::MAX)),
        9 => Duration::from_nanos(u64::try_from(ticks).unwrap_or(u64::MAX)),
        _ => Duration::try_from_secs_f64(ticks as f64 * unit).unwrap_or(Duration::MAX),
    }
}

fn pcap(octets: &[u8]) -> Frames {
    let mut reader = PcapReader::new(octets)?;
    if reader.header().datalink != DataLink::ETHERNET {
        return Ok(None);
    }
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet?;
        frames.push((packet.timestamp, packet.data.into_owned()));
    }
    Ok(Some(frames))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read_and_told_by_others() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("capture.pcapng");
        let mut writer = Writer::create(&path).unwrap();
        let at = |nanos| Duration::new(1_700_000_000, nanos);
        writer.frame("a", at(1), 14, &[1; 14], None).unwrap();
        writer.frame("b", at(2), 9000, &[2; 15], Some("verdict=forwarded")).unwrap();
        writer.frame("a", at(3), 16, &[3; 16], None).unwrap();
        writer.flush().unwrap();
        let frames = read(&path).unwrap();
        assert_eq!(frames, [(at(1), vec![1; 14]), (at(2), vec![2; 15]), (at(3), vec![3; 16])]);
        // Of the second frame: interface 1, time, both lengths; then its comment.
        let octets = std::fs::read(&path).unwrap();
        let has = |part: &[u8]| octets.windows(part.len()).any(|at| at == part);
        let lens = [15_u32.to_le_bytes(), 9000_u32.to_le_bytes()].concat();
        assert!(has(&lens) || has(&[15_u32.to_be_bytes(), 9000_u32.to_be_bytes()].concat()));
        assert!(has(b"verdict=forwarded") && has(b"\x02\0\x01\0a\0\0\0"));
        std::fs::write(&path, b"junk").unwrap();
        assert!(read(&path).is_err());
    }

    #[test]
    fn classic_files_and_other_resolutions_are_read() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("capture.pcap");
        let mut octets = Vec::new();
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1, 7, 500_000, 14, 14] {
            octets.extend(word.to_le_bytes());
        }
        octets.extend([9; 14]);
        std::fs::write(&path, &octets).unwrap();
        assert_eq!(read(&path).unwrap(), [(Duration::from_millis(7500), vec![9; 14])]);
        octets[20] = 101;
        std::fs::write(&path, &octets).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("another kind than Ethernet"));
        assert_eq!(time(7_500_000, 6), Duration::from_millis(7500));
        assert_eq!(time(7500, 3), Duration::from_millis(7500));
        assert_eq!(time(30, 0x82), Duration::from_millis(7500));
    }
}
