//! Any octets as the streams of two clients of a fabric: each message is answered or carried, to
//! clients that are there, and what comes out can be read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mvirt_net::switchyard::{
    fabric::{Fabric, Settings, Then},
    protocol::{Decoder, Kind, Message},
};
use std::time::Duration;

fuzz_target!(|octets: &[u8]| {
    let mut fabric = Fabric::new(Settings { capture_ring: 1 << 20, ..Settings::default() });
    let clients = [fabric.connect(), fabric.connect()];
    let mut decoders = [Decoder::default(), Decoder::default()];
    let mut out = Vec::new();
    let mut now = Duration::ZERO;
    let hello = Message::new(
        Kind::HELLO,
        *b"{\"extensions\": [\"stats\", \"capture\", \"impair\", \"filter\"]}",
    );
    for client in clients {
        let _ = fabric.take(client, &hello, now, &mut out);
    }
    // In pieces, each of which says whose it is and how long.
    let mut rest = octets;
    while let Some(([head, len], after)) = rest.split_first_chunk::<2>().map(|(h, a)| (*h, a)) {
        let which = usize::from(head % 2);
        let (piece, after) = after.split_at(usize::from(len).min(after.len()));
        rest = after;
        decoders[which].push(piece);
        loop {
            match decoders[which].next_message() {
                Ok(Some(message)) => {
                    now += Duration::from_millis(1);
                    let then = fabric.take(clients[which], &message, now, &mut out);
                    assert_eq!(then, Then::Continue);
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        for (client, message) in out.drain(..) {
            assert!(clients.contains(&client));
            let (mut octets, mut decoder) = (Vec::new(), Decoder::default());
            message.append_to(&mut octets);
            decoder.push(&octets);
            assert_eq!(decoder.next_message(), Ok(Some(message)));
        }
    }
    fabric.disconnect(clients[0], now, &mut out);
    while let Some(due) = fabric.next_due() {
        now = due.max(now);
        fabric.run(now, &mut out);
    }
});
