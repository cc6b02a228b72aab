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
            folder::{Place, Roots, opened},
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
    fs::{AtFlags, Mode, OFlags, fstat, mkdirat, unlinkat},
    io::Errno,
    net::{SocketAddrUnix, SocketType, getsockname, sockopt::socket_peercred},
};
use std::{
    collections::VecDeque,
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::FileTypeExt as _},
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
    /// As it was asked for, which is how it is found again.
    asked: PathBuf,
    roots: Roots,
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
        if self.is_ours
            && !self.is_given.load(Relaxed)
            && let Ok(place) = self.roots.place(&self.asked)
        {
            // There may be more in it, which is not ours to remove.
            unlinkat(&place.folder, &place.name, AtFlags::REMOVEDIR).ok();
        }
    }
}

impl Directory {
    fn new(spec: &Spec, exported: bool, roots: &Roots) -> io::Result<Self> {
        let (mode, directory_mode) = spec.modes();
        let is_root = roots.contains(&spec.directory);
        let is_new = !is_root && make(&spec.directory, roots)?;
        // Before all that may fail: what was made is not to stay then.
        let mut directory = Self {
            asked: spec.directory.clone(),
            roots: roots.clone(),
            path: PathBuf::new(),
            access: Access { mode: Some(mode), ..spec.access },
            is_ours: !is_root && (is_new || exported),
            is_given: AtomicBool::new(false),
            clients: AtomicU32::new(0),
        };
        let folder = directory.open()?;
        // Clients have other working directories.
        directory.path = fs::read_link(opened(&folder))?;
        if directory.path.as_os_str().len() + LONGEST_NAME > listener::longest_socket_path() {
            let most = listener::longest_socket_path() - LONGEST_NAME;
            let text = format!("expected a directory whose path has at most {most} octets");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if !exported {
            let was_served = directory.clear(&folder)?;
            directory.is_ours |= was_served && !is_root;
            let asked = Access { mode: Some(directory_mode), ..spec.access };
            if is_new {
                asked.apply_to(&folder)?;
            } else if spec.directory_mode.is_some() {
                directory.refuse_another(asked, &folder)?;
            }
        }
        Ok(directory)
    }

    fn open(&self) -> io::Result<OwnedFd> {
        self.roots.open(&self.asked, OFlags::DIRECTORY)
    }

    /// Returns the place of a name in it.
    fn place(&self, name: &str) -> io::Result<Place> {
        self.roots.place(&self.asked.join(name))
    }

    /// Refuses a directory that this port has not made, and that others may use otherwise than
    /// `asked`: it is somebody's, who has said who may.
    fn refuse_another(&self, asked: Access, folder: &OwnedFd) -> io::Result<()> {
        let found = fstat(folder)?;
        let is_as_asked = asked.group.is_none_or(|group| group == found.st_gid)
            // The kernel takes the set-group-ID bit away from who is not of the group.
            && asked.mode.is_none_or(|mode| (u32::from(mode) ^ found.st_mode) & 0o5777 == 0);
        if is_as_asked {
            return Ok(());
        }
        let text = format!(
            "{} is there already, and dirmode= is for a directory that the port makes itself",
            self.path.display()
        );
        Err(io::Error::new(io::ErrorKind::ResourceBusy, text))
    }

    /// Removes what a switch has left that is no more. Returns whether there was one.
    fn clear(&self, folder: &OwnedFd) -> io::Result<bool> {
        let control = self.place(CONTROL)?;
        control.refuse_live(SocketType::STREAM).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => {
                let text = format!("a VDE switch is serving {}: {error}", self.path.display());
                io::Error::new(error.kind(), text)
            }
            _ => error,
        })?;
        let was_served = control.file(&control.name).is_ok();
        for entry in fs::read_dir(opened(folder))? {
            let entry = entry?;
            let (name, is_socket) = (entry.file_name(), entry.file_type()?.is_socket());
            if is_socket && is_data_name(name.as_bytes()) {
                unlinkat(folder, &name, AtFlags::empty())?;
            }
        }
        Ok(was_served)
    }
}

/// Makes a directory. Returns false where there is something already.
fn make(directory: &Path, roots: &Roots) -> io::Result<bool> {
    let place = roots.place(directory)?;
    match mkdirat(&place.folder, &place.name, Mode::RWXU) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
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
        roots: &Roots,
    ) -> io::Result<Self> {
        let directory = Directory::new(spec, exported.is_some(), roots)?;
        let control = match exported {
            Some(exported) => exported.listener()?,
            None => {
                let place = directory.place(CONTROL)?;
                let (access, kind) = (directory.access, SocketType::STREAM);
                listener::listen_aside(&place, access, kind, socket::BACKLOG)?
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
    // By which way it was bound does not matter: it is in this directory.
    let path = Path::new(OsStr::from_bytes(name.path_bytes().ok_or(io::ErrorKind::InvalidData)?));
    let name = path.file_name().and_then(OsStr::to_str).ok_or(io::ErrorKind::InvalidData)?;
    let seat = Seat { name: name.into(), directory: Arc::clone(directory) };
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
    name: String,
    directory: Arc<Directory>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Clients send by its name, which is still there when another process goes on with them.
        if !self.directory.is_given.load(Relaxed)
            && let Ok(folder) = self.directory.open()
        {
            // Whose directory it is may have taken it away.
            unlinkat(folder, &self.name, AtFlags::empty()).ok();
        }
    }
}

impl Seat {
    /// Binds a client's socket to a name that is free, and lets the user of number `by` use it.
    fn bind(data: &OwnedFd, by: u32, directory: &Arc<Directory>) -> io::Result<Self> {
        loop {
            let number = directory.clients.fetch_add(1, Relaxed) % 1000;
            let name = format!("{number:03}.{}", data.as_raw_fd());
            let place = directory.place(&name)?;
            match place.bind(data, &place.name) {
                Ok(()) => {
                    let seat = Self { name, directory: Arc::clone(directory) };
                    share(&place.file(&place.name)?, by, directory.access)?;
                    return Ok(seat);
                }
                // Of a client that another process had: there are fewer of those than numbers.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// As its client finds it.
    fn path(&self) -> PathBuf {
        self.directory.path.join(&self.name)
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
    let seat = Seat::bind(&data, peer.uid.as_raw(), &directory)?;
    let name = SocketName::at_path(seat.path().as_os_str().as_bytes());
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
