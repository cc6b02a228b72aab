//! DNS (RFC 1035): the names of a network's vNICs, forward and in reverse, where the network's
//! `dns_mode` is to serve them.
//!
//! Zones are as small as those of RFC 6303: a start, a server, which is called as the zone, and
//! what is in them. What is in no zone of the network is refused, or said to be for a service,
//! which asks others (`services/resolver/`).

use super::{
    DropReason, GatewayEvent, Question,
    datagram::{datagram_ipv4, datagram_ipv6},
    punt::is_own,
    write_ethernet,
};
use crate::{
    dataplane::{
        forward::{
            Named, Names, Thing, Zone,
            tables::{Foreign, Vnic},
        },
        frame::classify::{Ipv4, Ipv6},
    },
    wire::{
        Full, Writer,
        dns_message::{
            self, Authority, Code, Flag, MAX_NAME, Owner, PORT, Query, Response, Section, kind,
        },
        ethernet, ipv6, udp,
    },
};
use std::net::IpAddr;
use zerocopy::big_endian::U32;

/// Octets of a response that every client takes (RFC 1035 §4.2.1).
// The longest has a question of 259 octets, a name of 255 or the start of a zone, and an OPT
// record.
pub const MAX_RESPONSE: usize = 512;
/// How long an answer may be kept, in seconds.
// A vNIC that is made anew may have another address.
const TTL: u32 = 30;
/// What is said of everything that there is of a name (RFC 8482 §4.2), and for how long.
const HINFO: &[u8] = b"\x07RFC8482\x00";
const ANY_TTL: u32 = 3600;
/// Who is in charge of a zone: nobody (RFC 6303 §3).
const MAILBOX: &[u8] = b"\x06nobody\x07invalid\x00";
/// Numbers of a zone's start: serial, refresh, retry, expire (RFC 6303 §3), and how long it may be
/// kept that there is no such name (RFC 2308 §4).
const SOA_NUMBERS: [u32; 5] = [1, 3600, 1200, 604_800, TTL];

/// Answers a query over IPv4.
pub(super) fn respond_ipv4(
    question: &Question<'_>,
    packet: &Ipv4,
    writer: &mut Writer<'_>,
) -> Result<GatewayEvent, DropReason> {
    let names = question.table.services.names.as_ref().ok_or(DropReason::NotServed)?;
    let (header, payload) = datagram_ipv4(question, packet)?;
    let mut buffer = [0; MAX_RESPONSE];
    let foreign = foreign(question, packet.source.into());
    let response = match response(names, foreign, payload, &mut buffer)? {
        Reply::Given(response) => response,
        Reply::Foreign => return Ok(GatewayEvent::Foreign),
    };
    write_ethernet(writer, question.asker.mac(), ethernet::IPV4)?;
    // From the address that was asked: in a switched network the gateway has two.
    let from = (packet.destination, PORT);
    udp::write_ipv4(writer, from, (packet.source, header.source.get()), response)?;
    Ok(GatewayEvent::Other)
}

/// Answers a query over IPv6.
pub(super) fn respond_ipv6(
    question: &Question<'_>,
    packet: &Ipv6,
    writer: &mut Writer<'_>,
) -> Result<GatewayEvent, DropReason> {
    if packet.destination.is_multicast() {
        return Err(DropReason::Multicast);
    }
    let names = question.table.services.names.as_ref().ok_or(DropReason::NotServed)?;
    let (header, payload) = datagram_ipv6(question, packet)?;
    let mut buffer = [0; MAX_RESPONSE];
    // A service takes no extension headers apart.
    let foreign = match packet.header_len {
        ipv6::HEADER_LEN => foreign(question, packet.source.into()),
        _ => Foreign::Refused,
    };
    let response = match response(names, foreign, payload, &mut buffer)? {
        Reply::Given(response) => response,
        Reply::Foreign => return Ok(GatewayEvent::Foreign),
    };
    write_ethernet(writer, question.asker.mac(), ethernet::IPV6)?;
    let from = (packet.destination, PORT);
    udp::write_ipv6(writer, from, (packet.source, header.source.get()), response)?;
    Ok(GatewayEvent::Other)
}

/// What becomes of names of others that are asked for from an address: they are a service's for the
/// guest itself, whose questions it can count.
fn foreign(question: &Question<'_>, source: IpAddr) -> Foreign {
    match question.asker.vnic() {
        Some(vnic) if is_own(vnic, source) => question.table.services.foreign,
        _ => Foreign::Refused,
    }
}

/// What is answered to a query.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply<'b> {
    /// This message.
    Given(&'b [u8]),
    /// What others say, who are to be asked.
    Foreign,
}

/// Writes the response to a query. Refuses what is none.
pub fn response<'b>(
    names: &Names,
    foreign: Foreign,
    message: &[u8],
    buffer: &'b mut [u8],
) -> Result<Reply<'b>, DropReason> {
    let query = Query::parse(message).ok_or(DropReason::MalformedMessage)?;
    let mut writer = Writer::new(buffer);
    let mut response = Response::begin(&query, &mut writer)?;
    let (code, authority) = match &query.question {
        Err(code) => (*code, Authority::None),
        Ok(asked) if foreign == Foreign::Forwarded && is_foreign(names, asked) => {
            response.set(Flag::RecursionAvailable);
            match asked.kind {
                kind::ANY => {
                    // As little as may be said of everything that there is (RFC 8482 §4.2).
                    let told = |data: &mut Writer<'_>| data.push_slice(HINFO);
                    let record = (kind::HINFO, ANY_TTL);
                    response.record(Section::Answer, Owner::ASKED, record, told)?;
                    (Code::NoError, Authority::None)
                }
                // What is known of others by chance is nobody's business.
                _ if !asked.is_of_records() || !query.wants_recursion() => {
                    (Code::Refused, Authority::None)
                }
                _ => return Ok(Reply::Foreign),
            }
        }
        Ok(asked) => {
            if foreign == Foreign::Forwarded {
                response.set(Flag::RecursionAvailable);
            }
            answer(names, asked, &mut response)?
        }
    };
    response.end(code, authority)?;
    let len = writer.len();
    buffer.get(..len).map(Reply::Given).ok_or(DropReason::MalformedMessage)
}

/// Whether a name is one that others may know.
fn is_foreign(names: &Names, asked: &dns_message::Question<'_>) -> bool {
    asked.is_of_internet() && matches!(names.find(&asked.name), Named::Foreign)
}

/// Writes what answers a question.
fn answer(
    names: &Names,
    asked: &dns_message::Question<'_>,
    response: &mut Response<'_, '_, '_>,
) -> Result<(Code, Authority), Full> {
    // Nobody needs everything that there is of a name, and some have it sent to others (RFC 8482).
    if !asked.is_of_records() {
        return Ok((Code::Refused, Authority::None));
    }
    let Named::Known { before, thing } = names.find(&asked.name) else {
        return Ok((Code::Refused, Authority::None));
    };
    let (zone, start) = (names.zone(), asked.name.without(before));
    let mut give = |data: &dyn Fn(&mut Writer<'_>) -> Result<(), Full>| {
        response.record(Section::Answer, Owner::ASKED, (asked.kind, TTL), data)
    };
    match (thing, asked.kind) {
        (Thing::Vnic(Vnic { ipv4: Some(address), .. }), kind::A) => {
            give(&|data| data.push_slice(&address.octets()))?;
        }
        (Thing::Vnic(Vnic { ipv6: Some(address), .. }), kind::AAAA) => {
            give(&|data| data.push_slice(&address.octets()))?;
        }
        (Thing::Zone, kind::A) if zone.ipv4.is_some() => {
            give(&|data| data.push_slice(&zone.gateway.octets()))?;
        }
        (Thing::AddressOf(vnic), kind::PTR) => give(&|data| write_name(zone, vnic, data))?,
        (Thing::Gateway, kind::PTR) => give(&|data| data.push_slice(zone.domain.octets()))?,
        (Thing::Zone | Thing::ReverseZone, kind::SOA) => give(&|data| write_start(start, data))?,
        (Thing::Zone | Thing::ReverseZone, kind::NS) => give(&|data| start.write(data))?,
        // With the start of the zone, so that it may be kept that there is nothing (RFC 2308 §3).
        _ => {
            response
                .record(Section::Authority, start, (kind::SOA, TTL), |d| write_start(start, d))?;
        }
    }
    let code = if matches!(thing, Thing::Nothing) { Code::NxDomain } else { Code::NoError };
    Ok((code, Authority::Own))
}

/// Writes the data of the start of a zone, which its server is called as.
fn write_start(zone: Owner, data: &mut Writer<'_>) -> Result<(), Full> {
    zone.write(data)?;
    data.push_slice(MAILBOX)?;
    SOA_NUMBERS.iter().try_for_each(|number| data.push(&U32::new(*number)))
}

/// Writes the longest name of a vNIC.
fn write_name(zone: &Zone, vnic: &Vnic, data: &mut Writer<'_>) -> Result<(), Full> {
    let domain = zone.domain.octets();
    let name = vnic.hostname.as_deref().unwrap_or_default();
    let is_short = name.len() + zone.network.len() + 2 + domain.len() > MAX_NAME;
    let labels = [name, if is_short { "" } else { &zone.network }];
    for label in labels.iter().filter(|label| !label.is_empty()) {
        // A label has at most 63 octets.
        data.push(&(label.len() as u8))?;
        data.push_slice(label.as_bytes())?;
    }
    data.push_slice(domain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        addr::MacAddr,
        dataplane::forward::tables::{GATEWAY_IPV4, PortId},
        wire::dns::Name,
    };
    use hickory_proto::{
        op::{Message, ResponseCode},
        rr,
    };
    use proptest::prelude::*;
    use std::{collections::HashMap, net::IpAddr, str::FromStr as _, sync::Arc};

    /// Returns a vNIC of 10.0.0.`number` and fd00::`number`.
    fn vnic(name: &str, number: u8) -> Arc<Vnic> {
        let port = PortId { slot: number.into(), generation: 1 };
        Arc::new(Vnic {
            ipv4: Some([10, 0, 0, number].into()),
            ipv6: Some([0xfd00, 0, 0, 0, 0, 0, 0, number.into()].into()),
            hostname: (!name.is_empty()).then(|| name.into()),
            ..Vnic::new(port, MacAddr([2, 0, 0, 0, 0, number]), 1500)
        })
    }

    fn zone(domain: &str) -> Zone {
        Zone {
            domain: domain.parse().unwrap(),
            network: "prod".into(),
            ipv4: Some("10.0.0.0/24".parse().unwrap()),
            ipv6: Some("fd00::/62".parse().unwrap()),
            gateway: GATEWAY_IPV4,
        }
    }

    /// vm1, Web, one that has no name, and two of which the name is in doubt.
    fn names(zone: Zone) -> Names {
        let vnics = [
            vnic("vm1", 1),
            vnic("Web", 2),
            vnic("", 3),
            vnic("twin", 4),
            vnic("Twin", 5),
            vnic("prod", 6),
        ];
        Names::new(zone, vnics.iter())
    }

    /// What is asked, in octets.
    fn query(name: &str, kind: u16, edns: bool) -> Vec<u8> {
        let labels = name.split('.').filter(|label| !label.is_empty());
        let labels = labels.flat_map(|it| [&[it.len() as u8], it.as_bytes()].concat());
        let header = [7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)].into_iter();
        let kind = [0].into_iter().chain(kind.to_be_bytes()).chain([0, 1]);
        let opt = edns.then_some([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
        header.chain(labels).chain(kind).chain(opt.into_iter().flatten()).collect()
    }

    fn answer_to(names: &Names, query: &[u8]) -> Result<Vec<u8>, DropReason> {
        told_by(names, Foreign::Refused, query).map(|told| told.expect("all is answered here"))
    }

    /// What is answered; none where others are to be asked.
    fn told_by(
        names: &Names,
        foreign: Foreign,
        query: &[u8],
    ) -> Result<Option<Vec<u8>>, DropReason> {
        let mut buffer = [0; MAX_RESPONSE];
        Ok(match response(names, foreign, query, &mut buffer)? {
            Reply::Given(octets) => Some(octets.to_vec()),
            Reply::Foreign => None,
        })
    }

    /// What is answered, as another codec reads it: its code and its records.
    fn asks_of(names: &Names, name: &str, kind: u16) -> (ResponseCode, String) {
        let octets = answer_to(names, &query(name, kind, false)).unwrap();
        let message = Message::from_vec(&octets).unwrap();
        assert_eq!(message.to_vec().unwrap().len(), octets.len(), "as short as can be");
        let records = message.answers.iter().chain(&message.authorities);
        let text: Vec<_> = records.map(|it| format!("{} {}", it.name, it.data)).collect();
        assert!(records_last_thirty_seconds(&message));
        (message.response_code, text.join(" "))
    }

    fn records_last_thirty_seconds(message: &Message) -> bool {
        message.answers.iter().chain(&message.authorities).all(|it| it.ttl == 30)
    }

    fn asks(name: &str, kind: u16) -> (ResponseCode, String) {
        asks_of(&names(zone("internal")), name, kind)
    }

    /// That there is nothing, as the start of a zone says.
    fn start(zone: &str) -> String {
        format!("{zone}. {zone}. nobody.invalid. 1 3600 1200 604800 30")
    }

    #[test]
    fn a_name_is_answered_octet_for_octet() {
        let names = names(zone("internal"));
        let question = b"\x03vM1\x04prod\x08internal\0\0\x01\0\x01";
        let asked = [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0", &question[..]].concat();
        let record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x1e\0\x04\x0a\0\0\x01";
        let answer = [b"\x12\x34\x85\0\0\x01\0\x01\0\0\0\0", &question[..], record].concat();
        assert_eq!(answer_to(&names, &asked), Ok(answer));
        let question = b"\x03vm9\x08internal\0\0\x1c\0\x01";
        let asked = [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0", &question[..]].concat();
        let record = b"\xc0\x10\0\x06\0\x01\0\0\0\x1e\0\x26\xc0\x10\x06nobody\x07invalid\0\
            \0\0\0\x01\0\0\x0e\x10\0\0\x04\xb0\0\x09\x3a\x80\0\0\0\x1e";
        let answer = [b"\x12\x34\x85\x03\0\x01\0\0\0\x01\0\0", &question[..], record].concat();
        assert_eq!(answer_to(&names, &asked), Ok(answer));
    }

    #[test]
    fn vnics_have_names_forward() {
        let found = |text: &str| (ResponseCode::NoError, text.into());
        let nothing = (ResponseCode::NoError, start("internal"));
        let no_name = (ResponseCode::NXDomain, start("internal"));
        assert_eq!(asks("vm1.prod.internal", kind::A), found("vm1.prod.internal. 10.0.0.1"));
        assert_eq!(asks("vm1.internal", kind::AAAA), found("vm1.internal. fd00::1"));
        assert_eq!(asks("WEB.internal", kind::A), found("WEB.internal. 10.0.0.2"));
        assert_eq!(asks("prod.internal", kind::A), found("prod.internal. 10.0.0.6"));
        assert_eq!(asks("vm1.internal", 16), nothing, "it has no text");
        assert_eq!(asks("vm1.internal", kind::SOA), nothing, "it is no zone");
        for name in ["vm3.internal", "twin.internal", "vm1.other.internal", "a.vm1.prod.internal"] {
            assert_eq!(asks(name, kind::A), no_name, "{name}");
        }
        let branch = Names::new(zone("internal"), [vnic("vm1", 1)].iter());
        assert_eq!(asks_of(&branch, "Prod.internal", kind::A), nothing, "names are below it");
        let elsewhere = (ResponseCode::Refused, String::new());
        for name in ["vm1", "vm1.prod", "example.com", "", "xinternal", "arpa"] {
            assert_eq!(asks(name, kind::A), elsewhere, "{name}");
        }
        for kind in [255, 252, 251, 41, 0] {
            assert_eq!(asks("vm1.internal", kind), elsewhere, "{kind}");
        }
        let zoned = Zone { network: "not.a_label".into(), ..zone("internal") };
        let unlabelled = Names::new(zoned, [vnic("vm1", 1)].iter());
        assert_eq!(asks_of(&unlabelled, "vm1.internal", kind::A), found("vm1.internal. 10.0.0.1"));
        let pointer = asks_of(&unlabelled, "1.0.0.10.in-addr.arpa", kind::PTR);
        assert_eq!(pointer, found("1.0.0.10.in-addr.arpa. vm1.internal."));
    }

    #[test]
    fn a_zone_has_a_start_and_a_server() {
        let found = |text: &str| (ResponseCode::NoError, text.into());
        assert_eq!(asks("internal", kind::SOA), found(&start("internal")));
        assert_eq!(asks("internal", kind::NS), found("internal. internal."));
        assert_eq!(asks("internal", kind::A), found("internal. 169.254.0.1"));
        assert_eq!(asks("internal", kind::AAAA), found(&start("internal")));
        let reverse = "0.0.10.in-addr.arpa";
        assert_eq!(asks(reverse, kind::SOA), found(&start(reverse)));
        assert_eq!(asks(reverse, kind::A), found(&start(reverse)));
        let ipv6 = Names::new(Zone { ipv4: None, ..zone("internal") }, [].iter());
        assert_eq!(asks_of(&ipv6, "internal", kind::A), found(&start("internal")));
    }

    #[test]
    fn addresses_have_names() {
        let found = |text: &str| (ResponseCode::NoError, text.into());
        let asks = |name: &str| asks(name, kind::PTR);
        let pointer = "1.0.0.10.in-addr.arpa. vm1.prod.internal.";
        assert_eq!(asks("1.0.0.10.in-addr.arpa"), found(pointer));
        assert_eq!(asks("1.0.254.169.in-addr.arpa"), found("1.0.254.169.in-addr.arpa. internal."));
        let nibbles = |address: &str| rr::Name::from(IpAddr::from_str(address).unwrap()).to_ascii();
        let (web, other) = (nibbles("fd00::2"), nibbles("fd00:0:0:3::9"));
        assert_eq!(asks(&web), found(&format!("{web} Web.prod.internal.")));
        let gateway = nibbles("fe80::1");
        assert_eq!(asks(&gateway), found(&format!("{gateway} internal.")));
        let ipv4 = "0.0.10.in-addr.arpa";
        // Of 15 nibbles: a zone begins at a label, and the prefix ends within the next one.
        let ipv6 = "0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        let no_name = |zone: &str| (ResponseCode::NXDomain, start(zone));
        for name in ["3.0.0.10", "9.0.0.10", "5.0.0.10", "a.1.0.0.10", "01.0.0.10", "+1.0.0.10"] {
            assert_eq!(asks(&format!("{name}.in-addr.arpa")), no_name(ipv4), "{name}");
        }
        assert_eq!(asks(&other), no_name(ipv6));
        let refused = (ResponseCode::Refused, String::new());
        for name in ["1.1.0.10", "0.10", "10", "x", "256.0.0.10.10", "2.0.254.169"] {
            assert_eq!(asks(&format!("{name}.in-addr.arpa")), refused, "{name}");
        }
        assert_eq!(asks(&nibbles("fd00:0:0:4::1")), refused, "beyond the prefix");
        // Names are below it.
        let part = other.split_once('.').unwrap().1;
        assert_eq!(asks(part), (ResponseCode::NoError, start(ipv6)));
    }

    #[test]
    fn names_of_others_are_others_where_the_network_reaches_them() {
        let names = names(zone("internal"));
        let told = |query: &[u8]| {
            let told = told_by(&names, Foreign::Forwarded, query).unwrap();
            told.map(|octets| Message::from_vec(&octets).unwrap())
        };
        for (name, kind) in [("example.com", kind::A), ("vm1", kind::AAAA), ("", kind::NS)] {
            assert_eq!(told(&query(name, kind, true)), None, "{name}");
        }
        for name in ["vm1.internal", "vm9.internal", "1.0.0.10.in-addr.arpa", "internal"] {
            let own = told(&query(name, kind::A, false)).unwrap();
            assert!(own.recursion_available, "{name}");
            assert_ne!(own.response_code, ResponseCode::Refused, "{name}");
        }
        let everything = told(&query("example.com", kind::ANY, false)).unwrap();
        assert_eq!(everything.answers[0].data.to_string(), "RFC8482 ");
        // Whole zones, what a server knows by chance, and other classes.
        let mut by_chance = query("example.com", kind::A, false);
        by_chance[2] = 0;
        let mut chaos = query("example.com", 16, false);
        let class = chaos.len() - 1;
        chaos[class] = 3;
        for query in [query("example.com", 252, false), by_chance, chaos] {
            assert_eq!(told(&query).unwrap().response_code, ResponseCode::Refused);
        }
    }

    #[test]
    fn nothing_is_longer_than_all_clients_take() {
        let long = |octets: usize| {
            let labels = vec!["d".repeat(63); octets / 64];
            let rest = "e".repeat(octets % 64 - 1);
            [labels, vec![rest]].concat().join(".")
        };
        let name = "n".repeat(63);
        for (octets, network) in [(126, "prod"), (185, "prod"), (190, ""), (191, "")] {
            let domain = long(octets - 1);
            assert_eq!(domain.parse::<Name>().unwrap().octets().len(), octets);
            let names = Names::new(zone(&domain), [vnic(&name, 1)].iter());
            let reverse =
                "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
            let octets = answer_to(&names, &query(reverse, kind::PTR, true)).unwrap();
            let message = Message::from_vec(&octets).unwrap();
            let network = if network.is_empty() { "" } else { "prod." };
            let told = message.answers[0].data.to_string();
            assert_eq!(told, format!("{name}.{network}{domain}."));
        }
        // A vNIC without a name that can be asked for.
        let domain = long(191);
        let names = Names::new(zone(&domain), [vnic(&name, 1)].iter());
        let pointer = asks_of(&names, "1.0.0.10.in-addr.arpa", kind::PTR);
        assert_eq!(pointer.0, ResponseCode::NXDomain);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn whatever_is_asked_another_codec_reads_the_answer(
            name in prop_oneof![
                "[a-zA-Z0-9-]{1,20}(\\.[a-z]{1,20}){0,3}(\\.internal|\\.in-addr\\.arpa)?",
                "(vm1|web|Twin|vm9)(\\.prod)?\\.internal",
                "[0-9]\\.0\\.0\\.10\\.in-addr\\.arpa",
            ],
            kind in prop_oneof![Just(1_u16), Just(28), Just(12), Just(6), any::<u16>()],
            edns: bool,
        ) {
            let asked = query(&name, kind, edns);
            let octets = answer_to(&names(zone("internal")), &asked).unwrap();
            prop_assert!(octets.len() <= MAX_RESPONSE);
            let (asked, told) = (Message::from_vec(&asked).unwrap(), Message::from_vec(&octets));
            let told = told.unwrap();
            prop_assert_eq!(&asked.queries, &told.queries);
            prop_assert_eq!(asked.metadata.id, told.metadata.id);
            prop_assert_eq!(asked.edns.is_some(), told.edns.is_some());
            let mut addresses = HashMap::new();
            for (label, address) in
                [("vm1", "10.0.0.1"), ("web", "10.0.0.2"), ("prod", "10.0.0.6")]
            {
                addresses.insert(format!("{label}.internal"), address);
                addresses.insert(format!("{label}.prod.internal"), address);
            }
            if kind == kind::A {
                let known = addresses.get(&name.to_ascii_lowercase());
                let found = told.answers.first().map(|it| it.data.to_string());
                prop_assert_eq!(found.as_deref(), known.copied());
            }
        }

        #[test]
        fn whatever_comes_is_answered_or_dropped(
            message in prop::collection::vec(any::<u8>(), 0..90),
        ) {
            if let Ok(octets) = answer_to(&names(zone("internal")), &message) {
                prop_assert_eq!(&octets[..2], &message[..2]);
                prop_assert!(Message::from_vec(&octets).is_ok());
            }
        }
    }
}
