//! Where log lines go: the standard output, a file that is opened anew when it was moved away, or
//! syslog.

use mvirt_net::{
    log::{self, Look},
    log_writer::LogWriter,
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal as _, Write},
    os::unix::{fs::OpenOptionsExt as _, net::UnixDatagram},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tracing::level_filters::LevelFilter;

/// Of syslog(3).
const SYSLOG: &str = "/dev/log";
/// The facility "daemon" of syslog(3), 3, is in the bits above the priority.
const FACILITY: u8 = 3 << 3;

/// Where lines go.
#[derive(Debug)]
pub(crate) enum Sink {
    Output,
    File(PathBuf),
    Syslog,
}

/// Asks for a log file to be opened anew.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reopen(Arc<AtomicBool>);

impl Reopen {
    /// The next line goes to a file that is there by then.
    pub(crate) fn ask(&self) {
        self.0.store(true, Relaxed);
    }
}

/// Begins to log.
pub(crate) fn start(sink: &Sink, level: LevelFilter, reopen: &Reopen) -> io::Result<LogWriter> {
    let (writer, look) = match sink {
        Sink::Output => {
            let colour = io::stdout().is_terminal();
            (LogWriter::start(io::stdout())?, Look::Text { colour })
        }
        Sink::File(path) => {
            let file = LogFile { file: open(path)?, path: path.clone(), reopen: reopen.clone() };
            (LogWriter::start(file)?, Look::Text { colour: false })
        }
        Sink::Syslog => (LogWriter::start(Syslog::connect()?)?, Look::Priority),
    };
    log::start_at(level, look, writer.clone());
    Ok(writer)
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o644).open(path)
}

struct LogFile {
    path: PathBuf,
    file: File,
    reopen: Reopen,
}

impl Write for LogFile {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        if self.reopen.0.swap(false, Relaxed) {
            // Where that fails, lines go to the old file: nowhere else would anybody look.
            self.file = open(&self.path).or_else(|_| self.file.try_clone())?;
        }
        self.file.write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends each line as a datagram.
struct Syslog {
    socket: UnixDatagram,
    /// The beginning of a line.
    line: Vec<u8>,
}

impl Syslog {
    fn connect() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(SYSLOG)?;
        Ok(Self { socket, line: Vec::new() })
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.socket.send(message).map(drop).or_else(|_| {
            // A syslog that was started anew has another socket.
            self.socket.connect(SYSLOG)?;
            self.socket.send(message).map(drop)
        })
    }
}

impl Write for Syslog {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(octets);
        while let Some(end) = self.line.iter().position(|octet| *octet == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            self.send(&message(&line[..end], std::process::id()))?;
        }
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns a line that begins with its priority, as RFC 3164 has it on a host's own socket.
fn message(line: &[u8], pid: u32) -> Vec<u8> {
    let (priority, text) = match line {
        [b'<', digit @ b'0'..=b'7', b'>', text @ ..] => (digit - b'0', text),
        // "info": what has no priority is what the log says of itself.
        text => (6, text),
    };
    let mut message = format!("<{}>vswitch[{pid}]: ", FACILITY | priority).into_bytes();
    message.extend_from_slice(text);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    // seed H.2.17
    #[test]
    fn a_log_file_is_appended_to_and_opened_anew_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("new/log"), folder.path().join("moved"));
        let reopen = Reopen::default();
        let file = |line: &str| {
            let mut file =
                LogFile { file: open(&path).unwrap(), path: path.clone(), reopen: reopen.clone() };
            file.write_all(line.as_bytes()).unwrap();
            file
        };
        drop(file("one\n"));
        let mut log = file("two\n");
        fs::rename(&path, &moved).unwrap();
        log.write_all(b"three\n").unwrap();
        reopen.ask();
        log.write_all(b"four\n").unwrap();
        assert_eq!(fs::read_to_string(&moved).unwrap(), "one\ntwo\nthree\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "four\n");
    }

    #[test]
    fn a_line_of_syslog_has_facility_priority_and_process() {
        assert_eq!(message(b"<3>it broke", 7), b"<27>vswitch[7]: it broke");
        assert_eq!(message(b"lines were lost", 7), b"<30>vswitch[7]: lines were lost");
    }
}
