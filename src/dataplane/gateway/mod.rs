//! The gateway's voice: each responder is a function from a guest's frame to the octets of an
//! answer. Router advertisements alone answer nobody: `reactor/pipeline/` sends them when they are
//! due.
//!
//! ```text
//! ARP who-has ─────────── arp       NS, RS ──── ndp       DHCPv4 ── dhcpv4
//! the same for others ─── proxy
//! who listens? (asked) ── listeners
//! echo, ICMP errors ───── icmp      DNS ─────── dns       DHCPv6 ── dhcpv6
//! ```
//! Takes a private copy of the whole frame and the network's table, writes the answering frame, or
//! says why there is none. No clock, no state: what is told follows from the table alone.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod arp;
mod datagram;
mod dhcpv4;
mod dhcpv6;
mod dns;
mod icmp;
mod kinds;
mod listeners;
mod ndp;
mod proxy;
mod punt;

pub use dns::{MAX_RESPONSE, Reply, response};
pub use icmp::reject;
pub use kinds::answer_kind;
pub use listeners::{LAST_MEMBER_INTERVAL, QUERY_INTERVALS, query_group, query_ipv4, query_ipv6};
pub use ndp::{FIRST_ADVERTISEMENTS, next_advertisement, router_advertisement};
pub use proxy::speak_for;
pub use punt::{Punted, is_for_service};

use super::{
    forward::{
        Asker,
        tables::{GATEWAY_MAC, NetworkKey, Routed},
    },
    frame::{
        classify::{Headers, Ipv4, Ipv6, Packet, Upper},
        verdict::DropReason,
    },
};
use crate::{
    addr::MacAddr,
    wire::{
        Full, Part, Writer, dns_message, ethernet, icmpv4, icmpv6, options::Unreadable, udp,
        vnet::Offload,
    },
};
use dhcproto::Encodable;
use std::{sync::Arc, time::Instant};
use zerocopy::big_endian::U16;

/// A frame to the gateway, with whom it is from.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The network.
    pub table: &'a Routed,
    /// Who asks.
    pub asker: Asker<'a>,
    /// What the frame is.
    pub headers: &'a Headers,
    /// The whole frame without padding.
    pub frame: &'a [u8],
    /// What its sender left to be done.
    pub offload: Offload,
    /// When it is asked.
    pub now: Instant,
}

impl<'a> Question<'a> {
    /// The frame from `offset` octets into its packet on.
    fn packet_from(&self, offset: usize) -> &'a [u8] {
        self.frame.get(ethernet::HEADER_LEN + offset..).unwrap_or(&[])
    }
}

/// The answer does not fit the buffer it is written to: the question is too long to be answered.
impl From<Full> for DropReason {
    fn from(_: Full) -> Self {
        Self::MalformedMessage
    }
}

/// What a host behind a port asks that control must give an address first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The network that it is in.
    pub network: NetworkKey,
    /// Whom it is for.
    pub mac: MacAddr,
    /// What its client says of itself.
    pub client: Client,
    /// The whole frame, to be answered once there is an address, or none can be had.
    pub frame: Box<[u8]>,
    /// What its sender left to be done.
    pub offload: Offload,
    /// Held while it is waited for: there are not many at a time.
    pub place: Arc<()>,
}

impl Asked {
    /// Whether it asks for an IPv6 address.
    pub fn is_ipv6(&self) -> bool {
        ethernet::Header::parse(&self.frame)
            .is_some_and(|(header, _)| header.ether_type.get() == ethernet::IPV6)
    }
}

/// Returns what a client of DHCP says of itself.
pub fn client(question: &Question<'_>) -> Client {
    match &question.headers.packet {
        Packet::Ipv4(packet) => dhcpv4::client(question, packet),
        Packet::Ipv6(packet) => dhcpv6::client_of(question, packet),
        Packet::Arp(_) => Client::default(),
    }
}

/// What a guest was told. A person asks for it when "the VM has no network".
#[derive(Debug, PartialEq, Eq)]
pub enum GatewayEvent {
    /// Where its gateway is, by ARP.
    Neighbour4,
    /// Where its gateway is, by NDP.
    Neighbour6,
    /// That there is a router, as it asked.
    Router,
    /// That an IPv4 address is its own.
    Lease4(Client),
    /// That an IPv6 address is its own.
    Lease6(Client),
    /// Nothing yet: a host behind a port needs an address that it has not leased.
    Asked(Asked),
    /// Nothing here: a service is to answer.
    Punted(Punted),
    /// Nothing here: a service is to ask others for the name that it wants.
    Foreign,
    /// Something that says nothing about its network.
    Other,
}

impl GatewayEvent {
    /// How many kinds say something.
    pub const KINDS: usize = 5;

    /// Returns which of the kinds this is, or [`GatewayEvent::KINDS`] where it says nothing.
    pub const fn kind(&self) -> usize {
        match self {
            Self::Neighbour4 => 0,
            Self::Neighbour6 => 1,
            Self::Router => 2,
            Self::Lease4(_) => 3,
            Self::Lease6(_) => 4,
            Self::Asked(_) | Self::Punted(_) | Self::Foreign | Self::Other => Self::KINDS,
        }
    }
}

/// What a DHCP client says of itself, in printable ASCII, 255 octets each at most; empty where it
/// says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    /// Its host's name.
    pub hostname: String,
    /// Its software.
    pub vendor_class: String,
}

/// Octets of any text of a guest's that are kept.
const MAX_TEXT: usize = 255;
/// Octets of a message of DHCP or neighbour discovery: those of a packet that every link carries.
// Real ones are shorter by far, also where the MTU is larger, and what a codec may do with more is
// not known: thousands of DHCPv6 options take it 80 ms.
const MAX_MESSAGE: usize = 1500;

/// What can be shown on any terminal of a guest's text, of which a part is kept.
fn printable(octets: &[u8]) -> String {
    let shown = octets.iter().take(MAX_TEXT).map(|octet| char::from(*octet));
    // It is written to terminals: no control character of a guest's may get there.
    shown.map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

/// What is left of an answer's octets.
struct Room(usize);

impl Room {
    /// Takes `octets`, if there are so many.
    fn take(&mut self, octets: usize) -> bool {
        // What does not fit takes nothing: a shorter option may still fit.
        let left = self.0.checked_sub(octets);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

/// Octets of an option in a message; more than there can be where it cannot be encoded.
fn encoded_len(option: &impl Encodable) -> usize {
    // So it never finds room, and is left out.
    option.to_vec().map_or(usize::MAX, |octets| octets.len())
}

/// A message that a codec may see.
fn bounded(message: &[u8]) -> Result<&[u8], DropReason> {
    if message.len() <= MAX_MESSAGE { Ok(message) } else { Err(DropReason::MessageTooLong) }
}

impl From<Unreadable> for DropReason {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::Malformed => Self::MalformedMessage,
            Unreadable::TooMany => Self::TooManyOptions,
        }
    }
}

/// Writes the answer to a frame for the gateway.
pub fn respond(
    question: &Question<'_>,
    writer: &mut Writer<'_>,
) -> Result<GatewayEvent, DropReason> {
    match &question.headers.packet {
        Packet::Arp(packet) => arp::respond(question.asker, question.table, packet, writer)
            .map(|()| GatewayEvent::Neighbour4),
        Packet::Ipv4(packet) => respond_ipv4(question, packet, writer),
        Packet::Ipv6(packet) => respond_ipv6(question, packet, writer),
    }
}

fn respond_ipv4(
    question: &Question<'_>,
    packet: &Ipv4,
    writer: &mut Writer<'_>,
) -> Result<GatewayEvent, DropReason> {
    match packet.upper {
        // First: a broadcast draws neither an error nor an echo (RFC 1122 §3.2.2, §3.2.2.6).
        _ if packet.destination.is_broadcast() && !asks_dhcpv4(packet) => {
            Err(DropReason::Broadcast)
        }
        // Nobody here puts packets together (RFC 1122 §3.3.2 lets a host say so by silence).
        _ if packet.part != Part::Whole => Err(DropReason::Absorbed),
        Upper::Icmp(icmpv4::ECHO_REQUEST) => {
            icmp::echo_ipv4(question, packet, writer).map(|()| GatewayEvent::Other)
        }
        // What was not asked for, or is not known (RFC 1122 §3.2.2).
        Upper::Icmp(_) => Err(DropReason::Absorbed),
        Upper::Udp { destination: udp::DHCPV4_SERVER, .. } => {
            dhcpv4::respond(question, packet, writer)
        }
        Upper::Udp { destination: dns_message::PORT, .. } => {
            dns::respond_ipv4(question, packet, writer)
        }
        _ => Err(DropReason::NotServed),
    }
}

fn asks_dhcpv4(packet: &Ipv4) -> bool {
    matches!(packet.upper, Upper::Udp { destination: udp::DHCPV4_SERVER, .. })
}

fn respond_ipv6(
    question: &Question<'_>,
    packet: &Ipv6,
    writer: &mut Writer<'_>,
) -> Result<GatewayEvent, DropReason> {
    match packet.upper {
        // An atomic fragment is a whole packet (RFC 6946 §4).
        _ if !matches!(packet.part, Part::Whole | Part::Atomic) => {
            Err(silence(packet.destination.is_multicast()))
        }
        Upper::Icmp(kind) if icmpv6::is_discovery(kind) => ndp::respond(question, packet, writer),
        Upper::Icmp(icmpv6::ECHO_REQUEST) => {
            icmp::echo_ipv6(question, packet, writer).map(|()| GatewayEvent::Other)
        }
        Upper::Udp { destination: udp::DHCPV6_SERVER, .. } => {
            dhcpv6::respond(question, packet, writer)
        }
        Upper::Udp { destination: dns_message::PORT, .. } => {
            dns::respond_ipv6(question, packet, writer)
        }
        // What was not asked for, or is not known (RFC 4443 §2.4 b), or is nothing (RFC 8200 §4.7).
        Upper::Icmp(_) | Upper::Nothing => Err(silence(packet.destination.is_multicast())),
        _ if packet.destination.is_multicast() => Err(DropReason::Multicast),
        _ => Err(DropReason::NotServed),
    }
}

/// Why there is no answer to what needs none.
fn silence(multicast: bool) -> DropReason {
    if multicast { DropReason::Multicast } else { DropReason::Absorbed }
}

/// The Ethernet header of an answer.
fn write_ethernet(writer: &mut Writer<'_>, to: MacAddr, ether_type: u16) -> Result<(), Full> {
    write_ethernet_from(GATEWAY_MAC, writer, to, ether_type)
}

/// As [`write_ethernet`], from somebody else.
fn write_ethernet_from(
    source: MacAddr,
    writer: &mut Writer<'_>,
    to: MacAddr,
    ether_type: u16,
) -> Result<(), Full> {
    writer.push(&ethernet::Header { destination: to, source, ether_type: U16::new(ether_type) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataplane::{
            forward::{
                FibBuilder, Host, Lease, Leases, OFFER,
                tables::{PortId, Segment, Vnic},
            },
            frame::classify::classify,
        },
        model::Boot,
        wire::arp as arp_packet,
    };
    use dhcproto::{Decodable as _, v4, v6};
    use std::net::Ipv6Addr;
    use zerocopy::IntoBytes as _;

    /// A network of one guest, 10.0.0.2 and fd00::2, that boots from it.
    fn network(boot: Boot) -> (Routed, Vnic) {
        let port = PortId { slot: 0, generation: 1 };
        let vnic = Vnic {
            ipv4: Some([10, 0, 0, 2].into()),
            ipv6: Some("fd00::2".parse().unwrap()),
            boot,
            ..Vnic::new(port, MacAddr([0x52, 0x54, 0, 0, 0, 2]), 1500)
        };
        let table = Routed {
            ipv4_subnet: Some("10.0.0.0/24".parse().unwrap()),
            ipv6_prefix: Some("fd00::/64".parse().unwrap()),
            ..Routed::new(FibBuilder::default().build(7))
        };
        (table, vnic)
    }

    fn boot() -> Boot {
        Boot {
            server: Some([10, 0, 0, 9].into()),
            file: Some("grub/x.efi".into()),
            url: Some("http://10.0.0.9/x.efi".into()),
        }
    }

    /// What a DHCP server answers that is asked by `write`.
    fn ask(
        (table, vnic): &(Routed, Vnic),
        ether_type: u16,
        write: impl Fn(&mut Writer<'_>) -> Result<(), Full>,
    ) -> Vec<u8> {
        let (mut asked, mut answer) = ([0; 1514], [0; 1514]);
        let mut writer = Writer::new(&mut asked);
        let (destination, source) = (MacAddr::BROADCAST, vnic.mac);
        let header = ethernet::Header { destination, source, ether_type: U16::new(ether_type) };
        writer.push(&header).unwrap();
        write(&mut writer).unwrap();
        let frame = writer.since(0);
        let headers = classify(frame, frame.len(), Offload::None).unwrap();
        let offload = Offload::None;
        let (asker, now) = (Asker::Guest(vnic), Instant::now());
        let question = Question { table, asker, headers: &headers, frame, offload, now };
        let mut writer = Writer::new(&mut answer);
        respond(&question, &mut writer).unwrap();
        writer.since(0).to_vec()
    }

    fn discover(network: &(Routed, Vnic), class: &[u8]) -> v4::Message {
        let mut request = v4::Message::default();
        request.set_chaddr(&network.1.mac.0);
        request.opts_mut().insert(v4::DhcpOption::MessageType(v4::MessageType::Discover));
        request.opts_mut().insert(v4::DhcpOption::ClassIdentifier(class.to_vec()));
        let payload = request.to_vec().unwrap();
        let answer = ask(network, ethernet::IPV4, |writer| {
            udp::write_ipv4(writer, ([0; 4].into(), 68), ([255; 4].into(), 67), &payload)
        });
        v4::Message::from_bytes(&answer[42..]).unwrap()
    }

    #[test]
    fn what_a_guest_boots_is_told_in_the_words_it_knows() {
        let offer = discover(&network(boot()), b"PXEClient:Arch:00007");
        let option = |offer: &v4::Message, code: v4::OptionCode| offer.opts().get(code).cloned();
        let file = v4::DhcpOption::BootfileName(b"grub/x.efi".to_vec());
        let server = v4::DhcpOption::TFTPServerName(b"10.0.0.9".to_vec());
        assert_eq!(offer.siaddr(), std::net::Ipv4Addr::from([10, 0, 0, 9]));
        assert_eq!(offer.fname(), Some(&b"grub/x.efi\0"[..]));
        assert_eq!(offer.sname(), Some(&b"10.0.0.9\0"[..]));
        assert_eq!(option(&offer, v4::OptionCode::BootfileName), Some(file));
        assert_eq!(option(&offer, v4::OptionCode::TFTPServerName), Some(server));
        assert_eq!(option(&offer, v4::OptionCode::ClassIdentifier), None);
        let offer = discover(&network(boot()), b"HTTPClient:Arch:00016");
        let url = v4::DhcpOption::BootfileName(b"http://10.0.0.9/x.efi".to_vec());
        let class = v4::DhcpOption::ClassIdentifier(b"HTTPClient".to_vec());
        assert_eq!(option(&offer, v4::OptionCode::BootfileName), Some(url));
        assert_eq!(option(&offer, v4::OptionCode::ClassIdentifier), Some(class));
        let nothing = discover(&network(Boot::default()), b"PXEClient");
        assert_eq!((nothing.siaddr().is_unspecified(), nothing.fname()), (true, None));
        assert_eq!(option(&nothing, v4::OptionCode::BootfileName), None);
    }

    #[test]
    fn on_a_segment_the_gateway_is_in_the_subnet() {
        let (table, vnic) = network(Boot::default());
        let segment =
            Some(Segment { gateway_ipv4: Some([10, 0, 0, 1].into()), ..Default::default() });
        let network = (Routed { segment, ..table }, vnic);
        let offer = discover(&network, b"");
        let option = |code| offer.opts().get(code).cloned();
        let gateway = [10, 0, 0, 1].into();
        let mask = v4::DhcpOption::SubnetMask([255, 255, 255, 0].into());
        assert_eq!(option(v4::OptionCode::SubnetMask), Some(mask));
        assert_eq!(option(v4::OptionCode::Router), Some(v4::DhcpOption::Router(vec![gateway])));
        let server = v4::DhcpOption::ServerIdentifier(gateway);
        assert_eq!(option(v4::OptionCode::ServerIdentifier), Some(server));
        assert_eq!(option(v4::OptionCode::ClasslessStaticRoute), None);
        let mut advertised = [0; 1514];
        let mut writer = Writer::new(&mut advertised);
        router_advertisement(&network.0, Asker::Guest(&network.1), &mut writer).unwrap();
        // A prefix of 64 bits that is on link, and of which nobody chooses (RFC 4861 §4.6.2).
        let prefix = [3, 4, 64, 0x80];
        assert!(writer.since(0).windows(4).any(|octets| octets == prefix));
    }

    /// What a host behind a port is answered by a gateway on its segment.
    fn answers_host(frame: &[u8]) -> Result<Vec<u8>, DropReason> {
        answers_with(None, frame, Instant::now())
    }

    /// As [`answers_host`], where hosts have leased this.
    fn answers_with(
        leases: Option<Arc<Leases>>,
        frame: &[u8],
        now: Instant,
    ) -> Result<Vec<u8>, DropReason> {
        let (table, _) = network(Boot::default());
        let gateway_ipv4 = Some([10, 0, 0, 1].into());
        let segment = Some(Segment { gateway_ipv4, leases, boot: boot() });
        let table = Routed { segment, ..table };
        let headers = classify(frame, frame.len(), Offload::None).unwrap();
        let asker = Asker::Host(Host { mac: headers.source, mtu: 1500 });
        let offload = Offload::None;
        let question = Question { table: &table, asker, headers: &headers, frame, offload, now };
        let mut answer = [0; 1514];
        let mut writer = Writer::new(&mut answer);
        respond(&question, &mut writer)?;
        Ok(writer.since(0).to_vec())
    }

    const HOST: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn framed(ether_type: u16, write: impl FnOnce(&mut Writer<'_>) -> Result<(), Full>) -> Vec<u8> {
        let mut frame = [0; 1514];
        let mut writer = Writer::new(&mut frame);
        let (destination, source) = (MacAddr::BROADCAST, HOST);
        let header = ethernet::Header { destination, source, ether_type: U16::new(ether_type) };
        writer.push(&header).unwrap();
        write(&mut writer).unwrap();
        writer.since(0).to_vec()
    }

    /// A message of a host's DHCPv4 client, which names an address and a server.
    fn asks4(kind: v4::MessageType, wanted: Option<u8>, server: Option<u8>) -> Vec<u8> {
        let mut request = v4::Message::default();
        request.set_chaddr(&HOST.0);
        let address = |last: u8| std::net::Ipv4Addr::new(10, 0, 0, last);
        if let Some(last) = wanted {
            request.set_ciaddr(address(last));
            request.opts_mut().insert(v4::DhcpOption::RequestedIpAddress(address(last)));
        }
        if let Some(last) = server {
            request.opts_mut().insert(v4::DhcpOption::ServerIdentifier(address(last)));
        }
        request.opts_mut().insert(v4::DhcpOption::MessageType(kind));
        let payload = request.to_vec().unwrap();
        framed(ethernet::IPV4, |writer| {
            udp::write_ipv4(writer, ([0; 4].into(), 68), ([255; 4].into(), 67), &payload)
        })
    }

    #[test]
    fn a_host_is_told_what_it_leases_for_an_hour() {
        use v4::{MessageType as Kind, OptionCode as Code};
        let start = Instant::now();
        let lease = Arc::new(Lease::new(HOST, [10, 0, 0, 200].into(), start, OFFER));
        let leases: Arc<Leases> = Arc::new([Arc::clone(&lease)].into_iter().collect());
        let at = |kind, wanted, server, seconds| {
            let now = start + std::time::Duration::from_secs(seconds);
            let answer =
                answers_with(Some(Arc::clone(&leases)), &asks4(kind, wanted, server), now)?;
            Ok(v4::Message::from_bytes(&answer[42..]).unwrap())
        };
        let kind = |answer: &v4::Message| answer.opts().msg_type().unwrap();
        let offer: v4::Message = at(Kind::Discover, None, None, 0).unwrap();
        assert_eq!((kind(&offer), offer.yiaddr()), (Kind::Offer, [10, 0, 0, 200].into()));
        let told = |code| offer.opts().get(code).cloned();
        let seconds = v4::DhcpOption::AddressLeaseTime(3600);
        assert_eq!(told(Code::AddressLeaseTime), Some(seconds));
        assert_eq!(told(Code::Renewal), Some(v4::DhcpOption::Renewal(1800)));
        assert_eq!(told(Code::Rebinding), Some(v4::DhcpOption::Rebinding(3150)));
        let router = v4::DhcpOption::Router(vec![[10, 0, 0, 1].into()]);
        assert_eq!(told(Code::Router), Some(router));
        let mask = v4::DhcpOption::SubnetMask([255, 255, 255, 0].into());
        assert_eq!(told(Code::SubnetMask), Some(mask));
        assert_eq!(offer.fname(), Some(&b"grub/x.efi\0"[..]), "it boots from the network");
        let other = at(Kind::Request, Some(200), Some(7), 1);
        assert_eq!(other, Err(DropReason::Absorbed), "it has chosen another server");
        let taken = at(Kind::Request, Some(200), Some(1), 1).unwrap();
        assert_eq!((kind(&taken), lease.left(start).as_secs()), (Kind::Ack, 3601));
        let wrong = at(Kind::Request, Some(201), None, 2).unwrap();
        assert_eq!(kind(&wrong), Kind::Nak);
        let renewed = at(Kind::Request, Some(200), None, 1800).unwrap();
        assert_eq!((kind(&renewed), lease.left(start).as_secs()), (Kind::Ack, 5400));
        let inform = at(Kind::Inform, Some(50), None, 1900).unwrap();
        assert_eq!((kind(&inform), inform.yiaddr().is_unspecified()), (Kind::Ack, true));
        // Control is asked again once it is over.
        assert_eq!(at(Kind::Release, Some(201), None, 1900), Err(DropReason::Absorbed));
        assert!(lease.runs(start + std::time::Duration::from_secs(1900)), "not what it has");
        assert_eq!(at(Kind::Release, Some(200), None, 1900), Err(DropReason::Absorbed));
        assert_eq!(at(Kind::Discover, None, None, 1901), Err(DropReason::NoLease));
        assert_eq!(at(Kind::Request, Some(200), None, 1901), Err(DropReason::NoLease));
        lease.begin(start, OFFER);
        assert_eq!(at(Kind::Decline, Some(200), None, 7), Err(DropReason::Absorbed));
        assert!(lease.is_declined());
        let nobody = answers_with(None, &asks4(Kind::Discover, None, None), start);
        assert_eq!(nobody, Err(DropReason::NotServed), "where hosts lease nothing");
    }

    #[test]
    fn a_host_leases_an_ipv6_address_for_an_hour() {
        use v6::MessageType as Kind;
        let start = Instant::now();
        let address: Ipv6Addr = "fd00::8000:0:0:0".parse().unwrap();
        let lease = Arc::new(Lease::new(HOST, address.into(), start, OFFER));
        let leases: Arc<Leases> = Arc::new([Arc::clone(&lease)].into_iter().collect());
        let asks = |kind: Kind| {
            let mut request = v6::Message::new_with_id(kind, [1, 2, 3]);
            let id = vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 9];
            request.opts_mut().insert(v6::DhcpOption::ClientId(id));
            if kind != Kind::Solicit {
                let server = [&[0, 3, 0, 1][..], &GATEWAY_MAC.0].concat();
                request.opts_mut().insert(v6::DhcpOption::ServerId(server));
            }
            let mut opts = v6::DhcpOptions::new();
            if kind == Kind::Release {
                let (preferred_life, valid_life, addr) = (0, 0, address);
                let opts_of = v6::DhcpOptions::new();
                opts.insert(v6::DhcpOption::IAAddr(v6::IAAddr {
                    addr,
                    preferred_life,
                    valid_life,
                    opts: opts_of,
                }));
            }
            let ia = v6::IANA { id: 7, t1: 0, t2: 0, opts };
            request.opts_mut().insert(v6::DhcpOption::IANA(ia));
            let payload = request.to_vec().unwrap();
            let from: Ipv6Addr = "fe80::9".parse().unwrap();
            let to: Ipv6Addr = "ff02::1:2".parse().unwrap();
            framed(ethernet::IPV6, |writer| {
                udp::write_ipv6(writer, (from, 546), (to, 547), &payload)
            })
        };
        let at = |kind, seconds| {
            let now = start + std::time::Duration::from_secs(seconds);
            let answer = answers_with(Some(Arc::clone(&leases)), &asks(kind), now)?;
            Ok(v6::Message::from_bytes(&answer[62..]).unwrap())
        };
        let told: v6::Message = at(Kind::Solicit, 0).unwrap();
        assert_eq!(told.msg_type(), Kind::Advertise);
        let Some(v6::DhcpOption::IANA(ia)) = told.opts().get(v6::OptionCode::IANA) else {
            panic!("{told:?}");
        };
        assert_eq!((ia.t1, ia.t2), (1800, 3150));
        let Some(v6::DhcpOption::IAAddr(given)) = ia.opts.get(v6::OptionCode::IAAddr) else {
            panic!("{told:?}");
        };
        assert_eq!((given.addr, given.valid_life), (address, 3600));
        assert_eq!(lease.left(start), OFFER);
        assert_eq!(at(Kind::Request, 1).unwrap().msg_type(), Kind::Reply);
        assert_eq!(lease.left(start).as_secs(), 3601);
        assert_eq!(at(Kind::Release, 2).unwrap().msg_type(), Kind::Reply);
        assert_eq!(at(Kind::Solicit, 3), Err(DropReason::NoLease));
    }

    #[test]
    fn hosts_behind_ports_are_answered_as_guests_are() {
        let host = MacAddr([2, 0, 0, 0, 0, 9]);
        let asks = |to: MacAddr, ether_type: u16, packet: &[u8]| {
            answers_host(&[&to.0[..], &host.0, &ether_type.to_be_bytes(), packet].concat())
        };
        let to_host = [host.0, GATEWAY_MAC.0].concat();
        for target in [[10, 0, 0, 1], [169, 254, 0, 1]] {
            let request = arp_packet::Packet::request(host, [10, 0, 0, 9].into(), target.into());
            let answer = asks(MacAddr::BROADCAST, ethernet::ARP, request.as_bytes()).unwrap();
            assert!(answer.starts_with(&to_host));
            assert_eq!((&answer[22..28], &answer[28..32]), (&GATEWAY_MAC.0[..], &target[..]));
        }
        let request = arp_packet::Packet::request(host, [10, 0, 0, 9].into(), [10, 0, 0, 7].into());
        let other = asks(GATEWAY_MAC, ethernet::ARP, request.as_bytes());
        assert_eq!(other, Err(DropReason::Absorbed), "on a segment others answer themselves");
        let mut packet = [0; 200];
        let mut writer = Writer::new(&mut packet);
        let ends = ([10, 0, 0, 9].into(), [10, 0, 0, 1].into());
        let words = (icmpv4::ECHO_REQUEST, 0, 7);
        icmpv4::write(&mut writer, ends.0, ends.1, words, b"hello").unwrap();
        let pong = asks(GATEWAY_MAC, ethernet::IPV4, writer.since(0)).unwrap();
        assert!(pong.starts_with(&to_host) && pong.ends_with(b"hello"));
        assert_eq!((&pong[26..34], pong[34]), (&[10, 0, 0, 1, 10, 0, 0, 9][..], 0));
        let mut writer = Writer::new(&mut packet);
        let ends = ("fe80::9".parse().unwrap(), "ff02::2".parse().unwrap(), 255);
        icmpv6::write(&mut writer, ends, (icmpv6::ROUTER_SOLICITATION, 0, 0), &[]).unwrap();
        let to = MacAddr([0x33, 0x33, 0, 0, 0, 2]);
        let router = asks(to, ethernet::IPV6, writer.since(0)).unwrap();
        assert!(router.starts_with(&to_host) && router[54] == 134);
        // The network's prefix is on link, and addresses come by DHCPv6.
        assert!(router.windows(4).any(|octets| octets == [3, 4, 64, 0x80]));
    }

    #[test]
    fn who_is_spoken_for_seems_to_answer() {
        let (asker, mac) = (MacAddr([2, 0, 0, 0, 0, 9]), MacAddr([0x52, 0x54, 0, 0, 0, 2]));
        let speak = |ether_type: u16, packet: &[u8]| {
            let frame = [&[0xff; 6][..], &asker.0, &ether_type.to_be_bytes(), packet].concat();
            let headers = classify(&frame, frame.len(), Offload::None).unwrap();
            let mut answer = [0; 200];
            let mut writer = Writer::new(&mut answer);
            speak_for(mac, &headers, &frame, &mut writer).map(|()| writer.since(0).to_vec())
        };
        let request = arp_packet::Packet::request(asker, [0; 4].into(), [10, 0, 0, 2].into());
        let answer = speak(ethernet::ARP, request.as_bytes()).unwrap();
        let expected =
            [&asker.0[..], &mac.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &mac.0, &[10, 0, 0, 2]];
        assert!(answer.starts_with(&expected.concat()));
        let solicitation = |source: &str, to: &str| {
            let (source, to): (Ipv6Addr, Ipv6Addr) = (source.parse().unwrap(), to.parse().unwrap());
            let target: Ipv6Addr = "fd00::2".parse().unwrap();
            let mut packet = [0; 200];
            let mut writer = Writer::new(&mut packet);
            let words = (icmpv6::NEIGHBOUR_SOLICITATION, 0, 0);
            icmpv6::write(&mut writer, (source, to, 255), words, &target.octets()).unwrap();
            writer.since(0).to_vec()
        };
        let answer = speak(ethernet::IPV6, &solicitation("fd00::9", "ff02::1:ff00:2")).unwrap();
        assert!(answer.starts_with(&[asker.0, mac.0].concat()));
        assert_eq!(answer[22..38], answer[62..78], "from the address that is told");
        assert_eq!((answer[54], answer[58]), (136, 0x60), "solicited, and to be believed");
        let probe = speak(ethernet::IPV6, &solicitation("::", "ff02::1:ff00:2")).unwrap();
        assert!(probe.starts_with(&[0x33, 0x33, 0, 0, 0, 1]));
        assert_eq!(probe[58], 0x20);
        let odd = speak(ethernet::IPV6, &solicitation("::", "ff02::1"));
        assert_eq!(odd, Err(DropReason::MalformedMessage));
    }

    #[test]
    fn dhcpv6_tells_the_url() {
        let mut request = v6::Message::new_with_id(v6::MessageType::Solicit, [1, 2, 3]);
        let id = vec![0, 3, 0, 1, 0x52, 0x54, 0, 0, 0, 2];
        request.opts_mut().insert(v6::DhcpOption::ClientId(id));
        let payload = request.to_vec().unwrap();
        let from: Ipv6Addr = "fe80::2".parse().unwrap();
        let to: Ipv6Addr = "ff02::1:2".parse().unwrap();
        let answer = ask(&network(boot()), ethernet::IPV6, |writer| {
            udp::write_ipv6(writer, (from, 546), (to, 547), &payload)
        });
        let url = [&[0, 59, 0, 21][..], b"http://10.0.0.9/x.efi"].concat();
        assert!(answer.windows(url.len()).any(|window| window == url), "{answer:02x?}");
    }
}
