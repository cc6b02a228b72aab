//! A reader of OpenMetrics text, strict where the format is, and of the answers it comes in.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Says something, and returns all that comes back.
pub(super) fn talk(at: SocketAddr, octets: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // It may have been let go in the middle.
    stream.write_all(octets).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    String::from_utf8(answer).unwrap()
}

/// Asks for a path.
pub(super) fn get(at: SocketAddr, path: &str) -> String {
    talk(at, format!("GET {path} HTTP/1.1\r\nHost: {at}\r\n\r\n").as_bytes())
}

/// The status of an answer; 0 where there is none.
pub(super) fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// One value.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) labels: Vec<(String, String)>,
    value: f64,
}

/// All that was told.
#[derive(Debug)]
pub(super) struct Exposition {
    families: BTreeMap<String, String>,
    samples: Vec<Sample>,
}

impl Exposition {
    /// Reads an answer; what is not as the format wants it fails the test.
    pub(super) fn of(answer: &str) -> Self {
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
        let text = text.strip_suffix("# EOF\n").expect("it ends as it must");
        let (mut families, mut samples) = (BTreeMap::new(), Vec::<Sample>::new());
        let mut current = String::new();
        for line in text.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                let known = families.insert(name.to_owned(), kind.to_owned());
                assert!(known.is_none(), "{name} is there twice");
                current = name.to_owned();
            } else if !line.starts_with("# ") {
                let sample = Sample::of(line);
                let suffix = sample.name.strip_prefix(&*current);
                let suffix = suffix.unwrap_or_else(|| panic!("{line} is not of {current}"));
                let expected: &[&str] = match &*families[&current] {
                    "counter" => &["_total"],
                    "gauge" => &[""],
                    "info" => &["_info"],
                    "histogram" => &["_sum", "_count", "_bucket"],
                    other => panic!("{other}"),
                };
                assert!(expected.contains(&suffix), "{line}");
                samples.push(sample);
            }
        }
        let mut all: Vec<_> = samples.iter().map(|it| (&it.name, &it.labels)).collect();
        all.sort();
        assert!(all.windows(2).all(|two| two[0] != two[1]), "no series is there twice");
        Self { families, samples }
    }

    pub(super) fn families(&self) -> BTreeSet<String> {
        self.families.keys().cloned().collect()
    }

    pub(super) fn names(&self) -> BTreeSet<String> {
        self.samples.iter().map(|sample| sample.name.clone()).collect()
    }

    pub(super) fn samples(&self, name: &str) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| sample.name == name).collect()
    }

    /// The value of the series with these labels, in any order.
    pub(super) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut wanted: Vec<_> = labels.to_vec();
        wanted.sort_unstable();
        let is_it = |sample: &&&Sample| {
            let mut has: Vec<_> = sample.labels.iter().map(|(n, v)| (&**n, &**v)).collect();
            has.sort_unstable();
            has == wanted
        };
        self.samples(name).iter().find(is_it).map(|sample| sample.value)
    }
}

impl Sample {
    fn of(line: &str) -> Self {
        let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line}"));
        let (name, mut rest) = line.split_at(end);
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            while !rest.starts_with('}') {
                rest = rest.strip_prefix(',').unwrap_or(rest);
                let (name, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
                let (mut value, mut end, mut escaped) = (String::new(), None, false);
                for (at, c) in after.char_indices() {
                    match (escaped, c) {
                        (true, 'n') => value.push('\n'),
                        (true, '"' | '\\') => value.push(c),
                        (true, _) => panic!("{line}"),
                        (false, '\\') => {}
                        (false, '"') => {
                            end = Some(at);
                            break;
                        }
                        (false, c) => value.push(c),
                    }
                    escaped = !escaped && c == '\\';
                }
                labels.push((name.to_owned(), value));
                rest = &after[end.unwrap_or_else(|| panic!("{line}")) + 1..];
            }
            rest = &rest[1..];
        }
        let value = rest.strip_prefix(' ').and_then(|value| value.parse().ok());
        let value = value.unwrap_or_else(|| panic!("{line}"));
        Self { name: name.to_owned(), labels, value }
    }
}
