//! Load balancers as a table of nftables, as text for nft(8).
//!
//! ```text
//! pre, out ─ services4, services6: address . protocol . port ─▶ a chain for each service
//!            ─ hash of the flow ─▶ a map for each balancer: place : backend ─▶ dnat
//! ```
//! A table of its own: [`super::rules`] replaces its whole table with each change of a network, and
//! the places of many balancers take nft seconds. What is here is named by what it is, so that a
//! change, or a start of the daemon, makes what is new, deletes what is old, and leaves the rest.
//! Who has a flow already, the kernel knows by its connection tracking: these rules are for the
//! first packet of each.

use crate::{
    balancing::maglev::{self, Share},
    model::BalancedPort,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    net::IpAddr,
    sync::Arc,
};
use uuid::Uuid;

/// The table that is balancers', and nobody else's, with its family and without.
const TABLE: &str = "inet mvirt_lb";
pub(super) const NAME: &str = "mvirt_lb";
/// How many maps are made at once.
// nft and the kernel take some 12 ms for the 4093 places of one. So the longest change takes half a
// second on an idle host, of the two seconds that nft has.
const MADE_AT_ONCE: usize = 32;
/// What rules of a balancer look like.
// To be counted up when they change: what another version of this program has made is not taken
// for what this one makes.
const FORM: u8 = 1;
/// What begins the names of what is a balancer's.
const PREFIX: &str = "lb_";

/// What a balancer is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalancerSpec {
    /// Its id.
    pub id: Uuid,
    /// Where flows come to.
    pub address: IpAddr,
    /// Its services.
    pub services: Vec<BalancedPort>,
    /// Who may take flows, all by addresses of the same family.
    pub backends: Vec<Place>,
    /// What who comes while nobody takes flows is answered.
    pub when_empty: WhenEmpty,
}

/// A backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Where it is.
    pub address: IpAddr,
    /// What it takes.
    pub share: Share,
}

/// A balancer, as the kernel is to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balanced {
    spec: BalancerSpec,
    /// For each hash of a flow, which backend takes it. None: nobody does.
    places: Vec<u8>,
}

/// What who comes while nobody takes flows is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenEmpty {
    /// A TCP reset or an ICMP error.
    Refuse,
    /// Nothing.
    Ignore,
}

/// The names of what the kernel has of balancers: maps, each with its chains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct There(BTreeMap<String, BTreeSet<String>>);

/// A change, and what it leads to.
#[derive(Debug)]
pub(super) struct Change {
    /// For nft; empty: there is nothing to do.
    pub(super) text: String,
    /// What the kernel has afterwards.
    pub(super) there: There,
    /// How many balancers are left for the next change.
    pub(super) left: usize,
    /// Those of services that nobody had before.
    pub(super) new: Vec<Arc<Balanced>>,
}

impl There {
    /// Understands what `nft -j -t list table` has said of the table.
    pub(super) fn read(listed: &str) -> Self {
        let Ok(list) = serde_json::from_str::<Value>(listed) else { return Self::default() };
        let mut there = BTreeMap::<String, BTreeSet<String>>::new();
        for object in list["nftables"].as_array().into_iter().flatten() {
            let name =
                |kind: &str| object[kind]["name"].as_str().filter(|it| it.starts_with(PREFIX));
            if let Some(map) = name("map") {
                there.entry(map.into()).or_default();
            }
            if let Some(chain) = name("chain") {
                // NAME_0 is the first chain of NAME.
                let map = chain.rsplit_once('_').map_or(chain, |(map, _)| map);
                there.entry(map.into()).or_default().insert(chain.into());
            }
        }
        Self(there)
    }

    /// Returns the map that a balancer had of the same services, and so with the same chains.
    fn of_same_services(&self, balancer: &Balanced) -> Option<&String> {
        let prefix = balancer.prefix();
        let (map, _) = self.0.range(prefix.clone()..).next()?;
        map.starts_with(&prefix).then_some(map)
    }
}

/// Returns the words of nft that read the table.
pub(super) const LIST: [&str; 6] = ["-j", "-t", "list", "table", "inet", NAME];

/// Returns the lines that remove the table, whether or not it is there.
fn removal() -> String {
    format!("add table {TABLE}\ndelete table {TABLE}\n")
}

/// Returns what leads from what is `there` to what is wanted, or a first part of that. Nothing is
/// known of the kernel's table where nothing is `there`.
pub(super) fn change(wanted: &BTreeMap<Uuid, Arc<Balanced>>, there: Option<&There>) -> Change {
    let nothing = There::default();
    let before = there.unwrap_or(&nothing);
    let mut after = There::default();
    let (mut made, mut left) = (String::new(), 0);
    let mut elements = [String::new(), String::new()];
    let (mut made_now, mut new) = (0, Vec::new());
    // First those that nothing stands in for until their turn comes.
    let mut balancers: Vec<_> = wanted.values().collect();
    balancers.sort_by_key(|balancer| before.of_same_services(balancer).is_some());
    for balancer in balancers {
        let mut name = balancer.name();
        let is_there = before.0.contains_key(&name);
        if !balancer.places.is_empty() && !is_there {
            if made_now == MADE_AT_ONCE {
                left += 1;
                // Until then, flows go where they went.
                let Some(old) = before.of_same_services(balancer) else { continue };
                name = old.clone();
            } else {
                made_now += 1;
                balancer.make(&name, &mut made);
                if before.of_same_services(balancer).is_none() {
                    new.push(Arc::clone(balancer));
                }
            }
        }
        if !balancer.places.is_empty() {
            after.0.insert(
                name.clone(),
                (0..balancer.spec.services.len()).map(|at| chain(&name, at)).collect(),
            );
        }
        balancer.list(&name, &mut elements[usize::from(balancer.spec.address.is_ipv6())]);
    }
    let mut text = String::new();
    if wanted.is_empty() {
        let text = if before.0.is_empty() && there.is_some() { String::new() } else { removal() };
        return Change { text, there: after, left, new };
    }
    if there.is_none() {
        text += &removal();
    }
    text += &frame();
    for (map, chains) in before.0.iter().filter(|(map, _)| !after.0.contains_key(*map)) {
        for chain in chains {
            say(&mut text, format_args!("flush chain {TABLE} {chain}"));
        }
        for chain in chains {
            say(&mut text, format_args!("delete chain {TABLE} {chain}"));
        }
        say(&mut text, format_args!("delete map {TABLE} {map}"));
    }
    text += &made;
    for (elements, map) in elements.iter().zip(["services4", "services6"]) {
        if !elements.is_empty() {
            say(&mut text, format_args!("add element {TABLE} {map} {{ {elements} }}"));
        }
    }
    Change { text, there: after, left, new }
}

/// Returns what all balancers have in common, and no services.
fn frame() -> String {
    // By the name of the protocol's number, which is a key's.
    let map = |name: &str, family: &str| {
        format!(
            "add map {TABLE} {name} {{ typeof {family} daddr . meta l4proto . th dport : verdict; }}
flush map {TABLE} {name}
"
        )
    };
    let chains = format!(
        "table {TABLE} {{
\tchain refuse {{ }}
\tchain ignore {{ }}
\tchain serve {{ }}
\tchain pre {{ type nat hook prerouting priority dstnat; policy accept; }}
\tchain out {{ type nat hook output priority -100; policy accept; }}
}}
"
    );
    let filled = [
        ("refuse", "meta l4proto tcp reject with tcp reset".to_owned()),
        ("refuse", "reject with icmpx port-unreachable".to_owned()),
        ("ignore", "drop".to_owned()),
        ("serve", "ip daddr . meta l4proto . th dport vmap @services4".to_owned()),
        ("serve", "ip6 daddr . meta l4proto . th dport vmap @services6".to_owned()),
        ("pre", "meta l4proto { tcp, udp } jump serve".to_owned()),
        ("out", "meta l4proto { tcp, udp } jump serve".to_owned()),
    ];
    let mut text = chains;
    for chain in ["refuse", "ignore", "serve", "pre", "out"] {
        say(&mut text, format_args!("flush chain {TABLE} {chain}"));
    }
    text += &map("services4", "ip");
    text += &map("services6", "ip6");
    for (chain, rule) in filled {
        say(&mut text, format_args!("add rule {TABLE} {chain} {rule}"));
    }
    text
}

fn say(text: &mut String, line: fmt::Arguments<'_>) {
    // To write to a string cannot fail.
    writeln!(text, "{line}").ok();
}

/// Returns the name of the chain of a service.
fn chain(map: &str, at: usize) -> String {
    format!("{map}_{at}")
}

impl Balanced {
    /// Returns what the kernel is to know of a balancer.
    pub fn new(spec: BalancerSpec) -> Self {
        let shares: Vec<_> = spec.backends.iter().map(|place| place.share).collect();
        let places = maglev::table(spec.id, &shares);
        Self { spec, places }
    }

    /// Returns what it is to be.
    pub fn spec(&self) -> &BalancerSpec {
        &self.spec
    }

    fn family(&self) -> &'static str {
        if self.spec.address.is_ipv4() { "ip" } else { "ip6" }
    }

    /// Returns the name of its map, which is that of no other and of none that it had otherwise.
    fn name(&self) -> String {
        let places = self.spec.backends.iter().map(|place| place.address).collect::<Vec<_>>();
        let mut whole = format!("{places:?}").into_bytes();
        whole.extend_from_slice(&self.places);
        format!("{}{:016x}", self.prefix(), self.print(&whole))
    }

    /// Returns what begins the names of its maps for as long as its services are the same.
    fn prefix(&self) -> String {
        let services = format!("{FORM} {} {:?}", self.spec.address, self.spec.services);
        let print = self.print(services.as_bytes());
        format!("{PREFIX}{}_{print:016x}_", self.spec.id.simple())
    }

    /// Returns a number that stands for something of it.
    fn print(&self, of: &[u8]) -> u64 {
        // As long as chance does not find another with it.
        Uuid::new_v5(&self.spec.id, of).as_u64_pair().0
    }

    /// Makes its map and chains.
    fn make(&self, name: &str, text: &mut String) {
        let family = self.family();
        say(
            text,
            format_args!(
                "add map {TABLE} {name} {{ typeof numgen inc mod 1 : {family} daddr; size {}; }}",
                self.places.len()
            ),
        );
        let mut elements = String::new();
        for (place, backend) in self.places.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            // Backends are as many as places name.
            let address = self.spec.backends[usize::from(*backend)].address;
            write!(elements, "{comma}{place} : {address}").ok();
        }
        say(text, format_args!("add element {TABLE} {name} {{ {elements} }}"));
        // The same on every host, so that a flow that comes by another finds the same place.
        let (_, seed) = self.spec.id.as_u64_pair();
        let (seed, places) = (seed as u32, self.places.len());
        for (at, service) in self.spec.services.iter().enumerate() {
            let (chain, target) = (chain(name, at), service.target_port);
            let protocol = service.protocol.name();
            say(text, format_args!("add chain {TABLE} {chain}"));
            say(
                text,
                format_args!(
                    "add rule {TABLE} {chain} meta l4proto {protocol} dnat {family} to jhash \
                     {family} saddr . th sport mod {places} seed 0x{seed:x} map @{name} : {target}"
                ),
            );
        }
    }

    /// Lists its services, with where each goes.
    fn list(&self, name: &str, elements: &mut String) {
        for (at, service) in self.spec.services.iter().enumerate() {
            let to = match (self.places.is_empty(), self.spec.when_empty) {
                (false, _) => chain(name, at),
                (true, WhenEmpty::Refuse) => "refuse".to_owned(),
                (true, WhenEmpty::Ignore) => "ignore".to_owned(),
            };
            let comma = if elements.is_empty() { "" } else { ", " };
            let (address, protocol, port) =
                (self.spec.address, service.protocol.name(), service.port);
            write!(elements, "{comma}{address} . {protocol} . {port} : goto {to}").ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    fn balanced(number: u128, backends: &[&str]) -> (Uuid, Arc<Balanced>) {
        let id = Uuid::from_u128(number);
        let place = |(key, address): (usize, &&str)| Place {
            address: address.parse().unwrap(),
            share: Share { key: Uuid::from_u128(key as u128), weight: 1, is_available: true },
        };
        let port = |number: u16| number.try_into().unwrap();
        let spec = BalancerSpec {
            id,
            address: "203.0.113.80".parse().unwrap(),
            services: vec![
                BalancedPort { protocol: Protocol::Tcp, port: port(80), target_port: port(8080) },
                BalancedPort { protocol: Protocol::Udp, port: port(53), target_port: port(53) },
            ],
            backends: backends.iter().enumerate().map(place).collect(),
            when_empty: WhenEmpty::Refuse,
        };
        (id, Arc::new(Balanced::new(spec)))
    }

    fn names(change: &Change) -> Vec<&String> {
        change.there.0.keys().collect()
    }

    #[test]
    fn each_service_has_a_chain_and_each_balancer_a_map() {
        let (id, balancer) = balanced(7, &["10.1.0.1", "10.1.0.2"]);
        let name = balancer.name();
        let change = change(&[(id, balancer)].into(), None);
        assert!(change.text.starts_with("add table inet mvirt_lb\ndelete table inet mvirt_lb\n"));
        for line in [
            format!(
                "add map inet mvirt_lb {name} {{ typeof numgen inc mod 1 : ip daddr; size 4093; }}"
            ),
            format!("add chain inet mvirt_lb {name}_1"),
            format!(
                "add rule inet mvirt_lb {name}_0 meta l4proto tcp dnat ip to jhash ip saddr . th \
                 sport mod 4093 seed 0x7 map @{name} : 8080"
            ),
            format!(
                "add element inet mvirt_lb services4 {{ 203.0.113.80 . tcp . 80 : goto {name}_0, \
                 203.0.113.80 . udp . 53 : goto {name}_1 }}"
            ),
        ] {
            assert!(change.text.contains(&format!("{line}\n")), "{line}");
        }
        assert_eq!(change.text.matches(" : 10.1.0.").count(), 4093);
        assert_eq!((names(&change), change.left), (vec![&name], 0));
    }

    #[test]
    fn what_is_as_it_was_is_left_alone() {
        let [one, other] = [1, 2].map(|number| balanced(number, &["10.1.0.1"]));
        let both = change(&[one.clone(), other].into(), None);
        let less = balanced(2, &["10.1.0.9"]);
        let next = change(&[one.clone(), less.clone()].into(), Some(&both.there));
        assert!(!next.text.contains(&format!("add map inet mvirt_lb {} ", one.1.name())));
        assert!(next.text.contains(&format!("add map inet mvirt_lb {} ", less.1.name())));
        assert_eq!(next.text.matches("delete map").count(), 1);
        assert_eq!(next.text.matches("delete chain").count(), 2);
        // The last ones take the table with them, and then there is nothing to do.
        let none = change(&BTreeMap::new(), Some(&next.there));
        assert_eq!(none.text, removal());
        assert!(change(&BTreeMap::new(), Some(&none.there)).text.is_empty());
    }

    #[test]
    fn where_nobody_takes_flows_there_is_only_an_answer() {
        let balancer = balanced(1, &[]);
        let change = change(&[balancer].into(), None);
        assert!(change.text.contains("203.0.113.80 . tcp . 80 : goto refuse,"));
        assert!(change.there.0.is_empty() && !change.text.contains("add map inet mvirt_lb lb_"));
    }

    #[test]
    fn many_balancers_are_made_by_and_by() {
        let all: BTreeMap<_, _> = (0..70).map(|number| balanced(number, &["10.1.0.1"])).collect();
        let (mut there, mut left) = (None, vec![]);
        for _ in 0..3 {
            let change = change(&all, there.as_ref());
            left.push((change.there.0.len(), change.left));
            there = Some(change.there);
        }
        assert_eq!(left, [(32, 38), (64, 6), (70, 0)]);
    }

    #[test]
    fn what_many_balancers_were_they_are_until_their_turn_comes() {
        let all = |backend| -> BTreeMap<_, _> {
            (0..70).map(|number| balanced(number, &[backend])).collect()
        };
        let names = |of: &BTreeMap<Uuid, Arc<Balanced>>| {
            of.values().map(|balancer| balancer.name()).collect::<BTreeSet<_>>()
        };
        let (old, new) = (all("10.1.0.1"), all("10.1.0.2"));
        let mut there = change(&old, None).there;
        for _ in 0..2 {
            there = change(&old, Some(&there)).there;
        }
        assert_eq!(there.0.keys().cloned().collect::<BTreeSet<_>>(), names(&old));
        for (made, left) in [(32, 38), (32, 6), (6, 0)] {
            let change = change(&new, Some(&there));
            assert_eq!((change.there.0.len(), change.left), (70, left));
            let count = |what: &str| change.text.matches(what).count();
            assert_eq!((count("add map inet mvirt_lb lb_"), count("delete map")), (made, made));
            assert_eq!(count(" : goto lb_"), 140, "all serve");
            // To each chain that there is then, and so to none that is gone.
            for (map, chains) in &change.there.0 {
                let leads = |chain: &String| count(&format!(" : goto {chain}")) == 1;
                assert!(chains.len() == 2 && chains.iter().all(leads), "{map}");
            }
            there = change.there;
        }
        assert_eq!(there.0.keys().cloned().collect::<BTreeSet<_>>(), names(&new));
        // A new one does not wait, as nothing stands in for it.
        let mut more = all("10.1.0.3");
        more.extend([balanced(99, &["10.1.0.3"])]);
        let change = change(&more, Some(&there));
        assert!(change.there.0.contains_key(&more[&Uuid::from_u128(99)].name()));
        assert_eq!((change.text.matches(" : goto lb_").count(), change.left), (142, 39));
        // What served something else cannot stand in.
        let (_, one) = balanced(1, &["10.1.0.9"]);
        assert!(there.of_same_services(&one).is_some());
        let mut spec = one.spec().clone();
        spec.services.pop();
        assert_eq!(there.of_same_services(&Balanced::new(spec)), None);
    }

    #[test]
    fn what_the_kernel_has_is_read_by_names() {
        let listed = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "inet", "name": "mvirt_lb", "handle": 1}},
            {"map": {"family": "inet", "name": "services4", "table": "mvirt_lb"}},
            {"map": {"family": "inet", "name": "lb_a_1", "table": "mvirt_lb", "size": 4093}},
            {"chain": {"family": "inet", "table": "mvirt_lb", "name": "refuse", "handle": 1}},
            {"chain": {"family": "inet", "table": "mvirt_lb", "name": "lb_a_1_0", "handle": 2}},
            {"chain": {"family": "inet", "table": "mvirt_lb", "name": "lb_a_1_1", "handle": 3}}]}"#;
        let chains = ["lb_a_1_0", "lb_a_1_1"].map(str::to_owned).into();
        assert_eq!(There::read(listed), There([("lb_a_1".to_owned(), chains)].into()));
        assert_eq!(There::read("no JSON"), There::default());
    }
}
