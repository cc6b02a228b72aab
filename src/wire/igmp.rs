//! IGMP: which IPv4 groups hosts listen to (RFC 1112 Appendix I, RFC 2236, RFC 3376).

use super::{Full, Writer, checksum, group_records::Records, ipv4};
use std::net::Ipv4Addr;

/// Its number among IP protocols.
pub const PROTOCOL: u8 = 2;

/// Where general queries go: all systems.
const ALL_SYSTEMS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
/// Octets of a query without sources (RFC 3376 §4.1).
const QUERY_LEN: usize = 12;
/// How long a host may wait with its answer, in tenths of a second (§8.3), and where it is asked of
/// one group that another has left (§8.8).
const RESPONSE_TIME: u8 = 100;
const LAST_RESPONSE_TIME: u8 = 10;
/// The robustness variable (§8.1), and the interval between queries in seconds (§8.2).
const ROBUSTNESS: u8 = 2;
const INTERVAL: u8 = 125;

/// A message, as far as it says who listens.
#[derive(Debug, Clone)]
pub enum Message<'a> {
    /// "Who listens?", to this group; to any, where that is unspecified.
    Query(Ipv4Addr),
    /// A host has joined a group, or is still in it.
    Joined(Ipv4Addr),
    /// A host has left a group.
    Left(Ipv4Addr),
    /// A host says of several groups.
    Report(Records<'a, 4>),
}

impl<'a> Message<'a> {
    /// Reads a message, of which there are `len` octets in all; none is at hand that is damaged.
    pub fn parse(octets: &'a [u8], len: usize) -> Option<Self> {
        let [kind, _, _, _, a, b, c, d, ..] = *octets else { return None };
        // Of a longer one than is at hand the sum is not known: it may only say too much.
        if octets.get(..len).is_some_and(|whole| checksum::checksum(whole) != 0) {
            return None;
        }
        let group = Ipv4Addr::new(a, b, c, d);
        match kind {
            0x11 => Some(Self::Query(group)),
            0x12 | 0x16 => Some(Self::Joined(group)),
            0x17 => Some(Self::Left(group)),
            0x22 => Some(Self::Report(Records::of(octets.get(..len).unwrap_or(octets))?)),
            _ => None,
        }
    }
}

/// Appends a packet with a query of version 3, from `source`: of one group, or of all.
pub fn write_query(
    writer: &mut Writer<'_>,
    source: Ipv4Addr,
    group: Option<Ipv4Addr>,
) -> Result<(), Full> {
    let time = if group.is_some() { LAST_RESPONSE_TIME } else { RESPONSE_TIME };
    let (to, group) = (group.unwrap_or(ALL_SYSTEMS), group.unwrap_or(Ipv4Addr::UNSPECIFIED));
    let [a, b, c, d] = group.octets();
    let start = writer.len();
    // Version 4, a header of six words; the router alert is its last (RFC 2113).
    let len = (ipv4::HEADER_LEN + 4 + QUERY_LEN) as u8;
    writer.push_slice(&[0x46, 0xc0, 0, len, 0, 0, 0, 0, 1, PROTOCOL, 0, 0])?;
    writer.push_slice(&source.octets())?;
    writer.push_slice(&to.octets())?;
    writer.push_slice(&[148, 4, 0, 0])?;
    writer.patch_u16(start + 10, checksum::checksum(writer.since(start)));
    let message = writer.len();
    writer.push_slice(&[0x11, time, 0, 0, a, b, c, d, ROBUSTNESS, INTERVAL, 0, 0])?;
    writer.patch_u16(message + 2, checksum::checksum(writer.since(message)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::group_records::Change;

    #[test]
    fn messages_of_all_versions_are_understood() {
        let read = |octets: &[u8]| {
            let mut octets = octets.to_vec();
            let sum = checksum::checksum(&octets);
            octets[2..4].copy_from_slice(&sum.to_be_bytes());
            let padded = [&octets[..], &[0xee; 4]].concat();
            match Message::parse(&padded, octets.len()) {
                Some(Message::Query(group)) => format!("query {group}"),
                Some(Message::Joined(group)) => format!("+{group}"),
                Some(Message::Left(group)) => format!("-{group}"),
                Some(Message::Report(records)) => format!("{:?}", records.collect::<Vec<_>>()),
                None => "nothing".into(),
            }
        };
        assert_eq!(read(&[0x11, 100, 0, 0, 0, 0, 0, 0]), "query 0.0.0.0");
        assert_eq!(read(&[0x11, 10, 0, 0, 239, 1, 1, 1]), "query 239.1.1.1");
        assert_eq!(read(&[0x12, 0, 0, 0, 239, 1, 1, 1]), "+239.1.1.1");
        assert_eq!(read(&[0x16, 0, 0, 0, 239, 1, 1, 1]), "+239.1.1.1");
        assert_eq!(read(&[0x17, 0, 0, 0, 239, 1, 1, 1]), "-239.1.1.1");
        let joined = [Ok::<_, ()>(([239, 1, 1, 1], Change::Joined))];
        let report = [0x22, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 239, 1, 1, 1];
        assert_eq!(read(&report), format!("{joined:?}"));
        assert_eq!(read(&[0x13, 0, 0, 0, 0, 0, 0, 0]), "nothing", "DVMRP");
        assert!(Message::parse(&[0x16, 0, 0, 1, 239, 1, 1, 1], 8).is_none(), "a wrong sum");
        assert!(Message::parse(&[0x16, 0, 0, 0, 239, 1, 1], 7).is_none());
    }

    #[test]
    fn a_query_is_as_routers_send_it() {
        let mut buffer = [0; 60];
        let mut writer = Writer::new(&mut buffer);
        write_query(&mut writer, [10, 0, 0, 1].into(), None).unwrap();
        let packet = writer.since(0);
        assert_eq!(packet[..10], [0x46, 0xc0, 0, 36, 0, 0, 0, 0, 1, 2]);
        assert_eq!(packet[12..24], [10, 0, 0, 1, 224, 0, 0, 1, 148, 4, 0, 0]);
        assert_eq!(checksum::checksum(&packet[..24]), 0);
        assert_eq!(packet[24..], [0x11, 100, 0xec, 0x1e, 0, 0, 0, 0, 2, 125, 0, 0]);
        let mut writer = Writer::new(&mut buffer);
        write_query(&mut writer, [10, 0, 0, 1].into(), Some([239, 1, 1, 1].into())).unwrap();
        let packet = writer.since(0);
        assert_eq!(packet[16..20], [239, 1, 1, 1], "who listens to it hears the question");
        assert_eq!((packet[25], &packet[28..32]), (10, &[239, 1, 1, 1][..]));
        assert_eq!(checksum::checksum(&packet[24..]), 0);
    }
}
