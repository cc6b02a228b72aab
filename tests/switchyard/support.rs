//! A fabric of one test, and clients that speak its protocol octet by octet.

use mvirt_net::{
    addr::MacAddr,
    switchyard::protocol::{Decoder, Kind, Message, PROMISC},
    wire::{Writer, udp},
};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A fabric; ended with its value.
pub(crate) struct Fabric {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Fabric {
    pub(crate) fn start(flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt-switchyardd"));
        Self::spawn(command.args(["--listen", "127.0.0.1:0"]).args(flags))
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("[switchyardd] listening on ").unwrap();
        Self { process, address: address.parse().unwrap() }
    }

    /// Ends it in order.
    pub(crate) fn end(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.process.wait().unwrap().success());
    }

    /// A client that has said nothing.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// A client that has said HELLO.
    pub(crate) fn client(&self) -> Client {
        let mut client = self.connect();
        client.hello();
        client
    }

    /// A client with an endpoint to which it is subscribed.
    pub(crate) fn member(&self, name: &str) -> Client {
        let mut client = self.connect();
        client.join(name);
        client
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().unwrap();
    }
}

/// A connection, and the endpoint that it has, if any.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    decoder: Decoder,
    heard: Vec<(u32, u32, Vec<u8>)>,
    pub(crate) id: u32,
    pub(crate) mac: String,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let (decoder, heard) = (Decoder::default(), Vec::new());
        Self { stream, decoder, heard, id: 0, mac: String::new() }
    }

    pub(crate) fn hello(&mut self) {
        self.send(Kind::HELLO, 0, 0, json!({"client_name": "test"}));
        assert_eq!(self.answer(Kind::WELCOME)["version"], 1);
    }

    /// Says HELLO, and becomes an endpoint to which it is subscribed.
    pub(crate) fn join(&mut self, name: &str) {
        self.hello();
        let created = self.create(json!({"name": name}));
        self.id = created["endpoint_id"].as_u64().unwrap().try_into().unwrap();
        self.mac = created["mac"].as_str().unwrap().into();
        self.subscribe(self.id, 0);
    }

    pub(crate) fn send_raw(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).unwrap();
    }

    pub(crate) fn send(&mut self, kind: Kind, endpoint: u32, flags: u32, body: Value) {
        let payload = serde_json::to_vec(&body).unwrap();
        let mut octets = Vec::new();
        Message::about(kind, endpoint, flags, payload).append_to(&mut octets);
        self.send_raw(&octets);
    }

    /// The next message; none at the end of the stream.
    pub(crate) fn next(&mut self) -> Option<Message> {
        let mut octets = [0; 4096];
        loop {
            if let Some(message) = self.decoder.next_message().unwrap() {
                return Some(message);
            }
            match self.stream.read(&mut octets).unwrap() {
                0 => return None,
                len => self.decoder.push(&octets[..len]),
            }
        }
    }

    /// The next answer, which must be of this kind; frames before it are kept.
    pub(crate) fn answer(&mut self, kind: Kind) -> Value {
        loop {
            let message = self.next().expect("the fabric has closed");
            if message.kind == Kind::PACKET_IN {
                self.heard.push((message.endpoint, message.flags, message.payload.to_vec()));
                continue;
            }
            assert_eq!(message.kind, kind, "{}", String::from_utf8_lossy(&message.payload));
            return serde_json::from_slice(&message.payload).unwrap();
        }
    }

    /// The next answer, which must say why not.
    pub(crate) fn refusal(&mut self) -> String {
        self.answer(Kind::ERROR)["error"].as_str().unwrap().into()
    }

    pub(crate) fn create(&mut self, body: Value) -> Value {
        self.send(Kind::ENDPOINT_CREATE, 0, 0, body);
        self.answer(Kind::ENDPOINT_CREATED)
    }

    pub(crate) fn look_up(&mut self, name: &str) -> Value {
        self.send(Kind::ENDPOINT_LOOKUP, 0, 0, json!({"name": name}));
        self.answer(Kind::ENDPOINT_INFO)
    }

    pub(crate) fn knows(&mut self, name: &str) -> bool {
        self.send(Kind::ENDPOINT_LOOKUP, 0, 0, json!({"name": name}));
        self.next().unwrap().kind == Kind::ENDPOINT_INFO
    }

    /// The next frame, waited for.
    pub(crate) fn next_frame(&mut self) -> Vec<u8> {
        if !self.heard.is_empty() {
            return self.heard.remove(0).2;
        }
        let message = self.next().unwrap();
        assert_eq!(message.kind, Kind::PACKET_IN);
        message.payload.to_vec()
    }

    pub(crate) fn subscribe(&mut self, id: u32, flags: u32) {
        let promisc = flags & PROMISC != 0;
        let body = json!({"endpoint_id": id, "promisc": promisc});
        self.send(Kind::SUBSCRIBE, id, flags, body);
        assert_eq!(self.answer(Kind::SUBSCRIBED), json!({}));
    }

    /// Sends a frame as its endpoint, and returns once the fabric has dealt with it.
    pub(crate) fn send_frame(&mut self, frame: &[u8]) {
        self.send_frame_as(self.id, frame);
        self.sync();
    }

    pub(crate) fn send_frame_as(&mut self, id: u32, frame: &[u8]) {
        let mut octets = Vec::new();
        Message::about(Kind::PACKET_OUT, id, 0, frame).append_to(&mut octets);
        self.send_raw(&octets);
    }

    /// Returns once the fabric has dealt with all that this client has sent.
    pub(crate) fn sync(&mut self) {
        self.send(Kind::ENDPOINT_LOOKUP, 0, 0, json!({"name": "nobody"}));
        assert_eq!(self.refusal(), "no such endpoint: nobody");
    }

    /// The frames it has been sent until now, with endpoint and flags.
    pub(crate) fn heard(&mut self) -> Vec<(u32, u32, Vec<u8>)> {
        self.sync();
        std::mem::take(&mut self.heard)
    }

    /// Those frames alone.
    pub(crate) fn frames(&mut self) -> Vec<Vec<u8>> {
        self.heard().into_iter().map(|(.., frame)| frame).collect()
    }
}

/// A frame between MACs, of an EtherType that nobody knows.
pub(crate) fn frame(to: &str, from: &str, payload: &[u8]) -> Vec<u8> {
    let mac = |text: &str| text.parse::<mvirt_net::addr::MacAddr>().unwrap().0;
    [&mac(to)[..], &mac(from), &[0xbe, 0xef], payload].concat()
}

/// A client with an IPv4 address, which speaks ARP and UDP.
pub(crate) struct Member<'a> {
    pub(crate) client: &'a mut Client,
    pub(crate) address: Ipv4Addr,
}

/// The port that such a client sends from.
const PORT: u16 = 40_000;

fn mac_of(text: &str) -> MacAddr {
    text.parse().unwrap()
}

fn ipv4_udp(
    (from_mac, from, from_port): (&str, Ipv4Addr, u16),
    (to_mac, to, to_port): (&str, Ipv4Addr, u16),
    payload: &[u8],
) -> Vec<u8> {
    let mut octets = [0; 1600];
    let mut writer = Writer::new(&mut octets);
    writer.push(&mac_of(to_mac)).unwrap();
    writer.push(&mac_of(from_mac)).unwrap();
    writer.push_slice(&[8, 0]).unwrap();
    udp::write_ipv4(&mut writer, (from, from_port), (to, to_port), payload).unwrap();
    let len = writer.len();
    octets[..len].to_vec()
}

impl Member<'_> {
    pub(crate) fn send_arp(&mut self, target: Ipv4Addr) {
        let mac = mac_of(&self.client.mac);
        let mut sent = [&[0xff; 6][..], &mac.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac.0].concat();
        sent.extend(self.address.octets());
        sent.extend([0; 6]);
        sent.extend(target.octets());
        self.client.send_frame(&sent);
    }

    pub(crate) fn udp(&self, mac: &str, to: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
        ipv4_udp((&self.client.mac, self.address, PORT), (mac, to, port), payload)
    }

    pub(crate) fn send_udp(&mut self, mac: &str, to: Ipv4Addr, port: u16, payload: &[u8]) {
        let sent = self.udp(mac, to, port, payload);
        self.client.send_frame(&sent);
    }

    /// What comes back to what `udp` sends.
    pub(crate) fn answer(&self, mac: &str, from: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
        ipv4_udp((mac, from, port), (&self.client.mac, self.address, PORT), payload)
    }
}
