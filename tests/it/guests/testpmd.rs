//! DPDK's virtio-user ports: the reference poll-mode driver exchanges frames through two vNICs.

use crate::daemon::{Daemon, wait_until};
use mvirt_net::proto::Nic;
use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// A testpmd that ends with its test, however that ends.
struct Peer {
    process: Child,
    _directory: TempDir,
    /// What its own files are named after.
    prefix: String,
}

impl Peer {
    fn end(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        // It has ended by itself if this fails.
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        self.process.wait().unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.end();
        // DPDK leaves its folder behind, which is there for root whatever it is told; for others it
        // is in `_directory`.
        fs::remove_dir_all(Path::new("/run/dpdk").join(&self.prefix)).ok();
    }
}

/// Frames that testpmd sends first, on each queue.
const BURST: u64 = 32;

/// Two vNICs, a and b.
fn nics(daemon: &mut Daemon, pairs: u32) -> [Nic; 2] {
    daemon.network("prod");
    ["a", "b"].map(|name| daemon.nic_with("prod", name, |r| r.queue_pairs = pairs))
}

/// A testpmd with a port for each vNIC.
fn start(nics: &[Nic], ring: &str, arguments: &[&str]) -> Peer {
    let directory = tempfile::tempdir().unwrap();
    let prefix = format!("mvirt-test-{}", nics[0].id);
    let mut command = Command::new("dpdk-testpmd");
    command
        .env("XDG_RUNTIME_DIR", directory.path())
        .args(["--lcores", "0@(0,1),1@(0,1)", "--no-huge", "-m", "256", "--no-pci"])
        .args(["--no-telemetry", "--file-prefix", &prefix]);
    for (n, Nic { socket_path, mac_address, queue_pairs, .. }) in nics.iter().enumerate() {
        command.arg("--vdev").arg(format!(
            "net_virtio_user{n},path={socket_path},queues={queue_pairs},queue_size=256,\
             mac={mac_address},{ring}"
        ));
    }
    let queues = nics[0].queue_pairs;
    let process = command
        .args(["--", "--total-num-mbufs=4096", "--auto-start", "--port-topology=loop"])
        .args([&format!("--rxq={queues}"), &format!("--txq={queues}")])
        .args(["--eth-peer=0,02:00:00:00:00:01", "--tx-ip=10.0.0.1,10.0.0.2", "--txpkts=64"])
        .args(["--stats-period=1"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    Peer { process: process.unwrap(), _directory: directory, prefix }
}

/// A burst of frames from a to b, each swapped and sent back until its TTL has run out: 63
/// deliveries a frame.
fn exchange(ring: &str, pairs: u32) {
    let mut daemon = Daemon::start();
    let nics = nics(&mut daemon, pairs);
    let mut peer = start(&nics, ring, &["--forward-mode=5tswap", "--tx-first"]);
    let frames = BURST * u64::from(pairs);
    let mut died = 0;
    wait_until("every frame has died of its TTL", || {
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

#[test]
fn the_reference_driver_goes_on_across_hand_overs() {
    let mut daemon = Daemon::start();
    let [a, b] = nics(&mut daemon, 1);
    let ring = "packed_vq=0";
    let _receives = start(&[b], ring, &["--forward-mode=rxonly"]);
    let _sends = start(&[a], ring, &["--forward-mode=txonly"]);
    for hand_over in [true, true, true, false] {
        let before = daemon.stats("b").egress_frames;
        wait_until("its frames arrive", || daemon.stats("b").egress_frames > before + 10_000);
        assert!(!hand_over || daemon.hand_over(), "{}", daemon.log());
    }
    assert!(!daemon.log().contains("broke the protocol"), "{}", daemon.log());
}
