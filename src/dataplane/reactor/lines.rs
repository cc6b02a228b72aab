//! Bad lines on purpose, put before ports and taken away as networks are published, while frames
//! go on.

use super::{Active, Reactor, poll_window::PollWindow, ports::Slot, token, unwatched};
use crate::{
    dataplane::{
        forward::tables::PortId,
        port::{
            Port as _, PortFailure,
            impaired::{Budget, Impaired},
            null::Null,
        },
    },
    impair::Spec,
};
use jiff::Timestamp;
use std::{
    any::Any,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

impl Slot {
    fn impaired(&mut self) -> Option<&mut Impaired> {
        let port: &mut dyn Any = &mut *self.port;
        port.downcast_mut()
    }

    /// Puts its port behind lines, which are polled by a queue more.
    fn begin_lines(
        &mut self,
        lines: [Option<Spec>; 2],
        budget: &Budget,
    ) -> Result<(), PortFailure> {
        let port = mem::replace(&mut self.port, Box::new(Null));
        let (seed, counters) = (self.id.slot.into(), Arc::clone(&self.counters));
        match Impaired::new(port, lines, seed, counters, budget) {
            Ok(impaired) => self.port = Box::new(impaired),
            Err((port, error)) => {
                self.port = port;
                return Err(PortFailure::Broken(format!("cannot make its lines bad: {error}")));
            }
        }
        let windows = self.poll_windows.iter().copied();
        // What is due is due by a timer: to look for it before is in vain.
        self.poll_windows = windows.chain([PollWindow::new(Duration::ZERO)]).collect();
        Ok(())
    }

    /// Takes the lines away.
    fn end_lines(&mut self) {
        let port = mem::replace(&mut self.port, Box::new(Null));
        let port: Box<dyn Any> = port;
        let impaired = port.downcast::<Impaired>().expect("only of a port with lines");
        self.port = impaired.into_inner();
        let queues = self.port.queues();
        self.poll_windows = self.poll_windows[..queues].into();
    }
}

impl Reactor {
    /// Has ports behind the lines that were published for them.
    pub(super) fn change_lines(&mut self, now: Instant) {
        while let Some(id) = self.ports.with_other_lines() {
            self.end_lines(id, now);
            let Some(slot) = self.ports.healthy_mut(id) else { continue };
            slot.lines = slot.wanted_lines;
            let left = slot.lines.left(Timestamp::now());
            if left != [None; 2]
                && let Err(failure) = self.begin_lines(id, left, now)
            {
                self.ports.fail(id, failure);
            }
        }
    }

    fn begin_lines(
        &mut self,
        id: PortId,
        lines: [Option<Spec>; 2],
        now: Instant,
    ) -> Result<(), PortFailure> {
        let Some(slot) = self.ports.healthy_mut(id) else { return Ok(()) };
        slot.begin_lines(lines, &self.line_budget)?;
        let queue = slot.port.queues() - 1;
        if let Some(wakeup) = slot.port.wakeup(queue) {
            self.uring.watch(wakeup, token(id, queue)).map_err(|error| unwatched(&error))?;
        }
        self.active.push(Active { port: id, queue, busy: now, window: Duration::ZERO });
        Ok(())
    }

    /// Takes the lines of a port away, if it has any. What they hold goes on at once, as far as its
    /// receivers have room.
    pub(super) fn end_lines(&mut self, id: PortId, now: Instant) {
        let Some(slot) = self.ports.get_mut(id) else { return };
        let Some(impaired) = slot.impaired() else { return };
        let (queue, bursts) = (impaired.queues() - 1, impaired.end());
        let mut active = Active { port: id, queue, busy: now, window: Duration::ZERO };
        for _ in 0..bursts {
            // Whether it is active still: it is polled as often as there can be something.
            self.poll(&mut active, now);
        }
        self.active.retain(|active| (active.port, active.queue) != (id, queue));
        if let Err(error) = self.uring.unwatch(token(id, queue)) {
            tracing::warn!(%error, port = id.slot, "cannot end the watch of a timer");
        }
        if let Some(slot) = self.ports.get_mut(id) {
            slot.end_lines();
        }
        // The port may be about to be detached.
        self.guarded(|reactor| reactor.publish(now));
    }
}
