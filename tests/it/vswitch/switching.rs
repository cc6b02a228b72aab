//! What becomes of frames: learned, sent to one, flooded, kept apart.

use super::rig::{Place, get, list};
use crate::{
    daemon::wait_until,
    streams::{BROADCAST, Client, frame, free_ports, mac, meet},
};
use std::{collections::HashMap, io::Write as _};

// seed H.2.3, H.2.4, H.2.5, H.2.6
#[test]
fn a_vlan_learns_floods_and_sends_to_one() {
    let place = Place::new();
    let [port] = free_ports();
    let _switch = place.start(&["-ports", &port.to_string()]);
    let [mut a, mut b, mut c] = [1, 2, 3].map(|number| Client::new(port, number));
    meet(&mut [&mut a, &mut b, &mut c]);
    // The sender does not hear its own, the others do once.
    a.say(BROADCAST, "to all");
    assert_eq!([b.hear(), c.hear()], ["to all", "to all"]);
    b.say(mac(1), "to a alone");
    b.say(BROADCAST, "to all, too");
    assert_eq!([a.hear(), a.hear()], ["to a alone", "to all, too"]);
    assert_eq!(c.hear(), "to all, too");
    // To nobody who is known: to all others.
    c.say(mac(99), "to nobody");
    assert_eq!([a.hear(), b.hear()], ["to nobody", "to nobody"]);
    a.say(mac(3), "last");
    assert_eq!(c.hear(), "last");
}

// seed H.2.2, H.2.25
#[test]
fn vlans_with_equal_macs_are_kept_apart() {
    let place = Place::new();
    let ports = free_ports::<2>();
    let _switch = place.start(&["-ports", &list(&ports)]);
    let [mut red, mut blue] = ports.map(|port| [1, 2].map(|number| Client::new(port, number)));
    for [a, b] in [&mut red, &mut blue] {
        meet(&mut [a, b]);
    }
    for round in 0..10 {
        for (vlan, name) in [(&mut red, "red"), (&mut blue, "blue")] {
            let [a, b] = vlan;
            a.say(BROADCAST, &format!("{name} {round}"));
            b.say(mac(1), &format!("to {name} {round}"));
        }
    }
    for (vlan, name) in [(&mut red, "red"), (&mut blue, "blue")] {
        let [a, b] = vlan;
        for round in 0..10 {
            assert_eq!(b.hear(), format!("{name} {round}"));
            assert_eq!(a.hear(), format!("to {name} {round}"));
        }
    }
}

// seed H.2.7
#[test]
fn who_leaves_is_forgotten_at_once() {
    let place = Place::new();
    let [port] = free_ports();
    let _switch = place.start(&["-ports", &port.to_string()]);
    let [mut a, mut b, c] = [1, 2, 3].map(|number| Client::new(port, number));
    let mut c = c;
    meet(&mut [&mut a, &mut b, &mut c]);
    // Another one with its MAC: what is for that MAC is for the other one now.
    drop(c);
    let mut again = Client::new(port, 3);
    meet(&mut [&mut a, &mut b, &mut again]);
    a.say(mac(3), "to the new one");
    a.say(BROADCAST, "to all");
    assert_eq!([again.hear(), again.hear()], ["to the new one", "to all"]);
    assert_eq!(b.hear(), "to all", "others lose nothing, and get nothing that is not theirs");
}

/// Takes what clients send to it until somebody says stop. What is lost where it does not keep up
/// is no matter; what comes is in order, and comes once.
fn listen_until_stop(listener: &mut Client) {
    let mut last = HashMap::new();
    loop {
        let text = listener.hear();
        match text.split_once(' ') {
            Some((client, round)) => {
                let round: usize = round.parse().unwrap();
                let before = last.insert(client.to_owned(), round);
                assert!(before.is_none_or(|before| before < round), "{client}: {round}");
            }
            None => return assert_eq!(text, "stop"),
        }
    }
}

/// The statistics of the first VLAN.
fn stats_of(port: u16) -> serde_json::Value {
    let page = get(port, "/stats");
    let body = page.split_once("\r\n\r\n").unwrap().1;
    serde_json::from_str::<serde_json::Value>(body).unwrap()["vlans"][0].take()
}

// seed H.2.9
#[test]
fn many_clients_come_send_and_leave_at_once() {
    const CLIENTS: u8 = 64;
    const FRAMES: u64 = 50;
    let place = Place::new();
    let [port, stats] = free_ports();
    let _switch = place.start(&["-ports", &port.to_string(), "-stats-port", &stats.to_string()]);
    let mut listener = Client::new(port, 200);
    let mut first = Client::new(port, 201);
    meet(&mut [&mut listener, &mut first]);
    std::thread::scope(|scope| {
        let listening = scope.spawn(|| listen_until_stop(&mut listener));
        let clients = [(); CLIENTS as usize];
        let mut number = 0;
        let clients = clients.map(|()| {
            number += 1;
            let number = number;
            scope.spawn(move || {
                let mut client = Client::new(port, number);
                for round in 0..FRAMES {
                    // Each by itself: a broadcast may overtake (IEEE 802.1Q-2018 6.5.3).
                    if round % 10 == 0 {
                        client.say(BROADCAST, &format!("{number}-to-all {round}"));
                    } else {
                        client.say(mac(200), &format!("{number} {round}"));
                    }
                }
                client
            })
        });
        let clients = clients.map(|client| client.join().unwrap());
        // Each frame is sent on, or counted as dropped.
        wait_until("all is counted", || {
            let frames = &stats_of(stats)["frames"];
            let count = |name: &str| frames[name].as_u64().unwrap();
            count("received") >= u64::from(CLIENTS) * FRAMES
                && count("received") == count("forwarded") + count("dropped")
        });
        wait_until("the listener has heard the last", || {
            first.say(mac(200), "stop");
            listening.is_finished()
        });
        drop(clients);
    });
    // What they have sent stays counted.
    wait_until("they are gone", || {
        let vlan = stats_of(stats);
        assert!(vlan["frames"]["received"].as_u64() >= Some(u64::from(CLIENTS) * FRAMES));
        vlan["clients"].as_array().unwrap().len() == 2
    });
    meet(&mut [&mut listener, &mut first]);
}

// seed H.2.32
#[test]
fn who_breaks_the_protocol_harms_nobody_else() {
    let place = Place::new();
    let [port] = free_ports();
    let _switch = place.start(&["-ports", &port.to_string()]);
    let [mut a, mut b] = [1, 2].map(|number| Client::new(port, number));
    meet(&mut [&mut a, &mut b]);
    // A length that no frame has; half a frame at the end; nothing at all; frames of no octets.
    let mut bad = Client::new(port, 3);
    bad.stream.write_all(&u32::MAX.to_be_bytes()).unwrap();
    bad.wait_for_the_end();
    let mut half = Client::new(port, 4);
    half.stream.write_all(&[0, 0, 0, 60, 1, 2, 3]).unwrap();
    drop(half);
    let _silent = Client::new(port, 5);
    let mut empty = Client::new(port, 6);
    for _ in 0..10_000 {
        empty.stream.write_all(&[0; 4]).unwrap();
    }
    empty.say(mac(1), "after them");
    let heard = a.hear();
    assert_eq!(heard, "after them");
    // In pieces of one octet.
    let slow = frame(mac(1), 6, "slow");
    for octet in [&[0, 0, 0, slow.len() as u8][..], &slow].concat() {
        empty.stream.write_all(&[octet]).unwrap();
    }
    assert_eq!(a.hear(), "slow");
    b.say(mac(1), "undisturbed");
    assert_eq!(a.hear(), "undisturbed");
}
