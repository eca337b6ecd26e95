//! The people as whom a case is tried.

/// Who runs the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Person {
    /// Root.
    Root,
    /// An ordinary user, with subordinate ids where the machine has them: the account `ric-tests`
    /// that `tests/run` makes, else a bare number; whoever runs the harness if that is not root.
    Rootless,
    /// A uid that no account has, so that `newuidmap` does not know it.
    Unmapped,
}

/// The account that `tests/run` makes.
const ACCOUNT: &str = "ric-tests";
/// The uid and gid of [`Person::Rootless`] where that account is not.
const BARE_ID: u32 = 54_321;
/// The uid and gid of [`Person::Unmapped`].
const UNMAPPED_ID: u32 = 54_322;

/// Uid and gid of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ids {
    /// User.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
}

impl Person {
    /// First part of the names of this person's tests.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Person::Root => "root",
            Person::Rootless => "rootless",
            Person::Unmapped => "unmapped",
        }
    }

    /// Ids, as the machine has them now.
    pub(crate) fn ids(self) -> Ids {
        match self {
            Person::Root => Ids { uid: 0, gid: 0 },
            Person::Rootless if !rustix::process::geteuid().is_root() => Ids {
                uid: rustix::process::getuid().as_raw(),
                gid: rustix::process::getgid().as_raw(),
            },
            Person::Rootless => account().unwrap_or(Ids { uid: BARE_ID, gid: BARE_ID }),
            Person::Unmapped => Ids { uid: UNMAPPED_ID, gid: UNMAPPED_ID },
        }
    }
}

fn account() -> Option<Ids> {
    let table = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = table.lines().find(|line| line.split(':').next() == Some(ACCOUNT))?;
    let mut fields = line.split(':').skip(2).map(str::parse);
    Some(Ids { uid: fields.next()?.ok()?, gid: fields.next()?.ok()? })
}
