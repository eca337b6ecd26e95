//! Registries that want to know who is there, and who gets to see what they are shown.

use std::os::unix::fs::PermissionsExt;

use ric_images::{PullError, RegistryError, ResolveError, SourceError};
use serde_json::json;

use super::fault_registry::{Answer, Asked, FaultRegistry, content, redirect};
use super::image_fixture::{Fixture, Layer};
use super::registry::{Site, blob_path, chain, three_layers};

/// `me:secret:1` in base64.
const LOGIN: &str = "bWU6c2VjcmV0OjE=";
const BASIC: &str = "Basic bWU6c2VjcmV0OjE=";

impl Site {
    /// A site whose user has this file of credentials; `HOST` stands for the registry.
    fn with_file(text: &str) -> Site {
        let mut site = Site::new();
        let path = site.directory.path().join("auth.json");
        std::fs::write(&path, text.replace("HOST", &site.registry.host())).unwrap();
        site.credentials.files = vec![path];
        site
    }

    /// A site whose user has logged in as `me`.
    fn logged_in() -> Site {
        Site::with_file(&json!({"auths": {"HOST": {"auth": LOGIN}}}).to_string())
    }

    fn pull(&self) -> Result<(), PullError> {
        let manifest = self.resolve("a:1").unwrap();
        self.ensure(&manifest).map(drop)
    }
}

/// Every error says what is wrong, and none says the secret.
#[track_caller]
fn registry_error(error: &ResolveError) -> &RegistryError {
    let all = format!("{error:?} {} {:?}", chain(error), error.hint());
    assert!(!all.contains("secret") && !all.contains(LOGIN), "{all}");
    let ResolveError::Source { source, .. } = error else { panic!("{error:?}") };
    let SourceError::Registry { source, .. } = source.as_ref() else { panic!("{error:?}") };
    source
}

fn shown(asked: &[Asked]) -> Vec<&str> {
    asked.iter().filter_map(|asked| asked.authorization.as_deref()).collect()
}

#[test]
fn shows_a_password_to_a_registry_that_asks() {
    let site = Site::logged_in();
    site.registry.offer("a", "1", &three_layers());
    site.registry.want_password(BASIC);
    site.pull().unwrap();
    let asked = site.registry.asked();
    assert!(shown(&asked).len() >= 5, "manifest, configuration, three layers");
    assert!(shown(&asked).iter().all(|shown| *shown == BASIC));
}

#[test]
fn shows_nothing_to_a_registry_that_does_not_ask() {
    let site = Site::logged_in();
    site.registry.offer("a", "1", &three_layers());
    site.pull().unwrap();
    assert_eq!(shown(&site.registry.asked()), [] as [&str; 0]);
}

#[test]
fn shows_nothing_to_a_registry_that_the_user_has_no_credentials_for() {
    let site = Site::with_file(&json!({"auths": {"HOST0": {"auth": LOGIN}}}).to_string());
    site.registry.want_password(BASIC);
    let error = site.resolve("a:1").unwrap_err();
    assert!(matches!(registry_error(&error), RegistryError::Unauthorized { .. }), "{error:?}");
    let hint = format!("podman login {}", site.registry.host());
    assert!(error.hint().unwrap().contains(&hint), "{:?}", error.hint());
    assert_eq!(shown(&site.registry.asked()), [] as [&str; 0]);
}

#[test]
fn gets_tokens_with_a_password_and_keeps_both_from_other_hosts() {
    let (mut site, elsewhere) = (Site::logged_in(), FaultRegistry::start());
    site.registries.plain_hosts.push(elsewhere.host());
    let layer = Layer::gzip("one", "1");
    site.registry.offer("a", "1", &Fixture::new(vec![layer.clone()]));
    site.registry.want_token("token");
    site.registry.answer("/token", vec![content(br#"{"token": "token"}"#)]);
    let far = format!("http://{}/far", elsewhere.host());
    site.registry.answer(&blob_path(&layer.blob), vec![redirect(&far)]);
    elsewhere.answer("/far", vec![content(&layer.blob)]);
    site.pull().unwrap();
    for asked in site.registry.asked() {
        let is_token = asked.path.starts_with("/token");
        let expected = if is_token { BASIC } else { "Bearer token" };
        assert!(asked.authorization.is_none_or(|shown| shown == expected));
    }
    assert_eq!(site.registry.asked_for("/token?scope=repository:a:pull&service=fixture"), 2);
    assert_eq!(elsewhere.asked().len(), 1);
    assert_eq!(shown(&elsewhere.asked()), [] as [&str; 0]);
}

/// A host that a redirect leads to asks for credentials, in both ways. The registry itself asks for
/// none, so whatever is shown is shown because of that host.
#[test]
fn shows_nothing_to_a_host_that_a_redirect_leads_to() {
    for challenge in ["Basic realm=\"x\"", "Bearer realm=\"http://ELSEWHERE/token\""] {
        let (mut site, elsewhere) = (Site::logged_in(), FaultRegistry::start());
        site.registries.plain_hosts.push(elsewhere.host());
        let layer = Layer::gzip("one", "1");
        site.registry.offer("a", "1", &Fixture::new(vec![layer.clone()]));
        let far = format!("http://{}/far", elsewhere.host());
        site.registry.answer(&blob_path(&layer.blob), vec![redirect(&far)]);
        let challenge = challenge.replace("ELSEWHERE", &elsewhere.host());
        let header = format!("WWW-Authenticate: {challenge}");
        elsewhere.answer("/far", vec![Answer::Status(401, header, String::new())]);
        let message = chain(&site.pull().unwrap_err());
        assert!(message.contains("answered 401 to http://"), "{message}");
        assert_eq!(elsewhere.asked().len(), 1, "no token service of a stranger is asked");
        assert_eq!(shown(&elsewhere.asked()), [] as [&str; 0]);
        assert_eq!(shown(&site.registry.asked()), [] as [&str; 0]);
    }
}

/// The token service itself redirects, and the registry names one that policy does not list.
#[test]
fn shows_a_password_to_no_other_host_on_the_way_to_a_token() {
    let (mut site, elsewhere) = (Site::logged_in(), FaultRegistry::start());
    site.registry.offer("a", "1", &three_layers());
    let far = format!("http://{}/token", elsewhere.host());
    elsewhere.answer("/token", vec![content(br#"{"token": "token"}"#)]);
    site.registry.want_from(&far, &[("token", usize::MAX)]);
    let error = site.resolve("a:1").unwrap_err();
    assert!(chain(&error).contains("is not listed as a host"), "{}", chain(&error));
    assert_eq!(elsewhere.asked(), []);

    site.registries.plain_hosts.push(elsewhere.host());
    site.registry.want_token("token");
    site.registry.answer("/token", vec![redirect(&far)]);
    site.resolve("a:1").unwrap();
    assert_eq!(elsewhere.asked().len(), 1);
    assert_eq!(shown(&elsewhere.asked()), [] as [&str; 0]);
}

#[test]
fn posts_an_identity_token_for_a_token() {
    let entry = json!({"auths": {"HOST": {"auth": "bWU6", "identitytoken": "secret+1"}}});
    let site = Site::with_file(&entry.to_string());
    site.registry.offer("a", "1", &three_layers());
    site.registry.want_token("token");
    site.registry.answer("/token", vec![content(br#"{"access_token": "token"}"#)]);
    site.pull().unwrap();
    let asked = site.registry.asked();
    let posted = asked.iter().find(|asked| asked.path == "/token").unwrap();
    assert_eq!(
        posted.form,
        "grant_type=refresh_token&client_id=run-in-container&service=fixture\
         &scope=repository:a:pull&refresh_token=secret%2B1"
    );
    assert_eq!(posted.authorization, None);

    // A form with a secret in it is not sent on.
    let elsewhere = FaultRegistry::start();
    let far = format!("http://{}/token", elsewhere.host());
    site.registry.answer("/token", vec![redirect(&far)]);
    let error = site.resolve("a:1").unwrap_err();
    assert!(matches!(registry_error(&error), RegistryError::Status { status: 307, .. }));
    assert_eq!(elsewhere.asked(), []);
}

/// The first token ends among the layers, which several threads fetch: one gets the second token,
/// the others take it over.
#[test]
fn tokens_that_expire_in_the_middle_are_fetched_anew() {
    let site = Site::logged_in();
    let layers = (0..6).map(|n| Layer::gzip("file", &n.to_string())).collect();
    site.registry.offer("a", "1", &Fixture::new(layers));
    let token = |name: &str| content(json!({"token": name}).to_string().as_bytes());
    let tokens = || {
        site.registry
            .asked()
            .iter()
            .filter(|asked| asked.form.is_empty() && asked.path.starts_with("/token"))
            .count()
    };
    site.registry.want_tokens(&[("one", 1), ("two", 1)]);
    site.registry.answer("/token", vec![token("one"), token("two")]);
    let manifest = site.resolve("a:1").unwrap();
    assert_eq!(tokens(), 2, "one for the manifest, one for the configuration");

    site.registry.want_tokens(&[("three", 4), ("four", usize::MAX)]);
    site.registry.answer("/token", vec![token("three"), token("four")]);
    site.ensure(&manifest).unwrap();
    assert_eq!(tokens(), 4);
}

#[test]
fn a_wrong_password_is_tried_once_and_said() {
    let site = Site::logged_in();
    site.registry.want_password("Basic other");
    let error = site.resolve("a:1").unwrap_err();
    assert!(matches!(registry_error(&error), RegistryError::Refused { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("log in anew"));
    assert_eq!(shown(&site.registry.asked()), [BASIC]);

    let site = Site::logged_in();
    site.registry.want_token("token");
    let refused = Answer::Status(401, "X-None: 1".to_owned(), String::new());
    site.registry.answer("/token", vec![refused]);
    let error = site.resolve("a:1").unwrap_err();
    assert!(matches!(registry_error(&error), RegistryError::Refused { .. }), "{error:?}");
    assert_eq!(shown(&site.registry.asked()), [BASIC]);
}

/// A laptop's file on another machine: images for everybody can be had, the others say why not.
#[test]
fn credentials_that_cannot_be_had_stop_only_what_needs_them() {
    let site = Site::with_file(&json!({"credsStore": "desktop"}).to_string());
    site.registry.offer("a", "1", &three_layers());
    site.registry.want_token("token");
    site.registry.answer("/token", vec![content(br#"{"token": "token"}"#)]);
    site.pull().unwrap();
    site.registry.want_token("other");
    let error = site.resolve("a:1").unwrap_err();
    assert!(matches!(registry_error(&error), RegistryError::Credentials { .. }), "{error:?}");
    assert!(chain(&error).contains("`docker-credential-desktop`"), "{}", chain(&error));
}

#[test]
fn asks_a_credential_helper_and_the_entry_of_a_namespace() {
    let mut site = Site::with_file(&json!({"credHelpers": {"HOST": "test"}}).to_string());
    site.registry.offer("a", "1", &three_layers());
    let helper = site.directory.path().join("docker-credential-test");
    let script = "#!/bin/sh\nread host\n\
        test \"$host\" = HOST && echo '{\"Username\": \"me\", \"Secret\": \"secret:1\"}'\n";
    std::fs::write(&helper, script.replace("HOST", &site.registry.host())).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o700)).unwrap();
    site.credentials.helper_folders = vec![site.directory.path().to_owned()];
    site.registry.want_password(BASIC);
    site.pull().unwrap();

    let entries = json!({"auths": {"HOST/a": {"auth": LOGIN}, "HOST": {"auth": "eDp5"}}});
    let site = Site::with_file(&entries.to_string());
    site.registry.offer("a", "1", &three_layers());
    site.registry.want_password(BASIC);
    site.pull().unwrap();
    assert!(shown(&site.registry.asked()).iter().all(|shown| *shown == BASIC));
}
