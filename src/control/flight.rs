//! The flight ring, put into files: when somebody asks by SIGUSR1, and when a port fails.

use super::{Control, Handle, refusal::Refusal};
use crate::{
    capture::Writer,
    dataplane::{Kept, forward::tables::PortId},
    log_limit::LogLimit,
    signals::Orders,
};
use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime},
};

/// Files that are kept. For another one, the oldest goes.
// A VMM that fails again and again fills no disk.
const FILES: usize = 16;
const EXTENSION: &str = "pcapng";

/// Where files go, and how often.
#[derive(Debug, Default)]
pub(super) struct Files {
    folder: PathBuf,
    failures: LogLimit,
}

impl Handle {
    /// Has what is in the flight ring put into a file, as often as that is told, until Control
    /// ends.
    pub async fn dump_ring_when_told(self, orders: Arc<Orders>) {
        loop {
            orders.dump.notified().await;
            if self.call(|control| control.dump_ring(None, "asked")).await.is_err() {
                return;
            }
        }
    }
}

impl Control {
    /// Puts files with what is in the flight ring into a folder, which is made for the first.
    pub fn keep_captures_in(&mut self, folder: PathBuf) {
        self.captures.folder = folder;
    }

    /// Returns what is in the flight ring.
    pub(super) fn kept_frames(&self) -> Result<Kept, Refusal> {
        let none = "there is no flight ring: start the daemon with --capture-ring SIZE";
        self.dataplane.kept_frames().ok_or_else(|| Refusal::Unready(none.into()))
    }

    /// A port has failed: what led to it is put into a file, but not for each of many.
    pub(super) fn dump_failed(&mut self, port: PortId) {
        // Not by what is in the ring: who asks for that ends a chunk of each reactor's.
        if self.dataplane.keeps_frames() && self.captures.failures.line(Instant::now()).is_some() {
            self.dump_ring(Some(port), "failed");
        }
    }

    /// Puts what is in the flight ring into a file, all of it or what is of one port.
    fn dump_ring(&mut self, only: Option<PortId>, why: &'static str) {
        let Some(kept) = self.dataplane.kept_frames() else {
            tracing::warn!("SIGUSR1: there is no flight ring (--capture-ring)");
            return;
        };
        let mut writer = Writer::new("", 0, u64::MAX, (Instant::now(), SystemTime::now()));
        // All whom a frame may name.
        let mut ports: Vec<_> = self.by_port.keys().copied().collect();
        ports.sort_unstable();
        ports.into_iter().for_each(|port| writer.learn(port, self.who(port)));
        let name = only.map_or_else(|| "ring".into(), |port| self.who(port).name);
        let folder = self.captures.folder.clone();
        tokio::spawn(async move {
            let chunks = kept.collected().await;
            // Files are waited for where that holds up nobody.
            let written = tokio::task::spawn_blocking(move || {
                for chunk in chunks {
                    let is_meant = |port| only.is_none_or(|only| only == port);
                    writer.write(chunk.iter().filter(|(record, _)| is_meant(record.port)));
                }
                writer.finish(Instant::now());
                write(&folder, &name, &writer.take())
            });
            match written.await {
                Ok(Ok(path)) => tracing::info!(path = %path.display(), why, "capture ring written"),
                Ok(Err(error)) => tracing::warn!(%error, why, "the capture ring is not written"),
                Err(error) => tracing::error!(%error, "what writes the capture ring panicked"),
            }
        });
    }
}

/// Writes a file of its own into a folder, of which it is the newest.
fn write(folder: &Path, name: &str, octets: &[u8]) -> io::Result<PathBuf> {
    // Frames are their guests': nobody else reads them.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            files.push((fs::metadata(&path)?.modified()?, path));
        }
    }
    files.sort();
    let too_many = (files.len() + 1).saturating_sub(FILES);
    for (_, path) in files.drain(..too_many) {
        fs::remove_file(path)?;
    }
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S.%6f");
    // A port's client is called by its address, too.
    let name = name.replace(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)), "_");
    let path = folder.join(format!("{name}-{time}.{EXTENSION}"));
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(octets)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_files_are_kept() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("captures");
        let names = ["a/b:1", "vm1", "ring"].into_iter().cycle();
        let written = names.take(20).map(|name| write(&folder, name, b"x").unwrap());
        let written = written.collect::<Vec<_>>();
        assert!(written[0].file_name().unwrap().to_str().unwrap().starts_with("a_b_1-"));
        let there = fs::read_dir(&folder).unwrap().count();
        assert_eq!(there, FILES);
        assert!(written[19].exists() && !written[0].exists());
    }
}
