//! Rules as a BPF program that the kernel asks about each use of a device.
//!
//! Its context holds the kind and the access in one word, then major and minor. Rules are tried from the last to the first;
//! the first that fits answers. Source: linux/bpf.h, `struct bpf_cgroup_dev_ctx`.

use cirro_sys::bpf::Instruction;

use super::{Kind, Rule};

const ANSWER: u8 = 0;
const SCRATCH: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbf;
const MOVE_CONSTANT: u8 = 0xb7;
const AND_CONSTANT: u8 = 0x57;
const SHIFT_RIGHT_CONSTANT: u8 = 0x77;
const JUMP_UNLESS_CONSTANT: u8 = 0x55;
const JUMP_UNLESS_REGISTER: u8 = 0x5d;
const JUMP_IF_CONSTANT: u8 = 0x15;
const EXIT: u8 = 0x95;

fn instruction(code: u8, to: u8, from: u8, offset: i16, constant: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, constant }
}

/// Translates rules.
pub(super) fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    // Register 1 holds the context at first.
    let mut program = vec![
        instruction(LOAD_WORD, KIND, 1, 0, 0),
        instruction(AND_CONSTANT, KIND, 0, 0, 0xffff),
        instruction(LOAD_WORD, ACCESS, 1, 0, 0),
        instruction(SHIFT_RIGHT_CONSTANT, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, 1, 4, 0),
        instruction(LOAD_WORD, MINOR, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        program.extend(block(rule));
        if rule.is_blanket() {
            return program;
        }
    }
    program.extend([instruction(MOVE_CONSTANT, ANSWER, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

/// One rule: conditions that jump over its answer.
fn block(rule: &Rule) -> Vec<Instruction> {
    let mut block = Vec::with_capacity(8);
    match rule.kind {
        Kind::All => {}
        Kind::Block => block.push(instruction(JUMP_UNLESS_CONSTANT, KIND, 0, 0, 1)),
        Kind::Char => block.push(instruction(JUMP_UNLESS_CONSTANT, KIND, 0, 0, 2)),
    }
    let access = i32::from(rule.mknod) | i32::from(rule.read) << 1 | i32::from(rule.write) << 2;
    if access != 7 {
        block.push(instruction(MOVE, SCRATCH, ACCESS, 0, 0));
        block.push(instruction(AND_CONSTANT, SCRATCH, 0, 0, access));
        block.push(if rule.allow {
            // All of what is wanted is allowed.
            instruction(JUMP_UNLESS_REGISTER, SCRATCH, ACCESS, 0, 0)
        } else {
            // Nothing of what is wanted is denied.
            instruction(JUMP_IF_CONSTANT, SCRATCH, 0, 0, 0)
        });
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        block.extend(number.map(|number| instruction(JUMP_UNLESS_CONSTANT, register, 0, 0, number as i32)));
    }
    block.push(instruction(MOVE_CONSTANT, ANSWER, 0, 0, i32::from(rule.allow)));
    block.push(instruction(EXIT, 0, 0, 0, 0));
    let length = block.len();
    for (index, one) in block.iter_mut().enumerate() {
        if matches!(one.code, JUMP_UNLESS_CONSTANT | JUMP_UNLESS_REGISTER | JUMP_IF_CONSTANT) {
            one.offset = (length - index - 1) as i16;
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn ask(program: &[Instruction], kind: u64, access: u64, major: u64, minor: u64) -> bool {
        let (context, mut registers, mut at) = ([kind | access << 16, major, minor], [0_u64; 11], 0_usize);
        loop {
            let one = program[at];
            let (to, from) = (usize::from(one.registers & 15), usize::from(one.registers >> 4));
            let constant = i64::from(one.constant) as u64;
            let jump = match one.code {
                LOAD_WORD => {
                    registers[to] = context[one.offset as usize / 4];
                    false
                }
                MOVE => {
                    registers[to] = registers[from];
                    false
                }
                MOVE_CONSTANT => {
                    registers[to] = constant;
                    false
                }
                AND_CONSTANT => {
                    registers[to] &= constant;
                    false
                }
                SHIFT_RIGHT_CONSTANT => {
                    registers[to] >>= constant;
                    false
                }
                JUMP_UNLESS_CONSTANT => registers[to] != constant,
                JUMP_UNLESS_REGISTER => registers[to] != registers[from],
                JUMP_IF_CONSTANT => registers[to] == constant,
                EXIT => return registers[0] == 1,
                code => panic!("code {code:#x}"),
            };
            at += 1 + if jump { one.offset as usize } else { 0 };
        }
    }

    #[test]
    fn the_last_rule_that_fits_decides() {
        let allow_disks = Rule {
            allow: true,
            kind: Kind::Block,
            major: Some(8),
            minor: None,
            read: true,
            write: true,
            mknod: true,
        };
        let deny_writing_one =
            Rule { allow: false, minor: Some(1), read: false, mknod: false, ..allow_disks };
        let program = assemble(&[Rule::DENY_ALL, allow_disks, deny_writing_one]);
        let (block, character, read, write) = (1, 2, 2, 4);
        assert!(ask(&program, block, read, 8, 1));
        assert!(!ask(&program, block, write, 8, 1));
        assert!(!ask(&program, block, read | write, 8, 1));
        assert!(ask(&program, block, read | write, 8, 2));
        assert!(!ask(&program, character, read, 8, 2));
        assert!(!ask(&program, block, read, 9, 2));
    }

    #[test]
    fn making_a_node_is_not_using_it() {
        let program = assemble(&[Rule::DENY_ALL, Rule::mknod_any(Kind::Char)]);
        assert!(ask(&program, 2, 1, 10, 200));
        assert!(!ask(&program, 2, 1 | 2, 10, 200));
    }
}
