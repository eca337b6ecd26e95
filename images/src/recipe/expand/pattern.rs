//! Patterns inside of `${}`: `*`, `?`, and everything else as it is.

/// Characters of a value or pattern that is matched at most: the time goes with their product.
const CHARACTERS_MAX: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Any,
    One,
    Just(char),
}

/// A pattern that was read.
#[derive(Debug)]
pub(super) struct Pattern(Vec<Part>);

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Pattern, String> {
        let mut parts = Vec::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            parts.push(match character {
                '*' if parts.last() == Some(&Part::Any) => continue,
                '*' => Part::Any,
                '?' => Part::One,
                '\\' => match characters.next() {
                    Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Part::Just(escaped),
                    Some(_) | None => {
                        return Err(format!("the pattern `{text}` escapes what needs none"));
                    }
                },
                _ => Part::Just(character),
            });
        }
        if parts.len() > CHARACTERS_MAX {
            return Err(format!("a pattern has more than {CHARACTERS_MAX} characters"));
        }
        Ok(Pattern(parts))
    }

    pub(super) fn without_prefix(&self, value: &str, is_longest: bool) -> Result<String, String> {
        let characters = bounded(value)?;
        let end = ends(&self.0, &characters);
        let end = if is_longest { end.last() } else { end.first() }.copied().unwrap_or(0);
        Ok(characters[end..].iter().collect())
    }

    pub(super) fn without_suffix(&self, value: &str, is_longest: bool) -> Result<String, String> {
        let mut characters = bounded(value)?;
        characters.reverse();
        let parts: Vec<Part> = self.0.iter().rev().copied().collect();
        let end = ends(&parts, &characters);
        let end = if is_longest { end.last() } else { end.first() }.copied().unwrap_or(0);
        Ok(characters[end..].iter().rev().collect())
    }

    /// Replaces the first match, the longest there, or every one.
    pub(super) fn replace(&self, value: &str, by: &str, is_every: bool) -> Result<String, String> {
        let characters = bounded(value)?;
        let mut out = String::new();
        let mut at = 0;
        while at < characters.len() {
            match ends(&self.0, &characters[at..]).last() {
                Some(length) if *length > 0 => {
                    out.push_str(by);
                    at += length;
                    if !is_every {
                        break;
                    }
                }
                Some(_) | None => {
                    out.push(characters[at]);
                    at += 1;
                }
            }
        }
        out.extend(&characters[at..]);
        Ok(out)
    }
}

fn bounded(value: &str) -> Result<Vec<char>, String> {
    let characters: Vec<char> = value.chars().collect();
    if characters.len() > CHARACTERS_MAX {
        return Err(format!("a value of more than {CHARACTERS_MAX} characters is matched"));
    }
    Ok(characters)
}

/// Where matches that begin at the front of `text` may end, ascending.
fn ends(parts: &[Part], text: &[char]) -> Vec<usize> {
    // Which parts of the pattern have been passed, for each number of characters read.
    let mut passed = vec![false; parts.len() + 1];
    passed[0] = true;
    pass_any(parts, &mut passed);
    let mut ends = Vec::new();
    for (read, character) in text.iter().enumerate() {
        if passed[parts.len()] {
            ends.push(read);
        }
        let mut next = vec![false; parts.len() + 1];
        for (number, part) in parts.iter().enumerate().filter(|(number, _)| passed[*number]) {
            match part {
                Part::Any => next[number] = true,
                Part::One => next[number + 1] = true,
                Part::Just(wanted) if wanted == character => next[number + 1] = true,
                Part::Just(_) => {}
            }
        }
        pass_any(parts, &mut next);
        passed = next;
        if !passed.contains(&true) {
            return ends;
        }
    }
    if passed[parts.len()] {
        ends.push(text.len());
    }
    ends
}

/// `*` may stand for nothing.
fn pass_any(parts: &[Part], passed: &mut [bool]) {
    for (number, part) in parts.iter().enumerate() {
        if passed[number] && *part == Part::Any {
            passed[number + 1] = true;
        }
    }
}
