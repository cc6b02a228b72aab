//! Listening ports: whoever connects becomes a member of the network, and is none any more once it
//! has left.

use crate::{
    peer::{How, Peer, frame},
    rig::{NETWORK, Rig, has_counted},
};
use mvirt_net::dataplane::{
    Access, Attached, PortSpec, PortState,
    listen::Spec,
    socket::{Address, Framing},
};
use std::{fs, io, path::Path};

pub(crate) fn spec(path: &Path, max_clients: u32) -> PortSpec {
    PortSpec::Listen(Spec {
        address: Address::Unix(path.into()),
        framing: Framing::Packets,
        access: Access::default(),
        max_clients,
    })
}

/// Connects, and becomes a member.
fn client(rig: &mut Rig, number: u8) -> (Peer, Attached) {
    let client = Peer::connect(&rig.path("port"), How::Messages);
    (client, rig.admit(number))
}

#[test]
fn who_connects_is_a_member_until_it_leaves() {
    let mut rig = Rig::new();
    let listener = rig.listen(spec(&rig.path("port"), 256)).unwrap();
    let (a, _port_a) = client(&mut rig, 1);
    let (b, port_b) = client(&mut rig, 2);
    let (c, _port_c) = client(&mut rig, 3);
    // A frame of the least length and one of the greatest: neither cut nor padded.
    for payload in [&[][..], &[7; 65_535]] {
        a.sends(&frame(2, 1, payload));
        assert_eq!(b.hears(), frame(2, 1, payload));
    }
    b.sends(&frame(1, 2, b"back"));
    assert_eq!(a.hears(), frame(1, 2, b"back"));
    // What is no frame hurts nobody, and is counted.
    for wrong in [&[1; 13][..], &[1; 65_550]] {
        b.sends(wrong);
    }
    b.sends(&frame(3, 2, b"still here"));
    assert_eq!(c.hears(), frame(3, 2, b"still here"), "the first that c hears");
    has_counted(&port_b, &[("frame_too_short", 1), ("frame_too_long", 1)]);

    drop(b);
    assert_eq!(rig.wait_until(2, PortState::Left), "the connection was closed");
    let (place, _) = rig.members.remove(1);
    rig.publish();
    rig.close(port_b);
    rig.dataplane.release(NETWORK, place);
    // Its place is another's.
    let (d, _port_d) = client(&mut rig, 4);
    assert_eq!(rig.members[2].0.port.slot, place.port.slot);
    a.sends(&frame(4, 1, b"hello"));
    assert_eq!(d.hears(), frame(4, 1, b"hello"));
    assert_eq!(listener.refused_clients(), 0);
}

#[test]
fn a_listener_refuses_more_clients_than_it_may_have() {
    let mut rig = Rig::new();
    let path = rig.path("port");
    let listener = rig.listen(spec(&path, 2)).unwrap();
    let (_a, port_a) = client(&mut rig, 1);
    // One that control does not want counts as refused, and makes room.
    let b = Peer::connect(&path, How::Messages);
    let arrival = rig.arrival();
    let own = format!("pid {} of user", std::process::id());
    assert!(arrival.remote().starts_with(&own), "{}", arrival.remote());
    drop(arrival);
    assert!(b.hears().is_empty());
    assert_eq!(listener.refused_clients(), 1);
    let (c, _port_c) = client(&mut rig, 3);
    let d = Peer::connect(&path, How::Messages);
    assert!(d.hears().is_empty());
    assert_eq!(listener.refused_clients(), 2);
    // One that is told to leave makes room, too.
    rig.close(port_a);
    let (e, _port_e) = client(&mut rig, 4);
    // The end of the listener is not that of its clients.
    rig.close(listener);
    assert!(!path.exists());
    c.sends(&frame(4, 3, b"still here"));
    assert_eq!(e.hears(), frame(4, 3, b"still here"));
}

#[test]
fn only_a_dead_socket_is_replaced() {
    let mut rig = Rig::new();
    let path = rig.path("port");
    let _listener = rig.listen(spec(&path, 256)).unwrap();
    let refused = rig.listen(spec(&path, 256)).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    assert!(refused.to_string().contains("somebody serves that socket"), "{refused}");
    let other = rig.path("other");
    let live = std::os::unix::net::UnixListener::bind(&other).unwrap();
    let refused = rig.listen(spec(&other, 256)).unwrap_err();
    assert!(refused.to_string().contains("another type"), "{refused}");
    drop(live);
    // What nobody serves any more is of no type.
    let _other = rig.listen(spec(&other, 256)).unwrap();
    let file = rig.path("file");
    fs::write(&file, "text").unwrap();
    let refused = rig.listen(spec(&file, 256)).unwrap_err();
    assert!(refused.to_string().contains("it is no socket"), "{refused}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "text");
}
