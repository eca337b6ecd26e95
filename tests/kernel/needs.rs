//! What a case needs of this machine: each need is probed by doing it, once per run.
//!
//! An unmet need shows its cases as ignored, with the reason. `RIC_MUST=root,userns,…` demands
//! needs: a case whose unmet need is demanded fails instead, and [`agreement`] fails when list and
//! machine disagree in either direction.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use libtest_mimic::{Completion, Failed, Trial};

use crate::commands::{Answer, Command};
use crate::person::Person;
use crate::world::World;

/// Something a case needs of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Effective uid 0 that can make namespaces.
    Root,
    /// An ordinary user to run as.
    OrdinaryUser,
    /// An ordinary user can make user namespaces.
    Userns,
    /// `newuidmap` maps subordinate ids for the ordinary user.
    Newuidmap,
    /// A cgroup with a memory limit can be made.
    CgroupMemory,
    /// A cgroup with a limit of processes can be made.
    CgroupPids,
    /// The memory controller is on version 1.
    CgroupV1,
    /// The memory controller is on version 2.
    CgroupV2,
    /// overlayfs can be mounted.
    Overlay,
    /// `/usr/bin/python3` with ctypes, for the probe.
    Python3,
    /// A wheel of pip for virtual environments, as Debian's python3-pip-whl has it.
    Pip,
    /// A static busybox, for one-file images.
    Busybox,
    /// `mksquashfs`, for images that are one file.
    Mksquashfs,
    /// A private Docker engine starts.
    Dockerd,
    /// Debian's docker-registry, and skopeo to fill it.
    Registry,
    /// skopeo, which copies images between forms.
    Skopeo,
    /// umoci, which unpacks OCI layouts.
    Umoci,
    /// bubblewrap starts a sandbox.
    Bwrap,
    /// runc starts a container.
    Runc,
    /// The real Apptainer, which `tests/peers/apptainer make` fetches.
    Apptainer,
    /// qemu and a kernel with modules, for the guest.
    Guest,
}

/// Every need, in the order in which `.ci/run` names them.
pub(crate) const ALL: &[Need] = &[
    Need::Root,
    Need::OrdinaryUser,
    Need::Userns,
    Need::Newuidmap,
    Need::CgroupMemory,
    Need::CgroupPids,
    Need::CgroupV1,
    Need::CgroupV2,
    Need::Overlay,
    Need::Python3,
    Need::Pip,
    Need::Busybox,
    Need::Mksquashfs,
    Need::Dockerd,
    Need::Registry,
    Need::Skopeo,
    Need::Umoci,
    Need::Bwrap,
    Need::Runc,
    Need::Apptainer,
    Need::Guest,
];

impl Need {
    /// The name in `RIC_MUST`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Need::Root => "root",
            Need::OrdinaryUser => "ordinary_user",
            Need::Userns => "userns",
            Need::Newuidmap => "newuidmap",
            Need::CgroupMemory => "cgroup_memory",
            Need::CgroupPids => "cgroup_pids",
            Need::CgroupV1 => "cgroup_v1",
            Need::CgroupV2 => "cgroup_v2",
            Need::Overlay => "overlay",
            Need::Python3 => "python3",
            Need::Pip => "pip",
            Need::Busybox => "busybox",
            Need::Mksquashfs => "mksquashfs",
            Need::Dockerd => "dockerd",
            Need::Registry => "registry",
            Need::Skopeo => "skopeo",
            Need::Umoci => "umoci",
            Need::Bwrap => "bwrap",
            Need::Runc => "runc",
            Need::Apptainer => "apptainer",
            Need::Guest => "guest",
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Which needs are met here, and why the others are not.
pub(crate) type Met = BTreeMap<Need, Result<(), String>>;

/// Tries every need.
pub(crate) fn probe(world: &World) -> Met {
    ALL.iter().map(|need| (*need, try_need(world, *need))).collect()
}

fn try_need(world: &World, need: Need) -> Result<(), String> {
    let ordinary = |words: &[&str]| works(world.as_person(Person::Rootless, words));
    let anyone = |words: &[&str]| works(Command::new(words));
    match need {
        Need::Root if !rustix::process::geteuid().is_root() => Err("not root".to_owned()),
        Need::Root => anyone(&["unshare", "--mount", "--pid", "--net", "--fork", "true"]),
        Need::OrdinaryUser => ordinary(&["true"]),
        Need::Userns => ordinary(&["unshare", "--user", "--map-root-user", "true"]),
        Need::Newuidmap => ordinary(&["unshare", "--map-root-user", "--map-auto", "true"]),
        Need::CgroupMemory => world.cgroups.try_limit("memory", world),
        Need::CgroupPids => world.cgroups.try_limit("pids", world),
        Need::CgroupV1 | Need::CgroupV2 => match world.cgroups.unified("memory") {
            Some(unified) if unified == (need == Need::CgroupV2) => Ok(()),
            Some(true) => Err("the memory controller is on version 2".to_owned()),
            Some(false) => Err("the memory controller is on version 1".to_owned()),
            None => Err("no memory controller is mounted".to_owned()),
        },
        Need::Overlay => {
            ordinary(&["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", OVERLAY])
        }
        Need::Python3 => {
            ordinary(&["/usr/bin/python3", "-I", "-c", "import ctypes, sqlite3, json"])
        }
        Need::Pip => crate::images::pip_wheel()
            .map(|_| ())
            .ok_or_else(|| "/usr/share/python-wheels has no wheel of pip".to_owned()),
        Need::Busybox => {
            let root = crate::images::busybox_root(world).map_err(|failed| reason(&failed))?;
            let root = root.to_string_lossy().into_owned();
            ordinary(&[
                "unshare",
                "--user",
                "--map-root-user",
                "chroot",
                &root,
                "/bin/busybox",
                "true",
            ])
        }
        Need::Mksquashfs => anyone(&["mksquashfs", "-version"]),
        // It would start for half a minute there, and does nothing else than here.
        Need::Dockerd if world.in_guest => Err("this is the guest".to_owned()),
        Need::Dockerd => world.docker().map(|_| ()).map_err(|failed| reason(&failed)),
        Need::Registry if world.in_guest => Err("this is the guest".to_owned()),
        Need::Registry => anyone(&["docker-registry", "--version"])
            .and_then(|()| anyone(&["skopeo", "--version"])),
        Need::Skopeo => anyone(&["skopeo", "--version"]),
        Need::Umoci => anyone(&["umoci", "--version"]),
        Need::Bwrap => ordinary(&["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]),
        Need::Runc => crate::judge::works(world).map_err(|failed| reason(&failed)),
        Need::Apptainer if world.in_guest => Err("FUSE wants more than the guest has".to_owned()),
        Need::Apptainer => works(crate::peers::apptainer(Path::new("/tmp"), &["--version"])),
        Need::Guest if world.in_guest => Err("this is the guest".to_owned()),
        Need::Guest => crate::guest::parts().map(|_| ()),
    }
}

/// Mounts an overlay in the namespaces of the shell, as an engine does for an ordinary user.
const OVERLAY: &str = "mount -t tmpfs none /tmp && mkdir /tmp/l /tmp/m && \
     mount -t overlay -o lowerdir=/tmp/l:/usr,userxattr none /tmp/m";

fn works(command: Command) -> Result<(), String> {
    match command.output() {
        Ok(Answer { code: Some(0), .. }) => Ok(()),
        Ok(answer) => Err(answer.told()),
        Err(failed) => Err(reason(&failed)),
    }
}

/// The text of a failure.
pub(crate) fn reason(failed: &Failed) -> String {
    failed.message().unwrap_or("no reason was given").to_owned()
}

/// Whether a case with these needs can run: else ignored with the reason, or failed if demanded.
pub(crate) fn check(world: &World, needs: &[Need]) -> Result<Option<Completion>, Failed> {
    for need in needs {
        let Some(Err(why)) = world.met().get(need) else { continue };
        if world.demanded.as_ref().is_some_and(|names| names.iter().any(|name| name == need.name()))
        {
            return Err(format!("RIC_MUST demands {need}, which is unmet: {why}").into());
        }
        return Ok(Some(Completion::ignored_with(format!("needs {need}: {why}"))));
    }
    Ok(None)
}

/// The test that keeps skips honest: `RIC_MUST` and the machine agree, in both directions.
pub(crate) fn agreement(world: &Arc<World>) -> Trial {
    let world = Arc::clone(world);
    Trial::ignorable_test("demanded_needs_are_the_met_ones", move || {
        let Some(demanded) = &world.demanded else {
            return Ok(Completion::ignored_with("RIC_MUST is not set"));
        };
        let mut wrong = Vec::new();
        for name in demanded {
            if !ALL.iter().any(|need| need.name() == name) {
                wrong.push(format!("RIC_MUST names {name}, which is no need"));
            }
        }
        for (need, met) in world.met() {
            let named = demanded.iter().any(|name| name == need.name());
            match met {
                Err(why) if named => wrong.push(format!("{need} is demanded and unmet: {why}")),
                Ok(()) if !named => {
                    wrong.push(format!("{need} is met and RIC_MUST does not name it"))
                }
                Ok(()) | Err(_) => {}
            }
        }
        if wrong.is_empty() { Ok(Completion::Completed) } else { Err(wrong.join("\n").into()) }
    })
}

/// Whether a program of this name is in one of the usual directories.
pub(crate) fn find_program(name: &str) -> Option<std::path::PathBuf> {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/local/sbin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
}
