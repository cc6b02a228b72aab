//! Who may use whom (docs/architecture.md): read from the sources, so that a wrong `use` fails
//! before it is habit.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};
use syn::{
    UseTree,
    visit::{self, Visit},
};

/// Modules, crates and types that files of a place must not name, as contiguous parts of a path.
/// `async`: async code.
struct Rule {
    place: &'static str,
    never: &'static [&'static str],
}

/// What decides about a frame is a function of its arguments.
const PURE: &[&str] = &[
    "OwnedFd",
    "Mutex",
    "RwLock",
    "tracing",
    "tokio",
    "async",
    "Instant::now",
    "dataplane::reactor",
    "dataplane::port",
    "dataplane::endpoint",
];
/// What carries frames knows nothing of what is in them.
const NO_PROTOCOL: &[&str] = &[
    "tokio",
    "dataplane::endpoint",
    "dataplane::gateway",
    "frame::classify",
    "forward::guard",
    "vhost_user::session",
];

/// A fabric does the same for the same messages: nothing in it may differ from run to run.
const STATE_MACHINE: &[&str] = &[
    "OwnedFd",
    "Mutex",
    "RwLock",
    "tracing",
    "tokio",
    "async",
    "Instant::now",
    "SystemTime",
    "HashMap",
    "HashSet",
];

const RULES: &[Rule] = &[
    Rule {
        place: "src/wire",
        never: &[
            "fs",
            "std::io",
            "std::time",
            "tracing",
            "Mutex",
            "tokio",
            "tonic",
            "async",
            "crate::dataplane",
            "crate::control",
            "crate::model",
            "crate::store",
            "Vec",
            "vec",
            "Box",
        ],
    },
    Rule { place: "src/impair", never: STATE_MACHINE },
    Rule {
        place: "src/impair",
        never: &["crate::dataplane", "crate::control", "crate::model", "crate::switchyard"],
    },
    Rule { place: "src/switchyard/protocol.rs", never: STATE_MACHINE },
    Rule { place: "src/switchyard/body.rs", never: STATE_MACHINE },
    Rule { place: "src/switchyard/macs.rs", never: STATE_MACHINE },
    Rule { place: "src/switchyard/fabric", never: STATE_MACHINE },
    Rule { place: "src/switchyard/filter.rs", never: STATE_MACHINE },
    Rule { place: "src/switchyard/capture.rs", never: STATE_MACHINE },
    Rule { place: "src/switchyard/expression", never: STATE_MACHINE },
    Rule {
        place: "src/switchyard",
        never: &["crate::control", "crate::store", "crate::daemon", "crate::proto", "tonic"],
    },
    // What guests send is taken apart where nothing else is.
    Rule {
        place: "src/egress",
        never: &[
            "fs",
            "OwnedFd",
            "Mutex",
            "RwLock",
            "tracing",
            "tokio",
            "async",
            "rustix",
            "crate::dataplane",
            "crate::control",
            "crate::model",
            "crate::store",
        ],
    },
    Rule { place: "src/egress/connection/mod.rs", never: &["Instant::now"] },
    Rule { place: "src/egress/fragments.rs", never: &["Instant::now"] },
    Rule {
        place: "src/bin/mvirt-egress",
        never: &["fs::File", "tokio", "async", "mvirt_net::control", "mvirt_net::dataplane"],
    },
    Rule { place: "src/dataplane/gateway", never: PURE },
    Rule { place: "src/dataplane/forward", never: PURE },
    Rule { place: "src/dataplane/frame", never: PURE },
    Rule { place: "src/dataplane/frame", never: &["dataplane::forward", "dataplane::gateway"] },
    Rule { place: "src/dataplane/forward", never: &["dataplane::gateway"] },
    Rule {
        place: "src/dataplane/reactor/pipeline",
        never: &["Instant::now", "Mutex", "RwLock", "tracing", "tokio", "async"],
    },
    Rule {
        place: "src/dataplane/port",
        never: &["tokio", "dataplane::reactor", "dataplane::gateway", "dataplane::endpoint"],
    },
    Rule { place: "src/dataplane/reactor/mod.rs", never: NO_PROTOCOL },
    Rule { place: "src/dataplane/reactor/link.rs", never: NO_PROTOCOL },
    Rule { place: "src/dataplane/reactor/uring.rs", never: NO_PROTOCOL },
    Rule { place: "src/dataplane/reactor/sleep.rs", never: NO_PROTOCOL },
    Rule { place: "src/dataplane/reactor/timers.rs", never: NO_PROTOCOL },
    Rule { place: "src/dataplane/reactor/stopwatch.rs", never: NO_PROTOCOL },
    Rule { place: "src/dataplane/reactor", never: &["tokio", "dataplane::endpoint"] },
    Rule {
        place: "src/dataplane",
        never: &["crate::control", "crate::store", "crate::daemon", "crate::proto", "tonic"],
    },
    Rule {
        place: "src/services",
        never: &["crate::control", "crate::store", "crate::daemon", "crate::proto", "tonic"],
    },
    Rule {
        place: "src/balancing",
        never: &[
            "crate::dataplane",
            "crate::control",
            "crate::store",
            "crate::daemon",
            "crate::proto",
            "tonic",
        ],
    },
    // Whoever wrote a filter has it run on every frame.
    Rule { place: "src/bpf", never: STATE_MACHINE },
    Rule {
        place: "src/bpf",
        never: &["crate::dataplane", "crate::control", "crate::model", "crate::proto"],
    },
    Rule { place: "src/pcapng.rs", never: STATE_MACHINE },
    Rule {
        place: "src/capture",
        never: &["tokio", "async", "tracing", "fs", "crate::control", "crate::proto", "tonic"],
    },
    Rule { place: "src/balancing/maglev.rs", never: STATE_MACHINE },
    Rule { place: "src/balancing/health.rs", never: STATE_MACHINE },
    // Bodies are functions of a vNIC.
    Rule { place: "src/services/metadata", never: &["tokio", "async", "Mutex", "Instant::now"] },
    // It reads and writes text, and looks nothing up.
    Rule {
        place: "src/locator",
        never: &[
            "fs",
            "std::io",
            "OwnedFd",
            "tracing",
            "tokio",
            "tonic",
            "async",
            "uzers",
            "crate::account",
            "crate::config",
            "crate::proto",
            "crate::dataplane",
            "crate::control",
            "crate::store",
        ],
    },
    Rule {
        place: "src/model",
        never: &["tokio", "tonic", "crate::dataplane", "crate::control", "crate::store"],
    },
    // A program that asks a daemon is none.
    Rule {
        place: "src/client",
        never: &["crate::dataplane", "crate::control", "crate::store", "crate::daemon"],
    },
    Rule {
        place: "src/host_network",
        never: &["tokio", "tonic", "crate::control", "crate::store", "crate::daemon"],
    },
    Rule { place: "src/store", never: &["tokio", "tonic", "crate::dataplane", "crate::control"] },
    Rule {
        place: "src/control",
        never: &[
            "dataplane::reactor",
            "dataplane::port",
            "dataplane::gateway",
            "dataplane::endpoint",
        ],
    },
];

/// The only files with unsafe code.
const UNSAFE: &[&str] = &[
    "src/dataplane/frame/copy.rs",
    "src/dataplane/frame/slab.rs",
    "src/dataplane/frame/span.rs",
    "src/dataplane/port/descriptor.rs",
    "src/dataplane/port/interface.rs",
    "src/dataplane/port/mmsg.rs",
    "src/dataplane/port/packet.rs",
    "src/dataplane/port/tap.rs",
    "src/dataplane/port/vhost_user/memory/fault.rs",
    "src/dataplane/port/vhost_user/memory/mapping.rs",
    "src/dataplane/port/vhost_user/memory/mod.rs",
    "src/dataplane/port/vhost_user/queue/aio.rs",
    "src/dataplane/port/vhost_user/queue/ring.rs",
    "src/dataplane/port/vhost_user/queue/rx.rs",
    "src/dataplane/port/vhost_user/queue/tx.rs",
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

/// Those of a folder that somebody wrote.
fn written(folder: &Path) -> Vec<PathBuf> {
    let mut files = files(folder);
    files.retain(|file| !file.starts_with("tests/fuzz/target"));
    files
}

/// The code of a file: without comments and without its tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The module of a file, from the crate's root.
fn module_of(file: &Path) -> Vec<String> {
    let place = file.strip_prefix("src").unwrap().with_extension("");
    let parts = place.components().map(|part| part.as_os_str().to_str().unwrap().to_owned());
    parts.filter(|part| part != "mod" && part != "lib").collect()
}

/// Every path that code names, without that of its tests: imports one by one, and paths from the
/// crate's root where they are of the crate.
#[derive(Default)]
struct Names {
    module: Vec<String>,
    found: Vec<String>,
}

impl Names {
    fn of(module: &[&str], text: &str) -> Vec<String> {
        let module = module.iter().map(ToString::to_string).collect();
        let mut names = Self { module, found: Vec::new() };
        names.visit_file(&syn::parse_file(text).unwrap());
        names.found
    }

    fn of_file(file: &Path) -> Vec<String> {
        let module = module_of(file);
        let module = module.iter().map(String::as_str).collect::<Vec<_>>();
        Self::of(&module, &fs::read_to_string(file).unwrap())
    }

    fn note(&mut self, path: &[String]) {
        let supers = path.iter().take_while(|part| *part == "super").count();
        let base = match path.first().map(String::as_str) {
            Some("super") => &self.module[..self.module.len().saturating_sub(supers)],
            Some("self") => &self.module[..],
            _ => return self.found.push(path.join("::")),
        };
        let rest = &path[supers.max(1)..];
        self.found.push([&["crate".to_owned()][..], base, rest].concat().join("::"));
    }

    fn note_tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.note_tree(&with(&path.ident), &path.tree),
            UseTree::Name(name) if name.ident == "self" => self.note(before),
            UseTree::Name(name) => self.note(&with(&name.ident)),
            UseTree::Rename(name) => self.note(&with(&name.ident)),
            UseTree::Glob(_) => self.note(before),
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.note_tree(before, tree));
            }
        }
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    let is_test = |list: &syn::MetaList| list.tokens.to_string().contains("test");
    let mut conditions = attributes.iter().filter(|attribute| attribute.path().is_ident("cfg"));
    conditions.any(|attribute| attribute.meta.require_list().is_ok_and(is_test))
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test(&item.attrs) {
            self.note_tree(&[], &item.tree);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            self.module.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts = path.segments.iter().map(|part| part.ident.to_string()).collect::<Vec<_>>();
        self.note(&parts);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        // What is in it may be no Rust: paths are found among its words.
        let words = item.tokens.to_string().replace(" :: ", "::");
        for word in words.split(|c: char| !(c.is_alphanumeric() || "_:".contains(c))) {
            if word.contains("::") {
                self.note(&word.split("::").map(str::to_owned).collect::<Vec<_>>());
            }
        }
        visit::visit_macro(self, item);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        if signature.asyncness.is_some() {
            self.found.push("async".into());
        }
        visit::visit_signature(self, signature);
    }

    fn visit_expr_async(&mut self, block: &'ast syn::ExprAsync) {
        self.found.push("async".into());
        visit::visit_expr_async(self, block);
    }
}

/// Whether the parts of `wanted` follow one another in `path`.
fn names(path: &str, wanted: &str) -> bool {
    format!("::{path}::").contains(&format!("::{wanted}::"))
}

#[test]
fn layers_use_only_what_is_above_them() {
    for Rule { place, never } in RULES {
        for file in files(Path::new(place)) {
            let found = Names::of_file(&file);
            for wanted in *never {
                let path = found.iter().find(|path| names(path, wanted));
                assert!(path.is_none(), "{} names {}", file.display(), path.unwrap());
            }
        }
    }
}

#[test]
fn a_forbidden_name_is_found_wherever_it_stands() {
    let found = |code: &str, wanted: &str| {
        Names::of(&["dataplane", "forward", "fib"], code).iter().any(|path| names(path, wanted))
    };
    for code in [
        "use crate::{addr::MacAddr, control::{self, Handle}};",
        "use crate::{addr::MacAddr, control};",
        "use super::super::super::control::Handle;",
        "fn f() { crate::control::start(); }",
        "fn f(handle: &crate::control::Handle) {}",
        "fn f() { println!(\"{}\", crate::control::X); }",
        "mod inner { use super::super::super::super::control::Handle as Other; }",
    ] {
        assert!(found(code, "crate::control"), "{code}");
    }
    assert!(found("use super::super::{frame::Span, reactor::Handle};", "dataplane::reactor"));
    assert!(found("use std::time::Instant; fn f() { Instant::now(); }", "Instant::now"));
    assert!(found("async fn f() {}", "async"));
    assert!(!found("use crate::controls::Handle; fn f(control: u8) {}", "crate::control"));
    assert!(!found("#[cfg(test)] mod tests { use crate::control::Handle; }", "crate::control"));
}

/// Files that use each other, by whatever way, can only be understood together. A folder's `mod.rs`
/// and what is in the folder are one house: what it hands on is not its own.
#[test]
fn no_two_files_use_each_other() {
    let all = files(Path::new("src"));
    let name = |file: &PathBuf| format!("crate::{}", module_of(file).join("::"));
    let modules = all.iter().map(name).collect::<Vec<_>>();
    let target = |path: &str| {
        let fits = (0..modules.len())
            .filter(|at| path == modules[*at] || path.starts_with(&format!("{}::", modules[*at])));
        fits.max_by_key(|at| modules[*at].len())
    };
    let within =
        |inner: usize, outer: usize| modules[inner].starts_with(&format!("{}::", modules[outer]));
    let uses = |from: usize| {
        let found = Names::of_file(&all[from]);
        let to = found.iter().filter_map(|path| target(path));
        to.filter(|to| *to != from && !within(from, *to)).collect::<BTreeSet<_>>()
    };
    let arrows = (0..all.len()).map(uses).collect::<Vec<_>>();
    for start in 0..all.len() {
        let (mut reached, mut next) = (BTreeSet::new(), vec![start]);
        while let Some(at) = next.pop() {
            next.extend(arrows[at].iter().filter(|to| reached.insert(**to)));
        }
        let circle = reached.iter().map(|at| &modules[*at][..]).collect::<Vec<_>>();
        assert!(
            !reached.contains(&start),
            "{} comes back to itself among {circle:?}",
            modules[start]
        );
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
    for file in ["src", "tests", "benches"].iter().flat_map(|place| written(Path::new(place))) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//!"), "{} has no head", file.display());
        assert!(text.lines().count() <= 700, "{} is too long", file.display());
    }
}

/// rustfmt breaks code, but no strings, no comments, and little of what is in macros.
#[test]
fn no_line_is_wider_than_a_hundred_columns() {
    for file in ["src", "tests", "benches"].iter().flat_map(|place| written(Path::new(place))) {
        let text = fs::read_to_string(&file).unwrap();
        let wide = text.lines().position(|line| line.chars().count() > 100);
        assert!(wide.is_none(), "{}:{}", file.display(), wide.unwrap_or_default() + 1);
    }
}

#[test]
fn every_drop_reason_is_documented() {
    let operations = fs::read_to_string("docs/operations.md").unwrap();
    for reason in mvirt_net::dataplane::frame::verdict::DropReason::ALL {
        // In the same words: what commands print of it is what is found there.
        let row = format!("| `{}` | {} |\n", reason.name(), reason.meaning());
        assert!(operations.contains(&row), "docs/operations.md lacks {row}");
    }
}

#[test]
fn every_source_that_a_page_names_exists() {
    let sources: Vec<_> = ["src", "tests", "benches"].map(|place| files(Path::new(place))).concat();
    let mut pages = vec![PathBuf::from("CONTRIBUTING.md")];
    for folder in ["docs", "docs/decisions"] {
        pages.extend(fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    }
    let mut count = 0;
    for page in pages.iter().filter(|page| page.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(page).unwrap();
        let named = text.split('`').skip(1).step_by(2).filter(|code| code.ends_with(".rs"));
        // Not those that stand for several.
        for name in named.filter(|name| !name.contains(['{', '*', ' ']) && !name.contains("NAME")) {
            let exists = sources.iter().any(|source| source.ends_with(name));
            assert!(exists, "{} names {name}", page.display());
            count += 1;
        }
    }
    assert!(count > 40, "{count} sources are named");
}

#[test]
fn every_promise_names_tests_that_exist() {
    let mut tests = Vec::new();
    for file in files(Path::new("src")).into_iter().chain(files(Path::new("tests"))) {
        let text = fs::read_to_string(&file).unwrap();
        // A folder's tests are called after it, wherever in it they stand.
        let is_of_folder = file.ends_with("mod.rs") || file.ends_with("tests.rs");
        let named = if is_of_folder { file.parent().unwrap() } else { &file };
        let module = named.file_stem().unwrap().to_string_lossy().into_owned();
        let functions = text.split("#[test]").skip(1).filter_map(|after| after.split("fn ").nth(1));
        tests
            .extend(functions.map(|name| format!("{module}::{}", name.split('(').next().unwrap())));
    }
    let page = fs::read_to_string("docs/reliability.md").unwrap();
    let named = page.split('`').skip(1).step_by(2).filter(|code| code.contains("::"));
    let mut count = 0;
    for name in named {
        let prefix = name.trim_end_matches(['…', '*']);
        let exists =
            tests.iter().any(|test| test.starts_with(prefix) && (prefix != name || test == name));
        assert!(exists, "docs/reliability.md names {name}");
        count += 1;
    }
    assert!(count > 40, "{count} tests are named");
}
