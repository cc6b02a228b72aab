//! DHCPv6 (RFC 8415, options of RFC 3646, RFC 4075, RFC 5908): one client, one address as /128, for
//! ever to a guest, for an hour to a host behind a port; and the prefixes that are routed to a
//! guest (IA_PD).
//!
//! What a guest is told follows from its vNIC, what a host is told from its lease. An answer is no
//! longer than the link's packets: no more prefixes are delegated than fit, and what matters least
//! is left out.

use super::{
    Client, DropReason, GatewayEvent, Question, Room, bounded, datagram::datagram_ipv6,
    encoded_len, printable, write_ethernet,
};
use crate::{
    dataplane::{
        forward::{
            Asker, Host, LEASE, Lease, OFFER,
            tables::{GATEWAY_IPV6, GATEWAY_MAC, Routed, Vnic},
        },
        frame::classify::Ipv6,
    },
    model::Boot,
    wire::{
        Writer, dns, ethernet, ipv6,
        options::{Budget, Item, Layout, Options},
        udp,
    },
};
use dhcproto::{
    Decodable as _, Encodable as _,
    v6::{
        DhcpOption, DhcpOptions, IAAddr, IANA, IAPD, IAPrefix, IATA, Message, MessageType,
        NtpSuboption, OptionCode, Status, StatusCode, UnknownOption,
    },
};
use ipnet::Ipv6Net;
use std::{net::Ipv6Addr, time::Instant};

/// A client asks again after half an hour, so that it learns of a change; what it holds outlives
/// two days without us.
const PREFIX_T1_SECONDS: u32 = 1800;
const PREFIX_T2_SECONDS: u32 = 43_200;
const PREFIX_PREFERRED_SECONDS: u32 = 86_400;
const PREFIX_VALID_SECONDS: u32 = 172_800;
/// Where options begin (RFC 8415 §8).
const OPTIONS_AT: usize = 4;
/// Octets of a DUID, its type included (RFC 8415 §11.1).
const DUID_LENS: std::ops::RangeInclusive<usize> = 3..=130;
/// Octets of an IA_NA or IA_PD, and of an IA_TA, without what is in them (RFC 8415 §21.4, §21.5,
/// §21.21).
const IA_LEN: usize = 16;
const IA_TA_LEN: usize = 8;
/// All_DHCP_Relay_Agents_and_Servers (RFC 8415 §7.1).
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
// RFC 8415 §7.7. Its address is the guest's for as long as its vNIC exists.
const INFINITE: u32 = u32::MAX;
/// Of a host behind a port, in seconds.
const LASTS: u32 = LEASE.as_secs() as u32;
// RFC 3646 §4.
const DOMAIN_SEARCH: u16 = 24;
// RFC 4075, for clients that do not know the option of RFC 5908.
const SNTP_SERVERS: u16 = 31;
/// RFC 5970 §3.1.
const BOOT_FILE_URL: u16 = 59;

/// DUID-LL (RFC 8415 §11.4) of the gateway's MAC.
fn server_duid() -> Vec<u8> {
    // Without a time, unlike DUID-LLT: it is the same after every restart and on every host, so
    // that no client takes its server for another one.
    [&[0, 3, 0, 1][..], &GATEWAY_MAC.0].concat()
}

/// Answers a client's message.
pub(super) fn respond(
    question: &Question<'_>,
    packet: &Ipv6,
    writer: &mut Writer<'_>,
) -> Result<GatewayEvent, DropReason> {
    if packet.destination.is_multicast() && packet.destination != SERVERS {
        return Err(DropReason::Multicast);
    }
    let request = parse(question, packet)?;
    check_ids(&request)?;
    let terms = match question.asker {
        Asker::Guest(vnic) => Terms::of_guest(vnic)?,
        Asker::Host(host) => Terms::of_host(question, host, request.msg_type())?,
        Asker::Outside(_) => return Err(DropReason::NotServed),
    };
    let reply = if packet.destination == SERVERS {
        reply((question.table, &terms), &request, question.now)?
    } else {
        use_multicast(&request)?
    };
    let payload = reply.to_vec().map_err(|_| DropReason::MalformedMessage)?;
    write_ethernet(writer, question.asker.mac(), ethernet::IPV6)?;
    let from = (GATEWAY_IPV6, udp::DHCPV6_SERVER);
    udp::write_ipv6(writer, from, (packet.source, udp::DHCPV6_CLIENT), &payload)?;
    let leases =
        reply.msg_type() == MessageType::Reply && reply.opts().get(OptionCode::IANA).is_some();
    Ok(if leases { GatewayEvent::Lease6(client(&request)) } else { GatewayEvent::Other })
}

/// What a client is told.
#[derive(Debug, Clone, Copy)]
struct Terms<'a> {
    address: Ipv6Addr,
    /// Of a host behind a port; a guest's ends with its vNIC.
    lease: Option<&'a Lease>,
    mtu: u16,
    /// Prefixes behind it.
    routed: &'a [Ipv6Net],
    boot: &'a Boot,
}

impl<'a> Terms<'a> {
    fn of_guest(vnic: &'a Vnic) -> Result<Self, DropReason> {
        Ok(Self {
            address: vnic.ipv6.ok_or(DropReason::NotServed)?,
            lease: None,
            mtu: vnic.mtu,
            routed: &vnic.routed_ipv6,
            boot: &vnic.boot,
        })
    }

    /// Of a host that has a lease, or asks for other things than an address alone.
    fn of_host(
        question: &Question<'a>,
        host: Host,
        asked: MessageType,
    ) -> Result<Self, DropReason> {
        let segment = question.table.segment.as_ref().ok_or(DropReason::NotServed)?;
        let leases = segment.leases.as_ref().ok_or(DropReason::NotServed)?;
        let held = leases.ipv6(host.mac).filter(|(lease, _)| lease.runs(question.now));
        let needs_none =
            [MessageType::InformationRequest, MessageType::Release, MessageType::Decline];
        let (lease, address) = match held {
            Some((lease, address)) => (Some(lease), address),
            // It is the address of nobody, and told to nobody.
            None if needs_none.contains(&asked) => (None, Ipv6Addr::UNSPECIFIED),
            None => return Err(DropReason::NoLease),
        };
        Ok(Self { address, lease, mtu: host.mtu, routed: &[], boot: &segment.boot })
    }

    /// Keeps to what a client is answered.
    fn keep(&self, asked: MessageType, is_offer: bool, now: Instant) -> Result<(), DropReason> {
        let Some(lease) = self.lease else { return Ok(()) };
        let is_kept = match asked {
            MessageType::Solicit if is_offer => lease.extend(now, OFFER),
            MessageType::Solicit
            | MessageType::Request
            | MessageType::Renew
            | MessageType::Rebind => lease.extend(now, LEASE),
            _ => true,
        };
        // It may have ended just now.
        if is_kept { Ok(()) } else { Err(DropReason::NoLease) }
    }

    /// Ends what a client gives up, if that is what it names.
    fn give_up(&self, request: &Message, now: Instant) {
        if let Some(lease) = self.lease
            && confirm(request, self.address) == Some(true)
        {
            match request.msg_type() {
                MessageType::Release => lease.end(now),
                MessageType::Decline => lease.decline(now),
                _ => {}
            }
        }
    }
}

/// What the client of a message says of itself.
pub(super) fn client_of(question: &Question<'_>, packet: &Ipv6) -> Client {
    parse(question, packet).map_or_else(|_| Client::default(), |request| client(&request))
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
    let (hostname, vendor_class) = (hostname.as_bytes(), vendor_class.as_bytes());
    Client { hostname: printable(hostname), vendor_class: printable(vendor_class) }
}

fn parse(question: &Question<'_>, packet: &Ipv6) -> Result<Message, DropReason> {
    let (_, payload) = datagram_ipv6(question, packet)?;
    let relevant = relevant(payload)?;
    Message::from_bytes(&relevant).map_err(|_| DropReason::MalformedMessage)
}

/// A message without the options that are of no matter here: the codec takes some lengths for
/// granted, and what it need not decode cannot hurt. Refuses one that is longer than any real one,
/// or where an option is cut or shorter than it must be.
fn relevant(message: &[u8]) -> Result<Vec<u8>, DropReason> {
    let parts = bounded(message)?.split_at_checked(OPTIONS_AT);
    let (fixed, options) = parts.ok_or(DropReason::MalformedMessage)?;
    let mut kept = fixed.to_vec();
    // The numbers are the fixed parts of RFC 8415 §21, which the codec reads without a look at the
    // option's length.
    keep_options(options, &Budget::new(), &mut kept, &|item| match OptionCode::from(item.code) {
        OptionCode::ClientId | OptionCode::ServerId | OptionCode::ClientFqdn => {
            Some((0, Behind::Octets))
        }
        OptionCode::RapidCommit => Some((0, Behind::Nothing)),
        // It is for people alone: one that is cut is left out.
        OptionCode::VendorClass => (item.value.len() >= 4).then_some((4, Behind::Octets)),
        OptionCode::IANA => Some((12, Behind::Options(OptionCode::IAAddr, 24))),
        OptionCode::IATA => Some((4, Behind::Options(OptionCode::IAAddr, 24))),
        OptionCode::IAPD => Some((12, Behind::Options(OptionCode::IAPrefix, 25))),
        _ => None,
    })?;
    Ok(kept)
}

/// The octets that an option has at least, and what is copied of those behind them.
type Shape = (usize, Behind);

enum Behind {
    Nothing,
    Octets,
    /// Options of one kind, of each so many octets.
    Options(OptionCode, usize),
}

/// Copies the options that have a shape, sorted by their type: the codec sorts them, too, and keeps
/// the order of equal ones only where nothing is left to be sorted.
fn keep_options(
    options: &[u8],
    budget: &Budget,
    kept: &mut Vec<u8>,
    shape: &dyn Fn(&Item<'_>) -> Option<Shape>,
) -> Result<(), DropReason> {
    let items: Result<Vec<_>, _> = Options::new(Layout::Dhcpv6, options, budget).collect();
    let mut items = items?;
    items.sort_by_key(|item| item.code);
    for item in items {
        let Some((least, what)) = shape(&item) else { continue };
        let Item { code, value, .. } = item;
        let parts = value.split_at_checked(least).ok_or(DropReason::MalformedMessage)?;
        let mut copy = parts.0.to_vec();
        match what {
            Behind::Nothing => {}
            Behind::Octets => copy.extend(parts.1),
            Behind::Options(wanted, least) => keep_options(parts.1, budget, &mut copy, &|item| {
                (OptionCode::from(item.code) == wanted).then_some((least, Behind::Nothing))
            })?,
        }
        let len = u16::try_from(copy.len()).map_err(|_| DropReason::MalformedMessage)?;
        kept.extend(code.to_be_bytes());
        kept.extend(len.to_be_bytes());
        kept.extend(copy);
    }
    Ok(())
}

/// Which identifiers a message must carry and must not (RFC 8415 §16, §11.1).
fn check_ids(request: &Message) -> Result<(), DropReason> {
    let client = match request.opts().get(OptionCode::ClientId) {
        Some(DhcpOption::ClientId(id)) => Some(DUID_LENS.contains(&id.len())),
        _ => None,
    };
    let server = match request.opts().get(OptionCode::ServerId) {
        Some(DhcpOption::ServerId(id)) => Some(id.as_slice() == server_duid()),
        _ => None,
    };
    let valid = match request.msg_type() {
        // To any server: it must not name one (RFC 8415 §16.2, §16.5, §16.7).
        MessageType::Solicit | MessageType::Confirm | MessageType::Rebind => {
            client == Some(true) && server.is_none()
        }
        MessageType::Request | MessageType::Renew | MessageType::Release | MessageType::Decline => {
            client == Some(true) && server.is_some()
        }
        // RFC 8415 §16.12.
        MessageType::InformationRequest => client != Some(false) && !has_association(request),
        _ => false,
    };
    match (valid, server) {
        (false, _) => Err(DropReason::MalformedMessage),
        (true, Some(false)) => Err(DropReason::Absorbed), // for another server
        (true, _) => Ok(()),
    }
}

fn has_association(request: &Message) -> bool {
    [OptionCode::IANA, OptionCode::IATA, OptionCode::IAPD]
        .into_iter()
        .any(|code| request.opts().get(code).is_some())
}

/// Identifiers of an answer.
fn ids(request: &Message) -> Vec<DhcpOption> {
    let client = request.opts().get(OptionCode::ClientId).cloned();
    client.into_iter().chain([DhcpOption::ServerId(server_duid())]).collect()
}

/// The answer to a message that was sent to the gateway alone, which it has allowed nobody (RFC
/// 8415 §18.4); those by which a client looks for servers get none (§16).
fn use_multicast(request: &Message) -> Result<Message, DropReason> {
    match request.msg_type() {
        MessageType::Request | MessageType::Renew | MessageType::Release | MessageType::Decline => {
            let mut options = ids(request);
            options.push(status(Status::UseMulticast));
            let mut reply = Message::new_with_id(MessageType::Reply, request.xid());
            reply.set_opts(in_order(options));
            Ok(reply)
        }
        _ => Err(DropReason::MalformedMessage),
    }
}

fn reply(
    (table, terms): (&Routed, &Terms<'_>),
    request: &Message,
    now: Instant,
) -> Result<Message, DropReason> {
    let asked = request.msg_type();
    let rapid =
        asked == MessageType::Solicit && request.opts().get(OptionCode::RapidCommit).is_some();
    let mut options = ids(request);
    match asked {
        MessageType::Solicit if rapid => options.push(DhcpOption::RapidCommit),
        MessageType::Confirm => {
            let on_link = confirm(request, terms.address).ok_or(DropReason::Absorbed)?;
            options.push(status(if on_link { Status::Success } else { Status::NotOnLink }));
        }
        MessageType::Release | MessageType::Decline => {
            terms.give_up(request, now);
            options.push(status(Status::Success));
        }
        _ => {}
    }
    terms.keep(asked, !rapid, now)?;
    let around = ipv6::HEADER_LEN + udp::HEADER_LEN + OPTIONS_AT;
    let taken = around + options.iter().map(encoded_len).sum::<usize>();
    let mut room = Room(usize::from(terms.mtu).saturating_sub(taken));
    let (first, more) = configuration(table, terms, asked);
    options.extend(first.into_iter().filter(|option| room.take(encoded_len(option))));
    if matches!(
        asked,
        MessageType::Solicit | MessageType::Request | MessageType::Renew | MessageType::Rebind
    ) {
        options.extend(identity_associations(request, terms, &mut room));
    }
    options.extend(more.into_iter().filter(|option| room.take(encoded_len(option))));
    let kind = match asked {
        MessageType::Solicit if !rapid => MessageType::Advertise,
        _ => MessageType::Reply,
    };
    let mut reply = Message::new_with_id(kind, request.xid());
    reply.set_opts(in_order(options));
    Ok(reply)
}

/// The options, sorted by their type as the codec wants it, those of one type in their order.
fn in_order(options: Vec<DhcpOption>) -> DhcpOptions {
    let mut sorted = DhcpOptions::new();
    // The codec inserts an option before its equals.
    options.into_iter().rev().for_each(|option| sorted.insert(option));
    sorted
}

/// Whether all addresses a client asks to confirm are its own; `None` if it names none (RFC 8415
/// §18.3.3).
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

/// Answers each identity association, in their order, for as long as there is room: the first IA_NA
/// gets the address, the first IA_PD the prefixes that are routed to the vNIC, everything else that
/// there is none.
fn identity_associations(request: &Message, terms: &Terms<'_>, room: &mut Room) -> Vec<DhcpOption> {
    // One address and one set of prefixes: a second association of a kind gets none.
    let (mut given, mut delegated) = (false, terms.routed.is_empty());
    let mut answers = Vec::new();
    for option in request.opts().iter() {
        answers.extend(match option {
            DhcpOption::IANA(ia) => {
                let (t1, t2, lasts) = match terms.lease {
                    None => (INFINITE, INFINITE, INFINITE),
                    Some(_) => (LASTS / 2, LASTS / 8 * 7, LASTS),
                };
                let told = if std::mem::replace(&mut given, true) {
                    vec![status(Status::NoAddrsAvail)]
                } else {
                    addresses(ia, terms.address, lasts)
                };
                fitting(IA_LEN, told, room)
                    .map(|opts| DhcpOption::IANA(IANA { id: ia.id, t1, t2, opts }))
            }
            DhcpOption::IATA(ia) => fitting(IA_TA_LEN, vec![status(Status::NoAddrsAvail)], room)
                .map(|opts| DhcpOption::IATA(IATA { id: ia.id, opts })),
            DhcpOption::IAPD(ia) => {
                let (t1, t2, told) = if std::mem::replace(&mut delegated, true) {
                    (0, 0, no_prefix(ia))
                } else {
                    (PREFIX_T1_SECONDS, PREFIX_T2_SECONDS, delegation(terms.routed, ia))
                };
                fitting(IA_LEN, told, room)
                    .map(|opts| DhcpOption::IAPD(IAPD { id: ia.id, t1, t2, opts }))
            }
            _ => None,
        });
    }
    answers
}

/// Returns those of `options` that find room within an option which itself takes `around` octets.
/// `None` where not even the first does.
fn fitting(around: usize, options: Vec<DhcpOption>, room: &mut Room) -> Option<DhcpOptions> {
    let first = options.first().map_or(0, encoded_len);
    // Without its first option, an address or a status, an association would say nothing.
    if !room.take(around + first) {
        return None;
    }
    let mut options = options.into_iter();
    let first = options.next();
    let rest = options.filter(|option| room.take(encoded_len(option)));
    Some(in_order(first.into_iter().chain(rest).collect()))
}

/// The address; those that the client holds and that are not its own live no longer (RFC 8415
/// §18.3.4).
fn addresses(ia: &IANA, address: Ipv6Addr, lasts: u32) -> Vec<DhcpOption> {
    let withdrawn = ia.opts.iter().filter_map(|option| match option {
        DhcpOption::IAAddr(held) if held.addr != address => Some(lease(held.addr, 0)),
        _ => None,
    });
    [lease(address, lasts)].into_iter().chain(withdrawn).collect()
}

fn no_prefix(ia: &IAPD) -> Vec<DhcpOption> {
    [status(Status::NoPrefixAvail)].into_iter().chain(withdrawn_prefixes(ia, &[])).collect()
}

/// The prefixes behind the guest, for a time: they can change (RFC 8415 §6.3).
fn delegation(routed: &[Ipv6Net], ia: &IAPD) -> Vec<DhcpOption> {
    let own = routed
        .iter()
        .map(|prefix| prefix_option(*prefix, (PREFIX_PREFERRED_SECONDS, PREFIX_VALID_SECONDS)));
    own.chain(withdrawn_prefixes(ia, routed)).collect()
}

/// Prefixes that the client holds and that are not its own live no longer (RFC 8415 §18.3.4).
fn withdrawn_prefixes(ia: &IAPD, own: &[Ipv6Net]) -> impl Iterator<Item = DhcpOption> {
    ia.opts.iter().filter_map(|option| match option {
        DhcpOption::IAPrefix(held) => {
            let held = Ipv6Net::new(held.prefix_ip, held.prefix_len).ok()?;
            // Without an address it is a hint of the length alone.
            let withdrawn = !held.addr().is_unspecified() && !own.contains(&held);
            withdrawn.then(|| prefix_option(held, (0, 0)))
        }
        _ => None,
    })
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

/// Returns what comes before delegated prefixes and what comes after them: it matters where an
/// answer has no room for everything.
fn configuration(
    table: &Routed,
    terms: &Terms<'_>,
    asked: MessageType,
) -> (Vec<DhcpOption>, Vec<DhcpOption>) {
    let (mut first, mut more) = (Vec::new(), Vec::new());
    // The client gives its address up: it configures nothing.
    if matches!(asked, MessageType::Release | MessageType::Decline) {
        return (first, more);
    }
    if !table.dns_ipv6.is_empty() {
        first.push(DhcpOption::DomainNameServers(table.dns_ipv6.clone()));
    }
    if let Some(domain) = &table.domain {
        first.push(unknown(DOMAIN_SEARCH, domain.octets().to_vec()));
    }
    if let Some(url) = &terms.boot.url {
        first.push(unknown(BOOT_FILE_URL, url.clone().into_bytes()));
    }
    if !table.ntp_ipv6.is_empty() {
        let servers = table.ntp_ipv6.iter().map(|s| NtpSuboption::ServerAddress(*s)).collect();
        more.push(DhcpOption::NtpServer(servers));
        let octets = table.ntp_ipv6.iter().flat_map(Ipv6Addr::octets).collect();
        more.push(unknown(SNTP_SERVERS, octets));
    }
    (first, more)
}

fn unknown(code: u16, octets: Vec<u8>) -> DhcpOption {
    DhcpOption::Unknown(UnknownOption::new(code.into(), octets))
}
