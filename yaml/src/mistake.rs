//! What is wrong in a file, as the person who wrote it wants to read it.

use std::fmt;
use std::path::{Path, PathBuf};

/// Columns of a line that are shown; the rest of a longer line is cut off around the mistake.
const COLUMNS_MAX: usize = 80;

/// Letters of a message. The longest of our own, with all words that are known, has 200.
const MESSAGE_LETTERS_MAX: usize = 400;

/// Most letters that a word may differ in to be taken for a slip.
const SLIP_LETTERS_MAX: usize = 2;

/// The first thing wrong in a file, with the line shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}:{column}: {message}\n{excerpt}", Printable(&path.to_string_lossy()))]
pub struct Mistake {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: u64,
    /// Column in letters, from 1.
    pub column: u64,
    /// What is wrong, in one line.
    pub message: String,
    /// The line and a mark below the column. Control characters are replaced.
    pub excerpt: String,
}

impl Mistake {
    /// Makes the excerpt from the file's `text`. A message that quotes too much of it is cut.
    #[must_use]
    pub fn at(path: &Path, text: &str, line: u64, column: u64, message: String) -> Mistake {
        let path = path.to_owned();
        let message = match message.char_indices().nth(MESSAGE_LETTERS_MAX) {
            Some((end, _)) => format!("{}…", Printable(&message[..end])),
            None => Printable(&message).to_string(),
        };
        Mistake { path, line, column, message, excerpt: excerpt(text, line, column) }
    }

    /// For a file whose bytes are text only so far as `valid`; `text` stands in for all of it.
    #[must_use]
    pub fn not_utf8(path: &Path, text: &str, valid: &[u8]) -> Mistake {
        let valid = String::from_utf8_lossy(valid);
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let line = number(valid.matches('\n').count() + 1);
        let last = valid.rsplit('\n').next().unwrap_or_default();
        let column = number(last.chars().count() + 1);
        Mistake::at(path, text, line, column, "this byte is not UTF-8 text".to_owned())
    }
}

/// A text without anything that could move a terminal's cursor or begin a new line.
#[derive(Debug, Clone, Copy)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|letter| match letter {
            '\t' => formatter.write_str(" "),
            letter if letter.is_control() => formatter.write_str("\u{fffd}"),
            // What turns a line round (Unicode UAX #9, section 2) or has no width.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => {
                formatter.write_str("\u{fffd}")
            }
            letter => write!(formatter, "{letter}"),
        })
    }
}

fn excerpt(text: &str, line: u64, column: u64) -> String {
    let index = |number: u64| usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX);
    let shown = text.lines().nth(index(line)).unwrap_or_default();
    // A place behind the end of the line is where something is missing.
    let mark = index(column).min(shown.chars().count());
    let cut = mark.saturating_sub(COLUMNS_MAX / 2);
    let window: String = shown.chars().skip(cut).take(COLUMNS_MAX).collect();
    let gutter = line.to_string();
    let blank = " ".repeat(gutter.len());
    let space = " ".repeat(mark - cut);
    format!(" {gutter} | {}\n {blank} | {space}^", Printable(&window))
}

/// `; did you mean …?` for a slip, else `: known are …`.
#[must_use]
pub fn closest(word: &str, known: &[&str]) -> String {
    let lower = word.to_lowercase().replace('_', "-");
    let slips = |name: &&&str| distance(&lower, &name.replace('_', "-"));
    match known.iter().min_by_key(slips) {
        Some(name) if slips(&name) <= SLIP_LETTERS_MAX => format!("; did you mean `{name}`?"),
        Some(_) | None => format!(": known are {}", known.join(", ")),
    }
}

/// Letters to insert, remove or replace to make `b` of `a` (Levenshtein's distance).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    // Only what is near matters, and a hostile word may be long.
    if a.chars().count() > b.len() + SLIP_LETTERS_MAX {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (above, letter) in a.chars().enumerate() {
        let mut diagonal = above;
        row[0] = above + 1;
        for (column, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised() {
        let known = ["memory", "cpus", "short_names", "read-only"];
        assert_eq!(closest("memroy", &known), "; did you mean `memory`?");
        assert_eq!(closest("CPUs", &known), "; did you mean `cpus`?");
        assert_eq!(closest("short-names", &known), "; did you mean `short_names`?");
        assert_eq!(closest("read_only", &known), "; did you mean `read-only`?");
        assert_eq!(closest("network", &known), ": known are memory, cpus, short_names, read-only");
        assert!(closest(&"x".repeat(100_000), &known).starts_with(": known"));
    }

    #[test]
    fn the_mark_stands_below_the_letter() {
        assert_eq!(excerpt("a: b\nçé: x\n", 2, 5), " 2 | çé: x\n   |     ^");
        assert_eq!(excerpt("a:\n", 1, 3), " 1 | a:\n   |   ^");
        assert_eq!(excerpt("", 1, 1), " 1 | \n   | ^");
        assert_eq!(excerpt("a", 9, 9), " 9 | \n   | ^");
    }

    #[test]
    fn long_lines_are_cut_around_the_mark() {
        let text = format!("{}X{}", "a".repeat(500), "b".repeat(500));
        let shown = excerpt(&text, 1, 501);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0].find('X'), lines[1].find('^'));
        assert!(lines[0].len() < 100);
    }

    #[test]
    fn an_excerpt_cannot_steer_a_terminal() {
        let shown = excerpt("a: \u{1b}[31m\u{202e}\tb\r", 1, 1);
        assert!(!shown.contains(['\u{1b}', '\u{202e}', '\t', '\r']), "{shown:?}");
    }
}
