//! What the network tells a guest that comes up: DHCPv4 (RFC 2131), DHCPv6 (RFC 8415) and the
//! router's advertisement (RFC 4861), each asked for as a client does.

use super::guest::{Guest, icmp};
use dhcproto::{Decodable, Encodable as _, v4, v6};
use ipnet::{Ipv4Net, Ipv6Net};
use mvirt_net::{
    addr::MacAddr,
    wire::{
        dns, ethernet, icmpv6, ipv4, ipv6, ndp,
        options::{Budget, Item, Layout, Options},
        protocol, udp,
    },
};
use std::net::{Ipv4Addr, Ipv6Addr};

// RFC 4291 §2.7.1.
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
// RFC 8415 §7.1.
const ALL_DHCP_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
// Always the same: who has the vNIC is its only client.
const TRANSACTION: u32 = 0x6d76_6972;
/// What clients ask for: mask, router, DNS, hostname, domain, MTU, NTP, search list, classless
/// routes.
const ASKED: [u8; 9] = [1, 3, 6, 12, 15, 26, 42, 119, 121];

/// What a guest is told.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Told {
    /// Absent where there was no lease.
    pub(crate) ipv4: Option<Lease>,
    pub(crate) ipv6: Option<Lease>,
    /// Absent where there was no advertisement.
    pub(crate) router: Option<Router>,
}

/// A lease of one family; what was not told is empty.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct Lease {
    pub(crate) address: String,
    pub(crate) gateway: String,
    pub(crate) routes: Vec<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) ntp: Vec<String>,
    pub(crate) domain: Vec<String>,
    pub(crate) hostname: String,
    /// Octets.
    pub(crate) mtu: Option<u16>,
    /// 4294967295 is for ever.
    pub(crate) lease_seconds: u32,
    pub(crate) delegated: Vec<String>,
}

/// A router's advertisement.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct Router {
    pub(crate) address: String,
    pub(crate) lifetime_seconds: u16,
    /// Addresses are to be had by DHCPv6.
    pub(crate) managed: bool,
    /// Octets.
    pub(crate) mtu: Option<u32>,
    /// Prefixes, with `on-link` and `autonomous`.
    pub(crate) prefixes: Vec<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) domain: Vec<String>,
}

fn strings<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// Asks for everything the vNIC has a family for.
pub(crate) async fn lease(guest: &mut Guest) -> Told {
    let ipv4 = if guest.ipv4.is_some() { lease_ipv4(guest).await } else { None };
    let router = if guest.ipv6.is_some() { solicit_router(guest).await } else { None };
    let ipv6 = if guest.ipv6.is_some() { lease_ipv6(guest).await } else { None };
    Told { ipv4, ipv6, router }
}

async fn lease_ipv4(guest: &mut Guest) -> Option<Lease> {
    let offer = exchange_ipv4(guest, v4::MessageType::Discover, None).await?;
    let ack = exchange_ipv4(guest, v4::MessageType::Request, Some(&offer)).await?;
    // The other answer is DHCPNAK.
    let acknowledged = ack.opts().msg_type() == Some(v4::MessageType::Ack);
    acknowledged.then(|| told_ipv4(&ack))
}

async fn exchange_ipv4(
    guest: &mut Guest,
    kind: v4::MessageType,
    offer: Option<&v4::Message>,
) -> Option<v4::Message> {
    let mut message = v4::Message::default();
    message.set_xid(TRANSACTION).set_chaddr(&guest.mac.0);
    let options = message.opts_mut();
    options.insert(v4::DhcpOption::MessageType(kind));
    options.insert(v4::DhcpOption::ClassIdentifier(b"mvirt-probe".to_vec()));
    let asked = ASKED.map(v4::OptionCode::from).to_vec();
    options.insert(v4::DhcpOption::ParameterRequestList(asked));
    // A request says whose offer it takes, and which address (RFC 2131 §4.3.2).
    if let Some(offer) = offer {
        options.insert(v4::DhcpOption::RequestedIpAddress(offer.yiaddr()));
        if let Some(server) = offer.opts().get(v4::OptionCode::ServerIdentifier) {
            options.insert(server.clone());
        }
    }
    let payload = message.to_vec().ok()?;
    // Without an address yet (RFC 2131 §4.1).
    let from = (Ipv4Addr::UNSPECIFIED, udp::DHCPV4_CLIENT);
    let to = (Ipv4Addr::BROADCAST, udp::DHCPV4_SERVER);
    let frame = guest.frame((MacAddr::BROADCAST, ethernet::IPV4), |writer| {
        udp::write_ipv4(writer, from, to, &payload)
    });
    let is_answer = |message: &v4::Message| {
        message.opcode() == v4::Opcode::BootReply && message.xid() == TRANSACTION
    };
    let answer = |frame: &[u8]| dhcp_message(frame, udp::DHCPV4_CLIENT).filter(is_answer);
    guest.ask(&frame, answer).await
}

/// The DHCP message in a frame to `port`.
fn dhcp_message<T: Decodable>(frame: &[u8], port: u16) -> Option<T> {
    let (header, packet) = ethernet::Header::parse(frame)?;
    let (carried, offset) = match header.ether_type.get() {
        ethernet::IPV4 => {
            let header = ipv4::Header::parse(packet, packet.len())?;
            (header.protocol, header.header_len())
        }
        ethernet::IPV6 => {
            let upper = ipv6::Header::parse(packet, packet.len())?.upper(packet).ok()?;
            (upper.protocol, upper.offset)
        }
        _ => return None,
    };
    let (header, payload) = udp::Header::parse(packet.get(offset..)?)?;
    let wanted = carried == protocol::UDP && header.destination.get() == port;
    T::from_bytes(payload).ok().filter(|_| wanted)
}

fn told_ipv4(ack: &v4::Message) -> Lease {
    // A host alone, where no mask comes.
    let mut mask = Ipv4Addr::BROADCAST;
    let mut lease = Lease::default();
    for (_, option) in ack.opts().iter() {
        match option {
            v4::DhcpOption::SubnetMask(told) => mask = *told,
            v4::DhcpOption::Router(routers) => {
                lease.gateway = routers.first().map(ToString::to_string).unwrap_or_default();
            }
            v4::DhcpOption::ClasslessStaticRoute(routes) => {
                lease.routes = routes.iter().map(|(to, via)| format!("{to} via {via}")).collect();
            }
            v4::DhcpOption::DomainNameServer(servers) => lease.dns = strings(servers),
            v4::DhcpOption::NtpServers(servers) => lease.ntp = strings(servers),
            v4::DhcpOption::DomainName(name) => lease.domain = vec![name.clone()],
            v4::DhcpOption::Hostname(name) => lease.hostname.clone_from(name),
            v4::DhcpOption::InterfaceMtu(mtu) => lease.mtu = Some(*mtu),
            v4::DhcpOption::AddressLeaseTime(seconds) => lease.lease_seconds = *seconds,
            _ => {}
        }
    }
    let address = Ipv4Net::with_netmask(ack.yiaddr(), mask);
    lease.address = address.map_or_else(|_| ack.yiaddr().to_string(), |net| net.to_string());
    lease
}

async fn lease_ipv6(guest: &mut Guest) -> Option<Lease> {
    // Transactions have 24 bits here (RFC 8415 §8).
    let [_, a, b, c] = TRANSACTION.to_be_bytes();
    let mut solicit = v6::Message::new_with_id(v6::MessageType::Solicit, [a, b, c]);
    let options = solicit.opts_mut();
    // DUID-LL, of Ethernet (RFC 8415 §11.4).
    options.insert(v6::DhcpOption::ClientId([&[0, 3, 0, 1][..], &guest.mac.0].concat()));
    // Two messages instead of four (RFC 8415 §5.1).
    options.insert(v6::DhcpOption::RapidCommit);
    // Times of zero: as the server likes (RFC 8415 §21.4).
    let (id, t1, t2) = (1, 0, 0);
    let opts = v6::DhcpOptions::new();
    options.insert(v6::DhcpOption::IANA(v6::IANA { id, t1, t2, opts: opts.clone() }));
    options.insert(v6::DhcpOption::IAPD(v6::IAPD { id, t1, t2, opts }));
    let payload = solicit.to_vec().ok()?;
    let from = (guest.link_local(), udp::DHCPV6_CLIENT);
    let to = (ALL_DHCP_SERVERS, udp::DHCPV6_SERVER);
    let group = MacAddr::ipv6_multicast(ALL_DHCP_SERVERS);
    let frame =
        guest.frame((group, ethernet::IPV6), |writer| udp::write_ipv6(writer, from, to, &payload));
    let is_answer = |message: &v6::Message| {
        message.msg_type() == v6::MessageType::Reply && message.xid() == [a, b, c]
    };
    let answer = |frame: &[u8]| dhcp_message(frame, udp::DHCPV6_CLIENT).filter(is_answer);
    guest.ask(&frame, answer).await.map(|reply| told_ipv6(&reply))
}

fn told_ipv6(reply: &v6::Message) -> Lease {
    let mut lease = Lease::default();
    for option in reply.opts().iter() {
        match option {
            v6::DhcpOption::IANA(ia) => {
                if let Some(v6::DhcpOption::IAAddr(told)) = ia.opts.get(v6::OptionCode::IAAddr) {
                    // DHCPv6 has no mask (RFC 5942 §4).
                    lease.address = format!("{}/128", told.addr);
                    lease.lease_seconds = told.valid_life;
                }
            }
            v6::DhcpOption::IAPD(ia) => {
                lease.delegated = ia.opts.iter().filter_map(delegated).collect();
            }
            v6::DhcpOption::DomainNameServers(servers) => lease.dns = strings(servers),
            v6::DhcpOption::DomainSearchList(names) => {
                let name =
                    |name: &dhcproto::Name| name.to_string().trim_end_matches('.').to_owned();
                lease.domain = names.iter().map(name).collect();
            }
            v6::DhcpOption::NtpServer(servers) => {
                lease.ntp = servers.iter().filter_map(ntp).collect();
            }
            _ => {}
        }
    }
    lease
}

fn delegated(option: &v6::DhcpOption) -> Option<String> {
    match option {
        v6::DhcpOption::IAPrefix(p) => Some(format!("{}/{}", p.prefix_ip, p.prefix_len)),
        _ => None,
    }
}

fn ntp(option: &v6::NtpSuboption) -> Option<String> {
    match option {
        v6::NtpSuboption::ServerAddress(address) => Some(address.to_string()),
        _ => None,
    }
}

async fn solicit_router(guest: &mut Guest) -> Option<Router> {
    // Hop limit 255, as for all NDP (RFC 4861 §6.1.1).
    let from = (guest.link_local(), ALL_ROUTERS, 255);
    let body = [&[1, 1][..], &guest.mac.0].concat();
    let words = (icmpv6::ROUTER_SOLICITATION, 0, 0);
    let to = (MacAddr::ipv6_multicast(ALL_ROUTERS), ethernet::IPV6);
    let frame = guest.frame(to, |writer| icmpv6::write(writer, from, words, &body));
    guest.ask(&frame, advertisement).await
}

fn advertisement(frame: &[u8]) -> Option<Router> {
    let (from, message) = icmp(frame)?;
    if message.first() != Some(&icmpv6::ROUTER_ADVERTISEMENT) {
        return None;
    }
    let mut router = Router {
        address: from.to_string(),
        lifetime_seconds: u16::from_be_bytes(message.get(6..8)?.try_into().ok()?),
        // The M bit; options begin after 16 octets (RFC 4861 §4.2).
        managed: message.get(5)? & 0x80 != 0,
        ..Router::default()
    };
    let budget = Budget::new();
    let options = Options::new(Layout::Neighbour, message.get(16..)?, &budget);
    for Item { code, value, .. } in options.flatten() {
        match u8::try_from(code).ok()? {
            // Offsets are those of the RFC less two: type and length are not part of a value.
            ndp::MTU => router.mtu = value.get(2..6).and_then(word),
            ndp::PREFIX_INFORMATION => router.prefixes.extend(prefix(value)),
            ndp::RDNSS => {
                let servers = value.get(6..).unwrap_or(&[]).chunks_exact(16);
                let address =
                    |octets: &[u8]| Ipv6Addr::from_octets(octets.try_into().unwrap_or([0; 16]));
                router.dns.extend(servers.map(|octets| address(octets).to_string()));
            }
            ndp::DNSSL => {
                router.domain.push(dns::Labels(value.get(6..).unwrap_or(&[])).to_string());
            }
            _ => {}
        }
    }
    Some(router)
}

fn word(octets: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(octets.try_into().ok()?))
}

fn prefix(value: &[u8]) -> Option<String> {
    let (len, flags) = (*value.first()?, *value.get(1)?);
    let octets: [u8; 16] = value.get(14..30)?.try_into().ok()?;
    let net = Ipv6Net::new(octets.into(), len).ok()?;
    // The L and A bits (RFC 4861 §4.6.2).
    let uses = [(0x80, " on-link"), (0x40, " autonomous")];
    let uses = uses.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name);
    Some(format!("{net}{}", uses.collect::<String>()))
}
