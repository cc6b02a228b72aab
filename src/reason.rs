//! Why a request is refused, in the word that programs go by: the reason of `google.rpc.ErrorInfo`.
//! The daemon sends it, and clients read it; a word that was sent once stays what it is.

/// Who says the reason: the domain of ErrorInfo.
pub const DOMAIN: &str = "mvirt.net";

/// Why a request is refused: a value for each way a caller can react.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// A value is malformed or impossible.
    Invalid,
    /// A name, id, MAC, address or prefix is another object's.
    Taken,
    /// There is no such object.
    NotFound,
    /// It still has others: delete those first, or set `force`.
    NotEmpty,
    /// A VMM is connected that the change would disturb.
    Connected,
    /// The vNIC is there, but is not served.
    NotServed,
    /// The object has another etag by now: read it again.
    Changed,
    /// Nothing is left to give, or a limit is reached.
    Exhausted,
    /// The daemon lacks the rights.
    NotPermitted,
    /// The change could not be made durable.
    NotStored,
    /// The vNIC's socket could not be made.
    Socket,
    /// The daemon's flags do not allow it to callers of the API.
    Forbidden,
    /// A path, address or device is in use.
    InUse,
    /// What it needs is not there.
    NotReady,
    /// None was given, or one that a newer daemon knows.
    Unknown,
}

impl Reason {
    /// All that are sent.
    pub const ALL: [Self; 14] = [
        Self::Invalid,
        Self::Taken,
        Self::NotFound,
        Self::NotEmpty,
        Self::Connected,
        Self::NotServed,
        Self::Changed,
        Self::Exhausted,
        Self::NotPermitted,
        Self::NotStored,
        Self::Socket,
        Self::Forbidden,
        Self::InUse,
        Self::NotReady,
    ];

    /// As it is sent.
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "INVALID",
            Self::Taken => "TAKEN",
            Self::NotFound => "NOT_FOUND",
            Self::NotEmpty => "NOT_EMPTY",
            Self::Connected => "CONNECTED",
            Self::NotServed => "NOT_SERVED",
            Self::Changed => "CHANGED",
            Self::Exhausted => "EXHAUSTED",
            Self::NotPermitted => "NOT_PERMITTED",
            Self::NotStored => "NOT_STORED",
            Self::Socket => "SOCKET",
            Self::Forbidden => "FORBIDDEN",
            Self::InUse => "IN_USE",
            Self::NotReady => "NOT_READY",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// The one of this name; one that is not known is [`Self::Unknown`].
    pub fn of_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|reason| reason.name() == name).unwrap_or(Self::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proto_lists_each() {
        let proto = include_str!("../proto/net.proto");
        let listed = proto.split("and a reason (").nth(1).unwrap().split(')').next().unwrap();
        let words = listed.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
        let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
        assert_eq!(words, Reason::ALL.map(Reason::name));
        for reason in Reason::ALL {
            assert_eq!(Reason::of_name(reason.name()), reason);
        }
        assert_eq!(Reason::of_name("LATER"), Reason::Unknown);
    }
}
