//! What of the host is in the way of guests and is its administrator's: switches of the kernel, and
//! chains of other firewalls.

use super::{
    HostNetwork, Wanted,
    netlink::{Ethernet, Proxy},
    nfnetlink::Nfnetlink,
    nft::Nft,
    rules,
    sysctls::{self, Sysctl, Sysctls},
    tables,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

/// What an obstacle is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObstacleKind {
    /// A switch of the kernel, without which packets do not pass.
    Forwarding,
    /// A chain of others that drops what it does not accept.
    Firewall,
}

/// Something that is in the way of guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// What it is.
    pub kind: ObstacleKind,
    /// What is so, and what is lost by it.
    pub text: String,
    /// What to do.
    pub remedy: String,
}

/// What may be in the way.
#[derive(Debug, Default)]
pub(super) struct Obstacles {
    /// What switches are to be on for, with why they could not be set.
    switches: Vec<(Sysctl, String, Option<String>)>,
    /// Chains of others that drop, and the generation of nftables that they are of.
    chains: Option<(u32, Vec<String>)>,
    /// Those that the log has.
    told: BTreeSet<String>,
}

impl HostNetwork {
    /// Returns what is in the way of guests of public networks now.
    pub fn obstacles(&mut self) -> Vec<Obstacle> {
        // Of the switches, the last network's stay.
        if self.made.prefixes.is_empty() {
            return Vec::new();
        }
        let mut obstacles = Vec::new();
        for (sysctl, lost, refused) in &self.obstacles.switches {
            if sysctl.is_set(&self.root) {
                continue;
            }
            let or = match (self.sysctls, refused) {
                (Sysctls::Told, _) => ", or mvirt-net --egress-sysctl".into(),
                (Sysctls::Set, Some(why)) => format!(" (the daemon may not: {why})"),
                (Sysctls::Set, None) => String::new(),
            };
            obstacles.push(Obstacle {
                kind: ObstacleKind::Forwarding,
                text: format!("{} is not set: {lost}", sysctl.name()),
                remedy: format!("sysctl -w {sysctl}{or}"),
            });
        }
        let device = &self.device;
        let of_chain = |chain: String| {
            let [from, to] =
                ["iifname", "oifname"].map(|way| format!("nft insert rule {chain} {way} {device}"));
            Obstacle {
                kind: ObstacleKind::Firewall,
                text: format!(
                    "{chain} drops what it does not accept, and with it what guests send"
                ),
                remedy: format!("{from} accept; {to} ct state established,related accept"),
            }
        };
        obstacles.extend(self.obstacles.chains(device).into_iter().map(of_chain));
        obstacles
    }

    /// Sets the kernel's switches where that is wanted, and says once what is in the way.
    pub(super) fn see_to_obstacles(&mut self, answering: &BTreeMap<Proxy, Ethernet>) {
        let switches = switches(&self.made, answering);
        let set = |(sysctl, lost): (Sysctl, String)| {
            let mut refused = None;
            if !sysctl.is_set(&self.root) && self.sysctls == Sysctls::Set {
                match sysctl.set(&self.root) {
                    Ok(()) => tracing::info!(%sysctl, "set, for guests of public networks"),
                    Err(error) => refused = Some(error.to_string()),
                }
            }
            (sysctl, lost, refused)
        };
        self.obstacles.switches = switches.into_iter().map(set).collect();
        for Obstacle { text, remedy, .. } in self.obstacles() {
            if self.obstacles.told.insert(text.clone()) {
                tracing::warn!(remedy, "{text}");
            }
        }
    }
}

/// Returns which switches are to be on, each with what is lost without it.
fn switches(wanted: &Wanted, answering: &BTreeMap<Proxy, Ethernet>) -> Vec<(Sysctl, String)> {
    let has = |family: fn(&IpNet) -> bool| wanted.prefixes.iter().any(family);
    let ipv4 = has(|net| matches!(net, IpNet::V4(_))).then_some(sysctls::FORWARD_IPV4);
    let ipv6 = has(|net| matches!(net, IpNet::V6(_))).then_some(sysctls::FORWARD_IPV6);
    let lost = "guests reach this host alone";
    let forwarding = ipv4.into_iter().chain(ipv6).map(|sysctl| (sysctl, lost.to_owned()));
    let of_ipv6 = answering.iter().filter(|(proxy, _)| proxy.address.is_ipv6());
    let proxied = of_ipv6.map(|(proxy, ethernet)| {
        let lost = format!("neighbours do not find {}", proxy.address);
        (sysctls::proxy_ndp(&ethernet.name), lost)
    });
    forwarding.chain(proxied).collect()
}

impl Obstacles {
    /// Returns which chains of others drop what they do not accept, where nothing in their table is
    /// about `device`; none where that cannot be seen.
    fn chains(&mut self, device: &str) -> Vec<String> {
        let generation = Nfnetlink::open().and_then(|netfilter| tables::generation(&netfilter));
        let Ok(generation) = generation else { return Vec::new() };
        if let Some((of, chains)) = &self.chains
            && *of == generation
        {
            return chains.clone();
        }
        // nft is a process of its own: only after a change.
        let Ok(chains) = dropping(device) else { return Vec::new() };
        self.chains = Some((generation, chains.clone()));
        chains
    }
}

fn dropping(device: &str) -> io::Result<Vec<String>> {
    let nft = Nft::find()?;
    let device = format!("\"{device}\"");
    let mut dropping = rules::foreign_drops(&nft.chains()?);
    dropping.retain(|chain| {
        let table = chain.rsplit_once(' ').map_or(&**chain, |(table, _)| table);
        // Somebody has seen to it.
        !nft.table(table).is_ok_and(|rules| rules.contains(&device))
    });
    Ok(dropping)
}
