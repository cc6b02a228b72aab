//! The files of the page, as they are in `page/`. Nothing is built, and nothing comes from
//! elsewhere.

use super::super::answer::{Answer, whole};

macro_rules! files {
    ($($name:literal: $kind:ident),+ $(,)?) => {
        &[$(($name, $kind, include_bytes!(concat!("page/", $name)).as_slice())),+]
    };
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

/// By name.
const FILES: &[(&str, &str, &[u8])] = files! {
    "index.html": HTML,
    "console.css": CSS,
    "icon.svg": SVG,
    "main.js": JS,
    "ask.js": JS,
    "capture.js": JS,
    "dom.js": JS,
    "events.js": JS,
    "explain.js": JS,
    "format.js": JS,
    "leases.js": JS,
    "network.js": JS,
    "nic.js": JS,
    "overview.js": JS,
    "plot.js": JS,
    "reactors.js": JS,
    "state.js": JS,
    "table.js": JS,
    "topology.js": JS,
    "uplot/uPlot.iife.min.js": JS,
    "uplot/uPlot.min.css": CSS,
    "uplot/LICENSE": TEXT,
};

/// Returns the file of a path.
pub(super) fn find(path: &str) -> Option<Answer> {
    let name = match path.strip_prefix('/')? {
        "" => "index.html",
        name => name,
    };
    let (_, kind, content) = FILES.iter().find(|(known, ..)| *known == name)?;
    Some(whole(kind, *content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_file_is_served_and_names_nothing_from_elsewhere() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/web/console/page");
        let mut found = 0;
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            if entry.path().is_dir() {
                continue;
            }
            found += 1;
            assert!(find(&format!("/{name}")).is_some(), "{name} is not served");
            let text = fs::read_to_string(entry.path()).unwrap();
            let code = text.replace("http://www.w3.org/2000/svg", "");
            for never in ["http://", "https://", "innerHTML", "eval(", "style=", "onclick="] {
                assert!(!code.contains(never), "{name} has {never}");
            }
        }
        assert_eq!(found, FILES.iter().filter(|(name, ..)| !name.contains('/')).count());
        assert!(find("/../Cargo.toml").is_none() && find("").is_none());
    }
}
