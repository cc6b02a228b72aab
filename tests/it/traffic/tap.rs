//! A vNIC that is a TAP device: what is in its network namespace reaches guests, and they it.

use crate::{
    daemon::{Daemon, cannot_run},
    guest::Guest,
    namespace::{Namespace, run},
    network,
};
use mvirt_net::{
    addr::MacAddr,
    dataplane::{
        self, Access, Dataplane, Device, Hugepages, NewPort, PortSpec, Settings, forward::tables,
        vhost_user,
    },
    descriptor_store::Slot,
    proto,
};
use std::{
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

#[test]
fn a_namespace_behind_a_tap_device_and_a_guest_ping_each_other() {
    if !rustix::process::geteuid().is_root() {
        return cannot_run("only root can make a TAP device");
    }
    if !Path::new("/dev/net/tun").exists() {
        return cannot_run("there is no /dev/net/tun");
    }
    let namespace = Namespace::new();
    // A thread of its own: it stays in the namespace.
    thread::scope(|scope| scope.spawn(|| ping_each_other(&namespace)).join().unwrap());
}

fn ping_each_other(namespace: &Namespace) {
    namespace.enter();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _running = runtime.enter();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vm1");
    let settings = Settings {
        reactors: 1,
        cpus: vec![],
        busy_poll: Duration::ZERO,
        hugepages: Hugepages::Off,
        guest_memory: 1 << 30,
        capture_ring: None,
        socket_access: Access::default(),
    };
    let (mut dataplane, _reports) = Dataplane::start(&settings).unwrap();
    let network = network::network();
    let macs = [1, 2].map(|number| MacAddr([0x52, 0x54, 0, 0, 0, number]));
    let device =
        Device { mac: macs[0], mtu: 1500, queue_pairs: 1, features: dataplane::features(1) };
    let guest = PortSpec::VhostUser(vhost_user::Spec {
        path: path.clone(),
        access: Access::default(),
        device,
    });
    let tap =
        PortSpec::Tap(dataplane::tap::Spec { interface: "tap0".into(), ..Default::default() });
    let key = tables::NetworkKey(1);
    let attached = [("vm1", guest), ("tap0", tap)].map(|(name, spec)| {
        let place = dataplane.place(key);
        let port = NewPort { place, network: key, name: name.into(), spec, slot: Slot::default() };
        dataplane.attach(port, None).unwrap()
    });
    runtime.block_on(dataplane.publish([network]).passed());
    run(&format!("ip link set tap0 address {} mtu 1500 up", macs[1]));
    run("ip address add 10.0.0.2/32 dev tap0");
    run("ip route add 169.254.0.1 dev tap0");
    run("ip route add default via 169.254.0.1");
    let mut guest = Guest::connect(&proto::Nic {
        socket_path: path.display().to_string(),
        mac_address: macs[0].to_string(),
        ipv4_address: "10.0.0.1".into(),
        ..Default::default()
    });
    assert!(guest.ping("10.0.0.2"), "the namespace answers");
    let pings = ping_from_here(&mut guest);
    assert!(pings.contains("3 packets received"), "{pings}");
    let counters = attached[1].counters().totals();
    assert!(counters["ingress_forwarded"] >= 4, "{counters:?}");
    for port in attached {
        runtime.block_on(port.close());
    }
    let mut show = Command::new("ip");
    let gone = show.args(["link", "show", "tap0"]).stderr(Stdio::null()).status().unwrap();
    assert!(!gone.success(), "the device ends with its port");
}

/// Pings the guest, which answers, from the namespace. Returns what ping says.
fn ping_from_here(guest: &mut Guest) -> String {
    let mut ping = Command::new("busybox");
    let ping = ping.args(["ping", "-c", "3", "-W", "5", "10.0.0.1"]);
    let mut ping = ping.stdout(Stdio::piped()).spawn().unwrap();
    guest.answer_echoes_while(|| ping.try_wait().unwrap().is_none());
    String::from_utf8(ping.wait_with_output().unwrap().stdout).unwrap()
}

/// A container has nothing but an interface: a vNIC's.
fn a_container_is_a_guest(namespace: &Namespace) {
    namespace.enter();
    // In this namespace, where it makes devices.
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut guest = Guest::connect(&daemon.nic("prod", "vm1"));
    let nic = daemon.nic_with("prod", "c1", |nic| {
        nic.transport = proto::Transport::Tap.into();
        nic.tap_interface = "c1".into();
    });
    assert_eq!((&*nic.ipv4_address, &*nic.socket_path), ("10.0.0.2", ""));
    let container = Namespace::new();
    // It has its vNIC's MAC, which alone may send.
    run(&format!("ip link set c1 netns {}", container.0.id()));
    thread::scope(|scope| {
        let inside = || {
            container.enter();
            run("ip link set c1 up");
            run("ip address add 10.0.0.2/32 dev c1");
            run("ip route add 169.254.0.1 dev c1");
            run("ip route add default via 169.254.0.1");
            let before = ping_from_here(&mut guest);
            assert!(before.contains("3 packets received"), "{before}");
            daemon.wait_for_state("c1", proto::NicState::Active);
            // A new process goes on with the device, which it could not find by its name.
            assert!(daemon.hand_over());
            let after = ping_from_here(&mut guest);
            assert!(after.contains("3 packets received"), "{after}");
        };
        scope.spawn(inside).join().unwrap();
    });
    let taken = daemon.try_nic_with("prod", "c2", |nic| {
        nic.transport = proto::Transport::Tap.into();
        nic.tap_interface = "lo".into();
    });
    assert!(taken.unwrap_err().message().contains("lo"), "it is no TAP device");
}

#[test]
fn a_container_behind_a_vnic_of_its_own_outlives_a_hand_over() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        return cannot_run("only root can make a TAP device, where there is /dev/net/tun");
    }
    let namespace = Namespace::new();
    thread::scope(|scope| scope.spawn(|| a_container_is_a_guest(&namespace)).join().unwrap());
}
