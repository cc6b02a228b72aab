//! The file of a program's flags, `net.toml`: TOML without tables, a key a flag. Takes its text and
//! the command, and returns what it says of which flag, each with its line; the first fault is
//! refused with its line, its key, what is there and what would be right.

use super::{is_key, is_list, is_one_list, is_switch, value_name, words};
use crate::printable::printable;
use clap::{
    Arg, Command, Id,
    builder::Resettable,
    error::{ContextKind, ContextValue, ErrorKind},
};
use std::ffi::OsString;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Values of one flag.
// Each may have to be looked up in a database.
const MOST_VALUES: usize = 1024;
/// Characters of a refused value that are shown.
const SHOWN: usize = 60;

/// What the file says of a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Of which, as clap knows it.
    pub id: Id,
    /// As the file knows it.
    pub key: String,
    /// Where its value begins.
    pub line: usize,
    /// What it says.
    pub told: Told,
}

/// What a flag is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A switch: that it is on.
    On,
    /// That it is off, as it is without a word.
    Off,
    /// Its values.
    Values(Vec<String>),
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// In which line.
    pub line: usize,
    /// What.
    pub text: String,
}

impl Fault {
    /// Returns the fault with the file's name.
    pub fn in_file(&self, file: &str) -> String {
        format!("{file}:{}: {}", self.line, self.text)
    }
}

/// Returns what a text says of which flags of `command`, in its order.
pub fn parse(text: &str, command: &Command) -> Result<Vec<Given>, Fault> {
    let lines = Lines(text);
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(text.len(), |span| span.start);
        lines.fault(at, printable(error.message()))
    })?;
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    // What is in the environment is not the file's.
    let checking = command
        .clone()
        .mut_args(|argument| argument.env(Resettable::Reset).value_delimiter(Resettable::Reset));
    let mut given = Vec::new();
    for (key, value) in entries {
        let at = key.span().start;
        let shown = printable(key.get_ref());
        if let DeValue::Table(_) = value.get_ref() {
            return Err(lines.fault(at, format!("{shown}: expected key = value, got a table")));
        }
        let is_named = |flag: &&Arg| is_key(flag) && flag.get_long() == Some(&**key.get_ref());
        let Some(flag) = command.get_arguments().find(is_named) else {
            return Err(lines.fault(at, format!("{shown}: {}", unknown(&checking, key.get_ref()))));
        };
        let told = told(flag, &checking, value)
            .map_err(|(at, text)| lines.fault(at, format!("{shown}: {text}")))?;
        let (id, key) = (flag.get_id().clone(), key.get_ref().to_string());
        given.push(Given { id, key, line: lines.number(value.span().start), told });
    }
    Ok(given)
}

/// Returns the words of a command line that say the same.
pub fn arguments(key: &str, told: &Told) -> Vec<OsString> {
    match told {
        Told::On => vec![format!("--{key}").into()],
        Told::Off => Vec::new(),
        Told::Values(values) => {
            values.iter().map(|value| format!("--{key}={value}").into()).collect()
        }
    }
}

/// The lines of a text, numbered from 1.
struct Lines<'a>(&'a str);

impl Lines<'_> {
    fn number(&self, at: usize) -> usize {
        let before = &self.0.as_bytes()[..at.min(self.0.len())];
        1 + before.iter().filter(|octet| **octet == b'\n').count()
    }

    fn fault(&self, at: usize, text: String) -> Fault {
        Fault { line: self.number(at), text }
    }
}

/// Says what is wrong with a key that is none.
fn unknown(command: &Command, key: &str) -> String {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !key.is_empty() && key.chars().all(is_name) {
        if command.get_arguments().any(|flag| flag.get_long() == Some(key) && !flag.is_hide_set()) {
            return format!("not in a file: --{key} is for the command line");
        }
        // clap knows what is written alike.
        let asked = command.clone().try_get_matches_from(["", &format!("--{key}")]);
        let alike = asked.err().and_then(|error| match error.get(ContextKind::SuggestedArg) {
            Some(ContextValue::String(flag)) => flag.strip_prefix("--").map(str::to_owned),
            _ => None,
        });
        let is_ours = |name: &String| {
            let mut flags = command.get_arguments();
            flags.any(|flag| flag.get_long() == Some(name) && !flag.is_hide_set())
        };
        if let Some(alike) = alike.filter(is_ours) {
            return format!("unknown; is it {alike}?");
        }
    }
    "unknown; net.toml(5) has all keys".into()
}

/// A value's place, and what is wrong with it.
type Refused = (usize, String);

/// Returns what a flag is told, checked.
fn told(flag: &Arg, command: &Command, value: &Spanned<DeValue<'_>>) -> Result<Told, Refused> {
    let at = value.span().start;
    if is_switch(flag) {
        return match value.get_ref() {
            DeValue::Boolean(true) => Ok(Told::On),
            DeValue::Boolean(false) => Ok(Told::Off),
            other => Err((at, format!("expected true or false, got {}", shown(other)))),
        };
    }
    let items = match value.get_ref() {
        DeValue::Array(items) if !is_list(flag) => {
            return Err((at, format!("expected one value, got {} in a list", items.len())));
        }
        DeValue::Array(items) if items.is_empty() => {
            return Err((
                at,
                "expected values, got none; without the line the default counts".into(),
            ));
        }
        DeValue::Array(items) if items.len() > MOST_VALUES => {
            return Err((at, format!("expected at most {MOST_VALUES}, got {}", items.len())));
        }
        DeValue::Array(items) => items.iter().collect(),
        _ => vec![value],
    };
    let texts = items.iter().map(|item| Ok((item.span().start, text(item)?)));
    let texts = texts.collect::<Result<Vec<_>, Refused>>()?;
    // Of one flag whose value is a list, parts; of one that is given several times, values.
    let values = match value.get_ref() {
        DeValue::Array(_) if is_one_list(flag) => {
            let parts: Vec<_> = texts.iter().map(|(_, text)| text.as_str()).collect();
            vec![(at, parts.join(","))]
        }
        DeValue::Array(_) => texts,
        _ => texts.into_iter().flat_map(|(at, text)| parted(flag, at, &text)).collect(),
    };
    let odd =
        items.iter().find(|it| !matches!(it.get_ref(), DeValue::String(_) | DeValue::Integer(_)));
    check(flag, command, &values, value)?;
    match odd {
        // A flag that takes any text as a path would take this.
        Some(odd) => Err((
            odd.span().start,
            format!("expected {} as a text, got {}", value_name(flag), shown(odd.get_ref())),
        )),
        None => Ok(Told::Values(values.into_iter().map(|(_, text)| text).collect())),
    }
}

/// Returns the values that a flag makes of one text.
fn parted(flag: &Arg, at: usize, text: &str) -> Vec<(usize, String)> {
    match flag.get_value_delimiter() {
        Some(delimiter) => text.split(delimiter).map(|part| (at, part.to_owned())).collect(),
        None => vec![(at, text.to_owned())],
    }
}

/// Returns a value as a flag would have it.
fn text(value: &Spanned<DeValue<'_>>) -> Result<String, Refused> {
    let refused = |expected: &str| {
        Err((value.span().start, format!("expected {expected}, got {}", shown(value.get_ref()))))
    };
    match value.get_ref() {
        DeValue::String(text) if text.is_empty() => refused("something"),
        // No path, name or address has one.
        DeValue::String(text) if text.contains('\0') => refused("a text without \\0"),
        DeValue::String(text) => Ok(text.to_string()),
        // 0o660 is 432, which nobody means.
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Integer(_) => refused("a decimal number, or a text"),
        DeValue::Array(_) | DeValue::Table(_) => refused("a text or a number"),
        // What is no text for people may be what the flag's own parser can say more about.
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Boolean(is_on) => Ok(is_on.to_string()),
        DeValue::Datetime(time) => Ok(time.to_string()),
    }
}

/// Has the flag's own parser look at values.
fn check(
    flag: &Arg,
    command: &Command,
    values: &[(usize, String)],
    whole: &Spanned<DeValue<'_>>,
) -> Result<(), Refused> {
    let key = flag.get_long().unwrap_or_default();
    let told = Told::Values(values.iter().map(|(_, text)| text.clone()).collect());
    let line = [OsString::new()].into_iter().chain(arguments(key, &told));
    let error = match command.clone().try_get_matches_from(line) {
        Err(error) if error.kind() != ErrorKind::MissingRequiredArgument => error,
        _ => return Ok(()),
    };
    let refused = words::refused(&error).unwrap_or_default();
    let at = values.iter().find(|(_, text)| text == refused).map_or(whole.span().start, |it| it.0);
    let got = match whole.get_ref() {
        DeValue::Array(_) => quoted(refused),
        other => shown(other),
    };
    Err((at, format!("{}, got {got}", words::expected(&error))))
}

/// Returns a value as it is written in a file, on one line and not too long.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => cut(&number.to_string()),
        DeValue::Float(number) => cut(number.as_str()),
        DeValue::Boolean(is_on) => is_on.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", cut(text))
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => printable(&text[..end]) + "…",
        None => printable(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use clap::CommandFactory as _;
    use proptest::prelude::*;

    fn refused(text: &str) -> String {
        parse(text, &Config::command()).map_or_else(
            |fault| fault.in_file("net.toml"),
            |given| panic!("{text:?} is taken for {given:?}"),
        )
    }

    /// The command line that says the same.
    fn line(text: &str) -> String {
        let given = parse(text, &Config::command()).unwrap_or_else(|fault| panic!("{fault:?}"));
        let words = given.iter().flat_map(|given| arguments(&given.key, &given.told));
        let words = words.map(|word| word.into_string().unwrap());
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_key_is_a_flag_and_an_array_a_list() {
        assert_eq!(line("# nothing\n"), "");
        for (text, expected) in [
            ("reactors = 4", "--reactors=4"),
            ("reactors = \"auto\"", "--reactors=auto"),
            ("busy-poll = 1_000", "--busy-poll=1000"),
            ("listen = [\"[::1]:1\", 'unix:/a,b']", "--listen=[::1]:1 --listen=unix:/a,b"),
            ("listen = \"[::1]:1,[::1]:2\"", "--listen=[::1]:1 --listen=[::1]:2"),
            ("allow-uid = [0, \"root\"]", "--allow-uid=0 --allow-uid=root"),
            ("cpus = [2, \"4-6\"]", "--cpus=2,4-6"),
            ("cpus = \"2-5\"", "--cpus=2-5"),
            ("egress-sysctl = true", "--egress-sysctl"),
            ("egress-sysctl = false", ""),
            ("\"socket-dir\" = \"-x y\"", "--socket-dir=-x y"),
            ("tls-cert = \"/a\"", "--tls-cert=/a"),
        ] {
            assert_eq!(line(text), expected, "{text}");
        }
        let given = parse("max-nics = 5\n\nlisten = [\n \"[::1]:1\",\n]\n", &Config::command());
        let lines: Vec<_> = given.unwrap().iter().map(|it| (it.key.clone(), it.line)).collect();
        assert_eq!(lines, [("max-nics".into(), 1), ("listen".into(), 3)]);
    }

    #[test]
    fn a_fault_is_told_with_its_line_and_what_would_be_right() {
        for (text, expected) in [
            (
                "\n\nreactors = \"many\"",
                "net.toml:3: reactors: expected auto or 1-64, got \"many\"",
            ),
            ("reactors = 65", "net.toml:1: reactors: expected auto or 1-64, got 65"),
            ("busy-poll = 1000001", "net.toml:1: busy-poll: expected 0-1000000, got 1000001"),
            ("max-guest-memory = 0", "net.toml:1: max-guest-memory: expected 1-1048575, got 0"),
            ("max-nics = \"many\"", "net.toml:1: max-nics: expected a whole number, got \"many\""),
            ("max-nics = 1.5", "net.toml:1: max-nics: expected a whole number, got 1.5"),
            ("hugepages = true", "net.toml:1: hugepages: expected auto, on or off, got true"),
            ("egress = 'tan'", "net.toml:1: egress: expected auto, tun, user or off, got \"tan\""),
            ("egress-sysctl = 1", "net.toml:1: egress-sysctl: expected true or false, got 1"),
            (
                "egress-host-loopback = 'x'",
                "net.toml:1: egress-host-loopback: expected an IP address, got \"x\"",
            ),
            (
                "listen = [\n\"[::1]:1\",\n\"nowhere\"]",
                "net.toml:3: listen: expected ADDRESS:PORT like [::1]:50054, or unix:/path, \
                 got \"nowhere\"",
            ),
            (
                "listen = []",
                "net.toml:1: listen: expected values, got none; without the line the default \
                 counts",
            ),
            ("reactors = [1]", "net.toml:1: reactors: expected one value, got 1 in a list"),
            ("tls-cert = true", "net.toml:1: tls-cert: expected FILE as a text, got true"),
            ("port-dir = [1.5]", "net.toml:1: port-dir: expected DIR as a text, got 1.5"),
            ("tls-cert = ''", "net.toml:1: tls-cert: expected something, got \"\""),
            (
                "tls-cert = \"\\u0000\"",
                "net.toml:1: tls-cert: expected a text without \\0, got \"\\u{0}\"",
            ),
            (
                "socket-mode = 0o660",
                "net.toml:1: socket-mode: expected a decimal number, or a text, got 0o660",
            ),
            ("[reactors]\nx = 1", "net.toml:1: reactors: expected key = value, got a table"),
            ("reactors.x = 1", "net.toml:1: reactors: expected key = value, got a table"),
            ("reactor = 1", "net.toml:1: reactor: unknown; is it reactors?"),
            ("busy_poll = 1", "net.toml:1: busy_poll: unknown; is it busy-poll?"),
            ("colour = 1", "net.toml:1: colour: unknown; net.toml(5) has all keys"),
            ("\"\\u001b[2J\" = 1", "net.toml:1: \\u{1b}[2J: unknown; net.toml(5) has all keys"),
            (
                "config = '/x'",
                "net.toml:1: config: not in a file: --config is for the command line",
            ),
            (
                "cleanup = true",
                "net.toml:1: cleanup: not in a file: --cleanup is for the command line",
            ),
            ("take-over = true", "net.toml:1: take-over: unknown; net.toml(5) has all keys"),
        ] {
            assert_eq!(refused(text), expected, "{text}");
        }
        let long = format!("reactors = \"{}\"", "é".repeat(100));
        assert!(
            refused(&long).ends_with(&format!("got \"{}…\"", "é".repeat(60))),
            "{}",
            refused(&long)
        );
        for text in
            ["reactors = ", "= 1", "reactors = 1\nreactors = 2", "x = [[[[", "\u{feff}=", "a"]
        {
            let lines = text.lines().count();
            assert!((1..=lines).any(|at| refused(text).starts_with(&format!("net.toml:{at}: "))));
        }
    }

    #[test]
    fn what_is_long_or_deep_is_refused_soon() {
        let many = format!("allow-uid = [{}]", "0,".repeat(500_000));
        assert_eq!(refused(&many), "net.toml:1: allow-uid: expected at most 1024, got 500000");
        for text in
            ["[".repeat(1 << 20), "a=".to_owned() + &"[".repeat(1 << 20), "a.".repeat(1 << 19)]
        {
            assert!(refused(&text).starts_with("net.toml:1: "));
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in ".{0,200}") {
            // Whatever it says.
            parse(&text, &Config::command()).ok();
        }

        #[test]
        fn what_is_taken_is_what_the_flags_take(
            key in prop::sample::select(
                Config::command().get_arguments().filter(|it| is_key(it))
                    .map(|it| it.get_long().unwrap().to_owned()).collect::<Vec<_>>()
            ),
            value in prop_oneof![
                "[1-9][0-9]{0,19}", "\"[ -!#-\\[\\]-~]{0,20}\"", "(true|false|1e9|1979-05-27)",
                "\\[([1-9][0-9]{0,2},){0,3}\\]", "\\[(\"[a-z0-9.:/]{0,9}\",){0,3}\\]",
            ],
        ) {
            let text = format!("{key} = {value}\n");
            let parsed = parse(&text, &Config::command());
            for given in parsed.iter().flatten() {
                prop_assert_eq!((&given.key, given.line), (&key, 1));
                let line = [OsString::from("x")].into_iter().chain(arguments(&key, &given.told));
                let taken = Config::command().try_get_matches_from(line);
                let missing = ErrorKind::MissingRequiredArgument;
                let is_taken = taken.map_or_else(|error| error.kind() == missing, |_| true);
                prop_assert!(is_taken, "{}", text);
            }
            if let Err(fault) = &parsed {
                prop_assert!(fault.text.starts_with(&format!("{key}: ")), "{}", fault.text);
            }
        }
    }
}
