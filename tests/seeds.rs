//! `docs/seeds.md` says which test shows that a promise is kept: compared with the tests, whose
//! comments name the rows.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

const PAGE: &str = "docs/seeds.md";
/// Written in the last column where no test shows it.
const NOT: &str = "not";

fn project() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// Returns the rows that a comment names: `// seed H.4.10, H.4.19–29: …`.
fn rows(line: &str) -> Vec<String> {
    let Some((_, named)) = line.split_once("seed H.") else { return Vec::new() };
    let named = format!("H.{named}");
    let mut found = Vec::new();
    for word in named.split([',', ' ', ':']).filter(|word| word.starts_with("H.")) {
        let (first, last) = word.split_once('–').unwrap_or((word, ""));
        let (section, number) = first.rsplit_once('.').unwrap();
        let number: u32 = number.parse().unwrap_or_else(|_| panic!("{line}"));
        let last = last.parse().unwrap_or(number);
        found.extend((number..=last).map(|number| format!("{section}.{number}")));
    }
    found
}

/// Returns the name of a test that is defined in a line, in Rust or in Python.
fn test(line: &str) -> Option<&str> {
    let line = line.trim_start().trim_start_matches("async ");
    let name = line.strip_prefix("fn ").or_else(|| line.strip_prefix("def "))?;
    name.split('(').next()
}

/// Returns the sources below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            // What cargo and fuzzers make.
            if !["target", "corpus", "artifacts"].contains(&&*name) {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") || name.ends_with(".py") {
            found.push(path);
        }
    }
}

/// Returns the tests that show each row.
fn shown() -> BTreeMap<String, BTreeSet<String>> {
    let project = project();
    let mut files = Vec::new();
    ["src", "tests", "clients"]
        .iter()
        .for_each(|folder| sources(&project.join(folder), &mut files));
    let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in files {
        let file = path.strip_prefix(&project).unwrap().display().to_string();
        // This one names rows as examples.
        if file == "tests/seeds.rs" {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        // A comment is above its test, or within it: then the next name is another test's.
        let (mut waiting, mut last) = (Vec::new(), None);
        for line in text.lines() {
            let named = rows(line);
            if !named.is_empty() {
                let within = line.starts_with(' ') && last.is_some() && !is_in_module(&text, line);
                if within {
                    let test: &String = last.as_ref().unwrap();
                    named.into_iter().for_each(|row| {
                        shown.entry(row).or_default().insert(test.clone());
                    });
                } else {
                    waiting.extend(named);
                }
            }
            if let Some(name) = test(line) {
                let name = format!("`{file}` {name}");
                for row in waiting.drain(..) {
                    shown.entry(row).or_default().insert(name.clone());
                }
                last = Some(name);
            }
        }
        assert!(waiting.is_empty(), "{file}: {waiting:?} are named below the last test");
    }
    shown
}

/// Whether a comment is as far to the right as the tests of a module.
fn is_in_module(text: &str, line: &str) -> bool {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut after = text.lines().skip_while(|other| *other != line).skip(1);
    // Above a test, attributes and comments are all that is between.
    let next = after.find(|line| {
        let line = line.trim_start();
        !(line.starts_with("//") || line.starts_with("#[") || line.starts_with('@'))
    });
    next.is_some_and(|next| test(next).is_some() && indent(next) == indent(line))
}

#[test]
fn comments_name_rows() {
    assert_eq!(rows("    // seed H.4.10, H.4.18"), ["H.4.10", "H.4.18"]);
    assert_eq!(rows("// seed H.4.28–30: the refusals"), ["H.4.28", "H.4.29", "H.4.30"]);
    assert_eq!(rows("// a seed"), [""; 0]);
    assert_eq!(test("    async fn it_is_so() {"), Some("it_is_so"));
    assert_eq!(test("def test_it(self):"), Some("test_it"));
}

#[test]
fn the_page_says_which_test_shows_each_promise() {
    let path = project().join(PAGE);
    let page = fs::read_to_string(&path).unwrap();
    let mut shown = shown();
    let line = |line: &str| {
        let Some(row) = line.strip_prefix("| H.") else { return line.to_owned() };
        let mut cells = row.trim_end_matches('|').split(" | ");
        let (row, promise) = (format!("H.{}", cells.next().unwrap()), cells.next().unwrap());
        let said = cells.next().unwrap_or_default().trim();
        let said = match shown.remove(&row) {
            Some(tests) => tests.into_iter().collect::<Vec<_>>().join("; "),
            None if said.starts_with(NOT) => said.to_owned(),
            None => format!("{NOT}: no test names it"),
        };
        format!("| {row} | {promise} | {said} |")
    };
    let right: Vec<_> = page.lines().map(line).collect();
    let right = right.join("\n") + "\n";
    assert!(shown.is_empty(), "tests name rows that {PAGE} does not have: {shown:?}");
    if env::var_os("MVIRT_WRITE_SEEDS").is_some() {
        fs::write(&path, &right).unwrap();
    } else {
        let differs = page.lines().zip(right.lines()).find(|(page, right)| page != right);
        assert_eq!(differs, None, "MVIRT_WRITE_SEEDS=1 cargo test --test seeds mends it");
    }
    // Each says why it is not kept.
    assert!(!right.contains("not: no test names it"), "{PAGE}: say why");
}
