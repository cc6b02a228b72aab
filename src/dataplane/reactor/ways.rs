//! What the packet path needs of the reactor that runs it, beside ports: ways to other reactors,
//! and a stop-watch.

use crate::dataplane::{forward::tables::PortId, frame::Outgoing, port::HeldUp};

/// The way to ports of other reactors.
pub trait Ways {
    /// Which reactor this is.
    fn here(&self) -> u16;
    /// Copies frames from `queue` of the port `from` into the link to a reactor, for one of its
    /// ports, in order. Returns how many: fewer where the link is full, or `from` has its share.
    fn send(
        &mut self,
        from: PortId,
        to: (u16, PortId),
        queue: usize,
        frames: &[Outgoing<'_>],
    ) -> usize;
    // These three have defaults for callers without a reactor: there, nothing is timed.
    /// Whether what is done for each port is to be timed.
    fn watches(&self) -> bool {
        false
    }
    /// Begins to time something, if ports are to be timed.
    fn start(&mut self) {}
    /// Returns for how long the reactor was held up since `start`, if that was too long and ports
    /// are to be timed.
    fn held_up(&mut self) -> Option<HeldUp> {
        None
    }
}
