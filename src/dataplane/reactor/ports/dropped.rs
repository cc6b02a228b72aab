//! Frames that ports do not get, or that go nowhere from them: counted there, and some of them kept
//! for who asks why.

use super::{Ports, Slot, slot_mut};
use crate::{
    dataplane::{
        forward::tables::PortId,
        frame::{Outgoing, verdict::DropReason},
        reactor::{
            dropped::{Dropping, LastDrops, NewDrops},
            tap::{Outcome, Point},
        },
    },
    wire::vlan::VlanId,
};
use std::time::Instant;

impl Ports {
    /// Drops frames that came from a port, each with its first octets and its length.
    #[cold]
    pub fn drop_ingress<'a>(
        &mut self,
        (port, vlan): (PortId, Option<VlanId>),
        frames: impl Iterator<Item = (&'a [u8], usize)>,
        reason: DropReason,
        now: Instant,
    ) {
        let Self { slots, last_drops, .. } = self;
        let Some(slot) = slot_mut(slots, port) else { return };
        let dropping = Dropping { port, vlan, point: Point::FromGuest, reason };
        for frame in frames {
            slot.counters.drop_frame(reason);
            last_drops.keep(dropping, frame, &mut slot.kept_drops, now);
        }
    }

    /// Returns the frames that were dropped and kept since there were `from`.
    pub fn dropped_since(&self, from: u64) -> NewDrops {
        self.last_drops.since(from)
    }
}

impl Slot {
    /// Drops frames that it does not take, and that nobody waits with.
    #[cold]
    pub(super) fn drop_egress(
        &mut self,
        frames: &[Outgoing<'_>],
        vlan: Option<VlanId>,
        reason: DropReason,
        (last_drops, now): (&mut LastDrops, Instant),
    ) {
        let dropping = Dropping { port: self.id, vlan, point: Point::ToGuest, reason };
        for frame in frames {
            self.counters.drop_frame(reason);
            last_drops.keep(dropping, frame.beginning(), &mut self.kept_drops, now);
        }
        self.see(frames, vlan, Outcome::Dropped(reason));
    }
}
