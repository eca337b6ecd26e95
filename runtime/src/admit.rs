//! May this image be looked at? Asked before anything reaches a network or a disk.
//!
//! First step of a task. **Invariant:** pure, as [`plan`](crate::plan()) is. A reference that this
//! function did not return must not be resolved by anyone.

use std::path::{Component, Path};

use ric_images::Reference;
use ric_policies::{ImageDenied, Policy, ShortNames};

use crate::{Refusal, Rule, Task};

/// The references that may be looked up for a task, to be tried in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// One reference, or one per registry that a short name may mean. Never empty, and none is a
    /// short name.
    pub references: Vec<Reference>,
}

/// Decides whether the image that `task` asks for may be looked at, and where.
///
/// The text that policy patterns are compared with is the canonical printed reference. A name
/// without a registry becomes one reference per registry of `registries: short_names:`, less those
/// that the policy denies.
///
/// # Errors
/// [`Refusal::Image`], [`Refusal::ShortName`], or [`Refusal::Malformed`] for a path that could
/// lead elsewhere than a pattern says; nothing was looked up.
pub fn admit(task: &Task, policy: &Policy) -> Result<Admitted, Refusal> {
    let text = canonical(&task.image)?;
    if !matches!(task.image, Reference::ShortName { .. }) {
        judge(&text, policy)?;
        return Ok(Admitted { references: vec![task.image.clone()] });
    }
    let rule = &policy.registries.short_names;
    let ShortNames::Try(registries) = &rule.value else {
        let rule = Rule::at(policy, "registries", &rule.origin);
        return Err(Refusal::ShortName { name: text, rule });
    };
    let mut references = Vec::new();
    let mut denial = None;
    for host in registries {
        match in_registry(host, &text)
            .and_then(|full| judge(&full.to_string(), policy).map(|()| full))
        {
            Ok(full) => references.push(full),
            Err(refusal) => denial = denial.or(Some(refusal)),
        }
    }
    if references.is_empty() {
        let rule = Rule::at(policy, "registries", &rule.origin);
        return Err(denial.unwrap_or(Refusal::ShortName { name: text, rule }));
    }
    Ok(Admitted { references })
}

/// Compares one canonical reference with the image rules.
pub(crate) fn judge(reference: &str, policy: &Policy) -> Result<(), Refusal> {
    policy.image_verdict(reference).map_err(|denied| {
        let (origin, denied_by) = match denied {
            ImageDenied::Denied { rule } => (rule.origin, Some(rule.value)),
            ImageDenied::NotAllowed { origin, .. } => (origin, None),
        };
        Refusal::Image {
            reference: reference.to_owned(),
            rule: Rule::at(policy, "images", &origin),
            denied_by,
            allowed: policy.images.allow.iter().map(|rule| rule.value.clone()).collect(),
        }
    })
}

/// The one text of an image. A value that has another spelling, such as `/a/../b` or a host in
/// capitals, could get round a pattern; whoever made it did not use the parser.
fn canonical(image: &Reference) -> Result<String, Refusal> {
    let text = image.to_string();
    let malformed = |why: &str| {
        Err(Refusal::Malformed { what: "image", value: text.clone(), why: why.to_owned() })
    };
    if text.parse().as_ref() != Ok(image) {
        return malformed("this is not the canonical form of a reference");
    }
    match image {
        Reference::Dir(path)
        | Reference::DockerArchive(path)
        | Reference::OciArchive(path)
        | Reference::OciLayout { path, .. }
        | Reference::Squashfs(path)
        | Reference::Sif(path)
            if !is_plain(path) =>
        {
            malformed("its path is not absolute, or contains `.`, `..` or a doubled slash")
        }
        Reference::Dir(_)
        | Reference::DockerArchive(_)
        | Reference::OciArchive(_)
        | Reference::OciLayout { .. }
        | Reference::Squashfs(_)
        | Reference::Sif(_)
        | Reference::Host
        | Reference::DockerDaemon(_)
        | Reference::Registry(_)
        | Reference::Oras(_)
        | Reference::Shifter(_)
        | Reference::ShortName { .. } => Ok(text),
    }
}

/// Whether components, joined again, are the very same text.
fn is_plain(path: &Path) -> bool {
    let normal = |component| matches!(component, Component::RootDir | Component::Normal(_));
    let again: std::path::PathBuf = path.components().collect();
    path.is_absolute() && path.components().all(normal) && again.as_os_str() == path.as_os_str()
}

/// A short name in one registry, in that registry's canonical form.
fn in_registry(host: &str, name: &str) -> Result<Reference, Refusal> {
    let text = format!("docker://{host}/{name}");
    text.parse().map_err(|error: ric_images::ReferenceError| Refusal::Malformed {
        what: "image",
        value: text.clone(),
        why: error.to_string(),
    })
}
