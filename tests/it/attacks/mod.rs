//! What one guest, VMM or client may do to all others: nothing. Each test plays one attack beside
//! two innocent guests that send a datagram each millisecond, a client of the API, and a service
//! manager with a watchdog; the daemon is then told to end, in the middle of it, and another one
//! starts in its place.
//!
//! ```text
//! innocents ── a datagram a millisecond ──▶  longest silence ≤ 100 ms, ≥ 95 % arrive
//! client    ── GetVersion, CreateNic, DeleteNic ──▶  each within a second
//! watchdog  ── WATCHDOG=1 at least each two seconds;  SIGTERM ends it within five, with status 0
//! ```
//! Times are the daemon's own: what a thread of the test, or the reactor, waited for a CPU is taken
//! off.

mod bells;
mod chains;
mod clients;
mod descriptors;
mod limits;
mod memory;
mod reactors;
mod rig;
mod stage;
mod work;
