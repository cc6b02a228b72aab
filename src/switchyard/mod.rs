//! A Switchyard fabric: raw Ethernet frames between programs, over TCP.
//!
//! ```text
//! clients ─ TCP ─ server ─ protocol (octets ⇄ messages) ─ fabric ─ body (JSON), macs (where)
//! ```
//! The fabric is a state machine without I/O or clock; `server` gives it the messages of its
//! clients one after the other and sends what comes out. It is no part of the data plane: nothing
//! else of the daemon uses it, and it uses nothing of the daemon but addresses and formats.

pub mod body;
pub mod capture;
pub mod client;
pub mod expression;
pub mod fabric;
pub mod filter;
mod macs;
pub mod protocol;
pub mod server;

pub use client::Client;
