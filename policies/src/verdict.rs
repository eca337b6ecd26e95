//! Answers a decision's questions: may this image be used, which rule holds for this mount.

use std::path::Path;

use crate::meaning::nearest_rule;
use crate::pattern::matches;
use crate::{MountRule, Origin, Policy, Ruled, SITE_FILE};
use ric_yaml::Printable;

/// Why an image may not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageDenied {
    /// A pattern of `images.deny` matches it.
    #[error("{} denies images like `{}`", .rule.origin, .rule.value)]
    Denied {
        /// The first pattern that matches.
        rule: Ruled<String>,
    },
    /// No pattern of `images.allow` matches it.
    #[error("{origin} allows {}", list(allowed))]
    NotAllowed {
        /// Where the list was set.
        origin: Origin,
        /// All patterns; may be empty.
        allowed: Vec<Ruled<String>>,
    },
}

impl Policy {
    /// Whether the image with this reference may be used. `reference` is the canonical text of one
    /// image, transport and tag included; a short name must have been given its registry before.
    ///
    /// # Errors
    /// [`ImageDenied`] with the rule that decided.
    pub fn image_verdict(&self, reference: &str) -> Result<(), ImageDenied> {
        let matching = |rule: &&Ruled<String>| matches(&rule.value, reference);
        if let Some(rule) = self.images.deny.iter().find(matching) {
            return Err(ImageDenied::Denied { rule: rule.clone() });
        }
        if !self.images.allow.iter().any(|rule| matching(&rule)) {
            let origin = self.origin_of("images.allow").clone();
            return Err(ImageDenied::NotAllowed { origin, allowed: self.images.allow.clone() });
        }
        Ok(())
    }

    /// Whether images may be built upon the image with this reference, which
    /// [`image_verdict`](Self::image_verdict) allows.
    pub fn allows_base(&self, reference: &str) -> bool {
        self.build.bases.iter().any(|rule| matches(&rule.value, reference))
    }

    /// The rule that decides about a mount of `real_path`, which must be absolute and without
    /// symbolic links. Its access is the most that the mount may have. `None`: it is not allowed.
    ///
    /// The nearest rule at or above the path decides, unless rules below it grant less: a mount
    /// shows their directories too, so the least of these decides then.
    pub fn mount_rule(&self, real_path: &Path) -> Option<&Ruled<MountRule>> {
        let nearest = nearest_rule(&self.mounts, real_path)?;
        let below = self.mounts.iter().filter(|rule| rule.value.source.starts_with(real_path));
        // The nearest first: of equals, the first is the least.
        std::iter::once(nearest).chain(below).min_by_key(|rule| rule.value.access)
    }

    /// What the reader of a refusal can do about the rule of `key`, such as `mounts`, by which
    /// `example` (`mounts: [{source: /scratch, access: read-only}]`) is missing.
    pub fn hint_to_allow(&self, key: &str, example: &str) -> String {
        match self.origin_of(key) {
            Origin::BuiltIn => {
                format!(
                    "whoever administers this machine can allow it by `{example}` in {SITE_FILE}"
                )
            }
            origin @ Origin::File { path, .. } if self.files.first() == Some(path) => {
                format!("ask your site to add it under `{key}:` ({origin})")
            }
            Origin::File { path, .. } => {
                format!("{} takes it away; change that file or go without it", path.display())
            }
        }
    }

    /// Whether `host`, as `HOST` or `HOST:PORT`, is to be spoken to over plain HTTP.
    pub fn is_insecure(&self, host: &str) -> bool {
        self.registries.insecure.iter().any(|rule| rule.value.eq_ignore_ascii_case(host))
    }
}

fn list(rules: &[Ruled<String>]) -> String {
    if rules.is_empty() {
        return "no image at all".to_owned();
    }
    let shown: Vec<_> = rules.iter().map(|rule| format!("`{}`", Printable(&rule.value))).collect();
    format!("only {}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, Draft};

    fn site(text: &str) -> Policy {
        Policy::of_site(&Draft::parse(Path::new("site"), &format!("version: 1\n{text}")).unwrap())
    }

    /// The access and the line of the deciding rule.
    fn mount(policy: &Policy, path: &str) -> Option<(Access, String)> {
        let rule = policy.mount_rule(Path::new(path))?;
        Some((rule.value.access, rule.origin.to_string()))
    }

    #[test]
    fn denied_wins_over_allowed_and_names_its_line() {
        let policy = site("images:\n  allow: ['docker://r/*']\n  deny:\n    - 'docker://r/bad*'");
        assert_eq!(policy.image_verdict("docker://r/good:1"), Ok(()));
        let denied = policy.image_verdict("docker://r/bad:1").unwrap_err();
        assert_eq!(denied.to_string(), "site:5 denies images like `docker://r/bad*`");
        let denied = policy.image_verdict("docker://other/x:1").unwrap_err();
        assert_eq!(denied.to_string(), "site:3 allows only `docker://r/*`");
        let denied = site("images: {allow: []}").image_verdict("host:").unwrap_err();
        assert_eq!(denied.to_string(), "site:2 allows no image at all");
    }

    #[test]
    fn mounts_are_compared_by_components() {
        let policy = site("mounts: [{source: /scratch, access: read-write}]");
        for path in ["/scratch", "/scratch/", "/scratch/a/b"] {
            assert!(policy.mount_rule(Path::new(path)).is_some(), "{path}");
        }
        for path in ["/scratch2", "/scratc", "/", "/data", "scratch", "/other/scratch"] {
            assert!(policy.mount_rule(Path::new(path)).is_none(), "{path}");
        }
    }

    #[test]
    fn the_nearest_rule_decides_and_rules_below_bind_it() {
        let policy = site(
            "mounts:\n  - {source: /a, access: read-write}\n  \
             - {source: /a/b, access: read-only}\n  \
             - {source: /a/b/c, access: read-write}",
        );
        let read_only = Some((Access::ReadOnly, "site:4".to_owned()));
        assert_eq!(mount(&policy, "/a/x"), Some((Access::ReadWrite, "site:3".to_owned())));
        assert_eq!(mount(&policy, "/a/b"), read_only);
        assert_eq!(mount(&policy, "/a/b/c/d"), Some((Access::ReadWrite, "site:5".to_owned())));
        // It would show /a/b, which nobody may write.
        assert_eq!(mount(&policy, "/a"), read_only);
    }

    #[test]
    fn plain_http_is_for_this_host_and_port_only() {
        let policy = site("registries: {insecure: ['Reg.Example:5000']}");
        assert!(policy.is_insecure("reg.example:5000"));
        assert!(policy.is_insecure("REG.example:5000"));
        for host in ["reg.example", "reg.example:500", "reg.example:50000", "a.reg.example:5000"] {
            assert!(!policy.is_insecure(host), "{host}");
        }
    }

    #[test]
    fn a_hint_says_who_can_allow_it() {
        let example = "mounts: [{source: /a, access: read-only}]";
        let hint = Policy::built_in().hint_to_allow("mounts", example);
        assert!(hint.contains(example) && hint.contains(SITE_FILE), "{hint}");
        let policy = site("mounts: [{source: /b, access: read-only}]");
        assert!(policy.hint_to_allow("mounts", example).contains("site:2"));
        let mine = Draft::parse(Path::new("mine"), "version: 1\nmounts: []\n").unwrap();
        let narrowed = policy.narrow(&mine).unwrap().policy;
        assert!(narrowed.hint_to_allow("mounts", example).starts_with("mine takes it away"));
    }
}
