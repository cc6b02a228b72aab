//! The systemd unit, tried for real: a Debian guest whose first process becomes systemd starts the
//! daemon of the host's build by the unit of `dist/`, with a watchdog that is less patient, uses it
//! as several users, reloads it, kills it, lets it stand still, gives it a wrong flag, and stops
//! it.

use crate::{daemon::Daemon, machine::Machine};
use std::path::Path;

/// What the guest does once systemd runs; what it finds goes to the host.
const TRY: &str = r#"#!/bin/sh
exec >/out/report 2>&1
trap 'journalctl -u mvirt-net --no-pager -o short-precise; echo "@@ 0" >/dev/console' EXIT
export MVIRT_NET_SERVER=unix:/run/mvirt/net-api.sock
show() { systemctl show -p "$1" --value mvirt-net; }
mvirt network create --name prod --ipv4-subnet 10.0.0.0/24
mvirt nic create --network prod --name vm1
mvirt probe vm1 ping 169.254.0.1
first=$(show MainPID)
echo "started: $(show ActiveState) as $(stat -c %U /proc/$first)"
# A member of both groups, of one, of the other, of none.
as() {
    user=$1; shift
    setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups "$@" 2>&1
    echo "$user $(basename "$1") $2: $?"
}
for user in both admin vmm nobody; do as $user /usr/local/bin/mvirt network list; done
for user in both admin; do as $user /usr/local/bin/mvirt probe vm1 ping 169.254.0.1; done
echo "sockets: $(stat -c '%U %G %a' /run/mvirt/net/*.sock)"
systemctl reload mvirt-net
# It may come back before the daemon has told systemd that there is something to wait for.
for _ in $(seq 100); do [ "$(show MainPID)" != "$first" ] && break; sleep 0.1; done
second=$(show MainPID)
[ "$first" != "$second" ] && echo "reloaded: $(show ActiveState), restarts $(show NRestarts)"
mvirt probe vm1 ping 169.254.0.1
sleep 5
echo "fed: restarts $(show NRestarts)"
grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/$second/status
kill -9 "$second"
for _ in $(seq 100); do
    [ "$(show NRestarts)" = 1 ] && [ "$(show ActiveState)" = active ] && break
    sleep 0.1
done
echo "restarted: $(show NRestarts)"
mvirt nic list
kill -STOP "$(show MainPID)"
for _ in $(seq 200); do
    [ "$(show NRestarts)" = 2 ] && [ "$(show ActiveState)" = active ] && break
    sleep 0.1
done
echo "stood still: restarts $(show NRestarts)"
mvirt probe vm1 ping 169.254.0.1
echo 'reactors = "many"' >>/etc/mvirt/net.toml
before=$(show MainPID)
systemctl reload mvirt-net
echo "a wrong file: $?, $(show ActiveState)"
[ "$(show MainPID)" = "$before" ] && echo "the same process"
mvirt probe vm1 ping 169.254.0.1
sed -i '$d' /etc/mvirt/net.toml
echo MVIRT_NET_BUSY_POLL=10ms >/etc/default/mvirt-net
systemctl restart mvirt-net
echo "a wrong flag: $(show ActiveState) $(show ExecMainStatus), restarts $(show NRestarts)"
echo MVIRT_NET_LISTEN=unix:/run/mvirt/net-api.sock,127.0.0.1:50054 >/etc/default/mvirt-net
systemctl restart mvirt-net
mvirt --net-server http://127.0.0.1:50054 network list
sysctl -qw net.ipv4.ping_group_range="0 2147483647"
ip addr add 203.0.113.9/32 dev lo
mvirt network create --name web --ipv4-subnet 10.1.0.0/24 --public
mvirt nic create --network web --name web1
mvirt egress
for _ in $(seq 100); do
    mvirt probe web1 ping 203.0.113.9 >/dev/null && echo "by sockets: reached" && break
done
cp /out/egress.conf /etc/systemd/system/mvirt-net.service.d/
systemctl daemon-reload
systemctl restart mvirt-net
grep -E '^Cap(Eff|Bnd):' "/proc/$(show MainPID)/status" | sed 's/^/egress: /'
systemctl stop mvirt-net
journalctl -u mvirt-net --no-pager -p err -o cat | sed 's/^/priority err: /'
echo "stopped: $(show Result) $(show ExecMainStatus), $(ls /run/mvirt/net | wc -l) sockets left"
"#;

/// Users of the host that the guest is.
const USERS: &str = "u both - -
u admin - -
u vmm - -
m both mvirt-net
m both kvm
m admin mvirt-net
m vmm kvm
";

const TRY_UNIT: &str = "[Unit]
Wants=mvirt-net.service
After=mvirt-net.service
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/usr/local/bin/try
";

#[test]
fn the_unit_starts_reloads_restarts_and_stops() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "host");
    let out = tempfile::tempdir().unwrap();
    let put = |name: &str, octets: &[u8]| std::fs::write(out.path().join(name), octets).unwrap();
    for binary in [
        env!("CARGO_BIN_EXE_mvirt-net"),
        env!("CARGO_BIN_EXE_mvirt"),
        env!("CARGO_BIN_EXE_mvirt-egress"),
    ] {
        let name = Path::new(binary).file_name().unwrap();
        std::fs::copy(binary, out.path().join(name)).unwrap();
    }
    put("mvirt-net.service", include_bytes!("../../../dist/mvirt-net.service"));
    put("net.toml", include_bytes!("../../../dist/net.toml"));
    put("mvirt-net.conf", include_bytes!("../../../dist/mvirt-net.sysusers"));
    put("egress.conf", include_bytes!("../../../dist/egress.conf"));
    put("users.conf", USERS.as_bytes());
    put("try.service", TRY_UNIT.as_bytes());
    put("try", TRY.as_bytes());
    put("quick.conf", b"[Service]\nWatchdogSec=2\nTimeoutStopSec=2\n");
    let mut machine = Machine::debian(&daemon, &nic, out.path());
    machine.succeed("chmod 755 /out /out/try && mount --bind /out /usr/local/bin");
    machine.succeed("systemd-sysusers /out/mvirt-net.conf /out/users.conf");
    machine.succeed("mkdir /etc/mvirt && cp /out/net.toml /etc/mvirt/");
    machine.succeed("cp /out/*.service /etc/systemd/system/ && mount -t tmpfs tmp /var/lib");
    // Else it would remove what /etc is a view of.
    machine.succeed("ln -s /dev/null /etc/systemd/system/systemd-tmpfiles-setup.service");
    let dropins = "/etc/systemd/system/mvirt-net.service.d";
    machine.succeed(&format!("mkdir {dropins} && cp /out/quick.conf {dropins}/"));
    // The script that is the guest's first process becomes systemd.
    machine.run("exec /lib/systemd/systemd --unit=try.service");
    let report = std::fs::read_to_string(out.path().join("report")).unwrap();
    for line in [
        "started: active as mvirt-net",
        "both mvirt network: 0",
        "admin mvirt network: 0",
        "vmm mvirt network: 1",
        "nobody mvirt network: 1",
        "both mvirt probe: 0",
        "admin mvirt probe: 1",
        "sockets: mvirt-net kvm 660",
        "reloaded: active, restarts 0",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "fed: restarts 0",
        "restarted: 1",
        "stood still: restarts 2",
        "a wrong file: 1, active",
        "the same process",
        "a wrong flag: failed 2, restarts 0",
        "by sockets: reached",
        // CAP_NET_ADMIN is number 12, CAP_NET_RAW is 13 (capabilities(7)).
        "egress: CapEff:\t0000000000003000",
        "egress: CapBnd:\t0000000000003000",
        "stopped: success 0, 0 sockets left",
    ] {
        assert!(report.lines().any(|found| found == line), "{line:?} is not in\n{report}");
    }
    assert!(report.contains("Failed with result 'watchdog'"), "{report}");
    let fault = "priority err: mvirt-net: environment variable MVIRT_NET_BUSY_POLL: invalid value";
    assert!(report.contains(fault), "{report}");
    let fault = "/etc/mvirt/net.toml:";
    let told = "reactors: expected auto or 1-64, got \"many\"";
    assert!(report.lines().any(|line| line.contains(fault) && line.contains(told)), "{report}");
    assert!(report.matches(" reply ").count() == 15, "{report}");
}
