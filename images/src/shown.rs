//! Makes text from outside fit to be shown in a message: short, on one line, without control
//! characters.

/// Characters of outside text that a message repeats: enough to recognise a name or a digest, too
/// few to flood a terminal or a log with what a registry or an archive sent.
const SHOWN_CHARACTERS_MAX: usize = 120;

/// Returns `text` with control characters escaped, cut after [`SHOWN_CHARACTERS_MAX`].
pub(crate) fn shown(text: &str) -> String {
    shown_within(text, SHOWN_CHARACTERS_MAX)
}

/// As [`shown`], cut after `characters_max`.
pub(crate) fn shown_within(text: &str, characters_max: usize) -> String {
    let mut out = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == characters_max {
            out.push('…');
            break;
        }
        if is_unprintable(character) {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

/// Control characters, and the marks that make a terminal show text in another order than it has.
fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_terminal_would_obey() {
        assert_eq!(shown("a\x1b[2Jb\nc\u{202e}"), "a\\u{1b}[2Jb\\nc\\u{202e}");
    }

    #[test]
    fn cuts_what_is_too_long() {
        assert_eq!(shown(&"x".repeat(1 << 20)).chars().count(), SHOWN_CHARACTERS_MAX + 1);
    }
}
