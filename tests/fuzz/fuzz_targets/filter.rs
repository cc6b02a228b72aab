//! Any text as a filter, any octets as a program, and a frame that both are run on: what is taken
//! ends, whatever the frame is, and says the same each time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mvirt_net::bpf::{Instruction, Program};

fn instructions(octets: &[u8]) -> Vec<Instruction> {
    let instruction = |octets: &[u8; 8]| Instruction {
        code: u16::from_be_bytes([octets[0], octets[1]]),
        jump_true: octets[2],
        jump_false: octets[3],
        k: u32::from_be_bytes([octets[4], octets[5], octets[6], octets[7]]),
    };
    octets.as_chunks().0.iter().map(instruction).collect()
}

fuzz_target!(|input: (&str, &[u8], &[u8], u16)| {
    let (text, program, frame, len) = input;
    let programs = [text.parse::<Program>().ok(), Program::new(&instructions(program)).ok()];
    for program in programs.into_iter().flatten() {
        let matches = program.matches(frame, len.into());
        assert_eq!(program.matches(frame, len.into()), matches);
        // What is compiled is a program to everybody else, too.
        let same = Program::new(&program.instructions().collect::<Vec<_>>());
        assert_eq!(same.as_ref(), Ok(&program));
    }
});
