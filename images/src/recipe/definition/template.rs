//! `{{ NAME }}`: what the caller gives with `--build-arg`, or the default under `%arguments`.

use super::sections::logical_lines;
use crate::recipe::error::{Place, RecipeError};

/// Bytes of a stage at most, once its arguments are filled in.
const FILLED_BYTES_MAX: usize = 2 << 20;

/// The text of a stage with its arguments filled in. What of `given` was used is taken out of
/// `rest`.
pub(super) fn filled(
    text: &str,
    at: &Place,
    given: &[(String, String)],
    rest: &mut Vec<(String, String)>,
) -> Result<String, RecipeError> {
    let defaults = defaults(text, at)?;
    let mut new = String::with_capacity(text.len());
    let mut left = text;
    while let Some(begin) = left.find("{{") {
        let inner = &left[begin + 2..];
        let end = inner.find("}}");
        let name = end.map(|end| inner[..end].trim()).filter(|name| is_name(name));
        let (Some(name), Some(end)) = (name, end) else {
            // As in a shell's or a template's own text.
            new.push_str(&left[..begin + 2]);
            left = inner;
            continue;
        };
        new.push_str(&left[..begin]);
        let of_caller = given.iter().rev().find(|(known, _)| known == name);
        let of_file = || defaults.iter().rev().find(|(known, _)| known == name);
        let Some((_, value)) = of_caller.or_else(of_file) else {
            let line = at.line + new.matches('\n').count();
            let place = Place { line, text: format!("{{{{ {name} }}}}"), ..at.clone() };
            let wrong = format!("`{name}` has no value: give `--build-arg {name}=…`");
            return Err(place.wrong(wrong));
        };
        rest.retain(|(known, _)| known != name);
        new.push_str(value);
        left = &inner[end + 2..];
        if new.len() > FILLED_BYTES_MAX {
            return Err(at.wrong(format!("filled in it has more than {FILLED_BYTES_MAX} bytes")));
        }
    }
    new.push_str(left);
    Ok(new)
}

/// `NAME=VALUE` under `%arguments`.
fn defaults(text: &str, at: &Place) -> Result<Vec<(String, String)>, RecipeError> {
    let mut all = Vec::new();
    let mut is_in = false;
    for (line, text) in logical_lines(text) {
        let text = text.trim();
        if let Some(section) = text.strip_prefix('%') {
            is_in = section.split_whitespace().next() == Some("arguments");
        } else if is_in && !text.is_empty() && !text.starts_with('#') {
            let place = Place { line: at.line + line, text: text.to_owned(), ..at.clone() };
            let (name, value) = text.split_once('=').unwrap_or_default();
            if !is_name(name.trim()) {
                return Err(place.wrong("expected `NAME=VALUE`"));
            }
            let value = value.trim();
            let quoted = ['"', '\'']
                .iter()
                .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
            all.push((name.trim().to_owned(), quoted.unwrap_or(value).to_owned()));
        }
    }
    Ok(all)
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
