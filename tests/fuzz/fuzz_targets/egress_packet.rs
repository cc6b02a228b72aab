//! Any octets as messages that guests send to `mvirt-egress`: each is one of its kinds or dropped
//! for a reason; fragments never make more than they are; and a connection takes any segments, in
//! any order and at any time, without losing track of its memory or of what it has sent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mvirt_net::{
    egress::{
        buffer::{Memory, Purse},
        compose::{Ends, HEAD_LEN, tcp_head},
        connection::{Connection, Taken},
        fragments::{Fragments, Outcome},
        packet::{Body, Packet, Transport, split},
    },
    wire::tcp::{self, Segment},
};
use std::time::{Duration, Instant};

const LIMIT: u64 = 1 << 20;

/// Messages: how many milliseconds after the one before, how much the host takes and says, octets.
type Messages<'a> = Vec<(u16, u16, u16, &'a [u8])>;

fuzz_target!(|messages: Messages<'_>| {
    let mut now = Instant::now();
    let mut fragments = Fragments::default();
    let syn = Segment { sequence: 1, window: 500, window_scale: Some(7), ..Segment::default() };
    let mut connection = Connection::from_guest(&syn, 1460, 1, now);
    let (mut memory, mut of_nic) = (Memory::new(LIMIT), 0);
    connection.connected(now);
    for (time, room, said, octets) in messages {
        now += Duration::from_millis(time.into());
        fragments.expire(now);
        let purse = &mut Purse { memory: &mut memory, of_nic: &mut of_nic };
        connection.expire(now, purse);
        if let Some(ring) = connection.room(purse) {
            ring.push(&vec![1; said.into()]);
        }
        // As a segment of its own, or else what is said is hardly ever of the connection.
        if let Some((segment, payload)) = Segment::parse(octets) {
            let taken = connection.take(&segment, payload, now, purse, |octets| {
                octets.len().min(room.into())
            });
            if taken == Taken::Reset {
                break;
            }
        }
        connection.flush(now, |first, second| (first.len() + second.len()).min(room.into()));
        send(&mut connection, now);
        assert!(memory.used() <= LIMIT && memory.used() == of_nic);
        carry(&mut fragments, octets, now);
    }
    connection.release(&mut Purse { memory: &mut memory, of_nic: &mut of_nic });
    assert_eq!((memory.used(), of_nic), (0, 0));
});

fn send(connection: &mut Connection, now: Instant) {
    let from = ([192, 0, 2, 1], 80).into();
    let ends = Ends { tag: 7, from, to: ([10, 0, 0, 2], 4000).into() };
    for count in 0.. {
        assert!(count < 100_000, "it never ends");
        let Some(outgoing) = connection.next_segment(now) else { return };
        let (first, second) = connection.payload(&outgoing);
        assert_eq!(first.len() + second.len(), outgoing.len);
        let mut head = [0; HEAD_LEN];
        let size = (outgoing.len, connection.segment_size());
        let len = tcp_head(&mut head, &ends, &outgoing.segment, size).expect("it fits");
        let message = [&head[..len], first, second].concat();
        let (tag, offload, octets) = split(&message).expect("ours");
        let packet = Packet::parse(tag, offload, octets).expect("ours");
        let Body::Whole(body) = packet.body else { panic!("{packet:?}") };
        let Ok(Transport::Tcp(segment, payload)) = packet.transport(body) else {
            panic!("{packet:?}")
        };
        assert_eq!((segment, payload.len()), (outgoing.segment, outgoing.len));
        assert!(segment.flags & tcp::RST == 0);
        connection.sent(&outgoing, now);
    }
}

fn carry(fragments: &mut Fragments, octets: &[u8], now: Instant) {
    let Ok((tag, offload, octets)) = split(octets) else { return };
    let Ok(packet) = Packet::parse(tag, offload, octets) else { return };
    assert!(packet.octets.len() <= octets.len());
    let whole = match packet.body {
        Body::Whole(body) => body.to_vec(),
        Body::Fragment { .. } => match fragments.take(&packet, now) {
            Outcome::Whole(whole) => whole,
            Outcome::Waits(_) | Outcome::Dropped(_) => return,
        },
    };
    assert!(whole.len() <= 65_535);
    if let Ok(Transport::Udp { payload, size, .. }) = packet.transport(&whole) {
        assert!(payload.len() <= whole.len() && size > 0);
    }
}
