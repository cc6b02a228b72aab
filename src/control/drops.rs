//! Frames that were dropped, as the API tells them: whose, why, and who spoke to whom.
//!
//! ```text
//! reactors ── the last heads, asked for twice a second ──▶ a task a watcher ──▶ its client
//!                                                            │ who is behind this port?
//!                                                            ▼ Control
//! ```

use super::{Control, Gone, Handle, Owner, refusal::Refusal, whom::Whom};
use crate::{
    dataplane::{DropReader, DroppedFrame, Point, forward::tables::PortId},
    printable::printable,
    proto,
    wire::flow::Flow,
};
use jiff::Timestamp;
use std::time::{Duration, Instant};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use uuid::Uuid;

/// Between two looks.
// Reactors keep what is dropped in more than two seconds.
const LOOK: Duration = Duration::from_millis(500);

/// Somebody who watches.
#[derive(Debug)]
pub(super) struct DropWatch {
    reader: DropReader,
    whom: Whom,
}

impl Control {
    /// Returns the way to what is dropped of those whom a request names.
    pub(super) fn watch_drops(
        &self,
        request: &proto::WatchDropsRequest,
    ) -> Result<DropWatch, Refusal> {
        let mut whom = self.whom(&request.network_id, &request.targets)?;
        if let Whom::These(ids) = &mut whom {
            // For each frame it is looked for there.
            ids.sort_unstable();
        }
        Ok(DropWatch { reader: self.dataplane.dropped(), whom })
    }

    /// Returns whose frames are counted at a port, as its id; none where that has gone.
    fn object_at(&self, port: PortId) -> Option<Uuid> {
        match *self.by_port.get(&port)? {
            Owner::Nic(id) | Owner::Port(id) | Owner::Client { port: id, .. } => Some(id),
            Owner::Outside => None,
        }
    }

    fn is_meant(&self, whom: &Whom, object: Option<Uuid>) -> bool {
        match (whom, object) {
            (Whom::All, _) => true,
            (_, None) => false,
            (Whom::These(ids), Some(id)) => ids.binary_search(&id).is_ok(),
            (Whom::Network(network), Some(id)) => {
                let nic = self.nics.get(&id).map(|nic| nic.model.network_id == *network);
                let port = || self.ports.get(&id).map(|entry| entry.model.is_in(*network));
                nic.or_else(port).unwrap_or_default()
            }
        }
    }

    /// Returns frames as they are told, of those who are meant.
    fn told_drops(&self, frames: &[DroppedFrame], whom: &Whom) -> Vec<proto::DroppedFrame> {
        let clocks = (Instant::now(), Timestamp::now());
        let frames = frames.iter().map(|frame| (frame, self.object_at(frame.port)));
        let meant = frames.filter(|(_, object)| self.is_meant(whom, *object));
        let told = meant.map(|(frame, object)| {
            let who = self.who(frame.port);
            let point = match frame.point {
                Point::FromGuest => proto::CapturePoint::FromGuest,
                Point::ToGuest => proto::CapturePoint::ToGuest,
            };
            proto::DroppedFrame {
                time: time(clocks, frame.time),
                reason: frame.reason.name().into(),
                text: frame.reason.meaning().into(),
                object_id: object.map(|id| id.to_string()).unwrap_or_default(),
                name: printable(&who.name),
                network: who.network,
                point: point.into(),
                vlan: frame.vlan.map_or(0, |vlan| vlan.get().into()),
                length: frame.len.try_into().unwrap_or(u32::MAX),
                head: frame.head.to_vec(),
                flow: Flow::of(&frame.head).map_or("cut".into(), |flow| flow.to_string()),
            }
        });
        told.collect()
    }
}

/// Returns a time of the clock as the API tells it.
fn time((now, at): (Instant, Timestamp), then: Instant) -> String {
    at.checked_sub(now.saturating_duration_since(then)).unwrap_or(at).to_string()
}

/// Tells what there is at once, then what comes.
pub(super) fn stream(
    watch: DropWatch,
    control: Handle,
    stream: OwnedSemaphorePermit,
) -> ReceiverStream<Result<proto::DropsUpdate, Status>> {
    // One waits: a reader that is slow misses frames, and nobody waits for it.
    let (updates, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let _held = stream;
        tokio::select! {
            () = tell(watch, &control, &updates) => {}
            // Also while Control waits for a disk: who has gone keeps no place.
            () = updates.closed() => {}
        }
    });
    ReceiverStream::new(receiver)
}

async fn tell(
    DropWatch { mut reader, whom }: DropWatch,
    control: &Handle,
    updates: &mpsc::Sender<Result<proto::DropsUpdate, Status>>,
) {
    let mut is_first = true;
    loop {
        let update = look(&mut reader, &whom, control).await.map_err(Status::from);
        let is_over = update.is_err();
        let is_news = update.as_ref().is_ok_and(|update| !update.frames.is_empty());
        if is_news || is_over || std::mem::take(&mut is_first) {
            // Nobody reads it: `stream` sees that, too.
            updates.send(update).await.ok();
        }
        if is_over {
            return;
        }
        sleep(LOOK).await;
    }
}

async fn look(
    reader: &mut DropReader,
    whom: &Whom,
    control: &Handle,
) -> Result<proto::DropsUpdate, Gone> {
    let (frames, unseen) = reader.next().await;
    if frames.is_empty() {
        return Ok(proto::DropsUpdate { frames: Vec::new(), unseen });
    }
    let whom = whom.clone();
    let frames = control.call(move |control| control.told_drops(&frames, &whom)).await?;
    Ok(proto::DropsUpdate { frames, unseen })
}
