//! The program: where it listens, what it says, how it ends.

use crate::support::{Client, Fabric};
use mvirt_net::switchyard::protocol::Kind;
use serde_json::json;
use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    process::{Command, Output, Stdio},
};

fn run(change: impl FnOnce(&mut Command)) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt-switchyardd"));
    change(&mut command);
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

// seed H.4.9
#[test]
fn it_listens_on_loopback_unless_told_otherwise() {
    let help = run(|command| {
        command.arg("--help");
    });
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("[default: 127.0.0.1:9999]"), "{help}");
    assert!(help.contains("SWITCHYARD_LISTEN"), "{help}");
}

// seed H.4.48
#[test]
fn a_port_in_use_is_told_with_who_may_have_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = run(|command| {
        command.env("SWITCHYARD_LISTEN", &address);
    });
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains(&address), "{}", said(&refused));
    assert!(said(&refused).contains("by a vswitch"), "{}", said(&refused));
    let wrong = run(|command| {
        command.args(["--listen", "9999"]);
    });
    assert_eq!(wrong.status.code(), Some(2), "{}", said(&wrong));
}

#[test]
fn it_ends_when_it_is_told_to_whoever_is_connected() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt-switchyardd"));
    command.args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim_end().rsplit(' ').next().unwrap().parse().unwrap();
    let mut client = Client::connect(address);
    client.send(Kind::HELLO, 0, 0, json!({}));
    client.answer(Kind::WELCOME);
    let pid = rustix::process::Pid::from_child(&process);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(process.wait().unwrap().success());
    assert!(client.next().is_none());
}

#[test]
fn two_fabrics_know_nothing_of_each_other() {
    let (first, second) = (Fabric::start(&[]), Fabric::start(&[]));
    let (a, b) = (first.member("a"), second.member("a"));
    assert_eq!((a.id, a.mac), (b.id, b.mac));
}

// seed H.4.51
#[test]
fn its_licence_is_as_free_as_the_seeds() {
    let text = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        std::fs::read_to_string(path).unwrap()
    };
    assert_eq!(env!("CARGO_PKG_LICENSE"), "Apache-2.0 OR MIT");
    assert!(text("LICENSE-APACHE").contains("Version 2.0, January 2004"));
    assert!(text("LICENSE-MIT").contains("Permission is hereby granted, free of charge"));
}
