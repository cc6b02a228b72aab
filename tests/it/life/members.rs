//! A network of members of every kind, over hand-overs under traffic: what waits in a port is not
//! forwarded to one that is not there yet.

use crate::{
    daemon::{Daemon, cannot_run, wait_until},
    guest::Guest,
    inside::inside,
    lab::{create, get},
    namespace::run,
    vde::{Plug, lab_with},
};
use mvirt_net::{
    dataplane::{
        frame::{Burst, FrameSet, MAX_FRAME_LEN, Outgoing},
        port::{
            Port,
            datagram::{Datagrams, Peer},
            descriptor::DescriptorPort,
            packet::Packet,
            rest::Rest,
            stream::{Prefix, Stream},
        },
    },
    proto::{NicState, PortState},
    wire::vnet::Offload,
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::{
    net::UdpSocket,
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// Frames of a flow that are on their way at a time.
const IN_FLIGHT: u64 = 2;
const PATIENCE: Duration = Duration::from_secs(30);

/// What is at the other end of a member's port.
enum End {
    Guest(Box<Guest>),
    Socket(Box<dyn Port>, Box<Burst>),
    Plug(Plug),
}

impl End {
    fn socket(port: impl Port + 'static) -> Self {
        Self::Socket(Box::new(port), Box::default())
    }

    fn datagrams(socket: impl Into<OwnedFd>, peer: Peer) -> Self {
        let socket = socket.into();
        rustix::io::ioctl_fionbio(&socket, true).unwrap();
        Self::socket(DescriptorPort::new(Datagrams::new(socket, peer)).unwrap())
    }

    fn stream(socket: UnixStream) -> Self {
        socket.set_nonblocking(true).unwrap();
        let stream = Stream::with(socket.into(), Prefix::U32, &Rest::default());
        Self::socket(DescriptorPort::new(stream).unwrap())
    }

    fn interface(name: &str) -> Self {
        Self::socket(DescriptorPort::new(Packet::open(name).unwrap()).unwrap())
    }

    fn plug(locator: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
        Self::Plug(Plug::of(command.args(["plug", locator])))
    }

    /// Whether there was room for the frame.
    fn send(&mut self, frame: &[u8]) -> bool {
        match self {
            Self::Guest(guest) => guest.send(frame),
            Self::Plug(plug) => plug.sends(frame),
            Self::Socket(port, _) => {
                let frame = [Outgoing::private(frame, Offload::None)];
                let is_taken = port.has_room(0) && port.deliver(&frame, 0).taken == 1;
                port.publish();
                port.notify().unwrap();
                return is_taken;
            }
        }
        true
    }

    fn hear(&mut self) -> Vec<Vec<u8>> {
        match self {
            Self::Guest(guest) => guest.drain(),
            Self::Plug(plug) => std::iter::from_fn(|| plug.hears_within(0)).collect(),
            Self::Socket(port, burst) => {
                burst.clear(0);
                port.poll(0, burst).unwrap();
                let mut whole = vec![0; MAX_FRAME_LEN];
                let heard = (0..burst.len()).map(|at| burst.linearise(at, &mut whole).to_vec());
                let heard = heard.collect();
                port.complete(0, FrameSet::oldest(burst.len()));
                heard
            }
        }
    }
}

struct Member {
    kind: &'static str,
    mac: [u8; 6],
    end: End,
    /// Of frames to the next member.
    sent: u64,
    /// Of frames from the one before.
    heard: u64,
    since: Instant,
}

/// Members in a ring, each of whom sends to the next.
struct Ring {
    members: Vec<Member>,
    /// What is lost is sent again.
    is_lenient: bool,
    lost: Vec<String>,
}

impl Ring {
    fn add(&mut self, kind: &'static str, end: End) {
        let mac = match &end {
            End::Guest(guest) => guest.mac,
            _ => [2, 0, 0, 0, 1, self.members.len() as u8],
        };
        let member = Member { kind, mac, end, sent: 0, heard: 0, since: Instant::now() };
        self.members.push(member);
    }

    /// Returns the member after one, and whether what it sends to that may be lost: what a mesh has
    /// read and not forwarded yet goes with its process.
    fn next(&self, at: usize) -> (usize, bool) {
        let next = (at + 1) % self.members.len();
        let has_mesh = [at, next].iter().any(|at| self.members[*at].kind == "dives");
        (next, self.is_lenient || has_mesh)
    }

    fn turn(&mut self) {
        for from in 0..self.members.len() {
            let (at, may_lose) = self.next(from);
            let member = &mut self.members[at];
            for frame in member.end.hear() {
                let Some((header, number)) = frame.split_at_checked(14) else { continue };
                let Some(number) = number.first_chunk() else { continue };
                if header[..6] != member.mac || header[12..] != [0x88, 0xb5] {
                    continue;
                }
                let number = u64::from_be_bytes(*number);
                if number > member.heard + 1 && !may_lose {
                    self.lost.push(format!("{number} to {at}, {}", member.kind));
                }
                if number > member.heard {
                    (member.heard, member.since) = (number, Instant::now());
                }
            }
        }
        for at in 0..self.members.len() {
            let (next, may_lose) = self.next(at);
            let Member { mac, heard, since, .. } = self.members[next];
            let from = &mut self.members[at];
            if may_lose && since.elapsed() > Duration::from_millis(100) {
                from.sent = heard;
                self.members[next].since = Instant::now();
            }
            let from = &mut self.members[at];
            while from.sent < heard + IN_FLIGHT {
                let head = [&mac[..], &from.mac, &[0x88, 0xb5]].concat();
                let number = (from.sent + 1).to_be_bytes();
                if !from.end.send(&[&head[..], &number, &[at as u8; 40]].concat()) {
                    break;
                }
                from.sent += 1;
            }
        }
    }

    /// Goes on until everybody has heard more frames than now.
    fn goes_on(&mut self) {
        let before: Vec<_> = self.members.iter().map(|member| member.heard).collect();
        let deadline = Instant::now() + PATIENCE;
        let waits = |ring: &Self| {
            let waiting = ring.members.iter().zip(&before).enumerate();
            let waiting = waiting.filter(|(_, (member, before))| member.heard < *before + 5);
            waiting.map(|(at, (member, _))| format!("{at}, {}", member.kind)).collect::<Vec<_>>()
        };
        while !waits(self).is_empty() {
            self.turn();
            assert!(Instant::now() < deadline, "nothing comes to {:?}", waits(self));
        }
    }
}

/// Returns a ring of 63 members, beside the port of a fabric.
fn members(daemon: &mut Daemon) -> Ring {
    let mut ring = Ring { members: Vec::new(), is_lenient: true, lost: Vec::new() };
    for at in 0..8 {
        let name = format!("guest{at}");
        let nic = daemon.nic("lab", &name);
        ring.add("vhost-user", End::Guest(Box::new(Guest::connect(&nic))));
        daemon.wait_for_state(&name, NicState::Active);
    }
    let sockets = daemon.path("s");
    let path = |name: &str| sockets.join(name);
    let at = |name: &str| sockets.join(name).display().to_string();
    let listens = |daemon: &mut Daemon, name: &str, kind: &str| {
        create(daemon, name, &format!("{kind}://{}", at(name))).unwrap();
        wait_until("it listens", || get(daemon, name).state() == PortState::Listening);
    };
    listens(daemon, "stream", "stream-listen");
    listens(daemon, "packets", "seqpacket-listen");
    listens(daemon, "switch", "switch");
    for _ in 0..8 {
        ring.add("stream-listen", End::stream(UnixStream::connect(path("stream")).unwrap()));
        let packets = packets_to(&path("packets"));
        ring.add("seqpacket-listen", End::datagrams(packets, Peer::Session));
        ring.add("switch", End::Plug(Plug::stock(&at("switch"))));
    }
    for number in 0..4 {
        let name = format!("dialled{number}");
        let listener = UnixListener::bind(path(&name)).unwrap();
        create(daemon, &name, &format!("stream://{}", at(&name))).unwrap();
        ring.add("stream", End::stream(listener.accept().unwrap().0));
        let (ours, theirs) = (format!("v{number}"), format!("w{number}"));
        run(&format!("ip link add {ours} type veth peer name {theirs}"));
        run(&format!("ip link set {ours} up"));
        run(&format!("ip link set {theirs} up"));
        create(daemon, &ours, &format!("packet://{ours}")).unwrap();
        ring.add("packet", End::interface(&theirs));
        let tap = format!("tap{number}");
        create(daemon, &tap, &format!("tap://{tap}[create/up]")).unwrap();
        ring.add("tap", End::interface(&tap));
    }
    // Peers do not forward to each other: others are between them.
    let mut peers = [
        ("mcast", "mcast://239.192.7.9:7003/if=lo", "mcast://239.192.7.9:7003/if=lo"),
        ("vxvde", "vxvde://239.193.1.1/if=v0", "vxvde://239.193.1.1/if=v0"),
        (
            "vxlan",
            "vxlan:///vni=42/remote=127.0.0.2/local=127.0.0.1",
            "vxlan:///vni=42/remote=127.0.0.1/local=127.0.0.2",
        ),
        (
            "vxlan",
            "vxlan:///vni=43/remote=127.0.0.4/local=127.0.0.3",
            "vxlan:///vni=43/remote=127.0.0.3/local=127.0.0.4",
        ),
        (
            "dives",
            "dives://239.13.13.13:7204/host=127.0.0.1/port=7205/vlan=1",
            "dives://239.13.13.13:7204/host=127.0.0.1/port=7206/vlan=1",
        ),
    ]
    .into_iter();
    run("ip address add 10.9.9.1/24 dev v0");
    for number in 0..6 {
        let [own, other] = ["own", "other"].map(|end| format!("{end}{number}"));
        let socket = UnixDatagram::bind(path(&other)).unwrap();
        create(daemon, &own, &format!("dgram://{}->{}", at(&own), at(&other))).unwrap();
        socket.connect(path(&own)).unwrap();
        ring.add("dgram", End::datagrams(socket, Peer::Unix));
        let (here, there) = (7000 + number, 7100 + number);
        let socket = UdpSocket::bind(("127.0.0.1", there)).unwrap();
        socket.connect(("127.0.0.1", here)).unwrap();
        let locator = format!("udp://127.0.0.1:{here}->127.0.0.1:{there}");
        create(daemon, &format!("udp{number}"), &locator).unwrap();
        ring.add("udp", End::datagrams(socket, Peer::Host));
        if let Some((kind, ours, theirs)) = peers.next() {
            create(daemon, &format!("{kind}{number}"), ours).unwrap();
            ring.add(kind, End::plug(theirs));
        }
    }
    for cable in ["cable0", "cable1"] {
        create(daemon, cable, &format!("ptp://{}", at(cable))).unwrap();
        ring.add("ptp", End::Plug(Plug::stock(&format!("ptp://{}", at(cable)))));
    }
    create(daemon, "fabric", "switchyard-listen://127.0.0.1:9999").unwrap();
    ring
}

fn packets_to(path: &Path) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

#[test]
fn members_of_every_kind_lose_no_frame_in_hand_overs() {
    inside(|| {
        for line in [
            "ip link set lo up multicast on",
            "ip route add 239.0.0.0/8 dev lo",
            // Copies for who is not meant fill no socket.
            "sysctl -qw net.unix.max_dgram_qlen=512",
        ] {
            run(line);
        }
        let mut daemon = lab_with(&["--reactors", "2", "--port-listen", "0.0.0.0/0"]);
        let mut ring = members(&mut daemon);
        assert_eq!(ring.members.len(), 63);
        ring.goes_on();
        let (mut rounds, mut whole) = (0, 0);
        while whole < 3 {
            rounds += 1;
            if rounds > 12 {
                return cannot_run("a busy machine: ports come too late to be waited for");
            }
            ring.is_lenient = false;
            let log = daemon.log().len();
            std::thread::scope(|scope| {
                let handing = scope.spawn(|| assert!(daemon.hand_over()));
                while !handing.is_finished() {
                    ring.turn();
                }
            });
            let is_whole = !daemon.log()[log..].contains("before all ports have come");
            if is_whole {
                whole += 1;
                ring.goes_on();
                assert_eq!(ring.lost, Vec::<String>::new());
            }
            ring.is_lenient = true;
            ring.goes_on();
            ring.lost.clear();
        }
    });
}
