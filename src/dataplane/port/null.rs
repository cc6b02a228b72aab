//! A port that takes every frame and sends none.

use super::{Delivered, Port, PortFailure, Wakeup};
use crate::dataplane::frame::{Burst, FrameSet, Outgoing};

/// Where frames end.
#[derive(Debug)]
pub struct Null;

impl Port for Null {
    fn queues(&self) -> usize {
        0
    }

    fn runs(&self, _queue: usize) -> bool {
        false
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
        Delivered::all(frames.len())
    }
}
