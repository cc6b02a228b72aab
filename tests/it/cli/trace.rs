//! `mvirt trace`, and its exit status.

use crate::{
    command::{mvirt, stderr, stdout},
    daemon::Daemon,
    guest::pair,
};
use std::process::Command;

#[test]
fn scripts_can_tell_what_would_become_of_a_packet() {
    let mut daemon = Daemon::start();
    let _guests = pair(&mut daemon);
    let args = ["trace", "--from", "a", "--to", "10.0.0.2", "--proto", "tcp", "--dport", "443"];
    let said = stdout(&mvirt(&daemon, &args));
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[1].starts_with("1") && lines[1].contains("sender"), "{said}");
    assert_eq!(lines.last(), Some(&"Delivered to b."), "{said}");
    let dropped = mvirt(&daemon, &["trace", "--from", "a", "--to", "10.0.0.77"]);
    let said = String::from_utf8_lossy(&dropped.stdout);
    assert_eq!(dropped.status.code(), Some(1), "{said}");
    assert!(said.contains("Dropped as no_route, and its sender is told: No vNIC"), "{said}");
    let args = ["trace", "--from", "a", "--to", "10.0.0.77", "-o", "json"];
    let dropped = mvirt(&daemon, &args);
    let document: serde_json::Value = serde_json::from_slice(&dropped.stdout).unwrap();
    assert_eq!(document["verdict"], "EXPLAIN_VERDICT_DROPPED");
    let frame = "ff:ff:ff:ff:ff:ff 02:00:00:00:00:09 08:06";
    let spoofed = mvirt(&daemon, &["trace", "--from", "a", "--frame", frame]);
    assert_eq!(spoofed.status.code(), Some(1));
    stderr(&mvirt(&daemon, &["trace", "--from", "a"]), 2);
    stderr(&mvirt(&daemon, &["trace", "--from", "a", "--frame", "0"]), 2);
    let mut alone = Command::new(env!("CARGO_BIN_EXE_mvirt"));
    let alone = alone.env("MVIRT_NET_SERVER", "unix:/nowhere").args(args);
    stderr(&alone.output().unwrap(), 3);
    // What was dropped is no verdict.
    let mut alone = Command::new(env!("CARGO_BIN_EXE_mvirt"));
    let alone = alone.env("MVIRT_NET_SERVER", "unix:/nowhere").args(["trace", "--drops"]);
    stderr(&alone.output().unwrap(), 1);
}
