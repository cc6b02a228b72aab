//! One async task a TAP device: it is opened, made a port, and opened again when it is gone.

use super::{
    export::Given,
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
    io,
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

/// Opens the device, or goes on with the one that another process of the daemon gave.
pub(in crate::dataplane) fn open(spec: &Spec, given: Option<Given>) -> io::Result<Tap> {
    match given.and_then(|given| given.fds.into_iter().next()) {
        Some(fd) => Ok(Tap::from(fd)),
        None => Tap::open(&spec.interface),
    }
}

/// Keeps the device attached until `stop`.
pub(in crate::dataplane) async fn serve(
    spec: Spec,
    tap: Tap,
    mut port: PortHandle,
    mut stop: oneshot::Receiver<()>,
) {
    let mut tap = Some(tap);
    let mut log = LogLimit::default();
    loop {
        let served = async {
            match &tap {
                Some(tap) => keep(tap, &mut port).await,
                None => tokio::time::sleep(RETRY).await,
            }
        };
        tokio::select! {
            () = served => {}
            _ = &mut stop => return port.detach().await,
        }
        // Closed first: the name is another device's only then.
        port.detach().await;
        tap = None;
        match Tap::open(&spec.interface) {
            Ok(opened) => tap = Some(opened),
            Err(error) => {
                port.tell(PortState::Failed);
                if let Some(Said { unsaid }) = log.failure(&error.to_string(), Instant::now()) {
                    let interface = &spec.interface;
                    tracing::warn!(
                        nic = port.name(), interface, %error, unsaid,
                        "cannot open a TAP device"
                    );
                }
            }
        }
    }
}

/// Keeps the port of `tap` attached until it fails.
async fn keep(tap: &Tap, port: &mut PortHandle) {
    port.begin();
    port.connected();
    loop {
        match DescriptorPort::new(tap.clone()) {
            Ok(made) => port.attach(Box::new(made), PortState::Active),
            Err(error) => return tracing::warn!(nic = port.name(), %error, "no memory for a port"),
        }
        match port.next().await {
            Signal::Moved => port.detach().await,
            Signal::Export(order) => {
                port.detach().await;
                let fd = tap.share();
                order.carry_out(fd.map(|fd| port.given(Duration::ZERO, None, vec![fd]))).await;
            }
            Signal::Failed(failure) => {
                return tracing::warn!(nic = port.name(), %failure, "a TAP device is given up");
            }
        }
    }
}
