//! The stage on which attacks are played: a daemon, those whom it must not hurt, and what they saw.

use crate::{
    daemon::{Client, Daemon, wait_until},
    guest::Guest,
    numbered::{Heard, numbered},
};
use mvirt_net::{
    dataplane::VNICS_TOGETHER,
    proto::{CreateNicRequest, DeleteNicRequest, GetVersionRequest, Nic},
};
use rustix::process::Signal;
use std::{
    fs,
    ops::ControlFlow,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// The daemon.
pub(super) const DAEMON: &str = env!("CARGO_BIN_EXE_mvirt-net");
pub(super) const TICK: Duration = Duration::from_millis(1);
const ALONE: Duration = Duration::from_millis(700);
const BESIDE: Duration = Duration::from_millis(2500);
/// What an attack of many cases may take at most.
const LONGEST: Duration = Duration::from_secs(20);
/// How long innocents may hear nothing of each other (R59).
pub(super) const SILENCE: Duration = Duration::from_millis(100);
/// How long a client may wait (C2).
const ANSWER: Duration = Duration::from_secs(1);
/// What systemd would wait for WATCHDOG=1 before it kills the daemon.
const WATCHDOG: Duration = Duration::from_secs(2);
/// How long a daemon may take to end, and the next one to begin.
const END: Duration = Duration::from_secs(5);
/// How long is waited for one that was killed.
const KILL: Duration = Duration::from_secs(1);

/// Threads that attack stop when this is dropped, however the test ends.
#[derive(Clone, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }

    pub(super) fn set(&self) {
        self.0.store(true, Relaxed);
    }
}

struct StopAtEnd<'a>(&'a Stop);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// What innocent guests carried.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Carried {
    due: u64,
    arrived: u64,
    /// The longest time nothing arrived, without what threads waited for a CPU.
    pub(super) silence: Duration,
    /// The same with it.
    seen: Duration,
}

impl Carried {
    /// Fails where innocents were hurt.
    pub(super) fn assert_harmless(&self) {
        let Self { due, arrived, silence, .. } = *self;
        assert!(silence <= SILENCE, "innocents heard nothing for {silence:?}: {self:?}");
        assert!(arrived * 100 >= due * 95, "{arrived} of {due} frames of innocents: {self:?}");
    }
}

/// What those beside an attack saw.
#[derive(Debug)]
pub(super) struct Seen {
    alone: Carried,
    beside: Carried,
    answers: Answers,
    /// The longest time without WATCHDOG=1.
    unfed: Duration,
    /// How long the daemon took to end, if it ended well.
    end: Option<Duration>,
}

impl Seen {
    /// Fails where somebody was hurt.
    pub(super) fn assert_harmless(&self) {
        let Carried { due, arrived, .. } = self.alone;
        assert!(arrived * 100 >= due * 95, "alone, {arrived} of {due} frames arrived: {self:?}");
        self.beside.assert_harmless();
        self.assert_served();
    }

    pub(super) fn assert_silence_below(&self, bound: Duration) {
        let silence = self.beside.silence;
        assert!(silence <= bound, "innocents heard nothing for {silence:?}: {self:?}");
    }

    /// Fails where the API or the watchdog had to wait.
    pub(super) fn assert_served(&self) {
        let Answers { longest, failed, .. } = &self.answers;
        assert!(failed.is_none(), "a call failed: {self:?}");
        assert!(*longest <= ANSWER, "a call took {longest:?}: {self:?}");
        assert!(self.unfed <= WATCHDOG, "systemd would have killed it: {self:?}");
    }
}

/// A daemon with two innocent guests, supervised.
pub(super) struct Stage {
    pub(super) daemon: Daemon,
    nics: [Nic; 2],
    pub(super) innocents: [Guest; 2],
    manager: Manager,
    /// The metadata: in memory, for the test is of the daemon and not of the disk.
    _metadata: Option<tempfile::TempDir>,
}

impl Stage {
    pub(super) fn set() -> Self {
        Self::set_with(&[])
    }

    /// With two reactors, on one of which is the first innocent guest, and on the other the second.
    pub(super) fn set_apart() -> Self {
        let flags = ["--reactors", "2", "--hugepages", "off", "--rebalance", "100"];
        Self::set_binary(DAEMON.as_ref(), &flags, VNICS_TOGETHER)
    }

    pub(super) fn set_with(flags: &[&str]) -> Self {
        Self::set_binary(DAEMON.as_ref(), &[&["--reactors", "1"], flags].concat(), 1)
    }

    /// With another program, and the innocent vNICs so far apart.
    pub(super) fn set_binary(binary: &Path, flags: &[&str], together: usize) -> Self {
        let metadata = tempfile::tempdir_in("/dev/shm").ok();
        let mut manager = None;
        let mut daemon = Daemon::start_in(binary, flags, |directory| {
            if let Some(metadata) = &metadata {
                std::os::unix::fs::symlink(metadata.path(), directory.join("m")).unwrap();
            }
            manager = Some(Manager::listen(&directory.join("notify")));
            vec![
                ("NOTIFY_SOCKET", directory.join("notify")),
                ("WATCHDOG_USEC", PathBuf::from(WATCHDOG.as_micros().to_string())),
            ]
        });
        daemon.network("innocent");
        let mut nic = |name: &str, ipv4: usize| {
            let address = format!("10.0.0.{ipv4}");
            daemon.nic_with("innocent", name, |request| request.ipv4_address = address)
        };
        let a = nic("a", 1);
        (1..together).for_each(|n| drop(nic(&format!("filler{n}"), 100 + n)));
        let nics = [a, nic("b", 2)];
        let innocents = nics.each_ref().map(Guest::connect);
        daemon.network_with("evil", |request| request.ipv4_subnet = "10.0.0.0/16".into());
        let manager = manager.unwrap();
        Self { daemon, nics, innocents, manager, _metadata: metadata }
    }

    /// A vNIC of the network of attackers.
    pub(super) fn evil(&mut self, name: &str) -> Nic {
        self.evil_with(name, |_| {})
    }

    pub(super) fn evil_with(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut CreateNicRequest),
    ) -> Nic {
        self.daemon.nic_with("evil", name, change)
    }

    /// Plays an attack for a while, `act` by `act`; then ends the daemon in the middle of it, and
    /// starts another one.
    pub(super) fn play(&mut self, act: impl FnMut() + Send) -> Seen {
        self.play_and(act, |_| {})
    }

    /// As [`Self::play`], with a look at the daemon before its end.
    pub(super) fn play_and(
        &mut self,
        mut act: impl FnMut() + Send,
        look: impl FnOnce(&mut Self),
    ) -> Seen {
        let act = || {
            act();
            ControlFlow::Continue(())
        };
        self.perform(act, |since, _| since >= BESIDE, look)
    }

    /// As [`Self::play`], until all of it has been played.
    pub(super) fn play_all<C: Send>(
        &mut self,
        cases: impl IntoIterator<Item = C, IntoIter: Send>,
        mut act: impl FnMut(C) + Send,
        look: impl FnOnce(&mut Self),
    ) -> Seen {
        let mut cases = cases.into_iter();
        let act = || match cases.next() {
            Some(case) => {
                act(case);
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        };
        let until = |since, is_over| is_over && since >= BESIDE || since >= LONGEST;
        let seen = self.perform(act, until, look);
        assert!(cases.next().is_none(), "the attack is not over after {LONGEST:?}");
        seen
    }

    fn perform(
        &mut self,
        mut act: impl FnMut() -> ControlFlow<()> + Send,
        until: impl Fn(Duration, bool) -> bool,
        look: impl FnOnce(&mut Self),
    ) -> Seen {
        let alone = self.carry(|since| since >= ALONE);
        let [stop, over, calm] = [(); 3].map(|()| Stop::default());
        let seen = thread::scope(|scope| {
            let _ends = [&stop, &calm].map(StopAtEnd);
            scope.spawn(|| {
                while !stop.is_set() && act().is_continue() {
                    // An attacker's own program is not to take the CPU from all.
                    thread::park_timeout(TICK);
                }
                over.set();
            });
            let api = self.daemon.another_client();
            let asking = scope.spawn(|| ask(api, &calm));
            let began = Instant::now();
            let beside = self.carry(|since| until(since, over.is_set()));
            calm.set();
            let answers = asking.join().unwrap();
            let unfed = self.manager.longest(began);
            look(self);
            let seen = Seen { alone, beside, answers, unfed, end: self.end() };
            eprintln!("{seen:?}");
            assert!(seen.end.is_some(), "SIGTERM does not end it within {END:?}: {seen:?}");
            seen
        });
        self.begin_again();
        seen
    }

    /// Lets the innocents talk.
    pub(super) fn carry(&mut self, is_over: impl Fn(Duration) -> bool) -> Carried {
        let [a, b] = &mut self.innocents;
        let waits = Waits::of(self.daemon.pid());
        let (mut carried, mut heard) = (Carried::default(), Heard::default());
        // What was on its way is not of this time.
        b.drain();
        let began = Instant::now();
        let mut quiet = Quiet::since(began, waits.total());
        let mut tick = began;
        while !is_over(began.elapsed()) {
            thread::park_timeout(TICK.saturating_sub(tick.elapsed()));
            let now = Instant::now();
            quiet.owed += now.duration_since(tick).saturating_sub(TICK);
            tick = now;
            carried.due += 1;
            if a.driver.has_room() {
                heard.sent += 1;
                a.driver.send_quietly(&numbered(a.mac, heard.sent));
            }
            let before = heard.last;
            heard.listen(b);
            let waited = waits.total();
            let (own, seen) = quiet.until(now, waited);
            (carried.silence, carried.seen) = (carried.silence.max(own), carried.seen.max(seen));
            if heard.last > before {
                quiet = Quiet::since(now, waited);
            }
        }
        // Those that it has taken already are on their way.
        let deadline = Instant::now() + SILENCE;
        while heard.last < heard.sent && Instant::now() < deadline {
            heard.listen(b);
            thread::park_timeout(TICK);
        }
        carried.arrived = heard.last - heard.lost;
        carried
    }

    /// SIGTERM: how long it took to end well, if it did.
    fn end(&mut self) -> Option<Duration> {
        let began = Instant::now();
        let ended = self.daemon.end_within(Signal::TERM, END);
        if ended.is_none() {
            self.daemon.end_within(Signal::KILL, KILL);
        }
        let ended_well = ended.is_some_and(|status| status.exit_status() == Some(0));
        ended_well.then(|| began.elapsed())
    }

    /// kill -9, and a successor, though the daemon may not be able to die.
    pub(super) fn kill(&mut self) {
        let ended = self.daemon.end_within(Signal::KILL, KILL);
        eprintln!("SIGKILL: {ended:?}");
        self.begin_again();
    }

    /// Another daemon on the same directories, for the same guests.
    fn begin_again(&mut self) {
        let began = Instant::now();
        self.daemon.start_again();
        for (guest, nic) in self.innocents.iter_mut().zip(&self.nics) {
            let base = guest.driver.tx_used();
            guest.driver.reconnect(Path::new(&nic.socket_path), base);
        }
        let [a, b] = &mut self.innocents;
        assert!(b.answers(a, "10.0.0.2"), "the next daemon serves");
        assert!(began.elapsed() < END, "the next daemon took {:?}", began.elapsed());
    }

    /// Threads of the daemon.
    pub(super) fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.daemon.pid())).unwrap().count()
    }

    /// KiB of memory of the daemon's own.
    pub(super) fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Waits until no more threads are left than there were.
    pub(super) fn wait_for_threads(&self, before: usize) {
        wait_until("no thread is left behind", || self.threads() <= before);
    }
}

/// A time in which nothing arrived.
struct Quiet {
    since: Instant,
    waited: Duration,
    /// What this thread came too late.
    owed: Duration,
}

impl Quiet {
    fn since(since: Instant, waited: Duration) -> Self {
        Self { since, waited, owed: Duration::ZERO }
    }

    /// How long it was the daemon's doing, and how long it was.
    fn until(&self, now: Instant, waited: Duration) -> (Duration, Duration) {
        let seen = now.duration_since(self.since);
        let others = self.owed + waited.saturating_sub(self.waited);
        (seen.saturating_sub(others), seen)
    }
}

/// How long the reactors of a daemon have waited for a CPU (`schedstat`: nanoseconds run, and
/// waited).
struct Waits(Vec<PathBuf>);

impl Waits {
    fn of(pid: u32) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let is_reactor = |task: &PathBuf| {
            fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("reactor"))
        };
        let reactors = tasks.map(|task| task.unwrap().path()).filter(is_reactor);
        Self(reactors.map(|task| task.join("schedstat")).collect())
    }

    fn total(&self) -> Duration {
        let waited = |path: &PathBuf| {
            let text = fs::read_to_string(path).ok()?;
            text.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        Duration::from_nanos(self.0.iter().filter_map(waited).sum())
    }
}

/// What a client of the API saw.
#[derive(Debug, Default)]
struct Answers {
    longest: Duration,
    failed: Option<String>,
    calls: u64,
}

impl Answers {
    async fn to<T>(
        &mut self,
        name: &str,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) {
        let began = Instant::now();
        let answer = tokio::time::timeout(2 * ANSWER, call).await;
        self.longest = self.longest.max(began.elapsed());
        self.calls += 1;
        let failed = match answer {
            Ok(Ok(_)) => return,
            Ok(Err(status)) => format!("{name}: {status}"),
            Err(_) => format!("{name}: no answer"),
        };
        self.failed.get_or_insert(failed);
    }
}

/// Calls the API until told to stop, or until a call fails.
fn ask((runtime, mut client): (Runtime, Client), stop: &Stop) -> Answers {
    let mut answers = Answers::default();
    while !stop.is_set() && answers.failed.is_none() {
        runtime.block_on(async {
            answers.to("GetVersion", client.get_version(GetVersionRequest {})).await;
            let (network_id, name) = ("innocent".into(), "passing".into());
            let request = CreateNicRequest { network_id, name, ..Default::default() };
            answers.to("CreateNic", client.create_nic(request)).await;
            let request = DeleteNicRequest { id: "passing".into(), ..Default::default() };
            answers.to("DeleteNic", client.delete_nic(request)).await;
        });
        thread::park_timeout(Duration::from_millis(50));
    }
    answers
}

/// A service manager: when it was told WATCHDOG=1.
struct Manager {
    fed: Arc<Mutex<Vec<Instant>>>,
    stop: Stop,
    thread: Option<thread::JoinHandle<()>>,
}

impl Manager {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (fed, stop) = (Arc::<Mutex<Vec<Instant>>>::default(), Stop::default());
        let (told, stopped) = (Arc::clone(&fed), stop.clone());
        let thread = thread::spawn(move || {
            let mut message = [0; 1024];
            while !stopped.is_set() {
                let Ok(len) = socket.recv(&mut message) else { continue };
                if message[..len].starts_with(b"WATCHDOG=1") {
                    told.lock().unwrap().push(Instant::now());
                }
            }
        });
        Self { fed, stop, thread: Some(thread) }
    }

    /// The longest time since `began` without a message.
    fn longest(&self, began: Instant) -> Duration {
        let fed = self.fed.lock().unwrap();
        let mut last = began;
        let times = fed.iter().copied().filter(|at| *at > began).chain([Instant::now()]);
        let gaps = times.map(|at| at.duration_since(std::mem::replace(&mut last, at)));
        gaps.max().unwrap_or_default()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.stop.set();
        self.thread.take().map(thread::JoinHandle::join);
    }
}

/// Octets of memory that this machine could give.
pub(super) fn available_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}
