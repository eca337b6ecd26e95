//! The filter in the runtime spec's words allows what the table allows, argument by argument.

// The whole file is a test; the lints look for `mod tests`.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used)]

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompOperator, LinuxSyscall};
use ric_runtime::oci::to_seccomp;
use ric_runtime::seccomp::{
    ALLOW_CMA, ALLOW_DEBUG, ALLOW_NUMA, Architecture, Match, Profile, RESTRICTED, Rule,
};

type Answer = (LinuxSeccompAction, Option<u32>);

/// As libseccomp reads it: the answer of the rule whose conditions hold, else the default.
fn answer(seccomp: &LinuxSeccomp, rules: &[&LinuxSyscall], arguments: [u64; 6]) -> Answer {
    let mut holding = rules.iter().filter(|rule| {
        rule.args().iter().flatten().all(|condition| {
            assert_eq!(condition.op(), LinuxSeccompOperator::ScmpCmpMaskedEq);
            Some(arguments[condition.index()] & condition.value()) == condition.value_two()
        })
    });
    let found = holding.next().map(|rule| (rule.action(), rule.errno_ret()));
    assert_eq!(holding.count(), 0, "two rules hold: {rules:?}");
    found.unwrap_or((seccomp.default_action(), seccomp.default_errno_ret()))
}

fn expected(rule: Rule, arguments: [u64; 6]) -> Answer {
    let allow = (LinuxSeccompAction::ScmpActAllow, None);
    let deny = (LinuxSeccompAction::ScmpActErrno, Some(1));
    let holds = |wanted: &Match| {
        let argument = arguments[usize::from(wanted.argument)];
        argument & u64::from(wanted.mask) == u64::from(wanted.value)
    };
    let allowed = match rule {
        Rule::Allow => true,
        Rule::Deny => false,
        Rule::Missing => return (LinuxSeccompAction::ScmpActErrno, Some(38)),
        Rule::Kill => return (LinuxSeccompAction::ScmpActKillProcess, None),
        Rule::AllowWhen(cases) => cases.iter().any(|case| case.iter().all(holds)),
        Rule::AllowUnless { argument, values } => {
            !values.iter().any(|&value| holds(&Match::equal(argument, value)))
        }
    };
    if allowed { allow } else { deny }
}

#[test]
fn allows_what_the_table_allows() {
    let extra = [&[][..], ALLOW_CMA, ALLOW_NUMA, ALLOW_DEBUG];
    let low = (0..48).chain([0x5411, 0x5412, 0x541c, 0x7e02_0011, 0x0002_0000, 0x003d_0f00]);
    let low = low.chain([0x1000, 0x11a4, 0x21a4, 0x0004_0000, 0x8000_0000, 0xffff_ffff]);
    let values: Vec<u64> =
        low.flat_map(|low| [low, low | 1 << 32, low | 0xffff_ffff << 32]).collect();
    for extra in extra {
        let profile = Profile { name: RESTRICTED.name, extra };
        for architecture in [Architecture::X86_64, Architecture::Aarch64] {
            let seccomp = to_seccomp(&profile, architecture);
            for syscall in profile.syscalls(architecture) {
                let rules = seccomp.syscalls().iter().flatten();
                let named = |rule: &&LinuxSyscall| rule.names().iter().any(|it| it == syscall.name);
                let rules: Vec<_> = rules.filter(named).collect();
                for &value in &values {
                    // The third argument is also tried at 0, netlink's only protocol.
                    for third in [value, 0] {
                        let arguments = [value, value, third, value, value, value];
                        let given = answer(&seccomp, &rules, arguments);
                        let wanted = expected(syscall.rule, arguments);
                        assert_eq!(given, wanted, "{syscall:?} {arguments:x?}");
                    }
                }
            }
        }
    }
}
