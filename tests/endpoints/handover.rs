//! Ports go from one data plane to another, as from process to process, and lose nothing.

use crate::{
    arrivals,
    peer::{How, Peer, frame},
    rig::{Rig, has_counted},
    streams::listens,
};
use mvirt_net::{
    dataplane::{Attached, PortSpec, PortState, dial, socket::Address},
    locator::Stream,
};
use std::os::unix::net::UnixListener;

#[test]
fn a_stream_goes_on_in_the_middle_of_a_frame_in_both_directions() {
    let (mut old, mut new) = (Rig::new(), Rig::new());
    let path = old.path("port");
    let spec = || listens(Address::Unix(path.clone()), 256);
    let listener = old.listen(spec()).unwrap();
    let clients = [1, 2].map(|number| {
        let client = Peer::connect(&path, How::Stream);
        (client, old.admit(number))
    });
    let [(a, port_a), (b, port_b)] = &clients;
    // More than b's socket takes, of which it reads nothing yet.
    let numbered = |number: u32| frame(2, 1, &[&number.to_be_bytes()[..], &[9; 1400]].concat());
    let mut sent = 0;
    let full = |port: &Attached| port.counters().totals().get("rx_ring_full").copied().unwrap_or(0);
    while full(port_a) == 0 {
        a.sends(&numbered(sent));
        sent += 1;
    }
    has_counted(port_a, &[("ingress_frames", sent.into())]);
    let taken = port_b.counters().totals()["egress_frames"];
    // Half of a frame, and the rest later.
    let late = frame(2, 1, b"late");
    a.writes(&[&[0, 0, 0, late.len() as u8][..], &late[..9]].concat());
    let exported = [old.export(&listener), old.export(port_a), old.export(port_b)];
    let [listener, from_a, from_b] = exported;
    let (_listener, attached) = new.take_over(spec(), listener, [(1, from_a), (2, from_b)]);
    // They count on where they were.
    assert_eq!(attached[1].counters().totals()["egress_frames"], taken);
    // b hears each frame that was taken for it, from the first on.
    let mut last = None;
    for _ in 0..taken {
        let heard = b.hears();
        let number = u32::from_be_bytes(heard[14..18].try_into().unwrap());
        assert_eq!(heard, numbered(number));
        assert!(last < Some(number), "in order");
        last = Some(number);
    }
    a.writes(&late[9..]);
    assert_eq!(b.hears(), late);
    b.sends(&frame(1, 2, b"back"));
    assert_eq!(a.hears(), frame(1, 2, b"back"));
    // The listener has gone on, too.
    let c = Peer::connect(&path, How::Stream);
    let _port_c = new.admit(3);
    a.sends(&frame(3, 1, b"welcome"));
    assert_eq!(c.hears(), frame(3, 1, b"welcome"));
}

#[test]
fn packets_that_nobody_has_read_yet_are_not_lost() {
    let (mut old, mut new) = (Rig::new(), Rig::new());
    let path = old.path("port");
    let spec = || arrivals::spec(&path, 2);
    let listener = old.listen(spec()).unwrap();
    let clients = [1, 2].map(|number| {
        let client = Peer::connect(&path, How::Messages);
        (client, old.admit(number))
    });
    let [(a, port_a), (b, port_b)] = &clients;
    let exported = [old.export(&listener), old.export(port_a), old.export(port_b)];
    for number in 0..5 {
        a.sends(&frame(2, 1, &[number]));
    }
    let [listener, from_a, from_b] = exported;
    // In the order that clients are attached, b hears what a has sent.
    let (listener, _attached) = new.take_over(spec(), listener, [(2, from_b), (1, from_a)]);
    for number in 0..5 {
        assert_eq!(b.hears(), frame(2, 1, &[number]));
    }
    // Both have their places.
    let third = Peer::connect(&path, How::Messages);
    assert!(third.hears().is_empty());
    assert_eq!(listener.refused_clients(), 1);
}

#[test]
fn what_is_connected_stays_so() {
    let (mut old, mut new) = (Rig::new(), Rig::new());
    let path = old.path("peer");
    let peer = UnixListener::bind(&path).unwrap();
    let spec = || PortSpec::Dial(dial::Spec::Stream(Stream::Unix(path.clone())));
    let port = old.join(spec(), 1).unwrap();
    let a = Peer::new(peer.accept().unwrap().0, How::Stream);
    old.wait_until(1, PortState::Active);
    let exported = old.export(&port);
    let _port = new.rejoin(spec(), 1, exported);
    new.wait_until(1, PortState::Active);
    // It has connected no second time, and still speaks with its peer.
    peer.set_nonblocking(true).unwrap();
    assert!(peer.accept().is_err());
    let listens = new.path("port");
    let _listener = new.listen(arrivals::spec(&listens, 1)).unwrap();
    let b = Peer::connect(&listens, How::Messages);
    let _port_b = new.admit(2);
    a.sends(&frame(2, 1, b"still here"));
    assert_eq!(b.hears(), frame(2, 1, b"still here"));
}
