//! The flight ring: what has been, of those who were not captured.

use super::{refused, tshark};
use crate::{
    command::{mvirt, stderr},
    daemon::{Daemon, wait_until},
    frames::Udp4,
    guest::{Guest, pair},
};
use std::path::{Path, PathBuf};

/// Files that the daemon has written.
fn files(daemon: &Daemon) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(daemon.path("m/captures"));
    folder.map_or_else(|_| Vec::new(), |all| all.map(|file| file.unwrap().path()).collect())
}

/// Comments of the frames of a file, with their interfaces.
fn comments(file: &Path) -> Option<Vec<String>> {
    tshark(file, &["frame.interface_name", "frame.comment"])
}

fn spoof(daemon: &mut Daemon, a: &mut Guest) {
    a.send(&Udp4::new(a.mac, "10.0.0.2", "10.0.0.2", &[7; 200]).frame());
    wait_until("it is dropped", || daemon.drops("a", "spoofed_source_ipv4") == 1);
}

#[test]
fn what_has_been_is_there_on_request_and_by_signal() {
    let mut daemon = Daemon::start_with(&["--reactors", "2", "--capture-ring", "1M"]);
    let (_, [mut a, mut b]) = pair(&mut daemon);
    spoof(&mut daemon, &mut a);
    let address = b.address().to_owned();
    assert!(b.answers(&mut a, &address));
    let file = daemon.path("ring.pcapng");
    let words = ["capture", "--ring", "a", "--filter", "udp", "-w", file.to_str().unwrap()];
    let said = stderr(&mvirt(&daemon, &words), 0);
    assert_eq!(said, "1 packet captured, 0 lost\n");
    if let Some(lines) = tshark(&file, &["frame.len", "frame.cap_len", "frame.comment"]) {
        assert_eq!(lines, ["242\t128\tverdict=dropped reason=spoofed_source_ipv4"]);
    }
    // It is there again: to read it takes nothing out.
    daemon.signal(rustix::process::Signal::USR1);
    wait_until("the daemon has said where it is", || daemon.log().contains("capture ring written"));
    let written = files(&daemon);
    assert!(written.len() == 1, "{written:?}");
    let name = written[0].file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("ring-") && name.ends_with(".pcapng"), "{name}");
    if let Some(lines) = comments(&written[0]) {
        for wanted in ["a\tverdict=forwarded to=b", "b\tverdict=delivered"] {
            assert!(lines.iter().any(|line| line == wanted), "{wanted}: {lines:?}");
        }
    }
}

#[test]
fn what_led_to_a_failure_is_kept() {
    let mut daemon = Daemon::start_with(&["--reactors", "1", "--capture-ring", "1M"]);
    let (_, [mut a, b]) = pair(&mut daemon);
    spoof(&mut daemon, &mut a);
    // A ring whose indices jump is broken.
    a.driver.memory.show(crate::guest::TX, 1000);
    a.driver.kick(1);
    wait_until("it is written", || daemon.log().contains("capture ring written"));
    let written = files(&daemon);
    assert!(written.len() == 1, "{written:?}");
    assert!(written[0].file_name().unwrap().to_str().unwrap().starts_with("a-"));
    if let Some(lines) = comments(&written[0]) {
        let dropped = "a\tverdict=dropped reason=spoofed_source_ipv4";
        assert!(lines.iter().any(|line| line == dropped), "{lines:?}");
        assert!(lines.iter().all(|line| line.starts_with("a\t")), "{lines:?}");
    }
    drop(b);
}

#[test]
fn without_a_ring_there_is_nothing_to_ask_for() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.nic("prod", "a");
    let said = refused(&daemon, &["--ring", "a"], 1);
    assert!(said.contains("FAILED_PRECONDITION") && said.contains("--capture-ring SIZE"), "{said}");
    daemon.signal(rustix::process::Signal::USR1);
    wait_until("it says that there is none", || daemon.log().contains("there is no flight ring"));
    assert!(files(&daemon).is_empty());
    daemon.get_nic("a");
}
