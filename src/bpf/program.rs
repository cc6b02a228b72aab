//! Programs of classic BPF: what they may be, and what they do.
//!
//! A program is checked once: every jump is forward and inside, the last instruction returns, no
//! memory but its own 16 words is named. So it ends after as many steps as it has instructions.
//! What a frame lacks ends it as if the frame did not match, as does a division by zero.

/// Instructions at most.
pub const MAX_LEN: usize = 4096;
/// Words of memory.
const MEMORY: usize = 16;
/// Offsets from here on are Linux' own (`SKF_AD_OFF`): they are no octets of the frame.
const FIRST_EXTENSION: u32 = 0xffff_f000;

/// An instruction as it is in files and in `tcpdump -ddd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to leave out, where a test is true.
    pub jump_true: u8,
    /// And where it is false.
    pub jump_false: u8,
    /// An operand.
    pub k: u32,
}

/// Why instructions are no program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadProgram {
    /// There are none, or too many.
    #[error("{0} instructions: expected 1 to {MAX_LEN}")]
    Length(usize),
    /// One is none.
    #[error("instruction {0}: its code {1:#06x} is none of classic BPF")]
    Code(usize, u16),
    /// One jumps out of the program.
    #[error("instruction {0}: it jumps beyond the end")]
    Jump(usize),
    /// One has an operand that it cannot have: a word of memory that there is not, a division by
    /// zero, a shift by more bits than there are, an offset that is no frame's.
    #[error("instruction {0}: it cannot have the operand {1:#x}")]
    Operand(usize, u32),
    /// The last one goes on.
    #[error("the last instruction returns nothing")]
    NoEnd,
}

/// The part of the code that says what kind of instruction it is.
mod class {
    pub(in crate::bpf) const LD: u16 = 0;
    pub(in crate::bpf) const LDX: u16 = 1;
    pub(in crate::bpf) const ST: u16 = 2;
    pub(in crate::bpf) const STX: u16 = 3;
    pub(in crate::bpf) const ALU: u16 = 4;
    pub(in crate::bpf) const JMP: u16 = 5;
    pub(in crate::bpf) const RET: u16 = 6;
    pub(in crate::bpf) const MISC: u16 = 7;
}

/// Instructions by their codes.
pub(super) mod code {
    use super::class::{ALU, JMP, LD, LDX, MISC, RET, ST};

    pub(in crate::bpf) const WORD: u16 = 0x00;
    pub(in crate::bpf) const HALF: u16 = 0x08;
    pub(in crate::bpf) const BYTE: u16 = 0x10;
    pub(in crate::bpf) const LOAD: u16 = LD | 0x20;
    pub(in crate::bpf) const LOAD_INDIRECT: u16 = LD | 0x40;
    pub(in crate::bpf) const LOAD_IMMEDIATE: u16 = LD;
    pub(in crate::bpf) const LOAD_MEMORY: u16 = LD | 0x60;
    pub(in crate::bpf) const LOAD_LEN: u16 = LD | 0x80;
    pub(in crate::bpf) const LOAD_X_HEADER_LEN: u16 = LDX | BYTE | 0xa0;
    pub(in crate::bpf) const STORE: u16 = ST;
    pub(in crate::bpf) const BY_X: u16 = 0x08;
    pub(in crate::bpf) const CALCULATE: u16 = ALU;
    pub(in crate::bpf) const NEGATE: u16 = ALU | 0x80;
    pub(in crate::bpf) const JUMP: u16 = JMP;
    pub(in crate::bpf) const RETURN: u16 = RET;
    pub(in crate::bpf) const A_TO_X: u16 = MISC;
}

#[derive(Debug, Clone, Copy)]
enum Size {
    Word,
    Half,
    Byte,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Immediate,
    Absolute(Size),
    Indirect(Size),
    Memory,
    Len,
    /// Four times the low half of an octet: the length of an IPv4 header.
    HeaderLen,
}

#[derive(Debug, Clone, Copy)]
enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Or,
    And,
    ShiftLeft,
    ShiftRight,
    Negate,
    Modulo,
    ExclusiveOr,
}

#[derive(Debug, Clone, Copy)]
enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
    AnyBit,
}

#[derive(Debug, Clone, Copy)]
enum Operand {
    K,
    X,
}

/// An instruction that is right.
#[derive(Debug, Clone, Copy)]
enum Step {
    LoadA(Source),
    LoadX(Source),
    StoreA,
    StoreX,
    Calculate(Operation, Operand),
    Jump,
    Branch(Test, Operand),
    ReturnK,
    ReturnA,
    AToX,
    XToA,
}

/// A program that is right.
#[derive(Debug, Clone)]
pub struct Program(Box<[(Step, Instruction)]>);

impl PartialEq for Program {
    fn eq(&self, other: &Self) -> bool {
        // The steps follow from the instructions.
        self.instructions().eq(other.instructions())
    }
}

impl Eq for Program {}

impl Program {
    /// Checks instructions.
    pub fn new(instructions: &[Instruction]) -> Result<Self, BadProgram> {
        let count = instructions.len();
        if !(1..=MAX_LEN).contains(&count) {
            return Err(BadProgram::Length(count));
        }
        let checked = instructions.iter().enumerate().map(|(at, instruction)| {
            let step = Step::of(*instruction).ok_or(BadProgram::Code(at, instruction.code))?;
            step.check(at, *instruction, count - at - 1)?;
            Ok((step, *instruction))
        });
        let program = Self(checked.collect::<Result<_, BadProgram>>()?);
        match program.0.last() {
            Some((Step::ReturnK | Step::ReturnA, _)) => Ok(program),
            _ => Err(BadProgram::NoEnd),
        }
    }

    /// Returns the instructions.
    pub fn instructions(&self) -> impl Iterator<Item = Instruction> {
        self.0.iter().map(|(_, instruction)| *instruction)
    }

    /// Whether a frame of `len` octets matches that begins with `octets`. What a test asks for
    /// beyond those is not there: it does not match.
    pub fn matches(&self, octets: &[u8], len: usize) -> bool {
        self.run(octets, u32::try_from(len).unwrap_or(u32::MAX)).is_some_and(|kept| kept > 0)
    }

    /// Returns how many octets are to be kept; none where a step was impossible.
    fn run(&self, octets: &[u8], len: u32) -> Option<u32> {
        let (mut a, mut x, mut memory) = (0_u32, 0_u32, [0_u32; MEMORY]);
        let mut at = 0;
        loop {
            let (step, Instruction { k, jump_true, jump_false, .. }) = *self.0.get(at)?;
            at += 1;
            match step {
                Step::LoadA(source) => a = source.load(k, x, &memory, (octets, len))?,
                Step::LoadX(source) => x = source.load(k, x, &memory, (octets, len))?,
                Step::StoreA => memory[k as usize % MEMORY] = a,
                Step::StoreX => memory[k as usize % MEMORY] = x,
                Step::Calculate(operation, operand) => {
                    a = operation.of(a, operand.value(k, x))?;
                }
                Step::Jump => at += k as usize,
                Step::Branch(test, operand) => {
                    let is_true = test.holds(a, operand.value(k, x));
                    at += usize::from(if is_true { jump_true } else { jump_false });
                }
                Step::ReturnK => return Some(k),
                Step::ReturnA => return Some(a),
                Step::AToX => x = a,
                Step::XToA => a = x,
            }
        }
    }
}

impl Step {
    /// Returns what an instruction does; none if it is none.
    fn of(Instruction { code, .. }: Instruction) -> Option<Self> {
        let operand = if code & 0x08 == 0 { Operand::K } else { Operand::X };
        Some(match (code & 0x07, code & 0xf0, code & 0x18) {
            // Only eight bits mean something.
            _ if code > 0xff => return None,
            (class::LD, ..) => Self::LoadA(Source::of(code & 0xf8)?),
            (class::LDX, ..) => Self::LoadX(match code & 0xf8 {
                0x00 => Source::Immediate,
                0x60 => Source::Memory,
                0x80 => Source::Len,
                0xb0 => Source::HeaderLen,
                _ => return None,
            }),
            (class::ST, 0, 0) => Self::StoreA,
            (class::STX, 0, 0) => Self::StoreX,
            (class::ALU, 0x80, 0) => Self::Calculate(Operation::Negate, Operand::K),
            (class::ALU, kind, _) => Self::Calculate(Operation::of_code(kind)?, operand),
            (class::JMP, 0x00, 0) => Self::Jump,
            (class::JMP, kind, _) => Self::Branch(Test::of_code(kind)?, operand),
            (class::RET, 0x00, 0x00) => Self::ReturnK,
            (class::RET, 0x10, 0x10) => Self::ReturnA,
            (class::MISC, 0x00, 0) => Self::AToX,
            (class::MISC, 0x80, 0) => Self::XToA,
            _ => return None,
        })
    }

    /// Checks its operands; `behind` it are so many instructions.
    fn check(self, at: usize, it: Instruction, behind: usize) -> Result<(), BadProgram> {
        let refused = Err(BadProgram::Operand(at, it.k));
        match self {
            Self::LoadA(Source::Memory) | Self::LoadX(Source::Memory)
                if it.k as usize >= MEMORY =>
            {
                refused
            }
            Self::StoreA | Self::StoreX if it.k as usize >= MEMORY => refused,
            Self::LoadA(Source::Absolute(_) | Source::Indirect(_))
            | Self::LoadX(Source::HeaderLen)
                if it.k >= FIRST_EXTENSION =>
            {
                refused
            }
            Self::Calculate(Operation::Divide | Operation::Modulo, Operand::K) if it.k == 0 => {
                refused
            }
            Self::Calculate(Operation::ShiftLeft | Operation::ShiftRight, Operand::K)
                if it.k >= u32::BITS =>
            {
                refused
            }
            Self::Jump if it.k as usize >= behind => Err(BadProgram::Jump(at)),
            Self::Branch(..) if usize::from(it.jump_true.max(it.jump_false)) >= behind => {
                Err(BadProgram::Jump(at))
            }
            _ => Ok(()),
        }
    }
}

impl Source {
    fn of(bits: u16) -> Option<Self> {
        let size = match bits & 0x18 {
            code::WORD => Size::Word,
            code::HALF => Size::Half,
            code::BYTE => Size::Byte,
            _ => return None,
        };
        Some(match (bits & 0xe0, size) {
            (0x00, Size::Word) => Self::Immediate,
            (0x20, _) => Self::Absolute(size),
            (0x40, _) => Self::Indirect(size),
            (0x60, Size::Word) => Self::Memory,
            (0x80, Size::Word) => Self::Len,
            _ => return None,
        })
    }

    fn load(
        self,
        k: u32,
        x: u32,
        memory: &[u32; MEMORY],
        (octets, len): (&[u8], u32),
    ) -> Option<u32> {
        match self {
            Self::Immediate => Some(k),
            Self::Absolute(size) => size.read(octets, k),
            // Beyond 32 bits there is no frame.
            Self::Indirect(size) => size.read(octets, x.checked_add(k)?),
            Self::Memory => Some(memory[k as usize % MEMORY]),
            Self::Len => Some(len),
            Self::HeaderLen => Some(4 * (Size::Byte.read(octets, k)? & 0x0f)),
        }
    }
}

impl Size {
    fn read(self, octets: &[u8], at: u32) -> Option<u32> {
        let octets = octets.get(at as usize..)?;
        Some(match self {
            Self::Word => u32::from_be_bytes(*octets.first_chunk()?),
            Self::Half => u16::from_be_bytes(*octets.first_chunk()?).into(),
            Self::Byte => u32::from(*octets.first()?),
        })
    }
}

impl Operation {
    fn of_code(kind: u16) -> Option<Self> {
        Some(match kind {
            0x00 => Self::Add,
            0x10 => Self::Subtract,
            0x20 => Self::Multiply,
            0x30 => Self::Divide,
            0x40 => Self::Or,
            0x50 => Self::And,
            0x60 => Self::ShiftLeft,
            0x70 => Self::ShiftRight,
            0x90 => Self::Modulo,
            0xa0 => Self::ExclusiveOr,
            _ => return None,
        })
    }

    /// Returns the result; none of a division by zero.
    fn of(self, a: u32, b: u32) -> Option<u32> {
        Some(match self {
            Self::Add => a.wrapping_add(b),
            Self::Subtract => a.wrapping_sub(b),
            Self::Multiply => a.wrapping_mul(b),
            Self::Divide => a.checked_div(b)?,
            Self::Or => a | b,
            Self::And => a & b,
            // Of a shift by more bits than there are, nothing is left (bpf_filter.c of libpcap).
            Self::ShiftLeft => a.checked_shl(b).unwrap_or(0),
            Self::ShiftRight => a.checked_shr(b).unwrap_or(0),
            Self::Negate => a.wrapping_neg(),
            Self::Modulo => a.checked_rem(b)?,
            Self::ExclusiveOr => a ^ b,
        })
    }
}

impl Test {
    fn of_code(kind: u16) -> Option<Self> {
        Some(match kind {
            0x10 => Self::Equal,
            0x20 => Self::Greater,
            0x30 => Self::GreaterOrEqual,
            0x40 => Self::AnyBit,
            _ => return None,
        })
    }

    fn holds(self, a: u32, b: u32) -> bool {
        match self {
            Self::Equal => a == b,
            Self::Greater => a > b,
            Self::GreaterOrEqual => a >= b,
            Self::AnyBit => a & b != 0,
        }
    }
}

impl Operand {
    fn value(self, k: u32, x: u32) -> u32 {
        match self {
            Self::K => k,
            Self::X => x,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn program(steps: &[(u16, u8, u8, u32)]) -> Result<Program, BadProgram> {
        let instruction = |(code, jump_true, jump_false, k): &(u16, u8, u8, u32)| Instruction {
            code: *code,
            jump_true: *jump_true,
            jump_false: *jump_false,
            k: *k,
        };
        Program::new(&steps.iter().map(instruction).collect::<Vec<_>>())
    }

    #[test]
    fn a_program_of_tcpdump_matches_what_it_is_for() {
        // `tcpdump -ddd udp port 53`, of IPv4 alone.
        let port = program(&[
            (40, 0, 0, 12),
            (21, 0, 10, 2048),
            (48, 0, 0, 23),
            (21, 0, 8, 17),
            (40, 0, 0, 20),
            (69, 6, 0, 8191),
            (177, 0, 0, 14),
            (72, 0, 0, 14),
            (21, 2, 0, 53),
            (72, 0, 0, 16),
            (21, 0, 1, 53),
            (6, 0, 0, 262144),
            (6, 0, 0, 0),
        ])
        .unwrap();
        let mut frame = [0; 64];
        frame[12] = 8;
        frame[14] = 0x46;
        frame[23] = 17;
        assert!(!port.matches(&frame, 64));
        // Behind a header of 24 octets.
        frame[41] = 53;
        assert!(port.matches(&frame, 64));
        assert!(!port.matches(&frame[..41], 64), "what is not there does not match");
        frame[21] = 1;
        assert!(!port.matches(&frame, 64), "a later fragment has no ports");
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let end = (6, 0, 0, 1);
        assert_eq!(program(&[]), Err(BadProgram::Length(0)));
        assert_eq!(program(&[end; 4097]), Err(BadProgram::Length(4097)));
        assert!(program(&[end; 4096]).is_ok());
        assert_eq!(program(&[(0, 0, 0, 1)]), Err(BadProgram::NoEnd));
        for (first, refused) in [
            ((5, 0, 0, 1), BadProgram::Jump(0)),
            // It would go back.
            ((5, 0, 0, u32::MAX), BadProgram::Jump(0)),
            ((0x15, 1, 0, 0), BadProgram::Jump(0)),
            ((0x15, 0, 255, 0), BadProgram::Jump(0)),
            ((0x60, 0, 0, 16), BadProgram::Operand(0, 16)),
            ((0x02, 0, 0, 16), BadProgram::Operand(0, 16)),
            ((0x34, 0, 0, 0), BadProgram::Operand(0, 0)),
            ((0x94, 0, 0, 0), BadProgram::Operand(0, 0)),
            ((0x64, 0, 0, 32), BadProgram::Operand(0, 32)),
            ((0x20, 0, 0, 0xffff_f000), BadProgram::Operand(0, 0xffff_f000)),
            ((0x100, 0, 0, 0), BadProgram::Code(0, 0x100)),
            ((0x18, 0, 0, 0), BadProgram::Code(0, 0x18)),
            ((0xff, 0, 0, 0), BadProgram::Code(0, 0xff)),
        ] {
            assert_eq!(program(&[first, end]), Err(refused), "{first:?}");
        }
    }

    #[test]
    fn what_cannot_be_calculated_does_not_match() {
        // A ← 1, X is 0.
        for (code, matches) in [(0x3c, false), (0x9c, false), (0x6c, true), (0x0c, true)] {
            let divided = program(&[(0, 0, 0, 1), (code, 0, 0, 0), (6, 0, 0, 1)]).unwrap();
            assert_eq!(divided.matches(&[], 0), matches, "{code:#x}");
        }
        let shifted = [(0, 0, 0, 40), (7, 0, 0, 0), (0, 0, 0, 1), (0x6c, 0, 0, 0), (0x16, 0, 0, 0)];
        assert_eq!(program(&shifted).unwrap().run(&[], 0), Some(0));
    }

    /// What the octets of a code mean, as the table in the specification says it: one question
    /// after the other, and no other order than that.
    fn naive(steps: &[Instruction], octets: &[u8], len: u32) -> Option<u32> {
        let (mut a, mut x, mut memory) = (0_u64, 0_u64, [0_u64; 16]);
        let mut at = 0;
        loop {
            let Instruction { code, jump_true, jump_false, k } = steps[at];
            let (k, mask) = (u64::from(k), 0xffff_ffff);
            at += 1;
            let read = |from: u64| {
                let size = [4, 2, 1][usize::from(code >> 3 & 3)];
                let value = (0..size).map(|i| octets.get((from + i) as usize).copied());
                value.collect::<Option<Vec<_>>>().map(|octets| {
                    octets.iter().fold(0, |value, octet| value << 8 | u64::from(*octet))
                })
            };
            let operand = if code & 8 == 0 { k } else { x };
            match (code & 7, code & 0xe0) {
                (0 | 1, mode) => {
                    let value = match mode {
                        0x00 => k,
                        0x20 => read(k)?,
                        0x40 if x + k > mask => return None,
                        0x40 => read(x + k)?,
                        0x60 => memory[k as usize],
                        0x80 => len.into(),
                        _ => read(k)? % 16 * 4,
                    };
                    *(if code & 1 == 0 { &mut a } else { &mut x }) = value;
                }
                (2, _) => memory[k as usize] = a,
                (3, _) => memory[k as usize] = x,
                (4, _) => {
                    a = mask
                        & match code >> 4 {
                            0 => a + operand,
                            1 => a + (1 << 32) - operand,
                            2 => a * operand,
                            3 if operand == 0 => return None,
                            3 => a / operand,
                            4 => a | operand,
                            5 => a & operand,
                            6 if operand > 31 => 0,
                            6 => a << operand,
                            7 if operand > 31 => 0,
                            7 => a >> operand,
                            8 => (1 << 32) - a,
                            9 if operand == 0 => return None,
                            9 => a % operand,
                            _ => a ^ operand,
                        }
                }
                (5, _) => {
                    let holds = match code >> 4 {
                        0 => {
                            at += k as usize;
                            continue;
                        }
                        1 => a == operand,
                        2 => a > operand,
                        3 => a >= operand,
                        _ => a & operand != 0,
                    };
                    at += usize::from(if holds { jump_true } else { jump_false });
                }
                (6, _) => return Some(if code & 0x10 == 0 { k } else { a } as u32),
                (_, 0x80) => a = x,
                _ => x = a,
            }
        }
    }

    fn instruction() -> impl Strategy<Value = Instruction> {
        let k = prop_oneof![0..64_u32, any::<u32>()];
        // Mostly codes that there are.
        (0..0xc0_u16, 0..4_u8, 0..4_u8, k).prop_map(|(code, jump_true, jump_false, k)| {
            Instruction { code, jump_true, jump_false, k }
        })
    }

    proptest! {
        #[test]
        fn programs_do_what_the_table_says(
            steps in proptest::collection::vec(instruction(), 1..24),
            octets in proptest::collection::vec(any::<u8>(), 0..80),
            len in any::<u32>(),
        ) {
            // Those that are none by themselves are left out, so that enough are left.
            let is_right = |it: &Instruction| {
                let padded = [vec![*it], vec![Instruction { code: 6, k: 1, ..*it }; 5]].concat();
                Program::new(&padded).is_ok()
            };
            let mut steps = steps.into_iter().filter(is_right).collect::<Vec<_>>();
            let end = Instruction { code: 0x16, jump_true: 0, jump_false: 0, k: 0 };
            steps.extend([end; 5]);
            let program = Program::new(&steps);
            prop_assert!(program.is_ok());
            let run = program.unwrap().run(&octets, len);
            prop_assert_eq!(run, naive(&steps, &octets, len));
        }

        #[test]
        fn whatever_is_taken_for_a_program_ends(
            steps in proptest::collection::vec(
                (any::<u16>(), any::<u8>(), any::<u8>(), any::<u32>()), 1..40
            ),
            octets in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            if let Ok(program) = program(&steps) {
                program.matches(&octets, octets.len());
            }
        }
    }
}
