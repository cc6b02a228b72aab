//! What goes between the task that has the fabric and those of its clients.

use crate::switchyard::{
    fabric::ClientId,
    protocol::{Malformed, Message},
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Octets of frames that wait for one client, at most.
const MAX_WAITING: usize = 4 << 20;
/// What a waiting message costs beside its octets.
const MESSAGE_COST: usize = 64;
/// Items that are written together, at most.
const TOGETHER: usize = 64;

/// The right to have one reading dealt with; free again once each of its answers is written.
pub(super) type Turn = Arc<OwnedSemaphorePermit>;

/// What comes from clients.
#[derive(Debug)]
pub(super) enum Input {
    Messages(ClientId, Vec<Message>, Turn),
    /// It has gone, or is let go as its stream cannot be read on.
    Left(ClientId, Option<Malformed>),
}

/// What a client is to be sent.
#[derive(Debug)]
pub(super) enum Item {
    Frame(Message),
    Answer(Message, Turn),
    /// The last: it is let go.
    Farewell(Message),
}

/// The end of the way to one client.
#[derive(Debug)]
pub(super) struct Inbox {
    items: mpsc::UnboundedReceiver<Item>,
    waiting: Arc<AtomicUsize>,
}

impl Inbox {
    /// Waits for some items, and appends them; 0: there will be no more.
    pub(super) async fn next(&mut self, items: &mut Vec<Item>) -> usize {
        self.items.recv_many(items, TOGETHER).await
    }

    /// They have been dealt with: there is room for others, and for what their readers ask next.
    pub(super) fn done(&self, items: &mut Vec<Item>) {
        for item in items.drain(..) {
            match item {
                Item::Frame(frame) => {
                    self.waiting.fetch_sub(cost(&frame), Relaxed);
                }
                Item::Answer(_, turn) => drop(turn),
                Item::Farewell(_) => {}
            }
        }
    }
}

/// The way to one client.
#[derive(Debug)]
pub(super) struct Outbox {
    items: mpsc::UnboundedSender<Item>,
    /// Octets of frames in it.
    waiting: Arc<AtomicUsize>,
    /// Frames that did not fit.
    pub(super) lost: u64,
}

fn cost(frame: &Message) -> usize {
    frame.wire_len() + MESSAGE_COST
}

impl Outbox {
    /// Returns a way, and what is at its end.
    pub(super) fn new() -> (Self, Inbox) {
        // Not bounded itself: frames are by `waiting`, answers by turns.
        let (sender, items) = mpsc::unbounded_channel();
        let waiting = Arc::<AtomicUsize>::default();
        (Self { items: sender, waiting: waiting.clone(), lost: 0 }, Inbox { items, waiting })
    }

    /// Reports whether there was room.
    pub(super) fn put_frame(&mut self, frame: Message) -> bool {
        let cost = cost(&frame);
        if self.waiting.load(Relaxed) + cost > MAX_WAITING {
            self.lost += 1;
            return false;
        }
        self.waiting.fetch_add(cost, Relaxed);
        self.put(Item::Frame(frame));
        true
    }

    pub(super) fn put(&self, item: Item) {
        // A closed way is that of a client which leaves: `Input::Left` is on its way.
        self.items.send(item).ok();
    }
}
