//! The keys of an environment file, their written forms, and what excludes what.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use ric_yaml::{Cpus, Fresh, Memory, Pids, Placed, TextVisitor, Time, Unit};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Environment, LimitWishes, Package};
use crate::Reference;

/// Letters of an environment's name, which becomes a file name and stands in messages.
const NAME_LETTERS_MAX: usize = 64;

/// Bytes of one package with its versions, of a path, of a module.
pub(super) const WORD_BYTES_MAX: usize = 512;

/// What is said where a key has nothing behind it is the reader's; `None` is a key left out.
fn written<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// One file, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    name: Placed<EnvironmentName>,
    #[serde(default, deserialize_with = "written")]
    image: Option<Placed<Image>>,
    #[serde(default, deserialize_with = "written")]
    prefix: Option<Placed<Directory>>,
    #[serde(default, deserialize_with = "written")]
    python: Option<Placed<Vec<Placed<PythonPackage>>>>,
    #[serde(default, deserialize_with = "written")]
    conda: Option<Placed<Vec<Placed<CondaPackage>>>>,
    #[serde(default, deserialize_with = "written")]
    apt: Option<Placed<Vec<Placed<AptPackage>>>>,
    #[serde(default)]
    variables: BTreeMap<VariableName, VariableText>,
    #[serde(default, deserialize_with = "written")]
    workdir: Option<Directory>,
    #[serde(default, deserialize_with = "written")]
    interpreter: Option<Interpreter>,
    #[serde(default)]
    preload: Vec<Module>,
    #[serde(default, deserialize_with = "written")]
    fresh: Option<Fresh>,
    #[serde(default, deserialize_with = "written")]
    stock: Option<Amount<Pids>>,
    #[serde(default)]
    limits: LimitKeys,
}

/// Limits, with the words that the command line and policies have for them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitKeys {
    #[serde(deserialize_with = "written")]
    memory: Option<Amount<Memory>>,
    #[serde(deserialize_with = "written")]
    cpus: Option<Amount<Cpus>>,
    #[serde(deserialize_with = "written")]
    pids: Option<Amount<Pids>>,
    #[serde(deserialize_with = "written")]
    time: Option<Amount<Time>>,
}

/// Line, column and what is wrong.
type Found = (u64, u64, String);

impl Keys {
    /// Finds what is wrong although each value by itself is right.
    pub(super) fn check(&self, path: &Path) -> Result<(), Found> {
        let name = self.name.value.0.as_str();
        if path.file_stem().is_some_and(|stem| stem != name) {
            let message = format!("the file of environment `{name}` has to be called {name}.yaml");
            return Err(found(&self.name, message));
        }
        check_repetition(&self.python, |package| python_name(&package.0))?;
        check_repetition(&self.conda, |package| package.0.clone())?;
        check_repetition(&self.apt, |package| package.0.clone())?;
        let on_host = self.image.as_ref().is_none_or(|image| image.value.0 == Reference::Host);
        let lists = [
            ("python", place(&self.python)),
            ("apt", place(&self.apt)),
            ("conda", place(&self.conda)),
        ];
        if on_host
            && self.prefix.is_none()
            && let Some((what, (line, column))) =
                lists.iter().find_map(|(what, place)| Some((what, (*place)?)))
        {
            return Err((line, column, needs_an_image(what)));
        }
        if let Some(prefix) = &self.prefix
            && lists.iter().any(|(_, place)| place.is_some())
        {
            let message = "a prefix is used as it is, read-only, so that no packages can be added";
            return Err(found(prefix, message.to_owned()));
        }
        Ok(())
    }

    /// The value.
    pub(super) fn into_environment(self) -> Environment {
        let limits = LimitWishes {
            memory_bytes: self.limits.memory.map(|amount| amount.0),
            cpus_milli: self.limits.cpus.map(|amount| amount.0),
            pids: self.limits.pids.map(|amount| amount.0),
            time: self.limits.time.map(|amount| amount.0),
        };
        Environment {
            name: self.name.value,
            image: self.image.map_or(Reference::Host, |image| image.value.0),
            prefix: self.prefix.map(|prefix| prefix.value.0),
            python: packages(self.python, |package| package.0),
            conda: packages(self.conda, |package| package.0),
            apt: packages(self.apt, |package| package.0),
            variables: self.variables.into_iter().map(|(name, text)| (name.0, text.0)).collect(),
            workdir: self.workdir.map(|directory| directory.0),
            interpreter: self.interpreter.map(|interpreter| interpreter.0),
            preload: self.preload.into_iter().map(|module| module.0).collect(),
            fresh: self.fresh,
            stock: self.stock.map(|amount| amount.0),
            limits,
        }
    }
}

fn packages<T>(list: Option<Placed<Vec<Placed<T>>>>, text: fn(T) -> String) -> Vec<Package> {
    let package = |one: Placed<T>| Package { asked: text(one.value), line: one.line };
    list.map_or_else(Vec::new, |list| list.value.into_iter().map(package).collect())
}

/// Where a list that is not empty begins.
fn place<T>(list: &Option<Placed<Vec<Placed<T>>>>) -> Option<(u64, u64)> {
    let first = list.as_ref()?.value.first()?;
    Some((first.line, first.column))
}

fn found<T>(placed: &Placed<T>, message: String) -> Found {
    (placed.line, placed.column, message)
}

fn needs_an_image(what: &str) -> String {
    format!("{what} packages become a layer of an image, and `host:` has none: write `image:`")
}

fn check_repetition<T>(
    list: &Option<Placed<Vec<Placed<T>>>>,
    name: fn(&T) -> String,
) -> Result<(), Found> {
    let mut seen = BTreeSet::new();
    for one in list.iter().flat_map(|list| &list.value) {
        let name = name(&one.value);
        if seen.contains(&name) {
            return Err(found(one, format!("`{name}` is listed twice")));
        }
        seen.insert(name);
    }
    Ok(())
}

/// The name of an environment, which is also a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct EnvironmentName(String);

/// A text that no environment is called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is no name of an environment: it has 1 to {NAME_LETTERS_MAX} letters, digits, `.`, `_` \
     or `-`, and begins with a letter or digit",
    text.escape_debug()
)]
pub struct EnvironmentNameError {
    /// What was written.
    pub text: String,
}

impl EnvironmentName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EnvironmentName {
    type Err = EnvironmentNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if begins && text.len() <= NAME_LETTERS_MAX && text.chars().all(plain) {
            return Ok(Self(text.to_owned()));
        }
        let text = text.chars().take(NAME_LETTERS_MAX).collect();
        Err(EnvironmentNameError { text })
    }
}

impl fmt::Display for EnvironmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An amount with its unit.
struct Amount<U: Unit>(U::Value);

impl<U: Unit> fmt::Debug for Amount<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&U::show(self.0))
    }
}

impl<'de, U: Unit> Deserialize<'de> for Amount<U> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let read = |text: &str| U::parse(text).map(Amount).map_err(|error| error.to_string());
        from.deserialize_str(TextVisitor { expected: U::EXPECTED, read })
    }
}

/// Types of texts that are checked while a file is read.
macro_rules! texts {
    ($($name:ident($value:ty), $expected:literal, $read:expr;)*) => {$(
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
        struct $name($value);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let read = |text: &str| $read(text).map($name);
                from.deserialize_str(TextVisitor { expected: $expected, read })
            }
        }
    )*};
}

texts! {
    Directory(PathBuf), "an absolute path", directory;
    PythonPackage(String), "a Python package such as `numpy==2.1.0`", python_package;
    CondaPackage(String), "a conda package such as `numpy=2.1`", conda_package;
    AptPackage(String), "a Debian package such as `libgomp1`", apt_package;
    VariableName(String), "the name of a variable", variable_name;
    VariableText(String), "the text of a variable", variable_text;
    Interpreter(String), "a Python such as `python3.12` or its absolute path", interpreter;
    Module(String), "the name of a module such as `numpy.linalg`", module;
}

/// An image. Its own type, because references have no order.
#[derive(Debug, Clone)]
struct Image(Reference);

impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let expected = "an image such as `docker://registry.example.org/python:3.12`";
        let read = |text: &str| text.parse().map(Image).map_err(|error| format!("{error}"));
        from.deserialize_str(TextVisitor { expected, read })
    }
}

impl<'de> Deserialize<'de> for EnvironmentName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let read =
            |text: &str| text.parse().map_err(|error: EnvironmentNameError| error.to_string());
        from.deserialize_str(TextVisitor { expected: "a name such as `numpy`", read })
    }
}

fn directory(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || text.contains(char::is_control) || !path.components().all(plain) {
        return Err(format!(
            "`{}` is not an absolute path without `.` and `..`",
            text.escape_debug()
        ));
    }
    Ok(path.components().collect())
}

/// Letters of names and versions that packagers of all three kinds use.
fn is_of(text: &str, others: &str) -> bool {
    text.len() <= WORD_BYTES_MAX
        && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

fn begins_plainly(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// A requirement (PyPA specifications, "Dependency specifiers") that an index can answer. Neither
/// an option of pip, nor a path, nor an address: those are locked by no hash, or not the same
/// elsewhere.
fn python_package(text: &str) -> Result<String, String> {
    let (requirement, marker) = text.split_once(';').unwrap_or((text, ""));
    let plain = begins_plainly(requirement) && is_of(requirement, " <>=!~.,*+_-[]()");
    if plain && is_of(marker, " <>=!~.,*+_-()'\"") {
        return Ok(text.trim_end().to_owned());
    }
    Err(format!(
        "`{}` is not a Python package such as `numpy==2.1.0` or `dask[array]>=2024`; options, \
         files and addresses are not taken",
        text.escape_debug()
    ))
}

/// The name of a requirement as indexes compare it (PEP 503).
pub(super) fn python_name(requirement: &str) -> String {
    let end = requirement.find(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c)));
    let name = requirement[..end.unwrap_or(requirement.len())].to_ascii_lowercase();
    name.split(['.', '_', '-']).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

fn conda_package(text: &str) -> Result<String, String> {
    if begins_plainly(text) && is_of(text, " <>=!~.,*+_-|:") {
        return Ok(text.to_owned());
    }
    Err(format!("`{}` is not a conda package such as `numpy=2.1`", text.escape_debug()))
}

/// A name (Debian policy 5.6.7) with architecture, version or release, as apt-get(8) takes it. One
/// that ends in `-` would remove the package.
fn apt_package(text: &str) -> Result<String, String> {
    if begins_plainly(text) && is_of(text, "+.-:=~/") && !text.ends_with('-') {
        return Ok(text.to_owned());
    }
    Err(format!("`{}` is not a Debian package such as `libgomp1`", text.escape_debug()))
}

fn variable_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(['=', '\0']) {
        return Err(format!("`{}` is no name of a variable", text.escape_debug()));
    }
    Ok(text.to_owned())
}

fn variable_text(text: &str) -> Result<String, String> {
    if text.contains('\0') { Err("it has a zero byte".to_owned()) } else { Ok(text.to_owned()) }
}

fn interpreter(text: &str) -> Result<String, String> {
    let name = begins_plainly(text) && is_of(text, "._+-");
    if name || directory(text).is_ok() {
        return Ok(text.to_owned());
    }
    Err(format!("`{}` is neither a name of a Python nor an absolute path", text.escape_debug()))
}

fn module(text: &str) -> Result<String, String> {
    let is_word = |word: &str| {
        word.starts_with(|c: char| c == '_' || c.is_alphabetic())
            && word.chars().all(|c| c == '_' || c.is_alphanumeric())
    };
    if text.len() <= WORD_BYTES_MAX && text.split('.').all(is_word) {
        return Ok(text.to_owned());
    }
    Err(format!("`{}` is no name of a module", text.escape_debug()))
}
