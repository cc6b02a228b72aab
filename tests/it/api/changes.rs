//! Changes by the API: what a mask names changes and nothing else, what others have changed is not
//! overwritten, what is only checked leaves no trace, and what a VMM was told is not changed under
//! it.

use crate::{daemon::Daemon, guest::Guest};
use mvirt_net::proto::{
    Boot, CreateNetworkRequest, CreateNicRequest, DeleteNetworkRequest, DeleteNicRequest,
    GetNetworkRequest, ListNetworksRequest, ListNicsRequest, Network, Nic, NicState, RateLimit,
    SetNicLimitsRequest, UpdateNetworkRequest, UpdateNicRequest, get_network_request::Identifier,
};
use prost_types::FieldMask;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(ToString::to_string).collect() })
}

fn update_network(daemon: &mut Daemon, request: UpdateNetworkRequest) -> Result<Network, Status> {
    daemon.call(async |client| client.update_network(request).await)
}

fn update_nic(daemon: &mut Daemon, request: UpdateNicRequest) -> Result<Nic, Status> {
    daemon.call(async |client| client.update_nic(request).await)
}

fn get_network(daemon: &mut Daemon, name: &str) -> Network {
    let request = GetNetworkRequest { identifier: Some(Identifier::Name(name.into())) };
    daemon.call(async |client| client.get_network(request).await).unwrap()
}

#[test]
fn a_network_changes_by_what_the_mask_names() {
    let mut daemon = Daemon::start();
    let made = daemon.network_with("prod", |r| {
        r.dns_servers = vec!["1.1.1.1".into()];
        r.ntp_servers = vec!["10.0.0.9".into()];
    });
    daemon.nic("prod", "follows");
    daemon.nic_with("prod", "own", |r| r.mtu = 1300);
    let request = UpdateNetworkRequest {
        id: "prod".into(),
        name: "live".into(),
        mtu: 1400,
        domain: "live.internal".into(),
        ntp_servers: vec!["10.0.0.8".into()],
        labels: [("owner".into(), "team a".into())].into(),
        description: "not looked at".into(),
        boot: Some(Boot { url: "http://10.0.0.1/boot.efi".into(), ..Default::default() }),
        update_mask: mask(&["name", "mtu", "domain", "ntp_servers", "labels", "boot"]),
        ..Default::default()
    };
    let changed = update_network(&mut daemon, request.clone()).unwrap();
    assert_eq!((&*changed.name, changed.mtu, &*changed.domain), ("live", 1400, "live.internal"));
    assert_eq!(changed.dns_servers, ["1.1.1.1"], "not named");
    assert_eq!((changed.ntp_servers.len(), &*changed.description), (1, ""));
    assert_eq!((&changed.labels["owner"], &changed.boot), (&"team a".to_owned(), &request.boot));
    assert_ne!(changed.etag, made.etag);
    let (follows, own) = (daemon.get_nic("follows"), daemon.get_nic("own"));
    assert_eq!((follows.mtu, follows.requested_mtu, &*follows.network_name), (1400, 0, "live"));
    assert_eq!((own.mtu, own.requested_mtu), (1300, 1300));
    // The same again changes nothing, by the new name or the id; so does a mask that names nothing.
    let again = UpdateNetworkRequest { id: made.id.clone(), ..request };
    assert_eq!(update_network(&mut daemon, again).unwrap(), changed);
    let nothing =
        UpdateNetworkRequest { id: "live".into(), update_mask: mask(&[]), ..Default::default() };
    assert_eq!(update_network(&mut daemon, nothing).unwrap(), changed);
    let request = GetNetworkRequest { identifier: Some(Identifier::Name("prod".into())) };
    let gone = daemon.call(async |client| client.get_network(request).await).unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    assert_eq!(daemon.network("prod").name, "prod", "the old name is free");
    daemon.crash_and_restart();
    assert_eq!(get_network(&mut daemon, "live"), changed);
}

#[test]
fn without_a_mask_a_change_is_what_it_was_and_nothing_is_ignored() {
    let mut daemon = Daemon::start();
    daemon.network_with("prod", |r| r.dns_servers = vec!["1.1.1.1".into()]);
    let ntp = UpdateNetworkRequest {
        id: "prod".into(),
        ntp_servers: vec!["10.0.0.8".into()],
        ..Default::default()
    };
    let changed = update_network(&mut daemon, ntp.clone()).unwrap();
    assert_eq!((changed.dns_servers.len(), changed.ntp_servers.len()), (0, 1));
    assert_eq!(update_network(&mut daemon, ntp.clone()).unwrap(), changed, "nothing has changed");
    let refused = update_network(&mut daemon, UpdateNetworkRequest { mtu: 1400, ..ntp.clone() });
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("mtu is given"), "{refused}");
    let unknown = UpdateNetworkRequest { update_mask: mask(&["ipv4_subnet"]), ..ntp };
    let refused = update_network(&mut daemon, unknown).unwrap_err();
    assert!(refused.message().starts_with("update_mask: \"ipv4_subnet\""), "{refused}");
    let twice = CreateNetworkRequest {
        name: "twice".into(),
        ipv4_subnet: "10.2.0.0/24".into(),
        dns_servers: vec!["1.1.1.1".into(), "1.1.1.1".into()],
        ..Default::default()
    };
    let refused = daemon.call(async |client| client.create_network(twice).await).unwrap_err();
    assert_eq!(refused.message(), "dns_servers: \"1.1.1.1\": it is given twice");
}

#[test]
fn a_vnic_changes_by_what_the_mask_names() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let made = daemon.nic_with("prod", "vm1", |r| {
        r.routed_ipv4_prefixes = vec!["10.7.0.0/16".into()];
        r.labels = [("a".into(), "1".into())].into();
    });
    daemon.nic("prod", "vm2");
    let request = UpdateNicRequest {
        id: "vm1".into(),
        name: "web".into(),
        mac_address: "52:54:00:00:00:AA".into(),
        ipv4_address: "10.0.0.77".into(),
        ipv6_address: "fd00::77".into(),
        mtu: 1400,
        addressing: 2,
        queue_pairs: 2,
        description: "a web server".into(),
        routed_ipv6_prefixes: vec!["fd07::/64".into()],
        limit_to_guest: Some(RateLimit { bits_per_second: 1_000_000_000, ..Default::default() }),
        update_mask: mask(&[
            "name",
            "mac_address",
            "ipv4_address",
            "ipv6_address",
            "mtu",
            "addressing",
            "queue_pairs",
            "description",
            "routed_ipv6_prefixes",
            "limit_to_guest",
        ]),
        ..Default::default()
    };
    let changed = update_nic(&mut daemon, request).unwrap();
    assert_eq!((&*changed.id, &*changed.name), (&*made.id, "web"));
    assert_eq!(changed.mac_address, "52:54:00:00:00:aa");
    assert_eq!((&*changed.ipv4_address, &*changed.ipv6_address), ("10.0.0.77", "fd00::77"));
    assert_eq!((changed.mtu, changed.addressing, changed.queue_pairs), (1400, 2, 2));
    assert_eq!(changed.routed_ipv4_prefixes, ["10.7.0.0/16"], "not named");
    assert_eq!((&*changed.routed_ipv6_prefixes[0], &*changed.labels["a"]), ("fd07::/64", "1"));
    // What was asked for, and what is in force beside it.
    assert_eq!(changed.limit_to_guest.unwrap().burst_bits, 0);
    assert_eq!(changed.limit_to_guest_in_force.unwrap().burst_bits, 100_000_000);
    // A guest gets what the vNIC is now; its old addresses are free.
    let mut guest = Guest::connect(&changed);
    assert_eq!(guest.lease().0, "10.0.0.77/24");
    drop(guest);
    daemon.wait_for_state("web", NicState::Created);
    assert_eq!(daemon.nic("prod", "vm1").ipv4_address, made.ipv4_address);
    let taken = |field: &str, change: &dyn Fn(&mut UpdateNicRequest)| {
        let mut request = UpdateNicRequest {
            id: "web".into(),
            update_mask: mask(&[field]),
            ..Default::default()
        };
        change(&mut request);
        request
    };
    for (code, request) in [
        (Code::AlreadyExists, taken("name", &|r| r.name = "vm2".into())),
        (Code::AlreadyExists, taken("ipv4_address", &|r| r.ipv4_address = "10.0.0.2".into())),
        (Code::InvalidArgument, taken("ipv4_address", &|r| r.ipv4_address = "10.0.1.2".into())),
        (Code::InvalidArgument, taken("mac_address", &|r| r.mac_address = "x".into())),
        (Code::InvalidArgument, taken("name", &|_| ())),
        (Code::InvalidArgument, taken("queue_pairs", &|r| r.queue_pairs = 9)),
        (
            Code::AlreadyExists,
            taken("routed_ipv4_prefixes", &|r| {
                r.routed_ipv4_prefixes = vec!["10.0.0.0/28".into()];
            }),
        ),
    ] {
        assert_eq!(
            update_nic(&mut daemon, request.clone()).unwrap_err().code(),
            code,
            "{request:?}"
        );
    }
    // Its own address in its own prefix is no other's.
    let own =
        taken("routed_ipv4_prefixes", &|r| r.routed_ipv4_prefixes = vec!["10.0.0.76/31".into()]);
    update_nic(&mut daemon, own).unwrap();
    daemon.crash_and_restart();
    let found = daemon.get_nic("web");
    assert_eq!((&*found.ipv4_address, found.queue_pairs), ("10.0.0.77", 2));
    assert_eq!(found.routed_ipv4_prefixes, ["10.0.0.76/31"]);
}

#[test]
fn what_a_vmm_was_told_is_changed_by_force_only() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "vm1");
    let mut guest = Guest::connect(&nic);
    guest.lease();
    daemon.wait_for_state("vm1", NicState::Active);
    let request = UpdateNicRequest {
        id: "vm1".into(),
        ipv4_address: "10.0.0.50".into(),
        update_mask: mask(&["ipv4_address"]),
        ..Default::default()
    };
    let refused = update_nic(&mut daemon, request.clone()).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("new ipv4_address"), "{refused}");
    let harmless = UpdateNicRequest {
        id: "vm1".into(),
        name: "web".into(),
        mtu: 1400,
        update_mask: mask(&["name", "mtu"]),
        ..Default::default()
    };
    update_nic(&mut daemon, harmless).unwrap();
    let request = UpdateNicRequest { id: "web".into(), force: true, ..request };
    assert_eq!(update_nic(&mut daemon, request).unwrap().ipv4_address, "10.0.0.50");
    assert_eq!(guest.lease().0, "10.0.0.50/32", "it is told when it asks");
    // Deletion says so only where it is asked to.
    let mut delete =
        DeleteNicRequest { id: "web".into(), unless_active: true, ..Default::default() };
    let refused = daemon.call(async |client| client.delete_nic(delete.clone()).await).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("\"web\" is active"), "{refused}");
    delete.unless_active = false;
    daemon.call(async |client| client.delete_nic(delete).await).unwrap();
}

#[test]
fn limits_that_are_not_named_stay() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let limit = |rate| Some(RateLimit { packets_per_second: rate, ..Default::default() });
    daemon.nic_with("prod", "vm1", |r| r.limit_from_guest = limit(1000));
    let request = SetNicLimitsRequest {
        id: "vm1".into(),
        to_guest: limit(500),
        update_mask: mask(&["to_guest"]),
        ..Default::default()
    };
    let changed = daemon.call(async |client| client.set_nic_limits(request).await).unwrap();
    let rates = |nic: &Nic| {
        [nic.limit_from_guest, nic.limit_to_guest].map(|limit| limit.map(|l| l.packets_per_second))
    };
    assert_eq!(rates(&changed), [Some(1000), Some(500)]);
    assert_eq!(changed.limit_from_guest, limit(1000), "as it was asked for");
    assert_eq!(changed.limit_from_guest_in_force.unwrap().burst_packets, 100);
    let request = SetNicLimitsRequest {
        id: "vm1".into(),
        update_mask: mask(&["from_guest"]),
        ..Default::default()
    };
    let changed = daemon.call(async |client| client.set_nic_limits(request).await).unwrap();
    assert_eq!(rates(&changed), [None, Some(500)]);
    // Without a mask both are replaced, as ever.
    let request =
        SetNicLimitsRequest { id: "vm1".into(), from_guest: limit(7), ..Default::default() };
    let changed = daemon.call(async |client| client.set_nic_limits(request).await).unwrap();
    assert_eq!(rates(&changed), [Some(7), None]);
}

#[test]
fn of_two_writers_the_second_is_told() {
    let mut daemon = Daemon::start();
    let network = daemon.network("prod");
    let read = daemon.nic("prod", "vm1");
    assert!(!read.etag.is_empty() && !network.etag.is_empty());
    let add = |route: &str| UpdateNicRequest {
        id: "vm1".into(),
        routed_ipv4_prefixes: vec![route.into()],
        etag: read.etag.clone(),
        ..Default::default()
    };
    let first = update_nic(&mut daemon, add("10.7.0.0/16")).unwrap();
    let refused = update_nic(&mut daemon, add("10.8.0.0/16")).unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    let info = refused.get_details_error_info().unwrap();
    assert_eq!((&*info.reason, &info.metadata["etag"]), ("CHANGED", &first.etag));
    assert_eq!(daemon.get_nic("vm1"), first);
    let delete =
        |etag: &str| DeleteNicRequest { id: "vm1".into(), etag: etag.into(), ..Default::default() };
    let old = delete(&read.etag);
    let refused = daemon.call(async |client| client.delete_nic(old).await).unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    // A restart is no change.
    daemon.crash_and_restart();
    let now = delete(&first.etag);
    daemon.call(async |client| client.delete_nic(now).await).unwrap();
    let stale = DeleteNetworkRequest { id: "prod".into(), etag: "0".into(), ..Default::default() };
    let refused = daemon.call(async |client| client.delete_network(stale).await).unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    let good = DeleteNetworkRequest { id: "prod".into(), etag: network.etag, ..Default::default() };
    daemon.call(async |client| client.delete_network(good).await).unwrap();
}

#[test]
fn what_is_only_checked_leaves_no_trace() {
    let mut daemon = Daemon::start();
    let try_network = CreateNetworkRequest {
        name: "prod".into(),
        ipv4_subnet: "10.0.0.0/24".into(),
        validate_only: true,
        ..Default::default()
    };
    let would = daemon.call(async |client| client.create_network(try_network).await).unwrap();
    assert_eq!((&*would.name, would.mtu), ("prod", 1500));
    let list = ListNetworksRequest::default();
    let there = daemon.call(async |client| client.list_networks(list).await).unwrap();
    assert_eq!(there.networks, []);
    let network = daemon.network("prod");
    let would = daemon.nic_with("prod", "vm1", |r| r.validate_only = true);
    assert_eq!((&*would.ipv4_address, would.state()), ("10.0.0.1", NicState::Created));
    assert!(!std::path::Path::new(&would.socket_path).exists());
    let refused = daemon.try_nic_with("prod", "vm1", |r| {
        (r.validate_only, r.ipv4_address) = (true, "10.9.9.9".into());
    });
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    let nic = daemon.nic("prod", "vm1");
    let request = UpdateNicRequest {
        id: "vm1".into(),
        name: "web".into(),
        update_mask: mask(&["name"]),
        validate_only: true,
        ..Default::default()
    };
    assert_eq!(update_nic(&mut daemon, request).unwrap().name, "web");
    let request = UpdateNetworkRequest {
        id: "prod".into(),
        dns_servers: vec!["1.1.1.1".into()],
        validate_only: true,
        ..Default::default()
    };
    assert_eq!(update_network(&mut daemon, request).unwrap().dns_servers, ["1.1.1.1"]);
    let request = DeleteNicRequest { id: "vm1".into(), validate_only: true, ..Default::default() };
    assert!(daemon.call(async |client| client.delete_nic(request).await).unwrap().deleted);
    let request = DeleteNetworkRequest {
        id: "prod".into(),
        force: true,
        validate_only: true,
        ..Default::default()
    };
    let would = daemon.call(async |client| client.delete_network(request).await).unwrap();
    assert_eq!(would.nics_deleted, 1);
    assert_eq!(daemon.get_nic("vm1"), nic);
    assert_eq!(get_network(&mut daemon, "prod"), Network { nic_count: 1, ..network });
}

#[test]
fn a_creation_can_be_repeated_after_a_change() {
    let mut daemon = Daemon::start();
    let (network_id, nic_id) =
        ("67e55044-10b1-426f-9247-bb680e5fe0c8", "67e55044-10b1-426f-9247-bb680e5fe0c9");
    let network = |r: &mut CreateNetworkRequest| r.id = network_id.into();
    let nic = |r: &mut CreateNicRequest| {
        (r.id, r.name) = (nic_id.into(), String::new());
        r.mac_address = "52:54:00:AA:00:01".into();
    };
    daemon.network_with("prod", network);
    let made = daemon.nic_with("prod", "", nic);
    let number = made.name.strip_prefix("nic-").unwrap();
    assert!(number.len() == 8 && u32::from_str_radix(number, 16).is_ok(), "{}", made.name);
    let rename = UpdateNicRequest {
        id: nic_id.into(),
        name: "web".into(),
        update_mask: mask(&["name"]),
        ..Default::default()
    };
    let renamed = update_nic(&mut daemon, rename).unwrap();
    let rename = UpdateNetworkRequest {
        id: "prod".into(),
        name: "live".into(),
        update_mask: mask(&["name"]),
        ..Default::default()
    };
    let live = update_network(&mut daemon, rename).unwrap();
    daemon.crash_and_restart();
    // The same request, written otherwise: it has been carried out, and this is what has become of
    // it.
    assert_eq!(daemon.network_with("prod", network).name, live.name);
    let again = daemon.nic_with(network_id, "", |r| {
        nic(r);
        r.mac_address = "52:54:00:aa:00:01".into();
    });
    assert_eq!(again, Nic { network_name: "live".into(), ..renamed });
    let other = daemon.try_nic_with(network_id, "web", |r| r.id = nic_id.into());
    assert_eq!(other.unwrap_err().code(), Code::AlreadyExists, "another request with its id");
}

#[test]
fn a_socket_is_for_whom_its_vnic_says() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let own = rustix::process::getegid().as_raw().to_string();
    let nic = daemon.nic_with("prod", "vm1", |r| {
        (r.socket_group, r.socket_mode) = (own.clone(), "0600".into());
    });
    assert_eq!((&nic.socket_group, &*nic.socket_mode), (&own, "0600"));
    let mode =
        |nic: &Nic| std::fs::metadata(&nic.socket_path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&nic), 0o600);
    let mut request = UpdateNicRequest {
        id: "vm1".into(),
        socket_mode: "0606".into(),
        update_mask: mask(&["socket_mode"]),
        ..Default::default()
    };
    update_nic(&mut daemon, request.clone()).unwrap();
    assert_eq!(mode(&nic), 0o606, "at once");
    daemon.crash_and_restart();
    assert_eq!(mode(&nic), 0o606, "and at the next start");
    request.socket_mode = String::new();
    update_nic(&mut daemon, request).unwrap();
    assert_eq!(mode(&nic), 0o660, "the daemon's own choice");
    let refused = daemon.try_nic_with("prod", "x", |r| r.socket_group = "no such group".into());
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("socket_group: \"no such group\""), "{refused}");
    let root = rustix::process::geteuid().is_root();
    let given = daemon.try_nic_with("prod", "given", |r| r.socket_owner = "1".into());
    if root {
        let given = given.unwrap();
        assert_eq!(std::fs::metadata(&given.socket_path).unwrap().uid(), 1);
    } else {
        assert_eq!(given.unwrap_err().code(), Code::FailedPrecondition);
        let list = ListNicsRequest::default();
        let there = daemon.call(async |client| client.list_nics(list).await).unwrap().nics;
        assert_eq!(there.len(), 1, "nothing is left of it");
    }
}
