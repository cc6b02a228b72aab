//! Who keeps ports attached: an async task a vNIC, which makes ports of what it is to be reached
//! by, and takes them back.
//!
//! ```text
//! VMM ──── channel ─ vhost_user ─┐
//! device ─────────── tap ────────┼─ port_handle ── attach, detach ──▶ reactor
//! client ─ listen ─ connection ──┤
//! client ─ vde::switch ──────────┤
//! switch ─ vde::plug ────────────┤
//! world ──── slirp ──────────────┤
//! hosts ──── tunnel ─────────────┘
//! ```

pub mod arrivals;
mod channel;
mod connection;
pub mod dial;
pub mod dives;
pub mod export;
pub(in crate::dataplane) mod facts;
pub mod folder;
pub mod given;
mod links;
pub mod listen;
pub mod listener;
mod lockout;
pub mod port_handle;
pub mod single;
pub mod slirp;
pub mod socket;
pub mod switchyard;
pub mod tap;
pub mod tunnel;
pub mod vde;
pub mod vhost_user;

use crate::dataplane::port::vhost_user::session::Device;
use arrivals::{Arrival, Clients};
use export::Exported;
use folder::{OwnFile, Roots};
use listener::Access;
use port_handle::PortHandle;
use socket::Address;
use std::{io, path::PathBuf, sync::Arc};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};
use vhost_user::Start;

/// What a vNIC is to be reached by.
#[derive(Debug)]
pub enum PortSpec {
    /// A socket that a VMM dials.
    VhostUser(vhost_user::Spec),
    /// A TAP device.
    Tap(tap::Spec),
    /// A VLAN of a mesh of switches.
    Dives(dives::Spec),
    /// A socket that others connect to, each of whom is a port of its own.
    Listen(listen::Spec),
    /// A directory that VDE's clients connect to, each of whom is a port of its own.
    VdeSwitch(vde::switch::Spec),
    /// A vNIC's directory, for one VDE client at a time.
    VdeSingle(vde::switch::Spec),
    /// A client of somebody's VDE switch.
    VdePlug(vde::plug::Spec),
    /// A tunnel to other hosts.
    Tunnel(tunnel::Spec),
    /// A Switchyard fabric.
    Switchyard(switchyard::Spec),
    /// The world, by a process of its own.
    Slirp(slirp::Spec),
    /// A socket that is connected to others.
    Dial(dial::Spec),
    /// A vNIC's socket, for one client at a time.
    Single(single::Spec),
    /// What needs nothing opened.
    Given(given::Spec),
    /// Who has connected to a socket that listens.
    Member(Arrival),
}

/// What is the same for all ports.
#[derive(Debug, Clone)]
pub(super) struct Common {
    /// Octets of a guest's memory that may be mapped.
    pub(super) guest_memory: u64,
    /// Who may open sockets, where a vNIC does not say.
    pub(super) access: Access,
    /// Below these folders sockets' paths follow no symbolic links.
    pub(super) roots: Roots,
    /// The switches of meshes.
    pub(super) meshes: dives::Meshes,
}

/// Where a VMM dials a vNIC.
#[derive(Debug)]
pub(super) struct Socket {
    file: OwnFile,
    /// What a vNIC does not say.
    access: Access,
    /// What a VMM that connects finds.
    device: Option<watch::Sender<Device>>,
    /// Who may open it passes through this directory, which is for nothing else.
    directory: Option<PathBuf>,
}

impl Socket {
    /// Returns the one that is at a path now.
    fn new(path: PathBuf, common: &Common) -> Self {
        let file = OwnFile::at(path, &common.roots);
        Self { file, access: common.access, device: None, directory: None }
    }

    /// Lets others open it, from now on.
    pub(super) fn set_access(&self, access: Access) -> io::Result<()> {
        let access = access.or(self.access);
        if let Some(directory) = &self.directory {
            vde::switch::passing(access).apply(directory)?;
        }
        self.file.set_access(access)
    }

    /// Tells VMMs of another device, each at its next connection.
    pub(super) fn set_device(&self, device: Device) {
        if let Some(found) = &self.device {
            found.send_replace(device);
        }
    }

    /// Takes it away.
    pub(super) fn remove(&self) {
        if let Err(error) = self.file.remove() {
            let path = self.file.path().display();
            tracing::warn!(%path, %error, "cannot remove a socket");
        }
    }
}

/// A port that is served.
pub(super) struct Served {
    /// Where it is to be dialled, if it is.
    pub(super) socket: Option<Socket>,
    /// Of a listening port.
    pub(super) clients: Option<Arc<Clients>>,
    pub(super) task: JoinHandle<()>,
}

/// Opens what a vNIC is to be reached by, or goes on with what another process of the daemon
/// `exported`, and keeps `port` attached until `stop`.
pub(super) fn serve(
    spec: PortSpec,
    port: PortHandle,
    common: &Common,
    exported: Option<Exported>,
    stop: oneshot::Receiver<()>,
) -> io::Result<Served> {
    let (mut socket, mut clients) = (None, None);
    // A task begins after all that can fail: nobody could end it.
    let task = match spec {
        PortSpec::VhostUser(vhost_user::Spec { path, access, device }) => {
            let start = match exported {
                Some(exported) => Start::import(exported, device, port.name())?,
                None => {
                    let place = common.roots.place(&path)?;
                    Start::new(listener::listen(&place, access.or(common.access))?)
                }
            };
            let device = watch::Sender::new(device);
            let served = vhost_user::Served {
                device: device.subscribe(),
                guest_memory: common.guest_memory,
            };
            socket = Some(Socket { device: Some(device), ..Socket::new(path, common) });
            tokio::spawn(vhost_user::serve(served, start, port, stop))
        }
        PortSpec::Tap(spec) => {
            let tap = tap::open(&spec, exported)?;
            tokio::spawn(tap::serve(spec, tap, port, stop))
        }
        PortSpec::Dives(spec) => {
            let joined = dives::join(&spec, &common.meshes, exported)?;
            tokio::spawn(dives::serve(spec, common.meshes.clone(), joined, port, stop))
        }
        PortSpec::Listen(spec) => {
            let access = spec.access.or(common.access);
            let start = listen::Start::new(&spec, access, exported, &common.roots)?;
            if let Address::Unix(path) = spec.address {
                socket = Some(Socket::new(path, common));
            }
            let framing = spec.framing;
            let admitted = Clients::restored_by(spec.max_clients, move |fds| {
                let made = framing.import(fds)?.ok_or(io::ErrorKind::UnexpectedEof)?;
                Ok(move |port, stop| connection::serve(made, port, stop))
            });
            clients = Some(Arc::clone(&admitted));
            tokio::spawn(listen::serve(start, admitted, port, stop))
        }
        PortSpec::Single(spec) => {
            let access = spec.access.or(common.access);
            let start = single::Start::new(&spec, access, exported, &common.roots)?;
            socket = Some(Socket::new(spec.path, common));
            tokio::spawn(single::serve(start, port, stop))
        }
        PortSpec::VdeSwitch(spec) => {
            let access = spec.access.or(Access { mode: None, ..common.access });
            let spec = vde::switch::Spec { access, ..spec };
            let start = vde::switch::Start::new(&spec, exported, &common.roots)?;
            socket = Some(Socket { access, ..Socket::new(spec.control(), common) });
            let admitted = start.clients(spec.max_clients);
            clients = Some(Arc::clone(&admitted));
            tokio::spawn(vde::switch::serve(start, admitted, port, stop))
        }
        PortSpec::VdeSingle(spec) => {
            // As of other vNICs' sockets, and not as VDE has it.
            let access = spec.access.or(common.access).or(listener::DEFAULT);
            let spec = vde::switch::Spec { access, ..spec };
            let start = vde::single::Start::new(&spec, exported, &common.roots)?;
            let directory = Some(spec.directory.clone());
            socket = Some(Socket { access, directory, ..Socket::new(spec.control(), common) });
            tokio::spawn(vde::single::serve(start, port, stop))
        }
        PortSpec::VdePlug(spec) => {
            let plugged = exported.map(vde::plug::Plugged::import).transpose()?.flatten();
            if plugged.is_none() {
                common.roots.refuse_links(&spec.directory)?;
            }
            tokio::spawn(vde::plug::serve(spec, plugged, common.roots.clone(), port, stop))
        }
        PortSpec::Dial(spec) => {
            let source = dial::Source::open(spec, common.access, exported, &common.roots)?;
            socket = source.0.own_path().map(|path| Socket::new(path, common));
            tokio::spawn(dial::serve(source, port, stop))
        }
        PortSpec::Tunnel(spec) => tokio::spawn(tunnel::serve(spec.open(exported)?, port, stop)),
        PortSpec::Switchyard(spec) => {
            let listener = switchyard::listen(&spec, exported)?;
            tokio::spawn(switchyard::serve(spec, listener, port, stop))
        }
        PortSpec::Slirp(spec) => tokio::spawn(slirp::serve(slirp::Start::new(spec)?, port, stop)),
        PortSpec::Given(spec) => tokio::spawn(given::serve(spec.port(exported)?, port, stop)),
        PortSpec::Member(arrival) => tokio::spawn(arrival.serve(port, stop)),
    };
    Ok(Served { socket, clients, task })
}
