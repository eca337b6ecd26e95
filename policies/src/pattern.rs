//! Patterns of image names: `*` stands for any text, also across `/`; all else for itself.

use std::collections::BTreeSet;

/// Steps that all intersections for one file may take, some tens of milliseconds. A pair takes one
/// if one covers the other, else as many as it has letters; only many `*` among repeated letters
/// take more. A thousand patterns beside a thousand others fit.
pub(crate) const STEPS_MAX: u32 = 1_000_000;

/// An intersection of two patterns has too many parts to be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooManyParts;

/// Whether `pattern` matches the whole of `text`. Takes time linear in the length of both.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(text) = text.strip_prefix(head) else { return false };
    let Some(mut text) = text.strip_suffix(tail) else { return false };
    // The leftmost place for each piece leaves the most text for those after it.
    for piece in middle.split('*') {
        match text.find(piece) {
            Some(start) => text = &text[start + piece.len()..],
            None => return false,
        }
    }
    true
}

/// Whether `outer` matches all that `inner` matches.
///
/// A `*` in `inner` stands for texts that no letters of `outer` foresee, and letters never equal
/// it, so only a `*` of `outer` can match it: the question is [`matches`] on the pattern itself.
pub(crate) fn covers(outer: &str, inner: &str) -> bool {
    matches(outer, inner)
}

/// Patterns that together match exactly what both `a` and `b` match. Counts `steps_left` down.
///
/// # Errors
/// [`TooManyParts`] if `steps_left` runs out.
pub(crate) fn intersect(
    a: &str,
    b: &str,
    steps_left: &mut u32,
) -> Result<Vec<String>, TooManyParts> {
    *steps_left = steps_left.checked_sub(1).ok_or(TooManyParts)?;
    if covers(a, b) {
        return Ok(vec![b.to_owned()]);
    }
    if covers(b, a) {
        return Ok(vec![a.to_owned()]);
    }
    let mut search = Search { parts: BTreeSet::new(), steps_left };
    let letters = |text: &str| text.chars().collect::<Vec<_>>();
    search.walk(&letters(a), &letters(b), String::new())?;
    let parts = search.parts;
    let redundant = |part: &String| parts.iter().any(|other| other != part && covers(other, part));
    Ok(parts.iter().filter(|part| !redundant(part)).cloned().collect())
}

struct Search<'a> {
    parts: BTreeSet<String>,
    steps_left: &'a mut u32,
}

impl Search<'_> {
    /// Adds the parts that begin with `part` and go on with what both `a` and `b` match.
    fn walk(&mut self, a: &[char], b: &[char], mut part: String) -> Result<(), TooManyParts> {
        *self.steps_left = self.steps_left.checked_sub(1).ok_or(TooManyParts)?;
        match (a.split_first(), b.split_first()) {
            (None, None) => {
                self.parts.insert(part);
                Ok(())
            }
            // Two wildcards: some text that both take, then one of them ends before the other.
            (Some(('*', a_rest)), Some(('*', b_rest))) => {
                if !part.ends_with('*') {
                    part.push('*');
                }
                self.walk(a_rest, b, part.clone())?;
                self.walk(a, b_rest, part)
            }
            // A wildcard and a letter: the wildcard ends here, or takes the letter and goes on.
            (Some(('*', a_rest)), other) => {
                self.walk(a_rest, b, part.clone())?;
                self.take(other, part, |search, b_rest, part| search.walk(a, b_rest, part))
            }
            (other, Some(('*', b_rest))) => {
                self.walk(a, b_rest, part.clone())?;
                self.take(other, part, |search, a_rest, part| search.walk(a_rest, b, part))
            }
            (Some((a_letter, a_rest)), Some((b_letter, b_rest))) if a_letter == b_letter => {
                part.push(*a_letter);
                self.walk(a_rest, b_rest, part)
            }
            (Some(_), Some(_)) | (Some(_), None) | (None, Some(_)) => Ok(()),
        }
    }

    /// Goes on after the next letter of one side, if there is one.
    fn take(
        &mut self,
        next: Option<(&char, &[char])>,
        mut part: String,
        go_on: impl FnOnce(&mut Self, &[char], String) -> Result<(), TooManyParts>,
    ) -> Result<(), TooManyParts> {
        let Some((letter, rest)) = next else { return Ok(()) };
        part.push(*letter);
        go_on(self, rest, part)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn both(a: &str, b: &str) -> Result<Vec<String>, TooManyParts> {
        intersect(a, b, &mut STEPS_MAX.clone())
    }

    #[test]
    fn matches_the_whole_text() {
        assert!(matches("docker://r.example/*", "docker://r.example/a/b:1"));
        assert!(!matches("docker://r.example/*", "docker://r.example.evil/a"));
        assert!(!matches("docker://r.example/a", "docker://r.example/ab"));
        assert!(matches("*", ""));
        assert!(!matches("", "a"));
        assert!(matches("host:", "host:"));
        assert!(!matches("ab*ba", "aba"));
        assert!(matches("a*b*a", "aba"));
    }

    /// Exponential matchers take longer than the universe on this pair.
    #[test]
    fn many_wildcards_do_not_slow_matching_down() {
        let pattern = "a*".repeat(2_000) + "b";
        assert!(!matches(&pattern, &"a".repeat(100_000)));
    }

    #[test]
    fn intersects_what_people_write() {
        let pinned = both("docker://r.example/*", "*@sha256:*");
        assert_eq!(pinned, Ok(vec!["docker://r.example/*@sha256:*".to_owned()]));
        assert_eq!(both("docker://a/*", "docker://b/*"), Ok(vec![]));
        assert_eq!(both("*", "host:"), Ok(vec!["host:".to_owned()]));
        assert_eq!(both("a*", "*a"), Ok(vec!["a".to_owned(), "a*a".to_owned()]));
    }

    #[test]
    fn gives_up_on_patterns_that_explode() {
        assert_eq!(both(&"*ab".repeat(20), &"*ba".repeat(20)), Err(TooManyParts));
    }

    proptest! {
        // A failing case is printed, not stored.
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// By all texts over two letters: the intersection matches a text if both patterns do.
        #[test]
        fn intersection_is_exact(a in "[ab*]{0,6}", b in "[ab*]{0,6}", text in "[ab]{0,10}") {
            if let Ok(parts) = both(&a, &b) {
                let both = matches(&a, &text) && matches(&b, &text);
                prop_assert_eq!(parts.iter().any(|part| matches(part, &text)), both);
            }
        }

        #[test]
        fn matching_agrees_with_a_plain_definition(
            pattern in "[ab*]{0,8}", text in "[ab]{0,10}",
        ) {
            fn plainly(pattern: &[u8], text: &[u8]) -> bool {
                match (pattern.split_first(), text.split_first()) {
                    (None, rest) => rest.is_none(),
                    (Some((b'*', rest)), next) => {
                        plainly(rest, text) || next.is_some_and(|(_, text)| plainly(pattern, text))
                    }
                    (Some((p, rest)), Some((t, text))) => p == t && plainly(rest, text),
                    (Some(_), None) => false,
                }
            }
            prop_assert_eq!(matches(&pattern, &text), plainly(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn covering_means_matching_no_less(
            a in "[ab*]{0,6}", b in "[ab*]{0,6}", text in "[ab]{0,10}",
        ) {
            prop_assert!(!(covers(&a, &b) && matches(&b, &text)) || matches(&a, &text));
        }
    }
}
