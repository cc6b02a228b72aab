//! What the service manager keeps while no process of the daemon is there: a killed one takes no
//! TAP device, no connection and no datagram that waits with it.

use crate::{
    daemon::{Daemon, PATIENCE, cannot_run, wait_until},
    frames::{Udp4, is_udp4},
    guest::parse_mac,
    namespace::{Namespace, run},
    service_manager::ServiceManager,
    streams::{BROADCAST, frame, free_ports},
};
use mvirt_net::proto::{
    CreateNetworkRequest, CreatePortRequest, DeleteNicRequest, DeletePortRequest, GetPortRequest,
    NetworkKind, Nic, NicState, Port, Transport, get_port_request::Identifier,
};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType, connect, send, socket};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::UdpSocket,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

/// How many datagrams wait for the next process.
// UNIX sockets hold ten (net.unix.max_dgram_qlen).
const WAITING: usize = 5;

/// A program that is a VDE client: frames with their length before them go through pipes.
struct Plug(Child, mpsc::Receiver<Vec<u8>>);

impl Plug {
    fn into(directory: &str) -> Self {
        let mut command = Command::new("vde_plug");
        let command = command.arg(format!("vde://{directory}"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        let (sender, heard) = mpsc::channel();
        // It ends with the program.
        thread::spawn(move || {
            let mut length = [0; 2];
            while output.read_exact(&mut length).is_ok() {
                let mut frame = vec![0; u16::from_be_bytes(length).into()];
                output.read_exact(&mut frame).unwrap();
                sender.send(frame).ok();
            }
        });
        Self(child, heard)
    }

    fn send(&mut self, frame: &[u8]) {
        let length = (frame.len() as u16).to_be_bytes();
        self.0.stdin.as_mut().unwrap().write_all(&[&length[..], frame].concat()).unwrap();
    }

    fn hear(&self, wanted: impl Fn(&[u8]) -> bool) {
        while !wanted(&self.1.recv_timeout(PATIENCE).expect("the frame comes")) {}
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A vNIC by UDP, and its guest's socket: that holds hundreds of datagrams.
fn inet(daemon: &mut Daemon, name: &str) -> (UdpSocket, Nic) {
    let [ours, theirs] = free_ports();
    let nic = daemon.nic_with("prod", name, |nic| {
        nic.transport = Transport::Dgram.into();
        nic.datagrams = format!("udp://127.0.0.1:{ours}->127.0.0.1:{theirs}");
    });
    let socket = UdpSocket::bind(("127.0.0.1", theirs)).unwrap();
    socket.connect(("127.0.0.1", ours)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    daemon.wait_for_state(name, NicState::Active);
    (socket, nic)
}

fn vnic(daemon: &mut Daemon, name: &str, transport: Transport) -> Nic {
    daemon.nic_with("prod", name, |nic| nic.transport = transport.into())
}

fn port(daemon: &mut Daemon) -> Port {
    let request = GetPortRequest { identifier: Some(Identifier::Name("plugs".into())) };
    let mut port = daemon.call(async |client| client.get_port(request).await).unwrap();
    port.attachments.sort_by(|a, b| a.since.cmp(&b.since));
    port
}

fn packet(from: &Nic, to: &Nic, payload: &str) -> Vec<u8> {
    let mac = parse_mac(&from.mac_address);
    Udp4::new(mac, &from.ipv4_address, &to.ipv4_address, payload.as_bytes()).frame()
}

/// What an interface is, and how often its carrier came or went.
fn link(interface: &str) -> String {
    let shown = Command::new("ip").args(["-s", "-s", "link", "show", interface]).output().unwrap();
    assert!(shown.status.success(), "{interface} is there");
    let text = String::from_utf8(shown.stdout).unwrap();
    let transitions = text.lines().skip_while(|line| !line.contains("transns")).nth(1).unwrap();
    let first = text.lines().next().unwrap();
    assert!(first.contains("LOWER_UP"), "{first}");
    format!("{first} {}", transitions.split_whitespace().last().unwrap())
}

fn what_is_deleted_is_kept_no_more(daemon: &mut Daemon, manager: &ServiceManager, interface: &str) {
    for name in ["tap", "vde", "unix"] {
        let request = DeleteNicRequest { id: name.into(), ..Default::default() };
        daemon.call(async |client| client.delete_nic(request).await).unwrap();
    }
    let request = DeletePortRequest { id: "plugs".into(), ..Default::default() };
    daemon.call(async |client| client.delete_port(request).await).unwrap();
    wait_until("three are kept", || manager.names().len() == 3);
    let gone = || {
        let mut show = Command::new("ip");
        let shown = show.args(["link", "show", interface]).stderr(Stdio::null()).output();
        !shown.unwrap().status.success()
    };
    wait_until("the device is gone", gone);
    // Without what was kept they begin anew.
    manager.lose_all();
    daemon.kill();
    daemon.run_instead(Path::new(env!("CARGO_BIN_EXE_mvirt-net")).into());
    daemon.start_again_after_its_end();
    daemon.wait_for_state("listener", NicState::Active);
}

fn nothing_is_lost(namespace: &Namespace) {
    namespace.enter();
    run("ip link set lo up");
    let mut manager = None;
    let mut daemon = Daemon::start_with_environment(|directory| {
        let path = directory.join("notify");
        manager = Some(ServiceManager::at(&path));
        vec![("NOTIFY_SOCKET", path)]
    });
    let manager = manager.unwrap();
    daemon.network("prod");
    daemon.network_with("lab", |request: &mut CreateNetworkRequest| {
        request.kind = NetworkKind::Switched.into();
        request.ipv4_subnet.clear();
        request.ipv6_prefix.clear();
    });
    let (listener, to) = inet(&mut daemon, "listener");
    let (udp, inet) = inet(&mut daemon, "inet");
    let unix = vnic(&mut daemon, "unix", Transport::Dgram);
    let guest = UnixDatagram::bind(unix.socket_path.replace(".sock", ".guest")).unwrap();
    let packets = vnic(&mut daemon, "packets", Transport::Seqpacket);
    let session = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    connect(&session, &SocketAddrUnix::new(&*packets.socket_path).unwrap()).unwrap();
    let tap = vnic(&mut daemon, "tap", Transport::Tap);
    let interface = &tap.tap_interface;
    run(&format!("ip link set {interface} address {} up", tap.mac_address));
    run(&format!("ip address add {}/24 dev {interface}", tap.ipv4_address));
    let gateway = "lladdr 02:00:00:00:00:01 nud permanent";
    run(&format!("ip neigh replace {} {gateway} dev {interface}", to.ipv4_address));
    let host = UdpSocket::bind((&*tap.ipv4_address, 0)).unwrap();
    let vde = vnic(&mut daemon, "vde", Transport::Vde);
    let mut plug = Plug::into(&vde.socket_path);
    // And two clients of a switch.
    let directory = daemon.path("s/plugs").display().to_string();
    let request = CreatePortRequest {
        network_id: "lab".into(),
        name: "plugs".into(),
        locator: format!("switch://{directory}"),
        ..Default::default()
    };
    daemon.call(async |client| client.create_port(request).await).unwrap();
    let mut plugs = [0, 1].map(|_| Plug::into(&directory));
    wait_until("both are members", || port(&mut daemon).attachments.len() == 2);
    for name in ["packets", "tap", "vde", "unix"] {
        daemon.wait_for_state(name, NicState::Active);
    }
    wait_until("all are kept", || manager.names().len() == 9);
    let before = link(interface);
    for round in 0..3 {
        // The second time the process that dies has taken over from another.
        if round == 1 {
            assert!(daemon.hand_over(), "{}", daemon.log());
        }
        let attachments = port(&mut daemon).attachments;
        let pid = daemon.pid();
        daemon.kill();
        wait_until("it is dead", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('Z')
        });
        assert_eq!(link(interface), before, "its carrier stays");
        for at in 0..WAITING {
            let text = |of: &str| format!("{round} {of} {at}");
            guest.send_to(&packet(&unix, &to, &text("unix")), &unix.socket_path).unwrap();
            udp.send(&packet(&inet, &to, &text("inet"))).unwrap();
            send(&session, &packet(&packets, &to, &text("packets")), SendFlags::empty()).unwrap();
            host.send_to(text("tap").as_bytes(), (&*to.ipv4_address, 7)).unwrap();
            plug.send(&packet(&vde, &to, &text("vde")));
            plugs[0].send(&frame(BROADCAST, 1, &text("plug")));
        }
        manager.start_again(&mut daemon);
        assert_eq!(link(interface), before, "its carrier has never been down");
        // All have come in, whether or not their receivers were there already.
        for name in ["unix", "inet", "packets", "tap", "vde", "plugs"] {
            wait_until(name, || daemon.stats(name).ingress_frames >= WAITING as u64);
        }
        assert_eq!(port(&mut daemon).attachments, attachments, "as if nothing had been");
        // And they go on, both ways.
        let now = |of: &str| format!("{round} {of} now");
        guest.send_to(&packet(&unix, &to, &now("unix")), &unix.socket_path).unwrap();
        udp.send(&packet(&inet, &to, &now("inet"))).unwrap();
        send(&session, &packet(&packets, &to, &now("packets")), SendFlags::empty()).unwrap();
        host.send_to(now("tap").as_bytes(), (&*to.ipv4_address, 7)).unwrap();
        plug.send(&packet(&vde, &to, &now("vde")));
        let mut missing = Vec::from(["unix", "inet", "packets", "tap", "vde"].map(now));
        let mut octets = [0; 2048];
        while !missing.is_empty() {
            let len = listener.recv(&mut octets).unwrap_or_else(|_| panic!("{missing:?} is lost"));
            missing.retain(|text| !is_udp4(&octets[..len], text.as_bytes()));
        }
        listener.send(&packet(&to, &vde, &now("back"))).unwrap();
        plug.hear(|frame| is_udp4(frame, now("back").as_bytes()));
        plugs[0].send(&frame(BROADCAST, 1, &now("plug")));
        plugs[1].hear(|frame| frame.ends_with(now("plug").as_bytes()));
        wait_until("all are kept", || manager.names().len() == 9);
    }
    what_is_deleted_is_kept_no_more(&mut daemon, &manager, interface);
}

#[test]
fn what_a_service_manager_keeps_outlives_a_crash() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        return cannot_run("only root can make a TAP device, where there is /dev/net/tun");
    }
    let namespace = Namespace::new();
    thread::scope(|scope| scope.spawn(|| nothing_is_lost(&namespace)).join().unwrap());
}
