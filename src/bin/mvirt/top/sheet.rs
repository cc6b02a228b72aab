//! Tables as values: sorted, narrowed and laid out, for a screen or for a script.

use crate::{stats::scaled, units};
use jiff::Timestamp;
use mvirt_net::printable::printable;
use std::cmp::Ordering;

/// A part of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// What somebody has named.
    Text(String),
    /// When, as the API has it.
    Time(String),
    /// So many.
    Count(u64),
    /// So many a second.
    Rate(f64),
    /// A part of the time, 0 to 1.
    Share(f64),
}

impl Value {
    /// A text, whoever chose it.
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// As it is shown.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Text(text) if text.is_empty() => "-".into(),
            Self::Text(text) => printable(text),
            Self::Time(time) => {
                let at = time.parse::<Timestamp>().unwrap_or_default();
                units::time_of_day(at.as_millisecond())
            }
            Self::Count(count) => count.to_string(),
            Self::Rate(rate) => scaled(*rate),
            Self::Share(share) => format!("{:.1}%", share * 100.0),
        }
    }

    /// As documents have it.
    fn document(&self) -> serde_json::Value {
        match self {
            Self::Text(text) | Self::Time(text) => text.as_str().into(),
            Self::Count(count) => (*count).into(),
            Self::Rate(value) | Self::Share(value) => (*value).into(),
        }
    }

    fn is_number(&self) -> bool {
        !matches!(self, Self::Text(_) | Self::Time(_))
    }

    fn number(&self) -> f64 {
        match self {
            Self::Text(_) | Self::Time(_) => 0.0,
            Self::Count(count) => *count as f64,
            Self::Rate(value) | Self::Share(value) => *value,
        }
    }

    /// Texts from A to Z, times from the first on, numbers from the largest down: what matters is
    /// on top.
    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Text(one), Self::Text(other)) => one.cmp(other),
            // In the order of their texts.
            (Self::Time(one), Self::Time(other)) => one.cmp(other),
            _ => other.number().total_cmp(&self.number()),
        }
    }
}

/// How a row is to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Tone {
    /// As any.
    #[default]
    Plain,
    /// All is well.
    Good,
    /// Somebody should look at it.
    Bad,
}

/// A row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// Of what it is about; what is selected stays so wherever it moves.
    pub(super) id: String,
    pub(super) cells: Vec<Value>,
    pub(super) tone: Tone,
    /// What the last minute was like, the oldest first.
    pub(super) trend: Vec<f64>,
}

/// A table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sheet {
    pub(super) header: &'static [&'static str],
    /// What documents call the columns.
    pub(super) keys: &'static [&'static str],
    pub(super) rows: Vec<Row>,
}

/// Characters of a text at most, but in the last column.
// With two of them, and what is counted, 80 columns are enough.
const WIDEST: usize = 16;

impl Sheet {
    /// Leaves rows in which this is said somewhere, in capitals or not.
    pub(super) fn narrow(&mut self, filter: &str) {
        let filter = filter.to_lowercase();
        let says = |cell: &Value| cell.shown().to_lowercase().contains(&filter);
        self.rows.retain(|row| row.cells.iter().any(says));
    }

    /// Sorts it by a column; rows alike stay as they are.
    pub(super) fn sort(&mut self, column: usize, is_reversed: bool) {
        self.rows.sort_by(|one, other| {
            let cells = one.cells.get(column).zip(other.cells.get(column));
            let order = cells.map_or(Ordering::Equal, |(one, other)| one.order(other));
            if is_reversed { order.reverse() } else { order }
        });
    }

    /// Returns its rows as documents.
    pub(super) fn documents(&self) -> Vec<serde_json::Value> {
        let row = |row: &Row| {
            let cells = self.keys.iter().zip(&row.cells);
            let cells = cells.map(|(key, cell)| ((*key).to_owned(), cell.document()));
            serde_json::Value::Object(cells.collect())
        };
        self.rows.iter().map(row).collect()
    }

    /// Returns how wide each column is.
    pub(super) fn widths(&self) -> Vec<usize> {
        let last = self.header.len().saturating_sub(1);
        let width = |(at, name): (usize, &&str)| {
            let cells = self.rows.iter().filter_map(|row| row.cells.get(at));
            let longest = cells.map(|cell| cell.shown().chars().count()).max().unwrap_or(0);
            let most = if at == last { usize::MAX } else { WIDEST };
            // Rates come and go: their columns stay where they are.
            let is_number =
                self.rows.iter().any(|row| row.cells.get(at).is_some_and(Value::is_number));
            let least = if is_number { 6 } else { 0 };
            // With room for the mark of what it is sorted by.
            longest.min(most).max(name.len() + 1).max(least)
        };
        self.header.iter().enumerate().map(width).collect()
    }

    /// Returns the line of the columns' names; the one that it is sorted by is marked.
    pub(super) fn heading(&self, widths: &[usize], sorted_by: Option<usize>) -> String {
        let is_number = |at: usize| {
            self.rows.first().and_then(|row| row.cells.get(at)).is_some_and(Value::is_number)
        };
        let cell = |(at, (name, width)): (usize, (&&str, &usize))| {
            let name = if sorted_by == Some(at) { format!("{name}*") } else { (*name).to_owned() };
            if is_number(at) { format!("{name:>width$}") } else { format!("{name:width$}") }
        };
        let cells = self.header.iter().zip(widths).enumerate().map(cell);
        cells.collect::<Vec<_>>().join(" ").trim_end().to_owned()
    }
}

impl Row {
    /// Returns its line.
    pub(super) fn line(&self, widths: &[usize]) -> String {
        let cell = |(cell, width): (&Value, &usize)| {
            let shown = cell.shown();
            let is_cut = shown.chars().count() > *width;
            let shown = match is_cut {
                true => shown.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
                false => shown,
            };
            if cell.is_number() { format!("{shown:>width$}") } else { format!("{shown:width$}") }
        };
        self.cells.iter().zip(widths).map(cell).collect::<Vec<_>>().join(" ")
    }

    /// Returns its last minute as bars, at most so many: the last ones.
    pub(super) fn bars(&self, most: usize) -> String {
        const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let highest = self.trend.iter().copied().fold(0.0, f64::max);
        let bar = |value: &f64| match highest > 0.0 && *value > 0.0 {
            true => BARS[((value / highest * 7.0).round() as usize).min(7)],
            false => ' ',
        };
        self.trend.iter().skip(self.trend.len().saturating_sub(most)).map(bar).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, rate: f64) -> Row {
        let cells = vec![Value::text(name), Value::Rate(rate)];
        Row { id: name.into(), cells, tone: Tone::Plain, trend: vec![0.0, 1.0, rate] }
    }

    fn sheet() -> Sheet {
        let rows = vec![row("b", 1.0), row("a", 1500.0), row("C", 30.0)];
        Sheet { header: &["NAME", "FROM/S"], keys: &["name", "from"], rows }
    }

    #[test]
    fn rows_are_sorted_and_narrowed() {
        let names = |sheet: &Sheet| sheet.rows.iter().map(|row| row.id.clone()).collect::<String>();
        let mut sheet = sheet();
        sheet.sort(1, false);
        assert_eq!(names(&sheet), "aCb", "the largest first");
        sheet.sort(0, true);
        assert_eq!(names(&sheet), "baC");
        sheet.sort(7, false);
        assert_eq!(names(&sheet), "baC", "there is no such column");
        sheet.narrow("c");
        assert_eq!(names(&sheet), "C");
    }

    #[test]
    fn documents_have_names_and_times_as_they_are() {
        let time = "2026-11-27T18:30:00Z";
        let cells = vec![Value::text("a\x1b"), Value::Time(time.into())];
        let row = Row { id: String::new(), cells, tone: Tone::Plain, trend: vec![] };
        let rows = vec![row];
        let sheet = Sheet { header: &["NAME", "LAST"], keys: &["name", "last"], rows };
        assert_eq!(sheet.documents(), [serde_json::json!({ "name": "a\x1b", "last": time })]);
        let line = sheet.rows[0].line(&sheet.widths());
        assert!(line.starts_with("a\\u{1b} ") && line.ends_with(":30:00"), "{line}");
    }

    #[test]
    fn columns_are_aligned_and_what_is_too_long_is_cut() {
        let mut sheet = sheet();
        sheet.rows.push(row("a-name-that-nobody-can-remember\x1b", 0.4));
        let widths = sheet.widths();
        assert_eq!(widths, [16, 7]);
        let mut lines = vec![sheet.heading(&widths, Some(0))];
        lines.extend(sheet.rows.iter().map(|row| row.line(&widths)));
        assert_eq!(
            lines,
            [
                "NAME*             FROM/S",
                "b                      1",
                "a                   1.5k",
                "C                     30",
                "a-name-that-nob…       0",
            ]
        );
        assert_eq!(sheet.rows[1].bars(2), "▁█");
        assert_eq!(row("idle", 0.0).bars(60), " █ ");
    }
}
