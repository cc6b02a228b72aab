//! Names by DNS over TCP (RFC 1035 §4.2.2, RFC 7766): the same that the gateway answers itself.

use super::asker::Common;
use crate::dataplane::{MAX_RESPONSE, dns_response, forward::tables::NetworkKey};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    time::timeout,
};

/// How long a client may think between two queries, and within one (RFC 7766 §6.2.3).
const PATIENCE: Duration = Duration::from_secs(10);
/// Octets of a query.
// Longer ones are of updates and zones, which nobody has here.
const MAX_QUERY: usize = 4096;

/// Answers the queries of one connection, in order.
pub(super) async fn serve(
    mut stream: DuplexStream,
    common: &Common,
    network: NetworkKey,
) -> io::Result<()> {
    while let Ok(query) = timeout(PATIENCE, read(&mut stream)).await {
        let Some(names) = common.guests.names(network) else { return Ok(()) };
        let mut buffer = [0; MAX_RESPONSE];
        // Whoever sends what is no query is not listened to any longer.
        let Ok(response) = dns_response(&names, &query?, &mut buffer) else { return Ok(()) };
        // At most 512 octets.
        let len = (response.len() as u16).to_be_bytes();
        // In one piece: some clients take no length alone (RFC 7766 §8).
        let message = [&len[..], response].concat();
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
