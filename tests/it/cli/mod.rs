//! Stories of the command lines of both programs: what they take, print and refuse.

mod commands;
mod flags;
mod output;
mod probe;
mod reach;
mod readme;
mod vmm_args;
