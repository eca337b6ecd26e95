//! The built-in default as a value. `default.yaml` beside this crate says the same, with reasons.
//!
//! Not read from that file at every start, because a reader of YAML that runs for the first time in
//! a process costs half a millisecond, as much as a tenth of starting a sandbox. A test reads the
//! file and compares.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::{
    BUILT_IN, Bound, BuildRules, EngineName, Fresh, ImageRules, LimitRules, Network, Origin,
    Policy, Registries, ResultsRules, Ruled, RunAs, ShortNames, WarmRules,
};

/// The built-in default, as it is shipped and shown.
pub const BUILT_IN_YAML: &str = include_str!("../default.yaml");

/// Who owns nothing on a machine: `nobody` of Linux and the kernel's own overflow uid.
const NOBODY: u32 = 65_534;

impl Policy {
    /// The policy of a machine without a site's file.
    pub fn built_in() -> Policy {
        let mut policy = Policy {
            name: "built-in".to_owned(),
            files: vec![PathBuf::from(BUILT_IN)],
            digest: String::new(),
            images: ImageRules {
                allow: vec![built_in("*".to_owned())],
                deny: Vec::new(),
                shifter: Vec::new(),
                below: Vec::new(),
            },
            registries: Registries {
                short_names: built_in(ShortNames::Deny),
                insecure: Vec::new(),
                mirrors: Vec::new(),
                authorities: Vec::new(),
                offline: built_in(false),
            },
            engines: built_in(vec![
                EngineName::Native,
                EngineName::Oci,
                EngineName::Docker,
                EngineName::Apptainer,
                EngineName::Shifter,
            ]),
            mounts: Vec::new(),
            network: built_in(vec![Network::Loopback]),
            run_as: built_in(RunAs::Caller),
            root_runs_as: built_in(NOBODY),
            host_paths: Vec::new(),
            fresh: built_in(Fresh::Nothing),
            limits: LimitRules {
                memory_bytes: Bound { default: Some(built_in(1 << 30)), most: None },
                cpus_milli: Bound { default: None, most: None },
                pids: Bound { default: Some(built_in(256)), most: None },
                time: Bound { default: None, most: None },
            },
            build: BuildRules {
                allow: built_in(true),
                bases: vec![built_in("*".to_owned())],
                network: built_in(vec![Network::Host, Network::Loopback]),
                settings: built_in(true),
                time: Bound { default: None, most: None },
                layer_bytes: Bound { default: None, most: None },
            },
            warm: WarmRules {
                idle: most(Duration::from_secs(600)),
                containers: most(1024),
                containers_per_user: most(1024),
                memory_bytes: Bound { default: None, most: None },
                tasks_per_user: most(100_000),
                bytes_per_user: most(1 << 30),
                drain: most(Duration::from_secs(30)),
            },
            results: ResultsRules {
                keep: most(Duration::from_secs(7 * 86_400)),
                tasks_per_user: most(100_000),
                bytes_per_user: most(4 << 30),
            },
            require: Vec::new(),
            set_by: BTreeMap::new(),
        };
        policy.digest = policy.computed_digest();
        policy
    }
}

fn most<T: Copy>(value: T) -> Bound<T> {
    Bound { default: Some(built_in(value)), most: Some(built_in(value)) }
}

fn built_in<T>(value: T) -> Ruled<T> {
    Ruled { value, origin: Origin::BuiltIn }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Draft;

    #[test]
    fn is_what_the_shipped_file_says() {
        let draft = Draft::parse(Path::new(BUILT_IN), BUILT_IN_YAML).unwrap();
        let mut policy = Policy::built_in();
        // Everything else, so that a key that the file forgets shows.
        let other = "version: 1\nname: x\nimages: {allow: [], deny: ['*']}\n\
            registries: {short_names: [a], insecure: [a]}\nengines: [oci]\n\
            mounts: [{source: /, access: read-only}]\nnetwork: [host]\nrun_as: image\n\
            root_runs_as: 0\nhost_paths: [/]\nfresh: process\nrequire: [pids]\n\
            limits: {memory: {default: 1, \
            most: 1}, cpus: {default: 1, most: 1}, pids: {default: 1, most: 1}, \
            time: {default: 1s, most: 1s}}\nbuild: {allow: false, bases: [], \
            network: [loopback], settings: false, time: {default: 1s, most: 1s}, \
            layer: {default: 1, most: 1}}\nwarm: {idle: {default: 1s, most: 1s}, \
            containers: {default: 1, most: 1}, containers_per_user: {default: 1, most: 1}, \
            memory: {default: 1, most: 1}, tasks_per_user: {default: 1, most: 1}, \
            bytes_per_user: {default: 1, most: 1}, drain: {default: 1s, most: 1s}}\n\
            results: {keep: {default: 1s, most: 1s}, tasks_per_user: {default: 1, most: 1}, \
            bytes_per_user: {default: 1, most: 1}}\n";
        policy = policy.replaced_by(&Draft::parse(Path::new("other"), other).unwrap());
        policy = policy.replaced_by(&draft);
        assert_eq!(policy.digest, Policy::built_in().digest);
        assert_eq!(policy.name, Policy::built_in().name);
    }
}
