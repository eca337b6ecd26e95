//! How a registry asks for a token, and what the token service answers.
//!
//! distribution `docs/spec/auth/token.md`; the challenge's grammar is RFC 9110, section 11.6.1.
//! Pure text: `registry.rs` does the asking.

use hyper::header::HeaderValue;
use serde::Deserialize;

use super::url::Url;
use crate::credentials::encode;

/// The `WWW-Authenticate` header of a refused request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Get a token there.
    Bearer { realm: Url, service: Option<String> },
    /// A user name and password are wanted (RFC 7617).
    Basic,
    /// Something stranger.
    Unknown,
}

impl Challenge {
    /// The best of several headers: a password is not sent where a token would do.
    pub(super) fn best(headers: impl Iterator<Item = Challenge>) -> Challenge {
        let rank = |challenge: &Challenge| match challenge {
            Challenge::Bearer { .. } => 2,
            Challenge::Basic => 1,
            Challenge::Unknown => 0,
        };
        headers.max_by_key(rank).unwrap_or(Challenge::Unknown)
    }

    /// Reads one header. Further schemes in it after the first are not looked at.
    pub(super) fn parse(header: &str) -> Challenge {
        let header = header.trim_start();
        let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Challenge::Basic;
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Challenge::Unknown;
        }
        let parameters = parameters(rest);
        let value = |wanted: &str| {
            let found = parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.clone())
        };
        match value("realm").as_deref().and_then(Url::parse) {
            Some(realm) => Challenge::Bearer { realm, service: value("service") },
            None => Challenge::Unknown,
        }
    }

    /// Where to get a token that lets read `repository`.
    pub(super) fn token_url(realm: &Url, service: Option<&str>, repository: &str) -> Url {
        let join = if realm.path.contains('?') { '&' } else { '?' };
        let mut path = format!("{}{join}scope=", realm.path);
        escape_into(&mut path, &format!("repository:{repository}:pull"));
        if let Some(service) = service {
            path.push_str("&service=");
            escape_into(&mut path, service);
        }
        Url { path, ..realm.clone() }
    }
}

/// The form that gets a token for an identity token (distribution `docs/spec/auth/oauth.md`).
pub(super) fn refresh_form(token: &str, service: Option<&str>, repository: &str) -> String {
    let mut form = "grant_type=refresh_token&client_id=run-in-container&service=".to_owned();
    escape_into(&mut form, service.unwrap_or_default());
    form.push_str("&scope=");
    escape_into(&mut form, &format!("repository:{repository}:pull"));
    form.push_str("&refresh_token=");
    escape_into(&mut form, token);
    form
}

/// The header that shows a user's name and password (RFC 7617, section 2).
pub(super) fn basic(user: &str, password: &str) -> HeaderValue {
    let encoded = encode(format!("{user}:{password}").as_bytes());
    let header = HeaderValue::try_from(format!("Basic {encoded}"));
    let mut header = header.expect("base64 fits in a header");
    header.set_sensitive(true);
    header
}

/// `name=value` pairs between commas; a value may be quoted. Stops at what does not fit.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let Some((name, after)) = rest.split_once('=') else { return pairs };
        let name = name.trim().to_owned();
        if let Some(quoted) = after.strip_prefix('"') {
            let Some((value, after)) = unquote(quoted) else { return pairs };
            pairs.push((name, value));
            rest = after;
        } else {
            let end = after.find(',').unwrap_or(after.len());
            pairs.push((name, after[..end].trim().to_owned()));
            rest = &after[end..];
        }
    }
}

/// Reads to the closing quote; a backslash takes the next character as it is.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// Percent-encodes what has a meaning in a query (RFC 3986, section 2.3).
fn escape_into(query: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte) {
            query.push(char::from(byte));
        } else {
            query.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// Reads the token service's answer and makes the header that shows the token to the registry.
/// `None` if there is no token in it that fits in a header.
pub(super) fn authorization(answer: &[u8]) -> Option<HeaderValue> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(answer).ok()?;
    let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty())?;
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_a_bearer_challenge() {
        let header = r#"Bearer realm="https://auth.example/token?a=b",service="r, \"x\"",scope=y"#;
        let Challenge::Bearer { realm, service } = Challenge::parse(header) else { panic!() };
        assert_eq!(service.as_deref(), Some("r, \"x\""));
        let url = Challenge::token_url(&realm, service.as_deref(), "a/b");
        assert_eq!(url.path, "/token?a=b&scope=repository:a/b:pull&service=r%2C%20%22x%22");
    }

    #[test]
    fn prefers_a_token_to_a_password_and_does_not_guess() {
        for header in ["", "Negotiate", "Bearer", "Bearer realm=\"x\"", "Bearer realm=\"h"] {
            assert_eq!(Challenge::parse(header), Challenge::Unknown, "{header}");
        }
        for header in ["Basic", "basic realm=\"x\", charset=\"UTF-8\""] {
            assert_eq!(Challenge::parse(header), Challenge::Basic, "{header}");
        }
        let headers = ["Negotiate", "Bearer realm=\"https://h/\"", "Basic", "x"];
        let best = Challenge::best(headers.into_iter().map(Challenge::parse));
        assert!(matches!(best, Challenge::Bearer { .. }), "{best:?}");
        assert_eq!(Challenge::best(std::iter::empty()), Challenge::Unknown);
    }

    #[test]
    fn shows_credentials_as_the_standards_say() {
        let header = basic("Aladdin", "open sesame");
        assert_eq!(header, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "RFC 7617, section 2");
        assert!(header.is_sensitive());
        let form = refresh_form("a+b&c", Some("r"), "a/b");
        assert!(form.ends_with("&service=r&scope=repository:a/b:pull&refresh_token=a%2Bb%26c"));
    }

    #[test]
    fn refuses_tokens_that_would_break_the_request() {
        assert!(authorization(br#"{"token": "a.b-c"}"#).unwrap().is_sensitive());
        assert!(authorization(br#"{"access_token": "x"}"#).is_some());
        for answer in [&br#"{"token": "a\r\nHost: evil"}"#[..], br#"{"token": ""}"#, b"{}", b"x"] {
            assert_eq!(authorization(answer), None);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_headers_do_not_panic(text: String) {
            let _ = Challenge::parse(&format!("Bearer {text}"));
        }
    }
}
