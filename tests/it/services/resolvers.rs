//! Resolvers as guests have them ask their gateway: those of the GNU and the musl C library, and
//! systemd-resolved.

use super::forwarding::{inside, on_a_host, rig};
use crate::{daemon::cannot_run, machine::artefact, name_server::NameServer};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Runs a program, which must succeed. Returns what it says.
fn said(command: &mut Command) -> String {
    let ran = command.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{command:?}: {said}{errors}");
    said
}

/// A folder that is /etc to a client whose guest was told of its gateway by DHCP.
fn etc(servers: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("resolv.conf", &format!("nameserver {servers}\nsearch internal\noptions attempts:1\n"));
    write("nsswitch.conf", "hosts: files dns\n");
    write("hosts", "127.0.0.1 localhost\n");
    folder
}

/// Runs a program where a folder is /etc.
fn run_with(etc: &Path, program: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", r#"mount --bind "$1" /etc; shift; exec "$@""#, "sh"]);
    said(command.arg(etc).arg(program).args(arguments))
}

/// Builds resolve.c with a compiler.
fn build(compiler: &str, folder: &Path) -> PathBuf {
    let program = folder.join(compiler);
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/services/resolve.c");
    said(Command::new(compiler).args(["-O1", "-o"]).arg(&program).arg(source));
    program
}

/// What a client asks for.
const NAMES: [&str; 11] = [
    "c1",
    "c1.web.internal",
    "ONE.example",
    "two.example.",
    "c9.internal",
    "nothing.example",
    "many.example",
    "-x",
    "10.1.0.1",
    "-x",
    "192.0.2.7",
];

#[test]
fn c_libraries_find_names_of_both() {
    if Command::new("musl-gcc").arg("--version").output().is_err() {
        return cannot_run("there is no musl-gcc: the package musl-tools");
    }
    on_a_host(|| {
        let server = NameServer::start("192.0.2.53:53", [192, 0, 2, 7]);
        let (_daemon, _, c1) = rig(&["192.0.2.53"]);
        let folder = tempfile::tempdir().unwrap();
        let [gnu, musl] = ["cc", "musl-gcc"].map(|compiler| build(compiler, folder.path()));
        let etc = etc("169.254.0.1");
        inside(&c1, || {
            for (program, addresses) in [(gnu, 100), (musl, 28)] {
                let found = run_with(etc.path(), &program, &NAMES);
                let lines: Vec<_> = found.lines().collect();
                let [c1, full, one, two, c9, nothing, many, own, other] = lines[..] else {
                    panic!("{program:?}: {found}")
                };
                assert_eq!([c1, full], ["10.1.0.1"; 2], "{program:?}");
                assert_eq!([one, two], ["192.0.2.7"; 2], "{program:?}");
                assert_eq!([c9, nothing], ["no such name"; 2], "{program:?}");
                // musl asks by TCP from 1.2.4 on, and until then is content with what fits.
                let many: usize = many.trim_end_matches(" addresses").parse().unwrap();
                assert!(many >= addresses, "{program:?}: {many}");
                assert_eq!([own, other], ["c1.web.internal", "found.example"], "{program:?}");
            }
            let getent = Path::new("getent");
            let found = run_with(etc.path(), getent, &["hosts", "c1", "one.example"]);
            let names: Vec<_> = found.split_whitespace().collect();
            assert_eq!(names, ["10.1.0.1", "c1.internal", "192.0.2.7", "one.example"]);
        });
        assert!(server.all_asked().iter().all(|asked| !asked.name.ends_with("internal.")));
    });
}

/// Runs systemd-resolved in a Debian of its own, and asks it. $1: the Debian; $2: what is /etc.
const RESOLVED: &str = r#"
mount --bind "$2" "$1/etc"
mount -t tmpfs tmpfs "$1/run"
mount -t proc proc "$1/proc"
mount --bind /dev "$1/dev"
mkdir -p "$1/run/systemd"
SYSTEMD_LOG_TARGET=console chroot "$1" /lib/systemd/systemd-resolved 2>&1 &
ask() { dig @127.0.0.53 +time=5 +tries=1 "$@"; }
for try in 1 2 3 4 5 6 7 8 9 10; do
    ask +short c1.internal | grep -q '^10' && break
done
ask +short c1.web.internal
ask +short one.example
ask +short -x 10.1.0.1
ask +short -x 192.0.2.7
ask nothing.example | grep -o 'status: [A-Z]*'
ask many.example | grep -o 'ANSWER: [0-9]*'
chroot "$1" getent hosts c1 one.example
"#;

#[test]
fn systemd_resolved_finds_names_of_both() {
    on_a_host(|| {
        let _server = NameServer::start("192.0.2.53:53", [192, 0, 2, 7]);
        let (_daemon, _, c1) = rig(&["192.0.2.53"]);
        let debian = artefact("debian");
        let folder = tempfile::tempdir().unwrap();
        let etc = folder.path().join("etc");
        said(Command::new("cp").arg("-a").arg(debian.join("etc")).arg(&etc));
        fs::write(etc.join("nsswitch.conf"), "passwd: files\nhosts: resolve\n").unwrap();
        fs::write(
            etc.join("systemd/resolved.conf"),
            "[Resolve]\nDNS=169.254.0.1\nDomains=internal\nFallbackDNS=\nLLMNR=no\n\
             MulticastDNS=no\n",
        )
        .unwrap();
        inside(&c1, || {
            let mut command = Command::new("unshare");
            command.args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-ec",
                RESOLVED,
                "sh",
            ]);
            let found = said(command.arg(&debian).arg(&etc));
            for line in [
                "10.1.0.1",
                "192.0.2.7",
                "c1.web.internal.",
                "found.example.",
                "status: NXDOMAIN",
                "ANSWER: 100",
            ] {
                assert!(found.lines().any(|told| told == line), "{line}: {found}");
            }
            for name in ["c1.internal", "one.example"] {
                assert!(found.lines().any(|told| told.ends_with(&format!(" {name}"))), "{found}");
            }
        });
    });
}
