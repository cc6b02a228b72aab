//! The command line of mvirt: flags to requests, answers to tables or documents, errors to exit
//! codes.
//!
//! 0: done. 1: the server refused or could not be reached, or a VMM could not be started. 2: wrong
//! usage. `yard` and `doctor` have a 3 of their own.

mod capture;
mod complete;
mod connect;
mod delete;
mod described;
mod doctor;
mod drops;
mod egress;
mod events;
mod extcap;
mod failure;
mod filter;
mod floating_ip;
mod forward;
mod impair;
mod l2;
mod lease;
mod load_balancer;
mod mac;
mod mask;
mod network;
mod nic;
mod output;
mod plug;
mod port;
mod probe;
mod rate;
mod reactor;
mod stats;
mod top;
mod trace;
mod units;
mod vm;
mod wait;
mod watch;
mod yard;

use clap::{
    CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};
use clap_complete::env::{CompleteEnv, Shells};
use failure::Failure;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  mvirt network create prod --ipv4-subnet 10.0.0.0/24
  mvirt nic create prod --name vm1
  mvirt nic vmm-args vm1 --vmm qemu
  mvirt probe vm1 lease
  source <(mvirt completions bash)

More: man mvirt-nic-create, and a page for each other command; man 8 mvirt-net; what an operator
needs, in share/doc/mvirt-net of /usr or /usr/local";

/// Networks for virtual machines: the command line of mvirt-net.
#[derive(Debug, Parser)]
#[command(name = "mvirt", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    output: output::Output,

    #[command(flatten)]
    connection: connect::Flags,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create, show, change and delete networks
    #[command(subcommand, visible_alias = "net")]
    Network(network::Command),
    /// Create, show, change and delete vNICs
    #[command(subcommand)]
    Nic(nic::Command),
    /// Create, show, change and delete ports of switched networks: other ways in than vNICs
    #[command(subcommand)]
    Port(port::Command),
    /// Show which addresses guests have taken
    #[command(subcommand)]
    Lease(lease::Command),
    /// Show which MACs a switched network knows, and where
    #[command(subcommand)]
    Mac(mac::Command),
    /// Run virtual machines on vNICs
    #[command(subcommand)]
    Vm(vm::Command),
    /// Be a guest on a vNIC, to try a network without a VM
    Probe(probe::Command),
    /// Look for what is wrong with this host, the daemon and a vNIC, and say what to do
    Doctor(doctor::Command),
    /// Show how public networks reach what is outside, and what has gone there
    Egress,
    /// Give ports of the host's side to vNICs of public networks
    #[command(subcommand)]
    Forward(forward::Command),
    /// Give addresses of the world to vNICs of public networks
    #[command(subcommand)]
    FloatingIp(floating_ip::Command),
    /// Spread flows that come to an address over vNICs of public networks
    #[command(subcommand, visible_alias = "lb")]
    LoadBalancer(load_balancer::Command),
    Trace(trace::Command),
    /// Show the daemon's data-plane threads
    #[command(subcommand)]
    Reactor(reactor::Command),
    /// Show frames of vNICs and ports, and what becomes of each, or write them to a file
    Capture(capture::Flags),
    /// Be a plug-in of Wireshark, which has vNICs as interfaces
    #[command(hide = true)]
    Extcap(extcap::Flags),
    /// Join two networks, as vde_plug does
    Plug(plug::Command),
    /// Be a program on a Switchyard fabric
    #[command(subcommand)]
    Yard(yard::Command),
    /// Watch what networks, vNICs and reactors carry, and what is dropped
    Top(top::Flags),
    /// Print what happens, until Ctrl-C
    Watch(events::Watch),
    /// Print the versions of this program and of the server
    Version,
    /// Print a completion script for a shell
    #[command(after_help = "Examples:\n  \
        source <(mvirt completions bash)        # in ~/.bashrc\n  \
        mvirt completions fish | source         # in config.fish")]
    Completions {
        /// Which
        shell: clap_complete::Shell,
    },
    /// Write the manual, a page a command, into a folder
    Man {
        /// Like /usr/local/share/man/man1
        #[arg(value_hint = clap::ValueHint::DirPath)]
        folder: std::path::PathBuf,
    },
}

fn main() -> ExitCode {
    // Before anything is parsed: a shell asks with half a line.
    CompleteEnv::with_factory(Cli::command).complete();
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&without_nonsense(error)),
    };
    let output = cli.output.clone();
    output.set_colors();
    // Of a command whose status is an answer, 1 is one.
    let answers = matches!(&cli.command, Command::Trace(trace) if !trace.drops);
    // One thread: one request at a time.
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Output)
        .and_then(|runtime| runtime.block_on(run(cli)));
    match ended {
        Err(Failure::Dropped) => ExitCode::FAILURE,
        Err(failure) if !failure.is_broken_pipe() => {
            output.failure(&failure);
            if answers && failure.is_unreachable() {
                ExitCode::from(3)
            } else {
                failure.exit_code()
            }
        }
        // Also where the pipe is broken: `mvirt … | head` is no failure.
        _ => ExitCode::SUCCESS,
    }
}

fn parse() -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(plug::arguments())?;
    let (mut last, mut words) = (&matches, vec!["mvirt"]);
    while let Some((word, next)) = last.subcommand() {
        words.push(word);
        last = next;
    }
    // What it prints are lines as they come.
    if last.try_get_one("follow").is_ok_and(|it| it == Some(&true)) {
        words.push("--follow");
    }
    // Before anything is done: other commands would do it, and print what was not asked for.
    let has_table = words.ends_with(&["yard", "stats"])
        || matches!(words.last(), Some(&("list" | "kinds" | "trace")));
    let is_chosen = last.try_contains_id("columns").is_ok_and(|is_there| is_there);
    if is_chosen && !has_table {
        let text = format!("--columns: {}: expected a command that lists", words.join(" "));
        return Err(command.error(ErrorKind::ArgumentConflict, text));
    }
    Cli::from_arg_matches(&matches)
}

/// Says what is wrong with the command line; what was asked for, as by --help, goes to the standard
/// output.
fn refuse(error: &clap::Error) -> ExitCode {
    let text = error.to_string();
    let told = Failure::Usage(text.trim_start_matches("error: ").trim_end().into());
    // From the words themselves: where parsing fails, clap has no flags to read.
    let format = output::Format::asked_for(std::env::args_os()).filter(|_| error.use_stderr());
    match format.and_then(|format| format.failure(&told)) {
        Some(document) => output::say(&document),
        // Nobody reads it where this fails.
        None => drop(error.print()),
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// An error without the tip to give an unknown flag as a name: no object has a name that begins so.
fn without_nonsense(mut error: clap::Error) -> clap::Error {
    let tips = error.get(ContextKind::Suggested);
    let nonsense = |tip: &clap::builder::StyledStr| tip.to_string().contains("as a value, use");
    let is_nonsense =
        matches!(tips, Some(ContextValue::StyledStrs(tips)) if tips.iter().any(nonsense));
    if error.kind() == ErrorKind::UnknownArgument && is_nonsense {
        error.remove(ContextKind::Suggested);
    }
    error
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let out = cli.output;
    // These need no server, and work before there is one.
    let command = match cli.command {
        Command::Yard(command) => return yard::run(command, &out).await,
        Command::Plug(command) => return plug::run(command).await,
        Command::Extcap(flags) => {
            return extcap::run(flags, &cli.connection.connection()?, &out).await;
        }
        other => other,
    };
    match &command {
        Command::Completions { shell } => return completions(*shell),
        Command::Man { folder } => return man(folder),
        Command::Port(port::Command::Kinds) => return port::kinds(&out),
        _ => {}
    }
    let connection = cli.connection.connection()?;
    let command = match command {
        // What it says of a daemon that cannot be reached is a check among others.
        Command::Doctor(command) => return doctor::run(command, &connection, &out).await,
        other => other,
    };
    let connected = connection.connect().await;
    let mut client = match (connected, &command) {
        (Ok(client), _) => client,
        (Err(failure), command) => {
            // Its own version it knows anyway, which is what one asks for where nothing works.
            if matches!(command, Command::Version) && !out.is_document() {
                out.object(&(), "mvirt", &[("mvirt", env!("CARGO_PKG_VERSION").into())])?;
            }
            return Err(failure);
        }
    };
    let ended = match command {
        Command::Network(command) => network::run(command, &mut client, &out).await,
        Command::Nic(command) => nic::run(command, &mut client, &out, &connection).await,
        Command::Port(command) => port::run(command, &mut client, &out, &connection).await,
        Command::Lease(command) => lease::run(command, &mut client, &out).await,
        Command::Mac(command) => mac::run(command, &mut client, &out).await,
        Command::Vm(command) => vm::run(command, &mut client).await,
        Command::Probe(command) => probe::run(command, &mut client, &out).await,
        Command::Egress => egress::run(&mut client, &out).await,
        Command::Forward(command) => forward::run(command, &mut client, &out).await,
        Command::FloatingIp(command) => floating_ip::run(command, &mut client, &out).await,
        Command::LoadBalancer(command) => {
            load_balancer::run(command, &mut client, &out, &connection).await
        }
        Command::Trace(command) => trace::run(command, &mut client, &out).await,
        Command::Reactor(command) => reactor::run(command, &mut client, &out).await,
        Command::Capture(flags) => capture::run(flags, &mut client, &out).await,
        Command::Top(flags) => top::run(flags, client, (&connection, &out)).await,
        Command::Watch(command) => command.run(&mut client, &out).await,
        Command::Version => version(&mut client, &out).await,
        Command::Completions { .. }
        | Command::Man { .. }
        | Command::Yard(_)
        | Command::Plug(_)
        | Command::Extcap(_)
        | Command::Doctor(_) => Ok(()),
    };
    ended.map_err(|failure| connection.explain(failure))
}

async fn version(client: &mut connect::Client, out: &output::Output) -> Result<(), Failure> {
    let request = mvirt_net::proto::GetVersionRequest::default();
    let server = client.get_version(request).await?.into_inner();
    let own = env!("CARGO_PKG_VERSION");
    let mut rows = vec![("mvirt", own.into()), ("mvirt-net", server.version.as_str().into())];
    rows.extend(server.degraded.iter().map(|ailment| ("degraded", ailment.as_str().into())));
    out.object(&server, own, &rows)
}

/// Writes a page a command into a folder, which is made if need be.
fn man(folder: &std::path::Path) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    written.map_err(|error| Failure::Stopped(format!("{}: {error}", folder.display())))
}

/// Prints a script that asks this program at each TAB, which knows what names there are.
fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let name = shell.to_string();
    let shells = Shells::builtins();
    let known =
        shells.completer(&name).ok_or_else(|| Failure::Usage(format!("{name}: unknown")))?;
    let mut script = Vec::new();
    known.write_registration("COMPLETE", "mvirt", "mvirt", "mvirt", &mut script)?;
    output::print(&String::from_utf8_lossy(&script))
}
