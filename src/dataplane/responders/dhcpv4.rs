//! DHCPv4 (RFC 2131, options of RFC 2132, RFC 3397, RFC 3442, RFC 4039): one client, one address, leased for ever.
//!
//! There is no lease state: what a guest is told follows from its vNIC. A vNIC is leased its address as /32 with the
//! gateway on link, or with the subnet's mask where it asks for that.

use super::{
    super::{
        classify::Ipv4,
        snapshot::{Addressing, GATEWAY_IPV4, NetworkTable, Vnic},
    },
    Client, DropReason, Question, Told, printable, write_ethernet,
};
use crate::{
    addr::MacAddr,
    wire::{Writer, checksum::Checksum as Sum, ethernet, protocol, udp, vnet::Offload},
};
use dhcproto::{
    Decodable as _, Encodable as _,
    v4::{DhcpOption, DhcpOptions, Message, MessageType, Opcode, OptionCode, UnknownOption},
};
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// A client need not take a message shorter than this (RFC 1542 §2.1).
const MIN_LEN: usize = 300;
/// Where options begin, after the fixed part and the cookie (RFC 2131 §3).
const OPTIONS_AT: usize = 240;
const INFINITE: u32 = u32::MAX;
const DOMAIN_SEARCH: u8 = 119;
const MICROSOFT_CLASSLESS_ROUTES: u8 = 249;

/// Answers a client's message.
pub(super) fn respond(
    question: &Question<'_>,
    packet: &Ipv4,
    writer: &mut Writer<'_>,
) -> Result<Told, DropReason> {
    let address = question.vnic.ipv4.ok_or(DropReason::NotServed)?;
    let request = parse(question, packet)?;
    let kind = answer_kind(&request, address).ok_or(DropReason::Absorbed)?;
    let reply = reply(question.table, question.vnic, &request, kind, address);
    let mut payload = reply.to_vec().map_err(|_| DropReason::MalformedMessage)?;
    payload.resize(payload.len().max(MIN_LEN), 0);
    let (to, mac) = destination(&request, kind, question.vnic.mac, address);
    write_ethernet(writer, mac, ethernet::IPV4)?;
    let (from, to) = ((GATEWAY_IPV4, udp::DHCPV4_SERVER), (to, udp::DHCPV4_CLIENT));
    udp::write_ipv4(writer, from, to, &payload)?;
    let inform = request.opts().msg_type() == Some(MessageType::Inform);
    Ok(if kind == MessageType::Ack && !inform {
        Told::Lease4(client(&request))
    } else {
        Told::Other
    })
}

fn client(request: &Message) -> Client {
    let hostname = match request.opts().get(OptionCode::Hostname) {
        Some(DhcpOption::Hostname(name)) => printable(name.as_bytes()),
        _ => match request.opts().get(OptionCode::ClientFQDN) {
            Some(DhcpOption::ClientFQDN(fqdn)) => printable(fqdn.domain().to_string().as_bytes()),
            _ => String::new(),
        },
    };
    let vendor_class = match request.opts().get(OptionCode::ClassIdentifier) {
        Some(DhcpOption::ClassIdentifier(class)) => printable(class),
        _ => String::new(),
    };
    Client { hostname, vendor_class }
}

/// A client's message, from this guest.
fn parse(question: &Question<'_>, packet: &Ipv4) -> Result<Message, DropReason> {
    let segment = question.packet_from(packet.header_len);
    let (header, payload) = udp::Header::parse(segment).ok_or(DropReason::MalformedMessage)?;
    if question.offload == Offload::None && header.checksum.get() != 0 {
        let len = header.len.get();
        let mut sum =
            Sum::pseudo_ipv4(packet.source, packet.destination, protocol::UDP, len.into());
        sum.add(segment.get(..usize::from(len)).unwrap_or(segment));
        if sum.folded() != 0xffff {
            return Err(DropReason::BadChecksum);
        }
    }
    let relevant = relevant(payload).ok_or(DropReason::MalformedMessage)?;
    let request = Message::from_bytes(&relevant).map_err(|_| DropReason::MalformedMessage)?;
    let ethernet = request.hlen() == 6 && request.opcode() == Opcode::BootRequest;
    // Relayed requests are not for us: the only client of a vNIC is its guest.
    if !ethernet || !request.giaddr().is_unspecified() {
        return Err(DropReason::MalformedMessage);
    }
    if request.chaddr() != question.vnic.mac.0 {
        return Err(DropReason::SpoofedMac);
    }
    Ok(request)
}

/// A message without the options that are of no matter here: the codec takes some lengths for granted, and what it need
/// not decode cannot hurt. `None` where it is cut.
fn relevant(message: &[u8]) -> Option<Vec<u8>> {
    const PAD: u8 = 0;
    const END: u8 = 255;
    let (fixed, mut rest) = message.split_at_checked(OPTIONS_AT)?;
    let mut kept = fixed.to_vec();
    while let Some((code, tail)) = rest.split_first() {
        if *code == PAD {
            rest = tail;
            continue;
        }
        let Some((len, tail)) = tail.split_first().filter(|_| *code != END) else { break };
        let (value, tail) = tail.split_at_checked(usize::from(*len))?;
        rest = tail;
        let matters = match OptionCode::from(*code) {
            OptionCode::RapidCommit => value.is_empty(),
            OptionCode::ClientFQDN => value.len() >= 3,
            OptionCode::Hostname
            | OptionCode::RequestedIpAddress
            | OptionCode::MessageType
            | OptionCode::ServerIdentifier
            | OptionCode::ClassIdentifier
            | OptionCode::ClientIdentifier => true,
            _ => false,
        };
        if matters {
            kept.extend([*code, *len]);
            kept.extend(value);
        }
    }
    kept.push(END);
    Some(kept)
}

/// What a message is answered with (RFC 2131 §4.3), if at all.
fn answer_kind(request: &Message, address: Ipv4Addr) -> Option<MessageType> {
    let options = request.opts();
    match options.msg_type()? {
        MessageType::Discover if options.contains(OptionCode::RapidCommit) => {
            Some(MessageType::Ack)
        }
        MessageType::Discover => Some(MessageType::Offer),
        MessageType::Inform => Some(MessageType::Ack),
        MessageType::Request => {
            if let Some(DhcpOption::ServerIdentifier(server)) =
                options.get(OptionCode::ServerIdentifier)
                && *server != GATEWAY_IPV4
            {
                return None;
            }
            let wanted = match options.get(OptionCode::RequestedIpAddress) {
                Some(DhcpOption::RequestedIpAddress(wanted)) => *wanted,
                _ => request.ciaddr(),
            };
            Some(if wanted == address { MessageType::Ack } else { MessageType::Nak })
        }
        _ => None,
    }
}

/// Where the answer goes (RFC 2131 §4.1).
fn destination(
    request: &Message,
    kind: MessageType,
    mac: MacAddr,
    address: Ipv4Addr,
) -> (Ipv4Addr, MacAddr) {
    if kind == MessageType::Nak
        || (request.ciaddr().is_unspecified() && request.flags().broadcast())
    {
        (Ipv4Addr::BROADCAST, MacAddr::BROADCAST)
    } else if request.ciaddr().is_unspecified() {
        (address, mac)
    } else {
        (request.ciaddr(), mac)
    }
}

fn reply(
    table: &NetworkTable,
    vnic: &Vnic,
    request: &Message,
    kind: MessageType,
    address: Ipv4Addr,
) -> Message {
    let inform = request.opts().msg_type() == Some(MessageType::Inform);
    let mut reply = Message::default();
    reply
        .set_opcode(Opcode::BootReply)
        .set_xid(request.xid())
        .set_flags(request.flags())
        .set_chaddr(request.chaddr());
    let mut options = DhcpOptions::new();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(GATEWAY_IPV4));
    if let Some(id) = request.opts().get(OptionCode::ClientIdentifier) {
        options.insert(id.clone()); // RFC 6842
    }
    if kind != MessageType::Nak {
        reply.set_ciaddr(request.ciaddr());
        if !inform {
            reply.set_yiaddr(address);
            options.insert(DhcpOption::AddressLeaseTime(INFINITE));
        }
        if kind == MessageType::Ack && request.opts().msg_type() == Some(MessageType::Discover) {
            options.insert(DhcpOption::RapidCommit);
        }
        insert_configuration(table, vnic, &mut options);
    }
    reply.set_opts(options);
    reply
}

fn insert_configuration(table: &NetworkTable, vnic: &Vnic, options: &mut DhcpOptions) {
    let mask = match (vnic.addressing, table.ipv4_subnet) {
        (Addressing::Subnet, Some(subnet)) => subnet.netmask(),
        _ => Ipv4Addr::BROADCAST,
    };
    options.insert(DhcpOption::SubnetMask(mask));
    options.insert(DhcpOption::Router(vec![GATEWAY_IPV4]));
    let on_link = Ipv4Net::from(GATEWAY_IPV4);
    let routes = vec![(on_link, Ipv4Addr::UNSPECIFIED), (Ipv4Net::default(), GATEWAY_IPV4)];
    options.insert(DhcpOption::ClasslessStaticRoute(routes));
    options.insert(unknown(MICROSOFT_CLASSLESS_ROUTES, &classless_routes()));
    options.insert(DhcpOption::InterfaceMtu(vnic.mtu));
    if !table.dns_ipv4.is_empty() {
        options.insert(DhcpOption::DomainNameServer(table.dns_ipv4.clone()));
    }
    if !table.ntp_ipv4.is_empty() {
        options.insert(DhcpOption::NtpServers(table.ntp_ipv4.clone()));
    }
    if let Some(hostname) = &vnic.hostname {
        options.insert(DhcpOption::Hostname(hostname.clone()));
    }
    if let Some(domain) = &table.domain {
        options.insert(DhcpOption::DomainName(domain.to_string()));
        options.insert(unknown(DOMAIN_SEARCH, domain.octets()));
    }
}

/// 169.254.0.1/32 on link, then the default route through it (RFC 3442).
fn classless_routes() -> [u8; 14] {
    let [a, b, c, d] = GATEWAY_IPV4.octets();
    [32, a, b, c, d, 0, 0, 0, 0, 0, a, b, c, d]
}

fn unknown(code: u8, octets: &[u8]) -> DhcpOption {
    DhcpOption::Unknown(UnknownOption::new(OptionCode::from(code), octets.to_vec()))
}
