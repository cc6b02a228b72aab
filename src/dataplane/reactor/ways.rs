//! What the packet path needs of the reactor that runs it, beside ports: ways to other reactors,
//! and a stop-watch.

use crate::dataplane::{
    forward::tables::{NetworkKey, PortId},
    frame::Outgoing,
    port::HeldUp,
};

/// What is written on frames to another reactor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// The port that has sent them.
    pub from: PortId,
    /// Whom they are for.
    pub to: To,
    /// The queue of the sender that they came from.
    pub queue: usize,
}

/// Whom frames are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// A port of that reactor.
    Port(PortId),
    /// A trunk of that reactor, as a member of this network by a VLAN of its own.
    Trunk(PortId, NetworkKey),
    /// All ports of a network that are that reactor's. It sends them to no further one, which has
    /// its own: no frame goes round.
    Network(NetworkKey),
}

/// The way to ports of other reactors.
pub trait Ways {
    /// Which reactor this is.
    fn here(&self) -> u16;
    /// Copies frames into the link to a reactor, in order. Returns how many: fewer where the link
    /// is full, or their sender has its share.
    fn send(&mut self, reactor: u16, envelope: &Envelope, frames: &[Outgoing<'_>]) -> usize;
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
