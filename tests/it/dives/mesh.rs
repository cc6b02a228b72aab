//! Switches that find each other, and what they send to whom.

use super::rig::{Switch, free_udp_ports};
use crate::{
    daemon::{Daemon, PATIENCE, wait_until},
    lab::{create, segment},
    streams::{BROADCAST, Client, frame, free_ports, mac, meet},
};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Instant,
};

fn wait_for_peers(switches: &[Switch], count: usize) {
    for switch in switches {
        let mut console = switch.console();
        wait_until("all peers are known", || {
            console.ask("show peers").lines().count() == count + 1
        });
    }
}

// seed H.3.1, H.3.24, H.3.26
#[test]
fn four_switches_are_one_and_a_broadcast_is_heard_once_everywhere() {
    let [mesh] = free_udp_ports();
    let switches = [(); 4].map(|()| Switch::start(mesh, &[]));
    wait_for_peers(&switches, 3);
    let mut number = 0;
    let mut clients = switches.each_ref().map(|switch| {
        number += 1;
        Client::new(switch.listen(5), number)
    });
    let mut other = Client::new(switches[1].listen(6), 9);
    meet(&mut clients.each_mut());
    for round in 0..5 {
        clients[0].say(BROADCAST, &format!("round {round}"));
        for client in &mut clients[1..] {
            assert_eq!(client.hear(), format!("round {round}"));
        }
    }
    // Each heard it once, and VLAN 6 not at all: what comes next is this.
    clients[1].say(mac(1), "for the first");
    assert_eq!(clients[0].hear(), "for the first");
    clients[3].say(BROADCAST, "last");
    for client in &mut clients[..3] {
        assert_eq!(client.hear(), "last");
    }
    let mut sixth = Client::new(switches[2].listen(6), 8);
    meet(&mut [&mut other, &mut sixth]);
    sixth.say(BROADCAST, "to the sixth");
    assert_eq!(other.hear(), "to the sixth");
    // Where each MAC is: here, and behind which peer.
    let macs = switches[0].vlan(5).ask("show macs");
    let lines: Vec<_> = macs.lines().collect();
    assert_eq!(lines.len(), 4, "{macs}");
    assert!(lines[0].starts_with("02:00:00:00:00:01  vlan5/unix  "), "{macs}");
    assert!(lines[1].starts_with("02:00:00:00:00:02  127.0.0.1:"), "{macs}");
    assert!(lines[0].ends_with('s') && lines[3].ends_with('s'), "{macs}");
}

// seed H.3.12
#[test]
fn a_peer_that_dies_is_forgotten_within_six_seconds() {
    let [mesh] = free_udp_ports();
    let mut switches = [(); 2].map(|()| Switch::start(mesh, &[]));
    wait_for_peers(&switches, 1);
    switches[1].kill();
    let killed = Instant::now();
    wait_for_peers(&switches[..1], 0);
    // A second more for this machine to be busy.
    assert!(killed.elapsed().as_secs() < 7, "{:?}", killed.elapsed());
    for line in ["discovered peer 127.0.0.1:", "timing out peer 127.0.0.1:"] {
        wait_until("it is in the log", || switches[0].log().contains(line));
    }
}

// seed H.3.1
#[test]
fn a_port_of_the_daemon_is_in_the_mesh_before_and_after_a_hand_over() {
    let mut daemon = Daemon::start();
    daemon.network_with("lab", segment);
    let ([mesh, own], [listen]) = (free_udp_ports(), free_ports());
    for locator in [
        format!("dives://239.13.13.13:{mesh}/port={own}/vlan=5"),
        format!("stream-listen://127.0.0.1:{listen}"),
    ] {
        create(&mut daemon, "", &locator).unwrap();
    }
    let switch = Switch::start(mesh, &[]);
    wait_for_peers(std::slice::from_ref(&switch), 1);
    let mut here = Client::new(listen, 1);
    let mut there = Client::new(switch.listen(5), 2);
    meet(&mut [&mut here, &mut there]);
    assert!(daemon.hand_over());
    // Another process now, at the same address.
    meet(&mut [&mut here, &mut there]);
    there.say(mac(1), "to one");
    assert_eq!(here.hear(), "to one");
    assert!(switch.console().ask("show peers").contains(&format!("127.0.0.1        {own:>5} ")));
}

/// A peer by hand: announces itself in one form, and says what it hears, in hexadecimal digits.
/// Lines of digits at its input are sent to the peer that it has heard last.
const PEER: &str = r#"
import socket, struct, sys, threading, time
form, group, port = sys.argv[1], "239.13.13.13", int(sys.argv[2])
lo = socket.inet_aton("127.0.0.1")
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); one.bind(("127.0.0.1", 0))
own = one.getsockname()
text = ("%s:%d" % own).encode()
raw = struct.pack("=H", socket.AF_INET) + struct.pack("!H", own[1]) + lo + bytes(8)
all = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
all.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
all.bind((group, port))
all.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + lo)
all.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, lo)
peer = None
def say(*words): print(*words, flush=True)
def adverts():
    while True: all.sendto(raw if form == "binary" else text, (group, port)); time.sleep(1)
def discover():
    global peer
    while True:
        heard = all.recv(300)
        if heard in (text, raw): continue
        if len(heard) == 16 and heard[:2] == raw[:2]:
            peer = ("127.0.0.1", struct.unpack("!H", heard[2:4])[0]); say("binary", *peer)
        else:
            host, at = heard.decode().split(":")
            peer = (host, int(at)); say("text", heard.decode())
def frames():
    while True: say("frame", one.recv(65536).hex())
for task in (adverts, discover, frames): threading.Thread(target=task, daemon=True).start()
for line in sys.stdin: one.sendto(bytes.fromhex(line), peer)
"#;

struct Peer {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    fn start(form: &str, mesh: u16) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", PEER, form, &mesh.to_string()]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, input, output }
    }

    /// What follows a word on the next line that begins with one of these.
    fn hear(&mut self, words: &[&str]) -> (String, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline);
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0);
            let (word, rest) = line.trim_end().split_once(' ').unwrap();
            if words.contains(&word) {
                return (word.into(), rest.into());
            }
        }
    }

    fn send(&mut self, octets: &[u8]) {
        writeln!(self.input, "{}", hex(octets)).unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Sends frames to and fro between a peer and a client.
fn converse(peer: &mut Peer, client: &mut Client) {
    // Until both know each other and the client is in the VLAN: 5, in network order.
    let hello = [&[0, 0, 0, 5][..], &frame(BROADCAST, 0x77, "hello")].concat();
    client.say(BROADCAST, "who is there");
    loop {
        let (_, heard) = peer.hear(&["frame"]);
        if heard == hex(&[&[0, 0, 0, 5][..], &frame(BROADCAST, 1, "who is there")].concat()) {
            break;
        }
    }
    peer.send(&hello);
    assert_eq!(client.hear(), "hello");
    client.say(mac(0x77), "for you");
    let (_, heard) = peer.hear(&["frame"]);
    assert_eq!(heard, hex(&[&[0, 0, 0, 5][..], &frame(mac(0x77), 1, "for you")].concat()));
}

// seed H.3.21, H.3.22
#[test]
fn a_peer_of_the_protocols_text_is_a_peer() {
    let [mesh] = free_udp_ports();
    let switch = Switch::start(mesh, &["--advert", "text"]);
    let mut peer = Peer::start("text", mesh);
    let (form, advert) = peer.hear(&["text", "binary"]);
    let (host, port) = advert.split_once(':').unwrap();
    assert_eq!((form.as_str(), host), ("text", "127.0.0.1"));
    assert!(port.bytes().all(|octet| octet.is_ascii_digit()), "{advert}");
    wait_for_peers(&[switch], 1);
}

// seed H.3.21, H.3.23, H.3.25
#[test]
fn a_peer_as_the_program_is_hears_no_text() {
    let [mesh] = free_udp_ports();
    let switch = Switch::start(mesh, &[]);
    let mut peer = Peer::start("binary", mesh);
    let (form, _) = peer.hear(&["text", "binary"]);
    assert_eq!(form, "binary", "it was heard before anything was said");
    let switch = [switch];
    wait_for_peers(&switch, 1);
    let mut client = Client::new(switch[0].listen(5), 1);
    let mut second = Client::new(switch[0].listen(5), 2);
    meet(&mut [&mut client, &mut second]);
    converse(&mut peer, &mut client);
    // Behind the peer there is nothing for another VLAN, and nothing from a stranger.
    peer.send(&[&[0, 0, 0, 6][..], &frame(mac(1), 0x77, "of VLAN 6")].concat());
    peer.send(&[&[5, 0, 0, 0][..], &frame(mac(1), 0x77, "of another order")].concat());
    peer.send(&[0, 0, 0, 5, 1, 2, 3]);
    peer.send(&[&[0, 0, 0, 5][..], &frame(mac(1), 0x77, "last")].concat());
    assert_eq!(client.hear(), "last");
    // Each is counted once.
    let totals = switch[0].console().ask("show totals");
    for line in ["unknown_vlan 2", "too_short 1", "unknown_peer 0", "lost 0"] {
        assert!(totals.lines().any(|found| found == line), "{totals}");
    }
    for _ in 0..3 {
        assert_eq!(peer.hear(&["text", "binary"]).0, "binary");
    }
}
