//! A reference or environment in, an [`Image`] out: sources, content-addressed store, unpacking.
//!
//! Depends on nothing of ours but the reader of YAML; knows nothing of policies, tasks or
//! namespaces.

mod access;
mod below;
mod beneath;
mod build;
mod convert;
mod credentials;
mod digest;
mod document;
mod environment;
mod fetched;
mod image;
mod image_config;
mod import;
mod layer;
mod manifest;
mod name;
mod private;
mod pull;
mod recipe;
mod reference;
mod registries;
mod resolve;
mod shifter_meta;
mod shown;
mod source;
mod store;
mod turns;

pub use access::{Access, Asker, Progress, Silent};
pub use build::{
    AddError, Below, BuildError, CopyError, CopySource, Draft, Event, ImageFiles, PrepareError,
    Scratch, Terms, Workshop, build, digest_copies, write_copies, write_entries,
};
pub use convert::{
    Compression, ConvertError, ConvertOptions, Converted, Existing, LeftOut, Target, TargetError,
    convert, export,
};
pub use credentials::{CredentialError, CredentialFiles};
pub use digest::{BlobFault, Digest, DigestError, Verified};
pub use document::ManifestError;
pub use environment::{
    Environment, EnvironmentName, EnvironmentNameError, LimitWishes, Lock, Locked, LockedPackage,
    PREFIX, Package, PackageStep, Packages,
};
pub use image::{FileSystem, Form, Image};
pub use image_config::{History, read_documents, write_config};
pub use import::{ImportError, Imported, import};
pub use layer::{
    Contents, LayerError, LayerTar, Limits, Owned, Pack, Packed, Refused, copy_owned, give_away,
    pack_tree, remove as remove_tree, unpack_layer,
};
pub use manifest::{Config, Identity, LayerDescriptor, Manifest, MediaType};
pub use pull::{PullError, ensure};
pub use recipe::{
    Act, Base, Change, CopyFiles, CopyMode, Definition, Dockerfile, Entry, Healthcheck, InlineFile,
    Inputs, Key, Mount, Network, Origin, PROXIES, Place, Recipe, RecipeError, Rules, Run, RunFile,
    Sharing, Stage, Step, Unkeyed,
};
pub use reference::{Part, Reference, ReferenceError, RegistryName};
pub use registries::{Mirror, Registries};
pub use resolve::{ResolveError, resolve};
pub use shifter_meta::{META_BYTES_MAX, MetaError, ShifterFormat, ShifterMeta, UnwritableMeta};
pub use source::{
    DockerError, HttpError, LocalDocker, Proxies, RegistryError, ShifterError, SourceError,
    Timeouts,
};
pub use store::{
    BuildRoom, CacheDirectory, Collect, Collected, Damage, DockerArchiveError, Lease,
    PrivateFolder, Store, StoreError, StoredError, StoredImage, Unsafe, Untagged, default_root,
    is_local_filesystem,
};
