//! What a VMM gave, and the thread that waits for it in its vNIC's stead.
//!
//! To close a descriptor, to ask about it, to map and to unmap may each wait for as long as its
//! owner likes: a file of a FUSE file system, a TCP socket with data to be sent, a UNIX socket in
//! which such descriptors travel, gigabytes of memory to be freed. So none of it is done on a
//! thread that others need: [`Apart`] does it on one that is a vNIC's alone, and what is wrapped in
//! [`Foreign`] is dropped there, whoever lets go of it. A vNIC whose VMM makes that thread wait
//! waits itself.

use rustix::{
    fs::{CWD, readlinkat},
    net::{AddressFamily, SocketAddrUnix, getpeername, sockopt::socket_domain},
};
use std::{
    collections::VecDeque,
    fmt, io,
    ops::{Deref, DerefMut},
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// Octets of the thread's stack: it makes system calls, and no more.
// A sixteenth of the standard library's: each of thousands of vNICs may have such a thread.
const STACK: usize = 128 << 10;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    /// A thread works on them.
    running: bool,
}

/// A vNIC's own thread: there only while there is something to do.
#[derive(Clone, Default)]
pub struct Apart(Arc<Mutex<Jobs>>);

impl fmt::Debug for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Apart").finish_non_exhaustive()
    }
}

impl Apart {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        // Poison means nothing here: jobs run without the lock, and the queue is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a job. An error: no thread can be started now. The job stays, and is done with the
    /// next.
    fn push(&self, job: Job) -> io::Result<()> {
        let mut jobs = self.jobs();
        jobs.waiting.push_back(job);
        // Under the lock, so that no two threads are started, and order is kept.
        if !jobs.running {
            let own = self.clone();
            let thread = std::thread::Builder::new().name("apart".into()).stack_size(STACK);
            // Marked as running only after this: where it fails, the next push tries again.
            thread.spawn(move || own.work())?;
            jobs.running = true;
        }
        Ok(())
    }

    fn work(&self) {
        loop {
            let mut jobs = self.jobs();
            let Some(job) = jobs.waiting.pop_front() else {
                // Under the lock that found nothing: a job that is pushed now starts another
                // thread.
                jobs.running = false;
                return;
            };
            // A job may wait for hours, and who pushes another must not.
            drop(jobs);
            job();
        }
    }

    /// Does `job` there, after all that was given before. Returns its outcome. Dropping the future
    /// abandons it.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (done, outcome) = oneshot::channel();
        // An outcome that nobody waits for is dropped right there.
        self.push(Box::new(move || drop(done.send(job()))))?;
        outcome.await.map_err(|_| io::Error::other("a thread ended by a panic"))
    }

    /// Completes when all that was given before is done.
    pub async fn idle(&self) -> io::Result<()> {
        // Jobs may wait without a thread, where none could be had when they came.
        let is_idle = {
            let jobs = self.jobs();
            !jobs.running && jobs.waiting.is_empty()
        };
        // A job that does nothing: it is done when all before it are.
        if is_idle { Ok(()) } else { self.run(|| ()).await }
    }

    /// Wraps what is to be dropped there.
    pub fn own<T: Send + 'static>(&self, thing: T) -> Foreign<T> {
        Foreign { thing: Some(thing), apart: self.clone() }
    }
}

/// Something of a VMM's, which is dropped by its [`Apart`].
pub struct Foreign<T: Send + 'static> {
    /// Absent only while it is dropped or taken out.
    thing: Option<T>,
    apart: Apart,
}

impl<T: Send + 'static> Foreign<T> {
    /// Wraps what came with it, from the same VMM.
    pub fn own<U: Send + 'static>(&self, thing: U) -> Foreign<U> {
        self.apart.own(thing)
    }

    /// Does a job on the thread that will drop this. Where no thread can be started now, it is done
    /// with the next job.
    pub fn apart(&self, job: impl FnOnce() + Send + 'static) {
        if let Err(error) = self.apart.push(Box::new(job)) {
            tracing::debug!(%error, "what is done for a VMM waits for its next message");
        }
    }

    /// Unwraps it: for what turned out to close without waiting for anybody.
    pub fn into_inner(mut self) -> T {
        self.thing.take().expect("it is there until it is dropped")
    }

    /// Makes something else of it. An error drops it here and now.
    pub fn try_map<U: Send + 'static, E>(
        mut self,
        make: impl FnOnce(T) -> Result<U, E>,
    ) -> Result<Foreign<U>, E> {
        let thing = self.thing.take().map(make).transpose()?;
        Ok(Foreign { thing, apart: self.apart.clone() })
    }
}

impl<T: Send + 'static> Deref for Foreign<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.thing.as_ref().expect("it is there until it is dropped")
    }
}

impl<T: Send + 'static> DerefMut for Foreign<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.thing.as_mut().expect("it is there until it is dropped")
    }
}

impl<T: Send + 'static> Drop for Foreign<T> {
    fn drop(&mut self) {
        if let Some(thing) = self.thing.take()
            && let Err(error) = self.apart.push(Box::new(move || drop(thing)))
        {
            tracing::debug!(%error, "what a VMM gave is kept until its next message");
        }
    }
}

impl<T: Send + fmt::Debug + 'static> fmt::Debug for Foreign<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.thing.fmt(f)
    }
}

/// Of a VMM of its own: for tests, and for what no vNIC waits for.
impl From<OwnedFd> for Foreign<OwnedFd> {
    fn from(fd: OwnedFd) -> Self {
        Apart::default().own(fd)
    }
}

/// What a descriptor is, as far as can be told without asking whoever is behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An eventfd: nothing that is done with it waits, but for reading and writing.
    Eventfd,
    /// A UNIX socket.
    UnixSocket,
    /// Anything else.
    Other,
}

impl Kind {
    /// What `fd` is. The links of /proc are the kernel's own words: no file system, and no other
    /// process, has a say in those that do not begin with a slash.
    pub fn of(fd: impl AsFd) -> Self {
        let fd = fd.as_fd();
        // Not fstat(2): that asks the file system, and a FUSE server answers when it likes.
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let Ok(target) = readlinkat(CWD, link, Vec::new()) else { return Self::Other };
        match target.as_bytes() {
            b"anon_inode:[eventfd]" => Self::Eventfd,
            // TCP, too, is "socket:": its close may wait for a peer (SO_LINGER).
            socket if socket.starts_with(b"socket:[") => match socket_domain(fd) {
                Ok(AddressFamily::UNIX) => Self::UnixSocket,
                _ => Self::Other,
            },
            _ => Self::Other,
        }
    }
}

/// The directory of the socket that `fd` is connected to, if that has a name.
pub fn peer_directory(fd: impl AsFd) -> Option<PathBuf> {
    let peer = SocketAddrUnix::try_from(getpeername(fd).ok()??).ok()?;
    // Not the whole path: a listener is bound to a temporary name, and keeps that when renamed.
    let path = Path::new(std::ffi::OsStr::from_bytes(peer.path_bytes()?));
    path.parent().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::{
        event::{EventfdFlags, eventfd},
        net::{SocketFlags, SocketType, socket_with, socketpair},
    };
    use std::{sync::mpsc, thread};

    struct GatewayEvent(mpsc::Sender<thread::ThreadId>);

    impl Drop for GatewayEvent {
        fn drop(&mut self) {
            self.0.send(thread::current().id()).unwrap();
        }
    }

    #[test]
    fn what_is_foreign_is_dropped_by_another_thread_in_order() {
        let apart = Apart::default();
        let (sender, receiver) = mpsc::channel();
        let (hold, held) = mpsc::channel::<()>();
        apart.push(Box::new(move || assert!(held.recv().is_err()))).unwrap();
        drop(apart.own(GatewayEvent(sender.clone())));
        drop(apart.own(GatewayEvent(sender)).try_map(|told| Ok::<_, ()>([told])));
        assert!(receiver.try_recv().is_err(), "it waits behind what waits");
        drop(hold);
        let threads: Vec<_> = receiver.iter().collect();
        assert_eq!(threads.len(), 2);
        assert!(!threads.contains(&thread::current().id()));
    }

    #[tokio::test]
    async fn outcomes_come_back_and_others_do_not_wait() {
        let (slow, other) = (Apart::default(), Apart::default());
        let (hold, held) = mpsc::channel::<()>();
        let waits = tokio::spawn({
            let slow = slow.clone();
            async move { slow.run(move || held.recv().is_err()).await.unwrap() }
        });
        assert_eq!(other.run(|| 7).await.unwrap(), 7);
        other.idle().await.unwrap();
        drop(hold);
        assert!(waits.await.unwrap());
        slow.idle().await.unwrap();
    }

    #[test]
    fn descriptors_are_told_apart() {
        assert_eq!(Kind::of(eventfd(0, EventfdFlags::CLOEXEC).unwrap()), Kind::Eventfd);
        let flags = SocketFlags::CLOEXEC;
        let (unix, _other) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        assert_eq!((Kind::of(&unix), peer_directory(&unix)), (Kind::UnixSocket, None));
        let tcp = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
        assert_eq!(Kind::of(tcp), Kind::Other);
        assert_eq!(Kind::of(std::io::pipe().unwrap().0), Kind::Other);
        assert_eq!(Kind::of(std::fs::File::open("Cargo.toml").unwrap()), Kind::Other);

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(peer_directory(&client).as_deref(), Some(directory.path()));
        drop(listener);
    }
}
