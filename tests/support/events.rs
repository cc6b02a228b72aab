//! What a daemon says has happened.

use super::daemon::{Daemon, wait_until};
use mvirt_net::proto::{Event, WatchEventsRequest};
use std::time::Duration;
use tokio::time::timeout;

/// All events of these kinds that are kept, since a time; all of them where nothing is said.
pub(crate) fn kept(daemon: &mut Daemon, since: &str, kinds: &[&str]) -> Vec<Event> {
    let kinds = kinds.iter().map(ToString::to_string).collect();
    let request = WatchEventsRequest { since: since.into(), kinds };
    let mut events = daemon.call(async |client| client.watch_events(request).await).unwrap();
    let mut all = Vec::new();
    // The stream lasts: what is kept comes at once.
    let soon = Duration::from_millis(200);
    while let Ok(Ok(Some(event))) = daemon.block_on(async |_| timeout(soon, events.message()).await)
    {
        all.push(event);
    }
    all
}

/// Waits for an event that is kept.
pub(crate) fn wait_for_event(
    daemon: &mut Daemon,
    kind: &str,
    wanted: impl Fn(&Event) -> bool,
) -> Event {
    let mut found = None;
    wait_until(&format!("there is an event {kind}"), || {
        found = kept(daemon, "", &[kind]).into_iter().find(&wanted);
        found.is_some()
    });
    found.unwrap()
}
