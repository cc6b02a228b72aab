//! A fabric over TCP: one task has the fabric, and two a client read and write.
//!
//! Nobody waits for a client. Frames that a slow one does not take are lost to it, and counted;
//! answers never are, so a client that takes none is not read from until it does. What a client has
//! not taken of both is bounded, and so is the time that one may say nothing before HELLO.

use super::{
    fabric::{ClientId, Fabric, Outgoing, Then, refusal},
    protocol::{Decoder, Kind, Malformed, Message},
};
use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

/// Clients at most; more are closed at once.
const MAX_CLIENTS: usize = 256;
/// How long HELLO may take: a connection that says nothing must not keep others out.
const HELLO_TIME: Duration = Duration::from_secs(10);
/// How long a client that is let go may take to read why.
const LINGER: Duration = Duration::from_secs(1);
/// How long nobody is let in where descriptors have run out (accept(2): EMFILE).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Octets that a client sends at once at most: what it is read by.
const READ_LEN: usize = 64 << 10;
/// Readings of a client whose answers it has not taken, at most.
const MAX_UNANSWERED: usize = 4;
/// Octets of frames that wait for one client, at most.
const MAX_WAITING: usize = 4 << 20;
/// What a waiting message costs beside its octets.
const MESSAGE_COST: usize = 64;

/// What a virtual clock goes on by with each frame that is sent.
const TICK: Duration = Duration::from_millis(1);
/// How long nobody says anything before a virtual clock goes on to whatever is still held.
const PAUSE: Duration = Duration::from_millis(100);

/// Which time a fabric has.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// That of the machine, from this moment on.
    Real(Instant),
    /// A millisecond a frame: what is done does not depend on how fast anybody is.
    Virtual(Duration),
}

impl Clock {
    fn now(self) -> Duration {
        match self {
            Self::Real(start) => start.elapsed(),
            Self::Virtual(now) => now,
        }
    }

    /// The clock of a fabric has come to a message.
    fn meet(&mut self, message: &Message) {
        if let Self::Virtual(now) = self
            && message.kind == Kind::PACKET_OUT
        {
            *now += TICK;
        }
    }

    /// When to do what is due, if nothing comes in before.
    fn wake(self, due: Duration) -> Instant {
        match self {
            Self::Real(start) => start + due,
            Self::Virtual(_) => Instant::now() + PAUSE,
        }
    }

    /// Nothing has come in before what is due.
    fn reach(&mut self, due: Duration) {
        if let Self::Virtual(now) = self {
            *now = due.max(*now);
        }
    }
}

/// The right to have one reading dealt with; free again once each of its answers is written.
type Turn = Arc<OwnedSemaphorePermit>;

/// What comes from clients.
#[derive(Debug)]
enum Input {
    Messages(ClientId, Vec<Message>, Turn),
    /// It has gone, or is let go as its stream cannot be read on.
    Left(ClientId, Option<Malformed>),
}

/// What a client is to be sent.
#[derive(Debug)]
enum Item {
    Frame(Message),
    Answer(Message, Turn),
    /// The last: it is let go.
    Farewell(Message),
}

/// The way to one client.
#[derive(Debug)]
struct Outbox {
    items: mpsc::UnboundedSender<Item>,
    /// Octets of frames in it.
    waiting: Arc<AtomicUsize>,
    /// Frames that did not fit.
    lost: u64,
}

fn cost(frame: &Message) -> usize {
    frame.wire_len() + MESSAGE_COST
}

impl Outbox {
    /// Reports whether there was room.
    fn put_frame(&mut self, client: ClientId, frame: Message) -> bool {
        let cost = cost(&frame);
        if self.waiting.load(Relaxed) + cost > MAX_WAITING {
            if self.lost == 0 {
                tracing::warn!(?client, "too slow: frames for it are lost");
            }
            self.lost += 1;
            return false;
        }
        self.waiting.fetch_add(cost, Relaxed);
        self.put(Item::Frame(frame));
        true
    }

    fn put(&self, item: Item) {
        // A closed way is that of a client which leaves: `Input::Left` is on its way.
        self.items.send(item).ok();
    }
}

/// Serves clients until `end`.
pub async fn serve(
    listener: TcpListener,
    fabric: Fabric,
    clock: Clock,
    end: impl Future<Output = ()>,
) {
    let (inputs, mut coming) = mpsc::channel(MAX_CLIENTS);
    let mut server = Server { fabric, clock, outboxes: BTreeMap::new(), out: Vec::new() };
    // Dropped at the end, which ends all of them.
    let mut clients = JoinSet::new();
    let mut closed_until = Instant::now();
    let mut end = std::pin::pin!(end);
    loop {
        let accept = async {
            sleep_until(closed_until).await;
            listener.accept().await
        };
        let due = server.fabric.next_due();
        // Asked for in each turn: where there is nothing to wait for, it is not waited for.
        let wake = clock.wake(due.unwrap_or_default());
        tokio::select! {
            () = &mut end => return,
            () = sleep_until(wake), if due.is_some() => server.run(due.unwrap_or_default()),
            Some(input) = coming.recv() => server.take(input),
            Some(ended) = clients.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a client's task ended by a panic");
                }
            }
            accepted = accept => match accepted {
                Ok((stream, _)) => {
                    if let Some(client) = server.admit() {
                        clients.spawn(attend(stream, client, inputs.clone()));
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

struct Server {
    fabric: Fabric,
    clock: Clock,
    outboxes: BTreeMap<ClientId, Outbox>,
    out: Outgoing,
}

/// A client that is let in.
struct Admitted {
    id: ClientId,
    items: mpsc::UnboundedReceiver<Item>,
    waiting: Arc<AtomicUsize>,
}

impl Server {
    fn admit(&mut self) -> Option<Admitted> {
        if self.outboxes.len() >= MAX_CLIENTS {
            self.fabric.count_refused();
            tracing::warn!("a client is closed at once: {MAX_CLIENTS} are connected");
            return None;
        }
        let id = self.fabric.connect();
        // Not bounded itself: frames are by `waiting`, answers by turns.
        let (sender, items) = mpsc::unbounded_channel();
        let waiting = Arc::<AtomicUsize>::default();
        let outbox = Outbox { items: sender, waiting: waiting.clone(), lost: 0 };
        self.outboxes.insert(id, outbox);
        Some(Admitted { id, items, waiting })
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

/// Reads from a client and writes to it until one of both ends.
async fn attend(stream: TcpStream, client: Admitted, inputs: mpsc::Sender<Input>) {
    // An answer waits for nothing; frames are put together by the writer.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let (mut reading, writing) = stream.into_split();
    let mut writer = tokio::spawn(write(writing, client.items, client.waiting));
    let malformed = tokio::select! {
        malformed = read(&mut reading, client.id, &inputs) => malformed,
        // The fabric has let it go, or nothing more can be sent to it.
        _ = &mut writer => None,
    };
    if inputs.send(Input::Left(client.id, malformed)).await.is_err() {
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
async fn write(
    mut stream: impl AsyncWrite + Unpin,
    mut items: mpsc::UnboundedReceiver<Item>,
    waiting: Arc<AtomicUsize>,
) {
    let (mut batch, mut octets) = (Vec::new(), Vec::new());
    while items.recv_many(&mut batch, 64).await > 0 {
        octets.clear();
        let mut frames = 0;
        for item in &batch {
            match item {
                Item::Frame(message) => {
                    frames += cost(message);
                    message.append_to(&mut octets);
                }
                Item::Answer(message, _) | Item::Farewell(message) => {
                    message.append_to(&mut octets);
                }
            }
        }
        let written = stream.write_all(&octets).await;
        // Only now: what the kernel has not taken waits here.
        waiting.fetch_sub(frames, Relaxed);
        for item in batch.drain(..) {
            if let Item::Answer(_, turn) = item {
                drop(turn);
            }
        }
        if written.is_err() {
            return;
        }
    }
    stream.shutdown().await.ok();
}
