//! What a function needs, by name: base image, packages, variables, modules to preload.
//!
//! An environment is what someone who writes functions says in a YAML file. It is a wish, like a
//! flag on the command line: policy decides about each part of it. Pure: text in, value out.

mod keys;
mod lock;
mod packages;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ric_yaml::{Fresh, Kind, Mistake, read};
use serde::{Deserialize, Serialize, Serializer};

use crate::Reference;
use keys::Keys;
pub use keys::{EnvironmentName, EnvironmentNameError};
pub use lock::{Lock, Locked, LockedPackage};
pub use packages::{PREFIX, PackageStep, Packages};

const ENVIRONMENTS: Kind = Kind {
    files: "environment files",
    first_key: "name",
    begins: "an environment begins with `name: NAME`",
};

/// What a function needs, by name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Environment {
    /// Its name, which is the file's without `.yaml`.
    pub name: EnvironmentName,
    /// The base image; `host:` where the file names none. A relative path in it is relative to the
    /// directory of the file.
    #[serde(serialize_with = "image_text")]
    pub image: Reference,
    /// An existing virtual environment or conda prefix, shown at its own path.
    pub prefix: Option<PathBuf>,
    /// Python packages, as pip takes them.
    pub python: Vec<Package>,
    /// Conda packages, as conda takes them.
    pub conda: Vec<Package>,
    /// Debian packages, as apt takes them.
    pub apt: Vec<Package>,
    /// Environment variables, which win over the image's.
    pub variables: BTreeMap<String, String>,
    /// Working directory.
    pub workdir: Option<PathBuf>,
    /// The Python that calls run in: a path inside, or a name that is looked up in `PATH`.
    pub interpreter: Option<String>,
    /// Modules that a worker imports before its first call.
    pub preload: Vec<String>,
    /// What each task gets new, if it matters.
    pub fresh: Option<Fresh>,
    /// Containers that a daemon keeps ready ahead of tasks, where that is not left to demand.
    pub stock: Option<u64>,
    /// Limits that its tasks ask for where they ask for nothing themselves.
    pub limits: LimitWishes,
}

/// A package that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Package {
    /// The package, with versions, as it is written.
    pub asked: String,
    /// Its line in the file, from 1, for messages.
    #[serde(skip)]
    pub line: u64,
}

/// Limits that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitWishes {
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Thousandths of a processor.
    pub cpus_milli: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Wall-clock time.
    pub time: Option<Duration>,
}

impl Environment {
    /// Reads the text of an environment file. `path` is for messages, and its last component has to
    /// be the name with `.yaml`.
    ///
    /// # Errors
    /// [`Mistake`], the first one, if the text is not YAML, has an unknown or a repeated key, a
    /// value that no environment can have, or parts that exclude each other.
    pub fn parse(path: &Path, text: &str) -> Result<Environment, Mistake> {
        let keys: Keys = read(path, text, ENVIRONMENTS)?;
        keys.check(path)
            .map_err(|(line, column, message)| Mistake::at(path, text, line, column, message))?;
        Ok(keys.into_environment())
    }

    /// Whether it has packages that are to be added to its image.
    #[must_use]
    pub fn has_packages(&self) -> bool {
        !(self.python.is_empty() && self.conda.is_empty() && self.apt.is_empty())
    }
}

fn image_text<S: Serializer>(image: &Reference, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Environment, String> {
        Environment::parse(Path::new("e.yaml"), text).map_err(|mistake| mistake.message)
    }

    #[test]
    fn the_least_file_is_the_host_as_it_is() {
        let environment = parse("name: e\n").unwrap();
        assert_eq!(environment.image, Reference::Host);
        assert!(!environment.has_packages());
        assert_eq!(environment.limits, LimitWishes::default());
    }

    #[test]
    fn every_key_is_read() {
        let text = "name: e\nimage: docker://r.example/python:3.12\npython: [numpy==2.1.0, \
                    'dask[array] >= 2024; python_version < \"4\"']\nconda: [conda-forge::gsl=2]\n\
                    apt: [libgomp1, g++, 'libc6:amd64=2.36-9']\nvariables: {OMP_NUM_THREADS: 1}\n\
                    workdir: /data\ninterpreter: python3.12\npreload: [numpy.linalg]\n\
                    fresh: process\nlimits: {memory: 2GiB, cpus: 0.5, pids: 9, time: 1h}\n";
        let environment = parse(text).unwrap();
        assert_eq!(environment.python.len(), 2);
        let asked = |packages: &[Package]| {
            packages.iter().map(|package| package.asked.clone()).collect::<Vec<_>>()
        };
        assert_eq!(asked(&environment.conda), ["conda-forge::gsl=2"]);
        assert_eq!(asked(&environment.apt), ["libgomp1", "g++", "libc6:amd64=2.36-9"]);
        assert_eq!(environment.python[1].line, 3);
        assert_eq!(environment.variables["OMP_NUM_THREADS"], "1");
        assert_eq!(environment.workdir.as_deref(), Some(Path::new("/data")));
        assert_eq!(environment.interpreter.as_deref(), Some("python3.12"));
        assert_eq!(environment.preload, ["numpy.linalg"]);
        assert_eq!(environment.fresh, Some(Fresh::Process));
        let time = Some(Duration::from_secs(3600));
        let limits =
            LimitWishes { memory_bytes: Some(2 << 30), cpus_milli: Some(500), pids: Some(9), time };
        assert_eq!(environment.limits, limits);
        assert!(environment.has_packages());
    }

    /// What pip, conda and apt would take for an option, a file or another order.
    #[test]
    fn words_that_are_no_packages_are_refused() {
        for word in ["--index-url=x", "-r x", "./x.whl", "x @ https://h/x.whl", "x\\ny", "", "x|y"]
        {
            assert!(
                parse(&format!("name: e\nimage: r.example/a\npython: [\"{word}\"]\n")).is_err(),
                "{word}"
            );
        }
        let image = "image: dir:/r";
        for word in ["-o Dir=/", "libx-", "/tmp/x.deb", "a b", ""] {
            assert!(parse(&format!("name: e\n{image}\napt: [\"{word}\"]\n")).is_err(), "{word}");
        }
        for word in ["--file=x", "http://x", "a\\nb"] {
            assert!(parse(&format!("name: e\n{image}\nconda: [\"{word}\"]\n")).is_err(), "{word}");
        }
    }

    #[test]
    fn names_are_file_names_and_no_paths() {
        for name in ["a", "A.b_c-1", "9"] {
            assert_eq!(name.parse::<EnvironmentName>().unwrap().as_str(), name);
        }
        let long = "a".repeat(65);
        for name in ["", ".", "..", ".a", "a/b", "/a", "-a", "a b", "ä", long.as_str()] {
            assert!(name.parse::<EnvironmentName>().is_err(), "{name}");
        }
    }
}
