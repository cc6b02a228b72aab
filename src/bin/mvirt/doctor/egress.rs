//! What is wrong with the way out of public networks.

use super::{finding::Finding, look::Outside};
use mvirt_net::proto::{Egress, EgressMode};

/// Checks what public networks need of a host, by the way that the daemon takes.
pub(super) fn check(way: &Egress, host: &Outside) -> Vec<Finding> {
    let reason = &way.reason;
    match way.mode() {
        EgressMode::Unspecified | EgressMode::Off => {
            vec![Finding::ok("egress", format!("off: {reason}"))]
        }
        EgressMode::User => {
            vec![
                Finding::ok("egress", format!("by sockets of the host: {reason}")),
                ping(host.ping_group_range.as_deref()),
            ]
        }
        EgressMode::Tun => {
            let device = &way.device;
            let way = format!("by the host's routing, through {device}");
            let tun = if host.has_tun {
                Finding::ok("egress", way)
            } else {
                Finding::fail("egress", format!("{way}: no /dev/net/tun"), "modprobe tun")
            };
            let forwards = [
                forwarding("net.ipv4.ip_forward", host.ipv4_forward.as_deref()),
                forwarding("net.ipv6.conf.all.forwarding", host.ipv6_forward.as_deref()),
            ];
            let firewall = firewall(host.rules.as_deref(), device);
            [tun].into_iter().chain(forwards).chain([firewall]).collect()
        }
    }
}

fn ping(range: Option<&str>) -> Finding {
    let bounds: Vec<u64> =
        range.unwrap_or_default().split_whitespace().map(|it| it.parse().unwrap_or(0)).collect();
    match bounds[..] {
        // icmp(7): nobody is in a range that ends before it begins, as "1 0".
        [first, last] if first > last => Finding::warn(
            "ping",
            format!("net.ipv4.ping_group_range is {first} {last}: guests cannot ping outside"),
            "sysctl -w net.ipv4.ping_group_range='0 2147483647'",
        ),
        [first, last] => Finding::ok("ping", format!("allowed to groups {first}-{last}")),
        _ => Finding::ok("ping", "not looked at: net.ipv4.ping_group_range cannot be read"),
    }
}

fn forwarding(switch: &'static str, value: Option<&str>) -> Finding {
    match value {
        Some("0") => Finding::fail(
            "forwarding",
            format!("{switch} is 0: nothing of guests leaves this host"),
            format!("sysctl -w {switch}=1, or mvirt-net --egress-sysctl"),
        ),
        Some(_) => Finding::ok("forwarding", format!("{switch} is on")),
        None => Finding::ok("forwarding", format!("{switch} is not there")),
    }
}

/// Looks for chains of others that drop what is forwarded and that they do not know.
fn firewall(rules: Option<&str>, device: &str) -> Finding {
    let Some(rules) = rules else {
        return Finding::ok("firewall", "not looked at: root alone sees rules of nftables");
    };
    let mut table = "";
    let mut dropping = Vec::new();
    for line in rules.lines().map(str::trim) {
        if let Some(named) = line.strip_prefix("table ") {
            table = named.trim_end_matches([' ', '{']);
        }
        let drops = line.contains("hook forward") && line.contains("policy drop");
        if drops && !table.starts_with("inet mvirt") {
            dropping.push(table);
        }
    }
    if dropping.is_empty() {
        return Finding::ok("firewall", "no chain drops what is forwarded");
    }
    let text = format!("table {} drops what it does not know", dropping.join(", table "));
    let remedy = format!("let its chain accept iifname \"{device}\" and oifname \"{device}\"");
    Finding::warn("firewall", text, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(mode: EgressMode, host: &Outside) -> Vec<String> {
        let mut way =
            Egress { reason: "why".into(), device: "mvirt0".into(), ..Default::default() };
        way.set_mode(mode);
        check(&way, host).iter().map(Finding::line).collect()
    }

    #[test]
    fn ways_out_are_told_of() {
        let mut host = Outside { has_tun: true, ..Default::default() };
        assert_eq!(lines(EgressMode::Off, &host), ["ok   egress: off: why"]);
        assert_eq!(
            lines(EgressMode::User, &host),
            [
                "ok   egress: by sockets of the host: why",
                "ok   ping: not looked at: net.ipv4.ping_group_range cannot be read",
            ]
        );
        host.ping_group_range = Some("1\t0".into());
        assert_eq!(
            lines(EgressMode::User, &host)[1],
            "warn ping: net.ipv4.ping_group_range is 1 0: guests cannot ping outside → sysctl -w \
             net.ipv4.ping_group_range='0 2147483647'"
        );
        host.ping_group_range = Some("0\t2147483647".into());
        assert_eq!(lines(EgressMode::User, &host)[1], "ok   ping: allowed to groups 0-2147483647");
    }

    #[test]
    fn the_hosts_routing_is_told_of() {
        let mut host = Outside {
            has_tun: true,
            ipv4_forward: Some("1".into()),
            rules: Some(
                "table inet mvirt {\n chain a {\n  type filter hook forward priority 0; \
                         policy drop;\n }\n}\n"
                    .into(),
            ),
            ..Default::default()
        };
        assert_eq!(
            lines(EgressMode::Tun, &host),
            [
                "ok   egress: by the host's routing, through mvirt0",
                "ok   forwarding: net.ipv4.ip_forward is on",
                "ok   forwarding: net.ipv6.conf.all.forwarding is not there",
                "ok   firewall: no chain drops what is forwarded",
            ]
        );
        host.has_tun = false;
        host.ipv6_forward = Some("0".into());
        host.rules = Some(
            "table ip filter {\n\tchain FORWARD {\n\t\ttype filter hook forward \
                           priority filter; policy drop;\n\t}\n}\n"
                .into(),
        );
        assert_eq!(
            lines(EgressMode::Tun, &host),
            [
                "fail egress: by the host's routing, through mvirt0: no /dev/net/tun → modprobe \
                 tun",
                "ok   forwarding: net.ipv4.ip_forward is on",
                "fail forwarding: net.ipv6.conf.all.forwarding is 0: nothing of guests leaves this \
                 host → sysctl -w net.ipv6.conf.all.forwarding=1, or mvirt-net --egress-sysctl",
                "warn firewall: table ip filter drops what it does not know → let its chain accept \
                 iifname \"mvirt0\" and oifname \"mvirt0\"",
            ]
        );
        host.rules = None;
        assert_eq!(
            lines(EgressMode::Tun, &host)[3],
            "ok   firewall: not looked at: root alone sees rules of nftables"
        );
    }
}
