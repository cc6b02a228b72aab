//! Sessions of the console: at the standard input, at the control socket, and of a run control
//! file.

use super::switch::Switch;
use mvirt_net::dives::console::{self, Lines};
use std::{
    fs,
    io::{self, BufRead as _, ErrorKind, IsTerminal as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream as StdStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{Notify, mpsc},
    time::timeout,
};

/// Sessions at the socket at a time; one more takes the place of the one that is idle for longest.
const SESSIONS: usize = 64;
/// How long until it is tried again to accept, where no more files can be opened.
const RETRY: Duration = Duration::from_millis(100);
/// How long an answer may take to be read.
const PATIENCE: Duration = Duration::from_secs(10);

/// Carries out the commands of a file. Refuses the first line that is bad, by its number.
pub(crate) async fn run_file(switch: &Switch, path: &Path) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let text = fs::read_to_string(path).map_err(failed)?;
    let mut focus = None;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let (said, is_done) = switch.execute(&mut focus, line).await;
        if !is_done {
            let (file, said, line) = (path.display(), said.trim_end(), line.trim());
            return Err(format!("{file}:{number}: {said}: {line}"));
        }
    }
    Ok(())
}

/// How the console at the standard input ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Who typed is gone.
    Terminal,
    /// All commands are carried out.
    Input,
}

/// Takes commands at the standard input until its end.
pub(crate) async fn console(switch: Arc<Switch>) -> io::Result<Ended> {
    let is_terminal = io::stdin().is_terminal();
    let (sender, mut lines) = mpsc::channel(1);
    // A thread of its own: a read of a terminal cannot be given up.
    std::thread::Builder::new().name("console".into()).spawn(move || {
        let read = io::stdin().lock().lines().map_while(Result::ok);
        read.take_while(|line| sender.blocking_send(line.clone()).is_ok()).for_each(drop);
    })?;
    let mut focus = None;
    loop {
        if is_terminal {
            write!(io::stdout(), "{}> ", console::path(focus))?;
            io::stdout().flush()?;
        }
        let Some(line) = lines.recv().await else { break };
        let (said, _) = switch.execute(&mut focus, &line).await;
        write!(io::stdout(), "{said}")?;
        io::stdout().flush()?;
    }
    Ok(if is_terminal { Ended::Terminal } else { Ended::Input })
}

/// Listens at `DIR/ctl`, in the place of a socket that nobody listens at.
pub(crate) fn listen(directory: &Path) -> io::Result<UnixListener> {
    let path = directory.join("ctl");
    let about = |error: io::Error| {
        let hint = match error.kind() {
            // One of this name is in each VDE switch's directory.
            ErrorKind::AddrInUse => ": another switch, or the control socket of a VDE switch",
            _ => "",
        };
        io::Error::new(error.kind(), format!("{}: {error}{hint}", path.display()))
    };
    // Connection refused: its owner is dead.
    if StdStream::connect(&path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
        fs::remove_file(&path).map_err(about)?;
    }
    let listener = UnixListener::bind(&path).map_err(about)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).map_err(about)?;
    Ok(listener)
}

/// A session at the socket, as seen from outside.
struct Session {
    /// When a command last came, by a clock that goes on with each. Shared with the session's task.
    heard: Arc<AtomicU64>,
    end: Arc<Notify>,
}

/// Serves sessions at the socket until it is dropped.
pub(crate) async fn serve(listener: UnixListener, switch: Arc<Switch>) {
    let clock = Arc::<AtomicU64>::default();
    let mut sessions = Vec::<Session>::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Of a session that has ended, its task has no part any more.
                sessions.retain(|session| Arc::strong_count(&session.heard) > 1);
                if sessions.len() >= SESSIONS {
                    end_idlest(&mut sessions);
                }
                let heard = Arc::new(AtomicU64::new(clock.fetch_add(1, Relaxed)));
                let session = Session { heard, end: Arc::default() };
                let (heard, end) = (Arc::clone(&session.heard), Arc::clone(&session.end));
                let (switch, clock) = (Arc::clone(&switch), Arc::clone(&clock));
                sessions.push(session);
                tokio::spawn(async move {
                    let hear = || heard.store(clock.fetch_add(1, Relaxed), Relaxed);
                    if let Err(error) = serve_one(stream, &switch, &end, hear).await {
                        tracing::debug!(%error, "a session of the console ended");
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a session of the console was not accepted");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Ends the session that has been silent for longest: who comes is not shut out by who is idle.
fn end_idlest(sessions: &mut Vec<Session>) {
    let heard = |(_, session): &(usize, &Session)| session.heard.load(Relaxed);
    if let Some((at, _)) = sessions.iter().enumerate().min_by_key(heard) {
        sessions.swap_remove(at).end.notify_one();
    }
}

async fn serve_one(
    mut stream: UnixStream,
    switch: &Switch,
    end: &Notify,
    hear: impl Fn(),
) -> io::Result<()> {
    let (mut focus, mut lines, mut octets) = (None, Lines::default(), [0; 4096]);
    loop {
        // Only here and where an answer waits: a command is carried out as a whole.
        let len = tokio::select! {
            len = stream.read(&mut octets) => len?,
            () = end.notified() => return Ok(()),
        };
        hear();
        let mut found = lines.take(&octets[..len]);
        if len == 0 {
            found.extend(lines.last());
        }
        for line in found {
            let said = match line {
                Some(line) => switch.execute(&mut focus, &line).await.0,
                None => "ERR the line is too long\n".into(),
            };
            let answer = format!("{said}OK{}\n", console::path(focus));
            tokio::select! {
                written = timeout(PATIENCE, stream.write_all(answer.as_bytes())) => written??,
                () = end.notified() => return Ok(()),
            }
        }
        if len == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_silent_for_longest_makes_room() {
        let sessions = [5, 2, 9]
            .map(|heard| Session { heard: Arc::new(AtomicU64::new(heard)), end: Arc::default() });
        sessions[0].heard.store(10, Relaxed);
        let mut sessions = Vec::from(sessions);
        end_idlest(&mut sessions);
        let mut left = sessions.iter().map(|it| it.heard.load(Relaxed)).collect::<Vec<_>>();
        left.sort_unstable();
        assert_eq!(left, [9, 10]);
    }
}
