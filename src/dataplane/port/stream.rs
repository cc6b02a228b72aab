//! Streams in which the length of each frame stands before it, big-endian: in 32 bits as QEMU has
//! it (net/stream.c, net/socket.c), or in 16 bits as VDE has it on standard input and output.
//!
//! No header says what is left to be done about a frame: all that leave are finished, and those
//! that come in are taken as they are.

use super::{
    PortFailure, Undelivered, calls,
    descriptor::{Inbox, Received, Transport},
    rest::Rest,
};
use crate::{
    dataplane::frame::{MAX_FRAME_LEN, offload::Offloads, verdict::DropReason},
    wire::{ethernet, vnet::Offload},
};
use rustix::io::{Errno, read, write};
use std::{
    io,
    ops::Range,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

/// Octets that are read at a time.
// A burst of the longest frames takes several reads, one of usual ones a single one.
const READ: usize = 256 << 10;
/// Octets that wait to be written.
// More than three of the longest frames: a burst of 64 of an Ethernet's MTU needs 96 KiB.
const WRITE: usize = 256 << 10;
/// A longer frame is passed over up to here, and beyond it ends the connection.
// QEMU's own limit (NET_BUFSIZE, 4096 + 65536): a sender that keeps to it is in step.
const LONGEST: usize = 4096 + 65536;
const TOO_LONG: usize = MAX_FRAME_LEN + 1;

/// What stands before a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// Its length in 32 bits.
    U32,
    /// Its length in 16 bits.
    U16,
}

impl Prefix {
    fn len(self) -> usize {
        match self {
            Self::U32 => 4,
            Self::U16 => 2,
        }
    }

    /// Returns the length that a prefix says; none where it is cut.
    fn read(self, octets: &[u8]) -> Option<usize> {
        let length = octets.get(..self.len())?;
        Some(length.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)))
    }
}

/// A length that no sender in step says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} octets: the other end speaks something else, or is out of step")]
pub struct OutOfStep(pub usize);

/// Takes a stream apart.
#[derive(Debug)]
pub struct Deframer {
    prefix: Prefix,
    buffer: Box<[u8]>,
    /// Which octets of the buffer are to be looked at.
    filled: Range<usize>,
    /// Octets of a frame that is passed over, and that have not come yet.
    skip: usize,
}

impl Deframer {
    /// Returns one for a stream that begins.
    pub fn new(prefix: Prefix) -> Self {
        Self { prefix, buffer: vec![0; READ].into(), filled: 0..0, skip: 0 }
    }

    /// Returns one for a stream of which this is [`Deframer::left`] already.
    pub fn with(prefix: Prefix, left: &[u8]) -> Self {
        let mut deframer = Self::new(prefix);
        if let Some((skip, octets)) = left.split_first_chunk() {
            // No more than it was given by another of its kind.
            let len = octets.len().min(READ);
            deframer.buffer[..len].copy_from_slice(&octets[..len]);
            (deframer.filled, deframer.skip) = (0..len, u32::from_be_bytes(*skip) as usize);
        }
        deframer
    }

    /// Returns what another needs to go on: how many octets are to be passed over, in 32 bits, and
    /// those that were not looked at yet.
    pub fn left(&self) -> Vec<u8> {
        [&(self.skip as u32).to_be_bytes(), self.rest()].concat()
    }

    /// Returns where octets that come next are to be put: never nothing once
    /// [`Deframer::next_frame`] has returned none.
    pub fn room(&mut self) -> &mut [u8] {
        // What is left is less than a frame, and mostly nothing.
        self.buffer.copy_within(self.filled.clone(), 0);
        self.filled = 0..self.filled.len();
        &mut self.buffer[self.filled.end..]
    }

    /// Says that so many octets were put there.
    pub fn came(&mut self, octets: usize) {
        self.filled.end += octets;
        self.pass_over();
    }

    /// Returns the octets that were not looked at yet.
    fn rest(&self) -> &[u8] {
        &self.buffer[self.filled.clone()]
    }

    /// Returns the next frame, or why it is none; nothing until more has come.
    pub fn next_frame(&mut self) -> Result<Option<Result<&[u8], DropReason>>, OutOfStep> {
        loop {
            let Some(len) = self.prefix.read(self.rest()) else { return Ok(None) };
            let invalid = match len {
                // Says nothing.
                0 => None,
                1..ethernet::HEADER_LEN => Some(DropReason::FrameTooShort),
                ethernet::HEADER_LEN..=MAX_FRAME_LEN => {
                    let whole = self.prefix.len() + len;
                    if self.filled.len() < whole {
                        return Ok(None);
                    }
                    let frame = self.filled.start + self.prefix.len()..self.filled.start + whole;
                    self.filled.start += whole;
                    return Ok(Some(Ok(&self.buffer[frame])));
                }
                TOO_LONG..=LONGEST => Some(DropReason::FrameTooLong),
                _ => return Err(OutOfStep(len)),
            };
            self.skip = self.prefix.len() + len;
            self.pass_over();
            if let Some(reason) = invalid {
                return Ok(Some(Err(reason)));
            }
        }
    }

    /// Leaves out what is there of a frame to be passed over.
    fn pass_over(&mut self) {
        let here = self.skip.min(self.filled.len());
        self.filled.start += here;
        self.skip -= here;
    }
}

/// Puts a stream together.
#[derive(Debug)]
pub struct Framer {
    prefix: Prefix,
    octets: Vec<u8>,
    /// How many of them were written.
    written: usize,
}

impl Framer {
    /// Returns one for a stream that begins.
    pub fn new(prefix: Prefix) -> Self {
        Self::with(prefix, &[])
    }

    /// Returns one for a stream of which these octets are to be written yet.
    pub fn with(prefix: Prefix, unwritten: &[u8]) -> Self {
        Self { prefix, octets: unwritten.to_vec(), written: 0 }
    }

    /// Takes a frame. False: there is no room for it now.
    pub fn push(&mut self, frame: &[u8]) -> bool {
        let length = (frame.len() as u32).to_be_bytes();
        let prefix = &length[length.len() - self.prefix.len()..];
        let has_room = self.octets.len() + prefix.len() + frame.len() <= WRITE;
        if has_room {
            self.octets.extend_from_slice(prefix);
            self.octets.extend_from_slice(frame);
        }
        has_room
    }

    /// Returns the octets to be written.
    pub fn rest(&self) -> &[u8] {
        &self.octets[self.written..]
    }

    /// Says that so many octets of the rest were written.
    pub fn wrote(&mut self, octets: usize) {
        self.written += octets;
        if self.rest().is_empty() {
            self.octets.clear();
            self.written = 0;
        }
    }
}

/// A connected stream.
#[derive(Debug)]
pub struct Stream {
    socket: OwnedFd,
    reads: Deframer,
    writes: Framer,
    /// A write took less than there was: no frame is taken before the rest is written.
    is_behind: bool,
}

impl Stream {
    /// Returns the transport of a socket or pipe, which must not block.
    pub fn new(socket: OwnedFd, prefix: Prefix) -> Self {
        Self::with(socket, prefix, &Rest::default())
    }

    /// Returns the transport of one that another process had come so far with.
    pub fn with(socket: OwnedFd, prefix: Prefix, rest: &Rest) -> Self {
        Self {
            socket,
            reads: Deframer::with(prefix, &rest.read),
            writes: Framer::with(prefix, &rest.unwritten),
            // Tried before anything else is taken.
            is_behind: !rest.unwritten.is_empty(),
        }
    }
}

fn gone(errno: Errno) -> PortFailure {
    PortFailure::Broken(format!("the connection ended: {errno}"))
}

impl Transport for Stream {
    const MESSAGES: bool = false;
    const ACCEPTS: Offloads = Offloads::NONE;

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn receive(&mut self, inbox: &mut Inbox) -> Result<(), PortFailure> {
        let mut is_drained = false;
        loop {
            while !inbox.is_full() {
                let next = self.reads.next_frame();
                let next = next.map_err(|error| PortFailure::Broken(error.to_string()))?;
                let Some(next) = next else { break };
                let received = match next {
                    Ok(frame) => {
                        inbox.buffer()[..frame.len()].copy_from_slice(frame);
                        Received::plain(0..frame.len())
                    }
                    Err(reason) => Received::invalid(reason),
                };
                inbox.push(received);
            }
            if inbox.is_full() || is_drained {
                return Ok(());
            }
            let room = self.reads.room();
            let asked = room.len();
            match calls::made(read(&self.socket, room)) {
                Ok(0) => return Err(PortFailure::Broken("the connection was closed".into())),
                Ok(came) => {
                    self.reads.came(came);
                    // What comes from now on wakes.
                    is_drained = came < asked;
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(gone(errno)),
            }
        }
    }

    fn send(&mut self, frame: &[u8], _offload: Offload) -> Result<(), Undelivered> {
        if self.is_behind || !self.writes.push(frame) {
            self.flush().map_err(Undelivered::Failed)?;
            if self.is_behind || !self.writes.push(frame) {
                return Err(Undelivered::Full);
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), PortFailure> {
        while !self.writes.rest().is_empty() {
            let rest = self.writes.rest();
            match calls::wrote(write(&self.socket, rest), rest.len()) {
                Ok(wrote) => self.writes.wrote(wrote),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.is_behind = true;
                    return Ok(());
                }
                Err(errno) => return Err(gone(errno)),
            }
        }
        self.is_behind = false;
        Ok(())
    }

    fn save(&self, rest: &mut Rest) -> io::Result<Vec<OwnedFd>> {
        (rest.read, rest.unwritten) = (self.reads.left(), self.writes.rest().to_vec());
        Ok(vec![self.socket.try_clone()?])
    }

    fn has_rest(&self) -> bool {
        self.is_behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    type Frames = Vec<Result<Vec<u8>, DropReason>>;

    /// What comes out of a stream that comes in pieces of these lengths, in turn.
    fn taken_apart(
        prefix: Prefix,
        stream: &[u8],
        pieces: &[usize],
    ) -> (Frames, Result<(), OutOfStep>) {
        let mut deframer = Deframer::new(prefix);
        let (mut frames, mut rest, mut pieces) = (Vec::new(), stream, pieces.iter().cycle());
        loop {
            loop {
                match deframer.next_frame() {
                    Ok(Some(next)) => frames.push(next.map(<[u8]>::to_vec)),
                    Ok(None) => break,
                    Err(error) => return (frames, Err(error)),
                }
            }
            if rest.is_empty() {
                return (frames, Ok(()));
            }
            let room = deframer.room();
            assert!(!room.is_empty(), "there is room for more");
            let len = room.len().min(rest.len()).min(*pieces.next().unwrap());
            room[..len].copy_from_slice(&rest[..len]);
            deframer.came(len);
            rest = &rest[len..];
        }
    }

    /// A frame of `len` octets that no other looks like.
    fn frame(len: usize, salt: u8) -> Vec<u8> {
        (0..len).map(|at| (at as u8).wrapping_mul(7) ^ salt).collect()
    }

    fn with_length(frame: &[u8]) -> Vec<u8> {
        [&(frame.len() as u32).to_be_bytes()[..], frame].concat()
    }

    #[test]
    fn a_prefix_is_of_two_or_of_four_octets_and_big_endian() {
        let frame: Vec<u8> = frame(300, 0);
        for (prefix, octets) in [(Prefix::U32, &[0, 0, 1, 44][..]), (Prefix::U16, &[1, 44])] {
            let mut framer = Framer::new(prefix);
            assert!(framer.push(&frame));
            assert_eq!(framer.rest(), [octets, &frame].concat());
            let (frames, end) = taken_apart(prefix, framer.rest(), &[1]);
            assert_eq!((frames, end), (vec![Ok(frame.clone())], Ok(())));
        }
    }

    #[test]
    fn what_is_no_frame_is_passed_over_and_what_is_beyond_all_bounds_ends_the_stream() {
        let (short, long) = (Err(DropReason::FrameTooShort), Err(DropReason::FrameTooLong));
        let good = frame(14, 9);
        let lengths = [
            (0, None),
            (1, Some(short)),
            (13, Some(short)),
            (14, Some(Ok(()))),
            (65_549, Some(Ok(()))),
            (65_550, Some(long)),
            (69_632, Some(long)),
        ];
        for (len, expected) in lengths {
            let stream = [with_length(&frame(len, 1)), with_length(&good)].concat();
            let expected = expected.into_iter().map(|is| is.map(|()| frame(len, 1)));
            let expected: Vec<_> = expected.chain([Ok(good.clone())]).collect();
            for pieces in [&[1][..], &[3, 4096], &[usize::MAX]] {
                assert_eq!(taken_apart(Prefix::U32, &stream, pieces), (expected.clone(), Ok(())));
            }
        }
        for length in [69_633, u32::MAX] {
            let stream = [with_length(&good), length.to_be_bytes().to_vec()].concat();
            let (frames, end) = taken_apart(Prefix::U32, &stream, &[1]);
            assert_eq!((frames, end), (vec![Ok(good.clone())], Err(OutOfStep(length as usize))));
        }
        let nothing = vec![0; 40_000];
        assert_eq!(taken_apart(Prefix::U32, &nothing, &[usize::MAX]), (vec![], Ok(())));
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_the_stream_is_cut(
            lengths in vec(prop_oneof![14..1600_usize, 14..65_536_usize], 1..9),
            pieces in vec(prop_oneof![1..9_usize, 1..100_000_usize], 1..9),
            is_wide in any::<bool>(),
        ) {
            let prefix = if is_wide { Prefix::U32 } else { Prefix::U16 };
            let mut framer = Framer::new(prefix);
            let (mut stream, mut sent) = (Vec::new(), Vec::new());
            let mut cuts = pieces.iter().cycle();
            for (at, len) in lengths.into_iter().enumerate() {
                let frame = frame(len, at as u8);
                while !framer.push(&frame) {
                    let wrote = framer.rest().len().min(*cuts.next().unwrap());
                    stream.extend_from_slice(&framer.rest()[..wrote]);
                    framer.wrote(wrote);
                }
                sent.push(Ok(frame));
            }
            stream.extend_from_slice(framer.rest());
            prop_assert_eq!(taken_apart(prefix, &stream, &pieces), (sent, Ok(())));
        }
    }

    #[test]
    fn a_reader_that_stands_still_is_waited_for_in_the_middle_of_a_frame() {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let ends = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let mut stream = Stream::new(ends.0, Prefix::U32);
        let mut sent = Vec::new();
        while !stream.has_rest() {
            let frame = frame(1000 + sent.len() % 500, sent.len() as u8);
            stream.send(&frame, Offload::None).unwrap();
            stream.flush().unwrap();
            sent.push(Ok(frame));
        }
        assert_eq!(stream.send(&frame(60, 0), Offload::None), Err(Undelivered::Full));
        // It goes on where it was, and nothing is lost or doubled.
        let (mut octets, mut chunk) = (Vec::new(), vec![0; 4096]);
        loop {
            match read(&ends.1, &mut *chunk) {
                Ok(came) => octets.extend_from_slice(&chunk[..came]),
                Err(Errno::AGAIN) if stream.has_rest() => stream.flush().unwrap(),
                Err(Errno::AGAIN) => break,
                Err(errno) => panic!("{errno}"),
            }
        }
        assert!(taken_apart(Prefix::U32, &octets, &[usize::MAX]) == (sent, Ok(())));
        stream.send(&frame(60, 0), Offload::None).unwrap();
    }
}
