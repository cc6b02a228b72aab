//! One pretty-printed JSON file an object, with a version and a checksum.
//!
//! ```text
//! DIR/lock                      held while the daemon runs
//! DIR/networks/UUID.json        {"version": 1, "crc32c": "…", "body": {…}}
//! DIR/networks/UUID.deleting    a network that is being deleted with its vNICs
//! DIR/nics/UUID.json
//! DIR/quarantine/               files that could not be understood, as they were
//! ```
//! A change is written to a temporary file, synced, renamed into place, and the folder synced. A failed sync is never
//! retried on the same file.

use super::{Contents, Store, StoreError};
use crate::{
    lock::DirLock,
    model::{Network, Nic},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::fd::OwnedFd,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};
use uuid::Uuid;

const VERSION: u32 = 1;
const NETWORKS: &str = "networks";
const NICS: &str = "nics";
const QUARANTINE: &str = "quarantine";
/// Held while a daemon uses the directory.
const LOCK: &str = "lock";

/// A directory of JSON files, used by one daemon at a time.
#[derive(Debug)]
pub struct JsonStore {
    directory: PathBuf,
    lock: DirLock,
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    /// Of the body as compact JSON with sorted keys, in hexadecimal.
    crc32c: String,
    body: T,
}

/// Why a file is set aside.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("is not what was written: {0}")]
    Json(#[from] serde_json::Error),
    #[error("has version {0}; this daemon knows {VERSION}")]
    Version(u32),
    #[error("has checksum {found}, but its content {computed}: it was damaged or edited by hand")]
    Checksum { found: String, computed: String },
    #[error("its name does not tell its id {0}")]
    Name(Uuid),
    #[error("its network {0} does not exist")]
    Orphan(Uuid),
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

impl JsonStore {
    /// Makes the directory if need be, and locks it.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        for name in ["", NETWORKS, NICS, QUARANTINE] {
            let path = directory.join(name);
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(&path).map_err(failed("create", &path))?;
        }
        Ok(Self { lock: DirLock::take(directory, LOCK)?, directory: directory.into() })
    }

    /// With the lock of another process that gives it up.
    pub fn take_over(directory: &Path, lock: OwnedFd) -> Result<Self, StoreError> {
        let lock = DirLock::take_over(directory, LOCK, lock)?;
        Ok(Self { lock, directory: directory.into() })
    }

    /// The lock, for another process to take over. It is held until all copies are closed.
    pub fn lock(&self) -> io::Result<OwnedFd> {
        self.lock.share()
    }

    fn path(&self, folder: &str, id: Uuid) -> PathBuf {
        self.directory.join(folder).join(format!("{id}.json"))
    }

    fn put<T: Serialize>(&self, folder: &str, id: Uuid, body: &T) -> Result<(), StoreError> {
        let path = self.path(folder, id);
        let text = encode(body).map_err(|e| failed("encode", &path)(e.into()))?;
        let temporary = path.with_extension("tmp");
        let written = write_synced(&temporary, &text)
            .and_then(|()| fs::rename(&temporary, &path).map_err(failed("rename to", &path)));
        if let Err(error) = written {
            if let Err(leftover) = fs::remove_file(&temporary) {
                tracing::debug!(path = %temporary.display(), %leftover, "no temporary file to remove");
            }
            return Err(error);
        }
        self.sync(folder)
    }

    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    fn sync(&self, folder: &str) -> Result<(), StoreError> {
        let path = self.directory.join(folder);
        let opened = File::open(&path).map_err(failed("open", &path))?;
        opened.sync_all().map_err(failed("sync", &path))
    }

    /// The files of a folder that end in `extension`; other leftovers of ours are removed, strangers left alone.
    fn files(&self, folder: &str, extension: &str) -> Result<Vec<PathBuf>, StoreError> {
        let path = self.directory.join(folder);
        let mut found = Vec::new();
        for entry in fs::read_dir(&path).map_err(failed("list", &path))? {
            let file = entry.map_err(failed("list", &path))?.path();
            match file.extension() {
                Some(e) if e == extension => found.push(file),
                Some(e) if e == "tmp" => self.remove(&file)?,
                _ => {}
            }
        }
        found.sort();
        Ok(found)
    }

    fn quarantine(&self, path: &Path, reason: &Unreadable) -> Result<(), StoreError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let seconds = jiff::Timestamp::now().as_second();
        let to = self.directory.join(QUARANTINE).join(format!("{seconds}-{name}"));
        tracing::error!(path = %path.display(), %reason, to = %to.display(), "metadata set aside; everything else is served");
        fs::rename(path, &to).map_err(failed("quarantine", path))
    }

    fn load_all<T: DeserializeOwned>(
        &self,
        folder: &str,
        check: impl Fn(&T) -> (Uuid, Result<(), Unreadable>),
    ) -> Result<Vec<T>, StoreError> {
        let mut objects = Vec::new();
        for path in self.files(folder, "json")? {
            let read = read(&path).and_then(|object| {
                let (id, verdict) = check(&object);
                verdict?;
                if path == self.path(folder, id) { Ok(object) } else { Err(Unreadable::Name(id)) }
            });
            match read {
                Ok(object) => objects.push(object),
                Err(reason) => self.quarantine(&path, &reason)?,
            }
        }
        Ok(objects)
    }

    /// Completes deletions that a daemon began and did not live to end.
    fn finish_deletions(&self) -> Result<(), StoreError> {
        for path in self.files(NETWORKS, "deleting")? {
            let id =
                path.file_stem().and_then(|stem| Uuid::parse_str(&stem.to_string_lossy()).ok());
            for file in self.files(NICS, "json")? {
                if id.is_some() && read::<Nic>(&file).is_ok_and(|nic| Some(nic.network_id) == id) {
                    self.remove(&file)?;
                }
            }
            self.sync(NICS)?;
            self.remove(&path)?;
        }
        self.sync(NETWORKS)
    }
}

fn encode<T: Serialize>(body: &T) -> serde_json::Result<Vec<u8>> {
    let body = serde_json::to_value(body)?;
    let crc32c = checksum(&body)?;
    let mut text = serde_json::to_vec_pretty(&Envelope { version: VERSION, crc32c, body })?;
    text.push(b'\n');
    Ok(text)
}

fn checksum(body: &serde_json::Value) -> serde_json::Result<String> {
    serde_json::to_vec(body).map(|octets| format!("{:08x}", crc32c::crc32c(&octets)))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Unreadable> {
    let envelope: Envelope<serde_json::Value> = serde_json::from_slice(&fs::read(path)?)?;
    if envelope.version != VERSION {
        return Err(Unreadable::Version(envelope.version));
    }
    let computed = checksum(&envelope.body)?;
    if computed != envelope.crc32c {
        return Err(Unreadable::Checksum { found: envelope.crc32c, computed });
    }
    Ok(serde_json::from_value(envelope.body)?)
}

fn write_synced(path: &Path, octets: &[u8]) -> Result<(), StoreError> {
    let mut options = OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.map_err(failed("create", path))?;
    file.write_all(octets).map_err(failed("write", path))?;
    file.sync_all().map_err(failed("sync", path))
}

impl Store for JsonStore {
    fn load(&mut self) -> Result<Contents, StoreError> {
        self.finish_deletions()?;
        let networks = self.load_all(NETWORKS, |network: &Network| (network.id, Ok(())))?;
        let ids: std::collections::HashSet<Uuid> = networks.iter().map(|n| n.id).collect();
        let nics = self.load_all(NICS, |nic: &Nic| {
            let network = nic.network_id;
            let known = ids.contains(&network);
            (nic.id, if known { Ok(()) } else { Err(Unreadable::Orphan(network)) })
        })?;
        Ok(Contents { networks, nics })
    }

    fn put_network(&mut self, network: &Network) -> Result<(), StoreError> {
        // One whose deletion failed half-way is not to be deleted after all.
        let path = self.path(NETWORKS, network.id);
        match fs::rename(path.with_extension("deleting"), &path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("rename to", &path)(error))
            }
            _ => self.put(NETWORKS, network.id, network),
        }
    }

    fn put_nic(&mut self, nic: &Nic) -> Result<(), StoreError> {
        self.put(NICS, nic.id, nic)
    }

    fn delete_network(&mut self, id: Uuid, nics: &[Uuid]) -> Result<(), StoreError> {
        let path = self.path(NETWORKS, id);
        let marked = path.with_extension("deleting");
        match fs::rename(&path, &marked) {
            // A deletion that failed half-way is tried again.
            Err(error) if error.kind() == io::ErrorKind::NotFound && marked.exists() => {}
            renamed => renamed.map_err(failed("rename", &path))?,
        }
        self.sync(NETWORKS)?;
        for nic in nics {
            self.remove(&self.path(NICS, *nic))?;
        }
        self.sync(NICS)?;
        self.remove(&marked)?;
        self.sync(NETWORKS)
    }

    fn delete_nic(&mut self, id: Uuid) -> Result<(), StoreError> {
        self.remove(&self.path(NICS, id))?;
        self.sync(NICS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lock::LockError, model::Addressing};
    use proptest::prelude::*;

    fn network() -> Network {
        Network {
            id: Uuid::new_v4(),
            name: "prod".parse().unwrap(),
            ipv4_subnet: Some("10.0.0.0/24".parse().unwrap()),
            ipv6_prefix: None,
            dns_servers: vec!["1.1.1.1".parse().unwrap()],
            ntp_servers: vec![],
            mtu: 1500,
            domain: Some("prod.internal".parse().unwrap()),
            labels: [("owner".into(), "team a".into())].into(),
            description: "two\nlines".into(),
            boot: Some(Default::default()),
            asked: Some(Uuid::new_v4()),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            updated_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn nic(network: &Network) -> Nic {
        Nic {
            id: Uuid::new_v4(),
            name: "vm1".parse().unwrap(),
            network_id: network.id,
            mac: "52:54:00:00:00:01".parse().unwrap(),
            ipv4: Some("10.0.0.1".parse().unwrap()),
            ipv6: None,
            routed_ipv4: vec![],
            routed_ipv6: vec!["fd01::/64".parse().unwrap()],
            addressing: Addressing::Host,
            mtu: Some(9000),
            slaac: None,
            from_guest: Default::default(),
            to_guest: crate::model::RateLimit {
                bits: 1_000_000,
                burst_bits: 9,
                ..Default::default()
            },
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
    fn what_was_put_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = JsonStore::open(directory.path()).unwrap();
        let network = network();
        let nic = nic(&network);
        store.put_network(&network).unwrap();
        store.put_nic(&nic).unwrap();
        drop(store);
        let mut store = JsonStore::open(directory.path()).unwrap();
        let contents = store.load().unwrap();
        assert_eq!(contents, Contents { networks: vec![network.clone()], nics: vec![nic.clone()] });
        store.delete_network(network.id, &[nic.id]).unwrap();
        assert_eq!(store.load().unwrap(), Contents::default());
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
        store.put_network(&network).unwrap();
        store.put_network(&other).unwrap();
        store.put_nic(&gone).unwrap();
        store.put_nic(&stays).unwrap();
        let path = store.path(NETWORKS, network.id);
        fs::rename(&path, path.with_extension("deleting")).unwrap();
        let contents = store.load().unwrap();
        assert_eq!(contents, Contents { networks: vec![other], nics: vec![stays] });
        assert_eq!(fs::read_dir(directory.path().join(QUARANTINE)).unwrap().count(), 0);
    }

    #[test]
    fn a_deletion_that_failed_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = JsonStore::open(directory.path()).unwrap();
        let network = network();
        store.put_network(&network).unwrap();
        let path = store.path(NETWORKS, network.id);
        fs::rename(&path, path.with_extension("deleting")).unwrap();
        store.delete_network(network.id, &[]).unwrap();
        assert!(store.delete_network(network.id, &[]).is_err(), "nothing is left to delete");
        assert_eq!(store.load().unwrap(), Contents::default());
    }

    #[test]
    fn orphans_and_misnamed_files_are_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = JsonStore::open(directory.path()).unwrap();
        let network = network();
        store.put_network(&network).unwrap();
        store.put_nic(&nic(&super::tests::network())).unwrap();
        fs::copy(store.path(NETWORKS, network.id), store.path(NETWORKS, Uuid::nil())).unwrap();
        assert_eq!(store.load().unwrap(), Contents { networks: vec![network], nics: vec![] });
        assert_eq!(fs::read_dir(directory.path().join(QUARANTINE)).unwrap().count(), 2);
    }

    proptest! {
        #[test]
        fn damage_costs_the_damaged_object_only(cut in 0_usize..700, flip in any::<(u8, u8)>(), truncate: bool) {
            let directory = tempfile::tempdir().unwrap();
            let mut store = JsonStore::open(directory.path()).unwrap();
            let (damaged, intact) = (network(), network());
            store.put_network(&damaged).unwrap();
            store.put_network(&intact).unwrap();
            let path = store.path(NETWORKS, damaged.id);
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
}
