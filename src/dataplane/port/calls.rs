//! How many system calls carry the frames of a port, and what comes of them.
//!
//! Counted by thread, where the calls are made, and taken by the port that had them made: a reactor
//! does one thing at a time.

use crate::dataplane::counters::PortCounters;
use rustix::io::Errno;
use std::cell::Cell;

/// System calls, those that found nothing or no room, and those that wrote a part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Calls {
    made: u64,
    again: u64,
    partial: u64,
}

thread_local! {
    static CALLS: Cell<Calls> = const { Cell::new(Calls { made: 0, again: 0, partial: 0 }) };
}

/// Counts a system call, and returns what came of it.
pub(super) fn made<T>(result: Result<T, Errno>) -> Result<T, Errno> {
    let mut calls = CALLS.get();
    calls.made += 1;
    calls.again += u64::from(matches!(result, Err(Errno::AGAIN)));
    CALLS.set(calls);
    result
}

/// As [`made`], of one that writes as much as was `asked` for, or a part of that.
pub(super) fn wrote(result: Result<usize, Errno>, asked: usize) -> Result<usize, Errno> {
    if result.is_ok_and(|wrote| wrote < asked) {
        let calls = CALLS.get();
        CALLS.set(Calls { partial: calls.partial + 1, ..calls });
    }
    made(result)
}

/// Has a port charged with the calls since this was done last.
pub(super) fn charge(counters: &PortCounters) {
    let Calls { made, again, partial } = CALLS.take();
    if made > 0 {
        counters.io_calls.add(made);
        counters.io_again.add(again);
        counters.io_partial.add(partial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_calls_made_is_charged_with_them_once() {
        let [one, other] = [PortCounters::default(), PortCounters::default()];
        assert_eq!(made(Ok(3)), Ok(3));
        assert_eq!(made::<()>(Err(Errno::AGAIN)), Err(Errno::AGAIN));
        assert_eq!(wrote(Ok(3), 4), Ok(3));
        assert_eq!(wrote(Ok(4), 4), Ok(4));
        charge(&one);
        charge(&other);
        let counted = [&one.io_calls, &one.io_again, &one.io_partial].map(|count| count.get());
        assert_eq!((counted, other.io_calls.get()), ([4, 1, 1], 0));
    }
}
