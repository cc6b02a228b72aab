//! `mvirt-egress` beside guests that keep to no rule: each segment is written by the test, octet by
//! octet, and sockets of the world hear what comes of it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/egress_helper.rs"]
mod egress_helper;
#[path = "support/namespace.rs"]
mod namespace;
#[path = "support/not_run.rs"]
mod not_run;

use egress_helper::{Helper, SOON, is_ready};
use mvirt_net::{
    egress::{
        compose::{self, Ends, HEAD_LEN},
        packet::{Body, Packet, Transport, split},
        protocol::{Dropped, Report},
    },
    wire::{
        checksum::Checksum,
        ipv4, protocol,
        tcp::{self, Segment},
    },
};
use namespace::{Namespace, run};
use rustix::{
    event::{Timespec, poll},
    io::{read, write},
};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

const GUEST: [u8; 4] = [10, 0, 2, 15];
/// An address of the namespace that the helper is in, as good as any of the world.
const WORLD: [u8; 4] = [198, 51, 100, 1];
/// Of the guest.
const FIRST: u32 = 1000;

struct Rig {
    helper: Helper,
    host: Namespace,
    /// Descriptors that its flows may have.
    flows: u64,
}

impl Rig {
    /// Returns none where this cannot run, and says so. The helper may have so many descriptors.
    fn new(descriptors: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            not_run::cannot_run("only root can make a network namespace");
            return None;
        }
        let host = Namespace::new();
        host.within(|| {
            run("ip link set lo up");
            run("ip link add h0 type veth peer name h1");
            run("ip link set h1 up");
            run("ip addr add 198.51.100.1/16 dev h0");
            run("ip link set h0 up");
        });
        let few = format!("--nofile={descriptors}:{descriptors}");
        let configuration = r#"{"version":1,"nics":[{"tag":7,"ipv4":"10.0.2.15"}]}"#;
        let helper = Helper::start(&host, &["prlimit", &few], configuration);
        let report = helper.report();
        let Report::Ready { flows, .. } = report else { panic!("{report:?}") };
        Some(Self { helper, host, flows })
    }

    fn listen(&self, port: u16) -> TcpListener {
        self.host.within(|| TcpListener::bind(SocketAddr::from((WORLD, port))).unwrap())
    }

    /// Sends a segment of the guest.
    fn say(&self, ends: &Ends, segment: &Segment, payload: &[u8]) {
        let (source, destination) = (ends.from.port(), ends.to.port());
        let segment = Segment { source, destination, ..*segment };
        let mut head = [0; HEAD_LEN];
        let len = compose::tcp_head(&mut head, ends, &segment, (payload.len(), 65_000)).unwrap();
        write(&self.helper.packets, &[&head[..len], payload].concat()).unwrap();
    }

    /// Returns the next segment for the guest, and its payload; none where none comes.
    fn hear(&self, within: Duration) -> Option<(Segment, Vec<u8>)> {
        let start = Instant::now();
        while is_ready(&self.helper.packets, within.saturating_sub(start.elapsed())) {
            let mut buffer = vec![0; 70_000];
            let len = read(&self.helper.packets, &mut buffer[..]).unwrap();
            let (tag, offload, octets) = split(&buffer[..len]).unwrap();
            let packet = Packet::parse(tag, offload, octets).unwrap();
            let Body::Whole(body) = packet.body else { panic!("{packet:?}") };
            if let Ok(Transport::Tcp(segment, payload)) = packet.transport(body) {
                return Some((segment, payload.to_vec()));
            }
        }
        None
    }
}

/// An open connection of the guest.
struct Open<'a> {
    rig: &'a Rig,
    ends: Ends,
    /// The sequence number that the guest is to acknowledge.
    heard: u32,
    /// Behind what the helper has acknowledged.
    acknowledged: u32,
}

impl<'a> Open<'a> {
    fn new(rig: &'a Rig, port: u16, window: u16) -> Self {
        let ends = Ends { tag: 7, from: (GUEST, 40_000).into(), to: (WORLD, port).into() };
        let syn = Segment { sequence: FIRST, flags: tcp::SYN, window, ..Segment::default() };
        rig.say(&ends, &syn, b"");
        Self::answered(rig, ends, window)
    }

    /// Takes the answer to a SYN.
    fn answered(rig: &'a Rig, ends: Ends, window: u16) -> Self {
        let (answer, _) = rig.hear(SOON).unwrap();
        assert_eq!(answer.flags, tcp::SYN | tcp::ACK);
        assert_eq!(answer.acknowledgment, FIRST + 1, "of the SYN, and nothing with it");
        let heard = answer.sequence.wrapping_add(1);
        let open = Self { rig, ends, heard, acknowledged: FIRST + 1 };
        open.say(FIRST + 1, tcp::ACK, window, b"");
        open
    }

    fn say(&self, sequence: u32, flags: u8, window: u16, payload: &[u8]) {
        let acknowledgment = self.heard;
        let segment = Segment { sequence, acknowledgment, flags, window, ..Segment::default() };
        self.rig.say(&self.ends, &segment, payload);
    }

    /// Takes what the helper says for so long. Returns what is new of its payload.
    fn hear(&mut self, within: Duration) -> Vec<u8> {
        let (start, mut new) = (Instant::now(), Vec::new());
        while let Some((segment, payload)) = self.rig.hear(within.saturating_sub(start.elapsed())) {
            assert!(segment.flags & tcp::RST == 0, "{segment:?}");
            self.acknowledged = segment.acknowledgment;
            if segment.sequence == self.heard {
                self.heard = self.heard.wrapping_add(payload.len() as u32);
                new.extend(payload);
            }
        }
        new
    }

    /// Waits until the helper has acknowledged so much.
    fn is_acknowledged(&mut self, octets: u32) {
        let start = Instant::now();
        while self.acknowledged != FIRST + 1 + octets {
            assert!(start.elapsed() < SOON, "{}", self.acknowledged);
            self.hear(Duration::from_millis(20));
        }
    }
}

const DATA: u8 = tcp::ACK | tcp::PSH;

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

fn hears(stream: &mut TcpStream, expected: &[u8]) {
    let mut heard = vec![0; expected.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), String::from_utf8_lossy(expected));
}

#[test]
fn into_a_window_of_nothing_it_sends_a_probe_and_all_once_it_opens() {
    let Some(rig) = Rig::new(4096) else { return };
    let listener = rig.listen(80);
    let mut open = Open::new(&rig, 80, 0);
    let mut world = accept(&listener);
    world.write_all(&[b'x'; 50_000]).unwrap();
    // Probes of one octet, which the guest does not take.
    let probes = open.hear(Duration::from_secs(2));
    assert!(probes.len() <= 1, "{}", probes.len());
    open.heard = open.heard.wrapping_sub(probes.len() as u32);
    let (start, mut heard) = (Instant::now(), 0);
    while heard < 50_000 {
        assert!(start.elapsed() < SOON, "{heard}");
        open.say(FIRST + 1, tcp::ACK, 60_000, b"");
        heard += open.hear(Duration::from_millis(50)).len();
    }
}

#[test]
fn of_segments_that_overlap_the_world_hears_each_octet_once() {
    let Some(rig) = Rig::new(4096) else { return };
    let listener = rig.listen(80);
    let mut open = Open::new(&rig, 80, 60_000);
    let mut world = accept(&listener);
    let from = FIRST + 1;
    open.say(from, DATA, 60_000, b"0123456789");
    open.is_acknowledged(10);
    // Other octets where some were taken already: those that were first count.
    open.say(from + 5, DATA, 60_000, b"xxxxxabcde");
    open.is_acknowledged(15);
    open.say(from, DATA, 60_000, b"yyyyyyyyyyyyyyyfghij");
    open.is_acknowledged(20);
    // What leaves a gap waits to be sent again; it is not taken out of order.
    open.say(from + 21, DATA, 60_000, b"late");
    open.say(from + 20, DATA, 60_000, b"k");
    open.is_acknowledged(21);
    hears(&mut world, b"0123456789abcdefghijk");
}

#[test]
fn wild_numbers_neither_end_a_connection_nor_get_into_it() {
    let Some(rig) = Rig::new(4096) else { return };
    let listener = rig.listen(80);
    let mut open = Open::new(&rig, 80, 60_000);
    let mut world = accept(&listener);
    let from = FIRST + 1;
    for wild in [1 << 31, 1 << 30, u32::MAX - 9, 70_000, 100_000_000] {
        for flags in [DATA, tcp::RST, tcp::RST | tcp::ACK, DATA | tcp::FIN, tcp::SYN, 0xff] {
            open.say(from.wrapping_add(wild), flags, 60_000, b"wild");
        }
        // What acknowledges what was never sent.
        let heard = open.heard;
        open.heard = heard.wrapping_add(wild);
        open.say(from, DATA, 60_000, b"");
        open.heard = heard;
    }
    open.hear(Duration::from_millis(200));
    open.say(from, DATA, 60_000, b"in order");
    open.is_acknowledged(8);
    hears(&mut world, b"in order");
    world.write_all(b"still there").unwrap();
    let (start, mut heard) = (Instant::now(), Vec::new());
    while heard != b"still there" {
        assert!(start.elapsed() < SOON, "{heard:?}");
        heard.extend(open.hear(Duration::from_millis(20)));
    }
    rig.helper.counted(|nic| nic.dropped.get(&Dropped::StrayTcp).is_some_and(|count| *count > 5));
}

#[test]
fn urgent_octets_are_octets_in_their_place() {
    let Some(rig) = Rig::new(4096) else { return };
    let listener = rig.listen(80);
    let mut open = Open::new(&rig, 80, 60_000);
    let mut world = accept(&listener);
    let mut message = [0; HEAD_LEN];
    let segment = Segment {
        source: 40_000,
        destination: 80,
        sequence: FIRST + 1,
        acknowledgment: open.heard,
        // URG, which points beyond the segment: what RFC 6093 warns of.
        flags: DATA | 0x20,
        window: 60_000,
        ..Segment::default()
    };
    let len = compose::tcp_head(&mut message, &open.ends, &segment, (6, 65_000)).unwrap();
    message[12 + 20 + 18..12 + 20 + 20].copy_from_slice(&9999u16.to_be_bytes());
    write(&rig.helper.packets, &[&message[..len], b"urgent"].concat()).unwrap();
    open.is_acknowledged(6);
    open.say(FIRST + 7, DATA, 60_000, b" and more");
    open.is_acknowledged(15);
    hears(&mut world, b"urgent and more");
}

#[test]
fn what_comes_with_a_syn_is_taken_once_it_comes_again() {
    let Some(rig) = Rig::new(4096) else { return };
    let listener = rig.listen(80);
    // TCP Fast Open (RFC 7413): a cookie of eight octets, and octets with the SYN. By hand, since
    // nothing of ours has that option.
    let ends = Ends { tag: 7, from: (GUEST, 40_000).into(), to: (WORLD, 80).into() };
    let mut body = vec![0x9c, 0x40, 0, 80];
    body.extend(FIRST.to_be_bytes());
    body.extend([0, 0, 0, 0, 0x80, tcp::SYN, 0xea, 0x60, 0, 0, 0, 0]);
    body.extend([34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1]);
    body.extend(b"early");
    let len = body.len() as u32;
    let mut sum = Checksum::pseudo_ipv4(GUEST.into(), WORLD.into(), protocol::TCP, len);
    sum.add(&body);
    sum.write(&mut body, 16).unwrap();
    let mut head = [0; 32];
    let mut writer = mvirt_net::wire::Writer::new(&mut head);
    writer.push_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0]).unwrap();
    let (from, to) = (GUEST.into(), WORLD.into());
    ipv4::Header::write(&mut writer, from, to, protocol::TCP, body.len()).unwrap();
    write(&rig.helper.packets, &[&head[..], &body].concat()).unwrap();
    let mut open = Open::answered(&rig, ends, 60_000);
    let mut world = accept(&listener);
    open.say(FIRST + 1, DATA, 60_000, b"early");
    open.is_acknowledged(5);
    hears(&mut world, b"early");
}

/// A datagram of the guest, without a sum.
fn datagram(from: u16, to: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0];
    packet.extend([0x45, 0, 0, 29, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend([GUEST, to].concat());
    let sum = mvirt_net::wire::checksum::checksum(&packet[12..]);
    packet[22..24].copy_from_slice(&sum.to_be_bytes());
    packet.extend(from.to_be_bytes());
    packet.extend([0, 9, 0, 9, 0, 0, b'x']);
    packet
}

#[test]
fn datagrams_to_ten_thousand_hosts_take_one_socket_and_from_all_ports_a_few() {
    let Some(rig) = Rig::new(4096) else { return };
    for number in 0..10_000u16 {
        let [a, b] = (number + 300).to_be_bytes();
        write(&rig.helper.packets, &datagram(5000, [198, 51, a, b])).unwrap();
    }
    let stats = rig.helper.counted(|nic| nic.packets_out >= 10_000);
    assert_eq!(
        (stats.udp, rig.helper.descriptors() < 16),
        (1, true),
        "{}",
        rig.helper.descriptors()
    );
    for port in 1..10_000u16 {
        write(&rig.helper.packets, &datagram(port, WORLD)).unwrap();
    }
    let stats = rig.helper.counted(|nic| nic.packets_out >= 19_999);
    assert!(stats.udp <= 256 && rig.helper.descriptors() <= 256 + 16, "{stats:?}");
    assert!(stats.dropped[&Dropped::EgressLimit] >= 9_700, "{stats:?}");
}

#[test]
fn ports_of_forwards_are_none_of_those_that_a_guest_may_have() {
    let Some(rig) = Rig::new(4096) else { return };
    let forward = |port: u16| {
        format!(r#"{{"listen":"198.51.100.1:{port}","protocol":"udp","tag":7,"port":{port}}}"#)
    };
    // Nobody has the address of the last: once that is said, the others listen.
    let bad = r#"{"listen":"203.0.113.1:1","protocol":"udp","tag":7,"port":1}"#;
    let forwards = (20_000..20_300).map(forward).chain([bad.into()]).collect::<Vec<_>>();
    rig.helper.order(&format!(r#"{{"add":{{"forwards":[{}]}}}}"#, forwards.join(",")));
    while !matches!(rig.helper.report(), Report::Failed(_)) {}
    let world = rig.host.within(|| UdpSocket::bind(SocketAddr::from((WORLD, 9))).unwrap());
    world.set_read_timeout(Some(SOON)).unwrap();
    write(&rig.helper.packets, &datagram(5000, WORLD)).unwrap();
    world.recv(&mut [0; 10]).unwrap();
    assert_eq!(rig.helper.counted(|nic| nic.packets_out == 1).udp, 1);
}

/// Has it listen at these ports of TCP. Returns once it does.
fn forward(rig: &Rig, ports: std::ops::Range<u16>) {
    let forward = |port: u16| {
        format!(r#"{{"listen":"198.51.100.1:{port}","protocol":"tcp","tag":7,"port":80}}"#)
    };
    let bad = r#"{"listen":"203.0.113.1:1","protocol":"tcp","tag":7,"port":1}"#;
    let forwards = ports.map(forward).chain([bad.into()]).collect::<Vec<_>>();
    rig.helper.order(&format!(r#"{{"add":{{"forwards":[{}]}}}}"#, forwards.join(",")));
    while !matches!(rig.helper.report(), Report::Failed(_)) {}
}

#[test]
fn sockets_that_listen_are_among_those_that_there_may_be() {
    let Some(rig) = Rig::new(400) else { return };
    forward(&rig, 20_000..20_200);
    for port in 1..=400 {
        // Nobody answers for that address for three seconds.
        let ends =
            Ends { tag: 7, from: (GUEST, 40_000).into(), to: ([198, 51, 7, 7], port).into() };
        let syn = Segment { sequence: 1, flags: tcp::SYN, window: 1, ..Segment::default() };
        rig.say(&ends, &syn, b"");
    }
    // 64 are nobody's.
    let stats = rig.helper.counted(|nic| nic.packets_out >= 400);
    assert!(stats.connections <= 400 - 64 - 200, "{stats:?}");
    assert!(stats.dropped.contains_key(&Dropped::EgressLimit), "{stats:?}");
}

#[test]
fn who_calls_where_there_are_no_descriptors_waits_and_keeps_nobody_busy() {
    let Some(rig) = Rig::new(4096) else { return };
    forward(&rig, 8080..8081);
    let before = rig.helper.descriptors();
    let limit = |most: usize| {
        let process = rig.helper.proc("");
        let process = process.trim_matches('/').trim_start_matches("proc/");
        run(&format!("prlimit --pid {process} --nofile={most}:4096"));
    };
    // Not one more: these three are taken.
    limit(3);
    let call = || rig.host.within(|| TcpStream::connect(SocketAddr::from((WORLD, 8080))).unwrap());
    let _calls = [(); 8].map(|()| call());
    let (ticks, second) = (rig.helper.ticks(), Timespec { tv_sec: 1, tv_nsec: 0 });
    poll(&mut [], Some(&second)).unwrap();
    let ran = rig.helper.ticks() - ticks;
    assert!(ran <= 10, "{ran} ticks in a second");
    assert!(rig.helper.descriptors() <= before, "{before}");
    limit(4096);
    rig.helper.counted(|nic| nic.connections == 8);
}

#[test]
fn it_says_what_it_is_asked_for_and_how_little_it_may_have() {
    let Some(rig) = Rig::new(64) else { return };
    assert_eq!(rig.flows, 0);
    rig.helper.order(r#"{"tell":{}}"#);
    let report = rig.helper.report();
    let Report::Stats { stats } = report else { panic!("{report:?}") };
    assert_eq!(stats.nics.len(), 0, "nothing is new");
}

#[test]
fn counters_that_the_daemon_had_no_room_for_are_told_again() {
    let Some(rig) = Rig::new(4096) else { return };
    // What it says of these fills its socket.
    let bad = [r#"{"listen":"203.0.113.1:1","protocol":"tcp","tag":7,"port":1}"#; 500].join(",");
    for _ in 0..6 {
        rig.helper.order(&format!(r#"{{"add":{{"forwards":[{bad}]}}}}"#));
    }
    write(&rig.helper.packets, &datagram(5000, WORLD)).unwrap();
    // By then it has tried.
    poll(&mut [], Some(&Timespec { tv_sec: 2, tv_nsec: 0 })).unwrap();
    rig.helper.counted(|nic| nic.packets_out == 1);
}

#[test]
fn packets_of_nobody_are_told_of_while_no_vnic_says_anything() {
    let Some(rig) = Rig::new(4096) else { return };
    let mut stranger = datagram(5000, WORLD);
    // Its tag.
    stranger[10] = 9;
    write(&rig.helper.packets, &stranger).unwrap();
    let report = rig.helper.report();
    let Report::Stats { stats } = report else { panic!("{report:?}") };
    assert_eq!((stats.nics.len(), stats.dropped[&Dropped::UnknownTag]), (0, 1));
}

#[test]
fn a_scan_leaves_descriptors_for_what_the_daemon_asks_for() {
    // Fewer than the guest may have connections: 64 of them are nobody's.
    let Some(rig) = Rig::new(256) else { return };
    for port in 1..=u16::MAX {
        // Nobody answers for that address for three seconds.
        let to = ([198, 51, 7, 7], port).into();
        let ends = Ends { tag: 7, from: (GUEST, 40_000).into(), to };
        let syn = Segment { sequence: 1, flags: tcp::SYN, window: 1, ..Segment::default() };
        rig.say(&ends, &syn, b"");
        // Its refusals are not to be in the way.
        while is_ready(&rig.helper.packets, Duration::ZERO) {
            read(&rig.helper.packets, &mut [0; 2000][..]).unwrap();
        }
    }
    let limit = Dropped::EgressLimit;
    let stats =
        rig.helper.counted(|nic| nic.packets_out >= 65_535 && nic.dropped.contains_key(&limit));
    assert!(stats.connections <= 192 && rig.helper.descriptors() <= 192 + 16, "{stats:?}");
    let forward = r#"{"listen":"198.51.100.1:8080","protocol":"tcp","tag":7,"port":80}"#;
    rig.helper.order(&format!(r#"{{"add":{{"forwards":[{forward}]}}}}"#));
    let start = Instant::now();
    let call = || rig.host.within(|| TcpStream::connect(SocketAddr::from((WORLD, 8080))));
    while call().is_err() {
        assert!(start.elapsed() < SOON, "nobody listens");
    }
    // A datagram finds its socket once the scan is over.
    let world = rig.host.within(|| UdpSocket::bind(SocketAddr::from((WORLD, 9))).unwrap());
    world.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    while world.recv(&mut [0; 10]).is_err() {
        assert!(start.elapsed() < SOON, "nothing comes");
        write(&rig.helper.packets, &datagram(5000, WORLD)).unwrap();
    }
}
