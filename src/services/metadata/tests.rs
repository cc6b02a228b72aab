//! What each family finds, octet for octet.

use super::*;
use crate::model::{GuestData, Labels, Network, Nic};
use serde_json::{Value, json};

/// vm1 in the network prod; `data` is what its owner says.
fn card(data: Option<GuestData>) -> Card {
    let network: Network = serde_json::from_value(json!({
        "id": "11111111-1111-4111-8111-111111111111",
        "name": "prod",
        "ipv4_subnet": "10.0.0.0/24",
        "ipv6_prefix": "fd00::/64",
        "dns_servers": ["1.1.1.1"],
        "ntp_servers": [],
        "mtu": 1400,
        "domain": "corp.example",
        "metadata": true,
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
    }))
    .unwrap();
    let nic: Nic = serde_json::from_value(json!({
        "id": "22222222-2222-4222-8222-222222222222",
        "name": "vm1",
        "network_id": network.id,
        "mac": "52:54:00:c5:7a:12",
        "ipv4": "10.0.0.1",
        "ipv6": "fd00::1",
        "routed_ipv4": [],
        "routed_ipv6": [],
        "addressing": "host",
        "queue_pairs": 1,
        "features": 0,
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
    }))
    .unwrap();
    Card { network, nic: Nic { metadata: data.map(Box::new), ..nic }, public_ipv4: None }
}

fn data() -> GuestData {
    let extra = [("availability-zone", "rack-1"), ("role", "db: \"main\"\n#")];
    GuestData {
        user_data: b"#!/bin/sh\necho hello\n".to_vec().into(),
        vendor_data: b"#cloud-config\n{}\n".to_vec().into(),
        public_keys: vec!["ssh-ed25519 AAAA me@host".into(), "ssh-rsa BBBB".into()],
        extra: Labels::from(extra.map(|(key, value)| (key.to_owned(), value.to_owned()))),
        ..GuestData::default()
    }
}

fn text(card: &Card, path: &str) -> Option<String> {
    find(card, path).map(|body| String::from_utf8(body.octets).unwrap())
}

fn json_at(card: &Card, path: &str) -> Value {
    let body = find(card, path).unwrap();
    assert_eq!(body.kind, JSON);
    serde_json::from_slice(&body.octets).unwrap()
}

#[test]
fn the_tree_of_ec2_is_listed_and_read() {
    let card = card(Some(data()));
    let at = |path: &str| text(&card, path).unwrap_or_else(|| panic!("{path}"));
    assert_eq!(at("/"), "2009-04-04\n2016-09-02\n2021-03-23\nlatest");
    for version in ["latest", "2009-04-04", "2018-09-24"] {
        assert_eq!(at(&format!("/{version}/")), "dynamic/\nmeta-data/\nuser-data");
    }
    assert_eq!(
        at("/latest/meta-data/"),
        "ami-id\nhostname\ninstance-id\ninstance-type\nipv6\nlocal-hostname\nlocal-ipv4\nmac\n\
         network/\nplacement/\npublic-keys/\nsecurity-groups"
    );
    assert_eq!(at("/latest/meta-data"), at("/2021-03-23/meta-data/"));
    assert_eq!(at("/latest/meta-data/instance-id"), "i-22222222222242228");
    assert_eq!(at("/latest/meta-data/local-hostname"), "vm1.corp.example");
    assert_eq!(at("/latest/meta-data/local-ipv4"), "10.0.0.1");
    assert_eq!(find(&card, "/latest/meta-data/public-ipv4"), None);
    let floating = Card { public_ipv4: Some([203, 0, 113, 7].into()), ..card.clone() };
    let found = text(&floating, "/latest/meta-data/public-ipv4");
    assert_eq!(found.as_deref(), Some("203.0.113.7"));
    assert_eq!(at("/latest/meta-data/placement/availability-zone"), "rack-1");
    assert_eq!(at("/latest/meta-data/public-keys/"), "0=me@host\n1=key-1");
    assert_eq!(at("/latest/meta-data/public-keys/0/"), "openssh-key");
    assert_eq!(at("/latest/meta-data/public-keys/0/openssh-key"), "ssh-ed25519 AAAA me@host");
    let macs = "/latest/meta-data/network/interfaces/macs/";
    assert_eq!(at(macs), "52:54:00:c5:7a:12/");
    let interface = format!("{macs}52:54:00:c5:7a:12/");
    assert_eq!(
        at(&interface),
        "device-number\ninterface-id\nipv6s\nlocal-hostname\nlocal-ipv4s\nmac\n\
         subnet-ipv4-cidr-block\nsubnet-ipv6-cidr-blocks"
    );
    assert_eq!(at(&format!("{interface}subnet-ipv4-cidr-block")), "10.0.0.0/24");
    assert_eq!(at("/latest/user-data"), "#!/bin/sh\necho hello\n");
    let identity = json_at(&card, "/latest/dynamic/instance-identity/document");
    assert_eq!(
        (&identity["privateIp"], &identity["region"]),
        (&json!("10.0.0.1"), &json!("rack-1"))
    );
    for path in [
        "",
        "latest",
        "/latest/meta-data/nothing",
        "/latest/meta-data/public-keys/2/openssh-key",
        "/latest/meta-data/public-keys/0=me@host",
        "/latest/meta-data/macs",
        "/2009-4-04/meta-data/",
        "/latest/user-data/x",
        "/../latest/",
        "//latest",
    ] {
        assert_eq!(find(&card, path), None, "{path}");
    }
}

#[test]
fn who_has_nothing_is_told_of_its_vnic() {
    let card = card(None);
    assert_eq!(find(&card, "/latest/user-data"), None);
    assert_eq!(text(&card, "/latest").unwrap(), "dynamic/\nmeta-data/");
    assert_eq!(find(&card, "/latest/meta-data/public-keys/"), None);
    assert_eq!(text(&card, "/nocloud/user-data").unwrap(), "");
    assert_eq!(text(&card, "/nocloud/vendor-data").unwrap(), "");
    assert_eq!(find(&card, "/openstack/latest/user_data"), None);
    let listed = "meta_data.json\nnetwork_data.json\nvendor_data.json\nvendor_data2.json";
    assert_eq!(text(&card, "/openstack/latest/").unwrap(), listed);
    assert_eq!(json_at(&card, "/openstack/latest/vendor_data.json"), json!({}));
    let named = Card { nic: Nic { name: "not_a.label".parse().unwrap(), ..card.nic }, ..card };
    assert_eq!(
        text(&named, "/latest/meta-data/hostname").unwrap(),
        "nic-22222222.corp.example",
        "a host's name is a label"
    );
}

#[test]
fn nocloud_reads_yaml() {
    let card = card(Some(data()));
    let at = |card: &Card, path: &str| -> Value {
        let body = find(card, path).unwrap();
        assert_eq!(body.kind, YAML);
        serde_yaml_ng::from_slice(&body.octets).unwrap()
    };
    assert_eq!(
        at(&card, "/nocloud/meta-data"),
        json!({
            "instance-id": "22222222-2222-4222-8222-222222222222",
            "local-hostname": "vm1.corp.example",
            "public-keys": ["ssh-ed25519 AAAA me@host", "ssh-rsa BBBB"],
            "availability-zone": "rack-1",
        })
    );
    let by_dhcp = json!({
        "match": { "macaddress": "52:54:00:c5:7a:12" }, "dhcp4": true, "dhcp6": true,
    });
    assert_eq!(
        at(&card, "/nocloud/network-config"),
        json!({ "version": 2, "ethernets": { "net0": by_dhcp } })
    );
    let mut owners = data();
    owners.extra.insert("network-config".into(), "static".into());
    let fixed = json!({
        "match": { "macaddress": "52:54:00:c5:7a:12" },
        "addresses": ["10.0.0.1/32", "fd00::1/128"],
        "routes": [
            { "to": "0.0.0.0/0", "via": "169.254.0.1", "on-link": true },
            { "to": "::/0", "via": "fe80::1", "on-link": true },
        ],
        "mtu": 1400,
        "nameservers": { "addresses": ["1.1.1.1"], "search": ["corp.example"] },
    });
    assert_eq!(
        at(&super::tests::card(Some(owners)), "/nocloud/network-config"),
        json!({ "version": 2, "ethernets": { "net0": fixed } })
    );
    assert_eq!(text(&card, "/nocloud/user-data").unwrap(), "#!/bin/sh\necho hello\n");
    assert_eq!(text(&card, "/nocloud/vendor-data").unwrap(), "#cloud-config\n{}\n");
    assert_eq!(find(&card, "/nocloud/"), None);
}

#[test]
fn openstack_reads_json() {
    let card = card(Some(data()));
    let versions = "2012-08-10\n2015-10-15\n2018-08-27\nlatest";
    assert_eq!(text(&card, "/openstack").unwrap(), versions);
    assert_eq!(text(&card, "/openstack/").unwrap(), versions);
    assert_eq!(
        json_at(&card, "/openstack/latest/meta_data.json"),
        json!({
            "uuid": "22222222-2222-4222-8222-222222222222",
            "name": "vm1",
            "hostname": "vm1.corp.example",
            "availability_zone": "rack-1",
            "public_keys": { "me@host": "ssh-ed25519 AAAA me@host", "key-1": "ssh-rsa BBBB" },
            "meta": { "availability-zone": "rack-1", "role": "db: \"main\"\n#" },
        })
    );
    let of = "11111111-1111-4111-8111-111111111111";
    let network =
        |id: &str, kind: &str| json!({ "id": id, "type": kind, "link": "net0", "network_id": of });
    assert_eq!(
        json_at(&card, "/openstack/2018-08-27/network_data.json"),
        json!({
            "links": [{
                "id": "net0", "type": "phy", "ethernet_mac_address": "52:54:00:c5:7a:12",
                "mtu": 1400,
            }],
            "networks": [network("ipv4", "ipv4_dhcp"), network("ipv6", "ipv6_dhcpv6-stateful")],
            "services": [{ "type": "dns", "address": "1.1.1.1" }],
        })
    );
    let vendor = json_at(&card, "/openstack/latest/vendor_data.json");
    assert_eq!(vendor, json!({ "cloud-init": "#cloud-config\n{}\n" }));
    assert_eq!(text(&card, "/openstack/latest/user_data").unwrap(), "#!/bin/sh\necho hello\n");
    assert_eq!(find(&card, "/openstack/2030-01-01/meta_data.json"), None);
    assert_eq!(find(&card, "/openstack/latest/password"), None);
}
