//! VDE's programs and ours, each in the place of the other.

mod hostile;
mod stock;
mod switches;
