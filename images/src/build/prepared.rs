//! What a step needs before its command runs: whom it runs as, the directory that it starts in, and
//! an image that has what its mounts show and stand on.

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;

use super::merged::Merged;
use super::owner::{self, Account};
use super::{AddError, Below, Build, Finished, PrepareError, Terms, Workshop, mounts};
use crate::store::LeasedLayer;
use crate::{Act, CopyFiles, Digest, Entry, Image, LayerDescriptor, Mount, Run};

/// A layer, and what keeps it.
type Kept = (LayerDescriptor, LeasedLayer);

/// A command as whom the image says, by numbers, with that user's home if it names no other.
pub(super) fn as_account(run: &Run, layers: &[PathBuf]) -> Result<Run, PrepareError> {
    let unread = |source| PrepareError::Place { target: "/".to_owned(), source };
    let merged = Merged::open(layers).map_err(unread)?;
    let account = owner::account(run.user.as_deref().unwrap_or("0"), &merged);
    let account = account.map_err(|source| PrepareError::User { source })?;
    let Account { uid, gid, home, groups } = account;
    let mut run = run.clone();
    if run.user.is_some() {
        run.user = Some(format!("{uid}:{gid}"));
        run.groups = groups;
    }
    let mut known = run.variables.iter().chain(&run.machine.0);
    if let Some(home) = home.filter(|_| !known.any(|(name, _)| name == "HOME")) {
        run.variables.push(("HOME".to_owned(), home));
    }
    Ok(run)
}

impl Build<'_> {
    /// Makes the directory in which a command starts, where the image does not have it: its path,
    /// and the layer.
    pub(super) fn make_workdir<W: Workshop>(
        &self,
        act: &Act,
        so_far: &Finished,
        workshop: &mut W,
    ) -> Result<Option<(String, Kept)>, AddError<W::Error>> {
        let Act::Run(run) = act else { return Ok(None) };
        let run = as_account(run, &so_far.image.layers)?;
        let path = run.workdir.clone();
        let unread = |source| PrepareError::Place { target: path.clone(), source };
        let merged = Merged::open(&so_far.image.layers).map_err(unread)?;
        // What is no directory is for the sandbox to name.
        let is_missing = merged.way(path.as_bytes()).is_ok_and(|way| !way.missing.is_empty());
        if !is_missing {
            return Ok(None);
        }
        let act = Act::Write(vec![Entry::Directory { path, owner: run.user.clone() }]);
        let layer = self.layer(&act, &so_far.below(), workshop)?;
        Ok(Some((run.workdir.clone(), layer)))
    }

    /// Digests what a step binds.
    pub(super) fn bound_files<W: Workshop>(
        &self,
        run: &Run,
        below: &Below<'_>,
        stage: &dyn Fn(usize) -> Option<Image>,
        workshop: &mut W,
    ) -> Result<Digest, AddError<W::Error>> {
        let mut digests = String::new();
        // As they are, whatever the image has where they are shown.
        let nothing = Image { layers: Vec::new(), ..below.image.clone() };
        let below = Below { image: nothing, ..below.clone() };
        for copy in mounts::bound(run) {
            let files =
                workshop.digest(&CopyFiles { target: "/bound".into(), ..copy }, &below, stage);
            digests += &files.map_err(|cause| AddError::Made { cause })?.to_string();
        }
        Ok(Digest::of(digests.as_bytes()))
    }

    /// A run as it is carried out, upon an image that has what its mounts show and stand on.
    pub(super) fn prepared<'b, W: Workshop>(
        &self,
        run: &Run,
        below: &Below<'b>,
        stage: &dyn Fn(usize) -> Option<Image>,
        workshop: &mut W,
    ) -> Result<(Run, Below<'b>), AddError<W::Error>> {
        let Terms { store, limits, .. } = self.terms;
        let mut run = as_account(run, &below.image.layers)?;
        if run.mounts.is_empty() {
            return Ok((run, below.clone()));
        }
        for mount in &run.mounts {
            if let Mount::Secret { id, is_required: true, .. } = mount
                && !workshop.has_secret(id)
            {
                return Err(PrepareError::NoSecret { id: id.clone() }.into());
            }
        }
        run.mounts.retain(|mount| match mount {
            Mount::Secret { id, .. } => workshop.has_secret(id),
            Mount::Cache { .. } | Mount::Bind { .. } | Mount::Tmpfs { .. } => true,
        });
        let mut below = below.clone();
        let run = mounts::placed(&run, &below.image.layers)?;
        if let Some(tar) = mounts::places(&run, &below.image.layers)? {
            let made = store.lease_built(limits, |out| out.write_all(&tar));
            below.put(made.map_err(unplaced)?);
        }
        for copy in mounts::bound(&run) {
            let act = Act::Copy(Box::new(copy));
            let made = store
                .lease_built(limits, |tar| workshop.files(&act, &below, stage, tar).map(drop))?;
            below.put(made);
        }
        Ok((run, below))
    }
}

impl Below<'_> {
    /// Puts a layer upon it that is not part of the image.
    fn put(&mut self, (_, leased): (LayerDescriptor, LeasedLayer)) {
        self.image.layers.push(leased.tree.clone());
        self.image.lease = self.image.lease.and(leased);
    }
}

fn unplaced<E: Debug + 'static>(error: AddError<io::Error>) -> AddError<E> {
    match error {
        AddError::Made { cause: source } => {
            PrepareError::Place { target: "/".to_owned(), source }.into()
        }
        AddError::TooLarge { bytes_max } => AddError::TooLarge { bytes_max },
        AddError::Kept { source } => AddError::Kept { source },
        AddError::Prepare { source } => AddError::Prepare { source },
        AddError::Store { source } => AddError::Store { source },
    }
}
