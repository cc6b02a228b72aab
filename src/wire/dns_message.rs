//! DNS messages (RFC 1035 §4, RFC 6891, RFC 9619): a query is read, a response is written.
//!
//! Takes the octets of a datagram, and returns the one question that they ask and what their sender
//! understands; or `None`, where nobody is to be answered. No pointer is followed: the name that is
//! asked for is the first one, before which there is nothing to point at, and names behind it are
//! passed over.

use super::{Full, Writer, dns};
use arrayvec::ArrayVec;
use zerocopy::{
    FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout, Unaligned,
    big_endian::{U16, U32},
};

/// The port of a DNS server (RFC 1035 §4.2).
pub const PORT: u16 = 53;
/// Octets of the header.
pub const HEADER_LEN: usize = 12;
const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// The class of the Internet, and any class (RFC 1035 §3.2.4, §3.2.5).
pub(super) const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;
/// Types that only a question or a message has, as all that there is, and whole zones (RFC 6895
/// §3.1).
const QUESTION_TYPES: std::ops::RangeInclusive<u16> = 128..=255;

/// Types of records (RFC 1035 §3.2.2, RFC 3596, RFC 6891).
pub mod kind {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// A server of a zone.
    pub const NS: u16 = 2;
    /// Another name.
    pub const CNAME: u16 = 5;
    /// The start of a zone.
    pub const SOA: u16 = 6;
    /// The name of an address.
    pub const PTR: u16 = 12;
    /// A machine, in words.
    pub const HINFO: u16 = 13;
    /// Who takes mail.
    pub const MX: u16 = 15;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// Where a service is.
    pub const SRV: u16 = 33;
    /// The names below, elsewhere.
    pub const DNAME: u16 = 39;
    /// What both sides understand beyond RFC 1035.
    pub const OPT: u16 = 41;
    /// Everything that there is: of questions alone.
    pub const ANY: u16 = 255;
}

/// How a query was dealt with (RFC 1035 §4.1.1, RFC 6891 §9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Code {
    /// Well.
    NoError = 0,
    /// It cannot be understood.
    FormErr = 1,
    /// Those who were asked did not answer.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// It asks for something that nobody does here.
    NotImp = 4,
    /// It is not answered here.
    Refused = 5,
    /// It is of a version of EDNS that is not known.
    BadVers = 16,
}

/// Whose a response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// Of who knows the zone.
    Own,
    /// Of who does not.
    None,
}

/// What else a response says of itself: bits of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Flag {
    /// There is more than fits.
    Truncated = TRUNCATED,
    /// Names of others are asked for, too.
    RecursionAvailable = 1 << 7,
    /// Signatures were checked (RFC 6840 §5.8).
    Authentic = AUTHENTIC,
}

/// Bits of the header (RFC 1035 §4.1.1, RFC 4035 §3.2.2).
pub(super) const RESPONSE: u16 = 1 << 15;
pub(super) const OPCODE: u16 = 0xf << 11;
const AUTHORITATIVE: u16 = 1 << 10;
pub(super) const TRUNCATED: u16 = 1 << 9;
pub(super) const RECURSION_DESIRED: u16 = 1 << 8;
pub(super) const AUTHENTIC: u16 = 1 << 5;
pub(super) const CHECKING_DISABLED: u16 = 1 << 4;
/// Of the TTL of an OPT record (RFC 3225 §3).
pub(super) const DNSSEC_OK: u32 = 1 << 15;
/// Octets of a response that every client takes in a datagram (RFC 1035 §4.2.1).
const LEAST_PAYLOAD: u16 = 512;
/// Octets of a datagram that is taken whole, as is told in responses.
// What no link cuts: 1280, the least MTU of IPv6, without headers (RFC 9715 §3.1).
pub(super) const PAYLOAD: u16 = 1232;
/// What a pointer begins with (RFC 1035 §4.1.4).
const POINTER: u16 = 0xc000;
/// Where in the header flags are, and numbers of records.
const FLAGS_AT: usize = 2;
const COUNTS_AT: [usize; 3] = [6, 8, 10];
/// Octets of a name, lengths included (RFC 1035 §2.3.4).
pub const MAX_NAME: usize = 255;
/// Octets of a label (RFC 1035 §2.3.4).
pub(super) const MAX_LABEL: u8 = 63;

/// A header. Numbers are of records in each section.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Header {
    pub(super) id: U16,
    pub(super) flags: U16,
    pub(super) questions: U16,
    pub(super) answers: U16,
    pub(super) authorities: U16,
    pub(super) additionals: U16,
}

/// A name in a message, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked<'a> {
    octets: &'a [u8],
    /// Where its labels begin, the empty one at the end left out.
    starts: ArrayVec<u8, { MAX_NAME / 2 }>,
}

impl<'a> Asked<'a> {
    /// Reads a name that is not compressed; `None` where it is cut, too long or compressed.
    pub(super) fn parse(octets: &'a [u8]) -> Option<Self> {
        let mut starts = ArrayVec::new();
        let mut at = 0_usize;
        loop {
            let len = *octets.get(at)?;
            let end = at + 1 + usize::from(len);
            if len > MAX_LABEL || end > MAX_NAME {
                return None;
            }
            if len == 0 {
                return Some(Self { octets: octets.get(..end)?, starts });
            }
            starts.try_push(u8::try_from(at).ok()?).ok()?;
            at = end;
        }
    }

    /// Returns its octets, the empty label at the end included.
    pub fn octets(&self) -> &'a [u8] {
        self.octets
    }

    /// Returns how many labels it has.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether it is the root.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Returns the record's owner that is this name without its first `labels`.
    pub fn without(&self, labels: usize) -> Owner {
        let end = self.octets.len().saturating_sub(1) as u8;
        Owner(self.starts.get(labels).copied().unwrap_or(end))
    }

    /// Returns its labels, the first one first.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        let octets = self.octets;
        self.starts.iter().filter_map(move |start| {
            let (len, rest) = octets.get(usize::from(*start)..)?.split_first()?;
            rest.get(..usize::from(*len))
        })
    }

    /// Returns how many of its labels come before `suffix`, if it ends with that.
    pub fn before(&self, suffix: &dns::Name) -> Option<usize> {
        let at = self.octets.len().checked_sub(suffix.octets().len())?;
        // An octet of a length is below 64, and no letter: cases of letters alone are alike.
        let ends = self.octets.get(at..)?.eq_ignore_ascii_case(suffix.octets());
        ends.then(|| self.starts.binary_search(&u8::try_from(at).ok()?).ok()).flatten()
    }
}

/// What the sender of a query understands (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Edns {
    /// Octets of a datagram that it takes whole.
    payload: u16,
    version: u8,
    dnssec_ok: bool,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question<'a> {
    /// What is asked about.
    pub name: Asked<'a>,
    /// The type of records.
    pub kind: u16,
    class: u16,
}

impl Question<'_> {
    /// Whether it asks for records of the Internet, of one type.
    pub fn is_of_records(&self) -> bool {
        let is_meta = QUESTION_TYPES.contains(&self.kind) || [0, kind::OPT].contains(&self.kind);
        [CLASS_IN, CLASS_ANY].contains(&self.class) && !is_meta
    }

    /// Whether it asks about names of the Internet, and of no other class.
    pub fn is_of_internet(&self) -> bool {
        self.class == CLASS_IN
    }
}

/// A query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query<'a> {
    header: Header,
    /// The question as it is to be repeated, its case included; empty where it cannot be read.
    repeated: &'a [u8],
    edns: Option<Edns>,
    /// What it asks, or why it cannot be answered.
    pub question: Result<Question<'a>, Code>,
}

impl<'a> Query<'a> {
    /// Reads a query; `None` where the message is cut, or a response.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let (header, rest) = Header::read_from_prefix(message).ok()?;
        // Never answered: two servers could answer each other for ever.
        if header.flags.get() & RESPONSE != 0 {
            return None;
        }
        let mut query = Self { header, repeated: &[], edns: None, question: Err(Code::FormErr) };
        query.question = query.read(rest);
        Some(query)
    }

    /// Returns how many octets of a response its sender takes in a datagram; no more than pass
    /// every link.
    pub fn payload(&self) -> usize {
        let told = self.edns.map_or(LEAST_PAYLOAD, |edns| edns.payload);
        told.clamp(LEAST_PAYLOAD, PAYLOAD).into()
    }

    /// Whether names of others are to be asked for.
    pub fn wants_recursion(&self) -> bool {
        self.has(RECURSION_DESIRED)
    }

    /// Whether its sender checks signatures itself.
    pub fn disables_checks(&self) -> bool {
        self.has(CHECKING_DISABLED)
    }

    /// Whether signatures are to be sent with what they sign.
    pub fn wants_signatures(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Whether its sender knows what it means that signatures were checked (RFC 6840 §5.7).
    pub fn knows_authentic(&self) -> bool {
        self.has(AUTHENTIC) || self.wants_signatures()
    }

    fn has(&self, flag: u16) -> bool {
        self.header.flags.get() & flag != 0
    }

    /// Reads what is behind the header.
    fn read(&mut self, rest: &'a [u8]) -> Result<Question<'a>, Code> {
        let header = &self.header;
        if header.flags.get() & OPCODE != 0 {
            return Err(Code::NotImp);
        }
        // One question (RFC 9619), and nothing that is known beforehand.
        let before = [header.questions, header.answers, header.authorities].map(U16::get);
        if before != [1, 0, 0] {
            return Err(Code::FormErr);
        }
        let name = Asked::parse(rest).ok_or(Code::FormErr)?;
        let len = name.octets.len() + size_of::<Kind>();
        let (repeated, records) = rest.split_at_checked(len).ok_or(Code::FormErr)?;
        let (_, Kind { kind, class }) =
            Kind::read_from_suffix(repeated).map_err(|_| Code::FormErr)?;
        self.repeated = repeated;
        self.edns = edns(records, header.additionals.get()).ok_or(Code::FormErr)?;
        if self.edns.is_some_and(|edns| edns.version != 0) {
            return Err(Code::BadVers);
        }
        Ok(Question { name, kind: kind.get(), class: class.get() })
    }
}

/// What ends a question.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Kind {
    pub(super) kind: U16,
    pub(super) class: U16,
}

/// What is behind the name of a record (RFC 1035 §3.2.1), its data apart.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Record {
    pub(super) kind: Kind,
    pub(super) ttl: U32,
    pub(super) len: U16,
}

/// Finds the OPT record among `count` records; `None` where one is cut, or there are two of it.
fn edns(mut records: &[u8], count: u16) -> Option<Option<Edns>> {
    let mut found = None;
    for _ in 0..count {
        let (is_root, rest) = (records.first() == Some(&0), skip_name(records)?);
        let (record, rest) = Record::ref_from_prefix(rest).ok()?;
        records = rest.get(usize::from(record.len.get())..)?;
        if record.kind.kind.get() == kind::OPT {
            let [_, version, ..] = record.ttl.get().to_be_bytes();
            let dnssec_ok = record.ttl.get() & DNSSEC_OK != 0;
            // At most one, of the root (RFC 6891 §6.1.1).
            let payload = record.kind.class.get();
            if !is_root || found.replace(Edns { payload, version, dnssec_ok }).is_some() {
                return None;
            }
        }
    }
    Some(found)
}

/// Returns what is behind a name, which may be compressed.
fn skip_name(mut octets: &[u8]) -> Option<&[u8]> {
    // Each turn takes an octet at least.
    loop {
        let (len, rest) = octets.split_first()?;
        octets = match *len {
            0 => return Some(rest),
            // A pointer ends a name (RFC 1035 §4.1.4).
            0xc0.. => return rest.get(1..),
            len @ 1..=MAX_LABEL => rest.get(usize::from(len)..)?,
            _ => return None,
        };
    }
}

/// A section of a response, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// What was asked for.
    Answer,
    /// Who says so.
    Authority,
    /// What is good to know.
    Additional,
}

/// The name of a record: what was asked for, without so many of its first octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(u8);

impl Owner {
    /// What was asked for.
    pub const ASKED: Self = Self(0);
}

impl Owner {
    /// Writes it as a pointer to the question.
    pub fn write(self, writer: &mut Writer<'_>) -> Result<(), Full> {
        // The question begins behind the header.
        writer.push(&U16::new(POINTER | (HEADER_LEN as u16 + u16::from(self.0))))
    }
}

/// A response that is being written, at the beginning of its writer.
#[derive(Debug)]
pub struct Response<'q, 'w, 'b> {
    query: &'q Query<'q>,
    writer: &'w mut Writer<'b>,
    /// Records in each section.
    counts: [u16; 3],
    flags: u16,
}

impl<'q, 'w, 'b> Response<'q, 'w, 'b> {
    /// Begins the response to `query`, which repeats its question.
    pub fn begin(query: &'q Query<'q>, writer: &'w mut Writer<'b>) -> Result<Self, Full> {
        let questions = u16::from(!query.repeated.is_empty());
        let header = Header { questions: U16::new(questions), ..Header::new_zeroed() };
        writer.push(&Header { id: query.header.id, ..header })?;
        writer.push_slice(query.repeated)?;
        Ok(Self { query, writer, counts: [0; 3], flags: 0 })
    }

    /// Adds a record of the Internet, whose data is written by `data`. Sections come in order.
    pub fn record(
        &mut self,
        section: Section,
        owner: Owner,
        (kind, ttl): (u16, u32),
        data: impl FnOnce(&mut Writer<'_>) -> Result<(), Full>,
    ) -> Result<(), Full> {
        owner.write(self.writer)?;
        let kind = Kind { kind: U16::new(kind), class: U16::new(CLASS_IN) };
        self.writer.push(&Record { kind, ttl: U32::new(ttl), len: U16::ZERO })?;
        let at = self.writer.len();
        data(self.writer)?;
        let len = u16::try_from(self.writer.len() - at).map_err(|_| Full)?;
        self.writer.patch_u16(at - size_of::<U16>(), len);
        self.count(section);
        Ok(())
    }

    fn count(&mut self, section: Section) {
        let [answers, authorities, additionals] = &mut self.counts;
        *match section {
            Section::Answer => answers,
            Section::Authority => authorities,
            Section::Additional => additionals,
        } += 1;
    }

    /// Says this, too.
    pub fn set(&mut self, flag: Flag) {
        self.flags |= flag as u16;
    }

    /// Adds records as they were in another response to the same question: so many in each of the
    /// first two sections.
    // Names in them point at the question and at each other, which are where they were.
    pub fn copy(&mut self, records: &[u8], [answers, authorities]: [u16; 2]) -> Result<(), Full> {
        self.writer.push_slice(records)?;
        self.counts = [answers, authorities, 0];
        Ok(())
    }

    /// Ends the response.
    pub fn end(mut self, code: Code, authority: Authority) -> Result<(), Full> {
        if let Some(edns) = self.query.edns {
            self.writer.push(&0_u8)?;
            let kind = Kind { kind: U16::new(kind::OPT), class: U16::new(PAYLOAD) };
            let dnssec_ok = if edns.dnssec_ok { DNSSEC_OK } else { 0 };
            // The upper bits of the code are there, and not in the header (RFC 6891 §6.1.3).
            let ttl = U32::new((code as u32 >> 4) << 24 | dnssec_ok);
            self.writer.push(&Record { kind, ttl, len: U16::ZERO })?;
            self.count(Section::Additional);
        }
        let kept = OPCODE | RECURSION_DESIRED | CHECKING_DISABLED;
        let authoritative = if authority == Authority::Own { AUTHORITATIVE } else { 0 };
        let flags = RESPONSE | authoritative | self.flags | self.query.header.flags.get() & kept;
        self.writer.patch_u16(FLAGS_AT, flags | code as u16 & 0xf);
        for (at, count) in COUNTS_AT.into_iter().zip(self.counts) {
            self.writer.patch_u16(at, count);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query by dig for `vm1.internal`, an address, with what it knows of EDNS.
    const QUERY: &[u8] = b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\x01\
        \x03vm1\x08internal\0\0\x01\0\x01\
        \0\0\x29\x04\xd0\0\0\x80\0\0\x04\0\x0a\0\0";

    /// What is answered with `code`, and no record.
    fn response(message: &[u8], code: Code) -> Vec<u8> {
        let query = Query::parse(message).unwrap();
        let mut buffer = [0; 512];
        let mut writer = Writer::new(&mut buffer);
        Response::begin(&query, &mut writer).unwrap().end(code, Authority::Own).unwrap();
        writer.since(0).to_vec()
    }

    fn with(changes: &[(usize, u8)]) -> Vec<u8> {
        let mut message = QUERY.to_vec();
        changes.iter().for_each(|(at, to)| message[*at] = *to);
        message
    }

    #[test]
    fn a_query_is_read_and_repeated_with_its_case() {
        let query = Query::parse(QUERY).unwrap();
        let question = query.question.clone().unwrap();
        assert_eq!((question.kind, question.is_of_records()), (kind::A, true));
        assert_eq!(question.name.octets(), b"\x03vm1\x08internal\0");
        assert_eq!(question.name.labels().collect::<Vec<_>>(), [&b"vm1"[..], b"internal"]);
        let domain = |text: &str| text.parse::<dns::Name>().unwrap();
        assert_eq!(question.name.before(&domain("INTERNAL")), Some(1));
        assert_eq!(question.name.before(&domain("vm1.internal")), Some(0));
        assert_eq!(question.name.before(&domain("a.vm1.internal")), None);
        let inside =
            Query::parse(b"\0\0\0\0\0\x01\0\0\0\0\0\0\x05\x01a\x01bc\0\0\x01\0\x01").unwrap();
        let name = inside.question.unwrap().name;
        assert_eq!(name.before(&domain("b")), None, "a label is whole");
        let shouted = with(&[(13, b'V'), (17, b'I')]);
        let answered = response(&shouted, Code::NoError);
        assert_eq!(
            answered,
            b"\x12\x34\x85\0\0\x01\0\0\0\0\0\x01\x03Vm1\x08Internal\0\0\x01\0\x01\
              \0\0\x29\x04\xd0\0\0\x80\0\0\0"
        );
    }

    #[test]
    fn records_are_counted_in_their_sections() {
        let query = Query::parse(QUERY).unwrap();
        let name = query.question.clone().unwrap().name;
        let mut buffer = [0; 512];
        let mut writer = Writer::new(&mut buffer);
        let mut response = Response::begin(&query, &mut writer).unwrap();
        let address = |data: &mut Writer<'_>| data.push_slice(&[10, 0, 0, 1]);
        response.record(Section::Answer, Owner::ASKED, (kind::A, 30), address).unwrap();
        let zone = name.without(1);
        response.record(Section::Authority, zone, (kind::NS, 30), |d| zone.write(d)).unwrap();
        response.end(Code::BadVers, Authority::None).unwrap();
        assert_eq!(
            writer.since(0),
            b"\x12\x34\x81\0\0\x01\0\x01\0\x01\0\x01\x03vm1\x08internal\0\0\x01\0\x01\
              \xc0\x0c\0\x01\0\x01\0\0\0\x1e\0\x04\x0a\0\0\x01\
              \xc0\x10\0\x02\0\x01\0\0\0\x1e\0\x02\xc0\x10\
              \0\0\x29\x04\xd0\x01\0\x80\0\0\0"
        );
        let mut small = [0; 40];
        let mut writer = Writer::new(&mut small);
        let mut response = Response::begin(&query, &mut writer).unwrap();
        let told = response.record(Section::Answer, Owner::ASKED, (kind::A, 30), address);
        assert_eq!(told, Err(Full));
    }

    #[test]
    fn what_is_no_query_of_one_question_is_refused() {
        let code = |message: &[u8]| Query::parse(message).map(|query| query.question.err());
        let refused = |changes: &[(usize, u8)]| code(&with(changes));
        assert_eq!(code(&QUERY[..11]), None, "the header is cut");
        assert_eq!(refused(&[(2, 0x81)]), None, "it is a response");
        assert_eq!(refused(&[(2, 0x29)]), Some(Some(Code::NotImp)), "it is an update");
        for (what, message) in [
            ("no question", with(&[(5, 0)])),
            ("two questions", with(&[(5, 2)])),
            ("an answer", with(&[(7, 1)])),
            ("an authority", with(&[(9, 1)])),
            ("more records than there are", with(&[(11, 2)])),
            ("a label of 64", with(&[(12, 64)])),
            ("a pointer to itself", with(&[(12, 0xc0), (13, 12)])),
            ("a name that is cut", QUERY[..20].to_vec()),
            ("a type that is cut", QUERY[..27].to_vec()),
            ("a record that is cut", QUERY[..QUERY.len() - 1].to_vec()),
            ("OPT of a name", [&QUERY[..30], b"\xc0\x0c", &QUERY[31..]].concat()),
            ("OPT twice", [&QUERY[..11], b"\x02", &QUERY[12..], &QUERY[30..]].concat()),
            ("a name of 256 octets", {
                let name = [&[63][..], &[b'a'; 63]].concat().repeat(4);
                [&QUERY[..11], b"\0", &name, b"\0\0\x01\0\x01"].concat()
            }),
        ] {
            assert_eq!(code(&message), Some(Some(Code::FormErr)), "{what}");
        }
        assert_eq!(refused(&[(36, 1)]), Some(Some(Code::BadVers)), "EDNS of the future");
        assert_eq!(
            response(&with(&[(5, 2)]), Code::FormErr)[..12],
            *b"\x12\x34\x85\x01\0\0\0\0\0\0\0\0"
        );
        // Records of other types may be there, as of a signature.
        let signed = [&QUERY[..11], b"\x02", &QUERY[12..], b"\xc0\x0c\0\xfa\0\xff\0\0\0\0\0\x01x"];
        assert_eq!(code(&signed.concat()), Some(None));
        for (kind, class) in [(0, 1), (41, 1), (252, 1), (255, 1), (1, 3)] {
            let query = with(&[(27, kind), (29, class)]);
            let query = Query::parse(&query).unwrap();
            assert!(!query.question.unwrap().is_of_records(), "{kind} {class}");
        }
    }
}
