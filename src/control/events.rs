//! What has happened, for people and programs that want to know: the last 10,000 events, and each
//! that comes.
//!
//! Nobody can make many: what VMMs and guests bring about is told as often as the log says it.

use super::{
    Control,
    happened::{Happened, Kind, Severity},
    refusal::Refusal,
    watch::{self, EventStream},
};
use crate::{log_limit::LogLimit, proto};
use jiff::Timestamp;
use std::{collections::VecDeque, sync::Arc, time::Instant};
use tokio::sync::{OwnedSemaphorePermit, broadcast};
use tokio_stream::StreamExt as _;
use tonic::Response;
use uuid::Uuid;

/// Events that are kept.
pub const KEPT: usize = 10_000;
/// Events a watcher may be behind before it is disconnected.
const BACKLOG: usize = 1024;

/// What has happened.
#[derive(Debug)]
pub(super) struct Events {
    /// In the order of their times.
    kept: VecDeque<(Timestamp, Arc<proto::Event>)>,
    sender: broadcast::Sender<Arc<proto::Event>>,
    /// The time of the last one.
    last: Timestamp,
    /// Of limits that were reached: clients choose how often that is.
    limits: LogLimit,
    /// Of captures that begin, likewise.
    pub(super) captures: LogLimit,
}

impl Default for Events {
    fn default() -> Self {
        let (sender, last) = (broadcast::Sender::new(BACKLOG), Timestamp::MIN);
        let [limits, captures] = Default::default();
        Self { kept: VecDeque::new(), sender, last, limits, captures }
    }
}

impl Events {
    /// Keeps it, and tells watchers.
    pub(super) fn note(&mut self, happened: Happened) {
        // Times only grow: who watches from the last that it has seen on misses none.
        let next = self.last.as_nanosecond() + 1;
        let next = Timestamp::from_nanosecond(next).unwrap_or(self.last);
        self.last = Timestamp::now().max(next);
        let event = Arc::new(proto::Event {
            time: self.last.to_string(),
            severity: happened.severity.into(),
            kind: happened.kind.name().into(),
            object_ids: happened.objects.iter().map(ToString::to_string).collect(),
            text: happened.text,
            details: happened.details,
        });
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((self.last, Arc::clone(&event)));
        // Without watchers there is nobody to tell.
        self.sender.send(event).ok();
    }

    /// A limit was reached, of which a refusal says what is to be said.
    pub(super) fn limit_reached(&mut self, text: String, objects: impl IntoIterator<Item = Uuid>) {
        if let Some(said) = self.limits.failure(&text, Instant::now()) {
            let happened = Happened::new(Kind::LimitReached, Severity::Warning, text);
            self.note(happened.to(objects).after(said));
        }
    }
}

/// What one watcher is to be told.
#[derive(Debug)]
pub(super) struct EventWatch {
    kept: Vec<Arc<proto::Event>>,
    events: broadcast::Receiver<Arc<proto::Event>>,
    /// Only these; empty: all.
    kinds: Vec<&'static str>,
}

impl EventWatch {
    fn is_wanted(kinds: &[&'static str], event: &proto::Event) -> bool {
        kinds.is_empty() || kinds.contains(&&*event.kind)
    }

    /// Returns the last ones of what was kept, to one object where that is wanted, the first first.
    pub(super) fn last(&self, most: usize, object: Option<Uuid>) -> Vec<proto::Event> {
        let object = object.map(|id| id.to_string());
        let is_of = |event: &&Arc<proto::Event>| {
            Self::is_wanted(&self.kinds, event)
                && object.as_ref().is_none_or(|id| event.object_ids.contains(id))
        };
        let last = self.kept.iter().rev().filter(is_of).take(most);
        let mut last: Vec<_> = last.map(|event| (**event).clone()).collect();
        last.reverse();
        last
    }
}

impl Control {
    /// Returns what has happened after the time that is asked for, and will.
    pub(super) fn watch_events(
        &self,
        request: &proto::WatchEventsRequest,
    ) -> Result<EventWatch, Refusal> {
        let kinds = request.kinds.iter().map(|name| Kind::of(name));
        let mut kinds = kinds.collect::<Result<Vec<_>, _>>()?;
        // Anybody may ask for the same one a million times.
        kinds.sort_unstable();
        kinds.dedup();
        let since = match &*request.since {
            "" => None,
            text => Some(text.parse::<Timestamp>().map_err(|_| {
                let expected = "expected a time like 2026-11-27T18:30:00Z";
                Refusal::invalid("since", text, expected)
            })?),
        };
        let kept = &self.events.kept;
        let first = kept.partition_point(|(at, _)| since.is_some_and(|since| *at <= since));
        Ok(EventWatch {
            kept: kept.range(first..).map(|(_, event)| Arc::clone(event)).collect(),
            // Subscribed within the same turn on Control's thread: none falls in between.
            events: self.events.sender.subscribe(),
            kinds,
        })
    }
}

/// Those that were kept first, then each that comes.
pub(super) fn stream(
    watch: EventWatch,
    stream: OwnedSemaphorePermit,
) -> Response<EventStream<proto::Event>> {
    let EventWatch { kept, events, kinds } = watch;
    let told = move |event: Arc<proto::Event>| {
        EventWatch::is_wanted(&kinds, &event).then(|| Arc::unwrap_or_clone(event))
    };
    // One by one: what is told later is shared until then.
    let kept = tokio_stream::iter(kept.into_iter().filter_map(told.clone()).map(Ok));
    let coming = watch::until_lost(events, stream, told);
    Response::new(Box::pin(kept.chain(coming)))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Events {
        pub(in crate::control) fn last_kind(&self) -> String {
            self.kept.back().map(|(_, event)| event.kind.clone()).unwrap_or_default()
        }
    }

    #[test]
    fn as_many_are_kept_as_are_promised_and_their_times_grow() {
        let mut events = Events::default();
        for number in 0..KEPT + 5 {
            let text = number.to_string();
            let happened = Happened::new(Kind::NicState, Severity::Info, text);
            events.note(happened.to([Uuid::nil()]).with("state", "active").with("error", ""));
        }
        assert_eq!(events.kept.len(), KEPT);
        let text = |at: usize| &*events.kept[at].1.text;
        assert_eq!((text(0), text(KEPT - 1)), ("5", "10004"));
        assert_eq!(events.kept[0].1.details.len(), 1, "what is empty is left out");
        let times = events.kept.iter().map(|(_, event)| event.time.parse::<Timestamp>().unwrap());
        assert!(times.collect::<Vec<_>>().windows(2).all(|two| two[0] < two[1]));
    }

    #[test]
    fn a_limit_that_is_met_again_and_again_is_told_once() {
        let mut events = Events::default();
        for _ in 0..1000 {
            events.limit_reached("there are 4 networks, and --max-networks allows 4".into(), []);
        }
        events.limit_reached("another".into(), []);
        assert_eq!(events.kept.len(), 2);
        assert_eq!(events.kept[1].1.kind, "limit_reached");
    }
}
