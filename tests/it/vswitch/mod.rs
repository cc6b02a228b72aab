//! `mvirt-vswitch`: the promises of the program that it takes the place of, each under its number.

mod commands;
mod machines;
mod rig;
mod switching;
