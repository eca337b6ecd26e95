//! The grammar of names in a registry: host, port, repository, tag, digest.
//!
//! OCI distribution-spec v1.1, "Pulling manifests", for repository and tag; RFC 1123 section 2.1
//! and RFC 3986 section 3.2.2 for hosts. What passes here needs no escaping in a URL.

use std::net::Ipv6Addr;

use crate::Digest;
use crate::reference::{Part, Wrong};

/// The name under which every tool writes Docker Hub.
pub(crate) const DOCKER_HUB: &str = "docker.io";

/// Other hosts that are Docker Hub: one image must have one name.
const DOCKER_HUB_ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

/// Longest host name in text form (RFC 1035, section 2.3.4, without the length bytes).
const HOST_BYTES_MAX: usize = 253;

/// Longest label of a host name (RFC 1035, section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// Longest repository; the distribution-spec allows 255 for host and repository together.
const REPOSITORY_BYTES_MAX: usize = 255;

/// Longest tag (distribution-spec, `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`).
const TAG_BYTES_MAX: usize = 128;

/// `NAME[:TAG][@DIGEST]`, taken apart and checked.
pub(crate) struct NameParts {
    pub(crate) name: String,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<String>,
}

/// Reads `NAME[:TAG][@DIGEST]`.
pub(crate) fn parse_name(text: &str) -> Result<NameParts, Wrong<'_>> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
        None => (text, None),
    };
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(parse_tag(tag)?)),
        Some(_) | None => (rest, None),
    };
    Ok(NameParts { name: parse_repository(name)?, tag, digest })
}

/// Reads a digest.
pub(crate) fn parse_digest(text: &str) -> Result<String, Wrong<'_>> {
    match text.parse::<Digest>() {
        Ok(digest) => Ok(digest.to_string()),
        Err(_) => Err(Wrong(Part::Digest, text, "`sha256:` and 64 lower-case hex digits")),
    }
}

/// Reads a tag.
pub(crate) fn parse_tag(text: &str) -> Result<String, Wrong<'_>> {
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let goes_well = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if starts_well && goes_well && text.len() <= TAG_BYTES_MAX {
        return Ok(text.to_owned());
    }
    Err(Wrong(
        Part::Tag,
        text,
        "1 to 128 letters, digits, `_`, `.` and `-`, the first no `.` or `-`",
    ))
}

fn parse_repository(text: &str) -> Result<String, Wrong<'_>> {
    if text.len() <= REPOSITORY_BYTES_MAX && text.split('/').all(is_component) {
        return Ok(text.to_owned());
    }
    Err(Wrong(
        Part::Repository,
        text,
        "at most 255 lower-case letters and digits, between them single `/`, `.`, `_`, \
         or `__`, or any number of `-`",
    ))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator = |text: &str| {
        matches!(text, "." | "_" | "__") || (!text.is_empty() && text.bytes().all(|b| b == b'-'))
    };
    let mut rest = text.trim_start_matches(is_word);
    if rest.len() == text.len() {
        return false;
    }
    while !rest.is_empty() {
        let word_at = rest.find(is_word).unwrap_or(rest.len());
        let (separator, word) = rest.split_at(word_at);
        if !is_separator(separator) || word.is_empty() {
            return false;
        }
        rest = word.trim_start_matches(is_word);
    }
    true
}

/// Reads `HOST[:PORT]` and returns its one form: lower-case, no default port, one name for
/// Docker Hub.
pub(crate) fn parse_host(text: &str) -> Result<String, Wrong<'_>> {
    let (host, port) = split_port(text);
    if !is_host(host) {
        return Err(Wrong(Part::Host, text, "a host name or an IP address, IPv6 in brackets"));
    }
    let host = host.to_ascii_lowercase();
    let port = port.map(parse_port).transpose()?.filter(|port| *port != 443);
    Ok(match port {
        None if DOCKER_HUB_ALIASES.contains(&host.as_str()) => DOCKER_HUB.to_owned(),
        None => host,
        Some(port) => format!("{host}:{port}"),
    })
}

/// Splits at the colon before the port, which stands after the bracket of an IPv6 address.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        Some(_) | None => (text, None),
    }
}

fn parse_port(text: &str) -> Result<u16, Wrong<'_>> {
    let wrong = Wrong(Part::Port, text, "1 to 65535, without leading zeros");
    if !text.bytes().all(|b| b.is_ascii_digit()) || text.starts_with('0') {
        return Err(wrong);
    }
    text.parse().map_err(|_| wrong)
}

fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    text.len() <= HOST_BYTES_MAX && text.split('.').all(is_label)
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= LABEL_BYTES_MAX
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}
