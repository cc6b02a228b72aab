//! One file: an object as pretty-printed JSON, with a version and a checksum.
//!
//! A file is written once, under a name that nothing has, and synced. What is read is what was
//! written, or is told from it.

use super::StoreError;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};
use uuid::Uuid;

// A change of meaning gets another one. New fields have defaults and do not.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    /// Of the body as compact JSON with sorted keys, in hexadecimal.
    crc32c: String,
    body: T,
}

/// Why a file is set aside.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
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
}

/// Returns what makes an error of a system call one of the store.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

/// Removes a file. One that is not there is fine.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Returns the text of an object's file.
pub(super) fn encode<T: Serialize>(body: &T) -> serde_json::Result<Vec<u8>> {
    // Through a `Value`, whose maps are sorted: the checksum is the same for whoever reads it back.
    let body = serde_json::to_value(body)?;
    let crc32c = checksum(&body)?;
    let mut text = serde_json::to_vec_pretty(&Envelope { version: VERSION, crc32c, body })?;
    text.push(b'\n');
    Ok(text)
}

fn checksum(body: &serde_json::Value) -> serde_json::Result<String> {
    serde_json::to_vec(body).map(|octets| format!("{:08x}", crc32c::crc32c(&octets)))
}

/// Reads an object.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Unreadable> {
    let envelope: Envelope<serde_json::Value> = serde_json::from_slice(&fs::read(path)?)?;
    // Before the checksum, which another version may take of something else.
    if envelope.version != VERSION {
        return Err(Unreadable::Version(envelope.version));
    }
    let computed = checksum(&envelope.body)?;
    if computed != envelope.crc32c {
        return Err(Unreadable::Checksum { found: envelope.crc32c, computed });
    }
    // Parsed after the checksum was taken of all of it, fields that are unknown here included.
    Ok(serde_json::from_value(envelope.body)?)
}

/// Writes a new file, and syncs it.
pub(super) fn write_synced(path: &Path, octets: &[u8]) -> Result<(), StoreError> {
    // Never a file that is there: once fsync(2) has failed, the kernel may take its pages for
    // clean, and a second sync would succeed without them.
    let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let opened = match create() {
        // What is left of a change that failed, and could not be taken back either.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            remove(path)?;
            create()
        }
        opened => opened,
    };
    let mut file = opened.map_err(failed("create", path))?;
    file.write_all(octets).map_err(failed("write", path))?;
    file.sync_all().map_err(failed("sync", path))
}
