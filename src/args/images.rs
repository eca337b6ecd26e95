//! The verbs of `images`: their flags, arguments and help.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ric_images::Reference;

use super::values::{self, Kept};

/// Fetch, list and keep images
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    #[command(subcommand)]
    pub verb: ImagesVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImagesVerb {
    Pull(PullArgs),
    List(ListArgs),
    Inspect(InspectArgs),
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

    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
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
