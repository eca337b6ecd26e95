//! What stands between here and a registry: which proxy, if any, and how it is asked.
//!
//! The variables mean what Go's programs (Docker, Podman, Apptainer) take them to mean:
//! `golang.org/x/net/http/httpproxy`. The machine itself is never reached through a proxy. Pure
//! text but for [`open_tunnel`].

use std::fmt;
use std::io;
use std::net::IpAddr;

use hyper::Uri;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::url::Url;
use crate::credentials::encode;

/// Most bytes of a proxy's answer to CONNECT.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Proxies as environment variables write them. Looked at when a registry is asked.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// `HTTPS_PROXY`: for registries that speak TLS.
    pub https: Option<String>,
    /// `HTTP_PROXY`: for those that do not.
    pub http: Option<String>,
    /// `NO_PROXY`: hosts that are asked directly.
    pub except: String,
}

/// A URL of a proxy may hold a password.
impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies")
            .field("https", &self.https.is_some())
            .field("http", &self.http.is_some())
            .field("except", &self.except)
            .finish()
    }
}

/// One proxy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Proxy {
    /// As a resolver wants it.
    pub(super) host: String,
    pub(super) port: u16,
    /// Value of `Proxy-Authorization`.
    pub(super) authorization: Option<String>,
}

impl Proxies {
    /// The proxy for `url`; `None` to ask directly.
    ///
    /// # Errors
    /// The name of the variable that is no URL of a proxy that can be used.
    pub(super) fn find(&self, url: &Url) -> Result<Option<Proxy>, &'static str> {
        let (name, text) = match url.plain {
            true => ("HTTP_PROXY", &self.http),
            false => ("HTTPS_PROXY", &self.https),
        };
        let Some(text) = text.as_deref().map(str::trim).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let host = url.bare_host();
        let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(is_loopback);
        if is_here || self.except.split(',').any(|rule| matches(rule.trim(), host, url.port)) {
            return Ok(None);
        }
        parse(text).map(Some).ok_or(name)
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.is_loopback()
}

/// Whether the entry `rule` of `NO_PROXY` means `host`: everything, an address, a network, or a
/// domain with all below it, perhaps at one port only.
fn matches(rule: &str, host: &str, port: u16) -> bool {
    if rule == "*" {
        return true;
    }
    let address: Option<IpAddr> = host.parse().ok();
    if let Some((network, bits)) = rule.split_once('/') {
        let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
            return false;
        };
        return address.is_some_and(|address| is_within(address, network, bits));
    }
    if let Ok(ruled) = rule.trim_matches(['[', ']']).parse::<IpAddr>() {
        return address == Some(ruled);
    }
    let (name, ruled_port) = match rule.rsplit_once(':') {
        Some((name, text)) => (name, text.parse::<u16>().ok()),
        None => (rule, None),
    };
    if ruled_port.is_some_and(|ruled| ruled != port) {
        return false;
    }
    let name = name.trim_matches(['[', ']']).to_ascii_lowercase();
    if let Ok(ruled) = name.parse::<IpAddr>() {
        return address == Some(ruled);
    }
    let (domain, below_only) = match name.strip_prefix("*.").or(name.strip_prefix('.')) {
        Some(domain) => (domain, true),
        None => (name.as_str(), false),
    };
    let below = host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    !domain.is_empty() && (below || !below_only && host == domain)
}

fn is_within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) if bits <= 32 => {
            let differ = address.to_bits() ^ network.to_bits();
            differ.leading_zeros() >= bits
        }
        (IpAddr::V6(address), IpAddr::V6(network)) if bits <= 128 => {
            let differ = address.to_bits() ^ network.to_bits();
            differ.leading_zeros() >= bits
        }
        (IpAddr::V4(_) | IpAddr::V6(_), IpAddr::V4(_) | IpAddr::V6(_)) => false,
    }
}

/// Reads `[http://][USER[:PASSWORD]@]HOST[:PORT]`. Other kinds of proxies are not spoken to.
fn parse(text: &str) -> Option<Proxy> {
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let uri: Uri = text.parse().ok()?;
    if uri.scheme_str() != Some("http") {
        return None;
    }
    let authority = uri.authority()?;
    let host = authority.host();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let user = authority.as_str().rsplit_once('@').map(|(user, _)| user);
    let authorization = match user {
        None => None,
        Some(user) => {
            let user = unescape(user)?;
            let user = if user.contains(&b':') { user } else { [&user[..], b":"].concat() };
            Some(format!("Basic {}", encode(&user)))
        }
    };
    let port = authority.port_u16().unwrap_or(80);
    (!host.is_empty()).then(|| Proxy { host: host.to_owned(), port, authorization })
}

/// Undoes percent-encoding (RFC 3986, section 2.1).
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let [high, low, after @ ..] = after else { return None };
            let digits = [*high, *low];
            let digits = std::str::from_utf8(&digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    Some(bytes)
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Asks the proxy at the other end of `stream` to connect it to `url` (RFC 9110, section 9.3.6).
pub(super) async fn open_tunnel(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    url: &Url,
    proxy: &Proxy,
) -> io::Result<()> {
    let target = format!("{}:{}", url.host, url.port);
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(authorization) = &proxy.authorization {
        request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // Byte by byte: what follows the head is the other end's.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD_BYTES_MAX {
            return Err(io::Error::other("its answer does not end"));
        }
        head.push(stream.read_u8().await?);
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let status = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    match status {
        [b'2', _, _] => Ok(()),
        b"407" => Err(io::Error::other("it wants to know who asks (407)")),
        status => Err(io::Error::other(format!("it answered {}", status.escape_ascii()))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxies(except: &str) -> Proxies {
        Proxies {
            https: Some("http://u:p%40ss@proxy.example:3128".to_owned()),
            http: Some("plain.example".to_owned()),
            except: except.to_owned(),
        }
    }

    fn found(except: &str, url: &str) -> Option<String> {
        let found = proxies(except).find(&Url::parse(url).unwrap()).unwrap();
        found.map(|proxy| proxy.to_string())
    }

    #[test]
    fn each_scheme_has_its_own_proxy() {
        assert_eq!(found("", "https://r.example/").as_deref(), Some("proxy.example:3128"));
        assert_eq!(found("", "http://r.example/").as_deref(), Some("plain.example:80"));
        for here in ["https://localhost:5000/", "http://127.0.0.1:5000/", "https://[::1]/"] {
            assert_eq!(found("", here), None, "{here}");
        }
        let proxy = parse("http://u:p%40ss@proxy.example").unwrap();
        assert_eq!(proxy.authorization.as_deref(), Some("Basic dTpwQHNz"), "u:p@ss");
        assert!(!format!("{:?}", proxies("")).contains("p%40ss"));
    }

    #[test]
    fn exceptions_are_domains_addresses_and_networks() {
        let cases = [
            ("example", "https://r.example/", true),
            ("r.example", "https://r.example/", true),
            ("x.example, R.Example", "https://r.example/", true),
            ("r.example:443", "https://r.example/", true),
            ("r.example:444", "https://r.example/", false),
            (".r.example", "https://r.example/", false),
            ("*.r.example", "https://a.r.example/", true),
            ("ample", "https://r.example/", false),
            ("*", "https://r.example/", true),
            ("", "https://r.example/", false),
            ("10.0.0.0/8", "https://10.1.2.3/", true),
            ("10.0.0.0/8", "https://11.1.2.3/", false),
            ("0.0.0.0/0", "https://11.1.2.3/", true),
            ("10.1.2.3", "https://10.1.2.3/", true),
            ("10.1.2.3:443", "https://10.1.2.3/", true),
            ("fd00::/8", "https://[fd01::2]/", true),
            ("10.0.0.0/33", "https://10.1.2.3/", false),
        ];
        for (except, url, is_direct) in cases {
            assert_eq!(found(except, url).is_none(), is_direct, "{except} {url}");
        }
    }

    #[test]
    fn proxies_of_other_kinds_are_refused_by_the_variable() {
        for text in ["socks5://proxy.example", "https://proxy.example", "http://", "a b", "u%@p"] {
            let proxies = Proxies { https: Some(text.to_owned()), ..Proxies::default() };
            let found = proxies.find(&Url::parse("https://r.example/").unwrap());
            assert_eq!(found, Err("HTTPS_PROXY"), "{text}");
        }
        let unset = Proxies { https: Some(" ".to_owned()), ..Proxies::default() };
        assert_eq!(unset.find(&Url::parse("https://r.example/").unwrap()), Ok(None));
    }

    proptest! {
        #[test]
        fn arbitrary_variables_do_not_panic(https in "\\PC{0,30}", except in "\\PC{0,30}") {
            let proxies = Proxies { https: Some(https), http: None, except };
            let _ = proxies.find(&Url::parse("https://r.example/").unwrap());
        }
    }
}
