//! A directory that VDE's clients connect to, as vde_switch serves one: each client is a port of
//! its own, until its control connection ends.

use super::{TIMEOUT, connect_named, datagram_socket, read, share, unplugged};
use crate::{
    dataplane::{
        PortState,
        endpoint::{
            arrivals::{Arrival, Client, Clients},
            connection::{self, Own},
            export::Exported,
            listen,
            listener::{self, Access},
            port_handle::{PortHandle, Signal},
            socket,
        },
        port::{
            Port,
            datagram::{Datagrams, Peer},
            descriptor::DescriptorPort,
        },
    },
    log_limit::{LogLimit, Said},
    wire::vde::{self, Request, SocketName, WantedPort},
};
use rustix::{
    io::Errno,
    net::{SocketAddrUnix, SocketType, bind, getsockname, sockopt::socket_peercred},
};
use std::{
    collections::VecDeque,
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{DirBuilderExt as _, FileTypeExt as _},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Instant,
};
use tokio::{
    net::UnixStream,
    sync::oneshot,
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use zerocopy::IntoBytes as _;

/// The socket in the directory that clients connect to.
const CONTROL: &str = "ctl";
/// Who may open sockets, and see into the directory, where nobody has said: its owner alone. As
/// vde_switch has it, with its set-group-ID bit: what clients make there is of the group, too.
const MODE: u16 = 0o600;
const DIRECTORY_MODE: u16 = 0o2700;
/// Octets of the longest name in the directory: `/`, a number, a dot, and a descriptor's number.
const LONGEST_NAME: usize = 14;
/// Clients that have connected and not yet said what they want. The oldest gives way to one more:
/// who wants something says so at once.
const SILENT: usize = 32;

/// A directory to be served.
#[derive(Debug)]
pub struct Spec {
    /// The directory. It is made where it is not there.
    pub directory: PathBuf,
    /// Who may open its sockets.
    pub access: Access,
    /// The directory's permissions.
    pub directory_mode: Option<u16>,
    /// How many clients there may be at a time.
    pub max_clients: u32,
}

impl Spec {
    /// The permissions of sockets and of the directory: of one the other follows, as in vde_switch.
    fn modes(&self) -> (u16, u16) {
        match (self.access.mode, self.directory_mode) {
            (None, None) => (MODE, DIRECTORY_MODE),
            (Some(mode), None) => (mode, passing_mode(mode)),
            (None, Some(directory)) => (directory & 0o666, directory),
            (Some(mode), Some(directory)) => (mode, directory),
        }
    }

    /// Where clients connect.
    pub(in crate::dataplane) fn control(&self) -> PathBuf {
        self.directory.join(CONTROL)
    }
}

/// Returns the permissions of a directory whose sockets have `mode`: who may read or write them may
/// pass through it.
fn passing_mode(mode: u16) -> u16 {
    let bits = [0o600, 0o060, 0o006].iter().zip([0o100, 0o010, 0o001]);
    let passing = bits.filter(|(bits, _)| mode & **bits != 0).map(|(_, bit)| bit);
    0o2000 | (mode & 0o666) | passing.sum::<u16>()
}

/// Returns who may pass through a directory whose sockets are opened as `access` says.
pub(in crate::dataplane::endpoint) fn passing(access: Access) -> Access {
    Access { mode: Some(access.mode.map_or(DIRECTORY_MODE, passing_mode)), ..access }
}

/// The directory, until nobody uses it any more.
#[derive(Debug)]
pub(super) struct Directory {
    /// As others find it: absolute.
    path: PathBuf,
    access: Access,
    /// It is to go when it is not used any more.
    is_ours: bool,
    /// Another process goes on with it.
    pub(super) is_given: AtomicBool,
    clients: AtomicU32,
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.is_ours && !self.is_given.load(Relaxed) {
            // There may be more in it, which is not ours to remove.
            fs::remove_dir(&self.path).ok();
        }
    }
}

impl Directory {
    fn new(spec: &Spec, exported: bool) -> io::Result<Self> {
        let (mode, directory_mode) = spec.modes();
        let mut is_ours = match fs::DirBuilder::new().mode(0o700).create(&spec.directory) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => exported,
            Err(error) => return Err(error),
        };
        // Clients have other working directories.
        let path = fs::canonicalize(&spec.directory)?;
        if path.as_os_str().len() + LONGEST_NAME > listener::longest_socket_path() {
            let most = listener::longest_socket_path() - LONGEST_NAME;
            let text = format!("expected a directory whose path has at most {most} octets");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let access = Access { mode: Some(mode), ..spec.access };
        if !exported {
            let is_new = is_ours;
            is_ours |= clear(&path)?;
            // Of one that somebody made, only what was asked for is changed.
            if is_new || spec.directory_mode.is_some() {
                Access { mode: Some(directory_mode), ..spec.access }.apply(&path)?;
            }
        }
        let (is_given, clients) = (AtomicBool::new(false), AtomicU32::new(0));
        Ok(Self { path, access, is_ours, is_given, clients })
    }
}

/// Removes what a switch has left that is no more. Returns whether there was one.
fn clear(directory: &Path) -> io::Result<bool> {
    let control = directory.join(CONTROL);
    listener::refuse_live(&control, SocketType::STREAM).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            let text = format!("a VDE switch is serving {}: {error}", directory.display());
            io::Error::new(error.kind(), text)
        }
        _ => error,
    })?;
    let was_served = fs::exists(&control)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let is_socket = entry.file_type()?.is_socket();
        if is_socket && entry.file_name() != CONTROL && is_data_name(entry.file_name().as_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(was_served)
}

/// Whether it is the name of a switch's socket for a client: two numbers with a dot between.
fn is_data_name(name: &[u8]) -> bool {
    let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let mut parts = name.split(|octet| *octet == b'.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(first), Some(second), None) => is_number(first) && is_number(second),
        _ => false,
    }
}

/// A directory that is served already.
#[derive(Debug)]
pub(in crate::dataplane::endpoint) struct Start {
    pub(super) control: UnixStream,
    pub(super) directory: Arc<Directory>,
}

impl Start {
    /// Makes it, or goes on with what another process of the daemon `exported`.
    pub(in crate::dataplane::endpoint) fn new(
        spec: &Spec,
        exported: Option<Exported>,
    ) -> io::Result<Self> {
        let directory = Directory::new(spec, exported.is_some())?;
        let control = match exported {
            Some(exported) => {
                exported.fds.into_iter().next().ok_or(io::ErrorKind::UnexpectedEof)?
            }
            None => {
                let path = directory.path.join(CONTROL);
                listener::listen_aside(
                    &path,
                    directory.access,
                    SocketType::STREAM,
                    socket::BACKLOG,
                )?
            }
        };
        // It is only waited for, whatever it is.
        let control = UnixStream::from_std(control.into())?;
        Ok(Self { control, directory: Arc::new(directory) })
    }

    /// Returns its clients, `most` of them at a time, none of whom is there yet.
    pub(in crate::dataplane::endpoint) fn clients(&self, most: u32) -> Arc<Clients> {
        let directory = Arc::clone(&self.directory);
        Clients::restored_by(most, move |fds| {
            let (control, made, seat) = import(fds, &directory)?;
            Ok(move |port, stop| serve_client(control, made, seat, port, stop))
        })
    }
}

/// Goes on with a client that another process of the daemon has exported.
pub(super) fn import(
    fds: Vec<OwnedFd>,
    directory: &Arc<Directory>,
) -> io::Result<(UnixStream, Box<dyn Port>, Seat)> {
    let saved = connection::saved(fds, 2)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let (mut fds, rest) = (saved.0.into_iter(), saved.1);
    let (Some(control), Some(data)) = (fds.next(), fds.next()) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let name = SocketAddrUnix::try_from(getsockname(&data)?)?;
    let name = name.path_bytes().ok_or(io::ErrorKind::InvalidData)?;
    let file = PathBuf::from(OsStr::from_bytes(name));
    let seat = Seat { file, directory: Arc::clone(directory) };
    let transport = Datagrams::new(data, Peer::Unix);
    let made = Box::new(DescriptorPort::with_frames(transport, &rest.frames)?);
    Ok((UnixStream::from_std(control.into())?, made, seat))
}

/// A client that has said what it wants, and got it.
pub(super) struct Plugged {
    /// Its control connection.
    pub(super) control: UnixStream,
    pub(super) port: Box<dyn Port>,
    /// Behind the port: closed first.
    pub(super) seat: Seat,
    remote: String,
}

/// A client's place in the directory: the file of our socket for it, until dropped.
pub(super) struct Seat {
    file: PathBuf,
    directory: Arc<Directory>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Clients send by its name, which is still there when another process goes on with them.
        if !self.directory.is_given.load(Relaxed) {
            // Whose directory it is may have taken it away.
            fs::remove_file(&self.file).ok();
        }
    }
}

impl Seat {
    /// Binds a client's socket to a name that is free.
    fn bind(data: &OwnedFd, directory: &Arc<Directory>) -> io::Result<Self> {
        loop {
            let number = directory.clients.fetch_add(1, Relaxed) % 1000;
            let name = format!("{number:03}.{}", data.as_raw_fd());
            let file = directory.path.join(name);
            match bind(data, &SocketAddrUnix::new(&file)?) {
                Ok(()) => return Ok(Self { file, directory: Arc::clone(directory) }),
                // Of a client that another process had: there are fewer of those than numbers.
                Err(Errno::ADDRINUSE) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Accepts clients until `stop`. They outlive it: each is a port of its own.
pub(in crate::dataplane::endpoint) async fn serve(
    Start { control, directory }: Start,
    clients: Arc<Clients>,
    mut port: PortHandle,
    mut stop: oneshot::Receiver<()>,
) {
    port.tell(PortState::Listening);
    // Its clients find their sockets by this directory, and would lose them with it.
    port.goes_on();
    port.keep(|| Ok(vec![control.as_fd().try_clone_to_owned()?]));
    let mut log = LogLimit::default();
    let mut silent: VecDeque<AbortHandle> = VecDeque::new();
    let mut greeted = JoinSet::new();
    let mut not_before = Instant::now();
    loop {
        tokio::select! {
            _ = &mut stop => return port.forget(),
            signal = port.next() => {
                // It has no port at any reactor: nothing moves, and nothing fails.
                if let Signal::Export(request) = signal {
                    directory.is_given.store(true, Relaxed);
                    port.export_copy(request, &control).await;
                    directory.is_given.store(false, Relaxed);
                }
            }
            accepted = listen::accept(&control, not_before) => match accepted {
                Ok(accepted) => for socket in accepted {
                    let Some(client) = clients.admit() else { continue };
                    silent.retain(|task| !task.is_finished());
                    if silent.len() == SILENT && let Some(oldest) = silent.pop_front() {
                        oldest.abort();
                    }
                    let directory = Arc::clone(&directory);
                    silent.push_back(greeted.spawn(async move {
                        (client, greet(socket, directory).await)
                    }));
                },
                Err(error) => {
                    // Out of descriptors, most likely. Those that are connected are served.
                    not_before = Instant::now() + listen::ACCEPT_INTERVAL;
                    if let Some(Said { unsaid }) = log.line(Instant::now()) {
                        tracing::warn!(port = port.name(), %error, unsaid, "cannot accept");
                    }
                }
            },
            // One that was aborted has nothing to say, and none is told to panic.
            Some(greeted) = greeted.join_next() => match greeted {
                Ok((client, Ok(plugged))) => port.reporter().arrived(arrival(client, plugged)),
                Ok((_, Err(error))) => {
                    if let Some(Said { unsaid }) = log.failure(&error.to_string(), Instant::now()) {
                        let port = port.name();
                        tracing::warn!(port, %error, unsaid, "a VDE client is not served");
                    }
                }
                Err(_) => {}
            },
        }
    }
}

/// Hears what a client wants, and makes its socket.
pub(super) async fn greet(socket: OwnedFd, directory: Arc<Directory>) -> io::Result<Plugged> {
    let peer = socket_peercred(&socket)?;
    let by = socket::remote(&socket);
    let control = UnixStream::from_std(socket.into())?;
    let mut octets = [0; vde::MAX_REQUEST];
    // Descriptors that come with it are closed by the kernel, since nobody asks for them.
    let len = timeout(TIMEOUT, read(&control, &mut octets)).await??;
    let request = Request::parse(&octets[..len])
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let data = datagram_socket()?;
    // First, so that nobody else can send to it once it has a name.
    connect_named(&data, &request.socket, &control)?;
    let seat = Seat::bind(&data, &directory)?;
    share(&seat.file, peer.uid.as_raw(), directory.access)?;
    let name = SocketName::at_path(seat.file.as_os_str().as_bytes());
    let name = name.ok_or(io::ErrorKind::InvalidFilename)?;
    // A new connection has room for it.
    if control.try_write(name.as_bytes())? != vde::REPLY_LEN {
        return Err(io::ErrorKind::WriteZero.into());
    }
    let remote = match (request.description.escape_ascii(), request.port) {
        (_, WantedPort::Any) if request.description.is_empty() => by,
        (description, WantedPort::Number(number)) => format!("{description}, port {number}: {by}"),
        (description, _) => format!("{description}: {by}"),
    };
    let port = Box::new(DescriptorPort::new(Datagrams::new(data, Peer::Unix))?);
    Ok(Plugged { control, port, seat, remote })
}

fn arrival(client: Client, Plugged { control, port: made, seat, remote }: Plugged) -> Arrival {
    Arrival::new(remote, client, move |port, stop| serve_client(control, made, seat, port, stop))
}

/// Keeps a client attached until either of its sockets is closed, or `stop`. Returns why it ended.
async fn serve_client(
    control: UnixStream,
    made: Box<dyn Port>,
    seat: Seat,
    mut port: PortHandle,
    stop: oneshot::Receiver<()>,
) -> String {
    let own = [control.as_fd()];
    let own = Own { fds: &own, ..Own::default() };
    let ended = tokio::select! {
        failure = connection::keep(made, &mut port, own) => failure.to_string(),
        () = unplugged(&control) => "it was unplugged".into(),
        _ = stop => String::new(),
    };
    port.end().await;
    drop(seat);
    port.tell_why(PortState::Left, &ended);
    ended
}
