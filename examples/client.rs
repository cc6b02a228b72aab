//! A program that uses the API of mvirt-net: it makes a network and a vNIC, waits for an event,
//! reads statistics, is refused, and deletes what it has made. The daemon is where
//! `MVIRT_NET_SERVER` says, or where its service listens.
//!
//! `cargo run --example client`; `client.py` and `client.sh` beside it do the same.

use mvirt_net::{
    client::{Connection, Refusal},
    proto::{
        CreateNetworkRequest, CreateNicRequest, DeleteNetworkRequest, GetNicStatsRequest,
        WatchNicsRequest,
    },
};
use std::io::Write;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let connection = Connection::default().or_environment()?;
    run(&connection, &mut std::io::stdout()).await
}

/// Prints what it does.
pub(crate) async fn run(
    connection: &Connection,
    out: &mut impl Write,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut client = connection.connect().await?;

    let wanted = CreateNetworkRequest {
        name: "example".into(),
        ipv4_subnet: "10.9.0.0/24".into(),
        ..Default::default()
    };
    let network = client.create_network(wanted.clone()).await?.into_inner();
    writeln!(out, "network {}: {}", network.name, network.ipv4_subnet)?;

    // What there is comes first, an event each, and then each change.
    let watch = WatchNicsRequest { network_id: network.id.clone(), ..Default::default() };
    let mut events = client.watch_nics(watch).await?.into_inner();

    let name = "example-vm".into();
    let request = CreateNicRequest { network_id: network.id.clone(), name, ..Default::default() };
    let nic = client.create_nic(request).await?.into_inner();
    writeln!(out, "vNIC {}: {}", nic.name, nic.ipv4_address)?;
    while let Some(event) = events.message().await? {
        if let Some(seen) = event.nic.filter(|seen| seen.id == nic.id) {
            writeln!(out, "event: {} is {}", seen.name, seen.state().word())?;
            break;
        }
    }

    let stats = client.get_nic_stats(GetNicStatsRequest { id: nic.id }).await?.into_inner();
    writeln!(out, "statistics: {} frames from its guest", stats.ingress_frames)?;

    // Programs go by the reason; the message is for people.
    if let Err(status) = client.create_network(wanted).await {
        let Refusal { reason, field, .. } = status.into();
        writeln!(out, "refused: {} {}", reason.name(), field.unwrap_or_default())?;
    }

    let request = DeleteNetworkRequest { id: network.id, force: true, ..Default::default() };
    client.delete_network(request).await?;
    writeln!(out, "deleted")?;
    Ok(())
}
