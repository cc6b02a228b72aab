//! What would become of a frame: composed here, decided by reactors, told in steps.

mod compose;
mod steps;

use super::{Control, Gone, Handle, NetworkState, Owner, refusal::Refusal};
use crate::{
    addr::MacAddr,
    dataplane::{
        Fate, Placement, PortFailure, Receiver, Stage, Undelivered,
        forward::tables::{GATEWAY_MAC, PortId},
    },
    model::{HasGateway, NetworkKind},
    proto::{self, ExplainReply, ExplainRequest, ExplainVerdict, explain_request::What},
    wire::ethernet,
};
use compose::Packet;
use std::{net::IpAddr, time::Instant};
use steps::{Steps, described};
use tokio::sync::oneshot;
use uuid::Uuid;

/// How many questions are answered a second: each takes a reactor from frames for a moment.
pub(super) const PER_SECOND: f64 = 100.0;

/// A question, on its way through reactors.
struct Question {
    network: Uuid,
    from: PortId,
    frame: Vec<u8>,
    packet: Option<Packet>,
    answer: oneshot::Receiver<Result<Fate, PortFailure>>,
}

impl Handle {
    /// Returns what would become of a frame.
    // In three turns on Control's thread: reactors answer in between.
    pub async fn explain(
        &self,
        request: ExplainRequest,
    ) -> Result<Result<ExplainReply, Refusal>, Gone> {
        let question = match self.call(move |control| control.ask_fate(&request)).await? {
            Ok(question) => question,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let Question { network, from, frame, packet, answer } = question;
        let fate = match answer.await.map_err(|_| Gone)? {
            Ok(fate) => fate,
            Err(failure) => return Ok(Err(Refusal::Unready(failure.to_string()))),
        };
        let receivers = match &fate {
            Fate::Forwarded { to, .. } => to.clone(),
            _ => Vec::new(),
        };
        let asked = self.call(move |control| control.ask_receivers(receivers)).await?;
        let mut taken = Vec::with_capacity(asked.len());
        for (receiver, answer) in asked {
            taken.push((receiver, answer.await.map_err(|_| Gone)?));
        }
        let told = move |control: &mut Control| {
            control.tell_fate((network, from), (&frame, packet), &fate, &taken)
        };
        self.call(told).await.map(Ok)
    }
}

impl Control {
    /// Has a reactor asked what a request wants to know.
    fn ask_fate(&mut self, request: &ExplainRequest) -> Result<Question, Refusal> {
        if !self.explained.take(Instant::now()) {
            let text = format!("more than {PER_SECOND} frames a second are to be explained");
            return Err(Refusal::Exhausted(text));
        }
        let (network, place) = self.find_sender(&request.from)?;
        let (frame, packet) = match &request.what {
            Some(What::Frame(frame)) => {
                let most = ethernet::HEADER_LEN + compose::LONGEST;
                if !(ethernet::HEADER_LEN..=most).contains(&frame.len()) {
                    let expected = format!("expected {}-{most} octets", ethernet::HEADER_LEN);
                    return Err(Refusal::invalid("frame", frame.len(), expected));
                }
                (frame.clone(), None)
            }
            Some(What::Packet(spec)) => {
                let (packet, macs) = self.compose(network, place.port, spec)?;
                let frame = packet.frame(macs);
                let expected = "expected fewer octets";
                let full = |_| Refusal::invalid("packet.length", spec.length, expected);
                (frame.map_err(full)?, Some(packet))
            }
            None => return Err(Refusal::invalid("packet", "", "required, or a frame")),
        };
        let key = self.networks[&network].key;
        let answer = self.dataplane.explain(place, key, &frame).map_err(Refusal::Socket)?;
        Ok(Question { network, from: place.port, frame, packet, answer })
    }

    /// Returns where frames of a vNIC or port come from, and the network that they are in.
    fn find_sender(&self, key: &str) -> Result<(Uuid, Placement), Refusal> {
        if key.is_empty() {
            return Err(Refusal::invalid("from", key, "required: a vNIC's or port's id or name"));
        }
        if let Ok(id) = self.find_nic(key) {
            let nic = &self.nics[&id];
            return Ok((nic.model.network_id, nic.place));
        }
        let Ok(id) = self.find_port(key) else {
            return Err(Refusal::not_found("vNIC or port", key));
        };
        let entry = &self.ports[&id];
        // Where it listens, those who have connected are the members.
        let place = entry.clients.values().next().map_or(entry.place, |client| client.place);
        Ok((entry.model.network_id, place))
    }

    /// Returns the packet that is described, and from which MAC to which it goes.
    fn compose(
        &self,
        network: Uuid,
        from: PortId,
        spec: &proto::PacketSpec,
    ) -> Result<(Packet, [MacAddr; 2]), Refusal> {
        let nic = match self.by_port.get(&from) {
            Some(Owner::Nic(id)) => self.nics.get(id).map(|nic| &nic.model),
            _ => None,
        };
        let own = nic.map_or((None, None), |nic| (nic.ipv4, nic.ipv6));
        let packet = Packet::read(spec, own)?;
        let given = compose::mac("packet.source_mac", &spec.source_mac)?;
        let source = given.or(nic.map(|nic| nic.mac)).ok_or_else(|| {
            let expected = "required for a port: whoever is behind it has many";
            Refusal::invalid("packet.source_mac", "", expected)
        })?;
        let to = match compose::mac("packet.destination_mac", &spec.destination_mac)? {
            Some(mac) => mac,
            None => mac_of(&self.networks[&network], packet.destination).ok_or_else(|| {
                let expected = format!("required: nobody is known to have {}", packet.destination);
                Refusal::invalid("packet.destination_mac", "", expected)
            })?,
        };
        Ok((packet, [source, to]))
    }

    /// Asks the reactors of ports whether they would take a frame.
    fn ask_receivers(
        &self,
        receivers: Vec<Receiver>,
    ) -> Vec<(Receiver, oneshot::Receiver<Option<Undelivered>>)> {
        let ask = |receiver| (receiver, self.dataplane.would_refuse(receiver));
        receivers.into_iter().map(ask).collect()
    }

    /// Tells it in steps.
    fn tell_fate(
        &self,
        (network, from): (Uuid, PortId),
        (frame, packet): (&[u8], Option<Packet>),
        fate: &Fate,
        taken: &[(Receiver, Option<Undelivered>)],
    ) -> ExplainReply {
        let (name, is_switched) = match self.networks.get(&network) {
            Some(it) => (it.model.name.to_string(), it.model.kind == NetworkKind::Switched),
            None => Default::default(),
        };
        let sender = self.who(from).name;
        let kind = if is_switched { "switched" } else { "routed" };
        let dropped = match fate {
            Fate::Dropped { reason, .. } => Some(*reason),
            _ => None,
        };
        let mut steps = Steps::new(dropped);
        steps.pass(
            Stage::Sender,
            &sender,
            format!("{kind} network {name}; {}", self.state_of(from)),
        );
        steps.pass(Stage::Frame, "", described(frame, packet));
        steps.pass(Stage::Guard, &sender, "its source is its sender's");
        let answered = match fate {
            Fate::Answered => Some("the gateway answers it"),
            Fate::Leased => Some("the gateway asks for an address, which its sender is leased"),
            Fate::Served => Some("a service of the gateway's answers it"),
            Fate::Dropped { .. } | Fate::Forwarded { .. } => None,
        };
        if let Some(text) = answered {
            steps.pass(Stage::Gateway, "", text);
            let verdict = ExplainVerdict::Answered.into();
            return ExplainReply { steps: steps.finish(), verdict, ..Default::default() };
        }
        let names: Vec<_> = taken.iter().map(|(to, _)| self.who(to.port).name).collect();
        let whom = packet.map_or("its destination".into(), |it| it.destination.to_string());
        let way = match &*names {
            [] => "nobody else is in the network".into(),
            [one] => format!("{whom} is behind {one}"),
            all => format!("flooded to {} ports", all.len()),
        };
        steps.pass(Stage::Route, &names.join(", "), way);
        if !is_switched {
            steps.pass(Stage::HopLimit, "", "hops are left");
            let cut = match fate {
                Fate::Forwarded { fragments: 2.., .. } => "it is longer, and goes on in fragments",
                _ => "it is not longer",
            };
            steps.pass(Stage::Mtu, "", cut);
        }
        steps.pass(Stage::Limit, &sender, "its sender may send as much");
        let mut delivered_to = Vec::new();
        let mut refused = dropped;
        for ((_, why), name) in taken.iter().zip(names) {
            match why {
                None => {
                    steps.pass(Stage::Receiver, &name, "it takes it");
                    delivered_to.push(name);
                }
                Some(why) => {
                    steps.drop(&name, why.reason());
                    refused = Some(why.reason());
                }
            }
        }
        let sender_is_told = matches!(fate, Fate::Dropped { is_told: true, .. });
        let steps = steps.finish();
        // One of those that it is flooded to is enough; to nobody it is delivered as well.
        let Some(reason) = refused.filter(|_| delivered_to.is_empty()) else {
            let verdict = ExplainVerdict::Delivered.into();
            return ExplainReply { steps, verdict, delivered_to, ..Default::default() };
        };
        ExplainReply {
            steps,
            verdict: ExplainVerdict::Dropped.into(),
            delivered_to,
            drop_reason: reason.name().into(),
            drop_text: reason.meaning().into(),
            sender_is_told,
        }
    }

    /// Returns in words how whoever is at a port is.
    fn state_of(&self, port: PortId) -> String {
        match self.by_port.get(&port) {
            Some(Owner::Nic(id)) => self.nics.get(id).map(|nic| match nic.state {
                proto::NicState::Active => "its VM is connected".into(),
                proto::NicState::Created => "no VM is connected: this is what one would see".into(),
                state => format!("it is {}", state.word()),
            }),
            Some(Owner::Port(id)) => {
                self.ports.get(id).map(|port| format!("it is {}", port.state.word()))
            }
            Some(Owner::Client { .. }) => Some("it is connected".into()),
            Some(Owner::Outside) | None => None,
        }
        .unwrap_or_default()
    }
}

/// Returns the MAC that a packet to an address goes to; none where nobody is known to have it.
fn mac_of(network: &NetworkState, destination: IpAddr) -> Option<MacAddr> {
    let model = &network.model;
    if model.kind == NetworkKind::Routed {
        return Some(GATEWAY_MAC);
    }
    match destination {
        IpAddr::V4(address) if address.is_broadcast() => return Some(MacAddr::BROADCAST),
        IpAddr::V4(group) if group.is_multicast() => return Some(MacAddr::ipv4_multicast(group)),
        IpAddr::V6(group) if group.is_multicast() => return Some(MacAddr::ipv6_multicast(group)),
        _ => {}
    }
    let mut vnics = network.members.values().filter_map(|member| member.entry.vnic());
    let own = vnics.find(|vnic| {
        [vnic.ipv4.map(IpAddr::V4), vnic.ipv6.map(IpAddr::V6)].contains(&Some(destination))
    });
    let leased = || {
        let mut hosts = network.hosts.leasing(Instant::now()).into_iter();
        hosts.find(|(_, host)| host.addresses.contains(&Some(destination)))
    };
    let found = own.map(|vnic| vnic.mac).or_else(|| leased().map(|(mac, _)| mac));
    let is_inside = match destination {
        IpAddr::V4(address) => model.ipv4_subnet.is_some_and(|net| net.contains(&address)),
        IpAddr::V6(address) => model.ipv6_prefix.is_some_and(|net| net.contains(&address)),
    };
    // What is elsewhere, and the gateway itself.
    let by_gateway = model.has_gateway() != HasGateway::No
        && (!is_inside || model.gateway_in_subnet().map(IpAddr::V4) == Some(destination));
    found.or(by_gateway.then_some(GATEWAY_MAC))
}
