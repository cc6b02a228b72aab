//! Connections to a port stay when the daemon hands over, and come back when it is killed.

use super::{create, get, lab};
use crate::{
    command::{mvirt, stdout},
    daemon::{Daemon, wait_until},
    events::wait_for_event,
    streams::{BROADCAST, Client, frame, free_ports, mac, meet},
};
use mvirt_net::proto::PortState;
use std::{
    io::{self, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
};

#[test]
fn clients_stay_members_over_a_hand_over_and_lose_nothing() {
    let mut daemon = Daemon::start();
    lab(&mut daemon);
    let [port] = free_ports();
    create(&mut daemon, "qemu", &format!("stream-listen://127.0.0.1:{port}"));
    let [mut a, mut b] = [1, 2].map(|number| Client::new(port, number));
    wait_until("both are members", || get(&mut daemon, "qemu").attachments.len() == 2);
    let before = get(&mut daemon, "qemu").attachments;
    meet(&mut [&mut a, &mut b]);
    a.say(BROADCAST, "hello");
    assert_eq!(b.hear(), "hello");
    for round in 0..3 {
        // Half of a frame comes before, and half after.
        let octets = frame(mac(2), 1, "across");
        let whole = [&(octets.len() as u32).to_be_bytes()[..], &octets].concat();
        let (first, rest) = whole.split_at(7);
        a.stream.write_all(first).unwrap();
        assert!(daemon.hand_over(), "{}", daemon.log());
        a.stream.write_all(rest).unwrap();
        assert_eq!(b.hear(), "across");
        b.say(mac(1), "back");
        assert_eq!(a.hear(), "back");
        let after = get(&mut daemon, "qemu");
        assert_eq!(after.state(), PortState::Listening, "{round}");
        let of = |all: &[mvirt_net::proto::Attachment]| {
            let mut all: Vec<_> = all.iter().map(|a| (a.remote.clone(), a.since.clone())).collect();
            all.sort();
            all
        };
        assert_eq!(of(&after.attachments), of(&before), "they have been there all the time");
    }
    // It takes others, and who leaves is gone.
    let mut c = Client::new(port, 3);
    wait_until("it is a member", || get(&mut daemon, "qemu").attachments.len() == 3);
    meet(&mut [&mut a, &mut b, &mut c]);
    c.say(BROADCAST, "me, too");
    assert_eq!(a.hear(), "me, too");
    assert_eq!(b.hear(), "me, too");
    drop(b);
    wait_until("it has left", || get(&mut daemon, "qemu").attachments.len() == 2);
}

#[test]
fn a_port_that_connects_finds_its_peer_again_after_a_crash() {
    let mut daemon = Daemon::start();
    lab(&mut daemon);
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = peer.local_addr().unwrap();
    create(&mut daemon, "out", &format!("stream://{address}"));
    let first = peer.accept().unwrap();
    wait_until("it is up", || get(&mut daemon, "out").state() == PortState::Up);
    daemon.crash_and_restart();
    let second = peer.accept().unwrap();
    wait_until("it is up again", || get(&mut daemon, "out").state() == PortState::Up);
    drop((first, second, peer));
    wait_until("it is down", || get(&mut daemon, "out").state() == PortState::Down);
    wait_until("it says why", || get(&mut daemon, "out").error.contains("refused"));
}

#[test]
fn a_connection_that_a_loop_leads_through_is_shown_as_blocked() {
    let mut daemon = Daemon::start();
    lab(&mut daemon);
    let [port] = free_ports();
    create(&mut daemon, "qemu", &format!("stream-listen://127.0.0.1:{port}"));
    // A cable with both of its ends in the same network.
    let ends = [(); 2].map(|()| TcpStream::connect(("127.0.0.1", port)).unwrap());
    thread::scope(|scope| {
        for (from, to) in [(0, 1), (1, 0)] {
            let (mut from, mut to) = (&ends[from], &ends[to]);
            scope.spawn(move || io::copy(&mut from, &mut to).ok());
        }
        wait_until("one end is blocked", || {
            let attachments = get(&mut daemon, "qemu").attachments;
            attachments.iter().any(|client| client.blocked.starts_with("loop_detected"))
        });
        let shown = stdout(&mvirt(&daemon, &["port", "get", "qemu"]));
        assert!(shown.contains(", blocked: loop_detected"), "{shown}");
        let told = wait_for_event(&mut daemon, "loop_detected", |_| true);
        assert!(told.text.starts_with("port qemu: 127.0.0.1:"), "{told:?}");
        ends.iter().for_each(|end| end.shutdown(Shutdown::Both).unwrap());
    });
}
