//! Hostile guests and VMMs: their own vNIC fails with a reason, comes back with the next good
//! connection, and an innocent pair of guests notices nothing.

use crate::{
    command::mvirt,
    daemon::{Daemon, wait_until},
    driver::{INDIRECT, NEXT, WRITE},
    frames::{Udp4, is_udp4},
    guest::{Driver, Guest, PLAIN, QUEUE, RX, TX, pair},
    hostile::scribble,
    innocents::{EndAtDrop, Shared, innocents},
    numbered::{Heard, numbered},
    random::{Random, rounds},
};
use mvirt_net::proto::{Nic, NicState};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::{
    io::{Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant},
};
use vhost::VhostBackend as _;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

struct Neighbours(Guest, Guest, u32);

impl Neighbours {
    fn new(daemon: &mut Daemon) -> Self {
        daemon.network("innocent");
        let a = Guest::connect(&daemon.nic("innocent", "a"));
        Self(a, Guest::connect(&daemon.nic("innocent", "b")), 0)
    }

    fn still_talk(&mut self) {
        let Self(a, b, round) = self;
        *round += 1;
        let payload = round.to_be_bytes();
        a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", &payload).frame());
        b.expect("the neighbours still talk", |frame| is_udp4(frame, &payload));
    }
}

/// Runs a hostile act on a fresh connection; expects the vNIC to fail with `reason` and to come
/// back.
fn fails_with(
    daemon: &mut Daemon,
    neighbours: &mut Neighbours,
    nic: &Nic,
    reason: &str,
    act: impl FnOnce(&mut Driver),
) {
    let mut driver = Driver::connect(Path::new(&nic.socket_path), PLAIN, 2048);
    daemon.wait_for_state("evil", NicState::Active);
    act(&mut driver);
    daemon.wait_for_state("evil", NicState::Error);
    daemon.says(reason);
    neighbours.still_talk();
    drop(driver);
    let mut guest = Guest::connect(nic);
    assert_eq!(guest.lease().0, "10.0.0.1/32", "the next good connection works");
    drop(guest);
    daemon.wait_for_state("evil", NicState::Created);
}

#[test]
fn a_vmm_that_wants_to_know_is_told_of_a_broken_ring() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "evil");
    let driver = Driver::connect(Path::new(&nic.socket_path), PLAIN, 2048);
    let errors = [EventFd::new(EFD_NONBLOCK).unwrap(), EventFd::new(EFD_NONBLOCK).unwrap()];
    for (ring, error) in errors.iter().enumerate() {
        driver.frontend.set_vring_err(ring, error).unwrap();
    }
    assert!(daemon.hand_over());
    assert!(errors.iter().all(|error| error.read().is_err()), "nothing is wrong yet");
    driver.memory.offer(TX, 0, QUEUE);
    driver.kick(1);
    daemon.wait_for_state("evil", NicState::Error);
    assert_eq!(errors.map(|error| error.read().unwrap()), [1, 1]);
}

#[test]
fn broken_rings_cost_their_own_vnic_only() {
    let mut daemon = Daemon::start();
    let mut neighbours = Neighbours::new(&mut daemon);
    daemon.network("prod");
    let nic = daemon.nic("prod", "evil");
    let offer = |driver: &mut Driver, head: u16| {
        driver.memory.offer(TX, 0, head);
        driver.kick(1);
    };
    let mut case = |reason: &str, act: &dyn Fn(&mut Driver)| {
        fails_with(&mut daemon, &mut neighbours, &nic, reason, act);
    };
    case("available index", &|d| {
        d.memory.show(TX, QUEUE + 1);
        d.kick(1);
    });
    case("is outside its table", &|d| offer(d, QUEUE));
    case("is outside its table", &|d| {
        d.memory.describe(TX, 0, (TX.buffers, 64), NEXT, 0xffff);
        offer(d, 0);
    });
    case("not within the guest's memory", &|d| {
        d.memory.describe(TX, 0, ((4 << 20) - 10, 64), 0, 0);
        offer(d, 0);
    });
    case("not within the guest's memory", &|d| {
        d.memory.describe(TX, 0, (u64::MAX - 5, u32::MAX), 0, 0);
        offer(d, 0);
    });
    case("not within the guest's memory", &|d| {
        d.memory.describe(TX, 0, (1 << 40, 0), 0, 0);
        offer(d, 0);
    });
    case("a buffer is writable", &|d| {
        d.memory.describe(TX, 0, (TX.buffers, 64), WRITE, 0);
        offer(d, 0);
    });
    case("indirect descriptor table", &|d| {
        d.memory.describe(TX, 0, (TX.buffers, 64), INDIRECT, 0);
        offer(d, 0);
    });
    case("a buffer is not writable", &|d| {
        for slot in 0..QUEUE {
            d.memory.describe(RX, slot, (RX.buffers, 2048), 0, 0);
        }
        d.send_with([0; 12], &Udp4::new([0x52; 6], "10.0.0.1", "10.0.0.1", b"").frame());
        // The gateway's answer to a request needs a receive buffer.
        let mac = crate::guest::parse_mac(&nic.mac_address);
        let arp = [
            &[0xff; 6][..],
            &mac,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &mac,
            &[10, 0, 0, 1],
            &[0; 6],
            &[169, 254, 0, 1],
        ]
        .concat();
        d.send_with([0; 12], &arp);
    });
    case("truncated memory", &|d| {
        d.memory.file.set_len(0).ok();
        d.kick(1);
        d.kick(0);
    });
}

#[test]
fn a_chain_that_never_ends_costs_its_frame_only() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "evil");
    let driver = Driver::connect(Path::new(&nic.socket_path), PLAIN, 2048);
    driver.memory.describe(TX, 0, (TX.buffers, 64), NEXT, 1);
    driver.memory.describe(TX, 1, (TX.buffers, 64), NEXT, 0);
    driver.memory.offer(TX, 0, 0);
    driver.kick(1);
    wait_until("the frame is dropped", || daemon.drops("evil", "chain_too_long") == 1);
    wait_until("its chain is given back", || driver.tx_used() == 1);
    assert_eq!(daemon.get_nic("evil").state(), NicState::Active);
}

/// Connects, with rings that nobody sane would have, and leaves.
fn attack(nic: &Nic, random: &mut Random) {
    let mut driver = Driver::memory_only(Path::new(&nic.socket_path), PLAIN, 2048);
    driver.negotiate();
    scribble(&driver.memory, random);
    // It may have seen enough before all is started.
    let started = driver.try_start_rings(0).is_ok();
    for _ in 0..if started { random.below(4) } else { 0 } {
        driver.kick(random.below(2) as usize);
        scribble(&driver.memory, random);
    }
}

/// Sends as many frames as are due at `rate` a second, as far as the ring has room, for `time`; how
/// many arrive.
fn carried(a: &mut Guest, b: &mut Guest, rate: f64, time: Duration) -> u64 {
    let (mut due_before, mut heard) = (0, Heard::default());
    let started = Instant::now();
    while started.elapsed() < time {
        let due = (started.elapsed().as_secs_f64() * rate) as u64;
        for _ in due_before..due {
            heard.listen(b);
            // No more than `b` has buffers for.
            if a.driver.in_flight() < QUEUE / 2 {
                heard.sent += 1;
                a.driver.send_quietly(&numbered(a.mac, heard.sent));
            }
        }
        due_before = due;
        std::thread::park_timeout(Duration::from_micros(200));
    }
    wait_until("the last one arrives", || {
        heard.listen(b);
        heard.last == heard.sent
    });
    heard.last - heard.lost
}

#[test]
fn innocents_keep_their_rate_beside_hostile_rings() {
    const RATE: f64 = 5_000.0;
    let mut random = Random::new();
    let mut daemon = Daemon::start();
    daemon.network("evil");
    let evil = daemon.nic("evil", "evil");
    let (_, [mut a, mut b]) = pair(&mut daemon);
    let (attacks, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let attacking = AtomicBool::new(false);
    let (mut alone, mut beside) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                if attacking.load(SeqCst) {
                    attack(&evil, &mut random);
                    attacks.fetch_add(1, SeqCst);
                }
                // Hundreds a second: the CPU that an attacker's own program takes is not the
                // daemon's to share out.
                std::thread::park_timeout(Duration::from_millis(3));
            }
        });
        for _ in 0..10 {
            alone += carried(&mut a, &mut b, RATE, Duration::from_millis(250));
            attacking.store(true, SeqCst);
            beside += carried(&mut a, &mut b, RATE, Duration::from_millis(250));
            attacking.store(false, SeqCst);
        }
        stop.store(true, SeqCst);
    });
    let attacks = attacks.into_inner();
    eprintln!("{alone} frames alone, {beside} beside {attacks} attacks");
    assert!(attacks > 100, "{attacks}");
    assert!(alone > 5_000 && beside * 100 >= alone * 95, "{alone} {beside}");
}

#[test]
fn a_thousand_hostile_rings_hurt_nobody_else() {
    let mut random = Random::new();
    let mut daemon = Daemon::start();
    daemon.network("innocent");
    let innocent = [daemon.nic("innocent", "a"), daemon.nic("innocent", "b")];
    daemon.network("prod");
    let nic = daemon.nic("prod", "evil");
    let before = daemon.descriptors();
    let shared = Shared::default();
    let (heard, silence) = std::thread::scope(|scope| {
        let end = EndAtDrop(&shared);
        // Innocent guests talk as fast as they can all the while.
        let talking = scope.spawn(|| innocents(&shared, &innocent, 1));
        (0..50 * rounds()).for_each(|_| attack(&nic, &mut random));
        wait_until("the innocent have talked beside it for long enough", || {
            attack(&nic, &mut random);
            shared.arrived.load(SeqCst) > 1000
        });
        drop(end);
        talking.join().unwrap()
    });
    eprintln!("{} frames of the innocent, longest silence {silence:?}", heard.sent);
    assert_eq!((heard.lost, heard.again), (0, 0), "of frames that nobody may touch");
    assert!(heard.last > 1000 && silence < Duration::from_secs(1), "{} {silence:?}", heard.last);
    let mut guest = Guest::connect(&nic);
    assert_eq!(guest.lease().0, "10.0.0.1/32", "the next good connection works");
    drop(guest);
    wait_until("nothing is left of them", || daemon.descriptors() == before);
    assert!(!daemon.log().contains("internal error"), "{}", daemon.log());
}

/// Another descriptor of an open file of this process.
fn own(fd: i32) -> OwnedFd {
    let this = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
    pidfd_getfd(this, fd, PidfdGetfdFlags::empty()).unwrap()
}

#[test]
fn a_call_descriptor_that_blocks_holds_nobody_up() {
    let mut daemon = Daemon::start();
    let mut neighbours = Neighbours::new(&mut daemon);
    daemon.network("prod");
    let nic = daemon.nic("prod", "evil");
    let mut guest = Guest::connect(&nic);
    assert!(guest.ping("169.254.0.1"));
    for call in &guest.driver.calls {
        // The daemon's copy is the same open file: full, and to block.
        call.read().ok();
        call.write(u64::MAX - 1).unwrap();
        let file = own(call.as_raw_fd());
        rustix::fs::fcntl_setfl(file, rustix::fs::OFlags::empty()).unwrap();
    }
    for _ in 0..10 {
        assert!(guest.ping("169.254.0.1"), "it is served as before");
        neighbours.still_talk();
    }
    assert!(daemon.hand_over(), "it does not hold that up either");
    assert!(guest.ping("169.254.0.1"));
    neighbours.still_talk();
    assert_eq!(daemon.get_nic("evil").state(), NicState::Active);
}

#[test]
fn a_vmm_that_comes_and_goes_does_not_fill_the_log() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "restless");
    let guest = Guest::connect(&daemon.nic("prod", "held"));
    for _ in 0..400 {
        drop(UnixStream::connect(&nic.socket_path).unwrap());
        drop(UnixStream::connect(&daemon.get_nic("held").socket_path).unwrap());
    }
    drop(guest);
    daemon.wait_for_state("held", NicState::Created);
    let log = daemon.log();
    let lines = |name: &str| log.lines().filter(|line| line.contains(name)).count();
    assert!((50..150).contains(&lines("restless")), "{log}");
    assert!((50..150).contains(&lines("held")), "{log}");
}

#[test]
fn refused_messages_end_the_connection() {
    let mut daemon = Daemon::start();
    let mut neighbours = Neighbours::new(&mut daemon);
    daemon.network("prod");
    let nic = daemon.nic("prod", "evil");
    let mut case = |reason: &str, act: &dyn Fn(&mut Driver)| {
        fails_with(&mut daemon, &mut neighbours, &nic, reason, act);
    };
    case("ring size 3 is not", &|d| assert!(d.frontend.set_vring_num(0, 3).is_err()));
    case("were not offered", &|d| assert!(d.frontend.set_features(PLAIN | 1 << 50).is_err()));
    case("overlaps another", &|d| {
        let region = d.region();
        assert!(d.frontend.set_mem_table(&[region, region]).is_err());
    });
    case("used ring is misaligned", &|d| {
        let data = vhost::VringConfigData {
            queue_max_size: QUEUE,
            queue_size: QUEUE,
            flags: 0,
            desc_table_addr: d.region().userspace_addr,
            avail_ring_addr: d.region().userspace_addr + 0x1000,
            used_ring_addr: d.region().userspace_addr + (4 << 20) - 64,
            log_addr: None,
        };
        assert!(d.frontend.set_vring_addr(0, &data).is_err());
    });
}

#[test]
fn a_refused_request_is_named() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "evil");
    // Without its descriptor, and of ring 99.
    for (name, request, payload) in [
        ("SET_LOG_BASE", 6, vec![0; 16]),
        ("SET_VRING_ADDR", 9, [vec![99], vec![0; 39]].concat()),
        ("GET_VRING_BASE", 11, vec![99, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        let mut stream = UnixStream::connect(&nic.socket_path).unwrap();
        let header = [request, 0, 0, 0, 1, 0, 0, 0, payload.len() as u8, 0, 0, 0];
        stream.write_all(&[&header[..], &payload].concat()).unwrap();
        assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0, "the daemon hangs up");
        wait_until("it is told why", || daemon.log().contains(&format!("refused {name}: ")));
    }
}

#[test]
fn a_vmm_with_more_queues_than_the_vnic_is_told_once_what_to_do() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "narrow");
    for _ in 0..10 {
        let mut stream = UnixStream::connect(&nic.socket_path).unwrap();
        // SET_VRING_ENABLE of ring 4.
        stream.write_all(&[18, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0]).unwrap();
        // It hangs up.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    daemon.wait_for_state("narrow", NicState::Error);
    let log = daemon.log();
    let told = "the VMM uses more queue pairs than the vNIC's 1 (queues=1 in";
    assert_eq!(log.matches(told).count(), 1, "{log}");
    assert!(log.contains("or mvirt nic create --queues 3)"), "{log}");
}

#[test]
fn junk_on_the_socket_is_harmless() {
    let mut daemon = Daemon::start();
    let mut neighbours = Neighbours::new(&mut daemon);
    daemon.network("prod");
    let nic = daemon.nic("prod", "evil");
    let before = daemon.descriptors();
    for junk in [
        &[0xff; 64][..],
        &[0; 12],
        &[1, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        &[8, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4],
    ] {
        let mut stream = UnixStream::connect(&nic.socket_path).unwrap();
        stream.write_all(junk).unwrap();
        assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0, "the daemon hangs up");
        daemon.wait_for_state("evil", NicState::Error);
        neighbours.still_talk();
    }
    // An unknown request is no offence; half a message is, after two seconds.
    let mut stream = UnixStream::connect(&nic.socket_path).unwrap();
    stream.write_all(&[0xee, 3, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    stream.write_all(&[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..12], [1, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0]);
    let mut second = UnixStream::connect(&nic.socket_path).unwrap();
    assert_eq!(second.read(&mut reply).unwrap_or(0), 0, "a second VMM is turned away");
    let doctor = String::from_utf8(mvirt(&daemon, &["doctor", "evil"]).stdout).unwrap();
    assert!(doctor.contains("turned away a second VMM: the vNIC is in use ("), "{doctor}");
    stream.write_all(&[1, 0, 0]).unwrap();
    assert_eq!(stream.read(&mut reply).unwrap_or(0), 0);
    daemon.says("took longer than 2s");
    drop((stream, second));
    crate::daemon::wait_until("no descriptor is left behind", || daemon.descriptors() == before);
}
