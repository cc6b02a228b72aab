//! Any octets as the file of a vNIC, beside a sound network: the store opens, serves the network,
//! and sets aside or serves the rest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mvirt_net::store::{Store as _, json::JsonStore};
use std::{fs, path::PathBuf, sync::OnceLock};

const NETWORK: &str = "0f2d2647-dcef-4b73-984f-03531ae4ff39";
const NIC: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

fn directory() -> &'static PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let path = PathBuf::from(format!("/dev/shm/mvirt-fuzz-{}", std::process::id()));
        drop(JsonStore::open(&path).unwrap());
        path
    })
}

fuzz_target!(|octets: &[u8]| {
    let directory = directory();
    // The first octet says which of both is written.
    let Some((which, octets)) = octets.split_first() else { return };
    let file = if which % 2 == 0 {
        format!("nics/{NIC}.json")
    } else {
        format!("networks/{NETWORK}.json")
    };
    fs::write(directory.join(&file), octets).unwrap();
    let mut store = JsonStore::open(directory).unwrap();
    let contents = store.load().unwrap();
    assert!(
        contents
            .nics
            .iter()
            .all(|nic| contents.networks.iter().any(|network| network.id == nic.network_id))
    );
    fs::remove_file(directory.join(&file)).ok();
    for aside in fs::read_dir(directory.join("quarantine")).unwrap() {
        fs::remove_file(aside.unwrap().path()).unwrap();
    }
});
