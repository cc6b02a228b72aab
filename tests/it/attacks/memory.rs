//! Memory that VMMs share, in more pieces than a process may have.

use super::{
    rig::{Rig, Shape, Voice},
    stage::Stage,
};
use crate::guest::PLAIN;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;

#[test]
fn many_regions_leave_some_to_others() {
    let mut stage = Stage::set();
    // More descriptors and mappings than a process has here, or than the daemon allows.
    let nics: Vec<_> = (0..330).map(|n| stage.evil(&format!("evil{n}"))).collect();
    let honest = stage.daemon.nic("innocent", "honest");
    let file = File::from(memfd_create("regions", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(4096).unwrap();
    let regions: Vec<_> = (0..64).map(|n| (n << 20, 4096)).collect();
    let mut voices = Vec::new();
    let seen = stage.play_all(
        &nics,
        |nic| {
            let Ok(voice) = Voice::dial(nic) else { return };
            if voice.greet(PLAIN).is_ok() {
                // Refused, it may be.
                voice.share(&file, &regions).ok();
                voices.push(voice);
            }
        },
        |_| {
            Rig::up(&honest, &Shape::new(PLAIN)).expect("an honest VM is served");
        },
    );
    seen.assert_harmless();
}
