//! How the command line says that it cannot reach the daemon, and what to do.

use crate::{
    command::{mvirt, stderr, stdout},
    daemon::{Daemon, wait_until},
};
use rustix::process::{Pid, Signal, kill_process};
use std::process::Command;

#[test]
fn a_daemon_that_stands_still_is_not_waited_for_without_end() {
    let mut daemon = Daemon::start();
    let pid = Pid::from_raw(daemon.pid() as i32).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let late = mvirt(&daemon, &["--timeout", "300ms", "nic", "list"]);
    kill_process(pid, Signal::CONT).unwrap();
    let said = stderr(&late, 1);
    assert!(said.contains("has not answered within 300ms") && said.contains("--timeout"), "{said}");
    daemon.network("prod");
    stderr(&mvirt(&daemon, &["--timeout", "soon", "nic", "list"]), 2);
}

#[test]
fn tls_to_a_port_that_has_none_is_named_as_such() {
    let daemon = Daemon::start_with(&["--listen", "127.0.0.1:0"]);
    let mut port = String::new();
    wait_until("the daemon tells its address", || {
        let log = daemon.log();
        let after = log.split("127.0.0.1:").nth(1).unwrap_or_default();
        port = after.chars().take_while(char::is_ascii_digit).collect();
        !port.is_empty()
    });
    let to = |scheme: &str| {
        let server = format!("{scheme}://127.0.0.1:{port}");
        mvirt(&daemon, &["--net-server", &server, "network", "list"])
    };
    stdout(&to("http"));
    let said = stderr(&to("https"), 1);
    assert!(said.contains("No TLS is spoken there: use http://"), "{said}");
}

#[test]
fn without_a_server_there_is_still_a_version() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
    let output = command.args(["--net-server", "unix:/nonexistent", "version"]).output().unwrap();
    let own = format!("mvirt  {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), own);
    assert!(stderr(&output, 1).contains("Is it running?"));
}

#[test]
fn an_address_of_no_known_kind_is_wrong_usage() {
    for (address, hint) in [
        ("/nope", "did you mean unix:/nope?"),
        ("./nope", "did you mean unix:./nope?"),
        ("foo://x", ""),
        ("unix:", ""),
        ("http://", ""),
        ("a b", ""),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
        let output = command.args(["--net-server", address, "network", "list"]).output().unwrap();
        let said = stderr(&output, 2);
        let expected = "expected unix:/path, http://HOST:PORT or https://HOST:PORT";
        assert!(said.contains(expected) && said.contains(hint), "{address}: {said}");
        assert_eq!(said.contains("did you mean"), !hint.is_empty(), "{address}: {said}");
    }
}

#[test]
fn files_that_do_nothing_are_told() {
    let daemon = Daemon::start();
    let listed = mvirt(&daemon, &["--tls-ca", "ca.pem", "network", "list"]);
    stdout(&listed);
    let said = String::from_utf8_lossy(&listed.stderr).into_owned();
    assert!(said.contains("--tls-ca does nothing"), "{said}");
    let half = mvirt(&daemon, &["--tls-cert", "me.pem", "network", "list"]);
    assert!(stderr(&half, 2).contains("--tls-cert and --tls-key go together"));
}

#[test]
fn an_answer_may_be_longer_than_grpc_expects() {
    const NICS: u32 = 400;
    let mut daemon = Daemon::start();
    daemon.network_with("prod", |r| r.ipv4_subnet = "10.0.0.0/16".into());
    for n in 0..NICS {
        let [_, _, high, low] = n.to_be_bytes();
        daemon.nic_with("prod", &format!("vm{n}"), |request| {
            let routes = (0..256).map(|i| format!("fd{high:02x}:{low:x}:1234:5678::{i:x}:0/112"));
            request.routed_ipv6_prefixes = routes.collect();
            request.routed_ipv4_prefixes =
                (0..256).map(|i| format!("11{high}.{low}.{i}.0/24")).collect();
        });
    }
    let names = stdout(&mvirt(&daemon, &["-o", "name", "nic", "list"]));
    assert_eq!(names.lines().count(), NICS as usize);
    let listed = stdout(&mvirt(&daemon, &["-o", "json", "nic", "list"]));
    assert!(listed.len() > 4 << 20, "{} octets are too few to show it", listed.len());
}
