//! What keys do: to what is shown, or to the daemon. No I/O.

use super::{sheet::Sheet, state::Tab};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Characters of a line that is typed.
const LONGEST: usize = 100;

/// A line that is being typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prompt {
    /// What rows are to say.
    Filter,
    /// Where a packet is to go.
    Trace,
}

/// What is to be done that is more than to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing more.
    None,
    /// End.
    Quit,
    /// What is shown is to stand still, or to go on.
    Pause,
    /// Capture frames of the vNIC or port that is selected.
    Capture,
    /// Say what would become of a packet from it to this address.
    Trace(String),
}

/// What is over the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Over {
    /// What keys do.
    Help,
    /// All about the row that is selected.
    Details,
    /// An answer.
    Answer(String, Vec<String>),
}

/// How the daemon is looked at.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) tab: Tab,
    pub(super) filter: String,
    pub(super) prompt: Option<(Prompt, String)>,
    /// Of each tab: which column it is sorted by, and whether the other way round.
    sorted: [(usize, bool); Tab::ALL.len()],
    /// The row that is selected, wherever it moves: by its id, and where it was.
    selected: (Option<String>, usize),
    pub(super) over: Option<Over>,
    pub(super) is_paused: bool,
    /// The daemon is looked for: what is shown was once.
    pub(super) is_lost: bool,
    /// What was done last.
    pub(super) said: String,
}

impl View {
    pub(super) fn new(tab: Tab) -> Self {
        Self {
            tab,
            filter: String::new(),
            prompt: None,
            sorted: Tab::ALL.map(|tab| (tab.sorted_by(), false)),
            selected: (None, 0),
            over: None,
            is_paused: false,
            is_lost: false,
            said: String::new(),
        }
    }

    fn number(&self) -> usize {
        Tab::ALL.iter().position(|tab| *tab == self.tab).unwrap_or(0)
    }

    /// Returns which column is sorted by; events are in the order of their times.
    pub(super) fn sorted_by(&self) -> Option<usize> {
        (self.tab != Tab::Events).then(|| self.sorted[self.number()].0)
    }

    /// Sorts and narrows a table as it is to be seen.
    pub(super) fn apply(&self, sheet: &mut Sheet) {
        if !self.filter.is_empty() {
            sheet.narrow(&self.filter);
        }
        if self.sorted_by().is_some() {
            let (column, is_reversed) = self.sorted[self.number()];
            sheet.sort(column, is_reversed);
        }
    }

    /// Returns which row is selected, of a table as it is seen.
    pub(super) fn selected(&self, sheet: &Sheet) -> usize {
        let (id, place) = &self.selected;
        let at = sheet.rows.iter().position(|row| Some(&row.id) == id.as_ref());
        // Where it has gone, the one that has come to its place.
        at.unwrap_or(*place).min(sheet.rows.len().saturating_sub(1))
    }

    fn select(&mut self, sheet: &Sheet, at: usize) {
        let at = at.min(sheet.rows.len().saturating_sub(1));
        self.selected = (sheet.rows.get(at).map(|row| row.id.clone()), at);
    }

    fn go_to(&mut self, tab: Tab) {
        self.tab = tab;
        (self.selected, self.over) = ((None, 0), None);
    }

    /// Does what a key says. `sheet` is the table that is seen, `page` how many of its rows are.
    pub(super) fn key(&mut self, key: KeyEvent, sheet: &Sheet, page: usize) -> Action {
        self.said.clear();
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Action::Quit;
        }
        if let Some((prompt, line)) = self.prompt.take() {
            return self.typed(key.code, prompt, line);
        }
        let at = self.selected(sheet);
        match key.code {
            KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q') if self.over.is_some() => {
                self.over = None;
            }
            KeyCode::Char('q') | KeyCode::F(10) => return Action::Quit,
            KeyCode::Char(number @ '1'..='5') => {
                self.go_to(Tab::ALL[number as usize - '1' as usize]);
            }
            KeyCode::Tab => self.go_to(Tab::ALL[(self.number() + 1) % Tab::ALL.len()]),
            KeyCode::BackTab => {
                self.go_to(Tab::ALL[(self.number() + Tab::ALL.len() - 1) % Tab::ALL.len()]);
            }
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.over = Some(Over::Help),
            KeyCode::Char('/') => self.prompt = Some((Prompt::Filter, self.filter.clone())),
            KeyCode::Char('<') => self.sort_by(sheet, sheet.header.len().saturating_sub(1)),
            KeyCode::Char('>') | KeyCode::F(6) => self.sort_by(sheet, 1),
            KeyCode::Char('r') => {
                let number = self.number();
                self.sorted[number].1 ^= true;
            }
            KeyCode::Char('p' | ' ') => return Action::Pause,
            // What they are about is not seen.
            KeyCode::Char('c' | 't') if self.over == Some(Over::Help) => {}
            KeyCode::Char('c' | 't') if self.tab != Tab::Nics => {
                self.said = "of a vNIC or port: 2 shows them".into();
            }
            KeyCode::Char('c') => return Action::Capture,
            KeyCode::Char('t') => self.prompt = Some((Prompt::Trace, String::new())),
            KeyCode::Enter if !sheet.rows.is_empty() => {
                self.select(sheet, at);
                self.over = Some(Over::Details);
            }
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Up | KeyCode::Char('k') => self.select(sheet, at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(sheet, at + 1),
            KeyCode::PageUp => self.select(sheet, at.saturating_sub(page)),
            KeyCode::PageDown => self.select(sheet, at + page),
            KeyCode::Home => self.select(sheet, 0),
            KeyCode::End => self.select(sheet, usize::MAX),
            _ => {}
        }
        Action::None
    }

    fn sort_by(&mut self, sheet: &Sheet, further: usize) {
        let number = self.number();
        let column = &mut self.sorted[number].0;
        *column = (*column + further) % sheet.header.len().max(1);
    }

    fn typed(&mut self, key: KeyCode, prompt: Prompt, mut line: String) -> Action {
        match key {
            KeyCode::Enter if prompt == Prompt::Trace => return Action::Trace(line),
            KeyCode::Enter => return Action::None,
            KeyCode::Esc => {
                if prompt == Prompt::Filter {
                    self.filter.clear();
                }
                return Action::None;
            }
            KeyCode::Backspace => drop(line.pop()),
            KeyCode::Char(c) if line.chars().count() < LONGEST => line.push(c),
            _ => {}
        }
        if prompt == Prompt::Filter {
            self.filter.clone_from(&line);
        }
        self.prompt = Some((prompt, line));
        Action::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::sheet::{Row, Tone, Value};

    fn sheet(names: &[&str]) -> Sheet {
        let row = |name: &&str| Row {
            id: (*name).into(),
            cells: vec![Value::text(name), Value::Rate(1.0)],
            tone: Tone::Plain,
            trend: vec![],
        };
        let header = &["NAME", "FROM/S"];
        Sheet { header, keys: &["name", "from"], rows: names.iter().map(row).collect() }
    }

    fn press(view: &mut View, sheet: &Sheet, keys: &str) -> Vec<Action> {
        let code = |c| match c {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\t' => KeyCode::Tab,
            '\x08' => KeyCode::Backspace,
            c => KeyCode::Char(c),
        };
        keys.chars().map(|c| view.key(code(c).into(), sheet, 10)).collect()
    }

    #[test]
    fn what_is_selected_stays_so_wherever_it_moves() {
        let mut view = View::new(Tab::Nics);
        press(&mut view, &sheet(&["a", "b", "c"]), "jj");
        assert_eq!(view.selected(&sheet(&["c", "a", "b"])), 0);
        assert_eq!(view.selected(&sheet(&["a", "b"])), 1, "it is gone");
        assert_eq!(view.selected(&sheet(&[])), 0);
        press(&mut view, &sheet(&["a"]), "jjjk");
        assert_eq!(view.selected(&sheet(&["a"])), 0);
    }

    #[test]
    fn keys_do_what_they_say() {
        let (mut view, sheet) = (View::new(Tab::Nics), sheet(&["a", "b"]));
        assert_eq!(press(&mut view, &sheet, "/xq\x08y\n"), [const { Action::None }; 6]);
        assert_eq!((&*view.filter, &view.prompt), ("xy", &None));
        press(&mut view, &sheet, "\x1b");
        assert_eq!(view.filter, "");
        assert_eq!(view.sorted_by(), Some(0));
        press(&mut view, &sheet, ">");
        assert_eq!(view.sorted_by(), Some(1));
        press(&mut view, &sheet, "<<");
        assert_eq!(view.sorted_by(), Some(1));
        press(&mut view, &sheet, "\n");
        assert_eq!(view.over, Some(Over::Details));
        assert_eq!(press(&mut view, &sheet, "q"), [Action::None], "it closes what is over it");
        assert_eq!(press(&mut view, &sheet, "p"), [Action::Pause]);
        assert_eq!(press(&mut view, &sheet, "?c\x1b"), [const { Action::None }; 3], "behind help");
        assert_eq!(press(&mut view, &sheet, "c"), [Action::Capture]);
        let traced = press(&mut view, &sheet, "t10.0\n");
        assert_eq!(traced.last(), Some(&Action::Trace("10.0".into())));
        press(&mut view, &sheet, "\t");
        assert_eq!(view.tab, Tab::Reactors);
        press(&mut view, &sheet, "5\t");
        assert_eq!(view.tab, Tab::Networks);
        assert_eq!(press(&mut view, &sheet, "t"), [Action::None]);
        assert_eq!(view.said, "of a vNIC or port: 2 shows them");
        assert_eq!(press(&mut view, &sheet, "c?"), [Action::None, Action::None]);
        assert_eq!(view.over, Some(Over::Help));
        assert_eq!(press(&mut view, &sheet, "\x1bq").last(), Some(&Action::Quit));
    }
}
