//! The paths of EC2's instance metadata service, as cloud-init, Ignition and cloud SDKs ask for
//! them.
//!
//! A list has one name a line, and no line end after the last one; what ends in `/` is a list
//! itself.

use super::{Body, Card, key_name};
use serde_json::json;
use std::collections::BTreeSet;

const VERSIONS: [&str; 4] = ["2009-04-04", "2016-09-02", "2021-03-23", "latest"];
/// Hexadecimal digits of an instance's id, behind `i-`.
const ID_DIGITS: usize = 17;

/// Returns what is at a path.
pub(super) fn find(card: &Card, path: &str) -> Option<Body> {
    let (version, rest) = path.split_once('/').unwrap_or((path, ""));
    if path.is_empty() {
        return Some(Body::text(VERSIONS.join("\n")));
    }
    // cloud-init tries those of several years.
    if !is_version(version) {
        return None;
    }
    let (kind, rest) = rest.split_once('/').unwrap_or((rest, ""));
    match (kind, rest) {
        ("", _) => {
            let user_data = card.user_data().map(|_| "\nuser-data").unwrap_or_default();
            Some(Body::text(format!("dynamic/\nmeta-data/{user_data}")))
        }
        ("meta-data", _) => in_tree(&meta_data(card), rest).map(Body::text),
        ("user-data", "") => card.user_data().map(Body::octets),
        ("dynamic", "instance-identity/document") => Some(Body::json(&identity(card))),
        ("dynamic", "") => Some(Body::text("instance-identity/")),
        ("dynamic", "instance-identity" | "instance-identity/") => Some(Body::text("document")),
        _ => None,
    }
}

/// Whether it is a version: one of ours, or another date, which is answered as any.
fn is_version(text: &str) -> bool {
    let is_date = || {
        let octets = text.as_bytes();
        octets.len() == 10
            && octets.iter().enumerate().all(|(at, octet)| match at {
                4 | 7 => *octet == b'-',
                _ => octet.is_ascii_digit(),
            })
    };
    text == "latest" || is_date()
}

fn instance_id(card: &Card) -> String {
    let id = card.nic.id.simple().to_string();
    format!("i-{}", &id[..ID_DIGITS])
}

/// Returns all that there is, as paths and what is there.
fn meta_data(card: &Card) -> Vec<(String, String)> {
    let nic = &card.nic;
    let mut tree = Vec::new();
    let mut add = |path: &str, text: String| tree.push((path.to_owned(), text));
    add("ami-id", card.extra("ami-id").unwrap_or("ami-00000000000000000").into());
    add("hostname", card.full_hostname());
    add("instance-id", instance_id(card));
    add("instance-type", card.extra("instance-type").unwrap_or("mvirt").into());
    add("local-hostname", card.full_hostname());
    add("mac", nic.mac.to_string());
    add("placement/availability-zone", card.zone().into());
    add("security-groups", "default".into());
    let interface = format!("network/interfaces/macs/{}", nic.mac);
    let mut of = |name: &str, text: Option<String>| {
        text.into_iter().for_each(|text| add(&format!("{interface}/{name}"), text));
    };
    of("device-number", Some("0".into()));
    of("interface-id", Some(format!("eni-{}", &nic.id.simple().to_string()[..ID_DIGITS])));
    of("local-hostname", Some(card.full_hostname()));
    of("mac", Some(nic.mac.to_string()));
    of("local-ipv4s", nic.ipv4.map(|address| address.to_string()));
    of("subnet-ipv4-cidr-block", card.network.ipv4_subnet.map(|subnet| subnet.to_string()));
    of("ipv6s", nic.ipv6.map(|address| address.to_string()));
    of("subnet-ipv6-cidr-blocks", card.network.ipv6_prefix.map(|prefix| prefix.to_string()));
    nic.ipv4.into_iter().for_each(|address| add("local-ipv4", address.to_string()));
    nic.ipv6.into_iter().for_each(|address| add("ipv6", address.to_string()));
    card.public_ipv4.into_iter().for_each(|address| add("public-ipv4", address.to_string()));
    for (number, key) in card.public_keys().iter().enumerate() {
        add(&format!("public-keys/{number}={}", key_name(key, number)), String::new());
        add(&format!("public-keys/{number}/openssh-key"), key.clone());
    }
    tree
}

/// Returns what is at a path: a text, or the list of names below it.
fn in_tree(tree: &[(String, String)], path: &str) -> Option<String> {
    let path = path.trim_end_matches('/');
    // What only names another one, as keys are named, is at no path of its own.
    if let Some((_, text)) = tree.iter().find(|(at, text)| at == path && !text.is_empty()) {
        return Some(text.clone());
    }
    let below = if path.is_empty() { String::new() } else { format!("{path}/") };
    let names = tree.iter().filter_map(|(at, _)| at.strip_prefix(&*below));
    let names: BTreeSet<_> = names
        .map(|rest| match rest.split_once('/') {
            Some((name, _)) => format!("{name}/"),
            None => rest.into(),
        })
        .collect();
    // A key is listed by its name, and is a list by its number.
    let is_named =
        |name: &String| path == "public-keys" && name.ends_with('/') && !name.contains('=');
    let names: Vec<_> = names.into_iter().filter(|name| !is_named(name)).collect();
    (!names.is_empty()).then(|| names.join("\n"))
}

fn identity(card: &Card) -> serde_json::Value {
    json!({
        "accountId": "000000000000",
        "architecture": card.extra("architecture").unwrap_or(std::env::consts::ARCH),
        "availabilityZone": card.zone(),
        "imageId": card.extra("ami-id").unwrap_or("ami-00000000000000000"),
        "instanceId": instance_id(card),
        "instanceType": card.extra("instance-type").unwrap_or("mvirt"),
        "pendingTime": card.nic.created_at.to_string(),
        "privateIp": card.nic.ipv4,
        "region": card.zone(),
        "version": "2017-09-30",
    })
}
