//! What strangers and clients do to the API, and VMMs to its clients.

use super::{
    rig::{Rig, Shape, words},
    stage::{DAEMON, Stage},
};
use crate::{
    certificates::{authority, certify},
    daemon::{Daemon, wait_until},
    guest::PLAIN,
    random::Random,
    rude::{AT_ONCE, Rude, list, masked},
};
use mvirt_net::proto::{
    CreateNetworkRequest, DeleteNetworkRequest, DeleteNicRequest, ListNicsRequest, WatchNicsRequest,
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mknodat, open},
    pipe::fcntl_setpipe_size,
    process::{Gid, Uid},
    thread::{set_thread_res_gid, set_thread_res_uid},
};
use std::{
    fs,
    net::TcpStream,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};
use vhost::vhost_user::message::FrontendReq as Ask;

/// Connections of strangers.
const STRANGERS: usize = 1000;
/// The share of a CPU that a daemon may take which can accept nobody, in per cent.
const SPINNING: u128 = 25;

/// The port at which a daemon listens beside its socket.
fn port(daemon: &Daemon) -> u16 {
    let mut port = None;
    wait_until("the daemon tells its address", || {
        let log = daemon.log();
        let digits = log.split("0.0.0.0:").nth(1).or(log.split("127.0.0.1:").nth(1));
        let digits: String =
            digits.unwrap_or("").chars().take_while(char::is_ascii_digit).collect();
        port = digits.parse().ok();
        port.is_some()
    });
    port.unwrap()
}

/// Connects so often, and says nothing.
fn strangers(daemon: &Daemon, count: usize) -> Vec<TcpStream> {
    let port = port(daemon);
    (0..count).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect()
}

/// Strangers come, innocents are served, and nothing of the strangers is left after a while.
fn are_turned_out(stage: &mut Stage) {
    let before = stage.daemon.descriptors();
    let strangers = strangers(&stage.daemon, STRANGERS);
    stage.carry(|since| since > Duration::from_secs(1)).assert_harmless();
    wait_until("the strangers are turned out", || stage.daemon.descriptors() <= before + 8);
    drop(strangers);
}

#[test]
fn strangers_that_never_begin_are_turned_out() {
    are_turned_out(&mut Stage::set_with(&["--listen", "127.0.0.1:0"]));
}

#[test]
fn strangers_that_never_finish_tls_are_turned_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let ours = authority();
    fs::write(path("ca.pem"), ours.pem()).unwrap();
    certify(&ours, folder.path(), "server");
    let [cert, key, ca] = ["server.pem", "server.key", "ca.pem"].map(path);
    let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca];
    are_turned_out(&mut Stage::set_with(&[&["--listen", "0.0.0.0:0"], &tls[..]].concat()));
}

/// The daemon's binary behind a line of shell.
fn behind(folder: &Path, line: &str) -> PathBuf {
    let path = folder.join("daemon");
    fs::write(&path, format!("#!/bin/sh\n{line}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_daemon_without_descriptors_serves_those_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let binary = behind(folder.path(), &format!("ulimit -n 128; exec {DAEMON} \"$@\""));
    let mut stage = Stage::set_binary(&binary, &["--reactors", "1", "--listen", "127.0.0.1:0"], 1);
    let late = stage.daemon.nic("innocent", "late");
    let _strangers = strangers(&stage.daemon, 300);
    let busy = stage.daemon.cpu_time();
    stage.carry(|since| since > Duration::from_secs(2)).assert_harmless();
    let busy = stage.daemon.cpu_time() - busy;
    assert!(busy.as_millis() <= 2000 * SPINNING / 100, "{busy:?} of CPU time in two seconds");
    wait_until("a VMM is served", || Rig::asking(&late).is_ok());
    let request = DeleteNicRequest { id: "late".into(), ..Default::default() };
    stage.daemon.call(async |client| client.delete_nic(request).await).unwrap();
}

/// Whether there is a socket for each vNIC, and no other.
fn has_its_sockets(daemon: &mut Daemon) -> bool {
    let request = ListNicsRequest::default();
    let nics = daemon.call(async |client| client.list_nics(request).await).unwrap().nics;
    let entries = fs::read_dir(daemon.path("s")).unwrap().map(|entry| entry.unwrap().path());
    let sockets = entries.filter(|path| path.extension().is_some_and(|e| e == "sock")).count();
    sockets == nics.len() && nics.iter().all(|nic| UnixStream::connect(&nic.socket_path).is_ok())
}

#[test]
fn a_deletion_that_is_cancelled_leaves_nothing_half_there() {
    let mut random = Random::new();
    let mut stage = Stage::set();
    let daemon = &mut stage.daemon;
    for round in 0..6 {
        let network = format!("doomed{round}");
        daemon.network(&network);
        let names: Vec<_> = (0..100).map(|n| format!("{network}-{n}")).collect();
        names.iter().for_each(|name| drop(daemon.nic(&network, name)));
        for name in &names[..5] {
            let patience = Duration::from_micros(random.below(3_000));
            let (runtime, mut client) = daemon.another_client();
            let deleting =
                client.delete_nic(DeleteNicRequest { id: name.clone(), ..Default::default() });
            runtime.block_on(async { tokio::time::timeout(patience, deleting).await.ok() });
            // With the connection: the daemon hears of it at once.
            drop(runtime);
        }
        let patience = Duration::from_micros(random.below(30_000));
        let (runtime, mut client) = daemon.another_client();
        let deleting = client.delete_network(DeleteNetworkRequest {
            id: network,
            force: true,
            ..Default::default()
        });
        runtime.block_on(async { tokio::time::timeout(patience, deleting).await.ok() });
        drop(runtime);
        wait_until("each vNIC has its socket, and there are no others", || has_its_sockets(daemon));
    }
}

#[test]
fn a_vnic_that_comes_and_goes_disconnects_no_watcher() {
    let mut stage = Stage::set();
    let nic = stage.evil("evil");
    let rig = Rig::up(&nic, &Shape::new(PLAIN)).unwrap();
    let (toggled, heard) = (AtomicU64::new(0), AtomicU64::new(0));
    let (runtime, mut client) = stage.daemon.another_client();
    let seen = thread::scope(|scope| {
        let watching = scope.spawn(|| {
            runtime.block_on(async {
                let mut events = client.watch_nics(WatchNicsRequest::default()).await?.into_inner();
                while events.message().await?.is_some() {
                    heard.fetch_add(1, Relaxed);
                }
                Ok::<_, tonic::Status>(())
            })
        });
        let toggle = || {
            for n in 0..40 {
                rig.voice.say(Ask::SET_VRING_ENABLE, &words([0, n % 2]), &[]).ok();
            }
            toggled.fetch_add(40, Relaxed);
        };
        stage.play_and(toggle, |_| {
            assert!(!watching.is_finished(), "the watcher was disconnected: {:?}", watching.join());
        })
    });
    eprintln!("{toggled:?} changes, {heard:?} events");
    assert!(toggled.into_inner() > 8_000);
    seen.assert_harmless();
}

#[test]
fn who_is_turned_away_does_not_fill_the_log() {
    let mut stage = Stage::set_with(&["--allow-uid", "4321"]);
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs to become another user");
    }
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(stage.daemon.path(""), open).unwrap();
    let api = stage.daemon.path("api");
    let mut is_somebody = false;
    let before = stage.daemon.log().len();
    let mut told = 0;
    let seen = stage.play_and(
        || {
            if !std::mem::replace(&mut is_somebody, true) {
                // Of this thread alone.
                let (uid, gid) = (Uid::from_raw(4323), Gid::from_raw(4323));
                set_thread_res_gid(gid, gid, gid).unwrap();
                set_thread_res_uid(uid, uid, uid).unwrap();
            }
            (0..20).for_each(|_| drop(UnixStream::connect(&api)));
        },
        |stage| told = stage.daemon.log().len() - before,
    );
    eprintln!("{told} octets of log");
    assert!(told < 64 << 10, "{told} octets of log");
    seen.assert_harmless();
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let unread = folder.path().join("unread");
    mknodat(CWD, &unread, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let pipe = open(&unread, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()).unwrap();
    fcntl_setpipe_size(&pipe, 4096).unwrap();
    let line = format!("exec {DAEMON} \"$@\" 2>{}", unread.display());
    let binary = behind(folder.path(), &line);
    let mut stage = Stage::set_binary(&binary, &["--reactors", "1"], 1);
    let (runtime, mut client) = stage.daemon.another_client();
    let (mut made, name) = (0, "passing");
    let seen = stage.play(|| {
        let network = CreateNetworkRequest {
            name: name.into(),
            ipv4_subnet: "10.9.0.0/24".into(),
            ..Default::default()
        };
        let end = DeleteNetworkRequest { id: name.into(), force: true, ..Default::default() };
        made += u32::from(runtime.block_on(async {
            let calls =
                async { (client.create_network(network).await, client.delete_network(end).await) };
            tokio::time::timeout(Duration::from_secs(2), calls).await.is_ok()
        }));
    });
    eprintln!("{made} networks came and went");
    seen.assert_harmless();
}

#[test]
fn long_requests_and_lists_delay_nobody() {
    let mut stage = Stage::set();
    for n in 0..300 {
        stage.evil_with(&format!("large{n}"), |request| {
            request.labels = (0..64).map(|m| (format!("label{m}"), "x".repeat(255))).collect();
        });
    }
    let before = stage.memory();
    let rude = [(); 4].map(|()| Rude::connect(&stage.daemon));
    let (masked, mut grown) = (masked("large0"), 0);
    let act = || {
        let send = |rude: &Rude| {
            let updates = (1..AT_ONCE).map(|_| rude.send("UpdateNic", masked.clone()));
            updates.chain([rude.send("ListNics", list())]).collect()
        };
        let begun: Vec<Vec<_>> = rude.iter().map(send).collect();
        rude.iter().zip(begun).for_each(|(rude, begun)| rude.read(begun));
    };
    let seen = stage.play_and(act, |stage| grown = stage.memory().saturating_sub(before) >> 10);
    assert!(grown < 512, "{grown} MiB");
    seen.assert_harmless();
}
