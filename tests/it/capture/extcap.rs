//! vNICs as interfaces of Wireshark, by its own way to ask for them.

use crate::{
    daemon::{Daemon, cannot_run, wait_until},
    frames::Udp4,
    guest::pair,
};
use std::{
    path::Path,
    process::{Command, Stdio},
};

/// What the plug-in says, by the name that it has in Wireshark's folder.
fn says(server: &str, words: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let link = plug_in(folder.path());
    let mut command = Command::new(link);
    let said = command.env("MVIRT_NET_SERVER", server).args(words).output().unwrap();
    assert!(said.status.success(), "{words:?}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap()
}

/// Makes it one, in the folder of a user's own.
fn plug_in(home: &Path) -> std::path::PathBuf {
    let folder = home.join(".config/wireshark/extcap");
    std::fs::create_dir_all(&folder).unwrap();
    // Where later versions look.
    let later = home.join(".local/lib/wireshark");
    std::fs::create_dir_all(&later).unwrap();
    std::os::unix::fs::symlink(&folder, later.join("extcap")).unwrap();
    let link = folder.join("mvirt-extcap");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mvirt"), &link).unwrap();
    link
}

#[test]
fn wireshark_is_told_what_it_asks() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "a");
    let ask = |words: &[&str]| says(&daemon.address(), words);
    let own = format!("mvirt-{}", nic.id);
    let version = env!("CARGO_PKG_VERSION");
    let first = format!("extcap {{version={version}}}{{display=mvirt-net}}\n");
    let listed = ask(&["--extcap-interfaces", "--extcap-version=4.0"]);
    let expected = format!("{first}interface {{value={own}}}{{display=mvirt a (prod)}}\n");
    assert_eq!(listed, expected);
    assert_eq!(says("unix:/nowhere", &["--extcap-interfaces"]), first);
    let of = |words: &[&str]| ask(&[&["--extcap-interface", &own], words].concat());
    assert_eq!(of(&["--extcap-dlts"]), "dlt {number=1}{name=EN10MB}{display=Ethernet}\n");
    assert!(of(&["--extcap-config"]).starts_with("arg {number=0}{call=--drops}"));
    assert_eq!(of(&["--extcap-capture-filter", "udp port 53"]), "");
    let wrong = of(&["--extcap-capture-filter", "udp port"]);
    assert!(wrong.starts_with("column 9: expected a port"), "{wrong}");
}

#[test]
fn tshark_captures_from_a_vnic() {
    if Command::new("tshark").arg("--version").output().is_err() {
        return cannot_run("there is no tshark (Debian's tshark)");
    }
    let mut daemon = Daemon::start();
    let (nics, [mut a, mut b]) = pair(&mut daemon);
    let folder = tempfile::tempdir().unwrap();
    plug_in(folder.path());
    let tshark = |words: &[&str]| {
        let mut command = Command::new("tshark");
        command.env_remove("XDG_CONFIG_HOME").env("HOME", folder.path());
        command.env("MVIRT_NET_SERVER", daemon.address()).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let own = format!("mvirt-{}", nics[0].id);
    let listed = tshark(&["-D"]).wait_with_output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains(&format!("{own} (mvirt a (prod))")), "{listed}");
    let words = ["-n", "-i", &own, "-f", "udp", "-c", "5", "-T", "fields", "-e", "frame.comment"];
    let mut capture = tshark(&words);
    wait_until("it has captured five frames", || {
        a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.2", b"for all to see").frame());
        b.drain();
        std::thread::park_timeout(std::time::Duration::from_millis(20));
        capture.try_wait().unwrap().is_some()
    });
    let output = capture.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "verdict=forwarded to=b\n".repeat(5), "{:?}", output.stderr);
}
