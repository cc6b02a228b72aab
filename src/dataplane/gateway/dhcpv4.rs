//! DHCPv4 (RFC 2131, options of RFC 2132, RFC 3397, RFC 3442, RFC 4039): one client, one address,
//! leased for ever to a guest, for an hour to a host behind a port.
//!
//! What a guest is told follows from its vNIC, what a host is told from its lease, which control
//! has given it, and which is extended here. A vNIC is leased its
//! address as /32 with the gateway on link, or with the subnet's mask where it asks for that;
//! firmware gets that mask in any case. An answer is no longer than its client takes (RFC 2131 §2,
//! RFC 2132 §9.10): what matters least is left out.

use super::{
    Client, DropReason, GatewayEvent, Question, Room, bounded, datagram::datagram_ipv4,
    encoded_len, printable, write_ethernet,
};
use crate::{
    addr::MacAddr,
    dataplane::{
        forward::{
            Asker, Host, LEASE, Lease, OFFER,
            tables::{GATEWAY_IPV4, Routed, Vnic},
        },
        frame::classify::Ipv4,
    },
    model::{Addressing, Boot},
    wire::{
        Writer, dns, ethernet, ipv4,
        options::{Budget, Item, Layout, Options},
        udp,
    },
};
use arrayvec::ArrayVec;
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
/// Octets of a datagram that a client takes without saying so (RFC 2131 §2), and of the smallest
/// that it may say.
const MIN_DATAGRAM: u16 = 576;
/// How many DNS and NTP servers an answer has at first. The others are told where room is left
/// after everything else.
// glibc's resolver asks three (MAXNS of resolv.h).
const FIRST_SERVERS: usize = 3;
/// The end of the options.
const END: u8 = 255;
/// Octets of the fields for a server's name and a file's, the zero at their end apart (RFC 2131
/// §2).
const FILE_LEN: usize = 127;
/// How firmware begins its class (RFC 4578 §3; UEFI 2.5 §24.7): it boots by TFTP, or by HTTP.
const PXE_CLIENT: &[u8] = b"PXEClient";
const HTTP_CLIENT: &[u8] = b"HTTPClient";
// RFC 2131 §3.3.
const INFINITE: u32 = u32::MAX;
// RFC 3397 §2.
const DOMAIN_SEARCH: u8 = 119;
// Windows asks for this one, which is laid out as option 121 ([MS-DHCPE]).
const MICROSOFT_CLASSLESS_ROUTES: u8 = 249;
/// The E bit of a client FQDN: its name is of labels (RFC 4702 §2.1).
const FQDN_LABELS: u8 = 4;

/// Answers a client's message.
pub(super) fn respond(
    question: &Question<'_>,
    packet: &Ipv4,
    writer: &mut Writer<'_>,
) -> Result<GatewayEvent, DropReason> {
    let (request, hostname) = parse(question, packet)?;
    let terms = match question.asker {
        Asker::Guest(vnic) => Terms::of_guest(vnic)?,
        Asker::Host(host) => Terms::of_host(question, host, &request)?,
        Asker::Outside(_) => return Err(DropReason::NotServed),
    };
    let address = terms.address;
    let gateway = question.table.gateway_ipv4();
    let kind = answer_kind(&request, address, gateway).ok_or(DropReason::Absorbed)?;
    // What is offered is kept for a while. It may have ended just now.
    let lasts = if kind == MessageType::Ack { LEASE } else { OFFER };
    if terms.lease.is_some_and(|lease| !lease.extend(question.now, lasts)) {
        return Err(DropReason::NoLease);
    }
    let reply = reply((question.table, &terms), &request, kind);
    let mut payload = reply.to_vec().map_err(|_| DropReason::MalformedMessage)?;
    payload.resize(payload.len().max(MIN_LEN), 0);
    let (to, mac) = destination(&request, kind, question.asker.mac(), address);
    write_ethernet(writer, mac, ethernet::IPV4)?;
    let (from, to) = ((gateway, udp::DHCPV4_SERVER), (to, udp::DHCPV4_CLIENT));
    udp::write_ipv4(writer, from, to, &payload)?;
    let inform = request.opts().msg_type() == Some(MessageType::Inform);
    Ok(if kind == MessageType::Ack && !inform {
        GatewayEvent::Lease4(Client { hostname, vendor_class: printable(class(&request)) })
    } else {
        GatewayEvent::Other
    })
}

/// What a client is told that asks for an address.
#[derive(Debug, Clone, Copy)]
struct Terms<'a> {
    address: Ipv4Addr,
    /// Of a host behind a port; a guest's ends with its vNIC.
    lease: Option<&'a Lease>,
    mtu: u16,
    addressing: Addressing,
    hostname: Option<&'a String>,
    boot: &'a Boot,
}

impl<'a> Terms<'a> {
    fn of_guest(vnic: &'a Vnic) -> Result<Self, DropReason> {
        Ok(Self {
            address: vnic.ipv4.ok_or(DropReason::NotServed)?,
            lease: None,
            mtu: vnic.mtu,
            addressing: vnic.settings.addressing,
            hostname: vnic.hostname.as_ref(),
            boot: &vnic.boot,
        })
    }

    /// Of a host that has a lease, or has given itself an address and asks for the rest alone.
    fn of_host(question: &Question<'a>, host: Host, request: &Message) -> Result<Self, DropReason> {
        let (table, now) = (question.table, question.now);
        let segment = table.segment.as_ref().ok_or(DropReason::NotServed)?;
        let leases = segment.leases.as_ref().ok_or(DropReason::NotServed)?;
        let terms = |address, lease| Self {
            address,
            lease,
            mtu: host.mtu,
            addressing: Addressing::Subnet,
            hostname: None,
            boot: &segment.boot,
        };
        let kind = request.opts().msg_type().ok_or(DropReason::MalformedMessage)?;
        if kind == MessageType::Inform {
            return Ok(terms(request.ciaddr(), None));
        }
        if is_for_another(request, table.gateway_ipv4()) {
            return Err(DropReason::Absorbed);
        }
        let held = leases.ipv4(host.mac).filter(|(lease, _)| lease.runs(now));
        match (kind, held) {
            (MessageType::Discover | MessageType::Request, Some((lease, address))) => {
                Ok(terms(address, Some(lease)))
            }
            (MessageType::Discover | MessageType::Request, None) => Err(DropReason::NoLease),
            (MessageType::Release, Some((lease, address))) if address == request.ciaddr() => {
                lease.end(now);
                Err(DropReason::Absorbed)
            }
            (MessageType::Decline, Some((lease, address))) if wanted(request) == address => {
                lease.decline(now);
                Err(DropReason::Absorbed)
            }
            _ => Err(DropReason::Absorbed),
        }
    }
}

/// Whether the client has chosen another server's offer (RFC 2131 §3.1, step 4).
fn is_for_another(request: &Message, gateway: Ipv4Addr) -> bool {
    match request.opts().get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(server)) => *server != gateway,
        _ => false,
    }
}

/// Returns the address that a client names.
fn wanted(request: &Message) -> Ipv4Addr {
    // One that renews or rebinds names it in `ciaddr` alone (RFC 2131 §4.3.2).
    match request.opts().get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(wanted)) => *wanted,
        _ => request.ciaddr(),
    }
}

/// What a client says of itself.
pub(super) fn client(question: &Question<'_>, packet: &Ipv4) -> Client {
    parse(question, packet).map_or_else(
        |_| Client::default(),
        |(request, hostname)| Client { hostname, vendor_class: printable(class(&request)) },
    )
}

/// What a client calls its software.
fn class(request: &Message) -> &[u8] {
    match request.opts().get(OptionCode::ClassIdentifier) {
        Some(DhcpOption::ClassIdentifier(class)) => class,
        _ => &[],
    }
}

/// A client's message, from this guest, and what its host is called.
fn parse(question: &Question<'_>, packet: &Ipv4) -> Result<(Message, String), DropReason> {
    let (_, payload) = datagram_ipv4(question, packet)?;
    let (relevant, hostname) = relevant(payload)?;
    let request = Message::from_bytes(&relevant).map_err(|_| DropReason::MalformedMessage)?;
    // Checked first: the codec slices 16 octets of address by this, and panics beyond them.
    let ethernet = request.hlen() == 6 && request.opcode() == Opcode::BootRequest;
    // Relayed requests are not for us: the only client of a vNIC is its guest.
    if !ethernet || !request.giaddr().is_unspecified() {
        return Err(DropReason::MalformedMessage);
    }
    // The frame's own source the guard has checked; this is a second claim.
    if request.chaddr() != question.asker.mac().0 {
        return Err(DropReason::SpoofedMac);
    }
    Ok((request, hostname))
}

/// A message without the options that are of no matter here, and what its client's host is called.
/// Refuses one that is cut or longer than any real one.
///
/// The codec takes some lengths for granted, and reads nothing behind an option that it cannot
/// decode: what it does not see cannot hurt. Names are for people alone and may be of any octets,
/// so it does not see them either.
fn relevant(message: &[u8]) -> Result<(Vec<u8>, String), DropReason> {
    let parts = bounded(message)?.split_at_checked(OPTIONS_AT);
    let (fixed, options) = parts.ok_or(DropReason::MalformedMessage)?;
    let mut kept = fixed.to_vec();
    let (mut hostname, mut domain) = (String::new(), String::new());
    let budget = Budget::new();
    for option in Options::new(Layout::Dhcpv4, options, &budget) {
        let Item { code, octets, value } = option?;
        match u8::try_from(code).map(OptionCode::from) {
            Ok(OptionCode::Hostname) => hostname = printable(value),
            Ok(OptionCode::ClientFQDN) => domain = domain_name(value),
            Ok(code) if matters(code, value) => kept.extend(octets),
            _ => {}
        }
    }
    // The list may have ended without it.
    kept.push(END);
    Ok((kept, if hostname.is_empty() { domain } else { hostname }))
}

/// The name of a client FQDN, behind its flags and two octets of no use: labels or text (RFC 4702
/// §2).
fn domain_name(option: &[u8]) -> String {
    match option {
        [flags, _, _, name @ ..] if flags & FQDN_LABELS != 0 => {
            printable(dns::Labels(name).to_string().as_bytes())
        }
        [_, _, _, name @ ..] => printable(name),
        _ => String::new(),
    }
}

/// Whether an option is read here and can be decoded.
fn matters(code: OptionCode, value: &[u8]) -> bool {
    match code {
        OptionCode::RapidCommit => value.is_empty(),
        OptionCode::MessageType => value.len() == 1,
        OptionCode::MaxMessageSize => value.len() == 2,
        OptionCode::RequestedIpAddress | OptionCode::ServerIdentifier => value.len() == 4,
        OptionCode::ClassIdentifier
        | OptionCode::ClientIdentifier
        | OptionCode::ParameterRequestList => true,
        _ => false,
    }
}

/// What a message is answered with (RFC 2131 §4.3), if at all.
fn answer_kind(request: &Message, address: Ipv4Addr, gateway: Ipv4Addr) -> Option<MessageType> {
    let options = request.opts();
    match options.msg_type()? {
        MessageType::Discover if options.contains(OptionCode::RapidCommit) => {
            Some(MessageType::Ack)
        }
        MessageType::Discover => Some(MessageType::Offer),
        MessageType::Inform => Some(MessageType::Ack),
        MessageType::Request if is_for_another(request, gateway) => None,
        MessageType::Request if wanted(request) == address => Some(MessageType::Ack),
        MessageType::Request => Some(MessageType::Nak),
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
    // The client has an address that is wrong, or none: a broadcast reaches it (RFC 2131 §4.3.2).
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

fn reply((table, terms): (&Routed, &Terms<'_>), request: &Message, kind: MessageType) -> Message {
    let inform = request.opts().msg_type() == Some(MessageType::Inform);
    let mut reply = Message::default();
    reply
        .set_opcode(Opcode::BootReply)
        .set_xid(request.xid())
        .set_flags(request.flags())
        .set_chaddr(request.chaddr());
    let mut told = Fitting::new(request, terms.mtu);
    told.insert(DhcpOption::MessageType(kind));
    told.insert(DhcpOption::ServerIdentifier(table.gateway_ipv4()));
    if let Some(id) = request.opts().get(OptionCode::ClientIdentifier) {
        told.insert(id.clone()); // RFC 6842
    }
    if kind != MessageType::Nak {
        reply.set_ciaddr(request.ciaddr());
        // Its address is its own affair: neither a lease nor a time (RFC 2131 §4.3.5).
        if !inform {
            reply.set_yiaddr(terms.address);
            times(terms).into_iter().for_each(|option| told.insert(option));
        }
        if kind == MessageType::Ack && request.opts().msg_type() == Some(MessageType::Discover) {
            told.insert(DhcpOption::RapidCommit);
        }
        routes(table, terms, request).into_iter().for_each(|option| {
            told.insert(option);
        });
        insert_configuration(table, terms, request, &mut told);
        set_boot_fields(terms.boot, &mut reply);
    }
    reply.set_opts(told.options);
    reply
}

/// For how long a client has its address, and when it is to ask again (RFC 2131 §4.4.5).
fn times(terms: &Terms<'_>) -> ArrayVec<DhcpOption, 3> {
    if terms.lease.is_none() {
        return [DhcpOption::AddressLeaseTime(INFINITE)].into_iter().collect();
    }
    let lasts = LEASE.as_secs() as u32;
    [
        DhcpOption::AddressLeaseTime(lasts),
        DhcpOption::Renewal(lasts / 2),
        DhcpOption::Rebinding(lasts / 8 * 7),
    ]
    .into()
}

/// The options of an answer, as many as its client takes.
struct Fitting {
    options: DhcpOptions,
    room: Room,
}

impl Fitting {
    fn new(request: &Message, mtu: u16) -> Self {
        let taken = match request.opts().get(OptionCode::MaxMessageSize) {
            Some(DhcpOption::MaxMessageSize(taken)) => *taken,
            _ => MIN_DATAGRAM,
        };
        // Clients count the IP and UDP headers in, as RFC 2131 §2 does with its 576, or they do
        // not: the smaller of both fits either.
        let datagram = usize::from(taken.max(MIN_DATAGRAM).min(mtu));
        let around = ipv4::HEADER_LEN + udp::HEADER_LEN + OPTIONS_AT + size_of_val(&END);
        Self { options: DhcpOptions::new(), room: Room(datagram.saturating_sub(around)) }
    }

    /// Inserts an option, in the place of one of its kind, if there is room.
    fn insert(&mut self, option: DhcpOption) {
        // The longer list of servers takes the place of the first three.
        let instead = self.options.get(OptionCode::from(&option)).map_or(0, encoded_len);
        if self.room.take(encoded_len(&option).saturating_sub(instead)) {
            self.options.insert(option);
        }
    }
}

/// What a guest needs to send anything at all.
fn routes(table: &Routed, terms: &Terms<'_>, request: &Message) -> ArrayVec<DhcpOption, 3> {
    if let (Some(_), Some(net)) = (&table.segment, table.ipv4_subnet) {
        // As on any other segment: the gateway is in the subnet, and has the default route.
        let router = DhcpOption::Router(vec![table.gateway_ipv4()]);
        return [DhcpOption::SubnetMask(net.netmask()), router].into_iter().collect();
    }
    // iPXE before June 2024 takes all the world for a broadcast where the mask is /32.
    let subnet = terms.addressing == Addressing::Subnet || class(request).starts_with(PXE_CLIENT);
    let mask = match table.ipv4_subnet {
        Some(net) if subnet => net.netmask(),
        _ => Ipv4Addr::BROADCAST,
    };
    let on_link = Ipv4Net::from(GATEWAY_IPV4);
    let routes = vec![(on_link, Ipv4Addr::UNSPECIFIED), (Ipv4Net::default(), GATEWAY_IPV4)];
    [
        DhcpOption::SubnetMask(mask),
        // For clients that do not know option 121; those that do must ignore this one (RFC 3442).
        DhcpOption::Router(vec![GATEWAY_IPV4]),
        DhcpOption::ClasslessStaticRoute(routes),
    ]
    .into()
}

/// Everything else: what the client asks for in its order, then the rest, most important first;
/// what finds no room is left out.
fn insert_configuration(table: &Routed, terms: &Terms<'_>, request: &Message, told: &mut Fitting) {
    let first = |servers: &[Ipv4Addr]| servers.iter().take(FIRST_SERVERS).copied().collect();
    let (dns, ntp) = (&table.dns_ipv4, &table.ntp_ipv4);
    let mut options = boot_options(terms.boot, request);
    options.push(DhcpOption::InterfaceMtu(terms.mtu));
    if !dns.is_empty() {
        options.push(DhcpOption::DomainNameServer(first(dns)));
    }
    if let Some(domain) = &table.domain {
        options.push(DhcpOption::DomainName(domain.to_string()));
    }
    if let Some(hostname) = terms.hostname {
        options.push(DhcpOption::Hostname(hostname.clone()));
    }
    if !ntp.is_empty() {
        options.push(DhcpOption::NtpServers(first(ntp)));
    }
    options.push(unknown(MICROSOFT_CLASSLESS_ROUTES, &classless_routes()));
    if let Some(domain) = &table.domain {
        options.push(unknown(DOMAIN_SEARCH, domain.octets()));
    }
    let asked = match request.opts().get(OptionCode::ParameterRequestList) {
        Some(DhcpOption::ParameterRequestList(asked)) => asked.as_slice(),
        _ => &[],
    };
    // Stable: what nobody asked for keeps its order, most important first.
    options.sort_by_key(|option| {
        // By number: the codec has two names for an option that is encoded here.
        let code = u8::from(OptionCode::from(option));
        asked.iter().position(|asked| u8::from(*asked) == code).unwrap_or(usize::MAX)
    });
    options.into_iter().for_each(|option| told.insert(option));
    if dns.len() > FIRST_SERVERS {
        told.insert(DhcpOption::DomainNameServer(dns.clone()));
    }
    if ntp.len() > FIRST_SERVERS {
        told.insert(DhcpOption::NtpServers(ntp.clone()));
    }
}

/// What a client boots: a file of a TFTP server, or a URL, which a client of HTTP knows by the
/// class of the answer.
fn boot_options(boot: &Boot, request: &Message) -> Vec<DhcpOption> {
    let mut options = Vec::new();
    let http = class(request).starts_with(HTTP_CLIENT);
    let file = boot.file.as_ref().filter(|_| !http || boot.url.is_none());
    if let Some(file) = file.or(boot.url.as_ref()) {
        options.push(DhcpOption::BootfileName(file.clone().into_bytes()));
    }
    // A UEFI client of HTTP takes no offer that lacks it (UEFI 2.5 §24.7).
    if http && boot.url.is_some() {
        options.push(DhcpOption::ClassIdentifier(HTTP_CLIENT.to_vec()));
    }
    if let Some(server) = boot.server {
        options.push(DhcpOption::TFTPServerName(server.to_string().into_bytes()));
    }
    options
}

/// The fields that boot ROMs read which know no options (RFC 951).
fn set_boot_fields(boot: &Boot, reply: &mut Message) {
    if let Some(server) = boot.server {
        reply.set_siaddr(server).set_sname_str(server.to_string());
    }
    if let Some(file) = boot.file.as_ref().filter(|file| file.len() <= FILE_LEN) {
        reply.set_fname_str(file);
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
