//! `mvirt-dives`: the promises of the program whose mesh it joins, each under its number.

mod commands;
mod hosts;
mod mesh;
mod rig;
