//! A vNIC's socket for a guest without shared memory: one client at a time, who is its guest.
//! Others wait until it has left.

use super::{
    connection::{self, Own},
    export::Exported,
    folder::Roots,
    listen::{ACCEPT_INTERVAL, accept_one},
    listener::Access,
    port_handle::{PortHandle, Signal},
    socket::{Address, Framing, listen_at},
};
use crate::{
    dataplane::{PortState, port::Port},
    log_limit::{LogLimit, Said},
};
use std::{io, os::fd::AsFd as _, path::PathBuf, time::Instant};
use tokio::{net::UnixStream, sync::oneshot};

/// Where a vNIC's guest connects.
#[derive(Debug)]
pub struct Spec {
    /// The path.
    pub path: PathBuf,
    /// What a connection carries.
    pub framing: Framing,
    /// Who may connect.
    pub access: Access,
}

/// A socket that listens already, and who was connected to it in another process.
pub(super) struct Start {
    socket: UnixStream,
    framing: Framing,
    connected: Option<Box<dyn Port>>,
}

impl Start {
    /// Opens it, or goes on with what another process of the daemon `exported`.
    pub(super) fn new(
        spec: &Spec,
        access: Access,
        exported: Option<Exported>,
        roots: &Roots,
    ) -> io::Result<Self> {
        let framing = spec.framing;
        let (socket, connected) = match exported {
            Some(exported) => {
                let mut fds = exported.fds;
                if fds.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                (fds.remove(0), framing.import(fds)?)
            }
            None => {
                let address = Address::Unix(spec.path.clone());
                (listen_at(&address, framing, access, roots)?, None)
            }
        };
        Ok(Self { socket: UnixStream::from_std(socket.into())?, framing, connected })
    }
}

/// Keeps whoever is connected attached, one after the other, until `stop`.
pub(super) async fn serve(start: Start, mut port: PortHandle, mut stop: oneshot::Receiver<()>) {
    let Start { socket, framing, mut connected } = start;
    let mut log = LogLimit::default();
    if connected.is_some() {
        port.goes_on();
    }
    loop {
        let ended = tokio::select! {
            ended = keep(&socket, framing, connected.take(), &mut port) => ended,
            _ = &mut stop => return port.end().await,
        };
        port.end().await;
        port.tell(PortState::Idle);
        if let Some(Said { unsaid }) = log.failure(&ended, Instant::now()) {
            tracing::info!(nic = port.name(), ended, unsaid, "a guest's connection ended");
        }
    }
}

/// Keeps who is connected, or connects next, attached until that ends. Returns why.
async fn keep(
    socket: &UnixStream,
    framing: Framing,
    connected: Option<Box<dyn Port>>,
    port: &mut PortHandle,
) -> String {
    let made = match connected {
        Some(made) => made,
        None => match next(socket, framing, port).await {
            Ok(made) => made,
            Err(error) => {
                // Out of descriptors, most likely.
                tokio::time::sleep(ACCEPT_INTERVAL).await;
                return error.to_string();
            }
        },
    };
    port.begin();
    port.connected();
    let own = Own { fds: &[socket.as_fd()], ..Own::default() };
    connection::keep(made, port, own).await.to_string()
}

/// Returns a port of who connects next.
async fn next(
    socket: &UnixStream,
    framing: Framing,
    port: &mut PortHandle,
) -> io::Result<Box<dyn Port>> {
    loop {
        tokio::select! {
            accepted = accept_one(socket) => return framing.port(accepted?),
            // Without a port, nothing moves and nothing fails.
            signal = port.next() => if let Signal::Export(request) = signal {
                port.export_copy(request, socket).await;
            }
        }
    }
}
