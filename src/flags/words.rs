//! What clap says of a value that it refuses, in other words: those of who gave it by a variable or
//! a file, and knows no flag.

use clap::{
    Arg, Command,
    error::{ContextKind, ContextValue, Error, ErrorKind},
};
use std::{
    env,
    error::Error as _,
    ffi::{OsStr, OsString},
    net::AddrParseError,
    num::{IntErrorKind, ParseIntError},
};

/// Returns what would be right in the place of a refused value, or what is wrong with it.
pub(super) fn expected(error: &Error) -> String {
    let valid = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) => &values[..],
        _ => &[],
    };
    if let [others @ .., last] = valid {
        let others = others.join(", ");
        return if others.is_empty() {
            format!("expected {last}")
        } else {
            format!("expected {others} or {last}")
        };
    }
    let Some(source) = error.source() else { return "cannot be understood".into() };
    if let Some(number) = source.downcast_ref::<ParseIntError>() {
        let is_long = matches!(number.kind(), IntErrorKind::PosOverflow);
        return format!("expected a {} number", if is_long { "smaller" } else { "whole" });
    }
    if source.is::<AddrParseError>() {
        return "expected an IP address".into();
    }
    let told = source.to_string();
    // clap's range parsers: `7 is not in 1..=5`.
    let range = told.split_once(" is not in ").and_then(|(_, range)| range.split_once(".."));
    let Some((first, last)) = range else { return told };
    let last = match last.strip_prefix('=') {
        Some(last) => last.to_owned(),
        None => last.parse::<u64>().map_or(last.into(), |end| (end - 1).to_string()),
    };
    format!("expected {first}-{last}")
}

/// Returns the value that an error is about.
pub(super) fn refused(error: &Error) -> Option<&str> {
    match error.get(ContextKind::InvalidValue)? {
        ContextValue::String(value) => Some(value),
        _ => None,
    }
}

/// Says which variable a refused value is of, where the flag itself is not given.
pub(super) fn name_variable(error: Error, mut command: Command, arguments: &[OsString]) -> Error {
    if error.kind() == ErrorKind::InvalidUtf8
        && let Some(names) = variables_not_utf8(&command)
    {
        return command.error(error.kind(), format!("environment variable {names}: not UTF-8"));
    }
    let Some(ContextValue::String(refused)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let flag = refused.split(' ').next().unwrap_or_default();
    let begins = |argument: &OsString| argument.to_string_lossy().split('=').next() == Some(flag);
    let is_named = |argument: &&Arg| flag.strip_prefix("--") == argument.get_long();
    let variable = command.get_arguments().find(is_named).and_then(Arg::get_env);
    match variable.map(OsStr::to_owned) {
        // clap names the flag, which nobody gave: who reads that looks in the wrong place.
        Some(name) if !arguments.iter().any(begins) && env::var_os(&name).is_some() => {
            let text = error.to_string();
            let told = text.lines().next().and_then(|line| line.strip_prefix("error: "));
            let told = told.unwrap_or(&text);
            command.error(error.kind(), format!("environment variable {}: {told}", name.display()))
        }
        _ => error,
    }
}

/// The variables of the flags that are set to what is no text; `None` where there is none.
fn variables_not_utf8(command: &Command) -> Option<String> {
    let names = command.get_arguments().filter_map(Arg::get_env);
    let is_text = |name: &OsStr| env::var_os(name).is_none_or(|value| value.to_str().is_some());
    let names: Vec<_> = names.filter(|name| !is_text(name)).map(OsStr::to_string_lossy).collect();
    (!names.is_empty()).then(|| names.join(", "))
}
