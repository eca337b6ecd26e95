//! The only place that knows the YAML reader: text in, [`Draft`] or [`Mistake`] out.
//!
//! Policy files are plain YAML: no anchors, aliases, merge keys, tags or further documents. None of
//! them is needed here, and each is a way to make a file say something else than it seems to.

use std::path::{Path, PathBuf};

use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{Error, MergeKeyPolicy};

use crate::check::check;
use crate::keys::Keys;
use crate::mistake::{Mistake, closest};

/// Bytes of a policy file. The longest seen in the field have some hundred lines.
pub(crate) const FILE_BYTES_MAX: usize = 256 * 1024;

/// Values, keys and collections in a policy file, so that a hostile one costs milliseconds.
const NODES_MAX: usize = 4_000;

/// Nested lists and mappings; the deepest key needs four.
const DEPTH_MAX: usize = 8;

const ANCHORS: &str = "policy files have no anchors (`&name`) and aliases (`*name`); \
                       quote a text that begins with `*`";

/// What one file says: any of the keys, each with its place.
#[derive(Debug, Clone)]
pub struct Draft {
    pub(crate) path: PathBuf,
    pub(crate) keys: Keys,
}

impl Draft {
    /// Reads the text of a policy file; `path` is for messages and origins.
    ///
    /// # Errors
    /// [`Mistake`], the first one, if the text is not YAML, has an unknown or a repeated key, or
    /// a value that no policy can have.
    pub fn parse(path: &Path, text: &str) -> Result<Draft, Mistake> {
        let mistake = |(line, column), message| Mistake::at(path, text, line, column, message);
        if text.len() > FILE_BYTES_MAX {
            let message = format!("the file has more than {FILE_BYTES_MAX} bytes");
            return Err(mistake((1, 1), message));
        }
        let keys = read(text).map_err(|error| mistake(place(&error), message(&error)))?;
        check(&keys).map_err(|(place, message)| mistake(place, message))?;
        Ok(Draft { path: path.to_owned(), keys })
    }
}

fn read(text: &str) -> Result<Keys, Error> {
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

/// What an admin reads. The reader's own words speak of Rust types and options.
#[expect(clippy::wildcard_enum_match_arm, reason = "the reader's enum is open, with 50 variants")]
fn message(error: &Error) -> String {
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
        Error::SerdeMissingField { field: "version", .. } => {
            "the key `version` is missing: a policy begins with `version: 1`".to_owned()
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
        Error::Eof { .. } => "nothing is said here: a policy begins with `version: 1`".to_owned(),
        Error::UnknownAnchor { .. } => ANCHORS.to_owned(),
        Error::MultipleDocuments { .. } => "a second document begins here".to_owned(),
        Error::TaggedStructFieldName { .. } => "policy files have no tags on keys".to_owned(),
        Error::MergeKeyNotAllowed { .. } => "policy files have no merge keys (`<<`)".to_owned(),
        Error::Budget { breach, .. } => budget_message(breach),
        Error::ExternalMessage { msg, .. } if msg == "recursion limit exceeded" => too_deep(),
        Error::ExternalMessage { msg, .. } if msg.contains("anchor or alias") => ANCHORS.to_owned(),
        // The reader's words for broken YAML ("unclosed quote"), without the place.
        Error::Message { msg, .. } | Error::ExternalMessage { msg, .. } => msg.clone(),
        other => {
            let text = other.without_snippet().to_string();
            text.split_once(" at line ").map_or(text.as_str(), |(text, _)| text).to_owned()
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the reader's enum is open")]
fn budget_message(breach: &BudgetBreach) -> String {
    match breach {
        BudgetBreach::Anchors { .. } | BudgetBreach::Aliases { .. } => ANCHORS.to_owned(),
        BudgetBreach::Depth { .. } => too_deep(),
        // The rest are amounts: nodes, events, documents.
        _ => format!("the file has more than {NODES_MAX} values"),
    }
}

fn too_deep() -> String {
    format!("lists and keys are nested more than {DEPTH_MAX} deep")
}
