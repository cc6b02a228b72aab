//! What the disk may do to what is stored: read-only, full, out of descriptors, damaged. What is
//! stored is served, what cannot be stored is refused, and somebody is told.

use super::storage::{Fault, Faults};
use crate::{
    daemon::{Daemon, wait_until},
    events::kept,
    guest::Guest,
};
use mvirt_net::proto::{
    DeleteNicRequest, GetVersionRequest, ListNicsRequest, Nic, NicState, Severity, UpdateNicRequest,
};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use std::path::Path;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

fn degraded(daemon: &mut Daemon) -> Vec<String> {
    daemon.call(async |client| client.get_version(GetVersionRequest {}).await).unwrap().degraded
}

fn health(daemon: &mut Daemon, service: &str) -> ServingStatus {
    let path = daemon.path("api");
    daemon.block_on(async |_| {
        let channel = crate::daemon::channel(&path).await.unwrap();
        let request = HealthCheckRequest { service: service.into() };
        HealthClient::new(channel).check(request).await.unwrap().into_inner().status()
    })
}

fn nics(daemon: &mut Daemon, network: &str) -> Vec<Nic> {
    let request = ListNicsRequest { network_id: network.into(), ..Default::default() };
    daemon.call(async |client| client.list_nics(request).await).unwrap().nics
}

#[test]
fn a_read_only_disk_is_served_and_changes_are_refused() {
    let (faults, mut daemon) = Faults::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "a");
    assert_eq!(degraded(&mut daemon), [""; 0]);
    assert_eq!(health(&mut daemon, "mvirt.net.changes"), ServingStatus::Serving);
    faults.set(1, Fault::Errors(libc::EROFS));
    daemon.crash_and_restart();
    assert_eq!(daemon.get_nic("a").ipv4_address, nic.ipv4_address);
    assert_eq!(Guest::connect(&nic).lease().0, "10.0.0.1/32");
    let refused = daemon.try_nic_with("prod", "b", |_| {}).unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "NOT_STORED");
    assert!(refused.message().contains("Read-only file system"), "{refused}");
    let request = DeleteNicRequest { id: "a".into(), ..Default::default() };
    let refused = daemon.call(async |client| client.delete_nic(request).await).unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    let told = degraded(&mut daemon);
    assert!(told[0].starts_with("changes are refused: ") && told.len() == 1, "{told:?}");
    assert_eq!(health(&mut daemon, "mvirt.net.changes"), ServingStatus::NotServing);
    assert_eq!(health(&mut daemon, "mvirt.net.NetService"), ServingStatus::Serving);
    let warned = |line: &str| line.contains("WARN") && line.contains("a change cannot be stored");
    assert!(daemon.log().lines().any(warned));
    let told = kept(&mut daemon, "", &["store"]);
    assert!(told.len() == 1 && told[0].severity() == Severity::Error, "{told:?}");
    // It is noticed, without a request, when the disk takes changes again.
    faults.set(0, Fault::Kill);
    wait_until("changes can be stored", || degraded(&mut daemon).is_empty());
    assert_eq!(health(&mut daemon, "mvirt.net.changes"), ServingStatus::Serving);
    assert_eq!(kept(&mut daemon, "", &["store"])[1].text, "changes can be stored again");
    daemon.nic("prod", "b");
    daemon.crash_and_restart();
    assert_eq!(nics(&mut daemon, "prod").len(), 2);
}

#[test]
fn without_descriptors_a_deletion_happens_and_a_creation_does_not() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.nic("prod", "a");
    daemon.nic("prod", "b");
    let pid = Pid::from_raw(daemon.pid() as i32);
    let few = Rlimit { current: Some(3), ..getrlimit(Resource::Nofile) };
    let before = prlimit(pid, Resource::Nofile, few).unwrap();
    let refused = daemon.try_nic_with("prod", "c", |_| {}).unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    assert!(refused.message().contains("Too many open files"), "{refused}");
    let request = DeleteNicRequest { id: "a".into(), ..Default::default() };
    daemon.call(async |client| client.delete_nic(request).await).unwrap();
    let request = UpdateNicRequest {
        id: "b".into(),
        routed_ipv4_prefixes: vec!["10.7.0.0/16".into()],
        ..Default::default()
    };
    daemon.call(async |client| client.update_nic(request).await).unwrap_err();
    let before_the_end = nics(&mut daemon, "prod");
    prlimit(pid, Resource::Nofile, before).unwrap();
    daemon.crash_and_restart();
    let names: Vec<_> = nics(&mut daemon, "prod").into_iter().map(|nic| nic.name).collect();
    assert_eq!(names, ["b"]);
    assert_eq!(nics(&mut daemon, "prod"), before_the_end);
    assert!(!daemon.log().contains("it may be in force after a restart"));
}

#[test]
fn a_change_that_is_only_checked_hides_no_error() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "a");
    daemon.terminate();
    // What cannot be replaced by a socket.
    std::fs::create_dir_all(&nic.socket_path).unwrap();
    daemon.start_again();
    let seen = daemon.get_nic("a");
    assert!(seen.error.contains("its socket cannot be made"), "{seen:?}");
    let request = UpdateNicRequest {
        id: "a".into(),
        description: "changed".into(),
        update_mask: Some(prost_types::FieldMask { paths: vec!["description".into()] }),
        validate_only: true,
        ..Default::default()
    };
    let checked = daemon.call(async |client| client.update_nic(request).await).unwrap();
    assert_eq!(checked.description, "changed");
    let told = (checked.state(), &checked.error, &checked.guest);
    assert_eq!(told, (NicState::Error, &seen.error, &seen.guest));
}

#[test]
fn vnics_of_a_damaged_network_stay_and_come_back() {
    let mut daemon = Daemon::start();
    let network = daemon.network("prod");
    let other = daemon.network("other");
    let made = ["a", "b", "c"].map(|name| daemon.nic("prod", name));
    let safe = daemon.nic("other", "safe");
    let file = daemon.path("m/networks").join(format!("{}.json", network.id));
    let sound = std::fs::read(&file).unwrap();
    let mut octets = sound.clone();
    octets[100] ^= 1;
    std::fs::write(&file, &octets).unwrap();
    daemon.crash_and_restart();
    // They are seen, with the reason and the way out, by all who look.
    let found = nics(&mut daemon, "");
    assert_eq!(found.iter().map(|nic| &*nic.name).collect::<Vec<_>>(), ["a", "b", "c", "safe"]);
    assert_eq!(nics(&mut daemon, &network.id).len(), 3);
    let a = daemon.get_nic("a");
    assert_eq!((a.state(), &a.ipv4_address), (NicState::Error, &made[0].ipv4_address));
    assert!(a.error.contains(&network.id) && a.error.contains("create the network"), "{}", a.error);
    assert_eq!(daemon.get_nic("safe").state(), NicState::Created);
    let told = degraded(&mut daemon).join("\n");
    assert!(told.contains("3 vNICs are not served") && told.contains("1 file of"), "{told}");
    assert_eq!(health(&mut daemon, "mvirt.net.changes"), ServingStatus::NotServing);
    daemon.says("vNIC not served: its network is not there");
    assert_eq!(std::fs::read_dir(daemon.path("m/nics")).unwrap().count(), 4);
    // Nothing but a deletion can be done to them, and their names are theirs.
    let request = UpdateNicRequest { id: "a".into(), ..Default::default() };
    let refused = daemon.call(async |client| client.update_nic(request).await).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "NOT_SERVED");
    let refused = daemon.try_nic_with("other", "a", |_| {}).unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    let request = DeleteNicRequest { id: "c".into(), ..Default::default() };
    daemon.call(async |client| client.delete_nic(request).await).unwrap();
    // Another start finds the same; a network made anew with the id has them back.
    daemon.crash_and_restart();
    assert_eq!(nics(&mut daemon, &network.id).len(), 2);
    let again = daemon.network_with("prod", |r| r.id = network.id.clone());
    assert_eq!(again.nic_count, 2);
    let a = daemon.get_nic("a");
    assert_eq!((a.state(), &*a.network_name), (NicState::Created, "prod"));
    assert_eq!(Guest::connect(&a).lease().0, "10.0.0.1/32");
    assert_eq!(degraded(&mut daemon), [""; 0]);
    assert_eq!(daemon.nic("prod", "d").ipv4_address, "10.0.0.3");
    // So does its file, if it comes back.
    std::fs::write(&file, b"{ torn").unwrap();
    daemon.crash_and_restart();
    assert_eq!(daemon.get_nic("b").state(), NicState::Error);
    std::fs::write(&file, &sound).unwrap();
    daemon.crash_and_restart();
    assert_eq!(daemon.get_nic("b").state(), NicState::Created);
    assert!(Path::new(&daemon.get_nic("b").socket_path).exists());
    assert_eq!(daemon.get_nic("safe").network_id, other.id);
    assert_eq!(daemon.get_nic("safe").ipv4_address, safe.ipv4_address);
}

#[test]
fn a_change_is_durable_before_it_is_answered() {
    let (faults, mut daemon) = Faults::start();
    // Who is answered finds that the start, which looks at the disk, is over.
    degraded(&mut daemon);
    faults.trail();
    daemon.network("prod");
    // Opened, written, synced, renamed, and the folder synced.
    assert_eq!(faults.trail(), "owfrd");
    daemon.nic("prod", "a");
    assert_eq!(faults.trail(), "owfrd");
    let request = UpdateNicRequest {
        id: "a".into(),
        routed_ipv4_prefixes: vec!["10.7.0.0/16".into()],
        ..Default::default()
    };
    daemon.call(async |client| client.update_nic(request).await).unwrap();
    assert_eq!(faults.trail(), "owfrd");
    let request = DeleteNicRequest { id: "a".into(), ..Default::default() };
    daemon.call(async |client| client.delete_nic(request).await).unwrap();
    assert_eq!(faults.trail(), "rdu", "renamed, and the folder synced");
}
