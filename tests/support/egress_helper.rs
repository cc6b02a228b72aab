//! `mvirt-egress` as the daemon starts it, in a network namespace of a test's own.

use super::namespace::Namespace;
use mvirt_net::egress::protocol::{NicStats, Report};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
        sockopt,
    },
};
use std::{
    fs,
    os::fd::OwnedFd,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

pub(crate) const SOON: Duration = Duration::from_secs(10);

/// The process, until dropped: it has to end then.
pub(crate) struct Helper {
    process: Child,
    control: Option<OwnedFd>,
    pub(crate) packets: OwnedFd,
    /// The status that it has to end with.
    pub(crate) ends_with: i32,
}

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    sockopt::set_socket_send_buffer_size(&one, 4 << 20).unwrap();
    (one, other)
}

/// Whether there is something to read before the time is over.
pub(crate) fn is_ready(fd: &OwnedFd, within: Duration) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::try_from(within).unwrap())).unwrap() == 1
}

impl Helper {
    /// Starts it by these words before its own, and tells it this.
    pub(crate) fn start(host: &Namespace, before: &[&str], configuration: &str) -> Self {
        let ((packets, its_packets), (control, its_control)) = (pair(), pair());
        let mut helper = Command::new("nsenter");
        helper.arg(format!("--net=/proc/{}/ns/net", host.0.id())).args(before);
        helper.arg(env!("CARGO_BIN_EXE_mvirt-egress"));
        let process = helper.stdin(its_packets).stdout(its_control).spawn().unwrap();
        let helper = Self { process, control: Some(control), packets, ends_with: 0 };
        helper.order(configuration);
        helper
    }

    fn control(&self) -> &OwnedFd {
        self.control.as_ref().unwrap()
    }

    pub(crate) fn order(&self, text: &str) {
        send(self.control(), text.as_bytes(), SendFlags::empty()).unwrap();
    }

    /// Returns what it says next, as it is.
    pub(crate) fn text(&self) -> String {
        assert!(is_ready(self.control(), SOON), "it says nothing");
        let mut buffer = vec![0; 65_536];
        let (len, _) = recv(self.control(), &mut buffer[..], RecvFlags::empty()).unwrap();
        buffer.truncate(len);
        String::from_utf8(buffer).unwrap()
    }

    pub(crate) fn report(&self) -> Report {
        serde_json::from_str(&self.text()).unwrap()
    }

    /// Waits for counters of the vNIC with tag 7 that are as they should be.
    pub(crate) fn counted(&self, wanted: impl Fn(&NicStats) -> bool) -> NicStats {
        let start = Instant::now();
        loop {
            let Report::Stats { stats } = self.report() else { continue };
            let Some(nic) = stats.nics.into_iter().find(|nic| nic.tag == 7) else { continue };
            if wanted(&nic) {
                return nic;
            }
            assert!(start.elapsed() < SOON, "{nic:?}");
        }
    }

    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(self.proc("fd")).unwrap().count()
    }

    /// Returns the path of a file that the kernel has of it.
    pub(crate) fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.process.id())
    }

    /// Clock ticks that it has run.
    pub(crate) fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(self.proc("stat")).unwrap();
        let fields = stat.rsplit(") ").next().unwrap().split(' ').collect::<Vec<_>>();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It ends with the other end of its control socket.
        drop(self.control.take());
        let ended = self.process.wait().unwrap();
        assert!(thread::panicking() || ended.code() == Some(self.ends_with), "{ended}");
    }
}
