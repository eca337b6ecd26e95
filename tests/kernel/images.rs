//! Images for tests, made on the fly from one static busybox.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libtest_mimic::Failed;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::commands::Command;
use crate::world::World;

/// Commands that an image offers as links to busybox.
const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "env", "false", "head", "id", "kill", "ls", "mkdir", "mount", "pwd",
    "readlink", "sleep", "stat", "tail", "touch", "tr", "true", "wc", "yes",
];

/// The busybox of Debian's busybox-static.
fn busybox() -> Result<PathBuf, Failed> {
    crate::needs::find_program("busybox").ok_or_else(|| "busybox is not installed".into())
}

/// A directory with busybox and nothing else, for `dir:`. Made once; nobody writes to it.
pub(crate) fn busybox_root(world: &World) -> Result<PathBuf, Failed> {
    static MAKING: Mutex<()> = Mutex::new(());
    let _guard = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let root = world.base.join("busybox-root");
    if !root.exists() {
        fill_root(&root)?;
    }
    Ok(root)
}

/// Makes a root of busybox at a path, for tests that change it.
pub(crate) fn fill_root(root: &Path) -> Result<(), Failed> {
    fs::create_dir_all(root.join("bin"))?;
    fs::copy(busybox()?, root.join("bin/busybox"))?;
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    for folder in ["dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir(root.join(folder))?;
    }
    Ok(())
}

/// Makes a root of busybox and the machine's Python at a path.
pub(crate) fn fill_python_root(root: &Path) -> Result<(), Failed> {
    fill_root(root)?;
    let at = root.to_string_lossy().into_owned();
    let copied = Command::new(&["sh", "-c", COPY_PYTHON, "sh", &at]).output()?;
    if copied.code == Some(0) { Ok(()) } else { Err(copied.told().into()) }
}

/// Copies the machine's Python, with the libraries that it and its modules need, below `$1`.
const COPY_PYTHON: &str = "set -e; \
    home=$(/usr/bin/python3 -c 'import sysconfig; print(sysconfig.get_path(\"stdlib\"))'); \
    { ldd /usr/bin/python3 \"$home\"/lib-dynload/*.so || true; } 2>/dev/null | \
        grep -o '/[^ ]*' | grep -v ':$' | sort -u | sed 's:^/::' >\"$1.files\"; \
    tar -C / -chf - --exclude=__pycache__ --exclude=dist-packages --exclude=test \
        --exclude='*.a' usr/bin/python3 \"${home#/}\" -T \"$1.files\" | tar -C \"$1\" -xf -";

/// Puts the pip of the wheel `$2` where Debian has it below `$1`, and compiles all Python there: a
/// start of pip then takes a tenth of the time.
const ADD_PIP: &str = "set -e; cd \"$1\"; to=usr/lib/python3/dist-packages; mkdir -p $to; \
    /usr/bin/python3 -m zipfile -e \"$2\" $to; \
    /usr/bin/python3 -m compileall -qq --invalidation-mode unchecked-hash \
        -x 'lib2to3|idlelib|tkinter|turtledemo|pydoc_data|ensurepip|distutils|/tests?/' usr/lib";

/// An archive, as `docker save` makes it, of busybox and the machine's Python with the pip that
/// comes with it. Made once; nobody writes to it.
pub(crate) fn python_archive(world: &World) -> Result<PathBuf, Failed> {
    static MAKING: Mutex<()> = Mutex::new(());
    let _guard = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let archive = world.base.join("python.tar");
    if !archive.exists() {
        // What an attempt that failed has left.
        let root = world.base.join("python-root");
        let _ = fs::remove_dir_all(&root);
        fill_python_root(&root)?;
        let pip = pip_wheel().ok_or("there is no wheel of pip")?;
        let words = [&root.to_string_lossy(), &pip.to_string_lossy()].map(|word| word.to_string());
        let script = ["sh", "-c", ADD_PIP, "sh"].map(str::to_owned);
        let added = Command::new(&[&script[..], &words].concat()).output()?;
        if added.code != Some(0) {
            return Err(added.told().into());
        }
        let mut layer = Vec::new();
        read_entries(&root, Path::new(""), &mut layer)?;
        let image = Image { layers: vec![layer], config: json!({"Env": ["PATH=/usr/bin:/bin"]}) };
        fs::write(&archive, image.docker_archive()?)?;
    }
    Ok(archive)
}

/// The wheel of pip that Debian has for virtual environments.
pub(crate) fn pip_wheel() -> Option<PathBuf> {
    let wheels = fs::read_dir("/usr/share/python-wheels").ok()?;
    wheels.flatten().map(|entry| entry.path()).find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pip-"))
    })
}

/// All that is below a directory, by name.
fn read_entries(root: &Path, path: &Path, entries: &mut Vec<Entry>) -> Result<(), Failed> {
    let mut names: Vec<_> = fs::read_dir(root.join(path))?.collect::<Result<Vec<_>, _>>()?;
    names.sort_by_key(fs::DirEntry::file_name);
    for name in names {
        let path = path.join(name.file_name());
        let text = path.to_string_lossy().into_owned();
        let (from, found) = (name.path(), name.metadata()?);
        if found.is_dir() {
            entries.push(Entry::directory(&text));
            read_entries(root, &path, entries)?;
        } else if found.is_symlink() {
            entries.push(Entry::link(&text, &fs::read_link(from)?.to_string_lossy()));
        } else {
            entries.push(Entry::file(&text, found.permissions().mode() & 0o777, fs::read(from)?));
        }
    }
    Ok(())
}

/// One entry of a layer.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    /// A directory.
    Directory(String),
    /// A file: path, mode, content.
    File(String, u32, Vec<u8>),
    /// A symbolic link: path, target.
    Link(String, String),
}

impl Entry {
    /// A directory.
    pub(crate) fn directory(path: &str) -> Entry {
        Entry::Directory(path.to_owned())
    }

    /// A file with a mode.
    pub(crate) fn file(path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Entry {
        Entry::File(path.to_owned(), mode, content.into())
    }

    /// A symbolic link.
    pub(crate) fn link(path: &str, target: &str) -> Entry {
        Entry::Link(path.to_owned(), target.to_owned())
    }
}

/// An image to be packed.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// Layers, lowest first.
    pub(crate) layers: Vec<Vec<Entry>>,
    /// `config` of the image configuration: `Env`, `User`, `WorkingDir`, `Volumes`, ….
    pub(crate) config: Value,
}

impl Image {
    /// One layer with busybox, and this configuration.
    pub(crate) fn busybox(config: Value) -> Result<Image, Failed> {
        let mut layer = vec![
            Entry::directory("bin"),
            Entry::file("bin/busybox", 0o755, fs::read(busybox()?)?),
            Entry::directory("tmp"),
        ];
        layer.extend(APPLETS.iter().map(|applet| Entry::link(&format!("bin/{applet}"), "busybox")));
        Ok(Image { layers: vec![layer], config })
    }

    fn configuration(&self, tars: &[Vec<u8>]) -> Vec<u8> {
        let diff_ids: Vec<String> = tars.iter().map(|tar| digest(tar)).collect();
        let value = json!({
            "architecture": "amd64", "os": "linux", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        value.to_string().into_bytes()
    }

    /// Packs it as `docker save` does.
    pub(crate) fn docker_archive(&self) -> Result<Vec<u8>, Failed> {
        self.docker_archive_with(|_| ())
    }

    /// The same, with each layer's tar changed before its digest is taken.
    pub(crate) fn docker_archive_with(
        &self,
        change: impl Fn(&mut Vec<u8>),
    ) -> Result<Vec<u8>, Failed> {
        let mut tars = self.layers.iter().map(|l| layer_tar(l)).collect::<Result<Vec<_>, _>>()?;
        tars.iter_mut().for_each(change);
        let configuration = self.configuration(&tars);
        let config_name = format!("{}.json", hex(&configuration));
        let names: Vec<String> = (0..tars.len()).map(|n| format!("{n}/layer.tar")).collect();
        let manifest =
            json!([{"Config": config_name, "RepoTags": ["test:latest"], "Layers": names}]);
        let mut members = vec![
            (config_name, configuration),
            ("manifest.json".to_owned(), manifest.to_string().into_bytes()),
        ];
        members.extend(names.into_iter().zip(tars));
        archive(&members)
    }

    /// Packs it as an OCI archive, layers with gzip (image-spec v1.1, "Image Layout").
    pub(crate) fn oci_archive(&self) -> Result<Vec<u8>, Failed> {
        archive(&self.oci_members()?)
    }

    /// Writes it as an OCI layout directory.
    pub(crate) fn write_oci_layout(&self, folder: &Path) -> Result<(), Failed> {
        for (name, bytes) in self.oci_members()? {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap_or(folder))?;
            fs::write(path, bytes)?;
        }
        Ok(())
    }

    fn oci_members(&self) -> Result<Vec<(String, Vec<u8>)>, Failed> {
        let tars = self.layers.iter().map(|l| layer_tar(l)).collect::<Result<Vec<_>, _>>()?;
        let configuration = self.configuration(&tars);
        let packed = tars.iter().map(|tar| gzip(tar)).collect::<Result<Vec<_>, _>>()?;
        let kind = |name: &str| format!("application/vnd.oci.image.{name}");
        let layers: Vec<Value> =
            packed.iter().map(|blob| descriptor(&kind("layer.v1.tar+gzip"), blob)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": kind("manifest.v1+json"),
            "config": descriptor(&kind("config.v1+json"), &configuration), "layers": layers,
        });
        let manifest = manifest.to_string().into_bytes();
        let mut entry = descriptor(&kind("manifest.v1+json"), &manifest);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        let mut members = vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), index.to_string().into_bytes()),
        ];
        for blob in [configuration, manifest].into_iter().chain(packed) {
            members.push((format!("blobs/sha256/{}", hex(&blob)), blob));
        }
        Ok(members)
    }
}

fn layer_tar(entries: &[Entry]) -> Result<Vec<u8>, Failed> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = header();
        header.set_mode(0o755);
        match entry {
            Entry::Directory(path) => {
                header.set_entry_type(EntryType::Directory);
                header.set_size(0);
                builder.append_data(&mut header, path, std::io::empty())?;
            }
            Entry::File(path, mode, content) => {
                header.set_mode(*mode);
                header.set_size(u64::try_from(content.len())?);
                builder.append_data(&mut header, path, content.as_slice())?;
            }
            Entry::Link(path, target) => {
                header.set_entry_type(EntryType::Symlink);
                header.set_size(0);
                builder.append_link(&mut header, path, target)?;
            }
        }
    }
    Ok(builder.into_inner()?)
}

fn archive(members: &[(String, Vec<u8>)]) -> Result<Vec<u8>, Failed> {
    let mut builder = Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = header();
        header.set_mode(0o644);
        header.set_size(u64::try_from(bytes.len())?);
        builder.append_data(&mut header, name, bytes.as_slice())?;
    }
    Ok(builder.into_inner()?)
}

/// A header of root's and of no time in particular, so that the same entries have the same digest.
fn header() -> Header {
    let mut header = Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>, Failed> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(blob), "size": blob.len()})
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

/// SHA-256 of some bytes, as 64 hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
