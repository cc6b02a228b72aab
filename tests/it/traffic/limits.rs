//! How much a vNIC may carry, and that one which carries all it can leaves the others their share.

use crate::{
    command::{mvirt, stdout},
    daemon::{Daemon, wait_until},
    frames::Udp4,
    guest::{Guest, QUEUE},
};
use mvirt_net::proto::{RateLimit, SetNicLimitsRequest};
use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

const BURST: u64 = 50;
const RATE: u64 = 1000;
const SENT: u64 = 1500;

fn limit() -> Option<RateLimit> {
    Some(RateLimit { packets_per_second: RATE, burst_packets: BURST, ..Default::default() })
}

fn set(daemon: &mut Daemon, request: SetNicLimitsRequest) -> Result<(), tonic::Status> {
    daemon.call(async |client| client.set_nic_limits(request).await).map(drop)
}

/// How many frames of a flood have come since this was last asked.
fn flooded(guest: &mut Guest) -> u64 {
    guest.drain().iter().filter(|frame| frame.ends_with(b"flood")).count() as u64
}

/// Sends frames from `a` to `b` as fast as it goes; how many arrive, and the most that may have.
fn flood(daemon: &mut Daemon, a: &mut Guest, b: &mut Guest) -> (u64, u64) {
    let frame = Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", b"flood").frame();
    let before = daemon.stats("a").ingress_frames;
    let (started, mut heard) = (Instant::now(), 0);
    for _ in 0..SENT {
        // No more than `b` has buffers for, however late this thread takes what is in them.
        wait_until("half of it is taken", || a.driver.in_flight() < QUEUE / 2);
        heard += flooded(b);
        a.send(&frame);
    }
    wait_until("all is dealt with", || daemon.stats("a").ingress_frames == before + SENT);
    let most = BURST + (started.elapsed().as_secs_f64() * RATE as f64) as u64 + 1;
    // What is on its way to another reactor arrives at once.
    let deadline = Instant::now() + Duration::from_millis(100);
    while Instant::now() < deadline {
        heard += flooded(b);
    }
    (heard, most)
}

#[test]
fn a_vnic_carries_what_it_may_each_way() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic_with("prod", "a", |r| r.limit_from_guest = limit());
    assert_eq!(nic.limit_from_guest, limit());
    let mut a = Guest::connect(&nic);
    let mut b = Guest::connect(&daemon.nic("prod", "b"));
    let (heard, most) = flood(&mut daemon, &mut a, &mut b);
    assert!((BURST..=most).contains(&heard), "{heard} of at most {most}");
    assert_eq!(daemon.drops("a", "rate_limited"), SENT - heard);
    // The limit goes over to the receiver, while both are connected.
    set(&mut daemon, SetNicLimitsRequest { id: "a".into(), ..Default::default() }).unwrap();
    let request = SetNicLimitsRequest { id: "b".into(), to_guest: limit(), ..Default::default() };
    set(&mut daemon, request).unwrap();
    let (heard, most) = flood(&mut daemon, &mut a, &mut b);
    assert!((BURST..=most).contains(&heard), "{heard} of at most {most}");
    set(&mut daemon, SetNicLimitsRequest { id: "b".into(), ..Default::default() }).unwrap();
    assert_eq!(flood(&mut daemon, &mut a, &mut b).0, SENT, "without a limit all arrive");
    daemon.crash_and_restart();
    assert_eq!(daemon.get_nic("a").limit_from_guest, None);
}

#[test]
fn a_receiver_on_another_reactor_gets_what_it_may() {
    let (mut daemon, a, b) = Daemon::with_nics_apart();
    let to = b.ipv4_address.clone();
    let request = SetNicLimitsRequest { id: "b".into(), to_guest: limit(), ..Default::default() };
    set(&mut daemon, request).unwrap();
    let (mut a, mut b) = (Guest::connect(&a), Guest::connect(&b));
    let frame = Udp4::new(a.mac, "10.0.0.1", &to, b"flood").frame();
    let (started, mut heard) = (Instant::now(), 0);
    for _ in 0..SENT {
        a.send(&frame);
        heard += flooded(&mut b);
    }
    wait_until("all that was sent has arrived or is counted", || {
        heard += flooded(&mut b);
        heard + daemon.drops("b", "rate_limited") == SENT
    });
    let most = BURST + (started.elapsed().as_secs_f64() * RATE as f64) as u64 + 1;
    assert!((BURST..=most).contains(&heard), "{heard} of at most {most}");
}

#[test]
fn limits_are_set_and_shown_as_people_write_them() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.nic("prod", "a");
    let run = |args: &[&str]| mvirt(&daemon, &[&["nic", "limit", "a"], args].concat());
    let shown = stdout(&run(&[
        "--from-guest",
        "1Gbit/20Mbit",
        "--from-guest",
        "200kpps",
        "--to-guest",
        "5Mbit",
    ]));
    for line in ["from guest  1Gbit/20Mbit,200kpps", "to guest    5Mbit"] {
        assert!(shown.contains(line), "{line:?} is not in\n{shown}");
    }
    let cleared = stdout(&run(&["--clear-from-guest", "--clear-to-guest"]));
    assert_eq!(cleared, "from guest  no limit\nto guest    no limit\n");
    assert_eq!(run(&["--to-guest", "fast"]).status.code(), Some(2));
    let nothing = Some(RateLimit { burst_bits: 7, ..Default::default() });
    let request = SetNicLimitsRequest { id: "a".into(), from_guest: nothing, ..Default::default() };
    let refused = set(&mut daemon, request).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().starts_with("from_guest: \"7\""), "{refused}");
}

#[test]
fn a_flood_leaves_the_others_their_share() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut flooding = Guest::connect(&daemon.nic("prod", "flood"));
    let _sink = Guest::connect(&daemon.nic("prod", "sink"));
    let mut light: Vec<_> =
        (0..7).map(|n| Guest::connect(&daemon.nic("prod", &format!("light{n}")))).collect();
    let stop = AtomicBool::new(false);
    let mut waits = std::thread::scope(|scope| {
        scope.spawn(|| {
            let frame = Udp4::new(flooding.mac, "10.0.0.1", "10.0.0.2", &[0; 64]).frame();
            while !stop.load(Relaxed) {
                flooding.driver.send_quietly(&frame);
            }
        });
        let mut waits = Vec::new();
        // Fewer than the gateway answers at once.
        for _ in 0..30 {
            for guest in &mut light {
                let asked = Instant::now();
                assert!(guest.ping("169.254.0.1"));
                waits.push(asked.elapsed());
            }
        }
        stop.store(true, Relaxed);
        waits
    });
    waits.sort();
    let median = waits[waits.len() / 2];
    assert!(median < Duration::from_millis(20), "{median:?}, at most {:?}", waits.last());
}
