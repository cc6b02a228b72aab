//! What one guest leaves to be done and another does not take: who gets which frames, checksums and
//! headers.

use crate::{
    daemon::{Daemon, wait_until},
    driver::HEADER,
    frames::is_ipv4,
    guest::{CSUM, GUEST_CSUM, Guest, MRG_RXBUF, PLAIN},
    segments::{TSO, parse, stream},
};
use mvirt_net::proto::Nic;
use smoltcp::wire::IpProtocol;

const HOST_TSO4: u64 = 1 << 11;
const GUEST_TSO4: u64 = 1 << 7;
/// The next TCP frames that a guest is given, with their virtio-net headers.
fn received(guest: &mut Guest, count: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut frames = Vec::new();
    wait_until("all frames arrive", || {
        if let Some(mut header) = guest.driver.receive_with_header()
            && is_ipv4(&header[HEADER..], IpProtocol::Tcp)
        {
            let frame = header.split_off(HEADER);
            frames.push((header, frame));
        }
        frames.len() == count
    });
    frames
}

fn segments_reach(a: &Nic, b: &Nic) {
    let payload: Vec<u8> = (0..1400_u32).map(|n| (n * 7) as u8).collect();
    let mut a = Guest::connect_with(a, PLAIN | CSUM | HOST_TSO4, 2048);
    let frame = stream(a.mac, "10.0.0.1", &b.ipv4_address, &payload);

    // Neither checksums nor segments: everything is done for it.
    let mut plain = Guest::connect(b);
    a.driver.send_with(TSO, &frame);
    let parsed: Vec<_> = received(&mut plain, 3)
        .iter()
        .map(|(header, frame)| {
            assert_eq!(header[..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            parse(frame)
        })
        .collect();
    assert!(parsed.iter().all(|(_, right)| *right));
    assert_eq!(parsed.iter().map(|(part, _)| part.len()).collect::<Vec<_>>(), [500, 500, 400]);
    assert_eq!(parsed.into_iter().flat_map(|(part, _)| part).collect::<Vec<_>>(), payload);
    drop(plain);

    // Checksums are its own to finish.
    let mut sums = Guest::connect_with(b, PLAIN | GUEST_CSUM, 2048);
    a.driver.send_with(TSO, &frame);
    for (header, _) in received(&mut sums, 3) {
        assert_eq!(header, [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 1, 0]);
    }
    drop(sums);

    // It takes the frame uncut, in buffers of 512 octets.
    let mut able = Guest::connect_with(b, PLAIN | GUEST_CSUM | GUEST_TSO4 | MRG_RXBUF, 512);
    a.driver.send_with(TSO, &frame);
    let (header, got) = received(&mut able, 1).remove(0);
    assert_eq!(header, [1, 1, 54, 0, 0xf4, 0x01, 34, 0, 16, 0, 3, 0]);
    assert_eq!(parse(&got).0, payload);
}

#[test]
fn a_frame_to_be_cut_is_cut_for_those_who_do_not() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let (a, b) = (daemon.nic("prod", "a"), daemon.nic("prod", "b"));
    segments_reach(&a, &b);
}

#[test]
fn a_frame_to_be_cut_goes_to_another_reactor() {
    let (_daemon, a, b) = Daemon::with_nics_apart();
    segments_reach(&a, &b);
}

#[test]
fn segmentation_that_does_not_fit_is_refused() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut a = Guest::connect_with(&daemon.nic("prod", "a"), PLAIN | CSUM | HOST_TSO4, 2048);
    let frames = |payload: &[u8]| stream(a.mac, "10.0.0.1", "10.0.0.2", payload);
    let (frame, long, empty) = (frames(&[7; 600]), frames(&[7; 2049]), frames(b""));
    let with = |at: usize, value: u8| {
        let mut header = TSO;
        header[at] = value;
        header
    };
    let smallest = [1, 1, 54, 0, 1, 0, 34, 0, 16, 0, 0, 0];
    a.driver.send_with(smallest, &long);
    wait_until("it is dropped", || daemon.drops("a", "bad_segmentation") == 1);
    a.driver.send_with([1, 1, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0], &frame);
    a.driver.send_with(TSO, &empty);
    a.driver.send_with(with(6, 33), &frame);
    a.driver.send_with(with(8, 6), &frame);
    // Not negotiated, unknown, without a checksum.
    for header in [with(1, 4), with(1, 0x81), with(1, 5), with(1, 3), with(0, 0)] {
        a.driver.send_with(header, &frame);
    }
    wait_until("all are dropped", || {
        (daemon.drops("a", "bad_segmentation"), daemon.drops("a", "bad_vnet_header")) == (3, 2)
            && daemon.drops("a", "unexpected_segmentation") == 5
    });
}
