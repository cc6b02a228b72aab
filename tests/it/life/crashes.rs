//! The daemon is killed at random moments, again and again: under traffic, and between a change and
//! its answer. Rounds: 20, or as many as MVIRT_ROUNDS says.

use crate::{
    daemon::{Daemon, wait_until},
    guest::{QUEUE, pair},
    numbered::{Heard, numbered},
    random::{Random, rounds},
};
use mvirt_net::proto::{CreateNicRequest, DeleteNicRequest, ListNicsRequest};
use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

fn pause(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

#[test]
fn traffic_goes_on_after_each_kill() {
    let mut random = Random::new();
    let mut daemon = Daemon::start();
    let (nics, [mut a, mut b]) = pair(&mut daemon);
    let (mac, mut heard) = (a.mac, Heard::default());
    let frame = |number: &mut u64| {
        *number += 1;
        numbered(mac, *number)
    };
    for round in 0..rounds() {
        // Some of these are on their way when the daemon is killed; those that it never took wait
        // in the ring. The receiver has room for all, and for what its router tells it.
        for _ in 0..random.below(u64::from(QUEUE) - 8) {
            a.driver.send_quietly(&frame(&mut heard.sent));
        }
        pause(Duration::from_micros(random.below(300)));
        daemon.crash_and_restart();
        // What VMMs tell: the used index, the available one, or anything.
        let base = [a.driver.tx_used(), heard.sent as u16, random.below(1 << 16) as u16];
        let base = base[random.below(3) as usize];
        a.driver.reconnect(Path::new(&nics[0].socket_path), base);
        b.driver.reconnect(Path::new(&nics[1].socket_path), base);
        let before = (heard.lost, heard.again);
        a.send(&frame(&mut heard.sent));
        wait_until("frames arrive again", || {
            heard.listen(&mut b);
            heard.last == heard.sent
        });
        let (lost, again) = (heard.lost - before.0, heard.again - before.1);
        assert!(lost <= 256 && again <= 256, "round {round}: {lost} lost, {again} twice");
    }
    let stats = daemon.stats("a");
    assert!(stats.drops.iter().all(|drop| drop.reason == "no_guest"), "{stats:?}");
}

#[test]
fn what_was_acknowledged_is_there_and_nothing_half() {
    let mut random = Random::new();
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut there = BTreeSet::<String>::new();
    let (mut created, mut kills) = (0, 0);
    while kills < rounds() {
        let moment = Instant::now() + Duration::from_micros(random.below(20_000));
        let pid = rustix::process::Pid::from_raw(daemon.pid() as i32).unwrap();
        let killer = std::thread::spawn(move || {
            pause(moment.saturating_duration_since(Instant::now()));
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        });
        // The change that gets no answer may be there or not.
        let open = loop {
            created += 1;
            let name = format!("vm{created}");
            let delete = random.below(3) == 0;
            let victim = if delete { there.pop_first() } else { None };
            if let Some(name) = victim {
                let request = DeleteNicRequest { id: name.clone(), ..Default::default() };
                if daemon.call(async |client| client.delete_nic(request).await).is_err() {
                    break name;
                }
                continue;
            }
            let (network_id, own) = ("prod".into(), name.clone());
            let request = CreateNicRequest { network_id, name: own, ..Default::default() };
            if daemon.call(async |client| client.create_nic(request).await).is_err() {
                break name;
            }
            there.insert(name);
        };
        killer.join().unwrap();
        kills += 1;
        daemon.crash_and_restart();
        let request = ListNicsRequest::default();
        let found = daemon.call(async |client| client.list_nics(request).await).unwrap().nics;
        let mut names: BTreeSet<_> = found.iter().map(|nic| nic.name.clone()).collect();
        if names.remove(&open) {
            let request = DeleteNicRequest { id: open, ..Default::default() };
            daemon.call(async |client| client.delete_nic(request).await).unwrap();
        }
        assert_eq!(names, there, "after {kills} kills");
        let addresses: BTreeSet<_> = found.iter().map(|nic| &nic.ipv4_address).collect();
        assert_eq!(addresses.len(), found.len(), "each has an address of its own");
        let socket =
            |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|e| e == "sock");
        let sockets = std::fs::read_dir(daemon.path("s")).unwrap().flatten();
        let sockets = sockets.filter(socket).count();
        assert_eq!(sockets, there.len(), "and a socket, and there are no others");
        assert_eq!(std::fs::read_dir(daemon.path("m/quarantine")).unwrap().count(), 0);
    }
}
