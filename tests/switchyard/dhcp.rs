//! A service written with the client for Python, and a client of another make: dhcproto's.

use crate::{
    python::python,
    support::{Fabric, Member},
    tools::Service,
};
use dhcproto::{
    Decodable as _, Encodable as _,
    v4::{DhcpOption, Message, MessageType, OptionCode},
};
use mvirt_net::addr::MacAddr;
use std::net::Ipv4Addr;

/// Says something to all, and returns what comes back.
fn ask(member: &mut Member<'_>, kind: MessageType, address: Option<Ipv4Addr>) -> Message {
    let mac: MacAddr = member.client.mac.parse().unwrap();
    let zero = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(7, zero, zero, zero, zero, &mac.0);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    if let Some(address) = address {
        message.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
    }
    let octets = message.to_vec().unwrap();
    member.send_udp("ff:ff:ff:ff:ff:ff", Ipv4Addr::BROADCAST, 67, &octets);
    let answer = member.client.next_frame();
    let message = Message::from_bytes(&answer[42..]).unwrap();
    assert_eq!(message.xid(), 7);
    message
}

// seed H.4.45
#[test]
fn a_service_of_ninety_lines_leases_addresses() {
    let fabric = Fabric::start(&[]);
    let dhcp = Service::start(&mut python(&fabric, &["examples/dhcp.py"]));
    assert!(dhcp.said.starts_with("[svc_dhcp] "), "{}", dhcp.said);
    for last in [100, 101] {
        let mut client = fabric.member(&format!("client-{last}"));
        let mut member = Member { client: &mut client, address: Ipv4Addr::UNSPECIFIED };
        let expected = Ipv4Addr::new(10, 0, 0, last);
        // A second time it is the same.
        for _ in 0..2 {
            let offer = ask(&mut member, MessageType::Discover, None);
            assert_eq!(
                (offer.yiaddr(), offer.opts().msg_type()),
                (expected, Some(MessageType::Offer))
            );
        }
        let ack = ask(&mut member, MessageType::Request, Some(expected));
        assert_eq!((ack.yiaddr(), ack.opts().msg_type()), (expected, Some(MessageType::Ack)));
        let lease = ack.opts().get(OptionCode::AddressLeaseTime);
        assert_eq!(lease, Some(&DhcpOption::AddressLeaseTime(3600)));
        let nak = ask(&mut member, MessageType::Request, Some(Ipv4Addr::new(10, 0, 0, 7)));
        assert_eq!(nak.opts().msg_type(), Some(MessageType::Nak));
    }
}
