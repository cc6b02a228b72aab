//! What a correct driver may do with its rings, though few do: chains as long as the ring, queues
//! without buffers.

use super::{
    rig::{BUFFERS, INDIRECT_DESC, Rig, Shape},
    stage::Stage,
};
use crate::{
    daemon::wait_until,
    driver::{DESCRIPTOR, INDIRECT, NEXT, descriptor},
    frames::{Udp4, is_udp4},
    guest::{Guest, PLAIN, parse_mac},
};
use mvirt_net::proto::NicState;

const RING: u16 = 256;
/// Where indirect tables are.
const TABLE: u64 = BUFFERS + (2 << 20);

/// A datagram of 1,200 octets from a to b.
fn datagram(mac: [u8; 6], payload: &[u8]) -> Vec<u8> {
    Udp4::new(mac, "10.0.0.1", "10.0.0.2", payload).frame()
}

/// A frame behind its header, in so many pieces.
fn pieces(rig: &Rig, frame: &[u8], count: u32) -> Vec<(u64, u32)> {
    let (at, len) = rig.put(BUFFERS, [0; 12], frame);
    let each = len / count;
    let piece = |n: u32| {
        let last = if n + 1 == count { len % count } else { 0 };
        (at + u64::from(n * each), each + last)
    };
    (0..count).map(piece).collect()
}

#[test]
fn a_chain_may_be_as_long_as_the_ring_and_a_longer_one_costs_its_frame_only() {
    let mut stage = Stage::set();
    let a = stage.evil("evil-a");
    let mut b = Guest::connect(&stage.evil("evil-b"));
    let mac = parse_mac(&a.mac_address);
    let mut rig = Rig::up(&a, &Shape::new(PLAIN | INDIRECT_DESC)).unwrap();
    rig.swallow();
    let payload: Vec<u8> = (0..1200_u32).map(|n| (n * 7) as u8).collect();
    let frame = datagram(mac, &payload);
    for count in [1, 2, 64, 65, 66, 100, 255, 256] {
        let chain = pieces(&rig, &frame, count);
        rig.chain(1, &chain);
        rig.post(1, 1);
        b.expect(&format!("a frame in {count} pieces"), |frame| is_udp4(frame, &payload));
        // The same in an indirect table.
        for (at, buffer) in chain.iter().enumerate() {
            let flags = if at + 1 < chain.len() { NEXT } else { 0 };
            let octets = descriptor(*buffer, flags, at as u16 + 1);
            rig.memory.write(TABLE + DESCRIPTOR * at as u64, &octets);
        }
        rig.describe(1, 0, (TABLE, DESCRIPTOR as u32 * count), INDIRECT, 0);
        rig.post(1, 1);
        b.expect(&format!("a table of {count} pieces"), |frame| is_udp4(frame, &payload));
    }
    // In a circle: longer than any ring.
    rig.chain(1, &pieces(&rig, &frame, 100));
    rig.describe(1, 99, (BUFFERS, 4), NEXT, 0);
    rig.post(1, 3);
    wait_until("they are taken", || rig.waiting(1) == 0);
    rig.chain(1, &pieces(&rig, &frame, 1));
    rig.post(1, 1);
    b.expect("the next frame", |frame| is_udp4(frame, &payload));
    assert_eq!(stage.daemon.get_nic("evil-a").state(), NicState::Active);
}

#[test]
fn a_receive_chain_may_be_as_long_as_the_ring() {
    let mut stage = Stage::set();
    let nics = [stage.evil("evil-a"), stage.evil("evil-b")];
    let mut a = Guest::connect(&nics[0]);
    let mut b = Rig::up(&nics[1], &Shape::new(PLAIN)).unwrap();
    let frame = datagram(a.mac, &[7; 1200]);
    for count in [64, 65, 100, u64::from(RING)] {
        let chain: Vec<_> = (0..count).map(|n| (BUFFERS + 32 * n, 32)).collect();
        b.chain(0, &chain);
        b.keep(0, 1);
        wait_until(&format!("{count} pieces are filled"), || {
            a.send(&frame);
            // Too few to hold it: then it is that frame's loss.
            b.waiting(0) == 0 || 32 * count < 1300
        });
        assert_eq!(stage.daemon.get_nic("evil-b").state(), NicState::Active, "{count}");
    }
}

#[test]
fn enabled_queues_without_buffers_lose_nothing() {
    let mut stage = Stage::set();
    let nics =
        ["evil-a", "evil-b"].map(|name| stage.evil_with(name, |request| request.queue_pairs = 4));
    let shape = Shape { pairs: 4, ..Shape::new(PLAIN) };
    let mut a = Rig::up(&nics[0], &shape).unwrap();
    let mut b = Rig::up(&nics[1], &shape).unwrap();
    let mac = parse_mac(&nics[0].mac_address);
    b.chain(0, &[(BUFFERS, 2048)]);
    b.keep(0, 200);
    let sent = a.put(BUFFERS, [0; 12], &datagram(mac, b"x"));
    for queue in 0..4 {
        a.chain(2 * queue + 1, &[sent]);
        a.post(2 * queue + 1, 20);
    }
    wait_until("all are dealt with", || (0..4).all(|queue| a.waiting(2 * queue + 1) == 0));
    let stats = stage.daemon.stats("evil-a");
    assert_eq!(stats.ingress_forwarded, 80, "{stats:?}");
}
