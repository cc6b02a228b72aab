//! DPDK's virtio-user ports: the reference poll-mode driver exchanges frames through two vNICs.

use super::daemon::Daemon;
use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A testpmd that ends with its test, however that ends.
struct Peer(Child);

impl Peer {
    fn end(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        // It has ended by itself if this fails.
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        self.0.wait().unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.end();
    }
}

/// Frames that testpmd sends first, on each queue.
const BURST: u64 = 32;

/// A burst of frames from a to b, each swapped and sent back until its TTL has run out: 63 deliveries a frame.
fn exchange(ring: &str, pairs: u32) {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nics = ["a", "b"].map(|name| daemon.nic_with("prod", name, |r| r.queue_pairs = pairs));
    let vdev = |n: usize| {
        format!(
            "net_virtio_user{n},path={},queues={pairs},queue_size=256,mac={},{ring}",
            nics[n].socket_path, nics[n].mac_address
        )
    };
    let directory = tempfile::tempdir().unwrap();
    let mut peer = Peer(
        Command::new("dpdk-testpmd")
            .env("XDG_RUNTIME_DIR", directory.path())
            .args([
                "--lcores",
                "0@0,1@1",
                "--no-huge",
                "-m",
                "256",
                "--no-pci",
                "--no-telemetry",
                "--file-prefix",
                &format!("mvirt-test-{}", daemon.pid()),
            ])
            .args(["--vdev", &vdev(0), "--vdev", &vdev(1)])
            .args([
                "--",
                "--total-num-mbufs=4096",
                "--auto-start",
                "--forward-mode=5tswap",
                "--port-topology=loop",
                "--tx-first",
                &format!("--rxq={pairs}"),
                &format!("--txq={pairs}"),
                "--eth-peer=0,02:00:00:00:00:01",
                "--tx-ip=10.0.0.1,10.0.0.2",
                "--txpkts=64",
            ])
            .args(["--stats-period=1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap(),
    );
    let frames = BURST * u64::from(pairs);
    let mut died = 0;
    super::daemon::wait_until("every frame has died of its TTL", || {
        std::thread::park_timeout(Duration::from_millis(50));
        died = daemon.drops("a", "hop_limit_exceeded") + daemon.drops("b", "hop_limit_exceeded");
        died == frames
    });
    peer.end();
    let stats = ["a", "b"].map(|name| daemon.stats(name));
    let forwarded: u64 = stats.iter().map(|stats| stats.ingress_forwarded).sum();
    assert_eq!(forwarded, frames * 63, "{stats:?}");
    for stats in stats {
        let dropped: u64 = stats.drops.iter().map(|drop| drop.frames).sum();
        assert_eq!(
            stats.ingress_frames,
            stats.ingress_forwarded + stats.ingress_answered + dropped
        );
    }
    let log = daemon.log();
    assert!(!log.contains("broke the protocol"), "{log}");
}

#[test]
fn the_reference_driver_exchanges_frames() {
    exchange("packed_vq=0,mrg_rxbuf=1,in_order=0", 1);
}

#[test]
fn the_reference_driver_exchanges_frames_without_merged_buffers() {
    exchange("packed_vq=0,mrg_rxbuf=0,in_order=0", 1);
}

#[test]
fn the_reference_driver_exchanges_frames_over_two_queue_pairs() {
    exchange("packed_vq=0,mrg_rxbuf=1,in_order=0", 2);
}

#[test]
fn the_reference_driver_exchanges_frames_in_order() {
    exchange("packed_vq=0,mrg_rxbuf=1,in_order=1", 1);
}
