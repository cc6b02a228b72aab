//! What the kernel says of this process (proc(5)), under the names that all exporters use.

use std::fs;

/// As far as it could be read.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Process {
    /// Time on CPUs.
    pub(super) cpu_seconds: f64,
    /// When it started, in seconds since 1970.
    pub(super) start_seconds: f64,
    pub(super) virtual_octets: u64,
    pub(super) resident_octets: u64,
    pub(super) threads: u64,
    pub(super) open_files: u64,
    pub(super) most_files: u64,
}

impl Process {
    pub(super) fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let booted = fs::read_to_string("/proc/stat").unwrap_or_default();
        let page = rustix::param::page_size() as u64;
        let ticks = rustix::param::clock_ticks_per_second();
        let mut process = Self::parse(&stat, &booted, page, ticks);
        process.open_files = fs::read_dir("/proc/self/fd").map_or(0, |all| all.count() as u64);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        process.most_files = limit.current.unwrap_or(u64::MAX);
        process
    }

    fn parse(stat: &str, booted: &str, page: u64, ticks: u64) -> Self {
        // The name is in parentheses, and may have any in it.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
        // Counted from 1 in proc(5); the third is the first behind the name.
        let field = |number: usize| {
            fields.get(number - 2).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0)
        };
        let seconds = |ticks_so_far: u64| ticks_so_far as f64 / ticks.max(1) as f64;
        let booted = booted.lines().find_map(|line| line.strip_prefix("btime "));
        let booted = booted.and_then(|at| at.trim().parse().ok()).map_or(0.0, |at: u64| at as f64);
        Self {
            cpu_seconds: seconds(field(14) + field(15)),
            start_seconds: booted + seconds(field(22)),
            virtual_octets: field(23),
            resident_octets: field(24) * page,
            threads: field(20),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_understood() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 5 0 1200 8192 2 1 0\n";
        let read = Process::parse(stat, "cpu 1 2\nbtime 1700000000\n", 4096, 100);
        let expected = Process {
            cpu_seconds: 3.0,
            start_seconds: 1_700_000_012.0,
            virtual_octets: 8192,
            resident_octets: 8192,
            threads: 5,
            ..Process::default()
        };
        assert_eq!(read, expected);
        assert_eq!(Process::parse("", "", 4096, 100), Process::default());
        assert!(Process::read().resident_octets > 0);
    }
}
