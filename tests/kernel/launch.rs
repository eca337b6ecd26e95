//! Runs the program under test as a person, with a home, a store and a cgroup of that test's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libtest_mimic::Failed;
use rustix::process::Pid;
use serde_json::Value;

use crate::cgroups::TestCgroup;
use crate::commands::{Answer, Command, Input, Running};
use crate::daemon::Daemon;
use crate::docker::PYTHON_IMAGE;
use crate::person::Person;
use crate::world::{World, become_person};

/// Directories in which programs are looked for, by the program under test and in sandboxes.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Whose cgroup a command line under test runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cgroup {
    /// The test's own, where root can make it; the person cannot change it.
    Plain,
    /// The test's own, delegated to the person.
    Delegated,
}

/// Which engine starts the sandboxes of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// The embedded one, for which command lines need no flag.
    Embedded,
    /// The Docker of this run, with an image in place of `host:` that has busybox and Python.
    Docker,
}

/// One case, tried by one person.
#[derive(Debug)]
pub(crate) struct Stage {
    /// What all cases share.
    pub(crate) world: Arc<World>,
    /// Who runs the program.
    pub(crate) person: Person,
    /// A directory of the person's own.
    pub(crate) home: PathBuf,
    /// The cgroup in which it runs; `None` where none can be made.
    pub(crate) cgroup: Option<TestCgroup>,
    /// What starts sandboxes.
    engine: Engine,
}

impl Stage {
    /// Makes home and cgroup.
    pub(crate) fn new(world: &Arc<World>, person: Person, kind: Cgroup) -> Result<Stage, Failed> {
        let home = world.make_directory(person)?;
        for name in ["tmp", "run", "store"] {
            fs::create_dir(home.join(name))?;
            fs::set_permissions(home.join(name), fs::Permissions::from_mode(0o700))?;
            world.give(&home.join(name), person)?;
        }
        let owner = (kind == Cgroup::Delegated).then(|| person.ids());
        let is_root = rustix::process::geteuid().is_root();
        let cgroup =
            if is_root { world.cgroups.make(&world.fresh_name(), owner).ok() } else { None };
        let engine = Engine::Embedded;
        Ok(Stage { world: Arc::clone(world), person, home, cgroup, engine })
    }

    /// Has another engine start its sandboxes.
    pub(crate) fn on(mut self, engine: Engine) -> Result<Stage, Failed> {
        if engine == Engine::Docker {
            self.world.docker()?.python_image(&self.world)?;
        }
        self.engine = engine;
        Ok(self)
    }

    /// The store that this test's command lines use.
    pub(crate) fn store(&self) -> PathBuf {
        match self.engine {
            Engine::Embedded => self.home.join("store"),
            // The image is large: one store for all cases of a person.
            Engine::Docker => self.world.base.join(format!("docker-store-{}", self.person.name())),
        }
    }

    /// A command line of the program under test: the verb, then its arguments.
    pub(crate) fn cli<S: AsRef<str>>(&self, words: &[S]) -> Cli<'_> {
        Cli {
            stage: self,
            words: words.iter().map(|word| word.as_ref().to_owned()).collect(),
            site_policy: None,
            groups: Vec::new(),
            variables: Vec::new(),
            wrapper: Vec::new(),
            input: Input::Null,
            storeless: false,
            beside: None,
        }
    }

    /// The same, with no store of its own.
    pub(crate) fn cli_alone<S: AsRef<str>>(&self, words: &[S]) -> Cli<'_> {
        Cli { storeless: true, ..self.cli(words) }
    }

    /// Writes a file that belongs to the person and returns its path.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Result<String, Failed> {
        let path = self.home.join(name);
        fs::write(&path, content)?;
        self.world.give(&path, self.person)?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Makes a directory that belongs to the person and returns its path.
    pub(crate) fn directory(&self, name: &str) -> Result<String, Failed> {
        let path = self.home.join(name);
        fs::create_dir_all(&path)?;
        self.world.give(&path, self.person)?;
        Ok(path.to_string_lossy().into_owned())
    }
}

/// A command line to be run.
#[derive(Debug)]
pub(crate) struct Cli<'a> {
    stage: &'a Stage,
    words: Vec<String>,
    site_policy: Option<PathBuf>,
    groups: Vec<u32>,
    variables: Vec<String>,
    wrapper: Vec<String>,
    input: Input,
    /// Whether the store is somebody else's matter: a daemon's.
    storeless: bool,
    /// The process in whose mount namespace it runs.
    beside: Option<Pid>,
}

/// How a command line of the program under test ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Exit code and output.
    pub(crate) answer: Answer,
    /// The object that `--json` printed; null without it.
    pub(crate) outcome: Value,
}

impl Cli<'_> {
    /// Runs it on a machine whose site policy is this. Needs root to make it.
    pub(crate) fn site_policy(mut self, yaml: &str) -> Result<Self, Failed> {
        let folder = self.stage.world.make_directory(Person::Root)?;
        fs::create_dir(folder.join("run-in-container"))?;
        fs::write(folder.join("run-in-container/policy.yaml"), yaml)?;
        self.site_policy = Some(folder);
        Ok(self)
    }

    /// Runs it where a daemon is that has a site policy: else the paths that it opens would mean
    /// nothing there. Needs root.
    pub(crate) fn beside(mut self, daemon: &Daemon<'_>) -> Self {
        self.beside = Some(daemon.pid());
        self
    }

    /// Gives the person these supplementary groups.
    pub(crate) fn groups(mut self, groups: &[u32]) -> Self {
        self.groups = groups.to_vec();
        self
    }

    /// Sets a variable in the program's own environment.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push(format!("{name}={value}"));
        self
    }

    /// Lets another program start it: `words` stand before it on the command line.
    pub(crate) fn started_by<S: AsRef<str>>(mut self, words: &[S]) -> Self {
        self.wrapper = words.iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    /// Gives it something on standard input.
    pub(crate) fn input(mut self, input: Input) -> Self {
        self.input = input;
        self
    }

    /// The whole command: into the cgroup, to the site policy, to the person, to the program. Each
    /// step replaces its process by the next, so that the process started is the program itself.
    fn command(&self) -> Command {
        let stage = self.stage;
        let mut all: Vec<String> = Vec::new();
        if let Some(cgroup) = &stage.cgroup {
            let joins: Vec<String> = cgroup.joins().iter().map(|p| shell_word(p)).collect();
            let script = format!(
                "for join in {}; do echo 0 >$join || exit 99; done; exec \"$@\"",
                joins.join(" ")
            );
            all.extend(["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()]);
        }
        if let Some(pid) = self.beside {
            let namespace = format!("--mount=/proc/{}/ns/mnt", pid.as_raw_nonzero());
            all.extend(["nsenter".to_owned(), namespace]);
        }
        if let Some(folder) = &self.site_policy {
            let script = format!(
                "mount -t overlay -o lowerdir={}:/etc overlay /etc && exec \"$@\"",
                folder.display()
            );
            all.extend(["unshare", "--mount", "sh", "-c"].map(str::to_owned));
            all.extend([script, "sh".to_owned()]);
        }
        all.extend(become_person(stage.person, &self.groups));
        let home = stage.home.display();
        all.extend(["env".to_owned(), "-i".to_owned(), format!("PATH={PATH}")]);
        all.extend([format!("HOME={home}"), format!("TMPDIR={home}/tmp")]);
        all.push(format!("XDG_RUNTIME_DIR={home}/run"));
        if let (Engine::Docker, Ok(docker)) = (stage.engine, stage.world.docker()) {
            all.push(format!("DOCKER_HOST={}", docker.host()));
        }
        all.extend(self.variables.iter().cloned());
        all.extend(self.wrapper.iter().cloned());
        all.push(stage.world.binary.to_string_lossy().into_owned());
        all.extend(self.words.iter().take(1).cloned());
        if !self.storeless && takes_store(&self.words) {
            all.extend(["--store".to_owned(), stage.store().to_string_lossy().into_owned()]);
        }
        let verb = self.words.first().map_or("", String::as_str);
        if verb == "serve" && !self.words.iter().any(|word| word == "--state") {
            let state = stage.home.join("tasks").to_string_lossy().into_owned();
            all.extend(["--state".to_owned(), state]);
        }
        if stage.engine == Engine::Docker && names_no_image(&self.words) {
            all.extend(["--engine", "docker", "--image", PYTHON_IMAGE].map(str::to_owned));
        }
        all.extend(self.words.iter().skip(1).cloned());
        Command::new(&all).input(self.input.clone())
    }

    /// Starts it.
    pub(crate) fn start(self) -> Result<Running, Failed> {
        self.command().start()
    }

    /// Runs it to its end.
    pub(crate) fn output(self) -> Result<Ran, Failed> {
        let answer = self.command().output()?;
        let flags = self.words.iter().take_while(|word| *word != "--");
        let outcome = if flags.clone().any(|word| word == "--json") {
            serde_json::from_str(&answer.stdout)
                .map_err(|error| format!("--json printed no JSON: {error}\n{}", answer.told()))?
        } else {
            Value::Null
        };
        Ok(Ran { answer, outcome })
    }
}

/// Whether sandboxes of these words would be of `host:`.
fn names_no_image(words: &[String]) -> bool {
    let verb = words.first().map_or("", String::as_str);
    let mut flags = words.iter().take_while(|word| *word != "--");
    matches!(verb, "run" | "call" | "plan") && !flags.any(|word| word == "--image")
}

/// Verbs that know a store.
fn takes_store(words: &[String]) -> bool {
    let verb = words.first().map_or("", String::as_str);
    let is_asked = words.iter().take_while(|word| *word != "--").any(|word| word == "--store");
    !is_asked && matches!(verb, "run" | "call" | "plan" | "serve")
}

fn shell_word(path: &Path) -> String {
    format!("'{}'", path.display())
}

impl Ran {
    /// Fails unless the exit code is this one.
    pub(crate) fn expect_code(self, code: i32) -> Result<Ran, Failed> {
        if self.answer.code == Some(code) {
            return Ok(self);
        }
        Err(format!("expected exit code {code}, got {}", self.answer.told()).into())
    }

    /// Fails unless the outcome's status is this one.
    pub(crate) fn expect_status(self, status: &str) -> Result<Ran, Failed> {
        if self.outcome["status"] == status {
            return Ok(self);
        }
        Err(format!("expected status {status}, got {}\n{}", self.outcome, self.answer.stderr)
            .into())
    }
}

/// Fails with a formatted message unless a condition holds.
macro_rules! claim {
    ($condition:expr, $($message:tt)+) => {
        let holds: bool = $condition;
        if !holds {
            return Err(libtest_mimic::Failed::from(format!($($message)+)));
        }
    };
}
pub(crate) use claim;
