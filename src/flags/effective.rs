//! All values that are in force, and where each is from: as a file that would say the same.

use super::{Gathered, is_key, is_switch};
use clap::{Arg, ArgAction, parser::ValueSource};

/// Where comments begin, for values that leave room for them.
const COMMENTS: usize = 48;

/// Returns a line for each flag: its value and where that is from, where it has one. `computed` are
/// values of flags that were not given, and have no default of clap's.
pub fn show(gathered: &Gathered, computed: &[(&str, String)]) -> String {
    let flags = gathered.command.get_arguments().filter(|flag| is_key(flag));
    flags.map(|flag| line(gathered, flag, computed)).collect()
}

fn line(gathered: &Gathered, flag: &Arg, computed: &[(&str, String)]) -> String {
    let (id, key) = (flag.get_id().as_str(), flag.get_long().unwrap_or_default());
    let (matches, file) = (&gathered.matches, gathered.given.iter().find(|it| it.key == key));
    let from = match (matches.value_source(id), file, &gathered.file) {
        (_, Some(given), Some(file)) => format!("{}:{}", file.display(), given.line),
        (Some(ValueSource::CommandLine), ..) => format!("--{key}"),
        (Some(ValueSource::EnvVariable), ..) => {
            flag.get_env().unwrap_or_default().to_string_lossy().into_owned()
        }
        _ => "default".into(),
    };
    let texts: Vec<String> = if is_switch(flag) {
        vec![matches.get_flag(id).to_string()]
    } else {
        let given = matches.get_raw(id).into_iter().flatten();
        let given: Vec<_> = given.map(|value| value.to_string_lossy().into_owned()).collect();
        let computed = computed.iter().filter(|(computed, _)| *computed == key);
        if given.is_empty() { computed.map(|(_, value)| value.clone()).collect() } else { given }
    };
    if texts.is_empty() {
        return format!("# {key}: none\n");
    }
    let values = texts.iter().map(|text| value(flag, text)).collect::<Vec<_>>().join(", ");
    let is_several = matches!(flag.get_action(), ArgAction::Append);
    let values = if is_several { format!("[{values}]") } else { values };
    format!("{:COMMENTS$} # {from}\n", format!("{key} = {values}"))
}

/// Returns a value of a flag as TOML.
pub(super) fn value(flag: &Arg, text: &str) -> String {
    // What would look different as a number is a text: 0660.
    let is_number = text.parse::<u64>().is_ok_and(|number| number.to_string() == text);
    if is_switch(flag) || is_number { text.into() } else { quoted(text) }
}

/// Returns a text as a basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted += &format!("\\u{:04x}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}
