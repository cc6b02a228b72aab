//! One reactor and many vNICs: what it forwards when 2, 16, 128 or 1,000 of them send, and what it
//! costs while all are connected and silent, and while 1,000 on one segment look for each other now
//! and then. The guests' rings are driven by one thread on another
//! CPU. `cargo bench --bench vnics`
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "it is what a benchmark is for")]

#[path = "../tests/support/daemon.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
mod daemon;
#[path = "../tests/support/driver.rs"]
mod driver;
#[path = "../tests/support/frames/mod.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
mod frames;
#[path = "../tests/support/frontend.rs"]
mod frontend;

use daemon::{Daemon, wait_until};
use driver::{BUFFER, HEADER, Memory, QUIET, Ring, WRITE};
use frames::Udp4;
use mvirt_net::{
    addr::MacAddr,
    proto::{NetworkKind, Nic, NicState},
    wire::{arp, ethernet},
};
use rustix::{
    process::{Resource, getrlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use std::{
    hint::black_box,
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    sync::atomic::{Ordering, fence},
    time::{Duration, Instant},
};
use vhost::{
    VhostBackend as _,
    vhost_user::{Frontend, VhostUserFrontend as _},
};
use vm_memory::{Bytes as _, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use zerocopy::IntoBytes as _;

const SENDERS: [usize; 4] = [2, 16, 128, 1000];
const ROUNDS: usize = 7;
const SLOT: Duration = Duration::from_millis(300);
const SILENCE: Duration = Duration::from_secs(5);
/// vNICs of one segment, and how often each asks for another's MAC.
const SEGMENT: usize = 1000;
const ASKS_EVERY: Duration = Duration::from_secs(30);

/// Entries of a ring, and frames sent at a time.
const SIZE: u16 = 256;
const BURST: u16 = 32;
const RX: Ring = Ring::at(0, SIZE, 0x6000);
const TX: Ring = Ring::at(0x3000, SIZE, 0x8_6000);
const MEMORY: u64 = 0x11_0000;
/// VIRTIO_F_VERSION_1, VHOST_USER_F_PROTOCOL_FEATURES.
const FEATURES: u64 = 1 << 32 | 1 << 30;

/// A driver that sends the same frame again and again, written anew each time.
struct Guest {
    memory: Memory,
    kick: EventFd,
    /// With its virtio-net header.
    frame: Vec<u8>,
    /// Chains of the transmit ring shown so far; receive buffers seen used.
    sent: u16,
    received: u16,
    _frontend: Frontend,
    _call: EventFd,
}

impl Guest {
    /// Connected to `nic`, sending `frame`.
    fn connect(nic: &Nic, frame: &[u8]) -> Self {
        let memory = Memory::new(MEMORY);
        let frame = [&[0; HEADER], frame].concat();
        memory.fill(RX, BUFFER, WRITE);
        memory.fill(TX, frame.len() as u32, 0);
        [RX, TX].iter().for_each(|ring| memory.write_u16(ring.available, QUIET));
        memory.show(RX, SIZE);
        let eventfd = || EventFd::new(EFD_NONBLOCK).unwrap();
        let (kick, call) = (eventfd(), eventfd());
        let mut frontend = Frontend::from_stream(UnixStream::connect(&nic.socket_path).unwrap(), 2);
        frontend.set_owner().unwrap();
        frontend.get_features().unwrap();
        frontend.get_protocol_features().unwrap();
        frontend.set_features(FEATURES).unwrap();
        frontend.set_mem_table(&[frontend::region(&memory)]).unwrap();
        for (index, ring) in [RX, TX].into_iter().enumerate() {
            let descriptors = (&kick, &call);
            frontend::start_ring(&frontend, (index, ring), 0, &memory, descriptors).unwrap();
            frontend.set_vring_enable(index, true).unwrap();
        }
        Self { memory, kick, frame, sent: 0, received: 0, _frontend: frontend, _call: call }
    }

    /// Takes what was received, and gives the buffers back. Returns how many frames.
    fn receive(&mut self) -> u16 {
        let used = self.memory.used(RX);
        let count = used.wrapping_sub(self.received);
        for at in 0..count {
            let slot = self.received.wrapping_add(at) % SIZE;
            let address = GuestAddress(RX.buffer(slot) + HEADER as u64);
            black_box(self.memory.read_obj::<u64>(address).unwrap());
        }
        self.received = used;
        if count > 0 {
            self.memory.show(RX, used.wrapping_add(SIZE));
        }
        count
    }

    /// Returns how many of the frames that were received are of ARP.
    fn answers(&self) -> usize {
        let count = self.memory.used(RX).wrapping_sub(self.received);
        let is_arp = |at: &u16| {
            let slot = self.received.wrapping_add(*at) % SIZE;
            let address = GuestAddress(RX.buffer(slot) + HEADER as u64 + 12);
            self.memory.read_obj::<[u8; 2]>(address).unwrap() == ethernet::ARP.to_be_bytes()
        };
        (0..count).filter(is_arp).count()
    }

    /// Sends so many frames, or what there is room for.
    fn send(&mut self, count: u16) {
        let room = SIZE - self.sent.wrapping_sub(self.memory.used(TX));
        let count = room.min(count);
        for at in 0..count {
            let slot = self.sent.wrapping_add(at) % SIZE;
            self.memory.write(TX.buffer(slot), &self.frame);
        }
        if count == 0 {
            return;
        }
        self.sent = self.sent.wrapping_add(count);
        self.memory.show(TX, self.sent);
        fence(Ordering::SeqCst);
        if self.memory.wants_kicks(TX) {
            self.kick.write(1).unwrap();
        }
    }
}

/// A UDP datagram in a frame of 64 octets.
fn frame(from: &Nic, to: &Nic) -> Vec<u8> {
    let mac = from.mac_address.parse::<MacAddr>().unwrap();
    Udp4::new(mac.0, &from.ipv4_address, &to.ipv4_address, &[0; 22]).frame()
}

/// Asks all for the MAC of `to`.
fn question(from: &Nic, to: &Nic) -> Vec<u8> {
    let mac = from.mac_address.parse().unwrap();
    let address = |nic: &Nic| nic.ipv4_address.parse().unwrap();
    let header = ethernet::Header {
        destination: MacAddr::BROADCAST,
        source: mac,
        ether_type: ethernet::ARP.into(),
    };
    let packet = arp::Packet::request(mac, address(from), address(to));
    [header.as_bytes(), packet.as_bytes()].concat()
}

/// Frames a second that guests receive, of which each sends to the next, all of them `pace` a
/// second at most.
fn forward(guests: &mut [Guest], pace: f64) -> f64 {
    let mut run = |time: Duration| {
        let (begun, mut frames, mut sent) = (Instant::now(), 0, 0.0);
        while begun.elapsed() < time {
            for guest in &mut *guests {
                if sent <= begun.elapsed().as_secs_f64() * pace {
                    guest.send(BURST);
                    sent += f64::from(BURST);
                }
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
    let senders = |count| {
        let network = format!("senders{count}");
        connect(&mut daemon, (&network, NetworkKind::Routed, count), frame)
    };
    let mut groups: Vec<Vec<Guest>> = SENDERS.map(senders).into();
    let mut rates = [const { Vec::new() }; SENDERS.len()];
    for _ in 0..ROUNDS {
        for (guests, rates) in groups.iter_mut().zip(&mut rates) {
            rates.push(forward(guests, f64::INFINITY));
        }
    }
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
    captured(&daemon, &mut groups[0]);
    let used = used(&daemon, || std::thread::park_timeout(SILENCE));
    let all: usize = SENDERS.iter().sum();
    println!("{all:5} vNICs are connected and silent: {used:.2} % of a CPU");
    drop(groups);
    let segment = ("segment", NetworkKind::Switched, SEGMENT);
    let mut guests = connect(&mut daemon, segment, question);
    let mut asked = 0;
    let used = self::used(&daemon, || {
        let begun = Instant::now();
        while begun.elapsed() < SILENCE {
            guests[asked % SEGMENT].send(1);
            asked += 1;
            std::thread::park_timeout(ASKS_EVERY / SEGMENT as u32);
        }
    });
    // The gateway asks all who listens to groups, meanwhile.
    let answers: usize = guests.iter().map(Guest::answers).sum();
    assert_eq!(answers, asked, "each is answered, and nobody else hears of it");
    println!("{SEGMENT:5} vNICs of a segment ask now and then: {used:.2} % of a CPU");
}

/// What two that send, 1 Mpps and as many as they can, lose by a capture of all frames: by one that
/// is written to nowhere, and by one that nobody reads. Its client has this thread's CPU, too.
fn captured(daemon: &Daemon, guests: &mut [Guest]) {
    let capture = |out: &str, stdout: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
        command.args(["capture", "--network", "senders2", "-w", out]).stdout(stdout);
        command.stderr(Stdio::null()).env("MVIRT_NET_SERVER", daemon.address()).spawn().unwrap()
    };
    let mut rates = [const { [const { Vec::new() }; 3] }; 2];
    for _ in 0..ROUNDS {
        for at in 0..3 {
            let client = match at {
                0 => None,
                1 => Some(capture("/dev/null", Stdio::null())),
                _ => Some(capture("-", Stdio::piped())),
            };
            // Until it has begun.
            std::thread::park_timeout(SLOT);
            for (rates, pace) in rates.iter_mut().zip([1e6, f64::INFINITY]) {
                rates[at].push(forward(guests, pace));
            }
            if let Some(mut client) = client {
                client.kill().unwrap();
                client.wait().unwrap();
            }
        }
    }
    for (rates, what) in rates.iter().zip(["1 Mpps", "all they can"]) {
        for (captured, how) in rates[1..].iter().zip(["captured", "captured, and nobody reads it"])
        {
            let ratios = captured.iter().zip(&rates[0]).map(|(with, without)| with / without);
            let (median, least, most) = median(&mut ratios.collect::<Vec<_>>());
            println!("    2 vNICs send {what}, {how}: {median:.2} ({least:.2}..{most:.2}) of it");
        }
    }
}

fn median(rates: &mut [f64]) -> (f64, f64, f64) {
    rates.sort_by(f64::total_cmp);
    (rates[ROUNDS / 2], rates[0], rates[ROUNDS - 1])
}

/// The share of a CPU in percent that the daemon needs meanwhile.
fn used(daemon: &Daemon, meanwhile: impl FnOnce()) -> f64 {
    std::thread::park_timeout(Duration::from_secs(1));
    let (before, begun) = (cpu_time(daemon), Instant::now());
    meanwhile();
    (cpu_time(daemon) - before).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0
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

/// A network of so many vNICs, each with its guest, who sends a frame to the next.
fn connect(
    daemon: &mut Daemon,
    (network, kind, count): (&str, NetworkKind, usize),
    frame: fn(&Nic, &Nic) -> Vec<u8>,
) -> Vec<Guest> {
    daemon.network_with(network, |request| {
        request.ipv4_subnet = "10.0.0.0/16".into();
        request.kind = kind.into();
    });
    let nics: Vec<Nic> =
        (0..count).map(|at| daemon.nic(network, &format!("{network}-{at}"))).collect();
    let next = nics.iter().cycle().skip(1);
    let guests = nics.iter().zip(next);
    let guests = guests.map(|(nic, to)| Guest::connect(nic, &frame(nic, to))).collect();
    wait_until("all run", || {
        nics.iter().all(|nic| daemon.get_nic(&nic.name).state() == NicState::Active)
    });
    guests
}
