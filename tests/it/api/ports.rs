//! Ports in the API: made, refused, shown, and kept; who connects to one is a member of its
//! network.

use crate::{
    daemon::{Daemon, wait_until},
    frames::{Udp4, is_udp4},
    guest::{Guest, parse_mac},
    lab::{get, segment},
};
use mvirt_net::proto::{
    CreatePortRequest, DeleteNetworkRequest, DeletePortRequest, ListMacsRequest, ListPortsRequest,
    NicState, Port, PortRole, PortState, Transport, UpdatePortRequest,
};
use prost_types::FieldMask;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect,
    listen, recv, send, socket, socket_with,
};
use std::{
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};
use tonic::Code;

fn create(
    daemon: &mut Daemon,
    change: impl FnOnce(&mut CreatePortRequest),
) -> Result<Port, tonic::Status> {
    let locator = format!("seqpacket-listen://{}", daemon.path("s/lan").display());
    let mut request = CreatePortRequest {
        network_id: "lab".into(),
        name: "lan".into(),
        locator,
        ..Default::default()
    };
    change(&mut request);
    daemon.call(async |client| client.create_port(request).await)
}

fn dial(path: &Path) -> OwnedFd {
    let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

#[test]
fn who_connects_to_a_port_is_a_member_of_its_network() {
    let mut daemon = Daemon::start();
    daemon.network_with("lab", segment);
    let port = create(&mut daemon, |_| {}).unwrap();
    assert_eq!((port.role(), port.mac_limit), (PortRole::Access, 32));
    assert_eq!(port.state(), PortState::Listening);
    let mut guest = Guest::connect(&daemon.nic("lab", "vm1"));
    let path = daemon.path("s/lan");
    let clients = [dial(&path), dial(&path)];
    wait_until("both are members", || get(&mut daemon, "lan").attachments.len() == 2);
    let mac = [0x02, 0, 0, 0, 0, 0x99];
    let sent = [&[0xff; 6][..], &mac, &[0x88, 0xb5], b"to all"].concat();
    send(&clients[0], &sent, SendFlags::empty()).unwrap();
    assert_eq!(guest.expect("the frame", |frame| frame[12..14] == [0x88, 0xb5]), sent);
    let mut buffer = [0; 100];
    let (_, len) = recv(&clients[1], &mut buffer, RecvFlags::empty()).unwrap();
    assert_eq!(buffer[..len], sent, "the other client gets it, too");
    // It is learned where it came from.
    let answer = [&mac[..], &guest.mac, &[0x88, 0xb5], b"to one"].concat();
    guest.send(&answer);
    let (_, len) = recv(&clients[0], &mut buffer, RecvFlags::empty()).unwrap();
    assert_eq!(buffer[..len], answer);
    let nothing = recv(&clients[1], &mut buffer, RecvFlags::DONTWAIT);
    assert_eq!(nothing.unwrap_err(), rustix::io::Errno::AGAIN);
    let request = ListMacsRequest { network_id: "lab".into() };
    let macs = daemon.call(async |client| client.list_macs(request).await).unwrap().macs;
    let behind: Vec<_> = macs.iter().map(|mac| (&*mac.nic, &*mac.port, mac.r#static)).collect();
    assert_eq!(behind, [("", "lan", false), ("vm1", "", true)]);
    assert_eq!((&*macs[0].mac, macs[0].age_seconds < 60), ("02:00:00:00:00:99", true));
    assert!(macs[0].remote.starts_with("pid "), "{}", macs[0].remote);
    let stats = daemon.stats("lan");
    assert_eq!((stats.ingress_frames, stats.egress_frames), (1, 2));
    drop(clients);
    wait_until("both have left", || get(&mut daemon, "lan").attachments.is_empty());
    let request = DeletePortRequest { id: "lan".into(), ..Default::default() };
    daemon.call(async |client| client.delete_port(request).await).unwrap();
    wait_until("its socket is gone", || !path.exists());
}

#[test]
fn a_port_is_kept_changed_and_goes_with_its_network() {
    let mut daemon = Daemon::start();
    daemon.network_with("lab", segment);
    create(&mut daemon, |_| {}).unwrap();
    let request = UpdatePortRequest {
        id: "lan".into(),
        role: PortRole::Uplink.into(),
        protected: true,
        update_mask: Some(FieldMask { paths: vec!["role".into(), "protected".into()] }),
        ..Default::default()
    };
    let changed = daemon.call(async |client| client.update_port(request).await).unwrap();
    assert_eq!(
        (changed.role(), changed.mac_limit, changed.protected),
        (PortRole::Uplink, 4096, true)
    );
    daemon.crash_and_restart();
    wait_until("it listens again", || get(&mut daemon, "lan").state() == PortState::Listening);
    let kept = get(&mut daemon, "lan");
    assert_eq!(Port { state: changed.state, ..kept }, Port { error: String::new(), ..changed });
    let request = DeleteNetworkRequest { id: "lab".into(), ..Default::default() };
    let refused = daemon.call(async |client| client.delete_network(request).await).unwrap_err();
    assert!(refused.message().contains("still has 1 port:"), "{refused}");
    let request = DeleteNetworkRequest { id: "lab".into(), force: true, ..Default::default() };
    let deleted = daemon.call(async |client| client.delete_network(request).await).unwrap();
    assert_eq!(deleted.ports_deleted, 1);
    let request = ListPortsRequest::default();
    let left = daemon.call(async |client| client.list_ports(request).await).unwrap();
    assert_eq!(left.ports, []);
}

#[test]
fn a_port_whose_place_is_taken_says_so_and_comes_back_by_itself() {
    let mut daemon = Daemon::start();
    daemon.network_with("lab", segment);
    create(&mut daemon, |_| {}).unwrap();
    daemon.kill();
    let path = daemon.path("s/lan");
    std::fs::remove_file(&path).unwrap();
    // Not the daemon's, which is started from here.
    let flags = SocketFlags::CLOEXEC;
    let other = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    bind(&other, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&other, 1).unwrap();
    daemon.start_again_after_its_end();
    let port = get(&mut daemon, "lan");
    assert_eq!(port.state(), PortState::Error);
    assert!(port.error.contains("in use"), "{}", port.error);
    assert!(path.exists(), "what others have is left alone");
    drop(other);
    wait_until("it listens", || get(&mut daemon, "lan").state() == PortState::Listening);
    let _client = dial(&path);
}

#[test]
fn a_listener_is_handed_over_and_never_refuses_a_client() {
    let mut daemon = Daemon::start();
    daemon.network_with("lab", segment);
    create(&mut daemon, |_| {}).unwrap();
    let path = daemon.path("s/lan");
    let inode = std::fs::metadata(&path).unwrap().ino();
    assert!(daemon.hand_over());
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode, "it is the same socket");
    assert_eq!(get(&mut daemon, "lan").state(), PortState::Listening);
    let _client = dial(&path);
    wait_until("it is a member", || get(&mut daemon, "lan").attachments.len() == 1);
}

#[test]
fn refusals_name_what_is_wrong_and_leave_nothing() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.network_with("lab", segment);
    daemon.nic("lab", "vm1");
    let mut refused = |code: Code, named: &str, change: &dyn Fn(&mut CreatePortRequest)| {
        let refused = create(&mut daemon, change).unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(named), "{refused} names {named}");
    };
    refused(Code::InvalidArgument, "ports belong to switched networks", &|request| {
        request.network_id = "prod".into();
    });
    refused(Code::InvalidArgument, "no such port kind: foo; there are null, ", &|request| {
        request.locator = "foo://bar".into();
    });
    refused(Code::InvalidArgument, "locator: \"\": required", &|request| request.locator.clear());
    refused(Code::PermissionDenied, "--port-dir", &|request| {
        request.locator = "seqpacket-listen:///tmp/elsewhere".into();
    });
    refused(Code::PermissionDenied, "--port-dir", &|request| {
        request.locator = request.locator.replace("/lan", "/../lan");
    });
    refused(Code::PermissionDenied, "--port-listen", &|request| {
        request.locator = "stream-listen://192.0.2.1:9999/insecure".into();
    });
    for locator in [
        "udp://4000->127.0.0.1:4001",
        "mcast://239.192.1.1:1102",
        "vxlan:///remote=127.0.0.1",
        "vxvde://239.0.0.1",
        "dives://239.13.13.13:3535/host=192.0.2.1/vlan=5",
    ] {
        refused(Code::PermissionDenied, "--port-listen", &|request| {
            request.locator = locator.into();
        });
    }
    for locator in ["cmd://cat", "stdio://", "seqpacket://3"] {
        refused(Code::PermissionDenied, "mvirt plug", &|request| request.locator = locator.into());
    }
    refused(Code::AlreadyExists, "vNIC", &|request| request.name = "vm1".into());
    refused(Code::InvalidArgument, "mac_limit: \"1000001\"", &|request| {
        request.mac_limit = 1_000_001;
    });
    let request = ListPortsRequest::default();
    let none = daemon.call(async |client| client.list_ports(request).await).unwrap();
    assert_eq!(none.ports, []);
}

#[test]
fn a_vnic_without_shared_memory_has_all_that_others_have() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut other = Guest::connect(&daemon.nic("prod", "other"));
    let nic = daemon.nic_with("prod", "packets", |nic| {
        nic.transport = Transport::Seqpacket.into();
    });
    assert_eq!((nic.transport(), &*nic.ipv4_address), (Transport::Seqpacket, "10.0.0.2"));
    let refused = daemon.try_nic_with("prod", "two", |nic| {
        nic.transport = Transport::Stream.into();
        nic.queue_pairs = 2;
    });
    assert!(refused.unwrap_err().message().starts_with("queue_pairs: "));
    let refused = daemon.try_nic_with("prod", "tap", |nic| {
        nic.transport = Transport::Tap.into();
        nic.tap_interface = "a/b".into();
    });
    assert!(refused.unwrap_err().message().starts_with("tap_interface: \"a/b\""));
    let mac = parse_mac(&nic.mac_address);
    let path = PathBuf::from(&nic.socket_path);
    let mut client = dial(&path);
    for round in 0..2 {
        daemon.wait_for_state("packets", NicState::Active);
        // The gateway is there, and nobody may send from another's address.
        let ping = Udp4::new(mac, "10.0.0.2", "10.0.0.1", b"hello").frame();
        send(&client, &ping, SendFlags::empty()).unwrap();
        other.expect("the packet", |frame| is_udp4(frame, b"hello"));
        let forged = Udp4::new(mac, "10.0.0.9", "10.0.0.1", b"forged").frame();
        send(&client, &forged, SendFlags::empty()).unwrap();
        wait_until("it is dropped", || daemon.drops("packets", "spoofed_source_ipv4") == round + 1);
        if round == 0 {
            // It goes on in another process.
            assert!(daemon.hand_over());
        } else {
            client = {
                drop(client);
                daemon.wait_for_state("packets", NicState::Created);
                dial(&path)
            };
            daemon.wait_for_state("packets", NicState::Active);
        }
    }
    drop(client);
}
