//! One async task a TAP device: it is opened, made a port, and opened again when it is gone.

use super::{
    export::Exported,
    port_handle::{PortHandle, Signal},
};
use crate::{
    dataplane::{
        PortState,
        port::{descriptor::DescriptorPort, tap::Tap},
    },
    log_limit::{LogLimit, Said},
};
use std::{
    convert::Infallible,
    io,
    pin::pin,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How long until a device that is gone is looked for again.
const RETRY: Duration = Duration::from_secs(1);

/// A vNIC whose guest is behind a TAP device.
#[derive(Debug)]
pub struct Spec {
    /// The interface's name, in the daemon's network namespace.
    pub interface: String,
}

/// Opens the device, or goes on with what another process of the daemon `exported`: the device, if
/// it had one.
pub(in crate::dataplane) fn open(
    spec: &Spec,
    exported: Option<Exported>,
) -> io::Result<Option<Tap>> {
    match exported {
        // Without one, a hand-over must not fail for it: it is looked for as before.
        Some(exported) => Ok(exported.fds.into_iter().next().map(Tap::from)),
        None => Tap::open(&spec.interface).map(Some),
    }
}

/// Keeps the device attached until `stop`.
pub(in crate::dataplane) async fn serve(
    spec: Spec,
    mut tap: Option<Tap>,
    mut port: PortHandle,
    mut stop: oneshot::Receiver<()>,
) {
    let mut log = LogLimit::default();
    loop {
        let ended = tokio::select! {
            ended = keep(&spec, &mut tap, &mut port) => ended,
            _ = &mut stop => return drop(port.detach().await),
        };
        port.detach().await;
        port.tell(PortState::Failed);
        // Closed, so that a device of this name can be made anew.
        tap = None;
        if let Err(error) = ended
            && let Some(Said { unsaid }) = log.failure(&error.to_string(), Instant::now())
        {
            let (nic, interface) = (port.name(), &spec.interface);
            tracing::warn!(nic, interface, %error, unsaid, "a vNIC is without its TAP device");
        }
        tokio::select! {
            () = wait(&mut port) => {}
            _ = &mut stop => return,
        }
    }
}

/// Keeps the port of `tap`, which is opened where it is not yet, attached until it fails.
async fn keep(spec: &Spec, tap: &mut Option<Tap>, port: &mut PortHandle) -> io::Result<Infallible> {
    let tap = match tap {
        Some(tap) => tap,
        None => tap.insert(Tap::open(&spec.interface)?),
    };
    port.begin();
    port.connected();
    loop {
        port.attach(Box::new(DescriptorPort::new(tap.clone())?), PortState::Active);
        match port.next().await {
            Signal::Moved => drop(port.detach().await),
            Signal::Export(request) => {
                port.detach().await;
                let fd = tap.share();
                request.answer(fd.map(|fd| port.exported(Duration::ZERO, None, vec![fd]))).await;
            }
            Signal::Failed(failure) => return Err(io::Error::other(failure)),
        }
    }
}

/// Returns when the device is to be looked for again.
async fn wait(port: &mut PortHandle) {
    let mut retry = pin!(tokio::time::sleep(RETRY));
    loop {
        tokio::select! {
            () = &mut retry => return,
            signal = port.next() => {
                // Another process opens the device itself.
                if let Signal::Export(request) = signal {
                    request.answer(Ok(port.exported(Duration::ZERO, None, vec![]))).await;
                }
            }
        }
    }
}
