//! What the instructions of one stage do, in order: each becomes a step.

use super::lines::{self, Instruction};
use super::{Dockerfile, copy, declare, run};
use crate::Config;
use crate::recipe::error::{Place, RecipeError};
use crate::recipe::expand::Expander;
use crate::recipe::{
    Act, Base, Change, Entry, PATH, PROXIES, Stage, Step, Unkeyed, absolute, on_one_line,
};

/// Bytes of all variables at most: more could not be passed to a program (`ARG_MAX`, execve(2)).
const VARIABLES_BYTES_MAX: usize = 512 << 10;

/// The steps of stage number `stage` upon an image that declares `base`.
pub(super) fn steps(
    file: &Dockerfile,
    stage: usize,
    base: &Config,
) -> Result<Vec<Step>, RecipeError> {
    let mut here = Here::new(file, stage, base);
    here.inherit()?;
    let line = file.stages[stage].line;
    for trigger in &base.on_build {
        let text = format!("ONBUILD {}", trigger.lines().next().unwrap_or_default());
        let at = Place { file: file.file.clone(), line, text };
        for mut instruction in lines::split(trigger, &at, '\\')?.instructions {
            instruction.place = Place { text: instruction.place.text, ..at.clone() };
            if ["FROM", "MAINTAINER", "ONBUILD"].contains(&instruction.keyword.as_str()) {
                let wrong = format!("the base has `{}` in its ONBUILD", instruction.keyword);
                return Err(at.wrong(wrong));
            }
            here.add(&instruction)?;
        }
    }
    if !base.on_build.is_empty() {
        let text = "ONBUILD of the base".to_owned();
        here.push(Step { line, text, act: None, changes: vec![Change::OnBuildDone] });
    }
    for instruction in &file.instructions[stage] {
        here.add(instruction)?;
    }
    Ok(here.steps)
}

/// What is known at one place of a stage.
pub(super) struct Here<'a> {
    pub(super) file: &'a Dockerfile,
    pub(super) stage: usize,
    /// What the image declares so far.
    pub(super) config: Config,
    /// What commands and expansions find: `ENV` and `ARG`, later ones last.
    pub(super) variables: Vec<(String, String)>,
    /// Whether this stage has set a command, which an entry point then keeps.
    pub(super) has_command: bool,
    steps: Vec<Step>,
}

impl<'a> Here<'a> {
    fn new(file: &'a Dockerfile, stage: usize, base: &Config) -> Here<'a> {
        let mut variables = base.variables.clone();
        if !variables.iter().any(|(name, _)| name == "PATH") {
            variables.insert(0, ("PATH".to_owned(), PATH.to_owned()));
        }
        let (config, steps) = (base.clone(), Vec::new());
        Here { file, stage, config, variables, has_command: false, steps }
    }

    /// Arguments of the stages below are known here too, unless the image declares a variable of
    /// that name.
    fn inherit(&mut self) -> Result<(), RecipeError> {
        let mut below = Vec::new();
        let mut stage = self.stage;
        while let Base::Stage(next) = self.file.stages[stage].base {
            below.push(next);
            stage = next;
        }
        let file = self.file;
        let instructions = below.iter().rev().flat_map(|stage| &file.instructions[*stage]);
        for instruction in instructions.filter(|instruction| instruction.keyword == "ARG") {
            declare::argument(self, instruction)?;
        }
        for (name, value) in &self.config.variables.clone() {
            self.set_variable(name, value, &place_of(file, self.stage))?;
        }
        Ok(())
    }

    fn push(&mut self, step: Step) {
        step.changes.iter().for_each(|change| change.apply(&mut self.config));
        self.steps.push(step);
    }

    fn add(&mut self, instruction: &Instruction) -> Result<(), RecipeError> {
        let (act, changes) = match instruction.keyword.as_str() {
            "RUN" => (Some(Act::Run(Box::new(run::run(self, instruction)?))), Vec::new()),
            "COPY" | "ADD" => (Some(Act::Copy(Box::new(copy::copy(self, instruction)?))), vec![]),
            "WORKDIR" => {
                let path = self.workdir(instruction)?;
                let owner = self.config.user.clone();
                let entry = Entry::Directory { path: path.clone(), owner };
                let act = (path != "/").then(|| Act::Write(vec![entry]));
                (act, vec![Change::Workdir(path)])
            }
            _ => (None, declare::changes(self, instruction)?),
        };
        for change in &changes {
            if let Change::Variable(name, value) = change {
                self.set_variable(name, value, &instruction.place)?;
            }
        }
        let text = shown_text(instruction);
        self.push(Step { line: instruction.place.line, text, act, changes });
        Ok(())
    }

    /// Sets a variable for what follows, in place if it is there.
    pub(super) fn set_variable(
        &mut self,
        name: &str,
        value: &str,
        place: &Place,
    ) -> Result<(), RecipeError> {
        match self.variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.variables.push((name.to_owned(), value.to_owned())),
        }
        let bytes: usize =
            self.variables.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > VARIABLES_BYTES_MAX {
            return Err(place.wrong(format!("all variables have {bytes} bytes, too many")));
        }
        Ok(())
    }

    /// Proxies that the caller gave and no `ARG` asked for.
    pub(super) fn machine(&self) -> Unkeyed {
        let is_hidden = |name: &str| {
            PROXIES.contains(&name) && !self.variables.iter().any(|(known, _)| known == name)
        };
        Unkeyed(self.file.arguments.iter().filter(|(name, _)| is_hidden(name)).cloned().collect())
    }

    pub(super) fn expander(&self) -> Expander<'_> {
        Expander { escape: self.file.escape, variables: &self.variables }
    }

    /// Expands one word of an instruction.
    pub(super) fn word(&self, text: &str, place: &Place) -> Result<String, RecipeError> {
        self.expander().word(text).map_err(|wrong| place.wrong(wrong))
    }

    /// `path` from the root, seen from the working directory. Keeps a slash at its end.
    pub(super) fn absolute(&self, path: &str) -> String {
        absolute(self.config.workdir.as_deref().unwrap_or("/"), path)
    }

    fn workdir(&self, instruction: &Instruction) -> Result<String, RecipeError> {
        declare::no_flags(instruction)?;
        let path = self.word(&instruction.rest, &instruction.place)?;
        if path.is_empty() {
            return Err(instruction.place.wrong("expected `WORKDIR PATH`"));
        }
        let path = self.absolute(&path);
        Ok(if path.len() > 1 { path.trim_end_matches('/').to_owned() } else { path })
    }
}

/// Where a stage begins.
fn place_of(file: &Dockerfile, stage: usize) -> Place {
    let Stage { line, name, .. } = &file.stages[stage];
    let text = format!("FROM … AS {}", name.as_deref().unwrap_or_default());
    Place { file: file.file.clone(), line: *line, text }
}

/// The instruction on one line, with a word of its here-documents.
fn shown_text(instruction: &Instruction) -> String {
    let words: Vec<&str> = instruction.place.text.split_whitespace().collect();
    let mut text = words.join(" ");
    if let Some(first) = instruction.heredocs.iter().find_map(|h| h.content.lines().next()) {
        text.push_str(&format!(" ({}…)", first.trim()));
    }
    on_one_line(&text)
}
