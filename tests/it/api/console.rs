//! The console's listener: what it serves and to whom, how much it costs, and what is refused.

use super::exposition::{get, status, talk};
use crate::{
    daemon::{Daemon, PATIENCE, in_directory, wait_until},
    events::{kept, wait_for_event},
    frames::Udp4,
    guest::pair,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

pub(super) const FLAGS: &[&str] = &["--reactors", "1", "--http", "127.0.0.1:0"];
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Where a daemon serves its console, as it says.
pub(super) fn address(daemon: &Daemon) -> SocketAddr {
    let mut found = None;
    wait_until("it says where", || {
        let log = daemon.log();
        let mut lines = log.lines().filter(|line| line.contains("the console is served"));
        found = lines.next_back().map(str::to_owned);
        found.is_some()
    });
    found.unwrap().split_once("address=").unwrap().1.trim().parse().unwrap()
}

/// A request with headers of its own.
fn ask(at: SocketAddr, line: &str, headers: &str) -> String {
    let headers = headers.replace('\n', "\r\n");
    talk(at, format!("{line} HTTP/1.1\r\nHost: {at}\r\n{headers}\r\n").as_bytes())
}

/// The JSON of an answer.
fn json(answer: &str) -> Value {
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(head.contains("content-type: application/json"), "{head}");
    serde_json::from_str(text).unwrap()
}

fn token_file(directory: &Path, mode: u32) -> String {
    let path = directory.join("token");
    fs::write(&path, format!("{TOKEN}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path.display().to_string()
}

#[test]
fn messages_are_those_of_the_api() {
    let mut daemon = Daemon::start_with(FLAGS);
    let at = address(&daemon);
    let (_, [mut a, mut b]) = pair(&mut daemon);
    daemon.network_with("lab", |request| request.kind = 2);
    assert!(b.answers(&mut a, "10.0.0.2"));
    a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.99", b"nobody").frame());
    wait_until("it is dropped", || daemon.drops("a", "no_route") == 1);
    let ask = |path: &str| json(&get(at, &format!("/api/{path}")));
    assert_eq!(ask("version")["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(ask("egress")["mode"].as_str().map(|mode| &mode[..12]), Some("EGRESS_MODE_"));
    assert_eq!(ask("networks")["networks"][1]["name"], "prod");
    assert_eq!(ask("networks/prod")["ipv4_subnet"], "10.0.0.0/24");
    let nics = ask("nics?network=prod&page_size=1");
    assert_eq!(
        (&nics["nics"][0]["name"], nics["nics"].as_array().unwrap().len()),
        (&"a".into(), 1)
    );
    let more = nics["next_page_token"].as_str().unwrap();
    assert_eq!(ask(&format!("nics?network=prod&page_token={more}"))["nics"][0]["name"], "b");
    let nic = daemon.get_nic("a");
    assert_eq!(ask("nics/a"), serde_json::to_value(&nic).unwrap(), "as -o json");
    assert_eq!(ask(&format!("nics/{}", nic.id))["state"], "NIC_STATE_ACTIVE");
    assert_eq!(ask("nics/a/stats")["drops"][0]["reason"], "no_route");
    for (list, field) in [
        ("ports", "ports"),
        ("forwards", "forwards"),
        ("floating_ips", "floating_ips"),
        ("load_balancers", "load_balancers"),
        ("networks/lab/macs", "macs"),
    ] {
        assert_eq!(ask(list)[field], Value::Array(vec![]), "{list}");
    }
    assert_eq!(ask("reactors")["reactors"].as_array().unwrap().len(), 1);
    let reasons = ask("drop_reasons");
    let no_route =
        reasons["drop_reasons"].as_array().unwrap().iter().find(|it| it["name"] == "no_route");
    assert_eq!(no_route.unwrap()["meaning"], "No vNIC of the network has the destination.");
}

#[test]
fn objects_are_found_by_their_labels() {
    let mut daemon = Daemon::start_with(FLAGS);
    let at = address(&daemon);
    let pairs = |all: &[(&str, &str)]| {
        all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    daemon.network_with("prod", |it| it.labels = pairs(&[("owner", "me")]));
    daemon.network("lab");
    daemon.nic_with("prod", "a", |it| it.labels = pairs(&[("owner", "me"), ("gpu", "")]));
    daemon.nic_with("prod", "b", |it| it.labels = pairs(&[("owner", "you"), ("gpu", "")]));
    daemon.nic("prod", "c");
    let names = |list: &str, query: &str| {
        let found = json(&get(at, &format!("/api/{list}?{query}")));
        let found = found[list].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap());
        found.collect::<Vec<_>>().join(" ")
    };
    for (query, expected) in [
        ("", "a b c"),
        ("label=owner", "a b"),
        ("label=owner=me", "a"),
        ("label=owner%3Dme", "a"),
        ("label=owner=nobody", ""),
        ("label=gpu", "a b"),
        ("label=gpu=", "a b"),
        ("label=gpu&label=owner=you", "b"),
        ("label=gpu=big", ""),
        ("label=team", ""),
        ("label=owner&name_prefix=b", "b"),
        ("label=owner&network=lab", ""),
    ] {
        assert_eq!(names("nics", query), expected, "{query}");
    }
    assert_eq!(names("networks", "label=owner=me"), "prod");
    for list in ["ports", "forwards", "floating_ips", "load_balancers"] {
        assert_eq!(names(list, "label=owner"), "", "{list}");
    }
    let first = json(&get(at, "/api/nics?label=owner&page_size=1"));
    let more = first["next_page_token"].as_str().unwrap();
    assert_eq!(names("nics", &format!("label=owner&page_size=1&page_token={more}")), "b");
}

#[test]
fn what_has_happened_is_had_by_time_kind_and_object() {
    let mut daemon = Daemon::start_with(FLAGS);
    let at = address(&daemon);
    let (nics, [mut a, _b]) = pair(&mut daemon);
    for nic in ["a", "b"] {
        wait_for_event(&mut daemon, "nic_state", |event| event.details["nic"] == nic);
    }
    a.lease();
    wait_for_event(&mut daemon, "lease", |event| event.details["address"] == "10.0.0.1");
    let events = |query: &str| {
        let told = json(&get(at, &format!("/api/events?{query}")));
        told["events"].as_array().unwrap().clone()
    };
    let texts = |query: &str| {
        let told = events(query);
        told.iter().map(|event| event["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = events("");
    let told = serde_json::to_value(kept(&mut daemon, "", &[])).unwrap();
    assert_eq!(Value::Array(all.clone()), told, "as -o json");
    assert_eq!(all[0]["severity"], "SEVERITY_INFO");
    let of_b = texts(&format!("object={}", nics[1].id));
    assert_eq!(of_b, ["vNIC b was created", "vNIC b is active"]);
    assert_eq!(texts("kind=started&kind=lease").first().unwrap(), "the daemon has started");
    assert!(events("kind=started&kind=lease").len() < all.len());
    assert_eq!(events("last=2"), all[all.len() - 2..]);
    let third = all[2]["time"].as_str().unwrap();
    assert_eq!(events(&format!("since={third}")), all[3..]);
    // As many as there are.
    for number in 0..100 {
        daemon.network(&format!("net{number}"));
    }
    assert_eq!(events("").len(), all.len() + 100);
    let kinds = json(&get(at, "/api/event_kinds"));
    let kinds = kinds["event_kinds"].as_array().unwrap();
    assert!(all.iter().all(|event| kinds.contains(&event["kind"])), "{kinds:?}");
}

#[test]
fn packets_are_explained_and_frames_captured_for_who_shows_our_header() {
    let mut daemon = Daemon::start_with(FLAGS);
    let at = address(&daemon);
    let (_, [mut a, mut b]) = pair(&mut daemon);
    let path = "/api/explain?from=a&destination=10.0.0.2&destination_port=80";
    let refused = get(at, path);
    assert!(status(&refused) == 403 && refused.contains("mvirt-console: 1"), "{refused}");
    let reply = json(&ask(at, &format!("GET {path}"), "Mvirt-Console: 1\n"));
    assert_eq!(reply["verdict"], "EXPLAIN_VERDICT_DELIVERED");
    assert_eq!(reply["delivered_to"][0], "b");
    let wrong = ask(at, "GET /api/explain?from=a&destination=here", "Mvirt-Console: 1\n");
    assert!(status(&wrong) == 400 && wrong.contains("here"), "{wrong}");
    let capture = "GET /api/capture?target=a&seconds=30&packets=2&filter=icmp";
    assert_eq!(status(&ask(at, capture, "")), 403);
    let mut stream = TcpStream::connect(at).unwrap();
    let request = format!("{capture} HTTP/1.1\r\nHost: {at}\r\nMvirt-Console: 1\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    daemon.says("capture begins client=\"console, 127.0.0.1:");
    assert!(b.answers(&mut a, "10.0.0.2"));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let at_body = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(answer[..at_body].to_vec()).unwrap();
    assert!(head.contains("content-type: application/x-pcapng"), "{head}");
    assert!(head.contains("attachment; filename=\"capture.pcapng\""), "{head}");
    // The block type of a section header (pcapng §4.1), behind a chunk's length.
    let magic = answer[at_body..].windows(4).position(|four| four == [0x0a, 0x0d, 0x0d, 0x0a]);
    assert!(magic.is_some_and(|at| at < 10), "{magic:?}");
    assert!(answer.ends_with(b"0\r\n\r\n"), "it has an end");
}

#[test]
fn what_is_no_question_is_refused_with_what_is() {
    let daemon = Daemon::start_with(FLAGS);
    let at = address(&daemon);
    for (line, headers, expected, said) in [
        ("GET /", "", 200, "<!doctype html>"),
        ("HEAD /", "", 200, "text/html"),
        ("GET /main.js", "", 200, "text/javascript"),
        ("GET /uplot/LICENSE", "", 200, "MIT License"),
        ("GET /metrics", "", 404, "expected / or /api/"),
        ("GET /../../etc/passwd", "", 404, ""),
        ("GET /uplot/../../mod.rs", "", 404, ""),
        ("GET /%2e%2e/etc/passwd", "", 404, ""),
        ("GET /api/", "", 404, "nics/NAME/stats"),
        ("GET /api/nowhere", "", 404, " forwards/NAME"),
        ("GET /api/nics/", "", 404, "nics/NAME/stats"),
        ("GET /api/nics/nobody", "", 404, "vNIC \"nobody\" does not exist"),
        ("GET /api/nics/nobody/stats", "", 404, "\"nobody\" does not exist"),
        ("GET /api/forwards/nobody", "", 404, "\"nobody\" does not exist"),
        ("GET /api/nics?networ=x", "", 400, "networ: no such field: expected page_size"),
        ("GET /api/nics?page_size=0", "", 400, "page_size: \"0\": expected 1 to 1000"),
        ("GET /api/nics?network=x", "", 404, "network \"x\" does not exist"),
        ("GET /api/nics?label=a=1&label=b&label=a=2", "", 400, "label: a is given twice"),
        ("GET /api/nics?label==1", "", 400, "labels: \"\": expected a key of 1-63"),
        ("GET /api/events?kind=nothing", "", 400, "expected some of started, "),
        ("GET /api/events?since=yesterday", "", 400, "expected a time like 2026-"),
        ("GET /api/events?object=a", "", 400, "object: \"a\": expected an id"),
        ("GET /api/events?last=0", "", 400, "last: \"0\": expected 1 to 10000"),
        ("GET /api/events?page_size=1", "", 400, "expected last, object, since, kind"),
        ("POST /api/nics", "", 405, "\r\nallow: GET, HEAD\r\n"),
        ("DELETE /api/nics/a", "", 405, "\r\nallow: GET, HEAD\r\n"),
        ("OPTIONS /api/nics", "", 405, "\r\nallow: GET, HEAD\r\n"),
        ("HEAD /api/live", "", 405, "\r\nallow: GET\r\n"),
        ("HEAD /api/capture?target=a", "Mvirt-Console: 1\n", 405, "\r\nallow: GET\r\n"),
        ("GET /api/capture", "Mvirt-Console: 1\n", 400, "targets"),
        ("GET /api/capture?target=a&seconds=301", "Mvirt-Console: 1\n", 400, "1 to 300"),
        ("GET /api/explain?frame=0g", "Mvirt-Console: 1\n", 400, "frame: expected hexadecimal"),
        ("GET /api/version", "Sec-Fetch-Site: cross-site\n", 403, "expected same-origin"),
        ("GET /api/version", "Sec-Fetch-Site: same-origin\n", 200, ""),
        ("GET /api/version", "Content-Length: 9\n", 413, "expected no body"),
    ] {
        let answer = ask(at, line, headers);
        assert_eq!(status(&answer), expected, "{line}: {answer:.400}");
        assert!(answer.contains(said), "{line}: {answer:.400}");
        for header in [
            "content-security-policy: default-src 'self'; ",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "cache-control: no-store",
            "referrer-policy: no-referrer",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(answer.contains(header), "{line} lacks {header}: {answer:.400}");
        }
        assert!(!answer.contains("access-control-"), "others are let do nothing");
    }
    let rebound = talk(at, b"GET /api/version HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert_eq!(status(&rebound), 421, "{rebound}");
    // A script, or a style, within the page would not run.
    let page = get(at, "/");
    for never in ["<style", "style=", "onclick", "onload"] {
        assert!(!page.contains(never), "{never}");
    }
}

#[test]
fn beyond_loopback_there_is_a_token_and_on_loopback_there_may_be() {
    let directory = tempfile::tempdir().unwrap();
    let run = |flags: &[&str]| {
        let mut daemon = in_directory(env!("CARGO_BIN_EXE_mvirt-net"), directory.path());
        let output = daemon.args(flags).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let readable = token_file(directory.path(), 0o644);
    let absent = directory.path().join("none").display().to_string();
    for (flags, said) in [
        (&["--http", "0.0.0.0:0"][..], "--http 0.0.0.0:0: beyond loopback"),
        (&["--http", "here"], "expected an address and a port"),
        (&["--http-token", &readable], "--http <ADDR>"),
        (&["--http", "[::1]:0", "--http-token", &readable], "(mode 0644)"),
        (&["--http", "[::1]:0", "--http-token", &absent], "No such file"),
    ] {
        let (code, text) = run(flags);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(said), "{text}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, text) = run(&["--http", &taken.local_addr().unwrap().to_string()]);
    assert!(code == Some(1) && text.contains("--http 127.0.0.1:"), "{text}");
    let token = token_file(directory.path(), 0o600);
    let flags = ["--reactors", "1", "--http", "0.0.0.0:0", "--http-token", &token];
    let mut daemon = Daemon::start_with(&flags);
    let at = SocketAddr::from(([127, 0, 0, 1], address(&daemon).port()));
    assert_eq!(status(&get(at, "/")), 200, "the page has no secrets, and asks for it");
    for path in ["version", "nics", "live", "capture?target=a"] {
        let line = format!("GET /api/{path}");
        for wrong in ["", "Authorization: Bearer 0123456789abcdef\n", "Mvirt-Console: 1\n"] {
            let refused = ask(at, &line, wrong);
            assert_eq!(status(&refused), 401, "{path}: {refused}");
            assert!(refused.contains("www-authenticate: Bearer"), "{refused}");
        }
    }
    daemon.says("a wrong token was shown to --http");
    assert!(!daemon.log().contains(TOKEN));
    let right = format!("Authorization: Bearer {TOKEN}\n");
    assert_eq!(status(&ask(at, "GET /api/version", &right)), 200);
    daemon.network("prod");
    daemon.nic("prod", "a");
    let explained = ask(at, "GET /api/explain?from=a&destination=10.0.0.9&protocol=icmp", &right);
    assert_eq!(json(&explained)["verdict"], "EXPLAIN_VERDICT_DROPPED", "a token is enough");
}

/// A stream of events, and the lines of it.
pub(super) fn live(at: SocketAddr) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /api/live HTTP/1.1\r\nHost: {at}\r\n\r\n").unwrap();
    BufReader::new(stream)
}

/// The data of the next event of that name of which something is so.
pub(super) fn next(
    stream: &mut BufReader<TcpStream>,
    name: &str,
    is_so: impl Fn(&Value) -> bool,
) -> Value {
    let mut line = String::new();
    let mut event = String::new();
    loop {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0, "it has ended");
        if let Some(name) = line.strip_prefix("event: ") {
            event = name.trim().to_owned();
        } else if let Some(data) = line.strip_prefix("data: ") {
            let data: Value = serde_json::from_str(data).unwrap();
            if event == name && is_so(&data) {
                return data;
            }
        }
    }
}

#[test]
fn what_changes_is_told_as_it_does_and_goes_on_in_the_next_process() {
    let mut daemon = Daemon::start_with(FLAGS);
    let at = address(&daemon);
    let (_, [mut a, mut b]) = pair(&mut daemon);
    let mut stream = live(at);
    let there = next(&mut stream, "nic", |it| it["nic"]["name"] == "b");
    assert_eq!(there["nic"]["state"], "NIC_STATE_ACTIVE");
    assert!(there["nic"].get("error").is_none(), "what is empty is not said: {there}");
    next(&mut stream, "nic", |it| it["synced"] == true);
    next(&mut stream, "host", |it| it["reactors"][0].is_object());
    // The first has all there was: only what comes afterwards counts.
    next(&mut stream, "stats", |it| it["elapsed_ns"].as_u64() > Some(0));
    assert!(b.answers(&mut a, "10.0.0.2"));
    let carried = next(&mut stream, "stats", |it| it["stats"][0]["ingress_frames"].is_u64());
    assert_eq!(carried["stats"][0]["name"], "a");
    daemon.network("late");
    next(&mut stream, "network", |it| it["network"]["name"] == "late");
    drop(a);
    next(&mut stream, "nic", |it| it["nic"]["state"] == "NIC_STATE_CREATED");
    assert!(daemon.hand_over(), "{}", daemon.log());
    let mut stream = live(at);
    next(&mut stream, "network", |it| it["network"]["name"] == "late");
}

#[test]
fn what_is_carried_is_counted_once_for_all_who_look() {
    let mut daemon = Daemon::start_with(FLAGS);
    let at = address(&daemon);
    let (_, [mut a, mut b]) = pair(&mut daemon);
    assert!(b.answers(&mut a, "10.0.0.2"));
    let counted = [live(at), live(at)].each_mut().map(|page| {
        let seconds = [(); 4].map(|()| next(page, "stats", |_| true));
        assert!(seconds[0]["elapsed_ns"].is_u64(), "not what came before: {}", seconds[0]);
        seconds.map(|second| second["time"].to_string())
    });
    assert!(counted[0].iter().any(|time| counted[1].contains(time)), "{counted:?}");
    next(&mut live(at), "stats", |it| it["elapsed_ns"].is_u64());
}

#[test]
fn labels_without_values_are_told_as_elsewhere() {
    let mut daemon = Daemon::start_with(FLAGS);
    let at = address(&daemon);
    let labels = BTreeMap::from([("gpu".to_owned(), String::new())]);
    daemon.network_with("prod", |request| request.labels = labels.clone());
    daemon.nic_with("prod", "a", |request| request.labels = labels.clone());
    for (event, name) in [("network", "prod"), ("nic", "a")] {
        let told = next(&mut live(at), event, |it| it[event]["name"] == name);
        let asked = json(&get(at, &format!("/api/{event}s/{name}")));
        assert_eq!(told[event]["labels"], asked["labels"], "{told}");
        assert_eq!(told[event]["labels"]["gpu"], "", "{told}");
    }
}

#[test]
fn who_is_slow_or_many_keeps_nobody_from_it_for_long() {
    let mut daemon = Daemon::start_with(FLAGS);
    let at = address(&daemon);
    let descriptors = daemon.descriptors();
    let mut pages: Vec<_> = (0..16).map(|_| live(at)).collect();
    for page in &mut pages {
        next(page, "host", |_| true);
    }
    let refused = get(at, "/api/live");
    assert!(status(&refused) == 429 && refused.contains("16 pages are open"), "{refused}");
    assert_eq!(status(&get(at, "/api/version")), 200, "other things go on");
    pages.clear();
    wait_until("there is room again", || {
        let mut page = live(at);
        let mut line = String::new();
        page.read_line(&mut line).is_ok() && line.contains("200")
    });
    let slow: Vec<_> = (0..200)
        .filter_map(|_| {
            let mut stream = TcpStream::connect(at).ok()?;
            stream.write_all(b"GET /api/live HTTP/1.1\r\nHo").ok()?;
            Some(stream)
        })
        .collect();
    assert!(daemon.descriptors() <= descriptors + 70, "most were let go at once");
    daemon.network("prod");
    let deadline = Instant::now() + PATIENCE;
    while status(&get(at, "/api/version")) != 200 {
        assert!(Instant::now() < deadline, "the slow ones are let go in ten seconds");
    }
    drop(slow);
    wait_until("nothing has leaked", || daemon.descriptors() <= descriptors + 2);
}

#[test]
fn a_console_that_nobody_looks_at_leaves_the_daemon_idle() {
    let mut daemon = Daemon::start_with(FLAGS);
    let at = address(&daemon);
    daemon.network("prod");
    daemon.nic("prod", "a");
    let mut page = live(at);
    next(&mut page, "stats", |_| true);
    drop(page);
    // What a page leaves to be done is over.
    std::thread::park_timeout(Duration::from_secs(2));
    let before = daemon.cpu_time();
    std::thread::park_timeout(Duration::from_secs(2));
    let used = daemon.cpu_time() - before;
    assert!(used <= Duration::from_millis(20), "{used:?} in two seconds");
    next(&mut live(at), "stats", |_| true);
}
