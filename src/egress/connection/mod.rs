//! A TCP connection of a vNIC, of which this is the other end (RFC 9293): what the vNIC sends goes
//! to a socket of the host, and what that says to the vNIC.
//!
//! ```text
//!  Dialing ─connected▶ Answering ─ACK▶ Open     the vNIC has called: first the host, then SYN-ACK
//!  Calling ─SYN-ACK──────────────────▶ Open     somebody has called the vNIC
//! ```
//! The vNIC is in this host, so the line is short and loses only what finds no buffer: it is enough
//! to take what comes in order, and to send again from where the vNIC has stopped (go-back-N). What
//! counts is long segments: up to 64 KiB, which devices cut.
//!
//! Takes segments, events of the socket, and the time; returns segments. Refuses what is outside of
//! its window, as RFC 5961 wants it.

use super::{
    buffer::{LARGEST, Purse, Ring},
    compose::MAX_PACKET_LEN,
};
use crate::wire::tcp::{ACK, FIN, PSH, RST, SYN, Segment};
use std::time::{Duration, Instant};

/// How long a host, or a vNIC that is called, may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be silent, and one that has been closed from either side.
const IDLE: Duration = Duration::from_secs(7200);
const IDLE_CLOSED: Duration = Duration::from_secs(60);
/// How long large buffers stay with a connection that is silent.
const IDLE_BUFFERS: Duration = Duration::from_secs(1);
/// The first time to wait for an acknowledgment: not less than guests may hold it back (RFC 9293
/// §3.8.6.3 allows half a second, Linux takes 40 to 200 ms).
const RETRY: Duration = Duration::from_millis(250);
/// How often it doubles, and how often it is tried again in all: five minutes.
const DOUBLINGS: u32 = 8;
const RETRIES: u32 = 12;
/// While the vNIC answers at all, it is asked at least so often: seconds.
const RETRIES_HEARD: u32 = 5;
/// Octets that a vNIC may send ahead, at first, and without window scaling.
const SMALLEST_WINDOW: u32 = 65_535;
/// Ours: windows of up to 8 MiB.
const SCALE: u8 = 7;
/// Octets sent ahead at first.
// Ten segments as RFC 6928 has it would be of 64 KiB here.
const INITIAL_WINDOW: u32 = 256 << 10;
/// The smallest segments that are made (Linux's TCP_MIN_MSS): each costs a header.
const SMALLEST_SEGMENT: u16 = 88;
/// Where a SYN does not say what it takes (RFC 9293 §3.7.1).
const DEFAULT_SEGMENT: u16 = 536;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The host has not answered yet.
    Dialing,
    /// It has; the vNIC is being told.
    Answering,
    /// The vNIC has not answered yet.
    Calling,
    Open,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    phase: Phase,
    /// Octets of payload in a segment to the vNIC, and in one from it.
    size: u16,
    own_size: u16,
    /// Octets of payload that a packet may have; of one segment at least.
    longest: usize,
    /// Of the vNIC's windows; none where it does not scale, and then nor do we.
    scale: Option<u8>,

    /// The oldest sequence number that the vNIC has not acknowledged, the one to be sent next, and
    /// that behind the last one that was ever sent.
    unacknowledged: u32,
    next: u32,
    highest: u32,
    /// From `unacknowledged` on.
    to_guest: Ring,
    guest_window: u32,
    /// What the line is thought to take at once.
    congestion: u32,
    duplicates: u8,
    host_ended: bool,
    fin_sent: bool,
    fin_acknowledged: bool,

    /// The sequence number that the vNIC is to send next, and the first that it may not send yet.
    expected: u32,
    edge: u32,
    /// What it may send ahead, and what it has sent since that was set.
    window: u32,
    delivered: u32,
    /// What the socket has not taken yet.
    to_host: Ring,
    guest_ended: bool,
    host_told: bool,
    /// The vNIC is owed an acknowledgment.
    owed: bool,

    since: Instant,
    active: Instant,
    retry_at: Option<Instant>,
    retries: u32,
    /// One octet is to be sent into a window of none.
    probe: bool,
}

/// A segment to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outgoing {
    /// Its header, but for the ports.
    pub segment: Segment,
    from: usize,
    /// Octets of its payload.
    pub len: usize,
}

/// What became of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is of the connection.
    Yes,
    /// It is of none.
    Stray,
    /// The vNIC has ended the connection at once.
    Reset,
}

/// What comes of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    /// The connection goes on; it may have something to send.
    GoesOn,
    /// Nobody has answered: it goes, and nobody is told.
    Silently,
    /// It goes, and both ends are told.
    Reset,
}

impl Connection {
    /// Returns one that a vNIC wants by `syn`. `first` is our sequence number, `own_size` what a
    /// segment from the vNIC may carry.
    pub fn from_guest(syn: &Segment, own_size: u16, first: u32, now: Instant) -> Self {
        let mut connection = Self::new(Phase::Dialing, own_size, first, now);
        connection.learn(syn);
        connection
    }

    /// Returns one that somebody else wants of a vNIC.
    pub fn to_guest(own_size: u16, first: u32, now: Instant) -> Self {
        Self::new(Phase::Calling, own_size, first, now)
    }

    fn new(phase: Phase, own_size: u16, first: u32, now: Instant) -> Self {
        Self {
            phase,
            size: own_size,
            own_size,
            // But for the longest header: of IPv6 and TCP.
            longest: MAX_PACKET_LEN - 60,
            scale: None,
            unacknowledged: first,
            next: first,
            highest: first,
            to_guest: Ring::default(),
            guest_window: 0,
            congestion: INITIAL_WINDOW,
            duplicates: 0,
            host_ended: false,
            fin_sent: false,
            fin_acknowledged: false,
            expected: 0,
            edge: 0,
            window: SMALLEST_WINDOW,
            delivered: 0,
            to_host: Ring::default(),
            guest_ended: false,
            host_told: false,
            owed: false,
            since: now,
            active: now,
            retry_at: None,
            retries: 0,
            probe: false,
        }
    }

    /// Has it send single segments: nobody cuts longer ones on their way.
    pub fn send_single_segments(&mut self) {
        self.longest = 0;
    }

    /// Takes what the vNIC's SYN says.
    fn learn(&mut self, syn: &Segment) {
        let size = syn.maximum_segment_size.unwrap_or(DEFAULT_SEGMENT).max(SMALLEST_SEGMENT);
        self.size = size.min(self.own_size);
        self.scale = syn.window_scale;
        self.expected = syn.sequence.wrapping_add(1);
        self.edge = self.expected;
        // That of a SYN is never scaled (RFC 7323 §2.2).
        self.guest_window = syn.window.into();
    }

    /// The host has answered.
    pub fn connected(&mut self, now: Instant) {
        if self.phase == Phase::Dialing {
            (self.phase, self.since, self.active) = (Phase::Answering, now, now);
        }
    }

    /// Whether the host has not answered yet.
    pub fn is_dialing(&self) -> bool {
        self.phase == Phase::Dialing
    }

    /// Takes a segment of the vNIC. What it carries goes to `write`, which returns how much of it
    /// the socket takes.
    pub fn take(
        &mut self,
        segment: &Segment,
        payload: &[u8],
        now: Instant,
        purse: &mut Purse<'_>,
        write: impl FnOnce(&[u8]) -> usize,
    ) -> Taken {
        if segment.flags & RST != 0 {
            return self.take_reset(segment);
        }
        match self.phase {
            // It asks again.
            Phase::Dialing => return Taken::Yes,
            Phase::Calling => return self.take_answer(segment, now),
            Phase::Answering | Phase::Open => {}
        }
        if segment.flags & SYN != 0 {
            // That of the same SYN has not heard of the answer; another one is of somebody who has
            // forgotten this connection, and will say so when told of it (RFC 5961 §4).
            let is_same = segment.sequence.wrapping_add(1) == self.expected;
            match self.phase {
                Phase::Answering if is_same => self.next = self.unacknowledged,
                _ => self.owed = true,
            }
            return Taken::Yes;
        }
        if segment.flags & ACK == 0 || !self.acknowledge(segment, payload, now) {
            return Taken::Stray;
        }
        self.active = now;
        self.take_payload(segment, payload, purse, write);
        Taken::Yes
    }

    fn take_reset(&mut self, segment: &Segment) -> Taken {
        let is_answer = self.phase == Phase::Calling
            && segment.flags & ACK != 0
            && segment.acknowledgment == self.unacknowledged.wrapping_add(1);
        // Exactly there, lest somebody who does not see the connection end it (RFC 5961 §3).
        let is_exact = self.phase != Phase::Calling && segment.sequence == self.expected;
        if is_answer || is_exact {
            return Taken::Reset;
        }
        self.owed |= self.phase == Phase::Open && self.is_in_window(segment.sequence);
        Taken::Stray
    }

    fn is_in_window(&self, sequence: u32) -> bool {
        sequence.wrapping_sub(self.expected) < self.edge.wrapping_sub(self.expected)
    }

    fn take_answer(&mut self, segment: &Segment, now: Instant) -> Taken {
        let is_answer = segment.flags & (SYN | ACK) == SYN | ACK
            && segment.acknowledgment == self.unacknowledged.wrapping_add(1)
            && self.highest != self.unacknowledged;
        if !is_answer {
            return Taken::Stray;
        }
        self.learn(segment);
        self.unacknowledged = segment.acknowledgment;
        self.next = segment.acknowledgment;
        (self.phase, self.owed, self.active) = (Phase::Open, true, now);
        (self.retry_at, self.retries) = (None, 0);
        Taken::Yes
    }

    /// Returns whether the segment acknowledges what was sent, now or before.
    fn acknowledge(&mut self, segment: &Segment, payload: &[u8], now: Instant) -> bool {
        let acknowledged = segment.acknowledgment.wrapping_sub(self.unacknowledged);
        let outstanding = self.highest.wrapping_sub(self.unacknowledged);
        if acknowledged > outstanding {
            // An old one is still good for what it carries; one of the future is of no use.
            let age = self.unacknowledged.wrapping_sub(segment.acknowledgment);
            return age <= LARGEST as u32 * 2 && self.phase == Phase::Open;
        }
        let scale = self.scale.unwrap_or(0);
        let window = u32::from(segment.window) << scale;
        let is_repeated = window == self.guest_window && payload.is_empty();
        self.guest_window = window;
        self.retries = self.retries.min(RETRIES_HEARD);
        if acknowledged == 0 {
            if self.phase == Phase::Answering {
                return false;
            }
            if is_repeated && outstanding > 0 && segment.flags & FIN == 0 {
                self.duplicate();
            }
            return true;
        }
        let mut octets = acknowledged;
        if self.phase == Phase::Answering {
            self.phase = Phase::Open;
            octets -= 1;
        }
        self.fin_acknowledged |= self.fin_sent && acknowledged == outstanding;
        self.to_guest.consume(octets as usize);
        self.unacknowledged = segment.acknowledgment;
        if is_before(self.next, self.unacknowledged) {
            self.next = self.unacknowledged;
        }
        self.congestion = (self.congestion + octets).min(LARGEST as u32);
        (self.duplicates, self.retries) = (0, 0);
        self.retry_at = (self.next != self.unacknowledged).then(|| now + RETRY);
        true
    }

    /// The vNIC has said again what it waits for.
    fn duplicate(&mut self) {
        self.duplicates = self.duplicates.saturating_add(1);
        // The third time it is not for want of order (RFC 5681 §3.2).
        if self.duplicates == 3 {
            self.next = self.unacknowledged;
            self.shrink_congestion();
        }
    }

    fn shrink_congestion(&mut self) {
        self.congestion = (self.congestion / 2).max(2 * u32::from(self.size));
    }

    fn take_payload(
        &mut self,
        segment: &Segment,
        payload: &[u8],
        purse: &mut Purse<'_>,
        write: impl FnOnce(&[u8]) -> usize,
    ) {
        let has_fin = segment.flags & FIN != 0;
        let skip = self.expected.wrapping_sub(segment.sequence);
        if payload.is_empty() && !has_fin {
            // One that is behind asks whether we are there (RFC 9293 §3.8.4).
            self.owed |= skip != 0;
            return;
        }
        self.owed = true;
        let Some(new) = payload.get(skip as usize..).filter(|_| !self.guest_ended) else {
            return;
        };
        let allowed = self.edge.wrapping_sub(self.expected) as usize;
        let offered = &new[..new.len().min(allowed)];
        // What came before goes first.
        let written =
            if offered.is_empty() || !self.to_host.is_empty() { 0 } else { write(offered) };
        let rest = &offered[written.min(offered.len())..];
        if !rest.is_empty() {
            self.to_host.reserve(rest.len(), purse);
        }
        let taken = written + self.to_host.push(rest);
        self.expected = self.expected.wrapping_add(taken as u32);
        self.grow_window(taken as u32);
        if has_fin && taken == new.len() {
            self.expected = self.expected.wrapping_add(1);
            self.guest_ended = true;
        }
    }

    /// Lets a vNIC whose octets go on at once send more ahead.
    fn grow_window(&mut self, delivered: u32) {
        self.delivered = self.delivered.saturating_add(delivered);
        if self.delivered >= self.window && self.to_host.is_empty() && self.scale.is_some() {
            self.window = (self.window * 2).min(LARGEST as u32);
            self.delivered = 0;
        }
    }

    /// Hands the socket what it has not taken before. `write` returns how much of both parts it
    /// takes now.
    pub fn flush(&mut self, now: Instant, write: impl FnOnce(&[u8], &[u8]) -> usize) {
        let (first, second) = self.to_host.slices(0, usize::MAX);
        let written = write(first, second);
        if written > 0 {
            self.to_host.consume(written);
            self.active = now;
            // Where it had hardly any, the vNIC waits to hear of its window.
            let left = self.edge.wrapping_sub(self.expected);
            self.owed |= left < self.window / 2;
        }
    }

    /// Whether the socket has not taken all yet.
    pub fn has_to_flush(&self) -> bool {
        !self.to_host.is_empty()
    }

    /// Whether the host is to hear, once, that no more will come.
    pub fn ends_host(&mut self) -> bool {
        let is_due = self.guest_ended && self.to_host.is_empty() && !self.host_told;
        self.host_told |= is_due;
        is_due
    }

    /// Returns where what the host says is to be put; nothing where there is no room for it.
    pub fn room(&mut self, purse: &mut Purse<'_>) -> Option<&mut Ring> {
        if self.phase != Phase::Open || self.host_ended {
            return None;
        }
        // Twice what the vNIC takes: one part is on its way, and the next one is ready. Little by
        // little: most say little.
        let most = (2 * self.guest_window.min(self.congestion) as usize).clamp(4096, LARGEST);
        if self.to_guest.room() == 0 && self.to_guest.len() < most {
            self.to_guest.reserve(self.to_guest.len().max(1), purse);
        }
        (self.to_guest.room() > 0).then_some(&mut self.to_guest)
    }

    /// Whether there is no room as there was no memory: nothing is on its way that makes some.
    pub fn waits_for_memory(&self) -> bool {
        self.phase == Phase::Open && !self.host_ended && self.to_guest.is_empty()
    }

    /// The host has said something.
    pub fn heard(&mut self, now: Instant) {
        self.active = now;
    }

    /// The host will say no more.
    pub fn host_ended(&mut self, now: Instant) {
        self.host_ended = true;
        self.active = now;
    }

    /// Returns what is to be sent next.
    pub fn next_segment(&mut self, now: Instant) -> Option<Outgoing> {
        match self.phase {
            Phase::Dialing => None,
            Phase::Answering => self.opening(SYN | ACK),
            Phase::Calling => self.opening(SYN),
            Phase::Open => self.data(now),
        }
    }

    fn opening(&self, flags: u8) -> Option<Outgoing> {
        if self.next != self.unacknowledged {
            return None;
        }
        let offers_scale = flags & ACK == 0 || self.scale.is_some();
        let segment = Segment {
            sequence: self.next,
            acknowledgment: self.expected,
            flags,
            window: SMALLEST_WINDOW as u16,
            maximum_segment_size: Some(self.own_size),
            window_scale: offers_scale.then_some(SCALE),
            ..Segment::default()
        };
        Some(Outgoing { segment, from: 0, len: 0 })
    }

    fn data(&mut self, now: Instant) -> Option<Outgoing> {
        let from = self.next.wrapping_sub(self.unacknowledged) as usize;
        let waiting = self.to_guest.len().saturating_sub(from);
        let window = self.guest_window.min(self.congestion) as usize;
        let mut len = waiting.min(window.saturating_sub(from)).min(self.longest());
        // A window that is nearly full is waited for, lest segments become ever shorter (RFC 9293
        // §3.8.6.2.1).
        if len < waiting && len < usize::from(self.size) && from > 0 {
            len = 0;
        }
        if self.probe && len == 0 && waiting > 0 && from == 0 {
            len = 1;
        }
        let is_last = from + len == self.to_guest.len();
        let has_fin = self.host_ended && is_last && !self.fin_acknowledged;
        if len == 0 && !has_fin {
            if waiting > 0 && from == 0 && self.retry_at.is_none() {
                // Only the vNIC can say that its window is open again, and that may get lost.
                self.retry_at = Some(now + RETRY);
            }
            if !self.owed {
                return None;
            }
        }
        let mut flags = ACK;
        flags |= if len > 0 && is_last { PSH } else { 0 };
        flags |= if has_fin { FIN } else { 0 };
        let segment = Segment { flags, ..self.acknowledgment() };
        Some(Outgoing { segment, from, len })
    }

    /// Octets of payload that a packet may have: of whole segments.
    fn longest(&self) -> usize {
        let size = usize::from(self.size);
        (self.longest / size * size).max(size)
    }

    /// Returns a segment without payload, with the window as it is.
    fn acknowledgment(&self) -> Segment {
        let scale = self.scale.map_or(0, |_| SCALE);
        let window = (self.right_edge().wrapping_sub(self.expected) >> scale).min(0xffff);
        Segment {
            sequence: self.next,
            acknowledgment: self.expected,
            flags: ACK,
            window: window as u16,
            ..Segment::default()
        }
    }

    /// Returns the first sequence number that the vNIC may not send yet. It never goes back.
    fn right_edge(&self) -> u32 {
        let room = self.window.saturating_sub(self.to_host.len() as u32);
        let edge = self.expected.wrapping_add(room);
        if is_before(edge, self.edge) { self.edge } else { edge }
    }

    /// Returns the payload of a segment.
    pub fn payload(&self, outgoing: &Outgoing) -> (&[u8], &[u8]) {
        self.to_guest.slices(outgoing.from, outgoing.len)
    }

    /// Returns what a segment of it is cut into.
    pub fn segment_size(&self) -> u16 {
        self.size
    }

    /// A segment is on its way.
    pub fn sent(&mut self, outgoing: &Outgoing, now: Instant) {
        let flags = outgoing.segment.flags;
        let numbers = outgoing.len as u32 + u32::from(flags & (SYN | FIN) != 0);
        self.next = self.next.wrapping_add(numbers);
        if is_before(self.highest, self.next) {
            self.highest = self.next;
        }
        self.fin_sent |= flags & FIN != 0;
        self.owed = false;
        self.probe = false;
        if flags & SYN != 0 {
            self.edge = self.expected.wrapping_add(SMALLEST_WINDOW);
        } else {
            let scale = self.scale.map_or(0, |_| SCALE);
            let edge = self.expected.wrapping_add(u32::from(outgoing.segment.window) << scale);
            if is_before(self.edge, edge) {
                self.edge = edge;
            }
        }
        if numbers > 0 && self.retry_at.is_none() {
            self.retry_at = Some(now + self.retry());
        }
    }

    fn retry(&self) -> Duration {
        RETRY * (1 << self.retries.min(DOUBLINGS))
    }

    /// Returns the segment that ends it at once.
    pub fn reset(&self) -> Segment {
        Segment { flags: RST | ACK, window: 0, ..self.acknowledgment() }
    }

    /// Whether both ends have closed it, and know of each other.
    pub fn is_over(&self) -> bool {
        self.guest_ended && self.fin_acknowledged && self.to_host.is_empty() && !self.owed
    }

    /// Returns when it must be looked at again.
    pub fn deadline(&self) -> Instant {
        let mut deadline = match self.phase {
            Phase::Open => self.active + self.idle(),
            _ => self.since + CONNECT_TIMEOUT,
        };
        if self.to_guest.is_idle() || self.to_host.is_idle() {
            deadline = deadline.min(self.active + IDLE_BUFFERS);
        }
        self.retry_at.map_or(deadline, |at| deadline.min(at))
    }

    fn idle(&self) -> Duration {
        if self.host_ended || self.guest_ended { IDLE_CLOSED } else { IDLE }
    }

    /// Takes the time.
    pub fn expire(&mut self, now: Instant, purse: &mut Purse<'_>) -> Expired {
        let is_late = match self.phase {
            Phase::Open => now >= self.active + self.idle(),
            _ => now >= self.since + CONNECT_TIMEOUT,
        };
        if is_late {
            return match self.phase {
                Phase::Dialing => Expired::Silently,
                _ => Expired::Reset,
            };
        }
        if now >= self.active + IDLE_BUFFERS {
            let rings = [&mut self.to_guest, &mut self.to_host];
            rings.into_iter().filter(|ring| ring.is_idle()).for_each(|ring| ring.release(purse));
        }
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retries += 1;
            if self.retries > RETRIES {
                return Expired::Reset;
            }
            self.next = self.unacknowledged;
            self.probe = true;
            self.shrink_congestion();
            self.retry_at = Some(now + self.retry());
        }
        Expired::GoesOn
    }

    /// Gives its memory back.
    pub fn release(&mut self, purse: &mut Purse<'_>) {
        self.to_guest.release(purse);
        self.to_host.release(purse);
    }
}

/// Whether a sequence number comes before another one (RFC 9293 §3.4).
const fn is_before(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) < 0
}

/// Returns the answer to a segment of no connection (RFC 9293 §3.10.7.1); nothing where that ends
/// one itself.
pub fn refusal(segment: &Segment, payload_len: usize) -> Option<Segment> {
    if segment.flags & RST != 0 {
        return None;
    }
    if segment.flags & ACK != 0 {
        let sequence = segment.acknowledgment;
        return Some(Segment { sequence, flags: RST, ..Segment::default() });
    }
    let flags = u32::from(segment.flags & SYN != 0) + u32::from(segment.flags & FIN != 0);
    let acknowledgment = segment.sequence.wrapping_add(payload_len as u32).wrapping_add(flags);
    Some(Segment { acknowledgment, flags: RST | ACK, ..Segment::default() })
}

#[cfg(test)]
mod tests;
