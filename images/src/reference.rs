//! Names of images: the grammar of `docs/`, one variant per transport.

use std::path::PathBuf;

/// Where an image is to be had. Text form and value are the same thing: `parse(print(r)) == r`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// `host:`: the machine's own `/usr` and what it needs to run.
    Host,
    /// `dir:PATH`: a bare root filesystem.
    Dir(PathBuf),
    /// `docker-archive:PATH`: a `docker save` file.
    DockerArchive(PathBuf),
    /// `oci:PATH[:TAG]`: an OCI layout directory.
    OciLayout {
        /** The directory. */
        path: PathBuf,
        /** The tag. */
        tag: Option<String>,
    },
    /// `oci-archive:PATH`: a tar of an OCI layout.
    OciArchive(PathBuf),
    /// `docker://HOST/NAME[:TAG][@DIGEST]`.
    Registry(RegistryName),
    /// `NAME[:TAG]` without a transport or registry; policy says which registries it may mean.
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
    /// `HOST[:PORT]`.
    pub host: String,
    /// Repository, slashes included.
    pub repository: String,
    /// Tag; `latest` if neither it nor a digest was given.
    pub tag: Option<String>,
    /// `sha256:` and 64 hex digits.
    pub digest: Option<String>,
}
