//! What is installed beside the program for its file: an example with every key, and the page of
//! the manual. Both are made of the flags' help, so that they are true of what is built.

use super::{effective, is_key, is_list, is_switch, value_name};
use clap::{Arg, Command};
use clap_mangen::roff::{Roff, bold, italic, roman};

/// Columns of a comment.
const WIDE: usize = 100;

/// What the file says where it is installed, and why.
#[derive(Debug, Clone, Copy)]
pub struct Said {
    /// Of which flag.
    pub key: &'static str,
    /// As it is written.
    pub value: &'static str,
    /// A sentence.
    pub why: &'static str,
}

/// Returns an example of the file: `head`, then each key behind what its help says. Those that are
/// `said` hold; of the others the defaults are shown, commented out.
pub fn sample(command: &Command, head: &str, said: &[Said]) -> String {
    let mut text = comment(head);
    for flag in command.get_arguments().filter(|flag| is_key(flag)) {
        let key = flag.get_long().unwrap_or_default();
        text += "\n";
        text += &comment(&help(flag));
        match said.iter().find(|said| said.key == key) {
            Some(Said { value, why, .. }) => text += &format!("{}{key} = {value}\n", comment(why)),
            None => text += &format!("#{key} = {}\n", default(flag)),
        }
    }
    text
}

/// Returns the page of section 5 for the file called `name` of a program.
pub fn manual(command: &Command, name: &str, path: &str, paragraphs: &[&str]) -> String {
    let program = command.get_name();
    let mut page = Roff::new();
    let version = command.get_version().unwrap_or_default();
    page.control("TH", [name, "5", "", &format!("{program} {version}")]);
    page.control("SH", ["NAME"]);
    page.text([roman(format!("{name} - configuration of {program}"))]);
    page.control("SH", ["SYNOPSIS"]).text([italic(path)]);
    page.control("SH", ["DESCRIPTION"]);
    for (number, paragraph) in paragraphs.iter().enumerate() {
        if number > 0 {
            page.control("PP", []);
        }
        page.text([roman(*paragraph)]);
    }
    page.control("SH", ["KEYS"]);
    for flag in command.get_arguments().filter(|flag| is_key(flag)) {
        page.control("TP", []);
        let key = flag.get_long().unwrap_or_default();
        page.text([bold(key), roman(" = "), italic(written(flag))]);
        page.text([roman(help(flag))]);
        if !flag.get_default_values().is_empty() {
            page.control("IP", []).text([roman(format!("Default: {}", default(flag)))]);
        }
    }
    page.control("SH", ["FILES"]).text([italic(path)]);
    page.control("SH", ["SEE ALSO"]).text([bold(program), roman("(8)")]);
    page.render()
}

/// Returns a flag's help, with a full stop.
fn help(flag: &Arg) -> String {
    let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
    let values = flag.get_possible_values();
    let names: Vec<_> =
        values.iter().filter(|_| !is_switch(flag)).map(|it| it.get_name()).collect();
    if names.is_empty() { format!("{help}.") } else { format!("{help}: {}.", names.join(", ")) }
}

/// Returns what a flag's value is, in the file.
fn written(flag: &Arg) -> String {
    match (is_switch(flag), is_list(flag), value_name(flag)) {
        (true, ..) => "true or false".into(),
        (_, true, name) => format!("[{name}, ...]"),
        (_, _, name) => name.into(),
    }
}

/// Returns the default of a flag, or, where it has none, what a value looks like.
fn default(flag: &Arg) -> String {
    let defaults = flag.get_default_values().iter().map(|value| value.to_string_lossy());
    let defaults: Vec<_> = defaults.map(|text| effective::value(flag, &text)).collect();
    let value = match (is_switch(flag), &defaults[..]) {
        (true, _) => return "false".into(),
        (_, []) => example(flag).to_owned(),
        (_, some) => some.join(", "),
    };
    if is_list(flag) { format!("[{value}]") } else { value }
}

/// Returns what a flag's value may be, going by the name of it.
fn example(flag: &Arg) -> &'static str {
    match value_name(flag) {
        "LIST" => "2, 3",
        "USER" | "GROUP" => "\"root\"",
        "MODE" => "\"660\"",
        "CIDR" | "PREFIX" => "\"10.0.0.0/8\"",
        "ADDRESS" => "\"192.0.2.1\"",
        // Not where counters are: who takes both examples gets both.
        "ADDR" if flag.get_long() == Some("http") => "\"127.0.0.1:9178\"",
        "ADDR" => "\"127.0.0.1:9177\"",
        "WHICH" => "\"all\"",
        "DIR" => "\"/path/of/folder\"",
        "FILE" => "\"/path/of/file\"",
        "SIZE" => "\"64M\"",
        _ => "\"…\"",
    }
}

/// Returns a text as lines of a comment.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    for paragraph in text.lines() {
        let mut line = String::from("#");
        for word in paragraph.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > WIDE {
                lines += &(std::mem::replace(&mut line, "#".into()) + "\n");
            }
            line.push(' ');
            line += word;
        }
        lines += &(line + "\n");
    }
    lines
}
