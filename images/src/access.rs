//! What [`resolve`](crate::resolve) and [`ensure`](crate::ensure) may use, and whom they tell.

use std::fmt;
use std::path::PathBuf;

use crate::source::Network;
use crate::{CredentialFiles, Digest, Limits, LocalDocker, Registries, Store, Timeouts};

/// What the caller grants: this crate knows no policy, reads no environment and opens no store by
/// itself.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// Where layers are kept. `None` is enough for `host:` and `dir:`, and to look at archives.
    pub store: Option<&'a Store>,
    /// Who wants the image: a store may be shared by several users.
    pub asker: &'a Asker,
    /// How registries are reached.
    pub registries: &'a Registries,
    /// Directories of Shifter image gateways, for `shifter:`.
    pub shifter_folders: &'a [PathBuf],
    /// OCI layouts of the site, in which registry images are looked for before a registry is asked.
    pub below: &'a [PathBuf],
    /// What a registry that asks who is there is shown. They are looked at no earlier.
    pub credentials: &'a CredentialFiles,
    /// The Docker or Podman of `docker-daemon:`.
    pub docker: &'a LocalDocker,
    /// What `host:` is on this machine; becomes its [`Identity`](crate::Identity).
    pub host_fingerprint: &'a str,
    /// How much a layer may unpack to.
    pub limits: &'a Limits,
    /// How long to wait for a registry.
    pub timeouts: Timeouts,
    /// Is told what is being fetched.
    pub progress: &'a dyn Progress,
}

/// A user, by the numbers that images may be listed for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asker {
    /// Effective uid.
    pub uid: u32,
    /// Effective gid and supplementary groups.
    pub gids: Vec<u32>,
}

impl fmt::Debug for Access<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("asker", &self.asker)
            .field("registries", &self.registries)
            .field("host_fingerprint", &self.host_fingerprint)
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

impl<'a> Access<'a> {
    pub(crate) fn network(&self) -> Network<'a> {
        Network {
            asker: self.asker,
            registries: self.registries,
            shifter_folders: self.shifter_folders,
            credentials: self.credentials,
            timeouts: self.timeouts,
            docker: self.docker,
            work_folder: self.store.map(Store::root),
            archive_bytes_max: self.limits.unpacked_bytes_max,
        }
    }
}

/// Is told how a pull gets on. Called from several threads at once, several hundred times a second.
pub trait Progress: Sync {
    /// The layer `digest` of `blob_bytes` bytes begins to be read.
    fn started(&self, digest: &Digest, blob_bytes: u64);
    /// `bytes` more of it were read.
    fn advanced(&self, digest: &Digest, bytes: u64);
    /// It is in the store.
    fn finished(&self, digest: &Digest);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn started(&self, _: &Digest, _: u64) {}
    fn advanced(&self, _: &Digest, _: u64) {}
    fn finished(&self, _: &Digest) {}
}
