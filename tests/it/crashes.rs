//! The daemon is killed at random moments, again and again: under traffic, and between a change and
//! its answer. Rounds: 20, or as many as MVIRT_ROUNDS says.

use super::{
    daemon::{Daemon, wait_until},
    frames::Udp4,
    guest::{Guest, QUEUE, pair},
};
use mvirt_net::proto::{CreateNicRequest, DeleteNicRequest, ListNicsRequest};
use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

pub(crate) fn rounds() -> u32 {
    std::env::var("MVIRT_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap())
}

/// Numbers that differ from run to run; printed, so that a failure can be told again.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        let seed = Instant::now().elapsed().as_nanos() as u64 ^ u64::from(std::process::id()) << 32;
        let seed = seed ^ std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
        eprintln!("seed {seed}");
        Self(seed)
    }

    /// Those of a seed, which is odd.
    pub(crate) fn from(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn pause(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// A frame from guest a to guest b that says its number.
pub(crate) fn numbered(mac: [u8; 6], number: u64) -> Vec<u8> {
    let payload = [number.to_be_bytes(), (!number).to_be_bytes()].concat();
    Udp4::new(mac, "10.0.0.1", "10.0.0.2", &payload).frame()
}

/// Numbers of frames as they arrive.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) sent: u64,
    pub(crate) last: u64,
    pub(crate) lost: u64,
    pub(crate) again: u64,
}

impl Heard {
    pub(crate) fn listen(&mut self, guest: &mut Guest) {
        for frame in guest.drain() {
            let Some((_, payload)) = frame.split_at_checked(42) else { continue };
            let Ok(octets) = <[u8; 16]>::try_from(payload) else { continue };
            let (number, check) = octets.split_at(8);
            let number = u64::from_be_bytes(number.try_into().unwrap());
            assert_eq!(check, (!number).to_be_bytes(), "a frame that was never sent");
            match number.checked_sub(self.last + 1) {
                Some(missing) => {
                    self.lost += missing;
                    self.last = number;
                }
                None => self.again += 1,
            }
        }
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
