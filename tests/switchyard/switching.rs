//! Who hears what.

use crate::support::{Fabric, frame};
use mvirt_net::switchyard::protocol::{Kind, PROMISC};
use serde_json::json;

const ALL: &str = "ff:ff:ff:ff:ff:ff";
const GROUP: &str = "01:00:5e:00:00:01";
const NOBODY: &str = "02:00:00:00:00:99";

// seed H.4.8, H.4.13, H.4.14, H.4.15, H.4.16
#[test]
fn a_frame_goes_where_its_mac_is_or_everywhere() {
    let fabric = Fabric::start(&[]);
    let mut members = ["a", "b", "c"].map(|name| fabric.member(name));
    let [a, b, c] = &mut members;
    for everywhere in [ALL, GROUP, NOBODY] {
        let sent = frame(everywhere, &a.mac, b"everywhere");
        a.send_frame(&sent);
        for member in [&mut *b, &mut *c] {
            assert_eq!(member.heard(), [(member.id, 0, sent.clone())], "{everywhere}");
        }
        assert_eq!(a.frames(), [[0; 0]; 0], "not back to who sent it");
    }
    let sent = frame(&b.mac, &a.mac, b"to one");
    a.send_frame(&sent);
    assert_eq!((b.frames(), c.frames()), (vec![sent], vec![]));
    // A MAC is where it was last sent from.
    let moved = frame(ALL, NOBODY, b"here I am");
    c.send_frame(&moved);
    a.send_frame(&frame(NOBODY, &a.mac, b"found"));
    assert_eq!(b.frames(), std::slice::from_ref(&moved));
    assert_eq!(c.frames(), [frame(NOBODY, &a.mac, b"found")]);
    b.send_frame(&moved);
    a.frames();
    a.send_frame(&frame(NOBODY, &a.mac, b"found again"));
    assert_eq!(c.frames(), [moved]);
    assert_eq!(b.frames(), [frame(NOBODY, &a.mac, b"found again")]);
    // Nor does who sends from a group's MAC get what is for the group.
    b.send_frame(&frame(ALL, GROUP, b"from a group"));
    c.frames();
    a.frames();
    a.send_frame(&frame(GROUP, &a.mac, b"for the group"));
    assert_eq!(c.frames(), [frame(GROUP, &a.mac, b"for the group")]);
}

// seed H.4.12, H.4.11
#[test]
fn frames_are_not_looked_into() {
    let fabric = Fabric::start(&[]);
    let (mut a, mut b) = (fabric.member("a"), fabric.member("b"));
    let payload: Vec<u8> = (0..65_535_u32).map(|n| (n * 7) as u8).collect();
    let lens = [0, 1, 46, 1500, 9000 - 14, payload.len()];
    for len in lens {
        let sent = frame(&b.mac, &a.mac, &payload[..len]);
        a.send_frame(&sent);
        assert!(b.frames() == [sent], "{len} octets");
    }
    a.send_frame_as(a.id, &[0; 13]);
    let expected = "PACKET_OUT: bad ethernet frame: 13 octets; expected 14-65549";
    assert_eq!(a.refusal(), expected);
}

// seed H.4.17
#[test]
fn macs_are_counted_in_the_order_of_creation() {
    let fabric = Fabric::start(&[]);
    let mut client = fabric.client();
    let mut mac = |body| client.create(body)["mac"].as_str().unwrap().to_owned();
    assert_eq!(mac(json!({"name": "a"})), "02:53:59:00:00:01");
    assert_eq!(mac(json!({"name": "b"})), "02:53:59:00:00:02");
    assert_eq!(mac(json!({"name": "c", "mac": "02:53:59:00:00:03"})), "02:53:59:00:00:03");
    assert_eq!(mac(json!({"name": "d", "mac": null})), "02:53:59:00:00:04");
}

// seed H.4.30
#[test]
fn subscribers_hear_and_endpoints_without_one_do_not() {
    let fabric = Fabric::start(&[]);
    let (mut a, mut b) = (fabric.member("a"), fabric.member("b"));
    let mut deaf = fabric.client();
    let created = deaf.create(json!({"name": "deaf"}));
    let sent = frame(ALL, &a.mac, b"to all");
    a.send_frame(&sent);
    let to_deaf = frame(created["mac"].as_str().unwrap(), &a.mac, b"to the deaf");
    a.send_frame(&to_deaf);
    assert_eq!((b.frames(), deaf.frames()), (vec![sent.clone()], vec![]));
    // Anyone may subscribe to an endpoint: each subscriber has a copy.
    let mut second = fabric.client();
    second.subscribe(b.id, 0);
    a.send_frame(&sent);
    assert_eq!((b.frames(), second.frames()), (vec![sent.clone()], vec![sent.clone()]));
    drop(second);
    drop(b);
    a.sync();
    a.send_frame(&sent);
    assert_eq!(deaf.frames(), [[0; 0]; 0]);
}

// seed H.4.35: what a sniffer hears
#[test]
fn a_promiscuous_subscriber_hears_every_frame_once() {
    let fabric = Fabric::start(&[]);
    let mut members = ["a", "b"].map(|name| fabric.member(name));
    let [a, b] = &mut members;
    let mut sniffer = fabric.client();
    let created = sniffer.create(json!({"name": "sniffer"}));
    let id = u32::try_from(created["endpoint_id"].as_u64().unwrap()).unwrap();
    sniffer.subscribe(id, PROMISC);
    let unicast = frame(&b.mac, &a.mac, b"between two others");
    let flooded = frame(ALL, &b.mac, b"to all");
    a.send_frame(&unicast);
    b.send_frame(&flooded);
    let heard = [unicast.clone(), flooded.clone()].map(|frame| (id, PROMISC, frame));
    assert_eq!(sniffer.heard(), heard);
    assert_eq!((a.frames(), b.frames()), (vec![flooded], vec![unicast.clone()]));
    // As soon as nobody is promiscuous any more, the fabric is as before.
    drop(sniffer);
    a.send_frame(&unicast);
    assert_eq!(b.frames(), [unicast]);
}

// seed H.4.50
#[test]
fn a_client_that_comes_back_finds_its_name_free() {
    let fabric = Fabric::start(&[]);
    for _ in 0..2 {
        let mut first = fabric.member("cli1");
        let taken = first.look_up("cli1");
        assert_eq!(taken["endpoint_id"], first.id);
        drop(first);
        // Its end is noticed when it is: whoever asks once the name is free, has it.
        let mut other = fabric.client();
        loop {
            other.send(Kind::ENDPOINT_LOOKUP, 0, 0, json!({"name": "cli1"}));
            if other.next().unwrap().kind == Kind::ERROR {
                break;
            }
        }
    }
    let fabric = Fabric::start(&["--keep-endpoints"]);
    drop(fabric.member("cli1"));
    let mut other = fabric.client();
    other.look_up("cli1");
    other.send(Kind::ENDPOINT_CREATE, 0, 0, json!({"name": "cli1"}));
    assert_eq!(other.refusal(), "endpoint name already exists: cli1");
}

#[test]
fn only_its_owner_sends_as_an_endpoint_unless_anyone_may() {
    let fabric = Fabric::start(&[]);
    let (mut a, mut b) = (fabric.member("a"), fabric.member("b"));
    let sent = frame(ALL, &a.mac, b"not mine");
    b.send_frame_as(a.id, &sent);
    assert_eq!(b.refusal(), "PACKET_OUT: endpoint 1 belongs to another client");
    assert_eq!(a.frames(), [[0; 0]; 0]);
    let fabric = Fabric::start(&["--any-sender"]);
    let (a, mut b) = (fabric.member("a"), fabric.member("b"));
    b.send_frame_as(a.id, &sent);
    assert_eq!(b.frames(), [sent]);
}

// seed H.4.42
#[test]
fn a_fabric_says_nothing_by_itself() {
    let fabric = Fabric::start(&[]);
    let mut members: Vec<_> = (0..8).map(|n| fabric.member(&format!("m{n}"))).collect();
    for member in &mut members {
        assert_eq!(member.heard(), []);
    }
}
