//! Captures: what is in them, who may have one, and whom they disturb: nobody.

mod extcap;
mod filters;
mod life;
mod ring;
mod verdicts;

use crate::{
    command::mvirt,
    daemon::{Daemon, cannot_run, wait_until},
};
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A capture into a file, by a program of its own.
struct Captured {
    program: Child,
    file: PathBuf,
}

impl Captured {
    /// Returns once what comes is captured.
    fn begin(daemon: &Daemon, name: &str, words: &[&str]) -> Self {
        let file = daemon.path(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
        command.env("MVIRT_NET_SERVER", daemon.address()).arg("capture").args(words);
        command.arg("-w").arg(&file).stderr(Stdio::piped());
        let program = command.spawn().unwrap();
        // What it writes first comes when the reactors have been told.
        wait_until("the capture has begun", || file.metadata().is_ok_and(|it| it.len() > 0));
        Self { program, file }
    }

    /// Waits until there is a text in it, so many times.
    fn has(&self, text: &str, count: usize) {
        wait_until(&format!("{text} is captured"), || {
            let octets = std::fs::read(&self.file).unwrap();
            octets.windows(text.len()).filter(|it| *it == text.as_bytes()).count() >= count
        });
    }

    /// Ends it as by ctrl-C. Returns what it says.
    fn interrupt(self) -> String {
        let pid = rustix::process::Pid::from_child(&self.program);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        self.end()
    }

    /// Waits until it has ended by itself. Returns what it says.
    fn end(self) -> String {
        let output = self.program.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        said
    }
}

/// Lines of what tshark says about a file; none without tshark.
fn tshark(file: &Path, fields: &[&str]) -> Option<Vec<String>> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-r", file.to_str().unwrap(), "-T", "fields"]);
    command.args(["-o", "udp.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"]);
    fields.iter().for_each(|field| {
        command.args(["-e", field]);
    });
    let Ok(output) = command.output() else {
        cannot_run("there is no tshark (Debian's tshark)");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

/// What a command says that must fail, and with which code.
fn refused(daemon: &Daemon, words: &[&str], code: i32) -> String {
    crate::command::stderr(&mvirt(daemon, &[&["capture"], words].concat()), code)
}
