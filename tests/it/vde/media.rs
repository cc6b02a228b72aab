//! The same program over every kind of locator; ports of several speeds and qualities; and two
//! hosts joined by ssh.

use super::{
    plug::{Joined, Lab, MVIRT},
    stock::{ALL, Plug, frame, mac},
    switches::{lab, serve, wait_for_clients},
};
use crate::{
    command::{mvirt, stdout},
    daemon::{cannot_run, wait_until},
    inside::inside,
    namespace::run,
};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The program: it knows two plugs, and nothing of what they are made of.
fn converse(names: &str, a: &mut Plug, b: &mut Plug) {
    wait_until(&format!("{names}: b hears a"), || {
        a.sends(&frame(ALL, 1, 60));
        b.hears_within(100).is_some()
    });
    wait_until(&format!("{names}: a hears b"), || {
        b.sends(&frame(mac(1), 2, 60));
        a.hears_within(100).is_some()
    });
    for len in [60, 100, 1514] {
        a.sends(&frame(mac(2), 1, len));
        while b.hears() != frame(mac(2), 1, len) {}
        b.sends(&frame(mac(1), 2, len));
        while a.hears() != frame(mac(1), 2, len) {}
    }
}

// seed H.5.10
#[test]
fn a_program_written_for_one_locator_works_with_all() {
    inside(|| {
        for line in [
            "ip link set lo up multicast on",
            "ip route add 239.0.0.0/8 dev lo",
            "ip link add v0 type veth peer name v1",
            "ip link set v0 up",
            "ip link set v1 up",
            "ip address add 10.9.9.1/24 dev v0",
        ] {
            run(line);
        }
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let [one, two, three, hub] = ["one", "two", "three", "hub"].map(at);
        let [stream, packets, cable] = ["stream", "packets", "cable"].map(at);
        // Addresses are this namespace's own. Of each pair the first is there before the second.
        // `dgram://` is not among them: neither may be first there.
        for (first, second) in [
            (format!("switch://{one}"), format!("vde://{one}")),
            (format!("switch://{two}"), two.clone()),
            (format!("switch://{three}"), format!("cmd://vde_plug {three}")),
            (format!("hub://{hub}"), format!("vde://{hub}")),
            (format!("stream-listen://{stream}"), format!("stream://{stream}")),
            ("stream-listen://127.0.0.1:9999".into(), "stream://127.0.0.1:9999".into()),
            (format!("seqpacket-listen://{packets}"), format!("seqpacket-connect://{packets}")),
            (format!("ptp://{cable}"), format!("ptp://{cable}")),
            ("udp://127.0.0.1:7001->127.0.0.1:7002".into(), {
                "udp://127.0.0.1:7002->127.0.0.1:7001".into()
            }),
            ("mcast://239.192.7.9:7003/if=lo".into(), "mcast://239.192.7.9:7003/if=lo".into()),
            ("packet://v0".into(), "packet://v1".into()),
            ("tap://t0[create/up]".into(), "packet://t0".into()),
            ("vxlan:///vni=42/remote=127.0.0.2/local=127.0.0.1".into(), {
                "vxlan:///vni=42/remote=127.0.0.1/local=127.0.0.2".into()
            }),
            ("vxvde://239.193.1.1/if=v0".into(), "vxvde://239.193.1.1/if=v0".into()),
            ("dives://239.13.13.13:7004/host=127.0.0.1/port=7005/vlan=1".into(), {
                "dives://239.13.13.13:7004/host=127.0.0.1/port=7006/vlan=1".into()
            }),
        ] {
            let plug = |locator: &str| Plug::of(Command::new(MVIRT).args(["plug", locator]));
            let names = format!("{first} {second}");
            let mut a = plug(&first);
            let served = first.strip_prefix("switch://").or_else(|| first.strip_prefix("hub://"));
            if let Some(directory) = served {
                wait_until("it serves", || Path::new(directory).join("ctl").exists());
            } else if let Some((_, path)) =
                first.split_once("-listen:///").or_else(|| first.split_once("ptp:///"))
            {
                wait_until("it listens", || Path::new("/").join(path).exists());
            } else if first.starts_with("stream-listen") {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 9999));
                wait_until("it listens", || TcpStream::connect(address).is_ok());
            } else if first.starts_with("tap") {
                let interfaces = || fs::read_to_string("/proc/thread-self/net/dev").unwrap();
                wait_until("it is there", || interfaces().contains("t0:"));
            }
            let mut b = plug(&second);
            converse(&names, &mut a, &mut b);
        }
    });
}

/// Sends so many frames from one to another, some at a time. Returns how many come.
fn carried(a: &mut Plug, b: &Plug, count: usize) -> usize {
    let wanted = frame(mac(2), 1, 100);
    let hears_for = |milliseconds| {
        let heard = std::iter::from_fn(|| b.hears_within(milliseconds));
        heard.filter(|one| *one == wanted).count()
    };
    let mut heard = 0;
    for _ in 0..count / 8 {
        // As many as sockets between them have room for (net.unix.max_dgram_qlen).
        (0..8).for_each(|_| a.sends(&wanted));
        heard += hears_for(10);
    }
    heard + hears_for(500)
}

// seed H.5.29
#[test]
fn a_port_loses_as_much_as_wirefilter_between_two_plugs() {
    let count = 800;
    // Far from the share by four times its standard deviation.
    let expected = 580..700;
    let mut theirs = Lab::new();
    let _joined = theirs.start("dpipe MVIRT plug A = wirefilter -l 20 = MVIRT plug B");
    wait_until("b hears a", || {
        theirs.a.sends(&frame(ALL, 1, 60));
        theirs.b.hears_within(100).is_some()
    });
    wait_until("a hears b", || {
        theirs.b.sends(&frame(mac(1), 2, 60));
        theirs.a.hears_within(100).is_some()
    });
    let heard = carried(&mut theirs.a, &theirs.b, count);
    assert!(expected.contains(&heard), "wirefilter: {heard}");
    let mut daemon = lab();
    let directory = serve(&mut daemon, "switch", "");
    let plug = || Plug::of(Command::new(MVIRT).arg("plug").arg(&directory));
    let (mut a, mut b) = (plug(), plug());
    wait_for_clients(&mut daemon, 2);
    converse("our switch", &mut a, &mut b);
    // Clients stay connected.
    stdout(&mvirt(&daemon, &["port", "update", "vde", "--impair-from", "loss=20%,seed=1"]));
    let heard = carried(&mut a, &b, count);
    assert!(expected.contains(&heard), "ours: {heard}");
    let said = stdout(&mvirt(&daemon, &["port", "stats", "vde"]));
    assert!(said.contains("impaired_loss"), "{said}");
    stdout(&mvirt(&daemon, &["port", "update", "vde", "--no-impairments"]));
    assert_eq!(carried(&mut a, &b, 80), 80);
}

// seed H.5.11
#[test]
fn ports_have_speeds_of_their_own() {
    let mut daemon = lab();
    let directory = serve(&mut daemon, "switch", "");
    let plug = || Plug::of(Command::new(MVIRT).arg("plug").arg(&directory));
    let (mut a, mut b) = (plug(), plug());
    wait_for_clients(&mut daemon, 2);
    converse("our switch", &mut a, &mut b);
    stdout(&mvirt(&daemon, &["port", "update", "vde", "--limit-from", "4Mbit/1Mbit"]));
    let (begin, mut heard) = (Instant::now(), 0);
    while begin.elapsed() < Duration::from_secs(2) {
        a.sends(&frame(mac(2), 1, 1000));
        heard += std::iter::from_fn(|| b.hears_within(0)).count();
    }
    let took = begin.elapsed();
    heard += std::iter::from_fn(|| b.hears_within(200)).count();
    // The burst at once, and then as much as the time has let.
    let most = (1e6 + 4e6 * took.as_secs_f64()) / 8000.0;
    assert!(heard as f64 <= 1.05 * most, "{heard} of at most {most}");
    assert!(heard as f64 >= 0.7 * most, "{heard} of {most}");
}

/// A server for ssh on loopback, for this user with a key of the test's; until dropped.
struct Ssh {
    server: Child,
    port: u16,
}

impl Ssh {
    /// Starts one with its files in `directory`. None: it cannot be.
    fn start(directory: &Path) -> Option<Self> {
        let server = Path::new("/usr/sbin/sshd");
        if !server.exists() {
            cannot_run("there is no sshd (Debian's openssh-server)");
            return None;
        }
        let [port] = crate::streams::free_ports();
        let file = |name: &str| directory.join(name).display().to_string();
        for key in ["host", "key"] {
            let mut keygen = Command::new("ssh-keygen");
            let keygen = keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", &file(key)]);
            assert!(keygen.status().unwrap().success());
        }
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\n",
            file("host"),
            file("key.pub"),
        );
        fs::write(directory.join("config"), config).unwrap();
        let sshd = format!("exec {} -D -q -f {}", server.display(), file("config"));
        // As root it wants an empty folder at one path: in a view of files of its own.
        let (program, args) = match rustix::process::geteuid().is_root() {
            true => ("unshare", vec!["--mount", "sh", "-c"]),
            false => ("sh", vec!["-c"]),
        };
        let line = match rustix::process::geteuid().is_root() {
            true => format!("mount -t tmpfs none /run && mkdir /run/sshd && {sshd}"),
            false => sshd,
        };
        let mut command = Command::new(program);
        let server = command.args(args).arg(line).stdin(Stdio::null()).spawn().unwrap();
        wait_until("sshd listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(Self { server, port })
    }

    /// How a command is run by it.
    fn client(&self, directory: &Path) -> String {
        format!(
            "ssh -p {} -i {} -o BatchMode=yes -o StrictHostKeyChecking=no \
             -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR 127.0.0.1",
            self.port,
            directory.join("key").display(),
        )
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

// seed H.5.27
#[test]
fn two_hosts_are_joined_by_ssh_until_that_breaks() {
    for line in ["dpipe MVIRT plug A = SSH MVIRT plug B", "MVIRT plug A = SSH MVIRT plug B"] {
        let mut lab = Lab::new();
        let folder = tempfile::tempdir().unwrap();
        let Some(ssh) = Ssh::start(folder.path()) else { return };
        let sockets = |lab: &Lab| fs::read_dir(lab.path("a")).unwrap().count();
        let before = sockets(&lab);
        let joined: Joined = lab.start(&line.replace("SSH", &ssh.client(folder.path())));
        lab.converse();
        if line.starts_with("dpipe") {
            continue;
        }
        // The connection breaks: what served it on the other host is gone.
        let sessions = Command::new("pgrep").args(["-P", &ssh.server.id().to_string()]).output();
        let sessions = String::from_utf8(sessions.unwrap().stdout).unwrap();
        for session in sessions.lines() {
            let session = rustix::process::Pid::from_raw(session.parse().unwrap()).unwrap();
            rustix::process::kill_process(session, rustix::process::Signal::KILL).ok();
        }
        let (code, said) = joined.ends();
        assert_eq!(code, Some(1), "{said}");
        wait_until("no socket is left", || sockets(&lab) == before);
    }
}
