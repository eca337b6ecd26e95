//! An image in a registry (`docker://`).
//!
//! OCI distribution-spec v1.1, "Pull". A registry that refuses is shown what `login` has for it,
//! once a request. Redirects are followed a few times, never from HTTPS to a plain host that is not
//! listed, and without credentials when they lead to another host. What comes after a failure is
//! decided in `retry` for documents and in `resume` for layers.

use std::io::Read;
use std::sync::{Mutex, PoisonError};

use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderValue};

use super::body::error_message;
use super::http::{Answer, Ask, Http};
use super::login::Login;
use super::registry_error::RegistryError;
use super::resume::Resuming;
use super::retry::{retry_after, try_again};
use super::url::Url;
use super::{Network, Source, SourceError, Top};
use crate::document::{ACCEPTED, DOCUMENT_BYTES_MAX, Descriptor};
use crate::name::DOCKER_HUB;
use crate::shown::shown;
use crate::{BlobFault, Digest, LayerDescriptor, RegistryName};

/// Redirects that are followed: registries need one or two.
const REDIRECTS_MAX: usize = 5;

/// Where Docker Hub's registry is (moby `registry.DefaultV2Registry`).
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// A repository of a registry.
pub(super) struct Registry {
    pub(super) http: Http,
    name: RegistryName,
    base: Url,
    login: Login,
    /// What was last accepted or is about to be tried.
    authorization: Mutex<Option<HeaderValue>>,
}

impl Registry {
    /// Talks to nobody yet.
    pub(super) fn new(name: &RegistryName, network: Network<'_>) -> Registry {
        let http = Http::new(network.registries, network.timeouts);
        let plain = http.is_plain(&name.host);
        let host = if name.host == DOCKER_HUB { DOCKER_HUB_HOST } else { &name.host };
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
            Some(_) | None => (host, None),
        };
        let port = port.unwrap_or(if plain { 80 } else { 443 });
        let path = format!("/v2/{}", name.repository);
        let base = Url { plain, host: host.to_owned(), port, path };
        let login = Login::new(name, network);
        Registry { http, name: name.clone(), base, login, authorization: Mutex::new(None) }
    }

    /// Gets a document of at most [`DOCUMENT_BYTES_MAX`] bytes, and its media type; again if that
    /// may help.
    fn get_document(
        &self,
        path: &str,
        what: &str,
    ) -> Result<(Vec<u8>, Option<String>), RegistryError> {
        let url = self.url_of(path);
        let accept = ACCEPTED.join(", ");
        try_again(self.http.timeouts, || {
            let answer = self.get(&url, Ask::whole(&accept), what)?;
            let media_type = media_type(&answer.headers);
            let bytes = answer.body.read_small(DOCUMENT_BYTES_MAX);
            let bytes =
                bytes.map_err(|source| RegistryError::Http { url: url.to_string(), source })?;
            match bytes {
                Some(bytes) => Ok((bytes, media_type)),
                None => Err(RegistryError::TooLarge { what: what.to_owned() }),
            }
        })
    }

    pub(super) fn url_of(&self, path: &str) -> Url {
        Url { path: format!("{}/{path}", self.base.path), ..self.base.clone() }
    }

    /// Asks once, and once more with what `login` has. The answer is a whole, or a part if that was
    /// asked for.
    pub(super) fn get(&self, url: &Url, ask: Ask<'_>, what: &str) -> Result<Answer, RegistryError> {
        let used = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut got = follow(&self.http, url, ask, used.as_ref())?;
        // Another host's wish to see credentials is not this registry's.
        if got.answer.status == StatusCode::UNAUTHORIZED && got.url.has_origin_of(&self.base) {
            // Nothing was shown yet, or it has expired: one more, and only one.
            if let Some(new) = self.log_in(&got.answer.headers, used.as_ref())? {
                got = follow(&self.http, url, ask, Some(&new))?;
            }
        }
        let Followed { url, answer } = got;
        let is_part = answer.status == StatusCode::PARTIAL_CONTENT && ask.from_byte > 0;
        if answer.status == StatusCode::OK || is_part {
            return Ok(answer);
        }
        let status = answer.status;
        let retry_after = retry_after(&answer.headers);
        let message = error_message(answer.body);
        Err(match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { what: what.to_owned() },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if url.has_origin_of(&self.base) => {
                self.login.refusal(what.to_owned(), message)
            }
            status => {
                let (status, url) = (status.as_u16(), url.to_string());
                RegistryError::Status { status, url, message, retry_after }
            }
        })
    }

    /// What to ask with after a refusal, unless another thread has just got something newer than
    /// `used`.
    fn log_in(
        &self,
        refused: &HeaderMap,
        used: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let mut kept = self.authorization.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref() != used {
            return Ok(kept.clone());
        }
        let new = self.login.answer(&self.http, refused, used)?;
        if new.is_some() {
            kept.clone_from(&new);
        }
        Ok(new)
    }

    /// Gets a manifest or index by tag or digest.
    fn get_manifest(&self, name: &str, digest: Option<Digest>) -> Result<Top, RegistryError> {
        let what = format!("`{}` in {}", name, self.name.repository);
        let (bytes, media_type) = self.get_document(&format!("manifests/{name}"), &what)?;
        let got = check_digest(&bytes, digest, what)?;
        Ok(Top { bytes, digest: got, media_type })
    }

    fn error(&self, source: RegistryError) -> SourceError {
        let (host, source) = (self.name.host.clone(), Box::new(source));
        SourceError::Registry { host, mirrors: None, source }
    }
}

/// An answer, and who gave it in the end.
pub(super) struct Followed {
    pub(super) url: Url,
    pub(super) answer: Answer,
}

/// Asks `url`, and what it redirects to. `authorization` goes to the host of `url` alone, over the
/// same scheme and port.
pub(super) fn follow(
    http: &Http,
    url: &Url,
    ask: Ask<'_>,
    authorization: Option<&HeaderValue>,
) -> Result<Followed, RegistryError> {
    let first = url;
    let mut url = url.clone();
    let mut location = String::new();
    for _ in 0..=REDIRECTS_MAX {
        let authorization = authorization.filter(|_| url.has_origin_of(first));
        let answer = http.send(&url, ask, authorization);
        let answer =
            answer.map_err(|source| RegistryError::Http { url: url.to_string(), source })?;
        if !is_redirect(answer.status) {
            return Ok(Followed { url, answer });
        }
        let header = answer.headers.get(header::LOCATION);
        let header = header.and_then(|value| value.to_str().ok()).unwrap_or_default();
        location = header.to_owned();
        match url.join(header) {
            Some(next) => url = next,
            None => break,
        }
    }
    // A query may hold a signature that lets anyone read the blob.
    let location = shown(location.split('?').next().unwrap_or_default());
    Err(RegistryError::Redirect { url: url.to_string(), location })
}

/// The digest of `bytes`, which must be `expected` if that is known.
fn check_digest(
    bytes: &[u8],
    expected: Option<Digest>,
    what: String,
) -> Result<Digest, RegistryError> {
    let got = Digest::of(bytes);
    match expected {
        Some(expected) if expected != got => {
            Err(RegistryError::Document { what, source: BlobFault::Content { expected, got } })
        }
        Some(_) | None => Ok(got),
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// `Content-Type` without parameters.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_owned())
}

impl Source for Registry {
    fn top(&self) -> Result<Top, SourceError> {
        // The reference's digest was validated when it was parsed; its tag then is only a remark.
        let digest = self.name.digest.as_deref().and_then(|digest| digest.parse().ok());
        let name = self.name.digest.as_deref().or(self.name.tag.as_deref()).unwrap_or("latest");
        self.get_manifest(name, digest).map_err(|error| self.error(error))
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        let name = descriptor.digest.to_string();
        let top = self.get_manifest(&name, Some(descriptor.digest));
        top.map(|top| top.bytes).map_err(|error| self.error(error))
    }

    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        let what = format!("configuration {} in {}", descriptor.digest, self.name.repository);
        let bytes = self.get_document(&format!("blobs/{}", descriptor.digest), &what);
        let bytes = bytes.and_then(|(bytes, _)| {
            check_digest(&bytes, Some(descriptor.digest), what).map(|_| bytes)
        });
        bytes.map_err(|error| self.error(error))
    }

    fn layer(&self, layer: &LayerDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        self.layer_from(layer, 0)
    }

    fn knows_the_asker(&self) -> bool {
        self.login.has_shown()
    }

    fn layer_from(
        &self,
        layer: &LayerDescriptor,
        from: u64,
    ) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        let what = format!("layer {} in {}", layer.digest, self.name.repository);
        let blob = Resuming::open(self, layer, from, what).map_err(|error| self.error(error))?;
        Ok(Box::new(blob))
    }
}
