//! The command line, with the flags of the DiVES program: `-h` is an address there, and help is
//! `-?`.

use clap::{ArgAction, Parser, ValueEnum};
use ipnet::IpNet;
use mvirt_net::{
    dives::{advert::Policy, node::Settings},
    locator,
    manual::Generated,
};
use std::{
    io::{self, IsTerminal as _},
    net::{Ipv4Addr, SocketAddrV4},
    os::unix::fs::FileTypeExt as _,
    path::PathBuf,
};

/// What is said behind the flags.
const COMMANDS: &str = "\
Two hosts find each other with no more than -h:
  mvirt-dives -h 10.0.0.1   on the one, with its own address
  mvirt-dives -h 10.0.0.2   on the other

VMs and TAP devices are attached to VLANs by commands, at the console or the socket DIR/ctl:
  vlan 5
  tap t0
  listen localhost 4001     for qemu -nic socket,connect=localhost:4001
  help                      lists all commands

There is no authentication: whoever sends from an address of --allow-peers is a peer.

Exit codes: 0 ended, 1 cannot start or go on, 2 wrong usage or a bad line of a run control file";

/// A distributed Ethernet switch: finds others by multicast, and sends them the frames of its VLANs
/// by UDP.
#[derive(Debug, Parser)]
#[command(
    name = "mvirt-dives",
    version,
    disable_help_flag = true,
    override_usage = "mvirt-dives [options]",
    after_help = COMMANDS
)]
pub(crate) struct Flags {
    /// Show this message
    #[arg(short = '?', long, action = ArgAction::HelpShort)]
    help: Option<bool>,

    /// Run control file: console commands, one a line; may be given several times
    #[arg(short = 'c', value_name = "FILE")]
    pub(crate) run_control: Vec<PathBuf>,

    /// Address of this host, which peers send to
    #[arg(short = 'h', value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: Ipv4Addr,

    /// UDP port there
    #[arg(
        short = 'p', value_name = "PORT", default_value = "3333",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    port: u16,

    /// UDP port that peers are found by
    #[arg(
        short = 'd', value_name = "PORT", default_value = "3535",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    discovery_port: u16,

    /// Group that peers are found by
    #[arg(
        short = 'm', value_name = "ADDRESS", default_value = "239.13.13.13", value_parser = group
    )]
    group: Ipv4Addr,

    /// Directory of the control socket, ctl
    #[arg(short = 'u', value_name = "DIR", default_value = "./")]
    pub(crate) directory: PathBuf,

    /// How peers are told of this switch; auto: as text, but as a socket address where others do
    #[arg(long, value_name = "FORM", default_value = "auto")]
    advert: Form,

    /// Whether to take commands at the standard input [default: on, unless that is like /dev/null]
    #[arg(long, value_name = "WHEN")]
    console: Option<Switch>,

    /// Networks that peers may be in [default: the one of -h]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    allow_peers: Vec<IpNet>,

    /// Print what `make install` installs beside this program
    #[arg(long, hide = true, value_name = "WHAT")]
    pub(crate) generate: Option<Generated>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    Auto,
    Text,
    Sockaddr,
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

fn group(text: &str) -> Result<Ipv4Addr, String> {
    let group = text.parse().ok().filter(Ipv4Addr::is_multicast);
    group.ok_or_else(|| "expected a multicast group, like 239.13.13.13".into())
}

impl Flags {
    /// Where this switch is in which mesh.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            host: self.host,
            port: self.port,
            group: SocketAddrV4::new(self.group, self.discovery_port),
            advert: match self.advert {
                Form::Auto => Policy::Auto,
                Form::Text => Policy::Text,
                Form::Sockaddr => Policy::Binary,
                Form::Both => Policy::Both,
            },
            allow: self.allow_peers.clone(),
        }
    }

    /// What a port that leads to the mesh is made of.
    pub(crate) fn locator(&self, vlan: u32) -> String {
        locator::Locator::Dives(locator::Dives {
            group: SocketAddrV4::new(self.group, self.discovery_port).into(),
            host: self.host,
            port: self.port,
            vlan,
            advert: match self.advert {
                Form::Auto => locator::Advert::Auto,
                Form::Text => locator::Advert::Text,
                Form::Sockaddr => locator::Advert::Sockaddr,
                Form::Both => locator::Advert::Both,
            },
            names: false,
            allow: self.allow_peers.clone(),
        })
        .to_string()
    }

    /// Whether commands are taken at the standard input.
    pub(crate) fn has_console(&self) -> bool {
        let is_readable = || {
            let kind = std::fs::metadata("/proc/self/fd/0").map(|found| found.file_type());
            io::stdin().is_terminal() || kind.is_ok_and(|kind| !kind.is_char_device())
        };
        self.console.map_or_else(is_readable, |console| console == Switch::On)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_no_group_is_wrong_usage_of_its_flag() {
        let refused = Flags::try_parse_from(["mvirt-dives", "-m", "1.2.3.4"]).unwrap_err();
        assert_eq!(refused.exit_code(), 2);
        assert!(refused.to_string().contains("-m <ADDRESS>"), "{refused}");
    }
}
