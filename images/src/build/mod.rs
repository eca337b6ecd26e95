//! Carries a recipe out: walks its stages and steps, keeps each layer, writes the image.
//!
//! What needs a sandbox, a network or the user's files is asked of a [`Workshop`]. A layer is made
//! once: what a step makes is noted under a key of all that it is made from.

mod copy;
mod entries;
mod image;
mod layer;
mod look;
mod merged;
mod mounts;
mod owner;
mod patterns;
mod prepared;
mod timeless;

use std::fmt::Debug;
use std::io::Write;

use crate::store::LeasedLayer;
use crate::{
    Act, Base, CopyFiles, Digest, History, Image, Key, LayerDescriptor, Lease, Limits, Manifest,
    Recipe, RecipeError, Reference, Run, Step, Store, StoreError,
};

pub use copy::{CopyError, CopySource, Scratch, digest_copies, write_copies};
pub use entries::write_entries;
pub use image::Draft;
pub use layer::AddError;
pub use look::ImageFiles;
pub use mounts::PrepareError;

/// Says what keys are made of; another makes all old keys void.
const KEY_FORM: &str = "run-in-container build 2";

/// What a build needs that this crate has not: sandboxes, registries, the user's files.
pub trait Workshop {
    /// Why it could not be done.
    type Error: Debug + 'static;

    /// Makes an image that a stage begins with exist on disk.
    ///
    /// # Errors
    /// If it is not allowed, not there or cannot be fetched.
    fn base(&mut self, reference: &Reference) -> Result<(Manifest, Image), Self::Error>;

    /// Runs a command upon an image, and writes what it has changed as the tar of a layer.
    ///
    /// # Errors
    /// If it cannot be run, or fails.
    fn run(&mut self, run: &Run, below: &Below<'_>, tar: &mut dyn Write)
    -> Result<(), Self::Error>;

    /// Writes the tar of a layer that copies files, or holds what the recipe does. Of copies: what
    /// [`Workshop::digest`] says of what was written.
    ///
    /// # Errors
    /// If a file is not there or cannot be read.
    fn files(
        &mut self,
        act: &Act,
        below: &Below<'_>,
        stages: &dyn Fn(usize) -> Option<Image>,
        tar: &mut dyn Write,
    ) -> Result<Option<Digest>, Self::Error>;

    /// Runs a command upon an image, and keeps nothing of what it changes.
    ///
    /// # Errors
    /// If it cannot be run, or fails.
    fn test(&mut self, run: &Run, below: &Below<'_>) -> Result<(), Self::Error>;

    /// Digests what a layer that copies files would hold, times aside: part of its key.
    ///
    /// # Errors
    /// As [`Workshop::files`].
    fn digest(
        &mut self,
        copy: &CopyFiles,
        below: &Below<'_>,
        stages: &dyn Fn(usize) -> Option<Image>,
    ) -> Result<Digest, Self::Error>;

    /// Whether the user has given a secret of this name.
    fn has_secret(&self, id: &str) -> bool;

    /// Hears how the build gets on.
    fn hear(&mut self, event: &Event<'_>);
}

/// What a step stands on.
#[derive(Debug, Clone)]
pub struct Below<'a> {
    /// The image so far.
    pub draft: &'a Draft,
    /// Its layers on disk.
    pub image: Image,
    /// The image that the stage began with, if it has a name.
    pub base: Option<&'a str>,
}

/// How a build gets on.
#[derive(Debug)]
pub enum Event<'a> {
    /// A stage begins.
    Stage {
        /** Its name, if the recipe has more than one. */
        name: Option<String>,
        /** The image that it begins with. */
        base: String,
    },
    /// A step begins.
    Step {
        /** Its number in the stage, from 1. */
        number: usize,
        /** Steps of the stage. */
        count: usize,
        /** The step. */
        step: &'a Step,
    },
    /// The step's layer was there already.
    Cached {
        /** The layer. */
        layer: &'a LayerDescriptor,
    },
    /// The step's layer was made.
    Made {
        /** The layer. */
        layer: &'a LayerDescriptor,
    },
}

/// Why a build failed. Layers that were made stay; no name was given to any image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError<E: Debug + 'static> {
    /// The recipe cannot be followed.
    #[error("cannot follow the recipe")]
    Recipe {
        /// Why not.
        source: RecipeError,
    },
    /// An image to begin with cannot be had.
    #[error("{file}:{line}: cannot begin with {reference}")]
    Base {
        /// The recipe.
        file: String,
        /// Line of the stage.
        line: usize,
        /// The image.
        reference: String,
        /// Why not.
        cause: E,
    },
    /// A step failed.
    #[error("{file}:{line}: `{text}` failed")]
    Step {
        /// The recipe.
        file: String,
        /// Line of the step.
        line: usize,
        /// The step.
        text: String,
        /// What it stood on, to look around in.
        below: Box<Draft>,
        /// Why.
        source: Box<AddError<E>>,
    },
    /// The store cannot be used.
    #[error("cannot use the store")]
    Store {
        /// Why not.
        source: StoreError,
    },
}

/// How to build.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Where layers are kept.
    pub store: &'a Store,
    /// How large layers may be.
    pub limits: &'a Limits,
    /// Whether layers that are there already are taken.
    pub cache: bool,
}

/// A stage that was built, and what keeps it.
struct Finished {
    draft: Draft,
    image: Image,
    base: Option<String>,
}

impl Finished {
    /// What the next step stands on.
    fn below(&self) -> Below<'_> {
        let image = Image {
            identity: crate::Identity::Digest(self.draft.chain()),
            config: self.draft.config.clone(),
            ..self.image.clone()
        };
        Below { draft: &self.draft, image, base: self.base.as_deref() }
    }

    /// Puts a layer upon the image.
    fn put(&mut self, (layer, leased): (LayerDescriptor, LeasedLayer)) {
        self.draft.layers.push(layer);
        self.image.layers.push(leased.tree.clone());
        self.image.lease = self.image.lease.and(leased);
    }
}

/// Carries out all that the target of `recipe` needs: the image, which has no name yet, and what
/// keeps its layers in the store until it has one.
///
/// # Errors
/// [`BuildError`].
pub fn build<W: Workshop>(
    recipe: &dyn Recipe,
    terms: Terms<'_>,
    workshop: &mut W,
) -> Result<(Draft, Lease), BuildError<W::Error>> {
    let mut finished: Vec<Option<Finished>> = recipe.stages().iter().map(|_| None).collect();
    for number in recipe.needed() {
        let stage = Build { recipe, terms, number, finished: &finished }.stage(workshop)?;
        finished[number] = Some(stage);
    }
    let target = finished.into_iter().nth(recipe.target()).flatten();
    let Finished { draft, image, .. } = target.expect("the target is among what it needs");
    Ok((draft, image.lease))
}

/// One stage that is being built.
struct Build<'a> {
    recipe: &'a dyn Recipe,
    terms: Terms<'a>,
    number: usize,
    finished: &'a [Option<Finished>],
}

impl Build<'_> {
    fn stage<W: Workshop>(&self, workshop: &mut W) -> Result<Finished, BuildError<W::Error>> {
        let mut so_far = self.begin(workshop)?;
        let steps = self.recipe.steps(self.number, &so_far.draft.config);
        let steps = steps.map_err(|source| BuildError::Recipe { source })?;
        for (number, step) in (1..).zip(&steps) {
            workshop.hear(&Event::Step { number, count: steps.len(), step });
            let mut is_empty = true;
            if let Some(act) = &step.act {
                let failed = |source, below: &Finished| BuildError::Step {
                    file: self.recipe.file().to_owned(),
                    line: step.line,
                    text: step.text.clone(),
                    below: Box::new(below.draft.clone()),
                    source: Box::new(source),
                };
                let made = self.make_workdir(act, &so_far, workshop);
                if let Some((path, layer)) = made.map_err(|error| failed(error, &so_far))? {
                    so_far.put(layer);
                    let created_by = format!("WORKDIR {path}");
                    so_far.draft.history.push(History { created_by, is_empty: false });
                }
                let made = self.act(act, &so_far, workshop);
                if let Some(layer) = made.map_err(|error| failed(error, &so_far))? {
                    so_far.put(layer);
                    is_empty = false;
                }
            }
            step.changes.iter().for_each(|change| change.apply(&mut so_far.draft.config));
            so_far.draft.history.push(History { created_by: step.text.clone(), is_empty });
        }
        so_far.image.config = so_far.draft.config.clone();
        Ok(so_far)
    }

    /// What the stage begins with.
    fn begin<W: Workshop>(&self, workshop: &mut W) -> Result<Finished, BuildError<W::Error>> {
        let stage = &self.recipe.stages()[self.number];
        let several = self.recipe.stages().len() > 1;
        let name = stage.name.clone().or_else(|| several.then(|| self.number.to_string()));
        match &stage.base {
            Base::Scratch => {
                workshop.hear(&Event::Stage { name, base: "scratch".to_owned() });
                Ok(nothing())
            }
            Base::Stage(other) => {
                workshop.hear(&Event::Stage { name, base: format!("stage {other}") });
                let found = self.finished.get(*other).and_then(Option::as_ref);
                let found = found.expect("a stage stands on stages before it");
                let (draft, image) = (found.draft.clone(), found.image.clone());
                Ok(Finished { draft, image, base: found.base.clone() })
            }
            Base::Image(reference) => {
                workshop.hear(&Event::Stage { name, base: reference.to_string() });
                let (manifest, image) =
                    workshop.base(reference).map_err(|cause| BuildError::Base {
                        file: self.recipe.file().to_owned(),
                        line: stage.line,
                        reference: reference.to_string(),
                        cause,
                    })?;
                Ok(upon(manifest, image))
            }
        }
    }

    /// Does what a step does: its layer, if it makes one.
    fn act<W: Workshop>(
        &self,
        act: &Act,
        so_far: &Finished,
        workshop: &mut W,
    ) -> Result<Option<(LayerDescriptor, LeasedLayer)>, AddError<W::Error>> {
        let below = so_far.below();
        if let Act::Test(run) = act {
            let run = prepared::as_account(run, &below.image.layers)?;
            workshop.test(&run, &below).map_err(|cause| AddError::Made { cause })?;
            return Ok(None);
        }
        self.layer(act, &below, workshop).map(Some)
    }

    /// The layer of a step, made or found.
    fn layer<W: Workshop>(
        &self,
        act: &Act,
        below: &Below<'_>,
        workshop: &mut W,
    ) -> Result<(LayerDescriptor, LeasedLayer), AddError<W::Error>> {
        let Terms { store, limits, cache } = self.terms;
        let unkept = |source| AddError::Store { source };
        let stage = |number: usize| {
            let finished = self.finished.get(number).and_then(Option::as_ref);
            finished.map(|finished| finished.image.clone())
        };
        let mut key = match act {
            Act::Run(run) if run.mounts.is_empty() => Some(run_key(run, act, below.draft)),
            Act::Run(run) => {
                let files = self.bound_files(run, below, &stage, workshop)?;
                Some(whole_key(&files, act, below.draft))
            }
            Act::Copy(copy) => {
                let files = workshop.digest(copy, below, &stage);
                let files = files.map_err(|cause| AddError::Made { cause })?;
                Some(whole_key(&files, act, below.draft))
            }
            Act::Write(_) | Act::Test(_) => None,
        };
        if let Some(key) = key.filter(|_| cache)
            && let Some((layer, leased)) = store.lease_build(&key).map_err(unkept)?
        {
            workshop.hear(&Event::Cached { layer: &layer });
            return Ok((layer, leased));
        }
        let mut copied = None;
        let prepared = match act {
            Act::Run(run) => Some(self.prepared(run, below, &stage, workshop)?),
            Act::Copy(_) | Act::Write(_) | Act::Test(_) => None,
        };
        let (layer, leased) = store.lease_built(limits, |tar| match act {
            Act::Run(run) | Act::Test(run) => match &prepared {
                Some((run, below)) => workshop.run(run, below, tar),
                None => workshop.run(run, below, tar),
            },
            Act::Copy(_) | Act::Write(_) => {
                copied = workshop.files(act, below, &stage, tar)?;
                Ok(())
            }
        })?;
        // A file that has changed since it was digested is kept for what it is now.
        key = copied.map(|files| whole_key(&files, act, below.draft)).or(key);
        if let (Some((run, _)), Some(_)) = (&prepared, key)
            && !run.mounts.is_empty()
        {
            // What was shown may be later than what was digested.
            let files = self.bound_files(run, below, &stage, workshop)?;
            key = key.filter(|key| *key == whole_key(&files, act, below.draft));
        }
        if let Some(key) = key {
            store.note_build(&key, &layer).map_err(unkept)?;
        }
        workshop.hear(&Event::Made { layer: &layer });
        Ok((layer, leased))
    }
}

/// A stage that begins with nothing.
fn nothing() -> Finished {
    let platform = crate::document::Platform::here();
    let mut draft = Draft::default();
    draft.config.os = Some(platform.os);
    draft.config.architecture = Some(platform.architecture);
    let image = Image {
        identity: crate::Identity::Digest(draft.chain()),
        config: draft.config.clone(),
        layers: Vec::new(),
        file_system: None,
        lease: Lease::default(),
    };
    Finished { draft, image, base: None }
}

/// A stage that begins with an image. How that came about is told by the one line that is known.
fn upon(manifest: Manifest, image: Image) -> Finished {
    let line = |_: &LayerDescriptor| History {
        created_by: format!("FROM {}", manifest.reference),
        is_empty: false,
    };
    let history = manifest.layers.iter().map(line).collect();
    let base = Some(manifest.reference.clone());
    let draft = Draft { config: manifest.config, layers: manifest.layers, history };
    Finished { draft, image, base }
}

/// What names the layer of a command before it is made: all that it is made from.
fn run_key(run: &Run, act: &Act, below: &Draft) -> Digest {
    match &run.key {
        Key::Below => key(&below.chain().to_string(), act),
        Key::Stated(text) => key(&format!("stated {text}"), act),
    }
}

/// What names a layer of files with this digest.
fn whole_key(files: &Digest, act: &Act, below: &Draft) -> Digest {
    key(&format!("{}\n{files}", below.chain()), act)
}

fn key(from: &str, act: &Act) -> Digest {
    let act = serde_json::to_string(act).expect("texts, numbers and lists have a JSON form");
    Digest::of(format!("{KEY_FORM}\n{from}\n{act}").as_bytes())
}
