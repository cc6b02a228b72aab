//! What clients may do to a port that listens, and whom it hurts: nobody else.

use crate::{
    arrivals,
    peer::{How, Peer, frame},
    rig::{Rig, has_counted},
    streams::listens,
};
use mvirt_net::dataplane::{Attached, PortState, socket::Address};
use rustix::{
    io::IoSlice,
    net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
        SocketFlags, SocketType, connect, sendmsg, socket_with,
    },
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use std::{
    fs,
    io::Read as _,
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    thread,
};

/// Two members, connected by a stream each.
fn pair(rig: &mut Rig, path: &Path) -> [(Peer, Attached); 2] {
    [1, 2].map(|number| {
        let client = Peer::connect(path, How::Stream);
        (client, rig.admit(number))
    })
}

fn converse(pair: &[(Peer, Attached); 2], text: &[u8]) {
    let [(a, _), (b, _)] = pair;
    a.sends(&frame(2, 1, text));
    assert_eq!(b.hears(), frame(2, 1, text));
    b.sends(&frame(1, 2, text));
    assert_eq!(a.hears(), frame(1, 2, text));
}

#[test]
fn without_descriptors_those_who_are_connected_are_served_and_others_wait() {
    let mut rig = Rig::new();
    let path = rig.path("port");
    let _listener = rig.listen(listens(Address::Unix(path.clone()), 256)).unwrap();
    let pair = pair(&mut rig, &path);
    let sockets = [(); 8].map(|()| {
        let flags = SocketFlags::CLOEXEC;
        socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
    });
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let numbers = open.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse::<u64>());
    let highest = numbers.map(Result::unwrap).max().unwrap();
    let before = getrlimit(Resource::Nofile);
    // Descriptors are numbered from the lowest that is free: perhaps a few are below.
    setrlimit(Resource::Nofile, Rlimit { current: Some(highest + 1), ..before }).unwrap();
    let address = SocketAddrUnix::new(&path).unwrap();
    sockets.iter().for_each(|socket| connect(socket, &address).unwrap());
    for _ in 0..20 {
        converse(&pair, b"still here");
    }
    setrlimit(Resource::Nofile, before).unwrap();
    for _ in &sockets {
        drop(rig.arrival());
    }
    converse(&pair, b"and now");
}

#[test]
fn clients_in_crowds_find_a_limit_and_hurt_nobody() {
    let mut rig = Rig::new();
    let path = rig.path("port");
    let listener = rig.listen(listens(Address::Unix(path.clone()), 256)).unwrap();
    let pair = pair(&mut rig, &path);
    // They say nothing, and are not members yet: two places are taken.
    let crowd: Vec<_> = (0..300).map(|_| Peer::connect(&path, How::Stream)).collect();
    let last = &crowd[254..];
    assert!(last.iter().all(|client| client.hears().is_empty()), "closed at once");
    assert_eq!(listener.refused_clients(), 300 - 254);
    converse(&pair, b"in spite of them");
    (0..254).for_each(|_| drop(rig.arrival()));
    drop(crowd);
    // Others come and go, faster than anybody looks.
    thread::scope(|scope| {
        scope.spawn(|| (0..500).for_each(|_| drop(UnixStream::connect(&path))));
        for _ in 0..50 {
            converse(&pair, b"in spite of these");
        }
    });
    converse(&pair, b"as before");
}

#[test]
fn descriptors_that_come_with_frames_are_closed() {
    let mut rig = Rig::new();
    let [packets, stream] = [rig.path("packets"), rig.path("stream")];
    let _packets = rig.listen(arrivals::spec(&packets, 2)).unwrap();
    let _stream = rig.listen(listens(Address::Unix(stream.clone()), 2)).unwrap();
    let a = Peer::connect(&packets, How::Messages);
    let port_a = rig.admit(1);
    let b = Peer::connect(&stream, How::Stream);
    let port_b = rig.admit(2);
    for (from, port) in [(&a, &port_a), (&b, &port_b)] {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let theirs = OwnedFd::from(theirs);
        let fds = [theirs.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        // No frame of either.
        let octets = [IoSlice::new(&[0, 0, 0, 1, 7])];
        sendmsg(&from.socket, &octets, &mut control, SendFlags::empty()).unwrap();
        has_counted(port, &[("frame_too_short", 1)]);
        drop(theirs);
        // At its end: nobody else has the other one.
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    }
    drop(a);
    rig.wait_until(1, PortState::Left);
}
