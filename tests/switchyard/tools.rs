//! `mvirt yard …` as people run it: in terminals of their own, without arguments.

use crate::support::{Fabric, Member, frame};
use std::{
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, TcpListener},
    process::{Child, ChildStdout, Command, Output, Stdio},
};

pub(crate) fn yard(fabric: &Fabric, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
    command.arg("yard").args(line.split(' ')).env("SWITCHYARD_SERVER", fabric.address.to_string());
    command
}

pub(crate) fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |octets| String::from_utf8(octets).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A service, which is there once it has said so; ended with its value.
pub(crate) struct Service {
    process: Child,
    lines: BufReader<ChildStdout>,
    pub(crate) said: String,
}

impl Service {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        let mut said = String::new();
        lines.read_line(&mut said).unwrap();
        Self { process, lines, said }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().unwrap();
    }
}

// seed H.4.2, H.4.4, H.4.5, H.4.6, H.4.32
#[test]
fn three_terminals_without_arguments() {
    let fabric = Fabric::start(&[]);
    let echo = Service::start(&mut yard(&fabric, "echo"));
    let expected = "[svc_echo] endpoint_id=1 mac=02:53:59:00:00:01 ip=10.0.0.2 udp_port=7007\n";
    assert_eq!(echo.said, expected);
    // Twice: the second finds its name free again.
    for (id, mac) in [(2, "02:53:59:00:00:02"), (3, "02:53:59:00:00:03")] {
        let (code, out, err) = run(yard(&fabric, "ping --wait 5s").env_remove("PING_MSG"));
        let expected = format!(
            "[cli] my endpoint_id={id} mac={mac} ip=10.0.0.1\n\
             [cli] echo endpoint_id=1 (name lookup only) ip=10.0.0.2:7007\n\
             [cli] ARP resolved 10.0.0.2 -> 02:53:59:00:00:01\n\
             [cli] sent 10 bytes: b'marco polo'\n\
             [cli] got reply from 10.0.0.2:7007: b'marco polo'\n"
        );
        assert_eq!((code, out), (0, expected), "{err}");
        // Its end is noticed before the fabric takes another client's request, or its name is not
        // free.
        while fabric.client().knows("cli1") {}
    }
}

// seed H.4.33
#[test]
fn the_message_is_that_of_the_environment() {
    let fabric = Fabric::start(&[]);
    let _echo = Service::start(&mut yard(&fabric, "echo"));
    let long = "x".repeat(1400);
    for (n, (message, len, shown)) in
        [("hello", 5, "b'hello'"), ("é", 2, r"b'\xc3\xa9'"), ("", 0, "b''"), (&long, 1400, "xx")]
            .into_iter()
            .enumerate()
    {
        let line = format!("ping --name cli{n} --count 2");
        let (code, out, err) = run(yard(&fabric, &line).env("PING_MSG", message));
        assert_eq!(code, 0, "{err}");
        assert_eq!(out.matches(&format!("[cli] sent {len} bytes: ")).count(), 2, "{out}");
        assert!(out.lines().last().unwrap().contains(shown), "{out}");
    }
}

// seed H.4.31
#[test]
fn echo_is_silent_about_what_is_not_for_it() {
    let fabric = Fabric::start(&[]);
    let _echo = Service::start(&mut yard(&fabric, "echo"));
    let mut client = fabric.member("client");
    let mut member = Member { client: &mut client, address: Ipv4Addr::new(10, 0, 0, 1) };
    let echo: Ipv4Addr = "10.0.0.2".parse().unwrap();
    let mac = "02:53:59:00:00:01";
    let everybody = "ff:ff:ff:ff:ff:ff";
    member.send_arp("10.0.0.3".parse().unwrap());
    member.send_udp(mac, echo, 7008, b"another port");
    member.send_udp(mac, "10.0.0.3".parse().unwrap(), 7007, b"another address");
    member.send_udp("02:00:00:00:00:09", echo, 7007, b"another MAC");
    member.client.send_frame(&frame(mac, "02:00:00:00:00:08", b"\x45 no IPv4"));
    let mut tcp = member.udp(mac, echo, 7007, b"TCP");
    tcp[23] = 6;
    member.client.send_frame(&tcp);
    let cut = member.udp(mac, echo, 7007, b"cut");
    member.client.send_frame(&cut[..cut.len() - 1]);
    // Answered, in order: so the others were not.
    member.send_arp(echo);
    member.send_udp(everybody, echo, 7007, b"to all");
    let arp = member.client.next_frame();
    assert_eq!((&arp[20..22], &arp[28..32]), (&[0, 2][..], &echo.octets()[..]));
    let answer = member.client.next_frame();
    assert_eq!(answer, member.answer(mac, echo, 7007, b"to all"));
}

// seed H.4.36
#[test]
fn who_has_an_address_may_be_answered_from_a_table() {
    let fabric = Fabric::start(&[]);
    let scratch = tempfile::tempdir().unwrap();
    let table = scratch.path().join("hosts");
    std::fs::write(&table, "10.0.0.7 quiet\n10.0.0.8 52:54:00:12:34:56\n10.0.0.9 away\n").unwrap();
    let line = format!("arp --table {}", table.display());
    let arp = Service::start(&mut yard(&fabric, &line));
    assert!(arp.said.ends_with(" addresses=3\n"), "{}", arp.said);
    let quiet = fabric.member("quiet");
    let mut client = fabric.member("client");
    let mut member = Member { client: &mut client, address: Ipv4Addr::new(10, 0, 0, 1) };
    member.send_arp("10.0.0.9".parse().unwrap());
    member.send_arp("10.0.0.6".parse().unwrap());
    for (address, mac) in [("10.0.0.7", &quiet.mac[..]), ("10.0.0.8", "52:54:00:12:34:56")] {
        member.send_arp(address.parse().unwrap());
        let answer = member.client.next_frame();
        let mac: mvirt_net::addr::MacAddr = mac.parse().unwrap();
        let address: Ipv4Addr = address.parse().unwrap();
        assert_eq!((&answer[22..28], &answer[28..32]), (&mac.0[..], &address.octets()[..]));
    }
    std::fs::write(&table, "10.0.0.7\n").unwrap();
    let (code, _, err) = run(&mut yard(&fabric, &line));
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("line 1: expected an address, and a MAC"), "{err}");
}

// seed H.4.37
#[test]
fn time_is_told_by_ntp() {
    let fabric = Fabric::start(&[]);
    let ntp = Service::start(&mut yard(&fabric, "ntp"));
    let expected = "[svc_ntp] endpoint_id=1 mac=02:53:59:00:00:01 ip=10.0.0.3 udp_port=123\n";
    assert_eq!(ntp.said, expected);
    let mut client = fabric.member("cli_ntp");
    let mut member = Member { client: &mut client, address: Ipv4Addr::new(10, 0, 0, 10) };
    let mut request = [0; 48];
    (request[0], request[47]) = (0x23, 7);
    member.send_udp("02:53:59:00:00:01", "10.0.0.3".parse().unwrap(), 123, &request);
    let answer = member.client.next_frame();
    let packet = &answer[42..];
    assert_eq!(packet[..16], *b"\x24\x01\x04\xec\0\0\0\0\0\0\0\0LOCL");
    assert_eq!(packet[24..32], request[40..]);
    let seconds = u32::from_be_bytes(packet[40..44].try_into().unwrap());
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() + 2_208_988_800;
    assert!(now.abs_diff(seconds.into()) < 5, "{seconds}");
}

// seed H.4.35
#[test]
fn a_sniffer_prints_what_others_say() {
    let fabric = Fabric::start(&[]);
    let echo = Service::start(&mut yard(&fabric, "echo"));
    let mut sniff = yard(&fabric, "sniff --count 4 --name sniffer");
    let mut process = sniff.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(process.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "[sniffer] hears every frame of the fabric\n");
    assert_eq!(run(&mut yard(&fabric, "ping")).0, 0);
    let mut lines = Service {
        lines: BufReader::new(process.stdout.take().unwrap()),
        process,
        said: String::new(),
    };
    let (a, b) = ("02:53:59:00:00:03", "02:53:59:00:00:01");
    for expected in [
        format!("{a} > ff:ff:ff:ff:ff:ff, ARP who-has 10.0.0.2 tell 10.0.0.1, length 42\n"),
        format!("{b} > {a}, ARP 10.0.0.2 is-at {b}, length 42\n"),
        format!("{a} > {b}, IPv4 UDP 10.0.0.1:12345 > 10.0.0.2:7007 10 octets, length 52\n"),
        format!("{b} > {a}, IPv4 UDP 10.0.0.2:7007 > 10.0.0.1:12345 10 octets, length 52\n"),
    ] {
        let line = lines.line();
        assert_eq!(line.split_once(' ').unwrap().1, expected);
    }
    assert!(lines.process.wait().unwrap().success(), "it ends after so many");
    drop(echo);
}

// seed H.4.47, H.4.48
#[test]
fn who_cannot_go_on_says_why() {
    let fabric = Fabric::start(&[]);
    let (code, _, err) = run(&mut yard(&fabric, "ping"));
    assert_eq!((code, &err[..]), (1, "mvirt: no such endpoint: svc_echo (is it running?)\n"));
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, _, err) = run(&mut yard(&fabric, &format!("ping --server {free}")));
    assert_eq!(code, 3, "{err}");
    let expected = format!("cannot reach the fabric at {free}: ");
    assert!(err.contains(&expected) && err.contains("is mvirt-switchyardd running?"), "{err}");
    let mut quiet = fabric.member("svc_echo");
    let (code, _, err) = run(&mut yard(&fabric, "ping"));
    assert_eq!((code, &err[..]), (1, "mvirt: no ARP reply from 10.0.0.2 within 3s\n"));
    assert!(quiet.frames().len() == 1, "it was asked");
    let (code, _, err) = run(&mut yard(&fabric, "ping --count 0"));
    assert_eq!(code, 2, "{err}");
    // A name that comes later is waited for.
    drop(quiet);
    while fabric.client().knows("svc_echo") {}
    let waiting = yard(&fabric, "ping --wait 10s").stdout(Stdio::piped()).spawn().unwrap();
    while !fabric.client().knows("cli1") {}
    let echo = Service::start(&mut yard(&fabric, "echo"));
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    // The fabric ends: so do its services.
    drop(fabric);
    let mut echo = echo;
    assert_eq!(echo.process.wait().unwrap().code(), Some(1));
}
