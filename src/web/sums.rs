//! What counters come to, as far as it is told by `/metrics`.

use crate::dataplane::counters::{Count, PortCounters};

/// Of both ways.
pub(super) const DIRECTIONS: [&str; 2] = ["from_guest", "to_guest"];

/// A counter.
type Counter = fn(&PortCounters) -> &Count;

/// Counters that have a family of their own: which, its name, and what it is.
pub(super) const PLAIN: &[(Counter, &str, &str)] = &[
    (
        |it| &it.ingress_forwarded,
        "mvirt_net_forwarded_frames",
        "Frames of the guest that were delivered to another port",
    ),
    (
        |it| &it.ingress_answered,
        "mvirt_net_answered_frames",
        "Frames of the guest that were answered by the gateway",
    ),
    (|it| &it.kicks, "mvirt_net_kicks", "How often the guest, or its socket, has woken a reactor"),
    (|it| &it.calls, "mvirt_net_calls", "How often the guest was woken"),
    (
        |it| &it.checksums_completed,
        "mvirt_net_checksums_completed",
        "Checksums that were completed for the guest",
    ),
    (
        |it| &it.segments_made,
        "mvirt_net_segments_cut",
        "Segments that frames for the guest were cut into",
    ),
    (
        |it| &it.receive_stalls,
        "mvirt_net_receive_stalls",
        "How often the guest had no receive buffers for too long",
    ),
];

/// Frames from the guest and to it.
pub(super) fn frames(sums: &PortCounters) -> [u64; 2] {
    [sums.ingress_frames.get(), sums.egress_frames.get()]
}

/// Their octets.
pub(super) fn octets(sums: &PortCounters) -> [u64; 2] {
    [sums.ingress_octets.get(), sums.egress_octets.get()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::frame::verdict::DropReason;

    #[test]
    fn a_network_has_carried_what_its_members_have() {
        let [one, other] = [PortCounters::default(), PortCounters::default()];
        one.ingress_octets.add(3);
        other.egress_octets.add(4);
        one.drop_frame(DropReason::NoRoute);
        other.drop_frame(DropReason::NoRoute);
        other.drop_frame(DropReason::HopLimit);
        let network = PortCounters::sum([&one]);
        network.add_all(&PortCounters::sum([&other]));
        assert_eq!(octets(&network), [3, 4]);
        let drops: Vec<_> = network.drops().collect();
        assert_eq!(drops, [(DropReason::NoRoute, 2), (DropReason::HopLimit, 1)]);
    }
}
