//! The body of an HTTP answer, read by waiting for it.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use tokio::runtime::Runtime;

use super::{HttpError, Timeouts};
use crate::shown::shown;

/// The least a transfer must bring, in bytes a second. Below it a layer of 100 MB takes a day.
const RATE_BYTES_PER_SECOND_MIN: u64 = 1024;

/// Most bytes of an error document that are looked at.
const ERROR_BYTES_MAX: u64 = 64 << 10;

/// The body of an answer, read by waiting for it.
pub(super) struct Body {
    runtime: Runtime,
    incoming: Incoming,
    chunk: Bytes,
    host: String,
    timeouts: Timeouts,
    pace: Pace,
}

/// What came since the rate was last looked at.
#[derive(Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Body {
    /// Takes over the answer's body and the runtime that its connection lives on.
    pub(super) fn new(
        runtime: Runtime,
        incoming: Incoming,
        host: String,
        timeouts: Timeouts,
    ) -> Body {
        Body { runtime, incoming, chunk: Bytes::new(), host, timeouts, pace: Pace::default() }
    }

    /// Reads the whole body; `None` if it has more than `bytes_max` bytes.
    pub(super) fn read_small(mut self, bytes_max: u64) -> Result<Option<Vec<u8>>, HttpError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.next_chunk()? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > bytes_max {
                return Ok(None);
            }
        }
        Ok(Some(bytes))
    }

    /// As `read(2)`: waits for something, and tells how much it was; 0 at the end.
    pub(super) fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, HttpError> {
        while self.chunk.is_empty() {
            match self.next_chunk()? {
                None => return Ok(0),
                Some(chunk) => self.chunk = chunk,
            }
        }
        let piece = self.chunk.split_to(self.chunk.len().min(buffer.len()));
        buffer[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }

    /// Passes over the first `count` bytes, or over all if there are not as many.
    pub(super) fn skip(&mut self, mut count: u64) -> Result<(), HttpError> {
        while count > 0 {
            let Some(mut chunk) = self.next_chunk()? else { return Ok(()) };
            let passed = usize::try_from(count).map_or(chunk.len(), |count| count.min(chunk.len()));
            count -= passed as u64;
            self.chunk = chunk.split_off(passed);
        }
        Ok(())
    }

    /// Waits for the next piece; `None` at the end.
    fn next_chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        let chunk = self.wait_for_chunk()?;
        if let Some(chunk) = &chunk {
            self.pace.bytes += chunk.len() as u64;
            self.check_pace()?;
        }
        Ok(chunk)
    }

    fn wait_for_chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        let started = Instant::now();
        let next = self.runtime.block_on(async {
            tokio::time::timeout(self.timeouts.answer, self.incoming.frame()).await
        });
        self.pace.waited += started.elapsed();
        let host = || self.host.clone();
        match next {
            Err(_) => Err(HttpError::Silent { host: host(), waited: self.timeouts.answer }),
            Ok(Some(Err(error))) => Err(HttpError::Broken { host: host(), source: error.into() }),
            Ok(None) => Ok(None),
            // Trailers carry no content.
            Ok(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
        }
    }

    /// Fails if the last window brought too little.
    fn check_pace(&mut self) -> Result<(), HttpError> {
        if self.pace.waited < self.timeouts.rate_window {
            return Ok(());
        }
        let Pace { waited, bytes } = std::mem::take(&mut self.pace);
        if bytes >= waited.as_secs().max(1) * RATE_BYTES_PER_SECOND_MIN {
            return Ok(());
        }
        Err(HttpError::Slow { host: self.host.clone(), bytes, waited })
    }
}

/// What a registry's error document says, made fit to be shown (distribution-spec, "Error Codes").
pub(super) fn error_message(body: Body) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<OneError>,
    }
    #[derive(serde::Deserialize)]
    struct OneError {
        message: Option<String>,
        code: Option<String>,
    }
    let bytes = body.read_small(ERROR_BYTES_MAX).ok().flatten().unwrap_or_default();
    let errors = serde_json::from_slice::<Errors>(&bytes).map(|errors| errors.errors);
    let first = errors.unwrap_or_default().into_iter().next();
    first
        .and_then(|error| error.message.or(error.code))
        .map(|text| shown(&text))
        .unwrap_or_default()
}
