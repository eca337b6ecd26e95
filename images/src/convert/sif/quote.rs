//! Texts as words of a shell script, so that a shell reads back every byte.

/// Writes `text` as one word of POSIX sh.
///
/// In single quotes everything means itself (POSIX.1-2017, "Single-Quotes"), but for the quote
/// itself, which stands in double quotes: the shell that Apptainer has built in (mvdan.cc/sh) reads
/// `\'` in the value of a variable as two characters. It also leaves out a carriage return before
/// the end of a line, quoted or not, so that one is printed.
pub(super) fn quote(text: &str) -> String {
    let mut word = String::with_capacity(text.len() + 2);
    word.push('\'');
    for c in text.chars() {
        match c {
            '\'' => word.push_str(r#"'"'"'"#),
            '\r' => word.push_str("'\"$(printf '\\r')\"'"),
            _ => word.push(c),
        }
    }
    word.push('\'');
    word
}

/// Whether a shell takes `name` as that of a variable (POSIX.1-2017, "Name").
pub(super) fn is_name(name: &str) -> bool {
    let is_start = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(is_start) && name.chars().all(|c| is_start(c) || c.is_ascii_digit())
}
