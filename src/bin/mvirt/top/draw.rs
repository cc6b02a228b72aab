//! The screen: a summary, tabs, a table, and a line about keys. A function of what is known and of
//! how that is looked at.

use super::{
    keys::{Over, Prompt, View},
    sheet::{Row, Sheet, Tone},
    state::{State, Tab},
};
use mvirt_net::printable::printable;
use ratatui::{
    Frame,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Clear, Paragraph, Wrap},
};

/// Lines that are no rows of the table.
const AROUND: u16 = 4;
/// Values of the last minute that are drawn at most.
const BARS: usize = 60;

const KEYS: &str = "q quit  1-5 tabs  / filter  < > sort  Enter details  p pause  ? help";

const HELP: &[(&str, &str)] = &[
    ("1-5, Tab", "networks, vNICs, reactors, drops, events"),
    ("up, down, PgUp, PgDn", "select a row; Home, End: the first, the last"),
    ("Enter", "all about the row; Esc, q: back to the table"),
    ("/", "only rows that say this; Esc: all"),
    ("<, >, F6", "sort by another column, marked *; r: the other way round"),
    ("p", "stand still, and go on"),
    ("c", "capture frames of it into a file here: 10 s, or 64 MiB"),
    ("t", "what would become of a packet from the vNIC to an address"),
    ("q, F10, Ctrl-C", "quit"),
];

/// Whether there is colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    On,
    Off,
}

/// Returns how many rows of the table a screen shows.
pub(super) fn page(height: u16) -> usize {
    usize::from(height.saturating_sub(AROUND)).max(1)
}

/// Draws it. `sheet` is the table as it is to be seen.
pub(super) fn draw(
    frame: &mut Frame<'_>,
    (state, view, sheet): (&State, &View, &Sheet),
    colour: Colour,
) {
    let area = frame.area();
    let widths = sheet.widths();
    let sorted_by = view.sorted_by();
    let mut lines = vec![summary(state, view), tabs(view)];
    lines.push(Line::styled(
        pad(&sheet.heading(&widths, sorted_by), area.width),
        Style::new().add_modifier(Modifier::REVERSED),
    ));
    let (page, selected) = (page(area.height), view.selected(sheet));
    // The page that has it.
    let first = selected / page * page;
    for (at, row) in sheet.rows.iter().enumerate().skip(first).take(page) {
        lines.push(row_line(row, &widths, area.width, (at == selected, colour)));
    }
    if sheet.rows.is_empty() {
        let none = if view.filter.is_empty() { "none" } else { "none that says this" };
        lines.push(Line::raw(none));
    }
    frame.render_widget(Paragraph::new(lines), area);
    let bottom = Rect { y: area.bottom().saturating_sub(1), height: 1.min(area.height), ..area };
    frame.render_widget(Clear, bottom);
    frame.render_widget(Paragraph::new(last_line(view, sheet.rows.len())), bottom);
    if let Some(over) = &view.over {
        draw_over(frame, over, (state, view, sheet));
    }
}

fn summary(state: &State, view: &View) -> Line<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    // In front, where a narrow screen has room for it.
    let marks = [(view.is_lost, "LOST "), (view.is_paused, "PAUSED ")];
    let marks = marks.into_iter().filter(|(is_so, _)| *is_so);
    let mut line = marks.map(|(_, mark)| Span::styled(mark, bold)).collect::<Line<'_>>();
    line.push_span(state.summary());
    line
}

fn tabs(view: &View) -> Line<'static> {
    let tab = |(number, tab): (usize, &Tab)| {
        let is_here = *tab == view.tab;
        let style = if is_here { Modifier::BOLD | Modifier::UNDERLINED } else { Modifier::empty() };
        // Also without attributes it is seen which it is.
        let (open, close) = if is_here { ('[', ']') } else { (' ', ' ') };
        let text = format!("{open}{} {}{close}", number + 1, tab.title());
        Span::styled(text, Style::new().add_modifier(style))
    };
    Line::from(Tab::ALL.iter().enumerate().map(tab).collect::<Vec<_>>())
}

fn row_line(
    row: &Row,
    widths: &[usize],
    width: u16,
    (is_selected, colour): (bool, Colour),
) -> Line<'static> {
    let mut text = row.line(widths);
    let left = usize::from(width).saturating_sub(text.chars().count() + 1);
    if left > 2 && !row.trend.is_empty() {
        text.push(' ');
        text.push_str(&row.bars(left.min(BARS)));
    }
    let mut style = match (row.tone, colour) {
        (Tone::Plain, _) | (Tone::Good, Colour::Off) => Style::new(),
        (Tone::Good, Colour::On) => Style::new().fg(Color::Green),
        (Tone::Bad, Colour::On) => Style::new().fg(Color::Red),
        (Tone::Bad, Colour::Off) => Style::new().add_modifier(Modifier::BOLD),
    };
    if is_selected {
        style = style.add_modifier(Modifier::REVERSED);
        text = pad(&text, width);
    }
    Line::styled(text, style)
}

fn last_line(view: &View, rows: usize) -> Line<'static> {
    match &view.prompt {
        Some((Prompt::Filter, line)) => Line::raw(format!("/{}_", printable(line))),
        Some((Prompt::Trace, line)) => Line::raw(format!("trace to: {}_", printable(line))),
        None if !view.said.is_empty() => Line::raw(printable(&view.said)),
        None if !view.filter.is_empty() => {
            Line::raw(format!("{rows} rows say {}  Esc: all", printable(&view.filter)))
        }
        None => Line::raw(KEYS),
    }
}

fn draw_over(frame: &mut Frame<'_>, over: &Over, (state, view, sheet): (&State, &View, &Sheet)) {
    let area = frame.area();
    // The summary stays.
    let inner = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    let (title, lines) = match over {
        Over::Help => {
            let line = |(keys, what): &(&str, &str)| format!("{keys:22}{what}");
            ("Keys".to_owned(), HELP.iter().map(line).collect())
        }
        Over::Details => {
            let row = sheet.rows.get(view.selected(sheet));
            let title = row.map_or_else(String::new, |row| row.cells[0].shown());
            let details = row.map(|row| state.details(view.tab, &row.id)).unwrap_or_default();
            let line = |(name, value): &(String, String)| format!("{name:12} {value}");
            let lines = details.iter().map(line).collect::<Vec<_>>();
            (title, if lines.is_empty() { vec!["all is in the table".into()] } else { lines })
        }
        Over::Answer(title, lines) => (title.clone(), lines.clone()),
    };
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut text = vec![Line::styled(printable(&title), bold), Line::raw("")];
    text.extend(lines.into_iter().map(Line::raw));
    text.extend([Line::raw(""), Line::raw("Esc: back")]);
    frame.render_widget(Clear, inner);
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }), inner);
}

fn pad(text: &str, width: u16) -> String {
    format!("{text:width$}", width = usize::from(width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::state::News;
    use mvirt_net::proto::{
        DropCount, Event, Network, NetworkEvent, Nic, NicEvent, NicState, NicStats, Reactor,
        StatsUpdate,
    };
    use ratatui::{Terminal, backend::TestBackend};

    fn known() -> State {
        let mut state = State::default();
        let network = Network { name: "prod".into(), kind: 1, ..Default::default() };
        state.take(News::Network(NetworkEvent {
            network_id: "n".into(),
            network: Some(network),
            ..Default::default()
        }));
        for (id, nic_state) in [("vm1", NicState::Active), ("vm2", NicState::Error)] {
            let nic = Nic {
                name: id.into(),
                network_id: "n".into(),
                network_name: "prod".into(),
                state: nic_state.into(),
                error: if id == "vm2" { "a \x1b bad VMM".into() } else { String::new() },
                ..Default::default()
            };
            let nic_id = id.to_owned();
            state.take(News::Nic(NicEvent { nic_id, nic: Some(nic), ..Default::default() }));
        }
        let stats = |frames| NicStats {
            nic_id: "vm1".into(),
            ingress_frames: frames,
            ingress_octets: frames * 1500,
            drops: vec![DropCount { reason: "no_route".into(), frames: 7 }],
            ..Default::default()
        };
        let update = |elapsed_ns, frames| StatsUpdate {
            time: "2026-11-27T18:30:00Z".into(),
            elapsed_ns,
            stats: vec![stats(frames)],
            ..Default::default()
        };
        assert!(state.take(News::Stats(update(0, 9))) && !state.is_measured);
        assert!(state.take(News::Stats(update(1_000_000_000, 125_000))));
        state.look_at(vec![Reactor::default()], jiff::Timestamp::UNIX_EPOCH);
        let text = "the daemon has started".into();
        state.take(News::Event(Event { kind: "started".into(), text, ..Default::default() }));
        state
    }

    fn screen(view: &View, (width, height): (u16, u16), colour: Colour) -> Terminal<TestBackend> {
        let state = known();
        let mut sheet = state.sheet(view.tab);
        view.apply(&mut sheet);
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, (&state, view, &sheet), colour)).unwrap();
        terminal
    }

    fn lines(terminal: &Terminal<TestBackend>) -> Vec<String> {
        let buffer = terminal.backend().buffer();
        let width = usize::from(buffer.area.width);
        let rows = buffer.content.chunks(width);
        rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>()).collect()
    }

    #[test]
    fn a_screen_of_80_by_24_has_all_that_matters() {
        let terminal = screen(&View::new(Tab::Nics), (80, 24), Colour::On);
        let lines = lines(&terminal);
        let trimmed: Vec<_> = lines.iter().map(|line| line.trim_end()).collect();
        assert!(trimmed[0].contains("125k frames/s 1.5G bit/s 7 dropped/s"), "{lines:#?}");
        assert_eq!(trimmed[1], " 1 networks [2 vNICs] 3 reactors  4 drops  5 events");
        assert_eq!(trimmed[2], "NAME* NETWORK  STATE   FROM/S  BIT/S   TO/S  BIT/S  DROP/S");
        assert_eq!(trimmed[3], "vm1   prod     active    125k   1.5G      0      0       7 █");
        assert!(trimmed[4].starts_with("vm2   prod     error        0"));
        assert_eq!(trimmed[23], KEYS);
        let buffer = terminal.backend().buffer();
        assert_eq!(buffer[(0, 3)].fg, Color::Red, "it drops");
        assert!(buffer[(0, 3)].modifier.contains(Modifier::REVERSED), "it is selected");
    }

    #[test]
    fn that_the_daemon_is_lost_stays_to_be_seen() {
        let mut view = View::new(Tab::Nics);
        view.is_lost = true;
        let sheet = known().sheet(Tab::Nics);
        view.key(ratatui::crossterm::event::KeyCode::Down.into(), &sheet, 10);
        let shown = lines(&screen(&view, (80, 24), Colour::On));
        assert!(shown[0].starts_with("LOST "), "{shown:#?}");
        view.is_lost = false;
        assert!(!lines(&screen(&view, (80, 24), Colour::On))[0].contains("LOST"));
    }

    #[test]
    fn without_colour_there_is_none() {
        for tab in Tab::ALL {
            let terminal = screen(&View::new(tab), (80, 24), Colour::Off);
            let cells = terminal.backend().buffer().content.iter();
            assert!(cells.clone().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
        }
    }

    #[test]
    fn details_and_help_are_over_the_table_and_move_no_cursor() {
        let mut view = View::new(Tab::Nics);
        view.filter = "vm2".into();
        view.over = Some(Over::Details);
        let shown = lines(&screen(&view, (80, 24), Colour::On)).join("\n");
        assert!(shown.contains("error        a \\u{1b} bad VMM"), "{shown}");
        view.over = Some(Over::Help);
        let shown = lines(&screen(&view, (80, 24), Colour::On)).join("\n");
        assert!(HELP.iter().all(|(_, what)| shown.contains(what)), "{shown}");
    }

    #[test]
    fn a_screen_of_any_size_is_drawn() {
        for size in [(1, 1), (3, 2), (20, 5), (300, 100)] {
            for tab in Tab::ALL {
                let mut view = View::new(tab);
                screen(&view, size, Colour::On);
                view.over = Some(Over::Details);
                screen(&view, size, Colour::On);
            }
        }
    }
}
