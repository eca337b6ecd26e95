//! Names of images: the grammar, one variant per transport.
//!
//! Pure text: nothing here touches the disk, the network or the working directory. A path may be
//! relative; whoever knows the caller's working directory makes it absolute.
//!
//! There is one way to write each image, so that a rule of a policy cannot be got round by another
//! spelling: parsing makes hosts lower-case, drops the port 443, and gives Docker Hub's three host
//! names and its `library/` one form ([`RegistryName`]).

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::name::{self, NameParts};
use crate::shown::shown;

/// A reference longer than this is refused unread: a path has at most 4096 bytes (`PATH_MAX`,
/// linux/limits.h), a host 253, a repository 255, a tag 128, a digest 71.
const REFERENCE_BYTES_MAX: usize = 5000;

/// Longest id of a Shifter image. Gateways make 64 hex digits.
const SHIFTER_ID_BYTES_MAX: usize = 128;

/// Where an image is to be had. Text form and value are the same thing: `parse(print(r)) == r`
/// for every value whose parts are valid (paths in UTF-8, without control characters).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// `host:`: the machine's own `/usr` and what it needs to run.
    Host,
    /// `dir:PATH`: a bare root filesystem.
    Dir(PathBuf),
    /// `docker-daemon:NAME[:TAG]` or `docker-daemon:sha256:…`: an image of a local Docker or
    /// Podman, by the name that Docker shows or by its ID.
    ///
    /// One text for each name: without `docker.io/` and `library/`, with a tag. An image named
    /// `sha256` can only be had by its ID.
    DockerDaemon(String),
    /// `docker-archive:PATH`: a `docker save` file.
    DockerArchive(PathBuf),
    /// `oci:PATH[:TAG]`: an OCI layout directory.
    ///
    /// The last colon separates the tag, unless a slash follows it. A path with a colon in its last
    /// component needs one more: `oci:/a:b` is tag `b` of `/a`, `oci:/a:b:` is `/a:b` without a
    /// tag.
    OciLayout {
        /** The directory. */
        path: PathBuf,
        /** The tag. */
        tag: Option<String>,
    },
    /// `oci-archive:PATH`: a tar of an OCI layout.
    OciArchive(PathBuf),
    /// `squashfs:PATH`: a root filesystem in one file.
    Squashfs(PathBuf),
    /// `sif:PATH`: a Singularity or Apptainer image.
    Sif(PathBuf),
    /// `docker://HOST/NAME[:TAG][@DIGEST]`, or the same without `docker://` if the host has a dot
    /// or a port or is `localhost`.
    Registry(RegistryName),
    /// `oras://HOST/NAME[:TAG][@DIGEST]`: a SIF in a registry.
    Oras(RegistryName),
    /// `shifter:id:ID`: an image in the directory of a Shifter image gateway.
    Shifter(String),
    /// `NAME[:TAG]` without a transport or registry; policy says which registries it may mean.
    ///
    /// A name that begins like a transport (`dir:1`) or a host (`r.example/a`) is read as one.
    ShortName {
        /** Name. */
        name: String,
        /** Tag. */
        tag: Option<String>,
        /** Digest. */
        digest: Option<String>,
    },
}

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RegistryName {
    /// `HOST[:PORT]`, lower-case. `docker.io` for Docker Hub.
    pub host: String,
    /// Repository, slashes included.
    pub repository: String,
    /// Tag; `latest` if neither it nor a digest was given.
    pub tag: Option<String>,
    /// `sha256:` and 64 hex digits.
    pub digest: Option<String>,
}

/// Why a text is not a [`Reference`]. The user who wrote it must act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing was given.
    #[error("the image reference is empty")]
    Empty,
    /// Longer than any valid reference.
    #[error("the image reference has {bytes} bytes, at most {REFERENCE_BYTES_MAX} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// An image of Shifter by its tag, which its gateway alone knows the meaning of.
    #[error("what the tag in `{reference}` means stands in the image gateway's database alone")]
    ShifterTag {
        /// The whole reference, made fit to be shown.
        reference: String,
    },
    /// One part does not follow the grammar.
    #[error(
        "the {part} `{text}` in the image reference `{reference}` is wrong: expected {expected}"
    )]
    Part {
        /// The whole reference, made fit to be shown.
        reference: String,
        /// Which part.
        part: Part,
        /// The part, made fit to be shown.
        text: String,
        /// What the grammar wants.
        expected: &'static str,
    },
}

/// A part of a reference, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The word before the first colon.
    Transport,
    /// A file or directory.
    Path,
    /// Name or address of a registry.
    Host,
    /// Port of a registry.
    Port,
    /// Name of an image in a registry.
    Repository,
    /// Tag.
    Tag,
    /// Digest.
    Digest,
    /// Id of an image in a Shifter image directory.
    Id,
    /// Any character of it.
    Text,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Transport => "transport",
            Part::Path => "path",
            Part::Host => "registry host",
            Part::Port => "port",
            Part::Repository => "repository",
            Part::Tag => "tag",
            Part::Digest => "digest",
            Part::Id => "id",
            Part::Text => "text",
        })
    }
}

impl ReferenceError {
    /// A way out, where there is an obvious one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ReferenceError::Empty => Some("`host:` is this machine's own system"),
            ReferenceError::TooLong { .. } => None,
            ReferenceError::ShifterTag { .. } => {
                Some("`shifterimg lookup TYPE:TAG` prints the image's id: write shifter:id:ID")
            }
            ReferenceError::Part { part, text, .. } => match part {
                Part::Transport if text.starts_with("http") => {
                    Some("write docker:// and the registry's host without http")
                }
                Part::Transport => Some(
                    "transports are host:, dir:, docker-archive:, docker-daemon:, oci:, \
                     oci-archive:, sif:, squashfs:, shifter:id:, docker:// and oras://",
                ),
                Part::Repository => Some("Docker Hub's images are docker://docker.io/NAME"),
                Part::Path
                | Part::Host
                | Part::Port
                | Part::Tag
                | Part::Digest
                | Part::Id
                | Part::Text => None,
            },
        }
    }
}

/// What a part of the grammar says of a text: which part is wrong, its text, what is expected.
pub(crate) struct Wrong<'a>(pub(crate) Part, pub(crate) &'a str, pub(crate) &'static str);

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() > REFERENCE_BYTES_MAX {
            return Err(ReferenceError::TooLong { bytes: text.len() });
        }
        if text.strip_prefix("shifter:").is_some_and(|rest| !rest.starts_with("id:")) {
            return Err(ReferenceError::ShifterTag { reference: shown(text) });
        }
        parse(text).map_err(|Wrong(part, wrong, expected)| ReferenceError::Part {
            reference: shown(text),
            part,
            text: shown(wrong),
            expected,
        })
    }
}

fn parse(text: &str) -> Result<Reference, Wrong<'_>> {
    // A line break in a log or a table would show two images where there is one.
    if let Some((at, _)) = text.char_indices().find(|(_, character)| character.is_control()) {
        return Err(Wrong(Part::Text, &text[at..], "no control characters"));
    }
    match text.split_once(':') {
        Some(("host", "")) => Ok(Reference::Host),
        Some(("host", rest)) => Err(Wrong(Part::Text, rest, "nothing after `host:`")),
        Some(("dir", path)) => Ok(Reference::Dir(parse_path(path)?)),
        Some(("docker-daemon", name)) => parse_daemon(name),
        Some(("docker-archive", path)) => Ok(Reference::DockerArchive(parse_path(path)?)),
        Some(("oci-archive", path)) => Ok(Reference::OciArchive(parse_path(path)?)),
        Some(("squashfs", path)) => Ok(Reference::Squashfs(parse_path(path)?)),
        Some(("sif", path)) => Ok(Reference::Sif(parse_path(path)?)),
        Some(("oci", rest)) => parse_layout(rest),
        Some(("shifter", rest)) => parse_shifter(rest),
        Some(("docker", rest)) if rest.starts_with("//") => {
            parse_registry(&rest[2..]).map(Reference::Registry)
        }
        Some(("oras", rest)) if rest.starts_with("//") => {
            parse_registry(&rest[2..]).map(Reference::Oras)
        }
        Some((_, rest)) if rest.starts_with("//") => {
            Err(Wrong(Part::Transport, &text[..text.len() - rest.len()], "a known transport"))
        }
        Some(_) | None => parse_bare(text),
    }
}

fn parse_path(text: &str) -> Result<PathBuf, Wrong<'_>> {
    if text.is_empty() {
        return Err(Wrong(Part::Path, text, "a path after the colon"));
    }
    Ok(PathBuf::from(text))
}

fn parse_layout(rest: &str) -> Result<Reference, Wrong<'_>> {
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag).filter(|tag| !tag.is_empty())),
        Some(_) | None => (rest, None),
    };
    let tag = tag.map(name::parse_tag).transpose()?;
    Ok(Reference::OciLayout { path: parse_path(path)?, tag })
}

/// `id:ID`; what else there may be was refused before.
fn parse_shifter(rest: &str) -> Result<Reference, Wrong<'_>> {
    let id = rest.strip_prefix("id:").unwrap_or(rest);
    let fits = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
    if id.is_empty() || id.len() > SHIFTER_ID_BYTES_MAX || !id.bytes().all(fits) {
        return Err(Wrong(Part::Id, id, "1 to 128 small letters and digits"));
    }
    Ok(Reference::Shifter(id.to_owned()))
}

/// A name as `docker images` shows it: Docker Hub is not named, a tag always is.
fn parse_daemon(text: &str) -> Result<Reference, Wrong<'_>> {
    if text.starts_with("sha256:") {
        return name::parse_digest(text).map(Reference::DockerDaemon);
    }
    let (host, rest) = match text.split_once('/') {
        Some((host, rest)) if is_host_of_bare(host) => (name::parse_host(host)?, rest),
        Some(_) | None => (name::DOCKER_HUB.to_owned(), text),
    };
    let NameParts { name, tag, digest } = name::parse_name(rest)?;
    if digest.is_some() {
        return Err(Wrong(Part::Digest, rest, "a tag, or `docker-daemon:sha256:…` alone"));
    }
    let tag = tag.as_deref().unwrap_or("latest");
    Ok(Reference::DockerDaemon(if host == name::DOCKER_HUB {
        let official = name.strip_prefix("library/").filter(|name| !name.contains('/'));
        format!("{}:{tag}", official.unwrap_or(&name))
    } else {
        format!("{host}/{name}:{tag}")
    }))
}

fn parse_registry(rest: &str) -> Result<RegistryName, Wrong<'_>> {
    let Some((host, rest)) = rest.split_once('/') else {
        return Err(Wrong(Part::Repository, rest, "HOST/NAME after `://`"));
    };
    let NameParts { name, tag, digest } = name::parse_name(rest)?;
    let host = name::parse_host(host)?;
    let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
    let on_hub = host == name::DOCKER_HUB;
    let repository = if on_hub && !name.contains('/') { format!("library/{name}") } else { name };
    Ok(RegistryName { host, repository, tag, digest })
}

/// A name without a transport: with a registry's host in front, or short.
fn parse_bare(text: &str) -> Result<Reference, Wrong<'_>> {
    if text.starts_with(['/', '.', '~']) {
        return Err(Wrong(Part::Transport, text, "`dir:`, `docker-archive:`, … before a path"));
    }
    match text.split_once('/') {
        Some((host, _)) if is_host_of_bare(host) => parse_registry(text).map(Reference::Registry),
        Some(_) | None => {
            let NameParts { name, tag, digest } = name::parse_name(text)?;
            Ok(Reference::ShortName { name, tag, digest })
        }
    }
}

/// Docker's rule for a name's first component. The `@` of a digest ends the name.
fn is_host_of_bare(text: &str) -> bool {
    text == "localhost" || (text.contains(['.', ':']) && !text.contains('@'))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Host => f.write_str("host:"),
            Reference::Dir(path) => write!(f, "dir:{}", path.display()),
            Reference::DockerDaemon(name) => write!(f, "docker-daemon:{name}"),
            Reference::DockerArchive(path) => write!(f, "docker-archive:{}", path.display()),
            Reference::OciArchive(path) => write!(f, "oci-archive:{}", path.display()),
            Reference::Squashfs(path) => write!(f, "squashfs:{}", path.display()),
            Reference::Sif(path) => write!(f, "sif:{}", path.display()),
            Reference::OciLayout { path, tag: Some(tag) } => {
                write!(f, "oci:{}:{tag}", path.display())
            }
            Reference::OciLayout { path, tag: None } => {
                let end = if ends_like_tag(path) { ":" } else { "" };
                write!(f, "oci:{}{end}", path.display())
            }
            Reference::Registry(name) => name.fmt(f),
            Reference::Oras(name) => name.fmt_in("oras", f),
            Reference::Shifter(id) => write!(f, "shifter:id:{id}"),
            Reference::ShortName { name, tag, digest } => {
                f.write_str(name)?;
                fmt_tag_and_digest(f, tag.as_deref(), digest.as_deref())
            }
        }
    }
}

/// Whether the end of `path` would be read as a tag.
fn ends_like_tag(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.rsplit_once(':').is_some_and(|(_, end)| !end.contains('/'))
}

impl fmt::Display for RegistryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_in("docker", f)
    }
}

impl RegistryName {
    fn fmt_in(&self, transport: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{transport}://{}/{}", self.host, self.repository)?;
        fmt_tag_and_digest(f, self.tag.as_deref(), self.digest.as_deref())
    }
}

fn fmt_tag_and_digest(
    f: &mut fmt::Formatter<'_>,
    tag: Option<&str>,
    digest: Option<&str>,
) -> fmt::Result {
    if let Some(tag) = tag {
        write!(f, ":{tag}")?;
    }
    digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    /// What is typed, and how it is printed.
    const VALID: &[(&str, &str)] = &[
        ("host:", "host:"),
        ("dir:/srv/root", "dir:/srv/root"),
        ("dir:root", "dir:root"),
        ("dir:/a:b c", "dir:/a:b c"),
        ("docker-archive:x.tar", "docker-archive:x.tar"),
        ("docker-daemon:python", "docker-daemon:python:latest"),
        ("docker-daemon:docker.io/library/python:3", "docker-daemon:python:3"),
        ("docker-daemon:library/python:3", "docker-daemon:python:3"),
        ("docker-daemon:library/a/b:3", "docker-daemon:library/a/b:3"),
        ("docker-daemon:index.docker.io/me/tools:3", "docker-daemon:me/tools:3"),
        ("docker-daemon:localhost:5000/a", "docker-daemon:localhost:5000/a:latest"),
        ("oci-archive:/x.tar", "oci-archive:/x.tar"),
        ("squashfs:/a.squashfs", "squashfs:/a.squashfs"),
        ("sif:a.sif", "sif:a.sif"),
        ("oci:/layout", "oci:/layout"),
        ("oci:/layout:v1.2", "oci:/layout:v1.2"),
        ("oci:/a:b", "oci:/a:b"),
        ("oci:/a:b:", "oci:/a:b:"),
        ("oci:/a:", "oci:/a"),
        ("oci:/a:b/c", "oci:/a:b/c"),
        ("docker://r.example/a/b", "docker://r.example/a/b:latest"),
        ("docker://R.Example:443/a:T", "docker://r.example/a:T"),
        ("docker://[::1]:5000/a", "docker://[::1]:5000/a:latest"),
        ("docker://registry/a:1", "docker://registry/a:1"),
        ("docker://index.docker.io/python", "docker://docker.io/library/python:latest"),
        ("docker.io/bitnami/etcd:3", "docker://docker.io/bitnami/etcd:3"),
        ("localhost/a", "docker://localhost/a:latest"),
        ("oras://R.Example/a/b", "oras://r.example/a/b:latest"),
        ("oras://r.example:5000/a:1", "oras://r.example:5000/a:1"),
        ("shifter:id:e3b0c442", "shifter:id:e3b0c442"),
        ("127.0.0.1:5000/a_b/c__d/e.f-g--h:x", "docker://127.0.0.1:5000/a_b/c__d/e.f-g--h:x"),
        ("python:3.12", "python:3.12"),
        ("library/python", "library/python"),
        ("docker:24-dind", "docker:24-dind"),
        ("hostname", "hostname"),
    ];

    /// What is typed, which part is wrong, and its text.
    const WRONG: &[(&str, Part, &str)] = &[
        ("host:x", Part::Text, "x"),
        ("docker-daemon:", Part::Repository, ""),
        ("docker-daemon:Python", Part::Repository, "Python"),
        ("docker-daemon:a/../b", Part::Repository, "a/../b"),
        ("docker-daemon:python:", Part::Tag, ""),
        ("docker-daemon:sha256:12", Part::Digest, "sha256:12"),
        ("docker-daemon:https://r/a", Part::Port, ""),
        ("dir:", Part::Path, ""),
        ("sif:", Part::Path, ""),
        ("shifter:id:", Part::Id, ""),
        ("shifter:id:../a", Part::Id, "../a"),
        ("shifter:id:Ab", Part::Id, "Ab"),
        ("squashfs:", Part::Path, ""),
        ("oci::tag", Part::Path, ""),
        ("oci:/a:-b", Part::Tag, "-b"),
        ("dir:/a\nb", Part::Text, "\\nb"),
        ("dir:/a\0b", Part::Text, "\\u{0}b"),
        ("https://r.example/a", Part::Transport, "https:"),
        ("docker-archive", Part::Text, ""),
        ("./x.tar", Part::Transport, "./x.tar"),
        ("/x.tar", Part::Transport, "/x.tar"),
        ("docker://python:3.12", Part::Repository, "python:3.12"),
        ("docker://r.example/", Part::Repository, ""),
        ("docker://r.example/a/", Part::Repository, "a/"),
        ("docker://r.example/a//b", Part::Repository, "a//b"),
        ("docker://r.example/../b", Part::Repository, "../b"),
        ("docker://r.example/a?b", Part::Repository, "a?b"),
        ("docker://r.example/Upper", Part::Repository, "Upper"),
        ("Python", Part::Repository, "Python"),
        (" python", Part::Repository, " python"),
        ("a___b", Part::Repository, "a___b"),
        ("python:", Part::Tag, ""),
        ("python:3 12", Part::Tag, "3 12"),
        ("docker://user@r.example/a", Part::Host, "user@r.example"),
        ("docker://-a.example/a", Part::Host, "-a.example"),
        ("docker://a..example/a", Part::Host, "a..example"),
        ("docker://r.example./a", Part::Host, "r.example."),
        ("docker:///a", Part::Host, ""),
        ("docker://[::g]/a", Part::Host, "[::g]"),
        ("docker://[::1/a", Part::Host, "[::1"),
        ("docker://r.example:/a", Part::Port, ""),
        ("docker://r.example:0/a", Part::Port, "0"),
        ("docker://r.example:65536/a", Part::Port, "65536"),
        ("docker://r.example:05000/a", Part::Port, "05000"),
        ("docker://r.example:+80/a", Part::Port, "+80"),
        ("python@sha256:../../x", Part::Digest, "sha256:../../x"),
        ("python@sha512:00", Part::Digest, "sha512:00"),
        ("python@", Part::Digest, ""),
    ];

    #[test]
    fn prints_one_form_for_each_image() {
        for (typed, printed) in VALID {
            let reference: Reference = typed.parse().unwrap_or_else(|e| panic!("{typed}: {e}"));
            assert_eq!(reference.to_string(), *printed, "{typed}");
            assert_eq!(printed.parse(), Ok(reference), "{typed}");
        }
    }

    #[test]
    fn keeps_tag_and_digest() {
        let typed = format!("docker-daemon:{DIGEST}");
        assert_eq!(typed.parse::<Reference>().unwrap().to_string(), typed);
        let typed = format!("docker://r.example/a:1@{DIGEST}");
        assert_eq!(typed.parse::<Reference>().unwrap().to_string(), typed);
        let typed = format!("docker://r.example/a@{DIGEST}");
        assert_eq!(typed.parse::<Reference>().unwrap().to_string(), typed);
        let typed = format!("python@{DIGEST}");
        assert_eq!(typed.parse::<Reference>().unwrap().to_string(), typed);
    }

    #[test]
    fn names_the_part_that_is_wrong() {
        for (typed, expected_part, expected_text) in WRONG {
            match typed.parse::<Reference>() {
                Err(ReferenceError::Part { part, text, .. }) => {
                    assert_eq!((part, text.as_str()), (*expected_part, *expected_text), "{typed}");
                }
                // A transport's name without its colon is a short name like any other.
                Ok(Reference::ShortName { .. }) => assert_eq!(*typed, "docker-archive"),
                other => panic!("{typed}: {other:?}"),
            }
        }
    }

    #[test]
    fn refuses_tags_of_shifter_by_name() {
        for text in ["shifter:docker:python:3", "shifter:python:3", "shifter:", "shifter://x"] {
            let error = text.parse::<Reference>().unwrap_err();
            assert_eq!(error, ReferenceError::ShifterTag { reference: text.to_owned() });
            assert!(error.hint().unwrap().contains("shifterimg lookup"));
        }
    }

    #[test]
    fn refuses_what_is_too_long_without_repeating_it() {
        for text in ["a".repeat(1 << 20), format!("a@{}", "0".repeat(4000)), "a/".repeat(300)] {
            let error = text.parse::<Reference>().unwrap_err();
            assert!(error.to_string().len() < 600, "{error}");
        }
    }

    fn references() -> impl Strategy<Value = Reference> {
        let path = || "[/.a-z:@ é-]{1,12}".prop_map(PathBuf::from);
        let name = || "[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,3}){0,2}(/[a-z0-9]{1,4}){0,2}";
        let host = "([a-z]{1,5}\\.[a-z0-9]{1,4}|[a-z]{3}|\\[::1\\]|10\\.0\\.0\\.1)(:8[0-9]{1,3})?";
        let tag = || "[A-Za-z0-9_][A-Za-z0-9._-]{0,8}";
        let digest = || prop::option::of(Just(DIGEST.to_owned()));
        prop_oneof![
            Just(Reference::Host),
            path().prop_map(Reference::Dir),
            path().prop_map(Reference::DockerArchive),
            (name(), tag()).prop_filter_map("is no name of Docker's", |(name, tag)| {
                format!("docker-daemon:{name}:{tag}").parse().ok()
            }),
            path().prop_map(Reference::OciArchive),
            path().prop_map(Reference::Squashfs),
            path().prop_map(Reference::Sif),
            (path(), prop::option::of(tag()))
                .prop_map(|(path, tag)| Reference::OciLayout { path, tag }),
            (host, name(), tag(), digest()).prop_map(|(host, repository, tag, digest)| {
                let tag = Some(tag);
                Reference::Registry(RegistryName { host, repository, tag, digest })
            }),
            (host, name(), tag(), digest()).prop_map(|(host, repository, tag, digest)| {
                let tag = Some(tag);
                Reference::Oras(RegistryName { host, repository, tag, digest })
            }),
            "[0-9a-f]{1,64}".prop_map(Reference::Shifter),
            (name(), prop::option::of(tag()), digest())
                .prop_filter("is read as a transport or a host", |(name, ..)| {
                    let first = name.split('/').next().unwrap();
                    let is_transport = ["host", "dir", "oci", "sif", "shifter"].contains(&first);
                    !(is_transport || name.contains('/') && is_host_of_bare(first))
                })
                .prop_map(|(name, tag, digest)| Reference::ShortName { name, tag, digest }),
        ]
    }

    proptest! {
        #[test]
        fn print_parse_is_identity(reference in references()) {
            prop_assert_eq!(reference.to_string().parse(), Ok(reference));
        }

        #[test]
        fn what_parses_is_stable(
            text in "(dir:|oci:|sif:|docker://|oras://|docker-archive:|docker-daemon:|)\\PC{0,40}"
        ) {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse(), Ok(reference));
            }
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>) {
            let _ = String::from_utf8_lossy(&bytes).parse::<Reference>();
        }
    }
}
