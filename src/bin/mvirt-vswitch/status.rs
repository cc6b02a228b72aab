//! What `-status` asks the daemon: a connection to its abstract socket, whose answer is text.
//!
//! The socket is named after the daemon's process: it needs no file beside the pid file, and goes
//! with the process.

use super::{flags::Flags, pid_file, switch::Vlans};
use rustix::process::Pid;
use std::{
    io::{self, Read as _, Write as _},
    os::linux::net::SocketAddrExt as _,
    os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream},
    process::ExitCode,
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixListener, UnixStream},
};

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of LSB's init scripts: the program is not running.
const NOT_RUNNING: u8 = 3;
/// How long until it is tried again to accept, where no more files can be opened.
const RETRY: Duration = Duration::from_millis(100);

fn address(pid: u32) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("mvirt-vswitch/{pid}"))
}

/// Listens for questions to this process.
pub(crate) fn listen() -> io::Result<UnixListener> {
    let listener = StdListener::bind_addr(&address(std::process::id())?)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Answers questions until it is dropped.
pub(crate) async fn serve(listener: UnixListener, vlans: Vlans) {
    loop {
        match listener.accept().await {
            // One after the other: who does not read holds up no more than other questions.
            Ok((stream, _)) => drop(tokio::time::timeout(PATIENCE, answer(stream, &vlans)).await),
            Err(error) => {
                tracing::debug!(%error, "a question for the status was not accepted");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, vlans: &Vlans) -> io::Result<()> {
    let asking = stream.peer_cred()?.uid();
    // An abstract socket has no permissions: anybody could see who is there.
    if asking != 0 && asking != rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let text = vlans.stats().await.map(|stats| stats.lines()).unwrap_or_default();
    stream.write_all(text.as_bytes()).await
}

/// Says whether the daemon runs, and what its VLANs carry.
pub(crate) fn print(flags: &Flags) -> io::Result<ExitCode> {
    let mut output = io::stdout().lock();
    let Some(pid) = pid_file::holder(&flags.pid_file)? else {
        writeln!(output, "Daemon is not running")?;
        return Ok(ExitCode::from(NOT_RUNNING));
    };
    writeln!(output, "Daemon is running (PID: {pid})")?;
    // It runs all the same where it does not answer, as to another user.
    output.write_all(ask(pid).unwrap_or_default().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn ask(pid: Pid) -> io::Result<String> {
    let mut stream = StdStream::connect_addr(&address(pid.as_raw_pid().cast_unsigned())?)?;
    // Anybody may have taken this name.
    if rustix::net::sockopt::socket_peercred(&stream)?.pid != pid {
        return Ok(String::new());
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
