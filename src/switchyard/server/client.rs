//! A client by TCP: one task reads, one writes.

use super::outbox::{Inbox, Input, Item};
use crate::switchyard::{
    fabric::ClientId,
    protocol::{Decoder, Malformed},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Semaphore, mpsc},
    time::{Instant, timeout},
};

/// How long HELLO may take: a connection that says nothing must not keep others out.
const HELLO_TIME: Duration = Duration::from_secs(10);
/// How long a client that is let go may take to read why.
const LINGER: Duration = Duration::from_secs(1);
/// Octets that a client sends at once at most: what it is read by.
const READ_LEN: usize = 64 << 10;
/// Readings of a client whose answers it has not taken, at most.
const MAX_UNANSWERED: usize = 4;

/// Reads from a client and writes to it until one of both ends.
pub(super) async fn attend(
    stream: TcpStream,
    (client, inbox): (ClientId, Inbox),
    inputs: mpsc::Sender<Input>,
) {
    // An answer waits for nothing; frames are put together by the writer.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let (mut reading, writing) = stream.into_split();
    let mut writer = tokio::spawn(write(writing, inbox));
    let malformed = tokio::select! {
        malformed = read(&mut reading, client, &inputs) => malformed,
        // The fabric has let it go, or nothing more can be sent to it.
        _ = &mut writer => None,
    };
    if inputs.send(Input::Left(client, malformed)).await.is_err() {
        return;
    }
    // A socket that is closed with octets unread takes back what was sent last: the reason why.
    let farewell = async {
        if !writer.is_finished() {
            (&mut writer).await.ok();
        }
        while reading.read(&mut [0; 4096]).await.is_ok_and(|len| len > 0) {}
    };
    if timeout(LINGER, farewell).await.is_err() {
        writer.abort();
    }
}

/// Reads messages until there are no more; returns what was wrong with the stream, if anything.
async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    client: ClientId,
    inputs: &mpsc::Sender<Input>,
) -> Option<Malformed> {
    let turns = Arc::new(Semaphore::new(MAX_UNANSWERED));
    let mut decoder = Decoder::default();
    let mut octets = vec![0; READ_LEN];
    let mut is_greeted = false;
    let deadline = Instant::now() + HELLO_TIME;
    loop {
        let turn = Arc::clone(&turns).acquire_owned().await.ok()?;
        let reading = stream.read(&mut octets);
        let len = if is_greeted {
            reading.await
        } else {
            tokio::time::timeout_at(deadline, reading).await.ok()?
        };
        let len = len.ok().filter(|len| *len > 0)?;
        decoder.push(&octets[..len]);
        let mut messages = Vec::new();
        let malformed = loop {
            match decoder.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break None,
                Err(malformed) => break Some(malformed),
            }
        };
        is_greeted |= !messages.is_empty();
        let input = Input::Messages(client, messages, Arc::new(turn));
        inputs.send(input).await.ok()?;
        if malformed.is_some() {
            return malformed;
        }
    }
}

/// Writes what there is, as much as there is at once, until there will be no more.
async fn write(mut stream: impl AsyncWrite + Unpin, mut inbox: Inbox) {
    let (mut batch, mut octets) = (Vec::new(), Vec::new());
    while inbox.next(&mut batch).await > 0 {
        octets.clear();
        for item in &batch {
            let (Item::Frame(message) | Item::Answer(message, _) | Item::Farewell(message)) = item;
            message.append_to(&mut octets);
        }
        let written = stream.write_all(&octets).await;
        // Only now: what the kernel has not taken waits here.
        inbox.done(&mut batch);
        if written.is_err() {
            return;
        }
    }
    stream.shutdown().await.ok();
}
