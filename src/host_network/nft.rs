//! nft(8), which changes nftables: run for each change, and never for long.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// How long it may take.
// A change of a thousand prefixes takes some milliseconds. Control waits meanwhile, and twice where
// that is taken back: less than its watchdog does (`heartbeat.rs`).
const PATIENCE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// The program.
#[derive(Debug)]
pub(super) struct Nft(PathBuf);

impl Nft {
    /// Finds it, where it is installed.
    pub(super) fn find() -> io::Result<Self> {
        which::which("nft").map(Self).map_err(|_| {
            let text = "nft is not there: install the package nftables";
            io::Error::new(io::ErrorKind::NotFound, text)
        })
    }

    /// Carries lines out in one transaction.
    pub(super) fn change(&self, lines: &str) -> io::Result<()> {
        self.run(&["-f", "-"], lines).map(drop)
    }

    /// Returns all chains there are, as JSON.
    pub(super) fn chains(&self) -> io::Result<String> {
        self.run(&["-j", "list", "chains"], "")
    }

    /// Returns a table, as `family name`.
    pub(super) fn table(&self, table: &str) -> io::Result<String> {
        let arguments: Vec<_> = ["list", "table"].into_iter().chain(table.split(' ')).collect();
        self.run(&arguments, "")
    }

    /// Returns the table of load balancers without the elements of its maps, as JSON.
    pub(super) fn balancers(&self) -> io::Result<String> {
        self.run(&super::balancers::LIST, "")
    }

    fn run(&self, arguments: &[&str], input: &str) -> io::Result<String> {
        // Files and no pipes: nobody has to read while it writes.
        let [mut stdin, mut stdout, mut stderr] = [file()?, file()?, file()?];
        stdin.write_all(input.as_bytes())?;
        stdin.rewind()?;
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", self.0.display()))
        };
        let mut child = Command::new(&self.0)
            .args(arguments)
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::from(stdout.try_clone()?))
            .stderr(Stdio::from(stderr.try_clone()?))
            .spawn()
            .map_err(named)?;
        if !ends_in_time(&child)? {
            child.kill()?;
            child.wait()?;
            return Err(named(io::ErrorKind::TimedOut.into()));
        }
        if child.wait()?.success() {
            return text(&mut stdout);
        }
        let said = text(&mut stderr)?;
        let said = said.lines().next().unwrap_or("it says nothing");
        Err(named(io::Error::other(said.to_owned())))
    }
}

fn file() -> io::Result<File> {
    Ok(memfd_create("nft", MemfdFlags::CLOEXEC)?.into())
}

fn text(file: &mut File) -> io::Result<String> {
    let mut octets = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut octets)?;
    Ok(String::from_utf8_lossy(&octets).into_owned())
}

fn ends_in_time(child: &Child) -> io::Result<bool> {
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    Ok(poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&PATIENCE))? > 0)
}
