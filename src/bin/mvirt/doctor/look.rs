//! What there is of this host, read as it is; what cannot be read is absent.

use clap::CommandFactory as _;
use io_uring::IoUring;
use mvirt_net::{
    config::Config,
    flags::{self, read},
    locator::unspecified,
    net_toml,
    proto::Nic,
};
use rustix::net::sockopt;
use std::{
    fs, io,
    net::{SocketAddr, UdpSocket},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// What there is.
#[derive(Debug, Default)]
pub(super) struct Host {
    /// As uname(2) says it.
    pub(super) kernel: String,
    /// Whether a ring can be made.
    pub(super) ring: Option<io::ErrorKind>,
    /// kernel.io_uring_disabled.
    pub(super) io_uring_disabled: Option<String>,
    /// Pages of 2 MiB that are free, and all.
    pub(super) hugepages: Option<(u64, u64)>,
    /// What CPUs do with their clocks.
    pub(super) governors: Vec<String>,
    /// The line of all CPUs in /proc/stat.
    pub(super) cpu: String,
    /// Seconds since 1970.
    pub(super) now: u64,
    /// What is wrong with the file of flags, of which one is read.
    pub(super) file: Option<Result<PathBuf, String>>,
    /// How many files the daemon may open.
    pub(super) daemons_files: Option<u64>,
    /// CPUs that threads are held on, a CPU each.
    pub(super) pins: Vec<Pin>,
    /// What public networks need.
    pub(super) egress: Outside,
}

/// A thread that runs on one CPU alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pin {
    pub(super) cpu: usize,
    /// Of its process.
    pub(super) pid: u32,
    /// Its name.
    pub(super) thread: String,
}

/// What public networks need of a host.
#[derive(Debug, Default, Clone)]
pub(super) struct Outside {
    /// Whether there is /dev/net/tun.
    pub(super) has_tun: bool,
    /// net.ipv4.ping_group_range.
    pub(super) ping_group_range: Option<String>,
}

/// A folder of sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// Its permissions; `None` where it is not there.
    pub(super) mode: Option<u32>,
}

/// What is at the path of a vNIC's socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Socket {
    /// The vNIC has none.
    #[default]
    None,
    /// One, with these permissions.
    There(u32),
    /// Nothing, or something else.
    Missing,
    /// It may not be looked at.
    Hidden,
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number(path: &str) -> Option<u64> {
    text(path)?.parse().ok()
}

/// Looks at this host.
pub(super) fn host() -> Host {
    let pages = |what| number(&format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{what}"));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let stat = text("/proc/stat").unwrap_or_default();
    Host {
        kernel: text("/proc/sys/kernel/osrelease").unwrap_or_default(),
        ring: IoUring::new(2).err().map(|error| error.kind()),
        io_uring_disabled: text("/proc/sys/kernel/io_uring_disabled"),
        hugepages: pages("free_hugepages").zip(pages("nr_hugepages")),
        governors: governors(),
        cpu: stat.lines().next().unwrap_or_default().into(),
        now: now.map_or(0, |since| since.as_secs()),
        file: file(),
        daemons_files: daemon().and_then(files),
        pins: pins(),
        egress: Outside {
            has_tun: Path::new("/dev/net/tun").exists(),
            ping_group_range: text("/proc/sys/net/ipv4/ping_group_range"),
        },
    }
}

fn governors() -> Vec<String> {
    let cpus = fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    let governor = |cpu: fs::DirEntry| {
        text(&cpu.path().join("cpufreq/scaling_governor").display().to_string())
    };
    cpus.filter_map(governor).collect()
}

/// The file that the service reads.
fn file() -> Option<Result<PathBuf, String>> {
    let path = PathBuf::from(net_toml::PATH);
    let wanted = read::Wanted { path: path.clone(), presence: read::Presence::Optional };
    match read::text(&wanted) {
        Ok(None) => None,
        Err(error) => Some(Err(error.to_string())),
        Ok(Some(text)) => match flags::file::parse(&text, &Config::command()) {
            Ok(_) => Some(Ok(path)),
            Err(fault) => Some(Err(fault.in_file(net_toml::PATH))),
        },
    }
}

/// The process of the daemon, where there is one only.
fn daemon() -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(process.path().join("comm")).ok()?;
        (name.trim() == "mvirt-net").then_some(pid)
    });
    let pid = pids.next()?;
    pids.next().is_none().then_some(pid)
}

/// Which threads of programs are held on a CPU.
fn pins() -> Vec<Pin> {
    // Where there is one alone, all are on it.
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() == 1) {
        return Vec::new();
    }
    let folders = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten();
    let processes = folders("/proc".into()).filter_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        // Those of the kernel have none, and are of their CPU.
        let is_program = fs::read(process.path().join("cmdline")).is_ok_and(|it| !it.is_empty());
        is_program.then(|| (pid, process.path().join("task")))
    });
    let threads = processes.flat_map(|(pid, tasks)| folders(tasks).map(move |task| (pid, task)));
    threads
        .filter_map(|(pid, task)| pin(pid, &fs::read_to_string(task.path().join("status")).ok()?))
        .collect()
}

/// Reads a thread's `status` (proc_pid_status(5)).
fn pin(pid: u32, status: &str) -> Option<Pin> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let cpu = field("Cpus_allowed_list:")?.trim().parse().ok()?;
    Some(Pin { cpu, pid, thread: field("Name:")?.trim().into() })
}

/// How many files a process may open.
fn files(pid: u32) -> Option<u64> {
    let limits = text(&format!("/proc/{pid}/limits"))?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    // It says "unlimited", too.
    Some(soft.parse().unwrap_or(u64::MAX))
}

/// The folder where vNICs' sockets are.
pub(super) fn folder(nics: &[Nic]) -> Option<Folder> {
    let path = nics.iter().find_map(|nic| Path::new(&nic.socket_path).parent())?;
    let path = Some(path).filter(|path| path.is_absolute())?;
    let mode = fs::metadata(path).ok().map(|found| found.mode() & 0o777);
    Some(Folder { path: path.into(), mode })
}

/// What is at the path of a vNIC's socket.
pub(super) fn socket(path: &str) -> Socket {
    if path.is_empty() {
        return Socket::None;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => Socket::There(found.mode() & 0o777),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Socket::Hidden,
        _ => Socket::Missing,
    }
}

/// Returns how long packets to there may be; none where there is no way.
pub(super) fn mtu(to: SocketAddr) -> Option<u32> {
    // Nothing is sent by that: the kernel looks for the way (udp(7), ip(7): IP_MTU).
    let socket = UdpSocket::bind((unspecified(to.ip()), 0)).ok()?;
    socket.connect(to).ok()?;
    if to.is_ipv4() { sockopt::ip_mtu(&socket) } else { sockopt::ipv6_mtu(&socket) }.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_to_oneself_are_as_long_as_any() {
        // The loopback device takes an octet more than a packet has.
        assert_eq!(mtu("127.0.0.1:4789".parse().unwrap()), Some(65535));
    }

    #[test]
    fn a_thread_is_held_where_it_may_run_on_one_cpu_alone() {
        let status = |list: &str| format!("Name:\tvcpu 0\nState:\tS\nCpus_allowed_list:\t{list}\n");
        let held = Pin { cpu: 3, pid: 7, thread: "vcpu 0".into() };
        assert_eq!(pin(7, &status("3")), Some(held));
        assert_eq!(pin(7, &status("0-3")), None);
        assert_eq!(pin(7, "Name:\tx\n"), None);
    }
}
