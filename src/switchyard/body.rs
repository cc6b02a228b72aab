//! The JSON that messages of the fabric carry: types ⇄ text.
//!
//! What is written has the octets that the seed's programs write, spaces and escapes included, so
//! that a client which compares text instead of parsing it goes on working. What is read may be
//! any JSON of at most 4 KiB that is at most 8 deep; fields that are not known are not looked at.

use super::filter::RuleText;
use crate::{addr::MacAddr, impair::Counters, printable::is_printable};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::ser::{Formatter, Serializer};
use std::io::{self, Write};

/// Octets of JSON at most.
pub const MAX_LEN: usize = 4096;
/// How deep objects and lists may be in each other.
// No message needs more than three; a parser's stack is not for strangers to fill.
const MAX_DEPTH: usize = 8;
/// Characters of a name at most.
pub(super) const MAX_NAME: usize = 63;

/// Of HELLO.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Who the client says it is.
    #[serde(default)]
    pub client_name: String,
    /// What it would use beyond version 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
}

/// Of WELCOME.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Always `switchyardd`: clients may look.
    pub server: String,
    /// The protocol's.
    pub version: u16,
    /// Which of those asked for there are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
}

/// Of ENDPOINT_CREATE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointCreate {
    /// What others look it up by.
    pub name: String,
    /// Absent: the fabric chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
}

/// Of ENDPOINT_LOOKUP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointLookup {
    /// Whose.
    pub name: String,
}

/// Of ENDPOINT_CREATED and ENDPOINT_INFO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointInfo {
    /// By which messages name it.
    pub endpoint_id: u32,
    /// As it was given.
    pub name: String,
    /// Its own.
    pub mac: MacAddr,
}

/// Of SUBSCRIBE. The fabric goes by the header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// Whose frames.
    pub endpoint_id: u32,
    /// Whether all of the fabric.
    pub promisc: bool,
}

/// Of SUBSCRIBED, and of other answers that say no more than that it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nothing {}

/// Of ERROR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why not.
    pub error: String,
}

/// Of STATS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsAsked {
    /// Of the endpoints with larger ids.
    #[serde(default)]
    pub after: u32,
}

/// What has been counted at an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointCounters {
    /// Frames that it has sent.
    pub sent: u64,
    /// Their octets.
    pub sent_octets: u64,
    /// Frames that its subscribers were to hear.
    pub heard: u64,
    /// Their octets.
    pub heard_octets: u64,
    /// Of those, how many were lost as a subscriber was too slow.
    pub lost: u64,
}

/// A bad line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineStats {
    /// What it does.
    pub spec: String,
    /// Frames that it holds.
    pub held: usize,
    /// What it has done.
    pub counters: Counters,
}

/// An endpoint, in [`Stats`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStats {
    /// By which messages name it.
    pub endpoint_id: u32,
    /// As it was given.
    pub name: String,
    /// Its own.
    pub mac: MacAddr,
    /// How many.
    pub subscribers: usize,
    /// What has been counted at it.
    #[serde(flatten)]
    pub counters: EndpointCounters,
    /// The line that it sends by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<LineStats>,
    /// The line that it hears by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<LineStats>,
}

/// A rule, in [`Stats`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStats {
    /// The rule.
    pub rule: RuleText,
    /// Frames that it has fitted.
    pub frames: u64,
}

/// Of STATS_REPLY.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// How many are connected.
    pub clients: usize,
    /// Frames that rules have dropped.
    pub filtered: u64,
    /// Frames whose source was not learned, as there was no room.
    pub mac_not_learned: u64,
    /// Clients that were closed at once, as there were too many.
    pub refused_clients: u64,
    /// Some endpoints, by id.
    pub endpoints: Vec<EndpointStats>,
    /// Whether there may be more of them: ask with `after`.
    pub more: bool,
    /// Rules, with the first endpoints only.
    pub rules: Vec<RuleStats>,
}

/// Of CAPTURE_START.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureStart {
    /// The number of the first frame to be shown.
    #[serde(default)]
    pub from: u64,
    /// How many to keep, where none are kept yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub megabytes: Option<usize>,
}

/// Of IMPAIR_SET. What is absent stays; an empty text makes a line a good one again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImpairSet {
    /// The endpoint's.
    pub name: String,
    /// For what it sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// For what it hears.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// Why a payload is not what its message needs.
#[derive(Debug, thiserror::Error)]
pub enum BadBody {
    /// It is too long.
    #[error("{len} octets; expected at most {max}")]
    Long {
        /// So long.
        len: usize,
        /// As long as it may be.
        max: usize,
    },
    /// It has too many levels.
    #[error("nested too deep; expected at most {MAX_DEPTH} levels")]
    Deep,
    /// It is no JSON, or not this.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A name is not one.
    #[error("name: expected 1-{MAX_NAME} printable characters")]
    Name,
    /// A MAC is of a group, or of nobody.
    #[error("mac {0}: expected the address of one host, like 02:00:00:00:00:01")]
    Mac(MacAddr),
}

/// Reads a payload.
///
/// # Errors
///
/// It is too long or too deep, no JSON, or not of this type.
pub fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, BadBody> {
    parse_within(payload, MAX_LEN)
}

/// Reads a payload of which more is expected than of most.
///
/// # Errors
///
/// As [`parse`], with another limit.
pub fn parse_within<T: DeserializeOwned>(payload: &[u8], max: usize) -> Result<T, BadBody> {
    if payload.len() > max {
        return Err(BadBody::Long { len: payload.len(), max });
    }
    if depth(payload) > MAX_DEPTH {
        return Err(BadBody::Deep);
    }
    Ok(serde_json::from_slice(payload)?)
}

/// How deep brackets are in each other, those in strings aside.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut is_string, mut is_escaped) = (false, false);
    for octet in json {
        match octet {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_string => is_escaped = true,
            b'"' => is_string = !is_string,
            b'[' | b'{' if !is_string => depth += 1,
            b']' | b'}' if !is_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

impl EndpointCreate {
    /// Reads a payload, and what it says of the new endpoint.
    ///
    /// # Errors
    ///
    /// As [`parse`], and for names and MACs that no endpoint can have.
    pub fn parse(payload: &[u8]) -> Result<Self, BadBody> {
        let request: Self = parse(payload)?;
        let is_sound = (1..=MAX_NAME).contains(&request.name.chars().count());
        // A name is printed by every tool that shows it: nothing in it may move a cursor.
        if !is_sound || !request.name.chars().all(is_printable) {
            return Err(BadBody::Name);
        }
        match request.mac {
            Some(mac) if mac.is_multicast() || mac == MacAddr([0; 6]) => Err(BadBody::Mac(mac)),
            _ => Ok(request),
        }
    }
}

/// Writes a payload as the seed's programs do.
pub fn write(body: &impl Serialize) -> Vec<u8> {
    let mut json = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut json, LikePython);
    body.serialize(&mut serializer).expect("bodies have string keys, and memory takes all octets");
    json
}

/// Spaces after commas and colons, and ASCII only: what `json.dumps` of Python writes.
struct LikePython;

impl LikePython {
    fn separate<W: ?Sized + Write>(writer: &mut W, is_first: bool) -> io::Result<()> {
        if is_first { Ok(()) } else { writer.write_all(b", ") }
    }
}

impl Formatter for LikePython {
    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        is_first: bool,
    ) -> io::Result<()> {
        Self::separate(writer, is_first)
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        is_first: bool,
    ) -> io::Result<()> {
        Self::separate(writer, is_first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for c in fragment.chars() {
            // DEL is ASCII, and written as it is there too.
            if c.is_ascii() {
                write!(writer, "{c}")?;
            } else {
                // JSON knows 16 bits: the rest are pairs of surrogates (RFC 8259 §7).
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // seed H.4.19–29: the JSON of each message
    #[test]
    fn json_has_the_octets_of_the_seeds_programs() {
        let text = |json: Vec<u8>| String::from_utf8(json).unwrap();
        let hello = |extensions: &[&str]| Hello {
            client_name: "cli".into(),
            extensions: extensions.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(text(write(&hello(&[]))), r#"{"client_name": "cli"}"#);
        assert_eq!(
            text(write(&hello(&["stats", "filter"]))),
            r#"{"client_name": "cli", "extensions": ["stats", "filter"]}"#
        );
        let welcome = Welcome { server: "switchyardd".into(), version: 1, extensions: vec![] };
        assert_eq!(text(write(&welcome)), r#"{"server": "switchyardd", "version": 1}"#);
        let mut create = EndpointCreate { name: "é\u{1f600}\"".into(), mac: None };
        assert_eq!(text(write(&create)), r#"{"name": "\u00e9\ud83d\ude00\""}"#);
        let mac = MacAddr([2, 0x53, 0x59, 0, 0, 1]);
        create = EndpointCreate { name: "a".into(), mac: Some(mac) };
        assert_eq!(text(write(&create)), r#"{"name": "a", "mac": "02:53:59:00:00:01"}"#);
        let info = EndpointInfo { endpoint_id: 7, name: "a".into(), mac };
        let json = r#"{"endpoint_id": 7, "name": "a", "mac": "02:53:59:00:00:01"}"#;
        assert_eq!(text(write(&info)), json);
        assert_eq!(parse::<EndpointInfo>(json.as_bytes()).unwrap(), info);
        let lookup = EndpointLookup { name: "a".into() };
        assert_eq!(text(write(&lookup)), r#"{"name": "a"}"#);
        let subscribe = Subscribe { endpoint_id: 7, promisc: true };
        assert_eq!(text(write(&subscribe)), r#"{"endpoint_id": 7, "promisc": true}"#);
        assert_eq!(text(write(&Nothing {})), "{}");
        assert_eq!(text(write(&Refusal { error: "no".into() })), r#"{"error": "no"}"#);
    }

    #[test]
    fn hostile_json_is_refused_by_what_is_wrong_with_it() {
        let refused = |json: &str| EndpointCreate::parse(json.as_bytes()).unwrap_err().to_string();
        assert!(refused("{}").contains("name"), "{}", refused("{}"));
        assert!(refused("[1]").contains("expected"));
        assert!(refused(r#"{"name": 7}"#).contains("string"));
        let name = "name: expected 1-63 printable characters";
        for bad in ["", "\\u0000", "\\u001b[2J", &"x".repeat(64)] {
            assert_eq!(refused(&format!(r#"{{"name": "{bad}"}}"#)), name);
        }
        EndpointCreate::parse(format!(r#"{{"name": "{}"}}"#, "x".repeat(63)).as_bytes()).unwrap();
        assert!(refused(r#"{"name": "a", "mac": "1"}"#).contains("six hexadecimal"));
        for mac in ["01:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
            let said = refused(&format!(r#"{{"name": "a", "mac": "{mac}"}}"#));
            assert!(said.contains("the address of one host"), "{said}");
        }
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let nested = |levels| format!(r#"{{"name": "a[{{\"[", "x": {}}}"#, deep(levels));
        EndpointCreate::parse(nested(7).as_bytes()).unwrap();
        assert_eq!(refused(&nested(8)), "nested too deep; expected at most 8 levels");
        assert!(refused(&"[".repeat(4096)).contains("too deep"));
        assert_eq!(refused(&" ".repeat(4097)), "4097 octets; expected at most 4096");
        assert!(parse::<Hello>(b"\xff\xfe").is_err(), "not UTF-8");
    }
}
