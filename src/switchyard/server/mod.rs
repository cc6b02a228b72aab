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
use crate::log_limit::{LogLimit, Said};
pub use clock::Clock;
use outbox::{Inbox, Input, Item, Outbox, Turn};
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant as StdInstant},
};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
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
    /// Taken by clients of other servers, too, where they share what may be open.
    places: Arc<Semaphore>,
    uplink: Option<OwnedFd>,
    outboxes: BTreeMap<ClientId, Outbox>,
    out: Outgoing,
    /// Of clients that are not let in, and of those that are too slow.
    log: LogLimit,
}

/// A client that is let in.
struct Admitted {
    client: ClientId,
    inbox: Inbox,
    place: OwnedSemaphorePermit,
}

impl Server {
    /// Serves a fabric to at most so many clients.
    pub fn new(fabric: Fabric, clock: Clock, max_clients: usize) -> Self {
        Self {
            fabric,
            clock,
            max_clients,
            places: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            uplink: None,
            outboxes: BTreeMap::new(),
            out: Vec::new(),
            log: LogLimit::default(),
        }
    }

    /// Lets clients in only while there is one of these places for each.
    pub fn with_places(self, places: Arc<Semaphore>) -> Self {
        Self { places, ..self }
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
        let at = listener.local_addr()?;
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
                    Ok((stream, from)) => {
                        if let Some(Admitted { client, inbox, place }) = self.admit(at, from) {
                            let attended = client::attend(stream, (client, inbox), inputs.clone());
                            clients.spawn(async move {
                                attended.await;
                                // Only now is its descriptor free.
                                drop(place);
                            });
                        }
                    }
                    Err(error) => {
                        // One that left before it was let in is no reason to keep others out.
                        if error.kind() != io::ErrorKind::ConnectionAborted {
                            if let Some(Said { unsaid }) = self.log.line(StdInstant::now()) {
                                tracing::warn!(%at, %error, unsaid, "nobody is let in now");
                            }
                            closed_until = Instant::now() + ACCEPT_PAUSE;
                        }
                    }
                },
            }
        }
    }

    fn admit(&mut self, at: SocketAddr, from: SocketAddr) -> Option<Admitted> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        let place = place.filter(|_| self.outboxes.len() < self.max_clients);
        let Some(place) = place else {
            self.fabric.count_refused();
            if let Some(Said { unsaid }) = self.log.line(StdInstant::now()) {
                let most = self.max_clients;
                tracing::warn!(%at, %from, most, unsaid, "a client more is closed at once");
            }
            return None;
        };
        let client = self.fabric.connect();
        let (outbox, inbox) = Outbox::new();
        self.outboxes.insert(client, outbox);
        Some(Admitted { client, inbox, place })
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
                    if !outbox.put_frame(message) {
                        if outbox.lost == 1
                            && let Some(Said { unsaid }) = self.log.line(StdInstant::now())
                        {
                            let client = self.fabric.client_name(client);
                            tracing::warn!(?client, unsaid, "too slow: frames for it are lost");
                        }
                        self.fabric.count_lost(endpoint);
                    }
                }
            }
        }
    }

    /// What is in its outbox is still sent; its task then ends.
    fn let_go(&mut self, client: ClientId) {
        // First: the fabric forgets it.
        let name = self.fabric.client_name(client).to_owned();
        self.fabric.disconnect(client, self.clock.now(), &mut self.out);
        self.send(None);
        let lost = self.outboxes.remove(&client).map_or(0, |outbox| outbox.lost);
        if lost > 0
            && let Some(Said { unsaid }) = self.log.line(StdInstant::now())
        {
            let client = name;
            tracing::warn!(?client, lost, unsaid, "gone: it was too slow for so many frames");
        }
    }
}
