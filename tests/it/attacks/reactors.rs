//! Two reactors: what one pair of guests sends over the link between them takes no room from the
//! others.

use super::{
    rig::{BUFFERS, Rig, Shape},
    stage::Stage,
    work::{BY_48, HOST_TSO4, stream},
};
use crate::guest::{CSUM, PLAIN, parse_mac};
use mvirt_net::dataplane::VNICS_TOGETHER;

#[test]
fn a_flood_over_a_link_leaves_room_for_others() {
    let mut stage = Stage::set_apart();
    // The other way round: what comes first in this network is where the last of the innocents is.
    let b = stage.evil("evil-b");
    for n in 1..VNICS_TOGETHER {
        stage.evil(&format!("evil{n}"));
    }
    let a = stage.evil("evil-a");
    let mut sender = Rig::up(&a, &Shape::new(PLAIN | CSUM | HOST_TSO4)).unwrap();
    let frame = stream(parse_mac(&a.mac_address), &a.ipv4_address, &b.ipv4_address);
    let sent = sender.put(BUFFERS, BY_48, &frame);
    sender.chain(1, &[sent]);
    let mut receiver = Rig::up(&b, &Shape { ring: 2048, ..Shape::new(PLAIN) }).unwrap();
    let mut chain = vec![(BUFFERS + (1 << 20), 0); 63];
    chain.push((BUFFERS + (1 << 20), 2048));
    receiver.chain(0, &chain);
    let mut lost = 0;
    let seen = stage.play_and(
        || {
            receiver.keep(0, 2048);
            sender.keep(1, 256);
        },
        |stage| lost = stage.daemon.drops("a", "link_full"),
    );
    seen.assert_harmless();
    assert_eq!(lost, 0, "frames of innocents that found the link full");
}
