//! Prints a policy: as YAML with the origin of every value, and as the digest of all values.

use std::convert::Infallible;
use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::keys::{BoundKeys, Keys, Visitor, visit};
use crate::meaning::{Choice, Grant, Said};
use crate::said::{Key, Limit, Listed};
use crate::{Bound, Origin, Policy, Ruled};
use ric_yaml::Unit;

/// First line of what is digested. A change of what the values mean changes it.
const DIGEST_FORM: &str = "run-in-container policy 1";

impl Policy {
    /// This policy as a policy file, with the origin of each value as a comment.
    ///
    /// Reading it as a site's file gives a policy with the same digest.
    pub fn show(&self) -> String {
        let mut text = String::from("version: 1\n");
        line(&mut text, "", &format!("name: {}", serde_json::Value::from(&*self.name)), None);
        let mut open: Vec<&str> = Vec::new();
        for Entry { key, value, origin } in entries(self) {
            let mut parents: Vec<&str> = key.split('.').collect();
            let Some(leaf) = parents.pop() else { continue };
            let same = open.iter().zip(&parents).take_while(|(a, b)| a == b).count();
            for (depth, parent) in parents.iter().enumerate().skip(same) {
                line(&mut text, &indent(depth), &format!("{parent}:"), None);
            }
            let indent = indent(parents.len());
            match value {
                Value::One(one) => {
                    line(&mut text, &indent, &format!("{leaf}: {one}"), Some(&origin))
                }
                Value::Each(each) if each.is_empty() => {
                    line(&mut text, &indent, &format!("{leaf}: []"), Some(&origin));
                }
                Value::Each(each) => {
                    line(&mut text, &indent, &format!("{leaf}:"), None);
                    for (one, origin) in each {
                        line(&mut text, &indent, &format!("  - {one}"), Some(&origin));
                    }
                }
            }
            open = parents;
        }
        text
    }

    /// SHA-256 of all values in one canonical form, in 64 hex digits.
    ///
    /// Origins, files and the name are not in it: they change no decision. The order of a list is
    /// only where it has a meaning.
    pub(crate) fn computed_digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(DIGEST_FORM);
        for Entry { key, value, .. } in entries(self) {
            hash.update(format!("\n{key}:"));
            match value {
                Value::One(one) => hash.update(one),
                Value::Each(each) => {
                    let mut values: Vec<_> = each.into_iter().map(|(one, _)| one).collect();
                    values.sort_unstable();
                    // Every value is one line, so that lines cannot be taken for each other.
                    values.iter().for_each(|one| hash.update(format!("\n- {one}")));
                }
            }
        }
        hash.finalize().iter().fold(String::new(), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

/// One key with its value, ready to print.
struct Entry {
    key: &'static str,
    value: Value,
    origin: Origin,
}

enum Value {
    /// A value in one line.
    One(String),
    /// A list without an order, each with its own origin.
    Each(Vec<(String, Origin)>),
}

fn entries(policy: &Policy) -> Vec<Entry> {
    let mut list = List { policy, entries: Vec::new() };
    match visit(&mut policy.clone(), &Keys::default(), &mut list) {
        Ok(()) => list.entries,
        Err(never) => match never {},
    }
}

struct List<'a> {
    policy: &'a Policy,
    entries: Vec<Entry>,
}

impl List<'_> {
    fn add(&mut self, key: &'static str, value: Value, origin: &Origin) {
        self.entries.push(Entry { key, value, origin: origin.clone() });
    }

    fn each<S: Said>(&mut self, key: &'static str, rules: &[Ruled<S::Rule>]) {
        let each = rules.iter().map(|rule| (S::show(&rule.value), rule.origin.clone())).collect();
        self.add(key, Value::Each(each), self.policy.origin_of(key));
    }

    fn amount<U: Unit>(&mut self, key: &'static str, rule: Option<&Ruled<U::Value>>) {
        let shown = rule.map_or_else(|| "none".to_owned(), |rule| U::show(rule.value));
        let origin = rule.map_or_else(|| self.policy.origin_of(key), |rule| &rule.origin).clone();
        self.add(key, Value::One(shown), &origin);
    }
}

impl Visitor for List<'_> {
    type Error = Infallible;

    fn grants<S: Grant>(
        &mut self,
        key: &'static str,
        rule: &mut Vec<Ruled<S::Rule>>,
        _: &Key<Listed<S>>,
    ) -> Result<(), Infallible> {
        self.each::<S>(key, rule);
        Ok(())
    }

    fn ranking<S: Said>(
        &mut self,
        key: &'static str,
        rule: &mut Ruled<Vec<S::Rule>>,
        _: &Key<Listed<S>>,
    ) -> Result<(), Infallible> {
        let shown: Vec<_> = rule.value.iter().map(S::show).collect();
        self.add(key, Value::One(format!("[{}]", shown.join(", "))), &rule.origin);
        Ok(())
    }

    fn demands<S: Said>(
        &mut self,
        key: &'static str,
        rule: &mut Vec<Ruled<S::Rule>>,
        _: &Key<Listed<S>>,
    ) -> Result<(), Infallible> {
        self.each::<S>(key, rule);
        Ok(())
    }

    fn choice<S: Choice>(
        &mut self,
        key: &'static str,
        rule: &mut Ruled<S::Rule>,
        _: &Key<S>,
    ) -> Result<(), Infallible> {
        self.add(key, Value::One(S::show(&rule.value)), &rule.origin);
        Ok(())
    }

    fn bound<U: Unit>(
        &mut self,
        keys: BoundKeys,
        rule: &mut Bound<U::Value>,
        _: &Limit<U>,
    ) -> Result<(), Infallible> {
        self.amount::<U>(keys.default, rule.default.as_ref());
        self.amount::<U>(keys.most, rule.most.as_ref());
        Ok(())
    }
}

fn indent(depth: usize) -> String {
    "  ".repeat(depth)
}

fn line(text: &mut String, indent: &str, content: &str, origin: Option<&Origin>) {
    let comment = origin.map_or_else(String::new, |origin| format!("  # {origin}"));
    text.push_str(&format!("{indent}{content}{comment}\n"));
}
