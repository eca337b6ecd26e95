//! The few URLs that a pull needs: `http` or `https`, a host, a port, a path.

use std::fmt;

use hyper::Uri;

/// A URL that passed its checks. No user name, no fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    /// Plain HTTP instead of HTTPS.
    pub(super) plain: bool,
    /// Lower-case; an IPv6 address in its brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Path and query, beginning with a slash.
    pub(super) path: String,
}

impl Url {
    /// Reads an absolute URL.
    pub(super) fn parse(text: &str) -> Option<Url> {
        let uri: Uri = text.parse().ok()?;
        let plain = match uri.scheme_str()? {
            "http" => true,
            "https" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        // `https://registry.example@evil.example/` is made to be misread.
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return None;
        }
        let port = authority.port_u16().unwrap_or(if plain { 80 } else { 443 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
        Some(Url { plain, host: authority.host().to_ascii_lowercase(), port, path })
    }

    /// Where a `Location` header leads from here: an absolute URL, or a path on the same host
    /// (RFC 9110, section 10.2.2; paths relative to the current one are not used by registries).
    pub(super) fn join(&self, location: &str) -> Option<Url> {
        if location.starts_with('/') && !location.starts_with("//") {
            let uri: Uri = location.parse().ok()?;
            return Some(Url { path: uri.path_and_query()?.as_str().to_owned(), ..self.clone() });
        }
        Url::parse(location)
    }

    /// Whether credentials for `other` may be sent here.
    pub(super) fn has_origin_of(&self, other: &Url) -> bool {
        (self.plain, &self.host, self.port) == (other.plain, &other.host, other.port)
    }

    /// Host and port as in a `Host` header: without the default port.
    pub(super) fn authority(&self) -> String {
        match (self.plain, self.port) {
            (true, 80) | (false, 443) => self.host.clone(),
            (true | false, port) => format!("{}:{port}", self.host),
        }
    }

    /// The host as the resolver and TLS want it: an IPv6 address without brackets.
    pub(super) fn bare_host(&self) -> &str {
        self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&self.host)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.plain { "http" } else { "https" };
        // The query of a redirect holds a signature that lets anyone read the blob.
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "{scheme}://{}{path}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_registries_send() {
        let url = Url::parse("https://R.example:5000/v2/a?b=c").unwrap();
        assert_eq!((url.plain, url.host.as_str(), url.port), (false, "r.example", 5000));
        assert_eq!(url.path, "/v2/a?b=c");
        assert_eq!(url.to_string(), "https://r.example:5000/v2/a");
        let address = Url::parse("http://[::1]/").unwrap();
        assert_eq!((address.bare_host(), address.authority()), ("::1", "[::1]".to_owned()));
    }

    #[test]
    fn refuses_what_could_be_misread() {
        for text in
            ["", "/v2/", "ftp://r.example/", "https://u:p@r.example/", "https:///a", "//r.example/"]
        {
            assert_eq!(Url::parse(text), None, "{text}");
        }
    }

    #[test]
    fn follows_locations() {
        let from = Url::parse("https://r.example/v2/a").unwrap();
        let same = from.join("/blob?sig=1").unwrap();
        assert_eq!((same.path.as_str(), same.has_origin_of(&from)), ("/blob?sig=1", true));
        let other = from.join("https://cdn.example/blob").unwrap();
        assert!(!other.has_origin_of(&from));
        assert!(!from.join("http://r.example/v2/a").unwrap().has_origin_of(&from));
        assert_eq!(from.join("//evil.example/"), None);
        assert_eq!(from.join("blob"), None);
    }
}
