//! `mvirt doctor`: what it finds of a host, a daemon and a vNIC, and how it ends.

use crate::{
    command::{mvirt, stderr, stdout},
    daemon::{Daemon, wait_until},
    frames::Udp4,
    guest::pair,
};
use std::{
    process::{Command, Output, Stdio},
    time::Duration,
};

/// What it prints, and its status.
fn told(output: &Output) -> (String, Option<i32>) {
    (String::from_utf8(output.stdout.clone()).unwrap(), output.status.code())
}

#[test]
fn a_vnic_is_looked_at_from_its_socket_to_its_guest() {
    // Not by a way out, which this host may not be ready for.
    let mut daemon = Daemon::start_with(&["--reactors", "1", "--egress", "off"]);
    let (nics, [mut a, _b]) = pair(&mut daemon);
    let idle = daemon.nic("prod", "idle");
    let run = |name: &str| mvirt(&daemon, &["doctor", name]);
    let text = stdout(&run("idle"));
    for line in [
        "ok   io_uring: allowed",
        "ok   clock: set",
        concat!("ok   daemon: mvirt-net ", env!("CARGO_PKG_VERSION")),
        "ok   hugepages: not needed by one reactor",
        "ok   egress: off: by --egress off",
        "ok   vNICs: 3, none in error",
        "warn state: created: no VMM is connected, or the guest's driver has not started its \
         queues → start a VM with what mvirt nic vmm-args idle prints",
        &format!("ok   socket: {}, mode 660", idle.socket_path),
        "ok   drops: none within a second",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
    }
    let text = stdout(&run("a"));
    assert!(text.contains("warn traffic: not one frame has come from the guest: "), "{text}");
    assert!(a.ping("169.254.0.1"));
    let text = stdout(&run("a"));
    assert!(text.contains("warn ipv4: the guest has not taken its address → "), "{text}");
    a.lease();
    // It has not asked where the gateway is.
    wait_until("its lease is noted", || {
        let silent = "warn ipv4: the guest has its address, and sends nothing beyond itself → ";
        stdout(&run("a")).contains(silent)
    });
    // Programs get the same.
    let table = stdout(&mvirt(&daemon, &["doctor", "-o", "csv"]));
    assert!(table.starts_with("LEVEL,CHECK,FOUND,REMEDY\nok,kernel,"), "{table}");
    let json = stdout(&mvirt(&daemon, &["doctor", "a", "-o", "json"]));
    let found: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    let state = found.iter().find(|finding| finding["name"] == "state").unwrap();
    assert_eq!((&state["level"], &state["remedy"]), (&"ok".into(), &"".into()));
    // What is taken away under it fails.
    std::fs::remove_file(&nics[0].socket_path).unwrap();
    let (text, code) = told(&run("a"));
    assert_eq!(code, Some(1));
    let line = format!("fail socket: {} is not there → restart mvirt-net", nics[0].socket_path);
    assert!(text.contains(&line), "{text}");
}

#[test]
fn what_is_dropped_meanwhile_is_told_of() {
    let mut daemon = Daemon::start_with(&["--reactors", "1", "--egress", "off"]);
    let (_, [mut a, _b]) = pair(&mut daemon);
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
    command.env("MVIRT_NET_SERVER", daemon.address()).args(["doctor", "a"]);
    let mut running = command.stdout(Stdio::piped()).spawn().unwrap();
    let frame = Udp4::new([2, 9, 9, 9, 9, 9], "10.0.0.1", "10.0.0.2", b"from another").frame();
    while running.try_wait().unwrap().is_none() {
        a.send(&frame);
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let text = stdout(&running.wait_with_output().unwrap());
    let line = text.lines().find(|line| line.starts_with("warn drops: ")).unwrap();
    assert!(line.contains(" within a second for spoofed_source_mac: "), "{line}");
    assert!(line.contains(" → let the guest send from its own addresses"), "{line}");
}

#[test]
fn a_daemon_that_is_not_there_is_a_finding_of_its_own() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
    command.args(["--net-server", "unix:/nowhere/api", "doctor"]);
    let output = command.output().unwrap();
    let (text, code) = told(&output);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("ok   clock: set\n"), "{text}");
    let line = text.lines().find(|line| line.starts_with("fail daemon: ")).unwrap();
    assert!(line.contains("cannot reach mvirt-net at unix:/nowhere/api") && line.contains(" → "));
    let daemon = Daemon::start();
    let said = stderr(&mvirt(&daemon, &["doctor", "nobody"]), 1);
    assert!(said.contains("NOT_FOUND"), "{said}");
    stderr(&mvirt(&daemon, &["doctor", "a", "b"]), 2);
}
