//! How registries are reached, as plain data: what a site's policy and the environment say.

use std::path::PathBuf;

use crate::name::parse_host;
use crate::{Proxies, RegistryName};

/// How registries are reached. By default: directly, in TLS that the machine's authorities vouch
/// for.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// Registries, `HOST` or `HOST:PORT`, that may be spoken to in plain HTTP. All others are
    /// spoken to in TLS.
    pub plain_hosts: Vec<String>,
    /// Places that are asked before a registry, in order.
    pub mirrors: Vec<Mirror>,
    /// Files in PEM with authorities that are trusted besides the machine's own. Read when TLS is
    /// first spoken.
    pub authorities: Vec<PathBuf>,
    /// What stands between here and the registries.
    pub proxies: Proxies,
    /// Nobody is asked; what the store has is used.
    pub offline: bool,
}

/// A place that has what a registry has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The registry, `HOST[:PORT]`.
    pub registry: String,
    /// `HOST[:PORT][/PREFIX]`; the prefix comes before the registry's own names.
    pub at: String,
}

impl Registries {
    /// What `name` is called in each mirror of its registry, in the order to ask them.
    pub(crate) fn in_mirrors(&self, name: &RegistryName) -> Vec<RegistryName> {
        // One registry has one name, however the policy writes it.
        let mirrored = |mirror: &&Mirror| {
            parse_host(&mirror.registry).is_ok_and(|registry| registry == name.host)
        };
        let in_mirror = |mirror: &Mirror| {
            let (host, prefix) = match mirror.at.split_once('/') {
                Some((host, prefix)) => (host, format!("{prefix}/")),
                None => (mirror.at.as_str(), String::new()),
            };
            let repository = format!("{prefix}{}", name.repository);
            let host = parse_host(host).ok()?;
            Some(RegistryName { host, repository, ..name.clone() })
        };
        self.mirrors.iter().filter(mirrored).filter_map(in_mirror).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reference;

    #[test]
    fn names_in_mirrors_begin_with_the_mirrors_prefix() {
        let mirror = |registry: &str, at: &str| Mirror { registry: registry.into(), at: at.into() };
        let mirrors = vec![
            mirror("index.docker.io", "M.example:443/hub"),
            mirror("r.example", "other.example"),
            mirror("docker.io", "127.0.0.1:5000"),
        ];
        let registries = Registries { mirrors, ..Registries::default() };
        let Ok(Reference::Registry(name)) = "docker.io/python:3".parse() else { panic!() };
        let names = registries.in_mirrors(&name);
        let names: Vec<_> = names.iter().map(RegistryName::to_string).collect();
        let expected =
            ["docker://m.example/hub/library/python:3", "docker://127.0.0.1:5000/library/python:3"];
        assert_eq!(names, expected);
    }
}
