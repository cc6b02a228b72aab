//! Names over TCP, and what hostile clients of DNS come to.

use super::{apart, container, no_containers, settle};
use crate::{
    daemon::{Daemon, cannot_run},
    namespace::{Namespace, run},
};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use mvirt_net::proto::{DnsMode, Nic};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

const GATEWAY: &str = "169.254.0.1:53";

/// A daemon whose network prod serves names, and a container in it.
fn rig() -> (Daemon, Nic, Namespace) {
    let mut daemon = Daemon::start();
    daemon.network_with("prod", |request| request.dns_mode = DnsMode::Names.into());
    let (nic, inside) = container(&mut daemon, "prod", "c1");
    (daemon, nic, inside)
}

fn in_a_namespace(story: impl FnOnce() + Send) {
    if let Some(why) = no_containers() {
        return cannot_run(why);
    }
    let namespace = Namespace::new();
    apart(|| {
        namespace.enter();
        story();
    });
}

fn query(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = id;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// A message with its length before it.
fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

fn connect() -> TcpStream {
    let gateway: SocketAddr = GATEWAY.parse().unwrap();
    let stream = TcpStream::connect_timeout(&gateway, Duration::from_secs(10)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

fn hear(stream: &mut TcpStream) -> Message {
    let mut len = [0; 2];
    stream.read_exact(&mut len).unwrap();
    let mut message = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut message).unwrap();
    Message::from_vec(&message).unwrap()
}

/// Sends octets. Whether the gateway ends the connection, and says nothing.
fn is_ended(octets: &[u8]) -> bool {
    let mut stream = connect();
    stream.write_all(octets).unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).ok();
    heard.is_empty()
}

#[test]
fn names_are_answered_over_tcp_in_the_order_of_questions() {
    in_a_namespace(|| {
        let (_daemon, nic, inside) = rig();
        apart(|| {
            settle(&nic, &inside);
            let full = "c1.prod.internal";
            let dig = |server: &str| {
                run(&format!(
                    "dig @{server} +tcp +time=5 +tries=1 +short +keepopen {full} A {full} AAAA"
                ))
            };
            let expected = format!("{}\n{}\n", nic.ipv4_address, nic.ipv6_address);
            assert_eq!(dig("169.254.0.1"), expected);
            assert_eq!(dig("fe80::1%c1"), expected);
            // Questions that do not wait for answers, cut anyhow.
            let name = format!("{full}.");
            let asked: Vec<_> =
                (0..50).flat_map(|id| framed(&query(id, &name, RecordType::A))).collect();
            let mut stream = connect();
            for part in asked.chunks(37) {
                stream.write_all(part).unwrap();
            }
            for id in 0..50 {
                let told = hear(&mut stream);
                assert_eq!((told.metadata.id, told.answers.len()), (id, 1));
            }
            // Who says goodbye is heard out.
            stream.write_all(&framed(&query(99, &name, RecordType::A))).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(hear(&mut stream).metadata.id, 99);
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        });
    });
}

#[test]
fn who_is_slow_or_says_nonsense_over_tcp_keeps_nobody_else_waiting() {
    in_a_namespace(|| {
        let (_daemon, nic, inside) = rig();
        apart(|| {
            settle(&nic, &inside);
            let asked = query(7, "c1.internal.", RecordType::A);
            let mut answer = asked.clone();
            answer[2] |= 0x80;
            // 64 KiB are announced, of which nothing comes; a response; and nothing of a message.
            assert!(is_ended(&[0xff, 0xff]));
            assert!(is_ended(&framed(&answer)));
            assert!(is_ended(&framed(&asked[..11])));
            assert!(is_ended(&[0, 0]));
            // What can be read in part is told that it is wrong.
            let mut stream = connect();
            stream.write_all(&framed(&asked[..20])).unwrap();
            assert_eq!(hear(&mut stream).response_code, ResponseCode::FormErr);
            let began = Instant::now();
            let beginnings = [&[][..], &[0], &framed(&asked)[..10], &[0x0f, 0xff, 1, 2]];
            let slow: Vec<_> = beginnings
                .iter()
                .map(|octets| {
                    let mut stream = connect();
                    stream.write_all(octets).unwrap();
                    stream
                })
                .collect();
            let mut other = connect();
            other.write_all(&framed(&asked)).unwrap();
            assert_eq!(hear(&mut other).answers.len(), 1);
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
            for mut stream in slow {
                assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "it is ended");
            }
            let elapsed = began.elapsed();
            let expected = Duration::from_secs(9)..Duration::from_secs(30);
            assert!(expected.contains(&elapsed), "{elapsed:?}");
        });
    });
}

/// Messages whose names lead round in circles, or on and on.
fn bombs() -> Vec<Vec<u8>> {
    let header = b"\x00\x07\x01\0\0\x01\0\0\0\0\0\0";
    let question = |name: &[u8]| [&header[..], name, b"\0\x01\0\x01"].concat();
    // Pointers of which each leads to the one before.
    let mut ladder: Vec<u8> = (0..600_u16).flat_map(|n| (0xc00c + 2 * n).to_be_bytes()).collect();
    ladder.extend(b"\0\x01\0\x01");
    let long = [&[63][..], &[b'a'; 63]].concat().repeat(20);
    vec![
        question(b"\xc0\x0c"),
        question(b"\x01a\xc0\x0c"),
        question(b"\xc0\x00"),
        question(b"\xff\xff"),
        question(b"\x40a\0"),
        question(&[&long[..], b"\0"].concat()),
        [&header[..], &ladder].concat(),
        [&header[..], &[1; 1300]].concat(),
    ]
}

#[test]
fn a_flood_of_questions_gains_nothing_and_a_bomb_is_none() {
    in_a_namespace(|| {
        let (mut daemon, nic, inside) = rig();
        apart(|| {
            settle(&nic, &inside);
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(GATEWAY).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut buffer = [0; 2048];
            for bomb in bombs() {
                socket.send(&bomb).unwrap();
                let len = socket.recv(&mut buffer).unwrap();
                assert_eq!((&buffer[..2], buffer[3] & 15), (&[0, 7][..], 1), "{bomb:?}");
                assert!(len <= bomb.len(), "no more than was asked");
            }
            // Everything is asked at once, again and again.
            let all = query(9, "c1.prod.internal.", RecordType::ANY);
            let (mut sent, mut heard) = (0, 0);
            socket.set_nonblocking(true).unwrap();
            while sent < 20_000 {
                sent += usize::from(socket.send(&all).is_ok());
                while let Ok(len) = socket.recv(&mut buffer) {
                    assert!(len <= all.len(), "it is no longer than the question");
                    heard += 1;
                }
            }
            assert!(heard < sent / 2, "{heard} of {sent}");
        });
        assert!(daemon.drops("c1", "reply_limit") > 0);
        // A second later all is as it was.
        apart(|| {
            inside.enter();
            let name = "c1.prod.internal";
            let told = run(&format!("dig @169.254.0.1 +time=1 +tries=10 +short {name}"));
            assert_eq!(told.trim(), nic.ipv4_address);
        });
    });
}
