//! Hosts of their own: namespaces on one link, TAP devices, and QEMU.

use super::rig::{Switch, no_hosts};
use crate::{
    daemon::{cannot_run, wait_until},
    lan::Lan,
    machine::Machine,
    namespace::Namespace,
};
use std::time::{Duration, Instant};

fn start(host: &Namespace, number: u8) -> Switch {
    let command = host.command(env!("CARGO_BIN_EXE_mvirt-dives"));
    Switch::run(command, &["-h", &format!("10.9.0.{number}")])
}

/// Attaches a TAP device with an address to a VLAN.
fn tap(host: &Namespace, switch: &Switch, vlan: u32, device: &str, address: &str) {
    assert_eq!(switch.vlan(vlan).ask(&format!("tap {device}")), "");
    host.run(&format!("ip address add {address}/24 dev {device}"));
    host.run(&format!("ip link set {device} up"));
}

// seed H.3.4, H.3.5, H.3.6, H.3.7, H.3.9, H.3.14, H.3.15, H.3.16, H.3.17, H.3.24, H.3.27
#[test]
fn taps_of_two_hosts_reach_each_other_in_their_vlan() {
    if let Some(why) = no_hosts() {
        return cannot_run(why);
    }
    let lan = Lan::<2>::new();
    let [a, b] = &lan.hosts;
    let one = start(a, 1);
    let two = start(b, 2);
    let began = Instant::now();
    wait_until("they find each other", || {
        two.console().ask("show peers").contains("10.9.0.1 ")
            && one.console().ask("show peers").contains("10.9.0.2 ")
    });
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // 239.13.13.13 as /proc has it, and 3333 at 10.9.0.1.
    assert!(a.run("cat /proc/net/igmp").contains("0D0D0DEF"));
    assert!(a.run("cat /proc/net/udp").contains("0100090A:0D05"));
    tap(a, &one, 5, "t0", "10.5.0.1");
    tap(b, &two, 5, "t0", "10.5.0.2");
    tap(b, &two, 6, "t6", "10.6.0.2");
    a.run("busybox ping -c 2 -W 10 10.5.0.2");
    // Its first number after the octets is of frames that it was sent.
    let devices = b.run("cat /proc/net/dev");
    let sixth = devices.lines().find_map(|line| line.trim().strip_prefix("t6:")).unwrap();
    assert_eq!(sixth.split_whitespace().nth(1), Some("0"), "another VLAN");
    let mut vlan = one.vlan(5);
    assert_eq!(vlan.ask("show taps"), "t0\n");
    let macs = vlan.ask("show macs");
    assert!(macs.lines().any(|line| line.contains("  t0          ")), "{macs}");
    assert!(macs.lines().any(|line| line.contains("  10.9.0.2:3333  ")), "{macs}");
    let refused = vlan.ask("tap t0");
    assert!(refused.starts_with("ERR "), "attached already: {refused}");
    assert_eq!(vlan.ask("no tap t9"), "ERR no tap t9: it is not attached here\n");
    assert_eq!(vlan.ask("no tap t0"), "");
    assert_eq!(vlan.ask("show taps"), "");
    assert!(!vlan.ask("show macs").contains("  t0  "));
    // It is free for another process.
    a.run("ip tuntap add t0 mode tap");
}

// seed H.3.1, H.3.19, H.3.20
#[test]
fn a_vm_on_one_host_reaches_a_device_of_another() {
    if let Some(why) = no_hosts() {
        return cannot_run(why);
    }
    let lan = Lan::<2>::new();
    let [a, b] = &lan.hosts;
    let (one, two) = (start(a, 1), start(b, 2));
    tap(b, &two, 5, "t0", "10.5.0.2");
    assert_eq!(one.vlan(5).ask("listen 10.9.0.1 4001"), "");
    let network = ["-net", "nic,model=virtio", "-net", "socket,connect=10.9.0.1:4001"];
    let mut vm = Machine::qemu_by(a.command("qemu-system-x86_64"), &network);
    vm.succeed("ip address add 10.5.0.1/24 dev eth0 && ip link set eth0 up");
    vm.succeed("ping -c 2 -W 10 10.5.0.2");
    b.run("busybox ping -c 2 -W 10 10.5.0.1");
    // With frames of their full length: the kernel cuts the datagrams.
    vm.succeed("ping -c 2 -W 10 -s 1472 10.5.0.2");
    assert!(one.vlan(5).ask("show macs").contains("  vlan5/unix  "));
    assert!(two.vlan(5).ask("show macs").contains("  10.9.0.1:3333  "));
}
