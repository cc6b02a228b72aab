//! The command line of mvirt: flags to requests, answers to tables or JSON, errors to exit codes.
//!
//! 0: done. 1: the server refused or could not be reached, or a VMM could not be started. 2: wrong usage.

mod connect;
mod network;
mod nic;
mod output;
mod probe;
mod rate;
mod reactor;
mod vm;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use mvirt_net::config::DEFAULT_LISTEN;
use std::{io::Write as _, process::ExitCode};

/// Networks for virtual machines: the command line of mvirt-net.
#[derive(Debug, Parser)]
#[command(name = "mvirt", version)]
struct Cli {
    /// Address of mvirt-net: http://HOST:PORT, https://HOST:PORT or unix:/path
    #[arg(long, global = true, value_name = "ADDR", env = "MVIRT_NET_SERVER", default_value_t = format!("http://{DEFAULT_LISTEN}"))]
    net_server: String,

    #[command(flatten)]
    tls: connect::Tls,

    /// What is printed to stdout
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "table")]
    output: Format,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// The API's objects
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create, show, change and delete networks
    #[command(subcommand)]
    Network(network::Command),
    /// Create, show, change and delete vNICs
    #[command(subcommand)]
    Nic(nic::Command),
    /// Run virtual machines on vNICs
    #[command(subcommand)]
    Vm(vm::Command),
    /// Be a guest on a vNIC, to try a network without a VM
    Probe(probe::Command),
    /// Show the daemon's data-plane threads
    #[command(subcommand)]
    Reactor(reactor::Command),
    /// Print the versions of the server and of this program
    Version,
    /// Print a completion script for a shell
    Completions {
        /// Which
        shell: clap_complete::Shell,
    },
}

/// Why a command failed, in words for a person.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(
        "cannot reach mvirt-net at {address}: {reason}\n  Is it running? Start it with `mvirt-net`, or name another with --net-server or MVIRT_NET_SERVER."
    )]
    Unreachable { address: String, reason: String },
    #[error("{flag} {}: {source}", path.display())]
    Tls { flag: &'static str, path: std::path::PathBuf, source: std::io::Error },
    #[error("refused ({}): {}", code_name(.0.code()), .0.message())]
    Refused(#[from] tonic::Status),
    #[error("cannot run {program}: {source}\n  Is it installed?")]
    Vmm { program: String, source: std::io::Error },
    #[error("{0}")]
    Probe(String),
    #[error("cannot write the answer: {0}")]
    Output(#[from] std::io::Error),
}

/// As gRPC spells it: INVALID_ARGUMENT.
fn code_name(code: tonic::Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has seen enough, like head(1).
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("mvirt: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let mut out = output::Output::new(cli.output == Format::Json);
    if let Command::Completions { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "mvirt", &mut script);
        return Ok(std::io::stdout().write_all(&script)?);
    }
    let mut client = connect::connect(&cli.net_server, &cli.tls).await?;
    match cli.command {
        Command::Network(command) => network::run(command, &mut client, &mut out).await,
        Command::Nic(command) => nic::run(command, &mut client, &mut out).await,
        Command::Vm(command) => vm::run(command, &mut client).await,
        Command::Probe(command) => probe::run(command, &mut client, &mut out).await,
        Command::Reactor(command) => reactor::run(command, &mut client, &mut out).await,
        Command::Version => {
            let server =
                client.get_version(mvirt_net::proto::GetVersionRequest {}).await?.into_inner();
            let rows =
                [("server", server.version.clone()), ("mvirt", env!("CARGO_PKG_VERSION").into())];
            out.object(&server, &rows)
        }
        Command::Completions { .. } => Ok(()),
    }
}
