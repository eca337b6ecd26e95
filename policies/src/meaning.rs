//! What a value in a file means: as a rule, in print, and beside the same key of another file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::names::{AbsoluteFile, Directory, Host, ImagePattern, Offline, Permit, Uid};
use crate::pattern::{self, TooManyParts};
use crate::said::{MirrorSaid, MountSaid, ShortNamesSaid};
use crate::{EngineName, Fresh, Mirror, MountRule, Network, Protection, Ruled, RunAs, ShortNames};

/// Patterns that two lists may give together and neither has; `policy show` has to list them.
const NEW_PATTERNS_MAX: usize = 1_000;

/// A value as a file says it.
pub(crate) trait Said: Clone {
    /// The value as the policy holds it.
    type Rule: Clone + PartialEq;

    /// What was said, for the policy.
    fn rule(&self) -> Self::Rule;

    /// The value as YAML in one line. Equal rules, and only these, give equal texts.
    fn show(rule: &Self::Rule) -> String;

    /// What a list must not have twice.
    fn identity(rule: &Self::Rule) -> String {
        Self::show(rule)
    }
}

/// A value in a list of what is allowed.
pub(crate) trait Grant: Said {
    /// What both lists allow, in the order of `outer`. Each part keeps the origin of the list that
    /// allows less, `outer`'s where both say the same.
    fn meet(
        outer: &[Ruled<Self::Rule>],
        inner: &[Ruled<Self::Rule>],
        steps_left: &mut u32,
    ) -> Result<Vec<Ruled<Self::Rule>>, TooManyParts> {
        let _: &mut u32 = steps_left;
        let in_both =
            |rule: &&Ruled<Self::Rule>| inner.iter().any(|other| other.value == rule.value);
        Ok(outer.iter().filter(in_both).cloned().collect())
    }
}

/// A single value, of which one can be stricter than another.
pub(crate) trait Choice: Said {
    /// The strictest value that lies within both.
    fn stricter(outer: &Self::Rule, inner: &Self::Rule) -> Self::Rule;
}

impl Said for ImagePattern {
    type Rule = String;

    fn rule(&self) -> String {
        self.0.clone()
    }

    fn show(rule: &String) -> String {
        quoted(rule)
    }
}

impl Grant for ImagePattern {
    fn meet(
        outer: &[Ruled<String>],
        inner: &[Ruled<String>],
        steps_left: &mut u32,
    ) -> Result<Vec<Ruled<String>>, TooManyParts> {
        // Where one pattern lies within the other, it is the answer. What overlaps otherwise gives
        // new patterns, which are worth listing only if none of the former covers them.
        let mut within = BTreeMap::new();
        let mut new = BTreeMap::new();
        for rule in outer {
            for other in inner {
                for part in pattern::intersect(&rule.value, &other.value, steps_left)? {
                    let outer_says = part == rule.value;
                    let found =
                        if outer_says || part == other.value { &mut within } else { &mut new };
                    found.entry(part).or_insert(if outer_says {
                        &rule.origin
                    } else {
                        &other.origin
                    });
                }
                if new.len() > NEW_PATTERNS_MAX {
                    return Err(TooManyParts);
                }
            }
        }
        new.retain(|part, _| !within.keys().any(|found| pattern::covers(found, part)));
        within.append(&mut new);
        let rules = within.into_iter();
        let mut both: Vec<Ruled<String>> =
            rules.map(|(value, origin)| Ruled { value, origin: origin.clone() }).collect();
        let place = |kept: &Ruled<String>| outer.iter().position(|rule| rule.value == kept.value);
        both.sort_by_cached_key(|kept| place(kept).unwrap_or(usize::MAX));
        Ok(both)
    }
}

impl Said for Host {
    type Rule = String;

    fn rule(&self) -> String {
        self.0.clone()
    }

    fn show(rule: &String) -> String {
        quoted(rule)
    }
}

impl Grant for Host {}

impl Said for MirrorSaid {
    type Rule = Mirror;

    fn rule(&self) -> Mirror {
        Mirror { registry: self.registry.0.clone(), at: self.at.0.clone() }
    }

    fn show(rule: &Mirror) -> String {
        format!("{{registry: {}, at: {}}}", quoted(&rule.registry), quoted(&rule.at))
    }
}

impl Grant for MirrorSaid {}

impl Said for AbsoluteFile {
    type Rule = PathBuf;

    fn rule(&self) -> PathBuf {
        self.0.clone()
    }

    fn show(rule: &PathBuf) -> String {
        quoted(&rule.to_string_lossy())
    }
}

impl Grant for AbsoluteFile {}

impl Said for Directory {
    type Rule = PathBuf;

    fn rule(&self) -> PathBuf {
        self.0.clone()
    }

    fn show(rule: &PathBuf) -> String {
        quoted(&rule.to_string_lossy())
    }
}

impl Grant for Directory {
    fn meet(
        outer: &[Ruled<PathBuf>],
        inner: &[Ruled<PathBuf>],
        _: &mut u32,
    ) -> Result<Vec<Ruled<PathBuf>>, TooManyParts> {
        let below = |path: &Path, rules: &[Ruled<PathBuf>]| {
            rules.iter().any(|rule| path.starts_with(&rule.value))
        };
        let new = |rule: &&Ruled<PathBuf>| !outer.iter().any(|other| other.value == rule.value);
        let from_outer = outer.iter().filter(|rule| below(&rule.value, inner));
        let from_inner = inner.iter().filter(new).filter(|rule| below(&rule.value, outer));
        Ok(from_outer.chain(from_inner).cloned().collect())
    }
}

impl Said for MountSaid {
    type Rule = MountRule;

    fn rule(&self) -> MountRule {
        MountRule { source: self.source.0.clone(), access: self.access }
    }

    fn show(rule: &MountRule) -> String {
        let source = quoted(&rule.source.to_string_lossy());
        format!("{{source: {source}, access: {}}}", word(&rule.access))
    }

    fn identity(rule: &MountRule) -> String {
        quoted(&rule.source.to_string_lossy())
    }
}

impl Grant for MountSaid {
    /// At each source that either list names, the nearest rules of both decide.
    fn meet(
        outer: &[Ruled<MountRule>],
        inner: &[Ruled<MountRule>],
        _: &mut u32,
    ) -> Result<Vec<Ruled<MountRule>>, TooManyParts> {
        let mut both: Vec<Ruled<MountRule>> = Vec::new();
        for Ruled { value: MountRule { source, .. }, .. } in outer.iter().chain(inner) {
            let nearest = (nearest_rule(outer, source), nearest_rule(inner, source));
            let (Some(out), Some(within)) = nearest else { continue };
            if both.iter().any(|rule| rule.value.source == *source) {
                continue;
            }
            let outer_decides = out.value.access < within.value.access
                || (out.value.access == within.value.access && out.value.source == *source);
            let decides = if outer_decides { out } else { within };
            let value = MountRule { source: source.clone(), access: decides.value.access };
            both.push(Ruled { value, origin: decides.origin.clone() });
        }
        Ok(both)
    }
}

/// The rule for the longest leading part of `path`, by components.
pub(crate) fn nearest_rule<'a>(
    rules: &'a [Ruled<MountRule>],
    path: &Path,
) -> Option<&'a Ruled<MountRule>> {
    let above = rules.iter().filter(|rule| path.starts_with(&rule.value.source));
    above.max_by_key(|rule| rule.value.source.components().count())
}

impl Said for Uid {
    type Rule = u32;

    fn rule(&self) -> u32 {
        self.0
    }

    fn show(rule: &u32) -> String {
        rule.to_string()
    }
}

impl Choice for Uid {
    /// Ids are not more or less than each other, but root's is more than all.
    fn stricter(outer: &u32, inner: &u32) -> u32 {
        if *outer == 0 { *inner } else { *outer }
    }
}

impl Said for Permit {
    type Rule = bool;

    fn rule(&self) -> bool {
        self.0
    }

    fn show(rule: &bool) -> String {
        rule.to_string()
    }
}

impl Choice for Permit {
    fn stricter(outer: &bool, inner: &bool) -> bool {
        *outer && *inner
    }
}

impl Said for Offline {
    type Rule = bool;

    fn rule(&self) -> bool {
        self.0
    }

    fn show(rule: &bool) -> String {
        rule.to_string()
    }
}

impl Choice for Offline {
    fn stricter(outer: &bool, inner: &bool) -> bool {
        *outer || *inner
    }
}

impl Said for ShortNamesSaid {
    type Rule = ShortNames;

    fn rule(&self) -> ShortNames {
        match self {
            ShortNamesSaid::Deny => ShortNames::Deny,
            ShortNamesSaid::Try(hosts) => try_or_deny(hosts.iter().map(|host| host.0.clone())),
        }
    }

    fn show(rule: &ShortNames) -> String {
        match rule {
            ShortNames::Deny => "deny".to_owned(),
            ShortNames::Try(hosts) => {
                let hosts: Vec<_> = hosts.iter().map(|host| quoted(host)).collect();
                format!("[{}]", hosts.join(", "))
            }
        }
    }
}

impl Choice for ShortNamesSaid {
    fn stricter(outer: &ShortNames, inner: &ShortNames) -> ShortNames {
        match (outer, inner) {
            (ShortNames::Deny, _) | (_, ShortNames::Deny) => ShortNames::Deny,
            (ShortNames::Try(outer), ShortNames::Try(inner)) => {
                try_or_deny(outer.iter().filter(|host| inner.contains(host)).cloned())
            }
        }
    }
}

/// To try no registry at all is to deny; equal meanings shall be equal values.
fn try_or_deny(hosts: impl Iterator<Item = String>) -> ShortNames {
    match hosts.collect::<Vec<_>>() {
        hosts if hosts.is_empty() => ShortNames::Deny,
        hosts => ShortNames::Try(hosts),
    }
}

/// Makes plain words say themselves.
macro_rules! words_in_files {
    ($($name:ident)*) => {$(
        impl Said for $name {
            type Rule = $name;

            fn rule(&self) -> $name {
                *self
            }

            fn show(rule: &$name) -> String {
                word(rule)
            }
        }
    )*};
}

words_in_files!(EngineName Fresh Network Protection RunAs);

impl Choice for Fresh {
    fn stricter(outer: &Fresh, inner: &Fresh) -> Fresh {
        *outer.max(inner)
    }
}

impl Choice for RunAs {
    fn stricter(outer: &RunAs, inner: &RunAs) -> RunAs {
        match (outer, inner) {
            (RunAs::Image, RunAs::Image) => RunAs::Image,
            (RunAs::Caller, _) | (_, RunAs::Caller) => RunAs::Caller,
        }
    }
}

/// A text in double quotes, as JSON writes it, which every YAML reader takes as it is.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The word that serde gives a variant.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(_) | Err(_) => unreachable!("variants without fields are words"),
    }
}
