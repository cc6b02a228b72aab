//! A trunk that is in a red network by VLAN 10, in a blue one by VLAN 20, and in a green one
//! without a tag; with a guest in each, and another trunk that has other numbers.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use crate::rig::{EVERYBODY, Guest, Links, STRANGER, gateway, guest, mac, port, settle};
use mvirt_net::{
    addr::MacAddr,
    dataplane::{
        forward::{
            Domain, Network,
            switched::Switched,
            tables::{BridgePort, Member, Membership, NetworkKey, Role, Vnic},
        },
        frame::verdict::DropReason,
        reactor::{self, Hugepages, pipeline::Pipeline, ports::Ports},
    },
    model::{
        L2Policy, PortRole,
        l2::{GuestVlans, HasGateway, Members},
    },
    wire::vlan::VlanId,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const RED: NetworkKey = NetworkKey(10);
const BLUE: NetworkKey = NetworkKey(20);
const GREEN: NetworkKey = NetworkKey(30);
/// The slots of the ports.
const TRUNK: usize = 0;
const RED_GUEST: usize = 1;
const BLUE_GUEST: usize = 2;
const GREEN_GUEST: usize = 3;
const OTHER: usize = 4;

fn tagged(number: u16) -> Membership {
    Membership::Tagged(VlanId::new(number).unwrap())
}

/// A network of these trunks, and of a guest.
fn network(
    key: NetworkKey,
    trunks: &[(usize, Membership)],
    guest: usize,
    on: [u16; 5],
    vlans: GuestVlans,
) -> Arc<Network> {
    let trunk = |&(at, membership): &(usize, Membership)| {
        let bridge = BridgePort::new(port(at), PortRole::Uplink, 1500);
        let role = Role::Bridge(Arc::new(BridgePort { membership, ..bridge }));
        Member { reactor: on[at], role }
    };
    let vnic = Arc::new(Vnic::new(port(guest), MacAddr(mac(guest)), 1500));
    let guest = Member { reactor: on[guest], role: Role::Guest(vnic) };
    let mut members: Vec<_> = trunks.iter().map(trunk).chain([guest]).collect();
    members.sort_by_key(|member| member.port().slot);
    let policy = L2Policy { guest_vlans: Some(vlans), ..L2Policy::default() };
    let rules = policy.in_force(HasGateway::No, Members::Any);
    let domain = Domain::Switched(Switched::new(&members, rules));
    Arc::new(Network { key, members, domain })
}

/// The three networks.
fn networks(on: [u16; 5], vlans: GuestVlans) -> [Arc<Network>; 3] {
    let [red, blue] =
        [(10, 110), (20, 120)].map(|(one, other)| [(TRUNK, tagged(one)), (OTHER, tagged(other))]);
    [
        network(RED, &red, RED_GUEST, on, vlans),
        network(BLUE, &blue, BLUE_GUEST, on, vlans),
        network(GREEN, &[(TRUNK, Membership::Native)], GREEN_GUEST, on, vlans),
    ]
}

/// Their ports, each attached by the network that it is placed by.
fn ports(
    full: Option<usize>,
    mut attach: impl FnMut(usize, reactor::ports::Attachment),
) -> [Guest; 5] {
    [GREEN, RED, BLUE, GREEN, BLUE].map({
        let mut at = 0;
        move |network| {
            let (guest, attachment) = guest(at, full == Some(at));
            attach(at, reactor::ports::Attachment { network, ..attachment });
            at += 1;
            guest
        }
    })
}

/// The ports on running reactors.
fn rig(on: [u16; 5], vlans: GuestVlans) -> (Vec<reactor::Handle>, [Guest; 5]) {
    let settings = reactor::Settings { busy_poll: Duration::ZERO, hugepages: Hugepages::Off };
    let reactors = reactor::start(2, &[], settings).unwrap();
    let guests = ports(None, |at, attachment| reactors[usize::from(on[at])].attach(attachment));
    publish(&reactors, &networks(on, vlans));
    (reactors, guests)
}

/// Publishes networks, and returns when they are in force.
fn publish(reactors: &[reactor::Handle], networks: &[Arc<Network>]) {
    for network in networks {
        reactors.iter().for_each(|reactor| reactor.publish(Arc::clone(network)));
    }
    settle(reactors);
}

/// The ports of one reactor that is run by hand.
struct Manual {
    pipeline: Pipeline,
    ports: Ports,
    guests: [Guest; 5],
}

impl Manual {
    fn new(full: Option<usize>, vlans: GuestVlans) -> Self {
        let (pipeline, mut of) = (Pipeline::default(), Ports::default());
        // Networks first, and the ports of trunks that none of them has seen.
        networks([0; 5], vlans).iter().for_each(|network| of.publish(network));
        let guests = ports(full, |_, attachment| of.attach(attachment, Duration::ZERO));
        Self { pipeline, ports: of, guests }
    }

    /// Has a burst of a port switched. Returns how many frames were waiting.
    fn run(&mut self, at: usize, now: Instant) -> usize {
        let mut links = Links { room: 0, sent: Vec::new() };
        self.pipeline.run(&mut self.ports, &mut links, (port(at), 0), now).unwrap()
    }

    /// Sends frames from a port, in one burst.
    fn sends(&mut self, at: usize, frames: &[Vec<u8>]) {
        frames.iter().for_each(|frame| self.guests[at].send.send(frame.clone()).unwrap());
        assert_eq!(self.run(at, Instant::now()), frames.len());
    }

    fn heard(&self, at: usize) -> Vec<Vec<u8>> {
        self.guests[at].received.try_iter().collect()
    }

    fn drops(&self, at: usize) -> Vec<(DropReason, u64)> {
        self.guests[at].counters.drops().collect()
    }
}

/// A frame with what stands between its MACs and its text.
fn frame(to: [u8; 6], from: [u8; 6], tags: &[u8], text: &str) -> Vec<u8> {
    [&to[..], &from, tags, &[0x88, 0xb5], text.as_bytes()].concat()
}

fn tag(number: u16) -> [u8; 4] {
    let [high, low] = number.to_be_bytes();
    [0x81, 0, high, low]
}

/// All on one reactor; the trunk apart; a guest and the other trunk apart.
const PLACES: [[u16; 5]; 3] = [[0; 5], [0, 1, 1, 1, 1], [0, 1, 0, 0, 1]];

#[test]
fn each_network_sees_its_vlan_without_the_tag() {
    for on in PLACES {
        let (_reactors, [trunk, red, blue, green, other]) = rig(on, GuestVlans::Drop);
        let send = |guest: &Guest, frame: Vec<u8>| guest.send.send(frame).unwrap();
        // From one MAC in three networks at once.
        for (number, tags, guest) in
            [(110, &tag(10)[..], &red), (120, &tag(20), &blue), (0, &[], &green)]
        {
            send(&trunk, frame(EVERYBODY, STRANGER, tags, "hello"));
            guest.hears(&frame(EVERYBODY, STRANGER, &[], "hello"));
            if number > 0 {
                other.hears(&frame(EVERYBODY, STRANGER, &tag(number), "hello"));
            }
        }
        // It is known now, and the other trunk does not hear of it.
        for (tags, guest) in [(&tag(10)[..], &red), (&tag(20), &blue), (&[], &green)] {
            send(guest, frame(STRANGER, guest.mac, &[], "to it alone"));
            trunk.hears(&frame(STRANGER, guest.mac, tags, "to it alone"));
            send(&trunk, frame(guest.mac, STRANGER, tags, "and back"));
            guest.hears(&frame(guest.mac, STRANGER, &[], "and back"));
        }
        // From trunk to trunk, whose numbers differ.
        let someone = [0x02, 0, 0, 0, 0, 0x77];
        send(&other, frame(STRANGER, someone, &tag(120), "to the trunk"));
        trunk.hears(&frame(STRANGER, someone, &tag(20), "to the trunk"));
        send(&trunk, frame(someone, STRANGER, &tag(20), "to the other"));
        other.hears(&frame(someone, STRANGER, &tag(120), "to the other"));
        for guest in [trunk, red, blue, green, other] {
            assert!(guest.received.try_recv().is_err(), "{on:?}");
            assert_eq!(guest.counters.drops().count(), 0, "{on:?}");
        }
    }
}

// A.11: cut tags, stacked tags, tags of nobody.
#[test]
fn a_mixed_burst_is_parted_in_order_and_what_no_network_has_is_counted() {
    let mut manual = Manual::new(None, GuestVlans::Drop);
    let from = |tags: &[u8], text: &str| frame(EVERYBODY, STRANGER, tags, text);
    let stacked = [tag(10), tag(20)].concat();
    let ten = tag(10).repeat(10);
    let mut burst = vec![
        from(&tag(10), "red 1"),
        from(&[], "green 1"),
        from(&tag(30), "nobody's"),
        from(&tag(20), "blue 1"),
        // Priority 7, and drop eligible.
        from(&tag(0xf00a), "red 2"),
        from(&tag(0xe000), "green 2"),
        from(&tag(0x0fff), "reserved"),
        from(&stacked, "QinQ"),
        from(&ten, "ten tags"),
        from(&[0x88, 0xa8, 0, 10], "a service's"),
        from(&tag(10), ""),
    ];
    let whole = from(&tag(10), "");
    burst.extend((14..18).map(|len| whole[..len].to_vec()));
    burst.push(whole[..13].to_vec());
    manual.sends(TRUNK, &burst);
    let bare = |texts: &[&str]| texts.iter().map(|text| from(&[], text)).collect::<Vec<_>>();
    assert_eq!(manual.heard(RED_GUEST), bare(&["red 1", "red 2", ""]));
    assert_eq!(manual.heard(BLUE_GUEST), bare(&["blue 1"]));
    assert_eq!(manual.heard(GREEN_GUEST), bare(&["green 1", "green 2"]));
    let drops = [
        (DropReason::FrameTooShort, 5),
        (DropReason::VlanTagged, 3),
        (DropReason::VlanNotAllowed, 2),
    ];
    assert_eq!(manual.drops(TRUNK), drops);
    let counters = &manual.guests[TRUNK].counters;
    assert_eq!((counters.ingress_frames.get(), counters.ingress_forwarded.get()), (16, 6));
}

#[test]
fn a_trunk_without_a_native_network_takes_no_untagged_frame() {
    let mut manual = Manual::new(None, GuestVlans::Drop);
    let hello = frame(EVERYBODY, STRANGER, &[], "hello");
    manual.sends(OTHER, &[hello, frame(EVERYBODY, STRANGER, &tag(0), "of a priority")]);
    assert_eq!(manual.drops(OTHER), [(DropReason::VlanNotAllowed, 2)]);
    // Nor those of the numbers that the other trunk has.
    manual.sends(OTHER, &[frame(EVERYBODY, STRANGER, &tag(20), "")]);
    assert_eq!(manual.drops(OTHER), [(DropReason::VlanNotAllowed, 3)]);
}

#[test]
fn guests_whose_tags_pass_reach_no_other_network_by_them() {
    let mut manual = Manual::new(None, GuestVlans::Pass);
    let own = mac(GREEN_GUEST);
    let hello = frame(EVERYBODY, own, &[], "hello");
    let hops = frame(EVERYBODY, own, &tag(10), "into the red network");
    let hidden = frame(EVERYBODY, own, &[tag(0), tag(10)].concat(), "likewise");
    manual.sends(GREEN_GUEST, &[hello.clone(), hops, hello.clone(), hidden, hello.clone()]);
    assert_eq!(manual.heard(TRUNK), [hello.clone(), hello.clone(), hello]);
    assert_eq!(manual.drops(TRUNK), [(DropReason::VlanNotAllowed, 2)]);
    // Within a VLAN they are nobody else's, and go both ways.
    let inner = frame(EVERYBODY, mac(RED_GUEST), &tag(20), "inner");
    manual.sends(RED_GUEST, std::slice::from_ref(&inner));
    let outer = frame(EVERYBODY, mac(RED_GUEST), &[tag(10), tag(20)].concat(), "inner");
    assert_eq!(manual.heard(TRUNK), [outer]);
    let back = frame(EVERYBODY, STRANGER, &[tag(10), tag(20)].concat(), "back");
    manual.sends(TRUNK, &[back]);
    assert_eq!(manual.heard(RED_GUEST), [frame(EVERYBODY, STRANGER, &tag(20), "back")]);
}

#[test]
fn what_waits_in_one_vlan_holds_up_no_other() {
    let start = Instant::now();
    let mut manual = Manual::new(Some(RED_GUEST), GuestVlans::Drop);
    let to = |at: usize, tags: &[u8], text: &str| frame(mac(at), STRANGER, tags, text);
    let red = to(RED_GUEST, &tag(10), "waits");
    let blue = |text: &str| to(BLUE_GUEST, &tag(20), text);
    for frame in [red, blue("1"), blue("2")] {
        manual.guests[TRUNK].send.send(frame).unwrap();
    }
    let bare = |text: &str| to(BLUE_GUEST, &[], text);
    assert_eq!(manual.run(TRUNK, start), 3);
    assert_eq!(manual.heard(BLUE_GUEST), [bare("1"), bare("2")]);
    assert_eq!(manual.drops(TRUNK), []);
    // Its time is over: it is dropped, and those behind it are not sent again.
    assert!(manual.run(TRUNK, start + Duration::from_millis(1)) > 0);
    manual.run(TRUNK, start + Duration::from_millis(2));
    assert_eq!(manual.drops(TRUNK)[0].0, DropReason::RxRingFull);
}

#[test]
fn a_storm_in_one_vlan_leaves_the_others_theirs() {
    let mut manual = Manual::new(None, GuestVlans::Drop);
    let storm = vec![frame(EVERYBODY, STRANGER, &tag(10), "storm"); 60];
    let now = Instant::now();
    for _ in 0..50 {
        storm.iter().for_each(|frame| manual.guests[TRUNK].send.send(frame.clone()).unwrap());
        assert_eq!(manual.run(TRUNK, now), 60);
    }
    assert_eq!(manual.heard(RED_GUEST).len(), 2000, "storm_pps");
    assert_eq!(manual.drops(TRUNK), [(DropReason::StormLimited, 1000)]);
    manual.guests[TRUNK].send.send(frame(EVERYBODY, STRANGER, &tag(20), "calm")).unwrap();
    assert_eq!(manual.run(TRUNK, now), 1);
    assert_eq!(manual.heard(BLUE_GUEST), [frame(EVERYBODY, STRANGER, &[], "calm")]);
}

#[test]
fn a_trunk_follows_what_is_published() {
    let (on, vlans) = ([0, 1, 1, 0, 1], GuestVlans::Drop);
    let (reactors, [trunk, red, blue, green, _other]) = rig(on, vlans);
    let send = |tags: &[u8], text: &str| {
        trunk.send.send(frame(EVERYBODY, STRANGER, tags, text)).unwrap();
    };
    let bare = |text: &str| frame(EVERYBODY, STRANGER, &[], text);
    send(&tag(10), "red");
    red.hears(&bare("red"));
    // VLAN 10 is the blue network's now, and 20 nobody's.
    let left = network(RED, &[], RED_GUEST, on, vlans);
    let moved = network(BLUE, &[(TRUNK, tagged(10))], BLUE_GUEST, on, vlans);
    publish(&reactors, &[left, moved]);
    send(&tag(20), "nobody's");
    send(&tag(10), "blue");
    blue.hears(&bare("blue"));
    blue.send.send(frame(STRANGER, blue.mac, &[], "back")).unwrap();
    trunk.hears(&frame(STRANGER, blue.mac, &tag(10), "back"));
    // It is no trunk any more: all it carries is the green network's.
    let left = network(BLUE, &[], BLUE_GUEST, on, vlans);
    let access = network(GREEN, &[(TRUNK, Membership::Access)], GREEN_GUEST, on, GuestVlans::Pass);
    publish(&reactors, &[left, access]);
    send(&tag(10), "opaque");
    green.hears(&frame(EVERYBODY, STRANGER, &tag(10), "opaque"));
    for guest in [red, blue, green] {
        assert!(guest.received.try_recv().is_err());
    }
    assert_eq!(trunk.counters.drops().collect::<Vec<_>>(), [(DropReason::VlanNotAllowed, 1)]);
}

#[test]
fn who_asks_in_a_vlan_is_answered_there() {
    let start = Instant::now();
    let mut manual = Manual::new(None, GuestVlans::Drop);
    // The red network has a gateway, 10.0.0.1, and its guest an address.
    let bridge = BridgePort::new(port(TRUNK), PortRole::Uplink, 1500);
    let role = Role::Bridge(Arc::new(BridgePort { membership: tagged(10), ..bridge }));
    let mut vnic = Vnic::new(port(RED_GUEST), MacAddr(mac(RED_GUEST)), 1500);
    vnic.ipv4 = Some([10, 0, 0, 7].into());
    let members = [role, Role::Guest(Arc::new(vnic))].map(|role| Member { reactor: 0, role });
    let rules = L2Policy::default().in_force(HasGateway::Yes, Members::Any);
    let table = Switched::new(&members, rules).with_gateway(gateway());
    let domain = Domain::Switched(table);
    let red = Arc::new(Network { key: RED, members: members.into(), domain });
    manual.pipeline.published(&red, start);
    manual.ports.publish(&red);
    // The members of the network are asked who listens to groups.
    manual.pipeline.handle_timeouts(&mut manual.ports, start);
    let asked = manual.heard(TRUNK);
    assert!(asked.len() == 2 && asked.iter().all(|frame| frame[12..16] == tag(10)), "{asked:?}");
    manual.heard(RED_GUEST);
    let ask = |tags: &[u8], target: [u8; 4]| {
        let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &STRANGER, &[10, 0, 0, 9], &[0; 6], &target];
        [&EVERYBODY[..], &STRANGER, tags, &[8, 6], &arp.concat()].concat()
    };
    let told = |tags: &[u8], address: [u8; 4], at: [u8; 6]| {
        let arp = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &at, &address, &STRANGER, &[10, 0, 0, 9]];
        [&STRANGER[..], &at, tags, &[8, 6], &arp.concat()].concat()
    };
    for (address, at) in [([10, 0, 0, 1], [2, 0, 0, 0, 0, 1]), ([10, 0, 0, 7], mac(RED_GUEST))] {
        manual.sends(TRUNK, &[ask(&tag(10), address)]);
        let heard = manual.heard(TRUNK);
        let expected = told(&tag(10), address, at);
        assert_eq!(heard.len(), 1, "{address:?}");
        // Perhaps with padding.
        assert_eq!(heard[0][..expected.len()], expected);
    }
    assert_eq!(manual.heard(RED_GUEST), [[0_u8; 0]; 0], "nobody else is asked");
    // In the blue network nobody has that address.
    manual.sends(TRUNK, &[ask(&tag(20), [10, 0, 0, 7])]);
    assert_eq!(manual.heard(BLUE_GUEST), [ask(&[], [10, 0, 0, 7])]);
    assert_eq!(manual.heard(TRUNK), [[0_u8; 0]; 0]);
}

proptest::proptest! {
    // A.11: whatever comes, each frame is counted once, and none leaves where it came in.
    #[test]
    fn no_octets_are_too_strange(
        frames in proptest::collection::vec(strange(), 1..64),
        at in 0..5_usize,
    ) {
        for vlans in [GuestVlans::Drop, GuestVlans::Pass] {
            let mut manual = Manual::new(None, vlans);
            manual.sends(at, &frames);
            let counters = &manual.guests[at].counters;
            let dropped: u64 = counters.drops().map(|(_, count)| count).sum();
            let answered = counters.ingress_answered.get();
            let counted = counters.ingress_forwarded.get() + answered + dropped;
            proptest::prop_assert_eq!(counted, frames.len() as u64);
            proptest::prop_assert!(manual.heard(at).len() as u64 <= answered);
        }
    }
}

/// The EtherType and the number of a tag.
type Tag = ([u8; 2], u16);

/// A frame, or what may be taken for one: MACs, tags of all kinds, and what is behind them.
fn strange() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
    use proptest::{collection::vec, prelude::*};
    let kind = prop_oneof![Just([0x81, 0]), Just([0x88, 0xa8]), Just([8, 0]), any::<[u8; 2]>()];
    let number = prop_oneof![0..31_u16, Just(4095), any::<u16>()];
    let tags = vec((kind, number), 0..5);
    let octets = |(tags, rest, len): (Vec<Tag>, Vec<u8>, usize)| {
        let tags = tags.iter().flat_map(|(kind, number)| [*kind, number.to_be_bytes()].concat());
        let mut frame = [&EVERYBODY[..], &STRANGER].concat();
        frame.extend(tags.chain(rest));
        frame.truncate(len);
        frame
    };
    (tags, vec(any::<u8>(), 0..40), prop_oneof![Just(100), 0..20_usize]).prop_map(octets)
}

#[test]
fn loops_are_looked_for_in_each_vlan() {
    let start = Instant::now();
    let mut pipeline = Pipeline::default();
    let mut of = Ports::default();
    networks([0; 5], GuestVlans::Drop).iter().for_each(|network| of.publish(network));
    let guests = ports(None, |_, attachment| {
        pipeline.attached(&attachment, start);
        of.attach(attachment, Duration::ZERO);
    });
    pipeline.handle_timeouts(&mut of, start + Duration::from_secs(10));
    let probes: Vec<_> = guests[TRUNK].received.try_iter().collect();
    let tags: Vec<_> = probes.iter().map(|probe| &probe[12..16]).collect();
    assert_eq!(tags[1..], [&tag(10), &tag(20)]);
    assert_eq!((tags.len(), &tags[0][..2]), (3, &[0x88, 0xb5][..]), "the native one");
    // What the trunk sent into the red network comes back by the other.
    let mut probe = probes[1].clone();
    probe[12..16].copy_from_slice(&tag(110));
    let mut manual = Manual { pipeline, ports: of, guests };
    manual.sends(OTHER, &[probe]);
    manual.sends(OTHER, &[frame(EVERYBODY, STRANGER, &tag(120), "not now")]);
    assert_eq!(manual.drops(OTHER), [(DropReason::PortBlocked, 2)]);
}
