//! `%environment` as variables, as far as it is no more than assignments.
//!
//! Apptainer runs it as a shell script before everything that runs in the image. Assignments become
//! variables of the image, which every command, every call and Docker sees; where something else
//! begins, only a shell can tell what is set.

use super::sections::Section;
use crate::Config;
use crate::recipe::error::Place;
use crate::recipe::expand::{Expander, escaped_words};

/// Variables that a process has from who started it.
const OF_THE_RUN: [&str; 8] =
    ["HOME", "USER", "LOGNAME", "PWD", "OLDPWD", "TMPDIR", "HOSTNAME", "SHELL"];

/// What `%environment` comes to.
#[derive(Debug, Default)]
pub(super) struct Environment {
    /// What is exported, in order, before a line that is more than an assignment.
    pub(super) variables: Vec<(String, String)>,
    /// The first line that is.
    pub(super) opaque: Option<Place>,
}

/// Reads sections `%environment` upon what `base` declares.
pub(super) fn read(sections: &[Section], base: &Config) -> Environment {
    let mut environment = Environment::default();
    // Everything that is set, exported or not.
    let mut known = base.variables.clone();
    if !known.iter().any(|(name, _)| name == "PATH") {
        known.insert(0, ("PATH".to_owned(), crate::recipe::PATH.to_owned()));
    }
    for section in sections {
        for (number, line) in (1..).zip(section.text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if set(line, &mut known, &mut environment.variables).is_none() {
                let place = &section.place;
                let (line, text) = (place.line + number, line.to_owned());
                environment.opaque = Some(Place { line, text, ..place.clone() });
                return environment;
            }
        }
    }
    environment
}

/// Follows a line; `None` if it is more than assignments and exports.
fn set(
    line: &str,
    known: &mut Vec<(String, String)>,
    exported: &mut Vec<(String, String)>,
) -> Option<()> {
    is_plain(line).then_some(())?;
    let (is_export, rest) = match line.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => (true, rest.trim_start()),
        _ => (false, line),
    };
    for word in escaped_words(rest, '\\') {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None if is_export => (word.as_str(), None),
            None => return None,
        };
        let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        is_name.then_some(())?;
        if let Some(value) = value {
            let value = Expander { escape: '\\', variables: known }.word(value).ok()?;
            put(known, name, &value);
        }
        // What was exported before stays exported, and so do variables of the image.
        let is_exported = is_export || exported.iter().any(|(known, _)| known == name);
        let value = known.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        if let (true, Some(value)) = (is_exported, value) {
            put(exported, name, &value);
        }
    }
    Some(())
}

fn put(variables: &mut Vec<(String, String)>, name: &str, value: &str) {
    match variables.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => value.clone_into(old),
        None => variables.push((name.to_owned(), value.to_owned())),
    }
}

/// Whether a shell would do nothing with a line but take quotes away and fill variables in.
fn is_plain(line: &str) -> bool {
    let mut quote = None;
    let mut characters = line.chars().peekable();
    let mut before = ' ';
    // Braces of variables that are open; what stands in them is a word like any other.
    let mut open = 0_u32;
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (Some('\''), _) => {}
            (None, '\'' | '"') => quote = Some(character),
            // A backslash before the end continues the line.
            (_, '\\') if characters.next().is_none() => return false,
            (_, '\\') => {}
            (_, '`') => return false,
            (_, '$') => {
                let braced = characters.next_if_eq(&'{').is_some();
                let mut name = String::new();
                while let Some(next) =
                    characters.next_if(|c| c.is_ascii_alphanumeric() || *c == '_')
                {
                    name.push(next);
                }
                let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
                // Of the forms in braces, those that are the same to every shell.
                let is_simple = !braced || matches!(characters.peek(), Some('}' | ':'));
                open += u32::from(braced);
                if !is_name || !is_simple || OF_THE_RUN.contains(&name.as_str()) {
                    return false;
                }
            }
            (_, '}') if open > 0 => open -= 1,
            (None, ';' | '&' | '|' | '<' | '>' | '(' | ')' | '{' | '}' | '#' | '!') => {
                return false;
            }
            (None, '~') if matches!(before, '=' | ':' | ' ') => return false,
            _ => {}
        }
        before = character;
    }
    quote.is_none() && open == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(text: &str) -> (Vec<(String, String)>, Option<usize>) {
        let place = Place { file: "f".to_owned(), line: 0, text: String::new() };
        let name = "environment".to_owned();
        let section = Section { name, words: Vec::new(), place, text: text.to_owned() };
        let base = Config { variables: vec![("A".into(), "base".into())], ..Config::default() };
        let Environment { variables, opaque } = read(&[section], &base);
        (variables, opaque.map(|place| place.line))
    }

    /// What a shell says of the same lines: the one who defines what they mean.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "the shell is asked what it would do")]
    fn assignments_mean_what_a_shell_makes_of_them() {
        let lines = [
            "export B=1",
            "export PATH=/opt/bin:$PATH",
            "export Q='a $B \"c\"' R=\"x $B y\" S=a\\ b",
            "C=hidden\nexport D=$C/e",
            "C=late\nexport C\nC=later",
            "export E=${NOT_SET:-else} F=${B:-no}",
            "export A=$A:more",
            "export EMPTY=",
            "export UTF=ä\"ö\"",
            "export LD_LIBRARY_PATH=/l:$LD_LIBRARY_PATH",
        ];
        for line in lines {
            let (ours, opaque) = environment(line);
            assert_eq!(opaque, None, "{line}");
            let path = crate::recipe::PATH;
            let mut command = std::process::Command::new("/bin/sh");
            command.env_clear().env("A", "base").env("PATH", path);
            let script = format!("{line}\n/usr/bin/env");
            let output = command.args(["-c", &script]).output().unwrap();
            let output = String::from_utf8(output.stdout).unwrap();
            assert!(!ours.is_empty());
            for (name, value) in ours {
                assert!(output.lines().any(|l| l == format!("{name}={value}")), "{name} {output}");
            }
            assert!(!output.contains("\nC=hidden"));
        }
    }

    #[test]
    fn what_needs_a_shell_is_not_guessed() {
        let lines = [
            "export A=$(date)",
            "export A=`date`",
            "if true; then",
            ". /opt/env.sh",
            "source /opt/env.sh",
            "export A=$HOME/x",
            "export A=~/x",
            "export A=$1",
            "export A=${B#x}",
            "export A=1; export B=2",
            "export A=1 && true",
            "export A=\"open",
            "export A=a\\",
            "export 1A=b",
            "export A=1 # comment",
            "umask 022",
        ];
        for line in lines {
            let (variables, opaque) = environment(&format!("export Z=1\n{line}\nexport Y=2"));
            assert_eq!(variables, [("Z".to_owned(), "1".to_owned())], "{line}");
            assert_eq!(opaque, Some(2), "{line}");
        }
    }
}
