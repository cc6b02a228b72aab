//! The programs of `examples/`, in three languages, do the same with the real daemon; and the
//! clients that they are made of tell programs why a call has failed.

use super::access::Certified;
use crate::daemon::{Daemon, cannot_run};
use mvirt_net::client::{Cause, Connection, Error, Reason, TlsFile};
use rustix::process::Signal;
use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

#[path = "../../../examples/client.rs"]
#[expect(dead_code, reason = "its main is that of a program")]
mod client;

const SAYS: &str = "\
network example: 10.9.0.0/24
vNIC example-vm: 10.9.0.1
event: example-vm is created
statistics: 0 frames from its guest
refused: TAKEN name
deleted
";

fn to(daemon: &Daemon) -> Connection {
    Connection::to(daemon.address())
}

/// What a program says that ends well, with `mvirt` in its PATH.
fn says(command: &mut Command, daemon: &Daemon) -> String {
    said(command.env("MVIRT_NET_SERVER", daemon.address()))
}

fn said(command: &mut Command) -> String {
    let programs = Path::new(env!("CARGO_BIN_EXE_mvirt")).parent().unwrap();
    command.env("PATH", format!("{}:{}", programs.display(), env::var("PATH").unwrap()));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_program_in_rust() {
    let mut daemon = Daemon::start();
    let connection = to(&daemon);
    let mut said = Vec::new();
    daemon.block_on(async |_| client::run(&connection, &mut said).await.unwrap());
    assert_eq!(String::from_utf8(said).unwrap(), SAYS);
}

#[test]
fn a_script_of_the_shell() {
    if which::which("jq").is_err() {
        return cannot_run("jq is not installed");
    }
    let daemon = Daemon::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/client.sh");
    assert_eq!(says(&mut Command::new(script), &daemon), SAYS);
}

/// A Python that has the client installed, from the wheel that `make clients` builds.
struct Python {
    folder: tempfile::TempDir,
}

impl Python {
    /// Debian's, as its packages are; none where those are not there.
    const SYSTEM: &str = "/usr/bin/python3";

    fn new() -> Option<Self> {
        let needed = "import importlib.util as it, grpc, google.protobuf\n\
                      assert all(map(it.find_spec, ('pip', 'setuptools', 'venv', 'wheel')))";
        let has = Command::new(Self::SYSTEM).args(["-c", needed]).output();
        if !has.is_ok_and(|it| it.status.success()) || which::which("protoc").is_err() {
            cannot_run("protoc, or grpcio, protobuf or pip of Debian's Python is not installed");
            return None;
        }
        let this = Self { folder: tempfile::tempdir().unwrap() };
        let built = this.run(
            Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/clients.sh"))
                .env("CARGO_TARGET_DIR", this.folder.path())
                .env("PYTHON", Self::SYSTEM),
        );
        let wheel = String::from_utf8(built.stdout).unwrap();
        assert!(wheel.contains(concat!("-", env!("CARGO_PKG_VERSION"), "-")), "{wheel}");
        let mut venv = Command::new(Self::SYSTEM);
        // What Debian has of gRPC is used; nothing is fetched.
        venv.args(["-m", "venv", "--without-pip", "--system-site-packages"]).arg(this.path());
        this.run(&mut venv);
        let mut pip = Command::new(Self::SYSTEM);
        pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "--python"]);
        pip.arg(this.path().join("bin/python")).args(["install", "--no-index", "--no-deps"]);
        this.run(pip.arg(wheel.trim()));
        Some(this)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("venv")
    }

    fn run(&self, command: &mut Command) -> Output {
        // Caches and what else tools leave at home goes with the rest.
        let output = command.env("HOME", self.folder.path()).output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        output
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.path().join("bin/python"));
        command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
        command
    }
}

#[test]
fn a_program_in_python() {
    let Some(python) = Python::new() else { return };
    let daemon = Daemon::start();
    assert_eq!(says(&mut python.command(&["examples/client.py"]), &daemon), SAYS);
    // Elsewhere both sides have certificates.
    let certified = Certified::start("0.0.0.0");
    let example = &mut python.command(&["examples/client.py"]);
    assert_eq!(said(example.envs(certified.environment())), SAYS);
    let reasons = "import mvirt_net; print(*mvirt_net.Reason.__members__)";
    let said = says(&mut python.command(&["-c", reasons]), &daemon);
    let known: Vec<_> = Reason::ALL.map(Reason::name).into_iter().chain(["UNKNOWN"]).collect();
    assert_eq!(said.trim().split(' ').collect::<Vec<_>>(), known);
    let failures = "\
import socket
from mvirt_net import *
with Client() as client:
    try:
        client.get_nic(net.GetNicRequest(name='nobody'))
    except Refused as refused:
        print(refused.code.name, refused.reason.name, refused.object)
# It takes connections, and never says anything.
with socket.create_server(('127.0.0.1', 0)) as mute:
    with Client('127.0.0.1:%d' % mute.getsockname()[1], timeout=0.2) as client:
        try:
            client.list_nics()
        except Late:
            print('late')
        try:
            next(client.watch_nics())
        except Late:
            print('late')
with Client('unix:/nonexistent') as client:
    try:
        client.get_version()
    except Unreachable:
        print('unreachable')
try:
    Client('/nonexistent')
except ValueError as error:
    print(error)
";
    // An empty variable is none.
    let mut failing = python.command(&["-c", failures]);
    failing.env("MVIRT_NET_CLIENT_CERT", "");
    assert_eq!(
        says(&mut failing, &daemon),
        "NOT_FOUND NOT_FOUND Object(kind='vNIC', name='nobody', owner='')\nlate\nlate\n\
         unreachable\nmvirt-net's address '/nonexistent': expected unix:/path, http://HOST:PORT or \
         https://HOST:PORT\n"
    );
    // Both clients are in the wheel.
    says(&mut python.command(&["-c", "import mvirt_yard"]), &daemon);
}

#[test]
fn a_program_is_told_why_there_is_no_answer() {
    let mut daemon = Daemon::start();
    let connection = Connection { timeout: Some(Duration::from_millis(300)), ..to(&daemon) };
    let mut client = daemon.block_on(async |_| connection.connect().await.unwrap());
    let ask = |daemon: &mut Daemon, client: &mut mvirt_net::client::Client| {
        let asked = daemon.block_on(async |_| {
            client.list_networks(mvirt_net::proto::ListNetworksRequest::default()).await
        });
        asked.map_err(|status| connection.explain(status))
    };
    ask(&mut daemon, &mut client).unwrap();
    daemon.signal(Signal::STOP);
    let late = ask(&mut daemon, &mut client).unwrap_err();
    assert!(matches!(late, Error::Late { .. }), "{late}");
    daemon.signal(Signal::CONT);
    daemon.terminate();
    let gone = ask(&mut daemon, &mut client).unwrap_err();
    assert!(matches!(gone, Error::Unreachable { cause: Cause::Nobody, .. }), "{gone}");
    // It is the same client that finds the daemon again.
    daemon.start_again();
    ask(&mut daemon, &mut client).unwrap();
    let missing =
        Connection { ca: Some(daemon.path("nope.pem")), ..Connection::to("https://127.0.0.1:1") };
    let error = daemon.block_on(async |_| missing.connect().await.unwrap_err());
    assert!(matches!(error, Error::File { file: TlsFile::Ca, .. }), "{error}");
}
