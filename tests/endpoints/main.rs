//! Ports that are no guests' rings, as their peers see them: sockets that listen, are connected, or
//! carry datagrams. The test is what control is to the data plane.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod arrivals;
mod datagrams;
mod devices;
mod handover;
mod hostile;
#[path = "../support/namespace.rs"]
mod namespace;
#[path = "../support/not_run.rs"]
mod not_run;
mod peer;
mod rig;
mod streams;
