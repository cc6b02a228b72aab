//! One check of a backend: a connection (RFC 9293), a request by HTTP/1.1 (RFC 9110), or an echo
//! request (RFC 792, RFC 4443). An error says in short what was wrong.

use http_body_util::Empty;
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    pin::pin,
};
use tokio::net::{TcpStream, UdpSocket};
use uuid::Uuid;

/// Octets of the head of an answer that are read at most.
// hyper's least.
const MAX_HEAD: usize = 8 * 1024;
/// Types of echo requests and replies (RFC 792; RFC 4443 §4).
const ECHO4: [u8; 2] = [8, 0];
const ECHO6: [u8; 2] = [128, 129];

/// What is asked of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asks {
    /// That it takes a connection.
    Connection(SocketAddr),
    /// That it answers a request for a path by 2xx or 3xx.
    Page(SocketAddr, String),
    /// That it answers an echo request.
    Echo(IpAddr),
}

impl Asks {
    /// Asks once. It takes as long as the other end does.
    pub(super) async fn once(&self) -> io::Result<()> {
        match self {
            Self::Connection(to) => TcpStream::connect(to).await.map(drop),
            Self::Page(to, path) => page(*to, path).await,
            Self::Echo(to) => echo(*to).await,
        }
    }
}

async fn page(to: SocketAddr, path: &str) -> io::Result<()> {
    let stream = TcpStream::connect(to).await?;
    let handshake = http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(io::Error::other)?;
    let request = Request::get(path)
        .header(HOST, to.to_string())
        .header(USER_AGENT, "mvirt-net")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    // Both in this task: they end with the check. What follows the head is not read.
    let mut answer = pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // The answer may have come with the end, and else says what was wrong.
        _ = connection => answer.await,
    };
    let status = answer.map_err(io::Error::other)?.status();
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(bad(status)) }
}

fn bad(status: StatusCode) -> io::Error {
    io::Error::other(format!("it answers {}", status.as_u16()))
}

/// Opens a socket for echo requests, which needs no rights where the group of this process is in
/// `net.ipv4.ping_group_range` (icmp(7)).
fn ping_socket(is_ipv4: bool) -> io::Result<OwnedFd> {
    let (family, protocol) = if is_ipv4 {
        (AddressFamily::INET, ipproto::ICMP)
    } else {
        (AddressFamily::INET6, ipproto::ICMPV6)
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::DGRAM, flags, Some(protocol))?)
}

/// Returns why this process cannot send echo requests of a family, if it cannot.
pub fn can_ping(is_ipv4: bool) -> io::Result<()> {
    ping_socket(is_ipv4).map(drop)
}

async fn echo(to: IpAddr) -> io::Result<()> {
    let [request, reply] = if to.is_ipv4() { ECHO4 } else { ECHO6 };
    // It sends and receives as one of UDP does.
    let socket = UdpSocket::from_std(ping_socket(to.is_ipv4())?.into())?;
    socket.connect((to, 0)).await?;
    // The kernel fills in checksum and identifier. Only who has got it knows the rest, so that no
    // late reply to another is taken for one to this.
    let said = Uuid::new_v4().into_bytes();
    let header = [request, 0, 0, 0, 0, 0, 0, 1];
    socket.send(&[&header[..], &said].concat()).await?;
    let mut heard = [0; 128];
    loop {
        let len = socket.recv(&mut heard).await?;
        let heard = heard.get(..len).unwrap_or_default();
        if heard.first() == Some(&reply) && heard.get(header.len()..) == Some(&said) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    /// What a check of a server comes to that answers all requests alike, and the first of these.
    async fn asked(answer: &'static str) -> (io::Result<()>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let len = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            request.truncate(len);
            String::from_utf8(request).unwrap()
        });
        let outcome = Asks::Page(at, "/healthz?deep=1".into()).once().await;
        (outcome, served.await.unwrap())
    }

    #[tokio::test]
    async fn a_page_is_asked_for_and_its_status_counts() {
        let (outcome, request) = asked("HTTP/1.1 204 No Content\r\n\r\n").await;
        outcome.unwrap();
        assert!(
            request.starts_with("GET /healthz?deep=1 HTTP/1.1\r\nhost: 127.0.0.1:"),
            "{request}"
        );
        assert!(request.contains("connection: close\r\n"), "{request}");
        asked("HTTP/1.0 301 Moved\r\nLocation: /\r\n\r\n").await.0.unwrap();
        for (answer, why) in [
            ("HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\n", "it answers 503"),
            ("HTTP/1.1 404 Not Found\r\n\r\n", "it answers 404"),
            ("SSH-2.0-OpenSSH_9.2\r\n", "invalid HTTP version parsed"),
        ] {
            assert_eq!(asked(answer).await.0.unwrap_err().to_string(), why);
        }
        asked("").await.0.unwrap_err();
    }

    #[tokio::test]
    async fn a_connection_is_enough_or_refused() {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let asks = Asks::Connection(listener.local_addr().unwrap());
        asks.once().await.unwrap();
        drop(listener);
        let refused = asks.once().await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
