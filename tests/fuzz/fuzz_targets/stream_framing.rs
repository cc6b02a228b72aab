//! Any octets as a stream of frames, cut anywhere: what comes out is the same however it was cut,
//! no frame is shorter or longer than one may be, and a stream that was put together comes apart as
//! it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mvirt_net::dataplane::port::stream::{Deframer, Framer, Prefix};

/// What comes out of a stream that comes in pieces of these lengths, in turn: frames, and whether
/// it ended out of step.
fn taken_apart(prefix: Prefix, mut stream: &[u8], pieces: &[u8]) -> (Vec<Option<Vec<u8>>>, bool) {
    let mut deframer = Deframer::new(prefix);
    let (mut frames, mut pieces) = (Vec::new(), pieces.iter().cycle());
    loop {
        loop {
            match deframer.next_frame() {
                Ok(Some(next)) => frames.push(next.ok().map(<[u8]>::to_vec)),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
        if stream.is_empty() {
            return (frames, false);
        }
        let room = deframer.room();
        let piece = pieces.next().map_or(usize::MAX, |piece| usize::from(*piece).max(1));
        let len = room.len().min(stream.len()).min(piece);
        assert!(len > 0, "there is room for more");
        room[..len].copy_from_slice(&stream[..len]);
        deframer.came(len);
        stream = &stream[len..];
    }
}

fuzz_target!(|input: (bool, &[u8], &[u8])| {
    let (is_wide, pieces, stream) = input;
    let prefix = if is_wide { Prefix::U32 } else { Prefix::U16 };
    let (frames, ended) = taken_apart(prefix, stream, &[]);
    assert_eq!(taken_apart(prefix, stream, pieces), (frames.clone(), ended));
    let mut framer = Framer::new(prefix);
    let whole: Vec<_> = frames.into_iter().flatten().collect();
    for frame in &whole {
        assert!((14..=65_549).contains(&frame.len()));
        assert!(framer.push(frame), "so little fits");
    }
    let again = taken_apart(prefix, framer.rest(), pieces);
    assert_eq!(again, (whole.into_iter().map(Some).collect(), false));
});
