//! What a file of `docker login` or `podman login` says about one repository. Pure text.
//!
//! containers-auth.json(5) for the format, namespaced keys and their order; Docker's
//! `cli/config/configfile` for `credsStore` and `identitytoken`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Credential, base64};
use crate::name::{DOCKER_HUB, parse_host};

/// A file, read.
#[derive(Deserialize)]
pub(super) struct File {
    auths: Option<BTreeMap<String, Entry>>,
    #[serde(rename = "credHelpers")]
    helpers: Option<BTreeMap<String, String>>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

/// One of `auths`. Without content when a helper keeps the secret.
#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    identitytoken: Option<String>,
}

/// What a file knows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The credential itself.
    Credential(Credential),
    /// The name of the helper to ask, which is `docker-credential-NAME`.
    Helper(String),
    /// Nothing for this repository.
    Nothing,
    /// An entry whose `auth` is no base64 of `USER:PASSWORD`.
    Unreadable,
}

impl File {
    /// Reads a file's text. On failure line and column: the parser's message may repeat a secret.
    pub(super) fn parse(text: &[u8]) -> Result<File, (usize, usize)> {
        serde_json::from_slice(text).map_err(|error| (error.line(), error.column()))
    }

    /// What holds for `repository` on `host`: the host's own helper, else the entry with the
    /// longest fitting key, else the helper for all hosts.
    pub(super) fn find(&self, host: &str, repository: &str) -> Found {
        let helpers = self.helpers.iter().flatten();
        let mut helpers = helpers.filter(|(key, _)| normal_key(key).as_deref() == Some(host));
        if let Some((_, helper)) = helpers.next() {
            return Found::Helper(helper.clone());
        }
        let mut wanted = format!("{host}/{repository}");
        loop {
            let entries = self.auths.iter().flatten();
            let fitting = entries.filter(|(key, _)| normal_key(key).as_ref() == Some(&wanted));
            let found = fitting.map(|(_, entry)| entry.read());
            if let Some(found) = found.into_iter().find(|found| *found != Found::Nothing) {
                return found;
            }
            match wanted.rfind('/') {
                Some(slash) => wanted.truncate(slash),
                None => break,
            }
        }
        let store = self.store.clone().filter(|store| !store.is_empty());
        store.map_or(Found::Nothing, Found::Helper)
    }
}

impl Entry {
    fn read(&self) -> Found {
        let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = said(&self.identitytoken) {
            return Found::Credential(Credential::IdentityToken(token));
        }
        let Some(auth) = said(&self.auth) else { return Found::Nothing };
        let login = base64::decode(auth.trim()).and_then(|bytes| String::from_utf8(bytes).ok());
        // The first colon: a user's name has none (RFC 7617, section 2), a password may.
        match login.as_deref().and_then(|login| login.split_once(':')) {
            Some((user, password)) => Found::Credential(Credential::Login {
                user: user.to_owned(),
                // Docker once wrote the unused end of a buffer, and still takes it off.
                password: password.trim_end_matches('\0').to_owned(),
            }),
            None => Found::Unreadable,
        }
    }
}

/// A key as `HOST[:PORT][/NAMESPACE]` in the form that references have: without scheme, without the
/// path of the API, with one name for Docker Hub.
fn normal_key(key: &str) -> Option<String> {
    let bare = ["https://", "http://"].iter().find_map(|scheme| key.strip_prefix(scheme));
    let bare = bare.unwrap_or(key).trim_end_matches('/');
    let bare = ["/v1", "/v2"].iter().find_map(|api| bare.strip_suffix(api)).unwrap_or(bare);
    let (host, namespace) = match bare.split_once('/') {
        Some((host, namespace)) => (host, Some(namespace)),
        None => (bare, None),
    };
    let host = parse_host(host).ok()?;
    Some(namespace.map_or(host.clone(), |namespace| format!("{host}/{namespace}")))
}

/// What a helper is told, and was told when it was given the secret: Docker Hub has a name of its
/// own there (Docker's `registry.IndexServer`).
pub(super) fn server_of(host: &str) -> &str {
    if host == DOCKER_HUB { "https://index.docker.io/v1/" } else { host }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn find(file: &Value, host: &str, repository: &str) -> Found {
        File::parse(file.to_string().as_bytes()).unwrap().find(host, repository)
    }

    fn entry(user: &str, password: &str) -> Value {
        json!({"auth": base64::encode(format!("{user}:{password}").as_bytes())})
    }

    fn login(user: &str, password: &str) -> Found {
        Found::Credential(Credential::Login {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    #[test]
    fn reads_what_docker_and_podman_write() {
        for key in ["r.example:5000", "https://R.example:5000", "http://r.example:5000/v2/"] {
            let file = json!({"auths": {key: entry("me", "a:b:")}, "detachKeys": "ctrl-e"});
            assert_eq!(find(&file, "r.example:5000", "a"), login("me", "a:b:"), "{key}");
            assert_eq!(find(&file, "r.example", "a"), Found::Nothing, "{key}");
        }
        for key in ["docker.io", "https://index.docker.io/v1/", "index.docker.io/v1"] {
            let file = json!({"auths": {key: entry("me", "x")}});
            assert_eq!(find(&file, "docker.io", "library/a"), login("me", "x"), "{key}");
        }
        let token = json!({"auths": {"h": {"auth": "bWU6", "identitytoken": "secret"}}});
        let expected = Found::Credential(Credential::IdentityToken("secret".to_owned()));
        assert_eq!(find(&token, "h", "a"), expected);
        let nothing = json!({"auths": null, "credHelpers": null, "credsStore": null});
        assert_eq!(find(&nothing, "h", "a"), Found::Nothing);
    }

    /// containers-auth.json(5): `registry.example/ns/repo` before `registry.example/ns` before the
    /// host alone.
    #[test]
    fn takes_the_longest_key_that_fits() {
        let file = json!({"auths": {
            "h": entry("host", "1"),
            "h/ns": entry("namespace", "2"),
            "h/ns/repo": entry("repository", "3"),
            "h/empty": {},
        }});
        assert_eq!(find(&file, "h", "ns/repo"), login("repository", "3"));
        assert_eq!(find(&file, "h", "ns/repo/below"), login("repository", "3"));
        assert_eq!(find(&file, "h", "ns/other"), login("namespace", "2"));
        for other in ["nsx/repo", "n", "empty/a"] {
            assert_eq!(find(&file, "h", other), login("host", "1"), "{other}");
        }
        assert_eq!(find(&file, "h.example", "ns/repo"), Found::Nothing);
    }

    #[test]
    fn asks_the_helper_of_the_host_first_and_the_one_for_all_last() {
        let file = json!({
            "auths": {"own": entry("me", "x"), "entry": entry("me", "x"), "kept": {}},
            "credHelpers": {"https://own": "own-helper"},
            "credsStore": "for-all",
        });
        let helper = |name: &str| Found::Helper(name.to_owned());
        assert_eq!(find(&file, "own", "a"), helper("own-helper"));
        assert_eq!(find(&file, "entry", "a"), login("me", "x"));
        assert_eq!(find(&file, "kept", "a"), helper("for-all"));
        assert_eq!(server_of("docker.io"), "https://index.docker.io/v1/");
        assert_eq!(server_of("h:1"), "h:1");
    }

    #[test]
    fn says_where_a_file_is_wrong_without_repeating_it() {
        let text = b"{\"auths\":\n {\"h\": \"secret\"}}";
        assert_eq!(File::parse(text).err(), Some((2, 15)));
        for auth in ["%", "bWU="] {
            let file = json!({"auths": {"h": {"auth": auth}}});
            assert_eq!(find(&file, "h", "a"), Found::Unreadable, "{auth}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_files_do_not_panic(key: String, auth: String) {
            let _ = find(&json!({"auths": {key: {"auth": auth}}}), "h", "a/b");
        }
    }
}
