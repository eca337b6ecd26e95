//! Texts with a grammar of their own: a policy's name, image patterns, hosts, directories.

use std::path::{Component, Path, PathBuf};

use schemars::{Schema, json_schema};

/// Letters of a policy's name: it has to fit into one line of a refusal.
const NAME_LETTERS_MAX: usize = 64;

/// Bytes of a host with its port: 253 for a name (RFC 1035, section 2.3.4), and `:65535`.
const HOST_BYTES_MAX: usize = 259;

/// Bytes of an image pattern. A reference with a full digest and a long name has less.
const PATTERN_BYTES_MAX: usize = 512;

/// Bytes of a path, `PATH_MAX` of `linux/limits.h` without its terminator.
const PATH_BYTES_MAX: usize = 4095;

/// What every reference begins with; a pattern that can match none of them is a mistake.
const TRANSPORTS: [&str; 11] = [
    "docker://",
    "docker-daemon:",
    "docker-archive:",
    "oci-archive:",
    "oci:",
    "sif:",
    "oras://",
    "shifter:",
    "squashfs:",
    "dir:",
    "host:",
];

/// A text that is checked while a file is read.
pub(crate) trait Text: Sized {
    /// What a reader is asked for, with an article.
    const EXPECTED: &'static str;

    /// Reads the text; the error says what is wrong with it and what to write.
    fn read(text: &str) -> Result<Self, String>;

    /// Its JSON Schema.
    fn schema() -> Schema;
}

/// The version of the file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Version;

/// A policy's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(pub(crate) String);

/// A pattern of image references.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImagePattern(pub(crate) String);

/// A registry, `HOST[:PORT]`, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host(pub(crate) String);

/// An absolute path without `.`, `..`, doubled or trailing slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directory(pub(crate) PathBuf);

/// A numeric user id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uid(pub(crate) u32);

/// A registry and the beginning of names in it, `HOST[:PORT][/PREFIX]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location(pub(crate) String);

/// An absolute path of a file, as plain as that of a [`Directory`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AbsoluteFile(pub(crate) PathBuf);

/// Whether no registry is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offline(pub(crate) bool);

/// Whether something may be done at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Permit(pub(crate) bool);

impl Text for Version {
    const EXPECTED: &'static str = "the number `1`";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "1" => Ok(Version),
            _ => Err(format!("version `{text}` is not known here, only version `1` is")),
        }
    }

    fn schema() -> Schema {
        json_schema!({"type": "integer", "const": 1})
    }
}

impl Text for Name {
    const EXPECTED: &'static str = "a name";

    fn read(text: &str) -> Result<Self, String> {
        let letters = text.chars().count();
        if !(1..=NAME_LETTERS_MAX).contains(&letters) || text.chars().any(char::is_control) {
            return Err(format!("a name has 1 to {NAME_LETTERS_MAX} letters, all in one line"));
        }
        Ok(Name(text.to_owned()))
    }

    fn schema() -> Schema {
        json_schema!({"type": "string", "minLength": 1, "maxLength": NAME_LETTERS_MAX})
    }
}

impl Text for ImagePattern {
    const EXPECTED: &'static str = "an image pattern such as `docker://registry.example.org/*`";

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX {
            return Err(format!("an image pattern has 1 to {PATTERN_BYTES_MAX} bytes"));
        }
        if text.chars().any(|letter| letter.is_control() || letter.is_whitespace()) {
            return Err(format!("image pattern `{}` contains white space", text.escape_debug()));
        }
        let head = text.split('*').next().unwrap_or_default();
        let reaches = |transport: &&str| {
            head.starts_with(*transport) || (head.len() < text.len() && transport.starts_with(head))
        };
        if !TRANSPORTS.iter().any(reaches) {
            let advice = match text.split_once(':') {
                Some((transport, _)) if !transport.contains(['.', '/']) => TRANSPORTS.join(" "),
                Some(_) | None => format!("for a registry `docker://{text}`"),
            };
            return Err(format!("no image can match `{text}`: write its transport, {advice}"));
        }
        // Repeated wildcards mean one, and equal patterns shall be equal texts.
        let mut last = '\0';
        let mut repeated = |letter| std::mem::replace(&mut last, letter) == '*' && letter == '*';
        Ok(ImagePattern(text.chars().filter(|letter| !repeated(*letter)).collect()))
    }

    fn schema() -> Schema {
        json_schema!({"type": "string", "minLength": 1, "maxLength": PATTERN_BYTES_MAX})
    }
}

impl Text for Host {
    const EXPECTED: &'static str = "a registry such as `registry.example.org` or `127.0.0.1:5000`";

    fn read(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            return Err(format!("write `{text}` as HOST or HOST:PORT, without `://` and path"));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            Some(_) | None => (text, None),
        };
        let port_fits = port.is_none_or(|port| {
            port.bytes().all(|byte| byte.is_ascii_digit())
                && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if !is_host(host) || !port_fits || text.len() > HOST_BYTES_MAX {
            return Err(format!("`{text}` is not {}", Self::EXPECTED));
        }
        Ok(Host(text.to_ascii_lowercase()))
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^([A-Za-z0-9.-]+|\\[[0-9A-Fa-f:.]+\\])(:[0-9]+)?$",
        })
    }
}

/// Whether `text` is a host name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.split('.').all(label)
}

impl Text for Directory {
    const EXPECTED: &'static str = "an absolute path such as `/scratch`";

    fn read(text: &str) -> Result<Self, String> {
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err(format!("`{}` is not an absolute path", text.escape_debug()));
        }
        if text.len() > PATH_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(format!("`{}` is not a path that can be listed", text.escape_debug()));
        }
        if path.components().any(|component| component == Component::ParentDir) {
            return Err(format!("`{text}` contains `..`: write the path that it leads to"));
        }
        // Rebuilt from its components: no trailing slash, no `//`, no `/./`.
        Ok(Directory(path.components().collect()))
    }

    fn schema() -> Schema {
        json_schema!({"type": "string", "pattern": "^/"})
    }
}

impl Text for Location {
    const EXPECTED: &'static str = "a place such as `mirror.example.org:5000/hub`";

    fn read(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is not {}", text.escape_debug(), Self::EXPECTED);
        let (host, prefix) = match text.split_once('/') {
            Some((host, prefix)) => (host, Some(prefix)),
            None => (text, None),
        };
        let Host(host) = Host::read(host).map_err(|_| wrong())?;
        // The grammar of repositories is stricter still; a name that breaks it is never found.
        let component = |part: &str| {
            let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
            part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.bytes().all(fits)
        };
        match prefix {
            None => Ok(Location(host)),
            Some(prefix) if text.len() <= HOST_BYTES_MAX && prefix.split('/').all(component) => {
                Ok(Location(format!("{host}/{prefix}")))
            }
            Some(_) => Err(wrong()),
        }
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^([A-Za-z0-9.-]+|\\[[0-9A-Fa-f:.]+\\])(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)*$",
        })
    }
}

impl Text for AbsoluteFile {
    const EXPECTED: &'static str = "an absolute path such as `/etc/pki/site.pem`";

    fn read(text: &str) -> Result<Self, String> {
        Directory::read(text).map(|Directory(path)| AbsoluteFile(path))
    }

    fn schema() -> Schema {
        Directory::schema()
    }
}

impl Text for Offline {
    const EXPECTED: &'static str = Permit::EXPECTED;

    fn read(text: &str) -> Result<Self, String> {
        Permit::read(text).map(|Permit(value)| Offline(value))
    }

    fn schema() -> Schema {
        Permit::schema()
    }
}

impl Text for Uid {
    const EXPECTED: &'static str = "a numeric user id such as `65534`";

    fn read(text: &str) -> Result<Self, String> {
        // The last number means "no change" to chown(2) and setresuid(2), so it is nobody's id.
        match text.parse::<u32>() {
            Ok(uid) if uid != u32::MAX && !text.starts_with('+') => Ok(Uid(uid)),
            Ok(_) | Err(_) => Err(format!("`{text}` is not {}", Self::EXPECTED)),
        }
    }

    fn schema() -> Schema {
        json_schema!({"type": "integer", "minimum": 0, "maximum": u32::MAX - 1})
    }
}

impl Text for Permit {
    const EXPECTED: &'static str = "`true` or `false`";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "true" => Ok(Permit(true)),
            "false" => Ok(Permit(false)),
            _ => Err(format!("`{text}` is not {}", Self::EXPECTED)),
        }
    }

    fn schema() -> Schema {
        json_schema!({"type": "boolean"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_can_match_nothing_are_refused() {
        for text in ["*", "docker://r/*", "d*", "*python*", "host:", "dir:/srv/*", "docker:*"] {
            assert!(ImagePattern::read(text).is_ok(), "{text}");
        }
        let error = ImagePattern::read("registry.example.org/*").unwrap_err();
        assert!(error.ends_with("for a registry `docker://registry.example.org/*`"), "{error}");
        for text in ["", "docker:/r/*", "host", "dockr://r/*", "docker://a b", "docker://a\n*"] {
            assert!(ImagePattern::read(text).is_err(), "{text}");
        }
        assert_eq!(ImagePattern::read("***a**"), Ok(ImagePattern("*a*".into())));
    }

    #[test]
    fn hosts_have_a_name_and_perhaps_a_port() {
        for text in ["r.example.org", "127.0.0.1:5000", "localhost", "[::1]:5000", "[::1]"] {
            assert!(Host::read(text).is_ok(), "{text}");
        }
        for text in [
            "", ":5000", "a:", "a:0", "a:65536", "a:+1", "http://a", "a/b", "a b", "-a", "::1", "*",
        ] {
            assert!(Host::read(text).is_err(), "{text}");
        }
        assert_eq!(Host::read("R.Example:5"), Ok(Host("r.example:5".into())));
    }

    #[test]
    fn places_are_hosts_with_perhaps_the_beginning_of_names() {
        for text in ["r.example", "127.0.0.1:5000", "[::1]:5000/a", "r.example/a/b-c_d.e"] {
            assert_eq!(Location::read(text), Ok(Location(text.to_owned())), "{text}");
        }
        for text in [
            "",
            "/a",
            "r.example/",
            "r.example/A",
            "r.example/../a",
            "r.example//a",
            "https://r.example",
            "r.example/a b",
            "r.example/a:1",
            "u@r.example",
        ] {
            assert!(Location::read(text).is_err(), "{text}");
        }
        assert_eq!(Location::read("R.Example/a"), Ok(Location("r.example/a".into())));
    }

    #[test]
    fn directories_are_absolute_and_plain() {
        assert_eq!(Directory::read("//scratch/./a/"), Ok(Directory("/scratch/a".into())));
        assert_eq!(Directory::read("/"), Ok(Directory("/".into())));
        for text in ["", "scratch", "./a", "~/a", "/a/../b", "/a\n", "$HOME"] {
            assert!(Directory::read(text).is_err(), "{text}");
        }
        assert!(Directory::read(&"/a".repeat(3_000)).is_err());
    }

    #[test]
    fn user_ids_are_numbers_that_the_kernel_takes() {
        assert_eq!(Uid::read("0"), Ok(Uid(0)));
        for text in ["", "-1", "+1", "root", "4294967295", "4294967296", "1.0"] {
            assert!(Uid::read(text).is_err(), "{text}");
        }
    }
}
