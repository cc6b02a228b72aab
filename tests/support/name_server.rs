//! A DNS server of others, with the habits of good and bad ones: what it does with a question is in
//! the name that is asked for.

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, PTR, SOA, TXT},
    },
};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// A question that was asked: its name in small letters, by which transport, and from which port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) name: String,
    pub(crate) by: &'static str,
    pub(crate) port: u16,
    pub(crate) id: u16,
    /// As it was written.
    pub(crate) written: String,
    pub(crate) has_edns: bool,
}

/// The server, until dropped.
pub(crate) struct NameServer {
    asked: Arc<Mutex<Vec<Asked>>>,
    has_ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl NameServer {
    /// One at an address of this thread's namespace, which says that names have `address`.
    pub(crate) fn start(at: &str, address: [u8; 4]) -> Self {
        let at: SocketAddr = at.parse().unwrap();
        let (udp, tcp) = (UdpSocket::bind(at).unwrap(), TcpListener::bind(at).unwrap());
        // Both look now and then whether it has ended.
        udp.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let (asked, has_ended) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let of_udp = (Arc::clone(&asked), Arc::clone(&has_ended));
        let of_tcp = (Arc::clone(&asked), Arc::clone(&has_ended));
        let threads = vec![
            thread::spawn(move || serve_udp(&udp, address, &of_udp.0, &of_udp.1)),
            thread::spawn(move || serve_tcp(&tcp, address, &of_tcp.0, &of_tcp.1)),
        ];
        Self { asked, has_ended, threads }
    }

    /// What it was asked for by this name.
    pub(crate) fn asked(&self, name: &str) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.name == name).cloned().collect()
    }

    /// Everything that it was asked for.
    pub(crate) fn all_asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.has_ended.store(true, Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

fn serve_udp(
    socket: &UdpSocket,
    address: [u8; 4],
    asked: &Mutex<Vec<Asked>>,
    has_ended: &AtomicBool,
) {
    let mut buffer = [0; 2048];
    while !has_ended.load(Relaxed) {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        for answer in answers(&buffer[..len], address, ("udp", from), asked) {
            socket.send_to(&answer, from).ok();
        }
    }
}

fn serve_tcp(
    listener: &TcpListener,
    address: [u8; 4],
    asked: &Mutex<Vec<Asked>>,
    has_ended: &AtomicBool,
) {
    while !has_ended.load(Relaxed) {
        let Ok((mut stream, from)) = listener.accept() else {
            thread::park_timeout(Duration::from_millis(10));
            continue;
        };
        stream.set_nonblocking(false).unwrap();
        let (mut len, mut query) = ([0; 2], Vec::new());
        stream.read_exact(&mut len).unwrap();
        query.resize(u16::from_be_bytes(len).into(), 0);
        stream.read_exact(&mut query).unwrap();
        for answer in answers(&query, address, ("tcp", from), asked) {
            let len = (answer.len() as u16).to_be_bytes();
            stream.write_all(&[&len[..], &answer].concat()).unwrap();
        }
    }
}

/// Returns the messages that answer a query, in order.
fn answers(
    query: &[u8],
    address: [u8; 4],
    (by, from): (&'static str, SocketAddr),
    asked: &Mutex<Vec<Asked>>,
) -> Vec<Vec<u8>> {
    let query = Message::from_vec(query).unwrap();
    let question = query.queries[0].clone();
    let written = question.name().to_ascii();
    let name = written.to_ascii_lowercase();
    asked.lock().unwrap().push(Asked {
        name: name.clone(),
        by,
        port: from.port(),
        id: query.metadata.id,
        written: written.clone(),
        has_edns: query.edns.is_some(),
    });
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.add_query(question.clone());
    answer.metadata.recursion_available = true;
    answer.edns = query.edns.clone();
    let mut give = |data: RData| {
        answer.add_answer(Record::from_rdata(question.name().clone(), 60, data));
    };
    let octets = |message: &Message| vec![message.to_vec().unwrap()];
    let label = name.split('.').next().unwrap();
    match (label, question.query_type()) {
        ("silent", _) => return vec![],
        ("fails", _) => answer.metadata.response_code = ResponseCode::ServFail,
        ("nothing", _) => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            let zone = Name::from_ascii("example.").unwrap();
            let start = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, 30);
            answer.authorities.push(Record::from_rdata(zone, 60, RData::SOA(start)));
        }
        ("long", RecordType::TXT) => {
            (0..20).for_each(|n| give(RData::TXT(TXT::new(vec![format!("{n:0100}")]))));
            if by == "udp" {
                answer.answers.clear();
                answer.metadata.truncation = true;
            }
        }
        ("many", RecordType::A) => {
            (0..100).for_each(|n| give(RData::A(A::new(192, 0, 2, n))));
            if by == "udp" {
                answer.answers.clear();
                answer.metadata.truncation = true;
            }
        }
        ("old", _) if query.edns.is_some() => {
            answer.metadata.response_code = ResponseCode::FormErr;
            answer.edns = None;
        }
        (_, RecordType::PTR) => give(RData::PTR(PTR(Name::from_ascii("found.example.").unwrap()))),
        (_, RecordType::A) => give(RData::A(A(address.into()))),
        _ => {}
    }
    match label {
        // As it looks on the way: octets are changed where the question stands.
        "folded" => {
            let mut octets = answer.to_vec().unwrap();
            octets[12..12 + name.len()].make_ascii_lowercase();
            vec![octets]
        }
        // Others have guessed: a number, a name, and a case; and an answer that nobody can read.
        "guessed" => {
            let wrong = |change: &dyn Fn(&mut Message)| {
                let mut wrong = answer.clone();
                wrong.answers[0].data = RData::A(A::new(6, 6, 6, 6));
                change(&mut wrong);
                wrong.to_vec().unwrap()
            };
            let other = wrong(&|it| it.metadata.id ^= 1);
            let mut name = wrong(&|_| {});
            name[13] = b'x';
            let query =
                wrong(&|it| it.metadata.message_type = hickory_proto::op::MessageType::Query);
            let mut cut = wrong(&|_| {});
            cut.pop();
            vec![other, name, query, cut, answer.to_vec().unwrap()]
        }
        "slow" => {
            thread::park_timeout(Duration::from_millis(300));
            octets(&answer)
        }
        _ => octets(&answer),
    }
}
