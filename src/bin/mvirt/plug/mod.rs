//! `mvirt plug`: a cable between two networks, as `vde_plug` is one.
//!
//! It needs no server. Linked as `vde_plug` or `vdeplug`, the program takes that command line only.

mod ends;
mod relay;

use crate::failure::Failure;
use ends::{Ready, Wishes};
use mvirt_net::{
    account::Mode,
    cable::{Cable, CableError},
};
use rustix::process::{Pid, Signal, kill_process, setsid};
use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command as Program, Stdio},
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

const EXAMPLES: &str = "\
Examples:
  mvirt plug /tmp/vde.ctl tap://t0               # a TAP device at a VDE switch
  mvirt plug vxvde://239.0.0.1 switch:///tmp/s   # a cloud, and a switch for local clients
  mvirt plug /tmp/vde.ctl = ssh host mvirt plug  # a switch of another host
  dpipe mvirt plug /tmp/a = wirefilter = vde_plug /tmp/b

`mvirt port kinds` lists the locators. No locator: the user's switch, ~/.vde2/default.switch,
/var/run/vde.ctl or /tmp/vde.ctl.";

/// Tells the process that is to stay in the background from the one that starts it.
const BACKGROUND: &str = "MVIRT_PLUG_BACKGROUND";

/// Join two networks: frames go from one to the other, or to standard input and output.
#[derive(Debug, clap::Args)]
#[command(
    after_help = EXAMPLES,
    override_usage = "mvirt plug [OPTIONS] [LOCATOR [LOCATOR2]]\n       \
        mvirt plug [OPTIONS] [LOCATOR] = COMMAND [ARGS…]"
)]
pub(crate) struct Command {
    /// Go to the background once both ends are open
    #[arg(short, long)]
    daemon: bool,

    /// Write the process's number to a file
    #[arg(short, long = "pidfile", value_name = "FILE")]
    pid_file: Option<PathBuf>,

    /// What a switch shows of this plug
    #[arg(short = 'D', long = "descr", value_name = "TEXT", default_value = "mvirt plug")]
    description: String,

    /// Permissions of the sockets that the first locator makes, like 0660
    #[arg(short, long = "mod", value_name = "MODE")]
    mode: Option<Mode>,

    /// Permissions of those that the second makes
    #[arg(short = 'M', long = "mod2", value_name = "MODE")]
    mode2: Option<Mode>,

    /// The group of the sockets that the first locator makes
    #[arg(short, long, value_name = "GROUP")]
    group: Option<String>,

    /// The group of those that the second makes
    #[arg(short = 'G', long, value_name = "GROUP")]
    group2: Option<String>,

    /// The port of the first locator's switch, as brackets behind the locator say it
    #[arg(long, value_name = "PORT")]
    port: Option<String>,

    /// The port of the second's
    #[arg(long, value_name = "PORT")]
    port2: Option<String>,

    /// Up to two locators; or up to one, `=` and a command
    #[arg(value_name = "LOCATOR", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// The words of the command line: those of `mvirt`, or, by another name, of `mvirt plug` or
/// `mvirt extcap`.
pub(crate) fn arguments() -> Vec<OsString> {
    let mut words = env::args_os();
    let name = words.next().unwrap_or_default();
    match Path::new(&name).file_name().and_then(|name| name.to_str()) {
        Some("vde_plug" | "vdeplug") => {
            ["mvirt".into(), "plug".into()].into_iter().chain(words).collect()
        }
        Some("mvirt-extcap") => {
            ["mvirt".into(), "extcap".into()].into_iter().chain(words).collect()
        }
        _ => [name].into_iter().chain(words).collect(),
    }
}

impl Command {
    /// Returns what is at both ends.
    fn ends(&self) -> Result<[Ready; 2], Failure> {
        let at = self.words.iter().position(|word| word == "=");
        let (locators, command) = match at {
            Some(at) => (&self.words[..at], Some(&self.words[at + 1..])),
            None => (&self.words[..], None),
        };
        // As vde_plug does: a slip of the hand is no folder's name.
        if let Some(option) = locators.iter().find(|word| word.len() > 1 && word.starts_with('-')) {
            let text = format!("unexpected argument '{option}': see mvirt plug --help");
            return Err(Failure::Usage(text));
        }
        let (first, second) = match (locators, command) {
            ([], _) => ("", None),
            ([first], _) => (&**first, None),
            ([first, second], None) => (&**first, Some(&**second)),
            _ => {
                let text = "expected at most two locators, or one before `=` and a command";
                return Err(Failure::Usage(text.into()));
            }
        };
        let description = || self.description.clone();
        let first = ends::locator(
            first,
            Wishes {
                mode: self.mode,
                group: self.group.clone(),
                port: self.port.clone(),
                description: description(),
            },
        )?;
        let second = match (second, command) {
            (Some(second), _) => ends::locator(
                second,
                Wishes {
                    mode: self.mode2,
                    group: self.group2.clone(),
                    port: self.port2.clone(),
                    description: description(),
                },
            )?,
            (None, Some(command)) => ends::command(command)?,
            (None, None) if self.daemon => {
                let text = "--daemon has no standard streams: expected two locators, or a command";
                return Err(Failure::Usage(text.into()));
            }
            (None, None) => ends::standard_streams()?,
        };
        Ok([first, second])
    }
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    let is_background = env::var_os(BACKGROUND).is_some();
    if command.daemon && !is_background {
        return start_in_background();
    }
    if is_background {
        // Away from the terminal. It is no leader of a group: it was started as another's child.
        setsid().map_err(|errno| Failure::Stopped(format!("cannot leave the session: {errno}")))?;
    }
    // Before anything is made that is to be taken away.
    let mut ends = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let [first, second] = command.ends()?;
    let (mut streams, mut children) = (Vec::new(), Vec::new());
    let opened = [first, second].map(|ready| {
        streams.extend(ready.streams);
        children.extend(ready.child);
        ready.end
    });
    let outcome = match Cable::open(opened).await {
        Err(error) => Err(said(error)),
        Ok(mut cable) => {
            let outcome = carry(&command, &mut cable, &mut streams, &mut ends).await;
            cable.settle().await;
            cable.close().await;
            match outcome {
                Ok(Over::Stream) => all_succeed(&mut children).await,
                Ok(Over::Other) => Ok(()),
                Err(failure) => Err(failure),
            }
        }
    };
    if let Some(path) = &command.pid_file {
        // It may not have been written.
        fs::remove_file(path).ok();
    }
    for mut child in children {
        // It has seen the end of its input; one that does not mind is told.
        if child.try_wait()?.is_none()
            && let Some(process) = Pid::from_raw(child.id().cast_signed())
        {
            kill_process(process, Signal::TERM).ok();
        }
    }
    outcome
}

/// What ended first.
enum Over {
    /// A stream.
    Stream,
    /// A port, or the program was told to end.
    Other,
}

/// How long a command may take to end that has closed its stream.
const ENDING: Duration = Duration::from_secs(2);

/// An error if a command ends by itself and says that it failed, as ssh does whose connection is
/// lost.
async fn all_succeed(children: &mut [Child]) -> Result<(), Failure> {
    let over = tokio::time::Instant::now() + ENDING;
    for child in children {
        while child.try_wait()?.is_none() && tokio::time::Instant::now() < over {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if let Some(status) = child.try_wait()?.filter(|status| !status.success()) {
            return Err(Failure::Stopped(format!("the command has failed: {status}")));
        }
    }
    Ok(())
}

/// Carries frames until something ends.
async fn carry(
    command: &Command,
    cable: &mut Cable,
    streams: &mut [relay::Ended],
    [terminate, interrupt]: &mut [tokio::signal::unix::Signal; 2],
) -> Result<Over, Failure> {
    if let Some(path) = &command.pid_file {
        fs::write(path, format!("{}\n", std::process::id())).map_err(|error| {
            Failure::Stopped(format!("cannot write {}: {error}", path.display()))
        })?;
    }
    if env::var_os(BACKGROUND).is_some() {
        io::stdout().write_all(b"ready")?;
        io::stdout().flush()?;
    }
    let mut streams = streams.iter_mut();
    let (first, second) = (streams.next(), streams.next());
    tokio::select! {
        ended = cable.carry() => ended.map(|()| Over::Other).map_err(said),
        ended = wait(first) => ended.map(|()| Over::Stream).map_err(Failure::Stopped),
        ended = wait(second) => ended.map(|()| Over::Stream).map_err(Failure::Stopped),
        _ = terminate.recv() => Ok(Over::Other),
        _ = interrupt.recv() => Ok(Over::Other),
    }
}

async fn wait(streams: Option<&mut relay::Ended>) -> Result<(), String> {
    match streams {
        Some(streams) => streams.wait().await,
        None => std::future::pending().await,
    }
}

fn said(error: CableError) -> Failure {
    Failure::Stopped(error.to_string())
}

/// Starts the same again, in the background, and returns once its ends are open.
fn start_in_background() -> Result<(), Failure> {
    let mut program = Program::new(env::current_exe()?);
    program.args(["plug".into()].into_iter().chain(plug_arguments())).env(BACKGROUND, "1");
    program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn()?;
    let mut word = [0; 5];
    let ready = child.stdout.take().is_some_and(|mut said| said.read_exact(&mut word).is_ok());
    if ready {
        return Ok(());
    }
    let mut why = String::new();
    if let Some(mut said) = child.stderr.take() {
        said.read_to_string(&mut why)?;
    }
    child.wait()?;
    Err(Failure::Stopped(
        why.trim().trim_start_matches("error: ").trim_start_matches("mvirt: ").into(),
    ))
}

/// The words behind `plug`.
fn plug_arguments() -> impl Iterator<Item = OsString> {
    let words = arguments();
    let at = words.iter().position(|word| word == "plug").map_or(words.len(), |at| at + 1);
    words.into_iter().skip(at)
}
