//! The program, run as its users run it.

use crate::daemon::PATIENCE;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

pub(crate) fn list(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}

/// Where the program runs: in a folder of its own, with nothing of the test's environment.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt-vswitch"));
        command.env_clear().env("XDG_RUNTIME_DIR", self.0.path()).current_dir(self.0.path());
        // Root has its pid file in a place of all others.
        let file = self.path("vswitch.pid");
        if !flags.contains(&"-pid-file") {
            command.env("VSWITCH_PID_FILE", file);
        }
        command.args(flags);
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, flags: &[&str]) -> Output {
        self.command(flags).output().unwrap()
    }

    /// Starts it in the foreground, and waits until it switches.
    pub(crate) fn start(&self, flags: &[&str]) -> Foreground {
        Foreground::start(&mut self.command(flags))
    }
}

/// What a run that ended with `code` has said.
pub(crate) fn said(output: &Output, code: i32) -> (String, String) {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
    (stdout, stderr)
}

/// A program that logs to the test.
pub(crate) struct Foreground {
    process: Child,
    lines: mpsc::Receiver<String>,
    /// What was said until it was ready.
    pub(crate) beginning: Vec<String>,
}

impl Foreground {
    fn start(command: &mut Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let read = BufReader::new(process.stdout.take().unwrap()).lines();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            read.map_while(Result::ok).take_while(|line| sender.send(line.clone()).is_ok()).count()
        });
        let mut this = Self { process, lines, beginning: Vec::new() };
        while !this.beginning.last().is_some_and(|line| line.contains("ready")) {
            this.beginning.push(this.lines.recv_timeout(PATIENCE).expect("it gets ready"));
        }
        this
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Tells it to end, and waits for that.
    pub(crate) fn end(&mut self, signal: Signal) -> (ExitStatus, Duration) {
        let began = Instant::now();
        kill_process(self.pid(), signal).unwrap();
        (self.process.wait().unwrap(), began.elapsed())
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        if self.process.try_wait().unwrap().is_none() {
            self.end(Signal::TERM);
        }
    }
}

/// A daemon in the background, ended when dropped.
pub(crate) struct Background<'a>(pub(crate) &'a Place, pub(crate) Vec<&'a str>);

impl Drop for Background<'_> {
    fn drop(&mut self) {
        let flags = [&["-stop"], &self.1[..]].concat();
        self.0.run(&flags);
    }
}

/// What a page of the program's statistics has.
pub(crate) fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

pub(crate) fn status_of(process: u32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:\t")));
    line.unwrap().to_owned()
}

pub(crate) fn number_in(file: &Path) -> u32 {
    std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
}
