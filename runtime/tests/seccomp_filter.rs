//! The compiled filter says what its rules say: compared, by interpreting its instructions, with a
//! plain evaluation of the rules and with the filters that another compiler makes of them.
//!
//! That a kernel which runs the filter denies what it should is shown where sandboxes are started.

// The whole file is a test; the lints look for `mod tests`.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use ric_runtime::seccomp::{
    ALLOW_CMA, ALLOW_DEBUG, ALLOW_NUMA, Architecture, Case, Filter, Match, Profile, RESTRICTED,
    Rule,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL: u32 = 0x8000_0000;

const ARCHITECTURES: [Architecture; 2] = [Architecture::X86_64, Architecture::Aarch64];
const X32_BIT: u32 = 0x4000_0000;

/// One system call, as the kernel shows it to a filter.
#[derive(Debug, Clone, Copy)]
struct Act {
    audit: u32,
    number: u32,
    arguments: [u64; 6],
}

impl Act {
    fn new(architecture: Architecture, number: u32, arguments: [u64; 6]) -> Act {
        Act { audit: architecture.audit(), number, arguments }
    }

    /// The word of `struct seccomp_data` at `offset`, little-endian.
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.audit,
            16..64 if offset.is_multiple_of(4) => {
                let argument = self.arguments[usize::try_from((offset - 16) / 8).unwrap()];
                let half = if offset.is_multiple_of(8) { argument } else { argument >> 32 };
                u32::try_from(half & u64::from(u32::MAX)).unwrap()
            }
            _ => panic!("no word at {offset}"),
        }
    }
}

/// An instruction: code, jump if true, jump if false, operand.
type Instruction = (u16, u8, u8, u32);

fn read_program(filter: &Filter) -> Vec<Instruction> {
    let field = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap());
    let instruction = |bytes: &[u8]| {
        let code = u16::from_ne_bytes(bytes[..2].try_into().unwrap());
        (code, bytes[2], bytes[3], field(&bytes[4..]))
    };
    filter.as_bytes().chunks_exact(8).map(instruction).collect()
}

fn read_foreign(program: &BpfProgram) -> Vec<Instruction> {
    program.iter().map(|it| (it.code, it.jt, it.jf, it.k)).collect()
}

/// What a program returns for `act`, and after how many instructions.
///
/// Knows the instructions that a seccomp filter may have and panics at any other, as the kernel
/// would not take them.
fn interpret(program: &[Instruction], act: &Act) -> (u32, usize) {
    let mut accumulator = 0;
    let mut next = 0;
    for steps in 1.. {
        let (code, jump_true, jump_false, operand) = program[next];
        next += 1;
        let holds = match code {
            0x20 => {
                accumulator = act.word(operand);
                continue;
            }
            0x54 => {
                accumulator &= operand;
                continue;
            }
            0x05 => {
                next += usize::try_from(operand).unwrap();
                continue;
            }
            0x06 => return (operand, steps),
            0x15 => accumulator == operand,
            0x25 => accumulator > operand,
            0x35 => accumulator >= operand,
            _ => panic!("unknown instruction {code:#x}"),
        };
        next += usize::from(if holds { jump_true } else { jump_false });
    }
    unreachable!("BPF has no loops")
}

/// What rules say, without any cleverness.
fn evaluate(architecture: Architecture, rules: &BTreeMap<u16, Rule>, act: &Act) -> u32 {
    let x32 = architecture == Architecture::X86_64 && act.number & 0xc000_0000 == X32_BIT;
    if act.audit != architecture.audit() || x32 {
        return KILL;
    }
    let holds = |wanted: &Match| {
        let argument = act.arguments[usize::from(wanted.argument)];
        argument & u64::from(wanted.mask) == u64::from(wanted.value)
    };
    let any = |cases: &[Case]| cases.iter().any(|case| case.iter().all(holds));
    let rule = u16::try_from(act.number).ok().and_then(|number| rules.get(&number));
    match rule.copied().unwrap_or(Rule::Missing) {
        Rule::Allow => ALLOW,
        Rule::Deny => EPERM,
        Rule::Missing => ENOSYS,
        Rule::Kill => KILL,
        Rule::AllowWhen(cases) => [EPERM, ALLOW][usize::from(any(cases))],
        Rule::AllowUnless { argument, values } => {
            let hit = values.iter().any(|&value| holds(&Match::equal(argument, value)));
            [ALLOW, EPERM][usize::from(hit)]
        }
    }
}

/// The same rules in seccompiler's words. A filter of its knows one action besides the one for
/// everything else, so it takes four, stacked as a kernel stacks them.
struct Judge {
    /// Each filter, strongest answer first.
    filters: Vec<Vec<Instruction>>,
}

const JUDGED_NUMBERS: u16 = 600;

impl Judge {
    fn new(architecture: Architecture, rules: &BTreeMap<u16, Rule>) -> Judge {
        let mut killed = BTreeMap::new();
        let mut missing = BTreeMap::new();
        let mut denied = BTreeMap::new();
        let mut allowed = BTreeMap::new();
        for number in 0..JUDGED_NUMBERS {
            let key = i64::from(number);
            allowed.insert(key, vec![]);
            match rules.get(&number).copied().unwrap_or(Rule::Missing) {
                Rule::Allow => {}
                Rule::Deny => drop(denied.insert(key, vec![])),
                Rule::Missing => drop(missing.insert(key, vec![])),
                Rule::Kill => drop(killed.insert(key, vec![])),
                Rule::AllowWhen(cases) => {
                    let cases = cases.iter().map(|case| Judge::rule(case));
                    allowed.insert(key, cases.collect());
                }
                Rule::AllowUnless { argument, values } => {
                    let values = values.iter().map(|&value| Match::equal(argument, value));
                    denied.insert(key, values.map(|value| Judge::rule(&[value])).collect());
                }
            }
        }
        let target = Judge::target(architecture);
        let compile = |rules, otherwise, matched| {
            let filter = SeccompFilter::new(rules, otherwise, matched, target).unwrap();
            read_foreign(&BpfProgram::try_from(filter).unwrap())
        };
        Judge {
            filters: vec![
                compile(killed, SeccompAction::Allow, SeccompAction::KillProcess),
                compile(missing, SeccompAction::Allow, SeccompAction::Errno(38)),
                compile(denied, SeccompAction::Allow, SeccompAction::Errno(1)),
                compile(allowed, SeccompAction::Errno(1), SeccompAction::Allow),
            ],
        }
    }

    fn target(architecture: Architecture) -> TargetArch {
        match architecture {
            Architecture::X86_64 => TargetArch::x86_64,
            Architecture::Aarch64 => TargetArch::aarch64,
        }
    }

    fn rule(case: &[Match]) -> SeccompRule {
        let condition = |wanted: &Match| {
            let compare = SeccompCmpOp::MaskedEq(u64::from(wanted.mask));
            let value = u64::from(wanted.value);
            let length = SeccompCmpArgLen::Dword;
            SeccompCondition::new(wanted.argument, length, compare, value).unwrap()
        };
        SeccompRule::new(case.iter().map(condition).collect()).unwrap()
    }

    fn answer(&self, act: &Act) -> u32 {
        let answers = self.filters.iter().map(|filter| interpret(filter, act).0);
        answers.into_iter().find(|answer| *answer != ALLOW).unwrap_or(ALLOW)
    }
}

/// Arguments worth trying against `rule`: those that satisfy a case, and those off by one match.
fn tried_arguments(rule: Rule) -> Vec<[u64; 6]> {
    let mut tried = vec![[0; 6], [u64::MAX; 6], [0x5412; 6]];
    let mut try_case = |case: &[Match]| {
        for rest in [0, u64::MAX] {
            let mut satisfied = [rest; 6];
            for wanted in case {
                satisfied[usize::from(wanted.argument)] = u64::from(wanted.value);
            }
            for wanted in case {
                let Match { argument, mask, value } = *wanted;
                let near = [value, value ^ 1, value ^ mask, value | !mask, value.wrapping_add(1)];
                for low in near {
                    for high in [0, 1 << 32, !u64::from(u32::MAX)] {
                        let mut arguments = satisfied;
                        arguments[usize::from(argument)] = high | u64::from(low);
                        tried.push(arguments);
                    }
                }
            }
        }
    };
    match rule {
        Rule::AllowWhen(cases) => cases.iter().for_each(|case| try_case(case)),
        Rule::AllowUnless { argument, values } => {
            values.iter().for_each(|&value| try_case(&[Match::equal(argument, value)]));
        }
        Rule::Allow | Rule::Deny | Rule::Missing | Rule::Kill => {}
    }
    tried
}

/// Compares the filter of `rules` with both judges, over every number that anyone has and around.
fn check(architecture: Architecture, rules: &BTreeMap<u16, Rule>) {
    let program = read_program(&Filter::compile(architecture, rules));
    let judge = Judge::new(architecture, rules);
    for number in 0..JUDGED_NUMBERS {
        let rule = rules.get(&number).copied().unwrap_or(Rule::Missing);
        for arguments in tried_arguments(rule) {
            let act = Act::new(architecture, u32::from(number), arguments);
            let answer = interpret(&program, &act).0;
            assert_eq!(answer, evaluate(architecture, rules, &act), "ours, {act:x?} {rule:?}");
            assert_eq!(answer, judge.answer(&act), "seccompiler's, {act:x?} {rule:?}");
        }
    }
    let edges = [600, 0xffff, 0x1_0000, X32_BIT - 1, X32_BIT, X32_BIT + 59, 0x4000_ffff];
    for number in edges.into_iter().chain([0x7fff_ffff, 0x8000_0000, 0xc000_0000, u32::MAX]) {
        let act = Act::new(architecture, number, [0; 6]);
        let expected = evaluate(architecture, rules, &act);
        assert_eq!(interpret(&program, &act).0, expected, "{number:#x}");
    }
}

#[test]
fn restricted_agrees_with_its_rules_and_with_another_compiler() {
    for architecture in ARCHITECTURES {
        check(architecture, &RESTRICTED.rules(architecture));
    }
}

#[test]
fn other_abis_end_the_process() {
    const AUDIT_ARCH_I386: u32 = 0x4000_0003;
    const AUDIT_ARCH_ARM: u32 = 0x4000_0028;
    for architecture in ARCHITECTURES {
        let filter = Filter::compile(architecture, &RESTRICTED.rules(architecture));
        for audit in [AUDIT_ARCH_I386, AUDIT_ARCH_ARM] {
            let act = Act { audit, number: 20, arguments: [0; 6] };
            assert_eq!(interpret(&read_program(&filter), &act).0, KILL);
        }
    }
    let native = read_program(&Filter::compile(
        Architecture::X86_64,
        &RESTRICTED.rules(Architecture::X86_64),
    ));
    let x32_getpid = Act::new(Architecture::X86_64, X32_BIT | 39, [0; 6]);
    assert_eq!(interpret(&native, &x32_getpid).0, KILL);
    let getpid = Act::new(Architecture::X86_64, 39, [0; 6]);
    assert_eq!(interpret(&native, &getpid).0, ALLOW);
}

/// The kernel asks a new filter about every number; this bounds what each answer costs.
#[test]
fn reaches_every_unconditional_answer_in_few_instructions() {
    for architecture in ARCHITECTURES {
        let rules = RESTRICTED.rules(architecture);
        let filter = Filter::compile(architecture, &rules);
        assert!(filter.instructions() < 256, "{} instructions", filter.instructions());
        let program = read_program(&filter);
        for number in 0..JUDGED_NUMBERS {
            let (_, steps) = interpret(&program, &Act::new(architecture, number.into(), [0; 6]));
            assert!(steps <= 24, "{number} takes {steps} instructions");
        }
    }
}

fn rule_of(profile: &Profile, architecture: Architecture, name: &str) -> Option<Rule> {
    profile.syscalls(architecture).find(|syscall| syscall.name == name).map(|found| found.rule)
}

#[test]
fn allows_what_docker_allows_less_a_list() {
    const LESS: &str = "adjtimex chroot clock_adjtime fanotify_mark listmount statmount \
        memfd_secret modify_ldt name_to_handle_at personality process_mrelease process_vm_readv \
        process_vm_writev ptrace sched_setattr sched_setscheduler vmsplice";
    const WITH_CONDITIONS: &str = "ioctl mknod mknodat prctl seccomp socketpair";
    let docker = include_str!("seccomp_docker_base.txt").lines();
    let docker = docker.filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
    let less: BTreeSet<_> = LESS.split_whitespace().collect();
    let conditional: BTreeSet<_> = WITH_CONDITIONS.split_whitespace().collect();
    let mut expected: BTreeSet<_> = docker.collect();
    // Docker has these in rules of their own: for x86, and with conditions.
    expected.extend(["arch_prctl", "clone", "socket"]);
    expected.retain(|name| !less.contains(name));

    for architecture in ARCHITECTURES {
        for &name in &less {
            let rule = rule_of(&RESTRICTED, architecture, name);
            assert!(matches!(rule, None | Some(Rule::Deny)), "{name} on {architecture:?}");
        }
        for syscall in RESTRICTED.syscalls(architecture) {
            let refused = matches!(syscall.rule, Rule::Deny | Rule::Missing);
            assert_eq!(refused, !expected.contains(syscall.name), "{syscall:?}");
            if conditional.contains(syscall.name) {
                assert!(matches!(syscall.rule, Rule::AllowWhen(_) | Rule::AllowUnless { .. }));
            }
        }
    }
    let everywhere: BTreeSet<_> =
        RESTRICTED.syscalls(Architecture::X86_64).map(|syscall| syscall.name).collect();
    assert_eq!(expected.difference(&everywhere).count(), 0, "a name the table does not know");
}

/// What a call gets, by name and first arguments.
fn answer(name: &str, first_arguments: &[u64]) -> u32 {
    let syscalls = RESTRICTED.syscalls(Architecture::X86_64);
    let number = syscalls.into_iter().find(|syscall| syscall.name == name).unwrap().number;
    let mut arguments = [0; 6];
    arguments[..first_arguments.len()].copy_from_slice(first_arguments);
    let rules = RESTRICTED.rules(Architecture::X86_64);
    let program = read_program(&Filter::compile(Architecture::X86_64, &rules));
    interpret(&program, &Act::new(Architecture::X86_64, number.into(), arguments)).0
}

#[test]
fn opens_sockets_of_four_families_only() {
    for family in 0..64 {
        let wanted = [1, 2, 10, 16].contains(&family);
        let expected = if wanted { ALLOW } else { EPERM };
        assert_eq!(answer("socket", &[family, 1, 0]), expected, "family {family}");
        let pair = if family == 1 { ALLOW } else { EPERM };
        assert_eq!(answer("socketpair", &[family, 1, 0]), pair, "family {family}");
    }
    for protocol in 1..32 {
        assert_eq!(answer("socket", &[16, 3, protocol]), EPERM, "netlink protocol {protocol}");
    }
}

#[test]
fn refuses_to_type_into_a_terminal_whatever_the_upper_half_says() {
    for upper in [0, 1 << 32, 0xffff_ffff << 32] {
        assert_eq!(answer("ioctl", &[0, upper | 0x5412]), EPERM);
        assert_eq!(answer("ioctl", &[0, upper | 0x541c]), EPERM);
        assert_eq!(answer("ioctl", &[0, upper | 0x5413]), ALLOW, "TIOCGWINSZ");
    }
}

#[test]
fn makes_threads_and_processes_but_no_namespaces() {
    const THREAD: u64 = 0x003d_0f00;
    const SIGCHLD: u64 = 17;
    assert_eq!(answer("clone", &[THREAD]), ALLOW);
    assert_eq!(answer("clone", &[SIGCHLD]), ALLOW);
    let namespaces = [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000];
    for namespace in namespaces.into_iter().chain([0x2000_0000, 0x4000_0000]) {
        assert_eq!(answer("clone", &[SIGCHLD | namespace]), EPERM, "{namespace:#x}");
    }
    assert_eq!(answer("clone3", &[]), ENOSYS);
    assert_eq!(answer("unshare", &[]), EPERM);
}

#[test]
fn makes_named_pipes_but_no_other_nodes() {
    assert_eq!(answer("mknod", &[0, 0o010_644]), ALLOW);
    assert_eq!(answer("mknodat", &[0, 0, 0o010_644]), ALLOW);
    for kind in [0, 0o020_000, 0o060_000, 0o100_000, 0o140_000, 0o030_000] {
        assert_eq!(answer("mknod", &[0, kind | 0o644]), EPERM, "{kind:o}");
        assert_eq!(answer("mknodat", &[0, 0, kind | 0o644]), EPERM, "{kind:o}");
    }
}

#[test]
fn lets_a_task_filter_itself_but_not_supervise() {
    assert_eq!(answer("seccomp", &[1, 0]), ALLOW);
    assert_eq!(answer("seccomp", &[1, 1 << 3]), EPERM, "SECCOMP_FILTER_FLAG_NEW_LISTENER");
    assert_eq!(answer("prctl", &[22]), ALLOW, "PR_SET_SECCOMP");
    assert_eq!(answer("prctl", &[35]), EPERM, "PR_SET_MM");
}

#[test]
fn unknown_numbers_look_like_an_older_kernel() {
    for number in [336, 400, 470, 599, 5000] {
        let rules = RESTRICTED.rules(Architecture::X86_64);
        let program = read_program(&Filter::compile(Architecture::X86_64, &rules));
        let act = Act::new(Architecture::X86_64, number, [0; 6]);
        assert_eq!(interpret(&program, &act).0, ENOSYS, "{number}");
    }
}

#[test]
fn knobs_change_only_what_they_name() {
    for extra in [ALLOW_CMA, ALLOW_NUMA, ALLOW_DEBUG] {
        let wider = Profile { name: "wider", extra };
        for architecture in ARCHITECTURES {
            let before = RESTRICTED.syscalls(architecture);
            let after = wider.syscalls(architecture);
            let changed = before.zip(after).filter(|(one, other)| one.rule != other.rule);
            let changed: BTreeSet<_> = changed.map(|(_, syscall)| syscall.name).collect();
            let named: BTreeSet<_> = extra.iter().map(|(name, _)| *name).collect();
            assert_eq!(changed, named);
            check(architecture, &wider.rules(architecture));
        }
    }
}

/// Every number, against the table that seccompiler has for its JSON files.
#[test]
fn numbers_are_those_of_another_table() {
    // Linux 6.13, 6.15 and 6.17: younger than seccompiler 0.5.
    let young = ["getxattrat", "listxattrat", "removexattrat", "setxattrat", "open_tree_attr"];
    let young: BTreeSet<_> = young.into_iter().chain(["file_getattr", "file_setattr"]).collect();
    for architecture in ARCHITECTURES {
        for syscall in RESTRICTED.syscalls(architecture) {
            let json = serde_json::json!({"one": {
                "mismatch_action": "allow", "match_action": "trap",
                "filter": [{"syscall": syscall.name}],
            }});
            let target = Judge::target(architecture);
            let compiled = seccompiler::compile_from_json(json.to_string().as_bytes(), target);
            let Ok(compiled) = compiled else {
                assert!(young.contains(syscall.name), "{} is unknown", syscall.name);
                assert!((463..=469).contains(&syscall.number));
                continue;
            };
            let program = read_foreign(&compiled["one"]);
            let act = Act::new(architecture, syscall.number.into(), [0; 6]);
            assert_eq!(interpret(&program, &act).0, 0x0003_0000, "{syscall:?}");
        }
    }
}

#[test]
fn no_two_calls_share_a_name_or_a_number() {
    for architecture in ARCHITECTURES {
        let names: BTreeSet<_> = RESTRICTED.syscalls(architecture).map(|it| it.name).collect();
        assert_eq!(names.len(), RESTRICTED.syscalls(architecture).count());
        assert_eq!(names.len(), RESTRICTED.rules(architecture).len());
    }
}

fn any_match() -> impl Strategy<Value = Match> {
    let mask = prop_oneof![Just(u32::MAX), any::<u32>()];
    (0..6_u8, mask, any::<u32>()).prop_map(|(argument, mask, value)| Match {
        argument,
        mask,
        value: value & mask,
    })
}

/// Matches on different arguments.
fn any_case() -> impl Strategy<Value = Case> {
    prop::collection::vec(any_match(), 1..4).prop_map(|mut case| -> Case {
        case.sort_unstable_by_key(|wanted| wanted.argument);
        case.dedup_by_key(|wanted| wanted.argument);
        Box::leak(case.into_boxed_slice())
    })
}

fn any_allow_when() -> impl Strategy<Value = Rule> {
    let cases = prop::collection::vec(any_case(), 1..4);
    cases.prop_map(|cases| Rule::AllowWhen(Box::leak(cases.into_boxed_slice())))
}

fn any_allow_unless() -> impl Strategy<Value = Rule> {
    let values = prop::collection::vec(any::<u32>(), 1..4);
    (0..6_u8, values).prop_map(|(argument, values)| Rule::AllowUnless {
        argument,
        values: Box::leak(values.into_boxed_slice()),
    })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    prop_oneof![
        4 => Just(Rule::Allow),
        2 => Just(Rule::Deny),
        2 => Just(Rule::Missing),
        1 => Just(Rule::Kill),
        1 => any_allow_when(),
        1 => any_allow_unless(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Up to five hundred ranges with a good part of conditions: programs longer than a
    /// conditional jump reaches.
    #[test]
    fn random_rules_compile_to_what_they_say(
        rules in prop::collection::btree_map(0..JUDGED_NUMBERS, any_rule(), 0..500),
        arm in any::<bool>(),
    ) {
        let architecture = if arm { Architecture::Aarch64 } else { Architecture::X86_64 };
        let rules = rules.into_iter().collect();
        prop_assume!(Filter::compile(architecture, &rules).instructions() <= 4096);
        check(architecture, &rules);
    }
}
