//! A port behind one descriptor, from and to which system calls carry frames: a TAP device, a
//! socket.
//!
//! Frames that were read wait in memory of the port's own, as those of a guest wait in its ring,
//! until they are dealt with.

#![expect(unsafe_code, reason = "frames are spans of the port's own memory, which it keeps")]

use super::{Delivered, Port, PortFailure, Undelivered, Wakeup, Watch, calls, rest::Rest};
use crate::{
    dataplane::{
        counters::PortCounters,
        frame::{
            BURST, BURST_OCTETS, Burst, FrameSet, HEAD_LEN, MAX_FRAME_LEN, Outgoing,
            offload::{self, Offloads},
            slab::Slab,
            verdict::DropReason,
        },
    },
    wire::{
        ethernet,
        vnet::{self, Offload, UnknownOffload},
    },
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, read, writev},
};
use std::{
    fmt,
    io::{self, IoSlice},
    mem,
    ops::Range,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    slice::ChunksExactMut,
    sync::Arc,
};
use zerocopy::IntoBytes as _;

/// Octets of a buffer: the longest frame, and what a transport puts before it.
// More than that by one: what is longer is seen to be. A whole number of pages each.
const BUFFER: usize = (64 + MAX_FRAME_LEN + 1).next_multiple_of(4096);

/// What carries the frames of a [`DescriptorPort`]. It never waits.
pub trait Transport: fmt::Debug + Send + 'static {
    /// What it takes unfinished.
    const ACCEPTS: Offloads;
    /// Whether each read is a whole frame.
    const MESSAGES: bool = true;

    /// Readable when a frame waits, and writable when one can be sent.
    fn fd(&self) -> BorrowedFd<'_>;

    /// What is writable when a frame can be sent, where that is another.
    fn writable(&self) -> BorrowedFd<'_> {
        self.fd()
    }

    /// Reads what has come, until there is no more or the inbox is full.
    fn receive(&mut self, inbox: &mut Inbox) -> Result<(), PortFailure>;

    /// Sends one frame, whole or not at all; or takes it, to be sent with others.
    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), Undelivered>;

    /// Sends the frames that it took since the last call, together. Returns how many of them it
    /// could not send, the last ones, and why; those are the caller's again.
    fn send_taken(&mut self) -> Result<(), (usize, Undelivered)> {
        Ok(())
    }

    /// Writes what frames were made into that it has taken for good, as far as that goes.
    fn flush(&mut self) -> Result<(), PortFailure> {
        Ok(())
    }

    /// Returns its descriptors, and puts into `rest` what is in none of them.
    fn save(&self, _rest: &mut Rest) -> io::Result<Vec<OwnedFd>> {
        Ok(vec![self.fd().try_clone_to_owned()?])
    }

    /// Whether something is left to be written: it is to be woken when it can go on.
    fn has_rest(&self) -> bool {
        false
    }
}

/// A frame that was read.
#[derive(Debug, Clone)]
pub struct Received {
    /// Where it is in the buffer.
    pub octets: Range<usize>,
    /// What its sender left to be done, or why it is no frame.
    pub offload: Result<Offload, DropReason>,
}

impl Received {
    /// Returns a frame without a header that would say what is left to be done.
    pub fn plain(octets: Range<usize>) -> Self {
        Self { octets, offload: Ok(Offload::None) }
    }

    /// Returns what has the octets of no frame.
    pub fn invalid(reason: DropReason) -> Self {
        Self { octets: 0..0, offload: Err(reason) }
    }
}

/// The frames that were read and wait, each in a buffer of its own.
#[derive(Debug)]
pub struct Inbox {
    slab: Slab,
    /// The frames that wait, from number `first` on; each is in the buffer of its place here.
    waiting: Box<[Option<Received>]>,
    first: usize,
    len: usize,
    /// Octets of them.
    octets: usize,
    /// Those that are dealt with: they are behind one that is not.
    done: FrameSet,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            slab: Slab::new(BURST, BUFFER)?,
            waiting: vec![None; BURST].into(),
            first: 0,
            len: 0,
            octets: 0,
            done: FrameSet::EMPTY,
        })
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends what waits to an empty burst.
    pub(super) fn poll(&self, burst: &mut Burst) {
        for at in self.places() {
            let Some(received) = &self.waiting[at] else { continue };
            let (frame, _) = burst.push();
            frame.pieces = 0..0;
            frame.len = received.octets.len().min(MAX_FRAME_LEN);
            match received.offload {
                Err(reason) => frame.invalid = Some(reason),
                _ if received.octets.len() > MAX_FRAME_LEN => {
                    frame.invalid = Some(DropReason::FrameTooLong);
                }
                _ if frame.len < ethernet::HEADER_LEN => {
                    frame.invalid = Some(DropReason::FrameTooShort);
                }
                Ok(offload) => frame.offload = offload,
            }
            // SAFETY: a burst's spans are used while its port is there: both are the reactor's,
            // which empties the burst before it polls again.
            let whole = unsafe { self.slab.span(at, received.octets.clone()) };
            frame.head_len = frame.len.min(HEAD_LEN);
            frame.tail = whole.skip(whole.copy_to_slice(&mut frame.head[..frame.head_len]));
        }
        burst.done = self.done;
    }

    /// Takes which frames of the last burst are dealt with.
    pub(super) fn complete(&mut self, done: FrameSet) {
        let gone = done.leading().min(self.len);
        self.remove_oldest(gone);
        self.done = done.without_leading(gone);
    }

    /// Returns the places of the frames that wait, the oldest first.
    fn places(&self) -> impl Iterator<Item = usize> + use<> {
        (self.first..self.first + self.len).map(|at| at % BURST)
    }

    /// Whether as much waits as is dealt with at a time.
    pub fn is_full(&self) -> bool {
        self.len == BURST || self.octets >= BURST_OCTETS
    }

    /// Returns the buffer for the next frame. There is one where it is not full.
    pub fn buffer(&mut self) -> &mut [u8] {
        self.slab.buffer((self.first + self.len) % BURST)
    }

    /// Returns the buffers for the next frames, at most as many as `octets` of each would fill it
    /// with.
    pub fn buffers(&mut self, octets: usize) -> ChunksExactMut<'_, u8> {
        let next = (self.first + self.len) % BURST;
        let room = (BURST_OCTETS.saturating_sub(self.octets)).div_ceil(octets.max(1));
        // Those that follow one another in memory: the others are for the next call.
        let count = room.min(BURST - self.len).min(BURST - next);
        self.slab.buffers(next..next + count).chunks_exact_mut(BUFFER)
    }

    /// Takes what was read into the next buffer.
    pub fn push(&mut self, received: Received) {
        self.octets += received.octets.len();
        self.waiting[(self.first + self.len) % BURST] = Some(received);
        self.len += 1;
    }

    /// Returns one of the next buffers.
    pub fn ahead(&mut self, ahead: usize) -> &[u8] {
        self.slab.buffer((self.first + self.len) % BURST + ahead)
    }

    /// Takes what was read into one of the next buffers, those before which hold nothing.
    pub fn push_from(&mut self, ahead: usize, received: Received) {
        if ahead > 0 {
            let next = (self.first + self.len) % BURST;
            let between = self.slab.buffers(next..next + ahead + 1);
            between.copy_within(ahead * BUFFER..ahead * BUFFER + received.octets.end, 0);
        }
        self.push(received);
    }

    /// Takes frames that waited with another process, as far as there is room.
    fn restore(&mut self, frames: &[Vec<u8>]) {
        for frame in frames {
            if self.is_full() || frame.len() > MAX_FRAME_LEN {
                break;
            }
            self.buffer()[..frame.len()].copy_from_slice(frame);
            self.push(Received::plain(0..frame.len()));
        }
    }

    /// Returns the octets of a frame that waits, where nothing is left to be done about it.
    fn whole(&self, at: usize) -> Option<Vec<u8>> {
        let received = self.waiting[at].as_ref()?;
        if received.offload != Ok(Offload::None) {
            return None;
        }
        // SAFETY: the span is gone when this returns.
        let span = unsafe { self.slab.span(at, received.octets.clone()) };
        let mut octets = vec![0; received.octets.len()];
        span.copy_to_slice(&mut octets);
        Some(octets)
    }

    fn remove_oldest(&mut self, count: usize) {
        for at in self.places().take(count) {
            self.octets -= self.waiting[at].take().map_or(0, |received| received.octets.len());
        }
        self.first = (self.first + count) % BURST;
        self.len -= count;
    }
}

/// Reads frames behind virtio-net headers, as TAP devices have them, one with each call.
pub(super) fn read_frames(fd: impl AsFd, inbox: &mut Inbox) -> Result<(), Errno> {
    while !inbox.is_full() {
        match read_frame(&fd, inbox.buffer())? {
            Some(received) => inbox.push(received),
            None => break,
        }
    }
    Ok(())
}

/// Reads a frame behind a virtio-net header. Returns none where none waits.
pub(super) fn read_frame(fd: impl AsFd, buffer: &mut [u8]) -> Result<Option<Received>, Errno> {
    match calls::made(read(fd, &mut *buffer)) {
        // Each frame has a header: the other end was closed.
        Ok(0) => Err(Errno::PIPE),
        Ok(len) => {
            // What is shorter than its header is a frame without octets.
            let octets = vnet::HEADER_LEN..len.max(vnet::HEADER_LEN);
            let header = buffer.first_chunk().copied().unwrap_or(vnet::Header::PLAIN);
            let offload = vnet::Header::from(header).offload();
            let unknown = |UnknownOffload| DropReason::UnexpectedSegmentation;
            Ok(Some(Received { octets, offload: offload.map_err(unknown) }))
        }
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Writes a frame behind a virtio-net header.
pub(super) fn write_frame(fd: impl AsFd, frame: &[u8], offload: Offload) -> Result<(), Errno> {
    // Whoever reads it finds the length of all headers of a frame to be segmented by itself.
    let header = vnet::Header::to_guest(offload, 0, 1);
    let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(frame)];
    calls::made(writev(fd, &parts)).map(|_| ())
}

/// A port that reads from and writes to a [`Transport`]. It has one queue.
#[derive(Debug)]
pub struct DescriptorPort<T> {
    transport: T,
    inbox: Inbox,
    /// Nothing could be sent the last time.
    is_full: bool,
    /// It is watched for being writable, too.
    wants_room: bool,
    /// What failed since the last [`Port::notify`].
    failed: Option<PortFailure>,
    /// How many frames of the transport each frame of a delivery has come to, with those before.
    sent: Vec<usize>,
    /// Holds a frame that is sent.
    whole: Box<[u8]>,
    counters: Arc<PortCounters>,
}

impl<T: Transport> DescriptorPort<T> {
    /// Returns a port, which needs memory for its frames.
    pub fn new(transport: T) -> io::Result<Self> {
        Ok(Self {
            transport,
            inbox: Inbox::new()?,
            is_full: false,
            wants_room: false,
            failed: None,
            sent: Vec::with_capacity(BURST),
            whole: vec![0; MAX_FRAME_LEN].into(),
            counters: Arc::default(),
        })
    }

    /// Returns a port that begins with frames that waited with another process.
    pub fn with_frames(transport: T, frames: &[Vec<u8>]) -> io::Result<Self> {
        let mut port = Self::new(transport)?;
        port.inbox.restore(frames);
        Ok(port)
    }

    /// Reads what has come, as far as it can wait here.
    fn fill(&mut self) -> Result<(), PortFailure> {
        if self.inbox.is_full() { Ok(()) } else { self.transport.receive(&mut self.inbox) }
    }

    /// Sends one frame, or all that it is cut into. Returns how many those were.
    fn send(&mut self, frame: &Outgoing<'_>) -> Result<usize, Undelivered> {
        let (mut sent, mut refused) = (0, None);
        offload::finish(frame, T::ACCEPTS, &mut self.whole, |octets, offload| {
            if refused.is_none() {
                refused = self.transport.send(octets, offload).err();
                sent += usize::from(refused.is_none());
            }
        });
        if frame.offload != Offload::None {
            self.counters.finished(frame.offload, T::ACCEPTS, sent as u64);
        }
        match refused {
            // Segments that find no room are lost: those before them cannot be taken back.
            Some(Undelivered::Full | Undelivered::TooLarge) if sent > 0 => Ok(sent),
            Some(why) => Err(why),
            None => Ok(sent),
        }
    }

    /// Sends frames until one is refused.
    fn send_all(&mut self, frames: &[Outgoing<'_>]) -> Delivered {
        self.sent.clear();
        let (mut count, mut refused) = (0, None);
        for frame in frames {
            match self.send(frame) {
                Ok(sent) => count += sent,
                Err(why) => {
                    refused = Some(why);
                    break;
                }
            }
            self.sent.push(count);
        }
        if let Err((unsent, why)) = self.transport.send_taken() {
            // As above: a frame counts as taken of which a part was.
            let gone = count - unsent;
            let before = |at: usize| if at == 0 { 0 } else { self.sent[at - 1] };
            let taken = (0..self.sent.len()).take_while(|at| before(*at) < gone).count();
            return Delivered { taken, refused: Some(why) };
        }
        Delivered { taken: self.sent.len(), refused }
    }
}

impl<T: Transport> Port for DescriptorPort<T> {
    fn queues(&self) -> usize {
        1
    }

    fn count_in(&mut self, counters: &Arc<PortCounters>) {
        self.counters = Arc::clone(counters);
    }

    fn runs(&self, queue: usize) -> bool {
        queue == 0
    }

    fn wakeup(&self, _queue: usize) -> Option<Wakeup<'_>> {
        let fd = self.transport.fd();
        // Only while something is left to be written: a socket that is read from can be written to
        // again, and would wake for each frame.
        Some(if self.wants_room { Wakeup::ReadOrWrite(fd) } else { Wakeup::Read(fd) })
    }

    fn poll(&mut self, _queue: usize, burst: &mut Burst) -> Result<(), PortFailure> {
        // The wake-up may have been for writing.
        let flushed = if self.transport.has_rest() { self.transport.flush() } else { Ok(()) };
        let filled = flushed.and_then(|()| self.fill());
        calls::charge(&self.counters);
        filled?;
        self.inbox.poll(burst);
        Ok(())
    }

    fn complete(&mut self, _queue: usize, done: FrameSet) {
        self.inbox.complete(done);
    }

    fn arm(&mut self, _queue: usize) -> Result<bool, PortFailure> {
        // Whatever comes from now on finds the descriptor drained, and wakes.
        let filled = self.fill();
        calls::charge(&self.counters);
        filled?;
        Ok(!self.inbox.is_empty())
    }

    fn wakes_unasked(&self, _queue: usize) -> bool {
        // Its descriptor is watched all the time, and an empty poll has drained it.
        true
    }

    fn has_room(&mut self, _queue: usize) -> bool {
        if self.is_full {
            // Asked while a frame waits, and not for long (`HOLD`): nothing else would tell.
            let mut fds = [PollFd::from_borrowed_fd(self.transport.writable(), PollFlags::OUT)];
            self.is_full = poll(&mut fds, Some(&Timespec::default())) == Ok(0);
        }
        !self.is_full
    }

    fn deliver(&mut self, frames: &[Outgoing<'_>], _queue: usize) -> Delivered {
        let delivered = self.send_all(frames);
        calls::charge(&self.counters);
        self.is_full = delivered.refused == Some(Undelivered::Full);
        delivered
    }

    fn publish(&mut self) {
        if let Err(failure) = self.transport.flush() {
            self.failed = Some(failure);
        }
        calls::charge(&self.counters);
    }

    fn save(&self) -> io::Result<(Vec<OwnedFd>, Rest)> {
        let waits = self.inbox.places().enumerate();
        let waits = waits.filter(|(at, _)| !self.inbox.done.contains(*at));
        // What its sender left to be done is not told on: such a frame is lost, as on a busy link.
        let frames = waits.filter_map(|(_, at)| self.inbox.whole(at)).collect();
        let mut rest = Rest { frames, ..Rest::default() };
        let fds = self.transport.save(&mut rest)?;
        Ok((fds, rest))
    }

    fn is_of_messages(&self) -> bool {
        T::MESSAGES
    }

    fn notify(&mut self) -> Result<Watch, PortFailure> {
        if let Some(failure) = self.failed.take() {
            return Err(failure);
        }
        let wanted = mem::replace(&mut self.wants_room, self.transport.has_rest());
        Ok(if wanted == self.wants_room { Watch::Same } else { Watch::Other })
    }
}
