//! From a sandbox to the spec and the steps of this engine, purely.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use super::steps::Step;
use super::translate::{self, CallerMount, Changes, Setting};
use crate::oci::{self, SpecError};
use crate::seccomp::{Architecture, Filter};
use crate::{IdMap, Identities, MountKind, Sandbox};

/// Where things are on this machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places<'a> {
    /// Name of the container.
    pub(crate) id: &'a str,
    /// The generated top layer.
    pub(crate) top: &'a Path,
    /// The image's layers, lowest first.
    pub(crate) layers: &'a [PathBuf],
    /// Where the one of them that is a mount of its own is attached, if there is such: its
    /// descriptor follows those of the caller's mounts.
    pub(crate) attached: Option<&'a Path>,
    /// The worker's directory.
    pub(crate) tools: &'a Path,
    /// Where changes of the root go, if it can be changed.
    pub(crate) room: Option<&'a Path>,
}

/// The runtime spec of the sandbox. The work comes later, so its process is init alone.
///
/// # Errors
/// [`SpecError`]: what was decided cannot be said.
pub(crate) fn spec(sandbox: &Sandbox, id: &str, tools: &Path) -> Result<Spec, SpecError> {
    let mut sources = Vec::new();
    for mount in &sandbox.mounts {
        if let MountKind::Caller { descriptor, source, .. } = &mount.kind {
            sources.resize(sources.len().max(descriptor + 1), PathBuf::new());
            sources[*descriptor].clone_from(source);
        }
    }
    let mut spec = oci::spec(
        sandbox,
        &oci::Bundle {
            name: id.to_owned(),
            root: PathBuf::from("/"),
            tools: tools.to_owned(),
            sources,
            arguments: vec!["init".to_owned()],
            variables: Vec::new(),
            workdir: PathBuf::from("/"),
            architecture: Architecture::NATIVE,
        },
    )?;
    // Said for other runtimes, which fill a `/dev` that is not mounted: the top layer has it.
    let others = |mounts: &Vec<oci_spec::runtime::Mount>| {
        let wanted = mounts.iter().filter(|mount| mount.destination() != Path::new("/dev"));
        wanted.cloned().collect()
    };
    let mounts = spec.mounts().as_ref().map(others);
    spec.set_mounts(mounts);
    Ok(spec)
}

/// The steps that make the sandbox of `spec`.
pub(crate) fn steps(sandbox: &Sandbox, spec: &Spec, places: &Places<'_>) -> Vec<Step> {
    let setting = Setting {
        id: places.id,
        top: places.top,
        layers: places.layers,
        attached: places.attached.map(|place| (after_caller_mounts(sandbox), place)),
        changes: places.room.map(|room| Changes { room, mapped_from: mapped_from(sandbox) }),
        empty: &places.tools.join("empty"),
        cgroup: sandbox.cgroup.as_ref(),
        callers: caller_mounts(sandbox),
        privileged: privileged(sandbox),
        groups: sandbox.identities.groups.as_deref(),
        maps_by_owner: maps_by_owner(&sandbox.identities).is_some(),
        filter: &Filter::named(&sandbox.seccomp).expect("`spec` has refused any other name"),
    };
    translate::steps(spec, &setting)
}

/// The caller's mounts, numbered as steps name them.
pub(crate) fn caller_mounts(sandbox: &Sandbox) -> Vec<CallerMount<'_>> {
    let mounts = sandbox.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Caller { descriptor, device, inode, .. } => {
            Some((mount.target.as_path(), *descriptor, *device, *inode))
        }
        MountKind::Tmpfs { .. }
        | MountKind::Proc
        | MountKind::Devpts
        | MountKind::Device
        | MountKind::Mqueue => None,
    });
    // The control socket is number 0 among the descriptors that travel.
    let numbered = (1..).zip(mounts);
    numbered
        .map(|(descriptor, (target, came_as, device, inode))| CallerMount {
            target,
            came_as,
            descriptor,
            device,
            inode,
        })
        .collect()
}

/// The first of the descriptors of directories whose ids are mapped, which follow those of the
/// caller's mounts. Root's layers have the owners that they are meant to have, and its user
/// namespace has none of these ids; everyone else's layers are their own.
pub(crate) fn mapped_from(sandbox: &Sandbox) -> Option<u64> {
    let first = after_caller_mounts(sandbox);
    (sandbox.identities.user_namespace.is_some() && privileged(sandbox)).then_some(first)
}

/// The number of the first descriptor that is no mount of the caller's.
fn after_caller_mounts(sandbox: &Sandbox) -> u64 {
    1 + caller_mounts(sandbox).len() as u64
}

/// The maps that the owner writes, itself or by `newuidmap`. One line for the caller's own id is
/// written by init; all else needs more rights.
pub(crate) fn maps_by_owner(identities: &Identities) -> Option<&IdMap> {
    let own = |maps: &IdMap| !maps.by_helper && maps.uids.iter().all(|(_, _, count)| *count == 1);
    identities.user_namespace.as_ref().filter(|maps| !own(maps))
}

/// Whether the monitor has the rights of root on this machine, and not just in a user namespace.
fn privileged(sandbox: &Sandbox) -> bool {
    let maps = sandbox.identities.user_namespace.as_ref();
    maps.is_none_or(|maps| maps_by_owner(&sandbox.identities).is_some() && !maps.by_helper)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ric_images::Form;

    use super::*;

    const PLACE: &str = "/store/place";

    /// Golden cases: the sandboxes of `tests/golden/oci` give `tests/golden/native/CASE.txt`, one
    /// step a line. `RIC_BLESS=1` rewrites them; review reads the difference.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "the switch of a test, not of the program")]
    fn each_sandbox_gives_its_steps() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
        let mut checked = 0;
        for case in fs::read_dir(golden.join("oci")).unwrap() {
            let case = case.unwrap();
            let text = fs::read_to_string(case.path().join("sandbox.json")).unwrap();
            let sandbox: Sandbox = serde_json::from_str(&text).unwrap();
            let tools = Path::new("/store/tools");
            let Ok(spec) = spec(&sandbox, "run-in-container-0", tools) else { continue };
            let layers = match sandbox.root {
                crate::RootSource::Host { .. } => vec![],
                crate::RootSource::Layers => {
                    ["/store/layers/1", "/store/layers/2"].map(Into::into).to_vec()
                }
            };
            let top = Path::new("/store/top");
            let room = sandbox.root_access == ric_policies::Access::ReadWrite;
            let room = room.then_some(Path::new("/store/tmp/build"));
            let attached = (sandbox.form == Form::FileSystem).then_some(Path::new(PLACE));
            let layers = if attached.is_some() { vec![PLACE.into()] } else { layers };
            let places =
                Places { id: "run-in-container-0", top, layers: &layers, attached, tools, room };
            let steps = steps(&sandbox, &spec, &places);
            let given: String = steps.iter().map(|step| step.label.clone() + "\n").collect();
            let file = golden.join("native").join(case.file_name()).with_extension("txt");
            if std::env::var_os("RIC_BLESS").is_some() {
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(&file, &given).unwrap();
            }
            let expected = fs::read_to_string(&file).unwrap_or_default();
            assert!(expected == given, "{}: RIC_BLESS=1 shows the difference", file.display());
            checked += 1;
        }
        assert!(checked >= 8, "the cases are in {}", golden.display());
    }
}
