//! mvirt-net: the network between your virtual machines.
//!
//! One daemon per host: isolated networks for VMs, routed and switched. A vNIC is a vhost-user
//! socket; ports of other kinds lead to what has none, and to other hosts.
//!
//! ```text
//! bin/mvirt-net ─ daemon ─ api/ (who comes) ─ control/ (desired state) ─ store/ (JSON on disk)
//!                                                │ publish, attach, detach
//!                                            dataplane/
//!   endpoint/  who keeps ports attached: one task a vNIC (vhost_user talks to a VMM)
//!   reactor/   who carries: one thread, its ports, links to others, and the pipeline:
//!              classify → guard → gateway │ route → rewrite → limit → deliver
//!   port/      in and out: the trait Port; vhost-user's (messages, memory, rings), TAP's
//!   gateway/   what we answer and announce: ARP, NDP, DHCP, ICMP, router advertisements
//!   forward/   where to: tables, guard, limits, routes
//!   frame/     what travels: frames, spans, bursts, verdicts
//! ```
//! In `dataplane/`, a room uses only those below it in this drawing.
//!
//! Where to start: a frame enters in `dataplane/port/vhost_user/queue/tx.rs`, is decided about in
//! `dataplane/forward/routed.rs` for `dataplane/reactor/pipeline/`, and leaves in
//! `dataplane/port/vhost_user/queue/rx.rs`. A VMM's message is taken in
//! `dataplane/endpoint/vhost_user.rs` and understood in `dataplane/port/vhost_user/session/`. A
//! request enters in `api/`, is served by `control/service.rs`, becomes durable in `store/json/` by
//! way of `control/change.rs`, and is in force once what `control/compile.rs` makes of it is
//! published. What the host's kernel is told is in `host_network/`, and how public networks reach
//! the world is chosen in `way_out`. Formats are in `wire/`; nouns in `model`; what a port is to be
//! made of in `locator`; defaults in `config`, and where their values come from in `flags`; what
//! `mvirt-egress` is made of, in `egress/`. A program that asks a daemon begins in `client/`.
//! `tests/layering.rs` says who may use whom; CONTRIBUTING.md, where what is new belongs.

pub mod access;
pub mod account;
pub mod addr;
pub mod api;
mod backoff;
pub mod balancing;
pub mod bpf;
pub mod cable;
pub mod capture;
pub mod client;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod descriptor_store;
mod descriptors;
pub mod dives;
pub mod egress;
pub mod egress_process;
pub mod embedded;
mod file_limit;
pub mod flags;
pub mod handover;
pub mod heartbeat;
pub mod host_network;
pub mod impair;
pub mod lists;
pub mod locator;
pub mod lock;
pub mod log;
pub mod log_limit;
pub mod log_writer;
pub mod manual;
pub mod model;
mod mutex;
pub mod net_toml;
pub mod pcapng;
pub mod printable;
pub mod proto;
pub mod reason;
pub mod reference;
pub mod remains;
mod resolv_conf;
pub mod services;
pub mod signals;
pub mod store;
pub mod switchyard;
pub mod telemetry;
pub mod token_bucket;
pub mod way_out;
pub mod web;
pub mod wire;
pub mod written;
