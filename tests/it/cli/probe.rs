//! `mvirt probe`: a guest of the command line, in networks of the real daemon.

use crate::{
    command::{mvirt, stderr, stdout},
    daemon::{Daemon, wait_until},
    guest::Guest,
};
use mvirt_net::proto::{DeleteNicRequest, NicState};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

fn probe(daemon: &Daemon, args: &[&str]) -> (Value, bool) {
    let output = mvirt(daemon, &[&["-o", "json", "probe"], args].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (serde_json::from_str(&text).unwrap_or(Value::String(told)), output.status.success())
}

#[test]
fn a_probe_is_told_what_a_guest_is_told() {
    let mut daemon = Daemon::start();
    daemon.network_with("prod", |r| {
        r.ipv6_prefix = "fd00::/56".into();
        r.dns_servers = vec!["1.1.1.1".into(), "fd00::53".into()];
        r.ntp_servers = vec!["10.0.0.9".into(), "fd00::9".into()];
        r.domain = "prod.internal".into();
    });
    daemon.nic_with("prod", "vm1", |r| {
        (r.mtu, r.ipv6_mode) = (9000, 2);
        r.routed_ipv6_prefixes = vec!["fd00:0:0:7::/64".into()];
    });
    let (told, done) = probe(&daemon, &["vm1", "lease"]);
    assert!(done, "{told}");
    let ipv4 = json!({
        "address": "10.0.0.1/32", "gateway": "169.254.0.1", "hostname": "vm1", "mtu": 9000,
        "routes": ["169.254.0.1/32 via 0.0.0.0", "0.0.0.0/0 via 169.254.0.1"],
        "dns": ["1.1.1.1"], "ntp": ["10.0.0.9"], "domain": ["prod.internal"],
        "lease_seconds": u32::MAX, "delegated": [],
    });
    let ipv6 = json!({
        "address": "fd00:0:0:1::1/128", "gateway": "", "hostname": "", "mtu": null, "routes": [],
        "dns": ["fd00::53"], "ntp": ["fd00::9"], "domain": ["prod.internal"],
        "lease_seconds": u32::MAX, "delegated": ["fd00:0:0:7::/64"],
    });
    let router = json!({
        "address": "fe80::1", "lifetime_seconds": 9000, "managed": true, "mtu": 9000,
        "prefixes": ["fd00:0:0:1::/64 autonomous"],
        "dns": ["fd00::53"], "domain": ["prod.internal"],
    });
    assert_eq!(told, json!({ "ipv4": ipv4, "ipv6": ipv6, "router": router }));
    let seen = daemon.get_nic("vm1").guest.unwrap();
    assert!(!seen.ipv4_lease_at.is_empty() && !seen.ipv6_lease_at.is_empty());
    assert_eq!(seen.vendor_class, "mvirt-probe");
    let shown = stdout(&mvirt(&daemon, &["probe", "vm1", "lease"]));
    assert!(shown.contains("ipv4             10.0.0.1/32 for ever\n"), "{shown}");
}

#[test]
fn a_probe_finds_the_gateway_its_peers_and_why_it_does_not() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.nic("prod", "vm1");
    let mut peer = Guest::connect(&daemon.nic("prod", "vm2"));
    let outcomes = |told: &Value| -> Vec<(String, String)> {
        let answers = told["answers"].as_array().unwrap_or_else(|| panic!("{told}"));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        answers.iter().map(|answer| (text(&answer["from"]), text(&answer["what"]))).collect()
    };
    for gateway in ["169.254.0.1", "fe80::1"] {
        let (told, done) =
            probe(&daemon, &["vm1", "ping", gateway, "-c", "2", "-s", "1000", "-i", "1"]);
        assert!(done && outcomes(&told) == vec![(gateway.into(), "reply".into()); 2], "{told}");
    }
    for (address, from, what) in [
        ("10.0.0.77", "169.254.0.1", "host unreachable"),
        ("192.0.2.1", "169.254.0.1", "no route"),
        ("fd00::77", "fe80::1", "host unreachable"),
    ] {
        let (told, done) = probe(&daemon, &["vm1", "ping", address, "-c", "1"]);
        assert!(!done && outcomes(&told) == [(from.into(), what.into())], "{told}");
    }
    for (address, gateway) in [("10.0.0.2", "169.254.0.1"), ("fd00::2", "fe80::1")] {
        let traceroute = Command::new(env!("CARGO_BIN_EXE_mvirt"))
            .env("MVIRT_NET_SERVER", daemon.address())
            .args(["-o", "json", "probe", "vm1", "traceroute", address])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        peer.answer_echoes_while(|| daemon.stats("vm2").ingress_forwarded == 0);
        let output = traceroute.wait_with_output().unwrap();
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(output.status.success(), "{told}");
        let way = [(gateway.into(), "hop limit exceeded".into()), (address.into(), "reply".into())];
        assert_eq!(outcomes(&told), way);
        daemon.crash_and_restart(); // the counters begin anew
        peer = Guest::connect(&daemon.get_nic("vm2"));
    }
    wait_until("the peer is there", || daemon.get_nic("vm2").state() == NicState::Active);
    let (told, done) = probe(&daemon, &["vm2", "lease"]);
    assert!(!done);
    assert!(told.as_str().unwrap().contains("vNIC vm2: a VMM is connected to it"), "{told}");
}

#[test]
fn two_probes_measure_what_is_carried_between_them() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.nic("prod", "vm1");
    daemon.nic_with("prod", "vm2", |r| r.mtu = 9000);
    let (carried, done) = probe(&daemon, &["vm1", "throughput", "vm2", "-s", "1"]);
    assert!(done, "{carried}");
    assert_eq!((&carried["from"], &carried["to"]), (&json!("10.0.0.1"), &json!("10.0.0.2")));
    assert!(carried["octets"].as_u64().unwrap() > 10_000_000, "{carried}");
    assert_eq!(daemon.stats("vm1").drops, [], "nothing is lost");
    daemon.network_with("v6", |r| r.ipv4_subnet.clear());
    daemon.nic("v6", "six");
    let (told, done) = probe(&daemon, &["six", "throughput", "vm1"]);
    assert!(!done, "{told}");
}

fn spawn(daemon: &Daemon, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
    command.env("MVIRT_NET_SERVER", daemon.address()).args(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn answers_are_printed_as_they_come_and_counted_at_an_interrupt() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.nic("prod", "vm1");
    let ping = ["probe", "vm1", "ping", "169.254.0.1", "--count", "10000", "--interval", "5ms"];
    let mut ping = spawn(&daemon, &ping);
    let mut lines = BufReader::new(ping.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(lines.next().as_deref(), Some("FROM         ANSWER              TIME"));
    for _ in 0..3 {
        let line = lines.next().unwrap();
        assert!(line.starts_with("169.254.0.1  reply  ") && line.ends_with(" ms"), "{line}");
    }
    let pid = rustix::process::Pid::from_child(&ping);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    while lines.next().is_some() {}
    let output = ping.wait_with_output().unwrap();
    let summary = stderr(&output, 0);
    assert!(summary.contains(" answered, min/avg/max "), "{summary}");
}

#[test]
fn a_probe_is_told_which_vnic_lacks_a_guest() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.nic("prod", "vm1");
    daemon.nic_with("prod", "vm2", |r| r.routed_ipv4_prefixes = vec!["10.8.0.0/16".into()]);
    for address in ["10.0.0.2", "fd00::2", "10.8.1.1"] {
        let (told, done) = probe(&daemon, &["vm1", "ping", address, "-c", "1", "-w", "50"]);
        assert!(!done && told["answers"][0]["what"] == "no guest on vm2", "{told}");
    }
    let (told, done) = probe(&daemon, &["vm1", "traceroute", "10.0.0.2", "-w", "50"]);
    let whats = [&told["answers"][0]["what"], &told["answers"][1]["what"]];
    assert!(!done && whats == ["hop limit exceeded", "no guest on vm2"], "{told}");
    assert_eq!(told["answers"].as_array().unwrap().len(), 2, "there is nothing beyond");
}

#[test]
fn a_measurement_whose_vnic_goes_away_ends_with_an_error() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.nic("prod", "vm1");
    daemon.nic("prod", "vm2");
    let mut throughput = spawn(&daemon, &["probe", "vm1", "throughput", "vm2", "-s", "600"]);
    let mut told = BufReader::new(throughput.stderr.take().unwrap()).lines();
    assert!(told.next().unwrap().unwrap().contains(" s  "), "how it goes is told each second");
    let request = DeleteNicRequest { id: "vm2".into(), ..Default::default() };
    daemon.call(async |client| client.delete_nic(request).await).unwrap();
    let last = told.map_while(Result::ok).find(|line| line.contains("mvirt: ")).unwrap();
    assert_eq!(last, "mvirt: vNIC vm2: mvirt-net ended the connection");
    let output = throughput.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let itself = mvirt(&daemon, &["probe", "vm1", "throughput", "vm1"]);
    assert!(stderr(&itself, 2).contains("vm1 is the sender"));
}
