//! The systemd unit, tried for real: a Debian guest whose first process becomes systemd starts the daemon of the host's
//! build by the unit of `dist/`, with a watchdog that is less patient, reloads it, kills it, lets it stand still, and stops it.

use super::{daemon::Daemon, machines::Machine};
use std::path::Path;

/// What the guest does once systemd runs; what it finds goes to the host.
const TRY: &str = r#"#!/bin/sh
exec >/out/report 2>&1
show() { systemctl show -p "$1" --value mvirt-net; }
mvirt network create --name prod --ipv4-subnet 10.0.0.0/24
mvirt nic create --network prod --name vm1
mvirt probe vm1 ping 169.254.0.1
first=$(show MainPID)
echo "started: $(show ActiveState)"
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
for _ in $(seq 100); do [ "$(show NRestarts)" = 1 ] && [ "$(show ActiveState)" = active ] && break; sleep 0.1; done
echo "restarted: $(show NRestarts)"
mvirt nic list
kill -STOP "$(show MainPID)"
for _ in $(seq 100); do [ "$(show NRestarts)" = 2 ] && [ "$(show ActiveState)" = active ] && break; sleep 0.1; done
echo "stood still: restarts $(show NRestarts)"
mvirt probe vm1 ping 169.254.0.1
systemctl stop mvirt-net
echo "stopped: $(show Result) $(show ExecMainStatus), $(ls /run/mvirt/net | wc -l) sockets left"
journalctl -u mvirt-net --no-pager -o short-precise
echo "@@ 0" >/dev/console
"#;

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
    for binary in [env!("CARGO_BIN_EXE_mvirt-net"), env!("CARGO_BIN_EXE_mvirt")] {
        let name = Path::new(binary).file_name().unwrap();
        std::fs::copy(binary, out.path().join(name)).unwrap();
    }
    put("mvirt-net.service", include_bytes!("../../dist/mvirt-net.service"));
    put("try.service", TRY_UNIT.as_bytes());
    put("try", TRY.as_bytes());
    put("quick.conf", b"[Service]\nWatchdogSec=2\n");
    let mut machine = Machine::debian(&daemon, &nic, out.path());
    machine.succeed("chmod 755 /out/try && mount --bind /out /usr/local/bin");
    machine.succeed("cp /out/*.service /etc/systemd/system/ && mount -t tmpfs tmp /var/lib");
    let dropins = "/etc/systemd/system/mvirt-net.service.d";
    machine.succeed(&format!("mkdir {dropins} && cp /out/quick.conf {dropins}/"));
    // The script that is the guest's first process becomes systemd.
    machine.run("exec /lib/systemd/systemd --unit=try.service");
    let report = std::fs::read_to_string(out.path().join("report")).unwrap();
    for line in [
        "started: active",
        "reloaded: active, restarts 0",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "fed: restarts 0",
        "restarted: 1",
        "stood still: restarts 2",
        "stopped: success 0, 0 sockets left",
    ] {
        assert!(report.lines().any(|found| found == line), "{line:?} is not in\n{report}");
    }
    assert!(report.contains("Failed with result 'watchdog'"), "{report}");
    assert!(report.matches(" reply ").count() == 9, "{report}");
}
