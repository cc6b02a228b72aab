//! mvirt-net: the network between your virtual machines.
//!
//! One daemon per host: isolated, routed networks for VMs; every vNIC is a vhost-user socket.
//!
//! ```text
//! bin/mvirt-net ─ daemon ─ api/ (who comes) ─ control/ (desired state) ─ store/ (JSON on disk)
//!                                                │ publish, attach, detach
//!                                            dataplane/
//!   endpoint/  who keeps ports attached: one task a vNIC, which talks to its VMM
//!   reactor/   who carries: one thread, its ports, links to others, and the pipeline:
//!              classify → guard → gateway │ route → rewrite
//!   port/      in and out: the trait Port, and vhost-user's (messages, memory, rings)
//!   gateway/   what we answer: ARP, NDP, DHCP, ICMP
//!   forward/   where to: tables, guard, limits, routes
//!   frame/     what travels: frames, spans, bursts, verdicts
//! ```
//! In `dataplane/`, a room uses only those below it in this drawing.
//!
//! Where to start: a frame enters in `dataplane/port/vhost_user/queue/tx.rs`, is decided about in
//! `dataplane/forward/routed.rs` for `dataplane/reactor/pipeline/`, and leaves in
//! `dataplane/port/vhost_user/queue/rx.rs`. A request enters in `control/service.rs` and ends in
//! `store/json.rs`. Formats are in `wire/`; nouns in `model`; defaults in `config`.
//! `tests/layering.rs` says who may use whom.

pub mod access;
pub mod account;
pub mod addr;
pub mod api;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
mod descriptors;
pub mod handover;
pub mod heartbeat;
pub mod lock;
pub mod log;
pub mod log_limit;
pub mod log_writer;
pub mod model;
mod mutex;
pub mod proto;
pub mod remains;
pub mod signals;
pub mod store;
pub mod token_bucket;
pub mod wire;
