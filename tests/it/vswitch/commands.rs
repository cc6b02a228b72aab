//! The command line: as its README has it, and what is wrong with it.

use super::rig::{Background, Place, get, list, number_in, said, status_of};
use crate::{
    daemon::wait_until,
    streams::{Client, free_ports},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    time::Duration,
};

// seed H.2.11, H.2.26
#[test]
fn in_the_foreground_both_ports_listen_before_it_is_ready() {
    let place = Place::new();
    let ports = free_ports::<2>();
    let mut switch = place.start(&["-ports", &list(&ports)]);
    for (vlan, port) in (1..).zip(ports) {
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        TcpStream::connect(("::1", port)).unwrap();
        let line = switch.beginning.iter().find(|line| line.contains(&format!("port=:{port}")));
        assert!(line.unwrap().contains(&format!("vlan={vlan} ")), "{:?}", switch.beginning);
    }
    let warnings = switch.beginning.iter().filter(|line| line.contains("WARN")).count();
    assert_eq!(warnings, 1, "{:?}", switch.beginning);
    let (status, _) = switch.end(Signal::INT);
    assert!(status.success());
}

// seed H.2.12, H.2.16
#[test]
fn what_is_wrong_is_said_and_ends_with_status_2() {
    let place = Place::new();
    for (flags, expected) in [
        (&["-ports", "x"][..], "vswitch: -ports: invalid port 'x'\nSee vswitch -help\n"),
        (&["-ports", "70000"], "vswitch: -ports: port 70000 out of range (1-65535)\n"),
        (&["-log-level", "loud"], "expected error, warn, info, debug or trace\n"),
        (&["--nothing"], "vswitch: flag provided but not defined: -nothing\n"),
    ] {
        let (_, stderr) = said(&place.run(flags), 2);
        assert!(stderr.contains(expected), "{stderr}");
    }
    let [port] = free_ports();
    let debug = place.start(&["-ports", &port.to_string(), "-log-level", "debug"]);
    assert!(debug.beginning.iter().any(|line| line.contains("DEBUG")), "{:?}", debug.beginning);
}

// seed H.2.23
#[test]
fn version_and_help_are_answered() {
    let place = Place::new();
    let (stdout, _) = said(&place.run(&["-version"]), 0);
    assert_eq!(stdout, format!("vswitch {}\n", env!("CARGO_PKG_VERSION")));
    for flag in ["-help", "--help", "-h"] {
        let (_, stderr) = said(&place.run(&[flag]), 0);
        assert!(stderr.contains("Usage: vswitch [flags]"), "{stderr}");
    }
}

// seed H.2.8, H.2.13, H.2.14, H.2.15
#[test]
fn a_daemon_is_started_asked_and_stopped() {
    let place = Place::new();
    let ports = free_ports::<2>();
    let (stdout, _) = said(&place.run(&["-status"]), 3);
    assert_eq!(stdout, "Daemon is not running\n");
    let (_, stderr) = said(&place.run(&["-stop"]), 1);
    assert_eq!(stderr, "Failed to stop daemon: it is not running\n");
    let (stdout, _) = said(&place.run(&["-daemon", "-ports", &list(&ports)]), 0);
    let _daemon = Background(&place, vec![]);
    assert_eq!(stdout, "Daemon started\n");
    let mut clients = ports.map(|port| Client::new(port, 1));
    let file = place.path("vswitch.pid");
    let pid = number_in(&file);
    // A session and a group of its own, nothing of who started it.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!((fields[2], fields[3]), (&*pid.to_string(), &*pid.to_string()));
    for number in 0..3 {
        let to = fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
        assert_eq!(to.to_str(), Some("/dev/null"));
    }
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    assert_eq!(status_of(pid, "Umask"), "0022");
    wait_until("both clients are shown", || {
        let (stdout, _) = said(&place.run(&["-status"]), 0);
        let mut lines = stdout.lines();
        assert_eq!(lines.next(), Some(&*format!("Daemon is running (PID: {pid})")));
        let vlans: Vec<_> = lines.map(str::to_owned).collect();
        assert!(vlans[1].starts_with(&format!("VLAN 2  port :{}  clients", ports[1])), "{stdout}");
        vlans.iter().all(|line| line.contains("clients 1"))
    });
    let (stdout, _) = said(&place.run(&["-stop"]), 0);
    assert_eq!(stdout, "Daemon stopped\n");
    clients.iter_mut().for_each(Client::wait_for_the_end);
    assert!(!file.exists());
    for port in ports {
        TcpListener::bind(("::", port)).unwrap();
    }
}

// seed H.2.17, H.2.18
#[test]
fn two_daemons_with_files_of_their_own_do_not_confuse_each_other() {
    let place = Place::new();
    let ports = free_ports::<2>().map(|port| port.to_string());
    let (log, pid) = (place.path("logs/g"), place.path("f"));
    let (log, pid) = (log.to_str().unwrap(), pid.to_str().unwrap());
    let own = ["-pid-file", pid];
    said(&place.run(&["-daemon", "-ports", &ports[0], "-pid-file", pid, "-log-file", log]), 0);
    let _first = Background(&place, own.to_vec());
    said(&place.run(&["-daemon", "-ports", &ports[1]]), 0);
    let _second = Background(&place, vec![]);
    let number = number_in(pid.as_ref());
    assert_ne!(number, number_in(&place.path("vswitch.pid")));
    let (stdout, _) = said(&place.run(&["-status", "-pid-file", pid]), 0);
    assert!(stdout.starts_with(&format!("Daemon is running (PID: {number})\n")), "{stdout}");
    said(&place.run(&["-stop"]), 0);
    let (stdout, _) = said(&place.run(&["-status", "-pid-file", pid]), 0);
    assert!(stdout.contains(&number.to_string()), "the other one still runs");
    // The log is opened anew when it was moved away, and appended to by the next daemon.
    let moved = place.path("moved");
    fs::rename(log, &moved).unwrap();
    let process = Pid::from_raw(number.cast_signed()).unwrap();
    kill_process(process, Signal::HUP).unwrap();
    said(&place.run(&["-stop", "-pid-file", pid]), 0);
    assert!(fs::read_to_string(&moved).unwrap().contains("ready"));
    assert!(fs::read_to_string(log).unwrap().contains("shutting down"));
    said(&place.run(&["-daemon", "-ports", &ports[0], "-pid-file", pid, "-log-file", log]), 0);
    let text = fs::read_to_string(log).unwrap();
    assert!(text.contains("shutting down") && text.contains("ready"), "{text}");
}

// seed H.2.19, H.2.20
#[test]
fn the_pid_file_keeps_a_second_one_out_and_nobody_else() {
    let place = Place::new();
    let ports = free_ports::<2>().map(|port| port.to_string());
    let file = place.path("vswitch.pid");
    // One of a process that is dead, then of one that lives and is somebody's.
    let mut foreign = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    for number in [4_194_304, foreign.id()] {
        fs::write(&file, format!("{number}\n")).unwrap();
        said(&place.run(&["-status"]), 3);
        said(&place.run(&["-stop"]), 1);
        said(&place.run(&["-daemon", "-ports", &ports[0]]), 0);
        let daemon = Background(&place, vec![]);
        let number = number_in(&file);
        let (_, stderr) = said(&place.run(&["-daemon", "-ports", &ports[1]]), 1);
        assert_eq!(
            stderr.lines().last(),
            Some(&*format!("vswitch: already running (PID: {number})"))
        );
        drop(daemon);
        assert!(!file.exists());
    }
    assert!(foreign.try_wait().unwrap().is_none(), "it was not signalled");
    drop(foreign.stdin.take());
    foreign.wait().unwrap();
}

// seed H.2.21
#[test]
fn a_port_in_use_is_named_and_leaves_none_open() {
    let place = Place::new();
    let [free, taken] = free_ports();
    let holder = TcpListener::bind(("::", taken)).unwrap();
    let ports = list(&[free, taken]);
    for flags in [&["-ports", &ports][..], &["-daemon", "-ports", &ports]] {
        let (stdout, stderr) = said(&place.run(flags), 1);
        let expected = format!("vswitch: port :{taken}: ");
        let line = stderr.lines().find(|line| line.starts_with(&expected));
        assert!(line.is_some_and(|line| line.contains("in use")), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert!(!stdout.contains("Daemon started"));
        TcpStream::connect(("127.0.0.1", free)).unwrap_err();
        assert!(!place.path("vswitch.pid").exists());
    }
    drop(holder);
}

// seed H.2.22
#[test]
fn the_environment_is_asked_where_no_flag_is_given() {
    let place = Place::new();
    let [one, two, stats] = free_ports();
    let (log, pid) = (place.path("log"), place.path("pid"));
    let environment = |command: &mut Command| {
        command
            .env("VSWITCH_PORTS", one.to_string())
            .env("VSWITCH_DAEMON", "true")
            .env("VSWITCH_PID_FILE", &pid)
            .env("VSWITCH_LOG_FILE", &log)
            .env("VSWITCH_STATS_PORT", stats.to_string())
            .output()
            .unwrap()
    };
    said(&environment(&mut place.command(&["-ports", &two.to_string()])), 0);
    let pid_file = pid.to_str().unwrap();
    let daemon = Background(&place, vec!["-pid-file", pid_file]);
    TcpStream::connect(("127.0.0.1", one)).unwrap_err();
    TcpStream::connect(("127.0.0.1", two)).unwrap();
    assert!(get(stats, "/stats").contains(&format!("\"port\":\":{two}\"")));
    assert!(log.exists());
    drop(daemon);
    assert!(!pid.exists());
}

// seed H.2.23
#[test]
fn statistics_are_served_to_this_host() {
    let place = Place::new();
    let [port, stats] = free_ports();
    let _switch = place.start(&["-ports", &port.to_string(), "-stats-port", &stats.to_string()]);
    let mut client = Client::new(port, 7);
    wait_until("client and MAC are counted", || {
        // Again: what comes before it is a member is nobody's.
        client.say([0xff; 6], "here I am");
        let page = get(stats, "/stats");
        let (head, body) = page.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
        let vlan = &serde_json::from_str::<serde_json::Value>(body).unwrap()["vlans"][0];
        let has_client = vlan["clients"].as_array().unwrap().len() == 1;
        has_client && vlan["macs"][0]["mac"] == "02:00:00:00:00:07"
    });
    let metrics = get(stats, "/metrics");
    assert!(metrics.contains(&format!("\nvswitch_clients{{vlan=\"1\",port=\":{port}\"}} 1\n")));
    assert!(get(stats, "/").starts_with("HTTP/1.1 404"));
    // One that asks nothing holds nobody up, and is let go.
    let mut silent = Client::new(stats, 0);
    assert!(get(stats, "/metrics").contains("vswitch_macs"));
    silent.stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    silent.wait_for_the_end();
}

// seed H.2.31
#[test]
fn clients_see_the_end_of_it_within_a_second() {
    let place = Place::new();
    let ports = free_ports::<2>();
    let mut switch = place.start(&["-ports", &list(&ports)]);
    let mut clients = ports.map(|port| Client::new(port, 1));
    let (status, took) = switch.end(Signal::TERM);
    assert!(status.success());
    assert!(took < Duration::from_secs(1), "{took:?}");
    clients.iter_mut().for_each(Client::wait_for_the_end);
}

/// The commands of a page's blocks of shell.
fn commands(page: &str) -> String {
    let text = fs::read_to_string(page).unwrap();
    let blocks = text.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
    blocks.collect()
}

// seed H.2.13, H.2.14, H.2.15, H.2.16, H.2.17, H.2.18
#[test]
fn the_pages_commands_run_as_they_stand() {
    let place = Place::new();
    let program = env!("CARGO_BIN_EXE_mvirt-vswitch");
    std::os::unix::fs::symlink(program, place.path("vswitch")).unwrap();
    let mut script = commands("docs/vswitch.md");
    assert_eq!(script.lines().count(), 6, "{script}");
    // Those of the page may be taken here.
    for (page, free) in ["9999", "9998", "8080", "8081"].into_iter().zip(free_ports::<4>()) {
        script = script.replace(page, &free.to_string());
    }
    let mut shell = Command::new("sh");
    shell.args(["-e", "-c", &script]).current_dir(place.path("."));
    shell.env("VSWITCH_PID_FILE", place.path("default"));
    let (stdout, _) = said(&shell.output().unwrap(), 0);
    let told: Vec<_> = stdout.lines().filter(|line| line.starts_with("Daemon")).collect();
    assert_eq!(told.len(), 6, "{stdout}");
    for told in told.chunks(3) {
        assert_eq!((told[0], told[2]), ("Daemon started", "Daemon stopped"));
        assert!(told[1].starts_with("Daemon is running (PID: "), "{stdout}");
    }
    assert!(fs::read_to_string(place.path("vswitch.log")).unwrap().contains("DEBUG"));
}
