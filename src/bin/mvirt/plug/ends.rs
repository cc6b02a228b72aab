//! What the words of a command line are at the ends of a cable.

use super::relay::{Ended, Relay};
use crate::failure::Failure;
use mvirt_net::{
    account::Mode,
    cable::End,
    dataplane::{PortSpec, given, socket::Framing},
    locator::{Access, Locator, Plug},
};
use std::{
    env, fs, io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Where a VDE switch is, where nobody says (libvdeplug).
const SWITCHES: [&str; 2] = ["/var/run/vde.ctl", "/tmp/vde.ctl"];

/// What is the same for an end, whatever it is.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) mode: Option<Mode>,
    pub(super) group: Option<String>,
    pub(super) port: Option<String>,
    pub(super) description: String,
}

/// An end, and what else there is of it.
pub(super) struct Ready {
    pub(super) end: End,
    pub(super) streams: Option<Ended>,
    pub(super) child: Option<Child>,
}

/// One's own standard streams.
pub(super) fn standard_streams() -> Result<Ready, Failure> {
    made("stdio://".into(), Relay::start(io::stdin(), io::stdout()), None)
}

/// A command's standard streams.
pub(super) fn command(words: &[String]) -> Result<Ready, Failure> {
    let (program, arguments) =
        words.split_first().ok_or_else(|| Failure::Usage("a command is missing".into()))?;
    let mut command = Command::new(program);
    let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let failed = |error| Failure::Stopped(format!("cannot run {program}: {error}"));
    let mut child = command.spawn().map_err(failed)?;
    let (Some(input), Some(output)) = (child.stdout.take(), child.stdin.take()) else {
        return Err(Failure::Stopped(format!("{program} has no standard streams")));
    };
    made(format!("cmd://{program}"), Relay::start(input, output), Some(child))
}

fn made(name: String, relay: io::Result<Relay>, child: Option<Child>) -> Result<Ready, Failure> {
    let (socket, ended) =
        relay.map_err(|error| Failure::Stopped(format!("{name}: {error}")))?.split();
    let spec = PortSpec::Given(given::Spec::Socket(socket, Framing::Packets));
    Ok(Ready { end: End::Made(name, spec), streams: Some(ended), child })
}

/// What a word says.
pub(super) fn locator(word: &str, wishes: Wishes) -> Result<Ready, Failure> {
    let text = if word.is_empty() { default_switch() } else { word.to_owned() };
    let text = named_in_file(&text).unwrap_or(text);
    let read = Locator::parse_lenient(&text);
    let locator = match read.map_err(|error| Failure::Usage(format!("{text}: {error}")))? {
        Locator::Stdio => return standard_streams(),
        Locator::Cmd(words) => return command(&words),
        Locator::Vde(plug) => Locator::Vde(with_switch(plug, &wishes)?),
        Locator::Switch(mut node) => {
            or_own_node(&mut node.directory);
            wishes.apply(&mut node.access);
            Locator::Switch(node)
        }
        Locator::Hub(mut node) => {
            or_own_node(&mut node.directory);
            wishes.apply(&mut node.access);
            Locator::Hub(node)
        }
        other => other,
    };
    let description = wishes.description;
    Ok(Ready { end: End::Locator { locator, description }, streams: None, child: None })
}

impl Wishes {
    /// What the locator itself says counts.
    fn apply(&self, access: &mut Access) {
        access.mode = access.mode.or(self.mode.map(|mode| mode.0));
        access.group = access.group.take().or_else(|| self.group.clone());
    }
}

fn with_switch(mut plug: Plug, wishes: &Wishes) -> Result<Plug, Failure> {
    wishes.apply(&mut plug.access);
    if let (None, Some(port)) = (&plug.port, &wishes.port) {
        // As in a locator's brackets.
        let read = Locator::parse_lenient(&format!("vde://[port={port}]"));
        let Ok(Locator::Vde(Plug { port: Some(port), .. })) = read else {
            return Err(Failure::Usage(format!("--port {port}: expected a port's number")));
        };
        plug.port = Some(port);
    }
    if plug.directory.as_os_str().is_empty() {
        let serves = |path: &&&str| UnixStream::connect(Path::new(path).join("ctl")).is_ok();
        let found = SWITCHES.iter().find(serves);
        plug.directory = found.map(PathBuf::from).ok_or_else(|| {
            Failure::Stopped(format!("there is no VDE switch at {}", SWITCHES.join(" or ")))
        })?;
    }
    Ok(plug)
}

fn or_own_node(directory: &mut PathBuf) {
    if directory.as_os_str().is_empty() {
        let user = uzers::get_current_username().unwrap_or_else(|| "unknown".into());
        *directory = format!("/tmp/vdenode_{}", user.to_string_lossy()).into();
    }
}

/// What the user has chosen: `~/.vdeplug/default`, or `~/.vde2/default.switch`.
fn default_switch() -> String {
    let Some(home) = env::var_os("HOME").map(PathBuf::from) else { return String::new() };
    let chosen = [".vdeplug/default", ".vde2/default.switch"].map(|name| home.join(name));
    let chosen = chosen.into_iter().find(|path| fs::symlink_metadata(path).is_ok());
    let Some(path) = chosen else { return String::new() };
    // A link to a directory, or to nothing at all: the text of a locator.
    let target = fs::read_link(&path).unwrap_or(path);
    target.to_string_lossy().into_owned()
}

/// What the first line of a file says that stands in place of a directory.
fn named_in_file(text: &str) -> Option<String> {
    if text.contains("://") || !fs::symlink_metadata(text).ok()?.is_file() {
        return None;
    }
    let said = fs::read_to_string(text).ok()?;
    said.lines().next().map(str::to_owned)
}
