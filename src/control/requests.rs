//! What requests ask for, valid: objects to be made, and objects as a change would leave them.

use super::{
    accounts::Accounts,
    choices::Ipv6Mode,
    fields::{self, optional, parse, parse_address, uuid},
    l2,
    mask::Mask,
    refusal::Refusal,
    view::{self, string, strings},
};
use crate::{
    addr::MacAddr,
    config,
    model::{
        Addressing, Boot, DnsMode, GuestSettings, Impairments, L2Policy, Labels, Name, Network,
        NetworkKind, Nic, SocketAccess, Transport,
    },
    proto,
    wire::dns,
};
use ipnet::{Ipv4Net, Ipv6Net};
use prost::Message;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use uuid::Uuid;

/// A network to be made.
#[derive(Debug, PartialEq)]
pub(super) struct NewNetwork {
    pub(super) id: Option<Uuid>,
    pub(super) name: Name,
    pub(super) kind: NetworkKind,
    pub(super) l2: L2Policy,
    pub(super) gateway: Option<bool>,
    pub(super) gateway_ipv4: Option<Ipv4Addr>,
    pub(super) ipv4_subnet: Option<Ipv4Net>,
    pub(super) ipv6_prefix: Option<Ipv6Net>,
    pub(super) dns_servers: Vec<IpAddr>,
    pub(super) ntp_servers: Vec<IpAddr>,
    pub(super) mtu: u16,
    pub(super) domain: Option<dns::Name>,
    pub(super) dns_mode: DnsMode,
    pub(super) metadata: bool,
    pub(super) labels: Labels,
    pub(super) description: String,
    pub(super) boot: Option<Boot>,
    pub(super) is_public: bool,
    /// Tells this request from others, however its values are written.
    pub(super) asked: Uuid,
}

/// A vNIC to be made; what is absent is to be chosen.
#[derive(Debug, PartialEq)]
pub(super) struct NewNic {
    pub(super) id: Option<Uuid>,
    pub(super) name: Option<Name>,
    pub(super) mac: Option<MacAddr>,
    pub(super) ipv4: Option<Ipv4Addr>,
    pub(super) ipv6: Option<Ipv6Addr>,
    pub(super) routed_ipv4: Vec<Ipv4Net>,
    pub(super) routed_ipv6: Vec<Ipv6Net>,
    pub(super) settings: GuestSettings,
    pub(super) mtu: Option<u16>,
    pub(super) ipv6_mode: Ipv6Mode,
    pub(super) queue_pairs: u16,
    /// The interface of a TAP device may be empty: then it is to be chosen.
    pub(super) transport: Transport,
    pub(super) labels: Labels,
    pub(super) description: String,
    pub(super) boot: Option<Boot>,
    pub(super) socket: SocketAccess,
    /// As [`NewNetwork::asked`].
    pub(super) asked: Uuid,
}

/// Returns a number for a request in its canonical form. Absent fields are not encoded, so a field
/// of a later version does not change the number of a request without it.
pub(super) fn fingerprint(canonical: &impl Message) -> Uuid {
    // A hash, the same in every process: the number is stored. prost encodes fields in the order of
    // their tags, and labels are sorted, so equal requests are equal octets.
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &canonical.encode_to_vec())
}

impl TryFrom<proto::CreateNetworkRequest> for NewNetwork {
    type Error = Refusal;

    fn try_from(request: proto::CreateNetworkRequest) -> Result<Self, Refusal> {
        let kind = l2::kind(request.kind)?;
        let mut new = Self {
            id: optional("id", &request.id, uuid)?,
            name: parse("name", &request.name)?,
            kind,
            l2: l2::policy(kind, request.l2.as_ref())?,
            gateway: l2::toggle("gateway", request.gateway)?,
            gateway_ipv4: optional("gateway_ipv4", &request.gateway_ipv4, parse_address)?,
            ipv4_subnet: optional("ipv4_subnet", &request.ipv4_subnet, fields::ipv4_subnet)?,
            ipv6_prefix: optional("ipv6_prefix", &request.ipv6_prefix, fields::ipv6_prefix)?,
            dns_servers: fields::servers("dns_servers", &request.dns_servers)?,
            ntp_servers: fields::servers("ntp_servers", &request.ntp_servers)?,
            mtu: fields::mtu(request.mtu)?.unwrap_or(config::DEFAULT_MTU),
            domain: optional("domain", &request.domain, parse)?,
            dns_mode: fields::dns_mode(request.dns_mode)?,
            metadata: l2::toggle("metadata", request.metadata)?.unwrap_or(false),
            labels: fields::labels(&request.labels)?,
            description: fields::description(&request.description)?,
            boot: fields::boot(request.boot.as_ref())?,
            is_public: request.is_public,
            asked: Uuid::nil(),
        };
        let missing = |field, expected| Err(Refusal::invalid(field, "", expected));
        match (new.ipv4_subnet, new.ipv6_prefix) {
            // The flags alone choose no subnet: who sets one must say which.
            (None, _) if request.ipv4_enabled => {
                missing("ipv4_subnet", "required with ipv4_enabled, like 10.0.0.0/24")
            }
            (_, None) if request.ipv6_enabled => {
                missing("ipv6_prefix", "required with ipv6_enabled, like fd00::/64")
            }
            (None, None) if kind == NetworkKind::Routed => {
                missing("ipv4_subnet", "a network needs ipv4_subnet, ipv6_prefix or both")
            }
            _ => Ok(()),
        }?;
        new.check_gateway()?;
        // From the parsed values, so that spellings do not count. Without the id, by which it is
        // found, and validate_only, which makes nothing.
        new.asked = fingerprint(&proto::CreateNetworkRequest {
            name: new.name.to_string(),
            ipv4_subnet: string(new.ipv4_subnet),
            ipv6_prefix: string(new.ipv6_prefix),
            dns_servers: strings(&new.dns_servers),
            ntp_servers: strings(&new.ntp_servers),
            mtu: new.mtu.into(),
            domain: string(new.domain),
            // A default that is named is the same as none: both are 0.
            dns_mode: view::asked_dns_mode(new.dns_mode),
            metadata: l2::toggled(new.metadata.then_some(true)),
            labels: request.labels,
            description: request.description,
            boot: request.boot,
            // A default that is named is the same as none: both are 0.
            kind: match new.kind {
                NetworkKind::Routed => 0,
                NetworkKind::Switched => proto::NetworkKind::Switched.into(),
            },
            l2: l2::asked(&new.l2),
            gateway: request.gateway,
            gateway_ipv4: string(new.gateway_ipv4),
            is_public: new.is_public,
            ..Default::default()
        });
        Ok(new)
    }
}

impl NewNetwork {
    /// Refuses a gateway that its network cannot have.
    fn check_gateway(&self) -> Result<(), Refusal> {
        if self.kind == NetworkKind::Routed {
            if self.gateway == Some(false) {
                return Err(Refusal::invalid("gateway", "off", "a routed network has one always"));
            }
            if let Some(address) = self.gateway_ipv4 {
                let expected = "that of a routed network is 169.254.0.1, and no other";
                return Err(Refusal::invalid("gateway_ipv4", address, expected));
            }
        }
        let Some(address) = self.gateway_ipv4 else { return Ok(()) };
        let Some(subnet) = self.ipv4_subnet else {
            let expected = "required with gateway_ipv4, which is in it";
            return Err(Refusal::invalid("ipv4_subnet", "", expected));
        };
        let is_host = subnet.contains(&address)
            && address != subnet.network()
            && address != subnet.broadcast();
        fields::check_usable("gateway_ipv4", address.into(), is_host, subnet)
    }
}

impl NewNic {
    /// What `request` asks for in `network`, which its network_id names.
    pub(super) fn new(
        request: proto::CreateNicRequest,
        network: Uuid,
        accounts: Accounts,
    ) -> Result<Self, Refusal> {
        let mut new = Self {
            id: optional("id", &request.id, uuid)?,
            name: optional("name", &request.name, parse)?,
            mac: optional("mac_address", &request.mac_address, fields::mac)?,
            ipv4: optional("ipv4_address", &request.ipv4_address, parse_address)?,
            ipv6: optional("ipv6_address", &request.ipv6_address, parse_address)?,
            routed_ipv4: fields::routed_ipv4(&request.routed_ipv4_prefixes)?,
            routed_ipv6: fields::routed_ipv6(&request.routed_ipv6_prefixes)?,
            settings: GuestSettings {
                addressing: fields::addressing(request.addressing)?,
                from_guest: fields::rate_limit("limit_from_guest", request.limit_from_guest)?,
                to_guest: fields::rate_limit("limit_to_guest", request.limit_to_guest)?,
                port_security: fields::port_security(request.port_security)?,
                mac_limit: fields::mac_limit(request.mac_limit)?,
                impairments: fields::impairments(
                    request.impairments.as_ref(),
                    Impairments::default(),
                )?,
            },
            mtu: fields::mtu(request.mtu)?,
            ipv6_mode: fields::ipv6_mode(request.ipv6_mode)?,
            queue_pairs: fields::queue_pairs(request.queue_pairs)?,
            transport: fields::transport(
                request.transport,
                &request.tap_interface,
                &request.datagrams,
            )?,
            labels: fields::labels(&request.labels)?,
            description: fields::description(&request.description)?,
            boot: fields::boot(request.boot.as_ref())?,
            socket: SocketAccess {
                owner: accounts.owner,
                group: accounts.group,
                mode: optional("socket_mode", &request.socket_mode, fields::socket_mode)?,
            },
            asked: Uuid::nil(),
        };
        new.asked = fingerprint(&proto::CreateNicRequest {
            network_id: network.to_string(),
            name: string(new.name.as_ref()),
            mac_address: string(new.mac),
            ipv4_address: string(new.ipv4),
            ipv6_address: string(new.ipv6),
            routed_ipv4_prefixes: strings(&new.routed_ipv4),
            routed_ipv6_prefixes: strings(&new.routed_ipv6),
            // A default that is named is the same as none: both are 0.
            addressing: (new.settings.addressing == Addressing::Subnet).into(),
            queue_pairs: new.queue_pairs.into(),
            mtu: new.mtu.unwrap_or(0).into(),
            ipv6_mode: (new.ipv6_mode == Ipv6Mode::Slaac).into(),
            limit_from_guest: view::rate_limit(new.settings.from_guest),
            limit_to_guest: view::rate_limit(new.settings.to_guest),
            port_security: view::asked_security(new.settings.port_security),
            impairments: view::asked_lines(&new.settings.impairments),
            // A default that is named is the same as none: both are 0.
            transport: if new.transport.is_vhost_user() { 0 } else { request.transport },
            datagrams: match &new.transport {
                Transport::Dgram(at) => string(at.as_ref()),
                _ => String::new(),
            },
            id: String::new(),
            validate_only: false,
            ..request
        });
        Ok(new)
    }
}

/// `old` as the request would leave it; its time of change apart.
pub(super) fn changed_network(
    old: &Network,
    request: &proto::UpdateNetworkRequest,
) -> Result<Network, Refusal> {
    let mask = Mask::new(
        request.update_mask.as_ref(),
        &["dns_servers", "ntp_servers"],
        &[
            ("dns_servers", !request.dns_servers.is_empty()),
            ("ntp_servers", !request.ntp_servers.is_empty()),
            ("name", !request.name.is_empty()),
            ("mtu", request.mtu != 0),
            ("domain", !request.domain.is_empty()),
            ("labels", !request.labels.is_empty()),
            ("description", !request.description.is_empty()),
            ("boot", request.boot.is_some()),
            ("l2", request.l2.is_some()),
            ("dns_mode", request.dns_mode != 0),
            ("is_public", request.is_public.is_some()),
            ("metadata", request.metadata != 0),
        ],
    )?;
    let mut new = old.clone();
    if mask.names("dns_servers") {
        new.dns_servers = fields::servers("dns_servers", &request.dns_servers)?;
    }
    if mask.names("ntp_servers") {
        new.ntp_servers = fields::servers("ntp_servers", &request.ntp_servers)?;
    }
    if mask.names("name") {
        new.name = parse("name", &request.name)?;
    }
    if mask.names("mtu") {
        // Named and absent: back to the default (AIP-134).
        new.mtu = fields::mtu(request.mtu)?.unwrap_or(config::DEFAULT_MTU);
    }
    if mask.names("domain") {
        new.domain = optional("domain", &request.domain, parse)?;
    }
    if mask.names("dns_mode") {
        new.dns_mode = fields::dns_mode(request.dns_mode)?;
        fields::check_services(&new)?;
    }
    if mask.names("metadata") {
        new.metadata = l2::toggle("metadata", request.metadata)?.unwrap_or(false);
        fields::check_services(&new)?;
    }
    if mask.names("labels") {
        new.labels = fields::labels(&request.labels)?;
    }
    if mask.names("description") {
        new.description = fields::description(&request.description)?;
    }
    if mask.names("boot") {
        new.boot = fields::boot(request.boot.as_ref())?;
    }
    if mask.names("l2") {
        new.l2 = l2::policy(old.kind, request.l2.as_ref())?;
        l2::check_pool(&new)?;
    }
    if mask.names("is_public") {
        // Named and absent: back to the default (AIP-134).
        new.is_public = request.is_public.unwrap_or(false);
    }
    Ok(new)
}

fn nic_mask(request: &proto::UpdateNicRequest) -> Result<Mask, Refusal> {
    Mask::new(
        request.update_mask.as_ref(),
        &["routed_ipv4_prefixes", "routed_ipv6_prefixes"],
        &[
            ("routed_ipv4_prefixes", !request.routed_ipv4_prefixes.is_empty()),
            ("routed_ipv6_prefixes", !request.routed_ipv6_prefixes.is_empty()),
            ("name", !request.name.is_empty()),
            ("mac_address", !request.mac_address.is_empty()),
            ("ipv4_address", !request.ipv4_address.is_empty()),
            ("ipv6_address", !request.ipv6_address.is_empty()),
            ("mtu", request.mtu != 0),
            ("addressing", request.addressing != 0),
            ("limit_from_guest", request.limit_from_guest.is_some()),
            ("limit_to_guest", request.limit_to_guest.is_some()),
            ("labels", !request.labels.is_empty()),
            ("description", !request.description.is_empty()),
            ("boot", request.boot.is_some()),
            ("socket_owner", !request.socket_owner.is_empty()),
            ("socket_group", !request.socket_group.is_empty()),
            ("socket_mode", !request.socket_mode.is_empty()),
            ("queue_pairs", request.queue_pairs != 0),
            ("port_security", request.port_security != 0),
            ("mac_limit", request.mac_limit != 0),
            ("impairments", request.impairments.is_some()),
        ],
    )
}

/// `old` as the request would leave it, if its addresses are free; its time of change, and what
/// follows from its other fields, apart.
pub(super) fn changed_nic(
    old: &Nic,
    request: &proto::UpdateNicRequest,
    accounts: Accounts,
) -> Result<Nic, Refusal> {
    let mask = nic_mask(request)?;
    let mut new = old.clone();
    if mask.names("routed_ipv4_prefixes") {
        new.routed_ipv4 = fields::routed_ipv4(&request.routed_ipv4_prefixes)?;
    }
    if mask.names("routed_ipv6_prefixes") {
        new.routed_ipv6 = fields::routed_ipv6(&request.routed_ipv6_prefixes)?;
    }
    if mask.names("name") {
        new.name = parse("name", &request.name)?;
    }
    // Named and empty, it stays: it has been chosen once.
    if mask.names("mac_address") {
        let given = optional("mac_address", &request.mac_address, fields::mac)?;
        new.mac = given.unwrap_or(old.mac);
    }
    if mask.names("ipv4_address") {
        new.ipv4 = optional("ipv4_address", &request.ipv4_address, parse_address)?.or(old.ipv4);
    }
    if mask.names("ipv6_address") {
        new.ipv6 = optional("ipv6_address", &request.ipv6_address, parse_address)?.or(old.ipv6);
    }
    if mask.names("mtu") {
        new.mtu = fields::mtu(request.mtu)?;
    }
    if mask.names("addressing") {
        new.settings.addressing = fields::addressing(request.addressing)?;
    }
    if mask.names("limit_from_guest") {
        new.settings.from_guest = fields::rate_limit("limit_from_guest", request.limit_from_guest)?;
    }
    if mask.names("limit_to_guest") {
        new.settings.to_guest = fields::rate_limit("limit_to_guest", request.limit_to_guest)?;
    }
    if mask.names("labels") {
        new.labels = fields::labels(&request.labels)?;
    }
    if mask.names("description") {
        new.description = fields::description(&request.description)?;
    }
    if mask.names("boot") {
        new.boot = fields::boot(request.boot.as_ref())?;
    }
    if mask.names("socket_owner") {
        new.socket.owner = accounts.owner;
    }
    if mask.names("socket_group") {
        new.socket.group = accounts.group;
    }
    if mask.names("socket_mode") {
        new.socket.mode = optional("socket_mode", &request.socket_mode, fields::socket_mode)?;
    }
    if mask.names("port_security") {
        new.settings.port_security = fields::port_security(request.port_security)?;
    }
    if mask.names("mac_limit") {
        new.settings.mac_limit = fields::mac_limit(request.mac_limit)?;
    }
    if mask.names("impairments") {
        let lines = &mut new.settings.impairments;
        *lines = fields::impairments(request.impairments.as_ref(), *lines)?;
    }
    if mask.names("queue_pairs") {
        new.queue_pairs = fields::queue_pairs(request.queue_pairs)?;
    }
    Ok(new)
}

/// `old` as the request would leave it; its time of change apart.
pub(super) fn limited_nic(old: &Nic, request: &proto::SetNicLimitsRequest) -> Result<Nic, Refusal> {
    let mask = Mask::new(
        request.update_mask.as_ref(),
        &["from_guest", "to_guest"],
        &[("from_guest", request.from_guest.is_some()), ("to_guest", request.to_guest.is_some())],
    )?;
    let mut new = old.clone();
    if mask.names("from_guest") {
        new.settings.from_guest = fields::rate_limit("from_guest", request.from_guest)?;
    }
    if mask.names("to_guest") {
        new.settings.to_guest = fields::rate_limit("to_guest", request.to_guest)?;
    }
    Ok(new)
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
        assert!(create(|r| r.is_public = true).unwrap().is_public);
        assert!(create(|r| r.domain = "-x".into()).unwrap_err().starts_with("domain: \"-x\""));
    }
}
