//! The kernel's links, addresses, routes and proxied neighbours, asked and changed by rtnetlink(7).

use crate::addr::MacAddr;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage},
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::{io, net::IpAddr};

/// Tells our routes and neighbours from others, which are the administrator's.
// Any that rt_protos names for nobody (iproute2 `etc/iproute2/rt_protos`).
pub(super) const OUR_PROTOCOL: u8 = 109;
const OURS: RouteProtocol = RouteProtocol::Other(OUR_PROTOCOL);

/// An interface, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Link(pub(super) u32);

/// An address of the host's, with the subnet that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) link: Link,
    pub(super) address: IpAddr,
    pub(super) subnet: IpNet,
}

/// An address that an interface is to answer for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Proxy {
    pub(super) link: Link,
    pub(super) address: IpAddr,
}

/// An interface that is up, whose neighbours are found by ARP and solicitations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ethernet {
    pub(super) link: Link,
    pub(super) name: String,
    pub(super) mac: MacAddr,
}

/// What an interface is, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) is_tun: bool,
    pub(super) is_up: bool,
    /// Whether a process has it open, of a TUN device.
    pub(super) is_open: bool,
    pub(super) mtu: u32,
}

/// A socket to the kernel, of the network namespace that it was opened in.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Lists are cut by the kernel then, as to our routes: a router may have a million others.
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request. Returns what the kernel answers.
    pub(super) fn ask(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        (header.flags, header.sequence_number) = (NLM_F_REQUEST | flags, self.sequence);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut octets = vec![0; message.buffer_len()];
        message.serialize(&mut octets);
        self.socket.send(&octets, 0)?;
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for (_, message) in messages(&datagram) {
                // What this program does not know is of no interest to it.
                let Ok(message) = NetlinkMessage::deserialize(message) else { continue };
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    _ => {}
                }
            }
        }
    }

    fn change(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.ask(request, NLM_F_ACK | flags).map(drop)
    }

    /// Sets an interface up, with this MTU.
    pub(super) fn set_up(&mut self, Link(index): Link, mtu: u16) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes.push(LinkAttribute::Mtu(mtu.into()));
        self.change(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Deletes an interface, and with it its routes.
    pub(super) fn delete_link(&mut self, Link(index): Link) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        self.change(RouteNetlinkMessage::DelLink(link), 0)
    }

    /// Returns what an interface is.
    pub(super) fn device(&mut self, Link(index): Link) -> io::Result<Device> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        let answers = self.ask(RouteNetlinkMessage::GetLink(link), NLM_F_ACK)?;
        answers.into_iter().find_map(device).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Returns the addresses that the host itself has on other interfaces.
    pub(super) fn addresses_but_of(&mut self, Link(index): Link) -> io::Result<Vec<Own>> {
        let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.ask(all, NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(|answer| own_address(answer, index)).collect())
    }

    /// Returns the interfaces that are Ethernet, and up.
    pub(super) fn ethernets(&mut self) -> io::Result<Vec<Ethernet>> {
        let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
        Ok(self.ask(all, NLM_F_DUMP)?.into_iter().filter_map(ethernet).collect())
    }

    /// Returns the addresses that this program has interfaces answer for.
    pub(super) fn proxies(&mut self) -> io::Result<Vec<Proxy>> {
        let mut all = NeighbourMessage::default();
        all.header.flags = NeighbourFlags::Proxy;
        let answers = self.ask(RouteNetlinkMessage::GetNeighbour(all), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(own_proxy).collect())
    }

    /// Has an interface answer for an address. Returns whether it did not yet: one that somebody
    /// else has it answer for is fine.
    pub(super) fn add_proxy(&mut self, at: Proxy) -> io::Result<bool> {
        let neighbour = RouteNetlinkMessage::NewNeighbour(neighbour(at));
        match self.change(neighbour, NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn delete_proxy(&mut self, at: Proxy) -> io::Result<()> {
        match self.change(RouteNetlinkMessage::DelNeighbour(neighbour(at)), 0) {
            // Gone meanwhile, with its interface maybe.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            deleted => deleted,
        }
    }

    /// Returns the prefixes that this program has routed, and to which interface each.
    pub(super) fn routes(&mut self) -> io::Result<Vec<(IpNet, Link)>> {
        let mut ours = RouteMessage::default();
        ours.header.protocol = OURS;
        let answers = self.ask(RouteNetlinkMessage::GetRoute(ours), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(own_route).collect())
    }

    /// Routes a prefix to an interface. An error: it is routed elsewhere already.
    pub(super) fn add_route(&mut self, prefix: IpNet, link: Link) -> io::Result<()> {
        let route = RouteNetlinkMessage::NewRoute(route(prefix, link));
        self.change(route, NLM_F_CREATE | NLM_F_EXCL)
    }

    pub(super) fn delete_route(&mut self, prefix: IpNet, link: Link) -> io::Result<()> {
        match self.change(RouteNetlinkMessage::DelRoute(route(prefix, link)), 0) {
            // Gone meanwhile (ESRCH).
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            deleted => deleted,
        }
    }
}

/// Returns the messages of a datagram, each with its type, up to one that is not whole.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        // The header has 16 octets (netlink(7)).
        let [a, b, c, d, e, f, ..] = *rest.first_chunk::<16>()?;
        let len = u32::from_ne_bytes([a, b, c, d]) as usize;
        let message = rest.get(..len).filter(|_| len >= 16)?;
        // Each begins at a multiple of four octets.
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((u16::from_ne_bytes([e, f]), message))
    })
}

fn own_address(answer: RouteNetlinkMessage, but_of: u32) -> Option<Own> {
    let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
    if message.header.index == but_of {
        return None;
    }
    let (mut address, mut local) = (None, None);
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Address(found) => address = Some(found),
            AddressAttribute::Local(found) => local = Some(found),
            _ => {}
        }
    }
    // Of a point-to-point link, the first is the other end's (rtnetlink(7), IFA_LOCAL).
    let (address, subnet) = (local.or(address)?, address.or(local)?);
    let subnet = IpNet::new(subnet, message.header.prefix_len).ok()?;
    Some(Own { link: Link(message.header.index), address, subnet })
}

fn device(answer: RouteNetlinkMessage) -> Option<Device> {
    let RouteNetlinkMessage::NewLink(message) = answer else { return None };
    let flags = message.header.flags;
    let (mut is_tun, mut mtu) = (false, 0);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::LinkInfo(infos) => {
                is_tun = infos.contains(&LinkInfo::Kind(InfoKind::Tun))
            }
            LinkAttribute::Mtu(octets) => mtu = octets,
            _ => {}
        }
    }
    let (is_up, is_open) = (flags.contains(LinkFlags::Up), flags.contains(LinkFlags::LowerUp));
    Some(Device { is_tun, is_up, is_open, mtu })
}

fn ethernet(answer: RouteNetlinkMessage) -> Option<Ethernet> {
    let RouteNetlinkMessage::NewLink(message) = answer else { return None };
    let header = &message.header;
    // One that is down has forgotten for whom it answered once it is up.
    let is_one = header.link_layer_type == LinkLayerType::Ether
        && header.flags.contains(LinkFlags::Up)
        && !header.flags.intersects(LinkFlags::Noarp | LinkFlags::Loopback);
    if !is_one {
        return None;
    }
    let (mut name, mut mac) = (None, None);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(found) => name = Some(found),
            LinkAttribute::Address(octets) => mac = octets.try_into().ok().map(MacAddr),
            _ => {}
        }
    }
    Some(Ethernet { link: Link(header.index), name: name?, mac: mac? })
}

fn own_proxy(answer: RouteNetlinkMessage) -> Option<Proxy> {
    let RouteNetlinkMessage::NewNeighbour(message) = answer else { return None };
    let is_ours = message.attributes.contains(&NeighbourAttribute::Protocol(OURS));
    if !message.header.flags.contains(NeighbourFlags::Proxy) || !is_ours {
        return None;
    }
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(it)) => Some(IpAddr::V4(*it)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(it)) => Some(IpAddr::V6(*it)),
        _ => None,
    })?;
    Some(Proxy { link: Link(message.header.ifindex), address })
}

fn neighbour(Proxy { link: Link(index), address }: Proxy) -> NeighbourMessage {
    let (family, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
    };
    let mut neighbour = NeighbourMessage::default();
    neighbour.header.family = family;
    neighbour.header.ifindex = index;
    neighbour.header.flags = NeighbourFlags::Proxy;
    neighbour.attributes =
        vec![NeighbourAttribute::Destination(destination), NeighbourAttribute::Protocol(OURS)];
    neighbour
}

fn own_route(answer: RouteNetlinkMessage) -> Option<(IpNet, Link)> {
    let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
    if message.header.protocol != OURS {
        return None;
    }
    let link = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(Link(*index)),
        _ => None,
    })?;
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    Some((IpNet::new(destination, message.header.destination_prefix_length).ok()?, link))
}

fn route(prefix: IpNet, Link(index): Link) -> RouteMessage {
    let (family, destination) = match prefix {
        IpNet::V4(prefix) => (AddressFamily::Inet, RouteAddress::Inet(Ipv4Net::network(&prefix))),
        IpNet::V6(prefix) => (AddressFamily::Inet6, RouteAddress::Inet6(Ipv6Net::network(&prefix))),
    };
    let mut route = RouteMessage::default();
    route.header.address_family = family;
    route.header.destination_prefix_length = prefix.prefix_len();
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = OURS;
    route.header.scope = RouteScope::Link;
    route.header.kind = RouteType::Unicast;
    route.attributes = vec![RouteAttribute::Destination(destination), RouteAttribute::Oif(index)];
    route
}
