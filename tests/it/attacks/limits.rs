//! What limits a vNIC is the vNIC's: it outlives whatever its VMM or guest does to rings,
//! connections and processes (R65).

use super::rig::{BUFFERS, Rig, Shape, words};
use crate::{
    daemon::{Daemon, wait_until},
    frames::Udp4,
    guest::{PLAIN, parse_mac},
};
use mvirt_net::proto::{CreateNicRequest, Nic, RateLimit};
use std::{
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};
use vhost::vhost_user::message::FrontendReq as Ask;

const TIME: Duration = Duration::from_millis(1500);
/// Packets a second, and at once.
const PACKETS: (u64, u64) = (100, 64);
/// Bits a second, and at once, in datagrams of 1,000 octets.
const BITS: (u64, u64) = (400_000, 80_000);
/// ICMP errors a second, and at once.
const ERRORS: (u64, u64) = (1000, 1000);
/// What its router tells a guest unasked.
const ADVERTISEMENTS: u64 = 30;
const LEN: usize = 1000;

fn packets() -> RateLimit {
    let (packets_per_second, burst_packets) = PACKETS;
    RateLimit { packets_per_second, burst_packets, ..Default::default() }
}

fn bits() -> RateLimit {
    let (bits_per_second, burst_bits) = BITS;
    RateLimit { bits_per_second, burst_bits, ..Default::default() }
}

/// A flood from one guest to another, both of two pairs.
struct Flood {
    daemon: Daemon,
    nics: [Nic; 2],
    rigs: [Rig; 2],
}

impl Flood {
    fn between(limit: impl Fn(&str, &mut CreateNicRequest)) -> Self {
        let mut daemon = Daemon::start();
        daemon.network("prod");
        let nics = ["a", "b"].map(|name| {
            daemon.nic_with("prod", name, |request| {
                request.queue_pairs = 2;
                limit(name, request);
            })
        });
        let rigs = nics.each_ref().map(Self::rig);
        Self { daemon, nics, rigs }
    }

    fn rig(nic: &Nic) -> Rig {
        let mut rig = None;
        wait_until("the vNIC is served", || {
            rig = Rig::up(nic, &Shape { pairs: 2, ..Shape::new(PLAIN) }).ok();
            rig.is_some()
        });
        let mut rig = rig.unwrap();
        rig.swallow();
        rig
    }

    /// Sends frames as fast as it goes, while `disturb` does what it can; how many a second arrive,
    /// without a burst.
    fn run(&mut self, case: &Case, disturb: Disturbance) -> f64 {
        let frame = self.datagram(case.ttl);
        let (began, mut given) = (Instant::now(), 0);
        while began.elapsed() < TIME {
            given += self.taken(case.counted);
            let chain = self.rigs[0].put(BUFFERS, [0; 12], &frame);
            self.rigs[0].chain(1, &[chain]);
            self.rigs[0].keep(1, 128);
            thread::park_timeout(Duration::from_micros(300));
            given += self.taken(case.counted);
            disturb(self, case.limited);
        }
        given.saturating_sub(case.burst + ADVERTISEMENTS) as f64 / began.elapsed().as_secs_f64()
    }

    /// A datagram from a to b.
    fn datagram(&self, ttl: u8) -> Vec<u8> {
        let mac = parse_mac(&self.nics[0].mac_address);
        let payload = [0; LEN - 42];
        Udp4 { ttl, ..Udp4::new(mac, "10.0.0.1", "10.0.0.2", &payload) }.frame()
    }

    /// How many frames a guest was given since this was last asked; both get their buffers back.
    fn taken(&mut self, who: usize) -> u64 {
        let taken = |rig: &mut Rig| u64::from(rig.keep(0, 256)) + u64::from(rig.keep(2, 256));
        self.rigs.each_mut().map(taken)[who]
    }
}

/// What is done to the vNIC that is limited.
type Disturbance = fn(&mut Flood, usize);

fn nothing(_: &mut Flood, _: usize) {}

/// An unused queue is enabled, again and again.
fn enabling(flood: &mut Flood, who: usize) {
    let voice = &flood.rigs[who].voice;
    for ring in [2, 3] {
        voice.tell(Ask::SET_VRING_ENABLE, &words([ring, 1]), &[]).unwrap();
    }
}

fn coming_and_going(flood: &mut Flood, who: usize) {
    flood.rigs[who].voice.0.shutdown(Shutdown::Both).unwrap();
    flood.rigs[who] = Flood::rig(&flood.nics[who]);
}

fn handing_over(flood: &mut Flood, _: usize) {
    assert!(flood.daemon.hand_over());
}

const DISTURBANCES: [(&str, Disturbance); 4] = [
    ("nothing", nothing),
    ("SET_VRING_ENABLE", enabling),
    ("reconnects", coming_and_going),
    ("hand-overs", handing_over),
];

/// What is limited, and to how much.
struct Case {
    /// The guest, a or b, of which something is limited; and the one that is given frames.
    limited: usize,
    counted: usize,
    ttl: u8,
    /// Frames a second, and at once.
    rate: u64,
    burst: u64,
    limit: fn(&str, &mut CreateNicRequest),
}

impl Case {
    fn assert_kept(&self) {
        for (name, disturb) in DISTURBANCES {
            let given = Flood::between(self.limit).run(self, disturb);
            eprintln!("{name}: {given:.0} a second, of {}", self.rate);
            assert!(given <= self.rate as f64 * 1.1, "{name}: {given:.0}, of {}", self.rate);
        }
    }
}

#[test]
fn packets_of_a_guest_are_limited_whatever_its_vmm_does() {
    let limit = |name: &str, request: &mut CreateNicRequest| {
        request.limit_from_guest = (name == "a").then(packets);
    };
    let (rate, burst) = PACKETS;
    Case { limited: 0, counted: 1, ttl: 64, rate, burst, limit }.assert_kept();
}

#[test]
fn bits_of_a_guest_are_limited_whatever_its_vmm_does() {
    let limit = |name: &str, request: &mut CreateNicRequest| {
        request.limit_from_guest = (name == "a").then(bits);
    };
    let frame = 8 * LEN as u64;
    let (rate, burst) = (BITS.0 / frame, BITS.1 / frame + 1);
    Case { limited: 0, counted: 1, ttl: 64, rate, burst, limit }.assert_kept();
}

#[test]
fn packets_to_a_guest_are_limited_whatever_its_vmm_does() {
    let limit = |name: &str, request: &mut CreateNicRequest| {
        request.limit_to_guest = (name == "b").then(packets);
    };
    let (rate, burst) = PACKETS;
    Case { limited: 1, counted: 1, ttl: 64, rate, burst, limit }.assert_kept();
}

#[test]
fn the_gateway_s_answers_are_limited_whatever_a_vmm_does() {
    let (rate, burst) = ERRORS;
    Case { limited: 0, counted: 0, ttl: 1, rate, burst, limit: |_, _| {} }.assert_kept();
}
