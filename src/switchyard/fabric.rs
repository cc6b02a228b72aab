//! The fabric itself: messages of clients in, messages to clients out, and nothing else.
//!
//! No I/O, no clock, no chance: the same messages in the same order come to the same messages in
//! the same order. Receivers of a frame are served by the ids of their endpoints, and at an
//! endpoint in the order in which they subscribed.
//!
//! What is refused is answered with ERROR, in the words of the seed's program where it has any, and
//! the client goes on; only one that does not begin with HELLO is to be let go.

use super::{
    body::{self, EndpointCreate, EndpointInfo, EndpointLookup, Refusal, Subscribed, Welcome},
    macs::Macs,
    protocol::{Kind, MAX_PAYLOAD, Message, PROMISC, VERSION},
};
use crate::{addr::MacAddr, wire::ethernet};
use std::collections::{BTreeMap, BTreeSet};

/// Endpoints at most.
const MAX_ENDPOINTS: usize = 1024;
/// Subscriptions of one endpoint at most.
const MAX_SUBSCRIPTIONS: usize = 64;

/// How long an endpoint is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lifetime {
    /// Until its owner disconnects, so that a client which comes back finds its name free.
    #[default]
    Owner,
    /// For ever, as in the seed's program.
    Fabric,
}

/// Who may send as an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Senders {
    /// Its owner.
    #[default]
    Owner,
    /// Any client, as in the seed's program.
    Anyone,
}

/// What is left to whoever runs a fabric.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    /// How long endpoints are there.
    pub lifetime: Lifetime,
    /// Who may send as one.
    pub senders: Senders,
}

/// A connected client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(u64);

/// What becomes of a client after its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Then {
    /// It goes on.
    Continue,
    /// It is let go, once it has been sent what there is for it.
    Close,
}

/// Messages that are to be sent, in this order.
pub type Outgoing = Vec<(ClientId, Message)>;

#[derive(Debug, Default)]
struct Client {
    is_greeted: bool,
    owned: BTreeSet<u32>,
    subscribed: BTreeSet<u32>,
}

#[derive(Debug)]
struct Endpoint {
    name: String,
    mac: MacAddr,
    owner: ClientId,
    subscriptions: Vec<Subscription>,
}

#[derive(Debug, Clone, Copy)]
struct Subscription {
    client: ClientId,
    flags: u32,
}

impl Subscription {
    fn is_promiscuous(self) -> bool {
        self.flags & PROMISC != 0
    }
}

/// Who a frame goes to, promiscuous subscribers aside.
#[derive(Debug, Clone, Copy)]
enum Receivers {
    One(u32),
    AllBut(u32),
}

impl Receivers {
    fn include(self, endpoint: u32) -> bool {
        match self {
            Self::One(receiver) => endpoint == receiver,
            Self::AllBut(sender) => endpoint != sender,
        }
    }
}

/// Endpoints, who hears them, and where their MACs are.
#[derive(Debug, Default)]
pub struct Fabric {
    rules: Rules,
    clients: BTreeMap<ClientId, Client>,
    last_client: u64,
    endpoints: BTreeMap<u32, Endpoint>,
    /// Never used twice: a client that knows an old one must not reach somebody else.
    last_endpoint: u32,
    by_name: BTreeMap<String, u32>,
    macs: Macs,
    /// Endpoints with promiscuous subscribers, which hear what goes to others.
    promiscuous: BTreeSet<u32>,
}

impl Fabric {
    /// A fabric without endpoints.
    pub fn new(rules: Rules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// A client is there, and has said nothing yet.
    pub fn connect(&mut self) -> ClientId {
        self.last_client += 1;
        let id = ClientId(self.last_client);
        self.clients.insert(id, Client::default());
        id
    }

    /// A client has gone, and its subscriptions with it; its endpoints as [`Lifetime`] says.
    pub fn disconnect(&mut self, client: ClientId) {
        let Some(gone) = self.clients.remove(&client) else { return };
        for id in gone.subscribed {
            if let Some(endpoint) = self.endpoints.get_mut(&id) {
                endpoint.subscriptions.retain(|subscription| subscription.client != client);
                if !endpoint.subscriptions.iter().any(|s| s.is_promiscuous()) {
                    self.promiscuous.remove(&id);
                }
            }
        }
        if self.rules.lifetime == Lifetime::Owner {
            gone.owned.into_iter().for_each(|id| self.remove(id));
        }
    }

    fn remove(&mut self, id: u32) {
        let Some(endpoint) = self.endpoints.remove(&id) else { return };
        self.by_name.remove(&endpoint.name);
        self.macs.forget(id);
        self.promiscuous.remove(&id);
        for subscription in endpoint.subscriptions {
            if let Some(client) = self.clients.get_mut(&subscription.client) {
                client.subscribed.remove(&id);
            }
        }
    }

    /// Takes a client's message, and appends what it comes to.
    pub fn take(&mut self, client: ClientId, message: &Message, out: &mut Outgoing) -> Then {
        let Some(sender) = self.clients.get_mut(&client) else { return Then::Close };
        if !sender.is_greeted {
            if message.kind != Kind::HELLO {
                out.push((client, refusal(&format!("expected HELLO, got {}", message.kind))));
                return Then::Close;
            }
            sender.is_greeted = true;
            out.push((client, welcome()));
            return Then::Continue;
        }
        let answer = match message.kind {
            Kind::ENDPOINT_CREATE => self.create(client, &message.payload).map(Some),
            Kind::ENDPOINT_LOOKUP => self.look_up(&message.payload).map(Some),
            Kind::SUBSCRIBE => self.subscribe(client, message).map(Some),
            Kind::PACKET_OUT => self.carry(client, message, out).map(|()| None),
            kind => Err(format!("unknown message type: {kind}")),
        };
        let answer = answer.unwrap_or_else(|error| Some(refusal(&error)));
        out.extend(answer.map(|answer| (client, answer)));
        Then::Continue
    }

    fn create(&mut self, client: ClientId, payload: &[u8]) -> Result<Message, String> {
        let bad = |error: &dyn std::fmt::Display| format!("bad ENDPOINT_CREATE: {error}");
        let EndpointCreate { name, mac } =
            EndpointCreate::parse(payload).map_err(|error| bad(&error))?;
        if self.by_name.contains_key(&name) {
            return Err(format!("endpoint name already exists: {name}"));
        }
        if let Some(mac) = mac.filter(|mac| self.macs.get(*mac).is_some()) {
            return Err(format!("endpoint mac already exists: {mac}"));
        }
        if self.endpoints.len() >= MAX_ENDPOINTS {
            return Err(bad(&format_args!("there are {MAX_ENDPOINTS} endpoints already")));
        }
        let Some(id) = self.last_endpoint.checked_add(1) else {
            return Err(bad(&"every endpoint_id has been used: start the fabric again"));
        };
        self.last_endpoint = id;
        // Chosen only once nothing can be refused: no number of the sequence is left out.
        let mac = mac.unwrap_or_else(|| self.macs.choose());
        self.macs.own(mac, id);
        self.by_name.insert(name.clone(), id);
        if let Some(owner) = self.clients.get_mut(&client) {
            owner.owned.insert(id);
        }
        let endpoint = Endpoint { name, mac, owner: client, subscriptions: Vec::new() };
        let created = described(Kind::ENDPOINT_CREATED, id, &endpoint);
        self.endpoints.insert(id, endpoint);
        Ok(created)
    }

    fn look_up(&self, payload: &[u8]) -> Result<Message, String> {
        let EndpointLookup { name } =
            body::parse(payload).map_err(|error| format!("bad ENDPOINT_LOOKUP: {error}"))?;
        let found = self.by_name.get(&name).and_then(|id| self.endpoints.get_key_value(id));
        let (id, endpoint) = found.ok_or_else(|| format!("no such endpoint: {name}"))?;
        Ok(described(Kind::ENDPOINT_INFO, *id, endpoint))
    }

    fn subscribe(&mut self, client: ClientId, message: &Message) -> Result<Message, String> {
        let id = message.endpoint;
        let endpoint = self.endpoints.get_mut(&id);
        let endpoint = endpoint.ok_or_else(|| format!("subscribe: unknown endpoint_id {id}"))?;
        if endpoint.subscriptions.len() >= MAX_SUBSCRIPTIONS {
            return Err(format!(
                "subscribe: endpoint {id} has {MAX_SUBSCRIPTIONS} subscribers already"
            ));
        }
        let subscription = Subscription { client, flags: message.flags };
        endpoint.subscriptions.push(subscription);
        if subscription.is_promiscuous() {
            self.promiscuous.insert(id);
        }
        if let Some(client) = self.clients.get_mut(&client) {
            client.subscribed.insert(id);
        }
        let payload = body::write(&Subscribed {});
        Ok(Message::about(Kind::SUBSCRIBED, id, message.flags, payload))
    }

    fn carry(
        &mut self,
        client: ClientId,
        message: &Message,
        out: &mut Outgoing,
    ) -> Result<(), String> {
        let (id, frame) = (message.endpoint, &message.payload);
        let endpoint = self.endpoints.get(&id);
        let endpoint =
            endpoint.ok_or_else(|| format!("PACKET_OUT: unknown src endpoint_id {id}"))?;
        if endpoint.owner != client && self.rules.senders == Senders::Owner {
            return Err(format!("PACKET_OUT: endpoint {id} belongs to another client"));
        }
        let header = ethernet::Header::parse(frame).filter(|_| frame.len() <= MAX_PAYLOAD);
        let Some((header, _)) = header else {
            return Err(format!(
                "PACKET_OUT: bad ethernet frame: {} octets; expected {}-{MAX_PAYLOAD}",
                frame.len(),
                ethernet::HEADER_LEN
            ));
        };
        self.macs.learn(header.source, id);
        let receivers = match self.macs.get(header.destination) {
            Some(receiver) => Receivers::One(receiver),
            // Groups are never learned: they, too, are heard by all.
            None => Receivers::AllBut(id),
        };
        self.deliver(receivers, message, out);
        Ok(())
    }

    fn deliver(&self, receivers: Receivers, sent: &Message, out: &mut Outgoing) {
        let mut hear = |id: u32, endpoint: &Endpoint| {
            for subscription in &endpoint.subscriptions {
                if receivers.include(id) || subscription.is_promiscuous() {
                    let flags = subscription.flags;
                    let frame = sent.payload.clone();
                    let heard = Message::about(Kind::PACKET_IN, id, flags, frame);
                    out.push((subscription.client, heard));
                }
            }
        };
        match receivers {
            Receivers::AllBut(_) => self.endpoints.iter().for_each(|(id, at)| hear(*id, at)),
            Receivers::One(receiver) => {
                // By id, the receiver in its place among those that hear everything.
                let before = self.promiscuous.range(..receiver);
                let after = self.promiscuous.range(receiver..).filter(|id| **id != receiver);
                for id in before.chain([&receiver]).chain(after) {
                    if let Some(endpoint) = self.endpoints.get(id) {
                        hear(*id, endpoint);
                    }
                }
            }
        }
    }
}

/// The answer to HELLO, whatever is in it: the seed's program does not look.
fn welcome() -> Message {
    let body = Welcome { server: "switchyardd".into(), version: VERSION, extensions: Vec::new() };
    Message::new(Kind::WELCOME, body::write(&body))
}

/// The message that says why not.
pub fn refusal(error: &str) -> Message {
    Message::new(Kind::ERROR, body::write(&Refusal { error: error.into() }))
}

fn described(kind: Kind, id: u32, endpoint: &Endpoint) -> Message {
    let (name, mac) = (endpoint.name.clone(), endpoint.mac);
    Message::new(kind, body::write(&EndpointInfo { endpoint_id: id, name, mac }))
}
