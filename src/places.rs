//! Where this user's images, environment files and credentials for registries are kept, and a
//! local Docker. The only part of the program that reads environment variables.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use ric_images::{CredentialFiles, LocalDocker, Proxies, default_root, is_local_filesystem};
use ric_runtime::Actor;
use rustix::fs::Access;

use crate::failure::Failure;
use crate::machine::MachineSettings;

/// Where a site keeps its environment files, beside its policy.
const SITE_ENVIRONMENTS: &str = "/etc/run-in-container/environments";

/// The directory of images: the one that is named, made absolute, else this user's.
#[expect(clippy::disallowed_methods, reason = "libraries get what the environment says from here")]
pub(crate) fn store_root(named: Option<&Path>) -> io::Result<PathBuf> {
    if let Some(path) = named {
        return std::path::absolute(path);
    }
    let data_home = std::env::var_os("XDG_DATA_HOME");
    let home = std::env::var_os("HOME");
    Ok(usual_root(data_home, home))
}

/// Where `docker login` and `podman login` have kept this user's credentials. Nothing is looked at.
#[expect(clippy::disallowed_methods, reason = "libraries get what the environment says from here")]
pub(crate) fn credentials() -> CredentialFiles {
    let uid = rustix::process::geteuid().as_raw();
    let search = std::env::var_os("PATH").unwrap_or_default();
    CredentialFiles {
        files: usual_credentials(uid, |name| std::env::var_os(name)),
        helper_folders: std::env::split_paths(&search).collect(),
        ..CredentialFiles::default()
    }
}

/// The files in the order of containers-auth.json(5). One named by `REGISTRY_AUTH_FILE` is the only
/// one, as it is for podman and skopeo.
fn usual_credentials(uid: u32, variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let variable = |name: &str| variable(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    if let Some(named) = variable("REGISTRY_AUTH_FILE") {
        return vec![named];
    }
    let below_home = |folder: &str| variable("HOME").map(|home| home.join(folder));
    let runtime = match variable("XDG_RUNTIME_DIR") {
        Some(runtime) => runtime.join("containers"),
        None => PathBuf::from(format!("/run/containers/{uid}")),
    };
    let config = variable("XDG_CONFIG_HOME").or_else(|| below_home(".config"));
    let docker = variable("DOCKER_CONFIG").or_else(|| below_home(".docker"));
    let mut files = vec![runtime.join("auth.json")];
    files.extend(config.map(|config| config.join("containers/auth.json")));
    files.extend(docker.map(|docker| docker.join("config.json")));
    files
}

/// Where a Docker or Podman of this machine listens. Nothing is asked.
#[expect(clippy::disallowed_methods, reason = "libraries get what the environment says from here")]
pub(crate) fn docker() -> LocalDocker {
    let uid = rustix::process::geteuid().as_raw();
    usual_docker(uid, |name| std::env::var_os(name))
}

/// The socket of `DOCKER_HOST` alone, else Docker's, else that of this user's Podman
/// (podman-system-service(1)). Whole images do not go to `/tmp`, which is often in memory.
fn usual_docker(uid: u32, variable: impl Fn(&str) -> Option<OsString>) -> LocalDocker {
    let variable = |name: &str| variable(name).filter(|text| !text.is_empty());
    let host = variable("DOCKER_HOST").map(|host| host.to_string_lossy().into_owned());
    let runtime = variable("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = match (runtime, uid) {
        (_, 0) => PathBuf::from("/run"),
        (Some(runtime), _) => runtime,
        (None, uid) => PathBuf::from(format!("/run/user/{uid}")),
    };
    let sockets = vec!["/var/run/docker.sock".into(), runtime.join("podman/podman.sock")];
    let folder = variable("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    LocalDocker::new(host, sockets, folder)
}

/// The user's variable that holds the secret `name`.
#[expect(clippy::disallowed_methods, reason = "a flag names the variable")]
pub(crate) fn secret_variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// What the environment says of proxies. Nothing is looked at.
#[expect(clippy::disallowed_methods, reason = "libraries get what the environment says from here")]
pub(crate) fn proxies() -> Proxies {
    usual_proxies(|name| std::env::var(name).ok())
}

/// Small letters first, as curl(1) does. Those of `HTTP_PROXY` count too, as for Docker: no web
/// server starts this program with a header of a request in that name.
fn usual_proxies(variable: impl Fn(&str) -> Option<String>) -> Proxies {
    let either = |small: &str, large: &str| {
        let set = |name: &str| variable(name).filter(|text| !text.is_empty());
        set(small).or_else(|| set(large))
    };
    Proxies {
        https: either("https_proxy", "HTTPS_PROXY"),
        http: either("http_proxy", "HTTP_PROXY"),
        except: either("no_proxy", "NO_PROXY").unwrap_or_default(),
    }
}

/// Where environment files are looked for, first to last: the user's own, the site's.
#[expect(clippy::disallowed_methods, reason = "libraries get what the environment says from here")]
pub(crate) fn environment_folders() -> Vec<PathBuf> {
    usual_environments(|name| std::env::var_os(name))
}

/// The XDG base directory specification: a path that is not absolute counts as unset.
fn usual_environments(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let variable = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || variable("HOME").map(|home| home.join(".config"));
    let user = variable("XDG_CONFIG_HOME").or_else(home);
    let of_user = user.map(|config| config.join("run-in-container/environments"));
    of_user.into_iter().chain([PathBuf::from(SITE_ENVIRONMENTS)]).collect()
}

/// How this machine reaches packages, as this user is told.
#[expect(clippy::disallowed_methods, reason = "libraries get what the environment says from here")]
pub(crate) fn machine_settings() -> MachineSettings {
    MachineSettings::read(&|name| std::env::var_os(name), Path::new("/"))
}

/// Where a daemon of this user keeps what was submitted to it. As for images, a directory that
/// machines share is not used: a daemon is one machine's.
#[expect(clippy::disallowed_methods, reason = "libraries get what the environment says from here")]
pub(crate) fn task_state(uid: u32) -> PathBuf {
    usual_task_state(
        uid,
        |name| std::env::var_os(name),
        |place| is_local_filesystem(place) && is_writable(place),
    )
}

fn usual_task_state(
    uid: u32,
    variable: impl Fn(&str) -> Option<OsString>,
    is_usable: impl Fn(&Path) -> bool,
) -> PathBuf {
    let variable = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || variable("HOME").map(|home| home.join(".local/state"));
    let state = variable("XDG_STATE_HOME").or_else(home);
    default_root(uid, state.as_deref(), None, is_usable).join("tasks")
}

/// Where a daemon of this user listens: at the socket that is named, else where clients look.
#[expect(clippy::disallowed_methods, reason = "libraries get what the environment says from here")]
pub(crate) fn serve_socket(named: Option<&Path>, uid: u32) -> Result<PathBuf, Failure> {
    if let Some(named) = named {
        return std::path::absolute(named).map_err(|error| {
            Failure::new(Actor::User, "cannot find the current directory").because(&error)
        });
    }
    let usual = usual_sockets(uid, |name| std::env::var_os(name)).into_iter().find(|path| {
        // Its directory is made, but not what that is in: a machine without it has another place.
        path.parent().and_then(Path::parent).is_some_and(Path::is_dir)
    });
    usual.ok_or_else(|| {
        Failure::new(Actor::User, "cannot find a place for the daemon's socket")
            .cause(format!("neither $XDG_RUNTIME_DIR nor /run/user/{uid} is there"))
            .hint("name one with `--socket PATH`, in a directory of your own")
    })
}

/// Where daemons that this user may ask listen, the first to be tried first.
#[expect(clippy::disallowed_methods, reason = "libraries get what the environment says from here")]
pub(crate) fn sockets(named: Option<&Path>) -> Vec<PathBuf> {
    match named {
        Some(named) => vec![named.to_owned()],
        None => {
            let uid = rustix::process::geteuid().as_raw();
            let mut sockets = usual_sockets(uid, |name| std::env::var_os(name));
            sockets.push(PathBuf::from(ROOTS_SOCKET));
            sockets.dedup();
            sockets
        }
    }
}

/// Where root's daemon listens.
const ROOTS_SOCKET: &str = "/run/run-in-container/daemon.sock";

fn usual_sockets(uid: u32, variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let variable = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(named) = variable("RUN_IN_CONTAINER_SOCKET") {
        return vec![named];
    }
    if uid == 0 {
        return vec![PathBuf::from(ROOTS_SOCKET)];
    }
    let below = |runtime: PathBuf| runtime.join("run-in-container/daemon.sock");
    let named = variable("XDG_RUNTIME_DIR").map(below);
    named.into_iter().chain([below(PathBuf::from(format!("/run/user/{uid}")))]).collect()
}

/// Whether a store has been made in `root`: an OCI layout has this file (image-spec v1.1,
/// "oci-layout file").
pub(crate) fn is_store(root: &Path) -> bool {
    root.join("oci-layout").is_file()
}

fn usual_root(data_home: Option<OsString>, home: Option<OsString>) -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    let path = |text: Option<OsString>| text.map(PathBuf::from);
    let (data_home, home) = (path(data_home), path(home));
    default_root(uid, data_home.as_deref(), home.as_deref(), |place| {
        is_local_filesystem(place) && is_writable(place)
    })
}

/// Whether `path`, or what of it exists, may be written by this user. `HOME` names someone else's
/// home under setpriv(1) and some batch systems.
fn is_writable(path: &Path) -> bool {
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    existing.is_some_and(|existing| rustix::fs::access(existing, Access::WRITE_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_wins_and_is_absolute() {
        assert_eq!(store_root(Some(Path::new("/a/b"))).unwrap(), PathBuf::from("/a/b"));
        assert!(store_root(Some(Path::new("b"))).unwrap().is_absolute());
    }

    #[test]
    fn credentials_are_where_docker_and_podman_keep_them() {
        let files = |variables: &[(&str, &str)]| {
            let found = |name: &str| variables.iter().find(|(key, _)| *key == name);
            usual_credentials(7, |name| found(name).map(|(_, value)| value.into()))
        };
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        let of_home = [
            "/run/containers/7/auth.json",
            "/h/.config/containers/auth.json",
            "/h/.docker/config.json",
        ];
        assert_eq!(files(&[("HOME", "/h"), ("DOCKER_CONFIG", "")]), paths(&of_home));
        let all = [
            ("HOME", "/h"),
            ("XDG_RUNTIME_DIR", "/r"),
            ("XDG_CONFIG_HOME", "/c"),
            ("DOCKER_CONFIG", "/d"),
        ];
        let of_all = ["/r/containers/auth.json", "/c/containers/auth.json", "/d/config.json"];
        assert_eq!(files(&all), paths(&of_all));
        assert_eq!(files(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/f")]), paths(&["/f"]));
        assert_eq!(files(&[]), paths(&["/run/containers/7/auth.json"]));
    }

    #[test]
    fn docker_is_where_docker_host_says_or_where_it_usually_is() {
        let docker = |uid, variables: &[(&str, &str)]| {
            let found = |name: &str| variables.iter().find(|(key, _)| *key == name);
            usual_docker(uid, |name| found(name).map(|(_, value)| value.into()))
        };
        let podman = |docker: &LocalDocker| docker.sockets[1].to_string_lossy().into_owned();
        let named = docker(7, &[("DOCKER_HOST", "unix:///d.sock"), ("TMPDIR", "/t")]);
        assert_eq!(named.host.as_deref(), Some("unix:///d.sock"));
        assert_eq!(named.folder, PathBuf::from("/t"));
        assert_eq!(podman(&named), "/run/user/7/podman/podman.sock");
        let usual = docker(7, &[("XDG_RUNTIME_DIR", "/r"), ("DOCKER_HOST", "")]);
        assert_eq!((usual.host.as_deref(), usual.folder), (None, PathBuf::from("/var/tmp")));
        assert_eq!(usual.sockets[0], PathBuf::from("/var/run/docker.sock"));
        assert_eq!(usual.sockets[1], PathBuf::from("/r/podman/podman.sock"));
        assert_eq!(podman(&docker(0, &[])), "/run/podman/podman.sock");
    }

    #[test]
    fn proxies_are_what_the_environment_says_small_letters_first() {
        let proxies = |variables: &[(&str, &str)]| {
            let found = |name: &str| variables.iter().find(|(key, _)| *key == name);
            usual_proxies(|name| found(name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(proxies(&[("HTTPS_PROXY", ""), ("no_proxy", "")]), Proxies::default());
        let all =
            [("https_proxy", "a"), ("HTTPS_PROXY", "b"), ("HTTP_PROXY", "c"), ("NO_PROXY", "d")];
        let expected =
            Proxies { https: Some("a".into()), http: Some("c".into()), except: "d".into() };
        assert_eq!(proxies(&all), expected);
    }

    #[test]
    fn environments_are_the_users_before_the_sites() {
        let folders = |variables: &[(&str, &str)]| {
            let found = |name: &str| variables.iter().find(|(key, _)| *key == name);
            usual_environments(|name| found(name).map(|(_, value)| value.into()))
        };
        let site = PathBuf::from(SITE_ENVIRONMENTS);
        let below = |folder: &str| Path::new(folder).join("run-in-container/environments");
        assert_eq!(folders(&[("HOME", "/h")]), [below("/h/.config"), site.clone()]);
        let both = [("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")];
        assert_eq!(folders(&both), [below("/c"), site.clone()]);
        let relative = [("HOME", "/h"), ("XDG_CONFIG_HOME", "c")];
        assert_eq!(folders(&relative), [below("/h/.config"), site.clone()]);
        assert_eq!(folders(&[]), [site]);
    }

    #[test]
    fn submitted_tasks_are_in_the_users_state_directory() {
        let place = |uid, variables: &[(&str, &str)]| {
            let found = |name: &str| variables.iter().find(|(key, _)| *key == name);
            usual_task_state(uid, |name| found(name).map(|(_, value)| value.into()), |_| true)
        };
        let below = |folder: &str| Path::new(folder).join("run-in-container/tasks");
        assert_eq!(place(0, &[("HOME", "/root")]), below("/var/lib"));
        assert_eq!(place(7, &[("HOME", "/h")]), below("/h/.local/state"));
        assert_eq!(place(7, &[("HOME", "/h"), ("XDG_STATE_HOME", "/s")]), below("/s"));
        assert_eq!(place(7, &[]), PathBuf::from("/var/tmp/run-in-container-7/tasks"));
        let shared = usual_task_state(7, |_| Some("/nfs".into()), |_| false);
        assert_eq!(shared, PathBuf::from("/var/tmp/run-in-container-7/tasks"));
    }

    /// `/proc` cannot be written by anybody, root included.
    #[test]
    fn a_home_that_cannot_be_written_is_not_used() {
        assert!(!is_writable(Path::new("/proc/self/nothing")));
        assert!(is_writable(Path::new("/dev/null")));
    }
}
