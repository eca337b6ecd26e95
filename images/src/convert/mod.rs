//! Writes an image in another format.
//!
//! All sources give the same layers, and all formats are made of these or of the one tree that they
//! are: n + m converters. In reading order:
//!
//! - `target` is where an image goes, `place` how it gets there: whole or not at all;
//! - `origin` gives the layers, whatever the image comes from;
//! - `flatten` makes one `tree` of all layers, and one file of all contents;
//! - `squashfs` writes a file system of them, and `sif` the same with what Apptainer wants to know;
//! - `directory` writes the tree as it is;
//! - `shifter` says what stands beside a squashfs in an image directory of Shifter;
//! - `layered` is the image with its layers as they are, `sink` takes files by name;
//! - `layout` and `docker_archive` write the one into the other.
//!
//! Nothing is unpacked to disk as a tree and nothing mounted, so that owners, modes, attributes and
//! times are the same whoever converts; `docs/decisions/conversion.md` says what follows from that.

mod directory;
mod docker_archive;
mod error;
mod flatten;
mod layered;
mod layout;
mod origin;
mod place;
mod shifter;
mod sif;
mod sink;
mod squashfs;
mod target;
mod tree;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

pub use error::ConvertError;
pub use place::Existing;
pub use squashfs::Compression;
pub use target::{Target, TargetError};

use crate::shown::shown;
use crate::{Access, Digest, Identity, Manifest, source};
use flatten::{Dropped, Flattened};
use layered::Layered;
use layout::Entry;
use origin::Origin;
use place::Place;
use sink::{Folder, Tar};
use squashfs::Unwritten;
use target::docker_name;

/// How an image is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConvertOptions {
    /// Of the file system, where the target is one.
    pub compression: Compression,
    /// What becomes of something that stands at the target.
    pub existing: Existing,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// Bytes of the target.
    pub bytes: u64,
    /// What the image is called there, where its target does not say so: its ID in a Docker, its
    /// reference in an image directory of Shifter.
    pub name: Option<String>,
    /// What the image has and the target does not.
    pub left_out: LeftOut,
}

/// What an image has that a target cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeftOut {
    /// Device nodes: those without a number, all where this user may make none. Of a directory,
    /// the sockets too.
    pub devices: u64,
    /// Extended attributes: access control lists, labels, marks of overlayfs.
    pub xattrs: u64,
    /// Files and directories that belong to whoever converts instead of their owners, and set no
    /// user or group ID.
    pub owners: u64,
    /// Times of change that lost fractions of a second, or were brought into the target's range.
    pub times_changed: u64,
    /// What the image declares, by its name in an OCI configuration (`Env`); a single variable as
    /// `Env NAME`.
    pub settings: Vec<String>,
}

/// Writes the image of `manifest` to `target`.
///
/// Reads its layers from where it is, and verifies them. The target is written under another name
/// and synced before it gets its own; on error what was there before is still there. Needs room for
/// the unpacked image beside the target while it works.
///
/// # Errors
/// As in [`ConvertError`].
pub fn convert(
    manifest: &Manifest,
    target: &Target,
    options: ConvertOptions,
    access: &Access<'_>,
) -> Result<Converted, ConvertError> {
    let origin = Origin::new(manifest, access);
    let conversion = Conversion { origin: &origin, target, options };
    match target {
        Target::Squashfs(_) => conversion.write_squashfs(),
        Target::Sif(_) => conversion.write_sif(),
        Target::Dir(path) => conversion.write_directory(path),
        Target::DockerArchive(_) => conversion.write_docker_archive(),
        Target::OciArchive(_) => conversion.write_oci_archive(),
        Target::OciLayout { path, tag } => conversion.write_oci_layout(path, tag.clone()),
        Target::DockerDaemon(name) => conversion.load_into_docker(name),
        Target::Shifter(folder) => conversion.write_shifter(folder),
    }
}

/// Writes several images of the store, with all their names, into one OCI archive.
///
/// # Errors
/// As [`convert`].
pub fn export(
    images: &[(Manifest, Vec<String>)],
    path: &Path,
    existing: Existing,
    access: &Access<'_>,
) -> Result<Converted, ConvertError> {
    let place = Place::prepare(path, existing)?;
    let origins: Vec<_> = images.iter().map(|(image, _)| Origin::new(image, access)).collect();
    let layered = origins.iter().map(|origin| Layered::of(origin, &place));
    let layered = layered.collect::<Result<Vec<_>, _>>()?;
    let entries = layered.iter().zip(images);
    let entries: Vec<_> =
        entries.map(|(image, (_, names))| Entry { image, tag: None, names }).collect();
    let file = place.make_file(0o666)?;
    let mut tar = Tar::new(&file);
    layout::write(&entries, &mut tar)?;
    tar.finish().map_err(place.unwritten("write(2)"))?;
    let bytes = file.metadata().map_err(place.unwritten("fstat(2)"))?.len();
    drop(entries);
    drop(layered);
    place.publish_file(&file)?;
    Ok(Converted { bytes, name: None, left_out: LeftOut::default() })
}

/// An image on its way to a target.
struct Conversion<'a> {
    origin: &'a Origin<'a>,
    target: &'a Target,
    options: ConvertOptions,
}

impl Conversion<'_> {
    fn write_squashfs(&self) -> Result<Converted, ConvertError> {
        let place = self.place()?;
        let flattened = self.flatten(&place)?;
        let file = place.make_file(0o666)?;
        let (bytes, mut left_out) = self.file_system(flattened, &place, &file, 0)?;
        place.publish_file(&file)?;
        left_out.settings = self.declared();
        Ok(Converted { bytes, name: None, left_out })
    }

    /// The file system first: Shifter looks for an image by its meta file.
    fn write_shifter(&self, folder: &Path) -> Result<Converted, ConvertError> {
        let config = &self.origin.manifest.config;
        let Identity::Digest(digest) = &self.origin.manifest.identity else {
            let what = "an image without a digest, by which it would be called".to_owned();
            return Err(ConvertError::Unholdable { target: self.target.to_string(), what });
        };
        let text = shifter::meta(config, &self.target.to_string())?;
        let id = shifter::id(digest);
        let prepare =
            |kind| Place::prepare(&folder.join(format!("{id}.{kind}")), self.options.existing);
        let (place, meta_place) = (prepare("squashfs")?, prepare("meta")?);
        let flattened = self.flatten(&place)?;
        let file = place.make_file(0o666)?;
        let (bytes, mut left_out) = self.file_system(flattened, &place, &file, 0)?;
        let mut meta = meta_place.make_file(0o666)?;
        meta.write_all(text.as_bytes()).map_err(meta_place.unwritten("write(2)"))?;
        place.publish_file(&file)?;
        meta_place.publish_file(&meta)?;
        left_out.settings = shifter::left_out(config);
        let name = Some(format!("shifter:id:{id}"));
        Ok(Converted { bytes: bytes + text.len() as u64, name, left_out })
    }

    fn write_sif(&self) -> Result<Converted, ConvertError> {
        let (place, manifest) = (self.place()?, self.origin.manifest);
        let mut flattened = self.flatten(&place)?;
        let documents = sif::prepare(&mut flattened, manifest);
        let documents = documents.map_err(place.unwritten("write(2)"))?;
        let sif = sif::Sif::new(&documents, manifest.config.architecture.as_deref());
        // A SIF is a program too.
        let file = place.make_file(0o777)?;
        let (bytes, mut left_out) = self.file_system(flattened, &place, &file, sif.root_at())?;
        sif.write(&file, bytes).map_err(|why| self.unwritten(why, &place))?;
        place.publish_file(&file)?;
        left_out.settings = documents.unnamed.iter().map(|name| env(name)).collect();
        Ok(Converted { bytes: sif.root_at() + bytes, name: None, left_out })
    }

    fn write_directory(&self, path: &Path) -> Result<Converted, ConvertError> {
        let unwritten = |directory::Unwritten { call, path: inner, source }| {
            let path = path.join(OsStr::from_bytes(&inner));
            ConvertError::Disk { call, path, source }
        };
        let place = Place::prepare_directory(path)?;
        let flattened = self.flatten(&place)?;
        let (tree, dropped, content) = flattened.finish().map_err(place.unwritten("write(2)"))?;
        let bytes = content.metadata().map_err(place.unwritten("fstat(2)"))?.len();
        let root = place.make_directory()?;
        let mut writer = directory::Writer::new(&tree, &content, &root);
        writer.fill().map_err(unwritten)?;
        place.publish_directory()?;
        let lost = writer.finish().map_err(unwritten)?;
        let left_out = LeftOut {
            devices: self.origin.left_out() + dropped.devices + lost.devices,
            xattrs: dropped.xattrs + lost.xattrs,
            owners: lost.owners,
            times_changed: 0,
            settings: self.declared(),
        };
        Ok(Converted { bytes, name: None, left_out })
    }

    fn write_docker_archive(&self) -> Result<Converted, ConvertError> {
        let names: Vec<_> = docker_name(&self.origin.manifest.reference).into_iter().collect();
        self.write_tar(|image, tar| docker_archive::write(image, &names, tar))
    }

    fn write_oci_archive(&self) -> Result<Converted, ConvertError> {
        self.write_tar(|image, tar| layout::write(&[Entry { image, tag: None, names: &[] }], tar))
    }

    fn write_tar(
        &self,
        write: impl FnOnce(&Layered<'_>, &mut Tar<'_>) -> Result<(), ConvertError>,
    ) -> Result<Converted, ConvertError> {
        let place = self.place()?;
        let file = place.make_file(0o666)?;
        let bytes = self.write_tar_to(&file, &place, write)?;
        place.publish_file(&file)?;
        Ok(Converted { bytes, name: None, left_out: self.left_out() })
    }

    /// Returns the bytes of the tar.
    fn write_tar_to(
        &self,
        file: &File,
        place: &Place,
        write: impl FnOnce(&Layered<'_>, &mut Tar<'_>) -> Result<(), ConvertError>,
    ) -> Result<u64, ConvertError> {
        let image = Layered::of(self.origin, place)?;
        let mut tar = Tar::new(file);
        write(&image, &mut tar)?;
        tar.finish().map_err(place.unwritten("write(2)"))?;
        Ok(file.metadata().map_err(place.unwritten("fstat(2)"))?.len())
    }

    /// Writes a `docker save` file without a name and hands it to the daemon.
    fn load_into_docker(&self, name: &str) -> Result<Converted, ConvertError> {
        let network = self.origin.access.network();
        let unnamed = format!("docker-load-{}", std::process::id());
        let place = Place::prepare(&network.docker.folder.join(unnamed), Existing::Keep)?;
        let mut file = place.scratch_file()?;
        let names = [name.to_owned()];
        let write =
            |image: &Layered<'_>, tar: &mut Tar<'_>| docker_archive::write(image, &names, tar);
        let bytes = self.write_tar_to(&file, &place, write)?;
        file.rewind().map_err(place.unwritten("lseek(2)"))?;
        let id = source::load(file, name, network).map_err(|source| ConvertError::Docker {
            name: name.to_owned(),
            source: Box::new(source),
        })?;
        Ok(Converted { bytes, name: Some(id.to_string()), left_out: self.left_out() })
    }

    fn write_oci_layout(
        &self,
        path: &Path,
        tag: Option<String>,
    ) -> Result<Converted, ConvertError> {
        let place = Place::prepare_directory(path)?;
        let image = Layered::of(self.origin, &place)?;
        let mut folder = Folder::new(place.make_directory()?);
        layout::write(&[Entry { image: &image, tag, names: &[] }], &mut folder)?;
        drop(image);
        place.publish_directory()?;
        Ok(Converted { bytes: folder.bytes, name: None, left_out: self.left_out() })
    }

    fn place(&self) -> Result<Place, ConvertError> {
        let path = self.target.path().expect("only files are asked for");
        Place::prepare(path, self.options.existing)
    }

    /// Makes one tree of all layers.
    fn flatten(&self, place: &Place) -> Result<Flattened, ConvertError> {
        let mut flattened = Flattened::new(place.scratch_file()?);
        let limits = self.origin.access.limits;
        self.origin.read_layers(place, |bytes| flattened.add_layer(bytes, limits))?;
        Ok(flattened)
    }

    /// Writes a file system to `file` from byte `base` on, tells how that gets on, and how many
    /// bytes it has.
    fn file_system(
        &self,
        flattened: Flattened,
        place: &Place,
        file: &File,
        base: u64,
    ) -> Result<(u64, LeftOut), ConvertError> {
        let (tree, dropped, content) = flattened.finish().map_err(place.unwritten("write(2)"))?;
        // What stands for the image.
        let digest = match &self.origin.manifest.identity {
            Identity::Digest(digest) => *digest,
            Identity::Fingerprint(text) => Digest::of(text.as_bytes()),
        };
        let metadata = content.metadata().map_err(place.unwritten("fstat(2)"))?;
        let progress = self.origin.access.progress;
        progress.started(&digest, metadata.len());
        let advanced = |bytes| progress.advanced(&digest, bytes);
        let compression = self.options.compression;
        let written = squashfs::write(&tree, &content, file, base, compression, &advanced)
            .map_err(|why| self.unwritten(why, place))?;
        progress.finished(&digest);
        let Dropped { devices, xattrs } = dropped;
        let (devices, times_changed) = (devices + self.origin.left_out(), written.times_changed);
        let left_out = LeftOut { devices, xattrs, times_changed, ..LeftOut::default() };
        Ok((written.bytes, left_out))
    }

    /// What is not even in the layers that the target is made of.
    fn left_out(&self) -> LeftOut {
        LeftOut { devices: self.origin.left_out(), ..LeftOut::default() }
    }

    /// All that the image declares.
    fn declared(&self) -> Vec<String> {
        self.origin.manifest.config.declared().into_iter().map(str::to_owned).collect()
    }

    fn unwritten(&self, why: Unwritten, place: &Place) -> ConvertError {
        match why {
            Unwritten::Disk { call, source } => place.unwritten(call)(source),
            Unwritten::Unholdable(what) => {
                ConvertError::Unholdable { target: self.target.to_string(), what }
            }
        }
    }
}

/// How a variable of the configuration is called in [`LeftOut::settings`].
fn env(name: &str) -> String {
    format!("Env {}", shown(name))
}
