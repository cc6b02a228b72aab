//! VDE's requests to a switch and its replies, on the control socket of a switch's directory
//! (vde-2, datasock.c). No RFC: C's structures as in memory, packed, in the host's order.
//!
//! A client sends one request that names its own datagram socket; the switch replies with the name
//! of the socket that it made for this client, and neither sends anything more. Each datagram is a
//! frame then, and the end of the control connection is the unplugging of the cable.

use super::{Full, Writer};
use std::fmt;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, native_endian::U16, native_endian::U32,
};

/// What every request begins with.
const MAGIC: u32 = 0xfeed_face;
/// The version that has a number. The first had none: the type is in its place, which is below 2.
const VERSION: u32 = 3;
/// A port for frames.
const NEW_CONTROL: u8 = 0;
/// The port of the management, number 0.
const NEW_PORT0: u8 = 1;
/// AF_UNIX of Linux.
const UNIX: u16 = 1;
/// Octets of `sun_path` (unix(7)).
const PATH_LEN: usize = 108;

/// The longest request that a switch reads; what is behind is cut from the description.
// Only what clients describe themselves with is that long: 128 octets, of libvdeplug.
pub const MAX_REQUEST: usize = 256;
/// Octets of a reply.
pub const REPLY_LEN: usize = 110;
/// The longest description that clients send.
pub const MAX_DESCRIPTION: usize = 128;
const _: () = assert!(size_of::<SocketName>() == REPLY_LEN);
const _: () = assert!(size_of::<Head>() == 122);
const _: () = assert!(size_of::<FirstHead>() == 124);

/// The name of a socket, as the kernel takes it: `struct sockaddr_un`.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SocketName {
    family: U16,
    path: [u8; PATH_LEN],
}

/// What a [`SocketName`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named<'a> {
    /// A file.
    Path(&'a [u8]),
    /// A name that is no file's: all octets behind the first, also those that nobody has set. The
    /// clients of uml_switch, as UML's driver `daemon`, have such names.
    Abstract(&'a [u8]),
}

impl SocketName {
    /// Returns the name of the socket at `path`, which ends before its last octet.
    pub fn at_path(path: &[u8]) -> Option<Self> {
        let mut name = Self { family: U16::new(UNIX), path: [0; PATH_LEN] };
        let is_path = !path.is_empty() && !path.contains(&0) && path.len() < PATH_LEN;
        name.path.get_mut(..path.len()).filter(|_| is_path)?.copy_from_slice(path);
        Some(name)
    }

    /// Returns what it says. None: it is not a UNIX socket's.
    pub fn named(&self) -> Option<Named<'_>> {
        if self.family.get() != UNIX {
            return None;
        }
        // It need not end with a zero (unix(7), "Pathname sockets").
        match self.path.split(|octet| *octet == 0).next() {
            None | Some([]) => self.path.get(1..).map(Named::Abstract),
            Some(path) => Some(Named::Path(path)),
        }
    }
}

impl fmt::Debug for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.named() {
            Some(Named::Path(path)) => write!(f, "{}", path.escape_ascii()),
            Some(Named::Abstract(name)) => write!(f, "@{}", name.escape_ascii()),
            None => write!(f, "family {}", self.family),
        }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    magic: U32,
    version: U32,
    /// The type, and above it the number of the port.
    what: U32,
    socket: SocketName,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FirstHead {
    magic: U32,
    what: U32,
    mac: [u8; 6],
    socket: SocketName,
}

/// Which port of the switch a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedPort {
    /// Whichever is free.
    Any,
    /// The management's, number 0.
    Management,
    /// The one of this number.
    Number(u32),
}

/// What a client asks a switch for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Which port it wants.
    pub port: WantedPort,
    /// The client's own socket, from and to which frames go.
    pub socket: SocketName,
    /// How the client describes itself: any octets.
    pub description: &'a [u8],
}

/// Why octets are no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRequest {
    /// It ends before the client's socket does.
    #[error("a request of {0} octets, which is too short")]
    Short(usize),
    /// It is something else.
    #[error("no request of VDE's: it begins with {0:#010x}")]
    Magic(u32),
    /// Nobody knows it.
    #[error("a request of version {0}")]
    Version(u32),
    /// Nobody knows it.
    #[error("a request of type {0}")]
    Type(u8),
    /// The client's socket is not a UNIX one.
    #[error("a client's socket that is not a UNIX socket")]
    Family,
}

impl<'a> Request<'a> {
    /// Returns what the octets of one read ask for.
    pub fn parse(octets: &'a [u8]) -> Result<Self, NoRequest> {
        let short = NoRequest::Short(octets.len());
        let (magic, rest) = U32::read_from_prefix(octets).map_err(|_| short)?;
        let (version, _) = U32::read_from_prefix(rest).map_err(|_| short)?;
        let (what, socket, description) = match (magic.get(), version.get()) {
            (MAGIC, VERSION) => {
                let (head, rest) = Head::ref_from_prefix(octets).map_err(|_| short)?;
                (head.what, head.socket, rest)
            }
            (MAGIC, what) if what < 2 => {
                let (head, rest) = FirstHead::ref_from_prefix(octets).map_err(|_| short)?;
                (head.what, head.socket, rest)
            }
            (MAGIC, version) => return Err(NoRequest::Version(version)),
            (magic, _) => return Err(NoRequest::Magic(magic)),
        };
        let port = match (what.get() as u8, what.get() >> 8) {
            (NEW_CONTROL, 0) => WantedPort::Any,
            (NEW_CONTROL, number) => WantedPort::Number(number),
            (NEW_PORT0, _) => WantedPort::Management,
            (kind, _) => return Err(NoRequest::Type(kind)),
        };
        socket.named().ok_or(NoRequest::Family)?;
        // A text of C's may end before the message does.
        let description = description.split(|octet| *octet == 0).next().unwrap_or_default();
        Ok(Self { port, socket, description })
    }

    /// Appends the request as clients of today send it.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), Full> {
        let what = match self.port {
            WantedPort::Any => NEW_CONTROL.into(),
            WantedPort::Management => NEW_PORT0.into(),
            WantedPort::Number(number) => number << 8 | u32::from(NEW_CONTROL),
        };
        writer.push(&Head {
            magic: U32::new(MAGIC),
            version: U32::new(VERSION),
            what: U32::new(what),
            socket: self.socket,
        })?;
        let description = self.description;
        writer.push_slice(description.get(..MAX_DESCRIPTION).unwrap_or(description))
    }
}

/// Returns the name in a switch's reply: of the file that is its socket for this client.
pub fn parse_reply(octets: &[u8]) -> Option<SocketName> {
    let name = SocketName::read_from_bytes(octets).ok()?;
    matches!(name.named()?, Named::Path(_)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name` and zeros: as long as a structure of C is.
    fn padded<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
        let mut octets = [0; N];
        octets[..parts.concat().len()].copy_from_slice(&parts.concat());
        octets
    }

    // As `vde_plug` of Debian 12 sends it, to port 3 (little-endian).
    const HEAD: &[u8] = b"\xce\xfa\xed\xfe\x03\0\0\0\0\x03\0\0\x01\0";
    const PATH: &[u8] = b"/tmp/vde.ctl/.12128-00000";

    #[cfg(target_endian = "little")]
    #[test]
    fn requests_are_those_of_vde_plug() {
        let head: [u8; 122] = padded(&[HEAD, PATH]);
        let octets = [&head[..], b"vde_plug user=root PID=12128"].concat();
        let request = Request::parse(&octets).unwrap();
        assert_eq!(request.port, WantedPort::Number(3));
        assert_eq!(request.socket.named(), Some(Named::Path(PATH)));
        assert_eq!(request.description, b"vde_plug user=root PID=12128");
        let mut buffer = [0; MAX_REQUEST];
        let mut writer = Writer::new(&mut buffer);
        request.write(&mut writer).unwrap();
        assert_eq!(writer.since(0), octets);
        // Without a description, as uml_switch's clients.
        assert_eq!(Request::parse(&head).unwrap().description, b"");
        // Any port, and the management's.
        let any = [b"\xce\xfa\xed\xfe\x03\0\0\0\0\0\0\0", &head[12..]].concat();
        assert_eq!(Request::parse(&any).unwrap().port, WantedPort::Any);
        let management = [b"\xce\xfa\xed\xfe\x03\0\0\0\x01\0\0\0", &head[12..]].concat();
        assert_eq!(Request::parse(&management).unwrap().port, WantedPort::Management);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_first_version_has_a_mac_and_no_number() {
        let first = b"\xce\xfa\xed\xfe\0\0\0\0\x02\0\0\0\0\x01\x01\0";
        let head: [u8; 124] = padded(&[first, PATH]);
        let octets = [&head[..], b"uml\0junk"].concat();
        let request = Request::parse(&octets).unwrap();
        assert_eq!(request.port, WantedPort::Any);
        assert_eq!(request.socket.named(), Some(Named::Path(PATH)));
        assert_eq!(request.description, b"uml");
        assert_eq!(Request::parse(&head[..123]), Err(NoRequest::Short(123)));
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn an_abstract_name_is_all_of_its_octets() {
        // UML's: a zero, three octets of padding, its process and microseconds, and whatever the
        // memory held.
        let mut octets = [0x5a; 122];
        octets[..14].copy_from_slice(b"\xce\xfa\xed\xfe\x03\0\0\0\0\0\0\0\x01\0");
        octets[14..26].copy_from_slice(b"\0\0\0\0\x2a\0\0\0\x15\xcd\x5b\x07");
        let request = Request::parse(&octets).unwrap();
        let Some(Named::Abstract(name)) = request.socket.named() else { panic!("{request:?}") };
        assert_eq!(name, &octets[15..]);
        assert_eq!(name.len(), 107);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn what_is_no_request_is_refused_by_its_reason() {
        let whole: [u8; 122] = padded(&[HEAD, PATH]);
        for len in 0..122 {
            assert_eq!(Request::parse(&whole[..len]), Err(NoRequest::Short(len)));
        }
        let with = |at: usize, octet: u8| {
            let mut octets = whole;
            octets[at] = octet;
            Request::parse(&octets).map(|_| ())
        };
        assert_eq!(with(0, 0), Err(NoRequest::Magic(0xfeedfa00)));
        assert_eq!(with(4, 2), Err(NoRequest::Version(2)));
        assert_eq!(with(4, 4), Err(NoRequest::Version(4)));
        assert_eq!(with(8, 2), Err(NoRequest::Type(2)));
        assert_eq!(with(12, 2), Err(NoRequest::Family));
        // A path that nothing ends.
        let mut full = [b'x'; 122];
        full[..14].copy_from_slice(HEAD);
        let request = Request::parse(&full).unwrap();
        assert_eq!(request.socket.named(), Some(Named::Path(&[b'x'; 108])));
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn replies_are_names_of_files() {
        let name = SocketName::at_path(b"/tmp/vde.ctl/003.5").unwrap();
        let octets: [u8; REPLY_LEN] = padded(&[b"\x01\0/tmp/vde.ctl/003.5"]);
        assert_eq!(name.as_bytes(), octets);
        assert_eq!(parse_reply(&octets), Some(name));
        assert_eq!(parse_reply(&octets[..109]), None);
        assert_eq!(parse_reply(&[0; REPLY_LEN]), None);
        let no_file: [u8; REPLY_LEN] = padded(&[b"\x01\0"]);
        assert_eq!(parse_reply(&no_file), None);
        assert!(SocketName::at_path(&[b'x'; 107]).is_some());
        for path in [&b""[..], b"a\0b", &[b'x'; 108]] {
            assert_eq!(SocketName::at_path(path), None);
        }
        assert_eq!(format!("{name:?}"), "/tmp/vde.ctl/003.5");
    }
}
