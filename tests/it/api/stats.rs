//! Counters: what a guest does is counted under its name, goes on in the next process, and is told
//! at intervals.

use crate::{
    command::{mvirt, stderr, stdout},
    daemon::{Daemon, PATIENCE, wait_until},
    field::udp,
    frames::{Udp4, is_udp4, open_checksum4},
    guest::{CSUM, Guest, PLAIN, pair},
};
use mvirt_net::proto::{DeleteNicRequest, NicStats, StatsUpdate, WatchStatsRequest};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};
use tokio::time::timeout;
use tonic::{Code, Streaming};

fn answered(stats: &NicStats, kind: &str) -> u64 {
    stats.answers.iter().find(|answer| answer.kind == kind).map_or(0, |answer| answer.frames)
}

#[test]
fn what_a_guest_does_is_counted_and_goes_on_in_the_next_process() {
    let mut daemon = Daemon::start();
    let (_, [mut a, mut b]) = pair(&mut daemon);
    a.lease();
    assert!(a.ping("169.254.0.1") && a.ping("fe80::1"));
    assert!(b.answers(&mut a, "10.0.0.2"));
    let stats = daemon.stats("a");
    assert_eq!((&*stats.name, stats.connections), ("a", 1));
    for kind in ["dhcp4", "icmp"] {
        assert!(answered(&stats, kind) > 0, "{kind}: {:?}", stats.answers);
    }
    assert!(stats.kicks > 0 && stats.queue_empty > 0 && stats.calls > 0, "{stats:?}");
    assert!(stats.features.contains(&"version_1".to_owned()), "{:?}", stats.features);
    assert_eq!(stats.ring_sizes.len(), 2);
    assert_eq!((stats.io_calls, &*stats.last_error), (0, ""));
    assert!(daemon.hand_over());
    let now = daemon.stats("a");
    assert_eq!((now.connections, &now.ring_sizes), (1, &stats.ring_sizes));
    assert!(now.kicks >= stats.kicks && now.calls >= stats.calls);
    assert_eq!(answered(&now, "dhcp4"), answered(&stats, "dhcp4"));
    let shown = stdout(&mvirt(&daemon, &["nic", "stats", "a"]));
    for part in ["told", " dhcp4", "wake-ups", "connected", "features", "ring sizes"] {
        assert!(shown.contains(part), "{shown}");
    }
    drop(a);
    wait_until("nobody is connected", || daemon.stats("a").features.is_empty());
}

#[test]
fn a_checksum_that_a_guest_does_not_take_open_is_counted_where_it_is_completed() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut a = Guest::connect_with(&daemon.nic("prod", "a"), PLAIN | CSUM, 2048);
    let mut b = Guest::connect(&daemon.nic("prod", "b"));
    let mut frame = Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", b"open").frame();
    let open = open_checksum4(&frame, 17, 8 + 4);
    frame[udp::CHECKSUM4].copy_from_slice(&open);
    a.driver.send_with([1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0], &frame);
    b.expect("it arrives", |frame| is_udp4(frame, b"open"));
    let stats = daemon.stats("b");
    assert_eq!((stats.checksums_completed, stats.frames_cut), (1, 0));
    assert_eq!(daemon.stats("a").checksums_completed, 0);
}

#[test]
fn a_guest_that_takes_nothing_is_seen_to_stall() {
    let mut daemon = Daemon::start();
    let (_, [mut a, b]) = pair(&mut daemon);
    let frame = Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", b"x").frame();
    // Its buffers are taken at first, and it posts none again.
    (0..400).for_each(|_| a.send(&frame));
    wait_until("it is counted for how long", || {
        a.send(&frame);
        let stats = daemon.stats("b");
        stats.receive_stalls == 1 && stats.queue_full > 0 && stats.longest_stall_ns > 1_000_000
    });
    drop(b);
}

#[test]
fn why_a_vmm_was_disconnected_is_told_after_it() {
    let mut daemon = Daemon::start();
    let (nics, [a, _b]) = pair(&mut daemon);
    drop(a);
    let mut rude = std::os::unix::net::UnixStream::connect(&nics[0].socket_path).unwrap();
    // A request that is none: its header says so.
    std::io::Write::write_all(&mut rude, &[0xff; 12]).unwrap();
    wait_until("it is told", || !daemon.stats("a").last_error.is_empty());
    let stats = daemon.stats("a");
    assert!(stats.last_error_at.starts_with("20"), "{stats:?}");
    assert!(daemon.hand_over());
    let now = daemon.stats("a");
    assert_eq!((now.last_error, now.last_error_at), (stats.last_error, stats.last_error_at));
}

/// The next update, whole.
async fn next(updates: &mut Streaming<StatsUpdate>) -> StatsUpdate {
    let update = timeout(PATIENCE, updates.message()).await.expect("in time");
    update.unwrap().unwrap()
}

#[test]
fn who_watches_is_told_what_has_come_since() {
    let mut daemon = Daemon::start();
    let (_, [mut a, mut b]) = pair(&mut daemon);
    assert!(b.answers(&mut a, "10.0.0.2"));
    let total = daemon.stats("a").ingress_frames;
    let targets = vec!["a".into(), "b".into()];
    let request = WatchStatsRequest { interval_ms: 100, targets };
    let mut updates = daemon.call(async |client| client.watch_stats(request).await).unwrap();
    let first = daemon.block_on(async |_| next(&mut updates).await);
    let names: Vec<_> = first.stats.iter().map(|stats| &*stats.name).collect();
    assert_eq!((first.elapsed_ns, names), (0, vec!["a", "b"]));
    assert!(first.stats[0].ingress_frames >= total);
    for _ in 0..5 {
        a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.99", b"nobody").frame());
    }
    let mut dropped = 0;
    while dropped < 5 {
        let update = daemon.block_on(async |_| next(&mut updates).await);
        assert!(update.elapsed_ns >= 50_000_000, "{update:?}");
        let of_a = update.stats.iter().filter(|stats| stats.name == "a");
        dropped += of_a.flat_map(|stats| &stats.drops).map(|drop| drop.frames).sum::<u64>();
    }
    assert_eq!(dropped, 5, "each is told once");
    let request = DeleteNicRequest { id: "b".into(), ..Default::default() };
    daemon.call(async |client| client.delete_nic(request).await).unwrap();
    let ended = daemon.block_on(async |_| {
        loop {
            if let Err(status) = timeout(PATIENCE, updates.message()).await.expect("in time") {
                break status;
            }
        }
    });
    assert_eq!(ended.code(), Code::NotFound, "{ended}");
}

#[test]
fn a_watch_of_nobody_or_at_no_interval_is_refused() {
    let mut daemon = Daemon::start();
    let mut refused = |interval_ms, targets: &[&str]| {
        let targets = targets.iter().map(ToString::to_string).collect();
        let request = WatchStatsRequest { interval_ms, targets };
        daemon.call(async |client| client.watch_stats(request).await).unwrap_err()
    };
    assert_eq!(refused(100, &["nobody"]).code(), Code::NotFound);
    let refused = refused(99, &[]);
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("interval_ms"), "{refused}");
    let text = stderr(&mvirt(&daemon, &["nic", "stats", "nobody", "--watch", "2"]), 1);
    assert!(text.contains("\"nobody\" does not exist"), "{text}");
    stderr(&mvirt(&daemon, &["nic", "stats", "x", "--watch", "soon"]), 2);
}

#[test]
fn rates_come_a_line_an_interval_until_the_user_has_seen_enough() {
    let mut daemon = Daemon::start();
    let (_, [mut a, _b]) = pair(&mut daemon);
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
    command.args(["--net-server", &daemon.address(), "nic", "stats", "a", "--watch", "0.1"]);
    let mut watching = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines().map(Result::unwrap);
    let header = lines.next().unwrap();
    assert!(header.starts_with("TIME      FROM/S    BIT/S"), "{header}");
    let frame = Udp4::new(a.mac, "10.0.0.1", "10.0.0.99", b"nobody").frame();
    let seen = lines.find(|line| {
        a.send(&frame);
        line.ends_with("no_route")
    });
    assert!(seen.is_some());
    kill_process(Pid::from_child(&watching), Signal::INT).unwrap();
    assert!(watching.wait().unwrap().success(), "it is how it ends");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
    command.args(["--net-server", &daemon.address(), "-o", "json", "nic", "stats", "a", "-w"]);
    let mut watching = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first: serde_json::Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
    assert_eq!((&first["elapsed_ns"], &first["stats"][0]["name"]), (&0.into(), &"a".into()));
    kill_process(Pid::from_child(&watching), Signal::INT).unwrap();
    assert!(watching.wait().unwrap().success());
}
