//! How a switched network treats frames: from requests, and to views.

use super::{
    choices::{GROUPS, GUARDS, KINDS, TOGGLES, UNKNOWN, VLANS},
    fields,
    refusal::Refusal,
};
use crate::{
    model::{DhcpPool, L2Policy, L2Rules, Network, NetworkKind, l2::DhcpGuard},
    proto,
};
use ipnet::Ipv4Net;
use std::ops::RangeInclusive;

/// What OVS takes, too: less, and a host that is silent between two polls is flooded to.
const AGING: RangeInclusive<u32> = 15..=3600;
/// A table of the largest takes some 100 MB of each reactor that learns it.
const TABLE: RangeInclusive<u32> = 10..=1_000_000;

/// Returns none for zero: proto3 does not tell it from an absent field.
fn number(
    field: &'static str,
    value: u32,
    valid: RangeInclusive<u32>,
) -> Result<Option<u32>, Refusal> {
    match value {
        0 => Ok(None),
        _ if valid.contains(&value) => Ok(Some(value)),
        _ => {
            let expected = format!("expected {}-{}", valid.start(), valid.end());
            Err(Refusal::invalid(field, value, expected))
        }
    }
}

/// Returns the kind of a network.
pub(super) fn kind(value: i32) -> Result<NetworkKind, Refusal> {
    Ok(KINDS.chosen("kind", value)?.unwrap_or(NetworkKind::Routed))
}

/// Returns whether something is to be so, none where it is not said.
pub(super) fn toggle(field: &'static str, value: i32) -> Result<Option<bool>, Refusal> {
    TOGGLES.chosen(field, value)
}

/// Returns what is asked of a network of this kind.
pub(super) fn policy(kind: NetworkKind, l2: Option<&proto::L2Policy>) -> Result<L2Policy, Refusal> {
    let Some(l2) = l2 else { return Ok(L2Policy::default()) };
    if kind != NetworkKind::Switched {
        let expected = "only a network of NETWORK_KIND_SWITCHED has it";
        return Err(Refusal::invalid("l2", "given", expected));
    }
    Ok(L2Policy {
        mac_aging_seconds: number("l2.mac_aging_seconds", l2.mac_aging_seconds, AGING)?,
        mac_table_size: number("l2.mac_table_size", l2.mac_table_size, TABLE)?,
        unknown_unicast: UNKNOWN.chosen("l2.unknown_unicast", l2.unknown_unicast)?,
        storm_pps: number("l2.storm_pps", l2.storm_pps, 1..=u32::MAX)?,
        multicast_snooping: toggle("l2.multicast_snooping", l2.multicast_snooping)?,
        guest_vlans: VLANS.chosen("l2.guest_vlans", l2.guest_vlans)?,
        neighbour_proxy: toggle("l2.neighbour_proxy", l2.neighbour_proxy)?,
        dhcp_guard: GUARDS.chosen("l2.dhcp_guard", l2.dhcp_guard)?,
        reserved_groups: GROUPS.chosen("l2.reserved_groups", l2.reserved_groups)?,
        loop_guard: toggle("l2.loop_guard", l2.loop_guard)?,
        dhcp_pool: fields::optional("l2.dhcp_pool", &l2.dhcp_pool, fields::parse)?,
    })
}

/// Refuses addresses for hosts behind ports that the network cannot lease.
pub(super) fn check_pool(network: &Network) -> Result<(), Refusal> {
    let Some(pool) = network.l2.dhcp_pool else { return Ok(()) };
    let refused = |expected: &str| Err(Refusal::invalid("l2.dhcp_pool", pool, expected));
    if network.dhcp_pool().is_none()
        || network.ipv4_subnet.is_none() && network.ipv6_prefix.is_none()
    {
        return refused("only a network with a gateway and addresses leases any");
    }
    let DhcpPool::Range(first, last) = pool else { return Ok(()) };
    let is_in = |subnet: Ipv4Net| subnet.network() < first && last < subnet.broadcast();
    if !network.ipv4_subnet.is_some_and(is_in) {
        return refused("expected hosts' addresses of ipv4_subnet");
    }
    Ok(())
}

/// Returns the API's view of a choice.
pub(super) fn toggled(choice: Option<bool>) -> i32 {
    TOGGLES.number(choice)
}

/// Returns the API's view of what was asked for, if anything was.
pub(super) fn asked(policy: &L2Policy) -> Option<proto::L2Policy> {
    (!policy.is_default()).then(|| policy.into())
}

/// Returns the API's view of what is in force.
pub(super) fn in_force(rules: &L2Rules) -> proto::L2Policy {
    proto::L2Policy::from(&L2Policy {
        mac_aging_seconds: Some(rules.mac_aging_seconds),
        mac_table_size: Some(rules.mac_table_size),
        unknown_unicast: Some(rules.unknown_unicast),
        storm_pps: Some(rules.storm_pps.unwrap_or(u32::MAX)),
        multicast_snooping: Some(rules.multicast_snooping),
        guest_vlans: Some(rules.guest_vlans),
        neighbour_proxy: Some(rules.neighbour_proxy),
        dhcp_guard: Some(if rules.dhcp_guard { DhcpGuard::On } else { DhcpGuard::Off }),
        reserved_groups: Some(rules.reserved_groups),
        loop_guard: Some(rules.loop_guard),
        // Which addresses that is, follows from the network (`view::network`).
        dhcp_pool: None,
    })
}

impl From<&L2Policy> for proto::L2Policy {
    /// Returns the API's view of a policy, in which zeros are what was not asked for.
    fn from(policy: &L2Policy) -> Self {
        Self {
            mac_aging_seconds: policy.mac_aging_seconds.unwrap_or(0),
            mac_table_size: policy.mac_table_size.unwrap_or(0),
            unknown_unicast: UNKNOWN.number(policy.unknown_unicast),
            storm_pps: policy.storm_pps.unwrap_or(0),
            multicast_snooping: TOGGLES.number(policy.multicast_snooping),
            guest_vlans: VLANS.number(policy.guest_vlans),
            neighbour_proxy: TOGGLES.number(policy.neighbour_proxy),
            dhcp_guard: GUARDS.number(policy.dhcp_guard),
            reserved_groups: GROUPS.number(policy.reserved_groups),
            loop_guard: TOGGLES.number(policy.loop_guard),
            dhcp_pool: policy.dhcp_pool.map(|pool| pool.to_string()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::l2::{HasGateway, Members};

    #[test]
    fn what_is_asked_for_is_shown_again() {
        for policy in [L2Policy::default(), L2Policy::plain()] {
            let shown = proto::L2Policy::from(&policy);
            assert_eq!(super::policy(NetworkKind::Switched, Some(&shown)).unwrap(), policy);
        }
        assert_eq!(asked(&L2Policy::default()), None);
        let rules = L2Policy::default().in_force(HasGateway::No, Members::Any);
        let shown = in_force(&rules);
        assert_eq!((shown.mac_aging_seconds, shown.storm_pps), (300, 2000));
        assert_eq!(shown.dhcp_guard(), proto::DhcpGuard::Off);
        assert_eq!(shown.unknown_unicast(), proto::UnknownUnicast::Flood);
    }

    #[test]
    fn refusals_name_the_field_and_the_value() {
        let refused =
            |l2: proto::L2Policy| policy(NetworkKind::Switched, Some(&l2)).unwrap_err().to_string();
        let few = proto::L2Policy { mac_table_size: 9, ..Default::default() };
        assert_eq!(refused(few), "l2.mac_table_size: \"9\": expected 10-1000000");
        let short = proto::L2Policy { mac_aging_seconds: 14, ..Default::default() };
        assert_eq!(refused(short), "l2.mac_aging_seconds: \"14\": expected 15-3600");
        let unknown = proto::L2Policy { guest_vlans: 7, ..Default::default() };
        assert!(refused(unknown).starts_with("l2.guest_vlans: \"7\": expected GUEST_VLANS_DROP"));
        let routed = policy(NetworkKind::Routed, Some(&proto::L2Policy::default()));
        assert!(routed.unwrap_err().to_string().contains("NETWORK_KIND_SWITCHED"));
        assert!(kind(9).is_err());
    }
}
