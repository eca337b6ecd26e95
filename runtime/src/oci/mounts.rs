//! The mounts of a sandbox in the words of the runtime spec, in the order in which they are made.
//!
//! What is bound from outside uses the recursive options `rro`, `rnosuid` and `rnodev`
//! (mount_setattr(2), Linux 5.12; runc 1.1, crun 1.4). The plain ones would leave the mounts below
//! as they are, and a runtime applies them by a remount, which in a user namespace fails with
//! `EPERM` unless it repeats every flag that the source is locked to.

use std::path::{Path, PathBuf};

use oci_spec::runtime;
use ric_policies::Access;

use super::{Bundle, SpecError};
use crate::{IdMap, Mount, MountKind, OWN_DIRECTORY, RootSource, Sandbox};

/// The group `tty`, which owns terminals; glibc's grantpt(3) and Docker count on this number.
const GROUP_TTY: u32 = 5;

const READ_ONLY: [&str; 5] = ["rbind", "rprivate", "rro", "rnosuid", "rnodev"];
const READ_WRITE: [&str; 4] = ["rbind", "rprivate", "rnosuid", "rnodev"];
/// A device node: without `nodev`, or it could not be opened.
const DEVICE: [&str; 4] = ["bind", "rprivate", "rnosuid", "rnoexec"];

/// Every mount above the root.
pub(super) fn to_mounts(
    sandbox: &Sandbox,
    bundle: &Bundle,
) -> Result<Vec<runtime::Mount>, SpecError> {
    let mut mounts = Vec::new();
    match &sandbox.root {
        RootSource::Host { links: _, shown, copied: _, python: _ } => {
            mounts.extend(shown.iter().map(|path| bind(path, path, &READ_ONLY)));
        }
        RootSource::Layers => {}
    }
    // On itself. Seeing `/dev` bound, runc makes no nodes and no links in it; else it removes and
    // remakes `/dev/ptmx`, in a directory that other sandboxes share and that may be read-only.
    mounts.push(bind(&bundle.root.join("dev"), Path::new("/dev"), &READ_ONLY));
    for mount in &sandbox.mounts {
        mounts.push(to_mount(mount, sandbox, bundle)?);
    }
    mounts.push(bind(&bundle.tools, Path::new(OWN_DIRECTORY), &READ_ONLY));
    Ok(mounts)
}

fn to_mount(
    mount: &Mount,
    sandbox: &Sandbox,
    bundle: &Bundle,
) -> Result<runtime::Mount, SpecError> {
    let target = &mount.target;
    let kernel = |typ: &str, options: Vec<String>| made(target, typ, options);
    let plain = |options: &[&str]| options.iter().copied().map(str::to_owned).collect();
    Ok(match &mount.kind {
        // That the source is still this device and inode is for whoever opened it to see; a spec
        // has no word for it.
        MountKind::Caller { descriptor, source: _, device: _, inode: _, directory: _, access } => {
            let source = bundle.sources.get(*descriptor);
            let source = source.ok_or(SpecError::Descriptor { descriptor: *descriptor })?;
            match access {
                Access::ReadOnly => bind(source, target, &READ_ONLY),
                Access::ReadWrite => bind(source, target, &READ_WRITE),
            }
        }
        MountKind::Tmpfs { size_bytes, mode, executable } => {
            let mut options: Vec<String> = plain(&["nosuid", "nodev"]);
            if !executable {
                options.push("noexec".to_owned());
            }
            options.push(format!("size={size_bytes}"));
            options.push(format!("mode={mode:04o}"));
            kernel("tmpfs", options)
        }
        MountKind::Proc => kernel("proc", plain(&["nosuid", "noexec", "nodev"])),
        MountKind::Devpts => {
            let options = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
            let mut options: Vec<String> = plain(&options);
            // The kernel refuses the mount if it names a group that the namespace does not have.
            if maps_group(sandbox.identities.user_namespace.as_ref(), GROUP_TTY) {
                options.push(format!("gid={GROUP_TTY}"));
            }
            kernel("devpts", options)
        }
        MountKind::Device => bind(target, target, &DEVICE),
        MountKind::Mqueue => kernel("mqueue", plain(&["nosuid", "noexec", "nodev"])),
    })
}

/// Whether `group` exists inside.
fn maps_group(user_namespace: Option<&IdMap>, group: u32) -> bool {
    user_namespace.is_none_or(|maps| {
        let holds = |&(inside, _, count): &(u32, u32, u32)| {
            group.checked_sub(inside).is_some_and(|offset| offset < count)
        };
        maps.gids.iter().any(holds)
    })
}

/// A mount of something that exists outside.
fn bind(source: &Path, target: &Path, options: &[&str]) -> runtime::Mount {
    let options = options.iter().copied().map(str::to_owned).collect();
    filled(target, "bind", source.to_owned(), options)
}

/// A mount of a filesystem that the kernel makes for it.
fn made(target: &Path, typ: &str, options: Vec<String>) -> runtime::Mount {
    filled(target, typ, PathBuf::from(typ), options)
}

fn filled(target: &Path, typ: &str, source: PathBuf, options: Vec<String>) -> runtime::Mount {
    let mut mount = runtime::Mount::default();
    mount
        .set_destination(target.to_owned())
        .set_typ(Some(typ.to_owned()))
        .set_source(Some(source))
        .set_options(Some(options))
        .set_uid_mappings(None)
        .set_gid_mappings(None);
    mount
}
