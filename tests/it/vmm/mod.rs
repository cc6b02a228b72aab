//! Stories of VMMs and drivers: old ones, moving ones, and those that mean ill.

mod legacy;
mod migration;
mod misbehaviour;
