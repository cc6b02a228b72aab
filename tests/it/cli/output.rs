//! The command line, and how the daemon refuses to start: what is printed, where, and the exit
//! code.

use crate::{
    command::{mvirt, stderr, stdout},
    daemon::{Daemon, in_directory, preload},
};
use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader},
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    process::{Command, Stdio},
};

#[test]
fn a_network_and_its_vnics_from_first_to_last() {
    let daemon = Daemon::start();
    let run = |args: &[&str]| mvirt(&daemon, args);
    stdout(&run(&[
        "network",
        "create",
        "--name",
        "prod",
        "--ipv4-subnet",
        "10.0.0.0/24",
        "--ipv6-prefix",
        "fd00::/64",
        "--dns",
        "1.1.1.1",
        "--ntp",
        "10.0.0.9",
        "--mtu",
        "1400",
        "--domain",
        "prod.internal",
    ]));
    let shown = stdout(&run(&[
        "nic",
        "create",
        "--network",
        "prod",
        "--name",
        "vm1",
        "--route",
        "10.7.0.0/16",
        "--route",
        "fd07::/64",
        "--queues",
        "2",
    ]));
    assert!(shown.contains("10.0.0.1") && shown.contains("10.7.0.0/16 fd07::/64"), "{shown}");
    let table = stdout(&run(&["nic", "list", "--network", "prod"]));
    assert!(table.starts_with("NAME  NETWORK  STATE    IPV4"), "{table}");
    assert!(!table.contains('\x1b'), "no colour but on a terminal");
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&run(&["-o", "json", "nic", "get", "vm1"]))).unwrap();
    assert_eq!((&json["state"], &json["queue_pairs"]), (&"NIC_STATE_CREATED".into(), &2.into()));
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&run(&["-o", "json", "network", "list"]))).unwrap();
    assert_eq!(json["networks"][0]["mtu"], 1400);
    let shown = stdout(&run(&["network", "update", "prod", "--dns", "9.9.9.9"]));
    assert!(
        shown.contains("9.9.9.9") && shown.contains("10.0.0.9") && !shown.contains("1.1.1.1"),
        "{shown}"
    );
    let shown = stdout(&run(&["nic", "update", "vm1", "--clear-routes"]));
    assert!(!shown.contains("routes"), "{shown}");
    assert!(stderr(&run(&["network", "delete", "prod"]), 1).contains("FAILED_PRECONDITION"));
    assert!(stdout(&run(&["nic", "stats", "vm1"])).contains("from the guest"));
    assert!(stdout(&run(&["reactor", "list"])).starts_with("ID  NICS  FRAMES"));
    stdout(&run(&["nic", "delete", "vm1"]));
    stdout(&run(&["network", "delete", "prod"]));
    assert_eq!(stdout(&run(&["network", "list"])).lines().count(), 1);
    assert!(stdout(&run(&["version"])).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn errors_say_what_to_do() {
    let daemon = Daemon::start();
    assert!(
        stderr(&mvirt(&daemon, &["nic", "get", "nobody"]), 1)
            .contains("vNIC \"nobody\" does not exist")
    );
    stderr(&mvirt(&daemon, &["network", "create"]), 2);
    stderr(&mvirt(&daemon, &["nic", "vmm-args", "x", "--memory", "lots"]), 2);
    let nowhere = Command::new(env!("CARGO_BIN_EXE_mvirt"))
        .args(["--net-server", "unix:/nonexistent", "network", "list"])
        .output()
        .unwrap();
    assert!(stderr(&nowhere, 1).contains("Is it running?"));
    assert!(stdout(&mvirt(&daemon, &["completions", "bash"])).contains("_mvirt"));
}

#[test]
fn what_nobody_can_read_changes_no_exit_code() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.nic("prod", "vm1");
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let run = |daemon: &Daemon, args: &[&str], stdout: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
        command.env("MVIRT_NET_SERVER", daemon.address()).args(args);
        command.stdout(stdout).stderr(full()).status().unwrap().code()
    };
    for (args, code) in [
        (&["nic", "show", "nobody"][..], 1),
        (&["-o", "json", "nic", "show", "nobody"], 1),
        (&["nic", "create"], 2),
        (&["-o", "json", "nic", "create"], 2),
        (&["--tls-ca", "/nonexistent", "nic", "list"], 0),
        (&["nic", "delete", "vm1"], 0),
    ] {
        assert_eq!(run(&daemon, args, Stdio::null()), Some(code), "{args:?}");
    }
    for args in [&["nic", "list"][..], &["nic", "watch"], &["version"], &["completions", "bash"]] {
        assert_eq!(run(&daemon, args, full().into()), Some(1), "{args:?}");
    }
    let mut refused = Command::new(env!("CARGO_BIN_EXE_mvirt-net"));
    refused.args(["--reactors", "many"]).stderr(full());
    assert_eq!(refused.status().unwrap().code(), Some(2));
}

#[test]
fn a_server_that_is_no_text_is_refused_by_its_variable() {
    let daemon = Daemon::start();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
        command.env("MVIRT_NET_SERVER", OsStr::from_bytes(b"\xff")).args(args).output().unwrap()
    };
    let said = stderr(&run(&["version"]), 2);
    assert!(said.contains("environment variable MVIRT_NET_SERVER: \"\\xFF\": not UTF-8"), "{said}");
    stdout(&run(&["--net-server", &daemon.address(), "version"]));
}

#[test]
fn a_daemon_that_cannot_start_says_why_in_one_line() {
    let start =
        |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_mvirt-net")).args(args).output().unwrap();
    let refused = start(&["--reactors", "many"]);
    assert!(stderr(&refused, 2).contains("expected auto or 1-64"));
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let path = |name: &str| scratch.path().join(name).display().to_string();
    let (s, m) = (path("s"), path("m"));
    let dirs = ["--listen", "[::1]:0", "--socket-dir", s.as_str(), "--metadata-dir", m.as_str()];
    let refused = start(&[&dirs[..], &["--cpus", "1000"]].concat());
    assert!(stderr(&refused, 2).contains("mvirt-net: --cpus: cannot run on CPU 1000"));
    let inside = file.join("dir").display().to_string();
    let refused = start(&[
        "--socket-dir",
        &path("s"),
        "--metadata-dir",
        &inside,
        "--listen",
        &format!("unix:{}", path("api")),
    ]);
    let said = stderr(&refused, 1);
    assert!(said.starts_with("mvirt-net: --metadata-dir ") && said.lines().count() == 1, "{said}");
    let taken = std::net::TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap();
    let listener = std::net::TcpListener::bind(taken).unwrap();
    let refused = start(&[
        "--socket-dir",
        &path("s"),
        "--metadata-dir",
        &path("m"),
        "--listen",
        &taken.to_string(),
    ]);
    assert!(stderr(&refused, 1).contains(&format!("--listen {taken}: Address already in use")));
    drop(listener);
}

#[test]
fn a_second_daemon_on_the_same_metadata_is_refused() {
    let daemon = Daemon::start();
    let directory = tempfile::tempdir().unwrap();
    let metadata = daemon.path("m").display().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_mvirt-net"))
        .args(["--listen", "[::1]:0", "--metadata-dir", &metadata, "--socket-dir"])
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(stderr(&output, 1).contains("in use by another mvirt-net"));
}

#[test]
fn an_ordinary_user_may_run_the_daemon() {
    // Where the tests do not run as root, every other test shows this.
    let nobody = if rustix::process::geteuid().is_root() {
        65534
    } else {
        rustix::process::geteuid().as_raw()
    };
    let scratch = tempfile::tempdir().unwrap();
    let program = scratch.path().join("mvirt-net");
    std::fs::copy(env!("CARGO_BIN_EXE_mvirt-net"), &program).unwrap();
    std::os::unix::fs::chown(scratch.path(), Some(nobody), None).unwrap();
    let mut daemon = Command::new(program)
        .args(["--listen", "[::1]:0"])
        .env("HOME", scratch.path())
        .env("XDG_RUNTIME_DIR", scratch.path().join("run"))
        .env_remove("XDG_STATE_HOME")
        .uid(nobody)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(daemon.stderr.take().unwrap()).lines();
    let ready = log.map_while(Result::ok).any(|line| line.contains("ready"));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert!(ready);
    assert!(scratch.path().join("run/mvirt/net").is_dir());
    assert!(scratch.path().join(".local/state/mvirt/net/networks").is_dir());
}

#[test]
fn a_machine_without_io_uring_is_named_as_such() {
    let directory = tempfile::tempdir().unwrap();
    for error in [libc::EPERM, libc::ENOSYS] {
        let output = in_directory(env!("CARGO_BIN_EXE_mvirt-net"), directory.path())
            .env("LD_PRELOAD", preload("no_uring"))
            .env("NO_URING", error.to_string())
            .output()
            .unwrap();
        let said = stderr(&output, 1);
        for part in ["cannot set up io_uring", "kernel.io_uring_disabled", "seccomp", "5.13"] {
            assert!(said.contains(part), "{said:?} lacks {part:?}");
        }
        assert!(!directory.path().join("api").exists());
    }
}
