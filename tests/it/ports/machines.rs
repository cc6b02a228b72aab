//! QEMU and User-mode Linux with network backends of their own, each reached by another kind of
//! port: all are members of one segment.

use super::{create, get, lab};
use crate::{
    daemon::{Daemon, wait_until},
    machine::Machine,
    streams::free_ports,
};
use mvirt_net::proto::PortState;

fn qemu(network: &str, number: u8) -> Machine {
    let card = format!("virtio-net-pci,netdev=n0,mac=52:54:00:00:00:0{number}");
    let machine = Machine::alone_qemu(&["-netdev", network, "-device", &card]);
    with_address(machine, "eth0", number)
}

fn uml(network: &str, interface: &str, number: u8) -> Machine {
    with_address(Machine::alone_uml(&[network]), interface, number)
}

fn with_address(mut machine: Machine, interface: &str, number: u8) -> Machine {
    machine.succeed(&format!(
        "ip link set {interface} address 52:54:00:00:00:0{number} && \
         ip address add 10.0.0.{number}/24 dev {interface} && ip link set {interface} up"
    ));
    machine
}

fn is_up(daemon: &mut Daemon, name: &str) {
    wait_until("it is up", || get(daemon, name).state() == PortState::Up);
}

#[test]
fn machines_behind_a_group_a_packet_socket_and_a_stream_reach_each_other() {
    let mut daemon = Daemon::start();
    lab(&mut daemon);
    let [port, group] = free_ports();
    create(&mut daemon, "qemu", &format!("stream-listen://127.0.0.1:{port}"));
    create(&mut daemon, "group", &format!("mcast://239.192.7.1:{group}/if=lo"));
    let path = daemon.path("s/bess");
    create(&mut daemon, "bess", &format!("seqpacket-listen://{}", path.display()));
    is_up(&mut daemon, "group");
    let (path, qemu_group) = (path.display(), format!("239.192.7.1:{group}"));
    std::thread::scope(|scope| {
        let a = scope.spawn(|| qemu(&format!("socket,id=n0,connect=127.0.0.1:{port}"), 1));
        let of_group = format!("socket,id=n0,mcast={qemu_group},localaddr=127.0.0.1");
        let b = scope.spawn(move || qemu(&of_group, 2));
        let c = scope.spawn(move || uml(&format!("vec0:transport=bess,dst={path}"), "vec0", 3));
        let [mut a, mut b, mut c] = [a, b, c].map(|boot| boot.join().unwrap());
        a.succeed("ping -c 2 -W 10 10.0.0.2 && ping -c 2 -W 10 10.0.0.3");
        b.succeed("ping -c 2 -W 10 10.0.0.1 && ping -c 2 -W 10 10.0.0.3");
        // None is heard twice, and none hears itself.
        let pings = c.succeed("ping -c 3 -W 10 10.0.0.1 && ping -c 3 -W 10 10.0.0.2");
        assert!(!pings.contains("DUP"), "{pings}");
        a.succeed("iperf3 -s -D --logfile /dev/null && usleep 500000");
        let report = c.succeed("iperf3 -c 10.0.0.1 -n 4M -f m");
        assert!(report.contains("receiver"), "{report}");
    });
}

#[test]
fn machines_that_listen_themselves_or_send_datagrams_are_reached() {
    let mut daemon = Daemon::start();
    lab(&mut daemon);
    let [server, ours, theirs] =
        ["server", "ours", "theirs"].map(|name| daemon.path("s").join(name).display().to_string());
    create(&mut daemon, "stream", &format!("stream://{server}"));
    create(&mut daemon, "dgram", &format!("dgram://{ours}->{theirs}"));
    std::thread::scope(|scope| {
        let listens = format!("stream,id=n0,server=on,addr.type=unix,addr.path={server}");
        let between = format!(
            "dgram,id=n0,local.type=unix,local.path={theirs},remote.type=unix,remote.path={ours}"
        );
        let a = scope.spawn(move || qemu(&listens, 1));
        let b = scope.spawn(move || qemu(&between, 2));
        let [mut a, mut b] = [a, b].map(|boot| boot.join().unwrap());
        is_up(&mut daemon, "stream");
        is_up(&mut daemon, "dgram");
        a.succeed("ping -c 2 -W 10 10.0.0.2");
        b.succeed("ping -c 2 -W 10 -s 1472 10.0.0.1");
        drop(a);
        wait_until("it is down", || get(&mut daemon, "stream").state() == PortState::Down);
    });
}
