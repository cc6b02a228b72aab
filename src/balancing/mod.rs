//! Load balancers: who takes a new flow, and who is well enough to.
//!
//! ```text
//! backends ─ maglev: a place for each hash of a flow ─▶ host_network: the kernel's table
//!     ▲ healthy or not                                   (which keeps each flow where it is)
//!     └── health ◀── checks: a task a backend ◀── check: one connection, request or echo
//! ```
//! Flows themselves are the kernel's: nothing of them passes here.

mod check;
mod checks;
mod health;
pub mod maglev;

pub use check::{Asks, can_ping};
pub use checks::{Checks, Plan, Report, Whose};
pub use health::{Health, Patience};
