//! Patterns of paths: those of `.dockerignore`, and wildcards among sources of a copy.
//!
//! The rules are those of Docker's documentation ("Build context", ".dockerignore files"), which
//! are those of Go's `filepath.Match` with `**` for any number of directories.

/// Bytes of a `.dockerignore` that are read; nobody writes a longer one.
pub(super) const IGNORE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// Any characters but a slash.
    Any,
    /// Any characters at the end.
    Rest,
    /// Nothing, or anything that ends with a slash.
    Directories,
    One,
    Just(char),
    Class {
        is_negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// One pattern that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Part>);

impl Pattern {
    /// `None` for one whose `[` is not closed or that ends with a backslash.
    pub(super) fn parse(text: &str) -> Option<Pattern> {
        let mut parts = Vec::new();
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            parts.push(match character {
                '*' if characters.next_if_eq(&'*').is_some() => {
                    characters.next_if_eq(&'/');
                    if characters.peek().is_none() { Part::Rest } else { Part::Directories }
                }
                '*' => Part::Any,
                '?' => Part::One,
                '[' => class(&mut characters)?,
                '\\' => Part::Just(characters.next()?),
                _ => Part::Just(character),
            });
        }
        Some(Pattern(parts))
    }

    /// Whether all of `path` matches. The time goes with the product of their lengths.
    pub(super) fn matches(&self, path: &str) -> bool {
        let mut at = vec![false; self.0.len() + 1];
        self.enter(&mut at, 0);
        for character in path.chars() {
            let mut next = vec![false; at.len()];
            for (number, part) in self.0.iter().enumerate().filter(|(number, _)| at[*number]) {
                match part {
                    Part::Any if character != '/' => self.enter(&mut next, number),
                    Part::Rest => self.enter(&mut next, number),
                    Part::Directories => {
                        next[number] = true;
                        if character == '/' {
                            self.enter(&mut next, number + 1);
                        }
                    }
                    Part::One if character != '/' => self.enter(&mut next, number + 1),
                    Part::Just(just) if *just == character => self.enter(&mut next, number + 1),
                    Part::Class { is_negated, ranges } if character != '/' => {
                        let is_in = |(low, high): &(char, char)| (low..=high).contains(&&character);
                        if ranges.iter().any(is_in) != *is_negated {
                            self.enter(&mut next, number + 1);
                        }
                    }
                    Part::Any | Part::One | Part::Just(_) | Part::Class { .. } => {}
                }
            }
            at = next;
        }
        at.last().copied().unwrap_or(false)
    }

    /// Comes to a part, and over those that may match nothing.
    fn enter(&self, at: &mut [bool], mut number: usize) {
        at[number] = true;
        while let Some(Part::Any | Part::Rest | Part::Directories) = self.0.get(number) {
            number += 1;
            at[number] = true;
        }
    }
}

/// Whether a path is a pattern, and not just a name.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '\\'])
}

fn class(characters: &mut impl Iterator<Item = char>) -> Option<Part> {
    let (mut ranges, mut is_negated) = (Vec::new(), false);
    let mut next = characters.next()?;
    if next == '^' {
        is_negated = true;
        next = characters.next()?;
    }
    loop {
        let low = if next == '\\' { characters.next()? } else { next };
        next = characters.next()?;
        let mut high = low;
        if next == '-' {
            high = characters.next()?;
            if high == '\\' {
                high = characters.next()?;
            }
            next = characters.next()?;
        }
        ranges.push((low, high));
        if next == ']' {
            return Some(Part::Class { is_negated, ranges });
        }
    }
}

/// What is left out: patterns in order, of which the last that matches counts.
#[derive(Debug, Clone, Default)]
pub(super) struct LeftOut(Vec<(Pattern, bool)>);

impl LeftOut {
    /// Reads a `.dockerignore`.
    ///
    /// # Errors
    /// The number of the line, from 1, that is no pattern.
    pub(super) fn parse(text: &str) -> Result<LeftOut, usize> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut patterns = Vec::new();
        for (number, line) in (1_usize..).zip(text.lines()) {
            let (line, is_comment) = (line.trim(), line.starts_with('#'));
            let (is_kept, line) =
                line.strip_prefix('!').map_or((false, line), |rest| (true, rest.trim()));
            let mut names: Vec<&str> = Vec::new();
            for name in line.split('/').filter(|name| !name.is_empty() && *name != ".") {
                if name == ".." {
                    names.pop();
                } else {
                    names.push(name);
                }
            }
            if is_comment || names.is_empty() {
                continue;
            }
            patterns.push((Pattern::parse(&names.join("/")).ok_or(number)?, is_kept));
        }
        Ok(LeftOut(patterns))
    }

    /// Whether the last pattern that matches `path`, or a directory that it is in, leaves it out.
    pub(super) fn has(&self, path: &[u8]) -> bool {
        let path = String::from_utf8_lossy(path);
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let ways: Vec<&str> = ends.map(|end| &path[..end]).collect();
        let last = self.0.iter().rev().find(|(pattern, _)| ways.iter().any(|w| pattern.matches(w)));
        last.is_some_and(|(_, is_kept)| !is_kept)
    }

    /// Whether something in a directory that is left out may be kept.
    pub(super) fn has_exceptions(&self) -> bool {
        self.0.iter().any(|(_, is_kept)| *is_kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockerignore_leaves_out_what_docker_does() {
        let cases = [
            ("*/temp*", "a/temporary.txt", true),
            ("*/temp*", "a/b/temporary.txt", false),
            ("*/*/temp*", "a/b/temporary.txt", true),
            ("temp?", "tempa", true),
            ("temp?", "temp", false),
            ("**/*.go", "main.go", true),
            ("**/*.go", "a/b/main.go", true),
            ("*.go", "a/main.go", false),
            ("a/**", "a/b/c", true),
            ("a/**/c", "a/c", true),
            ("a/**/c", "a/x/y/c", true),
            ("**", "anything/at/all", true),
            ("dir", "dir/below/file", true),
            ("/dir/", "dir/below", true),
            ("./a/../dir", "dir", true),
            ("dir", "directory", false),
            ("# dir", "dir", false),
            ("#dir", "#dir", false),
            ("  dir  ", "dir", true),
            ("*.md\n!README.md", "README.md", false),
            ("*.md\n!README.md", "other.md", true),
            ("!README.md\n*.md", "README.md", true),
            ("dir\n!dir/kept", "dir/kept", false),
            ("dir\n!dir/kept", "dir/other", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("\u{feff}a", "a", true),
            (".", "a", false),
            ("ä?", "äö", true),
        ];
        for (text, path, is_left_out) in cases {
            let patterns = LeftOut::parse(text).unwrap();
            assert_eq!(patterns.has(path.as_bytes()), is_left_out, "{text:?} and {path:?}");
        }
        for (text, line) in [("a\n[b", 2), ("\\", 1), ("[]", 1), ("[a-", 1)] {
            assert_eq!(LeftOut::parse(text).unwrap_err(), line, "{text:?}");
        }
    }
}
