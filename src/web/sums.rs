//! What counters come to, as far as it is told by `/metrics`.

use crate::dataplane::{counters::PortCounters, frame::verdict::DropReason};

/// What the counters of a vNIC, port or network come to.
#[derive(Debug, Default, Clone)]
pub(super) struct Sums {
    pub(super) counts: [u64; COUNTS],
    /// By [`DropReason::ALL`].
    pub(super) drops: Vec<(DropReason, u64)>,
}

/// From the guest and to it: frames and octets.
pub(super) const FRAMES: [usize; 2] = [0, 1];
pub(super) const OCTETS: [usize; 2] = [2, 3];
const COUNTS: usize = 11;

/// Of both ways.
pub(super) const DIRECTIONS: [&str; 2] = ["from_guest", "to_guest"];

/// Those of [`Sums`] that have a family of their own: where they are, its name, and what it is.
pub(super) const PLAIN: &[(usize, &str, &str)] = &[
    (4, "mvirt_net_forwarded_frames", "Frames of the guest that were delivered to another port"),
    (5, "mvirt_net_answered_frames", "Frames of the guest that were answered by the gateway"),
    (6, "mvirt_net_kicks", "How often the guest, or its socket, has woken a reactor"),
    (7, "mvirt_net_calls", "How often the guest was woken"),
    (8, "mvirt_net_checksums_completed", "Checksums that were completed for the guest"),
    (9, "mvirt_net_segments_cut", "Segments that frames for the guest were cut into"),
    (10, "mvirt_net_receive_stalls", "How often the guest had no receive buffers for too long"),
];

impl Sums {
    pub(super) fn of<'a>(all: impl IntoIterator<Item = &'a PortCounters>) -> Self {
        let mut sums = Self::default();
        for counters in all {
            sums.add(counters);
        }
        sums
    }

    fn add(&mut self, counters: &PortCounters) {
        let counts: [_; COUNTS] = [
            &counters.ingress_frames,
            &counters.egress_frames,
            &counters.ingress_octets,
            &counters.egress_octets,
            &counters.ingress_forwarded,
            &counters.ingress_answered,
            &counters.kicks,
            &counters.calls,
            &counters.checksums_completed,
            &counters.segments_made,
            &counters.receive_stalls,
        ];
        for (sum, count) in self.counts.iter_mut().zip(counts) {
            *sum += count.get();
        }
        for (reason, frames) in counters.drops() {
            self.add_drops(reason, frames);
        }
    }

    fn add_drops(&mut self, reason: DropReason, frames: u64) {
        match self.drops.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, sum)) => *sum += frames,
            None => self.drops.push((reason, frames)),
        }
    }

    pub(super) fn add_sums(&mut self, other: &Self) {
        for (sum, more) in self.counts.iter_mut().zip(other.counts) {
            *sum += more;
        }
        for (reason, frames) in &other.drops {
            self.add_drops(*reason, *frames);
        }
    }

    pub(super) fn carried(&self) -> u64 {
        OCTETS.iter().map(|at| self.counts[*at]).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_carried_what_its_members_have() {
        let [one, other] = [PortCounters::default(), PortCounters::default()];
        one.ingress_octets.add(3);
        other.egress_octets.add(4);
        one.drop_frame(DropReason::NoRoute);
        other.drop_frame(DropReason::NoRoute);
        other.drop_frame(DropReason::HopLimit);
        let mut network = Sums::of([&one]);
        network.add_sums(&Sums::of([&other]));
        assert_eq!(network.carried(), 7);
        assert_eq!(network.drops, [(DropReason::NoRoute, 2), (DropReason::HopLimit, 1)]);
        assert!(PLAIN.iter().all(|(at, ..)| *at < COUNTS));
    }
}
