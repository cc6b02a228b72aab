//! The files of cloud-init's NoCloud, by HTTP. Both meta-data and user-data must be there, or
//! nothing is taken.

use super::{Body, Card, YAML};
use crate::{dataplane::forward::tables, model::NetworkKind};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};

/// Returns what is at a path.
pub(super) fn find(card: &Card, path: &str) -> Option<Body> {
    match path {
        "meta-data" => yaml(&meta_data(card)),
        "user-data" => Some(Body::octets(card.user_data().unwrap_or_default())),
        "vendor-data" => Some(Body::octets(card.vendor_data().unwrap_or_default())),
        "network-config" => yaml(&network_config(card)),
        _ => None,
    }
}

fn yaml(value: &Value) -> Option<Body> {
    // It is made of strings, numbers, lists and maps with strings as keys.
    let text = serde_yaml_ng::to_string(value).ok()?;
    Some(Body { kind: YAML, octets: text.into_bytes() })
}

fn meta_data(card: &Card) -> Value {
    let mut data = json!({
        "instance-id": card.nic.id,
        "local-hostname": card.full_hostname(),
    });
    if !card.public_keys().is_empty() {
        data["public-keys"] = json!(card.public_keys());
    }
    if card.extra("availability-zone").is_some() {
        data["availability-zone"] = json!(card.zone());
    }
    data
}

/// Returns the version 2 of cloud-init's configuration: by DHCP, or all that DHCP would tell, for
/// guests that do not take a /32 by it.
fn network_config(card: &Card) -> Value {
    let (nic, network) = (&card.nic, &card.network);
    let (has_ipv4, has_ipv6) = (nic.ipv4.is_some(), nic.ipv6.is_some());
    let mut interface = json!({ "match": { "macaddress": nic.mac } });
    if card.extra("network-config") != Some("static") {
        interface["dhcp4"] = json!(has_ipv4);
        interface["dhcp6"] = json!(has_ipv6);
        return json!({ "version": 2, "ethernets": { "net0": interface } });
    }
    let is_segment = network.kind == NetworkKind::Switched;
    let on_link = |host: u8, subnet: Option<u8>| subnet.filter(|_| is_segment).unwrap_or(host);
    let ipv4_len = on_link(32, network.ipv4_subnet.map(|subnet| subnet.prefix_len()));
    let ipv6_len = on_link(128, network.ipv6_prefix.map(|prefix| prefix.prefix_len()));
    let ipv4 = nic.ipv4.map(|address| format!("{address}/{ipv4_len}"));
    let ipv6 = nic.ipv6.map(|address| format!("{address}/{ipv6_len}"));
    let gateway: Ipv4Addr = network.gateway_in_subnet().unwrap_or(tables::GATEWAY_IPV4);
    let route = |to: &str, via: IpAddr| json!({ "to": to, "via": via, "on-link": true });
    let mut routes = Vec::new();
    ipv4.iter().for_each(|_| routes.push(route("0.0.0.0/0", gateway.into())));
    ipv6.iter().for_each(|_| routes.push(route("::/0", tables::GATEWAY_IPV6.into())));
    interface["addresses"] = json!(ipv4.into_iter().chain(ipv6).collect::<Vec<_>>());
    interface["routes"] = json!(routes);
    interface["mtu"] = json!(nic.mtu_in(network));
    let servers = card.dns_servers();
    let search: Vec<_> = card.domain().iter().map(ToString::to_string).collect();
    interface["nameservers"] = json!({ "addresses": servers, "search": search });
    json!({ "version": 2, "ethernets": { "net0": interface } })
}
