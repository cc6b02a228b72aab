//! Echo requests, one after the other, each answer printed as it comes; Ctrl-C ends them with what
//! there is.

use super::guest::{Answer, Echo, Guest, HOP_LIMIT, NONE};
use crate::{
    Failure,
    connect::Client,
    nic,
    output::{self, Output},
};
use mvirt_net::{
    dataplane::forward::tables::{GATEWAY_IPV4, GATEWAY_IPV6},
    proto::Nic,
};
use std::{
    future::Future,
    net::IpAddr,
    pin::{Pin, pin},
    time::{Duration, Instant},
};

/// What came of all requests.
#[derive(Debug, serde::Serialize)]
struct Answers {
    address: String,
    answers: Vec<Answer>,
}

/// Which requests are made.
#[derive(Debug)]
pub(super) struct Ping {
    pub(super) address: IpAddr,
    pub(super) count: u16,
    /// Octets of data in each.
    pub(super) size: usize,
    /// How long each is waited for.
    pub(super) wait: Duration,
    /// From one to the next, at least.
    pub(super) interval: Duration,
}

type Interrupt<'a> = Pin<&'a mut dyn Future<Output = std::io::Result<()>>>;

/// Asks for echoes one after the other. Says why nobody answers, where that is known.
struct Asking<'a> {
    guest: Guest,
    network: String,
    client: &'a mut Client,
    interrupt: Interrupt<'a>,
}

impl Asking<'_> {
    /// The answer; none after Ctrl-C.
    async fn ask(&mut self, echo: Echo, wait: Duration) -> Result<Option<Answer>, Failure> {
        let answered = tokio::select! {
            answered = self.guest.echo(echo, wait) => answered,
            _ = self.interrupt.as_mut() => return Ok(None),
        };
        let mut answer = answered?;
        // Asked of the daemon only then: most answers need no reason.
        if answer.what == NONE
            && let Some(nic) = owner(self.client, &self.network, echo.to).await?
            && !nic.state().is_connected()
        {
            answer.what = format!("no guest on {}", nic.name).into();
        }
        Ok(Some(answer))
    }

    /// Waits until a time; `false` after Ctrl-C.
    async fn until(&mut self, time: Instant) -> bool {
        tokio::select! {
            () = tokio::time::sleep_until(time.into()) => true,
            _ = self.interrupt.as_mut() => false,
        }
    }
}

/// The vNIC of the network to which packets for `address` go.
async fn owner(
    client: &mut Client,
    network: &str,
    address: IpAddr,
) -> Result<Option<Nic>, Failure> {
    let length = |nic: &Nic| {
        let own = [&nic.ipv4_address, &nic.ipv6_address];
        if own.iter().any(|own| own.parse() == Ok(address)) {
            // Longer than any prefix: an address of its own wins.
            return Some(u8::MAX);
        }
        let routed = nic.routed_ipv4_prefixes.iter().chain(&nic.routed_ipv6_prefixes);
        let routed = routed.chain([&nic.slaac_prefix]);
        let routed = routed.filter_map(|prefix| prefix.parse::<ipnet::IpNet>().ok());
        routed.filter(|net| net.contains(&address)).map(|net| net.prefix_len()).max()
    };
    let nics = nic::all(client, network).await?;
    Ok(nics.into_iter().filter(|nic| length(nic).is_some()).max_by_key(length))
}

fn ms(answer: &Answer) -> String {
    if answer.from.is_empty() { "-".into() } else { format!("{:.3} ms", answer.ms) }
}

fn from(answer: &Answer) -> &str {
    if answer.from.is_empty() { "-" } else { &answer.from }
}

/// Columns wide enough for the addresses that can answer.
fn widths(address: IpAddr) -> (usize, usize) {
    let gateway: IpAddr = if address.is_ipv4() { GATEWAY_IPV4.into() } else { GATEWAY_IPV6.into() };
    (address.to_string().len().max(gateway.to_string().len()), HOP_LIMIT.len())
}

/// `mvirt probe NIC ping`
pub(super) async fn ping(
    guest: Guest,
    (client, network): (&mut Client, String),
    ping: Ping,
    out: &Output,
) -> Result<(), Failure> {
    let (address, wide) = (ping.address, widths(ping.address));
    let interrupt: Interrupt<'_> = pin!(tokio::signal::ctrl_c());
    let mut asking = Asking { guest, network, client, interrupt };
    let mut answers = Vec::new();
    out.header(&[("FROM", wide.0), ("ANSWER", wide.1), ("TIME", 0)])?;
    for sequence in 0..ping.count {
        // From one request to the next, however long the answer takes.
        let next = Instant::now() + ping.interval;
        // The usual hop limit of hosts.
        let echo = Echo { to: address, hops: 64, size: ping.size, sequence };
        let Some(answer) = asking.ask(echo, ping.wait).await? else { break };
        out.line(&[(from(&answer), wide.0), (&answer.what, wide.1), (&ms(&answer), 0)])?;
        answers.push(answer);
        // Nothing is waited for after the last.
        if sequence + 1 < ping.count && !asking.until(next).await {
            break;
        }
    }
    let answers = Answers { address: address.to_string(), answers };
    out.end(&answers)?;
    summary(&answers.answers, address, out)
}

/// Says how many were answered, and how fast.
fn summary(answers: &[Answer], address: IpAddr, out: &Output) -> Result<(), Failure> {
    let (sent, times) = (answers.len(), answers.iter().filter(|answer| answer.is_reply()));
    let times: Vec<f64> = times.map(|answer| answer.ms).collect();
    if times.is_empty() {
        return Err(Failure::Probe(format!("{address} answered none of {sent} echo requests")));
    }
    if !out.is_document() {
        let (min, max) = (times.iter().copied().fold(f64::MAX, f64::min), times.iter().copied());
        let (max, sum) = (max.fold(0.0, f64::max), times.iter().sum::<f64>());
        let answered = times.len();
        let average = sum / answered as f64;
        output::say(&format!(
            "{sent} sent, {answered} answered, min/avg/max {min:.3}/{average:.3}/{max:.3} ms"
        ));
    }
    Ok(())
}

/// `mvirt probe NIC traceroute`: ends with the first that is answered by other than a router for
/// its limit of hops.
pub(super) async fn traceroute(
    guest: Guest,
    (client, network): (&mut Client, String),
    (address, max_hops, wait): (IpAddr, u8, Duration),
    out: &Output,
) -> Result<(), Failure> {
    let wide = widths(address);
    let interrupt: Interrupt<'_> = pin!(tokio::signal::ctrl_c());
    let mut asking = Asking { guest, network, client, interrupt };
    let mut answers = Vec::new();
    out.header(&[("HOP", 3), ("FROM", wide.0), ("ANSWER", wide.1), ("TIME", 0)])?;
    for hops in 1..=max_hops {
        let echo = Echo { to: address, hops, size: 32, sequence: hops.into() };
        let Some(answer) = asking.ask(echo, wait).await? else { break };
        let (hop, time) = (hops.to_string(), ms(&answer));
        let cells = [(&*hop, 3), (from(&answer), wide.0), (&answer.what, wide.1), (&time, 0)];
        out.line(&cells)?;
        // A silent hop is passed by: the next one may answer.
        let arrived = !matches!(&*answer.what, HOP_LIMIT | NONE);
        answers.push(answer);
        if arrived {
            break;
        }
    }
    let answers = Answers { address: address.to_string(), answers };
    out.end(&answers)?;
    if answers.answers.last().is_some_and(Answer::is_reply) {
        return Ok(());
    }
    Err(Failure::Probe(format!("{address} was not reached")))
}
