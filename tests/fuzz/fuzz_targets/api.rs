//! Any requests of the API, one after the other, of a real Control: whatever it takes leaves a state in which nothing is there
//! twice, everything is where it belongs, and what is stored is what is listed and can be read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mvirt_net::{
    control::{Accounts, Control, Limits},
    dataplane::{Access, Dataplane, Hugepages, Settings},
    model::{Network, Nic},
    proto,
    store::{Contents, Store, StoreError},
};
use prost::Message;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};
use uuid::Uuid;

#[derive(Default)]
struct Kept {
    networks: BTreeMap<Uuid, Network>,
    nics: BTreeMap<Uuid, Nic>,
}

/// Keeps what it is told in memory.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Kept>>);

impl Store for Memory {
    fn load(&mut self) -> Result<Contents, StoreError> {
        Ok(Contents::default())
    }
    fn put_network(&mut self, network: &Network) -> Result<(), StoreError> {
        self.0.lock().unwrap().networks.insert(network.id, network.clone());
        Ok(())
    }
    fn put_nic(&mut self, nic: &Nic) -> Result<(), StoreError> {
        self.0.lock().unwrap().nics.insert(nic.id, nic.clone());
        Ok(())
    }
    fn delete_network(&mut self, id: Uuid, nics: &[Uuid]) -> Result<(), StoreError> {
        let mut kept = self.0.lock().unwrap();
        kept.networks.remove(&id);
        nics.iter().for_each(|nic| drop(kept.nics.remove(nic)));
        Ok(())
    }
    fn delete_nic(&mut self, id: Uuid) -> Result<(), StoreError> {
        self.0.lock().unwrap().nics.remove(&id);
        Ok(())
    }
    fn probe(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
});

async fn ask(control: &mut Control, kind: u8, octets: &[u8]) {
    let nobody = Accounts::default;
    match kind % 8 {
        0 => drop(proto::CreateNetworkRequest::decode(octets).map(|r| control.create_network(r))),
        1 | 2 => drop(proto::CreateNicRequest::decode(octets).map(|r| control.create_nic(r, nobody()))),
        3 => drop(proto::UpdateNetworkRequest::decode(octets).map(|r| control.update_network(&r))),
        4 => drop(proto::UpdateNicRequest::decode(octets).map(|r| control.update_nic(&r, nobody()))),
        5 => drop(proto::SetNicLimitsRequest::decode(octets).map(|r| control.set_nic_limits(&r))),
        6 => drop(proto::DeleteNetworkRequest::decode(octets).map(|r| control.delete_network(&r))),
        _ => drop(proto::DeleteNicRequest::decode(octets).map(|r| control.delete_nic(&r))),
    }
    for closing in control.take_closing() {
        closing.over().await;
    }
}

fn check(control: &Control, kept: &Kept) {
    let networks = control.list_networks(&Default::default()).unwrap().networks;
    let nics = control.list_nics(&Default::default()).unwrap().nics;
    assert_eq!(networks.iter().map(|n| n.id.clone()).collect::<BTreeSet<_>>(), kept.networks.keys().map(Uuid::to_string).collect());
    assert_eq!(nics.iter().map(|n| n.id.clone()).collect::<BTreeSet<_>>(), kept.nics.keys().map(Uuid::to_string).collect());
    for network in kept.networks.values() {
        let text = serde_json::to_string(network).unwrap();
        assert_eq!(&serde_json::from_str::<Network>(&text).unwrap(), network);
    }
    let (mut names, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for nic in kept.nics.values() {
        let text = serde_json::to_string(nic).unwrap();
        assert_eq!(&serde_json::from_str::<Nic>(&text).unwrap(), nic);
        let network = &kept.networks[&nic.network_id];
        assert!(names.insert(nic.name.to_string()), "names are unique");
        assert!(taken.insert((nic.network_id, nic.mac.to_string())), "MACs are");
        if let Some(address) = nic.ipv4 {
            assert!(network.ipv4_subnet.unwrap().contains(&address));
            assert!(taken.insert((nic.network_id, address.to_string())), "addresses are");
        }
        if let Some(address) = nic.ipv6 {
            assert!(network.ipv6_prefix.unwrap().contains(&address));
            assert!(taken.insert((nic.network_id, address.to_string())));
        }
        for prefix in nic.routed_ipv4.iter().map(ToString::to_string).chain(nic.routed_ipv6.iter().map(ToString::to_string)) {
            assert!(taken.insert((nic.network_id, prefix)), "prefixes are routed once");
        }
    }
    assert_eq!(networks.iter().map(|n| n.nic_count as usize).sum::<usize>(), nics.len());
}

fuzz_target!(|octets: &[u8]| {
    RUNTIME.block_on(async {
        let settings = Settings { reactors: 1, cpus: vec![], busy_poll: Duration::ZERO, hugepages: Hugepages::Off, guest_memory: 0, socket_access: Access::default() };
        let (dataplane, _events) = Dataplane::start(&settings).unwrap();
        let directory = std::env::temp_dir().join(format!("mvirt-net-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let memory = Memory::default();
        let limits = Limits { networks: 8, nics: 16, routes: 8 };
        let mut control = Control::restore(Box::new(memory.clone()), dataplane, directory.clone(), limits, 1.0).unwrap();
        let mut rest = octets;
        while let [kind, len, tail @ ..] = rest {
            let (request, tail) = tail.split_at(usize::from(*len).min(tail.len()));
            rest = tail;
            ask(&mut control, *kind, request).await;
            check(&control, &memory.0.lock().unwrap());
        }
        for socket in control.shut_down() {
            socket.close().await;
        }
        std::fs::remove_dir_all(&directory).unwrap();
    });
});
