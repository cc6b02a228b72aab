//! Stories of the API: who may use it, what it keeps, changes and tells.

mod access;
mod changes;
mod objects;
mod ports;
mod strangers;
mod switched;
mod trunks;
mod watches;
