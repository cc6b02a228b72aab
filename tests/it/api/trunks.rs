//! Trunks in the API: made, refused, changed while traffic flows, and kept.

use crate::{
    daemon::{Daemon, PATIENCE, wait_until},
    streams::{BROADCAST, Client, free_ports},
};
use mvirt_net::proto::{
    CreatePortRequest, DeleteNetworkRequest, DeletePortRequest, GetPortRequest, ListMacsRequest,
    ListPortsRequest, NetworkKind, Port, TaggedNetwork, UpdatePortRequest, WatchPortsRequest,
    get_port_request::Identifier,
};
use prost_types::FieldMask;
use tokio::time::timeout;
use tonic::Code;

/// VLANs as they are asked for.
pub(super) fn vlans(vlans: &[(u32, &str)]) -> Vec<TaggedNetwork> {
    let tagged = |&(vid, network): &(u32, &str)| TaggedNetwork {
        vid,
        network_id: network.into(),
        ..Default::default()
    };
    vlans.iter().map(tagged).collect()
}

/// VLANs as they are shown.
fn shown(port: &Port) -> Vec<(u32, &str)> {
    port.vlans.iter().map(|tagged| (tagged.vid, &*tagged.network_name)).collect()
}

/// A daemon with these segments.
fn with_segments(names: &[&str]) -> Daemon {
    let mut daemon = Daemon::start();
    for name in names {
        daemon.network_with(name, |request| {
            request.kind = NetworkKind::Switched.into();
            request.ipv4_subnet.clear();
            request.ipv6_prefix.clear();
        });
    }
    daemon
}

fn create(
    daemon: &mut Daemon,
    (network, name): (&str, &str),
    tagged: &[(u32, &str)],
    locator: &str,
) -> Result<Port, tonic::Status> {
    let request = CreatePortRequest {
        network_id: network.into(),
        name: name.into(),
        locator: locator.into(),
        vlans: vlans(tagged),
        ..Default::default()
    };
    daemon.call(async |client| client.create_port(request).await)
}

fn update(daemon: &mut Daemon, tagged: &[(u32, &str)]) -> Result<Port, tonic::Status> {
    let request = UpdatePortRequest {
        id: "up".into(),
        vlans: vlans(tagged),
        update_mask: Some(FieldMask { paths: vec!["vlans".into()] }),
        ..Default::default()
    };
    daemon.call(async |client| client.update_port(request).await)
}

fn get(daemon: &mut Daemon, name: &str) -> Port {
    let request = GetPortRequest { identifier: Some(Identifier::Name(name.into())) };
    daemon.call(async |client| client.get_port(request).await).unwrap()
}

fn ports_of(daemon: &mut Daemon, network: &str) -> Vec<String> {
    let request = ListPortsRequest { network_id: network.into(), ..Default::default() };
    let listed = daemon.call(async |client| client.list_ports(request).await).unwrap();
    listed.ports.into_iter().map(|port| port.name).collect()
}

#[test]
fn a_trunk_is_in_several_networks_and_stays_so() {
    let mut daemon = with_segments(&["green", "red", "blue"]);
    let [up] = free_ports();
    let locator = format!("stream-listen://127.0.0.1:{up}");
    let made = create(&mut daemon, ("green", "up"), &[(20, "blue"), (10, "red")], &locator);
    let made = made.unwrap();
    assert_eq!(shown(&made), [(10, "red"), (20, "blue")]);
    for network in ["green", "red", "blue", ""] {
        assert_eq!(ports_of(&mut daemon, network), ["up"], "{network}");
    }
    for force in [false, true] {
        let request = DeleteNetworkRequest { id: "blue".into(), force, ..Default::default() };
        let refused = daemon.call(async |client| client.delete_network(request).await).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("blue is VLAN 20 of port up"), "{refused}");
    }
    daemon.crash_and_restart();
    assert_eq!(shown(&get(&mut daemon, "up")), [(10, "red"), (20, "blue")]);
    assert!(daemon.hand_over(), "{}", daemon.log());
    assert_eq!(shown(&get(&mut daemon, "up")), [(10, "red"), (20, "blue")]);
    // Out of blue, and red by another number; green is its own.
    let changed = update(&mut daemon, &[(4094, "red"), (1, "green")]).unwrap();
    assert_eq!(shown(&changed), [(1, "green"), (4094, "red")]);
    assert_eq!(ports_of(&mut daemon, "blue"), [""; 0]);
    let request = DeleteNetworkRequest { id: "blue".into(), ..Default::default() };
    daemon.call(async |client| client.delete_network(request).await).unwrap();
    let changed = update(&mut daemon, &[]).unwrap();
    assert_eq!((shown(&changed), &*changed.network_name), (vec![], "green"), "no trunk any more");
    update(&mut daemon, &[(7, "red")]).unwrap();
    // By force it goes with the network that it is named with.
    let request = DeleteNetworkRequest { id: "green".into(), force: true, ..Default::default() };
    daemon.call(async |client| client.delete_network(request).await).unwrap();
    assert_eq!(ports_of(&mut daemon, "red"), [""; 0]);
}

#[test]
fn vlans_that_cannot_be_are_refused() {
    let mut daemon = with_segments(&["green", "red", "blue"]);
    daemon.network("routed");
    let locator = format!("seqpacket-listen://{}", daemon.path("s/up").display());
    let mut refused = |tagged: &[(u32, &str)], locator: &str, code: Code, why: &str| {
        let refused = create(&mut daemon, ("green", "up"), tagged, locator).unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(why), "{refused}");
    };
    for vid in [0, 4095, 65546, u32::MAX] {
        refused(&[(vid, "red")], &locator, Code::InvalidArgument, "from 1 to 4094");
    }
    let twice = [(10, "red"), (10, "blue")];
    refused(&twice, &locator, Code::InvalidArgument, "one VLAN is of one network");
    let twice = [(10, "red"), (20, "red")];
    refused(&twice, &locator, Code::InvalidArgument, "one network is of one VLAN");
    refused(&[(10, "routed")], &locator, Code::InvalidArgument, "belong to switched networks");
    refused(&[(10, "")], &locator, Code::InvalidArgument, "needs a network's id or name");
    refused(&[(10, "nobody")], &locator, Code::NotFound, "does not exist");
    let hub = locator.replace("seqpacket-listen", "hub");
    refused(&[(10, "red")], &hub, Code::InvalidArgument, "a hub has no VLANs");
    create(&mut daemon, ("green", "up"), &[], &locator).unwrap();
    let refused = update(&mut daemon, &[(0, "red")]).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(shown(&get(&mut daemon, "up")), []);
}

#[test]
fn a_damaged_network_costs_a_trunk_its_vlan_alone() {
    let mut daemon = with_segments(&["green", "red", "blue"]);
    let locator = format!("seqpacket-listen://{}", daemon.path("s/up").display());
    let vlans = [(10, "red"), (20, "blue")];
    let made = create(&mut daemon, ("green", "up"), &vlans, &locator).unwrap();
    daemon.terminate();
    let file = daemon.path("m/networks").join(format!("{}.json", made.vlans[1].network_id));
    std::fs::write(file, b"{ torn").unwrap();
    daemon.start_again();
    let up = get(&mut daemon, "up");
    assert_eq!(shown(&up), [(10, "red"), (20, "")], "it is not forgotten");
    assert_eq!(up.vlans[1].network_id, made.vlans[1].network_id);
    assert_eq!(ports_of(&mut daemon, "red"), ["up"]);
    daemon.says("a VLAN of a trunk is not served");
    let request = DeletePortRequest { id: "up".into(), ..Default::default() };
    daemon.call(async |client| client.delete_port(request).await).unwrap();
    assert_eq!(ports_of(&mut daemon, "red"), [""; 0]);
}

#[test]
fn each_who_connects_to_a_trunk_is_in_all_of_its_networks() {
    let mut daemon = with_segments(&["green", "red", "blue"]);
    let [up, red] = free_ports();
    let at = |port: u16| format!("stream-listen://127.0.0.1:{port}");
    create(&mut daemon, ("green", "up"), &[(10, "red")], &at(up)).unwrap();
    create(&mut daemon, ("red", "host"), &[], &at(red)).unwrap();
    let [mut a, mut b, mut host] =
        [(up, 1), (up, 2), (red, 3)].map(|(port, number)| Client::new(port, number));
    wait_until("all are members", || {
        get(&mut daemon, "up").attachments.len() == 2
            && get(&mut daemon, "host").attachments.len() == 1
    });
    // What is changed by the API is in force once that answers.
    update(&mut daemon, &[(10, "red"), (20, "blue")]).unwrap();
    let tagged = |vid: u8, text: &str| {
        let tag = [0x81, 0, 0, vid, 0x88, 0xb5];
        [&BROADCAST[..], &[2, 0, 0, 0, 0, 1], &tag, text.as_bytes()].concat()
    };
    for (vid, text) in [(30, "nobody's"), (10, "red"), (20, "blue")] {
        a.send(&tagged(vid, text));
    }
    assert_eq!(host.hear(), "red");
    assert_eq!([(); 2].map(|()| b.receive().unwrap()), [tagged(10, "red"), tagged(20, "blue")]);
    host.say(BROADCAST, "hello");
    for client in [&mut a, &mut b] {
        let heard = client.receive().unwrap();
        assert_eq!(heard[12..], [&[0x81, 0, 0, 10, 0x88, 0xb5][..], b"hello"].concat());
    }
    assert_eq!(daemon.drops("up", "vlan_not_allowed"), 1);
    for (network, vid) in [("red", 10), ("blue", 20)] {
        let request = ListMacsRequest { network_id: network.into() };
        let macs = daemon.call(async |client| client.list_macs(request).await).unwrap().macs;
        let up: Vec<_> = macs.iter().filter(|mac| mac.port == "up").collect();
        assert_eq!((up.len(), &*up[0].mac, up[0].port_vid), (1, "02:00:00:00:00:01", vid));
    }
    // Out of blue, into it again by another number.
    update(&mut daemon, &[(10, "red")]).unwrap();
    update(&mut daemon, &[(10, "red"), (21, "blue")]).unwrap();
    a.send(&tagged(21, "blue again"));
    assert_eq!(b.receive().unwrap(), tagged(21, "blue again"));
}

#[test]
fn who_watches_a_network_is_told_when_a_trunk_leaves_it() {
    let mut daemon = with_segments(&["green", "red", "blue"]);
    let locator = format!("seqpacket-listen://{}", daemon.path("s/up").display());
    let port = create(&mut daemon, ("green", "up"), &[(10, "red")], &locator).unwrap();
    let mut streams = ["red", "blue", ""].map(|network| {
        let request = WatchPortsRequest { network_id: network.into(), ..Default::default() };
        daemon.call(async |client| client.watch_ports(request).await).unwrap()
    });
    update(&mut daemon, &[(10, "blue")]).unwrap();
    let request = DeletePortRequest { id: "up".into(), ..Default::default() };
    daemon.call(async |client| client.delete_port(request).await).unwrap();
    let told = streams.each_mut().map(|stream| {
        let mut next = || {
            daemon.block_on(async |_| timeout(PATIENCE, stream.message()).await.unwrap()).unwrap()
        };
        let mut told = Vec::new();
        // All see the end of it, each in one way.
        while told.last() != Some(&None) {
            let event = next().unwrap();
            assert_eq!(event.port_id, port.id);
            told.push(event.port.map(|port| shown(&port).first().map(|it| it.1.to_owned())));
        }
        told
    });
    let [red, blue] = ["red", "blue"].map(|name| Some(Some(name.to_owned())));
    assert_eq!(told[0], [red.clone(), None], "it has left");
    assert_eq!(told[1], [blue.clone(), None], "it has come, and gone");
    assert_eq!(told[2], [red, blue, None]);
}
