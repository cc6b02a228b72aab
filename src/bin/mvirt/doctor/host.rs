//! What is wrong with a host and its daemon.

use super::{
    finding::Finding,
    look::{Folder, Host, Pin},
};
use mvirt_net::proto::VersionInfo;
use std::io::ErrorKind;

/// The oldest kernel whose io_uring is used as it is.
// IORING_SETUP_R_DISABLED, and eventfds of vhost-user that need no memlock, are older: 5.10, 5.12.
const OLDEST: (u32, u32) = (5, 13);
/// 2024-01-01: a clock that shows less was never set.
const NOT_SET: u64 = 1_704_067_200;
/// Percent of the time that another machine may have had our CPUs.
const MUCH_STEAL: u64 = 5;

/// Checks what needs no daemon.
pub(super) fn check(host: &Host) -> Vec<Finding> {
    let mut findings = vec![
        kernel(&host.kernel),
        io_uring(host.ring, host.io_uring_disabled.as_deref()),
        clock(host.now),
        governor(&host.governors),
        steal(&host.cpu),
    ];
    findings.extend(reactors(&host.pins));
    findings.extend(host.file.as_ref().map(|file| match file {
        Ok(path) => Finding::ok("configuration", path.display().to_string()),
        Err(fault) => Finding::fail(
            "configuration",
            fault,
            "mend it, then mvirt-net --check-config and systemctl reload mvirt-net",
        ),
    }));
    findings
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST {
        let text = format!("Linux {release} is older than {}.{}", OLDEST.0, OLDEST.1);
        return Finding::fail("kernel", text, "boot a newer one");
    }
    Finding::ok("kernel", format!("Linux {release}"))
}

fn io_uring(refused: Option<ErrorKind>, disabled: Option<&str>) -> Finding {
    match (refused, disabled) {
        (_, Some("2")) => Finding::fail(
            "io_uring",
            "kernel.io_uring_disabled is 2: nobody may use it",
            "sysctl -w kernel.io_uring_disabled=0",
        ),
        (_, Some("1")) => Finding::warn(
            "io_uring",
            "kernel.io_uring_disabled is 1: only privileged processes may use it",
            "sysctl -w kernel.io_uring_disabled=0, or put the daemon's group into \
             kernel.io_uring_group",
        ),
        (None, _) => Finding::ok("io_uring", "allowed"),
        (Some(ErrorKind::Unsupported), _) => Finding::fail(
            "io_uring",
            "this kernel has none, or a seccomp filter hides it",
            "let the container's seccomp profile allow io_uring_setup, io_uring_enter and \
             io_uring_register",
        ),
        (Some(ErrorKind::PermissionDenied), _) => Finding::fail(
            "io_uring",
            "refused to this user",
            "look at the sysctl kernel.io_uring_disabled, and the container's seccomp profile",
        ),
        (Some(kind), _) => {
            Finding::warn("io_uring", format!("no ring can be made: {kind}"), "see dmesg")
        }
    }
}

fn clock(now: u64) -> Finding {
    if now < NOT_SET {
        let remedy = "set it: leases and certificates are told by it";
        return Finding::fail("clock", "it shows a time before 2024", remedy);
    }
    Finding::ok("clock", "set")
}

fn governor(governors: &[String]) -> Finding {
    let slow = governors.iter().filter(|it| *it == "powersave" || *it == "conservative").count();
    match (slow, governors.first()) {
        (_, None) => Finding::ok("cpu", "its clock is not this system's to set"),
        (0, Some(first)) => Finding::ok("cpu", format!("governor {first}")),
        (slow, Some(_)) => Finding::warn(
            "cpu",
            format!("{slow} of {} CPUs save power: each burst begins slowly", governors.len()),
            "cpupower frequency-set -g performance",
        ),
    }
}

/// Takes the line of all CPUs of proc_stat(5).
fn steal(line: &str) -> Finding {
    let times: Vec<u64> =
        line.split_whitespace().skip(1).map(|time| time.parse().unwrap_or(0)).collect();
    // Guests' times, behind steal, are in those of users already.
    let all: u64 = times.iter().take(8).sum();
    let percent = times.get(7).map_or(0, |steal| steal * 100 / all.max(1));
    if percent >= MUCH_STEAL {
        let text = format!("{percent} % of the time since the start another machine had them");
        return Finding::warn("steal", text, "give this machine CPUs of its own");
    }
    Finding::ok("steal", format!("{percent} %"))
}

/// Looks for what runs where a reactor is held, by `--cpus`.
fn reactors(pins: &[Pin]) -> Option<Finding> {
    let is_ours = |pin: &&Pin| pin.thread.starts_with("reactor-");
    let ours: Vec<_> = pins.iter().filter(is_ours).collect();
    let beside: Vec<_> = pins
        .iter()
        .filter(|pin| !is_ours(pin))
        .filter_map(|pin| {
            let reactor = &ours.iter().find(|reactor| reactor.cpu == pin.cpu)?.thread;
            let Pin { cpu, pid, thread } = pin;
            Some(format!("{reactor} has CPU {cpu} with {thread:?} of process {pid}"))
        })
        // The next ones are found once these are gone.
        .take(4)
        .collect();
    if ours.is_empty() {
        return None;
    }
    Some(if beside.is_empty() {
        Finding::ok("reactors", "nobody else is held on their CPUs")
    } else {
        Finding::warn("reactors", beside.join(", "), "give them other CPUs: --cpus, or the VMM's")
    })
}

/// Checks what the daemon says of itself.
pub(super) fn daemon(version: &VersionInfo, ours: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.push(if version.version == ours {
        Finding::ok("daemon", format!("mvirt-net {ours}"))
    } else {
        Finding::warn(
            "daemon",
            format!("mvirt-net is version {}, mvirt {ours}", version.version),
            "systemctl reload mvirt-net, if a new one is installed",
        )
    });
    let ill = |ailment: &String| {
        let remedy = "see its log, and docs/operations.md: When the disk does not take changes";
        Finding::fail("storage", ailment, remedy)
    };
    findings.extend(version.degraded.iter().map(ill));
    findings
}

/// Checks the daemon's limit of open files, where it is known, for so many vNICs.
pub(super) fn open_files(limit: Option<u64>, nics: u64) -> Finding {
    let Some(limit) = limit else {
        return Finding::ok(
            "open files",
            "not looked at: none or several processes mvirt-net are seen here",
        );
    };
    let room = mvirt_net::dataplane::listeners_of(limit);
    let text = format!("{limit} may be open: room for {room} vNICs, of which there are {nics}");
    if room < nics.saturating_mul(2).max(64) {
        let remedy = "raise LimitNOFILE= of the unit, or ulimit -n";
        return Finding::warn("open files", text, remedy);
    }
    Finding::ok("open files", text)
}

/// Checks pages of 2 MiB, free and all, for the links of so many reactors.
pub(super) fn hugepages(pages: Option<(u64, u64)>, reactors: u64) -> Finding {
    // A link for each ordered pair.
    let wanted = reactors * reactors.saturating_sub(1);
    match pages {
        _ if wanted == 0 => Finding::ok("hugepages", "not needed by one reactor"),
        Some((free, all)) if all >= wanted => {
            Finding::ok("hugepages", format!("{free} of {all} are free"))
        }
        _ => {
            let all = pages.map_or(0, |(_, all)| all);
            Finding::warn(
                "hugepages",
                format!("{all} of 2 MiB, and links between {reactors} reactors want {wanted}"),
                format!("sysctl -w vm.nr_hugepages={wanted}, then restart mvirt-net"),
            )
        }
    }
}

/// Checks the folder of vNICs' sockets.
pub(super) fn sockets(folder: Option<&Folder>) -> Finding {
    let Some(Folder { path, mode }) = folder else {
        return Finding::ok("sockets", "no vNIC has one");
    };
    let path = path.display();
    match mode {
        None => Finding::fail(
            "sockets",
            format!("{path} is not there, or not for this user"),
            "restart mvirt-net, and let nothing clean /run/mvirt",
        ),
        // Search, by others.
        Some(mode) if mode & 0o001 == 0 => Finding::warn(
            "sockets",
            format!("{path} has mode {mode:o}: VMMs of other users cannot pass"),
            format!("chmod o+x {path}"),
        ),
        Some(mode) => Finding::ok("sockets", format!("{path}, mode {mode:o}")),
    }
}

/// Checks all vNICs, by those that are in error.
pub(super) fn nics(count: u64, ill: &[&str]) -> Finding {
    match ill {
        [] => Finding::ok("vNICs", format!("{count}, none in error")),
        some => Finding::fail(
            "vNICs",
            format!("in error: {}", some.join(", ")),
            format!("mvirt doctor {}", some[0]),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(finding: Finding, line: &str) {
        assert_eq!(finding.line(), line);
    }

    #[test]
    fn who_is_held_where_a_reactor_is_is_named() {
        let pin = |cpu, pid, thread: &str| Pin { cpu, pid, thread: thread.into() };
        let mut pins = vec![pin(2, 9, "vcpu 0")];
        assert_eq!(reactors(&pins), None);
        pins.push(pin(3, 1, "reactor-0"));
        let apart = reactors(&pins).unwrap();
        says(apart, "ok   reactors: nobody else is held on their CPUs");
        pins.push(pin(3, 9, "vcpu 1"));
        says(
            reactors(&pins).unwrap(),
            "warn reactors: reactor-0 has CPU 3 with \"vcpu 1\" of process 9 → give them other \
             CPUs: --cpus, or the VMM's",
        );
    }

    #[test]
    fn kernels_rings_and_clocks_are_told_of() {
        says(kernel("6.1.0-18-amd64"), "ok   kernel: Linux 6.1.0-18-amd64");
        says(kernel("5.10.0"), "fail kernel: Linux 5.10.0 is older than 5.13 → boot a newer one");
        says(io_uring(None, Some("0")), "ok   io_uring: allowed");
        says(io_uring(None, None), "ok   io_uring: allowed");
        says(
            io_uring(None, Some("2")),
            "fail io_uring: kernel.io_uring_disabled is 2: nobody may use it → \
             sysctl -w kernel.io_uring_disabled=0",
        );
        says(
            io_uring(None, Some("1")),
            "warn io_uring: kernel.io_uring_disabled is 1: only privileged processes may use it → \
             sysctl -w kernel.io_uring_disabled=0, or put the daemon's group into \
             kernel.io_uring_group",
        );
        says(
            io_uring(Some(ErrorKind::Unsupported), None),
            "fail io_uring: this kernel has none, or a seccomp filter hides it → let the \
             container's seccomp profile allow io_uring_setup, io_uring_enter and \
             io_uring_register",
        );
        says(
            io_uring(Some(ErrorKind::PermissionDenied), Some("0")),
            "fail io_uring: refused to this user → look at the sysctl kernel.io_uring_disabled, \
             and the container's seccomp profile",
        );
        says(
            io_uring(Some(ErrorKind::OutOfMemory), None),
            "warn io_uring: no ring can be made: out of memory → see dmesg",
        );
        says(clock(1_800_000_000), "ok   clock: set");
        says(
            clock(3),
            "fail clock: it shows a time before 2024 → set it: leases and certificates are told \
             by it",
        );
    }

    #[test]
    fn cpus_are_told_of() {
        let governors = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        says(governor(&[]), "ok   cpu: its clock is not this system's to set");
        says(governor(&governors(&["schedutil"])), "ok   cpu: governor schedutil");
        says(
            governor(&governors(&["powersave", "performance"])),
            "warn cpu: 1 of 2 CPUs save power: each burst begins slowly → cpupower \
             frequency-set -g performance",
        );
        says(
            steal("cpu  10 0 10 70 0 0 0 10 5 0"),
            "warn steal: 10 % of the time since the start \
             another machine had them → give this machine CPUs of its own",
        );
        says(steal("cpu  10 0 10 79 0 0 0 1 0 0"), "ok   steal: 1 %");
        says(steal(""), "ok   steal: 0 %");
    }

    #[test]
    fn the_daemon_is_told_of() {
        let version = |version: &str, degraded: &[&str]| VersionInfo {
            version: version.into(),
            degraded: degraded.iter().map(ToString::to_string).collect(),
        };
        let lines = |version: &VersionInfo| {
            daemon(version, "1.0").iter().map(Finding::line).collect::<Vec<_>>()
        };
        assert_eq!(lines(&version("1.0", &[])), ["ok   daemon: mvirt-net 1.0"]);
        assert_eq!(
            lines(&version("0.9", &["changes cannot be stored"])),
            [
                "warn daemon: mvirt-net is version 0.9, mvirt 1.0 → systemctl reload mvirt-net, \
                 if a new one is installed",
                "fail storage: changes cannot be stored → see its log, and docs/operations.md: \
                 When the disk does not take changes",
            ]
        );
        says(
            open_files(None, 5),
            "ok   open files: not looked at: none or several processes mvirt-net are seen here",
        );
        says(
            open_files(Some(1024), 200),
            "warn open files: 1024 may be open: room for 256 vNICs, of which there are 200 → \
             raise LimitNOFILE= of the unit, or ulimit -n",
        );
        says(
            open_files(Some(1 << 20), 200),
            "ok   open files: 1048576 may be open: room for 983040 vNICs, of which there are 200",
        );
    }

    #[test]
    fn pages_sockets_and_vnics_are_told_of() {
        says(hugepages(None, 1), "ok   hugepages: not needed by one reactor");
        says(hugepages(Some((10, 12)), 4), "ok   hugepages: 10 of 12 are free");
        says(
            hugepages(Some((0, 0)), 2),
            "warn hugepages: 0 of 2 MiB, and links between 2 reactors want 2 → sysctl -w \
             vm.nr_hugepages=2, then restart mvirt-net",
        );
        let folder = |mode| Folder { path: "/run/mvirt/net".into(), mode };
        says(sockets(None), "ok   sockets: no vNIC has one");
        says(sockets(Some(&folder(Some(0o751)))), "ok   sockets: /run/mvirt/net, mode 751");
        says(
            sockets(Some(&folder(Some(0o750)))),
            "warn sockets: /run/mvirt/net has mode 750: VMMs of other users cannot pass → chmod \
             o+x /run/mvirt/net",
        );
        says(
            sockets(Some(&folder(None))),
            "fail sockets: /run/mvirt/net is not there, or not for this user → restart \
             mvirt-net, and let nothing clean /run/mvirt",
        );
        says(nics(3, &[]), "ok   vNICs: 3, none in error");
        says(nics(3, &["a", "b"]), "fail vNICs: in error: a, b → mvirt doctor a");
    }
}
