//! The program, its console, and hosts of their own on one link.

use crate::{daemon::PATIENCE, streams::free_ports};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::UdpSocket,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// UDP ports that nobody has, for now.
pub(crate) fn free_udp_ports<const N: usize>() -> [u16; N] {
    let sockets = [(); N].map(|()| UdpSocket::bind("0.0.0.0:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}

/// A switch that runs, in a folder of its own.
pub(crate) struct Switch {
    process: Child,
    directory: tempfile::TempDir,
    flags: Vec<String>,
}

fn spawn(mut command: Command, directory: &Path, flags: &[String]) -> Child {
    let log = fs::File::create(directory.join("log")).unwrap();
    command.args(["--console", "off", "-u"]).arg(directory).args(flags);
    command.stdin(Stdio::null()).stderr(log).spawn().unwrap()
}

impl Switch {
    /// On loopback, in the mesh of the discovery port `mesh`.
    pub(crate) fn start(mesh: u16, flags: &[&str]) -> Self {
        let [port] = free_udp_ports();
        let (port, mesh) = (port.to_string(), mesh.to_string());
        let command = Command::new(env!("CARGO_BIN_EXE_mvirt-dives"));
        Self::run(command, &[&["-p", &port, "-d", &mesh], flags].concat())
    }

    /// By a command that runs it somewhere.
    pub(crate) fn run(command: Command, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let flags: Vec<_> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let process = spawn(command, directory.path(), &flags);
        let mut this = Self { process, directory, flags };
        this.wait();
        this
    }

    /// Starts it again where it was.
    pub(crate) fn start_again(&mut self) {
        let command = Command::new(env!("CARGO_BIN_EXE_mvirt-dives"));
        self.process = spawn(command, self.directory.path(), &self.flags);
        self.wait();
    }

    /// Waits until it can be asked.
    fn wait(&mut self) {
        crate::daemon::wait_until("the control socket is there", || {
            assert!(self.process.try_wait().unwrap().is_none(), "{}", self.log());
            UnixStream::connect(self.control()).is_ok()
        });
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.directory.path().join("ctl")
    }

    pub(crate) fn console(&self) -> Console {
        Console::new(UnixStream::connect(self.control()).unwrap())
    }

    /// A console in the focus of a VLAN.
    pub(crate) fn vlan(&self, id: u32) -> Console {
        let mut console = self.console();
        assert_eq!(console.ask(&format!("vlan {id}")), "");
        console
    }

    /// Takes QEMU's connections in a VLAN. Returns the port.
    pub(crate) fn listen(&self, vlan: u32) -> u16 {
        let [port] = free_ports();
        assert_eq!(self.vlan(vlan).ask(&format!("listen 127.0.0.1 {port}")), "");
        port
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Tells it to end. Returns its status.
    pub(crate) fn end(&mut self) -> Option<i32> {
        kill_process(self.pid(), Signal::TERM).unwrap();
        self.process.wait().unwrap().code()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if self.process.try_wait().unwrap().is_none() {
            self.end();
        }
    }
}

/// A session at the control socket.
pub(crate) struct Console {
    stream: BufReader<UnixStream>,
    /// As the last answer had it.
    pub(crate) focus: String,
}

impl Console {
    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream: BufReader::new(stream), focus: String::new() }
    }

    pub(crate) fn send(&mut self, octets: &[u8]) {
        self.stream.get_mut().write_all(octets).unwrap();
    }

    /// The lines up to OK.
    pub(crate) fn answer(&mut self) -> String {
        let mut output = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.stream.read_line(&mut line).unwrap(), 0, "{output}");
            if let Some(focus) = line.strip_prefix("OK") {
                self.focus = focus.trim_end().into();
                return output;
            }
            output += &line;
        }
    }

    /// Carries out a line. Returns the lines up to OK.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\n").as_bytes());
        self.answer()
    }

    /// Says that no more comes. Returns what is still said.
    pub(crate) fn half_close(mut self) -> String {
        self.stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = String::new();
        self.stream.read_to_string(&mut rest).unwrap();
        rest
    }
}

/// Says why hosts cannot be made here; none: they can.
pub(crate) fn no_hosts() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root can make network namespaces and TAP devices");
    }
    (!std::path::Path::new("/dev/net/tun").exists()).then_some("there is no /dev/net/tun")
}
