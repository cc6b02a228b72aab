//! Checks of backends, as long as they are wanted: a task for each, which reports when what is
//! thought of its backend changes.

use super::{
    check::Asks,
    health::{Health, Patience},
};
use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::AbortHandle,
    time::{Instant, sleep, sleep_until, timeout},
};
use uuid::Uuid;

/// Checks that may run at the same time, beside those that each balancer has of its own.
// Each has a socket. Others wait for their turn, which no backend is blamed for.
const AT_ONCE: usize = 256;
/// Checks of one balancer that may run at the same time, whatever those of others do.
// Backends that do not answer hold their turns as long as they may, and would hold all.
const OF_ITS_OWN: usize = 4;
/// Reports that wait to be taken.
const BACKLOG: usize = 1024;

/// How a backend is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What is asked.
    pub asks: Asks,
    /// From check to check.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// How many change what is thought of it.
    pub patience: Patience,
}

/// A backend of a balancer: the balancer's id, and the backend's key.
pub type Whose = (Uuid, Uuid);

/// What is thought of a backend now has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Of which.
    pub whose: Whose,
    /// What is thought of it.
    pub is_healthy: bool,
    /// What its last check came to; empty where that succeeded.
    pub why: String,
    /// Tells the checks of one plan from earlier ones.
    run: u64,
}

/// All checks.
#[derive(Debug)]
pub struct Checks {
    running: HashMap<Whose, Running>,
    runs: u64,
    turns: Arc<Semaphore>,
    /// By balancer.
    own_turns: HashMap<Uuid, Arc<Semaphore>>,
    reporter: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
}

#[derive(Debug)]
struct Running {
    plan: Plan,
    run: u64,
    /// Why it is thought not to be healthy.
    complaint: Option<String>,
    /// Whether a check has come to anything yet.
    is_checked: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Default for Checks {
    fn default() -> Self {
        let (reporter, reports) = mpsc::channel(BACKLOG);
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let (running, own_turns) = Default::default();
        Self { running, runs: 0, turns, own_turns, reporter, reports }
    }
}

impl Checks {
    /// Checks the backends of a balancer by these plans, and no others. A plan that is as it was
    /// goes on; others begin anew, and all is well until they say otherwise. Within a runtime.
    pub fn set(&mut self, balancer: Uuid, plans: Vec<(Uuid, Plan)>) {
        let wanted: HashMap<Whose, Plan> =
            plans.into_iter().map(|(backend, plan)| ((balancer, backend), plan)).collect();
        self.running.retain(|whose, running| {
            whose.0 != balancer || wanted.get(whose).is_some_and(|plan| *plan == running.plan)
        });
        if wanted.is_empty() {
            self.own_turns.remove(&balancer);
            return;
        }
        let own = self.own_turns.entry(balancer);
        let own = own.or_insert_with(|| Arc::new(Semaphore::new(OF_ITS_OWN)));
        for (whose, plan) in wanted {
            if self.running.contains_key(&whose) {
                continue;
            }
            self.runs += 1;
            let run = self.runs;
            let turns = [&*own, &self.turns].map(Arc::clone);
            let is_checked = Arc::<AtomicBool>::default();
            let done = Arc::clone(&is_checked);
            let checking = check(whose, run, plan.clone(), turns, self.reporter.clone(), done);
            let task = tokio::spawn(checking).abort_handle();
            self.running.insert(whose, Running { plan, run, complaint: None, is_checked, task });
        }
    }

    /// Returns why a backend is thought not to be healthy. One that is not checked is healthy.
    pub fn complaint(&self, whose: Whose) -> Option<&str> {
        self.running.get(&whose)?.complaint.as_deref()
    }

    /// Whether a check of a backend has come to anything yet.
    pub fn is_checked(&self, whose: Whose) -> bool {
        self.running.get(&whose).is_some_and(|running| running.is_checked.load(Relaxed))
    }

    /// Returns the next change. Nothing is lost where it is not waited for to the end.
    pub async fn next(&mut self) -> Report {
        loop {
            // A sender is here, too: it never ends.
            if let Some(report) = self.reports.recv().await
                && self.note(&report)
            {
                return report;
            }
        }
    }

    /// As [`Checks::next`], where there is one already.
    pub fn try_next(&mut self) -> Option<Report> {
        while let Ok(report) = self.reports.try_recv() {
            if self.note(&report) {
                return Some(report);
            }
        }
        None
    }

    /// Whether a report is of checks that are still wanted.
    fn note(&mut self, report: &Report) -> bool {
        let running = self.running.get_mut(&report.whose);
        let Some(running) = running.filter(|running| running.run == report.run) else {
            return false;
        };
        running.complaint = (!report.is_healthy).then(|| report.why.clone());
        true
    }
}

/// Checks a backend until it is aborted.
async fn check(
    whose: Whose,
    run: u64,
    plan: Plan,
    [own, common]: [Arc<Semaphore>; 2],
    reporter: mpsc::Sender<Report>,
    is_checked: Arc<AtomicBool>,
) {
    let mut health = Health::default();
    // Those of many backends do not all come at once, nor do those of several hosts.
    let chance = RandomState::new();
    sleep(share(plan.interval.min(Duration::from_secs(1)), chance.hash_one(run))).await;
    for number in 0_u64.. {
        let began = Instant::now();
        let outcome = {
            // Neither is ever closed.
            let turn = tokio::select! {
                biased;
                turn = own.acquire() => turn,
                turn = common.acquire() => turn,
            };
            let Ok(_turn) = turn else { return };
            let late = || io::Error::from(io::ErrorKind::TimedOut);
            timeout(plan.timeout, plan.asks.once()).await.unwrap_or_else(|_| Err(late()))
        };
        is_checked.store(true, Relaxed);
        if health.take(outcome.is_ok(), plan.patience) {
            let why = outcome.err().map_or_else(String::new, |error| error.to_string());
            let report = Report { whose, is_healthy: health.is_healthy(), why, run };
            if reporter.send(report).await.is_err() {
                return;
            }
        }
        // Up to a tenth less or more, from the beginning of one to that of the next.
        let more = share(plan.interval / 5, chance.hash_one(number));
        sleep_until(began + plan.interval - plan.interval / 10 + more).await;
    }
}

/// Returns a part of a time, by chance.
fn share(whole: Duration, chance: u64) -> Duration {
    whole.mul_f64(f64::from(u32::try_from(chance >> 32).unwrap_or(0)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::SocketAddr, num::NonZeroU32};
    use tokio::net::TcpListener;

    fn plan(to: SocketAddr) -> Plan {
        let two = NonZeroU32::new(2).unwrap();
        Plan {
            asks: Asks::Connection(to),
            interval: Duration::from_millis(10),
            timeout: Duration::from_secs(5),
            patience: Patience { rise: two, fall: two },
        }
    }

    #[tokio::test]
    async fn a_backend_that_dies_and_comes_back_is_reported_once_each() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let whose = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut checks = Checks::default();
        checks.set(whose.0, vec![(whose.1, plan(at))]);
        assert!(checks.complaint(whose).is_none() && !checks.is_checked(whose));
        drop(listener);
        let report = checks.next().await;
        assert!(checks.is_checked(whose));
        assert!(report.whose == whose && !report.is_healthy && report.why.contains("refused"));
        assert!(checks.complaint(whose).is_some());
        // As it was: it goes on, and nothing is forgotten.
        checks.set(whose.0, vec![(whose.1, plan(at))]);
        assert!(checks.complaint(whose).is_some());
        let _listener = TcpListener::bind(at).await.unwrap();
        let report = checks.next().await;
        assert!(report.is_healthy && report.why.is_empty() && checks.complaint(whose).is_none());
        assert_eq!(checks.try_next(), None);
    }

    /// A plan of a check that waits for an answer as long as it may.
    fn unanswered(by: &TcpListener, timeout: Duration) -> Plan {
        // The kernel takes the connection, and nobody reads what is asked.
        let asks = Asks::Page(by.local_addr().unwrap(), "/".into());
        Plan { asks, timeout, ..plan(by.local_addr().unwrap()) }
    }

    #[tokio::test]
    async fn backends_that_do_not_answer_hold_up_no_other_balancer() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut checks = Checks::default();
        for balancer in 1..=5 {
            let slow = unanswered(&silent, Duration::from_secs(900));
            let plans = (1..=64).map(|backend| (Uuid::from_u128(backend), slow.clone()));
            checks.set(Uuid::from_u128(balancer), plans.collect());
        }
        while checks.turns.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let whose = (Uuid::from_u128(6), Uuid::from_u128(1));
        checks.set(whose.0, vec![(whose.1, plan(closed))]);
        let report = timeout(Duration::from_secs(30), checks.next()).await.unwrap();
        assert!(report.whose == whose && !report.is_healthy, "{report:?}");
        checks.set(whose.0, vec![]);
        assert_eq!(checks.own_turns.len(), 5);
    }

    #[tokio::test]
    async fn a_check_that_takes_its_time_delays_none_that_follow() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let time = Duration::from_millis(100);
        let patience = Patience { rise: NonZeroU32::MIN, fall: NonZeroU32::new(20).unwrap() };
        let plan = Plan { interval: time, patience, ..unanswered(&silent, time) };
        let mut checks = Checks::default();
        let began = Instant::now();
        checks.set(Uuid::nil(), vec![(Uuid::nil(), plan)]);
        assert!(!checks.next().await.is_healthy);
        // 20 intervals, and a tenth more at most; with the times that checks took it would be 37.
        assert!(began.elapsed() < time * 30, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn what_is_not_wanted_any_more_is_not_reported() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        drop(listener);
        let [one, other, backend] = [1, 2, 3].map(Uuid::from_u128);
        let mut checks = Checks::default();
        checks.set(one, vec![(backend, plan(at))]);
        checks.set(other, vec![(backend, plan(at))]);
        // Both have been found to be dead, and one of them is checked otherwise meanwhile.
        while checks.reports.len() < 2 {
            tokio::task::yield_now().await;
        }
        let otherwise = Plan { timeout: Duration::from_secs(6), ..plan(at) };
        checks.set(one, vec![(backend, otherwise)]);
        assert_eq!(checks.next().await.whose, (other, backend));
        assert!(checks.complaint((one, backend)).is_none());
        checks.set(other, vec![]);
        assert!(checks.complaint((other, backend)).is_none());
    }
}
