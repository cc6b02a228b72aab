//! `mvirt-egress`: what vNICs of public networks say to the world, said by sockets of this host.
//!
//! ```text
//! standard input  ◀─ packets ─▶ engine ◀─▶ connections, datagrams ◀─▶ sockets
//! standard output ◀─ control ──────┘
//! ```
//! mvirt-net starts it, one for all networks: a process of its own, since it takes apart what
//! guests send. Its two sockets are where any process has
//! its first two descriptors: no other can be given without a fork of the daemon. Exit codes: 0 the
//! daemon has closed the second, 1 cannot start or go on, 2 wrong usage.

mod connections;
mod control;
mod datagrams;
mod engine;
mod forwards;
mod sandbox;
mod timers;
mod world;

use clap::{CommandFactory as _, Parser};
use control::Control;
use engine::Engine;
use mvirt_net::{
    egress::protocol::{Addition, Failure, Report},
    manual::Generated,
    printable::printable_lines,
};
use rustix::{
    net::{SocketType, ipproto, sockopt},
    process::{Resource, getrlimit, setrlimit},
};
use std::{
    error::Error,
    io::{self, Write as _},
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
};
use world::{World, socket};

const NOT_GIVEN: &str = "mvirt-net starts this, with its sockets as standard input and output";
/// Octets on their way to the daemon: as many as an administrator allows (net.core.wmem_max).
const BUFFER: usize = 4 << 20;

/// Carries what guests of public networks send out of this host, by sockets.
///
/// Not for people: mvirt-net starts it, with a socket for packets as standard input and one for its
/// orders as standard output, and it ends when the second one is closed.
#[derive(Debug, Parser)]
#[command(name = "mvirt-egress", version)]
struct Flags {
    /// Print the manual page or the completions of a shell, and end
    #[arg(long, value_name = "WHAT", hide = true)]
    generate: Option<Generated>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if let Some(asked) = flags.generate {
        return asked.print(env!("CARGO_BIN_NAME"), Flags::command());
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody reads it where this fails.
            writeln!(io::stderr(), "mvirt-egress: {}", printable_lines(&error.to_string())).ok();
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let packets = given(io::stdin())?;
    let control = given(io::stdout())?;
    let mut control = Control::new(control);
    let outcome = serve(packets, &mut control);
    if let Err(error) = &outcome {
        control.send(&Report::Failed(Failure::Helper { error: error.to_string() }));
    }
    outcome
}

fn serve(packets: OwnedFd, control: &mut Control) -> Result<(), Box<dyn Error>> {
    let Some(configuration) = control.configuration()? else { return Ok(()) };
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    sockopt::set_socket_send_buffer_size(&packets, BUFFER)?;
    let echo = socket(Ipv4Addr::LOCALHOST.into(), SocketType::DGRAM, Some(ipproto::ICMP)).is_ok();
    let world = World::new(&configuration, packets)?;
    sandbox::enter()?;
    let segment = configuration.segment.iter().map(|segment| segment.nic());
    let nics = configuration.nics.into_iter().chain(segment).collect();
    let flows = world.most_flows();
    let first = Addition { nics, forwards: configuration.forwards, deny: Vec::new() };
    let mut engine = Engine::new(world, control, first)?;
    engine.report(&Report::Ready { ready: true, echo, flows });
    Ok(engine.run()?)
}

/// Returns a socket that this process was started with.
fn given(stream: impl AsFd) -> Result<OwnedFd, Box<dyn Error>> {
    // What a shell has there is no daemon's.
    sockopt::socket_type(&stream).map_err(|_| NOT_GIVEN)?;
    Ok(stream.as_fd().try_clone_to_owned()?)
}
