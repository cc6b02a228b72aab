//! Names by DNS over TCP (RFC 1035 §4.2.2, RFC 7766): the same that the gateway answers itself; and
//! names of others over both, as the servers of the network say.

use super::{
    asker::Common,
    datagram::{Back, Datagram},
    resolver::Key,
};
use crate::{
    dataplane::{
        DnsReply, MAX_RESPONSE, Punted, Way, dns_response,
        forward::tables::{Foreign, NetworkKey, PortId},
    },
    wire::dns_message::Query,
};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    time::{Instant, timeout},
};

/// How long a client may think between two queries, and within one (RFC 7766 §6.2.3).
const PATIENCE: Duration = Duration::from_secs(10);
/// Octets of a query.
// Longer ones are of updates and zones, which nobody has here.
const MAX_QUERY: usize = 4096;

/// What becomes of a query.
enum Reply {
    /// It is answered with this.
    Given(Vec<u8>),
    /// Servers are asked.
    Later(Key),
}

/// Answers a query that came by a datagram. Returns what is left to be done, if that takes a while.
pub(super) fn hear(
    common: &Arc<Common>,
    way: Way,
    punted: &Punted,
    datagram: Datagram<'_>,
) -> Option<impl Future<Output = ()> + use<>> {
    let Datagram { payload, back } = datagram;
    match reply(common, punted.network, payload, most(payload, &back))? {
        Reply::Given(response) => {
            say(&way, &back, &response);
            None
        }
        Reply::Later(key) => {
            let (common, query) = (Arc::clone(common), payload.to_vec());
            Some(async move {
                let response = find(&common, way.port(), key, &query, most(&query, &back)).await;
                say(&way, &back, &response);
            })
        }
    }
}

/// Returns how many octets of an answer pass.
fn most(query: &[u8], back: &Back) -> usize {
    Query::parse(query).map_or(0, |query| query.payload()).min(back.room())
}

fn say(way: &Way, back: &Back, response: &[u8]) {
    if !response.is_empty()
        && let Some(frame) = back.frame(response)
    {
        way.say(frame);
    }
}

/// Answers the queries of one connection, in order.
pub(super) async fn serve(
    mut stream: DuplexStream,
    common: &Common,
    (port, network): (PortId, NetworkKey),
) -> io::Result<()> {
    while let Ok(query) = timeout(PATIENCE, read(&mut stream)).await {
        let query = query?;
        // Whoever sends what is no query is not listened to any longer.
        let response = match reply(common, network, &query, u16::MAX.into()) {
            None => return Ok(()),
            Some(Reply::Given(response)) => response,
            Some(Reply::Later(key)) => find(common, port, key, &query, u16::MAX.into()).await,
        };
        // It has been asked to be no longer.
        let len = (response.len() as u16).to_be_bytes();
        // In one piece: some clients take no length alone (RFC 7766 §8).
        let message = [&len[..], &response].concat();
        timeout(PATIENCE, stream.write_all(&message)).await??;
    }
    Ok(())
}

async fn read(stream: &mut DuplexStream) -> io::Result<Vec<u8>> {
    let len = usize::from(stream.read_u16().await?);
    if len > MAX_QUERY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut query = vec![0; len];
    stream.read_exact(&mut query).await?;
    Ok(query)
}

/// Returns what becomes of a query in a network; `None` where it is none, or nobody answers it.
fn reply(common: &Common, network: NetworkKey, message: &[u8], most: usize) -> Option<Reply> {
    // As they are now: a name of its own is never asked of others.
    let (names, upstream) = common.guests.names(network)?;
    let foreign = if upstream.is_some() { Foreign::Forwarded } else { Foreign::Refused };
    let mut buffer = [0; MAX_RESPONSE];
    if let DnsReply::Given(octets) = dns_response(&names, foreign, message, &mut buffer).ok()? {
        return Some(Reply::Given(octets.to_vec()));
    }
    let query = Query::parse(message)?;
    let key = common.resolver.key(&upstream?, &query)?;
    let now = Instant::now();
    Some(match common.resolver.known(&key, now) {
        Some(known) => Reply::Given(known.response(&query, most, now.into_std())),
        None => Reply::Later(key),
    })
}

/// Asks servers what a query wants. Returns what is answered, of `most` octets.
async fn find(common: &Common, port: PortId, key: Key, query: &[u8], most: usize) -> Vec<u8> {
    let found = common.resolver.find(port, key).await;
    let query = Query::parse(query);
    query.map_or_else(Vec::new, |query| found.response(&query, most, Instant::now().into_std()))
}
