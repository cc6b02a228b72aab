//! What is done for a key, beside looking: a capture, a trace.

use crate::{Failure, connect::Client, trace};
use jiff::Timestamp;
use mvirt_net::{
    printable::printable,
    proto::{CaptureRequest, ExplainRequest, PacketSpec, explain_request::What},
};
use std::{fs::File, io::Write as _};

/// How long frames are captured.
const SECONDS: u32 = 10;

/// Returns what would become of a ping from somebody to an address, in lines.
pub(super) async fn traced(
    client: &mut Client,
    from: &str,
    to: String,
) -> Result<Vec<String>, Failure> {
    let packet = PacketSpec { destination: to, protocol: "icmp".into(), ..Default::default() };
    let request = ExplainRequest { from: from.into(), what: Some(What::Packet(packet)) };
    let reply = client.explain(request).await?.into_inner();
    let step = |(number, step): (usize, &mvirt_net::proto::ExplainStep)| {
        let text = format!("{} {} {}: {}", number + 1, step.stage, step.result, step.text);
        printable(&text)
    };
    let steps = reply.steps.iter().enumerate().map(step);
    Ok(steps.chain([String::new(), printable(&trace::verdict(&reply))]).collect())
}

/// Captures frames of a vNIC or port for a while into a file of its own in this folder. Returns
/// what came of it.
pub(super) async fn captured(mut client: Client, name: String) -> String {
    match capture(&mut client, &name).await {
        Ok(file) => format!("captured into {file}"),
        Err(failure) => format!("not captured: {failure}"),
    }
}

async fn capture(client: &mut Client, name: &str) -> Result<String, Failure> {
    let request =
        CaptureRequest { targets: vec![name.into()], max_seconds: SECONDS, ..Default::default() };
    let mut chunks = client.capture(request).await?.into_inner();
    let time = Timestamp::now().strftime("%Y%m%dT%H%M%S");
    // A name of the daemon's, which is not to lead elsewhere.
    let name = name.replace(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)), "_");
    let path = format!("./{name}-{time}.pcapng");
    let wrong = |error| Failure::Stopped(format!("{path}: {error}"));
    let mut file = File::create_new(&path).map_err(wrong)?;
    while let Some(chunk) = chunks.message().await? {
        file.write_all(&chunk.pcapng).map_err(wrong)?;
    }
    Ok(path)
}
