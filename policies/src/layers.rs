//! Lays one file upon a policy: a site's upon the built-in default, or a further one that narrows.
//!
//! What narrower means for a key is told by its kind (here) and its type (`meaning.rs`).
//!
//! A narrowing file that allows more than the policy has no effect there, and a [`Note`] says so:
//! it may have been written for another machine. It is an error only where nothing would be left
//! that a task can use, because then the file cannot be meant for this machine.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::keys::{BoundKeys, Visitor, visit};
use crate::meaning::{Choice, Grant, Said};
use crate::pattern::STEPS_MAX;
use crate::said::{Amount, Key, Limit, Listed};
use crate::{Bound, Draft, Origin, Policy, Ruled};
use ric_yaml::{Placed, Printable, Unit};

/// The name of a site's policy that gives itself none.
const UNNAMED: &str = "site";

/// A policy after narrowing.
#[derive(Debug, Clone, PartialEq)]
pub struct Narrowed {
    /// What both allow.
    pub policy: Policy,
    /// What the file would allow and the policy does not.
    pub notes: Vec<Note>,
}

/// Something in a narrowing file that has less effect than it says. Nothing is wrong with the
/// policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The key, such as `mounts`.
    pub key: &'static str,
    /// Where it is written.
    pub origin: Origin,
    /// What has no effect or only some, and why.
    pub text: String,
}

/// Why a file cannot narrow a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NarrowError {
    /// The file and the policy have nothing in common, and every task needs one.
    #[error("{said}: `{key}` leaves nothing of what {rule} allows: {allowed}")]
    NothingLeft {
        /// The key.
        key: &'static str,
        /// Where the file says it.
        said: Origin,
        /// Where the policy's own list was set.
        rule: Origin,
        /// The policy's own list.
        allowed: String,
    },
    /// The patterns of both together match what no list of reasonable length can say.
    #[error("{said}: `{key}` and the patterns of {rule} overlap in too many ways")]
    TooManyParts {
        /// The key.
        key: &'static str,
        /// Where the file says it.
        said: Origin,
        /// Where the policy's own list was set.
        rule: Origin,
    },
}

impl Policy {
    /// The policy of a site whose file says this: what it leaves out is as built in. Pure.
    pub fn of_site(site: &Draft) -> Policy {
        Policy::built_in().replaced_by(site)
    }

    /// This policy with the keys that `site` sets in place of its own.
    pub(crate) fn replaced_by(mut self, site: &Draft) -> Policy {
        let set_by = std::mem::take(&mut self.set_by);
        let mut replace = Replace { place: Places { path: &site.path }, set_by };
        match visit(&mut self, &site.keys, &mut replace) {
            Ok(()) => {}
            Err(never) => match never {},
        }
        self.set_by = replace.set_by;
        let name = site.keys.name.0.as_ref().map(|name| &*name.value.0);
        self.name = name.unwrap_or(UNNAMED).to_owned();
        self.files = vec![site.path.clone()];
        self.digest = self.computed_digest();
        self
    }

    /// What both this policy and `other` allow. Pure, and never more than either.
    ///
    /// Keys that `other` leaves out stay. Narrowing twice by the same file changes nothing.
    ///
    /// # Errors
    /// [`NarrowError`] if the two leave nothing to use, or cannot be combined.
    pub fn narrow(&self, other: &Draft) -> Result<Narrowed, NarrowError> {
        let mut policy = self.clone();
        let mut narrow = Narrow {
            place: Places { path: &other.path },
            set_by: std::mem::take(&mut policy.set_by),
            notes: Vec::new(),
            steps_left: STEPS_MAX,
        };
        visit(&mut policy, &other.keys, &mut narrow)?;
        let notes = narrow.notes;
        policy.set_by = narrow.set_by;
        if policy.files.last() != Some(&other.path) {
            policy.files.push(other.path.clone());
        }
        policy.digest = policy.computed_digest();
        Ok(Narrowed { policy, notes })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}: {}", self.origin, self.key, Printable(&self.text))
    }
}

/// The file that speaks.
struct Places<'a> {
    path: &'a Path,
}

impl Places<'_> {
    fn of<T>(&self, placed: &Placed<T>) -> Origin {
        Origin::File { path: self.path.to_owned(), line: placed.line }
    }

    fn rules<S: Said>(&self, list: &Listed<S>) -> Vec<Ruled<S::Rule>> {
        list.iter().map(|placed| self.rule(placed, placed.value.rule())).collect()
    }

    fn rule<T, R>(&self, placed: &Placed<T>, value: R) -> Ruled<R> {
        Ruled { value, origin: self.of(placed) }
    }
}

struct Replace<'a> {
    place: Places<'a>,
    set_by: BTreeMap<&'static str, Origin>,
}

impl Replace<'_> {
    /// What is said for `key`, noting its place.
    fn said<'s, T>(&mut self, key: &'static str, said: &'s Key<T>) -> Option<&'s Placed<T>> {
        let placed = said.0.as_ref()?;
        self.set_by.insert(key, self.place.of(placed));
        Some(placed)
    }

    fn amount<U: Unit>(
        &mut self,
        key: &'static str,
        rule: &mut Option<Ruled<U::Value>>,
        said: &Key<Amount<U>>,
    ) {
        if let Some(placed) = self.said(key, said) {
            *rule = placed.value.0.map(|value| self.place.rule(placed, value));
        }
    }
}

impl Visitor for Replace<'_> {
    type Error = std::convert::Infallible;

    fn grants<S: Grant>(
        &mut self,
        key: &'static str,
        rule: &mut Vec<Ruled<S::Rule>>,
        said: &Key<Listed<S>>,
    ) -> Result<(), Self::Error> {
        if let Some(list) = self.said(key, said) {
            *rule = self.place.rules(&list.value);
        }
        Ok(())
    }

    fn ranking<S: Said>(
        &mut self,
        key: &'static str,
        rule: &mut Ruled<Vec<S::Rule>>,
        said: &Key<Listed<S>>,
    ) -> Result<(), Self::Error> {
        if let Some(list) = self.said(key, said) {
            let values = list.value.iter().map(|placed| placed.value.rule()).collect();
            *rule = self.place.rule(list, values);
        }
        Ok(())
    }

    fn demands<S: Said>(
        &mut self,
        key: &'static str,
        rule: &mut Vec<Ruled<S::Rule>>,
        said: &Key<Listed<S>>,
    ) -> Result<(), Self::Error> {
        if let Some(list) = self.said(key, said) {
            *rule = self.place.rules(&list.value);
        }
        Ok(())
    }

    fn choice<S: Choice>(
        &mut self,
        key: &'static str,
        rule: &mut Ruled<S::Rule>,
        said: &Key<S>,
    ) -> Result<(), Self::Error> {
        if let Some(placed) = self.said(key, said) {
            *rule = self.place.rule(placed, placed.value.rule());
        }
        Ok(())
    }

    fn bound<U: Unit>(
        &mut self,
        keys: BoundKeys,
        rule: &mut Bound<U::Value>,
        said: &Limit<U>,
    ) -> Result<(), Self::Error> {
        self.amount(keys.default, &mut rule.default, &said.default);
        self.amount(keys.most, &mut rule.most, &said.most);
        clamp(rule);
        Ok(())
    }
}

/// A task that asks for nothing gets no more than one that asks for the most.
fn clamp<T: Copy + Ord>(rule: &mut Bound<T>) {
    if let Some(most) = &rule.most
        && rule.default.as_ref().is_none_or(|default| default.value > most.value)
    {
        rule.default = Some(most.clone());
    }
}

struct Narrow<'a> {
    place: Places<'a>,
    set_by: BTreeMap<&'static str, Origin>,
    notes: Vec<Note>,
    /// What remains of the work that intersecting patterns may take.
    steps_left: u32,
}

impl Narrow<'_> {
    fn note<T>(&mut self, key: &'static str, placed: &Placed<T>, text: String) {
        self.notes.push(Note { key, origin: self.place.of(placed), text });
    }

    fn origin(&self, key: &'static str) -> Origin {
        self.set_by.get(key).cloned().unwrap_or(Origin::BuiltIn)
    }

    fn set<T>(&mut self, key: &'static str, placed: &Placed<T>) {
        self.set_by.insert(key, self.place.of(placed));
    }

    /// Keeps the lesser of what is said and the rule.
    fn lesser<U: Unit>(
        &mut self,
        key: &'static str,
        rule: &mut Option<Ruled<U::Value>>,
        said: &Key<Amount<U>>,
    ) {
        let Key(Some(placed)) = said else { return };
        match (&*rule, placed.value.0) {
            (Some(outer), Some(value)) if value >= outer.value => {
                if value > outer.value {
                    let (asked, stays) = (U::show(value), U::show(outer.value));
                    let text = format!("{asked} is above {stays} ({}), which stays", outer.origin);
                    self.note(key, placed, text);
                }
            }
            (_, Some(value)) => {
                *rule = Some(self.place.rule(placed, value));
                self.set(key, placed);
            }
            (Some(outer), None) => {
                let stays = U::show(outer.value);
                let text = format!("`none` does not lift {stays} ({})", outer.origin);
                self.note(key, placed, text);
            }
            (None, None) => {}
        }
    }
}

impl Visitor for Narrow<'_> {
    type Error = NarrowError;

    fn grants<S: Grant>(
        &mut self,
        key: &'static str,
        rule: &mut Vec<Ruled<S::Rule>>,
        said: &Key<Listed<S>>,
    ) -> Result<(), NarrowError> {
        let Key(Some(list)) = said else { return Ok(()) };
        let (said, outer) = (self.place.of(list), self.origin(key));
        let too_many = |_| NarrowError::TooManyParts { key, said, rule: outer.clone() };
        let inner = self.place.rules(&list.value);
        let both = S::meet(rule, &inner, &mut self.steps_left).map_err(too_many)?;
        for (placed, asked) in list.value.iter().zip(&inner) {
            // The same work as above, rule by rule; what is left of the steps does not matter.
            let alone = S::meet(rule, std::slice::from_ref(asked), &mut STEPS_MAX.clone());
            let left: Vec<_> =
                alone.unwrap_or_default().into_iter().map(|kept| kept.value).collect();
            if !left.contains(&asked.value) {
                let text = effect(S::show(&asked.value), &outer, left.iter().map(S::show));
                self.note(key, placed, text);
            }
        }
        let same = both.len() == rule.len() && both.iter().all(|kept| rule.contains(kept));
        if !same {
            self.set(key, list);
        }
        *rule = both;
        Ok(())
    }

    fn ranking<S: Said>(
        &mut self,
        key: &'static str,
        rule: &mut Ruled<Vec<S::Rule>>,
        said: &Key<Listed<S>>,
    ) -> Result<(), NarrowError> {
        let Key(Some(list)) = said else { return Ok(()) };
        let inner: Vec<_> = list.value.iter().map(|placed| placed.value.rule()).collect();
        let both: Vec<_> = rule.value.iter().filter(|kept| inner.contains(kept)).cloned().collect();
        for (placed, asked) in list.value.iter().zip(&inner) {
            if !rule.value.contains(asked) {
                let text = effect(S::show(asked), &rule.origin, std::iter::empty());
                self.note(key, placed, text);
            }
        }
        if both.is_empty() {
            let allowed: Vec<_> = rule.value.iter().map(S::show).collect();
            let (said, rule) = (self.place.of(list), rule.origin.clone());
            return Err(NarrowError::NothingLeft { key, said, rule, allowed: allowed.join(", ") });
        }
        if both != rule.value {
            *rule = self.place.rule(list, both);
            self.set(key, list);
        }
        Ok(())
    }

    fn demands<S: Said>(
        &mut self,
        key: &'static str,
        rule: &mut Vec<Ruled<S::Rule>>,
        said: &Key<Listed<S>>,
    ) -> Result<(), NarrowError> {
        let Key(Some(list)) = said else { return Ok(()) };
        let before = rule.len();
        for added in self.place.rules(&list.value) {
            if !rule.iter().any(|known| known.value == added.value) {
                rule.push(added);
            }
        }
        if rule.len() > before {
            self.set(key, list);
        }
        Ok(())
    }

    fn choice<S: Choice>(
        &mut self,
        key: &'static str,
        rule: &mut Ruled<S::Rule>,
        said: &Key<S>,
    ) -> Result<(), NarrowError> {
        let Key(Some(placed)) = said else { return Ok(()) };
        let asked = placed.value.rule();
        let both = S::stricter(&rule.value, &asked);
        if both != asked {
            let text = effect(S::show(&asked), &rule.origin, std::iter::once(S::show(&both)));
            self.note(key, placed, text);
        }
        if both != rule.value {
            *rule = self.place.rule(placed, both);
            self.set(key, placed);
        }
        Ok(())
    }

    fn bound<U: Unit>(
        &mut self,
        keys: BoundKeys,
        rule: &mut Bound<U::Value>,
        said: &Limit<U>,
    ) -> Result<(), NarrowError> {
        self.lesser(keys.default, &mut rule.default, &said.default);
        self.lesser(keys.most, &mut rule.most, &said.most);
        clamp(rule);
        Ok(())
    }
}

/// What a note says about `asked`, of which `outer` leaves only `left`.
fn effect(asked: String, outer: &Origin, left: impl Iterator<Item = String>) -> String {
    let left: Vec<String> = left.collect();
    match left.is_empty() {
        true => format!("{asked} has no effect: {outer} does not allow it"),
        false => format!("{asked} is only {} here, because of {outer}", left.join(", ")),
    }
}
