//! Sockets of datagrams: UNIX, UDP to one host, UDP to a group.

use crate::{
    arrivals::spec,
    peer::{How, Peer, frame, mac},
    rig::{Rig, has_counted},
};
use mvirt_net::{
    dataplane::{Access, PortSpec, PortState, dial},
    locator::{Mcast, Udp},
};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with,
    sockopt::{set_ip_add_membership, set_ip_multicast_if, set_socket_reuseaddr},
};
use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::unix::net::UnixDatagram,
};

fn udp(local: SocketAddr, remote: SocketAddr) -> PortSpec {
    let remote = remote.to_string().parse().unwrap();
    PortSpec::Dial(dial::Spec::Host(Udp { address: Some(local.ip()), port: local.port(), remote }))
}

#[test]
fn a_unix_socket_of_datagrams_reaches_whoever_is_at_the_path() {
    let mut rig = Rig::new();
    let [local, remote] = [rig.path("local"), rig.path("remote")];
    let other = rig.path("other");
    let between = |local: &std::path::Path, remote: &std::path::Path| {
        PortSpec::Dial(dial::Spec::Datagrams {
            local: local.into(),
            access: Access::default(),
            remote: remote.into(),
        })
    };
    let _port = rig.join(between(&local, &remote), 1).unwrap();
    let why = rig.why_it_is(1, PortState::Idle);
    assert!(why.contains("No such file"), "{why}");
    let end = UnixDatagram::bind(&other).unwrap();
    let _port_b = rig.join(between(&rig.path("second"), &other), 2).unwrap();
    rig.wait_until(2, PortState::Active);
    let b = Peer::new(end, How::Messages);
    connect(&b.socket, &rustix::net::SocketAddrUnix::new(rig.path("second")).unwrap()).unwrap();
    for round in 0..2 {
        let end = UnixDatagram::bind(&remote).unwrap();
        end.connect(&local).unwrap();
        let a = Peer::new(end, How::Messages);
        rig.wait_until(1, PortState::Active);
        a.sends(&frame(2, 1, &[round; 60_000]));
        assert_eq!(b.hears(), frame(2, 1, &[round; 60_000]));
        // No frame, and not the end of anything.
        a.sends(&[]);
        b.sends(&frame(1, 2, &[round]));
        assert_eq!(a.hears(), frame(1, 2, &[round]));
        // The next one is another process, with another socket.
        drop(a);
        std::fs::remove_file(&remote).unwrap();
        b.sends(&frame(1, 2, b"nobody is there"));
        let why = rig.why_it_is(1, PortState::Idle);
        // It fails, and is not found when it is looked for again.
        assert!(why.contains("gone") || why.contains("No such file"), "{why}");
    }
}

#[test]
fn datagrams_come_from_one_host_and_lost_ones_are_no_failure() {
    let mut rig = Rig::new();
    let [a, b] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    // Ports that were free a moment ago.
    let own = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let remotes = [&a, &b].map(|socket| socket.local_addr().unwrap());
    let port_a = rig.join(udp(own[0], remotes[0]), 1).unwrap();
    let _port_b = rig.join(udp(own[1], remotes[1]), 2).unwrap();
    rig.wait_until(1, PortState::Active);
    rig.wait_until(2, PortState::Active);
    stranger.send_to(&frame(2, 1, b"let me in"), own[0]).unwrap();
    a.send_to(&[], own[0]).unwrap();
    a.send_to(&frame(2, 1, b"hello"), own[0]).unwrap();
    let mut buffer = [0; 2000];
    let hears = |socket: &UdpSocket, buffer: &mut [u8]| {
        socket.set_read_timeout(Some(crate::peer::TIMEOUT)).unwrap();
        let len = socket.recv(buffer).unwrap();
        buffer[..len].to_vec()
    };
    assert_eq!(hears(&b, &mut buffer), frame(2, 1, b"hello"));
    has_counted(&port_a, &[("ingress_frames", 2), ("frame_too_short", 1)]);
    // Its host says that nobody listens there. It comes back, and the port has stayed.
    drop(a);
    for _ in 0..50 {
        b.send_to(&frame(1, 2, b"is anybody there?"), own[1]).unwrap();
    }
    while port_a.counters().totals().get("egress_frames") < Some(&2) {
        std::thread::yield_now();
    }
    let a = UdpSocket::bind(remotes[0]).unwrap();
    a.send_to(&frame(2, 1, b"back"), own[0]).unwrap();
    assert_eq!(hears(&b, &mut buffer), frame(2, 1, b"back"));
    b.send_to(&frame(1, 2, b"welcome"), own[1]).unwrap();
    loop {
        let heard = hears(&a, &mut buffer);
        if heard == frame(1, 2, b"welcome") {
            break;
        }
        assert_eq!(heard, frame(1, 2, b"is anybody there?"));
    }
}

/// A member of a group, as QEMU is one: it sends from the group's own port.
fn member(group: SocketAddr) -> Peer {
    let SocketAddr::V4(of) = group else { panic!("not of IPv4") };
    let flags = SocketFlags::CLOEXEC;
    let udp = Some(ipproto::UDP);
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, udp).unwrap();
    set_socket_reuseaddr(&socket, true).unwrap();
    bind(&socket, &group).unwrap();
    set_ip_add_membership(&socket, of.ip(), &Ipv4Addr::LOCALHOST).unwrap();
    set_ip_multicast_if(&socket, &Ipv4Addr::LOCALHOST).unwrap();
    Peer::new(socket, How::Messages)
}

#[test]
fn a_group_hears_each_frame_once_and_nobody_hears_himself() {
    let mut rig = Rig::new();
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let group = SocketAddr::from(([239, 192, 1, 7], free.port()));
    let of = Mcast { group, interface: Some("127.0.0.1".into()), ttl: None };
    // Two ports in one group, in one network, would be a loop: the second is for its counters.
    let port = rig.join(PortSpec::Dial(dial::Spec::Group(of)), 1).unwrap();
    rig.wait_until(1, PortState::Active);
    let listens = rig.path("port");
    let _listener = rig.listen(spec(&listens, 256)).unwrap();
    let c = Peer::connect(&listens, How::Messages);
    let _port_c = rig.admit(3);
    let others = [member(group), member(group)];
    c.sends(&frame(1, 3, b"to the group"));
    for other in &others {
        assert_eq!(other.hears(), frame(1, 3, b"to the group"));
    }
    let says = [mac(3).to_vec(), mac(1).to_vec(), b"\x88\xb5from one of it".to_vec()].concat();
    rustix::net::sendto(&others[0].socket, &says, rustix::net::SendFlags::empty(), &group).unwrap();
    assert_eq!(c.hears(), says);
    for other in &others {
        assert_eq!(other.hears(), says);
    }
    // The port has heard its own frame, too, and made nothing of it.
    has_counted(&port, &[("ingress_frames", 1), ("egress_frames", 1)]);
}
