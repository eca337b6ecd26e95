//! `--env`: an environment becomes the flags that its user would have typed. Flags that were typed
//! win, and policy is asked about all of them alike.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use ric_images::{Environment, EnvironmentName, PREFIX, Reference};
use ric_policies::{Access, Policy};
use ric_runtime::Actor;

use super::find::{Found, find, folders};
use super::packages::{Asked, Unbuilt, image_of};
use crate::args::{MountPoint, SandboxArgs, Variable};
use crate::failure::Failure;
use crate::{progress, task};

/// Names of the Python of an environment on disk, best first.
const PYTHONS: [&str; 2] = ["bin/python3", "bin/python"];

/// Directories that are new in every sandbox, so that nothing of this machine is shown below them.
const OWN_DIRECTORIES: [&str; 2] = ["/tmp", "/task"];

/// Lays the environment that `--env` names under the other flags, and returns what no flag says.
pub(crate) fn apply(
    args: &mut SandboxArgs,
    policy: &Policy,
    unbuilt: Unbuilt,
) -> Result<Option<Environment>, Failure> {
    let Some(name) = args.env.clone() else { return Ok(None) };
    lay_named(args, &name, policy, unbuilt).map(Some)
}

/// Lays the environment called `name` under the flags.
pub(crate) fn lay_named(
    args: &mut SandboxArgs,
    name: &EnvironmentName,
    policy: &Policy,
    unbuilt: Unbuilt,
) -> Result<Environment, Failure> {
    let found = find(name, &folders(&args.env_path)?)?;
    tell_hidden(&found);
    lay_under(args, found.environment, &found.file, policy, unbuilt)
}

/// Lays the environment that `text` describes under the flags; `file` is where it stands. A lock is
/// read beside it only where `opens_files`.
pub(crate) fn lay_text(
    args: &mut SandboxArgs,
    file: &Path,
    text: &str,
    policy: &Policy,
    opens_files: bool,
) -> Result<Environment, Failure> {
    let environment = Environment::parse(file, text).map_err(|mistake| {
        Failure::new(Actor::User, "cannot read the environment").because(&mistake)
    })?;
    if environment.has_packages() && !(opens_files && file.is_absolute()) {
        let name = &environment.name;
        return Err(Failure::new(Actor::User, format!("cannot use the environment `{name}`"))
            .cause("it has packages, and no file here that its lock could be beside")
            .hint(format!(
                "name one that lies in the search path of the daemon and that \
                 `run-in-container environments build {name}` has built, or call with \
                 `--no-daemon`"
            )));
    }
    lay_under(args, environment, file, policy, Unbuilt::Refuse)
}

fn lay_under(
    args: &mut SandboxArgs,
    mut environment: Environment,
    file: &Path,
    policy: &Policy,
    unbuilt: Unbuilt,
) -> Result<Environment, Failure> {
    args.image = if environment.has_packages() {
        let store = args.store.as_deref();
        let asked = Asked { environment: &environment, file, policy, store };
        let image = image_of(&asked, unbuilt)?;
        if !environment.python.is_empty() {
            environment.interpreter = Some(format!("{PREFIX}/bin/python3"));
        }
        image
    } else {
        let folder = file.parent().unwrap_or(Path::new("/"));
        task::absolute_in(environment.image.clone(), folder)?
    };
    let typed = std::mem::take(&mut args.variable);
    if let Some(prefix) = environment.prefix.clone() {
        show_prefix(args, &mut environment, &prefix, policy)?;
    }
    let of_file = environment.variables.iter();
    let of_file =
        of_file.map(|(name, value)| Variable { name: name.clone(), value: value.clone() });
    args.variable.extend(of_file);
    args.variable.extend(typed);
    let limits = &environment.limits;
    args.memory = args.memory.or(limits.memory_bytes);
    args.cpus = args.cpus.or(limits.cpus_milli);
    args.pids = args.pids.or(limits.pids);
    args.timeout = args.timeout.or(limits.time);
    args.fresh = args.fresh.or(environment.fresh);
    args.workdir = args.workdir.take().or_else(|| environment.workdir.clone());
    Ok(environment)
}

fn tell_hidden(found: &Found) {
    if found.hides.is_empty() {
        return;
    }
    let hidden: Vec<String> = found.hides.iter().map(|file| file.display().to_string()).collect();
    progress::tell(&format!(
        "environment `{}` is {}, which hides {}",
        found.environment.name,
        found.file.display(),
        hidden.join(", ")
    ));
}

/// Shows an existing virtual environment or conda prefix at its own path, read-only, with its
/// Python and its programs first.
fn show_prefix(
    args: &mut SandboxArgs,
    environment: &mut Environment,
    prefix: &Path,
    policy: &Policy,
) -> Result<(), Failure> {
    let name = &environment.name;
    let attempt = || format!("cannot use {} as environment `{name}`", prefix.display());
    if let Some(own) = OWN_DIRECTORIES.iter().find(|own| prefix.starts_with(own)) {
        return Err(Failure::new(Actor::User, attempt())
            .cause(format!("it is in {own}, where every sandbox has a directory of its own"))
            .hint("make it elsewhere: it holds its own path and cannot be moved"));
    }
    let python = PYTHONS.iter().map(|python| prefix.join(python));
    // The link may lead to where only the sandbox can follow it.
    let python = python.into_iter().find(|python| python.symlink_metadata().is_ok());
    let Some(python) = python else {
        return Err(Failure::new(Actor::User, attempt())
            .cause(format!("it has neither {}", PYTHONS.join(" nor ")))
            .hint("`prefix:` is the directory that `python3 -m venv` or `conda create` has made"));
    };
    let settings = prefix.join("pyvenv.cfg");
    let is_virtual = settings.is_file();
    let mut shown = vec![prefix.to_owned()];
    if is_virtual {
        let text = task::read_file(&settings, SETTINGS_BYTES_MAX, "a pyvenv.cfg")?;
        shown.extend(base_of(&String::from_utf8_lossy(&text)));
    }
    for path in shown {
        if !is_in_image(&path, &args.image, policy) {
            let target = path.clone();
            args.mount.push(MountPoint { source: path, target, access: Some(Access::ReadOnly) });
        }
    }
    let variable = if is_virtual { "VIRTUAL_ENV" } else { "CONDA_PREFIX" };
    let value = prefix.to_string_lossy().into_owned();
    args.variable.push(Variable { name: variable.to_owned(), value });
    args.path_first.push(prefix.join("bin"));
    if environment.interpreter.is_none() {
        environment.interpreter = Some(python.to_string_lossy().into_owned());
    }
    Ok(())
}

/// Most bytes of a `pyvenv.cfg`, which has a handful of lines.
const SETTINGS_BYTES_MAX: u64 = 64 << 10;

/// The installation whose Python a virtual environment runs: `home = DIR/bin` (the `venv` module's
/// documentation, and PEP 405).
fn base_of(settings: &str) -> Option<PathBuf> {
    let home = settings.lines().filter_map(|line| line.split_once('='));
    let home = home.map(|(key, value)| (key.trim(), value.trim()));
    let (_, home) = home.into_iter().find(|(key, _)| *key == "home")?;
    let bin = Path::new(home);
    let is_bin = bin.is_absolute() && bin.file_name() == Some(OsStr::new("bin"));
    bin.parent().filter(|base| is_bin && base.parent().is_some()).map(Path::to_owned)
}

/// Whether `host:` shows `path` already.
fn is_in_image(path: &Path, image: &Reference, policy: &Policy) -> bool {
    let usual = [Path::new("/usr")].into_iter();
    let mut shown = usual.chain(policy.host_paths.iter().map(|rule| rule.value.as_path()));
    *image == Reference::Host && shown.any(|shown| path.starts_with(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_of_a_virtual_environment_is_in_its_settings() {
        let base = |text| base_of(text);
        let of_uv = "home = /scratch/me/uv/python/cpython-3.12/bin\nversion = 3.12.1\n";
        let found = PathBuf::from("/scratch/me/uv/python/cpython-3.12");
        assert_eq!(base(of_uv), Some(found));
        assert_eq!(base("home=/usr/bin"), Some(PathBuf::from("/usr")));
        // The whole machine is nobody's base; neither is what is relative or unknown.
        for text in
            ["", "home", "home = /bin", "home = bin", "home = /opt/python", "homes = /a/bin"]
        {
            assert_eq!(base(text), None, "{text}");
        }
    }
}
