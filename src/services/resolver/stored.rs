//! An answer as it is kept: its records, and until when they are any good (RFC 2181 §8, RFC 2308).
//!
//! Takes a message of a server, or that none has come, and returns the response to any query for
//! the same. What is told beside the answer and its zone is left out: nobody asked for it.

use crate::wire::{
    Full, Writer,
    dns_answer::Answer,
    dns_message::{Authority, Code, Flag, HEADER_LEN, Query, Response, Section},
};
use std::time::{Duration, Instant};

/// How long anything is kept at most, in seconds.
// What is wrong is wrong for a day, whatever its zone says.
const MOST_TTL: u32 = 86_400;
/// How long it is that there is nothing (RFC 2308 §5).
const MOST_NEGATIVE: u32 = 10_800;
/// How long it is kept that nobody answers (RFC 9520 §3.2).
// The least: who has repaired a server is not to wait for us.
const FAILURE: Duration = Duration::from_secs(1);

/// An answer.
#[derive(Debug)]
pub(in crate::services) struct Stored {
    code: Code,
    is_authentic: bool,
    /// Records in the first two sections.
    records: Box<[u8]>,
    counts: [u16; 2],
    /// Where in them their TTLs stand, and where each of them ends.
    places: Box<[(u16, u16)]>,
    since: Instant,
    lasts: Duration,
}

impl Stored {
    /// Reads what a server has answered; `None` where that says nothing of the name.
    pub(super) fn read(message: &[u8], now: Instant) -> Option<Self> {
        let answer = Answer::parse(message)?;
        let code = code(&answer)?;
        let (octets, begin) = answer.octets();
        let mut records = Box::<[u8]>::from(octets);
        let mut places = Vec::new();
        let (mut least, mut is_said) = (MOST_TTL, false);
        for record in answer.records() {
            let most = record.minimum.map_or(MOST_TTL, |minimum| minimum.min(MOST_NEGATIVE));
            let is_negative = record.section == Section::Authority && record.minimum.is_some();
            let ttl = record.ttl.min(if is_negative { most } else { MOST_TTL });
            is_said |= is_negative || record.section == Section::Answer;
            least = least.min(ttl);
            let at = record.ttl_at - begin;
            records.get_mut(at..at + 4)?.copy_from_slice(&ttl.to_be_bytes());
            places.push((u16::try_from(at).ok()?, u16::try_from(record.end - begin).ok()?));
        }
        // A zone that does not say how long there is nothing is asked each time (RFC 2308 §5).
        let seconds = if is_said { least } else { 0 };
        Some(Self {
            code,
            is_authentic: answer.is_authentic(),
            records,
            counts: answer.counts(),
            places: places.into(),
            since: now,
            lasts: Duration::from_secs(seconds.into()),
        })
    }

    /// That no server has answered.
    pub(super) fn failure(now: Instant) -> Self {
        Self {
            code: Code::ServFail,
            is_authentic: false,
            records: Box::default(),
            counts: [0; 2],
            places: Box::default(),
            since: now,
            lasts: FAILURE,
        }
    }

    /// Whether it may be told.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < self.lasts
    }

    /// Returns how many octets it takes.
    pub(super) fn octets(&self) -> usize {
        size_of::<Self>() + self.records.len() + size_of_val(&*self.places)
    }

    /// Returns the response to a query for it, of `most` octets; where it is longer, what fits of
    /// the answer, and that there is more.
    // Some clients take what there is, and ask no further (musl before 1.2.4).
    pub(in crate::services) fn response(
        &self,
        query: &Query<'_>,
        most: usize,
        now: Instant,
    ) -> Vec<u8> {
        // The longest question, and what EDNS says, beside the records.
        let mut buffer = vec![0; self.records.len() + HEADER_LEN + 300];
        let mut try_with = |records: usize, counts: [u16; 2]| {
            let mut writer = Writer::new(&mut buffer);
            self.write(query, (records, counts), now, &mut writer)
                .map_or(usize::MAX, |()| writer.len())
        };
        let mut len = try_with(self.records.len(), self.counts);
        if len > most {
            let [answers, _] = self.counts;
            let room = most.saturating_sub(try_with(0, [0; 2]));
            let ends = self.places.iter().take(answers.into()).map(|(_, end)| usize::from(*end));
            let fitting = ends.take_while(|end| *end <= room);
            let (count, octets) = fitting.fold((0, 0), |(count, _), end| (count + 1, end));
            len = try_with(octets, [count, 0]);
        }
        buffer.truncate(if len > most { 0 } else { len });
        buffer
    }

    /// Writes the response with so many octets of the records, which are so many records.
    fn write(
        &self,
        query: &Query<'_>,
        (octets, counts): (usize, [u16; 2]),
        now: Instant,
        writer: &mut Writer<'_>,
    ) -> Result<(), Full> {
        let mut response = Response::begin(query, writer)?;
        response.set(Flag::RecursionAvailable);
        if self.is_authentic && query.knows_authentic() {
            response.set(Flag::Authentic);
        }
        if counts != self.counts {
            response.set(Flag::Truncated);
        }
        response.copy(self.aged(now).get(..octets).unwrap_or(&[]), counts)?;
        response.end(self.code, Authority::None)
    }

    /// Returns the records, which have grown older.
    fn aged(&self, now: Instant) -> Vec<u8> {
        let age = now.saturating_duration_since(self.since).as_secs();
        let age = u32::try_from(age).unwrap_or(u32::MAX);
        let mut records = self.records.to_vec();
        for (at, _) in &self.places {
            let at = usize::from(*at);
            let Some(place) = records.get_mut(at..at + 4).and_then(|it| it.first_chunk_mut())
            else {
                continue;
            };
            *place = u32::from_be_bytes(*place).saturating_sub(age).to_be_bytes();
        }
        records
    }
}

/// Returns what a server says of a name; `None` where it says that it cannot tell.
fn code(answer: &Answer<'_>) -> Option<Code> {
    match answer.code {
        code if code == Code::NoError as u16 => Some(Code::NoError),
        code if code == Code::NxDomain as u16 => Some(Code::NxDomain),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::{
        op::{Message, OpCode, ResponseCode},
        rr::{
            Name, RData, Record, RecordType,
            rdata::{A, CNAME, SOA, TXT},
        },
    };

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn query_of(text: &str, payload: Option<u16>) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.id = 7;
        message.metadata.recursion_desired = true;
        message.add_query(hickory_proto::op::Query::query(name(text), RecordType::A));
        if let Some(payload) = payload {
            let mut edns = hickory_proto::op::Edns::new();
            edns.set_max_payload(payload);
            message.edns = Some(edns);
        }
        message.to_vec().unwrap()
    }

    /// What a server answers, of these records.
    fn message(code: ResponseCode, answers: Vec<Record>, authorities: Vec<Record>) -> Vec<u8> {
        let mut message = Message::response(9, OpCode::Query);
        message.add_query(hickory_proto::op::Query::query(name("a.example."), RecordType::A));
        message.metadata.response_code = code;
        message.answers = answers;
        message.authorities = authorities;
        message.to_vec().unwrap()
    }

    fn record(text: &str, ttl: u32, data: RData) -> Record {
        Record::from_rdata(name(text), ttl, data)
    }

    fn start(ttl: u32, minimum: u32) -> Record {
        let data = SOA::new(name("ns.example."), name("x.example."), 1, 2, 3, 4, minimum);
        record("example.", ttl, RData::SOA(data))
    }

    fn response(stored: &Stored, query: &[u8], most: usize, now: Instant) -> Message {
        let query = Query::parse(query).unwrap();
        let octets = stored.response(&query, most, now);
        assert!(octets.len() <= most);
        Message::from_vec(&octets).unwrap()
    }

    #[test]
    fn an_answer_is_told_in_the_askers_words_and_grows_older() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let answers = vec![
            record("a.example.", 300, RData::CNAME(CNAME(name("b.example.")))),
            record("b.example.", 60, RData::A(A::new(192, 0, 2, 7))),
        ];
        let stored = Stored::read(&message(ResponseCode::NoError, answers, vec![]), now).unwrap();
        assert!(stored.is_fresh(after(59)) && !stored.is_fresh(after(60)));
        let told = response(&stored, &query_of("A.exaMPle.", None), 512, after(10));
        assert_eq!(told.metadata.id, 7);
        assert_eq!(told.queries[0].name().to_string(), "A.exaMPle.");
        assert!(told.metadata.recursion_available && !told.metadata.authoritative);
        let ttls: Vec<_> = told.answers.iter().map(|it| it.ttl).collect();
        assert_eq!(ttls, [290, 50]);
        assert_eq!(told.answers[1].data.to_string(), "192.0.2.7");
        assert!(told.edns.is_none());
    }

    #[test]
    fn that_there_is_nothing_is_kept_as_long_as_the_zone_says() {
        let now = Instant::now();
        let lasts = |code, authorities| {
            let stored = Stored::read(&message(code, vec![], authorities), now).unwrap();
            (stored.lasts.as_secs(), stored.code)
        };
        let nothing = ResponseCode::NXDomain;
        assert_eq!(lasts(nothing, vec![start(3600, 30)]), (30, Code::NxDomain));
        assert_eq!(lasts(nothing, vec![start(20, 30)]), (20, Code::NxDomain));
        assert_eq!(lasts(nothing, vec![start(90_000, 90_000)]), (10_800, Code::NxDomain));
        assert_eq!(lasts(nothing, vec![]), (0, Code::NxDomain));
        assert_eq!(lasts(ResponseCode::NoError, vec![start(50, 40)]), (40, Code::NoError));
        let long = vec![record("a.example.", 1 << 30, RData::A(A::new(192, 0, 2, 7)))];
        let long = Stored::read(&message(ResponseCode::NoError, long, vec![]), now).unwrap();
        assert_eq!(long.lasts, Duration::from_secs(86_400));
        let refused = message(ResponseCode::Refused, vec![], vec![]);
        assert!(Stored::read(&refused, now).is_none());
        let failed = Stored::failure(now);
        let told = response(&failed, &query_of("a.example.", Some(1232)), 512, now);
        assert_eq!(told.response_code, ResponseCode::ServFail);
        assert!(told.edns.is_some());
    }

    #[test]
    fn what_is_longer_than_asked_for_is_cut() {
        let now = Instant::now();
        let text = |n: u8| RData::TXT(TXT::new(vec![format!("{n:0200}")]));
        let answers = (0..5).map(|n| record("a.example.", 60, text(n))).collect();
        let stored = Stored::read(&message(ResponseCode::NoError, answers, vec![]), now).unwrap();
        let query = query_of("a.example.", Some(4096));
        assert_eq!(Query::parse(&query).unwrap().payload(), 1232);
        let whole = response(&stored, &query, 1232, now);
        assert_eq!((whole.answers.len(), whole.metadata.truncation), (5, false));
        for (payload, most, count) in [(None, 512, 2), (Some(0), 512, 2), (Some(700), 700, 3)] {
            let query = query_of("a.example.", payload);
            let payload = Query::parse(&query).unwrap().payload();
            assert_eq!(payload, most);
            let cut = response(&stored, &query, payload, now);
            assert_eq!((cut.answers.len(), cut.metadata.truncation), (count, true));
        }
        let octets = stored.response(&Query::parse(&query).unwrap(), 10, now);
        assert!(octets.is_empty(), "not even the question fits");
    }
}
