//! Where sockets with paths are.
//!
//! A daemon that runs as root makes sockets in folders that others may write to. So a socket is
//! made and removed by its folder, which is opened once: what becomes of the path meanwhile does
//! not matter. Below a root, which is a folder of `--port-dir`, no symbolic link is followed: a
//! path leads nowhere else. The roots themselves may be links, since they are the administrator's.

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chmod, chownat, fstat, mkdir,
        open, openat, openat2, renameat, statat, unlinkat,
    },
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, getpeername,
        getsockname, socket_with,
    },
};
use std::{
    ffi::{OsStr, OsString},
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};
use uuid::Uuid;

/// Owner and group: the VMM runs as either.
const MODE: u16 = 0o660;

/// Who may open a socket: what is absent is the daemon's own user and group, and 0660.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Access {
    /// The number of the user who owns it.
    pub owner: Option<u32>,
    /// The number of the group that owns it.
    pub group: Option<u32>,
    /// Its permissions.
    pub mode: Option<u16>,
}

/// Where nobody says anything.
pub(super) const DEFAULT: Access = Access { owner: None, group: None, mode: Some(MODE) };

impl Access {
    /// This, and `other` where this does not say.
    pub(in crate::dataplane) fn or(self, other: Self) -> Self {
        Self {
            owner: self.owner.or(other.owner),
            group: self.group.or(other.group),
            mode: self.mode.or(other.mode),
        }
    }

    /// Sets who may open the socket at `path`. What fails leaves it as it was.
    pub(in crate::dataplane) fn apply(self, path: &Path) -> io::Result<()> {
        // Itself, and not what somebody has a link lead to.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.apply_to(&open(path, flags, Mode::empty())?)
    }

    /// Sets who may open what `file` names. What fails leaves it as it was.
    pub(super) fn apply_to(self, file: &OwnedFd) -> io::Result<()> {
        if FileType::from_raw_mode(fstat(file)?.st_mode) == FileType::Symlink {
            return Err(Errno::LOOP.into());
        }
        // First, since a new socket is not open to groups and others before the next call.
        if self.owner.is_some() || self.group.is_some() {
            let (owner, group) = (self.owner.map(Uid::from_raw), self.group.map(Gid::from_raw));
            chownat(file, "", owner, group, AtFlags::EMPTY_PATH)?;
        }
        let mode = Mode::from_raw_mode(self.mode.unwrap_or(MODE).into());
        // By its name: fchmod(2) takes no descriptor that only names a file.
        Ok(chmod(opened(file), mode)?)
    }
}

/// The folders below which no symbolic link is followed.
#[derive(Debug, Clone, Default)]
pub(in crate::dataplane) struct Roots(Arc<[PathBuf]>);

impl Roots {
    pub(in crate::dataplane) fn new(folders: &[PathBuf]) -> Self {
        Self(folders.into())
    }

    /// Whether this is one of them.
    pub(super) fn contains(&self, path: &Path) -> bool {
        self.0.iter().any(|root| root == path)
    }

    /// Returns the root that a path is below, and where.
    fn innermost<'a>(&self, path: &'a Path) -> Option<(&Path, &'a Path)> {
        let beneath = |root: &'_ PathBuf| path.strip_prefix(root).ok();
        let beneath = self.0.iter().filter_map(|root| Some((&**root, beneath(root)?)));
        // The innermost: what leads to that is the administrator's, too.
        beneath.min_by_key(|(_, rest)| rest.as_os_str().len())
    }

    /// Opens what is at a path: to name it, and no more.
    pub(super) fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        let Some((root, rest)) = self.innermost(path) else {
            return Ok(openat(CWD, path, flags, Mode::empty())?);
        };
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, root, folder, Mode::empty())?;
        if rest.as_os_str().is_empty() {
            return Ok(root);
        }
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(root, rest, flags, Mode::empty(), how).map_err(|errno| match errno {
            Errno::LOOP | Errno::XDEV => {
                let text = format!(
                    "{} passes through a symbolic link, which is not followed below --port-dir",
                    path.display()
                );
                io::Error::new(io::ErrorKind::PermissionDenied, text)
            }
            errno => errno.into(),
        })
    }

    /// Refuses a path that passes through a symbolic link. Nothing needs to be there yet.
    pub(super) fn refuse_links(&self, path: &Path) -> io::Result<()> {
        match self.open(path, OFlags::empty()) {
            // From the kernel itself it has a number: that is for who connects to say.
            Err(error) if error.raw_os_error().is_none() => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns the address of the socket at a path, with what keeps it valid.
    pub(super) fn address(&self, path: &Path) -> io::Result<(OwnedFd, SocketAddrUnix)> {
        let file = self.open(path, OFlags::empty())?;
        let address = SocketAddrUnix::new(opened(&file))?;
        Ok((file, address))
    }

    /// Opens the folder that a path is in.
    pub(super) fn place(&self, path: &Path) -> io::Result<Place> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_owned();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let mut opened = self.open(folder, OFlags::DIRECTORY);
        // What is below /run is gone with each boot: the first socket makes its root again.
        if opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            && let Some((root, _)) = self.innermost(folder)
            && mkdir(root, Mode::from_raw_mode(0o755)).is_ok()
        {
            opened = self.open(folder, OFlags::DIRECTORY);
        }
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", folder.display()))
        };
        Ok(Place { folder: opened.map_err(named)?, name, path: path.into() })
    }
}

/// A name for what is open.
pub(super) fn opened(file: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// A name in a folder that is open.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) folder: OwnedFd,
    pub(super) name: OsString,
    path: PathBuf,
}

/// What a file is, whatever it is called.
type Identity = (u64, u64);

impl Place {
    /// Returns what has a name in the folder, itself.
    pub(super) fn file(&self, name: &OsStr) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.folder, name, flags, Mode::empty())?)
    }

    fn identity(&self) -> io::Result<Identity> {
        let found = statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok((found.st_dev, found.st_ino))
    }

    /// Binds a socket to a name, which must be free.
    pub(super) fn bind(&self, socket: &OwnedFd, name: &OsStr) -> io::Result<()> {
        Ok(bind(socket, &SocketAddrUnix::new(opened(&self.folder).join(name))?)?)
    }

    fn in_use(&self, why: &str) -> io::Error {
        let text = format!("{} is in use: {why}", self.path.display());
        io::Error::new(io::ErrorKind::AddrInUse, text)
    }

    /// Refuses a name that something else has than a socket that nobody serves any more.
    pub(super) fn refuse_live(&self, kind: SocketType) -> io::Result<()> {
        match self.is_live(kind)? {
            true => Err(self.in_use("somebody serves that socket")),
            false => Ok(()),
        }
    }

    /// Whether somebody serves a socket of this kind that has the name. An error says that
    /// something else has it.
    pub(super) fn is_live(&self, kind: SocketType) -> io::Result<bool> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
        let file = match self.file(&self.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::Socket {
            return Err(self.in_use("it is no socket"));
        }
        match connect(&socket, &SocketAddrUnix::new(opened(&file))?) {
            // Not permitted: it hears only the socket that it is connected to (unix(7)).
            Ok(()) | Err(Errno::AGAIN | Errno::PERM) => Ok(true),
            // One of another type is served, too: it cannot be told from a dead one otherwise.
            Err(Errno::PROTOTYPE) => Err(self.in_use("it is a socket of another type")),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether it is `socket`, one for datagrams, that has the name.
    pub(super) fn is_of(&self, socket: &OwnedFd) -> io::Result<bool> {
        let probe =
            socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let file = self.file(&self.name)?;
        // A socket keeps the name that it was bound to, which is nobody else's (`Temporary`).
        connect(&probe, &SocketAddrUnix::new(opened(&file))?)?;
        Ok(getpeername(&probe)? == Some(getsockname(socket)?))
    }

    /// Makes a socket that `ready` prepares, and which then replaces what has the name.
    pub(super) fn make(
        &self,
        access: Access,
        kind: SocketType,
        ready: impl FnOnce(OwnedFd) -> io::Result<OwnedFd>,
    ) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
        let temporary = Temporary::bind(self, &socket)?;
        // Before it has its name: nobody finds a socket with rights that it is not to have.
        access.apply_to(&self.file(&temporary.name)?)?;
        let socket = ready(socket)?;
        // Replaces the old one in one step: at no time is there none (rename(2)).
        renameat(&self.folder, &temporary.name, &self.folder, &self.name)?;
        Ok(socket)
    }
}

const TEMPORARY: (&str, &str) = (".mvirt-", ".tmp");

/// Whether a socket is called so until it is ready.
pub fn is_temporary(name: &str) -> bool {
    let (begin, end) = TEMPORARY;
    let number = name.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end));
    number.is_some_and(|text| text.len() == 32 && Uuid::try_parse(text).is_ok())
}

/// A socket that is not ready, by a name that is nobody else's; until dropped.
struct Temporary<'a> {
    name: OsString,
    place: &'a Place,
}

impl<'a> Temporary<'a> {
    fn bind(place: &'a Place, socket: &OwnedFd) -> io::Result<Self> {
        let (begin, end) = TEMPORARY;
        let name = OsString::from(format!("{begin}{}{end}", Uuid::new_v4().simple()));
        // bind(2) replaces nothing.
        place.bind(socket, &name)?;
        Ok(Self { name, place })
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // It has another name by now, if all went well.
        unlinkat(&self.place.folder, &self.name, AtFlags::empty()).ok();
    }
}

/// The file of a socket of ours.
#[derive(Debug)]
pub(super) struct OwnFile {
    path: PathBuf,
    roots: Roots,
    /// Absent where it was gone when it was looked for.
    identity: Option<Identity>,
}

impl OwnFile {
    /// Returns what is at a path now: what was just made there, or what another process made.
    pub(super) fn at(path: PathBuf, roots: &Roots) -> Self {
        let identity = roots.place(&path).and_then(|place| place.identity()).ok();
        Self { path, roots: roots.clone(), identity }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns where it is, if it still is.
    fn place(&self) -> io::Result<Place> {
        let place = self.roots.place(&self.path)?;
        if Some(place.identity()?) == self.identity {
            return Ok(place);
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "another file has taken its place"))
    }

    /// Lets others open it, from now on.
    pub(super) fn set_access(&self, access: Access) -> io::Result<()> {
        let place = self.place()?;
        access.apply_to(&place.file(&place.name)?)
    }

    /// Takes it away. Another file that somebody has put in its place stays.
    pub(super) fn remove(&self) -> io::Result<()> {
        let place = self.place()?;
        Ok(unlinkat(&place.folder, &place.name, AtFlags::empty())?)
    }
}
