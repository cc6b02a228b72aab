//! Clients that mean harm: what they are told, and that others do not notice.

use crate::support::{Fabric, frame};
use mvirt_net::switchyard::protocol::Kind;
use serde_json::json;
use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    process::Command,
};

/// What the fabric says to octets before it closes.
fn last_words(fabric: &Fabric, octets: &[u8]) -> String {
    let mut client = fabric.connect();
    client.send_raw(octets);
    let said = client.refusal();
    assert!(client.next().is_none(), "the connection is closed");
    said
}

#[test]
fn a_stream_that_cannot_be_read_on_is_told_why_and_closed() {
    let fabric = Fabric::start(&[]);
    let mut innocent = fabric.member("innocent");
    let hello = b"\0\0\0\x0e\0\x01\0\x01\0\0\0\0\0\0\0\0{}";
    let version_2 = b"\0\0\0\x0e\0\x02\0\x01\0\0\0\0\0\0\0\0{}";
    assert_eq!(last_words(&fabric, version_2), "protocol version mismatch: 2 != 1");
    assert_eq!(last_words(&fabric, &[0xff; 64]), "msg_len 4294967295: expected 12-65561");
    assert_eq!(last_words(&fabric, &[0; 4]), "msg_len 0: expected 12-65561");
    let late = [&hello[..], version_2].concat();
    let mut client = fabric.connect();
    client.send_raw(&late);
    client.answer(Kind::WELCOME);
    assert_eq!(client.refusal(), "protocol version mismatch: 2 != 1");
    assert!(client.next().is_none());
    // Also with much more behind it, which nobody reads.
    let much = [&late[..], &vec![7; 1 << 18]].concat();
    let mut client = fabric.connect();
    client.send_raw(&much);
    client.answer(Kind::WELCOME);
    assert_eq!(client.refusal(), "protocol version mismatch: 2 != 1");
    innocent.look_up("innocent");
}

#[test]
fn who_does_not_begin_with_hello_is_closed() {
    let fabric = Fabric::start(&[]);
    let mut client = fabric.connect();
    client.send(Kind::ENDPOINT_CREATE, 0, 0, json!({"name": "a"}));
    assert_eq!(client.refusal(), "expected HELLO, got 10");
    assert!(client.next().is_none());
    fabric.client().create(json!({"name": "a"}));
    // Nobody is called anything: whatever is in HELLO.
    let mut client = fabric.connect();
    client.send_raw(b"\0\0\0\x0d\0\x01\0\x01\0\0\0\0\0\0\0\0?");
    client.answer(Kind::WELCOME);
}

// seed H.4.19–29: the refusals
#[test]
fn requests_are_refused_in_the_words_of_the_seeds_program() {
    let fabric = Fabric::start(&[]);
    let mut client = fabric.member("a");
    let mut refused = |kind: u16, endpoint, body| {
        client.send(Kind(kind), endpoint, 0, body);
        client.refusal()
    };
    assert!(refused(10, 0, json!({})).starts_with("bad ENDPOINT_CREATE: "));
    assert!(refused(10, 0, json!({"name": "b", "mac": "x"})).starts_with("bad ENDPOINT_CREATE: "));
    assert_eq!(
        refused(10, 0, json!({"name": "b\0"})),
        "bad ENDPOINT_CREATE: name: expected 1-63 printable characters"
    );
    assert_eq!(refused(10, 0, json!({"name": "a"})), "endpoint name already exists: a");
    assert_eq!(
        refused(10, 0, json!({"name": "b", "mac": "02:53:59:00:00:01"})),
        "endpoint mac already exists: 02:53:59:00:00:01"
    );
    assert!(refused(12, 0, json!([])).starts_with("bad ENDPOINT_LOOKUP: "));
    assert_eq!(refused(12, 0, json!({"name": "b"})), "no such endpoint: b");
    assert_eq!(refused(20, 7, json!({})), "subscribe: unknown endpoint_id 7");
    assert_eq!(refused(30, 7, json!({})), "PACKET_OUT: unknown src endpoint_id 7");
    let bad = "PACKET_OUT: bad ethernet frame: ";
    assert!(refused(30, 1, json!({})).starts_with(bad));
    // Messages of the fabric, extensions that were not asked for, and what nobody knows.
    for kind in [1, 2, 11, 31, 100, 1000, 1010, 65_535] {
        assert_eq!(refused(kind, 0, json!({})), format!("unknown message type: {kind}"));
    }
    client.look_up("a");
}

#[test]
fn what_one_client_may_have_is_bounded() {
    let fabric = Fabric::start(&[]);
    let mut greedy = fabric.client();
    let mut requests = Vec::new();
    for n in 0..10_000 {
        let name = format!(r#"{{"name": "{n:05}"}}"#);
        requests.extend(b"\0\0\0\x1d\0\x01\0\x0a\0\0\0\0\0\0\0\0");
        requests.extend(name.as_bytes());
    }
    // Written by a thread of its own: answers are read, or nothing would go on.
    let mut writing = greedy.stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || writing.write_all(&requests).unwrap());
    let mut created = 0;
    for n in 0..10_000 {
        let answer = greedy.next().unwrap();
        if answer.kind == Kind::ENDPOINT_CREATED {
            created += 1;
        } else if n == 9_999 {
            let said = String::from_utf8_lossy(&answer.payload).into_owned();
            assert!(said.contains("there are 1024 endpoints already"), "{said}");
        }
    }
    writer.join().unwrap();
    assert_eq!(created, 1024);
    for _ in 0..64 {
        greedy.subscribe(1, 0);
    }
    greedy.send(Kind::SUBSCRIBE, 1, 0, json!({}));
    assert_eq!(greedy.refusal(), "subscribe: endpoint 1 has 64 subscribers already");
}

#[test]
fn who_does_not_read_loses_frames_and_holds_nobody_up() {
    let fabric = Fabric::start(&[]);
    let (mut a, mut b, slow) = (fabric.member("a"), fabric.member("b"), fabric.member("slow"));
    let mut sent = 0;
    // More than its buffers here and in the kernel hold.
    for _ in 0..64 {
        for _ in 0..16 {
            sent += 1;
            a.send_frame_as(a.id, &frame("ff:ff:ff:ff:ff:ff", &a.mac, &[7; 60_000]));
        }
        a.sync();
        // It must keep up: the fabric waits for nobody.
        b.sync();
    }
    assert_eq!(b.frames().len(), sent);
    let mut slow = slow;
    let heard = slow.frames().len();
    assert!(heard < sent && heard > 16, "{heard} of {sent}");
}

#[test]
fn answers_that_nobody_takes_end_the_reading_and_not_the_fabric() {
    let fabric = Fabric::start(&[]);
    let mut rude = fabric.client();
    let request = b"\0\0\0\x0c\0\x01\xff\xff\0\0\0\0\0\0\0\0".repeat(4096);
    rude.stream.set_nonblocking(true).unwrap();
    let mut len = 0;
    // Until its way to the fabric is full: it is not read from any more.
    let mut others = fabric.client();
    let mut stalled = 0;
    while stalled < 100 {
        match rude.stream.write(&request[len % 16..]) {
            Ok(written) => (len, stalled) = (len + written, 0),
            Err(_) => stalled += 1,
        }
        others.sync();
        assert!(len < 64 << 20, "the fabric keeps all answers");
    }
    // What it has sent is answered once it reads.
    rude.stream.set_nonblocking(false).unwrap();
    rude.stream.shutdown(Shutdown::Write).unwrap();
    let answers = std::iter::from_fn(|| rude.next()).inspect(|answer| {
        assert_eq!(&answer.payload[..], b"{\"error\": \"unknown message type: 65535\"}");
    });
    assert_eq!(answers.count(), len / 16);
}

#[test]
fn more_connections_than_there_may_be_are_closed_at_once() {
    let fabric = Fabric::start(&[]);
    let clients: Vec<_> = (0..256).map(|_| fabric.client()).collect();
    let mut one_more = fabric.connect();
    assert_eq!(one_more.stream.read(&mut [0]).unwrap(), 0);
    drop(clients);
    // Their ends are noticed one after the other.
    loop {
        let mut client = fabric.connect();
        client.send(Kind::HELLO, 0, 0, json!({}));
        if client.stream.read(&mut [0]).is_ok_and(|len| len == 1) {
            break;
        }
    }
}

#[test]
fn who_says_nothing_is_closed_and_who_drips_is_not() {
    let fabric = Fabric::start(&[]);
    let (mut silent, mut half) = (fabric.connect(), fabric.connect());
    half.send_raw(b"\0\0\0\x0e\0\x01");
    // A message that comes octet by octet is one all the same, while others are served.
    let (mut dripping, mut innocent) = (fabric.connect(), fabric.member("innocent"));
    for octet in b"\0\0\0\x0e\0\x01\0\x01\0\0\0\0\0\0\0\0{}" {
        dripping.send_raw(&[*octet]);
        innocent.sync();
    }
    dripping.answer(Kind::WELCOME);
    // Ten seconds later.
    assert_eq!(silent.stream.read(&mut [0]).unwrap(), 0);
    assert_eq!(half.stream.read(&mut [0]).unwrap(), 0);
    dripping.sync();
}

#[test]
fn without_descriptors_those_who_are_there_are_served() {
    let mut command = Command::new("sh");
    let script = "ulimit -n 24; exec \"$0\" --listen 127.0.0.1:0";
    command.args(["-c", script, env!("CARGO_BIN_EXE_mvirt-switchyardd")]);
    let fabric = Fabric::spawn(&mut command);
    let (mut a, mut b) = (fabric.member("a"), fabric.member("b"));
    // They wait in the kernel's queue.
    let others: Vec<_> = (0..40).map(|_| fabric.connect()).collect();
    for n in 0..50 {
        let sent = frame(&b.mac, &a.mac, &[n; 60]);
        a.send_frame(&sent);
        assert_eq!(b.next_frame(), sent);
    }
    drop(others);
    // As soon as there is room, others are let in.
    fabric.client().sync();
}
