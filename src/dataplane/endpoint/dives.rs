//! One async task a port that leads to a mesh of DiVES switches: it joins its VLAN there, and joins
//! again when that ended. Ports at the same address share a switch.

use super::{
    export::Exported,
    port_handle::{PortHandle, Signal},
};
use crate::{
    dataplane::{
        PortState,
        port::{
            datagram::{Datagrams, Peer},
            descriptor::DescriptorPort,
        },
    },
    dives::node::{Node, Settings, Sockets},
    log_limit::{LogLimit, Said},
    mutex::lock,
};
use std::{
    convert::Infallible,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How long until a mesh that could not be joined is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A VLAN of a mesh.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The switch.
    pub switch: Settings,
    /// The VLAN.
    pub vlan: u32,
}

/// The switches that ports share; each is there for as long as a port needs it.
#[derive(Debug, Clone, Default)]
pub struct Meshes(Arc<Mutex<Vec<Weak<Node>>>>);

impl Meshes {
    /// Returns all that run.
    pub fn switches(&self) -> Vec<Arc<Node>> {
        lock(&self.0).iter().filter_map(Weak::upgrade).collect()
    }

    /// Returns the switch of these settings, started if need be. It is there for as long as who
    /// asked, or a port, has it.
    pub fn start(&self, settings: &Settings) -> io::Result<Arc<Node>> {
        self.switch(settings, None)
    }

    /// As [`Meshes::start`], on `sockets`, where another process of the daemon had the switch.
    fn switch(&self, settings: &Settings, sockets: Option<Sockets>) -> io::Result<Arc<Node>> {
        let mut all = lock(&self.0);
        all.retain(|switch| switch.strong_count() > 0);
        let at = |settings: &Settings| (settings.host, settings.port, settings.group);
        let running = all.iter().filter_map(Weak::upgrade);
        if let Some(found) = running.into_iter().find(|node| at(node.settings()) == at(settings)) {
            if found.settings() != settings {
                let why = "another port has this switch with other options";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
            }
            return Ok(found);
        }
        let sockets = sockets.map_or_else(|| Sockets::open(settings), Ok)?;
        let switch = Arc::new(Node::start(settings.clone(), sockets)?);
        all.push(Arc::downgrade(&switch));
        Ok(switch)
    }
}

/// A VLAN that was joined.
#[derive(Debug)]
pub(in crate::dataplane) struct Joined {
    /// There for as long as this.
    switch: Arc<Node>,
    socket: OwnedFd,
}

/// Joins a VLAN, on the sockets that another process of the daemon `exported`, if it did.
pub(in crate::dataplane) fn join(
    spec: &Spec,
    meshes: &Meshes,
    exported: Option<Exported>,
) -> io::Result<Joined> {
    let sockets = exported.and_then(|exported| Sockets::from_fds(exported.fds));
    let switch = meshes.switch(&spec.switch, sockets)?;
    let socket = switch.join(spec.vlan)?;
    Ok(Joined { switch, socket })
}

/// Keeps the VLAN attached until `stop`.
pub(in crate::dataplane) async fn serve(
    spec: Spec,
    meshes: Meshes,
    joined: Joined,
    mut port: PortHandle,
    mut stop: oneshot::Receiver<()>,
) {
    let (mut joined, mut log) = (Some(joined), LogLimit::default());
    loop {
        let ended = tokio::select! {
            ended = keep(&spec, &meshes, joined.take(), &mut port) => ended,
            _ = &mut stop => return drop(port.detach().await),
        };
        port.detach().await;
        let Err(error) = ended;
        port.tell_why(PortState::Failed, &error.to_string());
        if let Some(Said { unsaid }) = log.failure(&error.to_string(), Instant::now()) {
            tracing::warn!(port = port.name(), %error, unsaid, "a port is without its mesh");
        }
        tokio::select! {
            () = port.pause(RETRY) => {}
            _ = &mut stop => return,
        }
    }
}

/// Keeps the port of a VLAN, which is joined where it is not yet, attached until it fails.
async fn keep(
    spec: &Spec,
    meshes: &Meshes,
    joined: Option<Joined>,
    port: &mut PortHandle,
) -> io::Result<Infallible> {
    let Joined { mut switch, mut socket } = joined.map_or_else(|| join(spec, meshes, None), Ok)?;
    port.begin();
    port.connected();
    loop {
        let made = DescriptorPort::new(Datagrams::new(socket, Peer::Session))?;
        port.attach(Box::new(made), PortState::Active);
        match port.next().await {
            Signal::Moved => drop(port.detach().await),
            Signal::Export(request) => {
                port.detach().await;
                let fds = switch.share();
                // Nothing is read here any more: the other process is to find it.
                drop(switch);
                port.export(request, fds).await;
                switch = meshes.switch(&spec.switch, None)?;
            }
            Signal::Failed(failure) => return Err(io::Error::other(failure)),
        }
        // The end of the pair went with the port.
        socket = switch.rejoin(spec.vlan)?;
    }
}
