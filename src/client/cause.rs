//! What keeps a client from the daemon, told from what the layers between rustls and tonic say:
//! they keep no types, so that words must do.

use std::{
    error::Error,
    os::unix::{fs::MetadataExt as _, net::UnixStream},
};

/// What keeps a client from the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Nobody answers at the address: it may not be running, or is about to end.
    Nobody,
    /// It does not let in the user that this program runs as, whose number this is.
    TurnedAway(u32),
    /// This user may not open its socket.
    SocketForbidden,
    /// This host has no IPv6, and the address is of it.
    NoIpv6,
    /// It wants a certificate of the client.
    CertificateWanted,
    /// It hung up, as it does where it wants a certificate of the client.
    HungUp,
    /// It does not accept the client's certificate.
    CertificateRefused,
    /// The key does not belong to the certificate.
    KeyMismatch,
    /// Nobody known here vouches for its certificate.
    UnknownIssuer,
    /// Its certificate is for another name.
    OtherName,
    /// No TLS is spoken there.
    NoTls,
    /// TLS may be what is spoken there.
    TlsExpected,
}

impl Cause {
    /// What errors that say this come from, at an address, with a certificate of the client's or
    /// without.
    pub(super) fn of(said: &[String], address: &str, has_certificate: bool) -> Self {
        let said = said.join("\n").to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
        let is_secure = address.starts_with("https://");
        // With TLS 1.3 a client is refused after its handshake is over: what the server said of it
        // is lost where the connection ends before the first call begins.
        let closed = is_secure && has(&["connection closed"]);
        let refused = closed || has(&["received fatal alert", "alertreceived"]);
        let hung_up =
            has(&["broken pipe", "connection reset", "connection closed", "unexpected eof"]);
        let uid = rustix::process::geteuid().as_raw();
        // First: a daemon that does not know a user just hangs up, as others do for other reasons.
        if hung_up && is_turned_away(address, uid) {
            Self::TurnedAway(uid)
        } else if has(&["certificaterequired", "certificate required"]) {
            Self::CertificateWanted
        } else if closed && !has_certificate {
            Self::HungUp
        } else if refused && has_certificate {
            Self::CertificateRefused
        } else if has(&["keymismatch", "keys may not be consistent", "key mismatch"]) {
            Self::KeyMismatch
        } else if has(&["unknownissuer", "unknown issuer"]) {
            Self::UnknownIssuer
        } else if has(&["notvalidforname", "not valid for name"]) {
            Self::OtherName
        } else if has(&["invalidcontenttype", "corrupt message"])
            // A daemon that sees the first octet of TLS where it serves none hangs up.
            || is_secure
                && has(&["connection reset", "unexpectedeof", "unexpected eof", "handshake eof"])
        {
            Self::NoTls
        } else if has(&["http2 error", "frame_size", "frame with invalid size", "protocol error"])
            && address.starts_with("http://")
        {
            Self::TlsExpected
        } else if has(&["permission denied"]) {
            Self::SocketForbidden
        } else if has(&["cannot assign requested address", "network is unreachable"])
            && address.contains("[::1]")
        {
            Self::NoIpv6
        } else {
            Self::Nobody
        }
    }
}

/// Whether a daemon that does not know this user has hung up. Root and its own user it lets in
/// whatever its flags say.
fn is_turned_away(address: &str, uid: u32) -> bool {
    // Over TCP nobody is asked for a user.
    let Some(path) = address.strip_prefix("unix:") else { return false };
    let owner = std::fs::metadata(path).map(|socket| socket.uid());
    // One that has ended hangs up, too, and lets nobody connect then.
    owner.is_ok_and(|owner| ![0, owner].contains(&uid)) && UnixStream::connect(path).is_ok()
}

/// What an error and its causes say, the last cause last.
pub(super) fn said(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut said = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        said.push(error.to_string());
        next = error.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_tell_the_cause() {
        let of = |code: i32, address: &str| {
            Cause::of(&said(&std::io::Error::from_raw_os_error(code)), address, false)
        };
        assert_eq!(of(libc::EADDRNOTAVAIL, "http://[::1]:50054"), Cause::NoIpv6);
        assert_eq!(of(libc::EADDRNOTAVAIL, "http://192.0.2.1:50054"), Cause::Nobody);
        assert_eq!(of(libc::EACCES, "unix:/a"), Cause::SocketForbidden);
        assert_eq!(of(libc::ECONNREFUSED, "http://h:1"), Cause::Nobody);
        let words = |said: &str, address, has_certificate| {
            Cause::of(&[said.to_owned()], address, has_certificate)
        };
        assert_eq!(words("Connection closed", "https://h:1", false), Cause::HungUp);
        assert_eq!(words("Connection closed", "https://h:1", true), Cause::CertificateRefused);
        assert_eq!(words("frame with invalid size", "http://h:1", false), Cause::TlsExpected);
    }
}
