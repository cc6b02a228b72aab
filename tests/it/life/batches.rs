//! Many changes that wait at the same time, on a disk that fails or a daemon that is killed
//! between any two of them: what was answered well is there, and every object is whole.

use super::storage::{Fault, Faults};
use crate::daemon::Daemon;
use mvirt_net::proto::{CreateNicRequest, ListNicsRequest, Nic};
use std::collections::{BTreeMap, BTreeSet};
use tokio::task::JoinSet;

/// What a connection may ask at a time.
const AT_ONCE: usize = 64;

/// Creates vNICs with these numbers, all at the same time. Returns those that were answered well.
fn create(
    daemon: &mut Daemon,
    numbers: std::ops::Range<usize>,
) -> BTreeMap<String, Result<Nic, tonic::Status>> {
    daemon.block_on(async |client| {
        let mut waiting = JoinSet::new();
        for number in numbers {
            let mut client = client.clone();
            let name = format!("n{number}");
            let request = CreateNicRequest {
                network_id: "prod".into(),
                name: name.clone(),
                ..Default::default()
            };
            waiting.spawn(async move {
                (name, client.create_nic(request).await.map(tonic::Response::into_inner))
            });
        }
        waiting.join_all().await.into_iter().collect()
    })
}

/// The vNICs that are there, each with its address.
fn listed(daemon: &mut Daemon) -> BTreeMap<String, String> {
    let list = daemon.call(async |client| client.list_nics(ListNicsRequest::default()).await);
    list.unwrap().nics.into_iter().map(|nic| (nic.name, nic.ipv4_address)).collect()
}

fn answered(outcome: &BTreeMap<String, Result<Nic, tonic::Status>>) -> BTreeMap<String, String> {
    let well = outcome.iter().filter_map(|(name, nic)| Some((name, nic.as_ref().ok()?)));
    well.map(|(name, nic)| (name.clone(), nic.ipv4_address.clone())).collect()
}

#[test]
fn a_disk_that_fails_changes_nothing_for_all_who_wait() {
    let (faults, mut daemon) = Faults::start();
    daemon.network("prod");
    faults.set(1, Fault::Errors(libc::EROFS));
    let refused = create(&mut daemon, 0..AT_ONCE);
    assert_eq!(refused.len(), AT_ONCE);
    for outcome in refused.values() {
        assert_eq!(outcome.as_ref().unwrap_err().code(), tonic::Code::Internal);
    }
    assert!(listed(&mut daemon).is_empty());
    assert_eq!(std::fs::read_dir(daemon.path("m/nics")).unwrap().count(), 0);
    faults.set(0, Fault::Kill);
    let created = answered(&create(&mut daemon, 0..AT_ONCE));
    let addresses: BTreeSet<_> = created.values().cloned().collect();
    let expected: BTreeSet<_> = (1..=AT_ONCE).map(|n| format!("10.0.0.{n}")).collect();
    assert_eq!(addresses, expected, "none was lost to those that failed");
    daemon.crash_and_restart();
    assert_eq!(listed(&mut daemon), created);
}

#[test]
fn a_call_that_fails_costs_at_most_the_change_it_is_of() {
    let (faults, mut daemon) = Faults::start();
    daemon.network("prod");
    let mut first = 0;
    for call in (1..60).step_by(7) {
        faults.set(call, Fault::Error(libc::EIO));
        let outcome = create(&mut daemon, first..first + 16);
        faults.set(0, Fault::Kill);
        let well = answered(&outcome);
        assert!(well.len() >= 15, "call {call}: {} of 16", well.len());
        let there = listed(&mut daemon);
        assert!(well.iter().all(|(name, address)| there.get(name) == Some(address)));
        let asked = outcome.keys().filter(|name| there.contains_key(*name)).count();
        assert_eq!(asked, well.len(), "call {call}: what was refused is not there");
        daemon.crash_and_restart();
        assert_eq!(listed(&mut daemon), there, "call {call}");
        first += 16;
    }
    assert!(!daemon.log().contains("it may be in force after a restart"));
}

#[test]
fn a_kill_between_changes_leaves_whole_ones() {
    let (faults, mut daemon) = Faults::start();
    daemon.network("prod");
    let (mut there, mut first) = (BTreeMap::new(), 0);
    for call in (1..90).step_by(8) {
        faults.set(call, Fault::Kill);
        let well = answered(&create(&mut daemon, first..first + 24));
        faults.set(0, Fault::Kill);
        assert!(well.len() < 24, "call {call}: it was killed");
        daemon.start_again_after_its_end();
        there.extend(well);
        let found = listed(&mut daemon);
        assert!(there.iter().all(|(name, address)| found.get(name) == Some(address)), "{call}");
        let addresses: BTreeSet<_> = found.values().collect();
        assert_eq!(addresses.len(), found.len(), "each has an address of its own");
        assert_eq!(std::fs::read_dir(daemon.path("m/quarantine")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(daemon.path("m/nics")).unwrap().count(), found.len());
        (there, first) = (found, first + 24);
    }
}
