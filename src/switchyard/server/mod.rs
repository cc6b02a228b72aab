//! A fabric over TCP: one task has the fabric, and two a client read and write.
//!
//! Nobody waits for a client. Frames that a slow one does not take are lost to it, and counted;
//! answers never are, so a client that takes none is not read from until it does. What a client has
//! not taken of both is bounded, and so is the time that one may say nothing before HELLO.

mod client;
mod clock;
mod outbox;
mod uplink;

use super::{
    fabric::{ClientId, Fabric, Outgoing, Then, refusal},
    protocol::Kind,
};
pub use clock::Clock;
use outbox::{Inbox, Input, Item, Outbox, Turn};
use std::{collections::BTreeMap, io, os::fd::OwnedFd, time::Duration};
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// Clients at most, where nobody says; more are closed at once.
pub const MAX_CLIENTS: usize = 256;
/// How long nobody is let in where descriptors have run out (accept(2): EMFILE).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a fabric is served by.
#[derive(Debug)]
pub struct Server {
    fabric: Fabric,
    clock: Clock,
    max_clients: usize,
    uplink: Option<OwnedFd>,
    outboxes: BTreeMap<ClientId, Outbox>,
    out: Outgoing,
}

impl Server {
    /// Serves a fabric to at most so many clients.
    pub fn new(fabric: Fabric, clock: Clock, max_clients: usize) -> Self {
        let (outboxes, out) = (BTreeMap::new(), Vec::new());
        Self { fabric, clock, max_clients, uplink: None, outboxes, out }
    }

    /// Joins it to another network by a packet socket, each of whose messages is a frame.
    pub fn with_uplink(self, socket: OwnedFd) -> Self {
        Self { uplink: Some(socket), ..self }
    }

    /// Serves clients until `end`, or until whoever is behind the uplink has closed it.
    ///
    /// # Errors
    ///
    /// The uplink cannot be waited for.
    pub async fn serve(
        mut self,
        listener: TcpListener,
        end: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let (inputs, mut coming) = mpsc::channel(MAX_CLIENTS);
        // Dropped at the end, which ends all of them.
        let mut clients = JoinSet::new();
        let mut uplinks = JoinSet::new();
        if let Some(socket) = self.uplink.take() {
            let (client, endpoint) = self.fabric.connect_uplink();
            let (outbox, inbox) = Outbox::new();
            self.outboxes.insert(client, outbox);
            uplinks.spawn(uplink::attend(socket, (client, endpoint), inbox, inputs.clone())?);
        }
        let mut closed_until = Instant::now();
        let mut end = std::pin::pin!(end);
        loop {
            let accept = async {
                sleep_until(closed_until).await;
                listener.accept().await
            };
            let due = self.fabric.next_due();
            // Asked for in each turn: where there is nothing to wait for, it is not waited for.
            let wake = self.clock.wake(due.unwrap_or_default());
            tokio::select! {
                () = &mut end => return Ok(()),
                Some(_) = uplinks.join_next() => return Ok(()),
                () = sleep_until(wake), if due.is_some() => self.run(due.unwrap_or_default()),
                Some(input) = coming.recv() => self.take(input),
                Some(ended) = clients.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a client's task ended by a panic");
                    }
                }
                accepted = accept => match accepted {
                    Ok((stream, _)) => {
                        if let Some(client) = self.admit() {
                            clients.spawn(client::attend(stream, client, inputs.clone()));
                        }
                    }
                    Err(error) => {
                        // One that left before it was let in is no reason to keep others out.
                        if error.kind() != io::ErrorKind::ConnectionAborted {
                            tracing::warn!(%error, "nobody is let in for a moment");
                            closed_until = Instant::now() + ACCEPT_PAUSE;
                        }
                    }
                },
            }
        }
    }

    fn admit(&mut self) -> Option<(ClientId, Inbox)> {
        if self.outboxes.len() >= self.max_clients {
            self.fabric.count_refused();
            tracing::warn!(clients = self.max_clients, "a client more is closed at once");
            return None;
        }
        let id = self.fabric.connect();
        let (outbox, inbox) = Outbox::new();
        self.outboxes.insert(id, outbox);
        Some((id, inbox))
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Messages(client, messages, turn) => {
                for message in &messages {
                    self.clock.meet(message);
                    let now = self.clock.now();
                    let then = self.fabric.take(client, message, now, &mut self.out);
                    self.send(Some(&turn));
                    if then == Then::Close {
                        return self.let_go(client);
                    }
                }
            }
            Input::Left(client, malformed) => {
                let farewell = malformed.map(|reason| refusal(&reason.to_string()));
                if let Some((outbox, farewell)) = self.outboxes.get(&client).zip(farewell) {
                    outbox.put(Item::Farewell(farewell));
                }
                self.let_go(client);
            }
        }
    }

    /// Sends on what is due, and was at this time at the latest.
    fn run(&mut self, due: Duration) {
        self.clock.reach(due);
        self.fabric.run(self.clock.now(), &mut self.out);
        self.send(None);
    }

    /// Answers belong to a client's turn; frames to none.
    fn send(&mut self, turn: Option<&Turn>) {
        for (client, message) in self.out.drain(..) {
            let Some(outbox) = self.outboxes.get_mut(&client) else { continue };
            match turn.filter(|_| message.kind != Kind::PACKET_IN) {
                Some(turn) => outbox.put(Item::Answer(message, turn.clone())),
                None => {
                    let endpoint = message.endpoint;
                    if !outbox.put_frame(client, message) {
                        self.fabric.count_lost(endpoint);
                    }
                }
            }
        }
    }

    /// What is in its outbox is still sent; its task then ends.
    fn let_go(&mut self, client: ClientId) {
        self.fabric.disconnect(client, self.clock.now(), &mut self.out);
        self.send(None);
        let lost = self.outboxes.remove(&client).map_or(0, |outbox| outbox.lost);
        if lost > 0 {
            tracing::warn!(?client, lost, "gone: it was too slow for so many frames");
        }
    }
}
