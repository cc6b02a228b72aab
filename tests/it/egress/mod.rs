//! Guests of public networks and the world: through the daemon, the host's kernel and its NAT.

mod balancers;
mod floating;
mod forwards;
mod kernel;
mod lives;
pub(crate) mod rig;
mod user;
mod world;
