//! A registry and the mirrors that are asked before it.
//!
//! The first place that gives the manifest is asked for the rest too. Whatever a place does not
//! give, the next is asked for; the registry itself comes last, and its reason is what is told.
//! A mirror is asked once for each thing: the next place is a better answer than waiting.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::registry::Registry;
use super::{Network, Source, SourceError, Top};
use crate::document::Descriptor;
use crate::{LayerDescriptor, RegistryName, Timeouts};

/// Places that have one image, the registry last.
pub(super) struct Mirrored {
    places: Vec<Registry>,
    /// The first that is still asked.
    first: AtomicUsize,
}

impl Mirrored {
    /// Talks to nobody yet.
    pub(super) fn new(name: &RegistryName, network: Network<'_>) -> Mirrored {
        let timeouts = Timeouts { waits_total: Duration::ZERO, ..network.timeouts };
        let mirrors = network.registries.in_mirrors(name);
        let mirrors =
            mirrors.iter().map(|name| Registry::new(name, Network { timeouts, ..network }));
        let places = mirrors.chain([Registry::new(name, network)]).collect();
        Mirrored { places, first: AtomicUsize::new(0) }
    }

    /// What the first place gives that gives something, and which that is.
    fn ask<'a, T>(
        &'a self,
        from: usize,
        ask: impl Fn(&'a Registry) -> Result<T, SourceError>,
    ) -> Result<(usize, T), SourceError> {
        let mut passed = String::new();
        let (own, mirrors) = self.places.split_last().expect("the registry itself is one");
        for (place, mirror) in mirrors.iter().enumerate().skip(from) {
            match ask(mirror) {
                Ok(given) => return Ok((place, given)),
                Err(error) => passed.push_str(&format!("; {}", said(&error))),
            }
        }
        match ask(own) {
            Ok(given) => Ok((mirrors.len(), given)),
            Err(SourceError::Registry { host, source, .. }) => {
                let mirrors = passed.strip_prefix("; ").map(str::to_owned);
                Err(SourceError::Registry { host, mirrors, source })
            }
            Err(error) => Err(error),
        }
    }

    fn first(&self) -> usize {
        self.first.load(Ordering::Relaxed)
    }
}

/// The error and its causes in one line.
fn said(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", said(source)),
        None => error.to_string(),
    }
}

impl Source for Mirrored {
    fn top(&self) -> Result<Top, SourceError> {
        let (place, top) = self.ask(0, Registry::top)?;
        self.first.store(place, Ordering::Relaxed);
        Ok(top)
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        self.ask(self.first(), |place| place.document(descriptor)).map(|(_, bytes)| bytes)
    }

    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        self.ask(self.first(), |place| place.config(descriptor)).map(|(_, bytes)| bytes)
    }

    fn layer(&self, layer: &LayerDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        self.layer_from(layer, 0)
    }

    fn knows_the_asker(&self) -> bool {
        self.places.iter().any(Registry::knows_the_asker)
    }

    fn layer_from(
        &self,
        layer: &LayerDescriptor,
        from: u64,
    ) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        let (place, blob) = self.ask(self.first(), |place| place.layer_from(layer, from))?;
        let layer = layer.clone();
        Ok(Box::new(Passing { mirrored: self, layer, place, position: from, blob }))
    }
}

/// A blob that the next place gives the rest of, where one breaks off.
struct Passing<'a> {
    mirrored: &'a Mirrored,
    layer: LayerDescriptor,
    place: usize,
    position: u64,
    blob: Box<dyn Read + Send + 'a>,
}

impl Read for Passing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let error = match self.blob.read(buffer) {
                Ok(count) => {
                    self.position += count as u64;
                    return Ok(count);
                }
                Err(error) => error,
            };
            if self.place + 1 >= self.mirrored.places.len() {
                return Err(error);
            }
            let rest = self
                .mirrored
                .ask(self.place + 1, |place| place.layer_from(&self.layer, self.position));
            (self.place, self.blob) = rest.map_err(io::Error::other)?;
        }
    }
}
