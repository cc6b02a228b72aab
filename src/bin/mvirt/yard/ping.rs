//! `mvirt yard ping`: finds a service by its name, its MAC by ARP, sends it UDP and waits for the
//! answer.

use super::{Fabric, Failure, Member, output, packet::python_bytes, units};
use clap::Args;
use mvirt_net::{
    addr::MacAddr,
    switchyard::{body::EndpointInfo, client::ClientError},
};
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::unix::ffi::OsStringExt,
    time::Duration,
};
use tokio::time::{Instant, sleep_until, timeout};

/// How long ARP, and then an answer, may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// From one look for a name to the next.
const AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    fabric: Fabric,
    /// The endpoint's name
    #[arg(long, default_value = "cli1")]
    name: String,
    /// The name of the endpoint that answers
    #[arg(long, value_name = "NAME", default_value = "svc_echo")]
    to: String,
    /// The address that answers
    #[arg(long, value_name = "ADDR:PORT", default_value = "10.0.0.2:7007")]
    to_ip: SocketAddrV4,
    /// Its own address
    #[arg(long, value_name = "ADDR", default_value = "10.0.0.1")]
    ip: Ipv4Addr,
    /// Its own UDP port
    #[arg(long, default_value = "12345", value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// How many messages
    #[arg(short, long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// How long to wait for a name that nobody has yet: seconds, or like 500ms
    #[arg(long, value_name = "TIME", value_parser = units::seconds)]
    wait: Option<Duration>,
}

/// The message of the environment, octet by octet.
fn message() -> Vec<u8> {
    std::env::var_os("PING_MSG").map_or_else(|| b"marco polo".into(), OsStringExt::into_vec)
}

pub(super) async fn run(flags: Flags) -> Result<(), Failure> {
    let mut member = flags.fabric.join(&flags.name, 0).await?;
    let found = find(&member, &flags).await?;
    let (own, ip, to) = (&member.endpoint, flags.ip, flags.to_ip);
    output::print(&format!(
        "[cli] my endpoint_id={} mac={} ip={ip}\n\
         [cli] echo endpoint_id={} (name lookup only) ip={to}\n",
        own.endpoint_id, own.mac, found.endpoint_id
    ))?;
    let mac = resolve(&mut member, &flags).await?;
    output::print(&format!("[cli] ARP resolved {} -> {mac}\n", to.ip()))?;
    let message = message();
    for _ in 0..flags.count {
        exchange(&mut member, &flags, mac, &message).await?;
    }
    Ok(())
}

/// The endpoint that is to answer, as soon as there is one.
async fn find(member: &Member, flags: &Flags) -> Result<EndpointInfo, Failure> {
    let deadline = Instant::now() + flags.wait.unwrap_or_default();
    loop {
        let again = Instant::now() + AGAIN;
        match member.client.lookup(&flags.to).await {
            Ok(found) => return Ok(found),
            Err(ClientError::Refused(_)) if again < deadline => {
                sleep_until(again).await;
            }
            Err(ClientError::Refused(reason)) => {
                return Err(Failure::Stopped(format!("{reason} (is it running?)")));
            }
            Err(other) => return Err(other.into()),
        }
    }
}

async fn resolve(member: &mut Member, flags: &Flags) -> Result<MacAddr, Failure> {
    let (host, address) = (member.host(flags.ip), *flags.to_ip.ip());
    member.send(&host.arp_request(address)).await?;
    let reply = async {
        loop {
            let (_, frame) = member.frames.frame().await?;
            if let Some(mac) = host.resolved(&frame, address) {
                return Ok(mac);
            }
        }
    };
    let late = |_| Failure::Stopped(format!("no ARP reply from {address} within {PATIENCE:?}"));
    timeout(PATIENCE, reply).await.map_err(late)?
}

async fn exchange(
    member: &mut Member,
    flags: &Flags,
    mac: MacAddr,
    message: &[u8],
) -> Result<(), Failure> {
    let (host, port, to) = (member.host(flags.ip), flags.port, flags.to_ip);
    let frame = host.datagram(port, mac, to, message).ok_or_else(|| {
        Failure::Usage(format!("PING_MSG: {} octets; expected at most 65507", message.len()))
    })?;
    member.send(&frame).await?;
    let (len, text) = (message.len(), python_bytes(message));
    output::print(&format!("[cli] sent {len} bytes: {text}\n"))?;
    let answer = async {
        loop {
            let (_, frame) = member.frames.frame().await?;
            // Who asks where this host is may be the one that is to answer.
            if let Some(reply) = host.answer_arp(&frame) {
                member.send(&reply).await?;
            }
            if let Some(datagram) = host.received(&frame, port) {
                let text = python_bytes(datagram.payload);
                return output::print(&format!("[cli] got reply from {}: {text}\n", datagram.from));
            }
        }
    };
    let late = |_| Failure::Stopped(format!("no answer from {to} within {PATIENCE:?}"));
    timeout(PATIENCE, answer).await.map_err(late)?
}
