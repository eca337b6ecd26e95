//! The lock of an environment: which packages, by version and hash, its own list came to.
//!
//! It lies beside the environment file as `NAME.lock`, written by this program and read as
//! strictly as what people write: it may come from anyone, and its words become arguments of pip
//! and apt. Pure: text in, value out.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use ric_yaml::{Kind, Mistake, Placed, read};
use serde::{Deserialize, Serialize};

use super::{Environment, Package};
use crate::document::Platform;
use crate::{Digest, Reference, RegistryName};

const LOCKS: Kind = Kind {
    files: "locks of environments",
    first_key: "version",
    begins: "a lock begins with `version: 1`",
};

/// What this program writes and reads.
const VERSION: u32 = 1;

/// Says what images of environments are made of; another makes all of them be built again.
const FORM: u32 = 1;

/// Letters of a digest in an image's tag: enough that no two are alike by chance.
const TAG_LETTERS: usize = 16;

/// The registry that nobody asks: what was built here is called so.
const LOCAL: &str = "localhost";

/// What images of environments are called, in the store of whoever built them.
const REPOSITORY: &str = "environment";

/// What a list of packages came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lock {
    /// What was built for, `linux/amd64`.
    pub platform: String,
    /// The base image, as the environment file names it.
    pub image: String,
    /// What that was.
    pub digest: Digest,
    /// Debian packages.
    pub apt: Locked,
    /// Python packages.
    pub python: Locked,
    /// The Python that they are for, if the environment file names one.
    pub interpreter: Option<String>,
}

/// One list of packages, and what it came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Locked {
    /// The list, as the environment file has it.
    pub asked: Vec<String>,
    /// All that is installed for it, in the order in which it was found.
    pub packages: Vec<LockedPackage>,
}

/// One package, and what it has to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockedPackage {
    /// `numpy==2.1.0` for pip, `libgomp1:amd64=12.2.0-14` for apt.
    pub package: String,
    /// Digest of its file, `sha256:…` or, of Debian packages, `sha512:…`.
    pub hash: String,
}

/// A lock as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    version: Placed<u32>,
    platform: String,
    image: String,
    digest: Placed<String>,
    #[serde(default)]
    apt: ListKeys,
    #[serde(default)]
    python: ListKeys,
    #[serde(default)]
    interpreter: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListKeys {
    asked: Vec<String>,
    packages: Vec<Placed<String>>,
}

impl Lock {
    /// The lock of no packages yet, for what `environment` says upon the image of this digest.
    #[must_use]
    pub fn of(environment: &Environment, digest: Digest) -> Lock {
        Lock {
            platform: Platform::here().to_string(),
            image: environment.image.to_string(),
            digest,
            apt: Locked::default(),
            python: Locked::default(),
            interpreter: environment.interpreter.clone(),
        }
    }

    /// What the image of `environment` is called before it is known what it is.
    #[must_use]
    pub fn unresolved(environment: &Environment) -> Reference {
        of_environments(environment.name.to_string())
    }

    /// Reads the text of a lock; `path` is for messages.
    ///
    /// # Errors
    /// [`Mistake`], the first one, if it is none that this program could have written.
    pub fn parse(path: &Path, text: &str) -> Result<Lock, Mistake> {
        let keys: Keys = read(path, text, LOCKS)?;
        let mistake = |line, column, message| Mistake::at(path, text, line, column, message);
        if keys.version.value != VERSION {
            let message = format!("this version of run-in-container knows locks of {VERSION} only");
            return Err(mistake(keys.version.line, keys.version.column, message));
        }
        let digest = keys.digest.value.parse::<Digest>();
        let digest = digest
            .map_err(|error| mistake(keys.digest.line, keys.digest.column, error.to_string()))?;
        let list = |list: ListKeys, kind| -> Result<Locked, Mistake> {
            let packages = list.packages.into_iter().map(|placed| {
                LockedPackage::parse(&placed.value, kind)
                    .ok_or_else(|| mistake(placed.line, placed.column, no_package(kind)))
            });
            Ok(Locked { asked: list.asked, packages: packages.collect::<Result<_, _>>()? })
        };
        Ok(Lock {
            platform: keys.platform,
            image: keys.image,
            digest,
            apt: list(keys.apt, Installer::Apt)?,
            python: list(keys.python, Installer::Pip)?,
            interpreter: keys.interpreter,
        })
    }

    /// The text that [`Lock::parse`] reads back, for the environment of this name.
    #[must_use]
    pub fn to_text(&self, name: &str) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut text = format!(
            "# What the packages of {name}.yaml came to; written by `run-in-container environments \
             build {name}`.\n# Keep it with that file: from both, the same image is built again.\n\
             version: {VERSION}\nplatform: {}\nimage: {}\ndigest: \"{}\"\n",
            quoted(&self.platform),
            quoted(&self.image),
            self.digest
        );
        if let Some(interpreter) = &self.interpreter {
            let _ = writeln!(text, "interpreter: {}", quoted(interpreter));
        }
        for (key, list) in [("apt", &self.apt), ("python", &self.python)] {
            if list.asked.is_empty() {
                continue;
            }
            let asked: Vec<String> = list.asked.iter().map(|asked| quoted(asked)).collect();
            let _ = writeln!(text, "{key}:\n  asked: [{}]", asked.join(", "));
            if list.packages.is_empty() {
                text.push_str("  packages: []\n");
                continue;
            }
            text.push_str("  packages:\n");
            for LockedPackage { package, hash } in &list.packages {
                let _ = writeln!(text, "  - {}", quoted(&format!("{package} {hash}")));
            }
        }
        text
    }

    /// Why this is not the lock of what `environment` says now; `None` if it is.
    #[must_use]
    pub fn why_stale(&self, environment: &Environment) -> Option<String> {
        self.why_other_base(environment)
            .or_else(|| changed("apt", &self.apt.asked, &environment.apt))
            .or_else(|| {
                let named = |interpreter: &Option<String>| {
                    interpreter.clone().map_or_else(|| "none".to_owned(), |it| format!("`{it}`"))
                };
                (self.interpreter != environment.interpreter).then(|| {
                    let (old, new) = (named(&self.interpreter), named(&environment.interpreter));
                    format!("it is for interpreter {old}, and the file now says {new}")
                })
            })
            .or_else(|| changed("python", &self.python.asked, &environment.python))
    }

    /// Why no part of this can be of use for what `environment` says now.
    #[must_use]
    pub fn why_other_base(&self, environment: &Environment) -> Option<String> {
        let (here, image) = (Platform::here().to_string(), environment.image.to_string());
        if self.platform != here {
            return Some(format!("it is for {}, and this machine is {here}", self.platform));
        }
        (self.image != image)
            .then(|| format!("it is for image {}, and the file now says {image}", self.image))
    }

    /// What the image is called that `environment` becomes by this lock: another name for whatever
    /// would make another image.
    #[must_use]
    pub fn built(&self, environment: &Environment) -> Reference {
        let from = serde_json::json!({
            "form": FORM, "lock": self,
            "variables": environment.variables, "workdir": environment.workdir,
        });
        let digest = Digest::of(from.to_string().as_bytes()).to_string();
        let digits = digest.trim_start_matches("sha256:");
        let tag = format!("{}-{}", environment.name.as_str(), &digits[..TAG_LETTERS]);
        of_environments(tag)
    }

    /// The image that this lock stands upon: the one that `image` named when it was made, where its
    /// registry can be asked for that. Of others it has to be seen whether they still are.
    #[must_use]
    pub fn pinned(&self, image: Reference) -> Reference {
        let is_local = matches!(&image, Reference::Registry(name) if name.host == LOCAL);
        let mut image = image;
        if let Reference::Registry(RegistryName { digest, .. })
        | Reference::ShortName { digest, .. } = &mut image
            && !is_local
        {
            digest.get_or_insert_with(|| self.digest.to_string());
        }
        image
    }
}

/// An image of an environment, by its tag.
fn of_environments(tag: String) -> Reference {
    Reference::Registry(RegistryName {
        host: LOCAL.to_owned(),
        repository: REPOSITORY.to_owned(),
        tag: Some(tag),
        digest: None,
    })
}

/// Whose words a package is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Installer {
    Apt,
    Pip,
}

impl LockedPackage {
    /// Reads `PACKAGE HASH`. Both become words of a command or a file that pip reads.
    pub(super) fn parse(text: &str, installer: Installer) -> Option<LockedPackage> {
        let (package, hash) = text.split_once(' ')?;
        let (between, letters) = match installer {
            Installer::Pip => ("==", "._-"),
            Installer::Apt => ("=", "+.-:~"),
        };
        let (name, version) = package.split_once(between)?;
        let plain = |text: &str, others: &str| {
            text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text.len() <= super::keys::WORD_BYTES_MAX
                && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
        };
        let (algorithm, digits) = hash.split_once(':')?;
        let length = match (algorithm, installer) {
            ("sha256", _) => 64,
            ("sha512", Installer::Apt) => 128,
            _ => return None,
        };
        let is_hash = digits.len() == length
            && digits.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
        (plain(name, letters) && plain(version, "+.-:~!_") && is_hash)
            .then(|| LockedPackage { package: package.to_owned(), hash: hash.to_owned() })
    }
}

fn no_package(installer: Installer) -> String {
    let example = match installer {
        Installer::Apt => "libgomp1:amd64=12.2.0-14 sha256:…",
        Installer::Pip => "numpy==2.1.0 sha256:…",
    };
    format!("expected a package and its hash such as `{example}`")
}

/// What an environment file says otherwise than it did.
fn changed(key: &str, old: &[String], new: &[Package]) -> Option<String> {
    let new: BTreeSet<&str> = new.iter().map(|package| package.asked.as_str()).collect();
    let old: BTreeSet<&str> = old.iter().map(String::as_str).collect();
    let more: Vec<&str> = new.difference(&old).copied().collect();
    let less: Vec<&str> = old.difference(&new).copied().collect();
    let said = |words: &[&str]| words.join(", ");
    match (more.is_empty(), less.is_empty()) {
        (true, true) => None,
        (false, true) => Some(format!("`{key}:` now has {} too", said(&more))),
        (true, false) => Some(format!("`{key}:` no longer has {}", said(&less))),
        (false, false) => Some(format!("`{key}:` has {} now, not {}", said(&more), said(&less))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(text: &str) -> Environment {
        Environment::parse(Path::new("e.yaml"), &format!("name: e\n{text}")).unwrap()
    }

    const TEXT: &str = "image: r.example/a:1\napt: [libgomp1]\npython: ['numpy>=2']\n";

    fn lock() -> Lock {
        let package = |package: &str, hash: String| LockedPackage { package: package.into(), hash };
        Lock {
            platform: Platform::here().to_string(),
            image: "docker://r.example/a:1".into(),
            digest: Digest::of(b"base"),
            apt: Locked {
                asked: vec!["libgomp1".into()],
                packages: vec![package("libgomp1:amd64=1:2.0-1~a", format!("sha512:{:0128}", 1))],
            },
            python: Locked {
                asked: vec!["numpy>=2".into()],
                packages: vec![package("numpy==2.1.0+local", format!("sha256:{:064}", 2))],
            },
            interpreter: Some("python3.12".into()),
        }
    }

    #[test]
    fn a_lock_reads_back_as_it_was_written() {
        let written = lock();
        let read = Lock::parse(Path::new("e.lock"), &written.to_text("e")).unwrap();
        assert_eq!(read, written);
        let bare = Lock { apt: Locked::default(), interpreter: None, ..written };
        assert_eq!(Lock::parse(Path::new("e.lock"), &bare.to_text("e")).unwrap(), bare);
    }

    #[test]
    fn words_that_pip_and_apt_would_take_otherwise_are_refused() {
        let hash = format!("sha256:{:064}", 0);
        for package in ["-r==1", "a @ https://x", "a>=1", "a==1;b", "a==1\\n", "a==../x"] {
            assert_eq!(LockedPackage::parse(&format!("{package} {hash}"), Installer::Pip), None);
        }
        for package in ["a=-o", "/a=1", "a", "a=1-$(b)"] {
            assert_eq!(LockedPackage::parse(&format!("{package} {hash}"), Installer::Apt), None);
        }
        for hash in ["sha256:0", "md5:00", &hash.to_uppercase(), &hash.replace('0', "g")] {
            assert_eq!(LockedPackage::parse(&format!("a==1 {hash}"), Installer::Pip), None);
        }
        let text = lock().to_text("e").replace("numpy==2.1.0", "numpy==$x");
        let mistake = Lock::parse(Path::new("e.lock"), &text).unwrap_err();
        assert!(mistake.to_string().contains("e.lock:15:"), "{mistake}");
        let text = lock().to_text("e").replace("version: 1", "version: 2");
        assert!(Lock::parse(Path::new("e.lock"), &text).is_err());
    }

    #[test]
    fn it_is_said_what_has_changed() {
        let mut lock = lock();
        lock.interpreter = None;
        assert_eq!(lock.why_stale(&environment(TEXT)), None);
        // Another order is the same list.
        lock.python.asked = vec!["numpy>=2".into(), "a".into()];
        let other = environment(&TEXT.replace("'numpy>=2'", "a, 'numpy>=2'"));
        assert_eq!(lock.why_stale(&other), None);
        for (from, to, said) in [
            ("a:1", "a:2", "for image docker://r.example/a:1, and the file now says"),
            ("libgomp1", "libgomp1, gcc", "`apt:` now has gcc too"),
            ("'numpy>=2'", "a, 'numpy>=3'", "`python:` has numpy>=3 now, not numpy>=2"),
            ("'numpy>=2'", "a", "`python:` no longer has numpy>=2"),
            ("image", "interpreter: python4\nimage", "for interpreter none, and the file now"),
        ] {
            let why = lock.why_stale(&environment(&TEXT.replace(from, to))).unwrap();
            assert!(why.contains(said), "{why}");
        }
        lock.platform = "linux/other".into();
        assert!(lock.why_stale(&other).unwrap().contains("it is for linux/other"));
    }

    #[test]
    fn whatever_makes_another_image_has_another_name() {
        let (lock, environment) = (lock(), environment(TEXT));
        let name = lock.built(&environment).to_string();
        assert!(name.starts_with("docker://localhost/environment:e-"), "{name}");
        assert_eq!(lock.built(&environment).to_string(), name);
        let mut other = lock.clone();
        other.python.packages.clear();
        assert_ne!(other.built(&environment).to_string(), name);
        let mut other = environment;
        other.variables.insert("A".into(), "b".into());
        assert_ne!(lock.built(&other).to_string(), name);
    }

    #[test]
    fn only_what_a_registry_can_be_asked_for_is_pinned() {
        let pinned = |text: &str| lock().pinned(text.parse().unwrap()).to_string();
        let digest = Digest::of(b"base");
        assert_eq!(pinned("r.example/a:1"), format!("docker://r.example/a:1@{digest}"));
        assert_eq!(pinned("python:3"), format!("python:3@{digest}"));
        for text in ["docker://localhost/a:1", "docker-archive:/a.tar"] {
            assert_eq!(pinned(text), text);
        }
    }
}
