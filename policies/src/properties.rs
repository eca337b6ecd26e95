//! For all policies: narrowing allows exactly what both files allow, and printing loses nothing.
//!
//! What is allowed is asked as a decision asks it, for many things, not read from the lists.

use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::{Access, Bound, Draft, EngineName, NarrowError, Network, Policy, RunAs, ShortNames};

/// A policy that allows all there is: a file laid upon it says only what it takes away.
const EVERYTHING: &str = "version: 1
images: {allow: ['*'], deny: [], shifter: [/a], below: [/a]}
registries:
  short_names: [a, b, c]
  insecure: [a, b, c]
  mirrors: [{registry: a, at: b/x}, {registry: a, at: c}, {registry: b, at: c}]
  authorities: [/a.pem, /b.pem]
engines: [native, oci, docker, apptainer, shifter]
mounts: [{source: /, access: read-write}]
network: [loopback, host]
run_as: image
root_runs_as: 0
host_paths: [/]
limits:
  memory: {default: none, most: none}
  cpus: {default: none, most: none}
  pids: {default: none, most: none}
  time: {default: none, most: none}
require: []
";

/// One change for each key: no key may be forgotten by the digest.
const CHANGES: [&str; 24] = [
    "images: {allow: ['host:']}",
    "images: {deny: ['host:']}",
    "registries: {short_names: [b, a, c]}",
    "registries: {insecure: [a]}",
    "registries: {mirrors: [{registry: a, at: c}]}",
    "registries: {authorities: [/a.pem]}",
    "registries: {offline: true}",
    "images: {shifter: []}",
    "images: {below: []}",
    "engines: [oci, native]",
    "mounts: [{source: /, access: read-only}]",
    "mounts: [{source: /a, access: read-write}]",
    "network: [host, loopback]",
    "run_as: caller",
    "root_runs_as: 1",
    "host_paths: [/a]",
    "fresh: process",
    "limits: {memory: {default: 1}}",
    "limits: {memory: {most: 1}}",
    "limits: {cpus: {default: 1}}",
    "limits: {pids: {default: 1}}",
    "limits: {time: {default: 1s}}",
    "require: [memory]",
    "require: [pids]",
];

const HOSTS: [&str; 3] = ["a", "b", "c"];
const MIRRORS: [&str; 3] =
    ["{registry: a, at: b/x}", "{registry: a, at: c}", "{registry: b, at: c}"];
const PATHS: [&str; 7] = ["/", "/a", "/a/b", "/a/b/c", "/a2", "/b", "/b/c"];
const ENGINES: [&str; 3] = ["native", "oci", "docker"];
const PATTERNS: [&str; 8] = [
    "*",
    "docker://r/*",
    "docker://r/a*",
    "*:1",
    "*/b/*",
    "docker://*/b:1",
    "host:",
    "d*@sha256:*",
];
const IMAGES: [&str; 9] = [
    "host:",
    "docker://r/a:1",
    "docker://r/b:1",
    "docker://r/a/b/c:2",
    "docker://q/b:1",
    "docker://q/b/c:1",
    "docker://r/ab:2@sha256:00",
    "docker://q/b:2@sha256:00",
    "dir:/a",
];

/// Some of `values` as a list, each once, in any order.
fn listed(values: &'static [&'static str], least: usize) -> BoxedStrategy<String> {
    let some = subsequence(values, least..=values.len()).prop_shuffle();
    some.prop_map(|values| format!("{values:?}")).boxed()
}

fn mounts() -> BoxedStrategy<String> {
    let accesses = prop::collection::vec(select(vec!["read-only", "read-write"]), PATHS.len());
    let some = subsequence(&PATHS[..], 0..=PATHS.len()).prop_shuffle();
    (some, accesses)
        .prop_map(|(paths, accesses)| {
            let rule = |(path, access)| format!("{{source: {path}, access: {access}}}");
            let rules: Vec<String> = paths.into_iter().zip(accesses).map(rule).collect();
            format!("[{}]", rules.join(", "))
        })
        .boxed()
}

/// Default, bound or both; never a default above its bound, which is no valid file.
fn limit() -> BoxedStrategy<String> {
    let forms = [
        "{}",
        "{default: none}",
        "{default: 2s}",
        "{most: none}",
        "{most: 1s}",
        "{most: 3s}",
        "{default: none, most: none}",
        "{default: 2s, most: none}",
        "{default: 2s, most: 2s}",
        "{default: 1s, most: 3s}",
    ];
    select(forms.map(str::to_owned).to_vec()).boxed()
}

/// A valid policy file with any of the keys.
fn file() -> impl Strategy<Value = String> {
    let images = (listed(&PATTERNS, 0), listed(&PATTERNS, 0))
        .prop_map(|(allow, deny)| format!("{{allow: {allow}, deny: {deny}}}"));
    let short_names = prop_oneof![Just("deny".to_owned()), listed(&HOSTS, 0)];
    let mirrors = subsequence(&MIRRORS, 0..=MIRRORS.len()).prop_shuffle();
    let registries = (short_names, listed(&HOSTS, 0), mirrors, any::<bool>()).prop_map(
        |(short, insecure, mirrors, offline)| {
            let mirrors = mirrors.join(", ");
            format!(
                "{{short_names: {short}, insecure: {insecure}, mirrors: [{mirrors}], \
                 offline: {offline}}}"
            )
        },
    );
    let limits = (limit(), limit()).prop_map(|(pids, time)| {
        let pids = pids.replace('s', "").replace("mot", "most");
        format!("{{pids: {pids}, time: {time}}}")
    });
    let keys = [
        ("images", images.boxed()),
        ("registries", registries.boxed()),
        ("engines", listed(&ENGINES, 1)),
        ("mounts", mounts()),
        ("network", listed(&["loopback", "host"], 1)),
        ("run_as", select(vec!["caller".to_owned(), "image".to_owned()]).boxed()),
        ("fresh", select(["nothing", "process", "container"].map(str::to_owned).to_vec()).boxed()),
        ("root_runs_as", select(vec!["0".to_owned(), "7".to_owned(), "8".to_owned()]).boxed()),
        ("host_paths", listed(&PATHS, 0)),
        ("limits", limits.boxed()),
        ("require", listed(&["memory", "pids", "seccomp"], 0)),
    ];
    let lines = keys.map(|(key, value)| {
        let line = value.prop_map(move |value| format!("{key}: {value}\n"));
        prop_oneof![Just(String::new()), line].boxed()
    });
    Vec::from(lines).prop_map(|lines| format!("version: 1\n{}", lines.concat()))
}

fn draft(text: &str) -> Draft {
    Draft::parse(Path::new("file"), text).unwrap_or_else(|error| panic!("{error}"))
}

fn site(text: &str) -> Policy {
    Policy::of_site(&draft(text))
}

/// What the file allows by itself, where all that it leaves out is allowed.
fn alone(text: &str) -> Policy {
    static WIDEST: LazyLock<Policy> = LazyLock::new(|| site(EVERYTHING));
    WIDEST.clone().replaced_by(&draft(text))
}

fn access(policy: &Policy, path: &str) -> Option<Access> {
    policy.mount_rule(Path::new(path)).map(|rule| rule.value.access)
}

fn shows(policy: &Policy, path: &str) -> bool {
    policy.host_paths.iter().any(|shown| Path::new(path).starts_with(&shown.value))
}

fn tries(policy: &Policy, host: &str) -> bool {
    match &policy.registries.short_names.value {
        ShortNames::Deny => false,
        ShortNames::Try(hosts) => hosts.iter().any(|tried| tried == host),
    }
}

/// The most that a task may ask for and what it gets that asks for nothing; no limit is the most.
fn limits<T: Copy + Ord>(bound: &Bound<T>, unlimited: T) -> [T; 2] {
    let value = |rule: &Option<crate::Ruled<T>>| rule.as_ref().map_or(unlimited, |rule| rule.value);
    [value(&bound.most), value(&bound.default)]
}

/// What both allow, question by question.
fn assert_is_both(both: &Policy, one: &Policy, other: &Policy) {
    for image in IMAGES {
        let allowed = |policy: &Policy| policy.image_verdict(image).is_ok();
        assert_eq!(allowed(both), allowed(one) && allowed(other), "image {image}");
    }
    for path in PATHS {
        assert_eq!(access(both, path), access(one, path).min(access(other, path)), "mount {path}");
        assert_eq!(shows(both, path), shows(one, path) && shows(other, path), "shown {path}");
    }
    for host in HOSTS {
        let insecure = |policy: &Policy| policy.is_insecure(host);
        assert_eq!(insecure(both), insecure(one) && insecure(other), "insecure {host}");
        assert_eq!(tries(both, host), tries(one, host) && tries(other, host), "tried {host}");
    }
    let mirrored = |policy: &Policy| {
        let mirrors = policy.registries.mirrors.iter().map(|rule| rule.value.clone());
        mirrors.collect::<std::collections::HashSet<_>>()
    };
    assert_eq!(mirrored(both), &mirrored(one) & &mirrored(other), "mirrors");
    let offline = |policy: &Policy| policy.registries.offline.value;
    assert_eq!(offline(both), offline(one) || offline(other), "offline");
    for engine in [EngineName::Native, EngineName::Oci, EngineName::Docker, EngineName::Shifter] {
        let allowed = |policy: &Policy| policy.engines.value.contains(&engine);
        assert_eq!(allowed(both), allowed(one) && allowed(other), "{engine:?}");
    }
    for network in [Network::Loopback, Network::Host] {
        let allowed = |policy: &Policy| policy.network.value.contains(&network);
        assert_eq!(allowed(both), allowed(one) && allowed(other), "{network:?}");
    }
    assert_eq!(both.fresh.value, one.fresh.value.max(other.fresh.value));
    let by_image = |policy: &Policy| policy.run_as.value == RunAs::Image;
    assert_eq!(by_image(both), by_image(one) && by_image(other));
    let by_root = |policy: &Policy| policy.root_runs_as.value == 0;
    assert_eq!(by_root(both), by_root(one) && by_root(other));
    let require = |policy: &Policy, name: &str| policy.show().contains(&format!("- {name} "));
    for name in ["memory", "pids", "seccomp"] {
        assert_eq!(require(both, name), require(one, name) || require(other, name), "{name}");
    }
    let pids = |policy: &Policy| limits(&policy.limits.pids, u64::MAX);
    let time = |policy: &Policy| limits(&policy.limits.time, std::time::Duration::MAX);
    for index in [0, 1] {
        assert_eq!(pids(both)[index], pids(one)[index].min(pids(other)[index]));
        assert_eq!(time(both)[index], time(one)[index].min(time(other)[index]));
    }
}

/// Reading YAML is slow in a build without optimisation; a failing case is printed, not stored.
fn config() -> ProptestConfig {
    ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn narrowing_allows_what_both_allow(outer in file(), inner in file()) {
        let (one, other) = (site(&outer), alone(&inner));
        match one.narrow(&draft(&inner)) {
            Ok(narrowed) => assert_is_both(&narrowed.policy, &one, &other),
            Err(NarrowError::NothingLeft { .. }) => {
                let engines = one.engines.value.iter().any(|e| other.engines.value.contains(e));
                let networks = one.network.value.iter().any(|n| other.network.value.contains(n));
                prop_assert!(!engines || !networks);
            }
            Err(error @ NarrowError::TooManyParts { .. }) => panic!("{error}"),
        }
    }

    #[test]
    fn narrowing_twice_changes_nothing(outer in file(), inner in file()) {
        if let Ok(once) = site(&outer).narrow(&draft(&inner)) {
            let twice = once.policy.narrow(&draft(&inner)).unwrap().policy;
            prop_assert_eq!(twice, once.policy);
        }
    }

    #[test]
    fn narrowing_by_itself_changes_nothing(text in file()) {
        let policy = site(&text);
        let narrowed = policy.narrow(&draft(&policy.show())).unwrap();
        prop_assert_eq!(narrowed.policy.digest, policy.digest);
        prop_assert_eq!(narrowed.notes, vec![]);
    }

    #[test]
    fn what_is_shown_reads_back(outer in file(), inner in file()) {
        let outer = site(&outer);
        let policy = outer.narrow(&draft(&inner)).map_or(outer, |narrowed| narrowed.policy);
        prop_assert_eq!(site(&policy.show()).digest, policy.digest);
    }

    /// A default that nobody could ask for would be a way round the bound.
    #[test]
    fn no_default_is_above_its_bound(outer in file(), inner in file()) {
        let outer = site(&outer);
        let policy = outer.narrow(&draft(&inner)).map_or(outer, |narrowed| narrowed.policy);
        let [most, default] = limits(&policy.limits.pids, u64::MAX);
        prop_assert!(default <= most);
    }

    #[test]
    fn no_text_is_too_strange_to_be_read_or_refused(
        text in "[-:,{}\\[\\] \n\t\"'#&*!|>?%~a-z0-9é\u{0}]*",
    ) {
        if let Err(mistake) = Draft::parse(Path::new("file"), &text) {
            prop_assert!(mistake.line >= 1 && mistake.to_string().lines().count() == 3);
        }
    }
}

#[test]
fn every_key_changes_the_digest() {
    let mut digests = vec![site(EVERYTHING).digest];
    digests.extend(CHANGES.map(|change| alone(&format!("version: 1\n{change}\n")).digest));
    let count = digests.len();
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), count);
}

#[test]
fn only_what_has_a_meaning_changes_the_digest() {
    let policy = site("version: 1\nname: a\nrequire: [pids, memory]\nhost_paths: [/a, /b]\n");
    let other = "# a comment\nhost_paths: [/b/, //a]\nversion: 1\nrequire: [memory, pids]\n";
    assert_eq!(site(other).digest, policy.digest);
    assert_eq!(policy.digest.len(), 64);
}
