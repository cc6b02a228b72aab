//! Which frames are meant: classic BPF (the bpf(4) of BSD, Linux' networking/filter), and
//! pcap-filter(7), which is compiled to it.
//!
//! ```text
//! text ── words ── parse: a tree of tests ── emit ──▶ instructions ── check ──▶ Program ──▶ frames
//! ```
//! A [`Program`] is checked when it is made: it has no loop and leaves no memory, so whoever wrote
//! it may have it run on every frame. Of the language of filters it knows what people type:
//!
//! ```text
//! expression  = term { ("and" | "or") (term | id) }   from left to right, neither binds closer
//! term        = ["not"] ( "(" expression ")" | primitive | arithmetic relation arithmetic )
//! primitive   = [protocol] [src|dst|src or dst|src and dst] [host|net|port|portrange] id
//!             | [ether|ip|ip6] proto NUMBER | protocol | [ether|ip|ip6] multicast | broadcast
//!             | vlan [ID] | greater N | less N
//! id          = ADDR | NET/LEN | NET mask MASK | MAC | PORT | FROM-TO | "(" id { "or" id } ")"
//! arithmetic  = NUMBER | len | protocol "[" arithmetic [":" 1|2|4] "]" | - + * / % & | ^ << >>
//! ```
//! They mean what they mean in files of Ethernet frames: `vlan` goes by the tags that are in them,
//! and moves what is behind it in the text.

mod emit;
mod parse;
mod primitive;
mod program;
mod tree;
mod words;

pub use program::{BadProgram, Instruction, MAX_LEN, Program};

use std::str::FromStr;

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: expected {expected}")]
pub struct BadFilter {
    /// Where it went wrong, in characters from 1.
    pub column: usize,
    /// What would have been right there.
    pub expected: &'static str,
}

impl FromStr for Program {
    type Err = BadFilter;

    /// Compiles a filter. One of no words matches every frame.
    fn from_str(text: &str) -> Result<Self, BadFilter> {
        let tree = parse::parse(text)?;
        // What is parsed is short; that of it which no program can be is far beyond use.
        let refused = |_| BadFilter { column: 1, expected: "a filter of fewer or smaller terms" };
        Self::new(&emit::emit(tree.as_ref())).map_err(refused)
    }
}

#[cfg(test)]
mod tests;
