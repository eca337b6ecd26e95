//! A profile in the words of the runtime spec.
//!
//! Runtimes compile these with libseccomp, which says less than our own compiler can:
//!
//! - It compares whole arguments; only `SCMP_CMP_MASKED_EQ` can leave out the upper half, which the
//!   kernel drops. So every comparison here is a masked one, and "anything but these values"
//!   becomes a list of patterns ([`others`]).
//! - Several conditions on one argument in one rule are alternatives for runc, not a conjunction.
//!   No rule has two.
//! - A rule without conditions replaces those with conditions for the same call, so "deny these,
//!   else allow" cannot be said: what is allowed is listed, and the rest falls to the default.
//! - A rule that says what the default says is dropped, so denials are not listed at all.
//! - A number newer than every listed name gets `ENOSYS` by runc's own doing (since 1.1), as it
//!   does from our filter. A number in a gap gets `EPERM` here and `ENOSYS` there.
//! - Names that the installed libseccomp does not know are skipped, and so denied.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

use crate::seccomp::{Architecture, Match, Profile, Rule};

/// `EPERM` and `ENOSYS` (asm-generic/errno-base.h, asm-generic/errno.h), of every machine we know.
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The filter of `profile` on `architecture`; other ABIs end the process, as libseccomp does with
/// architectures that are not listed.
pub fn to_seccomp(profile: &Profile, architecture: Architecture) -> LinuxSeccomp {
    let mut allowed = Vec::new();
    let mut missing = Vec::new();
    let mut killed = Vec::new();
    let mut conditional = Vec::new();
    for syscall in profile.syscalls(architecture) {
        let name = syscall.name;
        match syscall.rule {
            Rule::Allow => allowed.push(name),
            Rule::Deny => {}
            Rule::Missing => missing.push(name),
            Rule::Kill => killed.push(name),
            Rule::AllowWhen(cases) => {
                conditional.extend(cases.iter().map(|case| allow_when(name, case)));
            }
            Rule::AllowUnless { argument, values } => {
                let cases = others(argument, values).into_iter();
                conditional.extend(cases.map(|case| allow_when(name, &[case])));
            }
        }
    }
    let mut syscalls = vec![
        answer(allowed, LinuxSeccompAction::ScmpActAllow, None),
        answer(missing, LinuxSeccompAction::ScmpActErrno, Some(ENOSYS)),
        answer(killed, LinuxSeccompAction::ScmpActKillProcess, None),
    ];
    syscalls.retain(|syscall| !syscall.names().is_empty());
    syscalls.extend(conditional);

    let mut seccomp = LinuxSeccomp::default();
    seccomp
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(EPERM))
        .set_architectures(Some(vec![match architecture {
            Architecture::X86_64 => Arch::ScmpArchX86_64,
            Architecture::Aarch64 => Arch::ScmpArchAarch64,
        }]))
        .set_flags(Some(Vec::new()))
        .set_listener_path(None)
        .set_listener_metadata(None)
        .set_syscalls(Some(syscalls));
    seccomp
}

fn answer(names: Vec<&str>, action: LinuxSeccompAction, errno: Option<u32>) -> LinuxSyscall {
    let mut syscall = LinuxSyscall::default();
    syscall
        .set_names(names.into_iter().map(str::to_owned).collect())
        .set_action(action)
        .set_errno_ret(errno)
        .set_args(None);
    syscall
}

fn allow_when(name: &str, case: &[Match]) -> LinuxSyscall {
    let mut syscall = answer(vec![name], LinuxSeccompAction::ScmpActAllow, None);
    syscall.set_args(Some(case.iter().map(condition).collect()));
    syscall
}

/// `SCMP_CMP_MASKED_EQ`: `value` is the mask, `valueTwo` what must be left.
fn condition(wanted: &Match) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(usize::from(wanted.argument))
        .value(u64::from(wanted.mask))
        .value_two(u64::from(wanted.value))
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .build()
        .expect("it has no field that is checked")
}

/// Patterns of which exactly one holds for each 32-bit value that is not one of `values`.
///
/// Each fixes the upper bits as one of `values` has them, down to a bit in which it differs from
/// all of those that begin so.
fn others(argument: u8, values: &[u32]) -> Vec<Match> {
    let mut patterns = Vec::new();
    let mut open = vec![Match { argument, mask: 0, value: 0 }];
    while let Some(prefix) = open.pop() {
        if !values.iter().any(|value| value & prefix.mask == prefix.value) {
            patterns.push(prefix);
        } else if prefix.mask != u32::MAX {
            let mask = prefix.mask >> 1 | 1 << 31;
            let next_bit = mask ^ prefix.mask;
            open.push(Match { argument, mask, value: prefix.value });
            open.push(Match { argument, mask, value: prefix.value | next_bit });
        }
    }
    patterns
}

#[cfg(test)]
mod tests {
    use super::others;

    /// Each value but the named ones is met by one pattern, whatever the pattern's neighbours are.
    #[test]
    fn patterns_meet_every_other_value_once() {
        for values in [&[0x5412_u32, 0x541c][..], &[35], &[0, u32::MAX], &[]] {
            let patterns = others(0, values);
            let mut tried = vec![0, 1, u32::MAX, 0x8000_0000, 0x5413, 0x1_5412 - 1];
            for value in values {
                tried.push(*value);
                tried.extend((0..32).map(|bit| value ^ 1 << bit));
                tried.extend((0..31).map(|bit| value ^ 3 << bit));
            }
            for value in tried {
                let met = patterns.iter().filter(|it| value & it.mask == it.value).count();
                assert_eq!(met, usize::from(!values.contains(&value)), "{value:#x}");
            }
            let covered: u64 = patterns.iter().map(|it| 1_u64 << it.mask.count_zeros()).sum();
            assert_eq!(covered, (1 << 32) - values.len() as u64);
        }
    }
}
