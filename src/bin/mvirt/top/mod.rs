//! `mvirt top`: what networks, vNICs and reactors carry, as it happens.
//!
//! ```text
//! daemon ── streams ──▶ feed ──▶ state (what is known) ──▶ sheet (a table) ──▶ draw, or lines
//!                        keys ──▶ view (how it is looked at) ──┘
//! ```

mod actions;
mod draw;
mod feed;
mod keys;
mod sheet;
mod state;

use crate::{
    Failure,
    connect::{Client, Connection},
    output::{self, Output},
    units,
};
use actions::Heard;
use clap::Args;
use draw::Colour;
use feed::Feed;
use jiff::Timestamp;
use keys::{Action, View};
use mvirt_net::proto::ListReactorsRequest;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEvent, KeyEventKind},
};
use sheet::Sheet;
use state::{State, Tab};
use std::{
    env,
    io::{self, IsTerminal as _},
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};

const EXAMPLES: &str = "\
Examples:
  mvirt top
  mvirt top -b -n 1                       # a look for a script
  mvirt top -b -n 1 --tab reactors -o json";

/// How it is looked at.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Flags {
    /// Print tables, one after the other, instead of drawing a screen
    #[arg(short, long)]
    batch: bool,
    /// With --batch, end after so many
    #[arg(short = 'n', long, value_name = "N", requires = "batch")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Time from one look to the next: seconds, or like 500ms
    #[arg(short, long, value_name = "TIME", default_value = "1", value_parser = delay)]
    delay: Duration,
    /// What is shown at first: networks, nics, reactors, drops or events
    #[arg(long, value_name = "TAB", default_value = "nics", hide_possible_values = true)]
    tab: Tab,
    /// Only rows that say this
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    filter: String,
}

fn delay(text: &str) -> Result<Duration, String> {
    let least = Duration::from_millis(100);
    match units::seconds(text)? {
        delay if delay < least => Err("expected 100ms or more".into()),
        // What the daemon counts at, at most.
        delay if delay > Duration::from_secs(3600) => Err("expected an hour or less".into()),
        delay => Ok(delay),
    }
}

pub(crate) async fn run(
    flags: Flags,
    client: Client,
    (connection, out): (&Connection, &Output),
) -> Result<(), Failure> {
    let mut view = View::new(flags.tab);
    view.filter.clone_from(&flags.filter);
    let mut watched =
        Watched { feed: Feed::begin(&client, flags.delay), state: State::default(), client };
    if flags.batch {
        return print(&flags, &view, &mut watched, out).await;
    }
    let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    if !out.is_for_people() || dumb || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let said = "it draws a screen on a terminal: --batch prints tables, and documents";
        return Err(Failure::Usage(said.into()));
    }
    let mut terminal = ratatui::try_init()?;
    let ended = look(&mut terminal, view, watched, (connection, flags.delay)).await;
    ratatui::restore();
    ended
}

/// A daemon, and what is known of it.
struct Watched {
    client: Client,
    feed: Feed,
    state: State,
}

impl Watched {
    /// Waits until something has come. Returns whether all is counted now that there is of a
    /// moment.
    async fn next(&mut self) -> Result<bool, Failure> {
        let news = self.feed.next().await?;
        if !self.state.take(news) {
            return Ok(false);
        }
        let reactors = self.client.list_reactors(ListReactorsRequest::default()).await?;
        self.state.look_at(reactors.into_inner().reactors, Timestamp::now());
        Ok(true)
    }
}

/// Prints tables, until there were so many, or Ctrl-C.
async fn print(
    flags: &Flags,
    view: &View,
    watched: &mut Watched,
    out: &Output,
) -> Result<(), Failure> {
    let mut left = flags.count.unwrap_or(u64::MAX);
    let mut interrupt = signal(SignalKind::interrupt())?;
    while left > 0 {
        let is_whole = tokio::select! {
            is_whole = watched.next() => is_whole?,
            // It is how this ends: nothing went wrong.
            _ = interrupt.recv() => return Ok(()),
        };
        // Rates take two looks.
        if !is_whole || !watched.state.is_measured {
            continue;
        }
        let sheet = seen(&watched.state, view);
        if out.is_document() {
            let rows = serde_json::json!({ "tab": flags.tab, "rows": sheet.documents() });
            out.event(&rows)?;
        } else {
            let widths = sheet.widths();
            let heading = [watched.state.summary(), sheet.heading(&widths, None)];
            let rows = sheet.rows.iter().map(|row| row.line(&widths).trim_end().to_owned());
            let lines = heading.into_iter().chain(rows).chain([String::new()]);
            output::print(&lines.map(|line| line + "\n").collect::<String>())?;
        }
        left -= 1;
    }
    Ok(())
}

/// Returns the table as it is to be seen.
fn seen(state: &State, view: &View) -> Sheet {
    let mut sheet = state.sheet(view.tab);
    view.apply(&mut sheet);
    sheet
}

/// What there is to do.
enum Turn {
    Key(KeyEvent),
    Draw,
    End,
}

/// Draws, and does what keys say, until one ends it.
async fn look(
    terminal: &mut DefaultTerminal,
    mut view: View,
    mut watched: Watched,
    (connection, delay): (&Connection, Duration),
) -> Result<(), Failure> {
    // NO_COLOR is for whoever draws, too (https://no-color.org).
    let has_colour = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let colour = if has_colour { Colour::On } else { Colour::Off };
    let (mut keys, mut end) = (keyboard(), signal(SignalKind::terminate())?);
    let mut actions = JoinSet::new();
    // While it stands still.
    let mut paused = None::<State>;
    loop {
        let state = paused.as_ref().unwrap_or(&watched.state);
        let sheet = seen(state, &view);
        let selected = sheet.rows.get(view.selected(&sheet)).map(|row| row.id.clone());
        let name = selected.and_then(|id| state.name(view.tab, &id)).map(str::to_owned);
        terminal.draw(|frame| draw::draw(frame, (state, &view, &sheet), colour))?;
        let turn = loop {
            tokio::select! {
                event = keys.recv() => break match event {
                    Some(Event::Key(key)) if key.kind != KeyEventKind::Release => Turn::Key(key),
                    Some(_) => Turn::Draw,
                    // There is no keyboard any more.
                    None => Turn::End,
                },
                _ = end.recv() => break Turn::End,
                Some(Ok(heard)) = actions.join_next() => {
                    view.said.clear();
                    match heard {
                        Heard::Connected(client) => {
                            let feed = Feed::begin(&client, delay);
                            watched = Watched { client, feed, state: State::default() };
                            view.is_lost = false;
                        }
                        Heard::Said(text) => view.said = text,
                        Heard::Over(over) => view.over = Some(over),
                    }
                    break Turn::Draw;
                }
                news = watched.next(), if !view.is_lost => match news {
                    Ok(true) => break Turn::Draw,
                    // Drawn with what is counted next.
                    Ok(false) => {}
                    Err(failure) => {
                        view.is_lost = true;
                        view.said = format!("{failure}; it is looked for");
                        actions.spawn(actions::connected(connection.clone()));
                        break Turn::Draw;
                    }
                },
            }
        };
        let key = match turn {
            Turn::Key(key) => key,
            Turn::Draw => continue,
            Turn::End => return Ok(()),
        };
        let page = draw::page(terminal.size()?.height);
        match (view.key(key, &sheet, page), name) {
            (Action::Quit, _) => return Ok(()),
            (Action::Pause, _) => {
                paused = if paused.is_none() { Some(watched.state.clone()) } else { None };
                view.is_paused = paused.is_some();
            }
            (Action::Capture, Some(name)) => {
                view.said = format!("capturing frames of {name}");
                actions.spawn(actions::captured(watched.client.clone(), name));
            }
            (Action::Trace(to), Some(name)) => {
                view.said = format!("asking for a packet from {name} to {to}");
                actions.spawn(actions::traced(watched.client.clone(), name, to));
            }
            (Action::None | Action::Capture | Action::Trace(_), _) => {}
        }
    }
}

/// Returns what is typed, read by a thread that ends with the program.
fn keyboard() -> mpsc::Receiver<Event> {
    let (sender, keys) = mpsc::channel(64);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    keys
}
