//! Switched networks in the API: made, shown, changed, and what their vNICs then carry.

use crate::{
    daemon::Daemon,
    guest::{Guest, parse_mac},
    lab::segment,
};
use mvirt_net::proto::{
    CreateNetworkRequest, DhcpGuard, GetNetworkRequest, GuestVlans, L2Policy, Network, NetworkKind,
    PortSecurity, Toggle, UnknownUnicast, UpdateNetworkRequest, get_network_request::Identifier,
};
use prost_types::FieldMask;
use tonic::Code;

fn change(daemon: &mut Daemon, id: &str, l2: L2Policy) -> Result<Network, tonic::Status> {
    let request = UpdateNetworkRequest {
        id: id.into(),
        l2: Some(l2),
        update_mask: Some(FieldMask { paths: vec!["l2".into()] }),
        ..Default::default()
    };
    daemon.call(async |client| client.update_network(request).await)
}

#[test]
fn a_segment_is_made_shown_and_changed() {
    let mut daemon = Daemon::start();
    let lab = daemon.network_with("lab", |request| {
        segment(request);
        request.l2 = Some(L2Policy { storm_pps: 7, ..Default::default() });
    });
    assert_eq!(lab.kind(), NetworkKind::Switched);
    assert_eq!(lab.l2, Some(L2Policy { storm_pps: 7, ..Default::default() }));
    let in_force = lab.l2_in_force.unwrap();
    assert_eq!((in_force.storm_pps, in_force.mac_aging_seconds), (7, 300));
    assert_eq!(in_force.unknown_unicast(), UnknownUnicast::Drop, "all MACs are known");
    assert_eq!(in_force.loop_guard(), Toggle::On);
    let policy = L2Policy { guest_vlans: GuestVlans::Pass.into(), ..Default::default() };
    let changed = change(&mut daemon, "lab", policy).unwrap();
    assert_eq!(changed.l2_in_force.clone().unwrap().storm_pps, 2000, "it is replaced as a whole");
    daemon.crash_and_restart();
    let request = GetNetworkRequest { identifier: Some(Identifier::Name("lab".into())) };
    let kept = daemon.call(async |client| client.get_network(request).await).unwrap();
    assert_eq!(kept, changed);
}

#[test]
fn what_is_asked_of_the_wrong_network_is_refused() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let refused = change(&mut daemon, "prod", L2Policy::default()).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("NETWORK_KIND_SWITCHED"), "{refused}");
    daemon.network_with("lab", segment);
    let short = L2Policy { mac_aging_seconds: 1, ..Default::default() };
    let refused = change(&mut daemon, "lab", short).unwrap_err();
    assert_eq!(refused.message(), "l2.mac_aging_seconds: \"1\": expected 15-3600");
}

#[test]
fn any_protocol_crosses_a_segment_and_frames_stay_as_they_are() {
    let mut daemon = Daemon::start();
    daemon.network_with("lab", segment);
    let [mut a, mut b] = ["a", "b"].map(|name| {
        let nic = daemon.nic("lab", name);
        assert_eq!((nic.ipv4_address.as_str(), nic.ipv6_address.as_str()), ("", ""));
        assert_eq!(parse_mac(&nic.mac_address)[..3], [0x52, 0x54, 0]);
        Guest::connect(&nic)
    });
    // An EtherType for local experiments (IEEE 802-2014 §9.2.4).
    let frame = [&b.mac[..], &a.mac, &[0x88, 0xb5], b"from a to b"].concat();
    a.send(&frame);
    assert_eq!(b.expect("a's frame", |got| got[12..14] == [0x88, 0xb5]), frame);
    let all = [&[0xff; 6][..], &b.mac, &[0x88, 0xb5], b"to all"].concat();
    b.send(&all);
    assert_eq!(a.expect("b's frame", |got| got[12..14] == [0x88, 0xb5]), all);
}

#[test]
fn a_guest_that_is_a_bridge_may_send_from_macs_that_are_not_its_own() {
    let mut daemon = Daemon::start();
    daemon.network_with("lab", segment);
    let strict = daemon.nic("lab", "vm1");
    assert_eq!((strict.port_security(), strict.mac_limit), (PortSecurity::Strict, 1));
    let bridge = daemon.nic_with("lab", "bridge", |request| {
        request.port_security = PortSecurity::Off.into();
    });
    assert_eq!((bridge.mac_limit, bridge.requested_mac_limit), (8, 0));
    let (mut guest, mut bridge) = (Guest::connect(&strict), Guest::connect(&bridge));
    let behind = [0x02, 0, 0, 0, 0, 0x99];
    let sent = [&guest.mac[..], &behind, &[0x88, 0xb5], b"hello"].concat();
    bridge.send(&sent);
    assert_eq!(guest.expect("the frame", |frame| frame[12..14] == [0x88, 0xb5]), sent);
    let answer = [&behind[..], &guest.mac, &[0x88, 0xb5], b"hello yourself"].concat();
    guest.send(&answer);
    assert_eq!(bridge.expect("the answer", |frame| frame[12..14] == [0x88, 0xb5]), answer);
}

#[test]
fn port_security_is_refused_where_it_says_nothing() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.network_with("lab", segment);
    let refused = daemon.try_nic_with("prod", "a", |request| {
        request.port_security = PortSecurity::Off.into();
    });
    assert!(refused.unwrap_err().message().contains("NETWORK_KIND_SWITCHED"));
    let refused = daemon.try_nic_with("lab", "a", |request| request.mac_limit = 3);
    assert!(refused.unwrap_err().message().contains("PORT_SECURITY_OFF"));
}

#[test]
fn the_gateways_address_is_nobodys() {
    let mut daemon = Daemon::start();
    let switched = |request: &mut CreateNetworkRequest| {
        request.kind = NetworkKind::Switched.into();
        request.ipv6_prefix.clear();
    };
    let lan = daemon.network_with("lan", switched);
    assert_eq!(lan.gateway_ipv4, "10.0.0.1");
    assert_eq!(lan.l2_in_force.unwrap().dhcp_guard(), DhcpGuard::On);
    assert_eq!(daemon.nic("lan", "a").ipv4_address, "10.0.0.2");
    let refused = daemon.try_nic_with("lan", "b", |nic| nic.ipv4_address = "10.0.0.1".into());
    assert_eq!(refused.unwrap_err().code(), Code::AlreadyExists);
    let last = daemon.network_with("last", |request| {
        switched(request);
        request.gateway_ipv4 = "10.0.0.254".into();
    });
    assert_eq!(last.gateway_ipv4, "10.0.0.254");
    let none = daemon.network_with("none", |request| {
        switched(request);
        request.gateway = Toggle::Off.into();
    });
    assert_eq!((&*none.gateway_ipv4, none.gateway()), ("", Toggle::Off));
    assert_eq!(none.l2_in_force.unwrap().dhcp_guard(), DhcpGuard::Off);
    assert_eq!(daemon.nic("none", "c").ipv4_address, "10.0.0.1");
    let request = CreateNetworkRequest {
        name: "routed".into(),
        ipv4_subnet: "10.0.0.0/24".into(),
        gateway: Toggle::Off.into(),
        ..Default::default()
    };
    let refused = daemon.call(async |client| client.create_network(request).await).unwrap_err();
    assert!(refused.message().contains("a routed network has one always"), "{refused}");
}
