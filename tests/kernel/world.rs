//! What all cases share: a directory of their own, the program under test, needs, cgroups.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use libtest_mimic::Failed;

use crate::cgroups::Cgroups;
use crate::commands::Command;
use crate::docker::DockerDaemon;
use crate::needs::{self, Met};
use crate::person::{Ids, Person};
use crate::posture::Postures;

/// What all cases of one run share.
#[derive(Debug)]
pub(crate) struct World {
    /// A directory that everyone can read; removed at the end.
    pub(crate) base: PathBuf,
    /// A copy of the program under test that everyone can execute.
    pub(crate) binary: PathBuf,
    /// Cgroups of this machine.
    pub(crate) cgroups: Cgroups,
    /// Needs that `RIC_MUST` demands; `None` if it is not set.
    pub(crate) demanded: Option<Vec<String>>,
    /// The only tests to run, from the file that `RIC_ONLY` names; the guest gets them so.
    pub(crate) only: Option<Vec<String>>,
    /// Whether this runs in the guest.
    pub(crate) in_guest: bool,
    /// What the probe told, once per person and place.
    pub(crate) postures: Postures,
    met: OnceLock<Met>,
    docker: OnceLock<Result<DockerDaemon, String>>,
    made: AtomicU32,
}

/// Set to the names of needs that must be met.
const MUST: &str = "RIC_MUST";
/// Set to a file with the names of the tests to run, one a line.
const ONLY: &str = "RIC_ONLY";
/// Set in the guest.
const IN_GUEST: &str = "RIC_IN_GUEST";

impl World {
    /// Makes the shared directory and copies the program there.
    pub(crate) fn new() -> Result<World, Failed> {
        let base = PathBuf::from(format!("/tmp/ric-kernel-{}", std::process::id()));
        fs::create_dir(&base)?;
        fs::set_permissions(&base, fs::Permissions::from_mode(0o755))?;
        let binary = base.join("run-in-container");
        fs::copy(env!("CARGO_BIN_EXE_run-in-container"), &binary)?;
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
        let demanded = variable(MUST)
            .map(|names| names.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect());
        let only = variable(ONLY).map(fs::read_to_string).transpose()?;
        Ok(World {
            base,
            binary,
            cgroups: Cgroups::read()?,
            demanded,
            only: only.map(|names| names.lines().map(str::to_owned).collect()),
            in_guest: variable(IN_GUEST).is_some(),
            postures: Postures::default(),
            met: OnceLock::new(),
            docker: OnceLock::new(),
            made: AtomicU32::new(0),
        })
    }

    /// Which needs are met; probed at the first question.
    pub(crate) fn met(&self) -> &Met {
        self.met.get_or_init(|| needs::probe(self))
    }

    /// The Docker engine of this run; started at the first question.
    pub(crate) fn docker(&self) -> Result<&DockerDaemon, Failed> {
        let start = || {
            DockerDaemon::start(&self.base.join("docker")).map_err(|failed| needs::reason(&failed))
        };
        self.docker.get_or_init(start).as_ref().map_err(|why| why.into())
    }

    /// A name that no other directory or cgroup of this run has.
    pub(crate) fn fresh_name(&self) -> String {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        format!("ric-test-{}-{number}", std::process::id())
    }

    /// Makes a new directory of a person's own below the shared one.
    pub(crate) fn make_directory(&self, person: Person) -> Result<PathBuf, Failed> {
        let path = self.base.join(self.fresh_name());
        fs::create_dir(&path)?;
        self.give(&path, person)?;
        Ok(path)
    }

    /// Makes a person the owner of a file or directory.
    pub(crate) fn give(&self, path: &Path, person: Person) -> Result<(), Failed> {
        let Ids { uid, gid } = person.ids();
        if rustix::process::geteuid().is_root() {
            chown(path, Some(uid), Some(gid))
                .map_err(|e| format!("chown {}: {e}", path.display()))?;
        }
        Ok(())
    }

    /// A command that a person runs, without any sandbox.
    pub(crate) fn as_person(&self, person: Person, words: &[&str]) -> Command {
        let mut all = become_person(person, &[]);
        all.extend(words.iter().map(|word| (*word).to_owned()));
        Command::new(&all)
    }

    /// How often something is repeated, or how much of it is made: less in the guest, whose
    /// emulated processors take twenty times as long.
    pub(crate) fn effort(&self, full: u64) -> u64 {
        if self.in_guest { full.div_ceil(8) } else { full }
    }

    /// Ends what all cases shared, and removes the shared directory.
    pub(crate) fn end(&self) {
        if let Some(Ok(docker)) = self.docker.get() {
            docker.end();
        }
        // What is left mounted below it was told by the cases; a failure here adds nothing.
        let _ = fs::remove_dir_all(&self.base);
    }
}

/// The start of a command line that turns root into a person with these supplementary groups.
pub(crate) fn become_person(person: Person, groups: &[u32]) -> Vec<String> {
    if !rustix::process::geteuid().is_root() {
        return Vec::new();
    }
    let Ids { uid, gid } = person.ids();
    let mut words = vec!["setpriv".to_owned(), format!("--reuid={uid}"), format!("--regid={gid}")];
    if groups.is_empty() {
        words.push("--clear-groups".to_owned());
    } else {
        let list: Vec<String> = groups.iter().map(u32::to_string).collect();
        words.push(format!("--groups={}", list.join(",")));
    }
    words
}

#[expect(clippy::disallowed_methods, reason = "the variables that steer the harness")]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
