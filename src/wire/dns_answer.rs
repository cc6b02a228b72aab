//! What servers of others are asked, and what they answer (RFC 1035 §4, RFC 6891).
//!
//! Takes the octets of a response, and returns its question and records where all of it is as it
//! has to be: no record is cut, and each name ends. A name points back, to what stands before it
//! and within it ever further: nothing goes in circles, and few steps lead to the end.

use super::{
    Full, Writer,
    dns_message::{
        AUTHENTIC, Asked, CHECKING_DISABLED, CLASS_IN, DNSSEC_OK, HEADER_LEN, Header, Kind,
        MAX_LABEL, MAX_NAME, OPCODE, PAYLOAD, RECURSION_DESIRED, RESPONSE, Record as Fixed,
        Section, TRUNCATED, kind,
    },
};
use zerocopy::{
    FromBytes as _, FromZeros as _,
    big_endian::{U16, U32},
};

/// Steps that lead to the end of a name at most: as many as it has labels.
// Pointers to pointers, which nobody writes, would cost a step each and be of no length.
const MOST_STEPS: usize = MAX_NAME / 2;
/// Octets of the numbers of a zone's start, and of the last of them (RFC 1035 §3.3.13).
const SOA_NUMBERS: usize = 20;
/// Octets of the code in the header.
const CODE: u16 = 0xf;

/// What a question is to say beside its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wants {
    /// The type of records.
    pub kind: u16,
    /// Signatures, with what they sign.
    pub signatures: bool,
    /// What the server would refuse, since its signature is wrong.
    pub unchecked: bool,
    /// As much as passes every link in one datagram; else 512 octets. Some old servers do not know
    /// how to read that.
    pub edns: bool,
}

/// Appends a question for the records of a name, which stands in wire form.
pub fn write_query(
    writer: &mut Writer<'_>,
    id: u16,
    name: &[u8],
    wants: &Wants,
) -> Result<(), Full> {
    let checks = if wants.unchecked { CHECKING_DISABLED } else { 0 };
    writer.push(&Header {
        id: U16::new(id),
        flags: U16::new(RECURSION_DESIRED | checks),
        questions: U16::new(1),
        additionals: U16::new(wants.edns.into()),
        ..Header::new_zeroed()
    })?;
    writer.push_slice(name)?;
    writer.push(&Kind { kind: U16::new(wants.kind), class: U16::new(CLASS_IN) })?;
    if wants.edns {
        writer.push(&0_u8)?;
        let kind = Kind { kind: U16::new(kind::OPT), class: U16::new(PAYLOAD) };
        let ttl = U32::new(if wants.signatures { DNSSEC_OK } else { 0 });
        writer.push(&Fixed { kind, ttl, len: U16::ZERO })?;
    }
    Ok(())
}

/// A response to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<'a> {
    message: &'a [u8],
    header: Header,
    /// The name that was asked about.
    pub name: Asked<'a>,
    /// The type of records that were.
    pub kind: u16,
    /// The code, with the bits that EDNS adds.
    pub code: u16,
    /// Where its records begin, and where those of the first two sections end.
    records: (usize, usize),
}

impl<'a> Answer<'a> {
    /// Reads a response; `None` where it is none, or not as it has to be.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let (header, rest) = Header::read_from_prefix(message).ok()?;
        let flags = header.flags.get();
        if flags & RESPONSE == 0 || flags & OPCODE != 0 || header.questions.get() != 1 {
            return None;
        }
        let name = Asked::parse(rest)?;
        let (Kind { kind, class }, _) =
            Kind::read_from_prefix(rest.get(name.octets().len()..)?).ok()?;
        if class.get() != CLASS_IN {
            return None;
        }
        let begin = HEADER_LEN + name.octets().len() + size_of::<Kind>();
        let mut answer = Self {
            message,
            header,
            name,
            kind: kind.get(),
            code: flags & CODE,
            records: (begin, begin),
        };
        for _ in 0..header.answers.get().checked_add(header.authorities.get())? {
            let (record, end) = record(message, answer.records.1)?;
            // What says something of the message stands behind, and has no class.
            if record.kind == kind::OPT || record.class != CLASS_IN {
                return None;
            }
            answer.records.1 = end;
        }
        let mut at = answer.records.1;
        for _ in 0..header.additionals.get() {
            let (record, end) = record(message, at)?;
            if record.kind == kind::OPT {
                answer.code |= (record.ttl >> 20 & 0xff0) as u16;
            }
            at = end;
        }
        Some(answer)
    }

    /// Returns the number of the question that it answers.
    pub fn id(&self) -> u16 {
        self.header.id.get()
    }

    /// Whether there is more than it holds.
    pub fn is_truncated(&self) -> bool {
        self.header.flags.get() & TRUNCATED != 0
    }

    /// Whether its sender has checked signatures.
    pub fn is_authentic(&self) -> bool {
        self.header.flags.get() & AUTHENTIC != 0
    }

    /// Returns how many records are in each of the first two sections.
    pub fn counts(&self) -> [u16; 2] {
        [self.header.answers.get(), self.header.authorities.get()]
    }

    /// Returns the octets of the records in those sections, and where in the message they begin.
    pub fn octets(&self) -> (&'a [u8], usize) {
        let (begin, end) = self.records;
        (self.message.get(begin..end).unwrap_or(&[]), begin)
    }

    /// Returns the records of those sections.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        let (message, mut at) = (self.message, self.records.0);
        let [answers, authorities] = self.counts();
        let sections = std::iter::repeat_n(Section::Answer, answers.into())
            .chain(std::iter::repeat_n(Section::Authority, authorities.into()));
        sections.map_while(move |section| {
            let (found, end) = record(message, at)?;
            at = end;
            Some(Record { section, ..found })
        })
    }
}

/// A record of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Which section it is in.
    pub section: Section,
    /// Its type.
    pub kind: u16,
    class: u16,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// Where in the message that stands.
    pub ttl_at: usize,
    /// Where in the message it ends.
    pub end: usize,
    /// How long it may be kept that there is nothing, of a zone's start (RFC 2308 §4).
    pub minimum: Option<u32>,
}

/// Reads the record that begins `at` octets into a message. Returns it with where it ends; `None`
/// where it is not as it has to be.
fn record(message: &[u8], at: usize) -> Option<(Record, usize)> {
    let fixed_at = name_end(message, at)?;
    let (fixed, _) = Fixed::read_from_prefix(message.get(fixed_at..)?).ok()?;
    let begin = fixed_at + size_of::<Fixed>();
    let end = begin + usize::from(fixed.len.get());
    let data = message.get(begin..end)?;
    let kind = fixed.kind.kind.get();
    let name_fills = |at: usize| (name_end(message, at)? == end).then_some(());
    let mut minimum = None;
    // Those whose names may be compressed, or that everybody reads. Others are octets.
    match kind {
        kind::A => (data.len() == 4).then_some(())?,
        kind::AAAA => (data.len() == 16).then_some(())?,
        kind::NS | kind::CNAME | kind::PTR | kind::DNAME => name_fills(begin)?,
        kind::MX => name_fills(begin + 2)?,
        kind::SRV => name_fills(begin + 6)?,
        kind::SOA => {
            let numbers = name_end(message, name_end(message, begin)?)?;
            (end.checked_sub(numbers)? == SOA_NUMBERS).then_some(())?;
            let (_, last) = U32::read_from_suffix(data).ok()?;
            minimum = Some(last.get());
        }
        _ => {}
    }
    // A sign would make it a time long gone: it is none (RFC 2181 §8).
    let ttl = fixed.ttl.get();
    let kept = if kind == kind::OPT || ttl <= i32::MAX as u32 { ttl } else { 0 };
    let record = Record {
        section: Section::Additional,
        kind,
        class: fixed.kind.class.get(),
        ttl: kept,
        ttl_at: fixed_at + size_of::<Kind>(),
        end,
        minimum,
    };
    Some((record, end))
}

/// Returns where the name ends that begins `at` octets into a message; `None` where it does not
/// end, or is too long.
fn name_end(message: &[u8], at: usize) -> Option<usize> {
    let (mut at, mut end) = (at, None);
    // The labels that are read now begin there: a pointer leads before it.
    let (mut begin, mut len) = (at, 0);
    for _ in 0..=2 * MOST_STEPS {
        let octet = *message.get(at)?;
        match octet {
            0 => return (len < MAX_NAME).then(|| end.unwrap_or(at + 1)),
            0xc0.. => {
                let pointer = U16::read_from_prefix(message.get(at..)?).ok()?.0.get() & 0x3fff;
                let to = usize::from(pointer);
                if to >= begin || to < HEADER_LEN {
                    return None;
                }
                end = end.or(Some(at + 2));
                (at, begin) = (to, to);
            }
            label @ 1..=MAX_LABEL => {
                let octets = 1 + usize::from(label);
                (at, len) = (at + octets, len + octets);
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Message;
    use proptest::prelude::*;

    /// `www.example.com`, another name of `web.example.com`, which has an address; and what EDNS
    /// adds.
    const ANSWER: &[u8] = b"\x12\x34\x81\xa0\0\x01\0\x02\0\0\0\x01\
        \x03wWw\x07example\x03com\0\0\x01\0\x01\
        \xc0\x0c\0\x05\0\x01\0\0\x01\x2c\0\x06\x03web\xc0\x10\
        \xc0\x2d\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x07\
        \0\0\x29\x04\xd0\0\0\x80\0\0\0";
    /// That there is no such name, as the zone says.
    const NOTHING: &[u8] = b"\0\x07\x81\x83\0\x01\0\0\0\x01\0\0\
        \x01x\x07example\0\0\x1c\0\x01\
        \xc0\x0e\0\x06\0\x01\0\0\x0e\x10\0\x1a\x02ns\xc0\x0e\0\
        \0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05";

    fn with(message: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
        let mut message = message.to_vec();
        changes.iter().for_each(|(at, to)| message[*at] = *to);
        message
    }

    #[test]
    fn a_question_is_written_octet_for_octet() {
        let asked = |wants: Wants| {
            let mut buffer = [0; 100];
            let mut writer = Writer::new(&mut buffer);
            write_query(&mut writer, 0x1234, b"\x03vM1\x04corp\0", &wants).unwrap();
            writer.since(0).to_vec()
        };
        let all = Wants { kind: kind::AAAA, signatures: true, unchecked: true, edns: true };
        let question = b"\x03vM1\x04corp\0\0\x1c\0\x01";
        let opt = b"\0\0\x29\x04\xd0\0\0\x80\0\0\0";
        let expected =
            [&b"\x12\x34\x01\x10\0\x01\0\0\0\0\0\x01"[..], &question[..], &opt[..]].concat();
        assert_eq!(asked(all), expected);
        Message::from_vec(&expected).unwrap();
        let least = Wants { signatures: false, unchecked: false, edns: false, ..all };
        let expected = [&b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0"[..], &question[..]].concat();
        assert_eq!(asked(least), expected);
        let none = write_query(&mut Writer::new(&mut [0; 20]), 1, b"\x03vm1\0", &all);
        assert_eq!(none, Err(Full));
    }

    #[test]
    fn an_answer_is_read() {
        let answer = Answer::parse(ANSWER).unwrap();
        assert_eq!(answer.name.octets(), b"\x03wWw\x07example\x03com\0");
        assert_eq!((answer.id(), answer.kind, answer.code), (0x1234, kind::A, 0));
        assert_eq!((answer.is_authentic(), answer.is_truncated()), (true, false));
        assert_eq!(answer.counts(), [2, 0]);
        let (octets, begin) = answer.octets();
        assert_eq!(begin, 33);
        assert_eq!(octets, &ANSWER[33..ANSWER.len() - 11]);
        let records: Vec<_> = answer.records().map(|it| (it.section, it.kind, it.ttl)).collect();
        let expected = [kind::CNAME, kind::A].map(|kind| (Section::Answer, kind));
        assert_eq!(records, [(expected[0].0, 5, 300), (expected[1].0, 1, 60)]);
        for record in answer.records() {
            let ttl = record.ttl.to_be_bytes();
            assert_eq!(ANSWER[record.ttl_at..record.ttl_at + 4], ttl);
        }
        let nothing = Answer::parse(NOTHING).unwrap();
        let [start] = nothing.records().collect::<Vec<_>>()[..] else { panic!("{nothing:?}") };
        assert_eq!((start.section, start.ttl, start.minimum), (Section::Authority, 3600, Some(5)));
        let bad_version = with(ANSWER, &[(ANSWER.len() - 6, 1)]);
        assert_eq!(Answer::parse(&bad_version).unwrap().code, 16);
        let long_gone = with(ANSWER, &[(39, 0x80)]);
        assert_eq!(Answer::parse(&long_gone).unwrap().records().next().unwrap().ttl, 0);
    }

    #[test]
    fn what_is_not_as_it_has_to_be_is_refused() {
        let is_refused = |changes: &[(usize, u8)]| Answer::parse(&with(ANSWER, changes)).is_none();
        assert!(!is_refused(&[]));
        for (what, changes) in [
            ("a query", &[(2, 0)][..]),
            ("an update", &[(2, 0xa9)]),
            ("two questions", &[(5, 2)]),
            ("no question", &[(5, 0)]),
            ("another class", &[(32, 3)]),
            ("more records than there are", &[(11, 2)]),
            ("EDNS as an answer", &[(7, 3), (11, 0)]),
            ("a record of another class", &[(38, 3)]),
            ("a pointer to itself", &[(34, 33)]),
            ("a pointer to what comes", &[(34, 45)]),
            ("a pointer into the header", &[(34, 11)]),
            ("a name beyond its record", &[(44, 5)]),
            ("an address of 3 octets", &[(62, 3)]),
            ("a label of a kind that nobody has", &[(33, 0x80)]),
        ] {
            assert!(is_refused(changes), "{what}");
        }
        for len in 0..ANSWER.len() {
            assert!(Answer::parse(&ANSWER[..len]).is_none(), "cut after {len}");
        }
        let start = with(NOTHING, &[(38, 0x19)]);
        assert!(Answer::parse(&start[..start.len() - 1]).is_none(), "a number is cut");
    }

    /// A message of one record after others whose names each point at the one before.
    fn chain(names: usize) -> Vec<u8> {
        let mut message = b"\0\x01\x81\x80\0\x01\0\0\0\0\0\0\x01a\0\0\x10\0\x01".to_vec();
        let mut before = 12;
        for _ in 0..names {
            let at = message.len();
            message.extend((0xc000 | before as u16).to_be_bytes());
            message.extend(b"\0\x10\0\x01\0\0\0\x01\0\x00");
            before = at;
        }
        message[6..8].copy_from_slice(&(names as u16).to_be_bytes());
        message
    }

    #[test]
    fn a_name_takes_few_steps_however_it_is_written() {
        assert!(Answer::parse(&chain(200)).is_some());
        assert!(Answer::parse(&chain(1000)).is_none(), "a bomb");
        // By a pointer to a name of 193 octets, which has as many before it.
        let label = |len: u8| [vec![len], vec![b'a'; len.into()]].concat();
        let of = |len| {
            let header = b"\0\x01\x81\x80\0\x01\0\x01\0\0\0\0".to_vec();
            let question = [&label(63).repeat(3)[..], b"\0\0\x10\0\x01"].concat();
            let record = b"\xc0\x0c\0\x10\0\x01\0\0\0\x01\0\0".to_vec();
            [header, question, label(len), record].concat()
        };
        assert!(Answer::parse(&of(61)).is_some(), "255 octets");
        assert!(Answer::parse(&of(62)).is_none(), "256 octets");
    }

    proptest! {
        #[test]
        fn another_codec_reads_the_same(
            changes in prop::collection::vec((0..ANSWER.len(), any::<u8>()), 0..4),
        ) {
            let message = with(ANSWER, &changes);
            let answer = Answer::parse(&message);
            if let (Some(answer), Ok(other)) = (answer, Message::from_vec(&message)) {
                let ttls: Vec<_> = answer.records().map(|it| it.ttl).collect();
                let others = other.answers.iter().chain(&other.authorities);
                let others: Vec<_> = others.map(|it| it.ttl).collect();
                prop_assert_eq!(answer.id(), other.metadata.id);
                prop_assert_eq!(answer.is_truncated(), other.metadata.truncation);
                prop_assert_eq!(answer.is_authentic(), other.metadata.authentic_data);
                // One above 2^31 is none here.
                let kept = |ttl: &u32| if *ttl > i32::MAX as u32 { 0 } else { *ttl };
                prop_assert_eq!(ttls, others.iter().map(kept).collect::<Vec<_>>());
            }
        }

        #[test]
        fn whatever_comes_is_read_or_not(message in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(answer) = Answer::parse(&message) {
                let records = answer.counts().map(usize::from);
                prop_assert_eq!(answer.records().count(), records[0] + records[1]);
            }
        }
    }
}
