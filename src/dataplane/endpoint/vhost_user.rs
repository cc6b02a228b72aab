//! One async task a vNIC: listens on its socket, talks to one VMM at a time, and keeps the
//! reactor's port in step.
//!
//! ```text
//! message ── must stop? detach, wait for the reactor ── session.handle ── memory
//!         ── attach what runs now ── reply
//! ```
//! The reply to a request that stops a ring or frees memory waits until the port is given back.
//!
//! What a task serves can be given to another process of the daemon (`Exported`), between two
//! messages: it stops its port and waits; the other goes on with the same socket, memory and rings.

use super::{
    channel::{Begun, Channel, Unreadable},
    export::{Exported, SavedConnection},
    facts::Negotiated,
    listener::{self, Access},
    lockout::Lockout,
    port_handle::{PortHandle, Signal},
};
use crate::{
    dataplane::{
        PortState,
        foreign::{Apart, Foreign, Kind, peer_directory},
        port::{
            PortFailure,
            vhost_user::{
                VhostUserPort,
                memory::{GuestMemory, MemoryError, RegionRequest, dirty_log::DirtyLog},
                session::{
                    Device, MemoryChange, NotRestored, Refusal, Reply, Session,
                    message::{self, Request},
                },
            },
        },
    },
    log_limit::{LogLimit, Said},
};
use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{oneshot, watch},
    time::timeout,
};

/// How long what came with a message may take to be looked at, mapped and unmapped.
// With the message itself and its answer no more than a hand-over waits for.
const APART_DEADLINE: Duration = Duration::from_secs(3);
/// How long the end of a vNIC waits until what its VMM gave is given back.
// The daemon's own end takes two seconds at most, with all of its vNICs.
const END_DEADLINE: Duration = Duration::from_secs(1);
/// How long until the next try where no connection can be accepted.
const ACCEPT_INTERVAL: Duration = Duration::from_secs(1);

/// A vNIC whose VMM dials a socket.
#[derive(Debug)]
pub struct Spec {
    /// Where the socket is to be.
    pub path: PathBuf,
    /// Who may open it.
    pub access: Access,
    /// What the guest's device is.
    pub device: Device,
}

/// What a task needs to serve one vNIC.
#[derive(Debug)]
pub(in crate::dataplane) struct Served {
    /// What a VMM that connects finds.
    pub(in crate::dataplane) device: watch::Receiver<Device>,
    /// Octets of memory that may be mapped.
    pub(in crate::dataplane) guest_memory: u64,
}

/// What a task begins with.
#[derive(Debug)]
pub(in crate::dataplane) struct Start {
    listener: Foreign<UnixListener>,
    connection: Option<Peer>,
    kept: Kept,
}

/// A connection to go on with, or a new one.
#[derive(Debug)]
struct Peer {
    channel: Channel,
    session: Session,
    memory: GuestMemory,
    marks: Option<DirtyLog>,
}

impl Start {
    /// A new listener.
    pub(in crate::dataplane) fn new(listener: UnixListener) -> Self {
        let kept = Kept::default();
        Self { listener: kept.apart.own(listener), connection: None, kept }
    }

    /// What another process exported. A connection that cannot go on is ended, and told to the log.
    pub(in crate::dataplane) fn import(
        given: Exported,
        device: Device,
        nic: &str,
    ) -> io::Result<Self> {
        let kept = Kept::restore(given.kept.locked_out());
        let mut fds = given.fds.into_iter();
        let listener = fds.next().ok_or(io::ErrorKind::UnexpectedEof)?;
        let listener = UnixListener::from_std(listener::raise(listener).into())?;
        let connection = given.connection.and_then(|saved| {
            let apart = &kept.apart;
            restore(saved, device, &mut fds.by_ref().map(|fd| apart.own(fd)))
                .inspect_err(|reason| {
                    tracing::warn!(
                        nic, %reason,
                        "a VMM is disconnected: it could not be taken over"
                    )
                })
                .ok()
        });
        Ok(Self { listener: kept.apart.own(listener), connection, kept })
    }
}

fn restore(
    saved: SavedConnection,
    device: Device,
    fds: &mut impl Iterator<Item = Foreign<OwnedFd>>,
) -> Result<Peer, Broken> {
    let stream = fds.next().ok_or(NotRestored::Descriptors)?;
    let stream = stream.try_map(|fd| UnixStream::from_std(fd.into()))?;
    let regions = saved.regions.into_iter().zip(fds.by_ref()).map(RegionRequest::from).collect();
    // It was within the limit when its VMM sent it.
    let memory = GuestMemory::map(regions, u64::MAX)?;
    let marks = match saved.marks {
        Some(area) => Some(DirtyLog::map(area, fds.next().ok_or(NotRestored::Descriptors)?)?),
        None => None,
    };
    let session = Session::restore(device, saved.session, fds)?;
    Ok(Peer { channel: Channel { stream }, session, memory, marks })
}

/// Why a connection ended badly.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Message(#[from] Unreadable),
    #[error("refused {request}: {source}")]
    Refused { request: &'static str, source: Refusal },
    #[error("refused memory: {0}")]
    Memory(#[from] MemoryError),
    #[error("{0}")]
    Port(#[from] PortFailure),
    #[error("{0}")]
    Restored(#[from] NotRestored),
    #[error("a kick descriptor is no eventfd")]
    Kick,
    #[error("a call, error or channel descriptor is no eventfd or UNIX socket")]
    Call,
    #[error("a descriptor is a connection to a vNIC, which would keep that in use for ever")]
    Loop,
    #[error("a descriptor or memory makes the daemon wait for longer than {APART_DEADLINE:?}")]
    Waits,
    #[error("the socket failed: {0}")]
    Io(#[from] io::Error),
}

/// What is a vNIC's, whichever VMM is connected to it and whether one is.
#[derive(Debug, Default)]
struct Kept {
    apart: Apart,
    lockout: Lockout,
    log: LogLimit,
    /// A VMM that dialled while the one before was ending.
    next: Option<Foreign<UnixStream>>,
}

impl Kept {
    fn restore(locked_out: Duration) -> Self {
        let mut kept = Self::default();
        kept.lockout.until += locked_out;
        kept
    }
}

/// Serves connections, one at a time, until `stop`.
pub(in crate::dataplane) async fn serve(
    served: Served,
    start: Start,
    mut port: PortHandle,
    mut stop: oneshot::Receiver<()>,
) {
    let Start { listener, connection: mut begun, mut kept } = start;
    loop {
        let peer = match begun.take() {
            Some(begun) => begun,
            None => {
                let stream = tokio::select! {
                    stream = accept(&listener, &mut kept, &mut port) => stream,
                    _ = &mut stop => break,
                };
                let channel = Channel { stream };
                let (session, memory) =
                    (Session::new(*served.device.borrow()), GuestMemory::default());
                Peer { channel, session, memory, marks: None }
            }
        };
        let mut connection = Connection::new(&served, peer, &mut kept, &mut port);
        let ended = tokio::select! {
            // Apart, for vNICs that nobody is connected to are many.
            ended = Box::pin(connection.run(&listener)) => ended,
            _ = &mut stop => {
                connection.port.detach().await;
                break;
            }
        };
        connection.port.detach().await;
        connection.end(&ended);
    }
    let apart = kept.apart;
    drop(listener);
    // The end is to find everything unmapped, but waits for no VMM that does not let go.
    if timeout(END_DEADLINE, apart.idle()).await.is_err() {
        tracing::warn!(nic = port.name(), "what its VMM gave takes long to be given back");
    }
}

/// The next connection, from a moment on: the one that waits, or who dials.
async fn next_after(
    not_before: Instant,
    waiting: &mut Option<Foreign<UnixStream>>,
    listener: &UnixListener,
    apart: &Apart,
) -> io::Result<Foreign<UnixStream>> {
    tokio::time::sleep_until(not_before.into()).await;
    // Nothing is awaited once it is taken: it would be lost where this is dropped.
    match waiting.take() {
        Some(stream) => Ok(stream),
        None => Ok(apart.own(listener.accept().await?.0)),
    }
}

/// The next VMM.
async fn accept(
    listener: &UnixListener,
    kept: &mut Kept,
    port: &mut PortHandle,
) -> Foreign<UnixStream> {
    let (apart, mut waiting) = (kept.apart.clone(), kept.next.take());
    let mut next = async |not_before| {
        // Not before what the last one gave is given back.
        apart.idle().await?;
        next_after(not_before, &mut waiting, listener, &apart).await
    };
    let mut not_before = kept.lockout.until;
    loop {
        tokio::select! {
            accepted = next(not_before) => match accepted {
                Ok(stream) => {
                    if let Some(Said { unsaid }) = kept.log.beginning(Instant::now()) {
                        tracing::info!(nic = port.name(), unsaid, "VMM connected");
                    }
                    port.connected();
                    return stream;
                }
                Err(error) => {
                    // Out of descriptors, most likely: others may return some.
                    if let Some(Said { unsaid }) = kept.log.line(Instant::now()) {
                        tracing::warn!(nic = port.name(), %error, unsaid, "cannot accept a VMM");
                    }
                    not_before = Instant::now() + ACCEPT_INTERVAL;
                }
            },
            signal = port.next() => {
                // Where it is to live is looked at when it is attached, and nothing runs that
                // fails.
                if let Signal::Export(request) = signal {
                    let listener = listener.as_fd().try_clone_to_owned();
                    let left = kept.lockout.left();
                    request.answer(listener.map(|fd| port.exported(left, None, vec![fd]))).await;
                }
            }
        }
    }
}

struct Connection<'a> {
    served: &'a Served,
    kept: &'a mut Kept,
    channel: Channel,
    session: Session,
    memory: Arc<GuestMemory>,
    /// Where written pages are marked while the guest migrates.
    marks: Option<Arc<DirtyLog>>,
    port: &'a mut PortHandle,
}

impl<'a> Connection<'a> {
    fn new(
        served: &'a Served,
        Peer { channel, session, memory, marks }: Peer,
        kept: &'a mut Kept,
        port: &'a mut PortHandle,
    ) -> Self {
        // What failed before was another VMM's.
        port.begin();
        Self {
            served,
            kept,
            channel,
            session,
            memory: Arc::new(memory),
            marks: marks.map(Arc::new),
            port,
        }
    }

    /// Tells VMM, log and control how it ended.
    fn end(&mut self, ended: &Result<(), Broken>) {
        let now = Instant::now();
        if let Err(Broken::Port(failure)) = ended {
            self.session.tell_error();
            if let PortFailure::HeldUp(_) = failure {
                let lasts = self.kept.lockout.begin(now);
                tracing::error!(nic = self.port.name(), %failure, "not served for {lasts:?}");
            }
        }
        // Who sees the state finds the reason in the log.
        let (nic, log) = (self.port.name(), &mut self.kept.log);
        match ended {
            Ok(()) => {
                log.succeeded();
                if let Some(Said { unsaid }) = log.line(now) {
                    tracing::info!(nic, unsaid, "VMM disconnected");
                }
            }
            Err(reason) => {
                self.port.went_wrong(&reason.to_string());
                if let Some(Said { unsaid }) = log.failure(&reason.to_string(), now) {
                    tracing::warn!(
                        nic, %reason, unsaid,
                        "VMM disconnected: it or its guest broke the protocol"
                    );
                }
            }
        }
        self.port.negotiated(Negotiated::default());
        self.port.tell(if ended.is_ok() { PortState::Idle } else { PortState::Failed });
    }

    /// Talks to the VMM until it leaves. Another one that connects meanwhile is turned away.
    async fn run(&mut self, listener: &UnixListener) -> Result<(), Broken> {
        // There is something to attach where another process began.
        self.attach()?;
        // Who is kept waits until this one is over.
        let (mut not_before, mut nobody) = (Instant::now(), None);
        loop {
            tokio::select! {
                biased;
                // First what the daemon wants: a VMM that never stops asking must not hold that up.
                signal = self.port.next() => match signal {
                    Signal::Export(request) => {
                        self.port.detach().await;
                        request.answer(self.save(listener)).await;
                        self.session.forget_positions();
                        self.attach()?;
                    }
                    Signal::Moved => {
                        self.port.detach().await;
                        self.attach()?;
                    }
                    Signal::Failed(failure) => return Err(failure.into()),
                },
                begun = self.channel.begin() => match begun? {
                    Some(begun) => self.exchange(begun).await?,
                    None => return Ok(()),
                },
                second = next_after(not_before, &mut nobody, listener, &self.kept.apart) => {
                    let Ok(second) = second else {
                        // Out of descriptors: it is there at once, again and again.
                        not_before = Instant::now() + ACCEPT_INTERVAL;
                        continue;
                    };
                    // It is the same VMM, perhaps: its end and its next dial come in any order.
                    if self.channel.is_hung_up() {
                        self.kept.next = Some(second);
                        continue;
                    }
                    drop(second);
                    if self.has_died() {
                        return Ok(());
                    }
                    const WHY: &str = "turned away a second VMM: the vNIC is in use";
                    if let Some(Said { unsaid }) = self.kept.log.line(Instant::now()) {
                        self.port.went_wrong(WHY);
                        tracing::warn!(nic = self.port.name(), unsaid, "{WHY}");
                    }
                }
            }
        }
    }

    /// Whether the VMM is gone though its connection is open: what it gave may hold the other end.
    fn has_died(&self) -> bool {
        let peer = self.channel.stream.peer_cred().ok().and_then(|peer| peer.pid());
        let pid = peer.and_then(rustix::process::Pid::from_raw);
        let is_gone = pid.is_some_and(|pid| {
            rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH)
        });
        is_gone && self.session.holds_sockets()
    }

    /// What another process needs to go on.
    fn save(&self, listener: &UnixListener) -> io::Result<Exported> {
        let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned();
        // In the order in which `Start::import` and `restore` read them.
        let mut fds = vec![copy(listener.as_fd())?, copy(self.channel.stream.as_fd())?];
        let (regions, files): (Vec<_>, Vec<_>) = self.memory.share()?.into_iter().unzip();
        fds.extend(files);
        let marks = match &self.marks {
            Some(marks) => {
                let (area, file) = marks.share()?;
                fds.push(file);
                Some(area)
            }
            None => None,
        };
        let session = self.session.save(&mut fds)?;
        let connection = SavedConnection { session, regions, marks };
        Ok(self.port.exported(self.kept.lockout.left(), Some(connection), fds))
    }

    /// The rest of one request, and its reply.
    async fn exchange(&mut self, begun: Begun) -> Result<(), Broken> {
        let (header, payload, fds) = self.channel.receive(begun).await?;
        let code = header.request;
        let request = Request::parse(code, &payload)
            .map_err(|source| Unreadable::Malformed { request: code, source })?;
        tracing::trace!(nic = self.port.name(), ?request, fds = fds.len(), "request");
        let wants_ack = header.needs_reply();
        let handled = self.handle(request, fds).await;
        let acknowledge = wants_ack && self.session.acknowledges();
        // A refusal is answered, too: a VMM that waits is told before the connection ends.
        let reply = match &handled {
            Ok(Reply::Payload(payload)) => Some(message::reply(code, payload)),
            Ok(Reply::Done) if acknowledge => Some(message::reply(code, &0_u64.to_ne_bytes())),
            Ok(Reply::Unknown) | Err(_) if acknowledge => {
                Some(message::reply(code, &1_u64.to_ne_bytes()))
            }
            _ => None,
        };
        if let Some(reply) = reply {
            self.channel.send(&reply).await?;
        }
        handled.map(|_| ())
    }

    async fn handle(
        &mut self,
        request: Request,
        fds: Vec<Foreign<OwnedFd>>,
    ) -> Result<Reply, Broken> {
        let must_stop = Session::needs_quiesce(&request);
        if must_stop {
            self.port.detach().await;
        }
        match request {
            // An eventfd is polled and no more. What is in a pipe or socket would have to be read.
            Request::SetVringKick { .. }
                if fds.iter().any(|fd| Kind::of(&**fd) != Kind::Eventfd) =>
            {
                return Err(Broken::Kick);
            }
            Request::SetVringCall { .. }
            | Request::SetVringErr { .. }
            | Request::SetBackendReqFd => fds.iter().try_for_each(|fd| self.check_call(fd))?,
            _ => {}
        }
        let name = name_of(&request);
        let effect = self
            .session
            .handle(request, fds)
            .map_err(|source| Broken::Refused { request: name, source })?;
        if let Some(change) = effect.memory {
            self.change_memory(change).await?;
        }
        // What is not used is given back before the VMM goes on: it could give more and more.
        let idle = timeout(APART_DEADLINE, self.kept.apart.idle()).await;
        idle.map_err(|_| Broken::Waits)??;
        if must_stop {
            self.attach()?;
        }
        Ok(effect.reply)
    }

    /// Checks a descriptor to be signalled or held. It must close without waiting for the VMM, and
    /// must not keep a connection to a vNIC open.
    fn check_call(&self, fd: &Foreign<OwnedFd>) -> Result<(), Broken> {
        match Kind::of(&**fd) {
            Kind::Eventfd => Ok(()),
            Kind::UnixSocket => {
                let here = self.channel.stream.local_addr()?;
                let here = here.as_pathname().and_then(Path::parent);
                let leads_here = peer_directory(&**fd).is_some_and(|to| Some(&*to) == here);
                if leads_here { Err(Broken::Loop) } else { Ok(()) }
            }
            Kind::Other => Err(Broken::Call),
        }
    }

    async fn change_memory(&mut self, change: MemoryChange) -> Result<(), Broken> {
        let limit = self.served.guest_memory;
        let memory = match change {
            // Unmapped first: a guest's memory need not fit the address space twice.
            MemoryChange::Replace(_) => Arc::default(),
            _ => Arc::clone(&self.memory),
        };
        self.memory = Arc::default();
        let changed = self.kept.apart.run(move || {
            let held = GuestMemory::clone(&memory);
            let (memory, marks) = match change {
                MemoryChange::Replace(regions) => (GuestMemory::map(regions, limit)?, None),
                MemoryChange::Add(region) => (held.with(region, limit)?, None),
                MemoryChange::Remove(region) => {
                    (held.without(region.guest_address, region.len)?, None)
                }
                MemoryChange::Log(area, fd) => (held, Some(DirtyLog::map(area, fd)?)),
            };
            Ok::<_, MemoryError>((memory, marks))
        });
        let changed = timeout(APART_DEADLINE, changed).await.map_err(|_| Broken::Waits)?;
        let (memory, marks) = changed??;
        self.memory = Arc::new(memory);
        self.marks = marks.map(Arc::new).or(self.marks.take());
        Ok(())
    }

    /// Attaches a port of what runs now.
    fn attach(&mut self) -> Result<(), Broken> {
        let Some(plan) = self.session.plan() else { return Ok(()) };
        // Messages come in any order: memory may come last.
        if self.memory.is_empty() {
            return Ok(());
        }
        let complete = plan.is_complete();
        let pairs = plan.pairs.iter().flat_map(|(rx, tx)| [rx, tx]).flatten();
        let rings = pairs.map(|ring| ring.config.size).collect();
        self.port.negotiated(Negotiated { features: self.session.features(), rings });
        let port = VhostUserPort::new(Arc::clone(&self.memory), self.marks.clone(), plan)?;
        let state = if complete { PortState::Active } else { PortState::Idle };
        self.port.attach(Box::new(port), state);
        Ok(())
    }
}

fn name_of(request: &Request) -> &'static str {
    match request {
        Request::SetFeatures(_) => "SET_FEATURES",
        Request::SetMemTable(_) => "SET_MEM_TABLE",
        Request::AddMemReg(_) => "ADD_MEM_REG",
        Request::RemMemReg(_) => "REM_MEM_REG",
        Request::SetLogBase(_) => "SET_LOG_BASE",
        Request::SetVringNum { .. } => "SET_VRING_NUM",
        Request::SetVringAddr { .. } => "SET_VRING_ADDR",
        Request::SetVringBase { .. } => "SET_VRING_BASE",
        Request::GetVringBase { .. } => "GET_VRING_BASE",
        Request::SetVringKick { .. } => "SET_VRING_KICK",
        Request::SetVringCall { .. } => "SET_VRING_CALL",
        Request::SetVringErr { .. } => "SET_VRING_ERR",
        Request::SetVringEnable { .. } => "SET_VRING_ENABLE",
        Request::NetSetMtu(_) => "NET_SET_MTU",
        Request::GetConfig { .. } => "GET_CONFIG",
        Request::SetConfig => "SET_CONFIG",
        Request::SetBackendReqFd => "SET_BACKEND_REQ_FD",
        _ => "a request",
    }
}
