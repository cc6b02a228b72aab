//! SIGUSR2: a new process goes on with everything, and guests see a short pause at most; or it does
//! not, and the old one goes on.

use crate::{
    daemon::{Client, Daemon, wait_until},
    guest::{Guest, pair},
    numbered::{Heard, numbered},
    random::{Random, rounds},
};
use mvirt_net::proto::{CreateNicRequest, DeleteNicRequest, ListNicsRequest, NicState};
use rustix::process::{Signal, WaitOptions, kill_process, waitpid};
use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::{Duration, Instant},
};

/// Guests that are connected, beside those that are watched.
const OTHERS: usize = 100;
/// The longest a guest may wait.
const PAUSE: Duration = Duration::from_millis(50);

/// A directory with the daemon's binary, to be replaced.
fn binary() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("mvirt-net");
    std::fs::hard_link(env!("CARGO_BIN_EXE_mvirt-net"), &path).unwrap();
    (directory, path)
}

/// Puts another binary in the place of one that runs.
fn replace(binary: &Path, script: &str) {
    let new = binary.with_extension("new");
    std::fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&new, mode).unwrap();
    std::fs::rename(&new, binary).unwrap();
}

#[test]
fn a_new_process_goes_on_with_everything() {
    let mut daemon = Daemon::start();
    let (nics, [mut a, mut b]) = pair(&mut daemon);
    let idle = daemon.nic("prod", "idle");
    a.lease();
    assert!(b.answers(&mut a, "10.0.0.2"));
    wait_until("the lease is noted", || {
        daemon.get_nic("a").guest.is_some_and(|guest| !guest.ipv4_lease_at.is_empty())
    });
    for _ in 0..3 {
        let (before, told) = (daemon.pid(), daemon.get_nic("a").guest);
        let (stats, descriptors) = (daemon.stats("a"), daemon.descriptors());
        assert!(daemon.hand_over());
        assert_ne!(daemon.pid(), before);
        assert_eq!(daemon.get_nic("a").guest, told);
        let now = daemon.stats("a");
        assert_eq!(now.ingress_frames, stats.ingress_frames, "its counters go on");
        assert!(now.egress_frames >= stats.egress_frames, "and it is told of its router");
        wait_until("nothing has leaked", || daemon.descriptors() <= descriptors + 2);
        daemon.wait_for_state("a", NicState::Active);
        daemon.wait_for_state("b", NicState::Active);
        assert!(b.answers(&mut a, "10.0.0.2"), "over the connections that there were");
        assert!(a.ping("169.254.0.1") && a.ping("fe80::1"));
        let mut another = Guest::connect(&idle);
        assert!(another.ping("169.254.0.1"), "the sockets are the same");
        drop(another);
        daemon.wait_for_state("idle", NicState::Created);
    }
    // The new process is the daemon: it stores, it restarts, it ends.
    daemon.nic("prod", "new");
    daemon.crash_and_restart();
    assert_eq!(daemon.get_nic("new").ipv4_address, "10.0.0.4");
    for (guest, nic) in [(&mut a, &nics[0]), (&mut b, &nics[1])] {
        guest.driver.reconnect(Path::new(&nic.socket_path), 0);
    }
    assert!(b.answers(&mut a, "10.0.0.2"));
    assert!(daemon.hand_over());
    assert_eq!(daemon.terminate().exit_status(), Some(0));
    assert!(!Path::new(&idle.socket_path).exists() && !daemon.path("api").exists());
}

/// Frames at even times; gives the longest silence, and how many were lost.
fn pause_during(daemon: &mut Daemon, a: &mut Guest, b: &mut Guest, heard: &mut Heard) -> Duration {
    let mut longest = Duration::ZERO;
    std::thread::scope(|scope| {
        let handing = scope.spawn(|| assert!(daemon.hand_over()));
        let mut last = Instant::now();
        while !handing.is_finished() {
            let frame = numbered(a.mac, heard.sent + 1);
            heard.sent += 1;
            a.send(&frame);
            let next = Instant::now() + Duration::from_micros(500);
            while Instant::now() < next {
                let before = heard.last;
                heard.listen(b);
                if heard.last > before {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
            }
        }
        longest.max(last.elapsed())
    })
}

#[test]
fn guests_see_a_short_pause_at_most() {
    let mut daemon = Daemon::start();
    let (_, [mut a, mut b]) = pair(&mut daemon);
    let others = (0..OTHERS).map(|n| Guest::connect(&daemon.nic("prod", &format!("other{n}"))));
    let _others: Vec<Guest> = others.collect();
    let mut heard = Heard::default();
    let mut pauses: Vec<Duration> =
        (0..5).map(|_| pause_during(&mut daemon, &mut a, &mut b, &mut heard)).collect();
    // A VMM that is in the middle of a message holds up nobody else.
    let slow = daemon.nic("prod", "slow");
    for _ in 0..2 {
        let mut half = UnixStream::connect(&slow.socket_path).unwrap();
        half.write_all(&[1, 0, 0]).unwrap();
        wait_until("it has begun", || daemon.log().matches("connected nic=\"slow\"").count() > 0);
        pauses.push(pause_during(&mut daemon, &mut a, &mut b, &mut heard));
    }
    wait_until("the last frames arrive", || {
        heard.listen(&mut b);
        heard.last == heard.sent
    });
    eprintln!(
        "pauses {pauses:?}, {} of {} frames lost, {} twice",
        heard.lost, heard.sent, heard.again
    );
    // The test shares two CPUs with both processes, and whatever else runs: the shortest is the
    // hand-over's own.
    for pauses in [&pauses[..5], &pauses[5..]] {
        assert!(pauses.iter().min() < Some(&PAUSE), "{pauses:?}");
        assert!(pauses.iter().max() < Some(&(PAUSE * 20)), "{pauses:?}");
    }
    // While one guest is with the old process and the other with the new one, frames between them
    // go nowhere.
    assert!(heard.lost < 100 * 7 && heard.again == 0, "{} {}", heard.lost, heard.again);
}

/// Makes vNICs and deletes them, until the daemon goes away.
async fn churn(mut client: Client, number: u32, is_over: &AtomicBool) {
    for turn in 0.. {
        // Who has no request under way when the old process ends goes on with the new one.
        if is_over.load(SeqCst) {
            return;
        }
        let request = CreateNicRequest {
            network_id: "prod".into(),
            name: format!("fleeting{number}-{turn}"),
            ..Default::default()
        };
        let Ok(made) = client.create_nic(request).await else { return };
        let request = DeleteNicRequest { id: made.into_inner().id, ..Default::default() };
        if client.delete_nic(request).await.is_err() {
            return;
        }
    }
}

#[test]
fn vnics_that_are_deleted_meanwhile_are_left_out() {
    static IS_OVER: AtomicBool = AtomicBool::new(false);
    let mut daemon = Daemon::start();
    let (_, [mut a, mut b]) = pair(&mut daemon);
    for _ in 0..5 {
        let (runtime, client) = daemon.another_client();
        IS_OVER.store(false, SeqCst);
        let is_handed_over = std::thread::scope(|scope| {
            scope.spawn(|| {
                runtime.block_on(async {
                    let mut all = tokio::task::JoinSet::new();
                    (0..24).for_each(|number| {
                        all.spawn(churn(client.clone(), number, &IS_OVER));
                    });
                    all.join_all().await
                })
            });
            let is_handed_over = daemon.hand_over();
            IS_OVER.store(true, SeqCst);
            is_handed_over
        });
        assert!(is_handed_over, "{}", daemon.log());
        assert!(b.answers(&mut a, "10.0.0.2"));
        // Those that were being made when the old process stopped may be there.
        let request = ListNicsRequest::default();
        let there = daemon.call(async |client| client.list_nics(request).await).unwrap().nics;
        for nic in there.iter().filter(|nic| nic.name.starts_with("fleeting")) {
            assert_eq!((nic.state(), &*nic.error), (NicState::Created, ""));
            let request = DeleteNicRequest { id: nic.id.clone(), ..Default::default() };
            daemon.call(async |client| client.delete_nic(request).await).unwrap();
        }
    }
}

#[test]
fn a_new_process_that_cannot_start_leaves_the_old_one_serving() {
    let (_directory, binary) = binary();
    let mut daemon = Daemon::start_binary(&binary, &["--reactors", "1"]);
    let (_, [mut a, mut b]) = pair(&mut daemon);
    for script in ["exit 1", "kill -9 $$", "echo nonsense >&0; sleep 0.1"] {
        replace(&binary, script);
        let pid = daemon.pid();
        assert!(!daemon.hand_over(), "{script}");
        assert_eq!(daemon.pid(), pid);
        assert!(b.answers(&mut a, "10.0.0.2"), "{script}");
        daemon.get_nic("a");
    }
    std::fs::remove_file(&binary).unwrap();
    assert!(!daemon.hand_over());
    daemon.says("No such file");
    std::fs::hard_link(env!("CARGO_BIN_EXE_mvirt-net"), &binary).unwrap();
    assert!(daemon.hand_over());
    assert!(b.answers(&mut a, "10.0.0.2"));
}

#[test]
fn a_hand_over_that_is_cut_short_leaves_one_daemon_or_none() {
    let mut random = Random::new();
    let mut daemon = Daemon::start();
    let (nics, [mut a, mut b]) = pair(&mut daemon);
    let mut ends = [0; 3];
    for round in 0..rounds() {
        let pid = rustix::process::Pid::from_raw(daemon.pid() as i32).unwrap();
        let heard = daemon.log().len();
        kill_process(pid, Signal::USR2).unwrap();
        let mut successor = None;
        wait_until("there is a successor", || {
            successor = daemon.successor();
            successor.is_some()
        });
        let end = Instant::now() + Duration::from_micros(random.below(15_000));
        // Some of these are lost, where the guests are with different processes.
        while Instant::now() < end {
            let frame = numbered(a.mac, 1);
            a.driver.send_quietly(&frame);
            b.drain();
        }
        let victim = if random.below(4) == 0 { pid } else { successor.unwrap() };
        kill_process(victim, Signal::KILL).ok();
        let ended = |pid| waitpid(pid, WaitOptions::NOHANG).map_or(true, |ended| ended.is_some());
        wait_until("the old one has noticed, or ended", || {
            ended(Some(pid)) || daemon.log()[heard..].contains("not handed over")
        });
        // A new one that has not got everything from an old one that was killed ends.
        wait_until("the new one has noticed, or serves", || {
            victim != pid || ended(successor) || daemon.log()[heard..].contains(" ready ")
        });
        if daemon.settle(successor) {
            ends[usize::from(daemon.pid() != pid.as_raw_nonzero().get() as u32)] += 1;
        } else {
            ends[2] += 1;
            daemon.start_again();
            for (guest, nic) in [(&mut a, &nics[0]), (&mut b, &nics[1])] {
                guest.driver.reconnect(Path::new(&nic.socket_path), 0);
            }
        }
        assert_eq!(daemon.get_nic("a").ipv4_address, "10.0.0.1");
        assert!(b.answers(&mut a, "10.0.0.2"), "round {round}, {ends:?}");
    }
    eprintln!("{} stayed, {} handed over, {} ended", ends[0], ends[1], ends[2]);
}

#[test]
fn a_vmm_that_never_stops_asking_holds_up_nothing() {
    let mut daemon = Daemon::start();
    let (_, [mut a, mut b]) = pair(&mut daemon);
    let restless = daemon.nic("prod", "restless");
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stream = UnixStream::connect(&restless.socket_path).unwrap();
        let mut reader = stream.try_clone().unwrap();
        // GET_FEATURES, as fast as it goes, and its answers; for a minute at most.
        scope.spawn(|| {
            let mut stream = stream;
            let requests = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0].repeat(100);
            let last = Instant::now() + Duration::from_secs(60);
            while !end.load(SeqCst) && Instant::now() < last {
                if stream.write_all(&requests).is_err() {
                    break;
                }
            }
            stream.shutdown(std::net::Shutdown::Both).ok();
        });
        scope.spawn(move || while reader.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {});
        for _ in 0..3 {
            let began = Instant::now();
            assert!(daemon.hand_over());
            assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
            assert!(b.answers(&mut a, "10.0.0.2"));
        }
        end.store(true, SeqCst);
    });
}
