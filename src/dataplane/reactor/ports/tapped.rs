//! Ports whose frames are captured: which they are, and what is seen of what is put into them.

use super::{Ports, Slot};
use crate::{
    dataplane::{
        frame::Outgoing,
        reactor::tap::{Chunk, Flight, Outcome, Point, Recorder, Seen, Tap, Taps},
    },
    wire::vlan::VlanId,
};
use std::{cell::RefCell, rc::Rc, sync::Arc, time::Instant};

impl Ports {
    /// Begins a capture.
    pub fn begin_tap(&mut self, tap: Arc<Tap>, recorder: Recorder) {
        self.taps.borrow_mut().begin(tap, recorder);
        self.look_for_taps();
    }

    /// Ends one.
    pub fn end_tap(&mut self, id: u64) {
        self.taps.borrow_mut().end(id);
        self.look_for_taps();
    }

    /// Keeps the last frames of all ports from now on.
    pub fn keep_frames(&mut self, flight: Flight) {
        self.taps.borrow_mut().keep(flight);
        self.look_for_taps();
    }

    /// Returns the last frames, if they are kept.
    pub fn kept_frames(&self) -> Vec<Arc<Chunk>> {
        self.taps.borrow_mut().kept()
    }

    /// Hands on what was captured. `is_idle`: nothing more may come for long.
    pub fn end_turn_of_taps(&mut self, now: Instant, is_idle: bool) {
        if self.is_tapped {
            self.taps.borrow_mut().end_turn(now, is_idle);
        }
    }

    /// Looks anew who captures which port's frames.
    fn look_for_taps(&mut self) {
        self.is_tapped = !self.taps.borrow().is_empty();
        for slot in self.slots.iter_mut().flatten() {
            slot.look_for_taps(&self.taps);
        }
    }
}

impl Slot {
    /// Looks who captures its frames now.
    pub(super) fn look_for_taps(&mut self, taps: &Rc<RefCell<Taps>>) {
        self.tapped = Taps::of(taps, self.id, |network| self.is_in(network));
    }

    /// What the port has taken is seen by who captures it.
    #[cold]
    pub(super) fn see_delivered(&self, frames: &[Outgoing<'_>], vlan: Option<VlanId>) {
        self.see(frames, vlan, Outcome::Delivered);
    }

    /// Frames that were put into the port, or were to be, are seen by who captures it.
    pub(super) fn see(&self, frames: &[Outgoing<'_>], vlan: Option<VlanId>, outcome: Outcome) {
        if let Some(tapped) = &self.tapped {
            tapped.see(frames, Seen { port: self.id, vlan, point: Point::ToGuest, outcome });
        }
    }
}
