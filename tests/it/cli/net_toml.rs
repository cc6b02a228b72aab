//! The file of flags: what of it counts, what is said of a wrong one, and what is installed for it.

use crate::command::stdout;
use clap::CommandFactory as _;
use mvirt_net::{config::Config, flags::file};
use rustix::fs::{FileType, Mode};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
};

/// The daemon with nothing of the caller's environment but these variables.
fn daemon(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt-net"));
    command.env_clear().args(arguments).envs(variables.iter().copied()).output().unwrap()
}

/// What it says of a wrong file, with status 2.
fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_flag_counts_before_a_variable_before_the_file_before_the_default() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("net.toml");
    let file = path.to_str().unwrap();
    let text = "# Mine.\nreactors = 3\nmax-nics = 7\nbusy-poll = 9\negress-sysctl = false\n\
                cpus = [2, 3]\nallow-uid = [0, \"root\"]\nsocket-dir = \"/run/a\\\\b\"\n";
    fs::write(&path, text).unwrap();
    let variables = [("MVIRT_NET_MAX_NICS", "8"), ("MVIRT_NET_BUSY_POLL", "10")];
    let by_flag = daemon(&["--config", file, "--check-config", "--busy-poll", "11"], &variables);
    let told = stdout(&by_flag);
    for (line, from) in [
        ("reactors = 3", &format!("{file}:2")[..]),
        ("max-nics = 8", "MVIRT_NET_MAX_NICS"),
        ("busy-poll = 11", "--busy-poll"),
        ("egress-sysctl = false", &format!("{file}:5")),
        ("cpus = \"2,3\"", &format!("{file}:6")),
        ("allow-uid = [0, \"root\"]", &format!("{file}:7")),
        ("socket-dir = \"/run/a\\\\b\"", &format!("{file}:8")),
        ("max-networks = 4096", "default"),
        ("listen = [\"[::1]:50054\"]", "default"),
    ] {
        let found = told.lines().find(|found| found.starts_with(line));
        let found = found.unwrap_or_else(|| panic!("{line} is not in\n{told}"));
        assert_eq!(found.split_once(" # ").unwrap().1, from, "{line}");
    }
    assert!(told.lines().any(|line| line == "# tls-cert: none"), "{told}");
    // By its variable, and by the flag that checks; what is printed is such a file itself.
    fs::write(&path, &told).unwrap();
    let again = stdout(&daemon(&["--check-config", file], &[]));
    let values = |told: &str| {
        told.lines().map(|line| line.split(" # ").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(values(&again), values(&told));
    let by_variable = stdout(&daemon(&["--check-config"], &[("MVIRT_NET_CONFIG", file)]));
    assert_eq!(by_variable, again);
    // What is written for everybody is not what is in force where somebody says that there is none.
    let none = stdout(&daemon(&["--check-config", "/dev/null"], &[]));
    assert!(none.contains("busy-poll = 50"), "{none}");
}

#[test]
fn no_two_examples_are_of_one_port() {
    let sample = fs::read_to_string("dist/net.toml").unwrap();
    let of = |key: &str| {
        let line = sample.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
        line.unwrap_or_else(|| panic!("{key}")).to_owned()
    };
    assert_ne!(of("#metrics"), of("#http"));
}

#[test]
fn users_have_files_of_their_own() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let program = scratch.path().join("mvirt-net");
    fs::copy(env!("CARGO_BIN_EXE_mvirt-net"), &program).unwrap();
    fs::create_dir_all(scratch.path().join("home/.config/mvirt")).unwrap();
    let file = scratch.path().join("home/.config/mvirt/net.toml");
    fs::write(&file, "max-nics = 5\n").unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let ask = || {
        let mut command = Command::new(&program);
        std::os::unix::process::CommandExt::uid(&mut command, 4321);
        command.env_clear().env("HOME", scratch.path().join("home")).current_dir("/");
        command.env("XDG_RUNTIME_DIR", "/run/user/4321").arg("--check-config").output().unwrap()
    };
    let told = stdout(&ask());
    assert!(told.contains("max-nics = 5"), "{told}");
    assert!(told.contains("socket-dir = \"/run/user/4321/mvirt/net\""), "{told}");
    // One that is there and may not be read is no file that is not there.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    let expected = format!("error: {}: Permission denied (os error 13)\n", file.display());
    assert_eq!(refused(&ask()), expected);
}

#[test]
fn a_wrong_file_is_told_with_its_line_and_nothing_is_done() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("net.toml");
    let file = path.to_str().unwrap();
    fs::write(&path, "max-nics = 5\n\nreactors = \"many\"\n").unwrap();
    let told = format!("error: {file}:3: reactors: expected auto or 1-64, got \"many\"\n");
    assert_eq!(refused(&daemon(&["--check-config", file], &[])), told);
    let (sockets, metadata) = (scratch.path().join("s"), scratch.path().join("m"));
    let started = daemon(
        &["--config", file],
        &[
            ("MVIRT_NET_SOCKET_DIR", sockets.to_str().unwrap()),
            ("MVIRT_NET_METADATA_DIR", metadata.to_str().unwrap()),
        ],
    );
    assert_eq!(refused(&started), told);
    assert!(!sockets.exists() && !metadata.exists());
    // Where lines are for programs, that is one of them.
    let json = refused(&daemon(&["--config", file, "--log-format", "json"], &[]));
    let line: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!(line["fields"]["message"], told.trim()["error: ".len()..]);
    // What belongs together may be given in several places, and is missed in all of them.
    fs::write(&path, "tls-cert = \"/a\"\n").unwrap();
    let told = refused(&daemon(&["--check-config", file, "--tls-key", "/b"], &[]));
    assert!(told.contains("were not provided:\n  --tls-client-ca <FILE>\n\n"), "{told}");
    fs::write(&path, "tls-cert = \"/a\"\ntls-key = \"/b\"\n").unwrap();
    let told = refused(&daemon(&["--check-config", file, "--tls-client-ca", "/c"], &[]));
    assert!(told.contains("--tls-cert /a: No such file"), "{told}");
    // A wrong flag is the flag's fault, and one's own variable the variable's.
    let told = refused(&daemon(&["--check-config", file, "--reactors", "0"], &[]));
    assert!(told.contains("'--reactors <N>'"), "{told}");
    let told = refused(&daemon(&["--check-config", file], &[("MVIRT_NET_REACTORS", "0")]));
    assert!(told.contains("environment variable MVIRT_NET_REACTORS"), "{told}");
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let scratch = tempfile::tempdir().unwrap();
    let (fifo, huge) = (scratch.path().join("fifo"), scratch.path().join("huge"));
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
    fs::File::create(&huge).unwrap().set_len(1 << 30).unwrap();
    for (path, told) in [
        (scratch.path(), "expected a file, got a folder"),
        (&fifo, "expected a file, got a FIFO"),
        (&huge, "longer than 1048576 octets, as no configuration is"),
        (Path::new("/dev/zero"), "expected a file, got a device or a socket"),
        (&scratch.path().join("none"), "No such file or directory (os error 2)"),
    ] {
        let shown = path.to_str().unwrap();
        let expected = format!("error: {shown}: {told}\n");
        assert_eq!(refused(&daemon(&["--config", shown], &[])), expected);
    }
}

/// Keys that the daemon's command has.
fn keys() -> Vec<String> {
    let told = stdout(&daemon(&["--check-config", "/dev/null"], &[("HOME", "/x")]));
    let key = |line: &str| line.trim_start_matches("# ").split([' ', ':']).next().unwrap().into();
    told.lines().map(key).collect()
}

#[test]
fn what_is_installed_has_every_key() {
    let keys = keys();
    assert!(keys.len() > 30 && keys.contains(&"tls-client-ca".into()), "{keys:?}");
    assert!(!keys.iter().any(|key| key == "config" || key == "take-over"), "{keys:?}");
    let sample = stdout(&daemon(&["--generate-file", "sample"], &[]));
    let ours = fs::read_to_string("dist/net.toml").unwrap();
    assert!(ours == sample, "mvirt-net --generate-file sample >dist/net.toml");
    // What is commented out could be in force, as it stands there.
    let is_key = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
    let all = sample.lines().map(|line| if is_key(&line) { &line[1..] } else { line });
    let all: Vec<_> = all.filter(|line| !line.contains("\"kvm\"")).collect();
    let all = all.join("\n").replace("\"mvirt-net\"", "0");
    let given = file::parse(&all, &Config::command()).unwrap_or_else(|it| panic!("{it:?}\n{all}"));
    let found: Vec<_> = given.iter().map(|given| given.key.clone()).collect();
    let expected = keys.iter().filter(|key| *key != "socket-group");
    assert_eq!(found, expected.cloned().collect::<Vec<_>>());
    let page = stdout(&daemon(&["--generate-file", "man"], &[])).replace("\\-", "-");
    let flags = fs::read_to_string("docs/operations.md").unwrap();
    for key in &keys {
        assert!(page.contains(&format!("\\fB{key}\\fR")), "net.toml(5) has no {key}");
        assert!(flags.contains(&format!("`--{key}")), "docs/operations.md has no --{key}");
    }
}
