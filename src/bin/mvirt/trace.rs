//! `mvirt trace`: what would become of a frame, and what has become of those that were dropped.

use super::{
    Failure, complete,
    connect::Client,
    drops, egress,
    output::{Output, Table, print},
};
use clap::Args;
use mvirt_net::{
    printable::printable,
    proto::{ExplainReply, ExplainRequest, ExplainVerdict, PacketSpec, explain_request::What},
    written::Octets,
};

const EXAMPLES: &str = "\
Examples:
  mvirt trace --from vm1 --to 10.0.0.7 --proto tcp --dport 443
  mvirt trace --from vm1 --to 192.0.2.1                 # a ping of the world
  mvirt trace --from vm1 --to 10.0.0.7 --length 1500 --source 10.9.9.9
  mvirt trace --from vm1 --frame 020000000001525400c57a12080045…
  mvirt trace --drops vm1                              # which of its frames were dropped, and why
  mvirt trace --drops --follow

Exit status: 0 it is delivered or answered, 1 it is dropped, 2 wrong usage, 3 no daemon (with
--drops: 1).";

/// Find out what would become of a packet, step by step, without sending it, or which were dropped.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Command {
    /// The vNIC or port that it comes from, by name or id
    #[arg(long, value_name = "VNIC", add = complete::nics(), required_unless_present = "drops")]
    from: Option<String>,
    /// Where it goes to
    #[arg(long, value_name = "ADDRESS", required_unless_present_any = ["frame", "drops"])]
    to: Option<String>,
    /// tcp, udp, icmp or a number [default: tcp with --dport, else icmp]
    #[arg(long, value_name = "PROTOCOL", conflicts_with = "frame")]
    proto: Option<String>,
    /// Port of the sender [default: 49152]
    #[arg(long, value_name = "PORT", conflicts_with = "frame")]
    sport: Option<u16>,
    /// Port of the receiver
    #[arg(long, value_name = "PORT", conflicts_with = "frame")]
    dport: Option<u16>,
    /// Where it says that it comes from [default: the vNIC's own address]
    #[arg(long, value_name = "ADDRESS", conflicts_with = "frame")]
    source: Option<String>,
    /// Octets of the IP packet [default: as few as can be]
    #[arg(long, value_name = "OCTETS", conflicts_with = "frame")]
    length: Option<u32>,
    /// Type of the ICMP message [default: an echo request's]
    #[arg(long, value_name = "TYPE", conflicts_with = "frame")]
    icmp_type: Option<u8>,
    /// MAC that it comes from [default: the vNIC's own]
    #[arg(long, value_name = "MAC", conflicts_with = "frame")]
    source_mac: Option<String>,
    /// MAC that it goes to [default: the gateway's, or of who has the address]
    #[arg(long, value_name = "MAC", conflicts_with = "frame")]
    destination_mac: Option<String>,
    /// A whole Ethernet frame instead, in hexadecimal digits
    #[arg(long, value_name = "HEX", conflicts_with = "to")]
    frame: Option<Octets>,
    /// The frames instead that were dropped last, and why: of some a second the first octets are
    /// kept
    #[arg(long, conflicts_with_all = ["from", "to", "frame", "proto", "sport", "dport", "source"])]
    #[arg(conflicts_with_all = ["length", "icmp_type", "source_mac", "destination_mac"])]
    pub(crate) drops: bool,
    /// With --drops, also those that come, until Ctrl-C
    #[arg(long, requires = "drops")]
    follow: bool,
    /// With --drops, those of a network alone
    #[arg(long, value_name = "NETWORK", requires = "drops", conflicts_with = "nics")]
    #[arg(add = complete::networks())]
    network: Option<String>,
    /// With --drops, those of these vNICs and ports alone
    #[arg(value_name = "NIC", requires = "drops", add = complete::nics())]
    nics: Vec<String>,
}

impl Command {
    fn request(self) -> ExplainRequest {
        let what = match self.frame {
            Some(Octets(frame)) => What::Frame(frame),
            None => What::Packet(PacketSpec {
                destination: self.to.unwrap_or_default(),
                protocol: self.proto.unwrap_or_default(),
                source_port: self.sport.unwrap_or_default().into(),
                destination_port: self.dport.unwrap_or_default().into(),
                source: self.source.unwrap_or_default(),
                length: self.length.unwrap_or_default(),
                icmp_type: self.icmp_type.unwrap_or_default().into(),
                source_mac: self.source_mac.unwrap_or_default(),
                destination_mac: self.destination_mac.unwrap_or_default(),
            }),
        };
        ExplainRequest { from: self.from.unwrap_or_default(), what: Some(what) }
    }
}

/// Who has what goes out into the world.
const OUTSIDE: &str = "outside";

/// Prints it. Fails where it is dropped, once that is printed.
pub(crate) async fn run(
    command: Command,
    client: &mut Client,
    out: &Output,
) -> Result<(), Failure> {
    if command.drops {
        return drops::run((command.nics, command.network, command.follow), client, out).await;
    }
    let reply = client.explain(command.request()).await?.into_inner();
    let mut table = Table::new(&["", "STAGE", "AT", "RESULT", "FOUND"], 5);
    for (number, step) in (1_u32..).zip(&reply.steps) {
        let cells = [&step.stage, &step.object, &step.result, &step.text];
        let cells = cells.map(|text| text.as_str().into());
        table.row(&step.stage, std::iter::once(number.into()).chain(cells).collect());
    }
    out.list(&reply, &table)?;
    if out.is_for_people() {
        print(&format!("{}\n", printable(&verdict(&reply))))?;
        if reply.delivered_to == [OUTSIDE] {
            for line in egress::in_the_way(client).await? {
                print(&format!("In its way there: {}\n", printable(&line)))?;
            }
        }
    }
    match reply.verdict() {
        ExplainVerdict::Delivered | ExplainVerdict::Answered => Ok(()),
        ExplainVerdict::Dropped | ExplainVerdict::Unspecified => Err(Failure::Dropped),
    }
}

/// Returns what becomes of it, in a sentence.
pub(crate) fn verdict(reply: &ExplainReply) -> String {
    match reply.verdict() {
        ExplainVerdict::Delivered if reply.delivered_to.is_empty() => {
            "Delivered to nobody: there is nobody else.".into()
        }
        ExplainVerdict::Delivered => format!("Delivered to {}.", reply.delivered_to.join(", ")),
        ExplainVerdict::Answered => "Answered by the gateway.".into(),
        ExplainVerdict::Dropped | ExplainVerdict::Unspecified => {
            let told = if reply.sender_is_told { ", and its sender is told" } else { "" };
            format!("Dropped as {}{told}: {}", reply.drop_reason, reply.drop_text)
        }
    }
}
