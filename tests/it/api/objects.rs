//! The API: what is created is found, what is wrong is refused by its code, what changes is told.

use crate::{
    daemon::{Daemon, channel, wait_until},
    guest::Guest,
};
use mvirt_net::proto::{
    CreateNetworkRequest, CreateNicRequest, DeleteNetworkRequest, DeleteNicRequest,
    GetNetworkRequest, GetVersionRequest, ListNicsRequest, NicState, UpdateNicRequest,
    WatchNetworksRequest, WatchNicsRequest, get_network_request::Identifier,
};
use tonic::Code;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt as _;
use vhost::VhostBackend as _;

#[test]
fn addresses_are_the_lowest_free_ones_and_stay() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let fixed = daemon.nic_with("prod", "fixed", |r| r.ipv4_address = "10.0.0.2".into());
    let names = ["a", "b", "c"].map(|name| daemon.nic("prod", name));
    assert_eq!(fixed.ipv6_address, "fd00::1");
    assert_eq!(names.clone().map(|nic| nic.ipv4_address), ["10.0.0.1", "10.0.0.3", "10.0.0.4"]);
    assert!(names.iter().all(|nic| nic.mac_address.starts_with("52:54:00:")));
    let request = DeleteNicRequest { id: names[1].id.clone(), ..Default::default() };
    daemon.call(async |client| client.delete_nic(request).await).unwrap();
    assert_eq!(daemon.nic("prod", "d").ipv4_address, "10.0.0.3");
}

#[test]
fn refusals_have_their_code_name_the_value_and_change_nothing() {
    let mut daemon = Daemon::start_with(&["--reactors", "1", "--egress", "off"]);
    daemon.network("prod");
    daemon.network_with("six", |r| r.ipv4_subnet.clear());
    daemon.nic_with("prod", "a", |r| r.routed_ipv4_prefixes = vec!["10.1.0.0/16".into()]);
    let mut nic = |code: Code, value: &str, change: &dyn Fn(&mut CreateNicRequest)| {
        let mut request = CreateNicRequest {
            network_id: "prod".into(),
            name: "new".into(),
            ..Default::default()
        };
        change(&mut request);
        let refused = daemon.call(async |client| client.create_nic(request).await).unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(value), "{refused} names {value}");
    };
    nic(Code::InvalidArgument, "10.0.1.1", &|r| r.ipv4_address = "10.0.1.1".into());
    nic(Code::InvalidArgument, "10.0.0.0", &|r| r.ipv4_address = "10.0.0.0".into());
    nic(Code::InvalidArgument, "10.0.0.255", &|r| r.ipv4_address = "10.0.0.255".into());
    nic(Code::InvalidArgument, "ten", &|r| r.ipv4_address = "ten".into());
    nic(Code::InvalidArgument, "ipv4_address", &|r| {
        (r.network_id, r.ipv4_address) = ("six".into(), "10.0.0.1".into())
    });
    nic(Code::InvalidArgument, "02:00:00:00:00:01", &|r| {
        r.mac_address = "02:00:00:00:00:01".into()
    });
    nic(Code::InvalidArgument, "-x", &|r| r.name = "-x".into());
    nic(Code::InvalidArgument, "9", &|r| r.queue_pairs = 9);
    nic(Code::InvalidArgument, "10.1.2.3/16", &|r| {
        r.routed_ipv4_prefixes = vec!["10.1.2.3/16".into()]
    });
    nic(Code::InvalidArgument, "0.0.0.0/0", &|r| r.routed_ipv4_prefixes = vec!["0.0.0.0/0".into()]);
    nic(Code::AlreadyExists, "\"a\"", &|r| r.name = "a".into());
    nic(Code::AlreadyExists, "10.0.0.1", &|r| r.ipv4_address = "10.0.0.1".into());
    nic(Code::AlreadyExists, "10.1.0.0/16", &|r| {
        r.routed_ipv4_prefixes = vec!["10.1.0.0/16".into()]
    });
    nic(Code::AlreadyExists, "10.0.0.0/29", &|r| {
        r.routed_ipv4_prefixes = vec!["10.0.0.0/29".into()]
    });
    nic(Code::NotFound, "nowhere", &|r| r.network_id = "nowhere".into());
    let all =
        daemon.call(async |client| client.list_nics(ListNicsRequest::default()).await).unwrap();
    assert_eq!(all.nics.len(), 1);

    let refused = |daemon: &mut Daemon, request: CreateNetworkRequest| {
        daemon.call(async |client| client.create_network(request).await).unwrap_err().code()
    };
    let network = |name: &str| CreateNetworkRequest {
        name: name.into(),
        ipv4_subnet: "10.0.0.0/24".into(),
        ..Default::default()
    };
    assert_eq!(refused(&mut daemon, network("prod")), Code::AlreadyExists);
    assert_eq!(
        refused(&mut daemon, CreateNetworkRequest { is_public: true, ..network("pub") }),
        Code::FailedPrecondition
    );
    let delete = DeleteNetworkRequest { id: "prod".into(), force: false, ..Default::default() };
    let status = daemon.call(async |client| client.delete_network(delete).await).unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let delete = DeleteNetworkRequest { id: "prod".into(), force: true, ..Default::default() };
    let deleted = daemon.call(async |client| client.delete_network(delete).await).unwrap();
    assert_eq!((deleted.deleted, deleted.nics_deleted), (true, 1));
    let get = GetNetworkRequest { identifier: Some(Identifier::Name("prod".into())) };
    let status = daemon.call(async |client| client.get_network(get).await).unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[test]
fn refusals_tell_programs_what_is_wrong_and_are_never_long() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "a");
    let refused = daemon.try_nic_with("prod", "b", |r| r.ipv4_address = "ten".into()).unwrap_err();
    let details = refused.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!((&*info.reason, &*info.domain), ("INVALID", "mvirt.net"));
    let violation = &details.bad_request().unwrap().field_violations[0];
    assert_eq!(violation.field, "ipv4_address");
    assert!(violation.description.contains("ten"), "{violation:?}");
    let refused = daemon.try_nic_with("prod", "a", |_| {}).unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "TAKEN");
    let taken = refused.get_details_resource_info().unwrap();
    assert_eq!((&*taken.resource_type, &*taken.resource_name), ("name", "a"));
    assert!(taken.owner.contains(&nic.id), "{taken:?}");
    let refused = daemon.try_nic_with("nowhere", "b", |_| {}).unwrap_err();
    let missing = refused.get_details_resource_info().unwrap();
    assert_eq!((&*missing.resource_type, &*missing.resource_name), ("network", "nowhere"));
    let delete = DeleteNetworkRequest { id: "prod".into(), ..Default::default() };
    let refused = daemon.call(async |client| client.delete_network(delete).await).unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "NOT_EMPTY");
    // A message is a header, which clients bound.
    for long in ["x".repeat(500_000), "\u{1b}[31mä".repeat(50_000)] {
        let name = |r: &mut CreateNicRequest| r.name = long.clone();
        let refused = daemon.try_nic_with("prod", "", name).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().len() < 400, "{}", refused.message());
        assert!(!refused.message().contains('\u{1b}'));
        let get = GetNetworkRequest { identifier: Some(Identifier::Name(long.clone())) };
        let refused = daemon.call(async |client| client.get_network(get).await).unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        let etag = DeleteNicRequest { id: "a".into(), etag: long.clone(), ..Default::default() };
        let refused = daemon.call(async |client| client.delete_nic(etag).await).unwrap_err();
        assert_eq!(refused.code(), Code::Aborted);
    }
}

#[test]
fn a_small_subnet_runs_out() {
    let mut daemon = Daemon::start();
    daemon.network_with("tiny", |r| r.ipv4_subnet = "10.0.0.0/30".into());
    daemon.nic("tiny", "a");
    daemon.nic("tiny", "b");
    let request =
        CreateNicRequest { network_id: "tiny".into(), name: "c".into(), ..Default::default() };
    let status = daemon.call(async |client| client.create_nic(request).await).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
}

#[test]
fn a_repeated_request_with_its_own_id_is_the_same_object() {
    let mut daemon = Daemon::start();
    let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let first = daemon.network_with("prod", |r| r.id = id.into());
    assert_eq!(daemon.network_with("prod", |r| r.id = id.into()), first);
    let other = CreateNetworkRequest {
        id: id.into(),
        name: "prod".into(),
        ipv4_subnet: "10.9.0.0/24".into(),
        ..Default::default()
    };
    let status = daemon.call(async |client| client.create_network(other).await).unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    let nic_id = "67e55044-10b1-426f-9247-bb680e5fe0c9";
    let nic = daemon.nic_with("prod", "a", |r| r.id = nic_id.into());
    assert_eq!(daemon.nic_with(id, "a", |r| r.id = nic_id.into()), nic);
}

#[test]
fn watchers_see_the_present_and_then_every_change() {
    let mut daemon = Daemon::start();
    let network = daemon.network("prod");
    let a = daemon.nic("prod", "a");
    daemon.block_on(async |client| {
        let mut nics = client.watch_nics(WatchNicsRequest::default()).await.unwrap().into_inner();
        let mut networks =
            client.watch_networks(WatchNetworksRequest::default()).await.unwrap().into_inner();
        let event = nics.message().await.unwrap().unwrap();
        assert_eq!((event.nic_id, event.nic.unwrap()), (a.id.clone(), a.clone()));
        assert_eq!(networks.message().await.unwrap().unwrap().network.unwrap().nic_count, 1);
        let request = UpdateNicRequest {
            id: "a".into(),
            routed_ipv4_prefixes: vec!["10.5.0.0/16".into()],
            routed_ipv6_prefixes: vec![],
            ..Default::default()
        };
        client.update_nic(request).await.unwrap();
        let event = nics.message().await.unwrap().unwrap();
        assert_eq!(event.nic.unwrap().routed_ipv4_prefixes, ["10.5.0.0/16"]);
        assert!(event.timestamp > 1_700_000_000_000);
        client
            .delete_network(DeleteNetworkRequest {
                id: network.id.clone(),
                force: true,
                ..Default::default()
            })
            .await
            .unwrap();
        let event = nics.message().await.unwrap().unwrap();
        assert_eq!((event.nic_id, event.nic), (a.id.clone(), None));
        let event = networks.message().await.unwrap().unwrap();
        assert_eq!((event.network_id, event.network), (network.id.clone(), None));
    });
}

#[test]
fn a_slow_watcher_is_disconnected_not_buffered_for() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.nic("prod", "a");
    let code = daemon.block_on(async |client| {
        let mut events =
            client.clone().watch_nics(WatchNicsRequest::default()).await.unwrap().into_inner();
        // Each event carries 256 prefixes: flow control stops the stream long before the backlog of
        // 1024 is over.
        let prefixes = |n: u32| (0..256).map(|m| format!("10.{}.{m}.0/24", 1 + n % 2)).collect();
        for n in 0..1600 {
            let request = UpdateNicRequest {
                id: "a".into(),
                routed_ipv4_prefixes: prefixes(n),
                routed_ipv6_prefixes: vec![],
                ..Default::default()
            };
            client.update_nic(request).await.unwrap();
        }
        loop {
            match events.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status.code()),
            }
        }
    });
    assert_eq!(code, Some(Code::ResourceExhausted));
}

#[test]
fn version_health_and_reflection_are_served() {
    let mut daemon = Daemon::start();
    let version =
        daemon.call(async |client| client.get_version(GetVersionRequest {}).await).unwrap();
    assert_eq!(version.version, env!("CARGO_PKG_VERSION"));
    let path = daemon.path("api");
    daemon.block_on(async |_| {
        let channel = channel(&path).await.unwrap();
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
        let service = "mvirt.net.NetService".into();
        let request = tonic_health::pb::HealthCheckRequest { service };
        let status = health.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::Serving);
        let wanted = MessageRequest::ListServices(String::new());
        let request =
            ServerReflectionRequest { host: String::new(), message_request: Some(wanted) };
        let mut reflection = ServerReflectionClient::new(channel);
        let answer = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap();
        let answer = answer.into_inner().message().await.unwrap().unwrap();
        let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else {
            panic!("{answer:?}")
        };
        assert!(services.service.iter().any(|service| service.name == "mvirt.net.NetService"));
    });
}

#[test]
fn many_vnics_are_made_and_come_back() {
    let mut daemon = Daemon::start();
    daemon.network_with("big", |r| r.ipv4_subnet = "10.0.0.0/16".into());
    for n in 0..300 {
        assert_eq!(daemon.nic("big", &format!("n{n}")).state(), NicState::Created);
    }
    daemon.crash_and_restart();
    let all =
        daemon.call(async |client| client.list_nics(ListNicsRequest::default()).await).unwrap();
    assert_eq!(all.nics.len(), 300);
    wait_until("every socket is there", || {
        all.nics.iter().all(|nic| std::path::Path::new(&nic.socket_path).exists())
    });
}

#[test]
fn there_is_no_more_than_the_flags_allow() {
    let mut daemon = Daemon::start_with(&[
        "--reactors",
        "1",
        "--max-networks",
        "2",
        "--max-nics",
        "3",
        "--max-routes",
        "2",
        "--max-guest-memory",
        "1",
    ]);
    daemon.network("one");
    daemon.network("two");
    let request = CreateNetworkRequest {
        name: "three".into(),
        ipv4_subnet: "10.3.0.0/24".into(),
        ..Default::default()
    };
    let refused = daemon.call(async |client| client.create_network(request).await).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.message(), "there are 2 networks, and --max-networks allows 2");
    let routes = |prefixes: &'static [&str]| {
        move |nic: &mut CreateNicRequest| {
            nic.routed_ipv4_prefixes = prefixes.iter().map(ToString::to_string).collect();
        }
    };
    let (two, three) =
        (&["10.8.0.0/24", "10.9.0.0/24"], &["10.8.0.0/24", "10.9.0.0/24", "10.7.0.0/24"]);
    daemon.nic_with("one", "a", routes(two));
    let refused = daemon.try_nic_with("two", "b", routes(three)).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(
        refused.message().contains("3 routed prefixes, and --max-routes allows 2"),
        "{refused}"
    );
    let request = UpdateNicRequest {
        id: "a".into(),
        routed_ipv4_prefixes: three.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    let refused = daemon.call(async |client| client.update_nic(request).await).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    daemon.nic("two", "b");
    let c = daemon.nic("two", "c");
    let refused = daemon.try_nic_with("two", "d", |_| {}).unwrap_err();
    assert_eq!(refused.message(), "there are 3 vNICs, and --max-nics allows 3");
    // A repeated request finds what there is.
    daemon.nic_with("two", "c", |nic| nic.id = c.id.clone());
    let request = DeleteNicRequest { id: "b".into(), ..Default::default() };
    daemon.call(async |client| client.delete_nic(request).await).unwrap();
    daemon.nic("two", "d");
    // Memory: as much as is allowed, and a page more.
    let guest = Guest::connect(&c);
    let file = &guest.driver.memory.file;
    let mut region = guest.driver.region();
    for (len, fits) in [(1_u64 << 30, true), ((1 << 30) + 4096, false)] {
        file.set_len(len).unwrap();
        region.memory_size = len;
        assert_eq!(guest.driver.frontend.set_mem_table(&[region]).is_ok(), fits);
    }
    wait_until("it is told why", || daemon.log().contains("--max-guest-memory"));
}
