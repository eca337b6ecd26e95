//! How a registry asks for a token, and what the token service answers.
//!
//! distribution `docs/spec/auth/token.md`; the challenge's grammar is RFC 9110, section 11.6.1.
//! Pure text: `registry.rs` does the asking.

use hyper::header::HeaderValue;
use serde::Deserialize;

use super::url::Url;

/// The `WWW-Authenticate` header of a refused request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Get a token there.
    Bearer { realm: Url, service: Option<String> },
    /// A user name and password are wanted, or something stranger.
    Login,
}

impl Challenge {
    /// Reads the challenge. The registry may offer other schemes after a bearer token; they are not
    /// looked at.
    pub(super) fn parse(header: &str) -> Challenge {
        let Some((scheme, rest)) = header.trim_start().split_once(' ') else {
            return Challenge::Login;
        };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Challenge::Login;
        }
        let parameters = parameters(rest);
        let value = |wanted: &str| {
            let found = parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.clone())
        };
        match value("realm").as_deref().and_then(Url::parse) {
            Some(realm) => Challenge::Bearer { realm, service: value("service") },
            None => Challenge::Login,
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
    fn takes_anything_else_for_a_wish_to_log_in() {
        for header in ["", "Basic realm=\"x\"", "Bearer", "Bearer realm=\"x\"", "Bearer realm=\"h"]
        {
            assert_eq!(Challenge::parse(header), Challenge::Login, "{header}");
        }
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
