//! The book: what its table of contents names is there, all pages are in it, and no link of theirs
//! leads to nowhere, neither in the sources nor among what the book is made of.

use mvirt_net::reference;
use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
};

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(page: &Path) -> String {
    fs::read_to_string(project().join(page)).unwrap_or_else(|e| panic!("{}: {e}", page.display()))
}

/// Markdown without blocks of code, and without code among words.
fn prose(text: &str) -> String {
    let outside = |(at, part): (usize, &'_ str)| (at % 2 == 0).then(|| part.to_owned());
    let blocks = text.split("```").enumerate().filter_map(outside).collect::<String>();
    blocks.split('`').enumerate().filter_map(outside).collect()
}

/// Where links of a page lead.
fn links(text: &str) -> Vec<String> {
    let after = prose(text);
    let links = after.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    links.map(str::to_owned).collect()
}

/// The anchors of a page's headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

/// A path without what is up and down again.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(plain.pop(), "{} leads out", path.display()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// The pages that people read.
fn pages() -> BTreeSet<PathBuf> {
    let mut pages: BTreeSet<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "clients/python/README.md"]
            .map(PathBuf::from)
            .into();
    for folder in ["docs", "docs/decisions"] {
        let entries = fs::read_dir(project().join(folder)).unwrap();
        let names = entries.map(|entry| Path::new(folder).join(entry.unwrap().file_name()));
        pages.extend(names.filter(|path| path.extension().is_some_and(|it| it == "md")));
    }
    pages
}

#[test]
fn every_page_is_a_chapter_once() {
    let chapters = links(&read(Path::new("book/src/SUMMARY.md")));
    let mut listed = BTreeSet::new();
    for chapter in &chapters {
        assert!(listed.insert(PathBuf::from(chapter)), "{chapter} is there twice");
    }
    // That is generated.
    assert!(listed.remove(Path::new("api.md")));
    assert_eq!(listed, pages());
    for chapter in listed {
        assert!(project().join("book/src").join(&chapter).exists(), "{}", chapter.display());
    }
}

#[test]
fn no_link_leads_to_nowhere() {
    let book = project().join("book/src");
    let mut count = 0;
    for page in pages() {
        let text = read(&page);
        for link in links(&text) {
            if link.starts_with("https://") {
                continue;
            }
            let told = format!("{} links to {link}", page.display());
            let (path, anchor) = link.split_once('#').map_or((&*link, None), |(p, a)| (p, Some(a)));
            let target = match path {
                "" => page.clone(),
                path => plain(&page.parent().unwrap().join(path)),
            };
            assert!(project().join(&target).exists(), "{told}");
            assert!(book.join(&target).exists(), "{told}, which is not in the book");
            if let Some(anchor) = anchor {
                assert!(anchors(&read(&target)).contains(anchor), "{told}");
            }
            count += 1;
        }
    }
    assert!(count > 100, "{count} links");
    let reference = reference::page();
    for link in links(&reference).iter().filter(|link| !link.starts_with('#')) {
        assert!(book.join(link).exists(), "the reference links to {link}");
    }
}

#[test]
fn links_are_told_from_code() {
    let text = "[a](b.md#c) `[x](y)` [d](e)\n```\n[f](g)\n```\n## What, it's a_b?\n";
    assert_eq!(links(text), ["b.md#c", "e"]);
    assert_eq!(anchors(text), BTreeSet::from(["what-its-a_b".to_owned()]));
    assert_eq!(plain(Path::new("docs/../proto/net.proto")), Path::new("proto/net.proto"));
}
