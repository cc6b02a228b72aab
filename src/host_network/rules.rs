//! Our table of nftables, as text for nft(8), and what other tables have that is in its way.

use super::nat::{self, Nat};
use ipnet::IpNet;
use serde_json::Value;
use std::{collections::BTreeSet, fmt::Write as _};

/// The table that is ours, and nobody else's, with its family and without.
const TABLE: &str = "inet mvirt";
pub(super) const NAME: &str = "mvirt";

/// Whether addresses of a prefix mean something beyond the host, so that others find the way back
/// by routing.
fn is_global(prefix: IpNet) -> bool {
    match prefix {
        // Of IPv4, whoever has addresses of its own to route to guests is rare, and who has chosen
        // some at random is not.
        IpNet::V4(_) => false,
        // Global unicast (RFC 3587); what else there is, is for one site (RFC 4193).
        IpNet::V6(prefix) => prefix.network().segments()[0] >> 13 == 1,
    }
}

/// Returns the lines that replace the table in one transaction: these prefixes are reached by
/// `device`, whose name must be an interface's, and what of the world is theirs is `nat`.
pub(super) fn table(device: &str, prefixes: &BTreeSet<IpNet>, nat: &Nat) -> String {
    let set = |wanted: fn(&IpNet) -> bool| {
        let texts: Vec<_> =
            prefixes.iter().filter(|net| wanted(net)).map(IpNet::to_string).collect();
        if texts.is_empty() {
            String::new()
        } else {
            format!("elements = {{ {} }};", texts.join(", "))
        }
    };
    let nat4 = set(|net| matches!(net, IpNet::V4(_)) && !is_global(*net));
    let nat6 = set(|net| matches!(net, IpNet::V6(_)) && !is_global(*net));
    let routed6 = set(|net| matches!(net, IpNet::V6(_)) && is_global(*net));
    let nat::Lines { table, sources, forward } = nat::lines(device, nat);
    let mut text = removal();
    // Between two networks nothing is forwarded: each is isolated, whatever their addresses.
    // To write to a string cannot fail.
    write!(
        text,
        "table {TABLE} {{
\tset nat4 {{ type ipv4_addr; flags interval; auto-merge; {nat4} }}
\tset nat6 {{ type ipv6_addr; flags interval; auto-merge; {nat6} }}
\tset routed6 {{ type ipv6_addr; flags interval; auto-merge; {routed6} }}
{table}\tchain post {{
\t\ttype nat hook postrouting priority srcnat; policy accept;
{sources}\t\tiifname \"{device}\" oifname != \"{device}\" ip saddr @nat4 masquerade
\t\tiifname \"{device}\" oifname != \"{device}\" ip6 saddr @nat6 masquerade
\t}}
\tchain forward {{
\t\ttype filter hook forward priority filter; policy accept;
{forward}\t\tiifname \"{device}\" oifname \"{device}\" reject with icmpx admin-prohibited
\t\tiifname \"{device}\" accept
\t\toifname \"{device}\" ct state established,related accept
\t\toifname \"{device}\" ip6 daddr @routed6 accept
\t\toifname \"{device}\" drop
\t}}
}}
"
    )
    .ok();
    text
}

/// Returns the lines that remove the table, whether or not it is there.
fn removal() -> String {
    // To delete what is not there is an error, and to add what is there is none.
    format!("add table {TABLE}\ndelete table {TABLE}\n")
}

/// Returns the chains of others that drop what they do not accept on the way through the host, as
/// `nft -j list chains` has said them. An accept of ours does not undo their drop.
pub(super) fn foreign_drops(chains: &str) -> Vec<String> {
    let Ok(list) = serde_json::from_str::<Value>(chains) else { return Vec::new() };
    let objects = list["nftables"].as_array().into_iter().flatten();
    let chains = objects.filter_map(|object| object.get("chain"));
    let drops = chains.filter(|chain| chain["hook"] == "forward" && chain["policy"] == "drop");
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    drops
        .map(|chain| ["family", "table", "name"].map(|part| word(&chain[part])).join(" "))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_for_one_site_is_masqueraded() {
        let prefixes = ["10.1.0.0/24", "203.0.113.0/24", "fd00:1::/64", "2001:db8::/64"];
        let prefixes = prefixes.map(|prefix| prefix.parse().unwrap()).into();
        let text = table("mvirt0", &prefixes, &Nat::default());
        assert!(
            text.starts_with("add table inet mvirt\ndelete table inet mvirt\ntable inet mvirt {")
        );
        for line in [
            "set nat4 { type ipv4_addr; flags interval; auto-merge; \
             elements = { 10.1.0.0/24, 203.0.113.0/24 }; }",
            "set nat6 { type ipv6_addr; flags interval; auto-merge; elements = { fd00:1::/64 }; }",
            "set routed6 { type ipv6_addr; flags interval; auto-merge; \
             elements = { 2001:db8::/64 }; }",
            "iifname \"mvirt0\" oifname != \"mvirt0\" ip saddr @nat4 masquerade",
            "oifname \"mvirt0\" drop",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn chains_of_others_that_drop_are_found() {
        let chains = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward",
                       "type": "filter", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "hook": "input",
                       "type": "filter", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "inet", "table": "mvirt", "name": "forward", "hook": "forward",
                       "type": "filter", "prio": 0, "policy": "accept"}},
            {"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER"}}]}"#;
        assert_eq!(foreign_drops(chains), ["ip filter FORWARD"]);
        assert!(foreign_drops("no JSON").is_empty());
    }
}
