//! One async task a vNIC: listens on its socket, talks to one VMM at a time, and keeps the reactor's port in step.
//!
//! ```text
//! message ── disturbs? detach, wait for the reactor ── session.handle ── memory ── attach what runs now ── reply
//! ```
//! A reply that promises a ring is stopped or memory unused is sent only after the reactor has given the port back.
//!
//! What a task serves can be given to another process of the daemon ([`Given`]), between two messages: it stops its
//! port and waits; the other goes on with the same socket, memory and rings.

use super::{
    Change, Event, PortState,
    counters::PortCounters,
    port::{
        PortFailure,
        vhost_user::{
            VhostUserPort,
            dirty_log::DirtyLog,
            memory::{GuestMemory, MemoryError, RegionRequest},
            message::{self, Header, LogArea, MAX_FDS, Malformed, Region, Request},
            session::{Device, MemoryChange, NotRestored, Refusal, SavedSession, Session},
        },
    },
    ports::Attachment,
    reactor,
    snapshot::{NetworkKey, PortId},
    socket,
};
use crate::{
    descriptors,
    log_limit::{LogLimit, Said},
};
use rustix::{fs::FileType, net::ReturnFlags};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncWriteExt as _, Interest},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

/// How long a vNIC is not served after its VMM has blocked a thread of the daemon.
const LOCKOUT: Duration = Duration::from_secs(60);
/// How long the rest of a message may take once it has begun, and a reply to be taken.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(2);

/// What a task needs to serve one vNIC.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) id: PortId,
    pub(super) network: NetworkKey,
    /// For the log.
    pub(super) name: String,
    /// What a VMM that connects finds.
    pub(super) device: watch::Receiver<Device>,
    /// Octets of memory that may be mapped.
    pub(super) guest_memory: u64,
    /// The reactor that is to own the port.
    pub(super) home: watch::Receiver<Arc<reactor::Handle>>,
    pub(super) counters: Arc<PortCounters>,
    pub(super) events: mpsc::UnboundedSender<Event>,
}

/// What a task serves, for another process of the daemon.
#[derive(Debug)]
pub struct Given {
    /// What it has carried.
    pub counters: BTreeMap<String, u64>,
    /// The connection, if there is one.
    pub connection: Option<SavedConnection>,
    /// The listener; of a connection then its socket, a file for each region of memory and for marks of written pages,
    /// and what its session holds.
    pub fds: Vec<OwnedFd>,
}

/// A connection without its descriptors.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedConnection {
    session: SavedSession,
    regions: Vec<Region>,
    /// Where written pages are marked, if the VMM has said so.
    #[serde(default)]
    marks: Option<LogArea>,
}

/// Asks a task to stop and to give what it serves.
#[derive(Debug)]
pub(super) struct Order {
    /// Comes with the answer.
    pub(super) number: usize,
    pub(super) answers: mpsc::UnboundedSender<(usize, io::Result<Given>)>,
    /// Says that nobody took over: the task goes on. It does not if this is dropped: then the process is ending.
    pub(super) resume: oneshot::Receiver<()>,
}

impl Order {
    /// Gives, and comes back when nobody took over.
    async fn carry_out(self, given: io::Result<Given>) {
        // Who asked may have given up, and then says so, too.
        self.answers.send((self.number, given)).ok();
        drop(self.answers);
        if self.resume.await.is_err() {
            std::future::pending().await
        }
    }
}

/// What a task begins with.
#[derive(Debug)]
pub(super) struct Start {
    listener: UnixListener,
    connection: Option<Peer>,
}

/// A connection to go on with, or a new one.
#[derive(Debug)]
struct Peer {
    stream: UnixStream,
    session: Session,
    memory: GuestMemory,
    marks: Option<DirtyLog>,
}

impl Start {
    /// A new listener.
    pub(super) fn new(listener: UnixListener) -> Self {
        Self { listener, connection: None }
    }

    /// What another process gave. A connection that cannot go on is ended, and told to the log.
    pub(super) fn take(given: Given, device: Device, nic: &str) -> io::Result<Self> {
        let mut fds = given.fds.into_iter();
        let listener = fds.next().ok_or(io::ErrorKind::UnexpectedEof)?;
        let listener = UnixListener::from_std(socket::raise(listener).into())?;
        let connection = given.connection.and_then(|saved| {
            restore(saved, device, &mut fds)
                .inspect_err(|reason| tracing::warn!(nic, %reason, "a VMM is disconnected: it could not be taken over"))
                .ok()
        });
        Ok(Self { listener, connection })
    }
}

fn restore(
    saved: SavedConnection,
    device: Device,
    fds: &mut impl Iterator<Item = OwnedFd>,
) -> Result<Peer, Broken> {
    let stream = fds.next().ok_or(NotRestored::Descriptors)?;
    let stream = UnixStream::from_std(stream.into())?;
    let regions = saved.regions.into_iter().zip(fds.by_ref()).map(RegionRequest::from).collect();
    let memory = GuestMemory::map(regions, u64::MAX)?;
    let marks = match saved.marks {
        Some(area) => Some(DirtyLog::map(area, fds.next().ok_or(NotRestored::Descriptors)?)?),
        None => None,
    };
    let session = Session::restore(device, saved.session, fds)?;
    Ok(Peer { stream, session, memory, marks })
}

/// Why a connection ended badly.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("malformed message {request}: {source}")]
    Malformed { request: u32, source: Malformed },
    #[error("refused {request}: {source}")]
    Refused { request: &'static str, source: Refusal },
    #[error("refused memory: {0}")]
    Memory(#[from] MemoryError),
    #[error("{0}")]
    Port(#[from] PortFailure),
    #[error("{0}")]
    Restored(#[from] NotRestored),
    #[error("the VMM sent more than {MAX_FDS} descriptors with a message")]
    TooManyFds,
    #[error(
        "a kick descriptor is no eventfd, pipe or socket, or a call or error descriptor no eventfd or socket"
    )]
    Doorbell,
    #[error("the VMM took longer than {MESSAGE_DEADLINE:?} for a message")]
    Slow,
    #[error("the socket failed: {0}")]
    Io(#[from] io::Error),
}

/// Serves connections, one at a time, until `stop`.
pub(super) async fn serve(
    served: Served,
    start: Start,
    mut orders: mpsc::UnboundedReceiver<Order>,
    mut stop: oneshot::Receiver<()>,
) {
    let Start { listener, connection: mut begun } = start;
    let mut log = LogLimit::default();
    let mut not_before = Instant::now();
    loop {
        let peer = match begun.take() {
            Some(begun) => begun,
            None => {
                let stream = tokio::select! {
                    stream = accept(&served, &listener, not_before, &mut orders, &mut log) => stream,
                    _ = &mut stop => return,
                };
                let (session, memory) =
                    (Session::new(*served.device.borrow()), GuestMemory::default());
                Peer { stream, session, memory, marks: None }
            }
        };
        let mut connection = Connection::new(&served, peer, log);
        let ended = tokio::select! {
            // Apart, for vNICs that nobody is connected to are many.
            ended = Box::pin(connection.run(&listener, &mut orders)) => ended,
            _ = &mut stop => {
                connection.detach().await;
                return;
            }
        };
        connection.detach().await;
        if let Err(Broken::Port(_)) = ended {
            connection.session.tell_error();
        }
        if connection.session.has_blocked() {
            not_before = Instant::now() + LOCKOUT;
            tracing::error!(
                nic = served.name,
                "its VMM has blocked the daemon: not served for {LOCKOUT:?}"
            );
        }
        // Who sees the state finds the reason in the log.
        if let Some(Said { unsaid }) = connection.log.line(Instant::now()) {
            match &ended {
                Ok(()) => tracing::info!(nic = served.name, unsaid, "VMM disconnected"),
                Err(reason) => {
                    tracing::warn!(nic = served.name, %reason, unsaid, "VMM disconnected: it or its guest broke the protocol");
                }
            }
        }
        connection.tell(if ended.is_ok() { PortState::Idle } else { PortState::Failed });
        log = connection.log;
    }
}

/// The next VMM.
async fn accept(
    served: &Served,
    listener: &UnixListener,
    not_before: Instant,
    orders: &mut mpsc::UnboundedReceiver<Order>,
    log: &mut LogLimit,
) -> UnixStream {
    let next = async || {
        tokio::time::sleep_until(not_before.into()).await;
        listener.accept().await
    };
    loop {
        tokio::select! {
            accepted = next() => match accepted {
                Ok((stream, _)) => {
                    if let Some(said) = log.line(Instant::now()) {
                        tracing::info!(nic = served.name, unsaid = said.unsaid, "VMM connected");
                    }
                    return stream;
                }
                Err(error) => {
                    // Out of descriptors, most likely: others may return some.
                    tracing::warn!(nic = served.name, %error, "cannot accept a VMM");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(order) = orders.recv() => {
                let counters = served.counters.totals();
                let listener = listener.as_fd().try_clone_to_owned();
                let given = listener.map(|fd| Given { counters, connection: None, fds: vec![fd] });
                order.carry_out(given).await;
            }
        }
    }
}

struct Connection<'a> {
    served: &'a Served,
    stream: UnixStream,
    session: Session,
    memory: Arc<GuestMemory>,
    /// Where written pages are marked while the guest migrates.
    marks: Option<Arc<DirtyLog>>,
    home: watch::Receiver<Arc<reactor::Handle>>,
    /// The reactor that has the port.
    attached: Option<Arc<reactor::Handle>>,
    failures: (mpsc::UnboundedSender<PortFailure>, mpsc::UnboundedReceiver<PortFailure>),
    log: LogLimit,
}

impl<'a> Connection<'a> {
    fn new(
        served: &'a Served,
        Peer { stream, session, memory, marks }: Peer,
        log: LogLimit,
    ) -> Self {
        Self {
            served,
            stream,
            session,
            memory: Arc::new(memory),
            marks: marks.map(Arc::new),
            home: served.home.clone(),
            attached: None,
            failures: mpsc::unbounded_channel(),
            log,
        }
    }

    fn tell(&self, state: PortState) {
        // Nobody listens once the daemon is going down.
        self.served.events.send(Event { port: self.served.id, change: Change::State(state) }).ok();
    }

    /// Talks to the VMM until it leaves. Another one that connects meanwhile is turned away.
    async fn run(
        &mut self,
        listener: &UnixListener,
        orders: &mut mpsc::UnboundedReceiver<Order>,
    ) -> Result<(), Broken> {
        // There is something to attach where another process began.
        self.attach()?;
        loop {
            let mut begun = Begun::default();
            tokio::select! {
                biased;
                // First what the daemon wants: a VMM that never stops asking must not hold that up.
                Some(order) = orders.recv() => {
                    self.detach().await;
                    order.carry_out(self.save(listener)).await;
                    self.session.doubt_positions();
                    self.attach()?;
                }
                // An error says that the vNIC is going: then `serve` ends this.
                Ok(()) = self.home.changed() => {
                    self.detach().await;
                    self.attach()?;
                }
                // Dropping this loses nothing: it either takes octets and ends, or has taken none.
                count = receive_some(&self.stream, &mut begun.octets, &mut begun.fds) => {
                    begun.filled = count?;
                    if begun.filled == 0 {
                        return Ok(());
                    }
                    self.exchange(begun).await?;
                }
                failure = self.failures.1.recv() => {
                    return Err(failure.unwrap_or_else(|| PortFailure("unknown".into())).into());
                }
                second = listener.accept() => {
                    drop(second);
                    if let Some(Said { unsaid }) = self.log.line(Instant::now()) {
                        tracing::warn!(nic = self.served.name, unsaid, "turned away a second VMM: the vNIC is in use");
                    }
                }
            }
        }
    }

    /// What another process needs to go on.
    fn save(&self, listener: &UnixListener) -> io::Result<Given> {
        let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned();
        let mut fds = vec![copy(listener.as_fd())?, copy(self.stream.as_fd())?];
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
        let counters = self.served.counters.totals();
        Ok(Given { counters, connection: Some(SavedConnection { session, regions, marks }), fds })
    }

    /// The rest of one request, and its reply.
    async fn exchange(&mut self, begun: Begun) -> Result<(), Broken> {
        let message = timeout(MESSAGE_DEADLINE, receive(&self.stream, begun)).await;
        let (header, payload, fds) = message.map_err(|_| Broken::Slow)??;
        let code = header.request;
        let request = Request::parse(code, &payload)
            .map_err(|source| Broken::Malformed { request: code, source })?;
        tracing::trace!(nic = self.served.name, ?request, fds = fds.len(), "request");
        let wants_ack = header.needs_reply();
        let handled = self.handle(request, fds).await;
        let acknowledge = wants_ack && self.session.acknowledges();
        let reply = match &handled {
            Ok(Handled::Reply(payload)) => Some(message::reply(code, payload)),
            Ok(Handled::Done) if acknowledge => Some(message::reply(code, &0_u64.to_ne_bytes())),
            Ok(Handled::Unknown) | Err(_) if acknowledge => {
                Some(message::reply(code, &1_u64.to_ne_bytes()))
            }
            _ => None,
        };
        if let Some(reply) = reply {
            timeout(MESSAGE_DEADLINE, self.stream.write_all(&reply))
                .await
                .map_err(|_| Broken::Slow)??;
        }
        handled.map(|_| ())
    }

    async fn handle(&mut self, request: Request, fds: Vec<OwnedFd>) -> Result<Handled, Broken> {
        let disturbs = Session::disturbs(&request);
        if disturbs {
            self.detach().await;
        }
        match request {
            Request::SetVringKick { .. } => {
                check_doorbell(&fds, &[FileType::Fifo, FileType::Socket])?
            }
            // Who writes to a full pipe may have to wait.
            Request::SetVringCall { .. } | Request::SetVringErr { .. } => {
                check_doorbell(&fds, &[FileType::Socket])?
            }
            _ => {}
        }
        let name = name_of(&request);
        let effect = self
            .session
            .handle(request, fds)
            .map_err(|source| Broken::Refused { request: name, source })?;
        if let Some(change) = effect.memory {
            self.change_memory(change)?;
        }
        if disturbs {
            self.attach()?;
        }
        Ok(match (effect.unknown, effect.reply) {
            (true, _) => Handled::Unknown,
            (false, Some(reply)) => Handled::Reply(reply),
            (false, None) => Handled::Done,
        })
    }

    fn change_memory(&mut self, change: MemoryChange) -> Result<(), MemoryError> {
        let held = |memory: &Arc<GuestMemory>| GuestMemory::clone(memory);
        self.memory = Arc::new(match change {
            MemoryChange::Replace(regions) => {
                // Unmapped first: a guest's memory need not fit the address space twice.
                self.memory = Arc::default();
                GuestMemory::map(regions, self.served.guest_memory)?
            }
            MemoryChange::Add(region @ RegionRequest { .. }) => {
                held(&self.memory).with(region, self.served.guest_memory)?
            }
            MemoryChange::Remove(region) => {
                held(&self.memory).without(region.guest_address, region.len)?
            }
            MemoryChange::Log(area, fd) => {
                self.marks = Some(Arc::new(DirtyLog::map(area, fd)?));
                return Ok(());
            }
        });
        Ok(())
    }

    /// Takes the port back, if there is one: afterwards nothing touches the guest's memory.
    async fn detach(&mut self) {
        let Some(reactor) = self.attached.take() else { return };
        let (done, detached) = oneshot::channel();
        reactor.detach(self.served.id, move || {
            // Nobody waits once the daemon is going down.
            done.send(()).ok();
        });
        // An error says that the reactor has ended, and its ports with it.
        detached.await.ok();
    }

    /// Gives the reactor a port of what runs now.
    fn attach(&mut self) -> Result<(), Broken> {
        let Some(plan) = self.session.plan() else { return Ok(()) };
        if self.memory.is_empty() {
            return Ok(());
        }
        let complete = plan.is_complete();
        let port = VhostUserPort::new(Arc::clone(&self.memory), self.marks.clone(), plan)?;
        let failures = self.failures.0.clone();
        let (events, port_id) = (self.served.events.clone(), self.served.id);
        let reactor = Arc::clone(&self.home.borrow_and_update());
        reactor.attach(Attachment {
            id: self.served.id,
            network: self.served.network,
            port: Box::new(port),
            counters: Arc::clone(&self.served.counters),
            // The connection may be over.
            on_failure: Box::new(move |failure| drop(failures.send(failure))),
            on_told: Box::new(move |told| {
                drop(events.send(Event { port: port_id, change: Change::Told(told) }));
            }),
        });
        self.attached = Some(reactor);
        self.tell(if complete { PortState::Active } else { PortState::Idle });
        Ok(())
    }
}

enum Handled {
    Done,
    Reply(Vec<u8>),
    Unknown,
}

fn name_of(request: &Request) -> &'static str {
    match request {
        Request::SetFeatures(_) => "SET_FEATURES",
        Request::SetMemTable(_) => "SET_MEM_TABLE",
        Request::AddMemReg(_) => "ADD_MEM_REG",
        Request::SetVringNum { .. } => "SET_VRING_NUM",
        Request::SetVringBase { .. } => "SET_VRING_BASE",
        Request::SetVringKick { .. } => "SET_VRING_KICK",
        Request::SetVringCall { .. } => "SET_VRING_CALL",
        Request::SetVringErr { .. } => "SET_VRING_ERR",
        Request::SetVringEnable { .. } => "SET_VRING_ENABLE",
        Request::NetSetMtu(_) => "NET_SET_MTU",
        Request::SetConfig => "SET_CONFIG",
        Request::SetBackendReqFd => "SET_BACKEND_REQ_FD",
        _ => "a ring request",
    }
}

/// A descriptor that is always readable, like a file, would keep a reactor busy; one that may block would stop it.
fn check_doorbell(fds: &[OwnedFd], allowed: &[FileType]) -> Result<(), Broken> {
    use rustix::fs::{fstat, readlinkat};
    for fd in fds {
        let mode = fstat(fd).map_err(io::Error::from)?.st_mode;
        if allowed.contains(&FileType::from_raw_mode(mode)) {
            continue;
        }
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd));
        let target = readlinkat(rustix::fs::CWD, path, Vec::new()).map_err(io::Error::from)?;
        if target.as_bytes() != b"anon_inode:[eventfd]" {
            return Err(Broken::Doorbell);
        }
    }
    Ok(())
}

/// The beginning of a message: some of its header, and all descriptors so far.
#[derive(Default)]
struct Begun {
    octets: [u8; message::HEADER_LEN],
    filled: usize,
    fds: Vec<OwnedFd>,
}

/// The whole of a message that has begun.
async fn receive(
    stream: &UnixStream,
    mut begun: Begun,
) -> Result<(Header, Vec<u8>, Vec<OwnedFd>), Broken> {
    fill(stream, &mut begun.octets[begun.filled..], &mut begun.fds).await?;
    let [a, b, c, d, ..] = begun.octets;
    let request = u32::from_ne_bytes([a, b, c, d]);
    let header =
        Header::parse(begun.octets).map_err(|source| Broken::Malformed { request, source })?;
    let mut payload = vec![0; header.size as usize];
    fill(stream, &mut payload, &mut begun.fds).await?;
    Ok((header, payload, begun.fds))
}

/// Fills `octets`.
async fn fill(
    stream: &UnixStream,
    octets: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> Result<(), Broken> {
    let mut filled = 0;
    while filled < octets.len() {
        match receive_some(stream, &mut octets[filled..], fds).await? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            received => filled += received,
        }
    }
    Ok(())
}

/// Octets and the descriptors that came with them.
async fn receive_some(
    stream: &UnixStream,
    octets: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> Result<usize, Broken> {
    loop {
        stream.readable().await?;
        let received = stream.try_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let (count, flags) = descriptors::receive(stream, octets, &mut space, fds)?;
            Ok((count, flags.contains(ReturnFlags::CTRUNC)))
        });
        match received {
            Ok((_, true)) => return Err(Broken::TooManyFds),
            Ok(_) if fds.len() > MAX_FDS => return Err(Broken::TooManyFds),
            Ok((count, false)) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // A VMM that was killed.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(0),
            Err(error) => return Err(error.into()),
        }
    }
}
