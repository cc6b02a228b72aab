//! One reactor and many vNICs: what it forwards when 2, 16, 128 or 1,000 of them send, and what it
//! costs while all are connected and silent. The guests' rings are driven by one thread on another
//! CPU. `cargo bench --bench vnics`
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "it is what a benchmark is for")]

#[path = "../tests/support/daemon.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
mod daemon;

use daemon::{Daemon, wait_until};
use mvirt_net::proto::{Nic, NicState};
use rustix::{
    process::{Resource, getrlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use std::{
    fs::File,
    hint::black_box,
    net::Ipv4Addr,
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    sync::atomic::{Ordering, fence},
    time::{Duration, Instant},
};
use vhost::{
    VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData,
    vhost_user::{Frontend, VhostUserFrontend as _},
};
use vm_memory::{Bytes as _, FileOffset, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const SENDERS: [usize; 4] = [2, 16, 128, 1000];
const ROUNDS: usize = 7;
const SLOT: Duration = Duration::from_millis(300);
const SILENCE: Duration = Duration::from_secs(5);

/// Entries of a ring, and frames sent at a time.
const SIZE: u16 = 256;
const BURST: u16 = 32;
/// Where receive and transmit ring are, and their buffers of 2 KiB.
const RINGS: [u64; 2] = [0, 0x3000];
const BUFFERS: [u64; 2] = [0x6000, 0x8_6000];
const BUFFER: u64 = 2048;
const MEMORY: u64 = 0x11_0000;
/// VIRTIO_F_VERSION_1, VHOST_USER_F_PROTOCOL_FEATURES.
const FEATURES: u64 = 1 << 32 | 1 << 30;

/// A driver that sends the same frame again and again, written anew each time.
struct Guest {
    memory: GuestMemoryMmap,
    kick: EventFd,
    /// With its virtio-net header.
    frame: Vec<u8>,
    /// Chains made available so far, of each ring; receive buffers seen used.
    available: [u16; 2],
    received: u16,
    _frontend: Frontend,
    _call: EventFd,
}

impl Guest {
    /// Connected to `nic`, sending to `to`.
    fn connect(nic: &Nic, to: &Nic) -> Self {
        let file =
            File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(MEMORY).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let ranges = [(GuestAddress(0), MEMORY as usize, Some(offset))];
        let memory = GuestMemoryMmap::from_ranges_with_files(ranges).unwrap();
        let frame = frame(nic, to);
        for ring in 0..2 {
            // No interrupts, please.
            memory.write_obj(1_u16, GuestAddress(RINGS[ring] + 0x1000)).unwrap();
            for slot in 0..u64::from(SIZE) {
                let at = RINGS[ring] + 16 * slot;
                let (len, flags) = [(2048_u32, 2_u16), (frame.len() as u32, 0)][ring];
                memory.write_obj(BUFFERS[ring] + slot * BUFFER, GuestAddress(at)).unwrap();
                memory.write_obj(len, GuestAddress(at + 8)).unwrap();
                memory.write_obj([flags, 0], GuestAddress(at + 12)).unwrap();
                let entry = GuestAddress(RINGS[ring] + 0x1000 + 4 + 2 * slot);
                memory.write_obj(slot as u16, entry).unwrap();
            }
        }
        let eventfd = || EventFd::new(EFD_NONBLOCK).unwrap();
        let (kick, call) = (eventfd(), eventfd());
        let mut frontend = Frontend::from_stream(UnixStream::connect(&nic.socket_path).unwrap(), 2);
        let user = |at| memory.get_host_address(GuestAddress(at)).unwrap() as u64;
        frontend.set_owner().unwrap();
        frontend.get_features().unwrap();
        frontend.get_protocol_features().unwrap();
        frontend.set_features(FEATURES).unwrap();
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: MEMORY,
            userspace_addr: user(0),
            mmap_offset: 0,
            mmap_handle: file.as_raw_fd(),
        };
        frontend.set_mem_table(&[region]).unwrap();
        for (index, at) in RINGS.into_iter().enumerate() {
            frontend.set_vring_num(index, SIZE).unwrap();
            let data = VringConfigData {
                queue_max_size: SIZE,
                queue_size: SIZE,
                flags: 0,
                desc_table_addr: user(at),
                used_ring_addr: user(at + 0x2000),
                avail_ring_addr: user(at + 0x1000),
                log_addr: None,
            };
            frontend.set_vring_addr(index, &data).unwrap();
            frontend.set_vring_base(index, 0).unwrap();
            frontend.set_vring_call(index, &call).unwrap();
            frontend.set_vring_kick(index, &kick).unwrap();
            frontend.set_vring_enable(index, true).unwrap();
        }
        let mut guest = Self {
            memory,
            kick,
            frame,
            available: [0; 2],
            received: 0,
            _frontend: frontend,
            _call: call,
        };
        guest.post(0, SIZE);
        guest
    }

    fn used(&self, ring: usize) -> u16 {
        self.memory.load(GuestAddress(RINGS[ring] + 0x2002), Ordering::Acquire).unwrap()
    }

    fn post(&mut self, ring: usize, count: u16) {
        self.available[ring] = self.available[ring].wrapping_add(count);
        let at = GuestAddress(RINGS[ring] + 0x1002);
        self.memory.store(self.available[ring], at, Ordering::Release).unwrap();
    }

    /// Takes what was received, and gives the buffers back. Gives how many frames.
    fn receive(&mut self) -> u16 {
        let used = self.used(0);
        let count = used.wrapping_sub(self.received);
        for at in 0..count {
            let slot = u64::from(self.received.wrapping_add(at) % SIZE);
            let address = GuestAddress(BUFFERS[0] + slot * BUFFER + 12);
            black_box(self.memory.read_obj::<u64>(address).unwrap());
        }
        self.received = used;
        if count > 0 {
            self.post(0, count);
        }
        count
    }

    /// Sends a burst, or what there is room for.
    fn send(&mut self) {
        let room = SIZE - self.available[1].wrapping_sub(self.used(1));
        let count = room.min(BURST);
        for at in 0..count {
            let slot = u64::from(self.available[1].wrapping_add(at) % SIZE);
            let address = GuestAddress(BUFFERS[1] + slot * BUFFER);
            self.memory.write_slice(&self.frame, address).unwrap();
        }
        if count == 0 {
            return;
        }
        self.post(1, count);
        fence(Ordering::SeqCst);
        let flags: u16 = self.memory.read_obj(GuestAddress(RINGS[1] + 0x2000)).unwrap();
        if flags & 1 == 0 {
            self.kick.write(1).unwrap();
        }
    }
}

/// A UDP datagram in a frame of 64 octets, behind a virtio-net header.
fn frame(from: &Nic, to: &Nic) -> Vec<u8> {
    let mac: Vec<u8> =
        from.mac_address.split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
    let address = |nic: &Nic| nic.ipv4_address.parse::<Ipv4Addr>().unwrap().octets();
    let mut frame = [&[0; 12][..], &[2, 0, 0, 0, 0, 1], &mac, &[8, 0]].concat();
    frame.extend([0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend([address(from), address(to)].concat());
    frame.extend([4, 210, 4, 211, 0, 30, 0, 0]);
    frame.resize(12 + 64, 0);
    frame
}

/// Frames a second that guests receive, of which each sends to the next.
fn forward(guests: &mut [Guest]) -> f64 {
    let mut run = |time: Duration| {
        let (begun, mut frames) = (Instant::now(), 0);
        while begun.elapsed() < time {
            for guest in &mut *guests {
                guest.send();
                frames += u64::from(guest.receive());
            }
        }
        frames as f64 / begun.elapsed().as_secs_f64()
    };
    run(SLOT / 6);
    let rate = run(SLOT);
    for guest in guests {
        while guest.receive() > 0 {}
    }
    rate
}

fn main() {
    // A guest has five descriptors.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let cpus = sched_getaffinity(None).unwrap();
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| cpus.is_set(*cpu)).take(2).collect();
    let [reactor, here] = cpus[..] else { panic!("two CPUs are needed") };
    let mut daemon = Daemon::start_with(&["--reactors", "1", "--cpus", &reactor.to_string()]);
    let mut set = CpuSet::new();
    set.set(here);
    sched_setaffinity(None, &set).unwrap();
    let mut groups: Vec<Vec<Guest>> = SENDERS.map(|count| connect(&mut daemon, count)).into();
    let mut rates = [const { Vec::new() }; SENDERS.len()];
    for _ in 0..ROUNDS {
        for (guests, rates) in groups.iter_mut().zip(&mut rates) {
            rates.push(forward(guests));
        }
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        (rates[ROUNDS / 2], rates[0], rates[ROUNDS - 1])
    };
    let (two, ..) = median(&mut rates[0]);
    for (count, rates) in SENDERS.iter().zip(&mut rates) {
        let (median, least, most) = median(rates);
        println!(
            "{count:5} vNICs send: {:6.2} ({:.2}..{:.2}) Mpps, {:.2} of what two do",
            median / 1e6,
            least / 1e6,
            most / 1e6,
            median / two
        );
    }
    std::thread::park_timeout(Duration::from_secs(1));
    let before = cpu_time(&daemon);
    std::thread::park_timeout(SILENCE);
    let used = (cpu_time(&daemon) - before).as_secs_f64() / SILENCE.as_secs_f64();
    let all: usize = SENDERS.iter().sum();
    println!("{all:5} vNICs are connected and silent: {:.2} % of a CPU", used * 100.0);
}

/// What all threads of the daemon have run, to the nanosecond: ticks would miscount what runs for
/// microseconds.
fn cpu_time(daemon: &Daemon) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let run = tasks.map(|task| {
        let statistics = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
        statistics.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    Duration::from_nanos(run.sum())
}

/// A network of so many vNICs, each with its guest.
fn connect(daemon: &mut Daemon, count: usize) -> Vec<Guest> {
    let network = format!("senders{count}");
    daemon.network_with(&network, |request| request.ipv4_subnet = "10.0.0.0/16".into());
    let nics: Vec<Nic> =
        (0..count).map(|at| daemon.nic(&network, &format!("{network}-{at}"))).collect();
    let next = nics.iter().cycle().skip(1);
    let guests = nics.iter().zip(next).map(|(nic, to)| Guest::connect(nic, to)).collect();
    wait_until("all run", || {
        nics.iter().all(|nic| daemon.get_nic(&nic.name).state() == NicState::Active)
    });
    guests
}
