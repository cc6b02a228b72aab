//! Any frames after one another, as a tunnel has received them: what some of them are joined to is
//! cut into the very same again, and all others stay as they are.
//!
//! Each frame follows a few octets: which one before it it is made from, as the segment that
//! follows, and what is changed in that; or its own octets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mvirt_net::{
    dataplane::frame::{MAX_FRAME_LEN, join::Join, segment::Cut},
    wire::{checksum::Checksum, vnet::Offload},
};

/// How a frame is made: none: it has these octets; else from the one before, whose payload it
/// follows, with this octet changed there, if any, and its checksum right again.
type Frames<'a> = Vec<(Option<(u16, u8, bool)>, &'a [u8])>;

/// A segment with ten octets of data, over IPv4.
const SEGMENT: [u8; 64] = [
    2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 8, 0, 0x45, 0, 0, 50, 0, 7, 0, 0, 64, 6, 0x66, 0xbb, 10,
    0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2, 255, 255, 255, 250, 0, 0, 0, 9, 0x50, 0x10, 1, 0, 0, 0, 0,
    0, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5,
];

/// Makes the transport's checksum right.
fn repair(frame: &mut [u8]) {
    let len = frame.len() - 34;
    let address = |at: usize| [frame[at], frame[at + 1], frame[at + 2], frame[at + 3]].into();
    let mut sum = Checksum::pseudo_ipv4(address(26), address(30), 6, len as u32);
    frame[50..52].fill(0);
    sum.add(&frame[34..]);
    sum.write(frame, 50).expect("the field is there");
}

fn made(frames: &Frames<'_>) -> Vec<Vec<u8>> {
    let mut last = SEGMENT.to_vec();
    repair(&mut last);
    let mut made = vec![last.clone()];
    for (how, octets) in frames {
        let frame = match how {
            None => octets.iter().copied().take(MAX_FRAME_LEN).collect(),
            Some((at, octet, changes)) => {
                let [a, b, c, d] = [last[38], last[39], last[40], last[41]];
                let sequence = u32::from_be_bytes([a, b, c, d]).wrapping_add(10);
                last[38..42].copy_from_slice(&sequence.to_be_bytes());
                let number = u16::from_be_bytes([last[18], last[19]]).wrapping_add(1);
                last[18..20].copy_from_slice(&number.to_be_bytes());
                last[24..26].fill(0);
                let sum = mvirt_net::wire::checksum::checksum(&last[14..34]);
                last[24..26].copy_from_slice(&sum.to_be_bytes());
                let mut frame = last.clone();
                let at = usize::from(*at) % frame.len();
                frame[at] = if *changes { *octet } else { frame[at] };
                repair(&mut frame);
                frame
            }
        };
        made.push(frame);
    }
    made
}

/// The frames that one is cut into, complete.
fn cut(frame: Vec<u8>, offload: Offload) -> Vec<Vec<u8>> {
    let Offload::Segmentation { start, offset, segments } = offload else { return vec![frame] };
    let cut = Cut::new(&frame, frame.len(), start, segments).expect("it can be cut");
    let payload = &frame[cut.headers_len()..];
    let whole = |number| {
        let segment = cut.segment(number);
        let mut whole = segment.headers.to_vec();
        whole.extend(&payload[segment.payload]);
        let mut sum = Checksum::new();
        sum.add(&whole[usize::from(start)..]);
        sum.write(&mut whole, usize::from(start + offset)).expect("the field is there");
        whole
    };
    (0..cut.count()).map(whole).collect()
}

fuzz_target!(|frames: Frames<'_>| {
    let frames = made(&frames);
    let mut again = Vec::new();
    let mut rest = frames.iter().peekable();
    while let Some(first) = rest.next() {
        let mut buffer = vec![0; MAX_FRAME_LEN];
        buffer[..first.len()].copy_from_slice(first);
        let mut join = Join::new(first);
        while rest.next_if(|next| join.append(&mut buffer, next)).is_some() {}
        let (len, offload) = join.finish(&mut buffer);
        buffer.truncate(len);
        again.extend(cut(buffer, offload));
    }
    assert_eq!(again, frames);
});
