//! What a member sends to hurt others: those who talk beside it hear each frame of theirs, in
//! order, and each of its own is counted once.

use crate::rig::{EVERYBODY, Guest, NETWORK, gateway, guest, guests_alone, mac, port, run, settle};
use mvirt_net::{
    addr::MacAddr,
    dataplane::{
        forward::{
            Domain, Network,
            switched::Switched,
            tables::{BridgePort, Member, NetworkKey, PortId, Role, Vnic},
        },
        frame::verdict::DropReason::{
            self, BadProbe, FrameTooShort, Hairpin, InvalidSourceMac, SpoofedArp, SpoofedMac,
            StormLimited, VlanTagged,
        },
        reactor::{self, Hugepages, pipeline::Pipeline, ports::Ports},
    },
    model::{
        L2Policy, PortRole,
        l2::{GuestVlans, HasGateway, Members},
    },
};
use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

/// Turns of an attack, a millisecond each: in each, a full burst of it and some innocent frames.
const TURNS: u32 = 100;
const BURST: u32 = 64;
const INNOCENT: usize = 10;
const TAG: [u8; 4] = [0x81, 0, 0, 7];
/// Of a gateway (`forward/tables.rs`).
const GATEWAY: [u8; 6] = [0x02, 0, 0, 0, 0, 1];

/// A network with a gateway, an uplink at port 0 and vNICs at the others.
fn beside_an_uplink(guest_vlans: GuestVlans) -> Arc<Network> {
    let vnic = |at: usize| {
        let mut vnic = Vnic::new(port(at), MacAddr(mac(at)), 1500);
        vnic.ipv4 = Some([10, 0, 0, at as u8 + 1].into());
        Role::Guest(Arc::new(vnic))
    };
    let uplink = Role::Bridge(Arc::new(BridgePort::new(port(0), PortRole::Uplink, 1500)));
    let members = [uplink, vnic(1), vnic(2)].map(|role| Member { reactor: 0, role });
    let policy = L2Policy { guest_vlans: Some(guest_vlans), ..L2Policy::default() };
    let rules = policy.in_force(HasGateway::Yes, Members::Any);
    let domain = Domain::Switched(Switched::new(&members, rules).with_gateway(gateway()));
    Arc::new(Network { key: NETWORK, members: members.into(), domain })
}

/// A number that is not easily foreseen, for each of some in turn.
fn scattered(number: u32) -> [u8; 4] {
    number.wrapping_mul(0x9e37_79b9).to_be_bytes()
}

fn station(number: u32) -> [u8; 6] {
    let [a, b, c, d] = scattered(number);
    [0x02, 1, a, b, c, d]
}

fn ethernet(to: [u8; 6], from: [u8; 6], rest: &[u8]) -> Vec<u8> {
    [&to[..], &from, rest].concat()
}

/// A question of `sender`'s for the address.
fn arp(sender: [u8; 6], addresses: [[u8; 4]; 2]) -> Vec<u8> {
    let [from, to] = addresses;
    let rest = [&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1][..], &sender, &from, &[0; 6], &to].concat();
    ethernet(EVERYBODY, sender, &rest)
}

/// A packet to a group of IPv4, with the option that its reports have.
fn igmp(number: u32, octets: &[u8]) -> Vec<u8> {
    let len = 24 + octets.len() as u8;
    let mut packet = vec![0x46, 0xc0, 0, len, 0, 0, 0, 0, 1, 2, 0, 0, 10, 0, 0, 99];
    packet.extend([224, 0, 0, 22, 0x94, 4, 0, 0]);
    packet.extend(octets);
    for (range, at) in [(0..24, 10), (24..packet.len(), 26)] {
        let sum = mvirt_net::wire::checksum::checksum(&packet[range]);
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    ethernet([1, 0, 0x5e, 0, 0, 22], station(number % 8), &[&[8, 0], &packet[..]].concat())
}

/// A report of MLD behind so many headers, which say nothing.
fn mld(number: u32, headers: u8) -> Vec<u8> {
    let record = [&[4, 0, 0, 0, 0xff, 5][..], &[0; 10], &scattered(number)].concat();
    let report = [&[143, 0, 0, 0, 0, 0, 0, 1][..], &record].concat();
    let payload = u16::from(headers) * 8 + report.len() as u16;
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(payload.to_be_bytes());
    // Hop-by-hop options first, then destination options, each of padding alone.
    packet.extend([if headers > 0 { 0 } else { 58 }, 1]);
    packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    packet.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 22]);
    for left in (0..headers).rev() {
        packet.extend([if left > 0 { 60 } else { 58 }, 0, 1, 4, 0, 0, 0, 0]);
    }
    packet.extend(report);
    ethernet([0x33, 0x33, 0, 0, 0, 22], station(number % 8), &[&[0x86, 0xdd], &packet[..]].concat())
}

/// A frame of an EtherType for experiments.
fn plain(to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    ethernet(to, from, &[0x88, 0xb5])
}

/// A question for an address of 10/8, a different one for each number.
fn question(number: u32) -> Vec<u8> {
    let [_, b, c, d] = number.to_be_bytes();
    arp(station(1), [[10, 0, 0, 99], [10, b, c, d]])
}

/// A report of IGMP that a group is joined, a different one for each number.
fn join(number: u32) -> Vec<u8> {
    let [a, b, c, _] = scattered(number);
    igmp(number, &[0x22, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 239, a, b, c])
}

/// A name, the frame of that number, and why most of them are dropped.
type Attack = (&'static str, fn(u32) -> Vec<u8>, Option<DropReason>);

#[rustfmt::skip]
const ATTACKS: &[Attack] = &[
    ("MACs without end, to all", |n| plain(EVERYBODY, station(n)), Some(StormLimited)),
    ("MACs without end, to one", |n| plain(mac(2), station(n)), None),
    ("MACs without end, to nobody", |n| plain(station(!n), station(n)), Some(StormLimited)),
    ("another's MAC", |n| plain(EVERYBODY, mac(1 + n as usize % 2)), Some(SpoofedMac)),
    ("the gateway's MAC", |_| plain(EVERYBODY, GATEWAY), Some(SpoofedMac)),
    ("a group's MAC", |_| plain(mac(2), [1, 0, 0x5e, 0, 0, 1]), Some(InvalidSourceMac)),
    ("a tag that is cut", |n| ethernet(mac(2), station(1), &TAG[..2 + n as usize % 3]),
        Some(FrameTooShort)),
    ("ten tags", |_| ethernet(EVERYBODY, station(1), &TAG.repeat(10)), Some(VlanTagged)),
    ("a length beyond the frame", |_| ethernet(EVERYBODY, station(1), &[5, 0xdc, 0xaa, 0xaa, 3]),
        Some(StormLimited)),
    ("questions for all of a /8", question, Some(StormLimited)),
    ("another's address", |n| arp(station(1), [[10, 0, 0, 2 + n as u8 % 2], [10, 0, 0, 9]]),
        Some(SpoofedArp)),
    ("groups without end", join, Some(StormLimited)),
    ("a report of 64 Ki groups, cut",
        |n| igmp(n, &[0x22, 0, 0, 0, 0, 0, 0xff, 0xff, 4, 0, 0xff, 0xff, 239, 1, 1, 1]),
        Some(StormLimited)),
    ("queries of a stranger", |n| igmp(n, &[0x11, 1, 0, 0, 0, 0, 0, 0]), Some(StormLimited)),
    ("groups of IPv6 without end", |n| mld(n, 1), Some(StormLimited)),
    ("a report behind eight headers", |n| mld(n, 8), Some(StormLimited)),
];

/// An attack under way.
struct Scene {
    pipeline: Pipeline,
    ports: Ports,
    guests: [Guest; 3],
    start: Instant,
}

impl Scene {
    fn new(guest_vlans: GuestVlans) -> Self {
        let (mut pipeline, mut ports, guests) = guests_alone();
        let (network, start) = (beside_an_uplink(guest_vlans), Instant::now());
        pipeline.published(&network, start);
        ports.publish(&network);
        Self { pipeline, ports, guests, start }
    }

    /// A turn: the attacker's frames, then those from b to c, all of which it hears. Returns how
    /// long the first have taken.
    fn turn(&mut self, turn: u32, attack: impl Fn(u32) -> Vec<u8>, name: &str) -> Duration {
        let [a, b, c] = &self.guests;
        let now = self.start + Duration::from_millis(turn.into());
        (0..BURST).for_each(|n| a.send.send(attack(turn * BURST + n)).unwrap());
        let sends = |at| b.sends(c.mac, &format!("{turn} {at}"));
        let frames: Vec<_> = (0..INNOCENT).map(sends).collect();
        let began = Instant::now();
        assert_eq!(run(&mut self.pipeline, &mut self.ports, 0, now), BURST as usize, "{name}");
        let took = began.elapsed();
        assert_eq!(run(&mut self.pipeline, &mut self.ports, 1, now), INNOCENT, "{name}");
        self.pipeline.handle_timeouts(&mut self.ports, now);
        let heard = c.received.try_iter().filter(|heard| heard[6..12] == b.mac);
        assert_eq!(heard.collect::<Vec<_>>(), frames, "{name}, turn {turn}");
        // It is the test's memory that they would fill.
        b.received.try_iter().for_each(drop);
        took
    }
}

// A.10, A.11
#[test]
fn whatever_a_member_sends_the_others_hear_each_other() {
    for (name, attack, reason) in ATTACKS {
        let mut scene = Scene::new(GuestVlans::Drop);
        for turn in 0..TURNS {
            scene.turn(turn, attack, name);
        }
        let counters = &scene.guests[0].counters;
        let drops: Vec<_> = counters.drops().collect();
        let most = drops.iter().max_by_key(|(_, frames)| *frames).map(|(reason, _)| *reason);
        assert_eq!(most, *reason, "{name}: {drops:?}");
        let dropped: u64 = drops.iter().map(|(_, frames)| frames).sum();
        let told = counters.ingress_forwarded.get() + counters.ingress_answered.get() + dropped;
        assert_eq!(told, u64::from(TURNS * BURST), "{name}: each frame is counted once");
        let known = scene.pipeline.macs(NETWORK, scene.start).iter().count();
        assert!(known <= 4096, "{name}: {known} MACs are known behind one port");
        for innocent in &scene.guests[1..] {
            assert_eq!(innocent.counters.drops().count(), 0, "{name}");
        }
    }
}

#[test]
fn no_frame_takes_much_longer_than_another() {
    let fastest = |name: &str, attack: &dyn Fn(u32) -> Vec<u8>| {
        let mut scene = Scene::new(GuestVlans::Pass);
        // Of many: whatever else this machine does, some are not interrupted.
        (0..TURNS).map(|turn| scene.turn(turn, attack, name)).min().unwrap()
    };
    let plain = fastest("a plain frame", &|_| plain(EVERYBODY, station(1)));
    for (name, attack, _) in ATTACKS {
        let took = fastest(name, attack);
        assert!(took < plain * 20, "{name}: {took:?}, and {plain:?} for others");
    }
}

#[test]
fn a_probe_that_is_repeated_or_forged_blocks_nobody() {
    let mut scene = Scene::new(GuestVlans::Drop);
    let (_, attachment) = guest(0, false);
    scene.pipeline.attached(&attachment, scene.start);
    scene.pipeline.handle_timeouts(&mut scene.ports, scene.start + Duration::from_secs(10));
    let is_probe = |frame: &Vec<u8>| frame.starts_with(&[0x01, 0x53, 0x59]);
    let probe = scene.guests[0].received.try_iter().find(is_probe).unwrap();
    let mut forged = probe.clone();
    *forged.last_mut().unwrap() ^= 1;
    for turn in 0..TURNS {
        scene.turn(turn, |n| if n % 2 == 0 { probe.clone() } else { forged.clone() }, "probes");
    }
    let drops: Vec<_> = scene.guests[0].counters.drops().collect();
    let half = u64::from(TURNS * BURST / 2);
    assert_eq!(drops, [(Hairpin, half), (BadProbe, half)]);
}

#[test]
fn a_network_that_is_deleted_in_a_flood_takes_nobody_with_it() {
    let settings = reactor::Settings { busy_poll: Duration::ZERO, hugepages: Hugepages::Off };
    let reactors = reactor::start(2, &[], settings).unwrap();
    let place = |at: usize| usize::from(at == 2);
    let join = |key: NetworkKey, slot: u32| {
        let members = [0, 1, 2].map(|at| {
            let id = PortId { slot: slot + at as u32, generation: 1 };
            let (guest, mut attachment) = guest(at, false);
            (attachment.id, attachment.network) = (id, key);
            reactors[place(at)].attach(attachment);
            let vnic = Vnic::new(id, MacAddr(mac(at)), 1500);
            (guest, Member { reactor: place(at) as u16, role: Role::Guest(Arc::new(vnic)) })
        });
        let (guests, members): (Vec<_>, Vec<_>) = members.into_iter().unzip();
        let rules = L2Policy::plain().in_force(HasGateway::No, Members::AllStrict);
        let domain = Domain::Switched(Switched::new(&members, rules));
        let network = Arc::new(Network { key, members, domain });
        reactors.iter().for_each(|reactor| reactor.publish(Arc::clone(&network)));
        settle(&reactors);
        guests
    };
    let lasting = join(NetworkKey(1), 0);
    for round in 0..20 {
        let guests = join(NetworkKey(2), 3);
        (0..2000).for_each(|n| drop(guests[n % 3].sends(EVERYBODY, "flood")));
        // Some of it is on its way, in rings and between the reactors.
        for at in [0, 2, 1] {
            let (done, detached) = mpsc::channel();
            let id = PortId { slot: 3 + at as u32, generation: 1 };
            reactors[place(at)].detach(id, move |_| done.send(()).unwrap());
            detached.recv_timeout(crate::rig::TIMEOUT).unwrap();
            let frame = lasting[at].sends(mac((at + 1) % 3), &format!("{round}"));
            lasting[(at + 1) % 3].hears(&frame);
        }
    }
}
