//! VDE's own programs, as Debian has them: a plug whose standard streams the test holds, and
//! switches.

use crate::daemon::wait_until;
use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

const TIMEOUT: Duration = Duration::from_secs(20);

/// A frame of an EtherType for experiments (IEEE 802, clause 9.2.3).
pub(super) fn frame(to: [u8; 6], from: u8, len: usize) -> Vec<u8> {
    let mut frame = [&to[..], &mac(from), &[0x88, 0xb5]].concat();
    frame.resize(len.max(14), from);
    frame
}

pub(super) const ALL: [u8; 6] = [0xff; 6];

pub(super) fn mac(number: u8) -> [u8; 6] {
    [0x02, 0, 0, 0, 0, number]
}

/// A program with frames on its standard streams, behind their lengths: 16 bits, big-endian.
pub(crate) struct Plug {
    child: Child,
    input: ChildStdin,
    frames: mpsc::Receiver<Vec<u8>>,
}

impl Plug {
    pub(crate) fn of(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let mut output = child.stdout.take().unwrap();
        let (sender, frames) = mpsc::channel();
        std::thread::spawn(move || {
            let mut length = [0; 2];
            while output.read_exact(&mut length).is_ok() {
                let mut frame = vec![0; u16::from_be_bytes(length).into()];
                if output.read_exact(&mut frame).is_err() || sender.send(frame).is_err() {
                    return;
                }
            }
        });
        Self { child, input, frames }
    }

    /// `vde_plug` of Debian's.
    pub(crate) fn stock(locator: &str) -> Self {
        Self::of(Command::new("vde_plug").arg(locator))
    }

    pub(crate) fn sends(&mut self, frame: &[u8]) {
        let length = u16::try_from(frame.len()).unwrap();
        self.input.write_all(&[&length.to_be_bytes()[..], frame].concat()).unwrap();
    }

    pub(crate) fn hears(&self) -> Vec<u8> {
        self.frames.recv_timeout(TIMEOUT).expect("a frame comes")
    }

    /// The frame that comes within so many milliseconds, if one does.
    pub(crate) fn hears_within(&self, milliseconds: u64) -> Option<Vec<u8>> {
        self.frames.recv_timeout(Duration::from_millis(milliseconds)).ok()
    }

    /// Whether no frame has come by now.
    pub(crate) fn is_silent(&self) -> bool {
        self.frames.try_recv().is_err()
    }

    /// Writes octets as they are.
    pub(crate) fn writes(&mut self, octets: &[u8]) {
        self.input.write_all(octets).unwrap();
    }

    /// Ends its input, and waits until the program ends.
    pub(crate) fn ends_its_input(&mut self) -> std::process::ExitStatus {
        let (_, closed) = std::os::unix::net::UnixStream::pair().unwrap();
        self.input = ChildStdin::from(std::os::fd::OwnedFd::from(closed));
        self.child.wait().unwrap()
    }

    /// Waits until the program ends by itself.
    pub(crate) fn ends(mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// `vde_switch` of Debian's, until dropped.
pub(super) struct Switch(Child);

impl Switch {
    pub(super) fn start(directory: &Path) -> Self {
        Self::told(directory, "")
    }

    /// With commands of its console.
    pub(super) fn told(directory: &Path, commands: &str) -> Self {
        let file = directory.with_extension("rc");
        std::fs::write(&file, commands).unwrap();
        let mut command = Command::new("vde_switch");
        command.arg("-f").arg(file);
        // It ends with its standard input unless it is a daemon.
        let command = command.arg("-s").arg(directory).stdin(Stdio::piped());
        let switch = Self(command.stdout(Stdio::null()).spawn().unwrap());
        wait_until("vde_switch serves", || UnixStream::connect(directory.join("ctl")).is_ok());
        switch
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
