//! The file with the process id, and the end of the process that it is of.
//!
//! The lock of the file decides who runs, not the number in it: the kernel says who holds it
//! (F_GETLK of fcntl(2)), and takes it away when that process ends. So a number that is stale,
//! given to another process or written by somebody else is never believed, and never signalled.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FlockOperation, fcntl_lock},
    io::Errno,
    process::{
        Flock, FlockType, Pid, PidfdFlags, Signal, fcntl_getlk, pidfd_open, pidfd_send_signal,
    },
};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a daemon that is told to end may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the file is not this process's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PidFileError {
    #[error("already running (PID: {0})")]
    Running(Pid),
    #[error("{} is no pid file: it holds something else than a process's number", path.display())]
    Foreign { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Why a daemon was not stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StopError {
    #[error("it is not running")]
    NotRunning,
    #[error("process {pid}: {source}")]
    Signal { pid: Pid, source: io::Error },
    #[error("process {0} has not ended after {PATIENCE:?}")]
    Late(Pid),
    #[error("{0}")]
    File(#[from] io::Error),
}

/// The file, while this process runs.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    // Never opened again by this process: to close any descriptor of a file gives its locks up.
    file: File,
}

impl PidFile {
    /// Takes the file for this process, in the place of one that nobody holds.
    pub(crate) fn take(path: &Path) -> Result<Self, PidFileError> {
        let failed = |source| PidFileError::Io { path: path.into(), source };
        loop {
            let mut options = OpenOptions::new();
            // In a folder that all may write to, a link could lead to any file of this user's.
            let options = options.create(true).truncate(false).read(true).write(true).mode(0o644);
            let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
            let file = options.custom_flags(nofollow).open(path).map_err(failed)?;
            match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Who held it may have removed it between both calls.
                Ok(()) if !is_at(&file, path) => continue,
                Ok(()) => {}
                Err(Errno::AGAIN | Errno::ACCESS) => match holder_of(&file).map_err(failed)? {
                    Some(pid) => return Err(PidFileError::Running(pid)),
                    // It has just ended.
                    None => continue,
                },
                Err(errno) => return Err(failed(errno.into())),
            }
            // A slip of the hand must cost no file: it is written now, and removed at the end.
            if !is_pid_file(&file).map_err(failed)? {
                return Err(PidFileError::Foreign { path: path.into() });
            }
            let mut this = Self { path: path.into(), file };
            this.write().map_err(failed)?;
            return Ok(this);
        }
    }

    fn write(&mut self) -> io::Result<()> {
        // Whatever the umask is: others may ask whether it runs.
        self.file.set_permissions(Permissions::from_mode(0o644))?;
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(format!("{}\n", std::process::id()).as_bytes())
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // While it is still locked: the file that goes is this process's.
        if is_at(&self.file, &self.path)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the pid file");
        }
    }
}

/// Whether an open file is empty, or holds a process's number and no more.
fn is_pid_file(file: &File) -> io::Result<bool> {
    // What is read from a pipe or a device may never come.
    if !file.metadata()?.is_file() {
        return Ok(false);
    }
    let mut octets = Vec::new();
    // More than the longest number, with white space.
    file.take(32).read_to_end(&mut octets)?;
    let text = octets.trim_ascii();
    Ok(octets.len() < 32 && text.len() <= 10 && text.iter().all(u8::is_ascii_digit))
}

/// Whether a path leads to an open file.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(file), Ok(found)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    (file.dev(), file.ino()) == (found.dev(), found.ino())
}

fn holder_of(file: &File) -> io::Result<Option<Pid>> {
    let Some(lock) = fcntl_getlk(file, &Flock::from(FlockType::ReadLock))? else {
        return Ok(None);
    };
    let unknown = || io::Error::other("a process of another PID namespace holds it");
    lock.pid.map(Some).ok_or_else(unknown)
}

/// Returns the process that holds a pid file, if one does.
pub(crate) fn holder(path: &Path) -> io::Result<Option<Pid>> {
    match File::open(path) {
        Ok(file) => holder_of(&file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Tells the daemon of a pid file to end, and waits until it has.
pub(crate) fn stop(path: &Path) -> Result<(), StopError> {
    let pid = holder(path)?.ok_or(StopError::NotRunning)?;
    let refused = |errno: Errno| StopError::Signal { pid, source: errno.into() };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(Errno::SRCH) => return Err(StopError::NotRunning),
        Err(errno) => return Err(refused(errno)),
    };
    // Asked again, with the process in hand: one that holds the lock now is the one that held it
    // before, and not another of its number.
    if holder(path)? != Some(pid) {
        return Err(StopError::NotRunning);
    }
    pidfd_send_signal(&process, Signal::TERM).map_err(refused)?;
    let limit = Timespec::try_from(PATIENCE).ok();
    // A descriptor of a process is readable when it has ended.
    match poll(&mut [PollFd::new(&process, PollFlags::IN)], limit.as_ref()) {
        Ok(0) => Err(StopError::Late(pid)),
        Ok(_) => Ok(()),
        Err(errno) => Err(refused(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn pid() -> String {
        format!("{}\n", std::process::id())
    }

    // seed H.2.19
    #[test]
    fn a_stale_file_is_replaced_and_its_number_never_believed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        // A process that lives and is not ours.
        let mut foreign = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        fs::write(&path, format!("{}\n", foreign.id())).unwrap();
        assert_eq!(holder(&path).unwrap(), None);
        assert!(matches!(stop(&path), Err(StopError::NotRunning)));
        assert!(foreign.try_wait().unwrap().is_none(), "it was not signalled");
        let file = PidFile::take(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), pid());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        drop(file);
        assert!(!path.exists());
        drop(foreign.stdin.take());
        foreign.wait().unwrap();
    }

    #[test]
    fn a_file_of_something_else_is_refused_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes");
        for text in ["precious\n", "12 monkeys\n", "1\n2\n", &"1".repeat(100)] {
            fs::write(&path, text).unwrap();
            assert!(matches!(PidFile::take(&path), Err(PidFileError::Foreign { .. })), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        for text in ["", "4711", " 4711\n"] {
            fs::write(&path, text).unwrap();
            drop(PidFile::take(&path).unwrap());
        }
    }

    #[test]
    fn a_link_is_not_followed_and_a_file_in_its_place_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("pid"), directory.path().join("other"));
        fs::write(&other, "precious").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(matches!(PidFile::take(&path), Err(PidFileError::Io { .. })));
        assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        let file = PidFile::take(&path).unwrap();
        fs::rename(&other, &path).unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
