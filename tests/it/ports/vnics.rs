//! vNICs whose VMMs share no memory: real ones, which the line that `mvirt` prints connects, have
//! their leases, reach each other, and are members in the next process of the daemon, too.

use crate::{
    command::{mvirt, stderr, stdout},
    daemon::{Daemon, cannot_run, wait_until},
    frames::{Udp4, is_udp4},
    guest::{Guest, parse_mac},
    machine::{Machine, converse},
    namespace::{Namespace, run},
    streams::free_ports,
};
use mvirt_net::proto::{
    CreateNicRequest, DeleteNicRequest, Nic, NicState, Transport, UpdateNicRequest,
};
use prost_types::FieldMask;
use std::{
    net::UdpSocket,
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

fn vnic(daemon: &mut Daemon, name: &str, transport: Transport) -> Nic {
    daemon.nic_with("prod", name, |nic| nic.transport = transport.into())
}

fn with_names(daemon: &mut Daemon) {
    daemon.network_with("prod", |request| {
        request.dns_servers = vec!["1.1.1.1".into(), "fd00::53".into()];
    });
}

/// Boots both, has them take their leases and reach each other, before and after a hand-over.
fn meet(daemon: &mut Daemon, a: (Boot, &Nic), b: (Boot, &Nic)) -> Machine {
    let begin = |(boot, nic): (Boot, &Nic)| {
        let mut machine = boot(daemon, nic);
        machine.lease(nic);
        machine
    };
    let (to, from) = (b.1, a.1);
    // One after the other: kernels check their clocks while they boot.
    let [mut a, mut b] = [a, b].map(begin);
    converse(&mut a, to, &mut b, from);
    assert!(daemon.hand_over(), "{}", daemon.log());
    a.succeed(&format!("ping -c 2 -W 5 {}", to.ipv4_address));
    b.succeed(&format!("ping -c 2 -W 5 {}", from.ipv4_address));
    a
}

type Boot = fn(&Daemon, &Nic) -> Machine;

fn qemu(daemon: &Daemon, nic: &Nic) -> Machine {
    Machine::qemu(daemon, nic, &[])
}

#[test]
fn machines_whose_vnics_are_datagrams_are_in_a_routed_network() {
    let mut daemon = Daemon::start();
    with_names(&mut daemon);
    let unix = vnic(&mut daemon, "unix", Transport::Dgram);
    let [ours, theirs] = free_ports();
    let inet = daemon.nic_with("prod", "inet", |nic| {
        nic.transport = Transport::Dgram.into();
        nic.datagrams = format!("udp://127.0.0.1:{ours}->127.0.0.1:{theirs}");
    });
    assert_eq!(inet.socket_path, "");
    meet(&mut daemon, (qemu, &unix), (qemu, &inet));
}

#[test]
fn machines_whose_vnics_are_vde_directories_are_in_a_routed_network() {
    let mut daemon = Daemon::start();
    with_names(&mut daemon);
    let vde = vnic(&mut daemon, "vde", Transport::Vde);
    let uml = vnic(&mut daemon, "uml", Transport::Vde);
    let first = meet(&mut daemon, (qemu, &vde), (Machine::uml, &uml));
    // Who has left may be followed by another.
    drop(first);
    daemon.wait_for_state("vde", NicState::Created);
    qemu(&daemon, &vde).lease(&vde);
    // Who may open its sockets may be changed, and passes through the directory then.
    let request = UpdateNicRequest {
        id: "vde".into(),
        socket_mode: "0666".into(),
        update_mask: Some(FieldMask { paths: vec!["socket_mode".into()] }),
        ..Default::default()
    };
    daemon.call(async |client| client.update_nic(request).await).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let directory = Path::new(&vde.socket_path);
    assert_eq!((mode(directory), mode(&directory.join("ctl"))), (0o2777, 0o666));
    // What is deleted leaves nothing.
    let request = DeleteNicRequest { id: "vde".into(), ..Default::default() };
    daemon.call(async |client| client.delete_nic(request).await).unwrap();
    assert!(!Path::new(&vde.socket_path).exists());
}

#[test]
fn datagrams_are_a_vnics_and_no_others() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut other = Guest::connect(&daemon.nic("prod", "other"));
    let nic = vnic(&mut daemon, "unix", Transport::Dgram);
    let guest = nic.socket_path.replace(".sock", ".guest");
    assert_eq!(nic.datagrams, format!("dgram://{}->{guest}", nic.socket_path));
    let mac = parse_mac(&nic.mac_address);
    for round in 0..3 {
        // As QEMU does it.
        std::fs::remove_file(&guest).ok();
        let socket = UnixDatagram::bind(&guest).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        daemon.wait_for_state("unix", NicState::Active);
        let ping = Udp4::new(mac, "10.0.0.2", "10.0.0.1", b"hello").frame();
        socket.send_to(&ping, &nic.socket_path).unwrap();
        other.expect("the packet", |frame| is_udp4(frame, b"hello"));
        // Too short for a frame: as vfkit greets.
        socket.send_to(b"VFKT", &nic.socket_path).unwrap();
        let forged = Udp4::new(mac, "10.0.0.9", "10.0.0.1", b"forged").frame();
        socket.send_to(&forged, &nic.socket_path).unwrap();
        wait_until("it is dropped", || daemon.drops("unix", "spoofed_source_ipv4") > 0);
        match round {
            0 => assert!(daemon.hand_over()),
            // Its socket is there again, where it was.
            1 => daemon.crash_and_restart(),
            _ => {}
        }
        if round == 1 {
            other = Guest::connect(&daemon.get_nic("other"));
        }
    }
    let request = DeleteNicRequest { id: "unix".into(), ..Default::default() };
    daemon.call(async |client| client.delete_nic(request).await).unwrap();
    assert!(!Path::new(&guest).exists() && !Path::new(&nic.socket_path).exists());
}

/// As by a daemon that has just died: its sockets are closed a moment after its end.
#[test]
fn an_address_that_is_in_use_at_a_start_is_waited_for() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let [ours, theirs] = free_ports();
    daemon.nic_with("prod", "inet", |nic| {
        nic.transport = Transport::Dgram.into();
        nic.datagrams = format!("udp://127.0.0.1:{ours}->127.0.0.1:{theirs}");
    });
    daemon.terminate();
    let held = UdpSocket::bind(("127.0.0.1", ours)).unwrap();
    thread::spawn(move || {
        thread::park_timeout(Duration::from_millis(300));
        drop(held);
    });
    daemon.start_again();
    daemon.wait_for_state("inet", NicState::Active);
}

#[test]
fn what_a_transport_cannot_be_is_refused_by_its_field() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut refused = |change: fn(&mut CreateNicRequest)| {
        daemon.try_nic_with("prod", "x", change).unwrap_err().message().to_owned()
    };
    for (change, why) in [
        (
            (|nic| {
                nic.transport = Transport::Dgram.into();
                nic.datagrams = "stream:///tmp/x".into();
            }) as fn(&mut CreateNicRequest),
            "datagrams: \"stream:///tmp/x\": expected dgram://OURS->THEIRS",
        ),
        (
            |nic| {
                nic.transport = Transport::Dgram.into();
                nic.datagrams = "dgram:///etc/a->/etc/b".into();
            },
            "/etc/a is in none of the folders of --port-dir",
        ),
        (
            |nic| {
                nic.transport = Transport::Dgram.into();
                nic.datagrams = "udp://4000->127.0.0.1:4001".into();
            },
            "0.0.0.0 is no loopback address",
        ),
        (
            |nic| {
                nic.transport = Transport::Vde.into();
                nic.datagrams = "udp://127.0.0.1:4000->127.0.0.1:4001".into();
            },
            "only with TRANSPORT_DGRAM",
        ),
        (
            |nic| {
                nic.transport = Transport::Vde.into();
                nic.tap_interface = "tap0".into();
            },
            "only with TRANSPORT_TAP and TRANSPORT_PACKET",
        ),
        (
            |nic| {
                nic.transport = Transport::Packet.into();
                nic.tap_interface = "a b".into();
            },
            "tap_interface: \"a b\"",
        ),
    ] {
        let said = refused(change);
        assert!(said.contains(why), "{said}, and not {why}");
    }
}

/// Runs what `mvirt` says is to be done before, and returns the rest of what it says.
fn prepare(daemon: &Daemon, nic: &str) -> String {
    let printed = mvirt(daemon, &["nic", "vmm-args", nic, "--vmm", "firecracker"]);
    let said = String::from_utf8_lossy(&printed.stderr).into_owned();
    let (head, lines) = said.split_once('\n').unwrap();
    assert!(head.starts_with("Once before, as root"), "{head}");
    let ran = Command::new("sh").args(["-ec", lines]).output().unwrap();
    assert!(ran.status.success(), "{lines}: {ran:?}");
    stdout(&printed)
}

fn a_vmm_opens_its_tap_device(namespace: &Namespace) {
    namespace.enter();
    let mut daemon = Daemon::start();
    with_names(&mut daemon);
    let nic = vnic(&mut daemon, "fire", Transport::Packet);
    let other = daemon.nic("prod", "other");
    assert_eq!((nic.tap_interface.len(), &*nic.socket_path), (11, ""));
    assert_eq!(daemon.get_nic("fire").state(), NicState::Created, "there is no such device yet");
    let printed: serde_json::Value = serde_json::from_str(&prepare(&daemon, "fire")).unwrap();
    assert_eq!(
        printed,
        serde_json::json!({ "network-interfaces": [{
            "iface_id": "eth0",
            "guest_mac": nic.mac_address,
            "host_dev_name": nic.tap_interface,
        }] })
    );
    let refused = mvirt(&daemon, &["nic", "vmm-args", "other", "--vmm", "firecracker"]);
    assert!(stderr(&refused, 1).contains("--transport packet"));
    daemon.wait_for_state("fire", NicState::Active);
    // The host is no member: what it has there is not found.
    run(&format!("ip address add 10.0.0.77/24 dev {}", nic.tap_interface));
    // As Firecracker does: IFF_TAP, IFF_NO_PI and IFF_VNET_HDR, with checksums left to be done.
    let (mut a, mut b) = (Machine::qemu(&daemon, &nic, &[]), Machine::uml(&daemon, &other));
    a.lease(&nic);
    b.lease(&other);
    converse(&mut a, &other, &mut b, &nic);
    let report = a.succeed(&format!("iperf3 -c {} -n 8M -R", other.ipv4_address));
    assert!(report.contains("receiver"), "{report}");
    let (_, status) = a.run("ping -c 2 -W 1 10.0.0.77");
    assert_ne!(status, 0, "the host hears nothing of guests");
    drop(a);
    // It goes on in another process, and when its device has gone and comes again.
    assert!(daemon.hand_over());
    for reason in ["bad_checksum", "bad_vnet_header", "malformed_ipv4"] {
        assert_eq!(daemon.drops("fire", reason), 0, "{reason}");
    }
    daemon.wait_for_state("fire", NicState::Active);
    run(&format!("ip link delete {}", nic.tap_interface));
    daemon.wait_for_state("fire", NicState::Created);
    prepare(&daemon, "fire");
    daemon.wait_for_state("fire", NicState::Active);
    let open = format!("tap,id=n0,ifname={},script=no,downscript=no", nic.tap_interface);
    let device = format!("virtio-net-pci,netdev=n0,mac={}", nic.mac_address);
    let mut again = Machine::alone_qemu(&["-netdev", &open, "-device", &device]);
    again.lease(&nic);
}

#[test]
fn a_vmm_that_opens_its_tap_device_itself_has_a_vnic() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        return cannot_run("only root can make a TAP device, where there is /dev/net/tun");
    }
    let namespace = Namespace::new();
    thread::scope(|scope| scope.spawn(|| a_vmm_opens_its_tap_device(&namespace)).join().unwrap());
}
