//! An environment with packages, as a task needs it: an image that was built, or is built now.

use std::path::Path;

use ric_images::{Environment, Package, Reference, Store};
use ric_policies::Policy;
use ric_runtime::Actor;

use super::build::{Locking, build};
use super::lock;
use crate::failure::Failure;
use crate::images::build::output::Telling;
use crate::{blame, places, progress, session};

/// An environment that is wanted, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) environment: &'a Environment,
    /// The file that says it; its lock is beside it.
    pub(crate) file: &'a Path,
    pub(crate) policy: &'a Policy,
    /// `--store`.
    pub(crate) store: Option<&'a Path>,
}

/// What becomes of an environment that is not built yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unbuilt {
    /// It is built.
    Build,
    /// It is refused: whoever asks starts nothing, or serves others.
    Refuse,
}

/// The image of an environment with packages.
pub(super) fn image_of(asked: &Asked<'_>, unbuilt: Unbuilt) -> Result<Reference, Failure> {
    let environment = asked.environment;
    refuse_conda(environment, asked.file)?;
    let why = match find(environment, asked.file, asked.store)? {
        Ok(reference) => return Ok(reference),
        Err(why) => why,
    };
    match unbuilt {
        Unbuilt::Build => {
            progress::tell(&format!("building environment `{}`: {why}", environment.name));
            build(asked, Locking::Follow, Telling::Text).map(|built| built.reference)
        }
        Unbuilt::Refuse => Err(Failure::new(
            Actor::User,
            format!("cannot use the environment `{}`", environment.name),
        )
        .cause(format!("it is not built: {why}"))
        .hint(format!("`run-in-container environments build {}` builds it", environment.name))),
    }
}

/// The image of an environment with packages, if it was built as the environment is now; else why
/// it is not there. Looks, and does nothing.
pub(super) fn find(
    environment: &Environment,
    file: &Path,
    store: Option<&Path>,
) -> Result<Result<Reference, String>, Failure> {
    let lock = match lock::read_current(environment, file)? {
        Ok(lock) => lock,
        Err(why) => return Ok(Err(why)),
    };
    let root = session::find_store(store)?;
    let reference = lock.built(environment);
    let is_there = places::is_store(&root) && is_kept(&session::open_store(&root)?, &reference)?;
    Ok(match is_there {
        true => Ok(reference),
        false => Err(format!("{} has no image of it", root.display())),
    })
}

fn is_kept(store: &Store, reference: &Reference) -> Result<bool, Failure> {
    let tagged = store.tagged(&reference.to_string());
    Ok(tagged.map_err(|error| blame::store(store.root(), &error))?.is_some())
}

/// Nothing here installs conda packages, and no Debian or Python package takes their place unasked.
pub(super) fn refuse_conda(environment: &Environment, file: &Path) -> Result<(), Failure> {
    let Some(first) = environment.conda.first() else { return Ok(()) };
    let attempt = format!("cannot build the environment `{}`", environment.name);
    Err(Failure::new(Actor::User, attempt)
        .cause(format!("{}:{}: this version adds no conda packages", file.display(), first.line))
        .hint(
            "`prefix:` shows a prefix that `conda create` has made, `images build` makes an image \
             with one, and `python:` and `apt:` add packages of theirs",
        ))
}

/// `failure`, with the lines of the packages that it is about.
pub(super) fn name_packages(failure: Failure, environment: &Environment, file: &Path) -> Failure {
    let said: Vec<String> = failure
        .causes
        .iter()
        .flat_map(|cause| cause.lines())
        .skip_while(|line| !line.contains("ERROR:") && !line.starts_with("E: "))
        .map(str::to_lowercase)
        .collect();
    let lists = [("python", &environment.python), ("apt", &environment.apt)];
    let mut failure = failure;
    for (key, packages) in lists {
        for package in packages.iter().filter(|package| is_named(package, &said)) {
            let (file, line) = (file.display(), package.line);
            failure = failure.cause(format!("{file}:{line}: `{key}:` lists {}", package.asked));
        }
    }
    failure
}

/// Whether one of `lines`, in small letters, has the name of a package as a word.
fn is_named(package: &Package, lines: &[String]) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
    let asked = package.asked.to_lowercase();
    let end = asked.find(|c: char| !is_part(c)).unwrap_or(asked.len());
    let words = lines.iter().flat_map(|line| line.split(|c: char| !is_part(c)));
    words.map(|word| word.trim_end_matches('.')).any(|word| word == &asked[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_lines_of_its_packages() {
        let text = "name: e\nimage: r.example/a\napt: [libx]\npython:\n- good\n- Bad[all]>=2\n";
        let environment = Environment::parse(Path::new("e.yaml"), text).unwrap();
        let failed = |said: &str| {
            let failure = Failure::new(Actor::User, "cannot").cause(said);
            let failure = name_packages(failure, &environment, Path::new("/e.yaml"));
            failure.causes[1..].to_vec()
        };
        let forged = "ERROR: THESE DO NOT MATCH\n    bad==2.1 from http://h/bad-2.1.whl";
        assert_eq!(failed(forged), ["/e.yaml:6: `python:` lists Bad[all]>=2"]);
        let missing = "Collecting good\nERROR: No matching distribution found for bad[all]>=2";
        assert_eq!(failed(missing), ["/e.yaml:6: `python:` lists Bad[all]>=2"]);
        assert_eq!(failed("E: Unable to locate package libx"), ["/e.yaml:3: `apt:` lists libx"]);
        assert!(failed("Collecting bad\nERROR: no goodness").is_empty());
    }
}
