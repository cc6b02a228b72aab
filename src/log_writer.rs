//! Where the log's lines go: a thread of its own writes them, so that nobody who stops reading
//! stops the daemon.
//!
//! A line is written before what it reports goes on: who logs waits a moment for the thread. If a
//! moment is not enough, nobody waits any more until the thread has caught up. A line that finds
//! the queue full is lost, and counted.

use crate::mutex::lock;
use std::{
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

/// Lines that may wait for a reader.
// Bounds memory where nobody reads: half a megabyte of lines of 128 octets.
const QUEUE: usize = 4096;
/// How long who logs waits for a line to be written. After a wait in vain nobody waits until the
/// reader has caught up.
const PATIENCE: Duration = Duration::from_millis(100);

/// The way to the thread. Each [`Write::write`] is a line, or several.
#[derive(Debug, Clone)]
pub struct LogWriter {
    lines: SyncSender<Vec<u8>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    progress: Mutex<Progress>,
    advanced: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    queued: u64,
    written: u64,
    lost: u64,
    /// Somebody has waited too long, and lines wait still.
    is_behind: bool,
}

impl Shared {
    /// Waits until a line is written; false if that takes longer than `limit`.
    fn wait(&self, progress: MutexGuard<'_, Progress>, line: u64, limit: Duration) -> bool {
        let is_waiting = |progress: &mut Progress| progress.written < line;
        let waited = self.advanced.wait_timeout_while(progress, limit, is_waiting);
        let (mut progress, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        // A log that nobody reads costs this wait once, not for each line.
        progress.is_behind |= timeout.timed_out();
        !timeout.timed_out()
    }
}

impl LogWriter {
    /// Starts a thread that writes to `sink`, where any call may wait for ever.
    pub fn start(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, waiting) = sync_channel(QUEUE);
        let shared = Arc::<Shared>::default();
        let told = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("log".into());
        thread.spawn(move || write_all(&waiting, &told, sink))?;
        Ok(Self { lines, shared })
    }

    /// Waits for `limit` at most until everything so far is written.
    pub fn flush(&self, limit: Duration) {
        let progress = lock(&self.shared.progress);
        let last = progress.queued;
        self.shared.wait(progress, last, limit);
    }
}

fn write_all(lines: &Receiver<Vec<u8>>, shared: &Shared, mut sink: impl Write) {
    for line in lines {
        let lost = std::mem::take(&mut lock(&shared.progress).lost);
        // A log that cannot be written cannot say so.
        if lost > 0 {
            writeln!(sink, "mvirt-net: {lost} lines of the log were lost: nobody read it").ok();
        }
        sink.write_all(&line).and_then(|()| sink.flush()).ok();
        let mut progress = lock(&shared.progress);
        progress.written += 1;
        progress.is_behind &= progress.written < progress.queued;
        shared.advanced.notify_all();
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut progress = lock(&self.shared.progress);
        // Sent under the lock: lines have their numbers in the order of the queue.
        match self.lines.try_send(line.to_vec()) {
            Ok(()) => progress.queued += 1,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => progress.lost += 1,
        }
        let this = progress.queued;
        if !progress.is_behind {
            self.shared.wait(progress, this, PATIENCE);
        }
        // Lost or not: an error would have nobody to be told to.
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead as _, BufReader, pipe},
        time::Instant,
    };

    #[test]
    fn a_line_is_written_before_its_writer_goes_on() {
        let (reader, sink) = pipe().unwrap();
        let mut log = LogWriter::start(sink).unwrap();
        let mut lines = BufReader::new(reader).lines();
        for n in 0..100 {
            log.write_all(format!("{n}\n").as_bytes()).unwrap();
            assert_eq!(lock(&log.shared.progress).written, n + 1);
            assert_eq!(lines.next().unwrap().unwrap(), n.to_string());
        }
    }

    #[test]
    fn who_logs_waits_once_for_a_reader_that_is_gone() {
        let (reader, sink) = pipe().unwrap();
        let mut log = LogWriter::start(sink).unwrap();
        let line = [b'x'; 1023].into_iter().chain([b'\n']).collect::<Vec<_>>();
        let began = Instant::now();
        // 64 of them fill the pipe.
        for _ in 0..2 * QUEUE {
            log.write_all(&line).unwrap();
        }
        log.flush(Duration::from_millis(50));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let mut lines = BufReader::new(reader).lines();
        let lost = lines.find_map(|line| {
            let line = line.unwrap();
            let (count, _) = line.strip_prefix("mvirt-net: ")?.split_once(" lines of the log")?;
            Some(count.parse::<usize>().unwrap())
        });
        // What the pipe and the queue hold is there; the thread has one in its hands.
        assert!((QUEUE - 100..QUEUE).contains(&lost.unwrap()), "{lost:?}");
        // As long as that is read, each line is waited for again.
        let reading = std::thread::spawn(move || lines.map(Result::unwrap).last());
        log.flush(Duration::from_secs(10));
        log.write_all(b"last\n").unwrap();
        drop(log);
        assert_eq!(reading.join().unwrap().as_deref(), Some("last"));
    }
}
