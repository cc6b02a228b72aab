//! Our tables of nftables, without nft(8): whether they are as they were made, and their end
//! (`nf_tables.h`).

use super::{
    balancers,
    nfnetlink::{
        ACK, CREATE, DUMP, EXCLUSIVE, NFTABLES, Nfnetlink, REQUEST, attribute, find, message,
    },
    rules,
};
use std::{
    hash::{DefaultHasher, Hasher as _},
    io,
};

const NEW_TABLE: u16 = NFTABLES << 8;
const GET_TABLE: u16 = NFTABLES << 8 | 1;
const DELETE_TABLE: u16 = NFTABLES << 8 | 2;
const GET_RULE: u16 = NFTABLES << 8 | 7;
const GET_SET: u16 = NFTABLES << 8 | 10;
const GET_ELEMENTS: u16 = NFTABLES << 8 | 13;
const GET_GENERATION: u16 = NFTABLES << 8 | 16;
/// The family `inet` (NFPROTO_INET).
const INET: u8 = 1;
/// The name of a table, also of that which a rule, a set or an element is in; the name of a set;
/// its elements; the table's flags; and the generation.
const NAME: u16 = 1;
const SET: u16 = 2;
const ELEMENTS: u16 = 3;
const FLAGS: u16 = 2;
const GENERATION: u16 = 1;
/// Nobody else changes the table, and it goes with the socket that made it (NFT_TABLE_F_OWNER).
const OWNED: u32 = 2;
/// Those that packets pass.
const TABLES: [&str; 2] = [rules::NAME, balancers::NAME];

/// Returns which change of nftables was the last, by whomever.
pub(super) fn generation(netfilter: &Nfnetlink) -> io::Result<u32> {
    let mut generation = None;
    netfilter.ask(&message(GET_GENERATION, REQUEST | ACK, 0, &[]), |answer| {
        generation = find(answer, GENERATION).and_then(|octets| octets.first_chunk().copied());
    })?;
    let unknown = || io::Error::other("nftables do not tell their generation");
    generation.map(u32::from_be_bytes).ok_or_else(unknown)
}

/// Returns a number that stands for all our rules, and what is in their sets; none where there are
/// no rules.
pub(super) fn print(netfilter: &Nfnetlink) -> io::Result<Option<u64>> {
    let (mut rules, mut print) = (0, DefaultHasher::new());
    for table in TABLES {
        // With their numbers, which no other rule ever has again.
        netfilter.ask(&message(GET_RULE, REQUEST | DUMP, INET, &named(table)), |rule| {
            rules += 1;
            print.write(rule);
        })?;
    }
    match print_sets(netfilter, &mut print) {
        // They are gone, or go meanwhile, with their table.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        printed => printed.map(|()| (rules > 0).then(|| print.finish())),
    }
}

/// Adds what is in our sets to a print: those of balancers are large, and change as backends do.
fn print_sets(netfilter: &Nfnetlink, print: &mut DefaultHasher) -> io::Result<()> {
    let mut sets = Vec::new();
    netfilter.ask(&message(GET_SET, REQUEST | DUMP, INET, &named(rules::NAME)), |set| {
        sets.extend(find(set, SET).map(<[u8]>::to_vec));
    })?;
    for set in sets {
        let attributes = [named(rules::NAME), attribute(SET, &set)].concat();
        netfilter.ask(&message(GET_ELEMENTS, REQUEST | DUMP, INET, &attributes), |elements| {
            print.write(find(elements, ELEMENTS).unwrap_or(&[]));
        })?;
    }
    Ok(())
}

/// Whether one of them is there.
pub(super) fn are_there(netfilter: &Nfnetlink) -> io::Result<bool> {
    for table in TABLES {
        match netfilter.ask(&message(GET_TABLE, REQUEST | ACK, INET, &named(table)), |_| {}) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Removes them, with all that is in them. What is not there is no error.
pub(super) fn remove(netfilter: &Nfnetlink) -> io::Result<()> {
    TABLES.into_iter().try_for_each(|table| {
        match netfilter.change(&message(DELETE_TABLE, REQUEST | ACK, INET, &named(table))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    })
}

/// Makes a table that is the socket's alone, and empty.
pub(super) fn own(netfilter: &Nfnetlink, table: &str) -> io::Result<()> {
    let attributes = [named(table), attribute(FLAGS, &OWNED.to_be_bytes())].concat();
    let flags = REQUEST | ACK | CREATE | EXCLUSIVE;
    netfilter.change(&message(NEW_TABLE, flags, INET, &attributes))
}

fn named(table: &str) -> Vec<u8> {
    attribute(NAME, &[table.as_bytes(), &[0]].concat())
}
