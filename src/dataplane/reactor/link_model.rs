//! Every interleaving of a link's producer and consumer, on a page of two places: neither touches
//! what is the other's, and everything arrives once, in order.

use loom::sync::atomic;
use loom::{cell::UnsafeCell, model, thread::spawn};

#[path = "cursors.rs"]
#[expect(clippy::duplicate_mod, reason = "the same code, on atomics that try every interleaving")]
mod cursors;

// As few as show it: with two places and three sends, a place is used twice and the page can be
// full. loom tries all interleavings, whose number grows exponentially.
const PLACES: usize = 2;
const SENT: usize = 3;

/// Sends and receives; a consumer that asks for `early` of them takes what is not published yet.
fn send_and_receive(early: usize) {
    let places: [UnsafeCell<usize>; PLACES] = [0, 0].map(UnsafeCell::new);
    let (mut producer, mut consumer) = cursors::split(places);
    let producer = spawn(move || {
        for number in 1..=SENT {
            let (head, tail) = producer.free();
            // No second try: a loop that waits for the other thread has no end in loom.
            if tail - head == PLACES {
                return number - 1;
            }
            // loom fails if the consumer touches this place at the same time.
            producer.page()[tail % PLACES].with_mut(|_| ());
            producer.publish(tail + 1);
        }
        SENT
    });
    let mut received = 0;
    for _ in 0..2 {
        let (mut head, tail) = consumer.published();
        while head < tail + early {
            consumer.page()[head % PLACES].with(|_| ());
            (head, received) = (head + 1, received + 1);
        }
        consumer.release(head);
    }
    let sent = producer.join().unwrap();
    let (head, tail) = consumer.published();
    assert_eq!((head, tail), (received, sent));
}

#[test]
fn neither_end_of_a_link_touches_what_is_the_others() {
    model(|| send_and_receive(0));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_consumer_that_takes_more_would_be_caught() {
    model(|| send_and_receive(1));
}
