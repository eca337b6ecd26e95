//! The device list of a sandbox as a BPF program, which takes the place of version 1's `devices`
//! controller on a version 2 hierarchy (`admin-guide/cgroup-v2.rst`, "Device controller").

use oci_spec::runtime as oci;

// Operations of `linux/bpf.h`, and registers as the program uses them.
const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x57;
const JUMP_IF: u8 = 0x15;
const JUMP_IF_NOT: u8 = 0x55;
const MOVE: u8 = 0xb7;
const EXIT: u8 = 0x95;
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const MAJOR: u8 = 3;
const MINOR: u8 = 4;

/// `BPF_DEVCG_DEV_CHAR`: character devices are the only ones that a list may hold.
const CHARACTER: i32 = 2;

/// One instruction, `struct bpf_insn`.
fn instruction(code: u8, target: u8, source: u8, offset: i16, value: i32) -> [u8; 8] {
    let [offset_low, offset_high] = offset.to_le_bytes();
    let [a, b, c, d] = value.to_le_bytes();
    [code, source << 4 | target, offset_low, offset_high, a, b, c, d]
}

fn answer(allowed: i32) -> [[u8; 8]; 2] {
    [instruction(MOVE, RESULT, 0, 0, allowed), instruction(EXIT, 0, 0, 0, 0)]
}

/// The program that allows the character devices of `rules` that are allowed, and nothing else.
pub(crate) fn program(rules: &[oci::LinuxDeviceCgroup]) -> Vec<u8> {
    // struct bpf_cgroup_dev_ctx: access and kind, major, minor; the kind is the low half.
    let mut code = vec![
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
        instruction(JUMP_IF, KIND, 0, 2, CHARACTER),
    ];
    code.extend(answer(0));
    for rule in rules.iter().filter(|rule| rule.allow()) {
        let number = |number: Option<i64>| number.and_then(|number| i32::try_from(number).ok());
        let Some(major) = number(rule.major()) else { continue };
        match number(rule.minor()) {
            Some(minor) => {
                code.push(instruction(JUMP_IF_NOT, MAJOR, 0, 3, major));
                code.push(instruction(JUMP_IF_NOT, MINOR, 0, 2, minor));
            }
            None => code.push(instruction(JUMP_IF_NOT, MAJOR, 0, 2, major)),
        }
        code.extend(answer(1));
    }
    code.extend(answer(0));
    code.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers, by a reader of its seven instructions.
    fn run(program: &[u8], kind: i32, major: i32, minor: i32) -> i32 {
        let mut registers = [0_i32; 5];
        let context = [kind | 0x6_0000, major, minor];
        let mut at = 0;
        loop {
            let i = &program[at * 8..at * 8 + 8];
            let (target, value) =
                (usize::from(i[1] & 15), i32::from_le_bytes([i[4], i[5], i[6], i[7]]));
            let offset = usize::from(i[2]);
            at += 1;
            match i[0] {
                LOAD_WORD => registers[target] = context[offset / 4],
                AND => registers[target] &= value,
                JUMP_IF if registers[target] == value => at += offset,
                JUMP_IF_NOT if registers[target] != value => at += offset,
                JUMP_IF | JUMP_IF_NOT => {}
                MOVE => registers[target] = value,
                EXIT => return registers[0],
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn rule(allow: bool, major: Option<i64>, minor: Option<i64>) -> oci::LinuxDeviceCgroup {
        let mut rule = oci::LinuxDeviceCgroup::default();
        rule.set_allow(allow).set_major(major).set_minor(minor);
        rule
    }

    #[test]
    fn allows_the_listed_character_devices_and_nothing_else() {
        let rules =
            [rule(false, None, None), rule(true, Some(1), Some(3)), rule(true, Some(136), None)];
        let program = program(&rules);
        for (kind, major, minor, allowed) in [
            (2, 1, 3, 1),
            (2, 136, 7, 1),
            (2, 1, 1, 0),
            (2, 10, 229, 0),
            (1, 1, 3, 0),
            (1, 136, 0, 0),
        ] {
            assert_eq!(run(&program, kind, major, minor), allowed, "{kind} {major}:{minor}");
        }
    }
}
