//! QEMU itself, with the lines of the seed's README.

use super::rig::{Place, list};
use crate::{daemon::wait_until, machine::Machine, streams::free_ports};

/// A VM on a VLAN. Its interface has `address`.
fn boot(port: u16, number: u8, address: &str) -> Machine {
    let network =
        format!("-netdev socket,id=net0,connect=:{port} -device virtio-net-pci,netdev=net0");
    boot_with(&network, number, address)
}

/// A VM whose network is the last device of these arguments.
fn boot_with(network: &str, number: u8, address: &str) -> Machine {
    let network = format!("{network},mac=52:54:00:00:00:0{number}");
    let mut machine = Machine::alone_qemu(&network.split(' ').collect::<Vec<_>>());
    machine.succeed(&format!("ip address add {address}/24 dev eth0 && ip link set eth0 up"));
    machine
}

// seed H.2.1, H.2.2, H.2.24, H.2.27, H.2.29
#[test]
fn vms_of_a_port_reach_each_other_and_none_of_another_port() {
    let place = Place::new();
    let ports = free_ports::<2>();
    let _switch = place.start(&["-ports", &list(&ports)]);
    std::thread::scope(|scope| {
        // On the other port, with the MAC and the address of the first.
        let starts =
            [(0, 1, "10.0.0.1"), (0, 2, "10.0.0.2"), (0, 3, "10.0.0.3"), (1, 1, "10.0.0.1")];
        let machines = starts
            .map(|(vlan, number, address)| scope.spawn(move || boot(ports[vlan], number, address)));
        let [mut a, mut b, mut c, mut other] = machines.map(|boot| boot.join().unwrap());
        a.succeed("ping -c 2 -W 10 10.0.0.2 && ping -c 2 -W 10 10.0.0.3");
        b.succeed("ping -c 2 -W 10 10.0.0.1 && ping -c 2 -W 10 10.0.0.3");
        c.succeed("ping -c 2 -W 10 10.0.0.1 && ping -c 2 -W 10 10.0.0.2");
        // Broadcasts of three, of which the fourth hears nothing.
        a.run("arping -c 3 -w 5 -I eth0 10.0.0.9");
        let heard = other.succeed("cat /sys/class/net/eth0/statistics/rx_packets");
        assert_eq!(heard.trim(), "0");
        assert_ne!(other.run("ping -c 1 -W 2 10.0.0.2").1, 0);
        b.succeed("iperf3 -s -D --logfile /dev/null && usleep 500000");
        let report = a.succeed("iperf3 -c 10.0.0.2 -n 4M -f m");
        assert!(report.contains("receiver"), "{report}");
    });
}

/// Whether somebody listens at a port of this host; who connected to find out would be the one
/// that QEMU takes.
fn is_listened_at(port: u16) -> bool {
    // From everywhere, in the state LISTEN (proc_net_tcp(5)).
    let line = format!(":{port:04X} 00000000:0000 0A ");
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let sockets6 = std::fs::read_to_string("/proc/net/tcp6").unwrap();
    let line6 = format!(":{port:04X} {}:0000 0A ", "0".repeat(32));
    sockets.contains(&line) || sockets6.contains(&line6)
}

// seed H.2.28
#[test]
fn vms_of_a_hubport_are_moved_to_the_switch_as_the_page_says() {
    let place = Place::new();
    let [before, after] = free_ports();
    let page = std::fs::read_to_string("docs/vswitch.md").unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `-netdev "));
    let rows = rows.map(|row| {
        let arguments: Vec<_> = format!("`-netdev {row}").split('`').map(str::to_owned).collect();
        [&arguments[1], &arguments[3]]
            .map(|line| line.replace(":5000", &format!(":{before}")))
            .map(|line| line.replace(":9999", &format!(":{after}")))
    });
    let rows: Vec<_> = rows.collect();
    let [hub, other] = <[_; 2]>::try_from(rows).unwrap();
    let talk = |port: u16, hub: &str, other: &str| {
        let [mut a, mut b] = std::thread::scope(|scope| {
            let a = scope.spawn(|| boot_with(hub, 1, "10.0.0.1"));
            wait_until("the one that others connect to listens", || is_listened_at(port));
            let b = scope.spawn(|| boot_with(other, 2, "10.0.0.2"));
            [a, b].map(|boot| boot.join().unwrap())
        });
        a.succeed("ping -c 2 -W 10 10.0.0.2");
        b.succeed("ping -c 2 -W 10 10.0.0.1");
    };
    talk(before, &hub[0], &other[0]);
    let _switch = place.start(&["-ports", &after.to_string()]);
    talk(after, &hub[1], &other[1]);
}
