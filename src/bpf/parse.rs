//! Text to a tree, by recursive descent over words.

use super::{
    BadFilter,
    primitive::{self, Direction, Id, Kind, Protocol, Qualifiers},
    tree::{Node, Number, Operation, Relation, Size},
    words::{Word, number, words},
};

/// How deep parentheses and `not` may go: the stack is not for strangers to fill.
const MAX_DEPTH: usize = 32;
/// Primitives at most.
const MAX_PRIMITIVES: usize = 512;

const FEWER: &str = "fewer parentheses and nots in each other";
const PRIMITIVE: &str = "a primitive like udp, port 53, host 10.0.0.1, ether src MAC or arp";
const JOINT: &str = "and, or, or the end";
const KIND: &str = "host, net, port, portrange or an address";
const NUMBER: &str = "a number";

/// Reads a filter; none if it is empty.
pub(super) fn parse(text: &str) -> Result<Option<Node>, BadFilter> {
    let (words, end) = words(text)?;
    if words.is_empty() {
        return Ok(None);
    }
    let mut parser =
        Parser { words, at: 0, end, primitives: 0, qualifiers: None, packet: primitive::UNTAGGED };
    let node = parser.expression(0)?;
    match parser.peek() {
        None => Ok(Some(node)),
        Some(_) => Err(parser.expected(JOINT)),
    }
}

pub(super) struct Parser<'a> {
    words: Vec<Word<'a>>,
    at: usize,
    /// Where the end is.
    end: usize,
    primitives: usize,
    /// Those of the last primitive: what follows without any is as that.
    qualifiers: Option<Qualifiers>,
    /// Where the packet begins, behind the tags that were asked for.
    packet: u32,
}

impl<'a> Parser<'a> {
    fn word(&self) -> Option<Word<'a>> {
        self.words.get(self.at).copied()
    }

    /// The next word, as a keyword.
    fn peek(&self) -> Option<&'a str> {
        self.word().map(|word| if word.is_escaped { "\\" } else { word.text })
    }

    fn peek_behind(&self, words: usize) -> Option<&'a str> {
        self.words.get(self.at + words).map(|word| word.text)
    }

    fn expected(&self, expected: &'static str) -> BadFilter {
        let column = self.word().map_or(self.end, |word| word.column);
        BadFilter { column, expected }
    }

    /// Goes past the next word, if it is one of these.
    fn eat(&mut self, words: &[&str]) -> bool {
        let is_one = self.peek().is_some_and(|word| words.contains(&word));
        self.at += usize::from(is_one);
        is_one
    }

    fn expression(&mut self, depth: usize) -> Result<Node, BadFilter> {
        let mut left = self.term(depth)?;
        loop {
            let is_and = self.eat(&["and", "&&"]);
            if !is_and && !self.eat(&["or", "||"]) {
                return Ok(left);
            }
            let right = self.term(depth)?;
            left = if is_and { left.and(right) } else { left.or(right) };
        }
    }

    fn term(&mut self, depth: usize) -> Result<Node, BadFilter> {
        if depth > MAX_DEPTH {
            return Err(self.expected(FEWER));
        }
        if self.eat(&["not", "!"]) {
            return Ok(self.term(depth + 1)?.not());
        }
        if let Some(relation) = self.relation(depth)? {
            return Ok(relation);
        }
        if self.eat(&["("]) {
            let inner = self.expression(depth + 1)?;
            return if self.eat(&[")"]) { Ok(inner) } else { Err(self.expected(")")) };
        }
        self.count()?;
        self.primitive(depth)
    }

    fn count(&mut self) -> Result<(), BadFilter> {
        self.primitives += 1;
        if self.primitives > MAX_PRIMITIVES {
            return Err(self.expected("a shorter filter"));
        }
        Ok(())
    }

    fn primitive(&mut self, depth: usize) -> Result<Node, BadFilter> {
        let word = self.peek().ok_or_else(|| self.expected(PRIMITIVE))?;
        match word {
            "vlan" => return self.vlan(),
            "greater" | "less" => {
                self.at += 1;
                let len = self.value(NUMBER, number)?;
                let longer = Number::Len.is(Relation::GreaterOrEqual, len);
                let shorter = Number::Len.is(Relation::Greater, len).not();
                return Ok(if word == "greater" { longer } else { shorter });
            }
            _ => {}
        }
        let start = self.at;
        let protocol = Protocol::of(word);
        self.at += usize::from(protocol.is_some());
        let direction = self.direction();
        let kind = self.peek().and_then(Kind::of);
        self.at += usize::from(kind.is_some());
        let qualifiers = match (protocol, direction, kind) {
            (Some(protocol), None, None) => {
                return protocol.node(self.packet).ok_or_else(|| self.expected(KIND));
            }
            (None, None, None) => match self.qualifiers {
                // `port 80 or 443`.
                Some(before) if self.is_id() => before,
                // `10.0.0.1`.
                None if self.is_id() => Qualifiers::default(),
                _ => return Err(self.expected(PRIMITIVE)),
            },
            _ => Qualifiers { protocol, direction: direction.unwrap_or_default(), kind },
        };
        if let Some(Kind::Broadcast | Kind::Multicast) = kind {
            let node = qualifiers.group(self.packet);
            return node.ok_or_else(|| {
                self.at = start;
                self.expected("ether broadcast, or ether, ip or ip6 multicast")
            });
        }
        self.qualifiers = Some(qualifiers);
        self.ids(qualifiers, depth)
    }

    /// `src`, `dst`, or both.
    fn direction(&mut self) -> Option<Direction> {
        let (first, joint, second) = (self.peek()?, self.peek_behind(1), self.peek_behind(2));
        let both = matches!((first, second), ("src", Some("dst")) | ("dst", Some("src")));
        let (direction, words) = match (first, joint) {
            (_, Some("or" | "||")) if both => (Direction::Either, 3),
            (_, Some("and" | "&&")) if both => (Direction::Both, 3),
            ("src", _) => (Direction::Source, 1),
            ("dst", _) => (Direction::Destination, 1),
            _ => return None,
        };
        self.at += words;
        Some(direction)
    }

    /// Whether the next word is a value, and no keyword.
    fn is_id(&self) -> bool {
        self.word().is_some_and(|word| {
            word.is_escaped
                || word.text.starts_with(|c: char| c.is_ascii_hexdigit() || c == ':')
                    && word.text.contains(|c: char| c.is_ascii_digit() || c == ':')
        })
    }

    /// One value, or several in parentheses.
    fn ids(&mut self, qualifiers: Qualifiers, depth: usize) -> Result<Node, BadFilter> {
        if depth > MAX_DEPTH {
            return Err(self.expected(FEWER));
        }
        if self.eat(&["not", "!"]) {
            return Ok(self.ids(qualifiers, depth + 1)?.not());
        }
        if !self.eat(&["("]) {
            return self.id(qualifiers);
        }
        let mut left = self.ids(qualifiers, depth + 1)?;
        loop {
            let is_and = self.eat(&["and", "&&"]);
            if !is_and && !self.eat(&["or", "||"]) {
                break;
            }
            self.count()?;
            let right = self.ids(qualifiers, depth + 1)?;
            left = if is_and { left.and(right) } else { left.or(right) };
        }
        if self.eat(&[")"]) { Ok(left) } else { Err(self.expected(")")) }
    }

    fn id(&mut self, qualifiers: Qualifiers) -> Result<Node, BadFilter> {
        let start = self.at;
        let word = self.word().ok_or_else(|| self.expected(qualifiers.wanted()))?;
        let wrong = BadFilter { column: word.column, expected: qualifiers.wanted() };
        self.at += 1;
        let id = if self.eat(&["/"]) {
            let len = self.value("the length of a prefix", number)?;
            Id::prefix(word.text, len)
        } else if self.eat(&["mask"]) {
            let mask = self.value("a mask like 255.255.255.0", |word| word.parse().ok())?;
            Id::masked(word.text, mask)
        } else {
            Some(Id::Word(word.text))
        };
        let node = id.and_then(|id| qualifiers.node(&id, self.packet));
        node.ok_or_else(|| {
            self.at = start;
            wrong
        })
    }

    fn vlan(&mut self) -> Result<Node, BadFilter> {
        self.at += 1;
        let id = self.peek().and_then(number);
        if id.is_some_and(|id| id > 0x0fff) {
            return Err(self.expected("a VLAN from 0 to 4095"));
        }
        self.at += usize::from(id.is_some());
        let node = primitive::vlan(self.packet, id);
        // What follows in the text is behind the tag.
        self.packet += primitive::TAG_LEN;
        Ok(node)
    }

    /// Goes past the next word, if something can be made of it.
    fn value<T>(
        &mut self,
        expected: &'static str,
        make: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, BadFilter> {
        let value = self.peek().and_then(make).ok_or_else(|| self.expected(expected))?;
        self.at += 1;
        Ok(value)
    }

    /// Reads a comparison of numbers, if one begins here.
    fn relation(&mut self, depth: usize) -> Result<Option<Node>, BadFilter> {
        let (start, primitives) = (self.at, self.primitives);
        let Some(word) = self.peek() else { return Ok(None) };
        // A number may be a port, and a parenthesis begin anything.
        let is_number = matches!(word, "-" | "len") || self.peek_behind(1) == Some("[");
        if !is_number && word != "(" && number(word).is_none() {
            return Ok(None);
        }
        let mut guards = Vec::new();
        let left = self.arithmetic(&mut guards, 0, depth);
        let operator = self.peek().and_then(relation);
        let (left, (relation, is_negated)) = match (left, operator) {
            (Ok(left), Some(operator)) => (left, operator),
            (Ok(_), None) if is_number => {
                return Err(self.expected("a comparison like = 1 or & 1 != 0"));
            }
            (Err(wrong), _) if is_number => return Err(wrong),
            _ => {
                (self.at, self.primitives) = (start, primitives);
                return Ok(None);
            }
        };
        self.at += 1;
        let right = self.arithmetic(&mut guards, 0, depth)?;
        let test = Node::Test(left, relation, right);
        let test = if is_negated { test.not() } else { test };
        // Only where they are what they are taken for are its octets asked for.
        Ok(Some(guards.into_iter().rev().fold(test, |test, guard: Node| guard.and(test))))
    }

    /// Reads a sum of what binds closer than `level`.
    fn arithmetic(
        &mut self,
        guards: &mut Vec<Node>,
        level: usize,
        depth: usize,
    ) -> Result<Number, BadFilter> {
        let Some(operators) = LEVELS.get(level) else { return self.operand(guards, depth) };
        let mut left = self.arithmetic(guards, level + 1, depth)?;
        while let Some((_, operation)) =
            operators.iter().find(|(word, _)| self.peek() == Some(word))
        {
            self.at += 1;
            self.count()?;
            let at = self.at;
            let right = self.arithmetic(guards, level + 1, depth)?;
            left = calculated(*operation, left, right).ok_or_else(|| {
                self.at = at;
                self.expected("a number that can be divided or shifted by")
            })?;
        }
        Ok(left)
    }

    fn operand(&mut self, guards: &mut Vec<Node>, depth: usize) -> Result<Number, BadFilter> {
        if depth > MAX_DEPTH {
            return Err(self.expected(FEWER));
        }
        if self.eat(&["-"]) {
            let inner = self.operand(guards, depth + 1)?;
            return Ok(match inner {
                Number::Constant(value) => Number::Constant(value.wrapping_neg()),
                inner => Number::Negative(Box::new(inner)),
            });
        }
        if self.eat(&["("]) {
            let inner = self.arithmetic(guards, 0, depth + 1)?;
            return if self.eat(&[")"]) { Ok(inner) } else { Err(self.expected(")")) };
        }
        if self.eat(&["len"]) {
            return Ok(Number::Len);
        }
        let Some(protocol) = self.peek().and_then(Protocol::of) else {
            return self.value(NUMBER, constant).map(Number::Constant);
        };
        let start = self.at;
        self.at += 1;
        if !self.eat(&["["]) {
            return Err(self.expected("["));
        }
        self.count()?;
        let index = self.arithmetic(guards, 0, depth + 1)?;
        let size = if self.eat(&[":"]) { self.value("1, 2 or 4", size)? } else { Size::One };
        if !self.eat(&["]"]) {
            return Err(self.expected("]"));
        }
        let (guard, base) = protocol.octets(self.packet).ok_or_else(|| {
            self.at = start;
            self.expected("a protocol whose octets can be found")
        })?;
        guards.extend(guard);
        Ok(Number::Load { base, index: Box::new(index), size })
    }
}

/// What binds loosest first.
const LEVELS: [&[(&str, Operation)]; 6] = [
    &[("|", Operation::Or)],
    &[("^", Operation::ExclusiveOr)],
    &[("&", Operation::And)],
    &[("<<", Operation::ShiftLeft), (">>", Operation::ShiftRight)],
    &[("+", Operation::Add), ("-", Operation::Subtract)],
    &[("*", Operation::Multiply), ("/", Operation::Divide), ("%", Operation::Modulo)],
];

/// Returns the result; none where there can be none.
fn calculated(operation: Operation, left: Number, right: Number) -> Option<Number> {
    let is_impossible = match (operation, &right) {
        (Operation::Divide | Operation::Modulo, Number::Constant(0)) => true,
        (Operation::ShiftLeft | Operation::ShiftRight, Number::Constant(by)) => *by >= u32::BITS,
        _ => false,
    };
    (!is_impossible).then(|| Number::Calculated(operation, Box::new(left), Box::new(right)))
}

/// Returns what an operator asks, and whether it is that this is not so.
fn relation(word: &str) -> Option<(Relation, bool)> {
    Some(match word {
        "=" | "==" => (Relation::Equal, false),
        "!=" => (Relation::Equal, true),
        ">" => (Relation::Greater, false),
        ">=" => (Relation::GreaterOrEqual, false),
        "<" => (Relation::GreaterOrEqual, true),
        "<=" => (Relation::Greater, true),
        _ => return None,
    })
}

/// A number, or the name of one.
fn constant(word: &str) -> Option<u32> {
    number(word).or_else(|| primitive::constant(word))
}

fn size(word: &str) -> Option<Size> {
    match word {
        "1" => Some(Size::One),
        "2" => Some(Size::Two),
        "4" => Some(Size::Four),
        _ => None,
    }
}
