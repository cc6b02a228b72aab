//! What the crates of rust-vmm do without a ring and a session of ours: a relay between two guests,
//! built on `vhost-user-backend` and `virtio-queue` as their documentation shows it. `bench/run.py`
//! runs it beside ours.
//!
//! It takes two paths, listens on a socket at each, and copies what one guest sends into a buffer
//! of the other. Frames without a buffer are dropped. It serves until it is killed.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]

use std::{
    env, io,
    io::{Read as _, Write as _},
    os::fd::AsRawFd as _,
    sync::{Arc, Mutex},
    thread,
};
use vhost::vhost_user::{Listener, VhostUserProtocolFeatures};
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringMutex, VringT};
use virtio_bindings::{virtio_config::VIRTIO_F_VERSION_1, virtio_ring::VIRTIO_RING_F_EVENT_IDX};
use virtio_queue::QueueT as _;
use vm_memory::{GuestAddressSpace as _, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::{
    epoll::EventSet,
    event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier},
    eventfd::{EFD_NONBLOCK, EventFd},
};

const RX: usize = 0;
const TX: usize = 1;
/// The number of an event that is no queue's: above those, and that of the end of a thread.
const BEGUN: u64 = 100;
/// vhost-user: the guest's features include those of the protocol.
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// A header of virtio 1.2 §5.1.6, and the longest frame without segmentation.
const LONGEST: usize = 12 + 65_535;
/// Where `num_buffers` is in that header.
const NUM_BUFFERS: std::ops::Range<usize> = 10..12;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// A guest's memory and rings, while there is one.
type Side = Mutex<Option<(Memory, Vec<VringMutex>)>>;

struct Guest {
    memory: Memory,
    sides: Arc<[Side; 2]>,
    /// Which of them it is.
    at: usize,
    /// Readable until its rings are known: a guest need not kick before it receives.
    begun: EventFd,
}

impl Guest {
    /// Copies all that waits. Returns an error where a ring is broken.
    fn relay(
        &self,
        from: &VringMutex,
        (target, to): &(Memory, VringMutex),
    ) -> Result<(), virtio_queue::Error> {
        let (source, target) = (self.memory.memory(), target.memory());
        let mut frame = vec![0; LONGEST];
        let (mut sent, mut received) = (false, false);
        loop {
            let Some(chain) = from.get_mut().get_queue_mut().pop_descriptor_chain(source.clone())
            else {
                break;
            };
            let head = chain.head_index();
            let mut octets = 0;
            let mut reader = chain.reader(&source)?;
            while let Ok(count @ 1..) = reader.read(&mut frame[octets..]) {
                octets += count;
            }
            frame[NUM_BUFFERS].copy_from_slice(&1_u16.to_le_bytes());
            let buffer = to.get_mut().get_queue_mut().pop_descriptor_chain(target.clone());
            if let Some(buffer) = buffer {
                let head = buffer.head_index();
                let mut writer = buffer.writer(&target)?;
                let written = writer.write_all(&frame[..octets]).is_ok();
                to.add_used(head, if written { octets as u32 } else { 0 })?;
                received = true;
            }
            from.add_used(head, 0)?;
            sent = true;
        }
        for (vring, _) in [(from, sent), (to, received)].into_iter().filter(|(_, used)| *used) {
            if vring.needs_notification()? {
                // A guest that cannot be called has gone.
                vring.signal_used_queue().ok();
            }
        }
        Ok(())
    }
}

impl VhostUserBackend for Guest {
    type Bitmap = ();
    type Vring = VringMutex;

    fn num_queues(&self) -> usize {
        2
    }

    fn max_queue_size(&self) -> usize {
        1024
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | PROTOCOL_FEATURES
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK
    }

    fn set_event_idx(&self, _enabled: bool) {}

    /// Without it, the thread of the rings would outlive its guest, and be waited for.
    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK).ok()
    }

    fn update_memory(&self, _memory: Memory) -> io::Result<()> {
        Ok(())
    }

    fn handle_event(
        &self,
        queue: u16,
        _events: EventSet,
        vrings: &[VringMutex],
        _thread: usize,
    ) -> io::Result<()> {
        let side = |at: usize| self.sides[at].lock().unwrap();
        self.begun.read().ok();
        side(self.at).get_or_insert_with(|| (self.memory.clone(), vrings.to_vec()));
        let other =
            side(1 - self.at).as_ref().map(|(memory, vrings)| (memory.clone(), vrings[RX].clone()));
        let Some(to) = other.filter(|_| usize::from(queue) == TX) else { return Ok(()) };
        let from = &vrings[TX];
        loop {
            from.disable_notification().map_err(io::Error::other)?;
            self.relay(from, &to).map_err(io::Error::other)?;
            // What came before the guest could see that it is to kick.
            if !from.enable_notification().map_err(io::Error::other)? {
                return Ok(());
            }
        }
    }
}

fn main() {
    let paths = env::args().skip(1).filter(|path| path.starts_with('/')).collect::<Vec<_>>();
    let [a, b] = &paths[..] else {
        // As `cargo bench` calls it.
        return eprintln!("usage: baseline /SOCKET /SOCKET");
    };
    let sides = Arc::new([Side::default(), Side::default()]);
    thread::scope(|scope| {
        for (at, path) in [a, b].into_iter().enumerate() {
            let sides = &sides;
            let mut listener = Listener::new(path, true).unwrap();
            scope.spawn(move || {
                loop {
                    let memory = Memory::new(GuestMemoryMmap::new());
                    let begun = EventFd::new(EFD_NONBLOCK).unwrap();
                    let fd = begun.as_raw_fd();
                    begun.write(1).unwrap();
                    let guest =
                        Guest { memory: memory.clone(), sides: Arc::clone(sides), at, begun };
                    let mut daemon =
                        VhostUserDaemon::new(path.clone(), Arc::new(guest), memory).unwrap();
                    let handler = &daemon.get_epoll_handlers()[0];
                    handler.register_listener(fd, EventSet::IN, BEGUN).unwrap();
                    // A guest that breaks the protocol is as gone as one that leaves.
                    daemon.start(&mut listener).and_then(|()| daemon.wait()).ok();
                    *sides[at].lock().unwrap() = None;
                }
            });
        }
    });
}
