//! One async task a port that is a Switchyard fabric: its clients are endpoints of the fabric, and
//! the fabric, with all MACs that they have, is one member of the network.
//!
//! Its listener goes to another process of the daemon; connections do not, as their place in the
//! stream would be lost: clients connect again.

use super::{
    arrivals::all_places,
    export::Exported,
    port_handle::{PortHandle, Signal},
    socket::listen_tcp,
};
use crate::{
    dataplane::{
        PortState,
        port::{
            datagram::{Datagrams, Peer},
            descriptor::DescriptorPort,
        },
    },
    log_limit::{LogLimit, Said},
    switchyard::{
        fabric::{Fabric, Settings},
        server::{Clock, Server},
    },
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    os::fd::{AsFd as _, OwnedFd},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet};

/// How long until a fabric that has failed is started again.
const RETRY: Duration = Duration::from_secs(1);

/// A fabric.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Where clients connect.
    pub address: SocketAddr,
    /// How many there may be.
    pub max_clients: u32,
}

/// Returns the socket at which clients connect, that of another process where it `exported` one.
pub(in crate::dataplane) fn listen(spec: &Spec, exported: Option<Exported>) -> io::Result<OwnedFd> {
    if let Some(exported) = exported {
        return exported.listener();
    }
    // Clients of TCP need no access; each message of theirs has its length before it.
    listen_tcp(&spec.address)
}

/// Keeps the fabric attached until `stop`.
pub(in crate::dataplane) async fn serve(
    spec: Spec,
    listener: OwnedFd,
    mut port: PortHandle,
    mut stop: oneshot::Receiver<()>,
) {
    let mut log = LogLimit::default();
    loop {
        let ended = tokio::select! {
            ended = keep(&spec, &listener, &mut port) => ended,
            _ = &mut stop => return drop(port.detach().await),
        };
        port.detach().await;
        let Err(error) = ended;
        port.tell_why(PortState::Failed, &error.to_string());
        if let Some(Said { unsaid }) = log.failure(&error.to_string(), Instant::now()) {
            tracing::warn!(port = port.name(), %error, unsaid, "a fabric has failed");
        }
        tokio::select! {
            () = port.pause(RETRY) => {}
            _ = &mut stop => return,
        }
    }
}

/// Serves clients of the fabric, and keeps its port attached until it fails. Whoever drops this
/// ends the fabric.
async fn keep(spec: &Spec, listener: &OwnedFd, port: &mut PortHandle) -> io::Result<Infallible> {
    port.begin();
    port.connected();
    loop {
        let (mut fabric, socket) = start(spec, listener)?;
        loop {
            // A copy goes with the port: frames wait in the socket while it moves.
            let own = socket.as_fd().try_clone_to_owned()?;
            let made = DescriptorPort::new(Datagrams::new(own, Peer::Session))?;
            port.attach(Box::new(made), PortState::Active);
            let signal = tokio::select! {
                signal = port.next() => signal,
                ended = fabric.join_next() => return Err(ended_by(ended)),
            };
            match signal {
                Signal::Moved => drop(port.detach().await),
                Signal::Export(request) => {
                    port.detach().await;
                    // Nobody is accepted here any more: the other process is to find them.
                    drop(fabric);
                    port.export_copy(request, listener).await;
                    break;
                }
                Signal::Failed(failure) => return Err(io::Error::other(failure)),
            }
        }
    }
}

type Running = JoinSet<io::Result<()>>;

/// Starts a fabric; returns it, and the socket by which its frames come and go.
fn start(spec: &Spec, listener: &OwnedFd) -> io::Result<(Running, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let listener = StdListener::from(listener.as_fd().try_clone_to_owned()?);
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    // Several fabrics may be members of one network: the MACs of each are of its own TCP port.
    let macs_after = u32::from(spec.address.port()) << 8;
    let fabric = Fabric::new(Settings { macs_after, ..Settings::default() });
    let server =
        Server::new(fabric, Clock::real(), spec.max_clients as usize + 1).with_places(all_places());
    let mut running = JoinSet::new();
    running.spawn(server.with_uplink(theirs).serve(listener, std::future::pending()));
    Ok((running, ours))
}

fn ended_by(ended: Option<Result<io::Result<()>, tokio::task::JoinError>>) -> io::Error {
    match ended {
        Some(Ok(Err(error))) => error,
        Some(Err(error)) => io::Error::other(error),
        Some(Ok(Ok(()))) | None => io::Error::other("its socket was closed"),
    }
}
