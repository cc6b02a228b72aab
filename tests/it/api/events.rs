//! Events: what happens is told once, in order, also afterwards; and the log says who asked for
//! what.

use crate::{
    command::{mvirt, stderr, stdout},
    daemon::{Daemon, preload, wait_until},
    events::{kept, wait_for_event},
    guest::{Guest, pair},
    streams::{Client, free_ports},
};
use mvirt_net::proto::{
    CaptureRequest, CreateNetworkRequest, NicState, Severity, WatchEventsRequest,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};
use tonic::Code;

#[test]
fn what_becomes_of_a_vnic_is_told_in_order_and_kept() {
    let mut daemon = Daemon::start();
    let (nics, [mut a, _b]) = pair(&mut daemon);
    let started = wait_for_event(&mut daemon, "started", |_| true);
    assert_eq!(started.details["pid"], daemon.pid().to_string());
    let active = wait_for_event(&mut daemon, "nic_state", |event| event.details["nic"] == "a");
    assert_eq!((active.severity(), &*active.text), (Severity::Info, "vNIC a is active"));
    assert_eq!(active.object_ids, [&*nics[0].id, &*nics[0].network_id]);
    a.lease();
    let lease =
        wait_for_event(&mut daemon, "lease", |event| event.details["address"] == "10.0.0.1");
    assert_eq!(lease.text, "the guest of vNIC a has leased 10.0.0.1");
    a.lease();
    assert_eq!(kept(&mut daemon, "", &["lease"]).len(), 1, "a lease is told once");
    drop(a);
    // A change that is told meanwhile does not stand for it.
    stdout(&mvirt(&daemon, &["nic", "update", "a", "--label", "x=y"]));
    wait_for_event(&mut daemon, "nic_state", |event| event.text == "vNIC a is created");
    let all = kept(&mut daemon, "", &[]);
    let times: Vec<_> =
        all.iter().map(|event| event.time.parse::<jiff::Timestamp>().unwrap()).collect();
    assert!(times.windows(2).all(|two| two[0] < two[1]));
    let later = kept(&mut daemon, &lease.time, &[]);
    let at = all.iter().position(|event| event.time == lease.time).unwrap();
    assert!(later.starts_with(&all[at + 1..]), "those after it alone: {later:?}");
    let mut rude = std::os::unix::net::UnixStream::connect(&nics[0].socket_path).unwrap();
    std::io::Write::write_all(&mut rude, &[0xff; 12]).unwrap();
    let failed =
        wait_for_event(&mut daemon, "nic_state", |event| event.details["state"] == "error");
    assert!(
        failed.severity() == Severity::Error && !failed.details["why"].is_empty(),
        "{failed:?}"
    );
    assert!(daemon.hand_over());
    let first = kept(&mut daemon, "", &[]).remove(0);
    assert_eq!(first.kind, "hand_over", "{first:?}");
}

#[test]
fn ports_and_who_comes_to_them_are_told_and_so_are_limits() {
    let mut daemon = Daemon::start_with(&["--reactors", "1", "--max-networks", "1"]);
    daemon.network_with("lab", |request| request.kind = 2);
    let [port] = free_ports();
    let at = format!("stream-listen://127.0.0.1:{port}");
    stdout(&mvirt(&daemon, &["port", "create", "lab", &at, "--name", "qemu"]));
    let client = Client::new(port, 1);
    let up = wait_for_event(&mut daemon, "peer_up", |event| event.details["port"] == "qemu");
    assert!(up.text.starts_with("port qemu: 127.0.0.1:"), "{up:?}");
    drop(client);
    wait_for_event(&mut daemon, "peer_down", |event| {
        event.details["remote"] == up.details["remote"]
    });
    let dry = CreateNetworkRequest {
        name: "two".into(),
        ipv4_subnet: "10.1.0.0/24".into(),
        validate_only: true,
        ..Default::default()
    };
    let refused = daemon.call(async |client| client.create_network(dry).await).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(kept(&mut daemon, "", &["limit_reached"]), [], "it was only checked");
    for name in ["two", "three"] {
        let refused = stderr(
            &mvirt(&daemon, &["network", "create", name, "--ipv4-subnet", "10.1.0.0/24"]),
            1,
        );
        assert!(refused.contains("RESOURCE_EXHAUSTED"), "{refused}");
    }
    let limit = wait_for_event(&mut daemon, "limit_reached", |_| true);
    assert!(limit.text.contains("--max-networks allows 1"), "{limit:?}");
    assert_eq!(kept(&mut daemon, "", &["limit_reached"]).len(), 1, "once a minute");
}

#[test]
fn who_comes_and_goes_without_end_fills_nothing() {
    let mut daemon = Daemon::start();
    daemon.network_with("lab", |request| request.kind = 2);
    let [port] = free_ports();
    let at = format!("stream-listen://127.0.0.1:{port}");
    stdout(&mvirt(&daemon, &["port", "create", "lab", &at, "--name", "qemu"]));
    for _ in 0..200 {
        drop(Client::new(port, 1));
    }
    // Told once it is its turn again: until then somebody comes and goes.
    let mut last = None;
    wait_until("it is told how many were not", || {
        drop(Client::new(port, 1));
        let told = kept(&mut daemon, "", &["peer_up", "peer_down"]);
        last = told.into_iter().find(|event| event.details.contains_key("unsaid"));
        last.is_some()
    });
    let last = last.unwrap();
    assert!(last.details["unsaid"].parse::<u64>().unwrap() > 100, "{last:?}");
    let told = kept(&mut daemon, "", &["peer_up", "peer_down"]).len();
    assert!((100..200).contains(&told), "{told} are told");
}

#[test]
fn changes_and_captures_are_told() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.nic("prod", "a");
    for command in [
        &["nic", "limit", "a", "--from-guest", "10mbit"][..],
        &["nic", "delete", "a", "--dry-run"],
        &["network", "delete", "prod", "--force"],
    ] {
        stdout(&mvirt(&daemon, command));
    }
    let told = kept(&mut daemon, "", &["change_applied"]);
    let told: Vec<_> = told.iter().map(|event| &*event.text).collect();
    let expected = [
        "network prod was created",
        "vNIC a was created",
        "vNIC a was changed",
        "network prod was deleted",
    ];
    assert_eq!(told, expected);
    let network = daemon.network("prod");
    let request = CaptureRequest { network_id: network.id.clone(), ..Default::default() };
    daemon.call(async |client| client.capture(request).await).unwrap();
    let capture = wait_for_event(&mut daemon, "capture_started", |_| true);
    assert!(capture.text.ends_with(&format!(" captures frames of {}", network.id)), "{capture:?}");
    assert_eq!(capture.details["network"], network.id);
}

#[test]
fn captures_without_end_fill_nothing() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.nic("prod", "a");
    let request = CaptureRequest { targets: vec!["a".into(); 1024], ..Default::default() };
    let mut begun = 0;
    // As many at once as may be: one that has ended makes room a moment later.
    wait_until("many have begun", || {
        let request = request.clone();
        begun += u32::from(daemon.call(async |client| client.capture(request).await).is_ok());
        begun == 150
    });
    let told = kept(&mut daemon, "", &["capture_started"]);
    assert!((100..150).contains(&told.len()), "{} are told", told.len());
    let details = &told[0].details;
    assert_eq!((&*details["targets"], &*details["more_targets"]), ("a a a a a a a a", "1016"));
}

#[test]
fn what_happens_is_printed_until_the_user_has_seen_enough() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "a");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
    command.args(["--net-server", &daemon.address(), "watch", "--since", "all"]);
    let mut watching = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with("TIME      SEVERITY  KIND"));
    assert!(lines.next().unwrap().ends_with("the daemon has started"));
    assert!(lines.next().unwrap().ends_with("change_applied   network prod was created"));
    assert!(lines.next().unwrap().ends_with("change_applied   vNIC a was created"));
    let guest = Guest::connect(&nic);
    daemon.wait_for_state("a", NicState::Active);
    assert!(lines.next().unwrap().ends_with("info      nic_state        vNIC a is active"));
    drop(guest);
    kill_process(Pid::from_child(&watching), Signal::INT).unwrap();
    assert!(watching.wait().unwrap().success(), "it is how it ends");
    let refused = stderr(&mvirt(&daemon, &["watch", "--kind", "no\x1bthing"]), 1);
    assert!(refused.contains("kinds: \"no\\u{1b}thing\": expected some of started"), "{refused}");
    let page = fs::read_to_string("docs/operations.md").unwrap();
    let kinds: Vec<_> = refused.trim().split_once("some of ").unwrap().1.split(", ").collect();
    let missing: Vec<_> =
        kinds.iter().filter(|kind| !page.contains(&format!("`{kind}`"))).collect();
    assert!(missing.is_empty() && kinds.len() > 10, "docs/operations.md lacks {missing:?}");
    stderr(&mvirt(&daemon, &["watch", "--since", "yesterday"]), 2);
    let request = WatchEventsRequest { since: "yesterday".into(), ..Default::default() };
    let refused = daemon.call(async |client| client.watch_events(request).await).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[test]
fn the_log_has_a_line_for_each_request_that_may_change_something() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.nic("prod", "a");
    stderr(&mvirt(&daemon, &["nic", "create", "prod", "--name", "a"]), 1);
    stdout(&mvirt(&daemon, &["nic", "delete", "a", "--dry-run"]));
    stdout(&mvirt(&daemon, &["nic", "list"]));
    let who = "who=\"".to_owned();
    let log = daemon.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("asked of the API")).collect();
    let expected: [&[&str]; 4] = [
        &["method=\"CreateNetwork\"", "object=\"prod\"", "result=\"OK\""],
        &["method=\"CreateNic\"", "object=\"a\"", "result=\"OK\""],
        &["method=\"CreateNic\"", "object=\"a\"", "result=\"ALREADY_EXISTS\"", "why="],
        &["method=\"DeleteNic\"", "object=\"a\"", "dry_run=true", "result=\"OK\""],
    ];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (line, parts) in told.iter().zip(expected) {
        for part in parts.iter().chain(&[&*who]) {
            assert!(line.contains(part), "{line} lacks {part}");
        }
    }
}

#[test]
fn who_does_not_wait_for_a_change_is_in_the_log_all_the_same() {
    let library = preload("hang");
    let mut daemon = Daemon::start_with_environment(|directory| {
        vec![("LD_PRELOAD", library), ("HANG", directory.join("hang"))]
    });
    daemon.network("prod");
    let disk = daemon.path("hang.disk");
    fs::write(&disk, b"").unwrap();
    let late = mvirt(&daemon, &["--timeout", "1s", "network", "delete", "prod"]);
    assert!(
        stderr(&late, 1).contains("has not answered within 1s"),
        "the disk stands still: {late:?}"
    );
    let is_told = |line: &str| {
        line.contains("method=\"DeleteNetwork\"") && line.contains("result=\"CANCELLED\"")
    };
    wait_until("the log says so", || daemon.log().lines().any(is_told));
    fs::remove_file(disk).unwrap();
    wait_for_event(&mut daemon, "change_applied", |event| event.text == "network prod was deleted");
}
