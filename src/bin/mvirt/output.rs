//! What commands print: JSON documents or tables to stdout, words for people to stderr; colour only on a terminal.

use super::Failure;
use std::io::{IsTerminal as _, Write as _};

/// Where answers go.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    colour: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { json, colour }
    }

    /// One object: as JSON, or a line for each field that is not empty.
    pub(crate) fn object(
        &mut self,
        object: &impl serde::Serialize,
        rows: &[(&str, String)],
    ) -> Result<(), Failure> {
        if self.json {
            return self.print_json(object);
        }
        let rows = rows.iter().filter(|(_, value)| !value.is_empty());
        let width = rows.clone().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, value) in rows {
            text.push_str(&format!(
                "{}  {}\n",
                self.bold(&format!("{name:width$}")),
                self.state(value)
            ));
        }
        Ok(std::io::stdout().write_all(text.as_bytes())?)
    }

    /// Several objects: as one JSON document, or a table.
    pub(crate) fn list(
        &mut self,
        response: &impl serde::Serialize,
        header: &[&str],
        rows: &[Vec<String>],
    ) -> Result<(), Failure> {
        if self.json {
            return self.print_json(response);
        }
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([header[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..header.len()).map(width).collect();
        let line = |cells: &[String]| {
            let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let header: Vec<String> = header.iter().map(ToString::to_string).collect();
        let mut text = format!("{}\n", self.bold(&line(&header)));
        for row in rows {
            text.push_str(&self.state(&line(row)));
            text.push('\n');
        }
        Ok(std::io::stdout().write_all(text.as_bytes())?)
    }

    /// Something done that leaves no object: JSON gets the response, people a sentence.
    pub(crate) fn done(
        &mut self,
        response: &impl serde::Serialize,
        sentence: &str,
    ) -> Result<(), Failure> {
        if self.json {
            return self.print_json(response);
        }
        eprintln!("{sentence}");
        Ok(())
    }

    fn print_json(&self, object: &impl serde::Serialize) -> Result<(), Failure> {
        let mut text = serde_json::to_string_pretty(object).map_err(std::io::Error::from)?;
        text.push('\n');
        Ok(std::io::stdout().write_all(text.as_bytes())?)
    }

    fn bold(&self, text: &str) -> String {
        if self.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.into() }
    }

    /// Colours the state of a vNIC within a line.
    fn state(&self, line: &str) -> String {
        if !self.colour {
            return line.into();
        }
        let colours = [("active", "32"), ("error", "31")];
        colours.iter().fold(line.to_owned(), |line, (word, colour)| {
            let words = line.split(' ').map(|part| {
                if part == *word { format!("\x1b[{colour}m{part}\x1b[0m") } else { part.to_owned() }
            });
            words.collect::<Vec<_>>().join(" ")
        })
    }
}
