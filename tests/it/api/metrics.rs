//! `/metrics`: what is told is text that Prometheus reads, of what guests did; who is slow, many or
//! asks for something else keeps nobody from it.

use super::exposition::{Exposition, get, status, talk};
use crate::{
    command::{mvirt, stdout},
    daemon::{Daemon, PATIENCE, in_directory, wait_until},
    frames::Udp4,
    guest::pair,
};
use mvirt_net::proto::{DeleteNicRequest, GetPortRequest, get_port_request::Identifier};
use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

const FLAGS: &[&str] = &["--reactors", "1", "--metrics", "127.0.0.1:0"];

/// Where a daemon serves metrics, as it says.
fn address(daemon: &Daemon) -> SocketAddr {
    address_of(daemon, 1)
}

/// As [`address`], of the process of that number.
fn address_of(daemon: &Daemon, number: usize) -> SocketAddr {
    let mut found = None;
    wait_until("it says where", || {
        let log = daemon.log();
        let mut lines = log.lines().filter(|line| line.contains("metrics are served"));
        found = lines.nth(number - 1).map(str::to_owned);
        found.is_some()
    });
    found.unwrap().split_once("address=").unwrap().1.trim().parse().unwrap()
}

#[test]
fn what_guests_do_is_told_by_name_and_goes_on_in_the_next_process() {
    let mut daemon = Daemon::start_with(FLAGS);
    let at = address(&daemon);
    let (_, [mut a, mut b]) = pair(&mut daemon);
    assert!(b.answers(&mut a, "10.0.0.2"));
    for _ in 0..3 {
        a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.99", b"nobody").frame());
    }
    wait_until("they are dropped", || daemon.drops("a", "no_route") == 3);
    let text = Exposition::of(&get(at, "/metrics"));
    let stats = daemon.stats("a");
    let a_is = [("nic", "a"), ("network", "prod")];
    let with = |label| [&a_is[..], &[label]].concat();
    let value = |text: &Exposition, name: &str, labels: &[(&str, &str)]| text.value(name, labels);
    let frames = value(&text, "mvirt_net_frames_total", &with(("direction", "from_guest")));
    assert_eq!(frames, Some(stats.ingress_frames as f64));
    let dropped = with(("reason", "no_route"));
    assert_eq!(value(&text, "mvirt_net_dropped_frames_total", &dropped), Some(3.0));
    for (state, is_so) in [("active", 1.0), ("created", 0.0)] {
        let labels = with(("state", state));
        assert_eq!(value(&text, "mvirt_net_nic_state", &labels), Some(is_so));
    }
    let of_network = [("network", "prod"), ("reason", "no_route")];
    assert_eq!(value(&text, "mvirt_net_network_dropped_frames_total", &of_network), Some(3.0));
    let nic = daemon.get_nic("a");
    let info = [&a_is[..], &[("id", &nic.id), ("mac", &nic.mac_address)]].concat();
    assert_eq!(value(&text, "mvirt_net_nic_info", &info), Some(1.0));
    let created = [("method", "CreateNic"), ("code", "OK")];
    assert_eq!(value(&text, "mvirt_net_api_requests_total", &created), Some(2.0));
    let writes = value(&text, "mvirt_net_store_write_duration_seconds_count", &[]);
    assert!(writes >= Some(2.0), "{writes:?}");
    assert!(daemon.hand_over(), "{}", daemon.log());
    let after = Exposition::of(&get(at, "/metrics"));
    let now = value(&after, "mvirt_net_frames_total", &with(("direction", "from_guest")));
    assert!(now >= frames, "{now:?} {frames:?}");
    daemon.crash_and_restart();
    let again = Exposition::of(&get(address_of(&daemon, 3), "/metrics"));
    let now = value(&again, "mvirt_net_frames_total", &with(("direction", "from_guest")));
    assert_eq!(now, Some(0.0));
}

#[test]
fn what_a_name_has_is_no_end_of_a_label() {
    let mut daemon = Daemon::start_with(FLAGS);
    daemon.network_with("lab", |request| request.kind = 2);
    let locator = format!("stream-listen://{}/a\\\"b.sock", daemon.path("s").display());
    let made = mvirt(&daemon, &["port", "create", "lab", &locator, "--name", "odd"]);
    stdout(&made);
    let text = Exposition::of(&get(address(&daemon), "/metrics"));
    let of_port = text.samples("mvirt_net_port_info");
    let shown = of_port[0].labels.iter().find(|(name, _)| name == "locator").unwrap();
    let asked = GetPortRequest { identifier: Some(Identifier::Name("odd".into())) };
    let port = daemon.call(async |client| client.get_port(asked).await).unwrap();
    assert!(shown.1 == port.locator && port.locator.contains('"'), "{shown:?} {port:?}");
    let state = [("port", "odd"), ("network", "lab"), ("state", "listening")];
    assert_eq!(text.value("mvirt_net_port_state", &state), Some(1.0));
    assert_eq!(text.value("mvirt_net_macs", &[("network", "lab")]), Some(0.0));
}

#[test]
fn only_those_that_carry_most_have_series_of_their_own_where_that_is_asked_for() {
    let flags = [FLAGS, &["--metrics-per-nic", "top:1"]].concat();
    let mut daemon = Daemon::start_with(&flags);
    let (_, [mut a, _b]) = pair(&mut daemon);
    daemon.nic("prod", "silent");
    assert!(a.ping("169.254.0.1"));
    let text = Exposition::of(&get(address(&daemon), "/metrics"));
    let told = text.samples("mvirt_net_forwarded_frames_total");
    let told: Vec<_> = told.iter().map(|sample| &*sample.labels[0].1).collect();
    assert_eq!(told, ["a"]);
    assert_eq!(text.value("mvirt_net_nics", &[]), Some(3.0));
    let prod = [("network", "prod"), ("direction", "from_guest")];
    let of_network = text.value("mvirt_net_network_frames_total", &prod);
    assert!(of_network > Some(0.0), "networks are told all the same");
    drop(a);
    let request = DeleteNicRequest { id: "a".into(), ..Default::default() };
    daemon.call(async |client| client.delete_nic(request).await).unwrap();
    let text = Exposition::of(&get(address(&daemon), "/metrics"));
    assert!(text.value("mvirt_net_network_frames_total", &prod) >= of_network, "it never shrinks");
}

#[test]
fn an_address_that_others_reach_is_refused_unless_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let run = |flags: &[&str]| {
        let mut daemon = in_directory(env!("CARGO_BIN_EXE_mvirt-net"), directory.path());
        let output = daemon.args(flags).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = run(&["--metrics", "0.0.0.0:0"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("--metrics 0.0.0.0:0: beyond loopback"), "{text}");
    for (flags, said) in [
        (&["--metrics", "here"][..], "expected an address and a port, like 127.0.0.1:9177"),
        (&["--metrics-per-nic", "top:0"], "expected all, none or top:N"),
        (&["--metrics-insecure"], "--metrics <ADDR>"),
    ] {
        let (code, text) = run(flags);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(said), "{text}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, text) = run(&["--metrics", &taken.local_addr().unwrap().to_string()]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("--metrics 127.0.0.1:") && text.contains("in use"), "{text}");
    let flags = ["--reactors", "1", "--metrics", "0.0.0.0:0", "--metrics-insecure"];
    let daemon = Daemon::start_with(&flags);
    let port = address(&daemon).port();
    let answer = get(SocketAddr::from(([127, 0, 0, 1], port)), "/metrics");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn what_is_no_question_for_metrics_is_refused_with_what_is() {
    let daemon = Daemon::start_with(FLAGS);
    let at = address(&daemon);
    let long = format!("GET /metrics HTTP/1.1\r\nHost: {at}\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET /metrics HTTP/1.1\r\nHost: {at}\r\n{}\r\n", "X: y\r\n".repeat(1000));
    let ask = |line: &str, host: &str| format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let here = at.to_string();
    let chunked = "POST /metrics HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (request, expected) in [
        (ask("GET /metrics", &here), 200),
        (ask("HEAD /metrics", "localhost:9"), 200),
        (ask("GET /metrics?x=y", &here), 200),
        (ask("GET /", &here), 404),
        (ask("GET /metrics/", &here), 404),
        (ask("GET /../../etc/passwd", &here), 404),
        (ask("GET /metrics/../../etc/passwd", &here), 404),
        (ask("GET /%2e%2e/%2e%2e/etc/passwd", &here), 404),
        (ask("GET //etc/passwd", &here), 404),
        (ask("DELETE /metrics", &here), 405),
        (ask("GET /metrics", "evil.example"), 421),
        (ask("GET /metrics", &format!("evil.example:{}", at.port())), 421),
        ("GET /metrics HTTP/1.1\r\n\r\n".into(), 400),
        ("GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(), 400),
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n".into(), 413),
        (chunked.into(), 413),
        (long, 431),
        (many, 431),
        ("\x16\x03\x01\x02 a handshake of TLS\r\n\r\n".into(), 400),
    ] {
        let answer = talk(at, request.as_bytes());
        let shown = &request[..request.len().min(60)];
        assert_eq!(status(&answer), expected, "{shown:?}: {answer:.200}");
        assert!(!answer.contains("root:"), "{shown:?}");
    }
}

#[test]
fn who_is_slow_or_many_keeps_nobody_from_it_for_long() {
    let mut daemon = Daemon::start_with(FLAGS);
    let at = address(&daemon);
    let descriptors = daemon.descriptors();
    // Each says a little, and no more.
    let slow: Vec<_> = (0..200)
        .filter_map(|_| {
            let mut stream = TcpStream::connect(at).ok()?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHo").ok()?;
            Some(stream)
        })
        .collect();
    assert!(daemon.descriptors() <= descriptors + 70, "most were let go at once");
    // The API and guests do not notice.
    daemon.network("prod");
    // And 10,000 that come and go.
    for _ in 0..10_000 {
        drop(TcpStream::connect(at));
    }
    let deadline = Instant::now() + PATIENCE;
    let mut answer = String::new();
    while !answer.starts_with("HTTP/1.1 200") {
        assert!(Instant::now() < deadline, "the slow ones are let go in ten seconds");
        answer = get(at, "/metrics");
    }
    drop(slow);
    wait_until("nothing has leaked", || daemon.descriptors() <= descriptors + 2);
    let mut quiet = TcpStream::connect(at).unwrap();
    quiet.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(quiet.read(&mut [0; 8]).unwrap_or(0), 0, "it is let go, and told nothing");
}

#[test]
fn a_daemon_that_nobody_asks_uses_no_cpu() {
    let daemon = Daemon::start_with(FLAGS);
    get(address(&daemon), "/metrics");
    // What a start leaves to be done is over.
    std::thread::park_timeout(Duration::from_secs(1));
    let before = daemon.cpu_time();
    std::thread::park_timeout(Duration::from_secs(2));
    let used = daemon.cpu_time() - before;
    assert!(used <= Duration::from_millis(20), "{used:?} in two seconds");
}

/// Names of metrics in a text: as samples have them.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part(c));
    let named = words.filter(|word| word.starts_with("mvirt_net_") || word.starts_with("process_"));
    named.map(str::to_owned).collect()
}

#[test]
fn pages_and_dashboard_name_what_there_is() {
    let mut daemon = Daemon::start_with(FLAGS);
    daemon.network_with("lab", |request| request.kind = 2);
    let [port] = crate::streams::free_ports();
    let listens = format!("stream-listen://127.0.0.1:{port}");
    stdout(&mvirt(&daemon, &["port", "create", "lab", &listens, "--name", "p"]));
    let (_, [mut a, _b]) = pair(&mut daemon);
    a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.99", b"nobody").frame());
    wait_until("it is dropped", || daemon.drops("a", "no_route") == 1);
    let text = Exposition::of(&get(address(&daemon), "/metrics"));
    let told: BTreeSet<_> = text.names();
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let page = read("docs/operations.md");
    let section = page.split("\n## ").find(|part| part.starts_with("Prometheus")).unwrap();
    let documented = names(section);
    let families: BTreeSet<_> = text.families();
    let unknown: Vec<_> = documented
        .iter()
        .filter(|name| !told.contains(*name) && !families.contains(*name))
        .collect();
    assert!(unknown.is_empty(), "docs/operations.md names {unknown:?}");
    let is_documented =
        |family: &&String| documented.iter().any(|name| name.starts_with(&***family));
    let missing: Vec<_> = families.iter().filter(|family| !is_documented(family)).collect();
    assert!(missing.is_empty(), "docs/operations.md lacks {missing:?}");
    let dashboard = read("dist/grafana.json");
    let _: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let shown = names(&dashboard);
    let unknown: Vec<_> = shown.iter().filter(|name| !told.contains(*name)).collect();
    assert!(unknown.is_empty() && shown.len() > 10, "dist/grafana.json names {unknown:?}");
}

#[test]
fn prometheus_itself_reads_it() {
    if which::which("prometheus").is_err() {
        return crate::daemon::cannot_run("prometheus is not installed");
    }
    let mut daemon = Daemon::start_with(FLAGS);
    let at = address(&daemon);
    let (_, [mut a, mut b]) = pair(&mut daemon);
    assert!(b.answers(&mut a, "10.0.0.2"));
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("prometheus.yml");
    let scrape = format!(
        "scrape_configs:\n- job_name: mvirt\n  scrape_interval: 100ms\n  scrape_timeout: 100ms\n  \
         static_configs:\n  - targets: ['{at}']\n"
    );
    std::fs::write(&config, scrape).unwrap();
    let [port] = crate::streams::free_ports();
    let listens = format!("127.0.0.1:{port}");
    let mut prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
        .arg(format!("--web.listen-address={listens}"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let there: SocketAddr = listens.parse().unwrap();
    let query = "/api/v1/query?query=mvirt_net_frames_total%7Bnic%3D%22a%22%7D";
    wait_until("it has scraped", || {
        let Ok(mut stream) = TcpStream::connect(there) else { return false };
        let ask = format!("GET {query} HTTP/1.0\r\nHost: {listens}\r\n\r\n");
        let mut answer = String::new();
        stream.write_all(ask.as_bytes()).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.contains("\"direction\":\"from_guest\"")
    });
    prometheus.kill().unwrap();
    prometheus.wait().unwrap();
}
