//! A daemon in the background: this program, started once more, in a session of its own.
//!
//! ```text
//! vswitch -daemon ── starts ──▶ vswitch -detached-child -daemon
//!        ◀── its standard output: READY when all ports listen, or the end of the file
//! ```
//! Started anew rather than forked: a fork has one thread only, whatever the others held.

use super::flags::DETACHED;
use rustix::{
    fs::Mode,
    process::{setsid, umask},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
};
use std::{
    env,
    fs::OpenOptions,
    io::{self, Read as _, Write as _},
    process::{Command, ExitCode, Stdio},
};

const READY: &str = "ready\n";

/// Starts this program in the background, with the same flags. Returns when it switches; or when it
/// has ended, as it did: it has said why.
pub(crate) fn start() -> io::Result<ExitCode> {
    let mut command = Command::new(env::current_exe()?);
    command.arg(format!("-{DETACHED}")).args(env::args_os().skip(1));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut word = String::new();
    // Ends when the daemon closes it: it never says more.
    child.stdout.take().map(|mut output| output.read_to_string(&mut word)).transpose()?;
    if word == READY {
        writeln!(io::stdout(), "Daemon started")?;
        return Ok(ExitCode::SUCCESS);
    }
    // By a signal it has no code.
    let code = child.wait()?.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}

/// Leaves the session of who started this process, and its folder, whose disk it would keep busy.
pub(crate) fn detach() -> io::Result<()> {
    setsid()?;
    umask(Mode::WGRP | Mode::WOTH);
    env::set_current_dir("/")
}

/// Tells who started this process that it switches, and lets go of its terminal.
pub(crate) fn ready() -> io::Result<()> {
    // Who waited may have been interrupted: the daemon runs all the same.
    io::stdout().write_all(READY.as_bytes()).and_then(|()| io::stdout().flush()).ok();
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}
