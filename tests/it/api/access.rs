//! Who may use the API: users of a UNIX socket by number, programs elsewhere by certificate.

use crate::{
    certificates::{authority, certify},
    command::mvirt,
    daemon::{Daemon, cannot_run, wait_until},
};
use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Output},
};

/// A daemon with certificates that listens on `address`, too, and what it takes to talk to it.
pub(super) struct Certified {
    folder: tempfile::TempDir,
    daemon: Daemon,
    port: String,
}

impl Certified {
    pub(super) fn start(address: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (ours, theirs) = (authority(), authority());
        fs::write(path("ca.pem"), ours.pem()).unwrap();
        certify(&ours, folder.path(), "server");
        certify(&ours, folder.path(), "client");
        certify(&theirs, folder.path(), "stranger");
        let (cert, key, ca) = (path("server.pem"), path("server.key"), path("ca.pem"));
        let listen = format!("{address}:0");
        let files = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca];
        let daemon = Daemon::start_with(&[&["--listen", &listen][..], &files].concat());
        let mut port = String::new();
        wait_until("the daemon tells its address", || {
            let log = daemon.log();
            let ready = log.split(" ready ").nth(1).and_then(|ready| {
                let rest = ready.split(&format!("{address}:")).nth(1)?;
                Some(rest.chars().take_while(char::is_ascii_digit).collect())
            });
            port = ready.unwrap_or_default();
            !port.is_empty()
        });
        Self { folder, daemon, port }
    }

    /// What a program of a client is to have in its environment.
    pub(super) fn environment(&self) -> [(&'static str, String); 4] {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        [
            ("MVIRT_NET_SERVER", format!("https://127.0.0.1:{}", self.port)),
            ("MVIRT_NET_SERVER_CA", path("ca.pem")),
            ("MVIRT_NET_CLIENT_CERT", path("client.pem")),
            ("MVIRT_NET_CLIENT_KEY", path("client.key")),
        ]
    }

    /// What somebody is told who has the files of these names.
    fn ask(&self, scheme: &str, authority: Option<&str>, identity: Option<[&str; 2]>) -> Output {
        let path = |name: &str| self.folder.path().join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
        command.arg("--net-server").arg(format!("{scheme}://127.0.0.1:{}", self.port));
        if let Some(name) = authority {
            command.arg("--tls-ca").arg(path(name));
        }
        if let Some([cert, key]) = identity {
            command.arg("--tls-cert").arg(path(cert)).arg("--tls-key").arg(path(key));
        }
        command.args(["network", "list"]).output().unwrap()
    }
}

#[test]
fn beyond_loopback_only_certified_programs_are_let_in() {
    let certified = Certified::start("0.0.0.0");
    let (ca, client) = (Some("ca.pem"), ["client.pem", "client.key"]);
    let known = certified.ask("https", ca, Some(client));
    assert!(known.status.success(), "{}", String::from_utf8_lossy(&known.stderr));
    let stranger = ["stranger.pem", "stranger.key"];
    let confused = ["client.pem", "stranger.key"];
    for (who, scheme, ca, identity, remedy) in [
        (
            "a stranger",
            "https",
            ca,
            Some(stranger),
            "does not accept the certificate of --tls-cert",
        ),
        ("somebody without one", "https", ca, None, "give --tls-cert and --tls-key"),
        (
            "somebody with another's",
            "https",
            ca,
            Some(confused),
            "does not belong to the certificate",
        ),
        (
            "somebody who does not know the server",
            "https",
            None,
            None,
            "give who does with --tls-ca",
        ),
        ("somebody in clear", "http", None, None, "TLS may be what is spoken there: use https://"),
    ] {
        let refused = certified.ask(scheme, ca, identity);
        assert_eq!(refused.status.code(), Some(1), "{who} is let in");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("cannot reach") && said.contains(remedy), "{who}: {said}");
    }
    let turned_away = "turned away from the API peer=127.0.0.1:";
    wait_until("they are told to the log", || {
        let log = certified.daemon.log();
        log.matches(turned_away).count() >= 3 && log.contains("peer sent no certificates")
    });
}

#[test]
fn on_loopback_certificates_are_asked_for_where_no_other_address_uses_them() {
    let certified = Certified::start("127.0.0.1");
    assert!(
        certified.ask("https", Some("ca.pem"), Some(["client.pem", "client.key"])).status.success()
    );
    assert_eq!(certified.ask("http", None, None).status.code(), Some(1));
}

#[test]
fn the_daemon_does_not_start_where_it_would_let_anybody_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let start = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt-net"));
        let output = command
            .args(["--socket-dir", &path("s"), "--metadata-dir", &path("m")])
            .args(flags)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for address in ["0.0.0.0:50054", "[::]:50054", "192.0.2.1:1"] {
        let (code, told) = start(&["--listen", "[::1]:0", "--listen", address]);
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains(&format!("--listen {address}: beyond loopback")), "{told}");
    }
    let (code, told) = start(&["--tls-cert", "x"]);
    assert!(code == Some(2) && told.contains("--tls-key"), "{told}");
    fs::write(path("junk"), "junk").unwrap();
    let files = |name: &str| [path(name), path("junk"), path("junk")];
    for (name, part) in [("missing", "--tls-cert"), ("junk", "expected PEM files")] {
        let [cert, key, ca] = files(name);
        let (code, told) = start(&["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca]);
        assert!(code == Some(2) && told.contains(part), "{told}");
    }
}

/// What `mvirt network list` says to a user of another number; `None` where tests cannot become
/// one.
fn as_user(daemon: &Daemon, folder: &Path, uid: u32) -> Option<Output> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let program = folder.join("mvirt");
    fs::copy(env!("CARGO_BIN_EXE_mvirt"), &program).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(program);
    command.env("MVIRT_NET_SERVER", daemon.address()).args(["network", "list"]).uid(uid).gid(uid);
    Some(command.current_dir("/").output().unwrap())
}

#[test]
fn users_of_the_socket_are_let_in_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let closed = Daemon::start();
    let open = Daemon::start_with(&["--allow-uid", "4321,4322", "--allow-gid", "4324"]);
    for daemon in [&closed, &open] {
        assert!(mvirt(daemon, &["network", "list"]).status.success(), "its own user");
        fs::set_permissions(daemon.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mode = |daemon: &Daemon| fs::metadata(daemon.path("api")).unwrap().permissions().mode();
    assert_eq!((mode(&closed) & 0o777, mode(&open) & 0o777), (0o600, 0o666));
    for (daemon, uid, is_let_in) in
        [(&closed, 4321, false), (&open, 4321, true), (&open, 4323, false), (&open, 4324, true)]
    {
        let Some(output) = as_user(daemon, folder.path(), uid) else {
            return cannot_run("only root can try the API as another user");
        };
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), is_let_in, "{uid}: {told}");
        if uid == 4323 {
            let expected = "You (uid 4323) may not use its API: see --allow-uid and --allow-gid";
            assert!(told.contains(expected) && told.contains("group mvirt-net"), "{told}");
        }
    }
    wait_until("who was turned away is told", || {
        open.log().contains("turned away from the API peer=uid=4323 gid=4323")
    });
}
