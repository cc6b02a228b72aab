//! DPDK's virtio-user ports: the reference poll-mode driver sends through one vNIC and receives from another.

use super::daemon::Daemon;
use std::{
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    time::Duration,
};

/// Sends for a while in `txonly`, counts in `rxonly`: two ports of one testpmd.
fn exchange(ring: &str) {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nics = ["a", "b"].map(|name| daemon.nic("prod", name));
    let vdev = |n: usize| format!("net_virtio_user{n},path={},queues=1,queue_size=256,mac={},{ring}", nics[n].socket_path, nics[n].mac_address);
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new("dpdk-testpmd")
        .env("XDG_RUNTIME_DIR", directory.path())
        .args(["--lcores", "0@0,1@1", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry", "--file-prefix", "mvirt-test"])
        .args(["--vdev", &vdev(0), "--vdev", &vdev(1)])
        .args(["--", "--total-num-mbufs=4096", "--auto-start", "--forward-mode=txonly", "--eth-peer=0,02:00:00:00:00:01", "--tx-ip=10.0.0.1,10.0.0.2", "--txpkts=64"])
        .args(["--stats-period=1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut delivered = 0;
    super::daemon::wait_until("frames arrive at b", || {
        std::thread::park_timeout(Duration::from_millis(100));
        delivered = daemon.stats("b").egress_frames;
        delivered > 100_000
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    child.wait().unwrap();
    let stats = daemon.stats("a");
    let dropped: u64 = stats.drops.iter().map(|drop| drop.frames).sum();
    assert_eq!(stats.ingress_frames, stats.ingress_forwarded + stats.ingress_answered + dropped);
    assert!(stats.ingress_forwarded >= 100_000, "{stats:?}");
    let log = daemon.log();
    assert!(!log.contains("broke the protocol"), "{log}");
}

#[test]
fn the_reference_driver_exchanges_frames() {
    exchange("packed_vq=0,mrg_rxbuf=1,in_order=0");
}

#[test]
fn the_reference_driver_exchanges_frames_without_merged_buffers() {
    exchange("packed_vq=0,mrg_rxbuf=0,in_order=0");
}
