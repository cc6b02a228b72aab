//! Ports of the daemon, with the peers that they are for.

mod connections;
mod devices;
mod gateway;
mod leases;
mod machines;
mod paths;
pub(crate) mod slirp;
mod taps;
mod trunks;
mod vnics;

use crate::{
    daemon::Daemon,
    lab::{self, get},
};
use mvirt_net::proto::Port;

/// Makes the segment "lab", which has no gateway.
fn lab(daemon: &mut Daemon) {
    daemon.network_with("lab", lab::segment);
}

fn create(daemon: &mut Daemon, name: &str, locator: &str) -> Port {
    lab::create(daemon, name, locator).unwrap()
}
