//! A fabric as its clients see it: `mvirt-switchyardd` as a process, its protocol over TCP.
//!
//! Nothing here waits for silence. A fabric answers in order, so whoever has looked something up
//! has heard all that was sent before.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod daemon;
mod dhcp;
mod files;
mod golden;
mod hostile;
mod lines;
mod network;
mod python;
mod support;
mod switching;
mod tools;
