//! Any text as a locator: what is read is written as a text that is read as the same, and names no
//! path that a system call would cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mvirt_net::locator::{Locator, LocatorError, Reach};
use std::os::unix::ffi::OsStrExt as _;

fuzz_target!(|text: &str| {
    for read in [text.parse(), Locator::parse_lenient(text)] {
        let read: Result<Locator, LocatorError> = read;
        let Ok(read) = read else { continue };
        let shown = read.to_string();
        assert_eq!(shown.parse().as_ref(), Ok(&read), "{text} is written {shown}");
        if let Reach::Paths(paths) = read.reach() {
            assert!(paths.iter().all(|path| !path.as_os_str().as_bytes().contains(&0)));
        }
    }
});
