//! `mvirt capture`: frames of vNICs and ports, into a file or a line each.

use crate::{
    Failure, complete,
    connect::Client,
    described::described,
    output::{self, Output},
    units,
};
use clap::{Args, ValueEnum, ValueHint};
use jiff::{Timestamp, tz::TimeZone};
use mvirt_net::{
    pcapng::{Blocks, Statistics},
    printable::printable,
    proto::{CaptureChunk, CapturePoint, CaptureRequest},
};
use pcap_file::pcapng::{
    Block, PcapNgParser,
    blocks::{
        enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
        interface_description::InterfaceDescriptionOption,
    },
};
use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::Streaming;

const EXAMPLES: &str = "\
Examples:
  mvirt capture vm1 --filter 'tcp port 443'
  mvirt capture --network prod --drops -c 10
  mvirt capture vm1 -w vm1.pcapng
  mvirt capture vm1 -w - | wireshark -k -i -";

/// What a block of a frame begins with, as the daemon writes it.
const PACKET: [u8; 4] = 6_u32.to_le_bytes();

/// Where frames are captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum At {
    /// As they come from a guest
    From,
    /// As they are put into one
    To,
    /// Those that are dropped
    Drops,
}

/// Which frames.
#[derive(Debug, Default, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Flags {
    /// Names or ids of vNICs and ports
    #[arg(value_name = "NIC", add = complete::nics(), required_unless_present = "network")]
    nics: Vec<String>,
    /// Those of a network instead, also such that come later
    #[arg(long, value_name = "NETWORK", conflicts_with = "nics", add = complete::networks())]
    network: Option<String>,
    /// Only these, as pcap-filter(7): `udp port 53 and not host 10.0.0.9`
    #[arg(long, value_name = "EXPR", default_value = "", hide_default_value = true)]
    filter: String,
    /// Write them to a file instead, as pcapng; -: to a pipe
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    write: Option<PathBuf>,
    /// End after so many
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time: seconds, or like 2m
    #[arg(long = "for", value_name = "TIME", value_parser = units::seconds)]
    time: Option<Duration>,
    /// Octets of each that are wanted [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    snaplen: Option<u32>,
    /// Only those that are dropped
    #[arg(long, conflicts_with = "points")]
    drops: bool,
    /// Where: from, to, drops [default: all of these]
    #[arg(long, value_name = "WHERE", value_delimiter = ',', hide_possible_values = true)]
    points: Vec<At>,
    /// The last ones instead, which a daemon with --capture-ring keeps
    #[arg(long)]
    ring: bool,
    /// Say nothing at the end.
    #[arg(skip)]
    is_quiet: bool,
}

impl Flags {
    /// Those of `mvirt extcap`.
    pub(crate) fn of_extcap(
        nic: String,
        filter: String,
        fifo: PathBuf,
        (drops, snaplen): (bool, Option<u32>),
    ) -> Self {
        let (nics, write) = (vec![nic], Some(fifo));
        Self { nics, filter, write, drops, snaplen, is_quiet: true, ..Self::default() }
    }

    fn request(&self) -> CaptureRequest {
        let drops = self.drops.then_some(At::Drops);
        let points = self.points.iter().copied().chain(drops).map(|at| match at {
            At::From => CapturePoint::FromGuest,
            At::To => CapturePoint::ToGuest,
            At::Drops => CapturePoint::Dropped,
        });
        // Whole seconds, and no less than was asked for.
        let seconds = self.time.map_or(0, |time| time.as_secs_f64().ceil() as u32);
        CaptureRequest {
            targets: self.nics.clone(),
            network_id: self.network.clone().unwrap_or_default(),
            filter: self.filter.clone(),
            snaplen: self.snaplen.unwrap_or_default(),
            points: points.map(Into::into).collect(),
            max_packets: self.count.unwrap_or_default(),
            max_seconds: seconds,
            max_octets: 0,
            ring: self.ring,
        }
    }
}

/// What ends a capture from outside.
struct Ends([Signal; 2]);

impl Ends {
    fn new() -> io::Result<Self> {
        Ok(Self([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?]))
    }

    async fn come(&mut self) {
        let [interrupt, terminate] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

pub(crate) async fn run(flags: Flags, client: &mut Client, out: &Output) -> Result<(), Failure> {
    let to = flags.write.as_deref();
    if to == Some(Path::new("-")) && io::stdout().is_terminal() {
        let said = "--write -: a terminal shows no pcapng: expected a pipe, or a file";
        return Err(Failure::Usage(said.into()));
    }
    let mut ends = Ends::new()?;
    let mut chunks = client.capture(flags.request()).await?.into_inner();
    // After the daemon has agreed: what is refused leaves a file as it is.
    let sink = to.map(open).transpose()?;
    let mut capture = Capture { sink, out, parser: None, counted: Vec::new(), lost: 0 };
    let ended = capture.follow(&mut chunks, &mut ends).await;
    drop(chunks);
    let packets = units::counted(capture.counted.iter().sum(), "packet");
    // Wireshark would show it as something that went wrong.
    if !flags.is_quiet {
        output::say(&format!("{packets} captured, {} lost", capture.lost));
    }
    ended
}

fn open(path: &Path) -> Result<Box<dyn Write>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdout()));
    }
    let file = File::create(path);
    let file = file.map_err(|error| Failure::Stopped(format!("{}: {error}", path.display())))?;
    Ok(Box::new(file))
}

struct Capture<'a> {
    /// Absent: frames are told.
    sink: Option<Box<dyn Write>>,
    out: &'a Output,
    parser: Option<PcapNgParser>,
    /// Frames of each interface.
    counted: Vec<u64>,
    lost: u64,
}

/// A frame, as documents tell it.
#[derive(serde::Serialize)]
struct Told<'a> {
    time: String,
    nic: &'a str,
    direction: &'a str,
    length: u32,
    summary: &'a str,
    comment: &'a str,
}

impl Capture<'_> {
    /// Takes what comes, until there is no more or somebody ends it.
    async fn follow(
        &mut self,
        chunks: &mut Streaming<CaptureChunk>,
        ends: &mut Ends,
    ) -> Result<(), Failure> {
        loop {
            let chunk = tokio::select! {
                chunk = chunks.message() => chunk?,
                () = ends.come() => return self.end(),
            };
            let Some(chunk) = chunk else { return Ok(()) };
            self.lost = chunk.lost;
            self.take(&chunk.pcapng)?;
        }
    }

    /// Ends it with the counts that its daemon would have sent.
    fn end(&mut self) -> Result<(), Failure> {
        let Some(sink) = &mut self.sink else { return Ok(()) };
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let mut blocks = Blocks::default();
        for (interface, received) in self.counted.iter().enumerate() {
            blocks.statistics(&Statistics {
                interface: interface as u32,
                time: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
                received: *received,
                dropped: 0,
            });
        }
        sink.write_all(&blocks.take())?;
        Ok(sink.flush()?)
    }

    fn take(&mut self, pcapng: &[u8]) -> Result<(), Failure> {
        if let Some(sink) = &mut self.sink {
            sink.write_all(pcapng)?;
            sink.flush()?;
        }
        let wrong = |error| Failure::Stopped(format!("mvirt-net sent no pcapng: {error}"));
        let mut rest = pcapng;
        if self.parser.is_none() && !rest.is_empty() {
            let (behind, parser) = PcapNgParser::new(rest).map_err(wrong)?;
            (rest, self.parser) = (behind, Some(parser));
        }
        let Some(mut parser) = self.parser.take() else { return Ok(()) };
        while !rest.is_empty() {
            // Of other blocks nothing is told.
            if rest.first_chunk() != Some(&PACKET) {
                (rest, _) = parser.next_raw_block(rest).map_err(wrong)?;
                continue;
            }
            let (behind, block) = parser.next_block(rest).map_err(wrong)?;
            rest = behind;
            if let Block::EnhancedPacket(packet) = block {
                self.packet(&parser, &packet)?;
            }
        }
        self.counted.resize(parser.interfaces().len(), 0);
        self.parser = Some(parser);
        Ok(())
    }

    fn packet(
        &mut self,
        parser: &PcapNgParser,
        packet: &EnhancedPacketBlock<'_>,
    ) -> Result<(), Failure> {
        let interface = packet.interface_id as usize;
        self.counted.resize(parser.interfaces().len(), 0);
        if let Some(counted) = self.counted.get_mut(interface) {
            *counted += 1;
        }
        if self.sink.is_some() {
            return Ok(());
        }
        let name = parser.interfaces().get(interface).and_then(|interface| {
            interface.options.iter().find_map(|option| match option {
                InterfaceDescriptionOption::IfName(name) => Some(&**name),
                _ => None,
            })
        });
        let (mut comment, mut flags) = ("", 0);
        for option in &packet.options {
            match option {
                EnhancedPacketOption::Comment(text) => comment = text,
                EnhancedPacketOption::Flags(value) => flags = *value,
                _ => {}
            }
        }
        // Outbound is what its guest has sent.
        let direction = if flags & 3 == 2 { "from" } else { "to" };
        let summary = described(&packet.data, packet.original_len as usize);
        let nic = name.unwrap_or("?");
        let time = i128::try_from(packet.timestamp.as_nanos()).unwrap_or_default();
        let time = Timestamp::from_nanosecond(time).unwrap_or_default();
        if self.out.is_document() {
            let (time, length) = (time.to_string(), packet.original_len);
            return self.out.event(&Told {
                time,
                nic,
                direction,
                length,
                summary: &summary,
                comment,
            });
        }
        let time = time.to_zoned(TimeZone::system()).strftime("%H:%M:%S%.6f").to_string();
        // Whatever a guest or its owner chose: it stays on its line.
        output::print(&printable(&format!("{time} {direction} {nic} {summary} {comment}")))?;
        output::print("\n")
    }
}
