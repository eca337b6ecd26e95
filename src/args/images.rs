//! The verbs of `images`: their flags, arguments and help.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use ric_images::{Compression, Reference, Target};

use super::values::{self, BuildSecret, Kept, Variable};

/// Fetch, list and keep images
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    #[command(subcommand)]
    pub verb: ImagesVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImagesVerb {
    Pull(PullArgs),
    Build(BuildArgs),
    List(ListArgs),
    Inspect(InspectArgs),
    Remove(RemoveArgs),
    Gc(GcArgs),
    Verify(VerifyArgs),
    Convert(ConvertArgs),
    Export(ExportArgs),
    Import(ImportArgs),
}

/// Fetch and unpack images into the store, and print their digests
///
/// A registry that wants to know who you are is shown what `podman login` or `docker login` has
/// written: in $REGISTRY_AUTH_FILE alone if that is set, else in
/// $XDG_RUNTIME_DIR/containers/auth.json, ~/.config/containers/auth.json and ~/.docker/config.json,
/// with their credential helpers.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Images, as for `run --image`
    #[arg(value_name = "REF", required = true, value_parser = values::parse_image)]
    pub images: Vec<Reference>,

    /// Narrow the site's policy by this file; may be given several times
    #[arg(long, value_name = "FILE")]
    pub policy: Vec<PathBuf>,

    /// Directory of images
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Print one JSON array, and on standard error what is fetched, one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Build an image from a Dockerfile or a definition file, and print its digest
///
/// Neither Docker nor Apptainer is needed, and no rights but your own. Each RUN, each %post is a
/// command in a sandbox in which you are uid 0 of a user namespace; its network, and whether it is
/// told this machine's proxies and mirrors, is what the policy gives builds. What it changes
/// becomes a layer, which the next build takes as it is if nothing that it was made from has
/// changed. `run --image NAME` finds what `-t NAME` has built. Steps and their output go to
/// standard error.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// What to call the image
    #[arg(short = 't', long, value_name = "NAME[:TAG]", value_parser = values::parse_built)]
    pub tag: Reference,

    /// Build file [default: Dockerfile in DIR]
    #[arg(short = 'f', long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// How the build file is written [default: by its name: `*.def`, `Singularity*` and
    /// `Apptainer*` are definition files]
    #[arg(long, value_enum, value_name = "NAME")]
    pub format: Option<BuildFormat>,

    /// Value of an `ARG`, or of a `{{ NAME }}` of a definition file; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::parse_variable)]
    pub build_arg: Vec<Variable>,

    /// Secret for `RUN --mount=type=secret,id=ID`, from a file or a variable; may be given several
    /// times. It is in no layer, and changes none
    #[arg(long, value_name = "id=ID,src=FILE|env=NAME", value_parser = values::parse_build_secret)]
    pub secret: Vec<BuildSecret>,

    /// Stage to build, by name or number [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,

    /// Leave %test of a definition file away
    #[arg(long)]
    pub no_test: bool,

    /// Make every layer anew
    #[arg(long)]
    pub no_cache: bool,

    /// Directory that files are copied from; or a build file, whose files are then copied from the
    /// current directory
    #[arg(value_name = "DIR|FILE", default_value = ".")]
    pub context: PathBuf,

    /// Narrow the site's policy by this file; may be given several times
    #[arg(long, value_name = "FILE")]
    pub policy: Vec<PathBuf>,

    /// Directory of images
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Print JSON objects on standard output, one a line, as it goes on
    #[arg(long)]
    pub json: bool,
}

/// How a build file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BuildFormat {
    /// A Dockerfile
    Dockerfile,
    /// A Singularity or Apptainer definition file
    Definition,
}

/// Packs or removes what a build step has changed, from within its user namespace
#[derive(Debug, Args)]
pub(crate) struct ChangesArgs {
    /// User namespace to enter.
    #[arg(long)]
    pub userns: PathBuf,

    /// Write a layer to standard output instead of removing.
    #[arg(long)]
    pub pack: bool,

    /// Give what standard input lists to its owners instead of removing.
    #[arg(long)]
    pub own: bool,

    /// Path that goes into no layer.
    #[arg(long)]
    pub leave_out: Vec<OsString>,

    /// Latest time in the layer.
    #[arg(long, allow_hyphen_values = true)]
    pub mtime_max: Option<i64>,

    /// Directory of changes.
    pub directory: PathBuf,
}

/// List the images in the store
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Directory of images
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
}

/// Show what the store has of an image
///
/// Looks at the store only, never at a registry: a tag is what it was when it was pulled last.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Image as `images list` shows it, or the digest of its manifest
    #[arg(value_name = "REF", value_parser = values::parse_kept)]
    pub image: Kept,

    /// Directory of images
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Remove images from the store by name
///
/// A digest means all names of that image. What runs goes on: layers and configurations stay until
/// `images gc`. If an image is not in the store, nothing is removed.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Images as `images list` shows them, or digests of their manifests
    #[arg(value_name = "REF", required = true, value_parser = values::parse_kept)]
    pub images: Vec<Kept>,

    /// Directory of images
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Remove what no image in the store needs any more
///
/// What a running container or a pull uses stays, and goes the next time.
#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,

    /// Remove the images used least recently too, until the others fit: `20GiB`; first those of
    /// users who alone use more than an equal share of that
    #[arg(long, value_name = "SIZE", value_parser = values::parse_size)]
    pub max_size: Option<u64>,

    /// Directory of images
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Read everything in the store and compare it with what was stored
///
/// Ends with 1 if something is damaged, repaired or not.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Make again what is damaged and not in use; what cannot be is removed, and fetched again
    #[arg(long)]
    pub repair: bool,

    /// Directory of images
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
}

/// Write an image in another format
///
/// `squashfs:PATH` is a root filesystem in one file, for this program and for the kernel. The
/// image's variables, entry point and command are not in it. `sif:PATH` is an image for Apptainer
/// and Singularity, with all of them.
///
/// `oci:PATH[:TAG]`, `oci-archive:PATH` and `docker-archive:PATH` have the image's own layers, and
/// `docker-daemon:NAME[:TAG]` puts it into a running Docker or Podman. `dir:PATH` is a directory.
/// `shifter:DIR` is an image directory of Shifter.
///
/// Owners, modes, hard links, times and attributes are those of the image, whoever converts it: no
/// rights and no other programs are needed. The file appears under its name when it is whole.
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// Image, as for `run --image`
    #[arg(value_name = "REF", value_parser = values::parse_image)]
    pub image: Reference,

    /// What to write, and where
    #[arg(value_name = "TARGET", value_parser = values::parse_target)]
    pub target: Target,

    /// How blocks of a file system are packed
    #[arg(long, value_name = "NAME", default_value = "zstd", value_parser = values::compression())]
    pub compression: Compression,

    /// Replace what is there
    #[arg(long)]
    pub force: bool,

    /// Narrow the site's policy by this file; may be given several times
    #[arg(long, value_name = "FILE")]
    pub policy: Vec<PathBuf>,

    /// Directory of images
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Write images of the store to a file
///
/// A TARGET without a format, `FILE`, is an OCI archive that `images import` takes back: with the
/// images' own layers, configurations and digests, and all names that they have in the store. It
/// may hold several images, and what they have in common is in it once. Docker, Podman and skopeo
/// read it too. Every other TARGET is as for `images convert`, and holds one image.
///
/// Looks at the store only, never at a registry.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Images as `images list` shows them, or digests of their manifests
    #[arg(value_name = "REF", required = true, value_parser = values::parse_kept)]
    pub images: Vec<Kept>,

    /// What to write, and where
    #[arg(value_name = "TARGET", value_parser = values::parse_export)]
    pub target: Target,

    /// How blocks of a file system are packed
    #[arg(long, value_name = "NAME", default_value = "zstd", value_parser = values::compression())]
    pub compression: Compression,

    /// Replace what is there
    #[arg(long)]
    pub force: bool,

    /// Narrow the site's policy by this file; may be given several times
    #[arg(long, value_name = "FILE")]
    pub policy: Vec<PathBuf>,

    /// Directory of images
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Take images out of an OCI archive into the store
///
/// The archive is one of `images export`, `docker save` of Docker 25 or later, `podman save
/// --format oci-archive` or skopeo. Every byte is compared with its digest, and every layer
/// unpacked, before an image gets a name. A name is what the archive says; whether it may be run is
/// for the policy to say, as for every image.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// OCI archive
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// What to call the only image in it [default: as the archive says]
    #[arg(long, value_name = "NAME[:TAG]", value_parser = values::parse_built)]
    pub name: Option<Reference>,

    /// Narrow the site's policy by this file; may be given several times
    #[arg(long, value_name = "FILE")]
    pub policy: Vec<PathBuf>,

    /// Directory of images
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
}
