//! What is in a capture: every frame, both ways, and what became of it, as others read it.

use super::{Captured, tshark};
use crate::{
    command::{mvirt, stdout},
    daemon::{Daemon, wait_until},
    frames::Udp4,
    guest::{CSUM, Guest, PLAIN, pair},
    lab,
    segments::{TSO, stream},
};
use std::{path::Path, process::Command};

const FIELDS: [&str; 3] = ["frame.interface_name", "frame.packet_flags_direction", "frame.comment"];

/// Whether each of `wanted` is among what tshark says of a file.
fn has(file: &Path, wanted: &[&str]) {
    let Some(lines) = tshark(file, &FIELDS) else { return };
    // Some versions print flags with all their digits.
    let lines = lines.iter().map(|line| line.replace("0x0000000", "")).collect::<Vec<_>>();
    for wanted in wanted {
        assert!(lines.iter().any(|line| line == wanted), "{wanted}: {lines:#?}");
    }
    let checked = Command::new("capinfos").arg(file).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let said = String::from_utf8(checked.stdout).unwrap();
    let count = format!("Number of packets:   {}", lines.len());
    assert!(said.contains(&count), "{said}");
}

#[test]
fn every_frame_is_there_with_its_verdict() {
    let mut daemon = Daemon::start();
    let (_, [mut a, mut b]) = pair(&mut daemon);
    let capture = Captured::begin(&daemon, "all.pcapng", &["--network", "prod"]);
    a.lease();
    let address = b.address().to_owned();
    assert!(b.answers(&mut a, &address));
    a.send(&Udp4::new(a.mac, "10.0.0.2", "10.0.0.2", b"evil").frame());
    wait_until("it is dropped", || daemon.drops("a", "spoofed_source_ipv4") == 1);
    capture.has("spoofed_source_ipv4", 1);
    let file = capture.file.clone();
    let said = capture.interrupt();
    assert!(said.contains("packets captured, 0 lost"), "{said}");
    // 1 is inbound, 2 outbound: as the guest sees it.
    has(
        &file,
        &[
            "a\t2\tverdict=answered by=dhcpv4",
            "a\t1\tverdict=delivered",
            "a\t2\tverdict=forwarded to=b",
            "b\t1\tverdict=delivered",
            "b\t2\tverdict=forwarded to=a",
            "a\t2\tverdict=dropped reason=spoofed_source_ipv4",
        ],
    );
    // Frames are as they were sent: the hop limit is taken down in between.
    let echoes = ["frame.interface_name", "frame.packet_flags_direction", "ip.ttl", "icmp.type"];
    if let Some(lines) = tshark(&file, &echoes) {
        for wanted in ["a\t2\t64\t8", "b\t1\t63\t8", "b\t2\t64\t0", "a\t1\t63\t0"] {
            let is_there = lines.iter().any(|line| line.replace("0x0000000", "") == wanted);
            assert!(is_there, "{wanted}: {lines:#?}");
        }
        // Its number is the same where it goes in and where it comes out.
        let echoes = ["frame.packet_id", "icmp.type"];
        let lines = tshark(&file, &echoes).unwrap();
        let requests = lines.iter().filter(|line| line.ends_with("\t8")).collect::<Vec<_>>();
        assert!(requests.len() == 2 && requests[0] == requests[1], "{requests:?}");
        let names = Command::new("capinfos").arg("-N").arg(&file).output().unwrap();
        let names = String::from_utf8(names.stdout).unwrap();
        assert!(names.contains("Number of resolved IPv4 addresses in file: 2"), "{names}");
    }
}

#[test]
fn frames_between_reactors_are_seen_at_both_ends() {
    let (daemon, a, b) = Daemon::with_nics_apart();
    let (mut a, mut b) = (Guest::connect(&a), Guest::connect(&b));
    let capture = Captured::begin(&daemon, "apart.pcapng", &["a", "b"]);
    let address = b.address().to_owned();
    assert!(b.answers(&mut a, &address));
    // Ends of the way, there and back; router advertisements may be beside them.
    capture.has("verdict=forwarded", 2);
    let is_reply = "a\t1\tverdict=delivered";
    wait_until("the reply is there", || {
        tshark(&capture.file, &FIELDS)
            .is_none_or(|lines| lines.iter().any(|line| line.replace("0x0000000", "") == is_reply))
    });
    let file = capture.file.clone();
    capture.interrupt();
    has(
        &file,
        &[
            "a\t2\tverdict=forwarded to=b",
            "b\t1\tverdict=delivered",
            "b\t2\tverdict=forwarded to=a",
            "a\t1\tverdict=delivered",
        ],
    );
}

#[test]
fn flooded_frames_are_seen_where_they_come_and_where_they_go() {
    let mut daemon = Daemon::start();
    daemon.network_with("lab", lab::segment);
    let nics = ["a", "b"].map(|name| daemon.nic("lab", name));
    let [mut a, mut b] = nics.each_ref().map(Guest::connect);
    lab::create(&mut daemon, "hole", "null://").unwrap();
    let capture = Captured::begin(&daemon, "lab.pcapng", &["--network", "lab"]);
    // One that is there only since then.
    let late = Guest::connect(&daemon.nic("lab", "late"));
    let frame = [&[0xff; 6], &a.mac[..], &[0xbe, 0xef], &[7; 50]].concat();
    a.send(&frame);
    b.expect("it is flooded", |found| found == frame);
    capture.has("verdict=flooded", 1);
    capture.has("verdict=delivered", 3);
    let file = capture.file.clone();
    capture.interrupt();
    drop(late);
    has(
        &file,
        &[
            "a\t2\tverdict=flooded",
            "b\t1\tverdict=delivered",
            "late\t1\tverdict=delivered",
            "hole\t1\tverdict=delivered",
        ],
    );
}

#[test]
fn what_is_left_to_be_done_is_told_and_sums_are_right() {
    const HOST_TSO4: u64 = 1 << 11;
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let (a, b) = (daemon.nic("prod", "a"), daemon.nic("prod", "b"));
    let mut a = Guest::connect_with(&a, PLAIN | CSUM | HOST_TSO4, 2048);
    let mut b = Guest::connect(&b);
    let capture = Captured::begin(&daemon, "tso.pcapng", &["a", "--filter", "tcp"]);
    let short = Captured::begin(&daemon, "short.pcapng", &["a", "--snaplen", "60"]);
    a.driver.send_with(TSO, &stream(a.mac, "10.0.0.1", "10.0.0.2", &[7; 1400]));
    let is_tcp = |frame: &[u8]| frame.get(23) == Some(&6);
    b.expect("a segment arrives", is_tcp);
    capture.has("offload=tso4", 1);
    short.has("checksum=open", 1);
    let [file, cut] = [&capture, &short].map(|capture| capture.file.clone());
    capture.interrupt();
    short.interrupt();
    let fields = ["frame.len", "tcp.checksum.status", "frame.comment"];
    if let Some(lines) = tshark(&file, &fields) {
        // 1: good.
        assert_eq!(lines, ["1454\t1\tverdict=forwarded to=b offload=tso4 mss=500"]);
    }
    let fields = ["frame.len", "frame.cap_len", "frame.comment"];
    if let Some(lines) = tshark(&cut, &fields) {
        let told = "1454\t60\tverdict=forwarded to=b offload=tso4 mss=500 checksum=open";
        assert_eq!(lines, [told]);
    }
}

#[test]
fn filters_select_what_tcpdump_selects_of_the_same_traffic() {
    let mut daemon = Daemon::start();
    let (_, [mut a, mut b]) = pair(&mut daemon);
    let filters =
        ["udp port 53", "icmp or arp", "dst host 10.0.0.2 and not udp", "ether multicast"];
    let all = Captured::begin(&daemon, "all.pcapng", &["--network", "prod"]);
    let captures = filters.map(|filter| {
        let name = format!("{}.pcapng", filter.replace(' ', "-"));
        Captured::begin(&daemon, &name, &["--network", "prod", "--filter", filter])
    });
    a.lease();
    b.lease();
    let address = b.address().to_owned();
    assert!(b.answers(&mut a, &address));
    for port in [53, 54] {
        let mut datagram = Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", b"question");
        datagram.ports = (1000, port);
        a.send(&datagram.frame());
        b.expect("it arrives", |frame| frame.ends_with(b"question"));
    }
    // At both ends.
    all.has("question", 4);
    let whole = all.file.clone();
    all.interrupt();
    for (filter, capture) in filters.into_iter().zip(captures) {
        let mut tcpdump = Command::new("tcpdump");
        tcpdump.args(["-n", "-t", "-r", whole.to_str().unwrap(), filter]);
        let Ok(selected) = tcpdump.output() else {
            return crate::daemon::cannot_run("there is no tcpdump (Debian's tcpdump)");
        };
        let count = String::from_utf8(selected.stdout).unwrap().lines().count();
        assert!(count > 0, "{filter}");
        capture.has("verdict=", count);
        let said = capture.interrupt();
        assert!(said.starts_with(&format!("{count} packet")), "{filter}: {count}, {said}");
    }
}

#[test]
fn frames_are_told_a_line_each() {
    let mut daemon = Daemon::start();
    let (_, [mut a, _b]) = pair(&mut daemon);
    let words = ["capture", "a", "--drops", "-c", "1", "--for", "20"];
    let said = std::thread::scope(|scope| {
        let capture = scope.spawn(|| stdout(&mvirt(&daemon, &words)));
        // Until the capture has begun, its frames are missed.
        while !capture.is_finished() {
            a.send(&Udp4::new(a.mac, "10.0.0.2", "10.0.0.2", b"\x1b[31m").frame());
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
        capture.join().unwrap()
    });
    let line = said.strip_suffix('\n').unwrap();
    let (time, rest) = line.split_once(' ').unwrap();
    assert_eq!(time.len(), "14:15:31.123456".len(), "{line}");
    assert!(rest.starts_with("from a "), "{line}");
    assert!(rest.contains("IPv4 UDP 10.0.0.2:9 > 10.0.0.2:9 5 octets, length 47"), "{line}");
    assert!(rest.ends_with("verdict=dropped reason=spoofed_source_ipv4"), "{line}");
}
