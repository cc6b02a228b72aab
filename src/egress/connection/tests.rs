//! Conversations of a vNIC with a connection: what it says, and what it hears. The sequence numbers
//! begin at 1000 for the vNIC, and at 5000 for us.

use super::*;
use crate::egress::buffer::Memory;
use proptest::prelude::*;

const GUEST: u32 = 1000;
const OURS: u32 = 5000;

/// A connection, the socket of the host, and the time.
struct Line {
    tcp: Connection,
    memory: Memory,
    of_nic: u64,
    now: Instant,
    /// What the socket has taken, and how much more it takes.
    host: Vec<u8>,
    host_room: usize,
}

fn syn() -> Segment {
    Segment {
        sequence: GUEST,
        flags: SYN,
        window: 60_000,
        maximum_segment_size: Some(1460),
        window_scale: Some(7),
        ..Segment::default()
    }
}

fn from_guest(sequence: u32, acknowledgment: u32, flags: u8) -> Segment {
    Segment { sequence, acknowledgment, flags, window: 500, ..Segment::default() }
}

impl Line {
    fn dialing(syn: &Segment) -> Self {
        let now = Instant::now();
        let tcp = Connection::from_guest(syn, 1460, OURS, now);
        let (memory, host) = (Memory::new(64 << 20), Vec::new());
        Self { tcp, memory, of_nic: 0, now, host, host_room: usize::MAX }
    }

    /// One whose ends know of each other.
    fn open() -> Self {
        let mut line = Self::dialing(&syn());
        line.tcp.connected(line.now);
        line.hear();
        assert_eq!(line.say(from_guest(GUEST + 1, OURS + 1, ACK), b""), Taken::Yes);
        line
    }

    fn say(&mut self, segment: Segment, payload: &[u8]) -> Taken {
        let purse = &mut Purse { memory: &mut self.memory, of_nic: &mut self.of_nic };
        self.tcp.take(&segment, payload, self.now, purse, |octets| {
            let len = octets.len().min(self.host_room);
            self.host.extend(&octets[..len]);
            self.host_room -= len;
            len
        })
    }

    /// The host says something; returns how much of it there is room for.
    fn host_says(&mut self, mut octets: &[u8]) -> usize {
        let mut all = 0;
        loop {
            let purse = &mut Purse { memory: &mut self.memory, of_nic: &mut self.of_nic };
            let pushed = match self.tcp.room(purse) {
                Some(ring) if !octets.is_empty() => ring.push(octets),
                _ => return all,
            };
            octets = &octets[pushed..];
            all += pushed;
        }
    }

    /// Returns what the vNIC hears now.
    fn hear(&mut self) -> Vec<(Segment, Vec<u8>)> {
        let mut heard = Vec::new();
        while let Some(outgoing) = self.tcp.next_segment(self.now) {
            let (first, second) = self.tcp.payload(&outgoing);
            heard.push((outgoing.segment, [first, second].concat()));
            self.tcp.sent(&outgoing, self.now);
            assert!(heard.len() < 10_000, "it never ends");
        }
        heard
    }

    /// As [`Self::hear`]: sequence and acknowledgment numbers, flags, and octets of payload.
    fn numbers(&mut self) -> Vec<(u32, u32, u8, usize)> {
        let heard = self.hear().into_iter();
        heard.map(|(it, octets)| (it.sequence, it.acknowledgment, it.flags, octets.len())).collect()
    }

    fn wait(&mut self, time: Duration) -> Expired {
        self.now += time;
        let purse = &mut Purse { memory: &mut self.memory, of_nic: &mut self.of_nic };
        self.tcp.expire(self.now, purse)
    }
}

#[test]
fn the_vnic_hears_nothing_before_the_host_has_answered() {
    let mut line = Line::dialing(&syn());
    assert_eq!(line.say(syn(), b""), Taken::Yes);
    assert_eq!(line.hear(), []);
    line.tcp.connected(line.now);
    let answer = Segment {
        sequence: OURS,
        acknowledgment: GUEST + 1,
        flags: SYN | ACK,
        window: 65_535,
        maximum_segment_size: Some(1460),
        window_scale: Some(7),
        ..Segment::default()
    };
    assert_eq!(line.hear(), [(answer, vec![])]);
    assert_eq!(line.hear(), [], "once");
    assert_eq!(line.say(syn(), b""), Taken::Yes);
    assert_eq!(line.hear(), [(answer, vec![])], "but again to who asks again");
}

#[test]
fn a_host_that_does_not_answer_is_not_spoken_of() {
    let mut line = Line::dialing(&syn());
    assert_eq!(line.wait(Duration::from_millis(9999)), Expired::GoesOn);
    assert_eq!(line.wait(Duration::from_millis(1)), Expired::Silently);
}

#[test]
fn who_scales_no_windows_is_offered_none() {
    let mut line = Line::dialing(&Segment { window_scale: None, ..syn() });
    line.tcp.connected(line.now);
    assert_eq!(line.hear()[0].0.window_scale, None);
    line.say(Segment { window: 300, ..from_guest(GUEST + 1, OURS + 1, ACK) }, b"");
    line.host_says(&[7; 1000]);
    assert_eq!(line.numbers(), [(OURS + 1, GUEST + 1, ACK, 300)]);
}

#[test]
fn octets_go_both_ways_and_are_acknowledged() {
    let mut line = Line::open();
    assert_eq!(line.say(from_guest(GUEST + 1, OURS + 1, ACK | PSH), b"hello"), Taken::Yes);
    assert_eq!(line.host, b"hello");
    assert_eq!(line.numbers(), [(OURS + 1, GUEST + 6, ACK, 0)]);
    assert_eq!(line.host_says(b"good day"), 8);
    let heard = line.hear();
    assert_eq!((heard[0].0.flags, &heard[0].1[..]), (ACK | PSH, &b"good day"[..]));
    line.say(from_guest(GUEST + 6, OURS + 9, ACK), b"");
    assert_eq!(line.numbers(), []);
}

#[test]
fn segments_are_as_long_as_a_packet_can_be() {
    let mut line = Line::open();
    line.say(Segment { window: 2000, ..from_guest(GUEST + 1, OURS + 1, ACK) }, b"");
    assert_eq!(line.host_says(&[1; 100_000]), 100_000);
    // 44 segments of 1460 octets.
    let numbers = line.numbers();
    let lens = numbers.iter().map(|(.., len)| *len).collect::<Vec<_>>();
    assert_eq!(lens, [64_240, 35_760]);
    assert_eq!(line.tcp.segment_size(), 1460);
}

#[test]
fn what_came_before_and_what_is_out_of_order_is_not_taken_twice_or_early() {
    let mut line = Line::open();
    line.say(from_guest(GUEST + 1, OURS + 1, ACK), b"abc");
    line.say(from_guest(GUEST + 1, OURS + 1, ACK), b"abcde");
    line.say(from_guest(GUEST + 8, OURS + 1, ACK), b"hi");
    line.say(from_guest(GUEST + 3, OURS + 1, ACK), b"c");
    assert_eq!(line.host, b"abcde");
    assert_eq!(line.numbers(), [(OURS + 1, GUEST + 6, ACK, 0)], "what it waits for");
    line.say(from_guest(GUEST.wrapping_sub(1 << 31), OURS + 1, ACK), b"wild");
    line.say(from_guest(GUEST + 6, OURS + 1, ACK), b"fg");
    assert_eq!(line.host, b"abcdefg");
}

#[test]
fn a_slow_host_closes_the_window_and_opens_it_again() {
    let mut line = Line::open();
    line.host_room = 10;
    let mut sequence = GUEST + 1;
    loop {
        line.say(from_guest(sequence, OURS + 1, ACK), &[9; 8192]);
        let (segment, _) = line.hear().pop().unwrap();
        sequence = segment.acknowledgment;
        if segment.window == 0 {
            break;
        }
        assert!(sequence < GUEST + 200_000);
    }
    assert!((60_000..=65_546).contains(&(sequence - GUEST)), "{sequence}");
    line.say(from_guest(sequence, OURS + 1, ACK), b"!");
    assert_eq!(line.numbers(), [(OURS + 1, sequence, ACK, 0)], "no octet beyond it");
    let mut flushed = 0;
    line.tcp.flush(line.now, |first, second| {
        flushed = first.len() + second.len();
        flushed
    });
    assert_eq!(flushed, (sequence - GUEST - 1) as usize - 10);
    let (segment, _) = line.hear().pop().unwrap();
    assert!(u32::from(segment.window) << 7 >= 65_000, "told at once");
}

#[test]
fn a_window_grows_with_what_goes_through_it() {
    let mut line = Line::open();
    let mut sequence = GUEST + 1;
    for _ in 0..1000 {
        line.say(from_guest(sequence, OURS + 1, ACK), &[0; 32_768]);
        sequence = line.hear().pop().unwrap().0.acknowledgment;
    }
    line.say(from_guest(sequence, OURS + 1, ACK), b".");
    assert_eq!(u32::from(line.hear()[0].0.window) << 7, LARGEST as u32);
}

#[test]
fn what_is_not_acknowledged_is_sent_again_later_and_later() {
    let mut line = Line::open();
    line.host_says(b"lost");
    assert_eq!(line.numbers().len(), 1);
    for wait in [250, 500, 1000, 2000] {
        assert_eq!(line.wait(Duration::from_millis(wait - 1)), Expired::GoesOn);
        assert_eq!(line.numbers(), []);
        assert_eq!(line.wait(Duration::from_millis(1)), Expired::GoesOn);
        assert_eq!(line.numbers(), [(OURS + 1, GUEST + 1, ACK | PSH, 4)]);
    }
    let mut total = 0;
    while line.wait(Duration::from_secs(1)) == Expired::GoesOn {
        line.hear();
        total += 1;
    }
    assert!((200..600).contains(&total), "{total} s");
}

#[test]
fn the_third_repetition_is_answered_at_once() {
    let mut line = Line::open();
    line.host_says(&[3; 4000]);
    line.hear();
    for _ in 0..3 {
        assert_eq!(line.numbers(), []);
        line.say(from_guest(GUEST + 1, OURS + 1, ACK), b"");
    }
    assert_eq!(line.numbers(), [(OURS + 1, GUEST + 1, ACK | PSH, 4000)]);
}

#[test]
fn a_window_of_nothing_is_tried_with_one_octet() {
    let mut line = Line::open();
    line.say(Segment { window: 0, ..from_guest(GUEST + 1, OURS + 1, ACK) }, b"");
    line.host_says(b"wait");
    assert_eq!(line.numbers(), []);
    line.wait(RETRY);
    assert_eq!(line.numbers(), [(OURS + 1, GUEST + 1, ACK, 1)]);
    // It answers for ever that it takes nothing: that is no reason to give up.
    for _ in 0..1000 {
        line.say(Segment { window: 0, ..from_guest(GUEST + 1, OURS + 1, ACK) }, b"");
        assert_eq!(line.wait(Duration::from_secs(7)), Expired::GoesOn);
        line.hear();
    }
    line.say(from_guest(GUEST + 1, OURS + 1, ACK), b"");
    line.wait(Duration::from_secs(60));
    assert_eq!(line.numbers(), [(OURS + 1, GUEST + 1, ACK | PSH, 4)]);
}

#[test]
fn either_end_may_close_first_and_hear_on() {
    let mut line = Line::open();
    line.say(from_guest(GUEST + 1, OURS + 1, ACK | FIN), b"bye");
    assert!(line.tcp.ends_host() && !line.tcp.ends_host());
    assert_eq!(line.numbers(), [(OURS + 1, GUEST + 5, ACK, 0)]);
    line.host_says(b"still here");
    assert_eq!(line.numbers(), [(OURS + 1, GUEST + 5, ACK | PSH, 10)]);
    line.tcp.host_ended(line.now);
    assert_eq!(line.numbers(), [(OURS + 11, GUEST + 5, ACK | FIN, 0)]);
    assert!(!line.tcp.is_over());
    line.say(from_guest(GUEST + 5, OURS + 12, ACK), b"");
    assert!(line.tcp.is_over());
    let mut line = Line::open();
    line.tcp.host_ended(line.now);
    assert_eq!(line.numbers(), [(OURS + 1, GUEST + 1, ACK | FIN, 0)]);
    line.say(from_guest(GUEST + 1, OURS + 2, ACK), b"one more");
    assert_eq!(
        (line.host.clone(), line.numbers()),
        (b"one more".to_vec(), vec![(OURS + 2, GUEST + 9, ACK, 0)])
    );
    line.say(from_guest(GUEST + 9, OURS + 2, ACK | FIN), b"");
    assert!(line.tcp.ends_host());
    assert_eq!(line.numbers(), [(OURS + 2, GUEST + 10, ACK, 0)]);
    assert!(line.tcp.is_over());
}

#[test]
fn silence_ends_a_connection_after_two_hours_and_a_closed_one_after_a_minute() {
    let mut line = Line::open();
    assert_eq!(line.tcp.deadline(), line.now + IDLE);
    assert_eq!(line.wait(IDLE - RETRY), Expired::GoesOn);
    assert_eq!(line.wait(RETRY), Expired::Reset);
    let mut line = Line::open();
    line.say(from_guest(GUEST + 1, OURS + 1, ACK | FIN), b"");
    assert_eq!(line.wait(IDLE_CLOSED), Expired::Reset);
}

#[test]
fn only_an_exact_reset_ends_a_connection() {
    let mut line = Line::open();
    assert_eq!(line.say(from_guest(GUEST + 100, 0, RST), b""), Taken::Stray);
    assert_eq!(line.numbers(), [(OURS + 1, GUEST + 1, ACK, 0)], "who means it says it again");
    assert_eq!(line.say(from_guest(GUEST + 900_000, 0, RST), b""), Taken::Stray);
    assert_eq!(line.numbers(), []);
    assert_eq!(line.say(from_guest(GUEST + 1, 0, RST), b""), Taken::Reset);
}

#[test]
fn what_acknowledges_the_future_or_nothing_is_stray() {
    let mut line = Line::open();
    assert_eq!(line.say(from_guest(GUEST + 1, OURS + 2, ACK), b"x"), Taken::Stray);
    assert_eq!(line.say(from_guest(GUEST + 1, 0, 0), b"x"), Taken::Stray);
    assert_eq!(line.host, b"");
    assert_eq!(line.say(from_guest(77, 0, SYN), b""), Taken::Yes);
    assert_eq!(line.numbers(), [(OURS + 1, GUEST + 1, ACK, 0)]);
}

#[test]
fn a_vnic_is_called() {
    let now = Instant::now();
    let mut line = Line::dialing(&syn());
    line.tcp = Connection::to_guest(1460, OURS, now);
    let heard = line.hear();
    assert_eq!((heard[0].0.flags, heard[0].0.sequence), (SYN, OURS));
    assert_eq!(line.host_says(b"early"), 0);
    let answer = Segment { acknowledgment: OURS + 1, flags: SYN | ACK, ..syn() };
    assert_eq!(line.say(Segment { acknowledgment: OURS, ..answer }, b""), Taken::Stray);
    assert_eq!(line.say(answer, b""), Taken::Yes);
    assert_eq!(line.numbers(), [(OURS + 1, GUEST + 1, ACK, 0)]);
    assert_eq!(line.host_says(b"hello"), 5);
    line.tcp = Connection::to_guest(1460, OURS, now);
    line.hear();
    assert_eq!(line.say(from_guest(0, OURS + 1, RST | ACK), b""), Taken::Reset);
}

#[test]
fn segments_of_no_connection_are_refused_but_for_resets() {
    let refused = refusal(&from_guest(5, 9, ACK), 3).unwrap();
    assert_eq!((refused.sequence, refused.flags), (9, RST));
    let refused = refusal(&Segment { sequence: 5, flags: SYN, ..Segment::default() }, 3).unwrap();
    assert_eq!((refused.acknowledgment, refused.flags), (9, RST | ACK));
    assert_eq!(refusal(&from_guest(5, 9, RST), 0), None);
}

/// A vNIC's end that is as plain as can be: takes in order, sends all again that may be lost.
struct Guest {
    said: Vec<u8>,
    acknowledged: usize,
    heard: Vec<u8>,
    fin_heard: bool,
}

impl Guest {
    fn segments(&self, window: u16) -> Vec<(Segment, Vec<u8>)> {
        let expected = OURS + 1 + self.heard.len() as u32 + u32::from(self.fin_heard);
        let segment = |at: usize, flags| Segment {
            sequence: GUEST + 1 + at as u32,
            acknowledgment: expected,
            flags,
            window,
            ..Segment::default()
        };
        let rest = self.said.get(self.acknowledged..).unwrap_or(&[]);
        let mut segments = vec![(segment(self.acknowledged, ACK), vec![])];
        for (at, part) in rest.chunks(700).enumerate().take(20) {
            segments.push((segment(self.acknowledged + at * 700, ACK), part.to_vec()));
        }
        if rest.len() <= 20 * 700 {
            segments.push((segment(self.said.len(), ACK | FIN), vec![]));
        }
        segments
    }

    fn hear(&mut self, segment: &Segment, octets: &[u8]) {
        let expected = OURS + 1 + self.heard.len() as u32;
        let skip = expected.wrapping_sub(segment.sequence) as usize;
        if let Some(new) = octets.get(skip..).filter(|_| !self.fin_heard) {
            self.heard.extend(new);
            self.fin_heard = segment.flags & FIN != 0;
        }
        let acknowledged = segment.acknowledgment.wrapping_sub(GUEST + 1) as usize;
        self.acknowledged = self.acknowledged.max(acknowledged);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn all_arrives_in_order_over_a_line_that_loses_and_turns_segments_around(
        up in 0..60_000usize,
        down in 0..60_000usize,
        mut turn in any::<u64>(),
        // Of one that is always shut, only probes pass: an octet at a time.
        window in 1..400u16,
    ) {
        let octets = |len: usize, seed: usize| {
            (0..len).map(|at| ((at * seed) >> 3) as u8).collect::<Vec<_>>()
        };
        let (up, down) = (octets(up, 7), octets(down, 11));
        let mut line = Line::open();
        let (said, heard) = (up.clone(), vec![]);
        let mut guest = Guest { said, acknowledged: 0, heard, fin_heard: false };
        // Knuth's generator. A list of chances that begins anew would lose the same segment for
        // ever where a round takes as many as it has.
        let mut chance = || {
            turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (turn >> 56) as u8
        };
        let (mut offered, mut rounds) = (0, 0);
        while !(line.tcp.is_over() && guest.fin_heard) {
            rounds += 1;
            let heard = guest.heard.len();
            prop_assert!(rounds < 5000, "it stands still at {heard}: {:?}", line.tcp);
            offered += line.host_says(&down[offered..]);
            if offered == down.len() {
                line.tcp.host_ended(line.now);
            }
            line.host_room = usize::from(chance()) * 8;
            let host = &mut line.host;
            line.tcp.flush(line.now, |first, second| {
                let len = (first.len() + second.len()).min(line.host_room);
                host.extend([first, second].concat().iter().take(len));
                len
            });
            line.host_room = usize::from(chance()) * 8;
            let mut segments = guest.segments(window * u16::from(chance() > 20));
            if chance() > 200 {
                segments.reverse();
            }
            for (segment, payload) in segments {
                if chance() > 60 {
                    line.say(segment, &payload);
                }
            }
            line.tcp.ends_host();
            for (segment, payload) in line.hear() {
                if chance() > 60 {
                    guest.hear(&segment, &payload);
                }
            }
            // Of a line that loses a quarter, RETRIES in a row are not to be had.
            line.wait(Duration::from_millis(u64::from(chance()) * 8));
        }
        prop_assert_eq!(&guest.heard, &down);
        prop_assert_eq!(&line.host, &up);
    }

    #[test]
    fn wild_segments_do_no_harm(segments in proptest::collection::vec(
        (any::<u32>(), any::<u32>(), any::<u8>(), any::<u16>(), 0..3000usize, any::<bool>()),
        0..200,
    )) {
        let mut line = Line::open();
        line.host_says(&[5; 3000]);
        for (sequence, acknowledgment, flags, window, len, is_near) in segments {
            let near = |number: u32, base: u32| match is_near {
                true => base.wrapping_add(number % 4000),
                false => number,
            };
            let segment = Segment {
                sequence: near(sequence, GUEST),
                acknowledgment: near(acknowledgment, OURS),
                flags,
                window,
                ..Segment::default()
            };
            if line.say(segment, &vec![1; len]) == Taken::Reset {
                return Ok(());
            }
            line.hear();
            line.wait(Duration::from_millis(100));
        }
    }
}
