//! What is stored is there again, whole or not at all.

use super::*;
use crate::{
    addr::MacAddr,
    lock::LockError,
    model::{GuestSettings, Labels, PortSettings, Protocol, StoredLease},
    store::Put,
};
use proptest::prelude::*;

fn network() -> Network {
    Network {
        id: Uuid::new_v4(),
        name: "prod".parse().unwrap(),
        kind: crate::model::NetworkKind::Switched,
        l2: crate::model::L2Policy::plain(),
        gateway: Some(false),
        gateway_ipv4: None,
        ipv4_subnet: Some("10.0.0.0/24".parse().unwrap()),
        ipv6_prefix: None,
        dns_servers: vec!["1.1.1.1".parse().unwrap()],
        ntp_servers: vec![],
        mtu: 1500,
        dns_mode: crate::model::DnsMode::Names,
        metadata: true,
        domain: Some("prod.internal".parse().unwrap()),
        labels: [("owner".into(), "team a".into())].into(),
        description: "two\nlines".into(),
        is_public: false,
        boot: Some(Default::default()),
        asked: Some(Uuid::new_v4()),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        updated_at: jiff::Timestamp::UNIX_EPOCH,
    }
}

impl JsonStore {
    fn put_network(&mut self, network: &Network) {
        let put = Put { old: None, new: network.clone() };
        self.commit(&[&Change::PutNetwork(put.into())]).unwrap();
    }

    fn put_nic(&mut self, nic: &Nic) {
        let put = Put { old: None, new: nic.clone() };
        self.commit(&[&Change::PutNic(put.into())]).unwrap();
    }

    fn delete_network(&mut self, id: Uuid, nics: &[Uuid]) {
        let gone = Change::DeleteNetwork {
            id,
            nics: nics.into(),
            ports: vec![],
            with: Dependants::default(),
        };
        self.commit(&[&gone]).unwrap();
    }
}

fn nic(network: &Network) -> Nic {
    Nic {
        metadata: Some(Box::new(crate::model::GuestData {
            user_data: b"#!/bin/sh".to_vec().into(),
            ..Default::default()
        })),
        id: Uuid::new_v4(),
        name: "vm1".parse().unwrap(),
        network_id: network.id,
        mac: "52:54:00:00:00:01".parse().unwrap(),
        ipv4: Some("10.0.0.1".parse().unwrap()),
        ipv6: None,
        routed_ipv4: vec![],
        routed_ipv6: vec!["fd01::/64".parse().unwrap()],
        settings: GuestSettings {
            to_guest: crate::model::RateLimit {
                bits: 1_000_000,
                burst_bits: 9,
                ..Default::default()
            },
            ..Default::default()
        },
        mtu: Some(9000),
        slaac: None,
        transport: crate::model::Transport::Tap("mv-1".into()),
        queue_pairs: 1,
        labels: Default::default(),
        description: String::new(),
        boot: None,
        socket: crate::model::SocketAccess {
            group: Some(crate::model::Account { asked: "kvm".into(), number: 104 }),
            ..Default::default()
        },
        asked: None,
        features: 1 << 32,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        updated_at: jiff::Timestamp::UNIX_EPOCH,
    }
}

#[test]
fn leases_are_of_a_network_and_go_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = JsonStore::open(directory.path()).unwrap();
    let network = network();
    let lease = |last: u8| StoredLease {
        mac: MacAddr([2, 0, 0, 0, 0, last]),
        address: [10, 0, 0, last].into(),
        until: jiff::Timestamp::UNIX_EPOCH,
        hostname: "host".into(),
        vendor_class: String::new(),
    };
    let of = |network_id, last| Leases { network_id, leases: vec![lease(last)] };
    store.put_network(&network);
    let (first, later) = (of(network.id, 1), of(network.id, 2));
    for (old, new) in [(None, first.clone()), (Some(first), later.clone())] {
        store.commit(&[&Change::PutLeases(Put { old, new }.into())]).unwrap();
    }
    // Of a network that is not there.
    let lost = Put { old: None, new: of(Uuid::new_v4(), 3) };
    store.commit(&[&Change::PutLeases(lost.into())]).unwrap();
    assert_eq!(store.load().unwrap().leases, [later]);
    store.delete_network(network.id, &[]);
    assert!(!store.leases.file(network.id).exists());
    store.put_network(&network);
    assert_eq!(store.load().unwrap().leases, []);
}

#[test]
fn what_was_put_is_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = JsonStore::open(directory.path()).unwrap();
    let network = network();
    let nic = nic(&network);
    store.put_network(&network);
    store.put_nic(&nic);
    drop(store);
    let mut store = JsonStore::open(directory.path()).unwrap();
    let contents = store.load().unwrap();
    assert_eq!(
        contents,
        Contents {
            networks: vec![network.clone()],
            nics: vec![nic.clone()],
            ..Contents::default()
        }
    );
    store.delete_network(network.id, &[nic.id]);
    assert_eq!(store.load().unwrap(), Contents::default());
}

#[test]
fn ports_are_kept_and_go_with_their_network() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = JsonStore::open(directory.path()).unwrap();
    let (network, other) = (network(), network());
    let port = |network: &Network| Port {
        id: Uuid::new_v4(),
        name: "lan".parse().unwrap(),
        network_id: network.id,
        vlans: Vec::new(),
        locator: "stream-listen://127.0.0.1:9999".parse().unwrap(),
        settings: PortSettings::default(),
        labels: Labels::new(),
        description: String::new(),
        asked: Uuid::new_v4(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        updated_at: jiff::Timestamp::UNIX_EPOCH,
    };
    let (goes, stays, left) = (port(&network), port(&other), port(&network));
    store.put_network(&network);
    store.put_network(&other);
    for port in [&goes, &stays, &left] {
        let put = Put { old: None, new: port.clone() };
        store.commit(&[&Change::PutPort(put.into())]).unwrap();
    }
    store.commit(&[&Change::DeletePort(goes.id)]).unwrap();
    let mut expected = vec![stays.clone(), left.clone()];
    expected.sort_by_key(|port| port.id);
    assert_eq!(store.load().unwrap().ports, expected);
    let gone = Change::DeleteNetwork {
        id: network.id,
        nics: vec![],
        ports: vec![left.id],
        with: Dependants::default(),
    };
    store.commit(&[&gone]).unwrap();
    let contents = Contents { networks: vec![other], ports: vec![stays], ..Contents::default() };
    assert_eq!(store.load().unwrap(), contents);
    // One that was cut short.
    let path = store.networks.file(contents.networks[0].id);
    fs::rename(&path, path.with_extension("deleting")).unwrap();
    assert_eq!(store.load().unwrap(), Contents::default());
}

fn forward(nic: &Nic) -> Forward {
    Forward {
        id: Uuid::new_v4(),
        name: "web".parse().unwrap(),
        network_id: nic.network_id,
        listen: "0.0.0.0".parse().unwrap(),
        protocol: Protocol::Tcp,
        listen_ports: "80,90-100".parse().unwrap(),
        nic_id: nic.id,
        target_ports: Default::default(),
        labels: Labels::new(),
        description: String::new(),
        asked: Uuid::new_v4(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        updated_at: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn floating_ip(nic: &Nic) -> FloatingIp {
    FloatingIp {
        id: Uuid::new_v4(),
        address: "203.0.113.7".parse().unwrap(),
        nic_id: nic.id,
        network_id: nic.network_id,
        labels: Labels::new(),
        description: String::new(),
        asked: Uuid::new_v4(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        updated_at: jiff::Timestamp::UNIX_EPOCH,
    }
}

#[test]
fn forwards_and_floating_ips_go_with_their_vnic_or_its_network() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = JsonStore::open(directory.path()).unwrap();
    let (network, other) = (network(), network());
    let (gone, crashed, left) = (nic(&network), nic(&network), nic(&other));
    store.put_network(&network);
    store.put_network(&other);
    for nic in [&gone, &crashed, &left] {
        store.put_nic(nic);
        let put = Put { old: None, new: forward(nic) };
        store.commit(&[&Change::PutForward(put.into())]).unwrap();
        let put = Put { old: None, new: floating_ip(nic) };
        store.commit(&[&Change::PutFloatingIp(put.into())]).unwrap();
    }
    let there = store.load().unwrap();
    assert_eq!((there.forwards.len(), there.floating_ips.len()), (3, 3));
    let dependants = |of: Uuid| Dependants {
        forwards: there.forwards.iter().filter(|it| it.nic_id == of).map(|it| it.id).collect(),
        floating_ips: there
            .floating_ips
            .iter()
            .filter(|it| it.nic_id == of)
            .map(|it| it.id)
            .collect(),
        load_balancers: Vec::new(),
    };
    store.commit(&[&Change::DeleteNic { id: gone.id, with: dependants(gone.id) }]).unwrap();
    // One that was made durable, and cut short then.
    let path = store.nics.file(crashed.id);
    fs::rename(&path, path.with_extension("gone")).unwrap();
    let there = store.load().unwrap();
    assert_eq!((there.forwards.len(), there.floating_ips.len()), (1, 1));
    assert_eq!(there.forwards[0].nic_id, left.id);
    assert_eq!(there.forwards[0].listen_ports.to_string(), "80,90-100");
    assert!(!path.with_extension("gone").exists());
    // That of a network, likewise.
    let path = store.networks.file(other.id);
    fs::rename(&path, path.with_extension("deleting")).unwrap();
    let there = store.load().unwrap();
    assert!(there.forwards.is_empty() && there.floating_ips.is_empty());
}

#[test]
fn what_leads_to_a_vnic_whose_file_is_damaged_stays() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = JsonStore::open(directory.path()).unwrap();
    let network = network();
    let nic = nic(&network);
    store.put_network(&network);
    store.put_nic(&nic);
    let new = forward(&nic);
    store.commit(&[&Change::PutForward(Put { old: None, new: new.clone() }.into())]).unwrap();
    fs::write(store.nics.file(nic.id), b"half").unwrap();
    let there = store.load().unwrap().forwards;
    assert_eq!(there, std::slice::from_ref(&new));
    store.commit(&[&Change::DeleteForward(new.id)]).unwrap();
    assert_eq!(store.load().unwrap().forwards, []);
}

#[test]
fn load_balancers_go_with_their_network_and_outlive_their_vnics() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = JsonStore::open(directory.path()).unwrap();
    let (network, other) = (network(), network());
    let nic = nic(&network);
    store.put_network(&network);
    store.put_network(&other);
    store.put_nic(&nic);
    let [one, crashed] = [&network, &other].map(|network| load_balancer(network, &nic));
    for new in [&one, &crashed] {
        let put = Put { old: None, new: new.clone() };
        store.commit(&[&Change::PutLoadBalancer(put.into())]).unwrap();
    }
    let with = Dependants::default();
    store.commit(&[&Change::DeleteNic { id: nic.id, with }]).unwrap();
    // The deletion of a network that was made durable, and cut short then.
    let path = store.networks.file(other.id);
    fs::rename(&path, path.with_extension("deleting")).unwrap();
    assert_eq!(store.load().unwrap().load_balancers, std::slice::from_ref(&one));
    let changed = LoadBalancer { reject_when_empty: true, ..one.clone() };
    let put = Put { old: Some(one), new: changed.clone() };
    store.commit(&[&Change::PutLoadBalancer(put.into())]).unwrap();
    assert_eq!(store.load().unwrap().load_balancers, std::slice::from_ref(&changed));
    store.commit(&[&Change::DeleteLoadBalancer(changed.id)]).unwrap();
    assert_eq!(store.load().unwrap().load_balancers, []);
}

fn load_balancer(network: &Network, nic: &Nic) -> LoadBalancer {
    let stored = serde_json::json!({
        "id": Uuid::new_v4(),
        "name": "front",
        "network_id": network.id,
        "address": "203.0.113.80",
        "ports": [{ "protocol": "tcp", "port": 80, "target_port": 8080 }],
        "backends": [{ "nic_id": nic.id, "weight": 1, "drained": false }],
        "asked": Uuid::new_v4(),
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
    });
    serde_json::from_value(stored).unwrap()
}

#[test]
fn a_directory_is_used_by_one_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let _first = JsonStore::open(directory.path()).unwrap();
    assert!(matches!(
        JsonStore::open(directory.path()),
        Err(StoreError::Lock(LockError::InUse(_)))
    ));
}

#[test]
fn a_deletion_that_was_cut_short_is_completed() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = JsonStore::open(directory.path()).unwrap();
    let (network, other) = (network(), network());
    let (gone, stays) = (nic(&network), nic(&other));
    store.put_network(&network);
    store.put_network(&other);
    store.put_nic(&gone);
    store.put_nic(&stays);
    let path = store.networks.file(network.id);
    fs::rename(&path, path.with_extension("deleting")).unwrap();
    let contents = store.load().unwrap();
    assert_eq!(
        contents,
        Contents { networks: vec![other], nics: vec![stays], ..Contents::default() }
    );
    assert_eq!(fs::read_dir(directory.path().join(QUARANTINE)).unwrap().count(), 0);
}

#[test]
fn a_deletion_that_failed_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = JsonStore::open(directory.path()).unwrap();
    let network = network();
    store.put_network(&network);
    let path = store.networks.file(network.id);
    fs::rename(&path, path.with_extension("deleting")).unwrap();
    store.delete_network(network.id, &[]);
    assert_eq!(store.load().unwrap(), Contents::default());
}

#[test]
fn what_is_left_of_a_deletion_does_not_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = JsonStore::open(directory.path()).unwrap();
    let network = network();
    let (left, gone) = (nic(&network), nic(&network));
    store.put_network(&network);
    store.put_nic(&left);
    store.put_nic(&gone);
    // Deletions that were made durable, and cut short then.
    let path = store.nics.file(gone.id);
    fs::rename(&path, path.with_extension("gone")).unwrap();
    let path = store.networks.file(network.id);
    fs::rename(&path, path.with_extension("deleting")).unwrap();
    store.put_network(&network);
    let alone = Contents { networks: vec![network], ..Contents::default() };
    assert_eq!(store.load().unwrap(), alone);
    assert_eq!(fs::read_dir(directory.path().join(NICS)).unwrap().count(), 0);
}

#[test]
fn a_commit_that_fails_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = JsonStore::open(directory.path()).unwrap();
    let (network, other, new) = (network(), network(), network());
    let (changed, deleted) = (nic(&network), nic(&network));
    store.put_network(&network);
    store.put_network(&other);
    store.put_nic(&changed);
    store.put_nic(&deleted);
    let before = store.load().unwrap();
    let files = |folder| {
        let entries = fs::read_dir(directory.path().join(folder)).unwrap();
        let files = entries.map(|entry| entry.unwrap().path());
        files.map(|path| (path.clone(), fs::read(path).ok())).collect::<HashSet<_>>()
    };
    // What a file cannot be renamed to.
    let obstacle = nic(&network);
    fs::create_dir(store.nics.file(obstacle.id)).unwrap();
    let stored = [NETWORKS, NICS].map(files);
    let named = |nic: &Nic| Nic { name: "renamed".parse().unwrap(), ..nic.clone() };
    let put = |old: Option<&Nic>, new| Change::PutNic(Put { old: old.cloned(), new }.into());
    let changes = [
        Change::PutNetwork(Put { old: None, new }.into()),
        put(Some(&changed), named(&changed)),
        Change::DeleteNic { id: deleted.id, with: Dependants::default() },
        Change::DeleteNetwork {
            id: other.id,
            nics: vec![],
            ports: vec![],
            with: Dependants::default(),
        },
        put(None, obstacle.clone()),
    ];
    let error = store.commit(&changes.each_ref()).unwrap_err();
    assert!(error.to_string().starts_with("cannot rename to"), "{error}");
    assert_eq!([NETWORKS, NICS].map(files), stored, "octet for octet");
    fs::remove_dir(store.nics.file(obstacle.id)).unwrap();
    assert_eq!(store.load().unwrap(), before);
    // What a disk that failed twice left behind is in nobody's way.
    fs::write(store.nics.file(changed.id).with_extension("tmp"), b"half").unwrap();
    store.commit(&changes.each_ref()).unwrap();
    let after = store.load().unwrap();
    assert_eq!((after.networks.len(), after.nics.len()), (2, 2));
    assert!(after.nics.contains(&named(&changed)) && after.nics.contains(&obstacle));
}

#[test]
fn misnamed_files_are_set_aside_and_orphans_stay() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = JsonStore::open(directory.path()).unwrap();
    let network = network();
    store.put_network(&network);
    let orphan = nic(&super::tests::network());
    store.put_nic(&orphan);
    fs::copy(store.networks.file(network.id), store.networks.file(Uuid::nil())).unwrap();
    let contents = store.load().unwrap();
    assert_eq!((contents.networks, contents.nics), (vec![network], vec![]));
    assert_eq!((contents.orphans, contents.damaged), (vec![orphan], 1));
    assert_eq!(fs::read_dir(directory.path().join(QUARANTINE)).unwrap().count(), 1);
}

proptest! {
    #[test]
    fn damage_costs_the_damaged_object_only(
        cut in 0_usize..700,
        flip in any::<(u8, u8)>(),
        truncate: bool,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut store = JsonStore::open(directory.path()).unwrap();
        let (damaged, intact) = (network(), network());
        store.put_network(&damaged);
        store.put_network(&intact);
        let path = store.networks.file(damaged.id);
        let mut octets = fs::read(&path).unwrap();
        if truncate {
            octets.truncate(cut.min(octets.len() - 2));
        } else {
            let at = usize::from(flip.0) % octets.len();
            octets[at] ^= flip.1;
        }
        fs::write(&path, &octets).unwrap();
        let contents = store.load().unwrap();
        prop_assert!(contents.networks.contains(&intact));
        // What is left of the damaged one, if anything, is what was written.
        prop_assert!(contents.networks.iter().all(|n| *n == intact || *n == damaged));
    }
}
