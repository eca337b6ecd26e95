//! The JSON Schema and the admin's manual are what the keys' own documentation says.
//!
//! `RIC_BLESS=1 cargo nextest run -p ric-policies` writes both anew.

#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "all of it is a test")]

mod golden;

use golden::{check, here};
use ric_policies::{BUILT_IN_YAML, schema};
use serde_json::Value;

const INTRODUCTION: &str = include_str!("manual/introduction.md");

#[test]
fn the_schema_is_what_review_has_seen() {
    let schema = serde_json::to_string_pretty(&schema()).unwrap();
    check(&here("schema.json"), &format!("{schema}\n"));
}

#[test]
fn the_manual_is_current() {
    let mut text = INTRODUCTION.to_owned();
    text.push_str("\n## Keys\n");
    let schema = schema();
    keys(&schema, "", &mut text);
    text.push_str("\n## The built-in policy\n\n");
    text.push_str(
        "What holds on a machine without a policy file, and for every key that the file\n",
    );
    text.push_str(&format!(
        "leaves out (`policies/default.yaml`):\n\n```yaml\n{BUILT_IN_YAML}```\n"
    ));
    check(&here("../../docs/policy.md"), &text);
}

/// Every key has a description: an admin sees no key that nobody explained.
#[test]
fn every_key_is_explained() {
    let mut text = String::new();
    keys(&schema(), "", &mut text);
    for section in text.split("\n### ").skip(1) {
        assert!(section.lines().count() > 2, "{section}");
    }
}

/// A section for each key of `schema`, with those below it.
fn keys(schema: &Value, above: &str, text: &mut String) {
    let Some(properties) = schema["properties"].as_object() else { return };
    for (name, property) in properties {
        let key = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        text.push_str(&format!("\n### `{key}`\n"));
        if let Some(description) = property["description"].as_str() {
            text.push_str(&format!("\n{description}\n"));
        }
        let words = words(property);
        if !words.is_empty() {
            text.push_str(&format!("\n{words}"));
        }
        // The two keys of a limit are told once, in the section above them.
        if property["properties"].get("most").is_none() {
            keys(property, &key, text);
        }
    }
}

/// A list of the words that a key takes, where they are a closed set.
fn words(property: &Value) -> String {
    let variants = property["oneOf"].as_array().or(property["items"]["oneOf"].as_array());
    let line = |variant: &Value| {
        let word = variant["const"].as_str()?;
        let description = variant["description"].as_str()?.replace('\n', " ");
        Some(format!("- `{word}`: {description}\n"))
    };
    variants.into_iter().flatten().filter_map(line).collect()
}
