//! The list of steps that builds a sandbox, as data, and its bytes for `init`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::protocol as p;

/// One step: what `init` does, and the words for it if it fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    operation: u64,
    numbers: [u64; 4],
    texts: [Vec<u8>; 3],
    /// What is tried, as the man page names it, such as ``mount(2) of tmpfs on /tmp``.
    pub(crate) label: String,
}

impl Step {
    fn new(operation: u64, label: String) -> Step {
        Step { operation, numbers: [0; 4], texts: Default::default(), label }
    }

    fn number(mut self, at: usize, value: u64) -> Step {
        self.numbers[at] = value;
        self
    }

    fn text(mut self, at: usize, value: impl AsRef<[u8]>) -> Step {
        self.texts[at] = value.as_ref().to_vec();
        self
    }

    fn path(self, at: usize, value: &Path) -> Step {
        self.text(at, value.as_os_str().as_bytes())
    }

    /// Makes a cgroup directory, which the monitor removes at the end.
    pub(crate) fn cgroup_make(directory: &Path) -> Step {
        Step::new(p::STEP_CGROUP_MAKE, format!("mkdir(2) {}", directory.display()))
            .path(0, directory)
    }

    /// The cgroup directory that it makes, if that is what it does.
    pub(crate) fn made_cgroup(&self) -> Option<&Path> {
        let [directory, ..] = &self.texts;
        (self.operation == p::STEP_CGROUP_MAKE).then(|| Path::new(OsStr::from_bytes(directory)))
    }

    /// Writes a limit, and reads it back if `check` says so.
    pub(crate) fn cgroup_set(file: &Path, value: &str, check: Check) -> Step {
        Step::new(p::STEP_CGROUP_SET, format!("write(2) of {value:?} to {}", file.display()))
            .path(0, file)
            .text(1, value)
            .number(0, u64::from(check == Check::ReadBack || check == Check::ReadBackIfThere))
            .number(1, u64::from(check == Check::ReadBackIfThere || check == Check::IfAllowed))
    }

    /// Limits the devices of a version 2 cgroup to what a BPF program allows.
    pub(crate) fn cgroup_devices(directory: &Path, program: &[u8]) -> Step {
        Step::new(p::STEP_CGROUP_DEVICES, format!("bpf(2) for devices of {}", directory.display()))
            .path(0, directory)
            .text(1, program)
    }

    /// Puts init into a version 1 cgroup.
    pub(crate) fn cgroup_join(directory: &Path) -> Step {
        let tasks = directory.join("tasks");
        Step::new(p::STEP_CGROUP_JOIN, format!("write(2) of 0 to {}", tasks.display()))
            .path(0, &tasks)
    }

    /// Clones the mounts below a descriptor that the caller opened.
    pub(crate) fn tree(descriptor: u64, source: &Path) -> Step {
        Step::new(p::STEP_TREE, format!("open_tree(2) of {}", source.display()))
            .number(0, descriptor)
    }

    /// Has a tree that [`Step::tree`] cloned show the machine's ids as those of init's user
    /// namespace.
    pub(crate) fn idmap(descriptor: u64, source: &Path) -> Step {
        Step::new(p::STEP_IDMAP, format!("mount_setattr(2) of {} to map ids", source.display()))
            .number(0, descriptor)
    }

    /// Attaches what [`Step::tree`] cloned on a directory of the machine, as init sees it.
    pub(crate) fn cover(descriptor: u64, place: &Path) -> Step {
        Step::new(p::STEP_COVER, format!("move_mount(2) to {}", place.display()))
            .path(0, place)
            .number(0, descriptor)
    }

    /// Starts init in new namespaces, in a version 2 cgroup if there is one.
    pub(crate) fn clone(flags: u64, cgroup: Option<&Path>, maps_by_owner: bool) -> Step {
        let step = Step::new(p::STEP_CLONE, format!("clone3(2) with flags {flags:#x}"));
        let step = step.number(0, flags).number(1, u64::from(maps_by_owner));
        match cgroup {
            Some(directory) => step.path(0, directory),
            None => step,
        }
    }

    /// Writes a file of `/proc`.
    pub(crate) fn write(file: &str, value: &str) -> Step {
        let label = format!("write(2) of {:?} to {file}", value.trim_end());
        Step::new(p::STEP_WRITE, label).text(0, file).text(1, value)
    }

    /// Keeps mounts from travelling back to the machine.
    pub(crate) fn private() -> Step {
        Step::new(p::STEP_PRIVATE, "mount(2) with MS_REC|MS_PRIVATE on /".into())
    }

    /// The root is one directory.
    pub(crate) fn root_bind(directory: &Path) -> Step {
        Step::new(p::STEP_ROOT_BIND, format!("open_tree(2) of {}", directory.display()))
            .path(0, directory)
    }

    /// The root is an overlay made on `directory` with `attributes`; relative paths are looked up
    /// in `from`.
    pub(crate) fn root_overlay(
        directory: &Path,
        options: &[u8],
        from: &Path,
        attributes: u64,
        mounter: Mounter,
    ) -> Step {
        let label = format!(
            "mount(2) of overlay on {} with {}",
            directory.display(),
            String::from_utf8_lossy(options)
        );
        Step::new(p::STEP_ROOT_OVERLAY, label)
            .path(0, directory)
            .text(1, options)
            .path(2, from)
            .number(0, attributes)
            .number(1, u64::from(mounter == Mounter::Root))
    }

    /// Binds a path of the machine.
    pub(crate) fn bind(source: &Path, target: &Path, attributes: u64, expect: Expect) -> Step {
        let label = format!("open_tree(2) of {} for {}", source.display(), target.display());
        let step = Step::new(p::STEP_BIND, label).path(0, source).path(1, target);
        let step = step.number(0, attributes);
        match expect {
            Expect::Any => step,
            Expect::Device(number) => step.number(1, p::BIND_DEVICE).number(2, number),
            Expect::Inode { device, inode } => {
                step.number(1, p::BIND_INODE).number(2, device).number(3, inode)
            }
        }
    }

    /// Attaches what [`Step::tree`] cloned.
    pub(crate) fn attach(descriptor: u64, target: &Path, attributes: u64) -> Step {
        Step::new(p::STEP_ATTACH, format!("move_mount(2) to {}", target.display()))
            .path(1, target)
            .number(0, attributes)
            .number(1, descriptor)
    }

    /// Mounts a new filesystem.
    pub(crate) fn mount(kind: &str, target: &Path, options: &str, attributes: u64) -> Step {
        Step::new(
            p::STEP_MOUNT,
            format!("fsmount(2) of {kind} ({options}) on {}", target.display()),
        )
        .text(0, kind)
        .path(1, target)
        .text(2, options)
        .number(0, attributes)
    }

    /// Hides a path, if it exists; `empty` is what hides a directory.
    pub(crate) fn mask(target: &Path, empty: &Path) -> Step {
        Step::new(p::STEP_MASK, format!("move_mount(2) of /dev/null over {}", target.display()))
            .path(0, target)
            .path(1, empty)
    }

    /// Makes a path, if it exists, read-only.
    pub(crate) fn readonly(target: &Path) -> Step {
        Step::new(
            p::STEP_READONLY,
            format!("mount_setattr(2) of {} to read-only", target.display()),
        )
        .path(0, target)
    }

    /// Gives the root its attributes, after everything is mounted on it.
    pub(crate) fn root_attributes(attributes: u64) -> Step {
        Step::new(p::STEP_ROOT_ATTRIBUTES, "mount_setattr(2) of the root".into())
            .number(0, attributes)
    }

    /// Makes the root the root, and begins to let go of the old one.
    pub(crate) fn pivot() -> Step {
        Step::new(p::STEP_PIVOT, "pivot_root(2)".into())
    }

    /// Waits until the old root has been let go of.
    pub(crate) fn detached() -> Step {
        Step::new(p::STEP_DETACHED, "umount2(2) of the old root".into())
    }

    /// Names the machine as the sandbox sees it.
    pub(crate) fn hostname(name: &str) -> Step {
        Step::new(p::STEP_HOSTNAME, format!("sethostname(2) to {name}")).text(0, name)
    }

    /// Brings the loopback interface up.
    pub(crate) fn loopback() -> Step {
        Step::new(p::STEP_LOOPBACK, "ioctl(2) SIOCSIFFLAGS on lo".into())
    }

    /// Holds on to the POSIX message queues, for when they are to be removed.
    pub(crate) fn queues() -> Step {
        Step::new(p::STEP_QUEUES, "fsmount(2) of mqueue".into())
    }

    /// The same where an engine has mounted them, as init cannot.
    pub(crate) fn queues_at(place: &str) -> Step {
        Step::new(p::STEP_QUEUES, format!("open(2) {place}")).text(0, place)
    }

    /// Sets a resource limit.
    pub(crate) fn rlimit(name: &str, resource: u64, soft: u64, hard: u64) -> Step {
        Step::new(p::STEP_RLIMIT, format!("prlimit(2) of {name} to {soft} and {hard}"))
            .number(0, resource)
            .number(1, soft)
            .number(2, hard)
    }

    /// Locks the secure bits and empties the bounding set of all but `kept`, a bit for each
    /// capability.
    pub(crate) fn bound(kept: u64) -> Step {
        Step::new(p::STEP_BOUND, "prctl(2) of securebits and the bounding set".into())
            .number(0, kept)
    }

    /// Becomes the task's user.
    pub(crate) fn ids(uid: u32, gid: u32, groups: Option<&[u32]>) -> Step {
        let step =
            Step::new(p::STEP_IDS, format!("setresuid(2) to {uid} and setresgid(2) to {gid}"));
        let step = step.number(0, uid.into()).number(1, gid.into());
        match groups {
            None => step,
            Some(groups) => {
                let bytes: Vec<u8> = groups.iter().flat_map(|gid| gid.to_le_bytes()).collect();
                step.number(2, 1).text(0, bytes)
            }
        }
    }

    /// Drops all capabilities but `kept` and forbids new privileges.
    pub(crate) fn drop_privileges(kept: u64, parent: Parent) -> Step {
        Step::new(p::STEP_DROP, "capset(2) and prctl(2) PR_SET_NO_NEW_PRIVS".into())
            .number(0, kept)
            .number(1, u64::from(parent == Parent::Engine))
    }

    /// Makes sure that what an engine mounted at `target` is what the caller had opened.
    pub(crate) fn expect(target: &Path, device: u64, inode: u64) -> Step {
        let label = format!("finding what was opened for {} mounted there", target.display());
        Step::new(p::STEP_EXPECT, label).path(0, target).number(0, device).number(1, inode)
    }

    /// Makes a directory as the task's user.
    pub(crate) fn mkdir(path: &str, mode: u64) -> Step {
        Step::new(p::STEP_MKDIR, format!("mkdir(2) {path}")).text(0, path).number(0, mode)
    }

    /// Installs the filter, which then holds for init too.
    pub(crate) fn seccomp(filter: &[u8]) -> Step {
        Step::new(p::STEP_SECCOMP, "seccomp(2)".into()).text(0, filter)
    }

    /// Has init send what the kernel says of it. The last step.
    pub(crate) fn ready() -> Step {
        Step::new(p::STEP_READY, "read(2) of /proc/self".into())
    }
}

/// Whether a limit that was written is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// It must read back as it was written.
    ReadBack,
    /// Likewise, but a kernel without this file has nothing to limit.
    ReadBackIfThere,
    /// It is an act and not a value.
    No,
    /// An act whose failure shows in the steps after it.
    IfAllowed,
}

/// Whose ids an overlay uses on its layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mounter {
    /// Those that init has outside.
    Owner,
    /// Those of uid 0 of its user namespace.
    Root,
}

/// Whose child init is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parent {
    /// Our own monitor's, and ends with it.
    Monitor,
    /// Another engine's.
    Engine,
}

/// What the source of a bind mount must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Anything that exists.
    Any,
    /// The character device of this number.
    Device(u64),
    /// This inode: the one that was decided about.
    Inode { device: u64, inode: u64 },
}

/// The bytes of `steps` for `init`; the layout is in `protocol.rs`.
pub(crate) fn encode(steps: &[Step]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 * 1024);
    for step in steps {
        let texts: usize = step.texts.iter().map(|text| text.len() + 1).sum();
        let whole = (p::STEP_HEAD_WORDS * 8 + texts).next_multiple_of(8);
        let end = bytes.len() + whole;
        let head = [step.operation, whole as u64].into_iter().chain(step.numbers);
        for word in head.chain(step.texts.iter().map(|text| text.len() as u64 + 1)) {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        for text in &step.texts {
            bytes.extend_from_slice(text);
            bytes.push(0);
        }
        bytes.resize(end, 0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().unwrap())
    }

    #[test]
    fn encodes_a_step_as_protocol_rs_says() {
        let steps = [Step::ids(7, 8, Some(&[9])), Step::hostname("sandbox"), Step::ready()];
        let bytes = encode(&steps);
        let first = usize::try_from(word(&bytes, 1)).unwrap();
        assert_eq!(first % 8, 0, "the next step is aligned");
        assert_eq!(word(&bytes, 0), p::STEP_IDS);
        assert_eq!([word(&bytes, 2), word(&bytes, 3), word(&bytes, 4)], [7, 8, 1]);
        assert_eq!([word(&bytes, 6), word(&bytes, 7), word(&bytes, 8)], [5, 1, 1]);
        assert_eq!(&bytes[p::STEP_HEAD_WORDS * 8..][..5], [9, 0, 0, 0, 0]);
        let second = &bytes[first..];
        assert_eq!(word(second, 0), p::STEP_HOSTNAME);
        assert_eq!(&second[p::STEP_HEAD_WORDS * 8..][..8], b"sandbox\0");
    }
}
