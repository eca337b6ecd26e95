//! Cgroups made for tests: each command line under test runs in its own, so that what it leaves
//! behind, cgroups and processes, is found there and nowhere else.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use rustix::process::{Pid, Signal, kill_process};

use crate::person::Ids;
use crate::world::World;

/// Controllers that a sandbox's limits need, by their version 1 names.
const CONTROLLERS: &[&str] = &["memory", "pids", "cpu", "devices", "freezer"];
/// The same on version 2, where devices and the freezer are no controllers.
const CONTROLLERS_V2: &[&str] = &["memory", "pids", "cpu"];

/// Where this process is in each hierarchy.
#[derive(Debug)]
pub(crate) struct Cgroups {
    /// Version 1: the directory of this process by controller.
    own: BTreeMap<String, PathBuf>,
    /// Version 2: the directory of this process, if the controllers are there.
    unified: Option<PathBuf>,
}

impl Cgroups {
    /// Reads `/proc/self/mountinfo` and `/proc/self/cgroup` (cgroups(7)).
    pub(crate) fn read() -> Result<Cgroups, Failed> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let membership = fs::read_to_string("/proc/self/cgroup")?;
        let mut found = Cgroups { own: BTreeMap::new(), unified: None };
        for line in mounts.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (left, right): (Vec<&str>, Vec<&str>) =
                (left.split(' ').collect(), right.split(' ').collect());
            let (Some(root), Some(target), Some(kind), Some(options)) =
                (left.get(3), left.get(4), right.first(), right.get(2))
            else {
                continue;
            };
            let place = |controller: &str| {
                let path = path_in(&membership, controller)?;
                let below = path.strip_prefix(root).unwrap_or(path).trim_start_matches('/');
                Some(Path::new(target).join(below))
            };
            match *kind {
                "cgroup" => {
                    for controller in options.split(',').filter(|o| CONTROLLERS.contains(o)) {
                        found.own.extend(place(controller).map(|p| (controller.to_owned(), p)));
                    }
                }
                "cgroup2" => {
                    found.unified = place("").filter(|path| {
                        let names = fs::read_to_string(path.join("cgroup.controllers"));
                        names.is_ok_and(|names| names.split_whitespace().any(|n| n == "memory"))
                    });
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// Whether a controller is on version 2; `None` if it is nowhere.
    pub(crate) fn unified(&self, controller: &str) -> Option<bool> {
        if self.own.contains_key(controller) {
            return Some(false);
        }
        self.unified.as_ref().map(|_| true)
    }

    /// Whether a limit can be set: makes a cgroup, sets one, removes it.
    pub(crate) fn try_limit(&self, controller: &str, world: &World) -> Result<(), String> {
        let made = self.make(&world.fresh_name(), None).map_err(|f| crate::needs::reason(&f))?;
        let (file, value) = match (controller, self.unified(controller)) {
            ("memory", Some(true)) => ("memory.max", "67108864"),
            ("memory", _) => ("memory.limit_in_bytes", "67108864"),
            (_, _) => ("pids.max", "64"),
        };
        let folder = made.folder(controller).ok_or(format!("no {controller} controller"))?;
        fs::write(folder.join(file), value).map_err(|e| format!("{}/{file}: {e}", folder.display()))
    }

    /// Makes a cgroup in each hierarchy; `owner` gets it delegated (cgroup-v2.rst, "Delegation").
    pub(crate) fn make(&self, name: &str, owner: Option<Ids>) -> Result<TestCgroup, Failed> {
        let mut made = TestCgroup { folders: BTreeMap::new(), joins: Vec::new() };
        for (controller, own) in &self.own {
            let folder = own.join(name);
            made_directory(&folder)?;
            delegate(&folder, &["tasks", "cgroup.procs"], owner)?;
            made.joins.push(folder.join("tasks"));
            made.folders.insert(controller.clone(), folder);
        }
        if let Some(own) = &self.unified {
            let enable: Vec<String> =
                CONTROLLERS_V2.iter().map(|name| format!("+{name}")).collect();
            let control = own.join("cgroup.subtree_control");
            fs::write(&control, enable.join(" "))
                .map_err(|error| format!("cannot write {}: {error}", control.display()))?;
            let folder = own.join(name);
            made_directory(&folder)?;
            delegate(
                &folder,
                &["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"],
                owner,
            )?;
            // A cgroup with processes cannot limit children, so the caller is one level down.
            let caller = folder.join(CALLER);
            made_directory(&caller)?;
            delegate(&caller, &["cgroup.procs", "cgroup.threads"], owner)?;
            made.joins.push(caller.join("cgroup.procs"));
            made.folders.insert(String::new(), folder);
        }
        Ok(made)
    }
}

/// On version 2, the cgroup below a test's own in which the command line under test runs.
const CALLER: &str = "caller";

fn made_directory(path: &Path) -> Result<(), Failed> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(format!("cannot make {}: {error}", path.display()).into())
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn delegate(folder: &Path, files: &[&str], owner: Option<Ids>) -> Result<(), Failed> {
    let Some(Ids { uid, gid }) = owner else { return Ok(()) };
    chown(folder, Some(uid), Some(gid))?;
    for file in files {
        chown(folder.join(file), Some(uid), Some(gid))?;
    }
    Ok(())
}

fn path_in<'a>(membership: &'a str, controller: &str) -> Option<&'a str> {
    membership.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?);
        names.split(',').any(|name| name == controller).then_some(path)
    })
}

/// One test's cgroup in each hierarchy. Removed, with what is still in it, when this is dropped.
#[derive(Debug)]
pub(crate) struct TestCgroup {
    folders: BTreeMap<String, PathBuf>,
    joins: Vec<PathBuf>,
}

impl TestCgroup {
    /// Files into which a process writes `0` to be in this cgroup.
    pub(crate) fn joins(&self) -> &[PathBuf] {
        &self.joins
    }

    /// Its directory for a controller.
    pub(crate) fn folder(&self, controller: &str) -> Option<&PathBuf> {
        self.folders.get(controller).or_else(|| self.folders.get(""))
    }

    /// Cgroups made below it, and processes in it or them.
    pub(crate) fn contents(&self) -> Contents {
        let mut contents = Contents::default();
        for folder in self.folders.values() {
            collect(folder, &mut contents);
        }
        contents.cgroups.retain(|path| path.file_name().is_none_or(|name| name != CALLER));
        contents.processes.sort_unstable();
        contents.processes.dedup();
        contents
    }
}

/// What is below a cgroup.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Directories, deepest first.
    pub(crate) cgroups: Vec<PathBuf>,
    /// Process ids.
    pub(crate) processes: Vec<i32>,
}

fn collect(folder: &Path, contents: &mut Contents) {
    let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    contents.processes.extend(processes.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), contents);
            contents.cgroups.push(entry.path());
        }
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        // What is killed here is in its cgroup until it has ended, which takes a moment.
        let since = Instant::now();
        while self.remove().is_err() && since.elapsed() < REMOVED_MAX {
            std::thread::sleep(LOOK);
        }
    }
}

/// How long the last processes of a test may take to end once they are killed.
const REMOVED_MAX: Duration = Duration::from_secs(10);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(5);

impl TestCgroup {
    /// Ends whatever is in here, all of it started by the test that this cgroup was made for.
    fn remove(&self) -> io::Result<()> {
        for process in self.contents().processes {
            if let Some(pid) = Pid::from_raw(process) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        for folder in self.folders.values().filter(|folder| folder.exists()) {
            let mut inside = Contents::default();
            collect(folder, &mut inside);
            for path in inside.cgroups.iter().chain([folder]) {
                fs::remove_dir(path)?;
            }
        }
        Ok(())
    }
}
