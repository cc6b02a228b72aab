//! What the disk may do to a change: every call that stores it fails, or the daemon is killed
//! there. What was answered well is there; what was not is there as a whole or not at all; nobody
//! else's objects suffer.

use crate::daemon::{Daemon, preload};
use mvirt_net::proto::{
    CreateNetworkRequest, CreateNicRequest, DeleteNetworkRequest, DeleteNicRequest,
    ListNetworksRequest, ListNicsRequest, Network, Nic, RateLimit, SetNicLimitsRequest,
    UpdateNicRequest,
};
use std::os::unix::fs::FileExt as _;

/// What becomes of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Error(i32),
    /// And of all calls after it.
    Errors(i32),
    Kill,
}

pub(crate) struct Faults {
    file: std::fs::File,
    _directory: tempfile::TempDir,
}

impl Faults {
    /// A daemon, and those of the disk below its metadata.
    pub(crate) fn start() -> (Self, Daemon) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("faults");
        std::fs::write(&path, [0; 128]).unwrap();
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let library = preload("faults");
        let daemon = Daemon::start_with_environment(|daemon| {
            vec![("LD_PRELOAD", library), ("FAULTS", path), ("FAULTS_BELOW", daemon.join("m"))]
        });
        (Self { file, _directory: directory }, daemon)
    }

    /// The calls since this was last asked, a letter each.
    pub(crate) fn trail(&self) -> String {
        let mut letters = [0; 112];
        self.file.read_exact_at(&mut letters, 16).unwrap();
        self.file.write_all_at(&[0; 112], 16).unwrap();
        letters
            .iter()
            .take_while(|letter| **letter != 0)
            .map(|letter| char::from(*letter))
            .collect()
    }

    pub(crate) fn set(&self, to_go: i32, fault: Fault) {
        let (error, lasting) = match fault {
            Fault::Error(error) => (error, 0),
            Fault::Errors(error) => (error, 1),
            Fault::Kill => (0, 0),
        };
        let words: Vec<u8> =
            [to_go, error, lasting, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.file.write_all_at(&words, 0).unwrap();
    }

    fn seen(&self) -> i32 {
        let mut word = [0; 4];
        self.file.read_exact_at(&mut word, 12).unwrap();
        i32::from_ne_bytes(word)
    }
}

/// Everything that is stored, without times of change.
type Contents = (Vec<Network>, Vec<Nic>);

fn contents(daemon: &mut Daemon) -> Contents {
    let networks =
        daemon.call(async |c| c.list_networks(ListNetworksRequest::default()).await).unwrap();
    let nics = daemon.call(async |c| c.list_nics(ListNicsRequest::default()).await).unwrap();
    let mut found = (networks.networks, nics.nics);
    for network in &mut found.0 {
        (network.created_at, network.updated_at, network.etag) = Default::default();
    }
    for nic in &mut found.1 {
        (nic.created_at, nic.updated_at, nic.etag) = Default::default();
    }
    found
}

const NETWORK: &str = "11111111-1111-4111-8111-111111111111";
const NIC: &str = "22222222-2222-4222-8222-222222222222";

/// One change each; later ones build on the earlier ones.
fn change(daemon: &mut Daemon, number: usize) -> Result<(), tonic::Status> {
    match number {
        0 => {
            let request = CreateNetworkRequest {
                id: NETWORK.into(),
                name: "victim".into(),
                ipv4_subnet: "10.1.0.0/24".into(),
                ..Default::default()
            };
            daemon.call(async |c| c.create_network(request).await).map(drop)
        }
        1 => {
            let request = CreateNicRequest {
                id: NIC.into(),
                network_id: "victim".into(),
                name: "vm".into(),
                mac_address: "02:00:00:00:00:77".into(),
                ..Default::default()
            };
            daemon.call(async |c| c.create_nic(request).await).map(drop)
        }
        2 => {
            let routed_ipv4_prefixes = vec!["10.9.0.0/24".into()];
            let request =
                UpdateNicRequest { id: NIC.into(), routed_ipv4_prefixes, ..Default::default() };
            daemon.call(async |c| c.update_nic(request).await).map(drop)
        }
        3 => {
            let limit = RateLimit { packets_per_second: 1000, ..Default::default() };
            let request = SetNicLimitsRequest {
                id: NIC.into(),
                from_guest: Some(limit),
                ..Default::default()
            };
            daemon.call(async |c| c.set_nic_limits(request).await).map(drop)
        }
        4 => {
            let request = DeleteNicRequest { id: NIC.into(), ..Default::default() };
            daemon.call(async |c| c.delete_nic(request).await).map(drop)
        }
        _ => {
            let request =
                DeleteNetworkRequest { id: NETWORK.into(), force: true, ..Default::default() };
            daemon.call(async |c| c.delete_network(request).await).map(drop)
        }
    }
}

const CHANGES: usize = 6;

#[test]
fn no_failing_call_loses_or_tears_anything() {
    let (faults, mut daemon) = Faults::start();
    daemon.network("bystander");
    daemon.nic("bystander", "other");
    let mut tried = 0;
    for fault in [
        Fault::Error(libc::ENOSPC),
        Fault::Error(libc::EIO),
        Fault::Errors(libc::EROFS),
        Fault::Errors(libc::EIO),
        Fault::Kill,
    ] {
        for number in 0..CHANGES {
            let before = contents(&mut daemon);
            // What it would be without a fault.
            let mut call = 0;
            loop {
                call += 1;
                faults.set(call, fault);
                let outcome = change(&mut daemon, number);
                let hit = faults.seen() >= call;
                faults.set(0, Fault::Kill);
                let context = format!("{fault:?} at call {call} of change {number}: {outcome:?}");
                if fault == Fault::Kill && hit {
                    assert!(outcome.is_err(), "{context}");
                    daemon.start_again_after_its_end();
                } else if outcome.is_err() {
                    assert!(hit, "{context}");
                    assert_eq!(contents(&mut daemon), before, "{context}");
                    daemon.crash_and_restart();
                } else {
                    let now = contents(&mut daemon);
                    daemon.crash_and_restart();
                    assert_eq!(contents(&mut daemon), now, "{context}");
                    assert_ne!(now, before, "{context}");
                    if !hit {
                        break;
                    }
                }
                tried += 1;
                let after = contents(&mut daemon);
                if after != before {
                    // It is there: whole, as doing it again shows, which finds nothing to do or
                    // repeats it.
                    assert!(!matches!(fault, Fault::Error(_)) || outcome.is_ok(), "{context}");
                    undo(&mut daemon, number);
                    assert_eq!(contents(&mut daemon), before, "{context}");
                }
            }
        }
        assert_eq!(contents(&mut daemon).0.len(), 1, "the bystander");
    }
    eprintln!("{tried} faults");
    assert!(tried > 100, "{tried}");
    let quarantine = std::fs::read_dir(daemon.path("m/quarantine")).unwrap().count();
    assert_eq!(quarantine, 0, "nothing was torn");
}

/// Takes a change back that has happened.
fn undo(daemon: &mut Daemon, number: usize) {
    match number {
        0 => change(daemon, 5),
        1 => change(daemon, 4),
        2 => {
            let request = UpdateNicRequest { id: NIC.into(), ..Default::default() };
            daemon.call(async |c| c.update_nic(request).await).map(drop)
        }
        3 => {
            let request = SetNicLimitsRequest { id: NIC.into(), ..Default::default() };
            daemon.call(async |c| c.set_nic_limits(request).await).map(drop)
        }
        4 => [1, 2, 3].into_iter().try_for_each(|number| change(daemon, number)),
        _ => change(daemon, 0),
    }
    .unwrap();
}
