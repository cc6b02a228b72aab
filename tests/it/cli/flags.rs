//! What a daemon says to who starts it: what is wrong, with which value, and what would be right.

use crate::daemon::{Daemon, wait_until};
use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _},
    },
    process::{Command, Stdio},
};

/// The status and the standard error of a daemon that does not start.
fn refused(change: impl FnOnce(&mut Command)) -> (Option<i32>, String) {
    let scratch = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt-net"));
    command.env("MVIRT_NET_SOCKET_DIR", scratch.path().join("s"));
    command.env("MVIRT_NET_METADATA_DIR", scratch.path().join("m"));
    command.env("MVIRT_NET_CONFIG", "/dev/null");
    command.env("MVIRT_NET_LISTEN", "[::1]:0").stdin(Stdio::null());
    change(&mut command);
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_refused_variable_is_named() {
    let (code, told) = refused(|command| {
        command.env("MVIRT_NET_BUSY_POLL", "10ms");
    });
    assert_eq!(code, Some(2), "{told}");
    assert!(
        told.contains("environment variable MVIRT_NET_BUSY_POLL: invalid value '10ms'"),
        "{told}"
    );
    let (code, told) = refused(|command| {
        command.env("MVIRT_NET_BUSY_POLL", "10ms").args(["--busy-poll", "11ms"]);
    });
    assert!(code == Some(2) && !told.contains("environment"), "the flag is to blame: {told}");
    let (code, told) = refused(|command| {
        command.env("MVIRT_NET_REACTORS", OsStr::from_bytes(b"\xff"));
    });
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("environment variable MVIRT_NET_REACTORS: not UTF-8"), "{told}");
    let (_, told) = refused(|command| {
        command.env("RUST_LOG", OsStr::from_bytes(b"\xff"));
        command.env("MVIRT_NET_LISTEN", "[::1]:1,[::1]:1");
    });
    assert!(told.contains("RUST_LOG: not UTF-8: info is taken"), "{told}");
}

#[test]
fn fatal_errors_are_json_where_that_is_asked_for() {
    for (flag, code) in [("--reactors=many", 2), ("--listen=[::1]:1,[::1]:1", 1)] {
        let (found, told) = refused(|command| {
            command.args(["--log-format", "json", flag]).env("RUST_LOG", "error");
        });
        assert_eq!(found, Some(code), "{told}");
        let line: serde_json::Value = serde_json::from_str(told.trim()).unwrap();
        let message = line["fields"]["message"].as_str().unwrap();
        assert!(message.contains(flag.split('=').next().unwrap()), "{told}");
        assert_eq!(line["level"], "ERROR");
    }
}

#[test]
fn a_directory_whose_sockets_would_have_too_long_a_path_is_refused_at_once() {
    let scratch = tempfile::tempdir().unwrap();
    let long = scratch.path().join("d".repeat(80));
    let (code, told) = refused(|command| {
        command.env("MVIRT_NET_SOCKET_DIR", &long);
    });
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("--socket-dir") && told.contains("expected at most 61"), "{told}");
    assert!(!long.exists());
}

#[test]
fn who_has_no_directories_is_told_what_to_give() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let program = scratch.path().join("mvirt-net");
    fs::copy(env!("CARGO_BIN_EXE_mvirt-net"), &program).unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(program);
    std::os::unix::process::CommandExt::uid(&mut command, 4321);
    let output = command.env_clear().env("HOME", "/home/me").current_dir("/").output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    let expected = "--socket-dir is needed, like --socket-dir /home/me/.local/run/mvirt/net: \
                    XDG_RUNTIME_DIR is not set";
    assert!(told.contains(expected), "{told}");
}

#[test]
fn a_host_without_ipv6_is_told_of_another_address() {
    // A network namespace whose loopback is down has no [::1] either.
    let script = "exec \"$0\" --listen '[::1]:50054'";
    let unshare = if rustix::process::geteuid().is_root() { "-n" } else { "-rn" };
    let (code, told) = refused(|command| {
        let daemon = command.get_program().to_owned();
        let mut other = Command::new("unshare");
        other.args([unshare, "sh", "-c", script]).arg(daemon);
        for (name, value) in command.get_envs() {
            other.env(name, value.unwrap());
        }
        *command = other;
    });
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("try --listen 127.0.0.1:50054, or --listen unix:/path"), "{told}");
}

#[test]
fn empty_variables_mean_not_given_and_a_wrong_filter_is_told() {
    let daemon = Daemon::start_with_environment(|_| {
        vec![("MVIRT_NET_CPUS", "".into()), ("MVIRT_NET_TLS_CERT", "".into())]
    });
    wait_until("it serves", || daemon.log().contains(" ready "));
    let (_, told) = refused(|command| {
        command.env("RUST_LOG", "nonsense=loud").env("MVIRT_NET_LISTEN", "[::1]:1,[::1]:1");
    });
    assert!(told.contains("RUST_LOG: \"nonsense=loud\""), "{told}");
}

#[test]
fn the_journal_gets_priorities_and_no_second_time() {
    let daemon = Daemon::start_with_environment(|directory| {
        let log = fs::File::create(directory.join("log")).unwrap().metadata().unwrap();
        vec![("JOURNAL_STREAM", format!("{}:{}", log.dev(), log.ino()).into())]
    });
    wait_until("it serves", || daemon.log().contains("ready"));
    let log = daemon.log();
    let ready = log.lines().find(|line| line.contains("ready")).unwrap();
    assert!(ready.starts_with("<6>ready addresses="), "{log}");
}

#[test]
fn sockets_belong_to_whom_flags_say() {
    let group = if rustix::process::geteuid().is_root() {
        "4324".to_owned()
    } else {
        rustix::process::getegid().as_raw().to_string()
    };
    let mut daemon =
        Daemon::start_with(&["--socket-group", &group, "--socket-mode", "0620", "--reactors", "1"]);
    daemon.network("prod");
    let nic = daemon.nic("prod", "vm1");
    for _ in 0..2 {
        let found = fs::metadata(&nic.socket_path).unwrap();
        assert_eq!((found.gid().to_string(), found.mode() & 0o777), (group.clone(), 0o620));
        daemon.crash_and_restart();
    }
}
