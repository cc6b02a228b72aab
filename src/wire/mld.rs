//! MLD: which IPv6 groups hosts listen to (RFC 2710, RFC 3810), in ICMPv6.

use super::{Full, Writer, checksum::Checksum, group_records::Records, icmpv6, ipv6, protocol};
use std::net::Ipv6Addr;

/// Types of messages (RFC 2710 §3.1, RFC 3810 §5).
pub const REPORT: u8 = 131;
/// See [`REPORT`].
pub const DONE: u8 = 132;

/// Where general queries go: all nodes.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Octets of a hop-by-hop header with a router alert (RFC 2711), and of a query without sources.
const OPTIONS_LEN: usize = 8;
const QUERY_LEN: usize = 28;
/// How long a host may wait with its answer, in milliseconds (RFC 3810 §9.3), and where it is asked
/// of one group that another has left (§9.8).
const RESPONSE_TIME: u16 = 10_000;
const LAST_RESPONSE_TIME: u16 = 1000;
/// The robustness variable (§9.1), and the interval between queries in seconds (§9.2).
const ROBUSTNESS: u8 = 2;
const INTERVAL: u8 = 125;

/// A message, as far as it says who listens.
#[derive(Debug, Clone)]
pub enum Message<'a> {
    /// "Who listens?", to this group; to any, where that is unspecified.
    Query(Ipv6Addr),
    /// A host has joined a group, or is still in it.
    Joined(Ipv6Addr),
    /// A host has left a group.
    Left(Ipv6Addr),
    /// A host says of several groups.
    Report(Records<'a, 16>),
}

impl<'a> Message<'a> {
    /// Reads an ICMPv6 message; none where it says nothing of listeners.
    pub fn parse(octets: &'a [u8]) -> Option<Self> {
        let group = || {
            let group: [u8; 16] = octets.get(8..24)?.try_into().ok()?;
            Some(Ipv6Addr::from(group))
        };
        match *octets.first()? {
            icmpv6::MLD_QUERY => group().map(Self::Query),
            REPORT => group().map(Self::Joined),
            DONE => group().map(Self::Left),
            icmpv6::MLD_REPORT_V2 => Records::of(octets).map(Self::Report),
            _ => None,
        }
    }
}

/// Appends a packet with a query of version 2, from `source`: of one group, or of all.
pub fn write_query(
    writer: &mut Writer<'_>,
    source: Ipv6Addr,
    group: Option<Ipv6Addr>,
) -> Result<(), Full> {
    let time = if group.is_some() { LAST_RESPONSE_TIME } else { RESPONSE_TIME };
    let (to, group) = (group.unwrap_or(ALL_NODES), group.unwrap_or(Ipv6Addr::UNSPECIFIED));
    // Hop-by-hop options are protocol 0.
    ipv6::Header::write(writer, source, to, 0, 1, OPTIONS_LEN + QUERY_LEN)?;
    // The router alert, padded to eight octets.
    writer.push_slice(&[protocol::ICMPV6, 0, 5, 2, 0, 0, 1, 0])?;
    let start = writer.len();
    let [high, low] = time.to_be_bytes();
    writer.push_slice(&[icmpv6::MLD_QUERY, 0, 0, 0, high, low, 0, 0])?;
    writer.push_slice(&group.octets())?;
    writer.push_slice(&[ROBUSTNESS, INTERVAL, 0, 0])?;
    let len = QUERY_LEN as u32;
    let mut sum = Checksum::pseudo_ipv6(source, to, protocol::ICMPV6, len);
    sum.add(writer.since(start));
    writer.patch_u16(start + 2, sum.finish());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::group_records::Change;

    #[test]
    fn messages_of_both_versions_are_understood() {
        let group: Ipv6Addr = "ff15::1".parse().unwrap();
        let octets = |kind: u8| [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &group.octets()].concat();
        let read = |octets: &[u8]| match Message::parse(octets) {
            Some(Message::Query(group)) => format!("query {group}"),
            Some(Message::Joined(group)) => format!("+{group}"),
            Some(Message::Left(group)) => format!("-{group}"),
            Some(Message::Report(records)) => format!("{:?}", records.collect::<Vec<_>>()),
            None => "nothing".into(),
        };
        assert_eq!(read(&octets(130)), "query ff15::1");
        assert_eq!(read(&octets(131)), "+ff15::1");
        assert_eq!(read(&octets(132)), "-ff15::1");
        assert_eq!(read(&octets(128)), "nothing");
        assert_eq!(read(&octets(131)[..23]), "nothing");
        let left = [Ok::<_, ()>((group.octets(), Change::Left))];
        let record = [&[143, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 0][..], &group.octets()].concat();
        assert_eq!(read(&record), format!("{left:?}"));
    }

    #[test]
    fn a_query_is_as_routers_send_it() {
        let mut buffer = [0; 100];
        let mut writer = Writer::new(&mut buffer);
        let source: Ipv6Addr = "fe80::1".parse().unwrap();
        write_query(&mut writer, source, None).unwrap();
        let packet = writer.since(0);
        assert_eq!(packet[4..8], [0, 36, 0, 1]);
        assert_eq!(packet[40..48], [58, 0, 5, 2, 0, 0, 1, 0]);
        assert!(icmpv6::checksum_is_right(source, ALL_NODES, &packet[48..]));
        assert_eq!(packet[52..56], [0x27, 0x10, 0, 0]);
        assert_eq!(packet[72..], [2, 125, 0, 0]);
        let group: Ipv6Addr = "ff15::1".parse().unwrap();
        let mut writer = Writer::new(&mut buffer);
        write_query(&mut writer, source, Some(group)).unwrap();
        let packet = writer.since(0);
        assert_eq!((&packet[24..40], &packet[56..72]), (&group.octets()[..], &group.octets()[..]));
        assert!(icmpv6::checksum_is_right(source, group, &packet[48..]));
        assert_eq!(packet[52..54], [0x03, 0xe8]);
    }
}
