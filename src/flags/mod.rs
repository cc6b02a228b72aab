//! Where the values of a program's flags come from. A flag that the command line gives counts
//! before its variable, that before its key in a file, and that before its default.
//!
//! ```text
//! read.rs  the file's octets to text ─▶ file.rs  text to values, each with its line ─┐
//! command line, environment ─────────────────────────────────────────────────────────┤
//!                                             Gathered: what clap makes of all of it ◀┘
//! effective.rs  all values, and where each is from      pages.rs  an example of the file, its page
//! words.rs      what clap says of a value, in the words of a file or a variable
//! ```
//! clap's command is the one list of flags: a key of the file is a flag that has a variable,
//! without its dashes, and its value is checked by the flag's own parser.

pub mod effective;
pub mod file;
pub mod pages;
pub mod read;
mod words;

use clap::{
    ArgAction, ArgMatches, Command,
    builder::Resettable,
    error::{Error, ErrorKind},
    parser::ValueSource,
};
use file::Given;
use std::{
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
};

/// The flag that names the file.
pub const FILE: &str = "config";

/// What a program was told.
#[derive(Debug)]
pub struct Gathered {
    /// What clap understood.
    pub matches: ArgMatches,
    /// Its command, without variables that are empty.
    command: Command,
    /// What counts of the file.
    given: Vec<Given>,
    /// The file.
    file: Option<PathBuf>,
}

/// Returns what the command line, the environment and a file say. `file` chooses the file by what
/// the first two say; an error may be one of `--help` or `--version`.
pub fn gather(
    command: Command,
    arguments: &[OsString],
    file: impl FnOnce(&ArgMatches) -> Option<read::Wanted>,
) -> Result<Gathered, Error> {
    let command = without_empty_variables(command);
    let named = |error| words::name_variable(error, command.clone(), arguments);
    let (first, missing) = match command.clone().try_get_matches_from(arguments) {
        // What a flag needs beside it may be in the file.
        Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => {
            (command.clone().ignore_errors(true).try_get_matches_from(arguments)?, Some(error))
        }
        parsed => (parsed.map_err(named)?, None),
    };
    // Where there is no file, what is missing is missing.
    let alone = |matches, missing: Option<Error>| match missing {
        Some(error) => Err(named(error)),
        None => Ok(Gathered { matches, command: command.clone(), given: Vec::new(), file: None }),
    };
    let Some(wanted) = file(&first) else { return alone(first, missing) };
    let refused = |text| Error::raw(ErrorKind::ValueValidation, format!("{text}\n"));
    let text = read::text(&wanted).map_err(|error| refused(error.to_string()))?;
    let Some(text) = text else { return alone(first, missing) };
    let shown = wanted.path.display().to_string();
    let given = file::parse(&text, &command);
    let mut given = given.map_err(|fault| refused(fault.in_file(&shown)))?;
    let counts = |given: &Given| {
        let source = first.value_source(given.id.as_str());
        !matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    given.retain(counts);
    let (all, whole) = with_the_files(&command, arguments, &given);
    let matches = whole.try_get_matches_from(all).map_err(named)?;
    Ok(Gathered { matches, command, given, file: Some(wanted.path) })
}

/// Empty means not given: that is what `VARIABLE=` in a file for systemd is meant to say.
fn without_empty_variables(command: Command) -> Command {
    let is_empty = |name: &OsStr| env::var_os(name).is_some_and(|value| value.is_empty());
    command.mut_args(|argument| match argument.get_env() {
        Some(name) if is_empty(name) => argument.env(Resettable::Reset),
        _ => argument,
    })
}

/// Returns a command line that says what the file does, too, and the command that understands it.
// As defaults, they would not count as given where one flag requires another.
fn with_the_files(
    command: &Command,
    arguments: &[OsString],
    given: &[Given],
) -> (Vec<OsString>, Command) {
    let (mut arguments, mut command) = (arguments.iter().cloned(), command.clone());
    let mut all: Vec<OsString> = arguments.next().into_iter().collect();
    for Given { id, key, told, .. } in given {
        // An item of a list is one whatever is in it.
        command =
            command.mut_arg(id.as_str(), |argument| argument.value_delimiter(Resettable::Reset));
        all.extend(file::arguments(key, told));
    }
    all.extend(arguments);
    (all, command)
}

/// Whether a flag is a key of the file.
fn is_key(argument: &clap::Arg) -> bool {
    argument.get_env().is_some() && argument.get_long() != Some(FILE)
}

/// Whether a flag is given without a value.
fn is_switch(argument: &clap::Arg) -> bool {
    matches!(argument.get_action(), ArgAction::SetTrue)
}

/// Whether a flag has several values: those that may be given several times, and those of which one
/// is a list.
fn is_list(argument: &clap::Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Append) || is_one_list(argument)
}

/// Whether the one value of a flag is a list, of parts with commas between them.
fn is_one_list(argument: &clap::Arg) -> bool {
    value_name(argument) == "LIST" && !matches!(argument.get_action(), ArgAction::Append)
}

/// Returns how a flag's help calls its value.
fn value_name(argument: &clap::Arg) -> &str {
    argument.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str())
}
