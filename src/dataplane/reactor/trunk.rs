//! What a reactor knows of a trunk: the networks that it is in by VLANs, and how frames get the
//! tags of these.
//!
//! A port of one network alone has nothing of this, and no work by it.

use super::flood_limit::FloodLimit;
use crate::{
    dataplane::{
        forward::{Network, tables::NetworkKey},
        frame::{BURST, MAX_FRAME_LEN, Outgoing, tag},
        port::{Delivered, Port, Undelivered},
    },
    wire::{ethernet::TAG_LEN, vlan::VlanId},
};
use arrayvec::ArrayVec;
use std::{fmt, sync::Arc};

/// Octets of heads that are tagged at a time, if they are more than one.
// A burst's heads of 192 octets fit. Frames from links are all head, and are few then.
const HEADS: usize = 64 << 10;

/// A network that a trunk is in by a VLAN.
#[derive(Debug)]
pub(super) struct Lane {
    vlan: VlanId,
    /// As it was published, and which of its members the trunk is.
    pub(super) place: (Arc<Network>, usize),
    /// What may be flooded there.
    pub(super) floods: FloodLimit,
}

/// What makes a port a trunk.
#[derive(Default)]
pub(super) struct Trunk {
    /// In the order of VLANs.
    lanes: Vec<Lane>,
    /// Where heads get their tags.
    heads: Vec<u8>,
}

impl fmt::Debug for Trunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trunk").field("lanes", &self.lanes).finish_non_exhaustive()
    }
}

impl Trunk {
    /// Returns the networks that it is in by VLANs.
    pub(super) fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter()
    }

    /// Returns the network of a VLAN.
    pub(super) fn lane(&self, vlan: VlanId) -> Option<&Lane> {
        let found = self.lanes.binary_search_by_key(&vlan, |lane| lane.vlan).ok()?;
        self.lanes.get(found)
    }

    /// Returns the network of a VLAN, whose frames are limited.
    pub(super) fn lane_mut(&mut self, vlan: VlanId) -> Option<&mut Lane> {
        let found = self.lanes.binary_search_by_key(&vlan, |lane| lane.vlan).ok()?;
        self.lanes.get_mut(found)
    }

    /// Whether it is in a network by a VLAN.
    pub(super) fn is_in(&self, network: NetworkKey) -> bool {
        self.lanes.iter().any(|lane| lane.place.0.key == network)
    }

    /// Takes over that it is member number `at` of a network by a VLAN.
    pub(super) fn join(&mut self, vlan: VlanId, network: &Arc<Network>, at: usize) {
        let place = (Arc::clone(network), at);
        let floods = match self.lane_mut(vlan) {
            // What is left of it stays, where the network is as it was.
            Some(lane) if lane.place.0.key == network.key => std::mem::take(&mut lane.floods),
            _ => FloodLimit::default(),
        };
        // It may have been there by another VLAN, and another network by this one.
        self.leave(network.key);
        self.lanes.retain(|lane| lane.vlan != vlan);
        let mut lane = Lane { vlan, place, floods };
        lane.floods.keep_to(network.domain.storm_pps());
        let before = self.lanes.partition_point(|lane| lane.vlan < vlan);
        self.lanes.insert(before, lane);
    }

    /// It is in a network by no VLAN any more.
    pub(super) fn leave(&mut self, network: NetworkKey) {
        self.lanes.retain(|lane| lane.place.0.key != network);
    }

    /// Puts frames of a network into `port`, with the tag of its VLAN; of the native network as
    /// they are.
    #[cold]
    pub(super) fn deliver(
        &mut self,
        port: &mut dyn Port,
        frames: &[Outgoing<'_>],
        (queue, vlan): (usize, Option<VlanId>),
    ) -> Delivered {
        let Some(vlan) = vlan else { return deliver_native(port, frames, queue) };
        let mut taken = 0;
        while taken < frames.len() {
            let mut tagged = ArrayVec::<Outgoing<'_>, BURST>::new();
            let mut ends = ArrayVec::<usize, BURST>::new();
            self.heads.clear();
            for frame in frames[taken..].iter().take(BURST) {
                let is_one_more = !tagged.is_empty();
                if is_one_more && self.heads.len() + frame.head.len() + TAG_LEN > HEADS {
                    break;
                }
                // No port takes one that is longer.
                let fits = frame.len + TAG_LEN <= MAX_FRAME_LEN;
                let Some(frame) = fits.then(|| tag::put_on(frame, vlan, &mut self.heads)).flatten()
                else {
                    break;
                };
                tagged.push(frame);
                ends.push(self.heads.len());
            }
            if tagged.is_empty() {
                return Delivered { taken, refused: Some(Undelivered::TooLarge) };
            }
            let mut start = 0;
            for (frame, end) in tagged.iter_mut().zip(ends) {
                frame.head = &self.heads[start..end];
                start = end;
            }
            let delivered = port.deliver(&tagged, queue);
            taken += delivered.taken;
            if delivered.refused.is_some() {
                return Delivered { taken, ..delivered };
            }
        }
        Delivered::all(taken)
    }
}

/// Puts frames into `port` as they are, but none that would reach another network there.
fn deliver_native(port: &mut dyn Port, frames: &[Outgoing<'_>], queue: usize) -> Delivered {
    let bare = frames.iter().take_while(|frame| !tag::names_vlan(frame.head)).count();
    let delivered = port.deliver(&frames[..bare], queue);
    let refused = (bare < frames.len()).then_some(Undelivered::VlanNotAllowed);
    Delivered { refused: delivered.refused.or(refused), ..delivered }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataplane::{
            frame::{Burst, FrameSet},
            port::{PortFailure, Wakeup},
        },
        wire::vnet::Offload,
    };

    /// A port that keeps what is delivered, so many frames at most.
    #[derive(Default)]
    struct Keeps {
        kept: Vec<Vec<u8>>,
        room: usize,
    }

    impl Port for Keeps {
        fn queues(&self) -> usize {
            1
        }
        fn runs(&self, _queue: usize) -> bool {
            true
        }
        fn wakeup(&self, _queue: usize) -> Option<Wakeup<'_>> {
            None
        }
        fn poll(&mut self, _queue: usize, _burst: &mut Burst) -> Result<(), PortFailure> {
            Ok(())
        }
        fn complete(&mut self, _queue: usize, _done: FrameSet) {}
        fn arm(&mut self, _queue: usize) -> Result<bool, PortFailure> {
            Ok(false)
        }
        fn has_room(&mut self, _queue: usize) -> bool {
            true
        }
        fn deliver(&mut self, frames: &[Outgoing<'_>], _queue: usize) -> Delivered {
            let room = self.room - self.kept.len();
            let taken = frames.len().min(room);
            self.kept.extend(frames[..taken].iter().map(|frame| frame.head.to_vec()));
            let refused = (taken < frames.len()).then_some(Undelivered::Full);
            Delivered { taken, refused }
        }
    }

    fn vlan() -> Option<VlanId> {
        VlanId::new(10)
    }

    /// A frame of so many octets, the last of which are its number.
    fn frame(len: usize, number: u8) -> Vec<u8> {
        [vec![2; 12], vec![8, 0], vec![number; len - 14]].concat()
    }

    fn tagged(frame: &[u8]) -> Vec<u8> {
        [&frame[..12], &[0x81, 0, 0, 10], &frame[12..]].concat()
    }

    #[test]
    fn frames_get_their_tags_however_many_and_however_long() {
        let lens = [40_000, 60, 40_000, 65_545, 14];
        let frames: Vec<_> = lens.iter().zip(0..).map(|(len, at)| frame(*len, at)).collect();
        let leave: Vec<_> =
            frames.iter().map(|frame| Outgoing::private(frame, Offload::None)).collect();
        let mut port = Keeps { room: 100, ..Keeps::default() };
        let mut trunk = Trunk::default();
        assert_eq!(trunk.deliver(&mut port, &leave, (0, vlan())), Delivered::all(5));
        assert_eq!(port.kept, frames.iter().map(|frame| tagged(frame)).collect::<Vec<_>>());
        let mut port = Keeps { room: 3, ..Keeps::default() };
        let sent = trunk.deliver(&mut port, &leave, (0, vlan()));
        assert_eq!(sent, Delivered { taken: 3, refused: Some(Undelivered::Full) });
    }

    #[test]
    fn what_would_be_too_long_with_a_tag_is_refused_alone() {
        let [short, long] = [frame(60, 1), frame(65_549, 2)];
        let leave = [&short, &long, &short].map(|frame| Outgoing::private(frame, Offload::None));
        let mut port = Keeps { room: 100, ..Keeps::default() };
        let mut trunk = Trunk::default();
        let refused = Some(Undelivered::TooLarge);
        let sent = trunk.deliver(&mut port, &leave, (0, vlan()));
        assert_eq!(sent, Delivered { taken: 1, refused: refused.clone() });
        let sent = trunk.deliver(&mut port, &leave[1..], (0, vlan()));
        assert_eq!(sent, Delivered { taken: 0, refused });
        assert_eq!(trunk.deliver(&mut port, &leave, (0, None)), Delivered::all(3), "no tag");
    }

    #[test]
    fn no_frame_of_the_native_network_leaves_as_a_vlans() {
        let bare = frame(60, 1);
        let own = tagged(&bare);
        let leave = [&bare, &own, &bare].map(|frame| Outgoing::private(frame, Offload::None));
        let mut port = Keeps { room: 100, ..Keeps::default() };
        let sent = Trunk::default().deliver(&mut port, &leave, (0, None));
        let refused = Some(Undelivered::VlanNotAllowed);
        assert_eq!(sent, Delivered { taken: 1, refused });
        assert_eq!(port.kept, [bare]);
    }
}
