//! What takes its time while keys are read: the way to a daemon that was lost, a capture, a trace.

use super::keys::Over;
use crate::{
    Failure,
    connect::{Client, Connection},
    trace,
};
use jiff::Timestamp;
use mvirt_net::{
    printable::printable,
    proto::{CaptureRequest, ExplainRequest, PacketSpec, explain_request::What},
};
use std::{
    fs::File,
    io::{self, Write as _},
    sync::Arc,
    time::Duration,
};
use tokio::{task::spawn_blocking, time::sleep};

/// How soon a daemon that was lost is looked for again.
const RETRY: Duration = Duration::from_secs(1);
/// How long frames are captured.
const SECONDS: u32 = 10;
/// Octets that are captured at most: who presses a key thinks of no disk.
const OCTETS: u64 = 64 << 20;

/// What came of it.
#[derive(Debug)]
pub(super) enum Heard {
    /// A daemon is there.
    Connected(Client),
    /// A line.
    Said(String),
    /// More than that.
    Over(Over),
}

/// Looks for the daemon until it is there.
pub(super) async fn connected(connection: Connection) -> Heard {
    loop {
        sleep(RETRY).await;
        if let Ok(client) = connection.connect().await {
            return Heard::Connected(client);
        }
    }
}

/// Asks what would become of a ping from somebody to an address.
pub(super) async fn traced(mut client: Client, from: String, to: String) -> Heard {
    let title = format!("ping from {from} to {to}");
    let packet = PacketSpec { destination: to, protocol: "icmp".into(), ..Default::default() };
    let reply = client.explain(ExplainRequest { from, what: Some(What::Packet(packet)) }).await;
    let reply = match reply {
        Ok(reply) => reply.into_inner(),
        Err(status) => return Heard::Said(Failure::from(status).to_string()),
    };
    let step = |(number, step): (usize, &mvirt_net::proto::ExplainStep)| {
        let text = format!("{} {} {}: {}", number + 1, step.stage, step.result, step.text);
        printable(&text)
    };
    let steps = reply.steps.iter().enumerate().map(step);
    let lines = steps.chain([String::new(), printable(&trace::verdict(&reply))]).collect();
    Heard::Over(Over::Answer(title, lines))
}

/// Captures frames of a vNIC or port for a while into a file of its own in this folder.
pub(super) async fn captured(client: Client, name: String) -> Heard {
    let said = capture(client, name).await;
    Heard::Said(said.unwrap_or_else(|failure| format!("not captured: {failure}")))
}

async fn capture(mut client: Client, name: String) -> Result<String, Failure> {
    let time = Timestamp::now().strftime("%Y%m%dT%H%M%S");
    // A name of the daemon's, which is not to lead elsewhere.
    let safe = name.replace(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)), "_");
    let path = format!("./{safe}-{time}.pcapng");
    let (max_seconds, max_octets) = (SECONDS, OCTETS);
    let targets = vec![name];
    let request = CaptureRequest { targets, max_seconds, max_octets, ..Default::default() };
    let mut chunks = client.capture(request).await?.into_inner();
    let create = path.clone();
    let file = Arc::new(on_disk(move || File::create_new(create)).await?);
    let written = async {
        while let Some(chunk) = chunks.message().await? {
            let file = Arc::clone(&file);
            on_disk(move || (&*file).write_all(&chunk.pcapng)).await?;
        }
        Ok::<_, Failure>(())
    };
    Ok(match written.await {
        Ok(()) => format!("captured into {path}"),
        Err(failure) => format!("captured in part into {path}: {failure}"),
    })
}

/// Does something for which the screen does not stand still where a disk does.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let done = spawn_blocking(work).await.map_err(io::Error::from).flatten();
    done.map_err(|error| Failure::Stopped(error.to_string()))
}
