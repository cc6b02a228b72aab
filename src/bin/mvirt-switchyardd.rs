//! A Switchyard fabric as a program of its own: flags to a fabric, errors to exit codes (1: cannot
//! start, 2: bad flag).

use clap::{CommandFactory as _, Parser};
use mvirt_net::{
    config::{LogFormat, default_server},
    impair::Spec,
    log,
    log_writer::LogWriter,
    manual::Generated,
    printable::printable_lines,
    proto::{CreatePortRequest, DeletePortRequest, net_service_client::NetServiceClient},
    switchyard::{
        fabric::{Fabric, Lifetime, Senders, Settings},
        filter::{BadFilter, Filter},
        protocol::DEFAULT_ADDRESS,
        server::{Clock, MAX_CLIENTS, Server},
    },
};
use std::{
    fs,
    hash::{BuildHasher as _, RandomState},
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

const EXAMPLES: &str = "\
Examples, each in a terminal of its own:
  mvirt-switchyardd
  mvirt yard echo
  mvirt yard ping

Exit codes: 0 ended, 1 cannot start or go on, 2 wrong usage or a bad --filter";

/// A small switch for programs: they send and hear raw Ethernet frames over TCP (Switchyard's
/// fabric protocol, version 1).
#[derive(Debug, Parser)]
#[command(name = "mvirt-switchyardd", version, after_help = EXAMPLES)]
struct Flags {
    /// Where to listen. There is no authentication: who can connect can send
    #[arg(
        long,
        value_name = "ADDR:PORT",
        default_value = DEFAULT_ADDRESS,
        env = "SWITCHYARD_LISTEN"
    )]
    listen: SocketAddr,
    /// Be a port of a switched network of mvirt-net's (at MVIRT_NET_SERVER): its members and the
    /// clients reach each other
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with_all =
            ["keep_endpoints", "any_sender", "impair", "seed", "capture_ring", "filter"]
    )]
    network: Option<String>,
    /// Keep endpoints when their clients disconnect; their names then stay taken
    #[arg(long)]
    keep_endpoints: bool,
    /// Let any client send as any endpoint
    #[arg(long)]
    any_sender: bool,
    /// Make the line of every endpoint a bad one, like loss=2%,delay=20ms,jitter=5ms
    #[arg(long, value_name = "SPEC")]
    impair: Option<Spec>,
    /// Number that chance begins with, so that --impair does the same again [default: another
    /// each time, which the log tells]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Do the same for the same messages: time goes on with frames alone; with --seed
    #[arg(long, requires = "seed")]
    deterministic: bool,
    /// Keep the last frames, up to so many megabytes, for `mvirt yard capture`
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u16).range(1..=16_384))]
    capture_ring: Option<u16>,
    /// Rules for what endpoints may send, as TOML (docs/switchyard.md)
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    filter: Option<PathBuf>,
    /// Print what `make install` installs beside this program
    #[arg(long, hide = true, value_name = "WHAT")]
    generate: Option<Generated>,
}

impl Flags {
    fn clock(&self) -> Clock {
        if self.deterministic { Clock::driven() } else { Clock::real() }
    }

    fn settings(&self) -> Result<Settings, StartError> {
        let seed = self.seed.unwrap_or_else(|| {
            // Of the standard library's keys, which are random.
            let seed = RandomState::new().hash_one(std::process::id());
            if self.impair.is_some() {
                tracing::info!("chance comes from --seed {seed}");
            }
            seed
        });
        let filter = match &self.filter {
            None => Filter::default(),
            Some(path) => {
                let name = path.display().to_string();
                match fs::read_to_string(path).map(|text| Filter::from_toml(&text)) {
                    Ok(Ok(filter)) => filter,
                    Ok(Err(error)) => return Err(StartError::BadFilter(name, error)),
                    Err(error) => return Err(StartError::NoFilter(name, error)),
                }
            }
        };
        // The times of a virtual clock are the same each time, too.
        let epoch = if self.deterministic {
            Duration::ZERO
        } else {
            SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
        };
        Ok(Settings {
            lifetime: if self.keep_endpoints { Lifetime::Fabric } else { Lifetime::Owner },
            senders: if self.any_sender { Senders::Anyone } else { Senders::Owner },
            seed,
            impair: self.impair,
            filter,
            capture_ring: usize::from(self.capture_ring.unwrap_or_default()) << 20,
            epoch,
            // From 02:53:59:00:00:01 on, as the seed's program does.
            macs_after: 0,
        })
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if let Some(asked) = flags.generate {
        return asked.print(env!("CARGO_BIN_NAME"), Flags::command());
    }
    match LogWriter::start(io::stderr()) {
        Ok(mut writer) => {
            log::start(LogFormat::Text, writer.clone());
            let ended = run(&flags);
            if let Err(error) = &ended {
                // The writer takes everything, or counts what it loses.
                let why = printable_lines(&error.to_string());
                writeln!(writer, "mvirt-switchyardd: {why}").ok();
            }
            // The last line must not be lost with the thread that writes it.
            writer.flush(Duration::from_millis(200));
            match ended {
                Ok(()) => ExitCode::SUCCESS,
                Err(StartError::NoFilter(..) | StartError::BadFilter(..)) => ExitCode::from(2),
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            // Nobody reads it where this fails.
            writeln!(io::stderr(), "mvirt-switchyardd: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

/// Why there is no fabric.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(
        "--listen {0} (SWITCHYARD_LISTEN): in use, by another switchyardd or by a vswitch, whose \
         port is 9999 too; give another, and clients the same with --server"
    )]
    InUse(SocketAddr),
    #[error("--listen {0} (SWITCHYARD_LISTEN): {1}")]
    Listen(SocketAddr, io::Error),
    #[error("--filter {0}: {1}")]
    NoFilter(String, io::Error),
    #[error("--filter {0}: {1}")]
    BadFilter(String, BadFilter),
    #[error("--network {0}: cannot reach mvirt-net at {1} (MVIRT_NET_SERVER): {2}: is it running?")]
    NoDaemon(String, String, tonic::transport::Error),
    #[error("--network {0}: {1}")]
    Network(String, String),
    #[error("{0}")]
    System(#[from] io::Error),
}

fn run(flags: &Flags) -> Result<(), StartError> {
    // One thread: the fabric is one task, and those of its clients only copy.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(flags))
}

async fn serve(flags: &Flags) -> Result<(), StartError> {
    // Before anybody is told that it serves: from then on it ends in order.
    let (mut ended, mut interrupted) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let end = async {
        tokio::select! {
            _ = ended.recv() => {}
            _ = interrupted.recv() => {}
        }
    };
    let address = flags.listen;
    if !address.ip().is_loopback() {
        tracing::warn!("--listen {address}: no loopback; whoever reaches it can send and hear");
    }
    if let Some(network) = &flags.network {
        return join(network, address, end).await;
    }
    let settings = flags.settings()?;
    let listener = TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => StartError::InUse(address),
        _ => StartError::Listen(address, error),
    })?;
    tell(listener.local_addr()?)?;
    let server = Server::new(Fabric::new(settings), flags.clock(), MAX_CLIENTS);
    Ok(server.serve(listener, end).await?)
}

/// As the seed's program says it; scripts wait for this line.
fn tell(address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "[switchyardd] listening on {address}")?;
    out.flush()
}

/// Lets mvirt-net serve the fabric, as a port of one of its networks, until `end`.
async fn join(
    network: &str,
    address: SocketAddr,
    end: impl Future<Output = ()>,
) -> Result<(), StartError> {
    let given = std::env::var("MVIRT_NET_SERVER").ok().filter(|given| !given.is_empty());
    let daemon = given.unwrap_or_else(default_server);
    let has_scheme = daemon.contains("://") || daemon.starts_with("unix:");
    let uri = if has_scheme { daemon.clone() } else { format!("http://{daemon}") };
    let mut client = NetServiceClient::connect(uri)
        .await
        .map_err(|error| StartError::NoDaemon(network.into(), daemon, error))?;
    let refused =
        |status: tonic::Status| StartError::Network(network.into(), status.message().into());
    // Beyond loopback it was asked for by --listen.
    let insecure = if address.ip().is_loopback() { "" } else { "/insecure" };
    let request = CreatePortRequest {
        network_id: network.into(),
        locator: format!("switchyard-listen://{address}{insecure}"),
        description: "mvirt-switchyardd".into(),
        ..Default::default()
    };
    let port = client.create_port(request).await.map_err(refused)?.into_inner();
    tell(address)?;
    end.await;
    let request = DeletePortRequest { id: port.id, ..Default::default() };
    client.delete_port(request).await.map_err(refused).map(|_| ())
}
