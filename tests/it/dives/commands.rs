//! Flags, run control files, and the console.

use super::rig::{Switch, free_udp_ports};
use crate::{daemon::wait_until, streams::free_ports};
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::{fs::FileTypeExt as _, net::UnixStream},
    process::{Command, Stdio},
};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_mvirt-dives"))
}

// seed H.3.2
#[test]
fn help_names_every_flag_with_its_default() {
    for flag in ["-?", "--help"] {
        let output = program().arg(flag).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        for (begin, default) in [
            ("-?, --help", ""),
            ("-c <FILE>", ""),
            ("-h <ADDRESS>", "[default: 127.0.0.1]"),
            ("-p <PORT>", "[default: 3333]"),
            ("-d <PORT>", "[default: 3535]"),
            ("-m <ADDRESS>", "[default: 239.13.13.13]"),
            ("-u <DIR>", "[default: ./]"),
        ] {
            let line = lines.iter().find(|line| line.starts_with(begin));
            assert!(line.is_some_and(|line| line.ends_with(default)), "{begin}: {text}");
        }
    }
    let wrong = program().arg("-x").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

// seed H.3.8, H.3.10, H.3.12, H.3.13, H.3.15, H.3.28
#[test]
fn a_session_is_as_the_grammar_has_it() {
    let [mesh] = free_udp_ports();
    let switch = Switch::start(mesh, &[]);
    assert!(fs::metadata(switch.control()).unwrap().file_type().is_socket());
    let mut stream = UnixStream::connect(switch.control()).unwrap();
    let script = "show peers\nshow  vlans\nvlan 5\nshow macs\nshow taps\nshow peers\nvlan 6\nexit\n\
                  exit\nvlan 4294967295\n exit \nvlan 0\nexit\nshow vlans\nvlan -1\n\
                  vlan 4294967296\nvlan x\n\nnonsense\n";
    stream.write_all(script.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    let expected = "host              port age\nOK\nOK\nOKvlan5\nOKvlan5\nOKvlan5\n\
                    Bad command\nOKvlan5\nBad command\nOKvlan5\nOK\nOK\nOKvlan4294967295\nOK\n\
                    OKvlan0\nOK\n0\n5\n4294967295\nOK\n\
                    ERR vlan -1: expected a number from 0 to 4294967295\nOK\n\
                    ERR vlan 4294967296: expected a number from 0 to 4294967295\nOK\n\
                    ERR vlan x: expected a number from 0 to 4294967295\nOK\n\
                    Bad command\nOK\nBad command\nOK\n";
    assert_eq!(heard, expected);
}

// seed H.3.18
#[test]
fn listeners_are_made_shown_and_ended() {
    let [mesh] = free_udp_ports();
    let switch = Switch::start(mesh, &[]);
    let mut vlan = switch.vlan(7);
    let [port, taken] = free_ports();
    assert_eq!(vlan.ask(&format!("listen localhost {port}")), "");
    assert_eq!(vlan.focus, "vlan7");
    assert_eq!(vlan.ask("show listeners"), format!("localhost {port}\n"));
    let client = TcpStream::connect(("localhost", port)).unwrap();
    wait_until("the connection is shown", || vlan.ask("show taps") == "vlan7/unix\n");
    let holder = TcpListener::bind(("127.0.0.1", taken)).unwrap();
    let refused = vlan.ask(&format!("listen 127.0.0.1 {taken}"));
    assert!(refused.starts_with("ERR ") && refused.contains("in use"), "{refused}");
    assert_eq!(refused.lines().count(), 1);
    drop(holder);
    let refused = vlan.ask("listen no-such-host.invalid 4001");
    assert!(refused.starts_with("ERR listen no-such-host.invalid 4001: "), "{refused}");
    let refused = vlan.ask(&format!("no listen localhost {taken}"));
    assert_eq!(refused, format!("ERR no listen localhost {taken}: there is none\n"));
    // What was made can be written, and made anew.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rc");
    let mut top = switch.console();
    assert_eq!(top.ask(&format!("save {}", file.display())), "");
    let script = fs::read_to_string(&file).unwrap();
    assert_eq!(script, format!("vlan 7\nlisten localhost {port}\nexit\n"));
    assert_eq!(vlan.ask(&format!("no listen localhost {port}")), "");
    let mut reader = BufReader::new(client);
    assert_eq!(reader.fill_buf().unwrap(), b"", "its connections are closed");
    TcpStream::connect(("localhost", port)).unwrap_err();
}

// seed H.3.3
#[test]
fn a_run_control_file_is_carried_out_and_a_bad_line_ends_the_start() {
    let [mesh] = free_udp_ports();
    let [port] = free_ports();
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
    let script = format!("# comment\nvlan 5\n\n  listen 127.0.0.1 {port}\nexit\nvlan 6\n");
    fs::write(&good, script).unwrap();
    let switch = Switch::start(mesh, &["-c", good.to_str().unwrap()]);
    assert_eq!(switch.console().ask("show vlans"), "5\n6\n");
    assert_eq!(switch.vlan(5).ask("show listeners"), format!("127.0.0.1 {port}\n"));
    fs::write(&bad, "vlan 5\nlisten here\n").unwrap();
    let [own] = free_udp_ports();
    let ports = [own, mesh].map(|port| port.to_string());
    let mut command = program();
    command.args(["-p", &ports[0], "-d", &ports[1], "-u"]).arg(folder.path()).arg("-c").arg(&bad);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    let expected = format!("mvirt-dives: {}:2: Bad command: listen here", bad.display());
    assert_eq!(said.lines().last(), Some(&*expected));
}

// seed H.3.11
#[test]
fn commands_are_taken_at_the_standard_input() {
    let [own, mesh] = free_udp_ports();
    let folder = tempfile::tempdir().unwrap();
    let mut command = program();
    command.args(["-p", &own.to_string(), "-d", &mesh.to_string(), "-u"]).arg(folder.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = command.spawn().unwrap();
    let mut input = process.stdin.take().unwrap();
    input.write_all(b"show peers\nvlan 5\nnonsense\nexit\nshow vlans\n").unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let heard: Vec<_> = lines.by_ref().take(3).map(Result::unwrap).collect();
    assert_eq!(heard, ["host              port age", "Bad command", "5"]);
    // The end of the input ends the console, and not the switch.
    drop(input);
    let control = folder.path().join("ctl");
    let mut stream = UnixStream::connect(&control).unwrap();
    stream.write_all(b"show vlans\n").unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"5\nOK\n");
    let pid = rustix::process::Pid::from_child(&process);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(process.wait().unwrap().success());
    assert!(!control.exists());
}

// seed H.3.11
#[test]
fn on_a_terminal_there_is_a_prompt_and_its_end_ends_the_switch() {
    let [own, mesh] = free_udp_ports();
    let folder = tempfile::tempdir().unwrap();
    let line = format!(
        "{} -p {own} -d {mesh} -u {} 2>/dev/null",
        env!("CARGO_BIN_EXE_mvirt-dives"),
        folder.path().display()
    );
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut input = process.stdin.take().unwrap();
    // The last octet is Ctrl-D, the end of a terminal's input.
    input.write_all(b"vlan 5\nshow taps\nexit\n\x04").unwrap();
    let mut heard = String::new();
    process.stdout.take().unwrap().read_to_string(&mut heard).unwrap();
    assert!(process.wait().unwrap().success(), "{heard}");
    assert!(heard.contains("vlan5> "), "{heard}");
}

#[test]
fn what_is_no_command_harms_no_session() {
    let [mesh] = free_udp_ports();
    let switch = Switch::start(mesh, &[]);
    let mut console = switch.console();
    let long = vec![b'x'; 1 << 20];
    console.send(&long);
    assert_eq!(console.ask(""), "ERR the line is too long\n");
    console.send(b"\xff\xfe\x00\n");
    assert_eq!(console.answer(), "Bad command\n");
    assert_eq!(console.ask("show vlans"), "");
    console.send(b"show vlans");
    assert_eq!(console.half_close(), "OK\n", "the last line need not end");
    // A socket that somebody listens at is not taken away.
    let folder = switch.control().parent().unwrap().to_owned();
    let [own] = free_udp_ports();
    let ports = [own, mesh].map(|port| port.to_string());
    let mut second = program();
    second.args(["-p", &ports[0], "-d", &ports[1], "--console", "off", "-u"]).arg(&folder);
    let output = second.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("in use") && said.contains("VDE"), "{said}");
    assert_eq!(switch.console().ask("show vlans"), "");
    drop(switch);
}

#[test]
fn a_socket_that_a_dead_switch_left_is_replaced() {
    let [mesh] = free_udp_ports();
    let mut switch = Switch::start(mesh, &[]);
    switch.kill();
    assert!(switch.control().exists());
    switch.start_again();
    assert_eq!(switch.console().ask("show vlans"), "");
}
