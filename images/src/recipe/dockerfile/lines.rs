//! Splits a Dockerfile into instructions: parser directives, comments, continued lines, flags and
//! here-documents. What an instruction means is not looked at.
//!
//! The rules are those of BuildKit's parser, which define the format where its reference does not.

use crate::recipe::error::{Place, RecipeError};

/// More instructions are no build that anybody wrote: an image has at most 127 layers in Docker.
const INSTRUCTIONS_MAX: usize = 2000;

/// Instructions that may have here-documents.
const WITH_HEREDOCS: [&str; 3] = ["ADD", "COPY", "RUN"];

/// One instruction as it is written.
#[derive(Debug, Clone)]
pub(super) struct Instruction {
    pub(super) place: Place,
    /// In upper case.
    pub(super) keyword: String,
    /// `--name=value`, in order.
    pub(super) flags: Vec<Flag>,
    /// What follows the flags, continued lines joined.
    pub(super) rest: String,
    pub(super) heredocs: Vec<Heredoc>,
}

#[derive(Debug, Clone)]
pub(super) struct Flag {
    pub(super) name: String,
    pub(super) value: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Heredoc {
    pub(super) name: String,
    /// The lines between, each with its end; leading tabs are gone if that was asked for.
    pub(super) content: String,
    /// Variables are expanded unless its name was quoted.
    pub(super) expands: bool,
}

/// All there is in a file.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) escape: char,
    pub(super) instructions: Vec<Instruction>,
    /// What the user should know.
    pub(super) notes: Vec<String>,
}

/// Splits `text`. `at` is where it begins: its line is that of the first one.
pub(super) fn split(text: &str, at: &Place, escape: char) -> Result<Lines, RecipeError> {
    let mut lines = Lines { escape, instructions: Vec::new(), notes: Vec::new() };
    let mut source: Vec<&str> =
        text.split('\n').map(|l| l.strip_suffix('\r').unwrap_or(l)).collect();
    if source.last() == Some(&"") {
        source.pop();
    }
    let mut next = directives(&source, at, &mut lines)?;
    while let Some(first) = source.get(next) {
        let place = Place { line: at.line + next, text: first.trim().to_owned(), ..at.clone() };
        let joined = join(&source, &mut next, lines.escape);
        if joined.trim().is_empty() {
            continue;
        }
        let mut instruction = instruction(&joined, place, lines.escape)?;
        read_heredocs(&source, &mut next, &mut instruction)?;
        if lines.instructions.len() == INSTRUCTIONS_MAX {
            let most = format!("more than {INSTRUCTIONS_MAX} instructions");
            return Err(instruction.place.wrong(most));
        }
        lines.instructions.push(instruction);
    }
    Ok(lines)
}

/// Reads `# name=value` at the top, and returns where that ends.
fn directives(source: &[&str], at: &Place, lines: &mut Lines) -> Result<usize, RecipeError> {
    let mut seen = Vec::new();
    for (number, line) in source.iter().enumerate() {
        let directive = line.trim().strip_prefix('#').and_then(|rest| rest.split_once('='));
        let Some((name, value)) = directive else { return Ok(number) };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        let place = Place { line: at.line + number, text: line.trim().to_owned(), ..at.clone() };
        if seen.contains(&name) {
            return Err(place.wrong(format!("the directive `{name}` is given twice")));
        }
        match name.as_str() {
            "escape" => {
                lines.escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    _ => return Err(place.wrong("the escape character is \\ or `")),
                }
            }
            "syntax" => {
                lines.notes.push(format!("{place}: read by this program, not by that image"));
            }
            "check" => {}
            // A comment that happens to have an equals sign.
            _ => return Ok(number),
        }
        seen.push(name);
    }
    Ok(source.len())
}

/// The line at `next` and those that it is continued on; `next` is then the line after.
fn join(source: &[&str], next: &mut usize, escape: char) -> String {
    let is_comment = |line: &str| line.trim_start().starts_with('#');
    let mut joined = String::new();
    let mut line = source[*next].trim_start();
    *next += 1;
    if is_comment(line) {
        return joined;
    }
    loop {
        let Some(begun) = continued(line, escape) else {
            joined.push_str(line);
            return joined;
        };
        joined.push_str(begun);
        let is_skipped = |line: &&str| is_comment(line) || line.trim().is_empty();
        while source.get(*next).is_some_and(is_skipped) {
            *next += 1;
        }
        let Some(more) = source.get(*next) else { return joined };
        line = more;
        *next += 1;
    }
}

/// What of a line stands before the escape character that continues it.
fn continued(line: &str, escape: char) -> Option<&str> {
    let begun = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!begun.ends_with(escape)).then_some(begun)
}

fn instruction(joined: &str, mut place: Place, escape: char) -> Result<Instruction, RecipeError> {
    let joined = joined.trim();
    place.text = joined.to_owned();
    let (keyword, rest) = joined.split_once(char::is_whitespace).unwrap_or((joined, ""));
    let (flags, rest) = flags(rest.trim_start(), escape);
    let keyword = keyword.to_ascii_uppercase();
    Ok(Instruction { place, keyword, flags, rest: rest.trim().to_owned(), heredocs: Vec::new() })
}

/// Takes words that begin with `--` from the front.
fn flags(mut rest: &str, escape: char) -> (Vec<Flag>, &str) {
    let mut flags = Vec::new();
    while rest.starts_with("--") {
        let (word, after) = flag_word(rest, escape);
        rest = after.trim_start();
        if word == "--" {
            break;
        }
        let (name, value) = match word[2..].split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (&word[2..], None),
        };
        flags.push(Flag { name: name.to_owned(), value });
    }
    (flags, rest)
}

/// One word, its quotes and escapes taken away.
fn flag_word(rest: &str, escape: char) -> (String, &str) {
    let mut word = String::new();
    let mut quote = None;
    let mut characters = rest.char_indices();
    while let Some((at, character)) = characters.next() {
        match quote {
            None if character.is_whitespace() => return (word, &rest[at..]),
            None if character == '\'' || character == '"' => quote = Some(character),
            Some(open) if character == open => quote = None,
            None | Some(_) if character == escape => {
                word.extend(characters.next().map(|(_, escaped)| escaped));
            }
            None | Some(_) => word.push(character),
        }
    }
    (word, "")
}

fn read_heredocs(
    source: &[&str],
    next: &mut usize,
    instruction: &mut Instruction,
) -> Result<(), RecipeError> {
    let begins = |keyword: &&str| match instruction.keyword.as_str() {
        "ONBUILD" => {
            let trigger = instruction.rest.split_whitespace().next().unwrap_or_default();
            trigger.eq_ignore_ascii_case(keyword)
        }
        own => own == *keyword,
    };
    if !WITH_HEREDOCS.iter().any(begins) || instruction.rest.starts_with('[') {
        return Ok(());
    }
    for word in raw_words(&instruction.rest) {
        let Some((name, expands, chomps)) = heredoc_begin(&word) else { continue };
        let mut content = String::new();
        loop {
            let Some(line) = source.get(*next) else {
                let wrong = format!("the here-document `{name}` does not end: no line `{name}`");
                return Err(instruction.place.wrong(wrong));
            };
            *next += 1;
            let line = if chomps { line.trim_start_matches('\t') } else { line };
            if line == name {
                break;
            }
            content.push_str(line);
            content.push('\n');
        }
        instruction.heredocs.push(Heredoc { name, content, expands });
    }
    Ok(())
}

/// Reads `[FD]<<[-]NAME`: the name, whether its contents are expanded, whether their leading tabs
/// go.
fn heredoc_begin(word: &str) -> Option<(String, bool, bool)> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (rest, chomps) = rest.strip_prefix('-').map_or((rest, false), |rest| (rest, true));
    let name: String = rest.chars().filter(|c| !matches!(c, '\'' | '"' | '\\')).collect();
    let is_name = !name.is_empty() && !rest.contains('<');
    let expands = !rest.contains(['\'', '"']);
    is_name.then_some((name, expands, chomps))
}

/// Whether a word of an instruction begins a here-document.
pub(super) fn is_heredoc(word: &str) -> bool {
    heredoc_begin(word).is_some()
}

/// Words as a shell separates them, with their quotes.
fn raw_words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let word = words.last_mut().expect("one at least");
        match quote {
            None if character.is_whitespace() => words.push(String::new()),
            Some(open) if character == open => {
                quote = None;
                word.push(character);
            }
            None | Some(_) => {
                if quote.is_none() && matches!(character, '\'' | '"') {
                    quote = Some(character);
                }
                word.push(character);
                if character == '\\' {
                    word.extend(characters.next());
                }
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}
