//! Frames in datagrams of UDP, to whoever has their MAC: VXLAN (RFC 7348), and VDE's clouds
//! (vdeplug4, libvdeplug_vxvde), which have its header and other rules.
//!
//! | | VXLAN | VDE |
//! |---|---|---|
//! | sends from | the port that all have | a port of one's own, from which none is told apart |
//! | a frame for all goes to | the group, or each of a list | the group |
//! | one for a known MAC | its sender's address, and that port | its sender's address and port |
//! | the header has to be | of the network | the same, to the last bit |
//! | who leaves | is forgotten in time | says so by a header without a frame |

mod batch;
pub mod remotes;

use super::{
    PortFailure, Undelivered,
    descriptor::{Inbox, Received, Transport},
    mmsg,
    own::OwnPort,
};
use crate::{
    dataplane::frame::{BURST, MAX_FRAME_LEN, join::Join, offload::Offloads, verdict::DropReason},
    wire::{
        ethernet,
        vnet::Offload,
        vxlan::{self, Header},
    },
};
use arrayvec::ArrayVec;
use batch::Batch;
use ipnet::IpNet;
use remotes::Remotes;
use rustix::{event::epoll, io::Errno, net::SocketAddrAny};
use std::{
    io, iter, mem,
    net::SocketAddr,
    ops::Range,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::Instant,
};
use zerocopy::{FromBytes as _, IntoBytes as _};

/// Octets of datagrams that wait to be sent together.
// A burst of frames of an Ethernet's MTU, and any single frame.
const TOGETHER: usize = 4 * (MAX_FRAME_LEN + 1);
/// How many errors that say nothing of this frame are passed over: each is of a packet before.
const RETRIES: usize = 4;
/// What the kernel cuts into datagrams at most: octets, those of one packet of IP with its headers,
/// and datagrams (`UDP_MAX_SEGMENTS`).
const LARGEST_CUT: usize = 65_000;
const MOST_CUT: usize = 64;

/// By whose rules frames go.
#[derive(Debug, Clone)]
pub enum Rules {
    /// Those of RFC 7348.
    Vxlan {
        /// The port that all members have.
        port: u16,
        /// Whether it is learned who has a MAC.
        learn: bool,
        /// Whom frames are taken from; empty: from everybody.
        allow: Vec<IpNet>,
    },
    /// Those of VDE.
    Vxvde {
        /// The port of one's own.
        own: OwnPort,
    },
}

/// What a tunnel is made of.
#[derive(Debug)]
pub struct Sockets {
    /// What frames are sent from, and come to.
    pub own: OwnedFd,
    /// What hears the group, where that is another.
    pub group: Option<OwnedFd>,
}

/// Whom a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    All,
    One(SocketAddr),
}

/// A tunnel to all members of a network.
#[derive(Debug)]
pub struct Tunnel {
    rules: Rules,
    header: Header,
    sockets: Sockets,
    /// Readable when any of the sockets is.
    ready: OwnedFd,
    /// Where frames for all go.
    floods: Vec<SocketAddr>,
    remotes: Remotes,
    began: Instant,
    /// Seconds since then, as of the last batch of frames in either direction.
    now: u32,
    /// What was received and waits.
    batch: Batch,
    /// Datagrams to be sent: their octets, where each ends, and where it goes.
    taken: Vec<u8>,
    ends: Vec<(usize, To)>,
    /// How many frames could not be sent since the last that could, and why.
    refused: Option<(usize, Undelivered)>,
    /// Whether the kernel has cut all that it was to cut.
    cuts: bool,
}

impl Tunnel {
    /// Returns the tunnel of network `vni`, whose frames for all go to `floods`.
    pub fn new(
        rules: Rules,
        vni: u32,
        sockets: Sockets,
        floods: Vec<SocketAddr>,
        expire_time: u32,
    ) -> io::Result<Self> {
        let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for socket in [Some(&sockets.own), sockets.group.as_ref()].into_iter().flatten() {
            epoll::add(&ready, socket, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
            mmsg::join_received(socket)?;
        }
        Ok(Self {
            rules,
            header: Header::new(vni),
            sockets,
            ready,
            floods,
            remotes: Remotes::new(expire_time),
            began: Instant::now(),
            now: 0,
            batch: Batch::default(),
            taken: Vec::with_capacity(TOGETHER),
            ends: Vec::with_capacity(BURST),
            refused: None,
            cuts: true,
        })
    }

    fn look_at_clock(&mut self) {
        // 136 years.
        self.now = self.began.elapsed().as_secs() as u32;
    }

    /// Returns the frame that a datagram carries behind its header, or why it is none. Nothing: it
    /// is nobody's loss.
    fn judge<'a>(
        &mut self,
        octets: &'a [u8],
        from: Option<SocketAddr>,
    ) -> Option<Result<&'a [u8], DropReason>> {
        let from = from?;
        if let Rules::Vxvde { own } = &mut self.rules
            && own.has_sent(from)
        {
            return None;
        }
        let Some((header, frame)) = Header::parse(octets) else {
            return Some(Err(DropReason::FrameTooShort));
        };
        match &self.rules {
            Rules::Vxlan { allow, .. } => {
                if !allow.is_empty() && !allow.iter().any(|net| net.contains(&from.ip())) {
                    return Some(Err(DropReason::UnknownVtep));
                }
                if header.vni() != self.header.vni() {
                    return Some(Err(DropReason::UnknownVni));
                }
            }
            Rules::Vxvde { .. } => {
                if header != self.header {
                    return Some(Err(DropReason::UnknownVni));
                }
                if frame.is_empty() {
                    self.remotes.forget(from);
                    return None;
                }
            }
        }
        let (remote, learns) = match self.rules {
            Rules::Vxlan { port, learn, .. } => (SocketAddr::new(from.ip(), port), learn),
            Rules::Vxvde { .. } => (from, true),
        };
        if learns && let Ok((header, _)) = ethernet::Header::read_from_prefix(frame) {
            self.remotes.learn(header.source, remote, self.now);
        }
        Some(Ok(frame))
    }

    /// Puts what waits into the inbox, as far as there is room. Segments that follow one another
    /// are one frame there.
    fn unpack(&mut self, batch: &mut Batch, inbox: &mut Inbox) {
        let mut joining: Option<Join> = None;
        while let Some((octets, from)) = batch.first() {
            let judged = self.judge(octets, from);
            if let (Some(join), Some(Ok(frame))) = (&mut joining, &judged)
                && join.append(inbox.buffer(), frame)
            {
                batch.advance();
                continue;
            }
            push(joining.take(), inbox);
            if inbox.is_full() {
                return;
            }
            match judged {
                Some(Ok(frame)) => {
                    inbox.buffer()[..frame.len()].copy_from_slice(frame);
                    joining = Some(Join::new(frame));
                }
                Some(Err(reason)) => inbox.push(Received::invalid(reason)),
                None => {}
            }
            batch.advance();
        }
        push(joining, inbox);
    }

    /// Returns the pieces that some of the frames are sent as: each of as many as are of one
    /// length, and a last one that may be shorter.
    // A packet of many goes through the kernel once, to the other end or to a card that cuts it.
    fn runs(&self, frames: Range<usize>) -> impl Iterator<Item = Run> {
        let start = |at: usize| if at == 0 { 0 } else { self.ends[at - 1].0 };
        let len = move |at: usize| self.ends[at].0 - start(at);
        let (mut next, end) = (frames.start, frames.end);
        iter::from_fn(move || {
            let first = next;
            let each = (first < end).then(|| len(first))?;
            next += 1;
            let fits =
                |at: usize| at - first < MOST_CUT && self.ends[at].0 - start(first) <= LARGEST_CUT;
            while self.cuts && next < end && len(next) <= each && fits(next) {
                next += 1;
                if len(next - 1) < each {
                    break;
                }
            }
            let frames = next - first;
            let cut = if frames > 1 { u16::try_from(each).ok() } else { None };
            Some(Run { frames, octets: start(first)..self.ends[next - 1].0, cut })
        })
    }

    /// Sends frames to an address. Returns how many, the first ones, and why not the others.
    fn send_to(
        &mut self,
        mut frames: Range<usize>,
        to: SocketAddr,
    ) -> (usize, Option<Undelivered>) {
        let (first, mut retries) = (frames.start, 0);
        let to = SocketAddrAny::from(to);
        while !frames.is_empty() {
            let runs: ArrayVec<Run, BURST> = self.runs(frames.clone()).collect();
            let datagrams = runs.iter().map(|run| (&self.taken[run.octets.clone()], run.cut));
            let why = match mmsg::send_cut(&self.sockets.own, datagrams, Some(&to)) {
                Ok(sent) => {
                    frames.start += runs[..sent].iter().map(|run| run.frames).sum::<usize>();
                    continue;
                }
                // A way that cannot cut, or whose packets are too small for these (udp(7)): the
                // frames go one by one, in fragments if need be.
                Err(Errno::INVAL | Errno::IO | Errno::MSGSIZE) if runs[0].cut.is_some() => {
                    self.cuts = false;
                    continue;
                }
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Undelivered::Full,
                Err(Errno::MSGSIZE) => Undelivered::TooLarge,
                // The error of a packet before is told instead of this one being sent (udp(7)).
                Err(_) if retries < RETRIES => {
                    retries += 1;
                    continue;
                }
                Err(_) => Undelivered::NoGuest,
            };
            return (frames.start - first, Some(why));
        }
        (frames.end - first, None)
    }

    /// As [`Tunnel::send_to`], to all that frames are flooded to.
    fn flood(&mut self, frames: Range<usize>) -> (usize, Option<Undelivered>) {
        let mut furthest = (0, None);
        for at in 0..self.floods.len() {
            let (sent, why) = self.send_to(frames.clone(), self.floods[at]);
            // Nobody is to hear a frame twice: what one has got is not sent again, and who has not
            // misses it, as any flooded copy may be.
            if at == 0 || sent > furthest.0 {
                furthest = (sent, why);
            }
        }
        if self.floods.is_empty() { (frames.len(), None) } else { furthest }
    }

    fn send_now(&mut self) {
        let mut first = 0;
        while first < self.ends.len() {
            let to = self.ends[first].1;
            // Those that follow one another to the same go together.
            let same = self.ends[first..].iter().take_while(|(_, other)| *other == to).count();
            let frames = first..first + same;
            let (sent, why) = match to {
                To::One(address) => self.send_to(frames, address),
                To::All => self.flood(frames),
            };
            first += sent;
            if let Some(why) = why {
                self.refused = Some((self.ends.len() - first, why));
                break;
            }
        }
        self.taken.clear();
        self.ends.clear();
    }
}

/// Puts the frame in the next buffer into the inbox, with all that was joined to it.
fn push(joined: Option<Join>, inbox: &mut Inbox) {
    if let Some(joined) = joined {
        let (len, offload) = joined.finish(inbox.buffer());
        inbox.push(Received { octets: 0..len, offload: Ok(offload) });
    }
}

/// Frames that are sent as one piece.
struct Run {
    frames: usize,
    octets: Range<usize>,
    /// How many octets the kernel cuts from it for each, where it is several.
    cut: Option<u16>,
}

impl Transport for Tunnel {
    const ACCEPTS: Offloads = Offloads::NONE;

    fn fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    fn writable(&self) -> BorrowedFd<'_> {
        self.sockets.own.as_fd()
    }

    fn receive(&mut self, inbox: &mut Inbox) -> Result<(), PortFailure> {
        self.look_at_clock();
        // Out of the way of whoever judges what is in it.
        let mut batch = mem::take(&mut self.batch);
        self.unpack(&mut batch, inbox);
        for group in [false, true] {
            if group && self.sockets.group.is_none() {
                break;
            }
            let mut retries = 0;
            while !inbox.is_full() {
                let socket = match &self.sockets.group {
                    Some(socket) if group => socket,
                    _ => &self.sockets.own,
                };
                match batch.receive(socket) {
                    Ok(more) => {
                        self.unpack(&mut batch, inbox);
                        if !more {
                            break;
                        }
                    }
                    Err(Errno::AGAIN) => break,
                    // Of packets sent before: nothing that would end the tunnel.
                    Err(_) if retries < RETRIES => retries += 1,
                    Err(_) => break,
                }
            }
        }
        self.batch = batch;
        Ok(())
    }

    fn send(&mut self, frame: &[u8], _offload: Offload) -> Result<(), Undelivered> {
        let len = vxlan::HEADER_LEN + frame.len();
        if self.ends.len() == BURST || self.taken.len() + len > TOGETHER {
            self.send_now();
        }
        match &mut self.refused {
            // In order: those behind one that waits wait, too.
            Some((unsent, _)) => *unsent += 1,
            None => {
                if self.ends.is_empty() {
                    self.look_at_clock();
                }
                let known = ethernet::Header::read_from_prefix(frame).ok();
                let known =
                    known.and_then(|(header, _)| self.remotes.find(header.destination, self.now));
                self.taken.extend_from_slice(self.header.as_bytes());
                self.taken.extend_from_slice(frame);
                self.ends.push((self.taken.len(), known.map_or(To::All, To::One)));
            }
        }
        Ok(())
    }

    fn send_taken(&mut self) -> Result<(), (usize, Undelivered)> {
        if self.refused.is_none() {
            self.send_now();
        }
        self.refused.take().map_or(Ok(()), Err)
    }
}
