//! Real Linux kernels: User-mode Linux and QEMU, with their own virtio-net driver, IP stack and
//! DHCP clients.
//!
//! `make test` builds their initial RAM disks (guests/build.sh).

use crate::{
    daemon::{Daemon, wait_until},
    machine::{Machine, ask, converse, hear, prod},
};
use std::os::unix::net::UnixStream;

#[test]
fn user_mode_linux_guests_find_their_network_and_each_other() {
    let mut daemon = Daemon::start();
    let (one, two) = prod(&mut daemon);
    let (mut a, mut b) = (Machine::uml(&daemon, &one), Machine::uml(&daemon, &two));
    a.lease(&one);
    b.lease(&two);
    converse(&mut a, &two, &mut b, &one);
    let stats = daemon.stats("vm1");
    for reason in [
        "bad_vnet_header",
        "malformed_ipv4",
        "malformed_ipv6",
        "spoofed_source_ipv4",
        "spoofed_source_ipv6",
        "bad_checksum",
    ] {
        assert!(stats.drops.iter().all(|drop| drop.reason != reason), "an honest guest: {stats:?}");
    }
}

#[test]
fn a_qemu_guest_talks_to_one_of_user_mode_linux_across_hand_overs_and_a_crash() {
    let mut daemon = Daemon::start();
    let (one, two) = prod(&mut daemon);
    let (mut a, mut b) = (Machine::qemu(&daemon, &one, &[]), Machine::uml(&daemon, &two));
    a.lease(&one);
    b.lease(&two);
    converse(&mut a, &two, &mut b, &one);
    // The VMMs see nothing of a hand-over: User-mode Linux could not connect again. Nor does a TCP
    // connection end.
    let to = &two.ipv4_address;
    a.succeed(&format!("iperf3 -c {to} -t 5 -f m >/tmp/report & usleep 1000000"));
    for _ in 0..3 {
        assert!(daemon.hand_over());
    }
    let report = a.succeed("wait $! && cat /tmp/report");
    assert!(report.contains("receiver"), "{report}");
    b.succeed("ping -c 2 -W 2 169.254.0.1");
    daemon.crash_and_restart();
    // QEMU dials again within a second; the lease and the rings are as they were.
    let (text, _) = a.run(
        "n=0; until ping -c 1 -W 1 169.254.0.1 >/dev/null || [ $n -gt 30 ]; do n=$((n+1)); usleep \
         200000; done; ping -c 2 -W 2 169.254.0.1",
    );
    assert!(text.contains(" 0% packet loss"), "{text}");
}

/// Until QEMU has so many regions of memory beside the first.
fn wait_for_regions(monitor: &mut UnixStream, wanted: usize) {
    wait_until(&format!("there are {wanted} more regions of memory"), || {
        ask(monitor, "info memory-devices").matches("Memory device").count() == wanted
    });
}

/// Debian 12's QEMU sends ADD_MEM_REG and REM_MEM_REG once for each queue pair (those before 8.0
/// do).
#[test]
fn a_qemu_guest_uses_four_queues_while_its_memory_grows_and_shrinks() {
    const PAIRS: u32 = 4;
    let mut daemon = Daemon::start();
    let (peer, _) = prod(&mut daemon);
    let nic = daemon.nic_with("prod", "many", |r| r.queue_pairs = PAIRS);
    let directory = tempfile::tempdir().unwrap();
    let monitor_at = directory.path().join("monitor");
    let monitor = format!("unix:{},server,nowait", monitor_at.display());
    let arguments = ["-smp", "4", "-m", "192M,slots=1,maxmem=512M", "-monitor", &monitor];
    let mut a = Machine::qemu(&daemon, &nic, &arguments);
    let mut b = Machine::uml(&daemon, &peer);
    a.lease(&nic);
    b.lease(&peer);
    // Each CPU sends by a queue of its own.
    let from_each_cpu = |a: &mut Machine| {
        for cpu in 0..PAIRS {
            let ping = format!("ping -c 3 -i 0.2 -W 5 {}", peer.ipv4_address);
            a.succeed(&format!("taskset {:x} {ping}", 1 << cpu));
        }
    };
    from_each_cpu(&mut a);
    let counted = a.succeed("ethtool -S eth0");
    for queue in 0..PAIRS {
        let counter = format!("tx_queue_{queue}_packets: ");
        let line = counted.lines().find_map(|line| line.trim().strip_prefix(&counter));
        let packets: u64 = line.unwrap().parse().unwrap();
        assert!(packets > 0, "{counted}");
    }

    let mut monitor = UnixStream::connect(monitor_at).unwrap();
    hear(&mut monitor);
    ask(&mut monitor, "object_add memory-backend-memfd,id=more,size=128M,share=on");
    ask(&mut monitor, "device_add pc-dimm,id=dimm,memdev=more");
    from_each_cpu(&mut a);
    wait_for_regions(&mut monitor, 1);
    // The guest gives it back, for it has not begun to use it.
    ask(&mut monitor, "device_del dimm");
    wait_for_regions(&mut monitor, 0);
    from_each_cpu(&mut a);
    assert!(!daemon.log().contains("broke the protocol"), "{}", daemon.log());
}
