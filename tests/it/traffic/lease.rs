//! What the gateway tells a guest that asks: its lease, its neighbours, its router.

use crate::{
    command::{mvirt, stdout},
    daemon::{Daemon, wait_until},
    field::{self, advertisement, icmp, ipv6},
    frames::{GATEWAY_MAC, Udp4, Udp6, is_icmpv6, is_ipv4, is_ipv6},
    guest::{Driver, Guest, PLAIN},
};
use dhcproto::{
    Decodable as _, Encodable as _,
    v4::{DhcpOption, Message, MessageType, OptionCode},
    v6,
};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    Icmpv6Message, Icmpv6Packet, IpProtocol, Ipv4Address, Ipv4Packet, Ipv6Address, Ipv6Packet,
    UdpPacket,
};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use vhost::vhost_user::VhostUserFrontend as _;

#[test]
fn a_guest_leases_its_address_as_a_host_route() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut guest = Guest::connect(&daemon.nic("prod", "vm1"));
    assert_eq!(guest.lease(), ("10.0.0.1/32".into(), "169.254.0.1".into()));
}

/// Sends a DHCPv4 message as a client without an address would; gives the answer.
fn ask(guest: &mut Guest, kind: MessageType, options: Vec<DhcpOption>) -> Message {
    let mut request = Message::default();
    request.set_xid(77).set_chaddr(&guest.mac);
    request.opts_mut().insert(DhcpOption::MessageType(kind));
    options.into_iter().for_each(|option| drop(request.opts_mut().insert(option)));
    let payload = request.to_vec().unwrap();
    let mut udp = Udp4::new(guest.mac, "0.0.0.0", "255.255.255.255", &payload);
    (udp.to_mac, udp.ports) = ([0xff; 6], (68, 67));
    let frame = udp.frame();
    guest.send(&frame);
    let answer = guest.expect("the gateway answers", |frame| is_ipv4(frame, IpProtocol::Udp));
    let ip = Ipv4Packet::new_checked(&answer[field::PACKET]).unwrap();
    let udp = UdpPacket::new_checked(ip.payload()).unwrap();
    assert!(
        ip.verify_checksum() && udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into())
    );
    Message::from_bytes(udp.payload()).unwrap()
}

#[test]
fn the_offer_has_everything_a_client_needs() {
    let mut daemon = Daemon::start();
    daemon.network_with("prod", |r| {
        r.dns_servers = vec!["1.1.1.1".into(), "fd00::53".into()];
        r.ntp_servers = vec!["10.0.0.9".into()];
        r.domain = "prod.internal".into();
        r.mtu = 1400;
    });
    let mut guest = Guest::connect(&daemon.nic("prod", "vm1"));
    let offer = ask(&mut guest, MessageType::Discover, vec![]);
    let options = offer.opts();
    assert_eq!(offer.yiaddr(), Ipv4Address::new(10, 0, 0, 1));
    let has = |code, expected: DhcpOption| assert_eq!(options.get(code), Some(&expected));
    let gateway = Ipv4Address::new(169, 254, 0, 1);
    has(OptionCode::MessageType, DhcpOption::MessageType(MessageType::Offer));
    has(OptionCode::ServerIdentifier, DhcpOption::ServerIdentifier(gateway));
    has(OptionCode::SubnetMask, DhcpOption::SubnetMask(Ipv4Address::new(255, 255, 255, 255)));
    has(OptionCode::Router, DhcpOption::Router(vec![gateway]));
    has(OptionCode::AddressLeaseTime, DhcpOption::AddressLeaseTime(u32::MAX));
    has(
        OptionCode::DomainNameServer,
        DhcpOption::DomainNameServer(vec![Ipv4Address::new(1, 1, 1, 1)]),
    );
    has(OptionCode::NtpServers, DhcpOption::NtpServers(vec![Ipv4Address::new(10, 0, 0, 9)]));
    has(OptionCode::InterfaceMtu, DhcpOption::InterfaceMtu(1400));
    has(OptionCode::Hostname, DhcpOption::Hostname("vm1".into()));
    has(OptionCode::DomainName, DhcpOption::DomainName("prod.internal".into()));
    let routes = [32, 169, 254, 0, 1, 0, 0, 0, 0, 0, 169, 254, 0, 1];
    let raw = |code: u8| match options.get(OptionCode::from(code)) {
        Some(DhcpOption::Unknown(option)) => option.data().to_vec(),
        other => panic!("option {code}: {other:?}"),
    };
    assert_eq!(raw(249), routes);
    let octets = offer.to_vec().unwrap();
    let rfc3442 = [&[121, 14][..], &routes].concat();
    assert!(octets.windows(16).any(|window| window == rfc3442), "option 121");
}

#[test]
fn requests_are_acknowledged_or_refused() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut guest = Guest::connect(&daemon.nic("prod", "vm1"));
    let wanted = |a, b, c, d| DhcpOption::RequestedIpAddress(Ipv4Address::new(a, b, c, d));
    let mut kind = |options| ask(&mut guest, MessageType::Request, options).opts().msg_type();
    assert_eq!(kind(vec![wanted(10, 0, 0, 1)]), Some(MessageType::Ack), "INIT-REBOOT");
    assert_eq!(kind(vec![wanted(10, 0, 0, 2)]), Some(MessageType::Nak), "another's address");
    let ack = ask(&mut guest, MessageType::Discover, vec![DhcpOption::RapidCommit]);
    assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
    assert!(ack.opts().contains(OptionCode::RapidCommit));
}

#[test]
fn only_what_is_asked_of_this_server_by_this_guest_is_answered() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut guest = Guest::connect(&daemon.nic("prod", "vm1"));
    let mac = guest.mac;
    let send = |guest: &mut Guest, kind, change: &dyn Fn(&mut Message)| {
        let mut request = Message::default();
        request.set_xid(78).set_chaddr(&mac);
        request.opts_mut().insert(DhcpOption::MessageType(kind));
        change(&mut request);
        let payload = request.to_vec().unwrap();
        let mut udp = Udp4::new(mac, "0.0.0.0", "255.255.255.255", &payload);
        (udp.to_mac, udp.ports) = ([0xff; 6], (68, 67));
        let frame = udp.frame();
        guest.send(&frame);
    };
    let address = Ipv4Address::new(10, 0, 0, 1);
    send(&mut guest, MessageType::Request, &|request| {
        let server = DhcpOption::ServerIdentifier(Ipv4Address::new(10, 0, 0, 9));
        request.opts_mut().insert(server);
        request.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
    });
    send(&mut guest, MessageType::Discover, &|request| {
        request.set_giaddr(Ipv4Address::new(10, 0, 0, 9));
    });
    send(&mut guest, MessageType::Discover, &|request| {
        request.set_chaddr(&[0x52, 0x54, 0, 9, 9, 9]);
    });
    send(&mut guest, MessageType::Decline, &|_| {});
    send(&mut guest, MessageType::Release, &|_| {});
    // Two clients of one guest, as a boot loader and its system: there is one address, and both get
    // it.
    for id in [b"\x00loader".to_vec(), b"\xffsystem".to_vec()] {
        let offer =
            ask(&mut guest, MessageType::Discover, vec![DhcpOption::ClientIdentifier(id.clone())]);
        assert_eq!((offer.xid(), offer.yiaddr()), (77, address), "the first answers since");
        assert_eq!(
            offer.opts().get(OptionCode::ClientIdentifier),
            Some(&DhcpOption::ClientIdentifier(id))
        );
    }
    let drops = ["absorbed", "malformed_message", "spoofed_source_mac"];
    assert_eq!(drops.map(|reason| daemon.drops("vm1", reason)), [3, 1, 1]);
}

#[test]
fn with_subnet_addressing_a_guest_sees_its_subnet() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic_with("prod", "vm1", |r| r.addressing = 2);
    let mut guest = Guest::connect(&nic);
    assert_eq!(guest.lease(), ("10.0.0.1/24".into(), "169.254.0.1".into()));
    assert_eq!(who_has(&mut guest, "10.0.0.7"), GATEWAY_MAC);
}

fn arp(guest: &Guest, sender: &str, target: &str) -> Vec<u8> {
    let request = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(guest.mac),
        source_protocol_addr: sender.parse().unwrap(),
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target.parse().unwrap(),
    };
    let mut frame = vec![0; 42];
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
    ethernet.set_dst_addr(EthernetAddress([0xff; 6]));
    ethernet.set_src_addr(EthernetAddress(guest.mac));
    ethernet.set_ethertype(EthernetProtocol::Arp);
    request.emit(&mut ArpPacket::new_unchecked(&mut frame[field::PACKET]));
    frame
}

fn who_has(guest: &mut Guest, target: &str) -> [u8; 6] {
    let frame = arp(guest, "10.0.0.1", target);
    guest.send(&frame);
    let reply =
        guest.expect("ARP is answered", |frame| frame[field::ETHERTYPE] == field::arp::ETHERTYPE);
    let packet = ArpPacket::new_checked(&reply[field::PACKET]).unwrap();
    assert_eq!(packet.operation(), ArpOperation::Reply);
    assert_eq!(packet.source_protocol_addr(), target.parse::<Ipv4Address>().unwrap().octets());
    packet.source_hardware_addr().try_into().unwrap()
}

#[test]
fn the_gateway_answers_arp_for_itself_and_the_rest_of_the_subnet() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut guest = Guest::connect(&daemon.nic("prod", "vm1"));
    assert_eq!(who_has(&mut guest, "169.254.0.1"), GATEWAY_MAC);
    assert_eq!(who_has(&mut guest, "10.0.0.2"), GATEWAY_MAC, "firmware asks, whatever it is told");
    let other = arp(&guest, "10.0.0.1", "10.0.1.2");
    guest.send(&other);
    let probe = arp(&guest, "0.0.0.0", "10.0.0.1");
    guest.send(&probe);
    assert_eq!(who_has(&mut guest, "169.254.0.1"), GATEWAY_MAC, "the first answer since");
    assert_eq!(daemon.drops("vm1", "absorbed"), 2);
}

#[test]
fn the_router_advertises_itself_and_dns() {
    let mut daemon = Daemon::start();
    daemon.network_with("prod", |r| r.dns_servers = vec!["fd00::53".into()]);
    let mut guest = Guest::connect(&daemon.nic("prod", "vm1"));
    let frame = guest.expect("an advertisement comes unasked", is_advertisement);
    let ip = Ipv6Packet::new_checked(&frame[field::PACKET]).unwrap();
    assert_eq!((ip.src_addr(), ip.hop_limit()), ("fe80::1".parse::<Ipv6Address>().unwrap(), 255));
    let message = Icmpv6Packet::new_checked(ip.payload()).unwrap();
    assert!(message.verify_checksum(&ip.src_addr(), &ip.dst_addr()));
    #[rustfmt::skip]
    let expected = [
        64, 0xc0, 0x23, 0x28, 0, 0, 0, 0, 0, 0, 0, 0,
        1, 1, 2, 0, 0, 0, 0, 1,
        5, 1, 0, 0, 0, 0, 0x05, 0xdc,
        25, 3, 0, 0, 0, 0, 0x23, 0x28, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53,
    ];
    assert_eq!(ip.payload()[icmp::REST], expected);
}

/// A DHCPv6 message from a link-local address, and the answer.
fn ask_v6(guest: &mut Guest, request: &v6::Message) -> v6::Message {
    let payload = request.to_vec().unwrap();
    let mut udp = Udp6::new(guest.mac, "fe80::99", "ff02::1:2", &payload);
    (udp.to_mac, udp.ports, udp.hop_limit) = ([0x33, 0x33, 0, 1, 0, 2], (546, 547), 1);
    let frame = udp.frame();
    guest.send(&frame);
    let is_answer = |frame: &[u8]| is_ipv6(frame, IpProtocol::Udp);
    let answer = guest.expect("DHCPv6 is answered", is_answer);
    let ip = Ipv6Packet::new_checked(&answer[field::PACKET]).unwrap();
    let udp = UdpPacket::new_checked(ip.payload()).unwrap();
    assert!(udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
    v6::Message::from_bytes(udp.payload()).unwrap()
}

#[test]
fn dhcpv6_gives_the_address_and_nothing_else() {
    let mut daemon = Daemon::start();
    daemon.network_with("prod", |r| r.dns_servers = vec!["fd00::53".into()]);
    let mut guest = Guest::connect(&daemon.nic("prod", "vm1"));
    let mut solicit = v6::Message::new_with_id(v6::MessageType::Solicit, [1, 2, 3]);
    solicit.opts_mut().insert(v6::DhcpOption::ClientId(vec![0, 3, 0, 1, 9, 9, 9, 9, 9, 9]));
    let ia = v6::IANA { id: 5, t1: 0, t2: 0, opts: v6::DhcpOptions::new() };
    solicit.opts_mut().insert(v6::DhcpOption::IANA(ia));
    let advertise = ask_v6(&mut guest, &solicit);
    assert_eq!((advertise.msg_type(), advertise.xid()), (v6::MessageType::Advertise, [1, 2, 3]));
    let Some(v6::DhcpOption::IANA(ia)) = advertise.opts().get(v6::OptionCode::IANA) else {
        panic!("no IA_NA")
    };
    let Some(v6::DhcpOption::IAAddr(lease)) = ia.opts.get(v6::OptionCode::IAAddr) else {
        panic!("no address")
    };
    assert_eq!((ia.id, lease.addr, lease.valid_life), (5, "fd00::1".parse().unwrap(), u32::MAX));
    assert_eq!(
        advertise.opts().get(v6::OptionCode::DomainNameServers),
        Some(&v6::DhcpOption::DomainNameServers(vec!["fd00::53".parse().unwrap()]))
    );
    solicit.opts_mut().insert(v6::DhcpOption::RapidCommit);
    assert_eq!(ask_v6(&mut guest, &solicit).msg_type(), v6::MessageType::Reply, "rapid commit");
    let mut confirm = v6::Message::new_with_id(v6::MessageType::Confirm, [1, 2, 4]);
    confirm.opts_mut().insert(v6::DhcpOption::ClientId(vec![0, 3, 0, 1, 9, 9, 9, 9, 9, 9]));
    let mut opts = v6::DhcpOptions::new();
    opts.insert(v6::DhcpOption::IAAddr(v6::IAAddr {
        addr: "fd00::7".parse().unwrap(),
        preferred_life: 1,
        valid_life: 1,
        opts: v6::DhcpOptions::new(),
    }));
    confirm.opts_mut().insert(v6::DhcpOption::IANA(v6::IANA { id: 5, t1: 0, t2: 0, opts }));
    let reply = ask_v6(&mut guest, &confirm);
    let Some(v6::DhcpOption::StatusCode(status)) = reply.opts().get(v6::OptionCode::StatusCode)
    else {
        panic!("no status")
    };
    assert_eq!(status.status, v6::Status::NotOnLink);
}

#[test]
fn changed_servers_are_told_at_the_next_question() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut guest = Guest::connect(&daemon.nic("prod", "vm1"));
    assert!(
        !ask(&mut guest, MessageType::Discover, vec![])
            .opts()
            .contains(OptionCode::DomainNameServer)
    );
    let request = mvirt_net::proto::UpdateNetworkRequest {
        id: "prod".into(),
        dns_servers: vec!["9.9.9.9".into()],
        ntp_servers: vec![],
        ..Default::default()
    };
    daemon.call(async |client| client.update_network(request).await).unwrap();
    let offer = ask(&mut guest, MessageType::Discover, vec![]);
    assert_eq!(
        offer.opts().get(OptionCode::DomainNameServer),
        Some(&DhcpOption::DomainNameServer(vec![Ipv4Address::new(9, 9, 9, 9)]))
    );
}

#[test]
fn the_gateway_answers_pings() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut guest = Guest::connect(&daemon.nic("prod", "vm1"));
    assert!(guest.ping("169.254.0.1"));
    assert!(guest.ping("fe80::1"));
}

#[test]
fn a_vmm_that_starts_its_rings_over_gets_no_more_advertisements() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "vm1");
    let mut driver = Driver::memory_only(Path::new(&nic.socket_path), PLAIN, 2048);
    driver.negotiate();
    driver.start_rings(0);
    for enabled in [false, true].repeat(10) {
        driver.frontend.set_vring_enable(0, enabled).unwrap();
    }
    // From here on the guest listens: what it missed is told again after a second, once.
    driver.post_all();
    let deadline = Instant::now() + Duration::from_millis(1800);
    let mut advertisements = 0;
    while Instant::now() < deadline {
        advertisements +=
            usize::from(driver.receive().is_some_and(|frame| is_advertisement(&frame)));
        std::thread::yield_now();
    }
    assert_eq!(advertisements, 1);
}

fn is_advertisement(frame: &[u8]) -> bool {
    is_icmpv6(frame, Icmpv6Message::RouterAdvert)
}

#[test]
fn a_guest_without_dhcpv6_chooses_addresses_in_a_prefix_of_its_own() {
    let mut daemon = Daemon::start();
    daemon.network_with("prod", |r| r.ipv6_prefix = "fd00:1::/56".into());
    let slaac = |r: &mut mvirt_net::proto::CreateNicRequest| r.ipv6_mode = 2;
    let nic = daemon.nic_with("prod", "phone", slaac);
    assert_eq!((&*nic.slaac_prefix, &*nic.ipv6_address), ("fd00:1:0:1::/64", "fd00:1:0:1::1"));
    let mut phone = Guest::connect(&nic);
    let other = daemon.nic("prod", "vm1");
    assert_eq!(other.ipv6_address, "fd00:1::1");
    let mut vm = Guest::connect(&other);
    let advertisement = phone.expect("the router advertises itself", is_advertisement);
    #[rustfmt::skip]
    let prefix_information = [
        3, 4, 64, 0x40, 0, 0x27, 0x8d, 0, 0, 9, 0x3a, 0x80, 0, 0, 0, 0,
        0xfd, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(advertisement[advertisement::PREFIX], prefix_information);
    // Any address in it is the phone's.
    let chosen = "fd00:1:0:1:5054:ff:fe12:3456";
    phone.send(&Udp6::new(phone.mac, chosen, "fd00:1::1", b"hello").frame());
    vm.expect("it is heard", |frame| frame.ends_with(b"hello"));
    vm.send(&Udp6::new(vm.mac, "fd00:1::1", chosen, b"and back").frame());
    phone.expect("it is answered", |frame| frame.ends_with(b"and back"));
    // Nobody else may use one, or be given one.
    vm.send(&Udp6::new(vm.mac, "fd00:1:0:1::7", "fd00:1:0:1::1", b"evil").frame());
    wait_until("it is dropped", || daemon.drops("vm1", "spoofed_source_ipv6") == 1);
    let taken = |r: &mut mvirt_net::proto::CreateNicRequest| {
        r.ipv6_address = "fd00:1:0:1::5".into();
    };
    let refused = daemon.try_nic_with("prod", "vm2", taken).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::AlreadyExists, "{refused}");
    let behind = vec!["fd00:1:0:9:8000::/65".to_owned()];
    daemon.nic_with("prod", "router", |r| r.routed_ipv6_prefixes = behind);
    let meets = |r: &mut mvirt_net::proto::CreateNicRequest| {
        (r.ipv6_mode, r.ipv6_address) = (2, "fd00:1:0:9::1".into());
    };
    let refused = daemon.try_nic_with("prod", "phone3", meets).unwrap_err();
    assert!(refused.message().contains("routed to vNIC"), "{refused}");
    daemon.network("flat");
    let refused = daemon.try_nic_with("flat", "phone2", slaac).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().starts_with("ipv6_mode: \"slaac\""), "{refused}");
}

#[test]
fn with_subnet_addressing_the_prefix_is_on_link_and_the_gateway_stands_for_its_hosts() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic_with("prod", "vm1", |r| {
        r.addressing = 2;
        r.routed_ipv6_prefixes = vec!["fd00::1:0/112".into()];
    });
    let mut guest = Guest::connect(&nic);
    let advertisement = guest.expect("the router advertises itself", is_advertisement);
    assert_eq!(
        advertisement[advertisement::PREFIX][..4],
        [3, 4, 64, 0x80],
        "on link, not to choose addresses in"
    );
    assert_eq!(neighbour(&mut guest, "fd00::77"), GATEWAY_MAC);
    // Nobody answers for what is the guest's own or behind it: it finds those itself, or finds them
    // free.
    for own in ["fd00::1", "fd00::1:5"] {
        let solicitation = solicitation(&guest, own);
        guest.send(&solicitation);
    }
    assert_eq!(neighbour(&mut guest, "fd00::78"), GATEWAY_MAC, "the first answer since");
    assert_eq!(daemon.drops("vm1", "absorbed"), 2);
}

/// A neighbour solicitation from fe80::99.
fn solicitation(guest: &Guest, target: &str) -> Vec<u8> {
    use smoltcp::wire::{Icmpv6Repr, Ipv6Repr, NdiscRepr, RawHardwareAddress};
    let target: Ipv6Address = target.parse().unwrap();
    let from: Ipv6Address = "fe80::99".parse().unwrap();
    let o = target.octets();
    let group: Ipv6Address =
        [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15]].into();
    let own = RawHardwareAddress::from(EthernetAddress(guest.mac));
    let message =
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: target, lladdr: Some(own) });
    let ip = Ipv6Repr {
        src_addr: from,
        dst_addr: group,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit: 255,
    };
    let mut frame = vec![0; ipv6::PAYLOAD.start + message.buffer_len()];
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
    ethernet.set_dst_addr(EthernetAddress([0x33, 0x33, 0xff, o[13], o[14], o[15]]));
    ethernet.set_src_addr(EthernetAddress(guest.mac));
    ethernet.set_ethertype(EthernetProtocol::Ipv6);
    ip.emit(&mut Ipv6Packet::new_unchecked(&mut frame[field::PACKET]));
    let checksums = smoltcp::phy::ChecksumCapabilities::default();
    message.emit(
        &from,
        &group,
        &mut Icmpv6Packet::new_unchecked(&mut frame[ipv6::PAYLOAD]),
        &checksums,
    );
    frame
}

/// The MAC that is advertised for `target`.
fn neighbour(guest: &mut Guest, target: &str) -> [u8; 6] {
    let frame = solicitation(guest, target);
    guest.send(&frame);
    let is_answer = |frame: &[u8]| is_icmpv6(frame, Icmpv6Message::NeighborAdvert);
    let answer = guest.expect("the neighbour is advertised", is_answer);
    assert_eq!(answer[advertisement::TARGET], target.parse::<Ipv6Address>().unwrap().octets());
    answer[advertisement::TARGET_MAC].try_into().unwrap()
}

#[test]
fn routed_prefixes_are_delegated() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic_with("prod", "router", |r| {
        r.routed_ipv6_prefixes = vec!["fd00:7::/56".into(), "fd00:8::/64".into()];
    });
    let mut guest = Guest::connect(&nic);
    let held = |prefix_ip: &str, prefix_len| {
        v6::DhcpOption::IAPrefix(v6::IAPrefix {
            preferred_lifetime: 1,
            valid_lifetime: 1,
            prefix_len,
            prefix_ip: prefix_ip.parse().unwrap(),
            opts: v6::DhcpOptions::new(),
        })
    };
    let mut ask = |holds: Vec<v6::DhcpOption>| {
        let mut request = v6::Message::new_with_id(v6::MessageType::Rebind, [1, 2, 3]);
        request.opts_mut().insert(v6::DhcpOption::ClientId(vec![0, 3, 0, 1, 9, 9, 9, 9, 9, 9]));
        let opts = holds.into_iter().collect();
        let ia = v6::IAPD { id: 5, t1: 0, t2: 0, opts };
        request.opts_mut().insert(v6::DhcpOption::IAPD(v6::IAPD { id: 6, ..ia.clone() }));
        request.opts_mut().insert(v6::DhcpOption::IAPD(ia));
        let reply = ask_v6(&mut guest, &request);
        let delegated: Vec<_> = reply.opts().get_all(v6::OptionCode::IAPD).unwrap().to_vec();
        let told = delegated.iter().map(|ia| {
            let v6::DhcpOption::IAPD(ia) = ia else { panic!("{ia:?}") };
            let options = ia.opts.iter().map(|option| match option {
                v6::DhcpOption::IAPrefix(p) => {
                    format!("{}/{} {}", p.prefix_ip, p.prefix_len, p.valid_lifetime)
                }
                v6::DhcpOption::StatusCode(status) => format!("{:?}", status.status),
                other => panic!("{other:?}"),
            });
            (ia.id, options.collect::<Vec<_>>())
        });
        told.collect::<Vec<_>>()
    };
    let own = ["fd00:7::/56 172800", "fd00:8::/64 172800"].map(String::from).to_vec();
    let none = vec!["NoPrefixAvail".to_owned()];
    assert_eq!(ask(vec![]), [(5, own.clone()), (6, none)], "in the order of the request");
    assert_eq!(ask(vec![held("::", 60)])[0].1, own, "a hint");
    let told = ask(vec![held("fd00:8::", 64), held("fd00:9::", 64)]);
    let withdrawn = [own, vec!["fd00:9::/64 0".into()]].concat();
    assert_eq!(told[0].1, withdrawn, "what it holds no more");
}

#[test]
fn what_a_guest_asked_for_can_be_seen() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut guest = Guest::connect(&daemon.nic("prod", "vm1"));
    let seen = |daemon: &mut Daemon| daemon.get_nic("vm1").guest.unwrap();
    assert_eq!(seen(&mut daemon), Default::default());
    who_has(&mut guest, "169.254.0.1");
    wait_until("its question is seen", || !seen(&mut daemon).ipv4_neighbour_at.is_empty());
    ask(&mut guest, MessageType::Discover, vec![DhcpOption::Hostname("offered".into())]);
    let octets = |code, octets: &[u8]| {
        DhcpOption::Unknown(dhcproto::v4::UnknownOption::new(code, octets.to_vec()))
    };
    let client = vec![
        DhcpOption::RequestedIpAddress(Ipv4Address::new(10, 0, 0, 1)),
        octets(OptionCode::Hostname, b"v\xfcm1"),
        DhcpOption::ClassIdentifier(b"udhcp 1.36\xff".into()),
    ];
    ask(&mut guest, MessageType::Request, client);
    wait_until("its lease is seen", || !seen(&mut daemon).ipv4_lease_at.is_empty());
    let now = seen(&mut daemon);
    assert_eq!((&*now.hostname, &*now.vendor_class), ("v?m1", "udhcp 1.36?"), "printable");
    assert!(now.ipv4_lease_at.parse::<jiff::Timestamp>().unwrap().as_second() > 1_700_000_000);
    assert_eq!((&*now.ipv6_lease_at, &*now.router_at), ("", ""), "it has not asked for that");
    let shown = stdout(&mvirt(&daemon, &["nic", "get", "vm1"]));
    for line in ["ipv4 lease   0s ago", "hostname     v?m1", "dhcp client  udhcp 1.36?"] {
        assert!(shown.contains(line), "{line:?} is not in\n{shown}");
    }
    // The FQDN of who says no name: labels, or text (RFC 4702 §2).
    for (host, fqdn, name) in
        [(2, &b"\x04\0\0\x03v\xfc2\x01d\0"[..], "v?2.d"), (3, b"\0\0\0v\xfc3.d", "v?3.d")]
    {
        let nic = format!("vm{host}");
        let mut guest = Guest::connect(&daemon.nic("prod", &nic));
        let address = DhcpOption::RequestedIpAddress(Ipv4Address::new(10, 0, 0, host));
        ask(&mut guest, MessageType::Request, vec![address, octets(OptionCode::ClientFQDN, fqdn)]);
        wait_until("its name is seen", || daemon.get_nic(&nic).guest.unwrap().hostname == name);
    }
}

#[test]
fn what_a_guest_says_of_itself_is_kept_short() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut guest = Guest::connect(&daemon.nic("prod", "vm1"));
    let mut request = v6::Message::new_with_id(v6::MessageType::Solicit, [1, 2, 3]);
    let ia = v6::IANA { id: 5, t1: 0, t2: 0, opts: v6::DhcpOptions::new() };
    // An enterprise, then items of 120 octets each.
    let item = [&[0, 120][..], "é".repeat(60).as_bytes()].concat();
    let class = [vec![0, 0, 0, 9], item.repeat(8)].concat();
    for option in [
        v6::DhcpOption::ClientId(vec![0, 3, 0, 1, 9, 9, 9, 9, 9, 9]),
        v6::DhcpOption::IANA(ia),
        v6::DhcpOption::RapidCommit,
        v6::DhcpOption::Unknown(v6::UnknownOption::new(v6::OptionCode::VendorClass, class)),
    ] {
        request.opts_mut().insert(option);
    }
    assert_eq!(ask_v6(&mut guest, &request).msg_type(), v6::MessageType::Reply);
    let mut seen = Default::default();
    wait_until("its lease is seen", || {
        seen = daemon.get_nic("vm1").guest.unwrap();
        !seen.ipv6_lease_at.is_empty()
    });
    let item = "?".repeat(120);
    assert_eq!(seen.vendor_class, format!("{item} {item} {}", "?".repeat(13)), "255 octets");
}

#[test]
fn firmware_is_leased_the_subnets_mask() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut guest = Guest::connect(&daemon.nic("prod", "vm1"));
    let mut mask = |class: &str| {
        let class = DhcpOption::ClassIdentifier(class.as_bytes().to_vec());
        let offer = ask(&mut guest, MessageType::Discover, vec![class]);
        let Some(DhcpOption::SubnetMask(mask)) = offer.opts().get(OptionCode::SubnetMask) else {
            panic!("{offer:?}")
        };
        *mask
    };
    let firmware = mask("PXEClient:Arch:00000:UNDI:002001");
    assert_eq!(firmware, Ipv4Address::new(255, 255, 255, 0));
    assert_eq!(mask("udhcp 1.36"), Ipv4Address::new(255, 255, 255, 255));
}

#[test]
fn what_a_vnic_boots_is_told_and_else_what_its_network_does() {
    let boot = |file: &str| mvirt_net::proto::Boot {
        server: "10.0.0.9".into(),
        file: file.into(),
        url: "http://10.0.0.9/boot.efi".into(),
    };
    let mut daemon = Daemon::start();
    daemon.network_with("prod", |r| r.boot = Some(boot("of-the-network")));
    let nics = [
        daemon.nic("prod", "vm1"),
        daemon.nic_with("prod", "vm2", |r| r.boot = Some(boot("of-the-vnic"))),
    ];
    for (nic, file) in nics.iter().zip(["of-the-network", "of-the-vnic"]) {
        let mut guest = Guest::connect(nic);
        let class = DhcpOption::ClassIdentifier(b"PXEClient:Arch:00007".to_vec());
        let offer = ask(&mut guest, MessageType::Discover, vec![class]);
        assert_eq!(offer.siaddr(), Ipv4Address::new(10, 0, 0, 9));
        let told = offer.opts().get(OptionCode::BootfileName);
        assert_eq!(told, Some(&DhcpOption::BootfileName(file.into())));
        let mut request = v6::Message::new_with_id(v6::MessageType::InformationRequest, [1, 2, 3]);
        request.opts_mut().insert(v6::DhcpOption::ClientId(vec![0, 3, 0, 1, 9, 9, 9, 9, 9, 9]));
        let reply = ask_v6(&mut guest, &request);
        let url = v6::OptionCode::from(59);
        let Some(v6::DhcpOption::Unknown(told)) = reply.opts().get(url) else {
            panic!("{reply:?}")
        };
        assert_eq!(told.data(), b"http://10.0.0.9/boot.efi");
    }
}

#[test]
fn what_a_client_has_no_room_for_is_left_out_in_its_own_order() {
    let mut daemon = Daemon::start();
    daemon.network_with("prod", |r| {
        r.dns_servers = (1..=16).map(|n| format!("10.5.0.{n}")).collect();
        r.ntp_servers = (1..=16).map(|n| format!("10.6.0.{n}")).collect();
        r.domain = [63, 63, 63, 51].map(|len| "d".repeat(len)).join(".");
    });
    let mut guest = Guest::connect(&daemon.nic("prod", "vm1"));
    let mut told = |asked: &[u8], size: Option<u16>| {
        let list = asked.iter().map(|code| OptionCode::from(*code)).collect();
        let mut options = vec![DhcpOption::ParameterRequestList(list)];
        options.extend(size.map(DhcpOption::MaxMessageSize));
        let offer = ask(&mut guest, MessageType::Discover, options);
        let needed = [1, 3, 51, 53, 54, 121].map(OptionCode::from);
        assert!(needed.iter().all(|code| offer.opts().contains(*code)), "{offer:?}");
        let servers = |code: u8| match offer.opts().get(OptionCode::from(code)) {
            Some(DhcpOption::DomainNameServer(list) | DhcpOption::NtpServers(list)) => list.len(),
            _ => 0,
        };
        let has = |code: u8| offer.opts().contains(OptionCode::from(code));
        (servers(6), servers(42), has(15), has(119))
    };
    assert_eq!(told(&[119, 6, 42], None), (3, 0, false, true));
    assert_eq!(told(&[6, 42, 15], None), (16, 16, false, false));
    assert_eq!(told(&[15], None), (3, 0, true, false), "three servers before all");
    assert_eq!(told(&[15], Some(1024)), (16, 16, true, true));
}

#[test]
fn options_of_no_matter_cannot_hurt() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut guest = Guest::connect(&daemon.nic("prod", "vm1"));
    // Network interface and rapid commit of lengths that cannot be, and one of which all is
    // missing.
    let strange = [94, 1, 0, 80, 2, 0, 0, 151, 0].into_iter().collect::<Vec<u8>>();
    let unknown = dhcproto::v4::UnknownOption::new(OptionCode::from(224), vec![0; 9]);
    let mut request = Message::default();
    request.set_xid(79).set_chaddr(&guest.mac);
    request.opts_mut().insert(DhcpOption::MessageType(MessageType::Discover));
    request.opts_mut().insert(DhcpOption::Unknown(unknown));
    let mut payload = request.to_vec().unwrap();
    let at = payload.iter().rposition(|octet| *octet == 224).unwrap();
    payload.splice(at..at + 11, strange);
    let mut udp = Udp4::new(guest.mac, "0.0.0.0", "255.255.255.255", &payload);
    (udp.to_mac, udp.ports) = ([0xff; 6], (68, 67));
    let frame = udp.frame();
    guest.send(&frame);
    guest.expect("it is answered all the same", |frame| is_ipv4(frame, IpProtocol::Udp));
    let mut solicit = v6::Message::new_with_id(v6::MessageType::Solicit, [1, 2, 3]);
    solicit.opts_mut().insert(v6::DhcpOption::ClientId(vec![0, 3, 0, 1, 9, 9, 9, 9, 9, 9]));
    for code in [17, 20, 37, 61] {
        let option = v6::UnknownOption::new(v6::OptionCode::from(code), vec![]);
        solicit.opts_mut().insert(v6::DhcpOption::Unknown(option));
    }
    assert_eq!(ask_v6(&mut guest, &solicit).msg_type(), v6::MessageType::Advertise);
    assert!(!daemon.log().contains("panic"), "{}", daemon.log());
}
