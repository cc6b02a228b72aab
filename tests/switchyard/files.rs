//! Captures: written by the tools, read by tshark, sent again.

use crate::{
    support::{Fabric, frame},
    tools::{Service, run, yard},
};
use mvirt_net::switchyard::protocol::PROMISC;
use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Lines of what tshark says about a file; none without tshark.
fn tshark(file: &Path, fields: &[&str]) -> Option<Vec<String>> {
    let mut command = Command::new("tshark");
    command.args(["-r", file.to_str().unwrap(), "-T", "fields"]);
    fields.iter().for_each(|field| {
        command.args(["-e", field]);
    });
    let Ok(output) = command.output() else {
        if let Some(list) = std::env::var_os("MVIRT_NOT_RUN") {
            let mut list = std::fs::File::options().create(true).append(true).open(list).unwrap();
            writeln!(list, "switchyard files: tshark is not installed").unwrap();
        }
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

// seed H.4.38, H.4.43
#[test]
fn tshark_reads_the_ring() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("ring.pcapng");
    let line = format!("capture -w {}", file.display());
    let fabric = Fabric::start(&[]);
    let (code, _, err) = run(&mut yard(&fabric, &line));
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("start the fabric with --capture-ring") && !file.exists(), "{err}");
    let fabric = Fabric::start(&["--capture-ring", "64"]);
    let _echo = Service::start(&mut yard(&fabric, "echo"));
    assert_eq!(run(&mut yard(&fabric, "impair svc_echo --from loss=100%")).0, 0);
    assert_eq!(run(&mut yard(&fabric, "ping")).0, 1);
    let (code, _, err) = run(&mut yard(&fabric, &line));
    assert_eq!((code, &err[..]), (0, &*format!("wrote 2 frames to {}\n", file.display())));
    let fields = ["frame.interface_name", "arp.opcode", "frame.comment"];
    if let Some(lines) = tshark(&file, &fields) {
        assert_eq!(lines[0], "cli1\t1\tverdict=forwarded");
        assert_eq!(lines[1], "svc_echo\t2\tverdict=dropped reason=impaired_loss");
    }
}

// seed H.4.39
#[test]
fn what_was_captured_is_sent_again_as_it_was() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("capture.pcap");
    // Classic pcap, as other tools write it: microseconds, Ethernet.
    let mut octets = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        octets.extend(word.to_le_bytes());
    }
    let gaps = [0, 40, 5, 60, 0].map(Duration::from_millis);
    let mut time = Duration::from_secs(1_000_000);
    let mut frames = Vec::new();
    for (n, gap) in gaps.into_iter().enumerate() {
        time += gap;
        let sent = frame("ff:ff:ff:ff:ff:ff", "02:00:00:00:00:01", &[n as u8; 40]);
        for word in [time.as_secs() as u32, time.subsec_micros(), 54, 54] {
            octets.extend(word.to_le_bytes());
        }
        octets.extend(&sent);
        frames.push(sent);
    }
    std::fs::write(&file, octets).unwrap();
    let fabric = Fabric::start(&["--capture-ring", "1"]);
    let mut hearer = fabric.member("hearer");
    let start = Instant::now();
    let (code, out, err) = run(&mut yard(&fabric, &format!("replay {}", file.display())));
    assert_eq!(code, 0, "{err}");
    assert!(
        start.elapsed() >= Duration::from_millis(105) && out.contains("sent 5 frames"),
        "{out}"
    );
    assert_eq!(hearer.frames(), frames);
    let ring = scratch.path().join("ring.pcapng");
    assert_eq!(run(&mut yard(&fabric, &format!("capture -w {}", ring.display()))).0, 0);
    if let Some(times) = tshark(&ring, &["frame.time_relative"]) {
        let mut due = 0.0;
        let late = times.iter().zip(gaps).map(|(time, gap)| {
            due += gap.as_secs_f64();
            time.parse::<f64>().unwrap() - due
        });
        let late = late.collect::<Vec<_>>();
        let (min, max) = (late.iter().cloned().fold(0.0, f64::min), late.iter().cloned());
        // A machine that is busy is late, also with the first; gaps are as they were otherwise.
        assert!(max.fold(0.0, f64::max) - min < 0.04, "{times:?}");
    }
    // What was written is sent again, too, as fast as it goes.
    let line = format!("replay {} --speed max --name again", ring.display());
    let (code, _, err) = run(&mut yard(&fabric, &line));
    assert_eq!(code, 0, "{err}");
    assert_eq!(hearer.frames(), frames);
    let (code, _, err) = run(&mut yard(&fabric, "replay /nonexistent.pcap"));
    assert!(code == 1 && err.contains("/nonexistent.pcap: "), "{err}");
}

// seed H.4.35, H.4.43
#[test]
fn a_sniffer_writes_what_its_expression_means() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("sniffed.pcapng");
    let fabric = Fabric::start(&[]);
    let mut sniff = yard(&fabric, "sniff --count 2 --name sniffer --filter");
    sniff.arg("udp and host 10.0.0.2").arg("-w").arg(&file);
    let mut process = sniff.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(process.stderr.take().unwrap()).read_line(&mut said).unwrap();
    let _echo = Service::start(&mut yard(&fabric, "echo"));
    assert_eq!(run(&mut yard(&fabric, "ping")).0, 0);
    assert!(process.wait().unwrap().success());
    if let Some(lines) = tshark(&file, &["udp.srcport", "udp.checksum.status", "ip.checksum"]) {
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("12345\t") && lines[1].starts_with("7007\t"), "{lines:?}");
    }
    let (code, _, err) = run(&mut yard(&fabric, "sniff --filter upd"));
    assert!(code == 2 && err.contains("column 1: expected a primitive"), "{err}");
}

#[test]
fn rules_and_counters_are_within_reach() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("rules.toml");
    std::fs::write(&file, "[[rule]]\nmatch = \"arp\"\naction = \"drop\"\n").unwrap();
    let fabric = Fabric::start(&[]);
    let mut a = fabric.member("a");
    a.subscribe(a.id, PROMISC);
    let (code, _, err) = run(&mut yard(&fabric, &format!("filter {}", file.display())));
    assert_eq!((code, &err[..]), (0, "1 rule in force\n"));
    a.send_frame(&[&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 8, 6], &[0; 28]].concat());
    assert_eq!(run(&mut yard(&fabric, "impair a --from loss=1%,seed=3 --to delay=1ms")).0, 0);
    let (code, out, err) = run(&mut yard(&fabric, "stats"));
    assert_eq!(code, 0, "{err}");
    let row = out.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>();
    let lines = ["loss=0.01,seed=3", "dropped=0", "delay=1ms", "dropped=0"];
    assert_eq!(row, [&["a", "1", "02:53:59:00:00:01", "1", "0", "0"], &lines[..]].concat());
    assert!(out.contains("arp") && out.contains("drop"), "{out}");
    let (_, out, _) = run(&mut yard(&fabric, "stats -o json"));
    let stats: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&stats["filtered"], &stats["endpoints"][0]["sent"]), (&1.into(), &1.into()));
    assert_eq!(run(&mut yard(&fabric, "impair a --clear")).0, 0);
    assert_eq!(run(&mut yard(&fabric, "filter --clear")).0, 0);
    for (line, code) in [("impair a", 2), ("impair b --clear", 1), ("filter /none", 2)] {
        assert_eq!(run(&mut yard(&fabric, line)).0, code, "{line}");
    }
    std::fs::write(&file, "[[rule]]\nmatch = \"arpp\"\naction = \"drop\"\n").unwrap();
    let (code, _, err) = run(&mut yard(&fabric, &format!("filter {}", file.display())));
    assert!(code == 2 && err.contains("rule 1: match: column 1"), "{err}");
}
