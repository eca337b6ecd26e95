//! A blob on its way from where it is: asks for it when the first byte is wanted, tells the
//! progress, and remembers why it did not come.

use std::io::{self, Read};

use crate::store::Origin;
use crate::{LayerDescriptor, Progress};

/// How a blob is had from one of its bytes on.
pub(crate) type Open<'a, E> = dyn Fn(u64) -> Result<Box<dyn Read + Send + 'a>, E> + 'a;

/// A blob as its source has it.
pub(crate) struct Fetched<'a, E> {
    layer: &'a LayerDescriptor,
    progress: &'a dyn Progress,
    open: &'a Open<'a, E>,
    /// Whether nobody wants it any more.
    is_stopped: &'a dyn Fn() -> bool,
    /// Is told that nothing more will be read.
    ended: &'a dyn Fn(),
    blob: Box<dyn Read + Send + 'a>,
    failure: Option<E>,
}

impl<'a, E> Fetched<'a, E> {
    /// The blob of `layer`, which `open` gives.
    pub(crate) fn new(
        layer: &'a LayerDescriptor,
        progress: &'a dyn Progress,
        open: &'a Open<'a, E>,
        is_stopped: &'a dyn Fn() -> bool,
        ended: &'a dyn Fn(),
    ) -> Fetched<'a, E> {
        let (blob, failure) = (Box::new(io::empty()), None);
        Fetched { layer, progress, open, is_stopped, ended, blob, failure }
    }

    /// Why the source did not give it, if it did not.
    pub(crate) fn into_failure(self) -> Option<E> {
        self.failure
    }
}

impl<E> Origin for Fetched<'_, E> {
    fn start(&mut self, from: u64) -> io::Result<()> {
        // Anew, if something was wrong with what came before.
        self.progress.started(&self.layer.digest, self.layer.blob_bytes);
        self.progress.advanced(&self.layer.digest, from);
        self.blob = (self.open)(from).map_err(|error| {
            self.failure = Some(error);
            io::Error::other("the source does not give it")
        })?;
        Ok(())
    }

    fn may_resume(&self) -> bool {
        true
    }

    fn end(&mut self) {
        self.blob = Box::new(io::empty());
        (self.ended)();
    }
}

impl<E> Read for Fetched<'_, E> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.is_stopped)() {
            return Err(io::Error::other("another layer of the image failed"));
        }
        let count = self.blob.read(buffer)?;
        self.progress.advanced(&self.layer.digest, count as u64);
        Ok(count)
    }
}
