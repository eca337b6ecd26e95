//! The packages of an environment as a recipe: a layer of Debian's, then one of Python's.
//!
//! What is not locked yet is resolved by steps of which nothing is kept but a report. So a build is
//! up to three recipes, each with what the one before has found; their layers are the same, so
//! that none is made twice. Pure, as every recipe.

use std::io::Read;
use std::path::Path;

use super::lock::{Installer, LockedPackage};
use super::{Environment, Lock, Package};
use crate::recipe::{Act, Base, Change, PATH, Recipe, Run, RunFile, SCRIPTS, Stage, Step};
use crate::{Config, RecipeError, Reference};

/// Where Python packages are: a virtual environment that sees the packages of the image, so that
/// nothing of the image's own is changed and no distribution's rules are broken (PEP 668).
pub const PREFIX: &str = "/opt/environment";

/// What a step that resolves writes: a package and its hash, one a line.
const REPORT: &str = "/run-in-container-report";

/// No time in a layer is later: the first that zip files, and so wheels, can hold.
const LATEST_MTIME_S: i64 = 315_532_800;

const PYTHON_SCRIPT: &str = include_str!("scripts/python.py");
const APT_SCRIPT: &str = include_str!("scripts/apt.sh");

/// What may be there of an earlier use, or differs from run to run, and belongs to no package.
const LEFT_OUT: [&str; 19] = [
    "/tmp",
    "/var/tmp",
    "/run",
    "/root",
    REPORT,
    "/var/log",
    "/var/cache/apt",
    "/var/lib/apt/lists",
    "/var/cache/ldconfig",
    "/var/cache/debconf/config.dat-old",
    "/var/cache/debconf/templates.dat-old",
    "/var/lib/dpkg/status-old",
    "/var/lib/dpkg/diversions-old",
    "/var/lib/dpkg/statoverride-old",
    "/var/lib/dpkg/lock",
    "/etc/passwd-",
    "/etc/group-",
    "/etc/shadow-",
    "/etc/gshadow-",
];

/// All that a step which resolves may have changed: only its report is wanted.
const ALL_BUT_REPORT: [&str; 9] =
    ["/tmp", "/var", "/run", "/root", "/opt", "/etc", "/usr", "/home", "/bin"];

/// One step of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackageStep {
    /// Finds out what the Debian packages come to.
    ResolveApt,
    /// Installs them.
    Apt(Vec<LockedPackage>),
    /// Finds out what the Python packages come to.
    ResolvePython,
    /// Installs them.
    Python(Vec<LockedPackage>),
    /// Declares variables and the working directory.
    Declare,
}

/// Packages to be added to an image.
#[derive(Debug)]
pub struct Packages<'a> {
    /// The environment file.
    file: String,
    environment: &'a Environment,
    stages: [Stage; 1],
    parts: Vec<PackageStep>,
}

impl<'a> Packages<'a> {
    /// Builds `parts` upon `base`; `file` is the environment file, for messages.
    #[must_use]
    pub fn new(
        file: String,
        environment: &'a Environment,
        base: Reference,
        parts: Vec<PackageStep>,
    ) -> Packages<'a> {
        let stage = Stage { name: None, base: Base::Image(base), line: 1, needs: Vec::new() };
        Packages { file, environment, stages: [stage], parts }
    }

    /// What becomes of an environment that is locked.
    #[must_use]
    pub fn locked(lock: &Lock) -> Vec<PackageStep> {
        let mut parts = Vec::new();
        if !lock.apt.packages.is_empty() {
            parts.push(PackageStep::Apt(lock.apt.packages.clone()));
        }
        if !lock.python.asked.is_empty() {
            parts.push(PackageStep::Python(lock.python.packages.clone()));
        }
        parts.push(PackageStep::Declare);
        parts
    }

    /// What a step that resolves has found out, from the tar of what it has left; `None` if that is
    /// not what such a step leaves.
    #[must_use]
    pub fn read_report(part: &PackageStep, tar: &[u8]) -> Option<Vec<LockedPackage>> {
        let mut archive = tar::Archive::new(tar);
        let report = archive.entries().ok()?.find_map(|entry| {
            let mut entry = entry.ok()?;
            let is_it = entry.path().is_ok_and(|path| path == Path::new(&REPORT[1..]));
            let mut text = String::new();
            (is_it && entry.read_to_string(&mut text).is_ok()).then_some(text)
        })?;
        let read = match part {
            PackageStep::ResolveApt => read_uri,
            PackageStep::ResolvePython => |line: &str| LockedPackage::parse(line, Installer::Pip),
            PackageStep::Apt(_) | PackageStep::Python(_) | PackageStep::Declare => return None,
        };
        report.lines().map(read).collect()
    }

    fn step(&self, part: &PackageStep, base: &Config) -> Step {
        let asked = |packages: &[Package]| -> Vec<String> {
            packages.iter().map(|package| package.asked.clone()).collect()
        };
        let line = |packages: &[Package]| packages.first().map_or(1, |package| package.line);
        let names = |packages: &[Package]| asked(packages).join(" ");
        let (apt, python) = (&self.environment.apt, &self.environment.python);
        let (line, text, act, changes) = match part {
            PackageStep::ResolveApt => {
                let run = self.apt("resolve", asked(apt), Vec::new(), base);
                let act = Act::Test(Box::new(reporting(run)));
                (line(apt), format!("resolve apt: {}", names(apt)), Some(act), Vec::new())
            }
            PackageStep::Apt(locked) => {
                let words = locked.iter().map(|one| one.package.clone()).collect();
                let run = self.apt("install", words, sums(locked), base);
                let act = Act::Run(Box::new(run));
                (line(apt), format!("apt: {}", names(apt)), Some(act), Vec::new())
            }
            PackageStep::ResolvePython => {
                let run = self.python("resolve", asked(python), base);
                let act = Act::Test(Box::new(reporting(run)));
                (line(python), format!("resolve python: {}", names(python)), Some(act), Vec::new())
            }
            PackageStep::Python(locked) => {
                let hashed = |one: &LockedPackage| format!("{} --hash={}", one.package, one.hash);
                let run = self.python("install", locked.iter().map(hashed).collect(), base);
                let act = Act::Run(Box::new(run));
                let path = format!("{PREFIX}/bin:{}", path(base));
                let changes = [("PATH", path), ("VIRTUAL_ENV", PREFIX.to_owned())];
                let changes = changes.map(|(name, value)| Change::Variable(name.into(), value));
                (line(python), format!("python: {}", names(python)), Some(act), changes.into())
            }
            PackageStep::Declare => {
                (1, "variables and working directory".into(), None, self.declared())
            }
        };
        let line = usize::try_from(line).unwrap_or(usize::MAX);
        Step { line, text, act, changes }
    }

    fn declared(&self) -> Vec<Change> {
        let variables = self.environment.variables.iter();
        let variables =
            variables.map(|(name, value)| Change::Variable(name.clone(), value.clone()));
        let workdir = self.environment.workdir.iter();
        let workdir = workdir.map(|path| Change::Workdir(path.to_string_lossy().into_owned()));
        variables.chain(workdir).collect()
    }

    fn apt(&self, verb: &str, words: Vec<String>, files: Vec<RunFile>, base: &Config) -> Run {
        let script = file("apt", APT_SCRIPT.to_owned());
        let mut command = vec!["/bin/sh".into(), script.path.clone(), verb.into(), REPORT.into()];
        command.extend(words);
        let mut run = run(command, base);
        run.files = [vec![script], files].concat();
        run
    }

    fn python(&self, verb: &str, requirements: Vec<String>, base: &Config) -> Run {
        let script = file("packages", PYTHON_SCRIPT.to_owned());
        let lines = requirements.iter().map(|requirement| format!("{requirement}\n"));
        let requirements = file("requirements", lines.collect());
        let python = self.environment.interpreter.clone().unwrap_or_else(|| "python3".to_owned());
        let words = [&script.path, verb, PREFIX, &requirements.path, REPORT];
        let command = [python.as_str(), "-B"].into_iter().chain(words).map(str::to_owned);
        let mut run = run(command.collect(), base);
        run.files = vec![script, requirements];
        run
    }
}

impl Recipe for Packages<'_> {
    fn file(&self) -> &str {
        &self.file
    }

    fn stages(&self) -> &[Stage] {
        &self.stages
    }

    fn target(&self) -> usize {
        0
    }

    fn steps(&self, _stage: usize, base: &Config) -> Result<Vec<Step>, RecipeError> {
        Ok(self.parts.iter().map(|part| self.step(part, base)).collect())
    }
}

/// A command that leaves the same behind on every machine and day.
fn run(command: Vec<String>, base: &Config) -> Run {
    let mut variables = base.variables.clone();
    let own = [
        ("PATH", path(base)),
        ("HOME", "/tmp".to_owned()),
        ("LC_ALL", "C.UTF-8".to_owned()),
        ("DEBIAN_FRONTEND", "noninteractive".to_owned()),
        // Compiled Python then names its source by hash and not by a time.
        ("SOURCE_DATE_EPOCH", LATEST_MTIME_S.to_string()),
        ("PYTHONHASHSEED", "0".to_owned()),
        ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
    ];
    for (name, value) in own {
        variables.retain(|(known, _)| known != name);
        variables.push((name.to_owned(), value));
    }
    Run {
        command,
        variables,
        workdir: "/".to_owned(),
        left_out: LEFT_OUT.map(str::to_owned).to_vec(),
        latest_mtime_s: Some(LATEST_MTIME_S),
        ..Run::default()
    }
}

fn reporting(run: Run) -> Run {
    Run { left_out: ALL_BUT_REPORT.map(str::to_owned).to_vec(), ..run }
}

/// Where commands of the base are looked up.
fn path(base: &Config) -> String {
    let path = base.variables.iter().find(|(name, _)| name == "PATH");
    path.map_or_else(|| PATH.to_owned(), |(_, path)| path.clone())
}

fn file(name: &str, content: String) -> RunFile {
    RunFile { path: format!("{SCRIPTS}/{name}"), content, mode: 0o444 }
}

/// What `sha256sum --check` and `sha512sum --check` read.
fn sums(locked: &[LockedPackage]) -> Vec<RunFile> {
    let lines = |algorithm: &str| -> String {
        let of_algorithm = locked.iter().filter_map(|one| {
            let digits = one.hash.strip_prefix(algorithm)?.strip_prefix(':')?;
            Some(format!("{digits}  {}\n", file_name(&one.package)))
        });
        of_algorithm.collect()
    };
    ["sha256", "sha512"].map(|algorithm| file(algorithm, lines(algorithm))).into()
}

/// What apt calls the file of `NAME:ARCHITECTURE=VERSION`.
fn file_name(package: &str) -> String {
    let (name, version) = package.split_once('=').unwrap_or((package, ""));
    let (name, architecture) = name.split_once(':').unwrap_or((name, ""));
    format!("{name}_{}_{architecture}.deb", version.replace(':', "%3a"))
}

/// A line of `apt-get --print-uris`: `'URI' FILE BYTES HASH`.
fn read_uri(line: &str) -> Option<LockedPackage> {
    let mut words = line.rsplitn(4, ' ');
    let (hash, _bytes, file) = (words.next()?, words.next()?, words.next()?);
    let (algorithm, digits) = hash.split_once(':')?;
    let mut parts = file.strip_suffix(".deb")?.split('_');
    let (name, version, architecture) = (parts.next()?, parts.next()?, parts.next()?);
    let version = version.replace("%3a", ":").replace("%3A", ":");
    let package = format!("{name}:{architecture}={version}");
    let hash = format!("{}:{digits}", algorithm.to_ascii_lowercase());
    LockedPackage::parse(&format!("{package} {hash}"), Installer::Apt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(hash: char) -> Vec<LockedPackage> {
        let hash = format!("sha256:{}", hash.to_string().repeat(64));
        vec![LockedPackage { package: "libx:amd64=1:2-3".into(), hash }]
    }

    #[test]
    fn reports_are_read_and_nothing_else() {
        let hash = "a".repeat(64);
        let uri =
            format!("'http://h/p/libx_1%3a2-3_amd64.deb' libx_1%3a2-3_amd64.deb 9 SHA256:{hash}");
        let read = |part: &PackageStep, text: &str| {
            let mut tar = tar::Builder::new(Vec::new());
            let mut head = tar::Header::new_gnu();
            head.set_size(text.len() as u64);
            tar.append_data(&mut head, &REPORT[1..], text.as_bytes()).unwrap();
            Packages::read_report(part, &tar.into_inner().unwrap())
        };
        assert_eq!(read(&PackageStep::ResolveApt, &format!("{uri}\n")), Some(packages('a')));
        assert_eq!(read(&PackageStep::ResolveApt, ""), Some(Vec::new()));
        for wrong in ["E: no", "'u' x.deb 9 SHA256:aa", &uri.replace("SHA256", "MD5Sum")] {
            assert_eq!(read(&PackageStep::ResolveApt, wrong), None, "{wrong}");
        }
        let python = format!("numpy==2.1.0 sha256:{hash}\n");
        assert_eq!(read(&PackageStep::ResolvePython, &python).map(|all| all.len()), Some(1));
        assert_eq!(read(&PackageStep::ResolvePython, &format!("{python}-r x\n")), None);
    }

    #[test]
    fn steps_are_the_same_for_the_same_packages() {
        let text = "name: e\nimage: r.example/a\nvariables: {A: b}\napt: [libx]\npython:\n- n\n";
        let environment = Environment::parse(Path::new("e.yaml"), text).unwrap();
        let config = Config { variables: vec![("HOME".into(), "/h".into())], ..Config::default() };
        let steps = |hash| {
            let parts = vec![
                PackageStep::Apt(packages(hash)),
                PackageStep::Python(Vec::new()),
                PackageStep::Declare,
            ];
            let base = environment.image.clone();
            let recipe = Packages::new("e.yaml".into(), &environment, base, parts);
            recipe.steps(0, &config).unwrap()
        };
        assert_eq!(steps('a'), steps('a'));
        let (made, other) = (steps('a'), steps('b'));
        assert_ne!(made[0].act, other[0].act);
        assert_eq!(made[1], other[1]);
        assert_eq!([made[0].line, made[1].line], [4, 6]);
        let Some(Act::Run(run)) = &made[0].act else { panic!("{made:?}") };
        assert_eq!(run.command.last().map(String::as_str), Some("libx:amd64=1:2-3"));
        let sums = format!("{}  libx_1%3a2-3_amd64.deb\n", "a".repeat(64));
        assert_eq!(run.files[1].content, sums);
        assert_eq!(run.variables.iter().filter(|(name, _)| name == "HOME").count(), 1);
        let mut config = config;
        made.iter().flat_map(|step| &step.changes).for_each(|change| change.apply(&mut config));
        assert!(config.variables.contains(&("A".into(), "b".into())));
        let path = format!("{PREFIX}/bin:{PATH}");
        assert!(config.variables.contains(&("PATH".into(), path)), "{config:?}");
    }
}
