//! The header of a stage and its sections, as they are written.

use std::collections::BTreeMap;

use super::assignments::{self, Environment};
use crate::Config;
use crate::recipe::error::{Place, RecipeError};

/// Sections that are understood, in the order of Apptainer's manual.
const KNOWN: [&str; 10] = [
    "arguments",
    "files",
    "post",
    "environment",
    "runscript",
    "startscript",
    "test",
    "labels",
    "help",
    "setup",
];

/// Keys of a header that mean something here, in lower case.
const KEYS: [&str; 5] = ["bootstrap", "from", "stage", "registry", "namespace"];

/// The lines above the first section.
#[derive(Debug)]
pub(super) struct Header {
    values: BTreeMap<String, (String, Place)>,
    begin: Place,
}

impl Header {
    /// By its key in lower case.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|(value, _)| value.as_str())
    }

    /// Where a key is, or where the header begins.
    pub(super) fn place(&self, key: &str) -> Place {
        self.values.get(key).map_or(&self.begin, |(_, place)| place).clone()
    }
}

/// One section as it is written.
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub(super) name: String,
    /// What follows the name on its line, without a comment.
    pub(super) words: Vec<String>,
    /// The line with its name.
    pub(super) place: Place,
    /// The lines below it, with their ends.
    pub(super) text: String,
}

/// All sections of a stage, in the order of the file.
#[derive(Debug, Default)]
pub(super) struct Sections(Vec<Section>);

impl Sections {
    /// Sections of this name.
    pub(super) fn named(&self, name: &str) -> impl Iterator<Item = &Section> {
        self.0.iter().filter(move |section| section.name == name)
    }

    /// The text of all sections of this name, one after the other, with the words of the first that
    /// has some.
    pub(super) fn joined(&self, name: &str) -> Option<Section> {
        let mut all = self.named(name).cloned();
        let mut first = all.next()?;
        for more in all {
            first.text.push_str(&more.text);
            if first.words.is_empty() {
                first.words = more.words;
            }
        }
        Some(first).filter(|section| !section.text.trim().is_empty())
    }

    /// Where the first section of this name is, if it says something.
    pub(super) fn place_of(&self, name: &str) -> Option<Place> {
        self.joined(name).map(|section| section.place)
    }

    /// Stages that `%files from STAGE` names.
    pub(super) fn stages_named(&self) -> impl Iterator<Item = (&str, &Place)> {
        self.named("files").filter_map(|section| Some((section.from()?, &section.place)))
    }

    /// What `%environment` sets, upon what `base` declares.
    pub(super) fn environment(&self, base: &Config) -> Environment {
        let sections: Vec<Section> = self.named("environment").cloned().collect();
        assignments::read(&sections, base)
    }
}

impl Section {
    /// The stage of `%files from STAGE`.
    pub(super) fn from(&self) -> Option<&str> {
        match self.words.as_slice() {
            [from, stage] if from == "from" => Some(stage),
            _ => None,
        }
    }

    /// Lines that say something, those that a backslash continues joined.
    pub(super) fn lines(&self) -> Vec<(Place, String)> {
        let place = |line: usize, text: &str| Place {
            line: self.place.line + 1 + line,
            text: text.to_owned(),
            ..self.place.clone()
        };
        let lines = logical_lines(&self.text).into_iter();
        let lines = lines.map(|(line, text)| (line, text.trim().to_owned()));
        let says = |(_, text): &(usize, String)| !text.is_empty() && !text.starts_with('#');
        lines.filter(says).map(|(line, text)| (place(line, &text), text)).collect()
    }
}

/// Lines and their numbers from 0, those that end with a backslash joined with the next.
pub(super) fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut is_continued = false;
    for (number, line) in text.lines().enumerate() {
        let (begun, goes_on) = match line.trim_end().strip_suffix('\\') {
            Some(begun) => (begun, true),
            None => (line, false),
        };
        match lines.last_mut().filter(|_| is_continued) {
            Some((_, last)) => {
                last.push(' ');
                last.push_str(begun.trim_start());
            }
            None => lines.push((number, begun.to_owned())),
        }
        is_continued = goes_on;
    }
    lines
}

/// Reads one stage, whose first line is at `at`.
pub(super) fn read(text: &str, at: &Place) -> Result<(Header, Sections), RecipeError> {
    let is_section = |line: &&str| line.trim_start().starts_with('%');
    let begin = text.lines().take_while(|line| !is_section(line)).count();
    let header: Vec<&str> = text.lines().take(begin).collect();
    let header = read_header(&header.join("\n"), at)?;
    let mut sections = Sections::default();
    for (number, line) in text.lines().enumerate().skip(begin) {
        if is_section(&line) {
            let place =
                Place { line: at.line + number, text: line.trim().to_owned(), ..at.clone() };
            sections.0.push(begin_section(place)?);
        } else if let Some(section) = sections.0.last_mut() {
            section.text.push_str(line);
            section.text.push('\n');
        }
    }
    Ok((header, sections))
}

fn read_header(text: &str, at: &Place) -> Result<Header, RecipeError> {
    let mut header = Header { values: BTreeMap::new(), begin: at.clone() };
    for (number, line) in logical_lines(text) {
        // A comment may follow a value; no value has ` #` in it.
        let line = line.split(" #").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = Place { line: at.line + number, text: line.to_owned(), ..at.clone() };
        if header.values.is_empty() {
            header.begin = place.clone();
        }
        let Some((key, value)) = line.split_once(':') else {
            return Err(place.wrong("expected `KEY: VALUE`, or a section"));
        };
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim().to_owned());
        match key.as_str() {
            "fingerprints" => {
                let why = "signatures of images are not checked while building: leave the line \
                           away, and verify the file before";
                return Err(place.not_supported("`Fingerprints`", why));
            }
            // Of agents that are refused, each by its own name.
            "mirrorurl" | "updateurl" | "osversion" | "include" | "setopt" | "library"
            | "confurl" => {}
            known if KEYS.contains(&known) => {}
            _ => return Err(place.wrong(format!("`{key}` is no key of a header"))),
        }
        if header.values.insert(key.clone(), (value, place.clone())).is_some() {
            return Err(place.wrong(format!("`{key}` is given twice")));
        }
    }
    Ok(header)
}

fn begin_section(place: Place) -> Result<Section, RecipeError> {
    let line = place.text.split('#').next().unwrap_or_default();
    let mut words = line.split_whitespace().map(str::to_owned);
    let name = words.next().unwrap_or_default().trim_start_matches('%').to_owned();
    let words: Vec<String> = words.collect();
    if let "setup" | "pre" = name.as_str() {
        let why = "it runs on the machine itself, outside of any sandbox: use %files and %post";
        return Err(place.not_supported(format!("`%{name}`"), why));
    }
    if name.starts_with("app") {
        let why = "apps within an image are not made: give each its own image, or a script";
        return Err(place.not_supported(format!("`%{name}`"), why));
    }
    if !KNOWN.contains(&name.as_str()) {
        return Err(place.wrong(format!("`%{name}` is no section")));
    }
    let section = Section { name, words, place, text: String::new() };
    let takes = match section.name.as_str() {
        "files" => section.words.is_empty() || section.from().is_some(),
        "post" | "test" | "runscript" | "startscript" => {
            section.words.is_empty() || (section.words[0] == "-c" && section.words.len() > 1)
        }
        _ => section.words.is_empty(),
    };
    if !takes {
        let expected = match section.name.as_str() {
            "files" => "`%files [from STAGE]`".to_owned(),
            "post" | "test" | "runscript" | "startscript" => {
                format!("`%{} [-c PROGRAM …]`", section.name)
            }
            name => format!("`%{name}` alone"),
        };
        return Err(section.place.wrong(format!("expected {expected}")));
    }
    Ok(section)
}
