//! The behaviour of the real daemon: guests ask, the switch answers, peers hear. A module a story,
//! a folder a subject; what stories are told with is in `tests/support`.
//!
//! Most guests live in the test process (`guest`: a vhost-user frontend with smoltcp as its IP
//! stack); `guests` boots real Linux kernels, and runs DPDK.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod api;
mod attacks;
mod capture;
mod cli;
mod dives;
mod egress;
mod guests;
mod life;
mod ports;
mod services;
#[path = "../support/mod.rs"]
mod support;
mod traffic;
mod vde;
mod vmm;
mod vswitch;

use support::{
    certificates, command, daemon, driver, events, frames, frames::field, guest, hostile,
    innocents, inside, lab, lan, machine, name_server, namespace, network, numbered, random, rude,
    segments, service_manager, streams,
};
