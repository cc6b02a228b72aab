//! The behaviour of the real daemon: guests ask, the switch answers, peers hear. A module a story.
//!
//! Most guests live in the test process (`guest`: a vhost-user frontend with smoltcp as its IP
//! stack); `machines` boots real Linux kernels, `testpmd` is DPDK.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
mod api;
mod attacks;
mod changes;
mod cli;
mod clients;
mod commands;
mod crashes;
mod daemon;
mod disk;
mod ends;
mod firmware;
mod flags;
mod forwarding;
mod frames;
mod golden;
mod guard;
mod guest;
mod handover;
mod lease;
mod legacy;
mod libvirt;
mod limits;
mod locks;
mod machines;
mod migration;
mod misbehaviour;
mod offload;
mod paths;
mod probe;
mod reach;
mod readme;
mod reported;
mod restart;
mod rude;
mod service;
mod soak;
mod storage;
mod strangers;
mod testpmd;
mod vmm_args;
mod watches;
