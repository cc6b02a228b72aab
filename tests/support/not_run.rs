//! Tests that cannot run where they are, and say why.

use std::io::Write as _;

/// Says that the running test cannot run here, and why: `make test` tells at its end
/// (scripts/test.sh).
pub(crate) fn cannot_run(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("not run: {test}: {why}");
    if let Some(list) = std::env::var_os("MVIRT_NOT_RUN") {
        let mut list = std::fs::File::options().create(true).append(true).open(list).unwrap();
        writeln!(list, "{test}: {why}").unwrap();
    }
}
