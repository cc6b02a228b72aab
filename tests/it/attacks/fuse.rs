//! A file system of an attacker's own (Linux Documentation/filesystems/fuse.rst; include/uapi/linux/fuse.h): one file, of which
//! from some moment on nothing is answered, so that whoever looks at it, reads a page of it or closes it waits.

use super::stage::Stop;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open, openat},
    io::{fcntl_dupfd_cloexec, read, write},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen,
    },
};
use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

// Operations that opening the file needs.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const BATCH_FORGET: u32 = 42;
const ENOSYS: i32 = -38;

/// Where its descriptors are.
const ABOVE: i32 = 1000;
/// Octets of the file: as much as any region of memory here.
const SIZE: u64 = 1 << 20;

/// The file system. Dropping it ends it, and every wait for it, before its own files are closed.
pub(super) struct Waiting {
    held: Arc<AtomicUsize>,
    end: Stop,
    server: Option<thread::JoinHandle<()>>,
    /// The file, so often.
    pub(super) files: Vec<OwnedFd>,
    page: GuestMemoryMmap,
}

impl Waiting {
    /// With so many files, or `None`, and why, where there can be none.
    pub(super) fn mount(files: usize) -> Option<Self> {
        Self::try_mount(files).inspect_err(|error| eprintln!("skipped: no FUSE here: {error}")).ok()
    }

    fn try_mount(files: usize) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let device = open("/dev/fuse", flags, Mode::empty())?;
        let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let options = [
            ("fd", device.as_raw_fd().to_string()),
            ("rootmode", "40000".into()),
            ("user_id", rustix::process::getuid().as_raw().to_string()),
            ("group_id", rustix::process::getgid().as_raw().to_string()),
        ];
        for (name, value) in options {
            fsconfig_set_string(&context, name, value)?;
        }
        fsconfig_create(&context)?;
        let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let (hold, end, held) = (Stop::default(), Stop::default(), Arc::default());
        let (holds, ended, count) = (hold.clone(), end.clone(), Arc::clone(&held));
        let server = thread::spawn(move || serve(&device, (&holds, &count), &ended));
        let file = || openat(&mounted, "file", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        // A test that is killed closes its descriptors in order: the device is to be among the first.
        let file = || fcntl_dupfd_cloexec(file()?, ABOVE);
        let files = (0..files).map(|_| Ok(file()?)).collect::<io::Result<Vec<_>>>()?;
        let offset = FileOffset::new(File::from(file()?), 0);
        let page = GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), 4096, Some(offset))]);
        hold.set();
        Ok(Self { held, end, server: Some(server), files, page: page.unwrap() })
    }

    /// A page of the file: whoever copies from it or to it waits, with what it has locked.
    pub(super) fn page(&self) -> GuestMemoryMmap {
        self.page.clone()
    }

    /// How many wait for an answer.
    pub(super) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.end.set();
        self.server.take().map(thread::JoinHandle::join);
    }
}

fn serve(device: &OwnedFd, (hold, held): (&Stop, &AtomicUsize), end: &Stop) {
    let mut request = vec![0; 256 << 10];
    while !end.is_set() {
        let mut readable = [PollFd::new(device, PollFlags::IN)];
        let patience = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        if !matches!(poll(&mut readable, Some(&patience)), Ok(1)) {
            continue;
        }
        let Ok(len) = read(device, &mut request) else { continue };
        let operation = u32::from_ne_bytes(request[4..8].try_into().unwrap());
        let payload = match operation {
            FORGET | BATCH_FORGET => continue,
            _ if hold.is_set() => {
                held.fetch_add(1, Relaxed);
                continue;
            }
            INIT => Ok(init()),
            LOOKUP => Ok([words([2, 0, 0, 0, 0]), attributes(false)].concat()),
            // Of the root or of the file; known for no time.
            GETATTR => Ok([words([0, 0]), attributes(request[16] == 1)].concat()),
            OPEN => Ok(words([0, 0])),
            // Said to be unknown, it would never be asked again.
            FLUSH => Ok(vec![]),
            _ => Err(ENOSYS),
        };
        assert!(len >= 40, "a request has a header");
        let error = payload.as_ref().err().copied().unwrap_or(0);
        let payload = payload.unwrap_or_default();
        let head = [(16 + payload.len()) as i32, error].map(i32::to_ne_bytes).concat();
        // Who asked may have given up.
        write(device, &[&head, &request[8..16], &payload].concat()).ok();
    }
}

fn words<const N: usize>(words: [u64; N]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// `fuse_init_out` of protocol 7.31.
fn init() -> Vec<u8> {
    let mut init = vec![0; 64];
    init[..4].copy_from_slice(&7_u32.to_ne_bytes());
    init[4..8].copy_from_slice(&31_u32.to_ne_bytes());
    // Octets written at once.
    init[20..24].copy_from_slice(&4096_u32.to_ne_bytes());
    init
}

/// `fuse_attr`.
fn attributes(is_root: bool) -> Vec<u8> {
    let mode = if is_root { 0o40755 } else { 0o100666 };
    let number = if is_root { 1 } else { 2 };
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let large = words([number, if is_root { 0 } else { SIZE }, 0, 0, 0, 0]);
    let small = [0, 0, 0, mode, 1, uid, gid, 0, 4096, 0_u32].map(u32::to_ne_bytes).concat();
    [large, small].concat()
}
