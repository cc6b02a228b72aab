//! One async task a connection: keeps its port attached until it ends.

use super::port_handle::{PortHandle, Signal};
use crate::dataplane::{
    PortState,
    port::{Port, PortFailure},
};
use std::io;
use tokio::sync::oneshot;

/// Keeps `made` attached until it fails or `stop`, and says then that who was connected has left.
pub(super) async fn serve(
    made: Box<dyn Port>,
    mut port: PortHandle,
    mut stop: oneshot::Receiver<()>,
) {
    let ended = tokio::select! {
        failure = keep(made, &mut port) => failure.to_string(),
        _ = &mut stop => String::new(),
    };
    port.detach().await;
    tracing::info!(port = port.name(), ended, "a connection ended");
    port.tell_why(PortState::Left, &ended);
}

/// Keeps `made` attached until it fails.
pub(super) async fn keep(mut made: Box<dyn Port>, port: &mut PortHandle) -> PortFailure {
    loop {
        port.attach(made, PortState::Active);
        let signal = port.next().await;
        let back = port.detach().await;
        match signal {
            Signal::Failed(failure) => return failure,
            Signal::Moved => {}
            Signal::Export(request) => {
                let error = io::Error::other("a connection cannot be handed over");
                request.answer(Err(error)).await;
            }
        }
        made = match back {
            Some(made) => made,
            // It ends with the reactors.
            None => std::future::pending().await,
        };
    }
}
