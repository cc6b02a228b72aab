//! A guest moves to another host: while it does, every page of its memory that the daemon writes is
//! marked, and where it arrives another daemon goes on with its rings.

use crate::{
    daemon::{Daemon, wait_until},
    driver::{BUFFER, Memory},
    frames::{Udp4, is_udp4},
    guest::{EVENT_IDX, Guest, MEMORY, MRG_RXBUF, PLAIN, QUEUE, RX, TX},
    machine::{Machine, ask, hear},
};
use mvirt_net::proto::NicState;
use std::{
    collections::BTreeSet,
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::Path,
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};
use vhost::{VhostBackend as _, VhostUserDirtyLogRegion};
use vm_memory::{GuestAddress, GuestMemoryBackend as _, VolatileMemory as _};

const LOG_ALL: u64 = 1 << 26;
const PAGE: usize = 4096;
const PAGES: usize = MEMORY as usize / PAGE;

/// The VMM's view of the marks.
struct Marks(Memory);

impl Marks {
    fn new() -> Self {
        Self(Memory::new(PAGE as u64))
    }

    /// Tells the daemon of them, and that it is to mark.
    fn start(&self, guest: &Guest, octets: usize) {
        let frontend = &guest.driver.frontend;
        let region = VhostUserDirtyLogRegion {
            mmap_size: octets as u64,
            mmap_offset: 0,
            mmap_handle: self.0.file.as_raw_fd(),
        };
        frontend.set_log_base(0, Some(region)).unwrap();
        frontend.set_features(guest.driver.features | LOG_ALL).unwrap();
    }

    /// Takes the marks of all pages away; gives them.
    fn take(&self) -> BTreeSet<usize> {
        let octets = self.0.get_slice(GuestAddress(0), PAGES / 8).unwrap();
        let octet = |at| octets.get_atomic_ref::<AtomicU8>(at).unwrap().swap(0, Ordering::SeqCst);
        let pages = |at| {
            let octet = octet(at);
            (0..8).filter(move |bit| octet >> bit & 1 != 0).map(move |bit| at * 8 + bit)
        };
        (0..PAGES / 8).flat_map(pages).collect()
    }
}

fn contents(guest: &Guest) -> Vec<u8> {
    guest.driver.memory.read(0, MEMORY as usize)
}

/// The pages in which both differ.
fn changed(before: &[u8], after: &[u8]) -> Vec<usize> {
    let pages = before.chunks(PAGE).zip(after.chunks(PAGE)).enumerate();
    pages.filter(|(_, (before, after))| before != after).map(|(page, _)| page).collect()
}

/// Frames of many lengths from one guest to another, until all have arrived.
fn exchange(a: &mut Guest, b: &mut Guest, salt: u8) {
    for len in [1, 18, 100, 400, 900, 1400] {
        let payload: Vec<u8> = (0..len).map(|at| at as u8 ^ salt).collect();
        a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", &payload).frame());
        b.expect("the frame arrives", |frame| is_udp4(frame, &payload));
    }
}

/// That all of a guest's pages that changed, of those only the daemon writes, are marked, and no
/// others.
fn assert_marked(guest: &Guest, marks: &Marks, before: &[u8], mut marked: BTreeSet<usize>) {
    let of =
        |start: u64, octets: usize| start as usize / PAGE..(start as usize + octets - 1) / PAGE + 1;
    let ours: Vec<usize> = [
        of(RX.used, PAGE),
        of(TX.used, PAGE),
        of(RX.buffers, usize::from(QUEUE) * BUFFER as usize),
    ]
    .into_iter()
    .flatten()
    .collect();
    let changed: Vec<usize> =
        changed(before, &contents(guest)).into_iter().filter(|page| ours.contains(page)).collect();
    assert!(changed.len() > 1, "something was written: {changed:?}");
    wait_until("all that was written is marked", || {
        marked.extend(marks.take());
        changed.iter().all(|page| marked.contains(page))
    });
    assert!(marked.iter().all(|page| ours.contains(page)), "{marked:?}");
}

#[test]
fn every_page_that_is_written_while_a_guest_migrates_is_marked() {
    for (features, buffer) in [
        (PLAIN, BUFFER),
        (PLAIN | EVENT_IDX, BUFFER),
        (PLAIN | MRG_RXBUF | EVENT_IDX, 256),
        (PLAIN | MRG_RXBUF, BUFFER),
    ] {
        let mut daemon = Daemon::start();
        daemon.network("prod");
        let nics = [daemon.nic("prod", "a"), daemon.nic("prod", "b")];
        let (mut a, mut b) =
            (Guest::connect(&nics[0]), Guest::connect_with(&nics[1], features, buffer));
        exchange(&mut a, &mut b, 0);
        let marks = Marks::new();
        marks.start(&b, PAGES / 8);
        for salt in 1..4 {
            let (before, marked) = (contents(&b), marks.take());
            exchange(&mut a, &mut b, salt);
            assert_marked(&b, &marks, &before, marked);
            // What it sends itself changes its transmit ring.
            let (before, marked) = (contents(&b), marks.take());
            for _ in 0..8 {
                assert!(b.ping("169.254.0.1"));
            }
            assert_marked(&b, &marks, &before, marked);
            if salt == 2 {
                assert!(daemon.hand_over(), "marks are taken over, too");
            }
        }
        b.driver.frontend.set_features(features).unwrap();
        marks.take();
        exchange(&mut a, &mut b, 9);
        assert_eq!(marks.take(), [].into(), "it has stayed");
    }
}

#[test]
fn marks_that_are_too_few_or_taken_away_hurt_nobody_else() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nics = ["a", "b", "c", "d"].map(|name| daemon.nic("prod", name));
    let [mut a, mut b, mut c, mut d] = nics.each_ref().map(Guest::connect);
    let few = Marks::new();
    few.start(&b, 1);
    exchange(&mut a, &mut b, 0);
    assert!(few.take().iter().all(|page| *page < 8));
    let gone = Marks::new();
    gone.start(&b, PAGES / 8);
    gone.0.file.set_len(0).unwrap();
    a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", b"lost").frame());
    let sent = Instant::now();
    daemon.wait_for_state("b", NicState::Error);
    assert!(sent.elapsed() < Duration::from_secs(10), "with this frame, not with the next one");
    assert!(d.answers(&mut c, "10.0.0.4"));
    assert!(c.answers(&mut a, "10.0.0.3"));
    // Without a place for marks there is no migration.
    let wrong = c.driver.frontend.set_features(c.driver.features | LOG_ALL);
    assert!(wrong.is_err());
    daemon.wait_for_state("c", NicState::Error);
    daemon.says("has not said where");
}

#[test]
fn a_qemu_guest_moves_from_one_daemon_to_another_while_it_pings() {
    let (mut here, mut there) = (Daemon::start(), Daemon::start());
    let place = |daemon: &mut Daemon| {
        daemon.network("prod");
        let moving = daemon.nic_with("prod", "moving", |nic| {
            nic.mac_address = "02:00:00:00:00:77".into();
        });
        (moving, Guest::connect(&daemon.nic("prod", "peer")))
    };
    let ((from, mut peer_here), (to, mut peer_there)) = (place(&mut here), place(&mut there));
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let monitor_at = format!("unix:{},server,nowait", path("monitor"));
    let channel = format!("unix:{}", path("channel"));
    let mut guest = Machine::qemu(&here, &from, &["-monitor", &monitor_at]);
    guest.succeed("lease4");
    let mut arrived =
        Machine::spawn_qemu(&there, &to, &["-incoming", &channel, "-monitor", "none"]);
    wait_until("the other QEMU waits", || Path::new(&path("channel")).exists());
    guest.begin("ping -i 0.1 -c 100 10.0.0.2");
    let mut monitor = UnixStream::connect(path("monitor")).unwrap();
    hear(&mut monitor);
    let began = Instant::now();
    let (mut moving, mut text) = (false, String::new());
    while !text.contains("@@ ") {
        assert!(
            began.elapsed() < Duration::from_secs(100),
            "{text}\n{}",
            ask(&mut monitor, "info migrate")
        );
        peer_here.answer_echoes();
        peer_there.answer_echoes();
        for line in guest.lines().chain(arrived.lines()) {
            text += &(line + "\n");
        }
        if !moving && text.contains("seq=10 ") {
            moving = true;
            ask(&mut monitor, &format!("migrate -d {channel}"));
        }
        std::thread::yield_now();
    }
    let migration = ask(&mut monitor, "info migrate");
    assert!(migration.contains("Migration status: completed"), "{migration}");
    eprintln!("{migration}");
    let counted = |daemon: &mut Daemon| daemon.stats("moving").ingress_forwarded;
    assert!(counted(&mut here) > 10 && counted(&mut there) > 10);
    let received = text.split(" packets received").next().unwrap().rsplit(' ').next().unwrap();
    assert!(received.parse::<u32>().unwrap() >= 90, "{text}");
    drop(guest);
    arrived.succeed("ping -c 2 -W 5 169.254.0.1");
}
