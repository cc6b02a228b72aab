//! dp
pub mod classify;
pub mod counters;
pub mod egress;
pub mod forward;
pub mod guard;
pub mod responders;
pub mod snapshot;
pub mod verdict;
