//! Who asks: a vNIC, known by its port, and what it may.

use super::{Guests, resolver::Resolver, tokens::Tokens};
use crate::{
    dataplane::forward::tables::{NetworkKey, PortId},
    token_bucket::TokenBucket,
};
use std::sync::{Arc, Mutex, atomic::AtomicU8};

/// What all stacks have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) guests: Guests,
    pub(super) tokens: Tokens,
    pub(super) resolver: Arc<Resolver>,
}

/// What a connection's service knows of who asks.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub(super) common: Arc<Common>,
    /// The vNIC's port, and the network that it is in.
    pub(super) whose: (PortId, NetworkKey),
    /// Whether the guest has routed the request for somebody else.
    pub(super) is_routed: bool,
    /// How many hops answers may make from now on; zero: as many as usual.
    pub(super) hop_limit: Arc<AtomicU8>,
    /// What the vNIC may still ask.
    pub(super) requests: Arc<Mutex<TokenBucket>>,
}
