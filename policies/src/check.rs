//! Finds what is wrong in one file although each value by itself is right.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::keys::{BoundKeys, Keys, Visitor, visit};
use crate::meaning::{Choice, Grant, Said};
use crate::said::{Key, Limit, Listed};
use crate::{Bound, Policy, Ruled};
use ric_yaml::{Placed, Unit};

/// Line and column of a mistake, and what is wrong.
type Found = ((u64, u64), String);

/// Finds lists that say something twice or leave nothing, and defaults above their bound.
pub(crate) fn check(keys: &Keys) -> Result<(), Found> {
    // What the policy would hold does not matter to a check of what the file says.
    visit(&mut Policy::built_in(), keys, &mut Check)
}

struct Check;

impl Visitor for Check {
    type Error = Found;

    fn grants<S: Grant>(
        &mut self,
        _: &'static str,
        _: &mut Vec<Ruled<S::Rule>>,
        said: &Key<Listed<S>>,
    ) -> Result<(), Found> {
        no_repetition(said)
    }

    fn ranking<S: Said>(
        &mut self,
        key: &'static str,
        _: &mut Ruled<Vec<S::Rule>>,
        said: &Key<Listed<S>>,
    ) -> Result<(), Found> {
        if let Key(Some(list)) = said
            && list.value.is_empty()
        {
            return Err(found(list, format!("`{key}` needs at least one: every task uses one")));
        }
        no_repetition(said)
    }

    fn demands<S: Said>(
        &mut self,
        _: &'static str,
        _: &mut Vec<Ruled<S::Rule>>,
        said: &Key<Listed<S>>,
    ) -> Result<(), Found> {
        no_repetition(said)
    }

    fn choice<S: Choice>(
        &mut self,
        _: &'static str,
        _: &mut Ruled<S::Rule>,
        _: &Key<S>,
    ) -> Result<(), Found> {
        Ok(())
    }

    fn bound<U: Unit>(
        &mut self,
        keys: BoundKeys,
        _: &mut Bound<U::Value>,
        said: &Limit<U>,
    ) -> Result<(), Found> {
        let (Key(Some(default)), Key(Some(most))) = (&said.default, &said.most) else {
            return Ok(());
        };
        let Some(bound) = most.value.0 else { return Ok(()) };
        match default.value.0 {
            Some(value) if value <= bound => Ok(()),
            value => {
                let value = value.map_or_else(|| "none".to_owned(), U::show);
                let (key, bound) = (keys.most, U::show(bound));
                Err(found(default, format!("the default {value} is above `{key}`, {bound}")))
            }
        }
    }
}

fn no_repetition<S: Said>(said: &Key<Listed<S>>) -> Result<(), Found> {
    let Key(Some(list)) = said else { return Ok(()) };
    let mut lines = HashMap::with_capacity(list.value.len());
    for placed in &list.value {
        let identity = S::identity(&placed.value.rule());
        match lines.entry(identity) {
            Entry::Vacant(new) => _ = new.insert(placed.line),
            Entry::Occupied(earlier) => {
                let (shown, line) = (earlier.key(), earlier.get());
                let message = format!("{shown} is listed twice, first in line {line}");
                return Err(found(placed, message));
            }
        }
    }
    Ok(())
}

fn found<T>(placed: &Placed<T>, message: String) -> Found {
    ((placed.line, placed.column), message)
}
