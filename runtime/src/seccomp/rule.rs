//! What a filter may say about one system call, as data.

/// What happens to a call of one system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The kernel carries it out.
    Allow,
    /// It fails with `EPERM`: this sandbox does not do that.
    Deny,
    /// It fails with `ENOSYS`, as on a kernel that does not have it, so that a libc falls back to
    /// an older call.
    Missing,
    /// The process ends with `SIGSYS`. For other ABIs, whose numbers mean other calls.
    Kill,
    /// Allowed when at least one case holds, else denied.
    AllowWhen(&'static [Case]),
    /// Denied when the low 32 bits of `argument` are one of `values`, else allowed.
    AllowUnless {
        /// Which argument, counted from 0; below [`ARGUMENTS`].
        argument: u8,
        /// What it must not be.
        values: &'static [u32],
    },
}

/// Holds when every match in it holds. They look at different arguments.
pub type Case = &'static [Match];

/// Holds when `argument & mask == value`, of the low 32 bits of the argument.
///
/// The kernel takes every argument that our rules look at as a 32-bit value and drops the upper
/// half first (`unsigned int cmd` of ioctl(2), `int family` of socket(2), `lower_32_bits(flags)` of
/// clone(2)). A filter that compared 64 bits would see 0x1_0000_5412 as something else than
/// `TIOCSTI`, and the kernel would not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// Which argument, counted from 0; below [`ARGUMENTS`].
    pub argument: u8,
    /// Bits that are compared.
    pub mask: u32,
    /// What they must be; no bit outside `mask`.
    pub value: u32,
}

/// Arguments that a system call has at most (`struct seccomp_data`, linux/seccomp.h).
pub const ARGUMENTS: u8 = 6;

impl Match {
    /// Holds when `argument` is `value`.
    pub const fn equal(argument: u8, value: u32) -> Match {
        Match { argument, mask: u32::MAX, value }
    }

    /// Holds when no bit of `mask` is set in `argument`.
    pub const fn none_of(argument: u8, mask: u32) -> Match {
        Match { argument, mask, value: 0 }
    }
}
