//! Captures: who may have one, of what, and how it goes to its client.
//!
//! ```text
//! reactors ── chunks ──▶ a task a capture ── pcapng ──▶ its client
//!                          │ who is behind this port?
//!                          ▼ Control
//! ```

use super::{Control, Gone, Handle, Owner, refusal::Refusal, watch::EventStream, whom::Whom};
use crate::{
    bpf::Program,
    capture::{Captured, Who, Writer},
    dataplane::{Capture, CaptureRequest, Kept, Points, Targets, forward::tables::PortId},
    printable::printable,
    proto::{self, CapturePoint},
};
use std::{
    future,
    time::{Duration, Instant, SystemTime},
};
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use uuid::Uuid;

/// Octets of a frame that are captured, where nobody says.
// As of tcpdump: more than any frame has.
const SNAPLEN: u32 = 262_144;
/// Parts that wait for their client, beside those that reactors hold.
const UNREAD: usize = 2;

/// Who asks, for the log.
#[derive(Debug, Clone)]
pub struct Caller(pub String);

impl Default for Caller {
    fn default() -> Self {
        Self("unknown".into())
    }
}

/// A capture that has begun.
pub(super) struct Begun {
    frames: Frames,
    /// Interfaces from the beginning on.
    ports: Vec<(PortId, Who)>,
    filter: String,
    snaplen: u32,
    limits: Limits,
}

/// Where frames come from.
enum Frames {
    /// They come from now on.
    Live(Capture),
    /// They are there.
    Kept(Kept, CaptureRequest),
}

/// When a capture ends by itself.
#[derive(Debug, Clone, Copy)]
struct Limits {
    packets: u64,
    octets: u64,
    time: Option<Duration>,
}

impl Limits {
    fn of(request: &proto::CaptureRequest) -> Self {
        let or_all = |limit| if limit == 0 { u64::MAX } else { limit };
        let time = Duration::from_secs(request.max_seconds.into());
        Self {
            packets: or_all(request.max_packets),
            octets: or_all(request.max_octets),
            time: (!time.is_zero()).then_some(time),
        }
    }
}

impl Control {
    /// Begins a capture.
    pub(super) fn begin_capture(
        &mut self,
        request: &proto::CaptureRequest,
        client: &str,
    ) -> Result<Begun, Refusal> {
        let points = points(&request.points)?;
        let filter = if request.filter.trim().is_empty() {
            None
        } else {
            let program = request.filter.parse::<Program>();
            let wrong = |error| Refusal::invalid("filter", &request.filter, error);
            Some(program.map_err(wrong)?)
        };
        let snaplen = if request.snaplen == 0 { SNAPLEN } else { request.snaplen.min(SNAPLEN) };
        let (targets, ports) = self.captured(request)?;
        let wanted = CaptureRequest { targets, points, filter, snaplen: snaplen as usize };
        let frames = if request.ring {
            Frames::Kept(self.kept_frames()?, wanted.among(ports.clone()))
        } else {
            let capture = self.dataplane.capture(wanted);
            Frames::Live(capture.map_err(|error| Refusal::Exhausted(error.to_string()))?)
        };
        // Whose frames were read, and by whom, is for those to know who look after the host.
        tracing::info!(
            client,
            network = printable(&request.network_id),
            targets = printable(&request.targets.join(" ")),
            filter = printable(&request.filter),
            ring = request.ring,
            "capture begins"
        );
        self.note_capture(client, request);
        let ports = ports.into_iter().map(|port| (port, self.who(port))).collect();
        let (filter, limits) = (request.filter.trim().to_owned(), Limits::of(request));
        Ok(Begun { frames, ports, filter, snaplen, limits })
    }

    /// Returns whose frames a request is about, and the ports that there are of them.
    fn captured(&self, request: &proto::CaptureRequest) -> Result<(Targets, Vec<PortId>), Refusal> {
        match self.whom(&request.network_id, &request.targets)? {
            Whom::All => {
                let expected = "required: vNICs or ports, or else a network";
                Err(Refusal::invalid("targets", "", expected))
            }
            Whom::Network(id) => {
                let network = &self.networks[&id];
                let members = network.members.values().chain(network.bridges.values());
                let mut ports: Vec<_> = members.map(|member| member.entry.port()).collect();
                ports.sort_unstable();
                Ok((Targets::Network(network.key), ports))
            }
            Whom::These(ids) => {
                let ports: Vec<_> = ids.into_iter().flat_map(|id| self.ports_of(id)).collect();
                Ok((Targets::Ports(ports.clone()), ports))
            }
        }
    }

    /// Returns the ports of the data plane that a vNIC or port is.
    fn ports_of(&self, id: Uuid) -> Vec<PortId> {
        let nic = self.nics.get(&id).map(|nic| vec![nic.place]);
        let places = nic.or_else(|| Some(self.ports.get(&id)?.places())).unwrap_or_default();
        places.into_iter().map(|place| place.port).collect()
    }

    /// Returns who is behind a port; nobody, where that has gone.
    pub(super) fn who(&self, port: PortId) -> Who {
        let name = |network| {
            self.networks.get(&network).map_or_else(String::new, |it| it.model.name.to_string())
        };
        match self.by_port.get(&port) {
            None => Who::default(),
            Some(Owner::Outside) => Who { name: "outside".into(), ..Who::default() },
            Some(Owner::Nic(id)) => self.nics.get(id).map_or_else(Who::default, |nic| Who {
                name: nic.model.name.to_string(),
                network: name(nic.model.network_id),
                mac: Some(nic.model.mac),
                addresses: [nic.model.ipv4.map(Into::into), nic.model.ipv6.map(Into::into)]
                    .into_iter()
                    .flatten()
                    .collect(),
            }),
            Some(Owner::Port(id)) => self.ports.get(id).map_or_else(Who::default, |port| Who {
                name: port.model.name.to_string(),
                network: name(port.model.network_id),
                ..Who::default()
            }),
            Some(Owner::Client { port: id, slot }) => {
                self.ports.get(id).map_or_else(Who::default, |entry| {
                    let remote = entry.clients.get(slot).map(|client| client.remote.as_str());
                    Who {
                        name: format!("{}/{}", entry.model.name, remote.unwrap_or("?")),
                        network: name(entry.model.network_id),
                        ..Who::default()
                    }
                })
            }
        }
    }
}

fn points(asked: &[i32]) -> Result<Points, Refusal> {
    let mut points = Points { from_guest: false, to_guest: false, dropped: false };
    for point in asked {
        match CapturePoint::try_from(*point) {
            Ok(CapturePoint::FromGuest) => points.from_guest = true,
            Ok(CapturePoint::ToGuest) => points.to_guest = true,
            Ok(CapturePoint::Dropped) => points.dropped = true,
            Ok(CapturePoint::Unspecified) | Err(_) => {
                let expected = "expected FROM_GUEST, TO_GUEST or DROPPED";
                return Err(Refusal::invalid("points", point, expected));
            }
        }
    }
    Ok(match asked {
        [] => Points::ALL,
        _ => points,
    })
}

/// Serves a capture until it ends, or its client goes.
pub(super) fn serve(begun: Begun, control: Handle) -> EventStream<proto::CaptureChunk> {
    let (parts, read) = mpsc::channel(UNREAD);
    tokio::spawn(async move {
        let served = tokio::select! {
            served = run(begun, &control, &parts) => served,
            // Its client has gone: the capture goes with it.
            () = parts.closed() => return,
        };
        if let Err(gone) = served {
            parts.send(Err(gone.into())).await.ok();
        }
    });
    Box::pin(ReceiverStream::new(read))
}

/// Where a capture's parts go.
type Parts = mpsc::Sender<Result<proto::CaptureChunk, Status>>;

async fn run(begun: Begun, control: &Handle, parts: &Parts) -> Result<(), Gone> {
    let Begun { frames, ports, filter, snaplen, limits } = begun;
    let clocks = (Instant::now(), SystemTime::now());
    let mut writer = Writer::new(&filter, snaplen, limits.packets, clocks);
    for (port, who) in ports {
        writer.learn(port, who);
        writer.interface(port);
    }
    let mut octets = 0;
    let mut hand_on = async |writer: &mut Writer, lost: u64| {
        let pcapng = writer.take();
        octets += pcapng.len() as u64;
        // Nobody reads it: `serve` sees that, too.
        parts.send(Ok(proto::CaptureChunk { pcapng, lost })).await.ok();
        octets
    };
    // At once: a client that sees it knows that what comes from now on is captured.
    let mut written = hand_on(&mut writer, 0).await;
    let mut capture = match frames {
        Frames::Live(capture) => capture,
        Frames::Kept(kept, wanted) => {
            for chunk in kept.collected().await {
                let selects = |frame: &Captured<'_>| wanted.selects(frame.0, frame.1);
                let chosen: Vec<_> = chunk.iter().filter(selects).collect();
                learn(&mut writer, chosen.iter().copied(), control).await?;
                writer.write(chosen.into_iter());
                if hand_on(&mut writer, 0).await >= limits.octets || writer.is_full() {
                    break;
                }
            }
            writer.finish(Instant::now());
            hand_on(&mut writer, 0).await;
            return Ok(());
        }
    };
    let mut over = Box::pin(async {
        match limits.time {
            Some(time) => sleep(time).await,
            None => future::pending().await,
        }
    });
    while written < limits.octets && !writer.is_full() {
        let chunk = tokio::select! {
            chunk = capture.next() => chunk.ok_or(Gone)?,
            () = &mut over => break,
        };
        learn(&mut writer, chunk.iter(), control).await?;
        writer.write(chunk.iter());
        // Given back before its client is waited for.
        drop(chunk);
        written = hand_on(&mut writer, capture.lost()).await;
    }
    writer.finish(Instant::now());
    hand_on(&mut writer, capture.lost()).await;
    Ok(())
}

/// Learns who is behind the ports that frames name.
async fn learn<'a>(
    writer: &mut Writer,
    frames: impl Iterator<Item = Captured<'a>>,
    control: &Handle,
) -> Result<(), Gone> {
    let unknown = writer.unknown(frames);
    if !unknown.is_empty() {
        let who = move |control: &mut Control| {
            unknown.into_iter().map(|port| (port, control.who(port))).collect::<Vec<_>>()
        };
        control.call(who).await?.into_iter().for_each(|(port, who)| writer.learn(port, who));
    }
    Ok(())
}
