//! Where an image is written to, and as what: the grammar of targets.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::shown::shown;
use crate::{Digest, Reference, ReferenceError};

/// A format and a place. Text form and value are the same thing, as for [`Reference`], and but for
/// Shifter the same text names the image that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `squashfs:PATH`: a root filesystem in one file.
    Squashfs(PathBuf),
    /// `sif:PATH`: an image of Apptainer or Singularity.
    Sif(PathBuf),
    /// `dir:PATH`: a bare root filesystem.
    Dir(PathBuf),
    /// `docker-archive:PATH`: a `docker save` file.
    DockerArchive(PathBuf),
    /// `oci-archive:PATH`: a tar of an OCI layout.
    OciArchive(PathBuf),
    /// `oci:PATH[:TAG]`: an OCI layout directory.
    OciLayout {
        /** The directory. */
        path: PathBuf,
        /** The tag. */
        tag: Option<String>,
    },
    /// `docker-daemon:NAME[:TAG]`: an image of a Docker or Podman of this machine, with the name
    /// that Docker shows.
    DockerDaemon(String),
    /// `shifter:DIR`: an image directory of Shifter, in which it is `<id>.squashfs` and
    /// `<id>.meta`.
    Shifter(PathBuf),
}

/// Why a text is not a [`Target`]. The user who wrote it must act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No format, or one that is not written.
    #[error("images are not written to `{word}`: expected {KNOWN}")]
    Format {
        /// What stands before the first colon.
        word: String,
    },
    /// Nothing after the colon, or nothing that can be a name.
    #[error("`{text}` names nothing to write")]
    Path {
        /// The whole target.
        text: String,
    },
    /// It has the form of no image.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

/// What targets there are.
const KNOWN: &str = "squashfs:PATH, sif:PATH, dir:PATH, docker-archive:PATH, oci-archive:PATH, \
                     oci:PATH[:TAG], docker-daemon:NAME[:TAG] or shifter:DIR";

impl Target {
    /// The file or directory that is written, or written into; none if it is no file.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Target::Squashfs(path)
            | Target::Sif(path)
            | Target::Dir(path)
            | Target::DockerArchive(path)
            | Target::OciArchive(path)
            | Target::OciLayout { path, .. }
            | Target::Shifter(path) => Some(path),
            Target::DockerDaemon(_) => None,
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Target, TargetError> {
        let (word, path) = text.split_once(':').unwrap_or((text, ""));
        let nothing = || TargetError::Path { text: shown(text) };
        let path = PathBuf::from(path);
        let target = match word {
            "squashfs" => Target::Squashfs(path),
            "sif" => Target::Sif(path),
            "dir" => Target::Dir(path),
            "docker-archive" => Target::DockerArchive(path),
            "oci-archive" => Target::OciArchive(path),
            "oci" => {
                let Reference::OciLayout { path, tag } = text.parse()? else {
                    return Err(nothing());
                };
                Target::OciLayout { path, tag }
            }
            "docker-daemon" => {
                let Reference::DockerDaemon(name) = text.parse()? else { return Err(nothing()) };
                // An ID is what a daemon makes of an image.
                let is_id = name.parse::<Digest>().is_ok();
                return if is_id { Err(nothing()) } else { Ok(Target::DockerDaemon(name)) };
            }
            // A directory that is there, whatever it is called.
            "shifter" if !path.as_os_str().is_empty() && !text.contains(char::is_control) => {
                return Ok(Target::Shifter(path));
            }
            "shifter" => return Err(nothing()),
            _ => return Err(TargetError::Format { word: shown(word) }),
        };
        let names_something = target.path().is_some_and(|path| path.file_name().is_some());
        if !names_something || text.contains(char::is_control) {
            return Err(nothing());
        }
        Ok(target)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, path) = match self {
            Target::Squashfs(path) => ("squashfs", path),
            Target::Sif(path) => ("sif", path),
            Target::Dir(path) => ("dir", path),
            Target::DockerArchive(path) => ("docker-archive", path),
            Target::OciArchive(path) => ("oci-archive", path),
            Target::OciLayout { path, tag } => {
                let (path, tag) = (path.clone(), tag.clone());
                return Reference::OciLayout { path, tag }.fmt(f);
            }
            Target::DockerDaemon(name) => return write!(f, "docker-daemon:{name}"),
            Target::Shifter(path) => ("shifter", path),
        };
        write!(f, "{word}:{}", path.display())
    }
}

/// The name that Docker would give the image of a reference, if it has one there.
pub(super) fn docker_name(reference: &str) -> Option<String> {
    match reference.parse().ok()? {
        Reference::Registry(name) | Reference::Oras(name) => {
            Some(format!("{}/{}:{}", name.host, name.repository, name.tag?))
        }
        Reference::DockerDaemon(name) if name.parse::<Digest>().is_err() => Some(name),
        Reference::DockerDaemon(_)
        | Reference::Host
        | Reference::Dir(_)
        | Reference::DockerArchive(_)
        | Reference::OciLayout { .. }
        | Reference::OciArchive(_)
        | Reference::Squashfs(_)
        | Reference::Sif(_)
        | Reference::Shifter(_)
        | Reference::ShortName { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_print_as_they_are_written() {
        for text in [
            "squashfs:a",
            "squashfs:/a/b:c.squashfs",
            "sif:a.sif",
            "dir:a",
            "docker-archive:a.tar",
            "oci-archive:a.tar",
            "oci:a",
            "oci:a:1",
            "oci:/a:b:",
            "docker-daemon:a:1",
            "shifter:/images/",
            "shifter:.",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_names_no_file() {
        let id = format!("docker-daemon:{}", Digest::of(b""));
        for text in
            ["squashfs:", "squashfs:/", "squashfs:a/..", "squashfs:a\nb", "oci:/", "shifter:", &id]
        {
            let error = text.parse::<Target>().unwrap_err();
            assert!(matches!(error, TargetError::Path { .. }), "{text}: {error}");
        }
        for text in ["", "a", "/a/b", "docker://a/b", "host:"] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(matches!(error, TargetError::Format { .. }), "{text}: {error}");
        }
        assert!(matches!("oci:a:b c".parse::<Target>(), Err(TargetError::Reference(_))));
    }

    #[test]
    fn docker_calls_images_what_registries_do() {
        assert_eq!(docker_name("docker://r.example/a:1").as_deref(), Some("r.example/a:1"));
        assert_eq!(docker_name("docker-daemon:a:1").as_deref(), Some("a:1"));
        assert_eq!(docker_name("docker-archive:a.tar"), None);
    }
}
