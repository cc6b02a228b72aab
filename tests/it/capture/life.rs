//! Who may have a capture, how it ends, and that nobody waits for it.

use super::{Captured, refused, tshark};
use crate::{
    daemon::{Client, Daemon, wait_until},
    frames::Udp4,
    guest::pair,
};
use mvirt_net::proto::{CaptureChunk, CapturePoint, CaptureRequest};
use pcap_file::pcapng::{Block, PcapNgReader};
use std::{
    fs::File,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};
use tokio::time::timeout;
use tonic::{Code, Streaming};

fn of(target: &str) -> CaptureRequest {
    CaptureRequest { targets: vec![target.into()], ..Default::default() }
}

fn begin(
    daemon: &mut Daemon,
    request: CaptureRequest,
) -> Result<Streaming<CaptureChunk>, tonic::Status> {
    daemon.call(async |client: &mut Client| client.capture(request).await)
}

/// How many interfaces, frames and counts of interfaces a file has.
fn blocks(file: &Path) -> (usize, usize, usize) {
    let mut reader = PcapNgReader::new(File::open(file).unwrap()).unwrap();
    let mut count = (0, 0, 0);
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(_) => count.0 += 1,
            Block::EnhancedPacket(_) => count.1 += 1,
            Block::InterfaceStatistics(_) => count.2 += 1,
            _ => {}
        }
    }
    count
}

#[test]
fn what_cannot_be_captured_is_refused() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.nic("prod", "a");
    for (request, code, said) in [
        (CaptureRequest::default(), Code::InvalidArgument, "targets: \"\": required"),
        (of("nobody"), Code::NotFound, "vNIC or port \"nobody\" does not exist"),
        (
            CaptureRequest { network_id: "nowhere".into(), ..Default::default() },
            Code::NotFound,
            "network \"nowhere\" does not exist",
        ),
        (
            CaptureRequest { network_id: "prod".into(), ..of("a") },
            Code::InvalidArgument,
            "network_id: \"prod\": expected either targets or a network",
        ),
        (
            CaptureRequest { filter: "udp prot 5".into(), ..of("a") },
            Code::InvalidArgument,
            "filter: \"udp prot 5\": column 5: expected and, or, or the end",
        ),
        (
            CaptureRequest { filter: "(".repeat(5000), ..of("a") },
            Code::InvalidArgument,
            "column 4097: expected a shorter filter",
        ),
        (
            CaptureRequest { points: vec![9], ..of("a") },
            Code::InvalidArgument,
            "points: \"9\": expected FROM_GUEST",
        ),
        (
            CaptureRequest { targets: vec!["a".into(); 1025], ..Default::default() },
            Code::InvalidArgument,
            "targets: \"1025\": expected at most 1024",
        ),
    ] {
        let refused = begin(&mut daemon, request).unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(said), "{refused}");
    }
    // A file that was there stays as it was.
    let file = daemon.path("kept");
    std::fs::write(&file, "mine").unwrap();
    let words = ["a", "--filter", "host vm1", "-w", file.to_str().unwrap()];
    let said = refused(&daemon, &words, 1);
    assert!(said.contains("column 6: expected an address"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    let nowhere = daemon.path("no/file");
    let said = refused(&daemon, &["a", "-w", nowhere.to_str().unwrap()], 1);
    assert!(said.contains("no/file: No such file"), "{said}");
    assert!(refused(&daemon, &[], 2).contains("NIC"));
    // A terminal is no place for octets.
    let line = format!("{} capture a -w -", env!("CARGO_BIN_EXE_mvirt"));
    let mut terminal = Command::new("script");
    terminal.args(["-q", "-e", "-c", &line, "/dev/null"]).stdin(Stdio::null());
    let output = terminal.env("MVIRT_NET_SERVER", daemon.address()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.code() == Some(2) && said.contains("a terminal shows no pcapng"),
        "{said}"
    );
    assert!(refused(&daemon, &["a", "--network", "prod"], 2).contains("cannot be used with"));
}

#[test]
fn there_are_eight_captures_and_a_client_that_goes_leaves_room() {
    let mut daemon = Daemon::start();
    let (_, [mut a, _b]) = pair(&mut daemon);
    let mut captures = (0..7).map(|_| begin(&mut daemon, of("a")).unwrap()).collect::<Vec<_>>();
    let killed = Captured::begin(&daemon, "killed.pcapng", &["a"]);
    let ninth = begin(&mut daemon, of("b")).unwrap_err();
    assert_eq!(ninth.code(), Code::ResourceExhausted, "{ninth}");
    assert!(ninth.message().contains("there are 8 captures"), "{ninth}");
    // All of them see a frame.
    a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", b"seen by all").frame());
    let hears = async |stream: &mut Streaming<CaptureChunk>| {
        loop {
            let chunk = stream.message().await.unwrap().unwrap();
            if chunk.pcapng.windows(11).any(|octets| octets == b"seen by all") {
                return;
            }
        }
    };
    daemon.block_on(async |_| {
        for stream in &mut captures {
            timeout(Duration::from_secs(20), hears(stream)).await.unwrap();
        }
    });
    // One is dropped in the middle, and one killed.
    drop(captures.pop());
    let (mut program, file) = (killed.program, killed.file);
    program.kill().unwrap();
    program.wait().unwrap();
    let mut again = Vec::new();
    wait_until("there is room for two", || {
        again.extend(begin(&mut daemon, of("b")));
        again.len() == 2
    });
    assert!(begin(&mut daemon, of("b")).is_err());
    tshark(&file, &["frame.len"]);
    // Its log says who captured what.
    let log = daemon.log();
    assert!(log.contains("capture begins") && log.contains("client=\"uid "), "{log}");
}

#[test]
fn a_capture_ends_when_it_was_told_to_and_counts() {
    let mut daemon = Daemon::start();
    let (_, [mut a, mut b]) = pair(&mut daemon);
    let counted = Captured::begin(&daemon, "counted.pcapng", &["--network", "prod", "-c", "3"]);
    let timed = Captured::begin(&daemon, "timed.pcapng", &["a", "--for", "1"]);
    let stopped = Captured::begin(
        &daemon,
        "stopped.pcapng",
        &["a", "b", "--points", "to", "--filter", "udp"],
    );
    for n in 0..4 {
        a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", &[n; 10]).frame());
        b.expect("it arrives", |frame| frame.ends_with(&[n; 10]));
    }
    let files = [&counted, &timed, &stopped].map(|capture| capture.file.clone());
    assert_eq!(counted.end(), "3 packets captured, 0 lost\n");
    timed.end();
    wait_until("it has all", || blocks(&files[2]).1 == 4);
    assert_eq!(stopped.interrupt(), "4 packets captured, 0 lost\n");
    assert_eq!(blocks(&files[0]), (2, 3, 2));
    assert_eq!(blocks(&files[1]).2, 1);
    assert_eq!(blocks(&files[2]), (2, 4, 2));
    let octets = CaptureRequest { max_octets: 1, ..of("a") };
    let mut stream = begin(&mut daemon, octets).unwrap();
    daemon.block_on(async |_| {
        let all = async { while stream.message().await.unwrap().is_some() {} };
        timeout(Duration::from_secs(20), all).await.unwrap();
    });
}

#[test]
fn who_does_not_read_loses_frames_and_nobody_waits() {
    let mut daemon = Daemon::start();
    let (_, [mut a, mut b]) = pair(&mut daemon);
    let points = vec![CapturePoint::FromGuest.into()];
    let mut stream = begin(&mut daemon, CaptureRequest { points, ..of("a") }).unwrap();
    // Far more than all buffers on the way hold.
    let long = [7; 1400];
    for _ in 0..20_000 {
        a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", &long).frame());
        b.drain();
    }
    let address = b.address().to_owned();
    assert!(b.answers(&mut a, &address));
    let sent = daemon.stats("a").ingress_frames;
    assert!(sent >= 20_000, "{sent}");
    let (mut lost, mut octets) = (0, 0);
    daemon.block_on(async |_| {
        while lost == 0 {
            let chunk = timeout(Duration::from_secs(20), stream.message()).await;
            let chunk = chunk.unwrap().unwrap().unwrap();
            (lost, octets) = (chunk.lost, octets + chunk.pcapng.len());
        }
    });
    assert!(lost < sent && octets < 20_000 * 1400, "{lost} of {sent}, {octets}");
}

#[test]
fn a_hand_over_ends_captures_and_frames_go_on() {
    let mut daemon = Daemon::start();
    let (_, [mut a, mut b]) = pair(&mut daemon);
    let capture = Captured::begin(&daemon, "cut.pcapng", &["a"]);
    let address = b.address().to_owned();
    assert!(b.answers(&mut a, &address));
    assert!(daemon.hand_over(), "{}", daemon.log());
    let file = capture.file.clone();
    let output = capture.program.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("captured, 0 lost"), "{said}");
    assert!(blocks(&file).1 > 0);
    assert!(b.answers(&mut a, &address));
    let again = Captured::begin(&daemon, "again.pcapng", &["a"]);
    assert!(b.answers(&mut a, &address));
    again.interrupt();
}
