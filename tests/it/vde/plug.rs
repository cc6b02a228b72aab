//! `mvirt plug` in the place of `vde_plug`, and beside it.

use super::{
    stock::{ALL, Plug, Switch, frame, mac},
    switches::{lab, serve, wait_for_clients},
};
use crate::daemon::wait_until;
use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

pub(super) const MVIRT: &str = env!("CARGO_BIN_EXE_mvirt");

/// Two switches of VDE's, and a station at each.
pub(super) struct Lab {
    directory: tempfile::TempDir,
    switches: Vec<Switch>,
    pub(super) a: Plug,
    pub(super) b: Plug,
}

impl Lab {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let switches = vec![Switch::start(&at("a")), Switch::start(&at("b"))];
        let station = |name: &str| Plug::stock(&at(name).display().to_string());
        let (a, b) = (station("a"), station("b"));
        Self { directory, switches, a, b }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `text` as a command line, where A and B are the switches' directories and MVIRT is ours.
    pub(super) fn start(&self, text: &str) -> Joined {
        let word = |word: &str| match word {
            "A" => self.path("a").display().to_string(),
            "B" => self.path("b").display().to_string(),
            word => word.replace("MVIRT", MVIRT),
        };
        let words: Vec<_> = text.split(' ').map(word).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stderr(Stdio::piped());
        // dpipe's commands end with it.
        Joined(command.process_group(0).spawn().unwrap())
    }

    /// Waits until frames of all lengths go both ways.
    pub(super) fn converse(&mut self) {
        let Self { a, b, .. } = self;
        wait_until("b hears a", || {
            a.sends(&frame(ALL, 1, 60));
            b.hears_within(100).is_some()
        });
        // vde_switch cuts what is longer than 1518.
        for len in [15, 60, 1514] {
            b.sends(&frame(mac(1), 2, len));
            assert!(a.hears() == frame(mac(1), 2, len), "{len}");
            a.sends(&frame(mac(2), 1, len));
            while b.hears() != frame(mac(2), 1, len) {}
        }
    }
}

/// Programs in a process group of their own, until dropped.
pub(super) struct Joined(pub(super) Child);

impl Joined {
    /// Waits until it ends by itself. Returns its exit code, and what it says.
    pub(super) fn ends(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.0.wait().unwrap().code(), said)
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_raw(self.0.id() as i32).unwrap();
        rustix::process::kill_process_group(group, rustix::process::Signal::TERM).ok();
        self.0.wait().unwrap();
    }
}

// seed H.5.25
#[test]
fn either_side_of_a_dpipe_may_be_ours() {
    for line in [
        "dpipe vde_plug A = vde_plug B",
        "dpipe MVIRT plug A = vde_plug B",
        "dpipe vde_plug A = MVIRT plug B",
        "dpipe MVIRT plug A = MVIRT plug B",
    ] {
        let mut lab = Lab::new();
        let _joined = lab.start(line);
        lab.converse();
    }
}

// seed H.5.22, H.5.20, H.5.26
#[test]
fn two_locators_are_joined_until_one_ends() {
    for line in [
        "MVIRT plug A B",
        "MVIRT plug A = vde_plug B",
        "MVIRT plug A = MVIRT plug B",
        "dpipe MVIRT plug A = wirefilter = vde_plug B",
    ] {
        let mut lab = Lab::new();
        let joined = lab.start(line);
        lab.converse();
        let Lab { switches, a, b, directory: _kept } = lab;
        drop((a, b, switches));
        let (code, said) = joined.ends();
        assert!(line.starts_with("dpipe") || code == Some(0), "{line}: {said}");
    }
}

// seed H.5.20
#[test]
fn a_command_may_be_a_locator() {
    let mut lab = Lab::new();
    let child = Command::new(MVIRT)
        .args(["plug", &lab.path("a").display().to_string()])
        .arg(format!("cmd://vde_plug {}", lab.path("b").display()))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let _joined = Joined(child);
    lab.converse();
}

// seed H.5.24, H.5.30
#[test]
fn one_locator_is_joined_to_the_standard_streams() {
    let mut lab = Lab::new();
    let ours = |lab: &Lab| Plug::of(Command::new(MVIRT).arg("plug").arg(lab.path("a")));
    let mut plug = ours(&lab);
    wait_until("a hears the stream", || {
        plug.sends(&frame(ALL, 3, 60));
        lab.a.hears_within(100).is_some()
    });
    for len in [15, 60, 1514] {
        let to_one = frame(mac(1), 3, len);
        plug.sends(&to_one);
        wait_until("it is heard", || lab.a.hears() == to_one);
    }
    lab.a.sends(&frame(mac(3), 1, 60));
    assert_eq!(plug.hears(), frame(mac(3), 1, 60));
    // One octet at a time; a length of nothing says nothing.
    let octets = [&[0, 0, 0, 60][..], &frame(mac(1), 3, 60)].concat();
    for octet in octets {
        plug.writes(&[octet]);
    }
    wait_until("it is heard", || lab.a.hears() == frame(mac(1), 3, 60));
    // The end of the stream is the end.
    assert!(plug.ends_its_input().success());
    // So is that of the switch.
    let plug = ours(&lab);
    wait_until("it is plugged in", || {
        lab.a.sends(&frame(ALL, 1, 60));
        plug.hears_within(100).is_some()
    });
    lab.switches.clear();
    assert!(plug.ends().success());
}

#[test]
fn frames_are_carried_before_the_stream_ends() {
    let lab = Lab::new();
    let mut command = Command::new(MVIRT);
    let command = command.arg("plug").arg(lab.path("a")).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let marker = frame(ALL, 3, 77);
    // As many as vde_switch and its clients have room for (net.unix.max_dgram_qlen).
    let octets = [&[0, 77][..], &marker].concat().repeat(8);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&octets).unwrap();
    for _ in 0..8 {
        assert_eq!(lab.a.hears(), marker);
    }
    // Not before: a switch that sees a client leave may forget what it has not read of it.
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_cannot_be_opened_or_read_ends_it_with_its_name() {
    let lab = Lab::new();
    let run = |words: &[&str], input: &[u8]| {
        let mut command = Command::new(MVIRT);
        command.arg("plug").args(words).env("HOME", lab.directory.path());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).ok();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let a = lab.path("a").display().to_string();
    for (words, input, code, text) in [
        (&[&*a][..], &b"GET / HTTP/1.1\r\n"[..], 1, "length 18245: not a VDE stream"),
        (&[&a], b"\0\x3c12345", 1, "the stream ends within a frame"),
        (&["vde:///nowhere"], b"", 1, "vde:///nowhere: No such file or directory"),
        (&[&a, "vde:///nowhere"], b"", 1, "vde:///nowhere: "),
        (&[&a, "foo://x"], b"", 2, "no such port kind: foo; there are null"),
        (&[&a, &a, &a], b"", 2, "at most two locators"),
        (&[&a, "="], b"", 2, "a command is missing"),
        (&[&a, "=", "no-such-program"], b"", 1, "cannot run no-such-program"),
        (&["-d", &a], b"", 1, "--daemon has no standard streams"),
        (&["-m", "9", &a], b"", 2, "octal"),
    ] {
        let (ended, said) = run(words, input);
        assert!(ended == Some(code) && said.contains(text), "{words:?}: {ended:?} {said}");
    }
    // No locator: what the user has chosen.
    let file = lab.path(".vde2");
    fs::create_dir(&file).unwrap();
    std::os::unix::fs::symlink(lab.path("a"), file.join("default.switch")).unwrap();
    let octets = [&[0, 60][..], &frame(ALL, 3, 60)].concat();
    assert_eq!(run(&[], &octets).0, Some(0));
    assert_eq!(lab.a.hears(), frame(ALL, 3, 60));
}

// seed H.5.23
#[test]
fn linked_by_the_name_of_vde_plug_it_takes_its_command_line() {
    let mut lab = Lab::new();
    for name in ["vde_plug", "vdeplug"] {
        let link = lab.path(name);
        std::os::unix::fs::symlink(MVIRT, &link).unwrap();
        let mut command = Command::new(&link);
        command.args(["-D", "of ours", "-m", "0700"]).arg(lab.path("a")).arg(lab.path("b"));
        let command = command.stdin(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let _joined = Joined(command.spawn().unwrap());
        lab.converse();
    }
}

#[test]
fn in_the_background_it_is_ready_when_it_says_so_and_cleans_up_when_told() {
    let mut lab = Lab::new();
    let pid_file = lab.path("pid");
    let ours = lab.path("ours");
    let status = Command::new(MVIRT)
        .args(["plug", "--daemon", "--pidfile"])
        .arg(&pid_file)
        .arg(lab.path("a"))
        .arg(format!("switch://{}[mode=0600]", ours.display()))
        .status()
        .unwrap();
    assert!(status.success());
    let pid: i32 = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    let c = Plug::stock(&ours.display().to_string());
    wait_until("a client of its own hears", || {
        lab.a.sends(&frame(ALL, 1, 60));
        c.hears_within(100).is_some()
    });
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    wait_until("all is gone", || !ours.exists() && !pid_file.exists());
    assert!(c.ends().success());
}

// seed H.5.13
#[test]
fn a_hub_and_a_switch_are_served_without_a_daemon() {
    let directory = tempfile::tempdir().unwrap();
    for kind in ["hub", "switch"] {
        let at = directory.path().join(kind);
        let mut command = Command::new(MVIRT);
        let command = command.args(["plug", &format!("{kind}://{}", at.display()), "null://"]);
        let _joined = Joined(command.stderr(Stdio::piped()).process_group(0).spawn().unwrap());
        wait_until("it serves", || at.join("ctl").exists());
        let station = || Plug::stock(&at.display().to_string());
        let (mut a, mut b, mut c) = (station(), station(), station());
        for (number, one) in [(1, &mut a), (2, &mut b), (3, &mut c)] {
            one.sends(&frame(ALL, number, 60));
        }
        let hears = |one: &Plug, frame: &[u8]| while one.hears() != frame {};
        wait_until("all are there", || {
            a.sends(&frame(ALL, 1, 61));
            b.hears_within(100).is_some() && c.hears_within(100).is_some()
        });
        b.sends(&frame(mac(1), 2, 62));
        hears(&a, &frame(mac(1), 2, 62));
        b.sends(&frame(ALL, 2, 63));
        let heard: Vec<_> = std::iter::from_fn(|| Some(c.hears()))
            .take_while(|heard| *heard != frame(ALL, 2, 63))
            .collect();
        let overheard = heard.contains(&frame(mac(1), 2, 62));
        assert_eq!(overheard, kind == "hub", "a hub's clients hear all");
    }
}

#[test]
fn where_the_second_end_fails_the_first_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    for kind in ["switch", "stream-listen"] {
        let first = format!("{kind}://{}/x", directory.path().display());
        let nobody = format!("stream://{}/nobody", directory.path().display());
        let ended = Command::new(MVIRT).args(["plug", &first, &nobody]).output().unwrap();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "{kind}");
    }
}

/// The daemon's own port and a plug are one thing to each other.
#[test]
fn a_plug_of_ours_is_a_client_of_a_port_of_ours() {
    let mut daemon = lab();
    let directory = serve(&mut daemon, "switch", "");
    let mut stock = Plug::stock(&directory.display().to_string());
    let mut plug = Plug::of(Command::new(MVIRT).args(["plug", "-D", "mine"]).arg(&directory));
    let port = wait_for_clients(&mut daemon, 2);
    assert!(port.attachments.iter().any(|client| client.remote.starts_with("mine PID=")));
    for len in [14, 60, 1514, 9018] {
        plug.sends(&frame(ALL, 1, len));
        assert!(stock.hears() == frame(ALL, 1, len), "{len}");
        stock.sends(&frame(mac(1), 2, len));
        assert!(plug.hears() == frame(mac(1), 2, len), "{len}");
    }
}
