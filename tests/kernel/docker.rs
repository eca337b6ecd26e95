//! A Docker engine of the harness's own: a private `dockerd`, started at the first question and
//! ended with the run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use libtest_mimic::Failed;
use rustix::process::Signal;

use crate::commands::{Command, Running};
use crate::images::fill_python_root;
use crate::needs::{find_program, reason};
use crate::person::Person;
use crate::world::World;

/// What a daemon says when it can be asked.
const READY: &str = "API listen on";

/// How long it may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running daemon.
#[derive(Debug)]
pub(crate) struct DockerDaemon {
    daemon: Mutex<Running>,
    folder: PathBuf,
    python: OnceLock<Result<(), String>>,
}

/// The image that has what `host:` would have for tests: busybox and the machine's Python.
pub(crate) const PYTHON_IMAGE: &str = "docker-daemon:python-of-this-machine:1";

impl DockerDaemon {
    /// Starts one in `folder` and waits until it answers. It makes no network and no firewall rule.
    pub(crate) fn start(folder: &Path) -> Result<DockerDaemon, Failed> {
        let program = find_program("dockerd").ok_or("there is no dockerd")?;
        find_program("docker").ok_or("there is no docker")?;
        fs::create_dir(folder)?;
        let at = |name: &str| folder.join(name).to_string_lossy().into_owned();
        let script = "exec \"$0\" --debug --iptables=false --bridge=none -H \"unix://$1\" \
             -H \"unix://$2\" --data-root \"$3\" --exec-root \"$4\" --pidfile \"$5\" 2>&1 | \
             tee \"$6\"";
        let program = program.to_string_lossy().into_owned();
        let words = ["sh", "-c", script, &program, &at("open.sock"), &at("closed.sock")];
        let places = [at("data"), at("run"), at("pid"), at("log")];
        let words: Vec<&str> = words.into_iter().chain(places.iter().map(String::as_str)).collect();
        let mut daemon = Command::new(&words).start()?;
        daemon.wait_for_output(READY)?;
        let open = folder.join("open.sock");
        // The line comes once a socket; both are there before the first.
        fs::set_permissions(&open, fs::Permissions::from_mode(0o666))?;
        fs::set_permissions(folder.join("closed.sock"), fs::Permissions::from_mode(0o600))?;
        let daemon = DockerDaemon {
            daemon: Mutex::new(daemon),
            folder: folder.to_owned(),
            python: OnceLock::new(),
        };
        daemon.docker(&["version"])?;
        Ok(daemon)
    }

    /// `DOCKER_HOST` of the socket that everybody may use.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.folder.join("open.sock").display())
    }

    /// `DOCKER_HOST` of the socket that root alone may use.
    pub(crate) fn closed_host(&self) -> String {
        format!("unix://{}", self.folder.join("closed.sock").display())
    }

    /// What `docker` says to these words.
    pub(crate) fn docker(&self, words: &[&str]) -> Result<String, Failed> {
        let host = self.host();
        let words = [&["docker", "-H", &host], words].concat();
        let answer = Command::new(&words).output()?;
        if answer.code == Some(0) { Ok(answer.stdout) } else { Err(answer.told().into()) }
    }

    /// Makes an image of the files in `root` and returns its ID.
    pub(crate) fn import(
        &self,
        root: &Path,
        name: &str,
        options: &[&str],
    ) -> Result<String, Failed> {
        let from = root.to_string_lossy().into_owned();
        let archive = root.with_extension("tar").to_string_lossy().into_owned();
        let packed = Command::new(&["tar", "-C", &from, "-cf", &archive, "."]).output()?;
        if packed.code != Some(0) {
            return Err(packed.told().into());
        }
        let words = [&["import"], options, &[&archive, name]].concat();
        Ok(self.docker(&words)?.trim().to_owned())
    }

    /// Makes [`PYTHON_IMAGE`], and a store for each person who uses it; once.
    pub(crate) fn python_image(&self, world: &World) -> Result<(), Failed> {
        let make = || -> Result<(), Failed> {
            let root = self.folder.join("python-root");
            fill_python_root(&root)?;
            let name = PYTHON_IMAGE.trim_start_matches("docker-daemon:");
            self.import(&root, name, &[])?;
            for person in [Person::Root, Person::Rootless] {
                let store = world.base.join(format!("docker-store-{}", person.name()));
                fs::create_dir(&store)?;
                world.give(&store, person)?;
            }
            Ok(())
        };
        let made = self.python.get_or_init(|| make().map_err(|failed| reason(&failed)));
        Ok(made.clone()?)
    }

    /// How often the daemon was asked for `asked`, as `POST /containers/create`.
    pub(crate) fn asked(&self, method: &str, asked: &str) -> Result<usize, Failed> {
        let log = fs::read_to_string(self.folder.join("log"))?;
        let calls = format!("Calling {method}");
        Ok(log.lines().filter(|line| line.contains(&calls) && line.contains(asked)).count())
    }

    /// How often the daemon was asked for the files of the image `id`.
    pub(crate) fn exports(&self, id: &str) -> Result<usize, Failed> {
        self.asked("GET", &format!("/images/{id}/get"))
    }

    /// Ends it. Its own containerd ends with it.
    pub(crate) fn end(&self) {
        let pid = fs::read_to_string(self.folder.join("pid")).unwrap_or_default();
        let pid = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
            let daemon = self.daemon.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = daemon.ends_within(PATIENCE);
        }
    }
}
