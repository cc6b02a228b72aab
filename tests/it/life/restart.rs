//! VMMs come and go, and so may the daemon: addresses, sockets and traffic come back without
//! anyone's help.

use crate::{
    daemon::{Daemon, wait_until},
    frames::{Udp4, is_udp4},
    guest::{Driver, Guest, PLAIN},
};
use mvirt_net::proto::NicState;
use std::{
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
};
use vhost::VhostBackend as _;

#[test]
fn a_vmm_may_leave_and_come_back() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "vm1");
    assert_eq!(nic.state(), NicState::Created);
    for _ in 0..20 {
        let mut guest = Guest::connect(&nic);
        assert_eq!(guest.lease().0, "10.0.0.1/32");
        daemon.wait_for_state("vm1", NicState::Active);
        drop(guest);
        daemon.wait_for_state("vm1", NicState::Created);
    }
    let _guest = Guest::connect(&nic);
    wait_until("a state that lasts is told as people say it", || {
        daemon.log().contains("vNIC changed nic=\"vm1\" state=\"active\"")
    });
}

#[test]
fn everything_survives_kill_9() {
    let mut daemon = Daemon::start();
    let network = daemon.network("prod");
    let (nic_a, nic_b) = (daemon.nic("prod", "a"), daemon.nic("prod", "b"));
    let (mut a, mut b) = (Guest::connect(&nic_a), Guest::connect(&nic_b));
    for (round, base) in [(0_u32, 0_u16), (1, 0xdead), (2, 0)] {
        let before = round.to_be_bytes();
        a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", &before).frame());
        b.expect("frames flow before", |frame| is_udp4(frame, &before));
        daemon.crash_and_restart();
        assert_eq!(daemon.get_nic("a").ipv4_address, nic_a.ipv4_address);
        let found = daemon
            .call(async |client| {
                client.list_networks(mvirt_net::proto::ListNetworksRequest::default()).await
            })
            .unwrap();
        assert_eq!(
            (found.networks[0].id.clone(), found.networks[0].nic_count),
            (network.id.clone(), 2)
        );
        // Whatever position the VMM tells: the used index in memory is the truth.
        a.driver.reconnect(Path::new(&nic_a.socket_path), base);
        b.driver.reconnect(Path::new(&nic_b.socket_path), base);
        let after = (1000 + round).to_be_bytes();
        a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", &after).frame());
        b.expect("frames flow after", |frame| is_udp4(frame, &after));
    }
}

#[test]
fn a_daemon_that_is_told_to_end_cleans_up() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "vm1");
    let _guest = Guest::connect(&nic);
    let mode = std::fs::metadata(&nic.socket_path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let pid = rustix::process::Pid::from_raw(daemon.pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    assert_eq!(
        daemon.get_nic("vm1").ipv4_address,
        "10.0.0.1",
        "a closed terminal is no reason to end"
    );
    let began = std::time::Instant::now();
    assert_eq!(daemon.terminate().exit_status(), Some(0));
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(!Path::new(&nic.socket_path).exists());
    assert!(!daemon.path("api").exists());
}

#[test]
fn a_deleted_vnic_leaves_nothing() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let before = daemon.descriptors();
    for _ in 0..10 {
        let nic = daemon.nic("prod", "vm1");
        let guest = Guest::connect(&nic);
        let request = mvirt_net::proto::DeleteNicRequest { id: "vm1".into(), ..Default::default() };
        daemon.call(async |client| client.delete_nic(request).await).unwrap();
        assert!(!Path::new(&nic.socket_path).exists());
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", daemon.pid())).unwrap();
        assert!(!maps.contains("memfd:guest"), "its memory is unmapped before the answer");
        drop(guest);
    }
    assert_eq!(daemon.descriptors(), before);
    assert_eq!(daemon.nic("prod", "vm1").ipv4_address, "10.0.0.1", "its address is free again");
}

#[test]
fn corrupt_metadata_is_set_aside_and_the_rest_served() {
    let mut daemon = Daemon::start();
    let keep = daemon.network("keep");
    let lose = daemon.network("lose");
    std::fs::write(daemon.path("m/networks").join(format!("{}.json", lose.id)), b"{ torn").unwrap();
    daemon.crash_and_restart();
    let found = daemon
        .call(async |client| {
            client.list_networks(mvirt_net::proto::ListNetworksRequest::default()).await
        })
        .unwrap();
    assert_eq!(found.networks.iter().map(|n| &n.id).collect::<Vec<_>>(), [&keep.id]);
    assert_eq!(std::fs::read_dir(daemon.path("m/quarantine")).unwrap().count(), 1);
    daemon.says("metadata set aside");
}

#[test]
fn a_change_that_cannot_be_stored_is_refused_and_leaves_no_trace() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let a = daemon.nic("prod", "a");
    let (here, away) = (daemon.path("m/nics"), daemon.path("m/away"));
    std::fs::rename(&here, &away).unwrap();
    let refused = daemon.try_nic_with("prod", "b", |_| {}).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Internal);
    assert!(refused.message().contains(&*here.to_string_lossy()), "{refused}");
    let request = mvirt_net::proto::DeleteNicRequest { id: "a".into(), ..Default::default() };
    let refused = daemon.call(async |client| client.delete_nic(request).await).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Internal);
    let limit = mvirt_net::proto::RateLimit { packets_per_second: 7, ..Default::default() };
    let request = mvirt_net::proto::SetNicLimitsRequest {
        id: "a".into(),
        from_guest: Some(limit),
        ..Default::default()
    };
    assert!(daemon.call(async |client| client.set_nic_limits(request).await).is_err());
    let request = mvirt_net::proto::ListNicsRequest::default();
    let found = daemon.call(async |client| client.list_nics(request).await).unwrap().nics;
    assert_eq!(found, [a], "as it was");
    let socket = |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|e| e == "sock");
    let sockets = std::fs::read_dir(daemon.path("s")).unwrap().flatten().filter(socket);
    assert_eq!(sockets.count(), 1, "and no socket of b");
    std::fs::rename(&away, &here).unwrap();
    assert_eq!(daemon.nic("prod", "b").ipv4_address, "10.0.0.2");
    daemon.crash_and_restart();
    assert_eq!(daemon.get_nic("b").ipv4_address, "10.0.0.2");
    assert_eq!(daemon.get_nic("a").ipv4_address, "10.0.0.1");
}

#[test]
fn a_vnic_offers_what_it_was_made_with() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "old");
    let offered = |socket: &str| {
        Driver::memory_only(Path::new(socket), PLAIN, 2048).frontend.get_features().unwrap()
    };
    let now = offered(&nic.socket_path);
    // As an earlier version stored it, which had fewer.
    let path = daemon.path("m/nics").join(format!("{}.json", nic.id));
    let mut file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    file["body"]["features"] = PLAIN.into();
    let body = serde_json::to_vec(&file["body"]).unwrap();
    file["crc32c"] = format!("{:08x}", crc32c::crc32c(&body)).into();
    std::fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
    daemon.crash_and_restart();
    // VMMs refuse to come back if anything is missing; what is new would be offered to new guests
    // only.
    const LOG_ALL: u64 = 1 << 26;
    assert_eq!(offered(&nic.socket_path), PLAIN | LOG_ALL);
    let new = daemon.nic("prod", "new");
    assert_eq!(offered(&new.socket_path), now);
    assert!(daemon.hand_over());
    assert_eq!(offered(&nic.socket_path), PLAIN | LOG_ALL);
}

/// A VMM that dials as soon as its connection ends, as Cloud Hypervisor does; true if that reached
/// the process that dies.
fn dials_at_once(socket: &Path, mut stream: UnixStream) -> bool {
    while stream.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
    UnixStream::connect(socket).is_ok()
}

#[test]
fn a_vmm_that_dials_at_once_never_reaches_the_daemon_that_dies() {
    const VNICS: usize = 8;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let script = folder.path().join("few");
    let binary = env!("CARGO_BIN_EXE_mvirt-net");
    std::fs::write(&script, format!("#!/bin/sh\nulimit -n 4096 && exec {binary} \"$@\"\n"))
        .unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut daemon = Daemon::start_binary(&script, &["--reactors", "1"]);
    daemon.network("prod");
    let nics: Vec<_> = (0..VNICS).map(|n| daemon.nic("prod", &format!("vm{n}"))).collect();
    let mut reached = 0;
    for _ in 0..20 {
        // What answers has opened its sockets.
        daemon.get_nic("vm0");
        let connect = |nic: &mvirt_net::proto::Nic| {
            let mut stream = UnixStream::connect(&nic.socket_path).unwrap();
            // GET_FEATURES, and its answer.
            stream.write_all(&[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
            stream.read_exact(&mut [0; 20]).unwrap();
            stream
        };
        let streams: Vec<_> = nics.iter().map(connect).collect();
        std::thread::scope(|scope| {
            let dial = |(nic, stream): (&mvirt_net::proto::Nic, _)| {
                let socket = nic.socket_path.clone();
                scope.spawn(move || dials_at_once(Path::new(&socket), stream))
            };
            let dials: Vec<_> = nics.iter().zip(streams).map(dial).collect();
            daemon.kill();
            reached += dials
                .into_iter()
                .map(|dial| dial.join().unwrap())
                .filter(|reached| *reached)
                .count();
        });
        daemon.start_again_after_its_end();
    }
    assert_eq!(reached, 0, "of {}", 20 * VNICS);
}
