//! The file of a program's flags: its octets. Takes a path, returns the text; refuses what is no
//! file, is longer than any such file, or is not UTF-8. Nobody waits for who does not write.

use rustix::fs::{FileType, Mode, OFlags, fstat, makedev, open};
use std::{
    fs::File,
    io::{self, Read as _},
    path::PathBuf,
};

/// Octets of the longest file.
// All keys with their comments are some ten thousand.
const LONGEST: u64 = 1 << 20;

/// A file that is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where.
    pub path: PathBuf,
    /// Whether it may be missing.
    pub presence: Presence,
}

/// Whether a file has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Somebody named it.
    Needed,
    /// It is looked for in any case.
    Optional,
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else than a file.
    #[error("{}: expected a file, got {found}", path.display())]
    NoFile {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// It is too long.
    #[error("{}: longer than {} octets, as no configuration is", .0.display(), LONGEST)]
    Long(PathBuf),
    /// It is no text.
    #[error("{}:{line}: not UTF-8", path.display())]
    NotText {
        /// Where.
        path: PathBuf,
        /// The first line that is none.
        line: usize,
    },
}

/// Returns a file's text; `None` where it may be missing and is.
pub fn text(wanted: &Wanted) -> Result<Option<String>, ReadError> {
    let path = || wanted.path.clone();
    let io = |source| ReadError::Io { path: path(), source };
    // A FIFO is opened without waiting for who writes to it, and no terminal becomes ours.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match open(&wanted.path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT) if wanted.presence == Presence::Optional => return Ok(None),
        Err(error) => return Err(io(error.into())),
    };
    let stat = fstat(&file).map_err(|error| io(error.into()))?;
    let found = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => None,
        // /dev/null (Documentation/admin-guide/devices.txt): how one says that there is none.
        FileType::CharacterDevice if stat.st_rdev == makedev(1, 3) => None,
        FileType::Directory => Some("a folder"),
        FileType::Fifo => Some("a FIFO"),
        _ => Some("a device or a socket"),
    };
    if let Some(found) = found {
        return Err(ReadError::NoFile { path: path(), found });
    }
    let mut octets = Vec::new();
    // It may grow while it is read: what it says of its length is not asked.
    File::from(file).take(LONGEST + 1).read_to_end(&mut octets).map_err(io)?;
    if octets.len() as u64 > LONGEST {
        return Err(ReadError::Long(path()));
    }
    match String::from_utf8(octets) {
        Ok(text) => Ok(Some(text)),
        Err(error) => {
            let sound = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + sound.iter().filter(|octet| **octet == b'\n').count();
            Err(ReadError::NotText { path: path(), line })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path};

    fn told(path: &Path) -> String {
        let wanted = Wanted { path: path.into(), presence: Presence::Needed };
        text(&wanted).unwrap_err().to_string()
    }

    #[test]
    fn only_a_file_of_text_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("net.toml");
        assert_eq!(
            told(&path),
            format!("{}: No such file or directory (os error 2)", path.display())
        );
        let optional = Wanted { path: path.clone(), presence: Presence::Optional };
        assert_eq!(text(&optional).unwrap(), None);
        fs::write(&path, "a = 1\nb = \"\u{fc}\"\n").unwrap();
        assert_eq!(text(&optional).unwrap().unwrap(), "a = 1\nb = \"ü\"\n");
        fs::write(&path, b"a = 1\nb = \"\xfc\"\n").unwrap();
        assert_eq!(told(&path), format!("{}:2: not UTF-8", path.display()));
        assert!(told(directory.path()).ends_with(": expected a file, got a folder"));
        assert!(told(Path::new("/dev/zero")).ends_with("got a device or a socket"));
        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(told(&fifo).ends_with("got a FIFO"), "and nobody waits");
        let null = Wanted { path: "/dev/null".into(), presence: Presence::Needed };
        assert_eq!(text(&null).unwrap().unwrap(), "");
        // As sparse as it is, nobody reads a terabyte.
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(told(&path).ends_with("longer than 1048576 octets, as no configuration is"));
    }
}
