//! `mvirt-egress` as it is started by the daemon, between a guest and the world: the guest is the
//! kernel's own stack in a namespace, behind a TAP device whose frames the test carries over; the
//! helper is in a second namespace, and the world in a third.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/egress_helper.rs"]
mod egress_helper;
#[path = "support/namespace.rs"]
mod namespace;
#[path = "support/not_run.rs"]
mod not_run;

use egress_helper::{Helper, SOON};
use mvirt_net::{
    dataplane::port::tap::{Make, Tap},
    egress::protocol::{Dropped, Failure, NicStats, Report},
};
use namespace::{Namespace, run};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{read, write},
};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const GUEST: &str = "10.0.2.15";
const GUEST6: &str = "fd00::15";
/// The host of the helper, and another one.
const HOST: &str = "198.51.100.1";
const WORLD: &str = "198.51.100.2";
const WORLD6: &str = "2001:db8:5::2";
const NIC: &str = r#""nics":[{"tag":7,"ipv4":"10.0.2.15","ipv6":"fd00::15"}]"#;
/// The guest's MAC.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

struct Rig {
    helper: Helper,
    guest: Namespace,
    host: Namespace,
    world: Namespace,
}

impl Rig {
    /// Returns none where this cannot run, and says so. `more` is of the configuration.
    fn new(more: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
            not_run::cannot_run("only root can make a TAP device, where there is /dev/net/tun");
            return None;
        }
        let (guest, host, world) = (Namespace::new(), Namespace::new(), Namespace::new());
        host.within(|| {
            run("ip link set lo up");
            run("ip link add w0 type veth peer name h0");
            run(&format!("ip link set w0 netns {}", world.0.id()));
            run(&format!("ip addr add {HOST}/24 dev h0"));
            run("ip addr add 2001:db8:5::1/64 dev h0 nodad");
            run("ip link set h0 up");
            run("sysctl -qw net.ipv4.ping_group_range=0\t2147483647");
        });
        world.within(|| {
            run("ip link set lo up");
            run(&format!("ip addr add {WORLD}/24 dev w0"));
            run(&format!("ip addr add {WORLD6}/64 dev w0 nodad"));
            run("ip link set w0 up");
        });
        let tap = guest.within(|| {
            let tap = Tap::open("t0", Make::Always).unwrap().share().unwrap();
            run("ip link set lo up");
            // Without an address of the link: it would speak by itself from that.
            run("ip link set t0 addrgenmode none");
            run("ip link set t0 address 02:00:00:00:00:01 arp off up");
            run(&format!("ip addr add {GUEST}/24 dev t0"));
            run(&format!("ip addr add {GUEST6}/64 dev t0 nodad"));
            run("ip route add default dev t0");
            run("ip -6 route add default dev t0");
            tap
        });
        let configuration = format!(r#"{{"version":1,{NIC}{more}}}"#);
        let helper = Helper::start(&host, &[], &configuration);
        let rig = Self { helper, guest, host, world };
        assert!(matches!(rig.helper.report(), Report::Ready { ready: true, echo: true, .. }));
        let (tap2, packets) = (tap.try_clone().unwrap(), rig.helper.packets.try_clone().unwrap());
        let packets2 = packets.try_clone().unwrap();
        thread::spawn(move || carry_out(&tap, &packets));
        thread::spawn(move || carry_in(&packets2, &tap2));
        Some(rig)
    }

    /// Returns what comes to be said of a forward.
    fn failed(&self) -> Failure {
        loop {
            if let Report::Failed(failure) = self.helper.report() {
                return failure;
            }
        }
    }

    /// Waits until all orders before have been carried out.
    fn is_done(&self) {
        // Nobody has that address.
        let bad = r#"{"listen":"198.51.100.77:1","protocol":"tcp","tag":7,"port":1}"#;
        self.helper.order(&format!(r#"{{"add":{{"forwards":[{bad}]}}}}"#));
        self.failed();
    }

    fn connect(&self, to: &str) -> io::Result<TcpStream> {
        self.connect_within(to, SOON)
    }

    fn connect_within(&self, to: &str, time: Duration) -> io::Result<TcpStream> {
        let to = to.parse::<SocketAddr>().unwrap();
        self.guest.within(|| TcpStream::connect_timeout(&to, time))
    }

    fn status(&self, key: &str) -> u64 {
        let status = fs::read_to_string(self.helper.proc("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// Frames of the guest, as packets: the header of Ethernet goes, and what counts from there.
fn carry_out(tap: &OwnedFd, packets: &OwnedFd) {
    let mut buffer = vec![0; 70_000];
    loop {
        let mut fds = [PollFd::new(tap, PollFlags::IN), PollFd::new(packets, PollFlags::HUP)];
        poll(&mut fds, None).unwrap();
        let Ok(len) = read(tap, &mut buffer[..]) else { return };
        let (header, frame) = buffer[..len].split_at_mut(12);
        if frame[12..14] != [8, 0] && frame[12..14] != [0x86, 0xdd] {
            continue;
        }
        shift(header, -14);
        header[10..12].copy_from_slice(&[7, 0]);
        let message = [header, &frame[14..]].concat();
        if write(packets, &message).is_err() {
            return;
        }
    }
}

fn carry_in(packets: &OwnedFd, tap: &OwnedFd) {
    let mut buffer = vec![0; 70_000];
    loop {
        let Ok(len @ 13..) = read(packets, &mut buffer[..]) else { return };
        let (header, packet) = buffer[..len].split_at_mut(12);
        assert_eq!(header[10..12], [7, 0], "its tag");
        header[10..12].fill(0);
        shift(header, 14);
        let kind = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
        let frame = [&header[..], &MAC, &[2, 0, 0, 0, 0, 9], &kind, packet].concat();
        write(tap, &frame).unwrap();
    }
}

/// Moves what a header counts from the start of the frame.
fn shift(header: &mut [u8], by: i16) {
    if header[0] & 1 == 0 {
        return;
    }
    let fields: &[usize] = if header[1] == 0 { &[6] } else { &[2, 6] };
    for at in fields {
        let value = u16::from_le_bytes([header[*at], header[at + 1]]);
        let moved = value.checked_add_signed(by).unwrap();
        header[*at..at + 2].copy_from_slice(&moved.to_le_bytes());
    }
}

fn octets(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ at >> 8) as u8).collect()
}

/// Takes one connection, and sends back what it hears once that has ended.
fn echo_at_end(listener: TcpListener) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    stream.write_all(&heard).unwrap();
}

#[test]
fn much_goes_out_and_comes_back_and_either_end_may_close_first() {
    let Some(rig) = Rig::new("") else { return };
    for address in [format!("{WORLD}:80"), format!("[{WORLD6}]:80")] {
        let listener = rig.world.within(|| TcpListener::bind(&address).unwrap());
        thread::scope(|scope| {
            scope.spawn(|| echo_at_end(listener));
            let mut stream = rig.connect(&address).unwrap();
            let sent = octets(20_000_000);
            stream.write_all(&sent).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).unwrap();
            assert!(heard == sent, "{} octets", heard.len());
        });
    }
    let stats = rig.helper.counted(|nic| nic.connections == 0);
    assert!(stats.octets_out > 40_000_000 && stats.octets_in > 40_000_000, "{stats:?}");
    // Long segments, of which a device makes many.
    assert!(stats.octets_in / stats.packets_in > 5_000, "{stats:?}");
    assert_eq!((rig.status("NoNewPrivs"), rig.status("Seccomp:")), (1, 2));
}

#[test]
fn who_is_not_there_is_told_as_it_is() {
    let Some(rig) = Rig::new("") else { return };
    let refused = rig.connect(&format!("{WORLD}:81")).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let unreachable = rig.connect("203.0.113.1:80").unwrap_err();
    assert_eq!(unreachable.kind(), io::ErrorKind::NetworkUnreachable);
    let unreachable = rig.connect("[2001:db8:9::1]:80").unwrap_err();
    assert_eq!(unreachable.raw_os_error(), Some(101), "{unreachable}");
    // Nobody has that address: the host finds out in three seconds.
    let start = Instant::now();
    let unreachable = rig.connect("198.51.100.99:80").unwrap_err();
    assert_eq!(unreachable.kind(), io::ErrorKind::HostUnreachable);
    assert!(start.elapsed() < Duration::from_secs(8));
    // Or more, where the guest's stack has asked again meanwhile.
    let unreachable = |nic: &NicStats| nic.dropped.get(&Dropped::Unreachable).copied();
    rig.helper
        .counted(|nic| nic.connections == 0 && unreachable(nic).is_some_and(|count| count >= 4));
}

#[test]
fn what_is_denied_is_never_reached() {
    let more = r#","deny":["0.0.0.0:50051","198.51.100.2/32"],"host_loopback":"10.0.9.9""#;
    let Some(rig) = Rig::new(more) else { return };
    let listen = |address: &str| {
        let address = address.to_owned();
        rig.host.within(|| TcpListener::bind(address).unwrap())
    };
    let _api = (listen("0.0.0.0:50051"), listen("0.0.0.0:50052"));
    rig.host.within(|| {
        run("ip addr add 198.51.100.3/24 dev h0");
        run("ip addr add 2001:db8:5::3/64 dev h0 nodad");
        run("ip route add local 198.51.100.128/28 dev lo");
    });
    let short = Duration::from_millis(300);
    for denied in [
        "198.51.100.1:50051",
        "198.51.100.3:50051",
        "198.51.100.130:50051",
        "[2001:db8:5::3]:50051",
        "10.0.9.9:50051",
        "198.51.100.2:50052",
        "169.254.169.254:50052",
        "[::ffff:198.51.100.1]:50051",
    ] {
        let kind = rig.connect_within(denied, short).unwrap_err().kind();
        let never = [io::ErrorKind::TimedOut, io::ErrorKind::NetworkUnreachable];
        assert!(never.contains(&kind), "{denied}: {kind}");
    }
    let datagrams = rig.guest.within(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    datagrams.send_to(b"x", "169.254.169.254:53").unwrap();
    for other in ["198.51.100.1:50052", "198.51.100.3:50052"] {
        rig.connect(other).unwrap();
    }
    rig.connect("10.0.9.9:50052").unwrap();
    rig.helper
        .counted(|nic| nic.dropped.get(&Dropped::EgressDenied).is_some_and(|count| *count >= 4));
}

#[test]
fn datagrams_and_pings_go_out_and_are_answered() {
    let Some(rig) = Rig::new("") else { return };
    for (own, address) in
        [("0.0.0.0:0", format!("{WORLD}:53")), ("[::]:0", format!("[{WORLD6}]:53"))]
    {
        let world = rig.world.within(|| UdpSocket::bind(&address).unwrap());
        let guest = rig.guest.within(|| UdpSocket::bind(own).unwrap());
        world.set_read_timeout(Some(SOON)).unwrap();
        guest.set_read_timeout(Some(SOON)).unwrap();
        let mut buffer = vec![0; 65_536];
        let mut origins = Vec::new();
        // Beyond the MTU they are fragments, each way.
        for len in [0, 10, 1472, 4000, 30_000] {
            let sent = octets(len);
            guest.send_to(&sent, &address).unwrap();
            let (heard, from) = world.recv_from(&mut buffer).unwrap();
            assert!(buffer[..heard] == sent, "{len}");
            origins.push(from);
            world.send_to(&sent, from).unwrap();
            let (heard, from) = guest.recv_from(&mut buffer).unwrap();
            assert!(buffer[..heard] == sent && from.to_string() == address, "{len} {from}");
        }
        origins.dedup();
        assert_eq!(origins.len(), 1, "one port, wherever to: {origins:?}");
    }
    rig.guest.within(|| {
        run(&format!("ping -c 2 -i 0.2 -W 5 {WORLD}"));
        run(&format!("ping -c 1 -s 3000 -W 5 {WORLD}"));
        run(&format!("ping -c 1 -W 5 {WORLD6}"));
    });
    let stats = rig.helper.counted(|nic| nic.echo == 3);
    assert_eq!((stats.udp, stats.dropped.clone()), (2, BTreeMap::new()), "{stats:?}");
}

#[test]
fn what_comes_to_a_forward_is_the_vnics() {
    let more = concat!(
        r#","forwards":[{"listen":"0.0.0.0:8080","protocol":"tcp","tag":7,"port":80},"#,
        r#"{"listen":"0.0.0.0:5353","protocol":"udp","tag":7,"port":53}]"#
    );
    let Some(rig) = Rig::new(more) else { return };
    let listener = rig.guest.within(|| TcpListener::bind("0.0.0.0:80").unwrap());
    let call = || rig.world.within(|| TcpStream::connect(format!("{HOST}:8080")));
    thread::scope(|scope| {
        let guest = scope.spawn(|| {
            let (mut stream, from) = listener.accept().unwrap();
            stream.write_all(b"welcome").unwrap();
            drop(stream);
            from.ip().to_string()
        });
        let mut heard = String::new();
        call().unwrap().read_to_string(&mut heard).unwrap();
        assert_eq!((heard.as_str(), guest.join().unwrap().as_str()), ("welcome", WORLD));
    });
    // Nobody listens in the guest any more: who calls hears that.
    drop(listener);
    let mut stream = call().unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let guest = rig.guest.within(|| UdpSocket::bind("0.0.0.0:53").unwrap());
    let world = rig.world.within(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    guest.set_read_timeout(Some(SOON)).unwrap();
    world.set_read_timeout(Some(SOON)).unwrap();
    world.send_to(b"who?", format!("{HOST}:5353")).unwrap();
    let (_, from) = guest.recv_from(&mut [0; 10]).unwrap();
    guest.send_to(b"me", from).unwrap();
    let (len, from) = world.recv_from(&mut [0; 10]).unwrap();
    assert_eq!((len, from.to_string()), (2, format!("{HOST}:5353")));
    let taken = r#"{"listen":"198.51.100.77:1","protocol":"tcp","tag":7,"port":1}"#;
    rig.helper.order(&format!(r#"{{"add":{{"forwards":[{taken}]}}}}"#));
    let text = serde_json::to_string(&rig.failed()).unwrap();
    assert!(
        text.contains(r#""listen":"198.51.100.77:1""#) && text.contains(r#""errno":99"#),
        "{text}"
    );
    rig.helper.order(r#"{"remove":{"forwards":[{"listen":"0.0.0.0:8080","protocol":"tcp"}]}}"#);
    rig.helper.order(r#"{"remove":{"nics":[7]}}"#);
    let start = Instant::now();
    while call().is_ok() {
        assert!(start.elapsed() < SOON, "it listens still");
    }
}

#[test]
fn connections_end_with_their_forward_and_do_not_notice_one_that_is_told_again() {
    let forward = |port: u16| {
        format!(
            r#""forwards":[{{"listen":"0.0.0.0:8080","protocol":"tcp","tag":7,"port":{port}}}]"#
        )
    };
    let Some(rig) = Rig::new(&format!(",{}", forward(80))) else { return };
    let guest = |port: u16| {
        rig.guest.within(|| TcpListener::bind(SocketAddr::from(([0u8; 4], port))).unwrap())
    };
    let listeners = [guest(80), guest(81)];
    let connected = |listener: &TcpListener| {
        let call = rig.world.within(|| TcpStream::connect(format!("{HOST}:8080")).unwrap());
        let (taken, _) = listener.accept().unwrap();
        for stream in [&call, &taken] {
            stream.set_read_timeout(Some(SOON)).unwrap();
        }
        (call, taken)
    };
    let is_reset = |(mut call, mut taken): (TcpStream, TcpStream)| {
        for stream in [&mut call, &mut taken] {
            let error = stream.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    };
    let (mut call, mut taken) = connected(&listeners[0]);
    rig.helper.order(&format!(r#"{{"add":{{{}}}}}"#, forward(80)));
    rig.is_done();
    call.write_all(b"still there?").unwrap();
    taken.read_exact(&mut [0; 12]).unwrap();
    // It leads elsewhere from now on.
    rig.helper.order(&format!(r#"{{"add":{{{}}}}}"#, forward(81)));
    is_reset((call, taken));
    rig.is_done();
    let pair = connected(&listeners[1]);
    rig.helper.order(r#"{"remove":{"forwards":[{"listen":"0.0.0.0:8080","protocol":"tcp"}]}}"#);
    is_reset(pair);
    rig.helper.counted(|nic| nic.connections == 0);
}

#[test]
fn who_calls_takes_none_of_the_connections_that_a_guest_may_have() {
    let more = concat!(
        r#","limits":{"connections":3},"#,
        r#""forwards":[{"listen":"0.0.0.0:8080","protocol":"tcp","tag":7,"port":80}]"#
    );
    let Some(rig) = Rig::new(more) else { return };
    let guest = rig.guest.within(|| TcpListener::bind("0.0.0.0:80").unwrap());
    let call = || rig.world.within(|| TcpStream::connect(format!("{HOST}:8080")).unwrap());
    let calls = [(); 3].map(|()| (call(), guest.accept().unwrap()));
    // Nobody takes that one.
    let mut beyond = call();
    beyond.set_read_timeout(Some(SOON)).unwrap();
    assert!(matches!(beyond.read(&mut [0]), Ok(0) | Err(_)));
    let world = rig.world.within(|| TcpListener::bind(format!("{WORLD}:80")).unwrap());
    let own = [(); 3].map(|()| rig.connect(&format!("{WORLD}:80")).unwrap());
    let refused = rig.connect(&format!("{WORLD}:80")).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    // Nor do its own take any of theirs: one goes, and another one is taken.
    rig.helper.counted(|nic| nic.connections == 6);
    let [first, ..] = calls;
    drop(first);
    rig.helper.counted(|nic| nic.connections == 5);
    call();
    guest.accept().unwrap();
    drop((own, world));
}

#[test]
fn who_calls_one_of_several_forwards_to_a_port_is_answered_by_that_one() {
    let forward =
        |port: u16| format!(r#"{{"listen":"0.0.0.0:{port}","protocol":"udp","tag":7,"port":53}}"#);
    let forwards = [5301, 5302, 5303].map(forward).join(",");
    let Some(rig) = Rig::new(&format!(r#","forwards":[{forwards}]"#)) else { return };
    let socket = |namespace: &Namespace, at: &str| {
        let socket = namespace.within(|| UdpSocket::bind(at).unwrap());
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket
    };
    let guest = socket(&rig.guest, "0.0.0.0:53");
    let asks = |socket: &UdpSocket, to: &str| {
        socket.send_to(b"who?", to).unwrap();
        guest.recv_from(&mut [0; 10]).unwrap().1
    };
    let answers = |socket: &UdpSocket, name: SocketAddr| {
        guest.send_to(b"me", name).unwrap();
        let (len, from) = socket.recv_from(&mut [0; 10]).unwrap();
        assert_eq!(len, 2);
        from.to_string()
    };
    let callers = [(); 3].map(|()| socket(&rig.world, "0.0.0.0:0"));
    let to = [5301, 5302, 5303].map(|port| format!("{HOST}:{port}"));
    let names = [0, 1, 2].map(|it| asks(&callers[it], &to[it]));
    assert_eq!(names.map(|name| name.ip().to_string()), [WORLD; 3]);
    for it in [2, 0, 1] {
        assert_eq!(answers(&callers[it], names[it]), to[it]);
    }
    // The one that was called last.
    assert_eq!(asks(&callers[0], &to[1]), names[0]);
    assert_eq!(answers(&callers[0], names[0]), to[1]);
    // From this host's loopback address, which the guest has no other way to.
    let local = socket(&rig.host, "127.0.0.1:0");
    let name = asks(&local, "127.0.0.1:5303");
    assert_eq!(name.ip().to_string(), "192.0.0.8");
    assert_eq!(answers(&local, name), "127.0.0.1:5303");
    // One goes, and the others stay: also for what the guest says by itself.
    rig.helper.order(r#"{"remove":{"forwards":[{"listen":"0.0.0.0:5301","protocol":"udp"}]}}"#);
    rig.is_done();
    assert_eq!(answers(&callers[2], names[2]), to[2]);
    let other = socket(&rig.world, &format!("{WORLD}:9"));
    let from = answers(&other, format!("{WORLD}:9").parse().unwrap());
    assert!(to[1..].contains(&from), "{from}");
}

#[test]
fn nobody_sends_from_what_is_not_its_own() {
    let Some(rig) = Rig::new("") else { return };
    rig.guest.within(|| run("ip addr add 10.0.2.16/24 dev t0"));
    let guest = rig.guest.within(|| UdpSocket::bind("10.0.2.16:0").unwrap());
    let world = rig.world.within(|| UdpSocket::bind(format!("{WORLD}:9")).unwrap());
    world.set_read_timeout(Some(SOON)).unwrap();
    guest.send_to(b"spoofed", format!("{WORLD}:9")).unwrap();
    rig.helper
        .counted(|nic| nic.dropped.get(&Dropped::SpoofedSource).is_some_and(|count| *count > 0));
    // With the address it may.
    rig.helper
        .order(r#"{"add":{"nics":[{"tag":7,"ipv4":"10.0.2.15","prefixes":["10.0.2.16/32"]}]}}"#);
    let hello = loop {
        guest.send_to(b"hello", format!("{WORLD}:9")).unwrap();
        world.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        if let Ok((len, _)) = world.recv_from(&mut [0; 10]) {
            break len;
        }
    };
    assert_eq!(hello, 5);
}

/// A SYN of the guest, whose sum is left to be done.
fn syn(to: [u8; 4], port: u16) -> Vec<u8> {
    let mut packet = vec![1, 0, 0, 0, 0, 0, 20, 0, 16, 0, 7, 0];
    packet.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15]);
    packet.extend(to);
    let sum = mvirt_net::wire::checksum::checksum(&packet[12..]);
    packet[22..24].copy_from_slice(&sum.to_be_bytes());
    packet.extend(40_000u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    packet
}

#[test]
fn a_scan_of_all_ports_takes_what_it_may_have_and_leaves_the_rest_to_others() {
    let Some(rig) = Rig::new("") else { return };
    // Nobody has that address: none of them is answered for three seconds.
    for port in 1..=u16::MAX {
        write(&rig.helper.packets, &syn([198, 51, 100, 99], port)).unwrap();
    }
    let limited = |nic: &NicStats| nic.dropped.get(&Dropped::EgressLimit).copied().unwrap_or(0);
    let stats = rig.helper.counted(|nic| limited(nic) > 0 && nic.packets_out >= 65_535);
    assert!(stats.connections <= 1024, "{stats:?}");
    assert!(rig.helper.descriptors() <= 1024 + 16, "{}", rig.helper.descriptors());
    // It serves others meanwhile: UDP of the same guest has a limit of its own.
    let world = rig.world.within(|| UdpSocket::bind(format!("{WORLD}:9")).unwrap());
    let guest = rig.guest.within(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    guest.send_to(b"still there?", format!("{WORLD}:9")).unwrap();
    world.set_read_timeout(Some(SOON)).unwrap();
    world.recv_from(&mut [0; 20]).unwrap();
    // And all of it goes again.
    rig.helper.counted(|nic| nic.connections == 0);
}

#[test]
fn a_thousand_idle_connections_cost_nothing() {
    let Some(rig) = Rig::new("") else { return };
    let listener = rig.world.within(|| TcpListener::bind(format!("{WORLD}:80")).unwrap());
    let before = rig.status("VmRSS");
    thread::scope(|scope| {
        let world = scope.spawn(|| {
            let streams = (0..1000).map(|_| {
                let (mut stream, _) = listener.accept().unwrap();
                stream.read_exact(&mut [0; 5]).unwrap();
                stream.write_all(&[1; 5]).unwrap();
                stream
            });
            streams.collect::<Vec<_>>()
        });
        let guest = rig.guest.within(|| {
            let streams = (0..1000).map(|_| {
                let mut stream = TcpStream::connect(format!("{WORLD}:80")).unwrap();
                stream.write_all(&[2; 5]).unwrap();
                stream.read_exact(&mut [0; 5]).unwrap();
                stream
            });
            streams.collect::<Vec<_>>()
        });
        let world = world.join().unwrap();
        assert_eq!((guest.len(), world.len()), (1000, 1000));
        rig.helper.counted(|nic| nic.connections == 1000);
        let each = rig.status("VmRSS").saturating_sub(before) / 1000;
        assert!(each < 40, "{each} KiB");
        // Timers of what was sent a moment ago are over by then.
        let quiet = Timespec { tv_sec: 2, tv_nsec: 0 };
        poll(&mut [], Some(&quiet)).unwrap();
        let ticks = rig.helper.ticks();
        poll(&mut [], Some(&quiet)).unwrap();
        let ran = rig.helper.ticks() - ticks;
        assert!(ran <= 1, "{ran} ticks in two seconds");
    });
}

#[test]
fn it_ends_where_it_makes_no_sense_of_what_it_is_told() {
    if !rustix::process::geteuid().is_root() {
        return not_run::cannot_run("only root can make a network namespace");
    }
    let host = Namespace::new();
    for (text, said) in [
        ("{}", "missing field `version`"),
        (r#"{"version":2}"#, "version 2 is not known"),
        (r#"{"version":1,"nic":[]}"#, "unknown field `nic`"),
    ] {
        let mut helper = Helper::start(&host, &[], text);
        helper.ends_with = 1;
        let text = helper.text();
        assert!(text.starts_with(r#"{"failed":"helper","#) && text.contains(said), "{text}");
    }
    // By hand it is of no use, and says what it is.
    let mut alone = Command::new(env!("CARGO_BIN_EXE_mvirt-egress"));
    let alone = alone.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&alone.stderr);
    assert!(alone.status.code() == Some(1) && said.contains("mvirt-net starts this"), "{said}");
}
