//! `COPY` and `ADD`: which files go where.

use super::lines::{Instruction, is_heredoc};
use super::run::exec_form;
use super::steps::Here;
use crate::recipe::error::{Place, RecipeError};
use crate::recipe::{CopyFiles, CopyMode, InlineFile, Origin, Rules};

pub(super) fn copy(here: &Here<'_>, instruction: &Instruction) -> Result<CopyFiles, RecipeError> {
    let place = &instruction.place;
    let is_add = instruction.keyword == "ADD";
    let mut copy = CopyFiles {
        from: Origin::Context,
        sources: Vec::new(),
        inline: Vec::new(),
        target: String::new(),
        owner: None,
        mode: None,
        left_out: Vec::new(),
        keeps_parents: false,
        is_link: false,
        unpacks: is_add,
        rules: Rules::Docker,
    };
    for flag in &instruction.flags {
        let value = flag.value.as_deref();
        let word = || here.word(value.unwrap_or_default(), place);
        match (flag.name.as_str(), is_add) {
            ("from", false) => copy.from = here.file.origin(&word()?, here.stage, place)?,
            ("chown", _) => copy.owner = Some(word()?).filter(|owner| !owner.is_empty()),
            ("chmod", _) => copy.mode = Some(mode(&word()?, place)?),
            ("exclude", _) => copy.left_out.push(word()?),
            ("link", _) => copy.is_link = is_set(value, place)?,
            ("parents", false) => copy.keeps_parents = is_set(value, place)?,
            ("unpack", true) => copy.unpacks = is_set(value, place)?,
            ("checksum" | "keep-git-dir", true) => {
                let what = format!("`--{}`", flag.name);
                return Err(place.not_supported(what, "it is for what comes from the network"));
            }
            (name, _) => {
                return Err(place.wrong(format!("{} has no flag `--{name}`", instruction.keyword)));
            }
        }
    }
    let mut words = paths(here, instruction)?;
    let (Some(target), false) = (words.pop(), words.is_empty()) else {
        let wrong = format!("expected `{} SOURCE… TARGET`", instruction.keyword);
        return Err(place.wrong(wrong));
    };
    copy.target = here.absolute(&target);
    let mut heredocs = instruction.heredocs.iter();
    for source in words {
        match heredocs.as_slice().first().filter(|_| is_heredoc(&source)) {
            Some(heredoc) => {
                heredocs.next();
                let content = match heredoc.expands {
                    true => here.expander().content(&heredoc.content),
                    false => Ok(heredoc.content.clone()),
                };
                let content = content.map_err(|wrong| place.wrong(wrong))?;
                copy.inline.push(InlineFile { name: heredoc.name.clone(), content });
            }
            None => {
                refuse_remote(&source, is_add, place)?;
                copy.sources.push(source);
            }
        }
    }
    Ok(copy)
}

/// Sources and target, expanded. Here-documents stay as they are written.
fn paths(here: &Here<'_>, instruction: &Instruction) -> Result<Vec<String>, RecipeError> {
    let words = match exec_form(&instruction.rest, &instruction.place)? {
        Some(words) => words,
        None => instruction.rest.split_whitespace().map(str::to_owned).collect(),
    };
    let has_heredocs = !instruction.heredocs.is_empty();
    let expand = |word: String| match has_heredocs && is_heredoc(&word) {
        true => Ok(word),
        false => here.word(&word, &instruction.place),
    };
    words.into_iter().map(expand).collect()
}

/// Nothing is fetched while files are copied.
fn refuse_remote(source: &str, is_add: bool, place: &Place) -> Result<(), RecipeError> {
    let is_url = ["http://", "https://", "git://", "ssh://", "git@", "ftp://"];
    if is_add && is_url.iter().any(|scheme| source.starts_with(scheme)) {
        let why = "fetch it with RUN, and check its digest there";
        return Err(place.not_supported(format!("adding `{source}`"), why));
    }
    Ok(())
}

fn mode(text: &str, place: &Place) -> Result<CopyMode, RecipeError> {
    let wrong = || place.wrong(format!("`{text}` is no mode: expected 0644 or u=rwX,go=rX"));
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        let bits = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o7777);
        return bits.map(CopyMode::Bits).ok_or_else(wrong);
    }
    let is_clause = |clause: &str| {
        let rest = clause.trim_start_matches(['u', 'g', 'o', 'a']);
        let mut letters = rest.chars();
        matches!(letters.next(), Some('+' | '-' | '='))
            && letters.all(|c| matches!(c, 'r' | 'w' | 'x' | 'X' | 's' | 't'))
    };
    if !text.split(',').all(is_clause) {
        return Err(wrong());
    }
    Ok(CopyMode::Symbolic(text.to_owned()))
}

fn is_set(value: Option<&str>, place: &Place) -> Result<bool, RecipeError> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(place.wrong(format!("`{other}` is neither true nor false"))),
    }
}

/// What `--from` says.
pub(super) fn from_flag(instruction: &Instruction) -> Option<String> {
    let from = instruction.flags.iter().find(|flag| flag.name == "from")?;
    from.value.clone()
}

/// Fields between commas; a field in double quotes may have commas.
pub(super) fn csv_fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut is_quoted = false;
    for character in text.chars() {
        match character {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(String::new()),
            _ => fields.last_mut().expect("one at least").push(character),
        }
    }
    fields.retain(|field| !field.is_empty());
    fields
}
