//! The steps of a frame's way, up to where it ends.

use super::compose::Packet;
use crate::{
    dataplane::{DropReason, Stage},
    proto::ExplainStep,
    wire::{ethernet, protocol},
};

/// What was passed, one after the other.
pub(super) struct Steps {
    steps: Vec<ExplainStep>,
    /// Why it ends before it has come to its receivers.
    dropped: Option<DropReason>,
}

impl Steps {
    /// Begins with a frame that is dropped for this reason, if for any.
    pub(super) fn new(dropped: Option<DropReason>) -> Self {
        Self { steps: Vec::new(), dropped }
    }

    /// It has come to a stage, and passes it unless it is dropped there or before.
    pub(super) fn pass(&mut self, stage: Stage, object: &str, text: impl Into<String>) {
        match self.dropped {
            Some(reason) if reason.stage() <= stage => {}
            _ => self.steps.push(ExplainStep {
                stage: stage.name().into(),
                object: object.into(),
                result: "passed".into(),
                text: text.into(),
            }),
        }
    }

    /// One of its receivers does not take it.
    pub(super) fn drop(&mut self, object: &str, reason: DropReason) {
        self.steps.push(ExplainStep {
            stage: reason.stage().name().into(),
            object: object.into(),
            result: reason.name().into(),
            text: reason.meaning().into(),
        });
    }

    /// Returns all, with the one that it ends at.
    pub(super) fn finish(mut self) -> Vec<ExplainStep> {
        if let Some(reason) = self.dropped {
            self.drop("", reason);
        }
        self.steps
    }
}

/// Returns what a frame is, in words.
pub(super) fn described(frame: &[u8], packet: Option<Packet>) -> String {
    if let Some(packet) = packet {
        let Packet { source, destination, ports: [from, to], .. } = packet;
        let octets = frame.len() - ethernet::HEADER_LEN;
        let ends = |name: &str| {
            let (from, to) = ((source, from), (destination, to));
            let [from, to] = [from, to].map(std::net::SocketAddr::from);
            format!("{name} from {from} to {to}, {octets} octets")
        };
        return match packet.protocol {
            protocol::TCP => ends("TCP"),
            protocol::UDP => ends("UDP"),
            protocol::ICMP | protocol::ICMPV6 => {
                format!("ICMP from {source} to {destination}, {octets} octets")
            }
            number => format!("protocol {number} from {source} to {destination}, {octets} octets"),
        };
    }
    match ethernet::Header::parse(frame) {
        Some((header, _)) => format!(
            "from {} to {}, EtherType {:#06x}, {} octets",
            header.source,
            header.destination,
            header.ether_type,
            frame.len()
        ),
        None => format!("{} octets", frame.len()),
    }
}
