//! One pretty-printed JSON file an object, with a version and a checksum.
//!
//! ```text
//! DIR/lock                      held while the daemon runs
//! DIR/networks/UUID.json        {"version": 1, "crc32c": "…", "body": {…}}
//! DIR/networks/UUID.deleting    a network that is being deleted with its vNICs and ports
//! DIR/nics/UUID.json
//! DIR/nics/UUID.gone            a vNIC that is being deleted with its forwards and floating IPs
//! DIR/ports/UUID.json, .gone    a port, likewise
//! DIR/forwards/, floating-ips/, load-balancers/  likewise
//! DIR/leases/UUID.json          what hosts behind ports of the network have leased
//! DIR/quarantine/               files that could not be understood, as they were
//! ```
//! A commit has two steps. First, each new file is written under a temporary name and synced,
//! several at a time. Then all files are renamed into place, and each folder is synced once. A
//! deletion is a rename, too: to take it back needs neither room nor descriptors. Where a step
//! fails, all renames are taken back. A failed sync is never retried on the same file.
//!
//! A daemon that is killed meanwhile leaves some of the renames, and so some of the changes, each
//! of them whole. What is left of temporary files and deletions is removed at the next start.
//!
//! A disk that takes no files keeps nothing from being served: [`JsonStore::open`] and
//! [`Store::load`] fail only where the directory cannot be read, or is in use.

mod step;
#[cfg(test)]
mod tests;

use super::{
    Change, Contents, Dependants, Store, StoreError,
    file::{Unreadable, failed, read, remove, write_synced},
};
use crate::{
    lock::DirLock,
    model::{FloatingIp, Forward, Leases, LoadBalancer, Network, Nic, Port},
};
use serde::de::DeserializeOwned;
use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    thread,
};
use step::{Folder, Step};
use uuid::Uuid;

const NETWORKS: &str = "networks";
const NICS: &str = "nics";
const PORTS: &str = "ports";
const LEASES: &str = "leases";
const FORWARDS: &str = "forwards";
const FLOATING_IPS: &str = "floating-ips";
const LOAD_BALANCERS: &str = "load-balancers";
const QUARANTINE: &str = "quarantine";
/// Threads that write the files of one commit.
// The file system syncs files that are synced at the same time in one go. More than these gain
// little.
const WRITERS: usize = 8;
/// Held while a daemon uses the directory.
const LOCK: &str = "lock";

/// A directory of JSON files, used by one daemon at a time.
#[derive(Debug)]
pub struct JsonStore {
    directory: PathBuf,
    networks: Folder,
    nics: Folder,
    ports: Folder,
    leases: Folder,
    forwards: Folder,
    floating_ips: Folder,
    load_balancers: Folder,
    lock: DirLock,
}

impl JsonStore {
    /// Makes the directory if need be, and locks it.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        make_folders(directory);
        Ok(Self::with(directory, DirLock::take(directory, LOCK)?))
    }

    /// With the lock of another process that releases it.
    pub fn take_over(directory: &Path, lock: OwnedFd) -> Result<Self, StoreError> {
        let lock = DirLock::take_over(directory, LOCK, lock)?;
        Ok(Self::with(directory, lock))
    }

    /// The lock, for another process to take over. It is held until all copies are closed.
    pub fn lock(&self) -> io::Result<OwnedFd> {
        self.lock.share()
    }

    fn with(directory: &Path, lock: DirLock) -> Self {
        Self {
            networks: Folder::new(directory.join(NETWORKS)),
            nics: Folder::new(directory.join(NICS)),
            ports: Folder::new(directory.join(PORTS)),
            leases: Folder::new(directory.join(LEASES)),
            forwards: Folder::new(directory.join(FORWARDS)),
            floating_ips: Folder::new(directory.join(FLOATING_IPS)),
            load_balancers: Folder::new(directory.join(LOAD_BALANCERS)),
            directory: directory.into(),
            lock,
        }
    }

    /// What a change does to the files.
    fn step<'a>(&'a self, change: &'a Change) -> Step<'a> {
        let (folder, id, extension) = match change {
            Change::PutNetwork(network) => (&self.networks, network.new.id, "tmp"),
            Change::PutNic(nic) => (&self.nics, nic.new.id, "tmp"),
            Change::PutPort(port) => (&self.ports, port.new.id, "tmp"),
            Change::PutLeases(leases) => (&self.leases, leases.new.network_id, "tmp"),
            Change::PutForward(forward) => (&self.forwards, forward.new.id, "tmp"),
            Change::PutFloatingIp(floating) => (&self.floating_ips, floating.new.id, "tmp"),
            Change::PutLoadBalancer(balancer) => (&self.load_balancers, balancer.new.id, "tmp"),
            // One rename stands for the network and all that is in it: they go together or not at
            // all.
            Change::DeleteNetwork { id, .. } => (&self.networks, *id, "deleting"),
            Change::DeleteNic { id, .. } => (&self.nics, *id, "gone"),
            Change::DeletePort(id) => (&self.ports, *id, "gone"),
            Change::DeleteForward(id) => (&self.forwards, *id, "gone"),
            Change::DeleteFloatingIp(id) => (&self.floating_ips, *id, "gone"),
            Change::DeleteLoadBalancer(id) => (&self.load_balancers, *id, "gone"),
        };
        let file = folder.file(id);
        // In the same folder: rename(2) works within one file system only.
        let beside = file.with_extension(extension);
        Step { change, folder, file, beside }
    }

    /// Writes what a change is to put in place.
    fn write(&self, step: &Step<'_>) -> Result<(), StoreError> {
        match step.change {
            Change::PutNetwork(network) => {
                // What is left of one with this id that was deleted must not come back with it.
                let marked = step.file.with_extension("deleting");
                if marked.exists() {
                    self.finish_deletion(&marked, Some(network.new.id))?;
                }
                step.write(&network.new)
            }
            Change::PutNic(nic) => {
                let marked = step.file.with_extension("gone");
                if marked.exists() {
                    self.finish_nic_deletion(&marked, nic.new.id)?;
                }
                step.write(&nic.new)
            }
            Change::PutPort(port) => step.write(&port.new),
            Change::PutLeases(leases) => step.write(&leases.new),
            Change::PutForward(forward) => step.write(&forward.new),
            Change::PutFloatingIp(floating) => step.write(&floating.new),
            Change::PutLoadBalancer(balancer) => step.write(&balancer.new),
            Change::DeleteNetwork { .. }
            | Change::DeleteNic { .. }
            | Change::DeletePort(_)
            | Change::DeleteForward(_)
            | Change::DeleteFloatingIp(_)
            | Change::DeleteLoadBalancer(_) => Ok(()),
        }
    }

    /// Writes what many changes are to put in place, several files at a time.
    fn write_all(&self, steps: &[Step<'_>]) -> Result<(), StoreError> {
        // Deletions write nothing.
        if steps.iter().filter(|step| step.is_put()).count() < 2 {
            return self.write_each(steps);
        }
        let share = steps.len().div_ceil(WRITERS);
        thread::scope(|scope| {
            let start = |steps| {
                let writer = thread::Builder::new().name("store".into());
                // Where no thread can be had, here.
                let started = writer.spawn_scoped(scope, move || self.write_each(steps));
                started.map_err(|_| self.write_each(steps))
            };
            // All are started before the first is waited for.
            let writers: Vec<_> = steps.chunks(share).map(start).collect();
            writers.into_iter().try_for_each(|writer| match writer {
                Ok(writer) => writer.join().expect("to write a file panics nowhere"),
                Err(written) => written,
            })
        })
    }

    fn write_each(&self, steps: &[Step<'_>]) -> Result<(), StoreError> {
        steps.iter().try_for_each(|step| self.write(step))
    }

    /// Makes what was renamed durable: each folder is synced once.
    fn sync(&self, steps: &[Step<'_>]) -> Result<(), StoreError> {
        let is_in = |folder| steps.iter().any(|step| std::ptr::eq(step.folder, folder));
        let mut touched = self.folders().into_iter().filter(|folder| is_in(*folder));
        touched.try_for_each(Folder::sync)
    }

    fn folders(&self) -> [&Folder; 7] {
        let Self { networks, nics, ports, leases, forwards, floating_ips, load_balancers, .. } =
            self;
        [networks, nics, ports, leases, forwards, floating_ips, load_balancers]
    }

    /// Takes back a commit that failed when `done` of its renames were carried out.
    fn take_back(&self, steps: &[Step<'_>], done: usize) {
        let (done, open) = steps.split_at(done);
        for step in open.iter().filter(|step| step.is_put()) {
            if let Err(error) = remove(&step.beside) {
                tracing::debug!(%error, "a temporary file stays until the next start");
            }
        }
        let taken_back = done.iter().rev().map(Step::take_back);
        // A refused change must not be in force after a restart.
        for error in taken_back.chain([self.sync(done)]).filter_map(Result::err) {
            tracing::warn!(
                %error,
                "a change was refused and cannot be taken back: it may be in force after a restart"
            );
        }
    }

    /// The files of a folder that end in `extension`; other leftovers of ours are removed,
    /// strangers left alone.
    fn files(&self, folder: &Folder, extension: &str) -> Result<Vec<PathBuf>, StoreError> {
        let path = &folder.path;
        let mut found = Vec::new();
        let entries = match fs::read_dir(path) {
            // It could not be made on a disk that takes no files.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            entries => entries.map_err(failed("list", path))?,
        };
        for entry in entries {
            let file = entry.map_err(failed("list", path))?.path();
            match file.extension() {
                Some(e) if e == extension => found.push(file),
                Some(e) if e == "tmp" || e == "gone" => {
                    if let Err(error) = remove(&file) {
                        tracing::debug!(%error, "a leftover stays");
                    }
                }
                _ => {}
            }
        }
        // readdir(3) has no order; what is logged and served has one.
        found.sort();
        Ok(found)
    }

    /// Sets a file aside; where the disk takes no changes it stays, and is not served either.
    fn quarantine(&self, path: &Path, reason: &Unreadable) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // The time in front: a second file of this name must not replace the first.
        let seconds = jiff::Timestamp::now().as_second();
        let to = self.directory.join(QUARANTINE).join(format!("{seconds}-{name}"));
        match fs::rename(path, &to) {
            Ok(()) => {
                tracing::error!(
                    path = %path.display(), %reason, to = %to.display(),
                    "metadata set aside; everything else is served"
                );
            }
            Err(error) => {
                tracing::error!(
                    path = %path.display(), %reason, %error,
                    "metadata not served, and cannot be set aside; everything else is served"
                );
            }
        }
    }

    /// What is in a folder, and how many files of it could not be understood.
    fn load_all<T: DeserializeOwned>(
        &self,
        folder: &Folder,
        id: impl Fn(&T) -> Uuid,
    ) -> Result<(Vec<T>, usize), StoreError> {
        let (mut objects, mut damaged) = (Vec::new(), 0);
        for path in self.files(folder, "json")? {
            let read = read(&path).and_then(|object| {
                let id = id(&object);
                // A copy under another name would be the same object twice.
                if path == folder.file(id) { Ok(object) } else { Err(Unreadable::Name(id)) }
            });
            match read {
                Ok(object) => objects.push(object),
                // It may be sound all the same: out of descriptors, a disk that errs.
                Err(Unreadable::Io(error)) => {
                    damaged += 1;
                    tracing::error!(
                        path = %path.display(), %error,
                        "metadata cannot be read, and is not served; everything else is"
                    );
                }
                Err(reason) => {
                    damaged += 1;
                    self.quarantine(&path, &reason);
                }
            }
        }
        Ok((objects, damaged))
    }

    /// Completes deletions that a daemon began and did not live to end. Returns the networks of
    /// those that cannot be.
    fn finish_deletions(&self) -> Result<HashSet<Uuid>, StoreError> {
        let mut unfinished = HashSet::new();
        for path in self.files(&self.networks, "deleting")? {
            let id =
                path.file_stem().and_then(|stem| Uuid::parse_str(&stem.to_string_lossy()).ok());
            if let Err(error) = self.finish_deletion(&path, id) {
                tracing::warn!(
                    path = %path.display(), %error,
                    "what is left of a deleted network cannot be removed"
                );
                unfinished.extend(id);
            }
        }
        Ok(unfinished)
    }

    fn finish_deletion(&self, marked: &Path, network: Option<Uuid>) -> Result<(), StoreError> {
        if let Some(network) = network {
            self.remove_members(&self.nics, |nic: Nic| nic.network_id == network)?;
            self.remove_members(&self.ports, |port: Port| port.network_id == network)?;
            self.remove_members(&self.forwards, |it: Forward| it.network_id == network)?;
            self.remove_members(&self.floating_ips, |it: FloatingIp| it.network_id == network)?;
            self.remove_members(&self.load_balancers, |it: LoadBalancer| it.network_id == network)?;
            remove(&self.leases.file(network))?;
        }
        self.unmark(marked)
    }

    /// Completes deletions of vNICs: what was to go with one must not be there without it.
    fn finish_nic_deletions(&self) -> Result<(), StoreError> {
        for path in self.files(&self.nics, "gone")? {
            let id =
                path.file_stem().and_then(|stem| Uuid::parse_str(&stem.to_string_lossy()).ok());
            let finished = match id {
                Some(id) => self.finish_nic_deletion(&path, id),
                None => remove(&path),
            };
            if let Err(error) = finished {
                tracing::warn!(
                    path = %path.display(), %error,
                    "what is left of a deleted vNIC cannot be removed"
                );
            }
        }
        Ok(())
    }

    fn finish_nic_deletion(&self, marked: &Path, nic: Uuid) -> Result<(), StoreError> {
        self.remove_members(&self.forwards, |it: Forward| it.nic_id == nic)?;
        self.remove_members(&self.floating_ips, |it: FloatingIp| it.nic_id == nic)?;
        self.forwards.sync()?;
        self.floating_ips.sync()?;
        remove(marked)
    }

    /// Removes what has gone with a vNIC or network. What is left of it is removed with the mark of
    /// the deletion.
    fn remove_dependants(&self, with: &Dependants) -> Result<(), StoreError> {
        let forwards = with.forwards.iter().map(|id| self.forwards.file(*id));
        let floating_ips = with.floating_ips.iter().map(|id| self.floating_ips.file(*id));
        let load_balancers = with.load_balancers.iter().map(|id| self.load_balancers.file(*id));
        forwards.chain(floating_ips).chain(load_balancers).try_for_each(|file| remove(&file))
    }

    /// Removes the mark of a vNIC's deletion, once what has gone with it is gone for good.
    fn unmark_nic(&self, marked: &Path, with: &Dependants) -> Result<(), StoreError> {
        if !with.is_empty() {
            self.remove_dependants(with)?;
            self.forwards.sync()?;
            self.floating_ips.sync()?;
        }
        remove(marked)
    }

    fn remove_members<T: DeserializeOwned>(
        &self,
        folder: &Folder,
        is_of: impl Fn(T) -> bool,
    ) -> Result<(), StoreError> {
        for file in self.files(folder, "json")? {
            // One that cannot be read is left to `load_all`, which says so.
            if read::<T>(&file).is_ok_and(&is_of) {
                remove(&file)?;
            }
        }
        Ok(())
    }

    /// Forgets that a network was deleted. First what was in it is gone for good: a vNIC that came
    /// back would have no network.
    fn unmark(&self, marked: &Path) -> Result<(), StoreError> {
        self.nics.sync()?;
        self.ports.sync()?;
        self.leases.sync()?;
        self.forwards.sync()?;
        self.floating_ips.sync()?;
        self.load_balancers.sync()?;
        remove(marked)?;
        self.networks.sync()
    }
}

/// Makes the folders of a store that are missing. A disk that takes none is no error: there is
/// nothing to serve in them.
fn make_folders(directory: &Path) {
    let folders =
        ["", NETWORKS, NICS, PORTS, LEASES, FORWARDS, FLOATING_IPS, LOAD_BALANCERS, QUARANTINE];
    let made = folders.map(|name| {
        let path = directory.join(name);
        if path.is_dir() {
            return false;
        }
        match fs::DirBuilder::new().recursive(true).mode(0o700).create(&path) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot make a folder");
                false
            }
        }
    });
    if made.contains(&true) {
        // Files that are synced later are found only if their folders are.
        for path in [Some(directory), directory.parent()].into_iter().flatten() {
            if let Err(error) = File::open(path).and_then(|folder| folder.sync_all()) {
                tracing::warn!(path = %path.display(), %error, "cannot sync a folder");
            }
        }
    }
}

impl Store for JsonStore {
    fn load(&mut self) -> Result<Contents, StoreError> {
        // First: vNICs of a deleted network are no orphans.
        let deleted = self.finish_deletions()?;
        self.finish_nic_deletions()?;
        let (networks, damaged_networks) =
            self.load_all(&self.networks, |network: &Network| network.id)?;
        let (mut nics, damaged_nics) = self.load_all(&self.nics, |nic: &Nic| nic.id)?;
        // Their files cannot be removed; the deletion of their network is in force all the same.
        nics.retain(|nic| !deleted.contains(&nic.network_id));
        let ids: HashSet<Uuid> = networks.iter().map(|network| network.id).collect();
        let (nics, orphans) = nics.into_iter().partition(|nic| ids.contains(&nic.network_id));
        let (mut ports, damaged_ports) = self.load_all(&self.ports, |port: &Port| port.id)?;
        ports.retain(|port| {
            let is_served = ids.contains(&port.network_id);
            if !is_served && !deleted.contains(&port.network_id) {
                tracing::error!(
                    port = %port.name, id = %port.id, network = %port.network_id,
                    "port not served: its network is not there"
                );
            }
            is_served
        });
        let (mut leases, damaged_leases) =
            self.load_all(&self.leases, |leases: &Leases| leases.network_id)?;
        leases.retain(|leases| ids.contains(&leases.network_id));
        // Without their vNIC, too: its file may be damaged, and come back.
        let (mut forwards, damaged_forwards) =
            self.load_all(&self.forwards, |forward: &Forward| forward.id)?;
        forwards.retain(|forward| !deleted.contains(&forward.network_id));
        let (mut floating_ips, damaged_floating_ips) =
            self.load_all(&self.floating_ips, |floating: &FloatingIp| floating.id)?;
        floating_ips.retain(|floating| !deleted.contains(&floating.network_id));
        let (mut load_balancers, damaged_load_balancers) =
            self.load_all(&self.load_balancers, |balancer: &LoadBalancer| balancer.id)?;
        load_balancers.retain(|balancer| !deleted.contains(&balancer.network_id));
        let damaged = [
            damaged_networks,
            damaged_nics,
            damaged_ports,
            damaged_leases,
            damaged_forwards,
            damaged_floating_ips,
            damaged_load_balancers,
        ];
        let damaged = damaged.iter().sum();
        Ok(Contents {
            networks,
            nics,
            orphans,
            ports,
            leases,
            forwards,
            floating_ips,
            load_balancers,
            damaged,
        })
    }

    fn commit(&mut self, changes: &[&Change]) -> Result<(), StoreError> {
        let steps: Vec<_> = changes.iter().map(|change| self.step(change)).collect();
        let mut done = 0;
        // All are written before the first is renamed: a disk that is full leaves nothing to take
        // back.
        let result = self.write_all(&steps).and_then(|()| {
            for step in &steps {
                step.rename()?;
                done += 1;
            }
            self.sync(&steps)
        });
        if let Err(error) = result {
            self.take_back(&steps, done);
            return Err(error);
        }
        for Step { change, beside, .. } in &steps {
            let removed = match change {
                Change::DeleteNetwork { id, nics, ports, with } => {
                    let nics = nics.iter().map(|nic| self.nics.file(*nic));
                    let ports = ports.iter().map(|port| self.ports.file(*port));
                    let all = nics.chain(ports).chain([self.leases.file(*id)]);
                    let removed = all.into_iter().try_for_each(|file| remove(&file));
                    let removed = removed.and_then(|()| self.remove_dependants(with));
                    removed.and_then(|()| self.unmark(beside))
                }
                Change::DeleteNic { with, .. } => self.unmark_nic(beside, with),
                Change::DeletePort(_)
                | Change::DeleteForward(_)
                | Change::DeleteFloatingIp(_)
                | Change::DeleteLoadBalancer(_) => remove(beside),
                Change::PutNetwork(_)
                | Change::PutNic(_)
                | Change::PutPort(_)
                | Change::PutLeases(_)
                | Change::PutForward(_)
                | Change::PutFloatingIp(_)
                | Change::PutLoadBalancer(_) => Ok(()),
            };
            // No refusal: the deletion is in force.
            if let Err(error) = removed {
                tracing::warn!(%error, "what is left of a deletion is removed at the next start");
            }
        }
        Ok(())
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        // A name that the next start removes as a leftover.
        let path = self.nics.path.join("probe.tmp");
        let written = write_synced(&path, b"");
        remove(&path)?;
        written
    }
}
