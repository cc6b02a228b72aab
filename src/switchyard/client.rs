//! A client of a fabric: requests in, answers and frames out.
//!
//! One task reads and one writes. Answers come in the order of requests, so a request leaves the
//! place for its answer in a queue before its octets are written, and each answer takes the first;
//! frames, which may come in between, go their own way and are never waited for.

use super::{
    body::{
        self, CaptureStart, EndpointCreate, EndpointInfo, EndpointLookup, Hello, ImpairSet,
        Refusal, Stats, StatsAsked, Subscribe, Welcome,
    },
    capture::Page,
    filter::RuleList,
    protocol::{Decoder, Kind, MAX_PAYLOAD, Malformed, Message, PROMISC},
};
use crate::addr::MacAddr;
use serde::de::DeserializeOwned;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    task::JoinSet,
};

/// Frames that wait for whoever asks for them; more are lost.
// A second of what a fabric carries: who is slower for longer loses frames anyway.
const MAX_WAITING: usize = 65_536;
/// Messages that wait to be written; who sends more waits.
const MAX_UNWRITTEN: usize = 64;
/// What begins the texts of errors that answer no request: a frame was not carried.
const NOT_CARRIED: &str = "PACKET_OUT: ";

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no fabric.
    #[error("cannot reach the fabric at {address}: {source} (is mvirt-switchyardd running?)")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The fabric says no.
    #[error("{0}")]
    Refused(String),
    /// The connection has ended.
    #[error("the fabric has closed the connection")]
    Closed,
    /// What came is not what was asked for: the peer is no fabric.
    #[error("unexpected answer of type {0}")]
    Unexpected(Kind),
    /// What came in an answer cannot be read.
    #[error("answer of type {0}: {1}")]
    Body(Kind, body::BadBody),
}

/// What comes without having been asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A frame, at the endpoint.
    Frame(u32, Arc<[u8]>),
    /// A frame that was sent was not carried, and why.
    NotCarried(String),
}

enum Command {
    Send(Message),
    Ask(Message, oneshot::Sender<Message>),
}

/// A connection to a fabric. Many may ask at once.
#[derive(Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    extensions: Vec<String>,
    lost: Arc<AtomicU64>,
    /// Ended with it.
    _tasks: JoinSet<()>,
}

/// What a client hears.
#[derive(Debug)]
pub struct Frames(mpsc::Receiver<Heard>);

impl Frames {
    /// Returns what is heard next; `None` once the connection has ended.
    pub async fn next(&mut self) -> Option<Heard> {
        self.0.recv().await
    }

    /// Returns what has been heard already, if anything.
    pub fn try_next(&mut self) -> Option<Heard> {
        self.0.try_recv().ok()
    }

    /// Returns the next frame, and the endpoint at which it is heard.
    ///
    /// # Errors
    ///
    /// The connection has ended, or a frame that was sent was not carried.
    pub async fn frame(&mut self) -> Result<(u32, Arc<[u8]>), ClientError> {
        match self.next().await {
            Some(Heard::Frame(endpoint, frame)) => Ok((endpoint, frame)),
            Some(Heard::NotCarried(reason)) => Err(ClientError::Refused(reason)),
            None => Err(ClientError::Closed),
        }
    }
}

impl Client {
    /// Connects, and says hello.
    ///
    /// # Errors
    ///
    /// There is no fabric at the address, like `127.0.0.1:9999`, or it refuses.
    pub async fn connect(address: &str, hello: &Hello) -> Result<(Self, Frames), ClientError> {
        let unreachable = |source| ClientError::Unreachable { address: address.to_owned(), source };
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let (reading, writing) = stream.into_split();
        let (commands, coming) = mpsc::channel(MAX_UNWRITTEN);
        // Not bounded itself: as many as there are who wait for an answer.
        let (places, answered) = mpsc::unbounded_channel();
        let (heard, frames) = mpsc::channel(MAX_WAITING);
        let lost = Arc::<AtomicU64>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(write(writing, coming, places));
        let reader = Reader { places: answered, heard, lost: lost.clone() };
        tasks.spawn(async move {
            if let Err(error) = reader.run(reading).await {
                tracing::debug!(%error, "the fabric's stream ends");
            }
        });
        let mut client = Self { commands, extensions: Vec::new(), lost, _tasks: tasks };
        let hello = Message::new(Kind::HELLO, body::write(hello));
        let welcome: Welcome = client.ask(hello, Kind::WELCOME).await?;
        client.extensions = welcome.extensions;
        Ok((client, Frames(frames)))
    }

    /// Whether the fabric has granted an extension.
    pub fn has(&self, extension: &str) -> bool {
        self.extensions.iter().any(|granted| granted == extension)
    }

    /// Frames that nobody asked for in time.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Makes an endpoint; without a MAC, the fabric chooses one.
    ///
    /// # Errors
    ///
    /// The fabric refuses, as where another endpoint has its name or MAC.
    pub async fn create_endpoint(
        &self,
        name: &str,
        mac: Option<MacAddr>,
    ) -> Result<EndpointInfo, ClientError> {
        let request = EndpointCreate { name: name.into(), mac };
        let request = Message::new(Kind::ENDPOINT_CREATE, body::write(&request));
        self.ask(request, Kind::ENDPOINT_CREATED).await
    }

    /// Finds an endpoint by its name.
    ///
    /// # Errors
    ///
    /// There is none.
    pub async fn lookup(&self, name: &str) -> Result<EndpointInfo, ClientError> {
        let request = EndpointLookup { name: name.into() };
        let request = Message::new(Kind::ENDPOINT_LOOKUP, body::write(&request));
        self.ask(request, Kind::ENDPOINT_INFO).await
    }

    /// Hears from now on what an endpoint hears; with `flags` of [`PROMISC`], the whole fabric.
    ///
    /// # Errors
    ///
    /// There is no such endpoint, or it has too many subscribers.
    pub async fn subscribe(&self, endpoint: u32, flags: u32) -> Result<(), ClientError> {
        let request = Subscribe { endpoint_id: endpoint, promisc: flags & PROMISC != 0 };
        let request = Message::about(Kind::SUBSCRIBE, endpoint, flags, body::write(&request));
        self.ask(request, Kind::SUBSCRIBED).await.map(|_: serde_json::Value| ())
    }

    /// Sends a frame as an endpoint. Whether it is carried is not answered; see
    /// [`Heard::NotCarried`].
    ///
    /// # Errors
    ///
    /// The connection has ended.
    pub async fn send(&self, endpoint: u32, frame: &[u8]) -> Result<(), ClientError> {
        let message = Message::about(Kind::PACKET_OUT, endpoint, 0, frame);
        self.commands.send(Command::Send(message)).await.map_err(|_| ClientError::Closed)
    }

    /// What has been counted, at the endpoints with ids above `after`, some at a time. Needs the
    /// extension `stats`.
    ///
    /// # Errors
    ///
    /// The fabric refuses, as where the extension has not been asked for.
    pub async fn stats(&self, after: u32) -> Result<Stats, ClientError> {
        let request = Message::new(Kind::STATS, body::write(&StatsAsked { after }));
        self.ask(request, Kind::STATS_REPLY).await
    }

    /// Frames that the fabric has kept, some at a time. Needs the extension `capture`.
    ///
    /// # Errors
    ///
    /// The fabric refuses, as where it keeps none.
    pub async fn captured(&self, asked: &CaptureStart) -> Result<Page, ClientError> {
        let request = Message::new(Kind::CAPTURE_START, body::write(asked));
        self.ask(request, Kind::CAPTURE_START).await
    }

    /// Makes the lines of an endpoint bad ones, or good ones again. Needs the extension `impair`.
    ///
    /// # Errors
    ///
    /// The fabric refuses, as for what cannot be done to a line.
    pub async fn impair(&self, lines: &ImpairSet) -> Result<(), ClientError> {
        let request = Message::new(Kind::IMPAIR_SET, body::write(lines));
        self.ask(request, Kind::IMPAIR_SET).await.map(|_: serde_json::Value| ())
    }

    /// Puts other rules in force, or none. Needs the extension `filter`.
    ///
    /// # Errors
    ///
    /// The fabric refuses, as for a rule that is none.
    pub async fn set_filter(&self, rules: &RuleList) -> Result<(), ClientError> {
        let rules = body::write(rules);
        if rules.len() > MAX_PAYLOAD {
            return Err(ClientError::Refused(format!("rules of {} octets", rules.len())));
        }
        let request = Message::new(Kind::FILTER_SET, rules);
        self.ask(request, Kind::FILTER_SET).await.map(|_: serde_json::Value| ())
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        request: Message,
        expected: Kind,
    ) -> Result<T, ClientError> {
        let (place, answer) = oneshot::channel();
        let asked = self.commands.send(Command::Ask(request, place)).await;
        asked.map_err(|_| ClientError::Closed)?;
        let answer = answer.await.map_err(|_| ClientError::Closed)?;
        let bad = |error| ClientError::Body(answer.kind, error);
        match answer.kind {
            Kind::ERROR => {
                let Refusal { error } = body::parse(&answer.payload).map_err(bad)?;
                Err(ClientError::Refused(error))
            }
            kind if kind == expected => {
                body::parse_within(&answer.payload, MAX_PAYLOAD).map_err(bad)
            }
            kind => Err(ClientError::Unexpected(kind)),
        }
    }
}

async fn write(
    mut stream: OwnedWriteHalf,
    mut coming: mpsc::Receiver<Command>,
    places: mpsc::UnboundedSender<oneshot::Sender<Message>>,
) {
    let (mut batch, mut octets) = (Vec::new(), Vec::new());
    while coming.recv_many(&mut batch, MAX_UNWRITTEN).await > 0 {
        octets.clear();
        for command in batch.drain(..) {
            let message = match command {
                Command::Send(message) => message,
                Command::Ask(message, place) => {
                    // Before the octets: an answer finds its place.
                    if places.send(place).is_err() {
                        return;
                    }
                    message
                }
            };
            message.append_to(&mut octets);
        }
        if stream.write_all(&octets).await.is_err() {
            // The reader sees the end too, and tells those who wait.
            return;
        }
    }
}

struct Reader {
    places: mpsc::UnboundedReceiver<oneshot::Sender<Message>>,
    heard: mpsc::Sender<Heard>,
    lost: Arc<AtomicU64>,
}

impl Reader {
    async fn run(mut self, mut stream: OwnedReadHalf) -> Result<(), Malformed> {
        let mut decoder = Decoder::default();
        let mut octets = vec![0; 64 << 10];
        while let Some(len) = stream.read(&mut octets).await.ok().filter(|len| *len > 0) {
            decoder.push(octets.get(..len).unwrap_or_default());
            while let Some(message) = decoder.next_message()? {
                self.take(message);
            }
        }
        Ok(())
    }

    fn take(&mut self, message: Message) {
        if message.kind == Kind::PACKET_IN {
            return self.hear(Heard::Frame(message.endpoint, message.payload));
        }
        if let Some(reason) = not_carried(&message) {
            return self.hear(Heard::NotCarried(reason));
        }
        if let Ok(place) = self.places.try_recv() {
            // Who asked may have stopped waiting: its answer still takes its place.
            place.send(message).ok();
        }
    }

    fn hear(&self, heard: Heard) {
        // Waiting for room would keep answers back.
        if self.heard.try_send(heard).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

/// The error about a frame, which answers no request.
fn not_carried(message: &Message) -> Option<String> {
    let error = (message.kind == Kind::ERROR).then(|| body::parse(&message.payload));
    let Refusal { error } = error?.ok()?;
    error.strip_prefix(NOT_CARRIED).map(str::to_owned)
}
