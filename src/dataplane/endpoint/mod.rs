//! Who keeps ports attached: an async task a vNIC, which makes ports of what it is to be reached
//! by, and takes them back.
//!
//! ```text
//! VMM ──── channel ─ vhost_user ─┐
//! device ─────────── tap ────────┴─ port_handle ── attach, detach ──▶ reactor
//! ```

mod channel;
pub mod export;
pub mod listener;
mod lockout;
pub mod port_handle;
pub mod tap;
pub mod vhost_user;

use crate::dataplane::port::vhost_user::session::Device;
use export::Exported;
use listener::Access;
use port_handle::PortHandle;
use std::{io, path::PathBuf};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};
use vhost_user::{Served, Start};

/// What a vNIC is to be reached by.
#[derive(Debug)]
pub enum PortSpec {
    /// A socket that a VMM dials.
    VhostUser(vhost_user::Spec),
    /// A TAP device.
    Tap(tap::Spec),
}

/// What is the same for all ports.
#[derive(Debug, Clone, Copy)]
pub(super) struct Common {
    /// Octets of a guest's memory that may be mapped.
    pub(super) guest_memory: u64,
    /// Who may open sockets, where a vNIC does not say.
    pub(super) access: Access,
}

/// Where a VMM dials a vNIC.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    /// What a vNIC does not say.
    access: Access,
    /// What a VMM that connects finds.
    device: watch::Sender<Device>,
}

impl Socket {
    /// Lets others open it, from now on.
    pub(super) fn set_access(&self, access: Access) -> io::Result<()> {
        access.or(self.access).apply(&self.path)
    }

    /// Tells VMMs of another device, each at its next connection.
    pub(super) fn set_device(&self, device: Device) {
        self.device.send_replace(device);
    }

    /// Takes it away.
    pub(super) fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a socket");
        }
    }
}

/// Opens what a vNIC is to be reached by, or goes on with what another process of the daemon
/// `exported`, and keeps `port` attached until `stop`. Returns the socket, where there is one, and
/// the task.
pub(super) fn serve(
    spec: PortSpec,
    port: PortHandle,
    common: Common,
    exported: Option<Exported>,
    stop: oneshot::Receiver<()>,
) -> io::Result<(Option<Socket>, JoinHandle<()>)> {
    // A task begins after all that can fail: nobody could end it.
    match spec {
        PortSpec::VhostUser(vhost_user::Spec { path, access, device }) => {
            let start = match exported {
                Some(exported) => Start::import(exported, device, port.name())?,
                None => Start::new(listener::listen(&path, access.or(common.access))?),
            };
            let device = watch::Sender::new(device);
            let served = Served { device: device.subscribe(), guest_memory: common.guest_memory };
            let task = tokio::spawn(vhost_user::serve(served, start, port, stop));
            Ok((Some(Socket { path, access: common.access, device }), task))
        }
        PortSpec::Tap(spec) => {
            let tap = tap::open(&spec, exported)?;
            Ok((None, tokio::spawn(tap::serve(spec, tap, port, stop))))
        }
    }
}
