//! Memory that VMMs share: holes in it, more of it than there are addresses, and its end.

use super::{
    rig::{BUFFERS, Rig, Shape, Voice},
    stage::{Stage, available_memory},
};
use crate::{
    daemon::{cannot_run, wait_until},
    frames::Udp4,
    guest::{PLAIN, parse_mac},
};
use mvirt_net::proto::{GetVersionRequest, NicState};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};
use std::{
    fs::{self, File},
    time::{Duration, Instant},
};

const GIB: u64 = 1 << 30;
/// What a hole of a GiB may cost all others, once (docs/reliability.md): the kernel lets whoever
/// touches the file wait until it is punched.
const HOLE: Duration = Duration::from_millis(300);
/// How long a client may wait when a VM's memory is freed.
const FREED: Duration = Duration::from_millis(100);

#[test]
fn holes_in_memory_cost_their_vnic() {
    if available_memory() < 3 * GIB {
        eprintln!("skipped: needs 3 GiB of memory");
        return;
    }
    let mut stage = Stage::set();
    let [a, b] = ["evil-a", "evil-b"].map(|name| stage.evil(name));
    let mut sender = Rig::up(&a, &Shape::new(PLAIN)).unwrap();
    let frame = Udp4::new(parse_mac(&a.mac_address), "10.0.0.1", "10.0.0.2", b"x").frame();
    let sent = sender.put(BUFFERS, [0; 12], &frame);
    sender.chain(1, &[sent]);
    let mut holey = Rig::up(&b, &Shape { memory: GIB, ..Shape::new(PLAIN) }).unwrap();
    for slot in 0..256 {
        let at = BUFFERS + u64::from(slot) * ((GIB - BUFFERS) / 256);
        holey.receive_into(slot, (at, 2048));
    }
    // That it may not go on with that is shown by a port that sleeps (tests/reactor.rs).
    let seen = stage.play(|| {
        // Behind the rings, which are to stay.
        let range = (BUFFERS, GIB - BUFFERS);
        fallocate(&holey.memory.file, FallocateFlags::empty(), range.0, range.1).unwrap();
        holey.keep(0, 256);
        sender.keep(1, 256);
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&holey.memory.file, punch, range.0, range.1).unwrap();
    });
    seen.assert_silence_below(HOLE);
    seen.assert_served();
}

/// Pages of 2 MiB that the host has beside those it had, given back when this is dropped.
struct LargePages(usize);

impl LargePages {
    const PATH: &str = "/proc/sys/vm/nr_hugepages";

    fn count() -> usize {
        fs::read_to_string(Self::PATH).unwrap().trim().parse().unwrap()
    }

    /// So many more; `None`: memory is short or scattered, or the test is not root.
    fn reserve(pages: usize) -> Option<Self> {
        let before = Self::count();
        fs::write(Self::PATH, (before + pages).to_string()).ok()?;
        let reserved = Self(before);
        (Self::count() >= before + pages).then_some(reserved)
    }
}

impl Drop for LargePages {
    fn drop(&mut self) {
        fs::write(Self::PATH, self.0.to_string()).unwrap();
    }
}

#[test]
fn large_pages_that_nobody_has_touched_cost_their_vnic() {
    const PAGE: u64 = 2 << 20;
    const PIECES: u64 = 256;
    let memory = (PIECES + 2) * PAGE;
    let Some(_pages) = LargePages::reserve(PIECES as usize + 2) else {
        return cannot_run("258 pages of 2 MiB cannot be reserved");
    };
    let mut stage = Stage::set();
    let nic = stage.evil("evil");
    let shape = Shape { memory, large_pages: true, ..Shape::new(PLAIN) };
    let mut rig = Rig::up(&nic, &shape).unwrap();
    // The rings are in the first two pages.
    let pieces = (2..2 + PIECES).map(|page| (page * PAGE, 1)).collect::<Vec<_>>();
    rig.chain(1, &pieces);
    wait_until("it is locked out", || {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&rig.memory.file, punch, 2 * PAGE, PIECES * PAGE).unwrap();
        rig.keep(1, 1);
        stage.daemon.get_nic("evil").state() == NicState::Error
    });
    let log = stage.daemon.log();
    assert!(log.contains("not served for 1s"), "{log}");
    // Two are held against it, and one has put the reactor on watch.
    assert!(rig.used(1) <= 4, "{} frames went before", rig.used(1));
}

#[test]
fn more_memory_than_there_are_addresses_leaves_some_to_others() {
    let mut stage = Stage::set();
    // First in large pieces, then what is left in smaller ones.
    let sizes = (0..128).map(|_| 1 << 40).chain((28..40).rev().flat_map(|bits| [1 << bits; 2]));
    let nic = |(n, len): (usize, u64)| (stage.evil(&format!("evil{n}")), len);
    let nics: Vec<_> = sizes.enumerate().map(nic).collect();
    let honest = stage.daemon.nic("innocent", "honest");
    let mut voices = Vec::new();
    let seen = stage.play_all(
        &nics,
        |(nic, len)| {
            let voice = Voice::dial(nic).unwrap();
            voice.greet(PLAIN).unwrap();
            let file = File::from(memfd_create("sparse", MemfdFlags::CLOEXEC).unwrap());
            file.set_len(*len).unwrap();
            // Refused, it may be.
            voice.share(&file, &[(0, *len)]).ok();
            voices.push(voice);
        },
        |_| {
            let shape = Shape { memory: GIB / 2, ..Shape::new(PLAIN) };
            Rig::up(&honest, &shape).expect("an honest VM of 512 MiB is served");
        },
    );
    seen.assert_harmless();
}

#[test]
fn many_regions_leave_some_to_others() {
    let mut stage = Stage::set();
    // More descriptors and mappings than a process has here, or than the daemon allows.
    let nics: Vec<_> = (0..330).map(|n| stage.evil(&format!("evil{n}"))).collect();
    let honest = stage.daemon.nic("innocent", "honest");
    let file = File::from(memfd_create("regions", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(4096).unwrap();
    let regions: Vec<_> = (0..64).map(|n| (n << 20, 4096)).collect();
    let mut voices = Vec::new();
    let seen = stage.play_all(
        &nics,
        |nic| {
            let Ok(voice) = Voice::dial(nic) else { return };
            if voice.greet(PLAIN).is_ok() {
                // Refused, it may be.
                voice.share(&file, &regions).ok();
                voices.push(voice);
            }
        },
        |_| {
            Rig::up(&honest, &Shape::new(PLAIN)).expect("an honest VM is served");
        },
    );
    seen.assert_harmless();
}

/// The longest that a client waits in the half second after a VM with `len` octets of memory was
/// killed.
fn longest_answer_after_a_kill(stage: &mut Stage, len: u64) -> Duration {
    let nic = stage.daemon.get_nic("evil");
    let mut voice = None;
    wait_until("the vNIC is free", || {
        let greeted = Voice::dial(&nic).and_then(|voice| voice.greet(PLAIN).map(|()| voice));
        voice = greeted.ok();
        voice.is_some()
    });
    let voice = voice.unwrap();
    let file = File::from(memfd_create("touched", MemfdFlags::CLOEXEC).unwrap());
    fallocate(&file, FallocateFlags::empty(), 0, len).unwrap();
    voice.share(&file, &[(0, len)]).unwrap();
    drop((file, voice));
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    while began.elapsed() < Duration::from_millis(500) {
        let asked = Instant::now();
        let version = async |client: &mut crate::daemon::Client| {
            client.get_version(GetVersionRequest {}).await
        };
        stage.daemon.call(version).unwrap();
        longest = longest.max(asked.elapsed());
        std::thread::park_timeout(Duration::from_millis(1));
    }
    longest
}

#[test]
fn the_end_of_a_large_vm_makes_no_client_wait() {
    if available_memory() < 5 * GIB {
        eprintln!("skipped: needs 5 GiB of memory");
        return;
    }
    let mut stage = Stage::set();
    stage.evil("evil");
    let longest: Vec<_> =
        (0..5).map(|_| longest_answer_after_a_kill(&mut stage, 3 * GIB)).collect();
    eprintln!("{longest:?}");
    // The machine may be busy in some of them.
    assert!(longest.iter().min() < Some(&FREED), "{longest:?}");
}
