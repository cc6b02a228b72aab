//! Requests of the API become valid nouns or a refusal that names field and value; nouns become API objects.

use super::refusal::Refusal;
use crate::{
    addr::MacAddr,
    config,
    dataplane::snapshot::{GATEWAY_IPV4, GATEWAY_MAC},
    model::{self, Addressing, Name, RateLimit},
    proto,
    wire::dns,
};
use ipnet::{Ipv4Net, Ipv6Net};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};
use uuid::Uuid;

/// DNS or NTP servers a network may have: what fits a DHCP message.
const MAX_SERVERS: usize = 16;
/// Prefixes that may be routed to one vNIC, of each family.
const MAX_PREFIXES: usize = 256;
const MIN_BURST_PACKETS: u64 = 64;
const MIN_BURST_BITS: u64 = 2 * 65_536 * 8;
/// Queue pairs a vNIC may have.
const MAX_QUEUE_PAIRS: u32 = 8;

/// A network to be made.
#[derive(Debug, PartialEq)]
pub(super) struct NewNetwork {
    pub(super) id: Option<Uuid>,
    pub(super) name: Name,
    pub(super) ipv4_subnet: Option<Ipv4Net>,
    pub(super) ipv6_prefix: Option<Ipv6Net>,
    pub(super) dns_servers: Vec<IpAddr>,
    pub(super) ntp_servers: Vec<IpAddr>,
    pub(super) mtu: u16,
    pub(super) domain: Option<dns::Name>,
}

/// A vNIC to be made; what is absent is to be chosen.
#[derive(Debug, PartialEq)]
pub(super) struct NewNic {
    pub(super) id: Option<Uuid>,
    pub(super) network: String,
    pub(super) name: Name,
    pub(super) mac: Option<MacAddr>,
    pub(super) ipv4: Option<Ipv4Addr>,
    pub(super) ipv6: Option<Ipv6Addr>,
    pub(super) routed_ipv4: Vec<Ipv4Net>,
    pub(super) routed_ipv6: Vec<Ipv6Net>,
    pub(super) addressing: Addressing,
    pub(super) from_guest: RateLimit,
    pub(super) to_guest: RateLimit,
    pub(super) mtu: Option<u16>,
    pub(super) ipv6_mode: Ipv6Mode,
    pub(super) queue_pairs: u16,
}

/// How a guest comes by its IPv6 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ipv6Mode {
    /// By DHCPv6, one address.
    Dhcpv6,
    /// It chooses them in a /64 of its own.
    Slaac,
}

impl TryFrom<proto::CreateNetworkRequest> for NewNetwork {
    type Error = Refusal;

    fn try_from(request: proto::CreateNetworkRequest) -> Result<Self, Refusal> {
        if request.is_public {
            return Err(Refusal::Unimplemented("is_public: egress does not exist yet"));
        }
        let name = parse("name", &request.name)?;
        let ipv4_subnet = optional("ipv4_subnet", &request.ipv4_subnet, ipv4_subnet)?;
        let ipv6_prefix = optional("ipv6_prefix", &request.ipv6_prefix, ipv6_prefix)?;
        if request.ipv4_enabled && ipv4_subnet.is_none() {
            return Err(Refusal::invalid(
                "ipv4_subnet",
                "",
                "required with ipv4_enabled, like 10.0.0.0/24",
            ));
        }
        if request.ipv6_enabled && ipv6_prefix.is_none() {
            return Err(Refusal::invalid(
                "ipv6_prefix",
                "",
                "required with ipv6_enabled, like fd00::/64",
            ));
        }
        if ipv4_subnet.is_none() && ipv6_prefix.is_none() {
            return Err(Refusal::invalid(
                "ipv4_subnet",
                "",
                "a network needs ipv4_subnet, ipv6_prefix or both",
            ));
        }
        Ok(Self {
            id: optional("id", &request.id, uuid)?,
            name,
            ipv4_subnet,
            ipv6_prefix,
            dns_servers: servers("dns_servers", &request.dns_servers)?,
            ntp_servers: servers("ntp_servers", &request.ntp_servers)?,
            mtu: mtu(request.mtu)?.unwrap_or(config::DEFAULT_MTU),
            domain: optional("domain", &request.domain, parse)?,
        })
    }
}

impl TryFrom<proto::CreateNicRequest> for NewNic {
    type Error = Refusal;

    fn try_from(request: proto::CreateNicRequest) -> Result<Self, Refusal> {
        if request.network_id.is_empty() {
            return Err(Refusal::invalid("network_id", "", "required: a network's id or name"));
        }
        let queue_pairs = match request.queue_pairs {
            0 => 1,
            pairs @ 1..=MAX_QUEUE_PAIRS => pairs as u16,
            pairs => return Err(Refusal::invalid("queue_pairs", pairs, "expected 1-8")),
        };
        let addressing = match proto::Addressing::try_from(request.addressing) {
            Ok(proto::Addressing::Unspecified | proto::Addressing::Host) => Addressing::Host,
            Ok(proto::Addressing::Subnet) => Addressing::Subnet,
            Err(_) => {
                return Err(Refusal::invalid(
                    "addressing",
                    request.addressing,
                    "expected ADDRESSING_HOST or ADDRESSING_SUBNET",
                ));
            }
        };
        let ipv6_mode = match proto::Ipv6Mode::try_from(request.ipv6_mode) {
            Ok(proto::Ipv6Mode::Unspecified | proto::Ipv6Mode::Dhcpv6) => Ipv6Mode::Dhcpv6,
            Ok(proto::Ipv6Mode::Slaac) => Ipv6Mode::Slaac,
            Err(_) => {
                return Err(Refusal::invalid(
                    "ipv6_mode",
                    request.ipv6_mode,
                    "expected IPV6_MODE_DHCPV6 or IPV6_MODE_SLAAC",
                ));
            }
        };
        Ok(Self {
            id: optional("id", &request.id, uuid)?,
            network: request.network_id,
            name: parse("name", &request.name)?,
            mac: optional("mac_address", &request.mac_address, mac)?,
            ipv4: optional("ipv4_address", &request.ipv4_address, parse_address)?,
            ipv6: optional("ipv6_address", &request.ipv6_address, parse_address)?,
            routed_ipv4: routed_ipv4(&request.routed_ipv4_prefixes)?,
            routed_ipv6: routed_ipv6(&request.routed_ipv6_prefixes)?,
            addressing,
            from_guest: rate_limit("limit_from_guest", request.limit_from_guest)?,
            to_guest: rate_limit("limit_to_guest", request.limit_to_guest)?,
            mtu: mtu(request.mtu)?,
            ipv6_mode,
            queue_pairs,
        })
    }
}

/// A burst that is not given lasts a tenth of a second, and takes at least [`MIN_BURST_PACKETS`] or two frames of the
/// largest kind.
pub(super) fn rate_limit(
    field: &'static str,
    limit: Option<proto::RateLimit>,
) -> Result<RateLimit, Refusal> {
    let limit = limit.unwrap_or_default();
    let burst = |rate: u64, burst: u64, least: u64| match (rate, burst) {
        (0, 0) => Ok(0),
        (0, burst) => Err(Refusal::invalid(field, burst, "a burst without a rate limits nothing")),
        (rate, 0) => Ok((rate / 10).max(least)),
        (_, burst) => Ok(burst),
    };
    Ok(RateLimit {
        packets: limit.packets_per_second,
        bits: limit.bits_per_second,
        burst_packets: burst(limit.packets_per_second, limit.burst_packets, MIN_BURST_PACKETS)?,
        burst_bits: burst(limit.bits_per_second, limit.burst_bits, MIN_BURST_BITS)?,
    })
}

/// Zero is not given.
fn mtu(octets: u32) -> Result<Option<u16>, Refusal> {
    match u16::try_from(octets) {
        Ok(0) => Ok(None),
        Ok(mtu @ 1280..) => Ok(Some(mtu)),
        _ => Err(Refusal::invalid("mtu", octets, "expected 1280-65535")),
    }
}

/// An empty string is not given.
fn optional<T>(
    field: &'static str,
    text: &str,
    parse: impl FnOnce(&'static str, &str) -> Result<T, Refusal>,
) -> Result<Option<T>, Refusal> {
    if text.is_empty() { Ok(None) } else { parse(field, text).map(Some) }
}

fn parse<T: FromStr>(field: &'static str, text: &str) -> Result<T, Refusal>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| Refusal::invalid(field, text, error))
}

fn parse_address<T: FromStr>(field: &'static str, text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|_| {
        let family = if field.contains("ipv6") {
            "an IPv6 address like fd00::2"
        } else {
            "an IPv4 address like 10.0.0.2"
        };
        Refusal::invalid(field, text, format!("expected {family}"))
    })
}

fn uuid(field: &'static str, text: &str) -> Result<Uuid, Refusal> {
    let parsed = Uuid::try_parse(text).ok().filter(|id| !id.is_nil() && text.len() == 36);
    parsed.ok_or_else(|| {
        Refusal::invalid(field, text, "expected a UUID like 67e55044-10b1-426f-9247-bb680e5fe0c8")
    })
}

fn mac(field: &'static str, text: &str) -> Result<MacAddr, Refusal> {
    let mac: MacAddr = parse(field, text)?;
    if mac.is_multicast() || mac == MacAddr([0; 6]) {
        return Err(Refusal::invalid(field, text, "expected a unicast MAC"));
    }
    if mac == GATEWAY_MAC {
        return Err(Refusal::invalid(field, text, "this is the gateway's MAC"));
    }
    Ok(mac)
}

pub(super) fn servers(field: &'static str, texts: &[String]) -> Result<Vec<IpAddr>, Refusal> {
    if texts.len() > MAX_SERVERS {
        return Err(Refusal::invalid(
            field,
            format!("{} servers", texts.len()),
            format!("expected at most {MAX_SERVERS}"),
        ));
    }
    texts
        .iter()
        .map(|text| {
            let address = text.parse::<IpAddr>().ok();
            let usable = address
                .filter(|a| !a.is_unspecified() && !a.is_multicast() && *a != Ipv4Addr::BROADCAST);
            usable.ok_or_else(|| {
                Refusal::invalid(field, text, "expected a unicast IPv4 or IPv6 address")
            })
        })
        .collect()
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
    let special = ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"];
    let special = special.map(|s| s.parse::<Ipv4Net>().expect("a literal prefix"));
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
    let special = ["::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8"];
    let special = special.map(|s| s.parse::<Ipv6Net>().expect("a literal prefix"));
    if special.iter().any(|s| s.contains(&net) || net.contains(s)) {
        return Err(Refusal::invalid(
            field,
            text,
            "it is in, or contains, loopback, IPv4-mapped, link-local, multicast or unspecified space",
        ));
    }
    Ok(net)
}

fn ipv4_subnet(field: &'static str, text: &str) -> Result<Ipv4Net, Refusal> {
    let net = ipv4_net(field, text)?;
    if (8..=30).contains(&net.prefix_len()) {
        Ok(net)
    } else {
        Err(Refusal::invalid(field, text, "expected a prefix length of 8-30"))
    }
}

fn ipv6_prefix(field: &'static str, text: &str) -> Result<Ipv6Net, Refusal> {
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
    if texts.len() > MAX_PREFIXES {
        return Err(Refusal::invalid(
            field,
            format!("{} prefixes", texts.len()),
            format!("expected at most {MAX_PREFIXES}"),
        ));
    }
    let mut parsed = Vec::with_capacity(texts.len());
    for text in texts {
        let prefix = parse(field, text)?;
        if parsed.contains(&prefix) {
            return Err(Refusal::invalid(field, text, "it is given twice"));
        }
        parsed.push(prefix);
    }
    Ok(parsed)
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

fn strings<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn string<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// The API's view of a network.
pub(super) fn network(network: &model::Network, nics: usize) -> proto::Network {
    proto::Network {
        id: network.id.to_string(),
        name: network.name.to_string(),
        ipv4_enabled: network.ipv4_subnet.is_some(),
        ipv4_subnet: string(network.ipv4_subnet),
        ipv6_enabled: network.ipv6_prefix.is_some(),
        ipv6_prefix: string(network.ipv6_prefix),
        dns_servers: strings(&network.dns_servers),
        ntp_servers: strings(&network.ntp_servers),
        nic_count: u32::try_from(nics).unwrap_or(u32::MAX),
        created_at: network.created_at.to_string(),
        updated_at: network.updated_at.to_string(),
        is_public: false,
        mtu: network.mtu.into(),
        domain: string(network.domain),
    }
}

fn rate_limit_view(limit: RateLimit) -> Option<proto::RateLimit> {
    (limit != RateLimit::default()).then_some(proto::RateLimit {
        packets_per_second: limit.packets,
        bits_per_second: limit.bits,
        burst_packets: limit.burst_packets,
        burst_bits: limit.burst_bits,
    })
}

/// The API's view of a vNIC.
pub(super) fn nic(
    network: &model::Network,
    nic: &model::Nic,
    socket_path: String,
    state: proto::NicState,
) -> proto::Nic {
    let ipv6_mode = match (nic.ipv6, nic.slaac) {
        (None, _) => proto::Ipv6Mode::Unspecified,
        (_, None) => proto::Ipv6Mode::Dhcpv6,
        (_, Some(_)) => proto::Ipv6Mode::Slaac,
    };
    let addressing = match nic.addressing {
        Addressing::Host => proto::Addressing::Host,
        Addressing::Subnet => proto::Addressing::Subnet,
    };
    proto::Nic {
        id: nic.id.to_string(),
        name: nic.name.to_string(),
        network_id: nic.network_id.to_string(),
        mac_address: nic.mac.to_string(),
        ipv4_address: string(nic.ipv4),
        ipv6_address: string(nic.ipv6),
        routed_ipv4_prefixes: strings(&nic.routed_ipv4),
        routed_ipv6_prefixes: strings(&nic.routed_ipv6),
        socket_path,
        state: state.into(),
        created_at: nic.created_at.to_string(),
        updated_at: nic.updated_at.to_string(),
        addressing: addressing.into(),
        queue_pairs: nic.queue_pairs.into(),
        mtu: nic.mtu_in(network).into(),
        ipv6_mode: ipv6_mode.into(),
        slaac_prefix: string(nic.slaac),
        limit_from_guest: rate_limit_view(nic.from_guest),
        limit_to_guest: rate_limit_view(nic.to_guest),
        guest: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(change: impl FnOnce(&mut proto::CreateNetworkRequest)) -> Result<NewNetwork, String> {
        let mut request = proto::CreateNetworkRequest {
            name: "prod".into(),
            ipv4_subnet: "10.0.0.0/24".into(),
            ..Default::default()
        };
        change(&mut request);
        NewNetwork::try_from(request).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn a_good_network_is_taken() {
        let network = create(|r| r.ipv6_prefix = "fd00::/64".into()).unwrap();
        assert_eq!((network.mtu, network.domain, network.id), (1500, None, None));
    }

    #[test]
    fn refusals_name_the_field_and_the_value() {
        for subnet in [
            "10.0.0.1/24",
            "10.0.0.0/31",
            "10.0.0.0/7",
            "127.0.0.0/8",
            "169.254.0.0/24",
            "224.0.0.0/24",
            "0.0.0.0/8",
            "10.0.0.0",
            "x",
        ] {
            let refused = create(|r| r.ipv4_subnet = subnet.into()).unwrap_err();
            assert!(refused.starts_with(&format!("ipv4_subnet: {subnet:?}: ")), "{refused}");
        }
        for prefix in
            ["fd00::1/64", "fd00::/127", "fc00::/15", "fe80::/64", "ff02::/64", "::/64", "::/0"]
        {
            let refused = create(|r| r.ipv6_prefix = prefix.into()).unwrap_err();
            assert!(refused.starts_with(&format!("ipv6_prefix: {prefix:?}: ")), "{refused}");
        }
        for mtu in [1, 1279, 65536] {
            assert_eq!(
                create(|r| r.mtu = mtu).unwrap_err(),
                format!("mtu: \"{mtu}\": expected 1280-65535")
            );
        }
        for id in ["x", "00000000-0000-0000-0000-000000000000", "67e5504410b1426f9247bb680e5fe0c8"]
        {
            assert!(create(|r| r.id = id.into()).unwrap_err().starts_with("id: "));
        }
        assert!(
            create(|r| r.dns_servers = vec!["1.1.1".into()])
                .unwrap_err()
                .starts_with("dns_servers: \"1.1.1\"")
        );
        assert!(create(|r| r.ipv4_subnet.clear()).unwrap_err().contains("or both"));
        assert!(create(|r| r.is_public = true).unwrap_err().contains("egress"));
        assert!(create(|r| r.domain = "-x".into()).unwrap_err().starts_with("domain: \"-x\""));
    }

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
}
