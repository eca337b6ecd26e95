//! A layer's blob as one stream, over as many answers as it takes.
//!
//! What came is unpacked at once, so a transfer that breaks off goes on from the next byte: of a
//! part (RFC 9110, section 14.2), or of a whole whose beginning is passed over. It begins so where
//! an earlier pull has left off. Nothing is trusted to fit together: the reader of the stream
//! digests all of it.

use std::io::{self, Read};

use hyper::StatusCode;
use hyper::header::{self, HeaderMap};

use super::body::Body;
use super::http::{Answer, Ask, HttpError};
use super::registry::Registry;
use super::registry_error::RegistryError;
use super::retry::{Patience, try_again};
use super::url::Url;
use crate::LayerDescriptor;

/// After so many bytes the tries are counted anew: a large layer over a bad link gets on, and one
/// that comes byte by byte does not take for ever.
const PROGRESS_BYTES: u64 = 1 << 20;

/// A blob on its way.
pub(super) struct Resuming<'a> {
    registry: &'a Registry,
    url: Url,
    what: String,
    blob_bytes: u64,
    body: Body,
    /// The answer says how long it is, so an end that comes early is no accident.
    has_length: bool,
    /// The byte of the blob that is handed on next.
    position: u64,
    patience: Patience,
    /// Where `position` was when `patience` began.
    patient_since: u64,
}

impl<'a> Resuming<'a> {
    /// Waits for the head of the first answer that gives the blob from the byte `from` on.
    pub(super) fn open(
        registry: &'a Registry,
        layer: &LayerDescriptor,
        from: u64,
        what: String,
    ) -> Result<Resuming<'a>, RegistryError> {
        let timeouts = registry.http.timeouts;
        let url = registry.url_of(&format!("blobs/{}", layer.digest));
        let (has_length, body) = try_again(timeouts, || get_rest(registry, &url, from, &what))?;
        Ok(Resuming {
            registry,
            url,
            what,
            blob_bytes: layer.blob_bytes,
            has_length,
            body,
            position: from,
            patience: Patience::new(timeouts),
            patient_since: from,
        })
    }

    /// Goes on at `position`, after `error`; fails where that would not help.
    fn resume(&mut self, error: HttpError) -> Result<(), RegistryError> {
        let mut error = self.http_error(error);
        if self.position - self.patient_since >= PROGRESS_BYTES {
            self.patience = Patience::new(self.registry.http.timeouts);
            self.patient_since = self.position;
        }
        loop {
            self.patience.wait(error)?;
            match get_rest(self.registry, &self.url, self.position, &self.what) {
                Ok(rest) => {
                    (self.has_length, self.body) = rest;
                    return Ok(());
                }
                Err(failed) => error = failed,
            }
        }
    }

    fn http_error(&self, source: HttpError) -> RegistryError {
        RegistryError::Http { url: self.url.to_string(), source }
    }
}

impl Read for Resuming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let error = match self.body.read_some(buffer) {
                Ok(0) if self.position < self.blob_bytes && !self.has_length => {
                    HttpError::Ended { host: self.url.authority(), bytes: self.position }
                }
                Ok(count) => {
                    self.position += count as u64;
                    return Ok(count);
                }
                Err(error) => error,
            };
            self.resume(error).map_err(io::Error::other)?;
        }
    }
}

/// Asks for the blob at `url` from the byte `position` on, once: whether the answer says how long
/// it is, and its body.
fn get_rest(
    registry: &Registry,
    url: &Url,
    position: u64,
    what: &str,
) -> Result<(bool, Body), RegistryError> {
    let ask = Ask { from_byte: position, ..Ask::whole("*/*") };
    let answer = match registry.get(url, ask, what) {
        Ok(answer) if is_rest(&answer, position) => {
            return Ok((has_length(&answer), answer.body));
        }
        Ok(answer) if answer.status == StatusCode::OK => answer,
        // Parts are not to be had, or not the right ones.
        Ok(_) | Err(RegistryError::Status { status: 416, .. }) => {
            registry.get(url, Ask::whole("*/*"), what)?
        }
        Err(error) => return Err(error),
    };
    let (has_length, mut body) = (has_length(&answer), answer.body);
    let passed = body.skip(position);
    passed.map_err(|source| RegistryError::Http { url: url.to_string(), source })?;
    Ok((has_length, body))
}

fn has_length(answer: &Answer) -> bool {
    answer.headers.contains_key(header::CONTENT_LENGTH)
}

/// Whether this is the blob from `position` on.
fn is_rest(answer: &Answer, position: u64) -> bool {
    let is_part = answer.status == StatusCode::PARTIAL_CONTENT;
    position == 0 && !is_part || is_part && range_start(&answer.headers) == Some(position)
}

/// The first byte of `Content-Range: bytes FIRST-LAST/ALL` (RFC 9110, section 14.4).
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (first, _) = range.strip_prefix("bytes ")?.split_once('-')?;
    first.parse().ok()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn reads_where_a_part_begins() {
        let start = |text: &str| {
            let value = HeaderValue::try_from(text).unwrap();
            range_start(&HeaderMap::from_iter([(header::CONTENT_RANGE, value)]))
        };
        assert_eq!(start("bytes 5-9/10"), Some(5));
        assert_eq!(start("bytes 5-9/*"), Some(5));
        for text in ["", "5-9/10", "bytes */10", "items 5-9/10", "bytes x-9/10"] {
            assert_eq!(start(text), None, "{text}");
        }
        assert_eq!(range_start(&HeaderMap::new()), None);
    }
}
