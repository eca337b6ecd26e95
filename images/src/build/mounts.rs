//! What a step sees besides its image, as far as layers hold it: places to mount on, and the files
//! of `--mount=type=bind`.
//!
//! They are layers above the image's, for this step alone. So a place to mount on has the
//! directories that lead to it as the image has them, files of the directory that is built from are
//! root's and less what `.dockerignore` leaves out, and none of it is among what the step changed.

use std::io;
use std::path::PathBuf;

use rustix::fs::FileType;
use tar::EntryType;

use super::CopyError;
use super::entries::{Writer, head};
use super::merged::{Merged, is};
use crate::layer::{END, WHITEOUT_PREFIX, join, split};
use crate::{CopyFiles, Mount, Origin, Rules, Run};

/// Why a step cannot have what it asks for.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Whom it runs as is not known.
    #[error("cannot tell whom the step runs as")]
    User {
        /// Why not.
        source: CopyError,
    },
    /// The layers cannot be read, or a file is in the way.
    #[error("cannot make a place for a mount at {target}")]
    Place {
        /// Where.
        target: String,
        /// Why not.
        source: io::Error,
    },
    /// A secret that has to be there was not given.
    #[error("the secret `{id}` is required, and was not given")]
    NoSecret {
        /// Its name.
        id: String,
    },
    /// Two mounts are at one place.
    #[error("two mounts are at {target}")]
    Twice {
        /// Where.
        target: String,
    },
    /// The image has something else there.
    #[error("cannot mount at {target}: the image has {there} there, and {wanted} is to be shown")]
    InTheWay {
        /// Where.
        target: String,
        /// What is there.
        there: &'static str,
        /// What it is to be.
        wanted: &'static str,
    },
}

/// What a mount stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ground {
    Directory,
    File,
    /// Nothing: what is there is hidden, and a layer has what is shown.
    Cleared,
}

/// The run with each mount where its target really is, links followed within the image, and with
/// nothing of these places in its layer.
pub(super) fn placed(run: &Run, layers: &[PathBuf]) -> Result<Run, PrepareError> {
    let mut run = run.clone();
    let open = |source| PrepareError::Place { target: "/".to_owned(), source };
    let merged = Merged::open(layers).map_err(open)?;
    let mut targets: Vec<String> = Vec::new();
    for target in run.mounts.iter_mut().filter_map(target_mut) {
        let failed = |source| PrepareError::Place { target: target.clone(), source };
        let real = real(&merged, target).map_err(failed)?;
        if targets.contains(&real) {
            return Err(PrepareError::Twice { target: target.clone() });
        }
        target.clone_from(&real);
        targets.push(real);
    }
    run.left_out.extend(targets);
    // Each before what is mounted in it.
    run.mounts.sort_by(|a, b| target(a).cmp(&target(b)));
    Ok(run)
}

/// The tar of a layer with what mounts of a [`placed`] run stand on; none if all is there.
pub(super) fn places(run: &Run, layers: &[PathBuf]) -> Result<Option<Vec<u8>>, PrepareError> {
    let open = |source| PrepareError::Place { target: "/".to_owned(), source };
    let mut tar = Vec::new();
    let mut writer = Writer::new(Merged::open(layers).map_err(open)?, &mut tar);
    for mount in &run.mounts {
        let (Some(target), ground) = (target(mount), ground(mount)) else { continue };
        let failed = |source| PrepareError::Place { target: target.to_owned(), source };
        let there = writer.merged.stat(target.trim_start_matches('/').as_bytes());
        let there = there.map_err(failed)?;
        let is_directory = there.as_ref().map(|stat| is(stat, FileType::Directory));
        match (ground, is_directory) {
            (Ground::Directory, Some(true))
            | (Ground::File, Some(false))
            | (Ground::Cleared, None) => {}
            (Ground::Directory | Ground::File, Some(is_directory)) => {
                let words = ["a file", "a directory"];
                let there = words[usize::from(is_directory)];
                let wanted = words[usize::from(!is_directory)];
                return Err(PrepareError::InTheWay { target: target.to_owned(), there, wanted });
            }
            (Ground::Directory, None) => {
                writer.directory(target.as_bytes(), (0, 0)).map_err(failed)?;
            }
            (Ground::File, None) => {
                let path = writer.parent(target, (0, 0)).map_err(failed)?;
                let head = head(&path, EntryType::Regular, 0o444, (0, 0));
                writer.tar.entry(&head).map_err(failed)?;
            }
            (Ground::Cleared, Some(_)) => {
                let path = writer.parent(target, (0, 0)).map_err(failed)?;
                let (parent, name) = split(&path);
                let mark = join(parent, &[WHITEOUT_PREFIX, name].concat());
                let head = head(&mark, EntryType::Regular, 0, (0, 0));
                writer.tar.entry(&head).map_err(failed)?;
            }
        }
    }
    writer.tar.finish().map_err(open)?;
    Ok(Some(tar).filter(|tar| tar.len() > END.len()))
}

/// The copies that show what a step binds.
pub(super) fn bound(run: &Run) -> Vec<CopyFiles> {
    let copy = |from: &Origin, source: &str, target: &str| CopyFiles {
        from: from.clone(),
        sources: vec![source.to_owned()],
        inline: Vec::new(),
        target: target.to_owned(),
        owner: None,
        mode: None,
        left_out: Vec::new(),
        keeps_parents: false,
        is_link: false,
        unpacks: false,
        rules: Rules::Docker,
    };
    let bound = run.mounts.iter().filter_map(|mount| match mount {
        Mount::Bind { from, source, target, is_writable: _ } => Some(copy(from, source, target)),
        Mount::Cache { .. } | Mount::Secret { .. } | Mount::Tmpfs { .. } => None,
    });
    bound.collect()
}

fn ground(mount: &Mount) -> Ground {
    match mount {
        Mount::Cache { .. } | Mount::Tmpfs { .. } => Ground::Directory,
        Mount::Secret { .. } => Ground::File,
        Mount::Bind { .. } => Ground::Cleared,
    }
}

/// Where something is shown, if it is.
fn target(mount: &Mount) -> Option<&str> {
    match mount {
        Mount::Cache { target, .. } | Mount::Bind { target, .. } | Mount::Tmpfs { target, .. } => {
            Some(target)
        }
        Mount::Secret { target, .. } => target.as_deref(),
    }
}

fn target_mut(mount: &mut Mount) -> Option<&mut String> {
    match mount {
        Mount::Cache { target, .. } | Mount::Bind { target, .. } | Mount::Tmpfs { target, .. } => {
            Some(target)
        }
        Mount::Secret { target, .. } => target.as_mut(),
    }
}

/// Where `path` really is; what is missing of it is as it is written.
fn real(merged: &Merged, path: &str) -> io::Result<String> {
    let text = |path: Vec<u8>| {
        let path = String::from_utf8(path).map_err(|_| io::ErrorKind::InvalidFilename)?;
        Ok(format!("/{path}"))
    };
    let there = match merged.real(path.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => None,
        real => real?,
    };
    if let Some(real) = there {
        return text(real);
    }
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let way = merged.way(parent.as_bytes())?;
    let parent = way.missing.last().or(way.there.last()).cloned().unwrap_or_default();
    text(join(&parent, name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;
    use crate::Sharing;

    fn cache(target: &str) -> Mount {
        let (id, target) = (target.to_owned(), target.to_owned());
        let sharing = Sharing::Shared;
        Mount::Cache { id, target, sharing, mode: 0o755, uid: 0, gid: 0, is_read_only: false }
    }

    fn secret(target: &str) -> Mount {
        Mount::Secret {
            id: "a".to_owned(),
            target: Some(target.to_owned()),
            variable: None,
            is_required: false,
            mode: 0o400,
            uid: 0,
            gid: 0,
        }
    }

    fn bind(target: &str) -> Mount {
        let (source, target) = ("/".to_owned(), target.to_owned());
        Mount::Bind { from: Origin::Context, source, target, is_writable: false }
    }

    fn image() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("run/closed")).unwrap();
        let closed = PermissionsExt::from_mode(0o700);
        fs::set_permissions(root.path().join("run/closed"), closed).unwrap();
        fs::create_dir(root.path().join("var")).unwrap();
        symlink("/run", root.path().join("var/run")).unwrap();
        fs::write(root.path().join("file"), "x").unwrap();
        root
    }

    /// Names and modes of a tar's entries.
    type Entries = Vec<(String, u32)>;

    /// Targets of the mounts as they are placed, and what they stand on.
    fn made(mounts: &[Mount], root: &Path) -> Result<(Vec<String>, Entries), PrepareError> {
        let layers = [root.to_owned()];
        let run = Run { mounts: mounts.to_vec(), ..Run::default() };
        let run = placed(&run, &layers)?;
        let tar = places(&run, &layers)?.unwrap_or_default();
        let mut archive = tar::Archive::new(tar.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            (path, entry.header().mode().unwrap())
        });
        Ok((run.left_out, entries.collect()))
    }

    #[test]
    fn places_leave_what_is_there_as_it_is() {
        let root = image();
        let (targets, entries) =
            made(&[cache("/var/run/closed/c"), cache("/run")], root.path()).unwrap();
        assert_eq!(targets, ["/run/closed/c", "/run"]);
        let entry = |path: &str, mode| (path.to_owned(), mode);
        let run = fs::metadata(root.path().join("run")).unwrap().permissions().mode() & 0o7777;
        let expected =
            [entry("run", run), entry("run/closed", 0o700), entry("run/closed/c", 0o755)];
        assert_eq!(entries, expected);
        let (_, entries) = made(&[secret("/new/s"), bind("/file")], root.path()).unwrap();
        assert_eq!(entries, [entry(".wh.file", 0), entry("new", 0o755), entry("new/s", 0o444)]);
        let (_, entries) = made(&[cache("/run"), secret("/file")], root.path()).unwrap();
        assert_eq!(entries, []);
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let root = image();
        let says = |mounts: &[Mount], expected: &str| {
            let error = made(mounts, root.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        says(&[cache("/file")], "the image has a file there, and a directory is to be shown");
        says(&[secret("/run")], "the image has a directory there, and a file is to be shown");
        says(&[cache("/file/below")], "cannot make a place for a mount at /file/below");
        says(&[cache("/var/run"), bind("/run")], "two mounts are at /run");
    }
}
