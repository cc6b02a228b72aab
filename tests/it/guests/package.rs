//! The Debian package (`make deb`), tried for real: a Debian whose first process is systemd
//! installs it, has a guest of a network, upgrades it twice, once with a configuration that is
//! wrong, removes it and purges it. Its root is a view of guests/build.sh's Debian, which stays as
//! it is.

use crate::{cli::install::built, command::stdout, daemon::cannot_run, machine::artefact};
use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// The first process.
const INIT: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
for folder in /run /tmp; do mount -t tmpfs tmp $folder; done
mkdir -p /dev/shm && mount -t tmpfs tmp /dev/shm
# What users make in a folder of the host would be root's.
mount -t tmpfs tmp /mnt && cp -a /var/lib /mnt/ && mount --bind /mnt/lib /var/lib
mount -t hostfs none /out -o OUT
tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
exec /lib/systemd/systemd --unit=try.service
"#;

/// What is done once systemd runs; what it finds goes to the host.
const TRY: &str = r#"#!/bin/bash
exec >/out/report 2>&1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export DEBIAN_FRONTEND=noninteractive
end() {
    journalctl -u mvirt-net --no-pager -o short-precise
    tail -3 /mnt/pings
    systemctl poweroff --force --force
}
trap end EXIT
export MVIRT_NET_SERVER=unix:/run/mvirt/net-api.sock
show() { systemctl show -p "$1" --value mvirt-net; }
# All that there is, but for what dpkg and systemd write about packages and services in general.
all() {
    find / /var/lib -xdev -not -path '/var/lib/dpkg/*' -not -path '/var/lib/systemd/*' \
        -not -path '/var/lib/dbus/*' -not -path '/var/log/*' -not -path '/var/cache/*' \
        -not -path '/var/tmp/*' -not -path '/etc/*-' | sort
    find /run/mvirt 2>/dev/null
    sed 's/^/passwd /' /etc/passwd
    grep -v '^kvm:' /etc/group | sed 's/^/group /'
}
all >/mnt/before
dpkg --force-unsafe-io -i /out/first.deb
echo "installed: $?, $(show ActiveState), $(systemctl is-enabled mvirt-net)"
systemctl --quiet is-active mvirt-net || exit
echo "runs as $(stat -c %U /proc/$(show MainPID))"
echo "may read: $(stat -c '%a %U' /etc/mvirt/net.toml), sockets $(stat -c '%a %U' /run/mvirt/net)"
man=$(zcat /usr/share/man/man5/net.toml.5.gz | grep -c reactors)
echo "manual: $([ "$man" -gt 0 ] && echo there)"
mvirt network create --name prod --ipv4-subnet 10.0.0.0/24
mvirt nic create --network prod --name vm1
# A guest that is there all the time, and would not come back to a daemon that was restarted.
mvirt probe vm1 ping 169.254.0.1 --count 60000 --interval 50 >/mnt/pings 2>&1 &
guest=$!
for _ in $(seq 200); do mvirt nic get vm1 | grep -q 'state *active' && break; sleep 0.1; done
first=$(show MainPID)
echo 'max-nics = 77' >>/etc/mvirt/net.toml
dpkg --force-unsafe-io --force-confold -i /out/second.deb
echo "upgraded: $?"
for _ in $(seq 200); do [ "$(show MainPID)" != "$first" ] && break; sleep 0.1; done
second=$(show MainPID)
[ "$first" != "$second" ] && echo "handed over: $(show ActiveState), restarts $(show NRestarts)"
echo "kept: $(grep ^max-nics /etc/mvirt/net.toml), $(mvirt nic get vm1 | grep -o 'state *active')"
kill -0 $guest && echo "the guest is there"
echo 'reactors = "many"' >>/etc/mvirt/net.toml
dpkg --force-unsafe-io -i /out/second.deb
echo "with a wrong file: $?, $(show ActiveState)"
[ "$(show MainPID)" = "$second" ] && echo "the same process"
kill -0 $guest && mvirt nic get vm1 | grep -q 'state *active' && echo "the guest is still there"
kill -INT $guest
sed -i '$d' /etc/mvirt/net.toml
systemctl stop mvirt-net
dpkg --force-unsafe-io -i /out/second.deb
echo "one that was stopped: $(show ActiveState)"
systemctl start mvirt-net
dpkg -r mvirt-net
echo "removed: $?, $(systemctl is-active mvirt-net)"
echo "stays: $(ls /var/lib/mvirt/net/nics | wc -l) vNIC, $(ls /etc/mvirt)"
dpkg -P mvirt-net
echo "purged: $?"
all >/mnt/after
diff /mnt/before /mnt/after && echo "nothing is left"
"#;

const UNIT: &str = "[Unit]
DefaultDependencies=no
After=dbus.socket systemd-journald.socket
Wants=systemd-journald.socket
[Service]
Type=oneshot
ExecStart=/try
";

/// Makes the package of what was built for this test.
fn package(place: &Path, version: &str) -> PathBuf {
    let mut make = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/deb.sh"));
    make.env("CARGO_TARGET_DIR", place).env("VERSION", version).env("COMPRESSION", "none");
    make.env_remove("MAKEFLAGS");
    PathBuf::from(stdout(&make.output().unwrap()).trim())
}

#[test]
fn the_package_is_installed_upgraded_and_purged_and_guests_stay() {
    if !rustix::process::geteuid().is_root() {
        return cannot_run("a Debian of its own is mounted by root");
    }
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    for folder in ["built", "upper/etc/systemd/system", "upper/out", "work", "root", "out"] {
        fs::create_dir_all(path(folder)).unwrap();
    }
    built(&path("built"));
    let [first, second] = ["1.0.0", "1.0.1"].map(|version| package(&path("built"), version));
    for (package, name) in [(&first, "first.deb"), (&second, "second.deb")] {
        fs::rename(package, path("out").join(name)).unwrap();
    }
    let mut lintian = Command::new("lintian");
    let lintian = lintian.args(["--fail-on", "warning"]).arg(path("out/first.deb"));
    // It leaves files behind.
    let lintian = lintian.env("TMPDIR", scratch.path());
    let lintian = lintian.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let listed = Command::new("dpkg-deb").arg("-c").arg(path("out/first.deb")).output().unwrap();
    let plugin = "/wireshark/extcap/mvirt-extcap -> ../../../../bin/mvirt";
    assert!(stdout(&listed).contains(plugin));
    let script = |name: &str, text: &str| {
        fs::write(path(name), text).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o755)).unwrap();
    };
    script("upper/init-try", &INIT.replace("OUT", path("out").to_str().unwrap()));
    script("upper/try", TRY);
    fs::write(path("upper/etc/systemd/system/try.service"), UNIT).unwrap();
    let mount = "mount -t overlay overlay -o lowerdir=$0,upperdir=$1/upper,workdir=$1/work $1/root \
                 && exec linux.uml mem=512M rootfstype=hostfs rootflags=$1/root rw init=/init-try \
                 con=null con0=null,fd:1 quiet";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", mount]).arg(artefact("debian")).arg(scratch.path());
    command.env("HOME", scratch.path()).env("TMPDIR", "/dev/shm").process_group(0);
    command.env("LD_PRELOAD", artefact("uml-xstate.so"));
    let console = fs::File::create(path("console")).unwrap();
    command.stdin(Stdio::null()).stdout(console).stderr(Stdio::null());
    let mut machine = command.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(250);
    while machine.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::park_timeout(Duration::from_millis(50));
    }
    // User-mode Linux is many processes; all are in the group.
    if let Some(group) = rustix::process::Pid::from_raw(machine.id().cast_signed()) {
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
    }
    machine.wait().unwrap();
    let console = fs::read_to_string(path("console")).unwrap_or_default();
    let report = fs::read_to_string(path("out/report")).unwrap_or_default();
    for line in [
        "installed: 0, active, enabled",
        "runs as mvirt-net",
        "may read: 644 root, sockets 751 mvirt-net",
        "manual: there",
        "upgraded: 0",
        "handed over: active, restarts 0",
        "kept: max-nics = 77, state       active",
        "the guest is there",
        "with a wrong file: 0, active",
        "the same process",
        "the guest is still there",
        "one that was stopped: inactive",
        "removed: 0, inactive",
        "stays: 1 vNIC, net.toml",
        "purged: 0",
        "nothing is left",
    ] {
        let is_there = report.lines().any(|found| found == line);
        assert!(is_there, "{line:?} is not in\n{report}\n{console}");
    }
    // Beside it, since each keeps one CPU busy.
    let found = lintian.wait_with_output().unwrap();
    let said = [found.stdout, found.stderr].concat();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&said));
}
