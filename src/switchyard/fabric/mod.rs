//! The fabric itself: messages of clients in, messages to clients out, and nothing else.
//!
//! No I/O, no clock, no chance but that of a seed: the same messages at the same times come to the
//! same messages in the same order. Receivers of a frame are served by the ids of their endpoints,
//! and at an endpoint in the order in which they subscribed.
//!
//! What is refused is answered with ERROR, in the words of the seed's program where it has any, and
//! the client goes on; only one that does not begin with HELLO is to be let go.

mod carry;
mod extension;
mod lines;

use super::{
    body::{
        self, EndpointCounters, EndpointCreate, EndpointInfo, EndpointLookup, Hello, Nothing,
        Refusal, Welcome,
    },
    capture::Ring,
    filter::Filter,
    macs::Macs,
    protocol::{Kind, Message, PROMISC, VERSION},
};
use crate::{addr::MacAddr, impair::Spec};
use lines::{Lines, Way};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Endpoints at most.
const MAX_ENDPOINTS: usize = 1024;
/// Subscriptions of one endpoint at most.
const MAX_SUBSCRIPTIONS: usize = 64;

/// The endpoint that another network is: the last, so that those of clients count from 1.
const UPLINK_ID: u32 = u32::MAX;
/// Its name.
const UPLINK_NAME: &str = "network";
/// A MAC of its own, which nobody behind it has: endpoints have one.
const UPLINK_MAC: MacAddr = MacAddr([0x02, 0x53, 0x59, 0xff, 0xff, 0xff]);

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
#[derive(Debug, Default)]
pub struct Settings {
    /// How long endpoints are there.
    pub lifetime: Lifetime,
    /// Who may send as one.
    pub senders: Senders,
    /// Where all chance comes from.
    pub seed: u64,
    /// The line by which each endpoint sends.
    pub impair: Option<Spec>,
    /// Rules for what they send.
    pub filter: Filter,
    /// Octets of the last frames that are kept; 0: none.
    pub capture_ring: usize,
    /// What time it is when the fabric's is zero, since 1970.
    pub epoch: Duration,
    /// The MACs that are chosen are those after this number.
    pub macs_after: u32,
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
    /// As its HELLO has it.
    name: String,
    /// Those that it has asked for and that there are.
    extensions: BTreeSet<&'static str>,
    owned: BTreeSet<u32>,
    subscribed: BTreeSet<u32>,
}

#[derive(Debug)]
struct Endpoint {
    name: Arc<str>,
    mac: MacAddr,
    owner: ClientId,
    subscriptions: Vec<Subscription>,
    counters: EndpointCounters,
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

/// Endpoints, who hears them, and where their MACs are.
#[derive(Debug, Default)]
pub struct Fabric {
    settings: Settings,
    clients: BTreeMap<ClientId, Client>,
    last_client: u64,
    endpoints: BTreeMap<u32, Endpoint>,
    /// Never used twice: a client that knows an old one must not reach somebody else.
    last_endpoint: u32,
    by_name: BTreeMap<Arc<str>, u32>,
    macs: Macs,
    /// Endpoints with promiscuous subscribers, which hear what goes to others.
    promiscuous: BTreeSet<u32>,
    lines: Lines,
    filter: Filter,
    ring: Option<Ring>,
    filtered: u64,
    mac_not_learned: u64,
    refused_clients: u64,
}

impl Fabric {
    /// A fabric without endpoints.
    pub fn new(mut settings: Settings) -> Self {
        let filter = std::mem::take(&mut settings.filter);
        let ring = (settings.capture_ring > 0).then(|| Ring::new(settings.capture_ring));
        let macs = Macs::after(settings.macs_after);
        Self { settings, macs, filter, ring, ..Self::default() }
    }

    /// Another network is there, as an endpoint that hears what is for it. Its MACs are learned.
    pub fn connect_uplink(&mut self) -> (ClientId, u32) {
        let client = self.connect();
        let (id, name) = (UPLINK_ID, Arc::<str>::from(UPLINK_NAME));
        let subscriptions = vec![Subscription { client, flags: 0 }];
        if let Some(known) = self.clients.get_mut(&client) {
            known.is_greeted = true;
            known.owned.insert(id);
            known.subscribed.insert(id);
        }
        self.macs.own(UPLINK_MAC, id);
        self.by_name.insert(name.clone(), id);
        let counters = EndpointCounters::default();
        let endpoint = Endpoint { name, mac: UPLINK_MAC, owner: client, subscriptions, counters };
        self.endpoints.insert(id, endpoint);
        (client, id)
    }

    /// Returns a client's name, as far as it has said one.
    pub fn client_name(&self, client: ClientId) -> &str {
        self.clients.get(&client).map_or("", |client| &client.name)
    }

    /// A client was not let in.
    pub fn count_refused(&mut self) {
        self.refused_clients += 1;
    }

    /// A frame that was to be heard at an endpoint was not taken in time.
    pub fn count_lost(&mut self, endpoint: u32) {
        if let Some(endpoint) = self.endpoints.get_mut(&endpoint) {
            endpoint.counters.lost += 1;
        }
    }

    /// A client is there, and has said nothing yet.
    pub fn connect(&mut self) -> ClientId {
        self.last_client += 1;
        let id = ClientId(self.last_client);
        self.clients.insert(id, Client::default());
        id
    }

    /// A client has gone, and its subscriptions with it; its endpoints as [`Lifetime`] says. What
    /// it has sent still arrives.
    pub fn disconnect(&mut self, client: ClientId, now: Duration, out: &mut Outgoing) {
        let Some(gone) = self.clients.remove(&client) else { return };
        for id in gone.subscribed {
            if let Some(endpoint) = self.endpoints.get_mut(&id) {
                endpoint.subscriptions.retain(|subscription| subscription.client != client);
                if !endpoint.subscriptions.iter().any(|s| s.is_promiscuous()) {
                    self.promiscuous.remove(&id);
                }
            }
        }
        if self.settings.lifetime == Lifetime::Owner {
            gone.owned.into_iter().for_each(|id| self.remove(id, now, out));
        }
        self.run(now, out);
    }

    fn remove(&mut self, id: u32, now: Duration, out: &mut Outgoing) {
        for frame in self.lines.set((id, Way::From), None) {
            self.switch(id, &frame, now, out);
        }
        self.lines.set((id, Way::To), None);
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
    pub fn take(
        &mut self,
        client: ClientId,
        message: &Message,
        now: Duration,
        out: &mut Outgoing,
    ) -> Then {
        // What was due before it comes before it.
        self.run(now, out);
        let Some(sender) = self.clients.get_mut(&client) else { return Then::Close };
        if !sender.is_greeted {
            if message.kind != Kind::HELLO {
                out.push((client, refusal(&format!("expected HELLO, got {}", message.kind))));
                return Then::Close;
            }
            sender.is_greeted = true;
            // The seed's program does not look at it, so neither junk nor nothing is refused.
            let hello: Hello = body::parse(&message.payload).unwrap_or_default();
            let asked = |extension: &&str| hello.extensions.iter().any(|e| e == extension);
            // Cut like that of an endpoint: it is for the log, and may be as long as a message.
            sender.name = hello.client_name.chars().take(body::MAX_NAME).collect();
            sender.extensions = extension::EXTENSIONS.into_iter().filter(asked).collect();
            out.push((client, welcome(&sender.extensions)));
            return Then::Continue;
        }
        let answer = match message.kind {
            Kind::ENDPOINT_CREATE => self.create(client, &message.payload, now).map(Some),
            Kind::ENDPOINT_LOOKUP => self.look_up(&message.payload).map(Some),
            Kind::SUBSCRIBE => self.subscribe(client, message).map(Some),
            Kind::PACKET_OUT => self.carry(client, message, now, out).map(|()| None),
            _ => self.extend(client, message, now, out).map(Some),
        };
        let answer = answer.unwrap_or_else(|error| Some(refusal(&error)));
        out.extend(answer.map(|answer| (client, answer)));
        Then::Continue
    }

    fn create(
        &mut self,
        client: ClientId,
        payload: &[u8],
        now: Duration,
    ) -> Result<Message, String> {
        let bad = |error: &dyn std::fmt::Display| format!("bad ENDPOINT_CREATE: {error}");
        let EndpointCreate { name, mac } =
            EndpointCreate::parse(payload).map_err(|error| bad(&error))?;
        if self.by_name.contains_key(&*name) {
            return Err(format!("endpoint name already exists: {name}"));
        }
        if let Some(mac) = mac.filter(|mac| self.macs.get(*mac).is_some()) {
            return Err(format!("endpoint mac already exists: {mac}"));
        }
        if self.endpoints.len() >= MAX_ENDPOINTS {
            return Err(bad(&format_args!("there are {MAX_ENDPOINTS} endpoints already")));
        }
        let id = self.last_endpoint.checked_add(1).filter(|id| *id != UPLINK_ID);
        let Some(id) = id else {
            return Err(bad(&"every endpoint_id has been used: start the fabric again"));
        };
        self.last_endpoint = id;
        // Chosen only once nothing can be refused: no number of the sequence is left out.
        let mac = mac.unwrap_or_else(|| self.macs.choose());
        self.macs.own(mac, id);
        let name = Arc::<str>::from(name);
        self.by_name.insert(name.clone(), id);
        if let Some(owner) = self.clients.get_mut(&client) {
            owner.owned.insert(id);
        }
        let (subscriptions, counters) = (Vec::new(), EndpointCounters::default());
        let endpoint = Endpoint { name, mac, owner: client, subscriptions, counters };
        self.set_line((id, Way::From), self.settings.impair, now);
        let created = described(Kind::ENDPOINT_CREATED, id, &endpoint);
        self.endpoints.insert(id, endpoint);
        Ok(created)
    }

    fn look_up(&self, payload: &[u8]) -> Result<Message, String> {
        let EndpointLookup { name } =
            body::parse(payload).map_err(|error| format!("bad ENDPOINT_LOOKUP: {error}"))?;
        let found = self.by_name.get(&*name).and_then(|id| self.endpoints.get_key_value(id));
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
        let payload = body::write(&Nothing {});
        Ok(Message::about(Kind::SUBSCRIBED, id, message.flags, payload))
    }
}

fn welcome(extensions: &BTreeSet<&str>) -> Message {
    let extensions = extensions.iter().map(ToString::to_string).collect();
    let body = Welcome { server: "switchyardd".into(), version: VERSION, extensions };
    Message::new(Kind::WELCOME, body::write(&body))
}

/// The message that says why not.
pub fn refusal(error: &str) -> Message {
    Message::new(Kind::ERROR, body::write(&Refusal { error: error.into() }))
}

fn described(kind: Kind, id: u32, endpoint: &Endpoint) -> Message {
    let (name, mac) = (endpoint.name.to_string(), endpoint.mac);
    Message::new(kind, body::write(&EndpointInfo { endpoint_id: id, name, mac }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_called_what_its_hello_says_up_to_a_length() {
        let mut fabric = Fabric::new(Settings::default());
        let name = "n".repeat(100);
        let hello = Hello { client_name: name.clone(), ..Hello::default() };
        let client = fabric.connect();
        assert_eq!(fabric.client_name(client), "");
        let mut out = Vec::new();
        let message = Message::new(Kind::HELLO, body::write(&hello));
        let then = fabric.take(client, &message, Duration::ZERO, &mut out);
        assert_eq!(then, Then::Continue);
        assert_eq!(fabric.client_name(client), &name[..63]);
    }

    #[test]
    fn what_the_other_network_floods_does_not_come_back_to_it() {
        let mut fabric = Fabric::new(Settings::default());
        let (client, uplink) = fabric.connect_uplink();
        let mut heard = |to: u8, from: u8| {
            let frame = [[2, 0, 0, 0, 0, to], [2, 0, 0, 0, 0, from]].concat();
            let frame = [&frame[..], &[0x88, 0xb5]].concat();
            let mut out = Vec::new();
            let message = Message::about(Kind::PACKET_OUT, uplink, 0, frame);
            let then = fabric.take(client, &message, Duration::ZERO, &mut out);
            assert_eq!(then, Then::Continue);
            out.len()
        };
        // Nobody is known; then both are, on that side.
        assert_eq!([heard(2, 1), heard(1, 2), heard(2, 1)], [0; 3]);
    }
}
