//! `mvirt yard arp`: answers ARP for addresses of hosts that do not answer themselves.

use super::{Fabric, Failure, output, packet};
use clap::{Args, ValueHint};
use mvirt_net::{
    addr::MacAddr,
    switchyard::client::ClientError,
    wire::arp::{self, Packet},
};
use std::{collections::BTreeMap, fs, net::Ipv4Addr, path::PathBuf};

const FORMAT: &str = "\
The table has a line an address, with a MAC or the name of an endpoint; # begins a comment:
  10.0.0.2  svc_echo
  10.0.0.9  52:54:00:12:34:56";

#[derive(Debug, Args)]
#[command(after_help = FORMAT)]
pub(crate) struct Flags {
    #[command(flatten)]
    fabric: Fabric,
    /// The endpoint's name
    #[arg(long, default_value = "svc_arp")]
    name: String,
    /// Addresses and who has them
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    table: PathBuf,
}

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owner {
    Mac(MacAddr),
    /// Whatever MAC it has when somebody asks.
    Endpoint(String),
}

type Table = BTreeMap<Ipv4Addr, Owner>;

fn parse(text: &str) -> Result<Table, String> {
    let mut table = Table::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(address) = words.next() else { continue };
        let wrong = |what: &str| format!("line {}: {what}", at + 1);
        let address: Ipv4Addr =
            address.parse().map_err(|_| wrong("expected an IPv4 address first"))?;
        let (Some(owner), None) = (words.next(), words.next()) else {
            return Err(wrong("expected an address, and a MAC or the name of an endpoint"));
        };
        let mac = owner.parse().map(Owner::Mac);
        let owner = mac.unwrap_or_else(|_| Owner::Endpoint(owner.into()));
        if table.insert(address, owner).is_some() {
            return Err(wrong(&format!("{address} has been named before")));
        }
    }
    Ok(table)
}

pub(super) async fn run(Flags { fabric, name, table: path }: Flags) -> Result<(), Failure> {
    let wrong = |error: &dyn std::fmt::Display| {
        Failure::Usage(format!("--table {}: {error}", path.display()))
    };
    let text = fs::read_to_string(&path).map_err(|error| wrong(&error))?;
    let table = parse(&text).map_err(|error| wrong(&error))?;
    let mut member = fabric.join(&name, 0).await?;
    let (id, mac) = (member.endpoint.endpoint_id, member.endpoint.mac);
    output::print(&format!("[{name}] endpoint_id={id} mac={mac} addresses={}\n", table.len()))?;
    loop {
        let (_, frame) = member.frames.frame().await?;
        let request = packet::arp(&frame).filter(|packet| packet.operation() == arp::REQUEST);
        let Some((request, owner)) = request.and_then(|r| Some((r, asked_for(&table, &r)?))) else {
            continue;
        };
        let owner = match owner {
            Owner::Mac(mac) => *mac,
            Owner::Endpoint(name) => match member.client.lookup(name).await {
                Ok(found) => found.mac,
                // Who is not there is not answered for.
                Err(ClientError::Refused(_)) => continue,
                Err(error) => return Err(error.into()),
            },
        };
        // From its own MAC: the fabric is not to learn that the owner were here.
        member.send(&packet::arp_reply(&request, owner, mac)).await?;
    }
}

/// Who has the address that is asked for, if the table says so and it is not who asks: a host that
/// makes sure that its address is free must not be told otherwise by its own entry.
fn asked_for<'a>(table: &'a Table, request: &Packet) -> Option<&'a Owner> {
    let owner = table.get(&request.target_ip())?;
    (*owner != Owner::Mac(request.sender_mac())).then_some(owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_or_refused_with_its_line() {
        let table = parse("# hosts\n\n10.0.0.2 svc_echo # echo\n10.0.0.9\t52:54:00:12:34:56\n");
        let mac = Owner::Mac("52:54:00:12:34:56".parse().unwrap());
        let expected = [
            (Ipv4Addr::new(10, 0, 0, 2), Owner::Endpoint("svc_echo".into())),
            (Ipv4Addr::new(10, 0, 0, 9), mac),
        ];
        assert_eq!(table.unwrap(), Table::from(expected));
        for (text, said) in [
            ("\necho 10.0.0.2", "line 2: expected an IPv4 address first"),
            ("10.0.0.2", "line 1: expected an address, and a MAC or"),
            ("10.0.0.2 a b", "line 1: expected an address, and a MAC or"),
            ("10.0.0.2 a\n10.0.0.2 b", "line 2: 10.0.0.2 has been named before"),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.starts_with(said), "{refused}");
        }
    }
}
