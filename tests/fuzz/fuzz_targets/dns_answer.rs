//! Any octets as what a DNS server of others answers: what is read has records that are where they
//! are said to be, whose TTLs can be written over, and however it was made it takes no time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mvirt_net::wire::dns_answer::Answer;

fuzz_target!(|message: &[u8]| {
    let Some(answer) = Answer::parse(message) else { return };
    let (octets, begin) = answer.octets();
    assert_eq!(octets, &message[begin..begin + octets.len()]);
    let counts = answer.counts().map(usize::from);
    assert_eq!(answer.records().count(), counts[0] + counts[1]);
    let mut aged = message.to_vec();
    let mut end = begin;
    for record in answer.records() {
        assert!(end < record.ttl_at && record.ttl_at + 4 <= record.end);
        assert!(record.end <= begin + octets.len());
        aged[record.ttl_at..record.ttl_at + 4].fill(0);
        end = record.end;
    }
    assert_eq!(end, begin + octets.len());
    // Nothing but TTLs has changed.
    let again = Answer::parse(&aged).expect("it was one");
    assert_eq!(again.name, answer.name);
    assert!(again.records().all(|record| record.ttl == 0));
});
