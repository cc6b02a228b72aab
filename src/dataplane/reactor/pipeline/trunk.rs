//! The life of a trunk's burst: parted by its frames' tags, then decided and delivered network by
//! network, as the burst of a port is that has but one.

use super::{Context, Pipeline};
use crate::{
    dataplane::{
        forward::tables::PortId,
        frame::{
            BURST, FrameSet, tag,
            verdict::{DropReason, Verdict},
        },
        reactor::{
            ports::{Ports, Slot},
            ways::Ways,
        },
    },
    wire::vlan::VlanId,
};
use arrayvec::ArrayVec;
use std::time::Instant;

/// The frames of a burst by their VLANs, those without one among them.
type Parts = ArrayVec<(Option<VlanId>, FrameSet), BURST>;

impl Pipeline {
    /// Decides about the frames of a trunk, and carries that out. Returns those that are dealt
    /// with.
    #[cold]
    pub(super) fn run_trunk<L: Ways>(
        &mut self,
        ports: &mut Ports,
        links: &mut L,
        ingress: PortId,
        now: Instant,
    ) -> FrameSet {
        let Some(slot) = ports.healthy_mut(ingress) else { return FrameSet::EMPTY };
        let (parts, refused) = self.part(slot);
        if slot.is_blocked() {
            self.decisions.end_all(DropReason::PortBlocked);
        } else {
            parts.iter().for_each(|(vlan, part)| self.decide_part(slot, (*vlan, *part), now));
        }
        if let Some(limiter) = &mut slot.allowance.from_guest {
            limiter.refill(now);
            self.limit(*limiter);
        }
        let mut dealt = FrameSet::EMPTY;
        // Those that are refused are of no network: they are counted.
        for (vlan, part) in parts.into_iter().chain([(None, refused)]) {
            let context = &mut Context { ports, links, ingress, vlan, now };
            dealt |= self.deliver(part, context);
        }
        dealt
    }

    /// Takes off the tags of all frames that wait. Returns those of each VLAN that the trunk lists,
    /// and the others, which end here.
    fn part(&mut self, slot: &Slot) -> (Parts, FrameSet) {
        let (mut parts, mut refused) = (Parts::new(), FrameSet::EMPTY);
        for at in self.waiting().iter() {
            let listed = tag::take_off(&mut self.burst.frames_mut().0[at])
                .and_then(|vlan| slot.place(vlan).map(|_| vlan).ok_or(DropReason::VlanNotAllowed));
            match listed {
                Ok(vlan) => match parts.iter_mut().find(|(known, _)| *known == vlan) {
                    Some((_, part)) => part.insert(at),
                    // No more than there are frames.
                    None => parts.push((vlan, std::iter::once(at).collect())),
                },
                Err(reason) => {
                    self.decisions.end(at, Verdict::Drop(reason));
                    refused.insert(at);
                }
            }
        }
        (parts, refused)
    }

    /// Decides about the frames of one VLAN.
    fn decide_part(&mut self, slot: &Slot, (vlan, part): (Option<VlanId>, FrameSet), now: Instant) {
        let Some((network, member)) = slot.member(vlan) else { return };
        let (burst, decisions) = (&mut self.burst, &mut self.decisions);
        let effects = self.decider.decide_some((network, member), (burst, part), decisions, now);
        slot.count_lessons(&effects.lessons);
        self.note(network.key, effects);
    }
}
