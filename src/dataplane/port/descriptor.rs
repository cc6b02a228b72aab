//! A port behind one descriptor, from and to which each system call carries one frame: a TAP
//! device, a socket.
//!
//! Frames that were read wait in memory of the port's own, as those of a guest wait in its ring,
//! until they are dealt with.

#![expect(unsafe_code, reason = "frames are spans of the port's own memory, which it keeps")]

use super::{Delivered, Port, PortFailure, Undelivered, Wakeup};
use crate::{
    dataplane::frame::{
        BURST, BURST_OCTETS, Burst, FrameSet, HEAD_LEN, MAX_FRAME_LEN, Outgoing,
        offload::{self, Offloads},
        slab::Slab,
        verdict::DropReason,
    },
    wire::{
        ethernet,
        vnet::{self, Offload, UnknownOffload},
    },
};
use rustix::io::{Errno, read, writev};
use std::{
    fmt,
    io::{self, IoSlice},
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
};
use zerocopy::IntoBytes as _;

/// Octets of a buffer: the longest frame, and what a transport puts before it.
// More than that by one: what is longer is seen to be. A whole number of pages each.
const BUFFER: usize = (64 + MAX_FRAME_LEN + 1).next_multiple_of(4096);

/// What carries the frames of a [`DescriptorPort`]. It never waits.
pub trait Transport: fmt::Debug + Send + 'static {
    /// What it takes unfinished.
    const ACCEPTS: Offloads;

    /// Readable when a frame waits, and writable when one can be sent.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Reads one frame into `buffer`, if there is one.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<Received>, PortFailure>;

    /// Sends one frame, whole or not at all.
    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), Undelivered>;
}

/// A frame that was read.
#[derive(Debug, Clone)]
pub struct Received {
    /// Where it is in the buffer.
    pub octets: Range<usize>,
    /// What its sender left to be done.
    pub offload: Result<Offload, UnknownOffload>,
}

/// Reads a frame behind a virtio-net header, as TAP devices have it. Returns none where none waits.
pub(super) fn read_frame(fd: impl AsFd, buffer: &mut [u8]) -> Result<Option<Received>, Errno> {
    match read(fd, &mut *buffer) {
        // Each frame has a header: the other end was closed.
        Ok(0) => Err(Errno::PIPE),
        Ok(len) => {
            // What is shorter than its header is a frame without octets.
            let octets = vnet::HEADER_LEN..len.max(vnet::HEADER_LEN);
            let header = buffer.first_chunk().copied().unwrap_or(vnet::Header::PLAIN);
            Ok(Some(Received { octets, offload: vnet::Header::from(header).offload() }))
        }
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Writes a frame behind a virtio-net header.
pub(super) fn write_frame(fd: impl AsFd, frame: &[u8], offload: Offload) -> Result<(), Errno> {
    // Whoever reads it finds the length of all headers of a frame to be segmented by itself.
    let header = vnet::Header::to_guest(offload, 0, 1);
    writev(fd, &[IoSlice::new(header.as_bytes()), IoSlice::new(frame)]).map(|_| ())
}

/// A port that reads from and writes to a [`Transport`]. It has one queue.
#[derive(Debug)]
pub struct DescriptorPort<T> {
    transport: T,
    slab: Slab,
    /// The frames that wait, from number `first` on; each is in the buffer of its place here.
    waiting: Box<[Option<Received>]>,
    first: usize,
    len: usize,
    /// Those that are dealt with: they are behind one that is not.
    done: FrameSet,
    /// Nothing could be sent the last time, and no wake-up came since.
    is_full: bool,
    /// Holds a frame that is sent.
    whole: Box<[u8]>,
}

impl<T: Transport> DescriptorPort<T> {
    /// Returns a port, which needs memory for its frames.
    pub fn new(transport: T) -> io::Result<Self> {
        Ok(Self {
            transport,
            slab: Slab::new(BURST, BUFFER)?,
            waiting: vec![None; BURST].into(),
            first: 0,
            len: 0,
            done: FrameSet::EMPTY,
            is_full: false,
            whole: vec![0; MAX_FRAME_LEN].into(),
        })
    }

    /// Returns the places of the frames that wait, the oldest first.
    fn places(&self) -> impl Iterator<Item = usize> + use<T> {
        (self.first..self.first + self.len).map(|at| at % BURST)
    }

    /// Reads what has come, as far as it can wait here.
    fn fill(&mut self) -> Result<(), PortFailure> {
        let len = |received: &Option<Received>| received.as_ref().map_or(0, |r| r.octets.len());
        let mut octets: usize = self.places().map(|at| len(&self.waiting[at])).sum();
        while self.len < BURST && octets < BURST_OCTETS {
            let at = (self.first + self.len) % BURST;
            let Some(received) = self.transport.receive(self.slab.buffer(at))? else { break };
            octets += received.octets.len();
            self.waiting[at] = Some(received);
            self.len += 1;
        }
        Ok(())
    }

    /// Sends one frame, or all that it is cut into.
    fn send(&mut self, frame: &Outgoing<'_>) -> Result<(), Undelivered> {
        let (mut sent, mut refused) = (false, None);
        offload::finish(frame, T::ACCEPTS, &mut self.whole, |octets, offload| {
            if refused.is_none() {
                refused = self.transport.send(octets, offload).err();
                sent |= refused.is_none();
            }
        });
        match refused {
            // Segments that find no room are lost: those before them cannot be taken back.
            Some(Undelivered::Full | Undelivered::TooLarge) if sent => Ok(()),
            Some(why) => Err(why),
            None => Ok(()),
        }
    }
}

impl<T: Transport> Port for DescriptorPort<T> {
    fn queues(&self) -> usize {
        1
    }

    fn runs(&self, queue: usize) -> bool {
        queue == 0
    }

    fn wakeup(&self, _queue: usize) -> Option<Wakeup<'_>> {
        Some(Wakeup::ReadOrWrite(self.transport.fd()))
    }

    fn poll(&mut self, _queue: usize, burst: &mut Burst) -> Result<(), PortFailure> {
        // The wake-up may have been for writing.
        self.is_full = false;
        self.fill()?;
        for at in self.places() {
            let Some(received) = &self.waiting[at] else { continue };
            let (frame, _) = burst.push();
            frame.pieces = 0..0;
            frame.len = received.octets.len().min(MAX_FRAME_LEN);
            match received.offload {
                _ if received.octets.len() > MAX_FRAME_LEN => {
                    frame.invalid = Some(DropReason::FrameTooLong);
                }
                _ if frame.len < ethernet::HEADER_LEN => {
                    frame.invalid = Some(DropReason::FrameTooShort);
                }
                Err(UnknownOffload) => frame.invalid = Some(DropReason::UnexpectedSegmentation),
                Ok(offload) => frame.offload = offload,
            }
            // SAFETY: a burst's spans are used while its port is there: both are the reactor's,
            // which empties the burst before it polls again.
            let whole = unsafe { self.slab.span(at, received.octets.clone()) };
            frame.head_len = frame.len.min(HEAD_LEN);
            frame.tail = whole.skip(whole.copy_to_slice(&mut frame.head[..frame.head_len]));
        }
        burst.done = self.done;
        Ok(())
    }

    fn complete(&mut self, _queue: usize, done: FrameSet) {
        let gone = done.leading().min(self.len);
        self.first = (self.first + gone) % BURST;
        self.len -= gone;
        self.done = done.without_leading(gone);
    }

    fn arm(&mut self, _queue: usize) -> Result<bool, PortFailure> {
        // Whatever comes from now on finds the descriptor drained, and wakes.
        self.fill()?;
        Ok(self.len > 0)
    }

    fn has_room(&mut self, _queue: usize) -> bool {
        !self.is_full
    }

    fn deliver(&mut self, frames: &[Outgoing<'_>], _queue: usize) -> Delivered {
        for (taken, frame) in frames.iter().enumerate() {
            if let Err(why) = self.send(frame) {
                self.is_full = why == Undelivered::Full;
                return Delivered { taken, refused: Some(why) };
            }
        }
        Delivered::all(frames.len())
    }
}
