//! The shape of the command line: names as arguments or flags, help that says what to type,
//! formats, limits, refusals.

use crate::{
    command::{mvirt, stderr, stdout},
    daemon::{Daemon, wait_until},
    guest::Guest,
};
use mvirt_net::proto::NicState;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Output, Stdio},
};

fn with(daemon: &Daemon, environment: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
    command.env("MVIRT_NET_SERVER", daemon.address()).envs(environment.iter().copied());
    command.args(args).output().unwrap()
}

#[test]
fn names_are_arguments_or_flags_and_lists_have_commas() {
    // Not by a way out that this host may have.
    let daemon = Daemon::start_with(&["--reactors", "1", "--egress", "off"]);
    let run = |line: &str| mvirt(&daemon, &line.split(' ').collect::<Vec<_>>());
    let shown = stdout(&run(
        "network create prod --ipv4-subnet 10.0.0.0/24 --dns 1.1.1.1,9.9.9.9 --dns 8.8.8.8",
    ));
    assert!(shown.contains("dns      1.1.1.1 9.9.9.9 8.8.8.8\n"), "{shown}");
    stdout(&run("network create -n test --ipv4-subnet 10.0.0.0/24"));
    stdout(&run("nic create prod --name vm1 --route 10.7.0.0/16,10.8.0.0/16"));
    stdout(&run("nic create --network test -n vm2"));
    assert_eq!(stdout(&run("nic ls -n test --no-headers -o name")), "vm2\n");
    assert!(stdout(&run("nic show vm1")).contains("network     prod\n"));
    for (line, lacks) in [
        ("network create --ipv4-subnet 10.0.0.0/24", "<NAME|--name <NAME>>"),
        ("network create a --name b --ipv4-subnet 10.0.0.0/24", "cannot be used with"),
        ("nic create --name vm3", "<NETWORK|--network <NETWORK>>"),
        ("nic create prod --network test", "cannot be used with"),
        ("network update prod", "give --dns, --clear-dns"),
        ("nic update vm1", "give --route, --clear-routes"),
        ("nic create prod --from-guest 1Gbit --from-guest 2Gbit", "1Gbit and 2Gbit"),
        ("nic create prod --mac 1 --mac 2", "cannot be used multiple times"),
        ("network create none", "give --ipv4-subnet, --ipv6-prefix or both"),
        ("nic limit vm1 --to-guest none", "--clear-to-guest"),
        ("nic limit vm1 --to-guest 0", "--clear-to-guest"),
        ("nic limit vm1 --from-guest 0.0Gbit", "--clear-from-guest"),
    ] {
        let said = stderr(&run(line), 2);
        assert!(said.contains(lacks) && !said.contains("net-server"), "{line}: {said}");
    }
    let said = stderr(&run("network update prod --subnet 10.2.0.0/24"), 2);
    assert!(!said.contains("as a value"), "{said}");
    let said = stderr(&run("network create out --ipv4-subnet 10.1.0.0/24 --public"), 1);
    assert!(said.contains("egress is off: start with --egress tun"), "{said}");
    let said = stderr(&run("network delete prod"), 1);
    assert!(said.contains("delete them first, or give --force"), "{said}");
    let done = run("network rm prod -f");
    assert_eq!(String::from_utf8_lossy(&done.stderr), "Deleted network prod and 1 vNIC.\n");
    stdout(&run("nic rm vm2"));
    assert_eq!(stderr(&run("network delete test"), 0), "Deleted network test.\n");
}

#[test]
fn help_begins_with_what_the_command_is_for() {
    let help = |line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
        stdout(&command.args(line.split(' ')).arg("--help").output().unwrap())
    };
    for line in ["network create", "nic create", "vm start", "probe vm1 ping"] {
        let text = help(line);
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part}: {text}"));
        let (own, output, connection) = (at("Options:"), at("Output:"), at("Connection:"));
        assert!(own < output && output < connection, "{text}");
        for flag in ["--net-server", "--tls-ca", "--tls-cert", "--tls-key", "--timeout"] {
            assert!(at(flag) > connection, "{flag} is among the command's own: {text}");
        }
    }
    for line in ["network create", "network update", "nic create", "nic update", "nic limit"] {
        assert!(help(line).contains("Examples:\n  mvirt "), "{line}");
    }
}

#[test]
fn lists_fit_a_screen_and_are_easy_to_cut() {
    let mut daemon = Daemon::start();
    daemon.network_with("v6", |r| r.ipv4_subnet.clear());
    // Words of states.
    let nic = daemon.nic("v6", "error");
    let list = |flags: &[&str]| stdout(&mvirt(&daemon, &[&["nic", "list"], flags].concat()));
    assert_eq!(
        list(&[]),
        "NAME   NETWORK  STATE    IPV4  IPV6\nerror  v6       created  -     fd00::1\n"
    );
    assert_eq!(list(&["--no-headers"]), "error  v6  created  -  fd00::1\n");
    let wide = list(&["-o", "wide"]);
    assert!(wide.contains(&nic.socket_path) && wide.contains(&nic.mac_address), "{wide}");
    assert_eq!(list(&["-o", "name"]), "error\n");
    let yaml = list(&["-o", "yaml"]);
    assert!(yaml.contains("- id: ") && yaml.contains("  state: NIC_STATE_CREATED\n"), "{yaml}");
    let coloured = |daemon: &Daemon, environment: &[(&str, &str)]| {
        let environment = [&[("CLICOLOR_FORCE", "1")], environment].concat();
        stdout(&with(daemon, &environment, &["nic", "list"]))
    };
    assert!(coloured(&daemon, &[]).contains("\x1b[1mNAME\x1b[0m"));
    assert!(
        coloured(&daemon, &[("NO_COLOR", "")]).contains('\x1b'),
        "an empty one asks for nothing"
    );
    assert!(!coloured(&daemon, &[("NO_COLOR", "1")]).contains('\x1b'));
    let guest = Guest::connect(&nic);
    wait_until("it is active", || daemon.get_nic("error").state() == NicState::Active);
    let shown = coloured(&daemon, &[]);
    assert!(shown.contains("\x1b[32mactive\x1b[0m") && shown.contains("\nerror  "), "{shown}");
    drop(guest);
}

#[test]
fn limits_change_only_as_they_are_named() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let run = |line: &str| mvirt(&daemon, &line.split(' ').collect::<Vec<_>>());
    let created = stdout(&run("nic create prod -n a --from-guest 1.5gbit/20Mbit,200kpps/1k"));
    let sends = "from guest  1.5Gbit/20Mbit,200kpps/1kpps\n";
    assert!(created.contains(sends), "{created}");
    let shown = stdout(&run("nic limit a --to-guest 500Mbit/1Mbit"));
    assert_eq!(shown, format!("{sends}to guest    500Mbit/1Mbit\n"));
    assert_eq!(stdout(&run("nic limit a")), shown, "nothing is named, nothing changes");
    let shown = stdout(&run("nic limit a --from-guest 2Gbit/1Mbit"));
    assert!(shown.starts_with("from guest  2Gbit/1Mbit,200kpps/1kpps\n"), "{shown}");
    let shown = stdout(&run("nic limit a --clear-from-guest --to-guest 2kpps/1kpps"));
    assert_eq!(shown, "from guest  no limit\nto guest    500Mbit/1Mbit,2kpps/1kpps\n");
    let said = stderr(&run("nic limit a --to-guest 1Gbit --to-guest 2Gbit"), 2);
    assert!(said.contains("--to-guest: 1Gbit and 2Gbit"), "{said}");
    let said = stderr(&run("nic limit a --to-guest 1GB"), 2);
    assert!(said.contains("8Gbit for 1 GB"), "{said}");
    assert_eq!(daemon.get_nic("a").limit_from_guest, None);
}

#[test]
fn a_vnic_in_use_is_deleted_by_force_alone() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let guest = Guest::connect(&daemon.nic("prod", "vm1"));
    wait_until("it is active", || daemon.get_nic("vm1").state() == NicState::Active);
    let said = stderr(&mvirt(&daemon, &["nic", "delete", "vm1"]), 1);
    assert!(said.contains("a VM uses it") && said.contains("--force"), "{said}");
    assert_eq!(daemon.get_nic("vm1").name, "vm1");
    assert_eq!(stderr(&mvirt(&daemon, &["nic", "delete", "vm1", "-f"]), 0), "Deleted vNIC vm1.\n");
    drop(guest);
}

#[test]
fn errors_are_documents_where_answers_are() {
    let daemon = Daemon::start();
    let error = |output: &Output, code: i32| -> Value {
        serde_json::from_str(&stderr(output, code)).unwrap()
    };
    let said = error(&mvirt(&daemon, &["-o", "json", "nic", "get", "nobody"]), 1);
    assert_eq!(said["error"]["code"], "NOT_FOUND");
    assert_eq!(said["error"]["message"], "vNIC \"nobody\" does not exist", "the code is beside it");
    let nowhere = ["--net-server", "unix:/nonexistent", "-o", "json", "nic", "list"];
    assert_eq!(error(&mvirt(&daemon, &nowhere), 1)["error"]["code"], "UNAVAILABLE");
    // Wrong usage, too, wherever the format is named.
    for wrong in ["network create -o json", "-ojson nic get", "nic vmm-args x -o=json --memory y"] {
        let said = error(&mvirt(&daemon, &wrong.split(' ').collect::<Vec<_>>()), 2);
        assert_eq!(said["error"]["code"], "INVALID_ARGUMENT", "{wrong}");
        assert!(!said["error"]["message"].as_str().unwrap().starts_with("error"), "{said}");
    }
    for (wrong, code) in [("nic get nobody", "NOT_FOUND"), ("nic get", "INVALID_ARGUMENT")] {
        let args: Vec<_> = wrong.split(' ').chain(["-o", "yaml"]).collect();
        let said = mvirt(&daemon, &args);
        let said: Value = serde_yaml_ng::from_slice(&said.stderr).unwrap();
        assert_eq!(said["error"]["code"], code);
    }
    let plain = stderr(&mvirt(&daemon, &["nic", "get"]), 2);
    assert!(plain.starts_with("error: ") && plain.contains("--help"), "{plain}");
}

#[test]
fn a_shell_is_offered_the_names_that_there_are() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.nic("prod", "vm1");
    let offered = |words: &[&str]| {
        let last = (words.len() - 1).to_string();
        let environment =
            [("COMPLETE", "bash"), ("_CLAP_COMPLETE_INDEX", &*last), ("_CLAP_IFS", "\n")];
        stdout(&with(&daemon, &environment, &[&["--"], words].concat()))
    };
    let all = offered(&["mvirt", "network", "get", ""]);
    assert_eq!(all.lines().next(), Some("prod"), "names come before flags: {all}");
    assert_eq!(offered(&["mvirt", "nic", "create", "--network", "p"]), "prod");
    assert_eq!(offered(&["mvirt", "nic", "delete", "v"]), "vm1");
    assert_eq!(offered(&["mvirt", "nic", "get", "x"]), "");
    let root = offered(&["mvirt", "vm", "start", "vm1", "--kernel", "/de"]);
    assert!(root.contains("/dev/"), "one can descend: {root}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&mvirt(&daemon, &["completions", shell])).contains("COMPLETE"), "{shell}");
    }
}

#[test]
fn what_is_there_is_changed_and_only_what_is_named() {
    let mut daemon = Daemon::start();
    let run = |daemon: &Daemon, line: &str| mvirt(daemon, &line.split(' ').collect::<Vec<_>>());
    stdout(&run(
        &daemon,
        "network create prod --ipv4-subnet 10.0.0.0/24 --dns 1.1.1.1 --ntp 10.0.0.9 \
         --label team=a --label tier=1 --boot-server 10.0.0.5 --boot-file pxe.0",
    ));
    let shown = stdout(&run(
        &daemon,
        "network update prod --name main --mtu 9000 --domain d.internal --clear-dns \
         --label tier=2 --boot-file ipxe.efi --description x",
    ));
    let has = |shown: &str, line: &str| {
        let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(shown.lines().any(|shown| squeezed(shown) == line), "{line:?} is not in\n{shown}");
    };
    for line in [
        "name main",
        "ntp 10.0.0.9",
        "domain d.internal",
        "mtu 9000",
        "boot 10.0.0.5 ipxe.efi",
        "labels team=a,tier=2",
        "description x",
    ] {
        has(&shown, line);
    }
    assert!(!shown.contains("dns"), "{shown}");
    stdout(&run(&daemon, "nic create main -n vm1 --route 10.7.0.0/16 --socket-mode 0600"));
    let shown = stdout(&run(
        &daemon,
        "nic update vm1 --name web --ipv4 10.0.0.9 --queues 4 --clear-routes --label a=b",
    ));
    for line in ["name web", "ipv4 10.0.0.9", "queues 4", "labels a=b", "socket has mode 0600"] {
        has(&shown, line);
    }
    assert!(!shown.contains("routes"), "{shown}");
    let nic = daemon.get_nic("web");
    assert_eq!((&*nic.socket_mode, nic.mtu, &*nic.network_name), ("0600", 9000, "main"));
    assert_eq!(stdout(&run(&daemon, "nic update web --mtu 1400 --dry-run -o name")), "web\n");
    assert_eq!(daemon.get_nic("web").mtu, 9000);
    let would = stderr(&run(&daemon, "network delete main -f --dry-run"), 0);
    assert_eq!(would, "Would delete network main and 1 vNIC.\n");
    let twice = stderr(&run(&daemon, "nic update web --label a=1 --label a=2"), 2);
    assert!(twice.contains("a is given twice"), "{twice}");
}

#[test]
fn the_vlans_of_a_trunk_are_written_as_they_are_shown() {
    let daemon = Daemon::start();
    let run = |line: &str| mvirt(&daemon, &line.split(' ').collect::<Vec<_>>());
    for network in ["lan", "red", "blue"] {
        stdout(&run(&format!("network create {network} --kind switched")));
    }
    let locator = format!("seqpacket-listen://{}", daemon.path("s/up").display());
    let create = format!("port create lan {locator} --name up --vlan 20=blue --vlan 10=red");
    assert!(stdout(&run(&create)).contains("vlans      10=red,20=blue\n"));
    let listed = stdout(&run("port list -n blue -o wide"));
    assert!(listed.contains(" 10=red,20=blue "), "{listed}");
    let shown = stdout(&run("port update up --vlan 10=red,4094=lan"));
    assert!(shown.contains("vlans      10=red,4094=lan\n"), "{shown}");
    for (wrong, said) in [("4095=red", "from 1 to 4094"), ("10", "like 10=lab"), ("=red", "10=lab")]
    {
        let error = stderr(&run(&format!("port update up --vlan {wrong}")), 2);
        assert!(error.contains(said), "{error}");
    }
    assert!(stdout(&run("port update up --clear-vlans")).contains("network    lan\nlocator "));
}

#[test]
fn changes_can_be_watched_and_waited_for() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "vm1");
    let spawn = |daemon: &Daemon, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
        command.env("MVIRT_NET_SERVER", daemon.address()).args(args);
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut watch = spawn(&daemon, &["nic", "watch", "--network", "prod", "--no-headers"]);
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map_while(Result::ok);
    let told =
        |line: Option<String>| line.unwrap()[8..].split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(told(lines.next()), "vm1 created 10.0.0.1 fd00::1");
    let wait = spawn(&daemon, &["nic", "wait", "vm1", "--for", "active", "-o", "name"]);
    let guest = Guest::connect(&nic);
    assert_eq!(told(lines.next()), "vm1 active 10.0.0.1 fd00::1");
    assert_eq!(stdout(&wait.wait_with_output().unwrap()), "vm1\n");
    let late = mvirt(&daemon, &["nic", "wait", "vm1", "--for", "lease", "--at-most", "10ms"]);
    assert!(stderr(&late, 1).contains("vm1: not lease within 10ms"));
    stdout(&mvirt(&daemon, &["nic", "delete", "vm1", "--force"]));
    let gone = std::iter::repeat_with(|| told(lines.next())).find(|told| told.contains("deleted"));
    assert_eq!(gone.as_deref(), Some("vm1 deleted - -"));
    kill_process(Pid::from_child(&watch), Signal::INT).unwrap();
    assert!(watch.wait().unwrap().success(), "it is how it ends");
    drop(guest);
}

#[test]
fn a_lease_is_waited_for_of_the_guest_that_is_there() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "vm1");
    let wait = |daemon: &Daemon, bound: &[&str]| {
        mvirt(daemon, &[&["nic", "wait", "vm1", "--for", "lease", "-o", "name"], bound].concat())
    };
    let lacks = |daemon: &Daemon| {
        let late = wait(daemon, &["--at-most", "100ms"]);
        assert!(stderr(&late, 1).contains("vm1: not lease within 100ms"));
    };
    stdout(&mvirt(&daemon, &["probe", "vm1", "lease"]));
    // It is there for as long as its connection is not seen to end.
    daemon.wait_for_state("vm1", NicState::Created);
    lacks(&daemon);
    let mut guest = Guest::connect(&nic);
    daemon.wait_for_state("vm1", NicState::Active);
    lacks(&daemon);
    guest.lease();
    assert_eq!(stdout(&wait(&daemon, &[])), "vm1\n");
    stdout(&mvirt(&daemon, &["nic", "update", "vm1", "--ipv4", "10.0.0.9", "--force"]));
    lacks(&daemon);
    guest.lease();
    assert_eq!(stdout(&wait(&daemon, &[])), "vm1\n");
    drop(guest);
    daemon.wait_for_state("vm1", NicState::Created);
    let late = wait(&daemon, &["--timeout", "200ms"]);
    assert!(stderr(&late, 1).contains("vm1: not lease within 200ms"), "as long as --timeout says");
    let late = wait(&daemon, &["--timeout", "10", "--at-most", "100ms"]);
    assert!(stderr(&late, 1).contains("within 100ms"), "its own flag comes first");
}

#[test]
fn a_dry_run_says_to_people_that_it_is_one() {
    let daemon = Daemon::start();
    let run = |line: &str| mvirt(&daemon, &line.split(' ').collect::<Vec<_>>());
    stdout(&run("network create prod --ipv4-subnet 10.0.0.0/24"));
    stdout(&run("nic create prod --name vm1"));
    for line in [
        "network create test --ipv4-subnet 10.1.0.0/24",
        "network update prod --mtu 9000",
        "nic create prod --name vm2",
        "nic update vm1 --mtu 9000",
    ] {
        let said = stderr(&run(&format!("{line} --dry-run")), 0);
        assert_eq!(said, "dry run: nothing was changed\n", "{line}");
        for format in ["json", "yaml", "name"] {
            assert_eq!(stderr(&run(&format!("{line} --dry-run -o {format}")), 0), "", "{line}");
        }
    }
    assert_eq!(stderr(&run("nic update vm1 --mtu 9000"), 0), "");
}

#[test]
fn every_command_has_a_page_of_the_manual() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
    let there = folder.path().join("share/man1");
    stdout(&command.arg("man").arg(&there).output().unwrap());
    let page = std::fs::read_to_string(there.join("mvirt-nic-create.1")).unwrap();
    let file = there.join("mvirt.1");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
    let said = stderr(&command.arg("man").arg(&file).output().unwrap(), 1);
    assert!(said.starts_with(&format!("mvirt: {}: ", file.display())), "{said}");
    assert!(page.contains("mvirt\\-nic\\-create") && page.contains("from\\-guest"), "{page}");
}
