//! What is wrong with a vNIC: what the daemon says of it, and what it carries within a second.

use super::{finding::Finding, look::Socket};
use crate::units::{ago, counted};
use mvirt_net::{
    dataplane::frame::verdict::DropReason,
    proto::{Addressing, Network, Nic, NicState, NicStats, Toggle, Transport},
};

/// A vNIC, its network, and what it had carried at two times.
#[derive(Debug, Clone, Default)]
pub(super) struct Watched {
    pub(super) nic: Nic,
    pub(super) network: Network,
    pub(super) before: NicStats,
    pub(super) after: NicStats,
    pub(super) socket: Socket,
}

/// Checks a vNIC.
pub(super) fn check(watched: &Watched) -> Vec<Finding> {
    let Watched { nic, network, after, .. } = watched;
    let mut findings = vec![state(nic)];
    findings.extend(socket(watched));
    if nic.state() == NicState::Active {
        findings.push(traffic(nic, after));
        findings.extend(features(after));
        findings.extend(standstill(watched));
        if is_told_addresses(network) && after.ingress_frames > 0 {
            findings.extend(leases(nic));
        }
    }
    findings.extend(names(nic));
    findings.extend(drops(watched));
    findings.extend(last_error(nic, after));
    if nic.impairments.is_some() {
        findings.push(Finding::warn(
            "line",
            "it is a bad one on purpose",
            format!("mvirt nic update {} --no-impairments", nic.name),
        ));
    }
    findings
}

fn state(nic: &Nic) -> Finding {
    let why = if nic.error.is_empty() { "the log has the reason" } else { &nic.error };
    match nic.state() {
        NicState::Active => Finding::ok("state", "active: a VMM is connected, its queues run"),
        NicState::Error => Finding::fail(
            "state",
            format!("error: {why}"),
            "mend that; the next good connection of a VMM clears it",
        ),
        NicState::Blocked => {
            Finding::fail("state", format!("blocked: {why}"), "look for a loop behind the guest")
        }
        NicState::Created | NicState::Unspecified => Finding::warn(
            "state",
            "created: no VMM is connected, or the guest's driver has not started its queues",
            format!("start a VM with what mvirt nic vmm-args {} prints", nic.name),
        ),
    }
}

fn socket(Watched { nic, socket, .. }: &Watched) -> Option<Finding> {
    let path = &nic.socket_path;
    Some(match socket {
        Socket::None => return None,
        Socket::There(mode) => Finding::ok("socket", format!("{path}, mode {mode:o}")),
        Socket::Hidden => {
            Finding::ok("socket", format!("not looked at: {path} is not for this user"))
        }
        Socket::Missing => Finding::fail(
            "socket",
            format!("{path} is not there"),
            "restart mvirt-net, which makes it anew, if it is of this host",
        ),
    })
}

/// Whether anything comes from the guest at all.
fn traffic(nic: &Nic, stats: &NicStats) -> Finding {
    if stats.ingress_frames > 0 {
        let text = format!("{} have come from the guest", counted(stats.ingress_frames, "frame"));
        return Finding::ok("traffic", text);
    }
    let shares = "the VMM may not share the guest's memory";
    match nic.transport() {
        Transport::VhostUser | Transport::Unspecified => Finding::warn(
            "traffic",
            format!("not one frame has come from the guest: it sends none, or {shares}"),
            "share=on (QEMU), shared=on (Cloud Hypervisor), <access mode='shared'/> (libvirt)",
        ),
        _ => Finding::warn("traffic", "not one frame has come from the guest", "look into it"),
    }
}

/// Features of virtio without which frames cost more, and what each saves.
const WANTED: [(&str, &str); 4] = [
    ("mrg_rxbuf", "long frames need long buffers"),
    ("csum", "it computes all checksums"),
    ("guest_csum", "it checks all checksums"),
    ("ring_event_idx", "it is woken, and wakes, more often"),
];

/// What the guest's driver does without, once it has accepted anything.
fn features(stats: &NicStats) -> Option<Finding> {
    if stats.features.is_empty() {
        return None;
    }
    let has = |name: &str| stats.features.iter().any(|feature| feature == name);
    let missing: Vec<_> = WANTED
        .iter()
        .filter(|(name, _)| !has(name))
        .map(|(name, lost)| format!("{name} ({lost})"))
        .collect();
    Some(if missing.is_empty() {
        Finding::ok("features", "the guest's driver takes all that save work")
    } else {
        Finding::warn(
            "features",
            format!("the guest's driver does without {}", missing.join(", ")),
            "let the VMM offer them, or take a newer driver; it works as it is, for more CPU time",
        )
    })
}

/// Whether frames wait for a guest that takes none.
fn standstill(Watched { before, after, .. }: &Watched) -> Option<Finding> {
    let grows = |of: fn(&NicStats) -> u64| of(after) > of(before);
    let full = |stats: &NicStats| {
        stats.drops.iter().find(|drop| drop.reason == "rx_ring_full").map_or(0, |drop| drop.frames)
    };
    let waits = grows(|stats| stats.queue_full) || full(after) > full(before);
    if !waits || grows(|stats| stats.egress_frames) {
        return None;
    }
    let text = if after.egress_frames == 0 {
        "the guest has never given a buffer to receive into"
    } else {
        "frames wait, and the guest has taken none within a second"
    };
    Some(Finding::fail("receiving", text, "is the guest stopped, or has its driver failed?"))
}

/// What went wrong last, however it is now.
fn last_error(nic: &Nic, stats: &NicStats) -> Option<Finding> {
    let (what, at) = (&stats.last_error, &stats.last_error_at);
    // Then it is the state already.
    if what.is_empty() || *what == nic.error {
        return None;
    }
    let text = format!("{what} ({})", ago(at));
    Some(Finding::warn("last error", text, "the log has what was before it"))
}

/// Whether guests of a network ask a gateway for what they are called.
fn is_told_addresses(network: &Network) -> bool {
    let has_any = !network.ipv4_subnet.is_empty() || !network.ipv6_prefix.is_empty();
    has_any && network.gateway() != Toggle::Off
}

/// What the guest has asked for, from the first step on: one that is missing explains the rest.
fn leases(nic: &Nic) -> Vec<Finding> {
    let guest = nic.guest.clone().unwrap_or_default();
    let mut findings = Vec::new();
    if !nic.ipv4_address.is_empty() {
        findings.push(match (guest.ipv4_lease_at.is_empty(), guest.ipv4_neighbour_at.is_empty()) {
            (true, _) => Finding::warn(
                "ipv4",
                "the guest has not taken its address",
                "start a DHCP client in it; mvirt nic stats says what was dropped",
            ),
            (_, true) if nic.addressing() != Addressing::Subnet => Finding::warn(
                "ipv4",
                "the guest has its address, and sends nothing beyond itself",
                "compare its routes with those that mvirt probe, its VM stopped, is told",
            ),
            _ => Finding::ok("ipv4", format!("the guest has taken {}", nic.ipv4_address)),
        });
    }
    if !nic.ipv6_address.is_empty() {
        let (lease, router) = (!guest.ipv6_lease_at.is_empty(), !guest.router_at.is_empty());
        findings.push(match (lease, router) {
            (true, _) => Finding::ok("ipv6", format!("the guest has taken {}", nic.ipv6_address)),
            (_, true) => Finding::warn(
                "ipv6",
                "the guest has asked for a router, and not for its address",
                "start a DHCPv6 client in it, or mvirt nic update --ipv6-mode slaac",
            ),
            _ => Finding::warn(
                "ipv6",
                "the guest has asked for no router",
                "enable IPv6 in it, if it is to have it",
            ),
        });
    }
    findings
}

/// Whether it is the guest that one thinks.
fn names(nic: &Nic) -> Option<Finding> {
    let name = &nic.guest.as_ref()?.hostname;
    if name.is_empty() {
        return None;
    }
    // Guests may say a name with its domain.
    let is_known = name.split('.').next() == nic.name.split('.').next();
    Some(if is_known {
        Finding::ok("hostname", name)
    } else {
        Finding::warn(
            "hostname",
            format!("the guest calls itself {name}"),
            format!("is another VM on {} than you think?", nic.name),
        )
    })
}

/// Reasons of which there are more than before, and those that say something in any case.
fn drops(Watched { before, after, .. }: &Watched) -> Vec<Finding> {
    let old = |reason: &str| {
        before.drops.iter().find(|drop| drop.reason == reason).map_or(0, |drop| drop.frames)
    };
    let mut findings: Vec<_> = Vec::new();
    for drop in &after.drops {
        let (reason, growth) = (&drop.reason, drop.frames.saturating_sub(old(&drop.reason)));
        if growth > 0 {
            let known = DropReason::ALL.iter().find(|known| known.name() == reason);
            let meaning = known.map_or("", |known| known.meaning());
            let times = counted(growth, "frame");
            let text = format!("{times} within a second for {reason}: {}", meaning.trim());
            findings.push(Finding::warn("drops", text, remedy(reason)));
        }
    }
    if let Some(long) = after.drops.iter().find(|drop| drop.reason == "exceeds_mtu") {
        findings.push(Finding::warn(
            "mtu",
            format!("{} were longer than the MTU", counted(long.frames, "frame")),
            "let the guest take its MTU from DHCP or the router",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("drops", "none within a second"));
    }
    findings
}

/// What to do about frames that are dropped.
fn remedy(reason: &str) -> &'static str {
    match reason {
        "rx_ring_full" => "look at the receiving guest: it is busy, or its driver hangs",
        "rate_limited" => "raise it, if that is not meant: mvirt nic limit",
        _ if reason.starts_with("spoofed_") => {
            "let the guest send from its own addresses, or route its prefixes to it"
        }
        _ => "see docs/operations.md: Why a frame was dropped",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mvirt_net::proto::{DropCount, GuestSeen};

    /// A vNIC that is well, with a change.
    fn lines(change: impl FnOnce(&mut Watched)) -> Vec<String> {
        let mut watched = Watched {
            socket: Socket::There(0o660),
            after: NicStats { ingress_frames: 7, ..Default::default() },
            ..Default::default()
        };
        watched.network.ipv4_subnet = "10.0.0.0/24".into();
        let nic = &mut watched.nic;
        nic.name = "vm1".into();
        nic.socket_path = "/s".into();
        nic.ipv4_address = "10.0.0.1".into();
        nic.set_state(NicState::Active);
        nic.guest = Some(GuestSeen {
            ipv4_lease_at: "2026-01-01T00:00:00Z".into(),
            ipv4_neighbour_at: "2026-01-01T00:00:00Z".into(),
            hostname: "vm1.internal".into(),
            ..Default::default()
        });
        change(&mut watched);
        check(&watched).iter().map(Finding::line).collect()
    }

    /// The lines that are there only after a change.
    fn new(change: impl FnOnce(&mut Watched)) -> Vec<String> {
        let well = lines(|_| {});
        lines(change).into_iter().filter(|line| !well.contains(line)).collect()
    }

    fn drop(reason: &str, frames: u64) -> DropCount {
        DropCount { reason: reason.into(), frames }
    }

    #[test]
    fn one_that_is_well_has_no_fault() {
        assert_eq!(
            lines(|_| {}),
            [
                "ok   state: active: a VMM is connected, its queues run",
                "ok   socket: /s, mode 660",
                "ok   traffic: 7 frames have come from the guest",
                "ok   ipv4: the guest has taken 10.0.0.1",
                "ok   hostname: vm1.internal",
                "ok   drops: none within a second",
            ]
        );
        assert_eq!(
            new(|it| it.socket = Socket::Hidden),
            ["ok   socket: not looked at: /s is not for this user"]
        );
        assert!(!lines(|it| it.socket = Socket::None).iter().any(|line| line.contains("socket")));
    }

    #[test]
    fn who_is_not_connected_is_told_how() {
        assert_eq!(
            new(|it| it.nic.set_state(NicState::Created)),
            ["warn state: created: no VMM is connected, or the guest's driver has not started \
                 its queues → start a VM with what mvirt nic vmm-args vm1 prints"]
        );
        assert_eq!(
            new(|it| it.nic.set_state(NicState::Error)),
            ["fail state: error: the log has the reason → mend that; the next good connection of \
                 a VMM clears it"]
        );
        let blocked = new(|it| {
            it.nic.set_state(NicState::Blocked);
            it.nic.error = "loop_detected: x".into();
        });
        assert_eq!(
            blocked,
            ["fail state: blocked: loop_detected: x → look for a loop behind the guest"]
        );
        assert_eq!(
            new(|it| it.socket = Socket::Missing),
            ["fail socket: /s is not there → restart mvirt-net, which makes it anew, if it is of \
             this host"]
        );
    }

    #[test]
    fn drivers_that_do_without_and_rings_that_stand_still_are_told_of() {
        let takes = |features: &[&str]| {
            let features = features.iter().map(ToString::to_string).collect::<Vec<_>>();
            new(|it| it.after.features = features)
        };
        let all = WANTED.map(|(name, _)| name);
        assert_eq!(takes(&all), ["ok   features: the guest's driver takes all that save work"]);
        assert_eq!(
            takes(&all[1..]),
            ["warn features: the guest's driver does without mrg_rxbuf (long frames need long \
              buffers) → let the VMM offer them, or take a newer driver; it works as it is, for \
              more CPU time"]
        );
        let stands = |frames: u64| {
            new(|it| {
                (it.before.egress_frames, it.after.egress_frames) = (frames, frames);
                it.after.queue_full = 1;
            })
        };
        let remedy = "is the guest stopped, or has its driver failed?";
        assert_eq!(
            stands(0),
            [format!(
                "fail receiving: the guest has never given a buffer to receive into → {remedy}"
            )]
        );
        let text = "frames wait, and the guest has taken none within a second";
        assert_eq!(stands(7), [format!("fail receiving: {text} → {remedy}")]);
        let moves = |it: &mut Watched| (it.after.queue_full, it.after.egress_frames) = (1, 1);
        assert!(new(moves).is_empty());
    }

    #[test]
    fn what_went_wrong_last_is_told_once() {
        let wrong = |error: &str| {
            new(|it| {
                it.nic.error = error.into();
                it.after.last_error = "junk".into();
                it.after.last_error_at = "2026-01-01T00:00:00Z".into();
            })
        };
        let [line] = &wrong("")[..] else { panic!() };
        assert!(line.starts_with("warn last error: junk (") && line.contains(" ago) → "), "{line}");
        assert!(wrong("junk").is_empty());
    }

    #[test]
    fn who_says_nothing_is_told_why() {
        assert_eq!(
            new(|it| it.after.ingress_frames = 0),
            ["warn traffic: not one frame has come from the guest: it sends none, or the VMM may \
             not share the guest's memory → share=on (QEMU), shared=on (Cloud Hypervisor), \
             <access mode='shared'/> (libvirt)"]
        );
        let tap = new(|it| {
            it.after.ingress_frames = 0;
            it.nic.set_transport(Transport::Tap);
        });
        assert_eq!(tap, ["warn traffic: not one frame has come from the guest → look into it"]);
        assert_eq!(
            new(|it| it.nic.guest = None),
            ["warn ipv4: the guest has not taken its address → start a DHCP client in it; mvirt \
             nic stats says what was dropped"]
        );
        let silent = new(|it| it.nic.guest.as_mut().unwrap().ipv4_neighbour_at.clear());
        assert_eq!(
            silent,
            ["warn ipv4: the guest has its address, and sends nothing beyond itself → compare \
                 its routes with those that mvirt probe, its VM stopped, is told"]
        );
        let ipv6 = |lease: &str, router: &str| {
            new(|it| {
                it.nic.ipv6_address = "fd00::1".into();
                let guest = it.nic.guest.as_mut().unwrap();
                (guest.ipv6_lease_at, guest.router_at) = (lease.into(), router.into());
            })
        };
        assert_eq!(ipv6("t", "t"), ["ok   ipv6: the guest has taken fd00::1"]);
        assert_eq!(
            ipv6("", "t"),
            ["warn ipv6: the guest has asked for a router, and not for its address → start a \
             DHCPv6 client in it, or mvirt nic update --ipv6-mode slaac"]
        );
        assert_eq!(
            ipv6("", ""),
            ["warn ipv6: the guest has asked for no router → enable IPv6 in it, if it is to \
                 have it"]
        );
        let renamed = new(|it| it.nic.guest.as_mut().unwrap().hostname = "web\u{1b}[2J".into());
        assert_eq!(
            renamed,
            ["warn hostname: the guest calls itself web\\u{1b}[2J → is another VM on vm1 than \
                 you think?"]
        );
        assert_eq!(
            new(|it| it.nic.impairments = Some(Default::default())),
            ["warn line: it is a bad one on purpose → mvirt nic update vm1 --no-impairments"]
        );
    }

    #[test]
    fn what_is_dropped_is_told_with_its_meaning() {
        let growing = |reason: &str| {
            new(|it| {
                it.before.drops = vec![drop(reason, 3)];
                it.after.drops = vec![drop(reason, 5)];
                it.after.egress_frames = 1;
            })
        };
        for (reason, remedy) in [
            ("rx_ring_full", "look at the receiving guest: it is busy, or its driver hangs"),
            ("rate_limited", "raise it, if that is not meant: mvirt nic limit"),
            (
                "spoofed_source_mac",
                "let the guest send from its own addresses, or route its prefixes to it",
            ),
            ("no_route", "see docs/operations.md: Why a frame was dropped"),
        ] {
            let [line] = &growing(reason)[..] else { panic!("{reason}") };
            let begins = format!("warn drops: 2 frames within a second for {reason}: ");
            assert!(line.starts_with(&begins) && line.ends_with(&format!(" → {remedy}")), "{line}");
        }
        let line = &growing("no_route")[0];
        assert!(line.contains("no_route: No vNIC of the network has the destination. →"), "{line}");
        // What is over is no trouble; frames that were too long come again.
        let old = |reason: &str| {
            new(|it| {
                it.before.drops = vec![drop(reason, 5)];
                it.after.drops = vec![drop(reason, 5)];
            })
        };
        assert!(old("no_route").is_empty());
        assert_eq!(
            old("exceeds_mtu"),
            ["warn mtu: 5 frames were longer than the MTU → let the guest take its MTU from DHCP \
             or the router"]
        );
    }
}
