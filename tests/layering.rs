//! Who may use whom (docs/architecture.md): read from the sources, so that a wrong `use` fails before it is habit.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What decides about a frame is a function of its arguments.
const DECISIONS: &[&str] = &[
    "Instant",
    "OwnedFd",
    "Mutex",
    "tracing::",
    "tokio",
    "async ",
    "crate::control",
    "crate::model",
    "reactor::",
    "port::",
];

/// What carries frames knows nothing of what is in them.
const NO_PROTOCOL: &[&str] = &[
    "crate::control",
    "crate::model",
    "crate::store",
    "tokio",
    "gateway",
    "classify",
    "guard::",
    "vhost_user::session",
];

/// A folder or file, and what its files must not contain.
const RULES: &[(&str, &[&str])] = &[
    (
        "src/wire",
        &[
            "std::fs",
            "std::io",
            "std::time",
            "Instant",
            "tracing::",
            "Mutex",
            "tokio",
            "tonic",
            "crate::dataplane",
            "crate::control",
            "crate::model",
            "crate::store",
            "Vec<",
            "vec!",
            "Box<",
        ],
    ),
    (
        "src/dataplane/gateway",
        &[
            "Instant::now",
            "OwnedFd",
            "Mutex",
            "RwLock",
            "tracing::",
            "tokio",
            "async ",
            "crate::control",
            "crate::model",
            "crate::store",
            "reactor",
            "port::",
        ],
    ),
    (
        "src/dataplane/forward",
        &[
            "Instant::now",
            "OwnedFd",
            "Mutex",
            "RwLock",
            "tracing::",
            "tokio",
            "async ",
            "crate::control",
            "crate::model",
            "crate::store",
            "reactor::",
            "port::",
        ],
    ),
    ("src/dataplane/frame/classify.rs", DECISIONS),
    ("src/dataplane/forward/routed.rs", DECISIONS),
    ("src/dataplane/forward/guard.rs", DECISIONS),
    ("src/dataplane/forward/fast.rs", DECISIONS),
    ("src/dataplane/forward/rewrite.rs", DECISIONS),
    ("src/dataplane/frame/fragment.rs", DECISIONS),
    ("src/dataplane/frame/segment.rs", DECISIONS),
    ("src/dataplane/forward/withheld.rs", DECISIONS),
    (
        "src/dataplane/reactor/pipeline.rs",
        &["Instant::now", "Mutex", "RwLock", "tracing::", "tokio", "async "],
    ),
    (
        "src/dataplane/port",
        &[
            "crate::control",
            "crate::model",
            "crate::store",
            "dataplane::reactor",
            "super::reactor",
            "tokio",
            "gateway",
        ],
    ),
    ("src/dataplane/reactor/mod.rs", NO_PROTOCOL),
    ("src/dataplane/reactor/link.rs", NO_PROTOCOL),
    ("src/dataplane/reactor/uring.rs", NO_PROTOCOL),
    ("src/dataplane/reactor/sleep.rs", NO_PROTOCOL),
    ("src/dataplane/reactor/timers.rs", NO_PROTOCOL),
    ("src/dataplane/reactor/hugepage.rs", NO_PROTOCOL),
    ("src/dataplane/reactor/cursors.rs", NO_PROTOCOL),
    ("src/dataplane/reactor/stopwatch.rs", NO_PROTOCOL),
    ("src/dataplane/reactor/poll_window.rs", NO_PROTOCOL),
    ("src/dataplane/reactor/ways.rs", NO_PROTOCOL),
    (
        "src/dataplane",
        &[
            "crate::control",
            "crate::model",
            "crate::store",
            "crate::daemon",
            "crate::proto",
            "tonic",
        ],
    ),
    ("src/model.rs", &["tokio", "tonic", "crate::dataplane", "crate::control", "crate::store"]),
    ("src/store", &["tokio", "tonic", "crate::dataplane", "crate::control"]),
    (
        "src/control",
        &["dataplane::reactor", "dataplane::port", "dataplane::gateway", "dataplane::endpoint"],
    ),
];

/// The only files with unsafe code.
const UNSAFE: &[&str] = &[
    "src/dataplane/frame/copy.rs",
    "src/dataplane/frame/span.rs",
    "src/dataplane/port/vhost_user/memory/fault.rs",
    "src/dataplane/port/vhost_user/memory/mapping.rs",
    "src/dataplane/port/vhost_user/memory/mod.rs",
    "src/dataplane/port/vhost_user/queue/aio.rs",
    "src/dataplane/port/vhost_user/queue/ring.rs",
    "src/dataplane/reactor/link.rs",
    "src/dataplane/reactor/uring.rs",
];

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.into()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut files: Vec<_> = entries.flat_map(|entry| files(&entry.unwrap().path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    files
}

/// The code of a file: without comments and without its tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn layers_use_only_what_is_above_them() {
    for (place, forbidden) in RULES {
        for file in files(Path::new(place)) {
            let code = code(&file);
            for word in *forbidden {
                let found = code.lines().find(|line| line.contains(word));
                assert!(found.is_none(), "{} uses {word:?}: {}", file.display(), found.unwrap());
            }
        }
    }
}

#[test]
fn tokio_and_io_uring_never_meet_in_one_file() {
    for file in files(Path::new("src")) {
        let code = code(&file);
        assert!(!(code.contains("tokio::") && code.contains("io_uring::")), "{}", file.display());
    }
}

#[test]
fn unsafe_is_a_place() {
    for file in files(Path::new("src")) {
        let has =
            code(&file).lines().any(|line| line.contains("unsafe {") || line.contains("unsafe fn"));
        let may = UNSAFE.iter().any(|place| Path::new(place) == file);
        assert_eq!(has, may, "{}", file.display());
    }
}

#[test]
fn every_file_says_what_it_is_for_and_stays_short() {
    for file in files(Path::new("src")).into_iter().chain(files(Path::new("tests"))) {
        let text = fs::read_to_string(&file).unwrap();
        if file.starts_with("tests/fuzz/target") {
            continue;
        }
        assert!(text.starts_with("//!"), "{} has no head", file.display());
        assert!(text.lines().count() <= 700, "{} is too long", file.display());
    }
}

#[test]
fn every_drop_reason_is_documented() {
    let operations = fs::read_to_string("docs/operations.md").unwrap();
    for reason in mvirt_net::dataplane::frame::verdict::DropReason::ALL {
        assert!(operations.contains(&format!("`{}`", reason.name())), "{}", reason.name());
    }
}

#[test]
fn every_promise_names_tests_that_exist() {
    let mut tests = Vec::new();
    for file in files(Path::new("src")).into_iter().chain(files(Path::new("tests/it"))) {
        let text = fs::read_to_string(&file).unwrap();
        let named = if file.ends_with("mod.rs") { file.parent().unwrap() } else { &file };
        let module = named.file_stem().unwrap().to_string_lossy().into_owned();
        let functions = text.split("#[test]").skip(1).filter_map(|after| after.split("fn ").nth(1));
        tests
            .extend(functions.map(|name| format!("{module}::{}", name.split('(').next().unwrap())));
    }
    let page = fs::read_to_string("docs/reliability.md").unwrap();
    let named = page.split('`').skip(1).step_by(2).filter(|code| code.contains("::"));
    let mut count = 0;
    for name in named.filter(|name| !name.contains("model::Nic")) {
        let prefix = name.trim_end_matches(['…', '*']);
        let exists =
            tests.iter().any(|test| test.starts_with(prefix) && (prefix != name || test == name));
        assert!(exists, "docs/reliability.md names {name}");
        count += 1;
    }
    assert!(count > 40, "{count} tests are named");
}
