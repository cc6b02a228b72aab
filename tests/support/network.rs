//! A network of two guests, 10.0.0.1 and 10.0.0.2, with everything that guests can be told. What
//! 10.0.0.1 may use is as wide as it gets.

use mvirt_net::{
    addr::MacAddr,
    dataplane::forward::{
        Domain, FibBuilder, Network,
        tables::{Member, NetworkKey, PortId, Role, Routed, Vnic},
    },
    model::{Addressing, Boot, GuestSettings},
};
use std::sync::Arc;

pub(crate) fn port(slot: u32) -> PortId {
    PortId { slot, generation: 1 }
}

fn vnic(slot: u32) -> Vnic {
    let number = slot as u8 + 1;
    Vnic {
        ipv4: Some([10, 0, 0, number].into()),
        ipv6: Some(format!("fd00::{number}").parse().unwrap()),
        routed_ipv6: vec![format!("fd00:0:0:{number}::/64").parse().unwrap()],
        slaac: Some(format!("fd00:0:0:1{number}::/64").parse().unwrap()),
        settings: GuestSettings { addressing: Addressing::Subnet, ..Default::default() },
        hostname: Some(format!("vm{number}")),
        boot: Boot {
            server: Some([10, 0, 0, 9].into()),
            file: Some("boot".into()),
            url: Some("http://boot".into()),
        },
        ..Vnic::new(port(slot), MacAddr([0x52, 0x54, 0, 0, 0, number]), 1500)
    }
}

pub(crate) fn network() -> Network {
    let mut fib = FibBuilder::default();
    let members = [vnic(0), vnic(1)].map(|vnic| {
        let vnic = Arc::new(vnic);
        let member = Member { reactor: 0, role: Role::Guest(Arc::clone(&vnic)) };
        let next_hop = fib.next_hop(member.next_hop());
        vnic.ipv4.iter().for_each(|address| fib.host_ipv4(*address, next_hop));
        vnic.ipv6.iter().for_each(|address| fib.host_ipv6(*address, next_hop));
        vnic.routed_ipv6
            .iter()
            .chain(&vnic.slaac)
            .for_each(|prefix| fib.prefix_ipv6(*prefix, next_hop));
        member
    });
    let domain = Domain::Routed(Routed {
        ipv4_subnet: Some("10.0.0.0/24".parse().unwrap()),
        ipv4_broadcast: Some([10, 0, 0, 255].into()),
        ipv6_prefix: Some("fd00::/56".parse().unwrap()),
        dns_ipv4: vec![[1, 1, 1, 1].into()],
        dns_ipv6: vec!["fd00::53".parse().unwrap()],
        ntp_ipv4: vec![[10, 0, 0, 9].into()],
        ntp_ipv6: vec!["fd00::9".parse().unwrap()],
        domain: Some("prod.internal".parse().unwrap()),
        ..Routed::new(fib.build(7))
    });
    Network { key: NetworkKey(1), members: members.into(), domain }
}
