//! A question to servers (RFC 1035 §7, RFC 5452): by UDP from a port of its own, with a number and
//! a case of letters that nobody can guess, and by TCP where an answer is longer than a datagram.
//!
//! ```text
//! twice: each server in turn ─ UDP ┬ an answer ──▶ done
//!                                  ├ truncated ──▶ TCP
//!                                  ├ of another case, or EDNS not known ──▶ once more without
//!                                  └ silence, SERVFAIL, REFUSED … ──▶ the next one
//! ```

use super::{
    Key, PATIENCE,
    servers::{Habits, Lack},
};
use crate::{
    mutex::lock,
    wire::{
        Writer,
        dns_answer::{Answer, Wants, write_query},
        dns_message::Code,
    },
};
use rustix::rand::{GetRandomFlags, getrandom};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Mutex,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout},
};

/// How often each server is asked.
const TRIES: u32 = 2;
/// How long one is waited for at least, however many there are.
const LEAST_PATIENCE: Duration = Duration::from_millis(500);
/// Octets of a query: a name of 255 is the longest.
const MAX_QUERY: usize = 300;
/// Octets of a datagram that is read. What servers were asked for is less.
const MAX_DATAGRAM: usize = 4096;

/// What a server makes of a question.
enum Outcome {
    Answered(Vec<u8>),
    /// There is more, by TCP.
    Truncated,
    /// It is asked again without this.
    Lacks(Lack),
    /// It cannot tell.
    Failed,
}

/// Returns the message of a server that knows the answer, which is well-formed and to this
/// question; `None` where none does.
pub(super) async fn ask(key: &Key, habits: &Mutex<Habits>) -> Option<Vec<u8>> {
    let order = lock(habits).order(&key.servers, now());
    let each = PATIENCE / (TRIES * u32::try_from(order.len()).ok()?.max(1));
    for _ in 0..TRIES {
        for server in &order {
            if let Some(message) = ask_one(key, *server, each.max(LEAST_PATIENCE), habits).await {
                return Some(message);
            }
        }
    }
    None
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Asks one server, in the ways that it knows.
async fn ask_one(
    key: &Key,
    server: SocketAddr,
    patience: Duration,
    habits: &Mutex<Habits>,
) -> Option<Vec<u8>> {
    let lacks = |lack| lock(habits).lacks(server, lack, now());
    // One that lacks both is asked three times.
    for _ in 0..3 {
        let question = Question::new(key, !lacks(Lack::Case), !lacks(Lack::Edns)).ok()?;
        let outcome = match timeout(patience, by_udp(&question, server)).await {
            Err(_) => {
                lock(habits).note(server, Lack::Answers, now());
                return None;
            }
            Ok(Err(error)) => {
                tracing::debug!(%server, %error, "a server of names cannot be asked");
                lock(habits).note(server, Lack::Answers, now());
                return None;
            }
            Ok(Ok(outcome)) => outcome,
        };
        match outcome {
            Outcome::Answered(message) => {
                lock(habits).forget(server, Lack::Answers);
                return Some(message);
            }
            Outcome::Truncated => {
                return timeout(patience, by_tcp(&question, server)).await.ok()?.ok()?;
            }
            Outcome::Lacks(lack) => lock(habits).note(server, lack, now()),
            // It may know others.
            Outcome::Failed => return None,
        }
    }
    None
}

/// A question as it is written to a server.
struct Question {
    octets: Vec<u8>,
    id: u16,
    /// The name, in a case that is its own.
    name: Box<[u8]>,
    kind: u16,
    is_mixed: bool,
    has_edns: bool,
}

impl Question {
    fn new(key: &Key, is_mixed: bool, has_edns: bool) -> io::Result<Self> {
        let mut chance = [0; 2 + 32];
        getrandom(&mut chance, GetRandomFlags::empty())?;
        let [first, second, bits @ ..] = chance;
        let id = u16::from_be_bytes([first, second]);
        let mut name = key.name.clone();
        if is_mixed {
            mix(&mut name, &bits);
        }
        let wants = Wants {
            kind: key.kind,
            signatures: key.signatures,
            unchecked: key.unchecked,
            edns: has_edns,
        };
        let mut octets = [0; MAX_QUERY];
        let mut writer = Writer::new(&mut octets);
        let written = write_query(&mut writer, id, &name, &wants);
        written.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let octets = writer.since(0).to_vec();
        Ok(Self { octets, id, name, kind: key.kind, is_mixed, has_edns })
    }

    /// Returns what a message is to this question; `None` where it is none of its.
    fn hear(&self, message: &[u8]) -> Option<Outcome> {
        let Some(answer) = Answer::parse(message) else {
            // Servers that cannot read a question may leave it out (RFC 6891 §7).
            let is_ours = message.first_chunk() == Some(&self.id.to_be_bytes());
            let code = message.get(3).map(|octet| u16::from(octet & 0xf));
            let is_refused = is_ours && code == Some(Code::FormErr as u16) && self.has_edns;
            return is_refused.then_some(Outcome::Lacks(Lack::Edns));
        };
        let name = answer.name.octets();
        let is_ours = answer.id() == self.id
            && answer.kind == self.kind
            && name.eq_ignore_ascii_case(&self.name);
        if !is_ours {
            return None;
        }
        if self.is_mixed && name != &*self.name {
            return Some(Outcome::Lacks(Lack::Case));
        }
        let lacks_edns = [Code::FormErr, Code::NotImp, Code::BadVers].map(|code| code as u16);
        Some(match answer.code {
            _ if answer.is_truncated() => Outcome::Truncated,
            code if code == Code::NoError as u16 || code == Code::NxDomain as u16 => {
                Outcome::Answered(message.to_vec())
            }
            code if self.has_edns && lacks_edns.contains(&code) => Outcome::Lacks(Lack::Edns),
            _ => Outcome::Failed,
        })
    }
}

/// Writes letters of a name large or small, as bits are: whoever answers without having seen it has
/// to guess those, too (draft-vixie-dnsext-dns0x20).
// An octet of a length is no letter.
fn mix(name: &mut [u8], bits: &[u8]) {
    for (at, octet) in name.iter_mut().enumerate() {
        if bits.get(at / 8).is_some_and(|octet| octet >> (at % 8) & 1 == 1) {
            octet.make_ascii_uppercase();
        }
    }
}

/// Asks by UDP, and waits for what is to this question.
async fn by_udp(question: &Question, server: SocketAddr) -> io::Result<Outcome> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // The kernel picks a port by chance.
    let socket = UdpSocket::bind((any, 0)).await?;
    // From here on what others send is not heard, and that nobody is there is.
    socket.connect(server).await?;
    socket.send(&question.octets).await?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let len = socket.recv(&mut buffer).await?;
        // Who guesses has no second try: the right one is waited for.
        if let Some(outcome) = question.hear(buffer.get(..len).unwrap_or(&[])) {
            return Ok(outcome);
        }
    }
}

/// Asks by TCP; `None` where the server cannot tell.
async fn by_tcp(question: &Question, server: SocketAddr) -> io::Result<Option<Vec<u8>>> {
    let mut stream = TcpStream::connect(server).await?;
    // At most 300 octets, in one piece (RFC 7766 §8).
    let len = (question.octets.len() as u16).to_be_bytes();
    stream.write_all(&[&len[..], &question.octets].concat()).await?;
    let len = stream.read_u16().await?;
    let mut message = vec![0; len.into()];
    stream.read_exact(&mut message).await?;
    Ok(match question.hear(&message) {
        Some(Outcome::Answered(message)) => Some(message),
        _ => None,
    })
}
