//! What hosts behind a TAP device that is a port notice of its lines, and of services of a fabric.

use super::{create, gateway::lab_behind};
use crate::{
    command::{mvirt, stderr, stdout},
    daemon::{Daemon, cannot_run, wait_until},
    guest,
    inside::inside,
    namespace::run,
    streams::free_ports,
};
use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

/// Returns how many milliseconds each of so many pings of the gateway has taken.
fn pings(count: usize) -> Vec<f64> {
    let said = run(&format!("busybox ping -A -c {count} -W 10 10.0.0.1"));
    let times = said.lines().filter_map(|line| line.split_once("time=")?.1.strip_suffix(" ms"));
    times.map(|time| time.parse().unwrap()).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn pings_take_as_long_as_lines_say_and_silence_costs_nothing() {
    inside(|| {
        let mut daemon = Daemon::start();
        lab_behind(&mut daemon, "tap0");
        run("ip address add 10.0.0.50/24 dev tap0");
        let update = |daemon: &Daemon, flags: &str| {
            let words = ["port", "update", "tap0"].into_iter().chain(flags.split(' '));
            mvirt(daemon, &words.collect::<Vec<_>>())
        };
        pings(1);
        let shown = stdout(&update(&daemon, "--delay 20ms"));
        assert!(shown.contains("line from") && shown.contains("delay=20ms"), "{shown}");
        let check = |what: &str| {
            // Once to learn neighbours. Other programs may make a few late, none is early.
            pings(1);
            let mut times = pings(20);
            times.sort_by(f64::total_cmp);
            assert!(times.len() == 20 && times[0] >= 40.0, "{what}: {times:?}");
            assert!(times[0] < 48.0, "{what}: {times:?}");
        };
        check("both ways");
        // Nobody speaks: no timer goes off.
        let before = daemon.cpu_time();
        let quiet = Duration::from_secs(2);
        assert!(std::sync::mpsc::channel::<()>().1.recv_timeout(quiet).is_err());
        let used = daemon.cpu_time() - before;
        assert!(used <= Duration::from_millis(50), "{used:?}");
        assert!(daemon.hand_over(), "{}", daemon.log());
        check("after a hand-over");
        daemon.crash_and_restart();
        // Its device went with the process, and is made anew. While it goes, it has its address.
        let ip = |words: &str| Command::new("ip").args(words.split(' ')).output().unwrap().status;
        wait_until("it is there again", || ip("address add 10.0.0.50/24 dev tap0").success());
        wait_until("it is up", || ip("link set tap0 up").success());
        check("after a crash");
        let said = stderr(&update(&daemon, "--loss 200%"), 1);
        assert!(said.contains("loss=200%: expected a share"), "{said}");
        stdout(&update(&daemon, "--impair-from delay=20ms,jitter=4ms,dist=normal,seed=3"));
        pings(1);
        let times = pings(150);
        let middle = mean(&times);
        let off: Vec<_> = times.iter().map(|time| (time - middle).powi(2)).collect();
        let spread = mean(&off).sqrt();
        // What is beside this test makes them later, and spreads them more: `src/impair` shows the
        // exact figures.
        assert!((19.0..40.0).contains(&middle), "{middle}: {times:?}");
        assert!((2.5..20.0).contains(&spread), "{spread}: {times:?}");
        stdout(&update(&daemon, "--no-impairments"));
        pings(1);
        let times = pings(20);
        assert!(times.iter().filter(|time| **time < 10.0).count() >= 5, "{times:?}");
        let shown = stdout(&mvirt(&daemon, &["port", "get", "tap0"]));
        assert!(!shown.contains("line from"), "{shown}");
    });
}

#[test]
fn a_guest_keeps_its_connection_while_its_lines_lose_all_and_nothing() {
    let mut daemon = Daemon::start();
    let (nics, [mut a, mut b]) = guest::pair(&mut daemon);
    let address = b.address().to_owned();
    assert!(b.answers(&mut a, &address));
    let update = |daemon: &Daemon, flags: &[&str]| {
        stdout(&mvirt(daemon, &[&["nic", "update", &nics[1].name], flags].concat()))
    };
    let shown = update(&daemon, &["--loss", "100%"]);
    assert!(shown.contains("loss=1"), "{shown}");
    assert!(!a.ping_within(&address, Duration::from_millis(300)));
    wait_until("its loss is counted", || daemon.drops(&nics[1].name, "impaired_loss") > 0);
    update(&daemon, &["--delay", "5ms", "--corrupt", "0", "--dup", "0"]);
    assert!(b.answers(&mut a, &address));
    update(&daemon, &["--no-impairments"]);
    assert!(b.answers(&mut a, &address));
}

// seed H.4.37
#[test]
fn a_client_of_ntp_has_the_time_of_a_fabrics_service() {
    if !Path::new("/usr/sbin/ntpdate").exists() {
        return cannot_run("there is no ntpdate (Debian's ntpsec-ntpdate)");
    }
    inside(|| {
        run("ip link set lo up");
        let mut daemon = Daemon::start();
        lab_behind(&mut daemon, "tap0");
        run("ip address add 10.0.0.50/24 dev tap0");
        let [port] = free_ports();
        create(&mut daemon, "fabric", &format!("switchyard-listen://127.0.0.1:{port}"));
        let mut service = Command::new(env!("CARGO_BIN_EXE_mvirt"));
        service.args(["yard", "ntp", "--ip", "10.0.0.3"]);
        service.env("SWITCHYARD_SERVER", format!("127.0.0.1:{port}"));
        let mut service = service.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(service.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.contains("ip=10.0.0.3"), "{said}");
        let asked = run("/usr/sbin/ntpdate -q 10.0.0.3");
        service.kill().unwrap();
        service.wait().unwrap();
        // `2026-01-01 … (+0000) +0.000012 +/- 0.000345 10.0.0.3 s1 no-leap`: of the same clock.
        let offset = asked.split_once(") ").unwrap().1.split(' ').next().unwrap();
        assert!(offset.parse::<f64>().unwrap().abs() < 0.5, "{asked}");
        assert!(asked.contains("10.0.0.3 s1 no-leap"), "{asked}");
    });
}
