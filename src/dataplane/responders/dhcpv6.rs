//! DHCPv6 (RFC 8415, options of RFC 3646, RFC 4075, RFC 5908): one client, one address as /128, for ever, and the
//! prefixes that are routed to it (IA_PD).
//!
//! There is no lease state: what a guest is told follows from its vNIC.

use super::{
    super::{
        classify::Ipv6,
        snapshot::{GATEWAY_IPV6, GATEWAY_MAC, NetworkTable, Vnic},
    },
    Client, DropReason, Question, Told, printable, write_ethernet,
};
use crate::wire::{Writer, checksum::Checksum as Sum, dns, ethernet, protocol, udp, vnet::Offload};
use dhcproto::{
    Decodable as _, Encodable as _,
    v6::{
        DhcpOption, DhcpOptions, IAAddr, IANA, IAPD, IAPrefix, IATA, Message, MessageType,
        NtpSuboption, OptionCode, Status, StatusCode, UnknownOption,
    },
};
use ipnet::Ipv6Net;
use std::net::Ipv6Addr;

/// A client asks again after half an hour, so that it learns of a change; what it holds outlives two days without us.
const PREFIX_T1_SECONDS: u32 = 1800;
const PREFIX_T2_SECONDS: u32 = 43_200;
const PREFIX_PREFERRED_SECONDS: u32 = 86_400;
const PREFIX_VALID_SECONDS: u32 = 172_800;
/// Where options begin (RFC 8415 §8).
const OPTIONS_AT: usize = 4;
const INFINITE: u32 = u32::MAX;
const DOMAIN_SEARCH: u16 = 24;
const SNTP_SERVERS: u16 = 31;

/// DUID-LL (RFC 8415 §11.4) of the gateway's MAC.
fn server_duid() -> Vec<u8> {
    [&[0, 3, 0, 1][..], &GATEWAY_MAC.0].concat()
}

/// Answers a client's message.
pub(super) fn respond(
    question: &Question<'_>,
    packet: &Ipv6,
    writer: &mut Writer<'_>,
) -> Result<Told, DropReason> {
    let address = question.vnic.ipv6.ok_or(DropReason::NotServed)?;
    let request = parse(question, packet)?;
    check_ids(&request)?;
    let reply = reply(question.table, question.vnic, &request, address)?;
    let payload = reply.to_vec().map_err(|_| DropReason::MalformedMessage)?;
    write_ethernet(writer, question.vnic.mac, ethernet::IPV6)?;
    let from = (GATEWAY_IPV6, udp::DHCPV6_SERVER);
    udp::write_ipv6(writer, from, (packet.source, udp::DHCPV6_CLIENT), &payload)?;
    let leases =
        reply.msg_type() == MessageType::Reply && reply.opts().get(OptionCode::IANA).is_some();
    Ok(if leases { Told::Lease6(client(&request)) } else { Told::Other })
}

fn client(request: &Message) -> Client {
    let hostname = match request.opts().get(OptionCode::ClientFqdn) {
        // Flags, then a name that may be cut short (RFC 4704 §4).
        Some(DhcpOption::Unknown(option)) => {
            dns::Labels(option.data().get(1..).unwrap_or(&[])).to_string()
        }
        _ => String::new(),
    };
    let vendor_class = match request.opts().get(OptionCode::VendorClass) {
        Some(DhcpOption::VendorClass(class)) => {
            class.data.iter().map(|data| printable(data)).collect::<Vec<_>>().join(" ")
        }
        _ => String::new(),
    };
    Client { hostname: printable(hostname.as_bytes()), vendor_class }
}

fn parse(question: &Question<'_>, packet: &Ipv6) -> Result<Message, DropReason> {
    let segment = question.packet_from(packet.header_len);
    let (header, payload) = udp::Header::parse(segment).ok_or(DropReason::MalformedMessage)?;
    if question.offload == Offload::None {
        let len = header.len.get();
        let mut sum =
            Sum::pseudo_ipv6(packet.source, packet.destination, protocol::UDP, len.into());
        sum.add(segment.get(..usize::from(len)).unwrap_or(segment));
        if sum.folded() != 0xffff {
            return Err(DropReason::BadChecksum);
        }
    }
    let relevant = relevant(payload).ok_or(DropReason::MalformedMessage)?;
    Message::from_bytes(&relevant).map_err(|_| DropReason::MalformedMessage)
}

/// A message without the options that are of no matter here: the codec takes some lengths for granted, and what it need
/// not decode cannot hurt. `None` where one is cut, or shorter than it must be.
fn relevant(message: &[u8]) -> Option<Vec<u8>> {
    let (fixed, options) = message.split_at_checked(OPTIONS_AT)?;
    let mut kept = fixed.to_vec();
    keep_options(options, &mut kept, &|code| match OptionCode::from(code) {
        OptionCode::ClientId | OptionCode::ServerId | OptionCode::ClientFqdn => {
            Some((0, Behind::Octets))
        }
        OptionCode::RapidCommit => Some((0, Behind::Nothing)),
        OptionCode::VendorClass => Some((4, Behind::Octets)),
        OptionCode::IANA => Some((12, Behind::Options(OptionCode::IAAddr, 24))),
        OptionCode::IATA => Some((4, Behind::Options(OptionCode::IAAddr, 24))),
        OptionCode::IAPD => Some((12, Behind::Options(OptionCode::IAPrefix, 25))),
        _ => None,
    })?;
    Some(kept)
}

/// The octets that an option has at least, and what is copied of those behind them.
type Shape = (usize, Behind);

enum Behind {
    Nothing,
    Octets,
    /// Options of one kind, of each so many octets.
    Options(OptionCode, usize),
}

/// Copies the options that have a shape.
fn keep_options(
    mut options: &[u8],
    kept: &mut Vec<u8>,
    shape: &dyn Fn(u16) -> Option<Shape>,
) -> Option<()> {
    while !options.is_empty() {
        let (code, rest) = options.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes(*len).into())?;
        options = rest;
        let Some((least, what)) = shape(u16::from_be_bytes(*code)) else { continue };
        let (fixed, behind) = value.split_at_checked(least)?;
        let mut copy = fixed.to_vec();
        match what {
            Behind::Nothing => {}
            Behind::Octets => copy.extend(behind),
            Behind::Options(wanted, least) => keep_options(behind, &mut copy, &|code| {
                (OptionCode::from(code) == wanted).then_some((least, Behind::Nothing))
            })?,
        }
        kept.extend(code);
        kept.extend(u16::try_from(copy.len()).ok()?.to_be_bytes());
        kept.extend(copy);
    }
    Some(())
}

/// Which identifiers a message must carry and must not (RFC 8415 §16).
fn check_ids(request: &Message) -> Result<(), DropReason> {
    let has_client = request.opts().get(OptionCode::ClientId).is_some();
    let server = match request.opts().get(OptionCode::ServerId) {
        Some(DhcpOption::ServerId(id)) => Some(id.as_slice() == server_duid()),
        _ => None,
    };
    let valid = match request.msg_type() {
        MessageType::Solicit | MessageType::Confirm | MessageType::Rebind => {
            has_client && server.is_none()
        }
        MessageType::Request | MessageType::Renew | MessageType::Release | MessageType::Decline => {
            has_client && server.is_some()
        }
        MessageType::InformationRequest => true,
        _ => false,
    };
    match (valid, server) {
        (false, _) => Err(DropReason::MalformedMessage),
        (true, Some(false)) => Err(DropReason::Absorbed), // for another server
        (true, _) => Ok(()),
    }
}

fn reply(
    table: &NetworkTable,
    vnic: &Vnic,
    request: &Message,
    address: Ipv6Addr,
) -> Result<Message, DropReason> {
    let rapid = request.opts().get(OptionCode::RapidCommit).is_some();
    let kind = match request.msg_type() {
        MessageType::Solicit if !rapid => MessageType::Advertise,
        _ => MessageType::Reply,
    };
    let mut reply = Message::new_with_id(kind, request.xid());
    let options = reply.opts_mut();
    if let Some(id) = request.opts().get(OptionCode::ClientId) {
        options.insert(id.clone());
    }
    options.insert(DhcpOption::ServerId(server_duid()));
    match request.msg_type() {
        MessageType::Solicit | MessageType::Request | MessageType::Renew | MessageType::Rebind => {
            if request.msg_type() == MessageType::Solicit && rapid {
                options.insert(DhcpOption::RapidCommit);
            }
            insert_identity_associations(request, vnic, address, options);
            insert_configuration(table, options);
        }
        MessageType::Confirm => {
            let on_link = confirm(request, address).ok_or(DropReason::Absorbed)?;
            options.insert(status(if on_link { Status::Success } else { Status::NotOnLink }));
            insert_configuration(table, options);
        }
        MessageType::InformationRequest => insert_configuration(table, options),
        _ => options.insert(status(Status::Success)),
    }
    Ok(reply)
}

/// Whether all addresses a client asks to confirm are its own; `None` if it names none (RFC 8415 §18.3.3).
fn confirm(request: &Message, address: Ipv6Addr) -> Option<bool> {
    let mut named = request.opts().iter().filter_map(|option| match option {
        DhcpOption::IANA(ia) => Some(&ia.opts),
        _ => None,
    });
    let addresses = named.by_ref().flat_map(DhcpOptions::iter).filter_map(|option| match option {
        DhcpOption::IAAddr(named) => Some(named.addr),
        _ => None,
    });
    addresses.map(|named| named == address).reduce(|a, b| a && b)
}

/// Answers each identity association: the first IA_NA gets the address, the first IA_PD the prefixes that are routed to
/// the vNIC, everything else that there is none.
fn insert_identity_associations(
    request: &Message,
    vnic: &Vnic,
    address: Ipv6Addr,
    options: &mut DhcpOptions,
) {
    let (mut given, mut delegated) = (false, vnic.routed_ipv6.is_empty());
    for option in request.opts().iter() {
        match option {
            DhcpOption::IANA(ia) => {
                let mut answer = DhcpOptions::new();
                if given {
                    answer.insert(status(Status::NoAddrsAvail));
                } else {
                    answer.insert(lease(address, INFINITE));
                    insert_withdrawn(ia, address, &mut answer);
                }
                given = true;
                let (t1, t2) = (INFINITE, INFINITE);
                options.insert(DhcpOption::IANA(IANA { id: ia.id, t1, t2, opts: answer }));
            }
            DhcpOption::IATA(ia) => {
                let mut answer = DhcpOptions::new();
                answer.insert(status(Status::NoAddrsAvail));
                options.insert(DhcpOption::IATA(IATA { id: ia.id, opts: answer }));
            }
            DhcpOption::IAPD(ia) => {
                let answer = if delegated { no_prefix(ia) } else { delegation(vnic, ia) };
                delegated = true;
                options.insert(DhcpOption::IAPD(answer));
            }
            _ => {}
        }
    }
}

/// Addresses that the client holds and that are not its own live no longer (RFC 8415 §18.3.4).
fn insert_withdrawn(ia: &IANA, address: Ipv6Addr, answer: &mut DhcpOptions) {
    for option in ia.opts.iter() {
        if let DhcpOption::IAAddr(held) = option
            && held.addr != address
        {
            answer.insert(lease(held.addr, 0));
        }
    }
}

fn no_prefix(ia: &IAPD) -> IAPD {
    let mut opts = DhcpOptions::new();
    opts.insert(status(Status::NoPrefixAvail));
    withdraw_prefixes(ia, &[], &mut opts);
    IAPD { id: ia.id, t1: 0, t2: 0, opts }
}

/// The prefixes behind the guest, for a time: they can change (RFC 8415 §6.3).
fn delegation(vnic: &Vnic, ia: &IAPD) -> IAPD {
    let mut opts = DhcpOptions::new();
    for prefix in &vnic.routed_ipv6 {
        opts.insert(prefix_option(*prefix, (PREFIX_PREFERRED_SECONDS, PREFIX_VALID_SECONDS)));
    }
    withdraw_prefixes(ia, &vnic.routed_ipv6, &mut opts);
    IAPD { id: ia.id, t1: PREFIX_T1_SECONDS, t2: PREFIX_T2_SECONDS, opts }
}

/// Prefixes that the client holds and that are not its own live no longer (RFC 8415 §18.3.4).
fn withdraw_prefixes(ia: &IAPD, own: &[Ipv6Net], answer: &mut DhcpOptions) {
    for option in ia.opts.iter() {
        if let DhcpOption::IAPrefix(held) = option
            && let Ok(held) = Ipv6Net::new(held.prefix_ip, held.prefix_len)
            // Without an address it is a hint of the length alone.
            && !held.addr().is_unspecified()
            && !own.contains(&held)
        {
            answer.insert(prefix_option(held, (0, 0)));
        }
    }
}

fn prefix_option(prefix: Ipv6Net, (preferred, valid): (u32, u32)) -> DhcpOption {
    DhcpOption::IAPrefix(IAPrefix {
        preferred_lifetime: preferred,
        valid_lifetime: valid,
        prefix_len: prefix.prefix_len(),
        prefix_ip: prefix.addr(),
        opts: DhcpOptions::new(),
    })
}

fn lease(addr: Ipv6Addr, lifetime: u32) -> DhcpOption {
    DhcpOption::IAAddr(IAAddr {
        addr,
        preferred_life: lifetime,
        valid_life: lifetime,
        opts: DhcpOptions::new(),
    })
}

fn status(status: Status) -> DhcpOption {
    DhcpOption::StatusCode(StatusCode { status, msg: String::new() })
}

fn insert_configuration(table: &NetworkTable, options: &mut DhcpOptions) {
    if !table.dns_ipv6.is_empty() {
        options.insert(DhcpOption::DomainNameServers(table.dns_ipv6.clone()));
    }
    if let Some(domain) = &table.domain {
        let octets = domain.octets().to_vec();
        options.insert(DhcpOption::Unknown(UnknownOption::new(DOMAIN_SEARCH.into(), octets)));
    }
    if !table.ntp_ipv6.is_empty() {
        let octets: Vec<u8> = table.ntp_ipv6.iter().flat_map(Ipv6Addr::octets).collect();
        options.insert(DhcpOption::Unknown(UnknownOption::new(SNTP_SERVERS.into(), octets)));
        let servers = table.ntp_ipv6.iter().map(|s| NtpSuboption::ServerAddress(*s)).collect();
        options.insert(DhcpOption::NtpServer(servers));
    }
}
