//! Streams with the length of each frame before it, as QEMU speaks them.

use crate::{
    peer::{How, Peer, frame},
    rig::{Rig, has_counted},
};
use mvirt_net::{
    dataplane::{
        Access, PortSpec, PortState, dial,
        listen::Spec,
        socket::{Address, Framing, Prefix},
    },
    locator::Stream,
};
use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
};

pub(crate) fn listens(address: Address, max_clients: u32) -> PortSpec {
    let framing = Framing::Stream(Prefix::U32);
    PortSpec::Listen(Spec { address, framing, access: Access::default(), max_clients })
}

/// An address of this host that nobody listens at.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn clients_of_tcp_and_of_a_path_are_members_of_one_network() {
    let mut rig = Rig::new();
    let (address, path) = (free_address(), rig.path("port"));
    let _tcp = rig.listen(listens(Address::Tcp(address), 256)).unwrap();
    let _unix = rig.listen(listens(Address::Unix(path.clone()), 256)).unwrap();
    let a = Peer::connect_tcp(address);
    let arrival = rig.arrival();
    assert!(arrival.remote().starts_with("127.0.0.1:"), "{}", arrival.remote());
    let _port_a = rig.make_member(arrival, 1);
    let b = Peer::connect(&path, How::Stream);
    let port_b = rig.admit(2);
    // More than the sockets hold, in both directions.
    let long = vec![7; 65_535];
    for payload in [&[][..], b"x", &[3; 1500], &long] {
        for _ in 0..70 {
            a.sends(&frame(2, 1, payload));
            assert_eq!(b.hears(), frame(2, 1, payload));
        }
        b.sends(&frame(1, 2, payload));
        assert_eq!(a.hears(), frame(1, 2, payload));
    }
    // A second listener at the address is refused, and says where.
    let refused = rig.listen(listens(Address::Tcp(address), 256)).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    assert!(refused.to_string().contains(&address.to_string()), "{refused}");

    // A length that no frame has: it is dropped, or ends the connection.
    b.writes(&[&[0; 40_000][..], &[0, 0, 0, 13], &[1; 13]].concat());
    b.writes(&[&[0, 1, 0, 14][..], &vec![1; 65_550]].concat());
    b.sends(&frame(1, 2, b"in step"));
    assert_eq!(a.hears(), frame(1, 2, b"in step"));
    has_counted(&port_b, &[("frame_too_short", 1), ("frame_too_long", 1)]);
    b.writes(&[0xff; 4]);
    assert!(b.hears().is_empty());
    let why = rig.why_it_is(2, PortState::Left);
    assert!(why.starts_with("a frame of 4294967295 octets"), "{why}");
}

#[test]
fn a_frame_may_come_octet_by_octet_and_many_at_once() {
    let mut rig = Rig::new();
    let path = rig.path("port");
    let _listener = rig.listen(listens(Address::Unix(path.clone()), 256)).unwrap();
    let clients = [1, 2].map(|number| {
        let client = Peer::connect(&path, How::Stream);
        (client, rig.admit(number))
    });
    let [(a, _), (b, _)] = &clients;
    let drips = frame(2, 1, b"slowly");
    for octet in [&[0, 0, 0, drips.len() as u8][..], &drips].concat() {
        a.writes(&[octet]);
    }
    assert_eq!(b.hears(), drips);
    let frames: Vec<_> = (0..200_u8).map(|number| frame(2, 1, &[number; 300])).collect();
    let with_length = |frame: &Vec<u8>| [&[0, 0, 1, 58][..], frame].concat();
    a.writes(&frames.iter().flat_map(with_length).collect::<Vec<_>>());
    for frame in frames {
        assert_eq!(b.hears(), frame);
    }
}

#[test]
fn a_client_that_never_reads_hurts_nobody_else() {
    let mut rig = Rig::new();
    let path = rig.path("port");
    let _listener = rig.listen(listens(Address::Unix(path.clone()), 256)).unwrap();
    let clients = [1, 2, 3].map(|number| {
        let client = Peer::connect(&path, How::Stream);
        (client, rig.admit(number))
    });
    let [(a, port_a), (b, _), (c, _)] = &clients;
    // To all: the network's other members hear each, in order, whatever c does.
    let everybody = |number: u32| {
        let rest = [0x52, 0x54, 0, 0, 0, 1, 0x88, 0xb5];
        [&[0xff; 6][..], &rest, &number.to_be_bytes(), &[0; 1400]].concat()
    };
    // Twice of what can wait for c.
    for number in 0..3000 {
        a.sends(&everybody(number));
        assert_eq!(b.hears(), everybody(number));
    }
    has_counted(port_a, &[("ingress_forwarded", 3000)]);
    let stuck = clients[2].1.counters().totals();
    assert!(stuck["rx_ring_full"] > 0, "{stuck:?}");
    // What it does hear is whole, and it is a member as before once it reads.
    let mut last = None;
    for _ in 0..stuck["egress_frames"] {
        let heard = c.hears();
        let number = u32::from_be_bytes(heard[14..18].try_into().unwrap());
        assert_eq!(heard, everybody(number));
        assert!(last < Some(number), "in order");
        last = Some(number);
    }
    a.sends(&frame(3, 1, b"hello again"));
    assert_eq!(c.hears(), frame(3, 1, b"hello again"));
}

#[test]
fn a_port_that_connects_does_so_again_and_again() {
    let mut rig = Rig::new();
    let (path, address) = (rig.path("peer"), free_address());
    let to = |stream| PortSpec::Dial(dial::Spec::Stream(stream));
    let _port_a = rig.join(to(Stream::Unix(path.clone())), 1).unwrap();
    let tcp = Stream::Tcp(address.to_string().parse().unwrap());
    let _port_b = rig.join(to(tcp), 2).unwrap();
    let why = rig.why_it_is(1, PortState::Idle);
    assert!(why.contains("peer: No such file"), "{why}");
    let why = rig.why_it_is(2, PortState::Idle);
    assert!(why.contains(&address.to_string()) && why.contains("refused"), "{why}");
    let unix = UnixListener::bind(&path).unwrap();
    let tcp = TcpListener::bind(address).unwrap();
    for round in 0..3_u8 {
        // One as QEMU is with server=on: it takes one client at a time.
        let a = Peer::new(unix.accept().unwrap().0, How::Stream);
        let b = Peer::new(tcp.accept().unwrap().0, How::Stream);
        // Both are members soon: until then, nobody hears.
        let heard = loop {
            a.sends(&frame(2, 1, &[round]));
            if b.hears_soon() {
                break b.hears();
            }
        };
        assert_eq!(heard, frame(2, 1, &[round]));
    }
    drop((unix, tcp));
    let why = rig.why_it_is(1, PortState::Idle);
    assert!(why == "the connection was closed" || why.contains("refused"), "{why}");
}

#[test]
fn a_client_of_tcp_whose_host_is_gone_is_found_out() {
    let mut rig = Rig::new();
    let address = free_address();
    let _listener = rig.listen(listens(Address::Tcp(address), 256)).unwrap();
    let _a = Peer::connect_tcp(address);
    let _port = rig.admit(1);
    // proc_net_tcp.txt: of the daemon's end, which is established (01), the timer that runs is that
    // of keep-alives (02).
    let own = format!(":{:04X} ", address.port());
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut ours = fields.filter(|f| format!("{} ", f[1]).ends_with(&own) && f[3] == "01");
    assert_eq!(ours.next().unwrap()[5].split(':').next(), Some("02"));
}
