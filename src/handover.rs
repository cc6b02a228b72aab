//! How a daemon hands all it serves over to a new process, perhaps of a new binary, while guests
//! hardly notice.
//!
//! ```text
//! old (hands over)                                 new (takes over)
//! starts it, a socket as its standard input ─────▶ reads flags, starts reactors
//!                                           ◀───── Ready
//! Control stands still; the locks of both folders
//! and the API's listeners: Service ──────────────▶ loads the metadata, publishes tables
//!                                           ◀───── Restored
//! switched networks stand still
//! each vNIC stops at its next message: Nic ──────▶ maps its memory, goes on at once
//! each port, and who is connected to it: Port ───▶ goes on when all are there
//! End ───────────────────────────────────────────▶ serves the API
//!                                           ◀───── Serving
//! ends, touching nothing
//! ```
//! Until `Serving`, whatever fails on one side is told on the other by the end of the socket: the
//! new process ends, if it can with a word why, and the old one goes on with everything, since it
//! has given copies of its descriptors only.
//!
//! The new process reads the flags' file anew, so what that says may have changed.

use crate::{
    control::{Afterwards, Control, Handle, Quiesced, QuiescedPort, RestoreError, Whose},
    dataplane::{Exported, Paused, SavedConnection, SavedLimits, Standstill},
    descriptors,
    printable::printable,
};
use rustix::{
    io::IoSlice,
    net::{
        AddressFamily, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        SocketFlags, SocketType, send, sendmsg, socketpair,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    mem::MaybeUninit,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{io::Interest, net::UnixStream, sync::mpsc, time::timeout};
use uuid::Uuid;

/// The flag that makes a daemon take over from whoever is at its standard input.
pub const FLAG: &str = "--take-over";
/// Of the messages below.
// Raised where a message changes its meaning; a field that is added has a default (decision 0007).
const VERSION: u32 = 1;
/// The name among the listeners by which the lock of the sockets' folder goes: a daemon that has
/// none does not miss it.
const SOCKET_LOCK: &str = "the lock of --socket-dir";
/// Likewise, the right to lead packets through the host.
const CLAIM: &str = "the claim of the way out";
/// Octets of the longest message: a vNIC with 64 regions of memory needs about ten thousand.
// More than ten times that, and less than a socket takes at once (net.core.wmem_default, 212,992).
const MAX_MESSAGE: usize = 1 << 17;
/// Characters of the reason for which a process does not take over.
const MAX_REASON: usize = 4096;
/// Descriptors of one message (SCM_MAX_FD); a vNIC has at most 98.
// The kernel's own limit: whatever may be sent can be received.
const MAX_FDS: usize = 253;
/// How long the new process may take to start, and to load the metadata: guests are served
/// meanwhile.
// The new process may have to read thousands of files from a cold disk.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a vNIC may take to stop: a message that has begun, and its answer, may take four
/// seconds.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to begin to serve: guests wait.
// Short: what is left to be done is in memory, and a failure only means that this one goes on.
const SERVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long ports of switched networks wait for the next one, and all for the last, until frames of
/// theirs are forwarded all the same.
// What is forwarded to a port that is not there is lost. But one whose VMM is in the middle of a
// message may take seconds to come, and is not to hold up others. In routed networks nobody waits:
// who talks to one may talk at once, and protocols make up for what is lost.
const NEXT_PATIENCE: Duration = Duration::from_millis(15);
const LAST_PATIENCE: Duration = Duration::from_millis(500);

/// Why nothing was handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// The new process cannot be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// Its file.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The other process ended, and says why in its log.
    #[error("the other process has ended (see its log)")]
    Ended,
    /// The other process cannot take over.
    #[error("the other process cannot take over: {0}")]
    Refused(String),
    /// The other process takes too long.
    #[error("the other process took longer than {0:?}")]
    Slow(Duration),
    /// A vNIC does not stop.
    #[error("a vNIC did not stop within {0:?}")]
    Stop(Duration),
    /// The other process speaks another version.
    #[error(
        "the other process hands over by version {0}, this one by version {VERSION}: restart the \
         daemon instead"
    )]
    Version(u32),
    /// The other process says something unexpected.
    #[error("the other process said something else than expected: {0}")]
    Message(String),
    /// What was given cannot be served.
    #[error("{0}")]
    Restore(#[from] RestoreError),
    /// Control ended.
    #[error(transparent)]
    Control(#[from] crate::control::Gone),
    /// The system refuses.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// What the old process says.
#[derive(Debug, Serialize, Deserialize)]
enum FromOld {
    /// The API's listeners, as the flags name them. Descriptors: the lock of the metadata, then
    /// those.
    Service { listeners: Vec<String> },
    /// A vNIC, and what it serves: see [`Exported`].
    Nic {
        id: Uuid,
        /// [`proto::GuestSeen`](crate::proto::GuestSeen), encoded.
        guest: Vec<u8>,
        #[serde(flatten)]
        served: Served,
    },
    /// A port.
    Port {
        whose: Whose,
        #[serde(flatten)]
        served: Served,
    },
    /// That was all.
    End,
}

/// What a port of the data plane serves, but for descriptors: see [`Exported`].
#[derive(Debug, Serialize, Deserialize)]
struct Served {
    counters: BTreeMap<String, u64>,
    #[serde(default)]
    kept: Box<SavedLimits>,
    connection: Option<SavedConnection>,
}

impl Served {
    fn with(self, fds: Vec<OwnedFd>) -> Exported {
        let Self { counters, kept, connection } = self;
        Exported { counters, kept: *kept, connection, fds }
    }
}

/// What the new process says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum FromNew {
    Ready {
        version: u32,
    },
    Restored,
    Serving,
    /// It ends, and why.
    Refused {
        why: String,
    },
}

impl FromNew {
    /// What it means where something else was to come.
    fn unexpected(self) -> HandOverError {
        match self {
            Self::Refused { why } => HandOverError::Refused(why),
            other => HandOverError::Message(format!("{other:?}")),
        }
    }
}

/// One end of the socket between both, which keeps messages apart (SOCK_SEQPACKET).
struct Channel(UnixStream);

impl Channel {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        UnixStream::from_std(socket.into()).map(Self)
    }

    async fn send<T: Serialize>(&self, message: &T, fds: &[OwnedFd]) -> Result<(), HandOverError> {
        let text = serde_json::to_vec(message).map_err(io::Error::from)?;
        let fds: Vec<_> = fds.iter().map(OwnedFd::as_fd).collect();
        let sent = self.0.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(io::Error::other("too many descriptors for one message"));
            }
            let flags = SendFlags::NOSIGNAL;
            Ok(sendmsg(&self.0, &[IoSlice::new(&text)], &mut control, flags)?)
        });
        match timeout(SERVE_TIMEOUT, sent).await {
            Err(_) => Err(HandOverError::Slow(SERVE_TIMEOUT)),
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(HandOverError::Ended)
            }
            Ok(sent) => Ok(sent.map(|_| ())?),
        }
    }

    async fn receive<T: DeserializeOwned>(
        &self,
        within: Duration,
    ) -> Result<(T, Vec<OwnedFd>), HandOverError> {
        let mut octets = vec![0; MAX_MESSAGE];
        let received = self.0.async_io(Interest::READABLE, || {
            let mut fds = Vec::new();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let (count, flags) = descriptors::receive(&self.0, &mut octets, &mut space, &mut fds)?;
            // The kernel drops descriptors that find no free number, and says so in the flags
            // alone.
            if flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
                return Err(io::Error::other("a message was cut: out of descriptors?"));
            }
            Ok((count, fds))
        });
        let received = timeout(within, received).await;
        let (count, fds) = received.map_err(|_| HandOverError::Slow(within))??;
        // No message is empty: it is the end of the socket (recv(2)).
        if count == 0 {
            return Err(HandOverError::Ended);
        }
        let message = serde_json::from_slice(&octets[..count])
            .map_err(|error| HandOverError::Message(error.to_string()))?;
        Ok((message, fds))
    }
}

/// What is given beside vNICs: copies.
#[derive(Debug)]
pub struct Shared {
    /// Of the metadata.
    pub lock: OwnedFd,
    /// Of the sockets' folder.
    pub socket_lock: OwnedFd,
    /// Of the API, as the flags name them.
    pub listeners: Vec<(String, OwnedFd)>,
}

/// Starts `program` with this process's own arguments and hands it all that is served: the locks,
/// the API's listeners as the flags name them, and Control's vNICs. Returns the new process's id;
/// this one is to end then. An error says that nothing was handed over, and everything goes on.
pub async fn hand_over(
    program: &Path,
    control: &Handle,
    shared: Shared,
) -> Result<u32, HandOverError> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(io::Error::from)?;
    let channel = Channel::new(ours)?;
    // This process may have taken over itself.
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != FLAG);
    let mut child = Command::new(program)
        .args(arguments)
        .arg(FLAG)
        .stdin(Stdio::from(theirs))
        // It is to feed the watchdog of systemd that this process fed (sd_watchdog_enabled(3)).
        .env_remove("WATCHDOG_PID")
        .spawn()
        .map_err(|source| HandOverError::Start {
            program: program.display().to_string(),
            source,
        })?;
    let exported = export_to(&channel, control, shared).await;
    match exported {
        Ok(halted) => {
            halted.end(Afterwards::End);
            Ok(child.id())
        }
        Err((error, halted)) => {
            // Not before it is gone: two must never serve the same guest.
            if let Err(error) = child.kill().and_then(|()| child.wait()) {
                tracing::error!(%error, pid = child.id(), "cannot end the new process");
            }
            if let Some(halted) = halted {
                halted.end(Afterwards::Resume);
            }
            Err(error)
        }
    }
}

/// What stands still during a hand-over.
struct Halted {
    control: Quiesced,
    ports: Vec<Paused>,
    /// Ends after the ports are told to go on: dropped last.
    standstill: Option<Standstill>,
}

impl Halted {
    fn end(self, then: Afterwards) {
        if then == Afterwards::Resume {
            self.ports.into_iter().for_each(Paused::resume);
        }
        self.control.end(then);
    }
}

async fn export_to(
    channel: &Channel,
    control: &Handle,
    shared: Shared,
) -> Result<Halted, (HandOverError, Option<Halted>)> {
    let nothing = |error| (error, None);
    match channel.receive(START_TIMEOUT).await.map_err(nothing)?.0 {
        FromNew::Ready { version: VERSION } => {}
        FromNew::Ready { version } => return Err((HandOverError::Version(version), None)),
        other => return Err((other.unexpected(), None)),
    }
    // Not before the other is ready: until then it has cost guests and clients nothing.
    let control = control.call(Control::quiesce).await.map_err(|gone| (gone.into(), None))?;
    let mut halted = Halted { control, ports: Vec::new(), standstill: None };
    match export_all(channel, &mut halted, shared).await {
        Ok(()) => Ok(halted),
        Err(error) => Err((error, Some(halted))),
    }
}

async fn export_all(
    channel: &Channel,
    halted: &mut Halted,
    shared: Shared,
) -> Result<(), HandOverError> {
    let Shared { lock, socket_lock, listeners } = shared;
    let claim = halted.control.claim.take().map(|claim| (CLAIM.into(), claim));
    let named = listeners.into_iter().chain([(SOCKET_LOCK.into(), socket_lock)]).chain(claim);
    let (names, fds): (Vec<_>, Vec<_>) = named.unzip();
    let fds: Vec<_> = [lock].into_iter().chain(fds).collect();
    channel.send(&FromOld::Service { listeners: names }, &fds).await?;
    expect(channel, START_TIMEOUT, FromNew::Restored).await?;
    // What waits in a port stays there, and is not forwarded to one that has stopped already.
    halted.standstill = Some(halted.control.reactors.hold());
    // Some turns, in which what reactors have sent to each other is delivered.
    for _ in 0..4 {
        let turn = halted.control.reactors.barrier().passed();
        timeout(STOP_TIMEOUT, turn).await.map_err(|_| HandOverError::Stop(STOP_TIMEOUT))?;
    }
    let served = std::mem::take(&mut halted.control.served);
    let (answers, mut answered) = mpsc::unbounded_channel();
    let stop = |(number, port): (usize, &QuiescedPort)| port.exporter.stop(number, answers.clone());
    halted.ports = served.iter().enumerate().map(stop).collect();
    let mut whose: Vec<_> = served.into_iter().map(|port| Some(port.whose)).collect();
    // The tasks have their own: when the last of them has answered, there are no more.
    drop(answers);
    // As they come: one whose VMM is slow with a message holds up the end, but no other.
    let next = async |answered: &mut mpsc::UnboundedReceiver<_>| {
        let answer = timeout(STOP_TIMEOUT, answered.recv()).await;
        answer.map_err(|_| HandOverError::Stop(STOP_TIMEOUT))
    };
    while let Some((number, answer)) = next(&mut answered).await? {
        let Exported { counters, kept, connection, fds } = answer?;
        let served = Served { counters, kept: Box::new(kept), connection };
        let said = match whose[number].take() {
            // As versions without ports say it.
            Some(Whose::Nic { id, guest }) => FromOld::Nic { id, guest, served },
            Some(whose) => FromOld::Port { whose, served },
            None => return Err(HandOverError::Message("a port was exported twice".into())),
        };
        channel.send(&said, &fds).await?;
    }
    // A task that panics drops its sender without an answer, as does that of a client who has left.
    if whose.iter().flatten().any(|whose| !matches!(whose, Whose::Client { .. })) {
        return Err(io::Error::other("the task of a vNIC or port has ended by a panic").into());
    }
    channel.send(&FromOld::End, &[]).await?;
    expect(channel, SERVE_TIMEOUT, FromNew::Serving).await
}

async fn expect(
    channel: &Channel,
    within: Duration,
    expected: FromNew,
) -> Result<(), HandOverError> {
    let (said, _) = channel.receive::<FromNew>(within).await?;
    if said == expected { Ok(()) } else { Err(said.unexpected()) }
}

/// Says why this process does not take over, to the one that started it for that.
pub fn refuse(why: &str) {
    let why = printable(why).chars().take(MAX_REASON).collect();
    let text = serde_json::to_vec(&FromNew::Refused { why }).expect("a text is JSON");
    // Who does not hear it hears the end of this process. It never waits: there may be nobody who
    // reads, and no socket at all.
    send(io::stdin(), &text, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).ok();
}

/// A daemon that takes over.
pub struct NewProcess(Channel);

/// The parts of the service that are not vNICs.
#[derive(Debug)]
pub struct Inherited {
    /// Of the metadata.
    pub lock: OwnedFd,
    /// Of the sockets' folder; `None` from a daemon that does not lock it.
    pub socket_lock: Option<OwnedFd>,
    /// The right to lead packets through the host; `None` from a daemon that does not.
    pub claim: Option<OwnedFd>,
    /// Of the API, as the flags name them.
    pub listeners: HashMap<String, OwnedFd>,
}

impl NewProcess {
    /// Takes over from the process at the other end of the standard input.
    pub fn new() -> Result<Self, HandOverError> {
        Ok(Self(Channel::new(io::stdin().as_fd().try_clone_to_owned()?)?))
    }

    /// Says that this process could serve, and gets what is to be served, but for vNICs.
    pub async fn ready(&self) -> Result<Inherited, HandOverError> {
        self.0.send(&FromNew::Ready { version: VERSION }, &[]).await?;
        let (said, mut fds) = self.0.receive(START_TIMEOUT).await?;
        match said {
            // Names and descriptors belong together by their order alone.
            FromOld::Service { listeners } if fds.len() == listeners.len() + 1 => {
                let lock = fds.remove(0);
                let mut listeners: HashMap<_, _> = listeners.into_iter().zip(fds).collect();
                let socket_lock = listeners.remove(SOCKET_LOCK);
                let claim = listeners.remove(CLAIM);
                Ok(Inherited { lock, socket_lock, claim, listeners })
            }
            other => Err(HandOverError::Message(format!("{other:?}"))),
        }
    }

    /// Gets all vNICs and ports for a `control` that has restored its state. Those of switched
    /// networks are polled when all of them are there.
    pub async fn import(&self, control: &mut Control) -> Result<(), HandOverError> {
        let standstill = control.begin_take_overs();
        self.0.send(&FromNew::Restored, &[]).await?;
        let (mut clients, mut first, mut is_patient) = (Vec::new(), None::<Instant>, true);
        loop {
            // Before the first has come there is nobody who waits.
            let waiting = first.filter(|_| is_patient);
            let patience = if waiting.is_some() { NEXT_PATIENCE } else { START_TIMEOUT };
            let said = self.0.receive(patience).await;
            let is_slow = matches!(said, Err(HandOverError::Slow(_)));
            if waiting.is_some_and(|since| is_slow || since.elapsed() > LAST_PATIENCE) {
                tracing::info!("frames are forwarded before all ports have come");
                is_patient = false;
                standstill.end();
                if is_slow {
                    continue;
                }
            }
            let (said, fds) = said?;
            first.get_or_insert_with(Instant::now);
            match said {
                FromOld::Nic { id, guest, served } => {
                    control.take_over(Whose::Nic { id, guest }, served.with(fds))?;
                }
                // They come in any order, and a port is to be there before who is connected to it.
                FromOld::Port { whose: whose @ Whose::Client { .. }, served } => {
                    clients.push((whose, served.with(fds)));
                }
                FromOld::Port { whose, served } => control.take_over(whose, served.with(fds))?,
                FromOld::End => break,
                FromOld::Service { .. } => return Err(HandOverError::Message(format!("{said:?}"))),
            }
        }
        for (whose, exported) in clients {
            control.take_over(whose, exported)?;
        }
        let late = Arc::downgrade(&standstill);
        tokio::spawn(async move {
            tokio::time::sleep(LAST_PATIENCE).await;
            if let Some(standstill) = late.upgrade() {
                standstill.end();
            }
        });
        control.take_overs_are_done(standstill);
        Ok(())
    }

    /// Says that this process serves.
    pub async fn serving(self) {
        // The old process may have died meanwhile: then this one is the daemon all the same.
        if let Err(error) = self.0.send(&FromNew::Serving, &[]).await {
            tracing::warn!(%error, "the old process did not see the end of the hand-over");
        }
    }
}
