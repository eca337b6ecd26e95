//! Reads Singularity and Apptainer definition files.
//!
//! Stages are split first, then `{{ }}` is filled in, then header and sections are read: the order
//! of Apptainer's own reader, by whose behaviour the format is defined where its manual is silent
//! (apptainer/apptainer `pkg/build/types/parser`). What a stage does is in `steps`.

mod assignments;
mod sections;
mod steps;
mod template;

use crate::recipe::error::{Place, RecipeError, read_text};
use crate::recipe::{Base, Inputs, Recipe, Stage, Step, find_target};
use crate::{Config, Reference};
use sections::Sections;

/// A definition file that was read.
#[derive(Debug)]
pub struct Definition {
    file: String,
    stages: Vec<Stage>,
    /// Of each stage.
    sections: Vec<Sections>,
    /// What the caller gave that stands in no `{{ }}`: only proxies are taken from it.
    rest: Vec<(String, String)>,
    /// Where absolute sources have to be below.
    directory: Option<String>,
    tests: bool,
    target: usize,
    notes: Vec<String>,
}

impl Definition {
    /// Reads a definition file; `file` is what its user calls it.
    ///
    /// # Errors
    /// See [`RecipeError`].
    pub fn parse(file: &str, bytes: &[u8], inputs: &Inputs) -> Result<Definition, RecipeError> {
        let text = read_text(file, bytes)?;
        let mut read = Definition {
            file: file.to_owned(),
            stages: Vec::new(),
            sections: Vec::new(),
            rest: inputs.arguments.clone(),
            directory: inputs.directory.clone(),
            tests: inputs.tests,
            target: 0,
            notes: Vec::new(),
        };
        for (line, text) in split_stages(text) {
            let at = Place { file: file.to_owned(), line, text: String::new() };
            let text = template::filled(text, &at, &inputs.arguments, &mut read.rest)?;
            read.add(&text, &at)?;
        }
        if read.stages.is_empty() {
            let wrong = "has no line `Bootstrap: …`";
            return Err(RecipeError::Empty { file: file.to_owned(), wrong });
        }
        read.target = find_target(file, &read.stages, inputs.target.as_deref())?;
        read.note();
        Ok(read)
    }

    fn add(&mut self, text: &str, at: &Place) -> Result<(), RecipeError> {
        let (header, sections) = sections::read(text, at)?;
        let find = |name: &str| self.stages.iter().position(|s| s.name.as_deref() == Some(name));
        let name = header.value("stage").map(str::to_owned);
        if let Some(name) = &name
            && find(name).is_some()
        {
            let wrong = format!("there is a stage `{name}` already");
            return Err(header.place("stage").wrong(wrong));
        }
        let mut needs = Vec::new();
        for (from, place) in sections.stages_named() {
            let there = || place.wrong(format!("there is no stage `{from}` before this one"));
            let needed = find(from).ok_or_else(there)?;
            if let Err(at) = needs.binary_search(&needed) {
                needs.insert(at, needed);
            }
        }
        let base = base(&header)?;
        self.stages.push(Stage { name, base, line: at.line, needs });
        self.sections.push(sections);
        Ok(())
    }

    /// What is understood and has no effect here, and what nothing asked for.
    fn note(&mut self) {
        let proxies = crate::recipe::PROXIES;
        let unused = self.rest.iter().filter(|(name, _)| !proxies.contains(&name.as_str()));
        let unused: Vec<String> =
            unused.map(|(name, _)| format!("{}: no {{{{ }}}} has `{name}`", self.file)).collect();
        self.notes.extend(unused);
        let sections = &self.sections[self.target];
        if let Some(place) = sections.place_of("startscript") {
            let what = "kept for Apptainer's instances; nothing here starts it";
            self.notes.push(format!("{}:{}: %startscript is {what}", place.file, place.line));
        }
        let base = Config::default();
        if let Some(place) = sections.environment(&base).opaque {
            self.notes.push(format!(
                "{}:{}: from this line on %environment needs a shell: the runscript has all of it, \
                 other commands what stands before",
                place.file, place.line
            ));
        }
    }
}

impl Recipe for Definition {
    fn file(&self) -> &str {
        &self.file
    }

    fn stages(&self) -> &[Stage] {
        &self.stages
    }

    fn target(&self) -> usize {
        self.target
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn steps(&self, stage: usize, base: &Config) -> Result<Vec<Step>, RecipeError> {
        steps::steps(self, stage, base)
    }
}

/// The text of each stage and the line that it begins in: a stage begins with its `Bootstrap:`.
fn split_stages(text: &str) -> Vec<(usize, &str)> {
    let mut begins = Vec::new();
    let mut offset = 0;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let word = line.trim_start().get(.."bootstrap:".len()).unwrap_or_default();
        // What stands before the first one is its too.
        if begins.is_empty() || word.eq_ignore_ascii_case("bootstrap:") {
            begins.push((number, offset));
        }
        offset += line.len();
    }
    // A first part without `Bootstrap:` is comments above it, if there is one at all.
    let is_comments = |part: &str| part.lines().all(|l| l.trim().is_empty() || l.starts_with('#'));
    if let [(_, first), (_, second), ..] = begins.as_slice()
        && is_comments(&text[*first..*second])
    {
        begins.remove(0);
    }
    let ends = begins.iter().skip(1).map(|(_, offset)| *offset).chain([text.len()]);
    begins.iter().zip(ends).map(|((line, begin), end)| (*line, &text[*begin..end])).collect()
}

/// What the header says that a stage begins with.
fn base(header: &sections::Header) -> Result<Base, RecipeError> {
    let place = header.place("bootstrap");
    let Some(agent) = header.value("bootstrap") else {
        return Err(place.wrong("expected `Bootstrap: AGENT` first"));
    };
    if agent == "scratch" {
        return Ok(Base::Scratch);
    }
    let from = || {
        let named = header.value("from").filter(|from| !from.is_empty());
        named.ok_or_else(|| place.wrong(format!("`Bootstrap: {agent}` needs a line `From: …`")))
    };
    let text = match agent {
        "docker" => {
            let from = from()?.trim_start_matches("docker:").trim_start_matches('/');
            let registry = header.value("registry").filter(|text| !text.is_empty());
            let namespace = header.value("namespace").filter(|text| !text.is_empty());
            let parts = registry.into_iter().chain(namespace).chain([from]);
            parts.collect::<Vec<_>>().join("/")
        }
        "docker-archive" | "oci" | "oci-archive" => format!("{agent}:{}", from()?),
        "localimage" => {
            let from = from()?;
            let ends = |ends: &[&str]| ends.iter().any(|end| from.ends_with(end));
            match from {
                _ if ends(&[".sqsh", ".squashfs", ".sqfs"]) => format!("squashfs:{from}"),
                _ if from.ends_with('/') => format!("dir:{from}"),
                _ => format!("sif:{from}"),
            }
        }
        _ => return Err(refused_agent(agent, &place)),
    };
    let wrong = |error: crate::ReferenceError| header.place("from").wrong(error.to_string());
    text.parse::<Reference>().map(Base::Image).map_err(wrong)
}

fn refused_agent(agent: &str, place: &Place) -> RecipeError {
    let why = match agent {
        "library" | "shub" => "no library is asked here: pull the image, then `localimage`",
        "oras" => "pull the file, then begin with `Bootstrap: localimage`",
        "docker-daemon" => "save it with `docker save`, then `Bootstrap: docker-archive`",
        "yum" | "dnf" | "debootstrap" | "arch" | "busybox" | "zypper" | "apk" => {
            "it runs the machine's own tools outside of any sandbox: begin with an image of that \
             distribution"
        }
        _ => {
            let known = "docker, docker-archive, oci, oci-archive, localimage, scratch";
            return place.wrong(format!("`{agent}` is no bootstrap agent: {known}"));
        }
    };
    place.not_supported(format!("`Bootstrap: {agent}`"), why)
}
