//! What each kind of locator says, a struct a kind. What is absent was not said.

pub use super::places::{Forward, Host, HostPort};
use crate::addr::MacAddr;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

/// Who may open a socket that is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Its permissions.
    pub mode: Option<u16>,
    /// Its group, by name or number.
    pub group: Option<String>,
}

/// `switch://` and `hub://`: a directory that VDE's clients connect to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// The directory; empty: the user's own, `/tmp/vdenode_USER`.
    pub directory: PathBuf,
    /// Who may open its sockets.
    pub access: Access,
    /// The directory's permissions.
    pub directory_mode: Option<u16>,
    /// Taken since VDE has it; of no effect: the network's table is its own.
    pub hash_size: Option<u32>,
    /// Taken since VDE has it; of no effect.
    pub hash_seed: Option<u64>,
    /// Seconds after which a MAC is forgotten, where the network does not say.
    pub expire_time: Option<u32>,
    /// How many clients there may be.
    pub max: Option<u16>,
}

/// Which port of somebody's switch is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwitchPort {
    /// By its number; 0 is the management's.
    Number(u32),
    /// Any of a group of ports.
    Group(String),
}

/// `vde://`: a client of somebody's switch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plug {
    /// The switch's directory; empty: the default switch.
    pub directory: PathBuf,
    /// Which port is wanted; any, where nothing is said.
    pub port: Option<SwitchPort>,
    /// Who may open the client's own socket.
    pub access: Access,
}

/// `ptp://`: a cable between two processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Where it is.
    pub path: PathBuf,
    /// Who may open it.
    pub access: Access,
}

/// `seqpacket-listen://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeqpacketListen {
    /// Where clients connect.
    pub path: PathBuf,
    /// Who may.
    pub access: Access,
    /// How many clients there may be.
    pub max: Option<u16>,
}

/// Where clients of a stream connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// By TCP.
    Tcp {
        /// The address.
        address: SocketAddr,
        /// It may be one that others than this host reach.
        insecure: bool,
    },
    /// By a UNIX socket.
    Unix {
        /// Its path.
        path: PathBuf,
        /// Who may open it.
        access: Access,
    },
}

/// `stream-listen://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamListen {
    /// Where clients connect.
    pub listen: Listen,
    /// How many there may be.
    pub max: Option<u16>,
}

/// `stream://`: what listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stream {
    /// By TCP.
    Tcp(HostPort),
    /// At a UNIX socket.
    Unix(PathBuf),
}

/// `dgram://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dgram {
    /// The socket that is made.
    pub local: PathBuf,
    /// The other's.
    pub remote: PathBuf,
    /// Who may open the one that is made.
    pub access: Access,
}

/// `udp://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Udp {
    /// The address that is bound; all, where nothing is said.
    pub address: Option<IpAddr>,
    /// The port that is bound.
    pub port: u16,
    /// Who gets all frames.
    pub remote: HostPort,
}

impl Udp {
    /// Returns what is bound.
    pub fn bound(&self) -> SocketAddr {
        let any = match self.remote.host {
            Host::Address(remote) => unspecified(remote),
            Host::Name(_) => Ipv4Addr::UNSPECIFIED.into(),
        };
        SocketAddr::new(self.address.unwrap_or(any), self.port)
    }
}

/// Returns all addresses of the family of one.
pub fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// `mcast://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mcast {
    /// The group and its port.
    pub group: SocketAddr,
    /// The interface whose network it is in, by name or address.
    pub interface: Option<String>,
    /// How many networks a datagram may cross.
    pub ttl: Option<u8>,
}

/// `tap://`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tap {
    /// The interface's name.
    pub interface: String,
    /// It is to be made, and must not be there yet.
    pub create: bool,
    /// It is to be set up.
    pub up: bool,
    /// What its MAC is to be, on the host's side.
    pub mac: Option<MacAddr>,
    /// What its MTU is to be.
    pub mtu: Option<u16>,
    /// The bridge that it is to be a port of.
    pub master: Option<String>,
}

/// `vxvde://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxvde {
    /// The multicast group that all members are in.
    pub group: IpAddr,
    /// The group's port.
    pub port: u16,
    /// The cloud's number.
    pub vni: Option<u32>,
    /// The users' group, by name or number, that changes the multicast group; empty: one's own.
    pub user_group: Option<String>,
    /// What both tunnels have.
    pub tunnel: Tunnel,
    /// The address that frames are sent from.
    pub bind: Option<IpAddr>,
}

/// What `vxvde://` and `vxlan://` have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// How many networks a datagram may cross.
    pub ttl: Option<u8>,
    /// Octets that may wait in a socket.
    pub receive_buffer: Option<u32>,
    /// Taken since VDE has it; of no effect.
    pub hash_size: Option<u32>,
    /// Seconds after which it is forgotten who has a MAC.
    pub expire_time: Option<u32>,
    /// The interface whose network the group is in.
    pub interface: Option<String>,
}

/// `vxlan://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// The multicast group of all members; not used where `remote` names them.
    pub group: IpAddr,
    /// The port of all members.
    pub port: u16,
    /// The network's number.
    pub vni: u32,
    /// What both tunnels have.
    pub tunnel: Tunnel,
    /// The other members, where there is no group.
    pub remote: Vec<IpAddr>,
    /// The address that is bound.
    pub local: Option<IpAddr>,
    /// Whether it is learned who has a MAC.
    pub learn: bool,
    /// Whom frames are taken from, beside `remote`; empty: from everybody in the group.
    pub allow: Vec<IpNet>,
}

impl Vxlan {
    /// Returns what is bound.
    pub fn bound(&self) -> SocketAddr {
        let to = self.remote.first().unwrap_or(&self.group);
        SocketAddr::new(self.local.unwrap_or(unspecified(*to)), self.port)
    }
}

/// How a DiVES switch says that it is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Advert {
    /// As the others do.
    #[default]
    Auto,
    /// As text.
    Text,
    /// As a socket address.
    Sockaddr,
    /// In both ways.
    Both,
}

/// `dives://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dives {
    /// The group of discovery.
    pub group: SocketAddr,
    /// The address of one's own.
    pub host: Ipv4Addr,
    /// The port of one's own.
    pub port: u16,
    /// Which VLAN.
    pub vlan: u32,
    /// How one says that one is there.
    pub advert: Advert,
    /// Whether the others may say names in place of addresses.
    pub names: bool,
    /// Who may be a peer; empty: the network of `host`.
    pub allow: Vec<IpNet>,
}

/// `switchyard-listen://`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwitchyardListen {
    /// Where clients connect.
    pub address: SocketAddr,
    /// It may be one that others than this host reach.
    pub insecure: bool,
    /// How many clients there may be.
    pub max: Option<u16>,
}

/// `slirp://`, with the names of VDE's options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slirp {
    /// Nothing but the host's forwards.
    pub restricted: bool,
    /// With IPv4; with both, where neither is said.
    pub v4: bool,
    /// With IPv6; with both, where neither is said.
    pub v6: bool,
    /// The gateway's address and network.
    pub host: Option<Ipv4Net>,
    /// The gateway's address and network.
    pub host6: Option<Ipv6Net>,
    /// The guest's name.
    pub hostname: Option<String>,
    /// The first address of DHCP.
    pub dhcp: Option<Ipv4Addr>,
    /// The resolver's address.
    pub nameserver: Option<Ipv4Addr>,
    /// The resolver's address.
    pub nameserver6: Option<Ipv6Addr>,
    /// The guest's domain.
    pub domain: Option<String>,
    /// The gateway's IPv4 address is, for guests, the loopback address of this host.
    pub loopback: bool,
    /// Octets of an IP packet.
    pub mtu: Option<u16>,
    /// Ports of the host's that are a guest's.
    pub tcp_forwards: Vec<Forward>,
    /// Likewise.
    pub udp_forwards: Vec<Forward>,
}
