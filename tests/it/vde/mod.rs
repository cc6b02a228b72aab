//! VDE's programs and ours, each in the place of the other.

mod cable;
mod clouds;
mod guests;
mod hostile;
mod media;
mod plug;
mod stock;
mod switches;
mod trunk;

pub(crate) use stock::Plug;
pub(crate) use switches::lab_with;
