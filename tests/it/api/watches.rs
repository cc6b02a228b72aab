//! Lists in pages and watches: nobody misses an object, nobody is told what came and went, and no
//! client takes more than its share.

use crate::{
    daemon::{Daemon, PATIENCE, wait_until},
    guest::Driver,
};
use mvirt_net::proto::{
    DeleteNetworkRequest, DeleteNicRequest, ListNetworksRequest, ListNicsRequest, ListNicsResponse,
    NicEvent, NicState, WatchNetworksRequest, WatchNicsRequest,
};
use std::{path::Path, time::Duration};
use tokio::time::timeout;
use tonic::Code;
use vhost::vhost_user::VhostUserFrontend as _;

fn names(response: &ListNicsResponse) -> Vec<&str> {
    response.nics.iter().map(|nic| &*nic.name).collect()
}

#[test]
fn a_list_comes_in_pages() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.network("test");
    for name in ["e", "c", "a", "vm2", "vm1"] {
        daemon.nic("prod", name);
    }
    daemon.nic("test", "b");
    let list = |daemon: &mut Daemon, size: u32, token: &str, prefix: &str, network: &str| {
        let request = ListNicsRequest {
            network_id: network.into(),
            page_size: size,
            page_token: token.into(),
            name_prefix: prefix.into(),
            ..Default::default()
        };
        daemon.call(async |client| client.list_nics(request).await)
    };
    let first = list(&mut daemon, 2, "", "", "prod").unwrap();
    assert_eq!(names(&first), ["a", "c"]);
    // What goes and comes meanwhile moves no other one.
    for gone in ["a", "c"] {
        let request = DeleteNicRequest { id: gone.into(), ..Default::default() };
        daemon.call(async |client| client.delete_nic(request).await).unwrap();
    }
    daemon.nic("prod", "d");
    let second = list(&mut daemon, 2, &first.next_page_token, "", "prod").unwrap();
    assert_eq!(names(&second), ["d", "e"]);
    let third = list(&mut daemon, 2, &second.next_page_token, "", "prod").unwrap();
    assert_eq!((names(&third), &*third.next_page_token), (vec!["vm1", "vm2"], ""));
    assert_eq!(names(&list(&mut daemon, 0, "", "vm", "").unwrap()), ["vm1", "vm2"]);
    let all = list(&mut daemon, 0, "", "", "").unwrap();
    assert_eq!((all.nics.len(), &*all.next_page_token), (5, ""), "as ever without a page_size");
    let refused = list(&mut daemon, 2, "no/token", "", "").unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let request = ListNetworksRequest { page_size: 1, ..Default::default() };
    let page = daemon.call(async |client| client.list_networks(request).await).unwrap();
    assert_eq!((&*page.networks[0].name, &*page.next_page_token), ("prod", "prod"));
}

#[test]
fn a_page_is_what_a_stock_client_takes() {
    let mut daemon = Daemon::start();
    daemon.network_with("prod", |r| r.ipv4_subnet = "10.0.0.0/16".into());
    for n in 0..260 {
        daemon.nic_with("prod", &format!("n{n:03}"), |r| {
            r.labels = (0..64).map(|m| (format!("label{m}"), "x".repeat(255))).collect();
        });
    }
    // Stock clients take 4 MiB.
    let all = ListNicsRequest::default();
    let refused = daemon.call(async |client| client.list_nics(all).await).unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let (mut token, mut seen) = (String::new(), 0);
    loop {
        let request = ListNicsRequest { page_size: 1000, page_token: token, ..Default::default() };
        let page = daemon.call(async |client| client.list_nics(request).await).unwrap();
        seen += page.nics.len();
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, 260);
}

/// The next event, or none for a while.
async fn next(events: &mut tonic::Streaming<NicEvent>) -> Option<NicEvent> {
    timeout(PATIENCE, events.message()).await.expect("an event").unwrap()
}

#[test]
fn a_watcher_knows_when_it_has_seen_all() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let other = daemon.network("test");
    let nic = daemon.nic("prod", "a");
    daemon.nic("test", "b");
    daemon.block_on(async |client| {
        let request = WatchNicsRequest { network_id: "prod".into(), mark_synced: true };
        let mut events = client.watch_nics(request).await.unwrap().into_inner();
        let first = next(&mut events).await.unwrap();
        assert_eq!((first.nic_id, first.synced), (nic.id.clone(), false));
        let mark = next(&mut events).await.unwrap();
        assert_eq!((&*mark.nic_id, mark.nic, mark.synced), ("", None, true));
        // Of another network nothing is told, not even an end.
        let delete =
            DeleteNetworkRequest { id: other.id.clone(), force: true, ..Default::default() };
        client.delete_network(delete).await.unwrap();
        let delete = DeleteNicRequest { id: "a".into(), ..Default::default() };
        client.delete_nic(delete).await.unwrap();
        let gone = next(&mut events).await.unwrap();
        assert_eq!((gone.nic_id, gone.nic, gone.synced), (nic.id.clone(), None, false));
        // An empty list is complete, too.
        let request = WatchNicsRequest { network_id: "prod".into(), mark_synced: true };
        let mut events = client.watch_nics(request).await.unwrap().into_inner();
        assert!(next(&mut events).await.unwrap().synced);
        let request = WatchNetworksRequest { mark_synced: true };
        let mut networks = client.watch_networks(request).await.unwrap().into_inner();
        assert_eq!(networks.message().await.unwrap().unwrap().network.unwrap().name, "prod");
        assert!(networks.message().await.unwrap().unwrap().synced);
        let request = WatchNicsRequest { network_id: "nowhere".into(), ..Default::default() };
        let refused = client.watch_nics(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
    });
}

#[test]
fn a_vmm_that_toggles_its_rings_disconnects_no_watcher() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "hostile");
    let mut guest = crate::guest::Guest::connect(&nic);
    guest.lease();
    daemon.wait_for_state("hostile", NicState::Active);
    let mut events = daemon.block_on(async |client| {
        client.watch_nics(WatchNicsRequest::default()).await.unwrap().into_inner()
    });
    // Twice the backlog of a watcher that does not read.
    let Driver { frontend, .. } = &mut guest.driver;
    for n in 0..4096 {
        frontend.set_vring_enable(0, n % 2 == 1).unwrap();
    }
    // A change that lasts comes through, and not after thousands of others.
    drop(guest);
    daemon.wait_for_state("hostile", NicState::Created);
    let request = DeleteNicRequest { id: "hostile".into(), ..Default::default() };
    daemon.call(async |client| client.delete_nic(request).await).unwrap();
    let told = daemon.block_on(async |_| {
        let mut told = Vec::new();
        while let Some(nic) = next(&mut events).await.unwrap().nic {
            told.push(nic.state());
        }
        told
    });
    assert!(told.len() < 200, "{} events", told.len());
    assert_eq!(told[0], NicState::Active, "the present");
}

#[test]
fn watches_have_a_limit() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.block_on(async |client| {
        // Nobody reads; of one connection 64 requests are carried out at once.
        let mut held = Vec::new();
        for _ in 0..32 {
            held.push(client.watch_nics(WatchNicsRequest::default()).await.unwrap());
        }
        let list = client.list_nics(ListNicsRequest::default());
        timeout(Duration::from_secs(5), list).await.unwrap().unwrap();
    });
    let path = daemon.path("api");
    let refused = daemon.block_on(async |_| {
        let mut clients = Vec::new();
        let mut held = Vec::new();
        for n in 0..257 {
            if n % 32 == 0 {
                clients.push(crate::daemon::client(&path).await.unwrap());
            }
            let client = clients.last_mut().unwrap();
            match client.watch_nics(WatchNicsRequest::default()).await {
                Ok(stream) => held.push(stream),
                Err(status) => return Some((n, status)),
            }
        }
        None
    });
    let (number, status) = refused.unwrap();
    assert_eq!((number, status.code()), (256, Code::ResourceExhausted), "{status}");
    assert!(status.message().contains("256 watches"), "{status}");
    // Those that end make room.
    daemon.block_on(async |client| {
        let watch = async || client.clone().watch_nics(WatchNicsRequest::default()).await;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while watch().await.is_err() {
            assert!(tokio::time::Instant::now() < deadline);
        }
    });
}

#[test]
fn a_deletion_that_nobody_waits_for_is_complete() {
    let mut daemon = Daemon::start();
    let mut random = crate::random::Random::new();
    // But for locks.
    let files = |daemon: &Daemon| {
        let names = std::fs::read_dir(daemon.path("s")).unwrap().map(|e| e.unwrap().file_name());
        names.filter(|name| !name.to_string_lossy().starts_with('.')).count()
    };
    let stored = |daemon: &Daemon| std::fs::read_dir(daemon.path("m/nics")).unwrap().count();
    for round in 0..10 {
        daemon.network("prod");
        for n in 0..30 {
            daemon.nic("prod", &format!("n{n}"));
        }
        let patience = Duration::from_micros(random.below(3000));
        daemon.block_on(async |client| {
            if round % 2 == 0 {
                let id = "prod".to_owned();
                let request = DeleteNetworkRequest { id, force: true, ..Default::default() };
                timeout(patience, client.delete_network(request)).await.ok();
            } else {
                for n in 0..30 {
                    let request = DeleteNicRequest { id: format!("n{n}"), ..Default::default() };
                    timeout(patience / 10, client.delete_nic(request)).await.ok();
                }
            }
        });
        // Those that were on their way are carried out, or never begin.
        wait_until("what there is has a socket and a file, and nothing else has", || {
            let request = ListNicsRequest::default();
            let there = daemon.call(async |client| client.list_nics(request).await).unwrap().nics;
            there.iter().all(|nic| Path::new(&nic.socket_path).exists())
                && (files(&daemon), stored(&daemon)) == (there.len(), there.len())
        });
        let request = DeleteNetworkRequest { id: "prod".into(), force: true, ..Default::default() };
        daemon.call(async |client| client.delete_network(request).await).ok();
        wait_until("nothing is left", || (files(&daemon), stored(&daemon)) == (0, 0));
    }
}
