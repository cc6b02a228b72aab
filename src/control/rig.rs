//! Control with its thread, and a store that takes what a test says: for tests.

use super::{
    Accounts, Control, ControlThread, Handle, Limits, Reachable, change::Decided, refusal::Refusal,
};
use crate::{
    dataplane::{Access, Dataplane, Hugepages, Settings},
    proto::{
        CreateNetworkRequest, CreateNicRequest, DeleteNicRequest, DeleteNicResponse,
        ListNicsRequest, Nic,
    },
    store::{Change, Contents, Store, StoreError},
};
use std::{
    io,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle};

/// Whether a store takes changes.
pub(super) type Takes = fn(&[&Change]) -> bool;

/// A store that stores nothing. It waits for a word before each commit.
struct Script {
    words: mpsc::Receiver<Takes>,
    /// How many changes each commit had.
    commits: Arc<Mutex<Vec<usize>>>,
}

impl Store for Script {
    fn load(&mut self) -> Result<Contents, StoreError> {
        Ok(Contents::default())
    }

    fn commit(&mut self, changes: &[&Change]) -> Result<(), StoreError> {
        let takes = self.words.recv().unwrap();
        self.commits.lock().unwrap().push(changes.len());
        if takes(changes) {
            return Ok(());
        }
        let source = io::Error::from(io::ErrorKind::StorageFull);
        Err(StoreError::Io { action: "write", path: "test".into(), source })
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

pub(super) struct Rig {
    runtime: Runtime,
    handle: Handle,
    thread: ControlThread,
    words: mpsc::Sender<Takes>,
    commits: Arc<Mutex<Vec<usize>>>,
    pub(super) sockets: tempfile::TempDir,
}

pub(super) type Created = JoinHandle<Result<Nic, Refusal>>;

impl Rig {
    /// A Control with the network 10.0.0.0/24, which has just begun to store the vNIC "first",
    /// so that whatever is asked now waits for its turn.
    pub(super) fn new() -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let _entered = runtime.enter();
        let sockets = tempfile::tempdir().unwrap();
        let settings = Settings {
            reactors: 1,
            cpus: vec![],
            busy_poll: Duration::ZERO,
            hugepages: Hugepages::Off,
            guest_memory: 0,
            capture_ring: None,
            socket_access: Access::default(),
        };
        let (dataplane, reports) = Dataplane::start(&settings).unwrap();
        let (words, receiver) = mpsc::channel();
        let commits = Arc::default();
        let store = Script { words: receiver, commits: Arc::clone(&commits) };
        let limits = Limits { networks: 8, nics: 100, routes: 8, ports: 8 };
        let path = sockets.path().into();
        let may = (limits, Reachable::Everything);
        let control = Control::restore(Box::new(store), dataplane, path, may, 1.0).unwrap();
        let (handle, thread) = Handle::spawn(control, reports).unwrap();
        let rig = Self { runtime, handle, thread, words, commits, sockets };
        let request = CreateNetworkRequest {
            name: "prod".into(),
            ipv4_subnet: "10.0.0.0/24".into(),
            ..Default::default()
        };
        rig.say(|_| true);
        let created = rig.handle.change(move |control| control.create_network(&request));
        rig.runtime.block_on(created).unwrap().unwrap();
        rig.create("first", "");
        while !rig.handle.store().is_busy() {
            std::thread::yield_now();
        }
        rig.commits.lock().unwrap().clear();
        rig
    }

    /// What becomes of the next commit.
    pub(super) fn say(&self, takes: Takes) {
        self.words.send(takes).unwrap();
    }

    /// Asks for a change. It is among those that wait when this returns.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        decide: impl Fn(&Control) -> Result<Decided<T>, Refusal> + Send + 'static,
    ) -> JoinHandle<Result<T, Refusal>> {
        let handle = self.handle.clone();
        let (asked, ask) = oneshot::channel();
        let answer = self.runtime.spawn(async move {
            let mut change = std::pin::pin!(handle.change(decide));
            // Its first step sends the request, since there is room for it.
            let waits = std::future::poll_fn(|context| {
                std::task::Poll::Ready(change.as_mut().poll(context).is_pending())
            });
            assert!(waits.await);
            asked.send(()).unwrap();
            change.await.unwrap()
        });
        self.runtime.block_on(ask).unwrap();
        answer
    }

    pub(super) fn create(&self, name: &str, id: &str) -> Created {
        let request = CreateNicRequest {
            network_id: "prod".into(),
            name: name.into(),
            id: id.into(),
            ..Default::default()
        };
        self.ask(move |control| control.create_nic(&request, &Accounts::default()))
    }

    pub(super) fn delete(&self, name: &str) -> JoinHandle<Result<DeleteNicResponse, Refusal>> {
        let request = DeleteNicRequest { id: name.into(), ..Default::default() };
        self.ask(move |control| control.delete_nic(&request))
    }

    /// Has something done on Control's thread when its turn comes.
    pub(super) fn call<T: Send + 'static>(
        &self,
        request: impl FnOnce(&mut Control) -> T + Send + 'static,
    ) -> T {
        self.runtime.block_on(self.handle.call(request)).unwrap()
    }

    pub(super) fn answer<T>(&self, answer: JoinHandle<T>) -> T {
        self.runtime.block_on(answer).unwrap()
    }

    /// The vNICs that are there, each with its address.
    pub(super) fn listed(&self) -> Vec<(String, String)> {
        let list = self.call(|control| control.list_nics(&ListNicsRequest::default())).unwrap();
        list.nics.into_iter().map(|nic| (nic.name, nic.ipv4_address)).collect()
    }

    pub(super) fn end(self) -> Vec<usize> {
        let Self { runtime, handle, thread, commits, .. } = self;
        for socket in runtime.block_on(handle.call(Control::shut_down)).unwrap() {
            runtime.block_on(socket.close());
        }
        assert!(runtime.block_on(thread.join()));
        std::mem::take(&mut commits.lock().unwrap())
    }
}
