//! The system call filter: a profile's rules in, the bytes of a BPF program out.
//!
//! Pure: nothing here installs anything. `init` installs the bytes in every sandbox with
//! seccomp(2), after no_new_privs and last of all that it does to itself; the OCI translation says
//! the same rules in the runtime spec's words.
//!
//! What is not here: filters of a user's own, and rules for the 32-bit and x32 ABIs, which end the
//! process, because their system calls have other numbers and other arguments.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::OnceLock;

mod compile;
mod rule;
mod table;

pub use rule::{ARGUMENTS, Case, Match, Rule};
pub use table::{ALLOW_BUILD, ALLOW_CMA, ALLOW_DEBUG, ALLOW_NUMA};

/// A machine whose system calls can be filtered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm, little-endian.
    Aarch64,
}

impl Architecture {
    /// The machine that this program was built for.
    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: Architecture = Architecture::X86_64;
    /// The machine that this program was built for.
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    pub const NATIVE: Architecture = Architecture::Aarch64;

    /// How the kernel names it in `struct seccomp_data` (`AUDIT_ARCH_*`, linux/audit.h).
    pub const fn audit(self) -> u32 {
        match self {
            Architecture::X86_64 => 0xc000_003e,
            Architecture::Aarch64 => 0xc000_00b7,
        }
    }
}

/// A named set of rules: the table's, with some replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Its name in a [`Sandbox`](crate::Sandbox).
    pub name: &'static str,
    /// Rules that replace the table's, by name of the system call.
    pub extra: &'static [(&'static str, Rule)],
}

/// What every sandbox gets unless a policy says otherwise.
pub const RESTRICTED: Profile = Profile { name: "restricted", extra: &[] };

/// What build steps get.
pub const BUILD: Profile = Profile { name: "build", extra: ALLOW_BUILD };

/// One system call of one machine under a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syscall {
    /// Its name, as in syscalls(2).
    pub name: &'static str,
    /// Its number.
    pub number: u16,
    /// What happens to it.
    pub rule: Rule,
    /// Why.
    pub why: &'static str,
}

impl Profile {
    /// The profile of that name, if there is one.
    pub fn named(name: &str) -> Option<Profile> {
        [RESTRICTED, BUILD].into_iter().find(|profile| profile.name == name)
    }

    /// Every system call that `architecture` has, in the table's order.
    pub fn syscalls(&self, architecture: Architecture) -> impl Iterator<Item = Syscall> {
        let extra = self.extra;
        table::GROUPS.iter().flat_map(move |group| {
            group.calls.iter().filter_map(move |&(name, x86_64, aarch64)| {
                let number = match architecture {
                    Architecture::X86_64 => x86_64,
                    Architecture::Aarch64 => aarch64,
                };
                let replaced = extra.iter().find(|(wanted, _)| *wanted == name);
                let rule = replaced.map_or(group.rule, |(_, rule)| *rule);
                (number != table::NONE).then_some(Syscall { name, number, rule, why: group.why })
            })
        })
    }

    /// Its rules by number.
    pub fn rules(&self, architecture: Architecture) -> BTreeMap<u16, Rule> {
        self.syscalls(architecture).map(|syscall| (syscall.number, syscall.rule)).collect()
    }
}

/// A compiled filter: instructions as the kernel reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    bytes: Box<[u8]>,
}

/// Bytes of one instruction (`struct sock_filter`, linux/filter.h).
const INSTRUCTION_BYTES: usize = 8;

impl Filter {
    /// The filter of [`RESTRICTED`] for this machine; compiled once per process.
    pub fn restricted() -> &'static Filter {
        static FILTER: OnceLock<Filter> = OnceLock::new();
        FILTER.get_or_init(|| {
            Filter::compile(Architecture::NATIVE, &RESTRICTED.rules(Architecture::NATIVE))
        })
    }

    /// The filter of the profile `name` for this machine; `None`: there is none.
    pub fn named(name: &str) -> Option<Cow<'static, [u8]>> {
        if name == RESTRICTED.name {
            return Some(Cow::Borrowed(Filter::restricted().as_bytes()));
        }
        let rules = Profile::named(name)?.rules(Architecture::NATIVE);
        Some(Cow::Owned(Filter::compile(Architecture::NATIVE, &rules).bytes.into_vec()))
    }

    /// The filter that answers each system call of `architecture` as `rules` say.
    ///
    /// A number without a rule fails with `ENOSYS`; calls of other ABIs of the machine end the
    /// process. The kernel takes at most 4,096 instructions (`BPF_MAXINSNS`), one for each number
    /// and some for each kind of rule; the table needs about a hundred and fifty.
    pub fn compile(architecture: Architecture, rules: &BTreeMap<u16, Rule>) -> Filter {
        let program = compile::compile(architecture, rules);
        Filter { bytes: program.into_iter().flat_map(compile::Instruction::to_bytes).collect() }
    }

    /// The instructions one after another: `filter` of `struct sock_fprog` points here.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many instructions it has: `len` of `struct sock_fprog`.
    pub fn instructions(&self) -> usize {
        self.bytes.len() / INSTRUCTION_BYTES
    }
}
