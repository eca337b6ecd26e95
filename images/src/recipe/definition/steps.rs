//! What one stage of a definition file does: files, %post, what the image keeps, %test.
//!
//! What is kept lies where Apptainer keeps it (`/.singularity.d`), so that an image written as a
//! SIF is one to Apptainer too. What it declares says the same to everybody else.

use std::collections::BTreeMap;

use super::Definition;
use super::assignments::Environment;
use super::sections::{Section, Sections};
use crate::Config;
use crate::recipe::error::{Place, RecipeError};
use crate::recipe::expand::escaped_words;
use crate::recipe::{
    Act, Change, CopyFiles, Entry, Origin, PROXIES, Rules, Run, RunFile, SCRIPTS, Step, Unkeyed,
    absolute, on_one_line,
};

const RUNSCRIPT: &str = "/.singularity.d/runscript";
const ENVIRONMENT: &str = "/.singularity.d/env/90-environment.sh";
/// What %post writes at, by the variable of this name.
const ENVIRONMENT_OF_POST: &str = "/.singularity.d/env/91-environment.sh";
const OF_POST: [&str; 2] = ["APPTAINER_ENVIRONMENT", "SINGULARITY_ENVIRONMENT"];
const LABELS_OF_POST: [&str; 2] = ["APPTAINER_LABELS", "SINGULARITY_LABELS"];

/// Paths, labels and files of a section at most; people write them.
const LINES_MAX: usize = 2000;

/// The steps of stage number `stage` upon an image that declares `base`.
pub(super) fn steps(
    file: &Definition,
    stage: usize,
    base: &Config,
) -> Result<Vec<Step>, RecipeError> {
    let sections = &file.sections[stage];
    let mut steps = Vec::new();
    for section in sections.named("files") {
        let from = match section.from() {
            None => Origin::Context,
            Some(name) => {
                let named = |s: &crate::Stage| s.name.as_deref() == Some(name);
                Origin::Stage(file.stages.iter().position(named).expect("it was found before"))
            }
        };
        for (place, line) in lines(section)? {
            let copy = copy(&line, &from, file.directory.as_deref(), &place)?;
            let act = Some(Act::Copy(Box::new(copy)));
            let text = on_one_line(&format!("{} {line}", section_name(section)));
            steps.push(Step { line: place.line, text, act, changes: Vec::new() });
        }
    }
    let post = sections.joined("post");
    let writes = |names: &[&str]| {
        post.as_ref().is_some_and(|post| names.iter().any(|name| post.text.contains(name)))
    };
    if let Some(post) = post.as_ref().filter(|_| writes(&LABELS_OF_POST)) {
        let why = "write them under %labels";
        return Err(post.place.not_supported("labels that %post writes", why));
    }
    let has_environment_of_post = writes(&OF_POST);
    let context = Context { file, base, has_environment_of_post };
    if let Some(post) = &post {
        if has_environment_of_post {
            steps.push(context.for_post(post));
        }
        steps.push(context.post(post));
    }
    let environment = sections.environment(base);
    steps.push(context.kept(&file.stages[stage].line, sections, &environment)?);
    if let Some(test) = sections.joined("test").filter(|_| file.tests) {
        steps.push(context.test(&test, &environment));
    }
    Ok(steps)
}

struct Context<'a> {
    file: &'a Definition,
    base: &'a Config,
    /// Whether %post adds to the environment of what runs later.
    has_environment_of_post: bool,
}

impl Context<'_> {
    /// The file that %post may add to.
    fn for_post(&self, post: &Section) -> Step {
        let path = ENVIRONMENT_OF_POST.to_owned();
        let content = "#!/bin/sh\n".to_owned();
        let act = Some(Act::Write(vec![Entry::File { path, content, mode: 0o755 }]));
        let text = format!("{} for %post", OF_POST[0]);
        Step { line: post.place.line, text, act, changes: Vec::new() }
    }

    fn post(&self, post: &Section) -> Step {
        let mut variables = self.variables();
        if self.has_environment_of_post {
            let path = ENVIRONMENT_OF_POST.to_owned();
            variables.extend(OF_POST.map(|name| (name.to_owned(), path.clone())));
        }
        let script = format!("{SCRIPTS}/post");
        let mut command = interpreter(post).unwrap_or_else(|| words(&["/bin/sh", "-ex"]));
        command.push(script.clone());
        let run = self.run(command, variables, vec![(script, post.text.clone())]);
        let act = Some(Act::Run(Box::new(run)));
        let text = on_one_line(&format!("{} {}", section_name(post), first_line(post)));
        Step { line: post.place.line, text, act, changes: Vec::new() }
    }

    /// Runs the test as everything runs in the image later; nothing of it stays.
    fn test(&self, test: &Section, environment: &Environment) -> Step {
        let mut variables = self.variables();
        for (name, value) in &environment.variables {
            match variables.iter_mut().find(|(known, _)| known == name) {
                Some((_, old)) => value.clone_into(old),
                None => variables.push((name.clone(), value.clone())),
            }
        }
        let script = format!("{SCRIPTS}/test");
        let mut command = interpreter(test).unwrap_or_else(|| words(&["/bin/sh"]));
        command.push(script.clone());
        if let Some(before) = self.sourced(environment) {
            command = [words(&["/bin/sh", "-c", &before, "/bin/sh"]), command].concat();
        }
        let run = self.run(command, variables, vec![(script, test.text.clone())]);
        let text = on_one_line(&format!("%test {}", first_line(test)));
        let act = Some(Act::Test(Box::new(run)));
        Step { line: test.place.line, text, act, changes: Vec::new() }
    }

    fn run(
        &self,
        command: Vec<String>,
        variables: Vec<(String, String)>,
        files: Vec<(String, String)>,
    ) -> Run {
        let files = files.into_iter().map(|(path, content)| RunFile { path, content, mode: 0o755 });
        let proxies = self.file.rest.iter().filter(|(name, _)| PROXIES.contains(&name.as_str()));
        Run {
            command,
            files: files.collect(),
            variables,
            machine: Unkeyed(proxies.cloned().collect()),
            workdir: "/".to_owned(),
            ..Run::default()
        }
    }

    /// What commands find of the base.
    fn variables(&self) -> Vec<(String, String)> {
        let mut variables = self.base.variables.clone();
        if !variables.iter().any(|(name, _)| name == "PATH") {
            variables.insert(0, ("PATH".to_owned(), crate::recipe::PATH.to_owned()));
        }
        variables
    }

    /// A line for a shell that sets what only a shell can, and goes on with its arguments.
    fn sourced(&self, environment: &Environment) -> Option<String> {
        let mut files = Vec::new();
        files.extend(environment.opaque.as_ref().map(|_| ENVIRONMENT));
        files.extend(self.has_environment_of_post.then_some(ENVIRONMENT_OF_POST));
        let sourced: String = files.iter().map(|file| format!(". {file} && ")).collect();
        (!files.is_empty()).then(|| format!("{sourced}exec \"$@\""))
    }

    /// What the image keeps and declares.
    fn kept(
        &self,
        line: &usize,
        sections: &Sections,
        environment: &Environment,
    ) -> Result<Step, RecipeError> {
        let mut entries = Vec::new();
        let mut add = |path: &str, content: String, mode| {
            entries.push(Entry::File { path: path.to_owned(), content, mode });
        };
        let mut changes: Vec<Change> = environment
            .variables
            .iter()
            .map(|(name, value)| Change::Variable(name.clone(), value.clone()))
            .collect();
        if let Some(section) = sections.joined("environment") {
            add(ENVIRONMENT, format!("#!/bin/sh\n{}", section.text), 0o755);
        }
        let runscript = sections.joined("runscript");
        for (name, path) in [
            ("runscript", RUNSCRIPT),
            ("startscript", "/.singularity.d/startscript"),
            ("test", "/.singularity.d/test"),
        ] {
            if let Some(section) = sections.joined(name) {
                add(path, script(&section), 0o755);
            }
        }
        if let Some(help) = sections.joined("help") {
            add("/.singularity.d/runscript.help", help.text, 0o644);
        }
        let labels = labels(sections)?;
        if !labels.is_empty() {
            let mut json = serde_json::to_string_pretty(&labels).expect("texts have a JSON form");
            json.push('\n');
            add("/.singularity.d/labels.json", json, 0o644);
        }
        changes.extend(labels.into_iter().map(|(name, value)| Change::Label(name, value)));
        changes.extend(self.entry(runscript.is_some(), environment));
        let act = (!entries.is_empty()).then_some(Act::Write(entries));
        let text = "%environment, %runscript, %startscript, %labels and %help".to_owned();
        Ok(Step { line: *line, text, act, changes })
    }

    /// What the image does when it is run: its runscript, or what the base did.
    fn entry(&self, has_runscript: bool, environment: &Environment) -> Vec<Change> {
        let own = if has_runscript { words(&[RUNSCRIPT]) } else { self.base.entrypoint.clone() };
        let entrypoint = match self.sourced(environment) {
            Some(before) => [words(&["/bin/sh", "-c", &before, "/bin/sh"]), own].concat(),
            None if has_runscript => own,
            None => return Vec::new(),
        };
        let command = if has_runscript { Vec::new() } else { self.base.command.clone() };
        if !has_runscript && self.base.entrypoint.is_empty() && command.is_empty() {
            // Nothing to run, with or without an environment.
            return Vec::new();
        }
        vec![Change::Entrypoint(entrypoint), Change::Command(command)]
    }
}

/// `SOURCE [TARGET]`: Apptainer copies with cp(1), and to the same path without a target.
fn copy(
    line: &str,
    from: &Origin,
    directory: Option<&str>,
    place: &Place,
) -> Result<CopyFiles, RecipeError> {
    let words = escaped_words(line, '\\').into_iter().map(|word| unquoted(&word));
    let words: Vec<String> = words.collect();
    let (source, target) = match words.as_slice() {
        [source] => (source, source),
        [source, target] => (source, target),
        _ => return Err(place.wrong("expected `SOURCE [TARGET]`, in quotes if they have blanks")),
    };
    let is_pattern = source.contains(['*', '?', '[']);
    if words.len() == 1 && (is_pattern || source.split('/').any(|name| name == "..")) {
        return Err(place.wrong("such a source needs a target"));
    }
    let source = match (from, source.strip_prefix('/'), directory) {
        (Origin::Context, Some(_), Some(directory)) => {
            let below = source.strip_prefix(directory.trim_end_matches('/'));
            let below = below.and_then(|rest| rest.strip_prefix('/'));
            let why = "it is not in the directory that is built from; name another as DIR, with \
                       the definition file as `-f FILE`";
            below.ok_or_else(|| place.not_supported(format!("copying `{source}`"), why))?
        }
        _ => source.as_str(),
    };
    Ok(CopyFiles {
        from: from.clone(),
        sources: vec![source.to_owned()],
        inline: Vec::new(),
        target: absolute("/", target),
        owner: Some("0:0".to_owned()),
        mode: None,
        left_out: Vec::new(),
        keeps_parents: false,
        is_link: false,
        unpacks: false,
        rules: Rules::Cp,
    })
}

/// A word without its quotes and escapes. Patterns stay: nothing in them is quoted.
fn unquoted(word: &str) -> String {
    let mut plain = String::new();
    let mut quote = None;
    let mut characters = word.chars();
    while let Some(character) = characters.next() {
        match quote {
            None if matches!(character, '\'' | '"') => quote = Some(character),
            Some(open) if character == open => quote = None,
            None | Some('"') if character == '\\' => plain.extend(characters.next()),
            None | Some(_) => plain.push(character),
        }
    }
    plain
}

/// `KEY VALUE`: the value is the rest of the line.
fn labels(sections: &Sections) -> Result<BTreeMap<String, String>, RecipeError> {
    let mut labels = BTreeMap::new();
    for section in sections.named("labels") {
        for (place, line) in lines(section)? {
            if line.contains('\0') {
                return Err(place.wrong("a label has a zero byte"));
            }
            let (name, value) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
            labels.insert(name.to_owned(), unquoted_whole(value.trim()).to_owned());
        }
    }
    Ok(labels)
}

/// A value in quotes as a whole, without them.
fn unquoted_whole(value: &str) -> &str {
    let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    quoted.filter(|inner| !inner.contains('"')).unwrap_or(value)
}

fn lines(section: &Section) -> Result<Vec<(Place, String)>, RecipeError> {
    let lines = section.lines();
    if lines.len() > LINES_MAX {
        return Err(section.place.wrong(format!("more than {LINES_MAX} lines")));
    }
    Ok(lines)
}

/// What runs a script: what follows `-c`, or its own first line.
fn interpreter(section: &Section) -> Option<Vec<String>> {
    if let [_, program @ ..] = section.words.as_slice() {
        return Some(program.to_vec());
    }
    let own = section.text.trim_start().strip_prefix("#!")?.lines().next()?;
    let words: Vec<String> = own.split_whitespace().map(str::to_owned).collect();
    (!words.is_empty()).then_some(words)
}

/// A script as a program: with a first line that says what runs it.
fn script(section: &Section) -> String {
    match (section.words.as_slice(), section.text.trim_start()) {
        ([], text) if text.starts_with("#!") => text.to_owned(),
        ([_, program @ ..], _) => format!("#!{}\n{}", program.join(" "), section.text),
        ([], _) => format!("#!/bin/sh\n{}", section.text),
    }
}

fn section_name(section: &Section) -> String {
    [&format!("%{}", section.name)]
        .into_iter()
        .chain(&section.words)
        .cloned()
        .collect::<Vec<_>>()
        .join(" ")
}

fn first_line(section: &Section) -> String {
    let mut lines = section.text.lines().map(str::trim);
    let line = lines.find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
    format!("({line}…)")
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
