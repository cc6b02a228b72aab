//! What commands print: documents or tables to stdout, words for people to stderr.
//!
//! Colour is taken away again where stdout is no terminal, and as NO_COLOR, CLICOLOR and TERM say.

use super::Failure;
use anstream::ColorChoice;
use anstyle::{AnsiColor, Style};
use clap::{Args, ValueEnum};
use mvirt_net::{
    client::Reason,
    printable::{printable, printable_lines},
    proto::{NicState, PortState},
};
use std::{
    ffi::OsString,
    io::{IsTerminal as _, Write as _},
};
use tabwriter::TabWriter;

/// What is printed of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For people with wide screens
    Wide,
    /// The API's objects
    Json,
    /// The API's objects
    Yaml,
    /// Values with commas between, for other programs' tables
    Csv,
    /// Names alone, one a line
    Name,
}

/// Whether colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

/// Where answers go, and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct Output {
    /// What is printed to stdout
    #[arg(
        short,
        long = "output",
        global = true,
        value_name = "FORMAT",
        default_value = "table",
        hide_possible_values = true,
        help = "What is printed: table, wide, json, yaml, csv or name",
        help_heading = "Output",
        display_order = 800
    )]
    output: Format,
    /// Leave out the first line of tables
    #[arg(long, global = true, help_heading = "Output", display_order = 801)]
    no_headers: bool,
    /// Columns of a list, in this order, like NAME,STATE
    #[arg(
        long,
        global = true,
        value_name = "NAMES",
        value_delimiter = ',',
        help_heading = "Output",
        display_order = 802
    )]
    columns: Vec<String>,
    /// Whether there are colours
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true,
        help = "Whether there are colours: auto (on a terminal), always or never",
        help_heading = "Output",
        display_order = 803
    )]
    color: Color,
    /// Say only what went wrong, beside what is asked for
    #[arg(short, long, global = true, help_heading = "Output", display_order = 804)]
    quiet: bool,
}

/// A part of a table's row; where it is empty, a `-` is printed, so that columns can be counted.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, style: Style::new() }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<u32> for Cell {
    fn from(number: u32) -> Self {
        number.to_string().into()
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        number.to_string().into()
    }
}

impl Cell {
    /// A vNIC's state, in its colour.
    pub(crate) fn state(state: NicState) -> Self {
        let style = match state {
            NicState::Unspecified | NicState::Created => Style::new(),
            NicState::Active => AnsiColor::Green.on_default(),
            NicState::Blocked | NicState::Error => AnsiColor::Red.on_default(),
        };
        Self { text: state.word().into(), style }
    }

    /// A port's state, in its colour.
    pub(crate) fn port_state(state: PortState) -> Self {
        let style = match state {
            PortState::Unspecified | PortState::Down | PortState::Listening => Style::new(),
            PortState::Up => AnsiColor::Green.on_default(),
            PortState::Blocked | PortState::Error => AnsiColor::Red.on_default(),
        };
        Self { text: state.word().into(), style }
    }

    /// That something is not as it should be.
    pub(crate) fn error() -> Self {
        Self { text: "error".into(), style: AnsiColor::Red.on_default() }
    }

    fn styled(&self) -> String {
        styled(self.style, &printable(&self.text))
    }
}

fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Several objects for people.
#[derive(Debug)]
pub(crate) struct Table {
    header: &'static [&'static str],
    /// Columns from here on are for wide screens.
    narrow: usize,
    rows: Vec<(String, Vec<Cell>)>,
}

impl Table {
    /// A table whose columns after `narrow` are printed with `-o wide` only.
    pub(crate) fn new(header: &'static [&'static str], narrow: usize) -> Self {
        Self { header, narrow, rows: Vec::new() }
    }

    /// Adds the row of the object called `name`.
    pub(crate) fn row(&mut self, name: &str, cells: Vec<Cell>) {
        self.rows.push((name.into(), cells));
    }
}

impl Output {
    /// Has everything printed with colours, or without, as the flags say.
    pub(crate) fn set_colors(&self) {
        let choice = match self.color {
            Color::Auto => return,
            Color::Always => ColorChoice::AlwaysAnsi,
            Color::Never => ColorChoice::Never,
        };
        choice.write_global();
    }

    /// Whether a document is printed, for programs.
    pub(crate) fn is_document(&self) -> bool {
        matches!(self.output, Format::Json | Format::Yaml)
    }

    /// Prints one object: a document, its name, or a line for each field that is not empty.
    pub(crate) fn object(
        &self,
        object: &impl serde::Serialize,
        name: &str,
        rows: &[(&str, Cell)],
    ) -> Result<(), Failure> {
        if self.output == Format::Name {
            return print(&format!("{}\n", printable(name)));
        }
        if self.is_document() {
            return self.document(object);
        }
        if self.output == Format::Csv {
            let header = (!self.no_headers).then(|| csv(&["FIELD", "VALUE"]));
            let rows = rows.iter().map(|(name, value)| csv(&[name, &value.text]));
            return print(&header.into_iter().chain(rows).collect::<String>());
        }
        // What has no value tells people nothing; documents have every field.
        let rows = rows.iter().filter(|(_, value)| !value.text.is_empty());
        let lines = rows.map(|(name, value)| [styled(Style::new().bold(), name), value.styled()]);
        print(&aligned(lines.map(|line| line.join("\t")))?)
    }

    /// Prints several objects: one document, their names, or a table.
    pub(crate) fn list(
        &self,
        response: &impl serde::Serialize,
        table: &Table,
    ) -> Result<(), Failure> {
        let columns = self.chosen(table)?;
        if self.is_document() {
            return self.document(response);
        }
        if self.output == Format::Name {
            let names = table.rows.iter().map(|(name, _)| printable(name) + "\n");
            return print(&names.collect::<String>());
        }
        let header = (!self.no_headers).then(|| columns.iter().map(|at| table.header[*at]));
        if self.output == Format::Csv {
            let header = header.map(|names| csv(&names.collect::<Vec<_>>()));
            let row = |(_, cells): &(String, Vec<Cell>)| {
                csv(&columns.iter().map(|at| &*cells[*at].text).collect::<Vec<_>>())
            };
            let rows = table.rows.iter().map(row);
            return print(&header.into_iter().chain(rows).collect::<String>());
        }
        let header = header.map(|names| {
            let names = names.map(|name| styled(Style::new().bold(), name));
            names.collect::<Vec<_>>().join("\t")
        });
        let cell = |cell: &Cell| {
            if cell.text.is_empty() { "-".into() } else { cell.styled() }
        };
        let row = |(_, cells): &(String, Vec<Cell>)| {
            columns.iter().map(|at| cell(&cells[*at])).collect::<Vec<_>>().join("\t")
        };
        print(&aligned(header.into_iter().chain(table.rows.iter().map(row)))?)
    }

    /// Returns which columns of a table are printed, in their order.
    ///
    /// # Errors
    ///
    /// There is none of a name, or no columns are printed.
    fn chosen(&self, table: &Table) -> Result<Vec<usize>, Failure> {
        if self.columns.is_empty() {
            let narrow = if self.output == Format::Table { table.narrow } else { usize::MAX };
            return Ok((0..table.header.len().min(narrow)).collect());
        }
        if self.is_document() || self.output == Format::Name {
            let text = "--columns: only tables have columns: -o table, wide or csv";
            return Err(Failure::Usage(text.into()));
        }
        let find = |name: &String| {
            let found = table.header.iter().position(|there| there.eq_ignore_ascii_case(name));
            found.ok_or_else(|| {
                let there = table.header.join(",");
                Failure::Usage(format!("--columns: {name:?}: expected some of {there}"))
            })
        };
        self.columns.iter().map(find).collect()
    }

    /// Prints a line of a table whose rows come one after the other; nothing where a document will
    /// come.
    pub(crate) fn line(&self, cells: &[(&str, usize)]) -> Result<(), Failure> {
        if self.is_document() {
            return Ok(());
        }
        if self.output == Format::Csv {
            return print(&csv(&cells.iter().map(|(text, _)| *text).collect::<Vec<_>>()));
        }
        // Fixed widths: later rows are not known yet.
        let cell = |(text, width): &(&str, usize)| format!("{:width$}", printable(text));
        let line = cells.iter().map(cell).collect::<Vec<_>>().join("  ");
        print(&format!("{}\n", line.trim_end()))
    }

    /// Prints the first line of such a table.
    pub(crate) fn header(&self, cells: &[(&str, usize)]) -> Result<(), Failure> {
        if self.no_headers { Ok(()) } else { self.line(cells) }
    }

    /// Ends such a table: prints the document, if that is wanted.
    pub(crate) fn end(&self, object: &impl serde::Serialize) -> Result<(), Failure> {
        if self.is_document() { self.document(object) } else { Ok(()) }
    }

    /// Prints one of many documents, on a line of its own.
    pub(crate) fn event(&self, event: &impl serde::Serialize) -> Result<(), Failure> {
        // The marker between documents of a stream (YAML 1.2 §9).
        if self.output == Format::Yaml {
            print("---\n")?;
            return self.document(event);
        }
        // One line an event: readers of a stream split it at line feeds.
        let text = serde_json::to_string(event).map_err(std::io::Error::from)?;
        print(&format!("{text}\n"))
    }

    /// Something done that leaves no object: programs get the response, people a sentence.
    pub(crate) fn done(
        &self,
        response: &impl serde::Serialize,
        name: &str,
        sentence: &str,
    ) -> Result<(), Failure> {
        if self.is_document() {
            return self.document(response);
        }
        if self.output == Format::Name {
            return print(&format!("{}\n", printable(name)));
        }
        self.remark(sentence);
        Ok(())
    }

    /// Says something to people, to stderr, unless they want none of that.
    pub(crate) fn remark(&self, sentence: &str) {
        if !self.quiet {
            say(&printable(sentence));
        }
    }

    /// Says of a check that it was no more, to people; programs get what it would have come to.
    pub(crate) fn dry_run(&self) {
        if self.is_for_people() {
            self.remark("dry run: nothing was changed");
        }
    }

    /// Says what may come next, to who sits at a terminal.
    pub(crate) fn next(&self, command: &str) {
        if self.is_for_people() && std::io::stderr().is_terminal() {
            self.remark(&format!("Next: {command}"));
        }
    }

    /// Whether it is people who read it.
    pub(crate) fn is_for_people(&self) -> bool {
        matches!(self.output, Format::Table | Format::Wide)
    }

    pub(crate) fn document(&self, object: &impl serde::Serialize) -> Result<(), Failure> {
        if self.output == Format::Yaml {
            return print(&serde_yaml_ng::to_string(object).map_err(std::io::Error::other)?);
        }
        let text = serde_json::to_string_pretty(object).map_err(std::io::Error::from)?;
        print(&format!("{text}\n"))
    }

    /// Says what went wrong, to stderr.
    pub(crate) fn failure(&self, failure: &Failure) {
        say(&self.output.failure(failure).unwrap_or_else(|| {
            // It may quote what others chose.
            printable_lines(&format!("mvirt: {failure}"))
        }));
    }
}

impl Format {
    /// Returns the format that the words of a command line ask for, which may be wrong otherwise.
    /// The last one holds.
    pub(crate) fn asked_for(words: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut asked = None;
        // What follows are words of a VMM, which may have an -o of its own.
        let mut words = words.into_iter().take_while(|word| word != "--");
        while let Some(word) = words.next() {
            let word = word.to_string_lossy();
            let format = match &*word {
                "-o" | "--output" => words.next().map(|next| next.to_string_lossy().into_owned()),
                _ => word
                    .strip_prefix("--output=")
                    .or_else(|| word.strip_prefix("-o="))
                    .or_else(|| word.strip_prefix("-o"))
                    .map(str::to_owned),
            };
            asked = format.and_then(|format| Self::from_str(&format, false).ok()).or(asked);
        }
        asked
    }

    /// The document that says what went wrong, where answers are documents.
    pub(crate) fn failure(self, failure: &Failure) -> Option<String> {
        let (code, message) = (failure.code(), failure.message());
        let mut error = serde_json::json!({ "code": code, "message": message });
        let refusal = failure.refusal().filter(|refusal| refusal.reason != Reason::Unknown);
        if let Some(refusal) = refusal {
            error["reason"] = refusal.reason.name().into();
            // Of those that are about one.
            if let Some(field) = refusal.field {
                error["field"] = field.into();
            }
        }
        let error = serde_json::json!({ "error": error });
        match self {
            Self::Json => Some(format!("{error:#}")),
            Self::Yaml => serde_yaml_ng::to_string(&error).ok(),
            Self::Table | Self::Wide | Self::Csv | Self::Name => None,
        }
    }
}

/// Prints a line to stderr. One that cannot be written is lost: there is nobody else to tell, and
/// what was done stays done.
pub(crate) fn say(line: &str) {
    anstream::stderr().write_all(format!("{}\n", line.trim_end()).as_bytes()).ok();
}

/// Prints to stdout.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = anstream::stdout().lock();
    // Flushed, since at exit an error would go unseen.
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// A line of values with commas between (RFC 4180, but for its end, which is that of other lines).
/// Line feeds are escaped before, as all else that is not printable.
fn csv(values: &[&str]) -> String {
    let quoted = |value: &&str| {
        let value = printable(value);
        match value.contains(['"', ',']) {
            true => format!("\"{}\"", value.replace('"', "\"\"")),
            false => value,
        }
    };
    values.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n"
}

/// Lines whose cells, between tabs, are as wide as the widest of their column.
fn aligned(lines: impl Iterator<Item = String>) -> Result<String, Failure> {
    // Escapes of colour take no room on a screen.
    let mut table = TabWriter::new(Vec::new()).padding(2).minwidth(0).ansi(true);
    for line in lines {
        writeln!(table, "{line}")?;
    }
    table.flush()?;
    let octets = table.into_inner().map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(String::from_utf8_lossy(&octets).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_whatever_their_colour() {
        let lines = [
            "NAME\tSTATE\tIPV4".to_owned(),
            format!("a\t{}\t-", Cell::state(NicState::Active).styled()),
        ];
        let text = aligned(lines.into_iter()).unwrap();
        assert_eq!(text, "NAME  STATE   IPV4\na     \u{1b}[32mactive\u{1b}[0m  -\n");
    }

    #[test]
    fn a_state_has_a_colour_and_a_name_like_it_has_none() {
        assert_eq!(Cell::state(NicState::Error).styled(), "\u{1b}[31merror\u{1b}[0m");
        assert_eq!(Cell::from("error").styled(), "error");
    }

    #[test]
    fn the_format_is_known_where_the_rest_is_wrong() {
        let asked = |line: &str| Format::asked_for(line.split(' ').map(Into::into));
        for line in ["nic get -o json", "-ojson x", "-o=json x", "-o yaml --output json --no"] {
            assert_eq!(asked(line), Some(Format::Json), "{line}");
        }
        assert_eq!(asked("nic --output=yaml -o nonsense"), Some(Format::Yaml));
        for line in ["nic get", "x -o", "vm start -- -o json"] {
            assert_eq!(asked(line), None, "{line}");
        }
    }

    #[test]
    fn values_with_commas_between_are_quoted_where_they_must_be() {
        assert_eq!(csv(&["a", "", "b c"]), "a,,b c\n");
        assert_eq!(csv(&["a,b", "say \"no\"", "x\ny"]), "\"a,b\",\"say \"\"no\"\"\",x\\ny\n");
    }

    #[test]
    fn what_others_chose_moves_no_cursor() {
        assert_eq!(Cell::from("a\tb\x1b[2Jü\u{202e}").styled(), "a\\tb\\u{1b}[2Jü\\u{202e}");
    }
}
