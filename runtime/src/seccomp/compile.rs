//! Turns rules into a classic BPF program, as a balanced tree.
//!
//! When a filter is installed, the kernel runs it once for every system call number to learn which
//! are allowed whatever their arguments are, and does not run it for those again
//! (`seccomp_cache_prepare`, since 5.11). A list of comparisons, which most libraries make, costs
//! that walk more time than everything else in a start; a tree over ranges of numbers costs none
//! worth naming.
//!
//! BPF jumps only forward, so the program is built from its end: what is jumped to exists already.

use std::collections::BTreeMap;

use super::Architecture;
use super::rule::{Case, Match, Rule};

/// One instruction: `struct sock_filter` (linux/filter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    operand: u32,
}

impl Instruction {
    /// As the kernel reads it, in this machine's byte order.
    pub(super) fn to_bytes(self) -> [u8; 8] {
        let [c0, c1] = self.code.to_ne_bytes();
        let [k0, k1, k2, k3] = self.operand.to_ne_bytes();
        [c0, c1, self.jump_true, self.jump_false, k0, k1, k2, k3]
    }
}

// Operation codes, linux/bpf_common.h: class, size or operation, mode or source.
/// `BPF_LD | BPF_W | BPF_ABS`: loads a word of `struct seccomp_data`.
const LOAD: u16 = 0x20;
/// `BPF_ALU | BPF_AND | BPF_K`.
const AND: u16 = 0x54;
/// `BPF_JMP | BPF_JA`: the only jump with an offset of more than 8 bits.
const JUMP: u16 = 0x05;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const IF_EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JGE | BPF_K`.
const IF_AT_LEAST: u16 = 0x35;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

// Offsets in `struct seccomp_data`, linux/seccomp.h. Both machines are little-endian, so the low
// half of an argument is its first word.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENT_FIRST: u32 = 16;
const ARGUMENT_BYTES: u32 = 8;

/// Marks a call of the x32 ABI (asm/unistd.h), which shares x86_64's `AUDIT_ARCH` value.
const X32_BIT: u32 = 0x4000_0000;
/// From here on the kernel finds no call, whatever the ABI; -1 is what a tracer leaves to skip one.
const X32_END: u32 = 0x8000_0000;

/// The program that answers each system call of `architecture` as `rules` say.
///
/// A number without a rule is [`Rule::Missing`]; other ABIs of the same machine are
/// [`Rule::Kill`].
pub(super) fn compile(architecture: Architecture, rules: &BTreeMap<u16, Rule>) -> Vec<Instruction> {
    let ranges = ranges(architecture, rules);
    let mut program = Program::default();
    for &(_, rule) in &ranges {
        program.leaf(rule);
    }
    let tree = program.tree(&ranges);
    program.go(tree);
    let native = program.then(LOAD, NUMBER);
    let foreign = program.leaf(Rule::Kill);
    program.branch(IF_EQUAL, architecture.audit(), native, foreign);
    program.then(LOAD, ARCHITECTURE);
    program.reversed.reverse();
    program.reversed
}

/// Ranges of numbers with equal rules: the first number of each, from 0, ascending.
fn ranges(architecture: Architecture, rules: &BTreeMap<u16, Rule>) -> Vec<(u32, Rule)> {
    let mut ranges: Vec<(u32, Rule)> = Vec::new();
    let mut begin = |first, rule| {
        if ranges.last().is_none_or(|(_, before)| *before != rule) {
            ranges.push((first, rule));
        }
    };
    let mut end = 0;
    for (&number, &rule) in rules {
        let number = u32::from(number);
        if number > end {
            begin(end, Rule::Missing);
        }
        begin(number, rule);
        end = number + 1;
    }
    begin(end, Rule::Missing);
    match architecture {
        Architecture::X86_64 => {
            begin(X32_BIT, Rule::Kill);
            begin(X32_END, Rule::Missing);
        }
        Architecture::Aarch64 => {}
    }
    ranges
}

/// A program from its end: the last instruction comes first.
#[derive(Default)]
struct Program {
    reversed: Vec<Instruction>,
    /// Where the answer of each rule begins, so that equal rules share one.
    leaves: Vec<(Rule, Place)>,
}

/// An instruction, by the number of instructions after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(usize);

impl Program {
    /// Instructions that choose between `ranges` by the number, which is loaded already.
    fn tree(&mut self, ranges: &[(u32, Rule)]) -> Place {
        if let [(_, rule)] = ranges {
            return self.leaf(*rule);
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let first = high[0].0;
        let high = self.tree(high);
        let low = self.tree(low);
        self.branch(IF_AT_LEAST, first, high, low)
    }

    /// Instructions that answer as `rule` says.
    fn leaf(&mut self, rule: Rule) -> Place {
        if let Some((_, place)) = self.leaves.iter().find(|(known, _)| *known == rule) {
            return *place;
        }
        let place = match rule {
            Rule::Allow => self.then(RETURN, libc::SECCOMP_RET_ALLOW),
            Rule::Deny => self.then(RETURN, errno(libc::EPERM)),
            Rule::Missing => self.then(RETURN, errno(libc::ENOSYS)),
            Rule::Kill => self.then(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
            Rule::AllowWhen(cases) => self.choice(cases),
            Rule::AllowUnless { argument, values } => self.exclusion(argument, values),
        };
        self.leaves.push((rule, place));
        place
    }

    /// Instructions that allow when one of the cases holds, else deny.
    fn choice(&mut self, cases: &[Case]) -> Place {
        let allow = self.leaf(Rule::Allow);
        let mut next_case = self.leaf(Rule::Deny);
        for case in cases.iter().rev() {
            let mut next_match = allow;
            for wanted in case.iter().rev() {
                next_match = self.test(wanted, next_match, next_case);
            }
            next_case = next_match;
        }
        next_case
    }

    /// Instructions that deny when `argument` is one of `values`, else allow.
    fn exclusion(&mut self, argument: u8, values: &[u32]) -> Place {
        let deny = self.leaf(Rule::Deny);
        let mut next_value = self.leaf(Rule::Allow);
        for &value in values.iter().rev() {
            next_value = self.test(&Match::equal(argument, value), deny, next_value);
        }
        next_value
    }

    /// Instructions that go to `holds` or to `fails`, as one argument is.
    fn test(&mut self, wanted: &Match, holds: Place, fails: Place) -> Place {
        self.branch(IF_EQUAL, wanted.value, holds, fails);
        if wanted.mask != u32::MAX {
            self.then(AND, wanted.mask);
        }
        self.then(LOAD, ARGUMENT_FIRST + ARGUMENT_BYTES * u32::from(wanted.argument))
    }

    /// A comparison of what was loaded with `value`.
    fn branch(&mut self, code: u16, value: u32, holds: Place, fails: Place) -> Place {
        let fails = self.near(fails);
        let holds = self.near(holds);
        let (jump_true, jump_false) = (self.distance(holds), self.distance(fails));
        self.push(Instruction {
            code,
            jump_true: u8::try_from(jump_true).expect("`near` keeps it below 256"),
            jump_false: u8::try_from(jump_false).expect("`near` keeps it below 256"),
            operand: value,
        })
    }

    /// `target`, or a jump to it where a comparison could not reach so far.
    fn near(&mut self, target: Place) -> Place {
        // One less than a comparison reaches: the other target's jump may come in between.
        if self.distance(target) < usize::from(u8::MAX) {
            return target;
        }
        self.jump(target)
    }

    /// Makes `target` what follows when the next instruction does not jump.
    fn go(&mut self, target: Place) {
        if self.distance(target) > 0 {
            self.jump(target);
        }
    }

    fn jump(&mut self, target: Place) -> Place {
        let distance = u32::try_from(self.distance(target)).expect("a program is that short");
        self.then(JUMP, distance)
    }

    /// An instruction after which the one added last follows, if any does.
    fn then(&mut self, code: u16, operand: u32) -> Place {
        self.push(Instruction { code, jump_true: 0, jump_false: 0, operand })
    }

    /// Instructions that an instruction added now must jump over to reach `target`.
    fn distance(&self, target: Place) -> usize {
        self.reversed.len() - 1 - target.0
    }

    fn push(&mut self, instruction: Instruction) -> Place {
        self.reversed.push(instruction);
        Place(self.reversed.len() - 1)
    }
}

/// What a filter returns to make a call fail.
const fn errno(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number.unsigned_abs()
}
