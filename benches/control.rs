//! Many vNICs: how fast they are created over gRPC, what one costs in memory while nobody is
//! connected, and how soon all sockets listen again after the daemon was killed.
//! `cargo bench --bench control [-- VNICS [NETWORKS]]`
//!
//! With another binary of the daemon, the rates of both, which take turns:
//! `cargo bench --bench control -- --beside OLD`
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "it is what a benchmark is for")]

use hyper_util::rt::TokioIo;
use mvirt_net::proto::{
    CreateNetworkRequest, CreateNicRequest, net_service_client::NetServiceClient,
};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

/// Requests that wait for their answers at a time, where several do.
const AT_ONCE: usize = 64;

/// How often each of two binaries has its turn.
const ROUNDS: usize = 7;
/// vNICs that are created in a turn, one after another and together.
const TURN: [(usize, usize); 2] = [(1, 200), (AT_ONCE, 1000)];

type Client = NetServiceClient<Channel>;

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--beside");
    if let Some(other) = arguments.nth(1) {
        return beside(Path::new(&other));
    }
    let numbers: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let (nics, networks) = match numbers[..] {
        [] => (10_000, 1),
        [nics] => (nics, 1),
        [nics, networks, ..] => (nics, networks),
    };
    // On a disk, where $TMPDIR may be memory.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ours = Path::new(env!("CARGO_BIN_EXE_mvirt-net"));
    let metrics = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).unwrap();
    let mut command = daemon(ours, directory.path());
    command.args(["--metrics", &metrics.to_string(), "--metrics-per-nic", "all"]);
    let mut daemon = command.spawn().unwrap();
    let sockets = runtime.block_on(async {
        let client = connect(directory.path()).await;
        create_networks(&client, networks).await;
        let empty = resident(&daemon);
        let begun = Instant::now();
        let mut sockets = create(&client, 0..nics / 2, networks, 1).await;
        report(
            "created one after another",
            (nics / 2) as f64 / begun.elapsed().as_secs_f64(),
            "/s",
        );
        let begun = Instant::now();
        sockets.extend(create(&client, nics / 2..nics, networks, AT_ONCE).await);
        let rate = (nics - nics / 2) as f64 / begun.elapsed().as_secs_f64();
        report("created, 64 requests at a time", rate, "/s");
        // Before pages of counters are made, of which the allocator keeps what they took.
        report("memory", (resident(&daemon) - empty) as f64 / nics as f64 / 1024.0, "KiB a vNIC");
        scrape(metrics);
        sockets
    });
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let begun = Instant::now();
    let mut daemon = start(ours, directory.path());
    for socket in &sockets {
        while UnixStream::connect(socket).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{} does not listen",
                socket.display()
            );
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
    report("killed and started: all sockets listen", begun.elapsed().as_secs_f64(), "s");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

/// What Prometheus asks for, several times.
fn scrape(at: SocketAddr) {
    let mut times = Vec::new();
    let mut answer = String::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(at).unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        answer.clear();
        stream.read_to_string(&mut answer).unwrap();
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:.200}");
    times.sort_by(f64::total_cmp);
    let series = answer.lines().filter(|line| line.starts_with("mvirt_")).count();
    report("scraped, median", times[ROUNDS / 2], "ms");
    report("scraped, most", times[ROUNDS - 1], "ms");
    report("series", series as f64, "");
}

fn report(what: &str, value: f64, unit: &str) {
    println!("{what:40} {value:10.2} {unit}");
}

/// Rates of this binary and another one, in turns.
fn beside(other: &Path) {
    let ours = Path::new(env!("CARGO_BIN_EXE_mvirt-net"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut rates = <[[Vec<f64>; 2]; 2]>::default();
    for _ in 0..ROUNDS {
        for (rates, binary) in rates.iter_mut().zip([ours, other]) {
            let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let mut daemon = start(binary, directory.path());
            runtime.block_on(async {
                let client = connect(directory.path()).await;
                create_networks(&client, 1).await;
                let mut first = 0;
                for (rates, (at_once, nics)) in rates.iter_mut().zip(TURN) {
                    let begun = Instant::now();
                    create(&client, first..first + nics, 1, at_once).await;
                    rates.push(nics as f64 / begun.elapsed().as_secs_f64());
                    first += nics;
                }
            });
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }
    for (rates, name) in rates.iter_mut().zip(["this one", "the other"]) {
        for (rates, (at_once, _)) in rates.iter_mut().zip(TURN) {
            rates.sort_by(f64::total_cmp);
            let (least, median, most) = (rates[0], rates[ROUNDS / 2], rates[ROUNDS - 1]);
            println!("{name}, {at_once} at a time: {median:.0} ({least:.0}..{most:.0}) /s");
        }
    }
}

fn start(binary: &Path, directory: &Path) -> Child {
    daemon(binary, directory).spawn().unwrap()
}

fn daemon(binary: &Path, directory: &Path) -> Command {
    let mut command = Command::new(binary);
    command.arg("--listen").arg(format!("unix:{}", directory.join("api").display()));
    command.arg("--socket-dir").arg(directory.join("s"));
    command.arg("--metadata-dir").arg(directory.join("m"));
    command.env("RUST_LOG", "warn").stdin(Stdio::null());
    command
}

async fn connect(directory: &Path) -> Client {
    let path = directory.join("api");
    while UnixStream::connect(&path).is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://daemon").connect_with_connector(connector).await;
    Client::new(channel.unwrap())
}

async fn create_networks(client: &Client, networks: usize) {
    for network in 0..networks {
        let request = CreateNetworkRequest {
            name: format!("network{network}"),
            ipv4_subnet: "10.0.0.0/8".into(),
            ipv6_prefix: "fd00::/64".into(),
            ..Default::default()
        };
        client.clone().create_network(request).await.unwrap();
    }
}

/// Creates vNICs with these numbers, so many `at_once`. Gives their sockets.
async fn create(
    client: &Client,
    numbers: std::ops::Range<usize>,
    networks: usize,
    at_once: usize,
) -> Vec<PathBuf> {
    let mut sockets = Vec::new();
    let mut waiting = JoinSet::new();
    for number in numbers {
        if waiting.len() == at_once {
            sockets.push(waiting.join_next().await.unwrap().unwrap());
        }
        let mut client = client.clone();
        let request = CreateNicRequest {
            network_id: format!("network{}", number % networks),
            name: format!("nic{number}"),
            ..Default::default()
        };
        waiting.spawn(async move {
            let nic = client.create_nic(request).await.unwrap().into_inner();
            PathBuf::from(nic.socket_path)
        });
    }
    sockets.extend(waiting.join_all().await);
    sockets
}

/// Octets of memory that a process holds.
fn resident(process: &Child) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}
