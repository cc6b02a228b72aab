//! One daemon at a time uses a directory: a lock that a successor can take from a process that
//! cannot die.
//!
//! The lock is flock(2) on a file, which the kernel releases when its holder ends. But a thread
//! that waits in the kernel where no signal reaches it (state D) keeps a killed process, and with
//! it the lock, for as long as somebody else likes. So the file says who holds it, and who finds it
//! held by processes that were all killed puts a new file in its place ([why that is
//! safe](../docs/decisions/0008-locks.md)).
//!
//! ```text
//! DIR/NAME         held while a daemon uses DIR; "PID START" of each process that may hold it,
//!                  START in clock ticks
//! DIR/NAME.turn    held for a moment by who is about to take it
//! ```

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long a killed process may take to end by itself before its lock is taken.
const DYING: Duration = Duration::from_secs(1);
/// How long another process may take to take a lock: it may wait for [`DYING`].
const TURN: Duration = Duration::from_secs(3);
/// How often it is looked again.
const LOOK: Duration = Duration::from_millis(20);
/// Octets of a file's text, always the same, so that one write replaces it all.
// Room for two processes, of 32 octets at most: 10 and 20 digits, a space and a newline.
const TEXT: usize = 80;
/// A process that is in exit(2) (`PF_EXITING` of linux/sched.h): it never runs a program again.
const EXITING: u64 = 4;
/// SIGKILL in a mask of /proc/PID/status.
// Signal n is bit n - 1, and SIGKILL is 9.
const KILL: u64 = 1 << 8;

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error("{} is in use by another mvirt-net", .0.display())]
    InUse(PathBuf),
    /// It is not the directory whose lock another process has given.
    #[error(
        "{} is not the directory of the daemon that hands over: another one is taken at a restart \
         only",
        .0.display()
    )]
    Another(PathBuf),
    /// A system call failed.
    #[error("cannot lock {}: {source}", path.display())]
    Io {
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// A directory's lock. It is held until all copies of its descriptor are closed.
#[derive(Debug)]
pub struct DirLock {
    file: File,
    is_taken_from_a_corpse: bool,
}

/// A process, whose number may be given to another one after its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: u32,
    /// In clock ticks after boot.
    start: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Lives,
    /// Killed or ending: none of its threads will run a program again.
    Dying,
    Gone,
}

impl DirLock {
    /// Takes the lock `name` of `directory`. On a disk that takes no files the directory itself is
    /// locked.
    pub fn take(directory: &Path, name: &str) -> Result<Self, LockError> {
        let path = directory.join(name);
        let failed = |source: io::Error| LockError::Io { path: path.clone(), source };
        let in_use = || LockError::InUse(directory.into());
        // Before the file is opened: who has the turn replaces it (decision 0008).
        let _turn = Turn::wait(&path.with_extension("turn")).map_err(failed)?.ok_or_else(in_use)?;
        let patience = Instant::now() + DYING;
        loop {
            // Opened in each round: the path may lead to another file by now.
            let file = open(directory, &path).map_err(failed)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Who held it may have been replaced between both calls.
                Ok(()) if !is_at(&file, &path) && file.metadata().map_err(failed)?.is_file() => {}
                Ok(()) => {
                    note(&file, &[Process::this()]);
                    return Ok(Self { file, is_taken_from_a_corpse: false });
                }
                Err(Errno::WOULDBLOCK) if !is_abandoned(&file) => return Err(in_use()),
                Err(Errno::WOULDBLOCK) if Instant::now() < patience => {
                    std::thread::park_timeout(LOOK);
                }
                Err(Errno::WOULDBLOCK) => return Self::replace(&path).map_err(failed),
                Err(error) => return Err(failed(error.into())),
            }
        }
    }

    /// Goes on with the lock of the daemon that started this process, which has sent it.
    pub fn take_over(directory: &Path, name: &str, lock: OwnedFd) -> Result<Self, LockError> {
        let path = directory.join(name);
        let file = File::from(lock);
        // The lock is the open file's, which both processes share: to take it again succeeds
        // (flock(2)). It fails where another open file has the lock.
        let is_held = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        let is_file = file.metadata().is_ok_and(|found| found.is_file());
        // On a disk that takes no files the directory itself is locked.
        if !is_at(&file, if is_file { &path } else { directory }) {
            return Err(LockError::Another(directory.into()));
        }
        if !is_held {
            return Err(LockError::InUse(directory.into()));
        }
        // Both hold it for now, and either may turn out to be the one that stays.
        let giver = rustix::process::getppid()
            .and_then(|pid| Process::of(pid.as_raw_pid().cast_unsigned()));
        let holders: Vec<_> = giver.into_iter().chain([Process::this()]).collect();
        note(&file, &holders);
        Ok(Self { file, is_taken_from_a_corpse: false })
    }

    /// The lock for another process, to take over.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.file.try_clone().map(OwnedFd::from)
    }

    /// Whether who had it before was killed and cannot end: it may still hold other things.
    pub fn is_taken_from_a_corpse(&self) -> bool {
        self.is_taken_from_a_corpse
    }

    /// A new file, locked, in the place of one that a corpse holds. Only who has its turn may do
    /// this.
    fn replace(path: &Path) -> io::Result<Self> {
        // Locked before it is in place: nobody finds it free. rename(2) leaves no moment without a
        // file.
        let new = path.with_extension("new");
        // A successor that was killed here has left its own.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file =
            OpenOptions::new().write(true).read(true).create_new(true).mode(0o600).open(&new)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        note(&file, &[Process::this()]);
        fs::rename(&new, path)?;
        tracing::warn!(
            path = %path.display(),
            "a daemon that was killed cannot end: its lock is taken"
        );
        Ok(Self { file, is_taken_from_a_corpse: true })
    }
}

/// Whether a process was killed or is ending, and has not ended.
pub fn is_dying(pid: rustix::process::Pid) -> bool {
    let process = Process::of(pid.as_raw_pid().cast_unsigned());
    process.is_some_and(|process| process.health() == Health::Dying)
}

/// The right to take a lock: one process at a time judges its holder.
struct Turn {
    /// Held open for its lock.
    _file: Option<File>,
}

impl Turn {
    /// Waits for it; `None` where another process keeps it too long.
    fn wait(path: &Path) -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        let file = match options.create(true).truncate(false).write(true).mode(0o600).open(path) {
            // Where no file can be made none can be replaced: then the lock alone is enough.
            Err(error) if takes_no_files(&error) => return Ok(Some(Self { _file: None })),
            opened => opened?,
        };
        let patience = Instant::now() + TURN;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Self { _file: Some(file) })),
                Err(Errno::WOULDBLOCK) if Instant::now() < patience => {
                    std::thread::park_timeout(LOOK);
                }
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A disk that is full, read-only or not ours to write to: what is stored there can be served all
/// the same.
fn takes_no_files(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), ReadOnlyFilesystem | StorageFull | QuotaExceeded | PermissionDenied)
}

fn open(directory: &Path, path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    match options.create(true).truncate(false).read(true).write(true).mode(0o600).open(path) {
        Err(error) if takes_no_files(&error) => File::open(path).or_else(|_| File::open(directory)),
        opened => opened,
    }
}

/// Whether a path still leads to the file that was opened: somebody may have put another one there.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(file), Ok(found)) = (file.metadata(), fs::metadata(path)) else { return false };
    (file.dev(), file.ino()) == (found.dev(), found.ino())
}

/// Says who holds a lock. Where that cannot be written, nobody takes it from a corpse.
fn note(file: &File, holders: &[Process]) {
    let lines = holders.iter().map(|holder| format!("{} {}\n", holder.pid, holder.start));
    // Padded: a shorter text leaves nothing of a longer one.
    let text = format!("{:TEXT$}", lines.collect::<String>());
    if let Err(error) = file.write_all_at(text.as_bytes(), 0) {
        tracing::debug!(%error, "a lock does not say who holds it");
    }
}

/// Whether all who may hold a lock were killed, and at least one has not ended.
fn is_abandoned(file: &File) -> bool {
    let mut text = String::new();
    if file.take(TEXT as u64 * 2).read_to_string(&mut text).is_err() {
        return false;
    }
    // All lines or none: junk in one says that the file is not to be trusted.
    let holders: Option<Vec<_>> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Process::parse).collect();
    // One that is gone holds nothing: whoever has the lock then is not known, and may be well.
    let health: Vec<_> = holders.unwrap_or_default().iter().map(Process::health).collect();
    health.contains(&Health::Dying) && !health.contains(&Health::Lives)
}

impl Process {
    fn this() -> Self {
        let pid = std::process::id();
        // Without /proc nobody can be judged, and no lock is taken from anybody.
        Self::of(pid).unwrap_or(Self { pid, start: 0 })
    }

    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid, start: Stat::parse(&stat)?.start })
    }

    fn parse(line: &str) -> Option<Self> {
        let (pid, start) = line.split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, start: start.parse().ok()? })
    }

    fn health(&self) -> Health {
        let path = |name: &str| format!("/proc/{}/{name}", self.pid);
        let stat = match fs::read_to_string(path("stat")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Health::Gone,
            // What cannot be looked at is not judged.
            Err(_) => return Health::Lives,
            Ok(text) => Stat::parse(&text),
        };
        match stat {
            // The number is another process's by now.
            Some(stat) if stat.start != self.start => Health::Gone,
            Some(stat) if stat.is_ending => Health::Dying,
            _ => match fs::read_to_string(path("status")) {
                Ok(status) if is_killed(&status) => Health::Dying,
                _ => Health::Lives,
            },
        }
    }
}

/// What /proc/PID/stat says of a process's first thread (proc_pid_stat(5)).
struct Stat {
    start: u64,
    is_ending: bool,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name, in parentheses, may contain anything; the fields after it are numbered from 3.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        let flags: u64 = field(9)?.parse().ok()?;
        // The first thread of a daemon never ends before the others, but by exit_group(2) or
        // SIGKILL.
        let is_dead = matches!(field(3)?, "Z" | "X");
        Some(Self { start: field(22)?.parse().ok()?, is_ending: is_dead || flags & EXITING != 0 })
    }
}

/// Whether /proc/PID/status shows that SIGKILL waits for the first thread, as it does in state D.
fn is_killed(status: &str) -> bool {
    status
        .lines()
        .filter_map(|line| line.split_once(":\t"))
        .filter(|(name, _)| matches!(*name, "SigPnd" | "ShdPnd"))
        .filter_map(|(_, mask)| u64::from_str_radix(mask.trim(), 16).ok())
        .any(|mask| mask & KILL != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let first = DirLock::take(directory.path(), "lock").unwrap();
        let refused = DirLock::take(directory.path(), "lock").unwrap_err();
        let told = format!("{} is in use by another mvirt-net", directory.path().display());
        assert_eq!(refused.to_string(), told);
        let copy = first.share().unwrap();
        drop(first);
        assert!(DirLock::take(directory.path(), "lock").is_err(), "a copy holds it");
        drop(copy);
        DirLock::take(directory.path(), "lock").unwrap();
    }

    #[test]
    fn a_lock_whose_holder_is_not_known_is_never_taken() {
        let directory = tempfile::tempdir().unwrap();
        let first = DirLock::take(directory.path(), "lock").unwrap();
        // Nobody, junk, a process that is gone, and one of that number that began later.
        for text in ["", "junk\n", "4194304 1\n", "1 1\n"] {
            first.file.write_all_at(format!("{text:TEXT$}").as_bytes(), 0).unwrap();
            assert!(!is_abandoned(&File::open(directory.path().join("lock")).unwrap()), "{text:?}");
            assert!(DirLock::take(directory.path(), "lock").is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_process_in_exit_or_with_a_pending_kill_is_dying() {
        let stat = |state: &str, flags: u64| {
            let after = format!("{state} 1 2 3 0 -1 {flags} 10 0 0 0 5 6 0 0 20 0 4 0 777 1 2");
            let stat = Stat::parse(&format!("42 (a) b (c) {after}")).unwrap();
            (stat.start, stat.is_ending)
        };
        assert_eq!(stat("S", 0x40_0040), (777, false));
        assert_eq!(stat("D", 0x40_0040), (777, false));
        assert_eq!(stat("D", 0x40_0044), (777, true));
        assert_eq!(stat("Z", 0x40_0040), (777, true));
        let status = |own: &str, shared: &str| {
            is_killed(&format!("Name:\tx\nSigPnd:\t{own}\nShdPnd:\t{shared}\nSigBlk:\t100\n"))
        };
        assert!(!status("0000000000000000", "0000000000004000"));
        assert!(status("0000000000000100", "0000000000000000"));
        assert!(status("0000000000000000", "0000000000000100"));
    }

    #[test]
    fn a_disk_that_takes_no_files_is_locked_all_the_same() {
        assert!(takes_no_files(&Errno::ROFS.into()) && takes_no_files(&Errno::NOSPC.into()));
        let directory = tempfile::tempdir().unwrap();
        let whole = File::open(directory.path()).unwrap();
        flock(&whole, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(!is_abandoned(&whole), "a directory tells of nobody");
    }
}
