//! Listening ports: whoever connects becomes a member of the network, and is none any more once it
//! has left. The test is what control is to the data plane.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use mvirt_net::{
    addr::MacAddr,
    dataplane::{
        Access, Arrival, Attached, Dataplane, Hugepages, NewPort, Placement, PortChange, PortEvent,
        PortSpec, PortState, Reports, Settings,
        forward::{
            Domain, Network,
            switched::Switched,
            tables::{Member, NetworkKey, PortId, Role, Vnic},
        },
        listen::{Address, Framing, Spec},
    },
    model::{
        L2Policy,
        l2::{HasGateway, Members},
    },
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect,
        recv, send, socket_with,
    },
};
use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const NETWORK: NetworkKey = NetworkKey(1);
const TIMEOUT: Duration = Duration::from_secs(20);

/// A client of a packet socket.
struct Client(OwnedFd);

impl Client {
    fn connect(path: &Path) -> Self {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        Self(socket)
    }

    fn sends(&self, octets: &[u8]) {
        assert_eq!(send(&self.0, octets, SendFlags::NOSIGNAL).unwrap(), octets.len());
    }

    /// The next message; empty at the end of the connection.
    fn hears(&self) -> Vec<u8> {
        let timeout = Timespec::try_from(TIMEOUT).unwrap();
        let ready = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout)).unwrap();
        assert_eq!(ready, 1, "nothing comes");
        let mut octets = vec![0; 70_000];
        let (len, _) = recv(&self.0, &mut *octets, RecvFlags::empty()).unwrap();
        octets.truncate(len);
        octets
    }
}

fn mac(number: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, number]
}

/// A frame of an EtherType for experiments (IEEE 802, clause 9.2.3).
fn frame(to: u8, from: u8, payload: &[u8]) -> Vec<u8> {
    [&mac(to)[..], &mac(from), &[0x88, 0xb5], payload].concat()
}

/// A data plane with a port that listens.
struct Rig {
    runtime: tokio::runtime::Runtime,
    dataplane: Dataplane,
    reports: Reports,
    listener: Attached,
    path: PathBuf,
    _directory: tempfile::TempDir,
    /// Who is a member, and the number in its MAC.
    members: Vec<(Placement, u8)>,
}

fn spec(path: &Path, max_clients: u32) -> PortSpec {
    PortSpec::Listen(Spec {
        address: Address::Unix(path.into()),
        framing: Framing::Packets,
        access: Access::default(),
        max_clients,
    })
}

impl Rig {
    fn new(max_clients: u32) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("port");
        let settings = Settings {
            reactors: 1,
            cpus: vec![],
            busy_poll: Duration::ZERO,
            hugepages: Hugepages::Off,
            guest_memory: 0,
            socket_access: Access::default(),
        };
        let (mut dataplane, reports) = Dataplane::start(&settings).unwrap();
        let place = dataplane.place(NETWORK);
        let new =
            NewPort { place, network: NETWORK, name: "in".into(), spec: spec(&path, max_clients) };
        let _entered = runtime.enter();
        let listener = dataplane.attach(new, None).unwrap();
        let _directory = directory;
        let members = Vec::new();
        let mut rig = Self { runtime, dataplane, reports, listener, path, _directory, members };
        let event = rig.event();
        assert!(matches!(event.change, PortChange::State(PortState::Listening, _)), "{event:?}");
        rig
    }

    fn event(&mut self) -> PortEvent {
        let Self { runtime, reports, .. } = self;
        let next = runtime.block_on(async { tokio::time::timeout(TIMEOUT, reports.recv()).await });
        next.unwrap().unwrap()
    }

    /// The next who arrives; what else happens is of no interest.
    fn arrival(&mut self) -> Arrival {
        loop {
            if let PortChange::Arrived(arrival) = self.event().change {
                return arrival;
            }
        }
    }

    /// Makes a member of who has connected.
    fn admit(&mut self, number: u8) -> (Client, Attached) {
        let client = Client::connect(&self.path);
        let arrival = self.arrival();
        let own = format!("pid {} of user", std::process::id());
        assert!(arrival.remote().starts_with(&own), "{}", arrival.remote());
        assert!(arrival.since().elapsed().unwrap() < TIMEOUT);
        let place = self.dataplane.place(NETWORK);
        let spec = PortSpec::Member(arrival);
        let new = NewPort { place, network: NETWORK, name: format!("in {number}"), spec };
        let _entered = self.runtime.enter();
        let attached = self.dataplane.attach(new, None).unwrap();
        self.members.push((place, number));
        self.publish();
        (client, attached)
    }

    fn publish(&mut self) {
        let network = network(&self.members);
        assert!(self.runtime.block_on(self.dataplane.publish([network]).passed()));
    }

    /// Waits until a member is in `state`. Returns why it is.
    fn wait_for(&mut self, place: Placement, state: PortState) -> String {
        loop {
            let event = self.event();
            if let PortChange::State(is, why) = event.change
                && (event.port, is) == (place.port, state)
            {
                return why.to_string();
            }
        }
    }
}

/// A switched network of vNICs with these numbers in their MACs.
fn network(members: &[(Placement, u8)]) -> Network {
    let member = |(place, number): &(Placement, u8)| {
        let vnic = Vnic::new(place.port, MacAddr(mac(*number)), 1500);
        Member { reactor: place.reactor, role: Role::Guest(Arc::new(vnic)) }
    };
    let members: Vec<_> = members.iter().map(member).collect();
    let rules = L2Policy::default().in_force(HasGateway::No, Members::Any);
    let domain = Domain::Switched(Switched::new(&members, rules));
    Network { key: NETWORK, members, domain }
}

#[test]
fn who_connects_is_a_member_until_it_leaves() {
    let mut rig = Rig::new(256);
    let (a, _port_a) = rig.admit(1);
    let (b, port_b) = rig.admit(2);
    let (c, _port_c) = rig.admit(3);
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
    let counters = port_b.counters().totals();
    assert_eq!((counters["frame_too_short"], counters["frame_too_long"]), (1, 1), "{counters:?}");

    drop(b);
    let (place, _) = rig.members[1];
    let why = rig.wait_for(place, PortState::Left);
    assert_eq!(why, "the connection was closed");
    rig.members.remove(1);
    rig.publish();
    rig.runtime.block_on(port_b.close());
    rig.dataplane.release(NETWORK, place);
    // Its place is another's.
    let (d, _port_d) = rig.admit(4);
    assert_eq!(rig.members[2].0.port.slot, place.port.slot);
    a.sends(&frame(4, 1, b"hello"));
    assert_eq!(d.hears(), frame(4, 1, b"hello"));
    assert_eq!(rig.listener.refused_clients(), 0);
}

#[test]
fn a_listener_refuses_more_clients_than_it_may_have() {
    let mut rig = Rig::new(2);
    let (_a, port_a) = rig.admit(1);
    // One that control does not want counts as refused, and makes room.
    let b = Client::connect(&rig.path);
    drop(rig.arrival());
    assert!(b.hears().is_empty());
    assert_eq!(rig.listener.refused_clients(), 1);
    let (c, _port_c) = rig.admit(3);
    let d = Client::connect(&rig.path);
    assert!(d.hears().is_empty());
    assert_eq!(rig.listener.refused_clients(), 2);
    // One that is told to leave makes room, too.
    rig.runtime.block_on(port_a.close());
    let (e, _port_e) = rig.admit(4);
    // The end of the listener is not that of its clients.
    rig.runtime.block_on(rig.listener.close());
    assert!(!rig.path.exists());
    c.sends(&frame(4, 3, b"still here"));
    assert_eq!(e.hears(), frame(4, 3, b"still here"));
}

#[test]
fn only_a_dead_socket_is_replaced() {
    let rig = Rig::new(256);
    let attach = |path: &Path| {
        let _entered = rig.runtime.enter();
        let place = Placement { port: PortId { slot: 9, generation: 1 }, reactor: 0 };
        let new = NewPort { place, network: NETWORK, name: "other".into(), spec: spec(path, 1) };
        rig.dataplane.attach(new, None).map(|_| ())
    };
    let refused = attach(&rig.path).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    assert!(refused.to_string().contains("somebody serves that socket"), "{refused}");
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other");
    let live = std::os::unix::net::UnixListener::bind(&other).unwrap();
    assert!(attach(&other).unwrap_err().to_string().contains("another type"));
    drop(live);
    // What nobody serves any more is of no type.
    attach(&other).unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "text").unwrap();
    assert!(attach(&file).unwrap_err().to_string().contains("it is no socket"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "text");
}
