//! What changes do to the files of a [`JsonStore`](super::JsonStore): renames within a folder.

use crate::{
    lock,
    store::{
        Change, StoreError,
        file::{encode, failed, remove, write_synced},
    },
};
use serde::Serialize;
use std::{
    fs::{self, File},
    io,
    path::PathBuf,
};
use uuid::Uuid;

/// A folder of objects.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// Held open: where no descriptor is left, a deletion, which frees some, must not need one.
    open: Option<File>,
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        // On a disk that takes no files it may be missing; `sync` tries again.
        let open = File::open(&path).ok();
        Self { path, open }
    }

    /// Makes what was renamed and removed in it durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let synced = match &self.open {
            // Somebody may have put another one there.
            Some(folder) if lock::is_at(folder, &self.path) => folder.sync_all(),
            _ => File::open(&self.path).and_then(|folder| folder.sync_all()),
        };
        synced.map_err(failed("sync", &self.path))
    }

    /// Where an object is kept.
    pub(super) fn file(&self, id: Uuid) -> PathBuf {
        self.path.join(format!("{id}.json"))
    }
}

/// What a change does to the files: a rename.
#[derive(Debug)]
pub(super) struct Step<'a> {
    pub(super) change: &'a Change,
    pub(super) folder: &'a Folder,
    /// The object's.
    pub(super) file: PathBuf,
    /// What takes its place, or what it is called once it is deleted.
    pub(super) beside: PathBuf,
}

impl Step<'_> {
    pub(super) fn is_put(&self) -> bool {
        match self.change {
            Change::PutNetwork(_)
            | Change::PutNic(_)
            | Change::PutPort(_)
            | Change::PutLeases(_)
            | Change::PutForward(_)
            | Change::PutFloatingIp(_)
            | Change::PutLoadBalancer(_) => true,
            Change::DeleteNetwork { .. }
            | Change::DeleteNic { .. }
            | Change::DeletePort(_)
            | Change::DeleteForward(_)
            | Change::DeleteFloatingIp(_)
            | Change::DeleteLoadBalancer(_) => false,
        }
    }

    pub(super) fn write<T: Serialize>(&self, body: &T) -> Result<(), StoreError> {
        let text = encode(body).map_err(|e| failed("encode", &self.file)(e.into()))?;
        // Synced before it is renamed: else the name may reach the disk before the text does.
        write_synced(&self.beside, &text)
    }

    pub(super) fn rename(&self) -> Result<(), StoreError> {
        if self.is_put() {
            return fs::rename(&self.beside, &self.file).map_err(failed("rename to", &self.file));
        }
        match fs::rename(&self.file, &self.beside) {
            // An earlier try that was cut short has renamed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.map_err(failed("rename", &self.file)),
        }
    }

    /// Puts what was there before the rename in its place again.
    pub(super) fn take_back(&self) -> Result<(), StoreError> {
        match self.change {
            Change::PutNetwork(network) => self.put_back(network.old.as_ref()),
            Change::PutNic(nic) => self.put_back(nic.old.as_ref()),
            Change::PutPort(port) => self.put_back(port.old.as_ref()),
            Change::PutLeases(leases) => self.put_back(leases.old.as_ref()),
            Change::PutForward(forward) => self.put_back(forward.old.as_ref()),
            Change::PutFloatingIp(floating) => self.put_back(floating.old.as_ref()),
            Change::PutLoadBalancer(balancer) => self.put_back(balancer.old.as_ref()),
            Change::DeleteNetwork { .. }
            | Change::DeleteNic { .. }
            | Change::DeletePort(_)
            | Change::DeleteForward(_)
            | Change::DeleteFloatingIp(_)
            | Change::DeleteLoadBalancer(_) => {
                fs::rename(&self.beside, &self.file).map_err(failed("rename to", &self.file))
            }
        }
    }

    fn put_back<T: Serialize>(&self, old: Option<&T>) -> Result<(), StoreError> {
        match old {
            Some(old) => self.write(old).and_then(|()| self.rename()),
            None => remove(&self.file),
        }
    }
}
