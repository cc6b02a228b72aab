//! Two guests that do nothing but talk, whatever happens to the daemon and beside them.

use super::{
    guest::Guest,
    numbered::{Heard, numbered},
    random::Random,
};
use mvirt_net::proto::Nic;
use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant},
};

/// Frames that may be on their way between the innocent guests.
pub(crate) const WINDOW: u64 = 64;

#[derive(Default)]
pub(crate) struct Shared {
    /// How often the daemon was killed, and came back.
    pub(crate) lives: AtomicU64,
    /// Hostile ones are to pause; how many do.
    pub(crate) hold: AtomicBool,
    pub(crate) held: AtomicU64,
    pub(crate) end: AtomicBool,
    pub(crate) hostile_acts: AtomicU64,
    /// Frames that have arrived.
    pub(crate) arrived: AtomicU64,
}

/// Ends what goes on when it is dropped: a scope waits for its threads where its test has failed,
/// too.
pub(crate) struct EndAtDrop<'a>(pub(crate) &'a Shared);

impl Drop for EndAtDrop<'_> {
    fn drop(&mut self) {
        self.0.end.store(true, SeqCst);
    }
}

/// Exchanges frames until the end, across all that happens to the daemon. Gives what was heard and
/// the longest silence.
pub(crate) fn innocents(shared: &Shared, nics: &[Nic; 2], seed: u64) -> (Heard, Duration) {
    let mut random = Random::from(seed);
    let [mut a, mut b] = nics.each_ref().map(Guest::connect);
    let (mut heard, mut life, mut longest) = (Heard::default(), 0, Duration::ZERO);
    let (mut last, mut sent_at) = (Instant::now(), Instant::now());
    while !shared.end.load(SeqCst) {
        let now = shared.lives.load(SeqCst);
        if std::mem::replace(&mut life, now) != now {
            let base = [a.driver.tx_used(), heard.sent as u16, random.below(1 << 16) as u16];
            let base = base[random.below(3) as usize];
            a.driver.reconnect(Path::new(&nics[0].socket_path), base);
            b.driver.reconnect(Path::new(&nics[1].socket_path), base);
            last = Instant::now();
        }
        let waits = heard.sent - heard.last;
        if a.driver.has_room() && (waits < WINDOW || sent_at.elapsed() > Duration::from_millis(1)) {
            heard.sent += 1;
            sent_at = Instant::now();
            a.driver.send_quietly(&numbered(a.mac, heard.sent));
        }
        let before = heard.last;
        heard.listen(&mut b);
        if heard.last > before {
            longest = longest.max(last.elapsed());
            last = Instant::now();
            shared.arrived.store(heard.last, SeqCst);
        } else {
            std::thread::yield_now();
        }
    }
    (heard, longest)
}
