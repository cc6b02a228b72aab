//! Values of the API's requests become valid ones, or a refusal that names field and value.

use super::{
    choices::{ADDRESSINGS, DNS_MODES, IPV6_MODES, Ipv6Mode, SECURITIES},
    refusal::Refusal,
};
use crate::{
    account::Mode,
    addr::MacAddr,
    dataplane::forward::tables::{GATEWAY_IPV4, GATEWAY_MAC},
    impair::Spec,
    locator::Locator,
    model::{
        Addressing, Boot, DnsMode, HasGateway, Impairments, Labels, Network, PortSecurity,
        RateLimit, Transport,
    },
    printable::is_printable,
    proto,
};
use ipnet::{Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use std::{
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};
use uuid::Uuid;

/// DNS or NTP servers a network may have: what fits a DHCP message.
const MAX_SERVERS: usize = 16;
/// Prefixes that may be routed to one vNIC, of each family.
// A list of 16,384 vNICs with so many of each family fits the 512 MiB that clients take.
const MAX_PREFIXES: usize = 256;
/// MACs that may be learned behind a vNIC or port: as many as a network's table may have.
const MAX_MACS: u32 = 1_000_000;
/// Octets of an interface's name (IFNAMSIZ, one of which ends it).
const MAX_INTERFACE: usize = 15;
/// Queue pairs a vNIC may have.
const MAX_QUEUE_PAIRS: u32 = 8;
/// Labels an object may have, and octets of a key and of a value: enough for what orchestrators
/// note, and little beside everything else that is kept and listed.
const MAX_LABELS: usize = 64;
const MAX_LABEL_KEY: usize = 63;
const MAX_LABEL_VALUE: usize = 255;
/// Octets of a description.
const MAX_DESCRIPTION: usize = 1024;
/// Octets of a boot file's path: the field of DHCPv4 has 128, one of which ends it (RFC 2131 §2).
const MAX_BOOT_FILE: usize = 127;
/// Octets of a boot file's URL: what an option of DHCPv4 takes.
// An option says its length in one octet (RFC 2132 §2).
const MAX_BOOT_URL: usize = 255;

/// A limit as it was asked for.
pub(super) fn rate_limit(
    field: &'static str,
    limit: Option<proto::RateLimit>,
) -> Result<RateLimit, Refusal> {
    let limit = limit.unwrap_or_default();
    for (rate, burst) in
        [(limit.packets_per_second, limit.burst_packets), (limit.bits_per_second, limit.burst_bits)]
    {
        if rate == 0 && burst > 0 {
            return Err(Refusal::invalid(field, burst, "a burst without a rate limits nothing"));
        }
    }
    Ok(RateLimit {
        packets: limit.packets_per_second,
        bits: limit.bits_per_second,
        burst_packets: limit.burst_packets,
        burst_bits: limit.burst_bits,
    })
}

/// Returns what takes the place of `old` lines.
pub(super) fn impairments(
    asked: Option<&proto::Impairments>,
    old: Impairments,
) -> Result<Impairments, Refusal> {
    let line = |field, text: &str| -> Result<_, Refusal> {
        let spec: Spec = parse(field, text)?;
        Ok((spec != Spec::default()).then_some(spec))
    };
    let [from, to] = asked.map_or(["", ""], |asked| [&asked.from, &asked.to]);
    let (from, to) = (line("impairments.from", from)?, line("impairments.to", to)?);
    Ok(old.replaced_by(from, to, Timestamp::now()))
}

/// Returns nothing for zero: proto3 does not tell it from an absent field.
pub(super) fn mac_limit(macs: u32) -> Result<Option<u32>, Refusal> {
    match macs {
        0 => Ok(None),
        1..=MAX_MACS => Ok(Some(macs)),
        _ => Err(Refusal::invalid("mac_limit", macs, format!("expected 1-{MAX_MACS}"))),
    }
}

/// Returns what guests are told of DNS.
pub(super) fn dns_mode(value: i32) -> Result<DnsMode, Refusal> {
    Ok(DNS_MODES.chosen("dns_mode", value)?.unwrap_or_default())
}

/// Refuses that a gateway is to serve something which there is not.
pub(super) fn check_services(network: &Network) -> Result<(), Refusal> {
    let expected = "the network has no gateway, which would answer";
    match network.has_gateway() {
        HasGateway::No if network.dns_mode == DnsMode::Names => {
            Err(Refusal::invalid("dns_mode", "DNS_MODE_NAMES", expected))
        }
        HasGateway::No if network.metadata => {
            Err(Refusal::invalid("metadata", "TOGGLE_ON", expected))
        }
        _ => Ok(()),
    }
}

/// Returns how a guest is reached; an interface without a name is to be given one.
pub(super) fn transport(
    value: i32,
    interface: &str,
    datagrams: &str,
) -> Result<Transport, Refusal> {
    let at = optional("datagrams", datagrams, |field, text| {
        let locator: Locator = parse(field, text)?;
        if matches!(locator, Locator::Dgram(_) | Locator::Udp(_)) {
            return Ok(locator);
        }
        let expected = "expected dgram://OURS->THEIRS or udp://OURS->THEIRS";
        Err(Refusal::invalid(field, text, expected))
    })?;
    let transport = match proto::Transport::try_from(value) {
        Ok(proto::Transport::Unspecified | proto::Transport::VhostUser) => Transport::VhostUser,
        Ok(proto::Transport::Stream) => Transport::Stream,
        Ok(proto::Transport::Seqpacket) => Transport::Seqpacket,
        Ok(proto::Transport::Dgram) => Transport::Dgram(at.clone()),
        Ok(proto::Transport::Vde) => Transport::Vde,
        Ok(proto::Transport::Tap) => Transport::Tap(interface.into()),
        Ok(proto::Transport::Packet) => Transport::Packet(interface.into()),
        Err(_) => {
            let expected = "expected TRANSPORT_VHOST_USER, TRANSPORT_STREAM, TRANSPORT_DGRAM, \
                            TRANSPORT_SEQPACKET, TRANSPORT_VDE, TRANSPORT_TAP or TRANSPORT_PACKET";
            return Err(Refusal::invalid("transport", value, expected));
        }
    };
    // As the kernel takes them (dev_valid_name).
    let is_valid = interface.len() <= MAX_INTERFACE
        && !matches!(interface, "." | "..")
        && interface.bytes().all(|octet| octet.is_ascii_graphic() && !b"/:%".contains(&octet));
    let has_interface = matches!(transport, Transport::Tap(_) | Transport::Packet(_));
    if at.is_some() && !matches!(transport, Transport::Dgram(_)) {
        return Err(Refusal::invalid("datagrams", datagrams, "only with TRANSPORT_DGRAM"));
    }
    if has_interface && !is_valid {
        let expected = "expected at most 15 octets without blanks, `/`, `:` and `%`";
        return Err(Refusal::invalid("tap_interface", interface, expected));
    }
    if !has_interface && !interface.is_empty() {
        let expected = "only with TRANSPORT_TAP and TRANSPORT_PACKET";
        return Err(Refusal::invalid("tap_interface", interface, expected));
    }
    Ok(transport)
}

pub(super) fn port_security(value: i32) -> Result<PortSecurity, Refusal> {
    Ok(SECURITIES.chosen("port_security", value)?.unwrap_or(PortSecurity::Strict))
}

/// Returns nothing for zero: proto3 does not tell it from an absent field.
pub(super) fn mtu(octets: u32) -> Result<Option<u16>, Refusal> {
    match u16::try_from(octets) {
        Ok(0) => Ok(None),
        // The least that IPv6 needs of a link (RFC 8200 §5).
        Ok(mtu @ 1280..) => Ok(Some(mtu)),
        _ => Err(Refusal::invalid("mtu", octets, "expected 1280-65535")),
    }
}

/// Returns nothing for an empty string: proto3 does not tell it from an absent field.
pub(super) fn optional<T>(
    field: &'static str,
    text: &str,
    parse: impl FnOnce(&'static str, &str) -> Result<T, Refusal>,
) -> Result<Option<T>, Refusal> {
    if text.is_empty() { Ok(None) } else { parse(field, text).map(Some) }
}

pub(super) fn parse<T: FromStr>(field: &'static str, text: &str) -> Result<T, Refusal>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| Refusal::invalid(field, text, error))
}

/// Returns an address of the family that its field is of.
pub(super) fn parse_address<T: FromStr>(field: &'static str, text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|_| {
        let family = if field.contains("ipv6") {
            "an IPv6 address like fd00::2"
        } else {
            "an IPv4 address like 10.0.0.2"
        };
        Refusal::invalid(field, text, format!("expected {family}"))
    })
}

/// Returns an address of either family.
pub(super) fn address(field: &'static str, text: &str) -> Result<IpAddr, Refusal> {
    let expected = "expected an IPv4 or IPv6 address like 203.0.113.7 or 2001:db8::7";
    // An IPv4 address that is written as one of IPv6 is one of IPv4.
    let parsed = text.parse().map(|address: IpAddr| address.to_canonical());
    parsed.map_err(|_| Refusal::invalid(field, text, expected))
}

pub(super) fn uuid(field: &'static str, text: &str) -> Result<Uuid, Refusal> {
    // The parser also takes braces, urn: and no hyphens. An id has one spelling, of this length.
    let parsed = Uuid::try_parse(text).ok().filter(|id| !id.is_nil() && text.len() == 36);
    parsed.ok_or_else(|| {
        Refusal::invalid(field, text, "expected a UUID like 67e55044-10b1-426f-9247-bb680e5fe0c8")
    })
}

pub(super) fn mac(field: &'static str, text: &str) -> Result<MacAddr, Refusal> {
    let mac: MacAddr = parse(field, text)?;
    if mac.is_multicast() || mac == MacAddr([0; 6]) {
        return Err(Refusal::invalid(field, text, "expected a unicast MAC"));
    }
    // Its frames would pass for those of the gateway.
    if mac == GATEWAY_MAC {
        return Err(Refusal::invalid(field, text, "this is the gateway's MAC"));
    }
    Ok(mac)
}

pub(super) fn servers(field: &'static str, texts: &[String]) -> Result<Vec<IpAddr>, Refusal> {
    Refusal::unless_at_most(MAX_SERVERS, field, texts.len(), "servers")?;
    each_once(field, texts, |field, text| {
        let address = text.parse::<IpAddr>().ok();
        let usable = address
            .filter(|a| !a.is_unspecified() && !a.is_multicast() && *a != Ipv4Addr::BROADCAST);
        usable
            .ok_or_else(|| Refusal::invalid(field, text, "expected a unicast IPv4 or IPv6 address"))
    })
}

/// Parsed values, none of which is there twice.
fn each_once<T: PartialEq>(
    field: &'static str,
    texts: &[String],
    parse: impl Fn(&'static str, &str) -> Result<T, Refusal>,
) -> Result<Vec<T>, Refusal> {
    let mut parsed = Vec::with_capacity(texts.len());
    for text in texts {
        let value = parse(field, text)?;
        if parsed.contains(&value) {
            return Err(Refusal::invalid(field, text, "it is given twice"));
        }
        parsed.push(value);
    }
    Ok(parsed)
}

fn without_host_bits<T: PartialEq + std::fmt::Display>(
    field: &'static str,
    text: &str,
    given: T,
    truncated: T,
) -> Result<T, Refusal> {
    if given == truncated {
        Ok(given)
    } else {
        Err(Refusal::invalid(field, text, format!("host bits are set; did you mean {truncated}?")))
    }
}

fn ipv4_net(field: &'static str, text: &str) -> Result<Ipv4Net, Refusal> {
    let net: Ipv4Net = text
        .parse()
        .map_err(|_| Refusal::invalid(field, text, "expected IPv4 CIDR like 10.0.0.0/24"))?;
    let net = without_host_bits(field, text, net, net.trunc())?;
    // No host has such addresses (RFC 6890). 169.254.0.0/16 has the gateway, too.
    let special = ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"];
    let special = special.map(|s| s.parse::<Ipv4Net>().expect("a literal prefix"));
    // Both ways round: a prefix around them would route them as well.
    if special.iter().any(|s| s.contains(&net) || net.contains(s)) {
        return Err(Refusal::invalid(
            field,
            text,
            "it is in, or contains, loopback, link-local, multicast, reserved or unspecified space",
        ));
    }
    Ok(net)
}

fn ipv6_net(field: &'static str, text: &str) -> Result<Ipv6Net, Refusal> {
    let net: Ipv6Net = text
        .parse()
        .map_err(|_| Refusal::invalid(field, text, "expected IPv6 CIDR like fd00::/64"))?;
    let net = without_host_bits(field, text, net, net.trunc())?;
    // ::/127 is the unspecified address and loopback; fe80::/10 has the gateway.
    let special = ["::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8"];
    let special = special.map(|s| s.parse::<Ipv6Net>().expect("a literal prefix"));
    if special.iter().any(|s| s.contains(&net) || net.contains(s)) {
        return Err(Refusal::invalid(
            field,
            text,
            "it is in, or contains, loopback, IPv4-mapped, link-local, multicast or unspecified \
             space",
        ));
    }
    Ok(net)
}

pub(super) fn ipv4_subnet(field: &'static str, text: &str) -> Result<Ipv4Net, Refusal> {
    let net = ipv4_net(field, text)?;
    // A /31 is a network and a broadcast address and no more. A /8 has as many addresses as there
    // are MACs to choose from.
    if (8..=30).contains(&net.prefix_len()) {
        Ok(net)
    } else {
        Err(Refusal::invalid(field, text, "expected a prefix length of 8-30"))
    }
}

pub(super) fn ipv6_prefix(field: &'static str, text: &str) -> Result<Ipv6Net, Refusal> {
    let net = ipv6_net(field, text)?;
    if (16..=126).contains(&net.prefix_len()) {
        Ok(net)
    } else {
        Err(Refusal::invalid(field, text, "expected a prefix length of 16-126"))
    }
}

fn prefixes<T: PartialEq>(
    field: &'static str,
    texts: &[String],
    parse: impl Fn(&'static str, &str) -> Result<T, Refusal>,
) -> Result<Vec<T>, Refusal> {
    Refusal::unless_at_most(MAX_PREFIXES, field, texts.len(), "prefixes")?;
    each_once(field, texts, parse)
}

pub(super) fn routed_ipv4(texts: &[String]) -> Result<Vec<Ipv4Net>, Refusal> {
    prefixes("routed_ipv4_prefixes", texts, ipv4_net)
}

pub(super) fn routed_ipv6(texts: &[String]) -> Result<Vec<Ipv6Net>, Refusal> {
    prefixes("routed_ipv6_prefixes", texts, ipv6_net)
}

/// Refuses an address that its network cannot give.
pub(super) fn check_usable(
    field: &'static str,
    address: IpAddr,
    usable: bool,
    subnet: impl std::fmt::Display,
) -> Result<(), Refusal> {
    if usable && address != IpAddr::from(GATEWAY_IPV4) {
        return Ok(());
    }
    Err(Refusal::invalid(
        field,
        address,
        format!("expected an address of {subnet} other than its network or broadcast address"),
    ))
}

/// Returns one for zero, which is an absent field.
pub(super) fn queue_pairs(pairs: u32) -> Result<u16, Refusal> {
    match pairs {
        // An absent field, as with an MTU.
        0 => Ok(1),
        1..=MAX_QUEUE_PAIRS => Ok(pairs as u16),
        _ => {
            let expected = format!("expected 1-{MAX_QUEUE_PAIRS}");
            Err(Refusal::invalid("queue_pairs", pairs, expected))
        }
    }
}

pub(super) fn addressing(value: i32) -> Result<Addressing, Refusal> {
    Ok(ADDRESSINGS.chosen("addressing", value)?.unwrap_or_default())
}

pub(super) fn ipv6_mode(value: i32) -> Result<Ipv6Mode, Refusal> {
    Ok(IPV6_MODES.chosen("ipv6_mode", value)?.unwrap_or(Ipv6Mode::Dhcpv6))
}

/// Refuses what is longer, and what is not printable: people read it on terminals.
fn check_text(
    field: &'static str,
    text: &str,
    longest: usize,
    allowed: &[char],
) -> Result<(), Refusal> {
    // Octets and not characters: they are what is stored and sent.
    if text.len() > longest {
        let expected = format!("expected at most {longest} octets, not {}", text.len());
        return Err(Refusal::invalid(field, text, expected));
    }
    if text.contains(|c| !is_printable(c) && !allowed.contains(&c)) {
        return Err(Refusal::invalid(field, text, "expected printable characters"));
    }
    Ok(())
}

pub(super) fn description(text: &str) -> Result<String, Refusal> {
    check_text("description", text, MAX_DESCRIPTION, &['\n', '\t'])?;
    Ok(text.into())
}

pub(super) fn labels(labels: &Labels) -> Result<Labels, Refusal> {
    check_keys("labels", labels)?;
    for value in labels.values() {
        check_text("labels", value, MAX_LABEL_VALUE, &[])?;
    }
    Ok(labels.clone())
}

/// Refuses keys that are none, and too many of them.
pub(super) fn check_keys(field: &'static str, labels: &Labels) -> Result<(), Refusal> {
    Refusal::unless_at_most(MAX_LABELS, field, labels.len(), "labels")?;
    for key in labels.keys() {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '-');
        let sound = (1..=MAX_LABEL_KEY).contains(&key.len())
            && key.chars().all(allowed)
            && key.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !sound {
            return Err(Refusal::invalid(
                field,
                key,
                "expected a key of 1-63 of A-Z a-z 0-9 . _ / -, starting with a letter or digit",
            ));
        }
    }
    Ok(())
}

pub(super) fn boot(boot: Option<&proto::Boot>) -> Result<Option<Boot>, Refusal> {
    let Some(boot) = boot else { return Ok(None) };
    let text = |field, text: &str, longest| {
        check_text(field, text, longest, &[])?;
        Ok(text.to_owned())
    };
    let parsed = Boot {
        server: optional("boot.server", &boot.server, parse_address)?,
        file: optional("boot.file", &boot.file, |field, file| text(field, file, MAX_BOOT_FILE))?,
        url: optional("boot.url", &boot.url, |field, url| {
            // URLs are ASCII (RFC 3986 §2), and firmware gets this one as it is.
            if !url.contains("://") || !url.bytes().all(|octet| octet.is_ascii_graphic()) {
                let expected = "expected a URL like http://10.0.0.1/boot.efi";
                return Err(Refusal::invalid(field, url, expected));
            }
            text(field, url, MAX_BOOT_URL)
        })?,
    };
    if parsed.file.is_some() && parsed.server.is_none() {
        return Err(Refusal::invalid(
            "boot.server",
            "",
            "required with boot.file: whose file it is",
        ));
    }
    Ok(Some(parsed))
}

/// Permissions of a socket, in octal.
pub(super) fn socket_mode(field: &'static str, text: &str) -> Result<u16, Refusal> {
    let mode = text.parse::<Mode>().map(|Mode(mode)| mode);
    mode.map_err(|_| Refusal::invalid(field, text, "expected permissions in octal like 0660"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_that_no_guest_can_have_are_refused() {
        for bad in [
            "02:00:00:00:00:01",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
            "52:54",
        ] {
            assert!(mac("mac_address", bad).unwrap_err().to_string().contains(bad));
        }
    }

    #[test]
    fn labels_and_descriptions_have_bounds() {
        let one = |key: &str, value: &str| labels(&Labels::from([(key.into(), value.into())]));
        for (key, value) in [("owner", "team a"), ("example.org/x-1", ""), ("0", "\u{e4}")] {
            assert!(one(key, value).is_ok(), "{key}");
        }
        for (key, value) in [
            ("", ""),
            ("-a", ""),
            ("a b", ""),
            (&*"k".repeat(64), ""),
            ("a", "\n"),
            ("a", &*"v".repeat(256)),
        ] {
            assert!(one(key, value).is_err(), "{key:?} {value:?}");
        }
        assert!(labels(&(0..65).map(|n| (n.to_string(), String::new())).collect()).is_err());
        assert!(description("two\nlines").is_ok());
        assert!(description("\x1b[31m").is_err());
        assert!(description(&"x".repeat(1025)).is_err());
    }

    #[test]
    fn what_is_booted_is_checked() {
        let with = |server: &str, file: &str, url: &str| {
            boot(Some(&proto::Boot { server: server.into(), file: file.into(), url: url.into() }))
        };
        assert_eq!(with("", "", "").unwrap(), Some(Boot::default()));
        assert!(with("10.0.0.1", "pxelinux.0", "http://[fd00::1]/boot.efi").is_ok());
        for (server, file, url) in [
            ("fd00::1", "", ""),
            ("", "pxelinux.0", ""),
            ("10.0.0.1", &*"f".repeat(128), ""),
            ("", "", "boot.efi"),
            ("", "", "http://10.0.0.1/a b"),
        ] {
            assert!(with(server, file, url).is_err(), "{server} {file} {url}");
        }
        assert_eq!(boot(None).unwrap(), None);
    }

    #[test]
    fn an_address_is_of_one_family() {
        let read = |text| address("address", text).map(|address| address.to_string());
        assert_eq!(read("::ffff:192.0.2.1").unwrap(), "192.0.2.1");
        assert_eq!(read("2001:db8:0::7").unwrap(), "2001:db8::7");
        for bad in ["192.0.2.1/32", "example.org", "192.0.2", "fe80::1%eth0"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(socket_mode("socket_mode", "0660").unwrap(), 0o660);
        assert!(socket_mode("socket_mode", "1777").is_err());
    }
}
