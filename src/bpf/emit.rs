//! A tree of tests to instructions, from the last to the first: jumps go forward alone, so what
//! they lead to is there already when they are written.

use super::{
    program::{Instruction, code},
    tree::{Base, Node, Number, Size},
};

/// What a frame that matches returns: all of it is to be kept.
const ALL: u32 = u32::MAX;
/// No jump of a test goes further. There is room for the jumps that go on from there.
const FAR: usize = 250;

/// An instruction of those that are there, counted from the last.
type Place = usize;

/// Returns the instructions of a tree; without one, of all frames.
// They may be no program: too many, or with operands that none can have.
pub(super) fn emit(tree: Option<&Node>) -> Vec<Instruction> {
    let mut emitter = Emitter::default();
    let no = emitter.push(code::RETURN, 0);
    let yes = emitter.push(code::RETURN, ALL);
    if let Some(tree) = tree {
        emitter.node(tree, yes, no);
    }
    emitter.0.reverse();
    emitter.0
}

#[derive(Default)]
struct Emitter(Vec<Instruction>);

impl Emitter {
    fn push(&mut self, code: u16, k: u32) -> Place {
        self.0.push(Instruction { code, jump_true: 0, jump_false: 0, k });
        self.0.len() - 1
    }

    /// Instructions between the next one and a place.
    fn distance(&self, to: Place) -> usize {
        self.0.len() - to - 1
    }

    /// Returns a place from which it goes on to `to`, and which a test can jump to.
    fn near(&mut self, to: Place) -> Place {
        let distance = self.distance(to);
        // 32 bits instead of 8.
        if distance > FAR { self.push(code::JUMP, distance as u32) } else { to }
    }

    /// Writes a node in front of what is there, which goes on to `yes` or `no`. Returns where it
    /// begins: that is the last one written.
    fn node(&mut self, node: &Node, yes: Place, no: Place) -> Place {
        match node {
            Node::Not(inner) => self.node(inner, no, yes),
            Node::And(first, second) => {
                let second = self.node(second, yes, no);
                self.node(first, second, no)
            }
            Node::Or(first, second) => {
                let second = self.node(second, yes, no);
                self.node(first, yes, second)
            }
            Node::Test(left, relation, right) => {
                let (yes, no) = (self.near(yes), self.near(no));
                let (jump_true, jump_false) = (self.distance(yes) as u8, self.distance(no) as u8);
                let mut steps = Vec::new();
                let by = match right {
                    Number::Constant(_) => {
                        left.steps(&mut steps, 0);
                        0
                    }
                    _ => {
                        both(left, right, &mut steps, 0);
                        code::BY_X
                    }
                };
                let k = if let Number::Constant(value) = right { *value } else { 0 };
                let code = code::JUMP | *relation as u16 | by;
                self.0.push(Instruction { code, jump_true, jump_false, k });
                for (code, k) in steps.into_iter().rev() {
                    self.push(code, k);
                }
                self.0.len() - 1
            }
        }
    }
}

/// What is done, with its operand.
type Steps = Vec<(u16, u32)>;

/// Loads `left` into A and `right` into X.
fn both(left: &Number, right: &Number, steps: &mut Steps, depth: u32) {
    left.steps(steps, depth);
    // Beyond the memory that there is, this is no program.
    steps.push((code::STORE, depth));
    right.steps(steps, depth + 1);
    steps.push((code::A_TO_X, 0));
    steps.push((code::LOAD_MEMORY, depth));
}

impl Number {
    /// Loads it into A. The words of memory before `depth` are in use.
    fn steps(&self, steps: &mut Steps, depth: u32) {
        match self {
            Self::Constant(value) => steps.push((code::LOAD_IMMEDIATE, *value)),
            Self::Len => steps.push((code::LOAD_LEN, 0)),
            Self::Negative(inner) => {
                inner.steps(steps, depth);
                steps.push((code::NEGATE, 0));
            }
            Self::Calculated(operation, left, right) => {
                let code = code::CALCULATE | *operation as u16;
                if let Self::Constant(value) = **right {
                    left.steps(steps, depth);
                    return steps.push((code, value));
                }
                both(left, right, steps, depth);
                steps.push((code | code::BY_X, 0));
            }
            Self::Load { base, index, size } => load(*base, index, size.code(), steps, depth),
        }
    }
}

fn load(base: Base, index: &Number, size: u16, steps: &mut Steps, depth: u32) {
    match (base, index) {
        // Too large an offset is refused as one that is no frame's.
        (Base::At(at), Number::Constant(index)) => {
            steps.push((code::LOAD | size, at.saturating_add(*index)));
        }
        (Base::At(at), index) => {
            index.steps(steps, depth);
            steps.push((code::A_TO_X, 0));
            steps.push((code::LOAD_INDIRECT | size, at));
        }
        (Base::BehindIpv4(at), Number::Constant(index)) => {
            steps.push((code::LOAD_X_HEADER_LEN, at));
            steps.push((code::LOAD_INDIRECT | size, at.saturating_add(*index)));
        }
        (Base::BehindIpv4(at), index) => {
            index.steps(steps, depth);
            steps.push((code::LOAD_X_HEADER_LEN, at));
            // Both are added: the header's length is in X.
            steps.push((code::CALCULATE | code::BY_X, 0));
            steps.push((code::A_TO_X, 0));
            steps.push((code::LOAD_INDIRECT | size, at));
        }
    }
}

impl Size {
    fn code(self) -> u16 {
        match self {
            Self::One => code::BYTE,
            Self::Two => code::HALF,
            Self::Four => code::WORD,
        }
    }
}
