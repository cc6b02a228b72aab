//! `mvirt nic create`

use super::by_family;
use crate::{
    Failure, complete,
    impair::ImpairFlags,
    l2::Security,
    mask::Notes,
    rate::{self, Rate},
};
use clap::{ArgGroup, Args, ValueEnum};
use mvirt_net::proto::{Addressing, CreateNicRequest, Ipv6Mode, PortSecurity, Transport};

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum AddressingFlag {
    /// A /32 and a /128, the gateway on link
    Host,
    /// The subnet's own mask, everybody on link
    Subnet,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TransportFlag {
    /// A VMM that shares the guest's memory
    VhostUser,
    /// A stream, as QEMU's `-netdev stream`
    Stream,
    /// Datagrams, as QEMU's `-netdev dgram`
    Dgram,
    /// A packet socket
    Seqpacket,
    /// A VDE client
    Vde,
    /// A TAP device, for a container
    Tap,
    /// A TAP device that its VMM opens, as Firecracker does
    Packet,
}

impl From<TransportFlag> for Transport {
    fn from(flag: TransportFlag) -> Self {
        match flag {
            TransportFlag::VhostUser => Self::VhostUser,
            TransportFlag::Stream => Self::Stream,
            TransportFlag::Dgram => Self::Dgram,
            TransportFlag::Seqpacket => Self::Seqpacket,
            TransportFlag::Vde => Self::Vde,
            TransportFlag::Tap => Self::Tap,
            TransportFlag::Packet => Self::Packet,
        }
    }
}

impl From<AddressingFlag> for Addressing {
    fn from(flag: AddressingFlag) -> Self {
        match flag {
            AddressingFlag::Host => Self::Host,
            AddressingFlag::Subnet => Self::Subnet,
        }
    }
}

/// Who may open a vNIC's socket, where it is not as the daemon's flags say.
#[derive(Debug, Args)]
pub(super) struct Socket {
    /// User who owns its socket, by name or number
    #[arg(long, value_name = "USER", help_heading = SOCKET)]
    pub(super) socket_owner: Option<String>,
    /// Group of its socket, by name or number
    #[arg(long, value_name = "GROUP", help_heading = SOCKET)]
    pub(super) socket_group: Option<String>,
    /// In octal, like 0660
    #[arg(long, value_name = "MODE", help_heading = SOCKET)]
    pub(super) socket_mode: Option<String>,
}

const SOCKET: &str = "Who may open its socket";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Ipv6ModeFlag {
    /// One address
    Dhcpv6,
    /// Chosen by the guest in a /64 of its own, for guests without DHCPv6
    Slaac,
}

const EXAMPLES: &str = "\
Examples:
  mvirt nic create prod --name vm1
  mvirt nic create prod --name vm2 --ipv4 10.0.0.10 --queues 4
  mvirt nic create prod --name vm3 --from-guest 1Gbit,200kpps --to-guest 1Gbit";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(group = ArgGroup::new("in").args(["network", "network_flag"]).required(true))]
pub(crate) struct Create {
    /// Network, by name or id
    #[arg(add = complete::networks())]
    network: Option<String>,
    /// Network, for who likes flags
    #[arg(long = "network", value_name = "NETWORK", add = complete::networks())]
    network_flag: Option<String>,
    /// Unique name [default: chosen]
    #[arg(short, long, default_value = "", hide_default_value = true)]
    name: String,
    /// Like 52:54:00:12:34:56 [default: chosen]
    #[arg(long, default_value = "", hide_default_value = true)]
    mac: String,
    /// Address in the network's subnet [default: the lowest free one]
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    ipv4: String,
    /// Address in the network's prefix [default: the lowest free one]
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    ipv6: String,
    /// Prefixes behind the guest, with commas between; may be given several times
    #[arg(long, value_name = "PREFIX", value_delimiter = ',')]
    route: Vec<String>,
    /// How the guest sees the network's subnets
    #[arg(long, default_value = "host")]
    addressing: AddressingFlag,
    /// How the guest comes by its IPv6 addresses
    #[arg(long, value_name = "MODE", default_value = "dhcpv6")]
    ipv6_mode: Ipv6ModeFlag,
    /// Octets of an IP packet, 1280-65535 [default: the network's]
    #[arg(long, default_value = "0", hide_default_value = true)]
    mtu: u32,
    /// Queue pairs offered to the VMM
    #[arg(long, value_name = "N", default_value = "1")]
    queues: u32,
    /// What its guest may send, like 1Gbit, 200kpps or both, with /BURST if wanted
    #[arg(long, value_name = "RATE", value_delimiter = ',')]
    from_guest: Vec<Rate>,
    /// What its guest may get, likewise
    #[arg(long, value_name = "RATE", value_delimiter = ',')]
    to_guest: Vec<Rate>,
    /// How its guest is reached
    #[arg(long, default_value = "vhost-user")]
    transport: TransportFlag,
    /// With --transport tap or packet, the interface's name [default: chosen]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    tap_interface: String,
    /// With --transport dgram, like udp://127.0.0.1:4000->127.0.0.1:4001, the daemon's end first
    /// [default: UNIX sockets in --socket-dir]
    #[arg(long, value_name = "LOCATOR", default_value = "", hide_default_value = true)]
    datagrams: String,
    /// In a switched network, what its guest may send from [default: strict]
    #[arg(long)]
    port_security: Option<Security>,
    /// With --port-security off, MACs that are learned behind it [default: 8]
    #[arg(long, value_name = "COUNT", default_value = "0", hide_default_value = true)]
    mac_limit: u32,
    #[command(flatten)]
    socket: Socket,
    #[command(flatten)]
    impair: ImpairFlags,
    #[command(flatten)]
    notes: Notes,
    /// Check only: create nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// A UUID, which makes the command repeatable
    #[arg(long, value_name = "UUID", default_value = "", hide_default_value = true)]
    id: String,
}

impl Create {
    /// The request that the flags are.
    ///
    /// # Errors
    ///
    /// Two rates of one kind in one direction, a label twice.
    pub(super) fn request(self) -> Result<CreateNicRequest, Failure> {
        let (routed_ipv4_prefixes, routed_ipv6_prefixes) = by_family(self.route);
        let addressing = Addressing::from(self.addressing);
        let ipv6_mode = match self.ipv6_mode {
            Ipv6ModeFlag::Dhcpv6 => Ipv6Mode::Dhcpv6,
            Ipv6ModeFlag::Slaac => Ipv6Mode::Slaac,
        };
        let limit = |flag: &str, rates: &[Rate]| {
            rate::limit(None, rates).map_err(|why| Failure::Usage(format!("{flag}: {why}")))
        };
        Ok(CreateNicRequest {
            // clap lets one of both through.
            network_id: self.network.or(self.network_flag).unwrap_or_default(),
            name: self.name,
            mac_address: self.mac,
            ipv4_address: self.ipv4,
            ipv6_address: self.ipv6,
            routed_ipv4_prefixes,
            routed_ipv6_prefixes,
            id: self.id,
            addressing: addressing.into(),
            queue_pairs: self.queues,
            mtu: self.mtu,
            ipv6_mode: ipv6_mode.into(),
            limit_from_guest: limit("--from-guest", &self.from_guest)?,
            limit_to_guest: limit("--to-guest", &self.to_guest)?,
            port_security: self.port_security.map_or(0, |to| PortSecurity::from(to).into()),
            mac_limit: self.mac_limit,
            transport: Transport::from(self.transport).into(),
            tap_interface: self.tap_interface,
            datagrams: self.datagrams,
            labels: self.notes.marks.labels(Default::default())?,
            boot: self.notes.boot(None),
            description: self.notes.marks.description.unwrap_or_default(),
            socket_owner: self.socket.socket_owner.unwrap_or_default(),
            socket_group: self.socket.socket_group.unwrap_or_default(),
            socket_mode: self.socket.socket_mode.unwrap_or_default(),
            validate_only: self.dry_run,
            impairments: self.impair.asked(),
        })
    }
}
