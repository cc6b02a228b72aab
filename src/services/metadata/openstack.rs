//! The files of OpenStack's metadata service. Each version has the same.

use super::{Body, Card, JSON, key_name};
use serde_json::{Map, Value, json};

/// Those that cloud-init looks for, and what stands for the latest.
const VERSIONS: [&str; 4] = ["2012-08-10", "2015-10-15", "2018-08-27", "latest"];
/// Of each version.
const FILES: [&str; 5] =
    ["meta_data.json", "network_data.json", "user_data", "vendor_data.json", "vendor_data2.json"];

/// Returns what is at a path.
pub(super) fn find(card: &Card, path: &str) -> Option<Body> {
    let (version, file) = path.split_once('/').unwrap_or((path, ""));
    if version.is_empty() {
        return Some(Body::text(VERSIONS.join("\n")));
    }
    if !VERSIONS.contains(&version) {
        return None;
    }
    match file {
        "" => {
            let is_there = |file: &&str| *file != "user_data" || card.user_data().is_some();
            let files: Vec<_> = FILES.into_iter().filter(is_there).collect();
            Some(Body::text(files.join("\n")))
        }
        "meta_data.json" => Some(Body::json(&meta_data(card))),
        "network_data.json" => Some(Body::json(&network_data(card))),
        "user_data" => card.user_data().map(Body::octets),
        "vendor_data.json" => Some(vendor_data(card)),
        "vendor_data2.json" => Some(Body::json(&json!({}))),
        _ => None,
    }
}

fn meta_data(card: &Card) -> Value {
    let keys: Map<_, _> = card
        .public_keys()
        .iter()
        .enumerate()
        .map(|(number, key)| (key_name(key, number), Value::from(key.as_str())))
        .collect();
    let meta = card.nic.metadata.as_ref().map(|data| &data.extra);
    json!({
        "uuid": card.nic.id,
        "name": card.nic.name,
        "hostname": card.full_hostname(),
        "availability_zone": card.zone(),
        "public_keys": keys,
        "meta": meta.cloned().unwrap_or_default(),
    })
}

fn network_data(card: &Card) -> Value {
    let (nic, network) = (&card.nic, &card.network);
    let link = json!({
        "id": "net0",
        "type": "phy",
        "ethernet_mac_address": nic.mac,
        "mtu": nic.mtu_in(network),
    });
    let ipv4 = nic.ipv4.map(|_| ("ipv4", "ipv4_dhcp"));
    let ipv6 = nic
        .ipv6
        .map(|_| ("ipv6", if nic.slaac.is_some() { "ipv6_slaac" } else { "ipv6_dhcpv6-stateful" }));
    let networks = ipv4.into_iter().chain(ipv6).map(
        |(id, kind)| json!({ "id": id, "type": kind, "link": "net0", "network_id": network.id }),
    );
    let services = card.dns_servers().into_iter().map(|it| json!({ "type": "dns", "address": it }));
    json!({
        "links": [link],
        "networks": networks.collect::<Vec<_>>(),
        "services": services.collect::<Vec<_>>(),
    })
}

/// Returns the vendor's data, which is JSON here: what is none is for cloud-init.
fn vendor_data(card: &Card) -> Body {
    let octets = card.vendor_data().unwrap_or(b"{}");
    if serde_json::from_slice::<Map<String, Value>>(octets).is_ok() {
        return Body { kind: JSON, octets: octets.to_vec() };
    }
    Body::json(&json!({ "cloud-init": String::from_utf8_lossy(octets) }))
}
