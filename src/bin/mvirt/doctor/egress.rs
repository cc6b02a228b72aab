//! What is wrong with the way out of public networks.

use super::{finding::Finding, look::Outside};
use mvirt_net::proto::{Egress, EgressMode, Obstacle, ObstacleKind};

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
            let text = format!("by the host's routing, through {device}");
            let tun = if host.has_tun {
                Finding::ok("egress", text)
            } else {
                Finding::fail("egress", format!("{text}: no /dev/net/tun"), "modprobe tun")
            };
            [tun].into_iter().chain(way.obstacles.iter().map(in_the_way)).collect()
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

fn in_the_way(obstacle: &Obstacle) -> Finding {
    let Obstacle { text, remedy, .. } = obstacle;
    match obstacle.kind() {
        // What it accepts may be all that is wanted.
        ObstacleKind::Firewall => Finding::warn("firewall", text, remedy),
        ObstacleKind::Forwarding | ObstacleKind::Unspecified => {
            Finding::fail("forwarding", text, remedy)
        }
    }
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
        let mut host = Outside { has_tun: true, ..Default::default() };
        assert_eq!(
            lines(EgressMode::Tun, &host),
            ["ok   egress: by the host's routing, through mvirt0"]
        );
        host.has_tun = false;
        assert_eq!(
            lines(EgressMode::Tun, &host),
            ["fail egress: by the host's routing, through mvirt0: no /dev/net/tun → modprobe tun"]
        );
    }

    #[test]
    fn what_is_in_the_way_is_handed_on() {
        let line = |kind: ObstacleKind| {
            let mut obstacle =
                Obstacle { text: "so".into(), remedy: "do".into(), ..Default::default() };
            obstacle.set_kind(kind);
            in_the_way(&obstacle).line()
        };
        assert_eq!(line(ObstacleKind::Firewall), "warn firewall: so → do");
        assert_eq!(line(ObstacleKind::Forwarding), "fail forwarding: so → do");
    }
}
