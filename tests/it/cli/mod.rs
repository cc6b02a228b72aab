//! Stories of the command lines of the programs: what they take, print and refuse.

mod book;
mod commands;
mod doctor;
mod flags;
pub(crate) mod install;
mod lists;
mod net_toml;
mod notice;
mod output;
mod probe;
mod reach;
mod readme;
mod top;
mod trace;
mod vmm_args;
