//! `mvirt top`: tables for scripts, and a screen for people.

use crate::{
    command::{mvirt, stderr, stdout},
    daemon::{Daemon, cannot_run, wait_until},
    frames::Udp4,
    guest::pair,
};
use jiff::Timestamp;
use rustix::process::Signal;
use std::process::{Command, Output};

/// One look, as a document.
fn look(daemon: &Daemon, tab: &str) -> Vec<serde_json::Value> {
    let args = ["top", "-b", "-n", "1", "-d", "200ms", "--tab", tab, "-o", "json"];
    let document: serde_json::Value = serde_json::from_str(&stdout(&mvirt(daemon, &args))).unwrap();
    assert_eq!(document["tab"], tab);
    document["rows"].as_array().unwrap().clone()
}

#[test]
fn scripts_look_as_often_as_they_want() {
    let mut daemon = Daemon::start();
    let (_, [mut a, _b]) = pair(&mut daemon);
    a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.77", b"lost").frame());
    wait_until("it is dropped", || daemon.drops("a", "no_route") == 1);
    let said = stdout(&mvirt(&daemon, &["top", "-b", "-n", "2", "-d", "100ms"]));
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 10, "{said}");
    assert!(lines[0].contains("  1 network, 2 members, 2 in use  "), "{said}");
    let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(cells(lines[1])[..4], ["NAME", "NETWORK", "STATE", "FROM/S"], "{said}");
    assert_eq!(cells(lines[2])[..3], ["a", "prod", "active"], "{said}");
    assert!(lines[4].is_empty() && lines[5].contains("2 in use"), "{said}");
    let nics = look(&daemon, "nics");
    assert_eq!((&nics[1]["name"], &nics[1]["state"]), (&"b".into(), &"active".into()));
    assert!(nics[1]["from_bits"].is_number());
    assert_eq!(look(&daemon, "networks")[0]["nics"], 2);
    assert_eq!(look(&daemon, "reactors")[0]["nics"], 2);
    let drops = look(&daemon, "drops");
    let lost = drops.iter().find(|drop| drop["reason"] == "no_route").unwrap();
    assert_eq!(lost["direction"], "from");
    assert!(lost["last"].as_str().unwrap().parse::<Timestamp>().is_ok(), "{lost}");
    let events = look(&daemon, "events");
    assert_eq!(events.last().unwrap()["kind"], "started", "the last one is first: {events:?}");
    let one = stdout(&mvirt(&daemon, &["top", "-b", "-n", "1", "-d", "100ms", "-f", "B"]));
    assert_eq!(one.lines().nth(2).map(|line| &line[..2]), Some("b "), "{one}");
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    let daemon = Daemon::start();
    // Neither end is a terminal.
    assert!(stderr(&mvirt(&daemon, &["top"]), 2).contains("--batch"));
    assert!(stderr(&mvirt(&daemon, &["top", "-d", "1ms", "-b"]), 2).contains("100ms or more"));
    stderr(&mvirt(&daemon, &["top", "-n", "1"]), 2);
    stderr(&mvirt(&daemon, &["top", "-b", "-n", "0"]), 2);
}

/// A terminal of 80 columns and 24 lines, which runs a command.
struct Terminal {
    folder: tempfile::TempDir,
}

impl Terminal {
    fn new(command: &str) -> Self {
        let terminal = Self { folder: tempfile::tempdir().unwrap() };
        let begun = terminal.tmux(&["new-session", "-d", "-x", "80", "-y", "24", command]);
        assert!(begun.status.success(), "{}", String::from_utf8_lossy(&begun.stderr));
        terminal
    }

    fn tmux(&self, args: &[&str]) -> Output {
        let socket = self.folder.path().join("tmux");
        let mut command = Command::new("tmux");
        // UTF-8, whatever this host's language is.
        command.arg("-u").arg("-S").arg(socket).args(["-f", "/dev/null"]).args(args);
        command.current_dir(self.folder.path());
        command.env("LC_ALL", "C.UTF-8").env("TERM", "xterm").output().unwrap()
    }

    fn screen(&self) -> String {
        String::from_utf8(self.tmux(&["capture-pane", "-p"]).stdout).unwrap()
    }

    fn shows(&self, what: &str) {
        wait_until(&format!("the screen shows {what:?}"), || self.screen().contains(what));
    }

    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"][..], keys].concat());
    }

    /// Leaves what is shown. A key right after Escape would be one with Alt.
    fn escape(&self, from: &str) {
        self.press(&["Escape"]);
        wait_until(&format!("{from:?} is left"), || !self.screen().contains(from));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn people_look_at_a_screen_of_80_by_24() {
    if Command::new("tmux").arg("-V").output().is_err() {
        return cannot_run("there is no tmux");
    }
    let mut daemon = Daemon::start();
    let (_, [mut a, _b]) = pair(&mut daemon);
    let mvirt = env!("CARGO_BIN_EXE_mvirt");
    let terminal = Terminal::new(&format!(
        "trap '' XFSZ; ulimit -f 1; exec {mvirt} --net-server {} --timeout 60 top",
        daemon.address()
    ));
    terminal.shows("[2 vNICs]");
    terminal.shows("a     prod     active");
    terminal.press(&["/", "b", "Enter"]);
    terminal.shows("1 rows say b");
    terminal.escape("say b");
    terminal.press(&["Enter"]);
    terminal.shows("ipv4         10.0.0.1");
    terminal.escape("ipv4         10.0.0.1");
    terminal.press(&["3"]);
    terminal.shows("[3 reactors]");
    // A network that others make is there by itself.
    daemon.network_with("more", |request| request.ipv4_subnet = "10.9.0.0/24".into());
    terminal.press(&["1"]);
    terminal.shows("more");
    terminal.press(&["2", "t"]);
    terminal.shows("trace to:");
    terminal.press(&["10.0.0.2", "Enter"]);
    terminal.shows("Delivered to b.");
    terminal.escape("Delivered to b.");
    // Of a file that may have no more than a kilobyte, all that fits.
    terminal.press(&["c"]);
    let frame = Udp4::new(a.mac, "10.0.0.1", "10.0.0.77", &[0; 1000]).frame();
    wait_until("no more fits", || {
        a.send(&frame);
        a.drain();
        terminal.screen().contains("captured in part into ./a-")
    });
    daemon.terminate();
    terminal.shows("LOST ");
    // Keys do not make it look as if it were there.
    terminal.press(&["/"]);
    terminal.shows("/_");
    assert!(terminal.screen().contains("LOST "), "{}", terminal.screen());
    terminal.press(&["Enter"]);
    daemon.start_again();
    wait_until("it is found", || !terminal.screen().contains("LOST "));
    terminal.shows("a     prod");
    // Nobody answers, and it is not waited for.
    daemon.signal(Signal::STOP);
    terminal.press(&["t", "10.0.0.2", "Enter"]);
    terminal.shows("asking for a packet from a to 10.0.0.2");
    terminal.press(&["q"]);
    wait_until("it has ended", || !terminal.tmux(&["has-session"]).status.success());
    daemon.signal(Signal::CONT);
}
