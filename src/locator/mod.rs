//! Locators: one text for any port, `kind://address` and options, in VDE's syntax.
//!
//! Kinds whose address is a path have options in brackets, `PATH[key=value/key=value]`; others
//! behind it, `ADDRESS/key=value/key=value`. Quoting is that of VDE (`lex`). A text without `://`
//! is the directory of a VDE switch.
//!
//! What is read is written again as the shortest text that says the same, and that is read as the
//! same. Nothing is looked up: whether a group, a host or an interface is there, who opens it sees.

mod kinds;
mod lex;
mod places;
mod read;
mod show;
mod specs;
#[cfg(test)]
mod tests;

pub use kinds::{KINDS, Kind, Opt};
pub use specs::*;

use crate::model::PortRole;
use read::{Parts, Rigour};
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

/// What a port is to be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Locator {
    /// Takes every frame and sends none.
    Null,
    /// A VDE switch.
    Switch(Node),
    /// A VDE hub.
    Hub(Node),
    /// A client of a VDE switch.
    Vde(Plug),
    /// A VDE cable between two processes.
    Ptp(Bound),
    /// A packet socket that was inherited, by its descriptor.
    Seqpacket(u32),
    /// Packet sockets that connect.
    SeqpacketListen(SeqpacketListen),
    /// A packet socket that listens, by its path.
    SeqpacketConnect(PathBuf),
    /// The standard streams of a command, by its words.
    Cmd(Vec<String>),
    /// One's own standard streams.
    Stdio,
    /// QEMU's streams that connect.
    StreamListen(StreamListen),
    /// QEMU's stream that listens.
    Stream(Stream),
    /// UNIX datagram sockets.
    Dgram(Dgram),
    /// UDP, to one host.
    Udp(Udp),
    /// UDP, to a multicast group.
    Mcast(Mcast),
    /// A TAP device.
    Tap(Tap),
    /// A macvtap device, by its interface.
    Macvtap(String),
    /// An interface of the host's.
    Packet(String),
    /// A cloud of VDE's.
    Vxvde(Vxvde),
    /// VXLAN tunnels.
    Vxlan(Vxlan),
    /// A mesh of DiVES switches.
    Dives(Dives),
    /// Clients of Switchyard.
    SwitchyardListen(SwitchyardListen),
    /// The world, without privileges.
    Slirp(Slirp),
}

/// Why a text is no locator: which part, and how it is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocatorError {
    /// There is no such kind.
    #[error("no such port kind: {kind}; there are {}", kind_names())]
    UnknownKind {
        /// What was asked for.
        kind: String,
    },
    /// VDE or others have it.
    #[error("no port kind here: {kind}; {instead}")]
    Elsewhere {
        /// The kind.
        kind: String,
        /// What does the same.
        instead: &'static str,
    },
    /// Its kind has no such option.
    #[error("unknown key: {key}; {} has {}", kind.form, option_names(kind))]
    UnknownOption {
        /// The kind.
        kind: &'static Kind,
        /// What is not known.
        key: String,
    },
    /// VDE's kind has such an option, and this one has not.
    #[error("{}: the option {option} is not served here: {why}", kind.name)]
    UnservedOption {
        /// The kind.
        kind: &'static Kind,
        /// Which.
        option: &'static str,
        /// Why.
        why: &'static str,
    },
    /// A quotation mark or backslash after which something is missing.
    #[error("a quotation mark without another, or a backslash at the end")]
    Unfinished,
    /// A control character, which no path and no name has.
    #[error("a control character")]
    ControlCharacter,
    /// A part is not what it should be.
    #[error("{}: {part} `{text}`: expected {expected}; it is written {}", kind.name, kind.form)]
    Wrong {
        /// The kind.
        kind: &'static Kind,
        /// Which part.
        part: String,
        /// What it is.
        text: String,
        /// What it should be.
        expected: String,
    },
}

fn kind_names() -> String {
    KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ")
}

fn option_names(kind: &Kind) -> String {
    match kind.options {
        [] => "no options".into(),
        options => options.iter().map(|option| option.name).collect::<Vec<_>>().join(", "),
    }
}

/// What of the host a port reaches, and so who may ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach<'a> {
    /// Nothing.
    Nothing,
    /// The process that asks: it is for commands, and not for the API.
    Process,
    /// Sockets at these paths.
    Paths(Vec<&'a Path>),
    /// An address that others connect to, or send to.
    Listens(IpAddr),
    /// A host that is connected to.
    Connects(&'a Host),
    /// A network interface.
    Interface(&'a str),
    /// What this host reaches, by its sockets.
    World {
        /// Where it is reached by others itself.
        listens: Vec<IpAddr>,
        /// Whether that is also what listens on its loopback address.
        loopback: bool,
    },
}

impl FromStr for Locator {
    type Err = LocatorError;

    fn from_str(text: &str) -> Result<Self, LocatorError> {
        Self::parse(text, Rigour::Strict)
    }
}

impl Locator {
    /// Reads a locator as VDE's own programs take it: keys may be abbreviated, and the like. For
    /// command lines that were written for those.
    pub fn parse_lenient(text: &str) -> Result<Self, LocatorError> {
        Self::parse(text, Rigour::Lenient)
    }

    fn parse(text: &str, rigour: Rigour) -> Result<Self, LocatorError> {
        let (name, text) = text.split_once("://").unwrap_or(("vde", text));
        let Some(kind) = kinds::find(name) else {
            let elsewhere = kinds::ELSEWHERE.iter().find(|(kind, _)| *kind == name);
            return Err(match elsewhere {
                Some((kind, instead)) => LocatorError::Elsewhere { kind: (*kind).into(), instead },
                None => LocatorError::UnknownKind { kind: name.into() },
            });
        };
        if kind.name == "cmd" {
            return command(kind, text);
        }
        let octets = lex::lex(text).map_err(|unreadable| match unreadable {
            lex::Unreadable::Unfinished => LocatorError::Unfinished,
            lex::Unreadable::ControlCharacter => LocatorError::ControlCharacter,
        })?;
        let is_path = match kind.name {
            "stream" | "stream-listen" => text.starts_with('/'),
            "switch" | "hub" | "vde" | "ptp" | "tap" | "dgram" => true,
            name => name.starts_with("seqpacket"),
        };
        let mut parts = match is_path {
            true => Parts::of_path(kind, &octets, rigour)?,
            false => Parts::of_address(kind, &octets, rigour)?,
        };
        let locator = match kind.name {
            "null" => parts.nothing().map(|()| Self::Null),
            "stdio" => parts.nothing().map(|()| Self::Stdio),
            "switch" => parts.node().map(Self::Switch),
            "hub" => parts.node().map(Self::Hub),
            "vde" => parts.plug().map(Self::Vde),
            "ptp" => parts.bound().map(Self::Ptp),
            "seqpacket" => parts.descriptor().map(Self::Seqpacket),
            "seqpacket-listen" => parts.seqpacket_listen().map(Self::SeqpacketListen),
            "seqpacket-connect" => parts.path().map(Self::SeqpacketConnect),
            "stream-listen" if is_path => parts.stream_listen_unix().map(Self::StreamListen),
            "stream-listen" => parts.stream_listen_tcp().map(Self::StreamListen),
            "stream" if is_path => parts.path().map(Stream::Unix).map(Self::Stream),
            "stream" => parts.stream_tcp().map(Self::Stream),
            "dgram" => parts.dgram().map(Self::Dgram),
            "udp" => parts.udp().map(Self::Udp),
            "mcast" => parts.mcast().map(Self::Mcast),
            "tap" => parts.tap().map(Self::Tap),
            "macvtap" => parts.interface().map(Self::Macvtap),
            "packet" => parts.interface().map(Self::Packet),
            "vxvde" => parts.vxvde().map(Self::Vxvde),
            "vxlan" => parts.vxlan().map(Self::Vxlan),
            "dives" => parts.dives().map(Self::Dives),
            "switchyard-listen" => parts.switchyard_listen().map(Self::SwitchyardListen),
            "slirp" => parts.slirp().map(Self::Slirp),
            name => unreachable!("{name} is in the table of kinds"),
        }?;
        assert!(parts.is_read(), "an option of {name} is in the table, and nobody reads it");
        Ok(locator)
    }

    /// Returns which kind it is of.
    pub fn kind(&self) -> &'static Kind {
        let name = match self {
            Self::Null => "null",
            Self::Switch(_) => "switch",
            Self::Hub(_) => "hub",
            Self::Vde(_) => "vde",
            Self::Ptp(_) => "ptp",
            Self::Seqpacket(_) => "seqpacket",
            Self::SeqpacketListen(_) => "seqpacket-listen",
            Self::SeqpacketConnect(_) => "seqpacket-connect",
            Self::Cmd(_) => "cmd",
            Self::Stdio => "stdio",
            Self::StreamListen(_) => "stream-listen",
            Self::Stream(_) => "stream",
            Self::Dgram(_) => "dgram",
            Self::Udp(_) => "udp",
            Self::Mcast(_) => "mcast",
            Self::Tap(_) => "tap",
            Self::Macvtap(_) => "macvtap",
            Self::Packet(_) => "packet",
            Self::Vxvde(_) => "vxvde",
            Self::Vxlan(_) => "vxlan",
            Self::Dives(_) => "dives",
            Self::SwitchyardListen(_) => "switchyard-listen",
            Self::Slirp(_) => "slirp",
        };
        kinds::find(name).expect("every locator's kind is in the table")
    }

    /// Returns what a port of it leads to, where nothing is said.
    pub fn role(&self) -> PortRole {
        self.kind().role
    }

    /// Returns what of the host it reaches.
    pub fn reach(&self) -> Reach<'_> {
        match self {
            Self::Null => Reach::Nothing,
            // Descriptors and commands are of the process that asks, and not of the daemon.
            Self::Cmd(_) | Self::Stdio | Self::Seqpacket(_) => Reach::Process,
            Self::Switch(node) | Self::Hub(node) => Reach::Paths(vec![&node.directory]),
            Self::Vde(plug) => Reach::Paths(vec![&plug.directory]),
            Self::Ptp(bound) => Reach::Paths(vec![&bound.path]),
            Self::SeqpacketListen(listen) => Reach::Paths(vec![&listen.path]),
            Self::SeqpacketConnect(path) | Self::Stream(Stream::Unix(path)) => {
                Reach::Paths(vec![path])
            }
            Self::Dgram(dgram) => Reach::Paths(vec![&dgram.local, &dgram.remote]),
            Self::StreamListen(StreamListen { listen, .. }) => match listen {
                Listen::Tcp { address, .. } => Reach::Listens(address.ip()),
                Listen::Unix { path, .. } => Reach::Paths(vec![path]),
            },
            Self::SwitchyardListen(listen) => Reach::Listens(listen.address.ip()),
            Self::Stream(Stream::Tcp(to)) => Reach::Connects(&to.host),
            Self::Udp(udp) => Reach::Listens(udp.bound().ip()),
            Self::Vxlan(vxlan) => Reach::Listens(vxlan.bound().ip()),
            Self::Dives(dives) => Reach::Listens(dives.host.into()),
            // Groups are heard from this host alone by its loopback interface.
            Self::Mcast(Mcast { interface: Some(own), .. }) if own == "lo" => Reach::Nothing,
            Self::Mcast(mcast) => Reach::Listens(mcast.group.ip()),
            Self::Vxvde(cloud) => Reach::Listens(cloud.group),
            Self::Tap(tap) => Reach::Interface(&tap.interface),
            Self::Macvtap(name) | Self::Packet(name) => Reach::Interface(name),
            Self::Slirp(slirp) => {
                let forwards = slirp.tcp_forwards.iter().chain(&slirp.udp_forwards);
                Reach::World {
                    listens: forwards.map(|forward| forward.host.ip()).collect(),
                    loopback: slirp.loopback,
                }
            }
        }
    }
}

/// `cmd://COMMAND ARGS`, with the quotes of a shell.
fn command(kind: &'static Kind, text: &str) -> Result<Locator, LocatorError> {
    if text.contains(|c: char| c.is_ascii_control()) {
        return Err(LocatorError::ControlCharacter);
    }
    let words = shlex::split(text).ok_or(LocatorError::Unfinished)?;
    match words.is_empty() {
        false => Ok(Locator::Cmd(words)),
        true => Err(LocatorError::Wrong {
            kind,
            part: "command".into(),
            text: text.into(),
            expected: "a command".into(),
        }),
    }
}
