//! The only place that knows the YAML reader: text in, a value or a [`Mistake`] out.
//!
//! Our files are plain YAML: no anchors, aliases, merge keys, tags or further documents. None of
//! them is needed here, and each is a way to make a file say something else than it seems to.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{Error, MergeKeyPolicy};

use crate::mistake::{Mistake, closest};

/// Bytes of a file. The longest policies seen in the field have some hundred lines.
pub const FILE_BYTES_MAX: usize = 256 * 1024;

/// Values, keys and collections in a file, so that a hostile one costs milliseconds.
const NODES_MAX: usize = 4_000;

/// Nested lists and mappings; the deepest key needs four.
const DEPTH_MAX: usize = 8;

/// A kind of file, for the words of its mistakes.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// What such files are called: `policy files`.
    pub files: &'static str,
    /// The key that every one of them has.
    pub first_key: &'static str,
    /// How one begins: "a policy begins with `version: 1`".
    pub begins: &'static str,
}

/// Reads the text of a file of this kind; `path` is for messages.
///
/// # Errors
/// [`Mistake`], the first one, if the text is too long or not YAML, has an unknown or a repeated
/// key, or a value that `T` does not take.
pub fn read<T: DeserializeOwned>(path: &Path, text: &str, kind: Kind) -> Result<T, Mistake> {
    let mistake = |(line, column), message| Mistake::at(path, text, line, column, message);
    if text.len() > FILE_BYTES_MAX {
        let message = format!("the file has more than {FILE_BYTES_MAX} bytes");
        return Err(mistake((1, 1), message));
    }
    parse(text).map_err(|error| mistake(place(&error), message(&error, kind)))
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    let budget = serde_saphyr::budget! {
        max_anchors: 0,
        max_aliases: 0,
        max_depth: DEPTH_MAX,
        max_nodes: NODES_MAX,
        max_events: NODES_MAX * 3,
        flow_nesting_limit: DEPTH_MAX,
    };
    let options = serde_saphyr::options! {
        budget: budget,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        strict_indentation: true,
        reject_unsupported_tags: true,
        reject_tagged_field_names: true,
        emit_comments: false,
        // The excerpt is ours, so that all messages of this program look alike.
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options)
}

/// Line and column; the file's beginning for a file that ends too early.
fn place(error: &Error) -> (u64, u64) {
    error.location().map_or((1, 1), |location| (location.line(), location.column()))
}

/// What the writer of the file reads. The reader's own words speak of Rust types and options.
#[expect(clippy::wildcard_enum_match_arm, reason = "the reader's enum is open, with 50 variants")]
fn message(error: &Error, kind: Kind) -> String {
    match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("unknown key `{}`{}", field.escape_debug(), closest(field, expected))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } if variant == "~" => {
            format!("nothing is written here, but one of {} is needed", expected.join(", "))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("unknown word `{}`{}", variant.escape_debug(), closest(variant, expected))
        }
        Error::SerdeMissingField { field, .. } if *field == kind.first_key => {
            format!("the key `{field}` is missing: {}", kind.begins)
        }
        Error::SerdeMissingField { field, .. } => format!("the key `{field}` is missing here"),
        Error::DuplicateMappingKey { key, .. } => match key {
            Some(key) => format!("the key `{}` is written twice", key.escape_debug()),
            None => "a key is written twice".to_owned(),
        },
        Error::NullIntoString { .. } => "nothing is written here, but a value is needed".to_owned(),
        Error::Unexpected { expected, .. } => match *expected {
            "sequence start" => "a list is needed here, such as `[one, two]`; `[]` is none".into(),
            "mapping start" => "keys with values are needed here".to_owned(),
            "string scalar" => "one value is needed here, not a list or keys".to_owned(),
            other => format!("{other} is needed here"),
        },
        Error::SerdeInvalidType { unexpected, expected, .. }
        | Error::SerdeInvalidValue { unexpected, expected, .. } => {
            format!("{expected} is needed here, not {unexpected}")
        }
        Error::ExternallyTaggedEnumExpectedScalarOrMapping { .. } => {
            "one word is needed here".to_owned()
        }
        Error::Eof { .. } => format!("nothing is said here: {}", kind.begins),
        Error::UnknownAnchor { .. } => anchors(kind),
        Error::MultipleDocuments { .. } => "a second document begins here".to_owned(),
        Error::TaggedStructFieldName { .. } => format!("{} have no tags on keys", kind.files),
        Error::MergeKeyNotAllowed { .. } => {
            format!("{} have no merge keys (`<<`)", kind.files)
        }
        Error::Budget { breach, .. } => budget_message(breach, kind),
        Error::ExternalMessage { msg, .. } if msg == "recursion limit exceeded" => too_deep(),
        Error::ExternalMessage { msg, .. } if msg.contains("anchor or alias") => anchors(kind),
        Error::Message { msg, .. } | Error::ExternalMessage { msg, .. }
            if msg.starts_with("mapping values are not allowed") =>
        {
            "a second colon on this line; quote a text that ends with one, such as `\"host:\"`"
                .into()
        }
        // The reader's words for broken YAML ("unclosed quote"), without the place.
        Error::Message { msg, .. } | Error::ExternalMessage { msg, .. } => msg.clone(),
        other => {
            let text = other.without_snippet().to_string();
            text.split_once(" at line ").map_or(text.as_str(), |(text, _)| text).to_owned()
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the reader's enum is open")]
fn budget_message(breach: &BudgetBreach, kind: Kind) -> String {
    match breach {
        BudgetBreach::Anchors { .. } | BudgetBreach::Aliases { .. } => anchors(kind),
        BudgetBreach::Depth { .. } => too_deep(),
        // The rest are amounts: nodes, events, documents.
        _ => format!("the file has more than {NODES_MAX} values"),
    }
}

fn too_deep() -> String {
    format!("lists and keys are nested more than {DEPTH_MAX} deep")
}

fn anchors(kind: Kind) -> String {
    let files = kind.files;
    format!(
        "{files} have no anchors (`&name`) and aliases (`*name`); quote a text that begins with \
         `*`"
    )
}
