//! Expands variables in the words of an instruction, as BuildKit does: much like a shell.

mod pattern;

use pattern::Pattern;

/// Bytes of an expanded text at most: a longer one could not be passed to a program
/// (`MAX_ARG_STRLEN`, linux/binfmts.h).
const TEXT_BYTES_MAX: usize = 128 << 10;
/// Expansions inside expansions.
const DEPTH_MAX: usize = 16;

/// What is known when a text is expanded. Errors say what is wrong with the text.
#[derive(Clone, Copy)]
pub(super) struct Expander<'a> {
    pub(super) escape: char,
    pub(super) variables: &'a [(String, String)],
}

impl<'a> Expander<'a> {
    /// Expands `text` to one word: quotes and escapes go.
    pub(super) fn word(&self, text: &str) -> Result<String, String> {
        let mut words = self.run(text, false, true)?;
        Ok(words.pop().unwrap_or_default())
    }

    /// Expands `text` to words, separated by blanks outside of quotes.
    pub(super) fn words(&self, text: &str) -> Result<Vec<String>, String> {
        self.run(text, true, true)
    }

    /// Expands the contents of a here-document: quotes stay.
    pub(super) fn content(&self, text: &str) -> Result<String, String> {
        // The escape character of here-documents is a backslash whatever that of the file is.
        let mut words = Expander { escape: '\\', ..*self }.run(text, false, false)?;
        Ok(words.pop().unwrap_or_default())
    }

    fn run(&self, text: &str, splits: bool, has_quotes: bool) -> Result<Vec<String>, String> {
        let characters: Vec<char> = text.chars().collect();
        let mut reader =
            Reader { expander: *self, characters: &characters, at: 0, has_quotes, depth: 0 };
        let mut words = Words { done: Vec::new(), current: None, bytes: 0, splits };
        reader.read(None, false, &mut words)?;
        words.done.extend(words.current);
        Ok(words.done)
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        let found = self.variables.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// The words that are being made.
struct Words {
    done: Vec<String>,
    current: Option<String>,
    bytes: usize,
    splits: bool,
}

impl Words {
    fn push_quoted(&mut self, character: char) -> Result<(), String> {
        self.bytes += character.len_utf8();
        if self.bytes > TEXT_BYTES_MAX {
            return Err(format!("expands to more than {TEXT_BYTES_MAX} bytes"));
        }
        self.current.get_or_insert_default().push(character);
        Ok(())
    }

    fn push(&mut self, character: char) -> Result<(), String> {
        if self.splits && character.is_whitespace() {
            self.done.extend(self.current.take());
            return Ok(());
        }
        self.push_quoted(character)
    }

    fn begin(&mut self) {
        self.current.get_or_insert_default();
    }
}

/// Words with their quotes and escapes, separated by blanks outside of those.
pub(in crate::recipe) fn escaped_words(text: &str, escape: char) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if quote.is_none() && character.is_whitespace() {
            words.push(String::new());
            continue;
        }
        let word = words.last_mut().expect("one at least");
        word.push(character);
        match quote {
            None if matches!(character, '\'' | '"') => quote = Some(character),
            Some(open) if character == open => quote = None,
            // Nothing escapes in single quotes.
            None | Some('"') if character == escape => word.extend(characters.next()),
            None | Some(_) => {}
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

struct Reader<'a> {
    expander: Expander<'a>,
    characters: &'a [char],
    at: usize,
    has_quotes: bool,
    depth: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.characters.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.at += 1;
        Some(character)
    }

    /// Reads to the end, or past `stop`.
    fn read(
        &mut self,
        stop: Option<char>,
        keeps_escapes: bool,
        words: &mut Words,
    ) -> Result<(), String> {
        while let Some(character) = self.next() {
            match character {
                _ if Some(character) == stop => return Ok(()),
                '\'' if self.has_quotes => self.single_quoted(words)?,
                '"' if self.has_quotes => self.double_quoted(words)?,
                '$' => {
                    for character in self.dollar()?.chars() {
                        words.push(character)?;
                    }
                }
                _ if character == self.expander.escape => {
                    if keeps_escapes {
                        words.push_quoted(character)?;
                    }
                    if let Some(escaped) = self.next() {
                        words.push_quoted(escaped)?;
                    }
                }
                _ => words.push(character)?,
            }
        }
        match stop {
            None => Ok(()),
            Some(stop) => Err(format!("`{stop}` is missing after `${{`")),
        }
    }

    fn single_quoted(&mut self, words: &mut Words) -> Result<(), String> {
        words.begin();
        while let Some(character) = self.next() {
            if character == '\'' {
                return Ok(());
            }
            words.push_quoted(character)?;
        }
        Err("a single quote is not closed".to_owned())
    }

    fn double_quoted(&mut self, words: &mut Words) -> Result<(), String> {
        words.begin();
        while let Some(character) = self.next() {
            match character {
                '"' => return Ok(()),
                '$' => {
                    for character in self.dollar()?.chars() {
                        words.push_quoted(character)?;
                    }
                }
                _ if character == self.expander.escape => match self.next() {
                    Some(escaped) if escaped == '"' || escaped == '$' || escaped == character => {
                        words.push_quoted(escaped)?;
                    }
                    Some(other) => {
                        words.push_quoted(character)?;
                        words.push_quoted(other)?;
                    }
                    None => {}
                },
                _ => words.push_quoted(character)?,
            }
        }
        Err("a double quote is not closed".to_owned())
    }

    /// What stands for a dollar and what follows it.
    fn dollar(&mut self) -> Result<String, String> {
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(self.expander.value(&name).unwrap_or_default().to_owned());
        }
        self.at += 1;
        let name = self.name();
        if name.is_empty() {
            return Err("`${` is not followed by a name".to_owned());
        }
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} expansions inside one another"));
        }
        let value = self.modified(&name)?;
        self.depth -= 1;
        Ok(value)
    }

    fn name(&mut self) -> String {
        let start = self.at;
        match self.peek() {
            Some(digit) if digit.is_ascii_digit() => {
                while self.peek().is_some_and(|c| c.is_ascii_digit()) {
                    self.at += 1;
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => self.at += 1,
            Some(_) | None => {
                while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
                    self.at += 1;
                }
            }
        }
        self.characters[start..self.at].iter().collect()
    }

    /// The value of `${NAME…`, from behind the name.
    fn modified(&mut self, name: &str) -> Result<String, String> {
        let known = self.expander.value(name);
        let value = known.unwrap_or_default();
        let operator = self.next().ok_or("`}` is missing after `${`")?;
        match operator {
            '}' => Ok(value.to_owned()),
            ':' => match self.next() {
                Some(operator @ ('-' | '+' | '?')) => {
                    self.instead(operator, name, known.filter(|value| !value.is_empty()))
                }
                _ => Err(format!("`${{{name}:` is not followed by -, + or ?")),
            },
            '-' | '+' | '?' => self.instead(operator, name, known),
            '#' | '%' => {
                let is_longest = self.peek() == Some(operator);
                self.at += usize::from(is_longest);
                let pattern = Pattern::parse(&self.inner('}', true)?)?;
                match operator {
                    '#' => pattern.without_prefix(value, is_longest),
                    _ => pattern.without_suffix(value, is_longest),
                }
            }
            '/' => {
                let is_every = self.peek() == Some('/');
                self.at += usize::from(is_every);
                let pattern = Pattern::parse(&self.inner('/', true)?)?;
                let replacement = self.inner('}', true)?;
                pattern.replace(value, &replacement, is_every)
            }
            _ => Err(format!("`${{{name}{operator}` has a modifier that is not known")),
        }
    }

    /// `-`, `+` and `?`, which look at whether there is a value.
    fn instead(
        &mut self,
        operator: char,
        name: &str,
        value: Option<&str>,
    ) -> Result<String, String> {
        let word = self.inner('}', false)?;
        match (operator, value) {
            ('-', None) | ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value.to_owned()),
            (_, None) if word.is_empty() => Err(format!("the variable `{name}` has no value")),
            (_, None) => Err(format!("{name}: {word}")),
        }
    }

    /// A word inside of `${}`, up to `stop`.
    fn inner(&mut self, stop: char, keeps_escapes: bool) -> Result<String, String> {
        let mut words = Words { done: Vec::new(), current: None, bytes: 0, splits: false };
        self.read(Some(stop), keeps_escapes, &mut words)?;
        Ok(words.current.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expander(variables: &[(String, String)]) -> Expander<'_> {
        Expander { escape: '\\', variables }
    }

    fn variables() -> Vec<(String, String)> {
        let pairs = [("a", "x y"), ("empty", ""), ("path", "/a/b/c.tar.gz"), ("v", "1.2.3")];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }

    #[test]
    fn expands_as_the_reference_says() {
        let variables = variables();
        for (text, expected) in [
            ("$a-${a}", "x y-x y"),
            ("$none|${none}", "|"),
            ("${none:-d}${empty:-d}${empty-d}", "dd"),
            ("${a:+set}${empty:+set}${empty+set}", "setset"),
            ("${none:-${a:-b}}", "x y"),
            ("\\$a '$a' \"$a\"", "$a $a x y"),
            ("${path#*/}", "a/b/c.tar.gz"),
            ("${path##*/}", "c.tar.gz"),
            ("${path%.*}", "/a/b/c.tar"),
            ("${path%%.*}", "/a/b/c"),
            ("${v/./-} ${v//./-}", "1-2.3 1-2-3"),
            ("${path/\\/b/}", "/a/c.tar.gz"),
            ("a\\ b", "a b"),
            ("\"a\\nb\"", "a\\nb"),
            ("$", "$"),
            ("$.", "$."),
        ] {
            assert_eq!(expander(&variables).word(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn words_end_at_blanks_outside_of_quotes() {
        let variables = variables();
        let words = expander(&variables).words("$a \"$a\" '' b\\ c").unwrap();
        assert_eq!(words, ["x", "y", "x y", "", "b c"]);
    }

    #[test]
    fn here_documents_keep_their_quotes() {
        let content = expander(&variables()).content("don't \"$v\" \\$v\n").unwrap();
        assert_eq!(content, "don't \"1.2.3\" $v\n");
    }

    #[test]
    fn says_what_is_wrong() {
        let variables = variables();
        for (text, expected) in [
            ("'a", "a single quote is not closed"),
            ("\"a", "a double quote is not closed"),
            ("${a", "`}` is missing after `${`"),
            ("${}", "`${` is not followed by a name"),
            ("${a:x}", "`${a:` is not followed by -, + or ?"),
            ("${none:?say why}", "none: say why"),
            ("${none?}", "the variable `none` has no value"),
            ("${a^}", "`${a^` has a modifier that is not known"),
        ] {
            assert_eq!(expander(&variables).word(text).unwrap_err(), expected, "{text}");
        }
        let deep = "${none:-".repeat(1 << 16);
        let error = expander(&variables).word(&deep).unwrap_err();
        assert!(error.contains("inside one another"), "{error}");
        let long = [("a".to_owned(), "x".repeat(100_000))];
        assert!(expander(&long).word("$a$a").unwrap_err().contains("bytes"));
    }
}
