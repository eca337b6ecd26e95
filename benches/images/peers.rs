//! Docker, Podman and Apptainer, each with a state of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Done;
use crate::site::{Site, run, timed};

/// Longest that a daemon may take to be there.
const READY_TRIES: u32 = 100;

/// A Docker daemon of this run. Dropping it ends it.
pub(crate) struct Docker {
    socket: String,
    image: String,
    daemon: Child,
}

impl Docker {
    pub(crate) fn start(site: &Site) -> Done<Docker> {
        let base = site.path("docker");
        fs::create_dir(&base)?;
        let at = |name: &str| base.join(name).display().to_string();
        let socket = format!("unix://{}", at("socket"));
        let log = fs::File::create(base.join("log"))?;
        #[expect(clippy::disallowed_methods, reason = "ended when this is dropped")]
        let daemon = Command::new("dockerd")
            .args(["--host", &socket, "--data-root", &at("data"), "--exec-root", &at("run")])
            .args(["--pidfile", &at("pid"), "--iptables=false", "--bridge=none"])
            .args(["--insecure-registry", site.registry()])
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let docker = Docker { socket, image: site.name(), daemon };
        for _ in 0..READY_TRIES {
            if run(&mut docker.line(&["version"])).is_ok() {
                return Ok(docker);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err("the daemon did not begin to answer".into())
    }

    fn line(&self, words: &[&str]) -> Command {
        let mut line = Command::new("docker");
        line.args(["--host", &self.socket]).args(words);
        line
    }

    /// An image that it does not have.
    pub(crate) fn pull(&self) -> Done<Duration> {
        // The first time there is nothing to remove.
        let _ = run(&mut self.line(&["rmi", "--force", &self.image]));
        rustix::fs::sync();
        timed(&mut self.line(&["pull", "--quiet", &self.image]))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // By a signal that lets it end what it has started.
        if let Some(pid) =
            i32::try_from(self.daemon.id()).ok().and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.daemon.wait();
    }
}

/// Podman with a store of this run.
pub(crate) struct Podman {
    base: PathBuf,
    image: String,
}

impl Podman {
    pub(crate) fn find(site: &Site) -> Done<Podman> {
        run(Command::new("podman").arg("--version"))?;
        Ok(Podman { base: site.path("podman"), image: site.name() })
    }

    fn line(&self, words: &[&str]) -> Command {
        let mut line = Command::new("podman");
        line.arg("--root").arg(self.base.join("root")).arg("--runroot").arg(self.base.join("run"));
        line.args(["--storage-driver", "overlay"]).args(words);
        line
    }

    /// An image that it does not have.
    pub(crate) fn pull(&self) -> Done<Duration> {
        // The first time there is nothing to remove.
        let _ = run(&mut self.line(&["rmi", "--force", &self.image]));
        rustix::fs::sync();
        timed(&mut self.line(&["pull", "--quiet", "--tls-verify=false", &self.image]))
    }
}

/// The real Apptainer, where `tests/peers/apptainer` has put it.
pub(crate) struct Apptainer {
    folder: PathBuf,
}

impl Apptainer {
    pub(crate) fn find(site: &Site) -> Done<Apptainer> {
        let folder = site.path("apptainer");
        fs::create_dir(&folder)?;
        run(Command::new("skopeo")
            .args(["copy", "--quiet", &format!("oci:{}:latest", site.layout().display())])
            .arg(format!("oci-archive:{}", folder.join("image.tar").display())))?;
        run(Command::new("chown").args(["-R", UID]).arg(&folder))?;
        let apptainer = Apptainer { folder };
        apptainer.inside("apptainer --version")?;
        Ok(apptainer)
    }

    /// Runs shell code there; what it printed.
    fn inside(&self, code: &str) -> Done<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/apptainer");
        run(Command::new(script)
            .args(["run", UID])
            .arg(&self.folder)
            .args(["bash", "-c", code])
            .stdin(Stdio::null()))
    }

    /// How long a command takes, without what it takes to get there.
    fn timed(&self, words: &str) -> Done<Duration> {
        let code = format!(
            "start=${{EPOCHREALTIME/./}}; {words} >/dev/null 2>&1 || exit; \
             echo $((${{EPOCHREALTIME/./}} - start))"
        );
        Ok(Duration::from_micros(self.inside(&code)?.trim().parse()?))
    }

    pub(crate) fn build(&self) -> Done<Duration> {
        self.timed("apptainer build --force image.sif oci-archive:image.tar")
    }

    /// What it has built.
    pub(crate) fn sif(&self) -> PathBuf {
        self.folder.join("image.sif")
    }

    pub(crate) fn exec(&self) -> Done<Duration> {
        self.timed("apptainer exec image.sif /bin/true")
    }
}

/// Whom Apptainer runs as.
const UID: &str = "65533";
