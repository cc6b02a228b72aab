//! All of it together, against one daemon: two innocent guests that talk as fast as they can,
//! hostile VMMs and guests, vNICs that come and go, kill -9, hand-overs; then, without
//! disturbances, a look for leaks. For MVIRT_SOAK_SECONDS (`make soak`), or some seconds.

use crate::{
    daemon::{Daemon, wait_until},
    guest::{Driver, Failed, Guest, PLAIN},
    hostile::{edge, scribble},
    innocents::{EndAtDrop, Shared, WINDOW, innocents},
    numbered::numbered,
    random::Random,
};
use mvirt_net::proto::{DeleteNicRequest, Nic};
use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

/// One act of somebody who means ill; an error says that the daemon hung up, or was killed just
/// now.
fn act(nic: &Nic, random: &mut Random) -> Result<(), Failed> {
    let socket = Path::new(&nic.socket_path);
    let junk =
        |random: &mut Random, len| (0..len).map(|_| random.below(256) as u8).collect::<Vec<_>>();
    match random.below(7) {
        0 => {
            let mut driver = Driver::try_memory_only(socket, PLAIN, 2048)?;
            driver.try_negotiate()?;
            scribble(&driver.memory, random);
            driver.try_start_rings(random.below(1 << 16) as u16)?;
            for _ in 0..random.below(8) {
                driver.kick(random.below(2) as usize);
                scribble(&driver.memory, random);
            }
        }
        1 => {
            let mut stream = UnixStream::connect(socket)?;
            stream.write_all(&junk(random, 64))?;
            stream.read_exact(&mut [0])?;
        }
        2 => {
            // Half of a message, for a while.
            let mut stream = UnixStream::connect(socket)?;
            stream.write_all(&[1, 0, 0, 0, 1])?;
            std::thread::park_timeout(Duration::from_millis(random.below(300)));
        }
        3 => {
            let mut driver = Driver::try_connect(socket, PLAIN, 2048)?;
            for _ in 0..random.below(50) {
                if !driver.has_room() {
                    break;
                }
                let len = edge(random) % 1400;
                driver.send_quietly(&junk(random, 14 + len));
            }
            driver.memory.file.set_len(random.below(4 << 20))?;
            driver.kick(1);
            driver.kick(0);
        }
        4 => {
            // A storm of kicks for nothing.
            let driver = Driver::try_connect(socket, PLAIN, 2048)?;
            (0..20_000).for_each(|_| driver.kick(1));
        }
        5 => {
            let streams: Vec<_> = (0..50).map(|_| UnixStream::connect(socket)).collect();
            drop(streams);
        }
        _ => {
            // As much as it can send, with the source of another.
            let mut driver = Driver::try_connect(socket, PLAIN, 2048)?;
            let frame = numbered([0x52, 0x54, 0, 1, 2, 3], random.below(1 << 40));
            let end = Instant::now() + Duration::from_millis(50);
            while Instant::now() < end && driver.has_room() {
                driver.send_quietly(&frame);
            }
        }
    }
    Ok(())
}

fn hostile(shared: &Shared, nic: &Nic, seed: u64) {
    let mut random = Random::from(seed);
    while !shared.end.load(SeqCst) {
        if shared.hold.load(SeqCst) {
            shared.held.fetch_add(1, SeqCst);
            while shared.hold.load(SeqCst) && !shared.end.load(SeqCst) {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            continue;
        }
        // Refused, most likely: that is what is to happen.
        act(nic, &mut random).ok();
        shared.hostile_acts.fetch_add(1, SeqCst);
    }
}

/// A number of /proc/PID/status.
fn field(daemon: &Daemon, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// What a daemon uses.
#[derive(Debug, Clone, Copy)]
struct Usage {
    descriptors: usize,
    threads: u64,
    /// KiB of memory of its own.
    memory: u64,
}

impl Usage {
    /// Of a daemon that nobody but the innocent guests uses just now.
    fn of(daemon: &mut Daemon, shared: &Shared, hostile: u64) -> Self {
        shared.held.store(0, SeqCst);
        shared.hold.store(true, SeqCst);
        wait_until("the hostile ones pause", || shared.held.load(SeqCst) == hostile);
        wait_until("nobody else is connected", || daemon.count_connected() == 2);
        let (threads, memory) = (field(daemon, "Threads:"), field(daemon, "RssAnon:"));
        let usage = Self { descriptors: daemon.descriptors(), threads, memory };
        shared.hold.store(false, SeqCst);
        usage
    }
}

/// Creates, uses and deletes a vNIC.
fn churn(daemon: &mut Daemon, number: u64) {
    let nic = daemon.nic("churn", &format!("vm{number}"));
    let mut guest = Guest::connect(&nic);
    assert!(guest.ping("169.254.0.1"));
    let request = DeleteNicRequest { id: nic.id, ..Default::default() };
    daemon.call(async |client| client.delete_nic(request).await).unwrap();
}

#[test]
fn everything_at_once_for_a_while() {
    let seconds = std::env::var("MVIRT_SOAK_SECONDS").map_or(8, |text| text.parse().unwrap());
    let whole = Duration::from_secs(seconds);
    let mut random = Random::new();
    let mut daemon = Daemon::start();
    for network in ["prod", "evil", "churn"] {
        daemon.network(network);
    }
    let innocent = [daemon.nic("prod", "a"), daemon.nic("prod", "b")];
    let evil: Vec<Nic> = (0..4).map(|n| daemon.nic("evil", &format!("evil{n}"))).collect();
    let shared = Shared::default();
    let (mut kills, mut hand_overs, mut churned) = (0, 0, 0);
    std::thread::scope(|scope| {
        let (shared, seed) = (&shared, random.below(u64::MAX));
        let innocent = &innocent;
        let end = EndAtDrop(shared);
        let talking = scope.spawn(move || innocents(shared, innocent, seed | 1));
        for (number, nic) in evil.iter().enumerate() {
            scope.spawn(move || hostile(shared, nic, seed ^ (number as u64 + 1) << 8 | 1));
        }
        let began = Instant::now();
        let mut told = 0;
        let mut progress = |daemon: &Daemon, kills: u64, hand_overs: u64, churned: u64| {
            let minutes = began.elapsed().as_secs() / 60;
            if std::mem::replace(&mut told, minutes) != minutes {
                let (arrived, memory) = (shared.arrived.load(SeqCst), field(daemon, "RssAnon:"));
                eprintln!(
                    "{minutes} min: {arrived} frames, {kills} kills, {hand_overs} hand-overs, \
                     {churned} vNICs, {memory} KiB"
                );
            }
        };
        while began.elapsed() < whole / 2 {
            progress(&daemon, kills, hand_overs, churned);
            for _ in 0..random.below(6) {
                churned += 1;
                churn(&mut daemon, churned);
            }
            std::thread::park_timeout(Duration::from_micros(random.below(200_000)));
            if random.below(2) == 0 {
                kills += 1;
                daemon.crash_and_restart();
                shared.lives.fetch_add(1, SeqCst);
            } else {
                hand_overs += 1;
                assert!(daemon.hand_over());
            }
            let arrived = shared.arrived.load(SeqCst);
            wait_until("frames arrive again", || shared.arrived.load(SeqCst) > arrived + WINDOW);
        }
        // From here on it lives: what grows now, leaks.
        let count = evil.len() as u64;
        for _ in 0..20 {
            churned += 1;
            churn(&mut daemon, churned);
        }
        let before = Usage::of(&mut daemon, shared, count);
        while began.elapsed() < whole {
            progress(&daemon, kills, hand_overs, churned);
            churned += 1;
            churn(&mut daemon, churned);
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let after = Usage::of(&mut daemon, shared, count);
        drop(end);
        let (heard, silence) = talking.join().unwrap();
        eprintln!(
            "soak of {seconds} s: {} frames between innocent guests, {} lost, {} twice, \
             longest silence {silence:?}\n\
             {kills} kills, {hand_overs} hand-overs, {} hostile acts, \
             {churned} vNICs came and went\n\
             descriptors {} -> {}, threads {} -> {}, memory {} -> {} KiB",
            heard.sent,
            heard.lost,
            heard.again,
            shared.hostile_acts.load(SeqCst),
            before.descriptors,
            after.descriptors,
            before.threads,
            after.threads,
            before.memory,
            after.memory
        );
        assert!(heard.lost <= 256 * kills + 64 * hand_overs, "lost frames");
        assert!(heard.again <= 256 * kills, "frames that came twice");
        // Those of a connection that was just ending may have been counted before.
        assert!(after.descriptors <= before.descriptors, "descriptors leak");
        assert!(after.threads <= before.threads, "threads leak");
        assert!(after.memory <= before.memory + (before.memory / 10).max(2048), "memory leaks");
    });
    let log = daemon.log();
    assert!(
        !log.contains("panicked") && !log.contains("internal error"),
        "a defect shows in the log"
    );
    assert_eq!(std::fs::read_dir(daemon.path("m/quarantine")).unwrap().count(), 0);
    eprintln!("verdict: nothing leaked, nobody was hurt");
}
