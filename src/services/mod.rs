//! What a gateway serves by TCP: the metadata of vNICs, and their names where a client of DNS asks
//! that way; and, also by UDP, names of others, for which it asks servers.
//!
//! ```text
//! reactor ── frames (Punts) ──▶ serve: a stack for each vNIC that asks ──▶ http │ dns ──▶ resolver
//!         ◀── frames (Way) ────        datagram ───────────────────────▶        dns ──▶ resolver
//! control ── published with each network ──▶ Guests: who is behind which port
//! ```
//! A stack is made by the first frame of a vNIC, and goes a minute after the last one. Whoever is
//! served is known by the port that the frame came by, and by nothing that is in it.

mod asker;
mod datagram;
mod dns;
mod guests;
mod http;
pub mod metadata;
mod resolver;
mod stack;
mod tokens;

pub use guests::{Card, Guests};
pub use resolver::Upstream;

use crate::dataplane::{Punted, Punts, Way, forward::tables::PortId};
use asker::Common;
use datagram::Datagram;
use resolver::Resolver;
use stack::Stack;
use std::{collections::HashMap, path::PathBuf, sync::Arc};
use tokens::Tokens;
use tokio::{sync::mpsc, task::JoinSet};

/// Frames of a vNIC's that wait for its stack.
// Those beyond are lost, and sent again. A reactor holds back as many.
const BACKLOG: usize = 256;

/// Serves guests, until there are no ports and will be none. Names of others are asked of the
/// servers in a file of resolv.conf(5), where a network has none of its own.
pub async fn serve(mut punts: Punts, guests: Guests, resolv_conf: PathBuf) {
    let resolver = Arc::new(Resolver::new(resolv_conf));
    let common = Arc::new(Common { guests, tokens: Tokens::default(), resolver });
    let mut asking = JoinSet::new();
    let mut stacks = HashMap::<PortId, mpsc::Sender<(Way, Punted)>>::new();
    let mut running = JoinSet::new();
    loop {
        let (way, punted) = tokio::select! {
            next = punts.recv() => match next {
                Some(next) => next,
                None => return,
            },
            // The stack of a vNIC that has asked for nothing for a while. It may have been
            // followed by another one already.
            Some(ended) = running.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "what serves a guest ended by a panic");
                }
                stacks.retain(|_, frames| !frames.is_closed());
                continue;
            }
            Some(ended) = asking.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "what asks for a guest ended by a panic");
                }
                continue;
            }
        };
        if let Some(datagram) = Datagram::read(&punted) {
            if let Some(later) = dns::hear(&common, way, &punted, datagram) {
                asking.spawn(later);
            }
            continue;
        }
        let port = way.port();
        let frames = match stacks.get(&port) {
            Some(frames) if !frames.is_closed() => frames,
            _ => {
                let (frames, receiver) = mpsc::channel(BACKLOG);
                let whose = (port, punted.network);
                running.spawn(Stack::new(whose, Arc::clone(&common), receiver));
                stacks.entry(port).insert_entry(frames).into_mut()
            }
        };
        // One that is full loses a frame, which is sent again.
        frames.try_send((way, punted)).ok();
    }
}
