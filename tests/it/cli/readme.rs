//! The sessions in README.md and the tutorial: each of their commands, typed into a shell, says
//! what the page says.
//!
//! Ids, MACs, times and counts differ from one run to the next: they are compared by their kind. A
//! line `…` stands for any number of lines.

use super::vmm_args::Booting;
use crate::{
    daemon::{Daemon, wait_until},
    machine::artefact,
};
use mvirt_net::proto::NicState;
use std::{
    path::Path,
    process::{Command, Stdio},
};

/// What stands above a block that no test types, before the reason.
const NOT_TYPED: &str = "<!-- not typed by the test: ";

/// A command, and what it says.
#[derive(Debug, Default)]
struct Step {
    command: String,
    says: Vec<String>,
}

/// The steps of a session, as a block of a page has it.
fn session(block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block.trim().lines() {
        match line.strip_prefix("$ ") {
            Some(command) => steps.push(Step { command: command.into(), says: Vec::new() }),
            None => steps.last_mut().unwrap().says.push(line.into()),
        }
    }
    steps
}

fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The session of README.md.
fn readme() -> Vec<Step> {
    let page = page("README.md");
    let block = page.split("```").find(|block| block.starts_with("\n$ mvirt network create"));
    session(block.unwrap())
}

/// All blocks of the tutorial, but those that it says are not typed.
fn tutorial() -> Vec<Step> {
    let page = page("docs/tutorial.md");
    let parts: Vec<_> = page.split("```").collect();
    let mut steps = Vec::new();
    for block in parts.chunks_exact(2) {
        let [before, block] = block else { continue };
        let Some(lines) = block.strip_prefix("console\n") else { panic!("of no kind: {block}") };
        if before.trim_end().lines().last().is_some_and(|line| line.starts_with(NOT_TYPED)) {
            continue;
        }
        assert!(lines.starts_with("$ "), "neither typed nor marked: {lines}");
        steps.extend(session(lines));
    }
    steps
}

/// What kind of word this is, where its value differs.
fn kind(word: &str) -> &str {
    let is = |len: usize, separator: char, part: fn(char) -> bool| {
        let mut parts = word.split(separator);
        word.len() == len && word.contains(separator) && parts.all(|p| p.chars().all(part))
    };
    if uuid::Uuid::try_parse(word).is_ok() {
        "UUID"
    } else if is(17, ':', |c| c.is_ascii_hexdigit()) {
        "MAC"
    } else if is(8, ':', |c| c.is_ascii_digit()) || is(10, '-', |c| c.is_ascii_digit()) {
        "WHEN"
    } else if word.split('.').count() == 2 && word.parse::<f64>().is_ok() {
        "NUMBER"
    } else {
        word
    }
}

/// A line with the kinds of its words that differ; frames are counted, and the sockets' folder is
/// the daemon's.
fn pattern(line: &str, sockets: &Path) -> String {
    let line = line.replace(&sockets.display().to_string(), "/run/mvirt/net");
    let (mut pattern, mut word) = (String::new(), String::new());
    for c in line.chars().chain(['\n']) {
        if c.is_whitespace() || matches!(c, ',' | '=' | '/' | '\'' | '"') {
            pattern += kind(word.strip_suffix(".sock").unwrap_or(&word));
            pattern.push(c);
            word.clear();
        } else {
            word.push(c);
        }
    }
    match pattern.trim_end().split_once(" frames, ") {
        Some((before, _)) => before.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(),
        None => pattern.trim_end().to_owned(),
    }
}

/// Whether `said` is what `says` says, where an ellipsis is anything.
fn agrees(says: &[String], said: &[String]) -> bool {
    match says.split_first() {
        None => said.is_empty(),
        Some((line, rest)) if line == "…" => (0..=said.len()).any(|n| agrees(rest, &said[n..])),
        Some((line, rest)) => said.first() == Some(line) && agrees(rest, &said[1..]),
    }
}

/// A shell that runs a command with the programs of this build.
fn shell(daemon: &Daemon, command: &str) -> Command {
    let guests = artefact("uml.cpio.gz").parent().unwrap().display().to_string();
    let programs = Path::new(env!("CARGO_BIN_EXE_mvirt")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut shell = Command::new("sh");
    // The shell becomes the program, which can be stopped then.
    let command = command.replace("target/guests", &guests);
    shell.args(["-c", &format!("exec 2>&1; exec {command}")]);
    shell.env("PATH", format!("{}:{path}", programs.display())).env("TZ", "UTC");
    shell.env("MVIRT_NET_SERVER", daemon.address()).env("HOME", daemon.path("home"));
    shell
}

/// Types all commands, and compares what they say.
fn type_all(daemon: &mut Daemon, steps: &[Step]) {
    let sockets = daemon.path("s");
    std::fs::create_dir(daemon.path("home")).unwrap();
    for step in steps {
        let command = &step.command;
        let mut shell = shell(daemon, command);
        if let Some(nic) = machine(command) {
            // In the foreground, where a person would stop it.
            let machine = Booting::spawn(&mut shell);
            machine.wait_until_active(daemon, nic);
            drop(machine);
            wait_until("it is off", || daemon.get_nic(nic).state() != NicState::Active);
            continue;
        }
        let output = shell.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let said: Vec<_> = text.lines().map(|line| pattern(line, &sockets)).collect();
        let says: Vec<_> = step.says.iter().map(|line| pattern(line, &sockets)).collect();
        assert!(agrees(&says, &said), "$ {command}\n{text}\nThe page says:\n{:#?}", step.says);
    }
}

/// The vNIC of the machine that a command runs until it is stopped.
fn machine(command: &str) -> Option<&str> {
    let behind = |word| command.split(word).nth(1)?.split(' ').next();
    behind(" vm start ").or_else(|| behind("$(mvirt nic vmm-args "))
}

#[test]
fn every_command_of_the_page_says_what_the_page_says() {
    let mut daemon = Daemon::start();
    let steps = readme();
    assert!(steps.len() > 15, "{steps:?}");
    type_all(&mut daemon, &steps);
}

#[test]
fn every_command_of_the_tutorial_says_what_it_says() {
    // What a public network would have the host do is no test's.
    let mut daemon = Daemon::start_with(&["--reactors", "1", "--egress", "user"]);
    let steps = tutorial();
    assert!(steps.len() > 20, "{steps:?}");
    type_all(&mut daemon, &steps);
}

#[test]
fn the_comparison_sees_what_differs() {
    let sockets = Path::new("/tmp/s");
    let same = |a: &str, b: &str| pattern(a, sockets) == pattern(b, sockets);
    assert!(same("mac  52:54:00:c5:7a:12", "mac  52:54:00:00:00:01"));
    assert!(same("10.0.0.1  reply  0.032 ms", "10.0.0.1  reply  0.5 ms"));
    assert!(!same("10.0.0.1  reply", "10.0.0.2  reply"));
    assert!(!same("NAME  STATE", "NAME STATE"));
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(agrees(&lines("a\n…\nd"), &lines("a\nb\nc\nd")));
    assert!(!agrees(&lines("a\n…\nd"), &lines("a\nb")) && !agrees(&lines("a"), &lines("a\nb")));
}
