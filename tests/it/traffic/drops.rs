//! Dropped frames: who asks is told which they were, why, and what that means.

use crate::{
    command::{mvirt, stderr, stdout},
    daemon::{Daemon, PATIENCE, client, preload, wait_until},
    frames::Udp4,
    guest::{Guest, pair},
    lab,
    streams::{BROADCAST, Client, free_ports, mac},
};
use mvirt_net::proto::{CapturePoint, CreateNetworkRequest, DropsUpdate, WatchDropsRequest};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};
use tokio::time::timeout;

/// What is kept of some vNICs' and ports' dropped frames.
fn kept(daemon: &mut Daemon, targets: &[&str]) -> DropsUpdate {
    let targets = targets.iter().map(ToString::to_string).collect();
    let request = WatchDropsRequest { targets, ..Default::default() };
    let mut updates = daemon.call(async |client| client.watch_drops(request).await).unwrap();
    daemon.block_on(async |_| updates.message().await).unwrap().unwrap()
}

fn document(daemon: &Daemon, args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&stdout(&mvirt(daemon, args))).unwrap()
}

#[test]
fn what_was_dropped_is_told_by_reason_and_flow() {
    let mut daemon = Daemon::start();
    let (nics, [mut a, _b]) = pair(&mut daemon);
    let spoofed = Udp4::new(a.mac, "10.0.0.9", "10.0.0.2", b"evil").frame();
    (0..3).for_each(|_| a.send(&spoofed));
    a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.77", b"lost").frame());
    wait_until("all are dropped", || daemon.drops("a", "no_route") == 1);
    let told = kept(&mut daemon, &["a"]);
    let spoof = told.frames.iter().find(|frame| frame.reason == "spoofed_source_ipv4").unwrap();
    assert_eq!((&*spoof.object_id, &*spoof.name, &*spoof.network), (&*nics[0].id, "a", "prod"));
    assert_eq!((spoof.point(), spoof.length as usize), (CapturePoint::FromGuest, spoofed.len()));
    assert_eq!(spoof.head, spoofed, "it is as it was sent");
    assert!(spoof.flow.starts_with("udp 10.0.0.9:"), "{spoof:?}");
    assert!(spoof.text.starts_with("The IPv4 source is neither"), "{spoof:?}");
    let said = stdout(&mvirt(&daemon, &["trace", "--drops", "a"]));
    let line = said.lines().find(|line| line.starts_with("spoofed_source_ipv4 ")).unwrap();
    let cells: Vec<_> = line.split_whitespace().collect();
    assert_eq!(cells[1..4], ["a", "from", "3"], "{said}");
    let advice = "\nno_route: No vNIC of the network has the destination.";
    assert!(said.contains(advice), "{said}");
    let all = document(&daemon, &["trace", "--drops", "--network", "prod", "-o", "json"]);
    let drops = all["drops"].as_array().unwrap();
    let found = drops.iter().find(|drop| drop["reason"] == "spoofed_source_ipv4").unwrap();
    assert_eq!((&found["count"], &found["nic"]), (&3.into(), &"a".into()));
    assert!(found["example"].as_str().unwrap().contains("UDP 10.0.0.9:"), "{found}");
    // Others have their own.
    assert!(kept(&mut daemon, &["b"]).frames.iter().all(|frame| frame.name == "b"));
    assert!(stderr(&mvirt(&daemon, &["trace", "--drops", "x"]), 1).contains("does not exist"));
    stderr(&mvirt(&daemon, &["trace", "--drops", "--from", "a"]), 2);
    stderr(&mvirt(&daemon, &["trace", "a"]), 2);
}

#[test]
fn what_is_dropped_is_told_as_it_comes() {
    let mut daemon = Daemon::start();
    let (_, [mut a, _b]) = pair(&mut daemon);
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
    command.args(["--net-server", &daemon.address(), "trace", "--drops", "a", "--follow"]);
    let mut following = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with("TIME      NIC"));
    a.send(&Udp4::new(a.mac, "10.0.0.9", "10.0.0.2", b"evil").frame());
    let line = lines.find(|line| line.contains("udp 10.0.0.9:")).unwrap();
    assert!(line.contains("spoofed_source_ipv4") && line.contains(" from "), "{line}");
    assert!(lines.next().unwrap().contains("The IPv4 source is neither"));
    kill_process(Pid::from_child(&following), Signal::INT).unwrap();
    assert!(following.wait().unwrap().success(), "it is how it ends");
}

#[test]
fn who_sends_what_is_dropped_without_end_hides_nobody_and_is_counted() {
    let mut daemon = Daemon::start();
    let (_, [mut a, mut b]) = pair(&mut daemon);
    let spoofed = Udp4::new(a.mac, "10.0.0.9", "10.0.0.2", b"storm").frame();
    wait_until("there is a storm", || {
        (0..100).for_each(|_| a.send(&spoofed));
        a.drain();
        daemon.drops("a", "spoofed_source_ipv4") > 5000
    });
    b.send(&Udp4::new(b.mac, "10.0.0.2", "10.0.0.77", b"lost").frame());
    wait_until("it is dropped", || daemon.drops("b", "no_route") == 1);
    let told = kept(&mut daemon, &[]);
    let of = |name: &'static str| told.frames.iter().filter(move |frame| frame.name == name);
    assert!(of("b").any(|frame| frame.reason == "no_route"));
    // 32 at once and 20 a second, of which there cannot have been more meanwhile.
    let most = 32 + 20 * PATIENCE.as_secs() as usize;
    assert!((1..=most).contains(&of("a").count()), "{}", of("a").count());
    assert!(told.unseen > 4000, "{}", told.unseen);
}

#[test]
fn a_receiver_is_told_of_what_it_missed_and_a_watcher_of_what_comes() {
    let mut daemon = Daemon::start();
    daemon.network_with("lab", lab::segment);
    let [port] = free_ports();
    let at = format!("stream-listen://127.0.0.1:{port}");
    lab::create(&mut daemon, "qemu", &at).unwrap();
    let request = WatchDropsRequest { network_id: "lab".into(), ..Default::default() };
    let mut updates = daemon.call(async |client| client.watch_drops(request).await).unwrap();
    let first = daemon.block_on(async |_| updates.message().await).unwrap().unwrap();
    assert_eq!(first.frames, [], "it comes at once");
    // A frame from a group.
    let mut client = Client::new(port, 1);
    wait_until("it is a member", || !lab::get(&mut daemon, "qemu").attachments.is_empty());
    client.send(&[&BROADCAST[..], &[3; 6], &[0x88, 0xb5], &[0; 50]].concat());
    let next = daemon.block_on(async |_| timeout(PATIENCE, updates.message()).await);
    let next = next.unwrap().unwrap().unwrap();
    let frame = &next.frames[0];
    assert_eq!(frame.reason, "invalid_source_mac", "{frame:?}");
    assert!(frame.name.starts_with("qemu/127.0.0.1:"), "{frame:?}");
    assert!(frame.flow.starts_with("ethertype 0x88b5 03:03:03"), "{frame:?}");
    // One that gives no receive buffers back.
    let nic = daemon.nic("lab", "deaf");
    let guest = Guest::connect(&nic);
    let frame = [&BROADCAST[..], &mac(1), &[0x88, 0xb5], &[0; 50]].concat();
    wait_until("it misses some", || {
        (0..100).for_each(|_| client.send(&frame));
        daemon.drops("deaf", "rx_ring_full") > 0
    });
    let missed = kept(&mut daemon, &["deaf"]);
    let missed = missed.frames.iter().find(|frame| frame.reason == "rx_ring_full").unwrap();
    assert_eq!((missed.point(), &*missed.name), (CapturePoint::ToGuest, "deaf"));
    drop(guest);
}

#[test]
fn who_leaves_while_the_disk_stands_still_makes_room() {
    let library = preload("hang");
    let mut daemon = Daemon::start_with_environment(|directory| {
        vec![("LD_PRELOAD", library), ("HANG", directory.join("hang"))]
    });
    let (_, [mut a, _b]) = pair(&mut daemon);
    let path = daemon.path("api");
    let mut watches = daemon.block_on(async |_| {
        let mut all = Vec::new();
        for _ in 0..8 {
            let mut client = client(&path).await.unwrap();
            for _ in 0..32 {
                let watch = client.watch_drops(WatchDropsRequest::default()).await;
                let mut updates = watch.unwrap().into_inner();
                updates.message().await.unwrap();
                all.push((client.clone(), updates));
            }
        }
        all
    });
    let disk = daemon.path("hang.disk");
    fs::write(&disk, b"").unwrap();
    let request = CreateNetworkRequest {
        name: "other".into(),
        ipv4_subnet: "10.1.0.0/24".into(),
        ..Default::default()
    };
    let second = Duration::from_secs(1);
    let changed =
        daemon.block_on(async |client| timeout(second, client.create_network(request)).await);
    assert!(changed.is_err(), "Control waits for the disk: {changed:?}");
    a.send(&Udp4::new(a.mac, "10.0.0.9", "10.0.0.2", b"evil").frame());
    let told = daemon.block_on(async |_| timeout(second, watches[0].1.message()).await);
    assert!(told.is_err(), "each watcher waits for Control: {told:?}");
    drop(watches);
    wait_until("who comes is let in, and waits for Control, too", || {
        let watch = daemon.block_on(async |client| {
            timeout(second / 5, client.watch_drops(WatchDropsRequest::default())).await
        });
        watch.is_err()
    });
    fs::remove_file(disk).unwrap();
}
