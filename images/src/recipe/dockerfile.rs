//! Reads Dockerfiles: what stages there are, and what each stands on.
//!
//! `lines` splits the text, `expand` replaces variables, `steps` says what a stage's instructions
//! do, with `run`, `copy` and `declare` for those that need more than a line. Facts are those of
//! the Dockerfile reference, and BuildKit's where that is silent; `docs/decisions/recipes.md` says
//! what differs.

mod copy;
mod declare;
mod lines;
mod run;
mod steps;

use crate::recipe::error::{Place, RecipeError, read_text};
use crate::recipe::expand::Expander;
use crate::recipe::{Base, Inputs, Origin, PROXIES, Recipe, Stage, Step, find_stage, find_target};
use crate::{Config, Reference};
use lines::Instruction;

/// Instructions, in upper case.
const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A Dockerfile that was read.
#[derive(Debug)]
pub struct Dockerfile {
    file: String,
    escape: char,
    arguments: Vec<(String, String)>,
    /// What `ARG` before the first `FROM`, and the platform, give to `ARG` without a value.
    globals: Vec<(String, String)>,
    stages: Vec<Stage>,
    /// Of each stage, `FROM` aside.
    instructions: Vec<Vec<Instruction>>,
    target: usize,
    notes: Vec<String>,
}

impl Dockerfile {
    /// Reads a Dockerfile; `file` is what its user calls it.
    ///
    /// Finds what is wrong with its form. What an instruction says is looked at when its stage's
    /// [`steps`](Recipe::steps) are asked for.
    ///
    /// # Errors
    /// See [`RecipeError`].
    pub fn parse(file: &str, bytes: &[u8], inputs: &Inputs) -> Result<Dockerfile, RecipeError> {
        let text = read_text(file, bytes)?;
        let at = Place { file: file.to_owned(), line: 1, text: String::new() };
        let lines = lines::split(text, &at, '\\')?;
        let mut read = Dockerfile {
            file: file.to_owned(),
            escape: lines.escape,
            arguments: inputs.arguments.clone(),
            globals: platform_arguments(&inputs.architecture),
            stages: Vec::new(),
            instructions: Vec::new(),
            target: 0,
            notes: lines.notes,
        };
        for instruction in lines.instructions {
            read.add(instruction, &inputs.architecture)?;
        }
        if read.stages.is_empty() {
            return Err(RecipeError::Empty { file: file.to_owned(), wrong: "has no FROM" });
        }
        read.target = find_target(file, &read.stages, inputs.target.as_deref())?;
        read.note_unused();
        read.note_links();
        Ok(read)
    }

    fn add(&mut self, instruction: Instruction, architecture: &str) -> Result<(), RecipeError> {
        let place = &instruction.place;
        match (instruction.keyword.as_str(), self.instructions.last_mut()) {
            ("FROM", _) => {
                let stage = self.read_from(&instruction, architecture)?;
                self.stages.push(stage);
                self.instructions.push(Vec::new());
            }
            ("ARG", None) => self.add_global(&instruction)?,
            (keyword, _) if !KEYWORDS.contains(&keyword) => {
                return Err(place.wrong(format!("`{keyword}` is no instruction")));
            }
            (_, None) => return Err(place.wrong("only ARG may stand before the first FROM")),
            (keyword, Some(instructions)) => {
                let mut froms = Vec::new();
                match keyword {
                    "COPY" => froms.extend(copy::from_flag(&instruction)),
                    "RUN" => froms.extend(run::from_options(&instruction)),
                    _ => {}
                }
                let number = instructions.len();
                instructions.push(instruction);
                let this = self.stages.len() - 1;
                for from in froms {
                    let place = &self.instructions[this][number].place;
                    if let Origin::Stage(needed) = self.origin(&from, this, place)? {
                        let needs = &mut self.stages[this].needs;
                        if let Err(at) = needs.binary_search(&needed) {
                            needs.insert(at, needed);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn read_from(
        &self,
        instruction: &Instruction,
        architecture: &str,
    ) -> Result<Stage, RecipeError> {
        let place = &instruction.place;
        let expander = Expander { escape: self.escape, variables: &self.globals };
        let expand = |text: &str| expander.word(text).map_err(|wrong| place.wrong(wrong));
        for flag in &instruction.flags {
            let platform = expand(flag.value.as_deref().unwrap_or_default())?;
            if flag.name != "platform" {
                return Err(place.wrong(format!("FROM has no flag `--{}`", flag.name)));
            }
            if platform != format!("linux/{architecture}") {
                let what = format!("the platform `{platform}`");
                return Err(place.not_supported(what, "builds run on this machine's own"));
            }
        }
        let words: Vec<&str> = instruction.rest.split_whitespace().collect();
        let (image, name) = match words.as_slice() {
            [image] => (image, None),
            [image, word, name] if word.eq_ignore_ascii_case("as") => (image, Some(*name)),
            _ => return Err(place.wrong("expected `FROM IMAGE [AS NAME]`")),
        };
        let name = name.map(|name| stage_name(name, place)).transpose()?;
        if let Some(name) = &name
            && self.stages.iter().any(|stage| stage.name.as_ref() == Some(name))
        {
            return Err(place.wrong(format!("there is a stage `{name}` already")));
        }
        let image = expand(image)?;
        let base = match find_stage(&self.stages, &image) {
            Some(stage) => Base::Stage(stage),
            None if image == "scratch" => Base::Scratch,
            None => Base::Image(reference(&image, place)?),
        };
        let needs = match base {
            Base::Stage(stage) => vec![stage],
            Base::Scratch | Base::Image(_) => Vec::new(),
        };
        Ok(Stage { name, base, line: place.line, needs })
    }

    fn add_global(&mut self, instruction: &Instruction) -> Result<(), RecipeError> {
        for (name, default) in declare::arguments(instruction, self.escape)? {
            let expander = Expander { escape: self.escape, variables: &self.globals };
            let default = default.map(|text| expander.word(&text)).transpose();
            let default = default.map_err(|wrong| instruction.place.wrong(wrong))?;
            if let Some(value) = self.argument(&name).map(str::to_owned).or(default) {
                self.globals.push((name, value));
            }
        }
        Ok(())
    }

    /// What the caller gave for an argument.
    fn argument(&self, name: &str) -> Option<&str> {
        let given = self.arguments.iter().rev().find(|(known, _)| known == name);
        given.map(|(_, value)| value.as_str())
    }

    /// What `--from` in stage number `this` means.
    fn origin(&self, from: &str, this: usize, place: &Place) -> Result<Origin, RecipeError> {
        let by_number = || from.parse().ok().filter(|number: &usize| *number < self.stages.len());
        match find_stage(&self.stages, from).or_else(by_number) {
            Some(stage) if stage < this => Ok(Origin::Stage(stage)),
            Some(_) => Err(place.wrong(format!("the stage `{from}` is not before this one"))),
            None if from.contains('$') => {
                Err(place.not_supported("a variable in `from`", "name a stage after the image"))
            }
            None if from.bytes().all(|byte| byte.is_ascii_digit()) => {
                Err(place.wrong(format!("there is no stage `{from}`")))
            }
            None => reference(from, place).map(Origin::Image),
        }
    }

    /// An argument that nothing asks for is most often a mistake.
    fn note_unused(&mut self) {
        let declares = |name: &str| {
            let is_in = |instruction: &Instruction| {
                instruction.keyword == "ARG"
                    && declare::arguments(instruction, self.escape)
                        .is_ok_and(|names| names.iter().any(|(known, _)| known == name))
            };
            PROXIES.contains(&name)
                || self.globals.iter().any(|(known, _)| known == name)
                || self.instructions.iter().flatten().any(is_in)
        };
        let unused = self.arguments.iter().filter(|(name, _)| !declares(name));
        let notes: Vec<String> =
            unused.map(|(name, _)| format!("{}: no ARG takes `{name}`", self.file)).collect();
        self.notes.extend(notes);
    }

    /// A flag that is understood and has no effect.
    fn note_links(&mut self) {
        let is_set = |flag: &lines::Flag| {
            flag.name == "link" && !matches!(flag.value.as_deref(), Some("false" | "0"))
        };
        let instructions = self.instructions.iter().flatten();
        let linked = instructions.filter(|instruction| instruction.flags.iter().any(is_set));
        let notes: Vec<String> = linked
            .map(|instruction| {
                let Place { file, line, .. } = &instruction.place;
                format!("{file}:{line}: `--link` has no effect: layers are kept by what they hold")
            })
            .collect();
        self.notes.extend(notes);
    }
}

impl Recipe for Dockerfile {
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

fn stage_name(name: &str, place: &Place) -> Result<String, RecipeError> {
    let name = name.to_ascii_lowercase();
    let is_right = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b));
    if !is_right || ["scratch", "context"].contains(&name.as_str()) {
        let wrong =
            format!("`{name}` is no name for a stage: a letter, then letters, digits, - _ .");
        return Err(place.wrong(wrong));
    }
    Ok(name)
}

fn reference(text: &str, place: &Place) -> Result<Reference, RecipeError> {
    text.parse().map_err(|error: crate::ReferenceError| place.wrong(error.to_string()))
}

/// What is known without an `ARG` in front of the first `FROM`.
fn platform_arguments(architecture: &str) -> Vec<(String, String)> {
    let mut arguments = Vec::new();
    for side in ["TARGET", "BUILD"] {
        let mut add = |what: &str, value: String| arguments.push((format!("{side}{what}"), value));
        add("PLATFORM", format!("linux/{architecture}"));
        add("OS", "linux".to_owned());
        add("ARCH", architecture.to_owned());
        add("VARIANT", String::new());
    }
    arguments
}
