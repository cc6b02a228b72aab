//! A listening socket, each of whose connections is a member of the network.

use super::{
    arrivals::{Arrival, Clients},
    connection,
    export::Exported,
    folder::Roots,
    listener::Access,
    port_handle::{PortHandle, Signal},
    socket::{Address, Framing, listen_at, remote},
};
use crate::{
    dataplane::PortState,
    log_limit::{LogLimit, Said},
};
use rustix::net::{SocketFlags, accept_with};
use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{io::Interest, net::UnixStream, sync::oneshot};

/// How long until the next try where no connection can be accepted.
// Short: who waits is in the kernel's queue meanwhile, and nobody else is held up.
pub(super) const ACCEPT_INTERVAL: Duration = Duration::from_millis(100);
/// Connections that are accepted in one go.
// Others on this thread are to have their turn while somebody connects without end.
const ACCEPTED_TOGETHER: usize = 64;

/// A socket that listens.
#[derive(Debug)]
pub struct Spec {
    /// Where.
    pub address: Address,
    /// What a connection carries.
    pub framing: Framing,
    /// Who may open a socket with a path.
    pub access: Access,
    /// How many connections there may be at a time.
    pub max_clients: u32,
}

/// A socket that listens already.
#[derive(Debug)]
pub(super) struct Start {
    // Of whatever family: it is waited for, and no more.
    socket: UnixStream,
    framing: Framing,
}

impl Start {
    /// Opens it, or goes on with what another process of the daemon `exported`.
    pub(super) fn new(
        spec: &Spec,
        access: Access,
        exported: Option<Exported>,
        roots: &Roots,
    ) -> io::Result<Self> {
        let socket = match exported {
            Some(exported) => exported.listener()?,
            None => listen_at(&spec.address, spec.framing, access, roots)?,
        };
        Ok(Self { socket: UnixStream::from_std(socket.into())?, framing: spec.framing })
    }
}

/// Accepts connections until `stop`. They outlive it: each is a port of its own.
pub(super) async fn serve(
    Start { socket, framing }: Start,
    clients: Arc<Clients>,
    mut port: PortHandle,
    mut stop: oneshot::Receiver<()>,
) {
    port.tell(PortState::Listening);
    let mut log = LogLimit::default();
    let mut not_before = Instant::now();
    loop {
        tokio::select! {
            _ = &mut stop => return,
            signal = port.next() => {
                // It has no port at any reactor: nothing moves, and nothing fails.
                if let Signal::Export(request) = signal {
                    port.export_copy(request, &socket).await;
                }
            }
            accepted = accept(&socket, not_before) => {
                let outcome = accepted.and_then(|accepted| accepted.into_iter().try_for_each(
                    |socket| admit(socket, framing, &clients, &port),
                ));
                if let Err(error) = outcome {
                    // Out of descriptors, most likely. Those that are connected are served.
                    not_before = Instant::now() + ACCEPT_INTERVAL;
                    if let Some(Said { unsaid }) = log.line(Instant::now()) {
                        tracing::warn!(port = port.name(), %error, unsaid, "cannot accept");
                    }
                }
            }
        }
    }
}

/// Returns those who connect next, not before some moment.
pub(super) async fn accept(socket: &UnixStream, not_before: Instant) -> io::Result<Vec<OwnedFd>> {
    tokio::time::sleep_until(not_before.into()).await;
    socket.readable().await?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let mut accepted = Vec::new();
    while accepted.len() < ACCEPTED_TOGETHER {
        match socket.try_io(Interest::READABLE, || Ok(accept_with(socket, flags)?)) {
            Ok(socket) => accepted.push(socket),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // Who gave up before it was accepted is nobody's trouble.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            // With what there is: the error shows again.
            Err(_) if !accepted.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(accepted)
}

/// Returns who connects next.
pub(super) async fn accept_one(socket: &UnixStream) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    loop {
        socket.readable().await?;
        match socket.try_io(Interest::READABLE, || Ok(accept_with(socket, flags)?)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Who gave up before it was accepted is nobody's trouble.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            accepted => return accepted,
        }
    }
}

/// Has a connection become a member, if there is a place for it. Otherwise it is closed.
fn admit(
    socket: OwnedFd,
    framing: Framing,
    clients: &Arc<Clients>,
    port: &PortHandle,
) -> io::Result<()> {
    let Some(client) = clients.admit() else { return Ok(()) };
    let remote = remote(&socket);
    let made = framing.port(socket)?;
    let arrival =
        Arrival::new(remote, client, move |port, stop| connection::serve(made, port, stop));
    port.reporter().arrived(arrival);
    Ok(())
}
