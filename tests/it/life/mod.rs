//! Stories of the daemon's life: it is killed, replaced, ended, and its disk fails.

mod batches;
mod crashes;
mod disk;
mod ends;
mod handover;
mod kept;
mod locks;
mod members;
mod reload;
mod restart;
mod soak;
mod storage;
