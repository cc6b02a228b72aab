//! Frames and chains that are much work: what one guest asks for is bounded by what a visit to its
//! port may take.

use super::{
    rig::{BUFFERS, INDIRECT_DESC, Rig, Shape},
    stage::Stage,
};
use crate::{
    frames::{Udp4, Udp6},
    guest::{CSUM, PLAIN, parse_mac},
    segments,
};
use mvirt_net::proto::Nic;
use smoltcp::wire::{Icmpv6Packet, Ipv6Address};

pub(super) const HOST_TSO4: u64 = 1 << 11;
/// Asks for segments of 48 octets, the least that is taken.
pub(super) const BY_48: [u8; 12] = [1, 1, 54, 0, 48, 0, 34, 0, 16, 0, 0, 0];
const ALL_DHCP_AGENTS: [u8; 6] = [0x33, 0x33, 0, 1, 0, 2];
const ALL_ROUTERS: [u8; 6] = [0x33, 0x33, 0, 0, 0, 2];
/// KiB by which the daemon may grow.
const GROWTH: u64 = 32 << 10;

/// A DHCPv6 solicitation with `option` as often as it fits.
fn solicitation(mac: [u8; 6], option: &[u8]) -> Vec<u8> {
    let client = [&[0, 1, 0, 10, 0, 3, 0, 1][..], &mac].concat();
    let many = option.repeat(64_000 / option.len());
    let payload = [&[1, 1, 2, 3][..], &client, &many].concat();
    let mut udp = Udp6::new(mac, "fe80::99", "ff02::1:2", &payload);
    (udp.to_mac, udp.ports, udp.hop_limit) = (ALL_DHCP_AGENTS, (546, 547), 1);
    udp.frame()
}

/// A DHCPv4 discovery with `option` as often as it fits.
fn discovery(mac: [u8; 6], option: &[u8]) -> Vec<u8> {
    let mut payload = vec![0; 236];
    payload[..8].copy_from_slice(&[1, 1, 6, 0, 0, 0, 0, 7]);
    payload[28..34].copy_from_slice(&mac);
    payload.extend([99, 130, 83, 99, 53, 1, 1]);
    payload.extend(option.repeat(64_000 / option.len()));
    let mut udp = Udp4::new(mac, "0.0.0.0", "255.255.255.255", &payload);
    (udp.to_mac, udp.ports) = ([0xff; 6], (68, 67));
    udp.frame()
}

/// A router solicitation with the source's address as often as it fits.
fn router_solicitation(mac: [u8; 6]) -> Vec<u8> {
    let (from, to): (Ipv6Address, Ipv6Address) =
        ("fe80::99".parse().unwrap(), "ff02::2".parse().unwrap());
    let option = [&[1, 1][..], &mac].concat();
    let mut message = [&[133, 0, 0, 0, 0, 0, 0, 0][..], &option.repeat(8000)].concat();
    Icmpv6Packet::new_unchecked(&mut message[..]).fill_checksum(&from, &to);
    let len = (message.len() as u16).to_be_bytes();
    let ethernet = [&ALL_ROUTERS[..], &mac, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    [&ethernet[..], &len, &[58, 255], &from.octets(), &to.octets(), &message].concat()
}

/// A TCP segment of 64 KiB, to be cut; its checksum field holds the pseudo-header's sum.
pub(super) fn stream(mac: [u8; 6], from: &str, to: &str) -> Vec<u8> {
    segments::stream(mac, from, to, &[0; 65_480])
}

/// Sends frames, one on each queue, again and again.
fn questions(stage: &mut Stage, frames: impl Fn([u8; 6]) -> Vec<Vec<u8>>) {
    let nic = stage.evil_with("evil", |request| request.queue_pairs = 8);
    let frames = frames(parse_mac(&nic.mac_address));
    let mut rig = Rig::up(&nic, &Shape { pairs: frames.len(), ..Shape::new(PLAIN) }).unwrap();
    rig.swallow();
    for (queue, frame) in frames.iter().enumerate() {
        let at = BUFFERS + ((2 + queue as u64) << 20);
        let chain = rig.put(at, [0; 12], frame);
        rig.chain(2 * queue + 1, &[chain]);
    }
    let seen = stage.play(|| {
        for queue in 0..frames.len() {
            rig.keep(2 * queue, 256);
            rig.keep(2 * queue + 1, 16);
        }
    });
    seen.assert_harmless();
}

/// IA_TA (RFC 8415 §21.5), IA_NA and IA_PD.
const ASSOCIATIONS: [&[u8]; 3] = [
    &[0, 4, 0, 4, 0, 0, 0, 1],
    &[0, 3, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
    &[0, 25, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
];

#[test]
fn dhcpv6_with_thousands_of_options_costs_its_guest_only() {
    questions(&mut Stage::set(), |mac| vec![solicitation(mac, ASSOCIATIONS[0])]);
}

#[test]
fn dhcpv6_with_thousands_of_options_on_every_queue_costs_its_guest_only() {
    questions(&mut Stage::set(), |mac| {
        (0..8).map(|queue| solicitation(mac, ASSOCIATIONS[queue % 3])).collect()
    });
}

#[test]
fn dhcpv4_and_neighbour_discovery_with_thousands_of_options_cost_their_guest_only() {
    questions(&mut Stage::set(), |mac| {
        let options: [&[u8]; 5] = [&[12, 1, b'x'], &[55, 1, 3], &[82, 3, 1, 1, 1], &[0], &[60, 0]];
        let discoveries = options.iter().map(|option| discovery(mac, option));
        discoveries.chain([router_solicitation(mac), router_solicitation(mac)]).collect()
    });
}

/// A guest that sends, and one that receives.
fn pair(stage: &mut Stage, pairs: usize, shape: &Shape) -> (Rig, std::io::Result<Rig>, [Nic; 2]) {
    let nics = ["evil-a", "evil-b"]
        .map(|name| stage.evil_with(name, |request| request.queue_pairs = pairs as u32));
    let sender = Shape { pairs, ..Shape::new(PLAIN | CSUM | HOST_TSO4 | INDIRECT_DESC) };
    let a = Rig::up(&nics[0], &sender).unwrap();
    (a, Rig::up(&nics[1], &Shape { pairs, ..shape.clone() }), nics)
}

/// Sends TCP segments of 64 KiB, to be cut by 48, into chains of a receiver.
fn segments(pairs: usize, chain: &[(u64, u32)], regions: Vec<(u64, u64)>) {
    let mut stage = Stage::set();
    let shape = Shape { ring: 2048, regions, ..Shape::new(PLAIN) };
    let (mut a, b, nics) = pair(&mut stage, pairs, &shape);
    let mut b = match b {
        Ok(b) => b,
        Err(refused) => return eprintln!("the receiver's memory is refused: {refused}"),
    };
    let frame = stream(parse_mac(&nics[0].mac_address), "10.0.0.1", "10.0.0.2");
    let sent = a.put(BUFFERS, BY_48, &frame);
    for queue in 0..pairs {
        a.chain(2 * queue + 1, &[sent]);
        b.chain(2 * queue, chain);
    }
    let before = stage.memory();
    let mut grown = 0;
    let seen = stage.play_and(
        || {
            for queue in 0..pairs {
                b.keep(2 * queue, 2048);
                a.keep(2 * queue + 1, 8);
            }
        },
        |stage| grown = stage.memory().saturating_sub(before),
    );
    eprintln!("{grown} KiB more");
    seen.assert_harmless();
    assert!(grown <= GROWTH, "the daemon has grown by {grown} KiB");
}

/// Addresses and octets.
type Chain = Vec<(u64, u32)>;

/// A chain of 64 pieces, each over 63 regions of `len` octets.
fn pieces(len: u32) -> (Chain, Vec<(u64, u64)>) {
    let at = |n: u64| (1 << 32) + n * u64::from(len);
    (vec![(at(0), 63 * len); 64], (0..63).map(|n| (at(n), len.into())).collect())
}

#[test]
fn segments_into_pieces_of_an_octet_cost_their_guests_only() {
    let (chain, regions) = pieces(1);
    segments(1, &chain, regions);
}

#[test]
fn segments_into_pieces_of_a_page_cost_their_guests_only() {
    let (chain, regions) = pieces(4096);
    segments(1, &chain, regions);
}

#[test]
fn segments_into_pieces_on_every_queue_cost_their_guests_only() {
    let (chain, regions) = pieces(1);
    segments(4, &chain, regions);
    let (chain, regions) = pieces(4096);
    segments(4, &chain, regions);
}

#[test]
fn segments_into_ordinary_buffers_cost_their_guests_only() {
    segments(1, &[(BUFFERS + (1 << 20), 2048)], vec![]);
}

#[test]
fn segments_into_buffers_behind_empty_ones_cost_their_guests_only() {
    let mut chain = vec![(BUFFERS + (1 << 20), 0); 63];
    chain.push((BUFFERS + (1 << 20), 2048));
    segments(1, &chain, vec![]);
}

#[test]
fn frames_into_buffers_behind_empty_ones_cost_their_guests_only() {
    let mut stage = Stage::set();
    let (mut a, b, nics) = pair(&mut stage, 1, &Shape::new(PLAIN));
    let mut b = b.unwrap();
    let frame = Udp4::new(parse_mac(&nics[0].mac_address), "10.0.0.1", "10.0.0.2", b"x").frame();
    let sent = a.put(BUFFERS, [0; 12], &frame);
    a.chain(1, &[sent]);
    let mut chain = vec![(BUFFERS + (1 << 20), 0); 63];
    chain.push((BUFFERS + (1 << 20), 2048));
    b.chain(0, &chain);
    let seen = stage.play(|| {
        b.keep(0, 256);
        a.keep(1, 256);
    });
    seen.assert_harmless();
}

#[test]
fn frames_from_pieces_of_a_page_cost_their_guest_only() {
    for len in [1, 4096] {
        let mut stage = Stage::set();
        let nic = stage.evil("evil");
        let regions = pieces(len).1;
        let sender = Shape { regions, ..Shape::new(PLAIN) };
        let Ok(mut rig) = Rig::up(&nic, &sender) else { continue };
        // Of an octet each: more would be too long for a frame.
        let last = (1 << 32) + 62 * u64::from(len);
        rig.chain(1, &[(last, 1); 64]);
        let seen = stage.play(|| {
            rig.keep(1, 256);
        });
        seen.assert_harmless();
    }
}
