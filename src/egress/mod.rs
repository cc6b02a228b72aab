//! Out into the world without privileges: packets of vNICs become connections and datagrams of
//! sockets of this host. What the helper `mvirt-egress` is made of, but for its sockets.
//!
//! ```text
//! packets ─▶ packet ─▶ fragments ─▶ connection ─▶ a socket
//!               └───────── policy: may it? ───────┘ │
//! packets ◀─ compose ◀────────────────────────────◀─┘
//!
//! frames ⇄ segment ⇄ packets    where the other end is a segment, and not vNICs
//! ```
//! Octets and time in, octets out: no I/O, no clock.

pub mod buffer;
pub mod compose;
pub mod connection;
pub mod fragments;
pub mod packet;
pub mod policy;
pub mod protocol;
pub mod segment;
