//! A Switchyard fabric as a program of its own: flags to a fabric, errors to exit codes (1: cannot
//! start, 2: bad flag).

use clap::Parser;
use mvirt_net::{
    config::LogFormat,
    log,
    log_writer::LogWriter,
    switchyard::{
        fabric::{Fabric, Lifetime, Rules, Senders},
        protocol::DEFAULT_ADDRESS,
        server,
    },
};
use std::{
    io::{self, Write as _},
    net::SocketAddr,
    process::ExitCode,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

const EXAMPLES: &str = "\
Examples, each in a terminal of its own:
  mvirt-switchyardd
  mvirt yard echo
  mvirt yard ping";

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
    /// Keep endpoints when their clients disconnect; their names are then taken until the end
    #[arg(long)]
    keep_endpoints: bool,
    /// Let any client send as any endpoint
    #[arg(long)]
    any_sender: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    match LogWriter::start(io::stderr()) {
        Ok(mut writer) => {
            log::start(LogFormat::Text, writer.clone());
            let ended = run(&flags);
            if let Err(error) = &ended {
                // The writer takes everything, or counts what it loses.
                writeln!(writer, "mvirt-switchyardd: {error}").ok();
            }
            // The last line must not be lost with the thread that writes it.
            writer.flush(Duration::from_millis(200));
            if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
    #[error("{0}")]
    System(#[from] io::Error),
}

fn run(flags: &Flags) -> Result<(), StartError> {
    // One thread: the fabric is one task, and those of its clients only copy.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(flags))
}

async fn serve(flags: &Flags) -> Result<(), StartError> {
    let address = flags.listen;
    // Before anybody is told that it serves: from then on it ends in order.
    let (mut ended, mut interrupted) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener = TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => StartError::InUse(address),
        _ => StartError::Listen(address, error),
    })?;
    if !address.ip().is_loopback() {
        tracing::warn!("--listen {address}: no loopback; whoever reaches it can send and hear");
    }
    let rules = Rules {
        lifetime: if flags.keep_endpoints { Lifetime::Fabric } else { Lifetime::Owner },
        senders: if flags.any_sender { Senders::Anyone } else { Senders::Owner },
    };
    // As the seed's program says it; scripts wait for this line.
    let mut out = io::stdout();
    writeln!(out, "[switchyardd] listening on {}", listener.local_addr()?)?;
    out.flush()?;
    server::serve(listener, Fabric::new(rules), async {
        tokio::select! {
            _ = ended.recv() => {}
            _ = interrupted.recv() => {}
        }
    })
    .await;
    Ok(())
}
