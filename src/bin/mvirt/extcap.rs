//! `mvirt extcap`: vNICs as interfaces of Wireshark (extcap(4)). A link to this program in its
//! folder of plug-ins, called mvirt-extcap, is one.

use crate::{
    Failure, capture,
    connect::{Client, Connection},
    output::{self, Output},
};
use clap::Args;
use mvirt_net::{bpf::Program, printable::printable, proto::ListNicsRequest};
use std::path::PathBuf;

/// What a vNIC's interface is called, before its id.
const PREFIX: &str = "mvirt-";
/// What can be chosen before a capture begins.
const OPTIONS: &str = "\
arg {number=0}{call=--drops}{display=Only dropped frames}{type=boolflag}
arg {number=1}{call=--snaplen}{display=Octets of each frame}{type=integer}{default=262144}
";

/// As Wireshark asks.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// List the interfaces
    #[arg(long)]
    extcap_interfaces: bool,
    /// Of Wireshark
    #[arg(long, value_name = "VERSION")]
    extcap_version: Option<String>,
    /// Which interface
    #[arg(long, value_name = "INTERFACE")]
    extcap_interface: Option<String>,
    /// What its frames begin with
    #[arg(long)]
    extcap_dlts: bool,
    /// What can be chosen
    #[arg(long)]
    extcap_config: bool,
    /// Only frames that match; without --capture, whether it is a filter
    #[arg(long, value_name = "EXPR")]
    extcap_capture_filter: Option<String>,
    /// Capture
    #[arg(long, requires_all = ["extcap_interface", "fifo"])]
    capture: bool,
    /// To where
    #[arg(long, value_name = "PATH")]
    fifo: Option<PathBuf>,
    /// Only frames that are dropped
    #[arg(long)]
    drops: bool,
    /// Octets of each that are wanted
    #[arg(long, value_name = "N")]
    snaplen: Option<u32>,
}

pub(crate) async fn run(
    flags: Flags,
    connection: &Connection,
    out: &Output,
) -> Result<(), Failure> {
    if flags.extcap_interfaces {
        let version = env!("CARGO_PKG_VERSION");
        let mut said = format!("extcap {{version={version}}}{{display=mvirt-net}}\n");
        // Without a daemon there are none, and that is no failure: it may come.
        if let Ok(mut client) = connection.connect().await {
            said += &interfaces(&mut client).await.unwrap_or_default();
        }
        return output::print(&said);
    }
    if flags.extcap_dlts {
        return output::print("dlt {number=1}{name=EN10MB}{display=Ethernet}\n");
    }
    if flags.extcap_config {
        return output::print(OPTIONS);
    }
    let filter = flags.extcap_capture_filter.unwrap_or_default();
    let (Some(interface), Some(fifo), true) = (flags.extcap_interface, flags.fifo, flags.capture)
    else {
        // What is wrong is said, and nothing else.
        let wrong = filter.parse::<Program>().err();
        return wrong.map_or(Ok(()), |wrong| output::print(&format!("{wrong}\n")));
    };
    let Some(nic) = interface.strip_prefix(PREFIX) else {
        return Err(Failure::Usage(format!(
            "--extcap-interface {interface}: expected one of ours"
        )));
    };
    let mut client = connection.connect().await?;
    let options = (flags.drops, flags.snaplen);
    let capture = capture::Flags::of_extcap(nic.to_owned(), filter, fifo, options);
    let ended = capture::run(capture, &mut client, out).await;
    ended.map_err(|failure| connection.explain(failure))
}

/// A line for each vNIC.
async fn interfaces(client: &mut Client) -> Result<String, Failure> {
    let nics = client.list_nics(ListNicsRequest::default()).await?.into_inner().nics;
    let line = |nic: &mvirt_net::proto::Nic| {
        let (name, network) = (printable(&nic.name), printable(&nic.network_name));
        format!("interface {{value={PREFIX}{}}}{{display=mvirt {name} ({network})}}\n", nic.id)
    };
    Ok(nics.iter().map(line).collect())
}
