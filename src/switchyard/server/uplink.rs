//! The way to another network: one endpoint of the fabric, behind which are as many MACs as that
//! network has. Its frames come and go by a packet socket, each message a frame.

use super::outbox::{Inbox, Input, Item};
use crate::switchyard::{
    fabric::ClientId,
    protocol::{Kind, MAX_PAYLOAD, Message},
};
use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixDatagram as StdDatagram},
    sync::Arc,
};
use tokio::{
    net::UnixDatagram,
    sync::{Semaphore, mpsc},
};

/// Frames that are read in one go.
const TOGETHER: usize = 64;

/// Returns what carries frames between the socket and the fabric, until the socket's other end is
/// closed.
pub(super) fn attend(
    socket: OwnedFd,
    (client, endpoint): (ClientId, u32),
    inbox: Inbox,
    inputs: mpsc::Sender<Input>,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    // A packet socket, which is read and written as a datagram socket is.
    let socket = StdDatagram::from(socket);
    socket.set_nonblocking(true)?;
    let socket = UnixDatagram::from_std(socket)?;
    Ok(async move {
        tokio::select! {
            () = read(&socket, client, endpoint, &inputs) => {}
            () = write(&socket, inbox) => {}
        }
    })
}

async fn read(
    socket: &UnixDatagram,
    client: ClientId,
    endpoint: u32,
    inputs: &mpsc::Sender<Input>,
) {
    // What comes faster than the fabric takes it waits in the socket, which then refuses more.
    let turns = Arc::new(Semaphore::new(1));
    let mut octets = vec![0; MAX_PAYLOAD + 1];
    loop {
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
        let mut frames = Vec::new();
        let mut received = socket.recv(&mut octets).await;
        // Nothing in a message is the end: no frame is empty.
        while let Some(len) = received.ok().filter(|len| *len > 0) {
            let frame = octets.get(..len).unwrap_or_default();
            frames.push(Message::about(Kind::PACKET_OUT, endpoint, 0, frame));
            if frames.len() == TOGETHER {
                break;
            }
            received = socket.try_recv(&mut octets);
        }
        if frames.is_empty() {
            return;
        }
        if inputs.send(Input::Messages(client, frames, Arc::new(turn))).await.is_err() {
            return;
        }
    }
}

async fn write(socket: &UnixDatagram, mut inbox: Inbox) {
    let mut batch = Vec::new();
    while inbox.next(&mut batch).await > 0 {
        for item in &batch {
            // Errors about frames, as that one is too short, are for programs.
            let Item::Frame(message) = item else { continue };
            if socket.send(&message.payload).await.is_err() {
                return;
            }
        }
        inbox.done(&mut batch);
    }
}
