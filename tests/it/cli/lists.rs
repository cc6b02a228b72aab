//! Lists as people cut them: which objects, which columns, in which form; and deletions of several.

use crate::{
    command::{mvirt, stderr, stdout},
    daemon::{Daemon, wait_until},
    guest::Guest,
    lab::segment,
};
use mvirt_net::proto::NicState;
use serde_json::Value;
use std::{os::unix::net::UnixStream, process::Output};

fn run(daemon: &Daemon, line: &str) -> Output {
    mvirt(daemon, &line.split(' ').collect::<Vec<_>>())
}

fn printed(daemon: &Daemon, line: &str) -> String {
    stdout(&run(daemon, line))
}

#[test]
fn lists_have_those_that_are_wanted() {
    let mut daemon = Daemon::start();
    for line in [
        "network create prod --ipv4-subnet 10.0.0.0/24 --label owner=me --label tier=1",
        "network create test --ipv4-subnet 10.0.0.0/24 --label owner=you",
        "nic create prod --name vm1 --label owner=me",
        "nic create prod --name vm2 --label owner=",
        "nic create test --name db1",
    ] {
        printed(&daemon, line);
    }
    let guest = Guest::connect(&daemon.get_nic("vm1"));
    daemon.wait_for_state("vm1", NicState::Active);
    for (line, names) in [
        ("network list --label owner=me", "prod\n"),
        ("network list --label owner", "prod\ntest\n"),
        ("network list --label owner=me --label tier=2", ""),
        ("network list --name t", "test\n"),
        ("nic list --label owner", "vm1\nvm2\n"),
        ("nic list --label owner=me -n prod", "vm1\n"),
        ("nic list --name vm -n test", ""),
        ("nic list --state created", "db1\nvm2\n"),
        ("nic list --state active", "vm1\n"),
    ] {
        assert_eq!(printed(&daemon, &format!("{line} -o name")), names, "{line}");
    }
    let json: Value =
        serde_json::from_str(&printed(&daemon, "nic list --state active -o json")).unwrap();
    assert_eq!(json["nics"].as_array().unwrap().len(), 1);
    for (line, code, lacks) in [
        ("nic list --label a=1 --label a=2", 2, "--label: a is given twice"),
        ("nic list --label no!key", 1, "labels: \"no!key\": expected a key"),
        ("nic list --state gone", 2, "created, active, blocked, error"),
        ("port list --state gone", 2, "down, listening, up, blocked, error"),
    ] {
        let said = stderr(&run(&daemon, line), code);
        assert!(said.contains(lacks), "{line}: {said}");
    }
    drop(guest);
}

#[test]
fn columns_are_chosen_and_values_have_commas_between() {
    let daemon = Daemon::start();
    printed(&daemon, "network create prod --ipv4-subnet 10.0.0.0/24");
    printed(&daemon, "nic create prod --name vm1 --mac 52:54:00:00:00:01 --label a=b --label c=");
    let nics = |flags: &str| printed(&daemon, &format!("nic list {flags}"));
    assert_eq!(nics("--columns mac,NAME"), "MAC                NAME\n52:54:00:00:00:01  vm1\n");
    assert_eq!(nics("--columns LABELS --no-headers"), "a=b,c=\n");
    assert_eq!(nics("--columns NAME,IPV6,LABELS -o csv"), "NAME,IPV6,LABELS\nvm1,,\"a=b,c=\"\n");
    let all = nics("-o csv --no-headers");
    assert!(all.starts_with("vm1,prod,created,10.0.0.1,,52:54:00:00:00:01,1500,1,"), "{all}");
    let one = printed(&daemon, "nic get vm1 -o csv");
    assert!(one.starts_with("FIELD,VALUE\nname,vm1\n") && one.contains("\nerror,\n"), "{one}");
    let said = stderr(&run(&daemon, "nic list --columns NAME,SIZE"), 2);
    assert!(said.contains("\"SIZE\": expected some of NAME,NETWORK,STATE"), "{said}");
    let said = stderr(&run(&daemon, "nic list --columns NAME -o json"), 2);
    assert!(said.contains("only tables have columns"), "{said}");
    let said = stderr(&run(&daemon, "nic delete vm1 --columns NAME"), 2);
    assert!(said.contains("--columns: mvirt nic delete: expected a command that lists"), "{said}");
    let said = stderr(&run(&daemon, "trace --drops --follow --columns NIC"), 2);
    assert!(said.contains("--columns: mvirt trace --follow: expected a command"), "{said}");
    assert_eq!(printed(&daemon, "trace --drops --columns NIC"), "NIC\n");
    let networks = printed(&daemon, "network list --columns NAME,PUBLIC");
    assert_eq!(networks, "NAME  PUBLIC\nprod  no\n");
    // Whoever cuts columns at blanks finds as many in each line.
    for line in ["network list -o wide", "nic list -o wide", "reactor list -o wide"] {
        let table = printed(&daemon, line);
        let columns: Vec<_> = table.lines().map(|line| line.split_whitespace().count()).collect();
        assert!(columns.iter().all(|count| *count == columns[0]), "{table}");
    }
}

#[test]
fn colours_and_sentences_are_as_flags_say() {
    let daemon = Daemon::start();
    printed(&daemon, "network create prod --ipv4-subnet 10.0.0.0/24");
    assert!(printed(&daemon, "--color always network list").contains("\x1b[1mNAME"));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mvirt"));
    command.env("MVIRT_NET_SERVER", daemon.address()).env("CLICOLOR_FORCE", "1");
    let plain = command.args(["network", "list", "--color=never"]).output().unwrap();
    assert!(!stdout(&plain).contains('\x1b'));
    assert_eq!(stderr(&run(&daemon, "-q network delete prod --dry-run"), 0), "");
    assert_eq!(stderr(&run(&daemon, "network delete prod -q"), 0), "");
    let said = stderr(&run(&daemon, "network delete prod -q"), 1);
    assert!(said.contains("network \"prod\" does not exist"), "what went wrong is said: {said}");
}

#[test]
fn several_are_deleted_and_one_that_stays_keeps_no_other() {
    let daemon = Daemon::start();
    for name in ["a", "b", "c", "d"] {
        printed(&daemon, &format!("network create {name} --ipv4-subnet 10.0.0.0/24"));
        printed(&daemon, &format!("nic create {name} --name {name}1"));
    }
    let said = stderr(&run(&daemon, "nic delete a1 gone b1"), 1);
    assert_eq!(
        said,
        "Deleted vNIC a1.\nDeleted vNIC b1.\n\
         mvirt: refused (NOT_FOUND): vNIC \"gone\" does not exist\n"
    );
    let said = stderr(&run(&daemon, "nic delete a1 c1 --if-exists --dry-run"), 0);
    assert_eq!(said, "There is no vNIC a1.\nWould delete vNIC c1.\n");
    let said = stderr(&run(&daemon, "network rm c d"), 1);
    assert_eq!(said.matches("give --force").count(), 2, "each is told: {said}");
    let done = printed(&daemon, "network rm a c x --if-exists --force -o json");
    let lines = done.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<Value> = lines.collect();
    assert_eq!(lines[0]["name"], "a");
    assert_eq!((&lines[1]["deleted"], &lines[1]["nics_deleted"]), (&true.into(), &1.into()));
    assert_eq!((&lines[2]["name"], &lines[2]["deleted"]), (&"x".into(), &false.into()));
    // One alone is a document, as ever.
    let one: Value = serde_json::from_str(&printed(&daemon, "network rm b -o json")).unwrap();
    assert_eq!((&one["deleted"], &one["name"]), (&true.into(), &Value::Null));
    assert_eq!(printed(&daemon, "network list -o name"), "d\n");
    for kind in ["port", "forward", "floating-ip", "lb"] {
        printed(&daemon, &format!("{kind} delete --if-exists 203.0.113.7 other"));
    }
    stderr(&run(&daemon, "nic delete"), 2);
    // A daemon that cannot be reached is told once.
    let nowhere = run(&daemon, "--net-server unix:/nonexistent nic delete a b --if-exists");
    assert_eq!(stderr(&nowhere, 1).matches("cannot reach").count(), 1);
}

#[test]
fn leases_are_listed_wherever_they_are_from() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let mut guest = Guest::connect(&daemon.nic("prod", "vm1"));
    daemon.nic("prod", "vm2");
    assert_eq!(printed(&daemon, "lease list --no-headers"), "");
    guest.lease();
    let list = |flags: &str| printed(&daemon, &format!("lease list {flags}"));
    wait_until("it is listed", || list("-o name").starts_with("10.0.0.1\n"));
    let shown = list("-n prod");
    let lines: Vec<Vec<&str>> = shown.lines().map(|it| it.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ADDRESS", "NETWORK", "BEHIND", "AGE", "LEFT", "HOSTNAME"]);
    assert_eq!((&lines[1][..3], lines[1][4]), (&["10.0.0.1", "prod", "vm1"][..], "-"));
    let json: Value = serde_json::from_str(&list("-o json")).unwrap();
    assert_eq!((&json[0]["behind"], &json[0]["seconds_left"]), (&"vm1".into(), &0.into()));
    assert!(json[0]["taken_at"].as_str().unwrap().ends_with('Z'), "{json}");
    assert!(stderr(&run(&daemon, "lease list -n nowhere"), 1).contains("does not exist"));
}

#[test]
fn a_port_is_waited_for_until_somebody_is_there() {
    let mut daemon = Daemon::start();
    daemon.network_with("lab", segment);
    let path = daemon.path("s/lan").display().to_string();
    printed(&daemon, &format!("port create lab stream-listen://{path} --name lan"));
    printed(&daemon, "port wait lan --for listening --at-most 20");
    let late = run(&daemon, "port wait lan --at-most 0.2");
    assert!(stderr(&late, 1).contains("lan: not up within 200ms"));
    let client = UnixStream::connect(&path).unwrap();
    assert!(printed(&daemon, "port wait lan --at-most 20").contains("connected"));
    drop(client);
}

#[test]
fn prefixes_come_and_go_beside_others() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    printed(&daemon, "nic create prod --name vm1 --route 10.7.0.0/16,fd07::/64");
    let routes = |line: &str| {
        let shown = printed(&daemon, &format!("nic update vm1 {line}"));
        let line = shown.lines().find(|line| line.starts_with("routes")).map(str::to_owned);
        line.unwrap_or_default().trim_start_matches("routes").trim().to_owned()
    };
    assert_eq!(routes("--add-route 10.8.0.0/16"), "10.7.0.0/16 10.8.0.0/16 fd07::/64");
    assert_eq!(routes("--add-route 10.8.0.0/16"), "10.7.0.0/16 10.8.0.0/16 fd07::/64");
    assert_eq!(routes("--remove-route fd07:0::/64,10.7.0.0/16 --add-route fd08::/64"), {
        "10.8.0.0/16 fd08::/64"
    });
    let said = stderr(&run(&daemon, "nic update vm1 --remove-route 10.7.0.0/16"), 2);
    assert!(said.contains("10.7.0.0/16: expected one of those there are: 10.8.0.0/16"), "{said}");
    stderr(&run(&daemon, "nic update vm1 --remove-route 10.8.0.0/16 --clear-routes"), 2);
}
