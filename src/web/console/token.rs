//! What a reader of the console has to know, and how it is shown: a bearer token (RFC 6750).

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Characters of the shortest: whoever guesses is not slowed down.
const SHORTEST: usize = 16;
/// Octets of the longest: it goes into a header.
const LONGEST: usize = 4096;

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("--http-token {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Everybody can.
    #[error(
        "--http-token {0}: every user of this host may read it (mode {mode:04o}): expected one \
         that others may not (chmod o= {0})", path.display()
    )]
    Public {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// What is in it is no token.
    #[error(
        "--http-token {}: expected a line of {} to {} printable characters without spaces, as \
         `openssl rand -hex 32` prints it", path.display(), SHORTEST, LONGEST
    )]
    Content {
        /// Which.
        path: PathBuf,
    },
}

/// A secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<[u8]>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Reads it from a file.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let refused = |source| TokenError::File { path: path.into(), source };
        let mode = fs::metadata(path).map_err(refused)?.mode() & 0o7777;
        if mode & 0o007 != 0 {
            return Err(TokenError::Public { path: path.into(), mode });
        }
        let content = fs::read(path).map_err(refused)?;
        Self::of(content.trim_ascii()).ok_or_else(|| TokenError::Content { path: path.into() })
    }

    fn of(token: &[u8]) -> Option<Self> {
        let is_one =
            (SHORTEST..=LONGEST).contains(&token.len()) && token.iter().all(u8::is_ascii_graphic);
        is_one.then(|| Self(token.into()))
    }

    /// Whether the value of Authorization has it.
    pub(super) fn is_in(&self, authorization: &[u8]) -> bool {
        let Some((scheme, shown)) = authorization.split_at_checked("Bearer ".len()) else {
            return false;
        };
        // All of it is compared in any case: how long that takes does not say where it differs.
        let differs = shown.iter().zip(&self.0).fold(0, |differs, (a, b)| differs | (a ^ b));
        scheme.eq_ignore_ascii_case(b"Bearer ") && shown.len() == self.0.len() && differs == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn only_the_token_is_the_token() {
        let token = Token::of(b"0123456789abcdef").unwrap();
        for good in ["Bearer 0123456789abcdef", "bearer 0123456789abcdef"] {
            assert!(token.is_in(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
            "Bearer 0123456789abcdeg",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
        ] {
            assert!(!token.is_in(bad.as_bytes()), "{bad}");
        }
        for none in ["", "short", "0123456789 abcdef", "0123456789\u{fc}abcdef"] {
            assert!(Token::of(none.as_bytes()).is_none(), "{none}");
        }
        assert_eq!(format!("{token:?}"), "Token");
    }

    #[test]
    fn a_file_that_everybody_reads_holds_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        assert!(matches!(Token::read(&path), Err(TokenError::File { .. })));
        fs::write(&path, "0123456789abcdef\n").unwrap();
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        let refused = Token::read(&path).unwrap_err().to_string();
        assert!(refused.contains("(mode 0644)") && refused.contains("chmod o="), "{refused}");
        mode(0o640);
        assert_eq!(Token::read(&path).unwrap(), Token::of(b"0123456789abcdef").unwrap());
        fs::write(&path, "short\n").unwrap();
        let refused = Token::read(&path).unwrap_err().to_string();
        assert!(refused.contains("expected a line of 16 to 4096"), "{refused}");
    }
}
