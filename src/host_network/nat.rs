//! What of the world's addresses and ports is a guest's, and how nftables are told.
//!
//! ```text
//! world, host ── floating address? ── forwarded port of the address? ── of any address? ──▶ guest
//! guest ── its floating address, or the host's ──▶ world, or a guest that is called by such a one
//! ```
//! The kernel translates the first packet of a flow, and by its entry of that flow all others, ICMP
//! errors about them, and what comes back.

use crate::model::{Protocol, Target};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
};

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nat {
    /// Floating addresses, and the guest that each is of.
    pub floating: BTreeMap<IpAddr, IpAddr>,
    /// Guests, and the floating address that each sends from.
    pub sources: BTreeMap<IpAddr, IpAddr>,
    /// Ports.
    pub forwards: BTreeSet<Forwarded>,
    /// Addresses of load balancers, whose rules are in a table of their own.
    pub balanced: BTreeSet<IpAddr>,
}

/// Neighbouring ports of an address that are a guest's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forwarded {
    /// The unspecified one: all that the host has of the family.
    pub listen: IpAddr,
    /// What comes there.
    pub protocol: Protocol,
    /// The first and the last one.
    pub ports: (u16, u16),
    /// Whose they are.
    pub to: IpAddr,
    /// To which of its ports.
    pub target: Target,
}

impl Nat {
    /// Whether nothing is a guest's.
    pub(super) fn is_empty(&self) -> bool {
        self.floating.is_empty() && self.forwards.is_empty() && self.balanced.is_empty()
    }

    /// Returns the addresses that lead to guests, as if each were the host's own.
    pub(super) fn announced(&self) -> BTreeSet<IpAddr> {
        let forwards = self.forwards.iter().map(|forwarded| forwarded.listen);
        let forwards = forwards.filter(|listen| !listen.is_unspecified());
        let balanced = self.balanced.iter().copied();
        self.floating.keys().copied().chain(forwards).chain(balanced).collect()
    }
}

/// A map of nftables: what it is called, of what type, and what it has.
struct Map {
    name: &'static str,
    types: String,
    /// Ports come in ranges.
    has_ranges: bool,
    elements: Vec<String>,
    /// The rule that looks up in it.
    rule: String,
}

/// A family, as nft(8) writes it.
#[derive(Clone, Copy)]
struct Family {
    is_of: fn(&IpAddr) -> bool,
    address: &'static str,
    name: &'static str,
    nfproto: &'static str,
    floating: &'static str,
    sources: &'static str,
    /// Of an address: to another port, and to the same one.
    at: [&'static str; 2],
    /// Likewise, of all addresses of the host.
    any: [&'static str; 2],
    /// What never leaves the host.
    loopback: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        is_of: IpAddr::is_ipv4,
        address: "ipv4_addr",
        name: "ip",
        nfproto: "ipv4",
        floating: "floating4",
        sources: "sources4",
        at: ["at4", "at4_same"],
        any: ["any4", "any4_same"],
        loopback: "127.0.0.0/8",
    },
    Family {
        is_of: IpAddr::is_ipv6,
        address: "ipv6_addr",
        name: "ip6",
        nfproto: "ipv6",
        floating: "floating6",
        sources: "sources6",
        at: ["at6", "at6_same"],
        any: ["any6", "any6_same"],
        loopback: "::1",
    },
];

impl Family {
    fn addresses(&self, name: &'static str, pairs: &BTreeMap<IpAddr, IpAddr>, rule: String) -> Map {
        let pairs = pairs.iter().filter(|(from, _)| (self.is_of)(from));
        Map {
            name,
            types: format!("{0} : {0}", self.address),
            has_ranges: false,
            elements: pairs.map(|(from, to)| format!("{from} : {to}")).collect(),
            rule,
        }
    }

    /// Returns the map of forwards at `all` addresses of the host or at single ones, to `same`
    /// ports or others.
    fn ports(&self, nat: &Nat, (is_all, is_same): (bool, bool)) -> Map {
        let of = nat.forwards.iter().filter(|it| (self.is_of)(&it.listen));
        let of = of.filter(|it| it.listen.is_unspecified() == is_all);
        let of = of.filter(|it| (it.target == Target::Same) == is_same);
        let element = |it: &Forwarded| {
            let (protocol, to) = (it.protocol.name(), it.to);
            let ports = match it.ports {
                (first, last) if first == last => first.to_string(),
                (first, last) => format!("{first}-{last}"),
            };
            let key = match is_all {
                true => format!("{protocol} . {ports}"),
                false => format!("{} . {protocol} . {ports}", it.listen),
            };
            match it.target {
                Target::Same => format!("{key} : {to}"),
                Target::Port(port) => format!("{key} : {to} . {port}"),
            }
        };
        let Self { address, name, nfproto, .. } = self;
        let data = if is_same { (*address).into() } else { format!("{address} . inet_service") };
        let (types, looked_up, name_of) = match is_all {
            true => ("inet_proto . inet_service".to_owned(), String::new(), self.any),
            false => {
                let types = format!("{address} . inet_proto . inet_service");
                (types, format!("{name} daddr . "), self.at)
            }
        };
        let map = name_of[usize::from(is_same)];
        let local = if is_all { "fib daddr type local " } else { "" };
        Map {
            name: map,
            types: format!("{types} : {data}"),
            has_ranges: true,
            elements: of.map(element).collect(),
            rule: format!(
                "meta nfproto {nfproto} meta l4proto {{ tcp, udp }} {local}dnat {name} to \
                 {looked_up}meta l4proto . th dport map @{map}"
            ),
        }
    }
}

/// Parts of the table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    /// Maps, and the chains that translate where to.
    pub(super) table: String,
    /// Rules that translate where from, for the chain at postrouting.
    pub(super) sources: String,
    /// Rules for the chain that says what is forwarded, in front of others.
    pub(super) forward: String,
}

/// Returns what nftables are told of it, where guests are behind `device`.
pub(super) fn lines(device: &str, nat: &Nat) -> Lines {
    if nat.is_empty() {
        return Lines::default();
    }
    let (mut table, mut rules, mut sources) = (String::new(), String::new(), String::new());
    for family in FAMILIES {
        let Family { name, loopback, .. } = family;
        let floating = format!("dnat {name} to {name} daddr map @{}", family.floating);
        let floating = family.addresses(family.floating, &nat.floating, floating);
        let at = [false, true].map(|is_same| family.ports(nat, (false, is_same)));
        let any = [false, true].map(|is_same| family.ports(nat, (true, is_same)));
        let exact = std::iter::once(floating).chain(at);
        exact.for_each(|map| add(&map, &mut table, &mut rules));
        if any.iter().any(|map| !map.elements.is_empty()) {
            // What comes from such an address must not leave the host.
            rules.push_str(&format!("\t\t{name} daddr {loopback} return\n"));
        }
        any.iter().for_each(|map| add(map, &mut table, &mut rules));
        let map = family.sources;
        let rule = format!("iifname \"{device}\" snat {name} to {name} saddr map @{map}");
        add(&family.addresses(map, &nat.sources, rule), &mut table, &mut sources);
    }
    // A guest that calls another by an address of the world: by its own, it would be answered past
    // the host, which has to translate the answer.
    sources.push_str(&format!(
        "\t\tiifname \"{device}\" oifname \"{device}\" ct status dnat masquerade\n"
    ));
    // To write to a string cannot fail.
    write!(
        table,
        "\tchain translate {{
{rules}\t}}
\tchain pre {{
\t\ttype nat hook prerouting priority dstnat; policy accept;
\t\tjump translate
\t}}
\tchain own {{
\t\ttype nat hook output priority -100; policy accept;
\t\tjump translate
\t}}
\tchain said {{
\t\ttype filter hook output priority filter; policy accept;
\t\toifname \"{device}\" icmp type redirect drop
\t\toifname \"{device}\" icmpv6 type nd-redirect drop
\t}}
"
    )
    .ok();
    let forward = format!(
        "\t\tiifname \"{device}\" oifname \"{device}\" ct status dnat accept\n\
         \t\toifname \"{device}\" ct status dnat accept\n"
    );
    Lines { table, sources, forward }
}

/// Adds a map and its rule, where there is something in it.
fn add(map: &Map, table: &mut String, rules: &mut String) {
    if map.elements.is_empty() {
        return;
    }
    let flags = if map.has_ranges { "flags interval; " } else { "" };
    let Map { name, types, rule, .. } = map;
    let elements = map.elements.join(", ");
    table.push_str(&format!(
        "\tmap {name} {{ type {types}; {flags}elements = {{ {elements} }}; }}\n"
    ));
    rules.push_str(&format!("\t\t{rule}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(listen: &str, ports: (u16, u16), target: Target) -> Forwarded {
        let to = if listen.contains(':') { "fd00:1::1" } else { "10.1.0.1" };
        let to = to.parse().unwrap();
        let listen = listen.parse().unwrap();
        Forwarded { listen, protocol: Protocol::Tcp, ports, to, target }
    }

    #[test]
    fn nothing_is_said_of_nothing() {
        assert_eq!(lines("mvirt0", &Nat::default()), Lines::default());
    }

    #[test]
    fn each_kind_has_a_map_and_a_rule() {
        let pair = |from: &str, to: &str| (from.parse().unwrap(), to.parse().unwrap());
        let nat = Nat {
            floating: [pair("203.0.113.7", "10.1.0.1")].into(),
            sources: [pair("10.1.0.1", "203.0.113.7")].into(),
            forwards: [
                forwarded("0.0.0.0", (8080, 8080), Target::Port(80)),
                forwarded("192.0.2.1", (90, 100), Target::Same),
                forwarded("::", (1, 65_535), Target::Port(80)),
            ]
            .into(),
            balanced: [].into(),
        };
        let Lines { table, sources, forward } = lines("mvirt0", &nat);
        for line in [
            "\tmap floating4 { type ipv4_addr : ipv4_addr; \
             elements = { 203.0.113.7 : 10.1.0.1 }; }\n",
            "\tmap at4_same { type ipv4_addr . inet_proto . inet_service : ipv4_addr; \
             flags interval; elements = { 192.0.2.1 . tcp . 90-100 : 10.1.0.1 }; }\n",
            "\tmap any4 { type inet_proto . inet_service : ipv4_addr . inet_service; \
             flags interval; elements = { tcp . 8080 : 10.1.0.1 . 80 }; }\n",
            "elements = { tcp . 1-65535 : fd00:1::1 . 80 }; }\n",
            "\t\tdnat ip to ip daddr map @floating4\n",
            "\t\tmeta nfproto ipv4 meta l4proto { tcp, udp } dnat ip to ip daddr . meta l4proto . \
             th dport map @at4_same\n",
            "\t\tip daddr 127.0.0.0/8 return\n\
             \t\tmeta nfproto ipv4 meta l4proto { tcp, udp } fib daddr type local dnat ip to meta \
             l4proto . th dport map @any4\n",
        ] {
            assert!(table.contains(line), "{line}\n{table}");
        }
        assert!(!table.contains("floating6") && !table.contains("map at4 "), "{table}");
        assert!(sources.starts_with("\t\tiifname \"mvirt0\" snat ip to ip saddr map @sources4\n"));
        assert!(forward.contains("ct status dnat accept"));
        let addresses = ["192.0.2.1", "203.0.113.7"].map(|text| text.parse().unwrap());
        assert_eq!(nat.announced(), addresses.into());
    }
}
