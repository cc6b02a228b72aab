//! What stands still is noticed, and never keeps the daemon from ending.

use crate::daemon::{Daemon, PATIENCE, preload, wait_until};
use mvirt_net::proto::{CreateNetworkRequest, DeleteNetworkRequest, GetVersionRequest};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use std::{
    fs,
    io::Read as _,
    os::unix::net::{UnixDatagram, UnixStream},
    panic,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What a daemon may take to end, whatever hangs.
const END: Duration = Duration::from_secs(5);

/// A daemon whose threads and disk can be made to hang, and the socket on which systemd would hear
/// it.
fn hangable() -> (Daemon, UnixDatagram) {
    let library = preload("hang");
    let mut heard = None;
    let daemon = Daemon::start_with_environment(|directory| {
        let notify = directory.join("notify");
        heard = Some(UnixDatagram::bind(&notify).unwrap());
        vec![
            ("LD_PRELOAD", library),
            ("HANG", directory.join("hang")),
            ("NOTIFY_SOCKET", notify),
            ("WATCHDOG_USEC", "4000000".into()),
        ]
    });
    let heard = heard.unwrap();
    heard.set_read_timeout(Some(PATIENCE)).unwrap();
    (daemon, heard)
}

/// What systemd is told next.
fn next(heard: &UnixDatagram) -> String {
    let mut octets = [0; 512];
    let count = heard.recv(&mut octets).expect("systemd is told");
    String::from_utf8_lossy(&octets[..count]).into_owned()
}

/// Whether systemd has been told since that the daemon moves.
fn is_fed(heard: &UnixDatagram) -> bool {
    heard.set_nonblocking(true).unwrap();
    let mut octets = [0; 512];
    let told = std::iter::from_fn(|| heard.recv(&mut octets).ok().map(|_| ()));
    let count = told.count();
    heard.set_nonblocking(false).unwrap();
    count > 0
}

#[test]
fn a_daemon_whose_threads_hang_is_not_said_to_move_and_ends_when_told_to() {
    let (mut daemon, heard) = hangable();
    daemon.network("prod");
    let nic = daemon.nic("prod", "vm1");
    let mut vmm = UnixStream::connect(&nic.socket_path).unwrap();
    let fed = || next(&heard).contains("WATCHDOG=1");
    wait_until("the watchdog is fed", fed);
    fs::write(daemon.path("hang"), b"").unwrap();
    let still = || daemon.log().matches("sessions and the API did not answer").count();
    wait_until("that is noticed", || still() > 0);
    is_fed(&heard);
    wait_until("and again", || still() > 2);
    assert!(!is_fed(&heard), "systemd is to start the daemon again");
    let began = Instant::now();
    assert_eq!(daemon.terminate().exit_status(), Some(1));
    assert!(began.elapsed() < END, "{:?}", began.elapsed());
    daemon.says("leaving all the same");
    assert!(!Path::new(&nic.socket_path).exists() && !daemon.path("api").exists());
    assert_eq!(vmm.read(&mut [0]).unwrap(), 0, "VMMs are let go");
    fs::remove_file(daemon.path("hang")).unwrap();
    daemon.start_again();
    assert_eq!(daemon.get_nic("vm1").ipv4_address, nic.ipv4_address);
}

#[test]
fn a_slow_disk_is_no_reason_to_start_again() {
    let (mut daemon, heard) = hangable();
    // Its own start waits for the disk, too.
    wait_until("the watchdog is fed", || next(&heard).contains("WATCHDOG=1"));
    let disk = daemon.path("hang.disk");
    fs::write(&disk, b"").unwrap();
    let created = daemon.block_on(async |client| {
        let request = CreateNetworkRequest {
            name: "prod".into(),
            ipv4_subnet: "10.0.0.0/24".into(),
            ..Default::default()
        };
        let mut other = client.clone();
        let creating = other.create_network(request);
        let feeding = tokio::task::spawn_blocking(move || {
            // As often as systemd's patience has quarters.
            let fed = panic::catch_unwind(|| {
                for _ in 0..4 {
                    while !next(&heard).contains("WATCHDOG=1") {}
                }
            });
            // Also where that failed: the request is waiting.
            fs::remove_file(disk).unwrap();
            fed
        });
        let (created, fed) = tokio::join!(creating, feeding);
        fed.unwrap().unwrap();
        created
    });
    created.expect("it is stored in the end");
    assert!(!daemon.log().contains("did not answer"), "{}", daemon.log());
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let mut reader = None;
    let mut daemon = Daemon::start_with_environment(|directory| {
        let log = directory.join("log");
        mknodat(CWD, &log, FileType::Fifo, Mode::RWXU, 0).unwrap();
        reader = Some(open(&log, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap());
        vec![]
    });
    // A test that fails reads the log.
    fs::rename(daemon.path("log"), daemon.path("unread")).unwrap();
    fs::write(daemon.path("log"), b"").unwrap();
    let mut longest = Duration::ZERO;
    // More than the pipe holds, in lines of a hundred octets each.
    for _ in 0..500 {
        let began = Instant::now();
        let id = daemon.network("prod").id;
        let request = DeleteNetworkRequest { id, ..Default::default() };
        daemon.call(async |client| client.delete_network(request).await).unwrap();
        longest = longest.max(began.elapsed());
    }
    daemon.call(async |client| client.get_version(GetVersionRequest {}).await).unwrap();
    assert!(longest < END, "{longest:?}");
    let began = Instant::now();
    assert_eq!(daemon.terminate().exit_status(), Some(0));
    assert!(began.elapsed() < END, "{:?}", began.elapsed());
    let mut log = String::new();
    fs::File::from(reader.unwrap()).read_to_string(&mut log).unwrap();
    assert!(log.contains(" ready ") && log.len() > 60_000, "{} octets", log.len());
}

#[test]
fn a_metadata_disk_that_takes_no_files_is_served() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "vm1");
    assert_eq!(daemon.terminate().exit_status(), Some(0));
    // The same folders, the metadata mounted read-only where only the daemon sees it.
    let script = daemon.path("read-only");
    let binary = env!("CARGO_BIN_EXE_mvirt-net");
    let (unshare, m) = (if is_root() { "-m" } else { "-rm" }, daemon.path("m"));
    let mount = format!("mount --bind '{0}' '{0}' && mount -o remount,bind,ro '{0}'", m.display());
    let text = format!("#!/bin/sh\nexec unshare {unshare} sh -c '{}' \"$0\" \"$@\"\n", {
        format!("{} && exec {binary} \"$@\"", mount.replace('\'', ""))
    });
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    daemon.run_instead(PathBuf::from(&script));
    daemon.start_again();
    assert_eq!(daemon.get_nic("vm1").ipv4_address, nic.ipv4_address);
    UnixStream::connect(&nic.socket_path).expect("its socket listens");
    let refused = daemon.try_nic_with("prod", "vm2", |_| {}).unwrap_err();
    assert!(refused.message().contains("Read-only file system"), "{refused}");
    let log = daemon.log();
    assert!(log.contains("changes are refused until this disk takes files"), "{log}");
    let second = crate::daemon::in_directory(&script, m.parent().unwrap()).output().unwrap();
    let told = String::from_utf8(second.stderr).unwrap();
    assert!(told.contains("in use by another mvirt-net"), "{told}");
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
