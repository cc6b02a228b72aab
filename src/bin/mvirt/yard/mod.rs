//! `mvirt yard …`: programs on a Switchyard fabric. They need no daemon, but a fabric.
//!
//! ```text
//! mod: commands, the way to a fabric ── echo, ping, arp, ntp, sniff … ── packet, pcapng: frames
//! ```
//! Exit codes: 0 done or answered; 1 no name, no ARP, no answer, or the fabric has gone; 2 wrong
//! usage; 3 the fabric cannot be reached.

mod arp;
mod control;
mod echo;
mod ntp;
mod packet;
mod pcapng;
mod ping;
mod replay;
mod sniff;

use super::{Failure, output, units};
use clap::{Args, Subcommand};
use mvirt_net::switchyard::{
    Client,
    body::{EndpointInfo, Hello},
    client::{ClientError, Frames, Heard},
    protocol::DEFAULT_ADDRESS,
};
use packet::Host;
use std::{net::Ipv4Addr, time::Duration};

const EXAMPLES: &str = "\
Examples, each in a terminal of its own:
  mvirt-switchyardd
  mvirt yard echo
  PING_MSG=hello mvirt yard ping";

/// How long a fabric may take to say welcome.
const WELCOME_TIME: Duration = Duration::from_secs(5);

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum Command {
    /// Send back what comes by UDP
    Echo(echo::Flags),
    /// Send a message by UDP, from PING_MSG or `marco polo`, and wait until it comes back
    Ping(ping::Flags),
    /// Answer ARP for the addresses of a table
    Arp(arp::Flags),
    /// Answer NTP with this host's time
    Ntp(ntp::Flags),
    /// Print every frame of the fabric, a line each, or write it to a file
    Sniff(sniff::Flags),
    /// Send the frames of a capture
    Replay(replay::Flags),
    /// Write the frames that the fabric has kept to a file
    Capture(control::CaptureFlags),
    /// Make the lines of an endpoint bad ones
    Impair(Box<control::ImpairFlags>),
    /// Put rules for what endpoints may send in force
    Filter(control::FilterFlags),
    /// Print what has been counted at each endpoint
    Stats(control::StatsFlags),
}

/// Where the fabric is.
#[derive(Debug, Clone, Args)]
struct Fabric {
    /// The fabric's address: HOST:PORT [env: SWITCHYARD_SERVER] [default: 127.0.0.1:9999]
    #[arg(long, value_name = "HOST:PORT", help_heading = "Fabric")]
    server: Option<String>,
}

/// What most programs are on a fabric: an endpoint that hears.
struct Member {
    client: Client,
    frames: Frames,
    endpoint: EndpointInfo,
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Unreachable { .. } => Self::Fabric(error.to_string()),
            other => Self::Stopped(other.to_string()),
        }
    }
}

impl Fabric {
    fn address(&self) -> String {
        // Empty is as good as absent.
        let variable = || std::env::var("SWITCHYARD_SERVER").ok().filter(|text| !text.is_empty());
        self.server.clone().or_else(variable).unwrap_or_else(|| DEFAULT_ADDRESS.into())
    }

    async fn connect(&self, name: &str) -> Result<(Client, Frames), Failure> {
        self.hello(&Hello { client_name: name.into(), ..Hello::default() }).await
    }

    async fn hello(&self, hello: &Hello) -> Result<(Client, Frames), Failure> {
        let address = self.address();
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none() {
            let expected = "expected HOST:PORT, like 127.0.0.1:9999";
            return Err(Failure::Usage(format!("--server {address}: {expected}")));
        }
        let connecting = Client::connect(&address, hello);
        let late = |_| {
            let silent = "it accepts, and says no welcome: another program has this port";
            Failure::Fabric(format!("no fabric at {address}: {silent}"))
        };
        Ok(tokio::time::timeout(WELCOME_TIME, connecting).await.map_err(late)??)
    }

    /// Connects, and makes an endpoint that hears what is for it, or with `flags` more.
    async fn join(&self, name: &str, flags: u32) -> Result<Member, Failure> {
        let (client, frames) = self.connect(name).await?;
        let endpoint = client.create_endpoint(name, None).await?;
        client.subscribe(endpoint.endpoint_id, flags).await?;
        Ok(Member { client, frames, endpoint })
    }
}

impl Member {
    fn host(&self, address: Ipv4Addr) -> Host {
        Host { mac: self.endpoint.mac, address }
    }

    async fn send(&self, frame: &[u8]) -> Result<(), Failure> {
        Ok(self.client.send(self.endpoint.endpoint_id, frame).await?)
    }

    /// Why a frame was not carried, if that has been heard of.
    fn refused(&mut self) -> Option<Failure> {
        while let Some(heard) = self.frames.try_next() {
            if let Heard::NotCarried(reason) = heard {
                return Some(Failure::Stopped(reason));
            }
        }
        None
    }

    /// Answers each frame as `answer` says, as long as the fabric is there.
    async fn serve(mut self, mut answer: impl FnMut(&[u8]) -> Option<Vec<u8>>) -> Failure {
        loop {
            let served = async {
                let (_, frame) = self.frames.frame().await?;
                match answer(&frame) {
                    Some(answer) => self.send(&answer).await,
                    None => Ok(()),
                }
            };
            if let Err(failure) = served.await {
                return failure;
            }
        }
    }
}

pub(crate) async fn run(command: Command, out: &output::Output) -> Result<(), Failure> {
    match command {
        Command::Echo(flags) => echo::run(flags).await,
        Command::Ping(flags) => ping::run(flags).await,
        Command::Arp(flags) => arp::run(flags).await,
        Command::Ntp(flags) => ntp::run(flags).await,
        Command::Sniff(flags) => sniff::run(flags).await,
        Command::Replay(flags) => replay::run(flags).await,
        Command::Capture(flags) => control::capture(flags).await,
        Command::Impair(flags) => control::impair(*flags).await,
        Command::Filter(flags) => control::filter(flags).await,
        Command::Stats(flags) => control::stats(flags, out).await,
    }
}
