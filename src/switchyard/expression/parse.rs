//! Text to expressions, by recursive descent over words.

use super::{BadExpression, End, Node, Test, facts::Transport};
use crate::wire::ethernet;

/// How deep parentheses and `not` may go: the stack is not for strangers to fill.
const MAX_DEPTH: usize = 32;
/// Primitives at most: each is tried on each frame.
const MAX_PRIMITIVES: usize = 256;

/// Octets of text at most.
const MAX_LEN: usize = 4096;

const SHORTER: &str = "a shorter expression";
const PRIMITIVE: &str = "a primitive like udp, port 7007, host 10.0.0.1, ether src MAC or arp";
const JOINT: &str = "and, or, or the end";

/// A word, and the column it begins at.
#[derive(Debug, Clone, Copy)]
struct Word<'a> {
    column: usize,
    text: &'a str,
}

fn words(text: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let Some(first) = rest.chars().next() else { return words };
        let column = text[..text.len() - rest.len()].chars().count() + 1;
        // Parentheses and ! need no spaces around them.
        let is_alone = |c: char| matches!(c, '(' | ')' | '!');
        let len = if is_alone(first) {
            1
        } else {
            rest.find(|c: char| c.is_whitespace() || is_alone(c)).unwrap_or(rest.len())
        };
        let (word, after) = rest.split_at(len);
        words.push(Word { column, text: word });
        rest = after;
    }
}

struct Parser<'a> {
    words: Vec<Word<'a>>,
    at: usize,
    /// Where the end is.
    end: usize,
    primitives: usize,
}

/// Reads an expression.
pub(super) fn parse(text: &str) -> Result<Node, BadExpression> {
    if text.len() > MAX_LEN {
        return Err(BadExpression { column: MAX_LEN + 1, expected: SHORTER });
    }
    let end = text.trim_end().chars().count() + 1;
    let mut parser = Parser { words: words(text), at: 0, end, primitives: 0 };
    let node = parser.expression(0)?;
    match parser.peek() {
        None => Ok(node),
        Some(_) => Err(parser.expected(JOINT)),
    }
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.at).map(|word| word.text)
    }

    fn expected(&self, expected: &'static str) -> BadExpression {
        let column = self.words.get(self.at).map_or(self.end, |word| word.column);
        BadExpression { column, expected }
    }

    /// Goes past the next word, if it is one of these.
    fn eat(&mut self, words: &[&str]) -> bool {
        let is_one = self.peek().is_some_and(|word| words.contains(&word));
        self.at += usize::from(is_one);
        is_one
    }

    /// Goes past the next word, if something can be made of it.
    fn value<T>(
        &mut self,
        expected: &'static str,
        make: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, BadExpression> {
        let value = self.peek().and_then(make).ok_or_else(|| self.expected(expected))?;
        self.at += 1;
        Ok(value)
    }

    fn expression(&mut self, depth: usize) -> Result<Node, BadExpression> {
        let mut left = self.term(depth)?;
        loop {
            let is_and = self.eat(&["and", "&&"]);
            if !is_and && !self.eat(&["or", "||"]) {
                return Ok(left);
            }
            let (before, after) = (Box::new(left), Box::new(self.term(depth)?));
            left = if is_and { Node::And(before, after) } else { Node::Or(before, after) };
        }
    }

    fn term(&mut self, depth: usize) -> Result<Node, BadExpression> {
        if depth > MAX_DEPTH {
            return Err(self.expected("fewer parentheses and nots in each other"));
        }
        if self.eat(&["not", "!"]) {
            return Ok(Node::Not(Box::new(self.term(depth + 1)?)));
        }
        if self.eat(&["("]) {
            let inner = self.expression(depth + 1)?;
            return if self.eat(&[")"]) { Ok(inner) } else { Err(self.expected(")")) };
        }
        self.primitives += 1;
        if self.primitives > MAX_PRIMITIVES {
            return Err(self.expected(SHORTER));
        }
        self.primitive()
    }

    fn primitive(&mut self) -> Result<Node, BadExpression> {
        let word = self.peek().ok_or_else(|| self.expected(PRIMITIVE))?;
        let test = match word {
            "ip" | "ip6" | "arp" => return self.network(word),
            "udp" | "tcp" => return self.transport(word),
            "icmp" => Test::Protocol(Transport::Icmp),
            "icmp6" => Test::Protocol(Transport::Icmp6),
            "broadcast" => Test::Broadcast,
            "multicast" => Test::Multicast,
            "vlan" => {
                self.at += 1;
                let id = self.peek().and_then(|word| word.parse().ok()).filter(|id| *id < 4095);
                self.at += usize::from(id.is_some());
                return Ok(Node::Test(Test::Vlan(id)));
            }
            "greater" | "less" => {
                self.at += 1;
                let len = self.value("a number of octets", |word| word.parse().ok())?;
                let is_longer = word == "greater";
                let test = if is_longer { Test::Longer(len) } else { Test::Shorter(len) };
                return Ok(Node::Test(test));
            }
            "ether" => return self.ether(),
            "src" | "dst" | "host" | "net" | "port" => {
                let end = self.end();
                return self.place(end, &["host", "net", "port"]);
            }
            _ => return Err(self.expected(PRIMITIVE)),
        };
        self.at += 1;
        Ok(Node::Test(test))
    }

    fn end(&mut self) -> End {
        match (self.eat(&["src"]), self.eat(&["dst"])) {
            (true, _) => End::Source,
            (_, true) => End::Destination,
            _ => End::Either,
        }
    }

    /// Whether a place follows, which qualifies the word before it.
    fn is_place(&self, kinds: &[&str]) -> bool {
        let word = |at: usize| self.words.get(at).map(|word| word.text);
        let at = self.at + usize::from(matches!(word(self.at), Some("src" | "dst")));
        word(at).is_some_and(|word| kinds.contains(&word))
    }

    fn place(&mut self, end: End, kinds: &[&str]) -> Result<Node, BadExpression> {
        let kind = self.peek().filter(|word| kinds.contains(word));
        let kind = kind.ok_or_else(|| self.expected("host, net or port"))?;
        self.at += 1;
        Ok(Node::Test(match kind {
            "host" => Test::Host(end, self.value("an address", |word| word.parse().ok())?),
            "net" => Test::Net(end, self.value("a network like 10.0.0.0/8", |w| w.parse().ok())?),
            _ => Test::Port(end, self.value("a port", |word| word.parse().ok())?),
        }))
    }

    fn network(&mut self, word: &str) -> Result<Node, BadExpression> {
        self.at += 1;
        let ether_type = match word {
            "ip" => ethernet::IPV4,
            "ip6" => ethernet::IPV6,
            _ => ethernet::ARP,
        };
        self.qualified(Test::EtherType(ether_type), &["host", "net"])
    }

    fn transport(&mut self, word: &str) -> Result<Node, BadExpression> {
        self.at += 1;
        let transport = if word == "udp" { Transport::Udp } else { Transport::Tcp };
        self.qualified(Test::Protocol(transport), &["port"])
    }

    fn qualified(&mut self, test: Test, kinds: &[&str]) -> Result<Node, BadExpression> {
        if !self.is_place(kinds) {
            return Ok(Node::Test(test));
        }
        let end = self.end();
        let place = self.place(end, kinds)?;
        Ok(Node::And(Box::new(Node::Test(test)), Box::new(place)))
    }

    fn ether(&mut self) -> Result<Node, BadExpression> {
        self.at += 1;
        if self.eat(&["proto"]) {
            let number = |word: &str| match word.strip_prefix("0x") {
                Some(hex) => u16::from_str_radix(hex, 16).ok(),
                None => word.parse().ok(),
            };
            let ether_type = self.value("an EtherType like 0x0800", number)?;
            return Ok(Node::Test(Test::EtherType(ether_type)));
        }
        let end = self.end();
        self.eat(&["host"]);
        let mac = self.value("a MAC like 02:53:59:00:00:01", |word| word.parse().ok())?;
        Ok(Node::Test(Test::Mac(end, mac)))
    }
}
