//! Any requests of the API, one after the other, of a real Control: whatever it takes leaves a
//! state in which nothing is there twice, everything is where it belongs, and what is stored is
//! what is listed and can be read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mvirt_net::{
    control::{Accounts, Control, Handle, Limits, Reachable},
    dataplane::{Access, Dataplane, Hugepages, Settings},
    model::{Network, Nic},
    proto,
    store::{Change, Contents, Store, StoreError},
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
    fn commit(&mut self, changes: &[&Change]) -> Result<(), StoreError> {
        let mut kept = self.0.lock().unwrap();
        for change in changes {
            match change {
                Change::PutNetwork(network) => {
                    drop(kept.networks.insert(network.new.id, network.new.clone()))
                }
                Change::PutNic(nic) => drop(kept.nics.insert(nic.new.id, nic.new.clone())),
                Change::DeleteNetwork { id, nics, .. } => {
                    kept.networks.remove(id);
                    nics.iter().for_each(|nic| drop(kept.nics.remove(nic)));
                }
                Change::DeleteNic { id, .. } => drop(kept.nics.remove(id)),
                // None are asked for: they would reach out of this process.
                Change::PutPort(_)
                | Change::DeletePort(_)
                | Change::PutLeases(_)
                | Change::PutForward(_)
                | Change::DeleteForward(_)
                | Change::PutFloatingIp(_)
                | Change::DeleteFloatingIp(_)
                | Change::PutLoadBalancer(_)
                | Change::DeleteLoadBalancer(_) => unreachable!(),
            }
        }
        Ok(())
    }
    fn probe(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
});

/// Changes what would make something outside of this process.
fn tame(request: &mut dyn std::any::Any) {
    if let Some(nic) = request.downcast_mut::<proto::CreateNicRequest>()
        && matches!(
            nic.transport(),
            proto::Transport::Tap | proto::Transport::Packet | proto::Transport::Dgram
        )
    {
        nic.transport = proto::Transport::Stream.into();
        nic.tap_interface.clear();
        nic.datagrams.clear();
    }
}

async fn ask(control: &Handle, kind: u8, octets: &[u8]) {
    macro_rules! change {
        ($request:ident, $method:ident $(, $accounts:expr)?) => {
            if let Ok(mut request) = proto::$request::decode(octets) {
                tame(&mut request);
                let change = move |control: &Control| control.$method(&request $(, $accounts)?);
                drop(control.change(change).await.unwrap());
            }
        };
    }
    match kind % 8 {
        0 => change!(CreateNetworkRequest, create_network),
        1 | 2 => change!(CreateNicRequest, create_nic, &Accounts::default()),
        3 => change!(UpdateNetworkRequest, update_network),
        4 => change!(UpdateNicRequest, update_nic, &Accounts::default()),
        5 => change!(SetNicLimitsRequest, set_nic_limits),
        6 => change!(DeleteNetworkRequest, delete_network),
        _ => change!(DeleteNicRequest, delete_nic),
    }
}

fn check(control: &Control, kept: &Kept) {
    let networks = control.list_networks(&Default::default()).unwrap().networks;
    let nics = control.list_nics(&Default::default()).unwrap().nics;
    assert_eq!(
        networks.iter().map(|n| n.id.clone()).collect::<BTreeSet<_>>(),
        kept.networks.keys().map(Uuid::to_string).collect()
    );
    assert_eq!(
        nics.iter().map(|n| n.id.clone()).collect::<BTreeSet<_>>(),
        kept.nics.keys().map(Uuid::to_string).collect()
    );
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
        for prefix in nic
            .routed_ipv4
            .iter()
            .map(ToString::to_string)
            .chain(nic.routed_ipv6.iter().map(ToString::to_string))
        {
            assert!(taken.insert((nic.network_id, prefix)), "prefixes are routed once");
        }
    }
    assert_eq!(networks.iter().map(|n| n.nic_count as usize).sum::<usize>(), nics.len());
}

fuzz_target!(|octets: &[u8]| {
    RUNTIME.block_on(async {
        let settings = Settings {
            reactors: 1,
            cpus: vec![],
            busy_poll: Duration::ZERO,
            hugepages: Hugepages::Off,
            guest_memory: 0,
            capture_ring: None,
            socket_access: Access::default(),
        };
        let (dataplane, events) = Dataplane::start(&settings).unwrap();
        let directory = std::env::temp_dir().join(format!("mvirt-net-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let memory = Memory::default();
        let limits = Limits { networks: 8, nics: 16, routes: 8, ports: 0 };
        let may = (limits, Reachable::Flags { directories: vec![], listen: vec![], deny: vec![] });
        let control =
            Control::restore(Box::new(memory.clone()), dataplane, directory.clone(), may, 1.0)
                .unwrap();
        let (control, thread) = Handle::spawn(control, events).unwrap();
        let mut rest = octets;
        while let [kind, len, tail @ ..] = rest {
            let (request, tail) = tail.split_at(usize::from(*len).min(tail.len()));
            rest = tail;
            ask(&control, *kind, request).await;
            let memory = memory.clone();
            control.call(move |control| check(control, &memory.0.lock().unwrap())).await.unwrap();
        }
        for socket in control.call(Control::shut_down).await.unwrap() {
            socket.close().await;
        }
        assert!(thread.join().await);
        std::fs::remove_dir_all(&directory).unwrap();
    });
});
