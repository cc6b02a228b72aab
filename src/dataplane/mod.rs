//! dp
pub mod classify;
pub mod counters;
pub mod egress;
pub mod forward;
pub mod frame;
pub mod guard;
pub mod port;
pub mod responders;
pub mod snapshot;
pub mod verdict;
