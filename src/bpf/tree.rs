//! What a filter asks, as a tree: tests of numbers, and how they belong together.

/// A number of a frame's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Number {
    Constant(u32),
    /// Octets of the frame.
    Len,
    /// Octets of it.
    Load {
        base: Base,
        index: Box<Number>,
        size: Size,
    },
    Calculated(Operation, Box<Number>, Box<Number>),
    Negative(Box<Number>),
}

/// What octets are counted from. Both are offsets from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base {
    At(u32),
    /// The end of the IPv4 header that is there.
    BehindIpv4(u32),
}

/// Octets of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    One,
    Two,
    Four,
}

/// By the bits of their codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Operation {
    Add = 0x00,
    Subtract = 0x10,
    Multiply = 0x20,
    Divide = 0x30,
    Or = 0x40,
    And = 0x50,
    ShiftLeft = 0x60,
    ShiftRight = 0x70,
    Modulo = 0x90,
    ExclusiveOr = 0xa0,
}

/// By the bits of their codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Relation {
    Equal = 0x10,
    Greater = 0x20,
    GreaterOrEqual = 0x30,
    AnyBit = 0x40,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Test(Number, Relation, Number),
    Not(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
}

impl Node {
    pub(super) fn and(self, other: Self) -> Self {
        Self::And(Box::new(self), Box::new(other))
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self::Or(Box::new(self), Box::new(other))
    }

    pub(super) fn not(self) -> Self {
        Self::Not(Box::new(self))
    }
}

impl Number {
    /// Octets at a place that is known.
    pub(super) fn at(base: Base, index: u32, size: Size) -> Self {
        Self::Load { base, index: Box::new(Self::Constant(index)), size }
    }

    pub(super) fn is(self, relation: Relation, value: u32) -> Node {
        Node::Test(self, relation, Self::Constant(value))
    }

    pub(super) fn equals(self, value: u32) -> Node {
        self.is(Relation::Equal, value)
    }

    pub(super) fn masked(self, mask: u32) -> Self {
        if mask == u32::MAX {
            return self;
        }
        Self::Calculated(Operation::And, Box::new(self), Box::new(Self::Constant(mask)))
    }
}
