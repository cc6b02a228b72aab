//! A directory for one VDE client at a time, who is a vNIC's guest. Others wait until it has left.

use super::{
    switch::{Plugged, Seat, Spec, Start as Served, greet, import},
    unplugged,
};
use crate::{
    dataplane::{
        PortState,
        endpoint::{
            connection::{self, Own},
            export::Exported,
            folder::Roots,
            listen::{ACCEPT_INTERVAL, accept_one},
            port_handle::{PortHandle, Signal},
        },
        port::Port,
    },
    log_limit::{LogLimit, Said},
};
use std::{
    io, mem,
    os::fd::AsFd as _,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};
use tokio::{net::UnixStream, sync::oneshot};

/// A client's control connection, its port and its place in the directory.
type Client = (UnixStream, Box<dyn Port>, Seat);

/// A directory that is served already, and who was connected to it in another process.
pub(in crate::dataplane::endpoint) struct Start {
    served: Served,
    connected: Option<Client>,
}

impl Start {
    /// Makes it, or goes on with what another process of the daemon `exported`.
    pub(in crate::dataplane::endpoint) fn new(
        spec: &Spec,
        mut exported: Option<Exported>,
        roots: &Roots,
    ) -> io::Result<Self> {
        let mut fds = exported.as_mut().map(|given| mem::take(&mut given.fds)).unwrap_or_default();
        if let Some(given) = &mut exported
            && !fds.is_empty()
        {
            given.fds.push(fds.remove(0));
        }
        let served = Served::new(spec, exported, roots)?;
        let connected = match fds.is_empty() {
            true => None,
            false => Some(import(fds, &served.directory)?),
        };
        Ok(Self { served, connected })
    }
}

/// Keeps whoever is connected attached, one after the other, until `stop`.
pub(in crate::dataplane::endpoint) async fn serve(
    Start { served, mut connected }: Start,
    mut port: PortHandle,
    mut stop: oneshot::Receiver<()>,
) {
    let mut log = LogLimit::default();
    if connected.is_some() {
        port.goes_on();
    }
    loop {
        let ended = tokio::select! {
            ended = keep(&served, connected.take(), &mut port) => ended,
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
async fn keep(served: &Served, connected: Option<Client>, port: &mut PortHandle) -> String {
    let (control, made, seat) = match connected {
        Some(connected) => connected,
        None => match next(served, port).await {
            Ok(Plugged { control, port, seat, .. }) => (control, port, seat),
            Err(error) => {
                // Out of descriptors, most likely, or a client that says nothing right.
                tokio::time::sleep(ACCEPT_INTERVAL).await;
                return error.to_string();
            }
        },
    };
    port.begin();
    port.connected();
    let fds = [served.control.as_fd(), control.as_fd()];
    let own = Own { fds: &fds, is_given: Some(&served.directory.is_given) };
    let ended = tokio::select! {
        failure = connection::keep(made, port, own) => failure.to_string(),
        () = unplugged(&control) => "it was unplugged".into(),
    };
    port.detach().await;
    drop(seat);
    ended
}

/// Returns who connects next.
async fn next(served: &Served, port: &mut PortHandle) -> io::Result<Plugged> {
    let mut greeted = pin!(async {
        greet(accept_one(&served.control).await?, Arc::clone(&served.directory)).await
    });
    loop {
        tokio::select! {
            greeted = &mut greeted => return greeted,
            // Without a port, nothing moves and nothing fails.
            signal = port.next() => if let Signal::Export(request) = signal {
                served.directory.is_given.store(true, Relaxed);
                port.export_copy(request, &served.control).await;
                served.directory.is_given.store(false, Relaxed);
            }
        }
    }
}
