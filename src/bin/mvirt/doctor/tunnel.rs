//! Whether what tunnels carry fits the ways to their other ends.

use super::finding::Finding;
use mvirt_net::{
    locator::Locator,
    proto::{Network, Port},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

/// What is around a guest's packet: its Ethernet header, those of VXLAN and UDP (RFC 7348 §5).
const AROUND: u32 = 14 + 8 + 8;
/// What is beside them around one with a tag (IEEE 802.1Q).
const TAG: u32 = 4;

/// To where a port sends packets, and how long they may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Way {
    port: String,
    network: String,
    network_mtu: u32,
    /// Octets beside those.
    around: u32,
    pub(super) to: SocketAddr,
}

/// Returns where tunnels lead to.
pub(super) fn ways(ports: &[Port], networks: &[Network]) -> Vec<Way> {
    let mtus: BTreeMap<_, _> = networks.iter().map(|it| (it.id.as_str(), it.mtu)).collect();
    let of_port = |port: &Port| {
        let (to, at) = match Locator::parse_lenient(&port.locator) {
            Ok(Locator::Vxlan(vxlan)) if vxlan.remote.is_empty() => (vec![vxlan.group], vxlan.port),
            Ok(Locator::Vxlan(vxlan)) => (vxlan.remote, vxlan.port),
            Ok(Locator::Vxvde(vxvde)) => (vec![vxvde.group], vxvde.port),
            _ => (Vec::new(), 0),
        };
        // A trunk has the packets of several networks, of all but one with tags.
        let tagged = port.vlans.iter().map(|it| (&it.network_id, &it.network_name, TAG));
        let all = tagged.chain([(&port.network_id, &port.network_name, 0)]);
        let all = all.map(|(id, name, tag)| (mtus.get(&**id).map_or(0, |mtu| *mtu), name, tag));
        let longest = all.max_by_key(|(mtu, _, tag)| mtu + tag);
        let (network_mtu, network, tag) = longest.unwrap_or((0, &port.network_name, 0));
        let way = |to: IpAddr| Way {
            port: port.name.clone(),
            network: network.clone(),
            network_mtu,
            around: AROUND + tag + if to.is_ipv4() { 20 } else { 40 },
            to: SocketAddr::new(to, at),
        };
        to.into_iter().map(way).collect::<Vec<_>>()
    };
    ports.iter().flat_map(of_port).collect()
}

/// Checks a way, which takes packets of `mtu` octets; `None`: there is none.
pub(super) fn check(way: &Way, mtu: Option<u32>) -> Finding {
    let Way { port, network, network_mtu, around, to } = way;
    let needed = network_mtu + around;
    let to = to.ip();
    match mtu {
        None => Finding::warn(
            "tunnel",
            format!("{port}: this host has no route to {to}"),
            format!("ip route get {to}"),
        ),
        Some(mtu) if mtu < needed => {
            let fits = mtu.saturating_sub(*around);
            Finding::warn(
                "tunnel",
                format!(
                    "{port}: packets to {to} may have {mtu} octets, and those of {network} have up \
                     to {needed} with what is around them: they are sent in pieces"
                ),
                format!("an MTU of {needed} there, or mvirt network update {network} --mtu {fits}"),
            )
        }
        Some(mtu) => Finding::ok("tunnel", format!("{port}: {mtu} octets to {to}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mvirt_net::proto::TaggedNetwork;

    fn of(locator: &str) -> Vec<Way> {
        let port = Port {
            name: "up".into(),
            network_id: "1".into(),
            network_name: "lab".into(),
            locator: locator.into(),
            ..Default::default()
        };
        let network = Network { id: "1".into(), mtu: 1500, ..Default::default() };
        ways(&[port], &[network])
    }

    #[test]
    fn tunnels_lead_to_their_members_or_their_group() {
        let to = |locator| of(locator).iter().map(|way| way.to.to_string()).collect::<Vec<_>>();
        let remotes = "vxlan:///vni=7/remote=192.0.2.2,192.0.2.3";
        assert_eq!(to(remotes), ["192.0.2.2:4789", "192.0.2.3:4789"]);
        assert_eq!(to("vxlan://239.1.2.3/vni=7/port=8472"), ["239.1.2.3:8472"]);
        assert_eq!(to("vxvde://239.1.2.4"), ["239.1.2.4:14789"]);
        assert!(to("tap://tap0").is_empty());
    }

    #[test]
    fn of_a_trunk_the_longest_packets_count_with_their_tags() {
        let vlan =
            |id: &str| TaggedNetwork { vid: 7, network_id: id.into(), network_name: id.into() };
        let port = Port {
            network_id: "lab".into(),
            network_name: "lab".into(),
            vlans: vec![vlan("jumbo"), vlan("small")],
            locator: "vxlan:///vni=7/remote=192.0.2.2".into(),
            ..Default::default()
        };
        let networks = [("lab", 1500), ("jumbo", 9000), ("small", 1400)];
        let network = |(id, mtu): (&str, u32)| Network { id: id.into(), mtu, ..Default::default() };
        let ways = ways(&[port], &networks.map(network));
        let line = check(&ways[0], Some(9050)).line();
        assert!(line.contains("those of jumbo have up to 9054 "), "{line}");
        assert!(line.ends_with("mvirt network update jumbo --mtu 8996"), "{line}");
        assert!(check(&ways[0], Some(9054)).line().starts_with("ok "));
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let line = |locator, mtu| check(&of(locator)[0], mtu).line();
        let ipv4 = "vxlan:///vni=7/remote=192.0.2.2";
        assert_eq!(line(ipv4, Some(1550)), "ok   tunnel: up: 1550 octets to 192.0.2.2");
        assert_eq!(
            line(ipv4, Some(1500)),
            "warn tunnel: up: packets to 192.0.2.2 may have 1500 octets, and those of lab have up \
             to 1550 with what is around them: they are sent in pieces → an MTU of 1550 there, or \
             mvirt network update lab --mtu 1450"
        );
        let ipv6 = line("vxlan:///vni=7/remote=2001:db8::2", Some(1550));
        assert!(ipv6.contains("up to 1570") && ipv6.ends_with("--mtu 1480"), "{ipv6}");
        assert_eq!(
            line(ipv4, None),
            "warn tunnel: up: this host has no route to 192.0.2.2 → ip route get 192.0.2.2"
        );
    }
}
