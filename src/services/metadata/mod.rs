//! What a guest is told of its vNIC: the paths of three families of clouds, and what is there.
//!
//! | path | family |
//! |---|---|
//! | `/VERSION/meta-data/…`, `/VERSION/user-data`, `/VERSION/dynamic/…` | EC2 (`ec2`) |
//! | `/nocloud/…` | cloud-init's NoCloud (`nocloud`) |
//! | `/openstack/…` | OpenStack (`openstack`) |
//!
//! A function of a vNIC and of a path. What is told is of that vNIC and of its network.

mod ec2;
mod nocloud;
mod openstack;
#[cfg(test)]
mod tests;

use super::Card;
use crate::{
    config,
    dataplane::forward::tables::{GATEWAY_IPV4, GATEWAY_IPV6},
    model::DnsMode,
    wire::dns,
};
use std::net::IpAddr;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// Its media type.
    pub kind: &'static str,
    /// Itself.
    pub octets: Vec<u8>,
}

const TEXT: &str = "text/plain";
const JSON: &str = "application/json";
const YAML: &str = "text/yaml";
/// What is in it is its owner's choice.
const OCTETS: &str = "application/octet-stream";

impl Body {
    fn text(text: impl Into<String>) -> Self {
        Self { kind: TEXT, octets: text.into().into_bytes() }
    }

    fn json(value: &serde_json::Value) -> Self {
        Self { kind: JSON, octets: value.to_string().into_bytes() }
    }

    fn octets(octets: &[u8]) -> Self {
        Self { kind: OCTETS, octets: octets.to_vec() }
    }
}

/// Returns what is at a path, for the guest of a vNIC.
pub fn find(card: &Card, path: &str) -> Option<Body> {
    let path = path.strip_prefix('/')?;
    match path.split_once('/').unwrap_or((path, "")) {
        ("nocloud", rest) => nocloud::find(card, rest),
        ("openstack", rest) => openstack::find(card, rest),
        _ => ec2::find(card, path),
    }
}

impl Card {
    /// Returns the guest's name as a label, which a vNIC's name need not be.
    fn hostname(&self) -> String {
        let name = self.nic.name.as_str();
        if dns::is_label(name) {
            return name.into();
        }
        let (first, ..) = self.nic.id.as_fields();
        format!("nic-{first:08x}")
    }

    /// Returns it with the network's domain, where that has one.
    fn full_hostname(&self) -> String {
        match self.domain() {
            Some(domain) => format!("{}.{domain}", self.hostname()),
            None => self.hostname(),
        }
    }

    fn domain(&self) -> Option<dns::Name> {
        let default = || (self.network.dns_mode == DnsMode::Names).then(config::default_domain);
        self.network.domain.or_else(default)
    }

    /// Returns the DNS servers that the guest is told by DHCP.
    fn dns_servers(&self) -> Vec<IpAddr> {
        let own = |address: &IpAddr| match address {
            IpAddr::V4(_) => self.nic.ipv4.is_some(),
            IpAddr::V6(_) => self.nic.ipv6.is_some(),
        };
        match self.network.dns_mode {
            DnsMode::Tell => self.network.dns_servers.clone(),
            DnsMode::Names => {
                let gateway = self.network.gateway_in_subnet().unwrap_or(GATEWAY_IPV4);
                let both = [gateway.into(), GATEWAY_IPV6.into()];
                both.into_iter().filter(own).collect()
            }
        }
    }

    /// Returns what its owner says of it, by key.
    fn extra(&self, key: &str) -> Option<&str> {
        Some(self.nic.metadata.as_ref()?.extra.get(key)?)
    }

    fn zone(&self) -> &str {
        self.extra("availability-zone").unwrap_or("local")
    }

    fn public_keys(&self) -> &[String] {
        self.nic.metadata.as_ref().map_or(&[], |data| &data.public_keys)
    }

    fn user_data(&self) -> Option<&[u8]> {
        let data = self.nic.metadata.as_ref()?;
        (!data.user_data.is_empty()).then(|| data.user_data.octets())
    }

    fn vendor_data(&self) -> Option<&[u8]> {
        let data = self.nic.metadata.as_ref()?;
        (!data.vendor_data.is_empty()).then(|| data.vendor_data.octets())
    }
}

/// Returns how a key is called: by the comment at its end, or by its number.
fn key_name(key: &str, number: usize) -> String {
    let comment = key.split_whitespace().nth(2).unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "@._-".contains(c);
    if !comment.is_empty() && comment.chars().all(is_plain) {
        comment.into()
    } else {
        format!("key-{number}")
    }
}
